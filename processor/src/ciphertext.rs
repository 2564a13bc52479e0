//! Fetches the ciphertexts of a decryption from the coprocessors' buckets (`docs/protocol.md`, "Ciphertext location").
//!
//! A body is believed when its keccak256 is the digest that the chain names, so it does not matter which bucket it came from.
//! What bounds memory: one object, one request, and all requests together have limits of their own.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, keccak256};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use kms_proto::kms::v1::CiphertextFormat;
use kms_schemas::record::CiphertextMaterial;
use reqwest::header::HeaderMap;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::codes;
use crate::config::CiphertextsConfig;
use crate::coprocessors::Coprocessors;
use crate::error::Trouble;
use crate::metrics;

/// The buckets' name in outages.
pub const BUCKETS: &str = "ciphertext_buckets";

/// Header with the ciphertext's format; names are case-insensitive.
const FORMAT_HEADER: &str = "x-amz-meta-ct-format";

/// One ciphertext, ready for KMS Core.
#[derive(Clone, Debug)]
pub struct Ciphertext {
    /// The object's bytes, unchanged.
    pub body: Bytes,
    /// How KMS Core has to read them.
    pub format: CiphertextFormat,
}

/// The ciphertexts of one request, with the memory they hold.
#[derive(Debug)]
pub struct Fetched {
    /// One per material, in request order; a handle that stands twice is there twice.
    pub ciphertexts: Vec<Ciphertext>,
    _held: Vec<Held>,
}

/// A share of the memory for bodies. Whoever finds no share left waits for the one overflow place, so that requests that each
/// hold a part can never wait for each other for ever.
#[derive(Debug)]
enum Held {
    Share(#[allow(dead_code)] OwnedSemaphorePermit),
    Overflow(#[allow(dead_code)] OwnedMutexGuard<()>),
}

/// Fetches ciphertexts.
#[derive(Clone, Debug)]
pub struct CiphertextStore {
    client: reqwest::Client,
    coprocessors: Coprocessors,
    memory: Arc<Semaphore>,
    overflow: Arc<Mutex<()>>,
    config: CiphertextsConfig,
}

/// Bytes per permit of the memory semaphore, whose count is a `u32`.
const PERMIT_BYTES: u64 = 1024;

/// Why one bucket did not deliver.
#[derive(Debug, thiserror::Error)]
enum BucketError {
    #[error("{0}")]
    Unreachable(String),
    #[error("http status {0}")]
    Status(u16),
    #[error("body of {0} bytes or more, limit {1}")]
    TooLarge(u64, u64),
    #[error("body has keccak256 {0}")]
    WrongDigest(B256),
}

impl BucketError {
    /// An outage says nothing about whether the object exists.
    const fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status(status) => *status >= 500 || *status == 429 || *status == 408,
            Self::TooLarge(..) | Self::WrongDigest(_) => false,
        }
    }
}

impl CiphertextStore {
    /// A store that finds buckets through `coprocessors`.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn new(config: CiphertextsConfig, coprocessors: Coprocessors) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .read_timeout(Duration::from_millis(config.read_timeout_ms))
            .timeout(Duration::from_millis(config.object_timeout_ms))
            // A registered bucket answers itself; a redirect could point anywhere inside the operator's network.
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(64)
            .build()?;
        let permits = (config.max_buffered_bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS as u64);
        Ok(Self {
            client,
            coprocessors,
            memory: Arc::new(Semaphore::new(usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS))),
            overflow: Arc::new(Mutex::new(())),
            config,
        })
    }

    /// Fetches every ciphertext of a request, a few at a time, in request order.
    ///
    /// # Errors
    /// [`Trouble::Outage`] while some bucket could not be asked, [`Trouble::MayHeal`] when all answered and none had the object,
    /// [`Trouble::Permanent`] when the request is larger than KMS Core takes.
    pub async fn fetch(&self, materials: &[CiphertextMaterial]) -> Result<Fetched, Trouble> {
        let reservation = Reservation { store: self, held: Mutex::new(Vec::new()) };
        let mut ciphertexts: Vec<Ciphertext> = Vec::with_capacity(materials.len());
        let mut total = 0_u64;
        {
            let parallel = self.config.parallel_per_request.max(1);
            let fetches: Vec<_> = materials.iter().map(|material| self.fetch_one(material, &reservation)).collect();
            let mut fetches = futures::stream::iter(fetches).buffered(parallel);
            while let Some(ciphertext) = fetches.next().await {
                let ciphertext = ciphertext?;
                total += ciphertext.body.len() as u64;
                if total > self.config.max_request_bytes {
                    return Err(Trouble::permanent(
                        codes::REQUEST_TOO_LARGE,
                        format!(
                            "ciphertexts of {total} bytes or more for {} handles, limit {}",
                            materials.len(),
                            self.config.max_request_bytes
                        ),
                    ));
                }
                ciphertexts.push(ciphertext);
            }
        }
        Ok(Fetched { ciphertexts, _held: reservation.held.into_inner() })
    }

    async fn fetch_one(
        &self,
        material: &CiphertextMaterial,
        reservation: &Reservation<'_>,
    ) -> Result<Ciphertext, Trouble> {
        let buckets = self.coprocessors.buckets(&material.coprocessors).await?;
        if buckets.is_empty() {
            return Err(Trouble::may_heal(
                codes::NO_BUCKET,
                format!(
                    "none of {} coprocessors of handle {} has a bucket",
                    material.coprocessors.len(),
                    material.handle
                ),
            ));
        }
        let mut failures: Vec<(Address, BucketError)> = Vec::new();
        let mut reserved = 0;
        for round in 0..self.config.rounds.max(1) {
            if round > 0 {
                tokio::time::sleep(Duration::from_millis(self.config.round_pause_ms)).await;
            }
            failures.clear();
            for (coprocessor, url) in &buckets {
                match self.fetch_from(url, material.digest, reservation, &mut reserved).await {
                    Ok(ciphertext) => return Ok(ciphertext),
                    Err(error) => {
                        metrics::bucket_failed(error_label(&error));
                        failures.push((*coprocessor, error));
                    }
                }
            }
            // Buckets that answered will not change their mind within a round's pause.
            if !failures.iter().any(|(_, error)| error.is_outage()) {
                break;
            }
        }
        Err(verdict(material, &failures))
    }

    async fn fetch_from(
        &self,
        bucket: &str,
        digest: B256,
        reservation: &Reservation<'_>,
        reserved: &mut u64,
    ) -> Result<Ciphertext, BucketError> {
        let url = format!("{}/{}", bucket.trim_end_matches('/'), hex::encode(digest));
        let response = self.client.get(&url).send().await.map_err(|error| BucketError::Unreachable(chain(&error)))?;
        if !response.status().is_success() {
            return Err(BucketError::Status(response.status().as_u16()));
        }
        let limit = self.config.max_object_bytes;
        let announced = response.content_length();
        if let Some(length) = announced.filter(|length| *length > limit) {
            return Err(BucketError::TooLarge(length, limit));
        }
        let format = format_of(response.headers());
        let needed = announced.unwrap_or(limit);
        if needed > *reserved {
            reservation.grow(needed - *reserved).await;
            *reserved = needed;
        }
        let mut body = BytesMut::with_capacity(usize::try_from(announced.unwrap_or(0)).unwrap_or(0));
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| BucketError::Unreachable(chain(&error)))?;
            let length = (body.len() + chunk.len()) as u64;
            if length > limit {
                return Err(BucketError::TooLarge(length, limit));
            }
            body.extend_from_slice(&chunk);
        }
        let actual = keccak256(&body);
        if actual != digest {
            return Err(BucketError::WrongDigest(actual));
        }
        metrics::ciphertext_fetched(body.len());
        Ok(Ciphertext { body: body.freeze(), format })
    }
}

/// The memory that one request holds while its ciphertexts are in the process.
#[derive(Debug)]
struct Reservation<'a> {
    store: &'a CiphertextStore,
    held: Mutex<Vec<Held>>,
}

impl Reservation<'_> {
    /// Takes `bytes` more. A request in the overflow place is bounded by the limit of one request and needs no more shares.
    async fn grow(&self, bytes: u64) {
        let mut held = self.held.lock().await;
        if held.iter().any(|held| matches!(held, Held::Overflow(_))) {
            return;
        }
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES).max(1)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.store.memory).try_acquire_many_owned(permits) {
            held.push(Held::Share(permit));
            return;
        }
        metrics::memory_waited();
        let share = tokio::select! {
            biased;
            Ok(permit) = Arc::clone(&self.store.memory).acquire_many_owned(permits) => Held::Share(permit),
            guard = Arc::clone(&self.store.overflow).lock_owned() => Held::Overflow(guard),
        };
        held.push(share);
    }
}

/// One unreachable bucket leaves the question open; only when all answered is the object known to be missing.
fn verdict(material: &CiphertextMaterial, failures: &[(Address, BucketError)]) -> Trouble {
    let text = failures.iter().map(|(who, error)| format!("{who}: {error}")).collect::<Vec<_>>().join("; ");
    let text = format!("ciphertext {} of handle {}: {text}", material.digest, material.handle);
    if failures.iter().any(|(_, error)| error.is_outage()) {
        Trouble::outage(codes::BUCKETS_UNREACHABLE, BUCKETS, text)
    } else {
        Trouble::may_heal(codes::CIPHERTEXT_MISSING, text)
    }
}

fn error_label(error: &BucketError) -> &'static str {
    match error {
        BucketError::Unreachable(_) => "unreachable",
        BucketError::Status(404 | 403) => "missing",
        BucketError::Status(_) => "status",
        BucketError::TooLarge(..) => "too_large",
        BucketError::WrongDigest(_) => "wrong_digest",
    }
}

/// The reason behind reqwest's terse top line, without the URL (a registered URL may hold credentials).
fn chain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "timed out".to_owned() } else { "request failed".to_owned() };
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Anything but the two compressed names, also no header at all, means expanded.
fn format_of(headers: &HeaderMap) -> CiphertextFormat {
    match headers.get(FORMAT_HEADER).map(reqwest::header::HeaderValue::as_bytes) {
        Some(b"compressed_on_cpu" | b"compressed_on_gpu") => CiphertextFormat::BigCompressed,
        _ => CiphertextFormat::BigExpanded,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use alloy::primitives::address;
    use kms_schemas::identity::RequestId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const FIRST: Address = address!("00000000000000000000000000000000000000c1");
    const SECOND: Address = address!("00000000000000000000000000000000000000c2");

    #[derive(Clone)]
    struct Object {
        status: u16,
        format: Option<&'static str>,
        body: Vec<u8>,
    }

    /// A bucket over HTTP/1.1 that serves these objects by the last part of the path, and 404 for others.
    async fn bucket(objects: HashMap<String, Object>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/bucket", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let objects = objects.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    let mut chunk = [0; 1024];
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut chunk).await {
                            Ok(0) | Err(_) => return,
                            Ok(read) => request.extend_from_slice(&chunk[..read]),
                        }
                    }
                    let request = String::from_utf8_lossy(&request).into_owned();
                    let path = request.split_whitespace().nth(1).unwrap_or_default();
                    let key = path.rsplit('/').next().unwrap_or_default();
                    let missing = Object { status: 404, format: None, body: Vec::new() };
                    let object = objects.get(key).unwrap_or(&missing);
                    let format =
                        object.format.map(|format| format!("X-Amz-Meta-Ct-Format: {format}\r\n")).unwrap_or_default();
                    let head = format!(
                        "HTTP/1.1 {} X\r\n{format}Content-Length: {}\r\nConnection: close\r\n\r\n",
                        object.status,
                        object.body.len()
                    );
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(&object.body).await;
                });
            }
        });
        url
    }

    fn material(body: &[u8]) -> CiphertextMaterial {
        CiphertextMaterial {
            handle: B256::with_last_byte(7),
            key_id: RequestId::default(),
            digest: keccak256(body),
            coprocessors: vec![FIRST, SECOND],
        }
    }

    fn holding(body: &[u8], served: &[u8], format: Option<&'static str>) -> HashMap<String, Object> {
        let object = Object { status: 200, format, body: served.to_vec() };
        HashMap::from([(hex::encode(keccak256(body)), object)])
    }

    fn store(config: CiphertextsConfig, buckets: &[(Address, &str)]) -> CiphertextStore {
        let _ = rustls::crypto::ring::default_provider().install_default();
        CiphertextStore::new(config, Coprocessors::known(buckets)).unwrap()
    }

    fn quick() -> CiphertextsConfig {
        CiphertextsConfig { round_pause_ms: 1, ..CiphertextsConfig::default() }
    }

    #[tokio::test]
    async fn the_format_header_decides_between_compressed_and_expanded() {
        for (header, format) in [
            (Some("compressed_on_cpu"), CiphertextFormat::BigCompressed),
            (Some("compressed_on_gpu"), CiphertextFormat::BigCompressed),
            (Some("uncompressed_on_cpu"), CiphertextFormat::BigExpanded),
            (None, CiphertextFormat::BigExpanded),
        ] {
            let url = bucket(holding(b"body", b"body", header)).await;
            let fetched = store(quick(), &[(FIRST, &url), (SECOND, &url)]).fetch(&[material(b"body")]).await.unwrap();
            assert_eq!(fetched.ciphertexts[0].format, format);
            assert_eq!(&fetched.ciphertexts[0].body[..], b"body");
        }
    }

    #[tokio::test]
    async fn a_bucket_with_another_body_under_the_digest_is_passed_over() {
        let lying = bucket(holding(b"body", b"forged", None)).await;
        let honest = bucket(holding(b"body", b"body", None)).await;
        let store = store(quick(), &[(FIRST, &lying), (SECOND, &honest)]);
        let fetched = store.fetch(&[material(b"body"), material(b"body")]).await.unwrap();
        assert_eq!(fetched.ciphertexts.len(), 2, "a handle that stands twice is there twice");
    }

    #[tokio::test]
    async fn an_object_that_nobody_has_may_heal_and_an_unreachable_bucket_is_no_verdict() {
        let empty = bucket(HashMap::new()).await;
        let both = store(quick(), &[(FIRST, &empty), (SECOND, &empty)]);
        let missing = both.fetch(&[material(b"body")]).await.unwrap_err();
        assert!(matches!(missing, Trouble::MayHeal { code: codes::CIPHERTEXT_MISSING, .. }), "{missing}");

        let down = store(quick(), &[(FIRST, &empty), (SECOND, "http://127.0.0.1:1")]);
        let outage = down.fetch(&[material(b"body")]).await.unwrap_err();
        assert!(matches!(outage, Trouble::Outage { code: codes::BUCKETS_UNREACHABLE, .. }), "{outage}");
    }

    #[tokio::test]
    async fn an_object_above_the_limit_is_not_read_and_a_request_above_its_limit_is_refused() {
        let body = vec![7_u8; 4096];
        let url = bucket(holding(&body, &body, None)).await;
        let buckets = [(FIRST, url.as_str()), (SECOND, url.as_str())];
        let small = CiphertextsConfig { max_object_bytes: 4095, ..quick() };
        let error = store(small, &buckets).fetch(&[material(&body)]).await.unwrap_err();
        assert!(error.to_string().contains("limit 4095"), "{error}");

        let tight = CiphertextsConfig { max_request_bytes: 8000, max_object_bytes: 5000, ..quick() };
        let error = store(tight, &buckets).fetch(&[material(&body), material(&body)]).await.unwrap_err();
        assert!(matches!(error, Trouble::Permanent { code: codes::REQUEST_TOO_LARGE, .. }), "{error}");
    }

    #[tokio::test]
    async fn p6_requests_that_want_more_memory_than_there_is_all_finish() {
        let body = vec![9_u8; 4096];
        let url = bucket(holding(&body, &body, None)).await;
        let config = CiphertextsConfig { max_buffered_bytes: 5 * 1024, ..quick() };
        let store = store(config, &[(FIRST, &url), (SECOND, &url)]);
        let materials = vec![material(&body); 3];
        let one_by_one = async {
            let mut running: futures::stream::FuturesUnordered<_> = (0..8).map(|_| store.fetch(&materials)).collect();
            let mut finished = 0;
            while let Some(fetched) = running.next().await {
                assert_eq!(fetched.unwrap().ciphertexts.len(), 3);
                finished += 1;
            }
            finished
        };
        let finished =
            tokio::time::timeout(Duration::from_secs(30), one_by_one).await.expect("no request waits for ever");
        assert_eq!(finished, 8);
    }
}
