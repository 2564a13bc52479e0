//! `kmsctl`: looks at the connector's topics, follows one request through them, and sends dead letters back to work.
//!
//! ```text
//! topics list | check | create      the catalogue, against a cluster
//! read TOPIC                        every record of a topic, decoded, one JSON object per line
//! trace ID                          what happened to one request, over all topics
//! dead-letters list | redrive       what nobody could use, and another go at it
//! ```
//!
//! It reads committed records only, commits no offsets and belongs to no group, so looking changes nothing. `redrive` is
//! the one verb that writes.
//!
//! Start reading at [`main_from`]; each verb is a module.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use kms_runtime::cli::ConfigArgs;
use kms_runtime::shutdown::Exit;

mod cluster;
mod config;
mod dead_letters;
mod error;
mod read;
mod topics;
mod trace;

pub use config::CtlConfig;
pub use error::CtlError;

/// Looks at the KMS Connector's topics, follows requests, redrives dead letters.
#[derive(Parser, Debug)]
#[command(name = "kmsctl", version)]
struct CommandLine {
    #[command(flatten)]
    config: ConfigArgs,
    /// How results are written to standard output.
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

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
    /// Records that no service could use.
    DeadLetters {
        #[command(subcommand)]
        verb: dead_letters::Verb,
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
            let _ = error.print();
            return if error.use_stderr() { Exit::Configuration.into() } else { Exit::Ok.into() };
        }
    };
    match run(line) {
        Ok(()) => Exit::Ok.into(),
        // `kmsctl read … | head` has seen enough.
        Err(CtlError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => {
            eprintln!("kmsctl: {error}");
            error.exit().into()
        }
    }
}

fn run(line: CommandLine) -> Result<(), CtlError> {
    if matches!(line.verb, Verb::ConfigReference) {
        print!("{}", kms_runtime::config::config_reference::<CtlConfig>());
        return Ok(());
    }
    let config = line.config.load::<CtlConfig>()?.config;
    let cluster = cluster::Cluster::connect(config)?;
    match line.verb {
        Verb::Topics { verb } => topics::run(&cluster, verb, line.output),
        Verb::Read(args) => read::run(&cluster, &args),
        Verb::Trace(args) => trace::run(&cluster, &args, line.output),
        Verb::DeadLetters { verb } => dead_letters::run(&cluster, verb, line.output),
        Verb::ConfigReference => Ok(()),
    }
}
