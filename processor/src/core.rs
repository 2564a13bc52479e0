//! Start and await: how an operation is run on KMS Core (`docs/protocol.md`, "Status codes of KMS Core").
//!
//! Every long operation is a *Start* call that accepts an id and a *Get* call that answers the result, having held the line for a
//! while or not. Both are repeatable: a known id is awaited, an unknown one is started, so a restart of either side heals. What
//! the versions of KMS Core differ in is decided here and in [`crate::status`], so that the operations need not know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kms_proto::kms::v1 as core;
use kms_proto::kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient;
use kms_runtime::stage::{Answered, Reach};
use kms_schemas::identity::RequestId;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::aborts::Aborts;
use crate::codes;
use crate::config::{CoreVersion, KmsCoreConfig};
use crate::core_request;
use crate::error::Trouble;
use crate::metrics;
use crate::status::{AwaitVerdict, Class, StartVerdict, await_verdict, is_from_core, start_verdict};

/// The dependency's name in outages.
const KMS_CORE: &str = "kms_core";

/// KMS Core's room for more work, which runs out while KMS Core answers: a dependency of its own, so that an answer to a call that
/// waits for a result says nothing about it.
const CAPACITY: &str = "kms_core_capacity";

/// An id that KMS Core will never answer before it is restarted.
const STUCK: &str = "kms_core_restart";

/// How often an id that the core forgot is started again within one attempt.
const MAX_RESTARTS: u32 = 3;

/// When a pending decryption counts as stuck.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    /// After it was refused once: the longest time that KMS Core holds the line while a decryption runs, and some more.
    after_refusal: Duration,
    /// Once younger ones have finished.
    by_age: Duration,
}

impl Stuck {
    const DEFAULT: Self = Self { after_refusal: Duration::from_secs(70), by_age: Duration::from_secs(180) };
}

/// Refused ids that are remembered per shard.
const MAX_REFUSED: usize = 10_000;

/// The client of one shard. Cheap to clone.
pub type Client = CoreServiceEndpointClient<Channel>;

/// A KMS Core of one or several shards.
#[derive(Debug)]
pub struct KmsCore {
    shards: Vec<Shard>,
    version: CoreVersion,
    aborts: Aborts,
    start_timeout: Duration,
    await_timeout: Duration,
    await_pause: Duration,
    await_pause_max: Duration,
    stuck: Stuck,
    stuck_poll: Duration,
    hung: Hung,
}

/// When a shard that lets every call run into its deadline counts as unreachable: its process lives, and answers nothing.
#[derive(Clone, Copy, Debug)]
struct Hung {
    /// For how long a healthy core holds a call for a result. Only deadlines beyond it tell anything.
    hold: Duration,
    /// For how long nothing was answered.
    after: Duration,
}

impl Hung {
    const HOLD: Duration = Duration::from_secs(60);
}

#[derive(Debug)]
struct Shard {
    client: Client,
    reachability: Reachability,
    memory: Mutex<Memory>,
}

/// What is remembered of a shard of v0.13, whose refused decryptions may be stuck.
#[derive(Debug, Default)]
struct Memory {
    /// Key, context and epoch, as texts, under which a key was seen to be there.
    keys: BTreeSet<(String, String, String)>,
    /// Ids whose start was refused in a way that may leave them pending for ever.
    refused: BTreeMap<RequestId, Instant>,
    /// The latest time at which a decryption was begun that has finished since.
    youngest_finished: Option<Instant>,
}

/// How an operation ended.
#[derive(Debug)]
pub enum Ended<R> {
    /// With its result.
    Result(R),
    /// Aborted on purpose.
    Aborted {
        /// This process handled the chain's abort; else only KMS Core says so.
        by_chain: bool,
        /// For a person.
        text: String,
    },
}

/// What a single call answered.
#[derive(Debug)]
pub enum Reply<T> {
    /// Done.
    Done(T),
    /// It was done before.
    AlreadyThere,
    /// There is no such thing (any more).
    NotFound(String),
}

/// One operation's pair of calls.
pub trait Operation: Send + Sync {
    /// What the *Get* call answers.
    type Result: Send;

    /// Name for logs and metrics (the *Start* call's, snake case).
    const NAME: &'static str;

    /// What kind of call *Start* is.
    const CLASS: Class = Class::Other;

    /// What a *Start* needs besides KMS Core, by its name in outages.
    const NEEDS: &'static [&'static str] = &[];

    /// Whether *Start* must not be repeated for an id that the core knows, so that *Get* is asked first, always.
    const GET_FIRST: bool = false;

    /// The code of a *Start* refused as invalid where that may also mean that the id exists: only *Get* tells.
    const REFUSED_OR_THERE: Option<&'static str> = None;

    /// The id that the *Get* call takes.
    fn id(&self) -> RequestId;

    /// The id that picks the shard: key generation follows its preprocessing.
    fn shard_id(&self) -> RequestId {
        self.id()
    }

    /// The ids by which the chain aborts it.
    fn abort_ids(&self) -> Vec<RequestId> {
        Vec::new()
    }

    /// Makes the request; only called when the core does not have the id yet, since ciphertexts are fetched for it.
    fn start(&self, starting: Starting<'_>) -> impl Future<Output = Result<Result<(), Status>, Trouble>> + Send;

    /// Asks for the result.
    fn get(
        &self,
        client: Client,
        request: Request<core::RequestId>,
    ) -> impl Future<Output = Result<Response<Self::Result>, Status>> + Send;

    /// Asked when the core does not know the id that was, or may have been, started: whether it is to be started (again).
    fn before_restart(&self) -> impl Future<Output = Result<(), Trouble>> + Send {
        async { Ok(()) }
    }
}

/// What an operation starts with.
#[derive(Clone, Copy, Debug)]
pub struct Starting<'a> {
    core: &'a KmsCore,
    shard: &'a Shard,
    answered: &'a Answered,
}

impl Starting<'_> {
    /// The client of the operation's shard.
    #[must_use]
    pub fn client(&self) -> Client {
        self.shard.client.clone()
    }

    /// The message with its deadline.
    #[must_use]
    pub fn request<T>(&self, message: T) -> Request<T> {
        with_timeout(message, self.core.start_timeout)
    }

    /// Makes sure, on versions where a decryption under a missing key would stay pending for ever, that the key is there.
    ///
    /// # Errors
    /// [`Trouble::MayHeal`] if it is not.
    pub async fn key_is_there(
        &self,
        key: &core::RequestId,
        context: Option<&core::RequestId>,
        epoch: Option<&core::RequestId>,
    ) -> Result<(), Trouble> {
        if !self.core.version.leaves_ids_stuck() {
            return Ok(());
        }
        let text = |id: Option<&core::RequestId>| id.map(|id| id.request_id.clone()).unwrap_or_default();
        let entry = (key.request_id.clone(), text(context), text(epoch));
        if self.shard.memory().keys.contains(&entry) {
            return Ok(());
        }
        const NAME: &str = "get_key_material_availability";
        let asked = self.client().get_key_material_availability(self.request(core::Empty {})).await;
        metrics::core_call(NAME, "start", asked.as_ref().map_or_else(Status::code, |_| Code::Ok));
        let status = match asked {
            Ok(response) => {
                self.shard.reachability.answers(self.answered);
                if response.into_inner().fhe_key_ids.iter().any(|id| id.eq_ignore_ascii_case(&key.request_id)) {
                    self.shard.memory().keys.insert(entry);
                    return Ok(());
                }
                let text = format!("kms core does not have key {} (yet)", key.request_id);
                return Err(Trouble::may_heal(codes::CORE_NOT_READY, text));
            }
            Err(status) => status,
        };
        let text = format!("{NAME}: {}", describe(&status));
        let verdict = start_verdict(&status, self.core.version, Class::Other);
        self.shard.after_start(verdict, &text, self.answered);
        match verdict {
            StartVerdict::Unimplemented => Ok(()),
            verdict => Err(self.core.start_trouble(verdict, text)),
        }
    }
}

/// A message with a deadline.
pub fn with_timeout<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// How a *Start* call went.
enum Started {
    Accepted,
    Known,
    /// Refused as invalid, or there: [`Operation::REFUSED_OR_THERE`].
    Refused(String),
    Aborted(String),
}

/// How a *Get* call went.
enum Got<R> {
    Result(R),
    Unknown,
    Failed(String),
    Aborted(String),
}

impl KmsCore {
    /// Connects lazily to every configured endpoint: a core that is down is an outage, not a failure to start.
    ///
    /// # Errors
    /// The endpoint that is no valid URI.
    pub fn new(config: &KmsCoreConfig, version: CoreVersion) -> Result<Self, tonic::transport::Error> {
        let shards = config
            .endpoints
            .iter()
            .enumerate()
            .map(|(number, endpoint)| {
                let channel = Endpoint::from_shared(endpoint.expose().to_string())?
                    .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
                    .http2_keep_alive_interval(Duration::from_secs(20))
                    .keep_alive_while_idle(true)
                    .tcp_nodelay(true)
                    .connect_lazy();
                let client = CoreServiceEndpointClient::new(channel)
                    .max_decoding_message_size(config.max_message_bytes)
                    .max_encoding_message_size(config.max_message_bytes);
                let reachability = Reachability::new(number, endpoint.to_string());
                Ok(Shard { client, reachability, memory: Mutex::default() })
            })
            .collect::<Result<_, tonic::transport::Error>>()?;
        let await_pause = Duration::from_millis(config.await_pause_ms);
        Ok(Self {
            shards,
            version,
            aborts: Aborts::default(),
            start_timeout: Duration::from_millis(config.start_timeout_ms),
            await_timeout: Duration::from_millis(config.await_timeout_ms),
            await_pause,
            await_pause_max: Duration::from_millis(config.await_pause_max_ms).max(await_pause),
            stuck: Stuck::DEFAULT,
            stuck_poll: Duration::from_millis(config.stuck_poll_ms),
            hung: Hung { hold: Hung::HOLD, after: Duration::from_millis(config.unresponsive_after_ms) },
        })
    }

    /// The configured version.
    #[must_use]
    pub const fn version(&self) -> CoreVersion {
        self.version
    }

    /// What the chain aborted or destroyed.
    #[must_use]
    pub const fn aborts(&self) -> &Aborts {
        &self.aborts
    }

    /// The shard of an id: the id modulo the number of endpoints.
    fn shard(&self, id: RequestId) -> &Shard {
        let count = alloy::primitives::U256::from(self.shards.len().max(1));
        let index = usize::try_from(id.as_u256() % count).unwrap_or(0);
        &self.shards[index]
    }

    /// An outage of one shard of several is none for the requests of the others.
    fn outage(&self, code: &'static str, dependency: &'static str, text: String) -> Trouble {
        let reach = if self.shards.len() == 1 { Reach::All } else { Reach::Some };
        Trouble::Outage { code, dependency, reach, text }
    }

    /// Runs `operation` until its end, however long that takes: the stage cancels an attempt that outlasts its lane.
    ///
    /// `repeated` says that an earlier attempt may have started the id: then the result is asked for first, which saves the
    /// ciphertexts' download. `answered` is told of every answer, since the result may be hours away.
    ///
    /// # Errors
    /// As the statuses say; "pending" is none.
    pub async fn run<O: Operation>(
        &self,
        operation: &O,
        repeated: bool,
        answered: &Answered,
    ) -> Result<Ended<O::Result>, Trouble> {
        let abort_ids = operation.abort_ids();
        tokio::select! {
            biased;
            () = self.aborts.told(&abort_ids) => {
                let text = format!("{} of id {}: the chain aborted it", O::NAME, operation.id());
                Ok(Ended::Aborted { by_chain: true, text })
            }
            ended = self.run_to_its_end(operation, repeated, answered) => ended,
        }
    }

    async fn run_to_its_end<O: Operation>(
        &self,
        operation: &O,
        repeated: bool,
        answered: &Answered,
    ) -> Result<Ended<O::Result>, Trouble> {
        let shard = self.shard(operation.shard_id());
        let is_decryption = O::CLASS == Class::Decryption;
        let begun = Instant::now();
        let aborted = |text| Ok(Ended::Aborted { by_chain: false, text });
        let mut starts = 0;
        let mut refused = None;
        if !repeated && !O::GET_FIRST {
            starts = 1;
            match self.start(operation, answered).await? {
                Started::Accepted | Started::Known => {}
                Started::Refused(text) => refused = Some(text),
                Started::Aborted(text) => return aborted(text),
            }
        }
        loop {
            match self.get(operation, begun, answered).await? {
                Got::Result(result) => {
                    if is_decryption {
                        shard.memory().finished(operation.id(), begun);
                    }
                    return Ok(Ended::Result(result));
                }
                // Text decides between the two in KMS Core, and a decryption is never aborted on purpose.
                Got::Failed(text) if is_decryption => self.may_start_anew(starts, codes::CORE_FAILED, text)?,
                Got::Aborted(text) if is_decryption => self.may_start_anew(starts, codes::CORE_ABORTED, text)?,
                Got::Failed(text) => return Err(Trouble::permanent(codes::CORE_FAILED, text)),
                Got::Aborted(text) => return aborted(text),
                Got::Unknown => {
                    if let (Some(text), Some(code)) = (refused.take(), O::REFUSED_OR_THERE) {
                        return Err(Trouble::permanent(code, text));
                    }
                    operation.before_restart().await?;
                }
            }
            if starts > MAX_RESTARTS {
                return Err(Trouble::may_heal(
                    codes::CORE_NOT_READY,
                    format!("{}: kms core accepts id {} and forgets it", O::NAME, operation.id()),
                ));
            }
            starts += 1;
            match self.start(operation, answered).await? {
                Started::Accepted | Started::Known => {}
                Started::Refused(text) => refused = Some(text),
                Started::Aborted(text) => return aborted(text),
            }
        }
    }

    /// A decryption failed: what an earlier attempt left behind is started anew, if this version can do that; what failed after
    /// a start of this attempt is tried again later.
    fn may_start_anew(&self, starts: u32, code: &'static str, text: String) -> Result<(), Trouble> {
        match (self.version.restarts_failed_decryptions(), starts) {
            (false, _) => Err(Trouble::permanent(code, text)),
            (true, 0) => Ok(()),
            (true, _) => Err(Trouble::may_heal(code, text)),
        }
    }

    async fn start<O: Operation>(&self, operation: &O, answered: &Answered) -> Result<Started, Trouble> {
        let shard = self.shard(operation.shard_id());
        let mut pause = Pause::new(self);
        loop {
            let asked = Instant::now();
            let started = operation.start(Starting { core: self, shard, answered }).await?;
            O::NEEDS.iter().for_each(|dependency| answered.by(dependency));
            let Err(status) = started else {
                metrics::core_call(O::NAME, "start", Code::Ok);
                shard.reachability.answers(answered);
                answered.by(CAPACITY);
                shard.memory().refused.remove(&operation.id());
                return Ok(Started::Accepted);
            };
            metrics::core_call(O::NAME, "start", status.code());
            let text = format!("{} of id {}: {}", O::NAME, operation.id(), describe(&status));
            let verdict = start_verdict(&status, self.version, O::CLASS);
            shard.after_start(verdict, &text, answered);
            if O::CLASS == Class::Decryption && self.may_leave_stuck(&status) {
                shard.memory().remember_refused(operation.id());
            }
            match verdict {
                StartVerdict::AlreadyKnown => return Ok(Started::Known),
                StartVerdict::NotYet => pause.wait(asked).await,
                StartVerdict::Aborted => return Ok(Started::Aborted(text)),
                StartVerdict::Refused if O::REFUSED_OR_THERE.is_some() => return Ok(Started::Refused(text)),
                verdict => return Err(self.start_trouble(verdict, text)),
            }
        }
    }

    /// Whether a decryption refused like this may be held as pending for ever.
    fn may_leave_stuck(&self, status: &Status) -> bool {
        match status.code() {
            _ if !is_from_core(status) => false,
            Code::NotFound | Code::FailedPrecondition => self.version.leaves_ids_stuck(),
            Code::Aborted => self.version == CoreVersion::V0_12,
            _ => false,
        }
    }

    async fn get<O: Operation>(
        &self,
        operation: &O,
        begun: Instant,
        answered: &Answered,
    ) -> Result<Got<O::Result>, Trouble> {
        let shard = self.shard(operation.shard_id());
        let mut pause = Pause::new(self);
        loop {
            let request = with_timeout(core_request::id(operation.id()), self.await_timeout);
            let asked = Instant::now();
            let status = match operation.get(shard.client.clone(), request).await {
                Ok(response) => {
                    metrics::core_call(O::NAME, "get", Code::Ok);
                    shard.reachability.answers(answered);
                    return Ok(Got::Result(response.into_inner()));
                }
                Err(status) => status,
            };
            metrics::core_call(O::NAME, "get", status.code());
            let text = || format!("result of {} of id {}: {}", O::NAME, operation.id(), describe(&status));
            let verdict = await_verdict(&status);
            // A time-out is pending too, and no sign of life.
            if verdict == AwaitVerdict::Unreachable {
                shard.is_silent(&text());
            } else if !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
                shard.reachability.answers(answered);
            }
            match verdict {
                AwaitVerdict::Pending => {
                    // Calls for preprocessings and keys may be held longer than our deadline by a healthy core.
                    if O::CLASS == Class::Decryption && self.is_hung(shard, &status) {
                        shard.is_silent(&text());
                        return Err(self.outage(codes::CORE_UNREACHABLE, KMS_CORE, text()));
                    }
                    if O::CLASS == Class::Decryption {
                        self.refuse_stuck(operation.id(), begun, O::NAME)?;
                    }
                    pause.wait(asked).await;
                }
                AwaitVerdict::Unknown => return Ok(Got::Unknown),
                AwaitVerdict::Failed => return Ok(Got::Failed(text())),
                AwaitVerdict::Aborted => return Ok(Got::Aborted(text())),
                AwaitVerdict::Unreachable => return Err(self.outage(codes::CORE_UNREACHABLE, KMS_CORE, text())),
                AwaitVerdict::Refused => return Err(Trouble::permanent(codes::CORE_REFUSED, text())),
                AwaitVerdict::Unimplemented => return Err(Trouble::permanent(codes::CORE_LACKS_CALL, text())),
            }
        }
    }

    /// A deadline beyond the time for which a core holds a call, and nothing was answered for long.
    fn is_hung(&self, shard: &Shard, status: &Status) -> bool {
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
            && self.await_timeout > self.hung.hold
            && shard.reachability.unanswered() >= self.hung.after
    }

    /// Sets a pending decryption aside that will not end before KMS Core is restarted: one that was refused before, or one that
    /// is old while younger ones have finished.
    fn refuse_stuck(&self, id: RequestId, begun: Instant, name: &'static str) -> Result<(), Trouble> {
        let memory = self.shard(id).memory();
        let age = begun.elapsed();
        let was_refused = memory.refused.contains_key(&id);
        let overtaken = memory.youngest_finished.is_some_and(|finished| finished > begun);
        let is_stuck = (was_refused && age > self.stuck.after_refusal)
            || (self.version.leaves_ids_stuck() && overtaken && age > self.stuck.by_age);
        if !is_stuck {
            return Ok(());
        }
        drop(memory);
        let why = if was_refused { "was refused once" } else { "is older than others that have finished" };
        let text = format!(
            "{name} of id {id} {why} and is pending for {} s: kms core {} holds such an id until it is restarted",
            age.as_secs(),
            self.version.as_str()
        );
        metrics::core_stuck(&text);
        Err(Trouble::SetAside { code: codes::CORE_STUCK, dependency: STUCK, after: self.stuck_poll, text })
    }

    /// Makes one call that is done when it answers. `shard_id` picks the shard; `subject` is what the text calls it.
    ///
    /// # Errors
    /// As the status says. "Already there" and "not found" are left to the caller.
    pub async fn call<T, F>(
        &self,
        (name, class): (&'static str, Class),
        shard_id: RequestId,
        answered: &Answered,
        make: impl FnOnce(Client, Timeouts) -> F,
    ) -> Result<Reply<T>, Trouble>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let shard = self.shard(shard_id);
        let timeouts = Timeouts { start: self.start_timeout, long: self.await_timeout };
        let status = match make(shard.client.clone(), timeouts).await {
            Ok(response) => {
                metrics::core_call(name, "start", Code::Ok);
                shard.reachability.answers(answered);
                return Ok(Reply::Done(response.into_inner()));
            }
            Err(status) => status,
        };
        metrics::core_call(name, "start", status.code());
        let text = format!("{name} of id {shard_id}: {}", describe(&status));
        let verdict = start_verdict(&status, self.version, class);
        shard.after_start(verdict, &text, answered);
        match verdict {
            StartVerdict::AlreadyKnown => Ok(Reply::AlreadyThere),
            StartVerdict::MayHeal if status.code() == Code::NotFound => Ok(Reply::NotFound(text)),
            verdict => Err(self.start_trouble(verdict, text)),
        }
    }

    fn start_trouble(&self, verdict: StartVerdict, text: String) -> Trouble {
        match verdict {
            StartVerdict::AlreadyKnown | StartVerdict::NotYet | StartVerdict::MayHeal => {
                Trouble::may_heal(codes::CORE_NOT_READY, text)
            }
            StartVerdict::InFlight => Trouble::may_heal(codes::CORE_LIFECYCLE, text),
            StartVerdict::Busy => self.outage(codes::CORE_BUSY, CAPACITY, text),
            StartVerdict::Aborted => Trouble::permanent(codes::CORE_ABORTED, text),
            StartVerdict::Unreachable => self.outage(codes::CORE_UNREACHABLE, KMS_CORE, text),
            StartVerdict::Refused => Trouble::permanent(codes::CORE_REFUSED, text),
            StartVerdict::Unimplemented => Trouble::permanent(codes::CORE_LACKS_CALL, text),
        }
    }
}

/// Deadlines of single calls.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Of a call that answers at once.
    pub start: Duration,
    /// Of a call that works before it answers.
    pub long: Duration,
}

/// Time between two calls that ask for the same thing: none where the core held the line, and ever longer where it answers at
/// once, up to a limit.
struct Pause {
    next: Duration,
    least: Duration,
    most: Duration,
}

impl Pause {
    const fn new(core: &KmsCore) -> Self {
        Self { next: core.await_pause, least: core.await_pause, most: core.await_pause_max }
    }

    async fn wait(&mut self, asked: Instant) {
        if asked.elapsed() >= self.least {
            self.next = self.least;
            return;
        }
        tokio::time::sleep_until(asked + self.next).await;
        self.next = (self.next * 2).min(self.most);
    }
}

impl Memory {
    fn remember_refused(&mut self, id: RequestId) {
        self.refused.insert(id, Instant::now());
        if self.refused.len() > MAX_REFUSED {
            let oldest = self.refused.iter().min_by_key(|(_, at)| **at).map(|(id, _)| *id);
            oldest.and_then(|oldest| self.refused.remove(&oldest));
        }
    }

    fn finished(&mut self, id: RequestId, begun: Instant) {
        self.refused.remove(&id);
        self.youngest_finished = self.youngest_finished.max(Some(begun));
    }
}

impl Shard {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A core that falls silent may be restarted: what was known of its keys is asked again.
    fn is_silent(&self, why: &str) {
        self.memory().keys.clear();
        self.reachability.is_silent(why);
    }

    fn after_start(&self, verdict: StartVerdict, text: &str, answered: &Answered) {
        match verdict {
            StartVerdict::Unreachable => self.is_silent(text),
            StartVerdict::AlreadyKnown => {
                self.reachability.answers(answered);
                answered.by(CAPACITY);
            }
            _ => self.reachability.answers(answered),
        }
    }
}

/// Whether a shard answers: told once per change, in log and metric.
#[derive(Debug)]
struct Reachability {
    number: usize,
    endpoint: String,
    is_silent: AtomicBool,
    /// When a call first ran into its deadline since the last answer.
    unanswered: Mutex<Option<Instant>>,
}

impl Reachability {
    fn new(number: usize, endpoint: String) -> Self {
        metrics::shard_reachable(number, true);
        Self { number, endpoint, is_silent: AtomicBool::new(false), unanswered: Mutex::default() }
    }

    /// A call ran into its deadline: since when nothing is answered.
    fn unanswered(&self) -> Duration {
        let mut since = self.unanswered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        since.get_or_insert_with(Instant::now).elapsed()
    }

    fn answers(&self, answered: &Answered) {
        answered.by(KMS_CORE);
        self.unanswered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if self.is_silent.load(Ordering::Relaxed) && self.is_silent.swap(false, Ordering::Relaxed) {
            metrics::shard_reachable(self.number, true);
            tracing::info!(shard = self.number, endpoint = self.endpoint, "kms core answers again");
        }
    }

    fn is_silent(&self, why: &str) {
        if !self.is_silent.swap(true, Ordering::Relaxed) {
            metrics::shard_reachable(self.number, false);
            let code = codes::CORE_UNREACHABLE;
            tracing::warn!(shard = self.number, endpoint = self.endpoint, code, why, "kms core does not answer");
        }
    }
}

fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
