//! The simulator as a program: `kms-stack simulator`.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kms_runtime::healthcheck;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::config::{Mode, SimulatorConfig};
use super::error::SimulatorError;
use super::{CoreVersion, start};

/// Runs a KMS Core simulator for one KMS node.
///
/// When it answers, it prints one line of JSON with its addresses and its signer. SIGTERM and SIGINT end it.
#[derive(Debug, Parser)]
#[command(name = "kms-stack simulator")]
struct Arguments {
    /// TOML file with the whole configuration; the options below take precedence over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Address of the gRPC services.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Address of the control endpoint.
    #[arg(long)]
    control: Option<SocketAddr>,
    /// The version of KMS Core to be.
    #[arg(long)]
    core_version: Option<CoreVersion>,
    /// Centralized or threshold.
    #[arg(long)]
    mode: Option<Mode>,
    /// This node's number, from 1.
    #[arg(long)]
    party_id: Option<u32>,
    /// Nodes there are.
    #[arg(long)]
    nodes: Option<u32>,
    /// The threshold t.
    #[arg(long)]
    threshold: Option<u32>,
    /// File that holds the signing key in hex.
    #[arg(long)]
    private_key_file: Option<PathBuf>,
    /// Directory for what survives a restart.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// An FHE key that the node holds from the start (64 hex digits); may be repeated.
    #[arg(long = "key")]
    keys: Vec<String>,
    /// Factor on every latency, wait and time limit.
    #[arg(long)]
    time_scale: Option<f64>,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What else there is to do than to run.
#[derive(Subcommand, Clone, Copy, Debug)]
enum Action {
    /// Check the configuration and end: 0 if it is right, 2 with every mistake if not.
    CheckConfig,
    /// Ask the running simulator of this configuration whether it answers: 0 if so, 1 with the reason if not.
    Healthcheck {
        /// As without: one that answers is ready for work.
        #[arg(long)]
        ready: bool,
    },
}

impl Arguments {
    fn configuration(self) -> Result<SimulatorConfig, SimulatorError> {
        let mut config = match self.config {
            None => SimulatorConfig::default(),
            Some(path) => {
                let text = std::fs::read_to_string(&path);
                SimulatorConfig::from_toml(&text.map_err(|source| SimulatorError::ConfigurationFile { path, source })?)?
            }
        };
        if self.private_key_file.is_some() {
            config.private_key = None;
            config.private_key_file = self.private_key_file;
        }
        config.listen = self.listen.unwrap_or(config.listen);
        config.control = self.control.or(config.control);
        config.version = self.core_version.unwrap_or(config.version);
        config.mode = self.mode.unwrap_or(config.mode);
        config.party_id = self.party_id.unwrap_or(config.party_id);
        config.nodes = self.nodes.unwrap_or(config.nodes);
        config.threshold = self.threshold.unwrap_or(config.threshold);
        config.state_dir = self.state_dir.or(config.state_dir);
        config.time_scale = self.time_scale.unwrap_or(config.time_scale);
        config.keys.extend(self.keys);
        Ok(config)
    }
}

/// The whole program, from its arguments (the first is its own name) to its exit code.
pub fn main_from(args: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to stdout with exit code 0, a wrong option to stderr with 2; nothing can be done if that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Some(Action::Healthcheck { .. }) = arguments.action {
        let asked = arguments.configuration().map_err(|error| error.to_string());
        return healthcheck::tell(asked.and_then(|config| answers(&config)));
    }
    let only_checks = matches!(arguments.action, Some(Action::CheckConfig));
    let ended = arguments.configuration().and_then(|config| {
        if only_checks {
            return config.check().map(drop);
        }
        let runtime = tokio::runtime::Runtime::new().map_err(|error| SimulatorError::Server(error.to_string()))?;
        runtime.block_on(run(config))
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", error.code());
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(config: SimulatorConfig) -> Result<(), SimulatorError> {
    let shutdown = CancellationToken::new();
    let server = |error: std::io::Error| SimulatorError::Server(error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(server)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(server)?;
    let running = start(config, shutdown.clone()).await?;
    announce(&json!({
        "grpc": running.grpc_address(),
        "control": running.control_address(),
        "signer": running.signer(),
    }));
    let stopped = running.stopped();
    tokio::pin!(stopped);
    tokio::select! {
        ended = &mut stopped => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    stopped.await
}

/// Whether a simulator with this configuration answers: at its control endpoint, else it takes connections.
fn answers(config: &SimulatorConfig) -> Result<String, String> {
    const LIMIT: Duration = Duration::from_secs(3);
    if let Some(control) = config.control {
        return healthcheck::get(healthcheck::reachable(control), "/");
    }
    let grpc = healthcheck::reachable(config.listen);
    let connected = std::net::TcpStream::connect_timeout(&grpc, LIMIT);
    connected.map(|_| format!("{grpc} takes connections")).map_err(|error| format!("{grpc}: {error}"))
}

/// One line on stdout. A parent that closed it does not want to know.
fn announce(line: &serde_json::Value) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
