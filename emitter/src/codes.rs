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
        "a result names a chain or contract that no destination of this emitter serves",
        "check the list of `[[destination]]`, and that deployments do not share a topic prefix. `kmsctl dead-letters redrive` takes up requests only: to have the answer tried once more, write the record that the letter names, whose key and bytes it holds, to its results topic again";
    /// The chain holds something else at the place that a result names.
    NOT_REQUESTED = "KC-0652", "not_requested",
        "the destination's own view of the chain has no such request at the place that a result names",
        "nothing was sent; somebody else may be writing to the results topics, or the processor reads another chain";
    /// A genuine signature under another request.
    ANSWER_OF_ANOTHER = "KC-0653", "answer_of_another_request",
        "an answer that the node's signer did sign does not fit the request that it is put under",
        "nothing was sent; somebody else may be replaying answers in the results topics";
    /// The request did not appear in time.
    NOT_REACHED = "KC-0654", "request_not_reached",
        "the destination's own nodes do not show the block of a request at the configured finality",
        "compare the chain's finality and the RPC endpoints' heads with the request's block, and raise `submission.not_yet_patience_ms` where the chain needs longer. `kmsctl dead-letters redrive` takes up requests only: to have the answer tried once more, write the record that the letter names, whose key and bytes it holds, to its results topic again";
    /// A retraction of what is there.
    RETRACTION_CONTRADICTED = "KC-0655", "retraction_contradicted",
        "a result says that its request left the chain, and the destination's own nodes show it there",
        "nothing was sent; compare the chains that processor and emitter read";
    /// The nodes do not let a block be proven.
    UNPROVABLE = "KC-0656", "block_unprovable",
        "a block's header or receipts, as a node tells them, do not add up to its hash",
        "use a node of another kind for the destination; the answers wait";
    /// An abort of what was not aborted.
    ABORT_CONTRADICTED = "KC-0657", "abort_contradicted",
        "a result says that its generation was aborted, and the contract does not",
        "nothing was sent; somebody else may be writing to the results topics";
    /// Not the keys of the epoch.
    EPOCH_INCOMPLETE = "KC-0658", "epoch_incomplete",
        "the keys and CRSs of an epoch's activation are not those that the contract names for the epoch",
        "nothing was sent: a diverging confirmation would block the epoch; compare KMS Core's key material with the contract's";
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
        "the signer's key belongs to another address than `wallet.address`, or cannot sign transactions",
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
        "correct the `[[destination]]`";
    /// No contract at a configured address.
    NO_CONTRACT = "KC-0758", "no_contract",
        "there is no contract at a configured address of the destination, where every call would seem to succeed",
        "correct the addresses in `[[destination]]`, or the chain";
    /// Bytes that our key did not sign for what they claim.
    FOREIGN_INTENT = "KC-0759", "foreign_intent",
        "a record of `emitter.intents` names this sender, and is not what its key signed for the results that it names",
        "nothing of it is sent or believed; somebody else is writing to the journal";
    /// The sender does not delegate to the executor.
    NO_EXECUTOR = "KC-0760", "no_executor",
        "`submission.mode` is \"batch\", and the transaction sender does not delegate to a batch executor of this release; or a batch was mined and did nothing, since it no longer does",
        "delegate with `kmsctl executor delegate`, or set `submission.mode` to \"auto\" or \"single\"; until then answers go one by one";
    /// Bytes in the commands topic that are no command.
    COMMAND_UNREADABLE = "KC-0761", "command_unreadable",
        "a record of `emitter.commands` is no command that this release knows",
        "nothing was done about it; either a newer `kmsctl` wrote it, or somebody else writes to the topic";
    /// The commands topic has no leader, is not there, or may not be read.
    COMMANDS_UNFOLLOWED = "KC-0762", "commands_unfollowed",
        "the emitter cannot read `emitter.commands`: where it is at work `kmsctl wallet` reaches nobody and answers are sent as before; where it begins, nothing is sent before it has read whether somebody paused the account",
        "nothing while it passes, as where the partition has no leader for a moment; otherwise make the topic (`kmsctl topics create`) or allow the emitter to read it: it goes on by itself";
    /// Too much is mined and not final.
    FINALITY_STOPPED = "KC-0763", "finality_stopped",
        "as many transactions as `submission.max_unconfirmed` are mined and not final, so nothing further is sent",
        "nothing where the chain's finality is late: answers wait and go on by themselves; otherwise look why it stands still, or whether `destination.confirmations` suits the chain";
    /// A signer elsewhere does not sign.
    SIGNER_OUTAGE = "KC-0770", "signer_outage",
        "AWS KMS does not answer, refuses, or signs with another key than that of `wallet.address`",
        "nothing while it passes, answers wait; otherwise the text says what to mend: network, credentials, the permissions kms:GetPublicKey and kms:Sign, the state of the key, what an alias points to, or the quota of requests";
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
