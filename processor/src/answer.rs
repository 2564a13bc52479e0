//! From KMS Core's result to an answer that may be published: complete, fitting the request, and signed by the configured
//! signer over the digest recomputed here from request and result (`docs/protocol.md`, "Signed messages").
//!
//! Pure: takes values, returns values.

use alloy::primitives::{Address, B256, Bytes, U256};
use kms_chain::eip712::{self, Domains};
use kms_proto::encoding;
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::{Answer, CiphertextMaterial, KeyDigest, Signed};

use crate::codes;
use crate::core_request;
use crate::error::Trouble;

/// Whose signatures are accepted, and under which domains.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The KMS node's signer.
    pub signer: Address,
    /// Domains of the contracts that are answered.
    pub domains: Domains,
}

impl Verifier {
    /// A public decryption: one plaintext per handle, in order, of the handle's type.
    ///
    /// # Errors
    /// [`Trouble::MayHeal`]: what KMS Core answered cannot be published.
    pub fn public_decryption(
        &self,
        id: RequestId,
        materials: &[CiphertextMaterial],
        response: core::PublicDecryptionResponse,
    ) -> Result<Answer, Trouble> {
        let payload = response.payload.ok_or_else(|| malformed("the result has no payload"))?;
        if let Some(named) = &payload.request_id {
            expect_id("request_id", named, id)?;
        }
        if payload.plaintexts.len() != materials.len() {
            return Err(malformed(format!("{} plaintexts for {} handles", payload.plaintexts.len(), materials.len())));
        }
        for (index, (plaintext, material)) in payload.plaintexts.iter().zip(materials).enumerate() {
            let wanted = core_request::fhe_type(material.handle)?;
            if plaintext.fhe_type != wanted {
                return Err(malformed(format!(
                    "plaintext {index} has FHE type {}, its handle has {wanted}",
                    plaintext.fhe_type
                )));
            }
        }
        let decrypted_result: Bytes =
            encoding::decrypted_result(&payload.plaintexts).map_err(|error| malformed(error.to_string()))?.into();
        let handles = handles(materials);
        let extra_data = Bytes::from(response.extra_data);
        let digest = self.domains.decryption.public_decryption(&handles, &decrypted_result, &extra_data);
        let signature = self.check(digest, response.external_signature)?;
        Ok(Answer::PublicDecryption { handles, decrypted_result, extra_data, signature })
    }

    /// A user decryption: one share per handle, in order; the share bytes are what KMS Core signed.
    ///
    /// # Errors
    /// As [`Verifier::public_decryption`].
    pub fn user_decryption(
        &self,
        materials: &[CiphertextMaterial],
        public_key: &Bytes,
        response: core::UserDecryptionResponse,
    ) -> Result<Answer, Trouble> {
        let payload = response.payload.ok_or_else(|| malformed("the result has no payload"))?;
        if payload.signcrypted_ciphertexts.len() != materials.len() {
            return Err(malformed(format!(
                "{} shares for {} handles",
                payload.signcrypted_ciphertexts.len(),
                materials.len()
            )));
        }
        for (index, (share, material)) in payload.signcrypted_ciphertexts.iter().zip(materials).enumerate() {
            if share.external_handle != material.handle.as_slice() {
                return Err(malformed(format!(
                    "share {index} is of handle 0x{}, not of {}",
                    hex::encode(&share.external_handle),
                    material.handle
                )));
            }
        }
        let share = Bytes::from(encoding::user_payload(&payload));
        let handles = handles(materials);
        let extra_data = Bytes::from(response.extra_data);
        let digest = self.domains.decryption.user_decryption(public_key, &handles, &share, &extra_data);
        let signature = self.check(digest, response.external_signature)?;
        Ok(Answer::UserDecryption { public_key: public_key.clone(), handles, share, extra_data, signature })
    }

    /// A preprocessing.
    ///
    /// # Errors
    /// As [`Verifier::public_decryption`].
    pub fn prep_keygen(&self, id: RequestId, result: core::KeyGenPreprocResult) -> Result<Answer, Trouble> {
        let named = result.preprocessing_id.ok_or_else(|| malformed("the result names no preprocessing"))?;
        expect_id("preprocessing_id", &named, id)?;
        let digest = self.domains.kms_generation.prep_keygen(id);
        Ok(Answer::PrepKeygen { signature: self.check(digest, result.external_signature)? })
    }

    /// A key generation: digests in the order that was signed.
    ///
    /// # Errors
    /// As [`Verifier::public_decryption`].
    pub fn keygen(
        &self,
        id: RequestId,
        prep_keygen_id: RequestId,
        result: core::KeyGenResult,
    ) -> Result<Answer, Trouble> {
        expect_id("request_id", &result.request_id.ok_or_else(|| malformed("the result names no key"))?, id)?;
        let named = result.preprocessing_id.ok_or_else(|| malformed("the result names no preprocessing"))?;
        expect_id("preprocessing_id", &named, prep_keygen_id)?;
        let key_digests = result.key_digests.into_iter().map(key_digest).collect::<Result<Vec<_>, _>>()?;
        if key_digests.is_empty() {
            return Err(malformed("the result has no key digest"));
        }
        let digest = self.domains.kms_generation.keygen(prep_keygen_id, id, &key_digests);
        let signature = self.check(digest, result.external_signature)?;
        Ok(Answer::Keygen { prep_keygen_id, key_digests, signature })
    }

    /// A CRS, signed over the full bit length of the request.
    ///
    /// # Errors
    /// As [`Verifier::public_decryption`].
    pub fn crsgen(&self, id: RequestId, max_bit_length: U256, result: core::CrsGenResult) -> Result<Answer, Trouble> {
        expect_id("request_id", &result.request_id.ok_or_else(|| malformed("the result names no CRS"))?, id)?;
        let crs_digest = Bytes::from(result.crs_digest);
        let digest = self.domains.kms_generation.crsgen(id, max_bit_length, &crs_digest);
        let signature = self.check(digest, result.external_signature)?;
        Ok(Answer::Crsgen { max_bit_length, crs_digest, signature })
    }

    fn check(&self, digest: B256, signature: Vec<u8>) -> Result<Signed, Trouble> {
        let recovered = eip712::recover(digest, &signature).map_err(|error| {
            Trouble::may_heal(codes::SIGNATURE_WRONG, format!("signature over {digest} is not usable: {error}"))
        })?;
        if recovered != self.signer {
            return Err(Trouble::may_heal(
                codes::SIGNATURE_WRONG,
                format!("signature over {digest} recovers to {recovered}, configured signer is {}", self.signer),
            ));
        }
        Ok(Signed { signature: signature.into(), digest, signer: recovered })
    }
}

fn malformed(text: impl Into<String>) -> Trouble {
    Trouble::may_heal(codes::ANSWER_MALFORMED, text)
}

fn handles(materials: &[CiphertextMaterial]) -> Vec<B256> {
    materials.iter().map(|material| material.handle).collect()
}

fn expect_id(field: &str, named: &core::RequestId, wanted: RequestId) -> Result<(), Trouble> {
    let wanted = wanted.to_core_hex();
    let given = named.request_id.trim().trim_start_matches("0x");
    if given.eq_ignore_ascii_case(&wanted) {
        return Ok(());
    }
    Err(malformed(format!("{field} is {given:?}, the request's is {wanted}")))
}

fn key_digest(digest: core::KeyDigest) -> Result<KeyDigest, Trouble> {
    let key_type = match digest.key_type.as_str() {
        "ServerKey" => 0,
        "PublicKey" => 1,
        "CompressedXofKeySet" => 3,
        other => return Err(malformed(format!("unknown key type {other:?}"))),
    };
    Ok(KeyDigest { key_type, digest: digest.digest.into() })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};
    use alloy::signers::local::PrivateKeySigner;
    use kms_chain::event::ContractSet;

    use super::*;

    fn contracts() -> ContractSet {
        ContractSet {
            decryption: address!("00000000000000000000000000000000000000d1"),
            kms_generation: address!("00000000000000000000000000000000000000d2"),
        }
    }

    fn signer(byte: u8) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap()
    }

    fn verifier() -> Verifier {
        Verifier { signer: signer(1).address(), domains: Domains::new(31337, &contracts()) }
    }

    fn id(low: u64) -> RequestId {
        U256::from(low).into()
    }

    fn material() -> CiphertextMaterial {
        CiphertextMaterial {
            handle: b256!("a853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500"),
            key_id: id(4),
            digest: B256::ZERO,
            coprocessors: Vec::new(),
        }
    }

    fn public_response(by: &PrivateKeySigner, plaintexts: Vec<core::TypedPlaintext>) -> core::PublicDecryptionResponse {
        let words: Bytes = encoding::decrypted_result(&plaintexts).unwrap().into();
        let digest = verifier().domains.decryption.public_decryption(&[material().handle], &words, &Bytes::new());
        core::PublicDecryptionResponse {
            external_signature: eip712::sign(by, digest).unwrap().to_vec(),
            payload: Some(core::PublicDecryptionResponsePayload {
                plaintexts,
                request_id: Some(core_request::id(id(9))),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn plaintext(fhe_type: i32) -> core::TypedPlaintext {
        core::TypedPlaintext { bytes: 7_u64.to_le_bytes().to_vec(), fhe_type }
    }

    #[test]
    fn an_answer_of_the_configured_signer_is_published_with_its_words() {
        let response = public_response(&signer(1), vec![plaintext(5)]);
        let answer = verifier().public_decryption(id(9), &[material()], response).unwrap();
        let Answer::PublicDecryption { decrypted_result, handles, signature, .. } = answer else { panic!() };
        assert_eq!(decrypted_result[..], U256::from(7).to_be_bytes::<32>());
        assert_eq!(handles, [material().handle]);
        assert_eq!(signature.signer, signer(1).address());
    }

    #[test]
    fn p4_an_answer_of_another_signer_is_refused() {
        let response = public_response(&signer(2), vec![plaintext(5)]);
        let refused = verifier().public_decryption(id(9), &[material()], response).unwrap_err();
        assert_eq!(refused.code(), codes::SIGNATURE_WRONG);
    }

    #[test]
    fn p4_an_answer_whose_result_was_changed_after_signing_is_refused() {
        let mut response = public_response(&signer(1), vec![plaintext(5)]);
        response.payload.as_mut().unwrap().plaintexts[0].bytes[0] = 8;
        let refused = verifier().public_decryption(id(9), &[material()], response).unwrap_err();
        assert_eq!(refused.code(), codes::SIGNATURE_WRONG);
    }

    #[test]
    fn an_answer_that_does_not_fit_the_request_is_malformed() {
        let check = |change: fn(&mut core::PublicDecryptionResponse)| {
            let mut response = public_response(&signer(1), vec![plaintext(5)]);
            change(&mut response);
            verifier().public_decryption(id(9), &[material()], response).unwrap_err().code()
        };
        assert_eq!(check(|response| response.payload = None), codes::ANSWER_MALFORMED);
        assert_eq!(check(|response| response.payload.as_mut().unwrap().plaintexts.clear()), codes::ANSWER_MALFORMED);
        assert_eq!(
            check(|response| response.payload.as_mut().unwrap().plaintexts[0].fhe_type = 4),
            codes::ANSWER_MALFORMED
        );
        assert_eq!(
            check(|response| response.payload.as_mut().unwrap().request_id = Some(core_request::id(id(8)))),
            codes::ANSWER_MALFORMED
        );
        assert_eq!(check(|response| response.external_signature.clear()), codes::SIGNATURE_WRONG);
    }

    #[test]
    fn key_results_name_their_ids_and_known_key_types() {
        let digests = [KeyDigest { key_type: 0, digest: Bytes::from_static(&[1; 32]) }];
        let digest = verifier().domains.kms_generation.keygen(id(3), id(4), &digests);
        let result = core::KeyGenResult {
            request_id: Some(core_request::id(id(4))),
            preprocessing_id: Some(core_request::id(id(3))),
            key_digests: vec![core::KeyDigest { key_type: "ServerKey".to_owned(), digest: vec![1; 32] }],
            external_signature: eip712::sign(&signer(1), digest).unwrap().to_vec(),
            ..Default::default()
        };
        assert!(verifier().keygen(id(4), id(3), result.clone()).is_ok());
        assert_eq!(verifier().keygen(id(5), id(3), result.clone()).unwrap_err().code(), codes::ANSWER_MALFORMED);
        let mut unknown = result;
        unknown.key_digests[0].key_type = "MysteryKey".to_owned();
        assert_eq!(verifier().keygen(id(4), id(3), unknown).unwrap_err().code(), codes::ANSWER_MALFORMED);
    }

    #[test]
    fn a_crs_is_checked_over_the_full_bit_length_of_the_request() {
        let bits = U256::from(2048);
        let digest = verifier().domains.kms_generation.crsgen(id(5), bits, &Bytes::from_static(&[2; 32]));
        let result = core::CrsGenResult {
            request_id: Some(core_request::id(id(5))),
            crs_digest: vec![2; 32],
            max_num_bits: 2048,
            external_signature: eip712::sign(&signer(1), digest).unwrap().to_vec(),
            ..Default::default()
        };
        assert!(verifier().crsgen(id(5), bits, result.clone()).is_ok());
        let other = verifier().crsgen(id(5), bits + (U256::from(1) << 32), result).unwrap_err();
        assert_eq!(other.code(), codes::SIGNATURE_WRONG);
    }
}
