//! Counterparts for tests: a KMS Core that answers by a script, and buckets made of a table. Real gRPC and HTTP framing.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::{Address, address};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response as HttpResponse};
use kms_chain::eip712::{Domain, Domains};
use kms_chain::event::ContractSet;
use kms_chain::release::Release;
use kms_chain::rpc::{BlockId, Rpc};
use kms_proto::core_service_endpoint_server::{CoreServiceEndpoint, CoreServiceEndpointServer};
use kms_proto::kms::v1 as kms;
use kms_runtime::stage::Answered;
use prost::Message;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use crate::answer::Verifier;
use crate::ciphertext::CiphertextStore;
use crate::config::{CiphertextsConfig, CoreVersion, KmsCoreConfig};
use crate::coprocessors::Coprocessors;
use crate::core::KmsCore;
use crate::mock::MockChain;
use crate::operation::{GenerationChain, Work};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// --- KMS Core -------------------------------------------------------------------------------------------------------

type Step = Result<Vec<u8>, Code>;

/// A KMS Core that answers each call by the next step of its script; the last one is repeated. A call without a script is
/// UNIMPLEMENTED.
#[derive(Clone)]
pub(crate) struct ScriptedCore {
    url: String,
    shared: Arc<Script>,
}

#[derive(Default)]
struct Script {
    steps: Mutex<HashMap<&'static str, VecDeque<Step>>>,
    calls: Mutex<Vec<(&'static str, Vec<u8>)>>,
}

impl Script {
    fn answer<M: Message, R: Message + Default>(
        &self,
        call: &'static str,
        request: &Request<M>,
    ) -> Result<Response<R>, Status> {
        lock(&self.calls).push((call, request.get_ref().encode_to_vec()));
        let mut steps = lock(&self.steps);
        let script = steps.get_mut(call).ok_or_else(|| Status::unimplemented("no script"))?;
        let step = if script.len() > 1 { script.pop_front() } else { script.front().cloned() };
        match step.expect("a script has a step") {
            Ok(bytes) => Ok(Response::new(R::decode(&*bytes).expect("the script holds this message"))),
            Err(code) => Err(Status::new(code, "scripted")),
        }
    }
}

struct Scripted(Arc<Script>);

macro_rules! scripted {
    ($($method:ident: $request:ident => $response:ident;)*) => {
        #[tonic::async_trait]
        impl CoreServiceEndpoint for Scripted {
            $(async fn $method(&self, request: Request<kms::$request>) -> Result<Response<kms::$response>, Status> {
                self.0.answer(stringify!($method), &request)
            })*
        }
    };
}

scripted! {
    init: InitRequest => Empty;
    public_decrypt: PublicDecryptionRequest => Empty;
    get_public_decryption_result: RequestId => PublicDecryptionResponse;
    user_decrypt: UserDecryptionRequest => Empty;
    get_user_decryption_result: RequestId => UserDecryptionResponse;
    key_gen_preproc: KeyGenPreprocRequest => Empty;
    get_key_gen_preproc_result: RequestId => KeyGenPreprocResult;
    key_gen: KeyGenRequest => Empty;
    get_key_gen_result: RequestId => KeyGenResult;
    crs_gen: CrsGenRequest => Empty;
    get_crs_gen_result: RequestId => CrsGenResult;
    initiate_resharing: InitiateResharingRequest => InitiateResharingResponse;
    get_resharing_result: RequestId => ResharingResultResponse;
    abort_key_gen: RequestId => Empty;
    abort_crs_gen: RequestId => Empty;
    new_mpc_context: NewMpcContextRequest => Empty;
    destroy_mpc_context: DestroyMpcContextRequest => DestroyMpcContextResponse;
    new_mpc_epoch: NewMpcEpochRequest => Empty;
    get_epoch_result: RequestId => EpochResultResponse;
    destroy_mpc_epoch: DestroyMpcEpochRequest => Empty;
    get_key_material_availability: Empty => KeyMaterialAvailabilityResponse;
    get_health_status: Empty => HealthStatusResponse;
}

impl ScriptedCore {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Script::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = CoreServiceEndpointServer::new(Scripted(Arc::clone(&shared)));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Self { url, shared }
    }

    fn step(&self, call: &'static str, step: Step) {
        lock(&self.shared.steps).entry(call).or_default().push_back(step);
    }

    /// The next answer to this call.
    pub(crate) fn answers(&self, call: &'static str, message: &impl Message) {
        self.step(call, Ok(message.encode_to_vec()));
    }

    /// The next answer to this call is an empty message.
    pub(crate) fn accepts(&self, call: &'static str) {
        self.step(call, Ok(Vec::new()));
    }

    /// The next answer to this call is this status.
    pub(crate) fn refuses(&self, call: &'static str, code: Code) {
        self.step(call, Err(code));
    }

    /// Names of the calls so far, in order.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        lock(&self.shared.calls).iter().map(|(call, _)| *call).collect()
    }

    /// How often this was called.
    pub(crate) fn count(&self, call: &str) -> usize {
        lock(&self.shared.calls).iter().filter(|(made, _)| *made == call).count()
    }

    /// The bytes of every request of this call, in order.
    pub(crate) fn requests(&self, call: &str) -> Vec<Vec<u8>> {
        lock(&self.shared.calls).iter().filter(|(made, _)| *made == call).map(|(_, bytes)| bytes.clone()).collect()
    }

    /// A client of this core.
    pub(crate) fn client(&self, version: CoreVersion) -> KmsCore {
        self.client_up_to(version, 1 << 24)
    }

    /// A client of these cores as shards.
    pub(crate) fn shards(cores: &[&Self], version: CoreVersion) -> KmsCore {
        let urls: Vec<&str> = cores.iter().map(|core| core.url.as_str()).collect();
        let config = serde_json::from_value(serde_json::json!({ "endpoints": urls, "await_pause_ms": 20 }));
        KmsCore::new(&config.unwrap(), version).unwrap()
    }

    /// A client of this core for messages of so many bytes.
    pub(crate) fn client_up_to(&self, version: CoreVersion, max_message_bytes: usize) -> KmsCore {
        let config: KmsCoreConfig = serde_json::from_value(serde_json::json!({
            "endpoints": [self.url],
            "await_pause_ms": 20,
            "await_pause_max_ms": 160,
            "start_timeout_ms": 60_000,
            "await_timeout_ms": 60_000,
            "max_message_bytes": max_message_bytes,
        }))
        .unwrap();
        KmsCore::new(&config, version).unwrap()
    }
}

// --- All that an operation works with -------------------------------------------------------------------------------

/// The contracts of the vectors.
pub(crate) const DECRYPTION: Address = address!("5FbDB2315678afecb367f032d93F642f64180aa3");
/// See above.
pub(crate) const KMS_GENERATION: Address = address!("e7f1725E7734CE288F8367e1Bb143E90bb3F0512");
/// See above.
pub(crate) const PROTOCOL_CONFIG: Address = address!("9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0");
/// Chain id of the vectors' Gateway.
pub(crate) const GATEWAY: u64 = 54_321;
/// Chain id of the vectors' host chain.
pub(crate) const HOST: u64 = 11_155_111;
/// The signer of the vectors.
pub(crate) const SIGNER: Address = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");

/// A deployment with the vectors' contracts and signer, a scripted KMS Core and a mock chain of KMSGeneration.
pub(crate) struct Scene {
    pub(crate) core: ScriptedCore,
    pub(crate) chain: MockChain,
    pub(crate) kms: KmsCore,
    pub(crate) verifier: Verifier,
    pub(crate) ciphertexts: CiphertextStore,
    pub(crate) contracts: ContractSet,
    pub(crate) repeated: bool,
    pub(crate) release: Release,
    rpc: Rpc,
    answered: Answered,
}

impl Scene {
    pub(crate) async fn start(release: Release, version: CoreVersion) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (core, chain) = (ScriptedCore::start().await, MockChain::start().await);
        let on_host = release.key_management_on_host();
        let contracts = if on_host {
            ContractSet::host(release, KMS_GENERATION, PROTOCOL_CONFIG)
        } else {
            ContractSet::gateway_a(DECRYPTION, KMS_GENERATION)
        };
        let domains = Domains {
            decryption: Some(Domain::decryption(GATEWAY, DECRYPTION)),
            kms_generation: Some(Domain::kms_generation(if on_host { HOST } else { GATEWAY }, KMS_GENERATION)),
            protocol_config: on_host.then(|| Domain::protocol_config(HOST, PROTOCOL_CONFIG)),
            release,
        };
        Self {
            kms: core.client(version),
            rpc: chain.rpc(),
            core,
            chain,
            verifier: Verifier { signer: SIGNER, domains },
            ciphertexts: CiphertextStore::new(CiphertextsConfig::default(), Coprocessors::known(&[])).unwrap(),
            contracts,
            repeated: false,
            release,
            answered: Answered::unheard(),
        }
    }

    pub(crate) fn work(&self) -> Work<'_> {
        Work {
            release: self.release,
            core: &self.kms,
            verifier: &self.verifier,
            ciphertexts: &self.ciphertexts,
            generation: Some(GenerationChain {
                dependency: "ethereum_rpc",
                rpc: &self.rpc,
                contracts: &self.contracts,
                block: BlockId::finalized(),
            }),
            repeated: self.repeated,
            answered: &self.answered,
        }
    }
}

// --- Buckets --------------------------------------------------------------------------------------------------------

/// An object of a bucket.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// A bucket that serves these objects, and 404 for others.
pub(crate) struct TestBucket {
    pub(crate) url: String,
    shared: Arc<Objects>,
}

#[derive(Default)]
struct Objects {
    objects: HashMap<String, Object>,
    gets: AtomicU64,
    delay_ms: AtomicU64,
    /// Answered to everything.
    status: Option<u16>,
    /// Whether that is an ingress's word and not the bucket's own.
    is_foreign: bool,
}

impl TestBucket {
    pub(crate) async fn start(objects: impl IntoIterator<Item = (String, Object)>) -> Self {
        Self::serve(Objects { objects: objects.into_iter().collect(), ..Objects::default() }).await
    }

    /// Something in front of the bucket answers everything with this status.
    pub(crate) async fn failing(status: u16) -> Self {
        Self::serve(Objects { status: Some(status), is_foreign: true, ..Objects::default() }).await
    }

    /// The bucket itself answers everything with this status.
    pub(crate) async fn refusing(status: u16) -> Self {
        Self::serve(Objects { status: Some(status), ..Objects::default() }).await
    }

    /// Has nothing.
    pub(crate) async fn silent() -> Self {
        Self::start([]).await
    }

    /// Answers nothing for so long.
    pub(crate) async fn slow(delay: Duration) -> Self {
        let bucket = Self::start([]).await;
        bucket.delay(delay);
        bucket
    }

    /// Nothing listens there.
    pub(crate) fn down() -> Self {
        Self { url: "http://127.0.0.1:1/bucket".to_owned(), shared: Arc::default() }
    }

    async fn serve(objects: Objects) -> Self {
        let shared = Arc::new(objects);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/bucket", listener.local_addr().unwrap());
        let app = Router::new().fallback(object).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, shared }
    }

    /// Every answer takes so long from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(delay.as_millis().try_into().unwrap(), Ordering::Relaxed);
    }

    /// Objects that were read, not only asked about.
    pub(crate) fn gets(&self) -> u64 {
        self.shared.gets.load(Ordering::Relaxed)
    }
}

async fn object(State(shared): State<Arc<Objects>>, request: HttpRequest) -> HttpResponse {
    tokio::time::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed))).await;
    if request.method() == Method::GET {
        shared.gets.fetch_add(1, Ordering::Relaxed);
    }
    let refusal = |status: u16| {
        let mut response = StatusCode::from_u16(status).unwrap().into_response();
        if !shared.is_foreign {
            response.headers_mut().insert("x-amz-request-id", HeaderValue::from_static("17"));
        }
        response
    };
    if let Some(status) = shared.status {
        return refusal(status);
    }
    let key = request.uri().path().trim_start_matches("/bucket/").to_owned();
    let Some(found) = shared.objects.get(&key) else { return refusal(404) };
    let mut headers = HeaderMap::new();
    for (name, value) in &found.headers {
        headers.insert(
            axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    (StatusCode::from_u16(found.status).unwrap(), headers, Body::from(found.body.clone())).into_response()
}
