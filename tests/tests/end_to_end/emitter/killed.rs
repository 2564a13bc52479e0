//! The emitter is killed at each step between a result and its settlement, in batches and one by one: exactly there, and the
//! journal, the node and Kafka show that it was there.

use std::sync::Arc;

use kms_schemas::record::Intent;
use kms_stack::contracts::Made;
use kms_stack::parts::{Anvil, AnvilOptions, Kafka, KafkaOptions};
use kms_stack::supervise::Signal;
use kms_stack::{ServiceKind, StackBuilder};
use kms_tests::{eventually, new_workspace};
use serde_json::json;

use super::bench::{Bench, LIMIT, unreplaced};
use super::gate::{At, Gate, Hold};

const ANSWERS: usize = 6;

/// Calls by which a step is held.
const SEND: &str = "eth_sendRawTransaction";
const RECEIPTS: &str = "eth_getBlockReceipts";

struct World {
    bench: Bench,
    gate: Gate,
    kafka: Kafka,
    made: Vec<Made>,
}

impl World {
    /// Results whose requests are on chain; published by the step, at its moment.
    async fn more(&mut self) -> Vec<Made> {
        let more = self.bench.requests(ANSWERS).await;
        self.made.extend(more.clone());
        more
    }

    async fn publish(&self, made: &[Made]) {
        self.bench.publish(&self.bench.results(made)).await;
    }

    fn broker(&self, signal: Signal) {
        self.kafka.brokers()[0].signal(signal);
    }

    async fn metric(&self, name: &str) -> f64 {
        self.bench.stack.node().emitter().metric(name).await.unwrap_or_default()
    }

    /// Waits until a counter of the emitter has grown by so much.
    async fn grown(&self, name: &str, since: f64, by: f64) {
        eventually(&format!("{name} has grown"), LIMIT, async || (self.metric(name).await >= since + by).then_some(()))
            .await;
    }

    /// The death at this step: what was held never arrives.
    async fn killed(&self, hold: Option<Arc<Hold>>) {
        self.bench.stack.node().emitter().kill().await;
        self.gate.open();
        if let Some(hold) = hold {
            hold.lose();
        }
    }

    /// A new process ends what the killed one began: everything accepted once and settled once, and no nonce left over.
    async fn restarted(&self, step: &str) {
        self.bench.stack.node().emitter().start().await.unwrap();
        self.bench.await_all_accepted(&self.made).await;
        assert_eq!(self.bench.submissions().await.len(), self.made.len(), "{step}");
        assert_eq!(self.bench.pending().await, 0, "{step}");
        assert!(self.bench.dead_letters().await.is_empty(), "{step}");
    }

    async fn intents(&self) -> Vec<Intent> {
        self.bench.intents().await
    }

    async fn before_intent(&mut self) {
        let (more, known) = (self.more().await, self.intents().await.len());
        let hold = self.gate.hold(RECEIPTS, At::Request);
        self.publish(&more).await;
        hold.reached().await;
        self.killed(Some(hold)).await;
        assert_eq!(self.intents().await.len(), known, "it had been journalled");
        self.restarted("before the intent").await;
    }

    /// Signed, and Kafka has not said that the journal holds it.
    async fn before_the_journal_is_committed(&mut self) {
        let (more, known) = (self.more().await, self.intents().await.len());
        let nonce = self.bench.account_nonce().await;
        let signed = self.metric("kms_connector_transactions_signed_total").await;
        let hold = self.gate.hold(RECEIPTS, At::Request);
        self.publish(&more).await;
        hold.reached().await;
        self.broker(Signal::SIGSTOP);
        self.gate.open();
        hold.release();
        self.grown("kms_connector_transactions_signed_total", signed, 1.0).await;
        self.killed(None).await;
        self.broker(Signal::SIGCONT);
        assert_eq!(self.intents().await.len(), known, "the journal had been committed");
        assert_eq!(self.bench.account_nonce().await, nonce, "something had been sent");
        self.restarted("before the journal's commit").await;
    }

    async fn after_intent(&mut self) {
        let (more, known) = (self.more().await, self.intents().await.len());
        let nonce = self.bench.account_nonce().await;
        let hold = self.gate.hold(SEND, At::Request);
        self.publish(&more).await;
        hold.reached().await;
        self.killed(Some(hold)).await;
        let journalled = self.intents().await;
        assert!(journalled.len() > known, "nothing had been journalled");
        assert_eq!((self.bench.account_nonce().await, self.bench.pending().await), (nonce, 0), "it had been sent");
        self.restarted("after the intent").await;
        // The same bytes, and not new ones.
        let sent: Vec<_> = self.bench.answers_on_chain().await.into_values().flatten().collect();
        assert!(journalled[known..].iter().all(|intent| sent.contains(&intent.hash)));
    }

    async fn after_send(&mut self) {
        let (more, nonce) = (self.more().await, self.bench.account_nonce().await);
        self.bench.stop_mining().await;
        let hold = self.gate.hold(SEND, At::Reply);
        self.publish(&more).await;
        hold.reached().await;
        let known = self.intents().await.len();
        self.killed(Some(hold)).await;
        assert!(self.bench.pending().await > 0, "the node has nothing");
        assert_eq!(self.bench.account_nonce().await, nonce, "it was mined");
        self.bench.stack.node().emitter().start().await.unwrap();
        self.bench.mine_again().await;
        self.restarted("after the send").await;
        assert!(self.intents().await.len() <= known + ANSWERS, "{known}");
    }

    async fn before_receipt(&mut self) {
        let hold = self.mined_and_not_seen().await;
        let settled = self.bench.submissions().await.len();
        self.killed(Some(hold)).await;
        assert_eq!(self.bench.submissions().await.len(), settled, "it had been settled");
        self.bench.mine_again().await;
        self.restarted("before the receipt").await;
    }

    /// The receipt was seen, and Kafka has not taken what came of it.
    async fn before_commit(&mut self) {
        let settled = self.metric("kms_connector_submissions_total").await;
        let hold = self.mined_and_not_seen().await;
        self.broker(Signal::SIGSTOP);
        self.gate.open();
        hold.release();
        self.grown("kms_connector_submissions_total", settled, ANSWERS as f64).await;
        self.killed(None).await;
        self.broker(Signal::SIGCONT);
        assert_eq!(self.bench.submissions().await.len(), self.made.len() - ANSWERS, "it had been committed");
        self.bench.mine_again().await;
        self.restarted("before the commit").await;
    }

    /// Answers of which the chain has all and the emitter knows nothing.
    async fn mined_and_not_seen(&mut self) -> Arc<Hold> {
        let (more, nonce) = (self.more().await, self.bench.account_nonce().await);
        let known = self.intents().await.len();
        self.bench.stop_mining().await;
        self.publish(&more).await;
        let sent = eventually("all are sent", LIMIT, async || {
            let intents = self.intents().await.split_off(known);
            let carried: usize = intents.iter().map(|intent| intent.items.len()).sum();
            let pending = self.bench.pending().await;
            (carried == ANSWERS && pending == intents.len()).then_some(pending as u64)
        })
        .await;
        let hold = self.gate.hold(RECEIPTS, At::Request);
        self.bench.rpc("evm_mine", json!([])).await;
        hold.reached().await;
        assert_eq!(self.bench.account_nonce().await, nonce + sent);
        hold
    }
}

async fn killed_at_each_step(name: &str, mode: impl FnOnce(StackBuilder) -> StackBuilder) {
    let workspace = new_workspace();
    let options = KafkaOptions::default();
    let (kafka, anvil) =
        tokio::join!(Kafka::start(&workspace, options), Anvil::start(&workspace, AnvilOptions::default()));
    // A cluster of its own: it is paused here.
    let (kafka, anvil, gate) = (kafka.unwrap(), anvil.unwrap(), Gate::default());
    let proxy = gate.before(&anvil.url()).await;
    let bench = Bench::start_with(name, None, |stack| {
        mode(unreplaced(stack)).kafka(kafka.bootstrap_servers()).anvil(anvil).rpc_urls([proxy.url()])
    })
    .await;
    let made = bench.warm_up().await;
    let mut world = World { bench, gate, kafka, made };
    world.before_intent().await;
    world.before_the_journal_is_committed().await;
    world.after_intent().await;
    world.after_send().await;
    world.before_receipt().await;
    world.before_commit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_killed_at_each_step_of_single_answers_nothing_is_lost_and_nothing_accepted_twice() {
    killed_at_each_step("killed-single", |stack| stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_killed_at_each_step_of_a_batch_nothing_is_lost_and_nothing_accepted_twice() {
    killed_at_each_step("killed-batch", |stack| {
        stack
            .batches(true)
            .set(ServiceKind::Emitter, "submission.batch_eager=0")
            .set(ServiceKind::Emitter, "submission.batch_linger_ms=300")
    })
    .await;
}
