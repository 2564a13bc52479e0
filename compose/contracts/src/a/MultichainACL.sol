// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {GatewayConfig} from "./GatewayConfig.sol";
import {Initializable} from "../shared/Initializable.sol";
import {Registered} from "./Registered.sol";

/// The host chains' access rights as the coprocessors report them to the Gateway. Each statement counts once its
/// supporters reach the coprocessors' threshold.
contract MultichainACL is Registered, Initializable {
    struct Delegation {
        uint64 counter;
        uint64 expirationDate;
    }

    mapping(bytes32 statement => address[]) private _supporters;
    mapping(bytes32 statement => mapping(address coprocessor => bool)) private _voted;
    mapping(bytes32 statement => bool) private _agreed;
    mapping(bytes32 pair => Delegation) private _delegations;

    event AllowAccount(bytes32 indexed ctHandle, address accountAddress, address coprocessorTxSender, bytes extraData);
    event AllowAccountConsensus(bytes32 indexed ctHandle, address accountAddress, bytes extraData);
    event AllowPublicDecrypt(bytes32 indexed ctHandle, address coprocessorTxSender, bytes extraData);
    event AllowPublicDecryptConsensus(bytes32 indexed ctHandle, bytes extraData);
    event DelegateUserDecryption(
        uint256 indexed chainId,
        address delegator,
        address delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 expirationDate
    );
    event DelegateUserDecryptionConsensus(
        uint256 indexed chainId,
        address delegator,
        address delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 oldExpirationDate,
        uint64 newExpirationDate
    );

    error CoprocessorAlreadyAllowedAccount(bytes32 ctHandle, address account, address txSender);
    error CoprocessorAlreadyAllowedPublicDecrypt(bytes32 ctHandle, address txSender);
    error CoprocessorAlreadyDelegatedUserDecryption(
        uint256 chainId,
        address delegator,
        address delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 expirationDate,
        address txSender
    );
    error UserDecryptionDelegationCounterTooLow(uint64 delegationCounter);

    constructor(GatewayConfig gatewayConfig) Registered(gatewayConfig) {}

    function initializeFromEmptyProxy() external initializer {}

    function getVersion() external pure returns (string memory) {
        return "MultichainACL v0.3.0";
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

    function allowPublicDecrypt(bytes32 ctHandle, bytes calldata extraData)
        external
        onlyCoprocessorTxSender
        onlyHandleOfRegisteredHostChain(ctHandle)
    {
        bytes32 statement = _publicStatement(ctHandle);
        if (_voted[statement][msg.sender]) revert CoprocessorAlreadyAllowedPublicDecrypt(ctHandle, msg.sender);
        emit AllowPublicDecrypt(ctHandle, msg.sender, extraData);
        if (_support(statement)) emit AllowPublicDecryptConsensus(ctHandle, extraData);
    }

    function allowAccount(bytes32 ctHandle, address accountAddress, bytes calldata extraData)
        external
        onlyCoprocessorTxSender
        onlyHandleOfRegisteredHostChain(ctHandle)
    {
        bytes32 statement = _accountStatement(ctHandle, accountAddress);
        if (_voted[statement][msg.sender]) {
            revert CoprocessorAlreadyAllowedAccount(ctHandle, accountAddress, msg.sender);
        }
        emit AllowAccount(ctHandle, accountAddress, msg.sender, extraData);
        if (_support(statement)) emit AllowAccountConsensus(ctHandle, accountAddress, extraData);
    }

    function delegateUserDecryption(
        uint256 chainId,
        address delegator,
        address delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 expirationDate
    ) external onlyCoprocessorTxSender onlyRegisteredHostChain(chainId) {
        Delegation storage delegation = _delegations[_delegationPair(chainId, delegator, delegate, contractAddress)];
        if (delegationCounter < delegation.counter) revert UserDecryptionDelegationCounterTooLow(delegationCounter);

        bytes32 statement = _delegationStatement(
            chainId, delegator, delegate, contractAddress, delegationCounter, expirationDate
        );
        if (_voted[statement][msg.sender]) {
            revert CoprocessorAlreadyDelegatedUserDecryption(
                chainId, delegator, delegate, contractAddress, delegationCounter, expirationDate, msg.sender
            );
        }
        emit DelegateUserDecryption(
            chainId, delegator, delegate, contractAddress, delegationCounter, expirationDate
        );
        if (_support(statement)) {
            uint64 oldExpirationDate = delegation.expirationDate;
            delegation.counter = delegationCounter;
            delegation.expirationDate = expirationDate;
            emit DelegateUserDecryptionConsensus(
                chainId, delegator, delegate, contractAddress, delegationCounter, oldExpirationDate, expirationDate
            );
        }
    }

    function isPublicDecryptAllowed(bytes32 ctHandle) external view returns (bool) {
        return _agreed[_publicStatement(ctHandle)];
    }

    function isAccountAllowed(bytes32 ctHandle, address accountAddress) external view returns (bool) {
        return _agreed[_accountStatement(ctHandle, accountAddress)];
    }

    function isUserDecryptionDelegated(uint256 chainId, address delegator, address delegate, address contractAddress)
        external
        view
        returns (bool)
    {
        bytes32 pair = _delegationPair(chainId, delegator, delegate, contractAddress);
        return _delegations[pair].expirationDate >= block.timestamp;
    }

    function getAllowPublicDecryptConsensusTxSenders(bytes32 ctHandle) external view returns (address[] memory) {
        return _supportersOf(_publicStatement(ctHandle));
    }

    function getAllowAccountConsensusTxSenders(bytes32 ctHandle, address accountAddress)
        external
        view
        returns (address[] memory)
    {
        return _supportersOf(_accountStatement(ctHandle, accountAddress));
    }

    /// Counts the sender's vote; true for the one vote that reaches the threshold.
    function _support(bytes32 statement) private returns (bool decided) {
        _voted[statement][msg.sender] = true;
        address[] storage supporters = _supporters[statement];
        supporters.push(msg.sender);
        decided = !_agreed[statement] && supporters.length >= GATEWAY_CONFIG.getCoprocessorMajorityThreshold();
        if (decided) _agreed[statement] = true;
    }

    function _supportersOf(bytes32 statement) private view returns (address[] memory none) {
        return _agreed[statement] ? _supporters[statement] : none;
    }

    function _publicStatement(bytes32 ctHandle) private pure returns (bytes32) {
        return keccak256(abi.encode("public", ctHandle));
    }

    function _accountStatement(bytes32 ctHandle, address account) private pure returns (bytes32) {
        return keccak256(abi.encode("account", ctHandle, account));
    }

    function _delegationPair(uint256 chainId, address delegator, address delegate, address contractAddress)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode("delegation", chainId, delegator, delegate, contractAddress));
    }

    function _delegationStatement(
        uint256 chainId,
        address delegator,
        address delegate,
        address contractAddress,
        uint64 counter,
        uint64 expirationDate
    ) private pure returns (bytes32) {
        return keccak256(
            abi.encode("delegate", chainId, delegator, delegate, contractAddress, counter, expirationDate)
        );
    }
}
