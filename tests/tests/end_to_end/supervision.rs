//! Nothing that the stack starts outlives it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kms_stack::supervise::{Launch, Supervised};
use kms_tests::{eventually, is_alive, new_workspace, program};

const LIMIT: Duration = Duration::from_secs(120);

/// A process that starts another one and stays, and says both ids in its log.
fn parent_of_one(name: &str) -> Launch {
    Launch::new(name, "sh").args(["-c", "sleep 600 & echo $$ $!; wait"])
}

async fn pids(supervised: &Supervised) -> Vec<u32> {
    eventually("the process says its ids", LIMIT, async || {
        let ids: Vec<u32> = supervised.log().split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (ids.len() == 2).then_some(ids)
    })
    .await
}

#[tokio::test]
async fn killing_a_process_kills_what_it_started() {
    let workspace = new_workspace();
    let supervised = Supervised::new(&workspace, parent_of_one("family"));
    let process = supervised.start().unwrap();
    let ids = pids(&supervised).await;
    assert_eq!(ids[0], process.pid(), "the gate becomes the program");
    process.kill().await;
    eventually("both are gone", LIMIT, async || ids.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
}

#[tokio::test]
async fn dropping_everything_ends_everything_and_removes_the_run_directory() {
    let workspace = new_workspace();
    let dir = workspace.dir().to_owned();
    let supervised = Supervised::new(&workspace, parent_of_one("dropped"));
    supervised.start().unwrap();
    let ids = pids(&supervised).await;
    drop((supervised, workspace));
    eventually("both are gone", LIMIT, async || ids.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
    eventually("the directory is gone", LIMIT, async || (!dir.exists()).then_some(())).await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_an_early_end_that_says_so() {
    let workspace = new_workspace();
    let supervised = Supervised::new(&workspace, Launch::new("ghost", "/no/such/program"));
    supervised.start().unwrap();
    let error = supervised.ready(LIMIT, async || Err("not there".to_owned())).await.unwrap_err();
    assert_eq!(error.code(), "KC-0804");
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[tokio::test]
async fn a_stack_that_is_killed_leaves_no_process_and_no_directory() {
    let (mut holder, dir) = holder();
    let ids = [family(&dir, "one").await, family(&dir, "two").await].concat();
    assert!(ids.iter().all(|pid| is_alive(*pid)), "{ids:?}");

    holder.kill().unwrap();
    holder.wait().unwrap();

    eventually("all four are gone", LIMIT, async || ids.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
    eventually("the directory is gone", LIMIT, async || (!dir.exists()).then_some(())).await;
}

/// A process that holds a small stack, and its run directory.
fn holder() -> (Child, PathBuf) {
    let mut holder = Command::new(program()).arg("hold").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (holder, PathBuf::from(line.trim()))
}

/// The ids of the two processes that one log names.
async fn family(dir: &Path, name: &str) -> Vec<u32> {
    let log = dir.join("logs").join(format!("{name}.log"));
    eventually("the log names two processes", LIMIT, async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let ids: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (ids.len() == 2).then_some(ids)
    })
    .await
}
