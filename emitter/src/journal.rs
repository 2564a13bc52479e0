//! The journal: every byte string that can reach the chain is committed to `emitter.intents` before it is sent.
//!
//! A thread of its own has signed what the planner wants signed ([`crate::signing`]) and commits it in transactions of the leader's fenced producer.
//! It commits whatever waits, so batches grow by themselves and nothing waits for a timer. A paused predecessor can neither
//! journal nor, therefore, send anything that its successor does not know.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use alloy::primitives::{Address, Bytes, keccak256};
use kms_runtime::kafka::{
    BatchError, KafkaConfig, LogContext, OutgoingRecord, ProducerError, ReadError, StoredRecord, TransactionalProducer,
    read_to_end,
};
use kms_schemas::codec::{Codec, CodecError};
use kms_schemas::headers::headers;
use kms_schemas::identity::Coordinates;
use kms_schemas::record::{DeadLetter, Intent, IntentItem};
use kms_schemas::topics::{MAX_RECORD_BYTES, Topics, intent_key};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_ms;
use crate::codes::FOREIGN_INTENT;
use crate::executor;
use crate::fees::Fees;
use crate::handler::SERVICE;
use crate::metrics::Metrics;
use crate::nonce::{Millis, Nonce, Variant};
use crate::signing::Signing;
use crate::submitter::ItemKey;
use crate::wallet::{self, Payload, SignedTransaction, Wallet};

/// What the planner wants signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Nonce to use.
    pub nonce: Nonce,
    /// Number of the variant.
    pub attempt: u32,
    /// The results inside.
    pub items: Vec<(ItemKey, IntentItem)>,
    /// What the transaction does.
    pub payload: Payload,
    /// What it pays.
    pub fees: Fees,
}

/// What the journal's producer is to write.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A transaction to sign and to commit.
    Draft(Draft),
    /// What came of a person's command: fenced like the transactions.
    Note(OutgoingRecord),
}

/// What came of a draft.
#[derive(Debug)]
pub enum Journalled {
    /// It is committed and may be sent.
    Committed {
        /// Its nonce.
        nonce: Nonce,
        /// The bytes.
        variant: Variant<ItemKey>,
        /// Where it lies.
        offset: i64,
    },
    /// It can never be journalled.
    Refused {
        /// Its nonce.
        nonce: Nonce,
        /// Why.
        reason: String,
    },
}

/// Why the journal stopped.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The client library refuses the settings.
    #[error("the journal's producer cannot be made: {0}")]
    Client(KafkaError),
    /// Fenced, or failed for good.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The topic cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Watermarks cannot be read.
    #[error("the end of the journal cannot be found: {0}")]
    Watermarks(KafkaError),
    /// A record is, as its framing says, of a schema that this release does not know.
    #[error("the journal's record at offset {offset} cannot be read: {source}")]
    Undecodable {
        /// Its offset.
        offset: i64,
        /// Why.
        source: CodecError,
    },
    /// What was written by others cannot be kept as dead letters yet.
    #[error("dead letters cannot be written: {0}")]
    DeadLetters(ProducerError),
    /// The shutdown came first.
    #[error("stopped before the journal was read")]
    Cancelled,
}

/// An intent of ours with its place.
#[derive(Clone, Debug)]
pub struct StoredIntent {
    /// Offset in `emitter.intents`.
    pub offset: i64,
    /// The intent.
    pub intent: Intent,
}

/// Foreign records kept as dead letters per start; more are only logged.
const MOST_FOREIGN: usize = 1_000;

/// What the journal holds.
#[derive(Default)]
struct Found {
    /// Of this sender.
    intents: Vec<StoredIntent>,
    /// Written by nobody's journal.
    foreign: Vec<Foreign>,
}

impl Found {
    fn keep(&mut self, record: StoredRecord, code: &'static str, text: String) {
        if self.foreign.len() < MOST_FOREIGN {
            self.foreign.push(Foreign { record, code, text });
        } else {
            tracing::warn!(offset = record.offset, code, reason = text, "foreign record in the journal");
        }
    }
}

/// The journal of one sender on one chain.
pub struct Journal {
    producer: TransactionalProducer,
    kafka: Arc<KafkaConfig>,
    codec: Codec,
    topic: String,
    source: String,
    account: Account,
    metrics: Metrics,
}

/// Whose journal it is.
#[derive(Clone, Debug)]
pub struct Account {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The transaction sender.
    pub wallet: Wallet,
    /// Whether this destination speaks for what is nobody's.
    pub is_first: bool,
}

/// What is in the journal and is no release's writing, or not its sender's.
struct Foreign {
    record: StoredRecord,
    code: &'static str,
    text: String,
}

impl Journal {
    /// Fences every predecessor of this sender. Blocking.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn take_over(
        kafka: Arc<KafkaConfig>,
        topics: &Topics,
        codec: Codec,
        account: Account,
        metrics: Metrics,
        keep_on: impl FnMut() -> bool,
    ) -> Result<Self, JournalError> {
        // Not by instance: whoever leads must fence whoever led.
        let (chain_id, sender) = (account.chain_id, account.wallet.address());
        let id = format!("{}.emitter.intents.{chain_id}.{sender:#x}", topics.prefix());
        let limit = u32::try_from(MAX_RECORD_BYTES).unwrap_or(u32::MAX);
        let producer = TransactionalProducer::new(&kafka, "emitter", &id, limit).map_err(JournalError::Client)?;
        producer.init(keep_on)?;
        let source = format!("/{}/emitter", topics.prefix());
        Ok(Self { producer, kafka, codec, topic: topics.intents().to_owned(), source, account, metrics })
    }

    /// Reads what may still matter: every intent of this sender from `settled_below` of the newest one on. Blocking.
    ///
    /// # Errors
    /// See [`JournalError`]. A record of an unknown schema is an error: a newer release may have written it, and it could be bytes that
    /// reach the chain. What no release writes becomes a dead letter, and so does what names this sender without being what
    /// its key signed for the results that it names.
    pub fn read(&self) -> Result<Vec<StoredIntent>, JournalError> {
        const FIRST_STEP: i64 = 1_000;
        let (begin, end) = self.watermarks()?;
        let mut step = FIRST_STEP;
        let found = loop {
            let from = (end - step).max(begin);
            let found = self.read_from(from)?;
            match found.intents.last() {
                Some(newest) => {
                    let bound = newest.intent.settled_below.max(begin);
                    let mut found = if bound < from { self.read_from(bound)? } else { found };
                    found.intents.retain(|stored| stored.offset >= bound);
                    break found;
                }
                None if from == begin => break found,
                None => step = step.saturating_mul(8),
            }
        };
        self.bury(found.foreign)?;
        Ok(found.intents)
    }

    fn read_from(&self, from: i64) -> Result<Found, JournalError> {
        let patience = self.patience();
        let mut found = Found::default();
        let mut broken = None;
        let (chain_id, sender) = (self.account.chain_id, self.account.wallet.address());
        read_to_end(&self.kafka, "emitter", &self.topic, 0, Some(from), patience, |record| {
            match self.codec.decode::<Intent>(&self.topic, record.value.as_deref().unwrap_or_default()) {
                Ok(intent) if intent.chain_id == chain_id && intent.sender == sender => match genuine(&intent) {
                    Ok(()) => found.intents.push(StoredIntent { offset: record.offset, intent }),
                    Err(text) => found.keep(record, FOREIGN_INTENT, text.to_owned()),
                },
                // Another sender's, of another deployment on this prefix or from before a change of wallet.
                Ok(_) => {}
                Err(
                    source @ (CodecError::UnknownFingerprint { .. }
                    | CodecError::UnknownSchemaId { .. }
                    | CodecError::NoRegistry { .. }),
                ) => {
                    broken.get_or_insert(JournalError::Undecodable { offset: record.offset, source });
                }
                // Kafka keeps bytes as they were written, and no release writes these.
                Err(error) if self.account.is_first => found.keep(record, error.code(), error.to_string()),
                Err(_) => {}
            }
        })?;
        match broken {
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    /// Longest wait for open transactions of others to end.
    fn patience(&self) -> Duration {
        self.kafka.transaction_timeout() + Duration::from_secs(20)
    }

    /// Keeps what others wrote into the journal as dead letters, unless a start before this one did.
    fn bury(&self, mut foreign: Vec<Foreign>) -> Result<(), JournalError> {
        if foreign.is_empty() {
            return Ok(());
        }
        let topics = Topics::new(&self.kafka.topic_prefix);
        let known = self.buried(&topics)?;
        foreign.retain(|one| !known.contains(&one.record.offset));
        let mut letters = Vec::with_capacity(foreign.len());
        for one in foreign {
            let (offset, code, reason) = (one.record.offset, one.code, &one.text);
            tracing::warn!(offset, code, reason, "foreign record in the journal, kept as a dead letter");
            letters.extend(self.dead_letter(topics.dead_letters(), one));
        }
        while !letters.is_empty() {
            match self.producer.write(&letters, Instant::now() + Duration::from_secs(30)) {
                Ok(_) => break,
                Err(BatchError::Refused { index, error }) => {
                    tracing::error!(%error, "the broker refuses a dead letter");
                    letters.remove(index);
                }
                Err(BatchError::TimedOut(error)) => return Err(JournalError::DeadLetters(error)),
                Err(BatchError::Producer(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Offsets in the journal that dead letters name. Only read where there is something foreign.
    fn buried(&self, topics: &Topics) -> Result<HashSet<i64>, JournalError> {
        let topic = topics.dead_letters();
        let partitions = topics.all().into_iter().find(|spec| spec.name == topic).map_or(0, |spec| spec.partitions);
        let mut offsets = HashSet::new();
        for partition in 0..partitions {
            read_to_end(&self.kafka, SERVICE, topic, partition, None, self.patience(), |record| {
                let letter = self.codec.decode::<DeadLetter>(topic, record.value.as_deref().unwrap_or_default());
                offsets
                    .extend(letter.ok().map(|one| one.source).filter(|at| at.topic == self.topic).map(|at| at.offset));
            })?;
        }
        Ok(offsets)
    }

    fn dead_letter(&self, topic: &str, foreign: Foreign) -> Option<OutgoingRecord> {
        /// Above it, length and digest have to do: the letter must fit what the journal's producer takes.
        const LARGEST_VALUE: usize = MAX_RECORD_BYTES / 2;
        let now = SystemTime::now();
        let Foreign { record, code, text } = foreign;
        let value = record.value.unwrap_or_default();
        let letter = DeadLetter {
            service: SERVICE.to_owned(),
            source: Coordinates { topic: self.topic.clone(), partition: 0, offset: record.offset },
            request: None,
            identity: None,
            key: record.key.clone().map(Bytes::from),
            value_bytes: value.len() as u64,
            value_digest: keccak256(&value),
            value: (value.len() <= LARGEST_VALUE).then(|| value.into()),
            reason: code.to_owned(),
            text,
            attempts: 1,
            dead_ms: unix_ms(now),
        };
        // Every field of a dead letter fits its schema.
        let value = self.codec.encode(topic, &letter).ok()?;
        Some(OutgoingRecord {
            topic: topic.to_owned(),
            partition: None,
            key: Some(record.key.unwrap_or_default()),
            value: Some(value),
            headers: headers(&self.source, now, &letter),
        })
    }

    fn watermarks(&self) -> Result<(i64, i64), JournalError> {
        let group = format!("{}.emitter.reader", self.kafka.topic_prefix);
        let mut settings = self.kafka.consumer("emitter", &group);
        settings.set("isolation.level", "read_uncommitted");
        let consumer: BaseConsumer<LogContext> =
            settings.create_with_context(LogContext).map_err(JournalError::Client)?;
        consumer.fetch_watermarks(&self.topic, 0, self.kafka.request_timeout()).map_err(JournalError::Watermarks)
    }

    /// Has drafts signed and commits them until their channel closes. Blocking: the body of a thread.
    ///
    /// # Errors
    /// When fenced, or when the client failed for good.
    pub fn run(
        &self,
        mut drafts: mpsc::Receiver<Entry>,
        journalled: &mpsc::Sender<Journalled>,
        settled_below: &AtomicI64,
        batch: usize,
        signing: &Signing,
        stop: &CancellationToken,
    ) -> Result<(), JournalError> {
        let batch = signing.together(batch);
        while let Some(first) = drafts.blocking_recv() {
            let mut waiting = vec![first];
            while waiting.len() < batch {
                let Ok(draft) = drafts.try_recv() else { break };
                waiting.push(draft);
            }
            let (mut drafts, mut notes) = (Vec::with_capacity(waiting.len()), Vec::new());
            for entry in waiting {
                match entry {
                    Entry::Draft(draft) => drafts.push(draft),
                    Entry::Note(note) => notes.push(note),
                }
            }
            for outcome in self.commit((drafts, notes), settled_below.load(Ordering::Acquire), signing, stop)? {
                if journalled.blocking_send(outcome).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn commit(
        &self,
        (drafts, notes): (Vec<Draft>, Vec<OutgoingRecord>),
        settled_below: i64,
        signing: &Signing,
        stop: &CancellationToken,
    ) -> Result<Vec<Journalled>, JournalError> {
        let mut outcomes = Vec::with_capacity(drafts.len());
        let mut signed = Vec::with_capacity(drafts.len());
        let mut records = Vec::with_capacity(drafts.len());
        let bytes = signing.sign(&drafts, stop);
        for (draft, bytes) in drafts.into_iter().zip(bytes) {
            let nonce = draft.nonce;
            // What a shutdown overtook is signed by whoever comes next.
            let Some(bytes) = bytes else { continue };
            match bytes.and_then(|bytes| self.record(draft, bytes, settled_below)) {
                Ok((variant, record)) => {
                    signed.push((nonce, variant));
                    records.push(record);
                }
                Err(reason) => outcomes.push(Journalled::Refused { nonce, reason }),
            }
        }
        let started = Instant::now();
        // Behind the intents, whose places are those of what was signed.
        records.extend(notes);
        while !records.is_empty() {
            match self.producer.write(&records, Instant::now() + Duration::from_secs(30)) {
                Ok(written) => {
                    self.metrics.journal_committed(signed.len(), started.elapsed());
                    for ((nonce, variant), (_, offset)) in signed.into_iter().zip(written) {
                        outcomes.push(Journalled::Committed { nonce, variant, offset });
                    }
                    break;
                }
                Err(BatchError::Refused { index, error }) => {
                    records.remove(index);
                    if index >= signed.len() {
                        tracing::error!(%error, "the broker refuses the outcome of a command");
                        continue;
                    }
                    let (nonce, _) = signed.remove(index);
                    outcomes.push(Journalled::Refused { nonce, reason: error.to_string() });
                }
                Err(BatchError::TimedOut(_)) if stop.is_cancelled() => break,
                Err(BatchError::TimedOut(error)) => {
                    tracing::warn!(%error, "the journal cannot be written, trying again");
                }
                Err(BatchError::Producer(error)) => return Err(error.into()),
            }
        }
        Ok(outcomes)
    }

    /// The bytes and their record; else why there can be none.
    fn record(
        &self,
        draft: Draft,
        signed: SignedTransaction,
        settled_below: i64,
    ) -> Result<(Variant<ItemKey>, OutgoingRecord), String> {
        let Draft { nonce, attempt, items, payload: _, fees } = draft;
        let SignedTransaction { raw, hash } = signed;
        let (keys, items): (Vec<ItemKey>, Vec<IntentItem>) = items.into_iter().unzip();
        let (chain_id, sender) = (self.account.chain_id, self.account.wallet.address());
        let intent = Intent {
            chain_id,
            sender,
            nonce: nonce.0,
            attempt,
            raw: raw.clone(),
            hash,
            items,
            settled_below,
            written_ms: unix_ms(SystemTime::now()),
        };
        let value = self.codec.encode(&self.topic, &intent).map_err(|error| error.to_string())?;
        let record = OutgoingRecord {
            topic: self.topic.clone(),
            partition: Some(0),
            key: Some(intent_key(chain_id, sender, nonce.0, attempt)),
            value: Some(value),
            headers: headers(&self.source, SystemTime::now(), &intent),
        };
        Ok((Variant { attempt, hash, raw, fees, items: keys }, record))
    }
}

/// Whether an intent is what its sender's key signed, for the very results that it names; else what contradicts that.
///
/// Whoever can write to the journal could otherwise have foreign bytes sent, occupy nonces, or have results believed to be
/// carried by a transaction that carries others. What he still can do is write an old record once more, which says
/// nothing new.
fn genuine(intent: &Intent) -> Result<(), &'static str> {
    let Some(signed) = wallet::read_back(&intent.raw) else { return Err("its bytes are no transaction") };
    if signed.sender != Some(intent.sender) {
        return Err("its transaction is signed by another key than its sender's");
    }
    if signed.chain_id != Some(intent.chain_id) || signed.nonce.0 != intent.nonce || signed.hash != intent.hash {
        return Err("its transaction has another chain, nonce or hash than it says");
    }
    let Some(calls) = calls_for(&signed.payload, intent.sender, intent.items.len()) else {
        return Err("its transaction carries another number of answers than it says");
    };
    let carries = |(item, call): (&IntentItem, &Payload)| {
        // Every response function has the request's id as its first argument.
        item.identity.chain_id == intent.chain_id
            && item.identity.contract == call.to
            && call.data.get(4..36) == Some(item.identity.id.0.as_slice())
    };
    if intent.items.iter().zip(&calls).all(carries) {
        Ok(())
    } else {
        Err("its transaction carries another answer than it says")
    }
}

/// The calls that a transaction of the sender makes for so many answers, in their order; none if it makes another number of
/// them. One answer is the call itself, several are a batch.
#[must_use]
pub fn calls_for(transaction: &Payload, sender: Address, answers: usize) -> Option<Vec<Payload>> {
    let calls = match answers {
        0 => Vec::new(),
        1 => vec![transaction.clone()],
        _ => executor::read_batch(sender, transaction)?,
    };
    (calls.len() == answers).then_some(calls)
}

/// Which offsets of the journal are still open; from it follows where recovery may start to read. Pure.
///
/// A nonce's records stay open for a while after it is over, because the submission record of its result is committed by
/// somebody else: a result that comes back after a crash must find its transaction.
#[derive(Debug)]
pub struct OpenIntents {
    memory_ms: u64,
    /// Nonce of every open offset.
    open: BTreeMap<i64, Nonce>,
    by_nonce: HashMap<Nonce, Vec<i64>>,
    closing: VecDeque<(Millis, Vec<i64>)>,
    /// One above the newest offset known.
    end: i64,
}

impl OpenIntents {
    /// Nothing open yet; offsets are kept for `memory_ms` after they were closed.
    #[must_use]
    pub fn new(memory_ms: u64) -> Self {
        Self { memory_ms, open: BTreeMap::new(), by_nonce: HashMap::new(), closing: VecDeque::new(), end: 0 }
    }

    /// A record of this nonce lies at this offset.
    pub fn add(&mut self, nonce: Nonce, offset: i64) {
        self.open.insert(offset, nonce);
        self.by_nonce.entry(nonce).or_default().push(offset);
        self.end = self.end.max(offset + 1);
    }

    /// The nonce is over.
    pub fn close(&mut self, nonce: Nonce, now: Millis) {
        if let Some(offsets) = self.by_nonce.remove(&nonce) {
            self.closing.push_back((now.plus(self.memory_ms), offsets));
        }
    }

    /// The offset below which nothing matters any more.
    pub fn settled_below(&mut self, now: Millis) -> i64 {
        while let Some((due, _)) = self.closing.front() {
            if *due > now {
                break;
            }
            for offset in self.closing.pop_front().map(|(_, offsets)| offsets).unwrap_or_default() {
                self.open.remove(&offset);
            }
        }
        self.open.keys().next().copied().unwrap_or(self.end)
    }

    /// Records that are still open, for a gauge.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use futures::FutureExt as _;
    use kms_runtime::config::Secret;
    use kms_schemas::identity::{Identity, Kind, RequestId};

    use super::*;

    const ID: RequestId = RequestId(B256::repeat_byte(3));

    fn sign(wallet: &Wallet, payload: &Payload) -> SignedTransaction {
        let signing = wallet.sign(7, Nonce(4), payload, Fees { max_fee: 10, priority: 1 });
        signing.now_or_never().unwrap().unwrap()
    }

    /// An intent as the journal writes it: one answer to request 3 of contract 5.
    fn intent() -> Intent {
        let wallet = Wallet::new(&Secret::new(format!("0x{}", "11".repeat(32)))).unwrap();
        let data = [&[1, 2, 3, 4][..], ID.0.as_slice(), &[9; 64]].concat();
        let payload = Payload { to: Address::repeat_byte(5), data: data.into(), gas_limit: 100_000 };
        let signed = sign(&wallet, &payload);
        let contract = Address::repeat_byte(5);
        let identity = Identity { chain_id: 7, contract, kind: Kind::PublicDecryption, id: ID };
        let result = Coordinates { topic: "results".to_owned(), partition: 0, offset: 1 };
        Intent {
            chain_id: 7,
            sender: wallet.address(),
            nonce: 4,
            attempt: 0,
            raw: signed.raw,
            hash: signed.hash,
            items: vec![IntentItem { result, identity }],
            settled_below: 0,
            written_ms: 0,
        }
    }

    #[test]
    fn what_the_journal_writes_is_believed_when_it_is_read_back() {
        assert_eq!(genuine(&intent()), Ok(()));
        // A gap's filler carries nothing.
        assert_eq!(genuine(&Intent { items: Vec::new(), ..intent() }), Ok(()));
    }

    /// An intent of a batch with answers to these requests, signed for those.
    fn batch(named: &[u8], signed_for: &[u8]) -> Intent {
        let wallet = Wallet::new(&Secret::new(format!("0x{}", "11".repeat(32)))).unwrap();
        let call = |id: &u8| Payload {
            to: Address::repeat_byte(5),
            data: [&[1, 2, 3, 4][..], B256::repeat_byte(*id).as_slice(), &[9; 64]].concat().into(),
            gas_limit: 100_000,
        };
        let payload = executor::batch(wallet.address(), &signed_for.iter().map(call).collect::<Vec<_>>());
        let signed = sign(&wallet, &payload);
        let single = intent();
        let item = |id: &u8| {
            let mut item = single.items[0].clone();
            item.identity.id = RequestId(B256::repeat_byte(*id));
            item
        };
        Intent { raw: signed.raw, hash: signed.hash, items: named.iter().map(item).collect(), ..single.clone() }
    }

    #[test]
    fn p4_a_batch_is_believed_for_the_answers_that_it_carries_in_their_order() {
        assert_eq!(genuine(&batch(&[3, 4, 5], &[3, 4, 5])), Ok(()));
        for (named, signed_for) in [
            (&[3, 4][..], &[3, 4, 5][..]),
            (&[3, 4, 5, 6], &[3, 4, 5]),
            (&[3, 5, 4], &[3, 4, 5]),
            (&[3, 4, 6], &[3, 4, 5]),
            (&[3], &[3, 4]),
        ] {
            assert!(genuine(&batch(named, signed_for)).is_err(), "{named:?} for {signed_for:?}");
        }
    }

    #[test]
    fn p4_an_intent_that_its_sender_did_not_sign_for_its_results_is_not_believed() {
        let changes: [fn(&mut Intent); 8] = [
            |one| one.sender = Address::repeat_byte(1),
            |one| one.raw = Bytes::from_static(b"anything"),
            |one| one.nonce = 5,
            |one| one.hash = B256::ZERO,
            |one| one.chain_id = 8,
            |one| one.items[0].identity.id = RequestId(B256::repeat_byte(4)),
            |one| one.items[0].identity.contract = Address::repeat_byte(6),
            |one| {
                // A transaction of somebody else, put under our name.
                let other = Wallet::new(&Secret::new(format!("0x{}", "22".repeat(32)))).unwrap();
                let payload = wallet::read_back(&one.raw).unwrap().payload;
                let signed = sign(&other, &payload);
                (one.raw, one.hash) = (signed.raw, signed.hash);
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut forged = intent();
            change(&mut forged);
            assert!(genuine(&forged).is_err(), "change {index}");
        }
    }

    #[test]
    fn recovery_reads_from_the_lowest_open_record_on() {
        let mut open = OpenIntents::new(100);
        for (nonce, offset) in [(0, 10), (1, 11), (0, 13), (2, 14)] {
            open.add(Nonce(nonce), offset);
        }
        assert_eq!(open.settled_below(Millis(0)), 10);
        open.close(Nonce(1), Millis(0));
        assert_eq!(open.settled_below(Millis(1_000)), 10);
        open.close(Nonce(0), Millis(1_000));
        assert_eq!(open.settled_below(Millis(1_099)), 10);
        assert_eq!(open.settled_below(Millis(1_100)), 14);
    }

    #[test]
    fn with_nothing_open_recovery_reads_nothing_old() {
        let mut open = OpenIntents::new(0);
        open.add(Nonce(0), 10);
        open.close(Nonce(0), Millis(0));
        assert_eq!(open.settled_below(Millis(0)), 11);
        assert!(open.is_empty());
    }
}
