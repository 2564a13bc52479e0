//! Which bucket a coprocessor's ciphertexts lie in, and whose attestations count, read from GatewayConfig and kept for a while.
//!
//! Up to v0.14 a request names the coprocessors of each ciphertext, and only those are looked up. Later requests name none: all
//! registered ones are asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use kms_chain::views::{GatewayConfigViews, ViewError};
use tokio::sync::{Mutex, RwLock, Semaphore};

use crate::codes;
use crate::error::Trouble;

/// The registry's name in outages.
pub const REGISTRY: &str = "gateway_rpc";

/// The coprocessors' buckets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Coprocessors {
    views: GatewayConfigViews,
    refresh: Duration,
    known: Arc<RwLock<HashMap<Address, Entry>>>,
    /// One reader of the chain at a time.
    reading: Arc<Mutex<()>>,
    registry: Arc<RwLock<Option<Read>>>,
    attestations_per_bucket: usize,
}

/// The registry, and when it was read.
type Read = (Arc<Registry>, Instant);

/// All registered coprocessors, as GatewayConfig had them when they were read.
#[derive(Debug)]
pub struct Registry {
    /// Whose attestations count.
    pub signers: Vec<Address>,
    /// How many of them must agree, as registered.
    pub threshold: usize,
    /// The buckets, each once.
    pub buckets: Vec<Bucket>,
}

/// A registered bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Transaction sender of its coprocessor, for people.
    pub coprocessor: Address,
    /// Its URL as registered.
    pub url: String,
    /// Calls for attestations that are in flight there: a bucket that is slow holds up no other one.
    pub in_flight: Arc<Semaphore>,
}

impl Registry {
    /// Whether two groups of signers can each have the threshold (`docs/protocol.md`, "Ciphertext attestations").
    #[must_use]
    pub fn threshold_is_no_majority(&self) -> bool {
        self.threshold <= self.signers.len() / 2
    }
}

#[derive(Clone, Debug)]
struct Entry {
    /// None: not registered, or registered without a bucket.
    bucket: Option<String>,
    read: Instant,
}

/// Calls for attestations that are in flight to one bucket at most, where nothing else is said.
const ATTESTATIONS_PER_BUCKET: usize = 64;

/// A request can name coprocessors freely; what is remembered is bounded all the same.
const MAX_KNOWN: usize = 1024;

impl Coprocessors {
    /// Reads the registry through `views`; an entry older than `refresh` is read again.
    #[must_use]
    pub fn new(views: GatewayConfigViews, refresh: Duration) -> Self {
        Self {
            views,
            refresh,
            known: Arc::default(),
            reading: Arc::default(),
            registry: Arc::default(),
            attestations_per_bucket: ATTESTATIONS_PER_BUCKET,
        }
    }

    /// Asks one bucket for at most so many attestations at once.
    #[must_use]
    pub fn with_attestations_per_bucket(self, most: usize) -> Self {
        Self { attestations_per_bucket: most.max(1), ..self }
    }

    /// A registry that was read already, and asks nobody.
    #[cfg(test)]
    pub(crate) fn known(buckets: &[(Address, &str)]) -> Self {
        let urls = vec![kms_chain::rpc::EndpointUrl::parse("http://127.0.0.1:1").unwrap()];
        let rpc = kms_chain::rpc::Rpc::new(kms_chain::rpc::RpcConfig::new("nobody", urls)).unwrap();
        let entry = |url: &str| Entry { bucket: Some(url.to_owned()), read: Instant::now() };
        let known = buckets.iter().map(|(address, url)| (*address, entry(url))).collect();
        Self {
            views: GatewayConfigViews::new(rpc, Address::ZERO),
            refresh: Duration::from_secs(3600),
            known: Arc::new(RwLock::new(known)),
            reading: Arc::default(),
            registry: Arc::default(),
            attestations_per_bucket: ATTESTATIONS_PER_BUCKET,
        }
    }

    /// A registry of all coprocessors that was read already, and asks nobody.
    #[cfg(test)]
    pub(crate) async fn registered(signers: &[Address], threshold: usize, urls: &[String]) -> Self {
        let coprocessors = Self::known(&urls.iter().map(|url| (Address::ZERO, url.as_str())).collect::<Vec<_>>());
        let bucket = |url: &String| Bucket {
            coprocessor: Address::ZERO,
            url: url.clone(),
            in_flight: Arc::new(Semaphore::new(ATTESTATIONS_PER_BUCKET)),
        };
        let registry = Registry { signers: signers.to_vec(), threshold, buckets: urls.iter().map(bucket).collect() };
        *coprocessors.registry.write().await = Some((Arc::new(registry), Instant::now()));
        coprocessors
    }

    /// All registered coprocessors, as they were at most the configured time ago. What cannot be refreshed stays in use.
    ///
    /// # Errors
    /// [`Trouble::Outage`] when the registry was never read and cannot be read now.
    pub async fn registry(&self) -> Result<Arc<Registry>, Trouble> {
        let fresh = |read: &Instant| read.elapsed() < self.refresh;
        let known = self.registry.read().await.clone();
        let _reading = match known {
            Some((registry, read)) if fresh(&read) => return Ok(registry),
            // While somebody reads it again, the others go on with what they have.
            Some((registry, _)) => match self.reading.try_lock() {
                Ok(reading) => reading,
                Err(_) => return Ok(registry),
            },
            None => self.reading.lock().await,
        };
        let known = self.registry.read().await.clone();
        if let Some((registry, _)) = known.as_ref().filter(|(_, read)| fresh(read)) {
            return Ok(Arc::clone(registry));
        }
        let known = known.map(|(registry, _)| registry);
        let registry = match (self.read_registry(known.as_deref()).await, known) {
            (Ok(registry), _) => Arc::new(registry),
            (Err(error), Some(known)) => {
                tracing::warn!(%error, "coprocessor registry not readable, using the last answer");
                known
            }
            (Err(error), None) => {
                return Err(Trouble::outage(codes::REGISTRY_UNREACHABLE, REGISTRY, error.to_string()));
            }
        };
        *self.registry.write().await = Some((Arc::clone(&registry), Instant::now()));
        Ok(registry)
    }

    /// Reads the registry at start, so that a threshold that is no majority is told then and not with the first request.
    pub async fn check_threshold(&self) {
        if let Err(error) = self.registry().await {
            tracing::warn!(code = error.code(), %error, "the coprocessor registry cannot be read yet");
        }
    }

    async fn read_registry(&self, before: Option<&Registry>) -> Result<Registry, ViewError> {
        let signers = self.views.coprocessor_signers().await?;
        let threshold = self.views.coprocessor_threshold().await?;
        let mut buckets: Vec<Bucket> = Vec::new();
        for coprocessor in self.views.coprocessor_tx_senders().await? {
            let registered = self.views.coprocessor(coprocessor).await?;
            let Some(url) = registered.map(|registered| registered.s3BucketUrl).filter(|url| is_http(url)) else {
                tracing::warn!(%coprocessor, "coprocessor without a usable bucket");
                continue;
            };
            if buckets.iter().any(|bucket| bucket.url == url) {
                continue;
            }
            let known = before.and_then(|before| before.buckets.iter().find(|bucket| bucket.url == url));
            let in_flight = known.map_or_else(
                || Arc::new(Semaphore::new(self.attestations_per_bucket)),
                |known| Arc::clone(&known.in_flight),
            );
            buckets.push(Bucket { coprocessor, url, in_flight });
        }
        let registry = Registry { signers, threshold, buckets };
        if registry.threshold_is_no_majority() && before.is_none_or(|before| !before.threshold_is_no_majority()) {
            tracing::warn!(
                code = codes::THRESHOLD_NO_MAJORITY,
                threshold = registry.threshold,
                signers = registry.signers.len(),
                "the registered threshold of coprocessors is no majority: every ciphertext waits for all buckets"
            );
        }
        Ok(registry)
    }

    /// The buckets of `coprocessors`, in their order, without those that have none.
    ///
    /// An entry that cannot be refreshed stays in use: a registry that is unreachable for a while stops nobody.
    ///
    /// # Errors
    /// [`Trouble::Outage`] when an address was never read and cannot be read now.
    pub async fn buckets(&self, coprocessors: &[Address]) -> Result<Vec<(Address, String)>, Trouble> {
        let mut buckets = Vec::with_capacity(coprocessors.len());
        for coprocessor in coprocessors {
            if let Some(bucket) = self.bucket(*coprocessor).await? {
                buckets.push((*coprocessor, bucket));
            }
        }
        Ok(buckets)
    }

    async fn entry(&self, coprocessor: Address) -> Option<Entry> {
        self.known.read().await.get(&coprocessor).cloned()
    }

    async fn bucket(&self, coprocessor: Address) -> Result<Option<String>, Trouble> {
        let fresh = |entry: &Entry| entry.read.elapsed() < self.refresh;
        let known = self.entry(coprocessor).await;
        let _reading = match known {
            Some(entry) if fresh(&entry) => return Ok(entry.bucket),
            // While somebody reads it again, the others go on with what they have.
            Some(entry) => match self.reading.try_lock() {
                Ok(reading) => reading,
                Err(_) => return Ok(entry.bucket),
            },
            None => self.reading.lock().await,
        };
        let known = self.entry(coprocessor).await;
        if let Some(entry) = known.as_ref().filter(|entry| fresh(entry)) {
            return Ok(entry.bucket.clone());
        }
        let read = self.views.coprocessor(coprocessor).await;
        let mut map = self.known.write().await;
        match read {
            Ok(registered) => {
                let bucket = registered.map(|registered| registered.s3BucketUrl).filter(|url| is_http(url));
                if map.len() >= MAX_KNOWN {
                    map.clear();
                }
                map.insert(coprocessor, Entry { bucket: bucket.clone(), read: Instant::now() });
                Ok(bucket)
            }
            Err(error) => match known {
                Some(entry) => {
                    tracing::warn!(%coprocessor, %error, "coprocessor registry not readable, using the last answer");
                    map.insert(coprocessor, Entry { bucket: entry.bucket.clone(), read: Instant::now() });
                    Ok(entry.bucket)
                }
                None => Err(Trouble::outage(codes::REGISTRY_UNREACHABLE, REGISTRY, error.to_string())),
            },
        }
    }
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;
    use alloy::sol_types::{SolCall, SolValue};
    use kms_chain::contracts::{Coprocessor, GatewayConfig};

    use super::*;
    use crate::mock::{MockChain, word};

    const ONE: Address = Address::repeat_byte(1);
    const TWO: Address = Address::repeat_byte(2);

    /// A chain with these coprocessors, whose signers are their addresses, and this threshold.
    async fn chain(coprocessors: &[(Address, &'static str)], threshold: u64) -> MockChain {
        let chain = MockChain::start().await;
        let addresses: Vec<Address> = coprocessors.iter().map(|(address, _)| *address).collect();
        chain.on_selector(GatewayConfig::getCoprocessorSignersCall::SELECTOR, addresses.abi_encode());
        chain.on_selector(GatewayConfig::getCoprocessorTxSendersCall::SELECTOR, addresses.abi_encode());
        chain.on_selector(GatewayConfig::getCoprocessorMajorityThresholdCall::SELECTOR, word(U256::from(threshold)));
        let known: HashMap<Address, &'static str> = coprocessors.iter().copied().collect();
        chain.on(GatewayConfig::getCoprocessorCall::SELECTOR, move |arguments| {
            let asked = Address::from_slice(&arguments[12..32]);
            let url = known.get(&asked).copied().unwrap_or_default();
            let found = Coprocessor { txSenderAddress: asked, signerAddress: asked, s3BucketUrl: url.to_owned() };
            Ok(found.abi_encode())
        });
        chain
    }

    fn reading(chain: &MockChain, refresh: Duration) -> Coprocessors {
        Coprocessors::new(GatewayConfigViews::new(chain.rpc(), Address::repeat_byte(9)), refresh)
    }

    #[tokio::test]
    async fn the_registry_is_read_once_and_kept_for_a_while() {
        let chain = chain(&[(ONE, "http://one/bucket"), (TWO, "https://two/bucket")], 2).await;
        let coprocessors = reading(&chain, Duration::from_secs(60));
        let registry = coprocessors.registry().await.unwrap();
        assert_eq!((registry.signers.as_slice(), registry.threshold), ([ONE, TWO].as_slice(), 2));
        let urls: Vec<&str> = registry.buckets.iter().map(|bucket| bucket.url.as_str()).collect();
        assert_eq!(urls, ["http://one/bucket", "https://two/bucket"]);
        assert!(!registry.threshold_is_no_majority());
        let posts = chain.posts();
        assert!(Arc::ptr_eq(&registry, &coprocessors.registry().await.unwrap()));
        assert_eq!(chain.posts(), posts);
    }

    #[tokio::test]
    async fn a_bucket_that_two_share_is_asked_once_and_one_without_http_never() {
        let chain =
            chain(&[(ONE, "http://one"), (TWO, "http://one"), (Address::repeat_byte(3), "s3://three")], 2).await;
        let registry = reading(&chain, Duration::ZERO).registry().await.unwrap();
        assert_eq!(registry.buckets.len(), 1);
        assert_eq!(registry.signers.len(), 3, "who has no bucket may still be attested for in another's");
    }

    #[tokio::test]
    async fn a_threshold_of_half_or_less_is_no_majority() {
        for (threshold, is_none) in [(1, true), (2, false)] {
            let chain = chain(&[(ONE, "http://one"), (TWO, "http://two")], threshold).await;
            let coprocessors = reading(&chain, Duration::from_secs(60));
            coprocessors.check_threshold().await;
            assert_eq!(coprocessors.registry().await.unwrap().threshold_is_no_majority(), is_none, "{threshold}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_was_read_stays_in_use_while_the_chain_is_down_and_one_that_was_not_is_an_outage() {
        let chain = chain(&[(ONE, "http://one")], 1).await;
        chain.break_down(true);
        let coprocessors = reading(&chain, Duration::ZERO);
        let down = coprocessors.registry().await;
        assert!(matches!(down, Err(Trouble::Outage { code: codes::REGISTRY_UNREACHABLE, .. })), "{down:?}");
        chain.break_down(false);
        let read = coprocessors.registry().await.unwrap();
        chain.break_down(true);
        let kept = coprocessors.registry().await.unwrap();
        assert_eq!(kept.buckets[0].url, read.buckets[0].url);
        chain.break_down(false);
        let again = coprocessors.registry().await.unwrap();
        assert!(!Arc::ptr_eq(&again, &read), "it is read again");
        assert!(Arc::ptr_eq(&again.buckets[0].in_flight, &read.buckets[0].in_flight), "what is in flight still counts");
    }
}
