//! Codes of what only this tool meets; what the services meet too has theirs.

use kms_schemas::codes::Code;

/// An argument.
pub static ARGUMENT: Code = Code {
    code: "KC-0120",
    name: "ctl_argument",
    meaning: "An argument of kmsctl is wrong, or names something that is not there.",
    action: "Correct it as the message says; `kmsctl help` and `kmsctl help VERB` tell what there is.",
};

/// A topic that cannot be read.
pub static TOPIC_UNREADABLE: Code = Code {
    code: "KC-0121",
    name: "topic_unreadable",
    meaning: "kmsctl may not read a topic, or the Kafka client failed on it.",
    action: "Give the account of kmsctl the right to read the topics under the prefix; otherwise look up the error that the message names.",
};

/// A transaction that stays open.
pub static TRANSACTION_OPEN: Code = Code {
    code: "KC-0122",
    name: "transaction_open",
    meaning: "Another process's open transaction hid the end of a topic from kmsctl for longer than a transaction can last.",
    action: "Run it again; if it stays so, look for the transaction with Kafka's `kafka-transactions.sh find-hanging`.",
};

/// Output or runtime.
pub static IO: Code = Code {
    code: "KC-0123",
    name: "ctl_io",
    meaning: "kmsctl cannot write its output, or the operating system refuses it a thread or a file.",
    action: "Read the system's reason in the message: disk full, file limit, closed output.",
};

/// The executor, or a delegation to it.
pub static EXECUTOR: Code = Code {
    code: "KC-0124",
    name: "executor",
    meaning: "kmsctl could not put the batch executor on the chain, delegate an account to it, revoke that, or look; or it must not now, since the account's emitter runs or one of its transactions is on its way.",
    action: "Do as the message says. After a time-out look with `kmsctl executor status` before trying again: the transaction may still be mined.",
};

/// A command that the emitter does not obey.
pub static COMMAND_REFUSED: Code = Code {
    code: "KC-0125",
    name: "command_refused",
    meaning: "The emitter of the account read a command of `kmsctl wallet` and does not obey it; the message says why.",
    action: "Look with `kmsctl wallet list`: the nonce may be used already, its fees at the cap, or the chain without a pool to replace in.",
};

/// A command that nobody answers.
pub static COMMAND_UNANSWERED: Code = Code {
    code: "KC-0126",
    name: "command_unanswered",
    meaning: "No emitter of the account said anything to a command of `kmsctl wallet` in time.",
    action: "See that an emitter of this chain and sender runs under this topic prefix and is ready. A pause or resume is obeyed when one starts; repeat a bump or cancel.",
};

/// The codes of this crate.
pub static CODES: &[Code] =
    &[ARGUMENT, TOPIC_UNREADABLE, TRANSACTION_OPEN, IO, EXECUTOR, COMMAND_REFUSED, COMMAND_UNANSWERED];
