//! Everything that an emitter can be told. Every option is documented here, and nowhere else by hand.

use std::time::Duration;

use alloy::primitives::Address;
use kms_chain::eip712::{Domain, Domains};
use kms_chain::event::ContractSet;
use kms_chain::finality::Finality;
use kms_chain::release::{Release, ReleaseChoice};
use kms_runtime::config::{Configuration, Endpoint, Problems, SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use kms_schemas::identity::{Kind, Lane};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::batch;
use crate::fees::FeePolicy;
use crate::gas::GasPolicy;
use crate::nonce;
use crate::pool::Sends;
use crate::verdict::Patience;
pub use crate::wallet::config::WalletConfig;

/// Configuration of `kms-emitter`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EmitterConfig {
    /// How Kafka is reached.
    #[serde(default)]
    pub kafka: KafkaConfig,
    /// Schema registry, if there is one.
    #[serde(default)]
    pub schema_registry: SchemaRegistryConfig,
    /// Logs, metrics and health.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// The chains that are answered. Results of a chain and contract that no destination names become dead letters by
    /// the first one.
    #[schemars(length(min = 1))]
    pub destination: Vec<DestinationConfig>,
    /// The KMS node's signer.
    pub signer: SignerConfig,
    /// The account that pays.
    pub wallet: WalletConfig,
    /// How answers are sent.
    #[serde(default)]
    pub submission: SubmissionConfig,
    /// Limits of the lanes.
    #[serde(default)]
    pub lanes: LanesConfig,
}

impl Configuration for EmitterConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.within("kafka", &self.kafka);
        problems.within("schema_registry", &self.schema_registry);
        problems.within("telemetry", &self.telemetry);
        for (index, destination) in self.destination.iter().enumerate() {
            problems.within(&format!("destination.{index}"), destination);
        }
        self.validate_side_by_side(problems);
        problems.within("signer", &self.signer);
        problems.within("wallet", &self.wallet);
        problems.within("submission", &self.submission);
        problems.within("lanes", &self.lanes);
    }
}

impl EmitterConfig {
    /// What destinations may not share.
    fn validate_side_by_side(&self, problems: &mut Problems) {
        for (index, destination) in self.destination.iter().enumerate() {
            let before = &self.destination[..index];
            let path = |key: &str| format!("destination.{index}.{key}");
            if before.iter().any(|other| other.id == destination.id) {
                problems.at(&path("id"), format!("`{}` names an earlier destination too", destination.id));
            }
            let on_chain = before.iter().filter(|other| other.chain_id == destination.chain_id);
            for other in on_chain {
                for (key, contract) in destination.named_contracts() {
                    if other.named_contracts().any(|(_, known)| known == contract) {
                        problems.at(&path(key), format!("is answered by destination `{}` already", other.id));
                    }
                }
                if self.account(other).is_some() && self.account(other) == self.account(destination) {
                    let text = "the account sends for an earlier destination of this chain too: one list of nonces cannot \
                                be kept twice; put the contracts into one destination, or give this one a `wallet`";
                    problems.at(&path("chain_id"), text);
                }
            }
        }
    }

    /// The wallet of a destination.
    #[must_use]
    pub fn wallet_of<'a>(&'a self, destination: &'a DestinationConfig) -> &'a WalletConfig {
        destination.wallet.as_ref().unwrap_or(&self.wallet)
    }

    /// How answers are sent to a destination.
    #[must_use]
    pub fn submission_of<'a>(&'a self, destination: &'a DestinationConfig) -> &'a SubmissionConfig {
        destination.submission.as_ref().unwrap_or(&self.submission)
    }

    fn account(&self, destination: &DestinationConfig) -> Option<Address> {
        self.wallet_of(destination).wallet().ok().map(|wallet| wallet.address())
    }
}

/// A chain whose contracts are answered. On the Gateway of generation (a) both `decryption` and `kms_generation` are answered,
/// on later Gateways `decryption` alone; the Ethereum host chain of generation (b) has `kms_generation` and `protocol_config`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DestinationConfig {
    /// Name of the destination in logs, metrics and readiness checks.
    #[serde(default = "destination_id")]
    #[schemars(length(min = 1, max = 100))]
    pub id: String,
    /// EIP-155 chain id.
    #[schemars(range(min = 1))]
    pub chain_id: u64,
    /// JSON-RPC endpoints: the first is the primary, the others take over in order.
    #[schemars(length(min = 1))]
    pub rpc_urls: Vec<Endpoint>,
    /// Address of the `Decryption` contract, where this chain has the one in use.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "address"))]
    pub decryption: Option<Address>,
    /// Address of the `KMSGeneration` contract, where this chain has the one in use.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "address"))]
    pub kms_generation: Option<Address>,
    /// Address of the `ProtocolConfig` contract, on the Ethereum host chain.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "address"))]
    pub protocol_config: Option<Address>,
    /// Release of the contracts: `auto` asks them, and otherwise they are held against it.
    #[serde(default)]
    #[schemars(with = "String", extend("format" = "release"))]
    pub release: ReleaseChoice,
    /// Milliseconds between two looks at the contracts' release; the account is taken up anew when they were upgraded.
    #[serde(default = "release_refresh_ms")]
    #[schemars(range(min = 100))]
    pub release_refresh_ms: u64,
    /// EIP-712 domain name of the `Decryption` contract.
    #[serde(default = "decryption_domain")]
    pub decryption_domain_name: String,
    /// EIP-712 domain name of the `KMSGeneration` contract.
    #[serde(default = "kms_generation_domain")]
    pub kms_generation_domain_name: String,
    /// EIP-712 domain name of the `ProtocolConfig` contract.
    #[serde(default = "protocol_config_domain")]
    pub protocol_config_domain_name: String,
    /// EIP-712 domain version of all.
    #[serde(default = "domain_version")]
    pub domain_version: String,
    /// Up to which block a decryption request counts as made: `latest`, `safe`, `finalized` or `depth:N`. An answer waits
    /// until its request is there.
    #[serde(default)]
    #[schemars(with = "String", extend("format" = "finality"))]
    pub finality: Finality,
    /// The same for requests of key management, contexts and epochs.
    #[serde(default = "key_management_finality")]
    #[schemars(with = "String", extend("format" = "finality"))]
    pub key_management_finality: Finality,
    /// Blocks whose proven requests are remembered, so that the answers to one block's requests cost two calls together.
    #[serde(default = "proof_cache_blocks")]
    #[schemars(range(min = 1, max = 100_000))]
    pub proof_cache_blocks: usize,
    /// Blocks on top of a transaction's block before its nonce is final, or `finalized`: when the node says so. A result is
    /// settled at inclusion either way; what is reorganised away before it is final, and for `journal_memory_s` after, is
    /// sent again. 0 suits chains that do not reorganise.
    #[serde(default)]
    #[schemars(with = "String", extend("type" = ["integer", "string"], "format" = "confirmations"))]
    pub confirmations: Confirmations,
    /// The chain has a pool in which a transaction can be replaced by one that pays more: `true`, `false`, or `auto`, which asks
    /// the nodes at every start of a term. Arbitrum has none: there only what was refused is signed again, and transactions are
    /// sent in the order of their nonces.
    #[serde(default)]
    #[schemars(with = "String", extend("type" = ["boolean", "string"], "format" = "auto or boolean"))]
    pub pool: Auto<bool>,
    /// Milliseconds between two looks at the latest block while answers are on their way.
    #[serde(default = "poll_interval_ms")]
    #[schemars(range(min = 10, max = 60_000))]
    pub poll_interval_ms: u64,
    /// The same while all of them are in blocks and wait to be final: `auto` is 12 000 with `confirmations = "finalized"` and
    /// 1 000 with a number of blocks. A reorganisation in the meantime is noticed so much later.
    #[serde(default)]
    #[schemars(with = "String", extend("type" = ["integer", "string"], "format" = "auto or integer"))]
    pub finality_poll_interval_ms: Auto<u64>,
    /// The same while none is on its way.
    #[serde(default = "idle_poll_interval_ms")]
    #[schemars(range(min = 10, max = 600_000))]
    pub idle_poll_interval_ms: u64,
    /// Blocks whose receipts are read one after the other after an outage; what was mined before them is looked up by
    /// hash.
    #[serde(default = "catch_up_blocks")]
    #[schemars(range(min = 1, max = 10_000))]
    pub catch_up_blocks: u64,
    /// Milliseconds that a call to a node may take.
    #[serde(default = "rpc_timeout_ms")]
    #[schemars(range(min = 100))]
    pub rpc_timeout_ms: u64,
    /// Milliseconds that sending may take. A sequencer holds a transaction back until it is sequenced.
    #[serde(default = "send_timeout_ms")]
    #[schemars(range(min = 100))]
    pub send_timeout_ms: u64,
    /// The account that sends to this chain, in place of `[wallet]`.
    #[serde(default)]
    pub wallet: Option<WalletConfig>,
    /// How answers are sent to this chain, in place of `[submission]`. Keys that are left out have their defaults, not
    /// what `[submission]` says.
    #[serde(default)]
    pub submission: Option<SubmissionConfig>,
}

/// A value, or `auto`: what suits the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AutoText<T>", into = "AutoText<T>")]
#[serde(bound(serialize = "T: Serialize + Clone", deserialize = "T: Deserialize<'de>"))]
pub enum Auto<T> {
    /// What suits the chain.
    #[default]
    Auto,
    /// This, whatever the chain.
    Given(T),
}

impl<T> Auto<T> {
    /// The value, where one is given.
    pub fn given(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Given(value) => Some(value),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AutoText<T> {
    Given(T),
    Text(String),
}

impl<T> TryFrom<AutoText<T>> for Auto<T> {
    type Error = String;

    fn try_from(text: AutoText<T>) -> Result<Self, String> {
        match text {
            AutoText::Given(value) => Ok(Self::Given(value)),
            AutoText::Text(text) if text == "auto" => Ok(Self::Auto),
            AutoText::Text(text) => Err(format!("{text:?} is neither a value nor \"auto\"")),
        }
    }
}

impl<T> From<Auto<T>> for AutoText<T> {
    fn from(auto: Auto<T>) -> Self {
        auto.given().map_or_else(|| Self::Text("auto".to_owned()), Self::Given)
    }
}

/// When a transaction is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ConfirmationsText", into = "String")]
pub enum Confirmations {
    /// So many blocks on top of its block.
    Blocks(u64),
    /// When the node calls its block finalized.
    Finalized,
}

impl Default for Confirmations {
    fn default() -> Self {
        Self::Blocks(0)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfirmationsText {
    Blocks(u64),
    Text(String),
}

impl TryFrom<ConfirmationsText> for Confirmations {
    type Error = String;

    fn try_from(text: ConfirmationsText) -> Result<Self, String> {
        match text {
            ConfirmationsText::Blocks(blocks) => Ok(Self::Blocks(blocks)),
            ConfirmationsText::Text(text) if text == "finalized" => Ok(Self::Finalized),
            ConfirmationsText::Text(text) => {
                let blocks = text.parse().map(Self::Blocks);
                blocks.map_err(|_| format!("{text:?} is neither a number of blocks nor \"finalized\""))
            }
        }
    }
}

impl From<Confirmations> for String {
    fn from(confirmations: Confirmations) -> Self {
        match confirmations {
            Confirmations::Blocks(blocks) => blocks.to_string(),
            Confirmations::Finalized => "finalized".to_owned(),
        }
    }
}

fn destination_id() -> String {
    "gateway".to_owned()
}

fn decryption_domain() -> String {
    kms_chain::eip712::DECRYPTION_DOMAIN_NAME.to_owned()
}

fn kms_generation_domain() -> String {
    kms_chain::eip712::KMS_GENERATION_DOMAIN_NAME.to_owned()
}

fn protocol_config_domain() -> String {
    kms_chain::eip712::PROTOCOL_CONFIG_DOMAIN_NAME.to_owned()
}

fn domain_version() -> String {
    kms_chain::eip712::DOMAIN_VERSION.to_owned()
}

const fn key_management_finality() -> Finality {
    Finality::Finalized
}

const fn proof_cache_blocks() -> usize {
    1_024
}

const fn poll_interval_ms() -> u64 {
    100
}

const fn idle_poll_interval_ms() -> u64 {
    2_000
}

const fn release_refresh_ms() -> u64 {
    10_000
}

const fn catch_up_blocks() -> u64 {
    64
}

const fn rpc_timeout_ms() -> u64 {
    10_000
}

const fn send_timeout_ms() -> u64 {
    30_000
}

impl Configuration for DestinationConfig {
    fn validate(&self, problems: &mut Problems) {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !self.id.bytes().all(is_legal) {
            problems.at("id", format!("`{}` has other characters than letters, digits, `_` and `-`", self.id));
        }
        let contracts: Vec<(&str, Address)> = self.named_contracts().collect();
        for (index, (path, address)) in contracts.iter().enumerate() {
            if address.is_zero() {
                problems.at(path, "the zero address is no contract");
            }
            if let Some((other, _)) = contracts[..index].iter().find(|(_, other)| other == address) {
                problems.at(path, format!("is the same address as {other}"));
            }
        }
        if contracts.is_empty() {
            problems
                .at("decryption", "none of decryption, kms_generation, protocol_config is given: nothing to answer");
        }
        if self.protocol_config.is_some() && self.kms_generation.is_none() {
            problems.at("kms_generation", "required with protocol_config: it names the keys of an epoch");
        }
        if let Some(given) = self.finality_poll_interval_ms.given().filter(|given| !(10..=600_000).contains(given)) {
            problems.at("finality_poll_interval_ms", format!("{given} is not between 10 and 600000"));
        }
        if let Some(wallet) = &self.wallet {
            problems.within("wallet", wallet);
        }
        if let Some(submission) = &self.submission {
            problems.within("submission", submission);
        }
    }
}

impl DestinationConfig {
    /// Milliseconds between two looks while transactions only wait to be final.
    #[must_use]
    pub fn finality_poll_interval_ms(&self) -> u64 {
        /// A block of Ethereum takes as long.
        const SLOT_MS: u64 = 12_000;
        let auto = match self.confirmations {
            Confirmations::Finalized => SLOT_MS,
            Confirmations::Blocks(_) => 1_000,
        };
        self.finality_poll_interval_ms.given().unwrap_or(auto.max(self.poll_interval_ms))
    }

    /// The configured contracts with their keys.
    pub fn named_contracts(&self) -> impl Iterator<Item = (&'static str, Address)> {
        let all = [
            ("decryption", self.decryption),
            ("kms_generation", self.kms_generation),
            ("protocol_config", self.protocol_config),
        ];
        all.into_iter().filter_map(|(key, address)| Some((key, address?)))
    }

    /// The contract that emits requests of this kind and takes their answers.
    #[must_use]
    pub fn contract_of(&self, kind: Kind) -> Option<Address> {
        match kind {
            Kind::PublicDecryption | Kind::UserDecryption => self.decryption,
            Kind::NewKmsContext | Kind::NewKmsEpoch | Kind::KmsContextDestroyed | Kind::KmsEpochDestroyed => {
                self.protocol_config
            }
            Kind::PrepKeygen
            | Kind::Keygen
            | Kind::Crsgen
            | Kind::PrssInit
            | Kind::KeyReshareSameSet
            | Kind::AbortKeygen
            | Kind::AbortCrsgen => self.kms_generation,
        }
    }

    /// Whether results of this lane can be this destination's.
    #[must_use]
    pub fn serves(&self, lane: Lane) -> bool {
        Kind::ALL.iter().any(|kind| kind.lane() == lane && self.contract_of(*kind).is_some())
    }

    /// The contracts, as those of a release.
    #[must_use]
    pub fn contracts(&self, release: Release) -> ContractSet {
        ContractSet {
            release,
            decryption: self.decryption,
            kms_generation: self.kms_generation,
            protocol_config: self.protocol_config,
        }
    }

    /// The domains that answers are signed in.
    #[must_use]
    pub fn domains(&self, release: Release) -> Domains {
        let domain = |name: &str, contract: Address| Domain::new(name, &*self.domain_version, self.chain_id, contract);
        Domains {
            release,
            decryption: self.decryption.map(|contract| domain(&self.decryption_domain_name, contract)),
            kms_generation: self.kms_generation.map(|contract| domain(&self.kms_generation_domain_name, contract)),
            protocol_config: self.protocol_config.map(|contract| domain(&self.protocol_config_domain_name, contract)),
        }
    }
}

/// The KMS node's signer, whose key is in KMS Core.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SignerConfig {
    /// Address of the signer. No other signature is submitted.
    #[schemars(with = "String", extend("format" = "address"))]
    pub address: Address,
}

impl Configuration for SignerConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.address.is_zero() {
            problems.at("address", "the zero address signs nothing");
        }
    }
}

/// Whether answers leave in batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In batches where the sender delegates to an executor of this release, on a chain with a `Decryption` contract; else one by
    /// one.
    #[default]
    Auto,
    /// In batches, on an Ethereum host too; refused where the sender does not delegate.
    Batch,
    /// One by one.
    Single,
}

/// Which answers are tried by a call before they are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Simulate {
    /// None but those that are always tried: of a request that may have been answered before, and while the contract does not
    /// accept this node.
    Never,
    /// These, those whose request is old, and all for a while after the contract refused one.
    #[default]
    Suspicious,
    /// All.
    Always,
}

/// How answers are sent, priced, tried again and given up.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SubmissionConfig {
    /// Whether answers leave in batches: `auto` where the sender delegates to the executor (`kmsctl executor delegate`) and the
    /// chain has a `Decryption` contract, `batch` wherever it delegates and nowhere else, `single` never.
    pub mode: Mode,
    /// Answers in one batch.
    #[schemars(range(min = 1, max = 500))]
    pub batch_answers: usize,
    /// Calldata bytes of one batch. An Arbitrum block takes 85 000 to 95 000 over all senders.
    #[schemars(range(min = 1000))]
    pub batch_bytes: usize,
    /// Transactions on their way, below which an answer leaves at once, alone if need be.
    pub batch_eager: usize,
    /// Milliseconds that an answer waits for a batch to be filled while so many are on their way.
    #[schemars(range(min = 0, max = 10_000))]
    pub batch_linger_ms: u64,
    /// Which answers are tried by a call before they are sent, so that one that would fail costs no gas: `never`, `suspicious`
    /// (its request is old, or the contract refused an answer a moment ago) or `always`. What no node answers in a second is sent
    /// without.
    pub simulate: Simulate,
    /// Blocks after which a request is old.
    #[schemars(range(min = 1))]
    pub simulate_after_blocks: u64,
    /// Milliseconds that all answers are tried after the contract refused one.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub suspicion_ms: u64,
    /// Transactions on their way at once.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_in_flight: usize,
    /// Transactions that are on their way, or mined and not yet final, at once. With as many, as where a chain's finality stops,
    /// answers wait until some are final.
    #[schemars(range(min = 1))]
    pub max_unconfirmed: usize,
    /// Transactions in one request to the node, at most 1000. `auto`: 50, and 1 where the chain has no pool, since there sending
    /// blocks until a transaction is sequenced.
    #[schemars(with = "String", extend("type" = ["integer", "string"], "format" = "auto or integer"))]
    pub send_batch: Auto<usize>,
    /// Such requests at once, at most 256. `auto`: 4, and 8 where the chain has no pool.
    #[schemars(with = "String", extend("type" = ["integer", "string"], "format" = "auto or integer"))]
    pub send_concurrency: Auto<usize>,
    /// Intents in one Kafka transaction.
    #[schemars(range(min = 1, max = 10_000))]
    pub journal_batch: usize,
    /// Seconds that the journal remembers a nonce after it was final, so that a result that comes back finds it.
    #[schemars(range(min = 5, max = 86_400))]
    pub journal_memory_s: u64,
    /// Gas above a decryption's figure, in per cent. The order in which nodes answer alone makes 30.
    #[schemars(range(min = 0, max = 1000))]
    pub decryption_gas_margin_percent: u32,
    /// Gas above a key management answer's figure, in per cent. The one that reaches consensus costs 3.5 times the others.
    #[schemars(range(min = 0, max = 1000))]
    pub key_management_gas_margin_percent: u32,
    /// Gas above the share that a rollup charges for L1, in per cent.
    #[schemars(range(min = 0, max = 1000))]
    pub l1_gas_margin_percent: u32,
    /// Most gas of one transaction. Ethereum takes 16 777 216 at most.
    #[schemars(range(min = 100_000))]
    pub max_gas: u64,
    /// Most wei per gas that is ever offered.
    #[schemars(range(min = 1))]
    pub max_fee_per_gas_wei: u64,
    /// Least priority fee of a first attempt, in wei per gas. Where the chain has a pool it is what the nodes suggest, which they are
    /// asked every `balance_interval_ms`, between this and `priority_fee_max_wei`.
    pub priority_fee_wei: u64,
    /// Most priority fee of a first attempt, in wei per gas; at or below `priority_fee_wei`, no node is asked. A replacement may
    /// offer more, up to `max_fee_per_gas_wei`.
    pub priority_fee_max_wei: u64,
    /// First offer in per cent of the base fee.
    #[schemars(range(min = 100, max = 1000))]
    pub base_fee_percent: u32,
    /// What a replacement offers above its predecessor, in per cent, if the chain does not ask for more. Pools ask for 10.
    #[schemars(range(min = 10, max = 200))]
    pub fee_bump_percent: u32,
    /// Transactions signed for one nonce, replacements included.
    #[schemars(range(min = 1, max = 1000))]
    pub max_variants: usize,
    /// Milliseconds without progress after which the lowest transaction is sent again, as it is, and all others if the node
    /// had lost it.
    #[schemars(range(min = 100))]
    pub resend_after_ms: u64,
    /// Upper end of that, which doubles while nothing moves.
    #[schemars(range(min = 100))]
    pub resend_max_ms: u64,
    /// Rounds of that after which the lowest nonce offers more.
    pub replace_after_rounds: u32,
    /// Milliseconds that an answer is tried again after an error that a lagging node or a reorganisation explains.
    pub brief_retry_ms: u64,
    /// Milliseconds that an answer is tried again while the contract says that it is too early for it.
    pub retryable_limit_ms: u64,
    /// Milliseconds between such tries; doubles up to `retry_pause_max_ms`.
    #[schemars(range(min = 10))]
    pub retry_pause_ms: u64,
    /// Upper end of that doubling.
    #[schemars(range(min = 10))]
    pub retry_pause_max_ms: u64,
    /// Milliseconds that an answer waits for its request to be on the chain that the destination's own nodes show, at the
    /// destination's finality, while these nodes answer.
    #[schemars(range(min = 1000))]
    pub not_yet_patience_ms: u64,
    /// Milliseconds that the destination's own nodes must keep showing another block in the place of the request's before
    /// the answer is settled as retracted; and that they must keep showing the request before a retraction, or an answer that
    /// says "aborted", is given up as contradicted.
    #[schemars(range(min = 100))]
    pub orphan_patience_ms: u64,
    /// Transactions with more gas after one that ran out.
    #[schemars(range(min = 0, max = 10))]
    pub gas_tries: u32,
    /// Transactions after a revert that nothing explains.
    #[schemars(range(min = 0, max = 10))]
    pub unexplained_tries: u32,
    /// Refusals of one nonce's transaction, for a reason other than nonce, fee or funds, before its answer gets a transaction
    /// of its own making anew. Words of a node that this release does not know count only where other transactions were
    /// taken in the meantime: else they are an outage.
    #[schemars(range(min = 1, max = 1000))]
    pub unknown_refusals: u32,
    /// Milliseconds after which such words count even so. Where transactions go in the order of their nonces, one that no node
    /// will ever take holds up all others for so long; an outage that lasts longer costs answers their first transaction.
    #[schemars(range(min = 1000))]
    pub unknown_refusal_limit_ms: u64,
    /// Such new transactions before the answer is given up.
    #[schemars(range(min = 0, max = 100))]
    pub unsendable_tries: u32,
    /// Milliseconds before a transaction is sent again that the node refused for now (a missing nonce, missing funds).
    #[schemars(range(min = 10, max = 60_000))]
    pub refusal_pause_ms: u64,
    /// Milliseconds before a receipt is looked up again that the node did not show.
    #[schemars(range(min = 10, max = 60_000))]
    pub lookup_retry_ms: u64,
    /// Milliseconds before sending goes on after no node took a request; doubles up to `send_pause_max_ms`.
    #[schemars(range(min = 10))]
    pub send_pause_ms: u64,
    /// Upper end of that doubling.
    #[schemars(range(min = 10))]
    pub send_pause_max_ms: u64,
    /// Answers about which the chain is asked in one request.
    #[schemars(range(min = 1, max = 1000))]
    pub question_batch: usize,
    /// Latest blocks that are searched for the node's own response event where the contract says that it has the answer
    /// already. It only adds the transaction's hash to the record.
    #[schemars(range(min = 1))]
    pub evidence_blocks: u64,
    /// Most blocks between a request and its answer in which the answers of other nodes are counted once ours is on the chain, so
    /// that its record tells which of the nodes answered first. 0 asks for none, and the order is unknown.
    #[schemars(range(min = 0, max = 100_000))]
    pub order_blocks: u64,
    /// Milliseconds between two looks at whether the node is registered, after the contract said that it is not; doubles up to
    /// `registration_probe_max_ms`. Meanwhile every further answer is tried by a call before it is sent.
    #[schemars(range(min = 100))]
    pub registration_probe_ms: u64,
    /// Upper end of that doubling.
    #[schemars(range(min = 100))]
    pub registration_probe_max_ms: u64,
    /// Milliseconds that an answer is kept for a registration that would make it valid, before it becomes a dead letter.
    #[schemars(range(min = 1000))]
    pub registration_limit_ms: u64,
    /// Requests whose answers are remembered after their end, so that a result that somebody writes once more costs nothing. A
    /// result that the memory cannot vouch for is tried by a call before it is sent.
    #[schemars(range(min = 100))]
    pub answered_memory: usize,
    /// Gas of a transaction that only fills a gap in the nonces: 21 000, and on a rollup its share of L1.
    #[schemars(range(min = 21_000))]
    pub filler_gas: u64,
    /// Milliseconds between two looks at the account's balance.
    #[schemars(range(min = 1000))]
    pub balance_interval_ms: u64,
}

impl Default for SubmissionConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            batch_answers: 32,
            batch_bytes: 80_000,
            batch_eager: 4,
            batch_linger_ms: 25,
            simulate: Simulate::Suspicious,
            simulate_after_blocks: 1_000,
            suspicion_ms: 10_000,
            max_in_flight: 2_048,
            max_unconfirmed: 65_536,
            send_batch: Auto::Auto,
            send_concurrency: Auto::Auto,
            journal_batch: 500,
            journal_memory_s: 60,
            decryption_gas_margin_percent: 40,
            key_management_gas_margin_percent: 300,
            l1_gas_margin_percent: 100,
            max_gas: 16_777_216,
            max_fee_per_gas_wei: 1_000_000_000_000,
            priority_fee_wei: 1,
            priority_fee_max_wei: 5_000_000_000,
            base_fee_percent: 200,
            fee_bump_percent: 12,
            max_variants: 32,
            resend_after_ms: 3_000,
            resend_max_ms: 15_000,
            replace_after_rounds: 3,
            brief_retry_ms: 60_000,
            retryable_limit_ms: 24 * 60 * 60 * 1000,
            retry_pause_ms: 500,
            retry_pause_max_ms: 60_000,
            not_yet_patience_ms: 60 * 60 * 1000,
            orphan_patience_ms: 30_000,
            gas_tries: 3,
            unexplained_tries: 3,
            unknown_refusals: 5,
            unknown_refusal_limit_ms: 60 * 60 * 1000,
            unsendable_tries: 2,
            refusal_pause_ms: 500,
            lookup_retry_ms: 1_000,
            send_pause_ms: 100,
            send_pause_max_ms: 5_000,
            question_batch: 100,
            evidence_blocks: 5_000,
            order_blocks: 2_000,
            registration_probe_ms: 5_000,
            registration_probe_max_ms: 300_000,
            registration_limit_ms: 7 * 24 * 60 * 60 * 1000,
            answered_memory: 50_000,
            filler_gas: 100_000,
            balance_interval_ms: 30_000,
        }
    }
}

impl Configuration for SubmissionConfig {
    fn validate(&self, problems: &mut Problems) {
        for (upper, most, lower, least) in [
            ("resend_max_ms", self.resend_max_ms, "resend_after_ms", self.resend_after_ms),
            ("retry_pause_max_ms", self.retry_pause_max_ms, "retry_pause_ms", self.retry_pause_ms),
            ("send_pause_max_ms", self.send_pause_max_ms, "send_pause_ms", self.send_pause_ms),
            (
                "registration_probe_max_ms",
                self.registration_probe_max_ms,
                "registration_probe_ms",
                self.registration_probe_ms,
            ),
        ] {
            if most < least {
                problems.at(upper, format!("must not be below {lower}"));
            }
        }
        for (key, given, most) in
            [("send_batch", self.send_batch, 1_000), ("send_concurrency", self.send_concurrency, 256)]
        {
            if let Some(given) = given.given().filter(|given| *given < 1 || *given > most) {
                problems.at(key, format!("{given} is not between 1 and {most}"));
            }
        }
        if self.priority_fee_wei > self.max_fee_per_gas_wei {
            problems.at("priority_fee_wei", "must not be above max_fee_per_gas_wei");
        }
    }
}

impl SubmissionConfig {
    /// How transactions go to the nodes of a chain with or without a pool.
    #[must_use]
    pub fn sends(&self, pool: bool) -> Sends {
        let auto = Sends::suiting(pool);
        Sends {
            batch: self.send_batch.given().unwrap_or(auto.batch),
            concurrency: self.send_concurrency.given().unwrap_or(auto.concurrency),
            pool,
        }
    }

    /// The planner's policy for a chain with or without a pool.
    #[must_use]
    pub fn nonce_policy(&self, destination: &DestinationConfig, sends: Sends) -> nonce::Policy {
        nonce::Policy {
            max_in_flight: self.max_in_flight,
            max_unconfirmed: self.max_unconfirmed,
            batch: self.batch_limits(),
            resend_after_ms: self.resend_after_ms,
            resend_max_ms: self.resend_max_ms,
            replace_after_rounds: sends.pool.then_some(self.replace_after_rounds),
            max_variants: self.max_variants,
            refusal_pause_ms: self.refusal_pause_ms,
            lookup_retry_ms: self.lookup_retry_ms,
            confirmations: match destination.confirmations {
                Confirmations::Blocks(blocks) => nonce::Confirmations::Blocks(blocks),
                Confirmations::Finalized => nonce::Confirmations::Finalized,
            },
            past_memory_ms: 10 * self.journal_memory_s * 1000,
        }
    }

    /// What goes into one transaction where batches are possible.
    #[must_use]
    pub fn batch_limits(&self) -> batch::Limits {
        batch::Limits {
            items: self.batch_answers,
            bytes: self.batch_bytes,
            gas: self.max_gas,
            eager: self.batch_eager,
            linger_ms: self.batch_linger_ms,
        }
    }

    /// The gas policy.
    #[must_use]
    pub fn gas_policy(&self) -> GasPolicy {
        GasPolicy {
            decryption_margin_percent: self.decryption_gas_margin_percent,
            key_management_margin_percent: self.key_management_gas_margin_percent,
            l1_margin_percent: self.l1_gas_margin_percent,
            ceiling: self.max_gas,
        }
    }

    /// Whether the nodes of a chain with or without a pool are asked for the priority fee that is usual.
    #[must_use]
    pub fn asks_priority_fee(&self, pool: bool) -> bool {
        pool && self.priority_fee_max_wei > self.priority_fee_wei
    }

    /// The fee policy.
    #[must_use]
    pub fn fee_policy(&self) -> FeePolicy {
        FeePolicy {
            base_fee_percent: self.base_fee_percent,
            priority: self.priority_fee_wei.into(),
            cap: self.max_fee_per_gas_wei.into(),
            bump_percent: self.fee_bump_percent,
        }
    }

    /// The limits on trying again.
    #[must_use]
    pub fn patience(&self) -> Patience {
        Patience {
            brief_ms: self.brief_retry_ms,
            retryable_ms: self.retryable_limit_ms,
            pause_ms: self.retry_pause_ms,
            max_pause_ms: self.retry_pause_max_ms,
            gas_tries: self.gas_tries,
            unexplained_tries: self.unexplained_tries,
            registration_ms: self.registration_limit_ms,
        }
    }

    /// How long the journal remembers a final nonce.
    #[must_use]
    pub fn journal_memory(&self) -> Duration {
        Duration::from_secs(self.journal_memory_s)
    }
}

/// Limits of both lanes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LanesConfig {
    /// Public and user decryptions.
    pub decryption: LaneConfig,
    /// Preprocessing, keys, CRS, PRSS, resharing, contexts, epochs, aborts.
    pub key_management: LaneConfig,
}

impl Default for LanesConfig {
    fn default() -> Self {
        Self {
            decryption: LaneConfig { slots: 4_000, ..LaneConfig::default() },
            key_management: LaneConfig { slots: 64, ..LaneConfig::default() },
        }
    }
}

impl Configuration for LanesConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.within("decryption", &self.decryption);
        problems.within("key_management", &self.key_management);
    }
}

/// Limits of one lane.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LaneConfig {
    /// Results handled at once: those on their way to the chain, and those that wait for it.
    #[schemars(range(min = 1, max = 100_000))]
    pub slots: usize,
    /// Bytes of results in memory; intake pauses above.
    #[schemars(range(min = 1))]
    pub bytes_in_flight: usize,
    /// Offsets per partition between the lowest unsettled result and the newest one read; intake pauses above.
    #[schemars(range(min = 2))]
    pub window: u64,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self { slots: 64, bytes_in_flight: 64 << 20, window: 200_000 }
    }
}

impl Configuration for LaneConfig {
    fn validate(&self, _: &mut Problems) {}
}

#[cfg(test)]
mod tests {
    use kms_runtime::config::{Sources, load};

    use super::*;

    const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    const SMALLEST: [&str; 6] = [
        "destination.0.chain_id=31337",
        "destination.0.rpc_urls=http://127.0.0.1:8545",
        "destination.0.decryption=0x00000000000000000000000000000000000dec01",
        "destination.0.kms_generation=0x00000000000000000000000000000000000dec02",
        "signer.address=0x0000000000000000000000000000000000000051",
        "wallet.private_key=0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    ];
    /// The Ethereum host chain beside the Gateway.
    const SECOND: [&str; 5] = [
        "destination.1.id=ethereum",
        "destination.1.chain_id=12345",
        "destination.1.rpc_urls=http://127.0.0.1:8546",
        "destination.1.kms_generation=0x00000000000000000000000000000000000dec02",
        "destination.1.protocol_config=0x00000000000000000000000000000000000dec03",
    ];

    fn with(more: &[&str]) -> Sources {
        let set = SMALLEST.iter().chain(more).map(|one| (*one).to_owned()).collect();
        Sources { set, ..Sources::default() }
    }

    fn paths(sources: &Sources) -> Vec<String> {
        let errors = load::<EmitterConfig>(sources).unwrap_err();
        errors.problems().iter().map(|problem| problem.path.clone()).collect()
    }

    #[test]
    fn confirmations_are_a_number_of_blocks_or_the_nodes_word() {
        for (text, confirmations) in [
            ("12", Confirmations::Blocks(12)),
            ("finalized", Confirmations::Finalized),
            ("0", Confirmations::Blocks(0)),
        ] {
            let loaded = load::<EmitterConfig>(&with(&[&format!("destination.0.confirmations={text}")])).unwrap();
            assert_eq!(loaded.config.destination[0].confirmations, confirmations);
        }
        assert!(load::<EmitterConfig>(&with(&["destination.0.confirmations=soon"])).is_err());
    }

    #[test]
    fn chain_signer_and_wallet_are_all_that_has_to_be_given() {
        let loaded = load::<EmitterConfig>(&with(&[])).unwrap();
        assert!(!loaded.to_toml().contains(KEY), "a private key is printed");
        let destination = &loaded.config.destination[0];
        let submission = &loaded.config.submission;
        let policy = submission.nonce_policy(destination, submission.sends(true));
        assert_eq!((policy.confirmations, policy.replace_after_rounds), (nonce::Confirmations::Blocks(0), Some(3)));
        assert_eq!(destination.id, "gateway");
        assert_eq!(
            (destination.finality, destination.key_management_finality),
            (Finality::Latest, Finality::Finalized)
        );
    }

    #[test]
    fn a_chain_without_a_pool_replaces_nothing_and_sends_one_by_one() {
        let config = load::<EmitterConfig>(&with(&[])).unwrap().config;
        let (submission, destination) = (&config.submission, &config.destination[0]);
        assert_eq!(destination.pool, Auto::Auto);
        assert_eq!(submission.nonce_policy(destination, submission.sends(false)).replace_after_rounds, None);
        assert_eq!(submission.sends(false), Sends { pool: false, batch: 1, concurrency: 8 });
        assert_eq!(submission.sends(true), Sends { pool: true, batch: 50, concurrency: 4 });
    }

    #[test]
    fn what_suits_the_chain_gives_way_to_what_is_given() {
        let given = [
            "destination.0.pool=false",
            "submission.send_batch=10",
            "submission.send_concurrency=auto",
            "destination.0.id=gateway",
        ];
        let config = load::<EmitterConfig>(&with(&given)).unwrap().config;
        assert_eq!(config.destination[0].pool, Auto::Given(false));
        assert_eq!(config.submission.sends(false), Sends { pool: false, batch: 10, concurrency: 8 });
        for mistake in ["submission.send_batch=0", "submission.send_concurrency=257", "destination.0.pool=maybe"] {
            assert_eq!(paths(&with(&[mistake])).len(), 1, "{mistake}");
        }
        let printed = load::<EmitterConfig>(&with(&given)).unwrap().to_toml();
        assert!(printed.contains("pool = false") && printed.contains("send_concurrency = \"auto\""), "{printed}");
    }

    #[test]
    fn finality_is_looked_for_seldom() {
        let interval =
            |set: &[&str]| load::<EmitterConfig>(&with(set)).unwrap().config.destination[0].finality_poll_interval_ms();
        assert_eq!(interval(&["destination.0.confirmations=12"]), 1_000);
        assert_eq!(interval(&["destination.0.confirmations=finalized"]), 12_000);
        let given = ["destination.0.confirmations=finalized", "destination.0.finality_poll_interval_ms=500"];
        assert_eq!(interval(&given), 500);
        assert_eq!(
            paths(&with(&["destination.0.finality_poll_interval_ms=1"])),
            ["destination[0].finality_poll_interval_ms"]
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let mistakes = [
            "destination.0.kms_generation=0x00000000000000000000000000000000000dec01",
            "wallet.private_key=nonsense",
            "submission.max_in_flight=0",
            "submission.resend_max_ms=200",
            "submission.surprise=1",
        ];
        let errors = load::<EmitterConfig>(&with(&mistakes)).unwrap_err();
        let paths: Vec<&str> = errors.problems().iter().map(|problem| problem.path.as_str()).collect();
        for path in [
            "destination[0].kms_generation",
            "wallet.private_key",
            "submission.max_in_flight",
            "submission.resend_max_ms",
            "submission.surprise",
        ] {
            assert!(paths.contains(&path), "{path} is not among {paths:?}");
        }
        assert!(!errors.to_string().contains("nonsense"), "a secret is repeated");
    }

    #[test]
    fn a_key_of_another_account_than_the_one_given_is_refused() {
        let wrong = ["wallet.address=0x0000000000000000000000000000000000000001"];
        assert_eq!(paths(&with(&wrong)), ["wallet.address"]);
    }

    /// The configuration with a wallet of another kind.
    fn with_wallet(wallet: &[&str]) -> Sources {
        let set = SMALLEST[..5].iter().chain(wallet).map(|one| (*one).to_owned()).collect();
        Sources { set, ..Sources::default() }
    }

    #[test]
    fn an_account_has_one_key_in_one_place() {
        const KMS: &str = "wallet.aws_kms_key_id=arn:aws:kms:eu-west-3:111122223333:key/1";
        const ADDRESS: &str = "wallet.address=0x0000000000000000000000000000000000000001";
        assert_eq!(paths(&with_wallet(&["wallet.low_balance_gwei=1"])), ["wallet.private_key"]);
        let both = paths(&with_wallet(&[SMALLEST[5], "wallet.keystore={}", KMS, ADDRESS]));
        assert_eq!(both, ["wallet.keystore", "wallet.aws_kms_key_id"]);
        assert_eq!(paths(&with(&["wallet.keystore_password=a"])), ["wallet.keystore_password"]);
        assert_eq!(paths(&with(&["wallet.aws_region=a", "wallet.aws_session_token=b"])).len(), 2);
        assert_eq!(paths(&with_wallet(&["wallet.keystore={}"])), ["wallet.keystore_password"]);
        let secret = "wallet.aws_secret_access_key=a";
        let wrong = with_wallet(&[KMS, "wallet.aws_region=eu-west-1", secret, "submission.max_in_flight=0"]);
        let expected = ["submission.max_in_flight", "wallet.aws_region", "wallet.address", "wallet.aws_access_key_id"];
        assert_eq!(paths(&wrong), expected);

        let config = load::<EmitterConfig>(&with_wallet(&[KMS, ADDRESS])).unwrap().config;
        let wallet = config.wallet.wallet().unwrap();
        assert!(wallet.is_remote() && Some(wallet.address()) == config.wallet.address);
    }

    #[test]
    fn the_same_account_is_known_wherever_its_key_is() {
        let mut set = SECOND.to_vec();
        set.extend([
            "destination.1.chain_id=31337",
            "destination.1.kms_generation=0x00000000000000000000000000000000000dec04",
            "destination.1.wallet.aws_kms_key_id=arn:aws:kms:eu-west-3:111122223333:key/1",
            "destination.1.wallet.address=0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
        ]);
        assert_eq!(paths(&with(&set)), ["destination[1].chain_id"]);
    }

    #[test]
    fn two_chains_share_the_wallet_and_each_may_have_its_own_way_of_sending() {
        let mut set = SECOND.to_vec();
        set.push("destination.1.submission.priority_fee_wei=1000000000");
        let config = load::<EmitterConfig>(&with(&set)).unwrap().config;
        let [gateway, ethereum] = &config.destination[..] else { panic!() };
        assert_eq!(config.account(gateway), config.account(ethereum));
        assert_eq!(config.submission_of(gateway).priority_fee_wei, 1);
        assert_eq!(config.submission_of(ethereum).priority_fee_wei, 1_000_000_000);
        assert!(gateway.serves(Lane::Decryption) && gateway.serves(Lane::KeyManagement));
        assert!(!ethereum.serves(Lane::Decryption) && ethereum.serves(Lane::KeyManagement));
        assert_eq!(ethereum.contract_of(Kind::NewKmsEpoch), ethereum.protocol_config);
        assert_eq!(gateway.contract_of(Kind::NewKmsEpoch), None);
    }

    #[test]
    fn destinations_that_would_take_each_others_nonces_contracts_or_names_are_refused() {
        let mut set = SECOND.to_vec();
        set.extend(["destination.1.id=gateway", "destination.1.chain_id=31337"]);
        let found = paths(&with(&set));
        assert_eq!(found, ["destination[1].id", "destination[1].kms_generation", "destination[1].chain_id"]);

        // An account of its own, and contracts of its own.
        let mut set = SECOND.to_vec();
        set.extend([
            "destination.1.chain_id=31337",
            "destination.1.kms_generation=0x00000000000000000000000000000000000dec04",
            "destination.1.wallet.private_key=0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
        ]);
        assert!(load::<EmitterConfig>(&with(&set)).is_ok());
    }

    #[test]
    fn a_destination_without_contracts_or_with_half_of_a_host_chain_is_refused() {
        let mut set = SECOND.to_vec();
        set.truncate(3);
        assert_eq!(paths(&with(&set)), ["destination[1].decryption"]);
        set.push(SECOND[4]);
        assert_eq!(paths(&with(&set)), ["destination[1].kms_generation"]);
    }
}
