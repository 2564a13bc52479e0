//! How long a request has waited for what may heal. Pure; the caller brings the clock.
//!
//! Only the time between two looks counts at which everybody answered and what is waited for was not there. An outage in between counts
//! for nothing, and neither does a long time without a look, since then something else held the request up.
//!
//! What was spent is remembered per record. A request that is deferred, or met by a restart, waits anew.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kms_schemas::identity::Coordinates;

use crate::config::AccessConfig;

/// What is waited for; each has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Budget {
    /// A decryption's block at `latest`, or the start of its validity.
    NotYet,
    /// The finality of a request's block.
    Finality,
    /// That the block of the request comes back.
    Orphan,
    /// The context or epoch that the request names.
    Context,
    /// Access rights.
    Access,
    /// Ciphertexts and attestations that the coprocessors do not have yet.
    Ciphertexts,
}

impl Budget {
    const COUNT: usize = 6;

    const fn index(self) -> usize {
        match self {
            Self::NotYet => 0,
            Self::Finality => 1,
            Self::Orphan => 2,
            Self::Context => 3,
            Self::Access => 4,
            Self::Ciphertexts => 5,
        }
    }

    /// The configuration's key of the limit.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::NotYet => "access.not_yet_patience_ms",
            Self::Finality => "access.finality_patience_ms",
            Self::Orphan => "access.orphan_patience_ms",
            Self::Context => "access.context_patience_ms",
            Self::Access => "access.acl_patience_ms",
            Self::Ciphertexts => "access.ciphertext_patience_ms",
        }
    }

    /// Whether it is waited for after everything else was found in order.
    const fn is_last(self) -> bool {
        matches!(self, Self::Ciphertexts)
    }
}

/// Whether to go on waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spending {
    /// Look again after this time.
    Wait(Duration),
    /// The budget is used up, after so long.
    Over(Duration),
}

/// What every waiting request has spent.
#[derive(Debug)]
pub struct Patience {
    limits: [Duration; Budget::COUNT],
    pause: Duration,
    max_waiting: usize,
    waiting: Mutex<HashMap<Coordinates, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    spent: [Duration; Budget::COUNT],
    /// The last look that told "not yet", if nothing else happened since.
    last: Option<(Budget, Instant)>,
    touched: Instant,
}

/// What the coprocessors lack is mostly there a moment later: the first pause before a second look.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What nobody has looked at for so long belongs to a request that another instance serves now.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

impl Patience {
    /// With the limits of the configuration.
    #[must_use]
    pub fn new(config: &AccessConfig) -> Self {
        let millis = Duration::from_millis;
        let mut limits = [Duration::ZERO; Budget::COUNT];
        for (budget, limit) in [
            (Budget::NotYet, config.not_yet_patience_ms),
            (Budget::Finality, config.finality_patience_ms),
            (Budget::Orphan, config.orphan_patience_ms),
            (Budget::Context, config.context_patience_ms),
            (Budget::Access, config.acl_patience_ms),
            (Budget::Ciphertexts, config.ciphertext_patience_ms),
        ] {
            limits[budget.index()] = millis(limit);
        }
        Self { limits, pause: millis(config.pause_ms), max_waiting: config.max_waiting, waiting: Mutex::default() }
    }

    /// Between two looks.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        self.pause
    }

    /// Requests that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The request `at` was looked at, everybody answered, and what it waits for was not there.
    pub fn spend(&self, at: &Coordinates, budget: Budget, now: Instant) -> Spending {
        let limit = self.limits[budget.index()];
        let longest = self.pause.saturating_mul(4);
        let mut waiting = self.lock();
        if !waiting.contains_key(at) && waiting.len() >= self.max_waiting {
            make_room(&mut waiting, self.max_waiting, now);
        }
        let entry = waiting.entry(at.clone()).or_insert_with(|| Waiting {
            spent: [Duration::ZERO; Budget::COUNT],
            last: None,
            touched: now,
        });
        entry.touched = now;
        let spent = &mut entry.spent[budget.index()];
        if let Some((last, looked)) = entry.last
            && last == budget
        {
            *spent += now.saturating_duration_since(looked).min(longest);
        }
        entry.last = Some((budget, now));
        let spent = *spent;
        if spent >= limit {
            return Spending::Over(spent);
        }
        // A look for ciphertexts is dear, and many wait at once where the coprocessors are behind.
        let pause = if budget.is_last() { spent.clamp(FIRST_PAUSE.min(self.pause), longest) } else { self.pause };
        // The last look is at the end of the budget, not behind it.
        Spending::Wait(pause.min(limit - spent))
    }

    /// The request `at` was looked at, and somebody did not answer: the time since the last look does not count.
    pub fn interrupted(&self, at: &Coordinates) {
        if let Some(waiting) = self.lock().get_mut(at) {
            waiting.last = None;
        }
    }

    /// The request `at` passed its checks, and waits for none of them any more; what it waits for afterwards goes on being
    /// counted. Whether it waits for nothing now, and did before.
    pub fn passed(&self, at: &Coordinates) -> bool {
        let mut waiting = self.lock();
        let Some(entry) = waiting.get_mut(at) else { return false };
        let last = Budget::Ciphertexts.index();
        let kept = entry.spent[last];
        entry.spent = [Duration::ZERO; Budget::COUNT];
        entry.spent[last] = kept;
        entry.last = entry.last.filter(|(budget, _)| budget.is_last());
        let is_over = kept.is_zero() && entry.last.is_none();
        if is_over {
            waiting.remove(at);
        }
        is_over
    }

    /// The request `at` waits no more. Whether it did.
    pub fn settled(&self, at: &Coordinates) -> bool {
        self.lock().remove(at).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Coordinates, Waiting>> {
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Forgets who was not looked at for long; if nobody is, half of them, which then begin anew.
fn make_room(waiting: &mut HashMap<Coordinates, Waiting>, max: usize, now: Instant) {
    waiting.retain(|_, entry| now.saturating_duration_since(entry.touched) < FORGET_AFTER);
    let mut keep = max / 2;
    if waiting.len() >= max {
        waiting.retain(|_, _| {
            keep = keep.saturating_sub(1);
            keep > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Coordinates {
        Coordinates { topic: "requests".to_owned(), partition: 0, offset }
    }

    fn patience(max_waiting: usize) -> Patience {
        Patience::new(&AccessConfig {
            acl_patience_ms: 5_000,
            context_patience_ms: 3_000,
            orphan_patience_ms: 0,
            ciphertext_patience_ms: 4_000,
            pause_ms: 1_000,
            max_waiting,
            ..AccessConfig::default()
        })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn p6_waiting_ends_with_its_budget() {
        let (patience, begin) = (patience(10), Instant::now());
        for second in 0..5 {
            assert_eq!(patience.spend(&at(1), Budget::Access, begin + SECOND * second), Spending::Wait(SECOND));
        }
        assert_eq!(patience.spend(&at(1), Budget::Access, begin + SECOND * 5), Spending::Over(SECOND * 5));
        assert_eq!(
            patience.spend(&at(2), Budget::Access, begin + SECOND * 5),
            Spending::Wait(SECOND),
            "another's begins"
        );
        assert_eq!(patience.spend(&at(2), Budget::Orphan, begin), Spending::Over(Duration::ZERO), "no budget, no wait");
    }

    #[test]
    fn the_last_look_is_at_the_end_of_the_budget() {
        let (patience, begin) = (patience(10), Instant::now());
        patience.spend(&at(1), Budget::Access, begin);
        let late = begin + Duration::from_millis(3_700);
        patience.spend(&at(1), Budget::Access, late);
        let later = late + Duration::from_millis(700);
        assert_eq!(patience.spend(&at(1), Budget::Access, later), Spending::Wait(Duration::from_millis(600)));
    }

    #[test]
    fn an_outage_burns_no_budget() {
        let (patience, mut now) = (patience(10), Instant::now());
        for _ in 0..100 {
            assert_eq!(patience.spend(&at(1), Budget::Access, now), Spending::Wait(SECOND));
            patience.interrupted(&at(1));
            now += SECOND * 60;
        }
    }

    #[test]
    fn a_long_time_without_a_look_counts_as_little_more_than_a_pause() {
        let (patience, begin) = (patience(10), Instant::now());
        patience.spend(&at(1), Budget::Access, begin);
        assert_eq!(patience.spend(&at(1), Budget::Access, begin + SECOND * 3_600), Spending::Wait(SECOND));
    }

    #[test]
    fn each_budget_is_counted_by_itself() {
        let (patience, begin) = (patience(10), Instant::now());
        for second in 0..20 {
            let budget = if second % 2 == 0 { Budget::Access } else { Budget::Context };
            let spent = patience.spend(&at(1), budget, begin + SECOND * second);
            assert_eq!(spent, Spending::Wait(SECOND), "what changes makes progress");
        }
    }

    #[test]
    fn what_is_waited_for_after_the_checks_is_counted_through_them() {
        let (patience, begin) = (patience(10), Instant::now());
        patience.spend(&at(1), Budget::Access, begin);
        patience.spend(&at(1), Budget::Access, begin + SECOND);
        assert!(patience.passed(&at(1)) && patience.is_empty(), "the checks are not waited for any more");
        assert!(!patience.passed(&at(1)));
        // Soon at first, then as long after the last look as it has waited, and never behind the end.
        for (second, millis) in [(0, 100), (1, 1_000), (2, 2_000), (3, 1_000)] {
            let spent = patience.spend(&at(1), Budget::Ciphertexts, begin + SECOND * second);
            assert_eq!(spent, Spending::Wait(Duration::from_millis(millis)));
            assert!(!patience.passed(&at(1)), "the next attempt's checks");
        }
        let over = patience.spend(&at(1), Budget::Ciphertexts, begin + SECOND * 4);
        assert_eq!(over, Spending::Over(SECOND * 4));
    }

    #[test]
    fn p6_what_is_remembered_is_bounded() {
        let (patience, now) = (patience(10), Instant::now());
        for offset in 0..1_000 {
            patience.spend(&at(offset), Budget::Access, now);
        }
        assert!(patience.len() <= 10, "{}", patience.len());
        patience.settled(&at(999));
        assert!(patience.len() < 10 && !patience.is_empty());
    }
}
