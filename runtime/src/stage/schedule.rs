//! What runs when. Pure: the caller brings clock and randomness, starts the attempts and reports how they end.
//!
//! ```text
//!             key is free                 slot is free                      published
//!   Blocked ──────────────▶ Ready ─────────────────────▶ Running ─▶ Closed ───────────▶ forgotten
//!                             ▲                            │ ▲        ▲
//!                             └──────── Waiting ◀──────────┘ │        │ time is up: deferred or dead letter
//!                               delay over     retry         └────────┘
//! ```
//!
//! Records of one key of one assignment run one after the other. A waiting record holds its place in the ledger's window,
//! not a slot. While a breaker is open nothing starts but one probe at a time, and no record grows older.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    error::{TIME_EXHAUSTED, TOO_SLOW},
    ledger::Offset,
    outcome::{Failure, InputRecord, Outcome, OutputRecord, Reach},
};
use crate::{
    breaker::{Breaker, BreakerPolicy, Gate},
    retry::Backoff,
};

/// One assignment of one partition. Never used twice, so that what belongs to a lost assignment is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// One record of one assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    /// The assignment.
    pub epoch: Epoch,
    /// The record.
    pub offset: Offset,
}

/// One start of one record. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run(u64);

/// Both clocks, read once per decision.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For durations.
    pub instant: Instant,
    /// For people.
    pub system: SystemTime,
}

impl Now {
    /// The clocks now.
    #[must_use]
    pub fn read() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }
}

/// The limits that a schedule keeps.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Attempts that run at once.
    pub slots: usize,
    /// Bytes of records above which intake pauses, and of unpublished outputs above which nothing starts.
    pub bytes: usize,
    /// Age at which a record is offered for deferral.
    pub defer_after: Duration,
    /// Attempts that make a dead letter.
    pub max_attempts: u32,
    /// Age that makes a dead letter.
    pub time_limit: Option<Duration>,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// Breakers of the dependencies.
    pub breaker: BreakerPolicy,
}

/// An attempt to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// The record.
    pub id: RecordId,
    /// This start of it.
    pub run: Run,
    /// The record itself.
    pub record: Arc<InputRecord>,
    /// Attempt number, from 1; outages not counted.
    pub number: u32,
    /// It was started before, in this assignment.
    pub repeated: bool,
    /// When the first attempt began.
    pub first_started: SystemTime,
    /// Signals that arrived so far.
    pub signals: Vec<Arc<InputRecord>>,
}

/// What is known of a record that leaves the schedule other than by success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The record.
    pub id: RecordId,
    /// The record itself.
    pub record: Arc<InputRecord>,
    /// Attempts made, outages not counted.
    pub attempts: u32,
    /// Milliseconds since 1970 when the first attempt began.
    pub first_ms: u64,
    /// Why.
    pub why: Failure,
}

/// What follows from the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The attempt belongs to a lost assignment, or somebody decided about the record meanwhile: drop the outcome.
    Stale,
    /// The record is closed; publish these.
    Publish(Vec<OutputRecord>),
    /// The record is closed; publish a dead letter.
    DeadLetter(Leaving),
    /// Try to defer: then [`Schedule::close`] or [`Schedule::keep`].
    Defer(Leaving),
    /// It waits for its next attempt.
    Wait,
}

/// A record whose time is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Try to defer: then [`Schedule::close`] or [`Schedule::keep`]. It may go on running meanwhile.
    Defer(Leaving),
    /// The record is closed; cancel it and publish a dead letter.
    DeadLetter(Leaving),
}

/// What a record that was admitted means for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signalled {
    /// Earlier records of its key that now have one signal more.
    pub targets: Vec<RecordId>,
}

/// Why intake is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// It is not.
    Open,
    /// Too many bytes in memory.
    Bytes,
    /// A dependency is down.
    Outage,
}

/// Numbers for gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts running.
    pub running: usize,
    /// Records ready for a slot.
    pub ready: usize,
    /// Records waiting for a retry.
    pub waiting: usize,
    /// Records held in memory.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Bytes of outputs that wait to be published.
    pub unpublished_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Blocked,
    Ready,
    Running(Run),
    Waiting { due: Instant },
    Closed { output_bytes: usize },
}

#[derive(Clone, Copy, Debug)]
struct First {
    at: Now,
    /// The outage clock at that moment.
    outage: Duration,
}

#[derive(Debug)]
struct Entry {
    record: Arc<InputRecord>,
    size: usize,
    phase: Phase,
    attempts: u32,
    /// Failures in a row, outages included: they set the delay.
    failures: u32,
    first: Option<First>,
    last: Option<Failure>,
    deferrable: bool,
    expiry: Option<Instant>,
    signals: Vec<Arc<InputRecord>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Retry,
    Expiry,
}

/// Everything that was admitted and is not published.
#[derive(Debug)]
pub struct Schedule {
    policy: Policy,
    entries: BTreeMap<RecordId, Entry>,
    keys: HashMap<(Epoch, Bytes), VecDeque<Offset>>,
    ready: VecDeque<RecordId>,
    timers: BTreeSet<(Instant, RecordId, Timer)>,
    breakers: BTreeMap<&'static str, Breaker>,
    /// What opened each breaker that is not closed.
    causes: BTreeMap<&'static str, Failure>,
    probe: Option<Run>,
    outage_since: Option<Instant>,
    outage_before: Duration,
    next_run: u64,
    counts: Counts,
    bytes_full: bool,
}

impl Schedule {
    /// An empty schedule.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            entries: BTreeMap::new(),
            keys: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            breakers: BTreeMap::new(),
            causes: BTreeMap::new(),
            probe: None,
            outage_since: None,
            outage_before: Duration::ZERO,
            next_run: 0,
            counts: Counts::default(),
            bytes_full: false,
        }
    }

    /// Takes a record in. A signal also reaches the unfinished records of its key at once: those that wait are made ready.
    pub fn admit(&mut self, id: RecordId, record: Arc<InputRecord>, is_signal: bool) -> Signalled {
        let key = record.key.clone().map(|key| (id.epoch, key));
        let queue = key.as_ref().and_then(|key| self.keys.get(key));
        let is_first = queue.is_none_or(VecDeque::is_empty);
        // Only a signal looks at the others: a key may have very many.
        let earlier: Vec<Offset> = queue.filter(|_| is_signal).into_iter().flatten().copied().collect();
        let size = record.size();
        let phase = if is_first { Phase::Ready } else { Phase::Blocked };
        let entry = Entry {
            record: Arc::clone(&record),
            size,
            phase,
            attempts: 0,
            failures: 0,
            first: None,
            last: None,
            deferrable: true,
            expiry: None,
            signals: Vec::new(),
        };
        self.entries.insert(id, entry);
        self.counts.records += 1;
        self.counts.bytes += size;
        if let Some(key) = key {
            self.keys.entry(key).or_default().push_back(id.offset);
        }
        if phase == Phase::Ready {
            self.ready.push_back(id);
        }
        let mut signalled = Signalled::default();
        for offset in earlier {
            let target = RecordId { epoch: id.epoch, offset };
            if self.signal(target, &record) {
                signalled.targets.push(target);
            }
        }
        signalled
    }

    /// The next attempt to start, if one may start now.
    pub fn start(&mut self, now: Now) -> Option<Start> {
        if self.counts.running >= self.policy.slots || self.counts.unpublished_bytes > self.policy.bytes {
            return None;
        }
        let gate = self.gate(now.instant);
        if !matches!(gate, Gate::Pass | Gate::Probe) {
            return None;
        }
        let id = self.pop_ready()?;
        let run = Run(self.next_run);
        self.next_run += 1;
        if gate == Gate::Probe {
            self.probe = Some(run);
            for breaker in self.breakers.values_mut() {
                breaker.probe();
            }
        }
        let outage = self.outage_clock(now.instant);
        let entry = self.entries.get_mut(&id)?;
        entry.phase = Phase::Running(run);
        let repeated = entry.first.is_some();
        let first = *entry.first.get_or_insert(First { at: now, outage });
        let start = Start {
            id,
            run,
            record: Arc::clone(&entry.record),
            number: entry.attempts + 1,
            repeated,
            first_started: first.at.system,
            signals: entry.signals.clone(),
        };
        self.counts.running += 1;
        self.arm_expiry(id, now.instant);
        Some(start)
    }

    /// The end of an attempt. `random` in `[0, 1)`.
    pub fn complete(&mut self, id: RecordId, run: Run, outcome: Outcome, now: Instant, random: f64) -> Decision {
        let was_probe = self.probe == Some(run);
        if was_probe {
            self.probe = None;
        }
        self.observe(&outcome, was_probe, now, random);
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.phase == Phase::Running(run)) else {
            return Decision::Stale;
        };
        // The slot is free; what follows decides where the record goes.
        self.counts.running -= 1;
        entry.phase = Phase::Ready;
        let outage = matches!(&outcome, Outcome::Retry { why, .. } if why.dependency.is_some());
        entry.attempts += u32::from(!outage && !matches!(outcome, Outcome::Wait { .. }));
        match outcome {
            Outcome::Done(outputs) => {
                self.close(id, outputs.iter().map(OutputRecord::size).sum(), now);
                Decision::Publish(outputs)
            }
            Outcome::DeadLetter { why } => self.bury(id, why, now),
            Outcome::Defer { why } if entry.deferrable => {
                let leaving = leaving(id, entry, why.clone());
                self.wait(id, None, why, now, random);
                Decision::Defer(leaving)
            }
            Outcome::Defer { why } => self.retry_or_bury(id, None, why, now, random),
            Outcome::Retry { after, why } if outage => {
                self.wait(id, after, why, now, random);
                Decision::Wait
            }
            Outcome::Wait { after, why } => {
                self.wait(id, Some(after), why, now, random);
                Decision::Wait
            }
            Outcome::Retry { after, why } => self.retry_or_bury(id, after, why, now, random),
        }
    }

    /// A dependency answers, as a running attempt tells.
    pub fn answered(&mut self, dependency: &'static str, now: Instant) {
        if let Some(breaker) = self.breakers.get_mut(dependency) {
            breaker.success();
            self.causes.remove(dependency);
            self.mark_outage(now);
        }
    }

    /// Closes a record that was deferred. False if it is closed or lost already: then the deferral must not be published.
    pub fn close(&mut self, id: RecordId, output_bytes: usize, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        let before = entry.phase;
        if matches!(before, Phase::Closed { .. }) {
            return false;
        }
        entry.phase = Phase::Closed { output_bytes };
        let expiry = entry.expiry.take();
        let key = entry.record.key.clone();
        self.counts.unpublished_bytes += output_bytes;
        self.leave(id, before, expiry, now);
        self.release_key(id, key);
        true
    }

    /// The stage cannot defer this record: it stays, and is not offered again.
    pub fn keep(&mut self, id: RecordId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.deferrable = false;
            self.arm_expiry(id, now);
        }
    }

    /// Replaces the size of what a closed record publishes.
    pub fn resize(&mut self, id: RecordId, bytes: usize) {
        if let Some(Phase::Closed { output_bytes }) = self.entries.get_mut(&id).map(|entry| &mut entry.phase) {
            self.counts.unpublished_bytes = self.counts.unpublished_bytes - *output_bytes + bytes;
            *output_bytes = bytes;
        }
    }

    /// Forgets a closed record: it is published.
    pub fn published(&mut self, id: RecordId) {
        if let Some(Phase::Closed { output_bytes }) = self.entries.get(&id).map(|entry| entry.phase) {
            self.counts.unpublished_bytes -= output_bytes;
            if let Some(entry) = self.entries.remove(&id) {
                self.counts.records -= 1;
                self.counts.bytes -= entry.size;
            }
        }
    }

    /// Wakes what is due and returns what is over its time.
    pub fn due(&mut self, now: Instant) -> Vec<Expired> {
        let mut expired = Vec::new();
        while let Some(&(at, id, timer)) = self.timers.first().filter(|(at, ..)| *at <= now) {
            self.timers.remove(&(at, id, timer));
            match timer {
                Timer::Retry => self.make_ready(id),
                Timer::Expiry => expired.extend(self.expire(id, now)),
            }
        }
        expired
    }

    /// Offers the record for deferral because it holds up its partition, if it has been tried and can be deferred.
    pub fn hold_up(&mut self, id: RecordId) -> Option<Expired> {
        if self.is_outage() {
            return None;
        }
        let entry = self.entries.get(&id)?;
        let tried = entry.first.is_some() && !matches!(entry.phase, Phase::Closed { .. } | Phase::Blocked);
        (tried && entry.deferrable)
            .then(|| Expired::Defer(leaving(id, entry, too_slow(entry, "half the window lies finished above it"))))
    }

    /// When [`Schedule::due`] or [`Schedule::start`] may next have something to do although nothing happened.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, ..)| *at);
        let breaker = self.breakers.values().filter_map(|breaker| match breaker {
            Breaker::Open { until, .. } => Some(*until),
            _ => None,
        });
        let breaker = if self.ready.is_empty() { None } else { breaker.max() };
        timer.into_iter().chain(breaker).min()
    }

    /// Drops what is unfinished of an assignment that ends, and returns what was running. Closed records stay until they are
    /// published or [lost](Schedule::lose).
    pub fn abandon(&mut self, epoch: Epoch, now: Instant) -> Vec<RecordId> {
        self.remove(epoch, now, |phase| !matches!(phase, Phase::Closed { .. }))
    }

    /// Forgets an assignment, and returns what was running.
    pub fn lose(&mut self, epoch: Epoch, now: Instant) -> Vec<RecordId> {
        self.remove(epoch, now, |_| true)
    }

    /// Whether any record of the assignment is left.
    #[must_use]
    pub fn holds(&self, epoch: Epoch) -> bool {
        self.entries.range(Self::range(epoch)).next().is_some()
    }

    /// Whether intake may go on. Has a memory: what paused for bytes goes on only at half of them.
    pub fn intake(&mut self) -> Intake {
        let resume = self.policy.bytes / 2;
        self.bytes_full =
            if self.bytes_full { self.counts.bytes > resume } else { self.counts.bytes >= self.policy.bytes };
        if self.is_outage() {
            Intake::Outage
        } else if self.bytes_full {
            Intake::Bytes
        } else {
            Intake::Open
        }
    }

    /// Numbers for gauges.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { ready: self.ready.len(), ..self.counts }
    }

    /// State of each dependency that ever failed.
    pub fn breakers(&self) -> impl Iterator<Item = (&'static str, &Breaker)> + '_ {
        self.breakers.iter().map(|(name, breaker)| (*name, breaker))
    }

    /// The dependencies that are thought to be down, each with the failure that opened its breaker.
    pub fn outages(&self) -> impl Iterator<Item = (&'static str, &Failure)> + '_ {
        self.causes.iter().map(|(name, cause)| (*name, cause))
    }

    /// Whether a dependency is thought to be down.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        self.breakers.values().any(|breaker| !breaker.is_closed())
    }

    fn signal(&mut self, target: RecordId, record: &Arc<InputRecord>) -> bool {
        let Some(entry) = self.entries.get_mut(&target) else { return false };
        if matches!(entry.phase, Phase::Closed { .. }) {
            return false;
        }
        entry.signals.push(Arc::clone(record));
        if let Phase::Waiting { due } = entry.phase {
            self.timers.remove(&(due, target, Timer::Retry));
            self.make_ready(target);
        }
        true
    }

    fn pop_ready(&mut self) -> Option<RecordId> {
        loop {
            let id = self.ready.pop_front()?;
            // Ids of lost or closed records stay in the queue until they come up.
            if self.entries.get(&id).is_some_and(|entry| entry.phase == Phase::Ready) {
                return Some(id);
            }
        }
    }

    fn make_ready(&mut self, id: RecordId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            if matches!(entry.phase, Phase::Waiting { .. }) {
                self.counts.waiting -= 1;
            }
            entry.phase = Phase::Ready;
            self.ready.push_back(id);
        }
    }

    fn wait(&mut self, id: RecordId, after: Option<Duration>, why: Failure, now: Instant, random: f64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.failures = entry.failures.saturating_add(1);
        entry.last = Some(why);
        let delay = self.policy.backoff.delay(entry.failures, random);
        // What the handler asks for is spread as well: whoever failed together must not come back together.
        let delay = after.map_or(delay, |after| after.saturating_add(after.mul_f64(random.clamp(0.0, 1.0) / 10.0)));
        let due = now.checked_add(delay).unwrap_or(now);
        entry.phase = Phase::Waiting { due };
        self.counts.waiting += 1;
        self.timers.insert((due, id, Timer::Retry));
    }

    fn retry_or_bury(
        &mut self,
        id: RecordId,
        after: Option<Duration>,
        why: Failure,
        now: Instant,
        random: f64,
    ) -> Decision {
        let Some(entry) = self.entries.get(&id) else { return Decision::Stale };
        if entry.attempts >= self.policy.max_attempts {
            // The code of the last failure, by which dead letters are found and redriven once its cause is gone.
            let text = format!("given up after {} attempts; the last: {}", entry.attempts, why.text);
            return self.bury(id, Failure::new(why.code, text), now);
        }
        self.wait(id, after, why, now, random);
        Decision::Wait
    }

    fn bury(&mut self, id: RecordId, why: Failure, now: Instant) -> Decision {
        let Some(entry) = self.entries.get(&id) else { return Decision::Stale };
        let leaving = leaving(id, entry, why);
        self.close(id, 0, now);
        Decision::DeadLetter(leaving)
    }

    fn expire(&mut self, id: RecordId, now: Instant) -> Option<Expired> {
        let age = self.age(id, now)?;
        let is_outage = self.is_outage();
        let entry = self.entries.get_mut(&id)?;
        entry.expiry = None;
        if matches!(entry.phase, Phase::Closed { .. }) {
            return None;
        }
        let down = entry.last.as_ref().is_some_and(|last| last.dependency.is_some());
        if self.policy.time_limit.is_some_and(|limit| age >= limit) && !down && !is_outage {
            let last =
                entry.last.as_ref().map_or_else(|| "it never answered".to_owned(), |last| format!("the last: {last}"));
            let text = format!("unfinished after {} s; {last}", age.as_secs());
            let leaving = leaving(id, entry, Failure::new(TIME_EXHAUSTED, text));
            self.close(id, 0, now);
            return Some(Expired::DeadLetter(leaving));
        }
        if age >= self.policy.defer_after && entry.deferrable && !is_outage {
            let text = format!("unfinished after {} s", age.as_secs());
            let leaving = leaving(id, entry, too_slow(entry, &text));
            return Some(Expired::Defer(leaving));
        }
        self.arm_expiry(id, now);
        None
    }

    /// Sets the instant at which the record's age should be looked at again.
    fn arm_expiry(&mut self, id: RecordId, now: Instant) {
        /// Looking again sooner than this is of no use, and during an outage ages stand still.
        const LOOK_AGAIN: Duration = Duration::from_millis(200);
        let Some(age) = self.age(id, now) else { return };
        let policy = self.policy;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.expiry.is_some() {
            return;
        }
        let deferral = entry.deferrable.then_some(policy.defer_after);
        let Some(limit) = deferral.into_iter().chain(policy.time_limit).min() else { return };
        let remaining = limit.saturating_sub(age);
        let delay = if remaining.is_zero() { LOOK_AGAIN } else { remaining };
        if let Some(at) = now.checked_add(delay) {
            entry.expiry = Some(at);
            self.timers.insert((at, id, Timer::Expiry));
        }
    }

    /// Time since the first attempt during which no dependency was down.
    fn age(&self, id: RecordId, now: Instant) -> Option<Duration> {
        let first = self.entries.get(&id)?.first?;
        let outage = self.outage_clock(now).saturating_sub(first.outage);
        Some(now.saturating_duration_since(first.at.instant).saturating_sub(outage))
    }

    /// Total time during which a dependency was down.
    fn outage_clock(&self, now: Instant) -> Duration {
        self.outage_before + self.outage_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn gate(&self, now: Instant) -> Gate {
        let mut gate = Gate::Pass;
        for breaker in self.breakers.values() {
            match breaker.gate(now) {
                Gate::Pass => {}
                Gate::Probe => gate = Gate::Probe,
                hold => return hold,
            }
        }
        gate
    }

    /// What an outcome tells about the dependencies. A record that is done needed all of them; one that failed by itself
    /// only tells something if it was the probe.
    fn observe(&mut self, outcome: &Outcome, was_probe: bool, now: Instant, random: f64) {
        let failure = match outcome {
            Outcome::Retry { why, .. } => Some(why),
            _ => None,
        };
        let down = failure.filter(|why| why.reach == Reach::All).and_then(|why| why.dependency);
        let done = matches!(outcome, Outcome::Done(_));
        for (name, breaker) in &mut self.breakers {
            if done || (was_probe && down != Some(*name)) {
                breaker.success();
            }
        }
        if let Some(name) = down {
            self.breakers.entry(name).or_default().outage(now, &self.policy.breaker, random);
        }
        for (name, breaker) in &self.breakers {
            if breaker.is_closed() {
                self.causes.remove(name);
            } else if let Some(why) = failure.filter(|_| down == Some(*name)) {
                self.causes.entry(name).or_insert_with(|| why.clone());
            }
        }
        self.mark_outage(now);
    }

    fn mark_outage(&mut self, now: Instant) {
        match (self.is_outage(), self.outage_since) {
            (true, None) => self.outage_since = Some(now),
            (false, Some(since)) => {
                self.outage_before += now.saturating_duration_since(since);
                self.outage_since = None;
            }
            _ => {}
        }
    }

    /// Takes a record out of whatever its phase kept it in.
    fn leave(&mut self, id: RecordId, phase: Phase, expiry: Option<Instant>, now: Instant) {
        match phase {
            Phase::Waiting { due } => {
                self.counts.waiting -= 1;
                self.timers.remove(&(due, id, Timer::Retry));
            }
            // An attempt that ended by itself has left this phase before: this one is cut off, and if it was the probe, it
            // tells nothing.
            Phase::Running(run) => {
                self.counts.running -= 1;
                if self.probe == Some(run) {
                    self.probe = None;
                    self.breakers.values_mut().for_each(|breaker| breaker.abandon_probe(now));
                }
            }
            Phase::Blocked | Phase::Ready => {}
            Phase::Closed { output_bytes } => self.counts.unpublished_bytes -= output_bytes,
        }
        if let Some(at) = expiry {
            self.timers.remove(&(at, id, Timer::Expiry));
        }
    }

    fn release_key(&mut self, id: RecordId, key: Option<Bytes>) {
        let Some(key) = key.map(|key| (id.epoch, key)) else { return };
        let Some(queue) = self.keys.get_mut(&key) else { return };
        if queue.front() == Some(&id.offset) {
            queue.pop_front();
        } else {
            queue.retain(|offset| *offset != id.offset);
        }
        match queue.front().copied() {
            None => {
                self.keys.remove(&key);
            }
            Some(offset) => {
                let next = RecordId { epoch: id.epoch, offset };
                if self.entries.get(&next).is_some_and(|entry| entry.phase == Phase::Blocked) {
                    self.make_ready(next);
                }
            }
        }
    }

    fn range(epoch: Epoch) -> RangeInclusive<RecordId> {
        RecordId { epoch, offset: Offset(i64::MIN) }..=RecordId { epoch, offset: Offset(i64::MAX) }
    }

    fn remove(&mut self, epoch: Epoch, now: Instant, which: impl Fn(Phase) -> bool) -> Vec<RecordId> {
        let ids: Vec<RecordId> =
            self.entries.range(Self::range(epoch)).filter(|(_, entry)| which(entry.phase)).map(|(id, _)| *id).collect();
        let mut running = Vec::new();
        for id in ids {
            let Some(entry) = self.entries.remove(&id) else { continue };
            if matches!(entry.phase, Phase::Running(_)) {
                running.push(id);
            }
            self.counts.records -= 1;
            self.counts.bytes -= entry.size;
            self.leave(id, entry.phase, entry.expiry, now);
        }
        self.keys.retain(|(of, _), _| *of != epoch);
        running
    }
}

fn leaving(id: RecordId, entry: &Entry, why: Failure) -> Leaving {
    let first_ms = entry
        .first
        .and_then(|first| first.at.system.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    Leaving { id, record: Arc::clone(&entry.record), attempts: entry.attempts, first_ms, why }
}

fn too_slow(entry: &Entry, text: &str) -> Failure {
    match &entry.last {
        Some(last) => Failure::new(TOO_SLOW, format!("{text}; the last: {last}")),
        None => Failure::new(TOO_SLOW, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(1);

    fn policy() -> Policy {
        Policy {
            slots: 2,
            bytes: 1000,
            defer_after: Duration::from_secs(60),
            max_attempts: 3,
            time_limit: Some(Duration::from_secs(600)),
            backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(8), factor: 2.0 },
            breaker: BreakerPolicy {
                threshold: 2,
                backoff: Backoff { first: Duration::from_secs(5), max: Duration::from_secs(20), factor: 2.0 },
            },
        }
    }

    fn id(offset: i64) -> RecordId {
        RecordId { epoch: EPOCH, offset: Offset(offset) }
    }

    fn record(offset: i64, key: &str, bytes: usize) -> Arc<InputRecord> {
        Arc::new(InputRecord {
            topic: Arc::from("in"),
            partition: 0,
            offset,
            key: (!key.is_empty()).then(|| Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::from(vec![0; bytes])),
            headers: Vec::new(),
            timestamp_ms: None,
        })
    }

    /// A schedule with its clock.
    struct Bench {
        schedule: Schedule,
        now: Now,
    }

    impl Bench {
        fn new(policy: Policy) -> Self {
            Self { schedule: Schedule::new(policy), now: Now::read() }
        }

        fn admit(&mut self, offset: i64, key: &str) {
            self.schedule.admit(id(offset), record(offset, key, 1), false);
        }

        fn start(&mut self) -> Option<Start> {
            self.schedule.start(self.now)
        }

        fn started(&mut self) -> Vec<i64> {
            std::iter::from_fn(|| self.start()).map(|start| start.id.offset.0).collect()
        }

        fn complete(&mut self, start: &Start, outcome: Outcome) -> Decision {
            self.schedule.complete(start.id, start.run, outcome, self.now.instant, 1.0)
        }

        fn pass(&mut self, seconds: u64) -> Vec<Expired> {
            self.now.instant += Duration::from_secs(seconds);
            self.schedule.due(self.now.instant)
        }
    }

    fn retry() -> Outcome {
        Outcome::Retry { after: None, why: Failure::new("KC-1", "no") }
    }

    fn outage() -> Outcome {
        Outcome::Retry { after: None, why: Failure::outage("KC-2", "core", "down") }
    }

    fn done() -> Outcome {
        Outcome::Done(Vec::new())
    }

    #[test]
    fn records_of_one_key_run_one_after_the_other_and_others_beside_them() {
        let mut bench = Bench::new(policy());
        for (offset, key) in [(0, "a"), (1, "a"), (2, "b"), (3, "a")] {
            bench.admit(offset, key);
        }
        let first = bench.start().expect("a slot is free");
        let other = bench.start().expect("a slot is free");
        assert_eq!((first.id, other.id), (id(0), id(2)));
        bench.complete(&other, done());
        assert!(bench.start().is_none(), "the key is busy");
        bench.complete(&first, done());
        assert_eq!(bench.started(), [1]);
    }

    #[test]
    fn records_without_a_key_do_not_wait_for_each_other() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "");
        bench.admit(1, "");
        assert_eq!(bench.started(), [0, 1]);
    }

    #[test]
    fn p6_no_more_attempts_run_than_there_are_slots() {
        let mut bench = Bench::new(policy());
        (0..5).for_each(|offset| bench.admit(offset, ""));
        assert_eq!(bench.started(), [0, 1]);
    }

    #[test]
    fn p5_a_retry_waits_outside_of_the_slots_and_keeps_its_key() {
        let mut bench = Bench::new(Policy { slots: 1, ..policy() });
        bench.admit(0, "a");
        bench.admit(1, "a");
        bench.admit(2, "b");
        let first = bench.start().expect("a slot is free");
        assert_eq!(bench.complete(&first, retry()), Decision::Wait);
        assert_eq!(bench.started(), [2], "the slot is free, the key is not");
        assert_eq!(bench.schedule.counts().waiting, 1);
    }

    #[test]
    fn p6_attempts_are_limited_and_then_a_dead_letter() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        for attempt in 1..=3 {
            let start = bench.start().expect("it is ready");
            assert_eq!(start.number, attempt);
            let decision = bench.complete(&start, retry());
            if attempt == 3 {
                let Decision::DeadLetter(leaving) = decision else { panic!("{decision:?}") };
                assert_eq!((leaving.attempts, leaving.why.code), (3, "KC-1"), "the code of the last failure");
            } else {
                assert_eq!(decision, Decision::Wait);
                bench.pass(8);
            }
        }
    }

    #[test]
    fn waiting_for_what_has_not_come_burns_no_attempt_and_is_no_outage() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        for _ in 0..10 {
            let start = bench.start().expect("it is ready");
            assert_eq!(start.number, 1);
            let after = Duration::from_secs(1);
            let outcome = Outcome::Wait { after, why: Failure::new("KC-1", "not yet") };
            assert_eq!(bench.complete(&start, outcome), Decision::Wait);
            assert!(bench.start().is_none() && !bench.schedule.is_outage());
            bench.pass(2);
        }
    }

    #[test]
    fn an_outage_is_never_a_verdict() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        for round in 0..50 {
            let start = bench.start().expect("it is ready or probes");
            assert_eq!(start.number, 1, "an outage burns no attempt");
            assert_eq!(start.repeated, round > 0);
            assert_eq!(bench.complete(&start, outage()), Decision::Wait);
            assert_eq!(bench.pass(30), [], "neither deferred nor given up");
        }
    }

    #[test]
    fn an_open_breaker_pauses_intake_and_lets_one_probe_pass() {
        let mut bench = Bench::new(policy());
        (0..4).for_each(|offset| bench.admit(offset, ""));
        let (first, second) = (bench.start().expect("a slot"), bench.start().expect("a slot"));
        bench.complete(&first, outage());
        assert_eq!(bench.schedule.intake(), Intake::Open);
        bench.complete(&second, outage());
        assert_eq!(bench.schedule.intake(), Intake::Outage);
        let down: Vec<_> = bench.schedule.outages().map(|(name, cause)| (name, cause.code)).collect();
        assert_eq!(down, [("core", "KC-2")], "it is told what is down and why");
        assert!(bench.start().is_none(), "nothing starts while it is open");
        assert!(bench.schedule.next_deadline().is_some());
        bench.pass(5);
        let probe = bench.start().expect("one attempt probes");
        assert!(bench.start().is_none(), "and no other");
        bench.complete(&probe, done());
        assert_eq!(bench.schedule.intake(), Intake::Open);
        assert_eq!(bench.schedule.outages().count(), 0);
        assert!(bench.start().is_some());
    }

    #[test]
    fn p5_a_probe_that_runs_on_lets_others_start_once_the_dependency_answers() {
        let mut bench = Bench::new(policy());
        (0..3).for_each(|offset| bench.admit(offset, ""));
        let (first, second) = (bench.start().expect("a slot"), bench.start().expect("a slot"));
        bench.complete(&first, outage());
        bench.complete(&second, outage());
        bench.pass(5);
        let probe = bench.start().expect("one attempt probes");
        assert!(bench.start().is_none());
        bench.schedule.answered("another", bench.now.instant);
        assert!(bench.start().is_none());
        bench.schedule.answered("core", bench.now.instant);
        assert_eq!(bench.schedule.intake(), Intake::Open);
        assert!(bench.start().is_some(), "while the probe still runs");
        assert_eq!(bench.complete(&probe, done()), Decision::Publish(Vec::new()));
    }

    #[test]
    fn p5_an_outage_of_a_part_burns_no_attempt_pauses_nobody_and_ends_in_deferral() {
        let partial = || Outcome::Retry { after: None, why: Failure::partial_outage("KC-2", "core", "one shard") };
        let mut bench = Bench::new(Policy { time_limit: None, ..policy() });
        bench.admit(0, "a");
        for _ in 0..5 {
            let start = bench.start().expect("it is ready");
            assert_eq!(start.number, 1);
            assert_eq!(bench.complete(&start, partial()), Decision::Wait);
            assert_eq!(bench.schedule.intake(), Intake::Open);
            assert_eq!(bench.pass(8), []);
        }
        assert!(matches!(bench.pass(30)[..], [Expired::Defer(_)]));
    }

    #[test]
    fn a_probe_that_is_cut_off_hands_on_its_turn() {
        let mut bench = Bench::new(policy());
        (0..3).for_each(|offset| bench.admit(offset, ""));
        let (first, second) = (bench.start().expect("a slot"), bench.start().expect("a slot"));
        bench.complete(&first, outage());
        bench.complete(&second, outage());
        bench.pass(5);
        let probe = bench.start().expect("one attempt probes");
        assert!(bench.schedule.close(probe.id, 0, bench.now.instant));
        assert!(bench.start().is_some(), "the next one probes");
    }

    #[test]
    fn p5_a_hanging_attempt_is_offered_for_deferral_and_its_late_outcome_dropped() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        bench.admit(1, "a");
        let start = bench.start().expect("a slot");
        assert_eq!(bench.pass(59), []);
        let expired = bench.pass(1);
        let [Expired::Defer(leaving)] = expired.as_slice() else { panic!("{expired:?}") };
        assert_eq!((leaving.id, leaving.why.code), (id(0), TOO_SLOW));
        assert!(bench.schedule.close(id(0), 10, bench.now.instant));
        assert_eq!(bench.complete(&start, done()), Decision::Stale);
        assert_eq!(bench.started(), [1], "the key is free");
        bench.schedule.published(id(0));
        assert_eq!(bench.schedule.counts().unpublished_bytes, 0);
    }

    #[test]
    fn p5_one_dead_dependency_among_healthy_ones_defers_what_needs_it() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        let mut deferred = false;
        for offset in 1..200 {
            bench.admit(offset, "");
            while let Some(start) = bench.start() {
                let outcome = if start.id == id(0) { outage() } else { done() };
                bench.complete(&start, outcome);
            }
            deferred |= bench.pass(1).iter().any(|expired| matches!(expired, Expired::Defer(of) if of.id == id(0)));
        }
        assert!(deferred);
    }

    #[test]
    fn p6_time_is_limited_and_then_a_dead_letter() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        bench.start().expect("a slot");
        for _ in 0..600 {
            for expired in bench.pass(1) {
                match expired {
                    // A stage without a deferred topic.
                    Expired::Defer(leaving) => bench.schedule.keep(leaving.id, bench.now.instant),
                    Expired::DeadLetter(leaving) => {
                        assert_eq!(leaving.why.code, TIME_EXHAUSTED);
                        assert_eq!(bench.schedule.counts().running, 0);
                        return;
                    }
                }
            }
        }
        panic!("the limit was passed");
    }

    #[test]
    fn p6_intake_pauses_at_the_limit_of_bytes_and_goes_on_at_half() {
        let mut bench = Bench::new(policy());
        bench.schedule.admit(id(0), record(0, "", 600), false);
        assert_eq!(bench.schedule.intake(), Intake::Open);
        bench.schedule.admit(id(1), record(1, "", 600), false);
        assert_eq!(bench.schedule.intake(), Intake::Bytes);
        let (first, second) = (bench.start().expect("a slot"), bench.start().expect("a slot"));
        bench.complete(&first, done());
        bench.schedule.published(first.id);
        assert_eq!(bench.schedule.intake(), Intake::Bytes, "600 is more than half");
        bench.complete(&second, done());
        bench.schedule.published(second.id);
        assert_eq!(bench.schedule.intake(), Intake::Open);
    }

    #[test]
    fn p6_nothing_starts_while_too_much_waits_to_be_published() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "");
        bench.admit(1, "");
        let first = bench.start().expect("a slot");
        let output =
            OutputRecord { topic: "out".into(), partition: None, key: vec![], value: vec![0; 2000], headers: vec![] };
        bench.complete(&first, Outcome::Done(vec![output]));
        assert!(bench.start().is_none());
        bench.schedule.published(first.id);
        assert!(bench.start().is_some());
    }

    #[test]
    fn a_signal_reaches_the_running_record_of_its_key_and_wakes_a_waiting_one() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        bench.admit(1, "b");
        let (running, waiting) = (bench.start().expect("a slot"), bench.start().expect("a slot"));
        bench.complete(&waiting, retry());
        assert_eq!(bench.schedule.admit(id(2), record(2, "a", 1), true).targets, [running.id]);
        assert_eq!(bench.schedule.admit(id(3), record(3, "b", 1), true).targets, [waiting.id]);
        let again = bench.start().expect("woken before its delay");
        assert_eq!((again.id, again.signals.len()), (waiting.id, 1));
        bench.complete(&running, done());
        assert_eq!(bench.started(), [2], "the signal is a record of its own");
    }

    #[test]
    fn p2_outcomes_of_a_lost_assignment_are_dropped() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        bench.admit(1, "b");
        let (first, second) = (bench.start().expect("a slot"), bench.start().expect("a slot"));
        bench.complete(&first, done());
        assert_eq!(bench.schedule.abandon(EPOCH, bench.now.instant), [second.id]);
        assert_eq!(bench.complete(&second, done()), Decision::Stale);
        assert!(bench.schedule.holds(EPOCH), "what is closed may still be committed");
        bench.schedule.lose(EPOCH, bench.now.instant);
        assert_eq!(bench.schedule.counts(), Counts::default());
    }

    #[test]
    fn a_deferral_that_the_stage_does_not_know_becomes_a_retry() {
        let mut bench = Bench::new(policy());
        bench.admit(0, "a");
        let start = bench.start().expect("a slot");
        let defer = || Outcome::Defer { why: Failure::new("KC-3", "later") };
        assert!(matches!(bench.complete(&start, defer()), Decision::Defer(_)));
        bench.schedule.keep(id(0), bench.now.instant);
        bench.pass(8);
        let again = bench.start().expect("it is ready again");
        assert_eq!(bench.complete(&again, defer()), Decision::Wait);
    }
}
