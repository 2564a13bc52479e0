//! The development contracts of a local chain, and the side that makes requests of them: the applications, their users, the
//! coprocessors and the protocol's owner. Nothing here plays the KMS.
//!
//! ```text
//!   artifacts ──▶ Contracts::deploy ──▶ addresses ──▶ Requester: materials, access rights, requests ──▶ chains
//!                        └────────────── Account (nonces in line) ── Node (JSON-RPC) ──────────────┘
//! ```
//!
//! The sources of the contracts are in `contracts/`; what is embedded here are the committed artefacts, so that no compiler is
//! needed. They have the ABI of generation (a) or (b) (`docs/protocol.md`, "Generations") for what a connector and its tests use.
//!
//! In (a) everything is on one chain, the Gateway; in (b) keys, CRSs, contexts and epochs are on a second one, the Ethereum host. Each
//! [`NewRequest`] knows to which [`Chain`] it goes and who sends it; a [`Requester`] has an account for each.
//!
//! Start reading at [`Contracts::deploy`], then [`Requester`].

mod account;
mod artifact;
mod attestation;
mod deployment;
mod error;
mod node;
mod request;
mod requester;

pub use account::{Account, Call};
pub use artifact::Artifact;
pub use attestation::{CiphertextFormat, attestation, attested_object};
pub use deployment::{
    Chain, ContextDefinition, Contracts, Coprocessor, DeploymentConfig, Ethereum, HostChain, KmsNode, Thresholds,
    first_context, fund,
};
pub use error::ContractsError;
pub use node::Node;
pub use request::{By, Material, NewRequest, RequestCall, UnifiedRequest, UserRequest, handle};
pub use requester::{Made, Pace, Requester, RequesterKeys, Sent};

/// Functions that only the development contracts have, or that only their owner calls.
#[allow(missing_docs, unreachable_pub, clippy::too_many_arguments)]
pub mod owner {
    alloy::sol! {
        #![sol(all_derives)]

        error CoprocessorAlreadyAdded(bytes32 ctHandle, address txSender);
        error CoprocessorAlreadyAllowedAccount(bytes32 ctHandle, address account, address txSender);
        error CoprocessorAlreadyAllowedPublicDecrypt(bytes32 ctHandle, address txSender);

        struct Thresholds {
            uint256 mpcThreshold;
            uint256 publicDecryptionThreshold;
            uint256 userDecryptionThreshold;
            uint256 kmsGenThreshold;
            uint256 coprocessorThreshold;
        }

        struct KmsNode {
            address txSenderAddress;
            address signerAddress;
            string ipAddress;
            string storageUrl;
        }

        struct Coprocessor {
            address txSenderAddress;
            address signerAddress;
            string s3BucketUrl;
        }

        struct HostChain {
            uint256 chainId;
            address fhevmExecutorAddress;
            address aclAddress;
            string name;
            string website;
        }

        interface GatewayConfig {
            function initialize(Thresholds thresholds, KmsNode[] kmsNodes, Coprocessor[] coprocessors, HostChain[] hostChains) external;
            function updateKmsNodes(KmsNode[] newKmsNodes, uint256 newMpcThreshold, uint256 newPublicDecryptionThreshold, uint256 newUserDecryptionThreshold, uint256 newKmsGenThreshold) external;
            function updateCoprocessors(Coprocessor[] newCoprocessors, uint256 newCoprocessorThreshold) external;
            function updatePublicDecryptionThreshold(uint256 newPublicDecryptionThreshold) external;
            function updateUserDecryptionThreshold(uint256 newUserDecryptionThreshold) external;
            function updateKmsGenThreshold(uint256 newKmsGenThreshold) external;
            function addHostChain(HostChain hostChain) external;
        }

        struct KmsNodeParams {
            address txSenderAddress;
            address signerAddress;
            string ipAddress;
            string storageUrl;
            int32 partyId;
            string mpcIdentity;
            bytes caCert;
            string storagePrefix;
        }

        struct KmsThresholds {
            uint256 publicDecryption;
            uint256 userDecryption;
            uint256 kmsGen;
            uint256 mpc;
        }

        struct PcrValues {
            bytes pcr0;
            bytes pcr1;
            bytes pcr2;
        }

        /// `GatewayConfig` of generation (b).
        interface GatewayConfigOfContexts {
            function initialize(uint256 kmsContextId, Thresholds thresholds, KmsNode[] kmsNodes, Coprocessor[] coprocessors, HostChain[] hostChains) external;
            function updateKmsContext(uint256 newContextId, KmsNode[] newKmsNodes, uint256 newMpcThreshold, uint256 newPublicDecryptionThreshold, uint256 newUserDecryptionThreshold, uint256 newKmsGenThreshold) external;
            function destroyKmsContext(uint256 kmsContextId) external;
            function updatePublicDecryptionThresholdForContext(uint256 contextId, uint256 newPublicDecryptionThreshold) external;
            function updateUserDecryptionThresholdForContext(uint256 contextId, uint256 newUserDecryptionThreshold) external;
            function updateCoprocessors(Coprocessor[] newCoprocessors, uint256 newCoprocessorThreshold) external;
            function updateCoprocessorThreshold(uint256 newCoprocessorThreshold) external;
            function disableHostChain(uint256 chainId) external;
            function enableHostChain(uint256 chainId) external;
        }

        /// On the Ethereum host. Its owner is that of the chain's `ACL`.
        interface ProtocolConfig {
            function initializeFromEmptyProxy(KmsNodeParams[] initialKmsNodeParams, KmsThresholds initialThresholds, string softwareVersion, PcrValues[] pcrValues) external;
            function defineNewKmsContextAndEpoch(KmsNodeParams[] kmsNodeParams, KmsThresholds thresholds, string softwareVersion, PcrValues[] pcrValues) external;
            function defineNewEpochForCurrentKmsContext() external;
            function destroyKmsContext(uint256 kmsContextId) external;
            function destroyKmsEpoch(uint256 epochId) external;
            function updateKmsGenThresholdForContext(uint256 kmsContextId, uint256 threshold) external;
        }

        interface Decryption {
            function pause() external;
            function unpause() external;
        }

        interface Multicall {
            function multicall(bytes[] data) external returns (bytes[] results);
        }

        /// The rights of everybody, in the hands of one.
        interface HostAcl {
            function disallow(bytes32 handle, address account) external;
            function disallowForDecryption(bytes32 handle) external;
            function setDelegation(address delegator, address delegate, address contractAddress, uint64 expirationDate) external;
        }

        /// What users do for themselves on a host chain.
        interface UserAcl {
            function invalidateDecryptionSignaturesBefore(uint256 timestamp) external;
            function delegateForUserDecryption(address delegate, address contractAddress, uint64 expirationDate) external;
            function revokeDelegationForUserDecryption(address delegate, address contractAddress) external;
        }

        /// A user's account with code. `manner`: 0 honest, 1 wrong magic value, 2 reverts, 3 short answer, 4 endless.
        interface Wallet {
            function setManner(uint8 newManner) external;
            function approve(bytes32 digest) external;
            function execute(address to, bytes data) external returns (bytes);
            function isValidSignature(bytes32 digest, bytes signature) external view returns (bytes4);
        }

        interface Proxied {
            function initializeFromEmptyProxy() external;
        }
    }
}
