//! Codes of what an operator can meet in configuration and Kafka (`KC-01xx`, `KC-02xx`).

use kms_schemas::codes::Code;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $short:literal, $meaning:literal, $action:literal;)*) => {
        $($(#[$doc])* pub static $name: Code = Code { code: $code, name: $short, meaning: $meaning, action: $action };)*
        /// All codes of this crate.
        pub static CODES: &[Code] = &[$(Code { code: $code, name: $short, meaning: $meaning, action: $action }),*];
    };
}

codes! {
    /// The configuration file cannot be read.
    CONFIG_FILE = "KC-0101", "config_file",
        "The configuration file cannot be read.",
        "Check the path given with --config and the file's permissions.";
    /// Syntax.
    CONFIG_SYNTAX = "KC-0102", "config_syntax",
        "A configuration file is not TOML, or a --set flag is not `section.key=value`.",
        "Correct the line or flag that the message names.";
    /// Unknown key.
    CONFIG_UNKNOWN_KEY = "KC-0103", "config_unknown_key",
        "A key is not known, or stands where nothing can be set.",
        "Correct its spelling (see the configuration reference) or remove it; unknown environment variables with the prefix KMS_CONNECTOR_ count too.";
    /// Wrong type or value.
    CONFIG_VALUE = "KC-0104", "config_value",
        "A value has the wrong type, cannot be read, or lies outside its range.",
        "Give a value as the configuration reference says.";
    /// Missing.
    CONFIG_MISSING = "KC-0105", "config_missing",
        "A required value is missing.",
        "Set it in the file, in the environment or with --set.";
    /// Rule between values.
    CONFIG_RULE = "KC-0106", "config_rule",
        "Values contradict each other or a rule of the configuration.",
        "Change one of the values that the message names.";
    /// Secret file.
    CONFIG_SECRET_FILE = "KC-0107", "config_secret_file",
        "A file that should hold a secret cannot be read, or the secret is given twice.",
        "Check path and permissions; give the secret either directly or as a file.";
    /// Feature that was not built.
    CONFIG_FEATURE = "KC-0108", "config_feature",
        "The configuration needs TLS or SASL SCRAM towards Kafka, which this binary was built without.",
        "Build with `--features kafka-tls`, or build the image, which has it: `docker build -f compose/Dockerfile -t kms-connector .`.";
    /// The HTTP address cannot be bound.
    LISTEN = "KC-0110", "listen",
        "The address for health and metrics cannot be bound or its address file cannot be written.",
        "Free the address or configure another; port 0 takes a free one. An address in use is waited for ten seconds.";
    /// Standard output.
    OUTPUT = "KC-0111", "output",
        "What a command prints (`print-config`, `check-config`, `config-reference`) could not be written to standard output.",
        "Read the system's reason in the message: disk full, closed output.";
    /// Broker unreachable.
    KAFKA_UNREACHABLE = "KC-0210", "kafka_unreachable",
        "No Kafka broker can be reached.",
        "Check kafka.bootstrap_servers, the network and the brokers; the service goes on by itself once they answer.";
    /// Topic missing.
    TOPIC_MISSING = "KC-0211", "topic_missing",
        "A topic of the catalogue does not exist.",
        "Create it as the topic catalogue says, or set kafka.create_topics = true.";
    /// Topic mismatch.
    TOPIC_MISMATCH = "KC-0212", "topic_mismatch",
        "A topic exists with another number of partitions or with settings that break a promise.",
        "Partition counts never change: use the catalogue's count, or another kafka.topic_prefix. Correct the settings with the cluster's tools, or set kafka.check_topics = \"warn\" if they are meant.";
    /// Broker refused by the probe.
    BROKER_REFUSED = "KC-0213", "broker_refused",
        "The broker does not keep Kafka's promises: it shows aborted records to read-committed readers, or loses commit metadata.",
        "Use Apache Kafka or a broker that passes the probe; exactly-once cannot be had on this one.";
    /// Fenced.
    FENCED = "KC-0214", "fenced",
        "Another process with the same transactional id has taken over.",
        "Run one process per kafka.instance; after a failover this is expected and the old process just ends.";
    /// Fatal client error.
    KAFKA_FATAL = "KC-0215", "kafka_fatal",
        "The Kafka client met an error after which it cannot be used again.",
        "The supervisor's restart recovers; if it repeats, look up the error that the message names.";
    /// Record refused.
    RECORD_REFUSED = "KC-0216", "record_refused",
        "The broker refuses a record, for its size or its content.",
        "See the dead letter; raise max.message.bytes of the topic if such records are legitimate.";
    /// The broker does not take the session's length.
    SESSION_TIMEOUT = "KC-0218", "session_timeout",
        "The broker takes only sessions within limits of its own, and refuses every group member with the configured kafka.session_timeout_ms.",
        "Set kafka.session_timeout_ms within the broker's group.min.session.timeout.ms and group.max.session.timeout.ms, or change these.";
    /// A right is missing.
    KAFKA_DENIED = "KC-0219", "kafka_denied",
        "Kafka refuses the credentials, or the principal lacks a right that a start needs.",
        "Give the principal the right on the resource that the message names (docs/operations.md lists all), or correct the kafka.sasl_… and kafka.ssl_… settings. Where only the topics' settings may not be read, kafka.check_topics = \"warn\" goes on without checking them.";
    /// A bug.
    INTERNAL = "KC-0299", "internal",
        "A part of the service ended in a way that it never should.",
        "Restart, keep the log and report it.";
}
