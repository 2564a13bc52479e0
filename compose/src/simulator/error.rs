//! What keeps a simulator from running.

use std::net::SocketAddr;
use std::path::PathBuf;

use kms_schemas::codes::Code;

/// Why a simulator did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// Every mistake of the configuration.
    #[error("the simulator's configuration is wrong:\n  {}", .0.join("\n  "))]
    Configuration(Vec<String>),
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ConfigurationFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// What survives restarts cannot be read or written.
    #[error("cannot use {}: {why}", path.display())]
    State {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A server ended.
    #[error("the simulator's server ended: {0}")]
    Server(String),
}

impl SimulatorError {
    /// The entry of [`CODES`] that says what to do.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Configuration(_) | Self::ConfigurationFile { .. } => "KC-0851",
            Self::Bind { .. } => "KC-0852",
            Self::State { .. } => "KC-0853",
            Self::Server(_) => "KC-0854",
        }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::ConfigurationFile { .. } => 2,
            Self::Bind { .. } | Self::State { .. } => 3,
            Self::Server(_) => 70,
        }
    }
}

/// The codes of this module.
pub static CODES: &[Code] = &[
    Code {
        code: "KC-0851",
        name: "simulator_configuration",
        meaning: "The KMS Core simulator's configuration cannot be read or holds mistakes, all of which are listed.",
        action: "Correct the listed keys; the module's documentation describes each.",
    },
    Code {
        code: "KC-0852",
        name: "simulator_bind",
        meaning: "The KMS Core simulator cannot listen on its address.",
        action: "Stop what uses the port, or configure another one; port 0 takes any free one.",
    },
    Code {
        code: "KC-0853",
        name: "simulator_state",
        meaning: "The KMS Core simulator cannot use its state directory.",
        action: "Make the directory writable, or remove a damaged file in it; the key or CRS of that file is then forgotten.",
    },
    Code {
        code: "KC-0854",
        name: "simulator_server",
        meaning: "A server of the KMS Core simulator ended by itself.",
        action: "Read the message; start the simulator again.",
    },
];
