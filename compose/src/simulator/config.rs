//! What can be set. Every key has a default but the signing key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::B256;
use alloy::signers::k256::ecdsa::SigningKey;
use serde::{Deserialize, Serialize};

use super::error::SimulatorError;
use super::faults::Fault;
use super::operation::Operation;
use super::refusal::OperationId;
use super::version::CoreVersion;

/// The signing key's text; never printed.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct PrivateKey(String);

impl PrivateKey {
    /// 32 bytes as hex digits, with or without `0x`.
    #[must_use]
    pub fn new(hex: impl Into<String>) -> Self {
        Self(hex.into())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// Whether the node holds the whole key or a share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One process with the whole key: party 1, degree 0.
    Centralized,
    /// One of several nodes.
    #[default]
    Threshold,
}

/// The simulator's configuration, also as TOML. Times are in milliseconds before `time_scale`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Address of the gRPC services; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Address of the control endpoint; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<SocketAddr>,
    /// Whether `listen` and `control` may be addresses that other machines reach. Neither knows authentication: only for a network
    /// that nobody else is in, as one of containers.
    pub private_network: bool,
    /// The version of KMS Core to be.
    pub version: CoreVersion,
    /// Centralized or threshold.
    pub mode: Mode,
    /// This node's number, from 1; in centralized mode 1.
    pub party_id: u32,
    /// Nodes there are. That they are three times the threshold and one is not demanded.
    pub nodes: u32,
    /// The threshold t: nodes that may be corrupted; it is the degree of the sharing. In centralized mode 0.
    pub threshold: u32,
    /// The signing key: 32 bytes in hex. Either this or `private_key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKey>,
    /// File that holds the signing key in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key_file: Option<PathBuf>,
    /// Directory for what survives a restart of the process (keys, CRSs, the PRSS set-up, contexts, epochs). Absent: memory,
    /// which survives only a restart ordered over the control endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Whether the PRSS set-up (up to 0.13.3) or the default epoch and `epochs` (later) were made before the first start.
    /// Until they are, a threshold node is NOT_SERVING and refuses work.
    pub initialized: bool,
    /// Contexts (64 hex digits) of these same nodes that the node knows before its first start, besides the version's
    /// default context.
    pub contexts: Vec<String>,
    /// Epochs that the node knows before its first start, besides the version's default epoch.
    pub epochs: Vec<EpochConfig>,
    /// FHE keys (64 hex digits) that the node holds from the start, without a key generation: in the default epoch and in
    /// every one of `epochs`.
    pub keys: Vec<String>,
    /// Digests in place of the made-up ones, as hex: by key or CRS id, then by part (`ServerKey`, `PublicKey`,
    /// `CompressedXofKeySet`, `CRS`). A node with other digests than its peers is a faulty one.
    pub digests: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether there is no signing key, so that every start is refused with FAILED_PRECONDITION. Can be switched.
    pub recovery: bool,
    /// Whether the nodes of a new context must be three times its threshold and one. KMS Core always checks; networks of
    /// another size switch it off.
    pub check_node_counts: bool,
    /// Whether decryptions under any key are accepted, known or not.
    pub any_key: bool,
    /// Whether a user's public key must be decodable. KMS Core always checks; tests with made-up keys switch it off.
    pub check_user_keys: bool,
    /// Factor on every latency, wait and time limit: 0.01 makes a minute 600 ms.
    pub time_scale: f64,
    /// How long operations run.
    pub latency_ms: Latencies,
    /// How long a Get holds the call while its operation runs.
    pub wait_ms: Waits,
    /// Sizes and bounds.
    pub limits: Limits,
    /// Plaintexts by handle, as hex of the little-endian bytes; other handles get a plaintext derived from the handle.
    pub plaintexts: BTreeMap<String, String>,
    /// Handles whose decryption fails.
    pub failing_handles: BTreeSet<String>,
    /// Operations (64 hex digits) that fail.
    pub failing_ids: BTreeSet<String>,
    /// Injected failures.
    pub faults: Vec<Fault>,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            control: None,
            private_network: false,
            version: CoreVersion::default(),
            mode: Mode::Threshold,
            party_id: 1,
            nodes: 4,
            threshold: 1,
            private_key: None,
            private_key_file: None,
            state_dir: None,
            initialized: true,
            contexts: vec![],
            epochs: vec![],
            keys: vec![],
            digests: BTreeMap::new(),
            recovery: false,
            check_node_counts: true,
            any_key: false,
            check_user_keys: true,
            time_scale: 1.0,
            latency_ms: Latencies::default(),
            wait_ms: Waits::default(),
            limits: Limits::default(),
            plaintexts: BTreeMap::new(),
            failing_handles: BTreeSet::new(),
            failing_ids: BTreeSet::new(),
            faults: vec![],
        }
    }
}

/// An epoch that a node knows before its first start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EpochConfig {
    /// Its id, 64 hex digits.
    pub id: String,
    /// Its context, the default one or one of `contexts`; absent: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// How long operations run, in milliseconds before `time_scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latencies {
    /// A public decryption.
    pub public_decryption: u64,
    /// A user decryption.
    pub user_decryption: u64,
    /// A preprocessing.
    pub preprocessing: u64,
    /// A key generation.
    pub key_generation: u64,
    /// A CRS generation.
    pub crs_generation: u64,
    /// The PRSS set-up, during which the call is held.
    pub prss_setup: u64,
    /// A resharing.
    pub resharing: u64,
    /// The creation of a context, during which the call is held.
    pub context_creation: u64,
    /// The creation of an epoch.
    pub epoch_creation: u64,
    /// The destruction of a context or an epoch, during which the call is held.
    pub destruction: u64,
    /// Part by which a latency varies with the operation's id: 0.2 makes 100 anything from 80 to 120.
    pub jitter: f64,
}

/// How long a Get holds the call while its operation runs, in milliseconds before `time_scale`. What is absent is as long as
/// in the configured version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Waits {
    /// `GetPublicDecryptionResult`, and `PublicDecryptSync`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_decryption: Option<u64>,
    /// `GetUserDecryptionResult`, and `UserDecryptSync`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_decryption: Option<u64>,
    /// `GetKeyGenPreprocResult`, and in 0.12 `KeyGen` while its preprocessing runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<u64>,
    /// `GetKeyGenResult`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_generation: Option<u64>,
    /// `GetCrsGenResult`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crs_generation: Option<u64>,
    /// `GetResharingResult`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resharing: Option<u64>,
    /// `GetEpochResult`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_creation: Option<u64>,
}

impl Waits {
    /// The same wait for every Get.
    #[must_use]
    pub fn all(milliseconds: u64) -> Self {
        let wait = Some(milliseconds);
        Self {
            public_decryption: wait,
            user_decryption: wait,
            preprocessing: wait,
            key_generation: wait,
            crs_generation: wait,
            resharing: wait,
            epoch_creation: wait,
        }
    }
}

/// Sizes and bounds; the defaults are KMS Core's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Greatest message in either direction, in bytes.
    pub message_bytes: usize,
    /// After this the transport ends a call, in milliseconds before `time_scale`; absent: the version's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// Most entries of each decryption store.
    pub decryption_capacity: usize,
    /// The latest finished decryptions that are never evicted.
    pub decryptions_kept: usize,
    /// Tokens of the bucket, which operations hold until they end.
    pub bucket: u32,
    /// Tokens that each operation takes.
    pub tokens: Tokens,
    /// Most request ids whose calls are recorded.
    pub recorded_ids: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: kms_proto::MAX_MESSAGE_BYTES,
            request_timeout_ms: None,
            decryption_capacity: 10_000,
            decryptions_kept: 6_000,
            bucket: 50_000,
            tokens: Tokens::default(),
            recorded_ids: 100_000,
        }
    }
}

/// Tokens that each operation takes from the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// A public decryption.
    pub public_decryption: u32,
    /// A user decryption.
    pub user_decryption: u32,
    /// A preprocessing: two of them hold the whole default bucket.
    pub preprocessing: u32,
    /// A key generation.
    pub key_generation: u32,
    /// A CRS generation.
    pub crs_generation: u32,
    /// A resharing.
    pub resharing: u32,
    /// The creation of an epoch.
    pub epoch_creation: u32,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            public_decryption: 1,
            user_decryption: 1,
            preprocessing: 25_000,
            key_generation: 1_000,
            crs_generation: 100,
            resharing: 1,
            epoch_creation: 1,
        }
    }
}

impl Tokens {
    pub(super) fn of(&self, operation: Operation) -> u32 {
        match operation {
            Operation::PublicDecryption => self.public_decryption,
            Operation::UserDecryption => self.user_decryption,
            Operation::Preprocessing => self.preprocessing,
            Operation::KeyGeneration => self.key_generation,
            Operation::CrsGeneration => self.crs_generation,
            Operation::Resharing => self.resharing,
            Operation::EpochCreation => self.epoch_creation,
            Operation::PrssSetup | Operation::ContextCreation | Operation::Destruction => 0,
        }
    }
}

impl Waits {
    /// The configured wait.
    fn of(&self, operation: Operation) -> Option<u64> {
        match operation {
            Operation::PublicDecryption => self.public_decryption,
            Operation::UserDecryption => self.user_decryption,
            Operation::Preprocessing => self.preprocessing,
            Operation::KeyGeneration => self.key_generation,
            Operation::CrsGeneration => self.crs_generation,
            Operation::Resharing => self.resharing,
            Operation::EpochCreation => self.epoch_creation,
            Operation::PrssSetup | Operation::ContextCreation | Operation::Destruction => None,
        }
    }
}

impl Latencies {
    /// Milliseconds that an operation with this id runs.
    pub(super) fn of(&self, operation: Operation, id: OperationId) -> f64 {
        let latency = match operation {
            Operation::PublicDecryption => self.public_decryption,
            Operation::UserDecryption => self.user_decryption,
            Operation::Preprocessing => self.preprocessing,
            Operation::KeyGeneration => self.key_generation,
            Operation::CrsGeneration => self.crs_generation,
            Operation::Resharing => self.resharing,
            Operation::PrssSetup => self.prss_setup,
            Operation::ContextCreation => self.context_creation,
            Operation::EpochCreation => self.epoch_creation,
            Operation::Destruction => self.destruction,
        };
        // The last two bytes of an id are a counter; multiplied by an odd number they spread over the range.
        let counter = u16::from_be_bytes([id.0[30], id.0[31]]).wrapping_mul(40_503);
        let around_zero = f64::from(counter) / f64::from(u16::MAX) * 2.0 - 1.0;
        latency as f64 * (1.0 + self.jitter * around_zero)
    }

    pub(super) fn mistakes(&self) -> Option<String> {
        (!(0.0..=1.0).contains(&self.jitter)).then(|| "latency_ms.jitter: not between 0 and 1".to_owned())
    }
}

/// A configuration without mistakes, its texts read.
pub(super) struct Checked {
    pub(super) listen: SocketAddr,
    pub(super) control: Option<SocketAddr>,
    pub(super) version: CoreVersion,
    pub(super) mode: Mode,
    pub(super) party_id: u32,
    pub(super) nodes: u32,
    pub(super) degree: u32,
    pub(super) signing_key: SigningKey,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) initialized: bool,
    /// The contexts that the node knows before its first start.
    pub(super) contexts: Vec<OperationId>,
    /// The epochs that it knows before its first start, with their contexts.
    pub(super) epochs: Vec<(OperationId, OperationId)>,
    pub(super) keys: Vec<OperationId>,
    pub(super) digests: BTreeMap<OperationId, BTreeMap<String, Vec<u8>>>,
    pub(super) recovery: bool,
    pub(super) check_node_counts: bool,
    pub(super) any_key: bool,
    pub(super) check_user_keys: bool,
    pub(super) time_scale: f64,
    pub(super) latency_ms: Latencies,
    wait_ms: Waits,
    pub(super) limits: Limits,
    pub(super) plaintexts: BTreeMap<B256, Vec<u8>>,
    pub(super) failing_handles: BTreeSet<B256>,
    pub(super) failing_ids: BTreeSet<OperationId>,
    pub(super) faults: Vec<Fault>,
}

impl Checked {
    /// A configured number of milliseconds as the time to wait.
    pub(super) fn scaled(&self, milliseconds: f64) -> Duration {
        Duration::try_from_secs_f64(milliseconds * self.time_scale / 1000.0).unwrap_or(Duration::MAX)
    }

    /// How long a Get holds the call.
    pub(super) fn wait(&self, operation: Operation) -> Duration {
        let wait = self.wait_ms.of(operation).unwrap_or_else(|| self.version.wait_ms(self.mode, operation));
        self.scaled(wait as f64)
    }

    /// After this the transport ends a call.
    pub(super) fn request_timeout(&self) -> Duration {
        let timeout = self.limits.request_timeout_ms.unwrap_or_else(|| self.version.request_timeout_ms());
        self.scaled(timeout as f64)
    }
}

impl SimulatorConfig {
    /// A configuration with a signing key and defaults for all else.
    #[must_use]
    pub fn with_key(private_key: impl Into<String>) -> Self {
        Self { private_key: Some(PrivateKey::new(private_key)), ..Self::default() }
    }

    /// Reads a TOML file's text.
    ///
    /// # Errors
    /// The first mistake of form; mistakes of content are found at the start, all at once.
    pub fn from_toml(text: &str) -> Result<Self, SimulatorError> {
        toml::from_str(text).map_err(|error| SimulatorError::Configuration(vec![error.to_string()]))
    }

    /// Checks everything and names every mistake.
    pub(super) fn check(self) -> Result<Checked, SimulatorError> {
        let mut mistakes = vec![];
        for (key, address) in [("listen", Some(self.listen)), ("control", self.control)] {
            if !self.private_network && address.is_some_and(|address| !address.ip().is_loopback()) {
                mistakes.push(format!(
                    "{key}: not a loopback address; the services know no authentication, so set private_network if no stranger can \
                     reach it"
                ));
            }
        }
        if !self.version.has_epochs() && !self.epochs.is_empty() {
            mistakes.push("epochs: v0.12 has none".to_owned());
        }
        match self.mode {
            Mode::Centralized if self.party_id != 1 => mistakes.push("party_id: 1 in centralized mode".to_owned()),
            Mode::Threshold if self.party_id == 0 || self.party_id > self.nodes => {
                mistakes.push(format!("party_id: not from 1 to {} nodes", self.nodes));
            }
            _ => {}
        }
        if self.mode == Mode::Threshold && self.threshold >= self.nodes {
            mistakes.push(format!("threshold: not below {} nodes", self.nodes));
        }
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            mistakes.push("time_scale: not a number above 0".to_owned());
        }
        mistakes.extend(self.latency_ms.mistakes());
        if self.limits.decryptions_kept > self.limits.decryption_capacity {
            mistakes.push("limits.decryptions_kept: more than decryption_capacity".to_owned());
        }
        for (at, fault) in self.faults.iter().enumerate() {
            mistakes.extend(fault.mistakes().into_iter().map(|mistake| format!("faults[{at}].{mistake}")));
        }
        let signing_key = self.signing_key(&mut mistakes);
        let mut ids = |key: &str, texts: &mut dyn Iterator<Item = &String>| -> Vec<OperationId> {
            let read = texts.map(|text| parse_id(text).map_err(|why| mistakes.push(format!("{key}: {why}"))));
            read.filter_map(Result::ok).collect()
        };
        let keys = ids("keys", &mut self.keys.iter());
        let mut contexts = vec![self.version.default_context()];
        contexts.extend(ids("contexts", &mut self.contexts.iter()));
        let failing_ids = ids("failing_ids", &mut self.failing_ids.iter()).into_iter().collect();
        let epochs = self.known_epochs(&contexts, &mut mistakes);
        let mut handle =
            |key: &str, text: &String| parse_handle(text).map_err(|why| mistakes.push(format!("{key}: {why}"))).ok();
        let failing_handles = self.failing_handles.iter().filter_map(|text| handle("failing_handles", text)).collect();
        let plaintext_handles: Vec<_> = self.plaintexts.keys().map(|text| handle("plaintexts", text)).collect();
        let mut plaintexts = BTreeMap::new();
        for (handle, text) in plaintext_handles.into_iter().zip(self.plaintexts.values()) {
            match (handle, parse_bytes(text)) {
                (Some(handle), Ok(bytes)) => drop(plaintexts.insert(handle, bytes)),
                (_, Err(why)) => mistakes.push(format!("plaintexts: {why}")),
                (None, Ok(_)) => {}
            }
        }
        let digests = self.known_digests(&mut mistakes);

        let Some(signing_key) = signing_key.filter(|_| mistakes.is_empty()) else {
            return Err(SimulatorError::Configuration(mistakes));
        };
        Ok(Checked {
            listen: self.listen,
            control: self.control,
            version: self.version,
            mode: self.mode,
            party_id: self.party_id,
            nodes: if self.mode == Mode::Centralized { 1 } else { self.nodes },
            degree: if self.mode == Mode::Centralized { 0 } else { self.threshold },
            signing_key,
            state_dir: self.state_dir,
            initialized: self.initialized,
            contexts,
            epochs,
            keys,
            digests,
            recovery: self.recovery,
            check_node_counts: self.check_node_counts,
            any_key: self.any_key,
            check_user_keys: self.check_user_keys,
            time_scale: self.time_scale,
            latency_ms: self.latency_ms,
            wait_ms: self.wait_ms,
            limits: self.limits,
            plaintexts,
            failing_handles,
            failing_ids,
            faults: self.faults,
        })
    }

    /// The default epoch and the configured ones, with their contexts.
    fn known_epochs(&self, contexts: &[OperationId], mistakes: &mut Vec<String>) -> Vec<(OperationId, OperationId)> {
        let default = (self.version.default_epoch(), self.version.default_context());
        let mut epochs = vec![default];
        for (at, epoch) in self.epochs.iter().enumerate() {
            let context = epoch.context.as_deref().map_or(Ok(default.1), parse_id);
            match (parse_id(&epoch.id), context) {
                (Ok(id), Ok(context)) if contexts.contains(&context) => epochs.push((id, context)),
                (Ok(_), Ok(context)) => mistakes.push(format!("epochs[{at}].context: {context} is not in contexts")),
                (Err(why), _) => mistakes.push(format!("epochs[{at}].id: {why}")),
                (_, Err(why)) => mistakes.push(format!("epochs[{at}].context: {why}")),
            }
        }
        epochs
    }

    fn known_digests(&self, mistakes: &mut Vec<String>) -> BTreeMap<OperationId, BTreeMap<String, Vec<u8>>> {
        const PARTS: [&str; 4] = ["ServerKey", "PublicKey", "CompressedXofKeySet", "CRS"];
        let mut known: BTreeMap<OperationId, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
        for (id, parts) in &self.digests {
            for (part, digest) in parts {
                match (parse_id(id), parse_bytes(digest)) {
                    _ if !PARTS.contains(&part.as_str()) => mistakes.push(format!("digests: there is no part {part}")),
                    (Ok(id), Ok(digest)) => drop(known.entry(id).or_default().insert(part.clone(), digest)),
                    (Err(why), _) | (_, Err(why)) => mistakes.push(format!("digests: {why}")),
                }
            }
        }
        known
    }

    fn signing_key(&self, mistakes: &mut Vec<String>) -> Option<SigningKey> {
        let text = match (&self.private_key, &self.private_key_file) {
            (Some(key), None) => Ok(key.0.clone()),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| format!("private_key_file: cannot read {}: {error}", path.display())),
            (None, None) => Err("private_key: missing; set it or private_key_file".to_owned()),
            (Some(_), Some(_)) => Err("private_key: set together with private_key_file".to_owned()),
        };
        let key = text.and_then(|text| {
            let bytes = parse_bytes(text.trim()).map_err(|_| "private_key: not hex digits".to_owned())?;
            SigningKey::from_slice(&bytes).map_err(|_| "private_key: not a secp256k1 key of 32 bytes".to_owned())
        });
        key.map_err(|mistake| mistakes.push(mistake)).ok()
    }
}

/// Reads an id as KMS Core does.
pub(super) fn parse_id(text: &str) -> Result<OperationId, String> {
    kms_proto::id::parse(text).map(|id| OperationId(id.into())).map_err(|error| format!("{text}: {error}"))
}

/// Reads a 32-byte handle.
pub(super) fn parse_handle(text: &str) -> Result<B256, String> {
    text.parse().map_err(|_| format!("{text}: the handle is not 32 bytes in hex"))
}

/// Reads hex digits with or without `0x`.
pub(super) fn parse_bytes(text: &str) -> Result<Vec<u8>, String> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|error| format!("{text}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named_at_once() {
        let config = SimulatorConfig {
            listen: "0.0.0.0:1".parse().unwrap(),
            party_id: 5,
            threshold: 4,
            time_scale: f64::NAN,
            latency_ms: Latencies { jitter: 2.0, ..Latencies::default() },
            limits: Limits { decryption_capacity: 1, ..Limits::default() },
            contexts: vec!["07".to_owned()],
            epochs: vec![EpochConfig { id: "08".to_owned(), context: None }],
            digests: [("05".to_owned(), [("CRS".to_owned(), "00".to_owned())].into())].into(),
            keys: vec!["04".to_owned()],
            failing_handles: ["0x12".to_owned()].into(),
            plaintexts: [("0x12".to_owned(), "zz".to_owned())].into(),
            faults: vec![Fault::status("Nothing", "OK", 1)],
            ..SimulatorConfig::default()
        };
        let Err(SimulatorError::Configuration(mistakes)) = config.check() else { panic!("no mistake found") };
        for key in [
            "listen",
            "contexts",
            "epochs: v0.12",
            "epochs[0].id",
            "digests",
            "party_id",
            "threshold",
            "time_scale",
            "latency_ms.jitter",
            "limits.decryptions_kept",
            "keys",
            "failing_handles",
            "plaintexts",
            "faults[0].rpc",
            "faults[0].code",
            "private_key",
        ] {
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(key)), "{key} is not in {mistakes:?}");
        }
    }

    #[test]
    fn the_documented_example_is_a_configuration_without_mistakes() {
        let example = SimulatorConfig::from_toml(include_str!("../../simulator.example.toml")).unwrap();
        assert!(example.check().is_ok());
    }

    #[test]
    fn a_configuration_written_as_toml_is_read_back() {
        let mut config = SimulatorConfig::with_key("ab".repeat(32));
        config.faults = vec![Fault::status("CrsGen", "INTERNAL", 1)];
        config.plaintexts = [(format!("0x{}", "01".repeat(32)), "0x00".to_owned())].into();
        let text = toml::to_string_pretty(&config).unwrap();
        let again = SimulatorConfig::from_toml(&text).unwrap();
        assert_eq!(toml::to_string_pretty(&again).unwrap(), text);
        assert!(again.check().is_ok());
    }

    #[test]
    fn an_unknown_key_is_a_mistake() {
        assert!(SimulatorConfig::from_toml("prot = 1").is_err());
        assert!(SimulatorConfig::from_toml("[limits]\nbuckets = 1").is_err());
    }

    #[test]
    fn the_signing_key_is_never_printed() {
        let config = SimulatorConfig::with_key("ab".repeat(32));
        assert!(!format!("{config:?}").contains("abab"));
    }

    #[test]
    fn jitter_stays_within_its_part() {
        let latencies = Latencies { public_decryption: 100, jitter: 0.2, ..Latencies::default() };
        for counter in 0..=u16::MAX {
            let mut id = B256::ZERO;
            id[30..].copy_from_slice(&counter.to_be_bytes());
            let latency = latencies.of(Operation::PublicDecryption, OperationId(id));
            assert!((79.9..=120.1).contains(&latency), "{latency}");
        }
    }
}
