//! Answers in batches, from an account that delegates to the executor.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall as _;
use kms_chain::contracts::{Decryption, KMSGeneration};
use kms_chain::eip712::{self, Domain};
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_emitter::fees::FeePolicy;
use kms_emitter::provision::Payer;
use kms_emitter::wallet::Wallet;
use kms_runtime::config::Secret;
use kms_schemas::identity::Kind;
use kms_schemas::record::{Answer, Signed, Verdict};
use kms_stack::contracts::NewRequest;
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_stack::{ServiceKind, StackBuilder};
use kms_tests::{eventually, mined, new_workspace};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::bench::{Bench, LIMIT};
use super::node_proxy::{NodeProxy, Reply};

const BLOCKS: Option<Duration> = Some(Duration::from_millis(100));

/// Answers leave in batches, and these are full; one that is not waits for longer than a machine stands still.
fn gathered(stack: StackBuilder) -> StackBuilder {
    stack
        .batches(true)
        .set(ServiceKind::Emitter, "submission.batch_eager=0")
        .set(ServiceKind::Emitter, "submission.batch_linger_ms=10000")
        .set(ServiceKind::Emitter, "submission.batch_answers=40")
}

/// Nonce of the account after it delegated.
const DELEGATED: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn p3_under_load_answers_leave_in_batches_and_each_is_settled_once_by_its_own_event() {
    const ANSWERS: usize = 400;
    let bench = Bench::start_with("batches", BLOCKS, |stack| stack.batches(true)).await;
    let mut made = bench.warm_up().await;
    let Verdict::Accepted(single) = bench.await_submissions(1).await.remove(0).verdict else { unreachable!() };
    made.extend(bench.requests(ANSWERS).await);
    bench.publish(&bench.results(&made[1..])).await;
    let submissions = bench.await_all_accepted(&made).await;

    let transactions = bench.account_nonce().await - DELEGATED;
    assert!(transactions < ANSWERS as u64 / 4, "{transactions} transactions");
    let emitter = bench.stack.node().emitter();
    assert_eq!(emitter.metric("kms_connector_emitter_batches").await, Some(1.0));
    // Each record has its share of what its transaction cost.
    let (mut full, mut gas) = (0, 0);
    for submission in &submissions {
        let Verdict::Accepted(inclusion) = &submission.verdict else { unreachable!() };
        let together = submissions.iter().filter(
            |other| matches!(&other.verdict, Verdict::Accepted(one) if one.transaction_hash == inclusion.transaction_hash),
        );
        if together.count() == 32 {
            (full, gas) = (full + 1, gas + inclusion.gas_used);
        }
    }
    assert!(full >= 32, "no full batch");
    println!("gas per answer: {} alone, {} in a batch of 32", single.gas_used, gas / full);
    // Here every answer decides, which costs more than the first of several; `kms-stack bench emitter` compares those.
    assert!(gas / full * 100 <= single.gas_used * 85);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_batch_of_forty_with_a_duplicate_a_wrong_one_and_one_out_of_gas_settles_all_with_the_reasons() {
    let workspace = new_workspace();
    let anvil = Anvil::start(&workspace, AnvilOptions::default()).await.unwrap();
    // What an estimate says of a user decryption is far too little, and it does not say that the contract refuses the CRS.
    let proxy = NodeProxy::start(
        &anvil.url(),
        Arc::new(|_, method, params| {
            let data = params[0]["input"].as_str().or(params[0]["data"].as_str()).unwrap_or_default();
            let is_to = |selector: [u8; 4]| data.starts_with(&Bytes::from(selector).to_string());
            let lie = match method {
                "eth_estimateGas" if is_to(Decryption::userDecryptionResponseCall::SELECTOR) => Some(70_000),
                "eth_estimateGas" if is_to(KMSGeneration::crsgenResponseCall::SELECTOR) => Some(300_000),
                _ => None,
            };
            let reply = lie.map_or(Reply::PassOn, |gas: u64| Reply::Result(json!(format!("{gas:#x}"))));
            Box::pin(std::future::ready(reply))
        }),
    )
    .await;
    let bench = Bench::start_with("batch-of-forty", None, |stack| {
        // Key management is believed under a name that the contract does not have, so that it refuses what the emitter takes.
        gathered(stack)
            .anvil(anvil)
            .rpc_urls([proxy.url()])
            .set(ServiceKind::Emitter, "submission.max_gas=30000000")
            .set(ServiceKind::Emitter, "destination.0.kms_generation_domain_name=Another")
    })
    .await;
    let first = bench.warm_up().await;
    // The gas of the kinds that are to go in the batch.
    let good = bench.requests(37).await;
    let duplicate = bench.requests(1).await[0];
    let hungry = bench.requester.make(&bench.user_request().await).await.unwrap();
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    let wrong = bench.requester.make(&crs).await.unwrap();

    // The chain holds one of them already, by a transaction that the account's nonce does not tell of.
    let mut results = bench.placed(&bench.results(&[&good[..], &[duplicate, hungry]].concat())).await;
    let Answer::PublicDecryption { decrypted_result, signature, .. } = &results[37].answer else { unreachable!() };
    let call = Decryption::publicDecryptionResponseCall {
        decryptionId: duplicate.id.as_u256(),
        decryptedResult: decrypted_result.clone(),
        signature: signature.signature.clone(),
        extraData: Bytes::new(),
    };
    let nonce = bench.account_nonce().await;
    bench.rpc("anvil_impersonateAccount", json!([bench.sender()])).await;
    let to = bench.stack.contracts().decryption;
    let call = json!({"from": bench.sender(), "to": to, "data": Bytes::from(call.abi_encode()), "gas": "0x100000"});
    mined(bench.stack.anvil(), call).await;
    bench.rpc("anvil_setNonce", json!([bench.sender(), format!("{nonce:#x}")])).await;

    let mut refused = bench.placed(&[bench.result(Kind::Crsgen, wrong.id)]).await.remove(0);
    let Answer::Crsgen { crs_digest, signature, .. } = &mut refused.answer else { unreachable!() };
    let contract = bench.stack.contracts().kms_generation;
    let domain = Domain::new("Another", "1", bench.stack.contracts().gateway_chain_id, contract);
    let digest = domain.crsgen(wrong.id, U256::from(2_048), crs_digest);
    let signer = &bench.stack.node().keys().signer;
    *signature = Signed { signature: eip712::sign(signer, digest).unwrap(), digest, signer: signer.address() };
    results.push(refused);

    bench.publish(&results).await;
    let submissions = bench.await_submissions(41).await;
    let verdict = |made: &kms_stack::contracts::Made| {
        let of = |one: &&kms_schemas::record::Submission| one.identity.id == made.id && one.identity.kind == made.kind;
        submissions.iter().find(of).map(|one| one.verdict.clone()).unwrap()
    };
    let transaction = |verdict: &Verdict| match verdict {
        Verdict::Accepted(inclusion) => inclusion.transaction_hash,
        other => panic!("{other:?}"),
    };
    let batches: HashSet<B256> = good.iter().map(|made| transaction(&verdict(made))).collect();
    assert_eq!(batches.len(), 1, "the good ones share a transaction");
    let Verdict::AlreadyAnswered { evidence, .. } = verdict(&duplicate) else { panic!("{:?}", verdict(&duplicate)) };
    assert!(evidence.starts_with("KmsNodeAlreadySigned"), "{evidence}");
    let Verdict::Refused { error, inclusion, .. } = verdict(&wrong) else { panic!("{:?}", verdict(&wrong)) };
    assert_eq!(error, "NotKmsSigner");
    assert!(batches.contains(&inclusion.unwrap().transaction_hash), "refused by its place in the batch");
    // Alone, with more gas.
    let alone = transaction(&verdict(&hungry));
    assert!(!batches.contains(&alone));
    assert!(matches!(verdict(&first[0]), Verdict::Accepted(_)));
    let of_forty = bench.intents().await.into_iter().find(|intent| batches.contains(&intent.hash)).unwrap();
    assert_eq!(of_forty.items.len(), 40);
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_killed_at_any_moment_every_answer_in_a_batch_is_accepted_and_settled_once() {
    const RESULTS: usize = 600;
    let bench = Bench::start_with("batches-killed", BLOCKS, |stack| stack.batches(true)).await;
    let made = bench.requests(RESULTS).await;
    let results = bench.results(&made);
    let emitter = bench.stack.node().emitter();
    let mut random = SmallRng::seed_from_u64(11);
    for chunk in results.chunks(RESULTS / 8) {
        bench.publish(chunk).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        emitter.kill().await;
        emitter.process().start().unwrap();
    }
    emitter.wait_ready().await.unwrap();
    bench.await_all_accepted(&made).await;
    assert!(bench.dead_letters().await.is_empty());
    assert!(bench.account_nonce().await < RESULTS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_pool_that_takes_one_transaction_of_a_delegated_account_is_used_batch_after_batch() {
    const ANSWERS: usize = 200;
    let workspace = new_workspace();
    let options = AnvilOptions { block_time: BLOCKS, ..AnvilOptions::default() };
    let anvil = Anvil::start(&workspace, options).await.unwrap();
    // As geth does: one in flight, no gaps.
    let proxy = NodeProxy::start(
        &anvil.url(),
        Arc::new(|node, method, params| {
            Box::pin(async move {
                if method != "eth_sendRawTransaction" {
                    return Reply::PassOn;
                }
                let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
                let sent = TxEnvelope::decode_2718_exact(&raw).unwrap();
                let sender = alloy::consensus::transaction::SignerRecoverable::recover_signer(&sent).unwrap();
                let count = async |block: &str| {
                    let nonce = node.ask("eth_getTransactionCount", json!([sender, block])).await;
                    serde_json::from_value::<U256>(nonce).unwrap().to::<u64>()
                };
                let (latest, pending) = (count("latest").await, count("pending").await);
                let taken = sent.nonce() == latest && pending == latest;
                if taken || sent.nonce() < latest {
                    return Reply::PassOn;
                }
                Reply::Error(-32_000, "in-flight transaction limit reached for delegated accounts".to_owned())
            })
        }),
    )
    .await;
    let bench =
        Bench::start_with("one-in-flight", BLOCKS, |stack| stack.batches(true).anvil(anvil).rpc_urls([proxy.url()]))
            .await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(ANSWERS).await);
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_all_accepted(&made).await;
    let transactions = bench.account_nonce().await - DELEGATED;
    assert!(transactions < ANSWERS as u64 / 2, "{transactions} transactions for {ANSWERS} answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_delegation_that_is_revoked_meanwhile_ends_batches_and_loses_nothing() {
    let bench = Bench::start_with("batches-revoked", None, gathered).await;
    let mut made = bench.warm_up().await;
    let nonce = bench.account_nonce().await;
    payer(&bench).delegate(Address::ZERO).await.unwrap();
    bench.rpc("anvil_setNonce", json!([bench.sender(), format!("{nonce:#x}")])).await;
    made.extend(bench.requests(40).await);
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_all_accepted(&made).await;
    // One batch that did nothing, and then each alone.
    assert_eq!(bench.account_nonce().await, nonce + 1 + 40);
    assert!(bench.stack.node().emitter().process().log().contains("KC-0760"));

    // Asked for, and not possible: said at the next start.
    let emitter = bench.stack.node().emitter();
    emitter.stop().await;
    let strict = Bench::start_with("batches-missing", None, |stack| {
        stack.services(&[]).batches(false).set(ServiceKind::Emitter, "submission.mode=batch")
    })
    .await;
    strict.stack.node().emitter().process().start().unwrap();
    eventually("a refusal", LIMIT, async || {
        let log = strict.stack.node().emitter().process().log();
        (log.contains("KC-0760") && log.contains("kmsctl executor delegate")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_deploys_delegates_looks_and_revokes_and_the_emitter_follows_at_its_next_start() {
    let bench = Bench::start("batches-by-hand", BLOCKS).await;
    let emitter = bench.stack.node().emitter();
    assert_eq!(emitter.metric("kms_connector_emitter_batches").await, Some(0.0));
    let made = bench.warm_up().await;
    let url = bench.stack.anvil().url();
    let key_file = bench.stack.workspace().dir().join("config/node-1/wallet.key");
    let (key_file, sender) = (key_file.to_str().unwrap(), bench.sender().to_string());
    let verb = async |arguments: &[&str]| {
        let mut command = std::process::Command::new(kms_tests::program());
        command.arg("ctl").arg("--set").arg(format!("kafka.bootstrap_servers={}", bench.stack.bootstrap_servers()));
        command.arg("--set").arg(format!("kafka.topic_prefix={}", bench.stack.node().prefix()));
        command.args(["--output", "json", "executor"]).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.code().unwrap(), serde_json::from_str(&out).unwrap_or(json!(null)), err)
    };
    let status = ["status", "--rpc-url", &url, "--account", &sender];
    let delegates = async || verb(&status).await.1["is_executor_of_this_release"].clone();
    assert_eq!(delegates().await, json!(false));

    // The account pays for it here, which moves its nonce: the emitter must not run for that either.
    emitter.stop().await;
    let (code, deployed, error) = verb(&["deploy", "--rpc-url", &url, "--key-file", key_file]).await;
    assert_eq!(code, 0, "{error}");
    let executor = deployed["executor"].as_str().unwrap().to_owned();
    emitter.start().await.unwrap();
    let delegate = ["delegate", "--rpc-url", &url, "--key-file", key_file, "--executor", &executor];
    let (code, _, error) = verb(&delegate).await;
    assert!(code == 3 && error.contains("KC-0124") && error.contains("are running"), "{error}");
    assert_eq!(delegates().await, json!(false));

    emitter.stop().await;
    let (code, _, error) = verb(&delegate).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(delegates().await, json!(true));
    let (code, _, error) = verb(&["delegate", "--rpc-url", &url, "--key-file", key_file, "--executor", &sender]).await;
    assert!(code == 3 && error.contains("no code of this release's executor"), "{error}");
    emitter.start().await.unwrap();
    assert_eq!(emitter.metric("kms_connector_emitter_batches").await, Some(1.0));

    emitter.stop().await;
    let (code, _, error) = verb(&["revoke", "--rpc-url", &url, "--key-file", key_file]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(delegates().await, json!(false));
    emitter.start().await.unwrap();
    assert_eq!(emitter.metric("kms_connector_emitter_batches").await, Some(0.0));
    let more = bench.requests(2).await;
    bench.publish(&bench.results(&more)).await;
    bench.await_all_accepted(&[made, more].concat()).await;
    // Three answers, one deployment, and two for each of two delegations.
    assert_eq!(bench.account_nonce().await, 3 + 1 + 4);
}

/// The node's sender, to be delegated or not.
fn payer(bench: &Bench) -> Payer {
    let mut config = RpcConfig::new("gateway", vec![EndpointUrl::parse(&bench.stack.anvil().url()).unwrap()]);
    config.chain_id = Some(bench.stack.contracts().gateway_chain_id);
    let key = bench.stack.node().keys().sender.to_bytes().to_string();
    Payer {
        rpc: Rpc::new(config).unwrap(),
        chain_id: bench.stack.contracts().gateway_chain_id,
        wallet: Wallet::new(&Secret::new(key)).unwrap(),
        fees: FeePolicy { base_fee_percent: 200, priority: 1, cap: u128::MAX, bump_percent: 25 },
        gas_limit: 1_000_000,
        patience: Duration::from_secs(120),
    }
}
