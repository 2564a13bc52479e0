//! Events of the followed contracts: the requests to serve, and the events that report answers.
//!
//! A log is selected by its contract's address **and** its first topic, never by the event's name: later generations
//! overload the names (`docs/protocol.md`, "Events"). Decoding is strict: whatever the contract could not have written
//! is a [`DecodeError`] that says what is wrong where.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolEvent;
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::{CiphertextMaterial, KeyDigest, RawLog, RequestBody};

pub use crate::abi::{DecodeError, Problem};

use crate::abi::{self, FieldError, Tuple};
use crate::contracts::{Decryption, KMSGeneration};

/// The contracts of one deployment whose events are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContractSet {
    /// The `Decryption` contract.
    pub decryption: Address,
    /// The `KMSGeneration` contract.
    pub kms_generation: Address,
}

/// Largest value of the contracts' `ParamsType` (0 default, 1 test).
const LAST_PARAMS_TYPE: u8 = 1;

/// The constant id of a PRSS initialisation, whose event carries none.
pub const PRSS_INIT_ID: RequestId = RequestId(B256::with_last_byte(1));

impl ContractSet {
    /// Both addresses, for a log filter.
    #[must_use]
    pub fn addresses(&self) -> [Address; 2] {
        [self.decryption, self.kms_generation]
    }

    /// First topics of the request events, for a log filter. The filter is wider than the pairs of address and topic
    /// that [`decode_request`] selects, and nothing relies on it.
    #[must_use]
    pub fn request_topics() -> [B256; 7] {
        [
            Decryption::PublicDecryptionRequest::SIGNATURE_HASH,
            Decryption::UserDecryptionRequest::SIGNATURE_HASH,
            KMSGeneration::PrepKeygenRequest::SIGNATURE_HASH,
            KMSGeneration::KeygenRequest::SIGNATURE_HASH,
            KMSGeneration::CrsgenRequest::SIGNATURE_HASH,
            KMSGeneration::PRSSInit::SIGNATURE_HASH,
            KMSGeneration::KeyReshareSameSet::SIGNATURE_HASH,
        ]
    }

    /// First topics of the events that report answers.
    #[must_use]
    pub fn response_topics() -> [B256; 9] {
        [
            Decryption::PublicDecryptionResponseCall::SIGNATURE_HASH,
            Decryption::PublicDecryptionResponse::SIGNATURE_HASH,
            Decryption::UserDecryptionResponse::SIGNATURE_HASH,
            Decryption::UserDecryptionResponseThresholdReached::SIGNATURE_HASH,
            KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH,
            KMSGeneration::KeygenResponse::SIGNATURE_HASH,
            KMSGeneration::ActivateKey::SIGNATURE_HASH,
            KMSGeneration::CrsgenResponse::SIGNATURE_HASH,
            KMSGeneration::ActivateCrs::SIGNATURE_HASH,
        ]
    }
}

/// A decoded request event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What is asked for.
    pub kind: Kind,
    /// The contract's id of the request; [`PRSS_INIT_ID`] for a PRSS initialisation.
    pub id: RequestId,
    /// The arguments.
    pub body: RequestBody,
}

/// Decodes a request event of generation (a).
///
/// `Ok(None)` means that the log is no request: another contract's, or another event of a followed contract.
///
/// # Errors
/// The log has the address and first topic of a request event, but is not what the contract writes.
pub fn decode_request(contracts: &ContractSet, log: &RawLog) -> Result<Option<Decoded>, DecodeError> {
    let Some(topic) = log.topics.first() else { return Ok(None) };
    let decoded = if log.address == contracts.decryption {
        match *topic {
            Decryption::PublicDecryptionRequest::SIGNATURE_HASH => public_decryption_request(log)?,
            Decryption::UserDecryptionRequest::SIGNATURE_HASH => user_decryption_request(log)?,
            _ => return Ok(None),
        }
    } else if log.address == contracts.kms_generation {
        match *topic {
            KMSGeneration::PrepKeygenRequest::SIGNATURE_HASH => prep_keygen_request(log)?,
            KMSGeneration::KeygenRequest::SIGNATURE_HASH => keygen_request(log)?,
            KMSGeneration::CrsgenRequest::SIGNATURE_HASH => crsgen_request(log)?,
            KMSGeneration::PRSSInit::SIGNATURE_HASH => prss_init(log)?,
            KMSGeneration::KeyReshareSameSet::SIGNATURE_HASH => key_reshare_same_set(log)?,
            _ => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    Ok(Some(decoded))
}

/// An event that reports an answer, or that enough of them have come (`docs/protocol.md`, "Response events").
///
/// Within one transaction the answer's own event comes first and the consensus event after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseEvent {
    /// One node's answer to a public decryption was recorded; also after consensus.
    PublicDecryptionResponseCall {
        /// Request.
        id: RequestId,
        /// One 32-byte word per handle.
        decrypted_result: Bytes,
        /// The node's signature.
        signature: Bytes,
        /// Transaction sender of the node.
        tx_sender: Address,
        /// `extraData` that was signed.
        extra_data: Bytes,
    },
    /// Consensus on a public decryption; once per request.
    PublicDecryptionResponse {
        /// Request.
        id: RequestId,
        /// One 32-byte word per handle.
        decrypted_result: Bytes,
        /// Signatures of the agreeing nodes so far.
        signatures: Vec<Bytes>,
        /// `extraData` that was signed.
        extra_data: Bytes,
    },
    /// One node's share of a user decryption was recorded; also after the threshold. It names no sender: recover it
    /// from the signature.
    UserDecryptionResponse {
        /// Request.
        id: RequestId,
        /// Order of arrival on chain, from 0; no party id.
        index_share: U256,
        /// The node's share.
        share: Bytes,
        /// The node's signature.
        signature: Bytes,
        /// `extraData` that was signed.
        extra_data: Bytes,
    },
    /// Enough shares of a user decryption have come; once per request.
    UserDecryptionResponseThresholdReached {
        /// Request.
        id: RequestId,
    },
    /// One node's answer to a preprocessing was recorded. Consensus shows as a `KeygenRequest`.
    PrepKeygenResponse {
        /// Request.
        id: RequestId,
        /// The node's signature.
        signature: Bytes,
        /// Transaction sender of the node.
        tx_sender: Address,
    },
    /// One node's answer to a key generation was recorded.
    KeygenResponse {
        /// Request.
        id: RequestId,
        /// Digests in signed order.
        key_digests: Vec<KeyDigest>,
        /// The node's signature.
        signature: Bytes,
        /// Transaction sender of the node.
        tx_sender: Address,
    },
    /// Consensus on a key; it is the active one now.
    ActivateKey {
        /// Request.
        id: RequestId,
        /// Storage of the agreeing nodes.
        storage_urls: Vec<String>,
        /// Digests in signed order.
        key_digests: Vec<KeyDigest>,
    },
    /// One node's answer to a CRS generation was recorded.
    CrsgenResponse {
        /// Request.
        id: RequestId,
        /// Digest of the CRS.
        crs_digest: Bytes,
        /// The node's signature.
        signature: Bytes,
        /// Transaction sender of the node.
        tx_sender: Address,
    },
    /// Consensus on a CRS; it is the active one now.
    ActivateCrs {
        /// Request.
        id: RequestId,
        /// Storage of the agreeing nodes.
        storage_urls: Vec<String>,
        /// Digest of the CRS.
        crs_digest: Bytes,
    },
}

impl ResponseEvent {
    /// The request that the event belongs to.
    #[must_use]
    pub fn id(&self) -> RequestId {
        match self {
            Self::PublicDecryptionResponseCall { id, .. }
            | Self::PublicDecryptionResponse { id, .. }
            | Self::UserDecryptionResponse { id, .. }
            | Self::UserDecryptionResponseThresholdReached { id }
            | Self::PrepKeygenResponse { id, .. }
            | Self::KeygenResponse { id, .. }
            | Self::ActivateKey { id, .. }
            | Self::CrsgenResponse { id, .. }
            | Self::ActivateCrs { id, .. } => *id,
        }
    }

    /// The kind of that request.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::PublicDecryptionResponseCall { .. } | Self::PublicDecryptionResponse { .. } => Kind::PublicDecryption,
            Self::UserDecryptionResponse { .. } | Self::UserDecryptionResponseThresholdReached { .. } => {
                Kind::UserDecryption
            }
            Self::PrepKeygenResponse { .. } => Kind::PrepKeygen,
            Self::KeygenResponse { .. } | Self::ActivateKey { .. } => Kind::Keygen,
            Self::CrsgenResponse { .. } | Self::ActivateCrs { .. } => Kind::Crsgen,
        }
    }

    /// The signature of the one node whose answer the event reports; none for events that report consensus.
    #[must_use]
    pub fn signature(&self) -> Option<&Bytes> {
        match self {
            Self::PublicDecryptionResponseCall { signature, .. }
            | Self::UserDecryptionResponse { signature, .. }
            | Self::PrepKeygenResponse { signature, .. }
            | Self::KeygenResponse { signature, .. }
            | Self::CrsgenResponse { signature, .. } => Some(signature),
            Self::PublicDecryptionResponse { .. }
            | Self::UserDecryptionResponseThresholdReached { .. }
            | Self::ActivateKey { .. }
            | Self::ActivateCrs { .. } => None,
        }
    }

    /// The transaction sender of the node whose answer the event reports, where the event names it.
    #[must_use]
    pub fn tx_sender(&self) -> Option<Address> {
        match self {
            Self::PublicDecryptionResponseCall { tx_sender, .. }
            | Self::PrepKeygenResponse { tx_sender, .. }
            | Self::KeygenResponse { tx_sender, .. }
            | Self::CrsgenResponse { tx_sender, .. } => Some(*tx_sender),
            _ => None,
        }
    }
}

/// Decodes an event that reports an answer. `Ok(None)` means that the log is no such event.
///
/// # Errors
/// The log has the address and first topic of such an event, but is not what the contract writes.
pub fn decode_response(contracts: &ContractSet, log: &RawLog) -> Result<Option<ResponseEvent>, DecodeError> {
    let Some(topic) = log.topics.first() else { return Ok(None) };
    let decoded = if log.address == contracts.decryption {
        match *topic {
            Decryption::PublicDecryptionResponseCall::SIGNATURE_HASH => public_decryption_response_call(log)?,
            Decryption::PublicDecryptionResponse::SIGNATURE_HASH => public_decryption_response(log)?,
            Decryption::UserDecryptionResponse::SIGNATURE_HASH => user_decryption_response(log)?,
            Decryption::UserDecryptionResponseThresholdReached::SIGNATURE_HASH => threshold_reached(log)?,
            _ => return Ok(None),
        }
    } else if log.address == contracts.kms_generation {
        match *topic {
            KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH => prep_keygen_response(log)?,
            KMSGeneration::KeygenResponse::SIGNATURE_HASH => keygen_response(log)?,
            KMSGeneration::ActivateKey::SIGNATURE_HASH => activate_key(log)?,
            KMSGeneration::CrsgenResponse::SIGNATURE_HASH => crsgen_response(log)?,
            KMSGeneration::ActivateCrs::SIGNATURE_HASH => activate_crs(log)?,
            _ => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    Ok(Some(decoded))
}

/// The shape of one event: what its log must look like before the arguments are read.
struct Shape {
    name: &'static str,
    /// Indexed arguments, besides the first topic.
    indexed: usize,
    /// Head words of the arguments that are not indexed.
    head_words: usize,
}

impl Shape {
    fn read<T>(
        &self,
        log: &RawLog,
        read: impl FnOnce(&mut Tuple<'_>) -> Result<T, FieldError>,
    ) -> Result<T, DecodeError> {
        let expected = self.indexed + 1;
        if log.topics.len() != expected {
            let problem = Problem::Topics { expected, found: log.topics.len() };
            return Err(DecodeError { event: self.name, field: "topics".to_owned(), at: 0, problem });
        }
        abi::decode(&log.data, self.head_words, read).map_err(|error| error.of(self.name))
    }

    /// Like [`Self::read`], for an event whose only indexed argument is the request's id.
    fn read_with_id<T>(
        &self,
        log: &RawLog,
        read: impl FnOnce(&mut Tuple<'_>) -> Result<T, FieldError>,
    ) -> Result<(RequestId, T), DecodeError> {
        let value = self.read(log, read)?;
        Ok((RequestId(log.topics[1]), value))
    }
}

fn request_id(tuple: &mut Tuple<'_>, field: &str) -> Result<RequestId, FieldError> {
    tuple.word(field).map(RequestId)
}

fn params_type(tuple: &mut Tuple<'_>) -> Result<u8, FieldError> {
    tuple.enumeration("paramsType", LAST_PARAMS_TYPE, "ParamsType")
}

fn materials(tuple: &mut Tuple<'_>) -> Result<Vec<CiphertextMaterial>, FieldError> {
    tuple.structs("snsCtMaterials", 4, |material| {
        Ok(CiphertextMaterial {
            handle: material.word("ctHandle")?,
            key_id: request_id(material, "keyId")?,
            digest: material.word("snsCiphertextDigest")?,
            coprocessors: material.addresses("coprocessorTxSenderAddresses")?,
        })
    })
}

fn key_digests(tuple: &mut Tuple<'_>) -> Result<Vec<KeyDigest>, FieldError> {
    tuple.structs("keyDigests", 2, |digest| {
        Ok(KeyDigest { key_type: digest.uint8("keyType")?, digest: digest.bytes("digest")? })
    })
}

fn public_decryption_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "PublicDecryptionRequest", indexed: 1, head_words: 2 };
    let (id, body) = shape.read_with_id(log, |tuple| {
        Ok(RequestBody::PublicDecryption { materials: materials(tuple)?, extra_data: tuple.bytes("extraData")? })
    })?;
    Ok(Decoded { kind: Kind::PublicDecryption, id, body })
}

fn user_decryption_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "UserDecryptionRequest", indexed: 1, head_words: 4 };
    let (id, body) = shape.read_with_id(log, |tuple| {
        Ok(RequestBody::UserDecryption {
            materials: materials(tuple)?,
            user_address: tuple.address("userAddress")?,
            public_key: tuple.bytes("publicKey")?,
            extra_data: tuple.bytes("extraData")?,
        })
    })?;
    Ok(Decoded { kind: Kind::UserDecryption, id, body })
}

fn prep_keygen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "PrepKeygenRequest", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        let id = request_id(tuple, "prepKeygenId")?;
        let body = RequestBody::PrepKeygen { epoch_id: tuple.uint256("epochId")?, params_type: params_type(tuple)? };
        Ok(Decoded { kind: Kind::PrepKeygen, id, body })
    })
}

fn keygen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "KeygenRequest", indexed: 0, head_words: 2 };
    shape.read(log, |tuple| {
        let body = RequestBody::Keygen { prep_keygen_id: request_id(tuple, "prepKeygenId")? };
        Ok(Decoded { kind: Kind::Keygen, id: request_id(tuple, "keyId")?, body })
    })
}

fn crsgen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "CrsgenRequest", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        let id = request_id(tuple, "crsId")?;
        let body =
            RequestBody::Crsgen { max_bit_length: tuple.uint256("maxBitLength")?, params_type: params_type(tuple)? };
        Ok(Decoded { kind: Kind::Crsgen, id, body })
    })
}

fn prss_init(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "PRSSInit", indexed: 0, head_words: 0 };
    shape.read(log, |_| Ok(Decoded { kind: Kind::PrssInit, id: PRSS_INIT_ID, body: RequestBody::PrssInit }))
}

fn key_reshare_same_set(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "KeyReshareSameSet", indexed: 0, head_words: 4 };
    shape.read(log, |tuple| {
        let prep_keygen_id = request_id(tuple, "prepKeygenId")?;
        let key_id = request_id(tuple, "keyId")?;
        let id = request_id(tuple, "keyReshareId")?;
        let body = RequestBody::KeyReshareSameSet { prep_keygen_id, key_id, params_type: params_type(tuple)? };
        Ok(Decoded { kind: Kind::KeyReshareSameSet, id, body })
    })
}

fn public_decryption_response_call(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "PublicDecryptionResponseCall", indexed: 1, head_words: 4 };
    let (id, (decrypted_result, signature, tx_sender, extra_data)) = shape.read_with_id(log, |tuple| {
        Ok((
            tuple.bytes("decryptedResult")?,
            tuple.bytes("signature")?,
            tuple.address("kmsTxSender")?,
            tuple.bytes("extraData")?,
        ))
    })?;
    Ok(ResponseEvent::PublicDecryptionResponseCall { id, decrypted_result, signature, tx_sender, extra_data })
}

fn public_decryption_response(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "PublicDecryptionResponse", indexed: 1, head_words: 3 };
    let (id, (decrypted_result, signatures, extra_data)) = shape.read_with_id(log, |tuple| {
        Ok((tuple.bytes("decryptedResult")?, tuple.byte_strings("signatures")?, tuple.bytes("extraData")?))
    })?;
    Ok(ResponseEvent::PublicDecryptionResponse { id, decrypted_result, signatures, extra_data })
}

fn user_decryption_response(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "UserDecryptionResponse", indexed: 1, head_words: 4 };
    let (id, (index_share, share, signature, extra_data)) = shape.read_with_id(log, |tuple| {
        Ok((
            tuple.uint256("indexShare")?,
            tuple.bytes("userDecryptedShare")?,
            tuple.bytes("signature")?,
            tuple.bytes("extraData")?,
        ))
    })?;
    Ok(ResponseEvent::UserDecryptionResponse { id, index_share, share, signature, extra_data })
}

fn threshold_reached(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "UserDecryptionResponseThresholdReached", indexed: 1, head_words: 0 };
    let (id, ()) = shape.read_with_id(log, |_| Ok(()))?;
    Ok(ResponseEvent::UserDecryptionResponseThresholdReached { id })
}

fn prep_keygen_response(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "PrepKeygenResponse", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        Ok(ResponseEvent::PrepKeygenResponse {
            id: request_id(tuple, "prepKeygenId")?,
            signature: tuple.bytes("signature")?,
            tx_sender: tuple.address("kmsTxSender")?,
        })
    })
}

fn keygen_response(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "KeygenResponse", indexed: 0, head_words: 4 };
    shape.read(log, |tuple| {
        Ok(ResponseEvent::KeygenResponse {
            id: request_id(tuple, "keyId")?,
            key_digests: key_digests(tuple)?,
            signature: tuple.bytes("signature")?,
            tx_sender: tuple.address("kmsTxSender")?,
        })
    })
}

fn activate_key(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "ActivateKey", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        Ok(ResponseEvent::ActivateKey {
            id: request_id(tuple, "keyId")?,
            storage_urls: tuple.strings("kmsNodeStorageUrls")?,
            key_digests: key_digests(tuple)?,
        })
    })
}

fn crsgen_response(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "CrsgenResponse", indexed: 0, head_words: 4 };
    shape.read(log, |tuple| {
        Ok(ResponseEvent::CrsgenResponse {
            id: request_id(tuple, "crsId")?,
            crs_digest: tuple.bytes("crsDigest")?,
            signature: tuple.bytes("signature")?,
            tx_sender: tuple.address("kmsTxSender")?,
        })
    })
}

fn activate_crs(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "ActivateCrs", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        Ok(ResponseEvent::ActivateCrs {
            id: request_id(tuple, "crsId")?,
            storage_urls: tuple.strings("kmsNodeStorageUrls")?,
            crs_digest: tuple.bytes("crsDigest")?,
        })
    })
}
