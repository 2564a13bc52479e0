//! Stable codes of what an operator can meet on the chain side.

use kms_schemas::codes::Code;

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $code:literal, $name:literal, $meaning:literal, $action:literal;)*) => {
        $($(#[$doc])* pub const $constant: &str = $code;)*

        /// Every code of this crate, for `docs/errors.md`.
        pub static CODES: &[Code] = &[$(Code { code: $code, name: $name, meaning: $meaning, action: $action }),*];
    };
}

codes! {
    /// No RPC endpoint answers.
    RPC_OUTAGE = "KC-0301", "rpc_outage",
        "no RPC endpoint of a chain gave an answer",
        "nothing is lost: work pauses and resumes by itself; check the endpoints' reachability, quota and credentials";
    /// An RPC endpoint serves another chain.
    RPC_WRONG_CHAIN = "KC-0302", "rpc_wrong_chain",
        "an RPC endpoint reports another chain id than the configuration",
        "correct the URL or `chain_id`; the endpoint is not used until it reports the right id";
    /// No RPC endpoint has a block that is needed.
    RPC_LAGGING = "KC-0303", "rpc_lagging",
        "every RPC endpoint that answers is behind the block that is needed",
        "wait, or add an endpoint that keeps up; nothing is decided from a node that has not seen the block";
    /// A node refuses a call.
    RPC_REFUSED = "KC-0304", "rpc_refused",
        "an RPC endpoint answered a call with an error",
        "read the node's message; a method that it does not offer needs another node or plan";
    /// A log of a followed contract is not what the contract writes.
    LOG_UNDECODABLE = "KC-0305", "log_undecodable",
        "a log with the address and topic of a request event does not decode",
        "compare the contract's release with the configured one; the raw log is in the dead letter";
    /// One block's logs are more than a node returns.
    LOG_RANGE_TOO_LARGE = "KC-0306", "log_range_too_large",
        "a node refuses to return the logs even of a single block",
        "use a node with a higher limit on `eth_getLogs`";
    /// The contracts are of a release that is not served.
    RELEASE_UNSUPPORTED = "KC-0307", "release_unsupported",
        "a contract reports a version that this connector does not serve, or not in that place",
        "check the contract's address and its part in the configuration, or update the connector; the message lists what is served";
    /// A contract signs under another domain.
    DOMAIN_MISMATCH = "KC-0308", "domain_mismatch",
        "the contract's EIP-712 domain differs from the configured one",
        "correct chain id, contract address, domain name or version; answers signed under another domain are refused on chain";
    /// A view's answer does not decode.
    VIEW_UNDECODABLE = "KC-0309", "view_undecodable",
        "a contract's answer to a view does not decode; an empty one means that there is no contract at the address",
        "check the contract addresses and the chain";
    /// The contracts are of another release than the configuration, or than each other.
    RELEASE_MISMATCH = "KC-0310", "release_mismatch",
        "the contracts of a chain are not of the configured release, or of different ones",
        "check the contract addresses, and `release` (best left to `auto`); during an upgrade, start again when it is finished";
    /// The chain, at the finality that is asked for, has not reached a block.
    AUTHORITY_BEHIND = "KC-0340", "authority_behind",
        "the chain, at the finality that is asked for, has not reached the block of a record",
        "nothing: it is looked at again; if it stays so, check that the service's RPC endpoints keep up";
    /// A record's block is not the chain's.
    BLOCK_ORPHANED = "KC-0341", "block_orphaned",
        "the chain has another block with the number of the record's: it was reorganised away, or never was there",
        "nothing, after a reorganisation; otherwise check that the service and ingest follow the same chain, and who can write to the topics";
    /// A record's log is not in its block.
    LOG_NOT_IN_BLOCK = "KC-0342", "log_not_in_block",
        "the block of a record has no log with the record's index",
        "the record is forged: check who can write to the topics";
    /// A block cannot be proven.
    PROOF_UNDECIDABLE = "KC-0343", "proof_undecidable",
        "what the RPC endpoints state about a block does not recompute to its hash, or holds something unknown here",
        "the log names the endpoint and what does not fit: use another endpoint, or update the connector";
    /// A block cannot be proven by the endpoints that answer, and others are silent.
    PROOF_UNHEARD = "KC-0344", "proof_unheard",
        "the RPC endpoints that answer do not have the block of a record, or do not prove it, and another endpoint gives no answer",
        "nothing is lost, and only requests of such blocks wait, without a limit: bring the silent endpoint back, or remove it from the configuration";
    /// A signature has a form that the contracts refuse.
    SIGNATURE_MALFORMED = "KC-0601", "signature_malformed",
        "a signature is not 65 bytes with recovery byte 27 or 28 and low s",
        "the answer is not used; check the version of KMS Core";
    /// A signature is not the node's.
    SIGNER_MISMATCH = "KC-0602", "signer_mismatch",
        "a signature recovers to another address than the configured signer",
        "check `signer.address`, the contracts' domains, and that the version of KMS Core signs the messages of this generation";
    /// An answer is for other data than the request's.
    ANSWER_MISMATCH = "KC-0603", "answer_mismatch",
        "an answer does not belong to the request that it names",
        "the answer is not used; somebody else may be writing to the topics";
    /// The chain refuses the answer for good.
    ANSWER_REFUSED = "KC-0701", "answer_refused",
        "the contract can never accept this answer",
        "see the error in the submission record (`docs/protocol.md`, \"Errors\")";
    /// The chain refuses this node.
    NODE_NOT_REGISTERED = "KC-0702", "node_not_registered",
        "the contract does not accept this node's transaction sender or signer",
        "compare wallet and signer with the node's record in `GatewayConfig`; the answer is kept and may become valid";
    /// The chain kept refusing the answer without a final reason.
    RETRIES_EXHAUSTED = "KC-0703", "submission_retries_exhausted",
        "the contract kept refusing the answer with an error that normally passes",
        "check whether the RPC endpoint lags or the chain was reorganised. `kmsctl dead-letters redrive` takes up requests only: to have the answer tried once more, write the record that the letter names, whose key and bytes it holds, to its results topic again";
    /// The account cannot pay.
    INSUFFICIENT_FUNDS = "KC-0704", "insufficient_funds",
        "the transaction sender cannot pay for gas",
        "fund the account; sending resumes by itself";
    /// The node refuses a transaction.
    TRANSACTION_REFUSED = "KC-0705", "transaction_refused",
        "the node refuses a transaction for a reason other than nonce, fee or funds",
        "read the node's message";
    /// It is not known whether the node took a transaction.
    SEND_UNCERTAIN = "KC-0706", "send_uncertain",
        "the node did not say whether it took a transaction",
        "nothing: the same bytes are sent again until they are found on chain";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::CODES;

    #[test]
    fn codes_are_unique_and_in_the_blocks_of_this_crate() {
        let codes: HashSet<_> = CODES.iter().map(|c| c.code).collect();
        let names: HashSet<_> = CODES.iter().map(|c| c.name).collect();
        assert_eq!(codes.len(), CODES.len());
        assert_eq!(names.len(), CODES.len());
        assert!(CODES.iter().all(|c| ["KC-03", "KC-06", "KC-07"].iter().any(|block| c.code.starts_with(block))));
    }
}
