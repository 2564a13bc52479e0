//! Versions of KMS Core other than those that a generation is usually run with: every operation that they have, to the chain.

use std::time::Instant;

use kms_stack::simulator::CoreVersion;
use kms_stack::{Generation, ServiceKind, StackBuilder, job};
use kms_tests::new_workspace;

use crate::pipeline::{assert_whole, load, stack};

fn version(stack: StackBuilder, version: CoreVersion, name: &str) -> StackBuilder {
    stack
        .core(move |_, config| config.version = version)
        .set(ServiceKind::Processor, format!("kms_core.version={name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_generation_a_is_served_with_kms_core_v0_13_0() {
    let workspace = new_workspace();
    // Several nodes: the key is looked for before the first decryption, since a refused one would stay pending for ever.
    let stack = version(stack("v0-13-0").await.nodes(4), CoreVersion::V0_13_0, "v0.13.0");
    let stack = stack.start(&workspace).await.unwrap();
    let report = job::run(&stack, &load(24), Instant::now()).await.unwrap();
    assert_whole(&report);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_generation_b_is_served_with_kms_core_v0_14() {
    let workspace = new_workspace();
    let stack = stack("v0-14").await.generation(Generation::B).nodes(4);
    let stack = version(stack, CoreVersion::V0_14, "v0.14").start(&workspace).await.unwrap();
    let report = job::run(&stack, &load(24), Instant::now()).await.unwrap();
    assert_whole(&report);
    stack.stop().await;
}
