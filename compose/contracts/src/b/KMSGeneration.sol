// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ACL} from "./ACL.sol";
import {Ecdsa, Eip5267} from "../shared/Signatures.sol";
import {ExtraData} from "../shared/ExtraData.sol";
import {Initializable} from "../shared/Initializable.sol";
import {KeyDigest, KeyMessages, ParamsType} from "./Keys.sol";
import {ProtocolConfig} from "./ProtocolConfig.sol";

/// Generation of keys and common reference strings: the owner asks, the KMS nodes answer. A key generation is a preprocessing
/// and then the generation proper, which this contract asks for by itself when enough nodes have finished the first.
///
/// Each request belongs to the context and epoch that were current when it was made, and names them in its extra data, which is
/// part of what the nodes sign. A request that was aborted still takes answers, without effect.
contract KMSGeneration is Eip5267, Initializable {
    struct KeyInfo {
        uint256 prepKeygenId;
        uint256 keyId;
        ParamsType paramsType;
        KeyDigest[] keyDigests;
    }

    /// Ids hold what they name in their highest byte and count in the others.
    uint256 private constant PREP_KEYGEN_IDS = uint256(3) << 248;
    uint256 private constant KEY_IDS = uint256(4) << 248;
    uint256 private constant CRS_IDS = uint256(5) << 248;

    ACL private immutable HOST_ACL;
    ProtocolConfig private immutable PROTOCOL_CONFIG;

    uint256 private _prepKeygenCounter;
    uint256 private _keyCounter;
    uint256 private _crsCounter;

    /// A preprocessing and its key lead to each other: they are asked for together.
    mapping(uint256 id => uint256 partnerId) private _keygenPairs;
    mapping(uint256 id => ParamsType) private _paramsTypes;
    mapping(uint256 id => bytes) private _extraData;
    mapping(uint256 crsId => uint256) private _crsMaxBitLengths;

    mapping(uint256 id => mapping(address signer => bool)) private _answered;
    mapping(uint256 id => mapping(bytes32 digest => address[])) private _responders;
    mapping(uint256 id => bytes32 digest) private _decidedDigest;
    /// Decided or aborted.
    mapping(uint256 id => bool) private _done;
    mapping(uint256 id => bool) private _aborted;

    mapping(uint256 keyId => KeyDigest[]) private _keyDigests;
    mapping(uint256 crsId => bytes) private _crsDigests;
    uint256[] private _completedKeyIds;
    uint256[] private _completedCrsIds;
    uint256 private _activeKeyId;
    uint256 private _activeCrsId;

    event PrepKeygenRequest(uint256 prepKeygenId, ParamsType paramsType, bytes extraData);
    event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId, bytes extraData);
    event KeygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender);
    event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
    event CrsgenRequest(uint256 crsId, uint256 maxBitLength, ParamsType paramsType, bytes extraData);
    event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
    event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);
    event AbortKeygen(uint256 prepKeygenId);
    event AbortCrsgen(uint256 crsId);

    error NotHostOwner(address sender);
    error KeygenOngoing(uint256 keyId);
    error CrsgenOngoing(uint256 crsId);
    error AbortKeygenInvalidId(uint256 prepKeygenId);
    error AbortKeygenAlreadyDone(uint256 prepKeygenId);
    error AbortCrsgenInvalidId(uint256 crsId);
    error AbortCrsgenAlreadyDone(uint256 crsId);
    error PrepKeygenNotRequested(uint256 prepKeygenId);
    error KeygenNotRequested(uint256 keyId);
    error CrsgenNotRequested(uint256 crsId);
    error EmptyKeyDigests(uint256 keyId);
    error KeyManagementRequestPending();
    error NotKmsTxSender(address txSenderAddress);
    error NotKmsSigner(address signerAddress);
    error KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress);
    error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
    error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
    error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
    error KeyNotGenerated(uint256 keyId);
    error KeyAborted(uint256 keyId);
    error CrsNotGenerated(uint256 crsId);
    error CrsAborted(uint256 crsId);
    error DeserializingExtraDataFail();
    error UnsupportedExtraDataVersion(uint8 version);

    constructor(ACL hostAcl, ProtocolConfig protocolConfig) {
        HOST_ACL = hostAcl;
        PROTOCOL_CONFIG = protocolConfig;
    }

    modifier onlyHostOwner() {
        if (msg.sender != HOST_ACL.owner()) revert NotHostOwner(msg.sender);
        _;
    }

    function initializeFromEmptyProxy() external initializer {
        _setDomain("KMSGeneration", "1");
        _prepKeygenCounter = PREP_KEYGEN_IDS;
        _keyCounter = KEY_IDS;
        _crsCounter = CRS_IDS;
    }

    function getVersion() external pure returns (string memory) {
        return "KMSGeneration v0.2.0";
    }

    // Requests. One key generation and one CRS generation can be open at a time.

    function keygen(ParamsType paramsType) external onlyHostOwner {
        if (_keyCounter != KEY_IDS && !_done[_keyCounter]) revert KeygenOngoing(_keyCounter);
        uint256 prepKeygenId = ++_prepKeygenCounter;
        uint256 keyId = ++_keyCounter;
        bytes memory extraData = _currentExtraData();
        _keygenPairs[prepKeygenId] = keyId;
        _keygenPairs[keyId] = prepKeygenId;
        _paramsTypes[prepKeygenId] = paramsType;
        _paramsTypes[keyId] = paramsType;
        _extraData[prepKeygenId] = extraData;
        _extraData[keyId] = extraData;
        emit PrepKeygenRequest(prepKeygenId, paramsType, extraData);
    }

    function crsgenRequest(uint256 maxBitLength, ParamsType paramsType) external onlyHostOwner {
        if (_crsCounter != CRS_IDS && !_done[_crsCounter]) revert CrsgenOngoing(_crsCounter);
        uint256 crsId = ++_crsCounter;
        bytes memory extraData = _currentExtraData();
        _crsMaxBitLengths[crsId] = maxBitLength;
        _paramsTypes[crsId] = paramsType;
        _extraData[crsId] = extraData;
        emit CrsgenRequest(crsId, maxBitLength, paramsType, extraData);
    }

    /// Gives up a key generation, whether its preprocessing has been decided or not.
    function abortKeygen(uint256 prepKeygenId) external onlyHostOwner {
        if (prepKeygenId <= PREP_KEYGEN_IDS || prepKeygenId > _prepKeygenCounter) {
            revert AbortKeygenInvalidId(prepKeygenId);
        }
        uint256 keyId = _keygenPairs[prepKeygenId];
        if (_done[keyId]) revert AbortKeygenAlreadyDone(prepKeygenId);
        _done[prepKeygenId] = true;
        _done[keyId] = true;
        _aborted[keyId] = true;
        emit AbortKeygen(prepKeygenId);
    }

    function abortCrsgen(uint256 crsId) external onlyHostOwner {
        if (crsId <= CRS_IDS || crsId > _crsCounter) revert AbortCrsgenInvalidId(crsId);
        if (_done[crsId]) revert AbortCrsgenAlreadyDone(crsId);
        _done[crsId] = true;
        _aborted[crsId] = true;
        emit AbortCrsgen(crsId);
    }

    // Answers.

    function prepKeygenResponse(uint256 prepKeygenId, bytes calldata signature) external {
        if (prepKeygenId <= PREP_KEYGEN_IDS || prepKeygenId > _prepKeygenCounter) {
            revert PrepKeygenNotRequested(prepKeygenId);
        }
        bytes memory extraData = _extraData[prepKeygenId];
        uint256 contextId = _requireTxSender(extraData);

        bytes32 digest = _typedDataHash(block.chainid, KeyMessages.prepKeygen(prepKeygenId, extraData));
        address signer = _signerOfNode(contextId, digest, signature);
        if (_answered[prepKeygenId][signer]) revert KmsAlreadySignedForPrepKeygen(prepKeygenId, signer);
        emit PrepKeygenResponse(prepKeygenId, signature, msg.sender);

        if (_vote(prepKeygenId, contextId, signer, digest)) {
            emit KeygenRequest(prepKeygenId, _keygenPairs[prepKeygenId], extraData);
        }
    }

    function keygenResponse(uint256 keyId, KeyDigest[] calldata keyDigests, bytes calldata signature) external {
        if (keyId <= KEY_IDS || keyId > _keyCounter) revert KeygenNotRequested(keyId);
        if (keyDigests.length == 0) revert EmptyKeyDigests(keyId);
        uint256 prepKeygenId = _keygenPairs[keyId];
        bytes memory extraData = _extraData[keyId];
        uint256 contextId = _requireTxSender(extraData);
        if (!_done[prepKeygenId]) revert KeyManagementRequestPending();

        bytes32 digest = _typedDataHash(
            block.chainid, KeyMessages.keygen(prepKeygenId, keyId, KeyMessages.hashOf(keyDigests), extraData)
        );
        address signer = _signerOfNode(contextId, digest, signature);
        if (_answered[keyId][signer]) revert KmsAlreadySignedForKeygen(keyId, signer);
        emit KeygenResponse(keyId, keyDigests, signature, msg.sender);

        if (_vote(keyId, contextId, signer, digest)) {
            for (uint256 i = 0; i < keyDigests.length; i++) {
                _keyDigests[keyId].push(keyDigests[i]);
            }
            _activeKeyId = keyId;
            _completedKeyIds.push(keyId);
            emit ActivateKey(keyId, _storageUrls(keyId, contextId), keyDigests);
        }
    }

    function crsgenResponse(uint256 crsId, bytes calldata crsDigest, bytes calldata signature) external {
        if (crsId <= CRS_IDS || crsId > _crsCounter) revert CrsgenNotRequested(crsId);
        bytes memory extraData = _extraData[crsId];
        uint256 contextId = _requireTxSender(extraData);

        bytes32 digest = _typedDataHash(
            block.chainid, KeyMessages.crsgen(crsId, _crsMaxBitLengths[crsId], crsDigest, extraData)
        );
        address signer = _signerOfNode(contextId, digest, signature);
        if (_answered[crsId][signer]) revert KmsAlreadySignedForCrsgen(crsId, signer);
        emit CrsgenResponse(crsId, crsDigest, signature, msg.sender);

        if (_vote(crsId, contextId, signer, digest)) {
            _crsDigests[crsId] = crsDigest;
            _activeCrsId = crsId;
            _completedCrsIds.push(crsId);
            emit ActivateCrs(crsId, _storageUrls(crsId, contextId), crsDigest);
        }
    }

    // Views.

    function isRequestDone(uint256 requestId) external view returns (bool) {
        return _done[requestId];
    }

    /// The accounts that voted for the decided content; empty until there is one, and for ever where it was given up.
    function getConsensusTxSenders(uint256 requestId) external view returns (address[] memory) {
        return _responders[requestId][_decidedDigest[requestId]];
    }

    function getCompletedKeyIds() external view returns (uint256[] memory) {
        return _completedKeyIds;
    }

    function getCompletedCrsIds() external view returns (uint256[] memory) {
        return _completedCrsIds;
    }

    function getKeyInfo(uint256 keyId) external view returns (KeyInfo memory) {
        _requireKeyGenerated(keyId);
        return KeyInfo(_keygenPairs[keyId], keyId, _paramsTypes[keyId], _keyDigests[keyId]);
    }

    function getKeyMaterials(uint256 keyId) external view returns (string[] memory, KeyDigest[] memory) {
        _requireKeyGenerated(keyId);
        return (_storageUrls(keyId, _contextNamedBy(_extraData[keyId])), _keyDigests[keyId]);
    }

    function getCrsMaterials(uint256 crsId) external view returns (string[] memory, bytes memory) {
        _requireCrsGenerated(crsId);
        return (_storageUrls(crsId, _contextNamedBy(_extraData[crsId])), _crsDigests[crsId]);
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

    function getKeyCounter() external view returns (uint256) {
        return _keyCounter;
    }

    function getCrsCounter() external view returns (uint256) {
        return _crsCounter;
    }

    function _requireKeyGenerated(uint256 keyId) private view {
        if (_aborted[keyId]) revert KeyAborted(keyId);
        if (_keyDigests[keyId].length == 0) revert KeyNotGenerated(keyId);
    }

    function _requireCrsGenerated(uint256 crsId) private view {
        if (_aborted[crsId]) revert CrsAborted(crsId);
        if (_decidedDigest[crsId] == 0 || crsId <= CRS_IDS) revert CrsNotGenerated(crsId);
    }

    function _currentExtraData() private view returns (bytes memory) {
        (uint256 contextId, uint256 epochId) = PROTOCOL_CONFIG.getCurrentKmsContextAndEpoch();
        return ExtraData.naming(contextId, epochId);
    }

    /// What this contract stored is of its own making, so that neither error can come up.
    function _contextNamedBy(bytes memory extraData) private pure returns (uint256 contextId) {
        if (extraData.length != 65) revert DeserializingExtraDataFail();
        if (extraData[0] != 0x02) revert UnsupportedExtraDataVersion(uint8(extraData[0]));
        assembly {
            contextId := mload(add(extraData, 0x21))
        }
    }

    /// The sender must be a node of the request's context, and that one alive: the register refuses it otherwise.
    function _requireTxSender(bytes memory extraData) private view returns (uint256 contextId) {
        contextId = _contextNamedBy(extraData);
        if (!PROTOCOL_CONFIG.isKmsTxSenderForContext(contextId, msg.sender)) revert NotKmsTxSender(msg.sender);
    }

    function _signerOfNode(uint256 contextId, bytes32 digest, bytes calldata signature)
        private
        view
        returns (address signer)
    {
        signer = Ecdsa.signerOf(digest, signature);
        if (!PROTOCOL_CONFIG.isKmsSignerForContext(contextId, signer)) revert NotKmsSigner(signer);
        if (PROTOCOL_CONFIG.getKmsNodeForContext(contextId, msg.sender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
    }

    /// Counts the sender's vote for what was signed; true for the one vote that decides.
    function _vote(uint256 id, uint256 contextId, address signer, bytes32 digest) private returns (bool decided) {
        _answered[id][signer] = true;
        address[] storage responders = _responders[id][digest];
        responders.push(msg.sender);
        decided = !_done[id] && responders.length >= PROTOCOL_CONFIG.getKmsGenThresholdForContext(contextId);
        if (decided) {
            _done[id] = true;
            _decidedDigest[id] = digest;
        }
    }

    /// Where the deciding nodes publish what they made.
    function _storageUrls(uint256 id, uint256 contextId) private view returns (string[] memory urls) {
        address[] memory nodes = _responders[id][_decidedDigest[id]];
        urls = new string[](nodes.length);
        for (uint256 i = 0; i < nodes.length; i++) {
            urls[i] = PROTOCOL_CONFIG.getKmsNodeForContext(contextId, nodes[i]).storageUrl;
        }
    }
}
