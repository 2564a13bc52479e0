//! The exactly-once stage: consume, process concurrently and out of order, publish outputs and consumed offsets in one
//! Kafka transaction.

pub mod error;
pub mod outcome;

pub use error::StageError;
pub use outcome::{Attempt, Carry, Failure, Handler, InputRecord, Outcome, OutcomeView, OutputRecord};
