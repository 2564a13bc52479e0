//! What is read from the contracts' state.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall;
use kms_schemas::identity::RequestId;
use kms_schemas::record::KeyDigest;

use crate::contracts::{
    CiphertextCommits, Coprocessor, Decryption, GatewayConfig, HostAcl, HostChain, KmsNode, Proxy,
    SnsCiphertextMaterial, b,
};
use crate::eip712::Domain;
use crate::rpc::{BlockId, CallError, CallRequest, Rpc, RpcError};

/// Why a view has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ViewError {
    /// The call failed or reverted.
    #[error("{function}: {source}")]
    Call {
        /// Signature of the view.
        function: &'static str,
        /// What happened.
        source: CallError,
    },
    /// The answer is empty, which is what an address without code answers to everything.
    #[error("{function}: empty answer, there is no such contract at {contract}")]
    NoContract {
        /// Signature of the view.
        function: &'static str,
        /// The address that was asked.
        contract: Address,
    },
    /// The answer does not decode.
    #[error("{function}: undecodable answer of {contract}: {why}")]
    Undecodable {
        /// Signature of the view.
        function: &'static str,
        /// The address that was asked.
        contract: Address,
        /// What is wrong with it.
        why: String,
    },
}

impl ViewError {
    /// Whether the chain has not spoken: wait and ask again.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.is_outage())
    }

    /// What came instead of the call's execution: no answer, or an error of the node that is no revert. Whatever it is, it
    /// says nothing of the contract, and the same call may succeed later. None where the contract was executed, or is not
    /// there.
    #[must_use]
    pub fn unexecuted(&self) -> Option<&RpcError> {
        match self {
            Self::Call { source: CallError::Rpc(error), .. } => Some(error),
            _ => None,
        }
    }

    /// Whether the contract has answered, in whatever way. An error object of the node is no answer of the contract: it may
    /// lack the block's state or be out of breath, and says something else a moment later.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.unexecuted().is_none()
    }

    /// The stable code (`docs/errors.md`).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Call { source: CallError::Rpc(error), .. } => error.code(),
            _ => crate::codes::VIEW_UNDECODABLE,
        }
    }
}

/// Reads a view of a contract.
///
/// # Errors
/// See [`ViewError`].
pub async fn view<C: SolCall>(rpc: &Rpc, contract: Address, call: &C, block: BlockId) -> Result<C::Return, ViewError> {
    let request = CallRequest::view(contract, call.abi_encode());
    let answer = rpc.call(&request, block).await;
    let answer = answer.map_err(|source| ViewError::Call { function: C::SIGNATURE, source })?;
    read_view::<C>(contract, &answer)
}

/// Decodes the answer to a view, for callers that batch their calls.
///
/// # Errors
/// See [`ViewError`].
pub fn read_view<C: SolCall>(contract: Address, answer: &[u8]) -> Result<C::Return, ViewError> {
    if answer.is_empty() {
        return Err(ViewError::NoContract { function: C::SIGNATURE, contract });
    }
    C::abi_decode_returns_validate(answer).map_err(|error| ViewError::Undecodable {
        function: C::SIGNATURE,
        contract,
        why: error.to_string(),
    })
}

/// Why a configured domain is not the contract's.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DomainError {
    /// The contract's domain could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// They differ: signatures over the configured one would be refused on chain.
    #[error("the EIP-712 domain is {found} on chain, and {configured} in the configuration")]
    Mismatch {
        /// The configured domain.
        configured: Box<Domain>,
        /// The contract's own statement.
        found: String,
    },
}

/// Checks a configured domain against what the contract says of itself.
///
/// # Errors
/// See [`DomainError`].
pub async fn check_domain(rpc: &Rpc, domain: &Domain) -> Result<(), DomainError> {
    /// `name`, `version`, `chainId` and `verifyingContract` are there, and nothing else (ERC-5267).
    const FIELDS: u8 = 0b0_1111;
    let found = view(rpc, domain.contract(), &Proxy::eip712DomainCall {}, BlockId::latest()).await?;
    let same = found.fields.0 == [FIELDS]
        && found.name == domain.name()
        && found.version == domain.version()
        && found.chainId == U256::from(domain.chain_id())
        && found.verifyingContract == domain.contract()
        && found.salt == B256::ZERO
        && found.extensions.is_empty();
    if same {
        return Ok(());
    }
    let found = format!("{}/{} of {} on chain {}", found.name, found.version, found.verifyingContract, found.chainId);
    Err(DomainError::Mismatch { configured: Box::new(domain.clone()), found })
}

/// Whether a public decryption has consensus, or a user decryption has enough shares. The request stays open for
/// answers all the same.
///
/// # Errors
/// See [`ViewError`].
pub async fn is_decryption_done(rpc: &Rpc, decryption: Address, id: RequestId) -> Result<bool, ViewError> {
    let call = Decryption::isDecryptionDoneCall { decryptionId: id.as_u256() };
    view(rpc, decryption, &call, BlockId::latest()).await
}

/// The ciphertext materials that the coprocessors committed for these handles.
///
/// # Errors
/// See [`ViewError`]; a handle without material reverts.
pub async fn sns_ciphertext_materials(
    rpc: &Rpc,
    ciphertext_commits: Address,
    handles: &[B256],
) -> Result<Vec<SnsCiphertextMaterial>, ViewError> {
    let call = CiphertextCommits::getSnsCiphertextMaterialsCall { ctHandles: handles.to_vec() };
    view(rpc, ciphertext_commits, &call, BlockId::latest()).await
}

/// How many nodes must agree, or answer. They are read at the time of the answer: a change applies to open requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Equal answers to a public decryption.
    pub public_decryption: u64,
    /// Shares of a user decryption.
    pub user_decryption: u64,
    /// Equal answers to preprocessing, key and CRS generation.
    pub kms_generation: u64,
    /// Dishonest nodes that the MPC tolerates.
    pub mpc: u64,
}

/// Views of the `GatewayConfig` contract: who the nodes and coprocessors are.
#[derive(Clone, Debug)]
pub struct GatewayConfigViews {
    rpc: Rpc,
    contract: Address,
}

impl GatewayConfigViews {
    /// Views of the contract at this address.
    #[must_use]
    pub fn new(rpc: Rpc, contract: Address) -> Self {
        Self { rpc, contract }
    }

    /// Address of the contract.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    async fn read<C: SolCall>(&self, call: C) -> Result<C::Return, ViewError> {
        view(&self.rpc, self.contract, &call, BlockId::latest()).await
    }

    /// The coprocessor with this transaction sender; none if it is not registered.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn coprocessor(&self, tx_sender: Address) -> Result<Option<Coprocessor>, ViewError> {
        let call = GatewayConfig::getCoprocessorCall { coprocessorTxSenderAddress: tx_sender };
        let found = self.read(call).await?;
        Ok((found.txSenderAddress == tx_sender && !tx_sender.is_zero()).then_some(found))
    }

    /// Transaction senders of all coprocessors.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn coprocessor_tx_senders(&self) -> Result<Vec<Address>, ViewError> {
        self.read(GatewayConfig::getCoprocessorTxSendersCall {}).await
    }

    /// The KMS node with this transaction sender; none if it is not registered.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn kms_node(&self, tx_sender: Address) -> Result<Option<KmsNode>, ViewError> {
        let found = self.read(GatewayConfig::getKmsNodeCall { kmsTxSenderAddress: tx_sender }).await?;
        Ok((found.txSenderAddress == tx_sender && !tx_sender.is_zero()).then_some(found))
    }

    /// Transaction senders of all KMS nodes.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn kms_tx_senders(&self) -> Result<Vec<Address>, ViewError> {
        self.read(GatewayConfig::getKmsTxSendersCall {}).await
    }

    /// Signers of all KMS nodes.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn kms_signers(&self) -> Result<Vec<Address>, ViewError> {
        self.read(GatewayConfig::getKmsSignersCall {}).await
    }

    /// The registered host chains.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn host_chains(&self) -> Result<Vec<HostChain>, ViewError> {
        self.read(GatewayConfig::getHostChainsCall {}).await
    }

    /// Signers of all coprocessors.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn coprocessor_signers(&self) -> Result<Vec<Address>, ViewError> {
        self.read(GatewayConfig::getCoprocessorSignersCall {}).await
    }

    /// Equal attestations of coprocessors that locate a ciphertext. The contract only holds it between 1 and their number.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn coprocessor_threshold(&self) -> Result<usize, ViewError> {
        let call = GatewayConfig::getCoprocessorMajorityThresholdCall {};
        let found = self.read(call).await?;
        small_number(self.contract, "getCoprocessorMajorityThreshold()", found)
    }

    /// The context that requests without one belong to; from v0.12 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn current_context(&self) -> Result<RequestId, ViewError> {
        self.read(b::GatewayConfig::getCurrentKmsContextIdCall {}).await.map(RequestId::from)
    }

    /// Whether the Gateway has the context, and it is not destroyed there; from v0.13 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn is_valid_context(&self, context: RequestId) -> Result<bool, ViewError> {
        self.read(b::GatewayConfig::isValidKmsContextCall { contextId: context.as_u256() }).await
    }

    /// The KMS node with this transaction sender in a context; none if it is not in it. From v0.12 on.
    ///
    /// # Errors
    /// See [`ViewError`]; an unknown or destroyed context reverts.
    pub async fn kms_node_in(&self, context: RequestId, tx_sender: Address) -> Result<Option<KmsNode>, ViewError> {
        let call =
            b::GatewayConfig::getKmsNodeForContextCall { contextId: context.as_u256(), kmsTxSenderAddress: tx_sender };
        let found = self.read(call).await?;
        Ok((found.txSenderAddress == tx_sender && !tx_sender.is_zero()).then_some(found))
    }

    /// Transaction senders of all KMS nodes of a context; from v0.12 on.
    ///
    /// # Errors
    /// See [`ViewError`]; an unknown or destroyed context reverts.
    pub async fn kms_tx_senders_in(&self, context: RequestId) -> Result<Vec<Address>, ViewError> {
        self.read(b::GatewayConfig::getKmsTxSendersForContextCall { contextId: context.as_u256() }).await
    }

    /// Signers of all KMS nodes of a context; from v0.12 on.
    ///
    /// # Errors
    /// See [`ViewError`]; an unknown or destroyed context reverts.
    pub async fn kms_signers_in(&self, context: RequestId) -> Result<Vec<Address>, ViewError> {
        self.read(b::GatewayConfig::getKmsSignersForContextCall { contextId: context.as_u256() }).await
    }

    /// Equal answers that a public decryption of a context needs; from v0.12 on.
    ///
    /// # Errors
    /// See [`ViewError`]; an unknown or destroyed context reverts.
    pub async fn public_decryption_threshold_in(&self, context: RequestId) -> Result<usize, ViewError> {
        let call = b::GatewayConfig::getPublicDecryptionThresholdForContextCall { contextId: context.as_u256() };
        let found = self.read(call).await?;
        small_number(self.contract, "getPublicDecryptionThresholdForContext(uint256)", found)
    }

    /// Shares that a user decryption of a context needs; from v0.12 on.
    ///
    /// # Errors
    /// See [`ViewError`]; an unknown or destroyed context reverts.
    pub async fn user_decryption_threshold_in(&self, context: RequestId) -> Result<usize, ViewError> {
        let call = b::GatewayConfig::getUserDecryptionThresholdForContextCall { contextId: context.as_u256() };
        let found = self.read(call).await?;
        small_number(self.contract, "getUserDecryptionThresholdForContext(uint256)", found)
    }

    /// All thresholds of generation (a), from one state of the chain, in one request.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn thresholds(&self) -> Result<Thresholds, ViewError> {
        let calls = [
            GatewayConfig::getPublicDecryptionThresholdCall {}.abi_encode(),
            GatewayConfig::getUserDecryptionThresholdCall {}.abi_encode(),
            GatewayConfig::getKmsGenThresholdCall {}.abi_encode(),
            GatewayConfig::getMpcThresholdCall {}.abi_encode(),
        ]
        .map(|data| CallRequest::view(self.contract, data));
        let function = "GatewayConfig thresholds";
        let failed = |source: CallError| ViewError::Call { function, source };
        let answers = self.rpc.calls(&calls, BlockId::latest()).await;
        let answers = answers.map_err(|error: RpcError| failed(error.into()))?;
        let mut values = Vec::with_capacity(answers.len());
        for answer in answers {
            let answer = answer.map_err(failed)?;
            let value = read_view::<GatewayConfig::getMpcThresholdCall>(self.contract, &answer)?;
            values.push(u64::try_from(value).map_err(|_| ViewError::Undecodable {
                function,
                contract: self.contract,
                why: format!("threshold {value} is no number of nodes"),
            })?);
        }
        match values[..] {
            [public_decryption, user_decryption, kms_generation, mpc] => {
                Ok(Thresholds { public_decryption, user_decryption, kms_generation, mpc })
            }
            _ => Err(ViewError::NoContract { function, contract: self.contract }),
        }
    }
}

fn small_number(contract: Address, function: &'static str, value: U256) -> Result<usize, ViewError> {
    usize::try_from(value).map_err(|_| ViewError::Undecodable {
        function,
        contract,
        why: format!("{value} is no number of nodes"),
    })
}

fn ids(values: Vec<U256>) -> Vec<RequestId> {
    values.into_iter().map(RequestId::from).collect()
}

/// Where a context was defined, and what its `NewKmsContext` log must hash to ([`crate::event::context_info_hash`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextAnchor {
    /// Block of the log.
    pub block_number: u64,
    /// keccak256 of its data.
    pub info_hash: B256,
}

/// Views of `ProtocolConfig` on the Ethereum host chain (`docs/protocol.md`, "Contexts and epochs"). Each is asked at a
/// block of the caller's choice, by number, tag or hash: decisions about contexts and epochs are made on finalized state.
#[derive(Clone, Debug)]
pub struct ProtocolConfigViews {
    rpc: Rpc,
    contract: Address,
}

impl ProtocolConfigViews {
    /// Views of the contract at this address.
    #[must_use]
    pub fn new(rpc: Rpc, contract: Address) -> Self {
        Self { rpc, contract }
    }

    /// Address of the contract.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    async fn read<C: SolCall>(&self, call: C, block: BlockId) -> Result<C::Return, ViewError> {
        view(&self.rpc, self.contract, &call, block).await
    }

    /// The current context; from v0.13 on. `KMSVerifier` of v0.12 and v0.13 answers the same view.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn current_context(&self, block: BlockId) -> Result<RequestId, ViewError> {
        self.read(b::ProtocolConfig::getCurrentKmsContextIdCall {}, block).await.map(RequestId::from)
    }

    /// The context id given last, also to one that is pending or destroyed: a higher id is none yet. From v0.14 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn last_context(&self, block: BlockId) -> Result<RequestId, ViewError> {
        self.read(b::ProtocolConfig::getCurrentKmsContextIdCounterCall {}, block).await.map(RequestId::from)
    }

    /// The current context and epoch; from v0.14 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn current_context_and_epoch(&self, block: BlockId) -> Result<(RequestId, RequestId), ViewError> {
        let found = self.read(b::ProtocolConfig::getCurrentKmsContextAndEpochCall {}, block).await?;
        Ok((found.contextId.into(), found.epochId.into()))
    }

    /// Whether a context is active and not destroyed; from v0.13 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn is_valid_context(&self, context: RequestId, block: BlockId) -> Result<bool, ViewError> {
        self.read(b::ProtocolConfig::isValidKmsContextCall { kmsContextId: context.as_u256() }, block).await
    }

    /// Whether a context exists (pending, created or active) and is not destroyed; from v0.14 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn is_live_context(&self, context: RequestId, block: BlockId) -> Result<bool, ViewError> {
        self.read(b::ProtocolConfig::isLiveKmsContextCall { kmsContextId: context.as_u256() }, block).await
    }

    /// Whether an epoch is active, belongs to the context, and the context is valid; from v0.14 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn is_valid_epoch(
        &self,
        context: RequestId,
        epoch: RequestId,
        block: BlockId,
    ) -> Result<bool, ViewError> {
        let call =
            b::ProtocolConfig::isValidEpochForContextCall { kmsContextId: context.as_u256(), epochId: epoch.as_u256() };
        self.read(call, block).await
    }

    /// Where a context was defined, also one that is destroyed; none for one that never was, and on replicas. From v0.14
    /// on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn context_anchor(&self, context: RequestId, block: BlockId) -> Result<Option<ContextAnchor>, ViewError> {
        let call = b::ProtocolConfig::getKmsContextAnchorCall { contextId: context.as_u256() };
        let found = self.read(call, block).await?;
        if found.contextInfoHash.is_zero() {
            return Ok(None);
        }
        let block_number = u64::try_from(found.emissionBlockNumber).map_err(|_| ViewError::Undecodable {
            function: "getKmsContextAnchor(uint256)",
            contract: self.contract,
            why: format!("{} is no block number", found.emissionBlockNumber),
        })?;
        Ok(Some(ContextAnchor { block_number, info_hash: found.contextInfoHash }))
    }

    /// The nodes of an active context.
    ///
    /// # Errors
    /// See [`ViewError`]; a context that is not active reverts.
    pub async fn kms_nodes(&self, context: RequestId, block: BlockId) -> Result<Vec<KmsNode>, ViewError> {
        self.read(b::ProtocolConfig::getKmsNodesForContextCall { kmsContextId: context.as_u256() }, block).await
    }

    /// The node with this transaction sender in any context that ever existed; none if it is not in it.
    ///
    /// # Errors
    /// See [`ViewError`]; a context that never was reverts.
    pub async fn kms_node(
        &self,
        context: RequestId,
        tx_sender: Address,
        block: BlockId,
    ) -> Result<Option<KmsNode>, ViewError> {
        let call = b::ProtocolConfig::getKmsNodeForContextCall { kmsContextId: context.as_u256(), txSender: tx_sender };
        let found = self.read(call, block).await?;
        Ok((found.txSenderAddress == tx_sender && !tx_sender.is_zero()).then_some(found))
    }

    /// Whether this account sends the transactions of a node of a live context.
    ///
    /// # Errors
    /// See [`ViewError`]; a context that is not live reverts.
    pub async fn is_tx_sender(
        &self,
        context: RequestId,
        tx_sender: Address,
        block: BlockId,
    ) -> Result<bool, ViewError> {
        let call =
            b::ProtocolConfig::isKmsTxSenderForContextCall { kmsContextId: context.as_u256(), txSender: tx_sender };
        self.read(call, block).await
    }

    /// Signers of an active context.
    ///
    /// # Errors
    /// See [`ViewError`]; a context that is not active reverts.
    pub async fn kms_signers(&self, context: RequestId, block: BlockId) -> Result<Vec<Address>, ViewError> {
        self.read(b::ProtocolConfig::getKmsSignersForContextCall { kmsContextId: context.as_u256() }, block).await
    }

    /// Equal answers that key management of a context needs.
    ///
    /// # Errors
    /// See [`ViewError`]; a context that is not active reverts.
    pub async fn kms_gen_threshold(&self, context: RequestId, block: BlockId) -> Result<usize, ViewError> {
        let call = b::ProtocolConfig::getKmsGenThresholdForContextCall { kmsContextId: context.as_u256() };
        let found = self.read(call, block).await?;
        small_number(self.contract, "getKmsGenThresholdForContext(uint256)", found)
    }

    /// Dishonest nodes that the MPC of a context tolerates.
    ///
    /// # Errors
    /// See [`ViewError`]; a context that is not active reverts.
    pub async fn mpc_threshold(&self, context: RequestId, block: BlockId) -> Result<usize, ViewError> {
        let call = b::ProtocolConfig::getMpcThresholdForContextCall { kmsContextId: context.as_u256() };
        let found = self.read(call, block).await?;
        small_number(self.contract, "getMpcThresholdForContext(uint256)", found)
    }

    /// Confirmations of a new context that its predecessor's nodes must give.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn previous_confirmations(&self, context: RequestId, block: BlockId) -> Result<usize, ViewError> {
        let call =
            b::ProtocolConfig::getContextCreationPreviousTxSenderThresholdCall { kmsContextId: context.as_u256() };
        let found = self.read(call, block).await?;
        small_number(self.contract, "getContextCreationPreviousTxSenderThreshold(uint256)", found)
    }
}

/// A completed key, as `KMSGeneration` on the host chain has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedKey {
    /// Its preprocessing.
    pub prep_keygen_id: RequestId,
    /// Its id.
    pub key_id: RequestId,
    /// `ParamsType`: 0 default, 1 test.
    pub params_type: u8,
    /// Digests in signed order.
    pub key_digests: Vec<KeyDigest>,
}

/// A completed CRS, as `KMSGeneration` on the host chain has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedCrs {
    /// Its id.
    pub crs_id: RequestId,
    /// Digest of the CRS.
    pub crs_digest: Bytes,
}

/// Views of `KMSGeneration` on the Ethereum host chain. The material of an epoch is read at the epoch's
/// `materialBlockNumber`, whose state the node must still have.
#[derive(Clone, Debug)]
pub struct KmsGenerationViews {
    rpc: Rpc,
    contract: Address,
}

impl KmsGenerationViews {
    /// Views of the contract at this address.
    #[must_use]
    pub fn new(rpc: Rpc, contract: Address) -> Self {
        Self { rpc, contract }
    }

    /// Address of the contract.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    async fn read<C: SolCall>(&self, call: C, block: BlockId) -> Result<C::Return, ViewError> {
        view(&self.rpc, self.contract, &call, block).await
    }

    /// Whether a preprocessing, key or CRS has consensus, **or was aborted**.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn is_request_done(&self, id: RequestId, block: BlockId) -> Result<bool, ViewError> {
        self.read(b::KMSGeneration::isRequestDoneCall { requestId: id.as_u256() }, block).await
    }

    /// The nodes that agreed; none before consensus, and after an abort.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn consensus_tx_senders(&self, id: RequestId, block: BlockId) -> Result<Vec<Address>, ViewError> {
        self.read(b::KMSGeneration::getConsensusTxSendersCall { requestId: id.as_u256() }, block).await
    }

    /// Ids of all completed keys, in the order that an epoch's confirmation must have.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn completed_key_ids(&self, block: BlockId) -> Result<Vec<RequestId>, ViewError> {
        self.read(b::KMSGeneration::getCompletedKeyIdsCall {}, block).await.map(ids)
    }

    /// Ids of all completed CRSs, in the order that an epoch's confirmation must have.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn completed_crs_ids(&self, block: BlockId) -> Result<Vec<RequestId>, ViewError> {
        self.read(b::KMSGeneration::getCompletedCrsIdsCall {}, block).await.map(ids)
    }

    /// A completed key.
    ///
    /// # Errors
    /// See [`ViewError`]; a key that is not generated, or aborted, reverts.
    pub async fn key(&self, key_id: RequestId, block: BlockId) -> Result<CompletedKey, ViewError> {
        let found = self.read(b::KMSGeneration::getKeyInfoCall { keyId: key_id.as_u256() }, block).await?;
        let digests = found.keyDigests.into_iter().map(|d| KeyDigest { key_type: d.keyType, digest: d.digest });
        Ok(CompletedKey {
            prep_keygen_id: found.prepKeygenId.into(),
            key_id: found.keyId.into(),
            params_type: found.paramsType,
            key_digests: digests.collect(),
        })
    }

    /// A completed CRS.
    ///
    /// # Errors
    /// See [`ViewError`]; a CRS that is not generated, or aborted, reverts.
    pub async fn crs(&self, crs_id: RequestId, block: BlockId) -> Result<CompletedCrs, ViewError> {
        let call = b::KMSGeneration::getCrsMaterialsCall { crsId: crs_id.as_u256() };
        let found = self.read(call, block).await?;
        Ok(CompletedCrs { crs_id, crs_digest: found._1 })
    }
}

/// A question to the access control list of a host chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AclQuestion {
    /// May everybody see the value?
    AllowedForDecryption {
        /// The value.
        handle: B256,
    },
    /// May this account use the value?
    Allowed {
        /// The value.
        handle: B256,
        /// User or contract.
        account: Address,
    },
    /// Did the delegator let the delegate see the value in this contract?
    Delegated {
        /// Who owns the right.
        delegator: Address,
        /// Who asks.
        delegate: Address,
        /// The contract that the value is used with.
        contract: Address,
        /// The value.
        handle: B256,
    },
}

impl AclQuestion {
    fn calldata(self) -> Vec<u8> {
        match self {
            Self::AllowedForDecryption { handle } => HostAcl::isAllowedForDecryptionCall { handle }.abi_encode(),
            Self::Allowed { handle, account } => HostAcl::isAllowedCall { handle, account }.abi_encode(),
            Self::Delegated { delegator, delegate, contract, handle } => {
                let contract_address = contract;
                HostAcl::isHandleDelegatedForUserDecryptionCall {
                    delegator,
                    delegate,
                    contractAddress: contract_address,
                    handle,
                }
                .abi_encode()
            }
        }
    }
}

/// Views of the access control list of one host chain.
#[derive(Clone, Debug)]
pub struct AclViews {
    rpc: Rpc,
    contract: Address,
}

impl AclViews {
    /// Views of the contract at this address.
    #[must_use]
    pub fn new(rpc: Rpc, contract: Address) -> Self {
        Self { rpc, contract }
    }

    /// Address of the contract.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    /// Answers to all questions, in their order, in one request.
    ///
    /// # Errors
    /// See [`ViewError`]; one failed answer fails all.
    pub async fn ask(&self, questions: &[AclQuestion], block: BlockId) -> Result<Vec<bool>, ViewError> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let calls: Vec<CallRequest> =
            questions.iter().map(|question| CallRequest::view(self.contract, question.calldata())).collect();
        let function = "access control list";
        let failed = |source: CallError| ViewError::Call { function, source };
        let answers = self.rpc.calls(&calls, block).await.map_err(|error: RpcError| failed(error.into()))?;
        if answers.len() != questions.len() {
            let why = format!("{} answers to {} questions", answers.len(), questions.len());
            return Err(ViewError::Undecodable { function, contract: self.contract, why });
        }
        answers
            .into_iter()
            .map(|answer| read_view::<HostAcl::isAllowedForDecryptionCall>(self.contract, &answer.map_err(failed)?))
            .collect()
    }

    /// Seconds since 1970 before which this user's signatures of user decryptions are void; from v0.14 on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn signatures_void_before(&self, user: Address, block: BlockId) -> Result<U256, ViewError> {
        let call = b::HostAcl::decryptionSignatureInvalidatedBeforeCall { account: user };
        view(&self.rpc, self.contract, &call, block).await
    }
}
