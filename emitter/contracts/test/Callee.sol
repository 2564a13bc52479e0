// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// What a batch may call, friendly and not; for tests only.
contract Callee {
    event Called(address sender, uint256 gasLeft);
    event CalledBack(bool succeeded, bytes returned);

    error Refused(uint256 id, address sender);

    /// Nothing wrong with it.
    function call() external {
        emit Called(msg.sender, gasleft());
    }

    /// Reverts with an error of the usual kind.
    function refuse(uint256 id) external view {
        revert Refused(id, msg.sender);
    }

    /// Calls its caller back with this calldata.
    function callBack(bytes calldata data) external {
        (bool succeeded, bytes memory returned) = msg.sender.call(data);
        emit CalledBack(succeeded, returned);
    }

    /// Uses all gas that it gets.
    function burn() external pure {
        assembly ("memory-safe") {
            invalid()
        }
    }

    /// Returns, or reverts with, so many bytes.
    function bomb(uint256 size, bool fails) external pure {
        assembly ("memory-safe") {
            if fails { revert(0, size) }
            return(0, size)
        }
    }
}
