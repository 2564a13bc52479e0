//! The main service: every call is recorded, meets the failures injected for it, and reaches the engine.

use std::future::Future;
use std::sync::Arc;

use kms_proto::core_service_endpoint_server::{CoreServiceEndpoint, CoreServiceEndpointServer};
use kms_proto::kms::v1::*;
use kms_proto::meta_store_status_service_server::MetaStoreStatusServiceServer;
use kms_proto::metastore_status::v1::{GetRequestStatusesRequest, ListRequestsRequest};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use super::connection::{self, Cut};
use super::engine::Engine;
use super::error::SimulatorError;
use super::faults::{Effect, Fault, When};
use super::refusal::{Refusal, Wording};
use super::validation::readable_id;
use super::version;

/// A request that may name an id, under which its calls are recorded.
pub(super) trait Identified {
    /// The id, if the message has such a field and it is set.
    fn id(&self) -> Option<&RequestId> {
        None
    }
}

/// Messages whose id is the named field.
macro_rules! identified_by {
    ($field:ident: $($message:ty),+) => {
        $(impl Identified for $message {
            fn id(&self) -> Option<&RequestId> {
                self.$field.as_ref()
            }
        })+
    };
}

identified_by!(request_id: InitRequest, KeyGenPreprocRequest, KeyGenRequest, PublicDecryptionRequest, UserDecryptionRequest,
    CrsGenRequest, InitiateResharingRequest);
identified_by!(context_id: DestroyKmsContextRequest, DestroyMpcContextRequest, DestroyCustodianContextRequest,
    BandwidthBenchmarkRequest);
identified_by!(epoch_id: NewMpcEpochRequest, DestroyMpcEpochRequest);
identified_by!(custodian_context_id: CustodianRecoveryRequest);

impl Identified for RequestId {
    fn id(&self) -> Option<&RequestId> {
        Some(self)
    }
}

impl Identified for NewKmsContextRequest {
    fn id(&self) -> Option<&RequestId> {
        self.new_context.as_ref()?.context_id.as_ref()
    }
}

impl Identified for NewMpcContextRequest {
    fn id(&self) -> Option<&RequestId> {
        self.new_context.as_ref()?.context_id.as_ref()
    }
}

impl Identified for Empty {}
impl Identified for NewCustodianContextRequest {}
impl Identified for CustodianRecoveryInitRequest {}
impl Identified for GetRequestStatusesRequest {}
impl Identified for ListRequestsRequest {}

type Answer<T> = Result<Response<T>, Status>;

/// The services of one node.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) engine: Arc<Engine>,
}

/// Serves until shutdown.
pub(super) async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), SimulatorError> {
    let service = Service { engine: Arc::clone(&engine) };
    let most = engine.config.limits.message_bytes;
    let core =
        CoreServiceEndpointServer::new(service.clone()).max_decoding_message_size(most).max_encoding_message_size(most);
    let introspection =
        MetaStoreStatusServiceServer::new(service).max_decoding_message_size(most).max_encoding_message_size(most);
    let health = HealthServer::new(HealthService::from_health_reporter(engine.health.clone()));
    let for_connections = Arc::clone(&engine);
    let incoming = connection::accept(listener, move || for_connections.connections());
    let stop = async {
        shutdown.cancelled().await;
        // Held calls are answered first; then nothing is worth waiting for, clients that keep a connection least of all.
        engine.end();
        tokio::time::sleep(LAST_ANSWERS).await;
        engine.cut_connections();
    };
    Server::builder()
        .timeout(engine.config.request_timeout())
        .add_service(core)
        .add_service(introspection)
        .add_service(health)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .map_err(|error| SimulatorError::Server(error.to_string()))
}

/// How long answers may take to leave at shutdown.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_millis(50);

impl Service {
    /// One call from arrival to answer.
    pub(super) async fn call<M, T, F>(
        &self,
        rpc: &'static str,
        request: Request<M>,
        work: impl FnOnce(Arc<Engine>, M) -> F,
    ) -> Answer<T>
    where
        M: Identified,
        F: Future<Output = Result<T, Refusal>>,
    {
        let engine = &self.engine;
        let cut = request.extensions().get::<Cut>().cloned();
        let message = request.into_inner();
        let id = readable_id(message.id());
        let id = id.as_deref();
        engine.calls.arrived(rpc, id);
        let wording = match version::rpc(rpc) {
            Some(known) if engine.config.version.has_opaque_texts() => Wording::Opaque { tag: known.tag, id },
            _ => Wording::Explained,
        };
        let answer = match engine.faults.strike(rpc, id, When::Before) {
            Some(fault) => Err(self.suffer(&fault, cut.as_ref()).await),
            None if !engine.config.version.serves(rpc) => Err(Status::unimplemented("")),
            None => {
                let answer = work(Arc::clone(engine), message).await;
                let answer = answer.map_err(|refusal| refusal.into_status(wording));
                match engine.faults.strike(rpc, id, When::After) {
                    Some(fault) => Err(self.suffer(&fault, cut.as_ref()).await),
                    None => answer,
                }
            }
        };
        engine.calls.answered(rpc, id, answer.as_ref().err().map_or(Code::Ok, Status::code));
        answer.map(Response::new)
    }

    /// What an injected failure does to a call: a status to answer with, or no answer as long as the node lives.
    async fn suffer(&self, fault: &Fault, cut: Option<&Cut>) -> Status {
        match fault.effect {
            Effect::Status => return fault.to_status(),
            Effect::Drop => cut.into_iter().for_each(Cut::cut),
            Effect::Hang => {}
        }
        self.engine.life().ended().await;
        Status::unavailable("the node is shutting down")
    }

    /// An RPC that is not simulated.
    async fn absent<M: Identified, T>(&self, rpc: &'static str, request: Request<M>) -> Answer<T> {
        let refuse = |_, _| async move { Err(Refusal::new(Code::Unimplemented, format!("{rpc} is not simulated"))) };
        self.call(rpc, request, refuse).await
    }
}

#[tonic::async_trait]
impl CoreServiceEndpoint for Service {
    async fn init(&self, request: Request<InitRequest>) -> Answer<Empty> {
        self.call("Init", request, |engine, message| async move { engine.init(message).await }).await
    }

    async fn key_gen_preproc(&self, request: Request<KeyGenPreprocRequest>) -> Answer<Empty> {
        self.call("KeyGenPreproc", request, |engine, message| async move { engine.preprocess(message) }).await
    }

    async fn get_key_gen_preproc_result(&self, request: Request<RequestId>) -> Answer<KeyGenPreprocResult> {
        let work = |engine: Arc<Engine>, id| async move { engine.preprocessing(&id).await };
        self.call("GetKeyGenPreprocResult", request, work).await
    }

    async fn key_gen(&self, request: Request<KeyGenRequest>) -> Answer<Empty> {
        self.call("KeyGen", request, |engine, message| async move { engine.generate_key(message).await }).await
    }

    async fn get_key_gen_result(&self, request: Request<RequestId>) -> Answer<KeyGenResult> {
        let work = |engine: Arc<Engine>, id| async move { engine.key(&id).await };
        self.call("GetKeyGenResult", request, work).await
    }

    async fn public_decrypt(&self, request: Request<PublicDecryptionRequest>) -> Answer<Empty> {
        self.call("PublicDecrypt", request, |engine, message| async move { engine.public_decrypt(message) }).await
    }

    async fn get_public_decryption_result(&self, request: Request<RequestId>) -> Answer<PublicDecryptionResponse> {
        let work = |engine: Arc<Engine>, id| async move { engine.public_decryption(&id).await };
        self.call("GetPublicDecryptionResult", request, work).await
    }

    async fn user_decrypt(&self, request: Request<UserDecryptionRequest>) -> Answer<Empty> {
        self.call("UserDecrypt", request, |engine, message| async move { engine.user_decrypt(message) }).await
    }

    async fn get_user_decryption_result(&self, request: Request<RequestId>) -> Answer<UserDecryptionResponse> {
        let work = |engine: Arc<Engine>, id| async move { engine.user_decryption(&id).await };
        self.call("GetUserDecryptionResult", request, work).await
    }

    async fn crs_gen(&self, request: Request<CrsGenRequest>) -> Answer<Empty> {
        self.call("CrsGen", request, |engine, message| async move { engine.generate_crs(message) }).await
    }

    async fn get_crs_gen_result(&self, request: Request<RequestId>) -> Answer<CrsGenResult> {
        let work = |engine: Arc<Engine>, id| async move { engine.crs(&id).await };
        self.call("GetCrsGenResult", request, work).await
    }

    async fn new_kms_context(&self, request: Request<NewKmsContextRequest>) -> Answer<Empty> {
        let work = |engine: Arc<Engine>, message| async move { engine.new_kms_context(message).await };
        self.call("NewKmsContext", request, work).await
    }

    async fn destroy_kms_context(&self, request: Request<DestroyKmsContextRequest>) -> Answer<Empty> {
        let work = |engine: Arc<Engine>, message| async move { engine.destroy_kms_context(message).await };
        self.call("DestroyKmsContext", request, work).await
    }

    async fn initiate_resharing(
        &self,
        request: Request<InitiateResharingRequest>,
    ) -> Answer<InitiateResharingResponse> {
        let work = |engine: Arc<Engine>, message| async move { engine.reshare_same_set(message) };
        self.call("InitiateResharing", request, work).await
    }

    async fn get_resharing_result(&self, request: Request<RequestId>) -> Answer<ResharingResultResponse> {
        let work = |engine: Arc<Engine>, id| async move { engine.resharing(&id).await };
        self.call("GetResharingResult", request, work).await
    }

    async fn get_key_material_availability(&self, request: Request<Empty>) -> Answer<KeyMaterialAvailabilityResponse> {
        let work = |engine: Arc<Engine>, _| async move { Ok(engine.material()) };
        self.call("GetKeyMaterialAvailability", request, work).await
    }

    async fn get_health_status(&self, request: Request<Empty>) -> Answer<HealthStatusResponse> {
        let work = |engine: Arc<Engine>, _| async move { Ok(engine.health_status()) };
        self.call("GetHealthStatus", request, work).await
    }

    async fn abort_key_gen(&self, request: Request<RequestId>) -> Answer<Empty> {
        let work = |engine: Arc<Engine>, message| async move { engine.abort_key(&message).await };
        self.call("AbortKeyGen", request, work).await
    }

    async fn abort_crs_gen(&self, request: Request<RequestId>) -> Answer<Empty> {
        let work = |engine: Arc<Engine>, message| async move { engine.abort_crs(&message).await };
        self.call("AbortCrsGen", request, work).await
    }

    async fn public_decrypt_sync(&self, request: Request<PublicDecryptionRequest>) -> Answer<PublicDecryptionResponse> {
        let work = |engine: Arc<Engine>, message| async move { engine.public_decrypt_sync(message).await };
        self.call("PublicDecryptSync", request, work).await
    }

    async fn user_decrypt_sync(&self, request: Request<UserDecryptionRequest>) -> Answer<UserDecryptionResponse> {
        let work = |engine: Arc<Engine>, message| async move { engine.user_decrypt_sync(message).await };
        self.call("UserDecryptSync", request, work).await
    }

    async fn new_mpc_context(&self, request: Request<NewMpcContextRequest>) -> Answer<Empty> {
        let work = |engine: Arc<Engine>, message| async move { engine.new_context(message).await };
        self.call("NewMpcContext", request, work).await
    }

    async fn destroy_mpc_context(
        &self,
        request: Request<DestroyMpcContextRequest>,
    ) -> Answer<DestroyMpcContextResponse> {
        let work = |engine: Arc<Engine>, message| async move { engine.destroy_context(message).await };
        self.call("DestroyMpcContext", request, work).await
    }

    async fn new_mpc_epoch(&self, request: Request<NewMpcEpochRequest>) -> Answer<Empty> {
        let work = |engine: Arc<Engine>, message| async move { engine.new_epoch(message) };
        self.call("NewMpcEpoch", request, work).await
    }

    async fn get_epoch_result(&self, request: Request<RequestId>) -> Answer<EpochResultResponse> {
        let work = |engine: Arc<Engine>, message| async move { engine.epoch(&message).await };
        self.call("GetEpochResult", request, work).await
    }

    async fn destroy_mpc_epoch(&self, request: Request<DestroyMpcEpochRequest>) -> Answer<Empty> {
        let work = |engine: Arc<Engine>, message| async move { engine.destroy_epoch(message).await };
        self.call("DestroyMpcEpoch", request, work).await
    }

    async fn new_custodian_context(&self, request: Request<NewCustodianContextRequest>) -> Answer<Empty> {
        self.absent("NewCustodianContext", request).await
    }

    async fn destroy_custodian_context(&self, request: Request<DestroyCustodianContextRequest>) -> Answer<Empty> {
        self.absent("DestroyCustodianContext", request).await
    }

    async fn get_operator_public_key(&self, request: Request<Empty>) -> Answer<OperatorPublicKey> {
        self.absent("GetOperatorPublicKey", request).await
    }

    async fn restore_from_backup(&self, request: Request<Empty>) -> Answer<Empty> {
        self.absent("RestoreFromBackup", request).await
    }

    async fn custodian_recovery_init(&self, request: Request<CustodianRecoveryInitRequest>) -> Answer<RecoveryRequest> {
        self.absent("CustodianRecoveryInit", request).await
    }

    async fn custodian_backup_recovery(&self, request: Request<CustodianRecoveryRequest>) -> Answer<Empty> {
        self.absent("CustodianBackupRecovery", request).await
    }

    async fn bandwidth_benchmark(
        &self,
        request: Request<BandwidthBenchmarkRequest>,
    ) -> Answer<BandwidthBenchmarkResponse> {
        let work = |engine: Arc<Engine>, message| async move { engine.bandwidth(&message) };
        self.call("BandwidthBenchmark", request, work).await
    }
}
