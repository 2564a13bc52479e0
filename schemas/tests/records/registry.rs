//! The codec against a registry: a small one that keeps the rules of the Confluent API that a start relies on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use kms_schemas::identity::Lane;
use kms_schemas::record::{Request, ResultRecord};
use kms_schemas::registry::{Registry, RegistryError};
use kms_schemas::{Codec, CodecError, Topics};
use serde_json::{Value, json};

use crate::samples;

/// How the registry answers what it otherwise would serve.
#[derive(Clone, Copy)]
enum Mood {
    Serving,
    Status(u16),
    Answer(&'static str),
    Incompatible,
    /// Somebody else registers the same just before.
    Racing,
    Asking,
    Talkative,
}

struct Subjects {
    mood: Mood,
    /// Ids by schema: one schema has one id, under whichever subjects it is.
    ids: Vec<String>,
    subjects: BTreeMap<String, Vec<u32>>,
    registrations: usize,
    base: u32,
}

type Shared = Arc<Mutex<Subjects>>;

struct Fake {
    state: Shared,
    address: String,
}

impl Fake {
    async fn start(base: u32, mood: Mood) -> Self {
        let subjects = Subjects { mood, ids: Vec::new(), subjects: BTreeMap::new(), registrations: 0, base };
        let state = Arc::new(Mutex::new(subjects));
        let app = Router::new()
            .route("/api/subjects/{subject}", post(lookup))
            .route("/api/subjects/{subject}/versions", post(register))
            .with_state(Arc::clone(&state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address").to_string();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { state, address }
    }

    fn url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    fn registrations(&self) -> usize {
        self.state.lock().expect("no test panicked").registrations
    }
}

fn failure(status: u16, error_code: i64, message: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, json!({ "error_code": error_code, "message": message }).to_string()).into_response()
}

fn schema_of(body: &Bytes) -> String {
    let body: Value = serde_json::from_slice(body).expect("the body is JSON");
    body["schema"].as_str().expect("has a schema").to_owned()
}

fn moody(mood: Mood, authorised: bool) -> Option<Response> {
    match mood {
        Mood::Serving | Mood::Incompatible | Mood::Racing => None,
        Mood::Status(status) => Some(failure(status, i64::from(status), "not now")),
        Mood::Answer(text) => Some(text.into_response()),
        Mood::Asking if authorised => None,
        Mood::Asking => Some(failure(401, 401, "Unauthorized")),
        Mood::Talkative => Some("x".repeat(2 << 20).into_response()),
    }
}

async fn lookup(
    State(state): State<Shared>,
    Path(subject): Path<String>,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response {
    let state = state.lock().expect("no test panicked");
    // user:secret
    let authorised = headers.get(AUTHORIZATION).is_some_and(|value| value == "Basic dXNlcjpzZWNyZXQ=");
    if let Some(answer) = moody(state.mood, authorised) {
        return answer;
    }
    let Some(ids) = state.subjects.get(&subject) else {
        return failure(404, 40401, "Subject not found.");
    };
    let schema = schema_of(&body);
    match ids.iter().find(|id| state.ids[(**id - state.base) as usize] == schema) {
        Some(id) => json!({ "subject": subject, "id": id, "version": 1, "schema": schema }).to_string().into_response(),
        None => failure(404, 40403, "Schema not found"),
    }
}

async fn register(State(state): State<Shared>, Path(subject): Path<String>, body: Bytes) -> Response {
    let mut state = state.lock().expect("no test panicked");
    if matches!(state.mood, Mood::Incompatible) {
        return failure(409, 409, "Schema being registered is incompatible with an earlier schema");
    }
    state.registrations += 1;
    let schema = schema_of(&body);
    let known = state.ids.iter().position(|known| *known == schema);
    let index = known.unwrap_or_else(|| {
        state.ids.push(schema);
        state.ids.len() - 1
    });
    let id = state.base + u32::try_from(index).expect("few schemas");
    state.subjects.entry(subject).or_default().push(id);
    if matches!(state.mood, Mood::Racing) {
        return failure(409, 409, "An artifact with this ID already exists.");
    }
    json!({ "id": id }).to_string().into_response()
}

fn topics() -> Topics {
    Topics::new("kms-connector")
}

async fn refusal(mood: Mood) -> CodecError {
    let fake = Fake::start(1, mood).await;
    Codec::with_registry(&fake.url(), &topics()).await.expect_err("the registry does not serve")
}

#[tokio::test]
async fn records_travel_under_the_ids_of_the_registry() {
    let fake = Fake::start(258, Mood::Serving).await;
    let codec = Codec::with_registry(&fake.url(), &topics()).await.expect("starts");
    let topics = topics();
    let topic = topics.requests(Lane::Decryption);
    for (_, request) in samples::requests() {
        let bytes = codec.encode(topic, &request).expect("encodes");
        assert_eq!(bytes[..3], [0, 0, 0]);
        let single = Codec::single_object().encode(topic, &request).expect("encodes");
        assert_eq!(bytes[5..], single[10..], "both framings hold the same body");
        assert_eq!(codec.decode::<Request>(topic, &bytes).expect("decodes"), request);
        assert_eq!(codec.decode::<Request>(topic, &single).expect("decodes single objects too"), request);
        assert_eq!(codec.inspect(topic, &bytes).expect("reads").record, "org.kmsconnector.Request");
    }
}

#[tokio::test]
async fn every_topic_with_records_has_a_subject_and_a_second_start_registers_nothing() {
    let fake = Fake::start(1, Mood::Serving).await;
    Codec::with_registry(&fake.url(), &topics()).await.expect("starts");
    let with_records: Vec<String> = topics()
        .all()
        .into_iter()
        .filter(|topic| topic.record.is_some())
        .map(|topic| format!("{}-value", topic.name))
        .collect();
    let subjects: Vec<String> = fake.state.lock().expect("no test panicked").subjects.keys().cloned().collect();
    assert_eq!(subjects.len(), with_records.len());
    assert!(with_records.iter().all(|subject| subjects.contains(subject)), "{subjects:?}");
    let registrations = fake.registrations();
    // With a slash at the end, too.
    Codec::with_registry(&format!("{}/", fake.url()), &topics()).await.expect("starts again");
    assert_eq!(fake.registrations(), registrations);
}

#[tokio::test]
async fn a_reader_registers_nothing_and_reads_what_is_there() {
    let fake = Fake::start(1, Mood::Serving).await;
    let reader = Codec::reading_with_registry(&fake.url(), &topics()).await.expect("an empty registry is read");
    assert_eq!(fake.registrations(), 0);
    let (_, request) = samples::requests().swap_remove(0);
    let topics = topics();
    let topic = topics.requests(Lane::Decryption);
    assert_eq!(reader.encode(topic, &request).expect_err("nobody knows the id").code(), "KC-0206");
    let single = Codec::single_object().encode(topic, &request).expect("encodes");
    assert_eq!(reader.decode::<Request>(topic, &single).expect("single objects need no registry"), request);

    let written = Codec::with_registry(&fake.url(), &topics).await.expect("starts").encode(topic, &request);
    let registrations = fake.registrations();
    let reader = Codec::reading_with_registry(&fake.url(), &topics).await.expect("is read");
    assert_eq!(reader.decode::<Request>(topic, &written.expect("encodes")).expect("decodes"), request);
    assert_eq!(fake.registrations(), registrations);
}

#[tokio::test]
async fn a_topic_takes_its_own_record_only() {
    let fake = Fake::start(1, Mood::Serving).await;
    let codec = Codec::with_registry(&fake.url(), &topics()).await.expect("starts");
    let (_, result) = samples::results().swap_remove(0);
    let error = codec.encode(topics().requests(Lane::Decryption), &result).expect_err("is no request");
    assert!(matches!(error, CodecError::WrongRecord { .. }), "{error}");
    let error = codec.encode("other.results.decryption", &result).expect_err("is not of this deployment");
    assert_eq!(error.code(), "KC-0206");
    let bytes = codec.encode(topics().results(Lane::Decryption), &result).expect("encodes");
    let error = codec.decode::<Request>(topics().results(Lane::Decryption), &bytes).expect_err("is no request");
    assert_eq!(error.code(), "KC-0204");
    assert_eq!(codec.decode::<ResultRecord>("any", &bytes).expect("decodes"), result);
}

#[tokio::test]
async fn services_that_start_side_by_side_all_start() {
    let fake = Fake::start(1, Mood::Racing).await;
    let codec = Codec::with_registry(&fake.url(), &topics()).await.expect("somebody else was faster");
    let (_, request) = samples::requests().swap_remove(0);
    codec.encode(topics().requests(Lane::Decryption), &request).expect("encodes");
}

#[tokio::test]
async fn an_id_that_was_not_there_at_the_start_is_unknown_and_asks_nobody() {
    let fake = Fake::start(1, Mood::Serving).await;
    let codec = Codec::with_registry(&fake.url(), &topics()).await.expect("starts");
    // Whatever the registry would say now.
    fake.state.lock().expect("no test panicked").mood = Mood::Status(500);
    let error = codec.decode::<Request>("topic", &[0, 0, 0, 9, 9, 1]).expect_err("nobody knows the id");
    assert!(matches!(error, CodecError::UnknownSchemaId { id: 2313, .. }), "{error}");
    assert_eq!(error.code(), "KC-0203");
    assert!(!error.is_outage());
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_an_outage() {
    let error = Codec::with_registry("http://127.0.0.1:1", &topics()).await.expect_err("nobody listens");
    assert!(error.is_outage(), "{error}");
    assert_eq!(error.code(), "KC-0207");
    for status in [500, 503, 429] {
        let error = refusal(Mood::Status(status)).await;
        assert!(error.is_outage(), "{error}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_registry_is_none_and_shows_its_message() {
    let error = refusal(Mood::Incompatible).await;
    assert_eq!(error.code(), "KC-0208");
    let text = error.to_string();
    assert!(text.contains("kms-connector.requests.decryption-value: 409: Schema being registered is"), "{text}");
    assert!(!error.is_outage());
    // A server that is no registry answers 404 to everything.
    let error = refusal(Mood::Status(404)).await;
    assert!(matches!(error, CodecError::Registry(RegistryError::Refused { status: 404, .. })), "{error}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_refused() {
    for answer in ["", "<html>", "{}", r#"{"id":-1}"#, r#"{"id":5000000000}"#, r#"{"id":"1"}"#] {
        let error = refusal(Mood::Answer(answer)).await;
        assert!(matches!(error, CodecError::Registry(RegistryError::Malformed { .. })), "{answer}: {error}");
    }
    let error = refusal(Mood::Talkative).await;
    assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn credentials_of_the_url_are_used_and_never_shown() {
    let fake = Fake::start(1, Mood::Asking).await;
    let with = |user: &str| format!("http://{user}@{}/api", fake.address);
    Codec::with_registry(&with("user:secret"), &topics()).await.expect("the credentials are right");
    let error = Codec::with_registry(&with("user:hunter2"), &topics()).await.expect_err("the credentials are wrong");
    assert_eq!(error.code(), "KC-0208");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hunter2") && !text.contains("user:"), "{text}");
    assert!(text.contains(&format!("http://{}/api", fake.address)), "{text}");
    drop(fake);
    let error = Registry::new("http://user:hunter2@[/").expect_err("is no URL");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[test]
fn a_url_that_is_none_is_refused() {
    for url in ["", "registry:8081", "ftp://registry", "unix:/var/run/registry"] {
        let error = Registry::new(url).expect_err(url);
        assert_eq!(error.code(), "KC-0209", "{url}: {error}");
    }
}
