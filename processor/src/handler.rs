//! What is done with one request: prove and check it, run it on KMS Core, verify, publish.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alloy::primitives::{Bytes, keccak256};
use kms_chain::release::Release;
use kms_runtime::kafka::StoredRecord;
use kms_runtime::retry::Backoff;
use kms_runtime::stage::{Answered, Attempt, Carry, Failure, Handler, InputRecord, Outcome, OutcomeView, OutputRecord};
use kms_schemas::codec::Codec;
use kms_schemas::headers;
use kms_schemas::identity::{Coordinates, Kind, Lane};
use kms_schemas::record::{Answer, DeadLetter, DeferredRequest, Request, ResultRecord};
use kms_schemas::topics::Topics;

use crate::answer::Verifier;
use crate::chains::ServedChain;
use crate::ciphertext::CiphertextStore;
use crate::codes;
use crate::config::CoreVersion;
use crate::core::KmsCore;
use crate::error::Trouble;
use crate::gate::Gate;
use crate::identity::Quarantine;
use crate::metrics;
use crate::patience::{Patience, Spending};
use crate::serve::serve;

/// The service's name in dead letters and ids.
pub const SERVICE: &str = "processor";

/// Between two attempts of key management that healthy dependencies answered. What keeps it, a node that lacks an old block's state or a
/// core that has not loaded its keys, may take a person hours to mend. (An outage is tried again sooner.)
const KEY_MANAGEMENT_PAUSES: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(120), factor: 2.0 };

/// What every lane's handler shares.
#[derive(Debug)]
pub struct Shared {
    /// Reads and writes records.
    pub codec: Codec,
    /// Topic names.
    pub topics: Topics,
    /// `ce_source` of every record that is written.
    pub source: String,
    /// Release of the contracts.
    pub release: Release,
    /// The Gateway.
    pub gateway: ServedChain,
    /// The Ethereum host chain, where the release has requests there.
    pub ethereum: Option<ServedChain>,
    /// What a request must pass before KMS Core hears of it.
    pub gate: Gate,
    /// One payload for each identity.
    pub quarantine: Arc<Quarantine>,
    /// How long requests have waited for what may heal.
    pub patience: Patience,
    /// Where ciphertexts come from.
    pub ciphertexts: CiphertextStore,
    /// The KMS Core.
    pub core: KmsCore,
    /// Its version.
    pub core_version: CoreVersion,
    /// Whose signatures are published, and under which domains.
    pub verifier: Verifier,
}

/// Where a lane's records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// `requests.*`: what outlasts the lane is moved to the deferred topic.
    Fresh,
    /// `requests.*.deferred`: served until it ends.
    Deferred,
}

/// Handles the requests of one lane.
#[derive(Clone, Debug)]
pub struct RequestHandler {
    shared: Arc<Shared>,
    lane: Lane,
    intake: Intake,
}

/// Ends an earlier request of the same key, which may be running.
const fn ends_another(request: &Request) -> bool {
    matches!(request.kind, Kind::AbortKeygen | Kind::AbortCrsgen | Kind::KmsContextDestroyed | Kind::KmsEpochDestroyed)
}

/// One request with what its outcome has to name.
struct Work {
    request: Request,
    /// The record in `requests.*`.
    source: Coordinates,
    /// The record in `requests.*.deferred`, if it came that way.
    deferred: Option<Coordinates>,
    /// Attempts of earlier lanes.
    earlier_attempts: u32,
    first_attempt_ms: Option<u64>,
}

impl Work {
    /// The record that is being handled. What a request has waited is counted by it, and not by what it says of its source: nobody's
    /// record spends another one's budget.
    fn at(&self) -> &Coordinates {
        self.deferred.as_ref().unwrap_or(&self.source)
    }
}

impl RequestHandler {
    /// A handler of the lane's fresh or deferred records.
    #[must_use]
    pub const fn new(shared: Arc<Shared>, lane: Lane, intake: Intake) -> Self {
        Self { shared, lane, intake }
    }

    fn decode(&self, record: &InputRecord) -> Result<Work, Failure> {
        let value = record.value.as_deref().unwrap_or_default();
        let undecodable = |error: kms_schemas::codec::CodecError| Failure::new(error.code(), error.to_string());
        match self.intake {
            Intake::Fresh => Ok(Work {
                request: self.shared.codec.decode::<Request>(&record.topic, value).map_err(undecodable)?,
                source: record.coordinates(),
                deferred: None,
                earlier_attempts: 0,
                first_attempt_ms: None,
            }),
            Intake::Deferred => {
                let deferred =
                    self.shared.codec.decode::<DeferredRequest>(&record.topic, value).map_err(undecodable)?;
                Ok(Work {
                    request: deferred.request,
                    source: deferred.source,
                    deferred: Some(record.coordinates()),
                    earlier_attempts: deferred.attempts,
                    first_attempt_ms: Some(deferred.first_attempt_ms),
                })
            }
        }
    }

    /// From the record to the answer: prove, check, serve.
    async fn answer(&self, work: &Work, attempt: &Attempt) -> Result<Answer, Trouble> {
        let shared = &*self.shared;
        let (request, answered) = (&work.request, &attempt.answered);
        if request.kind.lane() != self.lane {
            let text = format!("{} is a request of another lane than {}", request.kind, self.lane);
            return Err(Trouble::permanent(codes::FOREIGN_REQUEST, text));
        }
        match &work.deferred {
            // In the order of the topic, so that a copy that is proven sooner is known to be one.
            None => shared.quarantine.remember(request, &work.source),
            Some(deferred) => shared.quarantine.check_deferred(request, &work.source, deferred).await?,
        }
        let transaction = shared.gate.prove(request, answered).await?;
        shared.quarantine.pass(&shared.gate, request, &work.source, answered).await?;
        self.heed(attempt).await;
        shared.gate.check(request, &transaction, SystemTime::now(), answered).await?;
        if shared.patience.passed(work.at()) {
            metrics::waiting(shared.patience.len());
        }
        // A deferred request, and one whose first attempt ended here, was probably started.
        let repeated = attempt.repeated || self.intake == Intake::Deferred;
        let served = serve(shared, request, repeated, answered);
        if self.lane == Lane::Decryption {
            return served.await;
        }
        tokio::select! {
            answer = served => answer,
            never = self.obey(attempt) => match never {},
        }
    }

    /// Knows of what was to end this request before the attempt, so that nothing is started for it. What cannot be proven now is obeyed
    /// later.
    async fn heed(&self, attempt: &Attempt) {
        let heard = attempt.signals.borrow().clone();
        let works = heard.iter().filter_map(|record| self.decode(record).ok());
        for work in works.filter(|work| ends_another(&work.request)) {
            if self.admit(&work.request, &attempt.answered).await.is_ok() {
                self.shared.core.aborts().tell(work.request.id);
            }
        }
    }

    /// Obeys the aborts of the request that is being served, for as long as it is: each is proven like any request, and then carried out
    /// at once, instead of after the request that it is to end.
    async fn obey(&self, attempt: &Attempt) -> Infallible {
        let mut signals = attempt.signals.clone();
        let (mut heard, mut last_heard) = (0, false);
        let mut open: Vec<Work> = Vec::new();
        loop {
            let new: Vec<_> = {
                let all = signals.borrow_and_update();
                let new = all.iter().skip(heard).cloned().collect();
                heard = all.len();
                new
            };
            open.extend(
                new.iter().filter_map(|record| self.decode(record).ok()).filter(|work| ends_another(&work.request)),
            );
            let mut later = Vec::new();
            for work in open {
                if let Err(Trouble::Outage { .. } | Trouble::Waits { .. } | Trouble::MayHeal { .. }) =
                    self.abort(&work.request, &attempt.answered).await
                {
                    later.push(work);
                }
            }
            open = later;
            tokio::select! {
                changed = signals.changed(), if !last_heard => last_heard = changed.is_err(),
                () = tokio::time::sleep(self.shared.patience.pause()), if !open.is_empty() => {}
                () = std::future::pending() => {}
            }
        }
    }

    /// The request waits no more.
    fn settled(&self, work: &Work) {
        if self.shared.patience.settled(work.at()) {
            metrics::waiting(self.shared.patience.len());
        }
    }

    async fn admit(&self, request: &Request, answered: &Answered) -> Result<(), Trouble> {
        let transaction = self.shared.gate.prove(request, answered).await?;
        self.shared.gate.check(request, &transaction, SystemTime::now(), answered).await
    }

    async fn abort(&self, request: &Request, answered: &Answered) -> Result<(), Trouble> {
        self.admit(request, answered).await?;
        serve(&self.shared, request, false, answered).await.map(drop)
    }

    /// What the stage is told of a request that has no answer yet, or never will.
    fn outcome(&self, work: &Work, attempt: u32, trouble: Trouble) -> Outcome {
        let outcome = self.judge(work, attempt, trouble);
        let Outcome::DeadLetter { why } = &outcome else { return outcome };
        if why.code == codes::IDENTITY_REUSED {
            metrics::identity_reused(work.request.kind.as_str(), &why.text);
        }
        // Nothing is believed of a place that a forged record names.
        if codes::is_before_core(why.code) && why.code != codes::DEFERRED_FORGED {
            self.shared.quarantine.identities().forget(&work.request, &work.source);
        }
        outcome
    }

    fn judge(&self, work: &Work, attempt: u32, trouble: Trouble) -> Outcome {
        let shared = &*self.shared;
        let kind = work.request.kind.as_str();
        match trouble {
            Trouble::Waits { budget, code, text } => {
                let spending = shared.patience.spend(work.at(), budget, Instant::now());
                metrics::waiting(shared.patience.len());
                match spending {
                    Spending::Wait(after) => {
                        metrics::check_waits(kind, code);
                        Outcome::Wait { after, why: Failure::new(code, text) }
                    }
                    Spending::Over(spent) => {
                        self.settled(work);
                        let text = format!("{text}; waited {} ms for it ({})", spent.as_millis(), budget.key());
                        metrics::request_refused(kind, code, &text);
                        Outcome::DeadLetter { why: Failure::new(code, text) }
                    }
                }
            }
            trouble @ (Trouble::Outage { .. } | Trouble::SetAside { .. }) => {
                shared.patience.interrupted(work.at());
                trouble.into_outcome()
            }
            Trouble::MayHeal { code, text } => {
                Outcome::Retry { after: pause_after(self.lane, attempt), why: Failure::new(code, text) }
            }
            Trouble::Permanent { code, text } => {
                self.settled(work);
                metrics::request_refused(kind, code, &text);
                Outcome::DeadLetter { why: Failure::new(code, text) }
            }
        }
    }

    fn publish(&self, work: Work, attempts: u32, answer: Answer) -> Result<OutputRecord, Failure> {
        let topics = &self.shared.topics;
        let topic = topics.results(work.request.kind.lane()).to_owned();
        let identity = work.request.identity();
        // The record's own, which is there whatever the record says.
        let partition = work.at().partition;
        let result = ResultRecord {
            source: work.source,
            deferred: work.deferred,
            identity,
            block_number: work.request.block_number,
            block_hash: work.request.block_hash,
            log_index: work.request.log_index,
            attempts: work.earlier_attempts.saturating_add(attempts),
            answer,
        };
        let value = self
            .shared
            .codec
            .encode(&topic, &result)
            .map_err(|error| Failure::new(error.code(), format!("the result cannot be encoded: {error}")))?;
        Ok(OutputRecord {
            partition: Some(partition),
            key: identity.id.0.to_vec(),
            headers: headers::headers(&self.shared.source, SystemTime::now(), &result),
            value,
            topic,
        })
    }
}

impl Handler for RequestHandler {
    async fn handle(&self, record: Arc<InputRecord>, attempt: Attempt) -> Outcome {
        let work = match self.decode(&record) {
            Ok(work) => work,
            Err(why) => return Outcome::DeadLetter { why },
        };
        let answered = tokio::select! {
            answered = self.answer(&work, &attempt) => answered,
            () = attempt.cancel.cancelled() => {
                // Nobody takes this outcome any more.
                return Outcome::Defer { why: Failure::new(codes::CANCELLED, "the attempt was cancelled") };
            }
        };
        let kind = work.request.kind.as_str();
        match answered {
            Ok(answer) => {
                self.settled(&work);
                metrics::answer_verified(kind);
                match self.publish(work, attempt.number, answer) {
                    Ok(output) => Outcome::Done(vec![output]),
                    Err(why) => Outcome::DeadLetter { why },
                }
            }
            Err(trouble) => {
                if matches!(trouble.code(), codes::SIGNATURE_WRONG | codes::ANSWER_MALFORMED) {
                    metrics::answer_refused(kind, trouble.code(), &trouble.to_string());
                }
                self.outcome(&work, attempt.number, trouble)
            }
        }
    }

    fn is_signal(&self, record: &InputRecord) -> bool {
        self.lane == Lane::KeyManagement && self.decode(record).is_ok_and(|work| ends_another(&work.request))
    }

    fn memory(&self) -> u64 {
        match self.intake {
            Intake::Fresh => self.shared.quarantine.identities().memory(),
            Intake::Deferred => 0,
        }
    }

    fn recall(&self, topic: &str, partition: i32, record: &StoredRecord) {
        let source = Coordinates { topic: topic.to_owned(), partition, offset: record.offset };
        self.shared.quarantine.recall(&source, record.value.as_deref());
    }

    fn deferred(&self, record: &InputRecord, attempts: u32, first_ms: u64, why: &Failure) -> Option<OutputRecord> {
        if self.intake == Intake::Deferred {
            return None;
        }
        let work = self.decode(record).ok()?;
        self.settled(&work);
        let topic = self.shared.topics.deferred(work.request.kind.lane()).to_owned();
        let key = work.request.id.0.to_vec();
        let deferred = DeferredRequest {
            source: work.source,
            attempts,
            first_attempt_ms: work.first_attempt_ms.unwrap_or(first_ms),
            deferred_ms: now_ms(),
            why: why.to_string(),
            request: work.request,
        };
        let value = self.shared.codec.encode(&topic, &deferred).ok()?;
        Some(OutputRecord {
            partition: Some(record.partition),
            key,
            headers: headers::headers(&self.shared.source, SystemTime::now(), &deferred),
            value,
            topic,
        })
    }

    fn dead_letter(&self, record: &InputRecord, attempts: u32, why: &Failure, carry: Carry) -> OutputRecord {
        let topic = self.shared.topics.dead_letters().to_owned();
        let work = self.decode(record).ok();
        if let Some(work) = &work {
            self.settled(work);
        }
        let value = record.value.as_deref().unwrap_or_default();
        let letter = DeadLetter {
            service: SERVICE.to_owned(),
            source: record.coordinates(),
            request: work.as_ref().filter(|_| why.code != codes::DEFERRED_FORGED).map(|work| work.source.clone()),
            identity: work.as_ref().map(|work| work.request.identity()),
            key: record.key.clone().map(Bytes::from),
            value: (carry == Carry::Value).then(|| Bytes::copy_from_slice(value)),
            value_bytes: value.len() as u64,
            value_digest: keccak256(value),
            reason: why.code.to_owned(),
            text: why.text.clone(),
            attempts: work.as_ref().map_or(0, |work| work.earlier_attempts).saturating_add(attempts),
            dead_ms: now_ms(),
        };
        OutputRecord {
            partition: None,
            key: record.key.as_deref().unwrap_or_default().to_vec(),
            headers: headers::headers(&self.shared.source, SystemTime::now(), &letter),
            value: self.shared.codec.encode(&topic, &letter).unwrap_or_else(|error| {
                // Every field of a dead letter fits its schema; only a value larger than a record may be can fail.
                tracing::error!(source = %letter.source, %error, "dead letter could not be encoded");
                Vec::new()
            }),
            topic,
        }
    }

    fn outcome_source(&self, outcome: OutcomeView<'_>) -> Option<Coordinates> {
        let value = outcome.value?;
        let codec = &self.shared.codec;
        let topics = &self.shared.topics;
        if outcome.topic == topics.dead_letters() {
            let letter = codec.decode::<DeadLetter>(outcome.topic, value).ok()?;
            return (letter.service == SERVICE).then_some(letter.source);
        }
        if let Ok(deferred) = codec.decode::<DeferredRequest>(outcome.topic, value) {
            return (self.intake == Intake::Fresh).then_some(deferred.source);
        }
        let result = codec.decode::<ResultRecord>(outcome.topic, value).ok()?;
        match self.intake {
            // A result of a deferred request is an outcome of the deferred record; the fresh one's was the deferral.
            Intake::Fresh => result.deferred.is_none().then_some(result.source),
            Intake::Deferred => result.deferred,
        }
    }
}

/// The pause after an attempt; none is the stage's own.
fn pause_after(lane: Lane, attempt: u32) -> Option<Duration> {
    match lane {
        Lane::Decryption => None,
        Lane::KeyManagement => Some(KEY_MANAGEMENT_PAUSES.delay(attempt, rand::random())),
    }
}

fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_an_abort_or_a_destruction_reaches_what_it_ends_while_that_runs() {
        let ends: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| ends_another(&Request { kind: *kind, ..crate::mock::request() }))
            .collect();
        let expected = [Kind::AbortKeygen, Kind::AbortCrsgen, Kind::KmsContextDestroyed, Kind::KmsEpochDestroyed];
        assert!(ends.len() == expected.len() && expected.iter().all(|kind| ends.contains(kind)), "{ends:?}");
    }

    #[test]
    fn attempts_of_key_management_are_ever_further_apart_up_to_minutes() {
        assert_eq!(pause_after(Lane::Decryption, 100), None);
        let pause = |attempt| pause_after(Lane::KeyManagement, attempt).unwrap();
        assert!(pause(1) <= Duration::from_millis(100));
        assert!(pause(9) > pause(5) && pause(5) > pause(2));
        for attempt in [20, 1_000, u32::MAX] {
            assert!((Duration::from_secs(60)..=Duration::from_secs(120)).contains(&pause(attempt)), "{attempt}");
        }
    }

    #[test]
    fn p5_what_a_deferred_record_waited_for_is_not_counted_against_the_request_that_it_names() {
        let source = Coordinates { topic: "requests".to_owned(), partition: 0, offset: 5 };
        let deferred = Coordinates { topic: "deferred".to_owned(), partition: 0, offset: 9 };
        let work = |deferred: Option<Coordinates>| Work {
            request: crate::mock::request(),
            source: source.clone(),
            deferred,
            earlier_attempts: 0,
            first_attempt_ms: None,
        };
        assert_eq!(work(None).at(), &source);
        assert_eq!(work(Some(deferred.clone())).at(), &deferred);
    }
}
