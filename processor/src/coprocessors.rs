//! Which bucket a coprocessor's ciphertexts lie in, read from GatewayConfig and kept for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use kms_chain::views::GatewayConfigViews;
use tokio::sync::{Mutex, RwLock};

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
}

#[derive(Clone, Debug)]
struct Entry {
    /// None: not registered, or registered without a bucket.
    bucket: Option<String>,
    read: Instant,
}

/// A request can name coprocessors freely; what is remembered is bounded all the same.
const MAX_KNOWN: usize = 1024;

impl Coprocessors {
    /// Reads the registry through `views`; an entry older than `refresh` is read again.
    #[must_use]
    pub fn new(views: GatewayConfigViews, refresh: Duration) -> Self {
        Self { views, refresh, known: Arc::default(), reading: Arc::default() }
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
        }
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
                let bucket = registered
                    .map(|registered| registered.s3BucketUrl)
                    .filter(|url| url.starts_with("http://") || url.starts_with("https://"));
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
