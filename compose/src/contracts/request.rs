//! Requests as an application and its users make them, and the ciphertexts they are about.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use kms_chain::contracts::{
    ContractsInfo, CtHandleContractPair, Decryption, DelegationAccounts, KMSGeneration, RequestValidity, b,
};
use kms_chain::eip712::message::{DelegatedUserDecryptRequestVerification, UserDecryptRequestVerification};
use kms_chain::eip712::{self, Domain};
use kms_schemas::identity::RequestId;
use kms_schemas::record::{HandleEntry, UnifiedUserDecryption};

use super::account::Call;
use super::deployment::{Chain, ContextDefinition, Contracts};
use super::error::ContractsError;
use super::owner;

/// A handle of a computed value: 21 bytes of `hash`, the chain id, the FHE type, version 0 (`docs/protocol.md`,
/// "Ciphertext handles").
#[must_use]
pub fn handle(hash: B256, host_chain_id: u64, fhe_type: u8) -> B256 {
    let mut bytes = hash.0;
    bytes[21] = 0xff;
    bytes[22..30].copy_from_slice(&host_chain_id.to_be_bytes());
    bytes[30] = fhe_type;
    bytes[31] = 0;
    B256::from(bytes)
}

/// What the coprocessors commit about a handle's ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Material {
    /// The handle.
    pub handle: B256,
    /// The key it is encrypted under.
    pub key_id: RequestId,
    /// keccak256 of the ciphertext that the coprocessors compute with; the KMS never sees it.
    pub ciphertext_digest: B256,
    /// keccak256 of the object that the KMS fetches; also its name in the bucket.
    pub sns_ciphertext_digest: B256,
}

/// What the older user decryptions, direct and delegated, have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRequest {
    /// The handles, each with the application contract it belongs to; repetitions count and keep their place.
    pub pairs: Vec<(B256, Address)>,
    /// The contracts that the user signs for, 1 to 10; each pair's must be among them.
    pub contracts: Vec<Address>,
    /// From when on the signature is good, seconds since 1970.
    pub start: u64,
    /// For how many days, 1 to 365.
    pub days: u64,
    /// The key to re-encrypt for, as the user's client encodes it.
    pub public_key: Bytes,
    /// Opaque to the contracts.
    pub extra_data: Bytes,
}

/// What a unified user decryption asks for; v0.14 and later. No contract checks any of it against access rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnifiedRequest {
    /// The handles, each with the application contract it belongs to and with its owner: the user, or who delegated to the user.
    /// Repetitions count and keep their place.
    pub entries: Vec<HandleEntry>,
    /// The contracts that the user signs for, 0 to 10; none stands for all.
    pub allowed_contracts: Vec<Address>,
    /// From when on the signature is good, seconds since 1970.
    pub start: u64,
    /// For how many seconds, 1 to 31 536 000.
    pub duration_seconds: u64,
    /// The key to re-encrypt for, as the user's client encodes it.
    pub public_key: Bytes,
    /// Nothing, or the context, or context and epoch (`docs/protocol.md`, "Extra data").
    pub extra_data: Bytes,
}

/// A request to make. Where it goes is its own affair: [`NewRequest::prepare`].
#[derive(Clone, Debug)]
pub enum NewRequest {
    /// `publicDecryptionRequest`.
    PublicDecryption {
        /// What to decrypt, in this order.
        handles: Vec<B256>,
        /// Opaque to the contracts.
        extra_data: Bytes,
    },
    /// `userDecryptionRequest`, signed by the user.
    UserDecryption {
        /// The user's key.
        user: PrivateKeySigner,
        /// The rest.
        request: UserRequest,
    },
    /// `delegatedUserDecryptionRequest`, signed by the delegate.
    DelegatedUserDecryption {
        /// Whose right it is.
        delegator: Address,
        /// The key of the account it was delegated to.
        delegate: PrivateKeySigner,
        /// The rest.
        request: UserRequest,
    },
    /// `keygen`: a preprocessing, and when that has its answers the key generation. By the owner.
    Keygen {
        /// 0 default, 1 test.
        params_type: u8,
    },
    /// `crsgenRequest`. By the owner.
    Crsgen {
        /// As the contract takes it; KMS Core takes 32 bits.
        max_bit_length: U256,
        /// 0 default, 1 test.
        params_type: u8,
    },
    /// `prssInit`. By the owner.
    PrssInit,
    /// `keyReshareSameSet` of a generated key. By the owner.
    KeyReshareSameSet {
        /// The key.
        key_id: RequestId,
    },
    /// The unified `userDecryptionRequest`; v0.14 and later.
    UnifiedUserDecryption {
        /// In whose name it is: the signer's own account, or a wallet contract on the host chain that takes the signer's signature for
        /// its own ([`super::Requester::wallet`]). The Gateway checks neither.
        user: Address,
        /// The key that signs.
        signer: PrivateKeySigner,
        /// The rest.
        request: UnifiedRequest,
    },
    /// `abortKeygen`; (b). By the owner.
    AbortKeygen {
        /// Its preprocessing, whether that is finished or not.
        prep_keygen_id: RequestId,
    },
    /// `abortCrsgen`; (b). By the owner.
    AbortCrsgen {
        /// The CRS.
        crs_id: RequestId,
    },
    /// `defineNewKmsContextAndEpoch`; (b). By the owner. The context's first epoch is asked for by the contract itself once the nodes
    /// have confirmed. The Gateway knows nothing of it until [`NewRequest::GatewayUpdateContext`]. With the same nodes again:
    /// [`super::DeploymentConfig::context`].
    NewContextAndEpoch(Box<ContextDefinition>),
    /// `defineNewEpochForCurrentKmsContext`; (b). By the owner.
    NewEpoch,
    /// `GatewayConfig.updateKmsContext`, the Gateway's copy of a context of the Ethereum host; (b). By the owner. It is the Gateway's current
    /// one at once, whether the host has activated it or not. No connector is asked for anything, so [`super::Requester::made`] finds no
    /// request in it.
    GatewayUpdateContext {
        /// The id that the Ethereum host gave.
        context_id: RequestId,
        /// The context.
        definition: Box<ContextDefinition>,
    },
    /// `GatewayConfig.destroyKmsContext`; (b). By the owner. No request either.
    GatewayDestroyContext {
        /// The context, not the Gateway's current one.
        context_id: RequestId,
    },
    /// `ProtocolConfig.destroyKmsContext`; (b). By the owner.
    DestroyContext {
        /// The context, not the current one.
        context_id: RequestId,
    },
    /// `ProtocolConfig.destroyKmsEpoch`; (b). By the owner.
    DestroyEpoch {
        /// The epoch, not the current one.
        epoch_id: RequestId,
    },
}

/// Which account sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whoever wants something decrypted.
    Anybody,
    /// The owner of the contracts of that chain.
    Owner,
}

/// A request ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestCall {
    /// To which chain it goes.
    pub chain: Chain,
    /// Who has to send it.
    pub by: By,
    /// The call.
    pub call: Call,
}

impl NewRequest {
    /// Who has to send it.
    #[must_use]
    pub fn by(&self) -> By {
        match self {
            Self::PublicDecryption { .. }
            | Self::UserDecryption { .. }
            | Self::DelegatedUserDecryption { .. }
            | Self::UnifiedUserDecryption { .. } => By::Anybody,
            Self::Keygen { .. }
            | Self::Crsgen { .. }
            | Self::PrssInit
            | Self::KeyReshareSameSet { .. }
            | Self::AbortKeygen { .. }
            | Self::AbortCrsgen { .. }
            | Self::NewContextAndEpoch(_)
            | Self::GatewayUpdateContext { .. }
            | Self::GatewayDestroyContext { .. }
            | Self::NewEpoch
            | Self::DestroyContext { .. }
            | Self::DestroyEpoch { .. } => By::Owner,
        }
    }

    /// The chain it goes to: decryptions are asked for on the Gateway, keys where the key management is.
    #[must_use]
    pub fn chain(&self, contracts: &Contracts) -> Chain {
        match self {
            Self::GatewayUpdateContext { .. } | Self::GatewayDestroyContext { .. } => Chain::Gateway,
            _ if self.by() == By::Owner && contracts.ethereum.is_some() => Chain::Ethereum,
            _ => Chain::Gateway,
        }
    }

    /// The request with all it takes to send it. It can be sent any number of times: each time is a request of its own.
    ///
    /// # Errors
    /// As [`NewRequest::call`].
    pub fn prepare(&self, contracts: &Contracts) -> Result<RequestCall, ContractsError> {
        Ok(RequestCall { chain: self.chain(contracts), by: self.by(), call: self.call(contracts)? })
    }

    /// The call that makes it, with the user's signature where one is needed.
    ///
    /// # Errors
    /// [`ContractsError::Argument`] for what the deployment's generation does not have; [`ContractsError::Signer`], though a key in
    /// memory does not fail.
    pub fn call(&self, contracts: &Contracts) -> Result<Call, ContractsError> {
        let (to, data, gas) = match self {
            Self::PublicDecryption { handles, extra_data } => {
                let call = Decryption::publicDecryptionRequestCall {
                    ctHandles: handles.clone(),
                    extraData: extra_data.clone(),
                };
                (contracts.decryption, call.abi_encode(), 200_000 + PER_HANDLE * handles.len() as u64)
            }
            Self::UserDecryption { user, request } => {
                let signature = eip712::sign(user, request.domain(contracts).digest(&request.signed()))?;
                let call = Decryption::userDecryptionRequestCall {
                    ctHandleContractPairs: request.pairs(),
                    requestValidity: request.validity(),
                    contractsInfo: request.contracts_info(contracts),
                    userAddress: user.address(),
                    publicKey: request.public_key.clone(),
                    signature,
                    extraData: request.extra_data.clone(),
                };
                (contracts.decryption, call.abi_encode(), request.gas())
            }
            Self::DelegatedUserDecryption { delegator, delegate, request } => {
                let signed = request.signed_for(*delegator);
                let signature = eip712::sign(delegate, request.domain(contracts).digest(&signed))?;
                let call = Decryption::delegatedUserDecryptionRequestCall {
                    ctHandleContractPairs: request.pairs(),
                    requestValidity: request.validity(),
                    delegationAccounts: DelegationAccounts {
                        delegatorAddress: *delegator,
                        delegateAddress: delegate.address(),
                    },
                    contractsInfo: request.contracts_info(contracts),
                    publicKey: request.public_key.clone(),
                    signature,
                    extraData: request.extra_data.clone(),
                };
                (contracts.decryption, call.abi_encode(), request.gas())
            }
            Self::Keygen { params_type } => {
                let call = KMSGeneration::keygenCall { paramsType: *params_type };
                (contracts.kms_generation, call.abi_encode(), OWNER_GAS)
            }
            Self::Crsgen { max_bit_length, params_type } => {
                let call = KMSGeneration::crsgenRequestCall { maxBitLength: *max_bit_length, paramsType: *params_type };
                (contracts.kms_generation, call.abi_encode(), OWNER_GAS)
            }
            Self::UnifiedUserDecryption { user, signer, request } => {
                let signature = eip712::sign(signer, request.digest(*user, contracts))?;
                let call = b::DecryptionUnified::userDecryptionRequestCall {
                    handles: request.handles(),
                    userAddress: *user,
                    publicKey: request.public_key.clone(),
                    allowedContracts: request.allowed_contracts.clone(),
                    requestValidity: b::RequestValiditySeconds {
                        startTimestamp: U256::from(request.start),
                        durationSeconds: U256::from(request.duration_seconds),
                    },
                    signature,
                    extraData: request.extra_data.clone(),
                };
                (contracts.decryption, call.abi_encode(), request.gas())
            }
            Self::AbortKeygen { prep_keygen_id } => {
                let call = b::KMSGeneration::abortKeygenCall { prepKeygenId: prep_keygen_id.as_u256() };
                (contracts.kms_generation, call.abi_encode(), OWNER_GAS)
            }
            Self::AbortCrsgen { crs_id } => {
                let call = b::KMSGeneration::abortCrsgenCall { crsId: crs_id.as_u256() };
                (contracts.kms_generation, call.abi_encode(), OWNER_GAS)
            }
            Self::NewContextAndEpoch(definition) => {
                (protocol_config(contracts)?, definition.define().abi_encode(), definition.gas())
            }
            Self::GatewayUpdateContext { context_id, definition } => {
                (contracts.gateway_config, definition.copy(*context_id).abi_encode(), definition.gas())
            }
            Self::GatewayDestroyContext { context_id } => {
                let call = owner::GatewayConfigOfContexts::destroyKmsContextCall { kmsContextId: context_id.as_u256() };
                (contracts.gateway_config, call.abi_encode(), OWNER_GAS)
            }
            Self::NewEpoch => {
                let call = owner::ProtocolConfig::defineNewEpochForCurrentKmsContextCall {};
                (protocol_config(contracts)?, call.abi_encode(), OWNER_GAS)
            }
            Self::DestroyContext { context_id } => {
                let call = owner::ProtocolConfig::destroyKmsContextCall { kmsContextId: context_id.as_u256() };
                (protocol_config(contracts)?, call.abi_encode(), OWNER_GAS)
            }
            Self::DestroyEpoch { epoch_id } => {
                let call = owner::ProtocolConfig::destroyKmsEpochCall { epochId: epoch_id.as_u256() };
                (protocol_config(contracts)?, call.abi_encode(), OWNER_GAS)
            }
            Self::PrssInit => (contracts.kms_generation, KMSGeneration::prssInitCall {}.abi_encode(), OWNER_GAS),
            Self::KeyReshareSameSet { key_id } => {
                let call = KMSGeneration::keyReshareSameSetCall { keyId: key_id.as_u256() };
                (contracts.kms_generation, call.abi_encode(), OWNER_GAS)
            }
        };
        Ok(Call { to: Some(to), data: data.into(), gas })
    }
}

/// Gas limits are bounds, not estimates: an estimate per request would cost more than the request.
const PER_HANDLE: u64 = 120_000;
const OWNER_GAS: u64 = 500_000;

fn protocol_config(contracts: &Contracts) -> Result<Address, ContractsError> {
    let ethereum = contracts.ethereum.ok_or_else(|| {
        ContractsError::Argument(format!("contracts of {} know no contexts and epochs", contracts.release))
    })?;
    Ok(ethereum.protocol_config)
}

impl UnifiedRequest {
    /// What the user signs: all but the handles, under the Gateway contract's domain with the host chain's id.
    #[must_use]
    pub fn digest(&self, user: Address, contracts: &Contracts) -> B256 {
        let request = UnifiedUserDecryption {
            materials: Vec::new(),
            entries: self.entries.clone(),
            user_address: user,
            public_key: self.public_key.clone(),
            allowed_contracts: self.allowed_contracts.clone(),
            start_timestamp: U256::from(self.start),
            duration_seconds: U256::from(self.duration_seconds),
            extra_data: self.extra_data.clone(),
            signature: Bytes::new(),
        };
        Domain::decryption(contracts.gateway_chain_id, contracts.decryption)
            .unified_user_request(contracts.host_chain_id, &request)
    }

    fn handles(&self) -> Vec<b::HandleEntry> {
        let entry = |entry: &HandleEntry| b::HandleEntry {
            handle: entry.handle,
            contractAddress: entry.contract,
            ownerAddress: entry.owner,
        };
        self.entries.iter().map(entry).collect()
    }

    /// As [`UserRequest::gas`]; the key stands in two events.
    fn gas(&self) -> u64 {
        400_000 + PER_HANDLE * self.entries.len() as u64 + 850 * self.public_key.len() as u64
    }
}

impl UserRequest {
    /// Users sign with the id of their host chain and the address of the Gateway's contract.
    fn domain(&self, contracts: &Contracts) -> Domain {
        Domain::decryption(contracts.host_chain_id, contracts.decryption)
    }

    fn signed(&self) -> UserDecryptRequestVerification {
        UserDecryptRequestVerification {
            publicKey: self.public_key.clone(),
            contractAddresses: self.contracts.clone(),
            startTimestamp: U256::from(self.start),
            durationDays: U256::from(self.days),
            extraData: self.extra_data.clone(),
        }
    }

    fn signed_for(&self, delegator: Address) -> DelegatedUserDecryptRequestVerification {
        DelegatedUserDecryptRequestVerification {
            publicKey: self.public_key.clone(),
            contractAddresses: self.contracts.clone(),
            delegatorAddress: delegator,
            startTimestamp: U256::from(self.start),
            durationDays: U256::from(self.days),
            extraData: self.extra_data.clone(),
        }
    }

    fn pairs(&self) -> Vec<CtHandleContractPair> {
        let pair = |(handle, contract): &(B256, Address)| CtHandleContractPair {
            ctHandle: *handle,
            contractAddress: *contract,
        };
        self.pairs.iter().map(pair).collect()
    }

    fn validity(&self) -> RequestValidity {
        RequestValidity { startTimestamp: U256::from(self.start), durationDays: U256::from(self.days) }
    }

    fn contracts_info(&self, contracts: &Contracts) -> ContractsInfo {
        ContractsInfo { chainId: U256::from(contracts.host_chain_id), addresses: self.contracts.clone() }
    }

    /// The key is stored, word by word, and logged, in (b) twice.
    fn gas(&self) -> u64 {
        350_000 + PER_HANDLE * self.pairs.len() as u64 + 850 * self.public_key.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_names_its_chain_and_type_where_the_contracts_look() {
        let made = handle(B256::repeat_byte(0xab), 12_345, 5);
        assert_eq!(made.to_string(), format!("0x{}ff00000000000030390500", "ab".repeat(21)));
    }
}
