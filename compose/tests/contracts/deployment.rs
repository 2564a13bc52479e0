//! Where the contracts go, and what they refuse to begin with.

use alloy::primitives::U256;
use alloy::sol_types::SolError;
use kms_chain::contracts::{GatewayConfig, HostAcl};
use kms_chain::release::Release;
use kms_stack::contracts::{
    Contracts, ContractsError, DeploymentConfig, HostChain, Node, Requester, RequesterKeys, Thresholds, handle,
};
use kms_stack::parts::{Anvil, AnvilOptions};
use kms_stack::{Workspace, WorkspaceOptions};

use super::world::{GATEWAY_CHAIN, HOST_CHAIN, UINT64, coprocessor, key, register_entry};

fn workspace() -> Workspace {
    Workspace::create(WorkspaceOptions::new(env!("CARGO_BIN_EXE_kms-stack"))).unwrap()
}

async fn chain(workspace: &Workspace, chain_id: u64) -> Anvil {
    Anvil::start(workspace, AnvilOptions { chain_id, ..AnvilOptions::default() }).await.unwrap()
}

fn config(host: HostChain) -> DeploymentConfig {
    DeploymentConfig {
        release: Release::V0_11,
        nodes: vec![register_entry(0)],
        coprocessors: vec![coprocessor(0)],
        thresholds: Thresholds::of(1, 1),
        host,
    }
}

#[tokio::test]
async fn a_host_chain_of_its_own_gets_the_acl() {
    let workspace = workspace();
    let (gateway, host) = (chain(&workspace, GATEWAY_CHAIN).await, chain(&workspace, HOST_CHAIN).await);
    let config = config(HostChain { chain_id: HOST_CHAIN, rpc_url: Some(host.url()) });
    let contracts = Contracts::deploy(&gateway.url(), &key("owner"), &config).await.unwrap();
    let keys = RequesterKeys {
        owner: key("owner"),
        coprocessors: vec![config.coprocessors[0].tx_sender.clone()],
        sender: key("application"),
    };
    let requester = Requester::connect(&gateway.url(), Some(&host.url()), contracts, keys).await.unwrap();

    let one = handle(alloy::primitives::keccak256("one"), HOST_CHAIN, UINT64);
    requester.allow_public(&[one]).await.unwrap();

    let on_host = Node::new(&host.url()).unwrap();
    let allowed = HostAcl::isAllowedForDecryptionCall { handle: one };
    assert!(on_host.view(contracts.host_acl, &allowed).await.unwrap());
    let hosts = requester.gateway().view(contracts.gateway_config, &GatewayConfig::getHostChainsCall {}).await.unwrap();
    assert_eq!((hosts[0].chainId, hosts[0].aclAddress), (U256::from(HOST_CHAIN), contracts.host_acl));
}

#[tokio::test]
async fn a_second_deployment_on_the_same_chain_has_addresses_of_its_own() {
    let workspace = workspace();
    let gateway = chain(&workspace, GATEWAY_CHAIN).await;
    let config = config(HostChain { chain_id: HOST_CHAIN, rpc_url: None });

    let first = Contracts::deploy(&gateway.url(), &key("owner"), &config).await.unwrap();
    let second = Contracts::deploy(&gateway.url(), &key("owner"), &config).await.unwrap();

    assert_ne!(first.decryption, second.decryption);
    assert!(first.first_block < second.first_block);
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused_with_the_contracts_error() {
    alloy::sol! {
        error InvalidHighPublicDecryptionThreshold(uint256 publicDecryptionThreshold, uint256 nKmsNodes);
        error KmsTxSenderAlreadyRegistered(address kmsTxSenderAddress);
    }
    let workspace = workspace();
    let gateway = chain(&workspace, GATEWAY_CHAIN).await;
    let good = config(HostChain { chain_id: HOST_CHAIN, rpc_url: None });

    let mut too_high = good.clone();
    too_high.thresholds.public_decryption = 2;
    let mut twice = good.clone();
    twice.nodes.push(register_entry(0));

    for (config, expected) in [
        (
            too_high,
            InvalidHighPublicDecryptionThreshold { publicDecryptionThreshold: U256::from(2), nKmsNodes: U256::from(1) }
                .abi_encode(),
        ),
        (twice, KmsTxSenderAlreadyRegistered { kmsTxSenderAddress: register_entry(0).tx_sender }.abi_encode()),
    ] {
        let error = Contracts::deploy(&gateway.url(), &key("owner"), &config).await.unwrap_err();
        assert_eq!(error.revert_data().unwrap(), &expected);
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_told_apart_from_a_refusal() {
    let port = kms_stack::ports::free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let config = config(HostChain { chain_id: HOST_CHAIN, rpc_url: None });

    let error = Contracts::deploy(&url, &key("owner"), &config).await.unwrap_err();

    assert!(matches!(error, ContractsError::Unreachable { .. }), "{error}");
}
