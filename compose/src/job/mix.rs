//! How many requests of which kind.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::stack::Generation;

/// Weights of the decryptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// Public decryptions.
    pub public: u32,
    /// Direct user decryptions, whose contracts are in the calldata.
    pub user: u32,
    /// Delegated user decryptions, likewise.
    pub delegated: u32,
    /// Unified user decryptions, signed by an account; generation (b).
    pub unified: u32,
    /// Unified user decryptions of a contract that says itself what it takes for a signature (ERC-1271); generation (b).
    pub wallet: u32,
}

/// One decryption of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decryption {
    Public,
    User,
    Delegated,
    Unified,
    Wallet,
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights: Vec<String> = self
            .weights()
            .into_iter()
            .zip(NAMES)
            .filter(|((_, weight), _)| *weight > 0)
            .map(|((_, weight), name)| format!("{name}={weight}"))
            .collect();
        f.write_str(&weights.join(","))
    }
}

/// Names of the weights, in the order of [`Mix::weights`].
const NAMES: [&str; 5] = ["public", "user", "delegated", "unified", "wallet"];

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mix = Self::default();
        let mut named = HashSet::new();
        for part in text.split(',') {
            let (kind, weight) =
                part.split_once('=').ok_or_else(|| format!("`{part}` is not KIND=WEIGHT, e.g. public=5"))?;
            let weight = weight.trim().parse().map_err(|_| format!("`{weight}` is no weight"))?;
            let place = match kind.trim() {
                "public" => &mut mix.public,
                "user" => &mut mix.user,
                "delegated" => &mut mix.delegated,
                "unified" => &mut mix.unified,
                "wallet" => &mut mix.wallet,
                other => return Err(format!("`{other}` is not one of {}", NAMES.join(", "))),
            };
            if !named.insert(kind.trim()) {
                return Err(format!("`{}` is named twice", kind.trim()));
            }
            *place = weight;
        }
        if mix.total() == 0 {
            return Err("all weights are 0".to_owned());
        }
        Ok(mix)
    }
}

impl Mix {
    /// Every kind that the generation has.
    #[must_use]
    pub const fn of(generation: Generation) -> Self {
        match generation {
            Generation::A => Self { public: 5, user: 4, delegated: 1, unified: 0, wallet: 0 },
            Generation::B => Self { public: 5, user: 1, delegated: 1, unified: 2, wallet: 1 },
        }
    }

    /// Whether it asks for what only generation (b) has.
    pub(super) const fn needs_unified(self) -> bool {
        self.unified > 0 || self.wallet > 0
    }

    fn weights(self) -> [(Decryption, u32); 5] {
        [
            (Decryption::Public, self.public),
            (Decryption::User, self.user),
            (Decryption::Delegated, self.delegated),
            (Decryption::Unified, self.unified),
            (Decryption::Wallet, self.wallet),
        ]
    }

    fn total(self) -> u64 {
        self.weights().into_iter().map(|(_, weight)| u64::from(weight)).sum()
    }

    /// `count` decryptions in these proportions, evenly interleaved (each next one is the kind that is furthest behind).
    pub(super) fn plan(self, count: u32) -> Vec<Decryption> {
        let kinds = self.weights();
        let total = i64::try_from(self.total()).unwrap_or(i64::MAX);
        let mut credit = [0_i64; 5];
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
        Ok(requests) if (1..=MAX_REQUESTS).contains(&requests) => Ok(requests),
        _ => Err(format!("expected 1 to {MAX_REQUESTS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_keeps_the_proportions_and_interleaves() {
        let plan = Mix::of(Generation::A).plan(100);
        let count = |kind| plan.iter().filter(|one| **one == kind).count();
        assert_eq!(count(Decryption::Public), 50);
        assert_eq!(count(Decryption::User), 40);
        assert_eq!(count(Decryption::Delegated), 10);
        assert!(plan[..10].contains(&Decryption::Public) && plan[..10].contains(&Decryption::Delegated));
    }

    #[test]
    fn a_mix_reads_what_it_writes_and_names_what_it_does_not_understand() {
        assert_eq!(Mix::of(Generation::A).to_string().parse::<Mix>(), Ok(Mix::of(Generation::A)));
        assert_eq!("public=1".parse::<Mix>(), Ok(Mix { public: 1, ..Mix::default() }));
        assert!("private=1".parse::<Mix>().unwrap_err().contains("private"));
        assert!("public".parse::<Mix>().unwrap_err().contains("KIND=WEIGHT"));
        assert!("public=0".parse::<Mix>().is_err());
        assert!("public=1,user=1, public=2".parse::<Mix>().unwrap_err().contains("`public` is named twice"));
    }
}
