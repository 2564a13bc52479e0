//! Whether the contracts are still of the release that a term began with.
//!
//! Contracts are upgraded in place. What is signed, which calls there are and what an error means goes by the release, so an
//! upgrade ends the term, and the account is taken up anew with the new release. It is looked for in intervals, and before an
//! answer is refused for what another release might take: a refusal is for good, and the chain may wait for every node's
//! answer, as for those that activate an epoch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_chain::event::ContractSet;
use kms_chain::release::{Release, ReleaseChoice, ReleaseError, resolve_release};
use kms_chain::rpc::Rpc;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The contracts of one destination, as they were when the term began.
pub struct Releases {
    rpc: Rpc,
    contracts: ContractSet,
    choice: ReleaseChoice,
    term: CancellationToken,
    metrics: Metrics,
    /// The last look, by when it began.
    last: Mutex<Option<(Instant, Look)>>,
    told: AtomicBool,
}

/// What a look showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// They are of the release that the term began with.
    Same,
    /// They were upgraded: the term ends.
    Upgraded,
    /// Nobody could tell: no answer, an error of a node, or contracts in the middle of an upgrade.
    Unknown {
        /// Stable code.
        code: &'static str,
        /// Why.
        text: String,
        /// Nobody answers at all.
        is_outage: bool,
    },
}

impl Releases {
    /// Of these contracts, whose release is the term's. `term` is cancelled when they were upgraded.
    #[must_use]
    pub fn new(
        rpc: Rpc,
        contracts: ContractSet,
        choice: ReleaseChoice,
        term: CancellationToken,
        metrics: Metrics,
    ) -> Self {
        Self { rpc, contracts, choice, term, metrics, last: Mutex::new(None), told: AtomicBool::new(false) }
    }

    /// Looks every so often until the term ends.
    pub async fn watch(&self, every: Duration) {
        loop {
            tokio::select! {
                () = self.term.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            self.look().await;
        }
    }

    /// What a look shows that began now or later. Those who ask at once share one.
    pub async fn look(&self) -> Look {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((began, look)) = &*last
            && *began >= asked
        {
            return look.clone();
        }
        let began = Instant::now();
        let look = self.ask().await;
        *last = Some((began, look.clone()));
        look
    }

    async fn ask(&self) -> Look {
        let release = self.contracts.release;
        let unknown = |error: &ReleaseError| {
            let is_outage = matches!(error, ReleaseError::View(view) if view.is_outage());
            Look::Unknown { code: error.code(), text: error.to_string(), is_outage }
        };
        match resolve_release(&self.rpc, &self.contracts, self.choice).await {
            // An older one is what a node shows that is behind: releases only go up.
            Ok(found) if found <= release => Look::Same,
            Ok(found) => self.upgraded(&found.to_string()),
            Err(error @ (ReleaseError::View(_) | ReleaseError::Inconsistent { .. })) => unknown(&error),
            // Whether that is served is said by the beginning of the next term.
            Err(error) => self.upgraded(&error.to_string()),
        }
    }

    fn upgraded(&self, found: &str) -> Look {
        if !self.told.swap(true, Ordering::Relaxed) {
            let (destination, release): (_, Release) = (self.metrics.destination(), self.contracts.release);
            tracing::warn!(destination, %release, found, "the contracts were upgraded; the account is taken up anew");
        }
        self.term.cancel();
        Look::Upgraded
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy::primitives::hex;
    use serde_json::Value;

    use super::*;
    use crate::node::{Answered, error, node};
    use crate::routes::tests::destination;

    /// What `getVersion()` of a host chain's contracts returns. The node is asked for the address of each.
    pub(crate) fn says(params: &Value, kms_generation: &str, protocol_config: &str) -> Answered {
        let is_config = params[0]["to"].as_str().is_some_and(|to| to.contains("9c9c"));
        let text = if is_config { protocol_config } else { kms_generation };
        let padded = format!("{:0<64}", hex::encode(text));
        Ok(Value::String(format!("0x{:064x}{:064x}{padded}", 32, text.len())))
    }

    pub(crate) fn releases(rpc: Rpc) -> (Releases, CancellationToken) {
        let term = CancellationToken::new();
        let contracts = destination(1, [0, 0x9e, 0x9c]).contracts(Release::V0_13);
        (Releases::new(rpc, contracts, ReleaseChoice::Auto, term.clone(), Metrics::of("test")), term)
    }

    #[tokio::test]
    async fn p3_an_upgrade_ends_the_term_and_an_error_of_a_node_does_not() {
        type Case = (fn(&Value) -> Answered, bool, fn(&Look) -> bool);
        let unknown: fn(&Look) -> bool = |look| matches!(look, Look::Unknown { is_outage: false, .. });
        let cases: [Case; 6] = [
            (|params| says(params, "KMSGeneration v0.1.0", "ProtocolConfig v0.1.0"), false, |look| *look == Look::Same),
            (
                |params| says(params, "KMSGeneration v0.2.0", "ProtocolConfig v0.2.0"),
                true,
                |look| *look == Look::Upgraded,
            ),
            (
                |params| says(params, "KMSGeneration v0.9.0", "ProtocolConfig v0.9.0"),
                true,
                |look| *look == Look::Upgraded,
            ),
            // One of the two is upgraded first.
            (|params| says(params, "KMSGeneration v0.2.0", "ProtocolConfig v0.1.0"), false, unknown),
            (|_| error(-32603, "internal error"), false, unknown),
            (|_| error(-32000, "header not found"), false, unknown),
        ];
        for (answers, ends, shows) in cases {
            let (releases, term) = releases(node(move |_, params| answers(params)).await);
            let look = releases.look().await;
            assert!(shows(&look) && term.is_cancelled() == ends, "{look:?}");
        }
    }

    #[tokio::test]
    async fn an_upgrade_is_noticed_though_nothing_is_refused() {
        let rpc = node(|_, params| says(params, "KMSGeneration v0.2.0", "ProtocolConfig v0.2.0")).await;
        let (releases, term) = releases(rpc);
        releases.watch(Duration::from_millis(1)).await;
        assert!(term.is_cancelled());
    }
}
