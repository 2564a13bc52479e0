//! What happens to one record of a results topic: decode, judge, hand to the submitter, and write how it ended.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use alloy::primitives::{Bytes, keccak256};
use kms_runtime::stage::{Attempt, Carry, Failure, Handler, InputRecord, Outcome, OutcomeView, OutputRecord};
use kms_schemas::codec::{Codec, CodecError};
use kms_schemas::headers::headers;
use kms_schemas::identity::{Coordinates, Lane};
use kms_schemas::record::{DeadLetter, IntentItem, ResultRecord, Submission, Verdict};
use kms_schemas::topics::{Topics, request_key};
use tokio::sync::{mpsc, oneshot};

use crate::clock::unix_ms;
use crate::codes::INTERRUPTED;
use crate::cost::Costs;
use crate::judge::{Judge, Judgement};
use crate::order::Orders;
use crate::submitter::{End, Ended, ItemKey, Job};
use crate::verify::Call;
use crate::waits::{Patience, Waits};

/// Name of the service in records, groups and transactional ids.
pub const SERVICE: &str = "emitter";

/// The submitter, as a dependency whose outage burns no attempts.
const SUBMITTER: &str = "submitter";

/// Handles the results of one lane, for one destination.
pub struct ResultHandler {
    codec: Codec,
    topics: Topics,
    lane: Lane,
    judge: Arc<Judge>,
    patience: Patience,
    waits: Waits,
    settling: Settling,
    source: String,
}

/// Who sends answers, and what is asked about one that is on the chain.
pub struct Settling {
    /// To the submitter.
    pub jobs: mpsc::Sender<Job>,
    /// Which of the nodes answered first.
    pub orders: Orders,
    /// What answers cost.
    pub costs: Costs,
}

impl ResultHandler {
    /// A handler that hands on what is to be submitted.
    #[must_use]
    pub fn new(
        codec: Codec,
        topics: Topics,
        lane: Lane,
        judge: Arc<Judge>,
        patience: Patience,
        settling: Settling,
    ) -> Self {
        let source = format!("/{}/{SERVICE}", topics.prefix());
        Self { codec, topics, lane, judge, patience, waits: Waits::default(), settling, source }
    }

    fn decode(&self, record: &InputRecord) -> Result<ResultRecord, CodecError> {
        self.codec.decode(&record.topic, record.value.as_deref().unwrap_or_default())
    }

    /// Waits until the answer has ended; none when the submitter is gone.
    async fn submit(&self, record: &InputRecord, result: &ResultRecord, call: Call) -> Option<Ended> {
        let (reply, ended) = oneshot::channel();
        let job = Job {
            key: ItemKey { lane: self.lane, partition: record.partition, offset: record.offset },
            item: IntentItem { result: record.coordinates(), identity: result.identity },
            block: result.block_number,
            call,
            reply,
        };
        self.settling.jobs.send(job).await.ok()?;
        ended.await.ok()
    }

    fn submission(&self, record: &InputRecord, result: ResultRecord, verdict: Verdict, attempts: u32) -> Outcome {
        let now = SystemTime::now();
        let key = request_key(result.identity.id).to_vec();
        let submission = Submission {
            result: record.coordinates(),
            request: result.source,
            identity: result.identity,
            verdict,
            attempts,
            settled_ms: unix_ms(now),
        };
        let topic = self.topics.submissions().to_owned();
        match self.codec.encode(&topic, &submission) {
            Ok(value) => Outcome::Done(vec![OutputRecord {
                partition: None,
                key,
                value,
                headers: headers(&self.source, now, &submission),
                topic,
            }]),
            Err(error) => Outcome::DeadLetter { why: Failure::new(error.code(), error.to_string()) },
        }
    }
}

impl ResultHandler {
    /// What is to be done with a result, when it has waited enough.
    async fn judge(&self, record: &InputRecord, result: &ResultRecord) -> Result<Judgement, Outcome> {
        let place = (record.partition, record.offset);
        let judgement = match self.judge.judge(result).await {
            Judgement::Wait { budget, why, then } => {
                match self.waits.again(place, budget, &self.patience, Instant::now()) {
                    Some(after) => return Err(Outcome::Wait { after, why }),
                    None => *then,
                }
            }
            Judgement::Outage(why) => return Err(Outcome::Retry { after: None, why }),
            judgement => judgement,
        };
        self.waits.over(place);
        Ok(judgement)
    }

    /// Adds to a verdict what only the chain can tell now, and counts what an accepted answer cost.
    async fn complete(&self, result: &ResultRecord, attempt: &Attempt, mut verdict: Verdict) -> Verdict {
        if let Verdict::Accepted(inclusion) = &mut verdict {
            let (identity, block) = (result.identity, result.block_number);
            inclusion.order = tokio::select! {
                () = attempt.cancel.cancelled() => None,
                order = self.settling.orders.of(identity, block, inclusion) => order,
            };
            self.settling.costs.accepted(identity.kind, inclusion);
        }
        verdict
    }

    fn settle(&self, record: &InputRecord, result: ResultRecord, verdict: Verdict) -> Outcome {
        let name = if verdict == Verdict::Retracted { "retracted" } else { "no_answer_on_chain" };
        self.judge.metrics.settled(result.identity.kind, name, None);
        self.submission(record, result, verdict, 0)
    }

    fn refuse(&self, why: Failure) -> Outcome {
        self.judge.metrics.refused(why.code);
        Outcome::DeadLetter { why }
    }
}

impl Handler for ResultHandler {
    async fn handle(&self, record: Arc<InputRecord>, attempt: Attempt) -> Outcome {
        let result = match self.decode(&record) {
            Ok(result) => result,
            // Whose it would be cannot be told: the first destination speaks for it.
            Err(error) if self.judge.routes.is_first() => {
                return self.refuse(Failure::new(error.code(), error.to_string()));
            }
            Err(_) => return Outcome::Done(Vec::new()),
        };
        let interrupted = |text| Outcome::Retry { after: None, why: Failure::outage(INTERRUPTED, SUBMITTER, text) };
        let judged = tokio::select! {
            () = attempt.cancel.cancelled() => return interrupted("the attempt was cancelled"),
            judged = self.judge(&record, &result) => judged,
        };
        let call = match judged {
            Ok(Judgement::Send(call)) => call,
            Ok(Judgement::LeaveAlone) => {
                self.judge.metrics.left_alone();
                return Outcome::Done(Vec::new());
            }
            Ok(Judgement::Settle(verdict)) => return self.settle(&record, result, verdict),
            Ok(Judgement::Refuse(why) | Judgement::Outage(why) | Judgement::Wait { why, .. }) => {
                return self.refuse(why);
            }
            Err(outcome) => return outcome,
        };
        let ended = tokio::select! {
            () = attempt.cancel.cancelled() => return interrupted("the attempt was cancelled"),
            ended = self.submit(&record, &result, call) => ended,
        };
        match ended {
            Some(Ended { end: End::Verdict(verdict), attempts }) => {
                let verdict = self.complete(&result, &attempt, verdict).await;
                self.submission(&record, result, verdict, attempts)
            }
            Some(Ended { end: End::GivenUp { code, text }, .. }) => {
                Outcome::DeadLetter { why: Failure::new(code, text) }
            }
            None => interrupted("the submitter has ended"),
        }
    }

    fn deferred(&self, _: &InputRecord, _: u32, _: u64, _: &Failure) -> Option<OutputRecord> {
        None
    }

    fn dead_letter(&self, record: &InputRecord, attempts: u32, why: &Failure, carry: Carry) -> OutputRecord {
        let now = SystemTime::now();
        let topic = self.topics.dead_letters().to_owned();
        let result = self.decode(record).ok();
        let value = record.value.as_deref().unwrap_or_default();
        let letter = DeadLetter {
            service: SERVICE.to_owned(),
            source: record.coordinates(),
            request: result.as_ref().map(|result| result.source.clone()),
            identity: result.as_ref().map(|result| result.identity),
            key: record.key.clone().map(Bytes::from),
            value: (carry == Carry::Value).then(|| Bytes::copy_from_slice(value)),
            value_bytes: value.len() as u64,
            value_digest: keccak256(value),
            reason: why.code.to_owned(),
            text: why.text.clone(),
            attempts,
            dead_ms: unix_ms(now),
        };
        OutputRecord {
            partition: None,
            key: record.key.as_deref().unwrap_or_default().to_vec(),
            headers: headers(&self.source, now, &letter),
            value: self.codec.encode(&topic, &letter).unwrap_or_else(|error| {
                // Every field of a dead letter fits its schema.
                tracing::error!(source = %letter.source, %error, "a dead letter could not be encoded");
                Vec::new()
            }),
            topic,
        }
    }

    fn outcome_source(&self, outcome: OutcomeView<'_>) -> Option<Coordinates> {
        let value = outcome.value?;
        if outcome.topic == self.topics.dead_letters() {
            let letter = self.codec.decode::<DeadLetter>(outcome.topic, value).ok()?;
            return (letter.service == SERVICE).then_some(letter.source);
        }
        let submission = self.codec.decode::<Submission>(outcome.topic, value).ok()?;
        Some(submission.result)
    }
}
