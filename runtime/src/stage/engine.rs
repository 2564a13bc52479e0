//! Where the threads meet: the shared state, what wakes whom, and how an attempt's end becomes something to publish.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    config::StageConfig,
    error::{HANDLER_PANICKED, OUTPUT_TOO_LARGE, StageError},
    metrics::{Ended, StageMetrics},
    outcome::{Answered, Attempt, Carry, Failure, Handler, InputRecord, Outcome, OutputRecord},
    schedule::{Decision, Expired, Leaving, Now, RecordId, Run, Schedule, Start},
    state::{Closed, Form, Phase, State},
};

/// A running attempt.
struct Task {
    run: Run,
    cancel: CancellationToken,
    abort: AbortHandle,
    signals: watch::Sender<Vec<Arc<InputRecord>>>,
}

/// Everything behind the lock.
pub(super) struct Inner {
    pub(super) state: State,
    tasks: HashMap<RecordId, Task>,
    failure: Option<StageError>,
}

impl Inner {
    /// Ends attempts that nobody waits for any more.
    fn cancel(&mut self, ids: Vec<RecordId>) {
        for id in ids {
            if let Some(task) = self.tasks.remove(&id) {
                task.cancel.cancel();
                task.abort.abort();
            }
        }
    }
}

/// A call of the client that was given a second and takes this long will not come back soon.
const STALLED: Duration = Duration::from_secs(5);

/// What the threads of a stage share.
pub(super) struct Engine<H> {
    pub(super) config: StageConfig,
    pub(super) handler: Arc<H>,
    pub(super) metrics: StageMetrics,
    inner: Mutex<Inner>,
    /// When the group last gave us up.
    lost_at: Mutex<Option<Instant>>,
    /// Since when the committer is in a call of the client that may never come back.
    calling_since: Mutex<Option<Instant>>,
    /// Whether a dependency was thought to be down when last looked at; read without the lock.
    is_outage: AtomicBool,
    /// There may be a transaction to write, or the phase changed.
    commit_wanted: Condvar,
    /// There may be a ledger to restore, or the phase changed.
    restore_wanted: Condvar,
    /// Something was published or lost, or the phase changed.
    progress: Condvar,
    /// There may be an attempt to start.
    pub(super) dispatch: Notify,
}

impl<H: Handler> Engine<H> {
    pub(super) fn new(config: StageConfig, handler: Arc<H>) -> Self {
        let state = State::new(Schedule::new(config.policy()), config.window, config.max_metadata);
        let metrics = StageMetrics::new(config.name, config.slots, config.bytes_in_flight, config.window);
        Self {
            config,
            handler,
            lost_at: Mutex::new(None),
            calling_since: Mutex::new(None),
            metrics,
            inner: Mutex::new(Inner { state, tasks: HashMap::new(), failure: None }),
            is_outage: AtomicBool::new(false),
            commit_wanted: Condvar::new(),
            restore_wanted: Condvar::new(),
            progress: Condvar::new(),
            dispatch: Notify::new(),
        }
    }

    /// No code that may panic runs under the lock, and what is behind it is consistent between any two statements that
    /// matter; so a poisoned lock is taken as it is.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the stage on; it never goes back.
    pub(super) fn enter(&self, phase: Phase) {
        let mut inner = self.lock();
        inner.state.phase = inner.state.phase.max(phase);
        drop(inner);
        self.wake_all();
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().state.phase
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase() == Phase::Ended
    }

    /// Whether the transactional id is ours, so that Kafka answers, and the group has not let us in.
    pub(super) fn is_outside(&self) -> bool {
        let inner = self.lock();
        inner.state.phase == Phase::Running && !inner.state.joined
    }

    /// Ends the stage with an error; the first one counts.
    pub(super) fn fail(&self, error: StageError) {
        let mut inner = self.lock();
        inner.failure.get_or_insert(error);
        inner.state.phase = Phase::Ended;
        drop(inner);
        self.wake_all();
    }

    pub(super) fn take_failure(&self) -> Option<StageError> {
        self.lock().failure.take()
    }

    fn wake_all(&self) {
        self.commit_wanted.notify_all();
        self.restore_wanted.notify_all();
        self.progress.notify_all();
        self.dispatch.notify_one();
    }

    // ---- poll thread -----------------------------------------------------------------------------------------------

    /// Blocks until the transactional id is ours. False when the stage ends before.
    pub(super) fn wait_until_started(&self) -> bool {
        let inner = self.lock();
        let inner = self
            .progress
            .wait_while(inner, |inner| inner.state.phase == Phase::Starting)
            .unwrap_or_else(PoisonError::into_inner);
        inner.state.phase < Phase::Draining
    }

    /// Takes in what was read.
    pub(super) fn admit(&self, records: Vec<Arc<InputRecord>>) {
        let mut inner = self.lock();
        let admitted = inner.state.admit(records, |record| self.handler.is_signal(record));
        for (target, record) in admitted.signals {
            if let Some(task) = inner.tasks.get(&target) {
                task.signals.send_modify(|signals| signals.push(record));
            }
        }
        drop(inner);
        if admitted.work > 0 {
            self.dispatch.notify_one();
        }
        if admitted.work + admitted.finished > 0 {
            self.metrics.read(admitted.work, admitted.finished);
        }
    }

    /// The group has answered, with partitions for us or none.
    pub(super) fn assigned(&self, names: &[(Arc<str>, i32)]) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.state.joined = true;
        for (topic, partition) in names {
            let (_, running) = inner.state.assign(Arc::clone(topic), *partition, now);
            inner.cancel(running);
        }
        drop(inner);
        if !names.is_empty() {
            self.metrics.assignment("assigned", names.len());
        }
        self.restore_wanted.notify_all();
    }

    /// Partitions are taken away in order: one bounded final commit of what is closed, then they are forgotten. Nothing waits
    /// for an attempt.
    pub(super) fn revoked(&self, names: &[(Arc<str>, i32)]) {
        let now = Instant::now();
        let mut inner = self.lock();
        for (topic, partition) in names {
            let running = inner.state.abandon(topic, *partition, now);
            inner.cancel(running);
        }
        self.commit_wanted.notify_all();
        let (inner, _) = self
            .progress
            .wait_timeout_while(inner, self.config.final_commit_timeout, |inner| {
                inner.state.phase != Phase::Ended && inner.state.has_unpublished(names)
            })
            .unwrap_or_else(PoisonError::into_inner);
        self.forget(inner, names, now);
        self.metrics.assignment("revoked", names.len());
    }

    /// Whether the group gave us up within `span`.
    pub(super) fn was_lost_within(&self, span: Duration) -> bool {
        self.lost_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|lost| lost.elapsed() < span)
    }

    /// Partitions are gone already: nothing of them may be committed.
    pub(super) fn lost(&self, names: &[(Arc<str>, i32)]) {
        *self.lost_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut inner = self.lock();
        // Until the group answers again there is nothing this stage could do.
        inner.state.joined = false;
        self.forget(inner, names, Instant::now());
        self.metrics.assignment("lost", names.len());
    }

    fn forget(&self, mut inner: MutexGuard<'_, Inner>, names: &[(Arc<str>, i32)], now: Instant) {
        for (topic, partition) in names {
            let running = inner.state.forget(topic, *partition, now);
            inner.cancel(running);
        }
        drop(inner);
        self.progress.notify_all();
        self.dispatch.notify_one();
    }

    /// Positions have to be compared with what the partitions hold.
    pub(super) fn recheck(&self) {
        self.lock().state.recheck = true;
        self.restore_wanted.notify_all();
    }

    // ---- restoring thread ------------------------------------------------------------------------------------------

    /// Waits for something to restore or recheck; for `pause` at most if there was no success before. False when the stage
    /// ends.
    pub(super) fn wait_for_restoring(&self, pause: Option<Duration>) -> bool {
        let mut inner = self.lock();
        if let Some(pause) = pause {
            let (guard, _) = self
                .restore_wanted
                .wait_timeout_while(inner, pause, |inner| inner.state.phase != Phase::Ended)
                .unwrap_or_else(PoisonError::into_inner);
            inner = guard;
        }
        let inner = self
            .restore_wanted
            .wait_while(inner, |inner| {
                inner.state.phase != Phase::Ended && !inner.state.recheck && inner.state.restoring().is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        inner.state.phase != Phase::Ended
    }

    /// Wakes whoever waits for an uncommitted position.
    pub(super) fn wake_committer(&self) {
        self.commit_wanted.notify_all();
    }

    // ---- committer thread ------------------------------------------------------------------------------------------

    /// Waits until there is something to write. None when the stage ends.
    pub(super) fn wait_for_batch(&self) -> Option<Vec<Closed>> {
        let inner = self.lock();
        let mut inner = self
            .commit_wanted
            .wait_while(inner, |inner| inner.state.phase != Phase::Ended && !inner.state.has_batch())
            .unwrap_or_else(PoisonError::into_inner);
        if inner.state.phase == Phase::Ended {
            return None;
        }
        Some(inner.state.take_batch(self.config.max_batch_records, self.config.max_batch_bytes))
    }

    /// The batch was dealt with.
    pub(super) fn batch_done(&self) {
        self.lock().state.batch_done();
        self.progress.notify_all();
    }

    /// The transaction is committed: slots, bytes and window are free.
    pub(super) fn committed(&self, batch: &[Closed], commits: &[super::state::Commit]) {
        let held_up = self.lock().state.committed(batch, commits);
        self.progress.notify_all();
        self.dispatch.notify_one();
        for expired in held_up {
            self.expired(expired);
        }
    }

    /// Makes a call of the client that may never come back, so that [`Engine::is_stalled`] can tell.
    pub(super) fn watched<T>(&self, call: impl FnOnce() -> T) -> T {
        let set = |since| *self.calling_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        set(Some(Instant::now()));
        let outcome = call();
        set(None);
        outcome
    }

    /// Whether the committer's call takes several times as long as it may, or longer than the broker keeps the transaction
    /// open.
    pub(super) fn is_stalled(&self) -> bool {
        let since = *self.calling_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() > self.config.transaction_timeout.min(STALLED))
    }

    /// Waits, unless the stage ends.
    pub(super) fn pause(&self, duration: Duration) {
        let inner = self.lock();
        let _ = self.progress.wait_timeout_while(inner, duration, |inner| inner.state.phase != Phase::Ended);
    }

    /// Everything is read anew from what is committed, because it is not known what of it is.
    pub(super) fn start_over(&self) {
        let mut inner = self.lock();
        let running = inner.state.start_over(Instant::now());
        inner.cancel(running);
        drop(inner);
        self.restore_wanted.notify_all();
    }

    /// Blocks until everything closed is published, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let inner = self.lock();
        let _ = self
            .progress
            .wait_timeout_while(inner, limit, |inner| inner.state.phase != Phase::Ended && !inner.state.is_published());
    }

    // ---- attempts --------------------------------------------------------------------------------------------------

    /// Starts what may start and decides about what is over its time. Returns when to look again if nothing happens.
    pub(super) fn turn(self: &Arc<Self>) -> Option<Instant> {
        let now = Now::read();
        let mut inner = self.lock();
        if inner.state.phase != Phase::Running {
            return None;
        }
        let expired = inner.state.schedule.due(now.instant);
        while let Some(start) = inner.state.schedule.start(now) {
            self.spawn(&mut inner, start);
        }
        self.metrics.gauges(&mut inner.state);
        let deadline = inner.state.schedule.next_deadline();
        drop(inner);
        for expired in expired {
            self.expired(expired);
        }
        deadline
    }

    /// How many attempts run.
    pub(super) fn running(&self) -> usize {
        self.lock().tasks.len()
    }

    /// Ends every attempt.
    pub(super) fn cancel_all(&self) {
        let mut inner = self.lock();
        let ids = inner.tasks.keys().copied().collect();
        inner.cancel(ids);
    }

    fn spawn(self: &Arc<Self>, inner: &mut Inner, start: Start) {
        let Start { id, run, record, number, repeated, first_started, signals } = start;
        let cancel = CancellationToken::new();
        let (signals, receiver) = watch::channel(signals);
        let engine = Arc::clone(self);
        let answered = Answered::new(move |dependency| engine.answered(dependency));
        let attempt = Attempt { number, repeated, first_started, cancel: cancel.clone(), answered, signals: receiver };
        let engine = Arc::clone(self);
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            let attempted = AssertUnwindSafe(engine.handler.handle(Arc::clone(&record), attempt)).catch_unwind().await;
            let outcome = attempted.unwrap_or_else(|_| {
                let why = Failure::new(HANDLER_PANICKED, "the handler panicked; the log has its message");
                Outcome::Retry { after: None, why }
            });
            let ended =
                std::panic::catch_unwind(AssertUnwindSafe(|| engine.ended(id, run, &record, number, outcome, begun)));
            if ended.is_err() {
                engine.fail(StageError::Thread("handler"));
            }
        });
        inner.tasks.insert(id, Task { run, cancel, abort: task.abort_handle(), signals });
    }

    fn ended(&self, id: RecordId, run: Run, record: &Arc<InputRecord>, number: u32, outcome: Outcome, begun: Instant) {
        let outcome = self.within_limits(outcome);
        let label = match &outcome {
            Outcome::Done(_) => Ended::Done,
            Outcome::Retry { why, .. } if why.dependency.is_some() => Ended::Outage,
            Outcome::Retry { .. } | Outcome::Wait { .. } => Ended::Retry,
            Outcome::Defer { .. } => Ended::Defer,
            Outcome::DeadLetter { .. } => Ended::DeadLetter,
        };
        let random = rand::random::<f64>();
        let mut inner = self.lock();
        if inner.tasks.get(&id).is_some_and(|task| task.run == run) {
            inner.tasks.remove(&id);
        }
        let decision = inner.state.schedule.complete(id, run, outcome, Instant::now(), random);
        self.is_outage.store(inner.state.schedule.is_outage(), Ordering::Relaxed);
        let label = if decision == Decision::Stale { Ended::Stale } else { label };
        let rest = match decision {
            Decision::Publish(outputs) => {
                let record = Arc::clone(record);
                inner.state.publish(Closed { id, record, attempts: number, outputs, form: Form::Outcome });
                None
            }
            other => Some(other),
        };
        drop(inner);
        match rest {
            None => self.commit_wanted.notify_one(),
            Some(Decision::DeadLetter(leaving)) => self.bury(&leaving),
            Some(Decision::Defer(leaving)) => self.defer(&leaving),
            Some(_) => {}
        }
        self.dispatch.notify_one();
        self.metrics.attempt(label, begun.elapsed());
    }

    /// A running attempt tells that a dependency answers.
    fn answered(&self, dependency: &'static str) {
        if self.is_outage.load(Ordering::Relaxed) {
            let mut inner = self.lock();
            inner.state.schedule.answered(dependency, Instant::now());
            self.is_outage.store(inner.state.schedule.is_outage(), Ordering::Relaxed);
            drop(inner);
            self.dispatch.notify_one();
        }
    }

    /// An output above the limit can never be written: that is a verdict on the record, made before any transaction begins.
    fn within_limits(&self, outcome: Outcome) -> Outcome {
        let Outcome::Done(outputs) = &outcome else { return outcome };
        let Some(large) = outputs.iter().find(|output| output.size() > self.config.max_output_bytes) else {
            return outcome;
        };
        let text = format!(
            "the output for {} takes {} bytes of {}; crc32 of its value {:08x}",
            large.topic,
            large.size(),
            self.config.max_output_bytes,
            crc32fast::hash(&large.value)
        );
        Outcome::DeadLetter { why: Failure::new(OUTPUT_TOO_LARGE, text) }
    }

    fn expired(&self, expired: Expired) {
        match expired {
            Expired::Defer(leaving) => self.defer(&leaving),
            Expired::DeadLetter(leaving) => {
                self.lock().cancel(vec![leaving.id]);
                self.bury(&leaving);
            }
        }
    }

    /// Moves the record to the deferred topic, unless the stage has none or somebody was faster.
    fn defer(&self, leaving: &Leaving) {
        let output = self
            .handler
            .deferred(&leaving.record, leaving.attempts, leaving.first_ms, &leaving.why)
            .filter(|output| output.size() <= self.config.max_output_bytes);
        let now = Instant::now();
        let mut inner = self.lock();
        let Some(output) = output else {
            inner.state.schedule.keep(leaving.id, now);
            return;
        };
        if !inner.state.schedule.close(leaving.id, 0, now) {
            return;
        }
        inner.cancel(vec![leaving.id]);
        inner.state.publish(Closed {
            id: leaving.id,
            record: Arc::clone(&leaving.record),
            attempts: leaving.attempts,
            outputs: vec![output],
            form: Form::Outcome,
        });
        drop(inner);
        self.metrics.deferred(leaving);
        self.commit_wanted.notify_one();
        self.dispatch.notify_one();
    }

    fn bury(&self, leaving: &Leaving) {
        self.metrics.dead_letter(leaving);
        let (output, form) = self.dead_letter(&leaving.record, leaving.attempts, &leaving.why);
        self.lock().state.publish(Closed {
            id: leaving.id,
            record: Arc::clone(&leaving.record),
            attempts: leaving.attempts,
            outputs: vec![output],
            form,
        });
        self.commit_wanted.notify_one();
    }

    fn dead_letter(&self, record: &InputRecord, attempts: u32, why: &Failure) -> (OutputRecord, Form) {
        let output = self.handler.dead_letter(record, attempts, why, Carry::Value);
        if output.size() <= self.config.max_dead_letter_bytes {
            return (output, Form::DeadLetter);
        }
        (self.handler.dead_letter(record, attempts, why, Carry::Digest), Form::Digest)
    }

    /// Replaces outputs that the broker refused by a dead letter, or that by one with a digest. False when nothing is left to
    /// try.
    pub(super) fn replace_refused(&self, closed: &mut Closed, why: Failure) -> bool {
        let Closed { id, record, attempts, .. } = closed;
        let (output, form) = match closed.form {
            Form::Outcome => {
                let leaving = Leaving { id: *id, record: Arc::clone(record), attempts: *attempts, first_ms: 0, why };
                self.metrics.dead_letter(&leaving);
                self.dead_letter(record, *attempts, &leaving.why)
            }
            Form::DeadLetter => (self.handler.dead_letter(record, *attempts, &why, Carry::Digest), Form::Digest),
            Form::Digest => return false,
        };
        closed.outputs = vec![output];
        closed.form = form;
        self.lock().state.schedule.resize(closed.id, closed.bytes());
        true
    }
}
