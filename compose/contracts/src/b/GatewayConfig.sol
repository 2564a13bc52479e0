// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Coprocessor, HostChain, KmsNode} from "../shared/Types.sol";
import {Initializable} from "../shared/Initializable.sol";

/// Who takes part on the Gateway: KMS nodes in contexts, coprocessors, host chains, and how many of them must agree. The
/// contexts are a copy of the Ethereum host's `ProtocolConfig` that nothing but the owner keeps up to date: a context is
/// current as soon as it is told, and the ones before it stay good until each is destroyed.
contract GatewayConfig is Initializable {
    struct Thresholds {
        uint256 mpcThreshold;
        uint256 publicDecryptionThreshold;
        uint256 userDecryptionThreshold;
        uint256 kmsGenThreshold;
        uint256 coprocessorThreshold;
    }

    struct Context {
        bool registered;
        bool destroyed;
        address[] txSenders;
        address[] signers;
        uint256 mpcThreshold;
        uint256 publicDecryptionThreshold;
        uint256 userDecryptionThreshold;
        uint256 kmsGenThreshold;
        mapping(address txSender => bool) isTxSender;
        mapping(address signer => bool) isSigner;
        mapping(address txSender => KmsNode) nodes;
    }

    /// A proof on a host chain counts its signatures in one byte.
    uint256 private constant MAX_SIGNERS = 255;

    address public owner;

    uint256 private _currentKmsContextId;
    mapping(uint256 contextId => Context) private _contexts;

    mapping(address txSender => bool) public isCoprocessorTxSender;
    mapping(address signer => bool) public isCoprocessorSigner;
    mapping(address txSender => Coprocessor) private _coprocessors;
    address[] private _coprocessorTxSenders;
    address[] private _coprocessorSigners;
    uint256 private _coprocessorThreshold;

    HostChain[] private _hostChains;
    mapping(uint256 chainId => bool) public isHostChainRegistered;
    mapping(uint256 chainId => bool) public isHostChainDisabled;

    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
    event AddHostChain(HostChain hostChain);
    event DisableHostChain(uint256 indexed chainId);
    event EnableHostChain(uint256 indexed chainId);
    event RemoveHostChain(uint256 indexed chainId);
    event UpdateKmsContext(
        uint256 indexed newContextId,
        KmsNode[] newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    );
    event DestroyKmsContext(uint256 indexed kmsContextId);
    event UpdateCoprocessors(Coprocessor[] newCoprocessors, uint256 newCoprocessorThreshold);
    event UpdateMpcThresholdForContext(uint256 indexed contextId, uint256 newMpcThreshold);
    event UpdatePublicDecryptionThresholdForContext(uint256 indexed contextId, uint256 newPublicDecryptionThreshold);
    event UpdateUserDecryptionThresholdForContext(uint256 indexed contextId, uint256 newUserDecryptionThreshold);
    event UpdateKmsGenThresholdForContext(uint256 indexed contextId, uint256 newKmsGenThreshold);
    event UpdateCoprocessorThreshold(uint256 newCoprocessorThreshold);

    error OwnableUnauthorizedAccount(address account);
    error EmptyKmsNodes();
    error EmptyCoprocessors();
    error InvalidNullKmsContextId();
    error InvalidKmsContext(uint256 kmsContextId);
    error KmsContextAlreadyRegistered(uint256 contextId, uint256 currentKmsContextId);
    error CurrentKmsContextCannotBeDestroyed(uint256 currentKmsContextId);
    error KmsSignerSetExceedsProofFormatLimit(uint256 signerCount, uint256 maxAllowed);
    error KmsTxSenderAlreadyRegistered(address kmsTxSenderAddress);
    error KmsSignerAlreadyRegistered(address kmsSignerAddress);
    error CoprocessorTxSenderAlreadyRegistered(address coprocessorTxSenderAddress);
    error CoprocessorSignerAlreadyRegistered(address coprocessorSignerAddress);
    error InvalidHighMpcThreshold(uint256 mpcThreshold, uint256 nKmsNodes);
    error InvalidNullPublicDecryptionThreshold();
    error InvalidHighPublicDecryptionThreshold(uint256 publicDecryptionThreshold, uint256 nKmsNodes);
    error InvalidNullUserDecryptionThreshold();
    error InvalidHighUserDecryptionThreshold(uint256 userDecryptionThreshold, uint256 nKmsNodes);
    error InvalidNullKmsGenThreshold();
    error InvalidHighKmsGenThreshold(uint256 kmsGenThreshold, uint256 nKmsNodes);
    error InvalidNullCoprocessorThreshold();
    error InvalidHighCoprocessorThreshold(uint256 coprocessorThreshold, uint256 nCoprocessors);
    error InvalidNullChainId();
    error ChainIdNotUint64(uint256 chainId);
    error HostChainAlreadyRegistered(uint256 chainId);
    error HostChainNotRegistered(uint256 chainId);
    error HostChainAlreadyDisabled(uint256 chainId);
    error HostChainAlreadyEnabled(uint256 chainId);
    error HostChainNotDisabled(uint256 chainId);

    modifier onlyOwner() {
        if (msg.sender != owner) revert OwnableUnauthorizedAccount(msg.sender);
        _;
    }

    /// The creator of the proxy becomes the one owner of the Gateway.
    function initialize(
        uint256 kmsContextId,
        Thresholds calldata thresholds,
        KmsNode[] calldata kmsNodes,
        Coprocessor[] calldata coprocessors,
        HostChain[] calldata hostChains
    ) external initializer {
        owner = msg.sender;
        emit OwnershipTransferred(address(0), msg.sender);
        _addContext(
            kmsContextId,
            kmsNodes,
            thresholds.mpcThreshold,
            thresholds.publicDecryptionThreshold,
            thresholds.userDecryptionThreshold,
            thresholds.kmsGenThreshold
        );
        _setCoprocessors(coprocessors);
        _setCoprocessorThreshold(thresholds.coprocessorThreshold);
        for (uint256 i = 0; i < hostChains.length; i++) {
            _addHostChain(hostChains[i]);
        }
    }

    function getVersion() external pure returns (string memory) {
        return "GatewayConfig v0.8.0";
    }

    // Changes by the owner.

    function updateKmsContext(
        uint256 newContextId,
        KmsNode[] calldata newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    ) external onlyOwner {
        _addContext(
            newContextId,
            newKmsNodes,
            newMpcThreshold,
            newPublicDecryptionThreshold,
            newUserDecryptionThreshold,
            newKmsGenThreshold
        );
        emit UpdateKmsContext(
            newContextId,
            newKmsNodes,
            newMpcThreshold,
            newPublicDecryptionThreshold,
            newUserDecryptionThreshold,
            newKmsGenThreshold
        );
    }

    function destroyKmsContext(uint256 kmsContextId) external onlyOwner {
        if (kmsContextId == _currentKmsContextId) revert CurrentKmsContextCannotBeDestroyed(kmsContextId);
        _valid(kmsContextId).destroyed = true;
        emit DestroyKmsContext(kmsContextId);
    }

    function updateCoprocessors(Coprocessor[] calldata newCoprocessors, uint256 newCoprocessorThreshold)
        external
        onlyOwner
    {
        _setCoprocessors(newCoprocessors);
        _setCoprocessorThreshold(newCoprocessorThreshold);
        emit UpdateCoprocessors(newCoprocessors, newCoprocessorThreshold);
    }

    function updateMpcThresholdForContext(uint256 contextId, uint256 newMpcThreshold) external onlyOwner {
        _setMpcThreshold(_valid(contextId), newMpcThreshold);
        emit UpdateMpcThresholdForContext(contextId, newMpcThreshold);
    }

    function updatePublicDecryptionThresholdForContext(uint256 contextId, uint256 newPublicDecryptionThreshold)
        external
        onlyOwner
    {
        _setPublicDecryptionThreshold(_valid(contextId), newPublicDecryptionThreshold);
        emit UpdatePublicDecryptionThresholdForContext(contextId, newPublicDecryptionThreshold);
    }

    function updateUserDecryptionThresholdForContext(uint256 contextId, uint256 newUserDecryptionThreshold)
        external
        onlyOwner
    {
        _setUserDecryptionThreshold(_valid(contextId), newUserDecryptionThreshold);
        emit UpdateUserDecryptionThresholdForContext(contextId, newUserDecryptionThreshold);
    }

    function updateKmsGenThresholdForContext(uint256 contextId, uint256 newKmsGenThreshold) external onlyOwner {
        _setKmsGenThreshold(_valid(contextId), newKmsGenThreshold);
        emit UpdateKmsGenThresholdForContext(contextId, newKmsGenThreshold);
    }

    function updateCoprocessorThreshold(uint256 newCoprocessorThreshold) external onlyOwner {
        _setCoprocessorThreshold(newCoprocessorThreshold);
        emit UpdateCoprocessorThreshold(newCoprocessorThreshold);
    }

    function addHostChain(HostChain calldata hostChain) external onlyOwner {
        _addHostChain(hostChain);
        emit AddHostChain(hostChain);
    }

    function disableHostChain(uint256 chainId) external onlyOwner {
        if (!isHostChainRegistered[chainId]) revert HostChainNotRegistered(chainId);
        if (isHostChainDisabled[chainId]) revert HostChainAlreadyDisabled(chainId);
        isHostChainDisabled[chainId] = true;
        emit DisableHostChain(chainId);
    }

    function enableHostChain(uint256 chainId) external onlyOwner {
        if (!isHostChainRegistered[chainId]) revert HostChainNotRegistered(chainId);
        if (!isHostChainDisabled[chainId]) revert HostChainAlreadyEnabled(chainId);
        isHostChainDisabled[chainId] = false;
        emit EnableHostChain(chainId);
    }

    /// Only what was disabled before.
    function removeHostChain(uint256 chainId) external onlyOwner {
        if (!isHostChainRegistered[chainId]) revert HostChainNotRegistered(chainId);
        if (!isHostChainDisabled[chainId]) revert HostChainNotDisabled(chainId);
        delete isHostChainRegistered[chainId];
        delete isHostChainDisabled[chainId];
        for (uint256 i = 0; i < _hostChains.length; i++) {
            if (_hostChains[i].chainId == chainId) {
                _hostChains[i] = _hostChains[_hostChains.length - 1];
                _hostChains.pop();
                break;
            }
        }
        emit RemoveHostChain(chainId);
    }

    // Views of contexts. What names one reverts when that one is unknown or destroyed; unknown accounts give an empty
    // structure.

    function getCurrentKmsContextId() external view returns (uint256) {
        return _currentKmsContextId;
    }

    function isValidKmsContext(uint256 contextId) external view returns (bool) {
        return _contexts[contextId].registered && !_contexts[contextId].destroyed;
    }

    function isKmsTxSenderForContext(uint256 contextId, address txSenderAddress) external view returns (bool) {
        return _valid(contextId).isTxSender[txSenderAddress];
    }

    function isKmsSignerForContext(uint256 contextId, address signerAddress) external view returns (bool) {
        return _valid(contextId).isSigner[signerAddress];
    }

    function getKmsNodeForContext(uint256 contextId, address kmsTxSenderAddress)
        external
        view
        returns (KmsNode memory)
    {
        return _valid(contextId).nodes[kmsTxSenderAddress];
    }

    function getKmsTxSendersForContext(uint256 contextId) external view returns (address[] memory) {
        return _valid(contextId).txSenders;
    }

    function getKmsSignersForContext(uint256 contextId) external view returns (address[] memory) {
        return _valid(contextId).signers;
    }

    function getPublicDecryptionThresholdForContext(uint256 contextId) external view returns (uint256) {
        return _valid(contextId).publicDecryptionThreshold;
    }

    function getUserDecryptionThresholdForContext(uint256 contextId) external view returns (uint256) {
        return _valid(contextId).userDecryptionThreshold;
    }

    function isKmsTxSender(address txSenderAddress) external view returns (bool) {
        return _contexts[_currentKmsContextId].isTxSender[txSenderAddress];
    }

    function isKmsSigner(address signerAddress) external view returns (bool) {
        return _contexts[_currentKmsContextId].isSigner[signerAddress];
    }

    function getKmsNode(address kmsTxSenderAddress) external view returns (KmsNode memory) {
        return _contexts[_currentKmsContextId].nodes[kmsTxSenderAddress];
    }

    function getKmsTxSenders() external view returns (address[] memory) {
        return _contexts[_currentKmsContextId].txSenders;
    }

    function getKmsSigners() external view returns (address[] memory) {
        return _contexts[_currentKmsContextId].signers;
    }

    function getMpcThreshold() external view returns (uint256) {
        return _contexts[_currentKmsContextId].mpcThreshold;
    }

    function getKmsGenThreshold() external view returns (uint256) {
        return _contexts[_currentKmsContextId].kmsGenThreshold;
    }

    // Other views.

    function isPauser(address account) external view returns (bool) {
        return account == owner;
    }

    function getCoprocessor(address coprocessorTxSenderAddress) external view returns (Coprocessor memory) {
        return _coprocessors[coprocessorTxSenderAddress];
    }

    function getCoprocessorTxSenders() external view returns (address[] memory) {
        return _coprocessorTxSenders;
    }

    function getCoprocessorSigners() external view returns (address[] memory) {
        return _coprocessorSigners;
    }

    function getCoprocessorMajorityThreshold() external view returns (uint256) {
        return _coprocessorThreshold;
    }

    function getHostChain(uint256 index) external view returns (HostChain memory) {
        return _hostChains[index];
    }

    function getHostChains() external view returns (HostChain[] memory) {
        return _hostChains;
    }

    function _valid(uint256 contextId) private view returns (Context storage context) {
        context = _contexts[contextId];
        if (!context.registered || context.destroyed) revert InvalidKmsContext(contextId);
    }

    function _addContext(
        uint256 contextId,
        KmsNode[] calldata nodes,
        uint256 mpcThreshold,
        uint256 publicDecryptionThreshold,
        uint256 userDecryptionThreshold,
        uint256 kmsGenThreshold
    ) private {
        if (contextId == 0) revert InvalidNullKmsContextId();
        if (contextId <= _currentKmsContextId) revert KmsContextAlreadyRegistered(contextId, _currentKmsContextId);
        Context storage context = _contexts[contextId];
        context.registered = true;
        _setKmsNodes(context, nodes);
        _setMpcThreshold(context, mpcThreshold);
        _setPublicDecryptionThreshold(context, publicDecryptionThreshold);
        _setUserDecryptionThreshold(context, userDecryptionThreshold);
        _setKmsGenThreshold(context, kmsGenThreshold);
        _currentKmsContextId = contextId;
    }

    function _setKmsNodes(Context storage context, KmsNode[] calldata nodes) private {
        if (nodes.length == 0) revert EmptyKmsNodes();
        if (nodes.length > MAX_SIGNERS) revert KmsSignerSetExceedsProofFormatLimit(nodes.length, MAX_SIGNERS);
        for (uint256 i = 0; i < nodes.length; i++) {
            address txSender = nodes[i].txSenderAddress;
            address signer = nodes[i].signerAddress;
            if (context.isTxSender[txSender]) revert KmsTxSenderAlreadyRegistered(txSender);
            if (context.isSigner[signer]) revert KmsSignerAlreadyRegistered(signer);
            context.isTxSender[txSender] = true;
            context.isSigner[signer] = true;
            context.nodes[txSender] = nodes[i];
            context.txSenders.push(txSender);
            context.signers.push(signer);
        }
    }

    function _setMpcThreshold(Context storage context, uint256 threshold) private {
        uint256 nodes = context.txSenders.length;
        if (threshold >= nodes) revert InvalidHighMpcThreshold(threshold, nodes);
        context.mpcThreshold = threshold;
    }

    function _setPublicDecryptionThreshold(Context storage context, uint256 threshold) private {
        uint256 nodes = context.txSenders.length;
        if (threshold == 0) revert InvalidNullPublicDecryptionThreshold();
        if (threshold > nodes) revert InvalidHighPublicDecryptionThreshold(threshold, nodes);
        context.publicDecryptionThreshold = threshold;
    }

    function _setUserDecryptionThreshold(Context storage context, uint256 threshold) private {
        uint256 nodes = context.txSenders.length;
        if (threshold == 0) revert InvalidNullUserDecryptionThreshold();
        if (threshold > nodes) revert InvalidHighUserDecryptionThreshold(threshold, nodes);
        context.userDecryptionThreshold = threshold;
    }

    function _setKmsGenThreshold(Context storage context, uint256 threshold) private {
        uint256 nodes = context.txSenders.length;
        if (threshold == 0) revert InvalidNullKmsGenThreshold();
        if (threshold > nodes) revert InvalidHighKmsGenThreshold(threshold, nodes);
        context.kmsGenThreshold = threshold;
    }

    // A new set of coprocessors replaces the old one whole.

    function _setCoprocessors(Coprocessor[] calldata coprocessors) private {
        if (coprocessors.length == 0) revert EmptyCoprocessors();
        for (uint256 i = 0; i < _coprocessorTxSenders.length; i++) {
            delete isCoprocessorTxSender[_coprocessorTxSenders[i]];
            delete isCoprocessorSigner[_coprocessorSigners[i]];
            delete _coprocessors[_coprocessorTxSenders[i]];
        }
        delete _coprocessorTxSenders;
        delete _coprocessorSigners;
        for (uint256 i = 0; i < coprocessors.length; i++) {
            address txSender = coprocessors[i].txSenderAddress;
            address signer = coprocessors[i].signerAddress;
            if (isCoprocessorTxSender[txSender]) revert CoprocessorTxSenderAlreadyRegistered(txSender);
            if (isCoprocessorSigner[signer]) revert CoprocessorSignerAlreadyRegistered(signer);
            isCoprocessorTxSender[txSender] = true;
            isCoprocessorSigner[signer] = true;
            _coprocessors[txSender] = coprocessors[i];
            _coprocessorTxSenders.push(txSender);
            _coprocessorSigners.push(signer);
        }
    }

    function _setCoprocessorThreshold(uint256 threshold) private {
        uint256 coprocessors = _coprocessorTxSenders.length;
        if (threshold == 0) revert InvalidNullCoprocessorThreshold();
        if (threshold > coprocessors) revert InvalidHighCoprocessorThreshold(threshold, coprocessors);
        _coprocessorThreshold = threshold;
    }

    function _addHostChain(HostChain calldata hostChain) private {
        uint256 chainId = hostChain.chainId;
        if (chainId == 0) revert InvalidNullChainId();
        if (chainId > type(uint64).max) revert ChainIdNotUint64(chainId);
        if (isHostChainRegistered[chainId]) revert HostChainAlreadyRegistered(chainId);
        isHostChainRegistered[chainId] = true;
        _hostChains.push(hostChain);
    }
}
