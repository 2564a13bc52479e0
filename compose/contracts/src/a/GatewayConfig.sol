// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Coprocessor, HostChain, KmsNode} from "../shared/Types.sol";
import {Initializable} from "../shared/Initializable.sol";

/// Who takes part: KMS nodes, coprocessors, host chains, and how many of them must agree. The other contracts of the Gateway
/// read it at every call, so that a change of set or threshold applies to open requests too.
contract GatewayConfig is Initializable {
    struct Thresholds {
        uint256 mpcThreshold;
        uint256 publicDecryptionThreshold;
        uint256 userDecryptionThreshold;
        uint256 kmsGenThreshold;
        uint256 coprocessorThreshold;
    }

    address public owner;

    mapping(address txSender => bool) public isKmsTxSender;
    mapping(address signer => bool) public isKmsSigner;
    mapping(address txSender => KmsNode) private _kmsNodes;
    address[] private _kmsTxSenders;
    address[] private _kmsSigners;

    uint256 private _mpcThreshold;
    uint256 private _publicDecryptionThreshold;
    uint256 private _userDecryptionThreshold;
    uint256 private _kmsGenThreshold;

    mapping(address txSender => bool) public isCoprocessorTxSender;
    mapping(address signer => bool) public isCoprocessorSigner;
    mapping(address txSender => Coprocessor) private _coprocessors;
    address[] private _coprocessorTxSenders;
    address[] private _coprocessorSigners;
    uint256 private _coprocessorThreshold;

    HostChain[] private _hostChains;
    mapping(uint256 chainId => bool) public isHostChainRegistered;

    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
    event AddHostChain(HostChain hostChain);
    event UpdateKmsNodes(
        KmsNode[] newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    );
    event UpdateCoprocessors(Coprocessor[] newCoprocessors, uint256 newCoprocessorThreshold);
    event UpdateMpcThreshold(uint256 newMpcThreshold);
    event UpdatePublicDecryptionThreshold(uint256 newPublicDecryptionThreshold);
    event UpdateUserDecryptionThreshold(uint256 newUserDecryptionThreshold);
    event UpdateKmsGenThreshold(uint256 newKmsGenThreshold);
    event UpdateCoprocessorThreshold(uint256 newCoprocessorThreshold);

    error OwnableUnauthorizedAccount(address account);
    error EmptyKmsNodes();
    error EmptyCoprocessors();
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

    modifier onlyOwner() {
        if (msg.sender != owner) revert OwnableUnauthorizedAccount(msg.sender);
        _;
    }

    /// The creator of the proxy becomes the one owner of the Gateway.
    function initialize(
        Thresholds calldata thresholds,
        KmsNode[] calldata kmsNodes,
        Coprocessor[] calldata coprocessors,
        HostChain[] calldata hostChains
    ) external initializer {
        owner = msg.sender;
        emit OwnershipTransferred(address(0), msg.sender);
        _setKmsNodes(kmsNodes);
        _setMpcThreshold(thresholds.mpcThreshold);
        _setPublicDecryptionThreshold(thresholds.publicDecryptionThreshold);
        _setUserDecryptionThreshold(thresholds.userDecryptionThreshold);
        _setKmsGenThreshold(thresholds.kmsGenThreshold);
        _setCoprocessors(coprocessors);
        _setCoprocessorThreshold(thresholds.coprocessorThreshold);
        for (uint256 i = 0; i < hostChains.length; i++) {
            _addHostChain(hostChains[i]);
        }
    }

    function getVersion() external pure returns (string memory) {
        return "GatewayConfig v0.4.0";
    }

    // Changes by the owner.

    function updateKmsNodes(
        KmsNode[] calldata newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    ) external onlyOwner {
        _setKmsNodes(newKmsNodes);
        _setMpcThreshold(newMpcThreshold);
        _setPublicDecryptionThreshold(newPublicDecryptionThreshold);
        _setUserDecryptionThreshold(newUserDecryptionThreshold);
        _setKmsGenThreshold(newKmsGenThreshold);
        emit UpdateKmsNodes(
            newKmsNodes,
            newMpcThreshold,
            newPublicDecryptionThreshold,
            newUserDecryptionThreshold,
            newKmsGenThreshold
        );
    }

    function updateCoprocessors(Coprocessor[] calldata newCoprocessors, uint256 newCoprocessorThreshold)
        external
        onlyOwner
    {
        _setCoprocessors(newCoprocessors);
        _setCoprocessorThreshold(newCoprocessorThreshold);
        emit UpdateCoprocessors(newCoprocessors, newCoprocessorThreshold);
    }

    function updateMpcThreshold(uint256 newMpcThreshold) external onlyOwner {
        _setMpcThreshold(newMpcThreshold);
        emit UpdateMpcThreshold(newMpcThreshold);
    }

    function updatePublicDecryptionThreshold(uint256 newPublicDecryptionThreshold) external onlyOwner {
        _setPublicDecryptionThreshold(newPublicDecryptionThreshold);
        emit UpdatePublicDecryptionThreshold(newPublicDecryptionThreshold);
    }

    function updateUserDecryptionThreshold(uint256 newUserDecryptionThreshold) external onlyOwner {
        _setUserDecryptionThreshold(newUserDecryptionThreshold);
        emit UpdateUserDecryptionThreshold(newUserDecryptionThreshold);
    }

    function updateKmsGenThreshold(uint256 newKmsGenThreshold) external onlyOwner {
        _setKmsGenThreshold(newKmsGenThreshold);
        emit UpdateKmsGenThreshold(newKmsGenThreshold);
    }

    function updateCoprocessorThreshold(uint256 newCoprocessorThreshold) external onlyOwner {
        _setCoprocessorThreshold(newCoprocessorThreshold);
        emit UpdateCoprocessorThreshold(newCoprocessorThreshold);
    }

    function addHostChain(HostChain calldata hostChain) external onlyOwner {
        _addHostChain(hostChain);
        emit AddHostChain(hostChain);
    }

    // Views. Unknown accounts give an empty structure, not a revert.

    function isPauser(address account) external view returns (bool) {
        return account == owner;
    }

    function getKmsNode(address kmsTxSenderAddress) external view returns (KmsNode memory) {
        return _kmsNodes[kmsTxSenderAddress];
    }

    function getKmsTxSenders() external view returns (address[] memory) {
        return _kmsTxSenders;
    }

    function getKmsSigners() external view returns (address[] memory) {
        return _kmsSigners;
    }

    function getMpcThreshold() external view returns (uint256) {
        return _mpcThreshold;
    }

    function getPublicDecryptionThreshold() external view returns (uint256) {
        return _publicDecryptionThreshold;
    }

    function getUserDecryptionThreshold() external view returns (uint256) {
        return _userDecryptionThreshold;
    }

    function getKmsGenThreshold() external view returns (uint256) {
        return _kmsGenThreshold;
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

    // A new set replaces the old one whole.

    function _setKmsNodes(KmsNode[] calldata nodes) private {
        if (nodes.length == 0) revert EmptyKmsNodes();
        for (uint256 i = 0; i < _kmsTxSenders.length; i++) {
            delete isKmsTxSender[_kmsTxSenders[i]];
            delete isKmsSigner[_kmsSigners[i]];
            delete _kmsNodes[_kmsTxSenders[i]];
        }
        delete _kmsTxSenders;
        delete _kmsSigners;
        for (uint256 i = 0; i < nodes.length; i++) {
            address txSender = nodes[i].txSenderAddress;
            address signer = nodes[i].signerAddress;
            if (isKmsTxSender[txSender]) revert KmsTxSenderAlreadyRegistered(txSender);
            if (isKmsSigner[signer]) revert KmsSignerAlreadyRegistered(signer);
            isKmsTxSender[txSender] = true;
            isKmsSigner[signer] = true;
            _kmsNodes[txSender] = nodes[i];
            _kmsTxSenders.push(txSender);
            _kmsSigners.push(signer);
        }
    }

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

    function _setMpcThreshold(uint256 threshold) private {
        uint256 nodes = _kmsTxSenders.length;
        if (threshold >= nodes) revert InvalidHighMpcThreshold(threshold, nodes);
        _mpcThreshold = threshold;
    }

    function _setPublicDecryptionThreshold(uint256 threshold) private {
        uint256 nodes = _kmsTxSenders.length;
        if (threshold == 0) revert InvalidNullPublicDecryptionThreshold();
        if (threshold > nodes) revert InvalidHighPublicDecryptionThreshold(threshold, nodes);
        _publicDecryptionThreshold = threshold;
    }

    function _setUserDecryptionThreshold(uint256 threshold) private {
        uint256 nodes = _kmsTxSenders.length;
        if (threshold == 0) revert InvalidNullUserDecryptionThreshold();
        if (threshold > nodes) revert InvalidHighUserDecryptionThreshold(threshold, nodes);
        _userDecryptionThreshold = threshold;
    }

    function _setKmsGenThreshold(uint256 threshold) private {
        uint256 nodes = _kmsTxSenders.length;
        if (threshold == 0) revert InvalidNullKmsGenThreshold();
        if (threshold > nodes) revert InvalidHighKmsGenThreshold(threshold, nodes);
        _kmsGenThreshold = threshold;
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
