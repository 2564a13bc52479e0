//! Writes chunks of blocks: requests, dead letters and the cursor in one transaction.
//!
//! A session is one producer: it fences its predecessor, reads the cursor, hands out where to go on, and writes until
//! the follower is done or Kafka fails. After a failure the next session starts from the cursor again, which tells
//! whether the last transaction was committed. Everything here blocks, on a thread of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kms_chain::event::{Decoded, decode_request};
use kms_runtime::kafka::{
    BatchError, OutgoingRecord, ProducerError, StoredRecord, TransactionalProducer, read_to_end, watermarks,
};
use kms_runtime::service::Context;
use kms_schemas::codec::Record;
use kms_schemas::headers::headers;
use kms_schemas::identity::{Coordinates, Kind, Lane};
use kms_schemas::record::{BlockRef, Cursor, DeadLetter, Proof, Request};
use kms_schemas::topics::{MAX_DEAD_LETTER_BYTES, MAX_RECORD_BYTES, partition_for_key, request_key};
use tokio::sync::{mpsc, oneshot};

use crate::chunk::{Chunk, TimedLog};
use crate::codes;
use crate::config::SourceConfig;
use crate::error::{SessionError, SourceError};
use crate::metrics::SourceMetrics;
use crate::numbering::Numbering;
use crate::record::{Carry, Rejected, Rejection, dead_letter, dead_log, log_coordinates, request};
use crate::resume::{CursorScan, Resume};
use crate::shown::{Shown, TopicScan};

/// Earlier cursors that a cursor names, for finding out how deep a reorganisation went.
const RECENT_BLOCKS: usize = 16;

/// Records at the end of each partition that are searched for the source's requests.
const SEARCHED_RECORDS: i64 = 1000;

/// What a record's key and framing may take beside its value.
const RECORD_FRAME_BYTES: usize = 16 << 10;

/// How long one attempt to write a batch goes on before it is reported.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Publisher {
    source: SourceConfig,
    context: Context,
    metrics: SourceMetrics,
    /// Of Kafka; the follower has one of its own for the chain.
    check: kms_runtime::http::Check,
    partitions: Partitions,
}

/// Partition counts by the catalogue, which the start has verified.
struct Partitions(Vec<(String, i32)>);

impl Partitions {
    fn of(&self, topic: &str) -> i32 {
        self.0.iter().find(|(name, _)| name == topic).map_or(1, |(_, partitions)| *partitions)
    }
}

/// What is committed so far.
struct Progress {
    numbering: Numbering,
    recent: VecDeque<BlockRef>,
    last: Option<BlockRef>,
    /// Records of others in the cursor topic, to become dead letters with the next transaction.
    foreign: Vec<OutgoingRecord>,
}

/// A log and what became of it.
struct Entry {
    timed: TimedLog,
    fate: Fate,
}

enum Fate {
    Request(Box<Decoded>),
    Dead(Rejection, Carry),
}

/// A batch as it is written.
struct Batch {
    records: Vec<OutgoingRecord>,
    /// The entry that each record comes from; none for foreign records and the cursor.
    entries: Vec<Option<usize>>,
    numbering: Numbering,
}

impl Publisher {
    pub(crate) fn new(
        source: SourceConfig,
        context: Context,
        metrics: SourceMetrics,
        check: kms_runtime::http::Check,
    ) -> Self {
        let partitions = context.topics.all().into_iter().map(|spec| (spec.name, spec.partitions)).collect();
        Self { source, context, metrics, check, partitions: Partitions(partitions) }
    }

    /// One session. Ends well when `chunks` is closed and everything in it is written.
    pub(crate) fn run(
        &self,
        chunks: &mut mpsc::Receiver<Chunk>,
        resumed: oneshot::Sender<(Resume, Option<Shown>)>,
    ) -> Result<(), SessionError> {
        let producer = self.producer()?;
        let (resume, foreign) = self.read_cursor()?;
        let shown = self.shown(&resume)?;
        self.metrics.session(resume.last.map(|block| block.number));
        self.check.ready();
        let mut progress = Progress {
            numbering: Numbering::from_sequences(&resume.sequences),
            recent: resume.recent.iter().copied().collect(),
            last: resume.last,
            foreign,
        };
        if resumed.send((resume, shown)).is_err() {
            return Ok(());
        }
        while let Some(first) = chunks.blocking_recv() {
            let began = Instant::now();
            let merged = self.merge(first, chunks);
            self.publish(&producer, &mut progress, merged, began)?;
        }
        Ok(())
    }

    fn producer(&self) -> Result<TransactionalProducer, SessionError> {
        let id = self.transactional_id();
        let max_bytes = u32::try_from(MAX_DEAD_LETTER_BYTES + RECORD_FRAME_BYTES).unwrap_or(u32::MAX);
        let made = TransactionalProducer::new(&self.context.kafka, self.context.service, &id, max_bytes);
        let producer = made.map_err(|error| self.internal(format!("no Kafka producer: {error}")))?;
        let keep_on = || {
            self.check.not_ready("Kafka does not initialise transactions");
            !self.context.shutdown.is_cancelled()
        };
        producer.init(keep_on).map_err(|error| SessionError::Lost(error.to_string()))?;
        Ok(producer)
    }

    /// Without the instance: two processes that follow one source must fence each other.
    fn transactional_id(&self) -> String {
        format!("{}.{}.{}", self.context.topics.prefix(), self.context.service, self.source.id)
    }

    fn read_cursor(&self) -> Result<(Resume, Vec<OutgoingRecord>), SessionError> {
        let topic = self.context.topics.cursor();
        let mut scan = CursorScan::new(&self.source.id, self.source.chain_id);
        // Other sources write to this partition, and their open transactions hide cursors of ours.
        let patience = self.context.kafka.transaction_timeout() * 3 + Duration::from_secs(15);
        read_to_end(&self.context.kafka, self.context.service, topic, 0, None, patience, |record| {
            scan.see(record, |bytes| self.context.codec.decode(topic, bytes));
        })?;
        let finished = scan.finish();
        let unusable = |why| SourceError::Cursor { source_id: self.source.id.clone(), why };
        let (resume, foreign) = finished.map_err(unusable)?;
        if resume.last.is_none() && !self.source.start_without_cursor {
            self.refuse_second_first_start()?;
        }
        let mut letters = Vec::new();
        for (record, error) in foreign {
            let source = Coordinates { topic: topic.to_owned(), partition: 0, offset: record.offset };
            let rejection = Rejection { reason: codes::FOREIGN_CURSOR.code, text: error.to_string() };
            self.metrics.dead_letter(rejection.reason, &rejection.text, &source.to_string());
            let what = Rejected { source, key: record.key, value: record.value.unwrap_or_default() };
            let letter = dead_letter(what, &rejection, Carry::Value, now_ms());
            letters.push(
                self.outgoing(self.context.topics.dead_letters(), letter.key.as_ref().map(|key| &key[..]), &letter)?.0,
            );
        }
        Ok((resume, letters))
    }

    /// No cursor is no start: one that was lost would have all history written again. The ends of the requests topics
    /// tell; further back only the requests of other sources could hide those of this one.
    fn refuse_second_first_start(&self) -> Result<(), SessionError> {
        for lane in Lane::ALL {
            let topic = self.context.topics.requests(lane);
            for (partition, from) in self.ends(topic)? {
                let mut is_ours = false;
                self.read_end(topic, partition, from, |record| {
                    let value = record.value.unwrap_or_default();
                    let request = self.context.codec.decode::<Request>(topic, &value);
                    is_ours |= request.is_ok_and(|request| request.source == self.source.id);
                })?;
                if is_ours {
                    let (source_id, topic) = (self.source.id.clone(), topic.to_owned());
                    return Err(SourceError::CursorLost { source_id, topic }.into());
                }
            }
        }
        Ok(())
    }

    /// What the ends of the topics show, to hold the cursor against. None without a cursor, or where it is to be believed.
    fn shown(&self, resume: &Resume) -> Result<Option<Shown>, SessionError> {
        if resume.last.is_none() || self.source.verify_cursor_blocks == 0 {
            return Ok(None);
        }
        let numbering = Numbering::from_sequences(&resume.sequences);
        let mut shown = Shown::default();
        for lane in Lane::ALL {
            let topic = self.context.topics.requests(lane);
            let mut scan = TopicScan::new(&self.source.id, numbering.next(topic));
            for (partition, from) in self.ends(topic)? {
                scan.begin(partition, from);
                self.read_end(topic, partition, from, |record| {
                    let value = record.value.unwrap_or_default();
                    if let Ok(request) = self.context.codec.decode::<Request>(topic, &value) {
                        scan.see(partition, &request, &value);
                    }
                })?;
            }
            shown.lanes.push((lane, scan.finish()));
        }
        // A second copy that is meant begins with a cursor that knows nothing of the first.
        if let Some(lane) = shown.contradicted().filter(|_| !self.source.start_without_cursor) {
            let topic = self.context.topics.requests(lane).to_owned();
            return Err(SourceError::CursorContradicted { source_id: self.source.id.clone(), topic }.into());
        }
        tracing::debug!(source = self.source.id, lanes = ?shown.lanes, "what the topics show of the cursor");
        let topic = self.context.topics.dead_letters();
        let own = partition_for_key(self.source.id.as_bytes(), self.partitions.of(topic));
        if let Some((partition, from)) = self.ends(topic)?.into_iter().find(|(partition, _)| *partition == own) {
            self.read_end(topic, partition, from, |record| {
                let letter = self.context.codec.decode::<DeadLetter>(topic, &record.value.unwrap_or_default());
                shown.dead.extend(letter.ok().map(|letter| letter.source));
            })?;
        }
        Ok(Some(shown))
    }

    /// Where the end of each partition begins that is searched.
    fn ends(&self, topic: &str) -> Result<Vec<(i32, i64)>, SessionError> {
        let ends = watermarks(&self.context.kafka, self.context.service, topic, self.partitions.of(topic))?;
        Ok((0..).zip(ends).map(|(partition, (begin, end))| (partition, begin.max(end - SEARCHED_RECORDS))).collect())
    }

    fn read_end(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        each: impl FnMut(StoredRecord),
    ) -> Result<(), SessionError> {
        let (kafka, service) = (&self.context.kafka, self.context.service);
        let patience = kafka.transaction_timeout() * 3 + Duration::from_secs(15);
        read_to_end(kafka, service, topic, partition, Some(from), patience, each)?;
        Ok(())
    }

    /// Whatever waits goes into the same transaction, so that a backlog drains as fast as Kafka takes it.
    fn merge(&self, first: Chunk, chunks: &mut mpsc::Receiver<Chunk>) -> Chunk {
        let mut merged = first;
        while merged.logs.len() < self.source.max_transaction_records {
            let Ok(next) = chunks.try_recv() else { break };
            merged.up_to = next.up_to;
            merged.logs.extend(next.logs);
        }
        self.metrics.queued(chunks.len());
        merged
    }

    fn publish(
        &self,
        producer: &TransactionalProducer,
        progress: &mut Progress,
        chunk: Chunk,
        began: Instant,
    ) -> Result<(), SessionError> {
        let mut entries: Vec<Entry> = chunk.logs.into_iter().filter_map(|timed| self.decode(timed)).collect();
        loop {
            let batch = self.render(&mut entries, progress, chunk.up_to)?;
            let opened = Instant::now();
            let on_trouble = |_: &ProducerError| self.check.not_ready("Kafka does not take transactions");
            let error = match producer.write_watched(&batch.records, opened + WRITE_PATIENCE, on_trouble) {
                Ok(_) => {
                    self.check.ready();
                    self.committed(progress, batch.numbering, &entries, chunk.up_to, began);
                    return Ok(());
                }
                Err(error) => error,
            };
            self.after_failure(error, &mut entries, &batch.entries, opened)?;
        }
    }

    /// None for a log that is no request: the filter is wider than what is followed.
    fn decode(&self, timed: TimedLog) -> Option<Entry> {
        match decode_request(&self.source.contracts(timed.release), &timed.log.raw) {
            Ok(Some(decoded)) => Some(Entry { timed, fate: Fate::Request(Box::new(decoded)) }),
            Ok(None) => None,
            Err(error) => {
                let rejection = Rejection { reason: kms_chain::codes::LOG_UNDECODABLE, text: error.to_string() };
                Some(Entry { timed, fate: Fate::Dead(rejection, Carry::Value) })
            }
        }
    }

    /// Everything that the transaction holds, with the numbering that it leads to.
    fn render(&self, entries: &mut [Entry], progress: &Progress, up_to: BlockRef) -> Result<Batch, SessionError> {
        let mut batch = Batch { records: Vec::new(), entries: Vec::new(), numbering: progress.numbering.clone() };
        for (index, entry) in entries.iter_mut().enumerate() {
            let record = match self.request_record(entry, &mut batch.numbering) {
                Some(record) => record,
                None => self.dead_record(entry)?,
            };
            batch.records.push(record);
            batch.entries.push(Some(index));
        }
        batch.records.extend(progress.foreign.iter().cloned());
        let mut recent = progress.recent.clone();
        remember(&mut recent, progress.last, up_to);
        let cursor = Cursor {
            source: self.source.id.clone(),
            chain_id: self.source.chain_id,
            block_number: up_to.number,
            block_hash: up_to.hash,
            recent: recent.into(),
            proof: Proof::Believed,
            sequences: batch.numbering.to_sequences(),
            written_ms: now_ms(),
        };
        let key = self.source.id.as_bytes();
        batch.records.push(self.outgoing(self.context.topics.cursor(), Some(key), &cursor)?.0);
        batch.entries.resize(batch.records.len(), None);
        Ok(batch)
    }

    /// The record of an entry that is a request; one that cannot be written becomes a dead letter.
    fn request_record(&self, entry: &mut Entry, numbering: &mut Numbering) -> Option<OutgoingRecord> {
        let Fate::Request(decoded) = &entry.fate else { return None };
        let topic = self.context.topics.requests(decoded.kind.lane());
        let record = request(&self.source.id, self.source.chain_id, &entry.timed, decoded, numbering.next(topic));
        let rejection = match self.context.codec.encode(topic, &record) {
            Ok(value) if value.len() + RECORD_FRAME_BYTES <= MAX_RECORD_BYTES => {
                numbering.wrote(topic, &value);
                return Some(self.addressed(topic, Some(&request_key(decoded.id)), value, &record));
            }
            Ok(value) => Rejection {
                reason: codes::RECORD_TOO_LARGE.code,
                text: format!("the record takes {} bytes, its topic {MAX_RECORD_BYTES}", value.len()),
            },
            Err(error) => Rejection { reason: error.code(), text: error.to_string() },
        };
        entry.fate = Fate::Dead(rejection, Carry::Value);
        None
    }

    fn dead_record(&self, entry: &Entry) -> Result<OutgoingRecord, SessionError> {
        let Fate::Dead(rejection, carry) = &entry.fate else {
            return Err(self.internal("a request is handled as a dead letter".to_owned()).into());
        };
        let letter = dead_log(&self.source.id, self.source.chain_id, &entry.timed, rejection, *carry, now_ms());
        Ok(self.outgoing(self.context.topics.dead_letters(), None, &letter)?.0)
    }

    fn outgoing<R: Record>(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        record: &R,
    ) -> Result<(OutgoingRecord, usize), SourceError> {
        let encoded = self.context.codec.encode(topic, record);
        let value = encoded.map_err(|error| self.internal(format!("a record cannot be encoded: {error}")))?;
        let length = value.len();
        Ok((self.addressed(topic, key, value, record), length))
    }

    fn addressed<R: Record>(&self, topic: &str, key: Option<&[u8]>, value: Vec<u8>, record: &R) -> OutgoingRecord {
        let origin = format!("/{}/ingest/{}", self.context.topics.prefix(), self.source.id);
        // What has no key of its own stays together by source.
        let spread_by = key.unwrap_or(self.source.id.as_bytes());
        OutgoingRecord {
            topic: topic.to_owned(),
            partition: Some(partition_for_key(spread_by, self.partitions.of(topic))),
            key: key.map(<[u8]>::to_vec),
            value: Some(value),
            headers: headers(&origin, SystemTime::now(), record),
        }
    }

    fn committed(
        &self,
        progress: &mut Progress,
        numbering: Numbering,
        entries: &[Entry],
        up_to: BlockRef,
        began: Instant,
    ) {
        let before = progress.last.replace(up_to);
        remember(&mut progress.recent, before, up_to);
        progress.numbering = numbering;
        progress.foreign.clear();
        let mut kinds = Kind::ALL.map(|kind| (kind, 0));
        for entry in entries {
            match &entry.fate {
                Fate::Request(decoded) => {
                    if let Some((_, count)) = kinds.iter_mut().find(|(kind, _)| *kind == decoded.kind) {
                        *count += 1;
                    }
                }
                Fate::Dead(rejection, _) => {
                    let place = log_coordinates(&self.source.id, &entry.timed.log).to_string();
                    self.metrics.dead_letter(rejection.reason, &rejection.text, &place);
                }
            }
        }
        self.metrics.committed(up_to.number, &kinds, began.elapsed());
    }

    /// `Ok` to write again, with what was refused turned into a dead letter.
    fn after_failure(
        &self,
        error: BatchError,
        entries: &mut [Entry],
        origins: &[Option<usize>],
        opened: Instant,
    ) -> Result<(), SessionError> {
        match error {
            BatchError::Refused { index, error } => {
                let origin = origins.get(index).copied().flatten();
                let entry = origin.and_then(|index| entries.get_mut(index));
                if entry.is_some_and(|entry| entry.demote(&error.to_string())) {
                    return Ok(());
                }
                let why = format!("Kafka refuses a cursor or a dead letter: {error}");
                Err(SourceError::Refused { source_id: self.source.id.clone(), why }.into())
            }
            BatchError::TimedOut(error) if self.context.shutdown.is_cancelled() => {
                Err(SessionError::Lost(error.to_string()))
            }
            BatchError::TimedOut(_) => Ok(()),
            // A broker ends a transaction that was open for too long by fencing its producer: after an outage that is no
            // sign of a successor. A transaction that was young can only have been ended by one.
            BatchError::Producer(error @ ProducerError::Fenced(_))
                if opened.elapsed() < self.context.kafka.transaction_timeout() =>
            {
                Err(SourceError::Fenced { source_id: self.source.id.clone(), error }.into())
            }
            BatchError::Producer(error) => Err(SessionError::Lost(error.to_string())),
        }
    }

    fn internal(&self, why: String) -> SourceError {
        SourceError::Internal { source_id: self.source.id.clone(), why }
    }
}

impl Entry {
    /// A step down after a refusal: request, dead letter, dead letter without value. `false` when there is none left.
    fn demote(&mut self, error: &str) -> bool {
        let (rejection, carry) = match &self.fate {
            Fate::Request(_) => {
                let reason = kms_runtime::codes::RECORD_REFUSED.code;
                (Rejection { reason, text: format!("Kafka refuses the request's record: {error}") }, Carry::Value)
            }
            Fate::Dead(rejection, Carry::Value) => (rejection.clone(), Carry::DigestOnly),
            Fate::Dead(_, Carry::DigestOnly) => return false,
        };
        self.fate = Fate::Dead(rejection, carry);
        true
    }
}

fn remember(recent: &mut VecDeque<BlockRef>, before: Option<BlockRef>, up_to: BlockRef) {
    // After a cursor that was not believed there are some above.
    recent.retain(|block| block.number < up_to.number);
    if let Some(before) = before.filter(|before| before.number < up_to.number) {
        recent.push_front(before);
        recent.truncate(RECENT_BLOCKS);
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
