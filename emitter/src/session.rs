//! One term of leadership: take over, reconcile, work, stop.
//!
//! ```text
//! fence predecessors ──▶ read the journal to its end ──▶ ask the chain for the account's nonce ──▶ send again what is open
//!     ──▶ consume results ──▶ (leadership lost | shutdown | fenced) ──▶ stop intake, end the tasks
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use kms_chain::rpc::{Block, BlockId, EndpointUrl, Rpc, RpcConfig, RpcError};
use kms_runtime::http::Check;
use kms_runtime::retry::Backoff;
use kms_runtime::service::Context;
use kms_runtime::shutdown::{Exit, Stopped};
use kms_runtime::stage::{self, StageConfig, StageIds};
use kms_schemas::codes::Code;
use kms_schemas::identity::Lane;
use kms_schemas::topics::{MAX_DEAD_LETTER_BYTES, MAX_RECORD_BYTES, Topics};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::codes;
use crate::config::{EmitterConfig, LaneConfig};
use crate::follow::{Follower, Wishes};
use crate::handler::{ResultHandler, SERVICE};
use crate::journal::{Journal, JournalError, OpenIntents, StoredIntent};
use crate::nonce::{Action, Nonce, Planner, Recovered, Variant};
use crate::submitter::{self, Inbox, ItemKey, Parts, Submitter};
use crate::verify::Verifier;
use crate::wallet::{self, Wallet};

/// Jobs between the handlers and the submitter.
const JOBS: usize = 1_024;

/// What every term needs.
pub struct Session {
    /// The whole configuration.
    pub config: Arc<EmitterConfig>,
    /// What the service stands on.
    pub context: Context,
    /// The account that pays.
    pub wallet: Wallet,
    /// The nodes.
    pub rpc: Rpc,
    /// Readiness checks.
    pub checks: Checks,
}

/// Readiness checks of the emitter.
#[derive(Clone, Debug)]
pub struct Checks {
    /// This emitter is the active one.
    pub leader: Check,
    /// The destination can be read.
    pub destination: Check,
    /// The contract accepts this node.
    pub registration: Check,
    /// The account can pay.
    pub funds: Check,
}

/// Makes the client for the destination.
///
/// # Errors
/// A URL is none.
pub fn destination(config: &EmitterConfig) -> Result<Rpc, Stopped> {
    let refuse = |text: String| Stopped::new(Exit::Configuration, &kms_runtime::codes::CONFIG_VALUE, text);
    let destination = &config.destination;
    let urls = destination.rpc_urls.iter().map(|url| EndpointUrl::parse(url.expose().as_str()));
    let urls = urls.collect::<Result<Vec<_>, _>>().map_err(|error| refuse(error.to_string()))?;
    let mut rpc = RpcConfig::new("destination", urls);
    rpc.chain_id = Some(destination.chain_id);
    rpc.timeout = Duration::from_millis(destination.rpc_timeout_ms);
    rpc.send_timeout = Duration::from_millis(destination.send_timeout_ms);
    rpc.max_batch = rpc.max_batch.max(config.submission.send_batch);
    Rpc::new(rpc).map_err(|error| refuse(error.to_string()))
}

/// Where the chain stands when a term begins.
struct Standing {
    head: Block,
    account: Nonce,
}

impl Session {
    /// Works until the shutdown, until leadership is lost (`stop`), or until something fails for good.
    ///
    /// # Errors
    /// How the process should end; [`Exit::Fenced`] when another emitter took the journal.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), Stopped> {
        let Some((journal, intents)) = self.take_over(&stop).await? else { return Ok(()) };
        let Some(standing) = self.reconcile(&stop).await? else { return Ok(()) };
        tracing::info!(
            sender = %self.wallet.address(),
            account_nonce = standing.account.0,
            intents = intents.len(),
            block = standing.head.number(),
            "taking up where the journal ends"
        );
        self.work(journal, intents, standing, stop).await
    }

    async fn take_over(&self, stop: &CancellationToken) -> Result<Option<(Journal, Vec<StoredIntent>)>, Stopped> {
        let (kafka, topics, codec) =
            (self.context.kafka.clone(), self.context.topics.clone(), self.context.codec.clone());
        let (chain_id, wallet) = (self.config.destination.chain_id, self.wallet.clone());
        let stopped = stop.clone();
        let blocking = move || {
            let keep_on = || !stopped.is_cancelled();
            let journal = Journal::take_over(kafka, &topics, codec, chain_id, wallet, keep_on)?;
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

    /// Reads the chain, through outages; none when stopped before.
    async fn reconcile(&self, stop: &CancellationToken) -> Result<Option<Standing>, Stopped> {
        const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };
        let mut failures = 0;
        loop {
            let error = match self.standing().await {
                Ok(Ok(standing)) => {
                    self.checks.destination.ready();
                    return Ok(Some(standing));
                }
                Ok(Err(stopped)) => return Err(stopped),
                Err(error) if error.code() == kms_chain::codes::RPC_WRONG_CHAIN => {
                    return Err(stopped(Exit::Refused, codes::WRONG_CHAIN, error.to_string()));
                }
                Err(error) => error,
            };
            failures += 1;
            if failures == 1 {
                tracing::warn!(code = error.code(), %error, "the destination cannot be read, trying again");
                self.checks.destination.not_ready("the destination's RPC endpoints do not answer");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(RETRY.bound(failures)) => {}
            }
        }
    }

    async fn standing(&self) -> Result<Result<Standing, Stopped>, RpcError> {
        let head = self.rpc.latest_block().await?;
        let rpc = self.rpc.needing(head.number());
        for contract in self.config.destination.contracts().addresses() {
            // A call to an address without code succeeds and does nothing.
            if rpc.code(contract, BlockId::latest()).await?.is_empty() {
                return Ok(Err(stopped(
                    Exit::Refused,
                    codes::NO_CONTRACT,
                    format!("there is no contract at {contract}"),
                )));
            }
        }
        let account = rpc.nonce(self.wallet.address(), BlockId::number(head.number())).await?;
        Ok(Ok(Standing { head, account: Nonce(account) }))
    }

    async fn work(
        &self,
        journal: Journal,
        intents: Vec<StoredIntent>,
        standing: Standing,
        stop: CancellationToken,
    ) -> Result<(), Stopped> {
        let submission = &self.config.submission;
        let clock = Clock::start();
        let Recovery { variants, answers, open } = recovery(&self.context.topics, intents, submission.journal_memory());
        let policy = submission.nonce_policy(&self.config.destination);
        let (planner, first) = Planner::recover(policy, variants, standing.account, clock.now());

        let (jobs, job_inbox) = mpsc::channel(JOBS);
        let drafts_bound = submission.max_in_flight.saturating_mul(4);
        let (drafts, draft_inbox) = mpsc::channel(drafts_bound);
        let (journalled, journalled_inbox) = mpsc::channel(1_024);
        let (events, chain_inbox) = mpsc::channel(16);
        let settled_below = Arc::new(AtomicI64::new(0));
        let wishes = Arc::new(Wishes::default());
        // Tasks outlive the stages: what is handled at the shutdown may still be settled.
        let end_tasks = CancellationToken::new();

        let (bound, batch, end) = (settled_below.clone(), submission.journal_batch, end_tasks.clone());
        let journal_thread =
            tokio::task::spawn_blocking(move || journal.run(draft_inbox, &journalled, &bound, batch, &end));
        let follower = Follower {
            rpc: self.rpc.clone(),
            sender: self.wallet.address(),
            last: standing.head.reference(),
            interval: Duration::from_millis(self.config.destination.poll_interval_ms),
            idle_interval: Duration::from_millis(self.config.destination.idle_poll_interval_ms),
            wishes: wishes.clone(),
            events,
            check: self.checks.destination.clone(),
        };
        let parts = Parts {
            rpc: self.rpc.clone(),
            sender: self.wallet.address(),
            contracts: self.config.destination.contracts(),
            config: submission.clone(),
            low_balance: U256::from(self.config.wallet.low_balance_gwei) * U256::from(1_000_000_000_u64),
            planner,
            open,
            recovered: answers,
            clock,
            head: standing.head.number(),
            base_fee: standing.head.base_fee(),
            drafts,
            settled_below,
            wishes,
            registration: self.checks.registration.clone(),
            funds: self.checks.funds.clone(),
        };
        let inbox = Inbox { jobs: job_inbox, journalled: journalled_inbox, chain: chain_inbox };
        let follower = tokio::spawn(follower.run(end_tasks.clone()));
        let submitter = tokio::spawn(run_submitter(parts, first, inbox, end_tasks.clone()));

        self.checks.leader.ready();
        let mut stages = std::pin::pin!(self.stages(jobs, stop.clone()));
        let outcome = tokio::select! {
            outcome = &mut stages => outcome,
            ended = journal_thread => {
                // Without the journal nothing can be sent any more; what is handled is parked.
                stop.cancel();
                let _ = stages.await;
                journal_ended(ended)
            }
        };
        end_tasks.cancel();
        let _ = submitter.await;
        let _ = follower.await;
        outcome
    }

    /// One stage per lane, until both have ended. The first that ends takes the other with it.
    async fn stages(&self, jobs: mpsc::Sender<crate::submitter::Job>, stop: CancellationToken) -> Result<(), Stopped> {
        let destination = &self.config.destination;
        let verifier = Arc::new(Verifier::new(
            destination.chain_id,
            destination.contracts(),
            destination.domains(),
            self.config.signer.address,
        ));
        let mut stages = JoinSet::new();
        for lane in Lane::ALL {
            let limits = match lane {
                Lane::Decryption => &self.config.lanes.decryption,
                Lane::KeyManagement => &self.config.lanes.key_management,
            };
            let settings = stage_config(&self.context, lane, limits, destination.chain_id, self.wallet.address());
            let check = self.context.health.check(settings.name);
            let (codec, topics) = (self.context.codec.clone(), self.context.topics.clone());
            let handler = ResultHandler::new(codec, topics, lane, verifier.clone(), jobs.clone());
            let (kafka, stop) = (self.context.kafka.clone(), stop.clone());
            stages.spawn(async move {
                let ended = stage::run(&kafka, settings, handler, check, stop.clone()).await;
                stop.cancel();
                ended.map_err(|error| error.stopped())
            });
        }
        drop(jobs);
        let mut outcome = Ok(());
        while let Some(ended) = stages.join_next().await {
            let ended = ended.unwrap_or_else(|error| Err(internal(error.to_string())));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Only what recovery made is moved in: the submitter's state lives in its task.
async fn run_submitter(parts: Parts, first: Vec<Action<ItemKey>>, inbox: Inbox, stop: CancellationToken) {
    Submitter::new(parts, first).run(inbox, stop).await;
}

/// Groups and transactional ids are by sender and not by instance: whoever leads takes over from whoever led at once.
fn stage_config(context: &Context, lane: Lane, limits: &LaneConfig, chain_id: u64, sender: Address) -> StageConfig {
    let topics = &context.topics;
    let name = match lane {
        Lane::Decryption => "emitter.decryption",
        Lane::KeyManagement => "emitter.key-management",
    };
    let outcomes = vec![topics.submissions().to_owned(), topics.dead_letters().to_owned()];
    let ids = StageIds::new(topics.prefix(), SERVICE, lane.as_str(), &format!("{chain_id}.{sender:#x}"));
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
        let Some((payload, fees)) = wallet::read_back(&intent.raw) else {
            tracing::error!(offset, "an intent's bytes are no transaction, they are ignored");
            continue;
        };
        let mut items = Vec::new();
        for item in intent.items {
            let lane = Lane::ALL.into_iter().find(|lane| topics.results(*lane) == item.result.topic);
            let Some(lane) = lane else {
                tracing::warn!(offset, topic = item.result.topic, "an intent names a topic that is no results topic");
                continue;
            };
            let key = ItemKey { lane, partition: item.result.partition, offset: item.result.offset };
            items.push(key);
            answers.push(submitter::Recovered { key, item, payload: payload.clone(), nonce, hash: intent.hash });
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
        JournalError::Read(_)
        | JournalError::Watermarks(_)
        | JournalError::DeadLetters(_)
        | JournalError::Cancelled => internal(error.to_string()),
    }
}

fn internal(text: String) -> Stopped {
    Stopped::new(Exit::Internal, &kms_runtime::codes::INTERNAL, text)
}

fn stopped(exit: Exit, code: &'static str, text: String) -> Stopped {
    let known: Option<&Code> = codes::CODES.iter().find(|known| known.code == code);
    known.map_or_else(|| internal(text.clone()), |known| Stopped::new(exit, known, text.clone()))
}
