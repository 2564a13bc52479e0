//! The compiled contracts, as committed in `contracts/artifacts/`.

use alloy::hex::FromHex;
use alloy::primitives::Bytes;
use serde::Deserialize;

/// A compiled development contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// The access control list of a host chain.
    Acl,
    /// The register of ciphertexts.
    CiphertextCommits,
    /// Decryption requests and answers.
    Decryption,
    /// The register of participants.
    GatewayConfig,
    /// Key and CRS generation.
    KmsGeneration,
    /// The Gateway's copy of access rights.
    MultichainAcl,
    /// The proxy that each of the others stands behind.
    Proxy,
}

#[derive(Deserialize)]
struct File<'a> {
    bytecode: &'a str,
}

impl Artifact {
    /// Every artefact.
    pub const ALL: [Self; 7] = [
        Self::Acl,
        Self::CiphertextCommits,
        Self::Decryption,
        Self::GatewayConfig,
        Self::KmsGeneration,
        Self::MultichainAcl,
        Self::Proxy,
    ];

    /// The committed file: a JSON object with `abi` and `bytecode`.
    #[must_use]
    pub const fn json(self) -> &'static str {
        match self {
            Self::Acl => include_str!("../../contracts/artifacts/ACL.json"),
            Self::CiphertextCommits => include_str!("../../contracts/artifacts/CiphertextCommits.json"),
            Self::Decryption => include_str!("../../contracts/artifacts/Decryption.json"),
            Self::GatewayConfig => include_str!("../../contracts/artifacts/GatewayConfig.json"),
            Self::KmsGeneration => include_str!("../../contracts/artifacts/KMSGeneration.json"),
            Self::MultichainAcl => include_str!("../../contracts/artifacts/MultichainACL.json"),
            Self::Proxy => include_str!("../../contracts/artifacts/Proxy.json"),
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
