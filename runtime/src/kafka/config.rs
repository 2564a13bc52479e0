//! The `[kafka]` section, and the client settings made from it.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::properties::ClientProperties;
use crate::codes;
use crate::config::{Configuration, Problems, Secret};

/// The Kafka cluster, and how this process is known to it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KafkaConfig {
    /// Brokers to begin with, as `host:port,host:port`.
    #[schemars(length(min = 1))]
    pub bootstrap_servers: String,
    /// What every topic name, group and transactional id begins with. Deployments that share a cluster differ here.
    #[schemars(length(min = 1))]
    pub topic_prefix: String,
    /// Stable ordinal of this process among those of the same service. After a restart it must be the same: fencing and
    /// static group membership rest on it.
    #[schemars(length(min = 1))]
    pub instance: String,
    /// Create missing topics as the catalogue says.
    pub create_topics: bool,
    /// Replication factor of topics that are created.
    #[schemars(range(min = 1, max = 32767))]
    pub replication_factor: u16,
    /// What to do when a topic's settings differ from the catalogue in a way that breaks a promise. A wrong number of
    /// partitions is always refused.
    pub check_topics: CheckTopics,
    /// Test at start that the broker hides aborted records and keeps commit metadata.
    pub probe: bool,
    /// Name of this client in the broker's logs and quotas; the service's name if absent.
    pub client_id: Option<String>,
    /// How to talk to the brokers. `ssl` and `sasl_ssl` need a build with `kafka-tls`.
    pub security_protocol: SecurityProtocol,
    /// SASL mechanism: `PLAIN`, or with a `kafka-tls` build `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub sasl_mechanism: Option<String>,
    /// SASL user name.
    pub sasl_username: Option<String>,
    /// SASL password.
    pub sasl_password: Option<Secret>,
    /// PEM file of the certificate authorities to trust; the system's if absent.
    #[schemars(with = "Option<String>")]
    pub ssl_ca_location: Option<PathBuf>,
    /// PEM file of this client's certificate.
    #[schemars(with = "Option<String>")]
    pub ssl_certificate_location: Option<PathBuf>,
    /// PEM file of this client's key.
    #[schemars(with = "Option<String>")]
    pub ssl_key_location: Option<PathBuf>,
    /// Password of this client's key.
    pub ssl_key_password: Option<Secret>,
    /// Milliseconds after which the broker aborts a transaction whose producer went silent: how long readers wait after
    /// a process died and was not started again.
    #[schemars(range(min = 1000, max = 900_000))]
    pub transaction_timeout_ms: u32,
    /// Milliseconds after which the group gives a silent member's partitions away.
    #[schemars(range(min = 1000, max = 1_800_000))]
    pub session_timeout_ms: u32,
    /// Milliseconds that one request to the cluster may take at start (topics, probe, cursor) before it is tried again.
    #[schemars(range(min = 1000, max = 600_000))]
    pub request_timeout_ms: u32,
    /// Further settings of the client library (librdkafka), by its names. Those that the promises rest on, or that
    /// the connector sets itself, are refused.
    pub properties: ClientProperties,
}

/// What to do about topic settings that differ from the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckTopics {
    /// Refuse to start.
    Strict,
    /// Log a warning and go on.
    Warn,
}

/// How to talk to the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated.
    Plaintext,
    /// Authenticated by SASL, not encrypted.
    SaslPlaintext,
    /// TLS.
    Ssl,
    /// SASL over TLS.
    SaslSsl,
}

impl SecurityProtocol {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::Ssl => "ssl",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    const fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    const fn is_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".to_owned(),
            topic_prefix: "kms-connector".to_owned(),
            instance: "0".to_owned(),
            create_topics: false,
            replication_factor: 1,
            check_topics: CheckTopics::Strict,
            probe: true,
            client_id: None,
            security_protocol: SecurityProtocol::Plaintext,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca_location: None,
            ssl_certificate_location: None,
            ssl_key_location: None,
            ssl_key_password: None,
            transaction_timeout_ms: 10_000,
            session_timeout_ms: 6_000,
            request_timeout_ms: 10_000,
            properties: ClientProperties::default(),
        }
    }
}

/// Settings that `properties` may not touch: the promises rest on them, or a key of the section sets them.
const RESERVED: [&str; 39] = [
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "batch.size",
    "bootstrap.servers",
    "client.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "heartbeat.interval.ms",
    "isolation.level",
    "linger.ms",
    "log.queue",
    "message.max.bytes",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "request.required.acks",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "transaction.timeout.ms",
    "transactional.id",
];

impl Configuration for KafkaConfig {
    fn validate(&self, problems: &mut Problems) {
        let name_is_legal = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        for (key, text) in [("topic_prefix", &self.topic_prefix), ("instance", &self.instance)] {
            if !name_is_legal(text) {
                problems.at(key, format!("`{text}` has other characters than letters, digits, `.`, `_` and `-`"));
            }
        }
        if self.topic_prefix.len() > 200 {
            problems.at("topic_prefix", "longer than 200 characters, so that topic names would be above Kafka's 249");
        }
        for server in self.bootstrap_servers.split(',').map(str::trim) {
            if !is_server(server) {
                problems
                    .at("bootstrap_servers", format!("`{server}` is not `host:port`; give `host:port,host:port,…`"));
            }
        }
        self.validate_security(problems);
        let reserved: Vec<&str> =
            self.properties.iter().map(|(key, _)| key).filter(|key| RESERVED.contains(key)).collect();
        for key in &reserved {
            problems.at("properties", format!("`{key}` is set by the connector itself and cannot be changed here"));
        }
        // The library checks names and values itself; a clash with a reserved key is reported above already.
        if reserved.is_empty()
            && let Some(refusal) = self.properties.refusal()
        {
            problems.at("properties", refusal);
        }
    }
}

/// `host`, `host:port` or `[address]:port`, also behind a `PROTOCOL://`, which the client library takes too.
fn is_server(text: &str) -> bool {
    let place = text.split_once("://").map_or(text, |(_, place)| place);
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte));
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl KafkaConfig {
    fn validate_security(&self, problems: &mut Problems) {
        let mechanism = self.sasl_mechanism.as_deref();
        if self.security_protocol.is_sasl() {
            for (key, is_set) in [
                ("sasl_mechanism", self.sasl_mechanism.is_some()),
                ("sasl_username", self.sasl_username.is_some()),
                ("sasl_password", self.sasl_password.is_some()),
            ] {
                if !is_set {
                    let protocol = self.security_protocol.as_str();
                    problems.at(key, format!("required with security_protocol = \"{protocol}\""));
                }
            }
        }
        self.refuse_without_effect(problems);
        if self.security_protocol.is_tls() {
            self.validate_tls_files(problems);
        }
        let known = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
        if let Some(unknown) = mechanism.filter(|name| !known.contains(name)) {
            problems.at("sasl_mechanism", format!("`{unknown}` is not one of {}", known.join(", ")));
        }
        if cfg!(feature = "kafka-tls") {
            return;
        }
        let text = "needs TLS support, which this binary was built without (feature `kafka-tls`)";
        if self.security_protocol.is_tls() {
            problems.coded("security_protocol", &codes::CONFIG_FEATURE, text);
        }
        if mechanism.is_some_and(|name| name.starts_with("SCRAM")) {
            problems.coded("sasl_mechanism", &codes::CONFIG_FEATURE, text);
        }
    }

    /// Whoever sets a user name or a certificate authority means to be safe; with the default protocol, nothing would be.
    fn refuse_without_effect(&self, problems: &mut Problems) {
        let sasl = [
            ("sasl_mechanism", self.sasl_mechanism.is_some()),
            ("sasl_username", self.sasl_username.is_some()),
            ("sasl_password", self.sasl_password.is_some()),
        ];
        let tls = [
            ("ssl_ca_location", self.ssl_ca_location.is_some()),
            ("ssl_certificate_location", self.ssl_certificate_location.is_some()),
            ("ssl_key_location", self.ssl_key_location.is_some()),
            ("ssl_key_password", self.ssl_key_password.is_some()),
        ];
        let protocol = self.security_protocol;
        for (keys, has_effect, wanted) in [
            (&sasl[..], protocol.is_sasl(), "`sasl_ssl` or `sasl_plaintext`"),
            (&tls[..], protocol.is_tls(), "`ssl` or `sasl_ssl`"),
        ] {
            for (key, _) in keys.iter().filter(|(_, is_set)| *is_set && !has_effect) {
                let protocol = protocol.as_str();
                problems.at(
                    key,
                    format!(
                        "has no effect with security_protocol = \"{protocol}\"; set that to {wanted}, or remove this"
                    ),
                );
            }
        }
    }

    fn validate_tls_files(&self, problems: &mut Problems) {
        let property = |wanted: &str| self.properties.iter().any(|(key, _)| key == wanted);
        let has_certificate = self.ssl_certificate_location.is_some() || property("ssl.certificate.pem");
        let has_key = self.ssl_key_location.is_some() || property("ssl.key.pem");
        if self.ssl_certificate_location.is_some() && !has_key {
            problems.at("ssl_certificate_location", "is of no use without its key; set ssl_key_location");
        }
        if self.ssl_key_location.is_some() && !has_certificate {
            problems.at("ssl_key_location", "is of no use without its certificate; set ssl_certificate_location");
        }
        for (key, file) in [
            ("ssl_ca_location", &self.ssl_ca_location),
            ("ssl_certificate_location", &self.ssl_certificate_location),
            ("ssl_key_location", &self.ssl_key_location),
        ] {
            // "probe" is the client library's word for: look at the usual places.
            let Some(file) = file.as_ref().filter(|file| file.as_os_str() != "probe") else { continue };
            if let Err(error) = std::fs::File::open(file) {
                problems.coded(key, &codes::CONFIG_VALUE, format!("{}: {error}", file.display()));
            }
        }
    }

    /// Who this process is to the brokers, for messages.
    pub(super) fn principal(&self) -> String {
        match &self.sasl_username {
            Some(name) => format!("the principal {name} (kafka.sasl_username)"),
            None if self.ssl_certificate_location.is_some() => {
                "the principal of kafka.ssl_certificate_location".to_owned()
            }
            None => "the anonymous principal".to_owned(),
        }
    }

    /// How long one request to the cluster may take at start.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.into())
    }

    /// How long the broker keeps a silent producer's transaction open.
    #[must_use]
    pub fn transaction_timeout(&self) -> Duration {
        Duration::from_millis(self.transaction_timeout_ms.into())
    }

    /// `{prefix}.{service}.{lane}.{instance}`, the id that fences a predecessor.
    #[must_use]
    pub fn transactional_id(&self, service: &str, lane: &str) -> String {
        format!("{}.{service}.{lane}.{}", self.topic_prefix, self.instance)
    }

    /// Settings that every client shares. Statistics stay off.
    #[must_use]
    pub fn client(&self, service: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        // The library's own logs come through `LogContext`; debug logs are the operator's choice (`properties.debug`).
        client.set_log_level(RDKafkaLogLevel::Info);
        client
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", self.client_id.as_deref().unwrap_or(service))
            .set("security.protocol", self.security_protocol.as_str())
            .set("log.connection.close", "false")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "2000");
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let optional = [
            ("sasl.mechanisms", self.sasl_mechanism.clone()),
            ("sasl.username", self.sasl_username.clone()),
            ("sasl.password", secret(&self.sasl_password)),
            ("ssl.ca.location", path(&self.ssl_ca_location)),
            ("ssl.certificate.location", path(&self.ssl_certificate_location)),
            ("ssl.key.location", path(&self.ssl_key_location)),
            ("ssl.key.password", secret(&self.ssl_key_password)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                client.set(key, value);
            }
        }
        for (key, value) in self.properties.iter() {
            client.set(key, value);
        }
        client
    }

    /// A consumer that reads committed records only, never commits by itself and never guesses where to start.
    /// `group_id` is needed by the client even where partitions are assigned by hand.
    #[must_use]
    pub fn consumer(&self, service: &str, group_id: &str) -> ClientConfig {
        let mut consumer = self.client(service);
        consumer
            .set("group.id", group_id)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            // The default of a second is how long a partition rests after its queue was full.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.wait.max.ms", "100")
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (self.session_timeout_ms / 3).to_string());
        consumer
    }

    /// A transactional producer. `max_record_bytes` is the largest record that any of its topics takes.
    #[must_use]
    pub fn producer(&self, service: &str, transactional_id: &str, max_record_bytes: u32) -> ClientConfig {
        let mut producer = self.client(service);
        producer
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            // Batching is done by the caller, which produces a whole transaction and then waits for it.
            .set("linger.ms", "0")
            .set("message.max.bytes", max_record_bytes.to_string())
            .set("queue.buffering.max.messages", "1000000");
        producer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn refused(toml: &[&str]) -> Vec<String> {
        let set = toml.iter().map(|one| (*one).to_owned()).collect();
        let sources = Sources { set, ..Sources::default() };
        let errors = load::<KafkaConfig>(&sources).expect_err("the configuration should be refused");
        errors.problems().iter().map(|problem| format!("{}: {}", problem.path, problem.text)).collect()
    }

    #[test]
    fn the_defaults_are_a_valid_configuration() {
        load::<KafkaConfig>(&Sources::default()).expect("defaults");
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn tls_without_the_feature_is_a_clear_configuration_error() {
        let problems = refused(&["security_protocol=ssl"]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("kafka-tls"), "{problems:?}");
    }

    #[test]
    fn sasl_names_every_value_that_it_lacks() {
        let problems = refused(&["security_protocol=sasl_plaintext"]);
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn credentials_that_the_protocol_would_ignore_are_refused() {
        for (set, needs) in [
            ("sasl_username=connector", "sasl_ssl"),
            ("sasl_password=hunter2", "sasl_ssl"),
            ("ssl_ca_location=/etc/ssl/ca.pem", "`ssl`"),
            ("ssl_key_password=hunter2", "`ssl`"),
        ] {
            let problems = refused(&[set]);
            assert_eq!(problems.len(), 1, "{problems:?}");
            let key = set.split('=').next().unwrap_or_default();
            assert!(problems[0].starts_with(key) && problems[0].contains("has no effect"), "{problems:?}");
            assert!(problems[0].contains(needs) && !problems[0].contains("hunter2"), "{problems:?}");
        }
    }

    #[test]
    fn a_certificate_needs_its_key_and_both_must_be_there() {
        let of = |set: &[&str], key: &str| -> Vec<String> {
            let all: Vec<&str> = ["security_protocol=ssl"].iter().chain(set).copied().collect();
            refused(&all).into_iter().filter(|problem| problem.starts_with(key)).collect()
        };
        let alone = of(&["ssl_certificate_location=/dev/null"], "ssl_certificate_location");
        assert!(alone.len() == 1 && alone[0].contains("ssl_key_location"), "{alone:?}");
        let alone = of(&["ssl_key_location=/dev/null"], "ssl_key_location");
        assert!(alone.len() == 1 && alone[0].contains("ssl_certificate_location"), "{alone:?}");
        let missing = of(&["ssl_ca_location=/no/such/ca.pem"], "ssl_ca_location");
        assert!(missing.len() == 1 && missing[0].contains("/no/such/ca.pem"), "{missing:?}");
    }

    #[test]
    fn whatever_the_connector_sets_itself_is_refused_among_the_properties() {
        let config = KafkaConfig::default();
        let general = config.client("test");
        for settings in [config.consumer("test", "group"), config.producer("test", "id", 1)] {
            for key in settings.config_map().keys().filter(|key| general.get(key).is_none()) {
                assert!(RESERVED.contains(key), "{key} is overwritten and not reserved");
            }
        }
        let problems = refused(&["properties={ \"linger.ms\" = \"5\" }"]);
        assert!(problems[0].contains("linger.ms"), "{problems:?}");
    }

    #[test]
    fn settings_that_the_promises_rest_on_cannot_be_overridden() {
        let problems = refused(&["properties={ \"isolation.level\" = \"read_uncommitted\" }"]);
        assert!(problems[0].contains("isolation.level"), "{problems:?}");
    }

    #[test]
    fn an_unknown_client_property_is_refused_before_any_client_is_made() {
        let problems = refused(&["properties={ \"no.such.property\" = \"1\" }"]);
        assert!(problems[0].contains("no.such.property"), "{problems:?}");
    }

    #[test]
    fn servers_that_no_client_could_connect_to_are_refused() {
        for good in ["127.0.0.1:9092", "a:1,b:2", "[::1]:9092", "SSL://kafka-1.example:9093", "kafka"] {
            load::<KafkaConfig>(&Sources { set: vec![format!("bootstrap_servers={good}")], ..Sources::default() })
                .unwrap_or_else(|errors| panic!("{good}: {errors}"));
        }
        for bad in ["a b:1", "host:port", "a:1,,b:2", ":9092", "a:0", "a:70000", "http:///x"] {
            let problems = refused(&[&format!("bootstrap_servers={bad}")]);
            assert!(problems[0].starts_with("bootstrap_servers"), "{bad}: {problems:?}");
        }
    }

    #[test]
    fn a_client_property_can_be_set_by_flag_and_by_environment() {
        let sources = Sources {
            environment: vec![("KMS_CONNECTOR_PROPERTIES__SOCKET__TIMEOUT__MS".to_owned(), "7000".to_owned())],
            set: vec!["properties.socket.keepalive.enable=true".to_owned()],
            ..Sources::default()
        };
        let loaded = load::<KafkaConfig>(&sources).unwrap_or_else(|errors| panic!("{errors}"));
        let client = loaded.config.client("ingest");
        assert_eq!(client.get("socket.timeout.ms"), Some("7000"));
        assert_eq!(client.get("socket.keepalive.enable"), Some("true"));
    }

    #[test]
    fn secrets_reach_the_client_and_nothing_else() {
        let config = KafkaConfig {
            security_protocol: SecurityProtocol::SaslPlaintext,
            sasl_mechanism: Some("PLAIN".to_owned()),
            sasl_username: Some("connector".to_owned()),
            sasl_password: Some(Secret::new("hunter2")),
            ..KafkaConfig::default()
        };
        assert_eq!(config.client("ingest").get("sasl.password"), Some("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
