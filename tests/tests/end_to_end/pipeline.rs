//! The pipeline as a whole: contracts to contracts, judged by the main job's own report.

use std::time::{Duration, Instant};

use kms_stack::job::{self, JobArgs, Output, Report};
use kms_stack::{Generation, Stack, StackBuilder};
use kms_tests::{kafka, new_workspace, prefix};

/// A load for tests.
pub(crate) fn load(requests: u32) -> JobArgs {
    JobArgs {
        requests,
        rate: 0.0,
        mix: None,
        handles: 1,
        ciphertext_bytes: 1024,
        patience: 60,
        exit: true,
        output: Output::Text,
    }
}

/// A stack on the cluster that the tests share.
pub(crate) async fn stack(test: &str) -> StackBuilder {
    Stack::builder().kafka(kafka().await.bootstrap_servers()).prefix(prefix(test))
}

#[track_caller]
pub(crate) fn assert_whole(report: &Report) {
    assert!(report.is_success(), "{}", report.table());
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_every_request_of_a_mixed_load_is_accepted_on_chain_once() {
    let workspace = new_workspace();
    let stack = stack("pipeline").await.start(&workspace).await.unwrap();
    let report = job::run(&stack, &JobArgs { handles: 2, ..load(60) }, Instant::now()).await.unwrap();
    assert_whole(&report);
    assert_eq!(report.counts.requested, 60);
    let key_management = ["prep_keygen", "keygen", "crsgen", "prss_init", "key_reshare_same_set"];
    assert_eq!(kinds(&report), [&["public_decryption", "user_decryption"], &key_management[..]].concat());
    stack.stop().await;
}

fn kinds(report: &Report) -> Vec<&str> {
    report.kinds.iter().map(|kind| kind.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_generation_b_on_two_chains_is_served_by_a_centralized_core() {
    let workspace = new_workspace();
    let stack = stack("b-one").await.generation(Generation::B).start(&workspace).await.unwrap();
    let report = job::run(&stack, &load(40), Instant::now()).await.unwrap();
    assert_whole(&report);
    let key_management = ["prep_keygen", "keygen", "crsgen", "abort_keygen", "abort_crsgen", "new_kms_context"];
    assert_eq!(kinds(&report), [&["public_decryption", "user_decryption"], &key_management[..]].concat());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_four_nodes_of_generation_b_create_and_destroy_contexts_and_epochs() {
    let workspace = new_workspace();
    let stack = stack("b-four").await.generation(Generation::B).nodes(4).start(&workspace).await.unwrap();
    let report = job::run(&stack, &load(34), Instant::now()).await.unwrap();
    assert_whole(&report);
    let all: Vec<&str> = kms_schemas::identity::Kind::ALL
        .iter()
        .map(|kind| kind.as_str())
        .filter(|kind| !["prss_init", "key_reshare_same_set"].contains(kind))
        .collect();
    assert_eq!(kinds(&report), all);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_four_nodes_reach_consensus_and_every_nodes_answer_is_accepted() {
    let workspace = new_workspace();
    let stack = stack("four").await.nodes(4).start(&workspace).await.unwrap();
    let report = job::run(&stack, &load(24), Instant::now()).await.unwrap();
    assert_whole(&report);
    // PRSS initialisation and resharing have no answer on chain.
    assert_eq!(report.consensus, 22);
    assert_eq!(report.answers_accepted, 4 * 22);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_with_a_schema_registry_records_carry_the_confluent_wire_format() {
    let workspace = new_workspace();
    let stack = stack("registry").await.registry(true).start(&workspace).await.unwrap();
    let report = job::run(&stack, &load(12), Instant::now()).await.unwrap();
    assert_whole(&report);
    let framing = first_bytes(&stack, &format!("{}.results.decryption", stack.node().prefix()));
    assert!(!framing.is_empty() && framing.iter().all(|first| *first == 0), "{framing:?}");
    stack.stop().await;
}

/// The first byte of every record of a topic.
fn first_bytes(stack: &Stack, topic: &str) -> Vec<u8> {
    let kafka = kms_runtime::kafka::KafkaConfig {
        bootstrap_servers: stack.bootstrap_servers().to_owned(),
        topic_prefix: stack.node().prefix().to_owned(),
        ..Default::default()
    };
    let mut first = Vec::new();
    for partition in 0..12 {
        kms_runtime::kafka::read_to_end(&kafka, "test", topic, partition, None, Duration::from_secs(120), |record| {
            first.extend(record.value.as_deref().and_then(<[u8]>::first));
        })
        .unwrap();
    }
    first
}
