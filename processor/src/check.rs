//! Which checks each form of request must pass, and in which order: a table that [`crate::gate`] follows, and that
//! `docs/operations-matrix.md` is made from.

use alloy::primitives::B256;
use kms_schemas::record::{CiphertextMaterial, Request, RequestBody};

use crate::codes;
use crate::patience::Budget;

/// A form of request: a kind may have several, by release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A public decryption whose event carries the ciphertexts' materials.
    PublicDecryption,
    /// One whose event carries handles only.
    PublicDecryptionHandles,
    /// A user decryption, direct or delegated, whose event carries the ciphertexts' materials.
    UserDecryption,
    /// One whose event carries handles only.
    UserDecryptionHandles,
    /// A unified user decryption.
    UnifiedUserDecryption,
    /// A preprocessing.
    PrepKeygen,
    /// A key generation.
    Keygen,
    /// A CRS generation.
    Crsgen,
    /// The abort of a key generation.
    AbortKeygen,
    /// The abort of a CRS generation.
    AbortCrsgen,
    /// A new context.
    NewKmsContext,
    /// A new epoch.
    NewKmsEpoch,
    /// The end of a context.
    KmsContextDestroyed,
    /// The end of an epoch.
    KmsEpochDestroyed,
    /// A PRSS initialisation.
    PrssInit,
    /// A resharing within the same nodes.
    KeyReshareSameSet,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 16] = [
        Self::PublicDecryption,
        Self::PublicDecryptionHandles,
        Self::UserDecryption,
        Self::UserDecryptionHandles,
        Self::UnifiedUserDecryption,
        Self::PrepKeygen,
        Self::Keygen,
        Self::Crsgen,
        Self::AbortKeygen,
        Self::AbortCrsgen,
        Self::NewKmsContext,
        Self::NewKmsEpoch,
        Self::KmsContextDestroyed,
        Self::KmsEpochDestroyed,
        Self::PrssInit,
        Self::KeyReshareSameSet,
    ];

    /// The form of a request.
    #[must_use]
    pub const fn of(body: &RequestBody) -> Self {
        match body {
            RequestBody::PublicDecryption { .. } => Self::PublicDecryption,
            RequestBody::PublicDecryptionHandles { .. } => Self::PublicDecryptionHandles,
            RequestBody::UserDecryption { .. } => Self::UserDecryption,
            RequestBody::UserDecryptionHandles { .. } => Self::UserDecryptionHandles,
            RequestBody::UnifiedUserDecryption(_) => Self::UnifiedUserDecryption,
            RequestBody::PrepKeygen { .. } => Self::PrepKeygen,
            RequestBody::Keygen { .. } => Self::Keygen,
            RequestBody::Crsgen { .. } => Self::Crsgen,
            RequestBody::AbortKeygen => Self::AbortKeygen,
            RequestBody::AbortCrsgen => Self::AbortCrsgen,
            RequestBody::NewKmsContext(_) => Self::NewKmsContext,
            RequestBody::NewKmsEpoch { .. } => Self::NewKmsEpoch,
            RequestBody::KmsContextDestroyed => Self::KmsContextDestroyed,
            RequestBody::KmsEpochDestroyed => Self::KmsEpochDestroyed,
            RequestBody::PrssInit => Self::PrssInit,
            RequestBody::KeyReshareSameSet { .. } => Self::KeyReshareSameSet,
        }
    }

    /// The checks after the proof, in order.
    #[must_use]
    pub const fn checks(self) -> &'static [Check] {
        match self {
            Self::PublicDecryption => &[Check::Handles, Check::OneKey, Check::Context, Check::PublicAccess],
            Self::PublicDecryptionHandles => &[Check::Handles, Check::Context, Check::PublicAccess],
            Self::UserDecryption => {
                &[Check::Handles, Check::OneHostChain, Check::OneKey, Check::Context, Check::LegacyAccess]
            }
            Self::UserDecryptionHandles => &[Check::Handles, Check::OneHostChain, Check::Context, Check::LegacyAccess],
            Self::UnifiedUserDecryption => &[
                Check::Handles,
                Check::OneHostChain,
                Check::SameHandles,
                Check::OneKey,
                Check::Validity,
                Check::Context,
                Check::UnifiedAccess,
            ],
            Self::PrepKeygen | Self::Keygen | Self::Crsgen => &[Check::Context],
            Self::NewKmsContext | Self::NewKmsEpoch => &[Check::NotDestroyed],
            Self::KmsContextDestroyed => &[Check::ForgetContext],
            Self::KmsEpochDestroyed => &[Check::ForgetEpoch],
            // These have no grounds but their event, which only the owner of the contracts causes.
            Self::AbortKeygen | Self::AbortCrsgen | Self::PrssInit | Self::KeyReshareSameSet => &[],
        }
    }
}

/// One check of a request that was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// Some handles, of supported types, of at most 2048 bits.
    Handles,
    /// All handles are of one host chain.
    OneHostChain,
    /// All ciphertexts are under one key.
    OneKey,
    /// The ciphertexts are those of the handles.
    SameHandles,
    /// The user's signature is valid now, and does not name the user as a contract.
    Validity,
    /// Context and epoch that the extra data names.
    Context,
    /// Everybody may have the handles decrypted.
    PublicAccess,
    /// User or delegate may have the handles, with the contracts of the transaction's calldata.
    LegacyAccess,
    /// The user signed, did not invalidate the signature, and may have the handles, with the contracts that the user allowed.
    UnifiedAccess,
    /// The context, or the epoch and its context, that is to be made was not destroyed meanwhile.
    NotDestroyed,
    /// Not a check: from now on the context is refused.
    ForgetContext,
    /// Not a check: from now on the epoch is refused.
    ForgetEpoch,
}

impl Check {
    /// Every check.
    pub const ALL: [Self; 12] = [
        Self::Handles,
        Self::OneHostChain,
        Self::OneKey,
        Self::SameHandles,
        Self::Validity,
        Self::Context,
        Self::PublicAccess,
        Self::LegacyAccess,
        Self::UnifiedAccess,
        Self::NotDestroyed,
        Self::ForgetContext,
        Self::ForgetEpoch,
    ];

    /// What it says, for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Handles => "at least one handle, supported FHE types, at most 2048 bits",
            Self::OneHostChain => "one host chain",
            Self::OneKey => "one key",
            Self::SameHandles => "the handles are those of the ciphertexts",
            Self::Validity => "validity window; the user is none of the allowed contracts",
            Self::Context => "extra data well formed, context and epoch valid (from v0.12 on)",
            Self::PublicAccess => "ACL: every handle allowed for decryption",
            Self::LegacyAccess => {
                "calldata of the proven transaction: sent to Decryption, same handles, user, key and extra data; ACL: user and contract \
                 allowed for every pair, or delegated"
            }
            Self::UnifiedAccess => {
                "user's signature (key, else ERC-1271); not invalidated; ACL: every handle owned or delegated, and allowed to one of the \
                 allowed contracts"
            }
            Self::NotDestroyed => "what is to be made was not destroyed (nothing is made for the first context of all)",
            Self::ForgetContext => "no check: the context is remembered, and whatever names it is refused from now on",
            Self::ForgetEpoch => "no check: the epoch is remembered, and whatever names it is refused from now on",
        }
    }

    /// A short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handles => "handles",
            Self::OneHostChain => "one host chain",
            Self::OneKey => "one key",
            Self::SameHandles => "same handles",
            Self::Validity => "validity",
            Self::Context => "context",
            Self::PublicAccess => "public access",
            Self::LegacyAccess => "legacy access",
            Self::UnifiedAccess => "unified access",
            Self::NotDestroyed => "not destroyed",
            Self::ForgetContext => "forget context",
            Self::ForgetEpoch => "forget epoch",
        }
    }

    /// The codes that it ends with, each with the budget within which it is waited for; none is final at once.
    #[must_use]
    pub const fn codes(self) -> &'static [(&'static str, Option<Budget>)] {
        const ACCESS: Option<Budget> = Some(Budget::Access);
        const CONTEXT: Option<Budget> = Some(Budget::Context);
        match self {
            Self::Handles => {
                &[(codes::NO_HANDLES, None), (codes::FHE_TYPE_UNSUPPORTED, None), (codes::TOO_MANY_BITS, None)]
            }
            Self::OneHostChain => &[(codes::MIXED_HOST_CHAINS, None)],
            Self::OneKey => &[(codes::MIXED_KEYS, None)],
            Self::SameHandles => &[(codes::REQUEST_INVALID, None)],
            Self::Validity => &[
                (codes::VALIDITY_NOT_BEGUN, Some(Budget::NotYet)),
                (codes::VALIDITY_EXPIRED, None),
                (codes::USER_AMONG_CONTRACTS, None),
            ],
            Self::Context => &[
                (codes::EXTRA_DATA_MALFORMED, None),
                (codes::CONTEXT_UNKNOWN, CONTEXT),
                (codes::CONTEXT_PENDING, CONTEXT),
                (codes::CONTEXT_DESTROYED, None),
                (codes::EPOCH_NOT_ACTIVE, CONTEXT),
                (codes::EPOCH_DESTROYED, None),
            ],
            Self::PublicAccess => &[(codes::HOST_CHAIN_UNKNOWN, None), (codes::NOT_PUBLIC, ACCESS)],
            Self::LegacyAccess => &[
                (codes::CALLDATA_FOREIGN, None),
                (codes::CALLDATA_DIFFERS, None),
                (codes::HOST_CHAIN_UNKNOWN, None),
                (codes::NOT_OWNED, ACCESS),
                (codes::NOT_ALLOWED_FOR_CONTRACT, ACCESS),
                (codes::NOT_DELEGATED, ACCESS),
            ],
            Self::UnifiedAccess => &[
                (codes::HOST_CHAIN_UNKNOWN, None),
                (codes::USER_SIGNATURE_WRONG, None),
                (codes::CONTRACT_SIGNATURE_REFUSED, ACCESS),
                (codes::SIGNATURE_INVALIDATED, None),
                (codes::NOT_OWNED, ACCESS),
                (codes::NOT_DELEGATED, ACCESS),
                (codes::NOT_LISTED, ACCESS),
            ],
            Self::NotDestroyed => {
                &[(codes::CONTEXT_UNKNOWN, CONTEXT), (codes::CONTEXT_DESTROYED, None), (codes::EPOCH_DESTROYED, None)]
            }
            Self::ForgetContext | Self::ForgetEpoch => &[],
        }
    }
}

/// What the checks look at, whatever form it comes in.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Handles in request order; none where nothing is decrypted.
    pub handles: Vec<B256>,
    /// Ciphertexts that the event names; none from v0.15 on.
    pub materials: &'a [CiphertextMaterial],
    /// Extra data; empty where there is none.
    pub extra_data: &'a [u8],
}

impl<'a> Facts<'a> {
    /// Of a request.
    #[must_use]
    pub fn of(request: &'a Request) -> Self {
        let of_materials = |materials: &[CiphertextMaterial]| materials.iter().map(|one| one.handle).collect();
        match &request.body {
            RequestBody::PublicDecryption { materials, extra_data }
            | RequestBody::UserDecryption { materials, extra_data, .. } => {
                Self { handles: of_materials(materials), materials, extra_data }
            }
            RequestBody::PublicDecryptionHandles { handles, extra_data }
            | RequestBody::UserDecryptionHandles { handles, extra_data, .. } => {
                Self { handles: handles.clone(), materials: &[], extra_data }
            }
            RequestBody::UnifiedUserDecryption(unified) => Self {
                handles: unified.entries.iter().map(|entry| entry.handle).collect(),
                materials: &unified.materials,
                extra_data: &unified.extra_data,
            },
            RequestBody::PrepKeygen { extra_data, .. }
            | RequestBody::Keygen { extra_data, .. }
            | RequestBody::Crsgen { extra_data, .. } => Self { handles: Vec::new(), materials: &[], extra_data },
            RequestBody::AbortKeygen
            | RequestBody::AbortCrsgen
            | RequestBody::NewKmsContext(_)
            | RequestBody::NewKmsEpoch { .. }
            | RequestBody::KmsContextDestroyed
            | RequestBody::KmsEpochDestroyed
            | RequestBody::PrssInit
            | RequestBody::KeyReshareSameSet { .. } => Self { handles: Vec::new(), materials: &[], extra_data: &[] },
        }
    }
}
