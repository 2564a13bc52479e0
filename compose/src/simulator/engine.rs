//! The node itself: what all operations share, and what they leave behind.
//!
//! All that a restart forgets is one value, [`Life`]. An operation holds the life it was started in, so that one which
//! outlives its life settles into a store that nobody reads any more.
//!
//! What each operation checks and does is in a file of its own: `decryption`, `generation` (preprocessing, keys, CRSs),
//! `lifecycle` (contexts, epochs), `former` (what only versions up to 0.13.3 have) and `condition` (what the node has).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy::primitives::{Address, B256, U256};
use kms_proto::kms::v1 as kms;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::calls::CallLog;
use super::config::{Checked, Latencies, Mode};
use super::context::{self, Role};
use super::error::SimulatorError;
use super::faults::Faults;
use super::generation::Preprocessing;
use super::leases::{Leases, Subject};
use super::operation::Operation;
use super::refusal::{OperationId, Refusal};
use super::signing::Signing;
use super::store::{Bound, NotInserted, Rules, State, Store};
use super::validation;
use super::vault::{Shelf, StoredCrs, StoredEpoch, StoredKey, Vault};

/// A store as an operation and its Get reach it.
pub(super) type StoreOf<T> = fn(&Life) -> &Mutex<Store<T>>;

/// How a running operation is stopped, and known to have stopped.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    pub(super) cancel: CancellationToken,
    pub(super) ended: CancellationToken,
}

/// Everything a restart forgets.
pub(super) struct Life {
    pub(super) public_decryptions: Mutex<Store<kms::PublicDecryptionResponse>>,
    pub(super) user_decryptions: Mutex<Store<kms::UserDecryptionResponse>>,
    pub(super) preprocessings: Mutex<Store<Preprocessing>>,
    pub(super) keys: Mutex<Store<kms::KeyGenResult>>,
    pub(super) crs: Mutex<Store<kms::CrsGenResult>>,
    pub(super) resharings: Mutex<Store<kms::ResharingResultResponse>>,
    pub(super) epochs: Mutex<Store<kms::EpochResultResponse>>,
    /// Contexts and epochs that are being created or destroyed.
    pub(super) leases: Leases,
    /// Operations that run, by kind and id.
    pub(super) running: Mutex<HashMap<(Operation, OperationId), Running>>,
    /// Key generations by the preprocessing they consumed.
    pub(super) consumers: Mutex<HashMap<OperationId, OperationId>>,
    bucket: Arc<Semaphore>,
    /// Cancelled at its end: running operations stop, held calls are answered.
    over: CancellationToken,
    /// Parent of the connections, cut at a restart.
    connections: CancellationToken,
    /// Shares are encrypted anew in every life, so a repeated decryption does not give the same bytes.
    pub(super) randomness: [u8; 16],
}

impl Life {
    fn begin(config: &Checked, vault: &Vault) -> Self {
        let limits = &config.limits;
        let decryptions = Rules {
            bound: Some(Bound { capacity: limits.decryption_capacity, kept: limits.decryptions_kept }),
            redoes_failed: config.version.redoes_failed_decryptions(),
            remembers_deleted: false,
        };
        let others = Rules { remembers_deleted: config.version.remembers_deleted(), ..Rules::default() };
        let mut keys = Store::new(others);
        for (id, key) in vault.items_on::<StoredKey>(Shelf::Keys) {
            keys.restore(id, key.result.unwrap_or_default());
        }
        let mut crs = Store::new(others);
        for (id, stored) in vault.items_on::<StoredCrs>(Shelf::Crs) {
            crs.restore(id, stored.result.unwrap_or_default());
        }
        Self {
            public_decryptions: Mutex::new(Store::new(decryptions)),
            user_decryptions: Mutex::new(Store::new(decryptions)),
            preprocessings: Mutex::new(Store::new(others)),
            keys: Mutex::new(keys),
            crs: Mutex::new(crs),
            resharings: Mutex::new(Store::new(others)),
            epochs: Mutex::new(Store::new(others)),
            leases: Leases::default(),
            running: Mutex::default(),
            consumers: Mutex::default(),
            bucket: Arc::new(Semaphore::new(limits.bucket as usize)),
            over: CancellationToken::new(),
            connections: CancellationToken::new(),
            randomness: rand::random(),
        }
    }

    /// Resolves when the life is over.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Tokens that no operation holds.
    pub(super) fn free_tokens(&self) -> usize {
        self.bucket.available_permits()
    }
}

/// What can be switched while the simulator runs.
#[derive(Debug)]
pub(super) struct Switches {
    pub(super) plaintexts: BTreeMap<B256, Vec<u8>>,
    pub(super) failing_handles: BTreeSet<B256>,
    /// Operations that fail, with the texts of their failures.
    pub(super) failing_ids: BTreeMap<OperationId, String>,
    pub(super) latency_ms: Latencies,
    /// Whether there is no signing key.
    pub(super) recovery: bool,
}

/// See the module.
pub(super) struct Engine {
    pub(super) config: Checked,
    pub(super) calls: CallLog,
    pub(super) faults: Faults,
    pub(super) switches: Mutex<Switches>,
    /// Kinds of operation that do not finish until they are released.
    pub(super) held: watch::Sender<BTreeSet<Operation>>,
    pub(super) health: HealthReporter,
    pub(super) signing: Signing,
    pub(super) vault: Vault,
    life: Mutex<Arc<Life>>,
    /// One PRSS set-up at a time.
    pub(super) prss: tokio::sync::Mutex<()>,
}

/// Locks, whatever a thread that panicked left behind: every guarded value is valid at any time.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The PRSS set-up of a version 0.12 node that is initialized from the start.
const PRSS_ID: OperationId = OperationId(B256::with_last_byte(1));

/// Where an operation takes place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// This node's part in the context.
    pub(super) role: Role,
    pub(super) epoch: OperationId,
}

impl Engine {
    /// Reads what survived, makes what a first start finds, and begins the first life.
    pub(super) async fn open(config: Checked) -> Result<Self, SimulatorError> {
        let vault = Vault::open(config.state_dir.clone()).await?;
        let made = make_at_first_start(&config, &vault).await;
        made.map_err(|why| SimulatorError::State { path: config.state_dir.clone().unwrap_or_default(), why })?;
        let engine = Self {
            calls: CallLog::new(config.limits.recorded_ids),
            faults: Faults::new(config.faults.clone()),
            switches: Mutex::new(Switches {
                plaintexts: config.plaintexts.clone(),
                failing_handles: config.failing_handles.clone(),
                failing_ids: config.failing_ids.iter().map(|id| (*id, failure_of(*id))).collect(),
                latency_ms: config.latency_ms,
                recovery: config.recovery,
            }),
            held: watch::Sender::default(),
            health: HealthReporter::new(),
            signing: Signing::new(config.signing_key.clone()),
            life: Mutex::new(Arc::new(Life::begin(&config, &vault))),
            prss: tokio::sync::Mutex::new(()),
            vault,
            config,
        };
        engine.report_own_health().await;
        Ok(engine)
    }

    pub(super) fn signer(&self) -> Address {
        self.signing.address()
    }

    pub(super) fn life(&self) -> Arc<Life> {
        Arc::clone(&lock(&self.life))
    }

    /// Parent token of a new connection.
    pub(super) fn connections(&self) -> CancellationToken {
        lock(&self.life).connections.clone()
    }

    /// Ends the life for good: held calls are answered, running operations stop.
    pub(super) fn end(&self) {
        lock(&self.life).over.cancel();
    }

    /// Cuts every connection.
    pub(super) fn cut_connections(&self) {
        lock(&self.life).connections.cancel();
    }

    /// Restarts: every connection breaks; decryptions, preprocessings, results of epochs and running operations are
    /// forgotten; keys, CRSs, contexts and epochs stay.
    pub(super) async fn restart(&self) {
        let next = Arc::new(Life::begin(&self.config, &self.vault));
        let ended = std::mem::replace(&mut *lock(&self.life), next);
        ended.connections.cancel();
        ended.over.cancel();
        self.report_own_health().await;
    }

    /// Reports as KMS Core does: a threshold node serves once it has a PRSS set-up, which later versions make with their
    /// first epoch.
    pub(super) async fn report_own_health(&self) {
        let status = if self.is_initialized() { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.report_health(status).await;
    }

    pub(super) async fn report_health(&self, status: ServingStatus) {
        self.health.set_service_status(kms_proto::CORE_SERVICE_NAME, status).await;
    }

    fn is_initialized(&self) -> bool {
        let set_up = if self.config.version.has_epochs() { Shelf::Epochs } else { Shelf::Prss };
        self.config.mode == Mode::Centralized || !self.vault.ids(set_up).is_empty()
    }

    /// Takes an operation's tokens, which it holds until it ends.
    pub(super) fn take_tokens(&self, life: &Life, operation: Operation) -> Result<OwnedSemaphorePermit, Refusal> {
        let tokens = self.config.limits.tokens.of(operation);
        let taken = Arc::clone(&life.bucket).try_acquire_many_owned(tokens);
        taken.map_err(|_| Refusal::unread(Code::ResourceExhausted, format!("not enough tokens: {tokens} are needed")))
    }

    /// Where an operation takes place, if the node can work there: in a context and an epoch that it knows and that stay.
    pub(super) fn place(
        &self,
        life: &Life,
        context_id: Option<&kms::RequestId>,
        epoch_id: Option<&kms::RequestId>,
    ) -> Result<Place, Refusal> {
        let version = self.config.version;
        let context = validation::optional_id("context_id", context_id)?.unwrap_or(version.default_context());
        let epoch = if version.has_epochs() { validation::optional_id("epoch_id", epoch_id)? } else { None };
        let epoch = epoch.unwrap_or(version.default_epoch());
        let changing = life.leases.changes(Subject::Context(context)) || life.leases.changes(Subject::Epoch(epoch));
        if version.guards_lifecycle() && changing {
            let why = format!("context {context} or epoch {epoch} is being created or destroyed");
            return Err(Refusal::new(Code::FailedPrecondition, why));
        }
        let Some(known) = self.vault.item::<kms::MpcContext>(Shelf::Contexts, context) else {
            return Err(Refusal::new(version.unknown_context(), format!("context {context} is not known")));
        };
        if self.config.mode == Mode::Threshold {
            if !self.is_initialized() && !version.has_epochs() {
                return Err(Refusal::new(Code::Internal, "no session can be made: there is no PRSS set-up"));
            }
            if version.has_epochs() && !self.vault.holds(Shelf::Epochs, epoch) {
                return Err(Refusal::new(Code::NotFound, format!("epoch {epoch} is not known")));
            }
        }
        let Some(role) = self.role(&known) else {
            return Err(Refusal::new(Code::NotFound, format!("this node is not in context {context}")));
        };
        Ok(Place { role, epoch })
    }

    /// Refuses where there is no signing key.
    pub(super) fn check_signing_key(&self) -> Result<(), Refusal> {
        if lock(&self.switches).recovery {
            return Err(Refusal::new(Code::FailedPrecondition, "there is no signing key"));
        }
        Ok(())
    }

    /// This node's part in a context.
    pub(super) fn role(&self, known: &kms::MpcContext) -> Option<Role> {
        let configured = Role { party_id: self.config.party_id, degree: self.config.degree };
        if known.mpc_nodes.is_empty() {
            return Some(configured);
        }
        context::role(self.config.version, known, self.signer(), configured.party_id)
    }

    pub(super) fn knows_context(&self, id: OperationId) -> bool {
        self.vault.holds(Shelf::Contexts, id)
    }

    /// Whether the node holds its part of a key in an epoch.
    pub(super) fn knows_key(&self, key_id: OperationId, epoch: OperationId) -> bool {
        let config = &self.config;
        let from_start = || config.keys.contains(&key_id) && config.epochs.iter().any(|(known, _)| *known == epoch);
        config.any_key || from_start() || self.was_given(key_id, epoch)
    }

    /// Whether a key was generated in an epoch or reshared to it. Version 0.12 has no epochs.
    fn was_given(&self, key_id: OperationId, epoch: OperationId) -> bool {
        let key = self.vault.item::<StoredKey>(Shelf::Keys, key_id);
        key.is_some_and(|key| key.epochs.iter().any(|held| held.as_slice() == epoch.0.as_slice()))
    }

    /// Takes an id into a store.
    pub(super) fn admit<T>(&self, store: &Mutex<Store<T>>, id: OperationId) -> Result<(), Refusal> {
        lock(store).insert(id).map_err(|reason| match reason {
            NotInserted::Exists => already_exists(id),
            NotInserted::Full => Refusal::new(self.config.version.full_store(), format!("no room for request {id}")),
        })
    }

    /// Runs an admitted operation in the background: its time, then its work, then its result.
    pub(super) fn run<T: Send + Sync + 'static>(
        self: &Arc<Self>,
        life: Arc<Life>,
        operation: Operation,
        id: OperationId,
        store: StoreOf<T>,
        tokens: OwnedSemaphorePermit,
        work: impl Future<Output = Result<T, String>> + Send + 'static,
    ) {
        let engine = Arc::clone(self);
        let running = Running::default();
        lock(&life.running).insert((operation, id), running.clone());
        let run = async move {
            let finished = async {
                if running.cancel.run_until_cancelled(engine.run_out(operation, id)).await.is_none() {
                    return Err(format!("operation {id} was aborted"));
                }
                match engine.failure(id) {
                    Some(why) => Err(why),
                    None => work.await,
                }
            };
            // A life that ends meanwhile takes the operation with it.
            let outcome = life.over.run_until_cancelled(finished).await;
            // Whoever sees the result can use the tokens.
            drop(tokens);
            lock(&life.running).remove(&(operation, id));
            if let Some(outcome) = outcome {
                lock(store(&life)).settle(id, outcome);
            }
            running.ended.cancel();
        };
        tokio::spawn(run);
    }

    /// Stops an operation that runs; whether there was one, and it did not finish on its own.
    pub(super) async fn stop<T>(&self, life: &Life, operation: Operation, id: OperationId, store: StoreOf<T>) -> bool {
        let Some(running) = lock(&life.running).get(&(operation, id)).cloned() else { return false };
        running.cancel.cancel();
        running.ended.cancelled().await;
        matches!(lock(store(life)).state(id), Some(State::Failed(_)))
    }

    /// Why an operation fails, if it is switched to.
    pub(super) fn failure(&self, id: OperationId) -> Option<String> {
        lock(&self.switches).failing_ids.get(&id).cloned()
    }

    /// Lets an operation's time pass, and waits until its kind is not held.
    pub(super) async fn run_out(&self, operation: Operation, id: OperationId) {
        let latency = lock(&self.switches).latency_ms.of(operation, id);
        if latency > 0.0 {
            tokio::time::sleep(self.config.scaled(latency)).await;
        }
        // The sender lives in the engine, so waiting cannot fail.
        let _ = self.held.subscribe().wait_for(|held| !held.contains(&operation)).await;
    }

    /// Answers a Get: waits while the operation runs, as long as its version does.
    pub(super) async fn result<T: Clone>(
        &self,
        operation: Operation,
        store: StoreOf<T>,
        message: &kms::RequestId,
    ) -> Result<T, Refusal> {
        let id = validation::id("request_id", Some(message))?;
        let life = self.life();
        match self.settled(&life, store(&life), operation, id).await {
            Some(State::Done(result)) => Ok(T::clone(&result)),
            Some(State::Pending) => Err(Refusal::new(Code::Unavailable, format!("request {id} is not done yet"))),
            Some(State::Failed(why)) => {
                Err(Refusal::new(self.code_of_failure(&why), format!("request {id} failed: {why}")))
            }
            Some(State::Deleted) | None => Err(Refusal::new(Code::NotFound, format!("request {id} is not known"))),
        }
    }

    /// The code of a failed operation's Get, which follows from nothing but the failure's text.
    pub(super) fn code_of_failure(&self, why: &str) -> Code {
        let aborted = self.config.version.reports_aborts() && why.to_lowercase().contains("abort");
        if aborted { Code::Aborted } else { Code::Internal }
    }

    /// The state of an id after it settled, the wait of its kind passed, or the life ended.
    pub(super) async fn settled<T>(
        &self,
        life: &Life,
        store: &Mutex<Store<T>>,
        operation: Operation,
        id: OperationId,
    ) -> Option<State<T>> {
        let settled = lock(store).settled(id)?;
        let wait = self.config.wait(operation);
        if !wait.is_zero() {
            tokio::select! {
                () = settled.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                () = life.over.cancelled() => {}
            }
        }
        lock(store).state(id)
    }
}

/// What a node has that was set up before: its contexts, and a PRSS set-up or epochs. Nothing is made again where some of it
/// is there, so that what was destroyed stays destroyed.
async fn make_at_first_start(config: &Checked, vault: &Vault) -> Result<(), String> {
    if vault.ids(Shelf::Contexts).is_empty() {
        for id in &config.contexts {
            let context = kms::MpcContext { context_id: Some(id.message()), ..kms::MpcContext::default() };
            vault.keep(Shelf::Contexts, *id, context.encode_to_vec()).await?;
        }
    }
    if !config.initialized {
        return Ok(());
    }
    if !config.version.has_epochs() && vault.ids(Shelf::Prss).is_empty() {
        vault.keep(Shelf::Prss, PRSS_ID, vec![]).await?;
    }
    if config.version.has_epochs() && vault.ids(Shelf::Epochs).is_empty() {
        for (id, context) in &config.epochs {
            let epoch = StoredEpoch { context: context.0.to_vec() };
            vault.keep(Shelf::Epochs, *id, epoch.encode_to_vec()).await?;
        }
    }
    Ok(())
}

/// The text of a failure that was switched on without one.
pub(super) fn failure_of(id: OperationId) -> String {
    format!("operation {id} is switched to fail")
}

pub(super) fn number(id: OperationId) -> U256 {
    id.0.into()
}

pub(super) fn already_exists(id: OperationId) -> Refusal {
    Refusal::new(Code::AlreadyExists, format!("{id} exists already"))
}
