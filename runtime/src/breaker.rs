//! A breaker per dependency: after some outages in a row it opens, and from then on one attempt at a time probes the
//! dependency. Pure; the caller brings clock and randomness.
//!
//! ```text
//!            outages in a row reach the threshold                 delay is over: one attempt passes
//!   Closed ─────────────────────────────────────────▶ Open ────────────────────────────────────────▶ Probing
//!     ▲  ▲                  any success                │ ▲             outage: longer delay             │ │
//!     │  └─────────────────────────────────────────────┘ └──────────────────────────────────────────────┘ │
//!     └───────────────────────────────────────────── success ─────────────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use crate::retry::Backoff;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Outages in a row that open it.
    pub threshold: u32,
    /// How long it stays open, growing with every failed probe.
    pub backoff: Backoff,
}

/// State of one dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// The dependency answers, as far as is known.
    Closed {
        /// Outages in a row so far.
        outages: u32,
    },
    /// Nothing should be sent before this instant.
    Open {
        /// When a probe may pass.
        until: Instant,
        /// Times opened in a row.
        openings: u32,
    },
    /// One attempt is on its way to find out.
    Probing {
        /// Times opened in a row.
        openings: u32,
    },
}

/// Whether an attempt may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may.
    Pass,
    /// It may, alone, and must be announced with [`Breaker::probe`].
    Probe,
    /// Not before this instant.
    HoldUntil(Instant),
    /// Not before the running probe has ended.
    HoldForProbe,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { outages: 0 }
    }
}

impl Breaker {
    /// Whether the dependency is thought to be up.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Whether an attempt may start now.
    #[must_use]
    pub fn gate(&self, now: Instant) -> Gate {
        match *self {
            Self::Closed { .. } => Gate::Pass,
            Self::Open { until, .. } if now < until => Gate::HoldUntil(until),
            Self::Open { .. } => Gate::Probe,
            Self::Probing { .. } => Gate::HoldForProbe,
        }
    }

    /// Lets one attempt pass an open breaker.
    pub fn probe(&mut self) {
        if let Self::Open { openings, .. } = *self {
            *self = Self::Probing { openings };
        }
    }

    /// The probe ended without telling anything (it was cancelled): the next attempt may probe at once.
    pub fn abandon_probe(&mut self, now: Instant) {
        if let Self::Probing { openings } = *self {
            *self = Self::Open { until: now, openings };
        }
    }

    /// The dependency answered.
    pub fn success(&mut self) {
        *self = Self::default();
    }

    /// The dependency did not answer. `random` in `[0, 1)`. An outage reported while open tells nothing new: it began
    /// before.
    pub fn outage(&mut self, now: Instant, policy: &BreakerPolicy, random: f64) {
        let open = |openings: u32| {
            let delay = policy.backoff.delay(openings, random);
            // A clock cannot overflow by a delay of configuration; if it did, the probe would be allowed at once.
            Self::Open { until: now.checked_add(delay).unwrap_or(now), openings }
        };
        *self = match *self {
            Self::Closed { outages } if outages.saturating_add(1) >= policy.threshold => open(1),
            Self::Closed { outages } => Self::Closed { outages: outages + 1 },
            Self::Probing { openings } => open(openings.saturating_add(1)),
            state @ Self::Open { .. } => state,
        };
    }

    /// How long a breaker of this state holds everybody else, for reporting.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Duration {
        match *self {
            Self::Open { until, .. } => until.saturating_duration_since(now),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        threshold: 3,
        backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(4), factor: 2.0 },
    };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.outage(now, &POLICY, 1.0);
        }
        breaker
    }

    #[test]
    fn p5_outages_between_successes_leave_it_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.outage(now, &POLICY, 1.0);
            breaker.outage(now, &POLICY, 1.0);
            breaker.success();
        }
        assert_eq!(breaker.gate(now), Gate::Pass);
    }

    #[test]
    fn outages_in_a_row_open_it_and_then_one_attempt_probes() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.gate(now), Gate::HoldUntil(now + Duration::from_secs(1)));
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.gate(later), Gate::Probe);
        breaker.probe();
        assert_eq!(breaker.gate(later), Gate::HoldForProbe);
        breaker.success();
        assert_eq!(breaker.gate(later), Gate::Pass);
    }

    #[test]
    fn p6_failed_probes_wait_longer_up_to_the_cap() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut delays = Vec::new();
        for _ in 0..4 {
            let remaining = breaker.remaining(now);
            delays.push(remaining.as_secs());
            now += remaining;
            breaker.probe();
            breaker.outage(now, &POLICY, 1.0);
        }
        assert_eq!(delays, [1, 2, 4, 4]);
    }

    #[test]
    fn outages_of_older_attempts_do_not_prolong_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let before = breaker;
        breaker.outage(now + Duration::from_millis(900), &POLICY, 1.0);
        assert_eq!(breaker, before);
    }

    #[test]
    fn a_cancelled_probe_hands_on_the_turn() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.probe();
        breaker.abandon_probe(now);
        assert_eq!(breaker.gate(now), Gate::Probe);
    }
}
