//! Batches on the local Gateway: an executor, and the nodes' transaction senders that delegate to it (EIP-7702).

use std::time::Duration;

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;
use futures::future::try_join_all;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_emitter::delegation::Barred;
use kms_emitter::fees::FeePolicy;
use kms_emitter::provision::{Payer, ProvisionError};
use kms_emitter::wallet::Wallet;
use kms_runtime::config::Secret;

use crate::contracts::Node;
use crate::description::ChainPlace;
use crate::error::{StackError, chain_of};
use crate::keys::{development_key, key_file_text};
use crate::progress::Progress;

const MINED_WITHIN: Duration = Duration::from_secs(60);

/// Puts an executor on the chain and has the nodes' senders delegate to it; its address.
pub(crate) async fn delegate(
    progress: &Progress,
    chain: &ChainPlace,
    senders: &[PrivateKeySigner],
) -> Result<Address, StackError> {
    let task = progress.begin("batches", "delegating");
    let failed = |error: String| StackError::Contracts(format!("the batch executor: {error}"));
    let deployer = development_key("deployer of the executor");
    let node = Node::new(&chain.url).map_err(|error| failed(chain_of(&error)))?;
    node.fund(&[deployer.address()]).await.map_err(|error| failed(chain_of(&error)))?;
    let deployed = payer(chain, &deployer).map_err(failed)?.deploy().await;
    let executor = deployed.map_err(|error| failed(chain_of(&error)))?.executor;
    let delegations =
        senders.iter().map(async |sender| match payer(chain, sender).map_err(failed)?.delegate(executor).await {
            Ok(_) | Err(ProvisionError::Barred(Barred::Already)) => Ok(()),
            Err(error) => Err(failed(chain_of(&error))),
        });
    try_join_all(delegations).await?;
    task.done(&format!("delegated to {executor}"));
    Ok(executor)
}

fn payer(chain: &ChainPlace, key: &PrivateKeySigner) -> Result<Payer, String> {
    let url = EndpointUrl::parse(&chain.url).map_err(|error| error.to_string())?;
    let mut config = RpcConfig::new("gateway", vec![url]);
    config.chain_id = Some(chain.chain_id);
    Ok(Payer {
        rpc: Rpc::new(config).map_err(|error| error.to_string())?,
        chain_id: chain.chain_id,
        wallet: Wallet::new(&Secret::new(key_file_text(key))).map_err(|error| error.to_string())?,
        fees: FeePolicy { base_fee_percent: 200, priority: 1, cap: u128::MAX, bump_percent: 25 },
        gas_limit: 1_000_000,
        patience: MINED_WITHIN,
    })
}
