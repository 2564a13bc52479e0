//! The chains that requests come from, and the check of the deployment at start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy::primitives::Address;
use kms_chain::authority::Authority;
use kms_chain::eip712::{Domain, Domains};
use kms_chain::event::ContractSet;
use kms_chain::finality::Finality;
use kms_chain::release::{Release, ReleaseChoice, ReleaseError, detect_release, resolve_release, version};
use kms_chain::rpc::{BlockId, EndpointUrl, Rpc, RpcConfig};
use kms_chain::views::{DomainError, ViewError, check_domain};
use kms_runtime::config::Endpoint;
use kms_runtime::shutdown::{Exit, Stopped};
use kms_runtime::stage::Answered;
use kms_schemas::identity::Lane;

use crate::codes;
use crate::config::{CheckAcl, ProcessorConfig};
use crate::error::Trouble;

/// The Gateway's name in outages.
pub const GATEWAY: &str = "gateway_rpc";

/// The Ethereum host chain's name in outages.
pub const ETHEREUM: &str = "ethereum_rpc";

/// The host chains' name in outages.
pub const HOST_CHAIN: &str = "host_chain_rpc";

/// A chain that asks, with the contracts that are served there.
#[derive(Clone, Debug)]
pub struct ServedChain {
    /// Its name in outages.
    pub dependency: &'static str,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Its nodes.
    pub rpc: Rpc,
    /// The contracts.
    pub contracts: ContractSet,
    /// Up to which block key management is believed.
    pub finality: Finality,
    /// Proves decryptions.
    decryptions: Authority,
    /// Proves key management.
    key_management: Authority,
}

impl ServedChain {
    /// Decryptions are believed up to `latest`, key management up to `finality`; each remembers so many blocks.
    #[must_use]
    pub fn new(
        dependency: &'static str,
        chain_id: u64,
        rpc: Rpc,
        contracts: ContractSet,
        latest: Finality,
        finality: Finality,
        cached_blocks: usize,
    ) -> Self {
        let key_management = Authority::new(rpc.clone(), finality, cached_blocks);
        let decryptions = if latest == finality {
            key_management.clone()
        } else {
            Authority::new(rpc.clone(), latest, cached_blocks)
        };
        Self { dependency, chain_id, rpc, contracts, finality, decryptions, key_management }
    }

    /// Who proves requests of a lane.
    #[must_use]
    pub const fn authority(&self, lane: Lane) -> &Authority {
        match lane {
            Lane::Decryption => &self.decryptions,
            Lane::KeyManagement => &self.key_management,
        }
    }

    /// The block at which state is read for key management.
    #[must_use]
    pub fn view_block(&self) -> BlockId {
        view_block(self.finality)
    }
}

/// The block tag of a finality. A depth has none: what is final stands for it.
fn view_block(finality: Finality) -> BlockId {
    match finality {
        Finality::Latest => BlockId::latest(),
        Finality::Safe => BlockId::safe(),
        Finality::Finalized | Finality::Depth(_) => BlockId::finalized(),
    }
}

/// A client of one chain.
///
/// # Errors
/// An URL is none, or no HTTP client can be built.
pub fn rpc(name: &str, chain_id: u64, urls: &[Endpoint]) -> Result<Rpc, String> {
    let urls = urls.iter().map(|url| EndpointUrl::parse(url.expose().as_str())).collect::<Result<Vec<_>, _>>();
    let mut config = RpcConfig::new(name, urls.map_err(|error| format!("{name}: {error}"))?);
    config.chain_id = Some(chain_id);
    Rpc::new(config).map_err(|error| format!("{name}: {error}"))
}

/// The clients of every configured chain. A host chain that is also the Ethereum host chain, at the same endpoints, shares its client.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The Gateway's.
    pub gateway: Rpc,
    /// The Ethereum host chain's.
    pub ethereum: Option<Rpc>,
    /// The host chains', in the order of the configuration.
    pub host_chains: Vec<Rpc>,
}

impl Clients {
    /// As configured. Connects to nothing yet.
    ///
    /// # Errors
    /// As [`rpc`].
    pub fn new(config: &ProcessorConfig) -> Result<Self, String> {
        let gateway = rpc("gateway", config.gateway.chain_id, &config.gateway.rpc_urls)?;
        let ethereum =
            config.ethereum.as_ref().map(|section| rpc("ethereum", section.chain_id, &section.rpc_urls)).transpose()?;
        let shown = |urls: &[Endpoint]| urls.iter().map(|url| url.expose().to_string()).collect::<Vec<_>>();
        let mut host_chains = Vec::new();
        for section in &config.host_chain {
            let same = config.ethereum.as_ref().is_some_and(|ethereum| {
                ethereum.chain_id == section.chain_id && shown(&ethereum.rpc_urls) == shown(&section.rpc_urls)
            });
            host_chains.push(match &ethereum {
                Some(ethereum) if same => ethereum.clone(),
                _ => rpc(&format!("host-{}", section.chain_id), section.chain_id, &section.rpc_urls)?,
            });
        }
        Ok(Self { gateway, ethereum, host_chains })
    }

    /// One endpoint of another chain is passed over; when all are, waiting does not help.
    async fn refuse_foreign_chains(&self) -> Result<(), DeploymentError> {
        for rpc in [&self.gateway].into_iter().chain(&self.ethereum).chain(&self.host_chains) {
            if let Some(found) = rpc.foreign_chain().await {
                return Err(DeploymentError::ForeignChain { chain: rpc.config().name.clone(), found });
            }
        }
        Ok(())
    }
}

/// That the Gateway itself checks access rights, as up to v0.11: looked at for every block with a request, since an upgrade ends it, and
/// from then on nobody but the connector checks.
#[derive(Debug)]
pub struct GatewayAccess {
    rpc: Rpc,
    contracts: ContractSet,
    /// Every block up to here is of such a release. Releases only go up.
    known: AtomicU64,
}

impl GatewayAccess {
    /// Of the Gateway with this `Decryption` contract.
    #[must_use]
    pub fn new(rpc: Rpc, decryption: Address) -> Self {
        let contracts = ContractSet::gateway(Release::V0_11, decryption);
        Self { rpc, contracts, known: AtomicU64::new(0) }
    }

    /// The Gateway still checked at this block: only a version that was read, and is known, says so. The configured release
    /// is the operator's word of the day on which it was written.
    ///
    /// # Errors
    /// [`Trouble::Outage`]: it does not, nobody knows, or nobody answers. Nothing is decrypted until somebody has looked
    /// into it.
    pub async fn check(&self, block: u64, answered: &Answered) -> Result<(), Trouble> {
        if block <= self.known.load(Ordering::Relaxed) {
            return Ok(());
        }
        let outage = |code, text: String| Trouble::outage(code, GATEWAY, text);
        match detect_release(&self.rpc.needing(block), &self.contracts).await {
            Ok(release) if release.gateway_checks_access() => {
                answered.by(GATEWAY);
                self.known.fetch_max(block, Ordering::Relaxed);
                Ok(())
            }
            Ok(release) => Err(outage(
                codes::RELEASE_CHANGED,
                format!(
                    "the Gateway was upgraded to {release}, which checks no access rights: start the processor again"
                ),
            )),
            Err(error) if error.is_outage() => Err(outage(error.code(), error.to_string())),
            Err(error) => Err(outage(
                codes::RELEASE_CHANGED,
                format!("nobody knows whether the Gateway checks access rights: {error}"),
            )),
        }
    }
}

/// What the contracts say of themselves, once they have been asked.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Release of the contracts.
    pub release: Release,
    /// What the Gateway's `Decryption` contract calls itself; none where it does not say.
    pub version: Option<String>,
    /// The contracts on the Gateway.
    pub gateway: ContractSet,
    /// The contracts on the Ethereum host chain, where the release has any.
    pub ethereum: Option<ContractSet>,
    /// Domains of what is signed.
    pub domains: Domains,
    /// Whether access control lists are asked.
    pub checks_acl: bool,
}

/// Why a deployment is not served.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// The release is not known, or not served.
    #[error("{chain}: {source}")]
    Release {
        /// Name of the chain.
        chain: &'static str,
        /// Why.
        source: ReleaseError,
    },
    /// A domain differs from the configured one, or cannot be read.
    #[error("{chain}: {source}")]
    Domain {
        /// Name of the chain.
        chain: &'static str,
        /// Why.
        source: DomainError,
    },
    /// A contract could not be looked for.
    #[error("{chain}: {source}")]
    Unreadable {
        /// Name of the chain.
        chain: String,
        /// Why.
        source: kms_chain::rpc::RpcError,
    },
    /// There is no contract.
    #[error("{chain}: there is no contract at {contract} ({what})")]
    Missing {
        /// Name of the chain.
        chain: String,
        /// Key of the configuration.
        what: &'static str,
        /// The address.
        contract: Address,
    },
    /// Every endpoint serves another chain.
    #[error("{chain}: every RPC endpoint answers, and none serves the configured chain id; one has {found}")]
    ForeignChain {
        /// Name of the chain.
        chain: String,
        /// A chain id that was reported.
        found: u64,
    },
    /// The configuration does not fit.
    #[error("{0}")]
    Mismatch(String),
}

impl DeploymentError {
    /// Whether the contracts have not spoken: wait and ask again. A contract that is not deployed yet is waited for as well.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Release { source: ReleaseError::View(error), .. }
            | Self::Domain { source: DomainError::View(error), .. } => {
                !error.is_answer() || matches!(error, ViewError::NoContract { .. })
            }
            Self::Unreadable { .. } | Self::Missing { .. } => true,
            Self::Release { .. } | Self::Domain { .. } | Self::ForeignChain { .. } | Self::Mismatch(_) => false,
        }
    }

    /// How the process ends if this is what ends it.
    #[must_use]
    pub fn stopped(&self) -> Stopped {
        Stopped { exit: Exit::Refused, code: self.code(), text: self.to_string() }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Release { source, .. } => source.code(),
            Self::Domain { source: DomainError::View(error), .. } => error.code(),
            Self::Domain { source: DomainError::Mismatch { .. }, .. } => kms_chain::codes::DOMAIN_MISMATCH,
            Self::Unreadable { source, .. } => source.code(),
            Self::ForeignChain { .. } => kms_chain::codes::RPC_WRONG_CHAIN,
            Self::Missing { .. } | Self::Mismatch(_) => codes::DEPLOYMENT_MISMATCH,
        }
    }
}

/// Returns when the Gateway's contracts are not those of the start any more, with what they are. `version` is what its
/// `Decryption` contract called itself then: where the release is configured, an upgrade to a version that is not known
/// here shows in nothing else.
pub async fn upgraded(config: &ProcessorConfig, rpc: &Rpc, release: Release, version: Option<&str>) -> String {
    let section = &config.gateway;
    let contracts = ContractSet::gateway(release, section.decryption);
    loop {
        tokio::time::sleep(Duration::from_millis(section.release_refresh_ms)).await;
        let Ok(now) = kms_chain::release::version(rpc, section.decryption, BlockId::latest()).await else { continue };
        if version == Some(now.as_str()) {
            continue;
        }
        match resolve_release(rpc, &contracts, section.release).await {
            Ok(found) if found == release => {
                return format!("the Gateway's Decryption contract was upgraded, and calls itself {now:?} now");
            }
            Ok(found) => return format!("the Gateway was upgraded from {release} to {found}"),
            Err(ReleaseError::View(_)) => {}
            Err(error) => return format!("the Gateway was upgraded: {error}"),
        }
    }
}

impl Deployment {
    /// Asks the contracts, and holds the configuration against what they say.
    ///
    /// # Errors
    /// See [`DeploymentError`].
    pub async fn detect(config: &ProcessorConfig, clients: &Clients) -> Result<Self, DeploymentError> {
        let detected = Self::ask(config, clients).await;
        if detected.as_ref().is_err_and(|error| error.code() == kms_chain::codes::RPC_WRONG_CHAIN) {
            clients.refuse_foreign_chains().await?;
        }
        detected
    }

    async fn ask(config: &ProcessorConfig, clients: &Clients) -> Result<Self, DeploymentError> {
        let section = &config.gateway;
        let gateway = ContractSet {
            // Not looked at while the release is asked for.
            release: Release::V0_11,
            decryption: Some(section.decryption),
            kms_generation: section.kms_generation,
            protocol_config: None,
        };
        let release = resolve_release(&clients.gateway, &gateway, section.release)
            .await
            .map_err(|source| DeploymentError::Release { chain: "gateway", source })?;
        let gateway = gateway.with_release(release);
        let version = stated_version(&clients.gateway, section.decryption).await?;
        let checks_acl = checks_acl(config, release)?;
        if !checks_acl {
            gateway_checks(&clients.gateway, section.decryption).await?;
        }
        let ethereum = Self::ethereum(config, clients, release).await?;
        if !release.key_management_on_host() && section.kms_generation.is_none() {
            return Err(DeploymentError::Mismatch(format!(
                "the Gateway runs {release}, which generates keys there: set gateway.kms_generation"
            )));
        }
        exists(&clients.gateway, "gateway", "gateway.gateway_config", section.gateway_config).await?;
        if checks_acl {
            for (section, rpc) in config.host_chain.iter().zip(&clients.host_chains) {
                let chain = format!("host chain {}", section.chain_id);
                exists(rpc, &chain, "host_chain.acl", section.acl).await?;
            }
        }
        let domains = domains(config, release, ethereum.as_ref());
        let of_generation = match (&ethereum, &clients.ethereum) {
            (Some(_), Some(rpc)) => ("ethereum", rpc),
            _ => ("gateway", &clients.gateway),
        };
        for ((chain, rpc), domain) in
            [(("gateway", &clients.gateway), &domains.decryption), (of_generation, &domains.kms_generation)]
        {
            if let Some(domain) = domain {
                check_domain(rpc, domain).await.map_err(|source| DeploymentError::Domain { chain, source })?;
            }
        }
        Ok(Self { release, version, gateway, ethereum, domains, checks_acl })
    }

    async fn ethereum(
        config: &ProcessorConfig,
        clients: &Clients,
        release: Release,
    ) -> Result<Option<ContractSet>, DeploymentError> {
        if !release.key_management_on_host() {
            return Ok(None);
        }
        let (Some(section), Some(rpc)) = (&config.ethereum, &clients.ethereum) else {
            return Err(DeploymentError::Mismatch(format!(
                "the Gateway runs {release}, whose keys and contexts are on the Ethereum host chain: add the section [ethereum]"
            )));
        };
        let contracts = ContractSet::host(release, section.kms_generation, section.protocol_config);
        resolve_release(rpc, &contracts, ReleaseChoice::Is(release))
            .await
            .map_err(|source| DeploymentError::Release { chain: "ethereum", source })?;
        Ok(Some(contracts))
    }
}

/// What a contract of the Gateway calls itself; none where it does not say.
async fn stated_version(rpc: &Rpc, contract: Address) -> Result<Option<String>, DeploymentError> {
    match version(rpc, contract, BlockId::latest()).await {
        Ok(version) => Ok(Some(version)),
        Err(error) if error.is_answer() => Ok(None),
        Err(error) => Err(DeploymentError::Release { chain: "gateway", source: error.into() }),
    }
}

/// Where nobody else checks access rights, the Gateway must be known to: the operator's word for its release does not do.
async fn gateway_checks(rpc: &Rpc, decryption: Address) -> Result<(), DeploymentError> {
    match detect_release(rpc, &ContractSet::gateway(Release::V0_11, decryption)).await {
        Ok(release) if release.gateway_checks_access() => Ok(()),
        Ok(release) => Err(DeploymentError::Mismatch(format!(
            "the Gateway runs {release}, in which the connector checks access rights: add a section [[host_chain]] for each host chain"
        ))),
        Err(ReleaseError::Unsupported { version, .. }) => Err(DeploymentError::Mismatch(format!(
            "the Gateway's Decryption contract calls itself {version:?}, and nobody knows whether that one checks access rights: \
             add a section [[host_chain]] for each host chain, so that the connector checks them"
        ))),
        Err(source) => Err(DeploymentError::Release { chain: "gateway", source }),
    }
}

/// Whether access control lists are asked.
fn checks_acl(config: &ProcessorConfig, release: Release) -> Result<bool, DeploymentError> {
    let needed = !release.gateway_checks_access();
    match config.access.check_acl {
        CheckAcl::Never if needed => Err(DeploymentError::Mismatch(format!(
            "access.check_acl is \"never\", and nobody but the connector checks access rights in {release}"
        ))),
        CheckAcl::Never => Ok(false),
        CheckAcl::Auto | CheckAcl::Always if needed && config.host_chain.is_empty() => {
            Err(DeploymentError::Mismatch(format!(
                "the Gateway runs {release}, in which the connector checks access rights: add a section [[host_chain]] for each host chain"
            )))
        }
        CheckAcl::Always => Ok(true),
        CheckAcl::Auto => Ok(needed || !config.host_chain.is_empty()),
    }
}

fn domains(config: &ProcessorConfig, release: Release, ethereum: Option<&ContractSet>) -> Domains {
    let gateway = &config.gateway;
    let at_gateway =
        |name: &str, contract| Domain::new(name, gateway.domain_version.clone(), gateway.chain_id, contract);
    let decryption = Some(at_gateway(&gateway.decryption_domain_name, gateway.decryption));
    match (ethereum, &config.ethereum) {
        (Some(_), Some(section)) => {
            let domain =
                |name: &str, contract| Domain::new(name, section.domain_version.clone(), section.chain_id, contract);
            Domains {
                decryption,
                kms_generation: Some(domain(&section.kms_generation_domain_name, section.kms_generation)),
                protocol_config: Some(domain(&section.protocol_config_domain_name, section.protocol_config)),
                release,
            }
        }
        _ => Domains {
            decryption,
            kms_generation: gateway
                .kms_generation
                .map(|contract| at_gateway(&gateway.kms_generation_domain_name, contract)),
            protocol_config: None,
            release,
        },
    }
}

/// A contract without a version that could be asked is at least there.
async fn exists(rpc: &Rpc, chain: &str, what: &'static str, contract: Address) -> Result<(), DeploymentError> {
    let code = rpc.code(contract, BlockId::latest()).await;
    let code = code.map_err(|source| DeploymentError::Unreadable { chain: chain.to_owned(), source })?;
    if code.is_empty() {
        return Err(DeploymentError::Missing { chain: chain.to_owned(), what, contract });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{FixedBytes, U256};
    use alloy::sol_types::{SolCall, SolValue};
    use kms_chain::contracts::Proxy;

    use super::*;
    use crate::mock::MockChain;

    const DECRYPTION: Address = Address::repeat_byte(0xd1);
    const GATEWAY_CONFIG: Address = Address::repeat_byte(0xd2);
    const KMS_GENERATION: Address = Address::repeat_byte(0xd3);
    const PROTOCOL_CONFIG: Address = Address::repeat_byte(0xd4);
    const ACL: Address = Address::repeat_byte(0xd5);

    fn config(mock: &MockChain, extra: &str) -> ProcessorConfig {
        let url = mock.url();
        let text = format!(
            r#"
            {extra}
            [kms_core]
            endpoints = ["http://127.0.0.1:1"]
            [signer]
            address = "0x00000000000000000000000000000000000000e1"
            "#
        )
        .replace("$gateway", &format!("chain_id = 7\nrpc_urls = [\"{url}\"]\ndecryption = \"{DECRYPTION}\"\ngateway_config = \"{GATEWAY_CONFIG}\""))
        .replace("$generation", &format!("kms_generation = \"{KMS_GENERATION}\""))
        .replace(
            "$ethereum",
            &format!("[ethereum]\nchain_id = 8\nrpc_urls = [\"{url}\"]\nkms_generation = \"{KMS_GENERATION}\"\nprotocol_config = \"{PROTOCOL_CONFIG}\""),
        )
        .replace("$host", &format!("[[host_chain]]\nchain_id = 9\nrpc_urls = [\"{url}\"]\nacl = \"{ACL}\""));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The mock serves chain 7 only, so that its clients do not look at the chain id.
    fn clients(mock: &MockChain, config: &ProcessorConfig) -> Clients {
        Clients {
            gateway: mock.rpc(),
            ethereum: config.ethereum.as_ref().map(|_| mock.rpc()),
            host_chains: config.host_chain.iter().map(|_| mock.rpc()).collect(),
        }
    }

    fn says(mock: &MockChain, contract: Address, version: &str) {
        mock.on_contract(contract, Proxy::getVersionCall::SELECTOR, version.abi_encode());
    }

    fn domain(mock: &MockChain, contract: Address, name: &str, chain_id: u64) {
        let fields = FixedBytes::<1>::from([0x0f]);
        let domain = (
            fields,
            name.to_owned(),
            "1".to_owned(),
            U256::from(chain_id),
            contract,
            FixedBytes::<32>::ZERO,
            Vec::<U256>::new(),
        );
        mock.on_contract(contract, Proxy::eip712DomainCall::SELECTOR, domain.abi_encode_params());
    }

    /// Every contract of a deployment; those of (a) on the Gateway.
    async fn deployed(release: Release) -> MockChain {
        let mock = MockChain::start().await;
        let (decryption, generation, protocol) = match release {
            Release::V0_11 => ("v0.3.0", "v0.4.0", None),
            Release::V0_12 => ("v0.4.0", "v0.4.0", None),
            Release::V0_13 => ("v0.5.0", "v0.1.0", Some("v0.1.0")),
            Release::V0_14 => ("v0.6.0", "v0.2.0", Some("v0.2.0")),
            Release::V0_15 => ("v0.7.0", "v0.2.0", Some("v0.2.0")),
        };
        says(&mock, DECRYPTION, &format!("Decryption {decryption}"));
        says(&mock, KMS_GENERATION, &format!("KMSGeneration {generation}"));
        if let Some(protocol) = protocol {
            says(&mock, PROTOCOL_CONFIG, &format!("ProtocolConfig {protocol}"));
        }
        says(&mock, GATEWAY_CONFIG, "GatewayConfig");
        says(&mock, ACL, "ACL");
        domain(&mock, DECRYPTION, "Decryption", 7);
        domain(&mock, KMS_GENERATION, "KMSGeneration", if release.key_management_on_host() { 8 } else { 7 });
        mock
    }

    async fn detect(mock: &MockChain, extra: &str) -> Result<Deployment, DeploymentError> {
        let config = config(mock, extra);
        Deployment::detect(&config, &clients(mock, &config)).await
    }

    const A: &str = "[gateway]\n$gateway\n$generation\n";
    const B: &str = "[gateway]\n$gateway\n$ethereum\n$host\n";

    #[tokio::test]
    async fn every_release_is_detected_with_what_it_needs() {
        for release in Release::ALL {
            let mock = deployed(release).await;
            let sections = match release {
                Release::V0_11 => A.to_owned(),
                Release::V0_12 => format!("{A}$host\n"),
                _ => B.to_owned(),
            };
            let found = detect(&mock, &sections).await.unwrap_or_else(|error| panic!("{release}: {error}"));
            assert_eq!(found.release, release);
            assert_eq!(found.checks_acl, release != Release::V0_11);
            assert_eq!(found.ethereum.is_some(), release.key_management_on_host());
            let chain_id = found.domains.kms_generation.as_ref().map(Domain::chain_id);
            assert_eq!(chain_id, Some(if release.key_management_on_host() { 8 } else { 7 }));
            assert_eq!(found.domains.protocol_config.is_some(), release.key_management_on_host());
        }
    }

    #[tokio::test]
    async fn a_release_that_is_not_served_or_contradicts_the_configuration_is_refused() {
        let mock = deployed(Release::V0_11).await;
        says(&mock, DECRYPTION, "Decryption v0.9.0");
        let error = detect(&mock, A).await.unwrap_err();
        assert!(!error.is_outage() && error.to_string().contains("Decryption v0.9.0"), "{error}");
        let mock = deployed(Release::V0_11).await;
        let error = detect(&mock, &A.replace("$gateway", "release = \"v0.15\"\n$gateway")).await.unwrap_err();
        assert!(!error.is_outage() && error.to_string().contains("v0.15"), "{error}");
        // The host chain's contracts are of another release than the Gateway's.
        let mock = deployed(Release::V0_15).await;
        says(&mock, KMS_GENERATION, "KMSGeneration v0.1.0");
        says(&mock, PROTOCOL_CONFIG, "ProtocolConfig v0.1.0");
        let error = detect(&mock, B).await.unwrap_err();
        assert!(!error.is_outage() && error.to_string().starts_with("ethereum:"), "{error}");
    }

    #[tokio::test]
    async fn a_section_that_the_release_needs_is_named_when_it_is_missing() {
        let needed = |release, sections: &'static str, name: &'static str| async move {
            let error = detect(&deployed(release).await, sections).await.unwrap_err();
            assert_eq!(error.code(), codes::DEPLOYMENT_MISMATCH);
            assert!(!error.is_outage() && error.to_string().contains(name), "{release} {name}: {error}");
        };
        needed(Release::V0_11, "[gateway]\n$gateway\n", "gateway.kms_generation").await;
        needed(Release::V0_12, A, "[[host_chain]]").await;
        needed(Release::V0_15, "[gateway]\n$gateway\n$host\n", "[ethereum]").await;
        needed(Release::V0_15, "[gateway]\n$gateway\n$ethereum\n", "[[host_chain]]").await;
        needed(Release::V0_15, "[access]\ncheck_acl = \"never\"\n[gateway]\n$gateway\n$ethereum\n$host\n", "never")
            .await;
    }

    #[tokio::test]
    async fn access_lists_of_v0_11_are_asked_where_a_host_chain_is_configured_unless_told_otherwise() {
        let mock = deployed(Release::V0_11).await;
        assert!(!detect(&mock, A).await.unwrap().checks_acl);
        assert!(detect(&mock, &format!("{A}$host\n")).await.unwrap().checks_acl);
        let never = format!("[access]\ncheck_acl = \"never\"\n{A}$host\n");
        assert!(!detect(&mock, &never).await.unwrap().checks_acl);
    }

    #[tokio::test]
    async fn a_domain_that_is_not_the_contracts_is_refused() {
        let mock = deployed(Release::V0_15).await;
        domain(&mock, KMS_GENERATION, "KMSGeneration", 7);
        let error = detect(&mock, B).await.unwrap_err();
        assert_eq!(error.code(), kms_chain::codes::DOMAIN_MISMATCH);
        assert!(!error.is_outage() && error.to_string().starts_with("ethereum:"), "{error}");
        let mock = deployed(Release::V0_11).await;
        domain(&mock, DECRYPTION, "Another", 7);
        assert_eq!(detect(&mock, A).await.unwrap_err().code(), kms_chain::codes::DOMAIN_MISMATCH);
    }

    #[tokio::test]
    async fn another_chain_at_every_endpoint_is_refused_and_one_silent_endpoint_is_waited_for() {
        let mock = deployed(Release::V0_11).await;
        let detect = |urls: String| {
            let mut config = config(&mock, A);
            config.gateway.chain_id = 8;
            config.gateway.rpc_urls =
                toml::from_str::<toml::Table>(&format!("urls = {urls}")).unwrap()["urls"].clone().try_into().unwrap();
            async move { Deployment::detect(&config, &Clients::new(&config).unwrap()).await.unwrap_err() }
        };
        let error = detect(format!("[\"{}\"]", mock.url())).await;
        assert!(!error.is_outage() && error.to_string().starts_with("gateway: every RPC endpoint"), "{error}");
        assert_eq!((error.stopped().exit, error.code()), (Exit::Refused, kms_chain::codes::RPC_WRONG_CHAIN));
        let error = detect(format!("[\"http://127.0.0.1:1\", \"{}\"]", mock.url())).await;
        assert!(error.is_outage(), "{error}");
    }

    #[tokio::test]
    async fn p4_a_gateway_that_was_upgraded_does_not_check_access_any_more() {
        let mock = deployed(Release::V0_11).await;
        let access = GatewayAccess::new(mock.rpc(), DECRYPTION);
        let nobody = Answered::unheard();
        let check = |block| access.check(block, &nobody);
        assert_eq!(check(10).await, Ok(()));
        let asked = mock.posts_with("eth_call");
        assert_eq!(check(9).await, Ok(()));
        assert_eq!(mock.posts_with("eth_call"), asked, "an earlier block needs no further look");
        mock.break_down(true);
        assert!(matches!(check(11).await, Err(Trouble::Outage { dependency: GATEWAY, .. })));
        mock.break_down(false);
        says(&mock, DECRYPTION, "Decryption v0.4.0");
        assert_eq!(check(10).await, Ok(()));
        assert!(matches!(check(11).await, Err(Trouble::Outage { code: codes::RELEASE_CHANGED, .. })));
    }

    #[tokio::test]
    async fn p4_only_a_version_that_was_read_and_is_known_stands_for_the_gateways_own_check() {
        let mock = deployed(Release::V0_11).await;
        let access = GatewayAccess::new(mock.rpc(), DECRYPTION);
        let nobody = Answered::unheard();
        mock.refuse_calls(true);
        let refused = access.check(11, &nobody).await;
        assert!(matches!(refused, Err(Trouble::Outage { code: kms_chain::codes::RPC_REFUSED, .. })), "{refused:?}");
        mock.refuse_calls(false);
        says(&mock, DECRYPTION, "Decryption v9.9.9");
        let unknown = access.check(11, &nobody).await;
        assert!(matches!(unknown, Err(Trouble::Outage { code: codes::RELEASE_CHANGED, .. })), "{unknown:?}");
        says(&mock, DECRYPTION, "Decryption v0.4.0");
        let upgraded = access.check(11, &nobody).await;
        assert!(matches!(upgraded, Err(Trouble::Outage { code: codes::RELEASE_CHANGED, .. })), "{upgraded:?}");
        says(&mock, DECRYPTION, "Decryption v0.3.0");
        assert_eq!(access.check(11, &nobody).await, Ok(()));
    }

    #[tokio::test]
    async fn p4_a_configured_release_does_not_vouch_for_a_gateway_of_an_unknown_version() {
        let mock = deployed(Release::V0_11).await;
        let configured = A.replace("$gateway", "release = \"v0.11\"\n$gateway");
        assert!(!detect(&mock, &configured).await.unwrap().checks_acl);
        says(&mock, DECRYPTION, "Decryption v9.9.9");
        let error = detect(&mock, &configured).await.unwrap_err();
        let text = error.to_string();
        assert!(!error.is_outage() && text.contains("v9.9.9") && text.contains("[[host_chain]]"), "{text}");
        let found = detect(&mock, &format!("{configured}$host\n")).await.unwrap();
        assert!(found.checks_acl && found.version.as_deref() == Some("Decryption v9.9.9"));
    }

    #[tokio::test]
    async fn an_error_of_a_node_at_the_start_is_waited_for_whether_the_release_is_configured_or_not() {
        let mock = deployed(Release::V0_14).await;
        mock.refuse_calls(true);
        for sections in [B.to_owned(), B.replace("$gateway", "release = \"v0.14\"\n$gateway")] {
            let error = detect(&mock, &sections).await.unwrap_err();
            assert!(error.is_outage() && error.code() == kms_chain::codes::RPC_REFUSED, "{error}");
        }
    }

    #[tokio::test]
    async fn an_upgrade_to_an_unknown_version_is_noticed_where_the_release_is_configured() {
        let mock = deployed(Release::V0_14).await;
        let mut config = config(&mock, &B.replace("$gateway", "release = \"v0.14\"\n$gateway"));
        config.gateway.release_refresh_ms = 5;
        let rpc = mock.rpc();
        let noticed = upgraded(&config, &rpc, Release::V0_14, Some("Decryption v0.6.0"));
        tokio::pin!(noticed);
        mock.refuse_calls(true);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut noticed).await;
        assert!(early.is_err(), "an error of the node is no upgrade: {early:?}");
        mock.refuse_calls(false);
        says(&mock, DECRYPTION, "Decryption v9.9.9");
        let text = noticed.await;
        assert!(text.contains("v9.9.9"), "{text}");
    }

    #[tokio::test]
    async fn an_upgrade_is_noticed_and_an_outage_is_none() {
        let mock = deployed(Release::V0_14).await;
        let mut config = config(&mock, B);
        config.gateway.release_refresh_ms = 5;
        let rpc = mock.rpc();
        let noticed = upgraded(&config, &rpc, Release::V0_14, Some("Decryption v0.6.0"));
        tokio::pin!(noticed);
        mock.break_down(true);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut noticed).await;
        assert!(early.is_err(), "{early:?}");
        mock.break_down(false);
        says(&mock, DECRYPTION, "Decryption v0.7.0");
        let text = noticed.await;
        assert!(text.contains("v0.14") && text.contains("v0.15"), "{text}");
    }

    #[tokio::test]
    async fn an_outage_and_a_contract_that_is_not_there_yet_are_waited_for() {
        let mock = deployed(Release::V0_15).await;
        mock.break_down(true);
        assert!(detect(&mock, B).await.unwrap_err().is_outage());
        let mock = MockChain::start().await;
        assert!(detect(&mock, B).await.unwrap_err().is_outage(), "nothing is deployed");
        let mock = deployed(Release::V0_15).await;
        let mut config = config(&mock, B);
        config.host_chain[0].acl = Address::repeat_byte(0xee);
        let error = Deployment::detect(&config, &clients(&mock, &config)).await.unwrap_err();
        assert!(error.is_outage() && error.to_string().contains("host_chain.acl"), "{error}");
    }
}
