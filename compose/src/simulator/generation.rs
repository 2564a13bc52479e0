//! Preprocessings, key generations and CRS generations, and their aborts.

use std::sync::Arc;

use alloy::primitives::U256;
use alloy::sol_types::Eip712Domain;
use kms_chain::eip712::{message, message_b};
use kms_proto::kms::v1 as kms;
use tonic::Code;

use super::config::Mode;
use super::engine::{Engine, Life, already_exists, lock, number};
use super::material;
use super::operation::Operation;
use super::refusal::{OperationId, Refusal};
use super::signing::KEY_MANAGEMENT;
use super::store::State;
use super::validation::{self, KeySet};
use super::vault::{StoredCrs, StoredKey};
use super::version::KeyLayout;

/// A finished preprocessing, with what a key generation must fit.
#[derive(Clone, Debug)]
pub(super) struct Preprocessing {
    result: kms::KeyGenPreprocResult,
    params: i32,
    key_set: KeySet,
}

/// What the signature of a key, a CRS or a preprocessing is made with, apart from the result.
#[derive(Clone, Debug)]
pub(super) struct Seal {
    pub(super) domain: Eip712Domain,
    /// Signed from 0.13.20 on.
    pub(super) extra_data: Vec<u8>,
    pub(super) schemes: Vec<kms::SigningSchemeType>,
}

/// A key before it is signed.
#[derive(Clone, Debug)]
pub(super) struct NewKey {
    pub(super) id: OperationId,
    pub(super) preproc_id: OperationId,
    /// In the order of the layout.
    pub(super) digests: Vec<kms::KeyDigest>,
    pub(super) layout: KeyLayout,
}

impl Engine {
    pub(super) fn preprocess(self: &Arc<Self>, request: kms::KeyGenPreprocRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::Preprocessing)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let params = validation::params(request.params)?;
        let key_set = validation::key_set(self.config.version, request.keyset_config.as_ref())?;
        let seal = self.key_seal(request.domain.as_ref(), request.extra_data, &request.signing_schemes)?;
        self.place(&life, request.context_id.as_ref(), request.epoch_id.as_ref())?;
        self.check_signing_key()?;
        self.admit(&life.preprocessings, id)?;
        let engine = Arc::clone(self);
        let work = async move {
            let external_signature = engine.sign_preprocessing(id, &seal)?;
            let result = kms::KeyGenPreprocResult {
                preprocessing_id: Some(id.message()),
                signatures: engine.typed_signatures(&seal, &external_signature),
                external_signature,
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
        let key_set = validation::key_set(self.config.version, request.keyset_config.as_ref())?;
        let seal = self.key_seal(request.domain.as_ref(), request.extra_data, &request.signing_schemes)?;
        let epoch = self.place(&life, request.context_id.as_ref(), request.epoch_id.as_ref())?.epoch;
        self.check_signing_key()?;
        let is_in_storage = self.config.version.tells_keys_in_use() && self.config.keys.contains(&id);
        if is_in_storage || lock(&life.keys).state(id).is_some() {
            return Err(already_exists(id));
        }
        let preprocessing = self.finished_preprocessing(&life, preproc_id).await?;
        let unfit = |what: &str| {
            let why = format!("the {what} of {id} does not fit preprocessing {preproc_id}");
            Refusal::new(Code::InvalidArgument, why)
        };
        if key_set != preprocessing.key_set {
            return Err(unfit("key set"));
        }
        if params.is_some_and(|params| params != preprocessing.params) {
            return Err(unfit("parameter set"));
        }
        self.consume(&life, preproc_id, id)?;
        let engine = Arc::clone(self);
        let (layout, params) = (preprocessing.key_set.layout, preprocessing.params);
        let work = async move {
            let key = NewKey { id, preproc_id, digests: engine.key_digests(id, params, layout), layout };
            let result = engine.signed_key(key, &seal)?;
            let stored = StoredKey { result: Some(result.clone()), epochs: vec![] };
            engine.vault.add_to_epoch(id, epoch, stored).await?;
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
        let state = if self.config.version.waits_for_preprocessing() {
            self.settled(life, &life.preprocessings, Operation::Preprocessing, id).await
        } else {
            lock(&life.preprocessings).state(id)
        };
        match state {
            Some(State::Done(preprocessing)) => Ok(preprocessing),
            Some(State::Pending) => {
                Err(Refusal::new(Code::Unavailable, format!("preprocessing {id} is still running")))
            }
            Some(State::Failed(why)) => {
                Err(Refusal::new(self.code_of_failure(&why), format!("preprocessing {id} failed: {why}")))
            }
            Some(State::Deleted) | None => Err(self.consumed(life, id)),
        }
    }

    /// Why a preprocessing cannot be had: another key generation is using it, or it is not there.
    fn consumed(&self, life: &Life, preproc_id: OperationId) -> Refusal {
        let consumer = lock(&life.consumers).get(&preproc_id).copied();
        let in_use = |key_id| matches!(lock(&life.keys).state(key_id), Some(State::Pending));
        match consumer {
            Some(key_id) if self.config.version.tells_keys_in_use() && in_use(key_id) => {
                Refusal::new(Code::AlreadyExists, format!("preprocessing {preproc_id} is being used by key {key_id}"))
            }
            _ => Refusal::new(Code::NotFound, format!("preprocessing {preproc_id} is not known or was consumed")),
        }
    }

    /// Takes a key id in and its preprocessing away, both or neither.
    fn consume(&self, life: &Life, preproc_id: OperationId, id: OperationId) -> Result<(), Refusal> {
        let mut preprocessings = lock(&life.preprocessings);
        if !matches!(preprocessings.state(preproc_id), Some(State::Done(_))) {
            drop(preprocessings);
            return Err(self.consumed(life, preproc_id));
        }
        self.admit(&life.keys, id)?;
        preprocessings.remove(preproc_id);
        lock(&life.consumers).insert(preproc_id, id);
        Ok(())
    }

    /// Digests of a key's parts, from the configured table or made up.
    pub(super) fn key_digests(&self, id: OperationId, params: i32, layout: KeyLayout) -> Vec<kms::KeyDigest> {
        let table = self.config.digests.get(&id);
        let in_table = |part: &str| table.and_then(|parts| parts.get(part)).cloned();
        let made_up = material::key_digests(&id.0.0, params, layout).into_iter();
        let digest = |(part, digest): (&str, _)| kms::KeyDigest {
            key_type: part.to_owned(),
            digest: in_table(part).unwrap_or(digest),
        };
        made_up.map(digest).collect()
    }

    /// The digest of a CRS, from the configured table or made up.
    pub(super) fn crs_digest(&self, id: OperationId, params: i32, max_num_bits: u32) -> Vec<u8> {
        let in_table = self.config.digests.get(&id).and_then(|parts| parts.get("CRS")).cloned();
        in_table.unwrap_or_else(|| material::crs_digest(&id.0.0, params, max_num_bits))
    }

    pub(super) fn generate_crs(self: &Arc<Self>, request: kms::CrsGenRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::CrsGeneration)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let params = validation::params(request.params)?;
        let max_num_bits = validation::max_num_bits(request.max_num_bits)?;
        let seal = self.key_seal(request.domain.as_ref(), request.extra_data, &request.signing_schemes)?;
        let epoch_id = request.epoch_id.filter(|_| self.config.version.crs_names_epoch());
        let epoch = self.place(&life, request.context_id.as_ref(), epoch_id.as_ref())?.epoch;
        self.check_signing_key()?;
        self.admit(&life.crs, id)?;
        let engine = Arc::clone(self);
        let work = async move {
            let digest = engine.crs_digest(id, params, max_num_bits);
            let result = engine.signed_crs(id, max_num_bits, digest, &seal)?;
            let stored = StoredCrs { result: Some(result.clone()), epochs: vec![] };
            engine.vault.add_to_epoch(id, epoch, stored).await?;
            Ok(result)
        };
        self.run(life, Operation::CrsGeneration, id, |life| &life.crs, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn crs(&self, id: &kms::RequestId) -> Result<kms::CrsGenResult, Refusal> {
        self.result(Operation::CrsGeneration, |life| &life.crs, id).await
    }

    /// Aborts the preprocessing with this id and the key generation that consumed it; the centralized server only the latter.
    pub(super) async fn abort_key(&self, message: &kms::RequestId) -> Result<kms::Empty, Refusal> {
        let id = validation::id("request_id", Some(message))?;
        let life = self.life();
        let mut aborted = false;
        if self.config.mode == Mode::Threshold {
            aborted = self.stop(&life, Operation::Preprocessing, id, |life| &life.preprocessings).await;
        }
        let key_id = lock(&life.consumers).get(&id).copied();
        if let Some(key_id) = key_id {
            aborted |= self.stop(&life, Operation::KeyGeneration, key_id, |life| &life.keys).await;
        }
        if aborted { Ok(kms::Empty {}) } else { Err(nothing_runs(id)) }
    }

    pub(super) async fn abort_crs(&self, message: &kms::RequestId) -> Result<kms::Empty, Refusal> {
        let id = validation::id("request_id", Some(message))?;
        let aborted = self.stop(&self.life(), Operation::CrsGeneration, id, |life| &life.crs).await;
        if aborted { Ok(kms::Empty {}) } else { Err(nothing_runs(id)) }
    }

    // --- Signatures -----------------------------------------------------------------------------------------------

    pub(super) fn key_seal(
        &self,
        domain: Option<&kms::Eip712DomainMsg>,
        extra_data: Vec<u8>,
        schemes: &[i32],
    ) -> Result<Seal, Refusal> {
        let domain = validation::domain(domain)?;
        Ok(Seal { domain, extra_data, schemes: validation::schemes(self.config.version, schemes)? })
    }

    fn sign_preprocessing(&self, id: OperationId, seal: &Seal) -> Result<Vec<u8>, String> {
        if !self.config.version.signs_extra_data() {
            return self.signing.sign(&seal.domain, &message::PrepKeygenVerification { prepKeygenId: number(id) });
        }
        let extra_data = seal.extra_data.clone().into();
        let message = message_b::PrepKeygenVerification { prepKeygenId: number(id), extraData: extra_data };
        self.signing.sign(&seal.domain, &message)
    }

    /// A key's result.
    pub(super) fn signed_key(&self, key: NewKey, seal: &Seal) -> Result<kms::KeyGenResult, String> {
        let numbers = key.layout.parts().iter().map(|(_, number)| *number);
        let parts = numbers.zip(key.digests.iter().map(|digest| digest.digest.clone().into()));
        let external_signature = if self.config.version.signs_extra_data() {
            let message = message_b::KeygenVerification {
                prepKeygenId: number(key.preproc_id),
                keyId: number(key.id),
                keyDigests: parts.map(|(number, digest)| message_b::KeyDigest { keyType: number, digest }).collect(),
                extraData: seal.extra_data.clone().into(),
            };
            self.signing.sign(&seal.domain, &message)?
        } else {
            let message = message::KeygenVerification {
                prepKeygenId: number(key.preproc_id),
                keyId: number(key.id),
                keyDigests: parts.map(|(number, digest)| message::KeyDigest { keyType: number, digest }).collect(),
            };
            self.signing.sign(&seal.domain, &message)?
        };
        Ok(kms::KeyGenResult {
            request_id: Some(key.id.message()),
            preprocessing_id: Some(key.preproc_id.message()),
            key_digests: key.digests,
            signatures: self.typed_signatures(seal, &external_signature),
            external_signature,
        })
    }

    /// A CRS's result.
    pub(super) fn signed_crs(
        &self,
        id: OperationId,
        max_num_bits: u32,
        crs_digest: Vec<u8>,
        seal: &Seal,
    ) -> Result<kms::CrsGenResult, String> {
        let external_signature = if self.config.version.signs_extra_data() {
            let message = message_b::CrsgenVerification {
                crsId: number(id),
                maxBitLength: U256::from(max_num_bits),
                crsDigest: crs_digest.clone().into(),
                extraData: seal.extra_data.clone().into(),
            };
            self.signing.sign(&seal.domain, &message)?
        } else {
            let message = message::CrsgenVerification {
                crsId: number(id),
                maxBitLength: U256::from(max_num_bits),
                crsDigest: crs_digest.clone().into(),
            };
            self.signing.sign(&seal.domain, &message)?
        };
        Ok(kms::CrsGenResult {
            request_id: Some(id.message()),
            crs_digest,
            max_num_bits,
            signatures: self.typed_signatures(seal, &external_signature),
            external_signature,
        })
    }

    /// What other schemes sign of key management is not known; the made-up bytes follow from the signature for the chain.
    fn typed_signatures(&self, seal: &Seal, external_signature: &[u8]) -> Vec<kms::TypedSignature> {
        self.signing.sign_in(&seal.schemes, external_signature, KEY_MANAGEMENT, external_signature)
    }
}

fn nothing_runs(id: OperationId) -> Refusal {
    Refusal::new(Code::NotFound, format!("nothing runs under {id}"))
}
