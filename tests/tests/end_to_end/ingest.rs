//! Ingest as a process, on real Kafka and a real chain.
//!
//! The contracts are replaced by code that reports a version and emits whatever log the calldata describes, so that a test decides
//! about every log; the events are those of the protocol's vectors.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alloy::primitives::{B256, Bytes, U256, keccak256};
use kms_schemas::codec::Codec;
use kms_schemas::identity::{Kind, Lane};
use kms_schemas::record::{Cursor, DeadLetter, Proof, Request};
use kms_schemas::topics::Topics;
use kms_stack::Workspace;
use kms_stack::parts::{Anvil, AnvilOptions, Kafka, KafkaOptions};
use kms_stack::supervise::{Launch, Signal, Supervised};
use kms_tests::{Proxy, eventually, get, kafka, mined, new_workspace, prefix};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(180);
const GRACE: Duration = Duration::from_secs(60);
const DECRYPTION: &str = "0x00000000000000000000000000000000000dec01";
const KMS_GENERATION: &str = "0x00000000000000000000000000000000000dec02";

const PROTOCOL_CONFIG: &str = "0x00000000000000000000000000000000000dec03";

/// Contracts of a Gateway of generation (a), with their versions.
const GATEWAY_A: &[(&str, &str)] = &[(DECRYPTION, "Decryption v0.3.0"), (KMS_GENERATION, "KMSGeneration v0.4.0")];

/// Code that answers `getVersion()`, the only call of four bytes, and for every other call emits a log of one to three topics:
/// calldata is their number, three words for them, and the data.
fn code(version: &str) -> String {
    // if calldatasize == 4 jump 0x32
    const IS_VERSION: &str = "36600414603257";
    // topics, length and place of the data; jump to `log1` or `log2` by the number of topics, else `log3`
    const EMIT: &str = "365f5f37606051604051602051608036036080\
                        5f51600114602c575f51600214602f57a3005ba1005ba200";
    // copy the answer, which follows the code, and return it
    const ANSWER: &str = "5b6060603d5f3960605ff3";
    let mut answer = vec![0_u8; 96];
    answer[31] = 0x20;
    answer[63] = u8::try_from(version.len()).unwrap();
    answer[64..64 + version.len()].copy_from_slice(version.as_bytes());
    let answer = Bytes::from(answer).to_string();
    format!("0x{IS_VERSION}{EMIT}{ANSWER}{}", answer.trim_start_matches("0x"))
}

const VECTORS: &str = include_str!("../../../chain/vectors/events.json");

/// An event as the vectors have it.
struct Event {
    name: String,
    contract: &'static str,
    topics: Vec<B256>,
    data: Bytes,
}

/// The first example of every event of generation (a).
fn events() -> Vec<Event> {
    events_of("a")
}

/// The first example of every event of a generation; of (b) with the older twins of its decryption events.
fn events_of(generation: &str) -> Vec<Event> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let of_it = vectors["events"].as_array().unwrap().iter().filter(|event| event["generation"] == generation);
    of_it
        .map(|event| {
            let log = &event["examples"][0]["log"];
            let variant = event["variant"].as_str().map(|variant| format!(" {variant}"));
            Event {
                name: format!("{}{}", event["name"].as_str().unwrap(), variant.unwrap_or_default()),
                contract: match event["contract"].as_str().unwrap() {
                    "Decryption" => DECRYPTION,
                    "KMSGeneration" => KMS_GENERATION,
                    _ => PROTOCOL_CONFIG,
                },
                topics: serde_json::from_value(log["topics"].clone()).unwrap(),
                data: serde_json::from_value(log["data"].clone()).unwrap(),
            }
        })
        .collect()
}

/// A public decryption with this id.
fn decryption(id: u64) -> Event {
    let mut event = events().remove(0);
    assert_eq!(event.name, "PublicDecryptionRequest sns_materials");
    event.topics[1] = request_id(id);
    event
}

fn request_id(id: u64) -> B256 {
    B256::from((U256::from(1) << 248) | U256::from(id))
}

/// A Gateway of generation (a) whose contracts emit what they are told.
async fn chain(workspace: &Workspace, block_time: Option<Duration>) -> Anvil {
    chain_with(workspace, AnvilOptions { block_time, ..AnvilOptions::default() }, GATEWAY_A).await
}

/// A chain with contracts of these versions, which emit what they are told.
async fn chain_with(workspace: &Workspace, options: AnvilOptions, contracts: &[(&str, &str)]) -> Anvil {
    let anvil = Anvil::start(workspace, options).await.unwrap();
    for (contract, version) in contracts {
        anvil.rpc("anvil_setCode", json!([contract, code(version)])).await.unwrap();
    }
    anvil
}

/// Where every transaction is a block of its own, that block is there afterwards.
async fn emit(anvil: &Anvil, event: &Event) {
    let word = |index: usize| event.topics.get(index).copied().unwrap_or_default();
    let count = B256::from(U256::from(event.topics.len()));
    let data = [count.as_slice(), word(0).as_slice(), word(1).as_slice(), word(2).as_slice(), &event.data].concat();
    let accounts = anvil.rpc("eth_accounts", json!([])).await.unwrap();
    let transaction =
        json!({ "from": accounts[0], "to": event.contract, "data": Bytes::from(data), "gas": "0x4c4b40" });
    if anvil.rpc("anvil_getAutomine", json!([])).await.unwrap() == json!(true) {
        mined(anvil, transaction).await;
    } else {
        anvil.rpc("eth_sendTransaction", json!([transaction])).await.unwrap();
    }
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
        let source = format!(
            r#"
[[source]]
id = "gateway"
chain_id = 31337
rpc_urls = {rpc_urls:?}
decryption = "{DECRYPTION}"
kms_generation = "{KMS_GENERATION}"
poll_interval_ms = 20
cursor_interval_ms = 100
{source}
"#
        );
        Self::of_sources(workspace, name, bootstrap, prefix, &source)
    }

    /// With these sources, as the configuration file has them.
    fn of_sources(workspace: &Workspace, name: &str, bootstrap: &str, prefix: &str, sources: &str) -> Self {
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
{sources}
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
        let begun = Instant::now();
        loop {
            let found = self.requests(lane).await;
            if found.len() >= count {
                return found;
            }
            let log = self.process.log();
            assert!(begun.elapsed() < LIMIT, "{} of {count} requests in {lane}\n{log}", found.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
    // The seven kinds of generation (a) are the first ones.
    assert_eq!(found.iter().map(|request| request.kind).collect::<Vec<_>>(), Kind::ALL[..7]);
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
    eventually("one endpoint is enough", LIMIT, async || ingest.readiness().await.ok()).await;

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
async fn p5_a_source_that_stops_does_not_hold_up_the_other_ones_of_its_process_which_ends_with_the_last() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let other = chain_with(&workspace, AnvilOptions { chain_id: 999, ..AnvilOptions::default() }, GATEWAY_A).await;
    let prefix = prefix("ingest-two");
    let second = format!(
        r#"start_block = 0

[[source]]
id = "second"
chain_id = 999
rpc_urls = ["{}"]
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
    let stopped = r#"kms_connector_ingest_source_stopped{source="second",code="KC-0320"} 1"#;
    let metrics = ingest.metrics().await;
    assert!(metrics.contains(stopped), "{metrics}");
    let why = ingest.readiness().await.expect_err("one of the two has stopped");
    assert!(why.contains("stopped") && why.contains("KC-0320"), "it stays so: {why}");
    // Asked to end, it ends as ever.
    assert_eq!(ingest.process.stop(GRACE).await.and_then(|status| status.code()), Some(0));

    // When the last source has stopped too, the process ends with what has stopped the first.
    let snapshot = anvil.rpc("evm_snapshot", json!([])).await.unwrap();
    emit(&anvil, &decryption(5)).await;
    ingest.launch();
    eventually("the second source stops again", LIMIT, async || {
        ingest.readiness().await.err().filter(|why| why.contains("stopped"))
    })
    .await;
    eventually("the first source flows on", LIMIT, async || of_source("gateway").await.get(1).copied()).await;
    anvil.rpc("evm_revert", json!([snapshot])).await.unwrap();
    for id in 6..=9 {
        emit(&anvil, &decryption(id)).await;
    }
    let status = eventually("the process ends", LIMIT, async || ingest.process.process()?.exited()).await;
    assert_eq!(status.code(), Some(6), "{}", ingest.process.log());
}

const GATEWAY_B: &[(&str, &str)] = &[(DECRYPTION, "Decryption v0.7.0")];
const ETHEREUM: &[(&str, &str)] =
    &[(KMS_GENERATION, "KMSGeneration v0.2.0"), (PROTOCOL_CONFIG, "ProtocolConfig v0.2.0")];

/// The two sources of later releases.
fn two_sources(gateway: &Anvil, ethereum: &Anvil) -> String {
    format!(
        r#"
[[source]]
id = "gateway"
chain_id = 31337
rpc_urls = ["{}"]
decryption = "{DECRYPTION}"
start_block = 0
poll_interval_ms = 20
cursor_interval_ms = 100

[[source]]
id = "ethereum"
chain_id = 12345
rpc_urls = ["{}"]
kms_generation = "{KMS_GENERATION}"
protocol_config = "{PROTOCOL_CONFIG}"
start_block = 0
poll_interval_ms = 20
cursor_interval_ms = 100
"#,
        gateway.url(),
        ethereum.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p2_one_process_follows_both_chains_of_v0_15_and_each_request_once() {
    let workspace = new_workspace();
    let gateway = chain_with(&workspace, AnvilOptions::default(), GATEWAY_B).await;
    let on_ethereum = AnvilOptions { chain_id: 12_345, ..AnvilOptions::default() };
    let ethereum = chain_with(&workspace, on_ethereum, ETHEREUM).await;
    let prefix = prefix("ingest-chains");
    let bootstrap = kafka().await.bootstrap_servers();
    let ingest = Ingest::of_sources(&workspace, "ingest", bootstrap, &prefix, &two_sources(&gateway, &ethereum));
    // Every event that the contracts write, with the older twin of each decryption event before it, as they do it.
    let events = events_of("b");
    let (decryptions, key_management): (Vec<&Event>, Vec<&Event>) =
        events.iter().partition(|event| event.contract == DECRYPTION);
    for event in decryptions.iter().filter(|event| event.name.contains("sns_materials")) {
        emit(&gateway, event).await;
    }
    let handles: Vec<&&Event> = decryptions.iter().filter(|event| event.name.contains("handles")).collect();
    for event in &handles {
        emit(&gateway, event).await;
    }
    for event in &key_management {
        emit(&ethereum, event).await;
    }
    // What is final on Ethereum is two blocks behind its head.
    ethereum.rpc("anvil_mine", json!(["0x2"])).await.unwrap();
    ingest.start().await;

    let found = ingest.await_requests(Lane::Decryption, handles.len()).await;
    assert_eq!(found.len(), 3, "one request for the two events of each");
    for (request, event) in found.iter().zip(&handles) {
        assert_eq!((request.source.as_str(), request.chain_id), ("gateway", 31_337));
        assert_eq!((&request.log.topics, &request.log.data), (&event.topics, &event.data), "{}", event.name);
    }
    let found = ingest.await_requests(Lane::KeyManagement, key_management.len()).await;
    assert_eq!(found.len(), 9);
    for (request, event) in found.iter().zip(&key_management) {
        assert_eq!((request.source.as_str(), request.chain_id), ("ethereum", 12_345));
        assert_eq!((&request.log.topics, &request.log.data), (&event.topics, &event.data), "{}", event.name);
    }
    let kinds: Vec<&str> = found.iter().map(|request| request.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "prep_keygen",
            "keygen",
            "crsgen",
            "abort_keygen",
            "abort_crsgen",
            "new_kms_context",
            "new_kms_epoch",
            "kms_context_destroyed",
            "kms_epoch_destroyed",
        ]
    );
    assert_eq!(ingest.dead_letters().await, Vec::new());
    assert_eq!(ingest.process.stop(GRACE).await.and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_key_management_is_followed_to_the_finalized_block_so_that_what_is_reorganised_away_before_never_was() {
    let workspace = new_workspace();
    let gateway = chain_with(&workspace, AnvilOptions::default(), GATEWAY_B).await;
    let on_ethereum = AnvilOptions { chain_id: 12_345, ..AnvilOptions::default() };
    let ethereum = chain_with(&workspace, on_ethereum, ETHEREUM).await;
    let prefix = prefix("ingest-final");
    let bootstrap = kafka().await.bootstrap_servers();
    let ingest = Ingest::of_sources(&workspace, "ingest", bootstrap, &prefix, &two_sources(&gateway, &ethereum));
    ingest.start().await;
    let destroyed = |context: u64| {
        let events = events_of("b");
        let mut event = events.into_iter().find(|event| event.name == "KmsContextDestroyed").unwrap();
        event.topics[1] = B256::from((U256::from(7) << 248) | U256::from(context));
        event
    };
    let contexts = async || {
        let requests = ingest.requests(Lane::KeyManagement).await;
        requests.iter().map(|request| request.id.0[31]).collect::<Vec<u8>>()
    };
    emit(&ethereum, &destroyed(1)).await;
    emit(&ethereum, &destroyed(2)).await;
    let snapshot = ethereum.rpc("evm_snapshot", json!([])).await.unwrap();
    emit(&ethereum, &destroyed(3)).await;
    // Two blocks lie above the first one: it is final, and nothing else is.
    ingest.await_requests(Lane::KeyManagement, 1).await;
    assert_eq!(contexts().await, [1]);
    ethereum.rpc("evm_revert", json!([snapshot])).await.unwrap();
    emit(&ethereum, &destroyed(4)).await;
    emit(&ethereum, &destroyed(5)).await;
    emit(&ethereum, &destroyed(6)).await;
    ingest.await_requests(Lane::KeyManagement, 3).await;
    assert_eq!(contexts().await, [1, 2, 4], "the third was reorganised away, the last two are not final yet");
    assert!(ingest.readiness().await.is_ok(), "a reorganisation above the finalized block contradicts nothing");
    ingest.process.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p2_an_upgrade_of_the_contracts_inside_a_backlog_loses_no_request_and_repeats_none() {
    let workspace = new_workspace();
    let options = AnvilOptions::default();
    let anvil = chain_with(&workspace, options, &[(DECRYPTION, "Decryption v0.6.0")]).await;
    let prefix = prefix("ingest-upgrade");
    let bootstrap = kafka().await.bootstrap_servers();
    let source = format!(
        r#"
[[source]]
id = "gateway"
chain_id = 31337
rpc_urls = ["{}"]
decryption = "{DECRYPTION}"
start_block = 0
poll_interval_ms = 20
cursor_interval_ms = 100
"#,
        anvil.url()
    );
    let ingest = Ingest::of_sources(&workspace, "ingest", bootstrap, &prefix, &source);
    let told = |variant: &str, id: u64| {
        let name = format!("PublicDecryptionRequest {variant}");
        let mut event = events_of("b").into_iter().find(|event| event.name == name).unwrap();
        event.topics[1] = request_id(id);
        event
    };
    // What a proxy says when it gets other code, in the transaction in which it gets it.
    let upgrade = async |version: &str| {
        anvil.rpc("anvil_setCode", json!([DECRYPTION, code(version)])).await.unwrap();
        let topics = vec![keccak256("Upgraded(address)"), B256::with_last_byte(1)];
        let event = Event { name: String::new(), contract: DECRYPTION, topics, data: Bytes::new() };
        emit(&anvil, &event).await;
    };
    upgrade("Decryption v0.6.0").await;
    emit(&anvil, &told("sns_materials", 1)).await;
    upgrade("Decryption v0.7.0").await;
    for variant in ["sns_materials", "handles"] {
        emit(&anvil, &told(variant, 2)).await;
    }
    ingest.start().await;
    let found = ingest.await_requests(Lane::Decryption, 2).await;
    assert_eq!(ids(&found), [1, 2].map(request_id));
    let topics = [told("sns_materials", 1).topics[0], told("handles", 2).topics[0]];
    assert_eq!(found.iter().map(|request| request.log.topics[0]).collect::<Vec<_>>(), topics);

    // Also after a start between the two, and at the head.
    ingest.process.kill().await;
    for variant in ["sns_materials", "handles"] {
        emit(&anvil, &told(variant, 3)).await;
    }
    ingest.start().await;
    assert_eq!(ids(&ingest.await_requests(Lane::Decryption, 3).await), [1, 2, 3].map(request_id));

    // A release that is not served stops the source where it begins.
    upgrade("Decryption v0.8.0").await;
    emit(&anvil, &told("handles", 4)).await;
    let status = eventually("the process ends", LIMIT, async || ingest.process.process()?.exited()).await;
    assert_eq!(status.code(), Some(3), "{}", ingest.process.log());
    assert!(ingest.process.log().contains("KC-0307"), "{}", ingest.process.log());
    assert_eq!(ingest.requests(Lane::Decryption).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_refused_at_start_with_a_code_and_what_is_served() {
    let workspace = new_workspace();
    let prefix = prefix("ingest-refused");
    let bootstrap = kafka().await.bootstrap_servers();
    // Versions of both contracts, the configured release, and what the message must say.
    let cases = [
        (["Decryption v0.8.0", "KMSGeneration v0.4.0"], "auto", ["KC-0307", "Decryption v0.3.0, Decryption v0.4.0"]),
        (["Decryption v0.7.0", "KMSGeneration v0.5.0"], "auto", ["KC-0307", "Ethereum host chain"]),
        (["Decryption v0.7.0", "KMSGeneration v0.4.0"], "auto", ["KC-0310", "of different releases"]),
        (["Decryption v0.3.0", "KMSGeneration v0.4.0"], "v0.15", ["KC-0310", "the configuration says release v0.15"]),
    ];
    for (index, ([decryption, generation], release, told)) in cases.into_iter().enumerate() {
        let contracts = [(DECRYPTION, decryption), (KMS_GENERATION, generation)];
        let anvil = chain_with(&workspace, AnvilOptions::default(), &contracts).await;
        emit(&anvil, &self::decryption(1)).await;
        let source = format!("start_block = 0\nrelease = \"{release}\"");
        let settings = Settings {
            name: &format!("ingest-{index}"),
            bootstrap,
            prefix: &prefix,
            rpc_urls: vec![anvil.url()],
            source: &source,
        };
        let ingest = Ingest::new(&workspace, settings);
        ingest.launch();
        let status = eventually("the process ends", LIMIT, async || ingest.process.process()?.exited()).await;
        let log = ingest.process.log();
        assert_eq!(status.code(), Some(3), "{log}");
        assert!(told.iter().all(|text| log.contains(text)), "{told:?} in {log}");
        assert_eq!(ingest.cursor().await, None);
        assert!(ingest.requests(Lane::Decryption).await.is_empty(), "nothing is written");
    }
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
    let status = eventually("the process ends", LIMIT, async || ingest.process.process()?.exited()).await;
    let log = ingest.process.log();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("KC-0302") && log.contains("one has 999"), "{log}");
    assert_eq!(ingest.cursor().await, None);
    // While an endpoint is silent, it may be the one that is meant.
    let silent = Ingest::new(
        &workspace,
        Settings {
            name: "silent",
            bootstrap: kafka().await.bootstrap_servers(),
            prefix: &prefix,
            rpc_urls: vec!["http://127.0.0.1:1".to_owned(), other.url()],
            source: "start_block = 0",
        },
    );
    silent.launch();
    let why = eventually("the wrong chain shows", LIMIT, async || {
        silent.readiness().await.err().filter(|why| why.contains("KC-0302"))
    })
    .await;
    assert!(why.contains("source.gateway.chain"), "{why}");
    silent.process.kill().await;
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

/// Writes a cursor of the source `gateway` as anybody could who can write to the topic.
async fn forge(ingest: &Ingest, cursor: &Cursor) {
    let (bootstrap, topic) = (ingest.bootstrap.clone(), ingest.topics.cursor().to_owned());
    let value = Codec::single_object().encode(&topic, cursor).unwrap();
    let write = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
        let record = BaseRecord::to(&topic).partition(0).key("gateway").payload(&value);
        producer.send(record).map_err(|error| error.0).unwrap();
        producer.flush(LIMIT).unwrap();
    });
    write.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p2_a_forged_cursor_at_the_head_skips_no_request_and_one_far_back_doubles_none() {
    let workspace = new_workspace();
    let anvil = chain(&workspace, None).await;
    let prefix = prefix("ingest-forged");
    let bootstrap = kafka().await.bootstrap_servers();
    let source = "start_block = 0\nmax_range_blocks = 3\nverify_cursor_blocks = 20";
    let ingest = Ingest::new(
        &workspace,
        Settings { name: "ingest", bootstrap, prefix: &prefix, rpc_urls: vec![anvil.url()], source },
    );
    ingest.start().await;
    emit(&anvil, &decryption(1)).await;
    // A log that became a dead letter is missing in the requests topics, and is not skipped.
    let mut broken = decryption(9);
    broken.data = broken.data.slice(..broken.data.len() - 7);
    emit(&anvil, &broken).await;
    eventually("the broken log is a dead letter", LIMIT, async || ingest.dead_letters().await.pop()).await;
    ingest.await_requests(Lane::Decryption, 1).await;
    ingest.process.stop(GRACE).await;
    ingest.start().await;
    ingest.process.stop(GRACE).await;
    let genuine = ingest.cursor().await.unwrap();
    assert!(genuine.block_number >= head(&anvil).await, "{genuine:?}");
    assert!(!ingest.process.log().contains("KC-0327"), "a genuine cursor stands: {}", ingest.process.log());

    // More blocks than are looked at, with a request on either side of that limit.
    emit(&anvil, &decryption(2)).await;
    anvil.rpc("anvil_mine", json!(["0x1e"])).await.unwrap();
    emit(&anvil, &decryption(3)).await;
    let block = anvil.rpc("eth_getBlockByNumber", json!(["latest", false])).await.unwrap();
    let block_hash = serde_json::from_value(block["hash"].clone()).unwrap();
    let block_number: U256 = serde_json::from_value(block["number"].clone()).unwrap();
    forge(&ingest, &Cursor { block_number: block_number.to(), block_hash, ..genuine.clone() }).await;
    ingest.start().await;
    let requests = ingest.await_requests(Lane::Decryption, 3).await;
    assert_eq!(ids(&requests), [1, 2, 3].map(request_id));
    assert!(ingest.process.log().contains("KC-0327"), "{}", ingest.process.log());
    ingest.process.stop(GRACE).await;

    // With the newest numbering, at the block before the first request.
    let newest = ingest.cursor().await.unwrap();
    let block = anvil.rpc("eth_getBlockByNumber", json!(["0x0", false])).await.unwrap();
    let block_hash = serde_json::from_value(block["hash"].clone()).unwrap();
    forge(&ingest, &Cursor { block_number: 0, block_hash, ..newest }).await;
    ingest.start().await;
    emit(&anvil, &decryption(4)).await;
    let requests = ingest.await_requests(Lane::Decryption, 4).await;
    assert_eq!(ids(&requests), [1, 2, 3, 4].map(request_id));
    assert_eq!(ingest.process.log().matches("the cursor is not believed").count(), 2, "{}", ingest.process.log());
    ingest.process.stop(GRACE).await;

    // With a numbering that no record in the topics ends with.
    let mut invented = ingest.cursor().await.unwrap();
    invented.sequences.iter_mut().for_each(|sequence| sequence.next += 7);
    forge(&ingest, &invented).await;
    ingest.launch();
    let status = eventually("it ends", LIMIT, async || ingest.process.process()?.exited()).await;
    assert_eq!(status.code(), Some(3), "{}", ingest.process.log());
    assert!(ingest.process.log().contains("KC-0328"), "{}", ingest.process.log());
    assert_eq!(ingest.requests(Lane::Decryption).await.len(), 4);
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
