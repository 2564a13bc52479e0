// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Initializable} from "../shared/Initializable.sol";

/// A host chain's access rights to ciphertexts. On a real host chain the applications grant them; here the owner does, in
/// everybody's name.
contract ACL is Initializable {
    address public owner;

    mapping(bytes32 handle => mapping(address account => bool)) public persistAllowed;
    mapping(bytes32 handle => bool) public isAllowedForDecryption;
    mapping(address delegator => mapping(address delegate => mapping(address contractAddress => uint64))) private
        _expirationDates;

    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
    event Allowed(address indexed caller, address indexed account, bytes32 handle);
    event AllowedForDecryption(address indexed caller, bytes32[] handlesList);
    event DelegatedForUserDecryption(
        address indexed delegator,
        address indexed delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 oldExpirationDate,
        uint64 newExpirationDate
    );

    error OwnableUnauthorizedAccount(address account);
    error HandlesListIsEmpty();

    modifier onlyOwner() {
        if (msg.sender != owner) revert OwnableUnauthorizedAccount(msg.sender);
        _;
    }

    function initializeFromEmptyProxy() external initializer {
        owner = msg.sender;
        emit OwnershipTransferred(address(0), msg.sender);
    }

    function getVersion() external pure returns (string memory) {
        return "ACL v0.2.0";
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
        uint64 oldExpirationDate = _expirationDates[delegator][delegate][contractAddress];
        _expirationDates[delegator][delegate][contractAddress] = expirationDate;
        emit DelegatedForUserDecryption(delegator, delegate, contractAddress, 0, oldExpirationDate, expirationDate);
    }

    function isAllowed(bytes32 handle, address account) external view returns (bool) {
        return persistAllowed[handle][account];
    }

    function getUserDecryptionDelegationExpirationDate(address delegator, address delegate, address contractAddress)
        external
        view
        returns (uint64)
    {
        return _expirationDates[delegator][delegate][contractAddress];
    }

    /// A delegation is for what the delegator and the contract may use themselves.
    function isHandleDelegatedForUserDecryption(
        address delegator,
        address delegate,
        address contractAddress,
        bytes32 handle
    ) external view returns (bool) {
        return persistAllowed[handle][delegator] && persistAllowed[handle][contractAddress]
            && _expirationDates[delegator][delegate][contractAddress] >= block.timestamp;
    }
}
