//! The stack and the services as a user meets them: real Kafka, a real chain, separate processes.

mod parts;
mod stack;
mod supervision;
