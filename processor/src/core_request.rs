//! Builds KMS Core's requests from the contracts' (`docs/protocol.md`, "From event to KMS Core").
//!
//! Pure: takes values, returns values. Context and epoch are never set in generation (a), so that the core uses its defaults.

use alloy::primitives::{Address, B256, U256};
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::CiphertextMaterial;

use crate::ciphertext::Ciphertext;
use crate::codes;
use crate::config::DomainConfig;
use crate::error::Trouble;

/// The id of every PRSS initialisation, whose event carries none.
pub const PRSS_ID: u64 = 1;

/// An id as KMS Core wants it.
#[must_use]
pub fn id(id: RequestId) -> core::RequestId {
    core::RequestId { request_id: id.to_core_hex() }
}

/// The EIP-712 domain that KMS Core signs under.
#[must_use]
pub fn domain(domain: &DomainConfig, chain_id: u64) -> core::Eip712DomainMsg {
    core::Eip712DomainMsg {
        name: domain.name.clone(),
        version: domain.version.clone(),
        chain_id: U256::from(chain_id).to_be_bytes::<32>().to_vec(),
        verifying_contract: domain.contract.to_checksum(None),
        salt: None,
    }
}

/// A public decryption.
///
/// # Errors
/// [`Trouble::Permanent`] for an empty list, mixed keys or an FHE type that no contract lets through.
pub fn public_decryption(
    request: RequestId,
    materials: &[CiphertextMaterial],
    ciphertexts: &[Ciphertext],
    extra_data: &[u8],
    domain: core::Eip712DomainMsg,
) -> Result<core::PublicDecryptionRequest, Trouble> {
    Ok(core::PublicDecryptionRequest {
        request_id: Some(id(request)),
        key_id: Some(key_id(materials)?),
        ciphertexts: typed_ciphertexts(materials, ciphertexts)?,
        domain: Some(domain),
        extra_data: extra_data.to_vec(),
        ..Default::default()
    })
}

/// A user decryption, direct or delegated.
///
/// # Errors
/// As [`public_decryption`].
pub fn user_decryption(
    request: RequestId,
    materials: &[CiphertextMaterial],
    ciphertexts: &[Ciphertext],
    user: Address,
    public_key: &[u8],
    extra_data: &[u8],
    domain: core::Eip712DomainMsg,
) -> Result<core::UserDecryptionRequest, Trouble> {
    Ok(core::UserDecryptionRequest {
        request_id: Some(id(request)),
        key_id: Some(key_id(materials)?),
        typed_ciphertexts: typed_ciphertexts(materials, ciphertexts)?,
        client_address: user.to_checksum(None),
        enc_key: public_key.to_vec(),
        domain: Some(domain),
        extra_data: extra_data.to_vec(),
        ..Default::default()
    })
}

/// A preprocessing.
///
/// # Errors
/// [`Trouble::Permanent`] for an unknown parameter set.
pub fn prep_keygen(
    request: RequestId,
    params_type: u8,
    domain: core::Eip712DomainMsg,
) -> Result<core::KeyGenPreprocRequest, Trouble> {
    Ok(core::KeyGenPreprocRequest {
        request_id: Some(id(request)),
        params: params(params_type)?,
        domain: Some(domain),
        ..Default::default()
    })
}

/// A key generation, with the parameters of its preprocessing.
#[must_use]
pub fn keygen(request: RequestId, prep_keygen_id: RequestId, domain: core::Eip712DomainMsg) -> core::KeyGenRequest {
    core::KeyGenRequest {
        request_id: Some(id(request)),
        preproc_id: Some(id(prep_keygen_id)),
        domain: Some(domain),
        ..Default::default()
    }
}

/// A CRS generation.
///
/// # Errors
/// [`Trouble::Permanent`] for an unknown parameter set, or a bit length above KMS Core's `u32`: the low 32 bits would be
/// generated, and the signature over them refused by the contract.
pub fn crsgen(
    request: RequestId,
    max_bit_length: U256,
    params_type: u8,
    domain: core::Eip712DomainMsg,
) -> Result<core::CrsGenRequest, Trouble> {
    let bits = u32::try_from(max_bit_length).map_err(|_| {
        Trouble::permanent(codes::REQUEST_INVALID, format!("max bit length {max_bit_length} is above 2^32 - 1"))
    })?;
    Ok(core::CrsGenRequest {
        request_id: Some(id(request)),
        params: params(params_type)?,
        max_num_bits: Some(bits),
        domain: Some(domain),
        ..Default::default()
    })
}

/// A PRSS initialisation.
#[must_use]
pub fn prss_init() -> core::InitRequest {
    core::InitRequest { request_id: Some(id(RequestId::from(U256::from(PRSS_ID)))), ..Default::default() }
}

/// A resharing within the same node set.
///
/// # Errors
/// [`Trouble::Permanent`] for an unknown parameter set.
pub fn key_reshare(
    request: RequestId,
    prep_keygen_id: RequestId,
    key_id: RequestId,
    params_type: u8,
    domain: core::Eip712DomainMsg,
) -> Result<core::InitiateResharingRequest, Trouble> {
    Ok(core::InitiateResharingRequest {
        request_id: Some(id(request)),
        key_id: Some(id(key_id)),
        preproc_id: Some(id(prep_keygen_id)),
        key_parameters: params(params_type)?,
        domain: Some(domain),
        ..Default::default()
    })
}

fn params(params_type: u8) -> Result<i32, Trouble> {
    match params_type {
        0 | 1 => Ok(i32::from(params_type)),
        other => Err(Trouble::permanent(codes::REQUEST_INVALID, format!("parameter type {other} is not 0 or 1"))),
    }
}

fn key_id(materials: &[CiphertextMaterial]) -> Result<core::RequestId, Trouble> {
    let first = materials
        .first()
        .ok_or_else(|| Trouble::permanent(codes::REQUEST_INVALID, "the request holds no ciphertext handle"))?;
    if let Some(other) = materials.iter().find(|material| material.key_id != first.key_id) {
        return Err(Trouble::permanent(
            codes::REQUEST_INVALID,
            format!("handles under two keys, {} and {}", first.key_id, other.key_id),
        ));
    }
    Ok(id(first.key_id))
}

fn typed_ciphertexts(
    materials: &[CiphertextMaterial],
    ciphertexts: &[Ciphertext],
) -> Result<Vec<core::TypedCiphertext>, Trouble> {
    materials
        .iter()
        .zip(ciphertexts)
        .map(|(material, ciphertext)| {
            Ok(core::TypedCiphertext {
                ciphertext: ciphertext.body.clone(),
                fhe_type: fhe_type(material.handle)?,
                external_handle: material.handle.to_vec(),
                ciphertext_format: ciphertext.format.into(),
            })
        })
        .collect()
}

/// The FHE type in byte 30 of a handle (`docs/protocol.md`, "FHE types").
///
/// # Errors
/// [`Trouble::Permanent`] for a type that no contract lets through.
pub fn fhe_type(handle: B256) -> Result<i32, Trouble> {
    match handle[30] {
        code @ (0 | 2..=8) => Ok(i32::from(code)),
        code => Err(Trouble::permanent(
            codes::FHE_TYPE_UNSUPPORTED,
            format!("handle {handle} has FHE type {code}, which no contract lets through"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};
    use bytes::Bytes;
    use kms_proto::kms::v1::CiphertextFormat;

    use super::*;

    fn material(key: u64, fhe_type: u8) -> CiphertextMaterial {
        let mut handle = b256!("a853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500");
        handle.0[30] = fhe_type;
        CiphertextMaterial { handle, key_id: U256::from(key).into(), digest: B256::ZERO, coprocessors: Vec::new() }
    }

    fn ciphertext(byte: u8) -> Ciphertext {
        Ciphertext { body: Bytes::from(vec![byte]), format: CiphertextFormat::BigCompressed }
    }

    fn test_domain() -> core::Eip712DomainMsg {
        let contract = address!("5d8bd78e2ea6bbe41f26dfe9fdaeaa349e077478");
        domain(&DomainConfig { name: "Decryption".to_owned(), version: "1".to_owned(), contract }, 10901)
    }

    #[test]
    fn the_domain_is_written_as_the_core_wants_it() {
        let domain = test_domain();
        assert_eq!(domain.verifying_contract, "0x5D8BD78e2ea6bbE41f26dFe9fdaEAa349e077478");
        assert_eq!(domain.chain_id.len(), 32);
        assert_eq!(domain.chain_id[30..], [0x2a, 0x95]);
        assert_eq!(domain.salt, None);
    }

    #[test]
    fn handles_keep_their_order_and_repetitions() {
        let materials = [material(4, 5), material(4, 2), material(4, 5)];
        let bodies = vec![ciphertext(1), ciphertext(2), ciphertext(1)];
        let request = public_decryption(U256::from(9).into(), &materials, &bodies, &[], test_domain()).unwrap();
        let types: Vec<i32> = request.ciphertexts.iter().map(|c| c.fhe_type).collect();
        assert_eq!(types, [5, 2, 5]);
        assert_eq!(request.ciphertexts[2].external_handle, materials[0].handle.to_vec());
        assert_eq!(request.context_id, None);
    }

    #[test]
    fn what_no_contract_lets_through_is_refused_for_good() {
        let empty = public_decryption(U256::from(9).into(), &[], &[], &[], test_domain());
        let mixed = [material(4, 5), material(5, 5)];
        let mixed =
            public_decryption(U256::from(9).into(), &mixed, &[ciphertext(1), ciphertext(2)], &[], test_domain());
        let euint4 = public_decryption(U256::from(9).into(), &[material(4, 1)], &[ciphertext(1)], &[], test_domain());
        let bits = crsgen(U256::from(9).into(), U256::from(1_u64 << 32), 0, test_domain());
        assert!(matches!(empty, Err(Trouble::Permanent { code: codes::REQUEST_INVALID, .. })));
        assert!(matches!(mixed, Err(Trouble::Permanent { code: codes::REQUEST_INVALID, .. })));
        assert!(matches!(euint4, Err(Trouble::Permanent { code: codes::FHE_TYPE_UNSUPPORTED, .. })));
        assert!(matches!(bits, Err(Trouble::Permanent { code: codes::REQUEST_INVALID, .. })));
    }
}
