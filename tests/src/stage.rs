//! A stage whose records say themselves what should happen to them: for tests of the engine on a real broker.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use kms_runtime::{
    http::Health,
    kafka::{KafkaConfig, StoredRecord, read_to_end},
    shutdown::on_signal,
    stage::{
        self, Attempt, Carry, Failure, Handler, InputRecord, Outcome, OutcomeView, OutputRecord, StageConfig,
        StageError, StageIds,
    },
};
use kms_schemas::identity::Coordinates;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(120);

/// What a [`worker`] writes to its standard output when it listens to signals.
pub const WORKER_LISTENS: &str = "listens to signals";

/// Topics and names of one test.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Client settings.
    pub kafka: KafkaConfig,
    /// Partitions of the input and of the output topic.
    pub partitions: i32,
}

/// One outcome, as it was read back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Partition of the input record.
    pub partition: i32,
    /// Offset of the input record.
    pub offset: i64,
    /// What became of it.
    pub what: String,
}

impl Lab {
    /// Creates the topics.
    ///
    /// # Panics
    /// When the broker does not.
    pub async fn new(bootstrap: &str, prefix: &str, partitions: i32) -> Self {
        Self::replicated(bootstrap, prefix, partitions, 1).await
    }

    /// Creates the topics with that many replicas.
    ///
    /// # Panics
    /// When the broker does not.
    pub async fn replicated(bootstrap: &str, prefix: &str, partitions: i32, replicas: i32) -> Self {
        let lab = Self::existing(bootstrap, prefix, partitions);
        let names = [lab.topic("in"), lab.topic("out"), lab.topic("later"), lab.topic("dead")];
        let mut topics: Vec<NewTopic<'_>> = names
            .iter()
            .zip([partitions, partitions, partitions, 1])
            .map(|(name, count)| NewTopic::new(name, count, TopicReplication::Fixed(replicas)))
            .collect();
        // A dead letter carries the record that another topic was too small for.
        if let Some(dead) = topics.pop() {
            topics.push(dead.set("max.message.bytes", "2100000"));
        }
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let begun = Instant::now();
        // Of a cluster that has just started, brokers may be missing for a moment.
        loop {
            let created = lab.admin().create_topics(&topics, &options).await.expect("topics can be created");
            let refused = |result: &Result<String, (String, RDKafkaErrorCode)>| matches!(result, Err((_, code)) if *code != RDKafkaErrorCode::TopicAlreadyExists);
            match created.into_iter().find(refused) {
                None => return lab,
                Some(refused) => assert!(begun.elapsed() < LIMIT, "the topic is not created: {refused:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The same names again, in another process.
    pub fn existing(bootstrap: &str, prefix: &str, partitions: i32) -> Self {
        let kafka = KafkaConfig {
            bootstrap_servers: bootstrap.to_owned(),
            topic_prefix: prefix.to_owned(),
            ..KafkaConfig::default()
        };
        Self { kafka, partitions }
    }

    /// Full name of a topic of this test: `in`, `out`, `later`, `dead`.
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.kafka.topic_prefix)
    }

    /// Name of the consumer group.
    pub fn group(&self) -> String {
        format!("{}.test.echo", self.kafka.topic_prefix)
    }

    /// Names of one instance.
    pub fn ids(&self, instance: &str) -> StageIds {
        StageIds::new(&self.kafka.topic_prefix, "test", "echo", instance)
    }

    /// Settings of one instance.
    pub fn config(&self, instance: &str) -> StageConfig {
        let outcomes = ["out", "later", "dead"].map(|name| self.topic(name)).to_vec();
        StageConfig::new("test.echo", vec![self.topic("in")], outcomes, self.ids(instance))
    }

    /// The handler.
    pub fn echo(&self) -> Echo {
        Echo {
            out: self.topic("out"),
            later: Some(self.topic("later")),
            dead: self.topic("dead"),
            open: watch::channel(false).0,
        }
    }

    /// Starts a stage in this process.
    pub fn start(&self, config: StageConfig, echo: Echo) -> Running {
        let shutdown = CancellationToken::new();
        let health = Health::default();
        let check = health.check("stage");
        let (kafka, token) = (self.kafka.clone(), shutdown.clone());
        let task = tokio::spawn(async move { stage::run(&kafka, config, echo, check, token).await });
        Running { shutdown, task, health }
    }

    /// Writes records to the input, in order and in one transaction per 500, so that there are gaps in the offsets.
    ///
    /// # Panics
    /// When the broker does not take them.
    pub async fn feed(&self, records: Vec<(i32, String, String)>) {
        let topic = self.topic("in");
        let bootstrap = self.kafka.bootstrap_servers.clone();
        let write = move || {
            let id = format!("{topic}.feed");
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", bootstrap)
                .set("transactional.id", &id)
                .set("linger.ms", "0")
                .create()
                .expect("a producer");
            producer.init_transactions(LIMIT).expect("transactions");
            for batch in records.chunks(500) {
                producer.begin_transaction().expect("begin");
                for (partition, key, value) in batch {
                    let record = BaseRecord::to(&topic).partition(*partition).key(key).payload(value);
                    producer.send(record).map_err(|(error, _)| error).expect("a record is queued");
                    producer.poll(Duration::ZERO);
                }
                while producer.in_flight_count() > 0 {
                    producer.poll(Duration::from_millis(1));
                }
                producer.commit_transaction(LIMIT).expect("commit");
            }
        };
        tokio::task::spawn_blocking(write).await.expect("records are written");
    }

    /// Every committed record of a topic.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn read(&self, name: &str) -> Vec<StoredRecord> {
        let (lab, topic) = (self.clone(), self.topic(name));
        let partitions = if name == "dead" { 1 } else { self.partitions };
        let read = move || {
            let mut all = Vec::new();
            for partition in 0..partitions {
                let begun = Instant::now();
                // A broker that has just come back does not answer at once.
                let records = loop {
                    let mut records = Vec::new();
                    match read_to_end(&lab.kafka, "test", &topic, partition, None, LIMIT, |record| records.push(record))
                    {
                        Ok(_) => break records,
                        Err(error) => assert!(begun.elapsed() < LIMIT, "{error}"),
                    }
                };
                all.extend(records);
            }
            all
        };
        tokio::task::spawn_blocking(read).await.expect("the topic is read")
    }

    /// Every outcome in a topic, sorted by the input record.
    pub async fn seen(&self, name: &str) -> Vec<Seen> {
        let mut seen: Vec<Seen> =
            self.read(name).await.iter().filter_map(|record| seen(record.value.as_deref()?)).collect();
        seen.sort();
        seen
    }

    /// Committed offset and metadata of a partition of the input.
    ///
    /// # Panics
    /// When the broker does not tell.
    pub async fn committed(&self, partition: i32) -> (Option<i64>, String) {
        let (consumer, topic) = (self.consumer(), self.topic("in"));
        let ask = move || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, partition);
            let list = consumer.committed_offsets(list, LIMIT).expect("committed offsets");
            let element = list.find_partition(&topic, partition).expect("the partition asked for");
            let offset = if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None };
            (offset, element.metadata().to_owned())
        };
        tokio::task::spawn_blocking(ask).await.expect("an answer")
    }

    /// Commits an offset with metadata in a transaction, as a predecessor would have. The group must be empty.
    ///
    /// # Errors
    /// The broker's.
    ///
    /// # Panics
    /// When it is not the offset that is refused.
    pub async fn commit(&self, partition: i32, offset: i64, metadata: &str) -> Result<(), KafkaError> {
        let (consumer, topic, metadata) = (self.consumer(), self.topic("in"), metadata.to_owned());
        let settings = self.kafka.producer("test", &format!("{topic}.commit"), 1_000_000);
        let commit = move || {
            let mut list = TopicPartitionList::new();
            let mut element = list.add_partition(&topic, partition);
            element.set_offset(Offset::Offset(offset)).expect("an offset");
            element.set_metadata(metadata);
            let group = consumer.group_metadata().expect("metadata of the group");
            let producer: BaseProducer = settings.create().expect("a producer");
            producer.init_transactions(LIMIT).expect("transactions");
            producer.begin_transaction().expect("begin");
            producer.send_offsets_to_transaction(&list, &group, LIMIT)?;
            producer.commit_transaction(LIMIT)
        };
        tokio::task::spawn_blocking(commit).await.expect("an answer")
    }

    /// Forgets the group with its offsets. It must be empty, which static members make it only when their session has ended.
    pub async fn delete_group(&self) -> bool {
        let deleted = self.admin().delete_groups(&[&self.group()], &AdminOptions::new()).await;
        deleted.is_ok_and(|groups| groups.iter().all(Result::is_ok))
    }

    /// A consumer of the stage's group that has not joined it.
    pub fn consumer(&self) -> BaseConsumer {
        self.kafka.consumer("test", &self.group()).create().expect("a consumer")
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.kafka.bootstrap_servers).create().expect("an admin client")
    }
}

/// A stage that runs in this process.
#[derive(Debug)]
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), StageError>>,
    /// Its readiness.
    pub health: Health,
}

impl Running {
    /// Stops it in order.
    ///
    /// # Errors
    /// What it failed with.
    ///
    /// # Panics
    /// When it panicked.
    pub async fn stop(self) -> Result<(), StageError> {
        self.shutdown.cancel();
        self.task.await.expect("a stage does not panic")
    }

    /// Waits for its failure.
    ///
    /// # Panics
    /// When it does not fail.
    pub async fn failure(self) -> StageError {
        let ended = tokio::time::timeout(LIMIT, self.task).await.expect("the stage fails in time");
        ended.expect("a stage does not panic").expect_err("the stage fails")
    }
}

/// The life of a process that is one stage: `BOOTSTRAP PREFIX PARTITIONS INSTANCE`. Ends in order by SIGTERM.
///
/// # Panics
/// On wrong arguments.
pub fn worker(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let mut next = || arguments.next().expect("BOOTSTRAP PREFIX PARTITIONS INSTANCE");
    let (bootstrap, prefix, partitions, instance) = (next(), next(), next(), next());
    let lab = Lab::existing(&bootstrap, &prefix, partitions.parse().expect("a number of partitions"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let ended = runtime.block_on(async {
        let shutdown = on_signal().expect("signal handlers");
        // From here on SIGTERM ends it in order.
        println!("{WORKER_LISTENS}");
        let check = Health::default().check("stage");
        stage::run(&lab.kafka, lab.config(&instance), lab.echo(), check, shutdown).await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error}", error.code());
            error.exit().into()
        }
    }
}

/// Does what the record's value says: `echo`, `slow MS`, `hang` (until opened), `big BYTES`, `retry` (once), `give-up`, `panic`.
#[derive(Clone, Debug)]
pub struct Echo {
    /// Topic for answers.
    pub out: String,
    /// Topic for deferred records.
    pub later: Option<String>,
    /// Topic for dead letters.
    pub dead: String,
    /// Sending true lets hanging records finish.
    pub open: watch::Sender<bool>,
}

impl Echo {
    fn output(topic: &str, partition: Option<i32>, record: &InputRecord, what: &str) -> OutputRecord {
        let InputRecord { topic: from, partition: at, offset, .. } = record;
        OutputRecord {
            topic: topic.to_owned(),
            partition,
            key: record.key.as_ref().map(|key| key.to_vec()).unwrap_or_default(),
            value: format!("{from} {at} {offset} {what}").into_bytes(),
            headers: vec![("from".to_owned(), b"test".to_vec())],
        }
    }
}

impl Handler for Echo {
    async fn handle(&self, record: Arc<InputRecord>, attempt: Attempt) -> Outcome {
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        let (word, rest) = value.split_once(' ').unwrap_or((&value, ""));
        let number = rest.parse::<u64>().unwrap_or_default();
        let done = |what: &str| Outcome::Done(vec![Self::output(&self.out, Some(record.partition), &record, what)]);
        match word {
            "slow" => tokio::time::sleep(Duration::from_millis(number)).await,
            "hang" => {
                let mut open = self.open.subscribe();
                let _ = open.wait_for(|open| *open).await;
            }
            "big" => return done(&"x".repeat(usize::try_from(number).unwrap_or_default())),
            "retry" if attempt.number == 1 => {
                return Outcome::Retry { after: None, why: Failure::new("KC-0999", "the first attempt fails") };
            }
            "give-up" => return Outcome::DeadLetter { why: Failure::new("KC-0999", "the record says so") },
            "panic" => panic!("the record says so"),
            _ => {}
        }
        done(word)
    }

    fn deferred(&self, record: &InputRecord, _: u32, _: u64, _: &Failure) -> Option<OutputRecord> {
        Some(Self::output(self.later.as_ref()?, Some(record.partition), record, "later"))
    }

    fn dead_letter(&self, record: &InputRecord, _: u32, why: &Failure, carry: Carry) -> OutputRecord {
        let value = match carry {
            Carry::Value => String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned(),
            Carry::Digest => "digest".to_owned(),
        };
        Self::output(&self.dead, None, record, &format!("{} {value}", why.code))
    }

    fn outcome_source(&self, outcome: OutcomeView<'_>) -> Option<Coordinates> {
        let text = std::str::from_utf8(outcome.value?).ok()?;
        let mut words = text.split(' ');
        Some(Coordinates {
            topic: words.next()?.to_owned(),
            partition: words.next()?.parse().ok()?,
            offset: words.next()?.parse().ok()?,
        })
    }
}

fn seen(value: &[u8]) -> Option<Seen> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.splitn(4, ' ').skip(1);
    Some(Seen {
        partition: words.next()?.parse().ok()?,
        offset: words.next()?.parse().ok()?,
        what: words.next()?.chars().take(40).collect(),
    })
}
