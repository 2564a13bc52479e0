//! Requests as an application and its users make them, and the ciphertexts they are about.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use kms_chain::contracts::{
    ContractsInfo, CtHandleContractPair, Decryption, DelegationAccounts, KMSGeneration, RequestValidity,
};
use kms_chain::eip712::message::{DelegatedUserDecryptRequestVerification, UserDecryptRequestVerification};
use kms_chain::eip712::{self, Domain};
use kms_schemas::identity::RequestId;

use super::account::Call;
use super::deployment::Contracts;
use super::error::ContractsError;

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

/// What user decryptions, direct and delegated, have in common.
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

/// A request to make.
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
}

impl NewRequest {
    /// Whether the owner has to send it; all others anybody may.
    #[must_use]
    pub fn is_owners(&self) -> bool {
        match self {
            Self::PublicDecryption { .. } | Self::UserDecryption { .. } | Self::DelegatedUserDecryption { .. } => false,
            Self::Keygen { .. } | Self::Crsgen { .. } | Self::PrssInit | Self::KeyReshareSameSet { .. } => true,
        }
    }

    /// The call that makes it, with the user's signature where one is needed. It can be sent any number of times: each time is a
    /// request of its own.
    ///
    /// # Errors
    /// [`ContractsError::Signer`]; a key in memory does not fail.
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

    /// The key is stored, word by word, and logged.
    fn gas(&self) -> u64 {
        300_000 + PER_HANDLE * self.pairs.len() as u64 + 800 * self.public_key.len() as u64
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
