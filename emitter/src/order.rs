//! Which node answered first: the place of our answer among the nodes' answers to its request, as the chain recorded them.
//!
//! It moves the gas of an answer by 30 % (`docs/protocol.md`, "Gas of an answer"), so that costs mean nothing without it. The
//! chain tells by its response events, which are asked for when an answer is over: one `eth_getLogs` for all that ended since
//! the last one. Nothing is sent later for it, and a record waits for it only shortly: where no node tells in time, the order is
//! unknown.

use std::collections::HashMap;
use std::time::Duration;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;
use alloy::sol_types::SolEvent as _;
use kms_chain::contracts::{Decryption, KMSGeneration, b};
use kms_chain::event::{ContractSet, decode_response};
use kms_chain::rpc::{Rpc, RpcError};
use kms_schemas::identity::{Identity, Kind, RequestId};
use kms_schemas::record::{Inclusion, RawLog};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Answers that wait to be looked up; those beyond are of unknown order.
const WAITING: usize = 8_192;
/// Answers looked up by one call.
const TOGETHER: usize = 200;
/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// After one that failed, nothing is looked up for so long, so that records do not wait for a node that is away.
const PAUSE: Duration = Duration::from_secs(5);

/// One answer whose place is looked for.
#[derive(Debug)]
struct Asked {
    wanted: Wanted,
    reply: oneshot::Sender<Option<u32>>,
}

/// Where the answer is, and since when others can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    identity: Identity,
    /// Block of the request.
    from: u64,
    /// Block of our answer.
    to: u64,
    transaction_hash: B256,
}

/// Asks for the place of answers. See the [module](self).
#[derive(Clone, Debug)]
pub struct Orders {
    asked: Option<mpsc::Sender<Asked>>,
    blocks: u64,
}

impl Orders {
    /// With the task that looks them up, which searches `blocks` blocks at most; none at 0.
    #[must_use]
    pub fn new(rpc: Rpc, contracts: ContractSet, blocks: u64) -> (Self, Option<Search>) {
        if blocks == 0 {
            return (Self { asked: None, blocks }, None);
        }
        let (asked, inbox) = mpsc::channel(WAITING);
        (Self { asked: Some(asked), blocks }, Some(Search { rpc, contracts, inbox, not_before: None }))
    }

    /// 1 for the first of the nodes' answers to the request that the chain recorded, 2 for the second; none where no node tells
    /// in time, or the request is too far back.
    pub async fn of(&self, identity: Identity, request_block: u64, inclusion: &Inclusion) -> Option<u32> {
        let asked = self.asked.as_ref()?;
        let span = inclusion.block_number.checked_sub(request_block)?;
        if request_block == 0 || span >= self.blocks {
            return None;
        }
        let wanted = Wanted {
            identity,
            from: request_block,
            to: inclusion.block_number,
            transaction_hash: inclusion.transaction_hash,
        };
        let (reply, order) = oneshot::channel();
        asked.try_send(Asked { wanted, reply }).ok()?;
        order.await.ok()?
    }
}

/// The task behind [`Orders`].
#[derive(Debug)]
pub struct Search {
    rpc: Rpc,
    contracts: ContractSet,
    inbox: mpsc::Receiver<Asked>,
    not_before: Option<Instant>,
}

impl Search {
    /// Looks up until cancelled, or until nobody can ask any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut asked = Vec::with_capacity(TOGETHER);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                count = self.inbox.recv_many(&mut asked, TOGETHER) => if count == 0 { return },
            }
            let wanted: Vec<Wanted> = asked.iter().map(|asked| asked.wanted).collect();
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = self.look_up(&wanted) => found,
            };
            for (asked, order) in asked.drain(..).zip(found) {
                // Nobody waits any more after a shutdown.
                let _ = asked.reply.send(order);
            }
        }
    }

    /// The place of each.
    async fn look_up(&mut self, wanted: &[Wanted]) -> Vec<Option<u32>> {
        let nothing = vec![None; wanted.len()];
        if self.not_before.is_some_and(|until| Instant::now() < until) {
            return nothing;
        }
        match tokio::time::timeout(PATIENCE, self.find(wanted)).await {
            Ok(Ok(found)) => {
                self.not_before = None;
                found
            }
            failed => {
                let error = failed.map_or_else(|_| "no answer in time".to_owned(), |told| format!("{:?}", told.err()));
                tracing::debug!(error, "the order of answers cannot be looked up, and stays unknown for a while");
                self.not_before = Some(Instant::now() + PAUSE);
                nothing
            }
        }
    }

    async fn find(&self, wanted: &[Wanted]) -> Result<Vec<Option<u32>>, RpcError> {
        let mut groups: HashMap<(Address, Kind), Vec<usize>> = HashMap::new();
        for (index, one) in wanted.iter().enumerate() {
            groups.entry((one.identity.contract, one.identity.kind)).or_default().push(index);
        }
        let mut found = vec![None; wanted.len()];
        for ((contract, kind), members) in groups {
            let of_group: Vec<Wanted> = members.iter().map(|index| wanted[*index]).collect();
            let Some(filter) = filter(contract, kind, &of_group) else { continue };
            let last = of_group.iter().map(|one| one.to).max().unwrap_or_default();
            let logs: Vec<Log> = self.rpc.needing(last).request("eth_getLogs", filter).await?;
            let answers = self.answers(&logs);
            for (index, one) in members.into_iter().zip(&of_group) {
                found[index] = place(&answers, one);
            }
        }
        Ok(found)
    }

    /// What the logs say, in the order of the chain.
    fn answers(&self, logs: &[Log]) -> HashMap<RequestId, Vec<B256>> {
        let mut placed = Vec::with_capacity(logs.len());
        for log in logs {
            let raw = RawLog {
                address: log.inner.address,
                topics: log.inner.data.topics().to_vec(),
                data: log.inner.data.data.clone(),
            };
            let (Some(block), Some(index), Some(hash)) = (log.block_number, log.log_index, log.transaction_hash) else {
                continue;
            };
            if let Ok(Some(event)) = decode_response(&self.contracts, &raw) {
                placed.push(((block, index), event.id(), hash));
            }
        }
        placed.sort_by_key(|(place, ..)| *place);
        let mut answers: HashMap<RequestId, Vec<B256>> = HashMap::new();
        for (_, id, hash) in placed {
            answers.entry(id).or_default().push(hash);
        }
        answers
    }
}

/// The filter that finds all answers to these requests of one kind.
fn filter(contract: Address, kind: Kind, wanted: &[Wanted]) -> Option<serde_json::Value> {
    let (topic, id_is_indexed) = response_topic(kind)?;
    let mut topics = vec![serde_json::json!(topic)];
    if id_is_indexed {
        let ids: Vec<B256> = wanted.iter().map(|one| one.identity.id.0).collect();
        topics.push(serde_json::json!(ids));
    }
    let from = wanted.iter().map(|one| one.from).min()?;
    let to = wanted.iter().map(|one| one.to).max()?;
    Some(serde_json::json!([{
        "address": contract,
        "topics": topics,
        "fromBlock": format!("{from:#x}"),
        "toBlock": format!("{to:#x}"),
    }]))
}

/// The place of our answer among all answers to its request; none if the node does not show it.
fn place(answers: &HashMap<RequestId, Vec<B256>>, wanted: &Wanted) -> Option<u32> {
    let own = answers.get(&wanted.identity.id)?.iter().position(|hash| *hash == wanted.transaction_hash)?;
    u32::try_from(own + 1).ok()
}

/// First topic of the event that reports one node's answer, and whether the request's id is its second.
pub(crate) fn response_topic(kind: Kind) -> Option<(B256, bool)> {
    Some(match kind {
        Kind::PublicDecryption => (Decryption::PublicDecryptionResponseCall::SIGNATURE_HASH, true),
        Kind::UserDecryption => (Decryption::UserDecryptionResponse::SIGNATURE_HASH, true),
        Kind::PrepKeygen => (KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH, false),
        Kind::Keygen => (KMSGeneration::KeygenResponse::SIGNATURE_HASH, false),
        Kind::Crsgen => (KMSGeneration::CrsgenResponse::SIGNATURE_HASH, false),
        Kind::NewKmsContext => (b::ProtocolConfig::KmsContextCreationConfirmation::SIGNATURE_HASH, true),
        Kind::NewKmsEpoch => (b::ProtocolConfig::EpochActivationConfirmation::SIGNATURE_HASH, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const CONTRACT: Address = Address::repeat_byte(0xde);

    fn wanted(id: u8, transaction: u8) -> Wanted {
        let id = RequestId(B256::with_last_byte(id));
        let identity = Identity { chain_id: 1, contract: CONTRACT, kind: Kind::PublicDecryption, id };
        Wanted {
            identity,
            from: 100 - u64::from(transaction),
            to: 100,
            transaction_hash: B256::repeat_byte(transaction),
        }
    }

    #[test]
    fn an_answer_has_its_place_among_those_to_its_own_request() {
        let id = |id| RequestId(B256::with_last_byte(id));
        let hash = B256::repeat_byte;
        let answers = HashMap::from([(id(1), vec![hash(7), hash(8), hash(9)]), (id(2), vec![hash(9)])]);
        assert_eq!(place(&answers, &wanted(1, 9)), Some(3));
        assert_eq!(place(&answers, &wanted(2, 9)), Some(1));
        assert_eq!(place(&answers, &wanted(2, 8)), None, "not the node's view of our answer");
        assert_eq!(place(&answers, &wanted(3, 9)), None);
    }

    #[test]
    fn p6_one_filter_asks_for_all_and_for_no_more_blocks_than_they_need() {
        let filter = filter(CONTRACT, Kind::PublicDecryption, &[wanted(1, 3), wanted(2, 5)]).unwrap();
        assert_eq!((&filter[0]["fromBlock"], &filter[0]["toBlock"]), (&"0x5f".into(), &"0x64".into()));
        assert_eq!(filter[0]["topics"][1].as_array().unwrap().len(), 2);
        // Ids of key management are no topics: all of a kind, told apart by their data.
        let all = super::filter(CONTRACT, Kind::Keygen, &[wanted(1, 3)]).unwrap();
        assert_eq!(all[0]["topics"].as_array().unwrap().len(), 1);
        assert!(super::filter(CONTRACT, Kind::PrssInit, &[wanted(1, 3)]).is_none(), "nobody answers on chain");
    }

    #[tokio::test]
    async fn p6_a_node_that_does_not_tell_leaves_the_order_unknown_and_is_not_asked_again_at_once() {
        // A port that takes connections and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let url = kms_chain::rpc::EndpointUrl::parse(&url).unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        let counting = heard.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = silent.accept().await {
                counting.fetch_add(1, Ordering::Relaxed);
                open.push(stream);
            }
        });
        let rpc = Rpc::new(kms_chain::rpc::RpcConfig::new("silent", vec![url])).unwrap();
        let contracts = ContractSet::gateway_a(CONTRACT, Address::ZERO);
        let (orders, search) = Orders::new(rpc.clone(), contracts, 1_000);
        let stop = CancellationToken::new();
        let task = tokio::spawn(search.unwrap().run(stop.clone()));
        let inclusion = Inclusion {
            sender: Address::ZERO,
            nonce: 1,
            transaction_hash: B256::repeat_byte(1),
            block_number: 2_000,
            block_hash: B256::ZERO,
            gas_used: 1,
            gas_used_for_l1: 0,
            effective_gas_price: 1,
            answers: Some(1),
            order: None,
        };
        let identity = wanted(1, 1).identity;
        assert_eq!(orders.of(identity, 1_999, &inclusion).await, None);
        let asked = async {
            while heard.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it was asked");
        let once = heard.load(Ordering::Relaxed);
        assert_eq!(orders.of(identity, 1_999, &inclusion).await, None);
        assert_eq!(heard.load(Ordering::Relaxed), once, "not asked while it is away");
        // Neither what is too far back nor what no record says.
        assert_eq!(orders.of(identity, 1_000, &inclusion).await, None);
        assert_eq!(orders.of(identity, 0, &inclusion).await, None);
        assert!(Orders::new(rpc, contracts, 0).1.is_none());
        stop.cancel();
        task.await.unwrap();
    }
}
