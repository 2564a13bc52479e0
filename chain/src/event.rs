//! Events of the followed contracts: the requests to serve, and the events that report answers.
//!
//! A log is selected by its contract's address **and** its first topic, never by the event's name: later releases
//! overload the names (`docs/protocol.md`, "Events"). Where a release tells the same request in two events, one family of
//! events is followed and the other is none of ours. Decoding is strict: whatever the contract could not have written
//! is a [`DecodeError`] that says what is wrong where.

use alloy::primitives::{Address, B256, Bytes, U256, b256, keccak256};
use alloy::sol_types::SolEvent;
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::{
    CiphertextMaterial, HandleEntry, KeyDigest, KmsNodeParams, KmsThresholds, NewKmsContext, PcrValues, RawLog,
    RequestBody, UnifiedUserDecryption,
};

pub use crate::abi::{DecodeError, Problem};

use crate::abi::{self, FieldError, Tuple};
use crate::contracts::{Decryption, KMSGeneration, b};
use crate::release::{Family, Release};

/// The followed contracts of **one** chain, and their release.
///
/// A Gateway of generation (a) has decryption and key generation. From v0.13 on the Gateway has decryption only, and a
/// second set describes the Ethereum host chain, with key generation and the protocol's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContractSet {
    /// Release of the contracts, which selects the events.
    pub release: Release,
    /// The `Decryption` contract.
    pub decryption: Option<Address>,
    /// The `KMSGeneration` contract.
    pub kms_generation: Option<Address>,
    /// The `ProtocolConfig` contract: contexts and epochs.
    pub protocol_config: Option<Address>,
}

/// Largest value of the contracts' `ParamsType` (0 default, 1 test).
const LAST_PARAMS_TYPE: u8 = 1;

/// The constant id of a PRSS initialisation, whose event carries none.
pub const PRSS_INIT_ID: RequestId = RequestId(B256::with_last_byte(1));

/// The bare base of context ids, which names no context: the predecessor of a context that replaces none.
pub const NO_CONTEXT: RequestId = RequestId(b256!("0700000000000000000000000000000000000000000000000000000000000000"));

/// One event that asks for something.
struct RequestEvent {
    topic: B256,
    kind: Kind,
    decode: fn(&RawLog) -> Result<Decoded, DecodeError>,
}

const fn request_event<E: SolEvent>(kind: Kind, decode: fn(&RawLog) -> Result<Decoded, DecodeError>) -> RequestEvent {
    RequestEvent { topic: E::SIGNATURE_HASH, kind, decode }
}

const MATERIALS: &[RequestEvent] = &[
    request_event::<Decryption::PublicDecryptionRequest>(Kind::PublicDecryption, public_decryption_request),
    request_event::<Decryption::UserDecryptionRequest>(Kind::UserDecryption, user_decryption_request),
];

const MATERIALS_AND_UNIFIED: &[RequestEvent] = &[
    request_event::<Decryption::PublicDecryptionRequest>(Kind::PublicDecryption, public_decryption_request),
    request_event::<Decryption::UserDecryptionRequest>(Kind::UserDecryption, user_decryption_request),
    request_event::<b::DecryptionUnifiedMaterials::UserDecryptionRequest>(
        Kind::UserDecryption,
        unified_materials_request,
    ),
];

const HANDLES: &[RequestEvent] = &[
    request_event::<b::DecryptionHandles::PublicDecryptionRequest>(Kind::PublicDecryption, public_handles_request),
    request_event::<b::DecryptionHandles::UserDecryptionRequest>(Kind::UserDecryption, user_handles_request),
    request_event::<b::DecryptionUnified::UserDecryptionRequest>(Kind::UserDecryption, unified_request),
];

const KEY_MANAGEMENT_ON_GATEWAY: &[RequestEvent] = &[
    request_event::<KMSGeneration::PrepKeygenRequest>(Kind::PrepKeygen, prep_keygen_request),
    request_event::<KMSGeneration::KeygenRequest>(Kind::Keygen, keygen_request),
    request_event::<KMSGeneration::CrsgenRequest>(Kind::Crsgen, crsgen_request),
    request_event::<KMSGeneration::PRSSInit>(Kind::PrssInit, prss_init),
    request_event::<KMSGeneration::KeyReshareSameSet>(Kind::KeyReshareSameSet, key_reshare_same_set),
];

const KEY_MANAGEMENT_ON_HOST: &[RequestEvent] = &[
    request_event::<b::KMSGeneration::PrepKeygenRequest>(Kind::PrepKeygen, host_prep_keygen_request),
    request_event::<b::KMSGeneration::KeygenRequest>(Kind::Keygen, host_keygen_request),
    request_event::<b::KMSGeneration::CrsgenRequest>(Kind::Crsgen, host_crsgen_request),
    request_event::<b::KMSGeneration::AbortKeygen>(Kind::AbortKeygen, abort_keygen),
    request_event::<b::KMSGeneration::AbortCrsgen>(Kind::AbortCrsgen, abort_crsgen),
];

const CONTEXTS: &[RequestEvent] = &[
    request_event::<b::ProtocolConfigV13::NewKmsContext>(Kind::NewKmsContext, plain_kms_context),
    request_event::<b::ProtocolConfig::KmsContextDestroyed>(Kind::KmsContextDestroyed, kms_context_destroyed),
];

const CONTEXTS_AND_EPOCHS: &[RequestEvent] = &[
    request_event::<b::ProtocolConfig::NewKmsContext>(Kind::NewKmsContext, new_kms_context),
    request_event::<b::ProtocolConfig::NewKmsEpoch>(Kind::NewKmsEpoch, new_kms_epoch),
    request_event::<b::ProtocolConfig::KmsContextDestroyed>(Kind::KmsContextDestroyed, kms_context_destroyed),
    request_event::<b::ProtocolConfig::KmsEpochDestroyed>(Kind::KmsEpochDestroyed, kms_epoch_destroyed),
];

impl Release {
    /// The request events of this release's `Decryption` contract: exactly one family.
    fn decryption_requests(self) -> &'static [RequestEvent] {
        match self.decryption_family() {
            Family::Handles => HANDLES,
            Family::Materials if self.unified() => MATERIALS_AND_UNIFIED,
            Family::Materials => MATERIALS,
        }
    }

    fn kms_generation_requests(self) -> &'static [RequestEvent] {
        if self.key_management_on_host() { KEY_MANAGEMENT_ON_HOST } else { KEY_MANAGEMENT_ON_GATEWAY }
    }

    fn protocol_config_requests(self) -> &'static [RequestEvent] {
        if self.epochs() {
            CONTEXTS_AND_EPOCHS
        } else if self.key_management_on_host() {
            CONTEXTS
        } else {
            &[]
        }
    }
}

impl ContractSet {
    /// A Gateway of generation (a).
    #[must_use]
    pub const fn gateway_a(decryption: Address, kms_generation: Address) -> Self {
        Self {
            release: Release::V0_11,
            decryption: Some(decryption),
            kms_generation: Some(kms_generation),
            protocol_config: None,
        }
    }

    /// A Gateway without key generation, as it is from v0.13 on.
    #[must_use]
    pub const fn gateway(release: Release, decryption: Address) -> Self {
        Self { release, decryption: Some(decryption), kms_generation: None, protocol_config: None }
    }

    /// An Ethereum host chain, as it is from v0.13 on.
    #[must_use]
    pub const fn host(release: Release, kms_generation: Address, protocol_config: Address) -> Self {
        Self { release, decryption: None, kms_generation: Some(kms_generation), protocol_config: Some(protocol_config) }
    }

    /// The same contracts, of another release.
    #[must_use]
    pub const fn with_release(self, release: Release) -> Self {
        Self { release, ..self }
    }

    /// The configured contracts with their request events.
    fn requests(&self) -> impl Iterator<Item = (Address, &'static [RequestEvent])> {
        let release = self.release;
        [
            self.decryption.map(|contract| (contract, release.decryption_requests())),
            self.kms_generation.map(|contract| (contract, release.kms_generation_requests())),
            self.protocol_config.map(|contract| (contract, release.protocol_config_requests())),
        ]
        .into_iter()
        .flatten()
    }

    /// The configured contracts with their events that report responses.
    fn responses(&self) -> impl Iterator<Item = (Address, &'static [ReportEvent])> {
        let confirmations = if self.release.epochs() { CONFIRMATION_REPORTS } else { &[] };
        [
            self.decryption.map(|contract| (contract, DECRYPTION_REPORTS)),
            self.kms_generation.map(|contract| (contract, KEY_MANAGEMENT_REPORTS)),
            self.protocol_config.map(|contract| (contract, confirmations)),
        ]
        .into_iter()
        .flatten()
    }

    /// The configured addresses, for a log filter.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        [self.decryption, self.kms_generation, self.protocol_config].into_iter().flatten().collect()
    }

    /// First topics of the request events, for a log filter. The filter is wider than the pairs of address and topic
    /// that [`decode_request`] selects, and nothing relies on it.
    #[must_use]
    pub fn request_topics(&self) -> Vec<B256> {
        self.requests().flat_map(|(_, events)| events).map(|event| event.topic).collect()
    }

    /// First topics of the events that report answers.
    #[must_use]
    pub fn response_topics(&self) -> Vec<B256> {
        self.responses().flat_map(|(_, events)| events).map(|event| event.topic).collect()
    }

    /// The contract that asks for work of this kind; none if no contract of this chain does.
    #[must_use]
    pub fn contract_of(&self, kind: Kind) -> Option<Address> {
        let asks = |events: &[RequestEvent]| events.iter().any(|event| event.kind == kind);
        self.requests().find(|(_, events)| asks(events)).map(|(contract, _)| contract)
    }

    /// Whether this contract is the one of this chain that asks for work of this kind.
    #[must_use]
    pub fn serves(&self, kind: Kind, contract: Address) -> bool {
        self.contract_of(kind) == Some(contract)
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

/// Decodes a request event of the set's release.
///
/// `Ok(None)` means that the log is no request: another contract's, or another event of a followed contract, such as the
/// twin of a request in the other family of events.
///
/// # Errors
/// The log has the address and first topic of a request event, but is not what the contract writes.
pub fn decode_request(contracts: &ContractSet, log: &RawLog) -> Result<Option<Decoded>, DecodeError> {
    let Some(topic) = log.topics.first() else { return Ok(None) };
    let mut events = contracts.requests().filter(|(contract, _)| *contract == log.address).flat_map(|(_, e)| e);
    match events.find(|event| event.topic == *topic) {
        Some(event) => (event.decode)(log).map(Some),
        None => Ok(None),
    }
}

/// What `ProtocolConfig.getKmsContextAnchor` states for the context that this `NewKmsContext` log defines: the log of a
/// predecessor is proved by it.
#[must_use]
pub fn context_info_hash(log: &RawLog) -> B256 {
    keccak256(&log.data)
}

/// One event that reports an answer.
struct ReportEvent {
    topic: B256,
    decode: fn(&RawLog) -> Result<ResponseEvent, DecodeError>,
}

const fn report<E: SolEvent>(decode: fn(&RawLog) -> Result<ResponseEvent, DecodeError>) -> ReportEvent {
    ReportEvent { topic: E::SIGNATURE_HASH, decode }
}

const DECRYPTION_REPORTS: &[ReportEvent] = &[
    report::<Decryption::PublicDecryptionResponseCall>(public_decryption_response_call),
    report::<Decryption::PublicDecryptionResponse>(public_decryption_response),
    report::<Decryption::UserDecryptionResponse>(user_decryption_response),
    report::<Decryption::UserDecryptionResponseThresholdReached>(threshold_reached),
];

const KEY_MANAGEMENT_REPORTS: &[ReportEvent] = &[
    report::<KMSGeneration::PrepKeygenResponse>(prep_keygen_response),
    report::<KMSGeneration::KeygenResponse>(keygen_response),
    report::<KMSGeneration::ActivateKey>(activate_key),
    report::<KMSGeneration::CrsgenResponse>(crsgen_response),
    report::<KMSGeneration::ActivateCrs>(activate_crs),
];

const CONFIRMATION_REPORTS: &[ReportEvent] = &[
    report::<b::ProtocolConfig::KmsContextCreationConfirmation>(context_creation_confirmation),
    report::<b::ProtocolConfig::EpochActivationConfirmation>(epoch_activation_confirmation),
    report::<b::ProtocolConfig::ActivateEpoch>(activate_epoch),
];

/// A key in an [`ResponseEvent::ActivateEpoch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivatedKey {
    /// Preprocessing id.
    pub prep_keygen_id: RequestId,
    /// Key id.
    pub key_id: RequestId,
    /// Digests in signed order.
    pub key_digests: Vec<KeyDigest>,
    /// Signature of the node whose confirmation was the last one.
    pub signature: Bytes,
}

/// A CRS in an [`ResponseEvent::ActivateEpoch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivatedCrs {
    /// CRS id.
    pub crs_id: RequestId,
    /// Bit length.
    pub max_bit_length: U256,
    /// Digest of the CRS.
    pub crs_digest: Bytes,
    /// Signature of the node whose confirmation was the last one.
    pub signature: Bytes,
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
    /// One node's confirmation of a new context was recorded. The quorum shows as a `NewKmsEpoch`.
    KmsContextCreationConfirmation {
        /// The context.
        id: RequestId,
        /// Transaction sender of the node.
        tx_sender: Address,
        /// Whether it counts for the previous set of nodes.
        is_previous: bool,
        /// Whether it counts for the new set.
        is_new: bool,
    },
    /// One node's confirmation of an epoch was recorded.
    EpochActivationConfirmation {
        /// The epoch.
        id: RequestId,
        /// The node's signer.
        signer: Address,
        /// Hash over all keys and CRSs; every node must have the same one.
        data_hash: B256,
    },
    /// Every node confirmed the epoch; it and its context are current now.
    ActivateEpoch {
        /// The epoch.
        id: RequestId,
        /// Its context.
        context_id: RequestId,
        /// Its keys.
        keys: Vec<ActivatedKey>,
        /// Its CRSs.
        crs_list: Vec<ActivatedCrs>,
        /// Storage of the context's nodes.
        storage_urls: Vec<String>,
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
            | Self::ActivateCrs { id, .. }
            | Self::KmsContextCreationConfirmation { id, .. }
            | Self::EpochActivationConfirmation { id, .. }
            | Self::ActivateEpoch { id, .. } => *id,
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
            Self::KmsContextCreationConfirmation { .. } => Kind::NewKmsContext,
            Self::EpochActivationConfirmation { .. } | Self::ActivateEpoch { .. } => Kind::NewKmsEpoch,
        }
    }

    /// The signature of the one node whose answer the event reports; none for events that report consensus, and for
    /// confirmations, which have none or many.
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
            | Self::ActivateCrs { .. }
            | Self::KmsContextCreationConfirmation { .. }
            | Self::EpochActivationConfirmation { .. }
            | Self::ActivateEpoch { .. } => None,
        }
    }

    /// The transaction sender of the node whose answer the event reports, where the event names it.
    #[must_use]
    pub fn tx_sender(&self) -> Option<Address> {
        match self {
            Self::PublicDecryptionResponseCall { tx_sender, .. }
            | Self::PrepKeygenResponse { tx_sender, .. }
            | Self::KeygenResponse { tx_sender, .. }
            | Self::CrsgenResponse { tx_sender, .. }
            | Self::KmsContextCreationConfirmation { tx_sender, .. } => Some(*tx_sender),
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
    let mut events = contracts.responses().filter(|(contract, _)| *contract == log.address).flat_map(|(_, e)| e);
    match events.find(|event| event.topic == *topic) {
        Some(event) => (event.decode)(log).map(Some),
        None => Ok(None),
    }
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
        let epoch_id = tuple.uint256("epochId")?;
        let body = RequestBody::PrepKeygen { epoch_id, params_type: params_type(tuple)?, extra_data: Bytes::new() };
        Ok(Decoded { kind: Kind::PrepKeygen, id, body })
    })
}

fn keygen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "KeygenRequest", indexed: 0, head_words: 2 };
    shape.read(log, |tuple| {
        let prep_keygen_id = request_id(tuple, "prepKeygenId")?;
        let body = RequestBody::Keygen { prep_keygen_id, extra_data: Bytes::new() };
        Ok(Decoded { kind: Kind::Keygen, id: request_id(tuple, "keyId")?, body })
    })
}

fn crsgen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "CrsgenRequest", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        let id = request_id(tuple, "crsId")?;
        let max_bit_length = tuple.uint256("maxBitLength")?;
        let body = RequestBody::Crsgen { max_bit_length, params_type: params_type(tuple)?, extra_data: Bytes::new() };
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

fn public_handles_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "PublicDecryptionRequest", indexed: 1, head_words: 2 };
    let (id, body) = shape.read_with_id(log, |tuple| {
        Ok(RequestBody::PublicDecryptionHandles {
            handles: tuple.words("ctHandles")?,
            extra_data: tuple.bytes("extraData")?,
        })
    })?;
    Ok(Decoded { kind: Kind::PublicDecryption, id, body })
}

fn user_handles_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "UserDecryptionRequest", indexed: 1, head_words: 4 };
    let (id, body) = shape.read_with_id(log, |tuple| {
        Ok(RequestBody::UserDecryptionHandles {
            handles: tuple.words("ctHandles")?,
            user_address: tuple.address("userAddress")?,
            public_key: tuple.bytes("publicKey")?,
            extra_data: tuple.bytes("extraData")?,
        })
    })?;
    Ok(Decoded { kind: Kind::UserDecryption, id, body })
}

/// `HandleEntry[] handles, UserDecryptionRequestPayload payload`, which end the event in both releases that have it.
fn unified(tuple: &mut Tuple<'_>, materials: Vec<CiphertextMaterial>) -> Result<RequestBody, FieldError> {
    let entries = tuple.static_array("handles", 3, |entry| {
        Ok(HandleEntry {
            handle: entry.word("handle")?,
            contract: entry.address("contractAddress")?,
            owner: entry.address("ownerAddress")?,
        })
    })?;
    tuple.structure("payload", 7, |payload| {
        let user_address = payload.address("userAddress")?;
        let public_key = payload.bytes("publicKey")?;
        let allowed_contracts = payload.addresses("allowedContracts")?;
        let (start_timestamp, duration_seconds) = payload.inline("requestValidity", |validity| {
            Ok((validity.uint256("startTimestamp")?, validity.uint256("durationSeconds")?))
        })?;
        let extra_data = payload.bytes("extraData")?;
        let signature = payload.bytes("signature")?;
        Ok(RequestBody::UnifiedUserDecryption(Box::new(UnifiedUserDecryption {
            materials,
            entries,
            user_address,
            public_key,
            allowed_contracts,
            start_timestamp,
            duration_seconds,
            extra_data,
            signature,
        })))
    })
}

fn unified_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "UserDecryptionRequest", indexed: 1, head_words: 2 };
    let (id, body) = shape.read_with_id(log, |tuple| unified(tuple, Vec::new()))?;
    Ok(Decoded { kind: Kind::UserDecryption, id, body })
}

fn unified_materials_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "UserDecryptionRequest", indexed: 1, head_words: 3 };
    let (id, body) = shape.read_with_id(log, |tuple| {
        let materials = materials(tuple)?;
        unified(tuple, materials)
    })?;
    Ok(Decoded { kind: Kind::UserDecryption, id, body })
}

fn host_prep_keygen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "PrepKeygenRequest", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        let id = request_id(tuple, "prepKeygenId")?;
        let (params_type, extra_data) = (params_type(tuple)?, tuple.bytes("extraData")?);
        let body = RequestBody::PrepKeygen { epoch_id: U256::ZERO, params_type, extra_data };
        Ok(Decoded { kind: Kind::PrepKeygen, id, body })
    })
}

fn host_keygen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "KeygenRequest", indexed: 0, head_words: 3 };
    shape.read(log, |tuple| {
        let prep_keygen_id = request_id(tuple, "prepKeygenId")?;
        let id = request_id(tuple, "keyId")?;
        let body = RequestBody::Keygen { prep_keygen_id, extra_data: tuple.bytes("extraData")? };
        Ok(Decoded { kind: Kind::Keygen, id, body })
    })
}

fn host_crsgen_request(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "CrsgenRequest", indexed: 0, head_words: 4 };
    shape.read(log, |tuple| {
        let id = request_id(tuple, "crsId")?;
        let max_bit_length = tuple.uint256("maxBitLength")?;
        let (params_type, extra_data) = (params_type(tuple)?, tuple.bytes("extraData")?);
        Ok(Decoded { kind: Kind::Crsgen, id, body: RequestBody::Crsgen { max_bit_length, params_type, extra_data } })
    })
}

fn abort_keygen(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "AbortKeygen", indexed: 0, head_words: 1 };
    shape.read(log, |tuple| {
        let id = request_id(tuple, "prepKeygenId")?;
        Ok(Decoded { kind: Kind::AbortKeygen, id, body: RequestBody::AbortKeygen })
    })
}

fn abort_crsgen(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "AbortCrsgen", indexed: 0, head_words: 1 };
    shape.read(log, |tuple| {
        let id = request_id(tuple, "crsId")?;
        Ok(Decoded { kind: Kind::AbortCrsgen, id, body: RequestBody::AbortCrsgen })
    })
}

fn thresholds(tuple: &mut Tuple<'_>) -> Result<KmsThresholds, FieldError> {
    tuple.inline("thresholds", |thresholds| {
        Ok(KmsThresholds {
            public_decryption: thresholds.uint256("publicDecryption")?,
            user_decryption: thresholds.uint256("userDecryption")?,
            kms_gen: thresholds.uint256("kmsGen")?,
            mpc: thresholds.uint256("mpc")?,
        })
    })
}

fn new_kms_context(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "NewKmsContext", indexed: 2, head_words: 7 };
    let body = shape.read(log, |tuple| {
        let nodes = tuple.structs("kmsNodeParams", 8, |node| {
            Ok(KmsNodeParams {
                tx_sender: node.address("txSenderAddress")?,
                signer: node.address("signerAddress")?,
                ip_address: node.string("ipAddress")?,
                storage_url: node.string("storageUrl")?,
                party_id: node.int32("partyId")?,
                mpc_identity: node.string("mpcIdentity")?,
                ca_cert: node.bytes("caCert")?,
                storage_prefix: node.string("storagePrefix")?,
            })
        })?;
        Ok(NewKmsContext {
            previous_context_id: RequestId(log.topics[2]),
            nodes,
            thresholds: thresholds(tuple)?,
            software_version: tuple.string("softwareVersion")?,
            pcr_values: tuple.structs("pcrValues", 3, |values| {
                Ok(PcrValues { pcr0: values.bytes("pcr0")?, pcr1: values.bytes("pcr1")?, pcr2: values.bytes("pcr2")? })
            })?,
        })
    })?;
    let (id, body) = (RequestId(log.topics[1]), RequestBody::NewKmsContext(Box::new(body)));
    Ok(Decoded { kind: Kind::NewKmsContext, id, body })
}

/// `NewKmsContext` of v0.13. It names no previous context and asks for no answer, which is what a context without a
/// predecessor means in later releases: it is read as one.
fn plain_kms_context(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "NewKmsContext", indexed: 1, head_words: 5 };
    let (id, body) = shape.read_with_id(log, |tuple| {
        let nodes = tuple.structs("kmsNodes", 4, |node| {
            Ok(KmsNodeParams {
                tx_sender: node.address("txSenderAddress")?,
                signer: node.address("signerAddress")?,
                ip_address: node.string("ipAddress")?,
                storage_url: node.string("storageUrl")?,
                party_id: 0,
                mpc_identity: String::new(),
                ca_cert: Bytes::new(),
                storage_prefix: String::new(),
            })
        })?;
        Ok(NewKmsContext {
            previous_context_id: NO_CONTEXT,
            nodes,
            thresholds: thresholds(tuple)?,
            software_version: String::new(),
            pcr_values: Vec::new(),
        })
    })?;
    Ok(Decoded { kind: Kind::NewKmsContext, id, body: RequestBody::NewKmsContext(Box::new(body)) })
}

fn new_kms_epoch(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "NewKmsEpoch", indexed: 2, head_words: 3 };
    let body = shape.read(log, |tuple| {
        Ok(RequestBody::NewKmsEpoch {
            context_id: RequestId(log.topics[1]),
            previous_context_id: request_id(tuple, "previousContextId")?,
            previous_epoch_id: request_id(tuple, "previousEpochId")?,
            material_block_number: tuple.uint256("materialBlockNumber")?,
        })
    })?;
    Ok(Decoded { kind: Kind::NewKmsEpoch, id: RequestId(log.topics[2]), body })
}

fn kms_context_destroyed(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "KmsContextDestroyed", indexed: 1, head_words: 0 };
    let (id, body) = shape.read_with_id(log, |_| Ok(RequestBody::KmsContextDestroyed))?;
    Ok(Decoded { kind: Kind::KmsContextDestroyed, id, body })
}

fn kms_epoch_destroyed(log: &RawLog) -> Result<Decoded, DecodeError> {
    let shape = Shape { name: "KmsEpochDestroyed", indexed: 1, head_words: 0 };
    let (id, body) = shape.read_with_id(log, |_| Ok(RequestBody::KmsEpochDestroyed))?;
    Ok(Decoded { kind: Kind::KmsEpochDestroyed, id, body })
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

fn context_creation_confirmation(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "KmsContextCreationConfirmation", indexed: 2, head_words: 2 };
    shape.read(log, |tuple| {
        Ok(ResponseEvent::KmsContextCreationConfirmation {
            id: RequestId(log.topics[1]),
            tx_sender: abi::address_topic(log.topics[2], "txSender")?,
            is_previous: tuple.boolean("isPreviousTxSender")?,
            is_new: tuple.boolean("isNewTxSender")?,
        })
    })
}

fn epoch_activation_confirmation(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "EpochActivationConfirmation", indexed: 2, head_words: 1 };
    shape.read(log, |tuple| {
        Ok(ResponseEvent::EpochActivationConfirmation {
            id: RequestId(log.topics[1]),
            signer: abi::address_topic(log.topics[2], "signer")?,
            data_hash: tuple.word("dataHash")?,
        })
    })
}

fn activate_epoch(log: &RawLog) -> Result<ResponseEvent, DecodeError> {
    let shape = Shape { name: "ActivateEpoch", indexed: 2, head_words: 3 };
    shape.read(log, |tuple| {
        let keys = tuple.structs("keys", 4, |key| {
            Ok(ActivatedKey {
                prep_keygen_id: request_id(key, "prepKeygenId")?,
                key_id: request_id(key, "keyId")?,
                key_digests: key_digests(key)?,
                signature: key.bytes("signature")?,
            })
        })?;
        let crs_list = tuple.structs("crsList", 4, |crs| {
            Ok(ActivatedCrs {
                crs_id: request_id(crs, "crsId")?,
                max_bit_length: crs.uint256("maxBitLength")?,
                crs_digest: crs.bytes("crsDigest")?,
                signature: crs.bytes("signature")?,
            })
        })?;
        Ok(ResponseEvent::ActivateEpoch {
            id: RequestId(log.topics[2]),
            context_id: RequestId(log.topics[1]),
            keys,
            crs_list,
            storage_urls: tuple.strings("kmsNodeStorageUrls")?,
        })
    })
}
