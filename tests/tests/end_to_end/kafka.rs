//! The Kafka clients of the runtime on a real broker.

use std::time::{Duration, Instant};

use kms_runtime::kafka::{
    BatchError, CheckTopics, KafkaConfig, OutgoingRecord, ProducerError, TopicRemark, TopicsError,
    TransactionalProducer, check_session, ensure_topics, probe, probe_topic, read_to_end, wait_for_broker,
};
use kms_schemas::topics::TopicSpec;
use kms_stack::parts::{Kafka, KafkaOptions};
use kms_tests::{kafka, new_workspace, prefix};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const LIMIT: Duration = Duration::from_secs(180);
const MAX_BYTES: u32 = 4 << 20;

async fn config(test: &str) -> KafkaConfig {
    KafkaConfig {
        bootstrap_servers: kafka().await.bootstrap_servers().to_owned(),
        topic_prefix: prefix(test),
        create_topics: true,
        ..KafkaConfig::default()
    }
}

fn topic(config: &KafkaConfig, name: &str, partitions: i32, settings: &[(&'static str, &str)]) -> TopicSpec {
    TopicSpec {
        name: format!("{}.{name}", config.topic_prefix),
        partitions,
        config: settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        record: None,
    }
}

fn ensure(config: &KafkaConfig, specs: &[TopicSpec]) -> Result<Vec<TopicRemark>, TopicsError> {
    let begun = Instant::now();
    ensure_topics(config, "test", specs, || begun.elapsed() < LIMIT, |_| {})
}

/// What blocks, on a thread for it.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.unwrap()
}

fn record(topic: &str, value: impl Into<Vec<u8>>) -> OutgoingRecord {
    OutgoingRecord {
        topic: topic.to_owned(),
        partition: Some(0),
        value: Some(value.into()),
        ..OutgoingRecord::default()
    }
}

fn producer(config: &KafkaConfig, id: &str) -> TransactionalProducer {
    let begun = Instant::now();
    let id = format!("{}.{id}", config.topic_prefix);
    let producer = TransactionalProducer::new(config, "test", &id, MAX_BYTES).unwrap();
    producer.init(|| begun.elapsed() < LIMIT).unwrap();
    producer
}

fn write(producer: &TransactionalProducer, records: &[OutgoingRecord]) -> Result<Vec<(i32, i64)>, BatchError> {
    producer.write(records, Instant::now() + LIMIT)
}

fn values(config: &KafkaConfig, topic: &str, from: Option<i64>) -> Vec<String> {
    let mut values = Vec::new();
    read_to_end(config, "test", topic, 0, from, LIMIT, |record| {
        values.push(String::from_utf8(record.value.unwrap()).unwrap());
    })
    .unwrap();
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_broker_would_refuse_for_ever_is_refused_at_start() {
    let begun = Instant::now();
    let config = config("session").await;
    let short = KafkaConfig { session_timeout_ms: 30, ..config.clone() };
    let check = move |config| blocking(move || check_session(&config, "test", || begun.elapsed() < LIMIT, |_| {}));
    let refused = check(short).await.unwrap_err();
    assert!(matches!(refused, TopicsError::Session { asked: 30, least, .. } if least > 30), "{refused}");
    check(config).await.unwrap();
}

#[tokio::test]
async fn missing_topics_are_named_or_created_as_the_configuration_says() {
    let config = config("topics-missing").await;
    blocking(move || {
        let spec = topic(&config, "one", 2, &[("cleanup.policy", "compact")]);
        let may_not = KafkaConfig { create_topics: false, ..config.clone() };
        let specs = [spec.clone()];
        match ensure(&may_not, &specs) {
            Err(TopicsError::Missing(names)) => assert_eq!(names, std::slice::from_ref(&spec.name)),
            other => panic!("{other:?}"),
        }
        ensure(&config, &specs).unwrap();
        ensure(&may_not, &specs).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_topic_with_another_number_of_partitions_is_refused_whatever_the_configuration_says() {
    let config = config("topics-partitions").await;
    blocking(move || {
        ensure(&config, &[topic(&config, "one", 2, &[])]).unwrap();
        let lenient = KafkaConfig { check_topics: CheckTopics::Warn, ..config.clone() };
        let refused = ensure(&lenient, &[topic(&config, "one", 3, &[])]);
        match refused {
            Err(TopicsError::Mismatch(what)) => assert!(what[0].contains("has 2 partitions, expected 3"), "{what:?}"),
            other => panic!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn a_topic_setting_that_breaks_a_promise_is_refused_unless_the_operator_insists() {
    let config = config("topics-settings").await;
    blocking(move || {
        ensure(&config, &[topic(&config, "one", 1, &[("cleanup.policy", "delete")])]).unwrap();
        ensure(&config, &[topic(&config, "two", 1, &[("compression.type", "zstd")])]).unwrap_err();
        match ensure(&config, &[topic(&config, "two", 1, &[])]) {
            Err(TopicsError::Mismatch(what)) => assert!(what[0].contains("compression.type = zstd"), "{what:?}"),
            found => panic!("{found:?}"),
        }
        let other = [topic(&config, "one", 1, &[("cleanup.policy", "compact")])];
        match ensure(&config, &other) {
            Err(TopicsError::Mismatch(what)) => assert!(what[0].contains("cleanup.policy = delete"), "{what:?}"),
            found => panic!("{found:?}"),
        }
        ensure(&KafkaConfig { check_topics: CheckTopics::Warn, ..config }, &other).unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_is_the_operators_choice_is_told_and_what_was_to_be_kept_for_ever_must_be() {
    let config = config("topics-retention").await;
    blocking(move || {
        let shorter = ("retention.ms", "3600000");
        ensure(&config, &[topic(&config, "long", 1, &[shorter]), topic(&config, "ever", 1, &[shorter])]).unwrap();
        let long = topic(&config, "long", 1, &[("retention.ms", "7200000")]);
        let told = ensure(&config, std::slice::from_ref(&long)).unwrap();
        let [remark] = &told[..] else { panic!("{told:?}") };
        assert_eq!(remark.topic, long.name);
        assert_eq!(remark.text, "has retention.ms = 3600000, expected 7200000");
        let ever = topic(&config, "ever", 1, &[("retention.ms", "-1")]);
        let refused = ensure(&config, std::slice::from_ref(&ever));
        assert!(matches!(refused, Err(TopicsError::Mismatch(_))), "{refused:?}");
        let lenient = KafkaConfig { check_topics: CheckTopics::Warn, ..config };
        assert_eq!(ensure(&lenient, &[ever]).unwrap().len(), 1);
    })
    .await;
}

/// Kafka's own default. The topics that it would create have neither the catalogue's partitions nor its settings.
#[tokio::test]
async fn a_broker_that_creates_topics_by_itself_is_not_brought_to_it() {
    let workspace = new_workspace();
    let options =
        KafkaOptions { heap_mib: 256, ..KafkaOptions::default() }.property("auto.create.topics.enable", "true");
    let own = Kafka::start(&workspace, options).await.unwrap();
    let config = KafkaConfig {
        bootstrap_servers: own.bootstrap_servers().to_owned(),
        topic_prefix: "eager".to_owned(),
        ..KafkaConfig::default()
    };
    blocking(move || {
        let specs = [topic(&config, "one", 3, &[])];
        wait_for_broker(&config, "test", || true, |_| {}).unwrap();
        for _ in 0..2 {
            let refused = ensure(&config, &specs);
            assert!(matches!(refused, Err(TopicsError::Missing(_))), "{refused:?}");
        }
        let creating = KafkaConfig { create_topics: true, ..config };
        ensure(&creating, &specs).unwrap();
    })
    .await;
    own.stop().await;
}

#[tokio::test]
async fn an_unreachable_broker_is_waited_for_until_the_caller_gives_up() {
    blocking(|| {
        let config = KafkaConfig {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            request_timeout_ms: 1000,
            ..KafkaConfig::default()
        };
        let mut told = Vec::new();
        let mut asked = 0;
        let keep_on = || {
            asked += 1;
            asked < 3
        };
        let outcome = wait_for_broker(&config, "test", keep_on, |reason| told.push(reason.to_owned()));
        match outcome {
            Err(TopicsError::Unreachable { brokers, .. }) => assert_eq!(brokers, "127.0.0.1:1"),
            other => panic!("{other:?}"),
        }
        assert_eq!(told, ["Kafka cannot be reached"]);
    })
    .await;
}

#[tokio::test]
async fn apache_kafka_passes_the_probe_again_and_again() {
    let config = config("probe").await;
    blocking(move || {
        ensure(&config, &[probe_topic(&config)]).unwrap();
        for _ in 0..2 {
            let begun = Instant::now();
            probe(&config, "test", || begun.elapsed() < LIMIT).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_batch_is_visible_whole_and_says_where_its_records_are() {
    let config = config("producer-batch").await;
    blocking(move || {
        let topic = topic(&config, "one", 1, &[]);
        ensure(&config, std::slice::from_ref(&topic)).unwrap();
        let producer = producer(&config, "writer");
        let written = write(&producer, &[record(&topic.name, "a"), record(&topic.name, "b")]).unwrap();
        assert_eq!(written, [(0, 0), (0, 1)]);
        // Offset 2 is the transaction's marker.
        assert_eq!(write(&producer, &[record(&topic.name, "c")]).unwrap(), [(0, 3)]);
        assert_eq!(values(&config, &topic.name, None), ["a", "b", "c"]);
        assert_eq!(values(&config, &topic.name, Some(3)), ["c"]);
        assert_eq!(values(&config, &topic.name, Some(5)), Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_refused_record_is_named_nothing_of_its_batch_is_seen_and_the_producer_goes_on() {
    let config = config("producer-refused").await;
    blocking(move || {
        let topic = topic(&config, "one", 1, &[("max.message.bytes", "10000")]);
        ensure(&config, std::slice::from_ref(&topic)).unwrap();
        let producer = producer(&config, "writer");
        let batch = [record(&topic.name, "a"), record(&topic.name, vec![b'x'; 20_000]), record(&topic.name, "c")];
        match write(&producer, &batch) {
            Err(BatchError::Refused { index, .. }) => assert_eq!(index, 1),
            other => panic!("{other:?}"),
        }
        // One that the client refuses by itself, before the broker sees it.
        let batch = [record(&topic.name, "a"), record(&topic.name, vec![b'x'; MAX_BYTES as usize * 2])];
        match write(&producer, &batch) {
            Err(BatchError::Refused { index, .. }) => assert_eq!(index, 1),
            other => panic!("{other:?}"),
        }
        write(&producer, &[record(&topic.name, "good")]).unwrap();
        assert_eq!(values(&config, &topic.name, None), ["good"]);
    })
    .await;
}

#[tokio::test]
async fn p2_a_successor_with_the_same_id_fences_its_predecessor() {
    let config = config("producer-fenced").await;
    blocking(move || {
        let topic = topic(&config, "one", 1, &[]);
        ensure(&config, std::slice::from_ref(&topic)).unwrap();
        let first = producer(&config, "writer");
        write(&first, &[record(&topic.name, "first")]).unwrap();
        let second = producer(&config, "writer");
        let fenced = write(&first, &[record(&topic.name, "too late")]);
        assert!(matches!(fenced, Err(BatchError::Producer(ProducerError::Fenced(_)))), "{fenced:?}");
        write(&second, &[record(&topic.name, "second")]).unwrap();
        assert_eq!(values(&config, &topic.name, None), ["first", "second"]);
    })
    .await;
}

#[tokio::test]
async fn p2_a_reader_waits_for_the_open_transactions_of_others() {
    let config = config("reader-open").await;
    blocking(move || {
        let topic = topic(&config, "one", 1, &[]);
        ensure(&config, std::slice::from_ref(&topic)).unwrap();
        let other: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &config.bootstrap_servers)
            .set("transactional.id", format!("{}.other", config.topic_prefix))
            .set("transaction.timeout.ms", "3000")
            .create()
            .unwrap();
        other.init_transactions(LIMIT).unwrap();
        other.begin_transaction().unwrap();
        other.send(BaseRecord::<(), str>::to(&topic.name).partition(0).payload("never")).map_err(|e| e.0).unwrap();
        while other.in_flight_count() > 0 {
            other.poll(Duration::from_millis(10));
        }
        write(&producer(&config, "writer"), &[record(&topic.name, "behind it")]).unwrap();
        assert_eq!(values(&config, &topic.name, None), ["behind it"]);
    })
    .await;
}
