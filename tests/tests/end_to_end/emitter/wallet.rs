//! What a person commands with `kmsctl wallet`, through Kafka, on a real chain.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256, U256};
use kms_schemas::codec::Codec;
use kms_schemas::record::{Verdict, WalletBody, WalletEnd, WalletRecord};
use kms_schemas::topics::wallet_key;
use kms_stack::contracts::Made;
use kms_stack::{ServiceKind, StackBuilder};
use kms_tests::{eventually, get};
use serde_json::{Value, json};

use super::bench::{Bench, LIMIT, unreplaced};

const BLOCKS: Option<Duration> = Some(Duration::from_millis(100));

/// A chain with a pool, in which the emitter replaces nothing by itself.
fn by_hand(stack: StackBuilder) -> StackBuilder {
    unreplaced(stack).set(ServiceKind::Emitter, "destination.0.pool=true")
}

/// `kmsctl wallet …` with its exit code, its lines of JSON and what it said besides.
async fn wallet(bench: &Bench, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    wallet_under(bench, bench.stack.node().prefix(), arguments).await
}

async fn wallet_under(bench: &Bench, prefix: &str, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let mut command = std::process::Command::new(kms_tests::program());
    command.arg("ctl").arg("--set").arg(format!("kafka.bootstrap_servers={}", bench.stack.bootstrap_servers()));
    command.arg("--set").arg(format!("kafka.topic_prefix={prefix}"));
    command.args(["--output", "json", "wallet"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let lines = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code().unwrap(), lines, err)
}

/// The command is obeyed; its outcome.
async fn obeyed(bench: &Bench, arguments: &[&str]) -> Value {
    let (code, mut lines, error) = wallet(bench, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {error}");
    lines.pop().unwrap()
}

async fn refused(bench: &Bench, arguments: &[&str]) -> String {
    let (code, lines, error) = wallet(bench, arguments).await;
    assert_eq!(code, 3, "{arguments:?}: {lines:?} {error}");
    assert!(error.contains("KC-0125"), "{error}");
    error
}

async fn listed(bench: &Bench) -> Value {
    let (code, mut lines, error) = wallet(bench, &["list", "--rpc-url", &bench.stack.anvil().url()]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.pop().unwrap()
}

async fn await_metric(bench: &Bench, name: &str, value: f64) {
    let emitter = bench.stack.node().emitter();
    eventually(&format!("{name} is {value}"), LIMIT, async || {
        (emitter.metric(name).await == Some(value)).then_some(())
    })
    .await;
}

async fn readiness(bench: &Bench) -> (bool, String) {
    let response = get(&format!("http://{}/readyz", bench.stack.node().emitter().listen())).await.unwrap();
    (response.status().is_success(), response.text().await.unwrap())
}

/// Answers with the emitter, held for want of blocks: so many transactions in the pool.
async fn held(bench: &Bench, answers: usize, transactions: usize) -> Vec<Made> {
    let made = bench.requests(answers).await;
    let results = bench.placed(&bench.results(&made)).await;
    bench.stop_mining().await;
    bench.publish(&results).await;
    bench.await_pending(transactions).await;
    made
}

async fn in_pool(bench: &Bench, hash: &B256) -> bool {
    let found = bench.rpc("eth_getTransactionByHash", json!([hash])).await;
    !found.is_null() && found["blockNumber"].is_null()
}

fn hash_of(outcome: &Value) -> B256 {
    serde_json::from_value(outcome["transactions"][0].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_paused_account_sends_nothing_over_a_kill_and_a_restart_until_it_is_resumed() {
    let bench = Bench::start_with("wallet-pause", BLOCKS, by_hand).await;
    let emitter = bench.stack.node().emitter();
    let mut made = bench.warm_up().await;
    let nonce = bench.account_nonce().await;
    let outcome = obeyed(&bench, &["pause", "--reason", "the node is moved", "--as", "ann"]).await;
    assert_eq!((&outcome["end"], &outcome["action"]), (&json!("done"), &json!("pause")), "{outcome}");
    let (is_ready, text) = readiness(&bench).await;
    assert!(is_ready && text.contains("paused, nothing is sent: ann: the node is moved"), "{text}");
    await_metric(&bench, "kms_connector_emitter_paused", 1.0).await;

    made.extend(bench.requests(10).await);
    bench.publish(&bench.results(&made[1..])).await;
    await_metric(&bench, "kms_connector_answers_waiting", 10.0).await;
    // Somebody else has the same idea, and hears of the first; so does who asks while no emitter runs, later.
    let outcome = obeyed(&bench, &["pause", "--reason", "an alarm", "--as", "bob"]).await;
    let told = outcome["text"].as_str().unwrap();
    assert!(told.contains("paused already for") && told.contains("by ann: the node is moved"), "{outcome}");
    assert!(readiness(&bench).await.1.contains("paused, nothing is sent: ann: the node is moved"));
    for how in ["killed", "stopped"] {
        if how == "killed" {
            emitter.kill().await;
        } else {
            emitter.stop().await;
            let (code, lines, error) = wallet(&bench, &["pause", "--as", "carl", "--timeout", "1"]).await;
            assert_eq!((code, lines.len()), (0, 1), "{error}");
            let told = lines[0]["text"].as_str().unwrap();
            assert!(told.contains("by ann: the node is moved") && told.contains("no emitter answered"), "{told}");
        }
        emitter.process().start().unwrap();
        emitter.wait_ready().await.unwrap();
        await_metric(&bench, "kms_connector_answers_waiting", 10.0).await;
        await_metric(&bench, "kms_connector_emitter_paused", 1.0).await;
    }
    assert_eq!((bench.account_nonce().await, bench.pending().await), (nonce, 0));
    assert_eq!(bench.intents().await.len(), 1, "nothing is signed");
    let account = eventually("the last pause is answered", LIMIT, async || {
        Some(listed(&bench).await).filter(|account| {
            let last = account["commands"].as_array().and_then(|commands| commands.last());
            last.is_some_and(|last| !last["outcomes"][0].is_null())
        })
    })
    .await;
    assert_eq!((&account["paused"]["by"], &account["paused"]["reason"]), (&json!("ann"), &json!("the node is moved")));
    assert_eq!((&account["paused"]["obeyed"], &account["resume_asked"]), (&json!(true), &json!(null)), "{account}");
    assert_eq!((&account["waiting_answers"], &account["waiting_at_least"]), (&json!(10), &json!(false)), "{account}");
    let by_carl = account["commands"].as_array().unwrap().last().unwrap();
    assert_eq!((&by_carl["by"], &by_carl["outcomes"][0]["end"]), (&json!("carl"), &json!("done")), "{account}");
    let told = by_carl["outcomes"][0]["text"].as_str().unwrap();
    assert!(told.contains("paused already for") && told.contains("by ann: the node is moved"), "{account}");
    assert_eq!(account["sender"], json!(bench.sender()));

    obeyed(&bench, &["resume"]).await;
    bench.await_all_accepted(&made).await;
    await_metric(&bench, "kms_connector_emitter_paused", 0.0).await;
    let outcome = obeyed(&bench, &["resume"]).await;
    assert!(outcome["text"].as_str().unwrap().contains("it was not paused"), "{outcome}");
    let account = listed(&bench).await;
    assert_eq!((&account["paused"], &account["open"]), (&json!(null), &json!([])), "{account}");
    assert_eq!((&account["waiting_answers"], &account["resume_asked"]), (&json!(0), &json!(null)), "{account}");
    assert_eq!(account["latest_nonce"], json!(11), "{account}");
    assert_eq!(bench.account_nonce().await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_what_was_sent_before_a_pause_is_followed_and_settled() {
    let bench = Bench::start_with("wallet-follow", None, by_hand).await;
    let mut made = bench.warm_up().await;
    made.extend(held(&bench, 3, 3).await);
    let outcome = obeyed(&bench, &["pause"]).await;
    assert!(outcome["text"].as_str().unwrap().contains("3 transactions that were sent before"), "{outcome}");
    bench.mine_again().await;
    bench.await_all_accepted(&made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_stuck_transaction_is_bumped_by_hand_and_mined() {
    let bench = Bench::start_with("wallet-bump", None, by_hand).await;
    let mut made = bench.warm_up().await;
    made.extend(held(&bench, 2, 2).await);
    let account = listed(&bench).await;
    let open = account["open"].as_array().unwrap();
    assert_eq!((open.len(), &account["pending_nonce"]), (2, &json!(3)), "{account}");
    assert_eq!(account["waiting_answers"], json!(0), "what is on its way does not wait: {account}");
    assert_eq!((&open[0]["nonce"], &open[0]["answers"][0]["kind"]), (&json!(1), &json!("public_decryption")));
    let before: B256 = serde_json::from_value(open[0]["variants"][0]["hash"].clone()).unwrap();
    assert!(in_pool(&bench, &before).await);

    let outcome = obeyed(&bench, &["bump", "--nonce", "1", "--max-fee-gwei", "77.25", "--reason", "stuck"]).await;
    let bumped = hash_of(&outcome);
    eventually("the replacement in the pool", LIMIT, async || in_pool(&bench, &bumped).await.then_some(())).await;
    assert!(!in_pool(&bench, &before).await);
    let offered = bench.rpc("eth_getTransactionByHash", json!([bumped])).await["maxFeePerGas"].clone();
    assert_eq!(serde_json::from_value::<U256>(offered).unwrap(), U256::from(77_250_000_000_u64));

    let (code, _, error) = wallet(&bench, &["bump", "--all", "--max-fee-gwei", "0.0000000001"]).await;
    assert!(code == 2 && error.contains("10 decimals"), "{error}");
    // Not less than before, not above the cap, nothing that is not there.
    let error = refused(&bench, &["bump", "--nonce", "1", "--max-fee-gwei", "0.5"]).await;
    assert!(error.contains("a replacement takes"), "{error}");
    let error = refused(&bench, &["bump", "--nonce", "1", "--max-fee-gwei", "9000000000"]).await;
    assert!(error.contains("submission.max_fee_per_gas_wei"), "{error}");
    let error = refused(&bench, &["bump", "--nonce", "40"]).await;
    assert!(error.contains("not given out yet"), "{error}");
    let error = refused(&bench, &["bump", "--nonce", "0"]).await;
    assert!(error.contains("used it already"), "{error}");
    let outcome = obeyed(&bench, &["bump", "--all"]).await;
    assert_eq!(outcome["transactions"].as_array().unwrap().len(), 2, "{outcome}");

    bench.mine_again().await;
    let submissions = bench.await_all_accepted(&made).await;
    assert_eq!(submissions.len(), 3);
    let error = refused(&bench, &["bump", "--all"]).await;
    assert!(error.contains("no transaction is on its way"), "{error}");
    // Who did it is in the topic, with what came of it.
    let account = listed(&bench).await;
    let last = account["commands"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["action"], &last["outcomes"][0]["end"]), (&json!("bump"), &json!("refused")), "{account}");
}

/// A nonce with answers is cancelled; these are accepted under another one, once.
async fn cancelled(name: &str, adjust: impl FnOnce(StackBuilder) -> StackBuilder, answers: usize, killed: bool) {
    let bench = Bench::start_with(name, None, adjust).await;
    let emitter = bench.stack.node().emitter();
    let mut made = bench.warm_up().await;
    let nonce = bench.account_nonce().await;
    made.extend(held(&bench, answers, 1).await);
    let text = nonce.to_string();
    let (code, lines, error) = wallet(&bench, &["cancel", "--nonce", &text]).await;
    assert!(code == 0 && lines.is_empty() && error.contains("add --yes"), "{lines:?} {error}");
    // Blocks are not made, so that it begins and does not end.
    let cancel = ["cancel", "--nonce", &text, "--yes", "--timeout", "15"];
    let outcome = obeyed(&bench, &cancel).await;
    assert_eq!(outcome["end"], "accepted", "{outcome}");
    let empty = hash_of(&outcome);
    eventually("the empty transaction in the pool", LIMIT, async || in_pool(&bench, &empty).await.then_some(())).await;
    if killed {
        emitter.kill().await;
        emitter.process().start().unwrap();
        emitter.wait_ready().await.unwrap();
    }
    bench.mine_again().await;
    let submissions = bench.await_all_accepted(&made).await;
    let nonces: HashSet<u64> = submissions
        .iter()
        .map(|submission| match &submission.verdict {
            Verdict::Accepted(inclusion) => inclusion.nonce,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(!nonces.contains(&nonce), "{nonces:?}");
    let receipt = bench.rpc("eth_getTransactionReceipt", json!([empty])).await;
    assert_eq!((&receipt["status"], receipt["to"].as_str()), (&json!("0x1"), receipt["from"].as_str()));
    let ended = eventually("the cancel's last outcome", LIMIT, async || {
        let account = listed(&bench).await;
        let outcomes = account["commands"].as_array()?.last()?["outcomes"].as_array()?.clone();
        (outcomes.len() == 2).then_some(outcomes)
    })
    .await;
    assert_eq!((&ended[0]["end"], &ended[1]["end"]), (&json!("accepted"), &json!("done")), "{ended:?}");
    assert!(bench.dead_letters().await.is_empty());
    // A cancelled nonce is not one that somebody else took.
    assert_eq!(emitter.metric("kms_connector_nonces_taken_total").await.unwrap_or_default(), 0.0);
    let error = refused(&bench, &cancel).await;
    assert!(error.contains("used it already"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_the_answer_of_a_cancelled_nonce_is_accepted_once_under_another_one() {
    cancelled("wallet-cancel", by_hand, 1, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_the_answers_of_a_cancelled_batch_are_accepted_once_under_another_nonce() {
    let batches = |stack: StackBuilder| {
        by_hand(stack)
            .batches(true)
            .set(ServiceKind::Emitter, "submission.batch_eager=0")
            .set(ServiceKind::Emitter, "submission.batch_linger_ms=10000")
            .set(ServiceKind::Emitter, "submission.batch_answers=20")
    };
    cancelled("wallet-cancel-batch", batches, 20, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_cancel_is_carried_on_by_the_emitter_that_takes_over() {
    cancelled("wallet-cancel-killed", by_hand, 1, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_forged_commands_and_garbage_lose_nothing_and_spend_no_more_than_the_cap() {
    let bench = Bench::start_with("wallet-forged", None, by_hand).await;
    let emitter = bench.stack.node().emitter();
    let mut made = bench.warm_up().await;
    made.extend(held(&bench, 2, 2).await);
    let (topic, codec) = (bench.topics.commands().to_owned(), Codec::single_object());
    let chain_id = bench.stack.contracts().gateway_chain_id;
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let record = |sender: Address, id: u8, body: WalletBody| {
        let record = WalletRecord {
            chain_id,
            sender,
            command_id: B256::repeat_byte(id),
            by: "nobody\n\u{1b}[2J".repeat(50),
            written_ms: 0,
            text: "x".repeat(5_000),
            body,
        };
        (topic.clone(), wallet_key(chain_id, sender), codec.encode(&topic, &record).unwrap())
    };
    let (own, other) = (bench.sender(), Address::repeat_byte(7));
    let expires_ms = now_ms + 600_000;
    let cancel = |nonce| WalletBody::Cancel { nonce, expires_ms };
    let forged = vec![
        (topic.clone(), Vec::new(), Vec::new()),
        (topic.clone(), b"key".to_vec(), b"no record at all".to_vec()),
        record(other, 1, WalletBody::Pause),
        record(own, 2, WalletBody::Cancel { nonce: 1, expires_ms: now_ms - 1 }),
        record(own, 3, cancel(u64::MAX / 2)),
        record(own, 4, WalletBody::Bump { nonce: None, max_fee_per_gas: Some(u128::MAX), expires_ms }),
        record(own, 5, WalletBody::Outcome { command_offset: 3, end: WalletEnd::Done, transactions: vec![] }),
        record(own, 6, cancel(1)),
        record(own, 7, cancel(1)),
    ];
    bench.write(forged).await;
    eventually("every command is answered", LIMIT, async || {
        let (_, lines, _) = wallet(&bench, &["list", "--commands", "20", "--sender", &own.to_string()]).await;
        let commands = lines.first()?["commands"].as_array()?.clone();
        let answered = commands.iter().filter(|one| !one["outcomes"].as_array().unwrap().is_empty()).count();
        (commands.len() == 5 && answered == 5).then_some(())
    })
    .await;
    assert!(emitter.process().log().contains("KC-0761"));
    assert_eq!(emitter.metric("kms_connector_commands_unreadable_total").await, Some(2.0));
    // Another account's pause, under this prefix, is not this one's; a command under another prefix is nobody's here.
    assert_eq!(emitter.metric("kms_connector_emitter_paused").await, Some(0.0));
    let account = ["--chain-id", &chain_id.to_string(), "--sender", &own.to_string(), "--timeout", "1"];
    let (code, _, error) = wallet_under(&bench, "wallet-elsewhere", &[&["pause"][..], &account].concat()).await;
    assert!(code == 3 && error.contains("KC-0211"), "{error}");
    bench.mine_again().await;
    bench.await_all_accepted(&made).await;
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_pool_nothing_is_replaced_by_hand_and_nobody_waits_for_ever() {
    let without = |stack: StackBuilder| stack.set(ServiceKind::Emitter, "destination.0.pool=false");
    let bench = Bench::start_with("wallet-no-pool", BLOCKS, without).await;
    bench.warm_up().await;
    for verb in [&["bump", "--all"][..], &["cancel", "--nonce", "0", "--yes"]] {
        let error = refused(&bench, verb).await;
        assert!(error.contains("no pool"), "{error}");
    }
    // Said by nobody: a pause is recorded, and holds when an emitter comes.
    bench.stack.node().emitter().stop().await;
    let (code, _, error) = wallet(&bench, &["bump", "--all", "--timeout", "1"]).await;
    assert!(code == 3 && error.contains("KC-0126") && error.contains("not obeyed any more"), "{error}");
    let (code, _, error) = wallet(&bench, &["pause", "--timeout", "1"]).await;
    assert!(code == 3 && error.contains("KC-0126") && error.contains("when one starts"), "{error}");
    let account = listed(&bench).await;
    assert_eq!(account["paused"]["obeyed"], false, "asked for, and nobody has obeyed: {account}");
    bench.stack.node().emitter().start().await.unwrap();
    await_metric(&bench, "kms_connector_emitter_paused", 1.0).await;
    let account = eventually("the pause is obeyed", LIMIT, async || {
        Some(listed(&bench).await).filter(|account| account["paused"]["obeyed"] == true)
    })
    .await;
    let ends = |of: &Value| of["outcomes"][0]["end"].clone();
    let commands = account["commands"].as_array().unwrap();
    assert_eq!(commands.iter().map(ends).collect::<Vec<_>>()[2..], [json!("refused"), json!("done")], "{account}");
}
