//! P4: what somebody else wrote into a topic makes KMS Core decrypt nothing and the emitter send nothing.
//!
//! The forger of these tests can do all that write access to every topic allows: his records have the right schema, key and partition,
//! their logs are what the contracts write, and he may know genuine records, blocks, transactions and signatures. What he cannot do is
//! write to the chain that the services read, and sign with the node's keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use kms_chain::eip712;
use kms_chain::event::{ContractSet, Decoded, decode_request};
use kms_runtime::kafka::OutgoingRecord;
use kms_schemas::codec::{Codec, Record};
use kms_schemas::identity::{Coordinates, Identity, Kind, Lane, RequestId};
use kms_schemas::record::{
    Answer, Cursor, DeadLetter, DeferredRequest, EpochCrs, EpochKey, Intent, IntentItem, KeyDigest, RawLog, Request,
    ResultRecord, Signed, Submission, Verdict,
};
use kms_schemas::topics::partition_for_key;
use kms_stack::contracts::{Made, NewRequest};
use kms_stack::parts::Anvil;
use kms_stack::simulator::Operation;
use kms_stack::{FollowedChain, Generation, ServiceKind, StackBuilder};
use kms_tests::eventually;
use serde_json::{Value, json};

use super::processor::bench::{Bench, LIMIT, start};

const VECTORS: &str = include_str!("../../../chain/vectors/events.json");
/// Calls that ask KMS Core how it is, for nobody's request.
const OF_HEALTH: [&str; 3] = ["GetHealthStatus", "GetOperatorPublicKey", "GetKeyMaterialAvailability"];
/// Offsets of records that the forger claims to have been there.
const FORGED_FROM: i64 = 1_000_000;

// --- Codes of what is refused ---------------------------------------------------------------------------------------------

const NOT_REACHED: &str = "KC-0340";
const ORPHANED: &str = "KC-0341";
const NO_SUCH_LOG: &str = "KC-0342";
const RECORD_FORGED: &str = "KC-0520";
const DEFERRED_FORGED: &str = "KC-0542";
const RECORD_COPIED: &str = "KC-0543";
const SIGNER_MISMATCH: &str = "KC-0602";
const ANSWER_MISMATCH: &str = "KC-0603";
const NOT_REQUESTED: &str = "KC-0652";
const ANSWER_OF_ANOTHER: &str = "KC-0653";
const RETRACTION_CONTRADICTED: &str = "KC-0655";
const FOREIGN_INTENT: &str = "KC-0759";
/// No dead letter: a submission says that the request of the result is not on the chain.
const SETTLED_AS_RETRACTED: &str = "retracted";
/// No dead letter: a submission says that there is nothing to send.
const NOTHING_TO_SEND: &str = "nothing to send";

/// A stack with all services, and little patience for what never comes.
struct Scene {
    bench: Bench,
    /// Records that the forger claims to have been there.
    invented: AtomicI64,
}

/// What must not grow: every call of KMS Core that is about a request, and the sender's transactions on each chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Footprint {
    core: BTreeMap<String, u64>,
    nonces: Vec<U256>,
    pending: Vec<U256>,
}

impl Scene {
    async fn start(name: &str, adjust: impl FnOnce(StackBuilder) -> StackBuilder) -> Self {
        let bench = Bench::start(name, |stack| {
            let stack = ["not_yet", "finality", "orphan", "context", "acl"].iter().fold(stack, |stack, budget| {
                stack.set(ServiceKind::Processor, format!("access.{budget}_patience_ms=1500"))
            });
            let stack = ["not_yet", "orphan"].iter().fold(stack, |stack, budget| {
                stack.set(ServiceKind::Emitter, format!("submission.{budget}_patience_ms=1500"))
            });
            adjust(stack.services(&ServiceKind::ALL))
        })
        .await;
        Self { bench, invented: AtomicI64::new(0) }
    }

    async fn footprint(&self) -> Footprint {
        let calls = self.bench.core.calls().await.unwrap();
        let core = calls.rpcs.iter().filter(|(rpc, _)| !OF_HEALTH.contains(&rpc.as_ref()));
        let mut footprint = Footprint {
            core: core.map(|(rpc, calls)| (rpc.to_string(), calls.calls)).collect(),
            nonces: Vec::new(),
            pending: Vec::new(),
        };
        for anvil in self.anvils() {
            for (block, found) in [("latest", &mut footprint.nonces), ("pending", &mut footprint.pending)] {
                let nonce =
                    rpc(anvil, "eth_getTransactionCount", json!([self.bench.stack.node().sender(), block])).await;
                found.push(serde_json::from_value(nonce).unwrap());
            }
        }
        footprint
    }

    fn anvils(&self) -> impl Iterator<Item = &Anvil> {
        [Some(self.bench.stack.anvil()), self.bench.stack.ethereum()].into_iter().flatten()
    }

    fn anvil(&self, chain_id: u64) -> &Anvil {
        self.anvils().find(|anvil| anvil.chain_id() == chain_id).expect("one of the stack's chains")
    }

    /// Makes blocks, so that what is there becomes final.
    async fn mine(&self, blocks: u64) {
        for anvil in self.anvils() {
            rpc(anvil, "anvil_mine", json!([format!("{blocks:#x}")])).await;
        }
    }

    /// Writes records, and waits until each is a dead letter for one of the reasons.
    async fn refused(&self, forged: Vec<Forged>) {
        let (records, expected): (Vec<_>, Vec<_>) =
            forged.into_iter().map(|forged| (forged.record, (forged.what, forged.reasons))).unzip();
        let places = self.bench.write(records).await;
        let mut found: BTreeMap<Coordinates, (String, String)> = BTreeMap::new();
        let missing = |found: &BTreeMap<Coordinates, _>| {
            let missing = places.iter().zip(&expected).filter(|(at, _)| !found.contains_key(at));
            missing.map(|(at, (what, _))| format!("{what} at {at}")).collect::<Vec<_>>()
        };
        let begun = std::time::Instant::now();
        while !missing(&found).is_empty() {
            assert!(
                begun.elapsed() < LIMIT,
                "no end of {:#?}\n{}\n{}",
                missing(&found),
                self.bench.processor().process().log(),
                self.bench.stack.node().emitter().process().log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            found = self.ends().await;
        }
        for (at, (what, reasons)) in places.iter().zip(&expected) {
            let (reason, text) = &found[at];
            assert!(reasons.contains(&reason.as_str()), "{what} at {at}: {reason} {text}");
        }
    }

    /// How records ended that led to nothing: the reason, and the words.
    async fn ends(&self) -> BTreeMap<Coordinates, (String, String)> {
        let letters = self.bench.dead_letters().await.into_iter();
        let letters = letters.map(|letter| (letter.source, (letter.reason, letter.text)));
        let submissions = self.bench.submissions().await.into_iter();
        let settled = submissions.filter_map(|one| {
            let end = match one.verdict {
                Verdict::Retracted => SETTLED_AS_RETRACTED,
                Verdict::NoAnswerOnChain => NOTHING_TO_SEND,
                _ => return None,
            };
            Some((one.result, (end.to_owned(), String::new())))
        });
        letters.chain(settled).collect()
    }

    /// Makes requests that are no forgeries, and waits until the chain has taken their answers.
    async fn genuine_requests_flow(&self) {
        let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
        let made = [self.bench.public().await, self.bench.make(&crs).await];
        self.settled(&made).await;
    }

    async fn settled(&self, made: &[Made]) -> Vec<ResultRecord> {
        self.mine(3).await;
        let results = eventually(&format!("answers to {made:?}"), LIMIT, async || {
            let results = self.bench.results().await;
            let of = |made: &Made| {
                let of_it = |result: &&ResultRecord| {
                    (result.identity.kind, result.identity.id) == (made.kind, made.id)
                        && result.source.offset < FORGED_FROM
                };
                results.values().find(of_it).cloned()
            };
            made.iter().map(of).collect::<Option<Vec<ResultRecord>>>()
        })
        .await;
        eventually("their answers are settled", LIMIT, async || {
            let submissions = self.bench.submissions().await;
            let accepted = |result: &ResultRecord| {
                submissions
                    .iter()
                    .any(|one| one.request == result.source && matches!(one.verdict, Verdict::Accepted(_)))
            };
            results.iter().all(accepted).then_some(())
        })
        .await;
        results
    }

    fn nothing_panicked(&self) {
        for service in self.bench.stack.node().services() {
            let log = service.process().log();
            assert!(!log.contains("panicked"), "{log}");
        }
    }

    fn encoded<R: Record>(&self, topic: &str, record: &R) -> Vec<u8> {
        Codec::single_object().encode(topic, record).unwrap()
    }

    /// The record of a request in its lane's topic, and the same as one that was deferred from a place where it does not lie.
    fn requests(&self, what: &str, request: &Request, reasons: &[&'static str]) -> [Forged; 2] {
        let topics = &self.bench.topics;
        let lane = request.kind.lane();
        let source = Coordinates {
            topic: topics.requests(lane).to_owned(),
            partition: partition_of(topics.requests(lane), request.id),
            offset: FORGED_FROM + self.invented.fetch_add(1, Ordering::Relaxed),
        };
        let plain = self.encoded(topics.requests(lane), request);
        [
            Forged {
                what: format!("{what}: {} {}", request.kind, request.id),
                record: outgoing(topics.requests(lane), request.id, plain),
                reasons: reasons.to_vec(),
            },
            self.deferred(what, &source, request, &[DEFERRED_FORGED]),
        ]
    }

    /// The request as one that was deferred from this place.
    fn deferred(&self, what: &str, source: &Coordinates, request: &Request, reasons: &[&'static str]) -> Forged {
        let topic = self.bench.topics.deferred(request.kind.lane());
        let deferred = DeferredRequest {
            source: source.clone(),
            attempts: 1,
            first_attempt_ms: 0,
            deferred_ms: 0,
            why: "the forger wants it so".to_owned(),
            request: request.clone(),
        };
        Forged {
            what: format!("{what}: {} {} deferred from {source}", request.kind, request.id),
            record: outgoing(topic, request.id, self.encoded(topic, &deferred)),
            reasons: reasons.to_vec(),
        }
    }

    async fn restart_processor(&self) {
        self.bench.processor().kill().await;
        self.bench.processor().start().await.unwrap();
    }

    fn result(&self, what: &str, result: &ResultRecord, reasons: &[&'static str]) -> Forged {
        let topic = self.bench.topics.results(result.identity.kind.lane());
        Forged {
            what: what.to_owned(),
            record: outgoing(topic, result.identity.id, self.encoded(topic, result)),
            reasons: reasons.to_vec(),
        }
    }

    /// A result of a request, as the processor would write it.
    fn result_of(&self, request: &Request, answer: Answer) -> ResultRecord {
        ResultRecord {
            source: Coordinates {
                topic: self.bench.topics.requests(request.kind.lane()).to_owned(),
                partition: 0,
                offset: FORGED_FROM + self.invented.fetch_add(1, Ordering::Relaxed),
            },
            deferred: None,
            identity: request.identity(),
            block_number: request.block_number,
            block_hash: request.block_hash,
            log_index: request.log_index,
            attempts: 1,
            answer,
        }
    }

    /// The genuine records of the requests topics.
    async fn genuine(&self, lane: Lane) -> Vec<(Coordinates, Request)> {
        self.bench.read_readable(self.bench.topics.requests(lane)).await
    }

    /// The genuine record of a request.
    async fn record_of(&self, made: &Made) -> Request {
        eventually("the record of a request", LIMIT, async || {
            let records = self.genuine(made.kind.lane()).await;
            records
                .into_iter()
                .map(|(_, request)| request)
                .find(|request| (request.kind, request.id) == (made.kind, made.id))
        })
        .await
    }

    /// What ingest would write of a request, read from the chain itself.
    async fn as_ingest_would(&self, chain: &FollowedChain, made: &Made) -> Request {
        let anvil = self.anvil(chain.chain_id);
        let receipt = rpc(anvil, "eth_getTransactionReceipt", json!([made.transaction])).await;
        let block = rpc(anvil, "eth_getBlockByHash", json!([receipt["blockHash"], false])).await;
        let logs: Vec<alloy::rpc::types::Log> = serde_json::from_value(receipt["logs"].clone()).unwrap();
        let of_it = |log: &alloy::rpc::types::Log| {
            let raw = raw(log);
            let decoded = decode_request(&chain.contracts, &raw).unwrap()?;
            ((decoded.kind, decoded.id) == (made.kind, made.id)).then_some((raw, decoded, log.log_index?))
        };
        let (log, decoded, log_index) = logs.iter().find_map(of_it).expect("the request's log");
        let block: alloy::rpc::types::Header = serde_json::from_value(block).unwrap();
        let request = invented(chain, &decoded, log);
        Request {
            block_number: block.number,
            block_hash: block.hash,
            block_timestamp: block.timestamp,
            transaction_hash: made.transaction,
            log_index,
            ..request
        }
    }

    async fn head(&self, chain_id: u64) -> u64 {
        let number = rpc(self.anvil(chain_id), "eth_blockNumber", json!([])).await;
        serde_json::from_value::<U256>(number).unwrap().to()
    }
}

/// A record that must end as a dead letter, for one of these reasons.
struct Forged {
    what: String,
    record: OutgoingRecord,
    reasons: Vec<&'static str>,
}

/// Where the services write what is about a request.
fn partition_of(topic: &str, id: RequestId) -> i32 {
    partition_for_key(id.0.as_slice(), if topic.contains(".decryption") { 12 } else { 3 })
}

fn outgoing(topic: &str, id: RequestId, value: Vec<u8>) -> OutgoingRecord {
    OutgoingRecord {
        topic: topic.to_owned(),
        partition: Some(partition_of(topic, id)),
        key: Some(id.0.to_vec()),
        value: Some(value),
        headers: Vec::new(),
    }
}

async fn rpc(anvil: &Anvil, method: &str, params: Value) -> Value {
    anvil.rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
}

fn raw(log: &alloy::rpc::types::Log) -> RawLog {
    RawLog { address: log.inner.address, topics: log.inner.data.topics().to_vec(), data: log.inner.data.data.clone() }
}

/// A request that is consistent in itself, in a block of the forger's invention.
fn invented(chain: &FollowedChain, decoded: &Decoded, log: RawLog) -> Request {
    Request {
        source: chain.name.to_owned(),
        seq: 1_000,
        previous_hash: keccak256("the record before"),
        chain_id: chain.chain_id,
        kind: decoded.kind,
        id: decoded.id,
        block_number: 1,
        block_hash: keccak256("a block of the forger's"),
        block_timestamp: 1_700_000_000,
        transaction_hash: keccak256("a transaction of the forger's"),
        log_index: 0,
        log,
        body: decoded.body.clone(),
    }
}

/// Every request event of a generation that the contracts of this chain could write, encoded as they would.
fn every_event(generation: &str, contracts: &ContractSet) -> Vec<(Decoded, RawLog)> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let events = vectors["events"].as_array().unwrap().iter().filter(|event| event["generation"] == generation);
    let logs = events.filter_map(|event| {
        let address = match event["contract"].as_str().unwrap() {
            "Decryption" => contracts.decryption,
            "KMSGeneration" => contracts.kms_generation,
            "ProtocolConfig" => contracts.protocol_config,
            other => panic!("{other}"),
        };
        let log = &event["examples"][0]["log"];
        Some(RawLog {
            address: address?,
            topics: serde_json::from_value(log["topics"].clone()).unwrap(),
            data: serde_json::from_value(log["data"].clone()).unwrap(),
        })
    });
    // The older twins of an event are no requests of this release.
    logs.filter_map(|log| Some((decode_request(contracts, &log).unwrap()?, log))).collect()
}

/// Every form of answer to a kind of request, which claims to be the node's and is signed by somebody else where it is signed.
fn invented_answers(kind: Kind, signer: Address) -> Vec<Answer> {
    let digest = keccak256("what the forger signs");
    let stranger = PrivateKeySigner::from_slice(&[5; 32]).unwrap();
    let signature = Signed { signature: eip712::sign(&stranger, digest).unwrap(), digest, signer };
    let (handles, word, extra_data) = (vec![keccak256("handle")], Bytes::from(vec![7; 32]), Bytes::new());
    let key_digests = vec![KeyDigest { key_type: 0, digest: word.clone() }];
    let id = RequestId(B256::with_last_byte(4));
    match kind {
        Kind::PublicDecryption => {
            vec![Answer::PublicDecryption { handles, decrypted_result: word, extra_data, signature }]
        }
        Kind::UserDecryption => {
            vec![Answer::UserDecryption { public_key: word.clone(), handles, share: word, extra_data, signature }]
        }
        Kind::PrepKeygen => vec![Answer::PrepKeygen { extra_data, signature }],
        Kind::Keygen => vec![Answer::Keygen { prep_keygen_id: id, key_digests, extra_data, signature }],
        Kind::Crsgen => {
            vec![Answer::Crsgen { max_bit_length: U256::from(2_048), crs_digest: word, extra_data, signature }]
        }
        Kind::NewKmsContext => vec![Answer::KmsContextCreated, Answer::Done],
        Kind::NewKmsEpoch => {
            let key = EpochKey { prep_keygen_id: id, key_id: id, key_digests, signature: signature.clone() };
            let max_bit_length = U256::from(2_048);
            let crs = EpochCrs { crs_id: id, max_bit_length, crs_digest: word, signature };
            vec![Answer::EpochActivation { context_id: id, keys: vec![key], crs_list: vec![crs] }]
        }
        Kind::PrssInit
        | Kind::KeyReshareSameSet
        | Kind::AbortKeygen
        | Kind::AbortCrsgen
        | Kind::KmsContextDestroyed
        | Kind::KmsEpochDestroyed => vec![Answer::Done],
    }
}

// --- Requests -------------------------------------------------------------------------------------------------------------

/// Forgeries of every kind of a generation, in every topic of requests, in every place that a block can be claimed to have.
async fn every_kind(scene: &Scene, generation: &str) -> BTreeSet<Kind> {
    // So that there is a final block with a log, and blocks above it.
    scene.mine(4).await;
    // The contracts of (b) ask for their first context and epoch themselves.
    let (before, results) = (scene.footprint().await, scene.bench.results().await.len());
    let mut kinds = BTreeSet::new();
    let mut forged = Vec::new();
    for chain in scene.bench.stack.chains() {
        let anvil = scene.anvil(chain.chain_id);
        let block = rpc(anvil, "eth_getBlockByNumber", json!([format!("{:#x}", chain.first_block), false])).await;
        let block: alloy::rpc::types::Header = serde_json::from_value(block).unwrap();
        let head = scene.head(chain.chain_id).await;
        for (decoded, log) in every_event(generation, &chain.contracts) {
            kinds.insert(decoded.kind);
            let request = invented(&chain, &decoded, log);
            forged.extend(scene.requests("an invented block", &request, &[ORPHANED]));
            let above = Request { block_number: head + 1_000, ..request.clone() };
            forged.extend(scene.requests("a block that is not there yet", &above, &[NOT_REACHED]));
            let genuine = Request {
                block_number: block.number,
                block_hash: block.hash,
                block_timestamp: block.timestamp,
                ..request.clone()
            };
            forged.extend(scene.requests("another log's place", &genuine, &[RECORD_FORGED, NO_SUCH_LOG]));
            for answer in invented_answers(decoded.kind, scene.bench.stack.node().signer()) {
                let result = scene.result_of(&request, answer.clone());
                let ends = [SIGNER_MISMATCH, SETTLED_AS_RETRACTED, NOTHING_TO_SEND];
                forged.push(scene.result(&format!("{} in an invented block", request.kind), &result, &ends));
                let result = scene.result_of(&genuine, answer);
                let ends = [SIGNER_MISMATCH, NOT_REQUESTED];
                forged.push(scene.result(&format!("{} in another log's place", request.kind), &result, &ends));
            }
            let outside = Request { log_index: 1_000_000, ..genuine };
            forged.extend(scene.requests("a place behind the last log", &outside, &[NO_SUCH_LOG]));
        }
    }
    scene.refused(forged).await;
    assert_eq!(scene.footprint().await, before, "KMS Core was not asked, and nothing was sent");
    let genuine = async || {
        let results = scene.bench.results().await.into_keys();
        results.filter(|source| source.offset < FORGED_FROM).count()
    };
    assert_eq!(genuine().await, results, "nothing was answered");
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_an_invented_request_of_every_kind_of_generation_a_reaches_nobody() {
    let scene = Scene::start("forged-a", |stack| stack).await;
    let kinds = every_kind(&scene, "a").await;
    let expected = [
        Kind::PublicDecryption,
        Kind::UserDecryption,
        Kind::PrepKeygen,
        Kind::Keygen,
        Kind::Crsgen,
        Kind::PrssInit,
        Kind::KeyReshareSameSet,
    ];
    assert_eq!(kinds, BTreeSet::from(expected));
    scene.genuine_requests_flow().await;
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_an_invented_request_of_every_kind_of_generation_b_reaches_nobody() {
    let scene = Scene::start("forged-b", |stack| stack.generation(Generation::B)).await;
    let kinds = every_kind(&scene, "b").await;
    let not_in_b = [Kind::PrssInit, Kind::KeyReshareSameSet];
    assert_eq!(kinds, Kind::ALL.into_iter().filter(|kind| !not_in_b.contains(kind)).collect());
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    let made = scene.bench.make(&crs).await;
    scene.settled(&[made]).await;
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_request_of_a_fork_that_is_consistent_in_itself_reaches_nobody() {
    let scene = Scene::start("forged-fork", |stack| stack).await;
    let bench = &scene.bench;
    let chain = bench.stack.chains().remove(0);
    let anvil = bench.stack.anvil();
    scene.genuine_requests_flow().await;

    // The forger runs the real contracts on a chain of his own with the same past: his block, his transaction and his log are all that
    // a block, a transaction and a log have to be, up to a head that nobody but him has.
    bench.stack.node().ingest().stop().await;
    let snapshot = rpc(anvil, "evm_snapshot", json!([])).await;
    let forger = bench.stack.requester().await.unwrap();
    let decryption = super::processor::bench::public_of(&[bench.ciphertext()]);
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    let mut requests = Vec::new();
    for request in [&decryption, &crs] {
        let made = forger.make(request).await.unwrap();
        requests.push(scene.as_ingest_would(&chain, &made).await);
    }
    rpc(anvil, "evm_revert", json!([snapshot])).await;
    // The real chain goes on without it, first below the forged blocks, then past them and to their finality.
    rpc(anvil, "evm_increaseTime", json!([60])).await;
    let before = scene.footprint().await;
    let below = requests.iter().flat_map(|request| scene.requests("a fork above the head", request, &[NOT_REACHED]));
    scene.refused(below.collect()).await;
    scene.mine(8).await;
    let past = requests.iter().flat_map(|request| scene.requests("a fork beside the chain", request, &[ORPHANED]));
    scene.refused(past.collect()).await;
    assert_eq!(scene.footprint().await, before, "KMS Core was not asked, and nothing was sent");
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_real_log_under_another_transaction_time_or_index_reaches_nobody_and_does_not_spoil_the_genuine_request() {
    let scene = Scene::start("forged-log", |stack| stack).await;
    let bench = &scene.bench;
    let chain = bench.stack.chains().remove(0);
    // So that the forger is there before the genuine records.
    bench.stack.node().ingest().stop().await;
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    let user = bench.new_user();
    let mut made = bench.publics(2).await;
    made.extend([bench.make(&user).await, bench.make(&crs).await]);
    scene.mine(4).await;
    let mut genuine = Vec::new();
    for made in &made {
        genuine.push(scene.as_ingest_would(&chain, made).await);
    }
    let before = scene.footprint().await;
    let mut forged = Vec::new();
    for (request, other) in genuine.iter().zip(genuine.iter().cycle().skip(1)) {
        let transaction = Request { transaction_hash: other.transaction_hash, ..request.clone() };
        forged.extend(scene.requests("another transaction's hash", &transaction, &[RECORD_FORGED]));
        let time = Request { block_timestamp: request.block_timestamp + 1, ..request.clone() };
        forged.extend(scene.requests("another time", &time, &[RECORD_FORGED]));
        let index = Request { log_index: request.log_index + 1, ..request.clone() };
        forged.extend(scene.requests("another index", &index, &[RECORD_FORGED, NO_SUCH_LOG]));
        let block = Request {
            block_number: other.block_number,
            block_hash: other.block_hash,
            log_index: other.log_index,
            block_timestamp: other.block_timestamp,
            transaction_hash: other.transaction_hash,
            ..request.clone()
        };
        forged.extend(scene.requests("another request's place", &block, &[RECORD_FORGED, NO_SUCH_LOG]));
        let number = Request { block_number: request.block_number + 1, ..request.clone() };
        forged.extend(scene.requests("its block under another number", &number, &[ORPHANED]));
    }
    scene.refused(forged).await;
    assert_eq!(scene.footprint().await, before, "KMS Core was not asked, and nothing was sent");

    start(bench.stack.node().ingest()).await;
    scene.settled(&made).await;
    for made in &made {
        assert_eq!(bench.starts(made).await, 1, "{made:?}");
    }
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_deferred_record_that_nobody_deferred_holds_up_nobody_also_after_a_restart() {
    let scene = Scene::start("forged-deferred", |stack| stack).await;
    let bench = &scene.bench;
    scene.genuine_requests_flow().await;
    let before = scene.footprint().await;
    let mut forged = Vec::new();
    for lane in Lane::ALL {
        let (place, genuine) = scene.genuine(lane).await.remove(0);
        let topic = |topic: &str| Coordinates { topic: topic.to_owned(), ..place.clone() };
        for nowhere in [
            Coordinates { partition: 99, ..place.clone() },
            Coordinates { partition: i32::MAX, offset: 0, ..place.clone() },
            Coordinates { partition: (place.partition + 1) % 3, ..place.clone() },
            Coordinates { offset: place.offset + 5, ..place.clone() },
            Coordinates { offset: FORGED_FROM, ..place.clone() },
            Coordinates { offset: i64::MAX, ..place.clone() },
            Coordinates { offset: -1, ..place.clone() },
            topic(bench.topics.deferred(lane)),
            topic(bench.topics.results(lane)),
            topic("no-such-topic"),
        ] {
            forged.push(scene.deferred("a genuine request", &nowhere, &genuine, &[DEFERRED_FORGED]));
        }
        let invented = Request { block_hash: keccak256("a block of the forger's"), ..genuine.clone() };
        forged.push(scene.deferred("another request's place", &place, &invented, &[DEFERRED_FORGED]));
        // The forger can write both records.
        let requests = bench.topics.requests(lane);
        let plain = outgoing(requests, invented.id, scene.encoded(requests, &invented));
        let there = bench.write(vec![plain]).await.remove(0);
        forged.push(scene.deferred("an invented block", &there, &invented, &[ORPHANED]));
    }
    let pid = bench.processor().process().pid();
    scene.refused(forged).await;
    assert_eq!(scene.footprint().await, before, "KMS Core was not asked, and nothing was sent");
    assert_eq!(bench.processor().process().pid(), pid, "it did not end over them");
    scene.restart_processor().await;
    scene.genuine_requests_flow().await;
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_copy_of_an_answered_request_is_not_served_again_also_after_a_restart() {
    let scene = Scene::start("forged-copies", |stack| stack).await;
    let bench = &scene.bench;
    scene.genuine_requests_flow().await;
    let mut genuine = Vec::new();
    for lane in Lane::ALL {
        genuine.extend(scene.genuine(lane).await);
    }
    let (before, results) = (scene.footprint().await, bench.results().await.len());
    for restart in [false, true] {
        if restart {
            scene.restart_processor().await;
        }
        let copies = genuine.iter().flat_map(|(place, request)| {
            [place.partition, (place.partition + 1) % 3].map(|partition| Forged {
                what: format!("a copy of {place} in partition {partition}"),
                record: outgoing_in(
                    &place.topic,
                    partition,
                    request.id.0.as_slice(),
                    Some(scene.encoded(&place.topic, request)),
                ),
                reasons: vec![RECORD_COPIED],
            })
        });
        scene.refused(copies.collect()).await;
    }
    let letters = bench.dead_letters().await;
    for (place, _) in &genuine {
        let words = format!("copy of {place}:");
        assert_eq!(letters.iter().filter(|letter| letter.text.contains(&words)).count(), 2, "{words} {letters:#?}");
    }
    assert_eq!(scene.footprint().await, before, "KMS Core was not asked, and nothing was sent");
    assert_eq!(bench.results().await.len(), results, "no second result");
    scene.genuine_requests_flow().await;
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_forged_record_that_an_earlier_life_refused_does_not_keep_the_genuine_request_from_being_served() {
    let scene = Scene::start("forged-recalled", |stack| stack).await;
    let bench = &scene.bench;
    let chain = bench.stack.chains().remove(0);
    let anvil = bench.stack.anvil();
    scene.genuine_requests_flow().await;
    bench.stack.node().ingest().stop().await;
    // The forger knows the next id, and what a request with it looks like.
    let snapshot = rpc(anvil, "evm_snapshot", json!([])).await;
    let foreseen = bench.public().await;
    let invented = scene.as_ingest_would(&chain, &foreseen).await;
    rpc(anvil, "evm_revert", json!([snapshot])).await;
    rpc(anvil, "evm_increaseTime", json!([60])).await;
    scene.mine(3).await;

    let above = Request { block_number: scene.head(chain.chain_id).await + 1_000, ..invented.clone() };
    let block = rpc(anvil, "eth_getBlockByNumber", json!([format!("{:#x}", chain.first_block), false])).await;
    let block: alloy::rpc::types::Header = serde_json::from_value(block).unwrap();
    let outside =
        Request { block_number: block.number, block_hash: block.hash, log_index: 1_000_000, ..invented.clone() };
    let [above, _] = scene.requests("a block that is not there yet", &above, &[NOT_REACHED]);
    let [outside, _] = scene.requests("a place behind the last log", &outside, &[NO_SUCH_LOG]);
    scene.refused(vec![above, outside]).await;
    scene.restart_processor().await;

    let requester = bench.stack.requester().await.unwrap();
    let genuine = requester.make(&super::processor::bench::public_of(&[bench.ciphertext()])).await.unwrap();
    assert_eq!((genuine.kind, genuine.id), (foreseen.kind, foreseen.id), "the id that the forger foresaw");
    let topic = bench.topics.requests(Lane::Decryption);
    let request = scene.as_ingest_would(&chain, &genuine).await;
    assert_ne!(request.log, invented.log, "with another payload");
    bench.write(vec![outgoing(topic, request.id, scene.encoded(topic, &request))]).await;
    scene.settled(&[genuine]).await;
    assert_eq!(bench.starts(&genuine).await, 1);
    scene.nothing_panicked();
}

// --- Results --------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_genuine_signature_under_another_request_and_answers_without_one_send_nothing() {
    let scene = Scene::start("forged-results", |stack| stack).await;
    let bench = &scene.bench;
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    let answered = [bench.public().await, bench.make(&bench.new_user()).await, bench.make(&crs).await];
    let genuine = scene.settled(&answered).await;

    // Requests that the chain has, and whose answers KMS Core keeps for itself for now.
    let held = [Operation::PublicDecryption, Operation::UserDecryption, Operation::CrsGeneration];
    for operation in held {
        bench.core.hold(operation).await.unwrap();
    }
    let open = [bench.public().await, bench.make(&bench.new_user()).await, bench.make(&crs).await];
    scene.mine(4).await;
    let mut requests = Vec::new();
    for made in &open {
        requests.push(scene.record_of(made).await);
        eventually("it is started", LIMIT, async || (bench.starts(made).await > 0).then_some(())).await;
    }
    let nonces = scene.footprint().await.nonces;

    let mut forged = Vec::new();
    for (genuine, request) in genuine.iter().zip(&requests) {
        let kind = request.kind;
        let under = |answer: Answer| ResultRecord {
            identity: request.identity(),
            block_number: request.block_number,
            block_hash: request.block_hash,
            log_index: request.log_index,
            answer,
            ..genuine.clone()
        };
        // What is signed of a decryption names no request; of a CRS it does.
        let replayed = if kind == Kind::Crsgen { SIGNER_MISMATCH } else { ANSWER_OF_ANOTHER };
        let replay = under(genuine.answer.clone());
        forged.push(scene.result("a genuine signature under another request", &replay, &[replayed]));
        let block = ResultRecord { block_hash: keccak256("a block of the forger's"), ..replay.clone() };
        forged.push(scene.result("the same in an invented block", &block, &[replayed, SETTLED_AS_RETRACTED]));
        let place = ResultRecord { identity: request.identity(), ..genuine.clone() };
        forged.push(scene.result("a genuine answer and place under another id", &place, &[replayed, NOT_REQUESTED]));
        let id = RequestId(B256::from(U256::from_be_bytes(genuine.identity.id.0.0) + U256::from(1_000)));
        let nobody = ResultRecord { identity: Identity { id, ..genuine.identity }, ..genuine.clone() };
        forged.push(scene.result(
            "a genuine answer to a request that nobody made",
            &nobody,
            &[NOT_REQUESTED, SIGNER_MISMATCH],
        ));
        let index = ResultRecord { log_index: genuine.log_index + 1_000, ..genuine.clone() };
        forged.push(scene.result("a genuine answer in a place behind the last log", &index, &[NOT_REQUESTED]));
        // Answers that nobody signs.
        forged.push(scene.result("done, without an answer", &under(Answer::Done), &[ANSWER_MISMATCH]));
        forged.push(scene.result("a context was created", &under(Answer::KmsContextCreated), &[ANSWER_MISMATCH]));
        let activation = Answer::EpochActivation {
            context_id: RequestId(B256::with_last_byte(7)),
            keys: Vec::new(),
            crs_list: Vec::new(),
        };
        forged.push(scene.result("an epoch was activated", &under(activation), &[ANSWER_MISMATCH]));
        forged.push(scene.result(
            "retracted, though it is there",
            &under(Answer::Retracted),
            &[RETRACTION_CONTRADICTED],
        ));
    }
    // Every result of its own request's record: two outcomes of one record are another matter.
    for (offset, forged) in (FORGED_FROM..).zip(&mut forged) {
        forged.record = with_source_offset(bench, &forged.record, offset);
    }
    scene.refused(forged).await;
    let after = scene.footprint().await;
    assert_eq!(after.nonces, nonces, "nothing was sent");
    assert_eq!(after.pending, nonces, "nothing is on its way");

    for operation in held {
        bench.core.release(operation).await.unwrap();
    }
    scene.settled(&open).await;
    scene.nothing_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_genuine_result_written_once_more_sends_nothing() {
    let scene = Scene::start("forged-again", |stack| stack).await;
    let bench = &scene.bench;
    let crs = NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 1 };
    let answered = [bench.public().await, bench.make(&bench.new_user()).await, bench.make(&crs).await];
    let genuine = scene.settled(&answered).await;
    let before = scene.footprint().await;
    // Also after a restart, when nobody remembers.
    for _ in 0..2 {
        let again = genuine
            .iter()
            .flat_map(|genuine| [0, 1].map(|_| scene.result("a genuine result once more", genuine, &[]).record));
        let places = bench.write(again.collect()).await;
        eventually("the repetitions are settled or dead", LIMIT, async || {
            let submissions = bench.submissions().await;
            let letters = bench.dead_letters().await;
            let over = |at: &Coordinates| {
                submissions.iter().any(|one| one.result == *at) || letters.iter().any(|letter| letter.source == *at)
            };
            places.iter().all(over).then_some(())
        })
        .await;
        assert_eq!(scene.footprint().await, before, "nobody pays for it twice");
        bench.stack.node().emitter().stop().await;
        start(bench.stack.node().emitter()).await;
    }
    scene.nothing_panicked();
}

fn with_source_offset(bench: &Bench, record: &OutgoingRecord, offset: i64) -> OutgoingRecord {
    let codec = Codec::single_object();
    let mut result: ResultRecord = codec.decode(&record.topic, record.value.as_deref().unwrap()).unwrap();
    result.source =
        Coordinates { topic: bench.topics.requests(result.identity.kind.lane()).to_owned(), partition: 0, offset };
    OutgoingRecord {
        topic: record.topic.clone(),
        partition: record.partition,
        key: record.key.clone(),
        value: Some(codec.encode(&record.topic, &result).unwrap()),
        headers: Vec::new(),
    }
}

// --- The other topics -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn p4_forged_dead_letters_submissions_cursors_intents_and_leaders_make_nobody_act_also_after_a_restart() {
    let scene = Scene::start("forged-rest", |stack| stack).await;
    let bench = &scene.bench;
    let topics = &bench.topics;
    scene.genuine_requests_flow().await;
    let (_, cursor) = bench.read::<Cursor>(topics.cursor()).await.pop().unwrap();
    let (_, submission) = bench.read::<Submission>(topics.submissions()).await.pop().unwrap();
    let (_, intent) = bench.read::<Intent>(topics.intents()).await.pop().unwrap();
    let chain = bench.stack.chains().remove(0);
    let invented_request = {
        let (decoded, log) = every_event("a", &chain.contracts).remove(0);
        invented(&chain, &decoded, log)
    };
    // Ingest alone reads the cursor, and only when it starts: then it must not be mistaken about what was genuine.
    bench.stack.node().ingest().stop().await;
    bench.stack.node().emitter().stop().await;
    let before = scene.footprint().await;

    let stranger = PrivateKeySigner::from_slice(&[5; 32]).unwrap();
    let mut records = Vec::new();
    let requests = topics.requests(Lane::Decryption);
    let value = scene.encoded(requests, &invented_request);
    let letter = DeadLetter {
        service: "processor".to_owned(),
        source: Coordinates { topic: requests.to_owned(), partition: 0, offset: 5_000 },
        request: None,
        identity: Some(invented_request.identity()),
        key: Some(Bytes::copy_from_slice(invented_request.id.0.as_slice())),
        value_bytes: value.len() as u64,
        value_digest: keccak256(&value),
        value: Some(value.into()),
        reason: "KC-0401".to_owned(),
        text: "the forger wants it redriven".to_owned(),
        attempts: 3,
        dead_ms: 1,
    };
    let dead_letters = topics.dead_letters();
    records.push(outgoing_in(
        dead_letters,
        0,
        invented_request.id.0.as_slice(),
        Some(scene.encoded(dead_letters, &letter)),
    ));
    let submissions = topics.submissions();
    let forged = Submission {
        request: Coordinates { topic: requests.to_owned(), partition: 0, offset: 5_000 },
        result: Coordinates { topic: topics.results(Lane::Decryption).to_owned(), partition: 0, offset: 5_000 },
        identity: invented_request.identity(),
        ..submission
    };
    records.push(outgoing_in(
        submissions,
        0,
        invented_request.id.0.as_slice(),
        Some(scene.encoded(submissions, &forged)),
    ));
    records.push(outgoing_in(topics.leader(), 0, b"the forger leads", Some(b"the forger leads".to_vec())));
    records.push(outgoing_in(topics.leader(), 0, b"the forger leads", None));
    let back = Cursor {
        block_number: cursor.block_number.min(1),
        block_hash: keccak256("no block"),
        recent: Vec::new(),
        ..cursor.clone()
    };
    records.push(outgoing_in(
        topics.cursor(),
        0,
        b"a source of the forger's",
        Some(scene.encoded(topics.cursor(), &back)),
    ));
    let first_intent = records.len();
    let intents = forged_intents(&intent, &stranger, &invented_request);
    for (_, intent) in &intents {
        records.push(outgoing_in(
            topics.intents(),
            0,
            intent_key(intent).as_slice(),
            Some(scene.encoded(topics.intents(), intent)),
        ));
    }
    let places = bench.write(records).await;

    // Twice, since what was found at the first start may be told or used at the second.
    for _ in 0..2 {
        start(bench.stack.node().ingest()).await;
        start(bench.stack.node().emitter()).await;
        let begun = std::time::Instant::now();
        eventually("the forged intents are told", LIMIT, async || {
            let letters = bench.dead_letters().await;
            let told =
                |at: &Coordinates| letters.iter().any(|letter| letter.source == *at && letter.reason == FOREIGN_INTENT);
            let untold = places[first_intent..].iter().zip(&intents).find(|(at, (told_of, _))| *told_of && !told(at));
            assert!(
                begun.elapsed() < LIMIT / 2,
                "{untold:?} {letters:#?} {}",
                bench.stack.node().emitter().process().log()
            );
            untold.is_none().then_some(())
        })
        .await;
        assert_eq!(scene.footprint().await, before, "KMS Core was not asked, and nothing was sent");
        bench.stack.node().ingest().stop().await;
        bench.stack.node().emitter().stop().await;
    }
    start(bench.stack.node().ingest()).await;
    start(bench.stack.node().emitter()).await;
    scene.genuine_requests_flow().await;
    let after = scene.footprint().await;
    for (nonce, before) in after.nonces.iter().zip(&before.nonces) {
        assert_eq!(*nonce, before + U256::from(2), "one transaction for each answer, and none to fill a gap");
    }
    scene.nothing_panicked();
}

fn outgoing_in(topic: &str, partition: i32, key: &[u8], value: Option<Vec<u8>>) -> OutgoingRecord {
    OutgoingRecord {
        topic: topic.to_owned(),
        partition: Some(partition),
        key: Some(key.to_vec()),
        value,
        headers: Vec::new(),
    }
}

fn intent_key(intent: &Intent) -> Vec<u8> {
    format!("{}:{}:{}:{}", intent.chain_id, intent.sender, intent.nonce, intent.attempt).into_bytes()
}

/// Intents that the sender's key did not sign for what they claim; whether each must be told of.
fn forged_intents(genuine: &Intent, stranger: &PrivateKeySigner, request: &Request) -> Vec<(bool, Intent)> {
    let signed = |nonce: u64| {
        let transaction = TxEip1559 {
            chain_id: genuine.chain_id,
            nonce,
            gas_limit: 100_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(request.log.address),
            ..TxEip1559::default()
        };
        let signature = stranger.sign_hash_sync(&transaction.signature_hash()).unwrap();
        let raw = Bytes::from(TxEnvelope::from(transaction.into_signed(signature)).encoded_2718());
        (keccak256(&raw), raw)
    };
    let next = genuine.nonce + 1;
    let of = |nonce: u64, sender: Address| {
        let (hash, raw) = signed(nonce);
        Intent { nonce, sender, hash, raw, items: Vec::new(), ..genuine.clone() }
    };
    let item = IntentItem {
        result: Coordinates { topic: request.source.clone(), partition: 0, offset: 5_000 },
        // Of a request that no genuine transaction is about.
        identity: Identity { id: RequestId(keccak256("an id of the forger's")), ..request.identity() },
    };
    vec![
        (true, of(next, genuine.sender)),
        (true, of(next + 1_000, genuine.sender)),
        (true, Intent { items: vec![item.clone()], ..of(next, genuine.sender) }),
        (true, Intent { raw: Bytes::from_static(b"no transaction"), nonce: next, ..genuine.clone() }),
        (true, Intent { nonce: next + 5, ..genuine.clone() }),
        (true, Intent { items: vec![item], ..genuine.clone() }),
        // Another account's journal is another account's affair.
        (false, of(next, stranger.address())),
        // An old record once more says nothing new.
        (false, genuine.clone()),
    ]
}

/// A chain that was reorganised gives an id to another request. KMS Core does not compare: it would answer the second with the
/// result of the first.
#[tokio::test(flavor = "multi_thread")]
async fn p4_a_second_payload_under_a_known_identity_is_quarantined_also_after_a_restart() {
    const IDENTITY_REUSED: &str = "KC-0540";
    let scene = Scene::start("identity", |stack| stack).await;
    let bench = &scene.bench;
    let chain = bench.stack.chains().remove(0);
    let anvil = bench.stack.anvil();
    scene.genuine_requests_flow().await;
    // Ingest stops at a reorganisation of what it has ingested: the records are written here, as it would write them.
    bench.stack.node().ingest().stop().await;
    let topic = bench.topics.requests(Lane::Decryption).to_owned();
    let write = async |request: &Request| {
        bench.write(vec![outgoing(&topic, request.id, scene.encoded(&topic, request))]).await.remove(0)
    };

    let snapshot = rpc(anvil, "evm_snapshot", json!([])).await;
    let first = bench.public().await;
    let first_at = write(&scene.as_ingest_would(&chain, &first).await).await;
    bench.answers(&[first]).await;
    assert_eq!(bench.starts(&first).await, 1);
    rpc(anvil, "evm_revert", json!([snapshot])).await;
    // Another time makes other blocks of the same transactions.
    rpc(anvil, "evm_increaseTime", json!([60])).await;
    scene.mine(3).await;

    let requester = bench.stack.requester().await.unwrap();
    let second = requester.make(&super::processor::bench::public_of(&[bench.ciphertext()])).await.unwrap();
    assert_eq!((second.kind, second.id), (first.kind, first.id), "the counter begins again where it was");
    let request = scene.as_ingest_would(&chain, &second).await;
    for restart in [false, true] {
        if restart {
            scene.restart_processor().await;
        }
        let second_at = write(&request).await;
        let (reason, text) =
            eventually("the second payload is a dead letter", LIMIT, async || scene.ends().await.remove(&second_at))
                .await;
        assert_eq!(reason, IDENTITY_REUSED, "{text}");
        assert!(text.contains(&first_at.to_string()) && text.contains(&second_at.to_string()), "{text}");
    }
    assert_eq!(bench.starts(&first).await, 1, "KMS Core heard of the first alone");
    let metric = bench.processor().metric("kms_connector_identities_reused_total").await;
    assert_eq!(metric, Some(1.0), "the alert of the process that runs now");
    // Others go on.
    let third = requester.make(&super::processor::bench::public_of(&[bench.ciphertext()])).await.unwrap();
    write(&scene.as_ingest_would(&chain, &third).await).await;
    bench.answers(&[third]).await;
}
