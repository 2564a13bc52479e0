//! What an observer of the chain sees: requests, answers, consensus, each with the moment its block arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256};
use kms_chain::eip712::{Domains, recover};
use kms_chain::event::{ContractSet, Decoded, ResponseEvent, decode_request, decode_response};
use kms_chain::rpc::{ChainLog, EndpointUrl, LogQuery, Rpc, RpcConfig};
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::RequestBody;
use tokio::sync::watch;

use crate::error::StackError;
use crate::progress::Task;
use crate::stack::Stack;

/// How often the head is asked for: the resolution of the latencies.
const HEAD_INTERVAL: Duration = Duration::from_millis(10);

/// A request by what the chain calls it. Within one deployment kind and id name it.
pub(super) type RequestName = (Kind, RequestId);

/// What was seen of one request.
#[derive(Clone, Debug)]
pub(super) struct SeenRequest {
    pub(super) block_hash: B256,
    pub(super) log_index: u64,
    pub(super) arrived: Instant,
    body: RequestBody,
}

/// What was seen of the chain so far.
#[derive(Clone, Debug, Default)]
pub(super) struct ChainView {
    pub(super) requests: BTreeMap<RequestName, SeenRequest>,
    /// Per request and recovered signer, when each of its answers arrived.
    pub(super) answers: BTreeMap<RequestName, BTreeMap<Address, Vec<Instant>>>,
    pub(super) consensus: BTreeSet<RequestName>,
    /// What no honest chain or connector would show.
    pub(super) oddities: Vec<String>,
}

impl ChainView {
    fn take_request(&mut self, log: &ChainLog, arrived: Instant, decoded: Decoded) {
        let name = (decoded.kind, decoded.id);
        if decoded.kind == Kind::Keygen
            && let RequestBody::Keygen { prep_keygen_id, .. } = &decoded.body
        {
            // The event that asks for the key is the preprocessing's consensus event.
            self.consensus.insert((Kind::PrepKeygen, *prep_keygen_id));
        }
        let seen = SeenRequest { block_hash: log.block_hash, log_index: log.log_index, arrived, body: decoded.body };
        if self.requests.insert(name, seen).is_some() {
            self.oddities.push(format!("the chain asked twice for {} {}", name.0, name.1));
        }
    }

    fn take_response(&mut self, domains: &Domains, arrived: Instant, event: &ResponseEvent) {
        let name = (event.kind(), event.id());
        let Some(signature) = event.signature() else {
            self.consensus.insert(name);
            return;
        };
        let Some(request) = self.requests.get(&name) else {
            self.oddities.push(format!("an answer to {} {}, which nobody asked for", name.0, name.1));
            return;
        };
        let Some(digest) = answered_digest(domains, name.1, &request.body, event) else {
            self.oddities.push(format!("an answer to {} {} that does not fit its request", name.0, name.1));
            return;
        };
        match recover(digest, signature) {
            Ok(signer) => self.answers.entry(name).or_default().entry(signer).or_default().push(arrived),
            Err(error) => self.oddities.push(format!("an answer to {} {}: {error}", name.0, name.1)),
        }
    }

    /// The moments at which each of `signers` was first accepted for a request.
    pub(super) fn accepted<'a>(
        &'a self,
        name: &RequestName,
        signers: &'a [Address],
    ) -> impl Iterator<Item = Option<Instant>> + 'a {
        let answers = self.answers.get(name);
        signers.iter().map(move |signer| answers?.get(signer)?.first().copied())
    }
}

/// What the answer in the event was signed over, recomputed from the request it claims to answer.
fn answered_digest(domains: &Domains, id: RequestId, body: &RequestBody, event: &ResponseEvent) -> Option<B256> {
    let handles = |materials: &[kms_schemas::record::CiphertextMaterial]| -> Vec<B256> {
        materials.iter().map(|material| material.handle).collect()
    };
    match (body, event) {
        (
            RequestBody::PublicDecryption { materials, .. },
            ResponseEvent::PublicDecryptionResponseCall { decrypted_result, extra_data, .. },
        ) => Some(domains.decryption.public_decryption(&handles(materials), decrypted_result, extra_data)),
        (
            RequestBody::UserDecryption { materials, public_key, .. },
            ResponseEvent::UserDecryptionResponse { share, extra_data, .. },
        ) => Some(domains.decryption.user_decryption(public_key, &handles(materials), share, extra_data)),
        (RequestBody::PrepKeygen { .. }, ResponseEvent::PrepKeygenResponse { .. }) => {
            Some(domains.kms_generation.prep_keygen(id))
        }
        (RequestBody::Keygen { prep_keygen_id, .. }, ResponseEvent::KeygenResponse { key_digests, .. }) => {
            Some(domains.kms_generation.keygen(*prep_keygen_id, id, key_digests))
        }
        (RequestBody::Crsgen { max_bit_length, .. }, ResponseEvent::CrsgenResponse { crs_digest, .. }) => {
            Some(domains.kms_generation.crsgen(id, *max_bit_length, crs_digest))
        }
        _ => None,
    }
}

/// Follows the chain from the deployment on, until dropped.
pub(super) struct Observer {
    view: Arc<Mutex<ChainView>>,
    changed: watch::Receiver<u64>,
    follower: tokio::task::JoinHandle<()>,
    signers: Vec<Address>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Observer {
    pub(super) async fn start(stack: &Stack) -> Result<Self, StackError> {
        let contracts = stack.contracts();
        let url = EndpointUrl::parse(&stack.anvil().url()).map_err(|error| StackError::Usage(error.to_string()))?;
        let rpc =
            Rpc::new(RpcConfig::new("observer", vec![url])).map_err(|error| StackError::Usage(error.to_string()))?;
        let followed = contracts.followed();
        let domains = Domains::new(contracts.gateway_chain_id, &followed);
        let view = Arc::new(Mutex::new(ChainView::default()));
        let (changes, changed) = watch::channel(0);
        let follower = tokio::spawn(follow(rpc, followed, domains, contracts.first_block, Arc::clone(&view), changes));
        let signers = stack.nodes().iter().map(crate::stack::Node::signer).collect();
        Ok(Self { view, changed, follower, signers })
    }

    fn view(&self) -> MutexGuard<'_, ChainView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every node's answer to `requests` requests was seen, or until nothing new came for `patience`.
    pub(super) async fn wait_for_answers(&self, requests: usize, patience: Duration, task: &Task) -> ChainView {
        let nodes = self.signers.len();
        self.wait_until(patience, |view| {
            let answered: usize =
                view.requests.keys().map(|name| view.accepted(name, &self.signers).flatten().count()).sum();
            task.now(format!(
                "{} of {requests} requested, {answered} of {} answers accepted",
                view.requests.len(),
                requests * nodes
            ));
            view.requests.len() >= requests && answered >= requests * nodes
        })
        .await;
        self.view().clone()
    }

    /// Waits until `holds`, or until nothing new came for `patience`; tells which.
    pub(super) async fn wait_until(&self, patience: Duration, holds: impl Fn(&ChainView) -> bool) -> bool {
        let mut changed = self.changed.clone();
        loop {
            changed.borrow_and_update();
            if holds(&self.view()) {
                return true;
            }
            match tokio::time::timeout(patience, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }
}

async fn follow(
    rpc: Rpc,
    contracts: ContractSet,
    domains: Domains,
    first_block: u64,
    view: Arc<Mutex<ChainView>>,
    changes: watch::Sender<u64>,
) {
    let topics = ContractSet::request_topics().into_iter().chain(ContractSet::response_topics()).collect::<Vec<_>>();
    let mut next = first_block;
    let mut ticks = tokio::time::interval(HEAD_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let head = match rpc.block(BlockNumberOrTag::Latest).await {
            Ok(Some(head)) => head.number(),
            Ok(None) | Err(_) => continue,
        };
        if head < next {
            continue;
        }
        let arrived = Instant::now();
        let query =
            LogQuery { addresses: contracts.addresses().to_vec(), topics: topics.clone(), from: next, to: head };
        let Ok(page) = rpc.logs(&query).await else { continue };
        next = head + 1;
        if page.logs.is_empty() {
            continue;
        }
        {
            let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
            for log in &page.logs {
                match decode_request(&contracts, &log.raw) {
                    Ok(Some(decoded)) => {
                        view.take_request(log, arrived, decoded);
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => view.oddities.push(error.to_string()),
                }
                match decode_response(&contracts, &log.raw) {
                    Ok(Some(event)) => view.take_response(&domains, arrived, &event),
                    Ok(None) => {}
                    Err(error) => view.oddities.push(error.to_string()),
                }
            }
        }
        changes.send_modify(|version| *version += 1);
    }
}
