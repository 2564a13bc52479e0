//! A start on a cluster that knows its users: what it denies is refused by name, and not waited for.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use kms_runtime::config::Secret;
use kms_runtime::kafka::{
    KafkaConfig, SecurityProtocol, TopicsError, ensure_topics, probe, probe_topic, wait_for_broker,
};
use kms_runtime::shutdown::Exit;
use kms_schemas::topics::TopicSpec;
use kms_stack::parts::{Kafka, KafkaOptions};
use kms_tests::new_workspace;

const LIMIT: Duration = Duration::from_secs(180);

/// A broker with a second listener, where users have passwords, and where nobody has a right but who comes by the first one.
async fn guarded() -> (Kafka, KafkaConfig, KafkaConfig) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let options = KafkaOptions { heap_mib: 256, ..KafkaOptions::default() }
        .property(
            "listeners",
            &format!("PLAINTEXT://127.0.0.1:{{broker}},CONTROLLER://127.0.0.1:{{controller}},USERS://127.0.0.1:{port}"),
        )
        .property("advertised.listeners", &format!("PLAINTEXT://127.0.0.1:{{broker}},USERS://127.0.0.1:{port}"))
        .property("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,USERS:SASL_PLAINTEXT")
        .property("sasl.enabled.mechanisms", "PLAIN")
        .property(
            "listener.name.users.plain.sasl.jaas.config",
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_guest=\"guest\";",
        )
        .property("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
        .property("super.users", "User:ANONYMOUS");
    let kafka = Kafka::start(&new_workspace(), options).await.unwrap();
    let owner = KafkaConfig {
        bootstrap_servers: kafka.bootstrap_servers().to_owned(),
        topic_prefix: "guarded".to_owned(),
        create_topics: true,
        ..KafkaConfig::default()
    };
    let guest = KafkaConfig {
        bootstrap_servers: format!("127.0.0.1:{port}"),
        security_protocol: SecurityProtocol::SaslPlaintext,
        sasl_mechanism: Some("PLAIN".to_owned()),
        sasl_username: Some("guest".to_owned()),
        sasl_password: Some(Secret::new("guest")),
        request_timeout_ms: 3_000,
        ..owner.clone()
    };
    (kafka, owner, guest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_its_rights_is_refused_with_the_right_that_it_lacks() {
    let (kafka, owner, guest) = guarded().await;
    let checks = move || {
        let begun = Instant::now();
        let keep_on = || begun.elapsed() < LIMIT;
        let specs: [TopicSpec; 1] = [probe_topic(&owner)];
        ensure_topics(&owner, "test", &specs, keep_on, |_| {}).unwrap();

        let refused = wait_for_broker(&guest, "test", keep_on, |_| {}).unwrap_err();
        assert!(matches!(refused, TopicsError::Denied { .. }), "{refused}");
        assert!(refused.to_string().contains("Describe on topic guarded.ingest.cursor"), "{refused}");
        assert!(refused.to_string().contains("guest"), "{refused}");
        let refused = ensure_topics(&guest, "test", &specs, keep_on, |_| {}).unwrap_err().stopped();
        assert_eq!((refused.exit, refused.code), (Exit::Refused, "KC-0219"), "{refused}");
        let refused = probe(&guest, "test", keep_on).unwrap_err();
        assert_eq!((refused.exit, refused.code), (Exit::Refused, "KC-0219"), "{refused}");
        assert!(refused.text.contains("transactional id guarded.probe.test.0"), "{refused}");

        let stranger = KafkaConfig { sasl_password: Some(Secret::new("wrong")), ..guest };
        let refused = wait_for_broker(&stranger, "test", keep_on, |_| {}).unwrap_err();
        assert!(matches!(refused, TopicsError::Unauthenticated { .. }), "{refused}");
        assert_eq!((refused.stopped().exit, refused.stopped().code), (Exit::Refused, "KC-0219"), "{refused}");
        assert!(begun.elapsed() < LIMIT, "nothing of it was waited for");
    };
    tokio::task::spawn_blocking(checks).await.unwrap();
    kafka.stop().await;
}
