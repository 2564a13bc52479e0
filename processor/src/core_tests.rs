//! The rules of start and await before a KMS Core that answers by a script, version by version.

use alloy::primitives::U256;

use super::*;
use crate::scripted::ScriptedCore;

fn id(low: u64) -> RequestId {
    U256::from(low).into()
}

/// A decryption without ciphertexts under key 4.
struct Decryption(RequestId);

impl Operation for Decryption {
    type Result = core::PublicDecryptionResponse;
    const NAME: &'static str = "public_decrypt";
    const CLASS: Class = Class::Decryption;

    fn id(&self) -> RequestId {
        self.0
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        let key = core_request::id(id(4));
        starting.key_is_there(&key, None, None).await?;
        let message = core::PublicDecryptionRequest { key_id: Some(key), ..Default::default() };
        Ok(starting.client().public_decrypt(starting.request(message)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_public_decryption_result(request).await
    }
}

struct Keygen;

impl Operation for Keygen {
    type Result = core::KeyGenResult;
    const NAME: &'static str = "key_gen";
    const CLASS: Class = Class::Keygen;

    fn id(&self) -> RequestId {
        id(9)
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        Ok(starting.client().key_gen(starting.request(core::KeyGenRequest::default())).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_key_gen_result(request).await
    }
}

const START: &str = "public_decrypt";
const GET: &str = "get_public_decryption_result";
const KEYS: &str = "get_key_material_availability";

async fn decrypt(core: &KmsCore, number: u64, repeated: bool) -> Result<(), Trouble> {
    match core.run(&Decryption(id(number)), repeated, &Answered::unheard()).await? {
        Ended::Result(_) => Ok(()),
        Ended::Aborted { text, .. } => panic!("{text}"),
    }
}

/// A core whose keys, if it is asked for them, hold key 4.
async fn scripted(version: CoreVersion) -> (ScriptedCore, KmsCore) {
    let script = ScriptedCore::start().await;
    script.answers(KEYS, &keys(&[4]));
    let mut core = script.client(version);
    core.stuck = Stuck { after_refusal: Duration::from_millis(150), by_age: Duration::from_millis(300) };
    (script, core)
}

fn keys(ids: &[u64]) -> core::KeyMaterialAvailabilityResponse {
    let fhe_key_ids = ids.iter().map(|low| id(*low).to_core_hex()).collect();
    core::KeyMaterialAvailabilityResponse { fhe_key_ids, ..Default::default() }
}

const ALL: [CoreVersion; 6] = [
    CoreVersion::V0_12,
    CoreVersion::V0_13_0,
    CoreVersion::V0_13_10,
    CoreVersion::V0_13_20,
    CoreVersion::V0_14,
    CoreVersion::V0_15,
];

#[tokio::test]
async fn an_id_that_is_known_is_awaited_and_one_that_was_forgotten_is_started_again() {
    for version in ALL {
        let (script, core) = scripted(version).await;
        script.refuses(START, Code::AlreadyExists);
        script.refuses(GET, Code::Unavailable);
        script.refuses(GET, Code::NotFound);
        script.accepts(GET);
        assert_eq!(decrypt(&core, 1, false).await, Ok(()), "{version:?}");
        let calls: Vec<_> = script.calls().into_iter().filter(|call| *call != KEYS).collect();
        assert_eq!(calls, [START, GET, GET, START, GET]);
    }
}

#[tokio::test]
async fn what_an_earlier_attempt_started_is_asked_for_first() {
    let (script, core) = scripted(CoreVersion::V0_15).await;
    script.accepts(GET);
    assert_eq!(decrypt(&core, 1, true).await, Ok(()));
    assert_eq!(script.calls(), [GET]);
}

#[tokio::test]
async fn an_id_that_is_accepted_and_forgotten_again_and_again_may_heal() {
    let (script, core) = scripted(CoreVersion::V0_15).await;
    script.accepts(START);
    script.refuses(GET, Code::NotFound);
    let gives_up = decrypt(&core, 1, false).await;
    assert!(matches!(gives_up, Err(Trouble::MayHeal { code: codes::CORE_NOT_READY, .. })), "{gives_up:?}");
    assert_eq!(script.count(START), 4);
}

#[tokio::test]
async fn a_failed_decryption_is_final_before_v0_14_and_started_again_from_then_on() {
    for version in &ALL[..4] {
        let (script, core) = scripted(*version).await;
        script.accepts(START);
        script.refuses(GET, Code::Internal);
        let failed = decrypt(&core, 1, false).await;
        assert!(matches!(failed, Err(Trouble::Permanent { code: codes::CORE_FAILED, .. })), "{version:?} {failed:?}");
    }
    for version in &ALL[4..] {
        let (script, core) = scripted(*version).await;
        script.accepts(START);
        // ABORTED only says that the word is in the error's text.
        script.refuses(GET, Code::Internal);
        script.refuses(GET, Code::Aborted);
        script.accepts(GET);
        let failed = decrypt(&core, 1, false).await;
        assert!(matches!(failed, Err(Trouble::MayHeal { code: codes::CORE_FAILED, .. })), "{version:?} {failed:?}");
        assert_eq!(decrypt(&core, 1, true).await, Ok(()), "the next attempt starts it anew");
        assert_eq!(script.calls(), [START, GET, GET, START, GET]);
    }
}

#[tokio::test]
async fn a_full_store_is_waited_for_under_either_code_and_burns_no_attempt() {
    for version in ALL {
        let (script, core) = scripted(version).await;
        script.refuses(START, if version.aborts_when_full() { Code::Aborted } else { Code::ResourceExhausted });
        let full = decrypt(&core, 1, false).await;
        assert!(matches!(full, Err(Trouble::Outage { code: codes::CORE_BUSY, .. })), "{version:?} {full:?}");
    }
}

#[tokio::test]
async fn a_key_generation_waits_for_its_preprocessing() {
    let (script, core) = scripted(CoreVersion::V0_15).await;
    script.refuses("key_gen", Code::Unavailable);
    script.refuses("key_gen", Code::Unavailable);
    script.accepts("key_gen");
    script.accepts("get_key_gen_result");
    assert!(core.run(&Keygen, false, &Answered::unheard()).await.is_ok());
    assert_eq!(script.calls(), ["key_gen", "key_gen", "key_gen", "get_key_gen_result"]);
}

#[tokio::test]
async fn a_core_that_answers_at_once_is_asked_ever_more_rarely() {
    let (script, core) = scripted(CoreVersion::V0_15).await;
    script.accepts("key_gen");
    script.refuses("get_key_gen_result", Code::Unavailable);
    let (begun, unheard) = (Instant::now(), Answered::unheard());
    let asked = || script.count("get_key_gen_result") as u128;
    let five_times = async {
        while asked() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = core.run(&Keygen, false, &unheard) => panic!("it stays pending"),
        () = five_times => {}
    }
    // Also where the machine is so slow that each answer takes as long as the shortest pause.
    let shortest = begun.elapsed().as_millis() / core.await_pause.as_millis();
    assert!(asked() <= shortest + 1, "{} calls in {shortest} times the shortest pause", asked());
}

#[tokio::test]
async fn pauses_double_up_to_the_longest_and_a_call_that_was_held_is_made_again_at_once() {
    let script = ScriptedCore::start().await;
    let mut pause = Pause::new(&script.client(CoreVersion::V0_15));
    let begun = Instant::now();
    while pause.next < pause.most {
        assert!(begun.elapsed() < Duration::from_secs(60), "pauses do not grow");
        let doubled = (pause.next * 2).min(pause.most);
        pause.wait(Instant::now()).await;
        // Where the machine stalls, the call seems to have been held.
        assert!([pause.least, doubled].contains(&pause.next), "{:?}", pause.next);
    }
    pause.wait(Instant::now()).await;
    assert!(pause.next <= pause.most);
    pause.wait(Instant::now() - pause.least).await;
    assert_eq!(pause.next, pause.least);
}

// --- The pitfall of v0.13 -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_decryption_under_a_key_that_v0_13_does_not_have_is_not_started() {
    for version in ALL {
        let script = ScriptedCore::start().await;
        script.answers(KEYS, &keys(&[5]));
        script.answers(KEYS, &keys(&[4, 5]));
        script.accepts(START);
        script.accepts(GET);
        let core = script.client(version);
        if !version.leaves_ids_stuck() {
            assert_eq!(decrypt(&core, 1, false).await, Ok(()));
            assert_eq!(script.count(KEYS), 0, "{version:?}");
            continue;
        }
        let missing = decrypt(&core, 1, false).await;
        assert!(matches!(missing, Err(Trouble::MayHeal { code: codes::CORE_NOT_READY, .. })), "{missing:?}");
        assert_eq!(script.count(START), 0);
        for number in 1..4 {
            assert_eq!(decrypt(&core, number, false).await, Ok(()));
        }
        assert_eq!(script.count(KEYS), 2, "a key that is there is not asked for again");
    }
}

#[tokio::test]
async fn the_keys_of_the_vector_are_read() {
    let all: serde_json::Value = serde_json::from_str(include_str!("../../proto/vectors/kms-core.json")).unwrap();
    let name = "key_material_availability_response/HEAD";
    let vector = all["messages"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
    let bytes = hex::decode(vector["hex"].as_str().unwrap().trim_start_matches("0x")).unwrap();
    let response: core::KeyMaterialAvailabilityResponse = prost::Message::decode(&*bytes).unwrap();
    let script = ScriptedCore::start().await;
    let key = core::RequestId { request_id: response.fhe_key_ids[0].clone() };
    script.answers(KEYS, &response);
    let core = script.client(CoreVersion::V0_13_20);
    let starting = Starting { core: &core, shard: &core.shards[0], answered: &Answered::unheard() };
    assert_eq!(starting.key_is_there(&key, None, None).await, Ok(()));
    let other = core_request::id(id(4));
    assert!(starting.key_is_there(&other, None, None).await.is_err());
}

#[tokio::test]
async fn a_core_without_the_list_of_keys_is_asked_all_the_same() {
    let script = ScriptedCore::start().await;
    script.accepts(START);
    script.accepts(GET);
    assert_eq!(decrypt(&script.client(CoreVersion::V0_13_0), 1, false).await, Ok(()));
}

fn is_set_aside(outcome: &Result<(), Trouble>) -> bool {
    matches!(outcome, Err(Trouble::SetAside { code: codes::CORE_STUCK, dependency: STUCK, .. }))
}

#[tokio::test]
async fn p5_an_id_that_was_refused_and_is_pending_since_is_set_aside_until_the_core_forgets_it() {
    for (version, refusal) in [
        (CoreVersion::V0_13_0, Code::NotFound),
        (CoreVersion::V0_13_20, Code::NotFound),
        (CoreVersion::V0_13_10, Code::FailedPrecondition),
        (CoreVersion::V0_12, Code::Aborted),
    ] {
        let (script, core) = scripted(version).await;
        script.refuses(START, refusal);
        script.refuses(START, Code::AlreadyExists);
        script.refuses(GET, Code::Unavailable);
        assert!(decrypt(&core, 1, false).await.is_err());
        let stuck = decrypt(&core, 1, false).await;
        assert!(is_set_aside(&stuck), "{version:?} {stuck:?}");
        assert!(is_set_aside(&decrypt(&core, 1, true).await), "and the next time again");
        assert!(stuck.unwrap_err().to_string().contains("restarted"));
    }
    // After a restart the core does not know it, and it is served like any other.
    let (script, core) = scripted(CoreVersion::V0_13_20).await;
    script.refuses(START, Code::NotFound);
    script.accepts(START);
    script.refuses(GET, Code::NotFound);
    script.accepts(GET);
    assert!(decrypt(&core, 1, false).await.is_err());
    assert_eq!(decrypt(&core, 1, true).await, Ok(()));
    assert!(core.shards[0].memory().refused.is_empty());
}

#[tokio::test]
async fn p5_an_old_id_is_set_aside_once_younger_ones_have_finished_and_not_before() {
    let (script, core) = scripted(CoreVersion::V0_13_20).await;
    script.accepts(START);
    script.refuses(GET, Code::Unavailable);
    let alone = tokio::time::timeout(Duration::from_millis(600), decrypt(&core, 1, true)).await;
    assert!(alone.is_err(), "all may be slow");
    let (waits, overtakes) = tokio::join!(decrypt(&core, 1, true), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        core.shards[0].memory().finished(id(2), Instant::now());
    });
    assert!(is_set_aside(&waits), "{waits:?} {overtakes:?}");
    // From v0.14 on nothing gets stuck.
    let (script, core) = scripted(CoreVersion::V0_14).await;
    script.refuses(GET, Code::Unavailable);
    core.shards[0].memory().finished(id(2), Instant::now() + Duration::from_secs(1));
    assert!(tokio::time::timeout(Duration::from_millis(600), decrypt(&core, 1, true)).await.is_err());
}

#[test]
fn p6_refused_ids_are_remembered_up_to_a_limit() {
    let mut memory = Memory::default();
    (0..=MAX_REFUSED as u64).for_each(|low| memory.remember_refused(id(low)));
    assert_eq!(memory.refused.len(), MAX_REFUSED);
}

// --- Outages --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_core_that_is_down_is_an_outage_for_starts_results_and_single_calls() {
    let config: KmsCoreConfig =
        serde_json::from_value(serde_json::json!({ "endpoints": ["http://127.0.0.1:1"] })).unwrap();
    let core = KmsCore::new(&config, CoreVersion::V0_13_20).unwrap();
    let unheard = Answered::unheard();
    let call = core.call(("abort_key_gen", Class::Other), id(3), &unheard, |mut client, timeouts| async move {
        client.abort_key_gen(with_timeout(core_request::id(id(3)), timeouts.start)).await
    });
    let outcomes = [decrypt(&core, 1, false).await, decrypt(&core, 1, true).await, call.await.map(drop)];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(Trouble::Outage { code: codes::CORE_UNREACHABLE, .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_core_that_lives_and_answers_nothing_becomes_an_outage_and_one_that_answers_others_does_not() {
    let (script, mut core) = scripted(CoreVersion::V0_14).await;
    core.hung = Hung { hold: Duration::ZERO, after: Duration::from_millis(200) };
    script.accepts(START);
    script.refuses(GET, Code::DeadlineExceeded);
    let outcome = decrypt(&core, 1, true).await;
    assert!(matches!(outcome, Err(Trouble::Outage { code: codes::CORE_UNREACHABLE, .. })), "{outcome:?}");

    // A deadline within the time that a call is held for tells nothing; nor does one while others are answered.
    core.hung.hold = core.await_timeout;
    let waits = tokio::time::timeout(Duration::from_millis(600), decrypt(&core, 1, true)).await;
    assert!(waits.is_err(), "{waits:?}");
    core.hung = Hung { hold: Duration::ZERO, after: Duration::from_secs(20) };
    let shard = &core.shards[0];
    let silent_for_long = || {
        let since = Instant::now() - core.hung.after;
        shard.reachability.unanswered.lock().unwrap().replace(since);
    };
    let late = Status::new(Code::DeadlineExceeded, "");
    silent_for_long();
    assert!(core.is_hung(shard, &late));
    shard.reachability.answers(&Answered::unheard());
    assert!(!core.is_hung(shard, &late));
    silent_for_long();
    assert!(core.is_hung(shard, &late), "nothing was answered since");
    shard.reachability.answers(&Answered::unheard());
    let waits = tokio::time::timeout(Duration::from_millis(600), decrypt(&core, 1, true)).await;
    assert!(waits.is_err(), "{waits:?}");
}

/// Somebody on the way to KMS Core who answers every call so.
async fn intermediary(http: u16, content_type: &'static str, body: &'static str) -> KmsCore {
    use axum::http::{HeaderValue, StatusCode, header};
    let page = move || async move {
        let headers =
            (!content_type.is_empty()).then(|| (header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
        let mut answer = axum::response::Response::new(axum::body::Body::from(body));
        *answer.status_mut() = StatusCode::from_u16(http).unwrap();
        answer.headers_mut().extend(headers);
        answer
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = tonic::service::Routes::from(axum::Router::new().fallback(page));
    let server = tonic::transport::Server::builder().add_routes(routes);
    tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
    client_of(&url)
}

/// Somebody who answers HTTP/1.1 to everything.
async fn http_1(answer: &'static str) -> KmsCore {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    client_of(&url)
}

fn client_of(url: &str) -> KmsCore {
    let config: KmsCoreConfig = serde_json::from_value(serde_json::json!({ "endpoints": [url] })).unwrap();
    KmsCore::new(&config, CoreVersion::V0_15).unwrap()
}

async fn is_an_outage(core: &KmsCore, who: &str) {
    let unheard = Answered::unheard();
    let call = core.call(("abort_key_gen", Class::Other), id(3), &unheard, |mut client, timeouts| async move {
        client.abort_key_gen(with_timeout(core_request::id(id(3)), timeouts.start)).await
    });
    let outcomes = [
        ("start", decrypt(core, 1, false).await),
        ("get", decrypt(core, 1, true).await),
        ("key generation", core.run(&Keygen, false, &unheard).await.map(drop)),
        ("call", call.await.map(drop)),
    ];
    for (what, outcome) in outcomes {
        let is_outage = matches!(outcome, Err(Trouble::Outage { code: codes::CORE_UNREACHABLE, .. }));
        assert!(is_outage, "{what} at {who}: {outcome:?}");
    }
    assert!(core.shards[0].reachability.is_silent.load(Ordering::Relaxed), "{who}");
    assert!(core.shards[0].memory().refused.is_empty(), "{who}");
}

#[tokio::test]
async fn p5_what_somebody_on_the_way_answers_is_an_outage_and_no_verdict() {
    for http in [200, 400, 401, 403, 404, 429, 500, 502, 503, 504] {
        for content_type in ["", "text/html", "application/grpc"] {
            for body in ["", "<html>no such page</html>", "\0", "\0\0\0\0\0", "\0\0\0\0\u{5}<html>"] {
                let core = intermediary(http, content_type, body).await;
                is_an_outage(&core, &format!("HTTP {http} {content_type:?} {body:?}")).await;
            }
        }
    }
    for answer in [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
    ] {
        is_an_outage(&http_1(answer).await, answer).await;
    }
}

#[tokio::test]
async fn every_code_that_the_core_itself_answers_is_its_verdict() {
    for number in 1..=16 {
        let code = Code::from_i32(number);
        let (script, core) = scripted(CoreVersion::V0_15).await;
        script.refuses("abort_key_gen", code);
        let answer = core.shards[0].client.clone().abort_key_gen(core_request::id(id(3))).await;
        let status = answer.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(is_from_core(&status), "{status:?}");
    }
}

#[tokio::test]
async fn an_answer_beyond_the_configured_size_is_refused_and_the_core_is_reachable() {
    let (script, _) = scripted(CoreVersion::V0_15).await;
    script.answers(GET, &core::PublicDecryptionResponse { signature: vec![7; 4_000], ..Default::default() });
    let core = script.client_up_to(CoreVersion::V0_15, 1_000);
    let outcome = decrypt(&core, 1, true).await;
    assert!(matches!(outcome, Err(Trouble::Permanent { code: codes::CORE_REFUSED, .. })), "{outcome:?}");
    assert!(!core.shards[0].reachability.is_silent.load(Ordering::Relaxed));
}
