//! anvil: a local chain with real EVM, real receipts and an Ethereum JSON-RPC interface.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::PORT_TRIES;
use super::fetch::{NPM, ensure};
use crate::error::StackError;
use crate::http::http_client;
use crate::ports::{free_port, says_port_taken};
use crate::supervise::{Launch, Supervised};
use crate::workspace::Workspace;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// Writing the state of a long chain takes a while.
/// It writes its state.
const STOP_GRACE: Duration = Duration::from_secs(60);
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// How the chain is set up.
#[derive(Clone, Debug)]
pub struct AnvilOptions {
    /// Chain id.
    pub chain_id: u64,
    /// Interval of blocks; absent: a block per transaction, at once.
    pub block_time: Option<Duration>,
    /// Gas limit of a block.
    pub gas_limit: u64,
    /// How many development accounts hold ether.
    pub accounts: u32,
    /// Slots until a block counts as final: `safe` is this many blocks behind the head, `finalized` twice as many.
    pub slots_in_an_epoch: u64,
    /// Whether the chain survives a stop in order and a new start.
    pub persistent: bool,
    /// Further arguments, as anvil takes them.
    pub args: Vec<String>,
}

impl Default for AnvilOptions {
    fn default() -> Self {
        Self {
            chain_id: 31_337,
            block_time: None,
            // Room for thousands of answers of a quarter million gas in one block. When a transaction no longer fits, anvil 1.7.1 drops
            // those of the same account behind it, and the sender has to notice.
            gas_limit: 1_500_000_000,
            accounts: 10,
            slots_in_an_epoch: 1,
            persistent: false,
            args: Vec::new(),
        }
    }
}

impl AnvilOptions {
    /// anvil's arguments that are the same wherever it runs: all but address and state. `compose.yaml` has them too.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--chain-id={}", self.chain_id),
            format!("--gas-limit={}", self.gas_limit),
            format!("--accounts={}", self.accounts),
            format!("--slots-in-an-epoch={}", self.slots_in_an_epoch),
            // First come, first mined: what a sequencer does.
            "--order=fifo".to_owned(),
            "--no-request-size-limit".to_owned(),
            // It would log every call; errors it says all the same.
            "--quiet".to_owned(),
        ];
        arguments.extend(self.block_time.map(|interval| format!("--block-time={}", interval.as_secs_f64())));
        arguments
    }
}

/// A running chain. Dropping it ends it.
#[derive(Debug)]
pub struct Anvil {
    process: Supervised,
    options: AnvilOptions,
    port: u16,
}

impl Anvil {
    /// Starts a chain and waits until it answers with its chain id.
    ///
    /// # Errors
    /// What fetching it can fail with; [`StackError::Died`] and [`StackError::NotReady`] with the end of its log.
    pub async fn start(workspace: &Workspace, options: AnvilOptions) -> Result<Self, StackError> {
        let packages = ensure(workspace, NPM).await?;
        let program = binary(&packages)?;
        for attempt in 1.. {
            match Self::start_once(workspace, &options, &program).await {
                Err(StackError::Died { tail, .. }) if attempt < PORT_TRIES && says_port_taken(&tail) => {}
                result => return result,
            }
        }
        unreachable!("the last attempt returns its result")
    }

    async fn start_once(workspace: &Workspace, options: &AnvilOptions, program: &PathBuf) -> Result<Self, StackError> {
        let task = workspace.progress().begin("anvil 1.7.1", "starting");
        let port = free_port()?;
        let name = workspace.claim("anvil");
        let mut launch = Launch::new(&name, program)
            .args(["--host", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .args(options.arguments());
        if options.persistent {
            launch = launch.arg("--state").arg(workspace.data_dir(&name)?.join("state.json"));
        }
        let process = Supervised::new(workspace, launch.args(&options.args));
        process.start()?;
        let anvil = Self { process, options: options.clone(), port };
        anvil.wait_ready().await?;
        task.done(&format!("up at {}", anvil.url()));
        Ok(anvil)
    }

    /// Its JSON-RPC address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its chain id.
    pub fn chain_id(&self) -> u64 {
        self.options.chain_id
    }

    /// Whether blocks come at an interval, rather than one with every transaction.
    pub fn has_block_time(&self) -> bool {
        self.options.block_time.is_some()
    }

    /// Its process, to be killed, paused and started again by tests; follow with [`Anvil::wait_ready`].
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// Waits until it answers with its chain id.
    ///
    /// # Errors
    /// [`StackError::Died`] and [`StackError::NotReady`] with the end of its log.
    pub async fn wait_ready(&self) -> Result<(), StackError> {
        let client = http_client();
        self.process
            .ready(READY_LIMIT, async || {
                let answer = self.ask(&client, "eth_chainId", json!([])).await?;
                let wanted = format!("{:#x}", self.options.chain_id);
                if answer == wanted.as_str() {
                    Ok(())
                } else {
                    Err(format!("its chain id is {answer} instead of {wanted}"))
                }
            })
            .await
    }

    /// One JSON-RPC call, for what no typed client has (`anvil_*`, `evm_*`). The error is what went wrong, in words.
    ///
    /// # Errors
    /// The transport's or the node's words.
    pub async fn rpc(&self, method: &str, params: serde_json::Value) -> Result<serde_json::Value, String> {
        self.ask(&http_client(), method, params).await
    }

    async fn ask(
        &self,
        client: &reqwest::Client,
        method: &str,
        params: serde_json::Value,
    ) -> Result<serde_json::Value, String> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let request = client.post(self.url()).json(&body).timeout(CALL_LIMIT);
        let response = request.send().await.map_err(|error| error.to_string())?;
        let mut answer: serde_json::Value = response.json().await.map_err(|error| error.to_string())?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].take()),
        }
    }

    /// Stops it in order; with [`AnvilOptions::persistent`] its state is on disk afterwards.
    pub async fn stop(&self) {
        self.process.stop(STOP_GRACE).await;
    }
}

/// anvil's binary in a folder of fetched packages.
pub(super) fn binary(packages: &Path) -> Result<PathBuf, StackError> {
    Ok(packages.join("node_modules/@foundry-rs").join(native_package()?).join("bin/anvil"))
}

/// The package that holds this machine's binary. npm installs it as an optional dependency, so that no script has to run.
fn native_package() -> Result<&'static str, StackError> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("anvil-linux-amd64"),
        ("linux", "aarch64") => Ok("anvil-linux-arm64"),
        ("macos", "x86_64") => Ok("anvil-darwin-amd64"),
        ("macos", "aarch64") => Ok("anvil-darwin-arm64"),
        (os, arch) => Err(StackError::Usage(format!("there is no anvil for {os} on {arch}"))),
    }
}
