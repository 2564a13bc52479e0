//! Fetches the ciphertexts of a decryption from the coprocessors' buckets (`docs/protocol.md`, "Ciphertext location").
//!
//! Where a request carries materials, the chain names digest, key and coprocessors of each ciphertext. Where it carries handles
//! only, all of these are what a majority of the coprocessors attests ([`crate::attestation`]). Either way a body is believed when
//! its keccak256 is the digest, so it does not matter which bucket it came from.
//!
//! What bounds memory: one object, one request, and all requests together have limits of their own.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, keccak256};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kms_proto::kms::v1::CiphertextFormat;
use kms_runtime::stage::Reach;
use kms_schemas::identity::RequestId;
use kms_schemas::record::CiphertextMaterial;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::attestation::{self, Attestation, AttestationError, Claim, Tally, Verdict};
use crate::codes;
use crate::config::CiphertextsConfig;
use crate::coprocessors::{Bucket, Coprocessors, Registry};
use crate::error::Trouble;
use crate::metrics;
use crate::patience::Budget;

/// The buckets' name in outages.
pub const BUCKETS: &str = "ciphertext_buckets";

/// Header with the ciphertext's format where no attestation tells it; names are case-insensitive.
const FORMAT_HEADER: &str = "x-amz-meta-ct-format";

/// Header by which object stores name every answer of their own.
const REQUEST_ID_HEADER: &str = "x-amz-request-id";

/// What a request says of its ciphertexts.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// Everything (up to v0.14).
    Materials(&'a [CiphertextMaterial]),
    /// Handles only (from v0.15 on).
    Handles(&'a [B256]),
}

impl Wanted<'_> {
    /// The handles in request order, repetitions kept.
    #[must_use]
    pub fn handles(&self) -> Vec<B256> {
        match self {
            Self::Materials(materials) => materials.iter().map(|material| material.handle).collect(),
            Self::Handles(handles) => handles.to_vec(),
        }
    }
}

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
    /// The one key that all of them are under.
    pub key_id: RequestId,
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
    /// Taken after memory, never before: whoever waits for memory must not keep others from finishing.
    objects: Arc<Semaphore>,
    config: CiphertextsConfig,
}

/// Where a ciphertext is and how it is recognised.
#[derive(Clone, Debug)]
struct Located {
    handle: B256,
    key_id: RequestId,
    digest: B256,
    /// As attested; else the object's header tells.
    format: Option<CiphertextFormat>,
    /// Coprocessor and URL of the object, in the order in which they are tried.
    objects: Vec<(Address, String)>,
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
    /// Not the object store, but something in front of it.
    #[error("http status {0}, without the marks of an object store")]
    NotTheStore(u16),
    #[error("body of {0} bytes or more, limit {1}")]
    TooLarge(u64, u64),
    #[error("body has keccak256 {0}")]
    WrongDigest(B256),
    #[error("object without attestation")]
    NotAttested,
    #[error("attestation refused: {0}")]
    Attestation(#[from] AttestationError),
    #[error("attestation of {0}, who is not registered")]
    Stranger(Address),
}

impl BucketError {
    /// An outage says nothing about whether the object exists.
    const fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NotTheStore(_) => true,
            // Also from a store these say that it is not asked in the right place, or by the right one, or not now.
            Self::Status(status) => *status >= 500 || *status < 400 || matches!(*status, 401 | 408 | 429),
            Self::TooLarge(..)
            | Self::WrongDigest(_)
            | Self::NotAttested
            | Self::Attestation(_)
            | Self::Stranger(_) => false,
        }
    }

    /// It is out of service, for whatever it is asked. A redirect or a page of somebody else's may be about this object only.
    const fn is_down(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status(status) | Self::NotTheStore(status) => *status >= 500 || matches!(*status, 408 | 429),
            Self::TooLarge(..)
            | Self::WrongDigest(_)
            | Self::NotAttested
            | Self::Attestation(_)
            | Self::Stranger(_) => false,
        }
    }
}

/// What an answer without an object is: a store's "no", or the word of an ingress or a proxy, which knows nothing of objects.
/// Stores name the request in a header, or the reason in XML; a `HEAD` has no body, so that its type must do.
async fn refusal(response: reqwest::Response, method: &Method) -> BucketError {
    /// Errors of stores are far shorter.
    const LONGEST: u64 = 16 * 1024;
    let status = response.status().as_u16();
    if response.headers().contains_key(REQUEST_ID_HEADER) {
        return BucketError::Status(status);
    }
    let is_xml = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes().starts_with(b"application/xml") || kind.as_bytes().starts_with(b"text/xml")
    });
    let is_store = match *method {
        Method::HEAD => is_xml,
        _ => {
            let body = read_body(response, None, LONGEST).await.unwrap_or_default();
            body.windows(b"<Error>".len()).any(|at| at == b"<Error>")
                && body.windows(b"<Code>".len()).any(|at| at == b"<Code>")
        }
    };
    if is_store { BucketError::Status(status) } else { BucketError::NotTheStore(status) }
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
            // A registered bucket answers itself; a redirect could point anywhere inside the operator's network.
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(64)
            .build()?;
        let permits = (config.max_buffered_bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS as u64);
        Ok(Self {
            client,
            coprocessors: coprocessors.with_attestations_per_bucket(config.attestations_per_bucket),
            objects: Arc::new(Semaphore::new(config.objects_in_flight.max(1))),
            memory: Arc::new(Semaphore::new(usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS))),
            overflow: Arc::new(Mutex::new(())),
            config,
        })
    }

    /// Fetches every ciphertext of a request, a few at a time, in request order.
    ///
    /// # Errors
    /// [`Trouble::Outage`] while some bucket could not be asked, [`Trouble::Waits`] when all answered and none had the object, or
    /// the coprocessors do not agree, [`Trouble::Permanent`] when the request is larger than KMS Core takes, is empty, or is under
    /// several keys.
    pub async fn fetch(&self, wanted: Wanted<'_>) -> Result<Fetched, Trouble> {
        let located = self.locate(wanted).await?;
        let key_id = one_key(&located)?;
        let reservation = Reservation { store: self, held: Mutex::new(Vec::new()) };
        let mut ciphertexts: Vec<Ciphertext> = Vec::with_capacity(located.len());
        let mut total = 0_u64;
        {
            let parallel = self.config.parallel_per_request.max(1);
            let fetches: Vec<_> = located.iter().map(|located| self.fetch_one(located, &reservation)).collect();
            let mut fetches = futures::stream::iter(fetches).buffered(parallel);
            while let Some(ciphertext) = fetches.next().await {
                let ciphertext = ciphertext?;
                total += ciphertext.body.len() as u64;
                if total > self.config.max_request_bytes {
                    return Err(Trouble::permanent(
                        codes::REQUEST_TOO_LARGE,
                        format!(
                            "ciphertexts of {total} bytes or more for {} handles, limit {}",
                            located.len(),
                            self.config.max_request_bytes
                        ),
                    ));
                }
                ciphertexts.push(ciphertext);
            }
        }
        Ok(Fetched { key_id, ciphertexts, _held: reservation.held.into_inner() })
    }

    /// Finds out where the ciphertexts of a request are; nothing of them is read yet.
    async fn locate(&self, wanted: Wanted<'_>) -> Result<Vec<Located>, Trouble> {
        let parallel = self.config.parallel_per_request.max(1);
        match wanted {
            Wanted::Materials(materials) => {
                let mut located = Vec::with_capacity(materials.len());
                for material in materials {
                    located.push(self.named(material).await?);
                }
                Ok(located)
            }
            Wanted::Handles(handles) => {
                let registry = self.coprocessors.registry().await?;
                let asked: Vec<_> = handles.iter().map(|handle| self.attested(&registry, *handle)).collect();
                let mut asked = futures::stream::iter(asked).buffered(parallel);
                let mut located = Vec::with_capacity(handles.len());
                while let Some(one) = asked.next().await {
                    located.push(one?);
                }
                Ok(located)
            }
        }
    }

    /// A ciphertext as the chain's event names it.
    async fn named(&self, material: &CiphertextMaterial) -> Result<Located, Trouble> {
        let buckets = self.coprocessors.buckets(&material.coprocessors).await?;
        if buckets.is_empty() {
            return Err(Trouble::waits(
                Budget::Ciphertexts,
                codes::NO_BUCKET,
                format!(
                    "none of {} coprocessors of handle {} has a bucket",
                    material.coprocessors.len(),
                    material.handle
                ),
            ));
        }
        let key = hex::encode(material.digest);
        let objects = buckets.into_iter().map(|(coprocessor, bucket)| (coprocessor, object_url(&bucket, &key)));
        Ok(Located {
            handle: material.handle,
            key_id: material.key_id,
            digest: material.digest,
            format: None,
            objects: objects.collect(),
        })
    }

    /// A ciphertext as the coprocessors attest it: every bucket is asked at once, and none is waited for once the answer cannot
    /// change any more.
    async fn attested(&self, registry: &Registry, handle: B256) -> Result<Located, Trouble> {
        if registry.buckets.is_empty() {
            let text = format!("no registered coprocessor has a bucket to ask for handle {handle}");
            return Err(Trouble::waits(Budget::Ciphertexts, codes::NO_BUCKET, text));
        }
        let key = attestation::object_key(handle);
        let mut asked: FuturesUnordered<_> =
            registry.buckets.iter().map(|bucket| self.attestation(bucket, &key, handle)).collect();
        let mut tally = Tally::new(&registry.signers, registry.threshold);
        let mut holders: Vec<(&Bucket, Claim)> = Vec::new();
        let mut failures: Vec<(Address, BucketError)> = Vec::new();
        while let Some((bucket, answer)) = asked.next().await {
            match answer {
                Ok(attestation) if tally.count(&attestation) => {
                    holders.push((bucket, attestation.claim));
                    if tally.decided().is_some() {
                        break;
                    }
                }
                Ok(attestation) => failures.push((bucket.coprocessor, BucketError::Stranger(attestation.signer))),
                Err(error) => failures.push((bucket.coprocessor, error)),
            }
        }
        for (_, error) in &failures {
            metrics::bucket_failed(error_label(error));
        }
        let claim = match tally.decided().map_or_else(|| tally.verdict(), Verdict::Agreed) {
            Verdict::Agreed(claim) => claim,
            Verdict::Split => {
                metrics::attestations_split(&handle, tally.threshold());
                let text = format!("two different attestations of handle {handle} have {} signers", tally.threshold());
                return Err(Trouble::waits(Budget::Ciphertexts, codes::ATTESTATIONS_SPLIT, text));
            }
            Verdict::TooFew(largest) => return Err(too_few(handle, largest, &tally, &failures)),
        };
        let objects = holders
            .into_iter()
            .filter(|(_, attested)| *attested == claim)
            .map(|(bucket, _)| (bucket.coprocessor, object_url(&bucket.url, &key)));
        Ok(Located {
            handle,
            key_id: claim.key_id,
            digest: claim.sns_ciphertext_digest,
            format: Some(claim.stored.format()),
            objects: objects.collect(),
        })
    }

    async fn attestation<'a>(
        &self,
        bucket: &'a Bucket,
        key: &str,
        handle: B256,
    ) -> (&'a Bucket, Result<Attestation, BucketError>) {
        let ask = async {
            let _place = bucket.in_flight.acquire().await;
            let timeout = Duration::from_millis(self.config.attestation_timeout_ms);
            let call = self.client.head(object_url(&bucket.url, key)).timeout(timeout).send();
            let response = call.await.map_err(|error| BucketError::Unreachable(chain(&error)))?;
            if !response.status().is_success() {
                return Err(refusal(response, &Method::HEAD).await);
            }
            let header = response.headers().get(attestation::HEADER).ok_or(BucketError::NotAttested)?;
            Ok(Attestation::read(header.as_bytes(), handle)?)
        };
        (bucket, ask.await)
    }

    async fn fetch_one(&self, located: &Located, reservation: &Reservation<'_>) -> Result<Ciphertext, Trouble> {
        let mut failures: Vec<(Address, BucketError)> = Vec::new();
        let mut reserved = 0;
        for round in 0..self.config.rounds.max(1) {
            if round > 0 {
                tokio::time::sleep(Duration::from_millis(self.config.round_pause_ms)).await;
            }
            failures.clear();
            for (coprocessor, url) in &located.objects {
                match self.fetch_from(url, located, reservation, &mut reserved).await {
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
        Err(verdict(located, &failures))
    }

    async fn fetch_from(
        &self,
        url: &str,
        located: &Located,
        reservation: &Reservation<'_>,
        reserved: &mut u64,
    ) -> Result<Ciphertext, BucketError> {
        let limit = self.config.max_object_bytes;
        let timeout = Duration::from_millis(self.config.object_timeout_ms);
        let late = |_| BucketError::Unreachable(format!("timed out after {} ms", timeout.as_millis()));
        let head = tokio::time::timeout(timeout, self.client.get(url).send()).await.map_err(late)?;
        let response = head.map_err(|error| BucketError::Unreachable(chain(&error)))?;
        if !response.status().is_success() {
            let refusal = refusal(response, &Method::GET);
            return Err(tokio::time::timeout(timeout, refusal).await.map_err(late)?);
        }
        let announced = response.content_length();
        if let Some(length) = announced.filter(|length| *length > limit) {
            return Err(BucketError::TooLarge(length, limit));
        }
        let format = located.format.unwrap_or_else(|| format_of(response.headers()));
        let needed = announced.unwrap_or(limit);
        if needed > *reserved {
            reservation.grow(needed - *reserved).await;
            *reserved = needed;
        }
        let _place = self.objects.acquire().await;
        let body = tokio::time::timeout(timeout, read_body(response, announced, limit)).await.map_err(late)??;
        let actual = keccak256(&body);
        if actual != located.digest {
            return Err(BucketError::WrongDigest(actual));
        }
        metrics::ciphertext_fetched(body.len());
        Ok(Ciphertext { body, format })
    }
}

fn object_url(bucket: &str, key: &str) -> String {
    format!("{}/{key}", bucket.trim_end_matches('/'))
}

async fn read_body(response: reqwest::Response, announced: Option<u64>, limit: u64) -> Result<Bytes, BucketError> {
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
    Ok(body.freeze())
}

/// The key that all ciphertexts are under.
fn one_key(located: &[Located]) -> Result<RequestId, Trouble> {
    let first = located
        .first()
        .ok_or_else(|| Trouble::permanent(codes::REQUEST_INVALID, "the request holds no ciphertext handle"))?;
    match located.iter().find(|other| other.key_id != first.key_id) {
        None => Ok(first.key_id),
        Some(other) => Err(Trouble::permanent(
            codes::SEVERAL_KEYS,
            format!(
                "handle {} is under key {}, handle {} under key {}",
                first.handle, first.key_id, other.handle, other.key_id
            ),
        )),
    }
}

/// Silent buckets leave the question open as long as their attestations could still decide it.
fn too_few(handle: B256, largest: usize, tally: &Tally<'_>, failures: &[(Address, BucketError)]) -> Trouble {
    let silent = failures.iter().filter(|(_, error)| error.is_outage()).count();
    let text = format!(
        "{largest} of {} needed attestations of handle {handle} agree: {}",
        tally.threshold(),
        describe(failures)
    );
    if silent > 0 && silent + largest >= tally.threshold() {
        // One bucket that is down concerns only what its attestations are needed for.
        let reach = if largest == 0 { reach(failures) } else { Reach::Some };
        return Trouble::Outage { code: codes::BUCKETS_UNREACHABLE, dependency: BUCKETS, reach, text };
    }
    Trouble::waits(Budget::Ciphertexts, codes::ATTESTATIONS_MISSING, text)
}

fn describe(failures: &[(Address, BucketError)]) -> String {
    failures.iter().map(|(who, error)| format!("{who}: {error}")).collect::<Vec<_>>().join("; ")
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
fn verdict(located: &Located, failures: &[(Address, BucketError)]) -> Trouble {
    let text = format!("ciphertext {} of handle {}: {}", located.digest, located.handle, describe(failures));
    let silent = failures.iter().filter(|(_, error)| error.is_outage()).count();
    if silent == 0 {
        return Trouble::waits(Budget::Ciphertexts, codes::CIPHERTEXT_MISSING, text);
    }
    // One bucket that is down concerns only what lies there and nowhere else.
    Trouble::Outage { code: codes::BUCKETS_UNREACHABLE, dependency: BUCKETS, reach: reach(failures), text }
}

/// Everybody is concerned where every bucket is down.
fn reach(failures: &[(Address, BucketError)]) -> Reach {
    if failures.iter().all(|(_, error)| error.is_down()) { Reach::All } else { Reach::Some }
}

fn error_label(error: &BucketError) -> &'static str {
    match error {
        BucketError::Unreachable(_) => "unreachable",
        BucketError::Status(404 | 403) => "missing",
        BucketError::Status(_) => "status",
        BucketError::NotTheStore(_) => "not_the_store",
        BucketError::TooLarge(..) => "too_large",
        BucketError::WrongDigest(_) => "wrong_digest",
        BucketError::NotAttested => "not_attested",
        BucketError::Attestation(_) => "attestation_refused",
        BucketError::Stranger(_) => "attestation_of_stranger",
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
    use alloy::primitives::{U256, address};
    use alloy::signers::local::PrivateKeySigner;

    use super::*;
    use crate::attestation::{Stored, attest};
    use crate::scripted::{Object, TestBucket};

    const FIRST: Address = address!("00000000000000000000000000000000000000c1");
    const SECOND: Address = address!("00000000000000000000000000000000000000c2");

    fn material(body: &[u8]) -> CiphertextMaterial {
        CiphertextMaterial {
            handle: B256::with_last_byte(7),
            key_id: RequestId::default(),
            digest: keccak256(body),
            coprocessors: vec![FIRST, SECOND],
        }
    }

    fn object(served: &[u8], format: Option<&'static str>) -> Object {
        let headers = format.map(|format| ("X-Amz-Meta-Ct-Format", format.to_owned()));
        Object { status: 200, headers: headers.into_iter().collect(), body: served.to_vec() }
    }

    /// A bucket with an object at the digest of `body`.
    async fn bucket(body: &[u8], served: &[u8], format: Option<&'static str>) -> TestBucket {
        TestBucket::start([(hex::encode(keccak256(body)), object(served, format))]).await
    }

    fn store(config: CiphertextsConfig, buckets: &[(Address, &str)]) -> CiphertextStore {
        let _ = rustls::crypto::ring::default_provider().install_default();
        CiphertextStore::new(config, Coprocessors::known(buckets)).unwrap()
    }

    /// Short pauses and much patience: a machine that stalls is no slow bucket.
    fn quick() -> CiphertextsConfig {
        CiphertextsConfig {
            round_pause_ms: 1,
            connect_timeout_ms: 60_000,
            read_timeout_ms: 60_000,
            object_timeout_ms: 60_000,
            attestation_timeout_ms: 60_000,
            ..CiphertextsConfig::default()
        }
    }

    #[tokio::test]
    async fn the_format_header_decides_between_compressed_and_expanded() {
        for (header, format) in [
            (Some("compressed_on_cpu"), CiphertextFormat::BigCompressed),
            (Some("compressed_on_gpu"), CiphertextFormat::BigCompressed),
            (Some("uncompressed_on_cpu"), CiphertextFormat::BigExpanded),
            (None, CiphertextFormat::BigExpanded),
        ] {
            let url = bucket(b"body", b"body", header).await;
            let fetched = store(quick(), &[(FIRST, &url.url), (SECOND, &url.url)])
                .fetch(Wanted::Materials(&[material(b"body")]))
                .await
                .unwrap();
            assert_eq!(fetched.ciphertexts[0].format, format);
            assert_eq!(&fetched.ciphertexts[0].body[..], b"body");
        }
    }

    #[tokio::test]
    async fn a_bucket_with_another_body_under_the_digest_is_passed_over() {
        let lying = bucket(b"body", b"forged", None).await;
        let honest = bucket(b"body", b"body", None).await;
        let store = store(quick(), &[(FIRST, &lying.url), (SECOND, &honest.url)]);
        let fetched = store.fetch(Wanted::Materials(&[material(b"body"), material(b"body")])).await.unwrap();
        assert_eq!(fetched.ciphertexts.len(), 2, "a handle that stands twice is there twice");
    }

    #[tokio::test]
    async fn an_object_that_nobody_has_is_waited_for_and_an_unreachable_bucket_is_no_verdict() {
        let empty = TestBucket::start([]).await;
        let both = store(quick(), &[(FIRST, &empty.url), (SECOND, &empty.url)]);
        let missing = both.fetch(Wanted::Materials(&[material(b"body")])).await.unwrap_err();
        let waits =
            matches!(missing, Trouble::Waits { budget: Budget::Ciphertexts, code: codes::CIPHERTEXT_MISSING, .. });
        assert!(waits, "{missing}");

        let down = store(quick(), &[(FIRST, &empty.url), (SECOND, "http://127.0.0.1:1")]);
        let outage = down.fetch(Wanted::Materials(&[material(b"body")])).await.unwrap_err();
        assert!(matches!(outage, Trouble::Outage { code: codes::BUCKETS_UNREACHABLE, .. }), "{outage}");
    }

    #[tokio::test]
    async fn what_no_object_store_says_is_no_word_on_an_object_and_holds_up_nobody_else() {
        let trouble = |bucket: TestBucket| async move {
            let both = store(quick(), &[(FIRST, &bucket.url), (SECOND, &bucket.url)]);
            both.fetch(Wanted::Materials(&[material(b"body")])).await.unwrap_err()
        };
        let is_missing = |trouble: &Trouble| matches!(trouble, Trouble::Waits { code: codes::CIPHERTEXT_MISSING, .. });
        let is_partial = |trouble: &Trouble| {
            matches!(trouble, Trouble::Outage { code: codes::BUCKETS_UNREACHABLE, reach: Reach::Some, .. })
        };
        // An ingress has pages of its own, and so has whoever guards it.
        for status in [301, 302, 307, 400, 401, 403, 404] {
            let trouble = trouble(TestBucket::failing(status).await).await;
            assert!(is_partial(&trouble), "{status}: {trouble:?}");
        }
        // A store that does not let us in, or sends us elsewhere, says nothing of the object either.
        for status in [301, 401] {
            let trouble = trouble(TestBucket::refusing(status).await).await;
            assert!(is_partial(&trouble), "{status}: {trouble:?}");
        }
        for status in [403, 404] {
            let trouble = trouble(TestBucket::refusing(status).await).await;
            assert!(is_missing(&trouble), "{status}: {trouble:?}");
        }
        for status in [429, 503] {
            let down = trouble(TestBucket::failing(status).await).await;
            assert!(matches!(down, Trouble::Outage { reach: Reach::All, .. }), "{status}: {down:?}");
        }
    }

    #[tokio::test]
    async fn a_store_is_known_by_its_header_or_by_its_xml() {
        let key = hex::encode(keccak256(b"body"));
        let xml = b"<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code></Error>".to_vec();
        let named = vec![("X-Amz-Request-Id", "17".to_owned())];
        let typed = vec![("content-type", "application/xml".to_owned())];
        for (headers, body, is_store) in [
            (named, Vec::new(), true),
            (Vec::new(), xml.clone(), true),
            (typed.clone(), xml, true),
            (typed, b"<html/>".to_vec(), false),
            (Vec::new(), b"404 page not found".to_vec(), false),
        ] {
            let bucket = TestBucket::start([(key.clone(), Object { status: 404, headers, body })]).await;
            let one = store(quick(), &[(FIRST, &bucket.url)]);
            let material = CiphertextMaterial { coprocessors: vec![FIRST], ..material(b"body") };
            let trouble = one.fetch(Wanted::Materials(&[material])).await.unwrap_err();
            assert_eq!(matches!(trouble, Trouble::Waits { .. }), is_store, "{trouble:?}");
        }
    }

    #[tokio::test]
    async fn an_object_above_the_limit_is_not_read_and_a_request_above_its_limit_is_refused() {
        let body = vec![7_u8; 4096];
        let url = bucket(&body, &body, None).await;
        let buckets = [(FIRST, url.url.as_str()), (SECOND, url.url.as_str())];
        let small = CiphertextsConfig { max_object_bytes: 4095, ..quick() };
        let error = store(small, &buckets).fetch(Wanted::Materials(&[material(&body)])).await.unwrap_err();
        assert!(error.to_string().contains("limit 4095"), "{error}");

        let tight = CiphertextsConfig { max_request_bytes: 8000, max_object_bytes: 5000, ..quick() };
        let error =
            store(tight, &buckets).fetch(Wanted::Materials(&[material(&body), material(&body)])).await.unwrap_err();
        assert!(matches!(error, Trouble::Permanent { code: codes::REQUEST_TOO_LARGE, .. }), "{error}");
    }

    #[tokio::test]
    async fn p6_requests_that_want_more_memory_than_there_is_all_finish() {
        let body = vec![9_u8; 4096];
        let url = bucket(&body, &body, None).await;
        let config = CiphertextsConfig { max_buffered_bytes: 5 * 1024, ..quick() };
        let store = store(config, &[(FIRST, &url.url), (SECOND, &url.url)]);
        let materials = vec![material(&body); 3];
        let one_by_one = async {
            let mut running: futures::stream::FuturesUnordered<_> =
                (0..8).map(|_| store.fetch(Wanted::Materials(&materials))).collect();
            let mut finished = 0;
            while let Some(fetched) = running.next().await {
                assert_eq!(fetched.unwrap().ciphertexts.len(), 3);
                finished += 1;
            }
            finished
        };
        let finished =
            tokio::time::timeout(Duration::from_secs(120), one_by_one).await.expect("no request waits for ever");
        assert_eq!(finished, 8);
    }

    // --- Attested ciphertexts -----------------------------------------------------------------------------------------

    fn signer(number: u8) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(number)).unwrap()
    }

    fn claim(body: &[u8]) -> Claim {
        Claim {
            key_id: U256::from(4).into(),
            ciphertext_digest: B256::repeat_byte(1),
            sns_ciphertext_digest: keccak256(body),
            stored: Stored::CompressedOnCpu,
        }
    }

    const HANDLE: B256 = B256::repeat_byte(7);

    fn attested(attestation: String, body: &[u8]) -> (String, Object) {
        let headers = vec![("X-Amz-Meta-Ct-Attestation", attestation)];
        (attestation::object_key(HANDLE), Object { status: 200, headers, body: body.to_vec() })
    }

    /// The bucket of coprocessor `number`, which attests `claimed` and serves `served`.
    async fn coprocessor(number: u8, claimed: &[u8], served: &[u8]) -> TestBucket {
        TestBucket::start([attested(attest(&signer(number), HANDLE, &claim(claimed)), served)]).await
    }

    /// A store in front of these buckets, of which coprocessors 1 to `registered` are registered with this threshold.
    async fn attesting(registered: u8, threshold: usize, buckets: &[&TestBucket]) -> CiphertextStore {
        attesting_with(quick(), registered, threshold, buckets).await
    }

    async fn attesting_with(
        config: CiphertextsConfig,
        registered: u8,
        threshold: usize,
        buckets: &[&TestBucket],
    ) -> CiphertextStore {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let signers: Vec<Address> = (1..=registered).map(|number| signer(number).address()).collect();
        let urls: Vec<String> = buckets.iter().map(|bucket| bucket.url.clone()).collect();
        let registry = Coprocessors::registered(&signers, threshold, &urls).await;
        CiphertextStore::new(config, registry).unwrap()
    }

    async fn fetched(store: &CiphertextStore) -> Result<Fetched, Trouble> {
        store.fetch(Wanted::Handles(&[HANDLE])).await
    }

    async fn waits(store: &CiphertextStore) -> &'static str {
        match fetched(store).await {
            Err(Trouble::Waits { budget: Budget::Ciphertexts, code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_a_majority_attests_is_fetched_with_its_key_and_format() {
        let (one, two) = (coprocessor(1, b"body", b"body").await, coprocessor(2, b"body", b"body").await);
        let store = attesting(3, 2, &[&one, &two, &TestBucket::silent().await]).await;
        let twice = store.fetch(Wanted::Handles(&[HANDLE, HANDLE])).await.unwrap();
        assert_eq!(twice.key_id, claim(b"body").key_id);
        assert_eq!(twice.ciphertexts.len(), 2, "a handle that stands twice is there twice");
        assert_eq!(twice.ciphertexts[0].format, CiphertextFormat::BigCompressed);
        assert_eq!(&twice.ciphertexts[1].body[..], b"body");
    }

    #[tokio::test]
    async fn p5_a_majority_waits_for_no_slow_bucket() {
        let (one, two) = (coprocessor(1, b"body", b"body").await, coprocessor(2, b"body", b"body").await);
        let slow = TestBucket::slow(Duration::from_secs(600)).await;
        let store = attesting(3, 2, &[&slow, &one, &two]).await;
        let quick = tokio::time::timeout(Duration::from_secs(20), fetched(&store)).await;
        assert!(quick.expect("before the slow bucket's time is over").is_ok());
    }

    #[tokio::test]
    async fn p4_forged_attestations_count_for_nothing() {
        let genuine = coprocessor(1, b"body", b"body").await;
        let stranger = coprocessor(9, b"body", b"body").await;
        let in_anothers_name = attest(&signer(9), HANDLE, &claim(b"body"))
            .replace(&signer(9).address().to_string(), &signer(2).address().to_string());
        let in_anothers_name = TestBucket::start([attested(in_anothers_name, b"body")]).await;
        let for_another_handle = attest(&signer(2), B256::repeat_byte(8), &claim(b"body"));
        let for_another_handle = TestBucket::start([attested(for_another_handle, b"body")]).await;
        let copied = coprocessor(1, b"body", b"body").await;
        let malformed = TestBucket::start([attested("{\"version\":1,".to_owned(), b"body")]).await;
        let without = TestBucket::start([(attestation::object_key(HANDLE), object(b"body", None))]).await;
        let forged = [&stranger, &in_anothers_name, &for_another_handle, &copied, &malformed, &without];
        for one in forged {
            let store = attesting(3, 2, &[&genuine, one]).await;
            assert_eq!(waits(&store).await, codes::ATTESTATIONS_MISSING);
            assert_eq!(one.gets(), 0, "nothing is read from a bucket that convinced nobody");
        }
        let all = [&[&genuine][..], &forged].concat();
        assert_eq!(waits(&attesting(3, 2, &all).await).await, codes::ATTESTATIONS_MISSING);
        // One more genuine one is enough.
        let second = coprocessor(2, b"body", b"body").await;
        let all = [&[&genuine, &second][..], &forged].concat();
        assert!(fetched(&attesting(3, 2, &all).await).await.is_ok());
    }

    #[tokio::test]
    async fn p4_a_minority_is_not_believed_though_it_answers_first() {
        let minority = coprocessor(1, b"forged", b"forged").await;
        let late = Duration::from_millis(150);
        let (two, three) = (coprocessor(2, b"body", b"body").await, coprocessor(3, b"body", b"body").await);
        for bucket in [&two, &three] {
            bucket.delay(late);
        }
        // A threshold of one, as some deployments have it: the first answer must not decide.
        let store = attesting(3, 1, &[&minority, &two, &three]).await;
        let fetched = fetched(&store).await.unwrap();
        assert_eq!(&fetched.ciphertexts[0].body[..], b"body");
        assert_eq!(minority.gets(), 0);
        let alone = attesting(3, 2, &[&minority]).await;
        assert_eq!(waits(&alone).await, codes::ATTESTATIONS_MISSING);
    }

    #[tokio::test]
    async fn p4_two_groups_with_the_threshold_decrypt_nothing() {
        let (one, two) = (coprocessor(1, b"forged", b"forged").await, coprocessor(2, b"body", b"body").await);
        let store = attesting(2, 1, &[&one, &two]).await;
        assert_eq!(waits(&store).await, codes::ATTESTATIONS_SPLIT);
        assert_eq!(one.gets() + two.gets(), 0);
    }

    #[tokio::test]
    async fn p4_a_body_with_another_digest_is_passed_over() {
        let (lying, honest) = (coprocessor(1, b"body", b"forged").await, coprocessor(2, b"body", b"body").await);
        let fetched_honest = fetched(&attesting(2, 2, &[&lying, &honest]).await).await.unwrap();
        assert_eq!(&fetched_honest.ciphertexts[0].body[..], b"body");
        let second = coprocessor(2, b"body", b"forged too").await;
        assert_eq!(waits(&attesting(2, 2, &[&lying, &second]).await).await, codes::CIPHERTEXT_MISSING);
    }

    #[tokio::test]
    async fn p6_an_attested_object_above_the_limit_is_not_read() {
        let body = vec![7_u8; 4096];
        let (one, two) = (coprocessor(1, &body, &body).await, coprocessor(2, &body, &body).await);
        let mut store = attesting(2, 2, &[&one, &two]).await;
        store.config.max_object_bytes = 4095;
        assert_eq!(waits(&store).await, codes::CIPHERTEXT_MISSING);
        store.config.max_object_bytes = 4096;
        assert!(fetched(&store).await.is_ok());
    }

    #[tokio::test]
    async fn unreachable_buckets_are_an_outage_as_long_as_they_could_decide() {
        let one = coprocessor(1, b"body", b"body").await;
        let reach = |trouble: Trouble| match trouble {
            Trouble::Outage { code: codes::BUCKETS_UNREACHABLE, reach, .. } => reach,
            other => panic!("{other:?}"),
        };
        let down = TestBucket::down();
        let some = fetched(&attesting(3, 2, &[&one, &down]).await).await.unwrap_err();
        assert_eq!(reach(some), Reach::Some, "others can be served");
        let failing = TestBucket::failing(503).await;
        let all = fetched(&attesting(3, 2, &[&down, &failing]).await).await.unwrap_err();
        assert_eq!(reach(all), Reach::All);
        let slow = TestBucket::slow(Duration::from_secs(600)).await;
        // Short for the one that is slow, and long for the one that must answer.
        let config = CiphertextsConfig { attestation_timeout_ms: 4_000, ..quick() };
        let slow = fetched(&attesting_with(config, 3, 2, &[&one, &slow]).await).await.unwrap_err();
        assert_eq!(reach(slow), Reach::Some, "one that is too slow counts as unreachable");
        // What answers in place of a bucket is no bucket without the object.
        let ingress = TestBucket::failing(404).await;
        let partly = fetched(&attesting(3, 2, &[&ingress, &ingress]).await).await.unwrap_err();
        assert_eq!(reach(partly), Reach::Some);
        let elsewhere = TestBucket::refusing(404).await;
        assert_eq!(waits(&attesting(3, 2, &[&elsewhere, &elsewhere]).await).await, codes::ATTESTATIONS_MISSING);
        // One bucket that is down for ever is no excuse where its word could not be enough.
        let (empty, other) = (TestBucket::start([]).await, TestBucket::start([]).await);
        assert_eq!(waits(&attesting(3, 2, &[&empty, &other, &down]).await).await, codes::ATTESTATIONS_MISSING);
    }

    #[tokio::test]
    async fn handles_under_two_keys_are_refused_for_good_before_anything_is_read() {
        let other = B256::repeat_byte(8);
        let other_key = Claim { key_id: U256::from(5).into(), ..claim(b"body") };
        let bucket = TestBucket::start([
            attested(attest(&signer(1), HANDLE, &claim(b"body")), b"body"),
            (
                attestation::object_key(other),
                Object {
                    status: 200,
                    headers: vec![("x-amz-meta-ct-attestation", attest(&signer(1), other, &other_key))],
                    body: b"body".to_vec(),
                },
            ),
        ])
        .await;
        let store = attesting(1, 1, &[&bucket]).await;
        let refused = store.fetch(Wanted::Handles(&[HANDLE, other])).await.unwrap_err();
        assert!(matches!(refused, Trouble::Permanent { code: codes::SEVERAL_KEYS, .. }), "{refused}");
        assert_eq!(bucket.gets(), 0);
    }

    #[tokio::test]
    async fn nobody_to_ask_is_told_as_that() {
        let store = attesting(1, 1, &[]).await;
        assert_eq!(waits(&store).await, codes::NO_BUCKET);
    }
}
