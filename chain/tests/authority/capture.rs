//! Where `blocks.json` comes from: a real anvil, with transactions of every type that it takes.
//!
//! `ANVIL_URL=http://127.0.0.1:8545 cargo test -p kms-chain --test authority capture -- --ignored`, against a fresh
//! `anvil --no-mining --order fifo`.

use alloy::consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::Encodable2718;
use alloy::eips::eip2930::{AccessList, AccessListItem};
use alloy::eips::eip7702::Authorization;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, bytes};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use kms_chain::rpc::Rpc;
use serde_json::{Value, json};

use crate::node::client_of;

/// Emits its calldata twice, once with two topics and once with none; reverts without calldata.
const ECHO: Bytes = bytes!("36600757 5f5ffd 5b 3660006000 37 33600035366000a2 366000a0 00");
const GWEI: u128 = 1_000_000_000;
const CHAIN: u64 = 31_337;

/// The first development account of anvil.
pub(crate) fn account(index: u8) -> PrivateKeySigner {
    let keys = [
        "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
        "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    ];
    keys[usize::from(index)].parse().expect("a key")
}

pub(crate) fn signed<T: SignableTransaction<alloy::primitives::Signature>>(tx: T, key: &PrivateKeySigner) -> Bytes
where
    TxEnvelope: From<alloy::consensus::Signed<T>>,
{
    let signature = key.sign_hash_sync(&tx.signature_hash()).expect("a signature");
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
}

fn init_code() -> Bytes {
    // Copies what follows these eleven bytes, and returns it.
    let size = u8::try_from(ECHO.len()).expect("short code");
    let mut code = vec![0x60, size, 0x60, 0x0b, 0x5f, 0x39, 0x60, size, 0x5f, 0xf3, 0x00];
    code.extend_from_slice(&ECHO);
    code.into()
}

pub(crate) async fn send(rpc: &Rpc, raw: &Bytes) {
    let sent: B256 = rpc.request("eth_sendRawTransaction", json!([raw])).await.expect("a node that takes it");
    assert_ne!(sent, B256::ZERO);
}

pub(crate) async fn mine(rpc: &Rpc) {
    let _: Value = rpc.request("evm_mine", json!([])).await.expect("a block");
}

/// Deploys the echo with the first account's first transaction.
pub(crate) async fn deploy(rpc: &Rpc) -> Address {
    let key = account(0);
    let tx = TxLegacy {
        chain_id: Some(CHAIN),
        nonce: 0,
        gas_price: 3 * GWEI,
        gas_limit: 500_000,
        to: TxKind::Create,
        value: U256::ZERO,
        input: init_code(),
    };
    send(rpc, &signed(tx, &key)).await;
    mine(rpc).await;
    key.address().create(0)
}

/// A call of the echo, as the cheapest type to write.
pub(crate) fn call(echo: Address, nonce: u64, input: impl Into<Bytes>) -> Bytes {
    let tx = TxEip1559 {
        chain_id: CHAIN,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: 5 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: echo.into(),
        value: U256::ZERO,
        access_list: AccessList::default(),
        input: input.into(),
    };
    signed(tx, &account(0))
}

async fn mixed(rpc: &Rpc, echo: Address) {
    let key = account(0);
    let storage_keys = vec![B256::with_last_byte(1), B256::repeat_byte(0xab)];
    let access_list = AccessList(vec![AccessListItem { address: echo, storage_keys }]);
    let input = Bytes::from(vec![0x11; 32]);
    let legacy = TxLegacy {
        chain_id: Some(CHAIN),
        nonce: 1,
        gas_price: 3 * GWEI,
        gas_limit: 200_000,
        to: echo.into(),
        value: U256::ZERO,
        input,
    };
    let unprotected = TxLegacy { chain_id: None, nonce: 2, ..legacy.clone() };
    let with_list = TxEip2930 {
        chain_id: CHAIN,
        nonce: 3,
        gas_price: 3 * GWEI,
        gas_limit: 200_000,
        to: echo.into(),
        value: U256::ZERO,
        access_list,
        input: bytes!("2222"),
    };
    // A delegation of the second account, which pays nothing.
    let authorization = Authorization { chain_id: U256::from(CHAIN), address: echo, nonce: 0 };
    let signature = account(1).sign_hash_sync(&authorization.signature_hash()).expect("a signature");
    let delegating = TxEip7702 {
        chain_id: CHAIN,
        nonce: 6,
        gas_limit: 300_000,
        max_fee_per_gas: 5 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: account(1).address(),
        value: U256::ZERO,
        access_list: AccessList::default(),
        authorization_list: vec![authorization.into_signed(signature)],
        input: bytes!("4444444444"),
    };
    send(rpc, &signed(legacy, &key)).await;
    send(rpc, &signed(unprotected, &key)).await;
    send(rpc, &signed(with_list, &key)).await;
    // Without calldata it fails.
    send(rpc, &call(echo, 4, Bytes::new())).await;
    send(rpc, &call(echo, 5, vec![0x33; 100])).await;
    send(rpc, &signed(delegating, &key)).await;
    mine(rpc).await;
}

/// Blocks of the chain with their receipts, as the node states them.
pub(crate) async fn state(rpc: &Rpc, numbers: impl IntoIterator<Item = u64>) -> Vec<Value> {
    let mut blocks = Vec::new();
    for number in numbers {
        let number = format!("{number:#x}");
        let block: Value = rpc.request("eth_getBlockByNumber", json!([number, true])).await.expect("a block");
        let receipts: Value = rpc.request("eth_getBlockReceipts", json!([block["hash"]])).await.expect("receipts");
        blocks.push(json!({ "block": block, "receipts": receipts }));
    }
    blocks
}

#[tokio::test]
#[ignore = "writes the fixtures; needs a fresh anvil"]
async fn capture() {
    let url = std::env::var("ANVIL_URL").expect("ANVIL_URL");
    let rpc = client_of(&[&url], |config| config.timeout = std::time::Duration::from_secs(10));
    let echo = deploy(&rpc).await;
    mine(&rpc).await;
    mixed(&rpc, echo).await;
    send(&rpc, &call(echo, 7, vec![0x55; 32])).await;
    mine(&rpc).await;
    let blocks = state(&rpc, 0..=4).await;
    let text = serde_json::to_string_pretty(&blocks).expect("JSON");
    std::fs::write("tests/authority/blocks.json", text + "\n").expect("a file");
}
