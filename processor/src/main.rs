//! The processor's process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kms_processor::main_from(std::env::args_os())
}
