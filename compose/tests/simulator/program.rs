//! `kms-stack simulator` as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use kms_stack::simulator::ControlClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{KEY, key_id};

/// A process that dies with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn simulator() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-stack"));
    command.arg("simulator").stdin(Stdio::null());
    command
}

#[tokio::test]
async fn it_announces_its_addresses_serves_and_ends_with_0_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("signer.key");
    std::fs::write(&key_file, format!("{KEY}\n")).unwrap();
    let config = directory.path().join("core.toml");
    std::fs::write(&config, "control = \"127.0.0.1:0\"\nnodes = 7\nthreshold = 2\n").unwrap();

    let mut command = simulator();
    command.arg("--config").arg(&config).arg("--private-key-file").arg(&key_file);
    command.args(["--party-id", "6", "--key", &key_id(1).request_id]).stdout(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let announced: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(announced["signer"], "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
    assert!(announced["grpc"].as_str().unwrap().starts_with("127.0.0.1:"));

    let control = ControlClient::new(announced["control"].as_str().unwrap().parse().unwrap());
    let node = control.node().await.unwrap();
    assert_eq!((node.party_id, node.nodes, node.degree), (6, 7, 2));
    drop(control);

    kill(Pid::from_raw(i32::try_from(process.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_wrong_configuration_names_every_mistake_and_ends_with_2() {
    let output = simulator()
        .args([
            "--party-id",
            "9",
            "--listen",
            "0.0.0.0:0",
            "--core-version",
            "v0.15",
            "--mode",
            "threshold",
            "--threshold",
            "9",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    for key in ["KC-0851", "party_id", "listen", "threshold", "private_key"] {
        assert!(text.contains(key), "{key} is not in {text}");
    }
}

#[test]
fn a_wrong_option_ends_with_2_and_help_with_0() {
    assert_eq!(simulator().arg("--no-such-option").output().unwrap().status.code(), Some(2));
    let help = simulator().arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("--party-id"));
}
