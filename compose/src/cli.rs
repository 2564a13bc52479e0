//! The command line: one program for the stack, its services and its tools.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::bench::{self, EmitterBench};
use crate::description::Description;
use crate::error::StackError;
use crate::health::{self, HealthArgs};
use crate::job::{self, JobArgs, Output};
use crate::parts;
use crate::progress::Progress;
use crate::setup::{self, PlanArgs, SetupArgs};
use crate::stack::{Generation, Node, Stack, StackBuilder};
use crate::supervise::run_reaper;
use crate::workspace::{Workspace, WorkspaceOptions};

/// The whole KMS connector on one machine: Kafka, a chain, contracts, KMS Core simulators and the three services.
///
/// Without a command it starts all of them, makes requests, follows them to their accepted answers, reports, and stays up until
/// Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "kms-stack", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    job: JobArgs,
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
    /// Measure one part, and print the figures.
    Bench {
        #[command(subcommand)]
        part: Part,
    },
    /// Run ingest: requests of the contracts to the requests topics.
    #[command(disable_help_flag = true)]
    Ingest(PassedOn),
    /// Run the processor: requests to KMS Core, its signed answers to the results topics.
    #[command(disable_help_flag = true)]
    Processor(PassedOn),
    /// Run the emitter: signed answers to the contracts.
    #[command(disable_help_flag = true)]
    Emitter(PassedOn),
    /// Look at a connector's topics, follow requests, redrive dead letters.
    #[command(disable_help_flag = true)]
    Ctl(PassedOn),
    /// Run one KMS Core simulator.
    #[command(disable_help_flag = true)]
    Simulator(PassedOn),
    /// Note what a stack in containers shall be, before it is set up.
    Plan(PlanArgs),
    /// Set up a stack whose processes somebody else starts, as containers: contracts, topics, and each service's files.
    Setup(Box<SetupArgs>),
    /// The main job's load on a stack that is up, of `up` or of a setup: makes requests, follows them, reports.
    Load(LoadArgs),
    /// The main job's report on every request so far of such a stack, without making any.
    Judge(JudgeArgs),
    /// Ask a service of a container, or any address, whether it is well: 0 if so, 1 with the reason if not.
    Health(HealthArgs),
    /// Kill what a dead stack left behind; started by the stack itself.
    #[command(hide = true)]
    Reaper,
}

/// What can be measured alone.
#[derive(Debug, Subcommand)]
enum Part {
    /// One answer per transaction against batches: gas and answers per second of an emitter that is fed with signed results.
    Emitter(EmitterBench),
}

/// Arguments of `kms-stack load`.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    #[command(flatten)]
    site: SiteArgs,
    #[command(flatten)]
    job: JobArgs,
}

/// Arguments of `kms-stack judge`.
#[derive(Args, Clone, Debug)]
pub struct JudgeArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Seconds that may pass without any progress before what is missing counts as lost.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    patience: u64,
    /// How the report is written to standard output.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Where a stack is described.
#[derive(Args, Clone, Debug)]
pub struct SiteArgs {
    /// Directory with the stack's `stack.json`: that of the setup, or the run directory of `kms-stack up`.
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Seconds that a part of the stack may be down without what is missing counting as lost.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    outage: u64,
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
    /// Generation of the protocol: a is v0.10 and v0.11, b is v0.15 with a second chain, contexts and epochs.
    #[arg(long, value_enum, default_value_t = Generation::A)]
    pub generation: Generation,
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
    /// An empty or new directory for logs, configuration files, data and `stack.json`, kept afterwards.
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
            .generation(self.generation)
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
            remove_when_killed: false,
            progress: Progress::auto(),
            ..WorkspaceOptions::new(this_program()?)
        };
        Workspace::create(options)
    }
}

/// What shells report for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// How a command of the stack itself ended.
type Ended = Result<ExitCode, StackError>;

/// The whole program, from its arguments (the first is its own name) to its exit code.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let begun = Instant::now();
    let cli = Cli::parse_from(args);
    match cli.command {
        Some(Command::Reaper) => {
            run_reaper(std::io::stdin().lock());
            ExitCode::SUCCESS
        }
        Some(Command::Ingest(passed)) => kms_ingest::main_from(passed.with_name("ingest")),
        Some(Command::Processor(passed)) => kms_processor::main_from(passed.with_name("processor")),
        Some(Command::Emitter(passed)) => kms_emitter::main_from(passed.with_name("emitter")),
        Some(Command::Ctl(passed)) => kmsctl::main_from(passed.with_name("ctl")),
        Some(Command::Simulator(passed)) => crate::simulator::main_from(passed.with_name("simulator")),
        Some(Command::Plan(args)) => match setup::plan(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report(&error),
        },
        Some(Command::Setup(args)) => block_on(async |interrupts| set_up(*args, interrupts).await),
        Some(Command::Load(args)) => {
            let output = args.job.output;
            block_on(async |interrupts| {
                reported(&args.site, output, interrupts, async |site| job::run_at(site, &args.job, begun).await).await
            })
        }
        Some(Command::Judge(args)) => {
            let patience = Duration::from_secs(args.patience);
            block_on(async |interrupts| {
                reported(&args.site, args.output, interrupts, async |site| job::judge_at(site, patience, begun).await)
                    .await
            })
        }
        Some(Command::Health(args)) => health::run(&args),
        Some(Command::Fetch { registry }) => block_on(async |interrupts| fetch(registry, interrupts).await),
        Some(Command::Bench { part: Part::Emitter(args) }) => {
            block_on(async |interrupts| bench_emitter(args, interrupts).await)
        }
        Some(Command::Up(stack)) => block_on(async |interrupts| up(stack, interrupts).await),
        None => block_on(async |interrupts| main_job(cli.stack, cli.job, begun, interrupts).await),
    }
}

fn this_program() -> Result<PathBuf, StackError> {
    std::env::current_exe().map_err(StackError::io("finding this program's own file"))
}

/// Runs a command of the stack to its end. Signals that come from now on are its own to handle.
fn block_on(command: impl AsyncFnOnce(&mut Interrupts) -> Ended) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return report(&StackError::io("starting the runtime")(error)),
    };
    let ended = runtime.block_on(async {
        let mut interrupts = Interrupts::listen()?;
        command(&mut interrupts).await
    });
    // A fetch that was interrupted is not waited for: the reaper ends it with the process.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| report(&error))
}

/// SIGINT and SIGTERM, none of them missed between two looks.
#[derive(Debug)]
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, StackError> {
        let listen = |kind| signal(kind).map_err(StackError::io("listening for signals"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A result for standard output. A reader that went away must not end the run.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The report for standard output. A report that cannot be written is no success.
fn print_report(text: &str) -> Result<(), StackError> {
    writeln!(std::io::stdout(), "{text}").map_err(StackError::io("writing the report to standard output"))
}

/// Refuses to work for a JSON object that nobody would get.
fn needs_output(output: Output) -> Result<(), StackError> {
    if output == Output::Json && stdout_was_closed() {
        return Err(StackError::Usage("--output json: standard output is closed".to_owned()));
    }
    Ok(())
}

/// Whether the program was started without standard output. Rust then opens `/dev/null` in its place, for reading and writing,
/// while a shell's `>/dev/null` is for writing only. Told on Linux; elsewhere it is never found out.
fn stdout_was_closed() -> bool {
    const ACCESS_MODE: u32 = 0o3;
    const READ_AND_WRITE: u32 = 0o2;
    let is_null = std::fs::read_link("/proc/self/fd/1").is_ok_and(|file| file.as_os_str() == "/dev/null");
    let about = std::fs::read_to_string("/proc/self/fdinfo/1").unwrap_or_default();
    let flags = about.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    is_null && flags.is_some_and(|flags| flags & ACCESS_MODE == READ_AND_WRITE)
}

/// A remark for a person.
fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn report(error: &StackError) -> ExitCode {
    remark(&format!("error[{}]: {error}", error.code()));
    error.exit_code()
}

async fn fetch(registry: bool, interrupts: &mut Interrupts) -> Ended {
    let options = WorkspaceOptions { progress: Progress::auto(), ..WorkspaceOptions::new(this_program()?) };
    let workspace = Workspace::create(options)?;
    tokio::select! {
        fetched = parts::fetch(&workspace, registry) => fetched?,
        () = interrupts.next() => return Ok(interrupted(&workspace)),
    }
    print(&format!("everything is in {}", workspace.cache().root().display()));
    Ok(ExitCode::SUCCESS)
}

/// `kms-stack bench emitter`.
async fn bench_emitter(args: EmitterBench, interrupts: &mut Interrupts) -> Ended {
    needs_output(args.output)?;
    let options = WorkspaceOptions { progress: Progress::auto(), ..WorkspaceOptions::new(this_program()?) };
    let workspace = Workspace::create(options)?;
    let comparison = tokio::select! {
        comparison = bench::emitter(&workspace, &args) => comparison?,
        () = interrupts.next() => return Ok(interrupted(&workspace)),
    };
    match args.output {
        Output::Text => print_report(&comparison.table())?,
        Output::Json => {
            let json = serde_json::to_string(&comparison).map_err(std::io::Error::other);
            print_report(&json.map_err(StackError::io("writing the comparison"))?)?;
        }
    }
    workspace.discard();
    Ok(ExitCode::SUCCESS)
}

/// `kms-stack setup`.
async fn set_up(args: SetupArgs, interrupts: &mut Interrupts) -> Ended {
    let progress = Progress::auto();
    let description = tokio::select! {
        description = setup::setup(&args, &progress) => description?,
        () = interrupts.next() => {
            remark("stopping");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    print(&format!("{} node(s) are set up in {}", description.nodes.len(), args.directory.display()));
    Ok(ExitCode::SUCCESS)
}

/// Does the main job, or a part of it, on a stack that was set up. Exit codes are those of the main job.
async fn reported(
    args: &SiteArgs,
    output: Output,
    interrupts: &mut Interrupts,
    work: impl AsyncFnOnce(&job::Site<'_>) -> Result<job::Report, StackError>,
) -> Ended {
    needs_output(output)?;
    let stack = Description::of_directory(&args.directory)?;
    let progress = Progress::auto();
    let site = job::Site {
        stack: &stack,
        progress: &progress,
        fetching: Duration::ZERO,
        outage: Duration::from_secs(args.outage),
        ended: &Vec::new,
    };
    let done = tokio::select! {
        done = work(&site) => done?,
        () = interrupts.next() => {
            remark("stopping; what was sent goes on, and the next load counts it");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    show(&done, output)?;
    Ok(if done.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `kms-stack up`.
async fn up(args: StackArgs, interrupts: &mut Interrupts) -> Ended {
    let workspace = args.workspace()?;
    let Some(stack) = start(&args, &workspace, interrupts).await? else { return Ok(interrupted(&workspace)) };
    print(&summary(&stack));
    stay_up(stack, &workspace, interrupts).await;
    Ok(ExitCode::SUCCESS)
}

/// `kms-stack`: the main job. Its exit code is 0 only if every request was accepted on chain exactly once.
async fn main_job(args: StackArgs, job: JobArgs, begun: Instant, interrupts: &mut Interrupts) -> Ended {
    job.check(args.generation, args.nodes)?;
    needs_output(job.output)?;
    let workspace = args.workspace()?;
    let Some(stack) = start(&args, &workspace, interrupts).await? else { return Ok(interrupted(&workspace)) };
    let done = tokio::select! {
        done = job::run(&stack, &job, begun) => done,
        // Never ends by itself.
        () = tell_of_the_dead(&stack, |line| workspace.progress().say(line)) => return Ok(ExitCode::FAILURE),
        () = interrupts.next() => {
            stop(stack, &workspace, interrupts).await;
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    let success = done.as_ref().is_ok_and(job::Report::is_success);
    if !success {
        workspace.keep();
    }
    let shown = done.and_then(|report| show(&report, job.output));
    if job.exit || shown.is_err() {
        stop(stack, &workspace, interrupts).await;
    } else {
        remark(&format!("\n{}", summary(&stack)));
        stay_up(stack, &workspace, interrupts).await;
    }
    shown?;
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(report: &job::Report, output: Output) -> Result<(), StackError> {
    match output {
        Output::Text => print_report(&report.table())?,
        Output::Json => {
            let json = serde_json::to_string(report).map_err(std::io::Error::other);
            print_report(&json.map_err(StackError::io("writing the report"))?)?;
        }
    }
    Ok(())
}

/// Starts a stack; `None` when a signal came first. What was started until then is dropped, which ends it.
async fn start(
    args: &StackArgs,
    workspace: &Workspace,
    interrupts: &mut Interrupts,
) -> Result<Option<Stack>, StackError> {
    tokio::select! {
        stack = args.builder().start(workspace) => match stack {
            Ok(stack) => Ok(Some(stack)),
            Err(error) => {
                match workspace.is_kept() {
                    true => say_where(workspace),
                    false => workspace.discard(),
                }
                Err(error)
            }
        },
        () = interrupts.next() => Ok(None),
    }
}

/// The exit code after a signal that came before everything was up.
fn interrupted(workspace: &Workspace) -> ExitCode {
    remark("stopping");
    workspace.discard();
    ExitCode::from(INTERRUPTED)
}

async fn stay_up(stack: Stack, workspace: &Workspace, interrupts: &mut Interrupts) {
    remark("\nCtrl-C stops everything.");
    tokio::select! {
        () = interrupts.next() => {}
        // Never ends by itself.
        () = tell_of_the_dead(&stack, remark) => {}
    }
    stop(stack, workspace, interrupts).await;
}

/// Says once of each service and simulator that it has ended.
async fn tell_of_the_dead(stack: &Stack, tell: impl Fn(&str)) {
    const LOOK: Duration = Duration::from_secs(1);
    let mut told = HashSet::new();
    loop {
        for node in stack.nodes() {
            for process in node.processes() {
                if !process.is_running() && told.insert(process.name().to_owned()) {
                    let log = process.log_path();
                    tell(&format!("! {} has ended; its log is {}", process.name(), log.display()));
                } else if process.is_running() {
                    told.remove(process.name());
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Stops a stack in order, or at once when a second signal says so.
async fn stop(stack: Stack, workspace: &Workspace, interrupts: &mut Interrupts) {
    remark("stopping");
    tokio::select! {
        () = stack.stop() => {}
        () = interrupts.next() => {}
    }
    if workspace.is_kept() {
        say_where(workspace);
    }
}

fn say_where(workspace: &Workspace) {
    remark(&format!("logs and configuration files are in {}", workspace.dir().display()));
}

/// Where everything is.
fn summary(stack: &Stack) -> String {
    let contracts = stack.contracts();
    let mut lines = vec![format!("Kafka        {}", stack.bootstrap_servers())];
    lines.extend(
        stack.chains().iter().map(|chain| format!("{:<12} {} (chain id {})", chain.name, chain.url, chain.chain_id)),
    );
    lines.extend(stack.buckets().iter().map(|bucket| format!("bucket       {}", bucket.url())));
    lines.extend(stack.registry().map(|registry| format!("registry     {}", registry.url())));
    let named = [
        ("Decryption", contracts.decryption),
        ("KMSGeneration", contracts.kms_generation),
        ("GatewayConfig", contracts.gateway_config),
        ("ACL", contracts.host_acl),
    ];
    let protocol_config = contracts.ethereum.map(|ethereum| ("ProtocolConfig", ethereum.protocol_config));
    for (name, address) in named.into_iter().chain(protocol_config) {
        lines.push(format!("contract     {address} {name}"));
    }
    lines.extend(stack.nodes().iter().flat_map(node_lines));
    let workspace = stack.workspace();
    let dir = workspace.dir().display();
    lines.push(format!(
        "load         {} load --directory {} --requests 100",
        word(&here(workspace.program())),
        word(workspace.dir())
    ));
    lines.push(format!("logs         {dir}/logs"));
    lines.push(format!("config       {dir}/config"));
    lines.join("\n")
}

/// A path as somebody in this directory would type it.
fn here(path: &Path) -> PathBuf {
    let directory = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(directory) {
        // A single name would be looked for in PATH.
        Ok(below) if below.components().count() > 1 => below.to_owned(),
        _ => path.to_owned(),
    }
}

/// A path as one word of a shell's command line.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%:,=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
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
    fn a_path_is_one_word_of_a_command_line_whatever_it_holds() {
        assert_eq!(word(Path::new("/tmp/kms-stack-a_1")), "/tmp/kms-stack-a_1");
        assert_eq!(word(Path::new("/tmp/it's a run")), r"'/tmp/it'\''s a run'");
    }

    #[test]
    fn a_subcommands_own_arguments_reach_its_program_untouched() {
        let cli = Cli::parse_from(["kms-stack", "simulator", "--config", "f.toml", "--help"]);
        let Some(Command::Simulator(passed)) = cli.command else { panic!("{cli:?}") };
        let args: Vec<OsString> = passed.with_name("simulator").collect();
        assert_eq!(args, ["kms-stack simulator", "--config", "f.toml", "--help"]);
    }
}
