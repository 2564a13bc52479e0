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

/// Whether the contract holds a generation for aborted: it is done, and nobody agreed on it.
///
/// # Errors
/// See [`ViewError`].
pub(crate) async fn is_aborted(rpc: &Rpc, kms_generation: Address, id: RequestId) -> Result<bool, ViewError> {
    let views = KmsGenerationViews::new(rpc.clone(), kms_generation);
    let done = views.is_request_done(id, BlockId::latest()).await?;
    Ok(done && views.consensus_tx_senders(id, BlockId::latest()).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn id(byte: u8) -> RequestId {
        RequestId(B256::repeat_byte(byte))
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
