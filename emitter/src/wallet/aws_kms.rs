//! A key that never leaves AWS KMS: the two calls that a sender needs, `GetPublicKey` and `Sign`.
//!
//! Not by alloy's signer: it stands on AWS's SDK, 35 crates and 130 000 lines for two calls. What is hard about them, the
//! signature of the requests (SigV4) and the many places where AWS clients find their credentials, is `reqsign`'s.
//!
//! Every failure here is an outage: KMS, its network and its permissions can all be mended while answers wait. Nothing that KMS
//! says is believed: a signature is only one if it recovers to the account.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, Signature, hex};
use alloy::signers::k256::ecdsa::{self, VerifyingKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use kms_runtime::config::{Endpoint, Secret};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, Env, FileRead, HttpSend, OsEnv, Signer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

/// Largest answer that is read. A signature takes 200 bytes, a public key 700.
const MOST_BYTES: usize = 64 << 10;
/// Longest word of AWS in an error.
const MOST_TEXT: usize = 300;
/// What precedes the point in the DER of a public key on secp256k1: algorithm id-ecPublicKey, this curve, 65 bytes uncompressed.
const POINT_HEADER: [u8; 23] = hex!("3056301006072a8648ce3d020106052b8104000a034200");

/// Which key, and how AWS is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Id, ARN or alias of the key.
    pub key_id: String,
    /// Its region.
    pub region: String,
    /// In place of the region's endpoint.
    pub endpoint: Option<Endpoint>,
    /// In place of what the environment offers.
    pub credentials: Option<Credentials>,
    /// How long one call may take, credentials included.
    pub timeout: Duration,
    /// Calls at once.
    pub concurrency: usize,
}

/// Fixed credentials.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

/// Why KMS did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AwsKmsError {
    /// Nothing to sign requests with.
    #[error(
        "is not asked, for lack of credentials: none are good in the environment, a profile, a web identity, the container or \
         the instance ({0})"
    )]
    Credentials(String),
    /// The deadline passed.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// No connection, or it broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// KMS said no.
    #[error("refuses with status {status}, {kind}{text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// AWS's name of the error.
        kind: String,
        /// What AWS says to it, after a colon; empty where that could repeat something secret.
        text: String,
    },
    /// The answer cannot be read.
    #[error("answers with what is no {0}")]
    Garbled(&'static str),
    /// The key cannot sign transactions.
    #[error("the key is of another kind ({0}): one of ECC_SECG_P256K1 for SIGN_VERIFY is needed")]
    KeyKind(String),
    /// A signature of some other key or digest. It is thrown away.
    #[error("signed with another key than that of {0}, or something else than was asked for")]
    Foreign(Address),
}

impl AwsKmsError {
    /// A short name, for a metric's label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "credentials",
            Self::TimedOut(_) => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Garbled(_) => "garbled",
            Self::KeyKind(_) => "key_kind",
            Self::Foreign(_) => "foreign",
        }
    }
}

/// A client for one key.
pub struct AwsKms {
    key_id: String,
    url: String,
    http: reqwest::Client,
    signer: Signer<Credential>,
    timeout: Duration,
    permits: Semaphore,
}

impl fmt::Debug for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKms").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl AwsKms {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// What the HTTP client lacks on this machine.
    pub fn new(settings: Settings) -> Result<Arc<Self>, String> {
        Self::in_environment(settings, OsEnv)
    }

    /// The same, with credentials looked for in another environment than this process's.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_environment(settings: Settings, environment: impl Env) -> Result<Arc<Self>, String> {
        let Settings { key_id, region, endpoint, credentials, timeout, concurrency } = settings;
        let url = endpoint.map_or_else(|| endpoint_of(&region), |endpoint| endpoint.expose().to_string());
        let http = client(&url, timeout)?;
        let context = Context::new().with_env(environment).with_file_read(Files).with_http_send(Web(http.clone()));
        let requests = RequestSigner::new("kms", &region);
        let signer = match credentials {
            Some(fixed) => {
                let mut provider =
                    StaticCredentialProvider::new(&fixed.access_key_id, fixed.secret_access_key.expose());
                if let Some(token) = &fixed.session_token {
                    provider = provider.with_session_token(token.expose());
                }
                Signer::new(context, provider, requests)
            }
            // Those of a person at a desk, single sign-on and programs to be run, are no matter for a service.
            None => {
                let provider = DefaultCredentialProvider::builder().no_sso().no_process().build();
                Signer::new(context, provider, requests)
            }
        };
        Ok(Arc::new(Self { key_id, url, http, signer, timeout, permits: Semaphore::new(concurrency) }))
    }

    /// The account whose key this is.
    ///
    /// # Errors
    /// See [`AwsKmsError`].
    pub async fn address(&self) -> Result<Address, AwsKmsError> {
        let asked = json!({"KeyId": self.key_id});
        let told: PublicKey = self.call("TrentService.GetPublicKey", &asked, "public key").await?;
        let kind = told.key_spec.or(told.customer_master_key_spec).unwrap_or_default();
        if kind != "ECC_SECG_P256K1" || told.key_usage.as_deref() != Some("SIGN_VERIFY") {
            let usage = told.key_usage.unwrap_or_default();
            return Err(AwsKmsError::KeyKind(word(&format!("{kind} {usage}"))));
        }
        let garbled = AwsKmsError::Garbled("public key");
        let der = BASE64_STANDARD.decode(&told.public_key).map_err(|_| garbled.clone())?;
        let point = der.strip_prefix(POINT_HEADER.as_slice()).ok_or_else(|| garbled.clone())?;
        let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| garbled)?;
        Ok(Address::from_public_key(&key))
    }

    /// Signs a digest for the account.
    ///
    /// # Errors
    /// See [`AwsKmsError`]; [`AwsKmsError::Foreign`] for a signature that does not recover to `account`.
    pub async fn sign(&self, digest: B256, account: Address) -> Result<Signature, AwsKmsError> {
        let asked = json!({
            "KeyId": self.key_id,
            "Message": BASE64_STANDARD.encode(digest),
            "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_256",
        });
        let told: Signed = self.call("TrentService.Sign", &asked, "signature").await?;
        let garbled = AwsKmsError::Garbled("signature");
        let der = BASE64_STANDARD.decode(&told.signature).map_err(|_| garbled.clone())?;
        let signature = ecdsa::Signature::from_der(&der).map_err(|_| garbled)?;
        recoverable(&signature, digest, account).ok_or(AwsKmsError::Foreign(account))
    }

    /// One call of KMS's JSON protocol, within the deadline; waiting for a turn does not count.
    async fn call<T: DeserializeOwned>(
        &self,
        target: &'static str,
        body: &serde_json::Value,
        wanted: &'static str,
    ) -> Result<T, AwsKmsError> {
        // It is never closed.
        let _turn = self.permits.acquire().await;
        let answer = tokio::time::timeout(self.timeout, self.exchange(target, Bytes::from(body.to_string())));
        let answer = answer.await.map_err(|_| AwsKmsError::TimedOut(self.timeout))??;
        serde_json::from_slice(&answer).map_err(|_| AwsKmsError::Garbled(wanted))
    }

    async fn exchange(&self, target: &'static str, body: Bytes) -> Result<Bytes, AwsKmsError> {
        let request = http::Request::post(&self.url)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", target)
            .header("x-amz-content-sha256", hex::encode(Sha256::digest(&body)))
            .body(())
            .map_err(|error| AwsKmsError::Unreachable(error.to_string()))?;
        let (mut head, ()) = request.into_parts();
        let signed = self.signer.sign(&mut head, None).await;
        signed.map_err(|error| AwsKmsError::Credentials(word(&error.to_string())))?;
        let sent: Vec<String> = ["authorization", "x-amz-security-token"]
            .iter()
            .filter_map(|name| head.headers.get(*name)?.to_str().ok().map(str::to_owned))
            .collect();
        let request = reqwest::Request::try_from(http::Request::from_parts(head, body)).map_err(unreachable)?;
        let mut answer = self.http.execute(request).await.map_err(unreachable)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > MOST_BYTES {
                return Err(AwsKmsError::Garbled("answer of AWS KMS"));
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() { Ok(bytes.into()) } else { Err(refusal(status.as_u16(), &bytes, &sent)) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublicKey {
    public_key: String,
    key_spec: Option<String>,
    /// The older name of the same.
    customer_master_key_spec: Option<String>,
    key_usage: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Signed {
    signature: String,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

/// What AWS says to a failure. Its word on a wrong signature holds the request's headers: of that only the beginning is
/// kept, and nothing at all where it repeats what the request proved itself with.
fn refusal(status: u16, body: &[u8], sent: &[String]) -> AwsKmsError {
    let told: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let kind = told.kind.rsplit('#').next().unwrap_or_default();
    let kind: String = kind.chars().filter(char::is_ascii_alphanumeric).take(80).collect();
    let kind = if kind.is_empty() { "an unnamed error".to_owned() } else { kind };
    let text = word(&told.message);
    let parts = sent.iter().flat_map(|header| header.split([' ', ',', '=', '/']));
    let repeats = parts.filter(|part| part.len() >= 16).any(|part| told.message.contains(part));
    let text = if text.is_empty() || repeats { String::new() } else { format!(": {text}") };
    AwsKmsError::Refused { status, kind, text }
}

/// The beginning of what others say.
fn word(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|char| !char.is_control()).take(MOST_TEXT).collect()
}

fn unreachable(error: reqwest::Error) -> AwsKmsError {
    AwsKmsError::Unreachable(innermost(error))
}

/// The reason that helps, without the URL.
fn innermost(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut reason: &dyn std::error::Error = &error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    word(&reason.to_string())
}

/// The signature in the form that transactions carry: the lower of both values of `s`, with the parity by which it
/// recovers to the account. KMS gives neither.
fn recoverable(signature: &ecdsa::Signature, digest: B256, account: Address) -> Option<Signature> {
    let low = signature.normalize_s().unwrap_or(*signature);
    [false, true]
        .into_iter()
        .map(|parity| Signature::from_signature_and_parity(low, parity))
        .find(|one| one.recover_address_from_prehash(&digest).is_ok_and(|found| found == account))
}

fn endpoint_of(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://kms.{region}.{domain}/")
}

/// The region of a key: as given, as its ARN says, or of the environment, as AWS's clients take it.
///
/// # Errors
/// There is none, or there are two: why.
pub fn region(given: Option<&str>, key_id: &str) -> Result<String, String> {
    let of_environment = || {
        let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(set)
    };
    let region = match (given, region_of(key_id)) {
        (Some(given), Some(in_arn)) if given != in_arn => {
            return Err(format!("is {given}, the key's ARN says {in_arn}"));
        }
        (Some(region), _) | (None, Some(region)) => region.to_owned(),
        (None, None) => of_environment()
            .ok_or("required: neither the key's id nor AWS_REGION in the environment names the key's region")?,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if region.is_empty() || !region.bytes().all(is_name) {
        return Err(format!("`{region}` is no name of a region"));
    }
    Ok(region)
}

/// The region in a key's ARN, `arn:aws:kms:REGION:account:key/…`.
fn region_of(key_id: &str) -> Option<&str> {
    let mut parts = key_id.split(':');
    let is_arn = parts.next() == Some("arn") && parts.next().is_some() && parts.next() == Some("kms");
    parts.next().filter(|region| is_arn && !region.is_empty())
}

fn client(url: &str, timeout: Duration) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        // Instances are asked for credentials last, and elsewhere nobody is there: room for a word on that is left.
        .connect_timeout(timeout / 4)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none());
    if url.starts_with("http://") {
        // A stand-in on this machine: no certificates are needed, and a machine without any must not be refused.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder = builder.no_proxy().tls_backend_preconfigured(tls);
    } else {
        kms_runtime::telemetry::install_tls_provider();
    }
    builder.build().map_err(innermost)
}

/// How credentials that others give out are fetched.
#[derive(Clone, Debug)]
struct Web(reqwest::Client);

impl HttpSend for Web {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = |error: reqwest::Error| reqsign_core::Error::unexpected(innermost(error)).set_retryable(true);
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let answer = self.0.execute(request).await.map_err(failed)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut response = http::Response::new(answer.bytes().await.map_err(failed)?);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// How profiles and tokens are read.
#[derive(Clone, Copy, Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let failed = |error: std::io::Error| reqsign_core::Error::config_invalid(error.to_string());
        tokio::fs::read(path).await.map_err(failed)
    }
}

#[cfg(test)]
mod tests;
