//! Putting the development contracts on a chain.

use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};
use kms_chain::event::ContractSet;

use super::account::{Account, Call};
use super::artifact::Artifact;
use super::error::ContractsError;
use super::node::Node;
use super::owner;

const MINED_WITHIN: Duration = Duration::from_secs(60);
/// A million ether.
const BALANCE: U256 = U256::from_limbs([0x1bce_cced_a100_0000, 0xd3c2, 0, 0]);

/// A KMS node as the register holds it.
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
    /// Its signing key; the contracts of generation (a) ask nothing of it.
    pub signer: Address,
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

/// The chain whose applications ask for decryptions.
#[derive(Clone, Debug)]
pub struct HostChain {
    /// The chain id that handles name. It need not be the id of the chain that `rpc_url` leads to.
    pub chain_id: u64,
    /// A node of the chain that gets the `ACL`; absent: the Gateway's chain gets it.
    pub rpc_url: Option<String>,
}

/// What is deployed.
#[derive(Clone, Debug)]
pub struct DeploymentConfig {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contracts {
    /// EIP-155 id of the Gateway.
    pub gateway_chain_id: u64,
    /// Chain id of the host chain, as handles name it.
    pub host_chain_id: u64,
    /// `GatewayConfig`, on the Gateway.
    pub gateway_config: Address,
    /// `CiphertextCommits`, on the Gateway.
    pub ciphertext_commits: Address,
    /// `MultichainACL`, on the Gateway.
    pub multichain_acl: Address,
    /// `Decryption`, on the Gateway.
    pub decryption: Address,
    /// `KMSGeneration`, on the Gateway.
    pub kms_generation: Address,
    /// `ACL`, on the host chain.
    pub host_acl: Address,
    /// The Gateway's block that holds the first of them: nothing a connector follows is in an earlier one.
    pub first_block: u64,
}

impl Contracts {
    /// Deploys everything with twelve transactions that are sent at once. `owner` becomes the owner of all contracts.
    ///
    /// Gives ether to the owner, to the nodes' and to the coprocessors' accounts, so the chain must be a development one.
    ///
    /// # Errors
    /// A node does not answer or refuses, a contract refuses the configuration ([`ContractsError::Reverted`]), or a block does not
    /// come.
    pub async fn deploy(
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
        let gateway_config =
            plan.proxied(Artifact::GatewayConfigA, &[], config.initialization(host_acl), config.records());
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
            gateway_chain_id: gateway.chain_id().await?,
            host_chain_id: config.host.chain_id,
            gateway_config,
            ciphertext_commits,
            multichain_acl,
            decryption,
            kms_generation,
            host_acl,
            first_block,
        })
    }

    /// The contracts whose events a connector follows.
    #[must_use]
    pub fn followed(&self) -> ContractSet {
        ContractSet { decryption: self.decryption, kms_generation: self.kms_generation }
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

    fn initialization(&self, host_acl: Address) -> Bytes {
        let call = owner::GatewayConfig::initializeCall {
            thresholds: owner::Thresholds {
                mpcThreshold: U256::from(self.thresholds.mpc),
                publicDecryptionThreshold: U256::from(self.thresholds.public_decryption),
                userDecryptionThreshold: U256::from(self.thresholds.user_decryption),
                kmsGenThreshold: U256::from(self.thresholds.kms_gen),
                coprocessorThreshold: U256::from(self.thresholds.coprocessors),
            },
            kmsNodes: self.nodes.iter().map(KmsNode::record).collect(),
            coprocessors: self.coprocessors.iter().map(Coprocessor::record).collect(),
            hostChains: vec![owner::HostChain {
                chainId: U256::from(self.host.chain_id),
                fhevmExecutorAddress: Address::ZERO,
                aclAddress: host_acl,
                name: "host".to_owned(),
                website: String::new(),
            }],
        };
        call.abi_encode().into()
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
}

impl Coprocessor {
    /// The register's record of the coprocessor.
    #[must_use]
    pub fn record(&self) -> owner::Coprocessor {
        owner::Coprocessor {
            txSenderAddress: self.tx_sender.address(),
            signerAddress: self.signer,
            s3BucketUrl: self.s3_bucket_url.clone(),
        }
    }
}

/// Gives accounts of a development chain a million ether each.
///
/// # Errors
/// The node does not answer or is no development node.
pub async fn fund(rpc_url: &str, accounts: &[Address]) -> Result<(), ContractsError> {
    Node::new(rpc_url)?.set_balances(accounts, BALANCE).await
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
