//! The multi-call program under a name of its own, so that building the tests builds it: the processes that tests start, kill and
//! start again.

fn main() -> std::process::ExitCode {
    kms_stack::main_from(std::env::args_os())
}
