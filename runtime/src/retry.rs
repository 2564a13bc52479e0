//! Delays between attempts: exponential, capped, jittered. Pure; the caller brings the randomness.

use std::time::Duration;

/// How long to wait before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Upper bound of the first delay.
    pub first: Duration,
    /// Upper bound of every delay.
    pub max: Duration,
    /// What the bound grows by from attempt to attempt.
    pub factor: f64,
}

impl Backoff {
    /// Whether the numbers make sense.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.first <= self.max && self.factor.is_finite() && self.factor >= 1.0
    }

    /// Upper bound of the delay after `failures` failures in a row (1 for the first).
    #[must_use]
    pub fn bound(&self, failures: u32) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * self.factor.powi(exponent);
        if seconds < self.max.as_secs_f64() { Duration::from_secs_f64(seconds) } else { self.max }
    }

    /// The delay: between half the bound and the bound, by `random` in `[0, 1)`. Half of it is certain, so that a retry
    /// is never immediate; half is spread, so that what failed together does not come back together.
    #[must_use]
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        self.bound(failures).mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10), factor: 2.0 };

    #[test]
    fn p6_delays_grow_to_the_cap_and_never_beyond() {
        assert_eq!(BACKOFF.bound(1), Duration::from_millis(100));
        assert_eq!(BACKOFF.bound(2), Duration::from_millis(200));
        assert_eq!(BACKOFF.bound(8), Duration::from_secs(10));
        assert_eq!(BACKOFF.bound(u32::MAX), Duration::from_secs(10));
    }

    #[test]
    fn a_delay_is_at_least_half_its_bound() {
        assert_eq!(BACKOFF.delay(1, 0.0), Duration::from_millis(50));
        assert_eq!(BACKOFF.delay(1, 1.0), Duration::from_millis(100));
    }

    #[test]
    fn numbers_without_sense_are_told() {
        assert!(!Backoff { factor: 0.5, ..BACKOFF }.is_valid());
        assert!(!Backoff { factor: f64::NAN, ..BACKOFF }.is_valid());
        assert!(!Backoff { first: Duration::from_secs(20), ..BACKOFF }.is_valid());
    }
}
