//! Two emitters of one account: one works and the other waits, in batches and one by one.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use kms_runtime::shutdown::Exit;
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_stack::supervise::Signal;
use kms_stack::{Service, ServiceKind, StackBuilder};
use kms_tests::{eventually, get, new_workspace};

use super::bench::{Bench, LIMIT, unreplaced};
use super::gate::{At, Gate};

const BLOCKS: Option<Duration> = Some(Duration::from_millis(100));

fn single(stack: StackBuilder) -> StackBuilder {
    stack
}

fn batches(stack: StackBuilder) -> StackBuilder {
    stack.batches(true)
}

async fn with_standby(bench: &Bench) -> Service {
    let standby = bench.stack.another(bench.stack.node(), ServiceKind::Emitter, "1").unwrap();
    standby.process().start().unwrap();
    bench.await_standby(standby.listen().to_string()).await;
    standby
}

async fn leads(service: &Service) -> bool {
    service.metric("kms_connector_emitter_leader").await == Some(1.0)
}

async fn is_taken_over_from_the_dead(name: &str, mode: fn(StackBuilder) -> StackBuilder) {
    let bench = Bench::start_with(name, BLOCKS, mode).await;
    let mut made = bench.warm_up().await;
    let standby = with_standby(&bench).await;
    assert!(!leads(&standby).await);
    made.extend(bench.requests(50).await);
    let (on_its_way, later) = made[1..].split_at(30);
    bench.publish(&bench.results(on_its_way)).await;
    let killed = Instant::now();
    bench.stack.node().emitter().kill().await;
    bench.publish(&bench.results(later)).await;
    eventually("the standby works", LIMIT, async || {
        let sent = standby.metric("kms_connector_sends_total").await;
        (leads(&standby).await && sent >= Some(1.0)).then_some(())
    })
    .await;
    // 7 to 9 s on a calm machine: the session of the dead one (6 s) and the start of the term.
    println!("taken over after {:?}", killed.elapsed());
    bench.await_all_accepted(&made).await;
    assert!(bench.dead_letters().await.is_empty());
    standby.wait_ready().await.unwrap();
    standby.stop().await;
}

/// The one that works is paused in the middle of a send, with further transactions journalled and not yet sent, and wakes up
/// when another has taken over, worked, and sent more.
async fn a_paused_one_does_no_harm(name: &str, mode: fn(StackBuilder) -> StackBuilder) {
    let workspace = new_workspace();
    let options = AnvilOptions { block_time: BLOCKS, ..AnvilOptions::default() };
    let (anvil, gate) = (Anvil::start(&workspace, options).await.unwrap(), Gate::default());
    let proxy = gate.before(&anvil.url()).await;
    let bench = Bench::start_with(name, BLOCKS, |stack| {
        mode(unreplaced(stack))
            .anvil(anvil)
            .rpc_urls([proxy.url()])
            .set(ServiceKind::Emitter, "submission.send_batch=1")
            .set(ServiceKind::Emitter, "submission.send_concurrency=1")
            // Several small ones rather than one that holds all.
            .set(ServiceKind::Emitter, "submission.batch_answers=4")
    })
    .await;
    let mut made = bench.warm_up().await;
    let standby = with_standby(&bench).await;
    let paused = bench.stack.node().emitter();
    let (before, known) = (bench.account_nonce().await, bench.intents().await.len());

    made.extend(bench.requests(20).await);
    let hold = gate.hold("eth_sendRawTransaction", At::Request);
    bench.publish(&bench.results(&made[1..])).await;
    hold.reached().await;
    let journalled = eventually("everything is journalled", LIMIT, async || {
        let intents = bench.intents().await.split_off(known);
        let carried: usize = intents.iter().map(|intent| intent.items.len()).sum();
        (carried == 20).then_some(intents)
    })
    .await;
    assert!(journalled.len() > 1, "nothing waits behind the send");
    assert_eq!(bench.account_nonce().await, before, "something was sent");
    paused.process().signal(Signal::SIGSTOP);
    gate.open();

    eventually("the standby leads", LIMIT, async || leads(&standby).await.then_some(())).await;
    bench.await_all_accepted(&made).await;
    let more = bench.requests(10).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    bench.await_all_accepted(&made).await;

    // Its send arrives after all, and it has the rest to send.
    hold.release();
    paused.process().signal(Signal::SIGCONT);
    eventually("the one that was paused steps back or ends", LIMIT, async || {
        if let Some(ended) = paused.process().process().and_then(|process| process.exited()) {
            assert_eq!(ended.code(), Some(Exit::Fenced as i32), "{}", paused.process().log());
            return Some(());
        }
        let text = get(&format!("http://{}/readyz", paused.listen())).await.ok()?.text().await.ok()?;
        text.contains("standby").then_some(())
    })
    .await;
    let more = bench.requests(10).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    bench.await_all_accepted(&made).await;
    assert!(leads(&standby).await, "the one that was paused leads again");
    assert!(bench.dead_letters().await.is_empty());

    // Nothing was signed anew for what the paused one had journalled, and no transaction was wasted.
    let on_chain: HashSet<B256> = bench.answers_on_chain().await.into_values().flatten().collect();
    assert!(journalled.iter().all(|intent| on_chain.contains(&intent.hash)));
    let sent_since = bench.intents().await.len() - known;
    assert_eq!(bench.account_nonce().await, before + sent_since as u64);
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_standby_takes_over_after_a_kill_answer_by_answer() {
    is_taken_over_from_the_dead("standby-single", single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_standby_takes_over_after_a_kill_in_batches() {
    is_taken_over_from_the_dead("standby-batch", batches).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_emitter_paused_in_a_send_that_wakes_after_the_takeover_does_no_harm_answer_by_answer() {
    a_paused_one_does_no_harm("paused-single", single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_emitter_paused_in_a_send_that_wakes_after_the_takeover_does_no_harm_in_batches() {
    a_paused_one_does_no_harm("paused-batch", batches).await;
}
