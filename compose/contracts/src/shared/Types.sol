// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

// Structures that more than one contract speaks of. The order of their fields is the order of the ABI.

/// A node of the KMS: the account that sends its answers, the key that signs them, and where it publishes key material.
struct KmsNode {
    address txSenderAddress;
    address signerAddress;
    string ipAddress;
    string storageUrl;
}

/// A coprocessor: the account that commits ciphertexts, its signing key, and the bucket its ciphertexts lie in.
struct Coprocessor {
    address txSenderAddress;
    address signerAddress;
    string s3BucketUrl;
}

/// A chain whose applications use the Gateway.
struct HostChain {
    uint256 chainId;
    address fhevmExecutorAddress;
    address aclAddress;
    string name;
    string website;
}

/// A committed ciphertext as `CiphertextCommits` lists it.
struct CiphertextMaterial {
    bytes32 ctHandle;
    uint256 keyId;
    bytes32 ciphertextDigest;
    address[] coprocessorTxSenderAddresses;
}

/// The form of a ciphertext that the KMS decrypts, as decryption requests carry it.
struct SnsCiphertextMaterial {
    bytes32 ctHandle;
    uint256 keyId;
    bytes32 snsCiphertextDigest;
    address[] coprocessorTxSenderAddresses;
}

/// A handle of a user decryption and the application contract that the user is shown it by.
struct CtHandleContractPair {
    bytes32 ctHandle;
    address contractAddress;
}
