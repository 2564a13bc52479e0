//! What chain and nodes do to the account's nonces, in batches and one by one: in the end every answer is accepted once and
//! no nonce is missing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alloy::consensus::transaction::SignerRecoverable as _;
use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718 as _;
use alloy::primitives::{B256, Bytes, U256};
use kms_stack::contracts::Made;
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_stack::{ServiceKind, StackBuilder};
use kms_tests::{Proxy, eventually, new_workspace};
use serde_json::{Value, json};

use super::bench::{Bench, LIMIT};
use super::node_proxy::{Answer, Node, NodeProxy, Reply};

const BLOCKS: Option<Duration> = Some(Duration::from_millis(100));
const SEND: &str = "eth_sendRawTransaction";

fn single(stack: StackBuilder) -> StackBuilder {
    stack
}

/// Answers leave in batches of eight at most, none alone for want of company.
fn batches(stack: StackBuilder) -> StackBuilder {
    stack
        .batches(true)
        .set(ServiceKind::Emitter, "submission.batch_eager=0")
        .set(ServiceKind::Emitter, "submission.batch_linger_ms=200")
        .set(ServiceKind::Emitter, "submission.batch_answers=8")
}

/// An emitter that reaches its chain through a proxy.
async fn behind(
    name: &str,
    options: AnvilOptions,
    mode: impl FnOnce(StackBuilder) -> StackBuilder,
    answer: Arc<Answer>,
) -> (Bench, NodeProxy) {
    let (workspace, block_time) = (new_workspace(), options.block_time);
    let anvil = Anvil::start(&workspace, options).await.unwrap();
    let proxy = NodeProxy::start(&anvil.url(), answer).await;
    let bench = Bench::start_with(name, block_time, |stack| mode(stack).anvil(anvil).rpc_urls([proxy.url()])).await;
    (bench, proxy)
}

/// Every answer is accepted and settled once, and nothing is left in the node.
async fn ends_well(bench: &Bench, made: &[Made], what: &str) {
    bench.await_all_accepted(made).await;
    assert_eq!(bench.submissions().await.len(), made.len(), "{what}");
    eventually(&format!("an empty pool after: {what}"), LIMIT, async || {
        let status = bench.rpc("txpool_status", json!([])).await;
        (status["pending"] == "0x0" && status["queued"] == "0x0").then_some(())
    })
    .await;
    assert!(bench.dead_letters().await.is_empty(), "{what}");
}

/// Answers on their way to a chain that makes no block; how many transactions that is.
async fn on_their_way(bench: &Bench, made: &mut Vec<Made>, answers: usize) -> usize {
    let (more, known) = (bench.requests(answers).await, bench.intents().await.len());
    bench.stop_mining().await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    let sent = eventually(&format!("{answers} answers journalled"), LIMIT, async || {
        let intents = bench.intents().await.split_off(known);
        let mut carried: Vec<_> = intents.iter().flat_map(|one| &one.items).map(|item| item.identity.id).collect();
        carried.sort_unstable();
        carried.dedup();
        let mut nonces: Vec<u64> = intents.iter().map(|intent| intent.nonce).collect();
        nonces.sort_unstable();
        nonces.dedup();
        (carried.len() == answers).then_some(nonces.len())
    })
    .await;
    bench.await_pending(sent).await;
    sent
}

/// One trouble after the other on the same chain and with the same emitter process.
async fn troubles(name: &str, mode: fn(StackBuilder) -> StackBuilder) {
    let workspace = new_workspace();
    let anvil = Anvil::start(&workspace, AnvilOptions { persistent: true, ..AnvilOptions::default() }).await.unwrap();
    let bench = Bench::start_with(name, None, |stack| {
        mode(stack).anvil(anvil).set(ServiceKind::Emitter, "submission.resend_max_ms=500")
    })
    .await;
    let mut made = bench.warm_up().await;

    // Somebody else uses the account in between, and pays better.
    on_their_way(&bench, &mut made, 24).await;
    bench.use_account_elsewhere(bench.account_nonce().await).await;
    bench.mine_again().await;
    ends_well(&bench, &made, "a foreign transaction").await;
    let taken = bench.stack.node().emitter().metric("kms_connector_nonces_taken_total").await;
    assert_eq!(taken, Some(1.0));

    // The pool loses the lowest one.
    on_their_way(&bench, &mut made, 24).await;
    let lowest = bench.account_nonce().await;
    let lowest = bench.intents().await.into_iter().rfind(|intent| intent.nonce == lowest).unwrap();
    bench.rpc("anvil_dropTransaction", json!([lowest.hash])).await;
    bench.mine_again().await;
    ends_well(&bench, &made, "a dropped transaction").await;

    // The base fee rises above what all of them offer.
    on_their_way(&bench, &mut made, 24).await;
    let known = bench.intents().await.len();
    bench.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 100_000_000_000_u64)])).await;
    bench.rpc("evm_mine", json!([])).await;
    bench.mine_again().await;
    ends_well(&bench, &made, "a base fee above the offer").await;
    assert!(bench.intents().await[known..].iter().any(|intent| intent.attempt > 0), "nothing offered more");

    // The base fee is covered, and others pay more: nothing moves until more is offered.
    on_their_way(&bench, &mut made, 16).await;
    let lowest = bench.account_nonce().await;
    eventually("a better offer for the lowest", LIMIT, async || {
        bench.intents().await.iter().any(|one| one.nonce == lowest && one.attempt > 0).then_some(())
    })
    .await;
    bench.mine_again().await;
    ends_well(&bench, &made, "a stuck transaction").await;

    // The node is started again, without its pool.
    let sent = on_their_way(&bench, &mut made, 24).await;
    assert!(sent >= 3);
    bench.stack.anvil().stop().await;
    bench.stack.anvil().process().start().unwrap();
    bench.stack.anvil().wait_ready().await.unwrap();
    ends_well(&bench, &made, "a node that lost its pool in a restart").await;
    bench.stack.node().emitter().wait_ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_nonces_survive_foreign_dropped_overtaken_and_stuck_transactions_and_a_restarted_node_one_by_one() {
    troubles("nonces-single", single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_nonces_survive_foreign_dropped_overtaken_and_stuck_transactions_and_a_restarted_node_in_batches() {
    troubles("nonces-batch", batches).await;
}

async fn five_hundred_pending(name: &str, mode: fn(StackBuilder) -> StackBuilder, transactions: usize) {
    let bench = Bench::start_with(name, None, mode).await;
    let mut made = bench.warm_up().await;
    let sent = on_their_way(&bench, &mut made, 520).await;
    assert!(sent >= transactions, "{sent} transactions");
    bench.mine_again().await;
    ends_well(&bench, &made, "five hundred pending").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_five_hundred_pending_transactions_of_one_answer_are_all_accepted() {
    five_hundred_pending("pending-single", single, 520).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_five_hundred_pending_answers_in_batches_are_all_accepted() {
    five_hundred_pending("pending-batch", batches, 65).await;
}

/// The node takes what it is asked, and a third of its replies is lost on the way: of blocks for a third of the time; of sends and of
/// receipts, which are asked for while blocks come, two of each six.
async fn lost_replies(name: &str, mode: fn(StackBuilder) -> StackBuilder) {
    const RECEIPTS: &str = "eth_getBlockReceipts";
    const LOSES: [&str; 4] = [SEND, RECEIPTS, "eth_getBlockByNumber", "eth_getTransactionCount"];
    /// Longer than a reading call that is tried once more.
    const PHASE: Duration = Duration::from_millis(200);
    let (loses, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(HashMap::<String, usize>::new())));
    let (losing, record, begun) = (loses.clone(), lost.clone(), Instant::now());
    let asked = Mutex::new(HashMap::<String, usize>::new());
    let answer: Arc<Answer> = Arc::new(move |node, method, params| {
        let mut asked = asked.lock().unwrap();
        let nth = asked.entry(method.to_owned()).or_default();
        let is_turn = match method {
            SEND | RECEIPTS => (*nth / 2).is_multiple_of(3),
            _ => (begun.elapsed().as_millis() / PHASE.as_millis()).is_multiple_of(3),
        };
        let loses = losing.load(Ordering::Relaxed) && is_turn && LOSES.contains(&method);
        if losing.load(Ordering::Relaxed) {
            *nth += 1;
        }
        if loses {
            *record.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        }
        Box::pin(async move {
            if !loses {
                return Reply::PassOn;
            }
            node.say(method, params).await;
            Reply::Cut
        })
    });
    let options = AnvilOptions { block_time: BLOCKS, ..AnvilOptions::default() };
    let (bench, _proxy) = behind(name, options, mode, answer).await;
    let mut made = Vec::new();
    loses.store(true, Ordering::Relaxed);
    let all_lost = || LOSES[..3].iter().all(|method| lost.lock().unwrap().contains_key(*method));
    while !all_lost() {
        let more = bench.requests(16).await;
        bench.publish(&bench.results(&more)).await;
        made.extend(more);
        ends_well(&bench, &made, "lost replies").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_lost_replies_to_sends_blocks_and_receipts_lose_no_answer_and_double_none_one_by_one() {
    lost_replies("lost-single", single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_lost_replies_to_sends_blocks_and_receipts_lose_no_answer_and_double_none_in_batches() {
    lost_replies("lost-batch", batches).await;
}

/// What nodes say in place of taking a transaction, true or not, and whether they took it all the same.
const REFUSALS: [(&str, bool); 12] = [
    ("already known", true),
    ("transaction already imported", true),
    ("already known", false),
    ("nonce too low", false),
    ("nonce too low: next nonce 9, tx nonce 4", true),
    ("nonce too high", false),
    ("replacement transaction underpriced", false),
    ("transaction underpriced", false),
    ("max fee per gas less than block base fee", false),
    ("in-flight transaction limit reached for delegated accounts", false),
    ("txpool is full", false),
    ("the node feels unwell", false),
];

/// Each of the first transactions is refused once, each by another message.
async fn every_refusal(name: &str, mode: fn(StackBuilder) -> StackBuilder) {
    let refused = Arc::new(Mutex::new(HashMap::<u64, &str>::new()));
    let record = refused.clone();
    let answer: Arc<Answer> = Arc::new(move |node, method, params| {
        let mut refusal = None;
        if method == SEND {
            let mut refused = record.lock().unwrap();
            let (nonce, next) = (transaction(params).nonce(), refused.len());
            if let Some(next) = REFUSALS.get(next).filter(|_| !refused.contains_key(&nonce)) {
                refused.insert(nonce, next.0);
                refusal = Some(next);
            }
        }
        let Some((message, is_taken)) = refusal else { return Box::pin(std::future::ready(Reply::PassOn)) };
        Box::pin(async move {
            if *is_taken {
                node.say(method, params).await;
            }
            Reply::Error(-32_000, (*message).to_owned())
        })
    });
    let options = AnvilOptions { block_time: BLOCKS, ..AnvilOptions::default() };
    let (bench, _proxy) = behind(name, options, mode, answer).await;
    let mut made = Vec::new();
    while refused.lock().unwrap().len() < REFUSALS.len() {
        let more = bench.requests(24).await;
        bench.publish(&bench.results(&more)).await;
        made.extend(more);
        ends_well(&bench, &made, &format!("{:?}", refused.lock().unwrap())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_whatever_a_node_says_to_a_send_every_answer_is_accepted_one_by_one() {
    every_refusal("refusals-single", single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_whatever_a_node_says_to_a_send_every_answer_is_accepted_in_batches() {
    every_refusal("refusals-batch", batches).await;
}

fn transaction(params: &Value) -> TxEnvelope {
    let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
    TxEnvelope::decode_2718_exact(&raw).unwrap()
}

/// A node without a pool, as Arbitrum's is: a send is answered when it is in a block; one whose predecessor does not come
/// within a second is refused; and so is one that offers less than the base fee.
async fn sequence(node: &Node, params: &Value) -> Reply {
    const PATIENCE: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(10);
    let sent = transaction(params);
    let sender = sent.recover_signer().unwrap();
    let begun = Instant::now();
    let next = async || {
        let nonce = node.ask("eth_getTransactionCount", json!([sender, "latest"])).await;
        serde_json::from_value::<U256>(nonce).unwrap().to::<u64>()
    };
    while next().await < sent.nonce() {
        if begun.elapsed() > PATIENCE {
            return Reply::Error(-32_000, format!("nonce too high: address {sender}, tx: {}", sent.nonce()));
        }
        tokio::time::sleep(STEP).await;
    }
    let head = node.ask("eth_getBlockByNumber", json!(["latest", false])).await;
    let base_fee: U256 = serde_json::from_value(head["baseFeePerGas"].clone()).unwrap();
    if U256::from(sent.max_fee_per_gas()) < base_fee {
        return Reply::Error(-32_000, "max fee per gas less than block base fee".to_owned());
    }
    match node.say(SEND, params).await {
        Reply::Result(hash) => {
            while node.ask("eth_getTransactionReceipt", json!([hash])).await.is_null() {
                tokio::time::sleep(STEP).await;
            }
            Reply::Result(hash)
        }
        other => other,
    }
}

/// A pause of a sequencer and an outage behind a provider last as long as they last: no answer is given up for it.
#[tokio::test(flavor = "multi_thread")]
async fn p3_a_node_that_takes_nothing_for_a_while_makes_no_dead_letters() {
    const PAUSES: [(i64, &str); 3] = [
        (-32_000, "sequencer temporarily not available"),
        (-32_603, "the node has a fault of its own"),
        (-32_000, "in words that nobody has heard before"),
    ];
    // More than it took to give an answer up by number.
    const REFUSALS: usize = 30;
    let (pausing, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(HashMap::<u64, usize>::new())));
    let (pauses, record) = (pausing.clone(), refused.clone());
    let answer: Arc<Answer> = Arc::new(move |_, method, params| {
        if method != SEND || !pauses.load(Ordering::Acquire) {
            return Box::pin(std::future::ready(Reply::PassOn));
        }
        let mut refused = record.lock().unwrap();
        let times = refused.entry(transaction(params).nonce()).or_default();
        let (code, message) = PAUSES[*times % PAUSES.len()];
        *times += 1;
        Box::pin(std::future::ready(Reply::Error(code, message.to_owned())))
    });
    let mode = |stack: StackBuilder| {
        stack
            .set(ServiceKind::Emitter, "submission.send_pause_max_ms=100")
            .set(ServiceKind::Emitter, "submission.refusal_pause_ms=100")
    };
    let options = AnvilOptions { block_time: BLOCKS, ..AnvilOptions::default() };
    let (bench, _proxy) = behind("paused-sequencer", options, mode, answer).await;
    let mut made = bench.warm_up().await;
    pausing.store(true, Ordering::Release);
    let more = bench.requests(4).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    eventually("many refusals of the lowest nonce", LIMIT, async || {
        let refused = refused.lock().unwrap();
        refused.values().max().is_some_and(|most| *most >= REFUSALS).then_some(())
    })
    .await;
    pausing.store(false, Ordering::Release);
    ends_well(&bench, &made, "a pause").await;
}

/// Where transactions compete, they offer what the nodes call usual, which these are asked seldom.
#[tokio::test(flavor = "multi_thread")]
async fn p3_transactions_offer_the_priority_fee_that_is_usual_on_their_chain() {
    const USUAL: u128 = 3_000_000_000;
    let (tips, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let (record, count) = (tips.clone(), asked.clone());
    let answer: Arc<Answer> = Arc::new(move |_, method, params| {
        let reply = match method {
            SEND => {
                record.lock().unwrap().push(transaction(params).max_priority_fee_per_gas());
                Reply::PassOn
            }
            "eth_maxPriorityFeePerGas" => {
                *count.lock().unwrap() += 1;
                Reply::Result(json!(format!("{USUAL:#x}")))
            }
            _ => Reply::PassOn,
        };
        Box::pin(std::future::ready(reply))
    });
    let options = AnvilOptions { block_time: BLOCKS, ..AnvilOptions::default() };
    let (bench, _proxy) = behind("usual-fee", options, single, answer).await;
    let mut made = bench.warm_up().await;
    let more = bench.requests(40).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    ends_well(&bench, &made, "a market").await;
    let tips = tips.lock().unwrap();
    assert!(tips.len() >= made.len() && tips.iter().all(|tip| *tip == Some(USUAL)), "{tips:?}");
    assert!(*asked.lock().unwrap() < 20, "asked once per answer");
}

/// What is in a block and waits to be final costs few calls, however many blocks come.
#[tokio::test(flavor = "multi_thread")]
async fn p6_waiting_for_finality_costs_fewer_calls_than_there_are_blocks() {
    const FURTHER: u64 = 40;
    let asked = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
    let record = asked.clone();
    let answer: Arc<Answer> = Arc::new(move |_, method, _| {
        *record.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        Box::pin(std::future::ready(Reply::PassOn))
    });
    let mode = |stack: StackBuilder| stack.set(ServiceKind::Emitter, "destination.0.confirmations=finalized");
    let options = AnvilOptions { block_time: BLOCKS, ..AnvilOptions::default() };
    let (bench, _proxy) = behind("finality", options, mode, answer).await;
    let made = bench.warm_up().await;
    bench.await_all_accepted(&made).await;
    let metric = async |name| bench.stack.node().emitter().metric(name).await;
    eventually("only finality is waited for", LIMIT, async || {
        let in_flight = metric("kms_connector_nonces_in_flight").await;
        (in_flight == Some(0.0) && metric("kms_connector_nonces_unconfirmed").await > Some(0.0)).then_some(())
    })
    .await;
    let head = async || serde_json::from_value::<U256>(bench.rpc("eth_blockNumber", json!([])).await).unwrap();
    let (from, before) = (head().await, asked.lock().unwrap().clone());
    eventually("further blocks", LIMIT, async || (head().await >= from + U256::from(FURTHER)).then_some(())).await;
    let after = asked.lock().unwrap().clone();
    for method in ["eth_getBlockByNumber", "eth_getBlockReceipts", "eth_getTransactionCount"] {
        let calls = |asked: &HashMap<String, u64>| asked.get(method).copied().unwrap_or_default();
        assert!(calls(&after) - calls(&before) < FURTHER / 2, "{method}: {before:?}, {after:?}");
    }
    eventually("it is final", LIMIT, async || {
        (metric("kms_connector_nonces_unconfirmed").await == Some(0.0)).then_some(())
    })
    .await;
}

/// A block, with the fields by which an Arbitrum chain is known.
async fn arbitrum_block(node: &Node, method: &str, params: &Value) -> Reply {
    match node.say(method, params).await {
        Reply::Result(mut block) if block.is_object() => {
            block["l1BlockNumber"] = json!("0x1");
            block["sendCount"] = json!("0x0");
            block["sendRoot"] = json!(B256::ZERO);
            Reply::Result(block)
        }
        other => other,
    }
}

/// Without a pool, which the emitter finds out, nothing is replaced: what was refused is signed again, and what waits for its
/// predecessor is sent again.
async fn no_pool(name: &str, mode: impl FnOnce(StackBuilder) -> StackBuilder) {
    let answer: Arc<Answer> = Arc::new(|node, method, params| match method {
        SEND => Box::pin(sequence(node, params)),
        "eth_getBlockByNumber" => Box::pin(arbitrum_block(node, method, params)),
        _ => Box::pin(std::future::ready(Reply::PassOn)),
    });
    let mode = |stack| {
        mode(stack)
            // The offer is what the next block asks for and no more.
            .set(ServiceKind::Emitter, "submission.base_fee_percent=100")
    };
    let options = AnvilOptions { block_time: Some(Duration::from_millis(50)), ..AnvilOptions::default() };
    let (bench, _proxy) = behind(name, options, mode, answer).await;
    let begun = bench.stack.node().emitter().process().log();
    assert!(begun.contains("\"pool\":false") || begun.contains("pool=false"), "{begun}");
    let mut made = bench.warm_up().await;
    let more = bench.requests(16).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    // Somebody else uses the account, and the base fee rises, while they are on their way.
    eventually("some are accepted", LIMIT, async || (bench.submissions().await.len() > 4).then_some(())).await;
    bench.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 50_000_000_000_u64)])).await;
    ends_well(&bench, &made, "a sequencer").await;

    // What was signed before the base fee rose, and was not sent yet, is refused and signed again.
    bench.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 1_000_000_000_u64)])).await;
    let known = bench.intents().await.len();
    let more = bench.requests(60).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    eventually("further ones are journalled", LIMIT, async || (bench.intents().await.len() > known).then_some(()))
        .await;
    bench.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 500_000_000_000_u64)])).await;
    ends_well(&bench, &made, "a sequencer whose base fee rose").await;
    let intents = bench.intents().await;
    let nonces: Vec<u64> = intents.iter().map(|intent| intent.nonce).collect();
    assert_eq!(bench.account_nonce().await, nonces.iter().max().unwrap() + 1, "every nonce is used");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_where_a_sequencer_has_no_pool_every_answer_is_accepted_one_by_one() {
    no_pool("sequencer-single", single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_where_a_sequencer_has_no_pool_every_answer_is_accepted_in_batches() {
    no_pool("sequencer-batch", batches).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_an_endpoint_of_another_chain_is_left_out_and_stops_nothing_while_the_good_one_is_silent() {
    let workspace = new_workspace();
    let (anvil, other) = tokio::join!(
        Anvil::start(&workspace, AnvilOptions::default()),
        Anvil::start(&workspace, AnvilOptions { chain_id: 9, ..AnvilOptions::default() })
    );
    let (anvil, other) = (anvil.unwrap(), other.unwrap());
    let proxy = Proxy::start(anvil.url().trim_start_matches("http://")).await;
    let bench =
        Bench::start_with("other-chain", None, |stack| stack.anvil(anvil).rpc_urls([proxy.url(), other.url()])).await;
    let emitter = bench.stack.node().emitter();
    emitter.kill().await;
    proxy.cut();
    emitter.process().start().unwrap();
    let made = bench.requests(3).await;
    bench.publish(&bench.results(&made)).await;
    bench.await_not_ready("destination").await;
    assert!(emitter.process().log().contains("KC-0302"), "the endpoint of another chain is not named");
    proxy.restore();
    bench.await_all_accepted(&made).await;
    emitter.wait_ready().await.unwrap();
    assert_eq!(other.rpc("eth_blockNumber", json!([])).await.unwrap(), "0x0");
}
