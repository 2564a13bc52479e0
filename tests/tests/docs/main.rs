//! Holds the documents to the code.
//!
//! What can be generated is compared with what the code generates; `UPDATE_DOCS=1 cargo test -p kms-tests --test docs`
//! writes it. What is written by hand is held to what it names: files, sections, keys, commands, codes, licences.

mod citations;
mod commands;
mod configuration;
mod dependencies;
mod errors;
mod licences;
mod links;
mod main_job;
mod markdown;
mod metrics;
mod operations;
mod readme;
mod repository;
mod rust_source;
mod topics;
