//! The requesting side at volume: committed ciphertexts, access rights, requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolError as _, SolValue};
use futures::future::try_join_all;
use kms_chain::contracts::{CiphertextCommits, HostAcl, MultichainACL};
use kms_chain::event::decode_request;
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::RawLog;

use super::account::{Account, Call};
use super::artifact::Artifact;
use super::deployment::{BALANCE, Chain, Contracts};
use super::error::ContractsError;
use super::node::Node;
use super::owner;
use super::request::{By, Material, NewRequest, RequestCall};

const MINED_WITHIN: Duration = Duration::from_secs(120);
/// Access rights set by one transaction.
const RIGHTS_PER_TRANSACTION: usize = 50;
/// A paced sender gathers what is due at most this long, to send it in one batch.
const PACE_TICK: Duration = Duration::from_millis(10);

/// Who makes requests and what they need for it.
#[derive(Clone, Debug)]
pub struct RequesterKeys {
    /// Owner of the contracts: asks for key and CRS generations, sets the host chain's access rights.
    pub owner: PrivateKeySigner,
    /// The coprocessors' sending keys.
    pub coprocessors: Vec<PrivateKeySigner>,
    /// Sends decryption requests; must hold ether. Anybody but the owner and the coprocessors.
    pub sender: PrivateKeySigner,
}

/// How fast requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the node takes them.
    AtOnce,
    /// That many in a second, evenly.
    PerSecond(f64),
}

/// A request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its transaction.
    pub transaction: B256,
    /// The chain it was sent to.
    pub chain: Chain,
    /// When the node had it.
    pub at: Instant,
}

/// A request that is on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its transaction.
    pub transaction: B256,
    /// The chain it is on.
    pub chain: Chain,
    /// The number of the block that holds it.
    pub block: u64,
    /// What was asked for.
    pub kind: Kind,
    /// The id the contract gave it.
    pub id: RequestId,
    /// Gas used.
    pub gas_used: u64,
}

/// Makes requests of a deployment. Every call can be made from several tasks at once; each account's transactions stand in one
/// line.
#[derive(Debug)]
pub struct Requester {
    contracts: Contracts,
    gateway: Node,
    owner: Arc<Account>,
    host_owner: Arc<Account>,
    coprocessors: Vec<Account>,
    sender: Account,
    /// Whether commitments and rights that are on the chain already are left out.
    leaves_out: bool,
}

impl Requester {
    /// A requester of the deployment on the Gateway at `rpc_url`. `host_rpc_url` leads to the chain with the `ACL`, the Ethereum host
    /// in (b), where that is another.
    ///
    /// # Errors
    /// A node does not answer.
    pub async fn connect(
        rpc_url: &str,
        host_rpc_url: Option<&str>,
        contracts: Contracts,
        keys: RequesterKeys,
    ) -> Result<Self, ContractsError> {
        let host = host_rpc_url.map(Node::new).transpose()?;
        Self::over(Node::new(rpc_url)?, host, contracts, keys).await
    }

    /// As [`Requester::connect`], over these connections.
    ///
    /// # Errors
    /// A node does not answer.
    pub async fn over(
        gateway: Node,
        host: Option<Node>,
        contracts: Contracts,
        keys: RequesterKeys,
    ) -> Result<Self, ContractsError> {
        let owner = Arc::new(Account::open(&gateway, keys.owner.clone()).await?);
        let host_owner = match host {
            Some(host) => Arc::new(Account::open(&host, keys.owner).await?),
            None => Arc::clone(&owner),
        };
        let mut coprocessors = Vec::with_capacity(keys.coprocessors.len());
        for key in keys.coprocessors {
            coprocessors.push(Account::open(&gateway, key).await?);
        }
        let sender = Account::open(&gateway, keys.sender).await?;
        Ok(Self { contracts, gateway, owner, host_owner, coprocessors, sender, leaves_out: false })
    }

    /// The deployment.
    #[must_use]
    pub fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    /// The Gateway's node.
    #[must_use]
    pub fn gateway(&self) -> &Node {
        &self.gateway
    }

    /// The owner's account on the Gateway, for what has no function here.
    #[must_use]
    pub fn owner(&self) -> &Account {
        &self.owner
    }

    /// The node of the host chain, which is the Ethereum host in (b).
    #[must_use]
    pub fn host(&self) -> &Node {
        self.host_owner.node()
    }

    /// The owner's account on the host chain.
    #[must_use]
    pub fn host_owner(&self) -> &Account {
        &self.host_owner
    }

    /// The account that sends decryption requests.
    #[must_use]
    pub fn sender(&self) -> &Account {
        &self.sender
    }

    /// From now on commitments and rights that are on the chain already, of an earlier requester with the same keys, are no errors but left
    /// out.
    pub fn leave_out_what_is_done(&mut self) {
        self.leaves_out = true;
    }

    /// Every account that sends.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        [&self.sender, self.owner.as_ref(), self.host_owner.as_ref()].into_iter().chain(&self.coprocessors)
    }

    /// Waits until everything that the accounts ever sent is in blocks: what an earlier requester with the same keys left in a pool is of
    /// no later one.
    ///
    /// # Errors
    /// [`ContractsError::NotMined`] when the time is over; else a node does not answer.
    pub async fn settled(&self, within: Duration) -> Result<(), ContractsError> {
        try_join_all(self.accounts().map(|account| account.settled(within))).await?;
        Ok(())
    }

    /// Has every coprocessor commit every material, and waits until they are in blocks.
    ///
    /// # Errors
    /// A material is committed already, or a node does not answer.
    pub async fn register(&self, materials: &[Material]) -> Result<(), ContractsError> {
        let call = |material: &Material| {
            let call = CiphertextCommits::addCiphertextMaterialCall {
                ctHandle: material.handle,
                keyId: material.key_id.as_u256(),
                ciphertextDigest: material.ciphertext_digest,
                snsCiphertextDigest: material.sns_ciphertext_digest,
            };
            Call { to: Some(self.contracts.ciphertext_commits), data: call.abi_encode().into(), gas: 600_000 }
        };
        let calls: Vec<Call> = materials.iter().map(call).collect();
        self.as_every_coprocessor(&calls).await
    }

    /// Lets everybody have handles decrypted: on the host chain, and in (a) on the Gateway in every coprocessor's name.
    ///
    /// # Errors
    /// A right is granted already on the Gateway, or a node does not answer.
    pub async fn allow_public(&self, handles: &[B256]) -> Result<(), ContractsError> {
        let rights = handles.iter().map(|handle| {
            let call = MultichainACL::allowPublicDecryptCall { ctHandle: *handle, extraData: Bytes::new() };
            Bytes::from(call.abi_encode())
        });
        let gateway = rights.collect();
        let host: Vec<Bytes> = handles
            .chunks(RIGHTS_PER_TRANSACTION)
            .map(|handles| HostAcl::allowForDecryptionCall { handlesList: handles.to_vec() }.abi_encode().into())
            .collect();
        self.on_gateway(gateway).await?;
        self.on_host(host).await
    }

    /// Lets accounts (users, delegators, application contracts) use handles: on the host chain, and in (a) on the Gateway in every
    /// coprocessor's name.
    ///
    /// # Errors
    /// A right is granted already on the Gateway, or a node does not answer.
    pub async fn allow_accounts(&self, rights: &[(B256, Address)]) -> Result<(), ContractsError> {
        let gateway = rights.iter().map(|(handle, account)| {
            let call = MultichainACL::allowAccountCall {
                ctHandle: *handle,
                accountAddress: *account,
                extraData: Bytes::new(),
            };
            Bytes::from(call.abi_encode())
        });
        let host = rights.iter().map(|(handle, account)| {
            Bytes::from(HostAcl::allowCall { handle: *handle, account: *account }.abi_encode())
        });
        self.on_gateway(gateway.collect()).await?;
        self.on_host(host.collect()).await
    }

    /// Lets `delegate` decrypt for `delegator` what the contracts show the latter, until `expires` (seconds since 1970).
    ///
    /// # Errors
    /// The same was delegated already on the Gateway, or a node does not answer.
    pub async fn delegate(
        &self,
        delegator: Address,
        delegate: Address,
        contracts: &[Address],
        expires: u64,
    ) -> Result<(), ContractsError> {
        let gateway = contracts.iter().map(|contract| {
            let call = MultichainACL::delegateUserDecryptionCall {
                chainId: U256::from(self.contracts.host_chain_id),
                delegator,
                delegate,
                contractAddress: *contract,
                delegationCounter: 1,
                expirationDate: expires,
            };
            Bytes::from(call.abi_encode())
        });
        let host = contracts.iter().map(|contract| {
            let call = owner::HostAcl::setDelegationCall {
                delegator,
                delegate,
                contractAddress: *contract,
                expirationDate: expires,
            };
            Bytes::from(call.abi_encode())
        });
        self.on_gateway(gateway.collect()).await?;
        self.on_host(host.collect()).await
    }

    /// A new wallet contract on the host chain that takes the owner's signatures for its own (ERC-1271).
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn wallet(&self, owner: &PrivateKeySigner) -> Result<Address, ContractsError> {
        let data = Artifact::Wallet.creation_code(&owner.address().abi_encode());
        let call = Call { to: None, data, gas: 2_000_000 };
        let transactions = self.host_owner.send(&[call]).await?;
        let receipts = self.host().receipts(&transactions, MINED_WITHIN).await?;
        let created = receipts.first().and_then(|receipt| receipt.contract_address);
        created.ok_or_else(|| ContractsError::Answer("no contract was created".to_owned()))
    }

    /// Declares void what a user signed with an earlier start than `before` (seconds since 1970, not in the future). (b) only.
    ///
    /// # Errors
    /// [`ContractsError::Reverted`] when `before` is refused; else the node does not answer.
    pub async fn void_signatures(&self, user: &PrivateKeySigner, before: u64) -> Result<(), ContractsError> {
        let call = owner::UserAcl::invalidateDecryptionSignaturesBeforeCall { timestamp: U256::from(before) };
        self.as_user(user, Call { to: Some(self.contracts.host_acl), data: call.abi_encode().into(), gas: 200_000 })
            .await
    }

    /// Has a user with a key send one call on the host chain, with ether that is given for it, and waits for it.
    ///
    /// # Errors
    /// [`ContractsError::Reverted`]; else the node does not answer.
    pub async fn as_user(&self, user: &PrivateKeySigner, call: Call) -> Result<(), ContractsError> {
        self.host().set_balances(&[user.address()], BALANCE).await?;
        all_done(&Account::open(self.host(), user.clone()).await?, &[call]).await
    }

    /// The request with all it takes to send it.
    ///
    /// # Errors
    /// As [`NewRequest::call`].
    pub fn prepare(&self, request: &NewRequest) -> Result<RequestCall, ContractsError> {
        request.prepare(&self.contracts)
    }

    /// Sends requests in their order at a pace, without waiting for blocks.
    ///
    /// # Errors
    /// A node does not answer or refuses; how much was sent is then not told.
    pub async fn submit(&self, requests: &[NewRequest], pace: Pace) -> Result<Vec<Sent>, ContractsError> {
        let prepared = requests.iter().map(|request| request.prepare(&self.contracts));
        self.submit_calls(&prepared.collect::<Result<Vec<_>, ContractsError>>()?, pace).await
    }

    /// As [`Requester::submit`], for requests made beforehand with [`Requester::prepare`].
    ///
    /// # Errors
    /// As [`Requester::submit`].
    pub async fn submit_calls(&self, calls: &[RequestCall], pace: Pace) -> Result<Vec<Sent>, ContractsError> {
        let Pace::PerSecond(rate) = pace else { return self.send_now(calls).await };
        if !(rate.is_finite() && rate > 0.0) {
            return Err(ContractsError::Argument(format!("a pace of {rate} requests per second never ends")));
        }
        let started = Instant::now();
        let mut sent = Vec::with_capacity(calls.len());
        while sent.len() < calls.len() {
            let due = due(started.elapsed(), rate).min(calls.len());
            if due > sent.len() {
                sent.extend(self.send_now(&calls[sent.len()..due]).await?);
            }
            let next = started + Duration::from_secs_f64(sent.len() as f64 / rate);
            tokio::time::sleep_until(next.max(Instant::now() + PACE_TICK).into()).await;
        }
        Ok(sent)
    }

    /// Waits until what was sent is in blocks, and tells the ids. The order is that of `sent`.
    ///
    /// # Errors
    /// A request reverted ([`ContractsError::Reverted`], without its data, which no receipt holds), is not mined in time, or the node
    /// does not answer.
    pub async fn made(&self, sent: &[Sent], within: Duration) -> Result<Vec<Made>, ContractsError> {
        let on = |chain: Chain| -> Vec<B256> {
            sent.iter().filter(|sent| sent.chain == chain).map(|sent| sent.transaction).collect()
        };
        let (gateway, ethereum) = (on(Chain::Gateway), on(Chain::Ethereum));
        let (gateway, ethereum) =
            tokio::try_join!(self.gateway.receipts(&gateway, within), self.host().receipts(&ethereum, within))?;
        let (mut gateway, mut ethereum) = (gateway.iter(), ethereum.iter());
        let receipts = sent.iter().map(|sent| match sent.chain {
            Chain::Gateway => (sent.chain, gateway.next()),
            Chain::Ethereum => (sent.chain, ethereum.next()),
        });
        receipts
            .map(|(chain, receipt)| {
                let receipt = receipt.ok_or_else(|| ContractsError::Answer("no receipt".to_owned()))?;
                self.read(chain, receipt)
            })
            .collect()
    }

    /// Makes one request and waits for it.
    ///
    /// # Errors
    /// [`ContractsError::Reverted`] with the contract's error; else as [`Requester::made`].
    pub async fn make(&self, request: &NewRequest) -> Result<Made, ContractsError> {
        let prepared = request.prepare(&self.contracts)?;
        let account = self.account(prepared.chain, prepared.by);
        account.node().simulate(account.address(), &prepared.call).await?;
        let sent = self.send_now(&[prepared]).await?;
        let made = self.made(&sent, MINED_WITHIN).await?;
        made.first().copied().ok_or_else(|| ContractsError::Answer("no receipt".to_owned()))
    }

    /// The account that a request has to be sent from.
    fn account(&self, chain: Chain, by: By) -> &Account {
        match (chain, by) {
            (Chain::Gateway, By::Anybody) => &self.sender,
            (Chain::Gateway, By::Owner) => &self.owner,
            (Chain::Ethereum, By::Anybody | By::Owner) => &self.host_owner,
        }
    }

    fn read(&self, chain: Chain, receipt: &TransactionReceipt) -> Result<Made, ContractsError> {
        let transaction = receipt.transaction_hash;
        if !receipt.status() {
            return Err(ContractsError::Reverted { transaction: Some(transaction), data: Bytes::new() });
        }
        let followed = self.contracts.followed_on(chain);
        let followed = followed.ok_or_else(|| ContractsError::Answer("no such chain".to_owned()))?;
        for log in receipt.inner.logs() {
            let raw = RawLog { address: log.address(), topics: log.topics().to_vec(), data: log.data().data.clone() };
            let decoded = decode_request(&followed, &raw).map_err(|error| ContractsError::Answer(error.to_string()))?;
            if let Some(decoded) = decoded {
                return Ok(Made {
                    transaction,
                    chain,
                    block: receipt.block_number.unwrap_or_default(),
                    kind: decoded.kind,
                    id: decoded.id,
                    gas_used: receipt.gas_used,
                });
            }
        }
        Err(ContractsError::Answer(format!("transaction {transaction} made no request")))
    }

    async fn send_now(&self, calls: &[RequestCall]) -> Result<Vec<Sent>, ContractsError> {
        let mut sent = Vec::with_capacity(calls.len());
        for run in calls.chunk_by(|one, other| (one.chain, one.by) == (other.chain, other.by)) {
            let chain = run[0].chain;
            let account = self.account(chain, run[0].by);
            let run: Vec<Call> = run.iter().map(|prepared| prepared.call.clone()).collect();
            let transactions = account.send(&run).await?;
            let at = Instant::now();
            sent.extend(transactions.into_iter().map(|transaction| Sent { transaction, chain, at }));
        }
        Ok(sent)
    }

    async fn as_every_coprocessor(&self, calls: &[Call]) -> Result<(), ContractsError> {
        try_join_all(self.coprocessors.iter().map(async |coprocessor| {
            let left = if self.leaves_out { undone(coprocessor, calls).await? } else { calls.to_vec() };
            all_done(coprocessor, &left).await
        }))
        .await?;
        Ok(())
    }

    /// In every coprocessor's name; from (b) on the Gateway knows no rights.
    async fn on_gateway(&self, rights: Vec<Bytes>) -> Result<(), ContractsError> {
        match self.contracts.multichain_acl {
            Some(acl) => self.as_every_coprocessor(&self.multicalls(acl, rights)).await,
            None => Ok(()),
        }
    }

    async fn on_host(&self, rights: Vec<Bytes>) -> Result<(), ContractsError> {
        all_done(&self.host_owner, &self.multicalls(self.contracts.host_acl, rights)).await
    }

    /// Calls of one contract, many to a transaction.
    fn multicalls(&self, to: Address, calls: Vec<Bytes>) -> Vec<Call> {
        let multicall = |calls: &[Bytes]| {
            let data = owner::Multicall::multicallCall { data: calls.to_vec() }.abi_encode();
            // A call stores some words of its own, and up to one for each word of its arguments.
            let gas = 100_000 + 250_000 * calls.len() as u64 + 1_000 * data.len() as u64;
            Call { to: Some(to), data: data.into(), gas }
        };
        calls.chunks(RIGHTS_PER_TRANSACTION).map(multicall).collect()
    }
}

/// Those of a coprocessor's calls that the contracts do not refuse as repeated.
async fn undone(account: &Account, calls: &[Call]) -> Result<Vec<Call>, ContractsError> {
    const REPEATED: [[u8; 4]; 3] = [
        owner::CoprocessorAlreadyAdded::SELECTOR,
        owner::CoprocessorAlreadyAllowedAccount::SELECTOR,
        owner::CoprocessorAlreadyAllowedPublicDecrypt::SELECTOR,
    ];
    let mut left = Vec::new();
    for call in calls {
        match account.node().simulate(account.address(), call).await {
            Ok(_) => left.push(call.clone()),
            Err(error) => match error.revert_data().and_then(|data| data.first_chunk::<4>()) {
                Some(selector) if REPEATED.contains(selector) => {}
                _ => return Err(error),
            },
        }
    }
    Ok(left)
}

/// Sends all calls and waits until each is done.
async fn all_done(account: &Account, calls: &[Call]) -> Result<(), ContractsError> {
    let transactions = account.send(calls).await?;
    let receipts = account.node().receipts(&transactions, MINED_WITHIN).await?;
    for (receipt, call) in receipts.iter().zip(calls) {
        if !receipt.status() {
            let data = account.why_reverted(call).await;
            return Err(ContractsError::Reverted { transaction: Some(receipt.transaction_hash), data });
        }
    }
    Ok(())
}

/// How many requests are due that long after the start: the first at once, then one every `1 / rate` seconds.
fn due(elapsed: Duration, rate: f64) -> usize {
    (elapsed.as_secs_f64() * rate) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_is_due_before_its_turn() {
        let at = |millis| due(Duration::from_millis(millis), 40.0);
        assert_eq!([at(0), at(24), at(25), at(49), at(1_000)], [1, 1, 2, 2, 41]);
    }
}
