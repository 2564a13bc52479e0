//! Answers that are tried by a call before they are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::primitives::Bytes;
use alloy::sol_types::SolCall as _;
use kms_chain::contracts::Decryption;
use kms_schemas::record::{Answer, ResultRecord, Submission, Verdict};
use kms_stack::ServiceKind;
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_tests::{mined, new_workspace};
use serde_json::json;

use super::bench::{Bench, LIMIT};
use super::node_proxy::{NodeProxy, Reply};

/// What the node does with calls of answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    Answered,
    Refused,
    NeverAnswered,
}

/// An emitter in front of a node that counts the calls of answers.
async fn start(name: &str, simulate: &str, calls: Calls) -> (Bench, Arc<AtomicUsize>, NodeProxy) {
    let workspace = new_workspace();
    let anvil = Anvil::start(&workspace, AnvilOptions::default()).await.unwrap();
    let counted = Arc::new(AtomicUsize::new(0));
    let counting = counted.clone();
    let proxy = NodeProxy::start(
        &anvil.url(),
        Arc::new(move |_, method, params| {
            let counting = counting.clone();
            Box::pin(async move {
                let data = params[0]["input"].as_str().or(params[0]["data"].as_str()).unwrap_or_default();
                let selector = Bytes::from(Decryption::publicDecryptionResponseCall::SELECTOR).to_string();
                if method != "eth_call" || !data.starts_with(&selector) {
                    return Reply::PassOn;
                }
                counting.fetch_add(1, Ordering::Relaxed);
                match calls {
                    Calls::Answered => Reply::PassOn,
                    Calls::Refused => Reply::Error(-32_601, "the method eth_call is not available".to_owned()),
                    Calls::NeverAnswered => std::future::pending().await,
                }
            })
        }),
    )
    .await;
    let bench = Bench::start_with(name, None, |stack| {
        stack
            .anvil(anvil)
            .rpc_urls([proxy.url()])
            .batches(true)
            .set(ServiceKind::Emitter, "submission.batch_eager=0")
            .set(ServiceKind::Emitter, "submission.batch_linger_ms=1000")
            .set(ServiceKind::Emitter, "submission.suspicion_ms=600000")
            .set(ServiceKind::Emitter, format!("submission.simulate={simulate}"))
    })
    .await;
    (bench, counted, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_answer_that_a_call_shows_to_fail_costs_no_gas_and_is_settled_with_the_same_reason() {
    let (bench, counted, _proxy) = start("simulate-always", "always", Calls::Answered).await;
    let first = bench.warm_up().await;
    let made = bench.requests(12).await;
    let results = bench.placed(&bench.results(&made)).await;
    answer_elsewhere(&bench, &results[5]).await;
    bench.publish(&results).await;
    bench.await_submissions(first.len() + made.len()).await;

    assert_eq!(counted.load(Ordering::Relaxed), first.len() + made.len(), "one call each");
    assert!(already_answered(&bench, &results[5]).await);
    assert!(!was_sent(&bench, &results[5]).await);
    assert!(was_sent(&bench, &results[4]).await);
    let emitter = bench.stack.node().emitter();
    assert_eq!(emitter.metric("kms_connector_simulations_total").await, Some(13.0));
    assert_eq!(emitter.metric("kms_connector_reverts_total").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_answer_was_refused_on_chain_those_that_come_are_tried_by_a_call_first() {
    let (bench, counted, _proxy) = start("simulate-suspicious", "suspicious", Calls::Answered).await;
    let first = bench.warm_up().await;
    let made = bench.requests(24).await;
    let results = bench.placed(&bench.results(&made)).await;
    let (before, after) = results.split_at(12);
    answer_elsewhere(&bench, &before[3]).await;
    answer_elsewhere(&bench, &after[3]).await;
    assert_eq!(counted.load(Ordering::Relaxed), 0, "nothing is suspicious yet");
    bench.publish(before).await;
    bench.await_submissions(first.len() + before.len()).await;
    // In vain, and it tells of the next.
    assert!(already_answered(&bench, &before[3]).await && was_sent(&bench, &before[3]).await);
    let calls = counted.load(Ordering::Relaxed);
    bench.publish(after).await;
    bench.await_submissions(first.len() + made.len()).await;
    assert!(already_answered(&bench, &after[3]).await && !was_sent(&bench, &after[3]).await);
    assert_eq!(counted.load(Ordering::Relaxed) - calls, after.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_calls_that_nobody_answers_keep_no_answer_from_the_chain() {
    for (name, calls) in [("simulate-silence", Calls::NeverAnswered), ("simulate-refused", Calls::Refused)] {
        let (bench, counted, _proxy) = start(name, "always", calls).await;
        let mut made = bench.warm_up().await;
        assert!(counted.load(Ordering::Relaxed) > 0, "they were asked");
        let more = bench.requests(20).await;
        bench.publish(&bench.results(&more)).await;
        made.extend(more);
        bench.await_all_accepted(&made).await;
        assert!(bench.dead_letters().await.is_empty());
    }
}

/// The chain holds this answer already, by a transaction that the account's nonce does not tell of.
async fn answer_elsewhere(bench: &Bench, result: &ResultRecord) {
    let Answer::PublicDecryption { decrypted_result, signature, .. } = &result.answer else { unreachable!() };
    let call = Decryption::publicDecryptionResponseCall {
        decryptionId: result.identity.id.as_u256(),
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
}

async fn already_answered(bench: &Bench, result: &ResultRecord) -> bool {
    let submissions = kms_tests::eventually("the submission", LIMIT, async || {
        let found: Vec<Submission> = bench.submissions().await.into_values().collect();
        found.iter().any(|one| one.identity == result.identity).then_some(found)
    })
    .await;
    let of = submissions.iter().find(|one| one.identity == result.identity).unwrap();
    matches!(&of.verdict, Verdict::AlreadyAnswered { evidence, .. } if evidence.starts_with("KmsNodeAlreadySigned"))
}

/// Whether a transaction of the emitter carried the answer.
async fn was_sent(bench: &Bench, result: &ResultRecord) -> bool {
    let intents = bench.intents().await;
    intents.iter().any(|intent| intent.items.iter().any(|item| item.identity == result.identity))
}
