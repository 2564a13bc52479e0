//! An answer costs here what it costs on a real Gateway.

use super::world::{UINT64, World, word};

/// `docs/protocol.md`, "Gas of an answer": one handle, four nodes, threshold three, in the order of arrival.
const REAL: [u64; 4] = [263_503, 229_303, 298_175, 226_073];

#[tokio::test]
async fn a_public_answer_costs_within_three_percent_of_the_real_contract() {
    let world = World::of(4).await;
    let handles = world.public_handles(1, UINT64).await;
    let id = world.public_request(&handles).await.id;
    let result = word(0x1122_3344_5566_7788);

    for (node, real) in REAL.into_iter().enumerate() {
        let gas = world.send(node, world.public_answer(node, id, &handles, &result)).await.gas_used;

        println!("answer {} of 4: {gas} gas, real {real}", node + 1);
        assert!(gas.abs_diff(real) * 100 <= real * 3, "answer {} costs {gas}, the real one {real}", node + 1);
    }
}
