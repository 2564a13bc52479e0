//! What is to be done with a result: whose it is, whether our signer signed it, whether the chain asked for it.

use kms_runtime::stage::Failure;
use kms_schemas::record::{ResultRecord, Verdict};

use crate::codes::{ABORT_CONTRADICTED, NOT_REACHED, RETRACTION_CONTRADICTED, WRONG_DESTINATION};
use crate::metrics::Metrics;
use crate::prove::{Prover, Unshown};
use crate::routes::{Owner, Routes};
use crate::verify::{Call, Checked, Verifier};
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
            Err(error) => return self.refuse(error.code(), error.to_string()),
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
