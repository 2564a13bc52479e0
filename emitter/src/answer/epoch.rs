//! The activation of an epoch (`docs/protocol.md`, "Contexts and epochs").
//!
//! All nodes must confirm the same keys and CRSs in the same order, or the epoch is blocked until its owner destroys it. Every
//! item is signed for this very epoch, but an item left out, or two exchanged, would still verify: so the list is held
//! against the contract's own.

use alloy::primitives::{Address, U256};
use kms_chain::rpc::{BlockId, Rpc, RpcError};
use kms_chain::views::{KmsGenerationViews, ViewError};
use kms_schemas::identity::RequestId;
use kms_schemas::record::{EpochCrs, EpochKey, RequestBody};

use super::{Misfit, must};

pub(super) fn activation_fits(signed: RequestId, body: &RequestBody) -> Result<(), Misfit> {
    let RequestBody::NewKmsEpoch { context_id, .. } = body else { return Err(Misfit::Field("the form")) };
    must(signed == *context_id, "the context")
}

/// Whether the keys and CRSs are those that were complete at the epoch's material block, in the contract's order.
///
/// A node that says that it no longer has the state of that block is asked for the latest one, where the lists can only have grown:
/// then the answer's must be their beginnings. (What that cannot tell is an answer that leaves out the last ones.) After any other
/// error nothing is known: the node may have the state a moment later.
///
/// # Errors
/// See [`ViewError`].
pub(crate) async fn names_everything(
    rpc: &Rpc,
    kms_generation: Address,
    material_block: U256,
    (keys, crs_list): (&[EpochKey], &[EpochCrs]),
) -> Result<bool, ViewError> {
    let views = KmsGenerationViews::new(rpc.clone(), kms_generation);
    let answered = (
        keys.iter().map(|key| key.key_id).collect::<Vec<RequestId>>(),
        crs_list.iter().map(|crs| crs.crs_id).collect::<Vec<RequestId>>(),
    );
    let at = u64::try_from(material_block).unwrap_or(u64::MAX);
    match complete(&views, BlockId::number(at)).await {
        Ok(complete) => Ok(answered == complete),
        Err(error) if !is_state_gone(&error) => Err(error),
        Err(error) => {
            tracing::warn!(
                block = at,
                %error,
                "the state of an epoch's material block is gone, its keys are held against the latest"
            );
            let (all_keys, all_crs) = complete(&views, BlockId::latest()).await?;
            Ok(all_keys.starts_with(&answered.0) && all_crs.starts_with(&answered.1))
        }
    }
}

/// Whether a node has thrown the block's state away, in the words of geth, Erigon, reth, Nethermind, Besu and Nitro.
fn is_state_gone(error: &ViewError) -> bool {
    const GONE: [&str; 6] = [
        "missing trie node",
        "pruned",
        "state not available",
        "state is not available",
        "state unavailable",
        "no state available",
    ];
    let Some(RpcError::Response { message, .. }) = error.unexecuted() else { return false };
    let message = message.to_ascii_lowercase();
    GONE.iter().any(|text| message.contains(text))
}

async fn complete(views: &KmsGenerationViews, block: BlockId) -> Result<(Vec<RequestId>, Vec<RequestId>), ViewError> {
    Ok((views.completed_key_ids(block).await?, views.completed_crs_ids(block).await?))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    #[test]
    fn p4_an_activation_signed_for_another_context_does_not_fit() {
        let id = |byte| RequestId(B256::repeat_byte(byte));
        let body = RequestBody::NewKmsEpoch {
            context_id: id(7),
            previous_context_id: id(6),
            previous_epoch_id: id(5),
            material_block_number: U256::from(10),
        };
        assert_eq!(activation_fits(id(7), &body), Ok(()));
        assert_eq!(activation_fits(id(6), &body), Err(Misfit::Field("the context")));
    }
}
