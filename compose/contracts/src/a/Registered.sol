// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {GatewayConfig} from "./GatewayConfig.sol";
import {Handles} from "../shared/Handles.sol";

/// Admission by the register of participants.
abstract contract Registered {
    GatewayConfig internal immutable GATEWAY_CONFIG;

    error NotGatewayOwner(address sender);
    error NotKmsTxSender(address txSenderAddress);
    error NotKmsSigner(address signerAddress);
    error KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress);
    error NotCoprocessorTxSender(address txSenderAddress);
    error HostChainNotRegistered(uint256 chainId);

    constructor(GatewayConfig gatewayConfig) {
        GATEWAY_CONFIG = gatewayConfig;
    }

    modifier onlyGatewayOwner() {
        if (msg.sender != GATEWAY_CONFIG.owner()) revert NotGatewayOwner(msg.sender);
        _;
    }

    modifier onlyKmsTxSender() {
        if (!GATEWAY_CONFIG.isKmsTxSender(msg.sender)) revert NotKmsTxSender(msg.sender);
        _;
    }

    modifier onlyCoprocessorTxSender() {
        if (!GATEWAY_CONFIG.isCoprocessorTxSender(msg.sender)) revert NotCoprocessorTxSender(msg.sender);
        _;
    }

    modifier onlyRegisteredHostChain(uint256 chainId) {
        if (!GATEWAY_CONFIG.isHostChainRegistered(chainId)) revert HostChainNotRegistered(chainId);
        _;
    }

    modifier onlyHandleOfRegisteredHostChain(bytes32 handle) {
        uint256 chainId = Handles.chainIdOf(handle);
        if (!GATEWAY_CONFIG.isHostChainRegistered(chainId)) revert HostChainNotRegistered(chainId);
        _;
    }

    /// The signer must be a KMS node's, and that of the very node whose account sends.
    function _requireOneKmsNode(address signer, address txSender) internal view {
        if (!GATEWAY_CONFIG.isKmsSigner(signer)) revert NotKmsSigner(signer);
        if (GATEWAY_CONFIG.getKmsNode(txSender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, txSender);
        }
    }
}
