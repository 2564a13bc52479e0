//! Stable codes of what an operator can meet.

/// One code with its documentation; `docs/errors.md` is generated from the crates' tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable code, e.g. `KC-0201`.
    pub code: &'static str,
    /// Short name in snake case, for logs and metric labels.
    pub name: &'static str,
    /// What happened, in one sentence.
    pub meaning: &'static str,
    /// What to do, in one sentence.
    pub action: &'static str,
}

/// The bytes name one of our schemas and do not fit it.
pub const UNDECODABLE_RECORD: Code = Code {
    code: "KC-0201",
    name: "undecodable_record",
    meaning: "A record names one of the connector's schemas, but its bytes are truncated, damaged or carry values that the schema does not allow.",
    action: "Find out who wrote the record (its coordinates are in the dead letter); the original stays in its topic, and nothing was done with it.",
};

/// The bytes start with no framing.
pub const UNFRAMED_RECORD: Code = Code {
    code: "KC-0202",
    name: "unframed_record",
    meaning: "A record is neither an Avro single object nor in Confluent framing: a program that is not the connector wrote to its topic.",
    action: "Restrict who may write to the topics under the connector's prefix; the record itself was not used.",
};

/// The framing names a schema that is not known.
pub const UNKNOWN_SCHEMA: Code = Code {
    code: "KC-0203",
    name: "unknown_schema",
    meaning: "A record names a schema fingerprint or registry id that this version of the connector does not know.",
    action: "Upgrade the services that read a topic before those that write to it, and give each service the same schema registry. Then have the record handled once more: write it, whose key and bytes the dead letter holds, to its topic again (`kmsctl dead-letters redrive` takes up requests that decode, of the processor's letters only).",
};

/// A record of another type than its topic carries.
pub const WRONG_RECORD: Code = Code {
    code: "KC-0204",
    name: "wrong_record",
    meaning: "A record is of another type than its topic carries.",
    action: "Restrict who may write to the topics under the connector's prefix; the record itself was not used.",
};

/// A value that the schema cannot hold.
pub const UNENCODABLE_RECORD: Code = Code {
    code: "KC-0205",
    name: "unencodable_record",
    meaning: "A chain or KMS Core gave a number above 2^63 - 1 where none can occur, so that no record could be written.",
    action: "Check the node or KMS Core that answered; its answer was not used.",
};

/// A topic outside the catalogue.
pub const UNKNOWN_TOPIC: Code = Code {
    code: "KC-0206",
    name: "unknown_topic",
    meaning: "A record was to be written to a topic that the catalogue does not have.",
    action: "Give every service of the deployment the same topic prefix; if they have it, report a defect.",
};

/// The registry is out of reach.
pub const REGISTRY_UNREACHABLE: Code = Code {
    code: "KC-0207",
    name: "registry_unreachable",
    meaning: "The schema registry cannot be reached, or answers with a server error.",
    action: "Bring the registry back or correct its URL; the service goes on by itself.",
};

/// The registry said no.
pub const REGISTRY_REFUSED: Code = Code {
    code: "KC-0208",
    name: "registry_refused",
    meaning: "The schema registry refuses a schema, the credentials or the request.",
    action: "Read its answer in the message: permit registration under the subject, correct the credentials, or delete what others registered there.",
};

/// The registry's URL or client is unusable.
pub const REGISTRY_CLIENT: Code = Code {
    code: "KC-0209",
    name: "registry_client",
    meaning: "The URL of the schema registry is not usable.",
    action: "Set an http or https URL, e.g. http://127.0.0.1:8081/apis/ccompat/v7.",
};

/// The codes of this crate.
pub static CODES: &[Code] = &[
    UNDECODABLE_RECORD,
    UNFRAMED_RECORD,
    UNKNOWN_SCHEMA,
    WRONG_RECORD,
    UNENCODABLE_RECORD,
    UNKNOWN_TOPIC,
    REGISTRY_UNREACHABLE,
    REGISTRY_REFUSED,
    REGISTRY_CLIENT,
];
