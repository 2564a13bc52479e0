// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ecdsa} from "./Signatures.sol";

/// A user's account with code: whether a signature is its own it says itself, as ERC-1271 has it. Its owner can make it
/// answer in each of the ways that a caller has to cope with.
contract Wallet {
    enum Manner {
        /// The magic value for the owner's signatures and for what it approved, four zero bytes for all else.
        Honest,
        /// Four bytes of something, whatever is asked.
        WrongMagic,
        /// A revert with a reason.
        Reverting,
        /// The magic value alone, in fewer than 32 bytes.
        Short,
        /// No end until the gas is used up.
        Endless
    }

    bytes4 private constant MAGIC = 0x1626ba7e;

    address public immutable OWNER;
    Manner public manner;
    /// What the owner has approved on chain is signed whatever the signature says, also by none.
    mapping(bytes32 digest => bool) public approved;

    error NotOwner(address sender);
    error NoAnswer();

    constructor(address owner) {
        OWNER = owner;
    }

    modifier onlyOwner() {
        if (msg.sender != OWNER) revert NotOwner(msg.sender);
        _;
    }

    function setManner(Manner newManner) external onlyOwner {
        manner = newManner;
    }

    function approve(bytes32 digest) external onlyOwner {
        approved[digest] = true;
    }

    /// A call in the wallet's name.
    function execute(address to, bytes calldata data) external onlyOwner returns (bytes memory) {
        (bool done, bytes memory answer) = to.call(data);
        if (!done) {
            assembly {
                revert(add(answer, 0x20), mload(answer))
            }
        }
        return answer;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (manner == Manner.Honest) {
            if (approved[digest]) return MAGIC;
            if (signature.length != 65) return bytes4(0);
            return Ecdsa.signerOf(digest, signature) == OWNER ? MAGIC : bytes4(0);
        }
        if (manner == Manner.WrongMagic) return 0xdeadbeef;
        if (manner == Manner.Reverting) revert NoAnswer();
        if (manner == Manner.Short) {
            assembly {
                mstore(0, MAGIC)
                return(0, 4)
            }
        }
        while (true) {}
        return bytes4(0);
    }
}
