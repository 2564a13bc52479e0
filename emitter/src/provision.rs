//! Putting the executor on a chain, delegating an account to it, and looking: what `kmsctl executor` and the local stack do. The
//! emitter itself never delegates; it uses what it finds.

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use kms_chain::rpc::{BlockId, Rpc, RpcError, SendOutcome};

use crate::delegation::{self, Account, Barred, Failed, Standing};
use crate::executor;
use crate::fees::{AboveCap, FeePolicy};
use crate::nonce::Nonce;
use crate::wallet::{SignedTransaction, SigningError, Wallet};

const POLL: Duration = Duration::from_millis(100);

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The chain cannot be asked.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// It must not be done now.
    #[error(transparent)]
    Barred(#[from] Barred),
    /// It was tried and is not so.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The chain asks for more than the cap.
    #[error(transparent)]
    Fee(#[from] AboveCap),
    /// No signature.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The code there is not that of this release's executor.
    #[error("{0} has no code of this release's executor; `kmsctl executor deploy` puts one on the chain")]
    NoExecutor(Address),
    /// No node took the transaction.
    #[error("the node did not take the transaction: {0:?}")]
    Refused(SendOutcome),
    /// It reverted.
    #[error("the transaction {0} reverted: give it more gas")]
    Reverted(B256),
    /// It is not mined. It may still be.
    #[error("the transaction {hash} is not mined after {} s and may still be: look at the status later", .waited.as_secs())]
    NotMined {
        /// Its hash.
        hash: B256,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// A delegation that took place, or an executor that was put on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The executor; the zero address after a revocation.
    pub executor: Address,
    /// The transaction.
    pub hash: B256,
    /// Gas that it used.
    pub gas_used: u64,
}

/// What there is to know about an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its code and nonces.
    pub account: Account,
    /// Whether it delegates to an executor of this release.
    pub batches: bool,
}

/// Looks at an account, in the latest block.
///
/// # Errors
/// The chain cannot be asked.
pub async fn status(rpc: &Rpc, account: Address) -> Result<Status, RpcError> {
    let account = read(rpc, account).await?;
    let batches = match account.standing() {
        Standing::Delegated(to) => is_executor(rpc, to).await?,
        Standing::Plain | Standing::Contract => false,
    };
    Ok(Status { account, batches })
}

async fn read(rpc: &Rpc, account: Address) -> Result<Account, RpcError> {
    let head = rpc.latest_block().await?;
    let rpc = rpc.needing(head.number());
    let at = BlockId::number(head.number());
    let nonce = Nonce(rpc.nonce(account, at).await?);
    let code = rpc.code(account, at).await?.to_vec();
    let pending = Nonce(rpc.nonce(account, BlockId::pending()).await?).max(nonce);
    Ok(Account { nonce, pending, code })
}

/// Whether the code there is that of this release's executor, to the byte.
///
/// # Errors
/// The chain cannot be asked.
pub async fn is_executor(rpc: &Rpc, at: Address) -> Result<bool, RpcError> {
    Ok(rpc.code(at, BlockId::latest()).await? == executor::runtime_code())
}

/// An account that pays, and how.
pub struct Payer {
    /// The chain.
    pub rpc: Rpc,
    /// EIP-155 id.
    pub chain_id: u64,
    /// The account. For a delegation the one that is delegated.
    pub wallet: Wallet,
    /// What it pays.
    pub fees: FeePolicy,
    /// Gas limit of the transaction.
    pub gas_limit: u64,
    /// How long to wait for its block.
    pub patience: Duration,
}

impl Payer {
    /// Puts an executor on the chain. Any account may: the executor knows nobody.
    ///
    /// # Errors
    /// See [`ProvisionError`].
    pub async fn deploy(&self) -> Result<Done, ProvisionError> {
        let account = read(&self.rpc, self.wallet.address()).await?;
        if account.pending != account.nonce {
            return Err(Barred::InFlight { nonce: account.nonce, pending: account.pending }.into());
        }
        let fees = self.fees.current(self.rpc.latest_block().await?.base_fee())?;
        let code = executor::creation_code();
        let signed = self.wallet.sign_creation(self.chain_id, account.nonce, &code, self.gas_limit, fees).await?;
        let executor = self.wallet.address().create(account.nonce.0);
        let gas_used = self.mine(&signed).await?;
        if !is_executor(&self.rpc, executor).await? {
            return Err(ProvisionError::NoExecutor(executor));
        }
        Ok(Done { executor, hash: signed.hash, gas_used })
    }

    /// Delegates the account to an executor, or revokes with the zero address. A barrier: refused while anything is on its way.
    ///
    /// # Errors
    /// See [`ProvisionError`].
    pub async fn delegate(&self, to: Address) -> Result<Done, ProvisionError> {
        if !to.is_zero() && !is_executor(&self.rpc, to).await? {
            return Err(ProvisionError::NoExecutor(to));
        }
        let planned = delegation::plan(&read(&self.rpc, self.wallet.address()).await?, to)?;
        let fees = self.fees.current(self.rpc.latest_block().await?.base_fee())?;
        let signed = self.wallet.sign_delegation(self.chain_id, &planned, self.gas_limit, fees).await?;
        let gas_used = self.mine(&signed).await?;
        delegation::verify(&planned, &read(&self.rpc, self.wallet.address()).await?)?;
        Ok(Done { executor: to, hash: signed.hash, gas_used })
    }

    /// Sends and waits for the receipt of a success.
    async fn mine(&self, signed: &SignedTransaction) -> Result<u64, ProvisionError> {
        match self.rpc.send_raw_transaction(&signed.raw).await {
            // A lost answer is not a failed send: the receipt tells.
            SendOutcome::Accepted(_) | SendOutcome::AlreadyKnown | SendOutcome::Uncertain(_) => {}
            refused => return Err(ProvisionError::Refused(refused)),
        }
        let started = Instant::now();
        loop {
            if let Some(receipt) = self.rpc.receipt(signed.hash).await?
                && receipt.block().is_some()
            {
                return if receipt.succeeded() {
                    Ok(receipt.gas_used())
                } else {
                    Err(ProvisionError::Reverted(signed.hash))
                };
            }
            if started.elapsed() > self.patience {
                return Err(ProvisionError::NotMined { hash: signed.hash, waited: self.patience });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
