//! Keys, CRSs, contexts and epochs, made of what the topics say of the requests.

use std::collections::BTreeMap;
use std::fmt;

use alloy::primitives::{Address, Bytes};
use kms_schemas::identity::{Identity, Kind, RequestId};
use kms_schemas::record::KeyDigest;
use serde::Serialize;

use super::trails::{Counts, State, Trail, Trails, Work};

/// One thing with a life of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename_all = "snake_case")]
pub(super) enum Object {
    /// A key with its preprocessing.
    Key(Key),
    /// A common reference string.
    Crs(Crs),
    /// A PRSS initialisation; generation (a).
    PrssInit(PrssInit),
    /// A KMS context.
    Context(Context),
    /// An epoch of a context.
    Epoch(Epoch),
    /// Last of all: what was read.
    Summary(Counts),
}

/// This node's part in one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    pub(super) id: RequestId,
    pub(super) state: State,
    /// Code of the dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Key {
    pub(super) chain_id: u64,
    pub(super) contract: Address,
    /// Aborted, if it was; else that of the key, or of the preprocessing while no key was asked for.
    pub(super) state: State,
    /// `ParamsType`: 0 default, 1 test.
    pub(super) params_type: Option<u8>,
    pub(super) preprocessing: Option<Step>,
    pub(super) key: Option<Step>,
    /// What this node signed.
    pub(super) digests: Vec<Digest>,
    /// Abort on chain.
    pub(super) abort: Option<Step>,
    /// Same-set resharings; generation (a).
    pub(super) reshares: Vec<Step>,
    /// The latest epoch into which this node reshared it.
    pub(super) epoch: Option<RequestId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Digest {
    pub(super) key_type: u8,
    pub(super) digest: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Crs {
    pub(super) chain_id: u64,
    pub(super) contract: Address,
    /// Aborted, if it was.
    pub(super) state: State,
    #[serde(flatten)]
    pub(super) own: Own,
    pub(super) params_type: Option<u8>,
    /// Decimal: the contracts' numbers have 256 bits.
    pub(super) max_bit_length: Option<String>,
    /// What this node signed.
    pub(super) digest: Option<Bytes>,
    /// Abort on chain.
    pub(super) abort: Option<Step>,
    /// The latest epoch into which this node carried it.
    pub(super) epoch: Option<RequestId>,
}

/// What an object is called, and this node's part, where the object has a state of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Own {
    pub(super) id: RequestId,
    /// How far this node got.
    pub(super) this_node: State,
    /// Code of the dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PrssInit {
    pub(super) chain_id: u64,
    pub(super) contract: Address,
    #[serde(flatten)]
    pub(super) step: Step,
}

/// What the topics show of a context or epoch on chain. The chain may be further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Life {
    /// Another record names it, that is all.
    Named,
    /// Asked for.
    Requested,
    /// This node's confirmation is on chain.
    Confirmed,
    /// A context: enough nodes confirmed.
    Created,
    /// A later record shows that it was activated.
    Active,
    /// Gone.
    Destroyed,
}

impl Life {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Requested => "requested",
            Self::Confirmed => "confirmed",
            Self::Created => "created",
            Self::Active => "active",
            Self::Destroyed => "destroyed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Context {
    pub(super) chain_id: u64,
    pub(super) state: Life,
    #[serde(flatten)]
    pub(super) own: Own,
    pub(super) previous: Option<RequestId>,
    pub(super) nodes: Option<usize>,
    /// Decimal.
    pub(super) mpc_threshold: Option<String>,
    pub(super) software_version: Option<String>,
    /// Destruction on chain.
    pub(super) destruction: Option<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Epoch {
    pub(super) chain_id: u64,
    pub(super) state: Life,
    #[serde(flatten)]
    pub(super) own: Own,
    pub(super) context: Option<RequestId>,
    pub(super) previous_context: Option<RequestId>,
    pub(super) previous_epoch: Option<RequestId>,
    /// Decimal.
    pub(super) material_block_number: Option<String>,
    /// Keys and CRSs whose resharing this node signed.
    pub(super) keys: Option<usize>,
    pub(super) crs_list: Option<usize>,
    /// Destruction on chain; that of its context destroys it too.
    pub(super) destruction: Option<Step>,
}

/// All objects: keys, CRSs, PRSS initialisations, contexts, epochs, each by chain and id; then the summary.
pub(super) fn objects(trails: &Trails) -> Vec<Object> {
    let mut objects: Vec<Object> = keys(trails).into_iter().map(Object::Key).collect();
    objects.extend(crs_list(trails).into_iter().map(Object::Crs));
    objects.extend(of_kind(trails, Kind::PrssInit).map(|(identity, trail)| {
        let (chain_id, contract) = (identity.chain_id, identity.contract);
        Object::PrssInit(PrssInit { chain_id, contract, step: step(identity.id, trail) })
    }));
    let (contexts, epochs) = committees(trails);
    objects.extend(contexts.into_iter().map(Object::Context));
    objects.extend(epochs.into_iter().map(Object::Epoch));
    objects.push(Object::Summary(trails.counts));
    objects
}

fn of_kind(trails: &Trails, kind: Kind) -> impl Iterator<Item = (&Identity, &Trail)> {
    trails.trails.iter().filter(move |(identity, _)| identity.kind == kind)
}

fn step(id: RequestId, trail: &Trail) -> Step {
    Step { id, state: trail.state(), reason: trail.reason() }
}

/// The abort of `id`, unless it left the chain.
fn abort_of(trails: &Trails, of: &Identity, kind: Kind) -> Option<Step> {
    let identity = Identity { kind, ..*of };
    let trail = trails.trails.get(&identity)?;
    (trail.state() != State::Retracted).then(|| step(identity.id, trail))
}

fn keys(trails: &Trails) -> Vec<Key> {
    let empty = |identity: &Identity| Key {
        chain_id: identity.chain_id,
        contract: identity.contract,
        state: State::Unknown,
        params_type: None,
        preprocessing: None,
        key: None,
        digests: vec![],
        abort: None,
        reshares: vec![],
        epoch: None,
    };
    // By preprocessing; a key whose request is not in the topics has none that is known, and stands for itself.
    let mut keys: BTreeMap<(u64, Address, RequestId), Key> = BTreeMap::new();
    for (identity, trail) in of_kind(trails, Kind::PrepKeygen) {
        let place = (identity.chain_id, identity.contract, identity.id);
        let key = keys.entry(place).or_insert_with(|| empty(identity));
        if let Some(Work::Preprocessing { params_type }) = trail.asked().map(|asked| &asked.work) {
            key.params_type = Some(*params_type);
        }
        key.preprocessing = Some(step(identity.id, trail));
    }
    let mut reshares: BTreeMap<(u64, Address, RequestId), Vec<Step>> = BTreeMap::new();
    for (identity, trail) in of_kind(trails, Kind::KeyReshareSameSet) {
        if let Some(Work::Reshare { key }) = trail.asked().map(|asked| &asked.work) {
            let of_key = reshares.entry((identity.chain_id, identity.contract, *key)).or_default();
            of_key.push(step(identity.id, trail));
        }
    }
    for (identity, trail) in of_kind(trails, Kind::Keygen) {
        let by = match trail.asked().map(|asked| &asked.work) {
            Some(Work::Key { preprocessing }) => *preprocessing,
            _ => identity.id,
        };
        let key = keys.entry((identity.chain_id, identity.contract, by)).or_insert_with(|| empty(identity));
        key.key = Some(step(identity.id, trail));
        key.digests = trail.key_digests().iter().map(digest).collect();
        key.reshares = reshares.remove(&(identity.chain_id, identity.contract, identity.id)).unwrap_or_default();
        key.epoch = trails.carried.get(&(identity.chain_id, identity.id)).copied();
    }
    for (identity, _) in of_kind(trails, Kind::AbortKeygen) {
        let place = (identity.chain_id, identity.contract, identity.id);
        keys.entry(place).or_insert_with(|| empty(identity)).abort = abort_of(trails, identity, Kind::AbortKeygen);
    }
    for key in keys.values_mut() {
        let own = key.key.as_ref().or(key.preprocessing.as_ref()).map_or(State::Unknown, |step| step.state);
        key.state = if key.abort.is_some() { State::Aborted } else { own };
    }
    keys.into_values().collect()
}

fn digest(digest: &KeyDigest) -> Digest {
    Digest { key_type: digest.key_type, digest: digest.digest.clone() }
}

fn crs_list(trails: &Trails) -> Vec<Crs> {
    let crs = |(identity, trail): (&Identity, &Trail)| {
        let (max_bit_length, params_type) = match trail.asked().map(|asked| &asked.work) {
            Some(Work::Crs { max_bit_length, params_type }) => (Some(max_bit_length.to_string()), Some(*params_type)),
            _ => (None, None),
        };
        let abort = abort_of(trails, identity, Kind::AbortCrsgen);
        Crs {
            chain_id: identity.chain_id,
            contract: identity.contract,
            state: if abort.is_some() { State::Aborted } else { trail.state() },
            own: own(identity.id, Some(trail)),
            params_type,
            max_bit_length,
            digest: trail.crs_digest().cloned(),
            abort,
            epoch: trails.carried.get(&(identity.chain_id, identity.id)).copied(),
        }
    };
    of_kind(trails, Kind::Crsgen).map(crs).collect()
}

fn own(id: RequestId, trail: Option<&Trail>) -> Own {
    Own { id, this_node: trail.map_or(State::Unknown, Trail::state), reason: trail.and_then(Trail::reason) }
}

/// Contexts and epochs by chain and id.
#[derive(Default)]
struct Committees {
    contexts: BTreeMap<(u64, RequestId), Context>,
    epochs: BTreeMap<(u64, RequestId), Epoch>,
}

impl Committees {
    fn context(&mut self, chain_id: u64, id: RequestId) -> &mut Context {
        self.contexts.entry((chain_id, id)).or_insert_with(|| Context {
            chain_id,
            state: Life::Named,
            own: own(id, None),
            previous: None,
            nodes: None,
            mpc_threshold: None,
            software_version: None,
            destruction: None,
        })
    }

    fn epoch(&mut self, chain_id: u64, id: RequestId) -> &mut Epoch {
        self.epochs.entry((chain_id, id)).or_insert_with(|| Epoch {
            chain_id,
            state: Life::Named,
            own: own(id, None),
            context: None,
            previous_context: None,
            previous_epoch: None,
            material_block_number: None,
            keys: None,
            crs_list: None,
            destruction: None,
        })
    }

    /// Something shows that this pair is, or was, the current one.
    fn activated(&mut self, chain_id: u64, context: RequestId, epoch: RequestId) {
        if is_id(context) {
            let context = self.context(chain_id, context);
            context.state = context.state.max(Life::Active);
        }
        if is_id(epoch) {
            let epoch = self.epoch(chain_id, epoch);
            epoch.context.get_or_insert(context);
            epoch.state = epoch.state.max(Life::Active);
        }
    }
}

/// The bare bases name nothing, and neither does zero.
fn is_id(id: RequestId) -> bool {
    id.0[1..].iter().any(|byte| *byte != 0)
}

fn committees(trails: &Trails) -> (Vec<Context>, Vec<Epoch>) {
    let mut all = Committees::default();
    for (identity, trail) in &trails.trails {
        let (chain_id, id) = (identity.chain_id, identity.id);
        let asked = trail.asked();
        if let Some((context, epoch)) = asked.and_then(|asked| asked.pair) {
            all.activated(chain_id, context, epoch);
        }
        match identity.kind {
            Kind::NewKmsContext => new_context(&mut all, identity, trail),
            Kind::NewKmsEpoch => new_epoch(&mut all, identity, trail),
            Kind::KmsContextDestroyed if trail.state() != State::Retracted => {
                let context = all.context(chain_id, id);
                context.destruction = Some(step(id, trail));
                context.state = Life::Destroyed;
            }
            Kind::KmsEpochDestroyed if trail.state() != State::Retracted => {
                let epoch = all.epoch(chain_id, id);
                epoch.destruction = Some(step(id, trail));
                epoch.state = Life::Destroyed;
            }
            _ => {}
        }
    }
    let Committees { contexts, mut epochs } = all;
    for epoch in epochs.values_mut() {
        // No event tells of the epochs of a destroyed context.
        let context = epoch.context.and_then(|context| contexts.get(&(epoch.chain_id, context)));
        if context.is_some_and(|context| context.state == Life::Destroyed) {
            epoch.state = Life::Destroyed;
        }
    }
    (contexts.into_values().collect(), epochs.into_values().collect())
}

fn life(state: State) -> Life {
    match state {
        State::Accepted => Life::Confirmed,
        State::Retracted | State::Unknown => Life::Named,
        _ => Life::Requested,
    }
}

fn new_context(all: &mut Committees, identity: &Identity, trail: &Trail) {
    let context = all.context(identity.chain_id, identity.id);
    context.own = own(identity.id, Some(trail));
    let shown = match trail.state() {
        State::Concluded => Life::Created,
        state => life(state),
    };
    context.state = context.state.max(shown);
    let Some(Work::Context(work)) = trail.asked().map(|asked| &asked.work) else { return };
    context.previous = Some(work.previous);
    context.nodes = Some(work.nodes);
    context.mpc_threshold = Some(work.mpc_threshold.to_string());
    context.software_version = Some(work.software_version.clone());
    // The first context is active at once (`docs/protocol.md`, "Contexts and epochs").
    if !is_id(work.previous) {
        context.state = context.state.max(Life::Active);
    }
}

fn new_epoch(all: &mut Committees, identity: &Identity, trail: &Trail) {
    let (chain_id, id) = (identity.chain_id, identity.id);
    let epoch = all.epoch(chain_id, id);
    epoch.own = own(id, Some(trail));
    epoch.state = epoch.state.max(life(trail.state()));
    if let Some((keys, crs_list)) = trail.activated() {
        (epoch.keys, epoch.crs_list) = (Some(keys), Some(crs_list));
    }
    let Some(Work::Epoch(work)) = trail.asked().map(|asked| asked.work.clone()) else { return };
    epoch.context = Some(work.context);
    epoch.previous_context = Some(work.previous_context);
    epoch.previous_epoch = Some(work.previous_epoch);
    epoch.material_block_number = Some(work.material_block_number.to_string());
    // The event comes when the context's creation is agreed on, and names what was current then.
    let context = all.context(chain_id, work.context);
    context.state = context.state.max(Life::Created);
    all.activated(chain_id, work.previous_context, work.previous_epoch);
    if trail.state() == State::Concluded {
        all.activated(chain_id, work.context, id);
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.state.as_str())?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({})", reason.escape_debug()))
    }
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this-node={}", self.this_node.as_str())?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({})", reason.escape_debug()))
    }
}

/// One line per object.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => {
                let id = key.key.as_ref().or(key.preprocessing.as_ref()).or(key.abort.as_ref()).map(|step| step.id);
                write!(f, "key       {} {:<10} chain={}", id.unwrap_or_default(), key.state.as_str(), key.chain_id)?;
                option(f, "params", key.params_type)?;
                option(f, "key", key.key.as_ref())?;
                option(f, "preprocessing", key.preprocessing.as_ref())?;
                for digest in &key.digests {
                    write!(f, " {}={}", key_type(digest.key_type), digest.digest)?;
                }
                option(f, "abort", key.abort.as_ref())?;
                for reshare in &key.reshares {
                    write!(f, " reshare={reshare}")?;
                }
                option(f, "epoch", key.epoch)
            }
            Self::Crs(crs) => {
                write!(f, "crs       {} {:<10} chain={} {}", crs.own.id, crs.state.as_str(), crs.chain_id, crs.own)?;
                option(f, "params", crs.params_type)?;
                option(f, "bits", crs.max_bit_length.as_ref())?;
                option(f, "digest", crs.digest.as_ref())?;
                option(f, "abort", crs.abort.as_ref())?;
                option(f, "epoch", crs.epoch)
            }
            Self::PrssInit(PrssInit { chain_id, contract, step }) => {
                let Step { id, state, reason } = step;
                write!(f, "prss-init {id} {:<10} chain={chain_id} contract={contract}", state.as_str())?;
                option(f, "reason", reason.as_deref().map(str::escape_debug))
            }
            Self::Context(context) => {
                let state = context.state.as_str();
                write!(f, "context   {} {state:<10} chain={} {}", context.own.id, context.chain_id, context.own)?;
                option(f, "previous", context.previous)?;
                option(f, "nodes", context.nodes)?;
                option(f, "mpc-threshold", context.mpc_threshold.as_ref())?;
                option(f, "software", context.software_version.as_deref().map(str::escape_debug))?;
                option(f, "destruction", context.destruction.as_ref())
            }
            Self::Epoch(epoch) => {
                let state = epoch.state.as_str();
                write!(f, "epoch     {} {state:<10} chain={} {}", epoch.own.id, epoch.chain_id, epoch.own)?;
                option(f, "context", epoch.context)?;
                option(f, "previous-context", epoch.previous_context)?;
                option(f, "previous-epoch", epoch.previous_epoch)?;
                option(f, "material-block", epoch.material_block_number.as_ref())?;
                option(f, "keys", epoch.keys)?;
                option(f, "crs-list", epoch.crs_list)?;
                option(f, "destruction", epoch.destruction.as_ref())
            }
            Self::Summary(counts) => {
                let Counts { requests, results, submissions, dead_letters, .. } = counts;
                write!(
                    f,
                    "read: {requests} requests, {results} results, {submissions} submissions, {dead_letters} dead letters"
                )
            }
        }
    }
}

fn option(f: &mut fmt::Formatter<'_>, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {name}={value}"))
}

/// As the documentation of the records' `KeyDigest` says.
fn key_type(key_type: u8) -> String {
    match key_type {
        0 => "server-key".to_owned(),
        1 => "public-key".to_owned(),
        3 => "compressed-key-set".to_owned(),
        other => format!("key-type-{other}"),
    }
}
