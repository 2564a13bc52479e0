// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// The bytes that go with a request and with what is signed for it. The first is a version: 0, or no byte at all, names
/// nothing; 1 is followed by a context; 2 by a context and an epoch.
library ExtraData {
    uint256 private constant MINIMUM_LENGTH = 33;

    error InvalidExtraDataLength(uint256 length, uint256 minimumLength);
    error InvalidNullContextId();
    error UnsupportedExtraDataVersion(uint8 version);

    /// The context named; zero where none is. The Gateway reads no epoch and tolerates bytes behind what it reads.
    function contextOf(bytes calldata extraData) internal pure returns (uint256 contextId) {
        if (extraData.length == 0) return 0;
        uint8 version = uint8(extraData[0]);
        if (version == 0) return 0;
        if (version > 2) revert UnsupportedExtraDataVersion(version);
        if (extraData.length < MINIMUM_LENGTH) revert InvalidExtraDataLength(extraData.length, MINIMUM_LENGTH);
        contextId = uint256(bytes32(extraData[1:33]));
        if (contextId == 0) revert InvalidNullContextId();
    }

    function naming(uint256 contextId, uint256 epochId) internal pure returns (bytes memory) {
        return abi.encodePacked(uint8(2), contextId, epochId);
    }
}
