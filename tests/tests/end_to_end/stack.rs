//! The stack as a whole.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kms_stack::{ServiceKind, Stack};
use kms_tests::{eventually, kafka, new_workspace, prefix, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// Without services: what they stand on.
#[tokio::test]
async fn four_nodes_are_registered_with_the_keys_of_their_simulators() {
    let workspace = new_workspace();
    let stack = Stack::builder()
        .nodes(4)
        .coprocessors(3)
        .block_time(Some(Duration::from_millis(50)))
        .kafka(kafka().await.bootstrap_servers())
        .prefix(prefix("stack"))
        .services(&[])
        .start(&workspace)
        .await
        .unwrap();
    assert_eq!(stack.nodes().len(), 4);
    assert_eq!(stack.deployment().thresholds.public_decryption, 3);
    for node in stack.nodes() {
        // The simulator says its signer on its first line.
        let said = node.core().process().log();
        assert!(said.to_lowercase().contains(&node.signer().to_string().to_lowercase()), "{said}");
        assert!(node.prefix().ends_with(&format!("-node-{}", node.number())));
        for kind in ServiceKind::ALL {
            assert!(node.service(kind).config().is_file());
            assert!(!node.service(kind).process().is_running());
        }
    }
    stack.requester().await.unwrap();
    stack.stop().await;
}

#[tokio::test]
async fn the_services_find_nothing_wrong_with_the_files_that_the_stack_writes() {
    let workspace = new_workspace();
    let stack = Stack::builder()
        .block_time(None)
        .kafka(kafka().await.bootstrap_servers())
        .prefix(prefix("files"))
        .services(&[])
        .start(&workspace)
        .await
        .unwrap();
    for service in stack.node().services() {
        let checked = Command::new(program())
            .args([service.kind().name(), "check-config", "--config"])
            .arg(service.config())
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}: {}", service.kind(), String::from_utf8_lossy(&checked.stderr));
    }
}

/// `kms-stack up`, ready.
struct Up {
    child: Child,
    run_dir: TempDir,
    /// Every address that it printed.
    addresses: Vec<String>,
}

fn up() -> Up {
    let run_dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(program())
        .args(["up", "--block-time", "50", "--run-dir"])
        .arg(run_dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut addresses = Vec::new();
    for line in output.lines() {
        let line = line.unwrap();
        let words = line.split([' ', '/', ',']).filter(|word| word.starts_with("127.0.0.1:"));
        addresses.extend(words.map(str::to_owned));
        if line.starts_with("config ") {
            break;
        }
    }
    Up { child, run_dir, addresses }
}

impl Up {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits until nothing listens on any of the addresses.
    async fn all_closed(&self) {
        eventually("every port is closed", LIMIT, async || {
            self.addresses.iter().all(|address| TcpStream::connect(address).is_err()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_signal_stops_services_before_what_they_stand_on() {
    let mut up = up();
    assert!(up.addresses.len() >= 7, "{:?}", up.addresses);
    up.signal(Signal::SIGTERM);
    let status = up.child.wait().unwrap();
    assert!(status.success(), "{status}");
    up.all_closed().await;
    for service in ServiceKind::ALL {
        let log = std::fs::read_to_string(up.run_dir.path().join(format!("logs/{service}-1.log"))).unwrap();
        assert!(log.contains("ended as asked"), "{service}:\n{log}");
        assert!(!log.contains("\"level\":\"ERROR\""), "{service}:\n{log}");
    }
}

#[tokio::test]
async fn a_stack_program_that_is_killed_leaves_nothing_listening() {
    let mut up = up();
    assert!(up.addresses.iter().all(|address| TcpStream::connect(address).is_ok()), "{:?}", up.addresses);
    up.signal(Signal::SIGKILL);
    up.child.wait().unwrap();
    up.all_closed().await;
}
