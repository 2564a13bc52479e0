// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {GatewayConfig} from "./GatewayConfig.sol";
import {Handles} from "../shared/Handles.sol";

/// Admission by the Gateway's register of participants.
abstract contract Registered {
    GatewayConfig internal immutable GATEWAY_CONFIG;

    error NotCoprocessorTxSender(address txSenderAddress);
    error HostChainNotRegistered(uint256 chainId);
    error HostChainDisabled(uint256 chainId);

    constructor(GatewayConfig gatewayConfig) {
        GATEWAY_CONFIG = gatewayConfig;
    }

    modifier onlyCoprocessorTxSender() {
        if (!GATEWAY_CONFIG.isCoprocessorTxSender(msg.sender)) revert NotCoprocessorTxSender(msg.sender);
        _;
    }

    modifier onlyEnabledHostChain(uint256 chainId) {
        _requireEnabledHostChain(chainId);
        _;
    }

    modifier onlyHandleOfEnabledHostChain(bytes32 handle) {
        _requireEnabledHostChain(Handles.chainIdOf(handle));
        _;
    }

    function _requireEnabledHostChain(uint256 chainId) internal view {
        if (!GATEWAY_CONFIG.isHostChainRegistered(chainId)) revert HostChainNotRegistered(chainId);
        if (GATEWAY_CONFIG.isHostChainDisabled(chainId)) revert HostChainDisabled(chainId);
    }
}
