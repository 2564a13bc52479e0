//! Batches on the local Gateway: an executor, and the nodes' transaction senders that delegate to it (EIP-7702).

use std::time::Duration;

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;
use futures::future::try_join_all;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_emitter::delegation::Standing;
use kms_emitter::fees::FeePolicy;
use kms_emitter::provision::{Payer, status};
use kms_emitter::wallet::Wallet;
use kms_runtime::config::Secret;

use crate::contracts::Node;
use crate::description::ChainPlace;
use crate::error::{StackError, chain_of};
use crate::keys::{development_key, key_file_text};
use crate::progress::Progress;

const MINED_WITHIN: Duration = Duration::from_secs(60);

/// Has the nodes' senders delegate to an executor; its address. A sender that delegates to one of this release already is left so, since an
/// emitter may be at work with it; an executor is put on the chain only if none of the senders has one.
pub(crate) async fn delegate(
    progress: &Progress,
    chain: &ChainPlace,
    senders: &[PrivateKeySigner],
) -> Result<Address, StackError> {
    let task = progress.begin("batches", "delegating");
    let failed = |error: String| StackError::Contracts(format!("the batch executor: {error}"));
    let rpc = rpc(chain).map_err(failed)?;
    let looks = senders.iter().map(|sender| status(&rpc, sender.address()));
    let before = try_join_all(looks).await.map_err(|error| failed(chain_of(&error)))?;
    let open: Vec<_> = senders.iter().zip(&before).filter(|(_, before)| !before.batches).map(|(one, _)| one).collect();
    let there = before.iter().filter(|before| before.batches).find_map(|before| match before.account.standing() {
        Standing::Delegated(to) => Some(to),
        Standing::Plain | Standing::Contract => None,
    });
    let executor = match there {
        Some(there) => there,
        None => deploy(chain).await.map_err(failed)?,
    };
    let delegations = open.iter().map(async |sender| {
        let done = payer(chain, sender).map_err(failed)?.delegate(executor).await;
        done.map_err(|error| failed(chain_of(&error)))
    });
    try_join_all(delegations).await?;
    let how = if open.is_empty() { "were delegated before" } else { "delegated" };
    task.done(&format!("{how} to {executor}"));
    Ok(executor)
}

/// Puts an executor on the chain.
async fn deploy(chain: &ChainPlace) -> Result<Address, String> {
    let deployer = development_key("deployer of the executor");
    let node = Node::new(&chain.url).map_err(|error| chain_of(&error))?;
    node.fund(&[deployer.address()]).await.map_err(|error| chain_of(&error))?;
    let deployed = payer(chain, &deployer)?.deploy().await;
    Ok(deployed.map_err(|error| chain_of(&error))?.executor)
}

fn rpc(chain: &ChainPlace) -> Result<Rpc, String> {
    let url = EndpointUrl::parse(&chain.url).map_err(|error| error.to_string())?;
    let mut config = RpcConfig::new("gateway", vec![url]);
    config.chain_id = Some(chain.chain_id);
    Rpc::new(config).map_err(|error| error.to_string())
}

fn payer(chain: &ChainPlace, key: &PrivateKeySigner) -> Result<Payer, String> {
    Ok(Payer {
        rpc: rpc(chain)?,
        chain_id: chain.chain_id,
        wallet: Wallet::new(&Secret::new(key_file_text(key))).map_err(|error| error.to_string())?,
        fees: FeePolicy { base_fee_percent: 200, priority: 1, cap: u128::MAX, bump_percent: 25 },
        gas_limit: 1_000_000,
        patience: MINED_WITHIN,
    })
}
