//! The headers of every Kafka record: CloudEvents attributes (Kafka protocol binding, binary mode) and W3C trace context.
//!
//! Both follow from the record alone, so that a record that is written twice carries the same headers twice, and
//! everything that concerns one request is one trace without any service handing a trace on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{B256, keccak256};

use crate::codec::Record;
use crate::identity::Identity;
use crate::record::{
    Cursor, DeadLetter, DeferredRequest, Intent, Request, ResultRecord, Submission, WalletBody, WalletRecord,
};

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

impl Event for WalletRecord {
    fn event_id(&self) -> String {
        match &self.body {
            WalletBody::Outcome { command_offset, end, .. } => {
                format!("{}#{command_offset}:{}", self.command_id, end.as_str())
            }
            _ => self.command_id.to_string(),
        }
    }

    fn subject(&self) -> Option<Identity> {
        None
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

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;
    use crate::identity::{Coordinates, Kind, RequestId};
    use crate::record::{Answer, Proof};

    fn identity(kind: Kind) -> Identity {
        Identity { chain_id: 1, contract: Address::repeat_byte(2), kind, id: RequestId(B256::repeat_byte(3)) }
    }

    fn result(kind: Kind, offset: i64) -> ResultRecord {
        ResultRecord {
            source: Coordinates { topic: "t".to_owned(), partition: 4, offset },
            deferred: None,
            identity: identity(kind),
            block_number: 0,
            block_hash: B256::ZERO,
            log_index: 0,
            attempts: 1,
            answer: Answer::Done,
        }
    }

    fn value(headers: &[(String, Vec<u8>)], name: &str) -> Option<String> {
        let (_, value) = headers.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8(value.clone()).expect("headers are text"))
    }

    #[test]
    fn a_record_carries_cloud_events_attributes() {
        let time = UNIX_EPOCH + Duration::from_millis(1_764_027_363_004);
        let headers = headers("/kms-connector/processor", time, &result(Kind::PrssInit, 5));
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "t[4]@5"),
            ("ce_source", "/kms-connector/processor"),
            ("ce_type", "org.kmsconnector.Result"),
            ("ce_time", "2025-11-24T23:36:03.004Z"),
            ("content-type", "application/avro"),
        ];
        for (name, text) in expected {
            assert_eq!(value(&headers, name).as_deref(), Some(text), "{name}");
        }
        assert_eq!(headers.len(), expected.len() + 1);
    }

    #[test]
    fn what_concerns_one_request_is_one_trace_and_each_record_a_span() {
        let parent = |kind, offset| {
            let headers = headers("/s", UNIX_EPOCH, &result(kind, offset));
            value(&headers, "traceparent").expect("is about one request")
        };
        let first = parent(Kind::Keygen, 5);
        let parts: Vec<&str> = first.split('-').collect();
        assert_eq!([parts[0], parts[3]], ["00", "01"]);
        assert_eq!(parts[1], hex::encode(trace_id(&identity(Kind::Keygen))));
        assert_eq!([parts[1].len(), parts[2].len()], [32, 16]);
        assert_eq!(first, parent(Kind::Keygen, 5));
        let other_span = parent(Kind::Keygen, 6);
        assert_eq!(other_span[..36], first[..36]);
        assert_ne!(other_span, first);
        assert_ne!(parent(Kind::Crsgen, 5)[..36], first[..36]);
    }

    #[test]
    fn a_record_about_no_request_has_no_trace() {
        let cursor = Cursor {
            source: "gateway".to_owned(),
            chain_id: 1,
            block_number: 2,
            block_hash: B256::ZERO,
            recent: vec![],
            proof: Proof::Believed,
            sequences: vec![],
            written_ms: 3,
        };
        let headers = headers("/s", UNIX_EPOCH, &cursor);
        assert_eq!(value(&headers, "traceparent"), None);
        assert_eq!(value(&headers, "ce_id").as_deref(), Some("gateway:2:3"));
    }

    #[test]
    fn times_are_rfc_3339() {
        let at = |second: u64| rfc3339(UNIX_EPOCH + Duration::from_secs(second));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(951_868_799), "2000-02-29T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    }
}
