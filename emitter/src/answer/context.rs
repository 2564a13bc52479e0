//! The creation of a KMS context (`docs/protocol.md`, "Contexts and epochs").
//!
//! The confirmation carries no signature of KMS Core: what keeps somebody who writes to the results topic from having a context
//! confirmed is that the chain must hold the request, at the finality of key management. That the context really is in KMS
//! Core is the word of the result alone.

use kms_chain::event::NO_CONTEXT;
use kms_schemas::identity::RequestId;
use kms_schemas::record::RequestBody;

use super::Misfit;

pub(super) fn created_fits(body: &RequestBody) -> Result<(), Misfit> {
    let RequestBody::NewKmsContext(context) = body else { return Err(Misfit::Field("the form")) };
    if context.previous_context_id == NO_CONTEXT || context.previous_context_id == RequestId::default() {
        return Err(Misfit::Unasked("a context that replaces none is active at once, and takes no confirmation"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, U256};
    use kms_schemas::record::{KmsThresholds, NewKmsContext};

    use super::*;

    fn context(previous_context_id: RequestId) -> RequestBody {
        RequestBody::NewKmsContext(Box::new(NewKmsContext {
            previous_context_id,
            nodes: Vec::new(),
            thresholds: KmsThresholds {
                public_decryption: U256::ONE,
                user_decryption: U256::ONE,
                kms_gen: U256::ONE,
                mpc: U256::ONE,
            },
            software_version: String::new(),
            pcr_values: Vec::new(),
        }))
    }

    #[test]
    fn only_a_context_that_replaces_another_is_confirmed() {
        assert_eq!(created_fits(&context(RequestId(B256::with_last_byte(1)))), Ok(()));
        for none in [NO_CONTEXT, RequestId::default()] {
            assert!(matches!(created_fits(&context(none)), Err(Misfit::Unasked(_))));
        }
        assert_eq!(created_fits(&RequestBody::AbortKeygen), Err(Misfit::Field("the form")));
    }
}
