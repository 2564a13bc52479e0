//! How many requests of which kind.

use std::fmt;
use std::str::FromStr;

/// Requests that are no decryption: preprocessing, key generation, CRS generation.
pub(super) const KEY_REQUESTS: u32 = 3;

/// Weights of the decryptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Public decryptions.
    pub public: u32,
    /// Direct user decryptions.
    pub user: u32,
    /// Delegated user decryptions.
    pub delegated: u32,
}

/// One decryption of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decryption {
    Public,
    User,
    Delegated,
}

impl Default for Mix {
    fn default() -> Self {
        Self { public: 5, user: 4, delegated: 1 }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "public={},user={},delegated={}", self.public, self.user, self.delegated)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mix = Self { public: 0, user: 0, delegated: 0 };
        for part in text.split(',') {
            let (kind, weight) =
                part.split_once('=').ok_or_else(|| format!("`{part}` is not KIND=WEIGHT, e.g. public=5"))?;
            let weight = weight.trim().parse().map_err(|_| format!("`{weight}` is no weight"))?;
            match kind.trim() {
                "public" => mix.public = weight,
                "user" => mix.user = weight,
                "delegated" => mix.delegated = weight,
                other => return Err(format!("`{other}` is not one of public, user, delegated")),
            }
        }
        if mix.total() == 0 {
            return Err("all weights are 0".to_owned());
        }
        Ok(mix)
    }
}

impl Mix {
    fn total(self) -> u64 {
        u64::from(self.public) + u64::from(self.user) + u64::from(self.delegated)
    }

    /// `count` decryptions in these proportions, evenly interleaved (each next one is the kind that is furthest behind).
    pub(super) fn plan(self, count: u32) -> Vec<Decryption> {
        let kinds =
            [(Decryption::Public, self.public), (Decryption::User, self.user), (Decryption::Delegated, self.delegated)];
        let total = i64::try_from(self.total()).unwrap_or(i64::MAX);
        let mut credit = [0_i64; 3];
        let mut plan = Vec::with_capacity(count as usize);
        for _ in 0..count {
            for (credit, (_, weight)) in credit.iter_mut().zip(kinds) {
                *credit += i64::from(weight);
            }
            let chosen = (0..kinds.len()).max_by_key(|index| (credit[*index], std::cmp::Reverse(*index))).unwrap_or(0);
            credit[chosen] -= total;
            plan.push(kinds[chosen].0);
        }
        plan
    }
}

/// Most requests per second that can be asked for; as fast as possible is another setting.
const MAX_RATE: f64 = 10_000.0;
/// Most requests of one run: each is remembered until the report.
const MAX_REQUESTS: u32 = 1_000_000;

pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=MAX_RATE).contains(&rate) => Ok(rate),
        _ => Err(format!("expected requests per second up to {MAX_RATE}, or 0 for as fast as possible")),
    }
}

pub(super) fn parse_requests(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(requests) if (KEY_REQUESTS + 1..=MAX_REQUESTS).contains(&requests) => Ok(requests),
        _ => Err(format!(
            "expected {} to {MAX_REQUESTS}: every run asks for a preprocessing, a key and a CRS first, which decryptions need",
            KEY_REQUESTS + 1
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_keeps_the_proportions_and_interleaves() {
        let plan = Mix::default().plan(100);
        let count = |kind| plan.iter().filter(|one| **one == kind).count();
        assert_eq!(count(Decryption::Public), 50);
        assert_eq!(count(Decryption::User), 40);
        assert_eq!(count(Decryption::Delegated), 10);
        assert!(plan[..10].contains(&Decryption::Public) && plan[..10].contains(&Decryption::Delegated));
    }

    #[test]
    fn a_mix_reads_what_it_writes_and_names_what_it_does_not_understand() {
        assert_eq!(Mix::default().to_string().parse::<Mix>(), Ok(Mix::default()));
        assert_eq!("public=1".parse::<Mix>(), Ok(Mix { public: 1, user: 0, delegated: 0 }));
        assert!("private=1".parse::<Mix>().unwrap_err().contains("private"));
        assert!("public".parse::<Mix>().unwrap_err().contains("KIND=WEIGHT"));
        assert!("public=0".parse::<Mix>().is_err());
    }
}
