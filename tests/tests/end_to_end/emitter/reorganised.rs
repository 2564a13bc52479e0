//! Blocks with our answers are taken back after these were settled: the answers are sent again, and stay settled once.

use alloy::primitives::{B256, U256};
use kms_schemas::identity::Kind;
use kms_schemas::record::{Answer, RequestBody, Verdict};
use kms_stack::contracts::{Made, NewRequest};
use kms_stack::parts::Anvil;
use kms_stack::{Generation, ServiceKind, StackBuilder};
use kms_tests::eventually;
use serde_json::json;

use super::BLOCKS;
use super::bench::{Bench, LIMIT, unreplaced, unsigned};

async fn head(anvil: &Anvil) -> u64 {
    let number = anvil.rpc("eth_blockNumber", json!([])).await.unwrap();
    serde_json::from_value::<U256>(number).unwrap().to()
}

/// Everything above this block is replaced by empty blocks.
async fn take_back(anvil: &Anvil, above: u64) {
    let depth = head(anvil).await - above;
    anvil.rpc("anvil_reorg", json!([depth, []])).await.unwrap();
}

/// The answers are on chain, each once.
async fn on_chain_again(bench: &Bench, made: &[Made]) -> Vec<B256> {
    eventually("the answers are on chain again", LIMIT, async || {
        let on_chain = bench.answers_on_chain().await;
        let of = |one: &Made| on_chain.get(&(one.kind, one.id)).filter(|found| found.len() == 1).map(|found| found[0]);
        made.iter().map(of).collect()
    })
    .await
}

async fn gateway(name: &str, mode: impl FnOnce(StackBuilder) -> StackBuilder) {
    let bench = Bench::start_with(name, None, |stack| mode(unreplaced(stack))).await;
    let mut made = bench.warm_up().await;
    let (emitter, anvil) = (bench.stack.node().emitter(), bench.stack.anvil());
    let more = bench.requests(12).await;
    made.extend(more.clone());
    let requested = head(anvil).await;
    bench.publish(&bench.results(&more)).await;
    bench.await_all_accepted(&made).await;
    let nonce = bench.account_nonce().await;

    // Seen by the process that sent them; the chain makes no block until somebody sends.
    take_back(anvil, requested).await;
    assert!(bench.account_nonce().await < nonce, "nothing was taken back");
    let before = bench.intents().await.len();
    on_chain_again(&bench, &made).await;
    assert_eq!(bench.account_nonce().await, nonce, "the same transactions");
    assert_eq!(bench.intents().await.len(), before, "the same bytes");

    // While nobody was there.
    emitter.kill().await;
    take_back(anvil, requested).await;
    assert!(bench.account_nonce().await < nonce, "nothing was taken back");
    emitter.start().await.unwrap();
    on_chain_again(&bench, &made).await;

    // And it goes on as before.
    let more = bench.requests(3).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    bench.await_submissions(made.len()).await;
    on_chain_again(&bench, &made).await;
    let submissions = bench.submissions().await;
    assert_eq!(submissions.len(), made.len());
    assert!(submissions.values().all(|one| matches!(one.verdict, Verdict::Accepted(_))), "{submissions:?}");
    assert!(bench.dead_letters().await.is_empty());
    emitter.wait_ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_answers_whose_blocks_the_gateway_takes_back_are_sent_again_one_by_one() {
    gateway("taken-back-single", |stack| stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_answers_whose_blocks_the_gateway_takes_back_are_sent_again_in_batches() {
    gateway("taken-back-batch", |stack| {
        stack
            .batches(true)
            .set(ServiceKind::Emitter, "submission.batch_eager=0")
            .set(ServiceKind::Emitter, "submission.batch_linger_ms=300")
            .set(ServiceKind::Emitter, "submission.batch_answers=5")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_answer_whose_block_an_ethereum_host_takes_back_before_it_is_final_is_sent_again() {
    let bench = Bench::start_with("taken-back-host", BLOCKS, |stack| {
        stack
            .generation(Generation::B)
            .set(ServiceKind::Emitter, "destination.1.confirmations=finalized")
            .set(ServiceKind::Emitter, "destination.1.poll_interval_ms=20")
            .set(ServiceKind::Emitter, "destination.1.finality_poll_interval_ms=100")
            .set(ServiceKind::Emitter, "destination.1.idle_poll_interval_ms=100")
    })
    .await;
    let ethereum = bench.stack.ethereum().unwrap();
    let made = bench.requester.make(&NewRequest::Keygen { params_type: 1 }).await.unwrap();
    let asked = bench.await_asked(Kind::PrepKeygen, |asked| asked.identity.id == made.id).await;
    let RequestBody::PrepKeygen { extra_data, .. } = asked.body.clone() else { panic!("{asked:?}") };
    // Answers wait until their requests are final; from then on there are only the blocks that the test makes.
    eventually("the request is final", LIMIT, async || (head(ethereum).await > asked.place.0 + 2).then_some(())).await;
    ethereum.rpc("evm_setIntervalMining", json!([0])).await.unwrap();
    let unconfirmed = async || bench.stack.node().emitter().metric("kms_connector_nonces_unconfirmed").await;
    let pending = async || {
        let status = ethereum.rpc("txpool_status", json!([])).await.unwrap();
        (status["pending"] == "0x1").then_some(())
    };

    let requested = head(ethereum).await;
    let answer = Answer::PrepKeygen { extra_data, signature: unsigned() };
    bench.publish(&[bench.result_to(&asked, answer)]).await;
    eventually("the answer is on its way", LIMIT, pending).await;
    ethereum.rpc("evm_mine", json!([])).await.unwrap();
    let settled = bench.await_submissions(1).await;
    assert!(matches!(settled[0].verdict, Verdict::Accepted(_)), "{settled:?}");
    eventually("it waits to be final", LIMIT, async || (unconfirmed().await == Some(1.0)).then_some(())).await;

    take_back(ethereum, requested).await;
    assert!(bench.answers_on_chain().await.is_empty());
    eventually("the answer is on its way again", LIMIT, pending).await;
    for _ in 0..4 {
        ethereum.rpc("evm_mine", json!([])).await.unwrap();
    }
    on_chain_again(&bench, &[made]).await;
    eventually("it is final", LIMIT, async || (unconfirmed().await == Some(0.0)).then_some(())).await;
    assert_eq!(bench.submissions().await.len(), 1);
    assert!(bench.dead_letters().await.is_empty());
}
