//! The same for generation (b): Gateway and Ethereum host on one chain, and a KMS whose nodes the test plays.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::rpc::types::TransactionReceipt;
use alloy::sol_types::SolCall;
use kms_chain::contracts::{Decryption, KeyDigest, b};
use kms_chain::eip712::{self, Domain};
use kms_chain::event::{Decoded, ResponseEvent, decode_request, decode_response};
use kms_chain::extra_data::ExtraData;
use kms_chain::release::Release;
use kms_schemas::identity::RequestId;
use kms_schemas::record::{HandleEntry, RawLog};
use kms_stack::contracts::{
    Account, Call, ContextDefinition, Contracts, Coprocessor, DeploymentConfig, Ethereum, HostChain, Made, Material,
    NewRequest, Node, Requester, RequesterKeys, Thresholds, UnifiedRequest, UserRequest, fund, handle,
};
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_stack::{Workspace, WorkspaceOptions};

use super::world::{
    GATEWAY_CHAIN, HOST_CHAIN, Kms, UINT64, call, coprocessor, key, now, register_entry, revert, send, tagged,
};

pub const APPLICATION: Address = Address::repeat_byte(0xc0);
pub const CRS_BITS: u64 = 2_048;

pub struct Network {
    pub node: Node,
    pub contracts: Contracts,
    pub requester: Requester,
    pub kms: Vec<Kms>,
    pub decryption: Domain,
    pub key_generation: Domain,
    pub protocol_config: Domain,
    pub config: DeploymentConfig,
    _anvil: Anvil,
    _workspace: Workspace,
}

impl Network {
    pub async fn of(nodes: usize) -> Self {
        Self::with(nodes, Release::V0_15).await
    }

    pub async fn with(nodes: usize, release: Release) -> Self {
        let workspace = Workspace::create(WorkspaceOptions::new(env!("CARGO_BIN_EXE_kms-stack"))).unwrap();
        let options = AnvilOptions { chain_id: GATEWAY_CHAIN, ..AnvilOptions::default() };
        let anvil = Anvil::start(&workspace, options).await.unwrap();
        let coprocessors: Vec<Coprocessor> = (0..3).map(coprocessor).collect();
        let config = DeploymentConfig {
            release,
            nodes: (0..nodes).map(register_entry).collect(),
            thresholds: Thresholds::of(nodes, coprocessors.len()),
            coprocessors,
            host: HostChain { chain_id: HOST_CHAIN, rpc_url: None },
        };
        let contracts = Contracts::deploy(&anvil.url(), &key("owner"), &config).await.unwrap();
        let sender = key("application");
        // Nodes 4 to 7 are there to be a later context's.
        let spare: Vec<Address> = (nodes..nodes + 4).map(|index| register_entry(index).tx_sender).collect();
        fund(&anvil.url(), &[spare.as_slice(), &[sender.address()]].concat()).await.unwrap();
        let keys = RequesterKeys {
            owner: key("owner"),
            coprocessors: config.coprocessors.iter().map(|coprocessor| coprocessor.tx_sender.clone()).collect(),
            sender,
        };
        let requester = Requester::connect(&anvil.url(), None, contracts, keys).await.unwrap();
        let node = requester.gateway().clone();
        let mut kms = Vec::new();
        for index in 0..nodes + 4 {
            kms.push(Kms {
                sender: Account::open(&node, key(&format!("kms sender {index}"))).await.unwrap(),
                signer: key(&format!("kms signer {index}")),
                storage_url: register_entry(index).storage_url,
            });
        }
        Self {
            decryption: Domain::decryption(GATEWAY_CHAIN, contracts.decryption),
            key_generation: Domain::kms_generation(GATEWAY_CHAIN, contracts.kms_generation),
            protocol_config: Domain::protocol_config(GATEWAY_CHAIN, contracts.ethereum.unwrap().protocol_config),
            node,
            contracts,
            requester,
            kms,
            config,
            _anvil: anvil,
            _workspace: workspace,
        }
    }

    pub fn ethereum(&self) -> Ethereum {
        self.contracts.ethereum.unwrap()
    }

    /// A context of the nodes with these numbers.
    pub fn context_of(&self, nodes: std::ops::Range<usize>) -> ContextDefinition {
        ContextDefinition {
            thresholds: Thresholds::of(nodes.len(), 3),
            nodes: nodes.map(register_entry).collect(),
            software_version: "0.15.0".to_owned(),
        }
    }

    pub async fn materials(&self, name: &str, count: usize) -> Vec<Material> {
        let material = |index: usize| {
            let hash = keccak256(format!("{name} {index}"));
            Material {
                handle: handle(hash, HOST_CHAIN, UINT64),
                key_id: tagged(4, 1),
                ciphertext_digest: keccak256(hash),
                sns_ciphertext_digest: keccak256(keccak256(hash)),
            }
        };
        let materials: Vec<Material> = (0..count).map(material).collect();
        self.requester.register(&materials).await.unwrap();
        materials
    }

    pub async fn handles(&self, count: usize) -> Vec<B256> {
        self.materials("handle", count).await.iter().map(|material| material.handle).collect()
    }

    pub async fn make(&self, request: &NewRequest) -> Made {
        self.requester.make(request).await.unwrap()
    }

    pub async fn refusal(&self, request: &NewRequest) -> Bytes {
        let error = self.requester.make(request).await.expect_err("the request is made");
        error.revert_data().unwrap_or_else(|| panic!("{error}")).clone()
    }

    pub async fn public_request(&self, handles: &[B256], extra_data: &Bytes) -> RequestId {
        self.make(&public(handles, extra_data)).await.id
    }

    pub async fn user_request(&self, handles: &[B256], public_key: &Bytes, extra_data: &Bytes) -> RequestId {
        let request = legacy(handles, public_key, extra_data);
        self.make(&NewRequest::UserDecryption { user: key("user"), request }).await.id
    }

    pub fn signature(&self, node: usize, digest: B256) -> Bytes {
        eip712::sign(&self.kms[node].signer, digest).unwrap()
    }

    // What a node answers, as the call that carries it.

    pub fn public_answer(
        &self,
        node: usize,
        id: RequestId,
        handles: &[B256],
        result: &Bytes,
        extra_data: &Bytes,
    ) -> Call {
        let digest = self.decryption.public_decryption(handles, result, extra_data);
        let signature = self.signature(node, digest);
        self.public_call(id, result, &signature, extra_data)
    }

    pub fn public_call(&self, id: RequestId, result: &Bytes, signature: &Bytes, extra_data: &Bytes) -> Call {
        let function = Decryption::publicDecryptionResponseCall {
            decryptionId: id.as_u256(),
            decryptedResult: result.clone(),
            signature: signature.clone(),
            extraData: extra_data.clone(),
        };
        call(self.contracts.decryption, &function)
    }

    pub fn user_answer(
        &self,
        node: usize,
        id: RequestId,
        (handles, public_key): (&[B256], &Bytes),
        share: &Bytes,
        extra_data: &Bytes,
    ) -> Call {
        let digest = self.decryption.user_decryption(public_key, handles, share, extra_data);
        self.user_call(id, share, &self.signature(node, digest), extra_data)
    }

    pub fn user_call(&self, id: RequestId, share: &Bytes, signature: &Bytes, extra_data: &Bytes) -> Call {
        let function = Decryption::userDecryptionResponseCall {
            decryptionId: id.as_u256(),
            userDecryptedShare: share.clone(),
            signature: signature.clone(),
            extraData: extra_data.clone(),
        };
        call(self.contracts.decryption, &function)
    }

    pub fn prep_keygen_call(&self, id: RequestId, signature: &Bytes) -> Call {
        let function =
            b::KMSGeneration::prepKeygenResponseCall { prepKeygenId: id.as_u256(), signature: signature.clone() };
        call(self.contracts.kms_generation, &function)
    }

    pub fn prep_keygen_answer(&self, node: usize, id: RequestId, extra_data: &Bytes) -> Call {
        let digest = self.key_generation.prep_keygen_with(id, extra_data);
        self.prep_keygen_call(id, &self.signature(node, digest))
    }

    pub fn keygen_call(&self, id: RequestId, digests: &[KeyDigest], signature: &Bytes) -> Call {
        let function = b::KMSGeneration::keygenResponseCall {
            keyId: id.as_u256(),
            keyDigests: digests.to_vec(),
            signature: signature.clone(),
        };
        call(self.contracts.kms_generation, &function)
    }

    pub fn keygen_answer(
        &self,
        node: usize,
        (prep, id): (RequestId, RequestId),
        digests: &[KeyDigest],
        extra_data: &Bytes,
    ) -> Call {
        let digest = self.key_generation.keygen_with(prep, id, &signed(digests), extra_data);
        self.keygen_call(id, digests, &self.signature(node, digest))
    }

    pub fn crsgen_call(&self, id: RequestId, digest: &Bytes, signature: &Bytes) -> Call {
        let function = b::KMSGeneration::crsgenResponseCall {
            crsId: id.as_u256(),
            crsDigest: digest.clone(),
            signature: signature.clone(),
        };
        call(self.contracts.kms_generation, &function)
    }

    pub fn crsgen_answer(&self, node: usize, id: RequestId, digest: &Bytes, extra_data: &Bytes) -> Call {
        let signed = self.key_generation.crsgen_with(id, U256::from(CRS_BITS), digest, extra_data);
        self.crsgen_call(id, digest, &self.signature(node, signed))
    }

    pub fn context_confirmation(&self, context: RequestId) -> Call {
        let function = b::ProtocolConfig::confirmKmsContextCreationCall { kmsContextId: context.as_u256() };
        call(self.ethereum().protocol_config, &function)
    }

    /// A node's confirmation of an epoch with the first key and the first CRS.
    pub fn epoch_confirmation(&self, node: usize, named: (RequestId, RequestId)) -> Call {
        let key = self.protocol_config.epoch_key(named, tagged(3, 1), tagged(4, 1), &signed(&key_digests()));
        let crs = self.protocol_config.epoch_crs(named, tagged(5, 1), U256::from(CRS_BITS), &crs_digest());
        self.epoch_call(named.1, &[self.signature(node, key)], &[self.signature(node, crs)])
    }

    pub fn epoch_call(&self, epoch: RequestId, keys: &[Bytes], crs_list: &[Bytes]) -> Call {
        let key = |signature: &Bytes| b::EpochKeyResult {
            prepKeygenId: tagged(3, 1).as_u256(),
            keyId: tagged(4, 1).as_u256(),
            keyDigests: key_digests(),
            signature: signature.clone(),
        };
        let crs = |signature: &Bytes| b::EpochCrsResult {
            crsId: tagged(5, 1).as_u256(),
            maxBitLength: U256::from(CRS_BITS),
            crsDigest: crs_digest(),
            signature: signature.clone(),
        };
        let function = b::ProtocolConfig::confirmEpochActivationCall {
            epochId: epoch.as_u256(),
            keys: keys.iter().map(key).collect(),
            crsList: crs_list.iter().map(crs).collect(),
        };
        call(self.ethereum().protocol_config, &function)
    }

    /// The first key and the first CRS, made by nodes 0 to 2 of the first context.
    pub async fn key_material(&self) {
        let extra_data = naming(1, 1);
        let (prep, id) = (self.make(&NewRequest::Keygen { params_type: 1 }).await.id, tagged(4, 1));
        let crs = self.make(&crsgen()).await.id;
        for node in 0..self.config.thresholds.kms_gen as usize {
            self.send(node, self.prep_keygen_answer(node, prep, &extra_data)).await;
        }
        for node in 0..self.config.thresholds.kms_gen as usize {
            self.send(node, self.keygen_answer(node, (prep, id), &key_digests(), &extra_data)).await;
            self.send(node, self.crsgen_answer(node, crs, &crs_digest(), &extra_data)).await;
        }
    }

    /// A context defined and confirmed by all of `confirming`; it has a pending epoch then.
    pub async fn new_context(&self, nodes: std::ops::Range<usize>, confirming: &[usize]) -> RequestId {
        let context = self.make(&NewRequest::NewContextAndEpoch(Box::new(self.context_of(nodes)))).await.id;
        for node in confirming {
            self.send(*node, self.context_confirmation(context)).await;
        }
        context
    }

    /// Has nodes confirm an epoch.
    pub async fn activate(&self, nodes: std::ops::Range<usize>, named: (RequestId, RequestId)) {
        for node in nodes {
            self.send(node, self.epoch_confirmation(node, named)).await;
        }
    }

    pub async fn send(&self, node: usize, call: Call) -> TransactionReceipt {
        send(&self.kms[node].sender, call).await
    }

    pub async fn answer(&self, node: usize, call: Call) -> Vec<ResponseEvent> {
        self.events(&self.send(node, call).await)
    }

    pub async fn revert(&self, node: usize, call: &Call) -> Bytes {
        revert(&self.kms[node].sender, call).await
    }

    pub fn events(&self, receipt: &TransactionReceipt) -> Vec<ResponseEvent> {
        let sets = [self.contracts.followed(), self.contracts.followed_on_ethereum().unwrap()];
        let of = |log: &RawLog| sets.iter().find_map(|set| decode_response(set, log).unwrap());
        logs(receipt).iter().filter_map(of).collect()
    }

    /// The requests in a receipt, as this release's connector reads them.
    pub fn requests(&self, receipt: &TransactionReceipt) -> Vec<Decoded> {
        let sets = [self.contracts.followed(), self.contracts.followed_on_ethereum().unwrap()];
        let of = |log: &RawLog| sets.iter().find_map(|set| decode_request(set, log).unwrap());
        logs(receipt).iter().filter_map(of).collect()
    }

    pub async fn receipt(&self, made: Made) -> TransactionReceipt {
        self.node.receipts(&[made.transaction], super::world::MINED).await.unwrap().remove(0)
    }

    pub async fn gateway<C: SolCall>(&self, function: C) -> C::Return {
        self.node.view(self.contracts.gateway_config, &function).await.unwrap()
    }

    pub async fn generation<C: SolCall>(&self, function: C) -> C::Return {
        self.node.view(self.contracts.kms_generation, &function).await.unwrap()
    }

    pub async fn protocol<C: SolCall>(&self, function: C) -> C::Return {
        self.node.view(self.ethereum().protocol_config, &function).await.unwrap()
    }

    pub async fn view_refusal<C: SolCall>(&self, to: Address, function: C) -> Bytes {
        let refused = self.node.view(to, &function).await.err().expect("the view answers");
        refused.revert_data().unwrap_or_else(|| panic!("{refused}")).clone()
    }

    pub async fn as_owner<C: SolCall>(&self, to: Address, function: C) {
        send(self.requester.owner(), call(to, &function)).await;
    }
}

pub fn logs(receipt: &TransactionReceipt) -> Vec<RawLog> {
    let log = |log: &alloy::rpc::types::Log| RawLog {
        address: log.address(),
        topics: log.topics().to_vec(),
        data: log.data().data.clone(),
    };
    receipt.inner.logs().iter().map(log).collect()
}

pub fn public(handles: &[B256], extra_data: &Bytes) -> NewRequest {
    NewRequest::PublicDecryption { handles: handles.to_vec(), extra_data: extra_data.clone() }
}

pub fn legacy(handles: &[B256], public_key: &Bytes, extra_data: &Bytes) -> UserRequest {
    UserRequest {
        pairs: handles.iter().map(|handle| (*handle, APPLICATION)).collect(),
        contracts: vec![APPLICATION],
        start: now() - 60,
        days: 1,
        public_key: public_key.clone(),
        extra_data: extra_data.clone(),
    }
}

pub fn unified(handles: &[B256], owner: Address) -> UnifiedRequest {
    let entry = |handle: &B256| HandleEntry { handle: *handle, contract: APPLICATION, owner };
    UnifiedRequest {
        entries: handles.iter().map(entry).collect(),
        allowed_contracts: vec![APPLICATION],
        start: now() - 60,
        duration_seconds: 3_600,
        public_key: Bytes::from(vec![5; 64]),
        extra_data: Bytes::new(),
    }
}

pub fn crsgen() -> NewRequest {
    NewRequest::Crsgen { max_bit_length: U256::from(CRS_BITS), params_type: 1 }
}

/// Extra data that names a context and an epoch.
pub fn naming(context: u8, epoch: u8) -> Bytes {
    ExtraData::ContextAndEpoch(tagged(7, context), tagged(8, epoch)).to_bytes()
}

/// Extra data that names a context.
pub fn naming_context(context: u8) -> Bytes {
    ExtraData::Context(tagged(7, context)).to_bytes()
}

/// Digests as of a compressed key set: public key, then key set.
pub fn key_digests() -> Vec<KeyDigest> {
    let digest = |key_type: u8| KeyDigest { keyType: key_type, digest: keccak256([key_type]).to_vec().into() };
    vec![digest(1), digest(3)]
}

pub fn signed(digests: &[KeyDigest]) -> Vec<kms_schemas::record::KeyDigest> {
    let one = |one: &KeyDigest| kms_schemas::record::KeyDigest { key_type: one.keyType, digest: one.digest.clone() };
    digests.iter().map(one).collect()
}

pub fn crs_digest() -> Bytes {
    keccak256("crs").to_vec().into()
}
