//! What only versions up to 0.13.3 have: the PRSS set-up, resharing within the node set, and the contexts of 0.12.

use std::sync::Arc;

use kms_proto::kms::v1 as kms;
use prost::Message;
use tonic::Code;

use super::engine::{Engine, already_exists};
use super::generation::NewKey;
use super::operation::Operation;
use super::refusal::Refusal;
use super::validation;
use super::vault::{Shelf, StoredEpoch, StoredKey};
use super::version::KeyLayout;

impl Engine {
    /// The PRSS set-up, which holds the call; in version 0.13.0 it makes the epoch with the request's id. In centralized mode
    /// there is nothing to set up but the record that it was.
    pub(super) async fn init(&self, request: kms::InitRequest) -> Result<kms::Empty, Refusal> {
        let version = self.config.version;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let context =
            validation::optional_id("context_id", request.context_id.as_ref().filter(|_| version.has_epochs()))?;
        let context = context.unwrap_or(version.default_context());
        let _one_at_a_time = self.prss.lock().await;
        let is_there = match version.has_epochs() {
            true => self.vault.holds(Shelf::Epochs, id),
            false => !self.vault.ids(Shelf::Prss).is_empty(),
        };
        if is_there {
            return Err(Refusal::new(Code::AlreadyExists, format!("PRSS set-up {id}: there is one already")));
        }
        let internal = |why: String| Refusal::new(Code::Internal, format!("PRSS set-up {id} failed: {why}"));
        if !self.knows_context(context) {
            return Err(Refusal::new(version.unknown_context(), format!("context {context} is not known")));
        }
        self.run_out(Operation::PrssSetup, id).await;
        self.failure(id).map_or(Ok(()), |why| Err(internal(why)))?;
        let epoch = StoredEpoch { context: context.0.to_vec() };
        let kept = match version.has_epochs() {
            true => self.vault.keep(Shelf::Epochs, id, epoch.encode_to_vec()).await,
            false => self.vault.keep(Shelf::Prss, id, vec![]).await,
        };
        kept.map_err(internal)?;
        self.report_own_health().await;
        Ok(kms::Empty {})
    }

    pub(super) fn reshare_same_set(
        self: &Arc<Self>,
        request: kms::InitiateResharingRequest,
    ) -> Result<kms::InitiateResharingResponse, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::Resharing)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let key_id = validation::id("key_id", request.key_id.as_ref())?;
        let preproc_id = validation::id("preproc_id", request.preproc_id.as_ref())?;
        let params = validation::params(request.key_parameters)?;
        let seal = self.key_seal(request.domain.as_ref(), vec![], &[])?;
        let place = self.place(&life, request.context_id.as_ref(), request.epoch_id.as_ref())?;
        self.check_signing_key()?;
        if !self.knows_key(key_id, place.epoch) {
            return Err(Refusal::new(Code::NotFound, format!("key {key_id} of resharing {id} is not known")));
        }
        // Not idempotent, and said with a code of its own.
        self.admit(&life.resharings, id).map_err(|refusal| Refusal::new(Code::Internal, refusal.why))?;
        let engine = Arc::clone(self);
        let work = async move {
            let layout = KeyLayout::Uncompressed;
            let stored = engine.vault.item::<StoredKey>(Shelf::Keys, key_id).and_then(|key| key.result);
            let made_up = || engine.key_digests(key_id, params, layout);
            let digests = stored.map_or_else(made_up, |result| result.key_digests);
            let result = engine.signed_key(NewKey { id: key_id, preproc_id, digests, layout }, &seal)?;
            Ok(kms::ResharingResultResponse {
                request_id: Some(id.message()),
                key_id: result.request_id,
                preprocessing_id: result.preprocessing_id,
                key_digests: result.key_digests,
                external_signature: result.external_signature,
            })
        };
        self.run(life, Operation::Resharing, id, |life| &life.resharings, tokens, work);
        Ok(kms::InitiateResharingResponse { request_id: Some(id.message()) })
    }

    pub(super) async fn resharing(&self, id: &kms::RequestId) -> Result<kms::ResharingResultResponse, Refusal> {
        self.result(Operation::Resharing, |life| &life.resharings, id).await
    }

    /// A context of version 0.12, of which nothing but the id is used.
    pub(super) async fn new_kms_context(&self, request: kms::NewKmsContextRequest) -> Result<kms::Empty, Refusal> {
        let context = request.new_context.ok_or_else(|| Refusal::invalid("the new context is missing"))?;
        let id = validation::id("context_id", context.context_id.as_ref())?;
        if self.knows_context(id) {
            return Err(already_exists(id));
        }
        let kept = kms::MpcContext { context_id: Some(id.message()), ..kms::MpcContext::default() };
        let kept = self.vault.keep(Shelf::Contexts, id, kept.encode_to_vec()).await;
        kept.map_err(|why| Refusal::new(Code::Internal, format!("context {id}: {why}")))?;
        Ok(kms::Empty {})
    }

    pub(super) async fn destroy_kms_context(
        &self,
        request: kms::DestroyKmsContextRequest,
    ) -> Result<kms::Empty, Refusal> {
        let id = validation::id("context_id", request.context_id.as_ref())?;
        if !self.knows_context(id) {
            return Err(Refusal::new(Code::NotFound, format!("context {id} is not known")));
        }
        let forgotten = self.vault.forget(Shelf::Contexts, id).await;
        forgotten.map_err(|why| Refusal::new(Code::Internal, format!("context {id}: {why}")))?;
        Ok(kms::Empty {})
    }
}
