//! Everything that a processor can be told. Every option is documented here, and nowhere else by hand.

use alloy::primitives::Address;
use kms_runtime::config::{Configuration, Endpoint, Problems, SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of `kms-processor`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessorConfig {
    /// How Kafka is reached.
    #[serde(default)]
    pub kafka: KafkaConfig,
    /// Schema registry, if there is one.
    #[serde(default)]
    pub schema_registry: SchemaRegistryConfig,
    /// Logs, metrics and health.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// The chain whose contracts ask.
    pub gateway: GatewaySection,
    /// The KMS Core.
    pub kms_core: KmsCoreConfig,
    /// The KMS node's signer.
    pub signer: SignerConfig,
    /// How ciphertexts are fetched.
    #[serde(default)]
    pub ciphertexts: CiphertextsConfig,
    /// Limits of the lanes.
    #[serde(default)]
    pub lanes: LanesConfig,
}

impl Configuration for ProcessorConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.within("kafka", &self.kafka);
        problems.within("schema_registry", &self.schema_registry);
        problems.within("telemetry", &self.telemetry);
        problems.within("gateway", &self.gateway);
        problems.within("kms_core", &self.kms_core);
        problems.within("signer", &self.signer);
        problems.within("ciphertexts", &self.ciphertexts);
        problems.within("lanes", &self.lanes);
        if self.ciphertexts.max_request_bytes as usize >= self.kms_core.max_message_bytes {
            problems.at(
                "ciphertexts.max_request_bytes",
                "must be below kms_core.max_message_bytes, since one message carries a request's ciphertexts",
            );
        }
    }
}

/// The chain whose contracts ask, and where the coprocessors are registered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GatewaySection {
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
    /// Address of the GatewayConfig contract.
    #[schemars(with = "String", extend("format" = "address"))]
    pub gateway_config: Address,
    /// EIP-712 domain name of the Decryption contract.
    #[serde(default = "decryption_domain")]
    pub decryption_domain_name: String,
    /// EIP-712 domain name of the KMSGeneration contract.
    #[serde(default = "kms_generation_domain")]
    pub kms_generation_domain_name: String,
    /// EIP-712 domain version of both.
    #[serde(default = "domain_version")]
    pub domain_version: String,
    /// Milliseconds that a coprocessor's bucket URL is used before it is read again.
    #[serde(default = "registry_refresh_ms")]
    #[schemars(range(min = 1000))]
    pub registry_refresh_ms: u64,
}

fn decryption_domain() -> String {
    "Decryption".to_owned()
}

fn kms_generation_domain() -> String {
    "KMSGeneration".to_owned()
}

fn domain_version() -> String {
    "1".to_owned()
}

const fn registry_refresh_ms() -> u64 {
    60_000
}

impl Configuration for GatewaySection {
    fn validate(&self, problems: &mut Problems) {
        for (path, address) in [
            ("decryption", self.decryption),
            ("kms_generation", self.kms_generation),
            ("gateway_config", self.gateway_config),
        ] {
            if address.is_zero() {
                problems.at(path, "the zero address is no contract");
            }
        }
        if self.decryption == self.kms_generation {
            problems.at("kms_generation", "is the same address as decryption");
        }
    }
}

/// An EIP-712 domain without its chain id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// `name`.
    pub name: String,
    /// `version`.
    pub version: String,
    /// `verifyingContract`.
    pub contract: Address,
}

/// The KMS Core of this node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KmsCoreConfig {
    /// gRPC endpoints, `http://host:port`. Several are shards: the request's id modulo their number picks one, and a key generation
    /// follows its preprocessing. Their order and number must not change while requests are open.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<Endpoint>,
    /// Milliseconds to connect.
    #[serde(default = "connect_timeout_ms")]
    #[schemars(range(min = 1))]
    pub connect_timeout_ms: u64,
    /// Milliseconds that a call which starts an operation may take.
    #[serde(default = "start_timeout_ms")]
    #[schemars(range(min = 1))]
    pub start_timeout_ms: u64,
    /// Milliseconds that a call which waits for a result may take. KMS Core holds such calls for up to 60 s; shorter values
    /// only mean more calls, and cancelling a call does not cancel the operation.
    #[serde(default = "await_timeout_ms")]
    #[schemars(range(min = 100))]
    pub await_timeout_ms: u64,
    /// Least milliseconds between two calls that ask for the same result.
    #[serde(default = "await_pause_ms")]
    #[schemars(range(min = 1))]
    pub await_pause_ms: u64,
    /// Largest gRPC message in bytes, both directions; KMS Core's own limit is 100 MiB.
    #[serde(default = "max_message_bytes")]
    #[schemars(range(min = 65536))]
    pub max_message_bytes: usize,
}

const fn connect_timeout_ms() -> u64 {
    3_000
}

const fn start_timeout_ms() -> u64 {
    30_000
}

const fn await_timeout_ms() -> u64 {
    70_000
}

const fn await_pause_ms() -> u64 {
    250
}

const fn max_message_bytes() -> usize {
    100 << 20
}

impl Configuration for KmsCoreConfig {
    fn validate(&self, problems: &mut Problems) {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if endpoint.expose().scheme() != "http" {
                problems.at(&format!("endpoints.{index}"), "KMS Core speaks gRPC without TLS: use http://");
            }
        }
    }
}

/// The KMS node's signer, whose key is in KMS Core.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SignerConfig {
    /// Address of the signer. No other signature is published.
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

/// How ciphertexts are fetched from the coprocessors' buckets.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CiphertextsConfig {
    /// Largest object in bytes.
    #[schemars(range(min = 1))]
    pub max_object_bytes: u64,
    /// Most bytes of all ciphertexts of one request; KMS Core takes 100 MiB per message.
    #[schemars(range(min = 1))]
    pub max_request_bytes: u64,
    /// Most bytes of ciphertexts in memory over all requests. One request at a time may exceed it by `max_request_bytes`.
    #[schemars(range(min = 1024))]
    pub max_buffered_bytes: u64,
    /// Objects of one request that are fetched at once.
    #[schemars(range(min = 1, max = 64))]
    pub parallel_per_request: usize,
    /// Rounds over all coprocessors within one attempt.
    #[schemars(range(min = 1, max = 100))]
    pub rounds: u32,
    /// Milliseconds between two rounds.
    pub round_pause_ms: u64,
    /// Milliseconds to connect to a bucket.
    #[schemars(range(min = 1))]
    pub connect_timeout_ms: u64,
    /// Milliseconds without a byte after which a bucket counts as unreachable.
    #[schemars(range(min = 1))]
    pub read_timeout_ms: u64,
    /// Milliseconds for one object.
    #[schemars(range(min = 1))]
    pub object_timeout_ms: u64,
}

impl Default for CiphertextsConfig {
    fn default() -> Self {
        Self {
            max_object_bytes: 66 << 20,
            max_request_bytes: 96 << 20,
            max_buffered_bytes: 512 << 20,
            parallel_per_request: 4,
            rounds: 3,
            round_pause_ms: 200,
            connect_timeout_ms: 3_000,
            read_timeout_ms: 5_000,
            object_timeout_ms: 20_000,
        }
    }
}

impl Configuration for CiphertextsConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.max_object_bytes > self.max_request_bytes {
            problems.at("max_object_bytes", "must not be above max_request_bytes");
        }
    }
}

/// Limits of the lanes. Each lane has a deferred twin for what takes longer than `defer_after_ms`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LanesConfig {
    /// Public and user decryptions.
    pub decryption: LaneConfig,
    /// Preprocessing, key generation, CRS, PRSS, resharing.
    pub key_management: LaneConfig,
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
    /// Requests that are worked on at once.
    #[schemars(range(min = 1, max = 100_000))]
    pub slots: usize,
    /// Requests of the deferred twin that are worked on at once; each only waits, so there can be many.
    #[schemars(range(min = 1, max = 100_000))]
    pub deferred_slots: usize,
    /// Bytes of records held in memory.
    #[schemars(range(min = 1024))]
    pub bytes_in_flight: usize,
    /// Offsets per partition between the lowest unfinished record and the newest one read.
    #[schemars(range(min = 2))]
    pub window: u64,
    /// Milliseconds after which an unfinished request moves to the deferred topic.
    #[schemars(range(min = 1))]
    pub defer_after_ms: u64,
    /// Attempts, counting only those that a healthy dependency answered, after which a request becomes a dead letter.
    #[schemars(range(min = 1))]
    pub max_attempts: u32,
    /// Milliseconds since the first attempt of the deferred twin, outages not counted, after which a request becomes a dead letter; 0 for no limit.
    pub time_limit_ms: u64,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            slots: 512,
            deferred_slots: 10_000,
            bytes_in_flight: 64 << 20,
            window: 200_000,
            defer_after_ms: 60_000,
            max_attempts: 20,
            time_limit_ms: 7 * 24 * 3_600_000,
        }
    }
}

impl Configuration for LaneConfig {
    fn validate(&self, _: &mut Problems) {}
}
