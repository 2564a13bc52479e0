//! Putting the development contracts on a chain.

use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};
use kms_chain::event::ContractSet;
use kms_chain::release::Release;
use kms_schemas::identity::RequestId;
use serde::{Deserialize, Serialize};

use super::account::{Account, Call};
use super::artifact::Artifact;
use super::error::ContractsError;
use super::node::Node;
use super::owner;

const MINED_WITHIN: Duration = Duration::from_secs(60);
/// Told in every context; the core that the simulators play knows no other.
const SOFTWARE_VERSION: &str = "0.15.0";
/// A million ether.
pub(super) const BALANCE: U256 = U256::from_limbs([0x1bce_cced_a100_0000, 0xd3c2, 0, 0]);

/// The first context, `0x07 << 248 | 1`.
#[must_use]
pub fn first_context() -> RequestId {
    RequestId::from((U256::from(7) << 248) | U256::from(1))
}

/// A KMS node as the registers hold it.
#[derive(Clone, Debug)]
pub struct KmsNode {
    /// The account that sends its answers.
    pub tx_sender: Address,
    /// The key in its KMS Core.
    pub signer: Address,
    /// Where it publishes keys and CRSs; told in `ActivateKey` and `ActivateCrs`.
    pub storage_url: String,
}

/// A coprocessor as the register holds it, with the key to commit ciphertexts in its name.
#[derive(Clone, Debug)]
pub struct Coprocessor {
    /// The account that commits ciphertexts.
    pub tx_sender: PrivateKeySigner,
    /// Its signing key, for the attestations of generation (b). In (a) nobody asks for its signature.
    pub signer: PrivateKeySigner,
    /// The bucket that holds its ciphertexts.
    pub s3_bucket_url: String,
}

/// How many must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How many nodes may be corrupt.
    pub mpc: u64,
    /// Equal answers that decide a public decryption.
    pub public_decryption: u64,
    /// Shares that complete a user decryption.
    pub user_decryption: u64,
    /// Equal answers that decide a key or CRS generation.
    pub kms_gen: u64,
    /// Coprocessors that decide a ciphertext or an access right.
    pub coprocessors: u64,
}

impl Thresholds {
    /// What a real deployment of that size has: t = (n − 1) / 3 corrupt nodes, 2t + 1 answers, and a majority of coprocessors.
    #[must_use]
    pub fn of(nodes: usize, coprocessors: usize) -> Self {
        let corrupt = (nodes as u64).saturating_sub(1) / 3;
        let answers = 2 * corrupt + 1;
        Self {
            mpc: corrupt,
            public_decryption: answers,
            user_decryption: answers,
            kms_gen: answers,
            coprocessors: coprocessors as u64 / 2 + 1,
        }
    }
}

/// The chain whose applications ask for decryptions; in generation (b) it is the Ethereum host too.
#[derive(Clone, Debug)]
pub struct HostChain {
    /// The chain id that handles name. It need not be the id of the chain that `rpc_url` leads to.
    pub chain_id: u64,
    /// A node of the chain that gets the `ACL`, and in (b) `ProtocolConfig` and `KMSGeneration`; absent: the Gateway's chain gets them.
    pub rpc_url: Option<String>,
}

/// A context to be defined: its nodes in the order of their party ids, from 1.
#[derive(Clone, Debug)]
pub struct ContextDefinition {
    /// The nodes.
    pub nodes: Vec<KmsNode>,
    /// How many of them must agree. That of the coprocessors is no part of a context.
    pub thresholds: Thresholds,
    /// Version of KMS Core, as a semantic version.
    pub software_version: String,
}

/// What is deployed.
#[derive(Clone, Debug)]
pub struct DeploymentConfig {
    /// Which contracts: v0.11 (generation (a)), v0.14, or v0.15 (generation (b)).
    pub release: Release,
    /// The KMS: one node or more.
    pub nodes: Vec<KmsNode>,
    /// One coprocessor or more.
    pub coprocessors: Vec<Coprocessor>,
    /// How many of them must agree.
    pub thresholds: Thresholds,
    /// The one host chain.
    pub host: HostChain,
}

/// Where the contracts of a deployment are. All addresses are those of proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contracts {
    /// What they are.
    pub release: Release,
    /// EIP-155 id of the Gateway.
    pub gateway_chain_id: u64,
    /// Chain id of the host chain, as handles name it.
    pub host_chain_id: u64,
    /// `GatewayConfig`, on the Gateway.
    pub gateway_config: Address,
    /// `CiphertextCommits`, on the Gateway.
    pub ciphertext_commits: Address,
    /// `MultichainACL`, on the Gateway; (a) only.
    pub multichain_acl: Option<Address>,
    /// `Decryption`, on the Gateway.
    pub decryption: Address,
    /// `KMSGeneration`: on the Gateway in (a), on the Ethereum host in (b).
    pub kms_generation: Address,
    /// `ACL`, on the host chain.
    pub host_acl: Address,
    /// The Gateway's block that holds the first of them: nothing a connector follows is in an earlier one.
    pub first_block: u64,
    /// The Ethereum host; (b) only.
    pub ethereum: Option<Ethereum>,
}

/// The Ethereum host of a deployment: besides the `ACL` and `KMSGeneration` it has the contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ethereum {
    /// Its EIP-155 id.
    pub chain_id: u64,
    /// `ProtocolConfig`.
    pub protocol_config: Address,
    /// As [`Contracts::first_block`].
    pub first_block: u64,
}

/// One of the chains a deployment is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Decryptions; in (a) everything.
    Gateway,
    /// In (b) keys, CRSs, contexts and epochs.
    Ethereum,
}

impl Contracts {
    /// Deploys everything with transactions that are sent at once, twelve of them in (a) and in (b). `owner` becomes the owner of all
    /// contracts.
    ///
    /// Gives ether to the owner, to the nodes' and to the coprocessors' accounts, so the chains must be development ones.
    ///
    /// # Errors
    /// A node does not answer or refuses, a contract refuses the configuration ([`ContractsError::Reverted`]), a block does not
    /// come, or there are no contracts of that release ([`ContractsError::Argument`]).
    pub async fn deploy(
        rpc_url: &str,
        owner: &PrivateKeySigner,
        config: &DeploymentConfig,
    ) -> Result<Self, ContractsError> {
        match config.release {
            Release::V0_11 => Self::deploy_a(rpc_url, owner, config).await,
            Release::V0_14 | Release::V0_15 => Self::deploy_b(rpc_url, owner, config).await,
            Release::V0_12 | Release::V0_13 => {
                Err(ContractsError::Argument(format!("there are no development contracts of {}", config.release)))
            }
        }
    }

    async fn deploy_a(
        rpc_url: &str,
        owner: &PrivateKeySigner,
        config: &DeploymentConfig,
    ) -> Result<Self, ContractsError> {
        let gateway = Node::new(rpc_url)?;
        gateway.set_balances(&config.accounts(owner), BALANCE).await?;
        let account = Account::open(&gateway, owner.clone()).await?;

        let mut plan = Plan::of(&account).await;
        let host_acl = match &config.host.rpc_url {
            None => plan.proxied(Artifact::AclA, &[], initialization(), 0),
            Some(url) => deploy_acl(url, owner).await?,
        };
        let gateway_config = plan.proxied(Artifact::GatewayConfigA, &[], config.register_a(host_acl), config.records());
        let multichain_acl = plan.proxied(Artifact::MultichainAclA, &gateway_config.abi_encode(), initialization(), 0);
        let ciphertext_commits =
            plan.proxied(Artifact::CiphertextCommitsA, &gateway_config.abi_encode(), initialization(), 0);
        let decryption = plan.proxied(
            Artifact::DecryptionA,
            &(gateway_config, multichain_acl, ciphertext_commits).abi_encode(),
            initialization(),
            0,
        );
        let kms_generation = plan.proxied(Artifact::KmsGenerationA, &gateway_config.abi_encode(), initialization(), 0);

        let first_block = plan.carry_out(&account).await?;
        Ok(Self {
            release: config.release,
            gateway_chain_id: gateway.chain_id().await?,
            host_chain_id: config.host.chain_id,
            gateway_config,
            ciphertext_commits,
            multichain_acl: Some(multichain_acl),
            decryption,
            kms_generation,
            host_acl,
            first_block,
            ethereum: None,
        })
    }

    async fn deploy_b(
        rpc_url: &str,
        owner: &PrivateKeySigner,
        config: &DeploymentConfig,
    ) -> Result<Self, ContractsError> {
        let gateway = Node::new(rpc_url)?;
        gateway.set_balances(&config.accounts(owner), BALANCE).await?;
        let host = match &config.host.rpc_url {
            None => gateway.clone(),
            Some(url) => Node::new(url)?,
        };
        host.set_balances(&config.accounts(owner), BALANCE).await?;

        let account = Account::open(&host, owner.clone()).await?;
        let mut plan = Plan::of(&account).await;
        if config.host.rpc_url.is_some() {
            // Otherwise every contract here had the address of another one on the Gateway, which hides mistakes.
            plan.spend_nonce();
        }
        let host_acl = plan.proxied(Artifact::AclB, &[], initialization(), 0);
        let context = config.context().genesis().abi_encode().into();
        let protocol_config =
            plan.proxied(Artifact::ProtocolConfigB, &host_acl.abi_encode(), context, config.records());
        let kms_generation =
            plan.proxied(Artifact::KmsGenerationB, &(host_acl, protocol_config).abi_encode(), initialization(), 0);
        let ethereum = Ethereum {
            chain_id: host.chain_id().await?,
            protocol_config,
            first_block: plan.carry_out(&account).await?,
        };

        let account = Account::open(&gateway, owner.clone()).await?;
        let mut plan = Plan::of(&account).await;
        let gateway_config = plan.proxied(Artifact::GatewayConfigB, &[], config.register_b(host_acl), config.records());
        let ciphertext_commits =
            plan.proxied(Artifact::CiphertextCommitsB, &gateway_config.abi_encode(), initialization(), 0);
        let artifact = if config.release == Release::V0_14 { Artifact::DecryptionV14 } else { Artifact::DecryptionB };
        let decryption =
            plan.proxied(artifact, &(gateway_config, ciphertext_commits).abi_encode(), initialization(), 0);
        let first_block = plan.carry_out(&account).await?;
        Ok(Self {
            release: config.release,
            gateway_chain_id: gateway.chain_id().await?,
            host_chain_id: config.host.chain_id,
            gateway_config,
            ciphertext_commits,
            multichain_acl: None,
            decryption,
            kms_generation,
            host_acl,
            first_block,
            ethereum: Some(ethereum),
        })
    }

    /// The contracts of the Gateway whose events a connector follows.
    #[must_use]
    pub fn followed(&self) -> ContractSet {
        match self.ethereum {
            None => ContractSet::gateway_a(self.decryption, self.kms_generation),
            Some(_) => ContractSet::gateway(self.release, self.decryption),
        }
    }

    /// The same of the Ethereum host.
    #[must_use]
    pub fn followed_on_ethereum(&self) -> Option<ContractSet> {
        let ethereum = self.ethereum?;
        Some(ContractSet::host(self.release, self.kms_generation, ethereum.protocol_config))
    }

    /// The followed contracts of one of the chains; `None` when the deployment is not on it.
    #[must_use]
    pub fn followed_on(&self, chain: Chain) -> Option<ContractSet> {
        match chain {
            Chain::Gateway => Some(self.followed()),
            Chain::Ethereum => self.followed_on_ethereum(),
        }
    }
}

impl DeploymentConfig {
    fn accounts(&self, owner: &PrivateKeySigner) -> Vec<Address> {
        let nodes = self.nodes.iter().map(|node| node.tx_sender);
        let coprocessors = self.coprocessors.iter().map(|coprocessor| coprocessor.tx_sender.address());
        nodes.chain(coprocessors).chain([owner.address()]).collect()
    }

    fn records(&self) -> u64 {
        (self.nodes.len() + self.coprocessors.len()) as u64
    }

    /// The node set as a context: the first one, or one more with the same nodes.
    #[must_use]
    pub fn context(&self) -> ContextDefinition {
        ContextDefinition {
            nodes: self.nodes.clone(),
            thresholds: self.thresholds,
            software_version: SOFTWARE_VERSION.to_owned(),
        }
    }

    fn register_a(&self, host_acl: Address) -> Bytes {
        let call = owner::GatewayConfig::initializeCall {
            thresholds: self.thresholds.record(),
            kmsNodes: self.nodes.iter().map(KmsNode::record).collect(),
            coprocessors: self.coprocessors.iter().map(Coprocessor::record).collect(),
            hostChains: vec![self.host.record(host_acl)],
        };
        call.abi_encode().into()
    }

    fn register_b(&self, host_acl: Address) -> Bytes {
        let call = owner::GatewayConfigOfContexts::initializeCall {
            kmsContextId: first_context().as_u256(),
            thresholds: self.thresholds.record(),
            kmsNodes: self.nodes.iter().map(KmsNode::record).collect(),
            coprocessors: self.coprocessors.iter().map(Coprocessor::record).collect(),
            hostChains: vec![self.host.record(host_acl)],
        };
        call.abi_encode().into()
    }
}

impl Thresholds {
    fn record(self) -> owner::Thresholds {
        owner::Thresholds {
            mpcThreshold: U256::from(self.mpc),
            publicDecryptionThreshold: U256::from(self.public_decryption),
            userDecryptionThreshold: U256::from(self.user_decryption),
            kmsGenThreshold: U256::from(self.kms_gen),
            coprocessorThreshold: U256::from(self.coprocessors),
        }
    }
}

impl HostChain {
    fn record(&self, acl: Address) -> owner::HostChain {
        owner::HostChain {
            chainId: U256::from(self.chain_id),
            fhevmExecutorAddress: Address::ZERO,
            aclAddress: acl,
            name: "host".to_owned(),
            website: String::new(),
        }
    }
}

impl ContextDefinition {
    fn genesis(&self) -> owner::ProtocolConfig::initializeFromEmptyProxyCall {
        owner::ProtocolConfig::initializeFromEmptyProxyCall {
            initialKmsNodeParams: self.node_params(),
            initialThresholds: self.kms_thresholds(),
            softwareVersion: self.software_version.clone(),
            pcrValues: Vec::new(),
        }
    }

    /// `defineNewKmsContextAndEpoch` of this context.
    #[must_use]
    pub fn define(&self) -> owner::ProtocolConfig::defineNewKmsContextAndEpochCall {
        owner::ProtocolConfig::defineNewKmsContextAndEpochCall {
            kmsNodeParams: self.node_params(),
            thresholds: self.kms_thresholds(),
            softwareVersion: self.software_version.clone(),
            pcrValues: Vec::new(),
        }
    }

    /// `GatewayConfig.updateKmsContext`: the Gateway's copy of this context, under the id that the Ethereum host gave it.
    #[must_use]
    pub fn copy(&self, context_id: RequestId) -> owner::GatewayConfigOfContexts::updateKmsContextCall {
        owner::GatewayConfigOfContexts::updateKmsContextCall {
            newContextId: context_id.as_u256(),
            newKmsNodes: self.nodes.iter().map(KmsNode::record).collect(),
            newMpcThreshold: U256::from(self.thresholds.mpc),
            newPublicDecryptionThreshold: U256::from(self.thresholds.public_decryption),
            newUserDecryptionThreshold: U256::from(self.thresholds.user_decryption),
            newKmsGenThreshold: U256::from(self.thresholds.kms_gen),
        }
    }

    /// A bound of the gas that storing it takes.
    pub(super) fn gas(&self) -> u64 {
        500_000 + 600_000 * self.nodes.len() as u64
    }

    fn node_params(&self) -> Vec<owner::KmsNodeParams> {
        (1..).zip(&self.nodes).map(|(party_id, node)| node.params(party_id)).collect()
    }

    fn kms_thresholds(&self) -> owner::KmsThresholds {
        owner::KmsThresholds {
            publicDecryption: U256::from(self.thresholds.public_decryption),
            userDecryption: U256::from(self.thresholds.user_decryption),
            kmsGen: U256::from(self.thresholds.kms_gen),
            // `ProtocolConfig` takes no zero, which a single node would have: `docs/protocol.md`, "Contexts and epochs".
            mpc: U256::from(self.thresholds.mpc.max(1)),
        }
    }
}

impl KmsNode {
    /// The register's record of the node. Its network address is of no use to anybody on a local chain.
    #[must_use]
    pub fn record(&self) -> owner::KmsNode {
        owner::KmsNode {
            txSenderAddress: self.tx_sender,
            signerAddress: self.signer,
            ipAddress: "127.0.0.1".to_owned(),
            storageUrl: self.storage_url.clone(),
        }
    }

    /// Its part of a context. The other nodes' addresses are of no use to a simulator, which meets none; KMS Core wants a URL with
    /// host and port.
    fn params(&self, party_id: i32) -> owner::KmsNodeParams {
        owner::KmsNodeParams {
            txSenderAddress: self.tx_sender,
            signerAddress: self.signer,
            ipAddress: format!("http://127.0.0.1:{}", 50_000 + party_id),
            storageUrl: self.storage_url.clone(),
            partyId: party_id,
            mpcIdentity: format!("kms-node-{party_id}"),
            caCert: Bytes::new(),
            storagePrefix: format!("PUB-p{party_id}"),
        }
    }
}

impl Coprocessor {
    /// The register's record of the coprocessor.
    #[must_use]
    pub fn record(&self) -> owner::Coprocessor {
        owner::Coprocessor {
            txSenderAddress: self.tx_sender.address(),
            signerAddress: self.signer.address(),
            s3BucketUrl: self.s3_bucket_url.clone(),
        }
    }
}

/// Gives accounts of a development chain a million ether each.
///
/// # Errors
/// The node does not answer or is no development node.
pub async fn fund(rpc_url: &str, accounts: &[Address]) -> Result<(), ContractsError> {
    Node::new(rpc_url)?.fund(accounts).await
}

async fn deploy_acl(rpc_url: &str, owner: &PrivateKeySigner) -> Result<Address, ContractsError> {
    let host = Node::new(rpc_url)?;
    host.set_balances(&[owner.address()], BALANCE).await?;
    let account = Account::open(&host, owner.clone()).await?;
    let mut plan = Plan::of(&account).await;
    let acl = plan.proxied(Artifact::AclA, &[], initialization(), 0);
    plan.carry_out(&account).await?;
    Ok(acl)
}

/// The initialisation of every contract but `GatewayConfig`.
fn initialization() -> Bytes {
    owner::Proxied::initializeFromEmptyProxyCall {}.abi_encode().into()
}

/// Creations in a row. Where each contract will be follows from the creator and its nonce, so that the later ones can name the
/// earlier ones before any is mined.
struct Plan {
    creator: Address,
    next_nonce: u64,
    calls: Vec<Call>,
}

impl Plan {
    async fn of(account: &Account) -> Self {
        Self { creator: account.address(), next_nonce: account.next_nonce().await, calls: Vec::new() }
    }

    /// A contract behind a proxy; the address is the proxy's. `records` is how many entries its initialisation stores.
    fn proxied(&mut self, artifact: Artifact, arguments: &[u8], initialization: Bytes, records: u64) -> Address {
        let implementation = self.create(artifact.creation_code(arguments), 0);
        let arguments = (implementation, initialization).abi_encode_params();
        self.create(Artifact::Proxy.creation_code(&arguments), records)
    }

    /// A transaction that does nothing: the addresses of what follows are others.
    fn spend_nonce(&mut self) {
        self.next_nonce += 1;
        self.calls.push(Call { to: Some(self.creator), data: Bytes::new(), gas: 21_000 });
    }

    fn create(&mut self, code: Bytes, records: u64) -> Address {
        // Calldata and stored code cost at most 16 and 200 gas a byte, a record some fifteen storage words.
        let gas = 500_000 + 220 * code.len() as u64 + 600_000 * records;
        let address = self.creator.create(self.next_nonce);
        self.next_nonce += 1;
        self.calls.push(Call { to: None, data: code, gas });
        address
    }

    /// Sends all and waits for them; the block of the first.
    async fn carry_out(self, account: &Account) -> Result<u64, ContractsError> {
        let hashes = account.send(&self.calls).await?;
        let receipts = account.node().receipts(&hashes, MINED_WITHIN).await?;
        for (receipt, call) in receipts.iter().zip(&self.calls) {
            if !receipt.status() {
                let data = account.why_reverted(call).await;
                return Err(ContractsError::Reverted { transaction: Some(receipt.transaction_hash), data });
            }
        }
        let first = receipts.first().and_then(|receipt| receipt.block_number);
        first.ok_or_else(|| ContractsError::Answer("a receipt without a block".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_those_of_a_real_deployment_of_the_size() {
        let one = Thresholds::of(1, 1);
        assert_eq!((one.mpc, one.public_decryption, one.coprocessors), (0, 1, 1));
        let four = Thresholds::of(4, 3);
        assert_eq!((four.mpc, four.user_decryption, four.kms_gen, four.coprocessors), (1, 3, 3, 2));
        let seven = Thresholds::of(7, 3);
        assert_eq!((seven.mpc, seven.public_decryption), (2, 5));
    }
}
