// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Initializable} from "../shared/Initializable.sol";

/// A host chain's access rights to ciphertexts. On a real host chain the applications grant them; here the owner does, in
/// everybody's name. What users do for themselves (delegations, taking back what they signed) they can do here too. The owner of
/// the Ethereum host's list is the owner of that chain's other contracts.
contract ACL is Initializable {
    /// A delegation for this contract is one for every contract.
    address public constant WILDCARD_DELEGATION_ADDRESS = address(type(uint160).max);

    struct Delegation {
        uint64 expirationDate;
        uint64 counter;
    }

    address public owner;

    mapping(bytes32 handle => mapping(address account => bool)) public persistAllowed;
    mapping(bytes32 handle => bool) public isAllowedForDecryption;
    mapping(address account => uint256 timestamp) public decryptionSignatureInvalidatedBefore;
    mapping(address delegator => mapping(address delegate => mapping(address contractAddress => Delegation))) private
        _delegations;

    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
    event Allowed(address indexed caller, address indexed account, bytes32 handle);
    event AllowedForDecryption(address indexed caller, bytes32[] handlesList);
    event DecryptionSignaturesInvalidated(address indexed account, uint256 beforeTimestamp);
    event DelegatedForUserDecryption(
        address indexed delegator,
        address indexed delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 oldExpirationDate,
        uint64 newExpirationDate
    );
    event RevokedDelegationForUserDecryption(
        address indexed delegator,
        address indexed delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 oldExpirationDate
    );

    error OwnableUnauthorizedAccount(address account);
    error HandlesListIsEmpty();
    error InvalidationTimestampInTheFuture();
    error InvalidationTimestampTooLow();
    error ExpirationDateInThePast();
    error ExpirationDateAlreadySetToSameValue(
        address delegator, address delegate, address contractAddress, uint256 expirationDate
    );
    error NotDelegatedYet(address delegator, address delegate, address contractAddress);
    error SenderCannotBeDelegate(address delegate);
    error DelegateCannotBeContractAddress(address contractAddress);

    modifier onlyOwner() {
        if (msg.sender != owner) revert OwnableUnauthorizedAccount(msg.sender);
        _;
    }

    function initializeFromEmptyProxy() external initializer {
        owner = msg.sender;
        emit OwnershipTransferred(address(0), msg.sender);
    }

    function getVersion() external pure returns (string memory) {
        return "ACL v0.5.0";
    }

    /// Several calls of this contract in one transaction; the first that fails undoes them all.
    function multicall(bytes[] calldata data) external returns (bytes[] memory results) {
        results = new bytes[](data.length);
        for (uint256 i = 0; i < data.length; i++) {
            (bool done, bytes memory answer) = address(this).delegatecall(data[i]);
            if (!done) {
                assembly {
                    revert(add(answer, 0x20), mload(answer))
                }
            }
            results[i] = answer;
        }
    }

    function allow(bytes32 handle, address account) external onlyOwner {
        persistAllowed[handle][account] = true;
        emit Allowed(msg.sender, account, handle);
    }

    function allowForDecryption(bytes32[] calldata handlesList) external onlyOwner {
        if (handlesList.length == 0) revert HandlesListIsEmpty();
        for (uint256 i = 0; i < handlesList.length; i++) {
            isAllowedForDecryption[handlesList[i]] = true;
        }
        emit AllowedForDecryption(msg.sender, handlesList);
    }

    // Only a development chain can take rights back and delegate for others, so that a test can play both sides.

    function disallow(bytes32 handle, address account) external onlyOwner {
        persistAllowed[handle][account] = false;
    }

    function disallowForDecryption(bytes32 handle) external onlyOwner {
        isAllowedForDecryption[handle] = false;
    }

    function setDelegation(address delegator, address delegate, address contractAddress, uint64 expirationDate)
        external
        onlyOwner
    {
        _delegate(delegator, delegate, contractAddress, expirationDate);
    }

    // What everybody does for himself.

    /// Whatever the sender signed with an earlier start is worth nothing from now on.
    function invalidateDecryptionSignaturesBefore(uint256 timestamp) external {
        if (timestamp > block.timestamp) revert InvalidationTimestampInTheFuture();
        if (timestamp <= decryptionSignatureInvalidatedBefore[msg.sender]) revert InvalidationTimestampTooLow();
        decryptionSignatureInvalidatedBefore[msg.sender] = timestamp;
        emit DecryptionSignaturesInvalidated(msg.sender, timestamp);
    }

    function delegateForUserDecryption(address delegate, address contractAddress, uint64 expirationDate) external {
        if (expirationDate < block.timestamp) revert ExpirationDateInThePast();
        if (delegate == msg.sender) revert SenderCannotBeDelegate(delegate);
        if (delegate == contractAddress) revert DelegateCannotBeContractAddress(contractAddress);
        if (_delegations[msg.sender][delegate][contractAddress].expirationDate == expirationDate) {
            revert ExpirationDateAlreadySetToSameValue(msg.sender, delegate, contractAddress, expirationDate);
        }
        _delegate(msg.sender, delegate, contractAddress, expirationDate);
    }

    function revokeDelegationForUserDecryption(address delegate, address contractAddress) external {
        Delegation storage delegation = _delegations[msg.sender][delegate][contractAddress];
        uint64 oldExpirationDate = delegation.expirationDate;
        if (oldExpirationDate == 0) revert NotDelegatedYet(msg.sender, delegate, contractAddress);
        delegation.expirationDate = 0;
        emit RevokedDelegationForUserDecryption(
            msg.sender, delegate, contractAddress, ++delegation.counter, oldExpirationDate
        );
    }

    function isAllowed(bytes32 handle, address account) external view returns (bool) {
        return persistAllowed[handle][account];
    }

    function getUserDecryptionDelegationExpirationDate(address delegator, address delegate, address contractAddress)
        external
        view
        returns (uint64)
    {
        return _delegations[delegator][delegate][contractAddress].expirationDate;
    }

    /// A delegation is for what the delegator and the contract may use themselves.
    function isHandleDelegatedForUserDecryption(
        address delegator,
        address delegate,
        address contractAddress,
        bytes32 handle
    ) external view returns (bool) {
        return persistAllowed[handle][delegator] && persistAllowed[handle][contractAddress]
            && (
                _delegations[delegator][delegate][contractAddress].expirationDate >= block.timestamp
                    || _delegations[delegator][delegate][WILDCARD_DELEGATION_ADDRESS].expirationDate >= block.timestamp
            );
    }

    function _delegate(address delegator, address delegate, address contractAddress, uint64 expirationDate) private {
        Delegation storage delegation = _delegations[delegator][delegate][contractAddress];
        uint64 oldExpirationDate = delegation.expirationDate;
        delegation.expirationDate = expirationDate;
        emit DelegatedForUserDecryption(
            delegator, delegate, contractAddress, ++delegation.counter, oldExpirationDate, expirationDate
        );
    }
}
