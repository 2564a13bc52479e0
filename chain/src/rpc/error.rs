//! Errors of the RPC client. The first question about any of them is whether the chain has spoken at all.

use std::fmt;
use std::time::Duration;

use alloy::primitives::Bytes;
use serde_json::value::RawValue;

/// Why a call has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RpcError {
    /// No endpoint gave an answer. Never a verdict: the same call may succeed at any time.
    #[error("{method}: no answer from {endpoints} RPC endpoint(s), last: {cause}")]
    Outage {
        /// The method.
        method: &'static str,
        /// How many endpoints were tried.
        endpoints: usize,
        /// What happened at the last of them.
        cause: OutageCause,
    },
    /// Every endpoint that answered is behind the block that is needed. Passes by itself, like an outage.
    #[error("{method}: needs block {needed}, and the RPC endpoints are at {best} at most")]
    Lagging {
        /// The method.
        method: &'static str,
        /// The block that is needed.
        needed: u64,
        /// The highest head among the endpoints that answered.
        best: u64,
    },
    /// A node answered with an error.
    #[error("{method}: the node answered with error {code}: {message}")]
    Response {
        /// The method.
        method: &'static str,
        /// JSON-RPC error code.
        code: i64,
        /// The node's message, shortened.
        message: String,
        /// Revert data, where the node gave some.
        data: Option<Bytes>,
    },
    /// `eth_getLogs` over this range is more than the node returns: ask for a smaller one.
    #[error("eth_getLogs: the range is too large for the node: {message}")]
    LogRangeTooLarge {
        /// The node's message, shortened.
        message: String,
    },
}

impl RpcError {
    /// Whether the chain has not spoken: wait and ask again, and count nothing against the request.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Outage { .. } | Self::Lagging { .. })
    }

    /// Whether it certainly says nothing about what was called: nobody answered, or the node speaks of its own state, limits or
    /// time. A contract, and whoever chooses its arguments, cause none of these.
    #[must_use]
    pub fn is_about_the_node(&self) -> bool {
        match self {
            Self::Outage { .. } | Self::Lagging { .. } => true,
            Self::Response { code, message, .. } => {
                let object = ErrorObject::new(*code, message, None);
                let text = message.to_ascii_lowercase();
                object.is_rate_limit()
                    || object.is_unknown_method()
                    || object.is_unknown_block()
                    || NODE_TEXTS.iter().any(|known| text.contains(known))
            }
            Self::LogRangeTooLarge { .. } => false,
        }
    }

    /// The stable code (`docs/errors.md`).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Outage { cause: OutageCause::WrongChain { .. }, .. } => crate::codes::RPC_WRONG_CHAIN,
            Self::Outage { .. } => crate::codes::RPC_OUTAGE,
            Self::Lagging { .. } => crate::codes::RPC_LAGGING,
            Self::Response { .. } => crate::codes::RPC_REFUSED,
            Self::LogRangeTooLarge { .. } => crate::codes::LOG_RANGE_TOO_LARGE,
        }
    }
}

/// What happened instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutageCause {
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// No answer in time. The call may have had its effect.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke. The call may have had its effect.
    #[error("connection failed: {0}")]
    Transport(String),
    /// An HTTP error without a JSON-RPC answer.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The provider limits the rate.
    #[error("rate limited: {0}")]
    RateLimited(String),
    /// The answer is no JSON-RPC, or not of the method's type.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// The answer is longer than the configured limit, in bytes.
    #[error("the answer exceeds {0} bytes")]
    TooLarge(usize),
    /// The endpoint serves another chain.
    #[error("the endpoint serves chain {found} instead of {expected}")]
    WrongChain {
        /// Configured chain id.
        expected: u64,
        /// Reported chain id.
        found: u64,
    },
    /// The endpoint is far behind the others.
    #[error("head {head} is far behind {best}")]
    FarBehind {
        /// Head of the endpoint.
        head: u64,
        /// Head that the others have reached.
        best: u64,
    },
}

impl OutageCause {
    /// Name of the outcome in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Timeout(_) => "timeout",
            Self::Transport(_) => "transport",
            Self::Status(_) => "status",
            Self::RateLimited(_) => "rate_limited",
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too_large",
            Self::WrongChain { .. } => "wrong_chain",
            Self::FarBehind { .. } => "far_behind",
        }
    }

    /// Whether the request certainly never reached the node.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::WrongChain { .. })
    }
}

/// A JSON-RPC error object.
#[derive(Clone, Debug)]
pub struct ErrorObject {
    /// JSON-RPC error code.
    pub code: i64,
    /// The node's message, shortened to 1 KiB.
    pub message: String,
    /// Everything else that the node said, shortened to what [`Self::revert_data`] needs.
    pub(crate) data: Option<String>,
}

/// Longest message that is kept, in bytes.
const MAX_MESSAGE: usize = 1024;
/// Longest error data that is kept, in bytes of JSON.
const MAX_DATA: usize = 256 * 1024;

impl ErrorObject {
    pub(crate) fn new(code: i64, message: &str, data: Option<&RawValue>) -> Self {
        let data = data.map(RawValue::get).filter(|json| json.len() <= MAX_DATA && *json != "null").map(str::to_owned);
        Self { code, message: shorten(message), data }
    }

    pub(crate) fn into_error(self, method: &'static str) -> RpcError {
        let data = self.revert_data();
        RpcError::Response { method, code: self.code, message: self.message, data }
    }

    /// Revert data, in the places where nodes put it: `data` itself, `data.data`, or the end of a text.
    #[must_use]
    pub fn revert_data(&self) -> Option<Bytes> {
        let value: serde_json::Value = serde_json::from_str(self.data.as_ref()?).ok()?;
        let text = value.as_str().or_else(|| value.get("data").and_then(serde_json::Value::as_str))?;
        let hex_digits = text.rsplit(' ').next().unwrap_or(text);
        hex_digits.starts_with("0x").then(|| hex_digits.parse().ok()).flatten()
    }

    /// Whether a call was executed and failed, as opposed to not executed at all. Only a revert has a code of its own, and not at every
    /// node.
    pub(crate) fn is_revert(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        self.code == 3 || FAILED_EXECUTION.iter().any(|known| message.contains(known))
    }

    /// Whether the provider limits the rate. What a call came to is none, whatever the contract writes into its reason.
    pub(crate) fn is_rate_limit(&self) -> bool {
        if self.is_revert() || self.revert_data().is_some() {
            return false;
        }
        let message = self.message.to_ascii_lowercase();
        let says_so =
            ["rate limit", "too many requests", "compute units per second", "request limit", "capacity exceeded"]
                .iter()
                .any(|text| message.contains(text));
        self.code == 429 || says_so || (self.code == -32005 && !self.is_log_range())
    }

    /// Whether `eth_getLogs` was refused for the size of its range or result. There is no code for it: every provider
    /// has a text, and some put it into `data`.
    pub(crate) fn is_log_range(&self) -> bool {
        let mut text = self.message.to_ascii_lowercase();
        if let Some(data) = &self.data {
            text.push(' ');
            text.push_str(&data.to_ascii_lowercase());
        }
        self.code == -32614 || LOG_RANGE_TEXTS.iter().any(|known| known.iter().all(|part| text.contains(part)))
    }

    pub(crate) fn is_unknown_method(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        let gone = ["not found", "does not exist", "not available", "not supported", "unsupported"];
        self.code == -32601 || (message.contains("method") && gone.iter().any(|text| message.contains(text)))
    }

    /// Whether the node says that it does not know the block (yet).
    pub(crate) fn is_unknown_block(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        let unknown = ["not found", "unknown block", "not available", "out of range", "outofrange"];
        !self.is_unknown_method() && unknown.iter().any(|text| message.contains(text))
    }
}

/// What nodes write about a call that was executed and did not end well. Geth gives the errors of its machine with the code of any other
/// failure and without data.
const FAILED_EXECUTION: &[&str] = &[
    "execution reverted",
    "vm execution error",
    "vm exception",
    "evm error",
    "out of gas",
    "invalid opcode",
    "invalid jump destination",
    "stack underflow",
    "stack limit reached",
    "write protection",
    "return data out of bounds",
    "gas uint64 overflow",
];

/// What nodes write about themselves when they do not carry out a call.
const NODE_TEXTS: &[&str] = &[
    "missing trie node",
    "state not available",
    "state is not available",
    "state unavailable",
    "pruned",
    "syncing",
    "not synced",
    "timeout",
    "timed out",
];

/// Parts of texts that all stand in the messages of one provider or node.
const LOG_RANGE_TEXTS: &[&[&str]] = &[
    // Infura, geth with a limit, Erigon
    &["query returned more than"],
    &["range", "exceeds limit"],
    &["exceed", "block range"],
    // Alchemy
    &["log response size exceeded"],
    &["eth_getlogs requests with up to a"],
    // QuickNode
    &["limited to a", "range"],
    // reth
    &["query exceeds max"],
    // various
    &["block range", "too"],
    &["block range", "larger"],
    &["block range", "bigger"],
    &["block range limit"],
    &["max block range"],
    &["maximum block range"],
    &["max range"],
    &["bigger than range limit"],
    &["range is too"],
    &["range too"],
    &["too many results"],
    &["too many logs"],
    &["logs matched by query exceeds limit"],
    &["response size exceed"],
    &["response size is larger"],
    &["response too large"],
    &["response is too big"],
    &["query timeout exceeded"],
    &["query timeout"],
];

pub(crate) fn shorten(text: &str) -> String {
    let end = (0..=text.len().min(MAX_MESSAGE)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

/// Why a call of a contract has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The call was executed and reverted with this data.
    #[error("{}", crate::revert::Revert::decode(.0))]
    Reverted(Bytes),
    /// The call was not executed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

impl CallError {
    pub(crate) fn from_object(object: ErrorObject, method: &'static str) -> Self {
        match object.revert_data() {
            Some(data) => Self::Reverted(data),
            None if object.is_revert() => Self::Reverted(Bytes::new()),
            None => Self::Rpc(object.into_error(method)),
        }
    }

    /// Whether the chain has not spoken.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Rpc(error) if error.is_outage())
    }
}

impl fmt::Display for ErrorObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}", self.code, self.message)
    }
}
