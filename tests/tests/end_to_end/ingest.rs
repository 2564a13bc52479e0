//! Ingest as a process, on real Kafka and a real chain.
//!
//! The contracts are replaced by code that emits whatever log the calldata describes, so that a test decides about every log; the
//! events are those of the protocol's vectors.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::{B256, Bytes, U256, keccak256};
use kms_schemas::codec::Codec;
use kms_schemas::identity::{Kind, Lane};
use kms_schemas::record::{Cursor, DeadLetter, Proof, Request};
use kms_schemas::topics::Topics;
use kms_stack::Workspace;
use kms_stack::parts::{Anvil, AnvilOptions, Kafka, KafkaOptions};
use kms_stack::supervise::{Launch, Signal, Supervised};
use kms_tests::{Proxy, eventually, get, kafka, new_workspace, prefix};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(20);
const DECRYPTION: &str = "0x00000000000000000000000000000000000dec01";
const KMS_GENERATION: &str = "0x00000000000000000000000000000000000dec02";

/// Emits a log of one topic or two: calldata is their number, both topics, and the data.
const EMITTER: &str = "0x365f5f376040516020516060360360605f51600114601a57a2005ba100";

const VECTORS: &str = include_str!("../../../chain/vectors/events.json");

/// An event of generation (a) as the vectors have it.
struct Event {
    name: String,
    contract: &'static str,
    topics: Vec<B256>,
    data: Bytes,
}

/// The first example of every event of generation (a).
fn events() -> Vec<Event> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let of_a = vectors["events"].as_array().unwrap().iter().filter(|event| event["generation"] == "a");
    of_a.map(|event| {
        let log = &event["examples"][0]["log"];
        Event {
            name: event["name"].as_str().unwrap().to_owned(),
            contract: if event["contract"] == "Decryption" { DECRYPTION } else { KMS_GENERATION },
            topics: serde_json::from_value(log["topics"].clone()).unwrap(),
            data: serde_json::from_value(log["data"].clone()).unwrap(),
        }
    })
    .collect()
}

/// A public decryption with this id.
fn decryption(id: u64) -> Event {
    let mut event = events().remove(0);
    assert_eq!(event.name, "PublicDecryptionRequest");
    event.topics[1] = request_id(id);
    event
}

fn request_id(id: u64) -> B256 {
    B256::from((U256::from(1) << 248) | U256::from(id))
}

/// A chain whose contracts emit what they are told.
async fn chain(workspace: &Workspace, block_time: Option<Duration>) -> Anvil {
    let anvil = Anvil::start(workspace, AnvilOptions { block_time, ..AnvilOptions::default() }).await.unwrap();
    for contract in [DECRYPTION, KMS_GENERATION] {
        anvil.rpc("anvil_setCode", json!([contract, EMITTER])).await.unwrap();
    }
    anvil
}

async fn emit(anvil: &Anvil, event: &Event) {
    let word = |index: usize| event.topics.get(index).copied().unwrap_or_default();
    let count = B256::from(U256::from(event.topics.len()));
    let data = [count.as_slice(), word(0).as_slice(), word(1).as_slice(), &event.data].concat();
    let accounts = anvil.rpc("eth_accounts", json!([])).await.unwrap();
    let transaction =
        json!([{ "from": accounts[0], "to": event.contract, "data": Bytes::from(data), "gas": "0x4c4b40" }]);
    anvil.rpc("eth_sendTransaction", transaction).await.unwrap();
}

async fn head(anvil: &Anvil) -> u64 {
    let head: U256 = serde_json::from_value(anvil.rpc("eth_blockNumber", json!([])).await.unwrap()).unwrap();
    head.to()
}

/// An ingest process and what is needed to look at its work.
struct Ingest {
    process: Supervised,
    address_file: PathBuf,
    bootstrap: String,
    topics: Topics,
}

struct Settings<'a> {
    name: &'a str,
    bootstrap: &'a str,
    prefix: &'a str,
    rpc_urls: Vec<String>,
    /// Further lines of the source.
    source: &'a str,
}

impl Ingest {
    fn new(workspace: &Workspace, settings: Settings<'_>) -> Self {
        let Settings { name, bootstrap, prefix, rpc_urls, source } = settings;
        let config = workspace.dir().join(format!("{name}.toml"));
        let address_file = workspace.dir().join(format!("{name}.address"));
        let text = format!(
            r#"
[kafka]
bootstrap_servers = "{bootstrap}"
topic_prefix = "{prefix}"
create_topics = true

[telemetry]
listen = "127.0.0.1:0"
address_file = "{address_file}"
log_filter = "info,kms_ingest=debug"

[[source]]
id = "gateway"
chain_id = 31337
rpc_urls = {rpc_urls:?}
generation = "a"
decryption = "{DECRYPTION}"
kms_generation = "{KMS_GENERATION}"
poll_interval_ms = 20
cursor_interval_ms = 100
{source}
"#,
            address_file = address_file.display(),
        );
        std::fs::write(&config, text).unwrap();
        let launch = Launch::new(name, workspace.program()).arg("ingest").arg("--config").arg(&config);
        let process = Supervised::new(workspace, launch);
        Self { process, address_file, bootstrap: bootstrap.to_owned(), topics: Topics::new(prefix) }
    }

    async fn start(&self) {
        self.launch();
        self.process.ready(LIMIT, async || self.readiness().await).await.unwrap();
    }

    /// Without waiting until it is ready.
    fn launch(&self) {
        let _ = std::fs::remove_file(&self.address_file);
        self.process.start().unwrap();
    }

    /// `Err` says why it is not ready.
    async fn readiness(&self) -> Result<(), String> {
        let address = std::fs::read_to_string(&self.address_file).map_err(|error| error.to_string())?;
        let response = get(&format!("http://{address}/readyz")).await.map_err(|error| error.to_string())?;
        if response.status().is_success() { Ok(()) } else { Err(response.text().await.unwrap_or_default()) }
    }

    async fn metrics(&self) -> String {
        let address = std::fs::read_to_string(&self.address_file).unwrap();
        get(&format!("http://{address}/metrics")).await.unwrap().text().await.unwrap()
    }

    /// The requests in the topics, in the order of their numbers, up to the first number that is missing: partitions are read one
    /// after the other, so that a later record of one may be seen before an earlier of another. Checks that none is there twice
    /// and that each names the hash of the one before.
    async fn requests(&self, lane: Lane) -> Vec<Request> {
        let topic = self.topics.requests(lane).to_owned();
        let mut numbered = BTreeMap::new();
        for (key, value) in read_committed(&self.bootstrap, &topic).await {
            let request: Request = Codec::single_object().decode(&topic, &value).unwrap();
            assert_eq!(key, request.id.0.as_slice(), "the Kafka key is the request's id");
            let seq = request.seq;
            let twice = numbered.insert(seq, (request, keccak256(&value)));
            assert!(twice.is_none(), "number {seq} is in {topic} twice");
        }
        let mut before = B256::ZERO;
        let dense = (0..).zip(numbered).take_while(|(expected, (seq, _))| expected == seq);
        let in_order = dense.map(|(seq, (_, (request, hash)))| {
            assert_eq!(request.previous_hash, before, "record {seq} of {topic} names the hash of the one before");
            before = hash;
            request
        });
        in_order.collect()
    }

    async fn await_requests(&self, lane: Lane, count: usize) -> Vec<Request> {
        eventually(&format!("{count} requests in {lane}"), LIMIT, async || {
            let found = self.requests(lane).await;
            (found.len() >= count).then_some(found)
        })
        .await
    }

    async fn dead_letters(&self) -> Vec<DeadLetter> {
        let topic = self.topics.dead_letters().to_owned();
        let records = read_committed(&self.bootstrap, &topic).await;
        records.iter().map(|(_, value)| Codec::single_object().decode(&topic, value).unwrap()).collect()
    }

    /// The newest cursor.
    async fn cursor(&self) -> Option<Cursor> {
        let topic = self.topics.cursor().to_owned();
        let records = read_committed(&self.bootstrap, &topic).await;
        records.iter().rev().find_map(|(_, value)| Codec::single_object().decode(&topic, value).ok())
    }
}

/// Keys and values of records.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Everything in a topic, as a read-committed reader sees it now. An absent topic is empty. A broker that is away is waited for.
async fn read_committed(bootstrap: &str, topic: &str) -> Records {
    eventually(&format!("{topic} can be read"), LIMIT, async || {
        let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
        tokio::task::spawn_blocking(move || try_read_committed(&bootstrap, &topic)).await.unwrap().ok()
    })
    .await
}

fn try_read_committed(bootstrap: &str, topic: &str) -> Result<Records, KafkaError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "reader-of-the-tests")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let partitions = metadata.topics()[0].partitions().len() as i32;
    let mut assignment = TopicPartitionList::new();
    let mut unread = BTreeMap::new();
    for partition in 0..partitions {
        let (_, end) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
        if end > 0 {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
            unread.insert(partition, end);
        }
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    while !unread.is_empty() {
        match consumer.poll(PATIENCE).ok_or(KafkaError::NoMessageReceived)? {
            Ok(message) => {
                records
                    .push((message.key().unwrap_or_default().to_vec(), message.payload().unwrap_or_default().to_vec()));
                // While somebody writes there is no end of the partition to be told of.
                if unread.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                    unread.remove(&message.partition());
                }
            }
            Err(KafkaError::PartitionEOF(partition)) => drop(unread.remove(&partition)),
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

fn ids(requests: &[Request]) -> Vec<B256> {
    requests.iter().map(|request| request.id.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_all_seven_events_are_written_decoded_and_raw_with_their_place_in_the_chain() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-seven");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: "start_block = 0",
        },
    );
    for event in events() {
        emit(&anvil, &event).await;
    }
    ingest.start().await;
    let mut found = ingest.await_requests(Lane::Decryption, 2).await;
    found.extend(ingest.await_requests(Lane::KeyManagement, 5).await);
    assert_eq!(found.iter().map(|request| request.kind).collect::<Vec<_>>(), Kind::ALL);
    for (request, event) in found.iter().zip(events()) {
        let block = json!([format!("{:#x}", request.block_number), false]);
        let block = anvil.rpc("eth_getBlockByNumber", block).await.unwrap();
        assert_eq!(block["hash"], json!(request.block_hash));
        assert_eq!(block["timestamp"], json!(format!("{:#x}", request.block_timestamp)));
        assert_eq!(block["transactions"][0], json!(request.transaction_hash));
        assert_eq!((&request.log.topics, &request.log.data), (&event.topics, &event.data), "{}", event.name);
        assert_eq!(request.chain_id, 31_337);
        assert_eq!(request.source, "gateway");
    }
    let cursor = ingest.cursor().await.unwrap();
    assert_eq!(cursor.proof, Proof::Believed);
    assert_eq!(cursor.sequences.iter().map(|sequence| sequence.next).sum::<u64>(), 7);
    let metrics = ingest.metrics().await;
    assert!(metrics.contains(r#"kms_connector_ingest_records_total{source="gateway",kind="crsgen"} 1"#), "{metrics}");
    assert_eq!(ingest.process.stop(GRACE).await.and_then(|status| status.code()), Some(0), "SIGTERM ends cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_after_kills_every_log_is_there_once_and_in_order() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, Some(Duration::from_millis(50))).await;
    let prefix = prefix("ingest-kill");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: "start_block = 0\nmax_range_blocks = 3",
        },
    );
    let mut made = 0;
    for kill in 0..5 {
        ingest.start().await;
        let already = made;
        for _ in 0..40 {
            made += 1;
            emit(&anvil, &decryption(made)).await;
        }
        // In the middle of them, wherever that is.
        ingest.await_requests(Lane::Decryption, (already + 5 * kill) as usize).await;
        ingest.process.kill().await;
    }
    ingest.start().await;
    let requests = ingest.await_requests(Lane::Decryption, made as usize).await;
    assert_eq!(ids(&requests), (1..=made).map(request_id).collect::<Vec<_>>());
    // A whole stretch of blocks later there is still nothing twice.
    let cursor = head(&anvil).await + 5;
    eventually("the cursor passes on", LIMIT, async || (ingest.cursor().await?.block_number >= cursor).then_some(()))
        .await;
    assert_eq!(ingest.requests(Lane::Decryption).await.len() as u64, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_two_processes_of_one_source_fence_each_other_instead_of_both_writing() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-fence");
    let bootstrap = kafka().await.bootstrap_servers();
    let settings =
        |name| Settings { name, bootstrap, prefix: &prefix, rpc_urls: vec![anvil.url()], source: "start_block = 0" };
    let (first, second) = (Ingest::new(&workspace, settings("first")), Ingest::new(&workspace, settings("second")));
    first.start().await;
    emit(&anvil, &decryption(1)).await;
    first.await_requests(Lane::Decryption, 1).await;
    second.start().await;
    emit(&anvil, &decryption(2)).await;
    second.await_requests(Lane::Decryption, 2).await;
    let status = eventually("the first is fenced", LIMIT, async || first.process.process()?.exited()).await;
    assert_eq!(status.code(), Some(4), "{}", first.process.log());
    emit(&anvil, &decryption(3)).await;
    let requests = second.await_requests(Lane::Decryption, 3).await;
    assert_eq!(ids(&requests), [1, 2, 3].map(request_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_rpc_endpoint_that_dies_is_replaced_by_the_second_and_used_again_later() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, Some(Duration::from_millis(50))).await;
    let target = anvil.url().trim_start_matches("http://").to_owned();
    let (primary, backup) = (Proxy::start(&target).await, Proxy::start(&target).await);
    let prefix = prefix("ingest-failover");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![primary.url(), backup.url()],
            source: "start_block = 0\nrpc_timeout_ms = 1000",
        },
    );
    ingest.start().await;
    let mut made = 0;
    let mut more = async |count: u64| {
        for _ in 0..count {
            made += 1;
            emit(&anvil, &decryption(made)).await;
        }
        made
    };
    let count = more(10).await;
    ingest.await_requests(Lane::Decryption, count as usize).await;
    primary.cut();
    let count = more(10).await;
    ingest.await_requests(Lane::Decryption, count as usize).await;
    ingest.readiness().await.expect("one endpoint is enough");

    // Both gone: no verdict, a reason, and recovery without a restart.
    backup.silence();
    let why = eventually("the outage shows", LIMIT, async || ingest.readiness().await.err()).await;
    assert!(why.contains("KC-0301"), "{why}");
    let count = more(10).await;
    primary.restore();
    let requests = ingest.await_requests(Lane::Decryption, count as usize).await;
    assert_eq!(ids(&requests), (1..=count).map(request_id).collect::<Vec<_>>());
    eventually("it is ready again", LIMIT, async || ingest.readiness().await.ok()).await;
    assert!(ingest.process.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_above_the_finality_is_ingested() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-finality");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: "start_block = 0\nfinality = \"depth:3\"",
        },
    );
    for id in 1..=6 {
        emit(&anvil, &decryption(id)).await;
    }
    ingest.start().await;
    let confirmed = head(&anvil).await - 3;
    eventually("the cursor reaches the depth", LIMIT, async || {
        (ingest.cursor().await?.block_number == confirmed).then_some(())
    })
    .await;
    assert_eq!(ids(&ingest.requests(Lane::Decryption).await), [1, 2, 3].map(request_id));
    anvil.rpc("anvil_mine", json!(["0x3"])).await.unwrap();
    let requests = ingest.await_requests(Lane::Decryption, 6).await;
    assert_eq!(ids(&requests), [1, 2, 3, 4, 5, 6].map(request_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_decode_becomes_a_dead_letter_and_the_rest_flows_on() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-dead");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: "start_block = 0",
        },
    );
    ingest.start().await;
    emit(&anvil, &decryption(1)).await;
    let mut broken = decryption(2);
    broken.data = broken.data.slice(..broken.data.len() - 7);
    emit(&anvil, &broken).await;
    let place = head(&anvil).await;
    // No request: the topic belongs to the other contract.
    emit(&anvil, &Event { contract: KMS_GENERATION, ..decryption(3) }).await;
    emit(&anvil, &decryption(4)).await;
    let requests = ingest.await_requests(Lane::Decryption, 2).await;
    assert_eq!(ids(&requests), [1, 4].map(request_id));
    let dead = ingest.dead_letters().await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!((dead[0].service.as_str(), dead[0].reason.as_str()), ("ingest", "KC-0305"));
    assert_eq!(dead[0].source.to_string(), format!("chain:gateway[0]@{place}"));
    let value: Value = serde_json::from_slice(dead[0].value.as_deref().unwrap()).unwrap();
    assert_eq!(value["data"], json!(broken.data));
    assert_eq!(value["topics"], json!(broken.topics));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_contradicts_the_cursor_stops_the_source_with_a_code() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-diverged");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: "start_block = 0\ndivergence_grace_ms = 200",
        },
    );
    ingest.start().await;
    let snapshot = anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    emit(&anvil, &decryption(1)).await;
    emit(&anvil, &decryption(2)).await;
    let before = ingest.await_requests(Lane::Decryption, 2).await;
    anvil.rpc("evm_revert", json!([snapshot])).await.unwrap();
    for id in 11..=14 {
        emit(&anvil, &decryption(id)).await;
    }
    let status = eventually("the process ends", LIMIT, async || ingest.process.process()?.exited()).await;
    assert_eq!(status.code(), Some(6), "{}", ingest.process.log());
    assert!(ingest.process.log().contains("KC-0320"), "{}", ingest.process.log());
    assert_eq!(ingest.requests(Lane::Decryption).await, before, "nothing of the other branch is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_source_that_stops_does_not_hold_up_the_other_ones_of_its_process() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let other = Anvil::start(&workspace, AnvilOptions { chain_id: 999, ..AnvilOptions::default() }).await.unwrap();
    other.rpc("anvil_setCode", json!([DECRYPTION, EMITTER])).await.unwrap();
    let prefix = prefix("ingest-two");
    let second = format!(
        r#"start_block = 0

[[source]]
id = "second"
chain_id = 999
rpc_urls = ["{}"]
generation = "a"
decryption = "{DECRYPTION}"
kms_generation = "{KMS_GENERATION}"
start_block = 0
poll_interval_ms = 20
divergence_grace_ms = 100
"#,
        other.url()
    );
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: &second,
        },
    );
    ingest.start().await;
    let snapshot = other.rpc("evm_snapshot", json!([])).await.unwrap();
    emit(&other, &decryption(1)).await;
    // Each source numbers its records for itself.
    let of_source = async |source: &str| {
        let topic = ingest.topics.requests(Lane::Decryption);
        let records = read_committed(&ingest.bootstrap, topic).await;
        let decoded = records.iter().map(|(_, value)| Codec::single_object().decode::<Request>(topic, value).unwrap());
        decoded
            .filter(|request| request.source == source)
            .map(|request| (request.seq, request.id.0))
            .collect::<Vec<_>>()
    };
    eventually("the second source is followed", LIMIT, async || of_source("second").await.pop()).await;
    other.rpc("evm_revert", json!([snapshot])).await.unwrap();
    emit(&other, &decryption(2)).await;
    emit(&other, &decryption(3)).await;
    let why = eventually("the second source stops", LIMIT, async || {
        ingest.readiness().await.err().filter(|why| why.contains("stopped"))
    })
    .await;
    assert!(why.contains("source.second.chain") && why.contains("KC-0320"), "{why}");

    emit(&anvil, &decryption(4)).await;
    eventually("the first source flows on", LIMIT, async || of_source("gateway").await.pop()).await;
    assert_eq!(of_source("gateway").await, [(0, request_id(4))]);
    assert_eq!(of_source("second").await, [(0, request_id(1))]);
    assert_eq!(ingest.process.stop(GRACE).await.and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_is_not_used() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let options = AnvilOptions { chain_id: 999, ..AnvilOptions::default() };
    let other = Anvil::start(&workspace, options).await.unwrap();
    let prefix = prefix("ingest-chain");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![other.url()],
            source: "start_block = 0",
        },
    );
    ingest.launch();
    let why = eventually("the wrong chain shows", LIMIT, async || {
        ingest.readiness().await.err().filter(|why| why.contains("KC-0302"))
    })
    .await;
    assert!(why.contains("the chain cannot be read"), "{why}");
    assert_eq!(ingest.cursor().await, None);
    let both = Ingest::new(
        &workspace,
        Settings {
            name: "both",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![other.url(), anvil.url()],
            source: "start_block = 0",
        },
    );
    ingest.process.kill().await;
    emit(&anvil, &decryption(1)).await;
    both.start().await;
    both.await_requests(Lane::Decryption, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_without_start_block_begins_at_the_head() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-head");
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: "",
        },
    );
    emit(&anvil, &decryption(1)).await;
    anvil.rpc("anvil_mine", json!(["0x5"])).await.unwrap();
    ingest.start().await;
    eventually("the first cursor", LIMIT, async || ingest.cursor().await).await;
    ingest.process.kill().await;
    emit(&anvil, &decryption(2)).await;
    ingest.start().await;
    assert_eq!(ids(&ingest.await_requests(Lane::Decryption, 1).await), [request_id(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_for_longer_than_a_transaction_is_waited_for() {
    let workspace = new_workspace();
    let own = Kafka::start(&workspace, KafkaOptions { heap_mib: 256, ..KafkaOptions::default() }).await.unwrap();
    let anvil = chain(&workspace, None).await;
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: own.bootstrap_servers(),
            prefix: "outage",
            rpc_urls: vec![anvil.url()],
            source: "start_block = 0",
        },
    );
    ingest.start().await;
    emit(&anvil, &decryption(1)).await;
    ingest.await_requests(Lane::Decryption, 1).await;
    // Suspended: connections stay open and nothing answers.
    own.brokers()[0].signal(Signal::SIGSTOP);
    for id in 2..=5 {
        emit(&anvil, &decryption(id)).await;
    }
    eventually("the outage shows", LIMIT, async || ingest.readiness().await.err()).await;
    own.brokers()[0].signal(Signal::SIGCONT);
    let requests = ingest.await_requests(Lane::Decryption, 5).await;
    assert_eq!(ids(&requests), [1, 2, 3, 4, 5].map(request_id));
    eventually("it is ready again", LIMIT, async || ingest.readiness().await.ok()).await;

    // Killed, and started again later.
    own.brokers()[0].kill().await;
    emit(&anvil, &decryption(6)).await;
    eventually("the outage shows", LIMIT, async || ingest.readiness().await.err()).await;
    own.brokers()[0].start().unwrap();
    own.wait_ready().await.unwrap();
    let requests = ingest.await_requests(Lane::Decryption, 6).await;
    assert_eq!(ids(&requests), [1, 2, 3, 4, 5, 6].map(request_id));
    assert!(ingest.process.is_running());
    ingest.process.stop(GRACE).await;
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_another_source_that_hangs_in_a_transaction_does_not_hide_the_cursor() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-hidden");
    let bootstrap = kafka().await.bootstrap_servers();
    let ingest = Ingest::new(
        &workspace,
        Settings { name: "ingest", bootstrap, prefix: &prefix, rpc_urls: vec![anvil.url()], source: "start_block = 0" },
    );
    ingest.start().await;
    emit(&anvil, &decryption(1)).await;
    ingest.await_requests(Lane::Decryption, 1).await;

    // The other source's transaction opens in the cursor topic, and behind it lies the newest cursor of this one.
    let (topic, id) = (ingest.topics.cursor().to_owned(), format!("{prefix}.ingest.other"));
    let hanging = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("transactional.id", id)
            .set("transaction.timeout.ms", "5000")
            .create()
            .unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(&topic).partition(0).key("other").payload("unfinished")).map_err(|e| e.0).unwrap();
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(10));
        }
        producer
    });
    let _hanging = hanging.await.unwrap();
    emit(&anvil, &decryption(2)).await;
    eventually("the second is committed", LIMIT, async || ingest.requests(Lane::Decryption).await.get(1).cloned())
        .await;
    ingest.process.kill().await;
    ingest.start().await;
    emit(&anvil, &decryption(3)).await;
    let requests = ingest.await_requests(Lane::Decryption, 3).await;
    assert_eq!(ids(&requests), [1, 2, 3].map(request_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_source_that_has_lost_its_cursor_does_not_write_everything_again() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-lost");
    let bootstrap = kafka().await.bootstrap_servers();
    let settings = |name, source| Settings { name, bootstrap, prefix: &prefix, rpc_urls: vec![anvil.url()], source };
    let ingest = Ingest::new(&workspace, settings("ingest", "start_block = 0"));
    ingest.start().await;
    emit(&anvil, &decryption(1)).await;
    ingest.await_requests(Lane::Decryption, 1).await;
    ingest.process.kill().await;
    let topic = ingest.topics.cursor().to_owned();
    let tombstone = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
        producer.send(BaseRecord::<str, ()>::to(&topic).partition(0).key("gateway")).map_err(|e| e.0).unwrap();
        producer.flush(LIMIT).unwrap();
    });
    tombstone.await.unwrap();
    ingest.launch();
    let status = eventually("it ends", LIMIT, async || ingest.process.process()?.exited()).await;
    assert_eq!(status.code(), Some(3), "{}", ingest.process.log());
    assert!(ingest.process.log().contains("KC-0326"), "{}", ingest.process.log());
    assert_eq!(ingest.requests(Lane::Decryption).await.len(), 1);
}

#[tokio::test]
async fn wrong_configuration_ends_with_code_2_and_every_mistake() {
    let workspace = new_workspace();
    let ingest = Ingest::new(
        &workspace,
        Settings {
            name: "ingest",
            bootstrap: "127.0.0.1:1",
            prefix: "bad prefix",
            rpc_urls: vec!["ftp://127.0.0.1".to_owned()],
            source: "finalty = \"safe\"",
        },
    );
    ingest.launch();
    let status = eventually("it ends", LIMIT, async || ingest.process.process()?.exited()).await;
    assert_eq!(status.code(), Some(2));
    let log = ingest.process.log();
    for mistake in ["kafka.topic_prefix", "source[0].rpc_urls[0]", "did you mean `finality`?", "ingest.toml:"] {
        assert!(log.contains(mistake), "{mistake} is not in {log}");
    }
}
