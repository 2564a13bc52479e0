//! The RPC client against nodes that fail in the ways in which nodes fail.

mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall;
use kms_chain::contracts::{GatewayConfig, HostAcl, KeyDigest, Proxy, b};
use kms_chain::eip712::Domain;
use kms_chain::event::ContractSet;
use kms_chain::finality::Finality;
use kms_chain::release::{Release, ReleaseChoice, ReleaseError, detect_release, resolve_release, version};
use kms_chain::revert::Revert;
use kms_chain::rpc::{
    BlockId, BlockNumberOrTag, CallError, CallRequest, EndpointUrl, LogQuery, OutageCause, Receipt, Rpc, RpcError,
    SendOutcome,
};
use kms_chain::views::{
    AclQuestion, AclViews, DomainError, GatewayConfigViews, KmsGenerationViews, ProtocolConfigViews, ViewError,
    check_domain,
};
use kms_schemas::identity::RequestId;
use node::{
    DEAD_URL, Mode, Node, basics, block, client, client_of, eventually, hash, impatient, log, receipt,
    transaction_hash, unknown_method,
};
use serde_json::{Value, json};

fn query(from: u64, to: u64) -> LogQuery {
    LogQuery { addresses: vec![Address::with_last_byte(0xd1)], topics: vec![B256::with_last_byte(9)], from, to }
}

fn number_of(params: &Value) -> u64 {
    let text = params[0].as_str().expect("a block number");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hex")
}

/// A node that has the blocks up to `head`, with one log each.
async fn node_with_blocks(head: u64) -> Node {
    Node::start(move |method, params| match method {
        "eth_getBlockByNumber" => {
            let known = |number: u64| if number <= head { block(number) } else { Value::Null };
            match params[0].as_str() {
                Some("latest") => Ok(known(head)),
                Some("safe" | "finalized") => Err(json!({ "code": -32000, "message": "finalized block not found" })),
                _ => Ok(known(number_of(params))),
            }
        }
        "eth_getBlockByHash" => {
            let number = number_of(params);
            Ok(if number <= head { block(number) } else { Value::Null })
        }
        "eth_getLogs" => {
            let from = number_of(&json!([params[0]["fromBlock"]]));
            let to = number_of(&json!([params[0]["toBlock"]])).min(head);
            Ok((from..=to).map(|number| log(number, 0)).collect())
        }
        "eth_getTransactionReceipt" => {
            let id = number_of(params);
            Ok(receipt(id >> 16, (id & 0xffff) - 1))
        }
        other => basics(other, head).unwrap_or_else(|| Err(unknown_method(other))),
    })
    .await
}

// --- Failover ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_primary_serves_everything_while_it_is_up() {
    let (primary, secondary) = (Node::at_head(5).await, Node::at_head(6).await);
    let rpc = client(&[&primary, &secondary]);
    for _ in 0..10 {
        assert_eq!(rpc.block_number().await.expect("an answer"), 5);
    }
    assert_eq!(secondary.requests(), 0);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_passed_over() {
    let secondary = Node::at_head(6).await;
    let rpc = client_of(&[DEAD_URL, &secondary.url], |_| {});
    assert_eq!(rpc.block_number().await.expect("an answer"), 6);
    assert_eq!(rpc.endpoints_up(), [1]);
}

#[tokio::test]
async fn a_primary_that_went_down_is_used_again_when_it_answers() {
    let (primary, secondary) = (Node::at_head(5).await, Node::at_head(5).await);
    let rpc = client(&[&primary, &secondary]);
    primary.set(Mode::Body(503, "try later".to_owned()));
    assert_eq!(rpc.block_number().await.expect("an answer"), 5);
    assert_eq!(rpc.endpoints_up(), [1]);

    let failed_at = primary.requests();
    eventually("a probe of the primary", || primary.requests() > failed_at).await;
    assert_eq!(rpc.endpoints_up(), [1], "a failed probe changes nothing");

    primary.set(Mode::Normal);
    eventually("the recovery of the primary", || rpc.endpoints_up() == [0, 1]).await;
    let served = secondary.count("eth_blockNumber");
    rpc.block_number().await.expect("an answer");
    assert_eq!(secondary.count("eth_blockNumber"), served);
}

#[tokio::test]
async fn a_call_never_waits_for_an_endpoint_that_is_marked_down() {
    let (primary, secondary) = (Node::at_head(5).await, Node::at_head(5).await);
    primary.set(Mode::Hang);
    let rpc = client_of(&[&primary.url, &secondary.url], |config| {
        // Short for the one that hangs, and long for the one that must answer.
        config.timeout = Duration::from_secs(4);
        config.min_back_off = Duration::from_secs(60);
        config.max_back_off = Duration::from_secs(60);
    });
    rpc.block_number().await.expect("an answer");
    let asked = primary.requests();
    for _ in 0..5 {
        rpc.block_number().await.expect("an answer");
    }
    assert_eq!((asked, primary.requests()), (1, 1));
}

#[tokio::test]
async fn a_node_that_hangs_is_an_outage_after_the_deadline() {
    let node = Node::at_head(5).await;
    node.set(Mode::Hang);
    let rpc = client_of(&[&node.url], impatient);
    let error = rpc.block_number().await.expect_err("no answer");
    assert!(error.is_outage());
    assert!(matches!(error, RpcError::Outage { endpoints: 1, cause: OutageCause::Timeout(_), .. }), "{error}");
}

#[tokio::test]
async fn the_only_endpoint_is_tried_even_while_it_is_marked_down() {
    let node = Node::at_head(5).await;
    node.set(Mode::Body(500, String::new()));
    let rpc = client_of(&[&node.url], |config| config.min_back_off = Duration::from_secs(60));
    assert!(rpc.block_number().await.expect_err("no answer").is_outage());
    node.set(Mode::Normal);
    assert_eq!(rpc.block_number().await.expect("an answer"), 5);
    assert_eq!(rpc.endpoints_up(), [0]);
}

#[tokio::test]
async fn whatever_is_no_json_rpc_makes_the_next_endpoint_answer() {
    for body in [
        "",
        "<html>",
        "{",
        "{}",
        "[]",
        "null",
        "{\"jsonrpc\":\"2.0\",\"id\":0}",
        "{\"jsonrpc\":\"2.0\",\"id\":9,\"result\":\"0x1\"}",
        "{\"jsonrpc\":\"2.0\",\"result\":\"0x1\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"no\":\"number\"}}",
        "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":null}",
        "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":\"0xffffffffffffffffffff\"}",
    ] {
        let (primary, secondary) = (Node::at_head(5).await, Node::at_head(6).await);
        primary.set(Mode::Body(200, body.to_owned()));
        let rpc = client(&[&primary, &secondary]);
        assert_eq!(rpc.block_number().await.expect("an answer"), 6, "{body:?}");
        assert_eq!(rpc.endpoints_up(), [1], "{body:?}");
    }
}

#[tokio::test]
async fn a_limit_on_the_rate_makes_the_next_endpoint_answer() {
    let limited = json!({ "jsonrpc": "2.0", "id": 0, "error": { "code": 429, "message": "compute units per second" } });
    for mode in [Mode::Body(429, "slow down".to_owned()), Mode::Body(200, limited.to_string())] {
        let (primary, secondary) = (Node::at_head(5).await, Node::at_head(6).await);
        primary.set(mode);
        let rpc = client(&[&primary, &secondary]);
        assert_eq!(rpc.block_number().await.expect("an answer"), 6);
    }
}

#[tokio::test]
async fn an_error_of_the_node_is_an_answer_and_no_outage() {
    let (primary, secondary) = (Node::at_head(5).await, Node::at_head(5).await);
    let rpc = client(&[&primary, &secondary]);
    let error = rpc.gas_price().await.expect_err("the node does not offer it");
    assert!(matches!(error, RpcError::Response { code: -32601, .. }), "{error}");
    assert!(!error.is_outage());
    assert_eq!(rpc.endpoints_up(), [0, 1]);
    assert_eq!(secondary.requests(), 0);
}

#[tokio::test]
async fn an_error_with_a_status_that_blames_the_request_is_an_answer() {
    let node = Node::at_head(5).await;
    let error =
        json!({ "jsonrpc": "2.0", "id": 0, "error": { "code": -32614, "message": "limited to a 10,000 range" } });
    node.set(Mode::Body(413, error.to_string()));
    let error = client(&[&node]).block_number().await.expect_err("an error");
    assert!(matches!(error, RpcError::Response { code: -32614, .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
    let node = Node::at_head(5).await;
    node.set(Mode::Body(200, " ".repeat(10_000)));
    let rpc = client_of(&[&node.url], |config| config.max_response_bytes = 1_000);
    let error = rpc.block_number().await.expect_err("too long");
    assert!(matches!(error, RpcError::Outage { cause: OutageCause::TooLarge(1_000), .. }), "{error}");
}

#[tokio::test]
async fn an_endpoint_of_another_chain_is_never_used() {
    let (wrong, right) = (
        Node::at_head(5).await,
        Node::start(|method, _| match method {
            "eth_chainId" => Ok(json!("0x8")),
            other => basics(other, 6).unwrap_or_else(|| Err(unknown_method(other))),
        })
        .await,
    );
    let rpc = client_of(&[&wrong.url, &right.url], |config| config.chain_id = Some(8));
    assert_eq!(rpc.block_number().await.expect("an answer"), 6);
    assert_eq!(rpc.endpoints_up(), [1]);

    let alone = client_of(&[&wrong.url], |config| config.chain_id = Some(8));
    let error = alone.block_number().await.expect_err("the wrong chain");
    assert!(
        matches!(error, RpcError::Outage { cause: OutageCause::WrongChain { expected: 8, found: 7 }, .. }),
        "{error}"
    );
    assert_eq!(error.code(), kms_chain::codes::RPC_WRONG_CHAIN);
    let outcome = alone.send_raw_transaction(&Bytes::from_static(&[1])).await;
    assert!(matches!(outcome, SendOutcome::Unsent(_)), "{outcome:?}");
    assert_eq!(wrong.count("eth_sendRawTransaction"), 0);
}

// --- Lagging nodes -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_answer_that_needs_a_block_comes_only_from_a_node_that_has_it() {
    let nonce = |head: u64, nonce: u64| {
        move |method: &str, _: &Value| match method {
            "eth_getTransactionCount" => Ok(json!(format!("{nonce:#x}"))),
            other => basics(other, head).unwrap_or_else(|| Err(unknown_method(other))),
        }
    };
    let (behind, ahead) = (Node::start(nonce(5, 1)).await, Node::start(nonce(12, 2)).await);
    let rpc = client(&[&behind, &ahead]);
    assert_eq!(rpc.nonce(Address::ZERO, BlockId::latest()).await.expect("an answer"), 1);
    assert_eq!(rpc.needing(10).nonce(Address::ZERO, BlockId::latest()).await.expect("an answer"), 2);
    assert_eq!(rpc.endpoints_up(), [0, 1], "lagging is not down");

    let error = rpc.needing(13).nonce(Address::ZERO, BlockId::latest()).await.expect_err("nobody has it");
    assert!(matches!(error, RpcError::Lagging { needed: 13, best: 12, .. }), "{error}");
    assert!(error.is_outage());
}

#[tokio::test]
async fn no_logs_from_a_node_without_the_last_block_are_no_answer() {
    let (behind, ahead) = (node_with_blocks(5).await, node_with_blocks(9).await);
    let rpc = client(&[&behind, &ahead]);
    let page = rpc.logs(&query(3, 8)).await.expect("an answer");
    assert_eq!(page.endpoint, 1);
    assert_eq!(page.logs.iter().map(|log| log.block_number).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8]);
    assert_eq!((page.last.number(), page.last.hash()), (8, B256::with_last_byte(8)));
    assert_eq!(behind.methods(), ["eth_getBlockByNumber", "eth_getLogs"], "one request, the block first");

    let alone = client(&[&behind]);
    let error = alone.logs(&query(3, 8)).await.expect_err("nobody has it");
    assert!(matches!(error, RpcError::Lagging { needed: 8, .. }), "{error}");
}

#[tokio::test]
async fn heads_are_cross_checked_and_a_far_one_is_marked_down() {
    let nodes = [Node::at_head(1_000).await, Node::at_head(3).await, Node::at_head(1_001).await];
    let rpc = client(&[&nodes[0], &nodes[1], &nodes[2]]);
    let heads: Vec<u64> = rpc.heads().await.into_iter().map(|head| head.head.expect("a head")).collect();
    assert_eq!(heads, [1_000, 3, 1_001]);
    assert_eq!(rpc.endpoints_up(), [0, 2]);
    // Probes do not let it in again while it is behind.
    let probed = nodes[1].requests();
    eventually("two probes", || nodes[1].requests() >= probed + 2).await;
    assert_eq!(rpc.endpoints_up(), [0, 2]);
}

#[tokio::test]
async fn one_invented_head_does_not_discredit_the_others() {
    let nodes = [Node::at_head(1_000).await, Node::at_head(u64::MAX).await, Node::at_head(1_001).await];
    let rpc = client(&[&nodes[0], &nodes[1], &nodes[2]]);
    rpc.heads().await;
    assert_eq!(rpc.endpoints_up(), [0, 1, 2]);
}

/// A node that says its gas price, and whose head rises when told.
async fn rising(head: &Arc<AtomicU64>) -> Node {
    let head = Arc::clone(head);
    Node::start(move |method, _| match method {
        "eth_gasPrice" => Ok(json!("0x1")),
        other => basics(other, head.load(Ordering::Relaxed)).unwrap_or_else(|| Err(unknown_method(other))),
    })
    .await
}

/// Makes calls until the endpoints that are up are these.
async fn calls_until_up(rpc: &Rpc, expected: &[usize]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while rpc.endpoints_up() != expected {
        assert!(tokio::time::Instant::now() < deadline, "up are {:?}", rpc.endpoints_up());
        rpc.gas_price().await.expect("an answer");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_primary_whose_head_stands_still_is_left_until_it_has_caught_up() {
    let heads = [Arc::new(AtomicU64::new(1_000)), Arc::new(AtomicU64::new(1_000))];
    let (primary, secondary) = (rising(&heads[0]).await, rising(&heads[1]).await);
    let rpc = client_of(&[&primary.url, &secondary.url], |config| config.compare_interval = Duration::from_millis(10));
    // A few blocks behind is nothing.
    heads[1].store(1_064, Ordering::Relaxed);
    let compared = secondary.count("eth_chainId");
    while secondary.count("eth_chainId") < compared + 2 {
        rpc.gas_price().await.expect("an answer");
    }
    assert_eq!(rpc.endpoints_up(), [0, 1]);
    assert_eq!(secondary.count("eth_gasPrice"), 0);

    heads[1].store(1_065, Ordering::Relaxed);
    calls_until_up(&rpc, &[1]).await;
    let (asked, served) = (primary.count("eth_gasPrice"), secondary.count("eth_gasPrice"));
    rpc.gas_price().await.expect("an answer");
    assert_eq!(primary.count("eth_gasPrice"), asked, "the primary is not asked");
    assert_eq!(secondary.count("eth_gasPrice"), served + 1);

    // Where nothing else answers, it serves again, and the other one as soon as it is back.
    secondary.set(Mode::Body(503, "try later".to_owned()));
    // The call that finds out may be without an answer.
    let _ = rpc.gas_price().await;
    rpc.gas_price().await.expect("an answer of the primary");
    secondary.set(Mode::Normal);
    calls_until_up(&rpc, &[1]).await;

    heads[0].store(1_060, Ordering::Relaxed);
    calls_until_up(&rpc, &[0, 1]).await;
    let served = secondary.count("eth_gasPrice");
    rpc.gas_price().await.expect("an answer");
    assert_eq!(secondary.count("eth_gasPrice"), served, "the primary serves again");
}

#[tokio::test]
async fn an_invented_head_keeps_nobody_out_who_was_away() {
    let nodes = [Node::at_head(1_000).await, Node::at_head(u64::MAX).await, Node::at_head(1_001).await];
    let rpc = client(&[&nodes[0], &nodes[1], &nodes[2]]);
    rpc.heads().await;
    nodes[0].set(Mode::Body(503, "try later".to_owned()));
    rpc.chain_id().await.expect("an answer");
    assert_eq!(rpc.endpoints_up(), [1, 2]);
    nodes[0].set(Mode::Normal);
    eventually("the recovery of the first", || rpc.endpoints_up() == [0, 1, 2]).await;
}

#[tokio::test]
async fn a_single_endpoint_is_compared_with_nothing_and_several_only_at_their_interval() {
    let alone = Node::at_head(5).await;
    let rpc = client_of(&[&alone.url], |config| config.compare_interval = Duration::ZERO);
    let nodes = [Node::at_head(5).await, Node::at_head(5).await];
    let several = client(&[&nodes[0], &nodes[1]]);
    for _ in 0..10 {
        rpc.block_number().await.expect("an answer");
        several.block_number().await.expect("an answer");
    }
    assert_eq!(alone.requests(), 10);
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (10, 0));
}

// --- Batches -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn answers_of_a_batch_are_matched_by_their_ids() {
    let node = node_with_blocks(50).await;
    node.set(Mode::Reversed);
    let rpc = client_of(&[&node.url], |config| config.max_batch = 7);
    let blocks = rpc.blocks(10..=40).await.expect("an answer");
    assert_eq!(blocks.iter().map(kms_chain::rpc::Block::number).collect::<Vec<_>>(), (10..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_with_a_missing_or_a_second_answer_is_malformed() {
    for mode in [Mode::Forgetful, Mode::Repeating] {
        let (primary, secondary) = (node_with_blocks(9).await, node_with_blocks(9).await);
        primary.set(mode);
        let rpc = client(&[&primary, &secondary]);
        assert_eq!(rpc.blocks(1..=3).await.expect("an answer").len(), 3);
        assert_eq!(rpc.endpoints_up(), [1]);
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_is_halved_and_what_was_taken_is_remembered() {
    let node = node_with_blocks(50).await;
    node.set(Mode::SmallBatches(3));
    let rpc = client(&[&node]);
    assert_eq!(rpc.blocks(1..=20).await.expect("an answer").len(), 20);
    let requests = node.requests();
    assert_eq!(rpc.blocks(1..=20).await.expect("an answer").len(), 20);
    assert_eq!(node.requests() - requests, 11, "21 calls, two at a time");

    node.set(Mode::SmallBatches(1));
    assert_eq!(rpc.blocks(1..=3).await.expect("an answer").len(), 3);
}

#[tokio::test]
async fn an_error_of_one_call_of_a_batch_concerns_only_that_call() {
    let node = Node::start(|method, params| match method {
        "eth_call" => match params[0]["data"].as_str() {
            Some("0x01") => Ok(json!("0xaa")),
            Some("0x02") => Err(json!({ "code": 3, "message": "execution reverted", "data": "0x8b248b60" })),
            _ => Err(json!({ "code": -32000, "message": "execution reverted" })),
        },
        other => Err(unknown_method(other)),
    })
    .await;
    let calls = [1, 2, 3].map(|byte| CallRequest::view(Address::ZERO, vec![byte]));
    let answers = client(&[&node]).calls(&calls, BlockId::latest()).await.expect("answers");
    assert!(matches!(&answers[0], Ok(bytes) if bytes[..] == [0xaa]));
    let Err(CallError::Reverted(data)) = &answers[1] else { panic!("{:?}", answers[1]) };
    assert_eq!(Revert::decode(data).name(), "DeserializingExtraDataFail");
    assert!(matches!(&answers[2], Err(CallError::Reverted(data)) if data.is_empty()));
}

// --- Logs ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_range_that_is_too_large_has_a_type_of_its_own() {
    let texts = [
        (-32005, "query returned more than 10000 results. Try with this block range [0x1, 0x2]."),
        (-32602, "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range"),
        (-32600, "You can make eth_getLogs requests with up to a 500 block range. Based on your parameters"),
        (-32614, "eth_getLogs is limited to a 10,000 range"),
        (-32602, "eth_getLogs and eth_newFilter are limited to a 10,000 blocks range"),
        (-32602, "query exceeds max results 20000, retry with the range 25766988-25775072"),
        (-32602, "query exceeds max block range 100000"),
        (-32602, "range 1000000 exceeds limit of 10000"),
        (-32000, "block range is larger than max block range, block range = 5120, max block range = 5000"),
        (-32000, "block range is bigger than maxBlockRange"),
        (-32603, "block range is too wide (maximum 1024)"),
        (-32000, "exceed maximum block range: 5000"),
        (-32005, "logs matched by query exceeds limit of 10000"),
        (-32008, "Response is too big"),
        (-32002, "query timeout exceeded. Consider reducing your block range."),
    ];
    for (code, message) in texts {
        let node = Node::start(move |method, params| match method {
            "eth_getBlockByNumber" => Ok(block(number_of(params))),
            _ => Err(json!({ "code": code, "message": message })),
        })
        .await;
        let rpc = client(&[&node]);
        let error = rpc.logs(&query(1, 9)).await.expect_err("too large");
        assert!(matches!(error, RpcError::LogRangeTooLarge { .. }), "{message}: {error}");
        assert!(!error.is_outage());
        assert_eq!(rpc.endpoints_up(), [0]);
    }
}

#[tokio::test]
async fn more_logs_than_the_limit_of_an_answer_are_too_large_a_range() {
    let node = node_with_blocks(500).await;
    let rpc = client_of(&[&node.url], |config| config.max_response_bytes = 20_000);
    let error = rpc.logs(&query(1, 400)).await.expect_err("too large");
    assert!(matches!(error, RpcError::LogRangeTooLarge { .. }), "{error}");
    assert_eq!(rpc.logs(&query(1, 10)).await.expect("a smaller range").logs.len(), 10);
}

#[tokio::test]
async fn logs_that_contradict_the_question_or_the_block_are_malformed() {
    let foreign = log(99, 0);
    let mut other_block = log(9, 0);
    other_block["blockHash"] = json!(hash(1_234));
    let mut pending = log(9, 0);
    pending["blockNumber"] = Value::Null;
    let mut removed = log(9, 0);
    removed["removed"] = json!(true);
    for wrong in [foreign, other_block, pending, removed] {
        let liar = Node::start(move |method, params| match method {
            "eth_getBlockByNumber" => Ok(block(number_of(params))),
            _ => Ok(json!([wrong])),
        })
        .await;
        let honest = node_with_blocks(9).await;
        let rpc = client(&[&liar, &honest]);
        assert_eq!(rpc.logs(&query(1, 9)).await.expect("an answer").endpoint, 1);
        assert_eq!(rpc.endpoints_up(), [1]);
    }
}

// --- Arbitrum ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn blocks_receipts_and_transactions_of_an_arbitrum_chain_are_read() {
    let node = Node::start(|method, params| match method {
        "eth_getBlockByNumber" => Ok(block(8)),
        "eth_getBlockReceipts" => Ok(json!([receipt(8, 0), receipt(8, 1)])),
        "eth_getTransactionByHash" => Ok(json!({
            "hash": params[0], "blockHash": hash(8), "blockNumber": "0x8", "from": Address::ZERO, "gas": "0x0",
            "gasPrice": "0x0", "input": "0x6bf6a42d", "nonce": "0x0", "to": Address::with_last_byte(0x65),
            "transactionIndex": "0x0", "value": "0x0", "type": "0x6a", "chainId": "0x7", "v": "0x0", "r": "0x0",
            "s": "0x0", "requestId": hash(4),
        })),
        other => Err(unknown_method(other)),
    })
    .await;
    let rpc = client(&[&node]);
    let latest = rpc.latest_block().await.expect("a block");
    assert_eq!((latest.number(), latest.timestamp(), latest.base_fee()), (8, 0x6553_f100, 10_000_000));
    assert_eq!(latest.parent_hash(), B256::with_last_byte(7));
    assert_eq!(latest.transactions.len(), 2);

    let receipts = rpc.block_receipts(latest.hash()).await.expect("an answer").expect("a block");
    assert_eq!(receipts.iter().map(Receipt::gas_used_for_l1).collect::<Vec<_>>(), [42, 42]);
    assert!(receipts[1].succeeded());
    assert_eq!(receipts[1].block().expect("mined").number, 8);
    let logs = receipts[1].logs().expect("complete logs");
    assert_eq!((logs[0].log_index, &logs[0].raw.data[..]), (0, &[1, 2][..]));

    let transaction = rpc.transaction(B256::with_last_byte(3)).await.expect("an answer").expect("known");
    assert_eq!((&transaction.input[..], transaction.block_number), (&[0x6b, 0xf6, 0xa4, 0x2d][..], Some(8)));
}

#[tokio::test]
async fn receipts_are_fetched_by_transaction_where_the_node_has_none_by_block() {
    let node = node_with_blocks(9).await;
    let rpc = client(&[&node]);
    for _ in 0..2 {
        let receipts = rpc.block_receipts(B256::with_last_byte(8)).await.expect("an answer").expect("a block");
        let hashes: Vec<String> = receipts.iter().map(|receipt| receipt.transaction_hash().to_string()).collect();
        assert_eq!(hashes, [transaction_hash(8, 0), transaction_hash(8, 1)]);
    }
    assert_eq!(node.count("eth_getBlockReceipts"), 1, "what the node does not offer is asked for once");
    assert_eq!(rpc.block_receipts(B256::with_last_byte(77)).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_block_that_the_node_does_not_have_is_none() {
    let rpc = client(&[&node_with_blocks(9).await]);
    assert_eq!(rpc.block(BlockNumberOrTag::Number(10)).await.expect("an answer"), None);
    assert_eq!(rpc.block(BlockNumberOrTag::Finalized).await.expect("an answer"), None);
    assert_eq!(rpc.block_by_hash(B256::with_last_byte(10)).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_node_that_does_not_offer_a_method_is_no_node_without_the_block() {
    let rpc = client(&[&Node::start(|_, _| Err(json!({ "code": -32601, "message": "Method not found" }))).await]);
    assert!(matches!(rpc.block(BlockNumberOrTag::Safe).await, Err(RpcError::Response { code: -32601, .. })));
    assert!(matches!(rpc.block_by_hash(B256::ZERO).await, Err(RpcError::Response { .. })));
}

#[tokio::test]
async fn finality_says_up_to_which_block_a_source_is_followed() {
    let rpc = client(&[&node_with_blocks(9).await]);
    let resolve =
        async |finality: Finality| finality.resolve(&rpc).await.expect("an answer").map(|block| block.number());
    assert_eq!(resolve(Finality::Latest).await, Some(9));
    assert_eq!(resolve(Finality::Depth(0)).await, Some(9));
    assert_eq!(resolve(Finality::Depth(9)).await, Some(0));
    assert_eq!(resolve(Finality::Depth(10)).await, None, "the chain is shorter");
    assert_eq!(resolve(Finality::Finalized).await, None, "the node does not know the tag yet");
}

// --- Sending -------------------------------------------------------------------------------------------------------

async fn sender(error: Value) -> Node {
    Node::start(move |method, params| match (method, params[0].as_str()) {
        ("eth_sendRawTransaction", Some("0x01")) => Ok(json!(hash(1))),
        ("eth_sendRawTransaction", _) => Err(error.clone()),
        (other, _) => Err(unknown_method(other)),
    })
    .await
}

#[tokio::test]
async fn every_transaction_of_a_batch_has_its_own_outcome_in_order() {
    let node = sender(json!({ "code": -32003, "message": "transaction already imported" })).await;
    let rpc = client_of(&[&node.url], |config| config.max_batch = 2);
    let outcomes = rpc.send_raw_transactions(&[1, 2, 1].map(|byte| Bytes::from(vec![byte]))).await;
    let accepted = SendOutcome::Accepted(B256::with_last_byte(1));
    assert_eq!(outcomes, [accepted.clone(), SendOutcome::AlreadyKnown, accepted]);
}

#[tokio::test]
async fn refusals_of_nodes_have_types() {
    let cases = [
        ("already known", "already_known"),
        ("transaction already imported", "already_known"),
        ("known transaction: 0x1234", "already_known"),
        ("nonce too low", "nonce_too_low"),
        ("nonce too low: next nonce 832, tx nonce 831", "nonce_too_low"),
        ("nonce too low: address 0x0000000000000000000000000000000000000001, tx: 3 state: 4", "nonce_too_low"),
        ("nonce too high: address 0x0000000000000000000000000000000000000001, tx: 9 state: 4", "nonce_too_high"),
        ("nonce too high: tx nonce 7, gapped nonce 5", "nonce_too_high"),
        ("replacement transaction underpriced", "replacement_underpriced"),
        ("future transaction tries to replace pending", "replacement_underpriced"),
        ("transaction underpriced: gas tip cap 1, minimum needed 1000000", "fee_too_low"),
        ("max fee per gas less than block base fee", "fee_too_low"),
        ("max fee per gas less than block base fee: address 0x00, maxFeePerGas: 1, baseFee: 2", "fee_too_low"),
        ("insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1", "insufficient_funds"),
        ("Insufficient funds for gas * price + value", "insufficient_funds"),
        ("in-flight transaction limit reached for delegated accounts", "account_limit"),
        ("gapped-nonce tx from delegated accounts", "account_limit"),
        ("txpool is full", "busy"),
        ("please retry transaction", "busy"),
        ("intrinsic gas too low: have 1, want 21000", "gas_limit"),
        ("exceeds block gas limit", "gas_limit"),
        ("transaction gas limit too high (cap: 16777216, tx: 30000000)", "gas_limit"),
        ("context deadline exceeded", "uncertain"),
        ("request timed out", "uncertain"),
        ("invalid sender", "invalid"),
        ("only replay-protected (EIP-155) transactions allowed over RPC", "refused"),
    ];
    for (message, expected) in cases {
        let rpc = client(&[&sender(json!({ "code": -32000, "message": message })).await]);
        let outcome = rpc.send_raw_transaction(&Bytes::from_static(&[2])).await;
        assert_eq!(outcome.as_str(), expected, "{message}");
        assert_eq!(outcome.is_held(), expected == "already_known", "{message}");
        assert_eq!(rpc.endpoints_up(), [0], "{message}");
    }
}

#[tokio::test]
async fn a_send_that_timed_out_is_no_failed_send_and_is_not_repeated_elsewhere() {
    let error = json!({ "code": -32000, "message": "nonce too low" });
    let (primary, secondary) = (sender(error.clone()).await, sender(error).await);
    primary.set(Mode::Hang);
    let rpc = client_of(&[&primary.url, &secondary.url], impatient);
    let outcome = rpc.send_raw_transaction(&Bytes::from_static(&[1])).await;
    assert!(matches!(outcome, SendOutcome::Uncertain(OutageCause::Timeout(_))), "{outcome:?}");
    assert_eq!(secondary.requests(), 0);
    assert_eq!(rpc.endpoints_up(), [0, 1], "a sequencer may hold a transaction back");
}

#[tokio::test]
async fn a_send_goes_to_the_next_endpoint_only_when_nothing_was_sent() {
    let node = sender(Value::Null).await;
    let rpc = client_of(&[DEAD_URL, &node.url], |_| {});
    let outcome = rpc.send_raw_transaction(&Bytes::from_static(&[1])).await;
    assert_eq!(outcome, SendOutcome::Accepted(B256::with_last_byte(1)));

    let nobody = client_of(&[DEAD_URL], |_| {});
    let outcome = nobody.send_raw_transaction(&Bytes::from_static(&[1])).await;
    assert!(matches!(outcome, SendOutcome::Unsent(OutageCause::Connect(_))), "{outcome:?}");

    let (broken, other) = (sender(Value::Null).await, sender(Value::Null).await);
    broken.set(Mode::Body(502, String::new()));
    let rpc = client(&[&broken, &other]);
    let outcome = rpc.send_raw_transaction(&Bytes::from_static(&[1])).await;
    assert_eq!(outcome, SendOutcome::Uncertain(OutageCause::Status(502)));
    assert_eq!(other.requests(), 0);
}

#[tokio::test]
async fn a_transaction_goes_to_the_next_endpoint_where_one_takes_none_now() {
    let none = json!({ "code": -32000, "message": "sequencer temporarily not available" });
    let known = json!({ "code": -32000, "message": "already known" });
    let (paused, other) = (sender(none.clone()).await, sender(known).await);
    let outcome = client(&[&paused, &other]).send_raw_transaction(&Bytes::from_static(&[2])).await;
    assert_eq!(outcome, SendOutcome::AlreadyKnown, "the other endpoint was not asked");

    let rpc = client(&[&sender(none.clone()).await, &sender(none).await]);
    let outcome = rpc.send_raw_transaction(&Bytes::from_static(&[2])).await;
    assert_eq!(outcome, SendOutcome::Busy("sequencer temporarily not available".to_owned()));
    assert_eq!(rpc.endpoints_up(), [0, 1], "reading goes on");
}

#[tokio::test]
async fn a_batch_of_transactions_that_is_refused_is_sent_in_halves_in_order() {
    let node = sender(Value::Null).await;
    node.set(Mode::SmallBatches(1));
    let outcomes = client(&[&node]).send_raw_transactions(&vec![Bytes::from_static(&[1]); 5]).await;
    assert_eq!(outcomes, vec![SendOutcome::Accepted(B256::with_last_byte(1)); 5]);
    assert_eq!(node.count("eth_sendRawTransaction"), 5);
}

// --- Calls and views -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn revert_data_is_found_where_nodes_put_it() {
    let data = "0x99ec48d901000000000000000000000000000000000000000000000000000000000000010000000000000000000000003147a4533e4dfe4300ab9d690206b44ced439448";
    for error in [
        json!({ "code": 3, "message": "execution reverted", "data": data }),
        json!({ "code": 3, "message": "execution reverted", "data": { "data": data } }),
        json!({ "code": -32015, "message": "VM execution error.", "data": format!("Reverted {data}") }),
    ] {
        let node = Node::start(move |_, _| Err(error.clone())).await;
        let rpc = client(&[&node]);
        let request = CallRequest::from(Address::ZERO, Address::ZERO, Vec::new());
        let Err(CallError::Reverted(found)) = rpc.call(&request, BlockId::latest()).await else { panic!("no revert") };
        assert_eq!(Revert::decode(&found).name(), "KmsNodeAlreadySigned");
        let Err(CallError::Reverted(found)) = rpc.estimate_gas(&request).await else { panic!("no revert") };
        assert_eq!(found.to_string(), data);
    }
}

#[tokio::test]
async fn a_call_that_was_executed_and_failed_is_told_by_every_nodes_text() {
    for message in [
        "invalid jump destination",
        "stack underflow (0 <=> 2)",
        "stack limit reached 1024 (1023)",
        "write protection",
        "return data out of bounds",
        "out of gas",
        "invalid opcode: INVALID",
        "gas uint64 overflow",
        "VM execution error.",
        "EVM error: InvalidJump",
    ] {
        let node = Node::start(move |_, _| Err(json!({ "code": -32000, "message": message }))).await;
        let request = CallRequest::view(Address::ZERO, Vec::new());
        let failed = client(&[&node]).call(&request, BlockId::latest()).await;
        assert!(matches!(&failed, Err(CallError::Reverted(data)) if data.is_empty()), "{message}: {failed:?}");
    }
}

#[tokio::test]
async fn p5_a_contract_that_writes_of_a_limit_on_the_rate_takes_no_endpoint_out_of_use() {
    let reason = "0x08c379a0";
    for error in [
        json!({ "code": 3, "message": "execution reverted: rate limit", "data": reason }),
        json!({ "code": -32000, "message": "execution reverted: too many requests" }),
        json!({ "code": -32015, "message": "request limit", "data": format!("Reverted {reason}") }),
    ] {
        let node = Node::start(move |method, params| match (method, params[0]["data"].as_str()) {
            ("eth_call", Some("0x01")) => Ok(json!("0xaa")),
            _ => Err(error.clone()),
        })
        .await;
        let rpc = client(&[&node]);
        let calls = [1, 2].map(|byte| CallRequest::view(Address::ZERO, vec![byte]));
        let answers = rpc.calls(&calls, BlockId::latest()).await.expect("answers");
        assert!(answers[0].is_ok() && matches!(answers[1], Err(CallError::Reverted(_))), "{answers:?}");
        assert_eq!(rpc.endpoints_up(), [0]);
    }
}

#[test]
fn what_a_node_says_of_itself_is_told_from_what_it_says_of_a_call() {
    let response =
        |code, message: &str| RpcError::Response { method: "eth_call", code, message: message.to_owned(), data: None };
    for (code, message) in [
        (-32000, "header not found"),
        (-32000, "missing trie node 1a2b (path 0304)"),
        (-32000, "execution aborted (timeout = 5s)"),
        (-32002, "request timed out"),
        (-32601, "the method eth_call does not exist/is not available"),
        (429, "slow down"),
    ] {
        assert!(response(code, message).is_about_the_node(), "{message}");
    }
    for message in ["err: intrinsic gas too low: have 100000, want 101464 (supplied gas 100000)", "stack underflow", ""]
    {
        assert!(!response(-32000, message).is_about_the_node(), "{message}");
    }
}

#[tokio::test]
async fn a_call_that_was_not_executed_is_no_revert() {
    for (code, message) in [(-32000, "header not found"), (-32603, "internal error"), (-32000, "missing trie node")] {
        let node = Node::start(move |_, _| Err(json!({ "code": code, "message": message }))).await;
        let request = CallRequest::view(Address::ZERO, Vec::new());
        let error = client(&[&node]).call(&request, BlockId::latest()).await.expect_err("an error");
        assert!(matches!(error, CallError::Rpc(RpcError::Response { .. })), "{error}");
        let error = version(&client(&[&node]), Address::ZERO, BlockId::latest()).await.expect_err("an error");
        assert!(matches!(error.unexecuted(), Some(RpcError::Response { .. })), "{error}");
    }
}

#[tokio::test]
async fn a_contract_that_reverts_or_is_not_there_was_asked() {
    for (code, message) in [(3, "execution reverted"), (-32000, "VM Exception while processing transaction: revert")] {
        let node = Node::start(move |_, _| Err(json!({ "code": code, "message": message }))).await;
        let error = version(&client(&[&node]), Address::ZERO, BlockId::latest()).await.expect_err("a revert");
        assert!(error.unexecuted().is_none(), "{error}");
    }
    let nobody = Node::start(answering(|_| Vec::new())).await;
    let error = version(&client(&[&nobody]), Address::ZERO, BlockId::latest()).await.expect_err("nothing there");
    assert!(error.unexecuted().is_none(), "{error}");
}

fn answering(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> impl Fn(&str, &Value) -> node::Outcome {
    move |method, params| match method {
        "eth_call" => {
            let data: Bytes = params[0]["data"].as_str().expect("data").parse().expect("hex");
            Ok(json!(Bytes::from(answer(&data))))
        }
        other => Err(unknown_method(other)),
    }
}

#[tokio::test]
async fn an_address_without_a_contract_is_told_from_every_answer() {
    let rpc = client(&[&Node::start(answering(|_| Vec::new())).await]);
    let error = detect_release(&rpc, &gateway()).await.expect_err("nothing there");
    assert!(matches!(error, ReleaseError::View(ViewError::NoContract { .. })), "{error}");
    let views = GatewayConfigViews::new(rpc, Address::ZERO);
    assert!(matches!(views.kms_signers().await, Err(ViewError::NoContract { .. })));
    assert!(matches!(views.thresholds().await, Err(ViewError::NoContract { .. })));
}

const DECRYPTION: Address = Address::with_last_byte(0xd1);
const GENERATION: Address = Address::with_last_byte(0xd2);
const PROTOCOL: Address = Address::with_last_byte(0xd3);

fn gateway() -> ContractSet {
    ContractSet::gateway(Release::V0_11, DECRYPTION)
}

/// A node on which each of these contracts reports this version.
async fn reporting(versions: &'static [(Address, &'static str)]) -> Node {
    Node::start(move |method, params| match method {
        "eth_call" => {
            let to: Address = params[0]["to"].as_str().expect("a contract").parse().expect("an address");
            let version = versions.iter().find(|(contract, _)| *contract == to).map_or("", |(_, version)| version);
            Ok(json!(Bytes::from(Proxy::getVersionCall::abi_encode_returns(&version.to_owned()))))
        }
        other => Err(unknown_method(other)),
    })
    .await
}

#[tokio::test]
async fn the_release_is_detected_from_the_versions_of_the_contracts() {
    let rpc = client(&[&reporting(&[(DECRYPTION, "Decryption v0.3.0")]).await]);
    assert_eq!(detect_release(&rpc, &gateway()).await.expect("served"), Release::V0_11);
    for other in ["Decryption v0.8.0", "KMSGeneration v0.3.0", ""] {
        let rpc =
            client(&[
                &Node::start(answering(move |_| Proxy::getVersionCall::abi_encode_returns(&other.to_owned()))).await
            ]);
        let error = detect_release(&rpc, &gateway()).await.expect_err("not served");
        assert!(matches!(error, ReleaseError::Unsupported { .. }), "{error}");
        assert!(!error.is_outage());
    }
    let host = ContractSet::host(Release::V0_11, GENERATION, PROTOCOL);
    let rpc = client(&[&reporting(&[(GENERATION, "KMSGeneration v0.1.0"), (PROTOCOL, "ProtocolConfig v0.1.0")]).await]);
    assert_eq!(detect_release(&rpc, &host).await.expect("served"), Release::V0_13);
}

#[tokio::test]
async fn a_configured_release_is_taken_where_the_contracts_do_not_contradict_it() {
    let host = ContractSet::host(Release::V0_11, GENERATION, PROTOCOL);
    let rpc = client(&[&reporting(&[(GENERATION, "KMSGeneration v0.2.0"), (PROTOCOL, "ProtocolConfig v0.2.0")]).await]);
    assert_eq!(resolve_release(&rpc, &host, ReleaseChoice::Auto).await.expect("served"), Release::V0_15);
    let older = resolve_release(&rpc, &host, ReleaseChoice::Is(Release::V0_14)).await;
    assert_eq!(older.expect("the same contracts"), Release::V0_14);
    let error = resolve_release(&rpc, &host, ReleaseChoice::Is(Release::V0_13)).await.expect_err("contradicted");
    assert!(matches!(error, ReleaseError::Contradicted { configured: Release::V0_13, .. }), "{error}");
    assert_eq!(error.code(), "KC-0310");

    // A contract that says nothing, or something unheard of, does not contradict; one that is retired does.
    let rpc = client(&[&reporting(&[(GENERATION, "KMSGeneration v0.3.0")]).await]);
    let taken = resolve_release(&rpc, &host, ReleaseChoice::Is(Release::V0_15)).await;
    assert_eq!(taken.expect("the operator's word"), Release::V0_15);
    let rpc = client(&[&Node::start(answering(|_| Vec::new())).await]);
    let taken = resolve_release(&rpc, &host, ReleaseChoice::Is(Release::V0_15)).await;
    assert_eq!(taken.expect("the operator's word"), Release::V0_15);
    let rpc = client(&[&reporting(&[(GENERATION, "KMSGeneration v0.5.0")]).await]);
    let error = resolve_release(&rpc, &host, ReleaseChoice::Is(Release::V0_15)).await.expect_err("retired");
    assert!(matches!(error, ReleaseError::Retired { .. }), "{error}");
    // An outage is no answer.
    let error = resolve_release(&client_of(&[DEAD_URL], |_| {}), &host, ReleaseChoice::Is(Release::V0_15)).await;
    assert!(error.expect_err("nobody there").is_outage());
}

#[tokio::test]
async fn p4_an_error_of_a_node_is_no_version_that_agrees_with_the_configured_release() {
    let host = ContractSet::host(Release::V0_11, GENERATION, PROTOCOL);
    for (code, message) in [(-32000, "header not found"), (-32603, "internal error"), (-32603, "timeout")] {
        let rpc = client(&[&Node::start(move |_, _| Err(json!({ "code": code, "message": message }))).await]);
        for choice in [ReleaseChoice::Auto, ReleaseChoice::Is(Release::V0_15)] {
            let error = resolve_release(&rpc, &host, choice).await.expect_err("nobody knows");
            assert!(error.is_outage(), "waited for, not refused: {error}");
        }
    }
}

#[tokio::test]
async fn views_of_the_host_chain_are_asked_at_the_block_of_the_callers_choice() {
    let node = Node::start(|method, params| {
        assert_eq!(method, "eth_call");
        assert_eq!(params[1], json!("0x10"), "the block");
        let data: Bytes = params[0]["data"].as_str().expect("data").parse().expect("hex");
        let selector: [u8; 4] = data[..4].try_into().expect("a selector");
        let answer = match selector {
            b::ProtocolConfig::getKmsContextAnchorCall::SELECTOR => {
                let known = data[35] == 1;
                b::ProtocolConfig::getKmsContextAnchorCall::abi_encode_returns(
                    &b::ProtocolConfig::getKmsContextAnchorReturn {
                        emissionBlockNumber: U256::from(if known { 7 } else { 0 }),
                        contextInfoHash: if known { B256::repeat_byte(9) } else { B256::ZERO },
                    },
                )
            }
            b::ProtocolConfig::isValidEpochForContextCall::SELECTOR => {
                b::ProtocolConfig::isValidEpochForContextCall::abi_encode_returns(&(data[35] == 1))
            }
            b::KMSGeneration::getCompletedKeyIdsCall::SELECTOR => {
                b::KMSGeneration::getCompletedKeyIdsCall::abi_encode_returns(&vec![U256::from(2), U256::from(1)])
            }
            b::KMSGeneration::getKeyInfoCall::SELECTOR => {
                b::KMSGeneration::getKeyInfoCall::abi_encode_returns(&b::KeyInfo {
                    prepKeygenId: U256::from(3),
                    keyId: U256::from(4),
                    paramsType: 1,
                    keyDigests: vec![KeyDigest { keyType: 3, digest: Bytes::from_static(b"d") }],
                })
            }
            other => panic!("no view {other:?}"),
        };
        Ok(json!(Bytes::from(answer)))
    })
    .await;
    let rpc = client(&[&node]);
    let block = BlockId::from(16_u64);
    let id = |value: u64| RequestId::from(U256::from(value));
    let protocol = ProtocolConfigViews::new(rpc.clone(), PROTOCOL);
    let anchor = protocol.context_anchor(id(1), block).await.expect("answered").expect("known");
    assert_eq!((anchor.block_number, anchor.info_hash), (7, B256::repeat_byte(9)));
    assert_eq!(protocol.context_anchor(id(2), block).await.expect("answered"), None);
    assert!(protocol.is_valid_epoch(id(1), id(5), block).await.expect("answered"));
    let generation = KmsGenerationViews::new(rpc, GENERATION);
    assert_eq!(generation.completed_key_ids(block).await.expect("answered"), [id(2), id(1)]);
    let key = generation.key(id(4), block).await.expect("answered");
    assert_eq!((key.prep_keygen_id, key.key_id, key.params_type, key.key_digests[0].key_type), (id(3), id(4), 1, 3));
}

#[tokio::test]
async fn questions_about_access_are_asked_together_and_answered_in_order() {
    let node = Node::start(answering(|data| {
        let allowed = data.starts_with(&HostAcl::isAllowedForDecryptionCall::SELECTOR);
        HostAcl::isAllowedForDecryptionCall::abi_encode_returns(&allowed)
    }))
    .await;
    let views = AclViews::new(client(&[&node]), Address::with_last_byte(0xac));
    let (handle, account) = (B256::repeat_byte(1), Address::repeat_byte(2));
    let questions = [
        AclQuestion::Allowed { handle, account },
        AclQuestion::AllowedForDecryption { handle },
        AclQuestion::Delegated { delegator: account, delegate: account, contract: account, handle },
    ];
    assert_eq!(views.ask(&questions, BlockId::latest()).await.expect("answered"), [false, true, false]);
    assert_eq!(views.ask(&[], BlockId::latest()).await.expect("nothing asked"), Vec::<bool>::new());
    let nothing = AclViews::new(client(&[&Node::start(answering(|_| Vec::new())).await]), Address::ZERO);
    let error = nothing.ask(&questions, BlockId::latest()).await.expect_err("no contract is no refusal");
    assert!(matches!(error, ViewError::NoContract { .. }), "{error}");
}

#[tokio::test]
async fn a_domain_that_differs_from_the_contracts_own_is_refused() {
    let contract = Address::with_last_byte(0xd1);
    let found = move |_: &[u8]| {
        Proxy::eip712DomainCall::abi_encode_returns(&Proxy::eip712DomainReturn {
            fields: [0x0f].into(),
            name: "Decryption".to_owned(),
            version: "1".to_owned(),
            chainId: alloy::primitives::U256::from(7),
            verifyingContract: contract,
            salt: B256::ZERO,
            extensions: Vec::new(),
        })
    };
    let rpc = client(&[&Node::start(answering(found)).await]);
    check_domain(&rpc, &Domain::decryption(7, contract)).await.expect("the same domain");
    for other in [
        Domain::decryption(8, contract),
        Domain::kms_generation(7, contract),
        Domain::new("Decryption", "2", 7, contract),
        Domain::decryption(7, Address::ZERO),
    ] {
        let error = check_domain(&rpc, &other).await.expect_err("another domain");
        assert!(matches!(error, DomainError::Mismatch { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_registry_of_the_gateway_is_read() {
    let node = kms_chain::contracts::KmsNode {
        txSenderAddress: Address::with_last_byte(1),
        signerAddress: Address::with_last_byte(2),
        ipAddress: "127.0.0.1".to_owned(),
        storageUrl: "http://storage".to_owned(),
    };
    let registered = node.clone();
    let answer = move |data: &[u8]| {
        let selector: [u8; 4] = data[..4].try_into().expect("a selector");
        let number =
            |value: u64| GatewayConfig::getMpcThresholdCall::abi_encode_returns(&alloy::primitives::U256::from(value));
        match selector {
            GatewayConfig::getPublicDecryptionThresholdCall::SELECTOR => number(3),
            GatewayConfig::getUserDecryptionThresholdCall::SELECTOR => number(4),
            GatewayConfig::getKmsGenThresholdCall::SELECTOR => number(5),
            GatewayConfig::getMpcThresholdCall::SELECTOR => number(1),
            GatewayConfig::getKmsNodeCall::SELECTOR => {
                let known = data[35] == 1;
                let node = if known { registered.clone() } else { kms_chain::contracts::KmsNode::default() };
                GatewayConfig::getKmsNodeCall::abi_encode_returns(&node)
            }
            _ => Vec::new(),
        }
    };
    let views = GatewayConfigViews::new(client(&[&Node::start(answering(answer)).await]), Address::ZERO);
    let thresholds = views.thresholds().await.expect("thresholds");
    assert_eq!((thresholds.public_decryption, thresholds.user_decryption), (3, 4));
    assert_eq!((thresholds.kms_generation, thresholds.mpc), (5, 1));
    assert_eq!(views.kms_node(Address::with_last_byte(1)).await.expect("an answer"), Some(node));
    assert_eq!(views.kms_node(Address::with_last_byte(9)).await.expect("an answer"), None);
    assert_eq!(views.kms_node(Address::ZERO).await.expect("an answer"), None);
}

// --- Secrets -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn nothing_prints_the_secret_parts_of_a_url() {
    let node = Node::at_head(5).await;
    node.set(Mode::Hang);
    let rpc = client_of(&[&node.url, DEAD_URL], impatient);
    let error = rpc.block_number().await.expect_err("no answer");
    let heads = rpc.heads().await;
    let url =
        EndpointUrl::parse("https://user:secret-password@host.example:8443/secret-path?key=secret").expect("a URL");
    assert_eq!(url.to_string(), "https://host.example:8443");
    let wrong = EndpointUrl::parse("secret-thing").expect_err("no URL");
    let scheme = EndpointUrl::parse("ws://host/secret-path").expect_err("no HTTP");
    let printed = format!("{rpc:?} {error:?} {error} {heads:?} {url:?} {wrong} {wrong:?} {scheme} {:?}", rpc.config());
    assert!(!printed.contains("secret"), "{printed}");
}

#[test]
fn a_client_for_https_needs_nothing_installed_by_the_program() {
    let url = EndpointUrl::parse("https://host.example/").expect("a URL");
    kms_chain::rpc::Rpc::new(kms_chain::rpc::RpcConfig::new("test", vec![url])).expect("a client");
}

#[test]
fn a_client_without_endpoints_is_refused() {
    let error = kms_chain::rpc::Rpc::new(kms_chain::rpc::RpcConfig::new("test", Vec::new())).expect_err("no URL");
    assert_eq!(error, kms_chain::rpc::RpcConfigError::NoUrl);
}
