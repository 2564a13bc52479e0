//! JSON-RPC over HTTP bodies: what is written and what is read. No I/O.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::{ErrorObject, OutageCause, shorten};

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) params: Value,
}

impl Call {
    pub(crate) fn new(method: &'static str, params: Value) -> Self {
        Self { method, params }
    }
}

/// Result of one call of a request.
pub(crate) type CallResult = Result<Box<RawValue>, ErrorObject>;

/// What a body says.
pub(crate) enum Answer {
    /// One result per call, in the order of the calls.
    Results(Vec<CallResult>),
    /// One error for the whole batch.
    Refused(ErrorObject),
}

impl Answer {
    /// The message of the limit on the rate, if any of the calls met one.
    pub(crate) fn rate_limit(&self) -> Option<&str> {
        let error = match self {
            Self::Refused(error) => Some(error).filter(|error| error.is_rate_limit()),
            Self::Results(results) => {
                results.iter().filter_map(|result| result.as_ref().err()).find(|error| error.is_rate_limit())
            }
        };
        error.map(|error| error.message.as_str())
    }

    /// For calls without effect: one that met a limit on the rate makes the endpoint's answer none.
    pub(crate) fn unless_limited(self) -> Result<Self, OutageCause> {
        match self.rate_limit() {
            Some(message) => Err(OutageCause::RateLimited(message.to_owned())),
            None => Ok(self),
        }
    }
}

/// The body of a request: an object for one call, an array for several. Ids are positions.
pub(crate) fn encode(calls: &[Call]) -> Vec<u8> {
    let request = |(id, call): (usize, &Call)| serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": call.method, "params": call.params });
    let body = match calls {
        [call] => request((0, call)),
        calls => Value::Array(calls.iter().enumerate().map(request).collect()),
    };
    body.to_string().into_bytes()
}

/// Reads the body of an answer to `calls` calls. Results may come in any order; each must come exactly once.
pub(crate) fn decode(body: &[u8], calls: usize) -> Result<Answer, OutageCause> {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let responses: Vec<Response<'_>> = if is_array {
        serde_json::from_slice(body).map_err(malformed)?
    } else {
        vec![serde_json::from_slice(body).map_err(malformed)?]
    };

    if !is_array && calls > 1 {
        let error = responses.into_iter().next().and_then(|response| response.error);
        let error = error.ok_or_else(|| malformed("one result for a batch of calls"))?;
        return Ok(Answer::Refused(error.into_object()));
    }

    let mut results: Vec<Option<CallResult>> = (0..calls).map(|_| None).collect();
    for response in responses {
        let position = response.position(calls)?;
        let slot = results.get_mut(position).ok_or_else(|| malformed(format_args!("unknown id {position}")))?;
        if slot.is_some() {
            return Err(malformed(format_args!("two answers with id {position}")));
        }
        *slot = Some(response.into_result()?);
    }
    let results: Option<Vec<CallResult>> = results.into_iter().collect();
    results.map(Answer::Results).ok_or_else(|| malformed("an answer is missing in a batch"))
}

pub(crate) fn malformed(why: impl fmt::Display) -> OutageCause {
    OutageCause::Malformed(shorten(&why.to_string()))
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default)]
    id: Value,
    #[serde(default, borrow, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<ErrorBody<'a>>,
}

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(default)]
    code: Value,
    #[serde(default)]
    message: Value,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

/// `null` is a result; only a missing field is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl ErrorBody<'_> {
    fn into_object(self) -> ErrorObject {
        let code = self.code.as_i64().or_else(|| self.code.as_str().and_then(|text| text.parse().ok())).unwrap_or(0);
        let message = self.message.as_str().map_or_else(|| self.message.to_string(), str::to_owned);
        ErrorObject::new(code, &message, self.data)
    }
}

impl Response<'_> {
    /// The position that the id names. A single call's error may come with a null id.
    fn position(&self, calls: usize) -> Result<usize, OutageCause> {
        let id = self.id.as_u64().or_else(|| self.id.as_str().and_then(|text| text.parse().ok()));
        match id {
            Some(id) => usize::try_from(id).map_err(malformed),
            None if calls == 1 && self.error.is_some() => Ok(0),
            None => Err(malformed("an answer without an id")),
        }
    }

    fn into_result(self) -> Result<CallResult, OutageCause> {
        match (self.error, self.result) {
            (Some(error), _) => Ok(Err(error.into_object())),
            (None, Some(result)) => Ok(Ok(result.to_owned())),
            (None, None) => Err(malformed("neither result nor error")),
        }
    }
}
