// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// A proxy with the ERC-1967 storage slot, as every contract of the protocol stands behind one. A development chain never
/// upgrades, so there is no way to; what the proxy is here for is that calls cost and behave as on a real Gateway.
contract Proxy {
    /// ERC-1967: keccak256("eip1967.proxy.implementation") - 1.
    bytes32 private constant IMPLEMENTATION_SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;

    event Upgraded(address indexed implementation);

    /// Runs `initialization` in the proxy's own storage; a revert there undoes the creation and passes its data on.
    constructor(address implementation, bytes memory initialization) {
        assembly {
            sstore(IMPLEMENTATION_SLOT, implementation)
        }
        emit Upgraded(implementation);
        (bool done, bytes memory answer) = implementation.delegatecall(initialization);
        if (!done) {
            assembly {
                revert(add(answer, 0x20), mload(answer))
            }
        }
    }

    fallback() external {
        assembly {
            calldatacopy(0, 0, calldatasize())
            let done := delegatecall(gas(), sload(IMPLEMENTATION_SLOT), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            switch done
            case 0 { revert(0, returndatasize()) }
            default { return(0, returndatasize()) }
        }
    }
}
