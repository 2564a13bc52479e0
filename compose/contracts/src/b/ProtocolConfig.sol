// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ACL} from "./ACL.sol";
import {Ecdsa, Eip712} from "../shared/Signatures.sol";
import {ExtraData} from "../shared/ExtraData.sol";
import {Initializable} from "../shared/Initializable.sol";
import {KeyDigest, KeyMessages} from "./Keys.sol";
import {KmsNode} from "../shared/Types.sol";

/// Contexts (sets of KMS nodes) and epochs (sharings of the keys among one set's nodes) on the Ethereum host, which is where
/// they are decided.
///
///     context: defined ── pending ──▶ both sets confirm ── created ──▶ its first epoch is activated ── active
///     epoch:                          asked for with it ── pending ──▶ every node confirms the same ── active
///
/// Activation makes the pair the current one; the former ones stay good until the owner destroys them, as whatever is open can be
/// destroyed at any time. One thing is open at a time.
contract ProtocolConfig is Eip712, Initializable {
    struct KmsNodeParams {
        address txSenderAddress;
        address signerAddress;
        string ipAddress;
        string storageUrl;
        int32 partyId;
        string mpcIdentity;
        bytes caCert;
        string storagePrefix;
    }

    struct KmsThresholds {
        uint256 publicDecryption;
        uint256 userDecryption;
        uint256 kmsGen;
        uint256 mpc;
    }

    struct PcrValues {
        bytes pcr0;
        bytes pcr1;
        bytes pcr2;
    }

    struct EpochKeyResult {
        uint256 prepKeygenId;
        uint256 keyId;
        KeyDigest[] keyDigests;
        bytes signature;
    }

    struct EpochCrsResult {
        uint256 crsId;
        uint256 maxBitLength;
        bytes crsDigest;
        bytes signature;
    }

    enum Phase {
        None,
        Pending,
        Created,
        Active,
        Destroyed
    }

    struct Context {
        Phase phase;
        uint256 previousContextId;
        uint256 anchorBlock;
        bytes32 infoHash;
        KmsThresholds thresholds;
        address[] txSenders;
        address[] signers;
        mapping(address txSender => bool) isTxSender;
        mapping(address signer => bool) isSigner;
        mapping(address txSender => KmsNode) nodes;
        uint256 previousNeeded;
        uint256 previousConfirmations;
        uint256 newConfirmations;
        mapping(address txSender => bool) confirmed;
    }

    struct Epoch {
        Phase phase;
        uint256 contextId;
        mapping(address signer => bool) confirmed;
        mapping(bytes32 dataHash => uint256) votes;
    }

    /// Ids hold what they name in their highest byte and count in the others.
    uint256 private constant CONTEXT_IDS = uint256(7) << 248;
    uint256 private constant EPOCH_IDS = uint256(8) << 248;
    /// A proof counts its signatures in one byte.
    uint256 private constant MAX_SIGNERS = 255;

    ACL private immutable HOST_ACL;

    uint256 private _contextCounter;
    uint256 private _epochCounter;
    uint256 private _currentContextId;
    uint256 private _currentEpochId;
    mapping(uint256 contextId => Context) private _contexts;
    mapping(uint256 epochId => Epoch) private _epochs;

    event NewKmsContext(
        uint256 indexed contextId,
        uint256 indexed previousContextId,
        KmsNodeParams[] kmsNodeParams,
        KmsThresholds thresholds,
        string softwareVersion,
        PcrValues[] pcrValues
    );
    event KmsContextCreationConfirmation(
        uint256 indexed kmsContextId, address indexed txSender, bool isPreviousTxSender, bool isNewTxSender
    );
    event NewKmsEpoch(
        uint256 indexed kmsContextId,
        uint256 indexed epochId,
        uint256 previousContextId,
        uint256 previousEpochId,
        uint256 materialBlockNumber
    );
    event EpochActivationConfirmation(uint256 indexed epochId, address indexed signer, bytes32 dataHash);
    event ActivateEpoch(
        uint256 indexed kmsContextId,
        uint256 indexed epochId,
        EpochKeyResult[] keys,
        EpochCrsResult[] crsList,
        string[] kmsNodeStorageUrls
    );
    event KmsContextDestroyed(uint256 indexed kmsContextId);
    event KmsEpochDestroyed(uint256 indexed epochId);
    event PublicDecryptionThresholdUpdated(uint256 indexed kmsContextId, uint256 threshold);
    event UserDecryptionThresholdUpdated(uint256 indexed kmsContextId, uint256 threshold);
    event KmsGenThresholdUpdated(uint256 indexed kmsContextId, uint256 threshold);
    event MpcThresholdUpdated(uint256 indexed kmsContextId, uint256 threshold);

    error NotHostOwner(address sender);
    error EmptyKmsNodes();
    error KmsSignerSetExceedsProofFormatLimit(uint256 signerCount, uint256 maxAllowed);
    error KmsNodeNullTxSender();
    error KmsNodeNullSigner();
    error KmsTxSenderAlreadyRegistered(address txSender);
    error KmsSignerAlreadyRegistered(address signer);
    error InvalidNullThreshold(string thresholdName);
    error InvalidHighThreshold(string thresholdName, uint256 threshold, uint256 nodeCount);
    error KmsLifecycleOperationInFlight(uint256 kmsContextId, uint256 epochId);
    error InvalidKmsContext(uint256 kmsContextId);
    error InvalidKmsEpoch(uint256 epochId);
    error LatestActiveKmsContextCannotBeDestroyed(uint256 kmsContextId);
    error LatestActiveKmsEpochCannotBeDestroyed(uint256 epochId);
    error KmsContextNotPending(uint256 kmsContextId);
    error KmsContextNotCreated(uint256 kmsContextId);
    error KmsContextCreationUnauthorized(address caller, uint256 kmsContextId);
    error KmsContextCreationAlreadyConfirmed(address txSender, uint256 kmsContextId);
    error EpochActivationUnauthorized(address caller, uint256 epochId);
    error EmptyEpochActivationAttestation(uint256 epochId);
    error EpochActivationSignerDoesNotMatchTxSender(address signer, address txSender);
    error EpochActivationAlreadyConfirmed(address signer, uint256 epochId);

    constructor(ACL hostAcl) {
        HOST_ACL = hostAcl;
    }

    modifier onlyHostOwner() {
        if (msg.sender != HOST_ACL.owner()) revert NotHostOwner(msg.sender);
        _;
    }

    /// The first context and its first epoch are active at once; nothing announces the latter.
    function initializeFromEmptyProxy(
        KmsNodeParams[] calldata initialKmsNodeParams,
        KmsThresholds calldata initialThresholds,
        string calldata softwareVersion,
        PcrValues[] calldata pcrValues
    ) external initializer {
        _setDomain("ProtocolConfig", "1");
        _contextCounter = CONTEXT_IDS;
        _epochCounter = EPOCH_IDS;
        uint256 contextId =
            _define(CONTEXT_IDS, initialKmsNodeParams, initialThresholds, softwareVersion, pcrValues);
        _contexts[contextId].phase = Phase.Active;
        uint256 epochId = ++_epochCounter;
        _epochs[epochId].phase = Phase.Active;
        _epochs[epochId].contextId = contextId;
        _currentContextId = contextId;
        _currentEpochId = epochId;
    }

    function getVersion() external pure returns (string memory) {
        return "ProtocolConfig v0.2.0";
    }

    // What the owner asks for.

    function defineNewKmsContextAndEpoch(
        KmsNodeParams[] calldata kmsNodeParams,
        KmsThresholds calldata thresholds,
        string calldata softwareVersion,
        PcrValues[] calldata pcrValues
    ) external onlyHostOwner {
        _requireNothingOpen();
        uint256 contextId = _define(_currentContextId, kmsNodeParams, thresholds, softwareVersion, pcrValues);
        Context storage context = _contexts[contextId];
        context.phase = Phase.Pending;
        // All but the corrupt ones of the former set, but at least one.
        Context storage former = _contexts[_currentContextId];
        uint256 nodes = former.txSenders.length;
        uint256 corrupt = former.thresholds.mpc;
        context.previousNeeded = nodes > corrupt ? nodes - corrupt : 1;
    }

    function defineNewEpochForCurrentKmsContext() external onlyHostOwner {
        _requireNothingOpen();
        _askForEpoch(_currentContextId);
    }

    function destroyKmsContext(uint256 kmsContextId) external onlyHostOwner {
        if (kmsContextId == _currentContextId) revert LatestActiveKmsContextCannotBeDestroyed(kmsContextId);
        Context storage context = _live(kmsContextId);
        context.phase = Phase.Destroyed;
        Epoch storage latest = _epochs[_epochCounter];
        if (latest.phase == Phase.Pending && latest.contextId == kmsContextId) latest.phase = Phase.Destroyed;
        emit KmsContextDestroyed(kmsContextId);
    }

    function destroyKmsEpoch(uint256 epochId) external onlyHostOwner {
        if (epochId == _currentEpochId) revert LatestActiveKmsEpochCannotBeDestroyed(epochId);
        Epoch storage epoch = _epochs[epochId];
        bool open = epoch.phase == Phase.Pending && _contexts[epoch.contextId].phase == Phase.Active;
        if (epoch.phase != Phase.Active && !open) revert InvalidKmsEpoch(epochId);
        epoch.phase = Phase.Destroyed;
        emit KmsEpochDestroyed(epochId);
    }

    function updatePublicDecryptionThresholdForContext(uint256 kmsContextId, uint256 threshold)
        external
        onlyHostOwner
    {
        Context storage context = _active(kmsContextId);
        _requireThreshold("publicDecryption", threshold, context.txSenders.length);
        context.thresholds.publicDecryption = threshold;
        emit PublicDecryptionThresholdUpdated(kmsContextId, threshold);
    }

    function updateUserDecryptionThresholdForContext(uint256 kmsContextId, uint256 threshold)
        external
        onlyHostOwner
    {
        Context storage context = _active(kmsContextId);
        _requireThreshold("userDecryption", threshold, context.txSenders.length);
        context.thresholds.userDecryption = threshold;
        emit UserDecryptionThresholdUpdated(kmsContextId, threshold);
    }

    function updateKmsGenThresholdForContext(uint256 kmsContextId, uint256 threshold) external onlyHostOwner {
        Context storage context = _active(kmsContextId);
        _requireThreshold("kmsGen", threshold, context.txSenders.length);
        context.thresholds.kmsGen = threshold;
        emit KmsGenThresholdUpdated(kmsContextId, threshold);
    }

    function updateMpcThresholdForContext(uint256 kmsContextId, uint256 threshold) external onlyHostOwner {
        Context storage context = _active(kmsContextId);
        _requireThreshold("mpc", threshold, context.txSenders.length);
        context.thresholds.mpc = threshold;
        emit MpcThresholdUpdated(kmsContextId, threshold);
    }

    // What the nodes answer.

    /// A node of both sets confirms once and counts on both sides.
    function confirmKmsContextCreation(uint256 kmsContextId) external {
        Context storage context = _contexts[kmsContextId];
        if (context.phase != Phase.Pending) revert KmsContextNotPending(kmsContextId);
        bool isPrevious = _contexts[context.previousContextId].isTxSender[msg.sender];
        bool isNew = context.isTxSender[msg.sender];
        if (!isPrevious && !isNew) revert KmsContextCreationUnauthorized(msg.sender, kmsContextId);
        if (context.confirmed[msg.sender]) revert KmsContextCreationAlreadyConfirmed(msg.sender, kmsContextId);
        context.confirmed[msg.sender] = true;
        if (isPrevious) context.previousConfirmations++;
        if (isNew) context.newConfirmations++;
        emit KmsContextCreationConfirmation(kmsContextId, msg.sender, isPrevious, isNew);

        bool everyNewOne = context.newConfirmations == context.txSenders.length;
        if (everyNewOne && context.previousConfirmations >= context.previousNeeded) {
            context.phase = Phase.Created;
            _askForEpoch(kmsContextId);
        }
    }

    function confirmEpochActivation(
        uint256 epochId,
        EpochKeyResult[] calldata keys,
        EpochCrsResult[] calldata crsList
    ) external {
        Epoch storage epoch = _epochs[epochId];
        if (epoch.phase != Phase.Pending) revert InvalidKmsEpoch(epochId);
        uint256 contextId = epoch.contextId;
        Context storage context = _contexts[contextId];
        if (!context.isTxSender[msg.sender]) revert EpochActivationUnauthorized(msg.sender, epochId);
        if (context.phase == Phase.None || context.phase == Phase.Pending) revert KmsContextNotCreated(contextId);
        if (context.phase == Phase.Destroyed) revert InvalidKmsContext(contextId);
        if (keys.length == 0 || crsList.length == 0) revert EmptyEpochActivationAttestation(epochId);
        address signer = context.nodes[msg.sender].signerAddress;
        bytes32 dataHash = _attested(signer, ExtraData.naming(contextId, epochId), keys, crsList);
        if (epoch.confirmed[signer]) revert EpochActivationAlreadyConfirmed(signer, epochId);
        epoch.confirmed[signer] = true;
        uint256 votes = ++epoch.votes[dataHash];
        emit EpochActivationConfirmation(epochId, signer, dataHash);

        if (votes == context.signers.length) {
            epoch.phase = Phase.Active;
            context.phase = Phase.Active;
            _currentContextId = contextId;
            _currentEpochId = epochId;
            emit ActivateEpoch(contextId, epochId, keys, crsList, _storageUrls(context));
        }
    }

    // Views.

    function getCurrentKmsContextAndEpoch() external view returns (uint256 contextId, uint256 epochId) {
        return (_currentContextId, _currentEpochId);
    }

    function getCurrentKmsContextId() external view returns (uint256) {
        return _currentContextId;
    }

    /// The latest id that was given away.
    function getCurrentKmsContextIdCounter() external view returns (uint256) {
        return _contextCounter;
    }

    function isValidKmsContext(uint256 kmsContextId) external view returns (bool) {
        return _contexts[kmsContextId].phase == Phase.Active;
    }

    function isLiveKmsContext(uint256 kmsContextId) external view returns (bool) {
        Phase phase = _contexts[kmsContextId].phase;
        return phase != Phase.None && phase != Phase.Destroyed;
    }

    function isValidEpochForContext(uint256 kmsContextId, uint256 epochId) external view returns (bool) {
        Epoch storage epoch = _epochs[epochId];
        return epoch.phase == Phase.Active && epoch.contextId == kmsContextId
            && _contexts[kmsContextId].phase == Phase.Active;
    }

    /// Where the context was announced, and the hash of that event's data; also of contexts that are destroyed.
    function getKmsContextAnchor(uint256 contextId)
        external
        view
        returns (uint256 emissionBlockNumber, bytes32 contextInfoHash)
    {
        return (_contexts[contextId].anchorBlock, _contexts[contextId].infoHash);
    }

    function getContextCreationPreviousTxSenderThreshold(uint256 kmsContextId) external view returns (uint256) {
        return _contexts[kmsContextId].previousNeeded;
    }

    function getKmsNodesForContext(uint256 kmsContextId) external view returns (KmsNode[] memory nodes) {
        Context storage context = _active(kmsContextId);
        nodes = new KmsNode[](context.txSenders.length);
        for (uint256 i = 0; i < nodes.length; i++) {
            nodes[i] = context.nodes[context.txSenders[i]];
        }
    }

    function getKmsNodeForContext(uint256 kmsContextId, address txSender) external view returns (KmsNode memory) {
        if (_contexts[kmsContextId].phase == Phase.None) revert InvalidKmsContext(kmsContextId);
        return _contexts[kmsContextId].nodes[txSender];
    }

    function isKmsTxSenderForContext(uint256 kmsContextId, address txSender) external view returns (bool) {
        return _live(kmsContextId).isTxSender[txSender];
    }

    function isKmsSignerForContext(uint256 kmsContextId, address signer) external view returns (bool) {
        return _active(kmsContextId).isSigner[signer];
    }

    function getKmsSignersForContext(uint256 kmsContextId) external view returns (address[] memory) {
        return _active(kmsContextId).signers;
    }

    function getPublicDecryptionThresholdForContext(uint256 kmsContextId) external view returns (uint256) {
        return _active(kmsContextId).thresholds.publicDecryption;
    }

    function getUserDecryptionThresholdForContext(uint256 kmsContextId) external view returns (uint256) {
        return _active(kmsContextId).thresholds.userDecryption;
    }

    function getKmsGenThresholdForContext(uint256 kmsContextId) external view returns (uint256) {
        return _active(kmsContextId).thresholds.kmsGen;
    }

    function getMpcThresholdForContext(uint256 kmsContextId) external view returns (uint256) {
        return _active(kmsContextId).thresholds.mpc;
    }

    function isKmsSigner(address signer) external view returns (bool) {
        return _contexts[_currentContextId].isSigner[signer];
    }

    function getKmsSigners() external view returns (address[] memory) {
        return _contexts[_currentContextId].signers;
    }

    function getPublicDecryptionThreshold() external view returns (uint256) {
        return _contexts[_currentContextId].thresholds.publicDecryption;
    }

    function getUserDecryptionThreshold() external view returns (uint256) {
        return _contexts[_currentContextId].thresholds.userDecryption;
    }

    function getKmsGenThreshold() external view returns (uint256) {
        return _contexts[_currentContextId].thresholds.kmsGen;
    }

    function getMpcThreshold() external view returns (uint256) {
        return _contexts[_currentContextId].thresholds.mpc;
    }

    function _active(uint256 contextId) private view returns (Context storage context) {
        context = _contexts[contextId];
        if (context.phase != Phase.Active) revert InvalidKmsContext(contextId);
    }

    function _live(uint256 contextId) private view returns (Context storage context) {
        context = _contexts[contextId];
        if (context.phase == Phase.None || context.phase == Phase.Destroyed) revert InvalidKmsContext(contextId);
    }

    function _requireNothingOpen() private view {
        Phase context = _contexts[_contextCounter].phase;
        if (
            context == Phase.Pending || context == Phase.Created || _epochs[_epochCounter].phase == Phase.Pending
        ) {
            revert KmsLifecycleOperationInFlight(_contextCounter, _epochCounter);
        }
    }

    /// Stores and announces a context. Of its nodes' parameters only a part is kept: the rest is in the event, which the anchor
    /// leads to.
    function _define(
        uint256 previousContextId,
        KmsNodeParams[] calldata nodes,
        KmsThresholds calldata thresholds,
        string calldata softwareVersion,
        PcrValues[] calldata pcrValues
    ) private returns (uint256 contextId) {
        contextId = ++_contextCounter;
        Context storage context = _contexts[contextId];
        _setNodes(context, nodes);
        _requireThreshold("publicDecryption", thresholds.publicDecryption, nodes.length);
        _requireThreshold("userDecryption", thresholds.userDecryption, nodes.length);
        _requireThreshold("kmsGen", thresholds.kmsGen, nodes.length);
        _requireThreshold("mpc", thresholds.mpc, nodes.length);
        context.thresholds = thresholds;
        context.previousContextId = previousContextId;
        context.anchorBlock = block.number;
        context.infoHash = keccak256(abi.encode(nodes, thresholds, softwareVersion, pcrValues));
        emit NewKmsContext(contextId, previousContextId, nodes, thresholds, softwareVersion, pcrValues);
    }

    function _setNodes(Context storage context, KmsNodeParams[] calldata nodes) private {
        if (nodes.length == 0) revert EmptyKmsNodes();
        if (nodes.length > MAX_SIGNERS) revert KmsSignerSetExceedsProofFormatLimit(nodes.length, MAX_SIGNERS);
        for (uint256 i = 0; i < nodes.length; i++) {
            KmsNodeParams calldata node = nodes[i];
            address txSender = node.txSenderAddress;
            address signer = node.signerAddress;
            if (txSender == address(0)) revert KmsNodeNullTxSender();
            if (signer == address(0)) revert KmsNodeNullSigner();
            if (context.isTxSender[txSender]) revert KmsTxSenderAlreadyRegistered(txSender);
            if (context.isSigner[signer]) revert KmsSignerAlreadyRegistered(signer);
            context.isTxSender[txSender] = true;
            context.isSigner[signer] = true;
            context.nodes[txSender] = KmsNode(txSender, signer, node.ipAddress, node.storageUrl);
            context.txSenders.push(txSender);
            context.signers.push(signer);
        }
    }

    function _requireThreshold(string memory name, uint256 threshold, uint256 nodes) private pure {
        if (threshold == 0) revert InvalidNullThreshold(name);
        if (threshold > nodes) revert InvalidHighThreshold(name, threshold, nodes);
    }

    /// The keys to share anew are those that were complete in the block before this one.
    function _askForEpoch(uint256 contextId) private {
        uint256 epochId = ++_epochCounter;
        _epochs[epochId].phase = Phase.Pending;
        _epochs[epochId].contextId = contextId;
        emit NewKmsEpoch(contextId, epochId, _currentContextId, _currentEpochId, block.number - 1);
    }

    /// The hash of everything the node vouches for, once each signature is known to be its own. The order counts.
    function _attested(
        address signer,
        bytes memory extraData,
        EpochKeyResult[] calldata keys,
        EpochCrsResult[] calldata crsList
    ) private view returns (bytes32) {
        bytes32[] memory keyHashes = new bytes32[](keys.length);
        for (uint256 i = 0; i < keys.length; i++) {
            keyHashes[i] = _attestedKey(signer, extraData, keys[i]);
        }
        bytes32[] memory crsHashes = new bytes32[](crsList.length);
        for (uint256 i = 0; i < crsList.length; i++) {
            crsHashes[i] = _attestedCrs(signer, extraData, crsList[i]);
        }
        return keccak256(abi.encode(keyHashes, crsHashes));
    }

    function _attestedKey(address signer, bytes memory extraData, EpochKeyResult calldata key)
        private
        view
        returns (bytes32)
    {
        bytes32 digestsHash = KeyMessages.hashOf(key.keyDigests);
        bytes32 structHash = KeyMessages.keygen(key.prepKeygenId, key.keyId, digestsHash, extraData);
        _requireSigned(signer, structHash, key.signature);
        return keccak256(abi.encode(key.prepKeygenId, key.keyId, digestsHash));
    }

    function _attestedCrs(address signer, bytes memory extraData, EpochCrsResult calldata crs)
        private
        view
        returns (bytes32)
    {
        bytes32 structHash = KeyMessages.crsgen(crs.crsId, crs.maxBitLength, crs.crsDigest, extraData);
        _requireSigned(signer, structHash, crs.signature);
        return keccak256(abi.encode(crs.crsId, crs.maxBitLength, crs.crsDigest));
    }

    function _requireSigned(address signer, bytes32 structHash, bytes calldata signature) private view {
        address recovered = Ecdsa.signerOf(_typedDataHash(block.chainid, structHash), signature);
        if (recovered != signer) revert EpochActivationSignerDoesNotMatchTxSender(recovered, msg.sender);
    }

    function _storageUrls(Context storage context) private view returns (string[] memory urls) {
        urls = new string[](context.txSenders.length);
        for (uint256 i = 0; i < urls.length; i++) {
            urls[i] = context.nodes[context.txSenders[i]].storageUrl;
        }
    }
}
