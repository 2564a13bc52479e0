//! What distinguishes the versions of KMS Core that the protocol's releases were built against.
//!
//! Everything that depends on the version is asked here, in words of what differs, so that the engine never compares
//! versions itself.

use kms_proto::id;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::config::Mode;
use super::operation::Operation;
use super::refusal::OperationId;

/// A version whose behaviour a simulator can take on (`docs/protocol.md`, "Versions of KMS Core").
///
/// What is known of 0.13.0 and of 0.14 is less than of the others: where nothing is known, 0.13.0 behaves as 0.12 and 0.14
/// as 0.15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, clap::ValueEnum)]
pub enum CoreVersion {
    /// 0.12.4 to 0.12.8.
    #[default]
    #[serde(rename = "v0.12")]
    #[value(name = "v0.12")]
    V0_12,
    /// 0.13.0 to 0.13.3.
    #[serde(rename = "v0.13.0")]
    #[value(name = "v0.13.0")]
    V0_13_0,
    /// 0.13.10 and 0.13.11.
    #[serde(rename = "v0.13.10")]
    #[value(name = "v0.13.10")]
    V0_13_10,
    /// 0.13.20 to 0.13.22.
    #[serde(rename = "v0.13.20")]
    #[value(name = "v0.13.20")]
    V0_13_20,
    /// 0.14.0.
    #[serde(rename = "v0.14")]
    #[value(name = "v0.14")]
    V0_14,
    /// 0.15, the newest that is known.
    #[serde(rename = "v0.15")]
    #[value(name = "v0.15")]
    V0_15,
}

use CoreVersion::{V0_12, V0_13_0, V0_13_10, V0_13_20, V0_14, V0_15};

/// The parts of a key set, in the order of responses and signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLayout {
    /// Server key and public key.
    Uncompressed,
    /// Public key and compressed key set.
    Compressed,
    /// The compressed key set alone, as 0.13.10 and 0.13.11 make it.
    CompressedOnly,
}

impl KeyLayout {
    /// Every layout.
    pub const ALL: [Self; 3] = [Self::Uncompressed, Self::Compressed, Self::CompressedOnly];

    /// Names of the parts and their numbers in signatures.
    #[must_use]
    pub fn parts(self) -> &'static [(&'static str, u8)] {
        const SERVER: (&str, u8) = ("ServerKey", 0);
        const PUBLIC: (&str, u8) = ("PublicKey", 1);
        const COMPRESSED: (&str, u8) = ("CompressedXofKeySet", 3);
        match self {
            Self::Uncompressed => &[SERVER, PUBLIC],
            Self::Compressed => &[PUBLIC, COMPRESSED],
            Self::CompressedOnly => &[COMPRESSED],
        }
    }
}

impl CoreVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 6] = [V0_12, V0_13_0, V0_13_10, V0_13_20, V0_14, V0_15];

    /// Whether the version has an RPC; others answer UNIMPLEMENTED.
    pub(super) fn serves(self, name: &str) -> bool {
        rpc(name).is_some_and(|rpc| rpc.first <= self && self <= rpc.last)
    }

    /// The code of a start that finds its store full.
    pub(super) fn full_store(self) -> Code {
        if self < V0_14 { Code::Aborted } else { Code::ResourceExhausted }
    }

    /// The code of a start that names a context the node does not know.
    pub(super) fn unknown_context(self) -> Code {
        if self == V0_12 { Code::Internal } else { Code::NotFound }
    }

    /// Whether error texts name no more than the id and the operation.
    pub(super) fn has_opaque_texts(self) -> bool {
        self > V0_12
    }

    /// Whether keys belong to epochs.
    pub(super) fn has_epochs(self) -> bool {
        self > V0_12
    }

    /// Whether decryptions sign and return the request's extra data; earlier ones do so with empty data.
    pub(super) fn echoes_extra_data(self) -> bool {
        self >= V0_13_10
    }

    /// Whether what is signed of preprocessings, keys and CRSs has extra data.
    pub(super) fn signs_extra_data(self) -> bool {
        self >= V0_13_20
    }

    /// Whether the request of a CRS names an epoch.
    pub(super) fn crs_names_epoch(self) -> bool {
        self >= V0_13_10
    }

    /// Whether a result that failed with a text about an abort is ABORTED.
    pub(super) fn reports_aborts(self) -> bool {
        self >= V0_13_20
    }

    /// Whether users' keys of the old form, a bare ML-KEM-1024 key, are taken.
    pub(super) fn takes_legacy_user_keys(self) -> bool {
        self < V0_13_20
    }

    /// Whether a decryption that failed can be started again under its id.
    pub(super) fn redoes_failed_decryptions(self) -> bool {
        self >= V0_14
    }

    /// Whether ids of preprocessings, keys and CRSs that were removed stay known as deleted.
    pub(super) fn remembers_deleted(self) -> bool {
        self >= V0_14
    }

    /// Whether a start is refused while its context or epoch is being created or destroyed.
    pub(super) fn guards_lifecycle(self) -> bool {
        self >= V0_15
    }

    /// Whether requests name signature schemes.
    pub(super) fn has_signing_schemes(self) -> bool {
        self >= V0_15
    }

    /// Whether the nodes of a context name their signer address rather than a serialized key.
    pub(super) fn contexts_name_signers(self) -> bool {
        self >= V0_14
    }

    /// Whether the destruction of a context names the epochs that went with it.
    pub(super) fn lists_destroyed_epochs(self) -> bool {
        self >= V0_15
    }

    /// Whether a key generation waits for its preprocessing.
    pub(super) fn waits_for_preprocessing(self) -> bool {
        self == V0_12
    }

    /// Whether a preprocessing in use, or a key that is in storage, is told as existing.
    pub(super) fn tells_keys_in_use(self) -> bool {
        self >= V0_15
    }

    /// When a decryption's key is looked up: before the id is taken in, or after it, which leaves the id pending for ever
    /// where the key is not there.
    pub(super) fn looks_keys_up_first(self, mode: Mode) -> bool {
        match self {
            V0_12 => mode == Mode::Threshold,
            V0_13_0 | V0_13_10 | V0_13_20 => mode == Mode::Centralized,
            V0_14 | V0_15 => true,
        }
    }

    /// Whether an id is taken in before it is noticed that there is no signing key.
    pub(super) fn strands_without_signing_key(self) -> bool {
        matches!(self, V0_13_0 | V0_13_10 | V0_13_20)
    }

    /// The context of a request that names none.
    pub(super) fn default_context(self) -> OperationId {
        let old = self < V0_13_10;
        OperationId(if old { id::DEFAULT_CONTEXT_UNTIL_V0_13_3 } else { id::DEFAULT_CONTEXT }.into())
    }

    /// The epoch of a request that names none. Version 0.12 has no epochs; its keys are kept under that of 0.13.0.
    pub(super) fn default_epoch(self) -> OperationId {
        let old = self < V0_13_10;
        OperationId(if old { id::DEFAULT_EPOCH_UNTIL_V0_13_3 } else { id::DEFAULT_EPOCH }.into())
    }

    /// How long a Get holds the call, in milliseconds.
    pub(super) fn wait_ms(self, mode: Mode, operation: Operation) -> u64 {
        const MINUTE: u64 = 60_000;
        match operation {
            Operation::PublicDecryption | Operation::UserDecryption => MINUTE,
            Operation::Preprocessing if self < V0_14 => MINUTE,
            Operation::Preprocessing if mode == Mode::Threshold => 5 * MINUTE,
            Operation::KeyGeneration if self < V0_13_10 => MINUTE,
            Operation::KeyGeneration if self < V0_14 => 5 * MINUTE,
            Operation::CrsGeneration | Operation::Resharing | Operation::EpochCreation if self < V0_14 => MINUTE,
            _ => 0,
        }
    }

    /// After this the transport ends a call, in milliseconds.
    pub(super) fn request_timeout_ms(self) -> u64 {
        if self < V0_13_10 { 420_000 } else { 660_000 }
    }

    /// Which key set an unset configuration stands for, and what the two numbers of `CompressedKeyConfig` do; `None` for
    /// numbers that the version does not have. Up to 0.13.3 there is no such field.
    pub(super) fn layout(self, compressed: Option<i32>) -> Option<KeyLayout> {
        match (self, compressed) {
            (V0_12 | V0_13_0, _) | (V0_13_10, None | Some(0)) => Some(KeyLayout::Uncompressed),
            (V0_13_10, Some(1)) => Some(KeyLayout::CompressedOnly),
            (V0_13_20 | V0_14 | V0_15, None | Some(0)) => Some(KeyLayout::Compressed),
            (V0_13_20 | V0_14 | V0_15, Some(1)) => Some(KeyLayout::Uncompressed),
            _ => None,
        }
    }

    /// Whether field 2 of a standard key set's configuration says where its secret keys come from; before, it is another enum.
    pub(super) fn has_secret_key_config(self) -> bool {
        self >= V0_13_10
    }
}

/// An RPC, the versions that have it, and the tag that names it in error texts from 0.13.0 on.
#[derive(Debug)]
pub(super) struct Rpc {
    pub(super) name: &'static str,
    first: CoreVersion,
    last: CoreVersion,
    pub(super) tag: &'static str,
}

const fn since(name: &'static str, first: CoreVersion, tag: &'static str) -> Rpc {
    Rpc { name, first, last: V0_15, tag }
}

const fn until(name: &'static str, last: CoreVersion, tag: &'static str) -> Rpc {
    Rpc { name, first: V0_12, last, tag }
}

/// The entry of an RPC.
pub(super) fn rpc(name: &str) -> Option<&'static Rpc> {
    RPCS.iter().find(|rpc| rpc.name == name)
}

/// Every RPC of the two services.
pub(super) const RPCS: &[Rpc] = &[
    until("Init", V0_13_0, "init"),
    since("KeyGenPreproc", V0_12, "keygen_preproc_request"),
    since("GetKeyGenPreprocResult", V0_12, "keygen_preproc_result"),
    since("KeyGen", V0_12, "keygen_request"),
    since("GetKeyGenResult", V0_12, "keygen_result"),
    since("AbortKeyGen", V0_13_20, "keygen_abort"),
    since("PublicDecrypt", V0_12, "public_decrypt_request"),
    since("GetPublicDecryptionResult", V0_12, "public_decrypt_result"),
    since("PublicDecryptSync", V0_15, "public_decrypt_request"),
    since("UserDecrypt", V0_12, "user_decrypt_request"),
    since("GetUserDecryptionResult", V0_12, "user_decrypt_result"),
    since("UserDecryptSync", V0_15, "user_decrypt_request"),
    since("CrsGen", V0_12, "crs_gen_request"),
    since("GetCrsGenResult", V0_12, "crs_gen_result"),
    since("AbortCrsGen", V0_13_20, "crs_gen_abort"),
    until("NewKmsContext", V0_12, "new_kms_context"),
    until("DestroyKmsContext", V0_12, "destroy_kms_context"),
    until("InitiateResharing", V0_13_0, "initiate_resharing"),
    until("GetResharingResult", V0_13_0, "get_resharing_result"),
    since("NewMpcContext", V0_13_0, "new_mpc_context"),
    since("DestroyMpcContext", V0_13_0, "destroy_mpc_context"),
    since("NewMpcEpoch", V0_13_10, "new_mpc_epoch"),
    since("GetEpochResult", V0_13_10, "get_mpc_epoch_result"),
    since("DestroyMpcEpoch", V0_13_10, "destroy_mpc_epoch"),
    since("NewCustodianContext", V0_12, "new_custodian_context"),
    since("DestroyCustodianContext", V0_12, "destroy_custodian_context"),
    since("GetOperatorPublicKey", V0_12, "get_operator_public_key"),
    since("RestoreFromBackup", V0_12, "restore_from_backup"),
    since("CustodianRecoveryInit", V0_12, "custodian_recovery_init"),
    since("CustodianBackupRecovery", V0_12, "custodian_backup_recovery"),
    since("GetKeyMaterialAvailability", V0_12, "key_material_availability"),
    since("GetHealthStatus", V0_12, "health_status"),
    since("BandwidthBenchmark", V0_14, "bandwidth_benchmark"),
    since("GetRequestStatuses", V0_12, "request_statuses"),
    since("ListRequests", V0_12, "list_requests"),
    since("GetMetaStoreInfo", V0_12, "meta_store_info"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_0_12_has_23_rpcs_and_0_15_has_28() {
        let introspection = 3;
        let count = |version: CoreVersion| RPCS.iter().filter(|rpc| version.serves(rpc.name)).count();
        assert_eq!(count(V0_12), 23 + introspection);
        assert_eq!(count(V0_15), 28 + introspection);
    }

    #[test]
    fn an_rpc_is_in_the_table_once() {
        let table: std::collections::BTreeSet<_> = RPCS.iter().map(|rpc| rpc.name).collect();
        assert_eq!(table.len(), RPCS.len());
    }

    #[test]
    fn the_name_on_the_command_line_is_the_one_in_the_configuration() {
        for version in CoreVersion::ALL {
            let value = clap::ValueEnum::to_possible_value(&version).unwrap();
            assert_eq!(serde_json::to_value(version).unwrap(), value.get_name());
        }
    }
}
