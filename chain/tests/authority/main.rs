//! The authority against nodes that serve what a chain has, and against those that do not.

mod bench;
mod capture;
#[path = "../rpc/node.rs"]
#[allow(dead_code, reason = "shared with the tests of the client")]
mod node;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::{B256, Bytes};
use kms_chain::authority::{Authority, Difference, Occurrence, Unproven};
use kms_chain::finality::Finality;
use kms_chain::rpc::Rpc;
use kms_schemas::record::RawLog;
use node::{Mode, Node, Outcome, client, client_of, eventually, unknown_method};
use serde_json::{Value, json};

/// Serves a chain of captured blocks, and lies as it is told.
#[derive(Clone)]
struct Chain(Arc<Mutex<State>>);

struct State {
    blocks: Vec<Value>,
    final_block: Option<u64>,
    block_receipts: bool,
    /// Receipts are those of this block, whatever is asked for.
    receipts_of: Option<usize>,
}

impl Chain {
    fn golden() -> Self {
        let blocks: Vec<Value> = serde_json::from_str(include_str!("blocks.json")).expect("JSON");
        Self(Arc::new(Mutex::new(State { blocks, final_block: Some(4), block_receipts: true, receipts_of: None })))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn serve(&self) -> Node {
        let chain = self.clone();
        Node::start(move |method, params| chain.answer(method, params)).await
    }

    fn answer(&self, method: &str, params: &Value) -> Outcome {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let head = state.blocks.len() as u64 - 1;
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hex");
        match method {
            "eth_chainId" => Ok(json!("0x7")),
            "eth_blockNumber" => Ok(json!(format!("{head:#x}"))),
            "eth_getBlockByNumber" => {
                let number = match params[0].as_str().expect("a block") {
                    "latest" => head,
                    "finalized" => match state.final_block {
                        Some(number) => number,
                        None => return Err(json!({ "code": -39001, "message": "finalized block not found" })),
                    },
                    other => number(other),
                };
                let Some(block) = state.blocks.get(number as usize) else { return Ok(Value::Null) };
                let mut block = block["block"].clone();
                if params[1] == false {
                    let hashes = block["transactions"].as_array().expect("a list").iter().map(|tx| tx["hash"].clone());
                    block["transactions"] = hashes.collect();
                }
                Ok(block)
            }
            "eth_getBlockReceipts" if state.block_receipts => {
                let index = state.blocks.iter().position(|block| block["block"]["hash"] == params[0]);
                Ok(index
                    .map_or(Value::Null, |index| state.blocks[state.receipts_of.unwrap_or(index)]["receipts"].clone()))
            }
            "eth_getTransactionReceipt" => {
                let mut receipts = state.blocks.iter().flat_map(|b| b["receipts"].as_array().expect("a list"));
                let found = receipts.find(|receipt| receipt["transactionHash"] == params[0]);
                Ok(found.cloned().unwrap_or_default())
            }
            other => Err(unknown_method(other)),
        }
    }

    /// What a record says of a log of the chain.
    fn record(&self, block: usize, log_index: u64) -> (Occurrence, RawLog, B256, u64) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stated = &state.blocks[block];
        let logs = stated["receipts"].as_array().expect("a list").iter();
        let mut logs = logs.flat_map(|receipt| receipt["logs"].as_array().expect("a list"));
        let log = logs.nth(usize::try_from(log_index).expect("small")).expect("a log");
        let read = |value: &Value| serde_json::from_value(value.clone()).expect("a hash");
        let at = Occurrence { block_number: block as u64, block_hash: read(&stated["block"]["hash"]), log_index };
        let raw = RawLog {
            address: serde_json::from_value(log["address"].clone()).expect("an address"),
            topics: serde_json::from_value(log["topics"].clone()).expect("topics"),
            data: serde_json::from_value(log["data"].clone()).expect("data"),
        };
        let time = stated["block"]["timestamp"].as_str().expect("text").trim_start_matches("0x");
        (at, raw, read(&log["transactionHash"]), u64::from_str_radix(time, 16).expect("hex"))
    }
}

/// An authority that looks at the head with every question.
fn wary(rpc: Rpc, finality: Finality) -> Authority {
    Authority::with_limits(rpc, finality, 16, 1 << 20, Duration::ZERO)
}

#[tokio::test]
async fn p4_every_log_of_the_chain_is_proven_and_equals_its_record() {
    let chain = Chain::golden();
    let authority = Authority::new(client(&[&chain.serve().await]), Finality::Latest, 16);
    for (block, logs) in [(3, 10), (4, 2)] {
        for index in 0..logs {
            let (at, log, transaction, timestamp) = chain.record(block, index);
            let proven = authority.prove(at).await.expect("a log of the chain");
            assert_eq!(proven.compare(&log, transaction, timestamp), Ok(()));
            let proven_transaction = authority.transaction(&proven).await.expect("a transaction");
            assert_eq!(proven_transaction.hash, transaction);
            // The echo emits its calldata.
            assert_eq!(proven_transaction.input, log.data);
        }
    }
}

#[tokio::test]
async fn p4_two_calls_per_block_and_none_for_what_is_known() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    authority.prove(chain.record(3, 0).0).await.expect("a log");
    for _ in 0..100 {
        authority.prove(chain.record(3, 5).0).await.expect("a log");
    }
    let full = node.methods().iter().filter(|method| method.starts_with("eth_getBlockReceipts")).count();
    assert_eq!(full, 1);
    let before = node.methods().len();
    // The next block continues the one that is known: the block and its receipts, nothing else.
    authority.prove(chain.record(4, 0).0).await.expect("a log");
    let new: Vec<String> = node.methods().split_off(before);
    assert!(new.len() <= 2 && new.contains(&"eth_getBlockReceipts".to_owned()), "{new:?}");
}

#[tokio::test]
async fn p4_many_who_ask_for_a_block_at_once_read_it_once() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    let (at, ..) = chain.record(3, 2);
    let proofs = (0..200).map(|_| authority.prove(at));
    for proven in futures::future::join_all(proofs).await {
        proven.expect("a log");
    }
    assert_eq!(node.count("eth_getBlockReceipts"), 1);
}

#[tokio::test]
async fn p4_a_self_consistent_invented_block_is_refused() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    // Block 4 with the forger's own receipts and header would hash to anything: all that counts is that it is not ours.
    let (mut at, ..) = chain.record(4, 0);
    at.block_hash = B256::repeat_byte(0xf0);
    let error = authority.prove(at).await.expect_err("another block");
    assert!(matches!(error, Unproven::Orphaned { number: 4, .. }), "{error}");
    assert_eq!(error.code(), "KC-0341");
    assert!(!error.is_outage());

    let asked = node.methods().len();
    for byte in 0..50 {
        at.block_hash = B256::repeat_byte(byte);
        assert!(matches!(authority.prove(at).await, Err(Unproven::Orphaned { .. })));
    }
    assert_eq!(node.methods().len(), asked, "more forgeries at the same number cost no call");
}

#[tokio::test]
async fn p4_a_real_log_in_a_forged_record_differs() {
    let chain = Chain::golden();
    let authority = Authority::new(client(&[&chain.serve().await]), Finality::Latest, 16);
    let (at, log, transaction, timestamp) = chain.record(3, 0);
    let proven = authority.prove(at).await.expect("a log");
    let (.., other_transaction, _) = chain.record(4, 0);
    assert_eq!(proven.compare(&log, other_transaction, timestamp), Err(Difference::Transaction));
    assert_eq!(proven.compare(&log, transaction, timestamp + 1), Err(Difference::Timestamp));
    let data = RawLog { data: Bytes::from(vec![0x12; 32]), ..log.clone() };
    assert_eq!(proven.compare(&data, transaction, timestamp), Err(Difference::Data));
    let topics = RawLog { topics: vec![B256::ZERO], ..log.clone() };
    assert_eq!(proven.compare(&topics, transaction, timestamp), Err(Difference::Topics));
    let address = RawLog { address: alloy::primitives::Address::ZERO, ..log };
    assert_eq!(proven.compare(&address, transaction, timestamp), Err(Difference::Address));
}

#[tokio::test]
async fn p4_an_index_outside_the_block_is_no_log() {
    let chain = Chain::golden();
    let authority = Authority::new(client(&[&chain.serve().await]), Finality::Latest, 16);
    for log_index in [10, u64::MAX] {
        let at = Occurrence { log_index, ..chain.record(3, 0).0 };
        let error = authority.prove(at).await.expect_err("no log");
        assert!(matches!(error, Unproven::NoSuchLog { logs: 10, .. }), "{error}");
    }
    let (mut empty, ..) = chain.record(3, 0);
    empty.block_number = 2;
    empty.block_hash = block_hash(&chain, 2);
    assert!(matches!(authority.prove(empty).await, Err(Unproven::NoSuchLog { logs: 0, .. })));
}

fn block_hash(chain: &Chain, number: usize) -> B256 {
    let state = chain.0.lock().unwrap_or_else(PoisonError::into_inner);
    serde_json::from_value(state.blocks[number]["block"]["hash"].clone()).expect("a hash")
}

#[tokio::test]
async fn p4_an_empty_block_needs_no_receipts() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    let at = Occurrence { block_number: 2, block_hash: block_hash(&chain, 2), log_index: 0 };
    authority.prove(at).await.expect_err("no log");
    assert_eq!(node.count("eth_getBlockReceipts"), 0);
}

#[tokio::test]
async fn p4_a_block_above_the_head_is_not_yet_there() {
    let chain = Chain::golden();
    let (at, ..) = chain.record(4, 0);
    let last = chain.0.lock().unwrap_or_else(PoisonError::into_inner).blocks.pop().expect("a block");
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    let error = authority.prove(at).await.expect_err("not there yet");
    assert!(matches!(error, Unproven::NotYet { needed: 4, head: Some(3), .. }), "{error}");

    chain.change(|state| state.blocks.push(last));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match authority.prove(at).await {
            Ok(_) => return,
            Err(Unproven::NotYet { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn p4_waiting_for_a_block_is_no_flood_of_calls() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    let at = Occurrence { block_number: 9, block_hash: B256::ZERO, log_index: 0 };
    authority.prove(at).await.expect_err("not there");
    let before = node.requests();
    let proofs = (0..500).map(|_| authority.prove(at));
    futures::future::join_all(proofs).await;
    assert!(node.requests() - before <= 2, "{} requests", node.requests() - before);
}

#[tokio::test]
async fn p4_finality_is_waited_for() {
    let chain = Chain::golden();
    chain.change(|state| state.final_block = None);
    let (at, ..) = chain.record(3, 0);
    let authority = wary(client(&[&chain.serve().await]), Finality::Finalized);
    let error = authority.prove(at).await.expect_err("nothing is final");
    assert!(matches!(error, Unproven::NotYet { needed: 3, head: None, .. }), "{error}");
    tokio::time::sleep(Duration::from_millis(30)).await;
    chain.change(|state| state.final_block = Some(2));
    let error = authority.prove(at).await.expect_err("not final");
    assert!(matches!(error, Unproven::NotYet { needed: 3, head: Some(2), .. }), "{error}");
    tokio::time::sleep(Duration::from_millis(30)).await;
    chain.change(|state| state.final_block = Some(3));
    authority.prove(at).await.expect("a final log");
    let authority = wary(client(&[&chain.serve().await]), Finality::Depth(2));
    assert!(matches!(authority.prove(at).await, Err(Unproven::NotYet { needed: 3, head: Some(2), .. })));
}

#[tokio::test]
async fn p4_what_is_final_is_not_asked_for_again() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = wary(client(&[&node]), Finality::Finalized);
    authority.prove(chain.record(3, 0).0).await.expect("a log");
    let asked = node.methods().len();
    for index in 0..8 {
        authority.prove(chain.record(3, index).0).await.expect("a log");
    }
    assert_eq!(node.methods().len(), asked);
}

#[tokio::test]
async fn p4_a_block_that_was_reorganised_away_is_orphaned() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = wary(client(&[&node]), Finality::Latest);
    let (at, ..) = chain.record(4, 0);
    let (below, ..) = chain.record(3, 0);
    authority.prove(at).await.expect("a log");
    authority.prove(below).await.expect("a log");
    // Another block 4, by the same construction: here the empty one with number and parent of the other.
    chain.change(|state| state.blocks[4] = sibling(&state.blocks[4]));
    let error = authority.prove(at).await.expect_err("another block");
    assert!(matches!(error, Unproven::Orphaned { number: 4, .. }), "{error}");
    authority.prove(below).await.expect("what is below the fork is still there");
    assert_eq!(node.count("eth_getBlockReceipts"), 2, "block 3 was not read again");
}

/// An empty block in the place of another one.
fn sibling(stated: &Value) -> Value {
    let empty = alloy::consensus::constants::EMPTY_ROOT_HASH;
    let mut header: alloy::consensus::Header = serde_json::from_value(stated["block"].clone()).expect("a header");
    header.transactions_root = empty;
    header.receipts_root = empty;
    let mut block = serde_json::to_value(&header).expect("JSON");
    block["hash"] = json!(header.hash_slow());
    block["transactions"] = json!([]);
    json!({ "block": block, "receipts": [] })
}

#[tokio::test]
async fn p4_a_look_at_the_head_stands_for_all_cached_blocks() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let age = Duration::from_millis(50);
    let authority = Authority::with_limits(client(&[&node]), Finality::Latest, 16, 1 << 20, age);
    let records = [chain.record(3, 0).0, chain.record(4, 0).0];
    for at in records {
        authority.prove(at).await.expect("a log");
    }
    let (asked, started) = (node.requests(), Instant::now());
    let looks = || node.requests() - asked;
    while looks() < 5 {
        assert!(started.elapsed() < Duration::from_secs(60), "the head is not looked at again");
        for at in records {
            authority.prove(at).await.expect("a log");
        }
    }
    let ages = started.elapsed().as_millis() / age.as_millis();
    assert!(looks() as u128 <= ages + 1, "{} looks in {ages} times the age of a look", looks());
}

#[tokio::test]
async fn p4_receipts_that_do_not_recompute_are_undecidable() {
    let chain = Chain::golden();
    chain.change(|state| state.receipts_of = Some(4));
    let node = chain.serve().await;
    let rpc = client(&[&node]);
    let authority = Authority::new(rpc.clone(), Finality::Latest, 16);
    let error = authority.prove(chain.record(3, 0).0).await.expect_err("other receipts");
    assert!(matches!(error, Unproven::Undecidable { number: 3, .. }), "{error}");
    assert_eq!(authority.cached(), (0, 0));
    assert_eq!(rpc.endpoints_up(), [0], "the node is used for everything else");
}

#[tokio::test]
async fn p4_another_endpoint_is_asked_where_one_lies() {
    let (liar, honest) = (Chain::golden(), Chain::golden());
    liar.change(|state| state.receipts_of = Some(4));
    let (first, second) = (liar.serve().await, honest.serve().await);
    let authority = Authority::new(client(&[&first, &second]), Finality::Latest, 16);
    authority.prove(honest.record(3, 0).0).await.expect("a log");

    let header = Chain::golden();
    header.change(|state| state.blocks[3]["block"]["stateRoot"] = json!(B256::ZERO));
    let first = header.serve().await;
    let authority = Authority::new(client(&[&first, &second]), Finality::Latest, 16);
    authority.prove(honest.record(3, 0).0).await.expect("a log");
}

#[tokio::test]
async fn p4_an_endpoint_that_is_behind_is_passed_over() {
    let (behind, ahead) = (Chain::golden(), Chain::golden());
    behind.change(|state| state.blocks.truncate(3));
    let (first, second) = (behind.serve().await, ahead.serve().await);
    let authority = wary(client(&[&first, &second]), Finality::Latest);
    for index in 0..3 {
        authority.prove(ahead.record(3, index).0).await.expect("a log");
    }
}

#[tokio::test]
async fn p4_without_receipts_by_block_they_are_asked_for_by_transaction() {
    let chain = Chain::golden();
    chain.change(|state| state.block_receipts = false);
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    for (block, index) in [(3, 7), (4, 1)] {
        let (at, log, transaction, timestamp) = chain.record(block, index);
        let proven = authority.prove(at).await.expect("a log");
        assert_eq!(proven.compare(&log, transaction, timestamp), Ok(()));
    }
    assert_eq!(node.count("eth_getBlockReceipts"), 1, "asked once, and remembered");
}

#[tokio::test]
async fn an_outage_is_no_verdict_and_heals() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let authority = Authority::new(client(&[&node]), Finality::Latest, 16);
    node.set(Mode::Body(503, "try later".to_owned()));
    let error = authority.prove(chain.record(3, 0).0).await.expect_err("no answer");
    assert!(error.is_outage(), "{error}");
    node.set(Mode::Normal);
    authority.prove(chain.record(3, 0).0).await.expect("a log");
}

/// A chain whose latest block is the third.
fn stalled() -> Chain {
    let stalled = Chain::golden();
    stalled.change(|state| state.blocks.truncate(4));
    stalled
}

#[tokio::test]
async fn an_endpoint_that_lags_does_not_speak_for_one_that_is_silent() {
    let chain = Chain::golden();
    let (primary, fallback) = (chain.serve().await, stalled().serve().await);
    let authority = wary(client(&[&primary, &fallback]), Finality::Latest);
    primary.set(Mode::Body(503, "try later".to_owned()));
    // The second time the primary is not even asked any more.
    for _ in 0..3 {
        let error = authority.prove(chain.record(4, 0).0).await.expect_err("not there");
        assert!(matches!(error, Unproven::Unheard { number: 4, silent: 1, .. }), "{error}");
        assert!(error.is_outage() && error.code() == "KC-0344", "{error}");
        authority.prove(chain.record(3, 0).0).await.expect("the others are served");
    }
    primary.set(Mode::Normal);
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = authority.prove(chain.record(4, 0).0).await {
        assert!(error.is_outage() && Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_not_there_yet_is_the_word_of_every_endpoint() {
    let chain = Chain::golden();
    let (first, second) = (chain.serve().await, stalled().serve().await);
    let beyond = Occurrence { block_number: 9, ..chain.record(4, 0).0 };
    let error = wary(client(&[&second, &first]), Finality::Latest).prove(beyond).await.expect_err("not there");
    assert!(matches!(error, Unproven::NotYet { needed: 9, head: Some(4), .. }) && !error.is_outage(), "{error}");
    // While one of them is down for good, only requests of such blocks wait for it.
    second.set(Mode::Body(503, "gone".to_owned()));
    let authority = wary(client(&[&first, &second]), Finality::Latest);
    for _ in 0..3 {
        let error = authority.prove(beyond).await.expect_err("not there");
        assert!(matches!(error, Unproven::Unheard { number: 9, silent: 1, .. }), "{error}");
        authority.prove(chain.record(4, 0).0).await.expect("the others are served");
    }
}

#[tokio::test]
async fn an_endpoint_whose_block_does_not_fit_does_not_speak_for_one_that_is_silent() {
    let (chain, lying) = (Chain::golden(), Chain::golden());
    lying.change(|state| state.receipts_of = Some(3));
    let (primary, fallback) = (chain.serve().await, lying.serve().await);
    let authority = wary(client(&[&primary, &fallback]), Finality::Latest);
    primary.set(Mode::Body(503, "try later".to_owned()));
    for _ in 0..2 {
        let error = authority.prove(chain.record(4, 0).0).await.expect_err("nothing fits");
        assert!(matches!(error, Unproven::Unheard { number: 4, silent: 1, .. }), "{error}");
    }
}

#[tokio::test]
async fn the_cache_is_bounded_in_blocks_and_bytes() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    let one_block = Authority::with_limits(client(&[&node]), Finality::Latest, 1, 1 << 20, Duration::from_secs(9));
    for block in [3, 4, 3, 4] {
        one_block.prove(chain.record(block, 0).0).await.expect("a log");
        assert_eq!(one_block.cached().0, 1);
    }
    assert_eq!(node.count("eth_getBlockReceipts"), 4);
    let (_, bytes) = one_block.cached();
    let no_bytes = Authority::with_limits(client(&[&node]), Finality::Latest, 16, bytes - 1, Duration::from_secs(9));
    no_bytes.prove(chain.record(4, 0).0).await.expect("a log, also where it is not kept");
    assert_eq!(no_bytes.cached(), (0, 0));
}

#[tokio::test]
async fn whoever_stops_waiting_takes_nobody_along() {
    let chain = Chain::golden();
    let node = chain.serve().await;
    node.set(Mode::Hang);
    let rpc = client_of(&[&node.url], |config| config.timeout = Duration::from_secs(4));
    let authority = Authority::new(rpc, Finality::Latest, 16);
    let (at, ..) = chain.record(3, 0);
    let other = authority.clone();
    let waiting = tokio::spawn(async move { other.prove(at).await });
    let begun = node.requests();
    tokio::select! {
        proven = authority.prove(at) => panic!("nobody answers: {proven:?}"),
        () = eventually("the reading", || node.requests() > begun) => {}
    }
    node.set(Mode::Normal);
    // Its reading ends with the client's deadline; the next one succeeds.
    assert!(waiting.await.expect("no panic").is_err_and(|error| error.is_outage()));
    authority.prove(at).await.expect("a log");
}
