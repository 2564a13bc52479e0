//! The configuration files that the stack writes for the services: complete, and nothing in them but what the services
//! document. `README.md` shows the same ones. Local processes and containers get theirs from here alike; only the facts differ.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;

use super::Generation;
use crate::contracts::{Contracts, Ethereum};
use crate::error::StackError;
use crate::simulator::{CoreVersion, Mode, SimulatorConfig};

/// What the files of one service process are made from.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) bootstrap_servers: &'a str,
    pub(crate) prefix: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) replication_factor: u8,
    pub(crate) registry: Option<&'a str>,
    pub(crate) listen: SocketAddr,
    pub(crate) rpc_urls: &'a [String],
    /// Empty in generation (a).
    pub(crate) ethereum_rpc_urls: &'a [String],
    pub(crate) contracts: &'a Contracts,
    /// Up to which block key management, contexts and epochs are believed.
    pub(crate) key_finality: &'a str,
    pub(crate) kms_core: &'a str,
    pub(crate) core_version: CoreVersion,
    pub(crate) signer: Address,
    pub(crate) wallet: &'a Path,
}

/// `ingest.toml`.
pub(crate) fn ingest(facts: &Facts<'_>) -> String {
    let Contracts { release, gateway_chain_id, first_block, .. } = facts.contracts;
    let mut text = format!(
        r#"# kms-ingest: requests of the contracts to the requests topics.
{common}
[[source]]
id = "gateway"
chain_id = {gateway_chain_id}
rpc_urls = {rpc_urls}
release = "{release}"
finality = "latest"
start_block = {first_block}
poll_interval_ms = 50
{followed}"#,
        common = common(facts),
        rpc_urls = list(facts.rpc_urls),
        followed = followed_on_gateway(facts),
    );
    if let Some(Ethereum { chain_id, first_block, .. }) = facts.contracts.ethereum {
        let _ = write!(
            text,
            r#"
[[source]]
id = "ethereum"
chain_id = {chain_id}
rpc_urls = {rpc_urls}
release = "{release}"
finality = "{finality}"
start_block = {first_block}
poll_interval_ms = 50
{followed}"#,
            rpc_urls = list(facts.ethereum_rpc_urls),
            finality = facts.key_finality,
            followed = followed_on_ethereum(facts),
        );
    }
    text
}

/// `processor.toml`.
pub(crate) fn processor(facts: &Facts<'_>) -> String {
    let Contracts { release, gateway_chain_id, host_chain_id, gateway_config, host_acl, .. } = facts.contracts;
    let mut text = format!(
        r#"# kms-processor: requests to KMS Core, its signed answers to the results topics.
{common}
[gateway]
chain_id = {gateway_chain_id}
rpc_urls = {rpc_urls}
release = "{release}"
key_management_finality = "{finality}"
{followed}gateway_config = "{gateway_config}"
"#,
        common = common(facts),
        rpc_urls = list(facts.rpc_urls),
        finality = facts.key_finality,
        followed = followed_on_gateway(facts),
    );
    let host_urls = match facts.contracts.ethereum {
        None => facts.rpc_urls,
        Some(Ethereum { chain_id, .. }) => {
            let _ = write!(
                text,
                r#"
[ethereum]
chain_id = {chain_id}
rpc_urls = {rpc_urls}
finality = "{finality}"
{followed}"#,
                rpc_urls = list(facts.ethereum_rpc_urls),
                finality = facts.key_finality,
                followed = followed_on_ethereum(facts),
            );
            facts.ethereum_rpc_urls
        }
    };
    let _ = write!(
        text,
        r#"
[[host_chain]]
chain_id = {host_chain_id}
rpc_urls = {rpc_urls}
acl = "{host_acl}"

[access]
pause_ms = 250

[kms_core]
endpoints = ["{kms_core}"]
version = {version}

[signer]
address = "{signer}"
"#,
        rpc_urls = list(host_urls),
        kms_core = facts.kms_core,
        version = name_of(facts.core_version),
        signer = facts.signer,
    );
    text
}

/// `emitter.toml`.
pub(crate) fn emitter(facts: &Facts<'_>) -> String {
    let Contracts { release, gateway_chain_id, .. } = facts.contracts;
    let mut text = format!(
        r#"# kms-emitter: signed answers to the contracts.
{common}
[[destination]]
id = "gateway"
chain_id = {gateway_chain_id}
rpc_urls = {rpc_urls}
release = "{release}"
key_management_finality = "{finality}"
{followed}"#,
        common = common(facts),
        rpc_urls = list(facts.rpc_urls),
        finality = facts.key_finality,
        followed = followed_on_gateway(facts),
    );
    if let Some(Ethereum { chain_id, .. }) = facts.contracts.ethereum {
        let _ = write!(
            text,
            r#"
[[destination]]
id = "ethereum"
chain_id = {chain_id}
rpc_urls = {rpc_urls}
release = "{release}"
key_management_finality = "{finality}"
{followed}"#,
            rpc_urls = list(facts.ethereum_rpc_urls),
            finality = facts.key_finality,
            followed = followed_on_ethereum(facts),
        );
    }
    let _ = write!(
        text,
        r#"
[signer]
address = "{signer}"

[wallet]
private_key_file = {wallet}
"#,
        signer = facts.signer,
        wallet = quoted(&facts.wallet.display().to_string()),
    );
    text
}

/// What the configuration of one node's KMS Core simulator is made from.
#[derive(Clone, Debug)]
pub(crate) struct CoreFacts {
    pub(crate) listen: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) generation: Generation,
    pub(crate) number: usize,
    pub(crate) nodes: usize,
    pub(crate) key_file: PathBuf,
    pub(crate) state_dir: PathBuf,
}

/// The configuration of a KMS Core simulator.
pub(crate) fn core(facts: CoreFacts) -> SimulatorConfig {
    SimulatorConfig {
        listen: facts.listen,
        control: Some(facts.control),
        // A network of containers, unless it is this machine alone.
        private_network: !facts.listen.ip().is_loopback(),
        version: facts.generation.core_version(),
        mode: if facts.nodes == 1 { Mode::Centralized } else { Mode::Threshold },
        party_id: facts.number as u32,
        nodes: facts.nodes as u32,
        threshold: (facts.nodes as u32 - 1) / 3,
        private_key_file: Some(facts.key_file),
        state_dir: Some(facts.state_dir),
        // The applications of a local chain encrypt under keys that no KMS made.
        any_key: true,
        ..SimulatorConfig::default()
    }
}

/// `core.toml`.
pub(crate) fn core_text(config: &SimulatorConfig) -> Result<String, StackError> {
    toml::to_string_pretty(config)
        .map_err(|error| StackError::io("writing a simulator's configuration")(std::io::Error::other(error)))
}

/// `kmsctl.toml`.
pub(crate) fn kmsctl(facts: &Facts<'_>) -> String {
    let mut text = format!("# kmsctl: a look at this node's topics.\n{}", kafka(facts));
    text += &schema_registry(facts);
    text
}

/// The Gateway's contracts, one a line. The key generation moves to the Ethereum host where there is one.
fn followed_on_gateway(facts: &Facts<'_>) -> String {
    let Contracts { decryption, kms_generation, ethereum, .. } = facts.contracts;
    match ethereum {
        None => format!("decryption = \"{decryption}\"\nkms_generation = \"{kms_generation}\"\n"),
        Some(_) => format!("decryption = \"{decryption}\"\n"),
    }
}

/// The Ethereum host's.
fn followed_on_ethereum(facts: &Facts<'_>) -> String {
    let Contracts { kms_generation, ethereum, .. } = facts.contracts;
    let protocol_config = ethereum.map(|ethereum| format!("protocol_config = \"{}\"\n", ethereum.protocol_config));
    format!("kms_generation = \"{kms_generation}\"\n{}", protocol_config.unwrap_or_default())
}

/// The version's name in configuration files, as a TOML string.
fn name_of(version: CoreVersion) -> String {
    toml::Value::try_from(version).map(|name| name.to_string()).unwrap_or_default()
}

/// The sections that all three have.
fn common(facts: &Facts<'_>) -> String {
    let telemetry = format!("\n[telemetry]\nlisten = \"{}\"\n", facts.listen);
    kafka(facts) + &schema_registry(facts) + &telemetry
}

fn kafka(facts: &Facts<'_>) -> String {
    format!(
        r#"
[kafka]
bootstrap_servers = {}
topic_prefix = {}
instance = {}
create_topics = true
replication_factor = {}
"#,
        quoted(facts.bootstrap_servers),
        quoted(facts.prefix),
        quoted(facts.instance),
        facts.replication_factor,
    )
}

fn schema_registry(facts: &Facts<'_>) -> String {
    facts.registry.map_or_else(String::new, |url| format!("\n[schema_registry]\nurl = {}\n", quoted(url)))
}

fn list(urls: &[String]) -> String {
    let urls: Vec<String> = urls.iter().map(|url| quoted(url)).collect();
    format!("[{}]", urls.join(", "))
}

/// A TOML string of any text.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use kms_chain::release::Release;

    use super::*;

    const GENERATION_A: Contracts = Contracts {
        release: Release::V0_11,
        gateway_chain_id: 31_337,
        host_chain_id: 12_345,
        gateway_config: Address::repeat_byte(1),
        ciphertext_commits: Address::repeat_byte(2),
        multichain_acl: Some(Address::repeat_byte(3)),
        decryption: Address::repeat_byte(4),
        kms_generation: Address::repeat_byte(5),
        host_acl: Address::repeat_byte(6),
        first_block: 7,
        ethereum: None,
    };
    const GENERATION_B: Contracts = Contracts {
        release: Release::V0_15,
        multichain_acl: None,
        ethereum: Some(Ethereum { chain_id: 12_345, protocol_config: Address::repeat_byte(9), first_block: 3 }),
        ..GENERATION_A
    };

    fn with_facts<T>(contracts: &Contracts, look: impl FnOnce(&Facts<'_>) -> T) -> T {
        let urls = ["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()];
        let ethereum_urls = ["http://127.0.0.1:5".to_owned()];
        look(&Facts {
            bootstrap_servers: "127.0.0.1:9092",
            prefix: "kms-node-1",
            instance: "0",
            replication_factor: 1,
            registry: Some("http://127.0.0.1:3/apis/ccompat/v7"),
            listen: ([127, 0, 0, 1], 9464).into(),
            rpc_urls: &urls,
            ethereum_rpc_urls: &ethereum_urls,
            contracts,
            key_finality: "finalized",
            kms_core: "http://127.0.0.1:4",
            core_version: CoreVersion::V0_15,
            signer: Address::repeat_byte(8),
            wallet: Path::new("/odd \"path\"\\/wallet.key"),
        })
    }

    fn parsed(text: &str) -> toml::Table {
        text.parse().unwrap_or_else(|error| panic!("{error} in\n{text}"))
    }

    #[test]
    fn every_file_is_toml_whatever_the_paths_hold() {
        for contracts in [GENERATION_A, GENERATION_B] {
            with_facts(&contracts, |facts| {
                for text in [ingest(facts), processor(facts), emitter(facts), kmsctl(facts)] {
                    let value = parsed(&text);
                    assert_eq!(value["kafka"]["topic_prefix"].as_str(), Some("kms-node-1"));
                    assert_eq!(value["schema_registry"]["url"].as_str(), facts.registry);
                }
                let emitter = parsed(&emitter(facts));
                assert_eq!(emitter["wallet"]["private_key_file"].as_str(), facts.wallet.to_str());
                assert_eq!(emitter["destination"][0]["rpc_urls"].as_array().map(Vec::len), Some(2));
                assert_eq!(parsed(&processor(facts))["kms_core"]["version"].as_str(), Some("v0.15"));
            });
        }
    }

    #[test]
    fn generation_b_is_followed_and_answered_on_two_chains() {
        with_facts(&GENERATION_B, |facts| {
            for (text, section) in [(ingest(facts), "source"), (emitter(facts), "destination")] {
                let value = parsed(&text);
                let chains = value[section].as_array().unwrap();
                let ids: Vec<_> = chains.iter().map(|chain| chain["chain_id"].as_integer().unwrap()).collect();
                assert_eq!(ids, [31_337, 12_345]);
                assert!(chains[0].get("kms_generation").is_none() && chains[1].get("decryption").is_none());
                assert!(chains[1].get("kms_generation").is_some() && chains[1].get("protocol_config").is_some());
            }
            let processor = parsed(&processor(facts));
            assert_eq!(processor["ethereum"]["rpc_urls"], processor["host_chain"][0]["rpc_urls"]);
        });
    }
}
