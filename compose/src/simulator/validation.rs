//! The checks of a start's fields, as strict as KMS Core's.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::Eip712Domain;
use kms_proto::id::{self, IdError};
use kms_proto::kms::v1::{Eip712DomainMsg, FheParameter, KeySetConfig, KeySetType, RequestId, TypedCiphertext};

use super::material;
use super::refusal::{OperationId, Refusal};

/// A user's part of a request.
#[derive(Debug)]
pub(super) struct User {
    pub(super) address: Address,
    pub(super) public_key: Vec<u8>,
}

/// A ciphertext without its bytes, which nothing here reads.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) fhe_type: i32,
    /// As the request has it.
    pub(super) handle: Vec<u8>,
    pub(super) is_empty: bool,
}

impl Operand {
    /// The handle as signed: left-padded to 32 bytes. None where it is longer.
    pub(super) fn signed_handle(&self) -> Option<B256> {
        (self.handle.len() <= 32).then(|| B256::left_padding_from(&self.handle))
    }
}

/// Reads an id that must be there.
pub(super) fn id(field: &str, message: Option<&RequestId>) -> Result<OperationId, Refusal> {
    id::from_message(message)
        .map(|id| OperationId(id.into()))
        .map_err(|error| Refusal::invalid(format!("{field} of the request is not valid: {error}")))
}

/// Reads an id that may be left out.
pub(super) fn optional_id(field: &str, message: Option<&RequestId>) -> Result<Option<OperationId>, Refusal> {
    message.map(|message| id(field, Some(message))).transpose()
}

/// The id of a request for texts and the record of calls, where it has a readable one.
pub(super) fn readable_id(message: Option<&RequestId>) -> Option<String> {
    match id::from_message(message) {
        Ok(id) => Some(hex::encode(id)),
        Err(IdError::Missing | IdError::Malformed | IdError::Zero) => None,
    }
}

/// Reads the domain to sign in.
pub(super) fn domain(message: Option<&Eip712DomainMsg>) -> Result<Eip712Domain, Refusal> {
    let message = message.ok_or_else(|| Refusal::invalid("the domain is missing"))?;
    let chain_id = U256::try_from_be_slice(&message.chain_id)
        .filter(|_| message.chain_id.len() <= 32)
        .ok_or_else(|| Refusal::invalid("the domain's chain id is longer than 32 bytes"))?;
    let salt = message.salt.as_deref().map(B256::try_from).transpose();
    let salt = salt.map_err(|_| Refusal::invalid("the domain's salt is not 32 bytes"))?;
    Ok(Eip712Domain {
        name: Some(message.name.clone().into()),
        version: Some(message.version.clone().into()),
        chain_id: Some(chain_id),
        verifying_contract: Some(address("the domain's verifying contract", &message.verifying_contract)?),
        salt,
    })
}

fn address(what: &str, text: &str) -> Result<Address, Refusal> {
    Address::parse_checksummed(text, None)
        .map_err(|error| Refusal::invalid(format!("{what} is no address with an EIP-55 checksum: {error}")))
}

/// Reads the ciphertexts of a decryption.
pub(super) fn operands(ciphertexts: &[TypedCiphertext]) -> Result<Vec<Operand>, Refusal> {
    if ciphertexts.is_empty() {
        return Err(Refusal::invalid("the request has no ciphertexts"));
    }
    let operand = |ciphertext: &TypedCiphertext| Operand {
        fhe_type: ciphertext.fhe_type,
        handle: ciphertext.external_handle.clone(),
        is_empty: ciphertext.ciphertext.is_empty(),
    };
    Ok(ciphertexts.iter().map(operand).collect())
}

/// Checks what only user decryptions check of their ciphertexts.
pub(super) fn user_handles(operands: &[Operand]) -> Result<(), Refusal> {
    let fit = operands.iter().all(|operand| operand.signed_handle().is_some());
    if fit { Ok(()) } else { Err(Refusal::invalid("a handle is longer than 32 bytes")) }
}

/// Reads the user's address and key.
pub(super) fn user(
    client_address: &str,
    public_key: Vec<u8>,
    domain: &Eip712Domain,
    check_key: bool,
) -> Result<User, Refusal> {
    let address = address("the client address", client_address)?;
    if domain.verifying_contract == Some(address) {
        return Err(Refusal::invalid("the client address equals the verifying contract"));
    }
    if check_key && material::encapsulation_key(&public_key).is_none() {
        return Err(Refusal::invalid("the client's encryption key cannot be decoded"));
    }
    Ok(User { address, public_key })
}

/// Checks a parameter set's number.
pub(super) fn params(number: i32) -> Result<i32, Refusal> {
    let known = FheParameter::try_from(number).is_ok();
    if known { Ok(number) } else { Err(Refusal::invalid(format!("unknown FHE parameters {number}"))) }
}

/// Checks a key set's configuration. Version 0.12 takes none, or a standard set; of the others nothing is simulated.
pub(super) fn key_set(config: Option<KeySetConfig>) -> Result<Option<KeySetConfig>, Refusal> {
    match config {
        Some(config) if KeySetType::try_from(config.keyset_type) != Ok(KeySetType::Standard) => {
            Err(Refusal::invalid(format!("key set type {} is not accepted", config.keyset_type)))
        }
        config => Ok(config),
    }
}

/// Whether a key generation's configuration fits its preprocessing's: unset means the standard set.
pub(super) fn key_sets_fit(one: Option<&KeySetConfig>, other: Option<&KeySetConfig>) -> bool {
    let normal = |config: Option<&KeySetConfig>| {
        let config = config.cloned().unwrap_or_default();
        (config.keyset_type, config.standard_keyset_config.unwrap_or_default())
    };
    normal(one) == normal(other)
}

/// Reads the size of a CRS: a power of two from 1 to 2048, 2048 where left out.
pub(super) fn max_num_bits(number: Option<u32>) -> Result<u32, Refusal> {
    let bits = number.unwrap_or(2048);
    let fits = bits.is_power_of_two() && bits <= 2048;
    if fits { Ok(bits) } else { Err(Refusal::invalid(format!("{bits} bits are no power of two from 1 to 2048"))) }
}
