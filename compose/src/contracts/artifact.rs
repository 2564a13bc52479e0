//! The compiled contracts, as committed in `contracts/artifacts/`.

use alloy::hex::FromHex;
use alloy::primitives::Bytes;
use serde::Deserialize;

/// A compiled development contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// The proxy that each of the others but [`Artifact::Wallet`] stands behind.
    Proxy,
    /// A user's account with code, which checks signatures by ERC-1271.
    Wallet,
    /// (a) The access control list of a host chain.
    AclA,
    /// (a) The register of ciphertexts.
    CiphertextCommitsA,
    /// (a) Decryption requests and answers.
    DecryptionA,
    /// (a) The register of participants.
    GatewayConfigA,
    /// (a) Key and CRS generation, on the Gateway.
    KmsGenerationA,
    /// (a) The Gateway's copy of access rights.
    MultichainAclA,
    /// (b) The access control list of a host chain.
    AclB,
    /// (b) The register of ciphertexts.
    CiphertextCommitsB,
    /// (b) Decryption requests and answers.
    DecryptionB,
    /// Decryption requests and answers of release v0.14: the events that carry materials, and no others.
    DecryptionV14,
    /// (b) The Gateway's register of participants, with its copy of the contexts.
    GatewayConfigB,
    /// (b) Key and CRS generation, on the Ethereum host chain.
    KmsGenerationB,
    /// (b) Contexts and epochs of the KMS, on the Ethereum host chain.
    ProtocolConfigB,
}

#[derive(Deserialize)]
struct File<'a> {
    bytecode: &'a str,
}

impl Artifact {
    /// Every artefact.
    pub const ALL: [Self; 15] = [
        Self::Proxy,
        Self::Wallet,
        Self::AclA,
        Self::CiphertextCommitsA,
        Self::DecryptionA,
        Self::GatewayConfigA,
        Self::KmsGenerationA,
        Self::MultichainAclA,
        Self::AclB,
        Self::CiphertextCommitsB,
        Self::DecryptionB,
        Self::DecryptionV14,
        Self::GatewayConfigB,
        Self::KmsGenerationB,
        Self::ProtocolConfigB,
    ];

    /// The committed file: a JSON object with `abi` and `bytecode`.
    #[must_use]
    pub const fn json(self) -> &'static str {
        match self {
            Self::Proxy => include_str!("../../contracts/artifacts/shared/Proxy.json"),
            Self::Wallet => include_str!("../../contracts/artifacts/shared/Wallet.json"),
            Self::AclA => include_str!("../../contracts/artifacts/a/ACL.json"),
            Self::CiphertextCommitsA => include_str!("../../contracts/artifacts/a/CiphertextCommits.json"),
            Self::DecryptionA => include_str!("../../contracts/artifacts/a/Decryption.json"),
            Self::GatewayConfigA => include_str!("../../contracts/artifacts/a/GatewayConfig.json"),
            Self::KmsGenerationA => include_str!("../../contracts/artifacts/a/KMSGeneration.json"),
            Self::MultichainAclA => include_str!("../../contracts/artifacts/a/MultichainACL.json"),
            Self::AclB => include_str!("../../contracts/artifacts/b/ACL.json"),
            Self::CiphertextCommitsB => include_str!("../../contracts/artifacts/b/CiphertextCommits.json"),
            Self::DecryptionB => include_str!("../../contracts/artifacts/b/Decryption.json"),
            Self::DecryptionV14 => include_str!("../../contracts/artifacts/b/DecryptionV14.json"),
            Self::GatewayConfigB => include_str!("../../contracts/artifacts/b/GatewayConfig.json"),
            Self::KmsGenerationB => include_str!("../../contracts/artifacts/b/KMSGeneration.json"),
            Self::ProtocolConfigB => include_str!("../../contracts/artifacts/b/ProtocolConfig.json"),
        }
    }

    /// What a creating transaction carries: the code, then the constructor's encoded arguments.
    #[must_use]
    pub fn creation_code(self, arguments: &[u8]) -> Bytes {
        let mut code = self.bytecode();
        code.extend_from_slice(arguments);
        code.into()
    }

    #[allow(clippy::expect_used)] // the text is a constant of the build, and a test reads them all
    fn bytecode(self) -> Vec<u8> {
        let file: File<'_> = serde_json::from_str(self.json()).expect("an embedded artefact is JSON");
        Vec::from_hex(file.bytecode).expect("embedded bytecode is hexadecimal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_artefact_has_code_that_fits_the_limit_of_a_creation() {
        for artifact in Artifact::ALL {
            let code = artifact.creation_code(&[1, 2, 3]);
            assert!(code.len() > 100 && code.ends_with(&[1, 2, 3]), "{artifact:?}");
            assert!(code.len() < 49_152, "{artifact:?} is beyond EIP-3860");
        }
    }
}
