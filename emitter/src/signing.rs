//! Signing what the planner wants signed, through outages of a signer elsewhere.
//!
//! On the journal's thread, so that the submitter never waits for it, several transactions at once and handed on in the order
//! in which they were planned. A signer that does not answer, refuses, or signs with another key is an outage: what waits
//! is asked for again after a pause, readiness and log say why, and no answer is given up for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use kms_runtime::http::Check;
use kms_runtime::retry::Backoff;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::journal::Draft;
use crate::metrics::Metrics;
use crate::wallet::aws_kms::AwsKmsError;
use crate::wallet::{SignedTransaction, SigningError, Wallet};

/// Transactions of one commit that a signer elsewhere is asked for at once: more would wait for each other's signatures.
const AT_ONCE: usize = 64;
/// While it signed so recently, a signer that refuses one in between is busy and not out of order.
const BUSY: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };

/// What came of a draft; none when the shutdown came first.
pub type Outcome = Option<Result<SignedTransaction, String>>;

/// An account that signs.
#[derive(Debug)]
pub struct Signing {
    wallet: Wallet,
    chain_id: u64,
    runtime: Handle,
    /// Of a signer elsewhere.
    check: Option<Check>,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Why the signer does not sign now.
    trouble: Option<&'static str>,
    signed: Option<Instant>,
}

impl Signing {
    /// Asks nobody yet. Within a runtime.
    #[must_use]
    pub fn new(wallet: Wallet, chain_id: u64, check: Option<Check>, metrics: Metrics) -> Self {
        Self { wallet, chain_id, runtime: Handle::current(), check, metrics, state: Mutex::default() }
    }

    /// Holds a signer elsewhere against the account, through outages. False when stopped before.
    ///
    /// # Errors
    /// It can never sign for the account: why.
    pub async fn prove(&self, stop: &CancellationToken) -> Result<bool, String> {
        let mut failures = 0;
        loop {
            let found = match stop.run_until_cancelled(self.wallet.check()).await {
                None => return Ok(false),
                Some(found) => found,
            };
            let error = match found {
                Ok(found) if found == self.wallet.address() => {
                    self.works();
                    return Ok(true);
                }
                Ok(found) => {
                    return Err(format!(
                        "the signer's key belongs to {found}, `wallet.address` is {}",
                        self.wallet.address()
                    ));
                }
                Err(SigningError::AwsKms(error @ AwsKmsError::KeyKind(_))) => return Err(format!("AWS KMS: {error}")),
                Err(SigningError::Key(error)) => return Err(error.to_string()),
                Err(SigningError::AwsKms(error)) => error,
            };
            self.fails(&error);
            failures += 1;
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(RETRY.bound(failures)) => {}
            }
        }
    }

    /// Of so many transactions, those to be signed and journalled together.
    #[must_use]
    pub fn together(&self, most: usize) -> usize {
        if self.wallet.is_remote() { most.min(AT_ONCE) } else { most }
    }

    /// Signs all, and gives what came of each in their order. Blocking: for a thread that is not the runtime's.
    pub fn sign(&self, drafts: &[Draft], stop: &CancellationToken) -> Vec<Outcome> {
        let signed = stream::iter(drafts).map(|draft| self.sign_one(draft, stop)).buffered(AT_ONCE);
        self.runtime.block_on(signed.collect())
    }

    async fn sign_one(&self, draft: &Draft, stop: &CancellationToken) -> Outcome {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let signing = self.wallet.sign(self.chain_id, draft.nonce, &draft.payload, draft.fees);
            let signed = if self.wallet.is_remote() { stop.run_until_cancelled(signing).await? } else { signing.await };
            let error = match signed {
                Ok(signed) => {
                    if self.wallet.is_remote() {
                        self.metrics.signer_signed(begun.elapsed());
                        self.works();
                    }
                    return Some(Ok(signed));
                }
                Err(SigningError::Key(error)) => return Some(Err(error.to_string())),
                Err(SigningError::AwsKms(error)) => error,
            };
            self.fails(&error);
            failures += 1;
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(RETRY.bound(failures)) => {}
            }
        }
    }

    fn works(&self) {
        let before = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.signed = Some(Instant::now());
            state.trouble.take()
        };
        if before.is_some() {
            tracing::info!(destination = self.metrics.destination(), "the signer signs again");
        }
        if let Some(check) = &self.check {
            check.ready();
        }
    }

    fn fails(&self, error: &AwsKmsError) {
        let reason = error.as_str();
        self.metrics.signer_failed(reason);
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_busy = state.signed.is_some_and(|signed| signed.elapsed() < BUSY);
            if state.trouble == Some(reason) || (is_busy && !matches!(error, AwsKmsError::Foreign(_))) {
                return;
            }
            state.trouble = Some(reason);
        }
        let (code, destination) = (crate::codes::SIGNER_OUTAGE, self.metrics.destination());
        tracing::warn!(destination, code, %error, "AWS KMS does not sign; answers wait");
        if let Some(check) = &self.check {
            check.not_ready(format!("{code}: AWS KMS {error}"));
        }
    }
}
