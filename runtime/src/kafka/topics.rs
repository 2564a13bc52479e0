//! The cluster's topics held against the catalogue. What their settings may be is in `settings`.

use std::time::{Duration, Instant};

use kms_schemas::topics::TopicSpec;
use rand::seq::IndexedRandom as _;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::config::{CheckTopics, KafkaConfig};
use super::context::LogContext;
use super::rights::{is_denied, is_unauthenticated};
use super::settings::{Found, TopicRemark, hold};
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
    /// The cluster denies what the start needs.
    #[error("{principal} lacks a right: {needs} ({code})")]
    Denied {
        /// Who asked.
        principal: String,
        /// The right and the resource.
        needs: String,
        /// The cluster's reason.
        code: RDKafkaErrorCode,
    },
    /// The brokers do not believe who we are.
    #[error("the brokers at {brokers} refuse the credentials of {principal}: {error}")]
    Unauthenticated {
        /// Where brokers were looked for.
        brokers: String,
        /// Who asked.
        principal: String,
        /// What the last attempt came to.
        error: Box<KafkaError>,
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
            Self::Denied { .. } | Self::Unauthenticated { .. } => (Exit::Refused, &codes::KAFKA_DENIED),
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
/// Attempts in a row whose credentials are refused before that is believed: a broker may start before it knows its users.
const REFUSED_CREDENTIALS: u32 = 2;
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

    /// The settings of each topic, in the order of `specs`, or the cluster's reason to keep them to itself. A topic that a
    /// broker does not know was seen a moment ago: the broker has just started.
    fn settings(&self, specs: &[TopicSpec]) -> Result<Vec<Found>, KafkaError> {
        let resources: Vec<ResourceSpecifier<'_>> =
            specs.iter().map(|spec| ResourceSpecifier::Topic(&spec.name)).collect();
        let found = block_on(self.admin.describe_configs(&resources, &self.options()))?;
        let passing = |code: &RDKafkaErrorCode| is_outage(*code) || *code == RDKafkaErrorCode::UnknownTopicOrPartition;
        match found.iter().filter_map(|one| one.as_ref().err()).find(|code| passing(code)) {
            Some(code) => Err(KafkaError::AdminOp(*code)),
            None => Ok(found),
        }
    }

    /// Looks whether a broker has refused the credentials. The client itself tries again for ever, its calls time out, and the
    /// same error of a broker is told once in 30 s: so a refusal stands until another error replaces it.
    fn look_for_refusal(&self, refused: &mut Option<KafkaError>) {
        // Longer than nothing: a poll that has served a line of the log ends then.
        const DRAIN: Duration = Duration::from_millis(10);
        // Without a group and an assignment, these are errors of the client itself.
        while let Some(event) = self.consumer.poll(DRAIN) {
            match event {
                Err(error) if is_unauthenticated(&error) => *refused = Some(error),
                // Only sums up.
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) => {}
                Err(_) => *refused = None,
                Ok(_) => {}
            }
        }
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
/// [`TopicsError::Unreachable`] when `keep_on` said no; [`TopicsError::Client`] for settings that no client takes;
/// [`TopicsError::Unauthenticated`] and [`TopicsError::Denied`], which no waiting mends.
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
    retry_through_outages(&cluster, &mut keep_on, &mut on_outage, &describe(&topic), ask).map(|_| ())
}

fn describe(topic: &str) -> String {
    format!("Describe on topic {topic}")
}

/// `needs` is the right without which the cluster denies the call.
fn retry_through_outages<T>(
    cluster: &Cluster<'_>,
    keep_on: &mut impl FnMut() -> bool,
    on_outage: &mut impl FnMut(&str),
    needs: &str,
    mut call: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, TopicsError> {
    let config = cluster.config;
    let (mut failures, mut refusals, mut refused) = (0, 0, None);
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
        if let Some(code) = error.rdkafka_error_code().filter(|code| is_denied(*code)) {
            return Err(TopicsError::Denied { principal: config.principal(), needs: needs.to_owned(), code });
        }
        failures += 1;
        cluster.look_for_refusal(&mut refused);
        refusals = if refused.is_some() { refusals + 1 } else { 0 };
        if let Some(error) = refused.clone().filter(|_| refusals >= REFUSED_CREDENTIALS) {
            let (brokers, principal) = (config.bootstrap_servers.clone(), config.principal());
            return Err(TopicsError::Unauthenticated { brokers, principal, error: Box::new(error) });
        }
        if last_told.is_none_or(|told| told.elapsed() >= REMIND_EVERY) {
            tracing::warn!(code = codes::KAFKA_UNREACHABLE.code, %error, "Kafka cannot be reached, trying again");
            on_outage("Kafka cannot be reached");
            last_told = Some(Instant::now());
        }
        if !pause(RETRY.delay(failures, rand::random()), keep_on) {
            let error = refused.unwrap_or(error);
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
/// [`TopicsError::Session`], and as [`wait_for_broker`]. A broker that does not tell its limits is
/// believed to have none.
pub fn check_session(
    config: &KafkaConfig,
    service: &str,
    mut keep_on: impl FnMut() -> bool,
    mut on_outage: impl FnMut(&str),
) -> Result<(), TopicsError> {
    let cluster = Cluster::connect(config, service)?;
    let needs = describe(&format!("{}.ingest.cursor", config.topic_prefix));
    let limits = retry_through_outages(&cluster, &mut keep_on, &mut on_outage, &needs, || cluster.session_limits())?;
    let Some((least, most)) = limits else {
        tracing::debug!("the broker does not tell its limits of session timeouts");
        return Ok(());
    };
    let asked = config.session_timeout_ms;
    if (least..=most).contains(&asked) { Ok(()) } else { Err(TopicsError::Session { asked, least, most }) }
}

/// Verifies that every topic exists with the catalogue's partitions and settings; creates missing ones if configured.
/// Outages are waited for. Returns the differences that are the operator's choice, or tolerated by configuration; they are
/// logged too.
///
/// # Errors
/// See [`TopicsError`].
pub fn ensure_topics(
    config: &KafkaConfig,
    service: &str,
    specs: &[TopicSpec],
    mut keep_on: impl FnMut() -> bool,
    mut on_outage: impl FnMut(&str),
) -> Result<Vec<TopicRemark>, TopicsError> {
    let cluster = Cluster::connect(config, service)?;
    let mut last_created = None;
    loop {
        let mut missing = Vec::new();
        let mut wrong = Vec::new();
        for spec in specs {
            let ask = || cluster.partitions(&spec.name);
            let needs = describe(&spec.name);
            let partitions = retry_through_outages(&cluster, &mut keep_on, &mut on_outage, &needs, ask)?;
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
            Err(CreateError::Refused { topic, code }) if is_denied(code) => {
                let needs = format!("Create on topic {topic}");
                return Err(TopicsError::Denied { principal: config.principal(), needs, code });
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
) -> Result<Vec<TopicRemark>, TopicsError> {
    let needs = "DescribeConfigs on the topics";
    let found = retry_through_outages(cluster, keep_on, on_outage, needs, || cluster.settings(specs))?;
    let held = hold(specs, &found);
    for remark in &held.tolerable {
        tracing::warn!(topic = remark.topic, difference = remark.text, "topic setting differs");
    }
    let tolerated = match cluster.config.check_topics {
        CheckTopics::Strict if !held.breaking.is_empty() => {
            return Err(TopicsError::Mismatch(held.breaking.iter().map(ToString::to_string).collect()));
        }
        CheckTopics::Strict if !held.unread.is_empty() => return Err(unread(cluster.config, &held.unread)),
        CheckTopics::Strict => vec![],
        CheckTopics::Warn => {
            let unread = held.unread.into_iter().map(|(topic, code)| TopicRemark {
                topic,
                text: format!("its settings cannot be read and are not checked: {code}"),
            });
            held.breaking.into_iter().chain(unread).collect()
        }
    };
    for remark in &tolerated {
        let difference = &remark.text;
        tracing::warn!(
            topic = remark.topic,
            difference,
            "a topic may break a promise and is tolerated by configuration"
        );
    }
    Ok(held.tolerable.into_iter().chain(tolerated).collect())
}

/// Settings that nobody could read, and that were to be checked strictly.
fn unread(config: &KafkaConfig, topics: &[(String, RDKafkaErrorCode)]) -> TopicsError {
    let denied: Vec<&str> =
        topics.iter().filter(|(_, code)| is_denied(*code)).map(|(topic, _)| topic.as_str()).collect();
    match topics.iter().find(|(_, code)| is_denied(*code)) {
        Some((_, code)) => TopicsError::Denied {
            principal: config.principal(),
            needs: format!(
                "DescribeConfigs on topics {}, whose settings kafka.check_topics = \"strict\" checks",
                denied.join(", ")
            ),
            code: *code,
        },
        None => TopicsError::Mismatch(
            topics.iter().map(|(topic, code)| format!("the settings of {topic} cannot be read: {code}")).collect(),
        ),
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
    fn settings_that_may_not_be_read_are_refused_with_the_right_and_the_topics() {
        let config = KafkaConfig { sasl_username: Some("connector".to_owned()), ..KafkaConfig::default() };
        let denied = |topic: &str| (topic.to_owned(), RDKafkaErrorCode::TopicAuthorizationFailed);
        let stopped = unread(&config, &[denied("a"), denied("b")]).stopped();
        assert_eq!((stopped.exit, stopped.code), (Exit::Refused, "KC-0219"), "{stopped}");
        for part in ["connector", "DescribeConfigs", "a, b"] {
            assert!(stopped.text.contains(part), "{stopped}");
        }
        let other = unread(&config, &[("a".to_owned(), RDKafkaErrorCode::InvalidConfig)]).stopped();
        assert_eq!((other.exit, other.code), (Exit::Refused, "KC-0212"), "{other}");
    }
}
