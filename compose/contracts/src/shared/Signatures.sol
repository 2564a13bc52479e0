// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// Recovery of signers with the strictness of the protocol: exactly 65 bytes `r || s || v`, the lower `s` of the two (EIP-2),
/// and `v` 27 or 28, since `ecrecover` knows no others.
library Ecdsa {
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    error ECDSAInvalidSignature();
    error ECDSAInvalidSignatureLength(uint256 length);
    error ECDSAInvalidSignatureS(bytes32 s);

    function signerOf(bytes32 digest, bytes calldata signature) internal pure returns (address signer) {
        if (signature.length != 65) revert ECDSAInvalidSignatureLength(signature.length);
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        if (uint256(s) > HALF_ORDER) revert ECDSAInvalidSignatureS(s);
        signer = ecrecover(digest, uint8(signature[64]), r, s);
        if (signer == address(0)) revert ECDSAInvalidSignature();
    }
}

/// The EIP-712 domain of a contract behind a proxy. Name and version live in storage, as a proxy's constructor cannot leave
/// them in code; the chain id is given, because users sign for their host chain.
abstract contract Eip712 {
    bytes32 private constant DOMAIN_TYPE_HASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    string internal _domainName;
    string internal _domainVersion;

    function _setDomain(string memory name, string memory version) internal {
        _domainName = name;
        _domainVersion = version;
    }

    function _typedDataHash(uint256 chainId, bytes32 structHash) internal view returns (bytes32) {
        bytes32 separator = keccak256(
            abi.encode(
                DOMAIN_TYPE_HASH,
                keccak256(bytes(_domainName)),
                keccak256(bytes(_domainVersion)),
                chainId,
                address(this)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", separator, structHash));
    }
}

/// A domain that can be asked for (EIP-5267).
abstract contract Eip5267 is Eip712 {
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (0x0f, _domainName, _domainVersion, block.chainid, address(this), bytes32(0), new uint256[](0));
    }
}
