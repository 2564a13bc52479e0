//! Everything that must hold of a request before KMS Core hears of it, in one place and one order.
//!
//! ```text
//! proven on its chain (P4) ▶ one payload per identity ▶ bounds ▶ context and epoch ▶ access rights
//! ```
//!
//! The checks of live state run at every attempt, also when only a result is left to be fetched.

use std::time::SystemTime;

use alloy::primitives::{Address, B256};
use kms_chain::authority::ProvenTransaction;
use kms_chain::eip712::Domain;
use kms_chain::release::Release;
use kms_runtime::stage::Answered;
use kms_schemas::record::{CiphertextMaterial, Request, RequestBody, UnifiedUserDecryption};

use crate::access::HostChains;
use crate::authorise;
use crate::bounds;
use crate::chains::ServedChain;
use crate::context::{self, Contexts};
use crate::error::Trouble;
use crate::user_request::{self, Event, Grounds};

/// What requests are held against.
#[derive(Debug)]
pub struct Gate {
    /// Release of the contracts.
    pub release: Release,
    /// The Gateway.
    pub gateway: ServedChain,
    /// The Ethereum host chain, where the release has requests there.
    pub ethereum: Option<ServedChain>,
    /// Domain of the Gateway's `Decryption`, in which users sign.
    pub decryption: Domain,
    /// The host chains; none where their access control lists are not asked.
    pub host_chains: Option<HostChains>,
    /// Contexts and epochs, where the release has a `ProtocolConfig`.
    pub contexts: Option<Contexts>,
}

impl Gate {
    /// Proves the request on the chain that it claims to come from, and returns the transaction that made it.
    ///
    /// # Errors
    /// See [`authorise::prove`].
    pub async fn prove(&self, request: &Request, answered: &Answered) -> Result<ProvenTransaction, Trouble> {
        let served = std::iter::once(&self.gateway).chain(self.ethereum.as_ref());
        let chain = authorise::chain_of(request, served)?;
        authorise::prove(chain, request, answered).await
    }

    /// Everything else, of a request that was proven to come from this transaction.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] for what is wrong for good, [`Trouble::Waits`] for what may heal, [`Trouble::Outage`].
    pub async fn check(
        &self,
        request: &Request,
        transaction: &ProvenTransaction,
        now: SystemTime,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        match &request.body {
            RequestBody::PublicDecryption { materials, extra_data } => {
                bounds::check_one_key(materials)?;
                self.check_public(&handles(materials), extra_data, answered).await
            }
            RequestBody::PublicDecryptionHandles { handles, extra_data } => {
                self.check_public(handles, extra_data, answered).await
            }
            RequestBody::UserDecryption { materials, user_address, public_key, extra_data } => {
                bounds::check_one_key(materials)?;
                let handles = handles(materials);
                let event = Event { handles: &handles, user: *user_address, public_key, extra_data };
                self.check_legacy(request.log.address, transaction, event, answered).await
            }
            RequestBody::UserDecryptionHandles { handles, user_address, public_key, extra_data } => {
                let event = Event { handles, user: *user_address, public_key, extra_data };
                self.check_legacy(request.log.address, transaction, event, answered).await
            }
            RequestBody::UnifiedUserDecryption(unified) => self.check_unified(unified, now, answered).await,
            RequestBody::PrepKeygen { extra_data, .. }
            | RequestBody::Keygen { extra_data, .. }
            | RequestBody::Crsgen { extra_data, .. } => {
                // (a)'s events carry none.
                if self.release.key_management_on_host() {
                    self.check_context(extra_data, answered).await?;
                }
                Ok(())
            }
            RequestBody::KmsContextDestroyed => {
                if let Some(contexts) = &self.contexts {
                    contexts.context_destroyed(request.id);
                }
                Ok(())
            }
            RequestBody::KmsEpochDestroyed => {
                if let Some(contexts) = &self.contexts {
                    contexts.epoch_destroyed(request.id);
                }
                Ok(())
            }
            // These have no grounds but their event.
            RequestBody::AbortKeygen
            | RequestBody::AbortCrsgen
            | RequestBody::NewKmsContext(_)
            | RequestBody::NewKmsEpoch { .. }
            | RequestBody::PrssInit
            | RequestBody::KeyReshareSameSet { .. } => Ok(()),
        }
    }

    async fn check_public(&self, asked: &[B256], extra_data: &[u8], answered: &Answered) -> Result<(), Trouble> {
        bounds::check_handles(asked)?;
        self.check_context(extra_data, answered).await?;
        match &self.host_chains {
            Some(host_chains) => host_chains.check_public(asked, answered).await,
            None => Ok(()),
        }
    }

    async fn check_legacy(
        &self,
        decryption: Address,
        transaction: &ProvenTransaction,
        event: Event<'_>,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        bounds::check_handles(event.handles)?;
        bounds::one_host_chain(event.handles)?;
        self.check_context(event.extra_data, answered).await?;
        let Some(host_chains) = &self.host_chains else { return Ok(()) };
        let grounds = Grounds::read(decryption, transaction.to, &transaction.input, &event)?;
        host_chains.check_legacy(&grounds, answered).await
    }

    async fn check_unified(
        &self,
        request: &UnifiedUserDecryption,
        now: SystemTime,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        let asked: Vec<B256> = request.entries.iter().map(|entry| entry.handle).collect();
        bounds::check_handles(&asked)?;
        bounds::one_host_chain(&asked)?;
        bounds::check_same_handles(&asked, &request.materials)?;
        bounds::check_one_key(&request.materials)?;
        user_request::check_validity(request, now)?;
        self.check_context(&request.extra_data, answered).await?;
        match &self.host_chains {
            Some(host_chains) => host_chains.check_unified(request, &self.decryption, answered).await,
            // Nobody but the connector checks these: without a host chain they are not served.
            None => Err(crate::access::no_host_chain()),
        }
    }

    async fn check_context(&self, extra_data: &[u8], answered: &Answered) -> Result<(), Trouble> {
        let named = context::named(self.release, extra_data)?;
        match &self.contexts {
            Some(contexts) => contexts.check(named, answered).await,
            None => Ok(()),
        }
    }
}

fn handles(materials: &[CiphertextMaterial]) -> Vec<B256> {
    materials.iter().map(|material| material.handle).collect()
}
