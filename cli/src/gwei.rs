//! An amount in gwei as people write it: `30`, `0.5`, `1.25`. Exact to the wei.

use std::str::FromStr;

/// A gwei has 10^9 wei.
const DECIMALS: usize = 9;

/// What is said in gwei, kept in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gwei {
    pub(crate) wei: u128,
}

impl FromStr for Gwei {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (whole, decimals) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !decimals.is_none_or(is_number) {
            return Err("expected gwei as 30, 0.5 or 1.25: digits, and a point where decimals follow".to_owned());
        }
        let decimals = decimals.unwrap_or_default();
        if decimals.len() > DECIMALS {
            return Err(format!(
                "{} decimals, and a gwei has no more than {DECIMALS}: the last one is a wei",
                decimals.len()
            ));
        }
        let wei = format!("{whole}{decimals:0<DECIMALS$}").parse();
        wei.map(|wei| Self { wei }).map_err(|_| "more gwei than there can be".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wei(text: &str) -> Result<u128, String> {
        text.parse::<Gwei>().map(|gwei| gwei.wei)
    }

    #[test]
    fn gwei_are_read_exactly_to_the_wei() {
        let cases = [
            ("30", 30_000_000_000),
            ("0", 0),
            ("0.5", 500_000_000),
            ("1.25", 1_250_000_000),
            ("007.10", 7_100_000_000),
            ("0.000000001", 1),
            // Beyond what a float holds.
            ("123456789012345678.987654321", 123_456_789_012_345_678_987_654_321),
            ("340282366920938463463374607431.768211455", u128::MAX),
        ];
        for (text, expected) in cases {
            assert_eq!(wei(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_of_gwei_is_refused_with_the_reason() {
        for text in
            ["", ".", ".5", "5.", "-1", "+1", "1,5", "1.2.3", "1e3", "0x10", " 1", "1_000", "ten", "٣", "1 gwei"]
        {
            let error = wei(text).unwrap_err();
            assert!(error.contains("expected gwei as 30, 0.5 or 1.25"), "{text:?}: {error}");
        }
        assert!(wei("0.0000000001").unwrap_err().starts_with("10 decimals"));
        assert!(wei("340282366920938463463374607431.768211456").unwrap_err().contains("than there can be"));
    }
}
