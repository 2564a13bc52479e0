//! Everything that an emitter can be told. Every option is documented here, and nowhere else by hand.

use std::time::Duration;

use alloy::primitives::Address;
use kms_chain::eip712::{Domain, Domains};
use kms_chain::event::ContractSet;
use kms_runtime::config::{Configuration, Endpoint, Problems, SchemaRegistryConfig, Secret, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fees::FeePolicy;
use crate::gas::GasPolicy;
use crate::nonce;
use crate::verdict::Patience;
use crate::wallet::Wallet;

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
    /// The chain that is answered.
    pub destination: DestinationConfig,
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
        problems.within("destination", &self.destination);
        problems.within("signer", &self.signer);
        problems.within("wallet", &self.wallet);
        problems.within("submission", &self.submission);
        problems.within("lanes", &self.lanes);
    }
}

/// The chain whose contracts are answered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DestinationConfig {
    /// EIP-155 chain id.
    #[schemars(range(min = 1))]
    pub chain_id: u64,
    /// JSON-RPC endpoints: the first is the primary, the others take over in order.
    #[schemars(length(min = 1))]
    pub rpc_urls: Vec<Endpoint>,
    /// Address of the Decryption contract.
    #[schemars(with = "String", extend("format" = "address"))]
    pub decryption: Address,
    /// Address of the KMSGeneration contract.
    #[schemars(with = "String", extend("format" = "address"))]
    pub kms_generation: Address,
    /// EIP-712 domain name of the Decryption contract.
    #[serde(default = "decryption_domain")]
    pub decryption_domain_name: String,
    /// EIP-712 domain name of the KMSGeneration contract.
    #[serde(default = "kms_generation_domain")]
    pub kms_generation_domain_name: String,
    /// EIP-712 domain version of both.
    #[serde(default = "domain_version")]
    pub domain_version: String,
    /// Blocks on top of a transaction's block before its nonce is final and its bytes are forgotten. A result is settled at
    /// inclusion either way; 0 suits chains that do not reorganise.
    #[serde(default)]
    pub confirmations: u64,
    /// The chain has a pool in which a transaction can be replaced by one that pays more. Arbitrum has none: there only
    /// what was refused is signed again.
    #[serde(default = "yes")]
    pub pool: bool,
    /// Milliseconds between two looks at the latest block while answers are on their way.
    #[serde(default = "poll_interval_ms")]
    #[schemars(range(min = 10, max = 60_000))]
    pub poll_interval_ms: u64,
    /// The same while none is.
    #[serde(default = "idle_poll_interval_ms")]
    #[schemars(range(min = 10, max = 600_000))]
    pub idle_poll_interval_ms: u64,
    /// Milliseconds that a call to a node may take.
    #[serde(default = "rpc_timeout_ms")]
    #[schemars(range(min = 100))]
    pub rpc_timeout_ms: u64,
    /// Milliseconds that sending may take. A sequencer holds a transaction back until it is sequenced.
    #[serde(default = "send_timeout_ms")]
    #[schemars(range(min = 100))]
    pub send_timeout_ms: u64,
}

fn decryption_domain() -> String {
    kms_chain::eip712::DECRYPTION_DOMAIN_NAME.to_owned()
}

fn kms_generation_domain() -> String {
    kms_chain::eip712::KMS_GENERATION_DOMAIN_NAME.to_owned()
}

fn domain_version() -> String {
    kms_chain::eip712::DOMAIN_VERSION.to_owned()
}

const fn yes() -> bool {
    true
}

const fn poll_interval_ms() -> u64 {
    100
}

const fn idle_poll_interval_ms() -> u64 {
    2_000
}

const fn rpc_timeout_ms() -> u64 {
    10_000
}

const fn send_timeout_ms() -> u64 {
    30_000
}

impl Configuration for DestinationConfig {
    fn validate(&self, problems: &mut Problems) {
        for (path, address) in [("decryption", self.decryption), ("kms_generation", self.kms_generation)] {
            if address.is_zero() {
                problems.at(path, "the zero address is no contract");
            }
        }
        if self.decryption == self.kms_generation {
            problems.at("kms_generation", "is the same address as decryption");
        }
    }
}

impl DestinationConfig {
    /// The contracts.
    #[must_use]
    pub fn contracts(&self) -> ContractSet {
        ContractSet { decryption: self.decryption, kms_generation: self.kms_generation }
    }

    /// The domains that answers are signed in.
    #[must_use]
    pub fn domains(&self) -> Domains {
        let domain = |name: &str, contract| Domain::new(name, &*self.domain_version, self.chain_id, contract);
        Domains {
            decryption: domain(&self.decryption_domain_name, self.decryption),
            kms_generation: domain(&self.kms_generation_domain_name, self.kms_generation),
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

/// The account that sends and pays: the node's registered transaction sender, not its signer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WalletConfig {
    /// Its private key, 32 bytes in hex. Nothing else may use the account while an emitter does.
    pub private_key: Secret,
    /// Its address, to be held against the key.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "address"))]
    pub address: Option<Address>,
    /// Gwei below which the account is reported as low on funds.
    #[serde(default = "low_balance_gwei")]
    pub low_balance_gwei: u64,
}

const fn low_balance_gwei() -> u64 {
    100_000_000
}

impl Configuration for WalletConfig {
    fn validate(&self, problems: &mut Problems) {
        match Wallet::new(&self.private_key) {
            Err(error) => problems.at("private_key", error.to_string()),
            Ok(wallet) => {
                if let Some(wrong) = self.address.filter(|address| *address != wallet.address()) {
                    problems.at("address", format!("is {wrong}, the key belongs to {}", wallet.address()));
                }
            }
        }
    }
}

/// How answers are sent, priced, tried again and given up.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SubmissionConfig {
    /// Transactions on their way at once.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_in_flight: usize,
    /// Transactions in one request to the node. Where sending blocks until a transaction is sequenced, 1 is right.
    #[schemars(range(min = 1, max = 1000))]
    pub send_batch: usize,
    /// Such requests at once.
    #[schemars(range(min = 1, max = 256))]
    pub send_concurrency: usize,
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
    /// Priority fee of a first attempt, in wei per gas.
    pub priority_fee_wei: u64,
    /// First offer in per cent of the base fee.
    #[schemars(range(min = 100, max = 1000))]
    pub base_fee_percent: u32,
    /// What a replacement offers above its predecessor, in per cent. Pools ask for 10.
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
    /// Milliseconds between such tries; doubles up to 60 s.
    #[schemars(range(min = 10))]
    pub retry_pause_ms: u64,
    /// Transactions with more gas after one that ran out.
    #[schemars(range(min = 0, max = 10))]
    pub gas_tries: u32,
    /// Milliseconds between two looks at whether the node is registered, after the contract said that it is not; doubles up to
    /// 5 minutes.
    #[schemars(range(min = 100))]
    pub registration_probe_ms: u64,
}

impl Default for SubmissionConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 2_048,
            send_batch: 50,
            send_concurrency: 4,
            journal_batch: 500,
            journal_memory_s: 60,
            decryption_gas_margin_percent: 40,
            key_management_gas_margin_percent: 300,
            l1_gas_margin_percent: 100,
            max_gas: 16_777_216,
            max_fee_per_gas_wei: 1_000_000_000_000,
            priority_fee_wei: 1,
            base_fee_percent: 200,
            fee_bump_percent: 25,
            max_variants: 32,
            resend_after_ms: 3_000,
            resend_max_ms: 15_000,
            replace_after_rounds: 3,
            brief_retry_ms: 60_000,
            retryable_limit_ms: 24 * 60 * 60 * 1000,
            retry_pause_ms: 500,
            gas_tries: 3,
            registration_probe_ms: 5_000,
        }
    }
}

impl Configuration for SubmissionConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.resend_max_ms < self.resend_after_ms {
            problems.at("resend_max_ms", "must not be below resend_after_ms");
        }
        if self.priority_fee_wei > self.max_fee_per_gas_wei {
            problems.at("priority_fee_wei", "must not be above max_fee_per_gas_wei");
        }
    }
}

impl SubmissionConfig {
    /// The planner's policy.
    #[must_use]
    pub fn nonce_policy(&self, destination: &DestinationConfig) -> nonce::Policy {
        nonce::Policy {
            max_in_flight: self.max_in_flight,
            items_per_transaction: 1,
            resend_after_ms: self.resend_after_ms,
            resend_max_ms: self.resend_max_ms,
            replace_after_rounds: destination.pool.then_some(self.replace_after_rounds),
            max_variants: self.max_variants,
            refusal_pause_ms: 500,
            lookup_retry_ms: 1_000,
            confirmations: destination.confirmations,
            past_memory_ms: 10 * self.journal_memory_s * 1000,
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
            max_pause_ms: 60_000,
            gas_tries: self.gas_tries,
            unexplained_tries: 3,
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
    /// Preprocessing, keys, CRS, PRSS, resharing.
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
        "destination.chain_id=31337",
        "destination.rpc_urls=http://127.0.0.1:8545",
        "destination.decryption=0x00000000000000000000000000000000000dec01",
        "destination.kms_generation=0x00000000000000000000000000000000000dec02",
        "signer.address=0x0000000000000000000000000000000000000051",
        "wallet.private_key=0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    ];

    fn with(more: &[&str]) -> Sources {
        let set = SMALLEST.iter().chain(more).map(|one| (*one).to_owned()).collect();
        Sources { set, ..Sources::default() }
    }

    #[test]
    fn chain_signer_and_wallet_are_all_that_has_to_be_given() {
        let loaded = load::<EmitterConfig>(&with(&[])).unwrap();
        assert!(!loaded.to_toml().contains(KEY), "a private key is printed");
        let policy = loaded.config.submission.nonce_policy(&loaded.config.destination);
        assert_eq!((policy.confirmations, policy.replace_after_rounds), (0, Some(3)));
    }

    #[test]
    fn a_chain_without_a_pool_replaces_nothing() {
        let loaded = load::<EmitterConfig>(&with(&["destination.pool=false"])).unwrap();
        let policy = loaded.config.submission.nonce_policy(&loaded.config.destination);
        assert_eq!(policy.replace_after_rounds, None);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let mistakes = [
            "destination.kms_generation=0x00000000000000000000000000000000000dec01",
            "wallet.private_key=nonsense",
            "submission.max_in_flight=0",
            "submission.resend_max_ms=200",
            "submission.surprise=1",
        ];
        let errors = load::<EmitterConfig>(&with(&mistakes)).unwrap_err();
        let paths: Vec<&str> = errors.problems().iter().map(|problem| problem.path.as_str()).collect();
        for path in [
            "destination.kms_generation",
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
        let errors = load::<EmitterConfig>(&with(&["wallet.address=0x0000000000000000000000000000000000000001"]));
        assert_eq!(errors.unwrap_err().problems()[0].path, "wallet.address");
    }
}
