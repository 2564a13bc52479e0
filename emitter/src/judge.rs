//! What is to be done with a result: whose it is, whether our signer signed it, whether the chain asked for it.

use std::sync::Arc;

use kms_runtime::stage::Failure;
use kms_schemas::record::{ResultRecord, Verdict};

use crate::codes::{ABORT_CONTRADICTED, INTERRUPTED, NOT_REACHED, RETRACTION_CONTRADICTED, WRONG_DESTINATION};
use crate::metrics::Metrics;
use crate::prove::{Prover, Unshown};
use crate::release::{Look, Releases};
use crate::routes::{Owner, Routes};
use crate::verify::{Call, Checked, Verifier, VerifyError};
use crate::waits::Budget;

/// The destination's nodes, as a dependency whose outage burns no attempts and pauses this destination's intake.
const CHAIN: &str = "chain";

/// What is to be done with a result.
#[derive(Debug)]
pub enum Judgement {
    /// Another destination's: its offset is committed, and that is all.
    LeaveAlone,
    /// Submit this call.
    Send(Call),
    /// It is settled without a transaction.
    Settle(Verdict),
    /// It must never be sent; a dead letter keeps it.
    Refuse(Failure),
    /// Look again after a while; when the budget is spent, do this instead.
    Wait {
        /// What is waited for, within which time.
        budget: Budget,
        /// For a person.
        why: Failure,
        /// What then.
        then: Box<Judgement>,
    },
    /// Nobody could tell.
    Outage(Failure),
}

/// Judges the results of one destination.
pub struct Judge {
    /// Whose they are.
    pub routes: Routes,
    /// Who signed them.
    pub verifier: Verifier,
    /// What the chain asked for.
    pub prover: Prover,
    /// Whether the contracts still are what the verifier takes them for.
    pub releases: Arc<Releases>,
    /// Happenings of the destination.
    pub metrics: Metrics,
}

impl Judge {
    /// Judges one result. The cheap checks come first; of those that ask the chain, most are answered from memory.
    pub async fn judge(&self, result: &ResultRecord) -> Judgement {
        match self.routes.owner(&result.identity) {
            Owner::Own => {}
            Owner::Another => return Judgement::LeaveAlone,
            Owner::Nobody if self.routes.is_first() => return self.refuse(WRONG_DESTINATION, self.nobodys(result)),
            Owner::Nobody => return Judgement::LeaveAlone,
        }
        let checked = match self.verifier.check(result) {
            Ok(checked) => checked,
            Err(error) => return self.unverified(&error).await,
        };
        match self.ask_the_chain(checked, result).await {
            Ok(judgement) => judgement,
            Err(unshown) => self.unshown(unshown),
        }
    }

    async fn ask_the_chain(&self, checked: Checked, result: &ResultRecord) -> Result<Judgement, Unshown> {
        let request = self.prover.request(result).await;
        self.metrics.proved(request.as_ref().map_or_else(Unshown::as_str, |_| "shown"));
        let request = match (request, &checked) {
            (Ok(_), Checked::Retracted) => {
                let text = "the result says that its request left the chain, where it still is";
                return Ok(self.contradicted(RETRACTION_CONTRADICTED, text));
            }
            // The chain agrees.
            (Err(Unshown::Orphaned(_)), Checked::Retracted) => return Ok(Judgement::Settle(Verdict::Retracted)),
            (request, _) => request?,
        };
        self.prover.agrees(&result.answer, &request).await?;
        Ok(match checked {
            Checked::Call(call) => Judgement::Send(call),
            Checked::Aborted if !self.prover.is_aborted(result).await? => {
                let text = "the result says that its generation was aborted, and the contract does not";
                self.contradicted(ABORT_CONTRADICTED, text)
            }
            Checked::Aborted | Checked::NoAnswerOnChain => Judgement::Settle(Verdict::NoAnswerOnChain),
            Checked::Retracted => Judgement::Settle(Verdict::Retracted),
        })
    }

    /// A refusal is for good: it must not be the word of a release that the contracts have left.
    async fn unverified(&self, error: &VerifyError) -> Judgement {
        let refused = self.refuse(error.code(), error.to_string());
        if !error.depends_on_release() {
            return refused;
        }
        match self.releases.look().await {
            // The processor may have seen an upgrade that this node has yet to see.
            Look::Same if matches!(error, VerifyError::NotTaken(_)) => Judgement::Wait {
                budget: Budget::Branch,
                why: Failure::new(error.code(), error.to_string()),
                then: Box::new(refused),
            },
            Look::Same => refused,
            Look::Upgraded => {
                let text = "the contracts were upgraded, and the account is taken up anew";
                Judgement::Outage(Failure::outage(INTERRUPTED, CHAIN, text))
            }
            Look::Unknown { code, text, is_outage: true } => Judgement::Outage(Failure::outage(code, CHAIN, text)),
            Look::Unknown { code, text, .. } => Judgement::Outage(Failure::partial_outage(code, CHAIN, text)),
        }
    }

    fn unshown(&self, unshown: Unshown) -> Judgement {
        match unshown {
            Unshown::NotYet(text) => Judgement::Wait {
                budget: Budget::NotYet,
                why: Failure::new(NOT_REACHED, text.clone()),
                then: Box::new(self.refuse(NOT_REACHED, text)),
            },
            // A node on a short-lived branch, or one that lags in a reorganisation, may still turn.
            Unshown::Orphaned(text) => Judgement::Wait {
                budget: Budget::Branch,
                why: Failure::new(kms_chain::codes::BLOCK_ORPHANED, text),
                then: Box::new(Judgement::Settle(Verdict::Retracted)),
            },
            Unshown::Forged { code, text } => self.refuse(code, text),
            // A record may name any block: one that this node cannot state must neither pause the others nor wait for ever.
            Unshown::Undecidable { code, text } => Judgement::Wait {
                budget: Budget::NotYet,
                why: Failure::new(code, text.clone()),
                then: Box::new(self.refuse(code, text)),
            },
            Unshown::Outage { code, text } => Judgement::Outage(Failure::outage(code, CHAIN, text)),
            Unshown::Unsaid { code, text } => Judgement::Outage(Failure::partial_outage(code, CHAIN, text)),
        }
    }

    /// The chain says otherwise, or does not say it yet at this node.
    fn contradicted(&self, code: &'static str, text: &str) -> Judgement {
        Judgement::Wait {
            budget: Budget::Branch,
            why: Failure::new(code, text),
            then: Box::new(self.refuse(code, text.to_owned())),
        }
    }

    fn refuse(&self, code: &'static str, text: String) -> Judgement {
        Judgement::Refuse(Failure::new(code, text))
    }

    fn nobodys(&self, result: &ResultRecord) -> String {
        let identity = &result.identity;
        format!(
            "the request is of {} on chain {} ({}), this emitter serves {}",
            identity.contract,
            identity.chain_id,
            identity.kind,
            self.routes.served()
        )
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use kms_chain::codes::ANSWER_MISMATCH;
    use kms_chain::release::Release;
    use kms_schemas::identity::{Coordinates, Identity, Kind, RequestId};
    use kms_schemas::record::Answer;
    use serde_json::Value;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::node::{Answered, error, node};
    use crate::release::tests::{releases, says};
    use crate::routes::tests::destination;

    /// What becomes of the confirmation of a context, which contracts of v0.13 do not take; and whether the term goes on.
    async fn judged(answers: fn(&Value) -> Answered) -> (Judgement, CancellationToken) {
        let rpc = node(move |_, params| answers(params)).await;
        let destination = destination(1, [0, 0x9e, 0x9c]);
        let contracts = destination.contracts(Release::V0_13);
        let (releases, term) = releases(rpc.clone());
        let judge = Judge {
            routes: Routes::new(std::slice::from_ref(&destination), 0),
            verifier: Verifier::new(contracts, destination.domains(Release::V0_13), alloy::primitives::Address::ZERO),
            prover: Prover::new(rpc, contracts, &destination),
            releases: Arc::new(releases),
            metrics: Metrics::of("test"),
        };
        let (kind, id) = (Kind::NewKmsContext, RequestId(B256::repeat_byte(7)));
        let identity = Identity { chain_id: 1, contract: contracts.protocol_config.unwrap(), kind, id };
        let result = ResultRecord {
            source: Coordinates { topic: "t".to_owned(), partition: 0, offset: 0 },
            deferred: None,
            identity,
            block_number: 1,
            block_hash: B256::ZERO,
            log_index: 0,
            attempts: 1,
            answer: Answer::KmsContextCreated,
        };
        (judge.judge(&result).await, term)
    }

    #[tokio::test]
    async fn p3_an_answer_that_only_upgraded_contracts_take_is_no_dead_letter() {
        let (judgement, term) = judged(|params| says(params, "KMSGeneration v0.2.0", "ProtocolConfig v0.2.0")).await;
        assert!(matches!(judgement, Judgement::Outage(_)) && term.is_cancelled(), "{judgement:?}");
        let (judgement, term) = judged(|_| error(-32603, "internal error")).await;
        assert!(matches!(judgement, Judgement::Outage(_)) && !term.is_cancelled(), "{judgement:?}");
    }

    #[tokio::test]
    async fn p4_an_answer_that_the_contracts_do_not_take_is_refused_after_a_while() {
        let (judgement, term) = judged(|params| says(params, "KMSGeneration v0.1.0", "ProtocolConfig v0.1.0")).await;
        let Judgement::Wait { budget: Budget::Branch, then, .. } = judgement else { panic!("{judgement:?}") };
        assert!(matches!(*then, Judgement::Refuse(Failure { code: ANSWER_MISMATCH, .. })) && !term.is_cancelled());
    }
}
