//! The command line: one program for the stack, its services and its tools.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::StackError;
use crate::parts;
use crate::progress::Progress;
use crate::stack::{Node, Stack, StackBuilder};
use crate::supervise::run_reaper;
use crate::workspace::{Workspace, WorkspaceOptions};

/// The whole KMS connector on one machine: Kafka, a chain, contracts, KMS Core simulators and the three services.
#[derive(Debug, Parser)]
#[command(name = "kms-stack", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    stack: StackArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything, make no requests, and stay until Ctrl-C.
    Up(StackArgs),
    /// Fetch what the stack needs into the user's cache, and start nothing.
    Fetch {
        /// The schema registry too.
        #[arg(long)]
        registry: bool,
    },
    /// Run the ingest service: requests of the contracts to the requests topics.
    #[command(disable_help_flag = true)]
    Ingest(PassedOn),
    /// Run one KMS Core simulator.
    #[command(disable_help_flag = true)]
    Simulator(PassedOn),
    /// Kill what a dead stack left behind; started by the stack itself.
    #[command(hide = true)]
    Reaper,
}

/// Arguments that a subcommand's own program reads.
#[derive(Debug, Args)]
struct PassedOn {
    /// See `--help` of the subcommand.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl PassedOn {
    fn with_name(self, name: &str) -> impl Iterator<Item = OsString> {
        std::iter::once(format!("kms-stack {name}").into()).chain(self.args)
    }
}

/// What the stack shall be.
#[derive(Args, Clone, Debug)]
pub struct StackArgs {
    /// KMS nodes: 1, or 4, 7, … for a threshold KMS; each has its own connector and topic prefix.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub nodes: usize,
    /// Start a schema registry and write records in the Confluent wire format.
    #[arg(long)]
    pub registry: bool,
    /// Kafka brokers: 1, or 3 with replication.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub brokers: u8,
    /// Coprocessors, each with a bucket of its own.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub coprocessors: usize,
    /// Interval of the chain's blocks in milliseconds; 0 mines each transaction at once.
    #[arg(long, default_value_t = 250, value_name = "MS")]
    pub block_time: u64,
    /// An empty or new directory for logs, configuration files and data, kept afterwards.
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Keep the run directory. One of a run that failed is kept in any case.
    #[arg(long)]
    pub keep: bool,
}

impl StackArgs {
    /// A builder with these arguments.
    pub fn builder(&self) -> StackBuilder {
        let block_time = (self.block_time > 0).then(|| Duration::from_millis(self.block_time));
        Stack::builder()
            .nodes(self.nodes)
            .registry(self.registry)
            .brokers(self.brokers)
            .coprocessors(self.coprocessors)
            .block_time(block_time)
    }

    /// A workspace with these arguments, for this program.
    ///
    /// # Errors
    /// As [`Workspace::create`].
    pub fn workspace(&self) -> Result<Workspace, StackError> {
        let options = WorkspaceOptions {
            run_dir: self.run_dir.clone(),
            keep: self.keep,
            progress: Progress::auto(),
            ..WorkspaceOptions::new(this_program()?)
        };
        Workspace::create(options)
    }
}

/// The whole program, from its arguments (the first is its own name) to its exit code.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    match cli.command {
        Some(Command::Reaper) => {
            run_reaper(std::io::stdin().lock());
            ExitCode::SUCCESS
        }
        Some(Command::Ingest(passed)) => kms_ingest::main_from(passed.with_name("ingest")),
        Some(Command::Simulator(passed)) => crate::simulator::main_from(passed.with_name("simulator")),
        Some(Command::Fetch { registry }) => block_on(fetch(registry)),
        Some(Command::Up(stack)) => block_on(up(stack)),
        None => block_on(up(cli.stack)),
    }
}

fn this_program() -> Result<PathBuf, StackError> {
    std::env::current_exe().map_err(StackError::io("finding this program's own file"))
}

/// Runs a command to its end, or to the first signal: then everything it started is dropped, which ends it.
fn block_on(command: impl Future<Output = Result<(), StackError>>) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return report(&StackError::io("starting the runtime")(error)),
    };
    match runtime.block_on(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &StackError) -> ExitCode {
    eprintln!("error[{}]: {error}", error.code());
    error.exit_code()
}

async fn fetch(registry: bool) -> Result<(), StackError> {
    let options = WorkspaceOptions { progress: Progress::auto(), ..WorkspaceOptions::new(this_program()?) };
    let workspace = Workspace::create(options)?;
    parts::fetch(&workspace, registry).await?;
    println!("everything is in {}", workspace.cache().root().display());
    Ok(())
}

/// `kms-stack up`.
async fn up(args: StackArgs) -> Result<(), StackError> {
    let workspace = args.workspace()?;
    let begun = args.builder().start(&workspace);
    let stack = tokio::select! {
        stack = begun => stack.inspect_err(|_| say_where(&workspace))?,
        () = interrupted() => {
            eprintln!("stopping");
            return Ok(());
        }
    };
    println!("{}", summary(&stack));
    println!("\nCtrl-C stops everything.");
    interrupted().await;
    eprintln!("stopping");
    tokio::select! {
        () = stack.stop() => {}
        // Whoever asks twice does not want to wait; what is left is killed.
        () = interrupted() => {}
    }
    if workspace.is_kept() {
        say_where(&workspace);
    }
    Ok(())
}

fn say_where(workspace: &Workspace) {
    eprintln!("logs and configuration files are in {}", workspace.dir().display());
}

/// Ends at the next SIGINT or SIGTERM.
pub(crate) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals keep their default action, which ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Where everything is.
pub(crate) fn summary(stack: &Stack) -> String {
    let contracts = stack.contracts();
    let mut lines = vec![
        format!("Kafka        {}", stack.bootstrap_servers()),
        format!("chain        {} (chain id {})", stack.anvil().url(), contracts.gateway_chain_id),
    ];
    lines.extend(stack.buckets().iter().map(|bucket| format!("bucket       {}", bucket.url())));
    lines.extend(stack.registry().map(|registry| format!("registry     {}", registry.url())));
    for (name, address) in [
        ("Decryption", contracts.decryption),
        ("KMSGeneration", contracts.kms_generation),
        ("GatewayConfig", contracts.gateway_config),
    ] {
        lines.push(format!("contract     {address} {name}"));
    }
    lines.extend(stack.nodes().iter().flat_map(node_lines));
    let dir = stack.workspace().dir().display();
    lines.push(format!("logs         {dir}/logs"));
    lines.push(format!("config       {dir}/config"));
    lines.join("\n")
}

fn node_lines(node: &Node) -> Vec<String> {
    let label = format!("node {}", node.number());
    let mut lines = vec![format!("{label:<12} topics {}.*, KMS Core {}", node.prefix(), node.core().url())];
    lines.extend(
        node.services().iter().map(|service| format!("{:<12} {:<9} {}", "", service.kind(), service.metrics_url())),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_subcommands_own_arguments_reach_its_program_untouched() {
        let cli = Cli::parse_from(["kms-stack", "simulator", "--config", "f.toml", "--help"]);
        let Some(Command::Simulator(passed)) = cli.command else { panic!("{cli:?}") };
        let args: Vec<OsString> = passed.with_name("simulator").collect();
        assert_eq!(args, ["kms-stack simulator", "--config", "f.toml", "--help"]);
    }
}
