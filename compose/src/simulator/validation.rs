//! The checks of a start's fields, as strict as KMS Core's.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::Eip712Domain;
use kms_proto::id::{self, IdError};
use kms_proto::kms::v1::{
    ComputeKeyType, Eip712DomainMsg, FheParameter, KeyGenSecretKeyConfig, KeySetConfig, KeySetType, RequestId,
    SigningSchemeType, TypedCiphertext,
};

use super::material;
use super::refusal::{OperationId, Refusal};
use super::version::{CoreVersion, KeyLayout};

/// A user's part of a request.
#[derive(Debug)]
pub(super) struct User {
    pub(super) address: Address,
    pub(super) public_key: Vec<u8>,
}

/// What a key generation must have in common with its preprocessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeySet {
    /// The parts to make.
    pub(super) layout: KeyLayout,
    /// Field 2 of the configuration.
    secret_keys: i32,
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

/// Reads the user's address and key. The key is checked as a version does, where one is given.
pub(super) fn user(
    client_address: &str,
    public_key: Vec<u8>,
    domain: &Eip712Domain,
    check_key: Option<CoreVersion>,
) -> Result<User, Refusal> {
    let address = address("the client address", client_address)?;
    if domain.verifying_contract == Some(address) {
        return Err(Refusal::invalid("the client address equals the verifying contract"));
    }
    let decodable =
        |version: CoreVersion| material::encapsulation_key(&public_key, version.takes_legacy_user_keys()).is_some();
    if !check_key.is_none_or(decodable) {
        return Err(Refusal::invalid("the client's encryption key cannot be decoded"));
    }
    Ok(User { address, public_key })
}

/// Checks a parameter set's number.
pub(super) fn params(number: i32) -> Result<i32, Refusal> {
    let known = FheParameter::try_from(number).is_ok();
    if known { Ok(number) } else { Err(Refusal::invalid(format!("unknown FHE parameters {number}"))) }
}

/// Reads which key set a configuration stands for. A standard set with secret keys of its own is taken, as a version numbers
/// its fields; of the other sets nothing is simulated.
pub(super) fn key_set(version: CoreVersion, config: Option<&KeySetConfig>) -> Result<KeySet, Refusal> {
    let wrong = |what: &str, number: i32| Refusal::invalid(format!("{what} {number} of the key set is not accepted"));
    let Some(config) = config else {
        let layout = version.layout(None).unwrap_or(KeyLayout::Uncompressed);
        return Ok(KeySet { layout, secret_keys: 0 });
    };
    if KeySetType::try_from(config.keyset_type) != Ok(KeySetType::Standard) {
        return Err(wrong("type", config.keyset_type));
    }
    let standard = config.standard_keyset_config.unwrap_or_default();
    if ComputeKeyType::try_from(standard.compute_key_type).is_err() {
        return Err(wrong("hardware", standard.compute_key_type));
    }
    let own = i32::from(KeyGenSecretKeyConfig::GenerateAll);
    if version.has_secret_key_config() && standard.secret_key_config != own {
        return Err(wrong("secret key configuration", standard.secret_key_config));
    }
    let compressed = standard.compressed_key_config;
    let layout = version.layout(Some(compressed)).ok_or_else(|| wrong("compression", compressed))?;
    Ok(KeySet { layout, secret_keys: standard.secret_key_config })
}

/// Reads the signature schemes of a request, each once.
pub(super) fn schemes(version: CoreVersion, numbers: &[i32]) -> Result<Vec<SigningSchemeType>, Refusal> {
    let mut schemes = vec![];
    if version.has_signing_schemes() {
        for &number in numbers {
            let unknown = |_| Refusal::invalid(format!("unknown signature scheme {number}"));
            let scheme = SigningSchemeType::try_from(number).map_err(unknown)?;
            if !schemes.contains(&scheme) {
                schemes.push(scheme);
            }
        }
    }
    Ok(schemes)
}

/// Reads the size of a CRS: a power of two from 1 to 2048, 2048 where left out.
pub(super) fn max_num_bits(number: Option<u32>) -> Result<u32, Refusal> {
    let bits = number.unwrap_or(2048);
    let fits = bits.is_power_of_two() && bits <= 2048;
    if fits { Ok(bits) } else { Err(Refusal::invalid(format!("{bits} bits are no power of two from 1 to 2048"))) }
}
