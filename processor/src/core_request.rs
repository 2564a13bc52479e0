//! What the requests to KMS Core have in common (`docs/protocol.md`, "From event to KMS Core"); each operation builds its own.
//!
//! Pure: takes values, returns values.

use alloy::primitives::{B256, U256};
use kms_chain::eip712::Domain;
use kms_chain::extra_data::{self, ExtraData};
use kms_chain::handles;
use kms_chain::release::Release;
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;

use crate::ciphertext::Ciphertext;
use crate::codes;
use crate::config::CoreVersion;
use crate::error::Trouble;

/// An id as KMS Core wants it.
#[must_use]
pub fn id(id: RequestId) -> core::RequestId {
    core::RequestId { request_id: id.to_core_hex() }
}

/// The EIP-712 domain that KMS Core signs under.
#[must_use]
pub fn domain(domain: &Domain) -> core::Eip712DomainMsg {
    core::Eip712DomainMsg {
        name: domain.name().to_owned(),
        version: domain.version().to_owned(),
        chain_id: U256::from(domain.chain_id()).to_be_bytes::<32>().to_vec(),
        verifying_contract: domain.contract().to_checksum(None),
        salt: None,
    }
}

/// The parameter set of keys and CRSs.
///
/// # Errors
/// [`Trouble::Permanent`] for an unknown one.
pub fn params(params_type: u8) -> Result<core::FheParameter, Trouble> {
    match params_type {
        0 => Ok(core::FheParameter::Default),
        1 => Ok(core::FheParameter::Test),
        other => Err(Trouble::permanent(codes::REQUEST_INVALID, format!("parameter type {other} is not 0 or 1"))),
    }
}

/// Context and epoch that a request is for, and the bytes that are signed with its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Unset: KMS Core's default.
    pub context_id: Option<core::RequestId>,
    /// Unset: KMS Core's default.
    pub epoch_id: Option<core::RequestId>,
    /// `extra_data` of the request.
    pub extra_data: Vec<u8>,
}

impl Place {
    /// Of a decryption. Contracts of generation (a) give `extraData` no meaning, so anything may be in it, and it is passed on as
    /// it is.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] for `extraData` that later contracts refuse.
    pub fn of_decryption(release: Release, version: CoreVersion, bytes: &[u8]) -> Result<Self, Trouble> {
        if !release.contexts_in_responses() {
            return Ok(Self { extra_data: bytes.to_vec(), ..Self::default() });
        }
        let named = Self::named(version, bytes)?;
        Ok(Self { extra_data: extra_data::for_core(bytes).to_vec(), ..named })
    }

    /// Of a key or CRS generation, whose event has `extraData` from v0.13 on.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] for `extraData` that cannot be read.
    pub fn of_generation(release: Release, version: CoreVersion, bytes: &[u8]) -> Result<Self, Trouble> {
        if !release.signs_extra_data() {
            return Ok(Self::default());
        }
        Self::named(version, bytes)
    }

    fn named(version: CoreVersion, bytes: &[u8]) -> Result<Self, Trouble> {
        let named = ExtraData::parse(bytes)
            .map_err(|error| Trouble::permanent(codes::EXTRA_DATA_MALFORMED, error.to_string()))?;
        let known = |named: Option<RequestId>| named.filter(|_| version.knows_contexts()).map(id);
        Ok(Self { context_id: known(named.context()), epoch_id: known(named.epoch()), extra_data: bytes.to_vec() })
    }
}

/// The ciphertexts of a decryption, in request order.
///
/// # Errors
/// As [`fhe_type`].
pub fn typed_ciphertexts(handles: &[B256], ciphertexts: &[Ciphertext]) -> Result<Vec<core::TypedCiphertext>, Trouble> {
    handles
        .iter()
        .zip(ciphertexts)
        .map(|(handle, ciphertext)| {
            Ok(core::TypedCiphertext {
                ciphertext: ciphertext.body.clone(),
                fhe_type: fhe_type(*handle)?,
                external_handle: handle.to_vec(),
                ciphertext_format: ciphertext.format.into(),
            })
        })
        .collect()
}

/// The handles of a decryption are some, and of types that a contract lets through (`docs/protocol.md`, "FHE types").
///
/// # Errors
/// [`Trouble::Permanent`] if not.
pub fn check_handles(handles: &[B256]) -> Result<(), Trouble> {
    if handles.is_empty() {
        return Err(Trouble::permanent(codes::REQUEST_INVALID, "the request holds no ciphertext handle"));
    }
    handles.iter().try_for_each(|handle| fhe_type(*handle).map(drop))
}

/// The FHE type of a handle.
///
/// # Errors
/// [`Trouble::Permanent`] for a type that no contract lets through.
pub fn fhe_type(handle: B256) -> Result<i32, Trouble> {
    let code = handles::fhe_type(handle);
    if handles::bits(code).is_some() {
        return Ok(i32::from(code));
    }
    Err(Trouble::permanent(
        codes::FHE_TYPE_UNSUPPORTED,
        format!("handle {handle} has FHE type {code}, which no contract lets through"),
    ))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};

    use super::*;

    fn bytes(version: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![9; length];
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        bytes
    }

    #[test]
    fn the_domain_is_written_as_the_core_wants_it() {
        let contract = address!("5d8bd78e2ea6bbe41f26dfe9fdaeaa349e077478");
        let domain = domain(&Domain::decryption(10901, contract));
        assert_eq!((domain.name.as_str(), domain.version.as_str()), ("Decryption", "1"));
        assert_eq!(domain.verifying_contract, "0x5D8BD78e2ea6bbE41f26dFe9fdaEAa349e077478");
        assert_eq!(domain.chain_id.len(), 32);
        assert_eq!(domain.chain_id[30..], [0x2a, 0x95]);
        assert_eq!(domain.salt, None);
    }

    #[test]
    fn generation_a_passes_extra_data_on_whatever_it_is() {
        for given in [vec![], vec![0], bytes(9, 5), bytes(1, 33)] {
            let place = Place::of_decryption(Release::V0_11, CoreVersion::V0_15, &given).unwrap();
            assert_eq!(place, Place { extra_data: given, ..Place::default() });
        }
        let place = Place::of_generation(Release::V0_11, CoreVersion::V0_12, &bytes(2, 65)).unwrap();
        assert_eq!(place, Place::default());
    }

    #[test]
    fn later_releases_name_context_and_epoch_to_cores_that_know_them() {
        let read = |version, given: &[u8]| Place::of_decryption(Release::V0_15, version, given);
        assert_eq!(read(CoreVersion::V0_15, &[0]).unwrap(), Place::default(), "a single zero byte is sent as nothing");
        assert_eq!(read(CoreVersion::V0_15, &[0, 0]).unwrap().extra_data, [0, 0]);
        let both = read(CoreVersion::V0_15, &bytes(2, 70)).unwrap();
        assert_eq!(both.context_id.as_ref().map(|id| id.request_id.as_str()), Some("09".repeat(32).as_str()));
        assert!(both.epoch_id.is_some());
        assert_eq!(both.extra_data, bytes(2, 70), "bytes behind it are signed too");
        assert!(read(CoreVersion::V0_13_10, &bytes(1, 33)).unwrap().context_id.is_some());
        let old = read(CoreVersion::V0_13_0, &bytes(2, 65)).unwrap();
        assert_eq!((old.context_id, old.epoch_id), (None, None), "contexts have other ids there");
    }

    #[test]
    fn extra_data_that_no_contract_lets_through_is_refused_for_good() {
        for given in [bytes(1, 32), bytes(2, 64), bytes(3, 65)] {
            for refused in [
                Place::of_decryption(Release::V0_15, CoreVersion::V0_15, &given),
                Place::of_generation(Release::V0_15, CoreVersion::V0_15, &given),
            ] {
                assert!(matches!(refused, Err(Trouble::Permanent { code: codes::EXTRA_DATA_MALFORMED, .. })));
            }
        }
    }

    #[test]
    fn handles_that_no_contract_lets_through_are_refused_for_good() {
        let mut handle = b256!("a853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500");
        assert!(check_handles(&[handle, handle]).is_ok(), "a handle may stand twice");
        assert!(matches!(check_handles(&[]), Err(Trouble::Permanent { code: codes::REQUEST_INVALID, .. })));
        for code in [1, 9, 10, 83, 255] {
            handle.0[30] = code;
            let refused = check_handles(&[handle]);
            assert!(matches!(refused, Err(Trouble::Permanent { code: codes::FHE_TYPE_UNSUPPORTED, .. })), "{code}");
        }
        assert!(params(2).is_err());
    }
}
