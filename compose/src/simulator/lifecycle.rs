//! Contexts and epochs of versions from 0.13.0 and 0.13.10 on.
//!
//! An epoch that takes over another's keys reshares them: the ids and digests stay, the signatures are new, under the
//! domain and the extra data of the request.

use std::sync::Arc;

use kms_proto::kms::v1 as kms;
use prost::Message;
use tonic::Code;

use super::config::Mode;
use super::context;
use super::engine::{Engine, already_exists};
use super::generation::{NewKey, Seal};
use super::leases::{Change, Lease, Subject};
use super::operation::Operation;
use super::refusal::{OperationId, Refusal};
use super::validation;
use super::vault::{Shelf, StoredCrs, StoredEpoch, StoredKey};
use super::version::KeyLayout;

/// What an epoch takes over, checked.
#[derive(Debug, Default)]
struct Inheritance {
    keys: Vec<NewKey>,
    crs: Vec<InheritedCrs>,
}

#[derive(Debug)]
struct InheritedCrs {
    id: OperationId,
    digest: Vec<u8>,
    max_num_bits: u32,
}

impl Engine {
    // --- Contexts -------------------------------------------------------------------------------------------------

    pub(super) async fn new_context(&self, request: kms::NewMpcContextRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let context = request.new_context.ok_or_else(|| Refusal::invalid("the new context is missing"))?;
        let id = validation::id("context_id", context.context_id.as_ref())?;
        if let Some(why) = context::mistake(self.config.version, self.config.check_node_counts, &context) {
            return Err(Refusal::invalid(format!("context {id}: {why}")));
        }
        let subject = Subject::Context(id);
        let conflicts = [(subject, Change::Creation), (subject, Change::Destruction)];
        let _lease = held(life.leases.take(&[(subject, Change::Creation)], &conflicts), id)?;
        if self.knows_context(id) {
            return Err(already_exists(id));
        }
        self.run_out(Operation::ContextCreation, id).await;
        self.check_health(id)?;
        let kept = self.vault.keep(Shelf::Contexts, id, context.encode_to_vec()).await;
        kept.map_err(|why| Refusal::new(Code::Internal, format!("context {id}: {why}")))?;
        Ok(kms::Empty {})
    }

    pub(super) async fn destroy_context(
        &self,
        request: kms::DestroyMpcContextRequest,
    ) -> Result<kms::DestroyMpcContextResponse, Refusal> {
        let life = self.life();
        let id = validation::id("context_id", request.context_id.as_ref())?;
        if !self.knows_context(id) {
            return Err(Refusal::new(Code::NotFound, format!("context {id} is not known")));
        }
        let epochs = if self.config.mode == Mode::Threshold { self.epochs_of(id) } else { vec![] };
        let mut subjects = vec![Subject::Context(id)];
        subjects.extend(epochs.iter().copied().map(Subject::Epoch));
        let all = |change: Change| subjects.iter().map(move |&subject| (subject, change));
        let conflicts: Vec<_> =
            [Change::Creation, Change::Use, Change::Destruction].into_iter().flat_map(all).collect();
        let wanted: Vec<_> = all(Change::Destruction).collect();
        let _lease = held(life.leases.take(&wanted, &conflicts), id)?;
        if self.vault.ids(Shelf::Contexts) == [id] {
            return Err(Refusal::new(Code::FailedPrecondition, format!("context {id} is the last one")));
        }
        if !epochs.is_empty() && epochs.len() == self.vault.ids(Shelf::Epochs).len() {
            return Err(Refusal::new(
                Code::FailedPrecondition,
                format!("the epochs of context {id} are the last ones"),
            ));
        }
        self.run_out(Operation::Destruction, id).await;
        self.check_health(id)?;
        for &epoch in &epochs {
            self.erase_epoch(epoch).await?;
        }
        let forgotten = self.vault.forget(Shelf::Contexts, id).await;
        forgotten.map_err(|why| Refusal::new(Code::Internal, format!("context {id}: {why}")))?;
        let listed = if self.config.version.lists_destroyed_epochs() { epochs } else { vec![] };
        Ok(kms::DestroyMpcContextResponse { epoch_ids: listed.into_iter().map(OperationId::message).collect() })
    }

    fn epochs_of(&self, context: OperationId) -> Vec<OperationId> {
        let epochs = self.vault.items_on::<StoredEpoch>(Shelf::Epochs).into_iter();
        epochs.filter(|(_, epoch)| epoch.context.as_slice() == context.0.as_slice()).map(|(id, _)| id).collect()
    }

    // --- Epochs ---------------------------------------------------------------------------------------------------

    pub(super) fn new_epoch(self: &Arc<Self>, request: kms::NewMpcEpochRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::EpochCreation)?;
        let context = validation::id("context_id", request.context_id.as_ref())?;
        let id = validation::id("epoch_id", request.epoch_id.as_ref())?;
        let takes_over = match &request.previous_epoch {
            None => None,
            Some(previous) => {
                let seal = self.key_seal(request.domain.as_ref(), request.extra_data, &request.signing_schemes)?;
                Some((previous, seal))
            }
        };
        let lease = self.lease_for_epoch(id, context)?;
        let Some(known) = self.vault.item::<kms::MpcContext>(Shelf::Contexts, context) else {
            return Err(Refusal::new(Code::NotFound, format!("context {context} of epoch {id} is not known")));
        };
        self.check_signing_key()?;
        if self.config.mode == Mode::Centralized && !self.vault.ids(Shelf::Epochs).is_empty() {
            return Err(Refusal::new(Code::AlreadyExists, "the centralized server has its one epoch"));
        }
        if self.vault.holds(Shelf::Epochs, id) {
            return Err(Refusal::new(Code::InvalidArgument, format!("epoch {id} exists already")));
        }
        let is_member = self.role(&known).is_some();
        let inheritance = match takes_over {
            Some((previous, seal)) => Some((self.inherit(previous)?, seal)),
            None => None,
        };
        self.admit(&life.epochs, id)?;
        let engine = Arc::clone(self);
        let work = async move {
            let _lease = lease;
            // A node of the former set alone helps the others and gets nothing.
            if !is_member {
                return Ok(kms::EpochResultResponse::default());
            }
            let result = match inheritance {
                Some((inheritance, seal)) => engine.reshare(inheritance, &seal, id).await?,
                None => kms::EpochResultResponse::default(),
            };
            let epoch = StoredEpoch { context: context.0.to_vec() };
            engine.vault.keep(Shelf::Epochs, id, epoch.encode_to_vec()).await?;
            engine.report_own_health().await;
            Ok(result)
        };
        self.run(life, Operation::EpochCreation, id, |life| &life.epochs, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn epoch(&self, id: &kms::RequestId) -> Result<kms::EpochResultResponse, Refusal> {
        self.break_where_centralized();
        self.result(Operation::EpochCreation, |life| &life.epochs, id).await
    }

    pub(super) async fn destroy_epoch(&self, request: kms::DestroyMpcEpochRequest) -> Result<kms::Empty, Refusal> {
        self.break_where_centralized();
        let life = self.life();
        let id = validation::id("epoch_id", request.epoch_id.as_ref())?;
        let subject = Subject::Epoch(id);
        let conflicts = [Change::Creation, Change::Destruction].map(|change| (subject, change));
        let _lease = held(life.leases.take(&[(subject, Change::Destruction)], &conflicts), id)?;
        let epochs = self.vault.ids(Shelf::Epochs);
        if !epochs.contains(&id) {
            return Err(Refusal::new(Code::NotFound, format!("epoch {id} is not known")));
        }
        if epochs == [id] {
            return Err(Refusal::new(Code::FailedPrecondition, format!("epoch {id} is the only one")));
        }
        self.run_out(Operation::Destruction, id).await;
        self.check_health(id)?;
        self.erase_epoch(id).await?;
        Ok(kms::Empty {})
    }

    /// KMS Core's centralized server panics in two of its calls; the client sees the call break, without an answer. Here the
    /// task of the call ends in the same way, without the report of a panic.
    fn break_where_centralized(&self) {
        if self.config.mode == Mode::Centralized {
            std::panic::resume_unwind(Box::new("the centralized server does not implement this call"));
        }
    }

    fn lease_for_epoch(&self, id: OperationId, context: OperationId) -> Result<Lease, Refusal> {
        let (epoch, context) = (Subject::Epoch(id), Subject::Context(context));
        let conflicts = [(epoch, Change::Destruction), (context, Change::Destruction), (context, Change::Creation)];
        held(self.life().leases.take(&[(epoch, Change::Creation), (context, Change::Use)], &conflicts), id)
    }

    /// An epoch with all that is only in it. What fails leaves the epoch, so that it can be tried again.
    async fn erase_epoch(&self, id: OperationId) -> Result<(), Refusal> {
        let erase = async {
            self.vault.purge::<StoredKey>(id).await?;
            self.vault.purge::<StoredCrs>(id).await?;
            self.vault.forget(Shelf::Epochs, id).await
        };
        erase.await.map_err(|why: String| Refusal::new(Code::Internal, format!("epoch {id}: {why}")))
    }

    /// Signs what was taken over and keeps it in the new epoch.
    async fn reshare(
        &self,
        inheritance: Inheritance,
        seal: &Seal,
        epoch: OperationId,
    ) -> Result<kms::EpochResultResponse, String> {
        let mut result = kms::EpochResultResponse::default();
        for key in inheritance.keys {
            let id = key.id;
            let signed = self.signed_key(key, seal)?;
            let stored = StoredKey { result: Some(signed.clone()), epochs: vec![] };
            self.vault.add_to_epoch(id, epoch, stored).await?;
            result.reshare_responses.push(signed);
        }
        for crs in inheritance.crs {
            let signed = self.signed_crs(crs.id, crs.max_num_bits, crs.digest, seal)?;
            let stored = StoredCrs { result: Some(signed.clone()), epochs: vec![] };
            self.vault.add_to_epoch(crs.id, epoch, stored).await?;
            result.crs_responses.push(signed);
        }
        Ok(result)
    }

    /// Checks what is to be taken over against what this node has or, where it has not, against what every node makes up.
    fn inherit(&self, previous: &kms::PreviousEpochInfo) -> Result<Inheritance, Refusal> {
        let context = validation::id("previous_epoch.context_id", previous.context_id.as_ref())?;
        let epoch = validation::id("previous_epoch.epoch_id", previous.epoch_id.as_ref())?;
        let Some(known) = self.vault.item::<kms::MpcContext>(Shelf::Contexts, context) else {
            return Err(unfit(format!("the previous context {context} is not known")));
        };
        let had_part = self.role(&known).is_some();
        if had_part && !self.vault.holds(Shelf::Epochs, epoch) {
            return Err(unfit(format!("the previous epoch {epoch} is not known")));
        }
        let previous_epoch = had_part.then_some(epoch);
        let keys = previous.keys_info.iter().map(|key| self.inherit_key(key, previous_epoch));
        let crs = previous.crs_info.iter().map(|crs| self.inherit_crs(crs));
        Ok(Inheritance { keys: keys.collect::<Result<_, _>>()?, crs: crs.collect::<Result<_, _>>()? })
    }

    /// `previous_epoch` is where this node must hold its part, if it had one.
    fn inherit_key(&self, key: &kms::KeyInfo, previous_epoch: Option<OperationId>) -> Result<NewKey, Refusal> {
        let id = validation::id("key_id", key.key_id.as_ref())?;
        let preproc_id = validation::id("preproc_id", key.preproc_id.as_ref())?;
        let params = validation::params(key.key_parameters)?;
        if previous_epoch.is_some_and(|epoch| !self.knows_key(id, epoch)) {
            return Err(unfit(format!("key {id} is not in the previous epoch")));
        }
        let given = |part: &str| key.key_digests.iter().filter(|digest| digest.key_type == part).count();
        let has_layout = |layout: &KeyLayout| {
            layout.parts().len() == key.key_digests.len() && layout.parts().iter().all(|(part, _)| given(part) == 1)
        };
        let layout = KeyLayout::ALL.into_iter().find(has_layout);
        let layout = layout.ok_or_else(|| unfit(format!("the digests of key {id} are not those of a key set")))?;
        let stored = self.vault.item::<StoredKey>(Shelf::Keys, id).and_then(|key| key.result);
        if stored.as_ref().is_some_and(|result| result.preprocessing_id != Some(preproc_id.message())) {
            return Err(unfit(format!("key {id} was not made from preprocessing {preproc_id}")));
        }
        let digests = stored.map_or_else(|| self.key_digests(id, params, layout), |result| result.key_digests);
        let fits = digests.len() == key.key_digests.len() && digests.iter().all(|own| key.key_digests.contains(own));
        if !fits {
            return Err(unfit(format!("a digest of key {id} is not that of its public material")));
        }
        Ok(NewKey { id, preproc_id, digests, layout })
    }

    fn inherit_crs(&self, crs: &kms::CrsInfo) -> Result<InheritedCrs, Refusal> {
        let id = validation::id("crs_id", crs.crs_id.as_ref())?;
        let stored = self.vault.item::<StoredCrs>(Shelf::Crs, id).and_then(|crs| crs.result);
        let max_num_bits = match stored {
            Some(result) => (result.crs_digest == crs.crs_digest).then_some(result.max_num_bits),
            // The digest tells the size, which KMS Core reads from the public material.
            None => (0..12).map(|power| 1 << power).rev().find(|&bits| {
                let made_up = |params| self.crs_digest(id, params, bits);
                [0, 1].into_iter().any(|params| made_up(params) == crs.crs_digest)
            }),
        };
        let max_num_bits =
            max_num_bits.ok_or_else(|| unfit(format!("the digest of CRS {id} is not that of its public material")))?;
        Ok(InheritedCrs { id, digest: crs.crs_digest.clone(), max_num_bits })
    }

    /// A synchronous operation that is switched to fail finds its storage in trouble.
    fn check_health(&self, id: OperationId) -> Result<(), Refusal> {
        self.failure(id).map_or(Ok(()), |why| Err(Refusal::new(Code::Internal, why)))
    }
}

fn held(lease: Option<Lease>, id: OperationId) -> Result<Lease, Refusal> {
    let conflict = || Refusal::new(Code::FailedPrecondition, format!("another operation on {id} is in progress"));
    lease.ok_or_else(conflict)
}

fn unfit(why: String) -> Refusal {
    Refusal::new(Code::InvalidArgument, why)
}
