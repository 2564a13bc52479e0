//! Looks after what a stack of containers stands on, so that an outage is told from a loss, and said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::description::Description;
use crate::error::chain_of;
use crate::http::http_client;
use crate::progress::Progress;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// Something to be looked at.
#[derive(Clone, Debug)]
enum Part {
    /// Any of these accepts connections.
    Kafka(Vec<String>),
    /// A JSON-RPC node.
    Chain(String),
    /// Anything below 500 is an answer.
    Http(String),
    /// `/healthz` says yes.
    Service(String),
}

/// The looks, until dropped.
pub(super) struct Watch {
    outage: Duration,
    state: Arc<Mutex<State>>,
    looking: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// What is down, and why.
    down: BTreeMap<String, String>,
    /// When something was last seen to be down.
    last_trouble: Option<Instant>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(looking) = &self.looking {
            looking.abort();
        }
    }
}

const KAFKA: &str = "Kafka";
const REGISTRY: &str = "the schema registry";

/// Tries again what fails, for as long as an outage is borne.
pub(super) async fn through<T, E>(outage: Duration, mut work: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match work().await {
            Err(_) if begun.elapsed() < outage => tokio::time::sleep(LOOK_EVERY).await,
            done => return done,
        }
    }
}

impl Watch {
    /// Looks at everything again and again, unless no outage is to be borne.
    pub(super) fn start(stack: &Description, progress: &Progress, outage: Duration) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let looking = (!outage.is_zero()).then(|| {
            let (parts, state, progress) = (parts(stack), Arc::clone(&state), progress.clone());
            tokio::spawn(look(parts, state, progress))
        });
        Self { outage, state, looking }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether a silence of that length is no reason yet to give up: something is or was down a moment ago, and not for too long.
    pub(super) fn excuses(&self, silence: Duration, patience: Duration) -> bool {
        let state = self.state();
        silence < self.outage && state.last_trouble.is_some_and(|at| at.elapsed() < patience)
    }

    /// What is down now, in words.
    pub(super) fn down(&self) -> Vec<String> {
        self.state().down.iter().map(|(name, why)| format!("{name} is down: {why}")).collect()
    }

    /// Waits until what the topics are read with is not known to be down, or for as long as an outage is borne.
    pub(super) async fn wait_for_topics(&self) {
        let begun = Instant::now();
        let is_down = || [KAFKA, REGISTRY].iter().any(|name| self.state().down.contains_key(*name));
        while begun.elapsed() < self.outage && is_down() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How long an outage is borne.
    pub(super) fn outage(&self) -> Duration {
        self.outage
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parts(stack: &Description) -> Vec<(String, Part)> {
    let brokers = stack.kafka.split(',').map(|broker| broker.trim().to_owned()).collect();
    let mut parts = vec![(KAFKA.to_owned(), Part::Kafka(brokers))];
    let registry = stack.registry.iter().map(|url| (REGISTRY.to_owned(), Part::Http(format!("{url}/subjects"))));
    parts.extend(registry);
    let chains = stack.chains().into_iter().map(|chain| (format!("the {} chain", chain.name), Part::Chain(chain.url)));
    parts.extend(chains);
    parts.extend(stack.buckets.iter().map(|url| (format!("the bucket {url}"), Part::Http(url.clone()))));
    for node in &stack.nodes {
        let services = node.services.iter();
        parts.extend(services.map(|service| {
            (format!("{} of node {}", service.kind, node.number), Part::Service(format!("{}/healthz", service.url)))
        }));
        let core =
            node.control.iter().map(|url| (format!("KMS Core of node {}", node.number), Part::Http(url.clone())));
        parts.extend(core);
    }
    parts
}

async fn look(parts: Vec<(String, Part)>, state: Arc<Mutex<State>>, progress: Progress) {
    let client = http_client();
    loop {
        let looks = join_all(parts.iter().map(async |(name, part)| (name, look_at(&client, part).await))).await;
        for (name, look) in looks {
            let mut state = lock(&state);
            match look {
                Ok(()) => {
                    if state.down.remove(name).is_some() {
                        progress.say(&format!("{name} is there again"));
                    }
                }
                Err(why) => {
                    state.last_trouble = Some(Instant::now());
                    if state.down.insert(name.clone(), why.clone()).is_none() {
                        progress.say(&format!("waiting for {name}: {why}"));
                    }
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look_at(client: &reqwest::Client, part: &Part) -> Result<(), String> {
    let said = |error: reqwest::Error| chain_of(&error);
    match part {
        Part::Kafka(brokers) => {
            let mut last = Err("no broker is named".to_owned());
            for broker in brokers {
                let connected = tokio::time::timeout(LOOK_LIMIT, TcpStream::connect(broker)).await;
                last = match connected {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => Err(format!("{broker}: {error}")),
                    Err(_) => Err(format!("{broker}: no connection within {} s", LOOK_LIMIT.as_secs())),
                };
            }
            last
        }
        Part::Chain(url) => {
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []});
            let answer = client.post(url).json(&body).timeout(LOOK_LIMIT).send().await.map_err(said)?;
            let answer: Value = answer.json().await.map_err(said)?;
            if answer["result"].is_string() { Ok(()) } else { Err(format!("{url} answers {answer}")) }
        }
        Part::Http(url) => {
            let status = client.get(url).timeout(LOOK_LIMIT).send().await.map_err(said)?.status();
            if status.is_server_error() { Err(format!("it answers {status}")) } else { Ok(()) }
        }
        Part::Service(url) => {
            let answer = client.get(url).timeout(LOOK_LIMIT).send().await.map_err(said)?;
            let status = answer.status();
            if status.is_success() {
                return Ok(());
            }
            Err(format!("{url} answers {status}: {}", answer.text().await.unwrap_or_default()))
        }
    }
}
