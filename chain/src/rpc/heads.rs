//! How far each endpoint is, and which of them the others have left behind.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use futures::future::join_all;

use super::endpoint::Endpoint;
use super::error::OutageCause;
use super::types::EndpointHead;
use super::{Inner, Rpc};

impl Rpc {
    /// The heads of **all** endpoints, asked at the same time. An endpoint that does not answer, or is more than
    /// [`RpcConfig::max_lag_blocks`](super::RpcConfig::max_lag_blocks) behind, is marked down.
    ///
    /// With three or more endpoints "behind" is measured against the second highest head, so that one endpoint that
    /// states a head of its own invention cannot discredit the others. An old head is no sign of lag by itself: an
    /// Arbitrum chain makes no empty blocks.
    pub async fn heads(&self) -> Vec<EndpointHead> {
        let heads = self.inner.ask_heads().await;
        for (index, head) in heads.iter().enumerate() {
            if let Err(cause) = head {
                self.inner.failed(index, cause);
            }
        }
        self.inner.judge_heads(&heads);
        let stated = heads.into_iter().zip(&self.inner.endpoints).enumerate();
        stated.map(|(endpoint, (head, asked))| EndpointHead { endpoint, url: asked.url.to_string(), head }).collect()
    }
}

impl Inner {
    /// Begins a comparison of the heads, if there are several endpoints and the last one is long enough ago. Nobody waits for
    /// it. An endpoint that does not answer is left to the calls, which have other time limits.
    pub(super) fn compare_heads(self: &Arc<Self>) {
        if self.endpoints.len() < 2 {
            return;
        }
        {
            let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
            if compared.elapsed() < self.config.compare_interval {
                return;
            }
            *compared = Instant::now();
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let heads = inner.ask_heads().await;
            inner.judge_heads(&heads);
        });
    }

    /// The endpoints' heads, in their order.
    async fn ask_heads(&self) -> Vec<Result<u64, OutageCause>> {
        join_all(self.endpoints.iter().map(|endpoint| async move {
            let head = self.probe(endpoint).await?;
            endpoint.set_head(head);
            Ok(head)
        }))
        .await
    }

    /// Marks down what is far behind, and lets in what is not. Of one that is up and does not answer just now, what it said
    /// before counts.
    fn judge_heads(self: &Arc<Self>, heads: &[Result<u64, OutageCause>]) {
        let best = best(heads.iter().zip(&self.endpoints).filter_map(|(head, endpoint)| match head {
            Ok(head) => Some(*head),
            Err(_) => Some(endpoint.head()).filter(|head| endpoint.is_up() && *head > 0),
        }));
        for (index, head) in heads.iter().enumerate() {
            let Ok(head) = head else { continue };
            let (head, endpoint) = (*head, &self.endpoints[index]);
            if self.is_far_behind(head, best) {
                endpoint.labels.lagging();
                self.failed(index, &OutageCause::FarBehind { head, best });
            } else {
                endpoint.let_in();
            }
        }
    }

    /// Whether an endpoint answers again, for the right chain, and is not far behind the others.
    pub(super) async fn recovered(&self, endpoint: &Endpoint) -> Result<(), OutageCause> {
        let head = self.probe(endpoint).await?;
        endpoint.set_head(head);
        let others = self.endpoints.iter().filter(|other| other.is_up() && !std::ptr::eq(*other, endpoint));
        let others = others.map(Endpoint::head);
        let best = best(others.filter(|head| *head > 0).chain([head]));
        if self.is_far_behind(head, best) { Err(OutageCause::FarBehind { head, best }) } else { Ok(()) }
    }

    fn is_far_behind(&self, head: u64, best: u64) -> bool {
        head.saturating_add(self.config.max_lag_blocks) < best
    }
}

/// The head that the others are measured against.
fn best(heads: impl Iterator<Item = u64>) -> u64 {
    let mut heads: Vec<u64> = heads.collect();
    heads.sort_unstable_by(|a, b| b.cmp(a));
    heads.get(usize::from(heads.len() >= 3)).copied().unwrap_or(0)
}
