//! Start and await: how an operation is run on KMS Core (`docs/protocol.md`, "Status codes of KMS Core").
//!
//! Every operation is a *Start* call that accepts an id and a *Get* call that holds the line until the result is there or a
//! time is over. Both are repeatable: a known id is awaited, an unknown one is started, so a restart of either side heals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kms_proto::kms::v1 as core;
use kms_proto::kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient;
use kms_runtime::stage::{Answered, Reach};
use kms_schemas::identity::RequestId;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::codes;
use crate::config::KmsCoreConfig;
use crate::core_request;
use crate::error::Trouble;
use crate::metrics;
use crate::status::{AwaitVerdict, StartVerdict, await_verdict, start_verdict};

/// The dependency's name in outages.
const KMS_CORE: &str = "kms_core";

/// KMS Core's room for more work, which runs out while KMS Core answers: a dependency of its own, so that an answer to a call that
/// waits for a result says nothing about it.
const CAPACITY: &str = "kms_core_capacity";

/// How often an id that the core forgot is started again within one attempt.
const MAX_RESTARTS: u32 = 3;

/// A KMS Core of one or several shards.
#[derive(Debug)]
pub struct KmsCore {
    shards: Vec<Shard>,
    start_timeout: Duration,
    await_timeout: Duration,
    await_pause: Duration,
}

#[derive(Debug)]
struct Shard {
    client: CoreServiceEndpointClient<Channel>,
    reachability: Reachability,
}

impl KmsCore {
    /// Connects lazily to every configured endpoint: a core that is down is an outage, not a failure to start.
    ///
    /// # Errors
    /// The endpoint that is no valid URI.
    pub fn new(config: &KmsCoreConfig) -> Result<Self, tonic::transport::Error> {
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
                Ok(Shard { client, reachability: Reachability::new(number, endpoint.to_string()) })
            })
            .collect::<Result<_, tonic::transport::Error>>()?;
        Ok(Self {
            shards,
            start_timeout: Duration::from_millis(config.start_timeout_ms),
            await_timeout: Duration::from_millis(config.await_timeout_ms),
            await_pause: Duration::from_millis(config.await_pause_ms),
        })
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
}

/// One operation's pair of calls.
pub trait Operation: Send + Sync {
    /// What the *Get* call answers.
    type Result: Send;

    /// Name for logs and metrics (the *Start* call's, snake case).
    const NAME: &'static str;

    /// The id that the *Get* call takes.
    fn id(&self) -> RequestId;

    /// The id that picks the shard: key generation follows its preprocessing.
    fn shard_id(&self) -> RequestId {
        self.id()
    }

    /// Whether `UNAVAILABLE` on *Start* means that a preprocessing still runs.
    const WAITS_FOR_PREPROCESSING: bool = false;

    /// What a *Start* needs besides KMS Core, by its name in outages.
    const NEEDS: &'static [&'static str] = &[];

    /// Whether *Start* must not be repeated for an id that the core knows, so that *Get* is asked first, always.
    const GET_FIRST: bool = false;

    /// Makes the request; only called when the core does not have the id yet, since ciphertexts are fetched for it.
    fn start(
        &self,
        client: CoreServiceEndpointClient<Channel>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Result<(), Status>, Trouble>> + Send;

    /// Asks for the result.
    fn get(
        &self,
        client: CoreServiceEndpointClient<Channel>,
        request: Request<core::RequestId>,
    ) -> impl Future<Output = Result<Response<Self::Result>, Status>> + Send;
}

impl KmsCore {
    /// Runs `operation` until its result, however long that takes: the stage cancels an attempt that outlasts its lane.
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
    ) -> Result<O::Result, Trouble> {
        let mut restarts = 0;
        if !repeated && !O::GET_FIRST {
            self.start(operation, answered).await?;
        }
        loop {
            if let Some(result) = self.get(operation, answered).await? {
                return Ok(result);
            }
            if restarts == MAX_RESTARTS {
                return Err(Trouble::may_heal(
                    codes::CORE_NOT_READY,
                    format!("{}: kms core accepts id {} and forgets it", O::NAME, operation.id()),
                ));
            }
            restarts += 1;
            self.start(operation, answered).await?;
        }
    }

    async fn start<O: Operation>(&self, operation: &O, answered: &Answered) -> Result<(), Trouble> {
        let shard = self.shard(operation.shard_id());
        loop {
            let started = operation.start(shard.client.clone(), self.start_timeout).await?;
            O::NEEDS.iter().for_each(|dependency| answered.by(dependency));
            let Err(status) = started else {
                metrics::core_call(O::NAME, "start", Code::Ok);
                shard.reachability.answers(answered);
                answered.by(CAPACITY);
                return Ok(());
            };
            metrics::core_call(O::NAME, "start", status.code());
            let text = format!("{} of id {}: {}", O::NAME, operation.id(), describe(&status));
            let verdict = start_verdict(&status, O::WAITS_FOR_PREPROCESSING);
            shard.reachability.after_start(verdict, &text, answered);
            match verdict {
                StartVerdict::AlreadyKnown => return Ok(()),
                StartVerdict::NotYet => tokio::time::sleep(self.await_pause).await,
                verdict => return Err(self.start_trouble(verdict, text)),
            }
        }
    }

    /// `None`: the core does not know the id.
    async fn get<O: Operation>(&self, operation: &O, answered: &Answered) -> Result<Option<O::Result>, Trouble> {
        let core_hex = operation.id().to_core_hex();
        let shard = self.shard(operation.shard_id());
        loop {
            let mut request = Request::new(core_request::id(operation.id()));
            request.set_timeout(self.await_timeout);
            let asked = tokio::time::Instant::now();
            let status = match operation.get(shard.client.clone(), request).await {
                Ok(response) => {
                    metrics::core_call(O::NAME, "get", Code::Ok);
                    shard.reachability.answers(answered);
                    return Ok(Some(response.into_inner()));
                }
                Err(status) => status,
            };
            metrics::core_call(O::NAME, "get", status.code());
            let text = || format!("result of {} of id {}: {}", O::NAME, operation.id(), describe(&status));
            let verdict = await_verdict(&status, &core_hex);
            // A time-out is pending too, and no sign of life.
            if verdict == AwaitVerdict::Unreachable {
                shard.reachability.is_silent(&text());
            } else if !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
                shard.reachability.answers(answered);
            }
            match verdict {
                // Some cores answer at once instead of holding the line.
                AwaitVerdict::Pending => tokio::time::sleep_until(asked + self.await_pause).await,
                AwaitVerdict::Unknown => return Ok(None),
                AwaitVerdict::Failed => return Err(Trouble::permanent(codes::CORE_FAILED, text())),
                AwaitVerdict::Aborted => return Err(Trouble::permanent(codes::CORE_ABORTED, text())),
                AwaitVerdict::Unreachable => return Err(self.outage(codes::CORE_UNREACHABLE, KMS_CORE, text())),
                AwaitVerdict::Refused => return Err(Trouble::permanent(codes::CORE_REFUSED, text())),
                AwaitVerdict::Unimplemented => return Err(Trouble::permanent(codes::CORE_LACKS_CALL, text())),
            }
        }
    }

    /// Runs the PRSS initialisation, which is one call that answers when it is done.
    ///
    /// # Errors
    /// As the status says; a set-up that was there before is success.
    pub async fn prss_init(&self, answered: &Answered) -> Result<(), Trouble> {
        let request = core_request::prss_init();
        let id = RequestId::from(alloy::primitives::U256::from(core_request::PRSS_ID));
        let mut call = Request::new(request);
        call.set_timeout(self.await_timeout);
        let shard = self.shard(id);
        let Err(status) = shard.client.clone().init(call).await else {
            metrics::core_call("init", "start", Code::Ok);
            shard.reachability.answers(answered);
            return Ok(());
        };
        metrics::core_call("init", "start", status.code());
        let text = format!("init: {}", describe(&status));
        let verdict = start_verdict(&status, false);
        shard.reachability.after_start(verdict, &text, answered);
        match verdict {
            StartVerdict::AlreadyKnown => Ok(()),
            verdict => Err(self.start_trouble(verdict, text)),
        }
    }

    fn start_trouble(&self, verdict: StartVerdict, text: String) -> Trouble {
        match verdict {
            StartVerdict::AlreadyKnown | StartVerdict::NotYet | StartVerdict::MayHeal => {
                Trouble::may_heal(codes::CORE_NOT_READY, text)
            }
            StartVerdict::Busy => self.outage(codes::CORE_BUSY, CAPACITY, text),
            StartVerdict::Unreachable => self.outage(codes::CORE_UNREACHABLE, KMS_CORE, text),
            StartVerdict::Refused => Trouble::permanent(codes::CORE_REFUSED, text),
            StartVerdict::Unimplemented => Trouble::permanent(codes::CORE_LACKS_CALL, text),
        }
    }
}

/// Whether a shard answers: told once per change, in log and metric.
#[derive(Debug)]
struct Reachability {
    number: usize,
    endpoint: String,
    is_silent: AtomicBool,
}

impl Reachability {
    fn new(number: usize, endpoint: String) -> Self {
        metrics::shard_reachable(number, true);
        Self { number, endpoint, is_silent: AtomicBool::new(false) }
    }

    fn answers(&self, answered: &Answered) {
        answered.by(KMS_CORE);
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

    fn after_start(&self, verdict: StartVerdict, text: &str, answered: &Answered) {
        match verdict {
            StartVerdict::Unreachable => self.is_silent(text),
            StartVerdict::AlreadyKnown => {
                self.answers(answered);
                answered.by(CAPACITY);
            }
            _ => self.answers(answered),
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
