//! The operator's tool; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kmsctl::main_from(std::env::args_os())
}
