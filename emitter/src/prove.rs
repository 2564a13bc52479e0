//! The second check before a signature can cost gas: does the destination's own chain hold the request, and is this answer
//! one to it?
//!
//! Promise P4: the log at the place that a result names is read from the destination's own nodes, proven by its block, and the
//! request decoded from *that* log, whatever any record says. What is signed names no request, so the answer is then held
//! against the request's own arguments ([`crate::answer::fits`]). One look at a block costs two calls and serves every
//! answer to its requests.

use kms_chain::authority::{Authority, Occurrence, Unproven};
use kms_chain::event::{ContractSet, Decoded, decode_request};
use kms_chain::release::Release;
use kms_chain::rpc::Rpc;
use kms_chain::views::ViewError;
use kms_schemas::identity::Lane;
use kms_schemas::record::{Answer, RawLog, RequestBody, ResultRecord};

use crate::answer;
use crate::codes::{ANSWER_OF_ANOTHER, EPOCH_INCOMPLETE, NOT_REQUESTED, UNPROVABLE};
use crate::config::DestinationConfig;

/// Blocks of key management that are remembered: requests are rare.
const KEY_MANAGEMENT_BLOCKS: usize = 32;

/// Why a result is not shown to be an answer to a request of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unshown {
    /// The block is not there yet, at the finality of the request's kind.
    NotYet(String),
    /// The chain has another block in its place.
    Orphaned(String),
    /// The chain contradicts the record: it is forged, or broken.
    Forged {
        /// Stable code.
        code: &'static str,
        /// Why.
        text: String,
    },
    /// The nodes answer, and what they say of the block does not add up: nothing is known of it.
    Undecidable {
        /// Stable code.
        code: &'static str,
        /// Why.
        text: String,
    },
    /// No node answers. Never a verdict.
    Outage {
        /// Stable code.
        code: &'static str,
        /// Why.
        text: String,
    },
    /// A node answers with an error of its own to the one question that is left. Never a verdict either, and it concerns no other
    /// result.
    Unsaid {
        /// Stable code.
        code: &'static str,
        /// Why.
        text: String,
    },
}

impl Unshown {
    /// Label in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotYet(_) => "not_yet",
            Self::Orphaned(_) => "orphaned",
            Self::Forged { .. } => "forged",
            Self::Undecidable { .. } => "undecidable",
            Self::Outage { .. } | Self::Unsaid { .. } => "outage",
        }
    }
}

impl From<Unproven> for Unshown {
    fn from(unproven: Unproven) -> Self {
        let text = unproven.to_string();
        match &unproven {
            Unproven::NotYet { .. } => Self::NotYet(text),
            Unproven::Orphaned { .. } => Self::Orphaned(text),
            Unproven::NoSuchLog { .. } => Self::Forged { code: NOT_REQUESTED, text },
            Unproven::Undecidable { .. } => Self::Undecidable { code: UNPROVABLE, text },
            // Another node, which is silent, may show it.
            // Another node, which is silent, may show it.
            Unproven::Unheard { .. } => Self::Unsaid { code: unproven.code(), text },
            Unproven::Unavailable(error) => Self::Outage { code: error.code(), text },
        }
    }
}

/// Shows results to be answers to requests of one chain.
pub struct Prover {
    rpc: Rpc,
    contracts: ContractSet,
    decryptions: Authority,
    key_management: Authority,
}

impl Prover {
    /// A prover over the destination's own nodes.
    #[must_use]
    pub fn new(rpc: Rpc, contracts: ContractSet, destination: &DestinationConfig) -> Self {
        let cache = destination.proof_cache_blocks;
        Self {
            decryptions: Authority::new(rpc.clone(), destination.finality, cache),
            key_management: Authority::new(
                rpc.clone(),
                destination.key_management_finality,
                cache.min(KEY_MANAGEMENT_BLOCKS),
            ),
            rpc,
            contracts,
        }
    }

    /// The request that a result answers, as the chain has it.
    ///
    /// # Errors
    /// Why it is not shown.
    pub async fn request(&self, result: &ResultRecord) -> Result<Decoded, Unshown> {
        let authority = match result.identity.kind.lane() {
            Lane::Decryption => &self.decryptions,
            Lane::KeyManagement => &self.key_management,
        };
        let at = Occurrence {
            block_number: self.block_number(result).await?,
            block_hash: result.block_hash,
            log_index: result.log_index,
        };
        let proven = authority.prove(at).await?;
        is_of(&self.contracts, &proven.log, result)
    }

    /// Old records do not name the number.
    async fn block_number(&self, result: &ResultRecord) -> Result<u64, Unshown> {
        if result.block_number > 0 {
            return Ok(result.block_number);
        }
        match self.rpc.block_by_hash(result.block_hash).await {
            Ok(Some(block)) => Ok(block.number()),
            Ok(None) => Err(Unshown::Orphaned(format!("no node knows block {}", result.block_hash))),
            Err(error) => Err(Unshown::Outage { code: error.code(), text: error.to_string() }),
        }
    }

    /// Whether the answer is one to this request.
    ///
    /// # Errors
    /// That it is not, or that nobody answered, or a node with an error of its own.
    pub async fn agrees(&self, answer: &Answer, request: &Decoded) -> Result<(), Unshown> {
        answer::fits(answer, request)
            .map_err(|misfit| Unshown::Forged { code: ANSWER_OF_ANOTHER, text: misfit.to_string() })?;
        let (Answer::EpochActivation { keys, crs_list, .. }, RequestBody::NewKmsEpoch { material_block_number, .. }) =
            (answer, &request.body)
        else {
            return Ok(());
        };
        let Some(kms_generation) = self.contracts.kms_generation else { return Ok(()) };
        match answer::names_everything(&self.rpc, kms_generation, *material_block_number, (keys, crs_list)).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let text = "keys or CRSs are missing, too many, or in another order than the contract's".to_owned();
                Err(Unshown::Forged { code: EPOCH_INCOMPLETE, text })
            }
            Err(error) => Err(unsaid(&error).unwrap_or_else(|| {
                // Of a contract that is none, or another.
                Unshown::Undecidable { code: error.code(), text: error.to_string() }
            })),
        }
    }

    /// Whether the contract holds the request for aborted.
    ///
    /// # Errors
    /// Nobody answered, or a node with an error of its own.
    pub async fn is_aborted(&self, result: &ResultRecord) -> Result<bool, Unshown> {
        let Some(kms_generation) = self.contracts.kms_generation else { return Ok(false) };
        match answer::is_aborted(&self.rpc, kms_generation, result.identity.id).await {
            Ok(aborted) => Ok(aborted),
            // A contract without aborts has aborted nothing.
            Err(error) => unsaid(&error).map_or(Ok(false), Err),
        }
    }
}

/// What came in place of the contract's word; none where the contract was asked.
fn unsaid(error: &ViewError) -> Option<Unshown> {
    error.unexecuted()?;
    let (code, text) = (error.code(), error.to_string());
    Some(if error.is_outage() { Unshown::Outage { code, text } } else { Unshown::Unsaid { code, text } })
}

/// The request in a proven log, if it is the one that the result names.
fn is_of(contracts: &ContractSet, log: &RawLog, result: &ResultRecord) -> Result<Decoded, Unshown> {
    let identity = &result.identity;
    let place = format!("the log in block {}, index {}", result.block_hash, result.log_index);
    let refuse = |text: String| Unshown::Forged { code: NOT_REQUESTED, text: format!("{place} {text}") };
    if log.address != identity.contract {
        return Err(refuse(format!("is of {}, not of {}", log.address, identity.contract)));
    }
    let decoded =
        of_any_release(contracts, log).ok_or_else(|| refuse(format!("is no request of {}", identity.contract)))?;
    if (decoded.kind, decoded.id) != (identity.kind, identity.id) {
        return Err(refuse(format!("is {} {}, not {} {}", decoded.kind, decoded.id, identity.kind, identity.id)));
    }
    Ok(decoded)
}

/// Requests that were made before the contracts were upgraded are answered afterwards; and of the two events that tell one
/// request either is the chain's word.
fn of_any_release(contracts: &ContractSet, log: &RawLog) -> Option<Decoded> {
    let mut releases = Release::ALL.into_iter().rev();
    releases.find_map(|release| decode_request(&contracts.with_release(release), log).ok().flatten())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, U256};
    use kms_schemas::identity::{Coordinates, Identity, Kind, RequestId};
    use serde_json::Value;

    use super::*;
    use crate::node::{Answered, error, node};
    use crate::routes::tests::destination;

    const CHAIN: u64 = 1;

    /// Every request event of the protocol's vectors, with the contracts that it is of.
    fn vectors() -> Vec<(ContractSet, RawLog)> {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../chain/vectors/events.json"));
        let vectors: Value = serde_json::from_str(text).unwrap();
        let events = ["events", "other_release_events"].map(|list| vectors[list].as_array().unwrap().clone()).concat();
        let mut found = Vec::new();
        for event in events {
            for example in event["examples"].as_array().unwrap() {
                let log: RawLog = RawLog {
                    address: serde_json::from_value(example["log"]["address"].clone()).unwrap(),
                    topics: serde_json::from_value(example["log"]["topics"].clone()).unwrap(),
                    data: serde_json::from_value(example["log"]["data"].clone()).unwrap(),
                };
                let is = |name: &str| event["contract"].as_str().unwrap().starts_with(name).then_some(log.address);
                let contracts = ContractSet {
                    release: Release::V0_11,
                    decryption: is("Decryption"),
                    kms_generation: is("KMSGeneration"),
                    protocol_config: is("ProtocolConfig"),
                };
                found.push((contracts, log));
            }
        }
        found
    }

    fn naming(identity: Identity) -> ResultRecord {
        ResultRecord {
            source: Coordinates { topic: "t".to_owned(), partition: 0, offset: 0 },
            deferred: None,
            identity,
            block_number: 1,
            block_hash: B256::ZERO,
            log_index: 0,
            attempts: 1,
            answer: Answer::Done,
        }
    }

    #[test]
    fn every_request_event_of_every_release_shows_its_own_request_and_no_other() {
        let vectors = vectors();
        assert!(vectors.len() >= 22);
        for (contracts, log) in &vectors {
            let decoded = of_any_release(contracts, log).unwrap();
            let own = Identity { chain_id: CHAIN, contract: log.address, kind: decoded.kind, id: decoded.id };
            assert_eq!(is_of(contracts, log, &naming(own)), Ok(decoded.clone()));
            let another = Kind::ALL.into_iter().find(|kind| *kind != own.kind).unwrap();
            let others = [
                Identity { id: RequestId(B256::repeat_byte(0xee)), ..own },
                Identity { kind: another, ..own },
                Identity { contract: Address::repeat_byte(0xee), ..own },
            ];
            for other in others {
                let shown = is_of(contracts, log, &naming(other));
                assert!(matches!(shown, Err(Unshown::Forged { code: NOT_REQUESTED, .. })), "{shown:?}");
            }
        }
    }

    #[test]
    fn p4_a_log_that_is_no_request_shows_none() {
        let (contracts, log) = vectors().swap_remove(0);
        let decoded = of_any_release(&contracts, &log).unwrap();
        let own = Identity { chain_id: CHAIN, contract: log.address, kind: decoded.kind, id: decoded.id };
        let changes: [fn(&mut RawLog); 3] =
            [|log| log.topics[0] = B256::ZERO, |log| log.topics.clear(), |log| log.data = log.data.slice(..32)];
        for change in changes {
            let mut other = log.clone();
            change(&mut other);
            assert!(is_of(&contracts, &other, &naming(own)).is_err());
        }
    }

    fn prover(rpc: Rpc) -> Prover {
        let contracts = ContractSet {
            release: Release::V0_15,
            decryption: None,
            kms_generation: Some(Address::repeat_byte(3)),
            protocol_config: Some(Address::repeat_byte(4)),
        };
        Prover::new(rpc, contracts, &destination(CHAIN, [0, 3, 4]))
    }

    fn identity(kind: Kind) -> Identity {
        Identity { chain_id: CHAIN, contract: Address::repeat_byte(3), kind, id: RequestId::default() }
    }

    #[tokio::test]
    async fn p5_an_error_of_a_node_is_no_word_on_an_abort() {
        let calls_end_in = |code, message| {
            node(move |method, _| match method {
                "eth_blockNumber" => Ok(Value::String("0x14".to_owned())),
                _ => error(code, message),
            })
        };
        for (code, message) in [(-32000, "header not found"), (-32603, "internal error"), (-32601, "no such method")] {
            let prover = prover(calls_end_in(code, message).await);
            let shown = prover.is_aborted(&naming(identity(Kind::Keygen))).await;
            assert!(matches!(shown, Err(Unshown::Unsaid { .. })), "{message}: {shown:?}");
        }
        // A contract of a release without aborts has no such function.
        let prover = prover(calls_end_in(3, "execution reverted").await);
        assert_eq!(prover.is_aborted(&naming(identity(Kind::Keygen))).await, Ok(false));
    }

    /// An activation of an epoch that names no key and no CRS, against a node that answers so about the material block and about
    /// the latest.
    async fn epoch_against(at_material: fn() -> Answered, at_latest: fn() -> Answered) -> Result<(), Unshown> {
        let rpc = node(move |_, params| if params[1] == "latest" { at_latest() } else { at_material() }).await;
        let context_id = RequestId(B256::repeat_byte(7));
        let answer = Answer::EpochActivation { context_id, keys: vec![], crs_list: vec![] };
        let body = RequestBody::NewKmsEpoch {
            context_id,
            previous_context_id: RequestId::default(),
            previous_epoch_id: RequestId::default(),
            material_block_number: U256::from(10),
        };
        let request = Decoded { kind: Kind::NewKmsEpoch, id: RequestId::default(), body };
        prover(rpc).agrees(&answer, &request).await
    }

    fn empty_list() -> Answered {
        Ok(Value::String(format!("0x{:064x}{:064x}", 32, 0)))
    }

    fn one_key() -> Answered {
        Ok(Value::String(format!("0x{:064x}{:064x}{:064x}", 32, 1, 4)))
    }

    #[tokio::test]
    async fn p4_an_epoch_is_held_against_less_than_its_own_block_only_where_the_nodes_state_of_that_is_gone() {
        assert_eq!(epoch_against(empty_list, one_key).await, Ok(()));
        assert!(matches!(epoch_against(one_key, one_key).await, Err(Unshown::Forged { code: EPOCH_INCOMPLETE, .. })));
        let gone = || error(-32000, "missing trie node 1a2b (path ) state 0x1a2b is not available");
        assert_eq!(epoch_against(gone, one_key).await, Ok(()));
        for passing in [|| error(-32603, "internal error"), || error(-32000, "header not found")] {
            let shown = epoch_against(passing, one_key).await;
            assert!(matches!(shown, Err(Unshown::Unsaid { .. })), "{shown:?}");
        }
    }
}
