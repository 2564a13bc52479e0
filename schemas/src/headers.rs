//! The headers of every Kafka record: CloudEvents attributes (Kafka protocol binding, binary mode) and W3C trace context.
//!
//! Both follow from the record alone, so that a record that is written twice carries the same headers twice, and
//! everything that concerns one request is one trace without any service handing a trace on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{B256, keccak256};

use crate::codec::Record;
use crate::identity::Identity;
use crate::record::{Cursor, DeadLetter, DeferredRequest, Intent, Request, ResultRecord, Submission};

/// What the headers need to know of a record.
pub trait Event {
    /// CloudEvents id: unique among what one service writes to one topic, the same when the same is written again.
    fn event_id(&self) -> String;

    /// The request that the record is about, if it is one.
    fn subject(&self) -> Option<Identity>;
}

impl Event for Request {
    fn event_id(&self) -> String {
        format!("{}:{}", self.block_hash, self.log_index)
    }

    fn subject(&self) -> Option<Identity> {
        Some(self.identity())
    }
}

impl Event for DeferredRequest {
    fn event_id(&self) -> String {
        format!("{}#{}", self.source, self.attempts)
    }

    fn subject(&self) -> Option<Identity> {
        Some(self.request.identity())
    }
}

impl Event for ResultRecord {
    fn event_id(&self) -> String {
        self.source.to_string()
    }

    fn subject(&self) -> Option<Identity> {
        Some(self.identity)
    }
}

impl Event for Submission {
    fn event_id(&self) -> String {
        self.result.to_string()
    }

    fn subject(&self) -> Option<Identity> {
        Some(self.identity)
    }
}

impl Event for DeadLetter {
    fn event_id(&self) -> String {
        self.source.to_string()
    }

    fn subject(&self) -> Option<Identity> {
        self.identity
    }
}

impl Event for Cursor {
    fn event_id(&self) -> String {
        format!("{}:{}:{}", self.source, self.block_number, self.written_ms)
    }

    fn subject(&self) -> Option<Identity> {
        None
    }
}

impl Event for Intent {
    fn event_id(&self) -> String {
        format!("{}:{}:{}:{}", self.chain_id, self.sender, self.nonce, self.attempt)
    }

    fn subject(&self) -> Option<Identity> {
        match self.items.as_slice() {
            [item] => Some(item.identity),
            _ => None,
        }
    }
}

/// The headers of a record that `source` (a URI reference, e.g. `/kms-connector/ingest/gateway`) writes at `time`.
///
/// `traceparent` is left out where the record is not about exactly one request.
#[must_use]
pub fn headers<R: Record>(source: &str, time: SystemTime, record: &R) -> Vec<(String, Vec<u8>)> {
    let id = record.event_id();
    let mut headers = Vec::with_capacity(7);
    let mut put = |name: &str, value: String| headers.push((name.to_owned(), value.into_bytes()));
    if let Some(identity) = record.subject() {
        put("traceparent", traceparent(&identity, R::NAME, &id));
    }
    put("ce_specversion", "1.0".to_owned());
    put("ce_id", id);
    put("ce_source", source.to_owned());
    put("ce_type", R::NAME.to_owned());
    put("ce_time", rfc3339(time));
    put("content-type", "application/avro".to_owned());
    headers
}

/// The trace of a request: 16 bytes that everybody derives from its identity.
#[must_use]
pub fn trace_id(identity: &Identity) -> [u8; 16] {
    let mut text = Vec::with_capacity(96);
    text.extend_from_slice(&identity.chain_id.to_be_bytes());
    text.extend_from_slice(identity.contract.as_slice());
    text.extend_from_slice(identity.id.0.as_slice());
    text.extend_from_slice(identity.kind.as_str().as_bytes());
    leading(keccak256(text))
}

fn traceparent(identity: &Identity, record: &str, event_id: &str) -> String {
    let trace = trace_id(identity);
    let span: [u8; 8] = leading(keccak256([&trace[..], record.as_bytes(), event_id.as_bytes()].concat()));
    // Flag 01: sampled.
    format!("00-{}-{}-01", hex::encode(trace), hex::encode(span))
}

fn leading<const N: usize>(hash: B256) -> [u8; N] {
    std::array::from_fn(|index| hash[index])
}

/// UTC with milliseconds, e.g. `2026-11-24T23:36:00.123Z`; times before 1970 as 1970.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date in the proleptic Gregorian calendar, counted in eras of 400 years from 1 March of year 0.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}
