//! How long a result has been waiting for its chain. Pure but for the lock around it.
//!
//! Only time between two answers of a healthy node counts: an outage spends nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_runtime::retry::Backoff;

use crate::config::SubmissionConfig;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// The chain's growth up to the request's block.
    NotYet,
    /// The chain's changing its mind.
    Branch,
}

/// How long each may be waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    not_yet: Duration,
    branch: Duration,
}

/// Pauses between two looks.
const PAUSES: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 1.5 };

#[derive(Clone, Copy, Debug)]
struct Waiting {
    budget: Budget,
    looks: u32,
    spent: Duration,
    last: Instant,
}

/// The results that wait, by partition and offset. As many as the window lets in.
#[derive(Debug, Default)]
pub struct Waits {
    waiting: Mutex<HashMap<(i32, i64), Waiting>>,
}

impl Patience {
    /// As configured.
    #[must_use]
    pub fn of(submission: &SubmissionConfig) -> Self {
        Self {
            not_yet: Duration::from_millis(submission.not_yet_patience_ms),
            branch: Duration::from_millis(submission.orphan_patience_ms),
        }
    }

    fn of_budget(&self, budget: Budget) -> Duration {
        match budget {
            Budget::NotYet => self.not_yet,
            Budget::Branch => self.branch,
        }
    }
}

impl Waits {
    /// A node answered that it is to wait: the pause until the next look, or none if the budget is spent.
    pub fn again(&self, record: (i32, i64), budget: Budget, patience: &Patience, now: Instant) -> Option<Duration> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Waiting { budget, looks: 0, spent: Duration::ZERO, last: now };
        let entry = waiting.entry(record).or_insert(fresh);
        if entry.budget != budget {
            *entry = fresh;
        }
        // A longer time than the pause was an outage, or a busy process.
        let pause = PAUSES.bound(entry.looks.max(1)).saturating_mul(2);
        entry.spent += now.saturating_duration_since(entry.last).min(pause);
        entry.last = now;
        entry.looks = entry.looks.saturating_add(1);
        if entry.spent >= patience.of_budget(budget) {
            waiting.remove(&record);
            return None;
        }
        Some(PAUSES.bound(entry.looks))
    }

    /// The result waits no more.
    pub fn over(&self, record: (i32, i64)) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { not_yet: Duration::from_secs(60), branch: Duration::from_secs(5) };

    /// Looks until the budget is spent, each after the pause and `more`; the time that took and the number of looks.
    fn until_spent(budget: Budget, more: Duration) -> (Duration, u32) {
        let waits = Waits::default();
        let start = Instant::now();
        let (mut now, mut looks) = (start, 0);
        while let Some(pause) = waits.again((0, 7), budget, &PATIENCE, now) {
            now += pause + more;
            looks += 1;
        }
        (now - start, looks)
    }

    #[test]
    fn p6_waiting_ends_when_its_own_budget_is_spent() {
        let (took, _) = until_spent(Budget::NotYet, Duration::ZERO);
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(66), "{took:?}");
        let (took, _) = until_spent(Budget::Branch, Duration::ZERO);
        assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
    }

    #[test]
    fn an_outage_spends_no_more_than_the_pause_around_it() {
        let (_, calm) = until_spent(Budget::NotYet, Duration::ZERO);
        let (took, looks) = until_spent(Budget::NotYet, Duration::from_secs(600));
        assert!(looks >= calm / 2 && took > Duration::from_secs(4_000), "{looks} looks in {took:?}");
    }

    #[test]
    fn another_reason_to_wait_begins_anew() {
        let waits = Waits::default();
        let start = Instant::now();
        waits.again((0, 7), Budget::Branch, &PATIENCE, start);
        let later = start + Duration::from_millis(300);
        assert!(waits.again((0, 7), Budget::NotYet, &PATIENCE, later).is_some());
        waits.over((0, 7));
        assert!(waits.waiting.lock().unwrap().is_empty());
    }
}
