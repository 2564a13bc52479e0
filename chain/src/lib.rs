//! What is read from chains and written to them: RPC providers with failover, the contracts' events, calls, errors and
//! EIP-712 structures.
//!
//! ```text
//!   chain ── rpc ──▶ event ──▶ requests           answers ──▶ response ──▶ rpc ──▶ chain
//!                                                   │                       │
//!                                                 eip712 (who signed it)  revert (what a refusal means)
//! ```
//!
//! * [`release`] says which release of the contracts a chain runs, and what follows from it;
//! * [`event`] decodes logs strictly, by contract address and first topic;
//! * [`request`] decodes what a user's transaction says beyond the event, [`extra_data`] and [`handles`] what a request names;
//! * [`eip712`] recomputes the digests that KMS Core and users sign, and recovers signers as strictly as the contracts;
//! * [`response`] turns an answer into calldata, [`revert`] turns a refusal into something to do;
//! * [`rpc`] talks to the nodes: an explicit primary with failover, deadlines, batches; it tells an outage from an answer
//!   by type, because an outage is never a verdict;
//! * [`authority`] proves that the chain has a log, so that no record need be believed;
//! * [`finality`] says up to which block a source is followed, [`views`] reads the contracts' state.
//!
//! Everything but [`rpc`], [`finality`] and [`views`] is pure.

mod abi;
pub mod authority;
pub mod codes;
pub mod contracts;
pub mod eip712;
pub mod event;
pub mod extra_data;
pub mod finality;
pub mod handles;
pub mod metrics;
pub mod release;
pub mod request;
pub mod response;
pub mod revert;
pub mod rpc;
pub mod views;
