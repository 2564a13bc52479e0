//! A stack whose requests are made one by one, so that a test can prepare what each of them meets.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::signers::local::PrivateKeySigner;
use kms_runtime::kafka::{KafkaConfig, OutgoingRecord, TransactionalProducer};
use kms_schemas::codec::{Codec, Record};
use kms_schemas::identity::{Coordinates, Kind, Lane, RequestId};
use kms_schemas::record::{DeadLetter, DeferredRequest, ResultRecord, Submission};
use kms_schemas::topics::Topics;
use kms_stack::contracts::{Made, Material, NewRequest, Pace, Requester, UserRequest, handle};
use kms_stack::parts::Kafka;
use kms_stack::simulator::{CallsByRpc, ControlClient, Fault};
use kms_stack::{Service, ServiceKind, Stack, StackBuilder, StackError, Workspace};
use kms_tests::{eventually, get, kafka, new_workspace, prefix};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::metadata::MetadataPartition;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How long anything is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);
/// The FHE type of every handle.
const EUINT64: u8 = 5;
/// The public key of a user, as user clients encode it.
const USER_PUBLIC_KEY: &str = include_str!("../../../../compose/src/job/user_public_key.hex");

/// A ciphertext that the contracts know, and the object that belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Ciphertext {
    pub(crate) handle: B256,
    pub(crate) digest: B256,
    pub(crate) body: Vec<u8>,
    /// What the contracts know of it.
    pub(crate) material: Material,
}

impl Ciphertext {
    /// The object's name in a bucket.
    pub(crate) fn key(&self) -> String {
        hex::encode(self.digest)
    }
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) at: Coordinates,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
}

pub(crate) struct Bench {
    pub(crate) stack: Stack,
    pub(crate) requester: Requester,
    pub(crate) topics: Topics,
    pub(crate) core: ControlClient,
    pub(crate) user: PrivateKeySigner,
    kafka: KafkaConfig,
    pub(crate) app: Address,
    pub(crate) delegator: Address,
    spare: Mutex<Vec<Ciphertext>>,
    writer: Mutex<Option<TransactionalProducer>>,
    // Dropped last.
    _workspace: Workspace,
}

impl Bench {
    /// A stack in which only ingest runs, with some ciphertexts to ask for.
    pub(crate) async fn start(name: &str, adjust: impl FnOnce(StackBuilder) -> StackBuilder) -> Self {
        Self::start_on(kafka().await, name, adjust).await
    }

    /// The same on a cluster of the test's own.
    pub(crate) async fn start_on(kafka: &Kafka, name: &str, adjust: impl FnOnce(StackBuilder) -> StackBuilder) -> Self {
        let workspace = new_workspace();
        let bootstrap = kafka.bootstrap_servers().to_owned();
        let builder = Stack::builder()
            .block_time(None)
            .kafka(&bootstrap)
            .prefix(prefix(name))
            .services(&[ServiceKind::Ingest])
            .set(ServiceKind::Processor, "kms_core.await_pause_ms=20")
            .set(ServiceKind::Emitter, "destination.0.poll_interval_ms=20");
        let stack = adjust(builder).start(&workspace).await.unwrap_or_else(|error| panic!("{error}"));
        let topics = Topics::new(stack.node().prefix());
        let kafka = KafkaConfig {
            bootstrap_servers: bootstrap,
            topic_prefix: topics.prefix().to_owned(),
            ..KafkaConfig::default()
        };
        let bench = Self {
            requester: stack.requester().await.unwrap(),
            core: ControlClient::new(stack.node().core().control()),
            user: kms_stack::keys::development_key("user"),
            app: Address::repeat_byte(0xa9),
            delegator: Address::repeat_byte(0xde),
            topics,
            kafka,
            stack,
            spare: Mutex::default(),
            writer: Mutex::default(),
            _workspace: workspace,
        };
        let bodies = (0..30_u64).map(|number| keccak256(number.to_be_bytes()).repeat(32)).collect();
        let ciphertexts = bench.register(bodies).await;
        for ciphertext in &ciphertexts {
            bench.upload(ciphertext).await;
        }
        *bench.spare.lock().unwrap() = ciphertexts;
        bench
    }

    /// Makes ciphertexts with these bodies known to the contracts, and allows everybody everything. No bucket holds them yet.
    pub(crate) async fn register(&self, bodies: Vec<Vec<u8>>) -> Vec<Ciphertext> {
        let ciphertexts = self.register_on(self.stack.contracts().host_chain_id, bodies).await;
        let handles: Vec<B256> = ciphertexts.iter().map(|ciphertext| ciphertext.handle).collect();
        let accounts = [self.app, self.user.address(), self.delegator];
        let rights: Vec<(B256, Address)> =
            handles.iter().flat_map(|handle| accounts.map(|account| (*handle, account))).collect();
        self.requester.allow_public(&handles).await.unwrap();
        self.requester.allow_accounts(&rights).await.unwrap();
        ciphertexts
    }

    /// Makes ciphertexts of a host chain with these bodies known to the contracts, and allows nobody anything.
    pub(crate) async fn register_on(&self, host: u64, bodies: Vec<Vec<u8>>) -> Vec<Ciphertext> {
        let ciphertexts: Vec<Ciphertext> = bodies
            .into_iter()
            .map(|body| {
                let digest = keccak256(&body);
                let handle = handle(keccak256(digest), host, EUINT64);
                let material = Material {
                    handle,
                    key_id: RequestId(B256::with_last_byte(4)),
                    ciphertext_digest: keccak256(handle),
                    sns_ciphertext_digest: digest,
                };
                Ciphertext { handle, digest, body, material }
            })
            .collect();
        let materials: Vec<Material> = ciphertexts.iter().map(|ciphertext| ciphertext.material).collect();
        self.requester.register(&materials).await.unwrap();
        ciphertexts
    }

    /// Puts an object into every bucket.
    pub(crate) async fn upload(&self, ciphertext: &Ciphertext) {
        for coprocessor in 0..self.stack.buckets().len() {
            let body = ciphertext.body.clone();
            self.stack.put_ciphertext(coprocessor, &ciphertext.material, body).await.unwrap();
        }
    }

    /// A ciphertext that nobody asked for yet.
    pub(crate) fn ciphertext(&self) -> Ciphertext {
        self.spare.lock().unwrap().pop().expect("enough ciphertexts for one test")
    }

    pub(crate) fn user_request(&self) -> UserRequest {
        UserRequest {
            pairs: vec![(self.ciphertext().handle, self.app)],
            contracts: vec![self.app],
            // The chain's clock may lag behind this machine's.
            start: seconds_since_1970() - 60,
            days: 30,
            public_key: hex::decode(USER_PUBLIC_KEY.trim()).unwrap().into(),
            extra_data: Bytes::new(),
        }
    }

    pub(crate) fn new_user(&self) -> NewRequest {
        NewRequest::UserDecryption { user: self.user.clone(), request: self.user_request() }
    }

    pub(crate) async fn new_delegated(&self) -> NewRequest {
        let expires = seconds_since_1970() + 24 * 3600;
        self.requester.delegate(self.delegator, self.user.address(), &[self.app], expires).await.unwrap();
        NewRequest::DelegatedUserDecryption {
            delegator: self.delegator,
            delegate: self.user.clone(),
            request: self.user_request(),
        }
    }

    /// Asks for the public decryption of a ciphertext of its own.
    pub(crate) async fn public(&self) -> Made {
        self.publics(1).await[0]
    }

    pub(crate) async fn publics(&self, count: usize) -> Vec<Made> {
        let requests = (0..count).map(|_| public_of(&[self.ciphertext()])).collect::<Vec<_>>();
        let sent = self.requester.submit(&requests, Pace::AtOnce).await.unwrap();
        self.requester.made(&sent, LIMIT).await.unwrap()
    }

    /// Asks for the public decryption of these.
    pub(crate) async fn public_of(&self, ciphertexts: &[Ciphertext]) -> Made {
        self.make(&public_of(ciphertexts)).await
    }

    pub(crate) async fn make(&self, request: &NewRequest) -> Made {
        self.requester.make(request).await.unwrap()
    }

    pub(crate) fn processor(&self) -> &Service {
        self.stack.node().processor()
    }

    // --- What became of requests ------------------------------------------------------------------------------------

    /// Every result, by the request's place; there must never be two of one.
    pub(crate) async fn results(&self) -> BTreeMap<Coordinates, ResultRecord> {
        let mut by_request = BTreeMap::new();
        for lane in Lane::ALL {
            for (_, result) in self.read_readable::<ResultRecord>(self.topics.results(lane)).await {
                let again = by_request.insert(result.source.clone(), result);
                assert!(again.is_none(), "two results of {again:?}");
            }
        }
        by_request
    }

    /// Every dead letter; there must never be two of one record.
    pub(crate) async fn dead_letters(&self) -> Vec<DeadLetter> {
        let letters: Vec<DeadLetter> =
            self.read(self.topics.dead_letters()).await.into_iter().map(|(_, letter)| letter).collect();
        for (index, letter) in letters.iter().enumerate() {
            let again = letters[..index].iter().find(|other| other.source == letter.source);
            assert!(again.is_none(), "two dead letters of {letter:?}");
        }
        letters
    }

    pub(crate) async fn deferred(&self) -> Vec<DeferredRequest> {
        let records = self.read(self.topics.deferred(Lane::Decryption)).await;
        records.into_iter().map(|(_, deferred)| deferred).collect()
    }

    pub(crate) async fn submissions(&self) -> Vec<Submission> {
        self.read(self.topics.submissions()).await.into_iter().map(|(_, submission)| submission).collect()
    }

    /// Waits until every request has its one outcome, and gives them in the order of the requests.
    pub(crate) async fn outcomes(&self, made: &[Made]) -> Vec<Outcome> {
        let begun = Instant::now();
        loop {
            let results = self.results().await;
            let letters = self.dead_letters().await;
            let found: Vec<Option<Outcome>> = made.iter().map(|made| outcome(made, &results, &letters)).collect();
            let missing: Vec<&Made> =
                made.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(made, _)| made).collect();
            if missing.is_empty() {
                return found.into_iter().flatten().collect();
            }
            assert!(begun.elapsed() < LIMIT, "no outcome of {missing:?}; dead letters {letters:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every request is answered.
    pub(crate) async fn answers(&self, made: &[Made]) -> Vec<ResultRecord> {
        let outcomes = self.outcomes(made).await;
        outcomes.into_iter().map(Outcome::into_answer).collect()
    }

    /// Waits until the request is a dead letter.
    pub(crate) async fn dead_letter(&self, made: &Made) -> DeadLetter {
        match self.outcomes(std::slice::from_ref(made)).await.remove(0) {
            Outcome::Dead(letter) => *letter,
            Outcome::Answered(result) => panic!("answered: {result:?}"),
        }
    }

    /// Waits until `/readyz` says no for a reason with all these words.
    pub(crate) async fn await_not_ready(&self, service: &Service, words: &[&str]) -> String {
        let url = format!("http://{}/readyz", service.listen());
        eventually(&format!("{} is not ready for {words:?}", service.kind()), LIMIT, async || {
            let response = get(&url).await.ok()?;
            let ready = response.status().is_success();
            let text = response.text().await.ok()?;
            (!ready && words.iter().all(|word| text.contains(word))).then_some(text)
        })
        .await
    }

    /// What every service says, for a test that fails.
    pub(crate) fn logs(&self) -> String {
        let services = self.stack.node().services().iter();
        services.map(|service| format!("== {}\n{}\n", service.kind(), service.process().log())).collect()
    }

    // --- KMS Core ---------------------------------------------------------------------------------------------------

    /// Injects a failure for one request.
    pub(crate) async fn meet(&self, made: &Made, fault: Fault) {
        self.core.inject(&Fault { id: Some(made.id.to_core_hex()), ..fault }).await.unwrap();
    }

    pub(crate) async fn calls(&self, made: &Made) -> CallsByRpc {
        self.core.calls_of(&made.id.to_core_hex()).await.unwrap()
    }

    /// How often the request's start arrived at KMS Core.
    pub(crate) async fn starts(&self, made: &Made) -> u64 {
        self.calls(made).await.get(start_rpc(made.kind)).map_or(0, |calls| calls.calls)
    }

    // --- Kafka ------------------------------------------------------------------------------------------------------

    /// Writes records in one transaction, and tells where they lie.
    pub(crate) async fn write(&self, records: Vec<OutgoingRecord>) -> Vec<Coordinates> {
        tokio::task::block_in_place(|| {
            let mut writer = self.writer.lock().unwrap();
            let writer = writer.get_or_insert_with(|| {
                let id = format!("{}.test.writer", self.topics.prefix());
                let writer = TransactionalProducer::new(&self.kafka, "test", &id, 4 << 20).unwrap();
                writer.init(|| true).unwrap();
                writer
            });
            let written = writer.write(&records, Instant::now() + LIMIT).unwrap();
            let place = |(record, (partition, offset)): (OutgoingRecord, _)| Coordinates {
                topic: record.topic,
                partition,
                offset,
            };
            records.into_iter().zip(written).map(place).collect()
        })
    }

    /// Every committed record of a topic, decoded.
    pub(crate) async fn read<R: Record>(&self, topic: &str) -> Vec<(Coordinates, R)> {
        let codec = Codec::single_object();
        let records = self.read_raw(topic).await;
        records
            .into_iter()
            .map(|record| (record.at, codec.decode(topic, &record.value.unwrap_or_default()).unwrap()))
            .collect()
    }

    /// The same, without what somebody else wrote there.
    pub(crate) async fn read_readable<R: Record>(&self, topic: &str) -> Vec<(Coordinates, R)> {
        let codec = Codec::single_object();
        let decoded = |record: Stored| Some((record.at, codec.decode(topic, record.value.as_deref()?).ok()?));
        self.read_raw(topic).await.into_iter().filter_map(decoded).collect()
    }

    /// Every committed record of a topic.
    pub(crate) async fn read_raw(&self, topic: &str) -> Vec<Stored> {
        let (kafka, topic) = (self.kafka.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || read_committed(&kafka, &topic)).await.unwrap()
    }

    /// The committed offset of a group in every partition of a topic, where there is one.
    pub(crate) async fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let (kafka, group, topic) = (self.kafka.clone(), group.to_owned(), topic.to_owned());
        let read = move || {
            let consumer: BaseConsumer = kafka.consumer("test", &group).create().unwrap();
            let mut list = TopicPartitionList::new();
            let metadata = consumer.fetch_metadata(Some(&topic), LIMIT).unwrap();
            for partition in metadata.topics()[0].partitions() {
                list.add_partition(&topic, partition.id());
            }
            let committed = consumer.committed_offsets(list, LIMIT).unwrap();
            let offsets = committed.elements().into_iter().filter_map(|one| match one.offset() {
                Offset::Offset(offset) => Some((one.partition(), offset)),
                _ => None,
            });
            offsets.collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Answered(Box<ResultRecord>),
    Dead(Box<DeadLetter>),
}

impl Outcome {
    pub(crate) fn into_answer(self) -> ResultRecord {
        match self {
            Self::Answered(result) => *result,
            Self::Dead(letter) => panic!("{}: {}", letter.reason, letter.text),
        }
    }
}

fn outcome(made: &Made, results: &BTreeMap<Coordinates, ResultRecord>, letters: &[DeadLetter]) -> Option<Outcome> {
    let mut results = results.values().filter(|one| (one.identity.kind, one.identity.id) == (made.kind, made.id));
    let mut letters = letters
        .iter()
        .filter(|one| one.identity.is_some_and(|identity| (identity.kind, identity.id) == (made.kind, made.id)));
    let (result, letter) = (results.next(), letters.next());
    assert!(results.next().is_none() && letters.next().is_none(), "two outcomes of {made:?}");
    match (result, letter) {
        (Some(result), None) => Some(Outcome::Answered(Box::new(result.clone()))),
        (None, Some(letter)) => Some(Outcome::Dead(Box::new(letter.clone()))),
        (None, None) => None,
        (Some(result), Some(letter)) => panic!("two outcomes: {result:?}, {letter:?}"),
    }
}

pub(crate) fn public_of(ciphertexts: &[Ciphertext]) -> NewRequest {
    let handles = ciphertexts.iter().map(|ciphertext| ciphertext.handle).collect();
    NewRequest::PublicDecryption { handles, extra_data: Bytes::new() }
}

/// The RPC that starts a kind of operation.
pub(crate) fn start_rpc(kind: Kind) -> &'static str {
    match kind {
        Kind::PublicDecryption => "PublicDecrypt",
        Kind::UserDecryption => "UserDecrypt",
        Kind::PrepKeygen => "KeyGenPreproc",
        Kind::Keygen => "KeyGen",
        Kind::Crsgen => "CrsGen",
        Kind::PrssInit => "Init",
        Kind::KeyReshareSameSet => "InitiateResharing",
        Kind::AbortKeygen => "AbortKeyGen",
        Kind::AbortCrsgen => "AbortCrsGen",
        Kind::NewKmsContext => "NewMpcContext",
        Kind::NewKmsEpoch => "NewMpcEpoch",
        Kind::KmsContextDestroyed => "DestroyMpcContext",
        Kind::KmsEpochDestroyed => "DestroyMpcEpoch",
    }
}

pub(crate) fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A topic as a read-committed reader sees it now, in the order of partitions and offsets.
fn read_committed(kafka: &KafkaConfig, topic: &str) -> Vec<Stored> {
    let mut settings = kafka.consumer("test", &format!("{}.test.reader", kafka.topic_prefix));
    settings
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        // The broker holds an answer without records for this long, and the end of a partition is told by such an answer.
        .set("fetch.wait.max.ms", "10")
        .set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = settings.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT).unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    let mut unread: HashSet<i32> = metadata.topics()[0].partitions().iter().map(MetadataPartition::id).collect();
    consumer.assign(&assignment).unwrap();
    let mut records = Vec::new();
    while !unread.is_empty() {
        match consumer.poll(LIMIT).expect("an answer of the broker") {
            Ok(message) => records.push(Stored {
                at: Coordinates { topic: topic.to_owned(), partition: message.partition(), offset: message.offset() },
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            }),
            Err(KafkaError::PartitionEOF(partition)) => drop(unread.remove(&partition)),
            // Of a broker that was away a moment ago; the client goes on by itself.
            Err(error) if is_disturbance(&error) => {}
            Err(error) => panic!("{topic}: {error}"),
        }
    }
    records.sort_by_key(|record| (record.at.partition, record.at.offset));
    records
}

/// Whether a reader that goes on gets what it reads all the same.
pub(crate) fn is_disturbance(error: &KafkaError) -> bool {
    let disturbances = [
        RDKafkaErrorCode::AllBrokersDown,
        RDKafkaErrorCode::BrokerTransportFailure,
        RDKafkaErrorCode::OperationTimedOut,
    ];
    error.rdkafka_error_code().is_some_and(|code| disturbances.contains(&code))
}

/// Starts a service and waits until it is ready.
pub(crate) async fn start(service: &Service) {
    service.start().await.unwrap_or_else(|error: StackError| panic!("{error}"));
}
