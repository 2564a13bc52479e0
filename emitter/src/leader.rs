//! One active emitter per chain and transaction sender: whoever holds the one partition of `emitter.leader`.
//!
//! Leadership only decides who tries; safety is the journal's fencing. The group is classic and dynamic with short
//! sessions, and cooperative, so that a standby that joins does not take the partition from the one that works.
//!
//! A client that failed for good, or that the group does not let in although Kafka answers, is replaced: one that lost its
//! brokers may never ask again. A standby is in the group with nothing assigned, for as long as the other works, and hears
//! nothing of it; so the client's own word on its membership counts, which it gives with its statistics.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use kms_runtime::kafka::{KafkaConfig, LogContext};
use kms_runtime::shutdown::{Exit, Stopped};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, ClientContext};
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
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Leadership {
    /// Joins the election. Returns at once.
    ///
    /// # Errors
    /// The client library refuses the settings, or there is no thread.
    pub fn contend(config: &KafkaConfig, topic: &str, chain_id: u64, sender: Address) -> Result<Self, LeadershipError> {
        Self::with_patience(config, topic, (chain_id, sender), PATIENCE)
    }

    fn with_patience(
        config: &KafkaConfig,
        topic: &str,
        (chain_id, sender): (u64, Address),
        patience: Patience,
    ) -> Result<Self, LeadershipError> {
        let (tell, role) = watch::channel(Role::Joining);
        let group = group(&config.topic_prefix, chain_id, sender);
        let mut settings = config.consumer("emitter", &group);
        settings
            // A standby hears with a heartbeat that it leads: the take-over lasts no longer than the session of the dead.
            .set("heartbeat.interval.ms", (config.session_timeout_ms / 12).max(1).to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "latest")
            .set("max.poll.interval.ms", "60000")
            .set("statistics.interval.ms", patience.statistics.as_millis().to_string());
        let candidates = Candidates { settings, plain: config.client("emitter"), topic: topic.to_owned(), patience };
        // Wrong settings are told at once.
        let first = candidates.client()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("emitter-leader".to_owned())
            .spawn(move || candidates.run(first, &tell, &stopped))
            .map_err(LeadershipError::Thread)?;
        Ok(Self { role, stop, thread: Some(thread) })
    }

    /// Waits until this process no longer leads.
    pub async fn lost(&mut self) {
        let _ = self.role.wait_for(|role| *role != Role::Leader).await;
    }

    /// Whether this process leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.role.borrow() == Role::Leader && self.role.has_changed().is_ok()
    }

    /// A second view, for a task of its own. Its end is that of the election's thread: [`Self::failure`] says why.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Why the election's thread has ended.
    pub fn failure(&mut self) -> Stopped {
        let outcome = self.thread.take().map(JoinHandle::join);
        match outcome {
            Some(Ok(Err(text))) => Stopped::new(Exit::KafkaFatal, &kms_runtime::codes::KAFKA_FATAL, text),
            _ => {
                let text = "the thread that takes part in the election has ended".to_owned();
                Stopped::new(Exit::Internal, &kms_runtime::codes::INTERNAL, text)
            }
        }
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

/// How long what is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Between two words of the client on its membership.
    statistics: Duration,
    /// A standby that the client does not call a member for so long is none.
    standby: Duration,
    /// A client that is no member for so long is replaced if Kafka answers. A group lets a member in within seconds.
    join: Duration,
}

const PATIENCE: Patience =
    Patience { statistics: Duration::from_secs(3), standby: Duration::from_secs(12), join: Duration::from_secs(30) };

/// So often in a row a client is replaced before the election is given up.
const REPLACED_IN_A_ROW: u32 = 10;
/// A client that lasted for so long was no failure at the start.
const LASTING: Duration = Duration::from_secs(300);
/// Pause before a client is replaced.
const BEFORE_ANEW: Duration = Duration::from_secs(1);
/// Longest wait for a broker's answer to a client of its own.
const ANSWER: Duration = Duration::from_secs(3);

/// The clients that take part in the election, one after the other.
struct Candidates {
    settings: ClientConfig,
    /// Of a client without a group.
    plain: ClientConfig,
    topic: String,
    patience: Patience,
}

/// A client that takes part.
struct Candidate {
    consumer: BaseConsumer<Election>,
    seat: Arc<Seat>,
    began: Instant,
    /// Not before this moment it is asked whether Kafka answers.
    ask_at: Instant,
}

impl Candidates {
    fn client(&self) -> Result<Candidate, KafkaError> {
        let began = Instant::now();
        let seat = Arc::new(Seat { role: Mutex::new(Role::Joining), member_at: Mutex::new(began) });
        let consumer: BaseConsumer<Election> =
            self.settings.create_with_context(Election { seat: Arc::clone(&seat) })?;
        consumer.subscribe(&[&self.topic])?;
        Ok(Candidate { consumer, seat, began, ask_at: began + self.patience.join })
    }

    /// Takes part until stopped. The sender of roles lives as long as this does.
    fn run(&self, first: Candidate, tell: &watch::Sender<Role>, stop: &CancellationToken) -> Result<(), String> {
        const STEP: Duration = Duration::from_millis(100);
        let mut candidate = first;
        let mut replaced = 0;
        while !stop.is_cancelled() {
            let failure = match candidate.consumer.poll(STEP) {
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Some(error.to_string()),
                Some(Err(error)) => {
                    tracing::debug!(%error, "the election's consumer goes on after an error");
                    None
                }
                _ => None,
            };
            let failure = failure
                .or_else(|| candidate.consumer.client().fatal_error().map(|(_, text)| text))
                .or_else(|| self.stalled(&mut candidate));
            let Some(failure) = failure else {
                let role = candidate.seat.role(Instant::now(), self.patience.standby);
                tell.send_if_modified(|told| std::mem::replace(told, role) != role);
                continue;
            };
            tell.send_replace(Role::Joining);
            replaced = if candidate.began.elapsed() > LASTING { 1 } else { replaced + 1 };
            if replaced > REPLACED_IN_A_ROW {
                close_aside(candidate);
                return Err(format!("the election of the active emitter failed {replaced} times in a row: {failure}"));
            }
            tracing::warn!(failure, "the election's client is replaced");
            std::thread::sleep(BEFORE_ANEW);
            let next = self.client().map_err(|error| error.to_string())?;
            close_aside(std::mem::replace(&mut candidate, next));
        }
        candidate.consumer.unsubscribe();
        candidate.consumer.poll(STEP);
        tell.send_replace(Role::Standby);
        Ok(())
    }

    /// That the group does not let this client in although Kafka answers. In an outage of Kafka a new client would do no better.
    fn stalled(&self, candidate: &mut Candidate) -> Option<String> {
        let now = Instant::now();
        let outside = candidate.seat.outside_for(now);
        if outside < self.patience.join || now < candidate.ask_at {
            return None;
        }
        candidate.ask_at = now + self.patience.join;
        let plain: BaseConsumer<LogContext> = self.plain.create_with_context(LogContext).ok()?;
        plain.fetch_metadata(Some(&self.topic), ANSWER).ok()?;
        Some(format!("Kafka answers, and the client is outside of the group for {} s", outside.as_secs()))
    }
}

/// Closing a client that hangs may hang.
fn close_aside(candidate: Candidate) {
    let closing = std::thread::Builder::new().name("emitter-leader-closing".to_owned());
    if let Err(error) = closing.spawn(move || drop(candidate)) {
        tracing::warn!(%error, "there is no thread to close a client of the election");
    }
}

/// What one client is in the group.
struct Seat {
    role: Mutex<Role>,
    /// When it last was a member, by its own word.
    member_at: Mutex<Instant>,
}

impl Seat {
    fn set(&self, change: impl FnOnce(Role) -> Role) {
        let mut role = self.role.lock().unwrap_or_else(PoisonError::into_inner);
        *role = change(*role);
    }

    fn is_member(&self, now: Instant) {
        *self.member_at.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn outside_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.member_at.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A leader hears that it lost the partition; a standby, who has nothing to lose, hears nothing.
    fn role(&self, now: Instant, patience: Duration) -> Role {
        match *self.role.lock().unwrap_or_else(PoisonError::into_inner) {
            Role::Standby if self.outside_for(now) > patience => Role::Joining,
            role => role,
        }
    }
}

struct Election {
    seat: Arc<Seat>,
}

impl ClientContext for Election {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext::write_log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        if statistics.cgrp.is_some_and(|group| group.state == "up" && group.join_state == "steady") {
            self.seat.is_member(Instant::now());
        }
    }

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
            self.seat.set(|_| Role::Joining);
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(partitions) = rebalance else { return };
        self.seat.is_member(Instant::now());
        let is_assigned = partitions.count() > 0;
        self.seat.set(|role| match role {
            _ if is_assigned => Role::Leader,
            Role::Joining => Role::Standby,
            role => role,
        });
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    const TOPIC: &str = "leader";
    const LIMIT: Duration = Duration::from_secs(60);
    /// The mock takes seconds for every rebalance.
    const SHORT: Patience = Patience {
        statistics: Duration::from_millis(100),
        standby: Duration::from_secs(10),
        join: Duration::from_secs(12),
    };

    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        cluster
    }

    fn contend(cluster: &MockCluster<'_, DefaultProducerContext>) -> Leadership {
        let config = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        Leadership::with_patience(&config, TOPIC, (1, Address::ZERO), SHORT).unwrap()
    }

    async fn becomes(leadership: &Leadership, wanted: Role) {
        let mut role = leadership.watch();
        let reached = tokio::time::timeout(LIMIT, role.wait_for(|role| *role == wanted)).await;
        assert!(reached.is_ok_and(|reached| reached.is_ok()), "{wanted:?} is not reached");
    }

    #[tokio::test]
    async fn p6_a_client_that_failed_for_good_is_replaced_and_leads_again() {
        let cluster = cluster();
        let mut leadership = contend(&cluster);
        becomes(&leadership, Role::Leader).await;
        cluster.request_errors(RDKafkaApiKey::Heartbeat, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
        tokio::time::timeout(LIMIT, leadership.lost()).await.expect("the failure shows");
        becomes(&leadership, Role::Leader).await;
        leadership.resign();
    }

    #[tokio::test]
    async fn p6_a_standby_stays_one_for_as_long_as_the_other_works_and_takes_over_then() {
        let cluster = cluster();
        let first = contend(&cluster);
        becomes(&first, Role::Leader).await;
        let second = contend(&cluster);
        becomes(&second, Role::Standby).await;
        // For longer than a client without a seat has: nothing is heard of it.
        let mut role = second.watch();
        role.mark_unchanged();
        let changed = tokio::time::timeout(SHORT.join * 3 / 2, role.changed()).await;
        assert!(changed.is_err(), "it became {:?}", *role.borrow());
        assert!(first.leads());
        first.resign();
        becomes(&second, Role::Leader).await;
        second.resign();
    }

    #[tokio::test]
    async fn p6_an_election_whose_thread_has_ended_says_so() {
        let cluster = cluster();
        let mut leadership = contend(&cluster);
        becomes(&leadership, Role::Leader).await;
        leadership.stop.cancel();
        let mut role = leadership.watch();
        while role.changed().await.is_ok() {}
        assert!(!leadership.leads());
        assert_eq!(leadership.failure().exit, Exit::Internal);
    }

    #[test]
    fn p6_a_standby_that_no_group_holds_is_none_and_a_client_that_no_group_lets_in_is_replaced_if_kafka_answers() {
        let cluster = cluster();
        let config = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        let candidates = Candidates {
            settings: config.consumer("test", "group"),
            plain: config.client("test"),
            topic: TOPIC.to_owned(),
            patience: Patience { join: Duration::ZERO, ..SHORT },
        };
        let mut candidate = candidates.client().unwrap();
        assert!(candidates.stalled(&mut candidate).is_some(), "no poll, so no member");
        candidate.seat.is_member(Instant::now() + LIMIT);
        assert!(Candidates { patience: SHORT, ..candidates }.stalled(&mut candidate).is_none());

        let (seat, now) = (&candidate.seat, Instant::now());
        seat.is_member(now);
        for (told, later) in [(Role::Standby, Role::Joining), (Role::Leader, Role::Leader)] {
            seat.set(|_| told);
            assert_eq!(seat.role(now, SHORT.standby), told);
            assert_eq!(seat.role(now + SHORT.standby * 2, SHORT.standby), later);
        }
    }

    #[test]
    fn a_client_is_not_replaced_while_kafka_is_away() {
        let settings = || {
            let mut settings = ClientConfig::new();
            settings.set("bootstrap.servers", "127.0.0.1:9").set("group.id", "group");
            settings
        };
        let patience = Patience { join: Duration::ZERO, ..SHORT };
        let candidates = Candidates { settings: settings(), plain: settings(), topic: TOPIC.to_owned(), patience };
        let mut candidate = candidates.client().unwrap();
        assert!(candidates.stalled(&mut candidate).is_none());
    }
}
