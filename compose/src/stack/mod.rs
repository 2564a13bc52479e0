//! The whole stack: parts, contracts, and for each KMS node a KMS Core simulator and the three services.
//!
//! ```text
//!   fetch ─▶ Kafka ───────────────────────────────┐
//!        ├─▶ anvil ─▶ bucket ─▶ contracts ────────┼─▶ configuration files ─▶ services ready
//!        ├─▶ KMS Core simulators ─────────────────┤
//!        └─▶ [schema registry] ───────────────────┘
//! ```

mod config;
mod node;
mod service;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alloy::signers::local::PrivateKeySigner;
use futures::future::{join_all, try_join_all};

use crate::contracts::{
    Contracts, ContractsError, Coprocessor, DeploymentConfig, HostChain, KmsNode, Requester, RequesterKeys, Thresholds,
    fund,
};
use crate::error::StackError;
use crate::keys::{development_key, key_file_text};
use crate::parts::{self, Anvil, AnvilOptions, Bucket, Kafka, KafkaOptions, Registry};
use crate::ports::free_port;
use crate::simulator::{Mode, SimulatorConfig};
use crate::supervise::{Launch, Supervised};
use crate::workspace::{Workspace, WorkspaceOptions};

pub use node::{Core, Node, NodeKeys};
pub use service::{Service, ServiceKind};

/// Chain id of the Gateway, which anvil is.
const GATEWAY_CHAIN_ID: u64 = 31_337;
/// Chain id of the host chain that handles name. The one contract it has stands on the Gateway's chain here.
const HOST_CHAIN_ID: u64 = 12_345;
/// How long the simulators and the parts are given at the end.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Changes a simulator's configuration before it starts; the node's number comes first.
type AdjustCore = Box<dyn Fn(usize, &mut SimulatorConfig) + Send + Sync>;

/// What a stack shall be. `Stack::builder()…start().await`.
pub struct StackBuilder {
    nodes: usize,
    coprocessors: usize,
    with_registry: bool,
    brokers: u8,
    block_time: Option<Duration>,
    prefix: String,
    kafka: Option<String>,
    anvil: Option<Anvil>,
    rpc_urls: Option<Vec<String>>,
    settings: Vec<(ServiceKind, String)>,
    adjust_core: AdjustCore,
    start_services: Vec<ServiceKind>,
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            nodes: 1,
            coprocessors: 1,
            with_registry: false,
            brokers: 1,
            block_time: Some(Duration::from_millis(250)),
            prefix: "kms".to_owned(),
            kafka: None,
            anvil: None,
            rpc_urls: None,
            settings: Vec::new(),
            adjust_core: Box::new(|_, _| {}),
            start_services: ServiceKind::ALL.to_vec(),
        }
    }
}

impl StackBuilder {
    /// How many KMS nodes: 1, or 4, 7, … for a threshold KMS of 3t + 1.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many coprocessors, each with a bucket of its own.
    #[must_use]
    pub fn coprocessors(mut self, coprocessors: usize) -> Self {
        self.coprocessors = coprocessors;
        self
    }

    /// With a schema registry, and records in the Confluent wire format.
    #[must_use]
    pub fn registry(mut self, with_registry: bool) -> Self {
        self.with_registry = with_registry;
        self
    }

    /// How many brokers: 1 or 3.
    #[must_use]
    pub fn brokers(mut self, brokers: u8) -> Self {
        self.brokers = brokers;
        self
    }

    /// Interval of the chain's blocks; `None`: a block per transaction, at once.
    #[must_use]
    pub fn block_time(mut self, block_time: Option<Duration>) -> Self {
        self.block_time = block_time;
        self
    }

    /// What the topic prefixes begin with: `{prefix}-connector` for one node, `{prefix}-node-1`, … for several. Default `kms`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Uses a cluster that already runs.
    #[must_use]
    pub fn kafka(mut self, bootstrap_servers: impl Into<String>) -> Self {
        self.kafka = Some(bootstrap_servers.into());
        self
    }

    /// Uses a chain that already runs; its id is the Gateway's.
    #[must_use]
    pub fn anvil(mut self, anvil: Anvil) -> Self {
        self.anvil = Some(anvil);
        self
    }

    /// Where the services find the chain, if not at anvil itself: for proxies in between, and for several URLs.
    #[must_use]
    pub fn rpc_urls(mut self, urls: impl IntoIterator<Item = String>) -> Self {
        self.rpc_urls = Some(urls.into_iter().collect());
        self
    }

    /// Sets a key of a service's configuration on its command line, e.g. `lanes.decryption.slots=8`.
    #[must_use]
    pub fn set(mut self, service: ServiceKind, setting: impl Into<String>) -> Self {
        self.settings.push((service, setting.into()));
        self
    }

    /// Changes the simulators' configurations before they start: the node's number, from 1, and its configuration.
    #[must_use]
    pub fn core(mut self, adjust: impl Fn(usize, &mut SimulatorConfig) + Send + Sync + 'static) -> Self {
        self.adjust_core = Box::new(adjust);
        self
    }

    /// Starts only these services; the others can be started later.
    #[must_use]
    pub fn services(mut self, services: &[ServiceKind]) -> Self {
        self.start_services = services.to_vec();
        self
    }

    /// Starts everything and waits until it is ready. When anything fails, all that was started is stopped, and
    /// the run directory kept if it tells why.
    ///
    /// # Errors
    /// The first thing that failed.
    pub async fn start(self, workspace: &Workspace) -> Result<Stack, StackError> {
        let started = self.bring_up(workspace).await;
        if started.as_ref().is_err_and(StackError::left_traces) {
            workspace.keep();
        }
        started
    }

    /// As [`StackBuilder::start`], in a workspace made with these options.
    ///
    /// # Errors
    /// The first thing that failed.
    pub async fn start_in(self, options: WorkspaceOptions) -> Result<Stack, StackError> {
        let workspace = Workspace::create(options)?;
        self.start(&workspace).await
    }

    fn check(&self) -> Result<(), StackError> {
        if self.nodes == 0 || !(self.nodes - 1).is_multiple_of(3) {
            return Err(StackError::Usage(format!(
                "{} nodes: a KMS has 1 node, or 3t + 1 of them (4, 7, …)",
                self.nodes
            )));
        }
        if !matches!(self.brokers, 1 | 3) {
            return Err(StackError::Usage(format!("{} brokers: only 1 and 3 are provided for", self.brokers)));
        }
        if self.coprocessors == 0 {
            return Err(StackError::Usage("0 coprocessors: at least one has to hold the ciphertexts".to_owned()));
        }
        Ok(())
    }

    async fn bring_up(mut self, workspace: &Workspace) -> Result<Stack, StackError> {
        self.check()?;
        let begun = Instant::now();
        parts::fetch(workspace, self.with_registry).await?;
        let fetched = begun.elapsed();

        let keys: Vec<NodeKeys> = (1..=self.nodes).map(NodeKeys::of).collect();
        let given = self.anvil.take();
        let chain = async {
            let anvil = match given {
                Some(anvil) => anvil,
                None => {
                    Anvil::start(workspace, AnvilOptions { block_time: self.block_time, ..chain_options() }).await?
                }
            };
            let buckets = try_join_all((0..self.coprocessors).map(|_| Bucket::start(workspace, "ct128"))).await?;
            let deployment = deployment(&keys, &buckets);
            let contracts = deploy(workspace, &anvil, &deployment).await?;
            Ok((anvil, buckets, deployment, contracts))
        };
        let kafka = async {
            match &self.kafka {
                Some(_) => Ok(None),
                None => {
                    let options = KafkaOptions { brokers: self.brokers, ..KafkaOptions::default() };
                    Ok(Some(Kafka::start(workspace, options).await?))
                }
            }
        };
        let registry = async {
            match self.with_registry {
                true => Ok(Some(Registry::start(workspace).await?)),
                false => Ok(None),
            }
        };
        let cores = try_join_all((1..=self.nodes).map(|number| self.start_core(workspace, number, &keys[number - 1])));
        let (chain, kafka, registry, cores) = tokio::try_join!(chain, kafka, registry, cores)?;
        let (anvil, buckets, deployment, contracts) = chain;

        let bootstrap = match (&self.kafka, &kafka) {
            (Some(given), _) => given.clone(),
            (None, Some(own)) => own.bootstrap_servers().to_owned(),
            (None, None) => String::new(),
        };
        let mut stack = Stack {
            workspace: workspace.clone(),
            nodes: Vec::new(),
            rpc_urls: self.rpc_urls.clone().unwrap_or_else(|| vec![anvil.url()]),
            bootstrap,
            replication_factor: if kafka.is_some() { self.brokers } else { 1 },
            settings: self.settings.clone(),
            kafka,
            anvil,
            buckets,
            registry,
            deployment,
            contracts,
            times: StartTimes { fetch: fetched, ready: Duration::ZERO },
        };
        for (index, (keys, core)) in keys.into_iter().zip(cores).enumerate() {
            let node = self.node(&stack, index + 1, keys, core)?;
            stack.nodes.push(node);
        }
        self.start_services(&stack).await?;
        stack.times.ready = begun.elapsed();
        Ok(stack)
    }

    async fn start_core(&self, workspace: &Workspace, number: usize, keys: &NodeKeys) -> Result<Core, StackError> {
        let name = format!("core-{number}");
        let (grpc, control) = (free_port()?, free_port()?);
        let key_file = secret_file(workspace, &format!("config/node-{number}/signer.key"), &keys.signer)?;
        let mut config = SimulatorConfig {
            listen: (Ipv4Addr::LOCALHOST, grpc).into(),
            control: Some((Ipv4Addr::LOCALHOST, control).into()),
            mode: if self.nodes == 1 { Mode::Centralized } else { Mode::Threshold },
            party_id: number as u32,
            nodes: self.nodes as u32,
            threshold: (self.nodes as u32 - 1) / 3,
            private_key_file: Some(key_file),
            state_dir: Some(workspace.data_dir(&name)?),
            // The applications of a local chain encrypt under keys that no KMS made.
            any_key: true,
            ..SimulatorConfig::default()
        };
        (self.adjust_core)(number, &mut config);
        let text = toml::to_string_pretty(&config)
            .map_err(|error| StackError::io("writing a simulator's configuration")(std::io::Error::other(error)))?;
        let file = workspace.write(&format!("config/node-{number}/core.toml"), &text)?;
        let launch = Launch::new(name, workspace.program()).args(["simulator", "--config"]).arg(file);
        let core = Core { process: Supervised::new(workspace, launch), grpc, control };
        core.process.start()?;
        core.wait_ready().await?;
        Ok(core)
    }

    fn node(&self, stack: &Stack, number: usize, keys: NodeKeys, core: Core) -> Result<Node, StackError> {
        let prefix = match self.nodes {
            1 => format!("{}-connector", self.prefix),
            _ => format!("{}-node-{number}", self.prefix),
        };
        let wallet = secret_file(&stack.workspace, &format!("config/node-{number}/wallet.key"), &keys.sender)?;
        let place = Place { number, prefix: &prefix, keys: &keys, core: &core.url(), wallet: &wallet };
        let services = [
            stack.service(&place, ServiceKind::Ingest, "0")?,
            stack.service(&place, ServiceKind::Processor, "0")?,
            stack.service(&place, ServiceKind::Emitter, "0")?,
        ];
        Ok(Node { number, prefix, keys, core, wallet, services })
    }

    async fn start_services(&self, stack: &Stack) -> Result<(), StackError> {
        let wanted: Vec<&Service> = stack
            .nodes
            .iter()
            .flat_map(Node::services)
            .filter(|service| self.start_services.contains(&service.kind()))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let task = stack.workspace.progress().begin("services", "starting");
        for service in &wanted {
            service.process().start()?;
        }
        try_join_all(wanted.iter().map(|service| service.wait_ready())).await?;
        task.done(&format!("{} ready", wanted.len()));
        Ok(())
    }
}

/// Where a service belongs.
struct Place<'a> {
    number: usize,
    prefix: &'a str,
    keys: &'a NodeKeys,
    core: &'a str,
    wallet: &'a std::path::Path,
}

/// How long the start took.
#[derive(Clone, Copy, Debug)]
pub struct StartTimes {
    /// Until all parts were in the cache.
    pub fetch: Duration,
    /// Until everything was ready, fetching included.
    pub ready: Duration,
}

/// A running stack. [`Stack::stop`] ends it in order; dropping it kills everything.
#[derive(Debug)]
pub struct Stack {
    // In the order they are to be dropped: services before what they use.
    nodes: Vec<Node>,
    registry: Option<Registry>,
    kafka: Option<Kafka>,
    buckets: Vec<Bucket>,
    anvil: Anvil,
    bootstrap: String,
    replication_factor: u8,
    rpc_urls: Vec<String>,
    settings: Vec<(ServiceKind, String)>,
    deployment: DeploymentConfig,
    contracts: Contracts,
    times: StartTimes,
    workspace: Workspace,
}

impl Stack {
    /// One node, one coprocessor, one broker, blocks of 250 ms, no registry.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// The run directory and what else the run shares.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The KMS nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first KMS node, often the only one.
    pub fn node(&self) -> &Node {
        // The builder refuses a stack without nodes.
        &self.nodes[0]
    }

    /// The brokers' addresses.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// The cluster, unless it was there before the stack.
    pub fn kafka(&self) -> Option<&Kafka> {
        self.kafka.as_ref()
    }

    /// The chain: Gateway, and host chain too.
    pub fn anvil(&self) -> &Anvil {
        &self.anvil
    }

    /// The coprocessors' buckets, in the order of [`DeploymentConfig::coprocessors`].
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The schema registry, if there is one.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Where the contracts are.
    pub fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    /// What was deployed.
    pub fn deployment(&self) -> &DeploymentConfig {
        &self.deployment
    }

    /// How long the start took.
    pub fn times(&self) -> StartTimes {
        self.times
    }

    /// The side that makes requests, connected to the chain itself. Its accounts count their own nonces, so there can be only one at a
    /// time.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn requester(&self) -> Result<Requester, ContractsError> {
        let sender = development_key("requester");
        fund(&self.anvil.url(), &[sender.address()]).await?;
        let keys = RequesterKeys {
            owner: owner_key(),
            coprocessors: self.deployment.coprocessors.iter().map(|one| one.tx_sender.clone()).collect(),
            sender,
        };
        Requester::connect(&self.anvil.url(), None, self.contracts, keys).await
    }

    /// A further process of a service of a node, not started: a second instance, or a standby. `instance` is its ordinal; `0` is taken.
    ///
    /// # Errors
    /// When no port is free or its configuration cannot be written.
    pub fn another(&self, node: &Node, kind: ServiceKind, instance: &str) -> Result<Service, StackError> {
        let place = Place {
            number: node.number,
            prefix: &node.prefix,
            keys: &node.keys,
            core: &node.core.url(),
            wallet: &node.wallet,
        };
        self.service(&place, kind, instance)
    }

    /// Stops everything in order: services first, each given the time to park its work, then what they use.
    pub async fn stop(self) {
        let services = self.nodes.iter().flat_map(Node::services);
        join_all(services.map(Service::stop)).await;
        join_all(self.nodes.iter().map(|node| node.core.process.stop(STOP_GRACE))).await;
        let registry = async {
            if let Some(registry) = &self.registry {
                registry.stop().await;
            }
        };
        let kafka = async {
            if let Some(kafka) = &self.kafka {
                kafka.stop().await;
            }
        };
        let buckets = join_all(self.buckets.iter().map(Bucket::stop));
        tokio::join!(registry, kafka, buckets, self.anvil.stop());
    }

    fn service(&self, place: &Place<'_>, kind: ServiceKind, instance: &str) -> Result<Service, StackError> {
        let listen = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let registry = self.registry.as_ref().map(Registry::url);
        let facts = config::Facts {
            bootstrap_servers: &self.bootstrap,
            prefix: place.prefix,
            instance,
            replication_factor: self.replication_factor,
            registry: registry.as_deref(),
            listen,
            rpc_urls: &self.rpc_urls,
            contracts: &self.contracts,
            kms_core: place.core,
            signer: place.keys.signer.address(),
            wallet: place.wallet,
        };
        let text = match kind {
            ServiceKind::Ingest => config::ingest(&facts),
            ServiceKind::Processor => config::processor(&facts),
            ServiceKind::Emitter => config::emitter(&facts),
        };
        let suffix = if instance == "0" { String::new() } else { format!("-{instance}") };
        let file = self.workspace.write(&format!("config/node-{}/{kind}{suffix}.toml", place.number), &text)?;
        let name = format!("{kind}-{}{suffix}", place.number);
        let settings: Vec<String> =
            self.settings.iter().filter(|(of, _)| *of == kind).map(|(_, setting)| setting.clone()).collect();
        Ok(Service::new(&self.workspace, kind, name, file, listen, &settings))
    }
}

fn chain_options() -> AnvilOptions {
    AnvilOptions { chain_id: GATEWAY_CHAIN_ID, ..AnvilOptions::default() }
}

fn owner_key() -> PrivateKeySigner {
    development_key("owner of the contracts")
}

fn deployment(keys: &[NodeKeys], buckets: &[Bucket]) -> DeploymentConfig {
    let node = |(index, keys): (usize, &NodeKeys)| KmsNode {
        tx_sender: keys.sender.address(),
        signer: keys.signer.address(),
        storage_url: format!("http://127.0.0.1/kms-node-{}", index + 1),
    };
    let coprocessor = |(index, bucket): (usize, &Bucket)| Coprocessor {
        tx_sender: development_key(&format!("coprocessor {} sender", index + 1)),
        signer: development_key(&format!("coprocessor {} signer", index + 1)).address(),
        s3_bucket_url: bucket.url(),
    };
    DeploymentConfig {
        nodes: keys.iter().enumerate().map(node).collect(),
        coprocessors: buckets.iter().enumerate().map(coprocessor).collect(),
        thresholds: Thresholds::of(keys.len(), buckets.len()),
        host: HostChain { chain_id: HOST_CHAIN_ID, rpc_url: None },
    }
}

async fn deploy(workspace: &Workspace, anvil: &Anvil, deployment: &DeploymentConfig) -> Result<Contracts, StackError> {
    let task = workspace.progress().begin("contracts", "deploying");
    let deployed = Contracts::deploy(&anvil.url(), &owner_key(), deployment).await;
    let contracts = deployed.map_err(|error| StackError::Contracts(chain_of(&error)))?;
    task.done("deployed");
    Ok(contracts)
}

/// An error with what caused it, on one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A file that only its owner can read.
fn secret_file(workspace: &Workspace, path: &str, key: &PrivateKeySigner) -> Result<PathBuf, StackError> {
    use std::os::unix::fs::PermissionsExt;
    let file = workspace.write(path, &key_file_text(key))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
        .map_err(StackError::io(file.display().to_string()))?;
    Ok(file)
}
