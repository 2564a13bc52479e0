//! `kmsctl` as an operator runs it, on a real broker.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U256};
use kms_runtime::kafka::{KafkaConfig, OutgoingRecord, TransactionalProducer, ensure_topics};
use kms_schemas::codec::{Codec, Record};
use kms_schemas::identity::{Coordinates, Identity, Kind, Lane, RequestId};
use kms_schemas::record::*;
use kms_schemas::topics::{Topics, intent_key, partition_for_key, request_key};
use kms_stack::supervise::{Launch, Supervised};
use kms_tests::{eventually, get, kafka, new_workspace, prefix, program};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(180);
const LANE: Lane = Lane::KeyManagement;

/// A deployment's topics, to be filled by hand.
struct Bench {
    kafka: KafkaConfig,
    topics: Topics,
    codec: Codec,
    producer: TransactionalProducer,
}

impl Bench {
    async fn new(test: &str) -> Self {
        let kafka = KafkaConfig {
            bootstrap_servers: kafka().await.bootstrap_servers().to_owned(),
            topic_prefix: prefix(test),
            create_topics: true,
            ..KafkaConfig::default()
        };
        let made = move || {
            let begun = Instant::now();
            let topics = Topics::new(&kafka.topic_prefix);
            ensure_topics(&kafka, "test", &topics.all(), || begun.elapsed() < LIMIT, |_| {}).unwrap();
            let id = format!("{}.test", kafka.topic_prefix);
            let producer = TransactionalProducer::new(&kafka, "test", &id, 4 << 20).unwrap();
            producer.init(|| begun.elapsed() < LIMIT).unwrap();
            Self { kafka, topics, codec: Codec::single_object(), producer }
        };
        tokio::task::spawn_blocking(made).await.unwrap()
    }

    fn record<R: Record>(&self, topic: &str, partition: i32, key: Vec<u8>, record: &R) -> OutgoingRecord {
        let value = self.codec.encode(topic, record).unwrap();
        OutgoingRecord {
            topic: topic.to_owned(),
            partition: Some(partition),
            key: Some(key),
            value: Some(value),
            ..OutgoingRecord::default()
        }
    }

    /// Partitions and offsets of the records.
    fn write(&self, records: &[OutgoingRecord]) -> Vec<(i32, i64)> {
        let write = |batch: &[OutgoingRecord]| self.producer.write(batch, Instant::now() + LIMIT).unwrap();
        records.chunks(3_000).flat_map(write).collect()
    }

    /// Keys from their requests to their acceptance.
    fn write_keys(&self, keys: u64) {
        let requests: Vec<Request> = (1..=keys).map(key_request).collect();
        let written: Vec<OutgoingRecord> = requests.iter().map(|request| self.request(request)).collect();
        let places = self.write(&written);
        let outcomes = requests.iter().zip(places);
        self.write(&outcomes.flat_map(|(request, place)| self.outcome(request, place)).collect::<Vec<_>>());
    }

    fn request(&self, request: &Request) -> OutgoingRecord {
        let key = request_key(request.id).to_vec();
        self.record(self.topics.requests(LANE), partition_for_key(&key, 3), key, request)
    }

    /// Result and submission of the request at a place.
    fn outcome(&self, request: &Request, (partition, offset): (i32, i64)) -> [OutgoingRecord; 2] {
        let RequestBody::Keygen { prep_keygen_id, .. } = request.body else { unreachable!() };
        let source = Coordinates { topic: self.topics.requests(LANE).to_owned(), partition, offset };
        let answer = Answer::Keygen {
            prep_keygen_id,
            key_digests: vec![KeyDigest { key_type: 0, digest: vec![7; 32].into() }],
            extra_data: Bytes::new(),
            signature: Signed { signature: vec![1; 65].into(), digest: B256::ZERO, signer: Address::ZERO },
        };
        let result = ResultRecord {
            source: source.clone(),
            deferred: None,
            identity: request.identity(),
            block_number: 1,
            block_hash: B256::ZERO,
            log_index: 0,
            attempts: 1,
            answer,
        };
        let submission = Submission {
            result: Coordinates { topic: self.topics.results(LANE).to_owned(), ..source.clone() },
            request: source,
            identity: request.identity(),
            verdict: Verdict::AlreadyAnswered { evidence: "event".to_owned(), transaction_hash: None },
            attempts: 1,
            settled_ms: 1,
        };
        let key = request_key(request.id).to_vec();
        let of_submission = partition_for_key(&key, 12);
        [
            self.record(self.topics.results(LANE), partition, key.clone(), &result),
            self.record(self.topics.submissions(), of_submission, key, &submission),
        ]
    }

    async fn ctl(&self, arguments: &[&str]) -> Output {
        ctl(&self.kafka.bootstrap_servers, &self.kafka.topic_prefix, arguments).await
    }
}

async fn ctl(servers: &str, prefix: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.arg("ctl").args(["--set", &format!("kafka.bootstrap_servers={servers}")]);
    command.args(["--set", &format!("kafka.topic_prefix={prefix}")]);
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// An id as the contracts make them.
fn numbered(tag: u8, counter: u64) -> RequestId {
    RequestId::from((U256::from(tag) << 248) | U256::from(counter))
}

fn key_request(counter: u64) -> Request {
    let body = RequestBody::Keygen { prep_keygen_id: numbered(3, counter), extra_data: Bytes::new() };
    request(Kind::Keygen, numbered(4, counter), body)
}

fn request(kind: Kind, id: RequestId, body: RequestBody) -> Request {
    Request {
        source: "ethereum".to_owned(),
        seq: 0,
        previous_hash: B256::ZERO,
        chain_id: 12_345,
        kind,
        id,
        block_number: 1,
        block_hash: B256::ZERO,
        block_timestamp: 1,
        transaction_hash: B256::ZERO,
        log_index: 0,
        log: RawLog { address: Address::repeat_byte(9), topics: vec![], data: Bytes::new() },
        body,
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn a_check_of_the_topics_tells_what_differs_and_fails_where_a_promise_rests_on_it() {
    let servers = kafka().await.bootstrap_servers().to_owned();
    let with_retention = async |test: &str, name: &'static str| {
        let prefix = prefix(test);
        let config = KafkaConfig {
            bootstrap_servers: servers.clone(),
            topic_prefix: prefix.clone(),
            create_topics: true,
            ..KafkaConfig::default()
        };
        let make = move || {
            let begun = Instant::now();
            let mut specs = Topics::new(&config.topic_prefix).all();
            for spec in specs.iter_mut().filter(|spec| spec.name.ends_with(name)) {
                spec.config.retain(|(key, _)| *key != "retention.ms");
                spec.config.push(("retention.ms", "3600000".to_owned()));
            }
            ensure_topics(&config, "test", &specs, || begun.elapsed() < LIMIT, |_| {}).unwrap();
        };
        tokio::task::spawn_blocking(make).await.unwrap();
        ctl(&servers, &prefix, &["--set", "kafka.probe=false", "--output", "json", "topics", "check"]).await
    };
    let told = with_retention("check-long", ".requests.decryption").await;
    assert_eq!(told.status.code(), Some(0), "{}", stderr(&told));
    assert!(stderr(&told).contains(".requests.decryption: has retention.ms = 3600000"), "{}", stderr(&told));
    assert!(!stderr(&told).contains("are as the catalogue says"), "{}", stderr(&told));
    let lines: Vec<Value> = stdout(&told).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let differing: Vec<&Value> = lines.iter().filter(|line| line["differences"] != json!([])).collect();
    assert_eq!(differing.len(), 1, "{differing:?}");
    let refused = with_retention("check-ever", ".emitter.intents").await;
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("KC-0212") && stderr(&refused).contains("emitter.intents"),
        "{}",
        stderr(&refused)
    );
}

#[tokio::test]
async fn the_lifecycle_of_tens_of_thousands_of_keys_is_read_in_moments() {
    const KEYS: u64 = 20_000;
    let bench = Bench::new("lifecycle").await;
    let epoch = numbered(8, 1);
    let destroyed = bench.request(&request(Kind::KmsEpochDestroyed, epoch, RequestBody::KmsEpochDestroyed));
    // Somebody else's bytes.
    let foreign = OutgoingRecord { value: Some(b"{}".to_vec()), ..destroyed.clone() };
    let bench = tokio::task::spawn_blocking(move || {
        bench.write_keys(KEYS);
        bench.write(&[destroyed, foreign]);
        bench
    })
    .await
    .unwrap();

    let begun = Instant::now();
    let output = bench.ctl(&["lifecycle", "--output", "json"]).await;
    let took = begun.elapsed();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let objects: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len() as u64, KEYS + 2);
    for (counter, key) in (1..=KEYS).zip(&objects) {
        assert_eq!((&key["object"], &key["state"]), (&json!("key"), &json!("accepted")), "{key}");
        assert_eq!(key["key"]["id"], json!(numbered(4, counter)));
    }
    let gone = &objects[objects.len() - 2];
    assert_eq!((&gone["object"], &gone["id"], &gone["state"]), (&json!("epoch"), &json!(epoch), &json!("destroyed")));
    let summary = objects.last().unwrap();
    assert_eq!((&summary["requests"], &summary["unreadable"]), (&json!(KEYS + 1), &json!(1)));
    assert!(stderr(&output).contains("1 records do not decode"), "{}", stderr(&output));
    println!("read in {took:?}");

    let text = bench.ctl(&["lifecycle"]).await;
    assert_eq!(stdout(&text).lines().count() as u64, KEYS + 1, "one line per object");
}

#[tokio::test]
async fn a_trace_shows_the_transaction_that_carried_the_answer() {
    let bench = Bench::new("trace").await;
    let identity = |counter| Identity {
        chain_id: 12_345,
        contract: Address::repeat_byte(9),
        kind: Kind::Keygen,
        id: numbered(4, counter),
    };
    let item = |counter| IntentItem {
        result: Coordinates { topic: bench.topics.results(LANE).to_owned(), partition: 0, offset: 0 },
        identity: identity(counter),
    };
    let intent = |nonce, items| Intent {
        chain_id: 12_345,
        sender: Address::repeat_byte(8),
        nonce,
        attempt: 0,
        raw: vec![2; 77].into(),
        hash: B256::repeat_byte(nonce as u8),
        items,
        settled_below: 0,
        written_ms: 1,
    };
    let mut records = Vec::new();
    for intent in [intent(5, vec![item(2)]), intent(6, vec![item(1), item(2)]), intent(7, vec![])] {
        let key = intent_key(intent.chain_id, intent.sender, intent.nonce, intent.attempt);
        records.push(bench.record(bench.topics.intents(), 0, key, &intent));
    }
    let bench = tokio::task::spawn_blocking(move || {
        bench.write_keys(1);
        bench.write(&records);
        bench
    })
    .await
    .unwrap();
    let id = numbered(4, 1).to_string();

    let output = bench.ctl(&["trace", &id, "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let intents: Vec<&Value> = lines.iter().filter(|line| line["record"] == "org.kmsconnector.Intent").collect();
    assert_eq!((lines.len(), intents.len()), (4, 1));
    assert_eq!(
        (&intents[0]["value"]["nonce"], &intents[0]["value"]["items"][1]["identity"]["kind"]),
        (&json!(6), &json!("keygen"))
    );

    let text = stdout(&bench.ctl(&["trace", &id]).await);
    assert!(text.contains("1 for other requests") && text.contains("77 bytes"), "{text}");
}

#[tokio::test]
async fn every_message_has_a_code_and_every_end_its_exit_code() {
    let bench = Bench::new("ctl-codes").await;
    let ends = |output: &Output, exit: i32, said: &str| {
        assert_eq!(output.status.code(), Some(exit), "{}", stderr(output));
        assert!(stderr(output).contains(said), "{}", stderr(output));
    };
    ends(&bench.ctl(&["dead-letters", "redrive", "--yes"]).await, 0, "nothing to redrive: of 0 dead letters");
    ends(&bench.ctl(&["dead-letters", "redrive"]).await, 0, "nothing to redrive: of 0 dead letters");
    ends(&bench.ctl(&["read", "nonsense"]).await, 2, "kmsctl: error[KC-0120]: ");
    ends(&bench.ctl(&["trace", "0x01"]).await, 2, "kmsctl: error[KC-0120]: ");
    ends(&bench.ctl(&["--set", "kafka.nonsense=1", "lifecycle"]).await, 2, "KC-0103");
    let servers = &bench.kafka.bootstrap_servers;
    ends(&ctl(servers, "nobodys", &["lifecycle"]).await, 3, "kmsctl: error[KC-0211]: ");
    ends(&ctl(servers, "nobodys", &["topics", "check"]).await, 3, "kmsctl: error[KC-0211]: ");
    for verb in [&["lifecycle"][..], &["topics", "check"], &["topics", "create"]] {
        let output = ctl("127.0.0.1:1", "nobodys", verb).await;
        ends(&output, 3, "kmsctl: error[KC-0210]: ");
        ends(&output, 3, "no Kafka broker answers (kafka.bootstrap_servers = 127.0.0.1:1)");
    }
    let too_many =
        ctl(servers, &prefix("ctl-codes"), &["--set", "kafka.replication_factor=30", "topics", "create"]).await;
    ends(&too_many, 3, "kmsctl: error[KC-0211]: topics are not there yet: ");
    ends(&too_many, 3, "replication factor");
}

#[tokio::test]
async fn topics_that_were_created_with_kmsctl_are_all_that_services_need() {
    let kafka = KafkaConfig {
        bootstrap_servers: kafka().await.bootstrap_servers().to_owned(),
        topic_prefix: prefix("ctl-create"),
        ..KafkaConfig::default()
    };
    let (servers, prefix) = (&kafka.bootstrap_servers, &kafka.topic_prefix);
    for verb in ["create", "check", "create"] {
        let output = ctl(servers, prefix, &["topics", verb]).await;
        assert_eq!(output.status.code(), Some(0), "{verb}: {}", stderr(&output));
        assert!(stdout(&output).contains(&format!("{prefix}.probe")), "{}", stdout(&output));
    }
    let workspace = new_workspace();
    std::fs::write(workspace.dir().join("wallet.key"), format!("0x{}", "11".repeat(32))).unwrap();
    for (service, check, settings) in SERVICES {
        let configuration = workspace.dir().join(format!("{service}.toml"));
        let address = workspace.dir().join(format!("{service}.address"));
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{servers}\"\ntopic_prefix = \"{prefix}\"\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\naddress_file = \"{}\"\n{settings}",
            address.display()
        );
        std::fs::write(&configuration, text).unwrap();
        let launch = Launch::new(*service, workspace.program()).arg(*service).arg("--config").arg(&configuration);
        let process = Supervised::new(&workspace, launch);
        process.start().unwrap();
        // The service is at its own work only once the topics and the broker have been tested.
        eventually("the service waits for nothing but its chain", LIMIT, async || {
            assert!(process.is_running(), "{service} has ended: {}", process.log());
            let address = std::fs::read_to_string(&address).ok()?;
            let response = get(&format!("http://{address}/readyz")).await.ok()?;
            response.text().await.ok().filter(|waits_for| waits_for.contains(check))
        })
        .await;
        process.kill().await;
    }
}

/// The services, the check that each has once it is at work, and what else it must be told.
const SERVICES: &[(&str, &str, &str)] = &[
    (
        "ingest",
        "source.gateway.chain",
        r#"
[[source]]
id = "gateway"
chain_id = 31337
rpc_urls = ["http://127.0.0.1:1"]
decryption = "0x1111111111111111111111111111111111111111"
"#,
    ),
    (
        "processor",
        "contracts",
        r#"
[gateway]
chain_id = 31337
rpc_urls = ["http://127.0.0.1:1"]
decryption = "0x1111111111111111111111111111111111111111"
kms_generation = "0x2222222222222222222222222222222222222222"
gateway_config = "0x3333333333333333333333333333333333333333"
[kms_core]
endpoints = ["http://127.0.0.1:1"]
[signer]
address = "0x4444444444444444444444444444444444444444"
"#,
    ),
    (
        "emitter",
        "gateway.chain",
        r#"
[[destination]]
id = "gateway"
chain_id = 31337
rpc_urls = ["http://127.0.0.1:1"]
decryption = "0x1111111111111111111111111111111111111111"
[signer]
address = "0x4444444444444444444444444444444444444444"
[wallet]
private_key_file = "wallet.key"
"#,
    ),
];
