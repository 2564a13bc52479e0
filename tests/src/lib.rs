//! End-to-end, fault and contract tests over the local stack.
//!
//! One test binary, `tests/end_to_end/main.rs`, one module per subject. All tests of a run share one Kafka cluster ([`kafka`]): each
//! takes a topic prefix of its own ([`prefix`]), as deployments that share a cluster do. Chains start in a moment, so every test has its
//! own. The reaper ends what is shared when the test process ends, and removes its run directory; `KMS_STACK_KEEP=1` keeps it.
//!
//! Tests wait for conditions, never for a time: [`eventually`].

pub mod aws_kms;
mod keystore;
mod proxy;
pub mod stage;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kms_stack::parts::{Anvil, Kafka, KafkaOptions};
use kms_stack::{Workspace, WorkspaceOptions};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub use keystore::keystore;
pub use proxy::Proxy;

static WORKSPACE: OnceCell<Workspace> = OnceCell::const_new();
static KAFKA: OnceCell<Kafka> = OnceCell::const_new();
static PREFIXES: AtomicU32 = AtomicU32::new(0);

/// The program under test. Cargo puts it one folder above the test binaries.
///
/// # Panics
/// When it is not there, which a test run through cargo rules out.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test binary knows its path");
    let program = test.ancestors().map(|dir| dir.join("kms-stack-under-test")).find(|path| path.is_file());
    program.expect("cargo builds kms-stack-under-test before the tests that start it")
}

/// The surroundings shared by the tests of this process.
///
/// # Panics
/// When they cannot be made.
pub async fn workspace() -> &'static Workspace {
    WORKSPACE.get_or_init(async || new_workspace()).await
}

/// Surroundings for one test alone, removed with it.
///
/// # Panics
/// When they cannot be made.
pub fn new_workspace() -> Workspace {
    let options =
        WorkspaceOptions { keep: std::env::var_os("KMS_STACK_KEEP").is_some(), ..WorkspaceOptions::new(program()) };
    Workspace::create(options).unwrap_or_else(|error| panic!("{}: {error}", error.code()))
}

/// The Kafka cluster shared by the tests of this process; started by whoever asks first. It is not to be killed or filled up: a test
/// that does so starts its own.
///
/// # Panics
/// When it does not start.
pub async fn kafka() -> &'static Kafka {
    let start = async || {
        let kafka = Kafka::start(workspace().await, KafkaOptions::default()).await;
        kafka.unwrap_or_else(|error| panic!("{}: {error}", error.code()))
    };
    KAFKA.get_or_init(start).await
}

/// A topic prefix that no other test uses, and that says which one does.
pub fn prefix(test: &str) -> String {
    format!("{test}-{}", PREFIXES.fetch_add(1, Ordering::Relaxed))
}

/// Looks again and again until `look` answers, at most for `limit`.
///
/// # Panics
/// When it does not answer in time; the message is `what`.
pub async fn eventually<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a transaction of an account that the node signs for, waits until it is mined, and returns its receipt. anvil answers before
/// the block is there, also where every transaction is a block of its own.
///
/// # Panics
/// When the node refuses it, or does not mine it in a minute.
pub async fn mined(anvil: &Anvil, transaction: Value) -> Value {
    let ask = async |method: &str, params| {
        anvil.rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    };
    let sent = ask("eth_sendTransaction", json!([transaction])).await;
    eventually("a transaction is mined", Duration::from_secs(60), async || {
        Some(ask("eth_getTransactionReceipt", json!([sent])).await).filter(|receipt| !receipt.is_null())
    })
    .await
}

/// Whether a process of that id exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = Path::new("/proc").join(pid.to_string()).join("stat");
    match std::fs::read_to_string(stat) {
        // The state follows the program's name, which is in brackets and may hold anything.
        Ok(stat) => !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), None).is_ok()
                && !Path::new("/proc/self").exists()
        }
    }
}

/// GET without credentials.
///
/// # Errors
/// The transport's.
pub async fn get(url: &str) -> reqwest::Result<reqwest::Response> {
    client().get(url).send().await
}

/// POST of a JSON body.
///
/// # Errors
/// The transport's.
pub async fn post(url: &str, body: &serde_json::Value) -> reqwest::Result<reqwest::Response> {
    client().post(url).json(body).send().await
}

/// A client with a deadline, new each time: a runtime per test must not share connections.
fn client() -> reqwest::Client {
    kms_runtime::telemetry::install_tls_provider();
    reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("a client without options is built")
}
