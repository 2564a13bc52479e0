//! Stable codes of what an operator can meet in the emitter, besides those of `kms_chain` (06xx, 07xx) and the runtime.

use kms_schemas::codes::Code;

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $code:literal, $name:literal, $meaning:literal, $action:literal;)*) => {
        $($(#[$doc])* pub const $constant: &str = $code;)*

        /// Every code of this crate, for `docs/errors.md`.
        pub static CODES: &[Code] = &[$(Code { code: $code, name: $name, meaning: $meaning, action: $action }),*];
    };
}

codes! {
    /// A result for another chain or contract.
    WRONG_DESTINATION = "KC-0651", "wrong_destination",
        "a result names another chain or contract than this emitter serves",
        "check `[destination]`, and that deployments do not share a topic prefix";
    /// The service stops while an answer is on its way.
    INTERRUPTED = "KC-0750", "submission_interrupted",
        "the emitter stopped, or lost its partitions, while an answer was on its way",
        "nothing: the journal knows the transaction, and whoever takes over settles it";
    /// A recurring refusal that waits for something else on chain.
    NOT_YET_ACCEPTED = "KC-0751", "not_yet_accepted",
        "the contract refuses the answer for now",
        "nothing while it is rare; otherwise look up the error that the text names";
    /// Fees above the cap.
    FEE_ABOVE_CAP = "KC-0752", "fee_above_cap",
        "the chain asks for more than `submission.max_fee_per_gas_wei`",
        "raise the cap, or wait: sending resumes by itself";
    /// The wallet's key is not the configured account's.
    WRONG_WALLET = "KC-0753", "wrong_wallet",
        "the private key belongs to another address than `wallet.address`",
        "correct one of the two";
    /// Another process leads.
    STANDBY = "KC-0754", "standby",
        "another emitter is active for this chain and sender",
        "nothing: this one takes over when the other is gone";
    /// The journal was taken over.
    JOURNAL_FENCED = "KC-0755", "journal_fenced",
        "another emitter of the same chain and sender has taken over the journal",
        "run emitters of one sender under one topic prefix; the fenced one ends or becomes standby";
    /// The journal cannot be read.
    JOURNAL_UNREADABLE = "KC-0756", "journal_unreadable",
        "a record of `emitter.intents` is of a schema that this release does not know, so it is not known what may reach the chain",
        "run the release that wrote it; the emitter does not start before it can read all";
    /// The destination is another chain.
    WRONG_CHAIN = "KC-0757", "wrong_chain",
        "the RPC endpoints serve another chain than `destination.chain_id`",
        "correct `[destination]`";
    /// No contract at a configured address.
    NO_CONTRACT = "KC-0758", "no_contract",
        "there is no contract at a configured address of the destination, where every call would seem to succeed",
        "correct the addresses in `[destination]`, or the chain";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::CODES;

    #[test]
    fn codes_are_unique_also_against_those_of_the_chain_crate() {
        let all: Vec<_> = CODES.iter().chain(kms_chain::codes::CODES).collect();
        let codes: HashSet<_> = all.iter().map(|code| code.code).collect();
        assert_eq!(codes.len(), all.len());
    }
}
