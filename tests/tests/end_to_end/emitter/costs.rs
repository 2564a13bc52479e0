//! What answers cost, as records, metrics and `kmsctl costs` say it, held against the chain.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use alloy::network::ReceiptResponse as _;
use alloy::primitives::{Address, B256, Bytes};
use alloy::sol_types::SolCall as _;
use kms_chain::contracts::Decryption;
use kms_chain::eip712::{self, Domain};
use kms_chain::event::{ResponseEvent, decode_response};
use kms_schemas::identity::RequestId;
use kms_schemas::record::{Inclusion, RawLog, Submission, Verdict};
use kms_stack::ServiceKind;
use kms_stack::contracts::{Account, Call, Made};
use serde_json::Value;

use super::bench::{Bench, LIMIT};

const NODES: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn what_each_answer_cost_and_who_was_first_is_in_its_record_as_the_chain_has_it() {
    let bench = Bench::start_with("emitter-costs", Some(Duration::from_millis(100)), |stack| {
        stack
            .nodes(NODES)
            .batches(true)
            .services(&[])
            .set(ServiceKind::Emitter, "submission.batch_eager=0")
            .set(ServiceKind::Emitter, "submission.batch_linger_ms=1000")
    })
    .await;
    let emitter = bench.stack.node().emitter();
    emitter.start().await.unwrap();

    // One alone, then batches in which each answer is the first, the second, the third that decides, or the last.
    let mut made = bench.requests(1).await;
    bench.publish(&bench.results(&made)).await;
    bench.await_submissions(1).await;
    for before in 0..NODES {
        let asked = bench.requests(10 + before).await;
        others_answer(&bench, &asked, 1..1 + before).await;
        bench.publish(&bench.results(&asked)).await;
        made.extend(asked);
        bench.await_submissions(made.len()).await;
        // Those that answer later change nothing.
        others_answer(&bench, &made[made.len() - 3..], 1 + before..NODES).await;
    }

    let submissions = bench.await_submissions(made.len()).await;
    let mut by_transaction: HashMap<B256, Vec<Inclusion>> = HashMap::new();
    let orders = orders(&bench).await;
    for Submission { identity, verdict, .. } in &submissions {
        let Verdict::Accepted(inclusion) = verdict else { panic!("{verdict:?}") };
        assert_eq!(inclusion.order, orders.get(&identity.id).copied(), "{identity:?}");
        by_transaction.entry(inclusion.transaction_hash).or_default().push(inclusion.clone());
    }
    let hashes: Vec<B256> = by_transaction.keys().copied().collect();
    let (mut gas, mut fee) = (0_u64, 0_u128);
    for receipt in bench.requester.gateway().receipts(&hashes, LIMIT).await.unwrap() {
        let answers = &by_transaction[&receipt.transaction_hash()];
        assert!(answers.iter().all(|one| one.answers == u32::try_from(answers.len()).ok()), "{answers:?}");
        assert_eq!(answers.iter().map(|one| one.gas_used).sum::<u64>(), receipt.gas_used());
        let paid = u128::from(receipt.gas_used()) * receipt.effective_gas_price();
        assert_eq!(answers.iter().map(Inclusion::fee).sum::<u128>(), paid);
        (gas, fee) = (gas + receipt.gas_used(), fee + paid);
    }
    assert!(hashes.len() < made.len() / 3, "{} transactions", hashes.len());

    let metric = emitter.metric("kms_connector_answers_accepted_total").await;
    assert_eq!(metric, Some(made.len() as f64));
    assert_eq!(emitter.metric("kms_connector_answers_gas_total").await, Some(gas as f64));
    let report = costs(&bench, &[]).await;
    let (summary, groups) = report.split_last().unwrap();
    assert_eq!(summary["accepted"], made.len());
    assert_eq!(groups.iter().map(|group| group["gas"].as_u64().unwrap()).sum::<u64>(), gas);
    let wei = |group: &Value| group["fee_wei"].as_str().unwrap().parse::<u128>().unwrap();
    assert_eq!(groups.iter().map(wei).sum::<u128>(), fee);
    let mean = |order: &str| {
        let group = groups.iter().find(|group| group["order"] == order && group["batch"] != "1").unwrap();
        println!("{order}: {group}");
        group["gas_mean"].as_u64().unwrap()
    };
    // As `docs/protocol.md`, "Gas of an answer", has it: the one that decides pays most, the last least.
    assert!(mean("3") > mean("1") && mean("1") > mean("2") && mean("2") > mean("4+"));
    assert_eq!(costs(&bench, &["--since", "1h"]).await, report);
    assert_eq!(costs(&bench, &["--since", "0s"]).await[0]["accepted"], 0);
}

/// These nodes answer these requests by themselves.
async fn others_answer(bench: &Bench, made: &[Made], nodes: std::ops::Range<usize>) {
    let contracts = bench.stack.contracts();
    let domain = Domain::decryption(contracts.gateway_chain_id, contracts.decryption);
    for node in &bench.stack.nodes()[nodes] {
        let calls = bench.results(made).into_iter().map(|result| {
            let kms_schemas::record::Answer::PublicDecryption { handles, decrypted_result, .. } = result.answer else {
                unreachable!()
            };
            let digest = domain.public_decryption(&handles, &decrypted_result, &Bytes::new());
            let call = Decryption::publicDecryptionResponseCall {
                decryptionId: result.identity.id.as_u256(),
                decryptedResult: decrypted_result,
                signature: eip712::sign(&node.keys().signer, digest).unwrap(),
                extraData: Bytes::new(),
            };
            Call { to: Some(contracts.decryption), data: call.abi_encode().into(), gas: 1_000_000 }
        });
        let account = Account::open(bench.requester.gateway(), node.keys().sender.clone()).await.unwrap();
        let sent = account.send(&calls.collect::<Vec<_>>()).await.unwrap();
        for receipt in bench.requester.gateway().receipts(&sent, LIMIT).await.unwrap() {
            assert!(receipt.status(), "an answer of another node reverted");
        }
    }
}

/// The place of our answer among all answers to each request, by the chain's events.
async fn orders(bench: &Bench) -> HashMap<RequestId, u32> {
    let (chain, own) = (bench.stack.chains().remove(0), bench.sender());
    let mut senders: HashMap<RequestId, Vec<Address>> = HashMap::new();
    for log in bench.logs(&chain).await {
        let raw = RawLog { address: log.address(), topics: log.topics().to_vec(), data: log.data().data.clone() };
        let Some(ResponseEvent::PublicDecryptionResponseCall { id, tx_sender, .. }) =
            decode_response(&chain.contracts, &raw).unwrap()
        else {
            continue;
        };
        senders.entry(id).or_default().push(tx_sender);
    }
    let place = |senders: Vec<Address>| senders.iter().position(|sender| *sender == own).map(|at| at as u32 + 1);
    senders.into_iter().filter_map(|(id, senders)| Some((id, place(senders)?))).collect()
}

/// What `kmsctl costs` prints.
async fn costs(bench: &Bench, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(kms_tests::program());
    command.arg("ctl").arg("--set").arg(format!("kafka.bootstrap_servers={}", bench.stack.bootstrap_servers()));
    command.arg("--set").arg(format!("kafka.topic_prefix={}", bench.stack.node().prefix()));
    command.args(["--output", "json", "costs"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
