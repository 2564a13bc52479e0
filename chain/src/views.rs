//! What is read from the contracts' state.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolCall;
use kms_schemas::identity::RequestId;

use crate::contracts::{
    CiphertextCommits, Coprocessor, Decryption, GatewayConfig, HostChain, KmsNode, Proxy, SnsCiphertextMaterial,
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

/// A generation of the protocol that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// Releases v0.10 and v0.11: everything on the Gateway, `Decryption v0.3.0`.
    A,
}

/// Why the generation is not known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GenerationError {
    /// The version could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// It is none that is served.
    #[error("{contract} reports version {version:?}, which is not served (served: {SERVED:?})")]
    Unsupported {
        /// The contract that was asked.
        contract: Address,
        /// What it answered.
        version: String,
    },
}

const SERVED: &str = "Decryption v0.3.0";

/// The version that a contract of the protocol reports, e.g. `Decryption v0.3.0`.
///
/// # Errors
/// See [`ViewError`].
pub async fn version(rpc: &Rpc, contract: Address) -> Result<String, ViewError> {
    view(rpc, contract, &Proxy::getVersionCall {}, BlockId::latest()).await
}

/// Detects the generation from the version of the `Decryption` contract (`docs/protocol.md`, "Generations").
///
/// # Errors
/// The version cannot be read, or is not served.
pub async fn detect_generation(rpc: &Rpc, decryption: Address) -> Result<Generation, GenerationError> {
    let version = version(rpc, decryption).await?;
    if version == SERVED {
        Ok(Generation::A)
    } else {
        Err(GenerationError::Unsupported { contract: decryption, version })
    }
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

/// How many nodes must agree, or answer, in generation (a). They are read at the time of the answer: a change applies to
/// open requests.
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

    /// All thresholds, from one state of the chain, in one request.
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
