//! The exactly-once stage on a real broker: what a mock cluster would not tell.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kms_runtime::http::Status;
use kms_runtime::stage::commit_metadata::{self, DEFAULT_MAX_CHARACTERS};
use kms_runtime::stage::ledger::NextOffset;
use kms_runtime::stage::runs::Runs;
use kms_runtime::stage::{MissingOffsets, StageConfig, StageError};
use kms_stack::parts::{Kafka, KafkaOptions};
use kms_tests::stage::{Echo, Lab, Seen, WORKER_LISTENS};
use kms_tests::{eventually, kafka, new_workspace, prefix, program};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const LIMIT: Duration = Duration::from_secs(180);

/// A broker given by the environment is used instead of the shared one.
async fn bootstrap() -> String {
    match std::env::var("KMS_TEST_BOOTSTRAP") {
        Ok(bootstrap) => bootstrap,
        Err(_) => kafka().await.bootstrap_servers().to_owned(),
    }
}

async fn lab(test: &str, partitions: i32) -> Lab {
    // A broker of the environment outlives the run.
    let prefix = format!("{}-{}", prefix(test), std::process::id());
    Lab::new(&bootstrap().await, &prefix, partitions).await
}

/// `count` records with keys of their own, spread over the partitions.
fn records(lab: &Lab, count: usize, value: &str) -> Vec<(i32, String, String)> {
    let partitions = usize::try_from(lab.partitions).unwrap();
    (0..count).map(|index| ((index % partitions) as i32, format!("key-{index}"), value.to_owned())).collect()
}

/// Waits until the topic holds at least that many outcomes.
async fn wait_for(lab: &Lab, topic: &str, count: usize) -> Vec<Seen> {
    eventually(&format!("{count} outcomes in {topic}"), LIMIT, async || {
        let seen = lab.seen(topic).await;
        (seen.len() >= count).then_some(seen)
    })
    .await
}

fn assert_each_once(seen: &[Seen]) {
    let distinct: BTreeSet<(i32, i64)> = seen.iter().map(|seen| (seen.partition, seen.offset)).collect();
    assert_eq!(distinct.len(), seen.len(), "an input has more than one outcome");
}

fn words(seen: &[Seen], word: &str) -> usize {
    seen.iter().filter(|seen| seen.what.split(' ').any(|found| found == word)).count()
}

#[tokio::test]
async fn p2_what_was_handled_is_not_handled_again_after_a_restart() {
    let lab = lab("stage-restart", 3).await;
    lab.feed(records(&lab, 300, "echo")).await;
    let first = lab.start(lab.config("0"), lab.echo());
    wait_for(&lab, "out", 300).await;
    first.stop().await.unwrap();
    lab.feed(records(&lab, 30, "echo")).await;
    let second = lab.start(lab.config("0"), lab.echo());
    wait_for(&lab, "out", 330).await;
    second.stop().await.unwrap();
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!(seen.len(), 330);
}

#[tokio::test]
async fn p2_the_longest_metadata_is_taken_by_the_broker_and_read_back() {
    let lab = lab("stage-metadata", 1).await;
    // Every second record was finished: nothing but the full bitmap holds that.
    let span = i64::try_from(commit_metadata::bitmap_capacity(DEFAULT_MAX_CHARACTERS)).unwrap();
    let finished: Runs = (1..=span).filter(|offset| offset % 2 == 0).collect();
    let text = commit_metadata::encode(NextOffset(0), &finished, DEFAULT_MAX_CHARACTERS).unwrap();
    assert_eq!(text.len(), DEFAULT_MAX_CHARACTERS);
    let longer = lab.commit(0, 0, &format!("{text}AA")).await.unwrap_err();
    assert!(matches!(longer, KafkaError::Transaction(_)), "{longer}");
    lab.commit(0, 0, &text).await.unwrap();

    lab.feed(records(&lab, usize::try_from(span).unwrap() + 1, "echo")).await;
    let stage = lab.start(lab.config("0"), lab.echo());
    // The writer's transactions leave markers in the offsets, so that not every offset below the span is a record.
    let offsets: Vec<i64> = lab.read("in").await.iter().map(|record| record.offset).collect();
    let expected: BTreeSet<i64> = offsets.into_iter().filter(|offset| !finished.contains(*offset)).collect();
    wait_for(&lab, "out", expected.len()).await;
    stage.stop().await.unwrap();
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!(seen.iter().map(|seen| seen.offset).collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn metadata_of_somebody_else_replays_and_never_skips() {
    let lab = lab("stage-foreign", 1).await;
    lab.feed(records(&lab, 20, "echo")).await;
    lab.commit(0, 0, "written by another tool").await.unwrap();
    let stage = lab.start(lab.config("0"), lab.echo());
    assert_eq!(wait_for(&lab, "out", 20).await.len(), 20);
    stage.stop().await.unwrap();
}

#[tokio::test]
async fn p2_missing_offsets_are_rebuilt_from_the_outcomes() {
    let lab = lab("stage-rebuild", 2).await;
    let mut mixed = records(&lab, 100, "echo");
    mixed[10].2 = "hang".to_owned();
    mixed[11].2 = "hang".to_owned();
    mixed[40].2 = "give-up".to_owned();
    lab.feed(mixed).await;
    // Nothing is deferred, so that the hanging ones stay unfinished.
    let patient = |lab: &Lab| Echo { later: None, ..lab.echo() };
    let first = lab.start(quick_to_stop(lab.config("0")), patient(&lab));
    wait_for(&lab, "out", 97).await;
    wait_for(&lab, "dead", 1).await;
    first.stop().await.unwrap();
    eventually("the group is empty and deleted", LIMIT, async || lab.delete_group().await.then_some(())).await;
    assert_eq!(lab.committed(0).await.0, None);

    let echo = patient(&lab);
    echo.open.send_replace(true);
    let second = lab.start(lab.config("0"), echo);
    wait_for(&lab, "out", 99).await;
    second.stop().await.unwrap();
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!((seen.len(), lab.seen("dead").await.len()), (99, 1));
}

#[tokio::test]
async fn p2_a_start_without_offsets_is_refused_where_the_outcomes_do_not_tell() {
    let lab = lab("stage-refused", 1).await;
    lab.feed(records(&lab, 5, "echo")).await;
    let blind = |lab: &Lab| StageConfig { outcome_topics: Vec::new(), ..lab.config("0") };
    let error = lab.start(blind(&lab), lab.echo()).failure().await;
    assert!(matches!(error, StageError::MissingOffset { .. }), "{error}");
    // What an operator decides is done.
    let decided = StageConfig { missing_offsets: MissingOffsets::StartOver, ..blind(&lab) };
    let stage = lab.start(decided, lab.echo());
    wait_for(&lab, "out", 5).await;
    stage.stop().await.unwrap();
}

#[tokio::test]
async fn p2_no_transaction_before_the_first_assignment() {
    let lab = lab("stage-unassigned", 1).await;
    lab.feed(records(&lab, 10, "echo")).await;
    let owner = lab.start(lab.config("0"), lab.echo());
    wait_for(&lab, "out", 10).await;
    let before = eventually("the owner's commit", LIMIT, async || {
        let committed = lab.committed(0).await;
        (committed.0 == Some(10)).then_some(committed)
    })
    .await;
    // There is one partition, so that the second instance joins and gets none.
    let idle = lab.start(lab.config("1"), lab.echo());
    eventually("the second instance is in the group", LIMIT, async || {
        (idle.health.snapshot().get("stage") == Some(&Status::Ready)).then_some(())
    })
    .await;
    idle.stop().await.unwrap();
    assert_eq!(lab.committed(0).await, before);
    lab.feed(records(&lab, 10, "echo")).await;
    assert_each_once(&wait_for(&lab, "out", 20).await);
    owner.stop().await.unwrap();
}

#[tokio::test]
async fn p5_an_output_above_the_limit_becomes_a_dead_letter_and_stops_nobody() {
    let lab = lab("stage-oversize", 1).await;
    let mut mixed = records(&lab, 60, "echo");
    mixed[7].2 = "big 1000001".to_owned();
    lab.feed(mixed).await;
    let stage = lab.start(lab.config("0"), lab.echo());
    wait_for(&lab, "out", 59).await;
    let dead = wait_for(&lab, "dead", 1).await;
    stage.stop().await.unwrap();
    assert!(dead[0].what.starts_with("KC-0220"), "{dead:?}");
    assert_eq!(lab.seen("out").await.len(), 59);
}

#[tokio::test]
async fn p5_an_output_that_the_broker_refuses_is_found_among_others() {
    let lab = lab("stage-refusal", 1).await;
    let mut mixed = records(&lab, 60, "echo");
    mixed[7].2 = "big 1500000".to_owned();
    mixed[44].2 = "big 1500000".to_owned();
    lab.feed(mixed).await;
    // The stage is told a higher limit than the topic has: only the broker knows.
    let config = StageConfig { max_output_bytes: 2_000_000, ..lab.config("0") };
    let stage = lab.start(config, lab.echo());
    wait_for(&lab, "out", 58).await;
    let dead = wait_for(&lab, "dead", 2).await;
    stage.stop().await.unwrap();
    assert!(dead.iter().all(|dead| dead.what.starts_with("KC-0221")), "{dead:?}");
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!(seen.len(), 58);
}

#[tokio::test]
async fn p5_a_request_that_hangs_is_deferred_and_its_partition_flows_on() {
    let lab = lab("stage-hang", 1).await;
    let mut mixed = records(&lab, 100, "echo");
    mixed[0].2 = "hang".to_owned();
    lab.feed(mixed).await;
    let config = StageConfig { defer_after: Duration::from_secs(3), ..lab.config("0") };
    let stage = lab.start(config, lab.echo());
    wait_for(&lab, "out", 99).await;
    let later = wait_for(&lab, "later", 1).await;
    assert_eq!(later[0].offset, 0);
    eventually("the committed offset passes it", LIMIT, async || (lab.committed(0).await.0 >= Some(100)).then_some(()))
        .await;
    stage.stop().await.unwrap();
}

#[tokio::test]
async fn p5_a_record_that_holds_up_half_the_window_is_deferred() {
    let lab = lab("stage-window", 1).await;
    let mut mixed = records(&lab, 400, "echo");
    mixed[0].2 = "hang".to_owned();
    lab.feed(mixed).await;
    let config = StageConfig { window: 100, ..lab.config("0") };
    let stage = lab.start(config, lab.echo());
    wait_for(&lab, "out", 399).await;
    assert_eq!(wait_for(&lab, "later", 1).await.len(), 1);
    stage.stop().await.unwrap();
}

#[tokio::test]
async fn retries_panics_and_verdicts_end_in_one_outcome_each() {
    let lab = lab("stage-outcomes", 2).await;
    let mut mixed = records(&lab, 20, "echo");
    mixed[3].2 = "retry".to_owned();
    mixed[4].2 = "give-up".to_owned();
    mixed[5].2 = "panic".to_owned();
    lab.feed(mixed).await;
    let config = StageConfig { max_attempts: 2, ..lab.config("0") };
    let stage = lab.start(config, lab.echo());
    let seen = wait_for(&lab, "out", 18).await;
    let dead = wait_for(&lab, "dead", 2).await;
    stage.stop().await.unwrap();
    assert_eq!((seen.len(), words(&seen, "retry")), (18, 1));
    assert_eq!((words(&dead, "KC-0999"), words(&dead, "KC-0222")), (1, 1), "{dead:?}");
}

#[tokio::test]
async fn p2_a_transaction_of_a_killed_predecessor_hides_nothing_from_readers() {
    let lab = lab("stage-predecessor", 1).await;
    lab.feed(records(&lab, 5, "echo")).await;
    let ids = lab.ids("0");
    let (topic, mut settings) = (lab.topic("out"), lab.kafka.producer("test", &ids.transactional_id, 1_000_000));
    // Without fencing, readers would wait for longer than this test.
    settings.set("transaction.timeout.ms", "300000");
    let predecessor = move || {
        let producer: BaseProducer = settings.create().unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        let record = BaseRecord::to(&topic).partition(0).key("k").payload("never committed");
        producer.send(record).map_err(|(error, _)| error).unwrap();
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(1));
        }
        // Neither committed nor aborted, like after kill -9.
        std::mem::forget(producer);
    };
    tokio::task::spawn_blocking(predecessor).await.unwrap();
    let stage = lab.start(lab.config("0"), lab.echo());
    let seen = wait_for(&lab, "out", 5).await;
    stage.stop().await.unwrap();
    assert_eq!(seen.len(), 5);
}

#[tokio::test]
async fn a_second_process_of_the_same_instance_fences_the_first() {
    let lab = lab("stage-fenced", 1).await;
    lab.feed(records(&lab, 5, "echo")).await;
    let first = lab.start(lab.config("0"), lab.echo());
    wait_for(&lab, "out", 5).await;
    let second = lab.start(lab.config("0"), lab.echo());
    lab.feed(records(&lab, 5, "echo")).await;
    let error = first.failure().await;
    assert!(matches!(error, StageError::Fenced { .. }), "{error}");
    assert_each_once(&wait_for(&lab, "out", 10).await);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn p6_the_smallest_limits_only_slow_things_down() {
    let lab = lab("stage-limits", 3).await;
    lab.feed(records(&lab, 900, "echo")).await;
    let config = StageConfig {
        slots: 3,
        window: 20,
        bytes_in_flight: 500,
        max_batch_records: 7,
        max_batch_bytes: 1000,
        ..lab.config("0")
    };
    let stage = lab.start(config, lab.echo());
    wait_for(&lab, "out", 900).await;
    stage.stop().await.unwrap();
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!(seen.len(), 900);
}

#[tokio::test]
async fn p2_a_broker_that_goes_away_and_comes_back_doubles_and_loses_nothing() {
    let workspace = new_workspace();
    let own = Kafka::start(&workspace, KafkaOptions { heap_mib: 256, ..KafkaOptions::default() }).await.unwrap();
    let lab = Lab::new(own.bootstrap_servers(), &prefix("stage-outage"), 3).await;
    let broker = &own.brokers()[0];
    flow_through_outages(&lab, async |outage| {
        broker.stop(Duration::from_secs(90)).await;
        tokio::time::sleep(outage).await;
        broker.start().unwrap();
        own.wait_ready().await.unwrap();
    })
    .await;
    own.stop().await;
}

/// Of a cluster with one broker, Kafka 4.3 may leave a transaction open, or end it the wrong way, when that broker is killed:
/// it skips the markers of partitions that have no leader for a moment. With replicas there is always a leader.
#[tokio::test]
async fn p2_a_killed_broker_of_three_doubles_and_loses_nothing() {
    let workspace = new_workspace();
    let own = Kafka::start(&workspace, KafkaOptions { heap_mib: 256, ..KafkaOptions::three_brokers() }).await.unwrap();
    let lab = Lab::replicated(own.bootstrap_servers(), &prefix("stage-brokers"), 3, 3).await;
    let mut brokers = own.brokers().iter();
    flow_through_outages(&lab, async |outage| {
        let broker = brokers.next().unwrap();
        broker.kill().await;
        tokio::time::sleep(outage).await;
        broker.start().unwrap();
        own.wait_ready().await.unwrap();
        // The next one goes when nothing lacks this one's copy.
        eventually("every partition has three replicas in sync", LIMIT, async || {
            own.replicas_in_sync().await.ok().filter(|fewest| *fewest == 3)
        })
        .await;
    })
    .await;
    own.stop().await;
}

/// Two outages in the flow of records; the second lasts for longer than the broker keeps a transaction open.
async fn flow_through_outages(lab: &Lab, mut outage: impl AsyncFnMut(Duration)) {
    lab.feed(records(lab, 3000, "slow 5")).await;
    let config = StageConfig { transaction_timeout: Duration::from_secs(3), slots: 6, ..lab.config("0") };
    let stage = lab.start(config, lab.echo());
    for (goal, seconds) in [(300, 0), (1000, 5)] {
        wait_for(lab, "out", goal).await;
        outage(Duration::from_secs(seconds)).await;
    }
    wait_for(lab, "out", 3000).await;
    stage.stop().await.unwrap();
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!(seen.len(), 3000);
}

#[tokio::test]
async fn p2_kill_9_doubles_and_loses_nothing() {
    let lab = lab("stage-kill", 4).await;
    let mut random = StdRng::seed_from_u64(7);
    lab.feed(records(&lab, 3000, "slow 2")).await;
    let mut child = Worker::start(&lab, "0");
    for kill in 1..=5_usize {
        // The kills fall into the flow: each waits for progress since the one before.
        let goal = kill * 400 + random.random_range(0..100);
        wait_for(&lab, "out", goal).await;
        child.kill();
        child = Worker::start(&lab, "0");
    }
    wait_for(&lab, "out", 3000).await;
    child.stop();
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!(seen.len(), 3000);
}

#[tokio::test]
async fn p2_a_rebalance_under_load_doubles_and_loses_nothing() {
    let lab = lab("stage-rebalance", 6).await;
    lab.feed(records(&lab, 6000, "slow 4")).await;
    let first = Worker::start(&lab, "0");
    wait_for(&lab, "out", 300).await;
    let second = Worker::start(&lab, "1");
    wait_for(&lab, "out", 1500).await;
    let third = Worker::start(&lab, "2");
    wait_for(&lab, "out", 2500).await;
    // One leaves without a word: its partitions come back when its session has ended.
    second.kill();
    wait_for(&lab, "out", 4500).await;
    let fourth = Worker::start(&lab, "3");
    wait_for(&lab, "out", 6000).await;
    for worker in [first, third, fourth] {
        worker.stop();
    }
    let seen = lab.seen("out").await;
    assert_each_once(&seen);
    assert_eq!(seen.len(), 6000);
}

fn quick_to_stop(config: StageConfig) -> StageConfig {
    StageConfig { drain_timeout: Duration::from_millis(50), ..config }
}

/// A stage in a process of its own, to be killed.
struct Worker(Child);

impl Worker {
    fn start(lab: &Lab, instance: &str) -> Self {
        let mut command = Command::new(program());
        command.arg("stage").arg(&lab.kafka.bootstrap_servers).arg(&lab.kafka.topic_prefix);
        command.arg(lab.partitions.to_string()).arg(instance);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the worker starts");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut said).expect("the worker speaks");
        assert_eq!(said.trim_end(), WORKER_LISTENS);
        Self(child)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a killed child ends");
    }

    /// SIGTERM, and a clean exit.
    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a child takes signals");
        assert!(self.0.wait().expect("a stopped child ends").success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
