//! A stack whose processes somebody else starts: what `kms-stack setup` writes, and the load over it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use kms_stack::Generation;
use kms_stack::parts::{Anvil, AnvilOptions, Bucket, Kafka, KafkaOptions};
use kms_stack::ports::{free_port, free_ports};
use kms_stack::supervise::{Launch, Supervised};
use kms_tests::{eventually, kafka, new_workspace, prefix, program};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use tempfile::TempDir;

const BLOCKS: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(180);

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
        let [core, _] = free_ports().unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { workspace, directory, prefix: prefix(test), kafka, gateway, ethereum, bucket, core, listen }
    }

    fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// `kms-stack setup` as a container runs it, but for the addresses.
    fn setup(&self, further: &[&str]) -> Output {
        self.setup_in(self.dir(), &self.prefix, further)
    }

    /// The same with another directory or prefix.
    fn setup_in(&self, directory: &Path, prefix: &str, further: &[&str]) -> Output {
        let core = self.core;
        let mut command = Command::new(program());
        command.args(["setup", "--directory"]).arg(directory);
        command.args(["--kafka", &self.kafka, "--gateway", &self.gateway.url(), "--bucket", &self.bucket.url()]);
        if let Some(ethereum) = &self.ethereum {
            command.args(["--generation", "b", "--ethereum", &ethereum.url()]);
        }
        command.args(["--core", &format!("http://127.0.0.1:{core}"), "--core-listen", &format!("127.0.0.1:{core}")]);
        command.args(["--core-control", &format!("http://127.0.0.1:{}", core + 1), "--prefix", prefix]);
        command.arg("--core-state").arg(self.dir().join("state"));
        command.args(["--telemetry", "127.0.0.1:9464", "--service", "http://127.0.0.1:1", "--wait", "180"]);
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

/// Waits until a metric of the service at this port is at least so much, over all its labels.
async fn counted(port: u16, metric: &str, wanted: f64) {
    let url = format!("http://127.0.0.1:{port}/metrics");
    eventually(&format!("{metric} of {wanted}"), LIMIT, async || {
        let text = kms_tests::get(&url).await.ok()?.text().await.ok()?;
        let values = text.lines().filter(|line| line.starts_with(metric)).filter_map(|line| line.rsplit_once(' '));
        let sum: f64 = values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum();
        (sum >= wanted).then_some(())
    })
    .await;
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

    // What a person paused is named as the reason, and nothing of it is lost.
    let wallet = |further: &[&str]| {
        let mut command = Command::new(program());
        command.args(["ctl", "--config"]).arg(site.file("kmsctl.toml")).arg("wallet").args(further).output().unwrap()
    };
    assert_success(&wallet(&["pause", "--as", "ann", "--reason", "noon"]));
    // The services' addresses are nowhere here, so that an outage would be borne.
    let few = ["--requests", "8", "--rate", "0", "--patience", "20", "--outage", "1"];
    let paused = wait(site.job("load", &few).spawn().unwrap()).await;
    assert_eq!(paused.status.code(), Some(1));
    let why = "node 1: sending on chain 31337 is paused by ann: noon";
    assert!(report(&paused)["problems"][0].as_str().unwrap().starts_with(why), "{}", report(&paused));
    assert!(text(&paused.stderr).contains(&format!("! {why}")), "{}", text(&paused.stderr));
    assert_success(&wallet(&["resume"]));
    let judged = wait(site.job("judge", &[]).spawn().unwrap()).await;
    assert_success(&judged);
    assert_eq!(report(&judged)["accepted"], 40);

    // A setup that knows nothing of it does not take its topics.
    let elsewhere = tempfile::tempdir().unwrap();
    let lost = site.setup_in(elsewhere.path(), &site.prefix, &[]);
    assert_lost(&lost, &format!("{}-connector.ingest.cursor", site.prefix));
    assert!(text(&lost.stderr).contains("another --prefix"), "{}", text(&lost.stderr));
}

/// A second stack's emitters would use the same accounts.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_setup_on_a_chain_says_that_the_accounts_are_in_use_and_leaves_their_delegations() {
    let site = Site::new("second", Generation::A).await;
    let first = site.setup(&[]);
    assert_success(&first);
    assert!(!text(&first.stderr).contains("knows the nodes' accounts"), "{}", text(&first.stderr));
    let executor = kms_stack::Description::of_directory(site.dir()).unwrap().executor.unwrap();

    let other = format!("{}-other", site.prefix);
    assert_lost(&site.setup_in(site.dir(), &other, &[]), &format!("(--prefix {})", site.prefix));
    let elsewhere = tempfile::tempdir().unwrap();
    let second = site.setup_in(elsewhere.path(), &other, &[]);
    assert_success(&second);
    let said = text(&second.stderr);
    assert!(said.contains("knows the nodes' accounts already") && said.contains("stop it"), "{said}");
    assert!(said.contains(&format!("were delegated before to {executor}")), "{said}");
    assert_eq!(kms_stack::Description::of_directory(elsewhere.path()).unwrap().executor, Some(executor));
}

/// SIGKILL of the services and of the chain's node, and a stop of the bucket, while a load runs.
#[tokio::test(flavor = "multi_thread")]
async fn p1_p2_p3_a_load_bears_an_outage_of_everything_and_says_what_it_waits_for() {
    let site = Site::new("outage", Generation::A).await;
    assert_success(&site.setup(&[]));
    let processes = site.processes();
    for process in &processes {
        process.start().unwrap();
    }
    let load = site.job("load", &["--requests", "60", "--rate", "10", "--patience", "5"]).spawn().unwrap();
    // Under way: some have their answer.
    counted(site.listen[2], "kms_connector_submissions_total", 10.0).await;
    for process in &processes {
        process.kill().await;
    }
    site.gateway.process().stop(LIMIT).await;
    site.bucket.process().stop(LIMIT).await;
    // Longer than the load's patience: only knowing that things are down keeps it from giving up.
    tokio::time::sleep(Duration::from_secs(8)).await;
    site.gateway.process().start().unwrap();
    site.gateway.wait_ready().await.unwrap();
    site.bucket.process().start().unwrap();
    for process in &processes {
        process.start().unwrap();
    }
    let load = wait(load).await;
    assert_success(&load);
    assert_eq!(report(&load)["accepted"], 60);
    let said = text(&load.stderr);
    assert!(said.contains("waiting for the gateway chain: "), "{said}");
    assert!(said.contains("the gateway chain is there again"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_cut_is_counted_by_the_next_one_in_both_generations() {
    for generation in [Generation::A, Generation::B] {
        let site = Site::new("cut", generation).await;
        assert_success(&site.setup(&[]));
        let processes = site.processes();
        for process in &processes {
            process.start().unwrap();
        }
        // Cut while it makes the operations that are no decryptions, and once more while it makes decryptions.
        for wanted in [3.0, 12.0] {
            let mut cut = site.job("load", &["--requests", "30", "--rate", "5"]).spawn().unwrap();
            counted(site.listen[0], "kms_connector_ingest_records_total", wanted).await;
            cut.kill().unwrap();
            cut.wait().unwrap();
        }
        let whole = wait(site.job("load", &["--requests", "20", "--rate", "0"]).spawn().unwrap()).await;
        assert_success(&whole);
        let whole = report(&whole);
        assert!(whole["before"].as_u64().unwrap() >= 12, "{whole}");
        assert_eq!(whole["accepted"], whole["requested"]);
    }
}

fn plan(site: &Site, wish: &[&str]) -> Output {
    Command::new(program()).args(["plan", "--directory"]).arg(site.dir()).args(wish).output().unwrap()
}

#[track_caller]
fn assert_lost(output: &Output, why: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[KC-0813]") && said.contains(why) && said.contains("down --volumes"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_takes_the_noted_wishes_and_refuses_what_cannot_be_changed() {
    let mut site = Site::new("plan", Generation::A).await;
    assert_success(&plan(&site, &["--nodes", "4"]));
    assert_success(&plan(&site, &["--kafka", &site.kafka]));
    assert_eq!(plan(&site, &["--nodes", "2"]).status.code(), Some(2));
    let broker = std::mem::replace(&mut site.kafka, "127.0.0.1:1".to_owned());
    assert_success(&site.setup(&[]));
    let described = kms_stack::Description::read(&site.dir().join("stack.json")).unwrap();
    assert_eq!((described.nodes.len(), &described.kafka), (4, &broker));
    assert_eq!(described.nodes[3].prefix, format!("{}-node-4", site.prefix));
    for node in 1..=4 {
        for service in ["ingest", "processor", "emitter"] {
            let file = site.dir().join(format!("node-{node}/{service}.toml"));
            let checked =
                Command::new(program()).args([service, "check-config", "--config"]).arg(file).output().unwrap();
            assert_success(&checked);
        }
    }
    // What is on chain stays.
    assert_lost(&plan(&site, &["--nodes", "1"]), "4 node(s)");
    assert_lost(&site.setup(&["--nodes", "1"]), "4 node(s)");
    let signer = "0x00000000000000000000000000000000000000aa";
    assert_lost(&site.setup(&["--core-signer", &[signer; 4].join(",")]), "other signers");
    // Another chain, whose first blocks hold nothing.
    let options = AnvilOptions { block_time: Some(BLOCKS), ..AnvilOptions::default() };
    site.gateway = Anvil::start(&site.workspace, options).await.unwrap();
    assert_lost(&site.setup(&[]), "lost its state");
}

#[tokio::test]
async fn a_setup_that_finds_nothing_says_what_it_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = ["--gateway", "http://127.0.0.1:1", "--kafka", "127.0.0.1:1", "--bucket", "http://127.0.0.1:1/b"];
    let output = setup_of_nothing(directory.path(), &[&nothing[..], &["--wait", "1"]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[KC-0812]"), "{said}");
    assert!(said.contains("waiting for the Gateway at http://127.0.0.1:1"), "{said}");
    assert!(!directory.path().join("stack.json").exists());
}

/// `kms-stack setup` with addresses where nothing is.
fn setup_of_nothing(directory: &Path, further: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(["setup", "--directory"]).arg(directory);
    command.args(further).output().unwrap()
}

#[test]
fn a_setup_refuses_at_once_what_can_never_be_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let wrong = ["--gateway", "localhost:8545", "--kafka", "http://kafka:9092", "--bucket", "s3://bucket"];
    let output = setup_of_nothing(directory.path(), &wrong);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for why in ["give http://localhost:8545", "--kafka `http://kafka:9092`", "s3:// is not spoken"] {
        assert!(said.contains(why), "{why}: {said}");
    }
    assert!(!said.contains("waiting for"), "{said}");
}

#[test]
fn a_setup_waits_for_a_name_that_leads_nowhere_a_sixth_of_its_patience() {
    let directory = tempfile::tempdir().unwrap();
    // A name that is nobody's (RFC 2606).
    let nobody =
        ["--gateway", "http://chain.invalid:8545", "--kafka", "127.0.0.1:1", "--bucket", "http://127.0.0.1:1/b"];
    let output = setup_of_nothing(directory.path(), &[&nobody[..], &["--wait", "6"]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[KC-0812]") && said.contains("`chain.invalid` is the name of no host"), "{said}");
}

#[test]
fn a_setup_that_cannot_write_its_files_asks_nobody_for_anything() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let nothing = ["--gateway", "http://127.0.0.1:1", "--kafka", "127.0.0.1:1", "--bucket", "http://127.0.0.1:1/b"];
    let output = setup_of_nothing(&file.join("config"), &nothing);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[KC-0809]") && said.contains("nothing was set up"), "{said}");
    assert!(!said.contains("waiting for"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_say_what_the_services_say() {
    let site = Site::new("health", Generation::A).await;
    assert_success(&site.setup(&[]));
    let check = |service: &str, port: u16, further: &[&str]| {
        let file = site.file(&format!("{service}.toml"));
        let listen = format!("telemetry.listen=127.0.0.1:{port}");
        let mut command = Command::new(program());
        command.arg(service).arg("--config").arg(file).args(["--set", &listen, "healthcheck"]).args(further);
        command.output().unwrap()
    };
    assert_eq!(check("ingest", site.listen[0], &[]).status.code(), Some(1));
    let processes = site.processes();
    processes[0].start().unwrap();
    eventually("ready", LIMIT, async || check("ingest", site.listen[0], &["--ready"]).status.success().then_some(()))
        .await;
    assert_success(&check("ingest", site.listen[0], &[]));
    let url = format!("http://127.0.0.1:{}/readyz", site.listen[0]);
    assert_success(&Command::new(program()).args(["health", &url]).output().unwrap());
    assert_eq!(
        Command::new(program()).args(["health", "http://127.0.0.1:1/"]).output().unwrap().status.code(),
        Some(1)
    );

    let core = || {
        let mut command = Command::new(program());
        command.args(["simulator", "--config"]).arg(site.file("core.toml")).arg("healthcheck").output().unwrap()
    };
    assert_eq!(core().status.code(), Some(1));
    processes[3].start().unwrap();
    eventually("the simulator answers", LIMIT, async || core().status.success().then_some(())).await;
}

/// The first broker of a cluster is the same container as of a stack with one: it would make the brokers' own topics with one replica.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_the_brokers_own_topics_have_a_replica_on_every_broker() {
    let workspace = new_workspace();
    let options = KafkaOptions::three_brokers()
        .property("offsets.topic.replication.factor", "1")
        .property("transaction.state.log.replication.factor", "1")
        .property("transaction.state.log.min.isr", "1");
    let cluster = Kafka::start(&workspace, options).await.unwrap();
    let site = Site::over("cluster", Generation::A, cluster.bootstrap_servers().to_owned()).await;
    assert_success(&site.setup(&["--brokers", "3"]));
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    for topic in ["__consumer_offsets", "__transaction_state", &format!("{}-connector.submissions", site.prefix)] {
        let metadata = client.fetch_metadata(Some(topic), LIMIT).unwrap();
        let partitions = metadata.topics()[0].partitions();
        assert!(!partitions.is_empty() && partitions.iter().all(|one| one.replicas().len() == 3), "{topic}");
    }
    assert_success(&site.setup(&["--brokers", "3"]));
    cluster.stop().await;
}
