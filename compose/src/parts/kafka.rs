//! Apache Kafka in KRaft mode: one combined broker and controller, or three.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::PORT_TRIES;
use super::fetch::{KAFKA, ensure};
use super::prerequisites::Tool;
use crate::error::StackError;
use crate::ports::{free_port, says_port_taken};
use crate::supervise::{Launch, Process, Supervised};
use crate::workspace::Workspace;

/// Three brokers side by side on two busy cores were once seen to take 42 s.
/// Partitions of the brokers' own topics.
pub(crate) const INTERNAL_PARTITIONS: i32 = 4;
const READY_LIMIT: Duration = Duration::from_secs(120);
const FORMAT_LIMIT: Duration = Duration::from_secs(60);
/// A broker that is asked to stop hands over its partitions first, which takes a second or two.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How the cluster is set up.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// 1, or 3 with replication factor 3 and two replicas in sync needed.
    pub brokers: u8,
    /// Heap of each broker, in MiB.
    pub heap_mib: u32,
    /// Broker properties that replace or add to the stack's.
    pub properties: Vec<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self { brokers: 1, heap_mib: 512, properties: Vec::new() }
    }
}

impl KafkaOptions {
    /// Three brokers.
    pub fn three_brokers() -> Self {
        Self { brokers: 3, ..Self::default() }
    }

    /// Sets a broker property.
    #[must_use]
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A running cluster. Dropping it ends it.
#[derive(Debug)]
pub struct Kafka {
    brokers: Vec<Supervised>,
    bootstrap: String,
}

#[derive(Clone, Copy, Debug)]
struct BrokerPorts {
    id: u8,
    broker: u16,
    controller: u16,
}

impl Kafka {
    /// Starts a cluster and waits until a client sees all its brokers.
    ///
    /// # Errors
    /// What fetching it can fail with; [`StackError::Died`] and [`StackError::NotReady`] with the end of the broker's log.
    pub async fn start(workspace: &Workspace, options: KafkaOptions) -> Result<Self, StackError> {
        if !matches!(options.brokers, 1 | 3) {
            return Err(StackError::Usage(format!("{} brokers: only 1 and 3 are provided for", options.brokers)));
        }
        let libs = ensure(workspace, KAFKA).await?.join("libs");
        for attempt in 1.. {
            match Self::start_once(workspace, &options, &libs).await {
                Err(StackError::Died { log, .. }) if attempt < PORT_TRIES && port_was_taken(&log) => {}
                result => return result,
            }
        }
        unreachable!("the last attempt returns its result")
    }

    async fn start_once(workspace: &Workspace, options: &KafkaOptions, libs: &Path) -> Result<Self, StackError> {
        let task = workspace.progress().begin(KAFKA.label, "starting");
        let mut ports = Vec::new();
        for id in 1..=options.brokers {
            ports.push(BrokerPorts { id, broker: free_port()?, controller: free_port()? });
        }
        let log_config =
            workspace.write("config/kafka-log4j2.properties", include_str!("../../parts/log4j2.properties"))?;
        let cluster = workspace.claim("kafka");
        let mut brokers = Vec::new();
        let mut formats = Vec::new();
        for broker in &ports {
            let name = if options.brokers == 1 { cluster.clone() } else { format!("{cluster}-broker-{}", broker.id) };
            let data = workspace.data_dir(&name)?;
            let config =
                workspace.write(&format!("config/{name}.properties"), &properties(*broker, &ports, &data, options))?;
            let java = Java { libs, log_config: &log_config };
            let format = java
                .launch(format!("{name}-format"), 64)
                .args(["kafka.tools.StorageTool", "format", "--cluster-id", "a21zLXN0YWNrLWxvY2FsMQ", "--config"])
                .arg(&config);
            formats.push(Process::spawn(workspace, &format)?);
            let launch = java.launch(name, options.heap_mib).arg("kafka.Kafka").arg(&config);
            brokers.push(Supervised::new(workspace, launch));
        }
        for format in formats {
            finish_format(&format).await?;
        }
        for broker in &brokers {
            broker.start()?;
        }
        let bootstrap: Vec<String> = ports.iter().map(|broker| format!("127.0.0.1:{}", broker.broker)).collect();
        let kafka = Self { brokers, bootstrap: bootstrap.join(",") };
        kafka.wait_ready().await?;
        task.done(&format!("up at {}", kafka.bootstrap));
        Ok(kafka)
    }

    /// Addresses for a client's `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// The broker processes, to be killed and started again by tests; follow with [`Kafka::wait_ready`].
    pub fn brokers(&self) -> &[Supervised] {
        &self.brokers
    }

    /// Waits until a client sees every broker of the cluster.
    ///
    /// # Errors
    /// [`StackError::Died`] and [`StackError::NotReady`] with the end of a broker's log.
    pub async fn wait_ready(&self) -> Result<(), StackError> {
        let client: Arc<BaseConsumer> = Arc::new(
            ClientConfig::new()
                .set("bootstrap.servers", &self.bootstrap)
                .set("reconnect.backoff.ms", "20")
                .set("reconnect.backoff.max.ms", "100")
                .create()
                .map_err(|error| StackError::io("creating a Kafka client")(std::io::Error::other(error)))?,
        );
        let begun = Instant::now();
        for broker in &self.brokers {
            let remaining = READY_LIMIT.saturating_sub(begun.elapsed());
            broker.ready(remaining, async || brokers_seen(client.clone(), self.brokers.len()).await).await?;
        }
        Ok(())
    }

    /// How many replicas are in sync where they are fewest, over all partitions of all topics.
    ///
    /// # Errors
    /// What the client says when no broker answers within 5 s.
    pub async fn replicas_in_sync(&self) -> Result<usize, StackError> {
        let refused = |error: String| StackError::io("asking Kafka for its replicas")(std::io::Error::other(error));
        let bootstrap = self.bootstrap.clone();
        let look = move || -> Result<usize, rdkafka::error::KafkaError> {
            let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &bootstrap).create()?;
            let metadata = client.fetch_metadata(None, Duration::from_secs(5))?;
            let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
            Ok(partitions.map(|partition| partition.isr().len()).min().unwrap_or_default())
        };
        let looked = tokio::task::spawn_blocking(look).await.map_err(|error| refused(error.to_string()))?;
        looked.map_err(|error| refused(error.to_string()))
    }

    /// Stops all brokers in order.
    pub async fn stop(&self) {
        futures::future::join_all(self.brokers.iter().map(|broker| broker.stop(STOP_GRACE))).await;
    }
}

/// A real client's view: which brokers the metadata names.
async fn brokers_seen(client: Arc<BaseConsumer>, wanted: usize) -> Result<(), String> {
    let look = tokio::task::spawn_blocking(move || {
        let metadata = client.fetch_metadata(None, Duration::from_millis(500)).map_err(|error| error.to_string())?;
        Ok(metadata.brokers().len())
    });
    match look.await.map_err(|error| error.to_string()).flatten() {
        Ok(seen) if seen >= wanted => Ok(()),
        Ok(seen) => Err(format!("a client sees {seen} of {wanted} brokers")),
        Err(error) => Err(format!("a client cannot reach it: {error}")),
    }
}

async fn finish_format(format: &Process) -> Result<(), StackError> {
    let how = match tokio::time::timeout(FORMAT_LIMIT, format.wait()).await {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(_) => format!("still formatting after {} s", FORMAT_LIMIT.as_secs()),
    };
    Err(StackError::Died {
        name: format.name().to_owned(),
        how,
        tail: format.log_tail(25),
        log: format.log_path().to_owned(),
    })
}

fn port_was_taken(log: &Path) -> bool {
    says_port_taken(&String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()))
}

struct Java<'a> {
    libs: &'a Path,
    log_config: &'a PathBuf,
}

impl Java<'_> {
    /// The serial collector and the first compiler only: a broker for one machine should start fast and leave the cores alone.
    fn launch(&self, name: String, heap_mib: u32) -> Launch {
        Launch::new(name, Tool::Java.program())
            .arg(format!("-Xmx{heap_mib}m"))
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"])
            .arg(format!("-Dlog4j2.configurationFile={}", self.log_config.display()))
            .arg("-cp")
            .arg(self.libs.join("*"))
    }
}

/// The settings of a broker in a cluster of that size that are the same wherever it runs: `compose.yaml` has them too.
pub fn broker_settings(replicas: usize) -> Vec<(&'static str, String)> {
    let in_sync = if replicas == 1 { 1 } else { 2 };
    vec![
        // Topics are created by whoever owns them, with the partitions and settings of the catalogue.
        ("auto.create.topics.enable", "false".to_owned()),
        ("default.replication.factor", replicas.to_string()),
        ("min.insync.replicas", in_sync.to_string()),
        // Fifty partitions each would cost seconds of a start and serve nobody on one machine.
        ("offsets.topic.num.partitions", INTERNAL_PARTITIONS.to_string()),
        ("offsets.topic.replication.factor", replicas.to_string()),
        ("transaction.state.log.num.partitions", INTERNAL_PARTITIONS.to_string()),
        ("transaction.state.log.replication.factor", replicas.to_string()),
        ("transaction.state.log.min.isr", in_sync.to_string()),
        ("share.coordinator.state.topic.num.partitions", "1".to_owned()),
        ("share.coordinator.state.topic.replication.factor", replicas.to_string()),
        ("share.coordinator.state.topic.min.isr", in_sync.to_string()),
        // The default looks for transactions of dead producers every 10 s, which is how long readers would then wait.
        ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000".to_owned()),
        // The first member of a group need not wait for others.
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        // The default takes 128 MiB of the heap.
        ("log.cleaner.dedupe.buffer.size", (8 << 20).to_string()),
        ("num.network.threads", "2".to_owned()),
        ("num.io.threads", "4".to_owned()),
        ("num.recovery.threads.per.data.dir", "1".to_owned()),
        ("log.retention.ms", "-1".to_owned()),
    ]
}

fn properties(own: BrokerPorts, all: &[BrokerPorts], data: &Path, options: &KafkaOptions) -> String {
    let voters: Vec<String> = all.iter().map(|b| format!("{}@127.0.0.1:{}", b.id, b.controller)).collect();
    let mut settings = vec![
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", own.id.to_string()),
        ("controller.quorum.voters", voters.join(",")),
        ("listeners", format!("PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}", own.broker, own.controller)),
        ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{}", own.broker)),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
        ("log.dirs", data.display().to_string()),
    ];
    settings.extend(broker_settings(all.len()));
    let mut text = String::new();
    let replaced = |key: &str| options.properties.iter().any(|(other, _)| other == key);
    for (key, value) in settings.iter().filter(|(key, _)| !replaced(key)) {
        let _ = writeln!(text, "{key}={value}");
    }
    for (key, value) in &options.properties {
        let ports = [("{broker}", own.broker), ("{controller}", own.controller)];
        let value = ports.iter().fold(value.clone(), |value, (name, port)| value.replace(name, &port.to_string()));
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [BrokerPorts; 3] = [
        BrokerPorts { id: 1, broker: 1001, controller: 1002 },
        BrokerPorts { id: 2, broker: 2001, controller: 2002 },
        BrokerPorts { id: 3, broker: 3001, controller: 3002 },
    ];

    #[test]
    fn one_broker_asks_for_no_second_replica() {
        let text = properties(PORTS[0], &PORTS[..1], Path::new("/data"), &KafkaOptions::default());
        for line in ["controller.quorum.voters=1@127.0.0.1:1002", "min.insync.replicas=1", "node.id=1"] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn three_brokers_form_one_quorum_and_need_two_in_sync() {
        let text = properties(PORTS[1], &PORTS, Path::new("/data"), &KafkaOptions::three_brokers());
        for line in [
            "controller.quorum.voters=1@127.0.0.1:1002,2@127.0.0.1:2002,3@127.0.0.1:3002",
            "transaction.state.log.min.isr=2",
            "offsets.topic.replication.factor=3",
            "node.id=2",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_property_of_the_caller_replaces_the_stacks_own() {
        let options = KafkaOptions::default().property("num.io.threads", "9");
        let text = properties(PORTS[0], &PORTS[..1], Path::new("/data"), &options);
        assert!(text.contains("num.io.threads=9") && !text.contains("num.io.threads=4"));
    }
}
