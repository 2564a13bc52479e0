// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CiphertextCommits} from "./CiphertextCommits.sol";
import {Decryption} from "./Decryption.sol";
import {GatewayConfig} from "./GatewayConfig.sol";

/// `Decryption` of release v0.14: requests are announced with their ciphertexts' materials only.
contract DecryptionV14 is Decryption {
    constructor(GatewayConfig gatewayConfig, CiphertextCommits ciphertextCommits)
        Decryption(gatewayConfig, ciphertextCommits)
    {}

    function getVersion() external pure override returns (string memory) {
        return "Decryption v0.6.0";
    }

    function _announcesHandles() internal pure override returns (bool) {
        return false;
    }
}
