//! The emitter's process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kms_emitter::main_from(std::env::args_os())
}
