//! Public and user decryptions.

use std::sync::{Arc, Mutex};

use alloy::primitives::{B256, Bytes};
use alloy::sol_types::{Eip712Domain, SolStruct};
use kms_chain::eip712::message::{PublicDecryptVerification, UserDecryptResponseVerification};
use kms_proto::{encoding, kms::v1 as kms};
use tonic::Code;

use super::config::Mode;
use super::context::Role;
use super::engine::{Engine, lock};
use super::material::{self, THRESHOLD_PACKING};
use super::operation::Operation;
use super::refusal::{OperationId, Refusal};
use super::signing::{self, UserDecryptionLinker};
use super::store::Store;
use super::validation::{self, Operand, User};

/// What a decryption's signature is made with, apart from the result.
struct Seal {
    domain: Eip712Domain,
    /// Signed and returned; empty in versions that ignore the request's.
    extra_data: Vec<u8>,
    schemes: Vec<kms::SigningSchemeType>,
}

impl Engine {
    pub(super) fn public_decrypt(
        self: &Arc<Self>,
        request: kms::PublicDecryptionRequest,
    ) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::PublicDecryption)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let key_id = validation::id("key_id", request.key_id.as_ref())?;
        let operands = validation::operands(&request.ciphertexts)?;
        let seal = self.seal(request.domain.as_ref(), request.extra_data, &request.signing_schemes)?;
        let place = self.place(&life, request.context_id.as_ref(), request.epoch_id.as_ref())?;
        self.admit_decryption(&life.public_decryptions, id, key_id, place.epoch)?;
        let engine = Arc::clone(self);
        let work = async move { engine.decrypt_publicly(id, &operands, seal) };
        self.run(life, Operation::PublicDecryption, id, |life| &life.public_decryptions, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn public_decryption(
        &self,
        id: &kms::RequestId,
    ) -> Result<kms::PublicDecryptionResponse, Refusal> {
        self.result(Operation::PublicDecryption, |life| &life.public_decryptions, id).await
    }

    /// Starts, or joins what was started under the same id, and waits.
    pub(super) async fn public_decrypt_sync(
        self: &Arc<Self>,
        request: kms::PublicDecryptionRequest,
    ) -> Result<kms::PublicDecryptionResponse, Refusal> {
        let id = request.request_id.clone().unwrap_or_default();
        started(self.public_decrypt(request))?;
        self.public_decryption(&id).await
    }

    fn decrypt_publicly(
        &self,
        id: OperationId,
        operands: &[Operand],
        seal: Seal,
    ) -> Result<kms::PublicDecryptionResponse, String> {
        let handles = signed_handles(operands)?;
        let values = operands.iter().zip(&handles).map(|(operand, handle)| self.plaintext(operand, handle));
        let plaintexts: Vec<_> = values.collect::<Result<_, _>>()?;
        let words = encoding::decrypted_result(&plaintexts).map_err(|error| error.to_string())?;
        let message = PublicDecryptVerification {
            ctHandles: handles,
            decryptedResult: words.into(),
            extraData: seal.extra_data.clone().into(),
        };
        let payload = kms::PublicDecryptionResponsePayload {
            verification_key: self.signing.verification_key(),
            plaintexts,
            request_id: Some(id.message()),
        };
        let bincode = encoding::public_payload(&payload);
        let external_signature = self.signing.sign(&seal.domain, &message)?;
        let separator = signing::PUBLIC_DECRYPTION;
        Ok(kms::PublicDecryptionResponse {
            signature: self.signing.sign_internally(separator, &bincode),
            signatures: self.signing.sign_in(&seal.schemes, &external_signature, separator, &bincode),
            external_signature,
            payload: Some(payload),
            extra_data: seal.extra_data,
        })
    }

    pub(super) fn user_decrypt(self: &Arc<Self>, request: kms::UserDecryptionRequest) -> Result<kms::Empty, Refusal> {
        let life = self.life();
        let tokens = self.take_tokens(&life, Operation::UserDecryption)?;
        let id = validation::id("request_id", request.request_id.as_ref())?;
        let key_id = validation::id("key_id", request.key_id.as_ref())?;
        let operands = validation::operands(&request.typed_ciphertexts)?;
        validation::user_handles(&operands)?;
        let seal = self.seal(request.domain.as_ref(), request.extra_data, &request.signing_schemes)?;
        let key_check = self.config.check_user_keys.then_some(self.config.version);
        let user = validation::user(&request.client_address, request.enc_key, &seal.domain, key_check)?;
        let place = self.place(&life, request.context_id.as_ref(), request.epoch_id.as_ref())?;
        self.admit_decryption(&life.user_decryptions, id, key_id, place.epoch)?;
        let (engine, randomness) = (Arc::clone(self), life.randomness);
        let work = async move { engine.decrypt_for_user(id, &operands, &user, seal, place.role, randomness) };
        self.run(life, Operation::UserDecryption, id, |life| &life.user_decryptions, tokens, work);
        Ok(kms::Empty {})
    }

    pub(super) async fn user_decryption(&self, id: &kms::RequestId) -> Result<kms::UserDecryptionResponse, Refusal> {
        self.result(Operation::UserDecryption, |life| &life.user_decryptions, id).await
    }

    /// Starts, or joins what was started under the same id, and waits.
    pub(super) async fn user_decrypt_sync(
        self: &Arc<Self>,
        request: kms::UserDecryptionRequest,
    ) -> Result<kms::UserDecryptionResponse, Refusal> {
        let id = request.request_id.clone().unwrap_or_default();
        started(self.user_decrypt(request))?;
        self.user_decryption(&id).await
    }

    fn decrypt_for_user(
        &self,
        id: OperationId,
        operands: &[Operand],
        user: &User,
        seal: Seal,
        role: Role,
        randomness: [u8; 16],
    ) -> Result<kms::UserDecryptionResponse, String> {
        let handles = signed_handles(operands)?;
        let public_key = Bytes::from(user.public_key.clone());
        let linker =
            UserDecryptionLinker { publicKey: public_key.clone(), handles: handles.clone(), userAddress: user.address };
        let threshold = self.config.mode == Mode::Threshold;
        let share = |(position, (operand, handle)): (usize, (&Operand, &B256))| {
            // The plaintext is not used, but where it fails, so does the share.
            self.plaintext(operand, handle)?;
            let node = self.signing.address();
            let seed: [&[u8]; 4] = [&randomness, node.as_slice(), id.0.as_slice(), &position.to_le_bytes()];
            let share = material::signcrypted_share(&seed, operand.fhe_type, threshold);
            Ok(kms::TypedSigncryptedCiphertext {
                fhe_type: operand.fhe_type,
                signcrypted_ciphertext: share.ok_or("the FHE type is unknown")?,
                external_handle: operand.handle.clone(),
                packing_factor: if threshold { THRESHOLD_PACKING } else { 1 },
            })
        };
        let shares = operands.iter().zip(&handles).enumerate().map(share);
        let payload = kms::UserDecryptionResponsePayload {
            verification_key: self.signing.verification_key(),
            digest: linker.eip712_signing_hash(&seal.domain).to_vec(),
            signcrypted_ciphertexts: shares.collect::<Result<_, String>>()?,
            party_id: role.party_id,
            degree: role.degree,
        };
        let bincode = encoding::user_payload(&payload);
        let message = UserDecryptResponseVerification {
            publicKey: public_key,
            ctHandles: handles,
            userDecryptedShare: bincode.clone().into(),
            extraData: seal.extra_data.clone().into(),
        };
        let external_signature = self.signing.sign(&seal.domain, &message)?;
        let separator = signing::USER_DECRYPTION;
        Ok(kms::UserDecryptionResponse {
            signature: self.signing.sign_internally(separator, &bincode),
            signatures: self.signing.sign_in(&seal.schemes, &external_signature, separator, &bincode),
            external_signature,
            payload: Some(payload),
            extra_data: seal.extra_data,
        })
    }

    fn seal(
        &self,
        domain: Option<&kms::Eip712DomainMsg>,
        extra_data: Vec<u8>,
        schemes: &[i32],
    ) -> Result<Seal, Refusal> {
        let version = self.config.version;
        Ok(Seal {
            domain: validation::domain(domain)?,
            extra_data: if version.echoes_extra_data() { extra_data } else { vec![] },
            schemes: validation::schemes(version, schemes)?,
        })
    }

    /// The plaintext of an operand, unless its handle is switched to fail.
    fn plaintext(&self, operand: &Operand, handle: &B256) -> Result<kms::TypedPlaintext, String> {
        if operand.is_empty {
            return Err(format!("the ciphertext of {handle} cannot be deserialized: no bytes"));
        }
        let switches = lock(&self.switches);
        if switches.failing_handles.contains(handle) {
            return Err(format!("decryption of {handle} is switched to fail"));
        }
        let from_table = switches.plaintexts.get(handle).cloned();
        let bytes = from_table.or_else(|| material::plaintext(&operand.handle, operand.fhe_type));
        let bytes = bytes.ok_or_else(|| format!("FHE type {} of {handle} is unknown", operand.fhe_type))?;
        Ok(kms::TypedPlaintext { bytes, fhe_type: operand.fhe_type })
    }

    /// Looks the key up and takes the id in.
    ///
    /// Which of the two comes first depends on version and mode. Where the id was taken in, a refusal leaves it pending for
    /// ever: the pitfall of threshold servers of 0.13 and of the centralized one of 0.12.
    fn admit_decryption<T>(
        &self,
        store: &Mutex<Store<T>>,
        id: OperationId,
        key_id: OperationId,
        epoch: OperationId,
    ) -> Result<(), Refusal> {
        let version = self.config.version;
        let signing_key = self.check_signing_key();
        let is_known = self.knows_key(key_id, epoch);
        let unknown = |code| Refusal::new(code, format!("key {key_id} of request {id} is not known in epoch {epoch}"));
        if !version.strands_without_signing_key() {
            signing_key.clone()?;
        }
        if version.looks_keys_up_first(self.config.mode) && !is_known {
            return Err(unknown(Code::NotFound));
        }
        self.admit(store, id)?;
        signing_key?;
        // The centralized server of 0.12 calls it a launch that failed.
        let late = if version.has_epochs() { Code::NotFound } else { Code::Aborted };
        if is_known { Ok(()) } else { Err(unknown(late)) }
    }
}

/// An id that exists is as good as one that was taken in.
fn started(start: Result<kms::Empty, Refusal>) -> Result<(), Refusal> {
    match start {
        Err(refusal) if refusal.code == Code::AlreadyExists => Ok(()),
        answer => answer.map(drop),
    }
}

fn signed_handles(operands: &[Operand]) -> Result<Vec<B256>, String> {
    let handles = operands.iter().map(|operand| operand.signed_handle().ok_or("a handle is longer than 32 bytes"));
    Ok(handles.collect::<Result<_, _>>()?)
}
