//! The whole stack: parts, contracts, and for each KMS node a KMS Core simulator and the three services.
//!
//! ```text
//!   fetch ─▶ Kafka ───────────────────────────────┐
//!        ├─▶ anvil(s) ─▶ bucket ─▶ contracts ─────┼─▶ configuration files ─▶ services ready
//!        ├─▶ KMS Core simulators ─────────────────┤
//!        └─▶ [schema registry] ───────────────────┘
//! ```

pub(crate) mod config;
mod executor;
mod generation;
mod node;
mod service;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;
use futures::future::{join_all, try_join_all};

use crate::contracts::{Contracts, ContractsError, DeploymentConfig, Material, Requester};
use crate::description::{
    ChainPlace, Description, FollowedChain, NodePlace, STACK_FILE, ServicePlace, deployment, owner_key, topic_prefix,
};
use crate::error::{StackError, chain_of};
use crate::keys::key_file_text;
use crate::parts::{self, Anvil, AnvilOptions, Bucket, Kafka, KafkaOptions, Registry};
use crate::ports::{free_port, says_port_taken};
use crate::progress::Progress;
use crate::simulator::SimulatorConfig;
use crate::supervise::{Launch, Supervised};
use crate::workspace::{Workspace, WorkspaceOptions};

use config::CoreFacts;
pub(crate) use executor::delegate;
pub use generation::Generation;
pub use node::{Core, Node, NodeKeys};
pub use service::{Service, ServiceKind};

/// Chain id of the Gateway. In generation (a) it is the host chain too: the one contract of a host chain stands there.
const GATEWAY_CHAIN_ID: u64 = 31_337;
/// Chain id of the Ethereum host, in generation (b) the host chain that handles name.
const ETHEREUM_CHAIN_ID: u64 = 12_345;
/// How long the simulators and the parts are given at the end.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Changes a simulator's configuration before it starts; the node's number comes first.
type AdjustCore = Box<dyn Fn(usize, &mut SimulatorConfig) + Send + Sync>;

/// What a stack shall be. `Stack::builder()…start().await`.
pub struct StackBuilder {
    generation: Generation,
    nodes: usize,
    coprocessors: usize,
    with_registry: bool,
    brokers: u8,
    block_time: Option<Duration>,
    prefix: String,
    kafka: Option<String>,
    anvil: Option<Anvil>,
    rpc_urls: Option<Vec<String>>,
    ethereum_rpc_urls: Option<Vec<String>>,
    settings: Vec<(ServiceKind, String)>,
    adjust_core: AdjustCore,
    start_services: Vec<ServiceKind>,
    batches: bool,
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            generation: Generation::A,
            nodes: 1,
            coprocessors: 1,
            with_registry: false,
            brokers: 1,
            block_time: Some(Duration::from_millis(250)),
            prefix: "kms".to_owned(),
            kafka: None,
            anvil: None,
            rpc_urls: None,
            ethereum_rpc_urls: None,
            settings: Vec::new(),
            adjust_core: Box::new(|_, _| {}),
            start_services: ServiceKind::ALL.to_vec(),
            batches: true,
        }
    }
}

impl StackBuilder {
    /// Which generation of the protocol: its contracts, its chains and its KMS Core.
    #[must_use]
    pub fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

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

    /// Where the services find the Gateway, if not at anvil itself: for proxies in between, and for several URLs.
    #[must_use]
    pub fn rpc_urls(mut self, urls: impl IntoIterator<Item = String>) -> Self {
        self.rpc_urls = Some(urls.into_iter().collect());
        self
    }

    /// The same for the Ethereum host of generation (b).
    #[must_use]
    pub fn ethereum_rpc_urls(mut self, urls: impl IntoIterator<Item = String>) -> Self {
        self.ethereum_rpc_urls = Some(urls.into_iter().collect());
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

    /// Whether the nodes' transaction senders delegate to a batch executor on the Gateway, so that their answers leave in batches.
    /// Default true.
    #[must_use]
    pub fn batches(mut self, batches: bool) -> Self {
        self.batches = batches;
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
        check_nodes(self.nodes)?;
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
            let gateway = async {
                match given {
                    Some(anvil) => Ok(anvil),
                    None => self.start_chain(workspace, GATEWAY_CHAIN_ID).await,
                }
            };
            let ethereum = async {
                match self.generation {
                    Generation::A => Ok(None),
                    Generation::B => self.start_chain(workspace, ETHEREUM_CHAIN_ID).await.map(Some),
                }
            };
            let (anvil, ethereum) = tokio::try_join!(gateway, ethereum)?;
            let buckets = try_join_all((0..self.coprocessors).map(|_| Bucket::start(workspace, "ct128"))).await?;
            let nodes: Vec<_> = keys.iter().map(|keys| (keys.signer.address(), keys.sender.address())).collect();
            let urls: Vec<String> = buckets.iter().map(Bucket::url).collect();
            let host = ethereum.as_ref().map(place);
            let deployment = deployment(self.generation, &nodes, &urls, &place(&anvil), host.as_ref());
            let contracts = deploy(workspace.progress(), &anvil.url(), &deployment).await?;
            let executor = match self.batches {
                true => {
                    let senders: Vec<_> = keys.iter().map(|keys| keys.sender.clone()).collect();
                    Some(delegate(workspace.progress(), &place(&anvil), &senders).await?)
                }
                false => None,
            };
            Ok((anvil, ethereum, buckets, deployment, contracts, executor))
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
        let (anvil, ethereum, buckets, deployment, contracts, executor) = chain;

        let bootstrap = match (&self.kafka, &kafka) {
            (Some(given), _) => given.clone(),
            (None, Some(own)) => own.bootstrap_servers().to_owned(),
            (None, None) => String::new(),
        };
        let mut stack = Stack {
            workspace: workspace.clone(),
            nodes: Vec::new(),
            generation: self.generation,
            rpc_urls: self.rpc_urls.clone().unwrap_or_else(|| vec![anvil.url()]),
            ethereum_rpc_urls: match &self.ethereum_rpc_urls {
                Some(urls) => urls.clone(),
                None => ethereum.iter().map(Anvil::url).collect(),
            },
            bootstrap,
            replication_factor: if kafka.is_some() { self.brokers } else { 1 },
            settings: self.settings.clone(),
            kafka,
            anvil,
            ethereum,
            buckets,
            registry,
            deployment,
            contracts,
            executor,
            times: StartTimes { fetch: fetched, ready: Duration::ZERO },
        };
        for (index, (keys, core)) in keys.into_iter().zip(cores).enumerate() {
            let node = self.node(&stack, index + 1, keys, core)?;
            stack.nodes.push(node);
        }
        self.start_services(&stack).await?;
        workspace.write(STACK_FILE, &stack.describe().to_json())?;
        stack.times.ready = begun.elapsed();
        Ok(stack)
    }

    async fn start_chain(&self, workspace: &Workspace, chain_id: u64) -> Result<Anvil, StackError> {
        // A block is final two blocks later: nothing waits long for it, and nothing works that forgets to wait.
        let options =
            AnvilOptions { chain_id, block_time: self.block_time, slots_in_an_epoch: 1, ..AnvilOptions::default() };
        Anvil::start(workspace, options).await
    }

    async fn start_core(&self, workspace: &Workspace, number: usize, keys: &NodeKeys) -> Result<Core, StackError> {
        for attempt in 1.. {
            match self.start_core_once(workspace, number, keys).await {
                Err(StackError::Died { tail, .. }) if attempt < parts::PORT_TRIES && says_port_taken(&tail) => {}
                result => return result,
            }
        }
        unreachable!("the last attempt returns its result")
    }

    async fn start_core_once(&self, workspace: &Workspace, number: usize, keys: &NodeKeys) -> Result<Core, StackError> {
        let name = format!("core-{number}");
        let (grpc, control) = (free_port()?, free_port()?);
        let key_file = secret_file(workspace, &format!("config/node-{number}/signer.key"), &keys.signer)?;
        let facts = CoreFacts {
            listen: (Ipv4Addr::LOCALHOST, grpc).into(),
            control: (Ipv4Addr::LOCALHOST, control).into(),
            generation: self.generation,
            number,
            nodes: self.nodes,
            key_file,
            state_dir: workspace.data_dir(&name)?,
        };
        let mut config = config::core(facts);
        (self.adjust_core)(number, &mut config);
        let text = config::core_text(&config)?;
        let file = workspace.write(&format!("config/node-{number}/core.toml"), &text)?;
        let launch = Launch::new(name, workspace.program()).args(["simulator", "--config"]).arg(file);
        let core = Core { process: Supervised::new(workspace, launch), grpc, control };
        core.process.start()?;
        core.wait_ready().await?;
        Ok(core)
    }

    fn node(&self, stack: &Stack, number: usize, keys: NodeKeys, core: Core) -> Result<Node, StackError> {
        let prefix = topic_prefix(&self.prefix, self.nodes, number);
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
    ethereum: Option<Anvil>,
    generation: Generation,
    bootstrap: String,
    replication_factor: u8,
    rpc_urls: Vec<String>,
    ethereum_rpc_urls: Vec<String>,
    settings: Vec<(ServiceKind, String)>,
    deployment: DeploymentConfig,
    contracts: Contracts,
    executor: Option<Address>,
    times: StartTimes,
    workspace: Workspace,
}

impl Stack {
    /// Generation (a), one node, one coprocessor, one broker, blocks of 250 ms, no registry.
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

    /// Its generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The Gateway; in generation (a) the host chain too.
    pub fn anvil(&self) -> &Anvil {
        &self.anvil
    }

    /// The Ethereum host, which is the host chain of the handles; generation (b) only.
    pub fn ethereum(&self) -> Option<&Anvil> {
        self.ethereum.as_ref()
    }

    /// The chains that a connector follows, the Gateway first.
    pub fn chains(&self) -> Vec<FollowedChain> {
        self.describe().chains()
    }

    /// Everything that has to be known to use it from outside.
    pub fn describe(&self) -> Description {
        let node = |node: &Node| NodePlace {
            number: node.number,
            prefix: node.prefix.clone(),
            signer: node.signer(),
            sender: node.sender(),
            core: node.core.url(),
            control: Some(format!("http://{}", node.core.control())),
            services: node.services.iter().map(service_place).collect(),
        };
        Description {
            generation: self.generation,
            kafka: self.bootstrap.clone(),
            brokers: self.replication_factor,
            registry: self.registry.as_ref().map(Registry::url),
            gateway: place(&self.anvil),
            ethereum: self.ethereum.as_ref().map(place),
            contracts: self.contracts,
            executor: self.executor,
            buckets: self.buckets.iter().map(Bucket::url).collect(),
            nodes: self.nodes.iter().map(node).collect(),
        }
    }

    /// Puts a ciphertext into a coprocessor's bucket as its generation does: under its digest in (a), under its handle and with the
    /// coprocessor's attestation in (b). What the contracts have to know of it is another matter: [`Requester::register`].
    ///
    /// # Errors
    /// The bucket does not answer or refuses.
    ///
    /// # Panics
    /// There is no such coprocessor.
    pub async fn put_ciphertext(
        &self,
        coprocessor: usize,
        material: &Material,
        body: Vec<u8>,
    ) -> Result<(), StackError> {
        self.describe().put_ciphertext(coprocessor, material, body).await
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

    /// The side that makes requests, connected to the chains themselves. Its accounts count their own nonces, so there can be only one at a
    /// time.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn requester(&self) -> Result<Requester, ContractsError> {
        self.describe().requester().await
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
        let chains = join_all(std::iter::once(&self.anvil).chain(&self.ethereum).map(Anvil::stop));
        tokio::join!(registry, kafka, buckets, chains);
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
            ethereum_rpc_urls: &self.ethereum_rpc_urls,
            contracts: &self.contracts,
            // Where every transaction makes its own block, nothing makes the two blocks that would make it final.
            key_finality: if self.anvil.has_block_time() { "finalized" } else { "latest" },
            core_version: self.generation.core_version(),
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

/// Whether there can be a KMS of that many nodes.
pub(crate) fn check_nodes(nodes: usize) -> Result<(), StackError> {
    if nodes == 0 || !(nodes - 1).is_multiple_of(3) {
        return Err(StackError::Usage(format!("{nodes} nodes: a KMS has 1 node, or 3t + 1 of them (4, 7, …)")));
    }
    Ok(())
}

fn place(anvil: &Anvil) -> ChainPlace {
    ChainPlace { url: anvil.url(), chain_id: anvil.chain_id(), first_block: None }
}

fn service_place(service: &Service) -> ServicePlace {
    ServicePlace { kind: service.kind(), url: format!("http://{}", service.listen()) }
}

/// Puts the contracts on the chains.
pub(crate) async fn deploy(
    progress: &Progress,
    url: &str,
    deployment: &DeploymentConfig,
) -> Result<Contracts, StackError> {
    let task = progress.begin("contracts", "deploying");
    let deployed = Contracts::deploy(url, &owner_key(), deployment).await;
    let contracts = deployed.map_err(|error| StackError::Contracts(chain_of(&error)))?;
    task.done("deployed");
    Ok(contracts)
}

/// A file that only its owner can read.
fn secret_file(workspace: &Workspace, path: &str, key: &PrivateKeySigner) -> Result<PathBuf, StackError> {
    use std::os::unix::fs::PermissionsExt;
    let file = workspace.write(path, &key_file_text(key))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
        .map_err(StackError::io(file.display().to_string()))?;
    Ok(file)
}
