//! What an observer of the chains sees: requests, answers, consensus, each with the moment its block arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, Bytes};
use kms_chain::eip712::{Domains, recover};
use kms_chain::event::{ContractSet, Decoded, NO_CONTEXT, ResponseEvent, decode_request, decode_response};
use kms_chain::rpc::{ChainLog, EndpointUrl, LogQuery, Rpc, RpcConfig};
use kms_schemas::identity::{Identity, Kind, RequestId};
use kms_schemas::record::{CiphertextMaterial, HandleEntry, RawLog, RequestBody};
use tokio::sync::watch;

use super::load::chain_error;
use super::watch::Watch;
use crate::contracts::Node;
use crate::description::Description;
use crate::error::StackError;
use crate::progress::Task;

/// How often the heads are asked for: the resolution of the latencies.
const HEAD_INTERVAL: Duration = Duration::from_millis(10);

/// What was seen of one request.
#[derive(Clone, Debug)]
pub(super) struct SeenRequest {
    pub(super) block_hash: B256,
    pub(super) log_index: u64,
    pub(super) arrived: Instant,
    /// Whether it was there before the load.
    pub(super) before: bool,
    body: RequestBody,
}

/// What has to come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Every node's answer, accepted on chain.
    Answer,
    /// The chain takes no answer: every node's settled submission.
    Settlement,
    /// The chain took the request back: an answer that was on its way, or a settled submission.
    Either,
}

/// What was seen of the chains so far.
#[derive(Clone, Debug, Default)]
pub(super) struct ChainView {
    pub(super) requests: BTreeMap<Identity, SeenRequest>,
    /// Per request and node (by its signer), when each of its answers arrived.
    pub(super) answers: BTreeMap<Identity, BTreeMap<Address, Vec<Instant>>>,
    pub(super) consensus: BTreeSet<Identity>,
    /// Preprocessings and CRSs that were aborted on chain.
    aborted: BTreeSet<RequestId>,
    /// What no honest chain or connector would show.
    pub(super) oddities: Vec<String>,
    /// Up to which block each chain was read.
    read: BTreeMap<u64, u64>,
}

impl ChainView {
    fn take_request(&mut self, chain_id: u64, log: &ChainLog, arrived: Instant, decoded: Decoded) {
        let identity = Identity { chain_id, contract: log.raw.address, kind: decoded.kind, id: decoded.id };
        match &decoded.body {
            // The event that asks for the key is the preprocessing's consensus event.
            RequestBody::Keygen { prep_keygen_id, .. } => {
                self.consensus.insert(Identity { kind: Kind::PrepKeygen, id: *prep_keygen_id, ..identity });
            }
            // The event that announces an epoch is the consensus on its context, if that is new.
            RequestBody::NewKmsEpoch { context_id, .. } => {
                let context = Identity { kind: Kind::NewKmsContext, id: *context_id, ..identity };
                if self.requests.contains_key(&context) && self.due(&context) == Due::Answer {
                    self.consensus.insert(context);
                }
            }
            RequestBody::AbortKeygen | RequestBody::AbortCrsgen => {
                self.aborted.insert(decoded.id);
            }
            _ => {}
        }
        let seen = SeenRequest {
            block_hash: log.block_hash,
            log_index: log.log_index,
            arrived,
            before: false,
            body: decoded.body,
        };
        if self.requests.insert(identity, seen).is_some() {
            self.oddities.push(format!("the chain asked twice for {} {}", identity.kind, identity.id));
        }
    }

    fn take_response(
        &mut self,
        chain: &FollowedChain,
        signers: &BTreeMap<Address, Address>,
        log: &RawLog,
        arrived: Instant,
        event: &ResponseEvent,
    ) {
        let identity = Identity { chain_id: chain.chain_id, contract: log.address, kind: event.kind(), id: event.id() };
        let named = format!("{} {}", identity.kind, identity.id);
        let signer = match event {
            ResponseEvent::KmsContextCreationConfirmation { tx_sender, .. } => match signers.get(tx_sender) {
                Some(signer) => Ok(*signer),
                None => Err(format!("a confirmation of {named} by {tx_sender}, which is no node")),
            },
            // The contract has checked every signature in the call, and names who made them.
            ResponseEvent::EpochActivationConfirmation { signer, .. } => Ok(*signer),
            _ => {
                let Some(signature) = event.signature() else {
                    self.consensus.insert(identity);
                    return;
                };
                match self.requests.get(&identity) {
                    None => Err(format!("an answer to {named}, which nobody asked for")),
                    Some(request) => signer_of(&chain.domains, identity.id, &request.body, event, signature)
                        .map_err(|error| format!("an answer to {named} {error}")),
                }
            }
        };
        match signer {
            Ok(signer) => self.answers.entry(identity).or_default().entry(signer).or_default().push(arrived),
            Err(oddity) => self.oddities.push(oddity),
        }
    }

    /// What has to come of a request that was seen.
    pub(super) fn due(&self, identity: &Identity) -> Due {
        if !identity.kind.has_answer() {
            return Due::Settlement;
        }
        match self.requests.get(identity).map(|seen| &seen.body) {
            Some(RequestBody::NewKmsContext(context)) if context.previous_context_id == NO_CONTEXT => Due::Settlement,
            Some(RequestBody::Keygen { prep_keygen_id, .. }) if self.aborted.contains(prep_keygen_id) => Due::Either,
            Some(_) if self.aborted.contains(&identity.id) => Due::Either,
            _ => Due::Answer,
        }
    }

    /// The moments at which each of `signers` was first accepted for a request.
    pub(super) fn accepted<'a>(
        &'a self,
        identity: &Identity,
        signers: &'a [Address],
    ) -> impl Iterator<Item = Option<Instant>> + 'a {
        let answers = self.answers.get(identity);
        signers.iter().map(move |signer| answers?.get(signer)?.first().copied())
    }

    /// Whether every node's answer to a request was accepted, if the chain waits for one.
    pub(super) fn is_answered(&self, identity: &Identity, signers: &[Address]) -> bool {
        self.due(identity) != Due::Answer || self.accepted(identity, signers).all(|accepted| accepted.is_some())
    }

    /// The requests of a kind, by id.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Identity> {
        self.requests.keys().filter(move |identity| identity.kind == kind)
    }
}

/// Who signed the answer in the event, over the digest recomputed from the request that it claims to answer.
fn signer_of(
    domains: &Domains,
    id: RequestId,
    body: &RequestBody,
    event: &ResponseEvent,
    signature: &Bytes,
) -> Result<Address, String> {
    let digest = answered_digest(domains, id, body, event).ok_or("that does not fit its request")?;
    recover(digest, signature).map_err(|error| error.to_string())
}

/// What the answer in the event was signed over, recomputed from the request it claims to answer.
fn answered_digest(domains: &Domains, id: RequestId, body: &RequestBody, event: &ResponseEvent) -> Option<B256> {
    let of_materials = |materials: &[CiphertextMaterial]| materials.iter().map(|one| one.handle).collect::<Vec<_>>();
    let of_entries = |entries: &[HandleEntry]| entries.iter().map(|one| one.handle).collect::<Vec<_>>();
    match event {
        ResponseEvent::PublicDecryptionResponseCall { decrypted_result, extra_data, .. } => {
            let handles = match body {
                RequestBody::PublicDecryption { materials, .. } => of_materials(materials),
                RequestBody::PublicDecryptionHandles { handles, .. } => handles.clone(),
                _ => return None,
            };
            Some(domains.decryption.as_ref()?.public_decryption(&handles, decrypted_result, extra_data))
        }
        ResponseEvent::UserDecryptionResponse { share, extra_data, .. } => {
            let (handles, public_key) = match body {
                RequestBody::UserDecryption { materials, public_key, .. } => (of_materials(materials), public_key),
                RequestBody::UserDecryptionHandles { handles, public_key, .. } => (handles.clone(), public_key),
                RequestBody::UnifiedUserDecryption(request) => (of_entries(&request.entries), &request.public_key),
                _ => return None,
            };
            Some(domains.decryption.as_ref()?.user_decryption(public_key, &handles, share, extra_data))
        }
        ResponseEvent::PrepKeygenResponse { .. } => {
            let RequestBody::PrepKeygen { extra_data, .. } = body else { return None };
            let domain = domains.kms_generation.as_ref()?;
            Some(if domains.release.signs_extra_data() {
                domain.prep_keygen_with(id, extra_data)
            } else {
                domain.prep_keygen(id)
            })
        }
        ResponseEvent::KeygenResponse { key_digests, .. } => {
            let RequestBody::Keygen { prep_keygen_id, extra_data } = body else { return None };
            let domain = domains.kms_generation.as_ref()?;
            Some(if domains.release.signs_extra_data() {
                domain.keygen_with(*prep_keygen_id, id, key_digests, extra_data)
            } else {
                domain.keygen(*prep_keygen_id, id, key_digests)
            })
        }
        ResponseEvent::CrsgenResponse { crs_digest, .. } => {
            let RequestBody::Crsgen { max_bit_length, extra_data, .. } = body else { return None };
            let domain = domains.kms_generation.as_ref()?;
            Some(if domains.release.signs_extra_data() {
                domain.crsgen_with(id, *max_bit_length, crs_digest, extra_data)
            } else {
                domain.crsgen(id, *max_bit_length, crs_digest)
            })
        }
        _ => None,
    }
}

/// One chain under observation.
struct FollowedChain {
    chain_id: u64,
    rpc: Rpc,
    contracts: ContractSet,
    domains: Domains,
    first_block: u64,
}

/// Follows the chains from the deployment on, until dropped.
pub(super) struct Observer {
    view: Arc<Mutex<ChainView>>,
    changed: watch::Receiver<u64>,
    followers: Vec<tokio::task::JoinHandle<()>>,
    signers: Vec<Address>,
    watch: Watch,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.followers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Observer {
    pub(super) fn start(stack: &Description, watch: Watch) -> Result<Self, StackError> {
        let usage = |error: &dyn std::fmt::Display| StackError::Usage(error.to_string());
        let view = Arc::new(Mutex::new(ChainView::default()));
        let (changes, changed) = watch::channel(0);
        let by_sender: Arc<BTreeMap<Address, Address>> =
            Arc::new(stack.nodes.iter().map(|node| (node.sender, node.signer)).collect());
        let mut followers = Vec::new();
        for chain in stack.chains() {
            let url = EndpointUrl::parse(&chain.url).map_err(|error| usage(&error))?;
            let rpc = Rpc::new(RpcConfig::new(format!("observer-{}", chain.name), vec![url]))
                .map_err(|error| usage(&error))?;
            let followed = FollowedChain {
                chain_id: chain.chain_id,
                rpc,
                contracts: chain.contracts,
                domains: Domains::new(chain.chain_id, &chain.contracts),
                first_block: chain.first_block,
            };
            followers.push(tokio::spawn(follow(followed, Arc::clone(&by_sender), Arc::clone(&view), changes.clone())));
        }
        let signers = stack.nodes.iter().map(|node| node.signer).collect();
        Ok(Self { view, changed, followers, signers, watch })
    }

    /// What is looked after meanwhile.
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Reads the chains up to where they are now, and tells how many requests they hold already. What the deployment itself asked for
    /// belongs to the first load.
    ///
    /// # Errors
    /// A chain does not answer for longer than an outage is borne, or cannot be read within `patience` more.
    pub(super) async fn look_back(
        &mut self,
        gateway: &Node,
        host: Option<&Node>,
        patience: Duration,
    ) -> Result<usize, StackError> {
        let deadline = Instant::now() + patience + self.watch.outage();
        for node in [Some(gateway), host].into_iter().flatten() {
            let chain_id = node.chain_id().await.map_err(chain_error)?;
            let head = node.block_number().await.map_err(chain_error)?;
            while self.view().read.get(&chain_id).is_none_or(|read| *read < head) {
                if Instant::now() >= deadline {
                    let text =
                        format!("the chain at {} answers, and its logs up to block {head} cannot be read", node.url());
                    return Err(StackError::Job(text));
                }
                tokio::time::sleep(HEAD_INTERVAL).await;
            }
        }
        let mut view = self.view();
        let is_deployments =
            |view: &ChainView, name: &Identity| name.kind == Kind::NewKmsContext && view.due(name) == Due::Settlement;
        if view.requests.keys().all(|name| is_deployments(&view, name)) {
            return Ok(0);
        }
        view.requests.values_mut().for_each(|seen| seen.before = true);
        Ok(view.requests.len())
    }

    fn view(&self) -> MutexGuard<'_, ChainView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that were seen.
    pub(super) fn requests(&self) -> usize {
        self.view().requests.len()
    }

    /// Requests of a kind that were seen.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.view().of_kind(kind).count()
    }

    /// Waits until every node's answer to `requests` requests was seen, or until nothing new came for `patience`.
    pub(super) async fn wait_for_answers(&self, requests: usize, patience: Duration, task: &Task) -> ChainView {
        self.wait_until(patience, |view| {
            let (mut wanted, mut accepted) = (0, 0);
            for identity in view.requests.keys().filter(|identity| view.due(identity) == Due::Answer) {
                wanted += self.signers.len();
                accepted += view.accepted(identity, &self.signers).flatten().count();
            }
            let missing = requests.saturating_sub(view.requests.len());
            task.now(format!(
                "{} of {requests} requested, {accepted} of {} answers accepted",
                view.requests.len(),
                wanted + missing * self.signers.len()
            ));
            missing == 0 && accepted >= wanted
        })
        .await;
        self.view().clone()
    }

    /// Waits until `wanted` finds what it looks for, or until nothing new came for `patience`.
    pub(super) async fn wait_for<T>(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&ChainView, &[Address]) -> Option<T>,
    ) -> Option<T> {
        let mut found = None;
        self.wait_until(patience, |view| {
            found = wanted(view, &self.signers);
            found.is_some()
        })
        .await;
        found
    }

    /// Whether an answer that was waited for is not there.
    pub(super) fn lacks_answers(&self, view: &ChainView, requests: usize) -> bool {
        view.requests.len() < requests || view.requests.keys().any(|name| !view.is_answered(name, &self.signers))
    }

    /// Waits until `holds`, or until nothing new came for `patience`; tells which.
    async fn wait_until(&self, patience: Duration, mut holds: impl FnMut(&ChainView) -> bool) -> bool {
        let mut changed = self.changed.clone();
        let mut last_news = Instant::now();
        loop {
            changed.borrow_and_update();
            if holds(&self.view()) {
                return true;
            }
            match tokio::time::timeout(patience, changed.changed()).await {
                Ok(Ok(())) => last_news = Instant::now(),
                Err(_) if self.watch.excuses(last_news.elapsed(), patience) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }
}

async fn follow(
    chain: FollowedChain,
    by_sender: Arc<BTreeMap<Address, Address>>,
    view: Arc<Mutex<ChainView>>,
    changes: watch::Sender<u64>,
) {
    let contracts = &chain.contracts;
    let topics: Vec<B256> = contracts.request_topics().into_iter().chain(contracts.response_topics()).collect();
    let mut next = chain.first_block;
    let mut ticks = tokio::time::interval(HEAD_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let head = match chain.rpc.block(BlockNumberOrTag::Latest).await {
            Ok(Some(head)) => head.number(),
            Ok(None) | Err(_) => continue,
        };
        if head < next {
            continue;
        }
        let arrived = Instant::now();
        let query = LogQuery { addresses: contracts.addresses(), topics: topics.clone(), from: next, to: head };
        let Ok(page) = chain.rpc.logs(&query).await else { continue };
        next = head + 1;
        {
            let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
            view.read.insert(chain.chain_id, head);
            if page.logs.is_empty() {
                continue;
            }
            for log in &page.logs {
                match decode_request(contracts, &log.raw) {
                    Ok(Some(decoded)) => {
                        view.take_request(chain.chain_id, log, arrived, decoded);
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => view.oddities.push(error.to_string()),
                }
                match decode_response(contracts, &log.raw) {
                    Ok(Some(event)) => view.take_response(&chain, &by_sender, &log.raw, arrived, &event),
                    Ok(None) => {}
                    Err(error) => view.oddities.push(error.to_string()),
                }
            }
        }
        changes.send_modify(|version| *version += 1);
    }
}
