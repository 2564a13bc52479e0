//! The second check before a signature can cost gas: does the destination's own chain hold the request, and is this answer
//! one to it?
//!
//! Promise P4: the log at the place that a result names is read from the destination's own nodes, proven by its block, and the
//! request decoded from *that* log, whatever any record says. What is signed names no request, so the answer is then held
//! against the request's own arguments ([`crate::answer::fits`]). One look at a block costs two calls and serves every
//! answer to its requests.

use kms_chain::authority::{Authority, Occurrence, ProvenLog, Unproven};
use kms_chain::event::{ContractSet, Decoded, decode_request};
use kms_chain::release::Release;
use kms_chain::rpc::Rpc;
use kms_schemas::identity::Lane;
use kms_schemas::record::{Answer, RequestBody, ResultRecord};

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
    /// The nodes answer, and what they say of the block does not add up. Never a verdict.
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
            Self::Outage { .. } => "outage",
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
        is_of(&self.contracts, &proven, result)
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
    /// That it is not, or that nobody answered.
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
            Err(error) if error.is_outage() => Err(Unshown::Outage { code: error.code(), text: error.to_string() }),
            Err(error) => Err(Unshown::Undecidable { code: error.code(), text: error.to_string() }),
        }
    }

    /// Whether the contract holds the request for aborted.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn is_aborted(&self, result: &ResultRecord) -> Result<bool, Unshown> {
        let Some(kms_generation) = self.contracts.kms_generation else { return Ok(false) };
        match answer::is_aborted(&self.rpc, kms_generation, result.identity.id).await {
            Ok(aborted) => Ok(aborted),
            Err(error) if error.is_outage() => Err(Unshown::Outage { code: error.code(), text: error.to_string() }),
            // A contract without aborts has aborted nothing.
            Err(_) => Ok(false),
        }
    }
}

/// The request in a proven log, if it is the one that the result names.
fn is_of(contracts: &ContractSet, proven: &ProvenLog, result: &ResultRecord) -> Result<Decoded, Unshown> {
    let identity = &result.identity;
    let refuse = |text: String| Unshown::Forged { code: NOT_REQUESTED, text };
    let place = || format!("block {}, log {}", proven.at.block_number, proven.at.log_index);
    if proven.log.address != identity.contract {
        return Err(refuse(format!(
            "the log in {} is of {}, not of {}",
            place(),
            proven.log.address,
            identity.contract
        )));
    }
    let decoded = of_any_release(contracts, proven)
        .ok_or_else(|| refuse(format!("the log in {} is no request of {}", place(), identity.contract)))?;
    if (decoded.kind, decoded.id) != (identity.kind, identity.id) {
        return Err(refuse(format!(
            "the log in {} is request {} of kind {}, not {} of kind {}",
            place(),
            decoded.id,
            decoded.kind,
            identity.id,
            identity.kind
        )));
    }
    Ok(decoded)
}

/// Requests that were made before the contracts were upgraded are answered afterwards; and of the two events that tell one
/// request either is the chain's word.
fn of_any_release(contracts: &ContractSet, proven: &ProvenLog) -> Option<Decoded> {
    let mut releases = Release::ALL.into_iter().rev();
    releases.find_map(|release| decode_request(&contracts.with_release(release), &proven.log).ok().flatten())
}
