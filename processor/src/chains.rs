//! The chains that requests come from, and the check of the deployment at start.

use alloy::primitives::Address;
use kms_chain::authority::Authority;
use kms_chain::eip712::{Domain, Domains};
use kms_chain::event::ContractSet;
use kms_chain::finality::Finality;
use kms_chain::release::{Release, ReleaseChoice, ReleaseError, resolve_release};
use kms_chain::rpc::{BlockId, EndpointUrl, Rpc, RpcConfig};
use kms_chain::views::{DomainError, ViewError, check_domain};
use kms_runtime::config::Endpoint;
use kms_runtime::shutdown::{Exit, Stopped};
use kms_schemas::identity::Lane;

use crate::codes;
use crate::config::{CheckAcl, ProcessorConfig};

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
        let decryptions =
            if latest == finality { key_management.clone() } else { Authority::new(rpc.clone(), latest, cached_blocks) };
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
}

/// What the contracts say of themselves, once they have been asked.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Release of the contracts.
    pub release: Release,
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
    /// The configuration does not fit.
    #[error("{0}")]
    Mismatch(String),
}

impl DeploymentError {
    /// Whether the chain has not spoken: wait and ask again. A contract that is not deployed yet is waited for as well.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Release { source: ReleaseError::View(error), .. }
            | Self::Domain { source: DomainError::View(error), .. } => {
                error.is_outage() || matches!(error, ViewError::NoContract { .. })
            }
            Self::Unreadable { .. } | Self::Missing { .. } => true,
            Self::Release { .. } | Self::Domain { .. } | Self::Mismatch(_) => false,
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
            Self::Missing { .. } | Self::Mismatch(_) => codes::DEPLOYMENT_MISMATCH,
        }
    }
}

impl Deployment {
    /// Asks the contracts, and holds the configuration against what they say.
    ///
    /// # Errors
    /// See [`DeploymentError`].
    pub async fn detect(config: &ProcessorConfig, clients: &Clients) -> Result<Self, DeploymentError> {
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
        let checks_acl = checks_acl(config, release)?;
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
        Ok(Self { release, gateway, ethereum, domains, checks_acl })
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
    let at_gateway = |name: &str, contract| Domain::new(name, gateway.domain_version.clone(), gateway.chain_id, contract);
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
