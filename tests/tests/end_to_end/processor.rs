//! The processor as a process, on real Kafka and a real chain, before a KMS Core simulator that is made to fail in every way.
//!
//! Requests are made while only ingest runs. So their ids are known before the processor sees them, and each can be given a failure of
//! its own.

pub(crate) mod bench;

use std::collections::BTreeMap;

use alloy::primitives::{B256, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolStruct};
use kms_chain::rpc::{BlockId, EndpointUrl, Rpc, RpcConfig};
use kms_chain::views::KmsGenerationViews;
use kms_schemas::identity::{Kind, Lane};
use kms_schemas::record::{Answer, DeferredRequest, Verdict};
use kms_stack::contracts::{Made, NewRequest};
use kms_stack::simulator::{Effect, Fault, Operation, Tokens, When};
use kms_stack::supervise::{Launch, Supervised};
use kms_stack::{Generation, ServiceKind, Stack};
use kms_tests::{Proxy, eventually};

use bench::{Bench, LIMIT, Outcome, start};

alloy::sol! {
    /// What ties a user's shares to request and user, as KMS Core hashes it.
    struct UserDecryptionLinker {
        bytes publicKey;
        bytes32[] handles;
        address userAddress;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_each_kind_of_request_is_answered_and_started_once() {
    let bench = Bench::start("processor-kinds", |stack| {
        // Not initialised: so that the PRSS request has something to do.
        stack.services(&ServiceKind::ALL).core(|_, core| core.initialized = false)
    })
    .await;
    let twice = bench.ciphertext();
    let mut made = vec![
        bench.public_of(&[twice.clone(), bench.ciphertext(), twice]).await,
        bench.make(&bench.new_user()).await,
        bench.make(&bench.new_delegated().await).await,
        bench.make(&NewRequest::Keygen { params_type: 1 }).await,
        bench.make(&NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 }).await,
        bench.make(&NewRequest::PrssInit).await,
    ];
    // The preprocessing's consensus asks for the key; only a key that is there can be reshared.
    let key = settled(&bench, Kind::Keygen).await;
    made.push(bench.make(&NewRequest::KeyReshareSameSet { key_id: key.id }).await);
    settled(&bench, Kind::KeyReshareSameSet).await;
    made.push(key);

    let answers = bench.answers(&made).await;
    let submissions = eventually("every answer is settled", LIMIT, async || {
        let submissions = bench.submissions().await;
        (submissions.len() >= made.len()).then_some(submissions)
    })
    .await;
    for (made, result) in made.iter().zip(&answers) {
        let settled = submissions.iter().find(|one| one.request == result.source).unwrap();
        match made.kind {
            Kind::PrssInit | Kind::KeyReshareSameSet => {
                assert_eq!((&result.answer, &settled.verdict), (&Answer::Done, &Verdict::NoAnswerOnChain));
            }
            _ => assert!(matches!(settled.verdict, Verdict::Accepted(_)), "{settled:?}"),
        }
        assert_eq!(result.attempts, 1, "{result:?}");
        assert_eq!(bench.starts(made).await, 1, "{made:?}");
    }
    let Answer::PublicDecryption { handles, .. } = &answers[0].answer else { panic!("{:?}", answers[0]) };
    assert_eq!((handles.len(), handles[0] == handles[2], handles[0] == handles[1]), (3, true, false));
    // A delegated request is answered for the delegate.
    for result in &answers[1..3] {
        assert_shares_are_for(&bench, &result.answer);
    }
}

/// Waits until a result of a kind is settled, and tells whose.
async fn settled(bench: &Bench, kind: Kind) -> Made {
    let identity = eventually(&format!("{kind} is settled"), LIMIT, async || {
        let submissions = bench.submissions().await;
        submissions.into_iter().map(|one| one.identity).find(|identity| identity.kind == kind)
    })
    .await;
    Made {
        transaction: B256::ZERO,
        chain: kms_stack::contracts::Chain::Gateway,
        block: 0,
        kind,
        id: identity.id,
        gas_used: 0,
    }
}

fn assert_shares_are_for(bench: &Bench, answer: &Answer) {
    let Answer::UserDecryption { public_key, handles, share, .. } = answer else { panic!("{answer:?}") };
    let linker = UserDecryptionLinker {
        publicKey: public_key.clone(),
        handles: handles.clone(),
        userAddress: bench.user.address(),
    };
    let contracts = bench.stack.contracts();
    let domain = Eip712Domain {
        name: Some("Decryption".into()),
        version: Some("1".into()),
        chain_id: Some(U256::from(contracts.gateway_chain_id)),
        verifying_contract: Some(contracts.decryption),
        salt: None,
    };
    let digest = linker.eip712_signing_hash(&domain);
    assert!(share.windows(32).any(|window| window == digest.as_slice()), "{answer:?}");
}

// --- Status codes ---------------------------------------------------------------------------------------------------

/// What must come of a request that meets a failure.
#[derive(Debug)]
enum Expect {
    /// An answer, after so many starts and attempts.
    Answer { starts: u64, attempts: u32 },
    /// A dead letter with this reason, after so many attempts.
    Dead { reason: &'static str, attempts: u32 },
}

const GET: &str = "GetPublicDecryptionResult";
const START: &str = "PublicDecrypt";

fn lasting_status(rpc: &str, code: &str) -> Fault {
    Fault { code: Some(code.to_owned()), ..Fault::lasting(rpc, Effect::Status) }
}

/// Every status, and what it must lead to. At most three attempts are made.
fn statuses() -> Vec<(&'static str, Fault, Expect)> {
    let after = |fault: Fault| Fault { when: When::After, ..fault };
    let once = Expect::Answer { starts: 1, attempts: 1 };
    vec![
        ("a known id is awaited", after(Fault::status(START, "ALREADY_EXISTS", 1)), once),
        (
            "an id that was forgotten is started again",
            Fault::status(GET, "NOT_FOUND", 1),
            Expect::Answer { starts: 2, attempts: 1 },
        ),
        (
            "an invalid request is given up at once",
            lasting_status(START, "INVALID_ARGUMENT"),
            Expect::Dead { reason: "KC-0502", attempts: 1 },
        ),
        (
            "a call that the version lacks is given up at once",
            lasting_status(START, "UNIMPLEMENTED"),
            Expect::Dead { reason: "KC-0504", attempts: 1 },
        ),
        (
            "a failed operation is given up at once",
            lasting_status(GET, "INTERNAL"),
            Expect::Dead { reason: "KC-0503", attempts: 1 },
        ),
        (
            "an aborted operation is given up at once",
            lasting_status(GET, "ABORTED"),
            Expect::Dead { reason: "KC-0508", attempts: 1 },
        ),
        (
            "an unknown key may become known",
            Fault::status(START, "NOT_FOUND", 2),
            Expect::Answer { starts: 3, attempts: 3 },
        ),
        (
            "a key that stays unknown is given up after the attempts",
            lasting_status(START, "NOT_FOUND"),
            Expect::Dead { reason: "KC-0505", attempts: 3 },
        ),
        (
            "a full store burns no attempt",
            Fault::status(START, "ABORTED", 4),
            Expect::Answer { starts: 5, attempts: 1 },
        ),
        (
            "a full core burns no attempt",
            Fault::status(START, "RESOURCE_EXHAUSTED", 4),
            Expect::Answer { starts: 5, attempts: 1 },
        ),
        (
            "a core without signing key burns no attempt",
            Fault::status(START, "FAILED_PRECONDITION", 4),
            Expect::Answer { starts: 5, attempts: 1 },
        ),
        (
            "a status that no core gives burns no attempt",
            Fault::status(START, "UNKNOWN", 4),
            Expect::Answer { starts: 5, attempts: 1 },
        ),
        (
            "the same on the way to a result, where nothing is started again",
            Fault::status(GET, "UNKNOWN", 4),
            Expect::Answer { starts: 1, attempts: 1 },
        ),
        ("pending is asked for again", Fault::status(GET, "UNAVAILABLE", 5), Expect::Answer { starts: 1, attempts: 1 }),
        (
            "a deadline is pending",
            Fault::status(GET, "DEADLINE_EXCEEDED", 5),
            Expect::Answer { starts: 1, attempts: 1 },
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_of_kms_core_and_every_broken_call_has_its_outcome() {
    let bench = Bench::start("processor-statuses", |stack| {
        stack
            .set(ServiceKind::Processor, "lanes.decryption.max_attempts=3")
            .set(ServiceKind::Processor, "kms_core.start_timeout_ms=5000")
            .set(ServiceKind::Processor, "kms_core.await_timeout_ms=5000")
    })
    .await;
    let cases = statuses();
    let made = bench.publics(cases.len() + 1).await;
    for (made, (_, fault, _)) in made.iter().zip(&cases) {
        bench.meet(made, fault.clone()).await;
    }
    start(bench.processor()).await;
    let outcomes = bench.outcomes(&made).await;
    for ((made, outcome), (what, _, expect)) in made.iter().zip(&outcomes).zip(&cases) {
        let starts = bench.starts(made).await;
        match (expect, outcome) {
            (Expect::Answer { starts: wanted, attempts }, Outcome::Answered(result)) => {
                assert_eq!((starts, result.attempts), (*wanted, *attempts), "{what}");
            }
            (Expect::Dead { reason, attempts }, Outcome::Dead(letter)) => {
                assert_eq!((letter.reason.as_str(), letter.attempts), (*reason, *attempts), "{what}: {letter:?}");
                assert!(letter.request.is_some() && letter.text.contains(&made.id.to_core_hex()[56..]), "{letter:?}");
            }
            _ => panic!("{what}: {outcome:?}"),
        }
    }
    let Some(Outcome::Answered(result)) = outcomes.last() else { panic!("{outcomes:?}") };
    assert_eq!(result.attempts, 1, "a request that met nothing flows on");

    // Broken calls, one kind after the other, since a dropped connection takes other calls with it.
    bench.core.remove_faults().await.unwrap();
    for (effect, when) in [(Effect::Drop, When::Before), (Effect::Drop, When::After), (Effect::Hang, When::Before)] {
        for rpc in [START, GET] {
            let fault = Fault { count: Some(2), when, ..Fault::lasting(rpc, effect) };
            bench.core.inject(&fault).await.unwrap();
            let made = bench.publics(2).await;
            for result in bench.answers(&made).await {
                assert_eq!(result.attempts, 1, "{effect:?} {when:?} {rpc}");
            }
        }
    }
    assert!(bench.core.faults().await.unwrap().is_empty(), "every failure was met");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_what_takes_long_is_deferred_and_what_is_refused_for_lack_of_room_waits() {
    let bench = Bench::start("processor-slow", |stack| {
        stack
            .set(ServiceKind::Processor, "lanes.decryption.defer_after_ms=700")
            .set(ServiceKind::Processor, "lanes.decryption.max_attempts=2")
            .core(|_, core| {
                core.limits.bucket = 15;
                core.limits.tokens = Tokens { user_decryption: 10, public_decryption: 1, ..Tokens::default() };
            })
    })
    .await;
    bench.core.hold(Operation::UserDecryption).await.unwrap();
    let slow = bench.make(&bench.new_user()).await;
    start(bench.processor()).await;
    eventually("it is deferred", LIMIT, async || (bench.deferred().await.len() == 1).then_some(())).await;
    // Its partition flows on, and so do the others.
    let quick = bench.publics(5).await;
    bench.answers(&quick).await;
    assert_nothing_is_held_up(&bench).await;
    // Also over a kill.
    bench.processor().kill().await;
    start(bench.processor()).await;
    bench.core.release(Operation::UserDecryption).await.unwrap();
    let answered = bench.answers(&[slow]).await.remove(0);
    assert!(answered.deferred.is_some_and(|at| at.topic == bench.topics.deferred(Lane::Decryption)));
    assert_eq!(answered.attempts, 1);
    assert_eq!(bench.starts(&slow).await, 1, "neither the deferral nor the kill starts it again");

    // Of these there is room for one at a time.
    bench.core.forget_calls().await.unwrap();
    bench.core.hold(Operation::UserDecryption).await.unwrap();
    let requests = [bench.new_user(), bench.new_user(), bench.new_user()];
    let mut waiting = Vec::new();
    for request in &requests {
        waiting.push(bench.make(request).await);
    }
    let refused = async || {
        let calls = bench.core.calls().await.unwrap();
        (calls.rpcs.get("UserDecrypt")?.answered("RESOURCE_EXHAUSTED") >= 8).then_some(())
    };
    eventually("the core refuses for lack of tokens", LIMIT, refused).await;
    bench.await_not_ready(bench.processor(), &["kms_core", "KC-0506", "tokens"]).await;
    bench.core.release(Operation::UserDecryption).await.unwrap();
    for result in bench.answers(&waiting).await {
        assert_eq!(result.attempts, 1, "{result:?}");
    }
    bench.processor().wait_ready().await.unwrap();

    // When a dependency is back, the one that finds out may itself take long.
    bench.core.inject(&lasting_status("*", "UNKNOWN")).await.unwrap();
    let long = bench.publics(3).await;
    bench.await_not_ready(bench.processor(), &["kms_core", "KC-0501"]).await;
    let quick = bench.make(&bench.new_user()).await;
    bench.core.hold(Operation::PublicDecryption).await.unwrap();
    bench.core.remove_faults().await.unwrap();
    bench.answers(&[quick]).await;
    bench.core.release(Operation::PublicDecryption).await.unwrap();
    bench.answers(&long).await;
    assert!(bench.dead_letters().await.is_empty());
}

/// Every record of the lane's requests topic is behind the committed offset.
async fn assert_nothing_is_held_up(bench: &Bench) {
    let topic = bench.topics.requests(Lane::Decryption).to_owned();
    let group = format!("{}.processor.decryption", bench.topics.prefix());
    let mut last = BTreeMap::new();
    for record in bench.read_raw(&topic).await {
        last.insert(record.at.partition, record.at.offset);
    }
    eventually("the committed offsets pass every request", LIMIT, async || {
        let committed = bench.committed(&group, &topic).await;
        last.iter().all(|(partition, last)| committed.get(partition) > Some(last)).then_some(())
    })
    .await;
}

// --- Outages of KMS Core ----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_kms_core_is_waited_for_and_a_wrong_key_in_it_is_never_published() {
    let bench = Bench::start("processor-outage", |stack| {
        stack
            .set(ServiceKind::Processor, "lanes.decryption.max_attempts=2")
            .set(ServiceKind::Processor, "kms_core.connect_timeout_ms=500")
    })
    .await;
    let (core, processor) = (bench.stack.node().core(), bench.processor());

    // At the start.
    core.process().kill().await;
    let mut made = bench.publics(3).await;
    processor.process().start().unwrap();
    start(bench.stack.node().emitter()).await;
    bench.await_not_ready(processor, &["kms_core", "KC-0501"]).await;
    let pid = processor.process().pid();
    let log = processor.process().log();
    assert!(log.contains("KC-0501") && log.contains("kms core") | log.contains("kms_core"), "{log}");
    core.process().start().unwrap();
    core.wait_ready().await.unwrap();
    assert_first_attempts(&bench, &made).await;
    processor.wait_ready().await.unwrap();

    // In the middle of operations, which it forgets.
    bench.core.hold(Operation::PublicDecryption).await.unwrap();
    let running = bench.publics(4).await;
    await_starts(&bench, &running).await;
    bench.core.restart().await.unwrap();
    bench.core.release(Operation::PublicDecryption).await.unwrap();
    assert_first_attempts(&bench, &running).await;
    for made in &running {
        assert_eq!(bench.starts(made).await, 2, "once per life of the core");
    }

    // Killed in the middle, and away for a while.
    bench.core.hold(Operation::PublicDecryption).await.unwrap();
    let running = bench.publics(4).await;
    await_starts(&bench, &running).await;
    core.process().kill().await;
    made.extend(bench.publics(3).await);
    made.extend(running);
    bench.await_not_ready(processor, &["kms_core", "KC-0501"]).await;
    core.process().start().unwrap();
    core.wait_ready().await.unwrap();
    assert_first_attempts(&bench, &made).await;
    assert_eq!(processor.process().pid(), pid, "no restart was needed");
    assert!(bench.dead_letters().await.is_empty(), "no verdict comes of an outage");

    // With another key.
    await_settled(&bench, made.len() + 4).await;
    let key_file = bench.stack.workspace().dir().join("config/node-1/signer.key");
    let right = std::fs::read_to_string(&key_file).unwrap();
    let stranger = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
    core.process().kill().await;
    std::fs::write(&key_file, hex::encode(stranger.to_bytes())).unwrap();
    core.process().start().unwrap();
    core.wait_ready().await.unwrap();
    let forged = bench.public().await;
    let letter = bench.dead_letter(&forged).await;
    assert_eq!((letter.reason.as_str(), letter.attempts), ("KC-0612", 2), "{letter:?}");
    assert!(letter.text.contains(&stranger.address().to_string()), "{letter:?}");
    core.process().kill().await;
    std::fs::write(&key_file, right).unwrap();
    core.process().start().unwrap();
    core.wait_ready().await.unwrap();
    made.push(bench.public().await);
    assert_first_attempts(&bench, &made).await;
    let settled = await_settled(&bench, made.len() + 4).await;
    assert!(settled.iter().all(|id| *id != forged.id), "it was never submitted");
}

/// Waits until all are answered, and checks that no attempt was burnt.
async fn assert_first_attempts(bench: &Bench, made: &[Made]) {
    for result in bench.answers(made).await {
        assert_eq!(result.attempts, 1, "{result:?}");
    }
}

async fn await_starts(bench: &Bench, made: &[Made]) {
    for made in made {
        eventually("it is started", LIMIT, async || (bench.starts(made).await > 0).then_some(())).await;
    }
}

/// Waits until exactly so many answers are settled as accepted, and tells of which requests.
async fn await_settled(bench: &Bench, count: usize) -> Vec<kms_schemas::identity::RequestId> {
    let settled = eventually(&format!("{count} submissions"), LIMIT, async || {
        let submissions = bench.submissions().await;
        (submissions.len() >= count).then_some(submissions)
    })
    .await;
    assert_eq!(settled.len(), count);
    assert!(settled.iter().all(|one| matches!(one.verdict, Verdict::Accepted(_))), "{settled:?}");
    settled.into_iter().map(|one| one.identity.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_one_dead_shard_of_several_does_not_hold_up_the_others() {
    let bench = Bench::start("processor-shards", |stack| stack).await;
    let (first, second) = (bench.stack.node().core().url(), shard(&bench.stack).await);
    let process = Launch::new("processor-sharded", kms_tests::program())
        .args(["processor", "--config"])
        .arg(bench.processor().config())
        .args(["--set", &format!("kms_core.endpoints={first},{}", second.url())])
        .args(["--set", "kms_core.await_pause_ms=20"])
        .args(["--set", "lanes.decryption.defer_after_ms=1000"]);
    let process = Supervised::new(bench.stack.workspace(), process);
    second.cut();
    // Many, so that the dead shard's outages come in long rows.
    let made = bench.publics(24).await;
    let (alive, dead): (Vec<Made>, Vec<Made>) = made.iter().partition(|made| !made.id.as_u256().bit(0));
    assert!(alive.len() >= 10 && dead.len() >= 10);
    process.start().unwrap();
    bench.answers(&alive).await;
    assert_nothing_is_held_up(&bench).await;
    second.restore();
    let answers = bench.answers(&dead).await;
    assert!(answers.iter().all(|answer| answer.attempts <= 1), "{answers:?}");
    assert!(bench.dead_letters().await.is_empty());
}

/// The same core by another way.
async fn shard(stack: &Stack) -> Proxy {
    Proxy::start(stack.node().core().url().trim_start_matches("http://")).await
}

// --- Ciphertexts ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn ciphertexts_come_from_whoever_has_them_and_an_outage_is_told_from_a_missing_object() {
    let bench = Bench::start("processor-ciphertexts", |stack| {
        stack
            .coprocessors(3)
            .set(ServiceKind::Processor, "lanes.decryption.max_attempts=2")
            .set(ServiceKind::Processor, "access.ciphertext_patience_ms=500")
            .set(ServiceKind::Processor, "ciphertexts.max_object_bytes=4096")
            .set(ServiceKind::Processor, "ciphertexts.max_request_bytes=6000")
            .set(ServiceKind::Processor, "ciphertexts.max_buffered_bytes=8192")
            .set(ServiceKind::Processor, "ciphertexts.round_pause_ms=20")
    })
    .await;
    let body = |number: u8, length: usize| keccak256([number]).repeat(length.div_ceil(32))[..length].to_vec();
    let bodies =
        vec![body(1, 100), body(2, 100), body(3, 100), body(4, 5_000), body(5, 4_000), body(6, 4_000), body(7, 100)];
    let objects = bench.register(bodies).await;
    let [missing, lying, rare, large, half, other_half, late] = &objects[..] else { unreachable!() };
    // Not `missing`, and `late` only to one.
    for object in [lying, rare, large, half, other_half] {
        bench.upload(object).await;
    }
    let buckets = bench.stack.buckets();
    buckets[0].put(&lying.key(), &[], b"something else".to_vec()).await.unwrap();
    buckets[1].put(&lying.key(), &[], vec![0; 5_000]).await.unwrap();
    for bucket in &buckets[..2] {
        bucket.delete(&rare.key()).await.unwrap();
    }
    buckets[0].put(&late.key(), &[], late.body.clone()).await.unwrap();

    start(bench.processor()).await;
    let nowhere = bench.public_of(std::slice::from_ref(missing)).await;
    let too_large = bench.public_of(std::slice::from_ref(large)).await;
    let too_much = bench.public_of(&[half.clone(), other_half.clone()]).await;
    let found = [
        bench.public_of(std::slice::from_ref(lying)).await,
        bench.public_of(std::slice::from_ref(rare)).await,
        bench.public_of(&[half.clone(), lying.clone()]).await,
    ];
    assert_first_attempts(&bench, &found).await;
    for (made, reason, attempts, words) in [
        (nowhere, "KC-0402", 1, missing.digest.to_string()),
        (too_large, "KC-0402", 1, "limit 4096".to_owned()),
        (too_much, "KC-0403", 1, "limit 6000".to_owned()),
    ] {
        let letter = bench.dead_letter(&made).await;
        assert_eq!((letter.reason.as_str(), letter.attempts), (reason, attempts), "{letter:?}");
        assert!(letter.text.contains(&words), "{letter:?}");
        assert_eq!(bench.starts(&made).await, 0, "KMS Core is not asked without ciphertexts");
    }

    // One bucket down: the others answer. But what they lack may lie in it, and only whoever needs that waits (P5).
    buckets[0].process().kill().await;
    assert_first_attempts(&bench, &[bench.public().await]).await;
    let letters = bench.dead_letters().await.len();
    let waiting = bench.public_of(std::slice::from_ref(late)).await;
    let others = bench.publics(6).await;
    assert_first_attempts(&bench, &others).await;
    assert_eq!(bench.dead_letters().await.len(), letters, "no verdict comes of an outage");
    buckets[0].process().start().unwrap();
    buckets[0].wait_ready().await.unwrap();
    assert_first_attempts(&bench, &[waiting]).await;

    // All down, in the middle of a run.
    for bucket in buckets {
        bucket.process().kill().await;
    }
    let waiting = bench.publics(6).await;
    bench.await_not_ready(bench.processor(), &["ciphertext_buckets", "KC-0401"]).await;
    for bucket in buckets {
        bucket.process().start().unwrap();
        bucket.wait_ready().await.unwrap();
    }
    assert_first_attempts(&bench, &waiting).await;
    bench.processor().wait_ready().await.unwrap();
    assert_eq!(bench.dead_letters().await.len(), letters);
    for made in &waiting {
        assert_eq!(bench.starts(made).await, 1);
    }
}

// --- Chains -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_chain_is_waited_for_and_burns_no_attempt() {
    let bench = Bench::start("processor-chains", |stack| {
        stack
            .set(ServiceKind::Processor, "lanes.decryption.max_attempts=2")
            .set(ServiceKind::Processor, "access.acl_patience_ms=500")
            .set(ServiceKind::Processor, "access.not_yet_patience_ms=500")
    })
    .await;
    // The processor alone loses the chains.
    let anvil = bench.stack.anvil().url().trim_start_matches("http://").to_owned();
    let (gateway, host) = (Proxy::start(&anvil).await, Proxy::start(&anvil).await);
    let process = Launch::new("processor-cut-off", kms_tests::program())
        .args(["processor", "--config"])
        .arg(bench.processor().config())
        .args(["--set", &format!("gateway.rpc_urls={}", gateway.url())])
        .args(["--set", &format!("host_chain.0.rpc_urls={}", host.url())]);
    let process = Supervised::new(bench.stack.workspace(), process);

    // At the start.
    gateway.cut();
    let made = bench.publics(2).await;
    process.start().unwrap();
    bench.await_not_ready(bench.processor(), &["contracts", "KC-0301"]).await;
    gateway.restore();
    assert_first_attempts(&bench, &made).await;

    // In the middle of a run: what the chain says of the request, and what it says of access rights.
    for (chain, words) in [(&gateway, ["gateway_rpc", "KC-0301"]), (&host, ["host_chain_rpc", "KC-0532"])] {
        chain.cut();
        let made = bench.publics(6).await;
        bench.await_not_ready(bench.processor(), &words).await;
        // Longer than every patience.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(bench.dead_letters().await.is_empty(), "an outage is no verdict");
        chain.restore();
        assert_first_attempts(&bench, &made).await;
    }
}

// --- Aborts -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn p5_an_abort_overtakes_the_generation_that_it_ends_also_a_deferred_one() {
    let bench = Bench::start("processor-aborts", |stack| {
        stack
            .generation(Generation::B)
            .set(ServiceKind::Processor, "lanes.key_management.defer_after_ms=1000")
            .set(ServiceKind::Processor, "access.pause_ms=50")
    })
    .await;
    start(bench.processor()).await;
    for operation in [Operation::Preprocessing, Operation::CrsGeneration] {
        bench.core.hold(operation).await.unwrap();
    }
    let prep = bench.make(&NewRequest::Keygen { params_type: 1 }).await;
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    let crs = bench.make(&crs).await;
    for made in [&prep, &crs] {
        eventually("it is started", LIMIT, async || (bench.starts(made).await > 0).then_some(())).await;
    }
    // One is aborted while the lane waits for it, the other after it was deferred.
    let abort = bench.make(&NewRequest::AbortKeygen { prep_keygen_id: prep.id }).await;
    let ended = bench.answers(&[prep, abort]).await;
    assert_eq!((&ended[0].answer, &ended[1].answer), (&Answer::Aborted, &Answer::Done));
    let topic = bench.topics.deferred(Lane::KeyManagement).to_owned();
    let deferred = async || {
        let deferred = bench.read::<DeferredRequest>(&topic).await;
        deferred.iter().any(|(_, one)| one.request.id == crs.id).then_some(())
    };
    eventually("the other is deferred", LIMIT, deferred).await;
    let abort = bench.make(&NewRequest::AbortCrsgen { crs_id: crs.id }).await;
    let ended = bench.answers(&[crs, abort]).await;
    assert_eq!((&ended[0].answer, &ended[1].answer), (&Answer::Aborted, &Answer::Done));
    assert!(ended[0].deferred.is_some());
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_the_destruction_of_an_epoch_ends_its_creation_and_is_carried_out() {
    let bench = Bench::start("processor-epoch-destroyed", |stack| {
        stack
            .generation(Generation::B)
            .nodes(4)
            .services(&ServiceKind::ALL)
            .set(ServiceKind::Processor, "lanes.key_management.defer_after_ms=1000")
    })
    .await;
    bench.make(&NewRequest::Keygen { params_type: 1 }).await;
    bench.make(&NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 }).await;
    let url = EndpointUrl::parse(&bench.stack.ethereum().unwrap().url()).unwrap();
    let rpc = Rpc::new(RpcConfig::new("test", vec![url])).unwrap();
    let views = KmsGenerationViews::new(rpc, bench.stack.contracts().kms_generation);
    eventually("there is something to carry into an epoch", LIMIT, async || {
        let keys = views.completed_key_ids(BlockId::latest()).await.ok()?;
        let crs_list = views.completed_crs_ids(BlockId::latest()).await.ok()?;
        (!keys.is_empty() && !crs_list.is_empty()).then_some(())
    })
    .await;
    bench.core.hold(Operation::EpochCreation).await.unwrap();
    let epoch = bench.make(&NewRequest::NewEpoch).await;
    eventually("its creation is started", LIMIT, async || (bench.starts(&epoch).await > 0).then_some(())).await;
    let destruction = bench.make(&NewRequest::DestroyEpoch { epoch_id: epoch.id }).await;
    let letter = bench.dead_letter(&epoch).await;
    assert_eq!(letter.reason, kms_processor::codes::EPOCH_DESTROYED, "{letter:?}");
    // KMS Core destroys nothing that it is making.
    bench.core.release(Operation::EpochCreation).await.unwrap();
    assert_eq!(bench.answers(&[destruction]).await[0].answer, Answer::Done);
    assert_eq!(bench.starts(&epoch).await, 1);
}
