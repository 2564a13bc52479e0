//! What the services do with bytes that nobody should have written, with records that were forged, with wrong configurations, and
//! with a world that is not there yet.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use kms_chain::eip712;
use kms_runtime::kafka::OutgoingRecord;
use kms_schemas::codec::{Codec, Record};
use kms_schemas::identity::{Coordinates, Lane};
use kms_schemas::record::{Answer, DeadLetter, DeferredRequest, Request, RequestBody, ResultRecord};
use kms_stack::contracts::NewRequest;
use kms_stack::parts::{Anvil, AnvilOptions, Kafka, KafkaOptions, Registry};
use kms_stack::simulator::{ControlClient, Operation};
use kms_stack::supervise::Signal;
use kms_stack::{Service, ServiceKind, Stack};
use kms_tests::{Proxy, eventually, kafka, new_workspace, prefix, program};
use serde_json::json;
use tempfile::TempDir;

use super::processor::bench::{Bench, LIMIT, Stored, start};

/// Bytes that are no record of a topic.
struct Junk {
    what: &'static str,
    value: Option<Vec<u8>>,
    reason: &'static str,
}

/// Every form of junk, given a good record of the topic and one of another type.
fn junk(good: &[u8], other: &[u8]) -> Vec<Junk> {
    let unknown_schema = [&[0xc3, 0x01][..], &[0xab; 8], &good[10..]].concat();
    let confluent = [&[0, 0, 0, 0, 7][..], &good[10..]].concat();
    let mut broken = good.to_vec();
    // A length that reaches far behind the end.
    broken.splice(10..11, [0xfe, 0xff, 0xff, 0xff, 0x0f]);
    let longer = [good, b"tail"].concat();
    vec![
        Junk { what: "foreign bytes", value: Some(b"what is this".to_vec()), reason: "KC-0202" },
        Junk { what: "nothing", value: Some(Vec::new()), reason: "KC-0202" },
        Junk { what: "a cut frame", value: Some(good[..7].to_vec()), reason: "KC-0202" },
        Junk { what: "a cut record", value: Some(good[..good.len() - 5].to_vec()), reason: "KC-0201" },
        Junk { what: "a broken record", value: Some(broken), reason: "KC-0201" },
        Junk { what: "a record with a tail", value: Some(longer), reason: "KC-0201" },
        Junk { what: "a record of another type", value: Some(other.to_vec()), reason: "KC-0204" },
        Junk { what: "a record of an unknown schema", value: Some(unknown_schema), reason: "KC-0203" },
        Junk { what: "a record of a registry", value: Some(confluent), reason: "KC-0203" },
    ]
}

/// A stack with all services, through which one request went.
struct Scene {
    bench: Bench,
    request: Request,
    result: ResultRecord,
}

impl Scene {
    async fn start(name: &str) -> Self {
        let bench = Bench::start(name, |stack| stack.services(&ServiceKind::ALL)).await;
        let made = bench.public().await;
        let result = bench.answers(&[made]).await.remove(0);
        let (_, request) = bench.read::<Request>(bench.topics.requests(Lane::Decryption)).await.remove(0);
        eventually("it is settled", LIMIT, async || (bench.submissions().await.len() == 1).then_some(())).await;
        Self { bench, request, result }
    }

    fn encoded<R: Record>(&self, topic: &str, record: &R) -> Vec<u8> {
        Codec::single_object().encode(topic, record).unwrap()
    }

    fn deferred(&self, request: Request) -> DeferredRequest {
        DeferredRequest {
            source: self.result.source.clone(),
            attempts: 1,
            first_attempt_ms: 0,
            deferred_ms: 0,
            why: "the test wants it so".to_owned(),
            request,
        }
    }

    /// Makes one request of each lane, and waits until their answers are accepted.
    async fn good_requests_flow(&self) {
        let made = [
            self.bench.public().await,
            self.bench.make(&NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 }).await,
        ];
        let answers = self.bench.answers(&made).await;
        eventually("their answers are settled", LIMIT, async || {
            let submissions = self.bench.submissions().await;
            answers.iter().all(|answer| submissions.iter().any(|one| one.request == answer.source)).then_some(())
        })
        .await;
    }

    async fn dead_letters(&self, at: &[Coordinates]) -> BTreeMap<Coordinates, DeadLetter> {
        let found = eventually(&format!("dead letters of {} records", at.len()), LIMIT, async || {
            let letters = self.bench.dead_letters().await;
            let of: BTreeMap<_, _> = letters.into_iter().map(|letter| (letter.source.clone(), letter)).collect();
            at.iter().all(|at| of.contains_key(at)).then_some(of)
        })
        .await;
        found.into_iter().filter(|(source, _)| at.contains(source)).collect()
    }

    fn nothing_panicked(&self) {
        for service in self.bench.stack.node().services() {
            let log = service.process().log();
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

fn record(topic: &str, partition: i32, key: Option<&[u8]>, value: Option<Vec<u8>>) -> OutgoingRecord {
    OutgoingRecord {
        topic: topic.to_owned(),
        partition: Some(partition),
        key: key.map(<[u8]>::to_vec),
        value,
        headers: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_in_any_topic_becomes_a_dead_letter_with_its_place_and_the_rest_flows_on() {
    let scene = Scene::start("junk").await;
    let topics = &scene.bench.topics;
    let pids: Vec<_> = scene.bench.stack.node().services().iter().map(|one| one.process().pid()).collect();
    let request = |topic: &str| scene.encoded(topic, &scene.request);
    let deferred = |topic: &str| scene.encoded(topic, &scene.deferred(scene.request.clone()));
    let result = |topic: &str| scene.encoded(topic, &scene.result);
    let mut records = Vec::new();
    let mut expected = Vec::new();
    for lane in Lane::ALL {
        let of_topics = [
            (topics.requests(lane), request(topics.requests(lane)), result(topics.results(lane)), "processor"),
            (topics.deferred(lane), deferred(topics.deferred(lane)), request(topics.requests(lane)), "processor"),
            (topics.results(lane), result(topics.results(lane)), request(topics.requests(lane)), "emitter"),
        ];
        for (topic, good, other, service) in of_topics {
            let mut all = junk(&good, &other);
            all.push(Junk { what: "a tombstone", value: None, reason: "KC-0202" });
            for (partition, junk) in (0..3).cycle().zip(all) {
                // Also without a key.
                let key = (partition != 1).then_some(&b"some key"[..]);
                records.push(record(topic, partition, key, junk.value.clone()));
                expected.push((junk, service, key));
            }
        }
    }
    let places = scene.bench.write(records).await;
    let letters = scene.dead_letters(&places).await;
    for (place, (junk, service, key)) in places.iter().zip(&expected) {
        let letter = &letters[place];
        let what = format!("{} in {place}: {letter:?}", junk.what);
        assert_eq!((letter.reason.as_str(), letter.service.as_str()), (junk.reason, *service), "{what}");
        assert_eq!(letter.key.as_ref().map(|key| &key[..]), *key, "{what}");
        assert_eq!(
            letter.value.as_ref().map(|value| &value[..]),
            Some(junk.value.as_deref().unwrap_or_default()),
            "{what}"
        );
        assert_eq!((letter.attempts, letter.identity), (1, None), "{what}");
    }
    scene.good_requests_flow().await;
    assert_eq!(scene.bench.dead_letters().await.len(), places.len(), "each is told once");
    let now: Vec<_> = scene.bench.stack.node().services().iter().map(|one| one.process().pid()).collect();
    assert_eq!(now, pids);
    scene.nothing_panicked();

    cursor_and_intents(&scene).await;
}

/// The topics that only their own writers read, at their start.
async fn cursor_and_intents(scene: &Scene) {
    let Scene { bench, .. } = scene;
    let (ingest, emitter) = (bench.stack.node().ingest(), bench.stack.node().emitter());
    let (cursor, intents) = (bench.topics.cursor(), bench.topics.intents());
    let newest = async |topic: &str| bench.read_raw(topic).await.pop().unwrap();
    let other = scene.encoded(bench.topics.requests(Lane::Decryption), &scene.request);
    ingest.stop().await;
    emitter.stop().await;

    let (last_cursor, last_intent) = (newest(cursor).await, newest(intents).await);
    let known = |good: &Stored| {
        let all = junk(good.value.as_deref().unwrap(), &other);
        all.into_iter().filter(|junk| junk.reason != "KC-0203").collect::<Vec<_>>()
    };
    let of_cursor = known(&last_cursor);
    let of_intents = known(&last_intent);
    let key = last_cursor.key.as_deref();
    let mut records: Vec<OutgoingRecord> =
        of_cursor.iter().map(|junk| record(cursor, 0, key, junk.value.clone())).collect();
    records.extend(of_intents.iter().map(|junk| record(intents, 0, Some(b"key"), junk.value.clone())));
    let places = bench.write(records).await;
    let before = bench.dead_letters().await.len();
    // Twice: what was told is not told again.
    for _ in 0..2 {
        start(ingest).await;
        start(emitter).await;
        scene.good_requests_flow().await;
        let letters = scene.dead_letters(&places).await;
        for (place, junk) in places.iter().zip(of_cursor.iter().chain(&of_intents)) {
            let letter = &letters[place];
            let (service, reason) =
                if place.topic == cursor { ("ingest", "KC-0325") } else { ("emitter", junk.reason) };
            assert_eq!((letter.service.as_str(), letter.reason.as_str()), (service, reason), "{letter:?}");
            assert_eq!(letter.value.as_ref().map(|value| &value[..]), junk.value.as_deref(), "{letter:?}");
        }
        assert_eq!(bench.dead_letters().await.len(), before + places.len());
        ingest.stop().await;
        emitter.stop().await;
    }

    // What a newer release wrote is another matter: without it neither can go on.
    let unknown = |good: &Stored| [&[0xc3, 0x01][..], &[0xab; 8], &good.value.as_deref().unwrap()[10..]].concat();
    let newer = vec![
        record(cursor, 0, key, Some(unknown(&last_cursor))),
        record(intents, 0, last_intent.key.as_deref(), Some(unknown(&last_intent))),
    ];
    bench.write(newer).await;
    for (service, code) in [(ingest, "KC-0321"), (emitter, "KC-0756")] {
        let process = service.process().start().unwrap();
        let status = tokio::time::timeout(LIMIT, process.wait()).await.unwrap();
        let log = service.process().log();
        assert_eq!(status.code(), Some(3), "{log}");
        let last = log.lines().last().unwrap();
        assert!(last.contains(code) && last.contains("abababababababab"), "{last}");
    }
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_forged_records_reach_neither_kms_core_nor_the_chain() {
    let scene = Scene::start("forged").await;
    let Scene { bench, request, result } = &scene;
    let calls = async || bench.core.calls().await.unwrap().count("PublicDecrypt");
    let nonce = async || {
        let nonce = json!([bench.stack.node().sender(), "latest"]);
        bench.stack.anvil().rpc("eth_getTransactionCount", nonce).await.unwrap()
    };
    let before = (calls().await, nonce().await);

    let forged = forged_requests(request);
    let mut records = Vec::new();
    let mut expected = Vec::new();
    let key = request.id.0.to_vec();
    for (what, forged, reason) in &forged {
        let (topic, deferred) = (bench.topics.requests(Lane::Decryption), bench.topics.deferred(Lane::Decryption));
        records.push(record(topic, 0, Some(&key), Some(scene.encoded(topic, forged))));
        let value = scene.encoded(deferred, &scene.deferred(forged.clone()));
        records.push(record(deferred, 0, Some(&key), Some(value)));
        // No request that lies in the topics was deferred so.
        expected.extend([(what, *reason), (what, "KC-0542")]);
    }
    let results = forged_results(result);
    for (number, (what, forged, reason)) in (1_000..).zip(&results) {
        // Of a request of its own each; where that lies, nobody has signed.
        let mut forged = forged.clone();
        forged.source.offset = number;
        let topic = bench.topics.results(Lane::Decryption);
        records.push(record(topic, 0, Some(&key), Some(scene.encoded(topic, &forged))));
        expected.push((what, *reason));
    }
    let places = bench.write(records).await;
    let letters = scene.dead_letters(&places).await;
    for (place, (what, reason)) in places.iter().zip(expected) {
        assert_eq!(letters[place].reason, reason, "{what} in {place}: {:?}", letters[place]);
    }
    assert_eq!((calls().await, nonce().await), before, "nobody was asked");
    assert_eq!(bench.submissions().await.len(), 1);
    scene.good_requests_flow().await;
    scene.nothing_panicked();
}

/// Records that name a genuine log, and lie.
fn forged_requests(genuine: &Request) -> Vec<(&'static str, Request, &'static str)> {
    let with = |change: fn(&mut Request)| {
        let mut forged = genuine.clone();
        change(&mut forged);
        forged
    };
    vec![
        (
            "another body",
            with(|request| {
                let RequestBody::PublicDecryption { extra_data, .. } = &mut request.body else { unreachable!() };
                *extra_data = Bytes::from_static(b"more");
            }),
            "KC-0511",
        ),
        (
            "other ciphertexts",
            with(|request| {
                let RequestBody::PublicDecryption { materials, .. } = &mut request.body else { unreachable!() };
                materials[0].digest.0[0] ^= 1;
            }),
            "KC-0511",
        ),
        ("another id", with(|request| request.id.0.0[31] ^= 0x40), "KC-0511"),
        ("a log cut short", with(|request| request.log.data = request.log.data.slice(..64)), "KC-0511"),
        ("another chain", with(|request| request.chain_id += 1), "KC-0510"),
        ("another contract", with(|request| request.log.address = Address::repeat_byte(0x11)), "KC-0510"),
        ("another event", with(|request| request.log.topics[0].0[0] ^= 1), "KC-0510"),
    ]
}

/// Results that our signer did not sign.
fn forged_results(genuine: &ResultRecord) -> Vec<(&'static str, ResultRecord, &'static str)> {
    let stranger = PrivateKeySigner::from_slice(&[5; 32]).unwrap();
    let with = |change: &dyn Fn(&mut ResultRecord)| {
        let mut forged = genuine.clone();
        change(&mut forged);
        forged
    };
    let signed = |result: &mut ResultRecord, change: &dyn Fn(&mut Bytes, &mut kms_schemas::record::Signed)| {
        let Answer::PublicDecryption { decrypted_result, signature, .. } = &mut result.answer else { unreachable!() };
        change(decrypted_result, signature);
    };
    vec![
        (
            "another signer, who says so",
            with(&|result| {
                signed(result, &|_, signature| {
                    signature.signature = eip712::sign(&stranger, signature.digest).unwrap();
                    signature.signer = stranger.address();
                });
            }),
            "KC-0602",
        ),
        (
            "another signer, who claims to be ours",
            with(&|result| {
                signed(result, &|_, signature| {
                    signature.signature = eip712::sign(&stranger, signature.digest).unwrap();
                });
            }),
            "KC-0602",
        ),
        (
            "another plaintext under the genuine signature",
            with(&|result| {
                signed(result, &|plaintext, _| *plaintext = Bytes::from(vec![0xff; plaintext.len()]));
            }),
            "KC-0602",
        ),
        (
            "a signature cut short",
            with(&|result| {
                signed(result, &|_, signature| signature.signature = signature.signature.slice(..64));
            }),
            "KC-0601",
        ),
        ("another chain", with(&|result| result.identity.chain_id += 1), "KC-0651"),
        ("another contract", with(&|result| result.identity.contract = Address::repeat_byte(0x11)), "KC-0651"),
    ]
}

// --- Configuration ----------------------------------------------------------------------------------------------------

/// How a service ends that is started with this file, flag and variable, and what it says.
fn refused(kind: ServiceKind, file: &str, flag: &str, variable: (&str, &str)) -> (Option<i32>, String) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("service.toml");
    std::fs::write(&path, file).unwrap();
    let output = Command::new(program())
        .args([kind.name(), "--config"])
        .arg(&path)
        .args(["--set", flag])
        .env(variable.0, variable.1)
        .output()
        .unwrap();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const COMMON: &str = r#"
[kafka]
bootstrap_servers = ""
instance = 7
topic_prefx = "kms"

[telemetry]
log_format = "loud"
"#;

#[test]
fn every_mistake_of_a_configuration_is_named_at_once_with_its_origin() {
    let address = r#"decryption = "0x00000000000000000000000000000000000dec01""#;
    let cases = [
        (
            ServiceKind::Ingest,
            format!("[[source]]\nid = \"gateway\"\nrpc_urls = []\nfinality = \"soon\"\n{address}\n"),
            "source.0.poll_interval_ms=often",
            ["source[0].chain_id", "source[0].rpc_urls", "source[0].finality"].as_slice(),
        ),
        (
            ServiceKind::Processor,
            format!(
                "[gateway]\nchain_id = 0\nrpc_urls = [\"not a url\"]\n{address}\n\
                 [kms_core]\nendpoints = [\"http://127.0.0.1:1\"]\n[signer]\naddress = \"0x12\"\n"
            ),
            "lanes.decryption.slots=0",
            ["gateway.chain_id", "gateway.rpc_urls[0]", "gateway.gateway_config", "signer.address"].as_slice(),
        ),
        (
            ServiceKind::Emitter,
            format!(
                "[[destination]]\nrpc_urls = [\"ftp://127.0.0.1\"]\n{address}\n\
                 [signer]\naddress = \"0x0000000000000000000000000000000000000000\"\n\
                 [wallet]\nprivate_key_file = \"no-such-file\"\n"
            ),
            "submission.max_in_flight=0",
            ["destination[0].chain_id", "destination[0].rpc_urls[0]", "wallet.private_key_file"].as_slice(),
        ),
    ];
    for (kind, own, flag, paths) in cases {
        let file = format!("{COMMON}{own}");
        let (code, said) = refused(kind, &file, flag, ("KMS_CONNECTOR_KAFKA__CREATE_TOPICS", "perhaps"));
        assert_eq!(code, Some(2), "{said}");
        let line_of = |start: &str| 1 + file.lines().position(|line| line.starts_with(start)).unwrap();
        let of_common = [
            ("kafka.instance", format!("service.toml:{}", line_of("instance"))),
            ("kafka.topic_prefx", format!("service.toml:{}", line_of("topic_prefx"))),
            ("telemetry.log_format", format!("service.toml:{}", line_of("log_format"))),
            ("kafka.create_topics", "KMS_CONNECTOR_KAFKA__CREATE_TOPICS".to_owned()),
        ];
        for (path, origin) in of_common {
            assert!(said.lines().any(|line| line.contains(path) && line.contains(&origin)), "{path}, {origin}: {said}");
        }
        let set = flag.split('=').next().unwrap().replace(".0.", "[0].");
        assert!(said.lines().any(|line| line.contains(&set) && line.contains("--set")), "{set}: {said}");
        for path in paths {
            assert!(said.lines().any(|line| line.contains(path) && line.contains("KC-01")), "{path}: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

// --- A world that is not there yet --------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn services_that_start_before_broker_registry_chain_and_kms_core_wait_for_each_and_then_run() {
    let workspace = new_workspace();
    let host = |url: &str| url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let anvil = Anvil::start(&workspace, AnvilOptions { chain_id: 31_337, ..AnvilOptions::default() }).await.unwrap();
    let schemas = Registry::start(&workspace).await.unwrap();
    let broker = Proxy::start(kafka().await.bootstrap_servers()).await;
    let chain = Proxy::start(&host(&anvil.url())).await;
    let registry = Proxy::start(&host(&schemas.url())).await;
    let registry_url = schemas.url().replace(&host(&schemas.url()), &registry.address().to_string());
    let mut builder = Stack::builder()
        .anvil(anvil)
        .rpc_urls([chain.url()])
        .kafka(kafka().await.bootstrap_servers())
        .prefix(prefix("late"))
        .services(&[]);
    for kind in ServiceKind::ALL {
        builder = builder
            .set(kind, format!("kafka.bootstrap_servers={}", broker.address()))
            .set(kind, format!("schema_registry.url={registry_url}"));
    }
    let stack = builder.start(&workspace).await.unwrap();
    for part in [&broker, &chain, &registry] {
        part.cut();
    }
    stack.node().core().process().kill().await;
    let services = stack.node().services();
    for service in services {
        service.process().start().unwrap();
    }
    all_wait(services, &["Kafka cannot be reached"]).await;
    broker.restore();
    all_wait(services, &["the schema registry cannot be reached"]).await;
    registry.restore();
    let [ingest, processor, emitter] = services;
    all_wait(std::slice::from_ref(ingest), &["KC-0301", "version cannot be read"]).await;
    all_wait(std::slice::from_ref(processor), &["contracts", "KC-0301"]).await;
    all_wait(std::slice::from_ref(emitter), &["the destination's RPC endpoints do not answer"]).await;
    chain.restore();
    for service in services {
        service.wait_ready().await.unwrap_or_else(|error| panic!("{error}"));
    }
    // And the last of them, which is only missed by a request.
    let requester = stack.requester().await.unwrap();
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    requester.make(&crs).await.unwrap();
    all_wait(std::slice::from_ref(processor), &["kms_core", "KC-0501"]).await;
    stack.node().core().process().start().unwrap();
    stack.node().core().wait_ready().await.unwrap();
    let core = ControlClient::new(stack.node().core().control());
    eventually("the answer is settled", LIMIT, async || {
        let settled = emitter.metric("kms_connector_submissions_total").await?;
        (settled >= 1.0).then_some(())
    })
    .await;
    assert_eq!(core.calls().await.unwrap().count("CrsGen"), 1);
    for service in services {
        assert!(!service.process().log().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_broker_that_goes_away_in_the_middle_of_a_run_is_waited_for_by_every_service() {
    let workspace = new_workspace();
    let options = KafkaOptions { heap_mib: 256, ..KafkaOptions::default() };
    let own = Kafka::start(&workspace, options).await.unwrap();
    let bench = Bench::start_on(&own, "outage", |mut stack| {
        for kind in ServiceKind::ALL {
            // So that an outage soon is longer.
            stack = stack.set(kind, "kafka.transaction_timeout_ms=3000");
        }
        stack.services(&ServiceKind::ALL)
    })
    .await;
    let services = bench.stack.node().services();
    let pids: Vec<_> = services.iter().map(|one| one.process().pid()).collect();
    let mut made = vec![bench.public().await];
    bench.answers(&made).await;
    let broker = &own.brokers()[0];

    for suspended in [true, false] {
        // Answers come while nothing can be written.
        bench.core.hold(Operation::PublicDecryption).await.unwrap();
        let running = bench.publics(4).await;
        for made in &running {
            eventually("it is started", LIMIT, async || (bench.starts(made).await > 0).then_some(())).await;
        }
        match suspended {
            true => broker.signal(Signal::SIGSTOP),
            false => drop(broker.kill().await),
        }
        bench.core.release(Operation::PublicDecryption).await.unwrap();
        made.extend(running);
        made.extend(bench.publics(3).await);
        let [ingest, processor, emitter] = services;
        all_wait(std::slice::from_ref(ingest), &["Kafka"]).await;
        all_wait(std::slice::from_ref(processor), &["Kafka has not answered yet"]).await;
        all_wait(std::slice::from_ref(emitter), &["Kafka does not answer"]).await;
        match suspended {
            true => broker.signal(Signal::SIGCONT),
            false => drop(broker.start().unwrap()),
        }
        own.wait_ready().await.unwrap();
        for result in bench.answers(&made).await {
            assert_eq!(result.attempts, 1, "{result:?}");
        }
        for service in services {
            service.wait_ready().await.unwrap_or_else(|error| panic!("{error}"));
        }
    }
    let begun = Instant::now();
    while bench.submissions().await.len() < made.len() {
        assert!(begun.elapsed() < LIMIT * 2, "not every answer is settled\n{}", bench.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.submissions().await.len(), made.len());
    assert!(bench.dead_letters().await.is_empty());
    let now: Vec<_> = services.iter().map(|one| one.process().pid()).collect();
    assert_eq!(now, pids, "no restart was needed");
}

/// Waits until each of the services runs, is not ready, and says why with all these words.
async fn all_wait(services: &[Service], words: &[&str]) {
    for service in services {
        let url = format!("http://{}/readyz", service.listen());
        let begun = Instant::now();
        loop {
            assert!(service.process().is_running(), "{}", service.process().log());
            let text = match kms_tests::get(&url).await {
                Ok(response) if response.status().is_success() => "ready".to_owned(),
                Ok(response) => response.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            if words.iter().all(|word| text.contains(word)) {
                break;
            }
            let (kind, log) = (service.kind(), service.process().log());
            assert!(begun.elapsed() < LIMIT, "{kind} does not wait for {words:?} but says {text}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
