//! What a proof costs (`docs/benchmarks.md`): `ANVIL_URL=http://127.0.0.1:8545 cargo test --release -p kms-chain --test
//! authority cost -- --ignored --nocapture`, against a fresh `anvil --no-mining --order fifo`.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use kms_chain::authority::{Authority, Occurrence};
use kms_chain::finality::Finality;
use serde_json::Value;

use crate::capture::{call, deploy, mine, send, state};
use crate::node::{Node, client, client_of, unknown_method};

/// CPU time of this process. The node in it serves prepared text, which is cheap beside what is measured.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number");
    // USER_HZ is 100 on every Linux that Rust supports.
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; needs a fresh anvil"]
async fn cost() {
    let url = std::env::var("ANVIL_URL").expect("ANVIL_URL");
    let anvil = client_of(&[&url], |config| config.timeout = Duration::from_secs(30));
    let echo = deploy(&anvil).await;
    for nonce in 1..=50 {
        // As long as a request of one handle.
        send(&anvil, &call(echo, nonce, vec![0x11; 400])).await;
    }
    mine(&anvil).await;
    let stated = state(&anvil, [2]).await.pop().expect("a block");
    let (block, receipts) = (stated["block"].clone(), stated["receipts"].clone());
    let hash: B256 = serde_json::from_value(block["hash"].clone()).expect("a hash");
    let bytes = [block.to_string().len(), receipts.to_string().len()];

    let node = {
        let (block, receipts) = (block.clone(), receipts.clone());
        Node::start(move |method, _| match method {
            "eth_getBlockByNumber" => Ok(block.clone()),
            "eth_getBlockReceipts" => Ok(receipts.clone()),
            "eth_chainId" => Ok(Value::from("0x7")),
            other => Err(unknown_method(other)),
        })
        .await
    };
    let at = |log_index| Occurrence { block_number: 2, block_hash: hash, log_index };

    let live = Authority::new(anvil.clone(), Finality::Latest, 16);
    let started = Instant::now();
    live.prove(at(99)).await.expect("a log");
    println!("cold, anvil itself: {:?}, block and receipts {bytes:?} bytes of JSON", started.elapsed());

    const COLD: u32 = 200;
    // What the node in this process and the client cost without any recomputing.
    let rpc = client(&[&node]);
    let (started, used) = (Instant::now(), cpu());
    for _ in 0..COLD {
        let _: Value = rpc.request("eth_getBlockByNumber", serde_json::json!(["0x2", true])).await.expect("a block");
        let _: Value = rpc.request("eth_getBlockReceipts", serde_json::json!([hash])).await.expect("receipts");
    }
    println!("the same two calls, read as JSON: {:?} CPU {:?}", started.elapsed() / COLD, (cpu() - used) / COLD);
    let (started, used) = (Instant::now(), cpu());
    for _ in 0..COLD {
        let authority = Authority::new(rpc.clone(), Finality::Latest, 16);
        authority.prove(at(0)).await.expect("a log");
    }
    println!("cold, 50 transactions, 100 logs: {:?} CPU {:?}", started.elapsed() / COLD, (cpu() - used) / COLD);

    let authority = Authority::with_limits(rpc, Finality::Latest, 16, 1 << 24, Duration::from_secs(60));
    authority.prove(at(0)).await.expect("a log");
    const CACHED: u64 = 2_000_000;
    let (started, used) = (Instant::now(), cpu());
    for index in 0..CACHED {
        let proven = authority.prove(at(index % 100)).await.expect("a log");
        std::hint::black_box(proven);
    }
    let took = started.elapsed();
    println!(
        "cached: {:.0} proofs/s on one core, CPU {:?} each, {:?} held",
        CACHED as f64 / took.as_secs_f64(),
        (cpu() - used) / u32::try_from(CACHED).expect("small"),
        authority.cached()
    );
}
