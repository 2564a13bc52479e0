//! A stand-in for AWS KMS: `GetPublicKey` and `Sign` for one key, behind AWS's own check of a request's signature.
//!
//! Written from AWS's description of Signature Version 4 and sharing nothing with the client: it recomputes each signature
//! from the secret and refuses what does not fit, what is old, and what leaves out of the signature what AWS wants in it. Every
//! second signature that it makes has the higher value of `s`, as about every second one of the real KMS has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{B256, U256};
use alloy::signers::SignerSync as _;
use alloy::signers::k256::ecdsa::Signature;
use alloy::signers::local::PrivateKeySigner;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Id of the credentials that are accepted.
pub const ACCESS_KEY_ID: &str = "AKIASTANDINSTANDIN00";
/// Their secret.
pub const SECRET_ACCESS_KEY: &str = "stand-in/Secret+Access/Key0123456789abcd";
/// Their session token, where one is asked for.
pub const SESSION_TOKEN: &str = "FwoGStandInSessionToken0123456789abcdef==";
/// Token of whoever may fetch temporary credentials.
pub const CONTAINER_TOKEN: &str = "stand-in-container-token";
/// The region that requests have to be signed for.
pub const REGION: &str = "eu-west-3";
/// Alias of the key.
pub const KEY_ID: &str = "alias/transaction-sender";
/// How far a request's time may be off, in seconds.
const SKEW: u64 = 300;
/// secp256k1's order.
const ORDER: U256 = alloy::primitives::uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

/// What the stand-in does with requests that are signed well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// What it is asked for.
    Works,
    /// Refuses with a throttle.
    Throttles,
    /// Refuses for lack of permission, with a text.
    Denies,
    /// Fails with status 500 and a page.
    Fails,
    /// Does not answer.
    Hangs,
    /// Answers with a signature that is none.
    Garbles,
    /// Signs with another key.
    OtherKey,
    /// Signs another digest.
    OtherDigest,
    /// Refuses, and repeats the request's own headers, as AWS does when a signature is wrong.
    Echoes,
    /// Has a key of another kind.
    OtherKind,
}

struct Shared {
    key: PrivateKeySigner,
    mood: Mutex<Mood>,
    /// Whether requests have to come with the session token.
    temporary: bool,
    signed: AtomicUsize,
    forged: AtomicUsize,
    running: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// The running stand-in. Ends when it is dropped.
pub struct AwsKmsStandIn {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for AwsKmsStandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AwsKmsStandIn {
    /// Holds this key, and takes lasting credentials.
    ///
    /// # Panics
    /// Without a free port.
    pub async fn start(key: &PrivateKeySigner) -> Self {
        Self::start_with(key, false).await
    }

    /// The same, with temporary credentials, which `/credentials` gives out as a container's host does.
    ///
    /// # Panics
    /// Without a free port.
    pub async fn start_with(key: &PrivateKeySigner, temporary: bool) -> Self {
        let shared = Arc::new(Shared {
            key: key.clone(),
            mood: Mutex::new(Mood::Works),
            temporary,
            signed: AtomicUsize::new(0),
            forged: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let router =
            Router::new().route("/", post(answer)).route("/credentials", get(credentials)).with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("the stand-in serves") });
        Self { url: format!("http://{address}"), shared, task }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it does from now on.
    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// Right signatures given.
    #[must_use]
    pub fn signed(&self) -> usize {
        self.shared.signed.load(Ordering::SeqCst)
    }

    /// Requests refused because they were not signed as AWS wants it.
    #[must_use]
    pub fn forged(&self) -> usize {
        self.shared.forged.load(Ordering::SeqCst)
    }

    /// Most requests at the same time.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }
}

/// Temporary credentials, as the host of a container gives them out.
async fn credentials(headers: HeaderMap) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|token| token != CONTAINER_TOKEN) {
        return StatusCode::FORBIDDEN.into_response();
    }
    axum::Json(json!({
        "AccessKeyId": ACCESS_KEY_ID,
        "SecretAccessKey": SECRET_ACCESS_KEY,
        "Token": SESSION_TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    }))
    .into_response()
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let running = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most_at_once.fetch_max(running, Ordering::SeqCst);
    let response = decide(&shared, &headers, &body).await;
    shared.running.fetch_sub(1, Ordering::SeqCst);
    response
}

async fn decide(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Response {
    if let Err((kind, text)) = verify(headers, body, shared.temporary) {
        shared.forged.fetch_add(1, Ordering::SeqCst);
        return refuse(kind, text);
    }
    // As far as another region is from here, and so that requests overlap.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mood = *shared.mood.lock().unwrap_or_else(PoisonError::into_inner);
    match mood {
        Mood::Throttles => {
            return refuse("ThrottlingException", "You have exceeded the rate at which you may call KMS.");
        }
        Mood::Denies => {
            let text = "User: arn:aws:iam::111122223333:user/node is not authorized to perform: kms:Sign";
            return refuse("com.amazonaws.kms#AccessDeniedException", text);
        }
        Mood::Fails => return (StatusCode::INTERNAL_SERVER_ERROR, "<html>oops</html>").into_response(),
        Mood::Hangs => std::future::pending().await,
        Mood::Echoes => {
            let told: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}:{}", value.to_str().unwrap_or_default())).collect();
            return refuse("InvalidSignatureException", &told.join(" "));
        }
        _ => {}
    }
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    if asked["KeyId"] != KEY_ID {
        return refuse("NotFoundException", "Alias is not found.");
    }
    match headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        Some("TrentService.GetPublicKey") => public_key(shared, mood),
        Some("TrentService.Sign") => sign(shared, mood, &asked),
        _ => refuse("UnknownOperationException", ""),
    }
}

fn public_key(shared: &Shared, mood: Mood) -> Response {
    let key = if mood == Mood::OtherKey { other_key() } else { shared.key.clone() };
    let point = key.credential().verifying_key().to_encoded_point(false);
    let mut der = vec![0x30, 0x56, 0x30, 0x10];
    // id-ecPublicKey and secp256k1, then a bit string without unused bits.
    der.extend([0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a]);
    der.extend([0x03, 0x42, 0x00]);
    der.extend(point.as_bytes());
    let spec = if mood == Mood::OtherKind { "ECC_NIST_P256" } else { "ECC_SECG_P256K1" };
    axum::Json(json!({
        "KeyId": "arn:aws:kms:eu-west-3:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "PublicKey": BASE64_STANDARD.encode(der),
        "CustomerMasterKeySpec": spec,
        "KeySpec": spec,
        "KeyUsage": "SIGN_VERIFY",
        "SigningAlgorithms": ["ECDSA_SHA_256"],
    }))
    .into_response()
}

fn sign(shared: &Shared, mood: Mood, asked: &Value) -> Response {
    let digest = asked["Message"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    let digest = digest.and_then(|bytes| B256::try_from(bytes.as_slice()).ok());
    let (Some(digest), true) =
        (digest, asked["MessageType"] == "DIGEST" && asked["SigningAlgorithm"] == "ECDSA_SHA_256")
    else {
        return refuse("ValidationException", "Digest is invalid length for algorithm ECDSA_SHA_256.");
    };
    let der = match mood {
        Mood::Garbles => b"no signature".to_vec(),
        Mood::OtherKey => der_of(&other_key(), digest, false),
        Mood::OtherDigest => der_of(&shared.key, B256::repeat_byte(1), false),
        _ => {
            let count = shared.signed.fetch_add(1, Ordering::SeqCst);
            der_of(&shared.key, digest, count % 2 == 1)
        }
    };
    axum::Json(json!({
        "KeyId": "arn:aws:kms:eu-west-3:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "Signature": BASE64_STANDARD.encode(der),
        "SigningAlgorithm": "ECDSA_SHA_256",
    }))
    .into_response()
}

fn other_key() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[0x33; 32]).expect("a key")
}

fn der_of(key: &PrivateKeySigner, digest: B256, high: bool) -> Vec<u8> {
    let low = key.sign_hash_sync(&digest).expect("a key in memory signs");
    let s = if high { ORDER - low.s() } else { low.s() };
    let signature = Signature::from_scalars(low.r().to_be_bytes::<32>(), s.to_be_bytes::<32>()).expect("a signature");
    signature.to_der().as_bytes().to_vec()
}

fn refuse(kind: &str, message: &str) -> Response {
    let body = json!({"__type": kind, "message": message}).to_string();
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}

/// AWS's check of a request's signature, Signature Version 4.
fn verify(headers: &HeaderMap, body: &[u8], temporary: bool) -> Result<(), (&'static str, &'static str)> {
    let incomplete = ("IncompleteSignatureException", "the Authorization header is incomplete");
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = value("authorization").ok_or(("MissingAuthenticationTokenException", "not signed"))?;
    let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(incomplete)?;
    let parts: BTreeMap<&str, &str> = parts.split(',').filter_map(|part| part.trim().split_once('=')).collect();
    let part = |name: &str| parts.get(name).copied().ok_or(incomplete);
    let (credential, names, signature) = (part("Credential")?, part("SignedHeaders")?, part("Signature")?);

    let date = value("x-amz-date").ok_or(incomplete)?;
    let day = date.get(..8).ok_or(incomplete)?;
    let scope = format!("{day}/{REGION}/kms/aws4_request");
    if credential != format!("{ACCESS_KEY_ID}/{scope}") {
        return Err(("UnrecognizedClientException", "The security token included in the request is invalid."));
    }
    if seconds(date).ok_or(incomplete)?.abs_diff(now()) > SKEW {
        return Err(("InvalidSignatureException", "Signature expired."));
    }
    if temporary && value("x-amz-security-token") != Some(SESSION_TOKEN) {
        return Err(("UnrecognizedClientException", "The security token included in the request is invalid."));
    }

    let signed: Vec<&str> = names.split(';').collect();
    let mut wanted = vec!["host", "x-amz-date", "x-amz-target"];
    wanted.extend(headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-amz-")));
    if !signed.is_sorted() || !wanted.iter().all(|name| signed.contains(name)) {
        return Err(("InvalidSignatureException", "'Host' and every 'X-Amz-' header must be signed, in order."));
    }
    let mut canonical = "POST\n/\n\n".to_owned();
    for name in &signed {
        let value = value(name).ok_or(incomplete)?;
        canonical += &format!("{name}:{}\n", value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    canonical += &format!("\n{names}\n{}", hex::encode(Sha256::digest(body)));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let mut key = format!("AWS4{SECRET_ACCESS_KEY}").into_bytes();
    for part in [day, REGION, "kms", "aws4_request", &to_sign] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length is a key");
        mac.update(part.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    let text = "The request signature we calculated does not match the signature you provided.";
    if hex::encode(key) == signature { Ok(()) } else { Err(("InvalidSignatureException", text)) }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Seconds since 1970 of a time like `20261125T083000Z`.
fn seconds(date: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| date.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    if date.len() != 16 || year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = lengths.iter().take(usize::try_from(month).ok()? - 1).sum();
    Some((years + months + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn a_requests_time_is_read_as_aws_writes_it() {
        assert_eq!(seconds("19700101T000000Z"), Some(0));
        assert_eq!(seconds("20240229T235959Z"), Some(1_709_251_199));
        assert_eq!(seconds("20261125T083000Z"), Some(1_795_595_400));
        assert_eq!(seconds("yesterday"), None);
    }
}
