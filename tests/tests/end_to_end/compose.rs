//! `compose/compose.yaml` and the code say the same: what the file passes is taken, what it repeats is equal, and every command line
//! in it runs.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kms_stack::Description;
use kms_stack::parts::{Anvil, AnvilOptions, Bucket, Registry, broker_settings};
use kms_stack::ports::free_port;
use kms_stack::supervise::{Launch, Supervised};
use kms_tests::{eventually, kafka, new_workspace, program};

pub(crate) use file::settings;
use file::{Container, containers, document, folder};

const LIMIT: Duration = Duration::from_secs(180);
/// Where every service listens in its container.
const TELEMETRY: &str = "9464";
/// Our programs, by the verb of `kms-stack` that is the same.
const PROGRAMS: [(&str, Option<&str>); 5] = [
    ("kms-ingest", Some("ingest")),
    ("kms-processor", Some("processor")),
    ("kms-emitter", Some("emitter")),
    ("kmsctl", Some("ctl")),
    ("kms-stack", None),
];

/// The containers of our image.
fn ours() -> Vec<Container> {
    let image = &settings()["KMS_IMAGE"];
    let ours: Vec<Container> = containers().into_iter().filter(|container| container.image == *image).collect();
    assert!(ours.len() >= 20, "{} containers of {image}", ours.len());
    ours
}

/// A command line of the image as one of the program under test.
fn on_this_machine(command: &[String]) -> Vec<String> {
    let (program, rest) = command.split_first().unwrap();
    let known = PROGRAMS.iter().find(|(name, _)| name == program);
    let (_, verb) = known.unwrap_or_else(|| panic!("the image has no program {program}"));
    verb.iter().map(|verb| (*verb).to_owned()).chain(rest.iter().cloned()).collect()
}

#[test]
fn every_image_has_a_version_and_those_that_the_stack_fetches_too_have_the_same() {
    let settings = settings();
    for container in containers() {
        let tag = container.image.rsplit_once(':').map(|(_, tag)| tag).unwrap_or_default();
        assert!(
            tag.contains(|c: char| c.is_ascii_digit()) && tag != "latest",
            "{}: {}",
            container.name,
            container.image
        );
    }
    let part = |file: &str| std::fs::read_to_string(folder().join("parts").join(file)).unwrap();
    let version = |file: &str| {
        let text = part(file);
        let (_, after) = text.split_once("<version>").unwrap();
        after.split_once("</version>").unwrap().0.to_owned()
    };
    let npm: serde_json::Value = serde_json::from_str(&part("package.json")).unwrap();
    let anvil = npm["dependencies"]["@foundry-rs/anvil"].as_str().unwrap();
    for (setting, pinned) in [
        ("KAFKA_IMAGE", version("kafka.pom.xml")),
        ("REGISTRY_IMAGE", version("registry.pom.xml")),
        ("ANVIL_IMAGE", format!("v{anvil}")),
    ] {
        assert!(settings[setting].ends_with(&format!(":{pinned}")), "{setting} is not {pinned}: {}", settings[setting]);
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(settings["KMS_IMAGE"], format!("kms-connector:{version}"));
    assert_eq!(settings["KMS_VERSION"], version);
}

#[test]
fn every_setting_is_used_and_documented() {
    let text = std::fs::read_to_string(folder().join("compose.yaml")).unwrap();
    let env = std::fs::read_to_string(folder().join(".env")).unwrap();
    let mut documented = false;
    for line in env.lines() {
        match line.split_once('=') {
            _ if line.starts_with('#') => documented = true,
            None => documented = false,
            Some((name, _)) => {
                assert!(documented, "{name} has no comment above it");
                assert!(text.contains(&format!("${{{name}")), "{name} is in .env and not used");
            }
        }
    }
}

#[test]
fn ports_are_published_on_this_machine_only_and_none_twice() {
    let mut published = BTreeSet::new();
    for container in containers() {
        for port in &container.ports {
            let host = port.strip_prefix("127.0.0.1:").unwrap_or_else(|| panic!("{}: {port}", container.name));
            let (outer, inner) = host.split_once(':').unwrap();
            assert!(published.insert(outer.to_owned()), "{}: {outer} is published twice", container.name);
            if ours().iter().any(|ours| ours.name == container.name) {
                assert_eq!(inner, TELEMETRY, "{}", container.name);
            }
        }
        assert!(container.all.get("network_mode").is_none_or(|mode| mode == "none"), "{}", container.name);
        assert!(container.all.get("privileged").is_none() && container.all.get("cap_add").is_none());
    }
}

#[test]
fn our_containers_are_not_root_and_cannot_write_their_root() {
    for container in ours() {
        assert_eq!(container.all["read_only"], true, "{}", container.name);
        assert_eq!(container.all["cap_drop"][0], "ALL", "{}", container.name);
        assert!(container.all.get("user").is_none(), "{}: the image's own user", container.name);
    }
    let dockerfile = std::fs::read_to_string(folder().join("Dockerfile")).unwrap();
    let users: Vec<&str> = dockerfile.lines().filter_map(|line| line.strip_prefix("USER ")).collect();
    assert_eq!(users, ["10001:10001"]);
    assert!(dockerfile.contains("STOPSIGNAL SIGTERM") && dockerfile.contains("HEALTHCHECK"));
}

#[test]
fn services_run_until_they_are_stopped_and_are_given_the_time_to_end() {
    for container in ours().iter().filter(|container| !container.healthcheck.is_empty()) {
        assert_eq!(container.all["restart"], "unless-stopped", "{}", container.name);
        let grace = container.all["stop_grace_period"].as_str().unwrap_or_default();
        let seconds: u64 = grace.strip_suffix('s').unwrap().parse().unwrap();
        assert!(seconds >= 30, "{}: {grace}", container.name);
        // Its health is asked of the same program with the same arguments.
        let (how, check) = container.healthcheck.split_first().unwrap();
        assert_eq!(how, "CMD", "{}", container.name);
        assert!(check.starts_with(&container.command), "{}: {check:?}", container.name);
        assert_eq!(check[container.command.len()], "healthcheck", "{}: {check:?}", container.name);
    }
}

/// The profiles of the issue, and that what they switch on depends on nothing that is off.
#[test]
fn profiles_are_closed() {
    let all = containers();
    let profiles: BTreeSet<&str> = all.iter().flat_map(|one| one.profiles.iter().map(String::as_str)).collect();
    for profile in ["ui", "nodes4", "cluster"] {
        assert!(profiles.contains(profile), "{profile}");
    }
    for container in &all {
        for (name, how) in container.all["depends_on"].as_object().into_iter().flatten() {
            let other = all.iter().find(|other| other.name == *name);
            let other = other.unwrap_or_else(|| panic!("{} depends on {name}, which there is not", container.name));
            let is_on = other.profiles.is_empty() || other.profiles == container.profiles;
            assert!(is_on || how["required"] == false, "{} depends on {name}", container.name);
            if how["condition"] == "service_healthy" {
                assert!(other.all["healthcheck"]["test"].is_array(), "{name} has no health to wait for");
            }
        }
    }
}

#[test]
fn brokers_and_chains_are_set_as_the_local_ones() {
    // What one broker has by default.
    const DEFAULTS: [&str; 3] =
        ["default.replication.factor", "min.insync.replicas", "num.recovery.threads.per.data.dir"];
    let all = containers();
    let named = |name: &str| all.iter().find(|one| one.name == name).unwrap();
    for broker in ["kafka", "kafka-2", "kafka-3"] {
        for (key, value) in broker_settings(1).iter().filter(|(key, _)| !DEFAULTS.contains(key)) {
            let variable = format!("KAFKA_{}", key.replace('.', "_").to_uppercase());
            assert_eq!(named(broker).environment.get(&variable), Some(value), "{broker}: {key}");
        }
    }
    for (chain, chain_id) in [("chain", 31_337), ("ethereum", 12_345)] {
        let command = &named(chain).command;
        let accounts = "--accounts=";
        for argument in (AnvilOptions { chain_id, ..AnvilOptions::default() }).arguments() {
            assert!(
                command.contains(&argument) || argument.starts_with(accounts),
                "{chain}: {argument} in {command:?}"
            );
        }
        for persistent in ["--state=", "--block-time="] {
            assert!(command.iter().any(|argument| argument.starts_with(persistent)), "{chain}: {persistent}");
        }
    }
    for volume in document()["volumes"].as_object().unwrap().keys() {
        let mount = format!("{volume}:");
        let used = |one: &Container| {
            one.all["volumes"].as_array().is_some_and(|all| all.iter().any(|v| v.as_str().unwrap().starts_with(&mount)))
        };
        assert!(all.iter().any(used), "the volume {volume} is mounted nowhere");
    }
}

/// The containers' world on this machine: hosts and ports there, and what stands for them here.
struct World {
    workspace: kms_stack::Workspace,
    directory: tempfile::TempDir,
    hosts: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        Self { workspace: new_workspace(), directory: tempfile::tempdir().unwrap(), hosts: BTreeMap::new() }
    }

    fn put(&mut self, there: &str, here: &str) {
        self.hosts.insert(there.to_owned(), here.to_owned());
    }

    /// A text with hosts and folders of this machine.
    fn mapped(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // The longest first: `kafka:19092` is the end of nothing, but `chain:8545` could be.
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort_by_key(|(there, _)| std::cmp::Reverse(there.len()));
        for (there, here) in hosts {
            text = text.replace(there.as_str(), here);
        }
        let dir = self.directory.path().display();
        if text == "/config" || text.starts_with("/config/") {
            text = format!("{dir}{text}");
        }
        text.replace("=/config", &format!("={dir}/config")).replace("=/state", &format!("={dir}/state"))
    }

    fn command(&self, command: &[String]) -> Vec<String> {
        on_this_machine(command).iter().map(|word| self.mapped(word)).collect()
    }

    fn config(&self) -> std::path::PathBuf {
        self.directory.path().join("config")
    }

    /// Runs a container that ends by itself.
    #[track_caller]
    fn run(&self, container: &Container) -> std::process::Output {
        let mut command = Command::new(program());
        command.args(self.command(&container.command)).envs(&container.environment);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n{said}", container.name, output.status);
        output
    }

    /// Every container has its own port 9464, and every simulator its own 50051; here each gets another.
    fn give_ports(&self, name: &str, file: &Path) -> Vec<(String, u16)> {
        let mut text = std::fs::read_to_string(file).unwrap();
        let mut given = Vec::new();
        for port in [TELEMETRY, "50051", "50052"] {
            let everywhere = format!("\"0.0.0.0:{port}\"");
            if text.contains(&everywhere) {
                let own = free_port().unwrap();
                text = text.replace(&everywhere, &format!("\"127.0.0.1:{own}\""));
                given.push((format!("{name}:{port}"), own));
            }
        }
        assert!(!given.is_empty(), "{name} listens nowhere");
        std::fs::write(file, text).unwrap();
        given
    }

    /// Replaces hosts in what was written.
    fn rewrite(&self, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap();
        let mapped: Vec<String> = text.lines().map(|line| self.mapped(line)).collect();
        std::fs::write(file, mapped.join("\n")).unwrap();
    }
}

/// The configuration file in a service's command line.
fn file_of(container: &Container) -> Option<&str> {
    let place = container.command.iter().position(|word| word == "--config")?;
    container.command.get(place + 1).map(String::as_str)
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_every_command_line_of_the_default_stack_runs_and_a_load_is_accepted() {
    let mut world = World::new();
    let options =
        AnvilOptions { chain_id: 31_337, block_time: Some(Duration::from_millis(100)), ..AnvilOptions::default() };
    let (anvil, bucket, registry) = tokio::try_join!(
        Anvil::start(&world.workspace, options),
        Bucket::start(&world.workspace, "ct128"),
        Registry::start(&world.workspace)
    )
    .unwrap();
    world.put("kafka:19092", kafka().await.bootstrap_servers());
    world.put("http://chain:8545", &anvil.url());
    world.put("http://bucket:9090/ct128", &bucket.url());
    world.put("http://registry:8080/apis/ccompat/v7", &registry.url());
    let mut all: Vec<Container> = ours().into_iter().filter(|container| container.profiles.is_empty()).collect();
    let named = |name: &str| ours().into_iter().find(|container| container.name == name).unwrap();

    world.run(&named("setup"));
    // Ports first, so that the other files can name them.
    all.retain(|container| !container.healthcheck.is_empty());
    assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<BTreeSet<_>>().len(), 4);
    for container in &all {
        let file = world.mapped(file_of(container).unwrap());
        for (there, port) in world.give_ports(&container.name, Path::new(&file)) {
            world.put(&there, &format!("127.0.0.1:{port}"));
        }
    }
    for container in &all {
        world.rewrite(Path::new(&world.mapped(file_of(container).unwrap())));
    }
    world.rewrite(&world.config().join("stack.json"));

    let mut processes = Vec::new();
    for container in &all {
        let mut launch = Launch::new(&container.name, program()).args(world.command(&container.command));
        for (key, value) in &container.environment {
            launch = launch.env(key, value);
        }
        let process = Supervised::new(&world.workspace, launch);
        process.start().unwrap();
        processes.push(process);
    }
    for (container, process) in all.iter().zip(&processes) {
        let check = world.command(&container.healthcheck[1..]);
        eventually(&format!("{} is healthy", container.name), LIMIT, async || {
            assert!(process.is_running(), "{}", process.log());
            Command::new(program()).args(&check).output().unwrap().status.success().then_some(())
        })
        .await;
    }
    let mut load = named("load");
    let place = load.command.iter().position(|word| word == "--requests").unwrap();
    load.command[place + 1] = "30".to_owned();
    let loaded = tokio::task::block_in_place(|| world.run(&load));
    let table = String::from_utf8_lossy(&loaded.stdout);
    assert!(table.contains("consensus on 28 requests"), "{table}");
    for process in &processes {
        let status = process.stop(LIMIT).await.unwrap();
        assert!(status.success(), "{}: {status}\n{}", process.name(), process.log());
    }
}

/// Every profile: what the setup writes for it is what its services take, with nothing unknown and nothing missing.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_of_every_profile_takes_its_file_and_its_variables() {
    let mut world = World::new();
    let chain =
        |chain_id| AnvilOptions { chain_id, block_time: Some(Duration::from_millis(100)), ..AnvilOptions::default() };
    let gateway = Anvil::start(&world.workspace, chain(31_337)).await.unwrap();
    let ethereum = Anvil::start(&world.workspace, chain(12_345)).await.unwrap();
    let bucket = Bucket::start(&world.workspace, "ct128").await.unwrap();
    // Asked for its subjects only.
    world.put("kafka:19092", kafka().await.bootstrap_servers());
    world.put("http://chain:8545", &gateway.url());
    world.put("http://ethereum:8545", &ethereum.url());
    world.put("http://bucket:9090/ct128", &bucket.url());
    let registry = Registry::start(&world.workspace).await.unwrap();
    world.put("http://registry:8080/apis/ccompat/v7", &registry.url());
    let all = ours();
    let named = |name: &str| all.iter().find(|container| container.name == name).unwrap();
    world.run(named("plan-nodes4"));
    world.run(named("plan-b"));
    world.run(named("setup"));
    let described = Description::read(&world.config().join("stack.json")).unwrap();
    assert_eq!((described.nodes.len(), described.generation), (4, kms_stack::Generation::B));
    // Every node of the description has its containers, under the names by which others find them.
    for node in &described.nodes {
        for url in node.services.iter().map(|service| &service.url).chain(&node.control).chain([&node.core]) {
            let host = url.strip_prefix("http://").unwrap().split(':').next().unwrap();
            assert!(all.iter().any(|container| container.name == host), "{url}: there is no such container");
        }
    }
    for container in all.iter().filter(|container| !container.healthcheck.is_empty()) {
        let file = world.mapped(file_of(container).unwrap());
        assert!(Path::new(&file).is_file(), "{}: {file}", container.name);
        let mut command = Command::new(program());
        command.args(world.command(&container.command)).arg("check-config").envs(&container.environment);
        let checked = command.output().unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {said}", container.name);
        let ours = container.environment.keys().filter(|key| !key.starts_with("KMS_CONNECTOR_"));
        assert_eq!(ours.count(), 0, "{}: variables that no service reads", container.name);
    }
    for node in 1..=4 {
        let file = world.config().join(format!("node-{node}/kmsctl.toml"));
        let listed =
            Command::new(program()).args(["ctl", "--config"]).arg(file).args(["topics", "check"]).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    }
}

#[test]
fn a_variable_that_no_service_knows_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kmsctl.toml");
    std::fs::write(&file, "[kafka]\n").unwrap();
    let mut command = Command::new(program());
    command.args(["ctl", "--config"]).arg(&file).args(["topics", "list"]).env("KMS_CONNECTOR_KAFKA__NO_SUCH_KEY", "1");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no_such_key"));
}

/// `cluster`: the plan notes three brokers by the names of their containers.
#[test]
fn the_cluster_is_planned_with_the_brokers_that_there_are() {
    let world = World::new();
    let all = ours();
    world.run(all.iter().find(|container| container.name == "plan-cluster").unwrap());
    let noted = |name: &str| std::fs::read_to_string(world.config().join("plan").join(name)).unwrap();
    assert_eq!(noted("brokers").trim(), "3");
    let brokers: BTreeSet<String> =
        noted("kafka").trim().split(',').map(|broker| broker.strip_suffix(":19092").unwrap().to_owned()).collect();
    let image = &settings()["KAFKA_IMAGE"];
    let there = containers().into_iter().filter(|container| container.image == *image).map(|container| container.name);
    assert_eq!(brokers, there.collect());
}
