//! The multi-call program under a name of its own, so that building the tests builds it: the processes that tests start, kill and
//! start again. Two subcommands are the tests' own: `hold` is a small stack to be killed, `stage` a single stage.

use std::process::ExitCode;

use kms_stack::supervise::{Launch, Process};
use kms_stack::{Workspace, WorkspaceOptions};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("hold") => hold(),
        Some("stage") => kms_tests::stage::worker(std::env::args().skip(2)),
        _ => kms_stack::main_from(std::env::args_os()),
    }
}

/// Starts two families of processes, prints their run directory and waits for its end.
fn hold() -> ExitCode {
    let program = std::env::current_exe().expect("a running program has a file");
    let workspace = Workspace::create(WorkspaceOptions::new(program)).expect("a workspace");
    let family =
        |name: &str| Launch::new(name, "sh").args(["-c", "trap '' TERM HUP INT; sleep 600 & echo $$ $!; wait"]);
    let _processes: Vec<Process> =
        ["one", "two"].map(|name| Process::spawn(&workspace, &family(name)).expect("a process")).into();
    println!("{}", workspace.dir().display());
    loop {
        std::thread::park();
    }
}
