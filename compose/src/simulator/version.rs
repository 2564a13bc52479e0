//! What distinguishes the versions of KMS Core that the protocol's releases were built against.

use serde::{Deserialize, Serialize};
use tonic::Code;

/// A version whose behaviour a simulator can take on (`docs/protocol.md`, "Versions of KMS Core").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, clap::ValueEnum)]
pub enum CoreVersion {
    /// 0.12.4 to 0.12.8, the version of generation (a).
    #[serde(rename = "k12")]
    #[value(name = "k12")]
    K12,
    /// 0.13.22.
    #[serde(rename = "k13.22")]
    #[value(name = "k13.22")]
    K13_22,
    /// 0.15.
    #[serde(rename = "head")]
    #[value(name = "head")]
    Head,
}

impl CoreVersion {
    /// Whether the simulator knows how this version behaves. The others are refused at start.
    #[must_use]
    pub fn is_simulated(self) -> bool {
        self == Self::K12
    }

    /// Whether the version has an RPC; others answer UNIMPLEMENTED.
    pub(super) fn serves(self, rpc: &str) -> bool {
        let known = RPCS.iter().find(|(name, _, _)| *name == rpc);
        known.is_some_and(|&(_, first, last)| first <= self && self <= last)
    }

    /// The code of a start that finds its store full.
    pub(super) fn full_store(self) -> Code {
        if self < Self::Head { Code::Aborted } else { Code::ResourceExhausted }
    }

    /// The code of a start that names a context the node does not know.
    pub(super) fn unknown_context(self) -> Code {
        if self == Self::K12 { Code::Internal } else { Code::NotFound }
    }
}

use CoreVersion::{Head, K12, K13_22};

/// Every RPC of the main service with the first and last version that has it.
pub(super) const RPCS: &[(&str, CoreVersion, CoreVersion)] = &[
    ("Init", K12, K12),
    ("KeyGenPreproc", K12, Head),
    ("GetKeyGenPreprocResult", K12, Head),
    ("KeyGen", K12, Head),
    ("GetKeyGenResult", K12, Head),
    ("AbortKeyGen", K13_22, Head),
    ("PublicDecrypt", K12, Head),
    ("GetPublicDecryptionResult", K12, Head),
    ("PublicDecryptSync", Head, Head),
    ("UserDecrypt", K12, Head),
    ("GetUserDecryptionResult", K12, Head),
    ("UserDecryptSync", Head, Head),
    ("CrsGen", K12, Head),
    ("GetCrsGenResult", K12, Head),
    ("AbortCrsGen", K13_22, Head),
    ("NewKmsContext", K12, K12),
    ("DestroyKmsContext", K12, K12),
    ("InitiateResharing", K12, K12),
    ("GetResharingResult", K12, K12),
    ("NewMpcContext", K13_22, Head),
    ("DestroyMpcContext", K13_22, Head),
    ("NewMpcEpoch", K13_22, Head),
    ("GetEpochResult", K13_22, Head),
    ("DestroyMpcEpoch", K13_22, Head),
    ("NewCustodianContext", K12, Head),
    ("DestroyCustodianContext", K12, Head),
    ("GetOperatorPublicKey", K12, Head),
    ("RestoreFromBackup", K12, Head),
    ("CustodianRecoveryInit", K12, Head),
    ("CustodianBackupRecovery", K12, Head),
    ("GetKeyMaterialAvailability", K12, Head),
    ("GetHealthStatus", K12, Head),
    ("BandwidthBenchmark", Head, Head),
    ("GetRequestStatuses", K12, Head),
    ("ListRequests", K12, Head),
    ("GetMetaStoreInfo", K12, Head),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_0_12_has_23_rpcs_and_0_15_has_28() {
        let introspection = 3;
        let count = |version: CoreVersion| RPCS.iter().filter(|(name, _, _)| version.serves(name)).count();
        assert_eq!(count(K12), 23 + introspection);
        assert_eq!(count(Head), 28 + introspection);
    }

    #[test]
    fn the_table_names_exactly_the_rpcs_of_the_service() {
        let table: std::collections::BTreeSet<_> = RPCS.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(table.len(), RPCS.len());
    }
}
