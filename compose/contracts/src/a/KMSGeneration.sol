// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ecdsa, Eip5267} from "../shared/Signatures.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {Initializable} from "../shared/Initializable.sol";
import {Registered} from "./Registered.sol";

/// Generation of keys and common reference strings: the owner asks, the KMS nodes answer. A key generation is a preprocessing
/// and then the generation proper, which this contract asks for by itself when enough nodes have finished the first.
contract KMSGeneration is Registered, Eip5267, Initializable {
    enum ParamsType {
        Default,
        Test
    }

    enum KeyType {
        Server,
        Public
    }

    struct KeyDigest {
        KeyType keyType;
        bytes digest;
    }

    /// Ids hold what they name in their highest byte and count in the others.
    uint256 private constant PREP_KEYGEN_IDS = uint256(3) << 248;
    uint256 private constant KEY_IDS = uint256(4) << 248;
    uint256 private constant CRS_IDS = uint256(5) << 248;
    uint256 private constant KEY_RESHARE_IDS = uint256(6) << 248;

    bytes32 private constant PREP_KEYGEN_TYPE_HASH = keccak256("PrepKeygenVerification(uint256 prepKeygenId)");
    bytes32 private constant KEYGEN_TYPE_HASH = keccak256(
        "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests)KeyDigest(uint8 keyType,bytes digest)"
    );
    bytes32 private constant KEY_DIGEST_TYPE_HASH = keccak256("KeyDigest(uint8 keyType,bytes digest)");
    bytes32 private constant CRSGEN_TYPE_HASH =
        keccak256("CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest)");

    uint256 private _prepKeygenCounter;
    uint256 private _keyCounter;
    uint256 private _crsCounter;
    uint256 private _keyReshareCounter;

    /// A preprocessing and its key lead to each other: they are asked for together.
    mapping(uint256 id => uint256 partnerId) private _keygenPairs;
    mapping(uint256 id => ParamsType) private _paramsTypes;
    mapping(uint256 crsId => uint256) private _crsMaxBitLengths;

    mapping(uint256 id => mapping(address signer => bool)) private _answered;
    mapping(uint256 id => mapping(bytes32 digest => address[])) private _responders;
    mapping(uint256 id => bytes32 digest) private _decidedDigest;
    mapping(uint256 id => bool) private _done;

    mapping(uint256 keyId => KeyDigest[]) private _keyDigests;
    mapping(uint256 crsId => bytes) private _crsDigests;
    uint256 private _activeKeyId;
    uint256 private _activeCrsId;

    event PRSSInit();
    event KeyReshareSameSet(uint256 prepKeygenId, uint256 keyId, uint256 keyReshareId, ParamsType paramsType);
    event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, ParamsType paramsType);
    event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
    event KeygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender);
    event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
    event CrsgenRequest(uint256 crsId, uint256 maxBitLength, ParamsType paramsType);
    event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
    event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);

    error KeygenOngoing(uint256 keyId);
    error CrsgenOngoing(uint256 crsId);
    error PrepKeygenNotRequested(uint256 prepKeygenId);
    error KeygenNotRequested(uint256 keyId);
    error CrsgenNotRequested(uint256 crsId);
    error EmptyKeyDigests(uint256 keyId);
    error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
    error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
    error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
    error KeyNotGenerated(uint256 keyId);
    error CrsNotGenerated(uint256 crsId);

    constructor(GatewayConfig gatewayConfig) Registered(gatewayConfig) {}

    function initializeFromEmptyProxy() external initializer {
        _setDomain("KMSGeneration", "1");
        _prepKeygenCounter = PREP_KEYGEN_IDS;
        _keyCounter = KEY_IDS;
        _crsCounter = CRS_IDS;
        _keyReshareCounter = KEY_RESHARE_IDS;
    }

    function getVersion() external pure returns (string memory) {
        return "KMSGeneration v0.4.0";
    }

    // Requests. One key generation and one CRS generation can be open at a time.

    function keygen(ParamsType paramsType) external onlyGatewayOwner {
        if (_keyCounter != KEY_IDS && !_done[_keyCounter]) revert KeygenOngoing(_keyCounter);
        uint256 prepKeygenId = ++_prepKeygenCounter;
        uint256 keyId = ++_keyCounter;
        _keygenPairs[prepKeygenId] = keyId;
        _keygenPairs[keyId] = prepKeygenId;
        _paramsTypes[prepKeygenId] = paramsType;
        _paramsTypes[keyId] = paramsType;
        emit PrepKeygenRequest(prepKeygenId, 0, paramsType);
    }

    function crsgenRequest(uint256 maxBitLength, ParamsType paramsType) external onlyGatewayOwner {
        if (_crsCounter != CRS_IDS && !_done[_crsCounter]) revert CrsgenOngoing(_crsCounter);
        uint256 crsId = ++_crsCounter;
        _crsMaxBitLengths[crsId] = maxBitLength;
        _paramsTypes[crsId] = paramsType;
        emit CrsgenRequest(crsId, maxBitLength, paramsType);
    }

    // These two ask the nodes for something that none of them answers on chain.

    function prssInit() external onlyGatewayOwner {
        emit PRSSInit();
    }

    function keyReshareSameSet(uint256 keyId) external onlyGatewayOwner {
        _requireKeyGenerated(keyId);
        uint256 keyReshareId = ++_keyReshareCounter;
        emit KeyReshareSameSet(_keygenPairs[keyId], keyId, keyReshareId, _paramsTypes[keyId]);
    }

    // Answers. The ranges of ids are loose: any id but zero up to the counter passes.

    function prepKeygenResponse(uint256 prepKeygenId, bytes calldata signature) external onlyKmsTxSender {
        if (prepKeygenId == 0 || prepKeygenId > _prepKeygenCounter) revert PrepKeygenNotRequested(prepKeygenId);

        bytes32 digest = _signedDigest(keccak256(abi.encode(PREP_KEYGEN_TYPE_HASH, prepKeygenId)));
        address signer = _signerOfNode(digest, signature);
        if (_answered[prepKeygenId][signer]) revert KmsAlreadySignedForPrepKeygen(prepKeygenId, signer);
        emit PrepKeygenResponse(prepKeygenId, signature, msg.sender);

        if (_vote(prepKeygenId, signer, digest)) {
            emit KeygenRequest(prepKeygenId, _keygenPairs[prepKeygenId]);
        }
    }

    function keygenResponse(uint256 keyId, KeyDigest[] calldata keyDigests, bytes calldata signature)
        external
        onlyKmsTxSender
    {
        if (keyId == 0 || keyId > _keyCounter) revert KeygenNotRequested(keyId);
        if (keyDigests.length == 0) revert EmptyKeyDigests(keyId);

        bytes32 structHash =
            keccak256(abi.encode(KEYGEN_TYPE_HASH, _keygenPairs[keyId], keyId, _keyDigestsHash(keyDigests)));
        bytes32 digest = _signedDigest(structHash);
        address signer = _signerOfNode(digest, signature);
        if (_answered[keyId][signer]) revert KmsAlreadySignedForKeygen(keyId, signer);
        emit KeygenResponse(keyId, keyDigests, signature, msg.sender);

        if (_vote(keyId, signer, digest)) {
            for (uint256 i = 0; i < keyDigests.length; i++) {
                _keyDigests[keyId].push(keyDigests[i]);
            }
            _activeKeyId = keyId;
            emit ActivateKey(keyId, _storageUrls(keyId), keyDigests);
        }
    }

    function crsgenResponse(uint256 crsId, bytes calldata crsDigest, bytes calldata signature)
        external
        onlyKmsTxSender
    {
        if (crsId == 0 || crsId > _crsCounter) revert CrsgenNotRequested(crsId);

        bytes32 structHash =
            keccak256(abi.encode(CRSGEN_TYPE_HASH, crsId, _crsMaxBitLengths[crsId], keccak256(crsDigest)));
        bytes32 digest = _signedDigest(structHash);
        address signer = _signerOfNode(digest, signature);
        if (_answered[crsId][signer]) revert KmsAlreadySignedForCrsgen(crsId, signer);
        emit CrsgenResponse(crsId, crsDigest, signature, msg.sender);

        if (_vote(crsId, signer, digest)) {
            _crsDigests[crsId] = crsDigest;
            _activeCrsId = crsId;
            emit ActivateCrs(crsId, _storageUrls(crsId), crsDigest);
        }
    }

    // Views.

    /// The accounts that voted for the decided content; empty until there is one.
    function getConsensusTxSenders(uint256 requestId) external view returns (address[] memory) {
        return _responders[requestId][_decidedDigest[requestId]];
    }

    function getKeyMaterials(uint256 keyId) external view returns (string[] memory, KeyDigest[] memory) {
        _requireKeyGenerated(keyId);
        return (_storageUrls(keyId), _keyDigests[keyId]);
    }

    function getCrsMaterials(uint256 crsId) external view returns (string[] memory, bytes memory) {
        _requireCrsGenerated(crsId);
        return (_storageUrls(crsId), _crsDigests[crsId]);
    }

    function getKeyParamsType(uint256 keyId) external view returns (ParamsType) {
        _requireKeyGenerated(keyId);
        return _paramsTypes[keyId];
    }

    function getCrsParamsType(uint256 crsId) external view returns (ParamsType) {
        _requireCrsGenerated(crsId);
        return _paramsTypes[crsId];
    }

    function getActiveKeyId() external view returns (uint256) {
        return _activeKeyId;
    }

    function getActiveCrsId() external view returns (uint256) {
        return _activeCrsId;
    }

    function _requireKeyGenerated(uint256 keyId) private view {
        if (_keyDigests[keyId].length == 0) revert KeyNotGenerated(keyId);
    }

    function _requireCrsGenerated(uint256 crsId) private view {
        if (_decidedDigest[crsId] == 0 || crsId <= CRS_IDS) revert CrsNotGenerated(crsId);
    }

    function _signedDigest(bytes32 structHash) private view returns (bytes32) {
        return _typedDataHash(block.chainid, structHash);
    }

    function _signerOfNode(bytes32 digest, bytes calldata signature) private view returns (address signer) {
        signer = Ecdsa.signerOf(digest, signature);
        _requireOneKmsNode(signer, msg.sender);
    }

    /// Counts the sender's vote for what was signed; true for the one vote that decides.
    function _vote(uint256 id, address signer, bytes32 digest) private returns (bool decided) {
        _answered[id][signer] = true;
        address[] storage responders = _responders[id][digest];
        responders.push(msg.sender);
        decided = !_done[id] && responders.length >= GATEWAY_CONFIG.getKmsGenThreshold();
        if (decided) {
            _done[id] = true;
            _decidedDigest[id] = digest;
        }
    }

    /// Where the deciding nodes publish what they made.
    function _storageUrls(uint256 id) private view returns (string[] memory urls) {
        address[] memory nodes = _responders[id][_decidedDigest[id]];
        urls = new string[](nodes.length);
        for (uint256 i = 0; i < nodes.length; i++) {
            urls[i] = GATEWAY_CONFIG.getKmsNode(nodes[i]).storageUrl;
        }
    }

    /// EIP-712 hash of the array, in the order given: the order is part of what is signed.
    function _keyDigestsHash(KeyDigest[] calldata keyDigests) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](keyDigests.length);
        for (uint256 i = 0; i < keyDigests.length; i++) {
            hashes[i] =
                keccak256(abi.encode(KEY_DIGEST_TYPE_HASH, keyDigests[i].keyType, keccak256(keyDigests[i].digest)));
        }
        return keccak256(abi.encodePacked(hashes));
    }
}
