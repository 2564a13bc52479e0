//! A running simulator with its clients, and requests that it accepts.

use std::future::Future;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256, address};
use alloy::sol_types::Eip712Domain;
use kms_proto::core_service_endpoint_client::CoreServiceEndpointClient;
use kms_proto::kms::v1::*;
use kms_proto::meta_store_status_service_client::MetaStoreStatusServiceClient;
use kms_stack::simulator::{
    ControlClient, CoreVersion, Limits, Mode, Operation, RunningSimulator, SimulatorConfig, Waits, material, start,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub(crate) const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub(crate) const CONTRACT: Address = address!("0x5FbDB2315678afecb367f032d93F642f64180aa3");
pub(crate) const USER: Address = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
/// The address of [`KEY`].
pub(crate) const SIGNER: Address = address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
pub(crate) const CHAIN_ID: u64 = 54_321;

/// An id of a kind: the kind's number in the top byte, a counter in the others.
pub(crate) fn id(kind: u8, counter: u64) -> RequestId {
    let mut bytes = [0; 32];
    bytes[0] = kind;
    bytes[24..].copy_from_slice(&counter.to_be_bytes());
    kms_proto::id::to_message(&bytes)
}

pub(crate) fn public_id(counter: u64) -> RequestId {
    id(1, counter)
}

pub(crate) fn user_id(counter: u64) -> RequestId {
    id(2, counter)
}

pub(crate) fn prep_id(counter: u64) -> RequestId {
    id(3, counter)
}

/// Key 1 is there from the start.
pub(crate) fn key_id(counter: u64) -> RequestId {
    id(4, counter)
}

pub(crate) fn crs_id(counter: u64) -> RequestId {
    id(5, counter)
}

pub(crate) fn reshare_id(counter: u64) -> RequestId {
    id(6, counter)
}

pub(crate) fn context_id(counter: u64) -> RequestId {
    id(7, counter)
}

pub(crate) fn epoch_id(counter: u64) -> RequestId {
    id(8, counter)
}

/// Versions that have NewMpcEpoch, which is all from 0.13.10 on.
pub(crate) fn versions_with_epochs() -> Vec<CoreVersion> {
    CoreVersion::ALL.into_iter().filter(|&version| version >= CoreVersion::V0_13_10).collect()
}

/// The extra data that names a context and an epoch.
pub(crate) fn extra_data(context: u64, epoch: u64) -> Vec<u8> {
    let bytes = |id: RequestId| hex::decode(id.request_id).unwrap();
    [vec![2], bytes(context_id(context)), bytes(epoch_id(epoch))].concat()
}

/// An id as the number that is signed.
pub(crate) fn number(id: &RequestId) -> U256 {
    U256::from_be_slice(&hex::decode(&id.request_id).unwrap())
}

/// A handle of a type.
pub(crate) fn handle(counter: u8, fhe_type: u8) -> B256 {
    let mut handle = B256::repeat_byte(counter);
    handle[30] = fhe_type;
    handle[31] = 0;
    handle
}

pub(crate) fn ciphertext(counter: u8, fhe_type: u8) -> TypedCiphertext {
    TypedCiphertext {
        ciphertext: vec![counter; 64].into(),
        fhe_type: fhe_type.into(),
        external_handle: handle(counter, fhe_type).to_vec(),
        ciphertext_format: CiphertextFormat::BigCompressed.into(),
    }
}

pub(crate) fn domain_message(name: &str) -> Eip712DomainMsg {
    Eip712DomainMsg {
        name: name.to_owned(),
        version: "1".to_owned(),
        chain_id: U256::from(CHAIN_ID).to_be_bytes_vec(),
        verifying_contract: CONTRACT.to_string(),
        salt: None,
    }
}

pub(crate) fn domain(name: &str) -> Eip712Domain {
    Eip712Domain {
        name: Some(name.to_owned().into()),
        version: Some("1".into()),
        chain_id: Some(U256::from(CHAIN_ID)),
        verifying_contract: Some(CONTRACT),
        salt: None,
    }
}

pub(crate) fn public(counter: u64) -> PublicDecryptionRequest {
    PublicDecryptionRequest {
        request_id: Some(public_id(counter)),
        ciphertexts: vec![ciphertext(7, 5), ciphertext(8, 0)],
        key_id: Some(key_id(1)),
        domain: Some(domain_message("Decryption")),
        extra_data: vec![0],
        ..PublicDecryptionRequest::default()
    }
}

pub(crate) fn user(counter: u64) -> UserDecryptionRequest {
    UserDecryptionRequest {
        request_id: Some(user_id(counter)),
        typed_ciphertexts: vec![ciphertext(7, 5), ciphertext(8, 0)],
        key_id: Some(key_id(1)),
        client_address: USER.to_string(),
        enc_key: material::user_public_key(1),
        domain: Some(domain_message("Decryption")),
        extra_data: vec![0],
        ..UserDecryptionRequest::default()
    }
}

pub(crate) fn prep(counter: u64) -> KeyGenPreprocRequest {
    KeyGenPreprocRequest {
        request_id: Some(prep_id(counter)),
        params: FheParameter::Test.into(),
        domain: Some(domain_message("KMSGeneration")),
        ..KeyGenPreprocRequest::default()
    }
}

pub(crate) fn keygen(counter: u64, prep: u64) -> KeyGenRequest {
    KeyGenRequest {
        request_id: Some(key_id(counter)),
        preproc_id: Some(prep_id(prep)),
        domain: Some(domain_message("KMSGeneration")),
        ..KeyGenRequest::default()
    }
}

pub(crate) fn crsgen(counter: u64) -> CrsGenRequest {
    CrsGenRequest {
        request_id: Some(crs_id(counter)),
        params: FheParameter::Test.into(),
        max_num_bits: Some(1024),
        domain: Some(domain_message("KMSGeneration")),
        ..CrsGenRequest::default()
    }
}

pub(crate) fn reshare(counter: u64) -> InitiateResharingRequest {
    InitiateResharingRequest {
        request_id: Some(reshare_id(counter)),
        key_id: Some(key_id(1)),
        preproc_id: Some(prep_id(1)),
        key_parameters: FheParameter::Test.into(),
        domain: Some(domain_message("KMSGeneration")),
        ..InitiateResharingRequest::default()
    }
}

/// Waits so short that a Get of a running operation answers at once.
pub(crate) fn short_waits() -> Waits {
    Waits::all(1)
}

/// A context of four nodes, of which this one is the first.
pub(crate) fn mpc_context(counter: u64) -> MpcContext {
    let node = |party_id: i32| MpcNode {
        mpc_identity: format!("node-{party_id}"),
        party_id,
        signer_address: Some(if party_id == 1 { SIGNER.to_vec() } else { vec![party_id.unsigned_abs() as u8; 20] }),
        external_url: format!("http://127.0.0.1:{}", 50_000 + party_id),
        ca_cert: Some(b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n".to_vec()),
        public_storage_url: "http://127.0.0.1:9000".to_owned(),
        extra_signer_addresses: vec![vec![7; 20]],
        ..MpcNode::default()
    };
    MpcContext {
        mpc_nodes: (1..=4).map(node).collect(),
        context_id: Some(context_id(counter)),
        software_version: "0.15.0".to_owned(),
        threshold: 1,
        pcr_values: vec![],
    }
}

pub(crate) fn new_context(counter: u64) -> NewMpcContextRequest {
    NewMpcContextRequest { new_context: Some(mpc_context(counter)) }
}

pub(crate) fn destroy_context(counter: u64) -> DestroyMpcContextRequest {
    DestroyMpcContextRequest { context_id: Some(context_id(counter)) }
}

/// An epoch of the default context that takes nothing over.
pub(crate) fn new_epoch(counter: u64) -> NewMpcEpochRequest {
    NewMpcEpochRequest {
        context_id: Some(context_id(1)),
        epoch_id: Some(epoch_id(counter)),
        domain: Some(domain_message("ProtocolConfig")),
        extra_data: extra_data(1, counter),
        ..NewMpcEpochRequest::default()
    }
}

pub(crate) fn destroy_epoch(counter: u64) -> DestroyMpcEpochRequest {
    DestroyMpcEpochRequest { epoch_id: Some(epoch_id(counter)) }
}

pub(crate) struct World {
    pub(crate) node: RunningSimulator,
    pub(crate) core: CoreServiceEndpointClient<Channel>,
    pub(crate) control: ControlClient,
    _stop: DropGuard,
}

pub(crate) fn config() -> SimulatorConfig {
    let mut config = SimulatorConfig::with_key(KEY);
    config.control = Some(([127, 0, 0, 1], 0).into());
    config.keys = vec![key_id(1).request_id];
    config
}

impl World {
    /// A threshold node, party 1 of 4.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A threshold node whose Gets do not wait.
    pub(crate) async fn impatient() -> Self {
        Self::with(|config| config.wait_ms = short_waits()).await
    }

    pub(crate) async fn centralized() -> Self {
        Self::with(|config| {
            config.mode = Mode::Centralized;
            config.wait_ms = short_waits();
        })
        .await
    }

    /// A node of a version, which is a threshold node, party 1 of 4, or a centralized one.
    pub(crate) async fn of(version: CoreVersion, mode: Mode) -> Self {
        Self::with(|config| {
            config.version = version;
            config.mode = mode;
        })
        .await
    }

    /// A threshold node of a version.
    pub(crate) async fn threshold(version: CoreVersion) -> Self {
        Self::of(version, Mode::Threshold).await
    }

    pub(crate) async fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        Self::with(|config| {
            config.wait_ms = short_waits();
            change(&mut config.limits);
        })
        .await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut SimulatorConfig)) -> Self {
        let mut config = config();
        change(&mut config);
        let shutdown = CancellationToken::new();
        let node = start(config, shutdown.clone()).await.unwrap();
        let control = ControlClient::new(node.control_address().unwrap());
        let core = core_client(channel(&node));
        Self { node, core, control, _stop: shutdown.drop_guard() }
    }

    pub(crate) fn introspection(&self) -> MetaStoreStatusServiceClient<Channel> {
        MetaStoreStatusServiceClient::new(channel(&self.node))
    }

    pub(crate) async fn hold(&self, operation: Operation) {
        self.control.hold(operation).await.unwrap();
    }

    pub(crate) async fn release(&self, operation: Operation) {
        self.control.release(operation).await.unwrap();
    }

    /// Waits until so many calls of an RPC have arrived.
    pub(crate) async fn until_called(&self, rpc: &str, calls: u64) {
        eventually(|| async { self.control.calls().await.unwrap().count(rpc) >= calls }).await;
    }

    /// A key made from a preprocessing.
    pub(crate) async fn make_key(&mut self, counter: u64, prep_counter: u64) -> KeyGenResult {
        self.make_key_with(keygen(counter, prep_counter), prep(prep_counter)).await
    }

    /// A key made from requests of its own.
    pub(crate) async fn make_key_with(&mut self, key: KeyGenRequest, prep: KeyGenPreprocRequest) -> KeyGenResult {
        let (key_id, prep_id) = (key.request_id.clone().unwrap(), prep.request_id.clone().unwrap());
        self.core.key_gen_preproc(prep).await.unwrap();
        until_done(|| self.core.clone().get_prep_owned(prep_id.clone())).await;
        self.core.key_gen(key).await.unwrap();
        until_done(|| self.core.clone().get_key_gen_result_owned(key_id.clone())).await
    }

    /// A CRS.
    pub(crate) async fn make_crs(&mut self, request: CrsGenRequest) -> CrsGenResult {
        let id = request.request_id.clone().unwrap();
        self.core.crs_gen(request).await.unwrap();
        until_done(|| self.core.clone().get_crs_owned(id.clone())).await
    }

    /// An epoch, made.
    pub(crate) async fn make_epoch(&mut self, request: NewMpcEpochRequest) -> EpochResultResponse {
        let id = request.epoch_id.clone().unwrap();
        self.core.new_mpc_epoch(request).await.unwrap();
        until_done(|| self.core.clone().get_epoch_owned(id.clone())).await
    }
}

/// A channel that connects when it is first used.
pub(crate) fn channel(node: &RunningSimulator) -> Channel {
    Endpoint::from_shared(node.endpoint()).unwrap().connect_lazy()
}

pub(crate) fn core_client(channel: Channel) -> CoreServiceEndpointClient<Channel> {
    CoreServiceEndpointClient::new(channel)
        .max_decoding_message_size(kms_proto::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(kms_proto::MAX_MESSAGE_BYTES)
}

/// Result calls that own their client, so that they can be repeated or spawned.
pub(crate) trait OwnedCalls: Sized {
    fn get_public_owned(self, id: RequestId) -> impl Future<Output = Result<PublicDecryptionResponse, Status>> + Send;
    fn get_user_owned(self, id: RequestId) -> impl Future<Output = Result<UserDecryptionResponse, Status>> + Send;
    fn get_prep_owned(self, id: RequestId) -> impl Future<Output = Result<KeyGenPreprocResult, Status>> + Send;
    fn get_key_gen_result_owned(self, id: RequestId) -> impl Future<Output = Result<KeyGenResult, Status>> + Send;
    fn get_crs_owned(self, id: RequestId) -> impl Future<Output = Result<CrsGenResult, Status>> + Send;
    fn get_epoch_owned(self, id: RequestId) -> impl Future<Output = Result<EpochResultResponse, Status>> + Send;
    fn get_resharing_owned(self, id: RequestId)
    -> impl Future<Output = Result<ResharingResultResponse, Status>> + Send;
}

impl OwnedCalls for CoreServiceEndpointClient<Channel> {
    async fn get_public_owned(mut self, id: RequestId) -> Result<PublicDecryptionResponse, Status> {
        self.get_public_decryption_result(id).await.map(tonic::Response::into_inner)
    }

    async fn get_user_owned(mut self, id: RequestId) -> Result<UserDecryptionResponse, Status> {
        self.get_user_decryption_result(id).await.map(tonic::Response::into_inner)
    }

    async fn get_prep_owned(mut self, id: RequestId) -> Result<KeyGenPreprocResult, Status> {
        self.get_key_gen_preproc_result(id).await.map(tonic::Response::into_inner)
    }

    async fn get_key_gen_result_owned(mut self, id: RequestId) -> Result<KeyGenResult, Status> {
        CoreServiceEndpointClient::get_key_gen_result(&mut self, id).await.map(tonic::Response::into_inner)
    }

    async fn get_crs_owned(mut self, id: RequestId) -> Result<CrsGenResult, Status> {
        self.get_crs_gen_result(id).await.map(tonic::Response::into_inner)
    }

    async fn get_epoch_owned(mut self, id: RequestId) -> Result<EpochResultResponse, Status> {
        self.get_epoch_result(id).await.map(tonic::Response::into_inner)
    }

    async fn get_resharing_owned(mut self, id: RequestId) -> Result<ResharingResultResponse, Status> {
        CoreServiceEndpointClient::get_resharing_result(&mut self, id).await.map(tonic::Response::into_inner)
    }
}

/// Repeats a Get while it answers UNAVAILABLE.
pub(crate) async fn until_done<T, F>(mut get: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, Status>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match get().await {
            Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer.unwrap(),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(2);

/// Waits until a condition holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "the condition does not come true");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The code of an answer.
#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}
