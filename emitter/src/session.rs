//! One term of leadership of one destination: take over, reconcile, work, stop.
//!
//! ```text
//! fence predecessors ──▶ read the journal to its end ──▶ ask the chain for the account's nonce ──▶ send again what is open
//!     ──▶ consume results ──▶ (leadership lost | shutdown | fenced) ──▶ stop intake, end the tasks
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use kms_chain::release::{Release, ReleaseError, resolve_release};
use kms_chain::rpc::{Block, BlockId, EndpointUrl, Rpc, RpcConfig, RpcError};
use kms_runtime::http::Check;
use kms_runtime::retry::Backoff;
use kms_runtime::service::Context;
use kms_runtime::shutdown::{Exit, Stopped};
use kms_runtime::stage::{self, StageConfig, StageIds};
use kms_schemas::codes::Code;
use kms_schemas::identity::Lane;
use kms_schemas::record::IntentItem;
use kms_schemas::topics::{MAX_DEAD_LETTER_BYTES, MAX_RECORD_BYTES, Topics};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::batch::Limits;
use crate::clock::Clock;
use crate::codes;
use crate::command::{self, Clerk};
use crate::config::{Auto, Confirmations, DestinationConfig, EmitterConfig, LaneConfig, Mode, SubmissionConfig};
use crate::cost::Costs;
use crate::follow::{Follower, Wishes};
use crate::handler::{ResultHandler, SERVICE, Settling};
use crate::journal::{self, Account, Journal, JournalError, OpenIntents, StoredIntent};
use crate::judge::Judge;
use crate::metrics::Metrics;
use crate::nonce::{Action, Nonce, Planner, Recovered, Variant};
use crate::order::Orders;
use crate::pool::{self, Sends};
use crate::prove::Prover;
use crate::provision;
use crate::release::Releases;
use crate::routes::Routes;
use crate::signing::Signing;
use crate::submitter::{self, Inbox, ItemKey, Job, Parts, Submitter};
use crate::verify::Verifier;
use crate::waits::Patience;
use crate::wallet::{self, ReadBack, Wallet};

/// Jobs between the handlers and the submitter.
const JOBS: usize = 1_024;

/// Commands between their follower and the submitter.
const COMMANDS: usize = 64;

/// What every term of one destination needs.
pub struct Session {
    /// The whole configuration.
    pub config: Arc<EmitterConfig>,
    /// The destination.
    pub destination: DestinationConfig,
    /// How answers are sent to it.
    pub submission: SubmissionConfig,
    /// What the service stands on.
    pub context: Context,
    /// The account that pays.
    pub wallet: Wallet,
    /// The nodes.
    pub rpc: Rpc,
    /// Readiness checks.
    pub checks: Checks,
    /// Its happenings.
    pub metrics: Metrics,
    /// Which results are its own.
    routes: Routes,
    /// The lanes that it consumes, each with the name of its stage and its readiness.
    lanes: Vec<(Lane, &'static str, Check)>,
}

/// Readiness checks of one destination.
#[derive(Clone, Debug)]
pub struct Checks {
    /// This emitter is the active one.
    pub leader: Check,
    /// The destination can be read.
    pub chain: Check,
    /// The contracts accept this node.
    pub registration: Check,
    /// The account can pay.
    pub funds: Check,
    /// No person's command keeps it from sending.
    pub paused: Check,
    /// What people command is heard.
    pub commands: Check,
    /// What is mined becomes final.
    pub finality: Check,
    /// The account can sign; only where somebody else is asked for signatures.
    pub signer: Option<Check>,
}

impl Session {
    /// The destination at this place of the configuration. Connects to nothing.
    ///
    /// # Errors
    /// A value of the configuration that only shows now.
    pub fn new(config: Arc<EmitterConfig>, index: usize, context: &Context) -> Result<Self, Stopped> {
        let refuse = |text: String| Stopped::new(Exit::Configuration, &kms_runtime::codes::CONFIG_VALUE, text);
        let destination = config.destination[index].clone();
        let submission = config.submission_of(&destination).clone();
        let wallet = config.wallet_of(&destination).wallet();
        let wallet = wallet.map_err(|error| refuse(format!("destination {}: {error}", destination.id)))?;
        let rpc = client(&destination, &submission)
            .map_err(|text| refuse(format!("destination {}: {text}", destination.id)))?;
        // Labels of metrics live as long as the process, and there are as many as the configuration lists.
        let name: &'static str = destination.id.clone().leak();
        let check = |what: &str| context.health.check(format!("{name}.{what}"));
        let checks = Checks {
            leader: check("leader"),
            chain: check("chain"),
            registration: check("registration"),
            funds: check("funds"),
            paused: check("paused"),
            commands: check("commands"),
            finality: check("finality"),
            signer: wallet.is_remote().then(|| check("signer")),
        };
        let routes = Routes::new(&config.destination, index);
        let lanes = Lane::ALL.into_iter().filter(|lane| routes.consumes(*lane));
        let lanes = lanes.map(|lane| {
            let stage: &'static str = format!("{SERVICE}.{name}.{}", lane.as_str()).leak();
            (lane, stage, context.health.check(stage))
        });
        Ok(Self {
            lanes: lanes.collect(),
            metrics: Metrics::of(name),
            context: context.clone(),
            destination,
            submission,
            config,
            wallet,
            rpc,
            checks,
            routes,
        })
    }
}

/// Makes the client for a destination; else what is wrong with a URL.
fn client(destination: &DestinationConfig, submission: &SubmissionConfig) -> Result<Rpc, String> {
    let urls = destination.rpc_urls.iter().map(|url| EndpointUrl::parse(url.expose().as_str()));
    let urls = urls.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let mut rpc = RpcConfig::new(&destination.id, urls);
    rpc.chain_id = Some(destination.chain_id);
    rpc.timeout = Duration::from_millis(destination.rpc_timeout_ms);
    rpc.send_timeout = Duration::from_millis(destination.send_timeout_ms);
    rpc.max_batch = rpc.max_batch.max(submission.send_batch.given().unwrap_or_default());
    Rpc::new(rpc).map_err(|error| error.to_string())
}

/// Why it is not known where the chain stands.
enum Unreadable {
    /// Nobody answered.
    Outage { code: &'static str, text: String },
    /// Whoever answered last is of another chain; the others may only be silent.
    OtherChain { text: String },
    /// The answer leaves no room for this configuration.
    Refused(Stopped),
}

impl From<RpcError> for Unreadable {
    fn from(error: RpcError) -> Self {
        if error.code() == kms_chain::codes::RPC_WRONG_CHAIN {
            return Self::OtherChain { text: error.to_string() };
        }
        Self::Outage { code: error.code(), text: error.to_string() }
    }
}

impl From<ReleaseError> for Unreadable {
    fn from(error: ReleaseError) -> Self {
        if error.is_outage() {
            return Self::Outage { code: error.code(), text: error.to_string() };
        }
        Self::Refused(stopped(Exit::Refused, error.code(), error.to_string()))
    }
}

/// Where the chain stands when a term begins.
struct Standing {
    head: Block,
    account: Nonce,
    release: Release,
    /// Answers leave in batches.
    batches: bool,
    /// How transactions go to the nodes.
    sends: Sends,
    /// The priority fee that is usual.
    priority_fee: Option<u128>,
}

impl Session {
    /// Another emitter is active. Of what a term needs nothing is looked at, and nothing is wrong.
    pub fn stands_by(&self) {
        let Checks { leader, chain, registration, funds, paused, commands, finality, signer } = &self.checks;
        let of_lanes = self.lanes.iter().map(|(.., check)| check);
        let checks = [leader, chain, registration, funds, paused, commands, finality].into_iter();
        checks
            .chain(signer)
            .chain(of_lanes)
            .for_each(|check| check.standby("standby: another emitter is active for this chain and sender"));
    }

    /// Works until the shutdown, until leadership is lost (`stop`), or until something fails for good.
    ///
    /// # Errors
    /// How the process should end; [`Exit::Fenced`] when another emitter took the journal.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), Stopped> {
        let check = self.checks.signer.clone();
        let signing = Signing::new(self.wallet.clone(), self.destination.chain_id, check, self.metrics);
        let proof = signing.prove(&stop).await;
        let refuse =
            |text| stopped(Exit::Refused, codes::WRONG_WALLET, format!("destination {}: {text}", self.destination.id));
        if !proof.map_err(refuse)? {
            return Ok(());
        }
        let Some((journal, intents)) = self.take_over(&stop).await? else { return Ok(()) };
        let Some(standing) = self.reconcile(&stop).await? else { return Ok(()) };
        let (commands, begun) = self.commands(&stop).await?;
        let Some(begun) = begun else { return Ok(()) };
        tracing::info!(
            destination = self.metrics.destination(),
            release = %standing.release,
            sender = %self.wallet.address(),
            account_nonce = standing.account.0,
            intents = intents.len(),
            block = standing.head.number(),
            pool = standing.sends.pool,
            send_batch = standing.sends.batch,
            send_concurrency = standing.sends.concurrency,
            priority_fee_wei = standing.priority_fee,
            "taking up where the journal ends"
        );
        let outcome = self.work(journal, signing, intents, standing, (commands, begun), stop).await;
        self.metrics.paused(false);
        outcome
    }

    async fn take_over(&self, stop: &CancellationToken) -> Result<Option<(Journal, Vec<StoredIntent>)>, Stopped> {
        let (kafka, topics, codec) =
            (self.context.kafka.clone(), self.context.topics.clone(), self.context.codec.clone());
        let account = Account {
            chain_id: self.destination.chain_id,
            wallet: self.wallet.clone(),
            is_first: self.routes.is_first(),
        };
        let (stopped, metrics) = (stop.clone(), self.metrics);
        let blocking = move || {
            let keep_on = || !stopped.is_cancelled();
            let journal = Journal::take_over(kafka, &topics, codec, account, metrics, keep_on)?;
            let intents = read_through_outages(&journal, keep_on)?;
            Ok::<_, JournalError>((journal, intents))
        };
        match tokio::task::spawn_blocking(blocking).await {
            Ok(Ok(taken)) => Ok(Some(taken)),
            Ok(Err(_)) if stop.is_cancelled() => Ok(None),
            Ok(Err(error)) => Err(journal_stopped(&error)),
            Err(error) => Err(internal(error.to_string())),
        }
    }

    /// Reads what people wanted, through outages; none when stopped before. A pause that is not known is one that is not obeyed,
    /// so nothing is sent before the topic was read.
    async fn commands(&self, stop: &CancellationToken) -> Result<(command::Reader, Option<command::Begun>), Stopped> {
        let reader = command::Reader {
            kafka: self.context.kafka.clone(),
            codec: self.context.codec.clone(),
            topic: self.context.topics.commands().to_owned(),
            chain_id: self.destination.chain_id,
            sender: self.wallet.address(),
            metrics: self.metrics,
        };
        loop {
            let reading = reader.clone();
            let read = tokio::task::spawn_blocking(move || reading.read()).await;
            match read.map_err(|error| internal(error.to_string()))? {
                Ok(begun) => {
                    self.checks.commands.ready();
                    return Ok((reader, Some(begun)));
                }
                Err(error) => reader.unfollowed(&self.checks.commands, &error.to_string()),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok((reader, None)),
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    /// Reads the chain, through outages; none when stopped before.
    async fn reconcile(&self, stop: &CancellationToken) -> Result<Option<Standing>, Stopped> {
        const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };
        let mut failures = 0;
        loop {
            let outage = match self.standing().await {
                Ok(standing) => {
                    self.checks.chain.ready();
                    return Ok(Some(standing));
                }
                Err(Unreadable::Refused(stopped)) => return Err(stopped),
                // One that is silent may be the one that is meant: only what all say is a wrong configuration.
                Err(Unreadable::OtherChain { text }) if self.rpc.foreign_chain().await.is_some() => {
                    return Err(stopped(Exit::Refused, codes::WRONG_CHAIN, text));
                }
                Err(Unreadable::OtherChain { text }) => (kms_chain::codes::RPC_WRONG_CHAIN, text),
                Err(Unreadable::Outage { code, text }) => (code, text),
            };
            failures += 1;
            if failures == 1 {
                let (code, error) = outage;
                tracing::warn!(
                    destination = self.metrics.destination(),
                    code,
                    error,
                    "the destination cannot be read, trying again"
                );
                self.checks.chain.not_ready("the destination's RPC endpoints do not answer");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(RETRY.bound(failures)) => {}
            }
        }
    }

    async fn standing(&self) -> Result<Standing, Unreadable> {
        let head = self.rpc.latest_block().await?;
        let rpc = self.rpc.needing(head.number());
        for (key, contract) in self.destination.named_contracts() {
            // A call to an address without code succeeds and does nothing.
            if rpc.code(contract, BlockId::latest()).await?.is_empty() {
                let text = format!("destination {}: there is no contract at {key} = {contract}", self.destination.id);
                return Err(Unreadable::Refused(stopped(Exit::Refused, codes::NO_CONTRACT, text)));
            }
        }
        // Which release the set is said to be of is not looked at.
        let contracts = self.destination.contracts(Release::V0_11);
        let release = resolve_release(&rpc, &contracts, self.destination.release).await?;
        let account = rpc.nonce(self.wallet.address(), BlockId::number(head.number())).await?;
        let batches = self.batches().await?;
        let pool = match self.destination.pool {
            Auto::Given(pool) => pool,
            Auto::Auto => pool::has_pool(&rpc).await?,
        };
        let priority_fee = match self.submission.asks_priority_fee(pool) {
            true => pool::usual_priority_fee(&rpc).await?,
            false => None,
        };
        let sends = self.submission.sends(pool);
        Ok(Standing { head, account: Nonce(account), release, batches, sends, priority_fee })
    }

    /// Whether answers leave in batches: asked for, and possible.
    async fn batches(&self) -> Result<bool, Unreadable> {
        let delegates = match self.submission.mode {
            Mode::Single => return Ok(false),
            // Pools of an Ethereum host take one transaction at once of an account that delegates.
            Mode::Auto if self.destination.decryption.is_none() => return Ok(false),
            Mode::Auto | Mode::Batch => provision::status(&self.rpc, self.wallet.address()).await?.batches,
        };
        if !delegates && self.submission.mode == Mode::Batch {
            let sender = self.wallet.address();
            let text = format!(
                "destination {}: submission.mode is \"batch\", and {sender} does not delegate to an executor of this release: \
                 `kmsctl executor delegate`",
                self.destination.id
            );
            return Err(Unreadable::Refused(stopped(Exit::Refused, codes::NO_EXECUTOR, text)));
        }
        Ok(delegates)
    }

    async fn work(
        &self,
        journal: Journal,
        signing: Signing,
        intents: Vec<StoredIntent>,
        standing: Standing,
        (commands, begun): (command::Reader, command::Begun),
        stop: CancellationToken,
    ) -> Result<(), Stopped> {
        let submission = &self.submission;
        let clock = Clock::start();
        let Recovery { variants, answers, open } = recovery(&self.context.topics, intents, submission.journal_memory());
        let mut policy = submission.nonce_policy(&self.destination, standing.sends);
        self.metrics.batches(standing.batches);
        if !standing.batches {
            policy.batch = Limits::SINGLE;
        }
        let (planner, first) = match begun.standing.paused() {
            // Known before anything is sent.
            Some(_) => (Planner::recover_paused(policy, variants, standing.account, clock.now()), Vec::new()),
            None => Planner::recover(policy, variants, standing.account, clock.now()),
        };

        let (jobs, job_inbox) = mpsc::channel(JOBS);
        let drafts_bound = submission.max_in_flight.saturating_mul(4);
        let (drafts, draft_inbox) = mpsc::channel(drafts_bound);
        let (journalled, journalled_inbox) = mpsc::channel(1_024);
        let (events, chain_inbox) = mpsc::channel(16);
        let (command, command_inbox) = mpsc::channel(COMMANDS);
        let settled_below = Arc::new(AtomicI64::new(0));
        let wishes = Arc::new(Wishes::default());
        // Tasks outlive the stages: what is handled at the shutdown may still be settled.
        let end_tasks = CancellationToken::new();

        let (bound, batch, end) = (settled_below.clone(), submission.journal_batch, end_tasks.clone());
        let journal_thread =
            tokio::task::spawn_blocking(move || journal.run(draft_inbox, &journalled, &bound, batch, &signing, &end));
        // What is taken up anew is left as at a shutdown.
        let anew = stop.child_token();
        let commands_thread = tokio::task::spawn_blocking({
            let (check, end, ended) = (self.checks.commands.clone(), end_tasks.clone(), anew.clone());
            move || {
                let _ended = ended.drop_guard();
                commands.follow(begun.from, &command, &check, &end)
            }
        });
        let follower = Follower {
            rpc: self.rpc.clone(),
            sender: self.wallet.address(),
            last: standing.head.reference(),
            told: VecDeque::from([standing.head.reference()]),
            interval: Duration::from_millis(self.destination.poll_interval_ms),
            finality_interval: Duration::from_millis(self.destination.finality_poll_interval_ms()),
            idle_interval: Duration::from_millis(self.destination.idle_poll_interval_ms),
            catch_up_blocks: self.destination.catch_up_blocks,
            finalized: self.destination.confirmations == Confirmations::Finalized,
            wishes: wishes.clone(),
            events,
            check: self.checks.chain.clone(),
            metrics: self.metrics,
        };
        let parts = Parts {
            rpc: self.rpc.clone(),
            sender: self.wallet.address(),
            signer: self.config.signer.address,
            contracts: self.destination.contracts(standing.release),
            config: submission.clone(),
            low_balance: U256::from(self.config.wallet_of(&self.destination).low_balance_gwei)
                * U256::from(1_000_000_000_u64),
            planner,
            open,
            recovered: answers,
            clock,
            head: standing.head.number(),
            base_fee: standing.head.base_fee(),
            priority_fee: standing.priority_fee,
            drafts,
            settled_below,
            wishes,
            registration: self.checks.registration.clone(),
            funds: self.checks.funds.clone(),
            paused: self.checks.paused.clone(),
            finality: self.checks.finality.clone(),
            sends: standing.sends,
            standing: begun.standing,
            clerk: Clerk::new(self.context.codec.clone(), &self.context.topics, &self.context.kafka.instance),
            metrics: self.metrics,
            anew: anew.clone(),
        };
        let inbox =
            Inbox { jobs: job_inbox, journalled: journalled_inbox, chain: chain_inbox, commands: command_inbox };
        let contracts = self.destination.contracts(standing.release);
        let (orders, search) = Orders::new(self.rpc.clone(), contracts, submission.order_blocks);
        let mut tasks = JoinSet::new();
        let end = || (end_tasks.clone(), anew.clone());
        tasks.spawn(until(end(), "follower of the chain", follower.run(end_tasks.clone())));
        tasks.spawn(until(end(), "submitter", run_submitter(parts, first, inbox, end_tasks.clone())));
        // Without it records of submissions say less, and that is all.
        let search = search.map(|search| tokio::spawn(search.run(end_tasks.clone())));

        // They have been a standby's until now.
        self.lanes.iter().for_each(|(.., check)| check.waiting("starting"));
        self.checks.leader.ready();
        let mut stages = std::pin::pin!(self.stages(jobs, orders, standing.release, anew.clone()));
        let mut outcome = tokio::select! {
            outcome = &mut stages => outcome,
            ended = journal_thread => {
                // Without the journal nothing can be sent any more; what is handled is parked.
                stop.cancel();
                let _ = stages.await;
                journal_ended(ended)
            }
        };
        if commands_thread.is_finished() {
            let followed = commands_thread.await;
            outcome = outcome.and(commands_ended(followed));
        }
        end_tasks.cancel();
        while let Some(ended) = tasks.join_next().await {
            outcome = outcome.and(ended.unwrap_or_else(|error| Err(internal(error.to_string()))));
        }
        if let Some(search) = search {
            let _ = search.await;
        }
        outcome
    }

    /// One stage per lane, until both have ended. The first that ends takes the other with it.
    async fn stages(
        &self,
        jobs: mpsc::Sender<Job>,
        orders: Orders,
        release: Release,
        stop: CancellationToken,
    ) -> Result<(), Stopped> {
        let destination = &self.destination;
        let contracts = destination.contracts(release);
        let verifier = Verifier::new(contracts, destination.domains(release), self.config.signer.address);
        let prover = Prover::new(self.rpc.clone(), contracts, destination);
        let releases = Releases::new(self.rpc.clone(), contracts, destination.release, stop.clone(), self.metrics);
        let releases = Arc::new(releases);
        let every = Duration::from_millis(destination.release_refresh_ms);
        let watch = tokio::spawn({
            let (releases, term) = (releases.clone(), stop.clone());
            async move {
                let _term = term.drop_guard();
                releases.watch(every).await;
            }
        });
        let judge = Arc::new(Judge { routes: self.routes.clone(), verifier, prover, releases, metrics: self.metrics });
        let mut stages = JoinSet::new();
        for (lane, name, check) in &self.lanes {
            let (lane, name, check) = (*lane, *name, check.clone());
            let limits = match lane {
                Lane::Decryption => &self.config.lanes.decryption,
                Lane::KeyManagement => &self.config.lanes.key_management,
            };
            let ids = stage_ids(self.context.topics.prefix(), lane, destination.chain_id, self.wallet.address());
            let settings = stage_config(&self.context, lane, name, limits, ids);
            let (codec, topics) = (self.context.codec.clone(), self.context.topics.clone());
            let patience = Patience::of(&self.submission);
            let settling = Settling { jobs: jobs.clone(), orders: orders.clone(), costs: Costs::new(self.metrics) };
            let handler = ResultHandler::new(codec, topics, lane, judge.clone(), patience, settling);
            let (kafka, stop) = (self.context.kafka.clone(), stop.clone());
            stages.spawn(async move {
                // However it ends.
                let _others = stop.clone().drop_guard();
                stage::run(&kafka, settings, handler, check, stop).await.map_err(|error| error.stopped())
            });
        }
        drop(jobs);
        let mut outcome = Ok(());
        while let Some(ended) = stages.join_next().await {
            let ended = ended.unwrap_or_else(|error| Err(internal(error.to_string())));
            outcome = outcome.and(ended);
        }
        // The stages have ended the term, and with it the watch.
        if let Err(error) = watch.await {
            outcome = outcome.and(Err(internal(error.to_string())));
        }
        outcome
    }
}

/// A task that the term cannot do without: its end, also by a panic, ends the term.
async fn until(
    (end, term): (CancellationToken, CancellationToken),
    name: &'static str,
    task: impl Future<Output = ()>,
) -> Result<(), Stopped> {
    let _term = term.drop_guard();
    task.await;
    if end.is_cancelled() { Ok(()) } else { Err(internal(format!("the {name} ended before the service"))) }
}

fn commands_ended(outcome: Result<Result<(), command::Moved>, tokio::task::JoinError>) -> Result<(), Stopped> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        // The account is taken up anew, which reads the topic from its beginning.
        Ok(Err(moved)) => {
            tracing::warn!(%moved, "the topic of people's commands is another than before");
            Ok(())
        }
        Err(error) => Err(internal(error.to_string())),
    }
}

/// Only what recovery made is moved in: the submitter's state lives in its task.
async fn run_submitter(parts: Parts, first: Vec<Action<ItemKey>>, inbox: Inbox, stop: CancellationToken) {
    Submitter::new(parts, first).run(inbox, stop).await;
}

/// The consumer group whose positions say which results of a lane the emitter of an account has settled.
#[must_use]
pub fn results_group(prefix: &str, lane: Lane, chain_id: u64, sender: Address) -> String {
    format!("{prefix}.{SERVICE}.{}.{chain_id}.{sender:#x}", lane.as_str())
}

/// Groups and transactional ids are by chain and sender and not by instance: each destination has its own place in the
/// topics, and whoever leads takes over from whoever led at once.
fn stage_ids(prefix: &str, lane: Lane, chain_id: u64, sender: Address) -> StageIds {
    let group_id = results_group(prefix, lane, chain_id, sender);
    StageIds { transactional_id: group_id.clone(), group_instance_id: group_id.clone(), group_id }
}

fn stage_config(context: &Context, lane: Lane, name: &'static str, limits: &LaneConfig, ids: StageIds) -> StageConfig {
    let topics = &context.topics;
    let outcomes = vec![topics.submissions().to_owned(), topics.dead_letters().to_owned()];
    StageConfig {
        slots: limits.slots,
        bytes_in_flight: limits.bytes_in_flight,
        window: limits.window,
        // Nothing is deferred, and no number of attempts ends a result: the submitter knows when it is over.
        max_attempts: u32::MAX,
        time_limit: None,
        max_output_bytes: MAX_RECORD_BYTES,
        max_dead_letter_bytes: MAX_DEAD_LETTER_BYTES,
        session_timeout: Duration::from_millis(context.kafka.session_timeout_ms.into()),
        transaction_timeout: context.kafka.transaction_timeout(),
        ..StageConfig::new(name, vec![topics.results(lane).to_owned()], outcomes, ids)
    }
}

/// What the journal says, in the forms that its readers need.
struct Recovery {
    variants: Vec<Recovered<ItemKey>>,
    answers: Vec<submitter::Recovered>,
    open: OpenIntents,
}

fn recovery(topics: &Topics, intents: Vec<StoredIntent>, memory: Duration) -> Recovery {
    let mut open = OpenIntents::new(u64::try_from(memory.as_millis()).unwrap_or(u64::MAX));
    let (mut variants, mut answers) = (Vec::new(), Vec::new());
    for StoredIntent { offset, intent } in intents {
        let nonce = Nonce(intent.nonce);
        open.add(nonce, offset);
        // The journal has read it before.
        let Some(ReadBack { payload, fees, .. }) = wallet::read_back(&intent.raw) else { continue };
        let calls = journal::calls_for(&payload, intent.sender, intent.items.len()).unwrap_or_default();
        let key = |item: &IntentItem| {
            let lane = Lane::ALL.into_iter().find(|lane| topics.results(*lane) == item.result.topic)?;
            Some(ItemKey { lane, partition: item.result.partition, offset: item.result.offset })
        };
        // All or none: what a batch's receipt says goes by the place in it.
        let items: Option<Vec<ItemKey>> = intent.items.iter().map(key).collect();
        let items = items.unwrap_or_else(|| {
            tracing::warn!(offset, "an intent names a topic that is no results topic");
            Vec::new()
        });
        let carried = u32::try_from(items.len()).unwrap_or(u32::MAX);
        for ((item, payload), key) in intent.items.into_iter().zip(calls).zip(items.iter().copied()) {
            answers.push(submitter::Recovered { key, item, payload, nonce, hash: intent.hash, answers: carried });
        }
        let variant = Variant { attempt: intent.attempt, hash: intent.hash, raw: intent.raw, fees, items };
        variants.push(Recovered { nonce, variant });
    }
    Recovery { variants, answers, open }
}

fn read_through_outages(journal: &Journal, keep_on: impl Fn() -> bool) -> Result<Vec<StoredIntent>, JournalError> {
    loop {
        match journal.read() {
            Err(error @ (JournalError::Read(_) | JournalError::Watermarks(_) | JournalError::DeadLetters(_))) => {
                if !keep_on() {
                    return Err(JournalError::Cancelled);
                }
                tracing::warn!(%error, "the journal cannot be read yet, trying again");
                std::thread::sleep(Duration::from_millis(500));
            }
            other => return other,
        }
    }
}

fn journal_ended(outcome: Result<Result<(), JournalError>, tokio::task::JoinError>) -> Result<(), Stopped> {
    match outcome {
        Ok(Ok(())) => Err(internal("the journal ended before the service".to_owned())),
        Ok(Err(error)) => Err(journal_stopped(&error)),
        Err(error) => Err(internal(error.to_string())),
    }
}

fn journal_stopped(error: &JournalError) -> Stopped {
    match error {
        JournalError::Producer(error) => error.stopped(),
        JournalError::Undecodable { .. } => stopped(Exit::Refused, codes::JOURNAL_UNREADABLE, error.to_string()),
        JournalError::Client(_) => {
            Stopped::new(Exit::Configuration, &kms_runtime::codes::CONFIG_VALUE, error.to_string())
        }
        JournalError::Read(_) | JournalError::Watermarks(_) | JournalError::DeadLetters(_) => {
            Stopped::new(Exit::KafkaFatal, &kms_runtime::codes::KAFKA_FATAL, error.to_string())
        }
        JournalError::Cancelled => internal(error.to_string()),
    }
}

fn internal(text: String) -> Stopped {
    Stopped::new(Exit::Internal, &kms_runtime::codes::INTERNAL, text)
}

fn stopped(exit: Exit, code: &'static str, text: String) -> Stopped {
    let known: Option<&Code> = codes::CODES.iter().chain(kms_chain::codes::CODES).find(|known| known.code == code);
    known.map_or_else(|| internal(text.clone()), |known| Stopped::new(exit, known, text.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (CancellationToken, CancellationToken) {
        (CancellationToken::new(), CancellationToken::new())
    }

    #[tokio::test]
    async fn p6_a_task_that_panics_or_ends_by_itself_ends_the_term_with_an_error() {
        for dies in [true, false] {
            let (end, term) = tokens();
            let mut tasks = JoinSet::new();
            tasks.spawn(until((end, term.clone()), "follower of the chain", async move {
                assert!(!dies, "as a bug would");
            }));
            term.cancelled().await;
            let ended = tasks.join_next().await.unwrap();
            assert!(ended.is_err() == dies && ended.is_ok_and(|ended| ended.is_err()) != dies);
        }
    }

    #[tokio::test]
    async fn a_task_that_ends_when_it_is_told_to_is_no_error() {
        let (end, term) = tokens();
        end.cancel();
        assert_eq!(until((end.clone(), term), "submitter", end.cancelled()).await.map_err(|error| error.text), Ok(()));
    }
}
