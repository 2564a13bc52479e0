//! Avro records, topic catalogue and codec of the KMS Connector's topics: everything that the services agree on, and all
//! that somebody needs who reads the topics without them.
//!
//! ```text
//!             record::Request …                                    record::Request …
//!                    │ layout, wire                                       ▲ layout, wire
//!                    ▼                                                    │
//!   frame ──▶ Avro body, newest schema                   Avro body, newest schema
//!     │              │                                                    ▲ versions: resolve older schemas
//!     │              ▼                                                    │
//!     └──▶ value of a Kafka record ─────────────▶ frame ──▶ writer's schema ──▶ Avro body
//!          in a topic of topics, with headers
//! ```
//!
//! # Where to start
//!
//! - [`record`]: what travels; [`identity`]: what a request is called.
//! - [`topics`]: where it travels, how long it stays, and which partition a key has.
//! - [`Codec`]: records to bytes and back. [`headers()`]: what stands beside the bytes.
//! - `avro/`: the same for readers in other languages. Each file stands alone; [`versions()`] lists them.
//! - [`codes`]: what can be wrong, for operators.
//!
//! # Promises
//!
//! - **P7, every schema ever written stays readable.** All versions are embedded, found by fingerprint or registry id, and
//!   resolved to the newest. Tests pin their fingerprints and the bytes of every record under them.
//! - **P6.** Reading allocates in proportion to the bytes at hand, whatever lengths and counts they claim, and never calls
//!   out: registry ids are learnt at the start.
//! - **Bytes that are no record are told precisely**, with topic, type, field, byte and a stable code; nothing panics.
//! - **A record is always written as the same bytes** per framing and version, so that hash chains over encoded values can
//!   be made again.
//!
//! # How types travel
//!
//! | Rust | Avro | why |
//! |---|---|---|
//! | `u64`, `u32`, `i64` | `long` | what is above 2^63 − 1 cannot be written and what is negative cannot be read: an error, never another number. Chain ids end below (EIP-2294), nonces in practice too (EIP-2681 allows up to 2^64 − 2), block numbers, times and gas far below |
//! | `i32`, `u8` | `int` | with the same check |
//! | `U256` | `fixed` of 32 bytes, `Uint256`, big-endian | exact over the whole range; a `decimal` in 32 bytes holds only half of it |
//! | `u128` | `fixed` of 16 bytes, `Uint128`, big-endian | exact |
//! | `B256`, `Address`, `RequestId` | `fixed`: `Hash`, `Address`, `RequestId` | |
//! | `Option` | union of `null` and the type, default `null` | |
//! | enum without data | `enum` with a default | a reader sees the default for a symbol that is newer than its schema |
//! | enum with data | record: enum `form`, and one optional record per variant that has data | below |
//!
//! A request's body, an answer and a verdict are not unions of records, because no branch can ever be added to such a
//! union under FULL_TRANSITIVE compatibility: a reader of the older schema has none for it (a registry with that rule
//! refuses it). As a record with a `form`, a new variant is a symbol and an optional field more, and both directions
//! hold. Tools that flatten Avro for SQL like it better, too.
//!
//! # A new version of a schema
//!
//! 1. Copy `avro/v{n}/{record}.avsc` to `avro/v{n + 1}/` and change it there. A field comes with a default, goes only if it
//!    had one, and keeps its type; enums gain symbols only; names and namespace stay.
//! 2. Add its line in `versions.rs`, below the older ones.
//! 3. Change the type in [`record`] and its line in `layout.rs`.
//! 4. Run the tests: they say what was forgotten (shape, compatibility, pinned schemas). `UPDATE_GOLDEN=1` writes the
//!    golden bytes of the new version beside those of the old, which must still be read.
//!
//! Services that read a topic are upgraded before those that write to it: a schema that a process does not embed is
//! unknown to it (`KC-0203`), whatever a registry would say.

mod json;
mod layout;
mod versions;
mod wire;

pub mod codec;
pub mod codes;
pub mod headers;
pub mod identity;
pub mod record;
pub mod registry;
pub mod topics;

pub use codec::{Codec, CodecError, Record};
pub use headers::headers;
pub use topics::{TopicSpec, Topics, partition_for_key};
pub use versions::{SchemaVersion, versions};
