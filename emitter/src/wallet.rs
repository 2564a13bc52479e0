//! The account that sends: signs transactions, and never shows its key.
//!
//! The key is in memory, from a key file or an encrypted [`keystore`], or stays in AWS KMS ([`aws_kms`]). What a remote signer
//! gives is held against the account before anything is made of it.

pub mod aws_kms;
pub mod config;
pub mod keystore;

use std::fmt;
use std::sync::Arc;

use alloy::consensus::transaction::SignerRecoverable as _;
use alloy::consensus::{SignableTransaction, Transaction as _, TxEip1559, TxEip7702, TxEnvelope};
use alloy::eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy::eips::eip7702::Authorization;
use alloy::primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use kms_runtime::config::Secret;

use crate::delegation::Planned;
use crate::fees::Fees;
use crate::nonce::Nonce;
use crate::wallet::aws_kms::{AwsKms, AwsKmsError};
use crate::wallet::keystore::KeystoreError;

/// The transaction sender.
#[derive(Clone)]
pub struct Wallet {
    address: Address,
    signer: Signer,
}

/// Where the key is.
#[derive(Clone)]
enum Signer {
    Key(PrivateKeySigner),
    AwsKms(Arc<AwsKms>),
}

/// Why a key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a private key: 32 bytes in hex are expected")]
pub struct NoKey;

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Called account.
    pub to: Address,
    /// Calldata.
    pub data: Bytes,
    /// Gas limit.
    pub gas_limit: u64,
}

/// A signed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction {
    /// EIP-2718 bytes.
    pub raw: Bytes,
    /// Transaction hash.
    pub hash: B256,
}

/// The account could not sign.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A key in memory does not fail.
    #[error("a transaction cannot be signed: {0}")]
    Key(#[from] alloy::signers::Error),
    /// An outage: sooner or later it signs.
    #[error("AWS KMS {0}")]
    AwsKms(#[from] AwsKmsError),
}

impl Wallet {
    /// Reads a private key, with or without `0x` and surrounding white space.
    ///
    /// # Errors
    /// It is none. The message does not repeat it.
    pub fn new(secret: &Secret) -> Result<Self, NoKey> {
        let bytes: B256 = secret.expose().trim().parse().map_err(|_| NoKey)?;
        Ok(Self::with_key(PrivateKeySigner::from_bytes(&bytes).map_err(|_| NoKey)?))
    }

    /// Opens an encrypted key. Takes the time that its file asks for, a second as a rule.
    ///
    /// # Errors
    /// See [`KeystoreError`], which repeats nothing secret.
    pub fn from_keystore(json: &Secret, password: &Secret) -> Result<Self, KeystoreError> {
        keystore::open(json.expose(), password.expose()).map(Self::with_key)
    }

    /// The account whose key is in AWS KMS. Nothing is asked: see [`Self::check`].
    #[must_use]
    pub fn in_aws_kms(kms: Arc<AwsKms>, address: Address) -> Self {
        Self { address, signer: Signer::AwsKms(kms) }
    }

    fn with_key(key: PrivateKeySigner) -> Self {
        Self { address: key.address(), signer: Signer::Key(key) }
    }

    /// The account.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Whether signing asks somebody else, and so takes time and can fail.
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        matches!(self.signer, Signer::AwsKms(_))
    }

    /// Asks a remote signer whose key it holds.
    ///
    /// # Errors
    /// See [`SigningError`].
    pub async fn check(&self) -> Result<Address, SigningError> {
        match &self.signer {
            Signer::Key(_) => Ok(self.address),
            Signer::AwsKms(kms) => Ok(kms.address().await?),
        }
    }

    async fn sign_hash(&self, hash: B256) -> Result<Signature, SigningError> {
        match &self.signer {
            Signer::Key(key) => Ok(key.sign_hash_sync(&hash)?),
            Signer::AwsKms(kms) => Ok(kms.sign(hash, self.address).await?),
        }
    }

    /// Signs an EIP-1559 transaction without value.
    ///
    /// # Errors
    /// See [`SigningError`].
    pub async fn sign(
        &self,
        chain_id: u64,
        nonce: Nonce,
        payload: &Payload,
        fees: Fees,
    ) -> Result<SignedTransaction, SigningError> {
        let transaction = TxEip1559 {
            chain_id,
            nonce: nonce.0,
            gas_limit: payload.gas_limit,
            max_fee_per_gas: fees.max_fee,
            max_priority_fee_per_gas: fees.priority,
            to: TxKind::Call(payload.to),
            value: U256::ZERO,
            access_list: Default::default(),
            input: payload.data.clone(),
        };
        let signature = self.sign_hash(transaction.signature_hash()).await?;
        let signed = TxEnvelope::from(transaction.into_signed(signature));
        Ok(SignedTransaction { raw: signed.encoded_2718().into(), hash: *signed.tx_hash() })
    }

    /// Signs an EIP-1559 transaction that creates a contract.
    ///
    /// # Errors
    /// See [`SigningError`].
    pub async fn sign_creation(
        &self,
        chain_id: u64,
        nonce: Nonce,
        code: &Bytes,
        gas_limit: u64,
        fees: Fees,
    ) -> Result<SignedTransaction, SigningError> {
        let transaction = TxEip1559 {
            chain_id,
            nonce: nonce.0,
            gas_limit,
            max_fee_per_gas: fees.max_fee,
            max_priority_fee_per_gas: fees.priority,
            to: TxKind::Create,
            value: U256::ZERO,
            access_list: Default::default(),
            input: code.clone(),
        };
        let signature = self.sign_hash(transaction.signature_hash()).await?;
        let signed = TxEnvelope::from(transaction.into_signed(signature));
        Ok(SignedTransaction { raw: signed.encoded_2718().into(), hash: *signed.tx_hash() })
    }

    /// Signs a transaction of the account to itself that delegates it as planned (EIP-7702), with the chain's id in the
    /// authorization: one without is good on every chain.
    ///
    /// # Errors
    /// See [`SigningError`].
    pub async fn sign_delegation(
        &self,
        chain_id: u64,
        planned: &Planned,
        gas_limit: u64,
        fees: Fees,
    ) -> Result<SignedTransaction, SigningError> {
        let authorization =
            Authorization { chain_id: U256::from(chain_id), address: planned.to, nonce: planned.authorization.0 };
        let authorized = self.sign_hash(authorization.signature_hash()).await?;
        let transaction = TxEip7702 {
            chain_id,
            nonce: planned.transaction.0,
            gas_limit,
            max_fee_per_gas: fees.max_fee,
            max_priority_fee_per_gas: fees.priority,
            to: self.address(),
            value: U256::ZERO,
            access_list: Default::default(),
            authorization_list: vec![authorization.into_signed(authorized)],
            input: Bytes::new(),
        };
        let signature = self.sign_hash(transaction.signature_hash()).await?;
        let signed = TxEnvelope::from(transaction.into_signed(signature));
        Ok(SignedTransaction { raw: signed.encoded_2718().into(), hash: *signed.tx_hash() })
    }
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({})", self.address())
    }
}

/// A signed transaction, read from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// What it does.
    pub payload: Payload,
    /// What it pays.
    pub fees: Fees,
    /// Whose key signed it; none where no key could have.
    pub sender: Option<Address>,
    /// Its chain; none for one that is good on every chain.
    pub chain_id: Option<u64>,
    /// Its nonce.
    pub nonce: Nonce,
    /// Its hash.
    pub hash: B256,
}

/// What signed bytes say; none when they are no transaction that a wallet made.
#[must_use]
pub fn read_back(raw: &[u8]) -> Option<ReadBack> {
    let transaction = TxEnvelope::decode_2718_exact(raw).ok()?;
    Some(ReadBack {
        payload: Payload {
            to: transaction.to()?,
            data: transaction.input().clone(),
            gas_limit: transaction.gas_limit(),
        },
        fees: Fees {
            max_fee: transaction.max_fee_per_gas(),
            priority: transaction.max_priority_fee_per_gas().unwrap_or_default(),
        },
        sender: transaction.recover_signer().ok(),
        chain_id: transaction.chain_id(),
        nonce: Nonce(transaction.nonce()),
        hash: *transaction.tx_hash(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    fn payload() -> Payload {
        Payload { to: Address::repeat_byte(5), data: Bytes::from_static(b"call"), gas_limit: 300_000 }
    }

    #[tokio::test]
    async fn a_signed_transaction_reads_back_and_recovers_to_the_account() {
        let wallet = Wallet::new(&Secret::new(format!(" {KEY}\n"))).unwrap();
        let fees = Fees { max_fee: 2_000, priority: 3 };
        let signed = wallet.sign(31_337, Nonce(7), &payload(), fees).await.unwrap();
        let expected = ReadBack {
            payload: payload(),
            fees,
            sender: Some(wallet.address()),
            chain_id: Some(31_337),
            nonce: Nonce(7),
            hash: signed.hash,
        };
        assert_eq!(read_back(&signed.raw), Some(expected));
    }

    #[tokio::test]
    async fn the_same_transaction_has_the_same_bytes() {
        let wallet = Wallet::new(&Secret::new(KEY)).unwrap();
        let fees = Fees { max_fee: 2_000, priority: 3 };
        let sign = async || wallet.sign(1, Nonce(0), &payload(), fees).await.unwrap();
        assert_eq!(sign().await, sign().await);
    }

    #[test]
    fn foreign_bytes_are_no_transaction() {
        assert_eq!(read_back(b""), None);
        assert_eq!(read_back(&[2, 0xc0]), None);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for text in ["", "0x12", "zz", "0x0000000000000000000000000000000000000000000000000000000000000000"] {
            let error = Wallet::new(&Secret::new(text)).unwrap_err();
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }
}
