//! The whole stack on one machine, as local processes.
//!
//! ```text
//!            ┌────────────── one run: Workspace (run directory, reaper, cache, progress) ──────────────┐
//!            │  parts:  Kafka   anvil   bucket   [schema registry]                                     │
//!            │  node 1: KMS Core simulator   ingest   processor   emitter     (prefix kms-connector)    │
//!            │  node n: …                                                      (prefix kms-node-n)       │
//!            └──────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Everything binds to 127.0.0.1 on free ports and ends with the process that started it, however that ends
//! ([`supervise`]). Parts are pinned releases, fetched once into the user's cache ([`parts`]). The services know nothing of all this:
//! each is started from a complete configuration file, as it would be against any cluster and chain.
//!
//! Start reading at [`StackBuilder::start`], or at [`parts`] for one part alone.

pub mod bench;
mod cli;
pub mod contracts;
pub mod description;
pub mod error;
mod health;
mod http;
pub mod job;
pub mod keys;
pub mod parts;
pub mod ports;
pub mod progress;
pub mod setup;
pub mod simulator;
mod stack;
pub mod supervise;
mod workspace;

pub use cli::{JudgeArgs, LoadArgs, SiteArgs, StackArgs, main_from};
pub use description::{Description, FollowedChain};
pub use error::{CODES, StackError};
pub use stack::{Core, Generation, Node, NodeKeys, Service, ServiceKind, Stack, StackBuilder, StartTimes};
pub use workspace::{Workspace, WorkspaceOptions};
