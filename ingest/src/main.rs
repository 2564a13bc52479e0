//! The `kms-ingest` program.

fn main() -> std::process::ExitCode {
    kms_ingest::main_from(std::env::args_os())
}
