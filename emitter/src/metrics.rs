//! One place per happening: log and metric together. Everything but the description belongs to one destination, by whose
//! name it is labelled.

use std::time::Duration;

use kms_schemas::identity::Kind;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::cost::Labels;
use crate::executor::Outcome;

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
    describe_gauge!(
        "kms_connector_requests_remembered",
        Unit::Count,
        "Requests known to have or to have had an answer"
    );
    describe_gauge!("kms_connector_sender_nonce", "Nonce of the transaction sender on chain");
    describe_gauge!("kms_connector_sender_balance_ether", "Balance of the transaction sender");
    describe_gauge!("kms_connector_destination_block", "Latest block of the destination that was read");
    describe_gauge!(
        "kms_connector_destination_base_fee_gwei",
        "Base fee of the destination's latest block that was read"
    );
    describe_gauge!(
        "kms_connector_submissions_held",
        Unit::Count,
        "Answers that the contract does not accept from this node, kept until it does"
    );
    describe_counter!("kms_connector_sends_total", Unit::Count, "Transactions sent, by what the node said");
    describe_counter!("kms_connector_submissions_total", Unit::Count, "Settled results, by kind and verdict");
    describe_counter!("kms_connector_reverts_total", Unit::Count, "Reverts of answers, by error and class");
    describe_counter!("kms_connector_nonces_taken_total", Unit::Count, "Nonces used by a foreign transaction");
    describe_counter!("kms_connector_transactions_signed_total", Unit::Count, "Transactions signed, by why");
    describe_gauge!(
        "kms_connector_emitter_paused",
        "1 while a person's command keeps this account from sending, else 0"
    );
    describe_counter!("kms_connector_commands_total", Unit::Count, "Outcomes of people's commands, by action and end");
    describe_counter!("kms_connector_commands_unreadable_total", Unit::Count, "Records that are no command");
    describe_counter!("kms_connector_gas_estimates_total", Unit::Count, "Calls of eth_estimateGas");
    describe_counter!(
        "kms_connector_simulations_total",
        Unit::Count,
        "Calls of answers before they were sent, where one was likely to fail, by what they showed"
    );
    describe_counter!("kms_connector_gas_used_total", Unit::Count, "Gas used by answers, by kind and share");
    describe_counter!(
        "kms_connector_answers_accepted_total",
        Unit::Count,
        "Accepted answers, by kind, answers in the transaction and place among the nodes' answers to the request"
    );
    describe_counter!(
        "kms_connector_answers_gas_total",
        Unit::Count,
        "Gas of accepted answers, by kind, answers in the transaction, place among the nodes' answers, and share"
    );
    describe_counter!(
        "kms_connector_answers_fee_gwei_total",
        Unit::Count,
        "Fees of accepted answers in gwei, by kind, answers in the transaction and place among the nodes' answers"
    );
    describe_gauge!("kms_connector_emitter_batches", "1 while answers leave in batches, 0 while one by one");
    describe_histogram!("kms_connector_transaction_records", Unit::Count, "Answers in one signed transaction");
    describe_counter!("kms_connector_batch_answers_total", Unit::Count, "Answers in mined batches, by outcome");
    describe_counter!("kms_connector_results_refused_total", Unit::Count, "Results that failed verification, by code");
    describe_counter!(
        "kms_connector_proofs_total",
        Unit::Count,
        "Results held against the destination's own view of the chain, by what it showed"
    );
    describe_counter!("kms_connector_results_left_total", Unit::Count, "Results of another destination, left alone");
    describe_counter!(
        "kms_connector_destination_reorganisations_total",
        Unit::Count,
        "Times that blocks which were read were not on the chain any more"
    );
    describe_counter!("kms_connector_destination_failures_total", Unit::Count, "Terms that failed, by code");
    describe_counter!("kms_connector_intents_journalled_total", Unit::Count, "Intents committed to the journal");
    describe_histogram!("kms_connector_journal_commit_seconds", Unit::Seconds, "Time of one commit of the journal");
    describe_counter!("kms_connector_signer_failures_total", Unit::Count, "Failed calls of AWS KMS, by reason");
    describe_histogram!("kms_connector_signer_seconds", Unit::Seconds, "Time of one signature by AWS KMS");
    describe_histogram!("kms_connector_submission_seconds", Unit::Seconds, "From a result's intake to its settlement");
}

/// The happenings of one destination.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Its name; there are as many as the configuration lists.
    destination: &'static str,
}

impl Metrics {
    /// Those of the destination of this name.
    #[must_use]
    pub const fn of(destination: &'static str) -> Self {
        Self { destination }
    }

    /// Name of the destination.
    #[must_use]
    pub const fn destination(self) -> &'static str {
        self.destination
    }

    /// Leadership changed.
    pub fn leads(self, leads: bool) {
        if leads {
            tracing::info!(destination = self.destination, "this emitter is the active one");
        }
        gauge!("kms_connector_emitter_leader", "destination" => self.destination).set(if leads { 1.0 } else { 0.0 });
    }

    /// Blocks that were read are not on the chain any more.
    pub fn reorganised(self, head: u64, account_nonce: u64) {
        tracing::warn!(destination = self.destination, head, account_nonce, "the destination was reorganised");
        counter!("kms_connector_destination_reorganisations_total", "destination" => self.destination).increment(1);
    }

    /// A term ended by a failure.
    pub fn failed(self, code: &'static str, reason: &str, pause: Option<Duration>) {
        match pause {
            Some(pause) => tracing::error!(
                destination = self.destination,
                code,
                reason,
                pause_s = pause.as_secs_f64(),
                "a destination failed and starts anew after a pause; the others go on"
            ),
            None => tracing::error!(destination = self.destination, code, reason, "a destination failed"),
        }
        counter!("kms_connector_destination_failures_total", "destination" => self.destination, "code" => code)
            .increment(1);
    }

    /// A batch of intents was committed.
    pub fn journal_committed(self, intents: usize, took: Duration) {
        counter!("kms_connector_intents_journalled_total", "destination" => self.destination).increment(intents as u64);
        histogram!("kms_connector_journal_commit_seconds", "destination" => self.destination)
            .record(took.as_secs_f64());
    }

    /// A person's command was read.
    pub fn command(self, action: &'static str, who: &str, offset: i64) {
        tracing::warn!(destination = self.destination, action, who, offset, "a command");
    }

    /// What came of it.
    pub fn commanded(self, action: &'static str, end: &'static str, text: &str, offset: i64) {
        tracing::info!(destination = self.destination, action, end, text, offset, "the outcome of a command");
        counter!("kms_connector_commands_total", "destination" => self.destination, "action" => action, "end" => end)
            .increment(1);
    }

    /// Something in the commands topic is no command.
    pub fn command_unreadable(self, offset: i64, reason: &str) {
        let code = crate::codes::COMMAND_UNREADABLE;
        tracing::warn!(destination = self.destination, code, offset, reason, "a record is no command and is ignored");
        counter!("kms_connector_commands_unreadable_total", "destination" => self.destination).increment(1);
    }

    /// A person's command keeps answers from being sent, or does so no more.
    pub fn paused(self, paused: bool) {
        gauge!("kms_connector_emitter_paused", "destination" => self.destination).set(if paused { 1.0 } else { 0.0 });
    }

    /// A signer elsewhere did not do its work.
    pub fn signer_failed(self, reason: &'static str) {
        counter!("kms_connector_signer_failures_total", "destination" => self.destination, "reason" => reason)
            .increment(1);
    }

    /// A signer elsewhere signed.
    pub fn signer_signed(self, took: Duration) {
        histogram!("kms_connector_signer_seconds", "destination" => self.destination).record(took.as_secs_f64());
    }

    /// A node said something to a transaction.
    pub fn sent(self, outcome: &'static str) {
        counter!("kms_connector_sends_total", "destination" => self.destination, "outcome" => outcome).increment(1);
    }

    /// A transaction is signed: for an answer the first time, again, or to fill a gap.
    pub fn signing(self, why: &'static str) {
        counter!("kms_connector_transactions_signed_total", "destination" => self.destination, "why" => why)
            .increment(1);
    }

    /// A result is settled.
    pub fn settled(self, kind: Kind, verdict: &'static str, took: Option<Duration>) {
        counter!(
            "kms_connector_submissions_total",
            "destination" => self.destination, "kind" => kind.as_str(), "verdict" => verdict
        )
        .increment(1);
        if let Some(took) = took {
            histogram!("kms_connector_submission_seconds", "destination" => self.destination)
                .record(took.as_secs_f64());
        }
    }

    /// An answer used gas.
    pub fn gas_used(self, kind: Kind, gas: u64, gas_for_l1: u64) {
        for (share, gas) in [("execution", gas.saturating_sub(gas_for_l1)), ("l1", gas_for_l1)] {
            counter!(
                "kms_connector_gas_used_total",
                "destination" => self.destination, "kind" => kind.as_str(), "share" => share
            )
            .increment(gas);
        }
    }

    /// An answer was accepted, and what it cost.
    pub fn cost(self, labels: Labels, execution: u64, l1: u64, fee_gwei: u64) {
        let Labels { kind, batch, order } = labels;
        let (destination, kind) = (self.destination, kind.as_str());
        counter!(
            "kms_connector_answers_accepted_total",
            "destination" => destination, "kind" => kind, "batch" => batch, "order" => order
        )
        .increment(1);
        counter!(
            "kms_connector_answers_fee_gwei_total",
            "destination" => destination, "kind" => kind, "batch" => batch, "order" => order
        )
        .increment(fee_gwei);
        for (share, gas) in [("execution", execution), ("l1", l1)] {
            counter!(
                "kms_connector_answers_gas_total",
                "destination" => destination, "kind" => kind, "batch" => batch, "order" => order, "share" => share
            )
            .increment(gas);
        }
    }

    /// A transaction with so many answers is signed.
    #[allow(clippy::cast_precision_loss)] // histograms are floats
    pub fn packed(self, answers: usize) {
        histogram!("kms_connector_transaction_records", "destination" => self.destination).record(answers as f64);
    }

    /// What a batch's receipt says of one answer.
    pub fn batch_item(self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Recorded => "recorded",
            Outcome::Reverted(_) => "reverted",
            Outcome::NoGas => "no_gas",
            Outcome::OwnAccount => "own_account",
            Outcome::Silent => "silent",
        };
        counter!("kms_connector_batch_answers_total", "destination" => self.destination, "outcome" => outcome)
            .increment(1);
    }

    /// Answers leave in batches from now on, or one by one.
    pub fn batches(self, batches: bool) {
        tracing::info!(destination = self.destination, batches, "how answers leave");
        gauge!("kms_connector_emitter_batches", "destination" => self.destination).set(if batches { 1.0 } else { 0.0 });
    }

    /// A gas estimate is asked for.
    pub fn estimating(self) {
        counter!("kms_connector_gas_estimates_total", "destination" => self.destination).increment(1);
    }

    /// A call of an answer came before it was sent.
    pub fn simulated(self, outcome: &'static str) {
        counter!("kms_connector_simulations_total", "destination" => self.destination, "outcome" => outcome)
            .increment(1);
    }

    /// An answer was refused by the chain.
    pub fn reverted(self, error: &'static str, class: &'static str) {
        counter!(
            "kms_connector_reverts_total",
            "destination" => self.destination, "error" => error, "class" => class
        )
        .increment(1);
    }

    /// A nonce went to a transaction that we do not know.
    pub fn nonce_taken(self, nonce: u64) {
        tracing::warn!(
            destination = self.destination,
            nonce,
            "a nonce was used by a transaction that is not the emitter's"
        );
        counter!("kms_connector_nonces_taken_total", "destination" => self.destination).increment(1);
    }

    /// A result failed verification.
    pub fn refused(self, code: &'static str) {
        counter!("kms_connector_results_refused_total", "destination" => self.destination, "code" => code).increment(1);
    }

    /// A result was held against the chain.
    pub fn proved(self, outcome: &'static str) {
        counter!("kms_connector_proofs_total", "destination" => self.destination, "outcome" => outcome).increment(1);
    }

    /// A result is another destination's.
    pub fn left_alone(self) {
        counter!("kms_connector_results_left_total", "destination" => self.destination).increment(1);
    }

    /// The contract stopped or began to accept this node.
    pub fn held(self, error: Option<&str>) {
        match error {
            Some(error) => tracing::error!(
                destination = self.destination,
                code = kms_chain::codes::NODE_NOT_REGISTERED,
                error,
                "the contract does not accept this node; answers are kept until it does"
            ),
            None => tracing::info!(destination = self.destination, "the contract accepts this node again"),
        }
    }

    /// How many answers are kept until the contract accepts this node.
    #[allow(clippy::cast_precision_loss)] // gauges are floats
    pub fn held_now(self, answers: usize) {
        gauge!("kms_connector_submissions_held", "destination" => self.destination).set(answers as f64);
    }

    /// The head of the destination.
    #[allow(clippy::cast_precision_loss)] // gauges are floats
    pub fn head(self, number: u64, base_fee: u128) {
        gauge!("kms_connector_destination_block", "destination" => self.destination).set(number as f64);
        gauge!("kms_connector_destination_base_fee_gwei", "destination" => self.destination).set(base_fee as f64 / 1e9);
    }

    /// Shows the sizes.
    #[allow(clippy::cast_precision_loss)] // gauges are floats
    pub fn levels(self, levels: &Levels) {
        let destination = self.destination;
        gauge!("kms_connector_nonces_in_flight", "destination" => destination).set(levels.in_flight as f64);
        gauge!("kms_connector_nonces_unconfirmed", "destination" => destination).set(levels.unconfirmed as f64);
        for (why, count) in [
            ("nonce", levels.queued),
            ("estimate", levels.unpriced),
            ("chain", levels.examined),
            ("registration", levels.held),
        ] {
            gauge!("kms_connector_answers_waiting", "destination" => destination, "for" => why).set(count as f64);
        }
        self.held_now(levels.held);
        gauge!("kms_connector_sends_waiting", "destination" => destination).set(levels.sends as f64);
        gauge!("kms_connector_intents_open", "destination" => destination).set(levels.intents as f64);
        gauge!("kms_connector_gas_figures", "destination" => destination).set(levels.gas_figures as f64);
        gauge!("kms_connector_requests_remembered", "destination" => destination).set(levels.remembered as f64);
        gauge!("kms_connector_sender_nonce", "destination" => destination).set(levels.account_nonce as f64);
    }

    /// The account's balance.
    pub fn balance(self, ether: f64) {
        gauge!("kms_connector_sender_balance_ether", "destination" => self.destination).set(ether);
    }
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
    /// Requests known to have or to have had an answer.
    pub remembered: usize,
    /// The account's nonce.
    pub account_nonce: u64,
}
