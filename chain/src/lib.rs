//! What is read from and written to chains: providers, contracts' events, calls, errors and EIP-712 structures.
