//! The operations, a file each: how one builds its message, which calls it makes, and what makes a result an answer.
//! `docs/adding-an-operation.md` says what a further one takes.

use kms_chain::event::ContractSet;
use kms_chain::release::Release;
use kms_chain::rpc::{BlockId, CallError, Rpc, RpcError};
use kms_chain::views::{KmsGenerationViews, ProtocolConfigViews, ViewError};
use kms_runtime::stage::{Answered, Reach};
use kms_schemas::identity::RequestId;

use crate::answer::Verifier;
use crate::ciphertext::CiphertextStore;
use crate::codes;
use crate::context::SECOND_LOOK;
use crate::core::{Ended, KmsCore, Operation};
use crate::error::Trouble;

pub mod abort;
pub mod context;
pub mod crsgen;
pub mod destroy;
pub mod epoch;
pub mod key_reshare;
pub mod keygen;
pub mod prep_keygen;
pub mod prss_init;
pub mod public_decryption;
pub mod user_decryption;

/// What every operation works with.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// Release of the contracts.
    pub release: Release,
    /// The KMS Core.
    pub core: &'a KmsCore,
    /// Whose signatures are published.
    pub verifier: &'a Verifier,
    /// Where ciphertexts come from.
    pub ciphertexts: &'a CiphertextStore,
    /// The chain of KMSGeneration and ProtocolConfig, if it is configured.
    pub generation: Option<GenerationChain<'a>>,
    /// An earlier attempt may have started the request.
    pub repeated: bool,
    /// Told of every answer of a dependency.
    pub answered: &'a Answered,
}

/// The chain of KMSGeneration and ProtocolConfig: the Gateway up to v0.12, the Ethereum host chain afterwards.
#[derive(Clone, Copy, Debug)]
pub struct GenerationChain<'a> {
    /// Its name in outages.
    pub dependency: &'static str,
    /// Its nodes.
    pub rpc: &'a Rpc,
    /// The contracts there.
    pub contracts: &'a ContractSet,
    /// The block at which state is read.
    pub block: BlockId,
}

impl<'a> Work<'a> {
    /// Runs an operation that nobody aborts on purpose.
    ///
    /// # Errors
    /// As [`KmsCore::run`].
    pub async fn run<O: Operation>(&self, operation: &O) -> Result<O::Result, Trouble> {
        match self.core.run(operation, self.repeated, self.answered).await? {
            Ended::Result(result) => Ok(result),
            Ended::Aborted { text, .. } => Err(Trouble::permanent(codes::CORE_ABORTED, text)),
        }
    }

    /// Runs a generation that the chain can abort; none if it did. `ids` are those that the chain marks.
    ///
    /// # Errors
    /// As [`KmsCore::run`], also if KMS Core aborted what the chain did not.
    pub async fn run_abortable<O: Operation>(
        &self,
        operation: &O,
        ids: &[RequestId],
    ) -> Result<Option<O::Result>, Trouble> {
        if self.is_aborted(ids).await? {
            return Ok(None);
        }
        match self.core.run(operation, self.repeated, self.answered).await? {
            Ended::Result(result) => Ok(Some(result)),
            Ended::Aborted { by_chain: true, .. } => Ok(None),
            Ended::Aborted { text, .. } if self.is_aborted(ids).await? => {
                tracing::info!(text, "aborted by the chain");
                Ok(None)
            }
            Ended::Aborted { text, .. } => Err(Trouble::permanent(codes::CORE_ABORTED, text)),
        }
    }

    /// Whether the chain aborted one of these ids: done, without anybody having agreed. Releases before v0.13 abort nothing.
    ///
    /// A request that is taken for aborted is over. So a node that answers wrongly once decides nothing: it is looked at twice.
    async fn is_aborted(&self, ids: &[RequestId]) -> Result<bool, Trouble> {
        if !self.release.key_management_on_host() {
            return Ok(false);
        }
        let chain = self.generation()?;
        let first = chain.aborted_at(ids, 0).await?;
        self.answered.by(chain.dependency);
        let Some(block) = first else { return Ok(false) };
        tokio::time::sleep(SECOND_LOOK).await;
        chain.aborted_at(ids, block).await.map(|again| again.is_some())
    }

    /// The chain of KMSGeneration.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if it is not configured.
    pub fn generation(&self) -> Result<GenerationChain<'a>, Trouble> {
        self.generation.ok_or_else(|| {
            Trouble::permanent(codes::CHAIN_NOT_CONFIGURED, "the chain of KMSGeneration is not configured")
        })
    }
}

impl GenerationChain<'_> {
    /// Views of KMSGeneration.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if it is not configured.
    pub fn kms_generation(&self) -> Result<KmsGenerationViews, Trouble> {
        let contract = self.contracts.kms_generation.ok_or_else(|| missing("KMSGeneration"))?;
        Ok(KmsGenerationViews::new(self.rpc.clone(), contract))
    }

    /// Views of ProtocolConfig.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if it is not configured.
    pub fn protocol_config(&self) -> Result<ProtocolConfigViews, Trouble> {
        let contract = self.contracts.protocol_config.ok_or_else(|| missing("ProtocolConfig"))?;
        Ok(ProtocolConfigViews::new(self.rpc.clone(), contract))
    }

    /// The block, at or above `lowest`, at which one of these ids is done without anybody having agreed; none if none is. Both is asked at
    /// one block, by its number: "done" of one block and "nobody agreed" of an earlier one would together read "aborted".
    async fn aborted_at(&self, ids: &[RequestId], lowest: u64) -> Result<Option<u64>, Trouble> {
        let number = self.block_number().await?.max(lowest);
        let block = BlockId::number(number);
        // Not asked of a node that does not have the block yet.
        let at_block = GenerationChain { rpc: &self.rpc.needing(number), block, ..*self };
        let views = at_block.kms_generation()?;
        for id in ids {
            let done = views.is_request_done(*id, block).await.map_err(|error| self.trouble(&error))?;
            if done && !at_block.has_consensus(*id).await? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The number of the block at which state is read now.
    async fn block_number(&self) -> Result<u64, Trouble> {
        let outage = |text: String| Trouble::outage(codes::HOST_CHAIN_UNREACHABLE, self.dependency, text);
        let found = match self.block {
            BlockId::Number(block) => self.rpc.block(block).await,
            BlockId::Hash(block) => self.rpc.block_by_hash(block.block_hash).await,
        };
        let found =
            found.map_err(|error| self.unreachable(codes::HOST_CHAIN_UNREACHABLE, &error, error.to_string()))?;
        found.map(|block| block.number()).ok_or_else(|| outage("no block is final yet".to_owned()))
    }

    /// Whether enough nodes agreed on a preprocessing, key or CRS.
    ///
    /// # Errors
    /// As [`Self::trouble`].
    pub async fn has_consensus(&self, id: RequestId) -> Result<bool, Trouble> {
        let agreed = self.kms_generation()?.consensus_tx_senders(id, self.block).await;
        agreed.map(|agreed| !agreed.is_empty()).map_err(|error| self.trouble(&error))
    }

    /// What an unreadable view keeps a request from: an outage, or, if the contract answered, something that may heal. An error
    /// of the node is none of the contract's, and burns no attempt of a generation of hours; but it may be about this
    /// request's block only, and holds up nobody else.
    #[must_use]
    pub fn trouble(&self, error: &ViewError) -> Trouble {
        match error {
            ViewError::Call { source: CallError::Rpc(source), .. } => {
                self.unreachable(codes::HOST_CHAIN_UNREACHABLE, source, error.to_string())
            }
            _ => Trouble::may_heal(error.code(), error.to_string()),
        }
    }

    /// No answer, or an error of the node, as `text` says.
    #[must_use]
    pub fn unreachable(&self, code: &'static str, error: &RpcError, text: String) -> Trouble {
        let reach = if error.is_outage() { Reach::All } else { Reach::Some };
        Trouble::Outage { code, dependency: self.dependency, reach, text }
    }
}

fn missing(contract: &str) -> Trouble {
    Trouble::permanent(codes::CHAIN_NOT_CONFIGURED, format!("no {contract} contract is configured"))
}

#[cfg(test)]
mod tests;
