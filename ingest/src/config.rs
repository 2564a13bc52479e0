//! Configuration of ingest.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use alloy::primitives::Address;
use kms_chain::event::ContractSet;
use kms_chain::finality::Finality;
use kms_chain::release::{Release, ReleaseChoice};
use kms_runtime::config::{Configuration, Endpoint, Problems, SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The whole configuration of `kms-ingest`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct IngestConfig {
    /// Kafka.
    #[serde(default)]
    pub kafka: KafkaConfig,
    /// Schema registry.
    #[serde(default)]
    pub schema_registry: SchemaRegistryConfig,
    /// Telemetry.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// The chains to follow.
    #[schemars(length(min = 1))]
    pub source: Vec<SourceConfig>,
}

/// One chain to follow.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SourceConfig {
    /// Name of the source: in its records, its cursor and its transactional id. Never change it.
    #[schemars(length(min = 1, max = 100))]
    pub id: String,
    /// EIP-155 chain id; an endpoint that reports another is not used.
    #[schemars(range(min = 1))]
    pub chain_id: u64,
    /// RPC endpoints; the first is the primary, the others are used while it is down.
    #[schemars(length(min = 1))]
    pub rpc_urls: Vec<Endpoint>,
    /// Address of the `Decryption` contract, on a Gateway. Of the three contracts, at least one is needed.
    #[schemars(with = "Option<String>", extend("format" = "address", "examples" = ["0x0000000000000000000000000000000000000001"]))]
    pub decryption: Option<Address>,
    /// Address of the `KMSGeneration` contract: on the Gateway up to v0.12, on the Ethereum host chain from v0.13 on, as a
    /// source of its own.
    #[schemars(with = "Option<String>", extend("format" = "address", "examples" = ["0x0000000000000000000000000000000000000002"]))]
    pub kms_generation: Option<Address>,
    /// Address of the `ProtocolConfig` contract, on the Ethereum host chain, from v0.13 on: contexts and epochs.
    #[schemars(with = "Option<String>", extend("format" = "address", "examples" = ["0x0000000000000000000000000000000000000003"]))]
    pub protocol_config: Option<Address>,
    /// Release of the contracts, which decides which events are followed: `v0.11` (also for v0.10), `v0.12`, `v0.13`, `v0.14`,
    /// `v0.15`, or `auto` to ask the contracts at start. A configured release that the contracts contradict is refused.
    #[serde(default)]
    #[schemars(with = "String", extend("examples" = ["auto", "v0.11", "v0.15"]))]
    pub release: ReleaseChoice,
    /// Up to which block the chain is followed: `latest`, `safe`, `finalized` or `depth:N`. If absent, `latest` where
    /// `decryption` is followed and `finalized` elsewhere. A reorganisation of blocks that were ingested stops the source.
    #[schemars(with = "Option<String>", extend("format" = "finality"))]
    pub finality: Option<Finality>,
    /// First block to ingest; the head at the first start if absent. Without effect once the source has a cursor.
    pub start_block: Option<u64>,
    /// Start although the source has no cursor and its requests are in the topics already: they are written once more.
    #[serde(default)]
    pub start_without_cursor: bool,
    /// Blocks below the cursor in which, at every start, requests are looked for that are not in the topics: a forged cursor
    /// would skip them. Blocks up to the newest request in the topics are never looked at. 0 believes the cursor.
    #[serde(default = "defaults::verify_cursor_blocks")]
    pub verify_cursor_blocks: u64,
    /// Milliseconds between two looks at the head while there is nothing to do; if absent 100, or 4000 where `finality` is
    /// `safe` or `finalized`, which move once in minutes. Providers count each look.
    #[schemars(range(min = 1, max = 600_000))]
    pub poll_interval_ms: Option<u64>,
    /// Largest range of blocks that is asked for at once. It shrinks by itself where a node refuses it, and grows back.
    #[serde(default = "defaults::max_range_blocks")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_range_blocks: u64,
    /// Number of logs in one answer above which the range shrinks. Bounds memory.
    #[serde(default = "defaults::target_logs")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub target_logs: usize,
    /// Requests in one transaction above which no further blocks join it. One block is never split.
    #[serde(default = "defaults::max_transaction_records")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_transaction_records: usize,
    /// Chunks of blocks that wait for Kafka before reading from the chain pauses.
    #[serde(default = "defaults::queue_chunks")]
    #[schemars(range(min = 1, max = 1000))]
    pub queue_chunks: usize,
    /// Milliseconds between two cursors while blocks hold no requests.
    #[serde(default = "defaults::cursor_interval_ms")]
    #[schemars(range(min = 0, max = 600_000))]
    pub cursor_interval_ms: u64,
    /// Milliseconds that one RPC request may take.
    #[serde(default = "defaults::rpc_timeout_ms")]
    #[schemars(range(min = 100, max = 600_000))]
    pub rpc_timeout_ms: u64,
    /// Longest answer of an RPC endpoint that is read, in bytes.
    #[serde(default = "defaults::max_response_bytes")]
    #[schemars(range(min = 65_536))]
    pub max_response_bytes: usize,
    /// Milliseconds for which the chain must keep contradicting the cursor before the source stops, so that one node on a
    /// short-lived branch does not stop it.
    #[serde(default = "defaults::divergence_grace_ms")]
    #[schemars(range(max = 3_600_000))]
    pub divergence_grace_ms: u64,
}

mod defaults {
    pub(super) const fn verify_cursor_blocks() -> u64 {
        100_000
    }
    pub(super) const fn max_range_blocks() -> u64 {
        2000
    }
    pub(super) const fn target_logs() -> usize {
        10_000
    }
    pub(super) const fn max_transaction_records() -> usize {
        2000
    }
    pub(super) const fn queue_chunks() -> usize {
        8
    }
    pub(super) const fn cursor_interval_ms() -> u64 {
        2000
    }
    pub(super) const fn rpc_timeout_ms() -> u64 {
        10_000
    }
    pub(super) const fn max_response_bytes() -> usize {
        64 << 20
    }
    pub(super) const fn divergence_grace_ms() -> u64 {
        10_000
    }
}

impl SourceConfig {
    /// The followed contracts, of this release.
    pub(crate) fn contracts(&self, release: Release) -> ContractSet {
        let Self { decryption, kms_generation, protocol_config, .. } = *self;
        ContractSet { release, decryption, kms_generation, protocol_config }
    }

    /// Decryptions are served before they are final, as fast as they come; key management, whose reorganisation nobody
    /// could undo, never is.
    pub(crate) fn finality(&self) -> Finality {
        let default = if self.decryption.is_some() { Finality::Latest } else { Finality::Finalized };
        self.finality.unwrap_or(default)
    }

    /// The configured contracts, by their keys.
    fn followed(&self) -> impl Iterator<Item = (&'static str, Address)> {
        let keys = [
            ("decryption", self.decryption),
            ("kms_generation", self.kms_generation),
            ("protocol_config", self.protocol_config),
        ];
        keys.into_iter().filter_map(|(key, address)| Some((key, address?)))
    }

    pub(crate) fn poll_interval(&self) -> Duration {
        let usual = match self.finality() {
            Finality::Latest | Finality::Depth(_) => 100,
            Finality::Safe | Finality::Finalized => 4_000,
        };
        Duration::from_millis(self.poll_interval_ms.unwrap_or(usual))
    }

    pub(crate) fn cursor_interval(&self) -> Duration {
        Duration::from_millis(self.cursor_interval_ms)
    }

    pub(crate) fn divergence_grace(&self) -> Duration {
        Duration::from_millis(self.divergence_grace_ms)
    }
}

impl Configuration for SourceConfig {
    fn validate(&self, problems: &mut Problems) {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !self.id.bytes().all(legal) {
            problems.at("id", format!("`{}` has other characters than letters, digits, `.`, `_` and `-`", self.id));
        }
        let mut seen: Vec<(&str, Address)> = Vec::new();
        for (key, address) in self.followed() {
            if address.is_zero() {
                problems.at(key, "the zero address is no contract");
            } else if let Some((other, _)) = seen.iter().find(|(_, earlier)| *earlier == address) {
                problems.at(key, format!("the same address as {other}"));
            }
            seen.push((key, address));
        }
        if seen.is_empty() {
            problems.at("decryption", "no contract to follow: set decryption, kms_generation or protocol_config");
        }
        if let ReleaseChoice::Is(release) = self.release
            && !release.key_management_on_host()
            && self.protocol_config.is_some()
        {
            problems.at("protocol_config", format!("release {release} has no such contract; it came with v0.13"));
        }
    }
}

impl Configuration for IngestConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.within("kafka", &self.kafka);
        problems.within("schema_registry", &self.schema_registry);
        problems.within("telemetry", &self.telemetry);
        let mut ids = HashSet::new();
        let mut followed = HashMap::new();
        for (index, source) in self.source.iter().enumerate() {
            problems.within(&format!("source.{index}"), source);
            if !ids.insert(&source.id) {
                problems.at(&format!("source.{index}.id"), format!("`{}` names two sources", source.id));
            }
            // Two sources over one contract would write each of its requests twice.
            for (key, address) in source.followed() {
                // Twice in one source is that source's own problem.
                let is_new = followed.insert((source.chain_id, address), index).is_none_or(|by| by == index);
                if !is_new && !address.is_zero() {
                    let text = format!("{address} on chain {} is followed by two sources", source.chain_id);
                    problems.at(&format!("source.{index}.{key}"), text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_runtime::config::{Sources, load};

    use super::*;

    const COMPLETE: &str = r#"
[[source]]
id = "gateway"
chain_id = 31337
rpc_urls = ["http://127.0.0.1:8545/secret-key"]
decryption = "0x1111111111111111111111111111111111111111"
kms_generation = "0x2222222222222222222222222222222222222222"
"#;

    fn of_file(text: &str) -> (tempfile::TempDir, Sources) {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("ingest.toml");
        std::fs::write(&file, text).expect("file");
        (folder, Sources { file: Some(file), ..Sources::default() })
    }

    #[test]
    fn a_source_needs_only_what_cannot_be_guessed() {
        let (_folder, sources) = of_file(COMPLETE);
        let loaded = load::<IngestConfig>(&sources).expect("valid");
        let source = &loaded.config.source[0];
        assert_eq!((source.finality(), source.start_block), (Finality::Latest, None));
        assert_eq!(source.poll_interval(), Duration::from_millis(100));
        let final_one = SourceConfig { finality: Some(Finality::Finalized), ..source.clone() };
        assert_eq!(final_one.poll_interval(), Duration::from_secs(4), "a provider counts each look");
        assert_eq!(source.release, ReleaseChoice::Auto);
        assert_eq!(source.contracts(Release::V0_11).addresses().len(), 2);
    }

    const TWO_CHAINS: &str = r#"
[[source]]
id = "gateway"
chain_id = 31337
rpc_urls = ["http://127.0.0.1:8545"]
decryption = "0x1111111111111111111111111111111111111111"
release = "v0.15"

[[source]]
id = "ethereum"
chain_id = 12345
rpc_urls = ["http://127.0.0.1:8546"]
kms_generation = "0x2222222222222222222222222222222222222222"
protocol_config = "0x3333333333333333333333333333333333333333"
"#;

    #[test]
    fn the_two_chains_of_later_releases_are_two_sources_and_only_the_gateway_is_followed_to_its_head() {
        let (_folder, sources) = of_file(TWO_CHAINS);
        let loaded = load::<IngestConfig>(&sources).expect("valid");
        let [gateway, ethereum] = &loaded.config.source[..] else { panic!("two sources") };
        assert_eq!(gateway.release, ReleaseChoice::Is(Release::V0_15));
        assert_eq!((gateway.finality(), ethereum.finality()), (Finality::Latest, Finality::Finalized));
        // One address may stand on two chains.
        let (_folder, sources) = of_file(&TWO_CHAINS.replace("0x2222", "0x1111").replace("2222", "1111"));
        assert!(load::<IngestConfig>(&sources).is_ok());
    }

    fn problems(text: &str) -> Vec<(String, String)> {
        let (_folder, sources) = of_file(text);
        let errors = load::<IngestConfig>(&sources).expect_err("refused");
        errors.problems().iter().map(|problem| (problem.path.clone(), problem.text.clone())).collect()
    }

    #[test]
    fn a_source_follows_at_least_one_contract_none_twice_and_none_that_its_release_has_not() {
        let none = "[[source]]\nid = \"a\"\nchain_id = 1\nrpc_urls = [\"http://127.0.0.1\"]\n";
        assert!(problems(none)[0].1.contains("no contract to follow"), "{:?}", problems(none));
        let twice = problems(&TWO_CHAINS.replace("3333", "2222"));
        assert_eq!(twice.len(), 1, "{twice:?}");
        assert_eq!(twice[0].0, "source[1].protocol_config");
        let early = problems(&TWO_CHAINS.replace("chain_id = 12345", "chain_id = 12345\nrelease = \"v0.12\""));
        assert!(early[0].1.contains("v0.13"), "{early:?}");
        let unknown = problems(&TWO_CHAINS.replace("v0.15", "v0.16"));
        assert_eq!(unknown[0].0, "source[0].release");
        assert!(unknown[0].1.contains("v0.11 (also for v0.10)"), "{unknown:?}");
    }

    #[test]
    fn keys_inside_rpc_urls_are_not_printed() {
        let (_folder, sources) = of_file(COMPLETE);
        let loaded = load::<IngestConfig>(&sources).expect("valid");
        let printed = loaded.to_toml();
        assert!(printed.contains("http://127.0.0.1:8545"), "{printed}");
        assert!(!printed.contains("secret-key"), "{printed}");
        assert!(!format!("{:?}", loaded.config).contains("secret-key"));
    }

    #[test]
    fn two_sources_over_one_contract_are_refused() {
        let twice = format!("{COMPLETE}{}", COMPLETE.replace("gateway", "again"));
        let (_folder, sources) = of_file(&twice);
        let errors = load::<IngestConfig>(&sources).expect_err("refused");
        let paths: Vec<&str> = errors.problems().iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["source[1].decryption", "source[1].kms_generation"]);
    }

    #[test]
    fn rpc_urls_come_from_a_file_with_one_a_line() {
        let text =
            COMPLETE.replace("rpc_urls = [\"http://127.0.0.1:8545/secret-key\"]", "rpc_urls_file = \"urls.txt\"");
        let (folder, sources) = of_file(&text);
        let write = |urls: &str| std::fs::write(folder.path().join("urls.txt"), urls).expect("file");
        write("  http://127.0.0.1:8545/first-key\n\nhttps://rpc.example.org/second-key\n");
        let loaded = load::<IngestConfig>(&sources).expect("valid");
        let urls = loaded.config.source[0].rpc_urls.iter().map(|url| url.expose().as_str()).collect::<Vec<_>>();
        assert_eq!(urls, ["http://127.0.0.1:8545/first-key", "https://rpc.example.org/second-key"]);
        assert!(!loaded.to_toml().contains("-key"), "{}", loaded.to_toml());

        // What is no URL may be a key in the wrong place.
        for (mistaken, name) in [("\n", "config_value"), ("secret-key", "config_value")] {
            write(mistaken);
            let errors = load::<IngestConfig>(&sources).expect_err("refused");
            let names: Vec<&str> = errors.problems().iter().map(|problem| problem.code.name).collect();
            assert_eq!(names, [name], "{errors}");
            assert!(!errors.to_string().contains("secret-key"), "{errors}");
        }
        std::fs::remove_file(folder.path().join("urls.txt")).expect("a file");
        let errors = load::<IngestConfig>(&sources).expect_err("refused");
        let names: Vec<&str> = errors.problems().iter().map(|problem| problem.code.name).collect();
        assert_eq!(names, ["config_secret_file"], "{errors}");
        let (_folder, sources) = of_file(&text.replace("rpc_urls_file = \"urls.txt\"", ""));
        let errors = load::<IngestConfig>(&sources).expect_err("refused");
        assert!(errors.to_string().contains("source[0].rpc_urls_file"), "both ways are named: {errors}");
    }

    #[test]
    fn mistakes_of_all_kinds_are_reported_at_once() {
        let text = COMPLETE
            .replace("chain_id = 31337", "chain_id = 0\nfinality = \"sometime\"\npol_interval_ms = 5")
            .replace("0x2222222222222222222222222222222222222222", "0x22")
            .replace("id = \"gateway\"", "id = \"a b\"");
        let (_folder, sources) = of_file(&text);
        let errors = load::<IngestConfig>(&sources).expect_err("refused");
        let paths: Vec<&str> = errors.problems().iter().map(|problem| problem.path.as_str()).collect();
        for path in [
            "source[0].chain_id",
            "source[0].finality",
            "source[0].pol_interval_ms",
            "source[0].kms_generation",
            "source[0].id",
        ] {
            assert!(paths.contains(&path), "{path} is not among {errors}");
        }
        assert!(errors.to_string().contains("did you mean `poll_interval_ms`"), "{errors}");
        assert!(errors.problems().iter().all(|problem| problem.origin.contains("ingest.toml:")), "{errors}");
    }
}
