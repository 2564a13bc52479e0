//! A chain with a deployment, a KMS whose nodes the test plays, and prepared ciphertexts.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use kms_chain::contracts::{Decryption, KMSGeneration, KeyDigest};
use kms_chain::eip712::{self, Domain};
use kms_chain::event::{ResponseEvent, decode_response};
use kms_chain::release::Release;
use kms_schemas::identity::RequestId;
use kms_schemas::record::RawLog;
use kms_stack::contracts::{
    Account, Call, Contracts, Coprocessor, DeploymentConfig, HostChain, KmsNode, Made, Material, NewRequest, Node,
    Requester, RequesterKeys, Thresholds, UserRequest, fund, handle,
};
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_stack::{Workspace, WorkspaceOptions};

pub const GATEWAY_CHAIN: u64 = 31_337;
pub const HOST_CHAIN: u64 = 12_345;
pub const MINED: Duration = Duration::from_secs(60);
/// FHE type of the prepared handles: 64 bits.
pub const UINT64: u8 = 5;

/// A key that is the same in every run, so that gas is too.
pub fn key(name: &str) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(name)).unwrap()
}

/// A KMS node played by the test.
pub struct Kms {
    pub sender: Account,
    pub signer: PrivateKeySigner,
    pub storage_url: String,
}

/// What answers are signed under.
pub struct Domains {
    pub decryption: Domain,
    pub kms_generation: Domain,
}

pub struct World {
    pub node: Node,
    pub contracts: Contracts,
    pub requester: Requester,
    pub kms: Vec<Kms>,
    pub domains: Domains,
    // Dropped last: the chain, then what it runs in.
    _anvil: Anvil,
    _workspace: Workspace,
}

impl World {
    /// A deployment with so many KMS nodes, three coprocessors, and the thresholds of a real one.
    pub async fn of(nodes: usize) -> Self {
        Self::with(nodes, None).await
    }

    /// The same on a chain with a block every so often, instead of one for every transaction.
    pub async fn with(nodes: usize, block_time: Option<Duration>) -> Self {
        let workspace = Workspace::create(WorkspaceOptions::new(env!("CARGO_BIN_EXE_kms-stack"))).unwrap();
        let options = AnvilOptions { chain_id: GATEWAY_CHAIN, block_time, ..AnvilOptions::default() };
        let anvil = Anvil::start(&workspace, options).await.unwrap();
        let owner = key("owner");
        let coprocessors: Vec<Coprocessor> = (0..3).map(coprocessor).collect();
        let config = DeploymentConfig {
            release: Release::V0_11,
            nodes: (0..nodes).map(register_entry).collect(),
            coprocessors: coprocessors.clone(),
            thresholds: Thresholds::of(nodes, coprocessors.len()),
            host: HostChain { chain_id: HOST_CHAIN, rpc_url: None },
        };
        let contracts = Contracts::deploy(&anvil.url(), &owner, &config).await.unwrap();
        let sender = key("application");
        fund(&anvil.url(), &[sender.address()]).await.unwrap();
        let keys = RequesterKeys {
            owner,
            coprocessors: coprocessors.iter().map(|coprocessor| coprocessor.tx_sender.clone()).collect(),
            sender,
        };
        let requester = Requester::connect(&anvil.url(), None, contracts, keys).await.unwrap();
        let node = requester.gateway().clone();
        let mut kms = Vec::new();
        for index in 0..nodes {
            kms.push(Kms {
                sender: Account::open(&node, key(&format!("kms sender {index}"))).await.unwrap(),
                signer: key(&format!("kms signer {index}")),
                storage_url: storage_url(index),
            });
        }
        let domains = Domains {
            decryption: Domain::decryption(GATEWAY_CHAIN, contracts.decryption),
            kms_generation: Domain::kms_generation(GATEWAY_CHAIN, contracts.kms_generation),
        };
        Self { node, contracts, requester, kms, domains, _anvil: anvil, _workspace: workspace }
    }

    /// Another account with ether.
    pub async fn stranger(&self, name: &str) -> Account {
        let key = key(name);
        fund(self.node.url(), &[key.address()]).await.unwrap();
        Account::open(&self.node, key).await.unwrap()
    }

    /// Handles of one key that everybody may have decrypted.
    pub async fn public_handles(&self, count: usize, fhe_type: u8) -> Vec<B256> {
        let materials = self.materials(&format!("public {fhe_type}"), count, fhe_type, 1).await;
        let handles: Vec<B256> = materials.iter().map(|material| material.handle).collect();
        self.requester.allow_public(&handles).await.unwrap();
        handles
    }

    /// Committed ciphertexts that nobody may use yet.
    pub async fn materials(&self, name: &str, count: usize, fhe_type: u8, key: u8) -> Vec<Material> {
        let material = |index: usize| {
            let hash = keccak256(format!("{name} {index}"));
            Material {
                handle: handle(hash, HOST_CHAIN, fhe_type),
                key_id: tagged(4, key),
                ciphertext_digest: keccak256(hash),
                sns_ciphertext_digest: keccak256(keccak256(hash)),
            }
        };
        let materials: Vec<Material> = (0..count).map(material).collect();
        self.requester.register(&materials).await.unwrap();
        materials
    }

    pub async fn public_request(&self, handles: &[B256]) -> Made {
        let request = NewRequest::PublicDecryption { handles: handles.to_vec(), extra_data: Bytes::new() };
        self.requester.make(&request).await.unwrap()
    }

    /// A direct user decryption of the handles, with everything allowed that has to be.
    pub async fn user_request(&self, handles: &[B256], public_key: &Bytes) -> Made {
        let user = key("user");
        let contract = Address::repeat_byte(0xc0);
        let rights: Vec<(B256, Address)> =
            handles.iter().flat_map(|handle| [(*handle, user.address()), (*handle, contract)]).collect();
        self.requester.allow_accounts(&rights).await.unwrap();
        let request = user_request(handles, contract, public_key);
        self.requester.make(&NewRequest::UserDecryption { user, request }).await.unwrap()
    }

    // What a node answers, as the call that carries it.

    pub fn public_answer(&self, node: usize, id: RequestId, handles: &[B256], result: &Bytes) -> Call {
        let digest = self.domains.decryption.public_decryption(handles, result, &Bytes::new());
        self.public_call(id, result, &self.signature(node, digest))
    }

    pub fn public_call(&self, id: RequestId, result: &Bytes, signature: &Bytes) -> Call {
        call(
            self.contracts.decryption,
            &Decryption::publicDecryptionResponseCall {
                decryptionId: id.as_u256(),
                decryptedResult: result.clone(),
                signature: signature.clone(),
                extraData: Bytes::new(),
            },
        )
    }

    pub fn user_answer(&self, node: usize, id: RequestId, handles: &[B256], public_key: &Bytes, share: &Bytes) -> Call {
        let digest = self.domains.decryption.user_decryption(public_key, handles, share, &Bytes::new());
        self.user_call(id, share, &self.signature(node, digest))
    }

    pub fn user_call(&self, id: RequestId, share: &Bytes, signature: &Bytes) -> Call {
        call(
            self.contracts.decryption,
            &Decryption::userDecryptionResponseCall {
                decryptionId: id.as_u256(),
                userDecryptedShare: share.clone(),
                signature: signature.clone(),
                extraData: Bytes::new(),
            },
        )
    }

    pub fn prep_keygen_answer(&self, node: usize, id: RequestId) -> Call {
        self.prep_keygen_call(id, &self.signature(node, self.domains.kms_generation.prep_keygen(id)))
    }

    pub fn prep_keygen_call(&self, id: RequestId, signature: &Bytes) -> Call {
        call(
            self.contracts.kms_generation,
            &KMSGeneration::prepKeygenResponseCall { prepKeygenId: id.as_u256(), signature: signature.clone() },
        )
    }

    pub fn keygen_answer(&self, node: usize, prep: RequestId, id: RequestId, digests: &[KeyDigest]) -> Call {
        let signed: Vec<_> = digests
            .iter()
            .map(|digest| kms_schemas::record::KeyDigest { key_type: digest.keyType, digest: digest.digest.clone() })
            .collect();
        self.keygen_call(id, digests, &self.signature(node, self.domains.kms_generation.keygen(prep, id, &signed)))
    }

    pub fn keygen_call(&self, id: RequestId, digests: &[KeyDigest], signature: &Bytes) -> Call {
        call(
            self.contracts.kms_generation,
            &KMSGeneration::keygenResponseCall {
                keyId: id.as_u256(),
                keyDigests: digests.to_vec(),
                signature: signature.clone(),
            },
        )
    }

    pub fn crsgen_answer(&self, node: usize, id: RequestId, max_bit_length: u64, digest: &Bytes) -> Call {
        let signed = self.domains.kms_generation.crsgen(id, U256::from(max_bit_length), digest);
        self.crsgen_call(id, digest, &self.signature(node, signed))
    }

    pub fn crsgen_call(&self, id: RequestId, digest: &Bytes, signature: &Bytes) -> Call {
        call(
            self.contracts.kms_generation,
            &KMSGeneration::crsgenResponseCall {
                crsId: id.as_u256(),
                crsDigest: digest.clone(),
                signature: signature.clone(),
            },
        )
    }

    pub fn signature(&self, node: usize, digest: B256) -> Bytes {
        eip712::sign(&self.kms[node].signer, digest).unwrap()
    }

    /// Sends from a node's own account; the receipt of a success.
    pub async fn send(&self, node: usize, call: Call) -> TransactionReceipt {
        send(&self.kms[node].sender, call).await
    }

    /// Sends from a node's own account; the response events in their order.
    pub async fn answer(&self, node: usize, call: Call) -> Vec<ResponseEvent> {
        self.events(&self.send(node, call).await)
    }

    pub fn events(&self, receipt: &TransactionReceipt) -> Vec<ResponseEvent> {
        let logs = receipt.inner.logs().iter().map(|log| RawLog {
            address: log.address(),
            topics: log.topics().to_vec(),
            data: log.data().data.clone(),
        });
        logs.filter_map(|log| decode_response(&self.contracts.followed(), &log).unwrap()).collect()
    }

    /// What a call of a node reverts with.
    pub async fn revert(&self, node: usize, call: &Call) -> Bytes {
        revert(&self.kms[node].sender, call).await
    }

    pub async fn is_done(&self, id: RequestId) -> bool {
        let view = Decryption::isDecryptionDoneCall { decryptionId: id.as_u256() };
        self.node.view(self.contracts.decryption, &view).await.unwrap()
    }

    pub async fn decryption_responders(&self, id: RequestId) -> Vec<Address> {
        let view = Decryption::getDecryptionConsensusTxSendersCall { decryptionId: id.as_u256() };
        self.node.view(self.contracts.decryption, &view).await.unwrap()
    }

    pub fn senders(&self, nodes: &[usize]) -> Vec<Address> {
        nodes.iter().map(|node| self.kms[*node].sender.address()).collect()
    }
}

pub fn call<C: SolCall>(to: Address, function: &C) -> Call {
    Call { to: Some(to), data: function.abi_encode().into(), gas: 5_000_000 }
}

pub async fn send(account: &Account, call: Call) -> TransactionReceipt {
    let hashes = account.send(std::slice::from_ref(&call)).await.unwrap();
    let receipt = account.node().receipts(&hashes, MINED).await.unwrap().remove(0);
    assert!(receipt.status(), "reverted with {}", account.why_reverted(&call).await);
    receipt
}

pub async fn revert(account: &Account, call: &Call) -> Bytes {
    let error = account.node().simulate(account.address(), call).await.expect_err("the call passes");
    error.revert_data().unwrap_or_else(|| panic!("{error}")).clone()
}

/// The id with that tag and count.
pub fn tagged(tag: u8, count: u8) -> RequestId {
    let mut id = B256::with_last_byte(count);
    id[0] = tag;
    RequestId(id)
}

/// A result of one word.
pub fn word(value: u64) -> Bytes {
    U256::from(value).to_be_bytes::<32>().into()
}

pub fn user_request(handles: &[B256], contract: Address, public_key: &Bytes) -> UserRequest {
    UserRequest {
        pairs: handles.iter().map(|handle| (*handle, contract)).collect(),
        contracts: vec![contract],
        start: now() - 60,
        days: 1,
        public_key: public_key.clone(),
        extra_data: Bytes::new(),
    }
}

pub fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

pub fn register_entry(index: usize) -> KmsNode {
    KmsNode {
        tx_sender: key(&format!("kms sender {index}")).address(),
        signer: key(&format!("kms signer {index}")).address(),
        storage_url: storage_url(index),
    }
}

fn storage_url(index: usize) -> String {
    format!("https://kms-public-{index}.s3.eu-west-3.example.org")
}

pub fn coprocessor(index: usize) -> Coprocessor {
    Coprocessor {
        tx_sender: key(&format!("coprocessor sender {index}")),
        signer: key(&format!("coprocessor signer {index}")),
        s3_bucket_url: format!("http://127.0.0.1:9000/coprocessor-{index}"),
    }
}
