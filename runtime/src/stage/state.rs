//! What the threads of a stage share, behind one lock. No I/O and no clock of its own.
//!
//! The lock is what rule 6 of the design asks for: an assignment's epoch is looked up under it when a record is admitted, when
//! an attempt ends, and when a transaction's offsets are made; so nothing of a lost assignment is ever committed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{
    commit_metadata,
    error::StageError,
    ledger::{Admission, Ledger, Limits, NextOffset, Offset},
    outcome::{InputRecord, OutputRecord},
    schedule::{Epoch, Expired, Intake, RecordId, Schedule},
};

/// Life of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// The transactional id is not ours yet: nothing may be consumed.
    Starting,
    /// Everything flows.
    Running,
    /// No intake and no new attempts; running ones may finish.
    Draining,
    /// No attempts; what is closed is published.
    Flushing,
    /// Threads end.
    Ended,
}

/// How far reading of an assigned partition has come.
#[derive(Debug)]
pub(super) enum Reading {
    /// The committed offset is being fetched, or the ledger rebuilt.
    Restoring,
    /// The consumer has to be moved to where the ledger ends.
    Restored(Ledger),
    /// Records flow.
    Consuming(Ledger),
}

/// One assigned partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) reading: Reading,
    /// Read, but the ledger was full.
    held: VecDeque<Arc<InputRecord>>,
    /// The ledger was full and has not emptied enough since.
    full: bool,
    /// As the consumer knows it. New assignments start paused.
    paused: bool,
    /// The position was not read from a commit, so it has to be committed even if nothing is finished.
    uncommitted: bool,
}

impl Partition {
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        match &self.reading {
            Reading::Restoring => None,
            Reading::Restored(ledger) | Reading::Consuming(ledger) => Some(ledger),
        }
    }

    fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        match &mut self.reading {
            Reading::Restoring => None,
            Reading::Restored(ledger) | Reading::Consuming(ledger) => Some(ledger),
        }
    }
}

/// A closed record with what it publishes.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    pub(super) id: RecordId,
    pub(super) record: Arc<InputRecord>,
    pub(super) attempts: u32,
    pub(super) outputs: Vec<OutputRecord>,
    /// How far a refused output has been replaced.
    pub(super) form: Form,
}

/// What the outputs of a closed record are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// What the handler made of it, or its deferral.
    Outcome,
    /// A dead letter with the original value.
    DeadLetter,
    /// A dead letter with a digest: the last resort.
    Digest,
}

impl Closed {
    pub(super) fn bytes(&self) -> usize {
        self.outputs.iter().map(OutputRecord::size).sum()
    }
}

/// What to commit for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) epoch: Epoch,
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) next: NextOffset,
    pub(super) metadata: String,
}

/// The offsets of a transaction, or why there are none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// Write the outputs with these.
    Commits(Vec<Commit>),
    /// Everything belonged to lost assignments.
    Nothing,
    /// The assignment changed meanwhile: look again.
    Outdated,
}

/// What the poll thread has to tell the consumer.
#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) pause: Vec<(Arc<str>, i32)>,
    /// With the position from which reading goes on.
    pub(super) resume: Vec<(Epoch, Arc<str>, i32, NextOffset)>,
}

/// What came of a batch of records that were read.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// Records that are work.
    pub(super) work: u64,
    /// Records that a predecessor had finished.
    pub(super) finished: u64,
    /// Signals for earlier records.
    pub(super) signals: Vec<(RecordId, Arc<InputRecord>)>,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) schedule: Schedule,
    /// The group has answered since the start and since an assignment was lost.
    pub(super) joined: bool,
    /// Changes with every assignment and loss: what was learned under another version is void.
    pub(super) version: u64,
    /// Positions have to be compared with what the partitions hold.
    pub(super) recheck: bool,
    partitions: BTreeMap<Epoch, Partition>,
    names: HashMap<(Arc<str>, i32), Epoch>,
    closed: VecDeque<Closed>,
    publishing: bool,
    limits: Limits,
    max_metadata: usize,
    next_epoch: u64,
}

impl State {
    pub(super) fn new(schedule: Schedule, window: u64, max_metadata: usize) -> Self {
        Self {
            phase: Phase::Starting,
            schedule,
            joined: false,
            version: 0,
            recheck: false,
            partitions: BTreeMap::new(),
            names: HashMap::new(),
            closed: VecDeque::new(),
            publishing: false,
            limits: Limits::new(window, max_metadata),
            max_metadata,
            next_epoch: 0,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = (Epoch, &Partition)> {
        self.partitions.iter().map(|(epoch, partition)| (*epoch, partition))
    }

    /// A partition was given to us.
    pub(super) fn assign(&mut self, topic: Arc<str>, partition: i32, now: Instant) -> (Epoch, Vec<RecordId>) {
        let running = self.forget(&topic, partition, now);
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        self.version += 1;
        self.names.insert((Arc::clone(&topic), partition), epoch);
        let entry = Partition {
            topic,
            partition,
            reading: Reading::Restoring,
            held: VecDeque::new(),
            full: false,
            paused: true,
            uncommitted: false,
        };
        self.partitions.insert(epoch, entry);
        (epoch, running)
    }

    /// A partition will be taken away: what is not closed is dropped. Returns what was running.
    pub(super) fn abandon(&mut self, topic: &Arc<str>, partition: i32, now: Instant) -> Vec<RecordId> {
        match self.names.get(&(Arc::clone(topic), partition)) {
            Some(epoch) => self.schedule.abandon(*epoch, now),
            None => Vec::new(),
        }
    }

    /// A partition is not ours any more. Returns what was running.
    pub(super) fn forget(&mut self, topic: &Arc<str>, partition: i32, now: Instant) -> Vec<RecordId> {
        let Some(epoch) = self.names.remove(&(Arc::clone(topic), partition)) else { return Vec::new() };
        self.partitions.remove(&epoch);
        self.closed.retain(|closed| closed.id.epoch != epoch);
        self.version += 1;
        self.schedule.lose(epoch, now)
    }

    /// Starts every assignment anew from what is committed. Returns what was running.
    pub(super) fn start_over(&mut self, now: Instant) -> Vec<RecordId> {
        let names: Vec<_> = self.names.keys().cloned().collect();
        let mut running = Vec::new();
        for (topic, partition) in names {
            let was_paused = self.partition(&topic, partition).is_none_or(|partition| partition.paused);
            let (epoch, dropped) = self.assign(topic, partition, now);
            if let Some(partition) = self.partitions.get_mut(&epoch) {
                partition.paused = was_paused;
            }
            running.extend(dropped);
        }
        running
    }

    /// Whether anything of these partitions still waits to be published.
    pub(super) fn has_unpublished(&self, names: &[(Arc<str>, i32)]) -> bool {
        names.iter().filter_map(|name| self.names.get(name)).any(|epoch| self.schedule.holds(*epoch))
    }

    /// Whether nothing waits to be published.
    pub(super) fn is_published(&self) -> bool {
        self.closed.is_empty() && !self.publishing
    }

    /// Assignments whose ledger is missing.
    pub(super) fn restoring(&self) -> Vec<(Epoch, Arc<str>, i32)> {
        self.partitions
            .iter()
            .filter(|(_, partition)| matches!(partition.reading, Reading::Restoring))
            .map(|(epoch, partition)| (*epoch, Arc::clone(&partition.topic), partition.partition))
            .collect()
    }

    /// Hands a ledger to an assignment, unless it is lost.
    pub(super) fn restored(&mut self, epoch: Epoch, ledger: Ledger, uncommitted: bool) {
        if let Some(partition) = self.partitions.get_mut(&epoch)
            && matches!(partition.reading, Reading::Restoring)
        {
            partition.reading = Reading::Restored(ledger);
            partition.uncommitted = uncommitted;
        }
    }

    /// The consumer reads from where the ledger ends.
    pub(super) fn resumed(&mut self, epoch: Epoch) {
        if let Some(partition) = self.partitions.get_mut(&epoch) {
            partition.paused = false;
            partition.reading = match std::mem::replace(&mut partition.reading, Reading::Restoring) {
                Reading::Restored(ledger) => Reading::Consuming(ledger),
                other => other,
            };
        }
    }

    /// The consumer lost its place: it has to be moved again.
    pub(super) fn reposition(&mut self, epoch: Epoch) {
        if let Some(partition) = self.partitions.get_mut(&epoch) {
            partition.held.clear();
            partition.reading = match std::mem::replace(&mut partition.reading, Reading::Restoring) {
                Reading::Consuming(ledger) => Reading::Restored(ledger),
                other => other,
            };
        }
    }

    /// What the consumer has to be told now.
    pub(super) fn commands(&mut self) -> Commands {
        let closed = self.phase != Phase::Running || self.schedule.intake() != Intake::Open;
        let mut commands = Commands::default();
        for (epoch, partition) in &mut self.partitions {
            if partition.full {
                partition.full = !partition.ledger().is_none_or(Ledger::is_relaxed);
            }
            let (position, moved) = match &partition.reading {
                Reading::Restoring => (None, false),
                Reading::Restored(ledger) => (Some(ledger.read()), true),
                Reading::Consuming(ledger) => (Some(ledger.read()), false),
            };
            let position = position.filter(|_| !closed && !partition.full && partition.held.is_empty());
            match position {
                None if !partition.paused => {
                    partition.paused = true;
                    commands.pause.push((Arc::clone(&partition.topic), partition.partition));
                }
                Some(position) if partition.paused || moved => {
                    commands.resume.push((*epoch, Arc::clone(&partition.topic), partition.partition, position));
                }
                _ => {}
            }
        }
        commands
    }

    /// Takes in what was read, and before that what was held back.
    pub(super) fn admit(&mut self, read: Vec<Arc<InputRecord>>, is_signal: impl Fn(&InputRecord) -> bool) -> Admitted {
        for record in read {
            let Some(epoch) = self.names.get(&(Arc::clone(&record.topic), record.partition)) else { continue };
            let Some(partition) = self.partitions.get_mut(epoch) else { continue };
            // Whatever arrives before the consumer was moved comes from somewhere else.
            if matches!(partition.reading, Reading::Consuming(_)) {
                partition.held.push_back(record);
            }
        }
        let mut admitted = Admitted::default();
        for (epoch, partition) in &mut self.partitions {
            let Reading::Consuming(ledger) = &mut partition.reading else { continue };
            while let Some(record) = partition.held.front() {
                let offset = Offset(record.offset);
                match ledger.admit(offset) {
                    Admission::Work => {
                        admitted.work += 1;
                        let id = RecordId { epoch: *epoch, offset };
                        let signal = is_signal(record);
                        let signalled = self.schedule.admit(id, Arc::clone(record), signal);
                        admitted
                            .signals
                            .extend(signalled.targets.into_iter().map(|target| (target, Arc::clone(record))));
                    }
                    Admission::Finished => admitted.finished += 1,
                    Admission::Seen => {}
                    Admission::Full => {
                        partition.full = true;
                        break;
                    }
                }
                partition.held.pop_front();
            }
        }
        admitted
    }

    /// Queues what a closed record publishes, unless its assignment is lost.
    pub(super) fn publish(&mut self, closed: Closed) {
        if self.partitions.contains_key(&closed.id.epoch) {
            self.schedule.resize(closed.id, closed.bytes());
            self.closed.push_back(closed);
        }
    }

    /// Whether there is anything to write a transaction for.
    pub(super) fn has_batch(&self) -> bool {
        !self.closed.is_empty() || self.partitions.values().any(|partition| partition.uncommitted)
    }

    /// Closed records waiting.
    pub(super) fn closed_count(&self) -> usize {
        self.closed.len()
    }

    /// Takes closed records for one transaction.
    pub(super) fn take_batch(&mut self, max_records: usize, max_bytes: usize) -> Vec<Closed> {
        self.publishing = true;
        let (mut batch, mut records, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = self.closed.front() {
            records += next.outputs.len();
            bytes += next.bytes();
            if !batch.is_empty() && (records > max_records || bytes > max_bytes) {
                break;
            }
            batch.extend(self.closed.pop_front());
        }
        batch
    }

    /// The batch was dealt with, one way or the other.
    pub(super) fn batch_done(&mut self) {
        self.publishing = false;
    }

    /// What to commit together with these records, whose lost ones are dropped. Only if the assignment is still the one of
    /// `version`, under which the group's metadata was taken.
    pub(super) fn commits(&self, version: u64, batch: &mut Vec<Closed>) -> Result<Prepared, StageError> {
        batch.retain(|closed| self.partitions.contains_key(&closed.id.epoch));
        if version != self.version {
            return Ok(Prepared::Outdated);
        }
        let mut finished: BTreeMap<Epoch, Vec<Offset>> = BTreeMap::new();
        for closed in batch.iter() {
            finished.entry(closed.id.epoch).or_default().push(closed.id.offset);
        }
        for (epoch, partition) in &self.partitions {
            if partition.uncommitted && partition.ledger().is_some() {
                finished.entry(*epoch).or_default();
            }
        }
        let mut commits = Vec::with_capacity(finished.len());
        for (epoch, offsets) in finished {
            let Some(partition) = self.partitions.get(&epoch) else { continue };
            let Some(mut ledger) = partition.ledger().cloned() else { continue };
            for offset in offsets {
                ledger.finish(offset);
            }
            let metadata =
                commit_metadata::encode(ledger.next(), ledger.finished(), self.max_metadata).map_err(|_| {
                    StageError::Window { topic: partition.topic.to_string(), partition: partition.partition }
                })?;
            commits.push(Commit {
                epoch,
                topic: Arc::clone(&partition.topic),
                partition: partition.partition,
                next: ledger.next(),
                metadata,
            });
        }
        Ok(if commits.is_empty() { Prepared::Nothing } else { Prepared::Commits(commits) })
    }

    /// The transaction is committed. Returns records that now hold up their partition, as far as they may be deferred.
    pub(super) fn committed(&mut self, batch: &[Closed], commits: &[Commit]) -> Vec<Expired> {
        let epochs: BTreeSet<Epoch> = commits.iter().map(|commit| commit.epoch).collect();
        for closed in batch {
            if let Some(ledger) = self.partitions.get_mut(&closed.id.epoch).and_then(Partition::ledger_mut) {
                ledger.finish(closed.id.offset);
            }
            self.schedule.published(closed.id);
        }
        let mut held_up = Vec::new();
        for epoch in epochs {
            let Some(partition) = self.partitions.get_mut(&epoch) else { continue };
            partition.uncommitted = false;
            if let Some(ledger) = partition.ledger().filter(|ledger| ledger.is_held_up()) {
                let head = RecordId { epoch, offset: Offset(ledger.next().0) };
                held_up.extend(self.schedule.hold_up(head));
            }
        }
        held_up
    }

    fn partition(&self, topic: &Arc<str>, partition: i32) -> Option<&Partition> {
        self.partitions.get(self.names.get(&(Arc::clone(topic), partition))?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::{
        breaker::BreakerPolicy,
        retry::Backoff,
        stage::{
            config::{StageConfig, StageIds},
            outcome::Outcome,
            runs::Runs,
            schedule::{Decision, Now, Start},
        },
    };

    fn state(window: u64) -> State {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(1), factor: 1.0 };
        let config = StageConfig {
            slots: 1000,
            breaker_backoff: backoff,
            ..StageConfig::new("test", vec!["in".into()], Vec::new(), StageIds::new("p", "s", "l", "0"))
        };
        let mut policy = config.policy();
        policy.breaker = BreakerPolicy { threshold: 5, backoff };
        let mut state = State::new(Schedule::new(policy), window, 4095);
        state.phase = Phase::Running;
        state
    }

    fn topic() -> Arc<str> {
        Arc::from("in")
    }

    fn record(partition: i32, offset: i64) -> Arc<InputRecord> {
        let key = Some(Bytes::from(format!("{partition}-{offset}")));
        Arc::new(InputRecord {
            topic: topic(),
            partition,
            offset,
            key,
            value: None,
            headers: Vec::new(),
            timestamp_ms: None,
        })
    }

    /// Assigns a partition and brings it to consuming from an offset on.
    fn consuming(state: &mut State, partition: i32, next: i64) -> Epoch {
        let (epoch, _) = state.assign(topic(), partition, Instant::now());
        state.restored(epoch, Ledger::restore(state.limits(), NextOffset(next), Runs::default()), false);
        state.resumed(epoch);
        epoch
    }

    fn read(state: &mut State, partition: i32, offsets: std::ops::Range<i64>) -> Admitted {
        state.admit(offsets.map(|offset| record(partition, offset)).collect(), |_| false)
    }

    fn start_all(state: &mut State) -> Vec<Start> {
        std::iter::from_fn(|| state.schedule.start(Now::read())).collect()
    }

    fn finish(state: &mut State, start: &Start) -> Decision {
        let decision = state.schedule.complete(start.id, start.run, Outcome::Done(Vec::new()), Instant::now(), 0.0);
        if matches!(decision, Decision::Publish(_)) {
            let record = Arc::clone(&start.record);
            state.publish(Closed { id: start.id, record, attempts: 1, outputs: Vec::new(), form: Form::Outcome });
        }
        decision
    }

    fn commits(state: &mut State) -> (Vec<Closed>, Prepared) {
        let mut batch = state.take_batch(1000, 1_000_000);
        let prepared = state.commits(state.version, &mut batch).expect("sets fit");
        (batch, prepared)
    }

    #[test]
    fn p2_no_transaction_before_the_first_assignment() {
        let mut state = state(100);
        assert!(!state.has_batch());
        assert_eq!(commits(&mut state).1, Prepared::Nothing);
    }

    #[test]
    fn p2_a_lost_epoch_commits_nothing() {
        let mut state = state(100);
        consuming(&mut state, 0, 0);
        read(&mut state, 0, 0..3);
        let starts = start_all(&mut state);
        finish(&mut state, &starts[0]);
        let mut batch = state.take_batch(10, 1000);
        let version = state.version;
        // Lost and given back at once: the same partition, another epoch.
        state.forget(&topic(), 0, Instant::now());
        consuming(&mut state, 0, 0);
        assert_eq!(state.commits(version, &mut batch).expect("fits"), Prepared::Outdated);
        assert_eq!(batch.len(), 0, "what was closed under the lost epoch is dropped");
        assert_eq!(finish(&mut state, &starts[1]), Decision::Stale);
        assert!(!state.has_batch());
    }

    #[test]
    fn p2_group_metadata_of_an_older_assignment_is_not_used() {
        let mut state = state(100);
        consuming(&mut state, 0, 0);
        read(&mut state, 0, 0..1);
        let starts = start_all(&mut state);
        finish(&mut state, &starts[0]);
        let version = state.version;
        consuming(&mut state, 1, 0);
        let mut batch = state.take_batch(10, 1000);
        assert_eq!(state.commits(version, &mut batch).expect("fits"), Prepared::Outdated);
        assert_eq!(batch.len(), 1, "the partition is still ours, so the outputs stay");
        assert!(matches!(state.commits(state.version, &mut batch).expect("fits"), Prepared::Commits(_)));
    }

    #[test]
    fn p2_a_commit_holds_exactly_what_its_outputs_finished() {
        let mut state = state(100);
        consuming(&mut state, 0, 10);
        read(&mut state, 0, 10..20);
        let starts = start_all(&mut state);
        finish(&mut state, &starts[3]);
        let (first, _) = commits(&mut state);
        // Closed after the batch was taken: not part of it.
        finish(&mut state, &starts[0]);
        let mut batch = first.clone();
        let Prepared::Commits(prepared) = state.commits(state.version, &mut batch).expect("fits") else { panic!() };
        assert_eq!(prepared[0].next, NextOffset(10));
        let decoded = commit_metadata::decode(NextOffset(10), &prepared[0].metadata).expect("decodes");
        assert_eq!(decoded, [13].into_iter().collect::<Runs>());
        // Aborted: asked again, it says the same.
        let Prepared::Commits(again) = state.commits(state.version, &mut batch).expect("fits") else { panic!() };
        assert_eq!(again, prepared);
        state.committed(&batch, &prepared);
        let (_, Prepared::Commits(next)) = commits(&mut state) else { panic!() };
        assert_eq!(next[0].next, NextOffset(11));
    }

    #[test]
    fn p6_what_does_not_fit_the_window_is_held_back_and_the_partition_paused() {
        let mut state = state(4);
        let epoch = consuming(&mut state, 0, 0);
        assert_eq!(read(&mut state, 0, 0..6).work, 4);
        assert_eq!(state.commands().pause, [(topic(), 0)]);
        let starts = start_all(&mut state);
        starts.iter().for_each(|start| assert!(matches!(finish(&mut state, start), Decision::Publish(_))));
        let (batch, Prepared::Commits(prepared)) = commits(&mut state) else { panic!() };
        state.committed(&batch, &prepared);
        assert_eq!(state.admit(Vec::new(), |_| false).work, 2, "what was held back comes in");
        assert_eq!(state.commands().resume, [(epoch, topic(), 0, NextOffset(6))]);
    }

    #[test]
    fn p2_records_that_arrive_before_the_consumer_was_moved_are_dropped() {
        let mut state = state(100);
        let (epoch, _) = state.assign(topic(), 0, Instant::now());
        assert_eq!(read(&mut state, 0, 500..510).work, 0);
        state.restored(epoch, Ledger::restore(state.limits(), NextOffset(7), Runs::default()), false);
        assert_eq!(read(&mut state, 0, 500..510).work, 0);
        assert_eq!(state.commands().resume, [(epoch, topic(), 0, NextOffset(7))]);
        state.resumed(epoch);
        assert!(state.commands().resume.is_empty());
        assert_eq!(read(&mut state, 0, 7..8).work, 1);
    }

    #[test]
    fn a_position_that_was_never_committed_is_committed_at_once() {
        let mut state = state(100);
        let (epoch, _) = state.assign(topic(), 0, Instant::now());
        state.restored(epoch, Ledger::restore(state.limits(), NextOffset(0), Runs::default()), true);
        assert!(state.has_batch());
        let (batch, Prepared::Commits(prepared)) = commits(&mut state) else { panic!() };
        assert_eq!((prepared[0].next, prepared[0].metadata.as_str()), (NextOffset(0), ""));
        state.committed(&batch, &prepared);
        assert!(!state.has_batch());
    }

    #[test]
    fn p2_starting_over_voids_everything_in_flight() {
        let mut state = state(100);
        consuming(&mut state, 0, 0);
        read(&mut state, 0, 0..2);
        let starts = start_all(&mut state);
        finish(&mut state, &starts[0]);
        assert_eq!(state.start_over(Instant::now()), [starts[1].id]);
        assert!(!state.has_batch());
        assert_eq!(state.restoring().len(), 1);
    }
}
