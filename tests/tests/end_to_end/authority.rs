//! Proofs of logs on a real chain that is reorganised (P4).

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256};
use kms_chain::authority::{Authority, Occurrence, Unproven};
use kms_chain::finality::Finality;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_tests::{mined, new_workspace};
use serde_json::{Value, json};

/// Emits its calldata as a log with two topics.
const ECHO: &str = "0x600f600b5f39600f5ff30036600060003733600035366000a200";

struct World {
    anvil: Anvil,
    echo: Address,
    rpc: Rpc,
}

impl World {
    async fn start(anvil: Anvil) -> Self {
        let url = EndpointUrl::parse(&anvil.url()).unwrap();
        let rpc = Rpc::new(RpcConfig::new("gateway", vec![url])).unwrap();
        let mut world = Self { anvil, echo: Address::ZERO, rpc };
        let receipt = world.send(None, ECHO.to_owned()).await;
        world.echo = serde_json::from_value(receipt["contractAddress"].clone()).unwrap();
        world
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        self.anvil.rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The receipt of a transaction of the node's own account.
    async fn send(&self, to: Option<Address>, data: String) -> Value {
        let accounts: Vec<Address> = serde_json::from_value(self.ask("eth_accounts", json!([])).await).unwrap();
        mined(&self.anvil, json!({ "from": accounts[0], "to": to, "data": data })).await
    }

    /// A log with this byte, and where it stands.
    async fn log(&self, byte: u8) -> (Occurrence, B256) {
        let receipt = self.send(Some(self.echo), Bytes::from(vec![byte; 64]).to_string()).await;
        let log = &receipt["logs"][0];
        let at = Occurrence {
            block_number: serde_json::from_value::<U256>(log["blockNumber"].clone()).unwrap().to(),
            block_hash: serde_json::from_value(log["blockHash"].clone()).unwrap(),
            log_index: 0,
        };
        (at, serde_json::from_value(receipt["transactionHash"].clone()).unwrap())
    }

    /// An authority that looks at the head with every question.
    fn authority(&self, finality: Finality) -> Authority {
        Authority::with_limits(self.rpc.clone(), finality, 64, 1 << 20, Duration::ZERO)
    }
}

#[tokio::test]
async fn p4_logs_of_blocks_that_were_reorganised_away_are_not_proven_any_more() {
    let workspace = new_workspace();
    let world = World::start(Anvil::start(&workspace, AnvilOptions::default()).await.unwrap()).await;
    let (stays, _) = world.log(1).await;
    let (goes, transaction) = world.log(2).await;
    let (goes_too, _) = world.log(3).await;
    let authority = world.authority(Finality::Latest);
    for (at, byte) in [(stays, 1), (goes, 2), (goes_too, 3)] {
        let proven = authority.prove(at).await.unwrap();
        assert_eq!(proven.log.data, Bytes::from(vec![byte; 64]));
        assert_eq!(authority.transaction(&proven).await.unwrap().input, proven.log.data);
    }
    assert_eq!(authority.prove(goes).await.unwrap().transaction_hash, transaction);

    // The last two blocks are replaced by others without these transactions.
    world.ask("anvil_reorg", json!([2, []])).await;
    for at in [goes, goes_too] {
        let error = authority.prove(at).await.unwrap_err();
        assert!(matches!(error, Unproven::Orphaned { .. }), "{error}");
    }
    authority.prove(stays).await.unwrap();
    // And an authority that never saw them says the same.
    let fresh = world.authority(Finality::Latest);
    assert!(matches!(fresh.prove(goes).await, Err(Unproven::Orphaned { .. })));
    fresh.prove(stays).await.unwrap();
}

#[tokio::test]
async fn p4_a_chain_that_became_shorter_is_waited_for_and_then_decides() {
    let workspace = new_workspace();
    let world = World::start(Anvil::start(&workspace, AnvilOptions::default()).await.unwrap()).await;
    let (stays, _) = world.log(1).await;
    let snapshot = world.ask("evm_snapshot", json!([])).await;
    let (goes, _) = world.log(2).await;
    let authority = world.authority(Finality::Latest);
    authority.prove(goes).await.unwrap();
    world.ask("evm_revert", json!([snapshot])).await;
    let error = authority.prove(goes).await.unwrap_err();
    assert!(matches!(error, Unproven::NotYet { .. }), "{error}");
    authority.prove(stays).await.unwrap();
    world.ask("evm_increaseTime", json!([60])).await;
    let (other, _) = world.log(3).await;
    assert_eq!(other.block_number, goes.block_number);
    // Whoever asks in the same moment is told what the one before was told.
    let error = loop {
        match authority.prove(goes).await.unwrap_err() {
            Unproven::NotYet { .. } => tokio::time::sleep(Duration::from_millis(5)).await,
            error => break error,
        }
    };
    assert!(matches!(error, Unproven::Orphaned { .. }), "{error}");
    authority.prove(other).await.unwrap();
}

#[tokio::test]
async fn p4_a_fork_with_the_same_past_proves_only_to_who_follows_it() {
    let workspace = new_workspace();
    let options =
        || AnvilOptions { args: vec!["--timestamp".to_owned(), "1700000000".to_owned()], ..AnvilOptions::default() };
    let ours = World::start(Anvil::start(&workspace, options()).await.unwrap()).await;
    let forgers = World::start(Anvil::start(&workspace, options()).await.unwrap()).await;
    assert_eq!(ours.echo, forgers.echo, "the same contract at the same address");
    ours.log(1).await;
    let (invented, _) = forgers.log(9).await;
    forgers.authority(Finality::Latest).prove(invented).await.unwrap();
    let error = ours.authority(Finality::Latest).prove(invented).await.unwrap_err();
    assert!(matches!(error, Unproven::Orphaned { .. }), "{error}");
}

#[tokio::test]
async fn p4_a_log_is_proven_as_final_only_when_the_node_says_so() {
    let workspace = new_workspace();
    let world = World::start(Anvil::start(&workspace, AnvilOptions::default()).await.unwrap()).await;
    let (at, _) = world.log(1).await;
    let authority = world.authority(Finality::Finalized);
    assert!(matches!(authority.prove(at).await, Err(Unproven::NotYet { .. })));
    world.ask("anvil_mine", json!(["0x5"])).await;
    let proven = loop {
        match authority.prove(at).await {
            Ok(proven) => break proven,
            Err(Unproven::NotYet { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(proven.log.data, Bytes::from(vec![1; 64]));
}
