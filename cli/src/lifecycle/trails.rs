//! What the topics say of each request of key management, folded record by record: no I/O, no order between topics assumed,
//! and memory for as many requests as a limit allows, whatever is in the topics.

use std::collections::BTreeMap;

use alloy::primitives::{Bytes, U256};
use kms_schemas::identity::{Coordinates, Identity, Lane, RequestId};
use kms_schemas::record::{
    Answer, DeadLetter, EpochKey, KeyDigest, NewKmsContext, Request, RequestBody, ResultRecord, Submission, Verdict,
};
use serde::Serialize;

/// Digests of one key and bytes of one text that are kept: more than any genuine record has.
const MAX_DIGESTS: usize = 8;
const MAX_BYTES: usize = 128;

/// Everything that was read.
#[derive(Debug)]
pub(super) struct Trails {
    /// The topic that outcomes name.
    requests_topic: String,
    /// Requests remembered at most.
    limit: usize,
    pub(super) trails: BTreeMap<Identity, Trail>,
    /// The latest epoch whose activation this node signed for a key or CRS, by chain and id of the key or CRS.
    pub(super) carried: BTreeMap<(u64, RequestId), RequestId>,
    pub(super) counts: Counts,
}

/// How many records there were, decryptions left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) results: u64,
    pub(super) submissions: u64,
    pub(super) dead_letters: u64,
    /// Dead letters that name no request: of decryptions or of key management, nobody knows.
    pub(super) nameless_dead_letters: u64,
    /// Records that do not decode.
    pub(super) unreadable: u64,
    /// Records about requests beyond the limit.
    pub(super) left_off: u64,
}

/// What is known of one request. A request that left the chain and came again has records of several occurrences; the
/// latest is kept, known by the offset of its record.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    asked: Option<(i64, Asked)>,
    answered: Option<(i64, Answered)>,
    settled: Option<(i64, Settled)>,
    dead: Option<(i64, Death)>,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) work: Work,
    /// Context and epoch that `extraData` names: the current pair when the request was made.
    pub(super) pair: Option<(RequestId, RequestId)>,
}

/// What was asked for, without what nobody is shown.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Preprocessing { params_type: u8 },
    Key { preprocessing: RequestId },
    Crs { max_bit_length: U256, params_type: u8 },
    Reshare { key: RequestId },
    Context(Box<ContextWork>),
    Epoch(EpochWork),
    Other,
}

/// What is shown of a new context.
#[derive(Clone, Debug)]
pub(super) struct ContextWork {
    pub(super) previous: RequestId,
    pub(super) nodes: usize,
    pub(super) mpc_threshold: U256,
    pub(super) software_version: String,
}

/// What is shown of a new epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct EpochWork {
    pub(super) context: RequestId,
    pub(super) previous_context: RequestId,
    pub(super) previous_epoch: RequestId,
    pub(super) material_block_number: U256,
}

/// An answer of KMS Core.
#[derive(Clone, Debug)]
enum Answered {
    Key(Vec<KeyDigest>),
    Crs(Bytes),
    Epoch { keys: usize, crs_list: usize },
    Signed,
    Done,
    Aborted,
    Retracted,
}

/// The verdict on an answer; what was accepted once stays accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Settled {
    Retracted,
    Refused,
    NoAnswerOnChain,
    Concluded,
    Accepted,
}

#[derive(Clone, Debug)]
struct Death {
    by_emitter: bool,
    reason: String,
}

/// How far this node got with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// The request is in the topics and has no outcome.
    Requested,
    /// KMS Core answered; the answer is not settled on chain.
    Answered,
    /// The chain holds this node's answer.
    Accepted,
    /// The chain got to the same without this node's answer, and takes it no more.
    Concluded,
    /// KMS Core did it, and the protocol has no answer on chain.
    Done,
    /// The chain refused the answer for good.
    Refused,
    /// Aborted on chain.
    Aborted,
    /// The request left the chain.
    Retracted,
    /// A dead letter: see its reason.
    Dead,
    /// The topics do not hold the request (any more).
    Unknown,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Answered => "answered",
            Self::Accepted => "accepted",
            Self::Concluded => "concluded",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::Retracted => "retracted",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

impl Trails {
    pub(super) fn new(requests_topic: &str, limit: usize) -> Self {
        Self {
            requests_topic: requests_topic.to_owned(),
            limit,
            trails: BTreeMap::new(),
            carried: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// A record of the requests topic, at `offset`.
    pub(super) fn request(&mut self, offset: i64, request: &Request) {
        let identity = request.identity();
        if identity.kind.lane() != Lane::KeyManagement {
            return;
        }
        self.counts.requests += 1;
        let Some(trail) = self.trail(identity) else { return };
        if trail.asked.as_ref().is_none_or(|(known, _)| *known <= offset) {
            trail.asked = Some((offset, asked(&request.body)));
        }
    }

    pub(super) fn result(&mut self, result: &ResultRecord) {
        if result.identity.kind.lane() != Lane::KeyManagement {
            return;
        }
        self.counts.results += 1;
        if let Answer::EpochActivation { keys, crs_list, .. } = &result.answer {
            let ids = keys.iter().map(|EpochKey { key_id, .. }| *key_id).chain(crs_list.iter().map(|crs| crs.crs_id));
            for id in ids {
                self.carry((result.identity.chain_id, id), result.identity.id);
            }
        }
        let Some(offset) = self.offset(&result.source) else { return };
        let Some(trail) = self.trail(result.identity) else { return };
        // Of two results of one request, the later one read holds: it comes from a redrive.
        if trail.answered.as_ref().is_none_or(|(known, _)| *known <= offset) {
            trail.answered = Some((offset, answered(&result.answer)));
        }
    }

    pub(super) fn submission(&mut self, submission: &Submission) {
        if submission.identity.kind.lane() != Lane::KeyManagement {
            return;
        }
        self.counts.submissions += 1;
        let Some(offset) = self.offset(&submission.request) else { return };
        let Some(trail) = self.trail(submission.identity) else { return };
        let settled = settled(&submission.verdict);
        trail.settled = trail.settled.max(Some((offset, settled)));
    }

    pub(super) fn dead_letter(&mut self, letter: &DeadLetter) {
        let Some(identity) = letter.identity else {
            self.counts.nameless_dead_letters += 1;
            return;
        };
        if identity.kind.lane() != Lane::KeyManagement {
            return;
        }
        self.counts.dead_letters += 1;
        let Some(offset) = self.offset(letter.request.as_ref().unwrap_or(&letter.source)) else { return };
        let Some(trail) = self.trail(identity) else { return };
        let death = Death { by_emitter: letter.service == "emitter", reason: shortened(&letter.reason) };
        let holds = |(known, earlier): &(i64, Death)| (*known, earlier.by_emitter) <= (offset, death.by_emitter);
        if trail.dead.as_ref().is_none_or(holds) {
            trail.dead = Some((offset, death));
        }
    }

    pub(super) fn unreadable(&mut self) {
        self.counts.unreadable += 1;
    }

    fn offset(&self, place: &Coordinates) -> Option<i64> {
        (place.topic == self.requests_topic).then_some(place.offset)
    }

    fn trail(&mut self, identity: Identity) -> Option<&mut Trail> {
        if self.trails.len() >= self.limit && !self.trails.contains_key(&identity) {
            self.counts.left_off += 1;
            return None;
        }
        Some(self.trails.entry(identity).or_default())
    }

    fn carry(&mut self, material: (u64, RequestId), epoch: RequestId) {
        if self.carried.len() >= self.limit && !self.carried.contains_key(&material) {
            return;
        }
        let latest = self.carried.entry(material).or_insert(epoch);
        *latest = epoch.max(*latest);
    }
}

impl Trail {
    /// The latest occurrence that was asked for, unless it left the chain.
    pub(super) fn asked(&self) -> Option<&Asked> {
        let (_, asked) = self.asked.as_ref()?;
        (self.state() != State::Retracted).then_some(asked)
    }

    /// How far this node got with the latest occurrence.
    pub(super) fn state(&self) -> State {
        let answered = self.of_latest(self.answered.as_ref());
        match self.of_latest(self.settled.as_ref()) {
            Some(Settled::Accepted) => return State::Accepted,
            Some(Settled::Concluded) => return State::Concluded,
            Some(Settled::Refused) => return State::Refused,
            Some(Settled::Retracted) => return State::Retracted,
            Some(Settled::NoAnswerOnChain) if answered.is_none() => return State::Done,
            // The answer says what there was instead.
            Some(Settled::NoAnswerOnChain) | None => {}
        }
        let dead = self.of_latest(self.dead.as_ref());
        if dead.is_some_and(|death| death.by_emitter) {
            return State::Dead;
        }
        match answered {
            Some(Answered::Done) => State::Done,
            Some(Answered::Aborted) => State::Aborted,
            Some(Answered::Retracted) => State::Retracted,
            Some(_) => State::Answered,
            None if dead.is_some() => State::Dead,
            None if self.asked.is_some() => State::Requested,
            None => State::Unknown,
        }
    }

    /// The code of the dead letter, for what is dead.
    pub(super) fn reason(&self) -> Option<String> {
        let death = self.of_latest(self.dead.as_ref())?;
        (self.state() == State::Dead).then(|| death.reason.clone())
    }

    pub(super) fn key_digests(&self) -> &[KeyDigest] {
        match self.of_latest(self.answered.as_ref()) {
            Some(Answered::Key(digests)) => digests,
            _ => &[],
        }
    }

    pub(super) fn crs_digest(&self) -> Option<&Bytes> {
        match self.of_latest(self.answered.as_ref()) {
            Some(Answered::Crs(digest)) => Some(digest),
            _ => None,
        }
    }

    /// Numbers of keys and CRSs whose activation in this epoch was signed.
    pub(super) fn activated(&self) -> Option<(usize, usize)> {
        match self.of_latest(self.answered.as_ref()) {
            Some(Answered::Epoch { keys, crs_list }) => Some((*keys, *crs_list)),
            _ => None,
        }
    }

    /// An outcome of an earlier occurrence is none of the latest one.
    fn of_latest<'a, T>(&self, outcome: Option<&'a (i64, T)>) -> Option<&'a T> {
        let latest = self.asked.as_ref().map_or(i64::MIN, |(offset, _)| *offset);
        outcome.filter(|(offset, _)| *offset >= latest).map(|(_, outcome)| outcome)
    }
}

fn asked(body: &RequestBody) -> Asked {
    let (work, extra_data) = match body {
        RequestBody::PrepKeygen { params_type, extra_data, .. } => {
            (Work::Preprocessing { params_type: *params_type }, Some(extra_data))
        }
        RequestBody::Keygen { prep_keygen_id, extra_data } => {
            (Work::Key { preprocessing: *prep_keygen_id }, Some(extra_data))
        }
        RequestBody::Crsgen { max_bit_length, params_type, extra_data } => {
            (Work::Crs { max_bit_length: *max_bit_length, params_type: *params_type }, Some(extra_data))
        }
        RequestBody::KeyReshareSameSet { key_id, .. } => (Work::Reshare { key: *key_id }, None),
        RequestBody::NewKmsContext(context) => (Work::Context(Box::new(context_work(context))), None),
        RequestBody::NewKmsEpoch { context_id, previous_context_id, previous_epoch_id, material_block_number } => {
            let epoch = EpochWork {
                context: *context_id,
                previous_context: *previous_context_id,
                previous_epoch: *previous_epoch_id,
                material_block_number: *material_block_number,
            };
            (Work::Epoch(epoch), None)
        }
        _ => (Work::Other, None),
    };
    Asked { work, pair: extra_data.and_then(|extra_data| pair(extra_data)) }
}

fn context_work(context: &NewKmsContext) -> ContextWork {
    ContextWork {
        previous: context.previous_context_id,
        nodes: context.nodes.len(),
        mpc_threshold: context.thresholds.mpc,
        software_version: shortened(&context.software_version),
    }
}

/// Context and epoch of `extraData` of version 2 (`docs/protocol.md`, "Extra data").
fn pair(extra_data: &[u8]) -> Option<(RequestId, RequestId)> {
    let (version, rest) = extra_data.split_first()?;
    let (context, rest) = rest.split_first_chunk::<32>()?;
    let (epoch, _) = rest.split_first_chunk::<32>()?;
    (*version == 2).then(|| (RequestId(context.into()), RequestId(epoch.into())))
}

fn answered(answer: &Answer) -> Answered {
    match answer {
        Answer::Keygen { key_digests, .. } => {
            let kept = key_digests.iter().take(MAX_DIGESTS);
            let digest = |digest: &KeyDigest| KeyDigest { key_type: digest.key_type, digest: cut(&digest.digest) };
            Answered::Key(kept.map(digest).collect())
        }
        Answer::Crsgen { crs_digest, .. } => Answered::Crs(cut(crs_digest)),
        Answer::EpochActivation { keys, crs_list, .. } => {
            Answered::Epoch { keys: keys.len(), crs_list: crs_list.len() }
        }
        Answer::Done => Answered::Done,
        Answer::Aborted => Answered::Aborted,
        Answer::Retracted => Answered::Retracted,
        _ => Answered::Signed,
    }
}

fn settled(verdict: &Verdict) -> Settled {
    match verdict {
        Verdict::Accepted(_) | Verdict::AlreadyAnswered { .. } => Settled::Accepted,
        Verdict::Concluded { .. } => Settled::Concluded,
        Verdict::NoAnswerOnChain => Settled::NoAnswerOnChain,
        Verdict::Refused { .. } => Settled::Refused,
        Verdict::Retracted => Settled::Retracted,
    }
}

/// A copy, so that the record it came from can go.
fn cut(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes.get(..MAX_BYTES).unwrap_or(bytes))
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_BYTES / 2).collect()
}
