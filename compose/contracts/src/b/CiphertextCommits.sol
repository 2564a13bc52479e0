// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CiphertextMaterial, SnsCiphertextMaterial} from "../shared/Types.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {Initializable} from "../shared/Initializable.sol";
import {Registered} from "./Registered.sol";

/// What the coprocessors say a handle's ciphertext is. Votes are grouped by content; the first group to reach the
/// coprocessors' threshold decides, and later votes for it are added to its list.
contract CiphertextCommits is Registered, Initializable {
    struct Material {
        uint256 keyId;
        bytes32 ciphertextDigest;
        bytes32 snsCiphertextDigest;
    }

    mapping(bytes32 handle => bytes32) private _agreedContent;
    mapping(bytes32 handle => Material) private _materials;
    mapping(bytes32 content => address[]) private _supporters;
    mapping(bytes32 handle => mapping(address coprocessor => bool)) private _voted;

    event AddCiphertextMaterial(
        bytes32 indexed ctHandle,
        uint256 keyId,
        bytes32 ciphertextDigest,
        bytes32 snsCiphertextDigest,
        address coprocessorTxSender
    );
    event AddCiphertextMaterialConsensus(
        bytes32 indexed ctHandle,
        uint256 keyId,
        bytes32 ciphertextDigest,
        bytes32 snsCiphertextDigest,
        address[] coprocessorTxSenders
    );

    error CoprocessorAlreadyAdded(bytes32 ctHandle, address txSender);
    error CiphertextMaterialNotFound(bytes32 ctHandle);

    constructor(GatewayConfig gatewayConfig) Registered(gatewayConfig) {}

    function initializeFromEmptyProxy() external initializer {}

    function getVersion() external pure returns (string memory) {
        return "CiphertextCommits v0.6.0";
    }

    function addCiphertextMaterial(
        bytes32 ctHandle,
        uint256 keyId,
        bytes32 ciphertextDigest,
        bytes32 snsCiphertextDigest
    ) external onlyCoprocessorTxSender onlyHandleOfEnabledHostChain(ctHandle) {
        if (_voted[ctHandle][msg.sender]) revert CoprocessorAlreadyAdded(ctHandle, msg.sender);
        _voted[ctHandle][msg.sender] = true;

        bytes32 content = keccak256(abi.encode(ctHandle, keyId, ciphertextDigest, snsCiphertextDigest));
        address[] storage supporters = _supporters[content];
        supporters.push(msg.sender);
        emit AddCiphertextMaterial(ctHandle, keyId, ciphertextDigest, snsCiphertextDigest, msg.sender);

        bool undecided = _agreedContent[ctHandle] == 0;
        if (undecided && supporters.length >= GATEWAY_CONFIG.getCoprocessorMajorityThreshold()) {
            _agreedContent[ctHandle] = content;
            _materials[ctHandle] = Material(keyId, ciphertextDigest, snsCiphertextDigest);
            emit AddCiphertextMaterialConsensus(ctHandle, keyId, ciphertextDigest, snsCiphertextDigest, supporters);
        }
    }

    function isCiphertextMaterialAdded(bytes32 ctHandle) external view returns (bool) {
        return _agreedContent[ctHandle] != 0;
    }

    function getAddCiphertextMaterialConsensusTxSenders(bytes32 ctHandle) external view returns (address[] memory) {
        return _supporters[_agreedContent[ctHandle]];
    }

    function getCiphertextMaterials(bytes32[] calldata ctHandles)
        external
        view
        returns (CiphertextMaterial[] memory ctMaterials)
    {
        ctMaterials = new CiphertextMaterial[](ctHandles.length);
        for (uint256 i = 0; i < ctHandles.length; i++) {
            (Material storage material, address[] storage supporters) = _agreed(ctHandles[i]);
            ctMaterials[i] =
                CiphertextMaterial(ctHandles[i], material.keyId, material.ciphertextDigest, supporters);
        }
    }

    function getSnsCiphertextMaterials(bytes32[] calldata ctHandles)
        external
        view
        returns (SnsCiphertextMaterial[] memory snsCtMaterials)
    {
        snsCtMaterials = new SnsCiphertextMaterial[](ctHandles.length);
        for (uint256 i = 0; i < ctHandles.length; i++) {
            (Material storage material, address[] storage supporters) = _agreed(ctHandles[i]);
            snsCtMaterials[i] =
                SnsCiphertextMaterial(ctHandles[i], material.keyId, material.snsCiphertextDigest, supporters);
        }
    }

    function _agreed(bytes32 ctHandle) private view returns (Material storage, address[] storage) {
        bytes32 content = _agreedContent[ctHandle];
        if (content == 0) revert CiphertextMaterialNotFound(ctHandle);
        return (_materials[ctHandle], _supporters[content]);
    }
}
