//! A transaction as a node states it, and the bytes that the transactions root commits to.

use alloy::eips::eip2930::AccessList;
use alloy::primitives::{Address, B256, Bytes, U256};
use serde::Deserialize;

use super::rlp::List;

/// A transaction of any served type, as JSON: those of Ethereum, and those of Arbitrum, which no user signs.
///
/// Written out by hand, since types made for Ethereum refuse Arbitrum's, and only bytes that hash to what the header
/// commits to are believed: a field that is read too leniently changes the hash and proves nothing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TransactionFields {
    #[serde(rename = "type", default)]
    kind: U256,
    from: Option<Address>,
    chain_id: Option<U256>,
    nonce: Option<U256>,
    gas_price: Option<U256>,
    max_priority_fee_per_gas: Option<U256>,
    max_fee_per_gas: Option<U256>,
    max_fee_per_blob_gas: Option<U256>,
    gas: Option<U256>,
    to: Option<Address>,
    value: Option<U256>,
    #[serde(default)]
    input: Bytes,
    access_list: Option<AccessList>,
    blob_versioned_hashes: Option<Vec<B256>>,
    authorization_list: Option<Vec<Authorization>>,
    v: Option<U256>,
    y_parity: Option<U256>,
    r: Option<U256>,
    s: Option<U256>,
    // Arbitrum's.
    request_id: Option<B256>,
    ticket_id: Option<B256>,
    refund_to: Option<Address>,
    max_refund: Option<U256>,
    submission_fee_refund: Option<U256>,
    l1_base_fee: Option<U256>,
    deposit_value: Option<U256>,
    retry_to: Option<Address>,
    retry_value: Option<U256>,
    retry_data: Option<Bytes>,
    beneficiary: Option<Address>,
    max_submission_fee: Option<U256>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    chain_id: U256,
    address: Address,
    nonce: U256,
    y_parity: Option<U256>,
    v: Option<U256>,
    r: U256,
    s: U256,
}

/// Why a transaction cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unencodable {
    #[error("a transaction of type {0:#x}, which is not known here")]
    Type(U256),
    #[error("a transaction of type {kind:#x} without {field}")]
    Missing { kind: U256, field: &'static str },
}

impl TransactionFields {
    /// Appends the encoding that the transactions root commits to, whose hash is the transaction's.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut list = List::with_capacity(self.input.len() + 256);
        let kind = u8::try_from(self.kind).map_err(|_| Unencodable::Type(self.kind))?;
        match kind {
            0 => self.legacy(&mut list)?,
            1 => self.with_access_list(&mut list)?,
            2 => self.dynamic_fee(&mut list)?,
            3 => self.blob(&mut list)?,
            4 => self.set_code(&mut list)?,
            0x64 => self.arbitrum_deposit(&mut list)?,
            0x65 => self.arbitrum_unsigned(&mut list)?,
            0x66 => self.arbitrum_contract(&mut list)?,
            0x68 => self.arbitrum_retry(&mut list)?,
            0x69 => self.arbitrum_submit_retryable(&mut list)?,
            0x6a => {
                list.put(self.need(self.chain_id, "chainId")?).put(&self.input);
            }
            _ => return Err(Unencodable::Type(self.kind)),
        }
        if kind != 0 {
            out.push(kind);
        }
        list.write(out);
        Ok(())
    }

    /// Receiver and calldata, as far as the encoding holds them: a retryable's are the node's own account of it.
    pub(super) fn into_call(self) -> (Option<Address>, Bytes) {
        match u8::try_from(self.kind) {
            Ok(0x64) => (self.to, Bytes::new()),
            Ok(0x69) => (None, Bytes::new()),
            Ok(0x6a) => (None, self.input),
            _ => (self.to, self.input),
        }
    }

    fn need<T>(&self, field: Option<T>, name: &'static str) -> Result<T, Unencodable> {
        field.ok_or(Unencodable::Missing { kind: self.kind, field: name })
    }

    /// Gas limit, receiver, value and calldata, which stand together in every type but the retryables'.
    fn call(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.gas, "gas")?).put_to(self.to).put(self.need(self.value, "value")?).put(&self.input);
        Ok(())
    }

    fn r_and_s(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.r, "r")?).put(self.need(self.s, "s")?);
        Ok(())
    }

    fn signature(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.y_parity.or(self.v), "yParity")?);
        self.r_and_s(list)
    }

    fn access(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.access_list.as_ref(), "accessList")?);
        Ok(())
    }

    fn legacy(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.nonce, "nonce")?).put(self.need(self.gas_price, "gasPrice")?);
        self.call(list)?;
        list.put(self.need(self.v, "v")?);
        self.r_and_s(list)
    }

    fn with_access_list(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.chain_id, "chainId")?)
            .put(self.need(self.nonce, "nonce")?)
            .put(self.need(self.gas_price, "gasPrice")?);
        self.call(list)?;
        self.access(list)?;
        self.signature(list)
    }

    fn fees(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.chain_id, "chainId")?)
            .put(self.need(self.nonce, "nonce")?)
            .put(self.need(self.max_priority_fee_per_gas, "maxPriorityFeePerGas")?)
            .put(self.need(self.max_fee_per_gas, "maxFeePerGas")?);
        Ok(())
    }

    fn dynamic_fee(&self, list: &mut List) -> Result<(), Unencodable> {
        self.fees(list)?;
        self.call(list)?;
        self.access(list)?;
        self.signature(list)
    }

    fn blob(&self, list: &mut List) -> Result<(), Unencodable> {
        self.fees(list)?;
        self.call(list)?;
        self.access(list)?;
        list.put(self.need(self.max_fee_per_blob_gas, "maxFeePerBlobGas")?);
        list.put_hashes(self.need(self.blob_versioned_hashes.as_deref(), "blobVersionedHashes")?);
        self.signature(list)
    }

    fn set_code(&self, list: &mut List) -> Result<(), Unencodable> {
        self.fees(list)?;
        self.call(list)?;
        self.access(list)?;
        let mut authorizations = List::default();
        for authorization in self.need(self.authorization_list.as_ref(), "authorizationList")? {
            let parity = self.need(authorization.y_parity.or(authorization.v), "yParity of an authorization")?;
            let mut item = List::default();
            item.put(authorization.chain_id).put(authorization.address).put(authorization.nonce);
            item.put(parity).put(authorization.r).put(authorization.s);
            authorizations.put_list(&item);
        }
        list.put_list(&authorizations);
        self.signature(list)
    }

    fn arbitrum_deposit(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.chain_id, "chainId")?)
            .put(self.need(self.request_id, "requestId")?)
            .put(self.need(self.from, "from")?)
            .put(self.need(self.to, "to")?)
            .put(self.need(self.value, "value")?);
        Ok(())
    }

    /// The fee cap, which JSON may call the price in types without a tip.
    fn fee_cap(&self) -> Result<U256, Unencodable> {
        self.need(self.max_fee_per_gas.or(self.gas_price), "maxFeePerGas")
    }

    fn arbitrum_unsigned(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.chain_id, "chainId")?)
            .put(self.need(self.from, "from")?)
            .put(self.need(self.nonce, "nonce")?)
            .put(self.fee_cap()?);
        self.call(list)
    }

    fn arbitrum_contract(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.chain_id, "chainId")?)
            .put(self.need(self.request_id, "requestId")?)
            .put(self.need(self.from, "from")?)
            .put(self.fee_cap()?);
        self.call(list)
    }

    fn arbitrum_retry(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.chain_id, "chainId")?)
            .put(self.need(self.nonce, "nonce")?)
            .put(self.need(self.from, "from")?)
            .put(self.fee_cap()?);
        self.call(list)?;
        list.put(self.need(self.ticket_id, "ticketId")?)
            .put(self.need(self.refund_to, "refundTo")?)
            .put(self.need(self.max_refund, "maxRefund")?)
            .put(self.need(self.submission_fee_refund, "submissionFeeRefund")?);
        Ok(())
    }

    fn arbitrum_submit_retryable(&self, list: &mut List) -> Result<(), Unencodable> {
        list.put(self.need(self.chain_id, "chainId")?)
            .put(self.need(self.request_id, "requestId")?)
            .put(self.need(self.from, "from")?)
            .put(self.need(self.l1_base_fee, "l1BaseFee")?)
            .put(self.need(self.deposit_value, "depositValue")?)
            .put(self.fee_cap()?)
            .put(self.need(self.gas, "gas")?)
            .put_to(self.retry_to)
            .put(self.need(self.retry_value, "retryValue")?)
            .put(self.need(self.beneficiary, "beneficiary")?)
            .put(self.need(self.max_submission_fee, "maxSubmissionFee")?)
            .put(self.need(self.refund_to, "refundTo")?)
            .put(self.need(self.retry_data.as_ref(), "retryData")?);
        Ok(())
    }
}
