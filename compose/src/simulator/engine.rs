//! The node itself: what each operation checks, does and leaves behind.
//!
//! All that a restart forgets is one value, [`Life`]. An operation holds the life it was started in, so that one which
//! outlives its life settles into a store that nobody reads any more.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{Eip712Domain, SolStruct};
use kms_chain::eip712::message::{
    CrsgenVerification, KeyDigest, KeygenVerification, PrepKeygenVerification, PublicDecryptVerification,
    UserDecryptResponseVerification,
};
use kms_proto::{encoding, id, kms::v1 as kms};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::calls::CallLog;
use super::config::{Checked, Latencies, Mode};
use super::error::SimulatorError;
use super::faults::Faults;
use super::material::{self, THRESHOLD_PACKING};
use super::operation::Operation;
use super::refusal::{OperationId, Refusal};
use super::signing::{self, Signing, UserDecryptionLinker};
use super::store::{Bound, NotInserted, State, Store};
use super::validation::{self, Operand, User};
use super::vault::{Shelf, Vault};

/// A finished preprocessing, with what a key generation must fit.
#[derive(Clone, Debug)]
pub(super) struct Preprocessing {
    result: kms::KeyGenPreprocResult,
    params: i32,
    key_set: Option<kms::KeySetConfig>,
}

/// A store as an operation and its Get reach it.
type StoreOf<T> = fn(&Life) -> &Mutex<Store<T>>;

/// Everything a restart forgets.
pub(super) struct Life {
    pub(super) public_decryptions: Mutex<Store<kms::PublicDecryptionResponse>>,
    pub(super) user_decryptions: Mutex<Store<kms::UserDecryptionResponse>>,
    pub(super) preprocessings: Mutex<Store<Preprocessing>>,
    pub(super) keys: Mutex<Store<kms::KeyGenResult>>,
    pub(super) crs: Mutex<Store<kms::CrsGenResult>>,
    pub(super) resharings: Mutex<Store<kms::ResharingResultResponse>>,
    bucket: Arc<Semaphore>,
    /// Cancelled at its end: running operations stop, held calls are answered.
    over: CancellationToken,
    /// Parent of the connections, cut at a restart.
    connections: CancellationToken,
    /// Shares are encrypted anew in every life, so a repeated decryption does not give the same bytes.
    randomness: [u8; 16],
}

impl Life {
    fn begin(config: &Checked, vault: &Vault) -> Self {
        let limits = &config.limits;
        let decryptions = Some(Bound { capacity: limits.decryption_capacity, kept: limits.decryptions_kept });
        let mut keys = Store::new(None);
        for (id, result) in vault.keys() {
            keys.restore(id, result);
        }
        let mut crs = Store::new(None);
        for (id, result) in vault.crs() {
            crs.restore(id, result);
        }
        Self {
            public_decryptions: Mutex::new(Store::new(decryptions)),
            user_decryptions: Mutex::new(Store::new(decryptions)),
            preprocessings: Mutex::new(Store::new(None)),
            keys: Mutex::new(keys),
            crs: Mutex::new(crs),
            resharings: Mutex::new(Store::new(None)),
            bucket: Arc::new(Semaphore::new(limits.bucket as usize)),
            over: CancellationToken::new(),
            connections: CancellationToken::new(),
            randomness: rand::random(),
        }
    }

    /// Resolves when the life is over.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Tokens that no operation holds.
    pub(super) fn free_tokens(&self) -> usize {
        self.bucket.available_permits()
    }
}

/// What can be switched while the simulator runs.
#[derive(Debug)]
pub(super) struct Switches {
    pub(super) plaintexts: BTreeMap<B256, Vec<u8>>,
    pub(super) failing_handles: BTreeSet<B256>,
    pub(super) failing_ids: BTreeSet<OperationId>,
    pub(super) latency_ms: Latencies,
}

/// See the module.
pub(super) struct Engine {
    pub(super) config: Checked,
    pub(super) calls: CallLog,
    pub(super) faults: Faults,
    pub(super) switches: Mutex<Switches>,
    /// Kinds of operation that do not finish until they are released.
    pub(super) held: watch::Sender<BTreeSet<Operation>>,
    pub(super) health: HealthReporter,
    signing: Signing,
    vault: Vault,
    life: Mutex<Arc<Life>>,
    /// One PRSS set-up at a time.
    prss: tokio::sync::Mutex<()>,
}

/// Locks, whatever a thread that panicked left behind: every guarded value is valid at any time.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The set-up that a node which is initialized from the start has.
const PRSS_ID: OperationId = OperationId(B256::with_last_byte(1));

impl Engine {
    /// Reads what survived and begins the first life.
    pub(super) async fn open(config: Checked) -> Result<Self, SimulatorError> {
        let vault = Vault::open(config.state_dir.clone()).await?;
        if config.initialized && vault.ids(Shelf::Prss).is_empty() {
            let kept = vault.keep(Shelf::Prss, PRSS_ID, vec![]).await;
            kept.map_err(|why| SimulatorError::State { path: config.state_dir.clone().unwrap_or_default(), why })?;
        }
        let engine = Self {
            calls: CallLog::new(config.limits.recorded_ids),
            faults: Faults::new(config.faults.clone()),
            switches: Mutex::new(Switches {
                plaintexts: config.plaintexts.clone(),
                failing_handles: config.failing_handles.clone(),
                failing_ids: config.failing_ids.clone(),
                latency_ms: config.latency_ms,
            }),
            held: watch::Sender::default(),
            health: HealthReporter::new(),
            signing: Signing::new(config.signing_key.clone()),
            life: Mutex::new(Arc::new(Life::begin(&config, &vault))),
            prss: tokio::sync::Mutex::new(()),
            vault,
            config,
        };
        engine.report_own_health().await;
        Ok(engine)
    }

    pub(super) fn signer(&self) -> Address {
        self.signing.address()
    }

    pub(super) fn life(&self) -> Arc<Life> {
        Arc::clone(&lock(&self.life))
    }

    /// Parent token of a new connection.
    pub(super) fn connections(&self) -> CancellationToken {
        lock(&self.life).connections.clone()
    }

    /// Ends the life for good: held calls are answered, running operations stop.
    pub(super) fn end(&self) {
        lock(&self.life).over.cancel();
    }

    /// Cuts every connection.
    pub(super) fn cut_connections(&self) {
        lock(&self.life).connections.cancel();
    }

    /// Restarts: every connection breaks, decryptions, preprocessings and running operations are forgotten, keys and CRSs
    /// stay.
    pub(super) async fn restart(&self) {
        let next = Arc::new(Life::begin(&self.config, &self.vault));
        let ended = std::mem::replace(&mut *lock(&self.life), next);
        ended.connections.cancel();
        ended.over.cancel();
        self.report_own_health().await;
    }

    /// Reports as KMS Core does: a threshold node serves once it has a PRSS set-up.
    pub(super) async fn report_own_health(&self) {
        let status = if self.is_initialized() { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.report_health(status).await;
    }

    pub(super) async fn report_health(&self, status: ServingStatus) {
        self.health.set_service_status(kms_proto::CORE_SERVICE_NAME, status).await;
    }

    fn is_initialized(&self) -> bool {
        self.config.mode == Mode::Centralized || !self.vault.ids(Shelf::Prss).is_empty()
    }

    // --- Decryptions ----------------------------------------------------------------------------------------------

    pub(super) fn public_decrypt(
        self: &Arc<Self>,
        request: kms::PublicDecryptionRequest,
    ) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::PublicDecryption)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let key_id = validation::id("key_id", request.key_id.as_ref())?;
        let operands = validation::operands(&request.ciphertexts)?;
        let domain = validation::domain(request.domain.as_ref())?;
        self.check_node(request.context_id.as_ref())?;
        self.admit_decryption(&life.public_decryptions, id, key_id)?;
        let engine = Arc::clone(self);
        let work = async move { engine.decrypt_publicly(id, &operands, &domain) };
        self.run(life, Operation::PublicDecryption, id, |life| &life.public_decryptions, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn public_decryption(
        &self,
        id: &kms::RequestId,
    ) -> Result<kms::PublicDecryptionResponse, Refusal> {
        self.result(Operation::PublicDecryption, |life| &life.public_decryptions, id).await
    }

    fn decrypt_publicly(
        &self,
        id: OperationId,
        operands: &[Operand],
        domain: &Eip712Domain,
    ) -> Result<kms::PublicDecryptionResponse, String> {
        let handles = signed_handles(operands)?;
        let values = operands.iter().zip(&handles).map(|(operand, handle)| self.plaintext(operand, handle));
        let plaintexts: Vec<_> = values.collect::<Result<_, _>>()?;
        let words = encoding::decrypted_result(&plaintexts).map_err(|error| error.to_string())?;
        // Version 0.12 signs and returns empty extra data whatever it was given.
        let message =
            PublicDecryptVerification { ctHandles: handles, decryptedResult: words.into(), extraData: Bytes::new() };
        let payload = kms::PublicDecryptionResponsePayload {
            verification_key: self.signing.verification_key(),
            plaintexts,
            request_id: Some(id.message()),
        };
        Ok(kms::PublicDecryptionResponse {
            signature: self.signing.sign_internally(signing::PUBLIC_DECRYPTION, &encoding::public_payload(&payload)),
            external_signature: self.signing.sign(domain, &message)?,
            payload: Some(payload),
            extra_data: vec![],
            signatures: vec![],
        })
    }

    pub(super) fn user_decrypt(self: &Arc<Self>, request: kms::UserDecryptionRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::UserDecryption)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let key_id = validation::id("key_id", request.key_id.as_ref())?;
        let operands = validation::operands(&request.typed_ciphertexts)?;
        validation::user_handles(&operands)?;
        let domain = validation::domain(request.domain.as_ref())?;
        let user = validation::user(&request.client_address, request.enc_key, &domain, self.config.check_user_keys)?;
        self.check_node(request.context_id.as_ref())?;
        self.admit_decryption(&life.user_decryptions, id, key_id)?;
        let (engine, randomness) = (Arc::clone(self), life.randomness);
        let work = async move { engine.decrypt_for_user(id, &operands, &user, &domain, randomness) };
        self.run(life, Operation::UserDecryption, id, |life| &life.user_decryptions, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn user_decryption(&self, id: &kms::RequestId) -> Result<kms::UserDecryptionResponse, Refusal> {
        self.result(Operation::UserDecryption, |life| &life.user_decryptions, id).await
    }

    fn decrypt_for_user(
        &self,
        id: OperationId,
        operands: &[Operand],
        user: &User,
        domain: &Eip712Domain,
        randomness: [u8; 16],
    ) -> Result<kms::UserDecryptionResponse, String> {
        let handles = signed_handles(operands)?;
        let public_key = Bytes::from(user.public_key.clone());
        let linker =
            UserDecryptionLinker { publicKey: public_key.clone(), handles: handles.clone(), userAddress: user.address };
        let threshold = self.config.mode == Mode::Threshold;
        let share = |(position, (operand, handle)): (usize, (&Operand, &B256))| {
            // The plaintext is not used, but where it fails, so does the share.
            self.plaintext(operand, handle)?;
            let node = self.signing.address();
            let seed: [&[u8]; 4] = [&randomness, node.as_slice(), id.0.as_slice(), &position.to_le_bytes()];
            let share = material::signcrypted_share(&seed, operand.fhe_type, threshold);
            Ok(kms::TypedSigncryptedCiphertext {
                fhe_type: operand.fhe_type,
                signcrypted_ciphertext: share.ok_or("the FHE type is unknown")?,
                external_handle: operand.handle.clone(),
                packing_factor: if threshold { THRESHOLD_PACKING } else { 1 },
            })
        };
        let shares = operands.iter().zip(&handles).enumerate().map(share);
        let payload = kms::UserDecryptionResponsePayload {
            verification_key: self.signing.verification_key(),
            digest: linker.eip712_signing_hash(domain).to_vec(),
            signcrypted_ciphertexts: shares.collect::<Result<_, String>>()?,
            party_id: self.config.party_id,
            degree: self.config.degree,
        };
        let bincode = encoding::user_payload(&payload);
        let message = UserDecryptResponseVerification {
            publicKey: public_key,
            ctHandles: handles,
            userDecryptedShare: bincode.clone().into(),
            extraData: Bytes::new(),
        };
        Ok(kms::UserDecryptionResponse {
            signature: self.signing.sign_internally(signing::USER_DECRYPTION, &bincode),
            external_signature: self.signing.sign(domain, &message)?,
            payload: Some(payload),
            extra_data: vec![],
            signatures: vec![],
        })
    }

    /// The plaintext of an operand, unless its handle is switched to fail.
    fn plaintext(&self, operand: &Operand, handle: &B256) -> Result<kms::TypedPlaintext, String> {
        if operand.is_empty {
            return Err(format!("the ciphertext of {handle} cannot be deserialized: no bytes"));
        }
        let switches = lock(&self.switches);
        if switches.failing_handles.contains(handle) {
            return Err(format!("decryption of {handle} is switched to fail"));
        }
        let from_table = switches.plaintexts.get(handle).cloned();
        let bytes = from_table.or_else(|| material::plaintext(&operand.handle, operand.fhe_type));
        let bytes = bytes.ok_or_else(|| format!("FHE type {} of {handle} is unknown", operand.fhe_type))?;
        Ok(kms::TypedPlaintext { bytes, fhe_type: operand.fhe_type })
    }

    /// Looks the key up and takes the id in.
    ///
    /// Version 0.12 does so in this order on threshold servers. Its centralized server takes the id in first, and leaves it
    /// pending for ever where the key is unknown.
    fn admit_decryption<T>(
        &self,
        store: &Mutex<Store<T>>,
        id: OperationId,
        key_id: OperationId,
    ) -> Result<(), Refusal> {
        let is_known = self.knows_key(key_id);
        if self.config.mode == Mode::Threshold && !is_known {
            return Err(Refusal::new(Code::NotFound, format!("key {key_id} of request {id} is not known")));
        }
        self.admit(store, id)?;
        if is_known {
            Ok(())
        } else {
            Err(Refusal::new(Code::Aborted, format!("request {id} failed to launch: key {key_id} is not known")))
        }
    }

    fn knows_key(&self, key_id: OperationId) -> bool {
        self.config.any_key || self.config.keys.contains(&key_id) || self.vault.holds(Shelf::Keys, key_id)
    }

    // --- Key management -------------------------------------------------------------------------------------------

    pub(super) fn preprocess(self: &Arc<Self>, request: kms::KeyGenPreprocRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::Preprocessing)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let params = validation::params(request.params)?;
        let key_set = validation::key_set(request.keyset_config)?;
        let domain = validation::domain(request.domain.as_ref())?;
        self.check_node(request.context_id.as_ref())?;
        self.admit(&life.preprocessings, id)?;
        let engine = Arc::clone(self);
        let work = async move {
            let message = PrepKeygenVerification { prepKeygenId: number(id) };
            let result = kms::KeyGenPreprocResult {
                preprocessing_id: Some(id.message()),
                external_signature: engine.signing.sign(&domain, &message)?,
                signatures: vec![],
            };
            Ok(Preprocessing { result, params, key_set })
        };
        self.run(life, Operation::Preprocessing, id, |life| &life.preprocessings, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn preprocessing(&self, id: &kms::RequestId) -> Result<kms::KeyGenPreprocResult, Refusal> {
        let done = self.result(Operation::Preprocessing, |life| &life.preprocessings, id).await?;
        Ok(done.result)
    }

    pub(super) async fn generate_key(self: &Arc<Self>, request: kms::KeyGenRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::KeyGeneration)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let preproc_id = validation::id("preproc_id", request.preproc_id.as_ref())?;
        let params = request.params.map(validation::params).transpose()?;
        let key_set = validation::key_set(request.keyset_config)?;
        let domain = validation::domain(request.domain.as_ref())?;
        self.check_node(request.context_id.as_ref())?;
        if lock(&life.keys).state(id).is_some() {
            return Err(already_exists(id));
        }
        let preprocessing = self.finished_preprocessing(&life, preproc_id).await?;
        if !validation::key_sets_fit(key_set.as_ref(), preprocessing.key_set.as_ref()) {
            return Err(Refusal::invalid(format!("the key set of {id} does not fit preprocessing {preproc_id}")));
        }
        if params.is_some_and(|params| params != preprocessing.params) {
            return Err(Refusal::invalid(format!("the parameters of {id} do not fit preprocessing {preproc_id}")));
        }
        self.consume(&life, preproc_id, id)?;
        let (engine, params) = (Arc::clone(self), preprocessing.params);
        let work = async move {
            let result = engine.make_key(id, preproc_id, params, &domain)?;
            engine.vault.keep(Shelf::Keys, id, result.encode_to_vec()).await?;
            Ok(result)
        };
        self.run(life, Operation::KeyGeneration, id, |life| &life.keys, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn key(&self, id: &kms::RequestId) -> Result<kms::KeyGenResult, Refusal> {
        self.result(Operation::KeyGeneration, |life| &life.keys, id).await
    }

    /// The preprocessing once it has finished; version 0.12 waits for it as a Get does.
    async fn finished_preprocessing(&self, life: &Life, id: OperationId) -> Result<Arc<Preprocessing>, Refusal> {
        match self.settled(life, &life.preprocessings, Operation::Preprocessing, id).await {
            Some(State::Done(preprocessing)) => Ok(preprocessing),
            Some(State::Pending) => {
                Err(Refusal::new(Code::Unavailable, format!("preprocessing {id} is still running")))
            }
            Some(State::Failed(_)) => Err(Refusal::new(Code::Internal, format!("preprocessing {id} failed"))),
            None => Err(Refusal::new(Code::NotFound, format!("preprocessing {id} is not known or was consumed"))),
        }
    }

    /// Takes a key id in and its preprocessing away, both or neither.
    fn consume(&self, life: &Life, preproc_id: OperationId, id: OperationId) -> Result<(), Refusal> {
        let mut preprocessings = lock(&life.preprocessings);
        if preprocessings.state(preproc_id).is_none() {
            return Err(Refusal::new(Code::NotFound, format!("preprocessing {preproc_id} was consumed")));
        }
        self.admit(&life.keys, id)?;
        preprocessings.remove(preproc_id);
        Ok(())
    }

    fn make_key(
        &self,
        id: OperationId,
        preproc_id: OperationId,
        params: i32,
        domain: &Eip712Domain,
    ) -> Result<kms::KeyGenResult, String> {
        let (key_digests, external_signature) = self.sign_key(id, preproc_id, params, domain)?;
        Ok(kms::KeyGenResult {
            request_id: Some(id.message()),
            preprocessing_id: Some(preproc_id.message()),
            key_digests,
            external_signature,
            signatures: vec![],
        })
    }

    fn sign_key(
        &self,
        key_id: OperationId,
        preproc_id: OperationId,
        params: i32,
        domain: &Eip712Domain,
    ) -> Result<(Vec<kms::KeyDigest>, Vec<u8>), String> {
        let digests = material::key_digests(&key_id.0.0, params);
        let message = KeygenVerification {
            prepKeygenId: number(preproc_id),
            keyId: number(key_id),
            keyDigests: (0u8..)
                .zip(&digests)
                .map(|(key_type, (_, digest))| KeyDigest { keyType: key_type, digest: digest.clone().into() })
                .collect(),
        };
        let signature = self.signing.sign(domain, &message)?;
        let named = digests.map(|(part, digest)| kms::KeyDigest { key_type: part.to_owned(), digest });
        Ok((named.into(), signature))
    }

    pub(super) fn generate_crs(self: &Arc<Self>, request: kms::CrsGenRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::CrsGeneration)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let params = validation::params(request.params)?;
        let max_num_bits = validation::max_num_bits(request.max_num_bits)?;
        let domain = validation::domain(request.domain.as_ref())?;
        self.check_node(request.context_id.as_ref())?;
        self.admit(&life.crs, id)?;
        let engine = Arc::clone(self);
        let work = async move {
            let crs_digest = material::crs_digest(&id.0.0, params, max_num_bits);
            let message = CrsgenVerification {
                crsId: number(id),
                maxBitLength: U256::from(max_num_bits),
                crsDigest: crs_digest.clone().into(),
            };
            let result = kms::CrsGenResult {
                request_id: Some(id.message()),
                crs_digest,
                max_num_bits,
                external_signature: engine.signing.sign(&domain, &message)?,
                signatures: vec![],
            };
            engine.vault.keep(Shelf::Crs, id, result.encode_to_vec()).await?;
            Ok(result)
        };
        self.run(life, Operation::CrsGeneration, id, |life| &life.crs, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn crs(&self, id: &kms::RequestId) -> Result<kms::CrsGenResult, Refusal> {
        self.result(Operation::CrsGeneration, |life| &life.crs, id).await
    }

    // --- Only in version 0.12 -------------------------------------------------------------------------------------

    /// The PRSS set-up, which holds the call. In centralized mode there is nothing to set up but the record that it was.
    pub(super) async fn init(&self, request: kms::InitRequest) -> Result<kms::Empty, Refusal> {
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let _one_at_a_time = self.prss.lock().await;
        if !self.vault.ids(Shelf::Prss).is_empty() {
            return Err(Refusal::new(Code::AlreadyExists, format!("PRSS set-up {id}: there is one already")));
        }
        let internal = |why: String| Refusal::new(Code::Internal, format!("PRSS set-up {id} failed: {why}"));
        self.run_out(Operation::PrssSetup, id).await;
        if lock(&self.switches).failing_ids.contains(&id) {
            return Err(internal("it is switched to fail".to_owned()));
        }
        self.vault.keep(Shelf::Prss, id, vec![]).await.map_err(internal)?;
        self.report_own_health().await;
        Ok(kms::Empty {})
    }

    pub(super) fn reshare(
        self: &Arc<Self>,
        request: kms::InitiateResharingRequest,
    ) -> Result<kms::InitiateResharingResponse, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::Resharing)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let key_id = validation::id("key_id", request.key_id.as_ref())?;
        let preproc_id = validation::id("preproc_id", request.preproc_id.as_ref())?;
        let params = validation::params(request.key_parameters)?;
        let domain = validation::domain(request.domain.as_ref())?;
        self.check_node(request.context_id.as_ref())?;
        if !self.knows_key(key_id) {
            return Err(Refusal::new(Code::NotFound, format!("key {key_id} of resharing {id} is not known")));
        }
        // Not idempotent, and said with a code of its own.
        self.admit(&life.resharings, id).map_err(|refusal| Refusal::new(Code::Internal, refusal.why))?;
        let engine = Arc::clone(self);
        let work = async move {
            let (key_digests, external_signature) = engine.sign_key(key_id, preproc_id, params, &domain)?;
            Ok(kms::ResharingResultResponse {
                request_id: Some(id.message()),
                key_id: Some(key_id.message()),
                preprocessing_id: Some(preproc_id.message()),
                key_digests,
                external_signature,
            })
        };
        self.run(life, Operation::Resharing, id, |life| &life.resharings, tokens, work);
        Ok(kms::InitiateResharingResponse { request_id: Some(id.message()) })
    }

    pub(super) async fn resharing(&self, id: &kms::RequestId) -> Result<kms::ResharingResultResponse, Refusal> {
        self.result(Operation::Resharing, |life| &life.resharings, id).await
    }

    pub(super) async fn new_context(&self, request: kms::NewKmsContextRequest) -> Result<kms::Empty, Refusal> {
        let context = request.new_context.ok_or_else(|| Refusal::invalid("the new context is missing"))?;
        let id = validation::id("context_id", context.context_id.as_ref())?;
        if self.knows_context(id) {
            return Err(already_exists(id));
        }
        let kept = self.vault.keep(Shelf::Contexts, id, vec![]).await;
        kept.map_err(|why| Refusal::new(Code::Internal, format!("context {id}: {why}")))?;
        Ok(kms::Empty {})
    }

    pub(super) async fn destroy_context(&self, request: kms::DestroyKmsContextRequest) -> Result<kms::Empty, Refusal> {
        let id = validation::id("context_id", request.context_id.as_ref())?;
        if !self.vault.holds(Shelf::Contexts, id) {
            return Err(Refusal::new(Code::NotFound, format!("context {id} is not known")));
        }
        let forgotten = self.vault.forget(Shelf::Contexts, id).await;
        forgotten.map_err(|why| Refusal::new(Code::Internal, format!("context {id}: {why}")))?;
        Ok(kms::Empty {})
    }

    // --- State of the node ----------------------------------------------------------------------------------------

    /// Keys, CRSs and finished preprocessings.
    pub(super) fn material(&self) -> kms::KeyMaterialAvailabilityResponse {
        let texts = |ids: Vec<OperationId>| ids.iter().map(ToString::to_string).collect();
        let mut keys = self.vault.ids(Shelf::Keys);
        keys.extend(&self.config.keys);
        keys.sort_unstable();
        keys.dedup();
        let preprocessings = lock(&self.life().preprocessings).list();
        let finished = preprocessings.into_iter().filter(|(_, state)| matches!(state, State::Done(_)));
        kms::KeyMaterialAvailabilityResponse {
            fhe_key_ids: texts(keys),
            crs_ids: texts(self.vault.ids(Shelf::Crs)),
            preprocessing_ids: texts(finished.map(|(id, _)| id).collect()),
            storage_info: self.storage_info().to_owned(),
        }
    }

    pub(super) fn health_status(&self) -> kms::HealthStatusResponse {
        let material = self.material();
        let (node_type, peers) = match self.config.mode {
            Mode::Centralized => (kms::NodeType::Centralized, vec![]),
            Mode::Threshold => (kms::NodeType::Threshold, vec![self.peers()]),
        };
        kms::HealthStatusResponse {
            peers_from_all_contexts: peers,
            my_fhe_key_ids: material.fhe_key_ids,
            my_crs_ids: material.crs_ids,
            my_preprocessing_key_ids: material.preprocessing_ids,
            my_storage_info: material.storage_info,
            node_type: node_type.into(),
        }
    }

    fn peers(&self) -> kms::PeersFromContext {
        let others = (1..=self.config.nodes).filter(|&party| party != self.config.party_id);
        let peer = |party| kms::PeerHealth {
            peer_id: party,
            endpoint: format!("simulated-node-{party}"),
            reachable: true,
            latency_ms: 0,
            error: String::new(),
        };
        kms::PeersFromContext {
            context_id: Some(id::to_message(&id::DEFAULT_CONTEXT_UNTIL_V0_13_3)),
            my_party_id: self.config.party_id,
            threshold_required: 2 * self.config.degree + 1,
            nodes_reachable: self.config.nodes,
            status: kms::HealthStatus::Optimal.into(),
            peers: others.map(peer).collect(),
        }
    }

    fn storage_info(&self) -> &'static str {
        if self.config.state_dir.is_some() { "simulated KMS - file storage" } else { "simulated KMS - memory" }
    }

    // --- What all operations share --------------------------------------------------------------------------------

    /// Takes an operation's tokens, which it holds until it ends.
    fn take_tokens(&self, life: &Life, operation: Operation) -> Result<OwnedSemaphorePermit, Refusal> {
        let tokens = self.config.limits.tokens.of(operation);
        let taken = Arc::clone(&life.bucket).try_acquire_many_owned(tokens);
        taken.map_err(|_| Refusal::new(Code::ResourceExhausted, format!("not enough tokens: {tokens} are needed")))
    }

    /// Whether the node can work at all, and in the named context.
    fn check_node(&self, context_id: Option<&kms::RequestId>) -> Result<(), Refusal> {
        if let Some(context) = validation::optional_id("context_id", context_id)?
            && !self.knows_context(context)
        {
            return Err(Refusal::new(self.config.version.unknown_context(), format!("context {context} is not known")));
        }
        if self.is_initialized() {
            return Ok(());
        }
        Err(Refusal::new(Code::Internal, "no session can be made: there is no PRSS set-up"))
    }

    fn knows_context(&self, id: OperationId) -> bool {
        id.0.0 == id::DEFAULT_CONTEXT_UNTIL_V0_13_3 || self.vault.holds(Shelf::Contexts, id)
    }

    /// Takes an id into a store.
    fn admit<T>(&self, store: &Mutex<Store<T>>, id: OperationId) -> Result<(), Refusal> {
        lock(store).insert(id).map_err(|reason| match reason {
            NotInserted::Exists => already_exists(id),
            NotInserted::Full => Refusal::new(self.config.version.full_store(), format!("no room for request {id}")),
        })
    }

    /// Runs an admitted operation in the background: its time, then its work, then its result.
    fn run<T: Send + Sync + 'static>(
        self: &Arc<Self>,
        life: Arc<Life>,
        operation: Operation,
        id: OperationId,
        store: StoreOf<T>,
        tokens: OwnedSemaphorePermit,
        work: impl Future<Output = Result<T, String>> + Send + 'static,
    ) {
        let engine = Arc::clone(self);
        let run = async move {
            let finished = async {
                engine.run_out(operation, id).await;
                if lock(&engine.switches).failing_ids.contains(&id) {
                    return Err(format!("operation {id} is switched to fail"));
                }
                work.await
            };
            // A life that ends meanwhile takes the operation with it.
            let outcome = life.over.run_until_cancelled(finished).await;
            // Whoever sees the result can use the tokens.
            drop(tokens);
            if let Some(outcome) = outcome {
                lock(store(&life)).settle(id, outcome);
            }
        };
        tokio::spawn(run);
    }

    /// Lets an operation's time pass, and waits until its kind is not held.
    async fn run_out(&self, operation: Operation, id: OperationId) {
        let latency = lock(&self.switches).latency_ms.of(operation, id);
        if latency > 0.0 {
            tokio::time::sleep(self.config.scaled(latency)).await;
        }
        // The sender lives in the engine, so waiting cannot fail.
        let _ = self.held.subscribe().wait_for(|held| !held.contains(&operation)).await;
    }

    /// Answers a Get: waits while the operation runs, as long as its version does.
    async fn result<T: Clone>(
        &self,
        operation: Operation,
        store: StoreOf<T>,
        message: &kms::RequestId,
    ) -> Result<T, Refusal> {
        let id = validation::id("request_id", Some(message))?;
        let life = self.life();
        match self.settled(&life, store(&life), operation, id).await {
            Some(State::Done(result)) => Ok(T::clone(&result)),
            Some(State::Pending) => Err(Refusal::new(Code::Unavailable, format!("request {id} is not done yet"))),
            Some(State::Failed(why)) => Err(Refusal::new(Code::Internal, format!("request {id} failed: {why}"))),
            None => Err(Refusal::new(Code::NotFound, format!("request {id} is not known"))),
        }
    }

    /// The state of an id after it settled, the wait of its kind passed, or the life ended.
    async fn settled<T>(
        &self,
        life: &Life,
        store: &Mutex<Store<T>>,
        operation: Operation,
        id: OperationId,
    ) -> Option<State<T>> {
        let settled = lock(store).settled(id)?;
        tokio::select! {
            () = settled.cancelled() => {}
            () = tokio::time::sleep(self.wait(operation)) => {}
            () = life.over.cancelled() => {}
        }
        lock(store).state(id)
    }

    fn wait(&self, operation: Operation) -> Duration {
        self.config.scaled(self.config.wait_ms.of(operation) as f64)
    }
}

fn signed_handles(operands: &[Operand]) -> Result<Vec<B256>, String> {
    let handles = operands.iter().map(|operand| operand.signed_handle().ok_or("a handle is longer than 32 bytes"));
    Ok(handles.collect::<Result<_, _>>()?)
}

fn number(id: OperationId) -> U256 {
    id.0.into()
}

fn already_exists(id: OperationId) -> Refusal {
    Refusal::new(Code::AlreadyExists, format!("{id} exists already"))
}
