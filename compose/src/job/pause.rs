//! Pauses that a person ordered (`kmsctl wallet pause`): why answers may not come although everything is well.

use std::collections::BTreeMap;
use std::time::Duration;

use kms_emitter::command::Standing;
use kms_runtime::kafka::{KafkaConfig, StoredRecord, read_to_end};
use kms_schemas::record::WalletRecord;
use kms_schemas::topics::Topics;

use super::audit::codec_of;
use crate::description::{Description, NodePlace};
use crate::error::StackError;
use crate::progress::Progress;

const SERVICE: &str = "main-job";
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The nodes' accounts that are paused, in words. Where the topics cannot be read, nothing is known of a pause.
pub(super) async fn paused(stack: &Description) -> Vec<String> {
    let mut said = Vec::new();
    for node in &stack.nodes {
        for (chain_id, standing) in standings(stack, node).await.unwrap_or_default() {
            if let Some(pause) = standing.paused() {
                said.push(format!(
                    "node {}: sending on chain {chain_id} is paused by {}: no answer leaves until `kmsctl wallet resume` (topic prefix {})",
                    node.number,
                    pause.who(),
                    node.prefix
                ));
            }
        }
    }
    said
}

/// What `emitter.commands` says of the node's account on each chain.
async fn standings(stack: &Description, node: &NodePlace) -> Option<BTreeMap<u64, Standing>> {
    let topics = Topics::new(&node.prefix);
    let codec = codec_of(stack, &topics).await.ok()?;
    let kafka = KafkaConfig {
        bootstrap_servers: stack.kafka.clone(),
        topic_prefix: node.prefix.clone(),
        ..KafkaConfig::default()
    };
    let sender = node.sender;
    let read = tokio::task::spawn_blocking(move || {
        let mut standings: BTreeMap<u64, Standing> = BTreeMap::new();
        let topic = topics.commands();
        let take = |record: StoredRecord| {
            let decoded = codec.decode::<WalletRecord>(topic, record.value.as_deref().unwrap_or_default());
            if let Some(ours) = decoded.ok().filter(|ours| ours.sender == sender) {
                standings.entry(ours.chain_id).or_default().take(record.offset, ours);
            }
        };
        read_to_end(&kafka, SERVICE, topic, 0, None, PATIENCE, take).ok()?;
        Some(standings)
    });
    read.await.ok()?
}

/// Says which accounts are paused, until dropped.
pub(super) struct Lookout(tokio::task::JoinHandle<()>);

impl Drop for Lookout {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lookout {
    /// Looks again and again beside the load, and says each pause once.
    pub(super) fn start(stack: &Description, progress: &Progress) -> Self {
        let (stack, progress) = (stack.clone(), progress.clone());
        Self(tokio::spawn(async move {
            let mut said = Vec::new();
            loop {
                let lines = paused(&stack).await;
                lines.iter().filter(|line| !said.contains(*line)).for_each(|line| progress.say(&format!("! {line}")));
                said = lines;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }))
    }
}

/// The same error, and beside it which accounts are paused.
pub(super) async fn explained(stack: &Description, error: StackError) -> StackError {
    match error {
        StackError::Job(text) => {
            let lines: Vec<String> = std::iter::once(text).chain(paused(stack).await).collect();
            StackError::Job(lines.join("\n"))
        }
        other => other,
    }
}
