//! A stack whose processes somebody else starts: what `kms-stack setup` writes, and the load over it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use kms_stack::Generation;
use kms_stack::parts::{Anvil, AnvilOptions, Bucket};
use kms_stack::ports::free_port;
use kms_stack::supervise::{Launch, Supervised};
use kms_tests::{kafka, new_workspace, prefix, program};
use serde_json::Value;
use tempfile::TempDir;

const BLOCKS: Duration = Duration::from_millis(100);

/// What a container engine would have started, and the directory of the setup.
struct Site {
    workspace: kms_stack::Workspace,
    directory: TempDir,
    prefix: String,
    kafka: String,
    gateway: Anvil,
    ethereum: Option<Anvil>,
    bucket: Bucket,
    core: u16,
    listen: [u16; 3],
}

impl Site {
    async fn new(test: &str, generation: Generation) -> Self {
        Self::over(test, generation, kafka().await.bootstrap_servers().to_owned()).await
    }

    async fn over(test: &str, generation: Generation, kafka: String) -> Self {
        let workspace = new_workspace();
        let chain =
            |chain_id| AnvilOptions { chain_id, block_time: Some(BLOCKS), persistent: true, ..AnvilOptions::default() };
        let gateway = Anvil::start(&workspace, chain(31_337)).await.unwrap();
        let ethereum = match generation {
            Generation::A => None,
            Generation::B => Some(Anvil::start(&workspace, chain(12_345)).await.unwrap()),
        };
        let bucket = Bucket::start(&workspace, "ct128").await.unwrap();
        let listen = std::array::from_fn(|_| free_port().unwrap());
        // The control endpoint is at the next port.
        let core = loop {
            let port = free_port().unwrap();
            if std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
                break port;
            }
        };
        let directory = tempfile::tempdir().unwrap();
        Self { workspace, directory, prefix: prefix(test), kafka, gateway, ethereum, bucket, core, listen }
    }

    fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// `kms-stack setup` as a container runs it, but for the addresses.
    fn setup(&self, further: &[&str]) -> Output {
        let core = self.core;
        let mut command = Command::new(program());
        command.args(["setup", "--directory"]).arg(self.dir());
        command.args(["--kafka", &self.kafka, "--gateway", &self.gateway.url(), "--bucket", &self.bucket.url()]);
        if let Some(ethereum) = &self.ethereum {
            command.args(["--generation", "b", "--ethereum", &ethereum.url()]);
        }
        command.args(["--core", &format!("http://127.0.0.1:{core}"), "--core-listen", &format!("127.0.0.1:{core}")]);
        command.args(["--core-control", &format!("http://127.0.0.1:{}", core + 1), "--prefix", &self.prefix]);
        command.arg("--core-state").arg(self.dir().join("state"));
        command.args(["--telemetry", "127.0.0.1:9464", "--service", "http://127.0.0.1:1", "--wait", "60"]);
        command.args(further).output().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir().join("node-1").join(name)
    }

    /// The four processes of node 1.
    fn processes(&self) -> Vec<Supervised> {
        let mut all = Vec::new();
        for (name, port) in [("ingest", self.listen[0]), ("processor", self.listen[1]), ("emitter", self.listen[2])] {
            let launch = Launch::new(name, program()).args([name, "--config"]).arg(self.file(&format!("{name}.toml")));
            let launch = launch.arg("--set").arg(format!("telemetry.listen=127.0.0.1:{port}"));
            all.push(Supervised::new(&self.workspace, launch));
        }
        let launch = Launch::new("core", program()).args(["simulator", "--config"]).arg(self.file("core.toml"));
        all.push(Supervised::new(&self.workspace, launch));
        all
    }

    fn job(&self, verb: &str, further: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args([verb, "--output", "json", "--directory"]).arg(self.dir()).args(further);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
}

#[track_caller]
fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}\n{}", output.status, text(&output.stderr)))
}

async fn wait(child: Child) -> Output {
    tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_a_load_over_processes_that_were_set_up_is_accepted_and_a_second_one_counts_the_first() {
    let site = Site::new("setup", Generation::A).await;
    assert_success(&site.setup(&[]));
    let files = ["ingest.toml", "processor.toml", "emitter.toml", "core.toml", "kmsctl.toml"];
    let before: Vec<String> = files.iter().map(|name| std::fs::read_to_string(site.file(name)).unwrap()).collect();
    let stack = std::fs::read_to_string(site.dir().join("stack.json")).unwrap();

    // Again over the same chain: nothing is deployed, nothing changes.
    let again = site.setup(&[]);
    assert_success(&again);
    assert!(!text(&again.stderr).contains("deploy"), "{}", text(&again.stderr));
    let after: Vec<String> = files.iter().map(|name| std::fs::read_to_string(site.file(name)).unwrap()).collect();
    assert_eq!(before, after);
    assert_eq!(stack, std::fs::read_to_string(site.dir().join("stack.json")).unwrap());

    let processes = site.processes();
    for process in &processes {
        process.start().unwrap();
    }
    let first = wait(site.job("load", &["--requests", "20", "--rate", "0"]).spawn().unwrap()).await;
    assert_success(&first);
    let first = report(&first);
    assert_eq!((&first["requested"], &first["accepted"], &first["before"]), (&20.into(), &20.into(), &0.into()));

    let second = wait(site.job("load", &["--requests", "12", "--rate", "0"]).spawn().unwrap()).await;
    assert_success(&second);
    let second = report(&second);
    assert_eq!((&second["requested"], &second["accepted"], &second["before"]), (&32.into(), &32.into(), &20.into()));

    let judged = wait(site.job("judge", &[]).spawn().unwrap()).await;
    assert_success(&judged);
    assert_eq!(report(&judged)["accepted"], 32);
}
