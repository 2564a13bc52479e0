//! One place per happening: log and metric together.

use std::time::Duration;

use kms_schemas::identity::Kind;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Describes every metric of this crate; called once at start.
pub fn describe() {
    describe_gauge!("kms_connector_emitter_leader", "1 while this emitter is the active one, else 0");
    describe_gauge!("kms_connector_nonces_in_flight", Unit::Count, "Nonces given out and not known to be mined");
    describe_gauge!("kms_connector_nonces_unconfirmed", Unit::Count, "Nonces that are mined and not yet final");
    describe_gauge!("kms_connector_answers_waiting", Unit::Count, "Answers without a nonce, by what they wait for");
    describe_gauge!("kms_connector_sends_waiting", Unit::Count, "Journalled transactions that wait to be sent");
    describe_gauge!(
        "kms_connector_intents_open",
        Unit::Count,
        "Records of the journal that recovery would have to read"
    );
    describe_gauge!("kms_connector_gas_figures", Unit::Count, "Kinds and sizes of answers with a known gas figure");
    describe_gauge!("kms_connector_sender_nonce", "Nonce of the transaction sender on chain");
    describe_gauge!("kms_connector_sender_balance_ether", "Balance of the transaction sender");
    describe_gauge!("kms_connector_destination_block", "Latest block of the destination that was read");
    describe_gauge!(
        "kms_connector_destination_base_fee_gwei",
        "Base fee of the destination's latest block that was read"
    );
    describe_gauge!("kms_connector_submissions_held", "1 while the contract does not accept this node, else 0");
    describe_counter!("kms_connector_sends_total", Unit::Count, "Transactions sent, by what the node said");
    describe_counter!("kms_connector_submissions_total", Unit::Count, "Settled results, by kind and verdict");
    describe_counter!("kms_connector_reverts_total", Unit::Count, "Reverts of answers, by error and class");
    describe_counter!("kms_connector_nonces_taken_total", Unit::Count, "Nonces used by a foreign transaction");
    describe_counter!("kms_connector_transactions_signed_total", Unit::Count, "Transactions signed, by why");
    describe_counter!("kms_connector_gas_estimates_total", Unit::Count, "Calls of eth_estimateGas");
    describe_counter!("kms_connector_gas_used_total", Unit::Count, "Gas used by answers, by kind");
    describe_counter!("kms_connector_results_refused_total", Unit::Count, "Results that failed verification, by code");
    describe_counter!("kms_connector_intents_journalled_total", Unit::Count, "Intents committed to the journal");
    describe_histogram!("kms_connector_journal_commit_seconds", Unit::Seconds, "Time of one commit of the journal");
    describe_histogram!("kms_connector_submission_seconds", Unit::Seconds, "From a result's intake to its settlement");
}

/// Leadership changed.
pub fn leads(leads: bool) {
    if leads {
        tracing::info!("this emitter is the active one");
    }
    gauge!("kms_connector_emitter_leader").set(if leads { 1.0 } else { 0.0 });
}

/// A batch of intents was committed.
pub fn journal_committed(intents: usize, took: Duration) {
    counter!("kms_connector_intents_journalled_total").increment(intents as u64);
    histogram!("kms_connector_journal_commit_seconds").record(took.as_secs_f64());
}

/// A node said something to a transaction.
pub fn sent(outcome: &'static str) {
    counter!("kms_connector_sends_total", "outcome" => outcome).increment(1);
}

/// A transaction is signed: for an answer the first time, again, or to fill a gap.
pub fn signing(why: &'static str) {
    counter!("kms_connector_transactions_signed_total", "why" => why).increment(1);
}

/// A result is settled.
pub fn settled(kind: Kind, verdict: &'static str, took: Option<Duration>) {
    counter!("kms_connector_submissions_total", "kind" => kind.as_str(), "verdict" => verdict).increment(1);
    if let Some(took) = took {
        histogram!("kms_connector_submission_seconds").record(took.as_secs_f64());
    }
}

/// An answer used gas.
pub fn gas_used(kind: Kind, gas: u64) {
    counter!("kms_connector_gas_used_total", "kind" => kind.as_str()).increment(gas);
}

/// A gas estimate is asked for.
pub fn estimating() {
    counter!("kms_connector_gas_estimates_total").increment(1);
}

/// An answer was refused by the chain.
pub fn reverted(error: &'static str, class: &'static str) {
    counter!("kms_connector_reverts_total", "error" => error, "class" => class).increment(1);
}

/// A nonce went to a transaction that we do not know.
pub fn nonce_taken(nonce: u64) {
    tracing::warn!(nonce, "a nonce was used by a transaction that is not the emitter's");
    counter!("kms_connector_nonces_taken_total").increment(1);
}

/// A result failed verification.
pub fn refused(code: &'static str) {
    counter!("kms_connector_results_refused_total", "code" => code).increment(1);
}

/// The contract stopped or began to accept this node.
pub fn held(error: Option<&str>) {
    match error {
        Some(error) => tracing::error!(
            code = kms_chain::codes::NODE_NOT_REGISTERED,
            error,
            "the contract does not accept this node; answers are kept until it does"
        ),
        None => tracing::info!("the contract accepts this node again"),
    }
    gauge!("kms_connector_submissions_held").set(if error.is_some() { 1.0 } else { 0.0 });
}

/// The head of the destination.
#[allow(clippy::cast_precision_loss)] // gauges are floats
pub fn head(number: u64, base_fee: u128) {
    gauge!("kms_connector_destination_block").set(number as f64);
    gauge!("kms_connector_destination_base_fee_gwei").set(base_fee as f64 / 1e9);
}

/// Sizes of everything bounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    /// Nonces in flight.
    pub in_flight: usize,
    /// Nonces mined and not final.
    pub unconfirmed: usize,
    /// Answers that wait for a nonce.
    pub queued: usize,
    /// Answers that wait for a gas estimate.
    pub unpriced: usize,
    /// Answers that the chain is being asked about, or will be after a pause.
    pub examined: usize,
    /// Answers kept until the node is registered.
    pub held: usize,
    /// Transactions that wait to be sent.
    pub sends: usize,
    /// Open records of the journal.
    pub intents: usize,
    /// Gas figures.
    pub gas_figures: usize,
    /// The account's nonce.
    pub account_nonce: u64,
}

/// Shows the sizes.
#[allow(clippy::cast_precision_loss)] // gauges are floats
pub fn levels(levels: &Levels) {
    gauge!("kms_connector_nonces_in_flight").set(levels.in_flight as f64);
    gauge!("kms_connector_nonces_unconfirmed").set(levels.unconfirmed as f64);
    for (why, count) in [
        ("nonce", levels.queued),
        ("estimate", levels.unpriced),
        ("chain", levels.examined),
        ("registration", levels.held),
    ] {
        gauge!("kms_connector_answers_waiting", "for" => why).set(count as f64);
    }
    gauge!("kms_connector_sends_waiting").set(levels.sends as f64);
    gauge!("kms_connector_intents_open").set(levels.intents as f64);
    gauge!("kms_connector_gas_figures").set(levels.gas_figures as f64);
    gauge!("kms_connector_sender_nonce").set(levels.account_nonce as f64);
}

/// The account's balance.
pub fn balance(ether: f64) {
    gauge!("kms_connector_sender_balance_ether").set(ether);
}
