//! The command line: one program for the stack, its services and its tools.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::supervise::run_reaper;

#[derive(Debug, Parser)]
#[command(name = "kms-stack", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kills what a dead stack left behind; started by the stack itself.
    #[command(hide = true)]
    Reaper,
}

/// The whole program, from its arguments (the first is its own name) to its exit code.
pub fn main_from(args: impl Iterator<Item = OsString>) -> ExitCode {
    match Cli::parse_from(args).command {
        Some(Command::Reaper) => {
            run_reaper(std::io::stdin().lock());
            ExitCode::SUCCESS
        }
        None => ExitCode::SUCCESS,
    }
}
