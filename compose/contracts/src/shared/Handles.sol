// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// What a ciphertext handle says about its ciphertext: bytes 22 to 29 are the host chain's id, byte 30 is the FHE type.
library Handles {
    uint8 private constant HIGHEST_TYPE = 83;

    error InvalidFHEType(uint8 fheTypeUint8);
    error UnsupportedFHEType(uint8 fheType);

    function chainIdOf(bytes32 handle) internal pure returns (uint256) {
        return uint64(uint256(handle) >> 16);
    }

    /// The size of the clear value, in bits, as decryption requests count it.
    function clearBitsOf(bytes32 handle) internal pure returns (uint256) {
        uint8 fheType = uint8(uint256(handle) >> 8);
        if (fheType > HIGHEST_TYPE) revert InvalidFHEType(fheType);
        if (fheType == 0) return 2; // Bool
        if (fheType == 2) return 8;
        if (fheType == 3) return 16;
        if (fheType == 4) return 32;
        if (fheType == 5) return 64;
        if (fheType == 6) return 128;
        if (fheType == 7) return 160; // an address
        if (fheType == 8) return 256;
        revert UnsupportedFHEType(fheType);
    }
}
