// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// Initialised once, in the storage of a proxy; never in an implementation's own storage.
abstract contract Initializable {
    uint64 private _initialized;

    event Initialized(uint64 version);

    error InvalidInitialization();

    constructor() {
        _initialized = type(uint64).max;
    }

    modifier initializer() {
        if (_initialized != 0) revert InvalidInitialization();
        _initialized = 1;
        _;
        emit Initialized(1);
    }
}
