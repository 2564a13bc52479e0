//! The stack as a whole.

use std::process::Command;
use std::time::Duration;

use kms_stack::{ServiceKind, Stack};
use kms_tests::{kafka, new_workspace, prefix, program};

/// Without services: what they stand on.
#[tokio::test]
async fn four_nodes_are_registered_with_the_keys_of_their_simulators() {
    let workspace = new_workspace();
    let stack = Stack::builder()
        .nodes(4)
        .coprocessors(3)
        .block_time(Some(Duration::from_millis(50)))
        .kafka(kafka().await.bootstrap_servers())
        .prefix(prefix("stack"))
        .services(&[])
        .start(&workspace)
        .await
        .unwrap();
    assert_eq!(stack.nodes().len(), 4);
    assert_eq!(stack.deployment().thresholds.public_decryption, 3);
    for node in stack.nodes() {
        // The simulator says its signer on its first line.
        let said = node.core().process().log();
        assert!(said.to_lowercase().contains(&node.signer().to_string().to_lowercase()), "{said}");
        assert!(node.prefix().ends_with(&format!("-node-{}", node.number())));
        for kind in ServiceKind::ALL {
            assert!(node.service(kind).config().is_file());
            assert!(!node.service(kind).process().is_running());
        }
    }
    stack.requester().await.unwrap();
    stack.stop().await;
}

#[tokio::test]
async fn the_services_find_nothing_wrong_with_the_files_that_the_stack_writes() {
    let workspace = new_workspace();
    let stack = Stack::builder()
        .block_time(None)
        .kafka(kafka().await.bootstrap_servers())
        .prefix(prefix("files"))
        .services(&[])
        .start(&workspace)
        .await
        .unwrap();
    for service in stack.node().services() {
        let checked = Command::new(program())
            .args([service.kind().name(), "check-config", "--config"])
            .arg(service.config())
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}: {}", service.kind(), String::from_utf8_lossy(&checked.stderr));
    }
}
