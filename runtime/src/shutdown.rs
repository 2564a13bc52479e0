//! How a service ends: signals, and what its exit code says.
//!
//! The first SIGTERM or SIGINT cancels a token: intake stops, work is finished or parked, commits are made, the process
//! ends with 0. A second signal ends the process at once; the exactly-once engine makes that safe, only slower to
//! recover.

use std::fmt;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why a process ended, as its exit code. Supervisors restart on everything but [`Exit::Configuration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Ended as asked.
    Ok = 0,
    /// The command line or the configuration is wrong; a restart cannot help.
    Configuration = 2,
    /// A dependency was there and is not fit: wrong chain, wrong contract version, wrong partitions, a broker without
    /// transactions. (One that is merely down is waited for.)
    Refused = 3,
    /// Another process took over the transactional id or the leadership.
    Fenced = 4,
    /// The Kafka client cannot be used again.
    KafkaFatal = 5,
    /// Every followed source has stopped because its chain contradicts what was ingested.
    SourceStopped = 6,
    /// A bug.
    Internal = 70,
    /// What was asked for could not be written to standard output.
    Output = 74,
    /// A second signal cut the shutdown short.
    Killed = 130,
}

impl Exit {
    /// Every code with its meaning, for the documentation.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Ok, "ended as asked (SIGTERM or SIGINT)"),
        (Self::Configuration, "the command line or the configuration is wrong; a restart cannot help"),
        (
            Self::Refused,
            "a dependency answered and is not fit: wrong chain id at every endpoint, contract version, partition count, or a broker without working transactions",
        ),
        (Self::Fenced, "another process took over the transactional id or the leadership"),
        (Self::KafkaFatal, "the Kafka client met an error after which it cannot be used again"),
        (Self::SourceStopped, "every followed source has stopped because its chain contradicts what was ingested"),
        (Self::Internal, "a bug; the log says more"),
        (Self::Output, "standard output could not be written to (`print-config`, `check-config`, `config-reference`)"),
        (Self::Killed, "a second signal cut the shutdown short"),
    ];

    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a service stopped by itself.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// The exit code.
    pub exit: Exit,
    /// Code for the documentation (`KC-…`).
    pub code: &'static str,
    /// What happened, for a person.
    pub text: String,
}

impl Stopped {
    /// A reason with its exit code.
    #[must_use]
    pub fn new(exit: Exit, code: &kms_schemas::codes::Code, text: impl Into<String>) -> Self {
        Self { exit, code: code.code, text: text.into() }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

impl std::error::Error for Stopped {}

/// A token that the first SIGTERM or SIGINT cancels; the second ends the process with [`Exit::Killed`].
///
/// # Errors
/// The operating system refuses a signal handler.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if !first {
                tracing::warn!(signal = name, "second signal, ending at once");
                std::process::exit(Exit::Killed.code().into());
            }
            tracing::info!(signal = name, "signal received, shutting down");
            cancelled.cancel();
            first = false;
        }
    });
    Ok(token)
}
