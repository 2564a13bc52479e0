//! What becomes of an answer that was not simply accepted. Pure: what was found on chain and what happened before in, what to
//! do next out. Every custom error of `docs/protocol.md`, "Errors", passes through here.

use alloy::primitives::{Address, Bytes};
use kms_chain::codes::{NODE_NOT_REGISTERED, RETRIES_EXHAUSTED};
use kms_chain::release::Release;
use kms_chain::revert::{Revert, RevertClass};
use kms_schemas::identity::Kind;
use kms_schemas::record::{Inclusion, Verdict};

#[cfg(test)]
use crate::gas;
use crate::nonce::{Millis, Mined, Nonce};

/// Longest revert data kept in a submission record, in bytes.
const KEPT_DATA: usize = 1024;

/// Limits on trying again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long an error that normally passes at once (a lagging node, a reorganisation) is tried again.
    pub brief_ms: u64,
    /// How long an error that waits for the chain is tried again.
    pub retryable_ms: u64,
    /// First pause between tries; doubles up to `max_pause_ms`.
    pub pause_ms: u64,
    /// Longest pause between tries.
    pub max_pause_ms: u64,
    /// Transactions with more gas after one that ran out.
    pub gas_tries: u32,
    /// Transactions after a revert that nothing explains.
    pub unexplained_tries: u32,
    /// How long an answer is kept for a registration that would make it valid.
    pub registration_ms: u64,
}

/// A transaction of an answer that was mined, in which the answer's call reverted. Of a batch, the answer's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reverted {
    /// Its nonce.
    pub nonce: Nonce,
    /// Its receipt.
    pub mined: Mined,
    /// Answers that it carried.
    pub answers: u32,
    /// It used so much of its gas that it must have run out.
    pub ran_out: bool,
}

/// What happened to an answer so far.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Transactions signed for it, over all nonces and replacements.
    pub transactions: u32,
    /// Out of gas, so often.
    pub gas_tries: u32,
    /// The last transaction that reverted.
    pub reverted: Option<Reverted>,
    unexplained: u32,
    pauses: u32,
    brief_since: Option<Millis>,
    retryable_since: Option<Millis>,
    held_since: Option<Millis>,
}

/// What a call of the answer does on chain now, or did in the block that refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It would be accepted.
    Passes,
    /// It is refused. For an error of the wrong phase: and the phase has not ended well, or not yet.
    Reverts(Revert, Bytes),
    /// It comes after the end of its phase, which ended as the answer would have had it. The error, and the view that
    /// shows it.
    PhaseOver(Revert, String),
}

/// Why the chain was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A transaction with the answer reverted.
    Reverted,
    /// Its nonce was taken by something else.
    Displaced,
    /// A pause is over.
    Waited,
}

/// Whose answer it is, and what was done for it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Why the chain was asked.
    pub cause: Cause,
    /// The transaction sender.
    pub sender: Address,
    /// Release of the contracts.
    pub release: Release,
    /// Kind of the request.
    pub kind: Kind,
    /// A transaction may ask for more gas than the last one did.
    pub can_grow: bool,
}

/// What to do with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Give it a nonce again.
    Send,
    /// Ask the chain again at this moment.
    Wait(Millis, Revert),
    /// The node's registration is wrong: keep it until that changes.
    Hold(Revert),
    /// It is settled.
    Settle(Verdict),
    /// It was tried long enough; a dead letter keeps it. With the stable code.
    GiveUp(&'static str, Revert),
}

/// Where a transaction that carried so many answers was included, for the submission record of one of them. `mined` is that
/// one's share of it.
#[must_use]
pub fn inclusion(sender: Address, nonce: Nonce, mined: &Mined, answers: u32) -> Inclusion {
    Inclusion {
        sender,
        nonce: nonce.0,
        transaction_hash: mined.hash,
        block_number: mined.block_number,
        block_hash: mined.block_hash,
        gas_used: mined.gas_used,
        gas_used_for_l1: mined.gas_used_for_l1,
        effective_gas_price: mined.effective_gas_price,
        answers: Some(answers),
        order: None,
    }
}

/// Decides.
#[must_use]
pub fn decide(history: &mut History, case: Case, finding: Finding, patience: &Patience, now: Millis) -> Decision {
    let (revert, data) = match finding {
        Finding::Passes if case.cause == Cause::Reverted => return after_unseen_revert(history, patience, case),
        Finding::Passes => return Decision::Send,
        Finding::PhaseOver(revert, view) => {
            return Decision::Settle(Verdict::Concluded { evidence: format!("{revert}, {view}") });
        }
        Finding::Reverts(revert, data) => (revert, data),
    };
    match revert.class_in(case.release, case.kind) {
        RevertClass::SuccessEquivalent => {
            Decision::Settle(Verdict::AlreadyAnswered { evidence: revert.to_string(), transaction_hash: None })
        }
        RevertClass::OperatorError => {
            let since = *history.held_since.get_or_insert(now);
            if now >= since.plus(patience.registration_ms) {
                return Decision::GiveUp(NODE_NOT_REGISTERED, revert);
            }
            Decision::Hold(revert)
        }
        RevertClass::Permanent => Decision::Settle(refused(history, case.sender, revert.name(), data)),
        // In the wrong phase, and the view says no: destroyed, or not yet seen by the node that answered.
        RevertClass::RetryBrieflyThenPermanent | RevertClass::CheckState => {
            let since = *history.brief_since.get_or_insert(now);
            if now >= since.plus(patience.brief_ms) {
                return Decision::Settle(refused(history, case.sender, revert.name(), data));
            }
            Decision::Wait(history.next_pause(patience, now), revert)
        }
        RevertClass::Retryable => {
            let since = *history.retryable_since.get_or_insert(now);
            if now >= since.plus(patience.retryable_ms) {
                return Decision::GiveUp(RETRIES_EXHAUSTED, revert);
            }
            Decision::Wait(history.next_pause(patience, now), revert)
        }
    }
}

/// The transaction reverted, the same call at the end of its block does not: it ran out of gas, or the state moved.
fn after_unseen_revert(history: &mut History, patience: &Patience, case: Case) -> Decision {
    let ran_out = history.reverted.is_some_and(|reverted| reverted.ran_out);
    let (tried, most) = if ran_out {
        history.gas_tries += 1;
        (history.gas_tries, if case.can_grow { patience.gas_tries } else { 0 })
    } else {
        history.unexplained += 1;
        (history.unexplained, patience.unexplained_tries)
    };
    if tried > most {
        return Decision::Settle(refused(history, case.sender, "empty", Bytes::new()));
    }
    Decision::Send
}

fn refused(history: &History, sender: Address, error: &str, data: Bytes) -> Verdict {
    let inclusion =
        history.reverted.map(|reverted| inclusion(sender, reverted.nonce, &reverted.mined, reverted.answers));
    Verdict::Refused { error: error.to_owned(), data: data.slice(..data.len().min(KEPT_DATA)), inclusion }
}

impl History {
    fn next_pause(&mut self, patience: &Patience, now: Millis) -> Millis {
        let pause = patience.pause_ms.saturating_mul(1 << self.pauses.min(16)).min(patience.max_pause_ms);
        self.pauses = self.pauses.saturating_add(1);
        now.plus(pause)
    }
}

#[cfg(test)]
mod tests {
    use alloy::hex;
    use alloy::primitives::B256;
    use serde_json::Value;

    use super::*;

    const PATIENCE: Patience = Patience {
        brief_ms: 10_000,
        retryable_ms: 100_000,
        pause_ms: 1_000,
        max_pause_ms: 4_000,
        gas_tries: 3,
        unexplained_tries: 2,
        registration_ms: 1_000_000,
    };

    fn reverted(gas_used: u64, gas_limit: u64) -> Reverted {
        let mined = Mined {
            hash: B256::repeat_byte(1),
            succeeded: false,
            block_number: 5,
            block_hash: B256::repeat_byte(2),
            gas_used,
            gas_used_for_l1: 0,
            effective_gas_price: 7,
        };
        Reverted { nonce: Nonce(4), mined, answers: 1, ran_out: gas::ran_out(gas_used, gas_limit) }
    }

    const CASE: Case = Case {
        cause: Cause::Reverted,
        sender: Address::ZERO,
        release: Release::V0_15,
        kind: Kind::PublicDecryption,
        can_grow: true,
    };

    fn decide_at(history: &mut History, cause: Cause, finding: Finding, now: u64) -> Decision {
        decide(history, Case { cause, ..CASE }, finding, &PATIENCE, Millis(now))
    }

    fn vectors() -> Vec<(String, String, Bytes)> {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../chain/vectors/errors.json"));
        let vectors: Value = serde_json::from_str(text).unwrap();
        let of = |vector: &Value, key: &str| vector[key].as_str().unwrap().to_owned();
        let errors = vectors["errors"].as_array().unwrap();
        errors
            .iter()
            .map(|vector| {
                let data = hex::decode(of(vector, "example_revert_data")).unwrap();
                (of(vector, "error"), of(vector, "class"), data.into())
            })
            .collect()
    }

    #[test]
    fn every_error_that_a_response_can_meet_leads_where_its_class_says() {
        for (error, class, data) in vectors() {
            let name = error.split('(').next().unwrap();
            let finding = Finding::Reverts(Revert::decode(&data), data.clone());
            let mut history = History { reverted: Some(reverted(1, 100)), ..History::default() };
            let first = decide_at(&mut history, Cause::Reverted, finding.clone(), 0);
            let later = decide_at(&mut history, Cause::Waited, finding, 20_000);
            match class.as_str() {
                "success_equivalent" => {
                    let Decision::Settle(Verdict::AlreadyAnswered { evidence, .. }) = first else { panic!("{error}") };
                    assert!(evidence.starts_with(name));
                }
                "operator_error" => {
                    assert!(matches!(first, Decision::Hold(_)) && matches!(later, Decision::Hold(_)), "{error}");
                }
                "permanent" => assert_refused(&first, name),
                "retry_briefly_then_permanent" | "check_state" => {
                    assert!(matches!(first, Decision::Wait(Millis(1_000), _)), "{error}");
                    assert_refused(&later, name);
                }
                "retryable" => assert!(matches!(later, Decision::Wait(Millis(22_000), _)), "{error}: {later:?}"),
                other => panic!("class {other} is new"),
            }
        }
    }

    fn assert_refused(decision: &Decision, name: &str) {
        let Decision::Settle(Verdict::Refused { error, inclusion, .. }) = decision else {
            panic!("{name}: {decision:?}")
        };
        assert_eq!(error, name);
        assert_eq!(inclusion.as_ref().map(|inclusion| inclusion.nonce), Some(4));
    }

    #[test]
    fn a_retryable_error_is_given_up_only_after_its_own_limit() {
        let data: Bytes = hex!("6fbcdd2b").into();
        let finding = Finding::Reverts(Revert::decode(&data), data);
        let mut history = History::default();
        assert!(matches!(decide_at(&mut history, Cause::Displaced, finding.clone(), 0), Decision::Wait(..)));
        assert!(matches!(decide_at(&mut history, Cause::Waited, finding.clone(), 99_999), Decision::Wait(..)));
        assert!(matches!(
            decide_at(&mut history, Cause::Waited, finding, 100_000),
            Decision::GiveUp(RETRIES_EXHAUSTED, _)
        ));
    }

    #[test]
    fn an_operators_mistake_is_waited_for_and_in_the_end_given_up_to_a_dead_letter() {
        let data: Bytes = [&hex!("aee86323")[..], &[0; 32]].concat().into();
        let finding = Finding::Reverts(Revert::decode(&data), data);
        let mut history = History::default();
        assert!(matches!(decide_at(&mut history, Cause::Reverted, finding.clone(), 0), Decision::Hold(_)));
        assert!(matches!(decide_at(&mut history, Cause::Waited, finding.clone(), 999_999), Decision::Hold(_)));
        let last = decide_at(&mut history, Cause::Waited, finding, 1_000_000);
        assert!(matches!(last, Decision::GiveUp(NODE_NOT_REGISTERED, _)));
    }

    #[test]
    fn any_wrong_signer_in_key_management_of_v0_13_is_final() {
        let data: Bytes = [&hex!("0d86f521")[..], &[0; 64]].concat().into();
        let decide = |release, kind| {
            let finding = Finding::Reverts(Revert::decode(&data), data.clone());
            super::decide(&mut History::default(), Case { release, kind, ..CASE }, finding, &PATIENCE, Millis(0))
        };
        assert!(matches!(decide(Release::V0_13, Kind::Keygen), Decision::Settle(Verdict::Refused { .. })));
        assert!(matches!(decide(Release::V0_13, Kind::UserDecryption), Decision::Hold(_)));
        assert!(matches!(decide(Release::V0_14, Kind::Keygen), Decision::Hold(_)));
    }

    #[test]
    fn a_phase_that_ended_without_us_as_we_would_have_had_it_concludes_the_answer() {
        let data: Bytes = [&hex!("3586efa1")[..], &[7; 32]].concat().into();
        let over = Finding::PhaseOver(Revert::decode(&data), "isLiveKmsContext is true".to_owned());
        let Decision::Settle(Verdict::Concluded { evidence }) =
            decide_at(&mut History::default(), Cause::Reverted, over, 0)
        else {
            panic!()
        };
        assert!(evidence.starts_with("KmsContextNotPending") && evidence.ends_with("is true"), "{evidence}");
    }

    #[test]
    fn out_of_gas_gets_more_gas_a_few_times_and_is_then_refused() {
        let mut history = History { reverted: Some(reverted(99, 100)), ..History::default() };
        for _ in 0..PATIENCE.gas_tries {
            assert_eq!(decide_at(&mut history, Cause::Reverted, Finding::Passes, 0), Decision::Send);
        }
        assert_refused(&decide_at(&mut history, Cause::Reverted, Finding::Passes, 0), "empty");
    }

    #[test]
    fn out_of_gas_at_the_ceiling_is_refused_at_once() {
        let mut history = History { reverted: Some(reverted(99, 100)), ..History::default() };
        let case = Case { can_grow: false, ..CASE };
        let decision = decide(&mut history, case, Finding::Passes, &PATIENCE, Millis(0));
        assert_refused(&decision, "empty");
    }

    #[test]
    fn a_revert_without_data_that_more_gas_does_not_cure_is_permanent_after_a_while() {
        let mut history = History { reverted: Some(reverted(50, 100)), ..History::default() };
        let finding = Finding::Reverts(Revert::Empty, Bytes::new());
        assert!(matches!(decide_at(&mut history, Cause::Reverted, finding.clone(), 0), Decision::Wait(..)));
        assert_refused(&decide_at(&mut history, Cause::Waited, finding, 10_000), "empty");
    }

    #[test]
    fn a_displaced_answer_that_the_chain_lacks_is_sent_again() {
        let mut history = History::default();
        assert_eq!(decide_at(&mut history, Cause::Displaced, Finding::Passes, 0), Decision::Send);
    }

    #[test]
    fn kept_revert_data_is_bounded() {
        let data = Bytes::from(vec![0xee; 5_000]);
        let Verdict::Refused { data, .. } = refused(&History::default(), Address::ZERO, "unknown", data) else {
            panic!()
        };
        assert_eq!(data.len(), KEPT_DATA);
    }
}
