//! One active emitter per chain and transaction sender: whoever holds the one partition of `emitter.leader`.
//!
//! Leadership only decides who tries; safety is the journal's fencing. The group is classic and dynamic with short
//! sessions, and cooperative, so that a standby that joins does not take the partition from the one that works.

use std::thread::JoinHandle;
use std::time::Duration;

use alloy::primitives::Address;
use kms_runtime::kafka::{KafkaConfig, LogContext};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What this process is in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The group has not said yet.
    Joining,
    /// Another process holds the partition.
    Standby,
    /// This one does.
    Leader,
}

/// The consumer group in which emitters of one account contend: it has members while one of them runs.
#[must_use]
pub fn group(topic_prefix: &str, chain_id: u64, sender: Address) -> String {
    format!("{topic_prefix}.emitter.leader.{chain_id}.{sender:#x}")
}

/// What this process is, as the group sees it.
#[derive(Debug)]
pub struct Leadership {
    role: watch::Receiver<Role>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Leadership {
    /// Joins the election. Returns at once.
    ///
    /// # Errors
    /// The client library refuses the settings, or there is no thread.
    pub fn contend(config: &KafkaConfig, topic: &str, chain_id: u64, sender: Address) -> Result<Self, LeadershipError> {
        let (tell, role) = watch::channel(Role::Joining);
        let group = group(&config.topic_prefix, chain_id, sender);
        let mut settings = config.consumer("emitter", &group);
        settings
            // A standby hears with a heartbeat that it leads: the take-over lasts no longer than the session of the dead.
            .set("heartbeat.interval.ms", (config.session_timeout_ms / 12).max(1).to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "latest")
            .set("max.poll.interval.ms", "60000");
        let consumer: BaseConsumer<Election> = settings.create_with_context(Election { tell })?;
        consumer.subscribe(&[topic])?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("emitter-leader".to_owned())
            .spawn(move || run(&consumer, &stopped))
            .map_err(LeadershipError::Thread)?;
        Ok(Self { role, stop, thread: Some(thread) })
    }

    /// Waits until this process leads.
    pub async fn acquired(&mut self) {
        // The sender lives as long as the thread; without it there is nothing to wait for any more.
        if self.role.wait_for(|role| *role == Role::Leader).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until this process no longer leads.
    pub async fn lost(&mut self) {
        let _ = self.role.wait_for(|role| *role != Role::Leader).await;
    }

    /// Whether this process leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.role.borrow() == Role::Leader
    }

    /// A second view, for a task of its own.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Leaves the group, so that a standby takes over at once.
    pub fn resign(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Why the election cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum LeadershipError {
    /// The client library refuses.
    #[error("cannot take part in the election of the active emitter: {0}")]
    Kafka(#[from] KafkaError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

fn run(consumer: &BaseConsumer<Election>, stop: &CancellationToken) {
    const STEP: Duration = Duration::from_millis(100);
    while !stop.is_cancelled() {
        if let Some(Err(error)) = consumer.poll(STEP) {
            tracing::debug!(%error, "the election's consumer goes on after an error");
        }
    }
    consumer.unsubscribe();
    consumer.poll(STEP);
    consumer.context().tell.send_replace(Role::Standby);
}

struct Election {
    tell: watch::Sender<Role>,
}

impl ClientContext for Election {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext::write_log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        LogContext::write_error(&error, reason);
    }
}

impl ConsumerContext for Election {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance
            && partitions.count() > 0
        {
            // Lost to another member, or to a Kafka that does not answer: the group says which, when it answers.
            self.tell.send_replace(Role::Joining);
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(partitions) = rebalance else { return };
        if partitions.count() > 0 {
            self.tell.send_replace(Role::Leader);
        } else if *self.tell.borrow() == Role::Joining {
            self.tell.send_replace(Role::Standby);
        }
    }
}
