//! Everything that a processor can be told. Every option is documented here, and nowhere else by hand.

use alloy::primitives::Address;
use kms_chain::eip712::{
    DECRYPTION_DOMAIN_NAME, DOMAIN_VERSION, KMS_GENERATION_DOMAIN_NAME, PROTOCOL_CONFIG_DOMAIN_NAME,
};
use kms_chain::finality::Finality;
use kms_chain::release::{Release, ReleaseChoice};
use kms_runtime::config::{Configuration, Endpoint, Problems, SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use kms_schemas::identity::Lane;
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
    /// The Gateway.
    pub gateway: GatewaySection,
    /// The Ethereum host chain; needed from v0.13 on.
    #[serde(default)]
    pub ethereum: Option<EthereumSection>,
    /// The chains where FHE applications live; needed from v0.12 on.
    #[serde(default)]
    pub host_chain: Vec<HostChainSection>,
    /// What is checked before KMS Core is asked.
    #[serde(default)]
    pub access: AccessConfig,
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
        if let Some(ethereum) = &self.ethereum {
            problems.within("ethereum", ethereum);
            if ethereum.chain_id == self.gateway.chain_id {
                problems.at("ethereum.chain_id", "is the Gateway's chain id");
            }
        }
        for (index, host_chain) in self.host_chain.iter().enumerate() {
            problems.within(&format!("host_chain.{index}"), host_chain);
            if self.host_chain[..index].iter().any(|other| other.chain_id == host_chain.chain_id) {
                problems.at(&format!("host_chain.{index}.chain_id"), "is there twice");
            }
        }
        problems.within("access", &self.access);
        if self.access.check_acl == CheckAcl::Always && self.host_chain.is_empty() {
            problems.at("access.check_acl", "\"always\" needs a [[host_chain]]");
        }
        if let ReleaseChoice::Is(release) = self.gateway.release {
            self.needs_of(release, problems);
        }
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

impl ProcessorConfig {
    /// What a release takes that is told here, and not only by the contracts at the start.
    fn needs_of(&self, release: Release, problems: &mut Problems) {
        let checks_access = !release.gateway_checks_access();
        match self.access.check_acl {
            CheckAcl::Never if checks_access => {
                problems.at("access.check_acl", format!("nobody but the connector checks access rights in {release}"));
            }
            CheckAcl::Auto if checks_access && self.host_chain.is_empty() => {
                let needed =
                    format!("the connector checks access rights in {release}: add a section for each host chain");
                problems.at("host_chain", needed);
            }
            CheckAcl::Auto | CheckAcl::Always | CheckAcl::Never => {}
        }
        if release.key_management_on_host() && self.ethereum.is_none() {
            let needed = format!("keys and contexts of {release} are on the Ethereum host chain: add the section");
            problems.at("ethereum", needed);
        }
        if !release.key_management_on_host() && self.gateway.kms_generation.is_none() {
            problems
                .at("gateway.kms_generation", format!("keys of {release} are generated on the Gateway: it is needed"));
        }
    }
}

/// The Gateway: its contracts ask for decryptions (and, up to v0.12, for keys), and the coprocessors are registered there.
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
    /// Address of the GatewayConfig contract.
    #[schemars(with = "String", extend("format" = "address"))]
    pub gateway_config: Address,
    /// Address of the KMSGeneration contract up to v0.12. From v0.13 on it is on the Ethereum host chain.
    #[schemars(with = "Option<String>", extend("format" = "address"))]
    pub kms_generation: Option<Address>,
    /// Release of the contracts: `auto` asks them, else `v0.11` (also for v0.10), `v0.12`, `v0.13`, `v0.14` or `v0.15`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub release: ReleaseChoice,
    /// Up to which block a decryption is believed: `latest`, `safe`, `finalized` or `depth:N`. Requests that ingest writes before their
    /// block is there wait for it: at `latest` within `access.not_yet_patience_ms`, else within `access.finality_patience_ms`.
    #[serde(default)]
    #[schemars(with = "String", extend("format" = "finality"))]
    pub finality: Finality,
    /// The same for key management up to v0.12: what cannot be undone is not done for a block that may go away.
    #[serde(default = "finalized")]
    #[schemars(with = "String", extend("format" = "finality"))]
    pub key_management_finality: Finality,
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
    /// Milliseconds between two looks at the contracts' release; the processor ends when they were upgraded.
    #[serde(default = "release_refresh_ms")]
    #[schemars(range(min = 100))]
    pub release_refresh_ms: u64,
}

const fn release_refresh_ms() -> u64 {
    60_000
}

fn decryption_domain() -> String {
    DECRYPTION_DOMAIN_NAME.to_owned()
}

fn kms_generation_domain() -> String {
    KMS_GENERATION_DOMAIN_NAME.to_owned()
}

fn protocol_config_domain() -> String {
    PROTOCOL_CONFIG_DOMAIN_NAME.to_owned()
}

fn domain_version() -> String {
    DOMAIN_VERSION.to_owned()
}

const fn finalized() -> Finality {
    Finality::Finalized
}

const fn registry_refresh_ms() -> u64 {
    60_000
}

impl Configuration for GatewaySection {
    fn validate(&self, problems: &mut Problems) {
        let addresses = [("decryption", self.decryption), ("gateway_config", self.gateway_config)];
        for (path, address) in
            addresses.into_iter().chain(self.kms_generation.map(|address| ("kms_generation", address)))
        {
            not_zero(problems, path, address);
        }
        if self.kms_generation == Some(self.decryption) {
            problems.at("kms_generation", "is the same address as decryption");
        }
        if let (Some(_), ReleaseChoice::Is(release)) = (self.kms_generation, self.release)
            && release.key_management_on_host()
        {
            problems
                .at("kms_generation", format!("{release} generates keys on the Ethereum host chain: use [ethereum]"));
        }
    }
}

fn not_zero(problems: &mut Problems, path: &str, address: Address) {
    if address.is_zero() {
        problems.at(path, "the zero address is no contract");
    }
}

/// The Ethereum host chain: from v0.13 on, keys, contexts and epochs come from there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EthereumSection {
    /// EIP-155 chain id.
    #[schemars(range(min = 1))]
    pub chain_id: u64,
    /// JSON-RPC endpoints: the first is the primary, the others take over in order.
    #[schemars(length(min = 1))]
    pub rpc_urls: Vec<Endpoint>,
    /// Address of the KMSGeneration contract.
    #[schemars(with = "String", extend("format" = "address"))]
    pub kms_generation: Address,
    /// Address of the ProtocolConfig contract.
    #[schemars(with = "String", extend("format" = "address"))]
    pub protocol_config: Address,
    /// Up to which block requests of this chain, and the states of contexts and epochs, are believed: `latest`, `safe` or `finalized`.
    /// A depth is none of these, since state is read at it.
    #[serde(default = "finalized")]
    #[schemars(with = "String", extend("format" = "finality"))]
    pub finality: Finality,
    /// EIP-712 domain name of the KMSGeneration contract.
    #[serde(default = "kms_generation_domain")]
    pub kms_generation_domain_name: String,
    /// EIP-712 domain name of the ProtocolConfig contract.
    #[serde(default = "protocol_config_domain")]
    pub protocol_config_domain_name: String,
    /// EIP-712 domain version of both.
    #[serde(default = "domain_version")]
    pub domain_version: String,
}

impl Configuration for EthereumSection {
    fn validate(&self, problems: &mut Problems) {
        if matches!(self.finality, Finality::Depth(_)) {
            problems.at("finality", "must be latest, safe or finalized: state is read at it");
        }
        not_zero(problems, "kms_generation", self.kms_generation);
        not_zero(problems, "protocol_config", self.protocol_config);
        if self.kms_generation == self.protocol_config {
            problems.at("protocol_config", "is the same address as kms_generation");
        }
    }
}

/// A chain where FHE applications live: its access control list says who may have what decrypted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostChainSection {
    /// EIP-155 chain id, as it stands in the handles.
    #[schemars(range(min = 1))]
    pub chain_id: u64,
    /// JSON-RPC endpoints: the first is the primary, the others take over in order.
    #[schemars(length(min = 1))]
    pub rpc_urls: Vec<Endpoint>,
    /// Address of the ACL contract.
    #[schemars(with = "String", extend("format" = "address"))]
    pub acl: Address,
}

impl Configuration for HostChainSection {
    fn validate(&self, problems: &mut Problems) {
        not_zero(problems, "acl", self.acl);
    }
}

/// What is checked before KMS Core is asked, and how long it is waited for what may heal. An outage of a chain is never counted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AccessConfig {
    /// Whether the host chains' access control lists are asked: `always`, `never` (only up to v0.11, whose Gateway has asked already),
    /// or `auto`: where a host chain is configured, and from v0.12 on always.
    pub check_acl: CheckAcl,
    /// Milliseconds that a request waits for access rights that are not there (the host chain may be behind).
    pub acl_patience_ms: u64,
    /// Milliseconds that a decryption waits for ciphertexts and attestations that the coprocessors' buckets do not have, while all of
    /// these answer (the coprocessors may be behind).
    pub ciphertext_patience_ms: u64,
    /// Milliseconds that a request waits for the KMS context and epoch that it names.
    pub context_patience_ms: u64,
    /// Milliseconds that a decryption waits for its block, or for a node that can prove it, where `gateway.finality` is `latest`; and for
    /// the start of its validity.
    pub not_yet_patience_ms: u64,
    /// Milliseconds that a request waits for its block to be final, or for a node that can prove it: one of key management, and a
    /// decryption where `gateway.finality` is not `latest`. To be longer than the chain takes to be final.
    pub finality_patience_ms: u64,
    /// Milliseconds that a request waits whose block is not the chain's any more, or not this node's.
    pub orphan_patience_ms: u64,
    /// Milliseconds between two looks at what a request waits for; for ciphertexts, which are looked for sooner at first, up to four
    /// times as long.
    #[schemars(range(min = 10, max = 60_000))]
    pub pause_ms: u64,
    /// Milliseconds that the state of a context or epoch is used before it is read again. One that was destroyed stays so.
    #[schemars(range(max = 600_000))]
    pub context_refresh_ms: u64,
    /// Gas of the call that asks a user's contract about a signature (ERC-1271).
    #[schemars(range(min = 30_000))]
    pub erc1271_gas: u64,
    /// Blocks whose proof is remembered, per chain and finality.
    #[schemars(range(min = 1, max = 100_000))]
    pub cached_blocks: usize,
    /// Requests whose waiting is remembered.
    #[schemars(range(min = 1000))]
    pub max_waiting: usize,
    /// Offsets of each partition of the requests topics within which a second request under a known identity is recognised. They are read
    /// when the partition is assigned; far more than the requests that a reorganisation can concern.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub identity_memory: u64,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            check_acl: CheckAcl::Auto,
            acl_patience_ms: 300_000,
            ciphertext_patience_ms: 600_000,
            context_patience_ms: 3_600_000,
            not_yet_patience_ms: 600_000,
            finality_patience_ms: 24 * 3_600_000,
            orphan_patience_ms: 30_000,
            pause_ms: 2_000,
            context_refresh_ms: 10_000,
            erc1271_gas: 100_000,
            cached_blocks: 1024,
            max_waiting: 100_000,
            identity_memory: 5_000,
        }
    }
}

impl Configuration for AccessConfig {
    fn validate(&self, _: &mut Problems) {}
}

/// Whether access control lists are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckAcl {
    /// Where a host chain is configured, and from v0.12 on always.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never; only up to v0.11, whose Gateway has asked already.
    Never,
}

/// Version of KMS Core, by what a connector can tell apart. It cannot be read over gRPC (`docs/protocol.md`, "Versions of KMS Core").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum CoreVersion {
    /// v0.12.0 to v0.12.7.
    #[serde(rename = "v0.12")]
    V0_12,
    /// v0.13.0 to v0.13.3.
    #[serde(rename = "v0.13.0")]
    V0_13_0,
    /// v0.13.10 and v0.13.11.
    #[serde(rename = "v0.13.10")]
    V0_13_10,
    /// v0.13.20 to v0.13.22.
    #[serde(rename = "v0.13.20")]
    V0_13_20,
    /// v0.14.
    #[serde(rename = "v0.14")]
    V0_14,
    /// v0.15.
    #[serde(rename = "v0.15")]
    V0_15,
}

impl CoreVersion {
    /// The version that a release of the contracts is run with.
    #[must_use]
    pub const fn of(release: Release) -> Self {
        match release {
            // v0.10 was run with v0.12 and v0.11 with v0.13, and the contracts of both look alike. What v0.13 needs more, a look for the key
            // before the first decryption under it, v0.12 answers as well.
            Release::V0_11 => Self::V0_13_0,
            Release::V0_12 => Self::V0_13_10,
            Release::V0_13 => Self::V0_13_20,
            Release::V0_14 => Self::V0_14,
            Release::V0_15 => Self::V0_15,
        }
    }
}

/// The KMS Core of this node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KmsCoreConfig {
    /// gRPC endpoints, `http://host:port`. Several are shards: the request's id modulo their number picks one, and a key generation
    /// follows its preprocessing. Their order and number must not change while requests are open.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<Endpoint>,
    /// Version of the KMS Core: `v0.12`, `v0.13.0`, `v0.13.10`, `v0.13.20`, `v0.14` or `v0.15`, each standing for the later ones up to the
    /// next. Absent: the one that the contracts' release is run with.
    #[serde(default)]
    pub version: Option<CoreVersion>,
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
    /// Milliseconds up to which that pause grows, where KMS Core answers at once that there is no result yet.
    #[serde(default = "await_pause_max_ms")]
    #[schemars(range(min = 1))]
    pub await_pause_max_ms: u64,
    /// Milliseconds between two looks at a decryption that KMS Core holds as pending for ever (v0.13).
    #[serde(default = "stuck_poll_ms")]
    #[schemars(range(min = 1000))]
    pub stuck_poll_ms: u64,
    /// Milliseconds after which a KMS Core that lets every call run into its deadline counts as unreachable. Without effect where
    /// `await_timeout_ms` is below the 60 s for which a healthy one holds a call.
    #[serde(default = "unresponsive_after_ms")]
    #[schemars(range(min = 1000))]
    pub unresponsive_after_ms: u64,
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

const fn await_pause_max_ms() -> u64 {
    5_000
}

const fn unresponsive_after_ms() -> u64 {
    180_000
}

const fn stuck_poll_ms() -> u64 {
    300_000
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
    /// Objects of all requests whose bodies are read at once.
    #[schemars(range(min = 1, max = 10_000))]
    pub objects_in_flight: usize,
    /// Milliseconds for one attestation of a ciphertext, from v0.15 on.
    #[schemars(range(min = 1))]
    pub attestation_timeout_ms: u64,
    /// Attestations that one bucket is asked for at once.
    #[schemars(range(min = 1, max = 10_000))]
    pub attestations_per_bucket: usize,
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
            objects_in_flight: 16,
            attestation_timeout_ms: 5_000,
            attestations_per_bucket: 64,
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
    /// Attempts, counting only those that a healthy dependency answered, after which a request becomes a dead letter. Absent: 20 for
    /// decryptions, and no limit for key management, whose requests are not made a second time and may need every node: they are tried
    /// again after ever longer pauses, up to 2 minutes, until `time_limit_ms` is over.
    #[schemars(range(min = 1))]
    pub max_attempts: Option<u32>,
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
            max_attempts: None,
            time_limit_ms: 7 * 24 * 3_600_000,
        }
    }
}

impl Configuration for LaneConfig {
    fn validate(&self, _: &mut Problems) {}
}

impl LaneConfig {
    /// Attempts after which a request of this lane becomes a dead letter.
    #[must_use]
    pub fn attempts(&self, lane: Lane) -> u32 {
        self.max_attempts.unwrap_or(match lane {
            Lane::Decryption => 20,
            Lane::KeyManagement => u32::MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use kms_runtime::config::{Sources, load};

    use super::*;

    const SMALLEST: [&str; 6] = [
        "gateway.chain_id=31337",
        "gateway.rpc_urls=http://127.0.0.1:8545",
        "gateway.decryption=0x00000000000000000000000000000000000dec01",
        "gateway.gateway_config=0x00000000000000000000000000000000000dec02",
        "kms_core.endpoints=http://127.0.0.1:50051",
        "signer.address=0x0000000000000000000000000000000000000051",
    ];
    const ETHEREUM: [&str; 4] = [
        "ethereum.chain_id=12345",
        "ethereum.rpc_urls=http://127.0.0.1:8546",
        "ethereum.kms_generation=0x00000000000000000000000000000000000dec03",
        "ethereum.protocol_config=0x00000000000000000000000000000000000dec04",
    ];
    const HOST: [&str; 3] = [
        "host_chain.0.chain_id=12345",
        "host_chain.0.rpc_urls=http://127.0.0.1:8546",
        "host_chain.0.acl=0x00000000000000000000000000000000000dec05",
    ];

    fn with(more: &[&str]) -> Sources {
        let set = SMALLEST.iter().chain(more).map(|one| (*one).to_owned()).collect();
        Sources { set, ..Sources::default() }
    }

    fn paths(more: &[&str]) -> Vec<String> {
        let errors = load::<ProcessorConfig>(&with(more)).unwrap_err();
        errors.problems().iter().map(|problem| problem.path.clone()).collect()
    }

    #[test]
    fn gateway_core_and_signer_are_all_that_has_to_be_given() {
        let config = load::<ProcessorConfig>(&with(&[])).unwrap().config;
        assert_eq!(config.gateway.release, ReleaseChoice::Auto);
        assert_eq!(config.gateway.finality, Finality::Latest);
        assert_eq!(config.gateway.key_management_finality, Finality::Finalized);
        assert!(config.ethereum.is_none() && config.host_chain.is_empty() && config.kms_core.version.is_none());
        assert_eq!(config.access.check_acl, CheckAcl::Auto);
    }

    #[test]
    fn several_chains_are_given_each_with_its_contracts() {
        let all: Vec<&str> = ETHEREUM.into_iter().chain(HOST).chain(["kms_core.version=v0.13.20"]).collect();
        let config = load::<ProcessorConfig>(&with(&all)).unwrap().config;
        assert_eq!(config.ethereum.map(|ethereum| ethereum.finality), Some(Finality::Finalized));
        assert_eq!(config.host_chain[0].chain_id, 12_345);
        assert_eq!(config.kms_core.version, Some(CoreVersion::V0_13_20));
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        assert_eq!(paths(&["access.check_acl=always"]), ["access.check_acl"]);
        let moved = ["gateway.release=v0.14", "gateway.kms_generation=0x00000000000000000000000000000000000dec03"];
        let moved: Vec<&str> = ETHEREUM.into_iter().chain(HOST).chain(moved).collect();
        assert_eq!(paths(&moved), ["gateway.kms_generation"]);
        assert_eq!(paths(&["gateway.release=v0.9"]), ["gateway.release"]);
        assert_eq!(paths(&["kms_core.version=v0.11"]), ["kms_core.version"]);
        let same = [&ETHEREUM[..], &["ethereum.chain_id=31337"]].concat();
        assert_eq!(paths(&same), ["ethereum.chain_id"]);
        let depth = [&ETHEREUM[..], &["ethereum.finality=depth:5"]].concat();
        assert_eq!(paths(&depth), ["ethereum.finality"]);
        let second = HOST.map(|one| one.replace(".0.", ".1."));
        let twice: Vec<&str> = HOST.into_iter().chain(second.iter().map(String::as_str)).collect();
        assert_eq!(paths(&twice), ["host_chain[1].chain_id"]);
        let zero = [&HOST[..2], &["host_chain.0.acl=0x0000000000000000000000000000000000000000"]].concat();
        assert_eq!(paths(&zero), ["host_chain[0].acl"]);
    }

    #[test]
    fn key_management_is_given_up_by_time_and_decryptions_by_attempts() {
        let of = |more: &[&str]| load::<ProcessorConfig>(&with(more)).unwrap().config.lanes;
        let lanes = of(&["lanes.key_management.slots=3"]);
        assert_eq!(lanes.decryption.attempts(Lane::Decryption), 20);
        assert_eq!(lanes.key_management.attempts(Lane::KeyManagement), u32::MAX);
        assert!(lanes.key_management.time_limit_ms > 0);
        let limited = of(&["lanes.key_management.max_attempts=3", "lanes.decryption.max_attempts=4"]);
        assert_eq!(limited.decryption.attempts(Lane::Decryption), 4);
        assert_eq!(limited.key_management.attempts(Lane::KeyManagement), 3);
        assert_eq!(paths(&["lanes.key_management.max_attempts=0"]), ["lanes.key_management.max_attempts"]);
    }

    #[test]
    fn what_a_configured_release_needs_is_refused_before_the_start() {
        let generation = "gateway.kms_generation=0x00000000000000000000000000000000000dec03";
        assert_eq!(paths(&["gateway.release=v0.11"]), ["gateway.kms_generation"]);
        assert_eq!(paths(&["gateway.release=v0.12", generation]), ["host_chain"]);
        assert_eq!(paths(&["gateway.release=v0.14"]), ["host_chain", "ethereum"]);
        let never: Vec<&str> = HOST.into_iter().chain(["gateway.release=v0.12", generation]).collect();
        assert!(load::<ProcessorConfig>(&with(&never)).is_ok());
        assert_eq!(paths(&[&never[..], &["access.check_acl=never"]].concat()), ["access.check_acl"]);
        assert!(load::<ProcessorConfig>(&with(&["gateway.release=v0.11", generation])).is_ok());
    }

    #[test]
    fn every_release_has_its_kms_core() {
        let versions = Release::ALL.map(CoreVersion::of);
        assert!(versions.is_sorted(), "{versions:?}");
        assert!(
            CoreVersion::of(Release::V0_11).leaves_ids_stuck(),
            "mainnet's is a v0.13, and a check too much harms nobody"
        );
    }
}
