// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CtHandleContractPair, SnsCiphertextMaterial} from "../shared/Types.sol";
import {CiphertextCommits} from "./CiphertextCommits.sol";
import {Ecdsa, Eip5267} from "../shared/Signatures.sol";
import {ExtraData} from "../shared/ExtraData.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {Handles} from "../shared/Handles.sol";
import {Initializable} from "../shared/Initializable.sol";
import {Registered} from "./Registered.sol";

/// Decryption requests and the KMS nodes' answers to them.
///
/// Each request belongs to the KMS context that was named, or else current, when it was made: that context's nodes answer it,
/// whatever becomes current later, until it is destroyed. Nobody's access rights are asked about here, and of a unified user
/// decryption not even the signature: that is left to the nodes.
///
/// Public decryptions are decided by votes for one result: answers are grouped by the digest that was signed, and the first
/// group to reach the threshold decides. User decryptions only count shares, which differ from node to node. In both a node's
/// answer is recorded and its event emitted also after the decision, and once per node whatever it says.
contract Decryption is Registered, Eip5267, Initializable {
    struct RequestValidity {
        uint256 startTimestamp;
        uint256 durationDays;
    }

    struct RequestValiditySeconds {
        uint256 startTimestamp;
        uint256 durationSeconds;
    }

    struct ContractsInfo {
        uint256 chainId;
        address[] addresses;
    }

    struct DelegationAccounts {
        address delegatorAddress;
        address delegateAddress;
    }

    struct HandleEntry {
        bytes32 handle;
        address contractAddress;
        address ownerAddress;
    }

    struct UserDecryptionRequestPayload {
        address userAddress;
        bytes publicKey;
        address[] allowedContracts;
        RequestValiditySeconds requestValidity;
        bytes extraData;
        bytes signature;
    }

    struct UserRequest {
        bytes publicKey;
        bytes32[] ctHandles;
    }

    /// Ids hold what they name in their highest byte and count in the others.
    uint256 private constant PUBLIC_IDS = uint256(1) << 248;
    uint256 private constant USER_IDS = uint256(2) << 248;

    uint256 private constant MAX_REQUEST_BITS = 2048;
    uint256 private constant MAX_DURATION_DAYS = 365;
    uint256 private constant MAX_DURATION_SECONDS = 365 days;
    uint256 private constant MAX_CONTRACT_ADDRESSES = 10;

    bytes32 private constant PUBLIC_RESPONSE_TYPE_HASH =
        keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)");
    bytes32 private constant USER_RESPONSE_TYPE_HASH = keccak256(
        "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare,bytes extraData)"
    );
    bytes32 private constant USER_REQUEST_TYPE_HASH = keccak256(
        "UserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,uint256 startTimestamp,uint256 durationDays,bytes extraData)"
    );
    bytes32 private constant DELEGATED_REQUEST_TYPE_HASH = keccak256(
        "DelegatedUserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,address delegatorAddress,uint256 startTimestamp,uint256 durationDays,bytes extraData)"
    );

    CiphertextCommits private immutable CIPHERTEXT_COMMITS;

    bool public paused;

    // What an answer writes is kept slot for slot as on the real Gateway, in words of its own, because the gas of answers is
    // part of what a development chain has to show: see README.md.
    uint256 private _publicCounter;
    uint256 private _userCounter;
    mapping(uint256 decryptionId => bytes32[] handles) private _publicRequests;
    mapping(uint256 decryptionId => UserRequest) private _userRequests;
    mapping(uint256 decryptionId => uint256 contextId) private _contextIds;
    mapping(uint256 decryptionId => mapping(address signer => bool)) private _answered;
    mapping(uint256 decryptionId => mapping(bytes32 digest => bytes[])) private _signatures;
    mapping(uint256 decryptionId => mapping(bytes32 digest => address[])) private _responders;
    mapping(uint256 decryptionId => bytes32 digest) private _decidedDigest;
    mapping(uint256 decryptionId => bool) public isDecryptionDone;

    event Paused(address account);
    event Unpaused(address account);
    event PublicDecryptionRequest(
        uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials, bytes extraData
    );
    event PublicDecryptionRequest(uint256 indexed decryptionId, bytes32[] ctHandles, bytes extraData);
    event PublicDecryptionResponseCall(
        uint256 indexed decryptionId, bytes decryptedResult, bytes signature, address kmsTxSender, bytes extraData
    );
    event PublicDecryptionResponse(
        uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures, bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        address userAddress,
        bytes publicKey,
        bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId, bytes32[] ctHandles, address userAddress, bytes publicKey, bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        HandleEntry[] handles,
        UserDecryptionRequestPayload payload
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId, HandleEntry[] handles, UserDecryptionRequestPayload payload
    );
    event UserDecryptionResponse(
        uint256 indexed decryptionId, uint256 indexShare, bytes userDecryptedShare, bytes signature, bytes extraData
    );
    event UserDecryptionResponseThresholdReached(uint256 indexed decryptionId);

    error EnforcedPause();
    error ExpectedPause();
    error NotPauserOrGatewayConfig(address notPauserOrGatewayConfig);
    error NotOwnerOrGatewayConfig(address notOwnerOrGatewayConfig);
    error EmptyCtHandles();
    error EmptyCtHandleContractPairs();
    error EmptyHandles();
    error EmptyContractAddresses();
    error ContractAddressesMaxLengthExceeded(uint256 maxLength, uint256 actualLength);
    error ContractNotInContractAddresses(address contractAddress, address[] contractAddresses);
    error UserAddressInContractAddresses(address userAddress, address[] contractAddresses);
    error DelegatorAddressInContractAddresses(address delegatorAddress, address[] contractAddresses);
    error CtHandleChainIdDiffersFromContractChainId(bytes32 ctHandle, uint256 chainId, uint256 contractChainId);
    error MaxDecryptionRequestBitSizeExceeded(uint256 maxBitSize, uint256 totalBitSize);
    error DifferentKeyIdsNotAllowed(
        SnsCiphertextMaterial firstSnsCtMaterial, SnsCiphertextMaterial invalidSnsCtMaterial
    );
    error InvalidNullDurationDays();
    error MaxDurationDaysExceeded(uint256 maxValue, uint256 actualValue);
    error InvalidNullDurationSeconds();
    error MaxDurationSecondsExceeded(uint256 maxValue, uint256 actualValue);
    error StartTimestampInFuture(uint256 currentTimestamp, uint256 startTimestamp);
    error UserDecryptionRequestExpired(uint256 currentTimestamp, RequestValidity requestValidity);
    error UserDecryptionRequestExpiredSeconds(uint256 currentTimestamp, RequestValiditySeconds requestValidity);
    error InvalidUserSignature(bytes signature);
    error InvalidKmsContext(uint256 kmsContextId);
    error DecryptionNotRequested(uint256 decryptionId);
    error DecryptionContextMismatch(uint256 decryptionId, uint256 requestContextId, uint256 responseContextId);
    error NotKmsSigner(address signerAddress);
    error KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress);
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);

    constructor(GatewayConfig gatewayConfig, CiphertextCommits ciphertextCommits) Registered(gatewayConfig) {
        CIPHERTEXT_COMMITS = ciphertextCommits;
    }

    modifier whenNotPaused() {
        if (paused) revert EnforcedPause();
        _;
    }

    function initializeFromEmptyProxy() external initializer {
        _setDomain("Decryption", "1");
        _publicCounter = PUBLIC_IDS;
        _userCounter = USER_IDS;
    }

    function getVersion() external pure virtual returns (string memory) {
        return "Decryption v0.7.0";
    }

    // Pausing stops requests only: the answers to those that were made still count.

    function pause() external whenNotPaused {
        if (!GATEWAY_CONFIG.isPauser(msg.sender)) revert NotPauserOrGatewayConfig(msg.sender);
        paused = true;
        emit Paused(msg.sender);
    }

    function unpause() external {
        if (!paused) revert ExpectedPause();
        if (msg.sender != GATEWAY_CONFIG.owner()) revert NotOwnerOrGatewayConfig(msg.sender);
        paused = false;
        emit Unpaused(msg.sender);
    }

    // Requests. A handle may stand in one twice: each occurrence counts, is signed and is answered by itself. Each is announced
    // twice: with the ciphertexts' materials, as before, and then with the handles alone.

    function publicDecryptionRequest(bytes32[] calldata ctHandles, bytes calldata extraData) external whenNotPaused {
        if (ctHandles.length == 0) revert EmptyCtHandles();
        uint256 bits = 0;
        for (uint256 i = 0; i < ctHandles.length; i++) {
            _requireEnabledHostChain(Handles.chainIdOf(ctHandles[i]));
            bits += Handles.clearBitsOf(ctHandles[i]);
        }
        _requireFits(bits);
        SnsCiphertextMaterial[] memory materials = _materialsOfOneKey(ctHandles);

        uint256 contextId = _contextOfRequest(extraData);
        uint256 decryptionId = ++_publicCounter;
        _contextIds[decryptionId] = contextId;
        _publicRequests[decryptionId] = ctHandles;
        emit PublicDecryptionRequest(decryptionId, materials, extraData);
        if (_announcesHandles()) emit PublicDecryptionRequest(decryptionId, ctHandles, extraData);
    }

    function userDecryptionRequest(
        CtHandleContractPair[] calldata ctHandleContractPairs,
        RequestValidity calldata requestValidity,
        ContractsInfo calldata contractsInfo,
        address userAddress,
        bytes calldata publicKey,
        bytes calldata signature,
        bytes calldata extraData
    ) external whenNotPaused onlyEnabledHostChain(contractsInfo.chainId) {
        _requireUserForm(ctHandleContractPairs, requestValidity, contractsInfo);
        if (_contains(contractsInfo.addresses, userAddress)) {
            revert UserAddressInContractAddresses(userAddress, contractsInfo.addresses);
        }
        bytes32[] memory handles = _listedHandles(ctHandleContractPairs, contractsInfo);

        bytes32 structHash = _directHash(requestValidity, contractsInfo.addresses, publicKey, extraData);
        _requireUserSignature(contractsInfo.chainId, structHash, signature, userAddress);
        _openLegacyRequest(handles, userAddress, publicKey, extraData);
    }

    function delegatedUserDecryptionRequest(
        CtHandleContractPair[] calldata ctHandleContractPairs,
        RequestValidity calldata requestValidity,
        DelegationAccounts calldata delegationAccounts,
        ContractsInfo calldata contractsInfo,
        bytes calldata publicKey,
        bytes calldata signature,
        bytes calldata extraData
    ) external whenNotPaused onlyEnabledHostChain(contractsInfo.chainId) {
        _requireUserForm(ctHandleContractPairs, requestValidity, contractsInfo);
        if (_contains(contractsInfo.addresses, delegationAccounts.delegatorAddress)) {
            revert DelegatorAddressInContractAddresses(delegationAccounts.delegatorAddress, contractsInfo.addresses);
        }
        bytes32[] memory handles = _listedHandles(ctHandleContractPairs, contractsInfo);

        bytes32 structHash = _delegatedHash(
            requestValidity, contractsInfo.addresses, delegationAccounts.delegatorAddress, publicKey, extraData
        );
        _requireUserSignature(contractsInfo.chainId, structHash, signature, delegationAccounts.delegateAddress);
        _openLegacyRequest(handles, delegationAccounts.delegateAddress, publicKey, extraData);
    }

    /// The user's own and others' ciphertexts in one request. Whether the user signed it, and may see them, is not asked here.
    function userDecryptionRequest(
        HandleEntry[] calldata handles,
        address userAddress,
        bytes calldata publicKey,
        address[] calldata allowedContracts,
        RequestValiditySeconds calldata requestValidity,
        bytes calldata signature,
        bytes calldata extraData
    ) external whenNotPaused {
        if (handles.length == 0) revert EmptyHandles();
        if (allowedContracts.length > MAX_CONTRACT_ADDRESSES) {
            revert ContractAddressesMaxLengthExceeded(MAX_CONTRACT_ADDRESSES, allowedContracts.length);
        }
        _requireInTime(requestValidity);
        UserDecryptionRequestPayload memory payload;
        payload.userAddress = userAddress;
        payload.publicKey = publicKey;
        payload.allowedContracts = allowedContracts;
        payload.requestValidity = requestValidity;
        payload.extraData = extraData;
        payload.signature = signature;
        _openUnifiedRequest(handles, payload, _contextOfRequest(extraData));
    }

    // Answers.

    function publicDecryptionResponse(
        uint256 decryptionId,
        bytes calldata decryptedResult,
        bytes calldata signature,
        bytes calldata extraData
    ) external {
        if (decryptionId <= PUBLIC_IDS || decryptionId > _publicCounter) revert DecryptionNotRequested(decryptionId);
        uint256 contextId = _requireContextOfRequest(decryptionId, extraData);

        bytes32[] memory handles = _publicRequests[decryptionId];
        bytes32 digest = _typedDataHash(
            block.chainid,
            keccak256(
                abi.encode(
                    PUBLIC_RESPONSE_TYPE_HASH,
                    keccak256(abi.encodePacked(handles)),
                    keccak256(decryptedResult),
                    keccak256(extraData)
                )
            )
        );
        _recordSigner(decryptionId, contextId, digest, signature);

        bytes[] storage signatures = _signatures[decryptionId][digest];
        signatures.push(signature);
        _responders[decryptionId][digest].push(msg.sender);
        emit PublicDecryptionResponseCall(decryptionId, decryptedResult, signature, msg.sender, extraData);

        if (
            !isDecryptionDone[decryptionId]
                && signatures.length >= GATEWAY_CONFIG.getPublicDecryptionThresholdForContext(contextId)
        ) {
            isDecryptionDone[decryptionId] = true;
            _decidedDigest[decryptionId] = digest;
            emit PublicDecryptionResponse(decryptionId, decryptedResult, signatures, extraData);
        }
    }

    function userDecryptionResponse(
        uint256 decryptionId,
        bytes calldata userDecryptedShare,
        bytes calldata signature,
        bytes calldata extraData
    ) external {
        if (decryptionId <= USER_IDS || decryptionId > _userCounter) revert DecryptionNotRequested(decryptionId);
        uint256 contextId = _requireContextOfRequest(decryptionId, extraData);

        UserRequest memory request = _userRequests[decryptionId];
        bytes32 digest = _typedDataHash(
            block.chainid,
            keccak256(
                abi.encode(
                    USER_RESPONSE_TYPE_HASH,
                    keccak256(request.publicKey),
                    keccak256(abi.encodePacked(request.ctHandles)),
                    keccak256(userDecryptedShare),
                    keccak256(extraData)
                )
            )
        );
        _recordSigner(decryptionId, contextId, digest, signature);

        // Every share has a digest of its own, so all responders stand under the digest zero.
        address[] storage responders = _responders[decryptionId][bytes32(0)];
        responders.push(msg.sender);
        uint256 shares = responders.length;
        emit UserDecryptionResponse(decryptionId, shares - 1, userDecryptedShare, signature, extraData);

        if (
            !isDecryptionDone[decryptionId]
                && shares >= GATEWAY_CONFIG.getUserDecryptionThresholdForContext(contextId)
        ) {
            isDecryptionDone[decryptionId] = true;
            emit UserDecryptionResponseThresholdReached(decryptionId);
        }
    }

    // Views.

    /// Public decryptions: those who voted for the decided result, empty until there is one. User decryptions: everybody who
    /// has answered so far.
    function getDecryptionConsensusTxSenders(uint256 decryptionId) external view returns (address[] memory) {
        return _responders[decryptionId][_decidedDigest[decryptionId]];
    }

    function isPublicDecryptionReady(bytes32[] calldata ctHandles, bytes calldata) external view returns (bool) {
        for (uint256 i = 0; i < ctHandles.length; i++) {
            if (!CIPHERTEXT_COMMITS.isCiphertextMaterialAdded(ctHandles[i])) return false;
        }
        return true;
    }

    function isUserDecryptionReady(HandleEntry[] calldata handles, bytes calldata) external view returns (bool) {
        for (uint256 i = 0; i < handles.length; i++) {
            if (!CIPHERTEXT_COMMITS.isCiphertextMaterialAdded(handles[i].handle)) return false;
        }
        return true;
    }

    function isUserDecryptionReady(CtHandleContractPair[] calldata ctHandleContractPairs, bytes calldata)
        external
        view
        returns (bool)
    {
        return _areCommitted(ctHandleContractPairs);
    }

    /// The address is not looked at.
    function isUserDecryptionReady(
        address,
        CtHandleContractPair[] calldata ctHandleContractPairs,
        bytes calldata
    ) external view returns (bool) {
        return _areCommitted(ctHandleContractPairs);
    }

    function isDelegatedUserDecryptionReady(CtHandleContractPair[] calldata ctHandleContractPairs, bytes calldata)
        external
        view
        returns (bool)
    {
        return _areCommitted(ctHandleContractPairs);
    }

    /// Whether requests are announced by their handles alone too.
    function _announcesHandles() internal pure virtual returns (bool) {
        return true;
    }

    // What requests share.

    function _requireUserForm(
        CtHandleContractPair[] calldata pairs,
        RequestValidity calldata validity,
        ContractsInfo calldata contractsInfo
    ) private view {
        if (pairs.length == 0) revert EmptyCtHandleContractPairs();
        uint256 contracts = contractsInfo.addresses.length;
        if (contracts == 0) revert EmptyContractAddresses();
        if (contracts > MAX_CONTRACT_ADDRESSES) {
            revert ContractAddressesMaxLengthExceeded(MAX_CONTRACT_ADDRESSES, contracts);
        }
        if (validity.durationDays == 0) revert InvalidNullDurationDays();
        if (validity.durationDays > MAX_DURATION_DAYS) {
            revert MaxDurationDaysExceeded(MAX_DURATION_DAYS, validity.durationDays);
        }
        if (validity.startTimestamp > block.timestamp) {
            revert StartTimestampInFuture(block.timestamp, validity.startTimestamp);
        }
        if (validity.startTimestamp + validity.durationDays * 1 days < block.timestamp) {
            revert UserDecryptionRequestExpired(block.timestamp, validity);
        }
    }

    function _requireInTime(RequestValiditySeconds calldata validity) private view {
        if (validity.durationSeconds == 0) revert InvalidNullDurationSeconds();
        if (validity.durationSeconds > MAX_DURATION_SECONDS) {
            revert MaxDurationSecondsExceeded(MAX_DURATION_SECONDS, validity.durationSeconds);
        }
        if (validity.startTimestamp > block.timestamp) {
            revert StartTimestampInFuture(block.timestamp, validity.startTimestamp);
        }
        if (validity.startTimestamp + validity.durationSeconds < block.timestamp) {
            revert UserDecryptionRequestExpiredSeconds(block.timestamp, validity);
        }
    }

    /// The handles of the pairs, once each pair's contract is known to be among those that were signed for.
    function _listedHandles(CtHandleContractPair[] calldata pairs, ContractsInfo calldata contractsInfo)
        private
        pure
        returns (bytes32[] memory handles)
    {
        handles = new bytes32[](pairs.length);
        uint256 bits = 0;
        for (uint256 i = 0; i < pairs.length; i++) {
            bytes32 handle = pairs[i].ctHandle;
            _requireOnChain(handle, contractsInfo.chainId);
            if (!_contains(contractsInfo.addresses, pairs[i].contractAddress)) {
                revert ContractNotInContractAddresses(pairs[i].contractAddress, contractsInfo.addresses);
            }
            bits += Handles.clearBitsOf(handle);
            handles[i] = handle;
        }
        _requireFits(bits);
    }

    function _handlesOfOneChain(HandleEntry[] calldata entries) private view returns (bytes32[] memory handles) {
        uint256 chainId = Handles.chainIdOf(entries[0].handle);
        _requireEnabledHostChain(chainId);
        handles = new bytes32[](entries.length);
        uint256 bits = 0;
        for (uint256 i = 0; i < entries.length; i++) {
            bytes32 handle = entries[i].handle;
            _requireOnChain(handle, chainId);
            bits += Handles.clearBitsOf(handle);
            handles[i] = handle;
        }
        _requireFits(bits);
    }

    function _requireOnChain(bytes32 handle, uint256 contractChainId) private pure {
        uint256 chainId = Handles.chainIdOf(handle);
        if (chainId != contractChainId) {
            revert CtHandleChainIdDiffersFromContractChainId(handle, chainId, contractChainId);
        }
    }

    function _directHash(
        RequestValidity calldata validity,
        address[] calldata contracts,
        bytes calldata publicKey,
        bytes calldata extraData
    ) private pure returns (bytes32) {
        return keccak256(
            abi.encode(
                USER_REQUEST_TYPE_HASH,
                keccak256(publicKey),
                _wordsHash(contracts),
                validity.startTimestamp,
                validity.durationDays,
                keccak256(extraData)
            )
        );
    }

    function _delegatedHash(
        RequestValidity calldata validity,
        address[] calldata contracts,
        address delegator,
        bytes calldata publicKey,
        bytes calldata extraData
    ) private pure returns (bytes32) {
        return keccak256(
            abi.encode(
                DELEGATED_REQUEST_TYPE_HASH,
                keccak256(publicKey),
                _wordsHash(contracts),
                delegator,
                validity.startTimestamp,
                validity.durationDays,
                keccak256(extraData)
            )
        );
    }

    /// Users sign for their host chain, unlike the KMS nodes, who sign for the Gateway.
    function _requireUserSignature(uint256 chainId, bytes32 structHash, bytes calldata signature, address signer)
        private
        view
    {
        if (Ecdsa.signerOf(_typedDataHash(chainId, structHash), signature) != signer) {
            revert InvalidUserSignature(signature);
        }
    }

    function _openLegacyRequest(
        bytes32[] memory handles,
        address userAddress,
        bytes calldata publicKey,
        bytes calldata extraData
    ) private {
        SnsCiphertextMaterial[] memory materials = _materialsOfOneKey(handles);
        uint256 decryptionId = _openUserRequest(handles, publicKey, _contextOfRequest(extraData));
        emit UserDecryptionRequest(decryptionId, materials, userAddress, publicKey, extraData);
        if (_announcesHandles()) {
            emit UserDecryptionRequest(decryptionId, handles, userAddress, publicKey, extraData);
        }
    }

    function _openUnifiedRequest(
        HandleEntry[] calldata handles,
        UserDecryptionRequestPayload memory payload,
        uint256 contextId
    ) private {
        bytes32[] memory ctHandles = _handlesOfOneChain(handles);
        SnsCiphertextMaterial[] memory materials = _materialsOfOneKey(ctHandles);
        uint256 decryptionId = _openUserRequest(ctHandles, payload.publicKey, contextId);
        emit UserDecryptionRequest(decryptionId, materials, handles, payload);
        if (_announcesHandles()) emit UserDecryptionRequest(decryptionId, handles, payload);
    }

    function _openUserRequest(bytes32[] memory handles, bytes memory publicKey, uint256 contextId)
        private
        returns (uint256 decryptionId)
    {
        decryptionId = ++_userCounter;
        _contextIds[decryptionId] = contextId;
        _userRequests[decryptionId] = UserRequest(publicKey, handles);
    }

    /// The context a new request belongs to: the one it names, else the current one.
    function _contextOfRequest(bytes calldata extraData) private view returns (uint256 contextId) {
        contextId = ExtraData.contextOf(extraData);
        if (contextId == 0) return GATEWAY_CONFIG.getCurrentKmsContextId();
        if (!GATEWAY_CONFIG.isValidKmsContext(contextId)) revert InvalidKmsContext(contextId);
    }

    function _materialsOfOneKey(bytes32[] memory handles)
        private
        view
        returns (SnsCiphertextMaterial[] memory materials)
    {
        materials = CIPHERTEXT_COMMITS.getSnsCiphertextMaterials(handles);
        for (uint256 i = 1; i < materials.length; i++) {
            if (materials[i].keyId != materials[0].keyId) revert DifferentKeyIdsNotAllowed(materials[0], materials[i]);
        }
    }

    function _requireFits(uint256 bits) private pure {
        if (bits > MAX_REQUEST_BITS) revert MaxDecryptionRequestBitSizeExceeded(MAX_REQUEST_BITS, bits);
    }

    function _areCommitted(CtHandleContractPair[] calldata pairs) private view returns (bool) {
        for (uint256 i = 0; i < pairs.length; i++) {
            if (!CIPHERTEXT_COMMITS.isCiphertextMaterialAdded(pairs[i].ctHandle)) return false;
        }
        return true;
    }

    function _contains(address[] calldata addresses, address wanted) private pure returns (bool) {
        for (uint256 i = 0; i < addresses.length; i++) {
            if (addresses[i] == wanted) return true;
        }
        return false;
    }

    /// EIP-712 hash of an array of addresses: each fills a word.
    function _wordsHash(address[] calldata addresses) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(addresses));
    }

    // What answers share.

    /// An answer must name the context its request belongs to. One that names none speaks for the current context, which may be
    /// another by now.
    function _requireContextOfRequest(uint256 decryptionId, bytes calldata extraData)
        private
        view
        returns (uint256 contextId)
    {
        uint256 answering = ExtraData.contextOf(extraData);
        if (answering == 0) answering = GATEWAY_CONFIG.getCurrentKmsContextId();
        contextId = _contextIds[decryptionId];
        if (answering != contextId) revert DecryptionContextMismatch(decryptionId, contextId, answering);
    }

    /// The signer must be a node's of the context, and that of the very node whose account sends; the register refuses a context
    /// that was destroyed. "Not yet answered" is the last of the checks: a repetition with a damaged signature is told of the
    /// damage.
    function _recordSigner(uint256 decryptionId, uint256 contextId, bytes32 digest, bytes calldata signature) private {
        address signer = Ecdsa.signerOf(digest, signature);
        if (!GATEWAY_CONFIG.isKmsSignerForContext(contextId, signer)) revert NotKmsSigner(signer);
        if (GATEWAY_CONFIG.getKmsNodeForContext(contextId, msg.sender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
        if (_answered[decryptionId][signer]) revert KmsNodeAlreadySigned(decryptionId, signer);
        _answered[decryptionId][signer] = true;
    }
}
