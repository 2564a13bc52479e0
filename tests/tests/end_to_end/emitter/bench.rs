//! An emitter alone: real requests on a real chain, results written as the processor would write them, and nobody but the
//! emitter to answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use kms_chain::eip712::{self, Domains};
use kms_chain::event::{ResponseEvent, decode_request, decode_response};
use kms_schemas::codec::{Codec, Record};
use kms_schemas::headers::headers;
use kms_schemas::identity::{Coordinates, Identity, Kind, RequestId};
use kms_schemas::record::{
    Answer, DeadLetter, Intent, KeyDigest, RawLog, RequestBody, ResultRecord, Signed, Submission, Verdict,
};
use kms_schemas::topics::{Topics, intent_key, partition_for_key};
use kms_stack::contracts::{Call, Made, Material, NewRequest, Pace, Requester, UserRequest, handle, owner};
use kms_stack::{FollowedChain, ServiceKind, Stack, StackBuilder, Workspace};
use kms_tests::{eventually, get, kafka, new_workspace, prefix};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::processor::bench::is_disturbance;

/// How long anything is waited for.
pub(super) const LIMIT: Duration = Duration::from_secs(180);

/// An emitter that replaces nothing, however long a machine stands still: for tests that count what was signed.
pub(super) fn unreplaced(stack: StackBuilder) -> StackBuilder {
    stack.set(ServiceKind::Emitter, "submission.replace_after_rounds=1000")
}

pub(super) struct Bench {
    pub(super) stack: Stack,
    pub(super) requester: Requester,
    pub(super) topics: Topics,
    bootstrap: String,
    handle: B256,
    user: PrivateKeySigner,
    app: Address,
    // Dropped last.
    _workspace: Workspace,
}

impl Bench {
    /// A chain with blocks at this interval and an emitter that is ready.
    pub(super) async fn start(name: &str, block_time: Option<Duration>) -> Self {
        Self::start_with(name, block_time, |stack| stack).await
    }

    pub(super) async fn start_with(
        name: &str,
        block_time: Option<Duration>,
        adjust: impl FnOnce(StackBuilder) -> StackBuilder,
    ) -> Self {
        let workspace = new_workspace();
        let bootstrap = kafka().await.bootstrap_servers().to_owned();
        let builder = Stack::builder()
            .block_time(block_time)
            .kafka(&bootstrap)
            .prefix(prefix(name))
            .services(&[ServiceKind::Emitter])
            // Most tests count transactions and nonces.
            .batches(false)
            .set(ServiceKind::Emitter, "submission.resend_after_ms=500")
            .set(ServiceKind::Emitter, "destination.0.poll_interval_ms=20")
            .set(ServiceKind::Emitter, "destination.0.idle_poll_interval_ms=100");
        let stack = adjust(builder).start(&workspace).await.unwrap_or_else(|error| panic!("{error}"));
        let requester = stack.requester().await.unwrap();
        let topics = Topics::new(stack.node().prefix());
        let bench = Self {
            handle: handle(keccak256(name), stack.contracts().host_chain_id, 5),
            user: PrivateKeySigner::from_slice(&[9; 32]).unwrap(),
            app: Address::repeat_byte(0xaa),
            bootstrap: stack.bootstrap_servers().to_owned(),
            stack,
            requester,
            topics,
            _workspace: workspace,
        };
        bench.prepare().await;
        bench
    }

    async fn prepare(&self) {
        let material = Material {
            handle: self.handle,
            key_id: RequestId(B256::with_last_byte(4)),
            ciphertext_digest: keccak256("ciphertext"),
            sns_ciphertext_digest: keccak256("object"),
        };
        self.requester.register(&[material]).await.unwrap();
        self.requester.allow_public(&[self.handle]).await.unwrap();
        let rights = [(self.handle, self.user.address()), (self.handle, self.app)];
        self.requester.allow_accounts(&rights).await.unwrap();
    }

    pub(super) fn sender(&self) -> Address {
        self.stack.node().sender()
    }

    pub(super) fn public_request(&self) -> NewRequest {
        self.public_request_of(1)
    }

    /// A request for the same handle, so many times.
    pub(super) fn public_request_of(&self, times: usize) -> NewRequest {
        NewRequest::PublicDecryption { handles: vec![self.handle; times], extra_data: Bytes::new() }
    }

    pub(super) async fn user_request(&self) -> NewRequest {
        let block = self.rpc("eth_getBlockByNumber", json!(["latest", false])).await;
        let now: U256 = serde_json::from_value(block["timestamp"].clone()).unwrap();
        let request = UserRequest {
            pairs: vec![(self.handle, self.app)],
            contracts: vec![self.app],
            start: now.to::<u64>() - 10,
            days: 1,
            public_key: user_key(),
            extra_data: Bytes::new(),
        };
        NewRequest::UserDecryption { user: self.user.clone(), request }
    }

    /// Makes public decryption requests.
    pub(super) async fn requests(&self, count: usize) -> Vec<Made> {
        let requests = vec![self.public_request(); count];
        let sent = self.requester.submit(&requests, Pace::AtOnce).await.unwrap();
        self.requester.made(&sent, LIMIT).await.unwrap()
    }

    /// What KMS Core answers to a request, signed by the node's signer.
    pub(super) fn result(&self, kind: Kind, id: RequestId) -> ResultRecord {
        self.signed_result(kind, id, self.answer(kind), &self.stack.node().keys().signer)
    }

    pub(super) fn answer(&self, kind: Kind) -> Answer {
        let (handles, word) = (vec![self.handle], Bytes::from(vec![7; 32]));
        let signature = unsigned();
        match kind {
            Kind::PublicDecryption => {
                Answer::PublicDecryption { handles, decrypted_result: word, extra_data: Bytes::new(), signature }
            }
            Kind::UserDecryption => Answer::UserDecryption {
                public_key: user_key(),
                handles,
                share: Bytes::from(vec![3; 1_000]),
                extra_data: Bytes::new(),
                signature,
            },
            Kind::PrepKeygen => Answer::PrepKeygen { extra_data: Bytes::new(), signature },
            Kind::Keygen => Answer::Keygen {
                prep_keygen_id: RequestId::default(),
                key_digests: vec![KeyDigest { key_type: 0, digest: word }],
                extra_data: Bytes::new(),
                signature,
            },
            Kind::Crsgen => Answer::Crsgen {
                max_bit_length: U256::from(2_048),
                crs_digest: word,
                extra_data: Bytes::new(),
                signature,
            },
            _ => Answer::Done,
        }
    }

    pub(super) fn signed_result(
        &self,
        kind: Kind,
        id: RequestId,
        mut answer: Answer,
        signer: &PrivateKeySigner,
    ) -> ResultRecord {
        let (chain, contract) = self.chain_of(kind);
        let domains = Domains::new(chain.chain_id, &chain.contracts);
        let digests = domains.signed(id, &answer).unwrap().into_iter().map(|(digest, _)| digest).collect::<Vec<_>>();
        for (digest, signature) in digests.into_iter().zip(signatures(&mut answer)) {
            *signature = Signed { signature: eip712::sign(signer, digest).unwrap(), digest, signer: signer.address() };
        }
        ResultRecord {
            source: Coordinates {
                topic: self.topics.requests(kind.lane()).to_owned(),
                partition: partition_for_key(id.0.as_slice(), 3),
                offset: 0,
            },
            deferred: None,
            identity: Identity { chain_id: chain.chain_id, contract, kind, id },
            block_number: 0,
            block_hash: B256::ZERO,
            log_index: 0,
            attempts: 1,
            answer,
        }
    }

    /// The result of a decryption while only the Gateway answers.
    pub(super) async fn result_on_gateway(&self, kind: Kind, id: RequestId) -> ResultRecord {
        let gateway = self.stack.chains().remove(0);
        let logs = self.logs(&gateway).await;
        let of = |log: &&alloy::rpc::types::Log| {
            decode_request(&gateway.contracts, &raw(log)).unwrap().is_some_and(|asked| asked.id == id)
        };
        let log = logs.iter().find(of).unwrap();
        ResultRecord {
            block_number: log.block_number.unwrap(),
            block_hash: log.block_hash.unwrap(),
            log_index: log.log_index.unwrap(),
            ..self.result(kind, id)
        }
    }

    /// Waits until the emitter's groups have read so many records together and published what came of them.
    pub(super) async fn await_read(&self, records: f64) {
        let emitter = self.stack.node().emitter();
        eventually("every record read and published", LIMIT, async || {
            let read = emitter.metric("kms_connector_stage_read_records_total").await?;
            let open = emitter.metric("kms_connector_stage_in_flight_records").await?;
            (read >= records && open == 0.0).then_some(())
        })
        .await;
    }

    /// The chain and the contract that requests of a kind come from.
    fn chain_of(&self, kind: Kind) -> (FollowedChain, Address) {
        let chains = self.stack.chains().into_iter();
        let mut serving = chains.filter_map(|chain| {
            let contract = chain.contracts.contract_of(kind)?;
            Some((chain, contract))
        });
        serving.next().unwrap()
    }

    /// Results of public decryptions.
    pub(super) fn results(&self, made: &[Made]) -> Vec<ResultRecord> {
        made.iter().map(|made| self.result(made.kind, made.id)).collect()
    }

    /// The results with the places of their requests, which takes nodes that answer.
    pub(super) async fn placed(&self, results: &[ResultRecord]) -> Vec<ResultRecord> {
        let mut results = results.to_vec();
        if results.iter().any(|result| result.block_hash.is_zero()) {
            let places = self.places().await;
            for result in results.iter_mut().filter(|result| result.block_hash.is_zero()) {
                let place = places.get(&(result.identity.kind, result.identity.id));
                let (number, hash, index) = place.copied().unwrap_or_default();
                (result.block_number, result.block_hash, result.log_index) = (number, hash, index);
            }
        }
        results
    }

    /// Writes results as the processor would: each names the place of its request. One that names a place already keeps it.
    pub(super) async fn publish(&self, results: &[ResultRecord]) {
        let codec = Codec::single_object();
        let results = self.placed(results).await;
        let records = results.iter().map(|result| {
            let topic = self.topics.results(result.identity.kind.lane()).to_owned();
            let value = codec.encode(&topic, result).unwrap();
            let names = headers("/test", std::time::SystemTime::now(), result);
            assert!(names.iter().any(|(name, _)| name == "traceparent"));
            (topic, result.identity.id.0.to_vec(), value)
        });
        self.write(records.collect()).await;
    }

    /// Every request on every chain.
    pub(super) async fn asked(&self) -> HashMap<(Kind, RequestId), Asked> {
        let mut asked = HashMap::new();
        for chain in self.stack.chains() {
            for log in self.logs(&chain).await {
                let Some(decoded) = decode_request(&chain.contracts, &raw(&log)).unwrap() else { continue };
                let found = Asked {
                    identity: Identity {
                        chain_id: chain.chain_id,
                        contract: log.address(),
                        kind: decoded.kind,
                        id: decoded.id,
                    },
                    place: (log.block_number.unwrap(), log.block_hash.unwrap(), log.log_index.unwrap()),
                    body: decoded.body,
                };
                asked.insert((decoded.kind, decoded.id), found);
            }
        }
        asked
    }

    /// Waits for a request to be on chain.
    pub(super) async fn await_asked(&self, kind: Kind, is_it: impl Fn(&Asked) -> bool) -> Asked {
        eventually(&format!("a request of kind {kind}"), LIMIT, async || {
            self.asked().await.into_values().find(|asked| asked.identity.kind == kind && is_it(asked))
        })
        .await
    }

    pub(super) async fn logs(&self, chain: &FollowedChain) -> Vec<alloy::rpc::types::Log> {
        let filter = json!([{ "address": chain.contracts.addresses(), "fromBlock": "0x0", "toBlock": "latest" }]);
        let anvil = if chain.name == "gateway" { self.stack.anvil() } else { self.stack.ethereum().unwrap() };
        serde_json::from_value(anvil.rpc("eth_getLogs", filter).await.unwrap()).unwrap()
    }

    /// Where each request stands on chain: block number, block hash, index of the log.
    pub(super) async fn places(&self) -> HashMap<(Kind, RequestId), (u64, B256, u64)> {
        self.asked().await.into_iter().map(|(key, asked)| (key, asked.place)).collect()
    }

    /// The answer that fits a request, signed by the node's signer.
    pub(super) fn result_to(&self, asked: &Asked, answer: Answer) -> ResultRecord {
        let Identity { kind, id, .. } = asked.identity;
        let mut result = self.signed_result(kind, id, answer, &self.stack.node().keys().signer);
        result.identity = asked.identity;
        (result.block_number, result.block_hash, result.log_index) = asked.place;
        result
    }

    /// Writes any bytes.
    pub(super) async fn write(&self, records: Vec<(String, Vec<u8>, Vec<u8>)>) {
        let bootstrap = self.bootstrap.clone();
        let write = move || {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", bootstrap)
                .set("partitioner", "murmur2_random")
                .set("enable.idempotence", "true")
                .create()
                .unwrap();
            for (topic, key, value) in &records {
                producer.send(BaseRecord::to(topic).key(key).payload(value)).map_err(|(error, _)| error).unwrap();
                producer.poll(Duration::ZERO);
            }
            producer.flush(LIMIT).unwrap();
        };
        tokio::task::spawn_blocking(write).await.unwrap();
    }

    /// Every committed record of a topic, decoded.
    pub(super) async fn read<R: Record>(&self, topic: &str) -> Vec<R> {
        let codec = Codec::single_object();
        let values = read_committed(&self.bootstrap, topic).await;
        values.iter().map(|value| codec.decode(topic, value).unwrap()).collect()
    }

    /// Submissions by result; there must never be two of one.
    pub(super) async fn submissions(&self) -> BTreeMap<Coordinates, Submission> {
        let mut by_result = BTreeMap::new();
        for submission in self.read::<Submission>(self.topics.submissions()).await {
            let again = by_result.insert(submission.result.clone(), submission);
            assert!(again.is_none(), "two submissions of {again:?}");
        }
        by_result
    }

    pub(super) async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.read(self.topics.dead_letters()).await
    }

    /// Waits until there are so many dead letters.
    pub(super) async fn await_dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        eventually(&format!("{count} dead letters"), LIMIT, async || {
            let letters = self.dead_letters().await;
            (letters.len() >= count).then_some(letters)
        })
        .await
    }

    /// Writes into the journal as nobody should.
    pub(super) async fn publish_intents(&self, intents: &[Intent]) {
        let codec = Codec::single_object();
        let topic = self.topics.intents().to_owned();
        let record = |intent: &Intent| {
            let key = intent_key(intent.chain_id, intent.sender, intent.nonce, intent.attempt);
            (topic.clone(), key, codec.encode(&topic, intent).unwrap())
        };
        self.write(intents.iter().map(record).collect()).await;
    }

    pub(super) async fn intents(&self) -> Vec<Intent> {
        self.read(self.topics.intents()).await
    }

    /// Waits until so many results are settled.
    pub(super) async fn await_submissions(&self, count: usize) -> Vec<Submission> {
        eventually(&format!("{count} submissions"), LIMIT, async || {
            let found = self.submissions().await;
            (found.len() >= count).then(|| found.into_values().collect())
        })
        .await
    }

    /// Waits until every one of these answers is settled as accepted, and holds the records against the chain.
    pub(super) async fn await_all_accepted(&self, made: &[Made]) -> Vec<Submission> {
        let submissions = self.await_submissions(made.len()).await;
        for submission in &submissions {
            assert!(matches!(submission.verdict, Verdict::Accepted(_)), "{submission:?}");
        }
        let on_chain = self.answers_on_chain().await;
        for request in made {
            assert_eq!(on_chain.get(&(request.kind, request.id)).map(Vec::len), Some(1), "{request:?}");
        }
        submissions
    }

    /// Transactions of this node's recorded answers on every chain, by request.
    pub(super) async fn answers_on_chain(&self) -> HashMap<(Kind, RequestId), Vec<B256>> {
        let (sender, own_signer) = (self.sender(), self.stack.node().signer());
        let mut answers: HashMap<(Kind, RequestId), Vec<B256>> = HashMap::new();
        for chain in self.stack.chains() {
            for log in self.logs(&chain).await {
                let Some(event) = decode_response(&chain.contracts, &raw(&log)).unwrap() else { continue };
                let is_ours = match &event {
                    ResponseEvent::EpochActivationConfirmation { signer, .. } => *signer == own_signer,
                    ResponseEvent::KmsContextCreationConfirmation { tx_sender, .. } => *tx_sender == sender,
                    other => other.signature().is_some(),
                };
                if is_ours {
                    answers.entry((event.kind(), event.id())).or_default().push(log.transaction_hash.unwrap());
                }
            }
        }
        answers
    }

    pub(super) async fn rpc(&self, method: &str, params: Value) -> Value {
        self.stack.anvil().rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub(super) async fn account_nonce(&self) -> u64 {
        let nonce = self.rpc("eth_getTransactionCount", json!([self.sender(), "latest"])).await;
        serde_json::from_value::<U256>(nonce).unwrap().to()
    }

    /// Somebody else uses the account: a transaction with this nonce that pays far more than an emitter would.
    pub(super) async fn use_account_elsewhere(&self, nonce: u64) {
        let raw = self.transfer(&self.stack.node().keys().sender, nonce);
        self.rpc("eth_sendRawTransaction", json!([raw])).await;
    }

    /// A transaction of this account that pays far more than an emitter would.
    pub(super) fn transfer(&self, account: &PrivateKeySigner, nonce: u64) -> Bytes {
        let transaction = TxEip1559 {
            chain_id: self.stack.contracts().gateway_chain_id,
            nonce,
            gas_limit: 50_000,
            max_fee_per_gas: 500_000_000_000,
            max_priority_fee_per_gas: 100_000_000_000,
            to: TxKind::Call(self.app),
            ..TxEip1559::default()
        };
        let signature = account.sign_hash_sync(&transaction.signature_hash()).unwrap();
        Bytes::from(TxEnvelope::from(transaction.into_signed(signature)).encoded_2718())
    }

    /// No block is made until [`Bench::mine_again`].
    pub(super) async fn stop_mining(&self) {
        self.rpc("evm_setAutomine", json!([false])).await;
        self.rpc("evm_setIntervalMining", json!([0])).await;
    }

    pub(super) async fn mine_again(&self) {
        self.rpc("evm_setAutomine", json!([true])).await;
        self.rpc("evm_mine", json!([])).await;
    }

    pub(super) async fn pending(&self) -> usize {
        let status = self.rpc("txpool_status", json!([])).await;
        let pending: U256 = serde_json::from_value(status["pending"].clone()).unwrap();
        pending.to()
    }

    /// Waits until the node's pool holds so many transactions that could be mined.
    pub(super) async fn await_pending(&self, count: usize) {
        eventually(&format!("{count} pending transactions"), LIMIT, async || {
            (self.pending().await >= count).then_some(())
        })
        .await;
    }

    /// Waits until `/readyz` fails for a reason with these words.
    pub(super) async fn await_not_ready(&self, words: &str) {
        self.await_readiness_of(self.stack.node().emitter().listen().to_string(), words).await;
    }

    pub(super) async fn await_readiness_of(&self, address: String, words: &str) {
        let url = format!("http://{address}/readyz");
        eventually(&format!("not ready: {words}"), LIMIT, async || {
            let response = get(&url).await.ok()?;
            let failed = !response.status().is_success();
            let text = response.text().await.ok()?;
            (failed && text.contains(words)).then_some(())
        })
        .await;
    }

    /// An emitter that another one is active beside: it is ready, and says so.
    pub(super) async fn await_standby(&self, address: String) {
        let url = format!("http://{address}/readyz");
        eventually("a standby that is ready", LIMIT, async || {
            let response = get(&url).await.ok()?;
            let is_ready = response.status().is_success();
            let text = response.text().await.ok()?;
            (is_ready && text.contains("standby: another emitter is active")).then_some(())
        })
        .await;
    }

    pub(super) fn app(&self) -> Address {
        self.app
    }

    /// The owner changes the record of the only node.
    pub(super) async fn register(&self, node: owner::KmsNode) {
        let one = U256::from(1);
        let call = owner::GatewayConfig::updateKmsNodesCall {
            newKmsNodes: vec![node],
            newMpcThreshold: U256::ZERO,
            newPublicDecryptionThreshold: one,
            newUserDecryptionThreshold: one,
            newKmsGenThreshold: one,
        };
        let to = Some(self.stack.contracts().gateway_config);
        let call = Call { to, data: call.abi_encode().into(), gas: 2_000_000 };
        let sent = self.requester.owner().send(&[call]).await.unwrap();
        let receipts = self.requester.gateway().receipts(&sent, LIMIT).await.unwrap();
        assert!(receipts[0].status(), "the owner's call reverted");
    }

    /// The key generation that the consensus on a preprocessing asked for.
    pub(super) async fn keygen_request(&self) -> RequestId {
        self.await_asked(Kind::Keygen, |_| true).await.identity.id
    }

    /// One answer all the way, so that the gas of its kind is known.
    pub(super) async fn warm_up(&self) -> Vec<Made> {
        let made = self.requests(1).await;
        self.publish(&self.results(&made)).await;
        self.await_all_accepted(&made).await;
        made
    }
}

/// A request on chain.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) identity: Identity,
    /// Block number, block hash, index of the log.
    pub(super) place: (u64, B256, u64),
    pub(super) body: RequestBody,
}

pub(super) fn unsigned() -> Signed {
    Signed { signature: Bytes::new(), digest: B256::ZERO, signer: Address::ZERO }
}

fn signatures(answer: &mut Answer) -> Vec<&mut Signed> {
    match answer {
        Answer::PublicDecryption { signature, .. }
        | Answer::UserDecryption { signature, .. }
        | Answer::PrepKeygen { signature, .. }
        | Answer::Keygen { signature, .. }
        | Answer::Crsgen { signature, .. } => vec![signature],
        Answer::EpochActivation { keys, crs_list, .. } => {
            let keys = keys.iter_mut().map(|key| &mut key.signature);
            keys.chain(crs_list.iter_mut().map(|crs| &mut crs.signature)).collect()
        }
        Answer::KmsContextCreated | Answer::Done | Answer::Aborted | Answer::Retracted => Vec::new(),
    }
}

fn raw(log: &alloy::rpc::types::Log) -> RawLog {
    RawLog { address: log.inner.address, topics: log.inner.data.topics().to_vec(), data: log.inner.data.data.clone() }
}

fn user_key() -> Bytes {
    Bytes::from(vec![1; 100])
}

/// Values of a topic in the order of partitions and offsets, read to the end.
async fn read_committed(bootstrap: &str, topic: &str) -> Vec<Vec<u8>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    let read = move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "emitter-test-reader")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(&topic), LIMIT).unwrap();
        let mut unread: HashSet<i32> = metadata.topics()[0].partitions().iter().map(MetadataPartition::id).collect();
        let mut assignment = TopicPartitionList::new();
        for partition in &unread {
            assignment.add_partition_offset(&topic, *partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let mut values = Vec::new();
        while !unread.is_empty() {
            match consumer.poll(LIMIT).expect("an answer of the broker") {
                Ok(message) => values.push(message.payload().unwrap_or_default().to_vec()),
                Err(KafkaError::PartitionEOF(partition)) => drop(unread.remove(&partition)),
                Err(error) if is_disturbance(&error) => {}
                Err(error) => panic!("{topic}: {error}"),
            }
        }
        values
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}
