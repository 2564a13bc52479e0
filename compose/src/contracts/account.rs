//! An account that sends transactions one after the other without waiting for any of them to be mined.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use alloy::consensus::{SignableTransaction, TxEip1559};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use tokio::sync::Mutex;

use super::error::ContractsError;
use super::node::Node;

/// Far above the base fee of a development chain, which has to be met whatever the blocks hold. What is paid is the base fee.
const MAX_FEE_PER_GAS: u128 = 100_000_000_000;
/// Transactions sent in one JSON-RPC batch.
const SEND_BATCH: usize = 50;
const MINED_AT_ONCE: Duration = Duration::from_secs(60);
const SETTLED_POLL: Duration = Duration::from_millis(100);

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The contract; absent to create one.
    pub to: Option<Address>,
    /// Calldata, or creation code.
    pub data: Bytes,
    /// Gas limit.
    pub gas: u64,
}

/// A key and the nonces of its account on one chain. It must be the only sender of that account.
#[derive(Debug)]
pub struct Account {
    node: Node,
    chain_id: u64,
    signer: PrivateKeySigner,
    next_nonce: Mutex<u64>,
    /// What was sent and is not known to be mined, to be sent again where the node lost it.
    sent: Mutex<BTreeMap<u64, Bytes>>,
    sends: Sends,
}

/// anvil judges whether a transaction follows one in its pool before it puts it there. Where every transaction is a block of its own,
/// the one before may be mined just between the two, and the later one then waits for it for ever (seen once in a thousand deployments on
/// anvil 1.7.1; never in 150 000 transactions on a chain with a block interval).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    /// Without waiting: blocks come at an interval.
    InLine,
    /// Each once the one before is mined: every transaction is a block.
    OneByOne,
}

impl Account {
    /// The account of a key, its next nonce read from the chain.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn open(node: &Node, signer: PrivateKeySigner) -> Result<Self, ContractsError> {
        let chain_id = node.chain_id().await?;
        let next_nonce = Mutex::new(node.next_nonce(signer.address()).await?);
        let sends = if node.mines_at_once().await? { Sends::OneByOne } else { Sends::InLine };
        Ok(Self { node: node.clone(), chain_id, signer, next_nonce, sent: Mutex::default(), sends })
    }

    /// The account's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// The node it sends to.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The nonce of the next transaction.
    pub async fn next_nonce(&self) -> u64 {
        *self.next_nonce.lock().await
    }

    /// Sends one transaction per call, in order, and gives their hashes without waiting for blocks, unless each transaction is one.
    ///
    /// # Errors
    /// The node does not answer, or refuses one; those before it are sent, those after it may be.
    pub async fn send(&self, calls: &[Call]) -> Result<Vec<B256>, ContractsError> {
        let mut nonce = self.next_nonce.lock().await;
        let mut hashes = Vec::with_capacity(calls.len());
        let batch = match self.sends {
            Sends::InLine => SEND_BATCH,
            Sends::OneByOne => 1,
        };
        for chunk in calls.chunks(batch) {
            let mut transactions = Vec::with_capacity(chunk.len());
            for (call, nonce) in chunk.iter().zip(*nonce..) {
                transactions.push((self.sign(call, nonce)?,));
            }
            self.sent.lock().await.extend((*nonce..).zip(transactions.iter().map(|(raw,)| raw.clone())));
            match self.hand_over(&transactions).await {
                Ok(new) => hashes.extend(new),
                Err(error) => {
                    // What the node took and what not is known only to it.
                    *nonce = self.node.next_nonce(self.address()).await?;
                    return Err(error);
                }
            }
            *nonce += chunk.len() as u64;
            if self.sends == Sends::OneByOne {
                self.node.receipts(&hashes[hashes.len() - chunk.len()..], MINED_AT_ONCE).await?;
            }
        }
        Ok(hashes)
    }

    /// Has the node take transactions; their hashes.
    async fn hand_over(&self, transactions: &[(Bytes,)]) -> Result<Vec<B256>, ContractsError> {
        let answers = self.node.batch::<_, B256>("eth_sendRawTransaction", transactions).await?;
        let mut hashes = Vec::with_capacity(answers.len());
        for ((raw,), answer) in transactions.iter().zip(answers) {
            let hash = keccak256(raw);
            match answer {
                Ok(hash) => hashes.push(hash),
                // A node that was asked again after an outage may have taken it the first time.
                Err(ContractsError::Refused { .. }) if self.node.is_patient() && self.node.knows(hash).await? => {
                    hashes.push(hash);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(hashes)
    }

    /// Waits until everything that the account ever sent is in blocks.
    ///
    /// # Errors
    /// [`ContractsError::NotMined`] when the time is over; else the node does not answer.
    pub async fn settled(&self, within: Duration) -> Result<(), ContractsError> {
        let begun = Instant::now();
        loop {
            let pending = self.node.next_nonce(self.address()).await?;
            let mined = self.node.mined_nonce(self.address()).await?;
            if mined >= pending {
                return Ok(());
            }
            if begun.elapsed() > within {
                let missing = usize::try_from(pending - mined).unwrap_or(usize::MAX);
                return Err(ContractsError::NotMined { missing, sent: missing, waited: within });
            }
            tokio::time::sleep(SETTLED_POLL).await;
        }
    }

    /// Sends again what the node no longer has: under load anvil now and then drops transactions that it had accepted, and everything
    /// behind the gap then waits for ever. What it still has it refuses, which is no error here.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn send_lost_again(&self) -> Result<(), ContractsError> {
        let next = self.next_nonce.lock().await;
        let first_missing = self.node.next_nonce(self.address()).await?;
        let mut sent = self.sent.lock().await;
        *sent = sent.split_off(&first_missing);
        if first_missing >= *next {
            return Ok(());
        }
        let again: Vec<(Bytes,)> = sent.values().map(|raw| (raw.clone(),)).collect();
        self.node.batch::<_, B256>("eth_sendRawTransaction", &again).await?;
        Ok(())
    }

    /// What a call that failed in a block reverts with now; empty when it no longer does, or when it ran out of gas.
    pub async fn why_reverted(&self, call: &Call) -> Bytes {
        match self.node.simulate(self.address(), call).await {
            Err(ContractsError::Reverted { data, .. }) => data,
            _ => Bytes::new(),
        }
    }

    /// A signed EIP-1559 transaction in its EIP-2718 encoding.
    fn sign(&self, call: &Call, nonce: u64) -> Result<Bytes, ContractsError> {
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit: call.gas,
            max_fee_per_gas: MAX_FEE_PER_GAS,
            max_priority_fee_per_gas: 0,
            to: call.to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            access_list: Default::default(),
            input: call.data.clone(),
        };
        let signature = self.signer.sign_hash_sync(&transaction.signature_hash())?;
        Ok(transaction.into_signed(signature).encoded_2718().into())
    }
}
