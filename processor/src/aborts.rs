//! Which generations were aborted on chain, and which contexts and epochs destroyed, as far as this process was told: what runs here
//! ends at once, also under another id and in another lane, and what comes later is not started.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use kms_schemas::identity::RequestId;
use tokio::sync::watch;

/// Ids that are remembered; the chain is asked about older ones.
const REMEMBERED: usize = 10_000;

/// The aborts of this process. An id is the preprocessing's for keys, the CRS's for CRSs, and the context's and the epoch's own.
#[derive(Debug)]
pub struct Aborts {
    known: Mutex<Known>,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    ids: BTreeSet<RequestId>,
    oldest_first: VecDeque<RequestId>,
}

impl Default for Aborts {
    fn default() -> Self {
        Self { known: Mutex::default(), news: watch::Sender::new(()) }
    }
}

impl Aborts {
    /// The chain aborted this id.
    pub fn tell(&self, id: RequestId) {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.ids.insert(id) {
                known.oldest_first.push_back(id);
            }
            while known.oldest_first.len() > REMEMBERED {
                if let Some(oldest) = known.oldest_first.pop_front() {
                    known.ids.remove(&oldest);
                }
            }
        }
        self.news.send_replace(());
    }

    /// Whether the chain is known to have aborted this id.
    #[must_use]
    pub fn has(&self, id: RequestId) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).ids.contains(&id)
    }

    /// Returns once the chain aborted one of these ids; never for none.
    pub async fn told(&self, ids: &[RequestId]) {
        if ids.is_empty() {
            return std::future::pending().await;
        }
        let mut news = self.news.subscribe();
        while !ids.iter().any(|id| self.has(*id)) {
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;

    use super::*;

    fn id(low: u64) -> RequestId {
        U256::from(low).into()
    }

    #[tokio::test]
    async fn whoever_waits_for_an_id_hears_of_it_and_of_no_other() {
        let aborts = Aborts::default();
        let ids = [id(2), id(3)];
        let mut waiting = Box::pin(aborts.told(&ids));
        assert!(futures::poll!(&mut waiting).is_pending());
        aborts.tell(id(4));
        assert!(futures::poll!(&mut waiting).is_pending());
        aborts.tell(id(3));
        assert!(futures::poll!(&mut waiting).is_ready());
        assert!(futures::poll!(Box::pin(aborts.told(&[id(4)]))).is_ready(), "also told before");
        assert!(futures::poll!(Box::pin(aborts.told(&[]))).is_pending());
    }

    #[test]
    fn p6_what_is_remembered_is_bounded() {
        let aborts = Aborts::default();
        (0..=REMEMBERED as u64).for_each(|low| aborts.tell(id(low)));
        assert!(!aborts.has(id(0)));
        assert!(aborts.has(id(1)) && aborts.has(id(REMEMBERED as u64)));
    }
}
