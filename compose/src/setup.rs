//! `kms-stack setup`: everything that a stack needs besides its processes, for processes that somebody else starts, as containers.
//!
//! ```text
//!  plan/…  ─┐                                                               ┌─▶ stack.json
//!  flags   ─┼─▶ wait for chains, Kafka, buckets ─▶ contracts, ─▶ topics ─────┼─▶ node-N/{ingest,processor,emitter,core,kmsctl}.toml
//!  stack.json┘                                     delegations              └─▶ node-N/{signer,wallet}.key
//! ```
//!
//! The files are those of the stack of local processes, made by the same code from other facts. A second run finds `stack.json`, holds it
//! against the chain, deploys nothing and writes the files again, so that changed addresses take effect. What is on chain cannot be
//! changed by it; a chain that is not the one of `stack.json` is refused.

mod addresses;

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U64};
use clap::Args;
use futures::future::try_join_all;
use kms_chain::contracts::GatewayConfig;
use kms_emitter::executor;
use kms_runtime::kafka::{KafkaConfig, LogContext, ensure_topics, probe_topic};
use kms_schemas::topics::{TopicSpec, Topics};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use serde::Deserialize;

use crate::contracts::{ContractsError, Node};
use crate::description::{ChainPlace, Description, NodePlace, STACK_FILE, ServicePlace, deployment, topic_prefix};
use crate::error::{StackError, chain_of};
use crate::http::http_client;
use crate::keys::key_file_text;
use crate::parts::{INTERNAL_PARTITIONS, Objects};
use crate::progress::Progress;
use crate::stack::config::{self, CoreFacts, Facts};
use crate::stack::{Generation, NodeKeys, ServiceKind, check_nodes, delegate, deploy};

const PLAN_DIR: &str = "plan";
const SERVICE: &str = "setup";
/// How often something that is not there is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is said what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// What part of `--wait` a name is waited for that leads to no host: one in so many.
const NAME_SHARE: u32 = 6;
const INTERNAL_TOPICS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];
const RESET: &str = "start over with empty volumes (`docker compose down --volumes`)";

/// What a stack shall be. What is absent is as it was noted by `kms-stack plan`, or set up before, or the default.
#[derive(Args, Clone, Debug)]
pub struct Wish {
    /// KMS nodes: 1, or 4, 7, … for a threshold KMS. Default 1.
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// Kafka brokers, and replicas of each topic: 1 or 3. Default 1.
    #[arg(long, value_name = "N")]
    pub brokers: Option<u8>,
    /// Generation of the protocol: a is v0.10 and v0.11, b is v0.15 with a second chain, contexts and epochs. Default a.
    #[arg(long, value_enum)]
    pub generation: Option<Generation>,
}

/// Arguments of `kms-stack plan`.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// Directory that the setup will use.
    #[arg(long, value_name = "DIR")]
    pub directory: PathBuf,
    /// What the stack shall be.
    #[command(flatten)]
    pub wish: Wish,
    /// The brokers, in place of those that the setup is given.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub kafka: Option<String>,
}

/// Arguments of `kms-stack setup`.
#[derive(Args, Clone, Debug)]
pub struct SetupArgs {
    /// Directory for the files that are written: `stack.json`, and a folder per node.
    #[arg(long, value_name = "DIR")]
    pub directory: PathBuf,
    /// What the stack shall be.
    #[command(flatten)]
    pub wish: Wish,
    /// The brokers, unless a plan has noted others.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub kafka: String,
    /// JSON-RPC address of the Gateway, a development chain (anvil).
    #[arg(long, value_name = "URL")]
    pub gateway: String,
    /// JSON-RPC address of the Ethereum host, another development chain; needed for generation (b).
    #[arg(long, value_name = "URL", default_value = "")]
    pub ethereum: String,
    /// URL of a coprocessor's bucket that anybody may read and write; may be repeated, a coprocessor each.
    #[arg(long, value_name = "URL", required = true, value_delimiter = ',')]
    pub bucket: Vec<String>,
    /// Confluent-compatible API of a schema registry; empty: none.
    #[arg(long, value_name = "URL", default_value = "")]
    pub registry: String,
    /// gRPC address of each node's KMS Core; `{node}` stands for its number.
    #[arg(long, value_name = "URL", default_value = "http://kms-core-{node}:50051")]
    pub core: String,
    /// Control endpoint of each node's KMS Core simulator.
    #[arg(long, value_name = "URL", default_value = "http://kms-core-{node}:50052")]
    pub core_control: String,
    /// Address of the key in the node's real KMS Core, in place of a simulator's; one for each node.
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', env = "KMS_STACK_CORE_SIGNER")]
    pub core_signer: Vec<String>,
    /// Where the simulators listen for gRPC calls, and at the next port for the control endpoint.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:50051")]
    pub core_listen: SocketAddr,
    /// Where a simulator keeps what survives a restart; `{node}` stands for its number.
    #[arg(long, value_name = "DIR", default_value = "/state")]
    pub core_state: String,
    /// Where every service listens for `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9464")]
    pub telemetry: SocketAddr,
    /// Where others reach that; `{service}` stands for the service's name, `{node}` for the node's number.
    #[arg(long, value_name = "URL", default_value = "http://{service}-{node}:9464")]
    pub service: String,
    /// What the topics' names begin with: `{prefix}-connector` for one node, `{prefix}-node-1`, … for several.
    #[arg(long, default_value = "kms")]
    pub prefix: String,
    /// Seconds to wait for what is not there yet; for a host whose name leads nowhere, a sixth of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    pub wait: u64,
}

/// What a stack is, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    nodes: usize,
    brokers: u8,
    generation: Generation,
}

/// `kms-stack plan`: notes a wish for the setup. Each value has a file of its own, so that several can be noted at once.
///
/// # Errors
/// [`StackError::Usage`] for a wish that cannot be; [`StackError::Lost`] when another stack is set up already.
pub fn plan(args: &PlanArgs) -> Result<(), StackError> {
    let Wish { nodes, brokers, generation } = &args.wish;
    args.kafka.as_deref().map_or(Ok(()), addresses::check_brokers)?;
    let shape = decide(&args.wish, None, existing(&args.directory)?.as_ref())?;
    let noted = [
        ("nodes", nodes.map(|_| shape.nodes.to_string())),
        ("brokers", brokers.map(|_| shape.brokers.to_string())),
        ("generation", generation.map(|_| shape.generation.to_string())),
        ("kafka", args.kafka.clone()),
    ];
    for (name, value) in noted {
        if let Some(value) = value {
            write(&args.directory.join(PLAN_DIR).join(name), &format!("{value}\n"), Secrecy::Open)?;
        }
    }
    Ok(())
}

/// One value that was noted.
fn note(directory: &Path, name: &str) -> Result<Option<String>, StackError> {
    let file = directory.join(PLAN_DIR).join(name);
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StackError::io(file.display().to_string())(error)),
    }
}

/// The wish that was noted.
fn noted(directory: &Path) -> Result<Wish, StackError> {
    let read = |name: &str| note(directory, name);
    fn parsed<T>(text: Option<String>, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, StackError> {
        let wrong = |text: &str| StackError::Usage(format!("`{text}` was noted by a plan and cannot be: {RESET}"));
        text.map(|text| parse(&text).ok_or_else(|| wrong(&text))).transpose()
    }
    Ok(Wish {
        nodes: parsed(read("nodes")?, |text| text.parse().ok())?,
        brokers: parsed(read("brokers")?, |text| text.parse().ok())?,
        generation: parsed(read("generation")?, |text| clap::ValueEnum::from_str(text, false).ok())?,
    })
}

/// The description of what was set up before.
fn existing(directory: &Path) -> Result<Option<Description>, StackError> {
    let file = directory.join(STACK_FILE);
    if file.exists() { Description::read(&file).map(Some) } else { Ok(None) }
}

/// Flags before notes before what there is; what there is cannot be changed.
fn decide(wish: &Wish, noted: Option<&Wish>, existing: Option<&Description>) -> Result<Shape, StackError> {
    let there =
        existing.map(|there| Shape { nodes: there.nodes.len(), brokers: there.brokers, generation: there.generation });
    let default = there.unwrap_or(Shape { nodes: 1, brokers: 1, generation: Generation::A });
    let shape = Shape {
        nodes: wish.nodes.or(noted.and_then(|noted| noted.nodes)).unwrap_or(default.nodes),
        brokers: wish.brokers.or(noted.and_then(|noted| noted.brokers)).unwrap_or(default.brokers),
        generation: wish.generation.or(noted.and_then(|noted| noted.generation)).unwrap_or(default.generation),
    };
    check_nodes(shape.nodes)?;
    if !matches!(shape.brokers, 1 | 3) {
        return Err(StackError::Usage(format!("{} brokers: only 1 and 3 are provided for", shape.brokers)));
    }
    match there {
        Some(there) if there != shape => Err(StackError::Lost(format!(
            "asked for is a stack of {}, set up is one of {}, and its contracts and topics cannot be changed: ask for what there is, or \
             {RESET}",
            shape.in_words(),
            there.in_words()
        ))),
        _ => Ok(shape),
    }
}

impl Shape {
    fn in_words(self) -> String {
        format!("generation ({}), {} node(s), {} broker(s)", self.generation, self.nodes, self.brokers)
    }
}

/// `kms-stack setup`.
///
/// # Errors
/// [`StackError::Absent`] when something does not answer in time, [`StackError::Lost`] when the chain or the topics are not those of
/// the stack that was set up here, [`StackError::Contracts`], [`StackError::Usage`], [`StackError::Io`].
pub async fn setup(args: &SetupArgs, progress: &Progress) -> Result<Description, StackError> {
    addresses::check(args)?;
    must_be_writable(&args.directory)?;
    let kafka = note(&args.directory, "kafka")?.unwrap_or_else(|| args.kafka.clone());
    let args = &SetupArgs { kafka, ..args.clone() };
    let before = existing(&args.directory)?;
    let shape = decide(&args.wish, Some(&noted(&args.directory)?), before.as_ref())?;
    let plan = Setup { args, progress, shape, deadline: Instant::now() + Duration::from_secs(args.wait) };
    let signers = plan.signers()?;
    if let Some(before) = &before {
        plan.must_fit(before, &signers)?;
    }
    for number in 1..=shape.nodes {
        let folder = args.directory.join(format!("node-{number}"));
        if folder.exists() {
            must_be_writable(&folder)?;
        }
    }
    let (gateway, ethereum) = plan.wait().await?;
    let nodes = plan.nodes(&signers);
    let description = match before {
        Some(before) => {
            let place = |now: ChainPlace, then: &ChainPlace| ChainPlace { first_block: then.first_block, ..now };
            let description = Description {
                kafka: args.kafka.clone(),
                registry: args.registry(),
                gateway: place(gateway, &before.gateway),
                ethereum: ethereum.zip(before.ethereum.as_ref()).map(|(now, then)| place(now, then)),
                nodes,
                ..before
            };
            plan.verify(&description).await?;
            description
        }
        None => plan.deploy(gateway, ethereum, nodes).await?,
    };
    plan.topics(&description).await?;
    plan.write(&description).await?;
    Ok(description)
}

/// Nothing is put on a chain for files that cannot be written afterwards.
fn must_be_writable(folder: &Path) -> Result<(), StackError> {
    let tried = std::fs::create_dir_all(folder);
    // A file that is removed when it is dropped.
    let tried = tried.and_then(|()| tempfile::Builder::new().prefix(".setup-").tempfile_in(folder));
    let what = format!("--directory: no file can be written in {}, and nothing was set up", folder.display());
    tried.map(drop).map_err(StackError::io(what))
}

impl SetupArgs {
    fn registry(&self) -> Option<String> {
        (!self.registry.is_empty()).then(|| self.registry.clone())
    }
}

struct Setup<'a> {
    args: &'a SetupArgs,
    progress: &'a Progress,
    shape: Shape,
    deadline: Instant,
}

impl Setup<'_> {
    /// The nodes' signers: those of real KMS Cores, or development keys.
    fn signers(&self) -> Result<Vec<Address>, StackError> {
        let given: Vec<&String> = self.args.core_signer.iter().filter(|text| !text.is_empty()).collect();
        if given.is_empty() {
            return Ok((1..=self.shape.nodes).map(|number| NodeKeys::of(number).signer.address()).collect());
        }
        if given.len() != self.shape.nodes {
            let text = format!("--core-signer: {} for {} node(s); give one for each", given.len(), self.shape.nodes);
            return Err(StackError::Usage(text));
        }
        let parsed = given.iter().map(|text| {
            text.parse()
                .map_err(|_| StackError::Usage(format!("--core-signer {text}: not an address (0x and 40 digits)")))
        });
        parsed.collect()
    }

    fn has_simulators(&self) -> bool {
        self.args.core_signer.iter().all(String::is_empty)
    }

    /// What is registered on chain cannot be changed by another run.
    fn must_fit(&self, before: &Description, signers: &[Address]) -> Result<(), StackError> {
        let registered: Vec<Address> = before.nodes.iter().map(|node| node.signer).collect();
        if registered != signers {
            return Err(StackError::Lost(format!(
                "registered on chain are other signers of the nodes ({}) than asked for ({}): {RESET}",
                listed(&registered),
                listed(signers)
            )));
        }
        let prefix = topic_prefix(&self.args.prefix, self.shape.nodes, 1);
        if let Some(node) = before.nodes.first().filter(|node| node.prefix != prefix) {
            return Err(StackError::Lost(format!(
                "the topics of the stack in {} are {}.* ({}), and --prefix {} would make them {prefix}.*: give the first, give a second stack a \
                 --directory of its own, or {RESET}",
                self.args.directory.display(),
                node.prefix,
                self.flag_of(&node.prefix),
                self.args.prefix
            )));
        }
        if before.buckets != self.args.bucket {
            return Err(StackError::Lost(format!(
                "registered on chain are other buckets ({}) than asked for ({}): {RESET}",
                listed(&before.buckets),
                listed(&self.args.bucket)
            )));
        }
        Ok(())
    }

    /// The flag by which a first node's topics have this prefix.
    fn flag_of(&self, prefix: &str) -> String {
        let end = topic_prefix("", self.shape.nodes, 1);
        format!("--prefix {}", prefix.strip_suffix(&end).unwrap_or(prefix))
    }

    fn nodes(&self, signers: &[Address]) -> Vec<NodePlace> {
        let of = |template: &str, number: usize| template.replace("{node}", &number.to_string());
        let node = |(index, signer): (usize, &Address)| {
            let number = index + 1;
            let service = |kind: ServiceKind| ServicePlace {
                kind,
                url: of(&self.args.service, number).replace("{service}", kind.name()),
            };
            NodePlace {
                number,
                prefix: topic_prefix(&self.args.prefix, self.shape.nodes, number),
                signer: *signer,
                sender: NodeKeys::of(number).sender.address(),
                core: of(&self.args.core, number),
                control: self.has_simulators().then(|| of(&self.args.core_control, number)),
                services: ServiceKind::ALL.map(service).to_vec(),
            }
        };
        signers.iter().enumerate().map(node).collect()
    }

    /// Waits for everything that the setup needs, and tells the chains.
    async fn wait(&self) -> Result<(ChainPlace, Option<ChainPlace>), StackError> {
        let ethereum = async {
            match (self.shape.generation, self.args.ethereum.as_str()) {
                (Generation::A, _) => Ok(None),
                (Generation::B, "") => {
                    Err(StackError::Usage("--ethereum: generation (b) needs a second chain".to_owned()))
                }
                (Generation::B, url) => self.chain("Ethereum host", url).await.map(Some),
            }
        };
        let buckets = try_join_all(self.args.bucket.iter().map(|url| self.bucket(url)));
        let (gateway, ethereum, (), _, ()) = tokio::try_join!(
            self.chain("Gateway", &self.args.gateway),
            ethereum,
            self.kafka(),
            buckets,
            self.registry()
        )?;
        if ethereum.as_ref().is_some_and(|ethereum| ethereum.chain_id == gateway.chain_id) {
            return Err(StackError::Usage(format!("both chains have the id {}", gateway.chain_id)));
        }
        Ok((gateway, ethereum))
    }

    /// Looks until it is there. A name that leads nowhere is more often misspelt than that of a container which has not started yet.
    async fn until<T>(
        &self,
        what: &str,
        address: &str,
        mut look: impl AsyncFnMut() -> Result<T, String>,
    ) -> Result<T, StackError> {
        let hosts = addresses::hosts(address);
        let begun = Instant::now();
        let (mut told, mut unknown_since) = (None::<Instant>, None::<Instant>);
        loop {
            let mut last = match look().await {
                Ok(found) => return Ok(found),
                Err(last) => last,
            };
            let mut is_misspelt = false;
            match addresses::unknown(&hosts).await {
                None => unknown_since = None,
                Some(why) => {
                    let limit = Duration::from_secs(self.args.wait) / NAME_SHARE;
                    is_misspelt = unknown_since.get_or_insert(begun).elapsed() >= limit;
                    last = format!(
                        "{why}: is it spelt rightly? A name that leads nowhere is waited for {} s",
                        limit.as_secs()
                    );
                }
            }
            if is_misspelt || Instant::now() >= self.deadline {
                return Err(StackError::Absent { what: what.to_owned(), waited: begun.elapsed(), last });
            }
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                self.progress.say(&format!("waiting for {what}: {last}"));
                told = Some(Instant::now());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn chain(&self, name: &str, url: &str) -> Result<ChainPlace, StackError> {
        let node = Node::new(url).map_err(|error| StackError::Usage(chain_of(&error)))?;
        let what = format!("the {name} at {url}");
        let chain_id = self.until(&what, url, async || node.chain_id().await.map_err(|error| chain_of(&error))).await?;
        Ok(ChainPlace { url: url.to_owned(), chain_id, first_block: None })
    }

    async fn bucket(&self, url: &String) -> Result<(), StackError> {
        let objects = Objects::new(url);
        self.until(&format!("the bucket {url}"), url, async || match objects.answers().await {
            Ok(()) => Ok(()),
            // A server that lets anybody write may let anybody make a bucket; if not, its first answer says more.
            Err(why) => objects.make().await.map_err(|_| why),
        })
        .await
    }

    async fn registry(&self) -> Result<(), StackError> {
        let Some(url) = self.args.registry() else { return Ok(()) };
        let client = http_client();
        self.until(&format!("the schema registry {url}"), &url, async || {
            let asked = client.get(format!("{url}/subjects")).timeout(LOOK_LIMIT).send().await;
            let status = asked.map_err(|error| chain_of(&error))?.status();
            if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
        })
        .await
    }

    async fn kafka(&self) -> Result<(), StackError> {
        let brokers = usize::from(self.shape.brokers);
        let config = self.kafka_config(&self.args.prefix);
        self.until(&format!("{brokers} broker(s) at {}", self.args.kafka), &self.args.kafka, async || {
            let config = config.clone();
            let found = tokio::task::spawn_blocking(move || brokers_of(&config)).await;
            match found.map_err(|error| error.to_string())?? {
                found if found >= brokers => Ok(()),
                found => Err(format!("{found} so far")),
            }
        })
        .await
    }

    fn kafka_config(&self, prefix: &str) -> KafkaConfig {
        KafkaConfig {
            bootstrap_servers: self.args.kafka.clone(),
            topic_prefix: prefix.to_owned(),
            create_topics: true,
            replication_factor: self.shape.brokers.into(),
            ..KafkaConfig::default()
        }
    }

    /// Contracts, registered nodes, delegations.
    async fn deploy(
        &self,
        gateway: ChainPlace,
        ethereum: Option<ChainPlace>,
        nodes: Vec<NodePlace>,
    ) -> Result<Description, StackError> {
        self.no_earlier_records(&nodes).await?;
        let places = [Some(&gateway), ethereum.as_ref()];
        for place in places.into_iter().flatten() {
            self.tell_of_used_accounts(place, &nodes).await?;
        }
        let pairs: Vec<(Address, Address)> = nodes.iter().map(|node| (node.signer, node.sender)).collect();
        let wanted = deployment(self.shape.generation, &pairs, &self.args.bucket, &gateway, ethereum.as_ref());
        let contracts = deploy(self.progress, &gateway.url, &wanted).await?;
        let senders: Vec<_> = nodes.iter().map(|node| NodeKeys::of(node.number).sender).collect();
        let executor = delegate(self.progress, &gateway, &senders).await?;
        let mut description = Description {
            generation: self.shape.generation,
            kafka: self.args.kafka.clone(),
            brokers: self.shape.brokers,
            registry: self.args.registry(),
            gateway,
            ethereum,
            contracts,
            executor: Some(executor),
            buckets: self.args.bucket.clone(),
            nodes,
        };
        let failed = |error: ContractsError| StackError::Contracts(chain_of(&error));
        description.gateway.first_block =
            Some(block_hash(&description.gateway.url, contracts.first_block).await.map_err(failed)?);
        if let (Some(place), Some(on_chain)) = (&mut description.ethereum, contracts.ethereum) {
            place.first_block = Some(block_hash(&place.url, on_chain.first_block).await.map_err(failed)?);
        }
        Ok(description)
    }

    /// Development keys are those of every stack: one that runs on this chain sends from the same accounts.
    async fn tell_of_used_accounts(&self, place: &ChainPlace, nodes: &[NodePlace]) -> Result<(), StackError> {
        let failed = |error: ContractsError| StackError::Contracts(chain_of(&error));
        let chain = Node::new(&place.url).map_err(failed)?;
        let mut used = Vec::new();
        for node in nodes {
            let sent: U64 = chain.request("eth_getTransactionCount", (node.sender, "pending")).await.map_err(failed)?;
            let code: Bytes = chain.request("eth_getCode", (node.sender, "latest")).await.map_err(failed)?;
            let delegated = executor::delegate(&code).map_or_else(String::new, |to| format!(", delegated to {to}"));
            if !sent.is_zero() || !code.is_empty() {
                used.push(format!("{} of node {} (nonce {sent}{delegated})", node.sender, node.number));
            }
        }
        if !used.is_empty() {
            self.progress.say(&format!(
                "! the chain at {} knows the nodes' accounts already: {}. Another stack was set up on it, whose development keys are the same. If it \
                 still runs, its emitters and these ones take each other's nonces: stop it, or give this one a chain of its own. A delegation to \
                 an executor of this release is left as it is",
                place.url,
                used.join(", ")
            ));
        }
        Ok(())
    }

    /// A cursor of other contracts would make the services refuse to start, one after the other.
    async fn no_earlier_records(&self, nodes: &[NodePlace]) -> Result<(), StackError> {
        for node in nodes {
            let config = self.kafka_config(&node.prefix);
            let topic = Topics::new(&node.prefix).cursor().to_owned();
            let looked = tokio::task::spawn_blocking(move || {
                has_records(&config, &topic).then(|| (topic, prefixes_of(&config)))
            });
            if let Ok(Some((topic, there))) = looked.await {
                return Err(StackError::Lost(format!(
                    "{topic} at {} holds records of an earlier stack, whose contracts nothing tells of: there is no {STACK_FILE} in {}. Give the \
                     --directory of its setup, or another --prefix than {} for a second stack on this cluster (taken are: {there}), or {RESET}",
                    self.args.kafka,
                    self.args.directory.display(),
                    self.args.prefix
                )));
            }
        }
        Ok(())
    }

    /// Holds what was set up before against the chain.
    async fn verify(&self, description: &Description) -> Result<(), StackError> {
        let task = self.progress.begin("contracts", "verifying");
        let ids = description.contracts;
        let chains = [
            Some((&description.gateway, ids.gateway_chain_id, ids.first_block)),
            description.ethereum.as_ref().zip(ids.ethereum).map(|(place, on)| (place, on.chain_id, on.first_block)),
        ];
        let lost = |url: &str, why: String| {
            StackError::Lost(format!(
                "the chain at {url} is not the one that this stack was set up on ({why}): it lost its state, or is another; {RESET}"
            ))
        };
        let failed = |error: ContractsError| StackError::Contracts(chain_of(&error));
        for (place, chain_id, first_block) in chains.into_iter().flatten() {
            if place.chain_id != chain_id {
                return Err(lost(&place.url, format!("its id is {} instead of {chain_id}", place.chain_id)));
            }
            let found = block_hash(&place.url, first_block).await;
            match found {
                Ok(found) if place.first_block.is_none_or(|hash| hash == found) => {}
                Ok(found) => return Err(lost(&place.url, format!("its block {first_block} is {found}"))),
                Err(ContractsError::Answer(why)) => return Err(lost(&place.url, why)),
                Err(error) => return Err(failed(error)),
            }
        }
        let gateway = Node::new(&description.gateway.url).map_err(failed)?;
        let host = match &description.ethereum {
            Some(place) => Node::new(&place.url).map_err(failed)?,
            None => gateway.clone(),
        };
        let on_gateway =
            [Some(ids.gateway_config), Some(ids.ciphertext_commits), Some(ids.decryption), ids.multichain_acl];
        let on_host =
            [Some(ids.host_acl), Some(ids.kms_generation), ids.ethereum.map(|ethereum| ethereum.protocol_config)];
        for (node, addresses) in [(&gateway, on_gateway.as_slice()), (&host, on_host.as_slice())] {
            for address in addresses.iter().flatten() {
                let code: Bytes = node.request("eth_getCode", (*address, "latest")).await.map_err(failed)?;
                if code.is_empty() {
                    return Err(lost(node.url(), format!("it has no contract at {address}")));
                }
            }
        }
        let registered =
            gateway.view(ids.gateway_config, &GatewayConfig::getKmsSignersCall {}).await.map_err(failed)?;
        let signers: Vec<Address> = description.nodes.iter().map(|node| node.signer).collect();
        if registered != signers {
            return Err(lost(gateway.url(), format!("its nodes' signers are {}", listed(&registered))));
        }
        task.done("are those of the stack that was set up before");
        Ok(())
    }

    /// Creates what is missing of every node's topics, and in a cluster of several brokers of their own ones, which the first broker alone
    /// would make with one replica.
    async fn topics(&self, description: &Description) -> Result<(), StackError> {
        let task = self.progress.begin("topics", "creating");
        let mut sets: Vec<(KafkaConfig, Vec<TopicSpec>)> = Vec::new();
        if self.shape.brokers > 1 {
            sets.push((self.kafka_config(&self.args.prefix), internal_topics()));
        }
        for node in &description.nodes {
            let config = self.kafka_config(&node.prefix);
            let mut specs = Topics::new(&node.prefix).all();
            specs.push(probe_topic(&config));
            sets.push((config, specs));
        }
        let count: usize = sets.iter().map(|(_, specs)| specs.len()).sum();
        let (deadline, brokers) = (self.deadline, usize::from(self.shape.brokers));
        let created = tokio::task::spawn_blocking(move || {
            for (config, specs) in &sets {
                let keep_on = || Instant::now() < deadline;
                ensure_topics(config, SERVICE, specs, keep_on, |_| {}).map_err(|error| chain_of(&error))?;
            }
            match sets.first() {
                Some((config, _)) if brokers > 1 => check_replicas(config, brokers),
                _ => Ok(()),
            }
        });
        created.await.map_err(|error| error.to_string()).flatten().map_err(StackError::Topics)?;
        task.done(&format!("{count} are as the catalogue says"));
        Ok(())
    }

    /// The files; `stack.json` last, so that one that is there tells of a whole setup.
    async fn write(&self, description: &Description) -> Result<(), StackError> {
        let gateway = Node::new(&description.gateway.url);
        let at_once = async { gateway?.mines_at_once().await };
        let at_once = at_once.await.map_err(|error| StackError::Contracts(chain_of(&error)))?;
        for node in &description.nodes {
            self.write_node(description, node, at_once)?;
        }
        write(&self.args.directory.join(STACK_FILE), &description.to_json(), Secrecy::Open)
    }

    fn write_node(&self, description: &Description, node: &NodePlace, at_once: bool) -> Result<(), StackError> {
        let dir = self.args.directory.join(format!("node-{}", node.number));
        let keys = NodeKeys::of(node.number);
        write(&dir.join("wallet.key"), &key_file_text(&keys.sender), Secrecy::Owner)?;
        let ethereum: Vec<String> = description.ethereum.iter().map(|place| place.url.clone()).collect();
        let gateway = [description.gateway.url.clone()];
        let facts = Facts {
            bootstrap_servers: &description.kafka,
            prefix: &node.prefix,
            instance: "0",
            replication_factor: description.brokers,
            registry: description.registry.as_deref(),
            listen: self.args.telemetry,
            rpc_urls: &gateway,
            ethereum_rpc_urls: &ethereum,
            contracts: &description.contracts,
            // Where every transaction makes its own block, nothing makes the two blocks that would make it final.
            key_finality: if at_once { "latest" } else { "finalized" },
            core_version: description.generation.core_version(),
            kms_core: &node.core,
            signer: node.signer,
            // Beside the file, wherever the directory is mounted.
            wallet: Path::new("wallet.key"),
        };
        let files = [
            ("ingest.toml", config::ingest(&facts)),
            ("processor.toml", config::processor(&facts)),
            ("emitter.toml", config::emitter(&facts)),
            ("kmsctl.toml", config::kmsctl(&facts)),
        ];
        for (name, text) in files {
            write(&dir.join(name), &text, Secrecy::Open)?;
        }
        if !self.has_simulators() {
            return Ok(());
        }
        let key_file = dir.join("signer.key");
        write(&key_file, &key_file_text(&keys.signer), Secrecy::Owner)?;
        let listen = self.args.core_listen;
        let core = config::core(CoreFacts {
            listen,
            control: SocketAddr::new(listen.ip(), listen.port() + 1),
            generation: description.generation,
            number: node.number,
            nodes: description.nodes.len(),
            key_file,
            state_dir: self.args.core_state.replace("{node}", &node.number.to_string()).into(),
        });
        write(&dir.join("core.toml"), &config::core_text(&core)?, Secrecy::Open)
    }
}

fn listed<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A client without a group: one with a group has the first broker make `__consumer_offsets` with a single replica, before the setup can
/// make it with more.
fn client_of(config: &KafkaConfig) -> Result<BaseConsumer<LogContext>, KafkaError> {
    config.client(SERVICE).create_with_context(LogContext)
}

/// Brokers in the cluster's metadata.
fn brokers_of(config: &KafkaConfig) -> Result<usize, String> {
    let metadata = client_of(config).and_then(|client| client.fetch_metadata(Some(INTERNAL_TOPICS[0]), LOOK_LIMIT));
    Ok(metadata.map_err(|error| error.to_string())?.brokers().len())
}

/// Whether a topic is there and holds anything. One that cannot be asked holds nothing.
fn has_records(config: &KafkaConfig, topic: &str) -> bool {
    let marks = client_of(config).and_then(|client| client.fetch_watermarks(topic, 0, LOOK_LIMIT));
    marks.is_ok_and(|(low, high)| high > low)
}

/// What the topics of every connector on the cluster begin with, in words.
fn prefixes_of(config: &KafkaConfig) -> String {
    const MOST: usize = 10;
    let end = Topics::new("").cursor().to_owned();
    let Ok(metadata) = client_of(config).and_then(|client| client.fetch_metadata(None, LOOK_LIMIT)) else {
        return "Kafka does not say which".to_owned();
    };
    let mut prefixes: Vec<&str> =
        metadata.topics().iter().filter_map(|topic| topic.name().strip_suffix(&end)).collect();
    prefixes.sort_unstable();
    let named: Vec<String> = prefixes.iter().take(MOST).map(|prefix| format!("{prefix}.*")).collect();
    match prefixes.len() - named.len() {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}

/// The brokers' own topics must outlive a broker too. They are made once, by whoever comes first.
fn check_replicas(config: &KafkaConfig, brokers: usize) -> Result<(), String> {
    let client = client_of(config).map_err(|error| error.to_string())?;
    for topic in INTERNAL_TOPICS {
        let metadata = client.fetch_metadata(Some(topic), LOOK_LIMIT).map_err(|error| error.to_string())?;
        let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
        let least = partitions.map(|partition| partition.replicas().len()).min().unwrap_or(0);
        if least < brokers {
            return Err(format!(
                "{topic} has {least} replica(s) for {brokers} brokers, since a client came before the setup: {RESET}"
            ));
        }
    }
    Ok(())
}

/// The brokers' own topics, with as many partitions as their configuration says and as many replicas as there are brokers.
fn internal_topics() -> Vec<TopicSpec> {
    let topic = |name: &str| TopicSpec {
        name: name.to_owned(),
        partitions: INTERNAL_PARTITIONS,
        config: vec![("cleanup.policy", "compact".to_owned()), ("min.insync.replicas", "2".to_owned())],
        record: None,
    };
    INTERNAL_TOPICS.map(topic).to_vec()
}

/// The hash of a block. [`ContractsError::Answer`] when the chain has none of that number.
async fn block_hash(url: &str, number: u64) -> Result<B256, ContractsError> {
    #[derive(Clone, Debug, Deserialize, serde::Serialize)]
    struct Block {
        hash: B256,
    }
    let node = Node::new(url)?;
    let block: Option<Block> = node.request("eth_getBlockByNumber", (format!("{number:#x}"), false)).await?;
    let block = block.ok_or_else(|| ContractsError::Answer(format!("it has no block {number}")))?;
    Ok(block.hash)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    /// Everybody may read it.
    Open,
    /// Only its owner may.
    Owner,
}

/// Writes a file whole or not at all, unless it holds that already: who reads it meanwhile is not disturbed.
fn write(file: &Path, text: &str, secrecy: Secrecy) -> Result<(), StackError> {
    use std::io::Write as _;
    if std::fs::read_to_string(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let failed = || StackError::io(file.display().to_string());
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).map_err(failed())?;
    }
    let fresh = file.with_extension("new");
    let mode = if secrecy == Secrecy::Owner { 0o600 } else { 0o644 };
    // A file that a cut run left behind may have another mode.
    let _ = std::fs::remove_file(&fresh);
    let mut options = std::fs::OpenOptions::new();
    let mut opened = options.write(true).create_new(true).mode(mode).open(&fresh).map_err(failed())?;
    opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()).map_err(failed())?;
    std::fs::rename(&fresh, file).map_err(failed())
}
