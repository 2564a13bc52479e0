//! Generation (b): decryptions on the Gateway, keys, contexts and epochs on the Ethereum host chain, one emitter for both.

use alloy::primitives::{Bytes, U256};
use alloy::sol_types::SolCall as _;
use kms_chain::contracts::b;
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::{Answer, EpochCrs, EpochKey, KeyDigest, RequestBody, ResultRecord, Submission, Verdict};
use kms_stack::contracts::{Account, Call, NewRequest};
use kms_stack::supervise::Signal;
use kms_stack::{Generation, ServiceKind};
use kms_tests::eventually;
use serde_json::json;

use super::BLOCKS;
use super::bench::{Asked, Bench, LIMIT, unsigned};

/// The keys and CRSs that the chain holds, in its order.
#[derive(Default)]
struct Material {
    keys: Vec<EpochKey>,
    crs_list: Vec<EpochCrs>,
}

async fn start(name: &str, nodes: usize) -> Bench {
    Bench::start_with(name, BLOCKS, |stack| {
        stack
            .generation(Generation::B)
            .nodes(nodes)
            .set(ServiceKind::Emitter, "destination.1.poll_interval_ms=20")
            .set(ServiceKind::Emitter, "destination.1.idle_poll_interval_ms=100")
            .set(ServiceKind::Emitter, "submission.orphan_patience_ms=1000")
    })
    .await
}

fn digests() -> Vec<KeyDigest> {
    (0..2).map(|key_type| KeyDigest { key_type, digest: Bytes::from(vec![7 + key_type; 32]) }).collect()
}

/// What KMS Core would answer to a request whose answer needs nothing but the request.
fn answer_to(body: &RequestBody) -> Answer {
    match body.clone() {
        RequestBody::PublicDecryptionHandles { handles, extra_data } => Answer::PublicDecryption {
            decrypted_result: vec![7; 32 * handles.len()].into(),
            handles,
            extra_data,
            signature: unsigned(),
        },
        RequestBody::UserDecryptionHandles { handles, public_key, extra_data, .. } => Answer::UserDecryption {
            public_key,
            handles,
            share: vec![3; 1_000].into(),
            extra_data,
            signature: unsigned(),
        },
        RequestBody::PrepKeygen { extra_data, .. } => Answer::PrepKeygen { extra_data, signature: unsigned() },
        RequestBody::Keygen { prep_keygen_id, extra_data } => {
            Answer::Keygen { prep_keygen_id, key_digests: digests(), extra_data, signature: unsigned() }
        }
        RequestBody::Crsgen { max_bit_length, extra_data, .. } => {
            Answer::Crsgen { max_bit_length, crs_digest: vec![9; 32].into(), extra_data, signature: unsigned() }
        }
        RequestBody::NewKmsContext(_) => Answer::KmsContextCreated,
        other => panic!("{other:?}"),
    }
}

impl Material {
    fn activation(&self, epoch: &Asked) -> Answer {
        let RequestBody::NewKmsEpoch { context_id, .. } = epoch.body else { panic!("{epoch:?}") };
        Answer::EpochActivation { context_id, keys: self.keys.clone(), crs_list: self.crs_list.clone() }
    }
}

/// Makes a request, answers it and waits until that is accepted.
async fn serve(bench: &Bench, request: &NewRequest) -> Asked {
    let made = bench.requester.make(request).await.unwrap();
    let asked = bench.await_asked(made.kind, |asked| asked.identity.id == made.id).await;
    answer(bench, &asked, answer_to(&asked.body)).await;
    asked
}

async fn answer(bench: &Bench, asked: &Asked, answer: Answer) {
    bench.publish(&[bench.result_to(asked, answer)]).await;
    let submission = settled(bench, asked.identity.id).await;
    assert!(matches!(submission.verdict, Verdict::Accepted(_)), "{submission:?}");
    let on_chain = bench.answers_on_chain().await;
    assert_eq!(on_chain.get(&(asked.identity.kind, asked.identity.id)).map(Vec::len), Some(1), "{asked:?}");
}

/// The first settlement of this request.
async fn settled(bench: &Bench, id: RequestId) -> Submission {
    eventually(&format!("a submission of {id}"), LIMIT, async || {
        bench.submissions().await.into_values().find(|one| one.identity.id == id)
    })
    .await
}

/// A key and a CRS all the way.
async fn generate(bench: &Bench) -> Material {
    let prep = serve(bench, &NewRequest::Keygen { params_type: 1 }).await;
    let of_prep = |asked: &Asked| matches!(asked.body, RequestBody::Keygen { prep_keygen_id, .. } if prep_keygen_id == prep.identity.id);
    let keygen = bench.await_asked(Kind::Keygen, of_prep).await;
    answer(bench, &keygen, answer_to(&keygen.body)).await;
    let max_bit_length = U256::from(2_048);
    let crs = serve(bench, &NewRequest::Crsgen { max_bit_length, params_type: 1 }).await;
    let key = EpochKey {
        prep_keygen_id: prep.identity.id,
        key_id: keygen.identity.id,
        key_digests: digests(),
        signature: unsigned(),
    };
    let crs =
        EpochCrs { crs_id: crs.identity.id, max_bit_length, crs_digest: vec![9; 32].into(), signature: unsigned() };
    Material { keys: vec![key], crs_list: vec![crs] }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_every_kind_of_answer_of_generation_b_is_accepted_on_its_own_chain() {
    let bench = start("emitter-b-kinds", 1).await;
    let public = serve(&bench, &bench.public_request()).await;
    assert!(matches!(public.body, RequestBody::PublicDecryptionHandles { .. }));
    serve(&bench, &bench.user_request().await).await;
    let material = generate(&bench).await;

    // A new epoch of the same nodes.
    let epoch = bench.requester.make(&NewRequest::NewEpoch).await.unwrap();
    let epoch = bench.await_asked(Kind::NewKmsEpoch, |asked| asked.identity.id == epoch.id).await;
    answer(&bench, &epoch, material.activation(&epoch)).await;

    // A new context of the same nodes, whose first epoch is asked for when the nodes have confirmed it.
    let definition = Box::new(bench.stack.deployment().context());
    let context = serve(&bench, &NewRequest::NewContextAndEpoch(definition)).await;
    let first = bench
        .await_asked(Kind::NewKmsEpoch, |asked| {
            matches!(asked.body, RequestBody::NewKmsEpoch { context_id, .. } if context_id == context.identity.id)
        })
        .await;
    answer(&bench, &first, material.activation(&first)).await;

    // The same confirmation once more comes after its phase, and is found on chain.
    bench.publish(&[bench.result_to(&context, Answer::KmsContextCreated)]).await;
    let again = eventually("the second submission of the context", LIMIT, async || {
        let all = bench.submissions().await;
        all.into_values().find_map(|one| match one.verdict {
            Verdict::AlreadyAnswered { evidence, transaction_hash } => Some((evidence, transaction_hash)),
            _ => None,
        })
    })
    .await;
    assert!(again.0.starts_with("KmsContextNotPending"), "{again:?}");
    let confirmed = &bench.answers_on_chain().await[&(Kind::NewKmsContext, context.identity.id)];
    assert_eq!(again.1, Some(confirmed[0]));
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_context_that_was_created_without_us_concludes_our_confirmation() {
    let bench = start("emitter-b-concluded", 4).await;
    // The three other nodes are the new context, and enough of the previous one.
    let mut definition = bench.stack.deployment().context();
    definition.nodes.remove(0);
    definition.thresholds = kms_stack::contracts::Thresholds::of(3, 1);
    definition.thresholds.mpc = 1;
    let made = bench.requester.make(&NewRequest::NewContextAndEpoch(Box::new(definition))).await.unwrap();
    let context = bench.await_asked(Kind::NewKmsContext, |asked| asked.identity.id == made.id).await;
    let data: Bytes =
        b::ProtocolConfig::confirmKmsContextCreationCall { kmsContextId: made.id.as_u256() }.abi_encode().into();
    for node in &bench.stack.nodes()[1..] {
        let account = Account::open(bench.requester.host(), node.keys().sender.clone()).await.unwrap();
        let call = Call { to: Some(context.identity.contract), data: data.clone(), gas: 500_000 };
        let sent = account.send(&[call]).await.unwrap();
        let receipts = bench.requester.host().receipts(&sent, LIMIT).await.unwrap();
        assert!(receipts[0].status(), "a confirmation reverted");
    }
    bench.publish(&[bench.result_to(&context, Answer::KmsContextCreated)]).await;
    let submission = settled(&bench, made.id).await;
    let Verdict::Concluded { evidence } = &submission.verdict else { panic!("{submission:?}") };
    assert!(evidence.contains("KmsContextNotPending") && evidence.contains("isLiveKmsContext"), "{evidence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_an_epoch_without_all_of_its_keys_an_abort_of_nothing_and_a_first_context_send_nothing() {
    let bench = start("emitter-b-forged", 1).await;
    let mut material = generate(&bench).await;
    let more = generate(&bench).await;
    material.keys.extend(more.keys);
    material.crs_list.extend(more.crs_list);
    let made = bench.requester.make(&NewRequest::NewEpoch).await.unwrap();
    let epoch = bench.await_asked(Kind::NewKmsEpoch, |asked| asked.identity.id == made.id).await;
    let before = bench.answers_on_chain().await.len();
    let genuine = material.activation(&epoch);
    let change = |change: fn(&mut Vec<EpochKey>, &mut Vec<EpochCrs>)| {
        let Answer::EpochActivation { context_id, mut keys, mut crs_list } = genuine.clone() else { unreachable!() };
        change(&mut keys, &mut crs_list);
        bench.result_to(&epoch, Answer::EpochActivation { context_id, keys, crs_list })
    };
    let open = bench.requester.make(&NewRequest::Keygen { params_type: 1 }).await.unwrap();
    let open = bench.await_asked(Kind::PrepKeygen, |asked| asked.identity.id == open.id).await;
    let first = bench.await_asked(Kind::NewKmsContext, |_| true).await;
    let forged: Vec<ResultRecord> = vec![
        // Each item signed by our signer for this very epoch.
        change(|keys, _| keys.truncate(1)),
        change(|keys, _| keys.swap(0, 1)),
        change(|_, crs_list| crs_list.truncate(1)),
        // Nobody aborted it.
        bench.result_to(&open, Answer::Aborted),
        // The genesis context takes no confirmation.
        bench.result_to(&first, Answer::KmsContextCreated),
    ];
    bench.publish(&forged).await;
    let letters = bench.await_dead_letters(5).await;
    let mut reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["KC-0653", "KC-0657", "KC-0658", "KC-0658", "KC-0658"], "{letters:?}");
    assert_eq!(bench.answers_on_chain().await.len(), before);

    // The genuine ones are served after all.
    answer(&bench, &epoch, genuine).await;
    bench.requester.make(&NewRequest::AbortKeygen { prep_keygen_id: open.identity.id }).await.unwrap();
    bench.publish(&[bench.result_to(&open, Answer::Aborted)]).await;
    assert_eq!(settled(&bench, open.identity.id).await.verdict, Verdict::NoAnswerOnChain);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_one_chain_that_is_gone_holds_up_no_answer_to_the_other() {
    let bench = start("emitter-b-outage", 1).await;
    let prep = bench.requester.make(&NewRequest::Keygen { params_type: 1 }).await.unwrap();
    let prep = bench.await_asked(Kind::PrepKeygen, |asked| asked.identity.id == prep.id).await;
    let ethereum = bench.stack.ethereum().unwrap().process();
    ethereum.signal(Signal::SIGSTOP);
    bench.publish(&[bench.result_to(&prep, answer_to(&prep.body))]).await;
    let made = bench.requester.make(&bench.public_request()).await.unwrap();
    bench.publish(&[bench.result_on_gateway(made.kind, made.id).await]).await;
    let submission = settled(&bench, made.id).await;
    assert!(matches!(submission.verdict, Verdict::Accepted(_)), "{submission:?}");
    ethereum.signal(Signal::SIGCONT);
    let submission = settled(&bench, prep.identity.id).await;
    assert!(matches!(submission.verdict, Verdict::Accepted(_)), "{submission:?}");
    bench.stack.node().emitter().wait_ready().await.unwrap();
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_destination_is_told_once() {
    let bench = start("emitter-b-nobody", 1).await;
    let prep = bench.requester.make(&NewRequest::Keygen { params_type: 1 }).await.unwrap();
    let prep = bench.await_asked(Kind::PrepKeygen, |asked| asked.identity.id == prep.id).await;
    let genuine = bench.result_to(&prep, answer_to(&prep.body));
    let mut elsewhere = genuine.clone();
    elsewhere.identity.chain_id += 1;
    let topic = bench.topics.results(kms_schemas::identity::Lane::KeyManagement).to_owned();
    bench.publish(&[elsewhere]).await;
    bench.write(vec![(topic, prep.identity.id.0.to_vec(), b"what is this".to_vec())]).await;
    bench.publish(&[genuine]).await;
    settled(&bench, prep.identity.id).await;
    let letters = bench.await_dead_letters(2).await;
    // Both destinations have passed them: the one that answers the genuine one, and the one that tells.
    bench.await_read(6.0).await;
    assert_eq!(bench.dead_letters().await.len(), 2, "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_destination_that_failed_for_good_is_tried_anew_and_stops_no_other() {
    let bench = start("emitter-b-failed", 1).await;
    let (emitter, ethereum) = (bench.stack.node().emitter(), bench.stack.ethereum().unwrap());
    let contract = bench.stack.chains()[1].contracts.protocol_config.unwrap();
    let code = ethereum.rpc("eth_getCode", json!([contract, "latest"])).await.unwrap();
    emitter.kill().await;
    ethereum.rpc("anvil_setCode", json!([contract, "0x"])).await.unwrap();
    emitter.process().start().unwrap();
    bench.await_not_ready("KC-0758").await;
    serve(&bench, &bench.public_request()).await;

    ethereum.rpc("anvil_setCode", json!([contract, code])).await.unwrap();
    emitter.wait_ready().await.unwrap();
    serve(&bench, &NewRequest::Keygen { params_type: 1 }).await;
    let failures = emitter.metric("kms_connector_destination_failures_total").await;
    assert!(failures >= Some(1.0), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_start_warns_of_nothing_and_does_not_call_itself_a_standby() {
    let mut heard = Vec::new();
    // What a machine that stands still for seconds makes of a start is not one of a calm machine: one of three must be.
    for _ in 0..3 {
        let bench = start("emitter-b-calm", 1).await;
        serve(&bench, &bench.public_request()).await;
        let log = bench.stack.node().emitter().process().log();
        let is_loud = |line: &&str| ["WARN", "ERROR", "standby"].iter().any(|word| line.contains(word));
        let loud: Vec<String> = log.lines().filter(is_loud).map(str::to_owned).collect();
        if loud.is_empty() {
            return;
        }
        heard.push(loud);
    }
    panic!("{heard:#?}");
}
