//! The batch executor of the emitter, on a real chain and against the development contracts.

use std::time::Duration;

use alloy::network::ReceiptResponse as _;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::rpc::types::TransactionReceipt;
use alloy::sol_types::{SolCall, SolError, SolEvent, SolValue};
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_emitter::cost::Weight;
use kms_emitter::delegation::{Barred, Standing};
use kms_emitter::executor::{self, MODE, OnlyTheAccount, Outcome, executeCall, supportsExecutionModeCall};
use kms_emitter::fees::FeePolicy;
use kms_emitter::provision::{self, Payer, ProvisionError};
use kms_emitter::wallet::{Payload, Wallet};
use kms_runtime::config::Secret;
use kms_schemas::identity::{Identity, Kind, RequestId};
use kms_schemas::record::RawLog;
use kms_stack::contracts::{Account, Call, fund};

use super::world::{GATEWAY_CHAIN, MINED, UINT64, World, key, send, word};

mod abi {
    alloy::sol! {
        #![sol(all_derives)]
        event Called(address sender, uint256 gasLeft);
        event CalledBack(bool succeeded, bytes returned);
        error Refused(uint256 id, address sender);
        #[allow(clippy::module_name_repetitions)]
        interface Callee {
            function call() external;
            function refuse(uint256 id) external view;
            function callBack(bytes data) external;
            function burn() external pure;
            function bomb(uint256 size, bool fails) external pure;
        }
    }
}
use abi::{Called, CalledBack, Callee, Refused};

/// What a first responder pays in a transaction of its own is the measure: `docs/protocol.md`, "Gas of an answer".
const TARGET_PERCENT: u64 = 83;

struct Bench {
    world: World,
    callee: Address,
    executor: Address,
}

impl Bench {
    /// Node 0's sender delegates to an executor.
    async fn new() -> Self {
        let world = World::of(4).await;
        let deployer = world.stranger("deployer").await;
        let artifact = include_str!("../../../emitter/contracts/artifacts/Callee.json");
        let artifact: serde_json::Value = serde_json::from_str(artifact).unwrap();
        let code: Bytes = artifact["creation"].as_str().unwrap().parse().unwrap();
        let create = Call { to: None, data: code, gas: 3_000_000 };
        let callee = send(&deployer, create).await.contract_address.unwrap();
        let executor = payer(&world, "deployer").deploy().await.unwrap().executor;
        payer(&world, "kms sender 0").delegate(executor).await.unwrap();
        Self { world, callee, executor }
    }

    fn account(&self) -> Address {
        self.world.kms[0].sender.address()
    }

    /// The chain moved the account's nonce, so it is opened anew.
    async fn sender(&self) -> Account {
        Account::open(&self.world.node, key("kms sender 0")).await.unwrap()
    }

    fn call<C: SolCall>(&self, function: &C, gas_limit: u64) -> Payload {
        Payload { to: self.callee, data: function.abi_encode().into(), gas_limit }
    }

    fn good(&self) -> Payload {
        self.call(&Callee::callCall {}, 60_000)
    }

    async fn run(&self, calls: &[Payload]) -> TransactionReceipt {
        send(&self.sender().await, as_call(&executor::batch(self.account(), calls))).await
    }

    /// What the executor reported of each call; `Silent` is a call that did not fail.
    fn failures(&self, receipt: &TransactionReceipt, calls: usize) -> Vec<Outcome> {
        let nobody = Identity {
            chain_id: GATEWAY_CHAIN,
            contract: Address::ZERO,
            kind: Kind::PublicDecryption,
            id: RequestId(B256::ZERO),
        };
        executor::outcomes(self.account(), &self.world.contracts.followed(), &logs(receipt), &vec![nobody; calls])
    }

    fn callers(&self, receipt: &TransactionReceipt) -> Vec<Address> {
        let called = receipt.inner.logs().iter().filter_map(|log| Called::decode_log(&log.inner).ok());
        called.map(|log| log.sender).collect()
    }
}

fn logs(receipt: &TransactionReceipt) -> Vec<RawLog> {
    let raw = |log: &alloy::rpc::types::Log| RawLog {
        address: log.address(),
        topics: log.topics().to_vec(),
        data: log.data().data.clone(),
    };
    receipt.inner.logs().iter().map(raw).collect()
}

fn as_call(payload: &Payload) -> Call {
    Call { to: Some(payload.to), data: payload.data.clone(), gas: payload.gas_limit }
}

fn rpc(world: &World) -> Rpc {
    let mut config = RpcConfig::new("gateway", vec![EndpointUrl::parse(world.node.url()).unwrap()]);
    config.chain_id = Some(GATEWAY_CHAIN);
    Rpc::new(config).unwrap()
}

fn payer(world: &World, name: &str) -> Payer {
    Payer {
        rpc: rpc(world),
        chain_id: GATEWAY_CHAIN,
        wallet: Wallet::new(&Secret::new(key(name).to_bytes().to_string())).unwrap(),
        fees: FeePolicy { base_fee_percent: 200, priority: 1, cap: u128::MAX, bump_percent: 25 },
        gas_limit: 1_000_000,
        patience: Duration::from_secs(120),
    }
}

fn reverted(error: &impl SolError) -> Outcome {
    Outcome::Reverted(error.abi_encode().into())
}

#[tokio::test]
async fn calls_come_from_the_account_and_a_failure_stops_none_of_those_behind_it() {
    let bench = Bench::new().await;
    let refuse = bench.call(&Callee::refuseCall { id: U256::from(7) }, 60_000);
    let receipt = bench.run(&[bench.good(), refuse, bench.good()]).await;

    assert_eq!(bench.callers(&receipt), [bench.account(); 2]);
    let refused = reverted(&Refused { id: U256::from(7), sender: bench.account() });
    assert_eq!(bench.failures(&receipt, 3), [Outcome::Silent, refused, Outcome::Silent]);
}

#[tokio::test]
async fn p4_nobody_but_the_account_itself_gets_anything_done() {
    let bench = Bench::new().await;
    let batch = executor::batch(bench.account(), &[bench.good()]);
    let stranger = bench.world.stranger("stranger").await;
    for to in [bench.account(), bench.executor] {
        let call = Call { to: Some(to), ..as_call(&batch) };
        let data = super::world::revert(&stranger, &call).await;
        assert_eq!(data, OnlyTheAccount {}.abi_encode(), "{to}");
    }
}

#[tokio::test]
async fn p4_a_callee_that_calls_back_is_refused_and_so_is_a_call_to_the_account_itself() {
    let bench = Bench::new().await;
    let inner = executor::batch(bench.account(), &[bench.good()]);
    let back = bench.call(&Callee::callBackCall { data: inner.data.clone() }, 500_000);
    let itself = Payload { gas_limit: 500_000, ..inner };
    let plain = Payload { to: bench.account(), data: Bytes::new(), gas_limit: 50_000 };
    let receipt = bench.run(&[back, itself, plain, bench.good()]).await;

    let answers = receipt.inner.logs().iter().filter_map(|log| CalledBack::decode_log(&log.inner).ok());
    let answers: Vec<_> = answers.map(|log| (log.succeeded, log.returned.clone())).collect();
    assert_eq!(answers, [(false, OnlyTheAccount {}.abi_encode().into())]);
    assert_eq!(bench.callers(&receipt), [bench.account()], "only the last call is made");
    let failures = bench.failures(&receipt, 4);
    assert_eq!(failures, [Outcome::Silent, Outcome::OwnAccount, Outcome::OwnAccount, Outcome::Silent]);
}

#[tokio::test]
async fn p5_a_call_that_burns_its_gas_takes_nothing_from_the_others() {
    let bench = Bench::new().await;
    let burn = bench.call(&Callee::burnCall {}, 400_000);
    let calls = [burn.clone(), bench.good(), burn, bench.good()];
    let receipt = bench.run(&calls).await;

    let out_of_gas = Outcome::Reverted(Bytes::new());
    let expected = [out_of_gas.clone(), Outcome::Silent, out_of_gas, Outcome::Silent];
    assert_eq!(bench.failures(&receipt, 4), expected);
    assert_eq!(bench.callers(&receipt).len(), 2);
    assert!(receipt.gas_used() > 800_000);
}

#[tokio::test]
async fn a_call_that_cannot_have_its_gas_is_not_started_and_is_reported() {
    let bench = Bench::new().await;
    let greedy = Payload { gas_limit: 400_000, ..bench.good() };
    let mut batch = as_call(&executor::batch(bench.account(), &[bench.good(), greedy.clone(), bench.good()]));
    batch.gas -= 300_000;
    let receipt = send(&bench.sender().await, batch).await;

    assert_eq!(bench.failures(&receipt, 3), [Outcome::Silent, Outcome::NoGas, Outcome::Silent]);
    // With the gas that `batch` asks for, everything is started, whatever those before it use.
    let burn = bench.call(&Callee::burnCall {}, 300_000);
    let receipt = bench.run(&[burn.clone(), burn.clone(), burn.clone(), burn, greedy]).await;
    assert_eq!(bench.failures(&receipt, 5)[4], Outcome::Silent);
    assert_eq!(bench.callers(&receipt).len(), 1);
}

#[tokio::test]
async fn p6_what_is_returned_is_not_copied_beyond_a_bound() {
    let bench = Bench::new().await;
    let bomb = |size: u64, fails| bench.call(&Callee::bombCall { size: U256::from(size), fails }, 3_000_000);
    let calls = [bomb(500_000, false), bomb(500_000, true), bomb(100, true), bench.good()];
    let receipt = bench.run(&calls).await;

    let failures = bench.failures(&receipt, 4);
    let [Outcome::Silent, Outcome::Reverted(large), Outcome::Reverted(small), Outcome::Silent] = &failures[..] else {
        panic!("{failures:?}")
    };
    assert_eq!((large.len(), small.len()), (256, 100));
    // Each bomb pays for its own memory out of its own cap; a copy would cost as much again.
    assert!(receipt.gas_used() < 2 * 600_000 + 200_000, "{}", receipt.gas_used());
}

#[tokio::test]
async fn an_empty_batch_does_nothing_and_plain_transfers_arrive() {
    let bench = Bench::new().await;
    let receipt = bench.run(&[]).await;
    assert!(receipt.inner.logs().is_empty());
    println!("an empty batch: {} gas", receipt.gas_used());

    // Without value, as a gap in the nonces is filled.
    let filler = Call { to: Some(bench.account()), data: Bytes::new(), gas: 100_000 };
    send(&bench.sender().await, filler).await;
    // With value, from somebody else, by the gas that a transfer has.
    let before: U256 = bench.world.node.request("eth_getBalance", (bench.account(), "latest")).await.unwrap();
    let stranger = key("stranger").address();
    fund(bench.world.node.url(), &[stranger]).await.unwrap();
    let _: bool = bench.world.node.request("anvil_impersonateAccount", (stranger,)).await.unwrap_or(true);
    let transfer = serde_json::json!({"from": stranger, "to": bench.account(), "value": "0x3e8", "gas": "0x7530"});
    let hash: B256 = bench.world.node.request("eth_sendTransaction", (transfer,)).await.unwrap();
    assert!(bench.world.node.receipts(&[hash], MINED).await.unwrap()[0].status());
    let after: U256 = bench.world.node.request("eth_getBalance", (bench.account(), "latest")).await.unwrap();
    assert_eq!(after - before, U256::from(1_000));
}

#[tokio::test]
async fn the_mode_is_discovered_as_erc_7821_says() {
    let bench = Bench::new().await;
    let mut ours = MODE.0;
    ours[31] = 9; // the payload does not matter
    let mut atomic = MODE.0;
    atomic[1] = 0;
    for (mode, known) in [(MODE.0, true), (ours, true), (atomic, false), ([0; 32], false)] {
        let question = supportsExecutionModeCall { mode: mode.into() };
        assert_eq!(bench.world.node.view(bench.account(), &question).await.unwrap(), known);
    }
    let call = executeCall { mode: atomic.into(), executionData: Vec::<executor::Call>::new().abi_encode().into() };
    let call = Call { to: Some(bench.account()), data: call.abi_encode().into(), gas: 100_000 };
    let data = super::world::revert(&bench.sender().await, &call).await;
    assert_eq!(data, executor::UnknownMode { mode: atomic.into() }.abi_encode());
}

#[tokio::test]
async fn a_delegation_is_seen_changed_to_a_newer_executor_and_revoked() {
    let bench = Bench::new().await;
    let chain = rpc(&bench.world);
    let status = provision::status(&chain, bench.account()).await.unwrap();
    assert!(status.batches && status.account.standing() == Standing::Delegated(bench.executor));

    let newer = payer(&bench.world, "deployer").deploy().await.unwrap().executor;
    let done = payer(&bench.world, "kms sender 0").delegate(newer).await.unwrap();
    println!("a delegation costs {} gas", done.gas_used);
    assert_eq!(bench.callers(&bench.run(&[bench.good()]).await), [bench.account()]);

    let nothing = payer(&bench.world, "kms sender 0").delegate(bench.callee).await;
    assert!(matches!(nothing, Err(ProvisionError::NoExecutor(at)) if at == bench.callee));

    payer(&bench.world, "kms sender 0").delegate(Address::ZERO).await.unwrap();
    let status = provision::status(&chain, bench.account()).await.unwrap();
    assert!(!status.batches && status.account.standing() == Standing::Plain);
    // A batch of a plain account succeeds and does nothing: why an item's own event is asked for.
    let receipt = bench.run(&[bench.good()]).await;
    assert!(receipt.inner.logs().is_empty());
    let again = payer(&bench.world, "kms sender 0").delegate(Address::ZERO).await;
    assert!(matches!(again, Err(ProvisionError::Barred(Barred::Already))));
}

#[tokio::test]
async fn nothing_is_delegated_while_a_transaction_is_in_flight() {
    let bench = Bench::new().await;
    let _: serde_json::Value = bench.world.node.request("evm_setAutomine", (false,)).await.unwrap();
    let filler = Call { to: Some(bench.account()), data: Bytes::new(), gas: 100_000 };
    bench.sender().await.send(&[filler]).await.unwrap();
    let barred = payer(&bench.world, "kms sender 0").delegate(Address::ZERO).await;
    assert!(matches!(barred, Err(ProvisionError::Barred(Barred::InFlight { .. }))), "{barred:?}");
}

#[tokio::test]
async fn p4_two_accounts_with_the_same_executor_do_nothing_for_each_other() {
    let bench = Bench::new().await;
    payer(&bench.world, "kms sender 1").delegate(bench.executor).await.unwrap();
    let other = bench.world.kms[1].sender.address();
    let inner = executor::batch(other, &[bench.good()]);
    // The other's code is the same, and the caller an account that has it too.
    let receipt = bench.run(&[Payload { to: other, gas_limit: 500_000, ..inner }, bench.good()]).await;
    assert_eq!(bench.failures(&receipt, 2), [reverted(&OnlyTheAccount {}), Outcome::Silent]);
    assert_eq!(bench.callers(&receipt), [bench.account()]);
}

#[tokio::test]
async fn a_callee_may_come_back_with_a_plain_transfer_and_changes_nothing_by_it() {
    let bench = Bench::new().await;
    let back = bench.call(&Callee::callBackCall { data: Bytes::new() }, 100_000);
    let receipt = bench.run(&[back, bench.good()]).await;
    let answers = receipt.inner.logs().iter().filter_map(|log| CalledBack::decode_log(&log.inner).ok());
    assert_eq!(answers.map(|log| log.succeeded).collect::<Vec<_>>(), [true]);
    assert_eq!(bench.failures(&receipt, 2), [Outcome::Silent, Outcome::Silent]);
    assert_eq!(bench.callers(&receipt), [bench.account()]);
}

#[tokio::test]
async fn p4_a_batch_moves_no_ether() {
    let bench = Bench::new().await;
    let node = &bench.world.node;
    let _: serde_json::Value = node.request("anvil_impersonateAccount", (bench.account(),)).await.unwrap();
    let batch = executor::batch(bench.account(), &[bench.good()]);
    let data = batch.data.clone();
    let with_value = serde_json::json!({
        "from": bench.account(), "to": bench.account(), "data": data, "value": "0x1", "gas": "0x100000",
    });
    let hash: B256 = node.request("eth_sendTransaction", (with_value,)).await.unwrap();
    let receipt = node.receipts(&[hash], MINED).await.unwrap().remove(0);
    assert!(!receipt.status() && receipt.inner.logs().is_empty(), "refused as a whole");
    // A call of a batch has no value, so nothing arrives where it goes.
    bench.run(&[bench.good()]).await;
    let held: U256 = node.request("eth_getBalance", (bench.callee, "latest")).await.unwrap();
    assert_eq!(held, U256::ZERO);
}

#[tokio::test]
async fn p5_a_cap_that_no_call_can_have_is_reported_and_stops_nothing() {
    let bench = Bench::new().await;
    let good = |cap: U256| executor::Call { to: bench.callee, gasCap: cap, data: bench.good().data };
    let caps = [U256::from(60_000), U256::MAX, U256::from(1) << 64, U256::from(u64::MAX), U256::from(60_000)];
    let calls: Vec<executor::Call> = caps.into_iter().map(good).collect();
    let data = executeCall { mode: MODE, executionData: calls.abi_encode().into() }.abi_encode();
    let call = Call { to: Some(bench.account()), data: data.into(), gas: 1_000_000 };
    let receipt = send(&bench.sender().await, call).await;
    let (done, not) = (Outcome::Silent, Outcome::NoGas);
    assert_eq!(bench.failures(&receipt, 5), [done.clone(), not.clone(), not.clone(), not, done]);
    assert_eq!(bench.callers(&receipt).len(), 2);
}

#[tokio::test]
async fn p5_a_full_batch_of_failures_is_reported_to_the_last_and_what_is_good_is_done() {
    let bench = Bench::new().await;
    let bomb = bench.call(&Callee::bombCall { size: U256::from(5_000), fails: true }, 50_000);
    let burn = bench.call(&Callee::burnCall {}, 50_000);
    let mut calls = vec![bomb; 20];
    calls.extend(vec![burn; 20]);
    calls.push(bench.good());
    let receipt = bench.run(&calls).await;
    let failures = bench.failures(&receipt, 41);
    let kept = |outcome: &Outcome| matches!(outcome, Outcome::Reverted(data) if data.len() == 256);
    let burnt = |outcome: &Outcome| matches!(outcome, Outcome::Reverted(data) if data.is_empty());
    assert!(failures[..20].iter().all(kept) && failures[20..40].iter().all(burnt), "{failures:?}");
    assert_eq!(bench.callers(&receipt), [bench.account()]);
}

#[tokio::test]
async fn a_repeated_answer_in_a_batch_costs_what_shares_take_it_to_cost() {
    let bench = Bench::new().await;
    let handles = bench.world.public_handles(1, UINT64).await;
    let mut calls = Vec::new();
    for _ in 0..9 {
        let id = bench.world.public_request(&handles).await.id;
        let call = bench.world.public_answer(0, id, &handles, &word(7));
        calls.push(Payload { to: bench.world.contracts.decryption, data: call.data, gas_limit: 380_000 });
    }
    bench.run(&calls[..1]).await;
    let repeated = calls.remove(0);
    let with_repeated: Vec<Payload> = [&calls[..4], &[repeated]].concat();
    let (with, without) = (bench.run(&with_repeated).await.gas_used(), bench.run(&calls[4..]).await.gas_used());
    let of_one = with - without;
    let refused = Outcome::Reverted(Bytes::from_static(b"KmsNodeAlreadySigned"));
    let taken = Weight::of(&refused, &with_repeated[4].data, 240_000, 380_000).execution;
    println!("a repeated answer in a batch: {of_one} gas, {taken} taken for it");
    assert!(of_one.abs_diff(taken) * 5 < of_one, "{of_one}, {taken}");
}

#[tokio::test]
async fn a_batch_costs_at_most_eighty_three_per_cent_of_single_answers() {
    let bench = Bench::new().await;
    let handles = bench.world.public_handles(1, UINT64).await;
    let result = word(0x1122_3344_5566_7788);
    let answer = async || {
        let id = bench.world.public_request(&handles).await.id;
        (id, bench.world.public_answer(0, id, &handles, &result))
    };
    let (_, call) = answer().await;
    let single = send(&bench.sender().await, call).await.gas_used();
    println!("single: {single} gas per answer");

    for size in [1, 32, 64] {
        let (mut calls, mut items) = (Vec::new(), Vec::new());
        for _ in 0..size {
            let (id, call) = answer().await;
            calls.push(Payload { to: bench.world.contracts.decryption, data: call.data, gas_limit: 380_000 });
            items.push(Identity {
                chain_id: GATEWAY_CHAIN,
                contract: bench.world.contracts.decryption,
                kind: Kind::PublicDecryption,
                id,
            });
        }
        let receipt = bench.run(&calls).await;
        let found = executor::outcomes(bench.account(), &bench.world.contracts.followed(), &logs(&receipt), &items);
        assert!(found.iter().all(|outcome| *outcome == Outcome::Recorded), "{found:?}");
        let each = receipt.gas_used() / size;
        println!("batch of {size}: {each} gas per answer, {:.3} of single", each as f64 / single as f64);
        if size >= 32 {
            assert!(each * 100 <= single * TARGET_PERCENT, "{each} of {single}");
        }
    }
}
