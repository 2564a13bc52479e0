// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// The code that a KMS node's transaction sender delegates to (EIP-7702), so that many answers leave in one transaction and
/// still come from the registered account.
///
/// It keeps nothing: no storage, no owner, no upgrade, nothing for a constructor to set. Whose account it is says `address(this)`,
/// and only that account may use it. Called at its own address it can do nothing for anybody.
contract BatchExecutor {
    /// One call, with no value.
    struct Call {
        address to;
        /// Most gas that it may use. It is started only if it can have all of it.
        uint256 gasCap;
        bytes data;
    }

    enum Cause {
        /// It reverted or ran out of its gas; `data` is the beginning of what it returned.
        Reverted,
        /// It was not started: too little gas is left for it.
        NoGas,
        /// It was not started: it is to the account itself.
        OwnAccount
    }

    /// A call without this event was made and did not revert.
    event CallFailed(uint256 index, Cause cause, bytes data);

    error OnlyTheAccount();
    error UnknownMode(bytes32 mode);

    /// ERC-7579: a batch (01) whose failures do not stop it (01), with calls in a form of their own:
    /// bytes4(keccak256("kms-connector.batch.v1")).
    bytes32 private constant MODE = 0x010100000000c9bdfd6600000000000000000000000000000000000000000000;
    /// ERC-7579: the last 22 bytes of a mode are a payload, which this one does not read.
    bytes32 private constant PAYLOAD = bytes32(uint256(type(uint176).max));

    /// Bytes kept of what a failed call returns: every error of the protocol fits three times.
    uint256 private constant KEPT = 256;
    /// Gas for reaching the callee (cold, and delegated in its turn) and for reporting what it returned.
    uint256 private constant CALL_RESERVE = 14_000;
    /// Gas for reporting each later call, should none of them be started.
    uint256 private constant REPORT_RESERVE = 3_000;

    /// Plain transfers arrive, as they did before the account had code.
    receive() external payable {}

    /// ERC-7821: runs the calls of `abi.encode(Call[])` in order, each for itself: none that fails stops another.
    function execute(bytes32 mode, bytes calldata executionData) external {
        // Also refuses a callee that calls back. The account itself can come back only by a call to itself, refused below.
        if (msg.sender != address(this)) revert OnlyTheAccount();
        if (!supportsExecutionMode(mode)) revert UnknownMode(mode);
        Call[] calldata calls;
        assembly ("memory-safe") {
            // As abi.decode(executionData, (Call[])) without a copy. Only the account can hand over something malformed, and then
            // reads what it handed over.
            let list := add(executionData.offset, calldataload(executionData.offset))
            calls.offset := add(list, 32)
            calls.length := calldataload(list)
        }
        for (uint256 index = 0; index < calls.length; ++index) {
            Call calldata one = calls[index];
            if (one.to == address(this)) {
                emit CallFailed(index, Cause.OwnAccount, "");
            } else {
                run(one.to, one.gasCap, one.data, index, calls.length - index - 1);
            }
        }
    }

    /// ERC-7821, ERC-7579: whether [`execute`] knows a mode.
    function supportsExecutionMode(bytes32 mode) public pure returns (bool) {
        return mode & ~PAYLOAD == MODE;
    }

    function run(address to, uint256 gasCap, bytes calldata data, uint256 index, uint256 later) private {
        bool enough;
        bool succeeded;
        bytes memory returned;
        assembly ("memory-safe") {
            // Memory beyond the pointer is used and not kept, so that it does not grow with every call.
            let free := mload(0x40)
            calldatacopy(free, data.offset, data.length)
            // CALL silently hands over less than asked for when a sixty-fourth of what is left would not stay.
            let needed := add(add(gasCap, div(gasCap, 63)), add(CALL_RESERVE, mul(REPORT_RESERVE, later)))
            enough := and(iszero(shr(64, gasCap)), iszero(lt(gas(), needed)))
            if enough { succeeded := call(gasCap, to, 0, free, data.length, 0, 0) }
            returned := 0x60
            if iszero(or(succeeded, iszero(enough))) {
                // What a callee returns is its own choice, and copying it is paid by this account.
                let size := returndatasize()
                if gt(size, KEPT) { size := KEPT }
                returned := free
                mstore(returned, size)
                returndatacopy(add(returned, 32), 0, size)
            }
        }
        if (!enough) emit CallFailed(index, Cause.NoGas, "");
        else if (!succeeded) emitReverted(index, returned);
    }

    function emitReverted(uint256 index, bytes memory returned) private {
        assembly ("memory-safe") {
            // The event is encoded behind what was returned, which is where the pointer stands too.
            mstore(0x40, add(returned, add(32, KEPT)))
        }
        emit CallFailed(index, Cause.Reverted, returned);
        assembly ("memory-safe") {
            mstore(0x40, returned)
        }
    }
}
