//! `kms-stack`: the whole stack on one machine.

fn main() -> std::process::ExitCode {
    kms_stack::main_from(std::env::args_os())
}
