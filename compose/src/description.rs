//! What has to be known of a stack to use it from outside: where everything is, what was deployed, who the nodes are.
//!
//! A [`Stack`](crate::Stack) describes itself ([`Stack::describe`](crate::Stack::describe)) and leaves that in its run directory as `stack.json`;
//! of one whose processes somebody else starts – containers – the setup writes it. The main job works on a description, whoever started the
//! processes.

use std::path::Path;

use alloy::primitives::{Address, B256};
use kms_chain::event::ContractSet;
use serde::{Deserialize, Serialize};

use crate::contracts::{
    CiphertextFormat, Contracts, ContractsError, Coprocessor, DeploymentConfig, HostChain, KmsNode, Material, Node,
    Requester, RequesterKeys, Thresholds, attestation, attested_object,
};
use crate::error::{StackError, chain_of};
use crate::keys::development_key;
use crate::parts::Objects;
use crate::stack::{Generation, ServiceKind};

/// Name of the description in the directory of a setup, or of a run.
pub const STACK_FILE: &str = "stack.json";

/// A stack as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Its generation.
    pub generation: Generation,
    /// The brokers, `host:port,…`.
    pub kafka: String,
    /// How many brokers there are, and replicas of each topic.
    pub brokers: u8,
    /// The schema registry's Confluent-compatible API, if there is one.
    pub registry: Option<String>,
    /// The Gateway.
    pub gateway: ChainPlace,
    /// The Ethereum host; generation (b).
    pub ethereum: Option<ChainPlace>,
    /// Where the contracts are.
    pub contracts: Contracts,
    /// The executor that the nodes' senders delegate to; of several that were there before, the first node's.
    pub executor: Option<Address>,
    /// The coprocessors' buckets, as registered on chain.
    pub buckets: Vec<String>,
    /// The KMS nodes, in the order of their numbers.
    pub nodes: Vec<NodePlace>,
}

/// A chain's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainPlace {
    /// Its JSON-RPC address.
    pub url: String,
    /// EIP-155 id.
    pub chain_id: u64,
    /// Hash of the block with the first contract: another chain with contracts at the same addresses has another one.
    pub first_block: Option<B256>,
}

/// A KMS node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlace {
    /// Its number, from 1.
    pub number: usize,
    /// What its topics' names begin with.
    pub prefix: String,
    /// The address that its answers' signatures recover to.
    pub signer: Address,
    /// The account that sends its answers.
    pub sender: Address,
    /// Its KMS Core's gRPC address.
    pub core: String,
    /// The control endpoint of its KMS Core simulator; a real KMS Core has none.
    pub control: Option<String>,
    /// Where its services tell their health.
    pub services: Vec<ServicePlace>,
}

/// A service of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePlace {
    /// Which.
    pub kind: ServiceKind,
    /// `/healthz`, `/readyz` and `/metrics` are below this address.
    pub url: String,
}

/// One of a stack's chains and what a connector follows on it.
#[derive(Clone, Debug)]
pub struct FollowedChain {
    /// `gateway` or `ethereum`, as in the services' configuration.
    pub name: &'static str,
    /// EIP-155 id.
    pub chain_id: u64,
    /// JSON-RPC address of the node itself.
    pub url: String,
    /// The followed contracts.
    pub contracts: ContractSet,
    /// Nothing of the contracts is in an earlier block.
    pub first_block: u64,
}

impl Description {
    /// Reads `stack.json`.
    ///
    /// # Errors
    /// [`StackError::Io`] when there is none, or it was written by another release.
    pub fn read(file: &Path) -> Result<Self, StackError> {
        let failed = || StackError::io(file.display().to_string());
        let text = std::fs::read(file).map_err(failed())?;
        serde_json::from_slice(&text).map_err(std::io::Error::other).map_err(failed())
    }

    /// The description in a directory that somebody named.
    ///
    /// # Errors
    /// [`StackError::Usage`] when there is none; else as [`Self::read`].
    pub fn of_directory(directory: &Path) -> Result<Self, StackError> {
        let file = directory.join(STACK_FILE);
        match file.try_exists() {
            Ok(false) => Err(StackError::Usage(format!(
                "--directory {}: there is no {STACK_FILE} in it. `kms-stack setup` writes one when it is done, and `kms-stack up` into its run \
                 directory, which is gone when that ends",
                directory.display()
            ))),
            Ok(true) | Err(_) => Self::read(&file),
        }
    }

    /// As `stack.json` holds it.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Nothing in it cannot be written: no maps, no floating-point numbers.
        serde_json::to_string_pretty(self).map_or_else(|_| String::new(), |text| text + "\n")
    }

    /// The chains that a connector follows, the Gateway first.
    #[must_use]
    pub fn chains(&self) -> Vec<FollowedChain> {
        let gateway = FollowedChain {
            name: "gateway",
            chain_id: self.contracts.gateway_chain_id,
            url: self.gateway.url.clone(),
            contracts: self.contracts.followed(),
            first_block: self.contracts.first_block,
        };
        let ethereum = self.ethereum.as_ref().zip(self.contracts.ethereum).zip(self.contracts.followed_on_ethereum());
        let ethereum = ethereum.map(|((place, ethereum), contracts)| FollowedChain {
            name: "ethereum",
            chain_id: ethereum.chain_id,
            url: place.url.clone(),
            contracts,
            first_block: ethereum.first_block,
        });
        [Some(gateway), ethereum].into_iter().flatten().collect()
    }

    /// What is deployed.
    #[must_use]
    pub fn deployment(&self) -> DeploymentConfig {
        let nodes: Vec<(Address, Address)> = self.nodes.iter().map(|node| (node.signer, node.sender)).collect();
        deployment(self.generation, &nodes, &self.buckets, &self.gateway, self.ethereum.as_ref())
    }

    /// Puts a ciphertext into a coprocessor's bucket as its generation does: under its digest in (a), under its handle and with the
    /// coprocessor's attestation in (b). What the contracts have to know of it is another matter: [`Requester::register`].
    ///
    /// # Errors
    /// The bucket does not answer or refuses.
    ///
    /// # Panics
    /// There is no such coprocessor.
    pub async fn put_ciphertext(
        &self,
        coprocessor: usize,
        material: &Material,
        body: Vec<u8>,
    ) -> Result<(), StackError> {
        let format = CiphertextFormat::CompressedOnCpu;
        let objects = Objects::new(&self.buckets[coprocessor]);
        let put = match self.generation {
            Generation::A => {
                let key = hex::encode(material.sns_ciphertext_digest);
                objects.put(&key, &[("ct-format", format.name())], body).await
            }
            Generation::B => {
                let attestation = attestation(&coprocessor_signer(coprocessor), material, format)
                    .map_err(|error| StackError::Contracts(chain_of(&error)))?;
                let metadata = [("ct-attestation", attestation.as_str())];
                objects.put(&attested_object(material.handle), &metadata, body).await
            }
        };
        put.map_err(|error| StackError::Job(format!("a ciphertext could not be uploaded: {}", chain_of(&error))))
    }

    /// The side that makes requests, connected to the chains themselves. Its accounts count their own nonces, so there can be only one at a
    /// time.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn requester(&self) -> Result<Requester, ContractsError> {
        let gateway = Node::new(&self.gateway.url)?;
        let host = self.ethereum.as_ref().map(|place| Node::new(&place.url)).transpose()?;
        self.requester_over(gateway, host).await
    }

    /// As [`Description::requester`], over these connections.
    pub(crate) async fn requester_over(&self, gateway: Node, host: Option<Node>) -> Result<Requester, ContractsError> {
        let sender = development_key("requester");
        gateway.fund(&[sender.address()]).await?;
        let coprocessors = (0..self.buckets.len()).map(coprocessor_sender).collect();
        let keys = RequesterKeys { owner: owner_key(), coprocessors, sender };
        Requester::over(gateway, host, self.contracts, keys).await
    }
}

pub(crate) fn owner_key() -> alloy::signers::local::PrivateKeySigner {
    development_key("owner of the contracts")
}

fn coprocessor_sender(index: usize) -> alloy::signers::local::PrivateKeySigner {
    development_key(&format!("coprocessor {} sender", index + 1))
}

fn coprocessor_signer(index: usize) -> alloy::signers::local::PrivateKeySigner {
    development_key(&format!("coprocessor {} signer", index + 1))
}

/// What is to be deployed for nodes with these signers and senders, and a coprocessor per bucket.
pub(crate) fn deployment(
    generation: Generation,
    nodes: &[(Address, Address)],
    buckets: &[String],
    gateway: &ChainPlace,
    ethereum: Option<&ChainPlace>,
) -> DeploymentConfig {
    let node = |(index, (signer, tx_sender)): (usize, &(Address, Address))| KmsNode {
        tx_sender: *tx_sender,
        signer: *signer,
        storage_url: format!("http://127.0.0.1/kms-node-{}", index + 1),
    };
    let coprocessor = |(index, bucket): (usize, &String)| Coprocessor {
        tx_sender: coprocessor_sender(index),
        signer: coprocessor_signer(index),
        s3_bucket_url: bucket.clone(),
    };
    DeploymentConfig {
        release: generation.release(),
        nodes: nodes.iter().enumerate().map(node).collect(),
        coprocessors: buckets.iter().enumerate().map(coprocessor).collect(),
        thresholds: Thresholds::of(nodes.len(), buckets.len()),
        host: HostChain {
            chain_id: ethereum.unwrap_or(gateway).chain_id,
            rpc_url: ethereum.map(|place| place.url.clone()),
        },
    }
}

/// What the topics' names of a node begin with: `{base}-connector` for one node alone, `{base}-node-1`, … for several.
pub(crate) fn topic_prefix(base: &str, nodes: usize, number: usize) -> String {
    match nodes {
        1 => format!("{base}-connector"),
        _ => format!("{base}-node-{number}"),
    }
}
