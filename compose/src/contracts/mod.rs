//! The development contracts of a local chain, and the side that makes requests of them: the applications, their users, the
//! coprocessors and the protocol's owner. Nothing here plays the KMS.
//!
//! ```text
//!   artifacts ──▶ Contracts::deploy ──▶ addresses ──▶ Requester: materials, access rights, requests ──▶ chain
//!                        └────────────── Account (nonces in line) ── Node (JSON-RPC) ──────────────┘
//! ```
//!
//! The sources of the contracts are in `contracts/`; what is embedded here are the committed artefacts, so that no compiler is
//! needed. They have the ABI of generation (a) (`docs/protocol.md`, "Generations") for what a connector and its tests use.
//!
//! Start reading at [`Contracts::deploy`], then [`Requester`].

mod account;
mod artifact;
mod deployment;
mod error;
mod node;
mod request;
mod requester;

pub use account::{Account, Call};
pub use artifact::Artifact;
pub use deployment::{Contracts, Coprocessor, DeploymentConfig, HostChain, KmsNode, Thresholds, fund};
pub use error::ContractsError;
pub use node::Node;
pub use request::{Material, NewRequest, UserRequest, handle};
pub use requester::{Made, Pace, Requester, RequesterKeys, Sent};

/// Functions that only the development contracts have, or that only their owner calls.
#[allow(missing_docs, unreachable_pub, clippy::too_many_arguments)]
pub mod owner {
    alloy::sol! {
        #![sol(all_derives)]

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

        interface Proxied {
            function initializeFromEmptyProxy() external;
        }
    }
}
