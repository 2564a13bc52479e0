//! P4: a request is what the chain holds, whoever wrote the record.
//!
//! The log at the record's block and index is proven against the chain that the processor reads itself, compared with the record's, and the
//! work is decoded from the proven one. Until then nothing that the record says is believed, and nothing of it is sent anywhere.

use kms_chain::authority::{Occurrence, ProvenTransaction, Unproven};
use kms_chain::event::{self, ContractSet, DecodeError, Decoded};
use kms_chain::finality::Finality;
use kms_chain::release::Release;
use kms_runtime::stage::{Answered, Reach};
use kms_schemas::identity::Lane;
use kms_schemas::record::{RawLog, Request};

use crate::chains::ServedChain;
use crate::codes;
use crate::error::Trouble;
use crate::patience::Budget;

/// The chain that a request claims to come from.
///
/// # Errors
/// [`Trouble::Permanent`]: it is none that is served.
pub fn chain_of<'a>(
    request: &Request,
    served: impl Iterator<Item = &'a ServedChain> + Clone,
) -> Result<&'a ServedChain, Trouble> {
    served.clone().find(|chain| chain.chain_id == request.chain_id).ok_or_else(|| {
        let ids: Vec<String> = served.map(|chain| chain.chain_id.to_string()).collect();
        Trouble::permanent(
            codes::FOREIGN_REQUEST,
            format!("the request is of chain {}, this processor serves {}", request.chain_id, ids.join(" and ")),
        )
    })
}

/// Proves the request on its chain, and returns the transaction that made it.
///
/// # Errors
/// [`Trouble::Waits`] for a block that the chain has not reached, or has not any more; [`Trouble::Permanent`] for what the chain
/// contradicts; [`Trouble::Outage`].
pub async fn prove(chain: &ServedChain, request: &Request, answered: &Answered) -> Result<ProvenTransaction, Trouble> {
    // What the record says of its contract and kind is not believed, but a record that contradicts the configuration needs no proof.
    decode(&chain.contracts, request, &request.log)?;
    let lane = request.kind.lane();
    let at =
        Occurrence { block_number: request.block_number, block_hash: request.block_hash, log_index: request.log_index };
    let authority = chain.authority(lane);
    let unproven = |why| unproven(chain, lane, &why);
    let proven = authority.prove(at).await.map_err(unproven)?;
    answered.by(chain.dependency);
    proven.compare(&request.log, request.transaction_hash, request.block_timestamp).map_err(|difference| {
        let text = format!("{difference} (log {} of block {})", request.log_index, request.block_hash);
        Trouble::permanent(codes::RECORD_FORGED, text)
    })?;
    decode(&chain.contracts, request, &proven.log)?;
    if is_twin(&proven.log, proven.transaction_logs()) {
        let text =
            format!("log {} of block {} is the older twin of the event that is served", at.log_index, at.block_hash);
        return Err(Trouble::permanent(codes::RECORD_FORGED, text));
    }
    authority.transaction(&proven).await.map_err(unproven)
}

/// From v0.15 on each decryption is told twice in one transaction, and only the event with handles alone is ingested: whoever wrote a
/// record of the other one must not have the request served under a payload of its own.
fn is_twin<'a>(log: &RawLog, mut transaction: impl Iterator<Item = &'a RawLog>) -> bool {
    let served = ContractSet::gateway(Release::V0_15, log.address).request_topics();
    let names = |log: &RawLog| log.topics.first().copied();
    if names(log).is_none_or(|topic| served.contains(&topic)) {
        return false;
    }
    transaction.any(|other| {
        other.address == log.address
            && names(other).is_some_and(|topic| served.contains(&topic))
            && other.topics.get(1) == log.topics.get(1)
    })
}

/// What follows from a proof that failed.
fn unproven(chain: &ServedChain, lane: Lane, why: &Unproven) -> Trouble {
    let (code, text) = (why.code(), format!("{}: {why}", chain.dependency.trim_end_matches("_rpc")));
    // What is asked for below the latest block takes as long as its chain takes to be final.
    let not_yet = match lane {
        Lane::Decryption if chain.authority(lane).finality() == Finality::Latest => Budget::NotYet,
        Lane::Decryption | Lane::KeyManagement => Budget::Finality,
    };
    match why {
        Unproven::Unavailable(error) if error.is_outage() => {
            Trouble::Outage { code, dependency: chain.dependency, reach: Reach::All, text }
        }
        // Another endpoint may prove this one block. Nobody knows when it comes back, and the others need not wait for it.
        Unproven::Unheard { .. } => Trouble::Outage { code, dependency: chain.dependency, reach: Reach::Some, text },
        // The nodes answer, and nothing can be proven of this one block. A record may name any block, so this must not hold up the others;
        // and it is no verdict, so it waits.
        Unproven::NotYet { .. } | Unproven::Undecidable { .. } | Unproven::Unavailable(_) => {
            Trouble::waits(not_yet, code, text)
        }
        // Short of `finalized` this may be the node, which is behind or on a branch of its own for a moment.
        Unproven::Orphaned { .. } if chain.authority(lane).finality() != Finality::Finalized => {
            Trouble::waits(Budget::Orphan, code, text)
        }
        Unproven::Orphaned { .. } | Unproven::NoSuchLog { .. } => Trouble::permanent(code, text),
    }
}

/// Reads the log as an event of the chain's release, or of another one: contracts are upgraded in place, and what was asked for before, or
/// since the processor looked last, is served all the same.
fn decode_any_release(contracts: &ContractSet, log: &RawLog) -> Result<Option<Decoded>, DecodeError> {
    let others = Release::ALL.into_iter().filter(|release| *release != contracts.release);
    for release in std::iter::once(contracts.release).chain(others) {
        if let Some(decoded) = event::decode_request(&contracts.with_release(release), log)? {
            return Ok(Some(decoded));
        }
    }
    Ok(None)
}

/// The record's decoded part is what this log says.
fn decode(contracts: &ContractSet, request: &Request, log: &RawLog) -> Result<(), Trouble> {
    let decoded = decode_any_release(contracts, log)
        .map_err(|error| Trouble::permanent(codes::BODY_DIFFERS_FROM_LOG, error.to_string()))?
        .ok_or_else(|| {
            Trouble::permanent(
                codes::FOREIGN_REQUEST,
                format!("the log of contract {} is no request of a served contract", log.address),
            )
        })?;
    if decoded.kind != request.kind || decoded.id != request.id || decoded.body != request.body {
        return Err(Trouble::permanent(
            codes::BODY_DIFFERS_FROM_LOG,
            format!(
                "the record says {} {}, its log says {} {} or other arguments",
                request.kind, request.id, decoded.kind, decoded.id
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256};
    use kms_chain::rpc::{OutageCause, RpcError};

    use super::*;
    use crate::chains::GATEWAY;
    use crate::mock::{MockChain, request};

    fn chain(mock: &MockChain, chain_id: u64) -> ServedChain {
        let contracts = ContractSet::gateway_a(Address::repeat_byte(0xd1), Address::repeat_byte(0xd2));
        ServedChain::new(GATEWAY, chain_id, mock.rpc(), contracts, Finality::Latest, Finality::Finalized, 8)
    }

    #[tokio::test]
    async fn p4_a_record_of_another_chain_or_contract_is_refused_without_a_call() {
        let mock = MockChain::start().await;
        let served = [chain(&mock, 7)];
        let mut foreign = request();
        foreign.chain_id = 8;
        assert_eq!(chain_of(&foreign, served.iter()).unwrap_err().code(), codes::FOREIGN_REQUEST);
        let mut foreign = request();
        foreign.log.address = Address::repeat_byte(9);
        let refused = prove(&served[0], &foreign, &Answered::unheard()).await.unwrap_err();
        assert!(matches!(refused, Trouble::Permanent { code: codes::FOREIGN_REQUEST, .. }), "{refused}");
        assert_eq!(mock.posts(), 0);
    }

    #[tokio::test]
    async fn p4_a_record_whose_words_are_not_its_own_logs_is_refused_without_a_call() {
        let mock = MockChain::start().await;
        let served = chain(&mock, 7);
        let changes: [fn(&mut Request); 4] = [
            |request| request.id = alloy::primitives::U256::from(99).into(),
            |request| request.kind = kms_schemas::identity::Kind::UserDecryption,
            |request| request.body = kms_schemas::record::RequestBody::PrssInit,
            |request| request.log.data = alloy::primitives::Bytes::from_static(&[1, 2, 3]),
        ];
        for change in changes {
            let mut forged = request();
            change(&mut forged);
            let refused = prove(&served, &forged, &Answered::unheard()).await.unwrap_err();
            assert!(matches!(refused, Trouble::Permanent { code: codes::BODY_DIFFERS_FROM_LOG, .. }), "{refused}");
        }
        assert_eq!(mock.posts(), 0);
    }

    #[test]
    fn what_was_asked_for_before_an_upgrade_is_read_after_it() {
        let request = request();
        let contracts = ContractSet::gateway(Release::V0_15, request.log.address);
        assert_eq!(decode(&contracts, &request, &request.log), Ok(()));
        let elsewhere = ContractSet::gateway(Release::V0_15, Address::repeat_byte(9));
        assert_eq!(decode(&elsewhere, &request, &request.log).unwrap_err().code(), codes::FOREIGN_REQUEST);
    }

    #[test]
    fn p4_the_older_twin_of_a_served_event_is_none_to_serve() {
        let [old, new] = [Release::V0_14, Release::V0_15]
            .map(|release| ContractSet::gateway(release, Address::repeat_byte(1)).request_topics()[0]);
        let log = |topic, id: u8| RawLog {
            address: Address::repeat_byte(1),
            topics: vec![topic, B256::repeat_byte(id)],
            data: alloy::primitives::Bytes::new(),
        };
        let (twin, served) = (log(old, 7), log(new, 7));
        let transaction = [twin.clone(), served.clone()];
        assert!(is_twin(&twin, transaction.iter()));
        assert!(!is_twin(&served, transaction.iter()), "the one that is served");
        assert!(
            !is_twin(&twin, [twin.clone(), log(new, 8)].iter()),
            "before v0.15 it stands alone, whatever else is asked for"
        );
        assert!(!is_twin(&twin, [twin.clone()].iter()));
    }

    #[tokio::test]
    async fn a_chain_that_does_not_answer_is_an_outage_of_everybody() {
        let mock = MockChain::start().await;
        mock.break_down(true);
        let outcome = prove(&chain(&mock, 7), &request(), &Answered::unheard()).await;
        assert!(matches!(outcome, Err(Trouble::Outage { dependency: GATEWAY, reach: Reach::All, .. })), "{outcome:?}");
    }

    #[tokio::test]
    async fn p4_each_way_to_be_unproven_has_its_outcome() {
        let mock = MockChain::start().await;
        let chain = chain(&mock, 7);
        let not_yet = Unproven::NotYet { needed: 5, head: Some(4), finality: Finality::Latest };
        let budget = |lane| match unproven(&chain, lane, &not_yet) {
            Trouble::Waits { budget, .. } => budget,
            other => panic!("{other}"),
        };
        assert_eq!((budget(Lane::Decryption), budget(Lane::KeyManagement)), (Budget::NotYet, Budget::Finality));
        let stricter =
            ServedChain::new(GATEWAY, 7, mock.rpc(), chain.contracts, Finality::Safe, Finality::Finalized, 8);
        let outcome = unproven(&stricter, Lane::Decryption, &not_yet);
        assert!(
            matches!(outcome, Trouble::Waits { budget: Budget::Finality, .. }),
            "ingest may be far ahead: {outcome}"
        );
        let unheard = Unproven::Unheard { number: 5, silent: 1, why: "not there".to_owned() };
        let outcome = unproven(&chain, Lane::Decryption, &unheard);
        assert!(
            matches!(outcome, Trouble::Outage { reach: Reach::Some, .. }),
            "spends nothing, pauses nobody: {outcome}"
        );
        let (one, two) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let orphaned = Unproven::Orphaned { number: 5, expected: one, found: two };
        let outcome = unproven(&chain, Lane::Decryption, &orphaned);
        assert!(matches!(outcome, Trouble::Waits { budget: Budget::Orphan, .. }), "{outcome}");
        let outcome = unproven(&chain, Lane::KeyManagement, &orphaned);
        assert!(matches!(outcome, Trouble::Permanent { .. }), "what is final does not come back: {outcome}");
        let missing = Unproven::NoSuchLog { number: 5, hash: one, log_index: 3, logs: 1 };
        let outcome = unproven(&chain, Lane::Decryption, &missing);
        assert!(matches!(outcome, Trouble::Permanent { .. }), "{outcome}");
        let undecidable = Unproven::Undecidable { number: 5, why: "the roots differ".to_owned() };
        let (code, message) = (4444, "pruned history unavailable".to_owned());
        let pruned = Unproven::Unavailable(RpcError::Response { method: "eth_call", code, message, data: None });
        for outcome in [undecidable, pruned].map(|why| unproven(&chain, Lane::Decryption, &why)) {
            assert!(matches!(outcome, Trouble::Waits { budget: Budget::NotYet, .. }), "this block only: {outcome}");
        }
        let cause = OutageCause::Transport("down".to_owned());
        let silent = Unproven::Unavailable(RpcError::Outage { method: "eth_call", endpoints: 1, cause });
        let outcome = unproven(&chain, Lane::Decryption, &silent);
        assert!(matches!(outcome, Trouble::Outage { dependency: GATEWAY, .. }), "{outcome}");
    }
}
