//! `kmsctl`: looks at the connector's topics, follows one request through them, and sends dead letters back to work.
//!
//! ```text
//! topics list | check | create      the catalogue, against a cluster
//! read TOPIC                        every record of a topic, decoded, one JSON object per line
//! trace ID                          what happened to one request, over all topics
//! costs                             what answers cost, by kind, answers in a transaction and order of the nodes
//! lifecycle                         keys, CRSs, contexts and epochs, as the topics know them
//! dead-letters list | redrive       what nobody could use, and another go at it
//! executor deploy | delegate | …    batches: the executor on a chain, and the accounts that delegate to it
//! wallet list | pause | …            how a transaction sender stands, and what its emitter is to do about it
//! ```
//!
//! It reads committed records only, commits no offsets and belongs to no group, so looking changes nothing. `redrive` and the
//! commands of `wallet` write to Kafka, and the verbs of `executor` send transactions.
//!
//! Start reading at [`main_from`]; each verb is a module.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use cluster::Records;
use kms_runtime::cli::ConfigArgs;
use kms_runtime::shutdown::Exit;

mod cluster;
pub mod codes;
mod config;
mod costs;
mod dead_letters;
mod error;
mod executor;
mod gwei;
mod lifecycle;
mod read;
mod topics;
mod trace;
mod wallet;

pub use config::CtlConfig;
pub use error::CtlError;

/// Looks at the KMS Connector's topics, follows requests, redrives dead letters.
#[derive(Parser, Debug)]
#[command(name = "kmsctl", version, after_help = EXIT_CODES)]
struct CommandLine {
    #[command(flatten)]
    config: ConfigArgs,
    /// How results are written to standard output.
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

/// Exit codes that this tool has, as `--help` ends with them.
pub const EXIT_CODES: &str = "Exit codes: 0 done; 2 wrong arguments or configuration; 3 the topics cannot be read or are not \
as they must be, or an executor cannot be deployed or delegated to, or an emitter did not obey or answer; 5 Kafka did not take what was to be written; 74 the output cannot be written. Every message has a code, \
which docs/errors.md explains.";

const LIFECYCLE: &str = "Print keys, CRSs, contexts and epochs as the topics know them.

Reads requests and results of key management, submissions and dead letters, and prints one line per key, CRS, PRSS
initialisation, context and epoch; with --output json one object per line, told apart by `object`, and a `summary` last.

States of keys and CRSs, and of `this_node` of contexts and epochs, say how far this node got: `requested`, `answered` by KMS
Core, `accepted` on chain, `concluded` on chain without this node, `done` (no answer on chain), `refused` by the chain for
good, `aborted` on chain, `retracted` (left the chain), `dead` (with the dead letter's code), `unknown` (the request is not in
the topics).

States of contexts and epochs themselves are what the records show: `named` by others only, `requested`, `confirmed` by this
node, `created` (a context that enough nodes confirmed), `active` (shown by a later record; the chain may be further), and
`destroyed`.";

/// How results are written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// The topics that a deployment needs.
    Topics {
        #[command(subcommand)]
        verb: topics::Verb,
    },
    /// Print every record of a topic, decoded.
    Read(read::Args),
    /// Print everything that the topics hold about one request id.
    Trace(trace::Args),
    /// Print what accepted answers cost: gas, its L1 share and fees, by kind, answers in a transaction, and place among the
    /// nodes' answers to the request.
    Costs(costs::Args),
    /// Print keys, CRSs, contexts and epochs as the topics know them.
    #[command(long_about = LIFECYCLE, after_help = EXIT_CODES)]
    Lifecycle,
    /// Records that no service could use.
    DeadLetters {
        #[command(subcommand)]
        verb: dead_letters::Verb,
    },
    /// Batches: the executor on a chain, and the accounts that delegate to it.
    Executor {
        #[command(subcommand)]
        verb: executor::Verb,
    },
    /// How a transaction sender stands, and what its emitter is to do: pause, resume, pay more, use a nonce up.
    #[command(after_help = EXIT_CODES)]
    Wallet {
        #[command(subcommand)]
        verb: wallet::Verb,
    },
    /// Print the reference of all configuration keys as Markdown.
    ConfigReference,
}

/// Runs the tool as the command line (the program's name first) says.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match CommandLine::try_parse_from(args) {
        Ok(line) => line,
        Err(error) => {
            // Help and version come as errors too, and have their own exit code.
            if !error.use_stderr() {
                let _ = error.print();
                return Exit::Ok.into();
            }
            let text = error.render().to_string();
            tell(Some(codes::ARGUMENT.code), text.trim_start_matches("error: ").trim_end());
            return Exit::Configuration.into();
        }
    };
    match run(line).and_then(|()| Ok(std::io::stdout().flush()?)) {
        Ok(()) => Exit::Ok.into(),
        // `kmsctl read … | head` has seen enough.
        Err(CtlError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => {
            tell(error.code(), &error.to_string());
            error.exit().into()
        }
    }
}

/// What went wrong, with its code (`docs/errors.md`); a closed standard error keeps nobody from ending.
fn tell(code: Option<&str>, text: &str) {
    let mut err = std::io::stderr();
    let _ = match code {
        Some(code) => writeln!(err, "kmsctl: error[{code}]: {text}"),
        None => writeln!(err, "kmsctl: {text}"),
    };
}

/// A look registers no schema.
fn records(verb: &Verb) -> Records {
    match verb {
        Verb::Topics { .. } | Verb::Executor { .. } | Verb::ConfigReference => Records::Unused,
        Verb::DeadLetters { verb: dead_letters::Verb::Redrive { yes: true, .. } } => Records::Written,
        Verb::Wallet { verb: wallet::Verb::List(_) | wallet::Verb::Cancel { yes: false, .. } } => Records::Read,
        Verb::Wallet { .. } => Records::Written,
        Verb::Read(_) | Verb::Trace(_) | Verb::Costs(_) | Verb::Lifecycle | Verb::DeadLetters { .. } => Records::Read,
    }
}

fn run(line: CommandLine) -> Result<(), CtlError> {
    if matches!(line.verb, Verb::ConfigReference) {
        let mut out = std::io::stdout().lock();
        out.write_all(kms_runtime::config::config_reference::<CtlConfig>().as_bytes())?;
        return Ok(out.flush()?);
    }
    let config = line.config.load::<CtlConfig>()?.config;
    if let Verb::Executor { verb } = line.verb {
        return executor::run(&config, verb, line.output);
    }
    let cluster = cluster::Cluster::connect(config, records(&line.verb))?;
    match line.verb {
        Verb::Topics { verb } => topics::run(&cluster, verb, line.output),
        Verb::Read(args) => read::run(&cluster, &args),
        Verb::Trace(args) => trace::run(&cluster, &args, line.output),
        Verb::Costs(args) => costs::run(&cluster, &args, line.output),
        Verb::Lifecycle => lifecycle::run(&cluster, line.output),
        Verb::DeadLetters { verb } => dead_letters::run(&cluster, verb, line.output),
        Verb::Wallet { verb } => wallet::run(&cluster, verb, line.output),
        Verb::Executor { .. } | Verb::ConfigReference => Ok(()),
    }
}
