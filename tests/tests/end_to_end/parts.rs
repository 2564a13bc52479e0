//! Each part of the stack alone.

use std::time::Duration;

use kms_stack::parts::{Anvil, AnvilOptions, Bucket, Kafka, KafkaOptions, Registry};
use kms_tests::{kafka, new_workspace, program};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn the_shared_broker_commits_a_transaction() {
    let bootstrap = kafka().await.bootstrap_servers();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let topic = NewTopic::new("parts-transaction", 1, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(LIMIT))).await.unwrap();

    let committed = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("transactional.id", "parts-transaction")
            .create()
            .unwrap();
        producer.init_transactions(LIMIT)?;
        producer.begin_transaction()?;
        producer.send(BaseRecord::to("parts-transaction").key("k").payload("v")).map_err(|(error, _)| error)?;
        producer.commit_transaction(LIMIT)
    });
    committed.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_killed_broker_comes_back_at_the_same_address() {
    let workspace = new_workspace();
    let own = Kafka::start(&workspace, KafkaOptions { heap_mib: 256, ..KafkaOptions::default() }).await.unwrap();
    let broker = &own.brokers()[0];
    let first = broker.pid();
    broker.kill().await;
    assert!(!broker.is_running());
    broker.start().unwrap();
    own.wait_ready().await.unwrap();
    assert_ne!(broker.pid(), first);
    own.stop().await;
    assert!(!broker.is_running());
}

#[tokio::test]
async fn three_brokers_form_one_cluster() {
    let workspace = new_workspace();
    let options = KafkaOptions { heap_mib: 256, ..KafkaOptions::three_brokers() };
    let cluster = Kafka::start(&workspace, options).await.unwrap();
    assert_eq!(cluster.bootstrap_servers().split(',').count(), 3);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    let topic = NewTopic::new("replicated", 1, TopicReplication::Fixed(3));
    let created = admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(LIMIT))).await.unwrap();
    assert!(created.iter().all(Result::is_ok), "{created:?}");
}

#[tokio::test]
async fn the_chain_has_the_id_asked_for_and_mines() {
    let workspace = new_workspace();
    let options =
        AnvilOptions { chain_id: 54_321, block_time: Some(Duration::from_millis(250)), ..AnvilOptions::default() };
    let anvil = Anvil::start(&workspace, options).await.unwrap();
    assert_eq!(anvil.rpc("eth_chainId", json!([])).await.unwrap(), "0xd431");
    kms_tests::eventually("a block is mined", LIMIT, async || {
        let head = anvil.rpc("eth_blockNumber", json!([])).await.ok()?;
        (head != "0x0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_persistent_chain_survives_a_restart() {
    let workspace = new_workspace();
    let anvil = Anvil::start(&workspace, AnvilOptions { persistent: true, ..AnvilOptions::default() }).await.unwrap();
    anvil.rpc("anvil_mine", json!(["0x7"])).await.unwrap();
    anvil.stop().await;
    anvil.process().start().unwrap();
    anvil.wait_ready().await.unwrap();
    assert_eq!(anvil.rpc("eth_blockNumber", json!([])).await.unwrap(), "0x7");
}

#[tokio::test]
async fn an_object_is_read_by_url_with_its_metadata_without_credentials() {
    let workspace = new_workspace();
    let bucket = Bucket::start(&workspace, "ct128").await.unwrap();
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    bucket.put("0a0b", &[("ct-format", "compressed_on_cpu")], body.clone()).await.unwrap();

    let url = format!("{}/0a0b", bucket.url());
    let response = kms_tests::get(&url).await.unwrap();
    assert_eq!(response.headers()["x-amz-meta-ct-format"], "compressed_on_cpu");
    assert_eq!(response.bytes().await.unwrap(), body);
    assert_eq!(kms_tests::get(&format!("{}/none", bucket.url())).await.unwrap().status(), 404);

    // Killed and started again it has the object at the same address.
    bucket.process().kill().await;
    assert!(kms_tests::get(&url).await.is_err());
    bucket.process().start().unwrap();
    bucket.wait_ready().await.unwrap();
    assert_eq!(kms_tests::get(&url).await.unwrap().bytes().await.unwrap(), body);

    bucket.delete("0a0b").await.unwrap();
    assert_eq!(kms_tests::get(&url).await.unwrap().status(), 404);
}

#[tokio::test]
async fn the_registry_keeps_a_schema_under_its_subject() {
    let workspace = new_workspace();
    let registry = Registry::start(&workspace).await.unwrap();
    let subject = format!("{}/subjects/t-value/versions", registry.url());
    let schema = json!({"schema": "{\"type\":\"record\",\"name\":\"r\",\"fields\":[]}"});
    let answer: serde_json::Value = kms_tests::post(&subject, &schema).await.unwrap().json().await.unwrap();
    assert!(answer["id"].is_u64(), "{answer}");
    let versions: serde_json::Value = kms_tests::get(&subject).await.unwrap().json().await.unwrap();
    assert_eq!(versions, json!([1]));
}

#[test]
fn the_program_under_test_is_found() {
    assert!(program().is_file());
}
