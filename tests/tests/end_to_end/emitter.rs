//! The emitter as a process, on real Kafka and a real chain, fed with results as the processor writes them.

mod batches;
mod bench;
mod costs;
mod gate;
mod killed;
mod node_proxy;
mod nonces;
mod reorganised;
mod signers;
mod simulation;
mod standby;
mod two_chains;
mod wallet;

use std::collections::HashSet;
use std::time::Duration;

use alloy::primitives::{B256, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use kms_schemas::identity::{Coordinates, Kind, Lane, RequestId};
use kms_schemas::record::{Answer, Intent, IntentItem, ResultRecord, Verdict};
use kms_stack::ServiceKind;
use kms_stack::contracts::{NewRequest, owner};
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_stack::supervise::Signal;
use kms_tests::{Proxy, eventually, new_workspace};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use bench::{Bench, LIMIT, unreplaced};

const BLOCKS: Option<Duration> = Some(Duration::from_millis(100));

#[tokio::test(flavor = "multi_thread")]
async fn p3_every_kind_of_answer_is_accepted_and_settled_once() {
    let bench = Bench::start("emitter-kinds", BLOCKS).await;
    let mut made = bench.requests(20).await;
    for _ in 0..5 {
        made.push(bench.requester.make(&bench.user_request().await).await.unwrap());
    }
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    made.push(bench.requester.make(&crs).await.unwrap());
    let prep = bench.requester.make(&NewRequest::Keygen { params_type: 1 }).await.unwrap();
    made.push(prep);
    bench.publish(&bench.results(&made)).await;
    bench.await_all_accepted(&made).await;

    // The preprocessing's consensus asked for the key.
    let keygen = bench.keygen_request().await;
    let Answer::Keygen { key_digests, extra_data, signature, .. } = bench.answer(Kind::Keygen) else { unreachable!() };
    let answer = Answer::Keygen { prep_keygen_id: prep.id, key_digests, extra_data, signature };
    let signer = bench.stack.node().keys().signer.clone();
    bench.publish(&[bench.signed_result(Kind::Keygen, keygen, answer, &signer)]).await;
    // No answer on chain.
    let prss = bench.requester.make(&NewRequest::PrssInit).await.unwrap();
    bench.publish(&[bench.result(Kind::PrssInit, prss.id)]).await;
    let submissions = bench.await_submissions(made.len() + 2).await;
    let of = |kind| submissions.iter().find(move |one| one.identity.kind == kind).map(|one| &one.verdict).unwrap();
    assert!(matches!(of(Kind::Keygen), Verdict::Accepted(_)));
    assert_eq!(*of(Kind::PrssInit), Verdict::NoAnswerOnChain);
    assert_eq!(bench.answers_on_chain().await.len(), made.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_answer_that_the_chain_holds_is_settled_as_such_with_its_transaction() {
    let bench = Bench::start("emitter-twice", BLOCKS).await;
    let made = bench.requests(1).await;
    bench.publish(&bench.results(&made)).await;
    let first = bench.await_all_accepted(&made).await;
    let Verdict::Accepted(inclusion) = &first[0].verdict else { unreachable!() };

    bench.publish(&bench.results(&made)).await;
    let both = bench.await_submissions(2).await;
    let again = both.iter().find_map(|submission| match &submission.verdict {
        Verdict::AlreadyAnswered { evidence, transaction_hash } => Some((evidence.clone(), *transaction_hash)),
        _ => None,
    });
    let (evidence, transaction) = again.unwrap_or_else(|| panic!("{both:?}"));
    assert!(evidence.starts_with("KmsNodeAlreadySigned"), "{evidence}");
    assert_eq!(transaction, Some(inclusion.transaction_hash));

    // A process that does not remember it asks the chain, and spends nothing either.
    bench.stack.node().emitter().stop().await;
    bench.stack.node().emitter().start().await.unwrap();
    bench.publish(&bench.results(&made)).await;
    let all = bench.await_submissions(3).await;
    let known = all.iter().filter(|one| matches!(one.verdict, Verdict::AlreadyAnswered { .. })).count();
    assert_eq!((known, bench.account_nonce().await), (2, 1), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_can_never_be_accepted_is_refused_with_the_contracts_error() {
    let bench = Bench::start("emitter-refused", BLOCKS).await;
    let made = bench.warm_up().await;
    // The registry names another signer than the node's for a while: what was signed meanwhile is lost for good.
    let node = bench.stack.deployment().nodes[0].record();
    bench.register(owner::KmsNode { signerAddress: bench.app(), ..node }).await;
    let other = bench.requests(1).await;
    bench.publish(&bench.results(&other)).await;

    let submissions = bench.await_submissions(2).await;
    let refused = submissions.iter().find(|submission| submission.identity.id == other[0].id).unwrap();
    let Verdict::Refused { error, data, inclusion } = &refused.verdict else { panic!("{refused:?}") };
    assert_eq!(error, "NotKmsSigner");
    assert!(!data.is_empty() && inclusion.is_some(), "{refused:?}");
    assert_eq!(bench.answers_on_chain().await.len(), made.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_genuine_signature_under_another_request_becomes_a_dead_letter_and_no_transaction() {
    let bench = Bench::start("emitter-replayed", BLOCKS).await;
    let one = bench.requests(1).await[0];
    let two = bench.requester.make(&bench.public_request_of(2)).await.unwrap();
    let user = bench.requester.make(&bench.user_request().await).await.unwrap();
    let signer = bench.stack.node().keys().signer.clone();
    // What the signer did sign: for one handle, under a request for two; for another user's key.
    let replayed = bench.signed_result(Kind::PublicDecryption, two.id, bench.answer(Kind::PublicDecryption), &signer);
    let Answer::UserDecryption { handles, share, extra_data, signature, .. } = bench.answer(Kind::UserDecryption)
    else {
        unreachable!()
    };
    let public_key = Bytes::from_static(b"another key");
    let answer = Answer::UserDecryption { public_key, handles, share, extra_data, signature };
    let for_another = bench.signed_result(Kind::UserDecryption, user.id, answer, &signer);
    bench.publish(&[replayed, for_another]).await;
    // The genuine one flows on.
    bench.publish(&bench.results(&[one])).await;
    bench.await_all_accepted(&[one]).await;
    let letters = bench.await_dead_letters(2).await;
    assert!(letters.iter().all(|letter| letter.reason == "KC-0653"), "{letters:?}");
    assert_eq!(bench.account_nonce().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_request_that_the_chain_does_not_hold_at_the_named_place_is_not_answered() {
    let bench = Bench::start_with("emitter-invented", BLOCKS, |stack| {
        stack
            .set(ServiceKind::Emitter, "submission.not_yet_patience_ms=1000")
            .set(ServiceKind::Emitter, "submission.orphan_patience_ms=1000")
    })
    .await;
    let made = bench.requests(2).await;
    let places = bench.places().await;
    let place = |index: usize| places[&(made[index].kind, made[index].id)];
    let at = |(number, hash, log_index): (u64, B256, u64), id| ResultRecord {
        block_number: number,
        block_hash: hash,
        log_index,
        ..bench.result(Kind::PublicDecryption, id)
    };
    let (number, hash, index) = place(0);
    let unknown = RequestId(B256::from(U256::from_be_bytes(made[1].id.0.0) + U256::from(1_000)));
    let forged = [
        // A request that was never made, at the place of one that was; one under the other's place; no log there.
        at(place(0), unknown),
        at(place(1), made[0].id),
        at((number, hash, index + 1_000), made[0].id),
        // An invented fork, beside the chain and above it.
        at((number, B256::repeat_byte(0xbb), index), made[0].id),
        at((number + 1_000_000, B256::repeat_byte(0xbb), index), made[0].id),
        // A retraction of what is there.
        ResultRecord { answer: Answer::Retracted, ..at(place(0), made[0].id) },
    ];
    bench.publish(&forged).await;
    // A record of the first schema does not name the number.
    bench.publish(&[ResultRecord { block_number: 0, ..at(place(1), made[1].id) }]).await;

    let letters = bench.await_dead_letters(5).await;
    let mut reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["KC-0652", "KC-0652", "KC-0652", "KC-0654", "KC-0655"], "{letters:?}");
    let submissions = bench.await_submissions(2).await;
    let of = |id| submissions.iter().find(|one| one.identity.id == id).map(|one| &one.verdict);
    assert_eq!(of(made[0].id), Some(&Verdict::Retracted));
    assert!(matches!(of(made[1].id), Some(Verdict::Accepted(_))));
    assert_eq!(bench.account_nonce().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_bytes_that_somebody_else_writes_into_the_journal_are_not_sent_and_believed() {
    let bench = Bench::start("emitter-journal", BLOCKS).await;
    let mut made = bench.warm_up().await;
    let more = bench.requests(1).await;
    made.extend(more.clone());
    let genuine = bench.intents().await.remove(0);
    let results = bench.topics.results(Lane::Decryption).to_owned();
    let stranger = PrivateKeySigner::from_slice(&[5; 32]).unwrap();
    let forged = [
        // A transaction of somebody else's under our name.
        Intent { nonce: 1, attempt: 7, raw: bench.transfer(&stranger, 1), ..genuine.clone() },
        // Our own old transaction, said to carry another answer.
        Intent {
            attempt: 3,
            items: vec![IntentItem {
                result: Coordinates { topic: results, partition: 0, offset: 0 },
                identity: bench.result(more[0].kind, more[0].id).identity,
            }],
            ..genuine
        },
    ];
    let emitter = bench.stack.node().emitter();
    emitter.kill().await;
    bench.publish_intents(&forged).await;
    bench.publish(&bench.results(&more)).await;
    emitter.start().await.unwrap();

    bench.await_all_accepted(&made).await;
    let letters = bench.await_dead_letters(2).await;
    assert!(letters.iter().all(|letter| letter.reason == "KC-0759"), "{letters:?}");
    assert_eq!(bench.account_nonce().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_what_our_signer_did_not_sign_becomes_a_dead_letter_and_no_transaction() {
    let bench = Bench::start("emitter-forged", BLOCKS).await;
    let made = bench.requests(2).await;
    let stranger = PrivateKeySigner::from_slice(&[5; 32]).unwrap();
    let forged = bench.signed_result(made[0].kind, made[0].id, bench.answer(made[0].kind), &stranger);
    let mut elsewhere = bench.result(made[0].kind, made[0].id);
    elsewhere.identity.chain_id += 1;
    bench.publish(&[forged, elsewhere]).await;
    // What lies behind flows on, also behind bytes that are no result.
    let topic = bench.topics.results(Lane::Decryption).to_owned();
    let key = made[1].id.0.to_vec();
    bench
        .write(vec![
            (topic.clone(), key.clone(), b"what is this".to_vec()),
            (topic.clone(), key, vec![0xc3, 0x01, 0, 0]),
        ])
        .await;
    bench.publish(&bench.results(&made[1..])).await;

    bench.await_all_accepted(&made[1..]).await;
    let letters = bench.await_dead_letters(4).await;
    let mut reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    reasons.sort_unstable();
    assert!(reasons[0].starts_with("KC-02") && reasons[1].starts_with("KC-02"), "{reasons:?}");
    assert_eq!(reasons[2..], ["KC-0602", "KC-0651"]);
    assert!(letters.iter().all(|letter| letter.service == "emitter" && letter.source.topic == topic));
    assert_eq!(bench.account_nonce().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_foreign_transaction_of_the_account_only_costs_the_answer_another_nonce() {
    let bench = Bench::start("emitter-foreign", None).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(5).await);
    bench.stop_mining().await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_pending(5).await;
    // Pays far more, and takes the lowest nonce.
    bench.use_account_elsewhere(1).await;
    bench.mine_again().await;

    bench.await_all_accepted(&made).await;
    assert_eq!(bench.account_nonce().await, 7);
    let taken = bench.stack.node().emitter().metric("kms_connector_nonces_taken_total").await;
    assert_eq!(taken, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_pool_that_lost_everything_is_filled_again() {
    let bench = Bench::start_with("emitter-pool", None, unreplaced).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(30).await);
    bench.stop_mining().await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_pending(30).await;
    // Or it could fill the pool before the look at it.
    let emitter = bench.stack.node().emitter().process();
    emitter.signal(Signal::SIGSTOP);
    bench.rpc("anvil_dropAllTransactions", json!([])).await;
    assert_eq!(bench.pending().await, 0);
    emitter.signal(Signal::SIGCONT);
    bench.await_pending(30).await;
    bench.mine_again().await;
    bench.await_all_accepted(&made).await;
    assert_eq!(bench.account_nonce().await, 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_one_dropped_transaction_does_not_hold_up_those_behind_it() {
    let bench = Bench::start_with("emitter-dropped", None, unreplaced).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(10).await);
    bench.stop_mining().await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_pending(10).await;
    let lowest = bench.intents().await.into_iter().find(|intent| intent.nonce == 1).unwrap();
    bench.rpc("anvil_dropTransaction", json!([lowest.hash])).await;
    bench.mine_again().await;
    bench.await_all_accepted(&made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_killed_with_nothing_left_in_any_pool_the_same_bytes_are_sent_after_a_restart() {
    let bench = Bench::start_with("emitter-before-send", None, unreplaced).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(20).await);
    bench.stop_mining().await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_pending(20).await;
    let emitter = bench.stack.node().emitter();
    emitter.kill().await;
    let journalled = bench.intents().await;
    assert_eq!(journalled.len(), 21);
    // As if the process had ended between the journal and the node.
    bench.rpc("anvil_dropAllTransactions", json!([])).await;
    bench.mine_again().await;
    emitter.start().await.unwrap();

    bench.await_all_accepted(&made).await;
    let sent: HashSet<B256> = bench.answers_on_chain().await.into_values().flatten().collect();
    assert_eq!(sent, journalled.iter().map(|intent| intent.hash).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_killed_after_a_send_what_was_mined_meanwhile_is_settled_by_its_receipt() {
    let bench = Bench::start_with("emitter-after-send", None, unreplaced).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(20).await);
    bench.stop_mining().await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_pending(20).await;
    let emitter = bench.stack.node().emitter();
    emitter.kill().await;
    bench.mine_again().await;
    emitter.start().await.unwrap();

    bench.await_all_accepted(&made).await;
    assert_eq!(bench.intents().await.len(), 21);
    assert_eq!(bench.account_nonce().await, 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_killed_at_any_moment_every_answer_is_accepted_and_settled_once() {
    const RESULTS: usize = 600;
    let bench = Bench::start("emitter-killed", BLOCKS).await;
    let made = bench.requests(RESULTS).await;
    let results = bench.results(&made);
    let emitter = bench.stack.node().emitter();
    let mut random = SmallRng::seed_from_u64(7);
    for chunk in results.chunks(RESULTS / 10) {
        bench.publish(chunk).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        emitter.kill().await;
        emitter.process().start().unwrap();
    }
    emitter.wait_ready().await.unwrap();
    let submissions = bench.await_submissions(RESULTS).await;
    let on_chain = bench.answers_on_chain().await;
    for request in &made {
        assert_eq!(on_chain.get(&(request.kind, request.id)).map(Vec::len), Some(1), "{request:?}");
    }
    for submission in &submissions {
        assert!(matches!(submission.verdict, Verdict::Accepted(_)), "{submission:?}");
    }
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_chain_is_waited_for_and_is_no_verdict() {
    let bench = Bench::start_with("emitter-outage", BLOCKS, |stack| {
        stack
            .set(ServiceKind::Emitter, "destination.0.rpc_timeout_ms=500")
            .set(ServiceKind::Emitter, "destination.0.send_timeout_ms=500")
    })
    .await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(10).await);
    made.push(bench.requester.make(&bench.user_request().await).await.unwrap());
    let results = bench.placed(&bench.results(&made[1..])).await;
    bench.stack.anvil().process().signal(Signal::SIGSTOP);
    bench.publish(&results).await;
    bench.await_not_ready("destination").await;
    bench.stack.anvil().process().signal(Signal::SIGCONT);
    bench.await_all_accepted(&made).await;
    bench.stack.node().emitter().wait_ready().await.unwrap();
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emitter_that_starts_without_a_chain_waits_for_it() {
    let workspace = new_workspace();
    let anvil = Anvil::start(&workspace, AnvilOptions::default()).await.unwrap();
    let address = anvil.url().trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(&address).await;
    let bench = Bench::start_with("emitter-late", None, |stack| stack.anvil(anvil).rpc_urls([proxy.url()])).await;
    let emitter = bench.stack.node().emitter();
    emitter.kill().await;
    proxy.cut();
    emitter.process().start().unwrap();
    let made = bench.requests(3).await;
    bench.publish(&bench.results(&made)).await;
    bench.await_not_ready("destination").await;
    proxy.restore();
    bench.await_all_accepted(&made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_node_that_is_not_registered_wait_until_it_is() {
    let bench = Bench::start_with("emitter-unregistered", None, |stack| {
        stack.set(ServiceKind::Emitter, "submission.registration_probe_ms=200")
    })
    .await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(5).await);
    let node = bench.stack.deployment().nodes[0].record();
    bench.register(owner::KmsNode { txSenderAddress: bench.app(), ..node.clone() }).await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_not_ready("NotKmsTxSender").await;
    assert!(bench.stack.node().emitter().metric("kms_connector_submissions_held").await >= Some(1.0));

    bench.register(node).await;
    bench.await_all_accepted(&made).await;
    bench.stack.node().emitter().wait_ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_fee_that_overtakes_the_offer_is_answered_by_a_replacement() {
    let bench = Bench::start("emitter-fees", None).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(5).await);
    bench.stop_mining().await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_pending(5).await;
    bench.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])).await; // 100 gwei
    bench.rpc("evm_mine", json!([])).await;
    bench.mine_again().await;
    bench.await_all_accepted(&made).await;
    assert!(bench.intents().await.iter().any(|intent| intent.attempt > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_when_the_active_emitter_is_killed() {
    let bench = Bench::start("emitter-standby", BLOCKS).await;
    let mut made = bench.warm_up().await;
    let standby = bench.stack.another(bench.stack.node(), ServiceKind::Emitter, "1").unwrap();
    standby.process().start().unwrap();
    bench.await_standby(standby.listen().to_string()).await;
    made.extend(bench.requests(50).await);
    bench.publish(&bench.results(&made[1..])).await;
    bench.stack.node().emitter().kill().await;
    bench.await_all_accepted(&made).await;
    standby.wait_ready().await.unwrap();
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_cannot_pay_holds_its_answers_until_it_can() {
    let bench = Bench::start("emitter-funds", BLOCKS).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(5).await);
    bench.rpc("anvil_setBalance", json!([bench.sender(), "0x0"])).await;
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_not_ready("cannot pay").await;
    bench.rpc("anvil_setBalance", json!([bench.sender(), "0x56bc75e2d63100000"])).await;
    bench.await_all_accepted(&made).await;
    bench.stack.node().emitter().wait_ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_recovery_reads_the_journal_only_from_where_something_is_open() {
    let bench = Bench::start_with("emitter-bound", BLOCKS, |stack| {
        stack.set(ServiceKind::Emitter, "submission.journal_memory_s=5")
    })
    .await;
    let mut made = Vec::new();
    let intents = eventually("an intent that lets go of its predecessors", LIMIT, async || {
        let one = bench.requests(1).await;
        bench.publish(&bench.results(&one)).await;
        made.extend(one);
        bench.await_submissions(made.len()).await;
        let intents = bench.intents().await;
        intents.last().is_some_and(|newest| newest.settled_below > 0).then_some(intents)
    })
    .await;
    let emitter = bench.stack.node().emitter();
    emitter.kill().await;
    emitter.start().await.unwrap();
    let taken_up = eventually("it takes up where the one before ended", LIMIT, async || {
        let log = emitter.process().log();
        let mut lines = log.lines().filter(|line| line.contains("taking up where the journal ends"));
        lines.nth(1).map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&taken_up).unwrap();
    assert!(line["intents"].as_u64().unwrap() < intents.len() as u64, "{taken_up}");

    made.extend(bench.requests(3).await);
    bench.publish(&bench.results(&made[made.len() - 3..])).await;
    bench.await_all_accepted(&made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_proving_reads_each_block_once_and_costs_no_call_per_answer() {
    const ANSWERS: usize = 400;
    let bench = Bench::start("emitter-proofs", BLOCKS).await;
    let mut made = bench.warm_up().await;
    made.extend(bench.requests(ANSWERS).await);
    let blocks: HashSet<u64> = bench.places().await.into_values().map(|(number, _, _)| number).collect();
    bench.publish(&bench.results(&made[1..])).await;
    bench.await_all_accepted(&made).await;
    let emitter = bench.stack.node().emitter();
    assert_eq!(emitter.metric("kms_connector_proofs_total").await, Some((ANSWERS + 1) as f64));
    let read = emitter.metric("kms_connector_authority_blocks_read_total").await.unwrap();
    assert!(read <= blocks.len() as f64, "{read} blocks read for requests in {}", blocks.len());
}
