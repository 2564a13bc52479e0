//! The configuration files that the stack writes for the services: complete, and nothing in them but what the services
//! document. `README.md` shows the same ones.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use alloy::primitives::Address;

use crate::contracts::Contracts;

/// What the files of one service process are made from.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) bootstrap_servers: &'a str,
    pub(super) prefix: &'a str,
    pub(super) instance: &'a str,
    pub(super) replication_factor: u8,
    pub(super) registry: Option<&'a str>,
    pub(super) listen: SocketAddr,
    pub(super) rpc_urls: &'a [String],
    pub(super) contracts: &'a Contracts,
    pub(super) kms_core: &'a str,
    pub(super) signer: Address,
    pub(super) wallet: &'a Path,
}

/// `ingest.toml`.
pub(super) fn ingest(facts: &Facts<'_>) -> String {
    let Contracts { gateway_chain_id, decryption, kms_generation, first_block, .. } = facts.contracts;
    format!(
        r#"# kms-ingest: requests of the contracts to the requests topics.
{common}
[[source]]
id = "gateway"
chain_id = {gateway_chain_id}
rpc_urls = {rpc_urls}
finality = "latest"
start_block = {first_block}
poll_interval_ms = 50
decryption = "{decryption}"
kms_generation = "{kms_generation}"
"#,
        common = common(facts),
        rpc_urls = list(facts.rpc_urls),
    )
}

/// `processor.toml`.
pub(super) fn processor(facts: &Facts<'_>) -> String {
    let Contracts { gateway_chain_id, decryption, kms_generation, gateway_config, .. } = facts.contracts;
    format!(
        r#"# kms-processor: requests to KMS Core, its signed answers to the results topics.
{common}
[gateway]
chain_id = {gateway_chain_id}
rpc_urls = {rpc_urls}
decryption = "{decryption}"
kms_generation = "{kms_generation}"
gateway_config = "{gateway_config}"

[kms_core]
endpoints = ["{kms_core}"]

[signer]
address = "{signer}"
"#,
        common = common(facts),
        rpc_urls = list(facts.rpc_urls),
        kms_core = facts.kms_core,
        signer = facts.signer,
    )
}

/// `emitter.toml`.
pub(super) fn emitter(facts: &Facts<'_>) -> String {
    let Contracts { gateway_chain_id, decryption, kms_generation, .. } = facts.contracts;
    format!(
        r#"# kms-emitter: signed answers to the contracts.
{common}
[[destination]]
chain_id = {gateway_chain_id}
rpc_urls = {rpc_urls}
decryption = "{decryption}"
kms_generation = "{kms_generation}"

[signer]
address = "{signer}"

[wallet]
private_key_file = {wallet}
"#,
        common = common(facts),
        rpc_urls = list(facts.rpc_urls),
        signer = facts.signer,
        wallet = quoted(&facts.wallet.display().to_string()),
    )
}

/// The sections that all three have.
fn common(facts: &Facts<'_>) -> String {
    let mut text = format!(
        r#"
[kafka]
bootstrap_servers = "{}"
topic_prefix = {}
instance = {}
create_topics = true
replication_factor = {}
"#,
        facts.bootstrap_servers,
        quoted(facts.prefix),
        quoted(facts.instance),
        facts.replication_factor,
    );
    if let Some(url) = facts.registry {
        let _ = write!(text, "\n[schema_registry]\nurl = \"{url}\"\n");
    }
    let _ = write!(text, "\n[telemetry]\nlisten = \"{}\"\n", facts.listen);
    text
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
    use super::*;

    const CONTRACTS: Contracts = Contracts {
        gateway_chain_id: 31_337,
        host_chain_id: 12_345,
        gateway_config: Address::repeat_byte(1),
        ciphertext_commits: Address::repeat_byte(2),
        multichain_acl: Address::repeat_byte(3),
        decryption: Address::repeat_byte(4),
        kms_generation: Address::repeat_byte(5),
        host_acl: Address::repeat_byte(6),
        first_block: 7,
    };

    #[test]
    fn every_file_is_toml_whatever_the_paths_hold() {
        let urls = ["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()];
        let facts = Facts {
            bootstrap_servers: "127.0.0.1:9092",
            prefix: "kms-node-1",
            instance: "0",
            replication_factor: 1,
            registry: Some("http://127.0.0.1:3/apis/ccompat/v7"),
            listen: ([127, 0, 0, 1], 9464).into(),
            rpc_urls: &urls,
            contracts: &CONTRACTS,
            kms_core: "http://127.0.0.1:4",
            signer: Address::repeat_byte(8),
            wallet: Path::new("/odd \"path\"\\/wallet.key"),
        };
        for text in [ingest(&facts), processor(&facts), emitter(&facts)] {
            let value: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error} in\n{text}"));
            assert_eq!(value["kafka"]["topic_prefix"].as_str(), Some("kms-node-1"));
            assert_eq!(value["schema_registry"]["url"].as_str(), facts.registry);
        }
        let emitter: toml::Table = emitter(&facts).parse().unwrap();
        assert_eq!(emitter["wallet"]["private_key_file"].as_str(), facts.wallet.to_str());
        assert_eq!(emitter["destination"][0]["rpc_urls"].as_array().map(Vec::len), Some(2));
    }
}
