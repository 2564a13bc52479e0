//! What can go wrong while the stack is fetched, started or stopped.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kms_schemas::codes::Code;

/// Everything the stack can fail with. [`StackError::code`] names the entry of [`CODES`] that tells what to do.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Programs that must be on the machine are missing or too old, one line each.
    #[error("{}", .0.join("\n"))]
    Prerequisites(Vec<String>),
    /// A part could not be fetched; `why` is the last of what the client said.
    #[error("could not fetch {part}: {why}\n(the whole log: {})", log.display())]
    Fetch {
        /// Which part, with its version.
        part: String,
        /// What the package client said, condensed.
        why: String,
        /// Where its complete output is.
        log: PathBuf,
    },
    /// A fetched file is not the pinned one.
    #[error("{part}: {file} is not the pinned file: {why}")]
    Checksum {
        /// Which part, with its version.
        part: String,
        /// The file.
        file: String,
        /// What differs.
        why: String,
    },
    /// A process ended before it was ready.
    #[error("{name} ended before it was ready ({how})\n{tail}\n(the whole log: {})", log.display())]
    Died {
        /// Name of the process in the stack.
        name: String,
        /// Its exit status.
        how: String,
        /// The end of its log.
        tail: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// A process did not become ready in time.
    #[error("{name} was not ready after {} s: {last}\n{tail}\n(the whole log: {})", waited.as_secs(), log.display())]
    NotReady {
        /// Name of the process in the stack.
        name: String,
        /// How long it was waited for.
        waited: Duration,
        /// What the last look at it said.
        last: String,
        /// The end of its log.
        tail: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// No free port was found.
    #[error("no free port on 127.0.0.1 after {tried} tries")]
    NoFreePort {
        /// How many ports were tried.
        tried: usize,
    },
    /// The development contracts were not deployed.
    #[error("the contracts were not deployed: {0}")]
    Contracts(String),
    /// An argument or option cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The main job could not be carried through on a stack that runs.
    #[error("{0}")]
    Job(String),
    /// Something that a stack of containers needs did not answer in time.
    #[error("{what} is not there after {} s: {last}", waited.as_secs())]
    Absent {
        /// What was waited for, and where.
        what: String,
        /// How long.
        waited: Duration,
        /// What the last look said.
        last: String,
    },
    /// What was set up is not there any more, or is something else than asked for.
    #[error("{0}")]
    Lost(String),
    /// Topics could not be created, or are not as they must be.
    #[error("the topics: {0}")]
    Topics(String),
    /// Fetched parts cannot be kept where the environment says.
    #[error("the cache {} cannot be used: {source}; set KMS_STACK_CACHE to a directory that this user can write to", root.display())]
    CacheUnusable {
        /// The directory.
        root: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file, a pipe or a process could not be created or used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl StackError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Prerequisites(_) => "KC-0801",
            Self::Fetch { .. } => "KC-0802",
            Self::Checksum { .. } => "KC-0803",
            Self::Died { .. } => "KC-0804",
            Self::NotReady { .. } => "KC-0805",
            Self::NoFreePort { .. } => "KC-0806",
            Self::Contracts(_) => "KC-0807",
            Self::Usage(_) => "KC-0808",
            Self::Io { .. } => "KC-0809",
            Self::Job(_) => "KC-0810",
            Self::CacheUnusable { .. } => "KC-0811",
            Self::Absent { .. } => "KC-0812",
            Self::Lost(_) => "KC-0813",
            Self::Topics(_) => "KC-0814",
        }
    }

    /// The exit code of a program that ends with this error: 2 for a wrong option, 3 for something the machine lacks or
    /// refuses at start, 1 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Prerequisites(_) | Self::Fetch { .. } | Self::Checksum { .. } | Self::CacheUnusable { .. } => {
                ExitCode::from(3)
            }
            _ => ExitCode::from(1),
        }
    }

    /// Whether the run directory tells more about it: whether anything was started.
    pub(crate) fn left_traces(&self) -> bool {
        match self {
            Self::Prerequisites(_)
            | Self::Fetch { .. }
            | Self::Checksum { .. }
            | Self::CacheUnusable { .. }
            | Self::Usage(_)
            | Self::Absent { .. }
            | Self::Lost(_)
            | Self::Topics(_) => false,
            Self::Died { .. }
            | Self::NotReady { .. }
            | Self::NoFreePort { .. }
            | Self::Contracts(_)
            | Self::Job(_)
            | Self::Io { .. } => true,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// An error with what caused it, on one line.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Codes of this crate, for `docs/errors.md`.
pub static CODES: &[Code] = &[
    Code {
        code: "KC-0801",
        name: "prerequisite_missing",
        meaning: "A program that the local stack needs is not installed, or too old.",
        action: "Install it as the message says and run the command again.",
    },
    Code {
        code: "KC-0802",
        name: "fetch_failed",
        meaning: "Maven or npm could not fetch a pinned part of the local stack.",
        action: "Read the log named in the message; check the network, proxy and mirror settings of Maven and npm; run again, what was fetched is kept.",
    },
    Code {
        code: "KC-0803",
        name: "checksum_mismatch",
        meaning: "A fetched file differs from the one the project pins.",
        action: "Do not use it: find out whether the mirror or its cache serves a changed file, empty that cache and fetch again.",
    },
    Code {
        code: "KC-0804",
        name: "part_died",
        meaning: "A process of the local stack ended before it was ready.",
        action: "Read the end of its log in the message, or the whole log at the path given.",
    },
    Code {
        code: "KC-0805",
        name: "part_not_ready",
        meaning: "A process of the local stack runs but did not become ready in time.",
        action: "Read its log; on a slow or busy machine stop other work and run again.",
    },
    Code {
        code: "KC-0806",
        name: "no_free_port",
        meaning: "No free port was found on 127.0.0.1 between 20000 and 32000.",
        action: "Stop what holds so many ports and run again.",
    },
    Code {
        code: "KC-0807",
        name: "contracts_not_deployed",
        meaning: "The development contracts could not be deployed to the local chain.",
        action: "Read the message and the log of anvil in the run directory.",
    },
    Code {
        code: "KC-0808",
        name: "stack_usage",
        meaning: "An option or argument of kms-stack cannot be used.",
        action: "Read the message; `kms-stack --help` lists every option.",
    },
    Code {
        code: "KC-0809",
        name: "stack_io",
        meaning: "A file, pipe or process of the local stack could not be created or used.",
        action: "Check free space, permissions and limits of open files and processes; the message names the file.",
    },
    Code {
        code: "KC-0810",
        name: "stack_job",
        meaning: "The main job could not be carried through: the chain, a bucket, Kafka or a service does not answer.",
        action: "Read what the message names, and the services' logs in the run directory.",
    },
    Code {
        code: "KC-0811",
        name: "stack_cache_unusable",
        meaning: "The directory for fetched parts cannot be written.",
        action: "Set KMS_STACK_CACHE to a directory that this user can write to, or mend the permissions of the one named.",
    },
    Code {
        code: "KC-0812",
        name: "stack_absent",
        meaning: "A part that a stack of containers needs did not answer in time.",
        action: "Look at the log of the part that the message names, and whether its name and port are right: a name that leads to no host is given up after a sixth of --wait. On a slow machine give --wait more seconds. Run again: what was done is kept.",
    },
    Code {
        code: "KC-0813",
        name: "stack_lost",
        meaning: "What was set up is not there any more, or is another stack than the one asked for: other nodes, brokers, generation, buckets or signers, another prefix of the topics, another chain, or topics of a stack that the directory does not know.",
        action: "Ask for the stack that was set up, with its `--directory`, `--prefix` and the other flags of its setup. A second stack beside it has a `--directory` and a `--prefix` of its own, and is best put on chains of its own. Or start over with empty volumes: `docker compose down --volumes`, then `docker compose up`.",
    },
    Code {
        code: "KC-0814",
        name: "stack_topics",
        meaning: "The topics could not be created, or are not as the catalogue says.",
        action: "Read the message and the brokers' logs; topics that an earlier release made go away with their volume (`docker compose down --volumes`).",
    },
];
