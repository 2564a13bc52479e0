//! Preprocessings, keys and CRSs, and their aborts (`docs/protocol.md`, "Signed messages").

use alloy::primitives::{Address, Bytes, U256};
use kms_chain::rpc::{BlockId, Rpc};
use kms_chain::views::{KmsGenerationViews, ViewError};
use kms_schemas::identity::RequestId;
use kms_schemas::record::RequestBody;

use super::{Misfit, must};

pub(super) fn prep_keygen_fits(signed: &Bytes, body: &RequestBody) -> Result<(), Misfit> {
    let RequestBody::PrepKeygen { extra_data, .. } = body else { return Err(Misfit::Field("the form")) };
    must(signed == extra_data, "extraData")
}

pub(super) fn keygen_fits(prep_keygen_id: RequestId, signed: &Bytes, body: &RequestBody) -> Result<(), Misfit> {
    let RequestBody::Keygen { prep_keygen_id: asked, extra_data } = body else {
        return Err(Misfit::Field("the form"));
    };
    must(prep_keygen_id == *asked, "prepKeygenId")?;
    must(signed == extra_data, "extraData")
}

pub(super) fn crsgen_fits(max_bit_length: U256, signed: &Bytes, body: &RequestBody) -> Result<(), Misfit> {
    let RequestBody::Crsgen { max_bit_length: asked, extra_data, .. } = body else {
        return Err(Misfit::Field("the form"));
    };
    must(max_bit_length == *asked, "maxBitLength")?;
    must(signed == extra_data, "extraData")
}

/// Whether the contract holds a generation for aborted: it is done, and nobody agreed on it. Both is asked at one block, by its number:
/// "done" of a node that is ahead and "nobody agreed" of one that is behind would together read "aborted".
///
/// # Errors
/// See [`ViewError`].
pub(crate) async fn is_aborted(rpc: &Rpc, kms_generation: Address, id: RequestId) -> Result<bool, ViewError> {
    let head = rpc.block_number().await;
    let head = head.map_err(|error| ViewError::Call { function: "eth_blockNumber", source: error.into() })?;
    let (rpc, block) = (rpc.needing(head), BlockId::number(head));
    let views = KmsGenerationViews::new(rpc, kms_generation);
    let done = views.is_request_done(id, block).await?;
    Ok(done && views.consensus_tx_senders(id, block).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn id(byte: u8) -> RequestId {
        RequestId(B256::repeat_byte(byte))
    }

    #[tokio::test]
    async fn p3_what_is_aborted_is_told_by_one_block_and_never_by_two_nodes_of_different_heights() {
        use alloy::sol_types::{SolCall, SolValue};
        use kms_chain::contracts::b::KMSGeneration;
        use serde_json::json;
        // Done with block 20, by agreement. Behind its address, another node of height 10 answers whoever asks for the latest block.
        let rpc = crate::node::node(|method, params| match method {
            "eth_blockNumber" => Ok(json!("0x14")),
            "eth_call" => {
                let data: Bytes = serde_json::from_value(params[0]["data"].clone()).unwrap();
                let answer = match data.get(..4) {
                    Some(selector) if selector == KMSGeneration::isRequestDoneCall::SELECTOR => true.abi_encode(),
                    _ if params[1] == "0x14" => vec![Address::repeat_byte(1)].abi_encode(),
                    _ => Vec::<Address>::new().abi_encode(),
                };
                Ok(json!(Bytes::from(answer)))
            }
            other => crate::node::error(-32601, other),
        })
        .await;
        assert!(!is_aborted(&rpc, Address::repeat_byte(2), id(3)).await.unwrap());
    }

    #[test]
    fn p4_key_management_fits_only_with_the_requests_own_ids_length_and_extra_data() {
        for extra_data in [Bytes::new(), Bytes::from_static(&[2; 65])] {
            let other = Bytes::from_static(&[2; 64]);
            let prep = RequestBody::PrepKeygen { epoch_id: U256::ZERO, params_type: 0, extra_data: extra_data.clone() };
            assert_eq!(prep_keygen_fits(&extra_data, &prep), Ok(()));
            assert_eq!(prep_keygen_fits(&other, &prep), Err(Misfit::Field("extraData")));

            let keygen = RequestBody::Keygen { prep_keygen_id: id(3), extra_data: extra_data.clone() };
            assert_eq!(keygen_fits(id(3), &extra_data, &keygen), Ok(()));
            assert_eq!(keygen_fits(id(4), &extra_data, &keygen), Err(Misfit::Field("prepKeygenId")));
            assert_eq!(keygen_fits(id(3), &other, &keygen), Err(Misfit::Field("extraData")));
            assert_eq!(keygen_fits(id(3), &extra_data, &prep), Err(Misfit::Field("the form")));

            let bits = U256::from(2_048);
            let crs = RequestBody::Crsgen { max_bit_length: bits, params_type: 0, extra_data: extra_data.clone() };
            assert_eq!(crsgen_fits(bits, &extra_data, &crs), Ok(()));
            let longer = bits + U256::ONE;
            assert_eq!(crsgen_fits(longer, &extra_data, &crs), Err(Misfit::Field("maxBitLength")));
            assert_eq!(crsgen_fits(bits, &other, &crs), Err(Misfit::Field("extraData")));
        }
    }
}
