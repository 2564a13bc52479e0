//! The cluster's topics held against the catalogue.

use std::time::{Duration, Instant};

use kms_schemas::topics::TopicSpec;
use rand::seq::IndexedRandom as _;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::config::{CheckTopics, KafkaConfig};
use super::context::LogContext;
use crate::codes;
use crate::retry::Backoff;
use crate::shutdown::{Exit, Stopped};

/// Why the topics cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TopicsError {
    /// They are not there and may not be created.
    #[error("topics are missing: {}; create them, or set kafka.create_topics = true", .0.join(", "))]
    Missing(Vec<String>),
    /// They are there and differ from the catalogue.
    #[error("topics differ from the catalogue: {}", .0.join("; "))]
    Mismatch(Vec<String>),
    /// The cluster refused to create a topic.
    #[error("{topic} cannot be created: {code}")]
    Refused {
        /// Topic.
        topic: String,
        /// The cluster's reason.
        code: RDKafkaErrorCode,
    },
    /// No member of a group may have sessions this long, or this short.
    #[error(
        "kafka.session_timeout_ms = {asked} is outside of what the broker takes: group.min.session.timeout.ms = {least}, \
         group.max.session.timeout.ms = {most}"
    )]
    Session {
        /// Configured milliseconds.
        asked: u32,
        /// The broker's least.
        least: u32,
        /// The broker's most.
        most: u32,
    },
    /// No broker answered for as long as the caller waited.
    #[error("no Kafka broker answers (kafka.bootstrap_servers = {brokers}): {error}")]
    Unreachable {
        /// Where brokers were looked for.
        brokers: String,
        /// What the last attempt came to.
        error: KafkaError,
    },
    /// They were to be created, and are not there for as long as the caller waited.
    #[error("topics are not there yet: {}; {why}", topics.join(", "))]
    NotCreated {
        /// The topics.
        topics: Vec<String>,
        /// What the last attempt came to.
        why: String,
    },
    /// The client library refuses the settings.
    #[error("the Kafka client cannot be made: {0}")]
    Client(KafkaError),
}

impl TopicsError {
    /// How a service ends on this error.
    #[must_use]
    pub fn stopped(&self) -> Stopped {
        let (exit, code) = match self {
            Self::Missing(_) => (Exit::Refused, &codes::TOPIC_MISSING),
            Self::Mismatch(_) => (Exit::Refused, &codes::TOPIC_MISMATCH),
            Self::Refused { .. } => (Exit::Refused, &codes::TOPIC_MISSING),
            Self::Session { .. } => (Exit::Refused, &codes::SESSION_TIMEOUT),
            Self::Client(_) => (Exit::Configuration, &codes::CONFIG_VALUE),
            // A service waits until it is asked to end.
            Self::Unreachable { .. } => (Exit::Ok, &codes::KAFKA_UNREACHABLE),
            Self::NotCreated { .. } => (Exit::Ok, &codes::TOPIC_MISSING),
        };
        Stopped::new(exit, code, self.to_string())
    }
}

/// Pauses between attempts to reach the cluster.
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };

/// How long the first answer is waited for before the outage is told.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How often a lasting outage is logged.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// A client for metadata and administration.
struct Cluster<'a> {
    config: &'a KafkaConfig,
    /// Asks for metadata. The admin client must not: it is a producer to the library, and a producer's question for a
    /// topic that does not exist creates it on brokers with Kafka's default settings.
    consumer: BaseConsumer<LogContext>,
    admin: AdminClient<LogContext>,
}

impl<'a> Cluster<'a> {
    fn connect(config: &'a KafkaConfig, service: &str) -> Result<Self, TopicsError> {
        // Without a group: for one with a group the broker would make its own topics, as it likes, before anybody has asked for them.
        let consumer = config.client(service).create_with_context(LogContext).map_err(TopicsError::Client)?;
        let admin = config.client(service).create_with_context(LogContext).map_err(TopicsError::Client)?;
        Ok(Self { config, consumer, admin })
    }

    fn options(&self) -> AdminOptions {
        let timeout = Some(self.config.request_timeout());
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    /// Number of partitions, 0 if the topic does not exist.
    fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        self.partitions_within(topic, self.config.request_timeout())
    }

    fn partitions_within(&self, topic: &str, timeout: Duration) -> Result<i32, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), timeout)?;
        let Some(found) = metadata.topics().iter().find(|one| one.name() == topic) else { return Ok(0) };
        match found.error() {
            None => Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
            Some(
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
            ) => Ok(0),
            Some(error) => Err(KafkaError::MetadataFetch(error.into())),
        }
    }

    fn create(&self, missing: &[&TopicSpec]) -> Result<(), CreateError> {
        let replicas = self.config.replication_factor.into();
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|spec| {
                let fresh = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(replicas));
                spec.config.iter().fold(fresh, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let results = block_on(self.admin.create_topics(&topics, &self.options())).map_err(CreateError::Outage)?;
        for result in results {
            match result {
                Ok(topic) => tracing::info!(topic, "topic created"),
                // Another service was faster.
                Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => tracing::debug!(topic, "topic was created"),
                Err((topic, code)) if is_outage(code) => {
                    tracing::warn!(topic, %code, "topic not created yet");
                    return Err(CreateError::Outage(KafkaError::AdminOp(code)));
                }
                Err((topic, code)) => return Err(CreateError::Refused { topic, code }),
            }
        }
        Ok(())
    }

    /// Least and most milliseconds of a session, as a broker has them configured; none where it does not say. Each call
    /// asks any broker, so that one that is away is not asked for ever.
    fn session_limits(&self) -> Result<Option<(u32, u32)>, KafkaError> {
        let topic = format!("{}.ingest.cursor", self.config.topic_prefix);
        let metadata = self.consumer.fetch_metadata(Some(&topic), self.config.request_timeout())?;
        // Not the metadata's own broker: its id is not known yet when a bootstrap address has given the first answer.
        let Some(broker) = metadata.brokers().choose(&mut rand::rng()) else {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerNotAvailable));
        };
        let resource = ResourceSpecifier::Broker(broker.id());
        let code = match block_on(self.admin.describe_configs([&resource], &self.options())) {
            Ok(found) => match found.into_iter().next() {
                Some(Ok(resource)) => return Ok(session_limits(&resource)),
                Some(Err(code)) => code,
                None => return Ok(None),
            },
            Err(KafkaError::AdminOp(code)) => code,
            Err(error) => return Err(error),
        };
        if is_outage(code) {
            return Err(KafkaError::AdminOp(code));
        }
        tracing::debug!(%code, "the broker does not show its configuration");
        Ok(None)
    }

    fn settings(&self, specs: &[&TopicSpec]) -> Result<Vec<ConfigResource>, KafkaError> {
        let resources: Vec<ResourceSpecifier<'_>> =
            specs.iter().map(|spec| ResourceSpecifier::Topic(&spec.name)).collect();
        let results = block_on(self.admin.describe_configs(&resources, &self.options()))?;
        let readable = results.into_iter().filter_map(|result| match result {
            Ok(resource) => Some(resource),
            Err(code) => {
                tracing::warn!(%code, "settings of a topic cannot be read and are not checked");
                None
            }
        });
        Ok(readable.collect())
    }
}

fn session_limits(broker: &ConfigResource) -> Option<(u32, u32)> {
    let value = |key: &str| broker.get(key)?.value.as_deref()?.parse().ok();
    Some((value("group.min.session.timeout.ms")?, value("group.max.session.timeout.ms")?))
}

/// Waits for the admin client, whose own thread completes its futures.
fn block_on<T>(future: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => Err(KafkaError::AdminOpCreation(error.to_string())),
    }
}

enum CreateError {
    Outage(KafkaError),
    Refused { topic: String, code: RDKafkaErrorCode },
}

/// Waits until a broker answers, with back-off and a log line when the outage begins, lasts and ends. `keep_on` is asked
/// between attempts; the outage is also told to `on_outage`.
///
/// # Errors
/// [`TopicsError::Unreachable`] when `keep_on` said no; [`TopicsError::Client`] for settings that no client takes.
pub fn wait_for_broker(
    config: &KafkaConfig,
    service: &str,
    mut keep_on: impl FnMut() -> bool,
    mut on_outage: impl FnMut(&str),
) -> Result<(), TopicsError> {
    let cluster = Cluster::connect(config, service)?;
    // Metadata of one name that need not exist: asking for all topics of a shared cluster would be rude.
    let topic = format!("{}.ingest.cursor", config.topic_prefix);
    // Somebody who has just started the service wants to know soon.
    let mut timeout = FIRST_ANSWER.min(config.request_timeout());
    let ask = || cluster.partitions_within(&topic, std::mem::replace(&mut timeout, config.request_timeout()));
    retry_through_outages(config, &mut keep_on, &mut on_outage, ask).map(|_| ())
}

fn retry_through_outages<T>(
    config: &KafkaConfig,
    keep_on: &mut impl FnMut() -> bool,
    on_outage: &mut impl FnMut(&str),
    mut call: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, TopicsError> {
    let mut failures = 0;
    let mut last_told: Option<Instant> = None;
    loop {
        let error = match call() {
            Ok(value) => {
                if failures > 0 {
                    tracing::info!("Kafka answers again");
                }
                return Ok(value);
            }
            Err(error) => error,
        };
        failures += 1;
        if last_told.is_none_or(|told| told.elapsed() >= REMIND_EVERY) {
            tracing::warn!(code = codes::KAFKA_UNREACHABLE.code, %error, "Kafka cannot be reached, trying again");
            on_outage("Kafka cannot be reached");
            last_told = Some(Instant::now());
        }
        if !pause(RETRY.delay(failures, rand::random()), keep_on) {
            return Err(TopicsError::Unreachable { brokers: config.bootstrap_servers.clone(), error });
        }
    }
}

/// Waits in small steps; `false` when the caller wants to stop.
fn pause(duration: Duration, keep_on: &mut impl FnMut() -> bool) -> bool {
    const STEP: Duration = Duration::from_millis(100);
    let until = Instant::now() + duration;
    loop {
        if !keep_on() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STEP));
    }
}

/// Verifies that the broker takes group members with the configured session. One that does not refuses them for ever, which
/// the client library takes for an outage. Outages are waited for.
///
/// # Errors
/// [`TopicsError::Session`]; [`TopicsError::Unreachable`] when `keep_on` said no. A broker that does not tell its limits is
/// believed to have none.
pub fn check_session(
    config: &KafkaConfig,
    service: &str,
    mut keep_on: impl FnMut() -> bool,
    mut on_outage: impl FnMut(&str),
) -> Result<(), TopicsError> {
    let cluster = Cluster::connect(config, service)?;
    let limits = retry_through_outages(config, &mut keep_on, &mut on_outage, || cluster.session_limits())?;
    let Some((least, most)) = limits else {
        tracing::debug!("the broker does not tell its limits of session timeouts");
        return Ok(());
    };
    let asked = config.session_timeout_ms;
    if (least..=most).contains(&asked) { Ok(()) } else { Err(TopicsError::Session { asked, least, most }) }
}

/// Verifies that every topic exists with the catalogue's partitions and settings; creates missing ones if configured.
/// Outages are waited for.
///
/// # Errors
/// See [`TopicsError`].
pub fn ensure_topics(
    config: &KafkaConfig,
    service: &str,
    specs: &[TopicSpec],
    mut keep_on: impl FnMut() -> bool,
    mut on_outage: impl FnMut(&str),
) -> Result<(), TopicsError> {
    let cluster = Cluster::connect(config, service)?;
    let mut last_created = None;
    loop {
        let mut missing = Vec::new();
        let mut wrong = Vec::new();
        for spec in specs {
            let ask = || cluster.partitions(&spec.name);
            let partitions = retry_through_outages(config, &mut keep_on, &mut on_outage, ask)?;
            match partitions {
                0 => missing.push(spec),
                found if found != spec.partitions => {
                    wrong.push(format!("{} has {found} partitions, expected {}", spec.name, spec.partitions));
                }
                _ => {}
            }
        }
        if !wrong.is_empty() {
            return Err(TopicsError::Mismatch(wrong));
        }
        if missing.is_empty() {
            break;
        }
        if !config.create_topics {
            return Err(TopicsError::Missing(missing.iter().map(|spec| spec.name.clone()).collect()));
        }
        let names: Vec<&str> = missing.iter().map(|spec| spec.name.as_str()).collect();
        if last_created.as_ref() != Some(&names.len()) {
            tracing::info!(topics = names.join(", "), "creating topics");
            last_created = Some(names.len());
        }
        let why = match cluster.create(&missing) {
            Ok(()) => "the cluster has created them and does not show them yet: look again in a moment".to_owned(),
            Err(CreateError::Outage(error)) => {
                tracing::warn!(%error, "topics not created yet, trying again");
                error.to_string()
            }
            Err(CreateError::Refused { topic, code }) => return Err(TopicsError::Refused { topic, code }),
        };
        // A created topic shows in the metadata of every broker a moment later.
        if !pause(Duration::from_millis(100), &mut keep_on) {
            let topics = missing.iter().map(|spec| spec.name.clone()).collect();
            return Err(TopicsError::NotCreated { topics, why });
        }
    }
    check_settings(&cluster, specs, &mut keep_on, &mut on_outage)
}

fn check_settings(
    cluster: &Cluster<'_>,
    specs: &[TopicSpec],
    keep_on: &mut impl FnMut() -> bool,
    on_outage: &mut impl FnMut(&str),
) -> Result<(), TopicsError> {
    let all: Vec<&TopicSpec> = specs.iter().collect();
    let found = retry_through_outages(cluster.config, keep_on, on_outage, || cluster.settings(&all))?;
    let mut broken = Vec::new();
    for spec in specs {
        let is_this = |resource: &&ConfigResource| match &resource.specifier {
            rdkafka::admin::OwnedResourceSpecifier::Topic(name) => *name == spec.name,
            _ => false,
        };
        let Some(resource) = found.iter().find(is_this) else { continue };
        for (key, wanted) in &spec.config {
            let Some(actual) = resource.get(key).and_then(|entry| entry.value.as_deref()) else { continue };
            let text = || format!("{} has {key} = {actual}, expected {wanted}", spec.name);
            match compare_setting(key, wanted, actual) {
                Difference::None => {}
                Difference::Tolerable => {
                    tracing::warn!(topic = spec.name, key, actual, wanted, "topic setting differs");
                }
                Difference::Breaking => broken.push(text()),
            }
        }
    }
    match cluster.config.check_topics {
        _ if broken.is_empty() => Ok(()),
        CheckTopics::Strict => Err(TopicsError::Mismatch(broken)),
        CheckTopics::Warn => {
            for difference in broken {
                tracing::warn!(difference, "topic setting breaks a promise and is tolerated by configuration");
            }
            Ok(())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    None,
    /// The operator's choice.
    Tolerable,
    /// A promise rests on it.
    Breaking,
}

fn compare_setting(key: &str, wanted: &str, actual: &str) -> Difference {
    if wanted == actual {
        return Difference::None;
    }
    let numbers = (wanted.parse::<i64>(), actual.parse::<i64>());
    match (key, numbers) {
        ("cleanup.policy", _) => {
            let sorted = |text: &str| {
                let mut parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
                parts.sort();
                parts
            };
            if sorted(wanted) == sorted(actual) { Difference::None } else { Difference::Breaking }
        }
        // Larger takes all that the catalogue's takes.
        ("max.message.bytes", (Ok(wanted), Ok(actual))) if actual > wanted => Difference::None,
        ("max.message.bytes", _) => Difference::Breaking,
        // -1 keeps for ever, which is longer than anything.
        ("retention.ms" | "retention.bytes", (Ok(wanted), Ok(actual)))
            if actual == -1 || (wanted != -1 && actual > wanted) =>
        {
            Difference::None
        }
        _ => Difference::Tolerable,
    }
}

fn is_outage(code: RDKafkaErrorCode) -> bool {
    let passing = [
        RDKafkaErrorCode::BrokerTransportFailure,
        RDKafkaErrorCode::AllBrokersDown,
        RDKafkaErrorCode::OperationTimedOut,
        RDKafkaErrorCode::RequestTimedOut,
        RDKafkaErrorCode::NotController,
        RDKafkaErrorCode::BrokerNotAvailable,
        RDKafkaErrorCode::LeaderNotAvailable,
        RDKafkaErrorCode::NetworkException,
        // Fewer brokers than replicas: true while a cluster starts, and logged each time.
        RDKafkaErrorCode::InvalidReplicationFactor,
    ];
    passing.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_not_taken_for_a_broker_that_does_not_tell_its_limits() {
        // Nobody listens on a port of the system's that needs privileges.
        let config = KafkaConfig {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            request_timeout_ms: 200,
            ..KafkaConfig::default()
        };
        let mut attempts = 0;
        let keep_on = || {
            attempts += 1;
            attempts < 3
        };
        let outcome = check_session(&config, "test", keep_on, |_| {});
        assert!(matches!(outcome, Err(TopicsError::Unreachable { .. })), "{outcome:?}");
    }

    #[test]
    fn the_order_of_cleanup_policies_does_not_matter_and_another_policy_breaks_a_promise() {
        assert_eq!(compare_setting("cleanup.policy", "compact,delete", "delete,compact"), Difference::None);
        assert_eq!(compare_setting("cleanup.policy", "delete", "compact"), Difference::Breaking);
    }

    #[test]
    fn a_topic_may_take_larger_records_and_keep_them_longer_but_not_smaller_ones() {
        assert_eq!(compare_setting("max.message.bytes", "4194304", "8388608"), Difference::None);
        assert_eq!(compare_setting("max.message.bytes", "4194304", "1048588"), Difference::Breaking);
        assert_eq!(compare_setting("retention.ms", "1000", "-1"), Difference::None);
        assert_eq!(compare_setting("retention.ms", "-1", "1000"), Difference::Tolerable);
    }
}
