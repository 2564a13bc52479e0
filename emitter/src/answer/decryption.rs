//! Public and user decryptions (`docs/protocol.md`, "Signed messages").

use alloy::primitives::{B256, Bytes};
use kms_schemas::record::{CiphertextMaterial, HandleEntry, RequestBody};

use super::{Misfit, must};

pub(super) fn public_fits(handles: &[B256], extra_data: &Bytes, body: &RequestBody) -> Result<(), Misfit> {
    let (asked, requested) = match body {
        RequestBody::PublicDecryption { materials, extra_data } => (of_materials(materials), extra_data),
        RequestBody::PublicDecryptionHandles { handles, extra_data } => (handles.clone(), extra_data),
        _ => return Err(Misfit::Field("the form")),
    };
    must(handles == asked, "the list of handles")?;
    must(is_extra_data_of(extra_data, requested), "extraData")
}

pub(super) fn user_fits(
    public_key: &Bytes,
    handles: &[B256],
    extra_data: &Bytes,
    body: &RequestBody,
) -> Result<(), Misfit> {
    let (asked, key, requested) = match body {
        RequestBody::UserDecryption { materials, public_key, extra_data, .. } => {
            (of_materials(materials), public_key, extra_data)
        }
        RequestBody::UserDecryptionHandles { handles, public_key, extra_data, .. } => {
            (handles.clone(), public_key, extra_data)
        }
        RequestBody::UnifiedUserDecryption(request) => {
            (of_entries(&request.entries), &request.public_key, &request.extra_data)
        }
        _ => return Err(Misfit::Field("the form")),
    };
    must(handles == asked, "the list of handles")?;
    must(public_key == key, "the public key")?;
    must(is_extra_data_of(extra_data, requested), "extraData")
}

/// In request order, repetitions kept: both are part of what is signed.
fn of_materials(materials: &[CiphertextMaterial]) -> Vec<B256> {
    materials.iter().map(|material| material.handle).collect()
}

fn of_entries(entries: &[HandleEntry]) -> Vec<B256> {
    entries.iter().map(|entry| entry.handle).collect()
}

/// KMS Core signs over the request's bytes, or, in its older versions and for the single byte 0, over none. Anything else
/// was signed for another request.
fn is_extra_data_of(signed: &Bytes, requested: &Bytes) -> bool {
    signed.is_empty() || signed == requested
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};
    use kms_schemas::identity::RequestId;
    use kms_schemas::record::UnifiedUserDecryption;

    use super::*;

    const CONTEXT: &[u8] = &[1; 33];

    fn handles(bytes: &[u8]) -> Vec<B256> {
        bytes.iter().map(|byte| B256::repeat_byte(*byte)).collect()
    }

    fn materials(bytes: &[u8]) -> Vec<CiphertextMaterial> {
        let material = |handle| CiphertextMaterial {
            handle,
            key_id: RequestId::default(),
            digest: B256::ZERO,
            coprocessors: Vec::new(),
        };
        handles(bytes).into_iter().map(material).collect()
    }

    fn public_forms() -> [RequestBody; 2] {
        let extra_data = Bytes::from_static(CONTEXT);
        [
            RequestBody::PublicDecryption { materials: materials(&[1, 2, 1]), extra_data: extra_data.clone() },
            RequestBody::PublicDecryptionHandles { handles: handles(&[1, 2, 1]), extra_data },
        ]
    }

    fn user_forms() -> [RequestBody; 3] {
        let (extra_data, public_key) = (Bytes::from_static(CONTEXT), Bytes::from_static(b"key"));
        let entry = |handle| HandleEntry { handle, contract: Address::ZERO, owner: Address::ZERO };
        let user_address = Address::ZERO;
        [
            RequestBody::UserDecryption {
                materials: materials(&[1, 2, 1]),
                user_address,
                public_key: public_key.clone(),
                extra_data: extra_data.clone(),
            },
            RequestBody::UserDecryptionHandles {
                handles: handles(&[1, 2, 1]),
                user_address,
                public_key: public_key.clone(),
                extra_data: extra_data.clone(),
            },
            RequestBody::UnifiedUserDecryption(Box::new(UnifiedUserDecryption {
                materials: Vec::new(),
                entries: handles(&[1, 2, 1]).into_iter().map(entry).collect(),
                user_address,
                public_key,
                allowed_contracts: Vec::new(),
                start_timestamp: U256::ZERO,
                duration_seconds: U256::ZERO,
                extra_data,
                signature: Bytes::new(),
            })),
        ]
    }

    #[test]
    fn an_answer_fits_the_request_that_it_was_made_for_in_every_form() {
        let key = Bytes::from_static(b"key");
        for extra_data in [Bytes::new(), Bytes::from_static(CONTEXT)] {
            for body in public_forms() {
                assert_eq!(public_fits(&handles(&[1, 2, 1]), &extra_data, &body), Ok(()));
            }
            for body in user_forms() {
                assert_eq!(user_fits(&key, &handles(&[1, 2, 1]), &extra_data, &body), Ok(()));
            }
        }
    }

    #[test]
    fn p4_other_handles_order_count_key_or_extra_data_do_not_fit() {
        let (key, extra) = (Bytes::from_static(b"key"), Bytes::from_static(CONTEXT));
        let list = Misfit::Field("the list of handles");
        for other in [&[2, 1, 1][..], &[1, 2], &[1, 2, 1, 1], &[], &[3, 2, 1]] {
            for body in public_forms() {
                assert_eq!(public_fits(&handles(other), &extra, &body), Err(list.clone()));
            }
            for body in user_forms() {
                assert_eq!(user_fits(&key, &handles(other), &extra, &body), Err(list.clone()));
            }
        }
        let other = Bytes::from_static(&[1; 34]);
        for body in public_forms() {
            assert_eq!(public_fits(&handles(&[1, 2, 1]), &other, &body), Err(Misfit::Field("extraData")));
        }
        for body in user_forms() {
            let own = handles(&[1, 2, 1]);
            assert_eq!(user_fits(&key, &own, &other, &body), Err(Misfit::Field("extraData")));
            assert_eq!(user_fits(&other, &own, &extra, &body), Err(Misfit::Field("the public key")));
        }
    }

    #[test]
    fn the_single_byte_0_of_old_clients_was_signed_as_nothing() {
        let body =
            RequestBody::PublicDecryptionHandles { handles: handles(&[1]), extra_data: Bytes::from_static(&[0]) };
        assert_eq!(public_fits(&handles(&[1]), &Bytes::new(), &body), Ok(()));
    }
}
