// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

// Keys and common reference strings as the Ethereum host's contracts speak of them, and what is signed for them.

enum ParamsType {
    Default,
    Test
}

enum KeyType {
    Server,
    Public,
    Reserved,
    CompressedKeySet
}

struct KeyDigest {
    KeyType keyType;
    bytes digest;
}

/// EIP-712 hashes of answers. Both contracts ask for the same messages, each under its own domain.
library KeyMessages {
    bytes32 private constant PREP_KEYGEN_TYPE_HASH =
        keccak256("PrepKeygenVerification(uint256 prepKeygenId,bytes extraData)");
    bytes32 private constant KEYGEN_TYPE_HASH = keccak256(
        "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests,bytes extraData)KeyDigest(uint8 keyType,bytes digest)"
    );
    bytes32 private constant KEY_DIGEST_TYPE_HASH = keccak256("KeyDigest(uint8 keyType,bytes digest)");
    bytes32 private constant CRSGEN_TYPE_HASH =
        keccak256("CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest,bytes extraData)");

    function prepKeygen(uint256 prepKeygenId, bytes memory extraData) internal pure returns (bytes32) {
        return keccak256(abi.encode(PREP_KEYGEN_TYPE_HASH, prepKeygenId, keccak256(extraData)));
    }

    function keygen(uint256 prepKeygenId, uint256 keyId, bytes32 keyDigestsHash, bytes memory extraData)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(KEYGEN_TYPE_HASH, prepKeygenId, keyId, keyDigestsHash, keccak256(extraData)));
    }

    function crsgen(uint256 crsId, uint256 maxBitLength, bytes calldata crsDigest, bytes memory extraData)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encode(CRSGEN_TYPE_HASH, crsId, maxBitLength, keccak256(crsDigest), keccak256(extraData))
        );
    }

    /// EIP-712 hash of the array, in the order given: the order is part of what is signed.
    function hashOf(KeyDigest[] calldata keyDigests) internal pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](keyDigests.length);
        for (uint256 i = 0; i < keyDigests.length; i++) {
            hashes[i] =
                keccak256(abi.encode(KEY_DIGEST_TYPE_HASH, keyDigests[i].keyType, keccak256(keyDigests[i].digest)));
        }
        return keccak256(abi.encodePacked(hashes));
    }
}
