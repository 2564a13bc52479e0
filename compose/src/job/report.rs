//! The report: per kind, over all, as a table and as one JSON object.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use kms_schemas::identity::{Identity, Kind};
use serde::Serialize;

use super::audit::{Audit, Trail};
use super::observer::{ChainView, Due};
use crate::description::Description;

/// Oddities and losses that the report spells out; the rest is counted.
const MAX_NAMED: usize = 20;

/// What came of the requests (`docs/main-job.md`).
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// KMS nodes, each with a connector of its own.
    pub nodes: usize,
    /// Over all kinds.
    #[serde(flatten)]
    pub counts: Counts,
    /// Requests on which the contracts saw consensus.
    pub consensus: usize,
    /// Answers of single nodes that the chain accepted, of `requested` times `nodes`.
    pub answers_accepted: usize,
    /// Accepted requests per second, from the arrival of the first decryption request to that of the last accepted answer.
    pub throughput_per_second: f64,
    /// Over all decryptions.
    pub latency_ms: Latency,
    /// Requests that never reached the chain. They are of no kind: `requested` and `lost` are the sums over `kinds` and this.
    pub missing: usize,
    /// Requests that were on the chain before the load began, of an earlier one. They are judged with the others; of latencies and throughput
    /// they are no part.
    pub before: usize,
    /// Per kind, in the order of the protocol.
    pub kinds: Vec<KindReport>,
    /// From the start of the program until everything was ready.
    pub seconds_to_ready: f64,
    /// Fetching alone, within `seconds_to_ready`.
    pub seconds_fetching: f64,
    /// From the start of the program until the first accepted answer.
    pub seconds_to_first_accepted: Option<f64>,
    /// From the start of the program until the report.
    pub seconds_total: f64,
    /// What is missing, doubled or should not be there; at most 20 lines.
    pub problems: Vec<String>,
}

/// Counts of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Request events on the chain; over all, also those that were to be made and never reached it (`missing`).
    pub requested: usize,
    /// Requests for which every node's topics hold a result.
    pub answered: usize,
    /// Requests whose answer the chain accepted from every node, exactly once each, seen from the response events. Where the
    /// protocol has no answer on chain, and where the chain took the request back: those that every node settled.
    pub accepted: usize,
    /// Requests for which some node lacks the request record, the outcome, the settled submission, or the accepted answer.
    pub lost: usize,
    /// Requests for which some node has more than one of these.
    pub doubled: usize,
}

/// Counts and latencies of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// Kind of request, snake case.
    pub name: &'static str,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// From the arrival of the request's block to the arrival of the block with the accepted answer, per node.
    pub latency_ms: Latency,
}

/// Percentiles in milliseconds; none without a measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

impl Report {
    /// Of a load after which `wanted` requests are to be on the chain.
    pub(super) fn new(
        wanted: usize,
        stack: &Description,
        chain: &ChainView,
        audit: &Audit,
        times: &Times,
        surroundings: Surroundings,
    ) -> Self {
        let signers: Vec<Address> = stack.nodes.iter().map(|node| node.signer).collect();
        let mut problems = Problems::default();
        // First, since they are most often why the rest is missing.
        surroundings.ended.into_iter().for_each(|line| problems.add(line));
        let mut kinds: BTreeMap<Kind, (Counts, Histogram<u64>)> = BTreeMap::new();
        let mut decryptions = histogram();
        let (mut answers_accepted, mut before, mut decrypted) = (0, 0, 0);
        let (mut first_request, mut first_answer, mut last_answer) =
            (None::<Instant>, None::<Instant>, None::<Instant>);
        for (name, seen) in &chain.requests {
            let (counts, latencies) = kinds.entry(name.kind).or_insert_with(|| (Counts::default(), histogram()));
            let verdict = judge(name, chain, audit, &signers);
            counts.add(&verdict, &mut problems, name);
            answers_accepted += chain.accepted(name, &signers).flatten().count();
            if seen.before {
                before += 1;
                continue;
            }
            let is_decryption = name.kind.lane() == Kind::PublicDecryption.lane();
            if is_decryption {
                decrypted += usize::from(verdict.accepted);
                first_request = Some(first_request.map_or(seen.arrived, |first| first.min(seen.arrived)));
            }
            for arrived in chain.accepted(name, &signers).flatten() {
                let latency = arrived.saturating_duration_since(seen.arrived);
                let millis = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
                latencies.saturating_record(millis);
                first_answer = Some(first_answer.map_or(arrived, |first| first.min(arrived)));
                if is_decryption {
                    decryptions.saturating_record(millis);
                    last_answer = Some(last_answer.map_or(arrived, |last| last.max(arrived)));
                }
            }
        }
        let mut total = Counts::default();
        kinds.values().for_each(|(counts, _)| total.merge(counts));
        let missing = wanted.saturating_sub(total.requested);
        if missing > 0 {
            problems.add(format!("{missing} requests never reached the chain"));
            total.merge(&Counts::missing(missing));
        }
        for oddity in chain.oddities.iter().chain(&audit.oddities) {
            problems.add(oddity.clone());
        }
        // What is down or paused explains what is missing, and is no problem by itself.
        if !problems.is_empty() {
            problems.explain(surroundings.reasons);
        }
        let span = match (first_request, last_answer) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        };
        Self {
            nodes: stack.nodes.len(),
            counts: total,
            consensus: chain.consensus.len(),
            answers_accepted,
            throughput_per_second: if span.is_zero() { 0.0 } else { decrypted as f64 / span.as_secs_f64() },
            latency_ms: latency(&decryptions),
            missing,
            before,
            kinds: kinds
                .iter()
                .map(|(kind, (counts, latencies))| KindReport {
                    name: kind.as_str(),
                    counts: *counts,
                    latency_ms: latency(latencies),
                })
                .collect(),
            seconds_to_ready: times.seconds_to_ready,
            seconds_fetching: times.fetching.as_secs_f64(),
            seconds_to_first_accepted: first_answer
                .map(|first| first.saturating_duration_since(times.begun).as_secs_f64()),
            seconds_total: times.begun.elapsed().as_secs_f64(),
            problems: problems.named(),
        }
    }

    /// Every request was accepted on chain from every node exactly once, nothing was lost or doubled, and nothing odd was seen.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.counts.accepted == self.counts.requested
            && self.counts.lost == 0
            && self.counts.doubled == 0
            && self.problems.is_empty()
    }

    pub(super) fn headline(&self) -> String {
        let Counts { requested, accepted, lost, doubled, .. } = self.counts;
        format!("{accepted} of {requested} accepted, {lost} lost, {doubled} doubled")
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["", "requested", "answered", "accepted", "lost", "doubled", "p50 ms", "p99 ms"]);
        let mut row = |name: &str, counts: &Counts, latency: &Latency| {
            let millis = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"));
            table.add_row([
                name.to_owned(),
                counts.requested.to_string(),
                counts.answered.to_string(),
                counts.accepted.to_string(),
                counts.lost.to_string(),
                counts.doubled.to_string(),
                millis(latency.p50),
                millis(latency.p99),
            ]);
        };
        for kind in &self.kinds {
            row(kind.name, &kind.counts, &kind.latency_ms);
        }
        if self.missing > 0 {
            row("(never on chain)", &Counts::missing(self.missing), &Latency::default());
        }
        row("all (latency: decryptions)", &self.counts, &self.latency_ms);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut lines = vec![table.to_string()];
        lines.push(format!(
            "{} node{}, {} answers accepted, consensus on {} requests, {:.1} decryptions/s",
            self.nodes,
            if self.nodes == 1 { "" } else { "s" },
            self.answers_accepted,
            self.consensus,
            self.throughput_per_second
        ));
        if self.before > 0 {
            lines.push(format!(
                "{} of the requests were on the chain before, and are judged with the others",
                self.before
            ));
        }
        let first = self
            .seconds_to_first_accepted
            .map_or_else(String::new, |first| format!(", first answer accepted after {first:.1} s"));
        lines.push(format!(
            "ready after {:.1} s (fetching {:.1} s){first}, {:.1} s in all",
            self.seconds_to_ready, self.seconds_fetching, self.seconds_total
        ));
        lines.extend(self.problems.iter().map(|problem| format!("! {problem}")));
        lines.join("\n")
    }
}

/// Moments of the run.
pub(super) struct Times {
    /// When the program started.
    pub(super) begun: Instant,
    /// From then until the stack was ready.
    pub(super) seconds_to_ready: f64,
    /// Fetching, within that.
    pub(super) fetching: Duration,
}

/// What the stack's processes are seen to do at the end.
#[derive(Default)]
pub(super) struct Surroundings {
    /// What has ended, in words: a problem.
    pub(super) ended: Vec<String>,
    /// What does not answer, and who has paused what, in words: said where something else is a problem.
    pub(super) reasons: Vec<String>,
}

/// What is known of one request over all nodes.
struct Judgement {
    answered: bool,
    accepted: bool,
    lost: Option<String>,
    doubled: Option<String>,
}

fn judge(name: &Identity, chain: &ChainView, audit: &Audit, signers: &[Address]) -> Judgement {
    let empty = Trail::default();
    let answers = chain.answers.get(name);
    let mut verdict = Judgement { answered: true, accepted: true, lost: None, doubled: None };
    for (index, signer) in signers.iter().enumerate() {
        let trail = audit.trails.get(index).and_then(|trails| trails.get(name)).unwrap_or(&empty);
        let on_chain = answers.and_then(|answers| answers.get(signer)).map_or(0, Vec::len);
        let due = chain.due(name);
        let accepted = match due {
            Due::Answer => on_chain == 1,
            Due::Settlement => on_chain == 0 && trail.is_whole(),
            Due::Either => on_chain == 1 || (on_chain == 0 && trail.is_whole()),
        };
        verdict.answered &= trail.results > 0;
        verdict.accepted &= accepted;
        if on_chain > 1 || trail.is_doubled() {
            verdict.doubled = Some(trail.in_words(index + 1, on_chain));
        } else if !accepted || !trail.is_whole() {
            verdict.lost = Some(trail.in_words(index + 1, on_chain));
        }
    }
    verdict
}

impl Counts {
    fn add(&mut self, verdict: &Judgement, problems: &mut Problems, name: &Identity) {
        self.requested += 1;
        self.answered += usize::from(verdict.answered);
        self.accepted += usize::from(verdict.accepted);
        self.lost += usize::from(verdict.lost.is_some());
        self.doubled += usize::from(verdict.doubled.is_some());
        for (what, text) in [("lost", &verdict.lost), ("doubled", &verdict.doubled)] {
            if let Some(text) = text {
                problems.add(format!("{what}: {} {}: {text}", name.kind, name.id));
            }
        }
    }

    /// Of requests that never reached the chain.
    fn missing(requests: usize) -> Self {
        Self { requested: requests, lost: requests, ..Self::default() }
    }

    fn merge(&mut self, other: &Self) {
        self.requested += other.requested;
        self.answered += other.answered;
        self.accepted += other.accepted;
        self.lost += other.lost;
        self.doubled += other.doubled;
    }
}

#[derive(Default)]
struct Problems {
    lines: Vec<String>,
    more: usize,
}

impl Problems {
    fn add(&mut self, line: String) {
        if self.lines.len() < MAX_NAMED {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Puts what explains the others before them.
    fn explain(&mut self, mut reasons: Vec<String>) {
        reasons.append(&mut self.lines);
        self.more += reasons.len().saturating_sub(MAX_NAMED);
        reasons.truncate(MAX_NAMED);
        self.lines = reasons;
    }

    fn named(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}

/// From a millisecond to an hour, to three digits.
fn histogram() -> Histogram<u64> {
    #[allow(clippy::expect_used)] // constant bounds that the library takes
    Histogram::new_with_bounds(1, 3_600_000, 3).expect("bounds are valid")
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    if histogram.is_empty() {
        return Latency::default();
    }
    let at = |quantile| Some(histogram.value_at_quantile(quantile) as f64);
    Latency { p50: at(0.5), p99: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_come_before_what_they_explain_however_much_that_is() {
        let mut problems = Problems::default();
        (0..25).for_each(|number| problems.add(format!("lost: {number}")));
        problems.explain(vec!["node 1: paused".to_owned()]);
        let named = problems.named();
        assert_eq!((named.len(), named[0].as_str(), named[1].as_str()), (MAX_NAMED + 1, "node 1: paused", "lost: 0"));
        assert_eq!(named[MAX_NAMED], "and 6 more");
    }
}
