//! What the exactly-once stage itself costs: records per second through a handler that does nothing, and latency at a given rate.
//!
//! `cargo run --release -p kms-tests --example stage_throughput -- BOOTSTRAP [RECORDS] [PARTITIONS] [RATE]`, with a log filter in
//! `KMS_LOG` to see what the stage says meanwhile.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kms_runtime::{config::TelemetryConfig, telemetry::init_logs};
use kms_tests::stage::Lab;
use rdkafka::{
    ClientConfig, Message as _,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

#[tokio::main]
async fn main() {
    let log_filter = std::env::var("KMS_LOG").unwrap_or_else(|_| "error".to_owned());
    init_logs(&TelemetryConfig { log_filter, ..TelemetryConfig::default() });
    let mut arguments = std::env::args().skip(1);
    let bootstrap = arguments.next().expect("bootstrap servers");
    let mut number = |default: u64| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (records, partitions, rate) = (number(200_000), number(12), number(20));
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let partitions = i32::try_from(partitions).expect("partitions");

    let lab = Lab::new(&bootstrap, &format!("throughput-{stamp}"), partitions).await;
    let backlog = (0..records).map(|index| {
        let partition = (index % u64::from(partitions.unsigned_abs())) as i32;
        (partition, format!("{index:032}"), format!("echo {}", "x".repeat(300)))
    });
    lab.feed(backlog.collect()).await;
    let expected = usize::try_from(records).expect("records");
    let counter = Counter::start(&lab);
    let begun = Instant::now();
    let running = lab.start(lab.config("0"), lab.echo());
    let first = counter.wait(1).await;
    let last = counter.wait(expected).await;
    let flow = last.duration_since(first).as_secs_f64();
    println!(
        "backlog: {records} records over {partitions} partitions; first after {:.0} ms; {:.0} records/s from the first on",
        first.duration_since(begun).as_secs_f64() * 1e3,
        records as f64 / flow
    );
    running.stop().await.expect("the stage stops in order");

    takeover(&bootstrap, &format!("takeover-{stamp}")).await;
    for rate in [rate, 100, 1000] {
        latency(&bootstrap, &format!("latency-{stamp}-{rate}"), partitions, rate).await;
    }
}

/// How long readers wait after a process died inside a transaction and was started again.
async fn takeover(bootstrap: &str, prefix: &str) {
    let lab = Lab::new(bootstrap, prefix, 1).await;
    let counter = Counter::start(&lab);
    let one = || vec![(0, "key".to_owned(), "echo".to_owned())];
    lab.feed(one()).await;
    let first = lab.start(lab.config("0"), lab.echo());
    counter.wait(1).await;
    first.stop().await.expect("the stage stops in order");
    lab.feed(one()).await;
    let settings = lab.kafka.producer("test", &lab.ids("0").transactional_id, 1_000_000);
    let topic = lab.topic("out");
    let predecessor = move || {
        let producer: BaseProducer = settings.create().expect("a producer");
        producer.init_transactions(Duration::from_secs(10)).expect("transactions");
        producer.begin_transaction().expect("begin");
        let record = BaseRecord::to(&topic).partition(0).key("key").payload("never committed");
        producer.send(record).map_err(|(error, _)| error).expect("queued");
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(1));
        }
        // Neither committed nor aborted, like after kill -9.
        std::mem::forget(producer);
    };
    tokio::task::spawn_blocking(predecessor).await.expect("the predecessor writes");
    let begun = Instant::now();
    let running = lab.start(lab.config("0"), lab.echo());
    let freed = counter.wait(2).await;
    println!(
        "takeover: readers are free {:.0} ms after the start of a successor",
        freed.duration_since(begun).as_secs_f64() * 1e3
    );
    running.stop().await.expect("the stage stops in order");
}

/// Writes single records at a fixed rate and measures until a committed reader sees their answers.
async fn latency(bootstrap: &str, prefix: &str, partitions: i32, rate: u64) {
    let lab = Lab::new(bootstrap, prefix, partitions).await;
    let counter = Counter::start(&lab);
    let running = lab.start(lab.config("0"), lab.echo());
    lab.feed(vec![(0, "warm".to_owned(), "echo".to_owned())]).await;
    counter.wait(1).await;
    let count = usize::try_from((rate * 10).min(3000)).expect("count");
    let (topic, bootstrap) = (lab.topic("in"), bootstrap.to_owned());
    let sent = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", bootstrap).set("linger.ms", "0").create().expect("a producer");
        let begun = Instant::now();
        let mut sent = Vec::with_capacity(count);
        for index in 0..count {
            let due = begun + Duration::from_secs_f64(index as f64 / rate as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let key = format!("k{index}");
            let partition = (index % usize::try_from(partitions).expect("partitions")) as i32;
            sent.push((key.clone(), Instant::now()));
            producer
                .send(BaseRecord::to(&topic).partition(partition).key(&key).payload("echo"))
                .map_err(|(error, _)| error)
                .expect("queued");
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(10)).expect("written");
        sent
    })
    .await
    .expect("records are written");
    counter.wait(count + 1).await;
    let arrivals = counter.arrivals.lock().expect("arrivals").clone();
    let mut times: Vec<f64> = sent
        .iter()
        .filter_map(|(key, at)| {
            let (_, arrived) = arrivals.iter().find(|(arrived, _)| arrived == key.as_bytes())?;
            Some(arrived.duration_since(*at).as_secs_f64() * 1e3)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    println!(
        "{rate}/s: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, {} records",
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        times.len()
    );
    running.stop().await.expect("the stage stops in order");
}

type Arrivals = Arc<Mutex<Vec<(Vec<u8>, Instant)>>>;

/// Reads the answers as they become visible.
struct Counter {
    arrivals: Arrivals,
}

impl Counter {
    fn start(lab: &Lab) -> Self {
        let arrivals = Arrivals::default();
        let mut settings = lab.kafka.consumer("counter", "counter");
        settings.set("fetch.wait.max.ms", "500");
        let consumer: BaseConsumer = settings.create().expect("a consumer");
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in 0..lab.partitions {
            list.add_partition_offset(&lab.topic("out"), partition, rdkafka::Offset::Beginning).expect("a partition");
        }
        consumer.assign(&list).expect("an assignment");
        let seen = Arc::downgrade(&arrivals);
        std::thread::spawn(move || {
            while let Some(arrivals) = seen.upgrade() {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                    arrivals
                        .lock()
                        .expect("arrivals")
                        .push((message.key().unwrap_or_default().to_vec(), Instant::now()));
                }
            }
        });
        Self { arrivals }
    }

    /// When that many had arrived.
    async fn wait(&self, count: usize) -> Instant {
        loop {
            if let Some((_, at)) = self.arrivals.lock().expect("arrivals").get(count - 1) {
                return *at;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
