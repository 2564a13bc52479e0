//! `kmsctl costs`: what answers cost, by kind, answers in a transaction and place among the nodes' answers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::U256;
use alloy::primitives::utils::format_ether;
use kms_emitter::cost::Labels;
use kms_schemas::record::{Inclusion, Submission, Verdict};
use serde_json::{Value, json};

use crate::Output;
use crate::cluster::Cluster;
use crate::error::CtlError;

/// How far a record's timestamp may be behind the time that it tells, in milliseconds: clocks of hosts, and time in a queue.
const RECORDS_DIFFER_MS: u64 = 10 * 60 * 1000;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only answers that were settled within this time: `90s`, `30m`, `24h`, `7d`.
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    since: Option<Duration>,
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and a unit: 90s, 30m, 24h, 7d".to_owned();
    let (number, seconds) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(expected)
}

pub(crate) fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<(), CtlError> {
    let topic = cluster.topics.submissions();
    let from_ms = args.since.map_or(0, since);
    let mut report = Report::default();
    for partition in 0..cluster.topic(topic)?.partitions {
        let from = match from_ms.saturating_sub(RECORDS_DIFFER_MS) {
            0 => None,
            at => match cluster.offset_at(topic, partition, i64::try_from(at).unwrap_or(i64::MAX))? {
                Some(from) => Some(from),
                None => continue,
            },
        };
        cluster.read(topic, partition, from, |record| {
            let value = record.value.as_deref().unwrap_or_default();
            match cluster.codec.decode::<Submission>(topic, value) {
                Ok(submission) if submission.settled_ms < from_ms => {}
                Ok(submission) => report.add(&submission),
                Err(_) => report.unreadable += 1,
            }
        })?;
    }
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => report.lines().into_iter().try_for_each(|line| writeln!(out, "{line}"))?,
        Output::Text => write!(out, "{}", report.table())?,
    }
    Ok(())
}

fn since(span: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(span).as_millis()).unwrap_or(u64::MAX)
}

/// What is added up together: the chain, and the labels of the metrics of the same name.
type Group = (u64, Labels);

#[derive(Clone, Debug, Default)]
struct Sum {
    /// Gas of each, L1 share included.
    gas: Vec<u64>,
    l1: u64,
    fee: u128,
}

impl Sum {
    fn add(&mut self, inclusion: &Inclusion) {
        self.gas.push(inclusion.gas_used);
        self.l1 = self.l1.saturating_add(inclusion.gas_used_for_l1);
        self.fee = self.fee.saturating_add(inclusion.fee());
    }

    fn total(&self) -> u64 {
        self.gas.iter().sum()
    }

    fn mean(&self) -> u64 {
        self.total() / (self.gas.len() as u64).max(1)
    }

    /// The lower of the two in the middle.
    fn median(&self) -> u64 {
        let mut gas = self.gas.clone();
        gas.sort_unstable();
        gas.get(gas.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }

    /// L1 share, in parts of 1000.
    fn l1_permille(&self) -> u64 {
        let total = u128::from(self.total()).max(1);
        u64::try_from(u128::from(self.l1) * 1000 / total).unwrap_or_default()
    }

    fn ether(&self) -> String {
        format_ether(U256::from(self.fee))
    }
}

#[derive(Debug, Default)]
struct Report {
    groups: BTreeMap<Group, Sum>,
    /// Answers that the contract can never accept, where a transaction was paid for.
    refused: Sum,
    /// Settled without a transaction of ours that is known.
    without: u64,
    unreadable: u64,
}

impl Report {
    fn add(&mut self, submission: &Submission) {
        let identity = submission.identity;
        match &submission.verdict {
            Verdict::Accepted(inclusion) => {
                let group = (identity.chain_id, Labels::of(identity.kind, inclusion));
                self.groups.entry(group).or_default().add(inclusion);
            }
            Verdict::Refused { inclusion: Some(inclusion), .. } => self.refused.add(inclusion),
            _ => self.without += 1,
        }
    }

    fn lines(&self) -> Vec<Value> {
        let line = |(&(chain_id, labels), sum): (&Group, &Sum)| {
            json!({
                "object": "costs", "chain_id": chain_id, "kind": labels.kind.as_str(), "batch": labels.batch,
                "order": labels.order, "answers": sum.gas.len(), "gas": sum.total(), "gas_mean": sum.mean(),
                "gas_p50": sum.median(), "gas_l1": sum.l1, "fee_wei": sum.fee.to_string(),
            })
        };
        let mut lines: Vec<Value> = self.groups.iter().map(line).collect();
        lines.push(json!({
            "object": "summary",
            "accepted": self.groups.values().map(|sum| sum.gas.len()).sum::<usize>(),
            "refused": self.refused.gas.len(), "refused_gas": self.refused.total(),
            "refused_fee_wei": self.refused.fee.to_string(),
            "without_transaction": self.without, "unreadable": self.unreadable,
        }));
        lines
    }

    fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<12}{:<20}{:<9}{:<9}{:>9}{:>11}{:>11}{:>8}  fee in ether",
            "chain", "kind", "batch", "order", "answers", "gas p50", "gas mean", "L1"
        );
        for ((chain_id, labels), sum) in &self.groups {
            let l1 = sum.l1_permille();
            let _ = writeln!(
                text,
                "{chain_id:<12}{:<20}{:<9}{:<9}{:>9}{:>11}{:>11}{:>8}  {}",
                labels.kind.as_str(),
                labels.batch,
                labels.order,
                sum.gas.len(),
                sum.median(),
                sum.mean(),
                format!("{}.{} %", l1 / 10, l1 % 10),
                sum.ether()
            );
        }
        if !self.refused.gas.is_empty() {
            let (answers, gas, fee) = (self.refused.gas.len(), self.refused.total(), self.refused.ether());
            let _ = writeln!(text, "{answers} more were refused by the contract for good: {gas} gas, {fee} ether");
        }
        if self.without > 0 {
            let _ = writeln!(text, "{} more were settled without a transaction", self.without);
        }
        if self.unreadable > 0 {
            let _ = writeln!(text, "{} records cannot be decoded", self.unreadable);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, Bytes};
    use kms_schemas::identity::{Coordinates, Identity, Kind, RequestId};

    use super::*;

    fn inclusion(gas_used: u64, answers: u32, order: Option<u32>) -> Inclusion {
        Inclusion {
            sender: Address::ZERO,
            nonce: 1,
            transaction_hash: B256::ZERO,
            block_number: 1,
            block_hash: B256::ZERO,
            gas_used,
            gas_used_for_l1: gas_used / 10,
            effective_gas_price: 1_000_000_000,
            answers: Some(answers),
            order,
        }
    }

    fn submission(verdict: Verdict) -> Submission {
        let place = Coordinates { topic: "t".to_owned(), partition: 0, offset: 0 };
        let id = RequestId(B256::ZERO);
        Submission {
            result: place.clone(),
            request: place,
            identity: Identity { chain_id: 54_321, contract: Address::ZERO, kind: Kind::PublicDecryption, id },
            verdict,
            attempts: 1,
            settled_ms: 1,
        }
    }

    #[test]
    fn answers_are_added_up_by_kind_batch_and_order() {
        let mut report = Report::default();
        for (gas, answers, order) in [(100, 32, Some(1)), (300, 40, Some(1)), (110, 32, Some(1)), (90, 1, Some(2))] {
            report.add(&submission(Verdict::Accepted(inclusion(gas, answers, order))));
        }
        let refused = Verdict::Refused {
            error: "empty".to_owned(),
            data: Bytes::new(),
            inclusion: Some(inclusion(40, 32, None)),
        };
        report.add(&submission(refused));
        report.add(&submission(Verdict::NoAnswerOnChain));

        let lines = report.lines();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            (&lines[0]["batch"], &lines[0]["order"], &lines[0]["gas_mean"]),
            (&"1".into(), &"2".into(), &90.into())
        );
        let full = &lines[1];
        assert_eq!((&full["batch"], &full["answers"]), (&"32+".into(), &3.into()));
        assert_eq!((&full["gas_p50"], &full["gas_mean"], &full["gas_l1"]), (&110.into(), &170.into(), &51.into()));
        assert_eq!(full["fee_wei"], "510000000000");
        assert_eq!((&lines[2]["accepted"], &lines[2]["refused_gas"]), (&4.into(), &40.into()));
        assert_eq!(lines[2]["without_transaction"], 1);
        let table = report.table();
        assert!(table.contains("public_decryption") && table.contains("10.0 %"), "{table}");
        assert!(table.contains("0.000000510000000000"), "{table}");
        assert!(table.contains("1 more were refused by the contract for good: 40 gas"), "{table}");
    }

    #[test]
    fn a_span_has_a_unit() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "7", "d", "1.5h", "7w", "99999999999999999999d", "é"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}
