//! Services that are killed under load, and what comes of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_stack::job::{self, JobArgs};
use kms_stack::supervise::Signal;
use kms_stack::{ServiceKind, Stack};
use kms_tests::{eventually, new_workspace};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::pipeline::{assert_whole, load, stack};

/// Kills of each service in one run.
const KILLS: u32 = 10;
/// What the moments of the kills are drawn from; a failure names it.
const SEED: u64 = 20_261_124;

/// Kills `kind` at random moments and starts it again, until it was killed often enough.
async fn kill_again_and_again(stack: &Stack, kind: ServiceKind, over: &AtomicBool) -> u32 {
    let mut random = StdRng::seed_from_u64(SEED ^ kind as u64);
    let service = stack.node().service(kind);
    let mut kills = 0;
    while kills < KILLS && !over.load(Ordering::Relaxed) {
        // The moment is the subject of the test, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1_000))).await;
        service.kill().await;
        service.start().await.unwrap_or_else(|error| panic!("{kind} after kill {kills}: {error}"));
        if kind == ServiceKind::Emitter {
            // It stands by for as long as its predecessor's session lasts, and is killed at work.
            eventually("the emitter leads", Duration::from_secs(180), async || {
                service.metric("kms_connector_emitter_leader").await.filter(|leads| *leads == 1.0)
            })
            .await;
        }
        kills += 1;
    }
    kills
}

/// Two thousand requests while `kind` is killed ten times.
///
/// At `rate` per second the requests last for longer than ten starts.
async fn survives_kills(kind: ServiceKind, rate: f64) {
    let workspace = new_workspace();
    let stack = stack(&format!("kill-{kind}")).await.start(&workspace).await.unwrap();
    let args = JobArgs { rate, patience: 90, ..load(2_000) };
    let over = AtomicBool::new(false);
    let run = async {
        let report = job::run(&stack, &args, Instant::now()).await;
        over.store(true, Ordering::Relaxed);
        report
    };
    let (report, kills) = tokio::join!(run, kill_again_and_again(&stack, kind, &over));
    assert_whole(&report.unwrap());
    assert_eq!(kills, KILLS, "the load was over before {kind} was killed often enough");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p2_ingest_killed_ten_times_loses_and_doubles_nothing() {
    survives_kills(ServiceKind::Ingest, 25.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_processor_killed_ten_times_loses_and_doubles_nothing() {
    survives_kills(ServiceKind::Processor, 25.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_emitter_killed_ten_times_loses_and_doubles_nothing() {
    // The session of the one before has to end (6 s) before each is ready.
    survives_kills(ServiceKind::Emitter, 14.0).await;
}

/// Longer than the consumers' session (6 s) and than the broker lets a transaction stay open (10 s).
const SILENCE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_broker_that_is_silent_for_longer_than_a_session_stops_nobody_for_good() {
    let workspace = new_workspace();
    // A cluster of its own: this one is not to be shared.
    let stack = Stack::builder().start(&workspace).await.unwrap();
    let broker = &stack.kafka().unwrap().brokers()[0];
    let args = JobArgs { rate: 20.0, patience: 90, ..load(200) };
    let silence = async {
        let emitter = stack.node().emitter();
        eventually("the first answers are on chain", Duration::from_secs(180), async || {
            emitter.metric("kms_connector_submissions_total").await.filter(|settled| *settled > 10.0)
        })
        .await;
        broker.signal(Signal::SIGSTOP);
        // The length of the silence is the subject of the test, not a wait for something.
        tokio::time::sleep(SILENCE).await;
        broker.signal(Signal::SIGCONT);
    };
    let (report, ()) = tokio::join!(job::run(&stack, &args, Instant::now()), silence);
    assert_whole(&report.unwrap());
    for service in stack.node().services() {
        assert!(service.process().is_running(), "{} ended: {}", service.kind(), service.process().log());
    }
    stack.stop().await;
}

/// Longer than the controller lets a broker be silent (9 s): it leaves the cluster's metadata, and with it the clients'.
const ABSENCE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_brokers_that_restart_one_after_the_other_stop_nobody_for_good() {
    let workspace = new_workspace();
    let stack = Stack::builder().brokers(3).start(&workspace).await.unwrap();
    let kafka = stack.kafka().unwrap();
    let pids: Vec<_> = stack.node().services().iter().map(|service| service.process().pid()).collect();
    let args = JobArgs { rate: 20.0, patience: 90, ..load(1_600) };
    let restarts = async {
        let emitter = stack.node().emitter();
        eventually("the first answers are on chain", Duration::from_secs(180), async || {
            emitter.metric("kms_connector_submissions_total").await.filter(|settled| *settled > 10.0)
        })
        .await;
        for broker in kafka.brokers() {
            let _ = broker.kill().await;
            // The length of the absence is the subject of the test, not a wait for something.
            tokio::time::sleep(ABSENCE).await;
            broker.start().unwrap();
            kafka.wait_ready().await.unwrap();
            // As whoever restarts brokers in order: the next one when nothing lacks this one's copy.
            eventually("every partition has three replicas in sync", Duration::from_secs(120), async || {
                kafka.replicas_in_sync().await.ok().filter(|fewest| *fewest == 3)
            })
            .await;
        }
    };
    let (report, ()) = tokio::join!(job::run(&stack, &args, Instant::now()), restarts);
    assert_whole(&report.unwrap());
    let now: Vec<_> = stack.node().services().iter().map(|service| service.process().pid()).collect();
    assert_eq!(now, pids, "no restart was needed");
    stack.stop().await;
}
