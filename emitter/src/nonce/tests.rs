use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use alloy::primitives::{B256, Bytes, U256, keccak256};
use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    max_in_flight: 6,
    max_unconfirmed: 1_000,
    batch: Limits::SINGLE,
    resend_after_ms: 1_000,
    resend_max_ms: 8_000,
    replace_after_rounds: Some(2),
    max_variants: 40,
    refusal_pause_ms: 500,
    lookup_retry_ms: 1_000,
    confirmations: Confirmations::Blocks(0),
    past_memory_ms: 1_000_000_000,
};

const FEES: Fees = Fees { max_fee: 200, priority: 1 };

const LOAD: Load = Load { bytes: 100, gas: 100_000, alone: false };

type Item = u32;

fn variant(nonce: u64, attempt: u32, items: &[Item]) -> Variant<Item> {
    let text = format!("{nonce}/{attempt}/{items:?}");
    Variant { attempt, hash: keccak256(&text), raw: Bytes::from(text.into_bytes()), fees: FEES, items: items.to_vec() }
}

fn mined(variant: &Variant<Item>, block: u64) -> Mined {
    Mined {
        hash: variant.hash,
        succeeded: true,
        block_number: block,
        block_hash: B256::from(U256::from(block)),
        gas_used: 1,
        gas_used_for_l1: 0,
        effective_gas_price: 1,
    }
}

fn fresh(account: u64) -> Planner<Item> {
    Planner::recover(POLICY, [], Nonce(account), Millis(0)).0
}

/// Submits one item and journals it as the planner asks; the planner then wants it sent.
fn send_one(planner: &mut Planner<Item>, item: Item) -> Variant<Item> {
    let actions = planner.submit(item, LOAD, Millis(0));
    let [Action::Sign { nonce, attempt, items, .. }] = &actions[..] else { panic!("{actions:?}") };
    let signed = variant(nonce.0, *attempt, items);
    let actions = planner.journalled(*nonce, signed.clone(), Millis(0));
    assert!(matches!(&actions[..], [Action::Send { .. }]), "{actions:?}");
    signed
}

/// Up to so many items in one transaction, gathered once one is on its way.
fn gathered(items: usize) -> Limits {
    Limits { items, bytes: 10_000, gas: 10_000_000, eager: 1, linger_ms: 300 }
}

fn signed_items(actions: &[Action<Item>]) -> Vec<Vec<Item>> {
    let items = |action: &Action<Item>| match action {
        Action::Sign { items, .. } => Some(items.clone()),
        _ => None,
    };
    actions.iter().filter_map(items).collect()
}

#[test]
fn p3_of_an_old_batch_only_what_no_later_transaction_carries_is_settled() {
    let intents = [
        Recovered { nonce: Nonce(3), variant: variant(3, 0, &[1, 2, 3]) },
        Recovered { nonce: Nonce(4), variant: variant(4, 0, &[2]) },
    ];
    let mut planner = Planner::recover(POLICY, intents.clone(), Nonce(9), Millis(0)).0;
    planner.submit(1, LOAD, Millis(1));
    let found = mined(&intents[0].variant, 7);
    let actions = planner.looked_up(Nonce(3), Some(found), Millis(2));
    let expected = Action::Settle { nonce: Nonce(3), carried: vec![1, 2, 3], items: vec![1, 3], mined: found };
    assert!(actions.contains(&expected), "{actions:?}");
}

#[test]
fn items_gather_behind_a_transaction_until_they_are_many_or_old() {
    let mut planner = Planner::recover(Policy { batch: gathered(3), ..POLICY }, [], Nonce(0), Millis(0)).0;
    assert_eq!(signed_items(&planner.submit(1, LOAD, Millis(0))), [[1]]);
    assert_eq!(signed_items(&planner.submit(2, LOAD, Millis(10))), [[0; 0]; 0]);
    assert_eq!(planner.gathers_until(), Some(Millis(310)));
    planner.submit(3, LOAD, Millis(20));
    assert_eq!(signed_items(&planner.submit(4, LOAD, Millis(30))), [[2, 3, 4]]);
    assert_eq!(planner.gathers_until(), None);
    planner.submit(5, LOAD, Millis(100));
    planner.submit(6, LOAD, Millis(200));
    assert!(signed_items(&planner.tick(Millis(399))).is_empty());
    assert_eq!(signed_items(&planner.tick(Millis(400))), [[5, 6]]);
}

#[test]
fn an_item_that_must_go_alone_shares_no_transaction() {
    let mut planner = Planner::recover(Policy { batch: gathered(3), ..POLICY }, [], Nonce(0), Millis(0)).0;
    planner.submit(1, LOAD, Millis(0));
    planner.submit(2, LOAD, Millis(0));
    let alone = Load { alone: true, ..LOAD };
    assert_eq!(signed_items(&planner.submit(3, alone, Millis(0))), [[2], [3]]);
}

#[test]
fn withdrawn_items_are_in_no_batch() {
    let mut planner = Planner::recover(Policy { batch: gathered(3), ..POLICY }, [], Nonce(0), Millis(0)).0;
    for item in 1..=3 {
        planner.submit(item, LOAD, Millis(0));
    }
    assert!(planner.withdraw(&2) && !planner.withdraw(&1));
    planner.submit(4, LOAD, Millis(0));
    assert_eq!(signed_items(&planner.submit(5, LOAD, Millis(0))), [[3, 4, 5]]);
}

#[test]
fn where_a_node_takes_one_transaction_of_the_account_the_next_follows_its_block() {
    let mut planner = Planner::recover(Policy { batch: gathered(3), ..POLICY }, [], Nonce(0), Millis(0)).0;
    let first = send_one(&mut planner, 1);
    planner.answered(Nonce(0), 0, Answer::Taken, Millis(0));
    for item in 2..=4 {
        let actions = planner.submit(item, LOAD, Millis(0));
        for action in actions {
            let Action::Sign { nonce, attempt, items, .. } = action else { panic!() };
            planner.journalled(nonce, variant(nonce.0, attempt, &items), Millis(0));
        }
    }
    let pause = planner.answered(Nonce(1), 0, Answer::AccountFull, Millis(10));
    assert!(pause.is_empty(), "{pause:?}");
    // Nothing more is signed, though the policy would allow it.
    for item in 5..=10 {
        assert!(planner.submit(item, LOAD, Millis(10)).is_empty());
    }
    // At the block of the first the second is sent, not only when the pause is over.
    let actions = planner.mined(mined(&first, 1), Millis(20));
    let sent: Vec<u64> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { nonce, .. } => Some(nonce.0),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [1]);
}

#[test]
fn nothing_is_sent_before_it_is_journalled() {
    let mut planner = fresh(7);
    let actions = planner.submit(1, LOAD, Millis(0));
    assert_eq!(actions.len(), 1);
    assert!(matches!(actions[0], Action::Sign { nonce: Nonce(7), attempt: 0, .. }));
    for second in 1..30 {
        let due = planner.tick(Millis(second * 1_000));
        assert!(!due.iter().any(|action| matches!(action, Action::Send { .. })), "{due:?}");
    }
}

#[test]
fn an_item_submitted_twice_is_sent_once() {
    let mut planner = fresh(0);
    send_one(&mut planner, 1);
    assert!(planner.submit(1, LOAD, Millis(5)).is_empty());
    assert_eq!(planner.in_flight(), 1);
}

#[test]
fn p6_no_more_nonces_are_open_than_allowed() {
    let mut planner = fresh(0);
    for item in 0..100 {
        planner.submit(item, LOAD, Millis(0));
    }
    assert_eq!((planner.in_flight(), planner.queued()), (POLICY.max_in_flight, 100 - POLICY.max_in_flight));
}

#[test]
fn after_a_restart_the_same_bytes_are_sent_again() {
    let bytes = [variant(3, 0, &[1]), variant(4, 0, &[2]), variant(4, 1, &[2])];
    let intents = [(3, &bytes[0]), (4, &bytes[1]), (4, &bytes[2])]
        .map(|(nonce, variant)| Recovered { nonce: Nonce(nonce), variant: variant.clone() });
    let (_, actions) = Planner::recover(POLICY, intents, Nonce(3), Millis(0));
    assert_eq!(
        actions,
        [
            Action::Send { nonce: Nonce(3), attempt: 0, raw: bytes[0].raw.clone() },
            Action::Send { nonce: Nonce(4), attempt: 1, raw: bytes[2].raw.clone() },
        ]
    );
}

#[test]
fn a_hole_in_the_recovered_nonces_is_filled_with_what_waits_or_a_transfer_to_oneself() {
    let intents = [Recovered { nonce: Nonce(5), variant: variant(5, 0, &[1]) }];
    let (planner, actions) = Planner::recover(POLICY, intents, Nonce(3), Millis(0));
    let signed: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Sign { nonce, items, .. } => Some((nonce.0, items.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(signed, [(3, vec![]), (4, vec![])]);
    assert_eq!(planner.next_nonce(), Nonce(6));
}

#[test]
fn p3_a_nonce_that_moved_on_only_starts_a_look_up() {
    let mut planner = fresh(0);
    let signed = send_one(&mut planner, 1);
    let actions = planner.account_nonce(Nonce(1), Millis(10));
    assert_eq!(actions, [Action::LookUp { nonce: Nonce(0), hashes: vec![signed.hash] }]);

    let found = mined(&signed, 9);
    let actions = planner.looked_up(Nonce(0), Some(found), Millis(20));
    assert!(actions.contains(&Action::Settle { nonce: Nonce(0), carried: vec![1], items: vec![1], mined: found }));
}

#[test]
fn a_foreign_transaction_displaces_and_what_is_submitted_again_gets_a_new_nonce() {
    let mut planner = fresh(0);
    send_one(&mut planner, 1);
    planner.account_nonce(Nonce(1), Millis(10));
    // The node may show the block before its receipts.
    assert!(planner.looked_up(Nonce(0), None, Millis(20)).is_empty());
    assert!(matches!(planner.tick(Millis(1_010))[..], [Action::LookUp { .. }]));
    let actions = planner.looked_up(Nonce(0), None, Millis(1_020));
    assert_eq!(actions[0], Action::Displaced { nonce: Nonce(0), items: vec![1], by: None });
    let actions = planner.submit(1, LOAD, Millis(1_030));
    assert!(matches!(actions[..], [Action::Sign { nonce: Nonce(1), attempt: 0, .. }]));
}

#[test]
fn without_progress_the_lowest_is_sent_again_and_all_others_only_if_the_node_had_lost_it() {
    let mut planner = fresh(0);
    let signed = [send_one(&mut planner, 1), send_one(&mut planner, 2)];
    let send = |nonce: usize| Action::Send { nonce: Nonce(nonce as u64), attempt: 0, raw: signed[nonce].raw.clone() };
    // Nothing was heard of the first send yet: nothing is known to be lost.
    assert_eq!(planner.tick(Millis(1_000)), [Action::CheckNonce]);
    planner.answered(Nonce(0), 0, Answer::Taken, Millis(1_001));
    planner.progressed(Millis(0));

    assert_eq!(planner.tick(Millis(1_000)), [Action::CheckNonce, send(0)]);
    assert!(planner.answered(Nonce(0), 0, Answer::Known, Millis(1_001)).is_empty());

    assert_eq!(planner.tick(Millis(3_000)), [Action::CheckNonce, send(0)]);
    assert_eq!(planner.answered(Nonce(0), 0, Answer::Taken, Millis(3_001)), [send(1)]);
    assert!(planner.answered(Nonce(0), 0, Answer::Taken, Millis(3_002)).is_empty());
}

#[test]
fn a_lowest_transaction_that_stays_in_the_pool_is_paid_better_at_last() {
    let mut planner = fresh(0);
    send_one(&mut planner, 1);
    planner.tick(Millis(1_000));
    planner.tick(Millis(3_000));
    let actions = planner.tick(Millis(7_000));
    let replaced = Action::Sign { nonce: Nonce(0), attempt: 1, items: vec![1], pricing: Pricing::Above(FEES) };
    assert!(actions.contains(&replaced), "{actions:?}");
}

#[test]
fn where_there_is_no_pool_nothing_is_replaced_without_a_refusal() {
    let policy = Policy { replace_after_rounds: None, ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    send_one(&mut planner, 1);
    for second in 1..600 {
        let actions = planner.tick(Millis(second * 1_000));
        assert!(!actions.iter().any(|action| matches!(action, Action::Sign { .. })), "{actions:?}");
    }
    assert!(planner.head(1, 1_000, Millis(1)).is_empty());
    let actions = planner.answered(Nonce(0), 0, Answer::FeeTooLow, Millis(2));
    assert!(matches!(actions[..], [Action::Sign { attempt: 1, .. }]));
}

#[test]
fn a_base_fee_above_the_offer_is_answered_by_a_better_offer() {
    let mut planner = fresh(0);
    send_one(&mut planner, 1);
    assert!(planner.head(1, FEES.max_fee, Millis(1)).is_empty());
    let actions = planner.head(2, FEES.max_fee + 1, Millis(2));
    assert!(matches!(actions[..], [Action::Sign { attempt: 1, pricing: Pricing::Above(FEES), .. }]));
}

#[test]
fn bytes_that_no_node_takes_free_their_nonce_for_what_waits() {
    let policy = Policy { max_in_flight: 1, ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    send_one(&mut planner, 1);
    planner.submit(2, LOAD, Millis(0));
    let actions = planner.answered(Nonce(0), 0, Answer::Unsendable("oversized data".to_owned()), Millis(1));
    assert_eq!(actions[0], Action::Unsendable { items: vec![1], reason: "oversized data".to_owned() });
    assert!(matches!(&actions[1], Action::Sign { nonce: Nonce(0), attempt: 1, items, .. } if *items == [2]));
}

#[test]
fn a_replaced_variant_that_is_mined_after_all_settles_its_own_items_and_displaces_the_others() {
    let policy = Policy { max_in_flight: 1, ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    let first = send_one(&mut planner, 1);
    planner.submit(2, LOAD, Millis(0));
    planner.answered(Nonce(0), 0, Answer::Unsendable("exceeds block gas limit".to_owned()), Millis(1));
    planner.journalled(Nonce(0), variant(0, 1, &[2]), Millis(2));
    let actions = planner.mined(mined(&first, 4), Millis(3));
    assert!(matches!(&actions[0], Action::Settle { items, .. } if *items == [1]));
    assert_eq!(actions[1], Action::Displaced { nonce: Nonce(0), items: vec![2], by: Some(first.hash) });
}

#[test]
fn a_recovered_nonce_below_the_account_is_looked_up_when_its_item_comes_back() {
    let bytes = variant(3, 0, &[1]);
    let intents = [Recovered { nonce: Nonce(3), variant: bytes.clone() }];
    let (mut planner, actions) = Planner::recover(POLICY, intents, Nonce(9), Millis(0));
    assert!(actions.is_empty());
    let actions = planner.submit(1, LOAD, Millis(1));
    assert_eq!(actions, [Action::LookUp { nonce: Nonce(3), hashes: vec![bytes.hash] }]);
    let found = mined(&bytes, 2);
    let actions = planner.looked_up(Nonce(3), Some(found), Millis(2));
    assert_eq!(actions[0], Action::Settle { nonce: Nonce(3), carried: vec![1], items: vec![1], mined: found });
    assert_eq!(actions[1], Action::Closed { nonce: Nonce(3) });
    assert!(!planner.knows(&bytes.hash));
}

#[test]
fn a_nonce_is_final_only_under_its_confirmations_and_stands_again_after_a_reorganisation() {
    let policy = Policy { confirmations: Confirmations::Blocks(2), ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    let signed = send_one(&mut planner, 1);
    planner.mined(mined(&signed, 10), Millis(1));
    assert_eq!((planner.in_flight(), planner.unconfirmed()), (0, 1));
    assert!(planner.head(11, 1, Millis(2)).is_empty());
    let actions = planner.head(12, 1, Millis(3));
    assert_eq!(actions, [Action::LookUp { nonce: Nonce(0), hashes: vec![signed.hash] }]);
    let actions = planner.looked_up(Nonce(0), None, Millis(4));
    assert_eq!(actions, [Action::Send { nonce: Nonce(0), attempt: 0, raw: signed.raw.clone() }]);

    planner.mined(mined(&signed, 13), Millis(5));
    planner.head(15, 1, Millis(6));
    let actions = planner.looked_up(Nonce(0), Some(mined(&signed, 13)), Millis(7));
    assert_eq!(actions, [Action::Closed { nonce: Nonce(0) }]);
}

#[test]
fn where_finality_is_the_nodes_word_a_nonce_waits_for_it_however_deep_it_is() {
    let policy = Policy { confirmations: Confirmations::Finalized, ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    let signed = send_one(&mut planner, 1);
    planner.mined(mined(&signed, 10), Millis(1));
    assert!(planner.head(500, 1, Millis(2)).is_empty());
    assert!(planner.finalized(9, Millis(3)).is_empty());
    let actions = planner.finalized(10, Millis(4));
    assert_eq!(actions, [Action::LookUp { nonce: Nonce(0), hashes: vec![signed.hash] }]);
    let actions = planner.looked_up(Nonce(0), Some(mined(&signed, 10)), Millis(5));
    assert_eq!(actions, [Action::Closed { nonce: Nonce(0) }]);
}

#[test]
fn p6_where_finality_stops_no_more_nonces_are_given_out_until_it_goes_on() {
    let policy = Policy { confirmations: Confirmations::Finalized, max_unconfirmed: 2, ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    let signed: Vec<_> = (1..=2).map(|item| send_one(&mut planner, item)).collect();
    assert!(!planner.awaits_finality(), "nothing is mined yet");
    for (block, variant) in (10..).zip(&signed) {
        planner.mined(mined(variant, block), Millis(1));
    }
    assert!(planner.awaits_finality() && planner.in_flight() == 0);
    assert!(planner.submit(3, LOAD, Millis(2)).is_empty());
    assert!(planner.tick(Millis(60_000)).is_empty(), "nothing is signed, and nothing else done");
    planner.finalized(10, Millis(60_001));
    let actions = planner.looked_up(Nonce(0), Some(mined(&signed[0], 10)), Millis(60_002));
    let is_signed =
        |action: &Action<Item>| matches!(action, Action::Sign { nonce: Nonce(2), items, .. } if *items == [3]);
    assert!(actions.iter().any(is_signed), "{actions:?}");
}

#[test]
fn what_is_gathered_behind_a_finality_that_stopped_is_not_looked_at_all_the_time() {
    let policy = Policy { confirmations: Confirmations::Finalized, max_unconfirmed: 1, batch: gathered(3), ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    let signed = send_one(&mut planner, 1);
    planner.mined(mined(&signed, 10), Millis(1));
    planner.submit(2, LOAD, Millis(2));
    assert_eq!(planner.gathers_until(), None);
}

/// A chain that knows nothing of the planner: a pool that may lose everything, blocks that may be taken back.
#[derive(Default)]
struct Chain {
    blocks: Vec<Vec<(u64, Variant<Item>)>>,
    pool: BTreeMap<u64, Variant<Item>>,
    base_fee: u128,
    foreign: u32,
    hash_salt: u64,
    hashes: Vec<B256>,
}

impl Chain {
    fn nonce(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }

    fn send(&mut self, nonce: u64, bytes: Variant<Item>) -> Answer {
        if nonce < self.nonce() {
            return Answer::NonceTooLow;
        }
        match self.pool.get(&nonce) {
            Some(held) if held.hash == bytes.hash => Answer::Known,
            Some(held) if bytes.fees.max_fee * 10 < held.fees.max_fee * 11 => Answer::ReplacementUnderpriced,
            _ => {
                self.pool.insert(nonce, bytes);
                Answer::Taken
            }
        }
    }

    fn mine(&mut self, most: usize) {
        let mut block = Vec::new();
        while block.len() < most {
            let nonce = self.nonce() + block.len() as u64;
            let fits = self.pool.get(&nonce).is_some_and(|bytes| bytes.fees.max_fee >= self.base_fee);
            if !fits {
                break;
            }
            block.extend(self.pool.remove(&nonce).map(|bytes| (nonce, bytes)));
        }
        self.push(block);
    }

    fn push(&mut self, block: Vec<(u64, Variant<Item>)>) {
        self.blocks.push(block);
        self.hash_salt += 1;
        self.hashes.push(B256::from(U256::from(self.hash_salt)));
    }

    fn mine_foreign(&mut self) {
        let nonce = self.nonce();
        self.foreign += 1;
        self.pool.remove(&nonce);
        let bytes = variant(nonce, 1_000_000 + self.foreign, &[]);
        self.push(vec![(nonce, bytes)]);
    }

    fn take_back(&mut self) {
        if let Some(block) = self.blocks.pop() {
            self.hashes.pop();
            for (nonce, bytes) in block {
                if bytes.attempt < 1_000_000 {
                    self.pool.insert(nonce, bytes);
                }
            }
        }
    }

    fn receipt(&self, hash: &B256) -> Option<Mined> {
        let mut seen: HashSet<Item> = HashSet::new();
        for (height, block) in self.blocks.iter().enumerate() {
            for (_, bytes) in block {
                let repeated = bytes.items.iter().any(|item| !seen.insert(*item));
                if bytes.hash == *hash {
                    return Some(Mined {
                        succeeded: !repeated,
                        block_hash: self.hashes[height],
                        ..mined(bytes, height as u64)
                    });
                }
            }
        }
        None
    }

    fn acceptances(&self) -> HashMap<Item, usize> {
        let mut counts = HashMap::new();
        for item in self.blocks.iter().flatten().flat_map(|(_, bytes)| &bytes.items) {
            *counts.entry(*item).or_default() += 1;
        }
        counts
    }
}

#[test]
fn while_paused_nothing_is_signed_or_sent_and_what_was_sent_settles() {
    let mut planner = fresh(0);
    let first = send_one(&mut planner, 1);
    send_one(&mut planner, 2);
    planner.pause();
    assert!(planner.submit(3, LOAD, Millis(10)).is_empty());
    assert_eq!(planner.answered(Nonce(1), 0, Answer::FeeTooLow, Millis(20)), []);
    assert_eq!(planner.head(1, 10_000, Millis(30)), []);
    for now in (0..100).map(|second| Millis(second * 1_000)) {
        assert_eq!(planner.tick(now), [], "{now:?}");
    }
    let actions = planner.mined(mined(&first, 2), Millis(100_000));
    assert!(
        matches!(&actions[..], [Action::Settle { items, .. }, Action::Closed { .. }] if *items == [1]),
        "{actions:?}"
    );

    let actions = planner.resume(Millis(100_010));
    let sent = |action: &Action<Item>| matches!(action, Action::Send { nonce: Nonce(1), attempt: 0, .. });
    assert!(actions.iter().any(sent), "{actions:?}");
    assert_eq!(signed_items(&actions), [[3]]);
}

#[test]
fn a_start_while_paused_sends_nothing_of_the_journal_until_the_pause_is_over() {
    let intents = [Recovered { nonce: Nonce(4), variant: variant(4, 0, &[1]) }];
    let mut planner = Planner::recover_paused(POLICY, intents, Nonce(2), Millis(0));
    assert_eq!(planner.tick(Millis(50_000)), []);
    assert!(planner.submit(1, LOAD, Millis(50_000)).is_empty());
    let actions = planner.resume(Millis(60_000));
    // The gap below it too.
    assert_eq!(signed_items(&actions), [[0; 0], [0; 0]]);
    assert!(actions.iter().any(|action| matches!(action, Action::Send { nonce: Nonce(4), .. })), "{actions:?}");
}

#[test]
fn a_nonce_is_bumped_by_hand_also_while_paused_and_within_the_limit_of_variants() {
    let policy = Policy { max_variants: 2, ..POLICY };
    let mut planner = Planner::recover(policy, [], Nonce(0), Millis(0)).0;
    assert_eq!(planner.bump(Nonce(0), None), Err(Unfit::Unknown { next: Nonce(0) }));
    planner.submit(1, LOAD, Millis(0));
    assert_eq!(planner.bump(Nonce(0), None), Err(Unfit::Unsent));
    planner.journalled(Nonce(0), variant(0, 0, &[1]), Millis(0));
    planner.pause();
    let action = planner.bump(Nonce(0), Some(900)).unwrap();
    let pricing = Pricing::Offer { above: FEES, max_fee: 900 };
    assert_eq!(action, Action::Sign { nonce: Nonce(0), attempt: 1, items: vec![1], pricing });
    assert_eq!(planner.bump(Nonce(0), None), Err(Unfit::Signing));
    let actions = planner.journalled(Nonce(0), variant(0, 1, &[1]), Millis(1));
    assert!(matches!(actions[..], [Action::Send { nonce: Nonce(0), attempt: 1, .. }]), "{actions:?}");
    assert_eq!(planner.bump(Nonce(0), None), Err(Unfit::Full { variants: 2 }));
    // A nonce can be used up all the same.
    assert!(planner.cancel(Nonce(0)).is_ok());
    planner.mined(mined(&variant(0, 1, &[1]), 3), Millis(2));
    assert_eq!(planner.bump(Nonce(0), None), Err(Unfit::Used));
}

/// An item whose nonce is cancelled by a journalled transaction, and the variant that carries it.
fn cancelled(planner: &mut Planner<Item>) -> Variant<Item> {
    let first = send_one(planner, 1);
    let action = planner.cancel(Nonce(0)).unwrap();
    assert!(
        matches!(&action, Action::Sign { attempt: 1, items, pricing: Pricing::Above(FEES), .. } if items.is_empty())
    );
    planner.journalled(Nonce(0), variant(0, 1, &[]), Millis(1));
    assert_eq!(planner.cancel(Nonce(0)), Err(Unfit::Cancelled));
    first
}

#[test]
fn p3_what_a_cancelled_nonce_carried_goes_again_only_when_the_empty_transaction_is_mined() {
    let mut planner = fresh(0);
    cancelled(&mut planner);
    // Taken again by nobody until then.
    assert!(planner.submit(1, LOAD, Millis(2)).is_empty());
    let empty = variant(0, 1, &[]);
    let actions = planner.mined(mined(&empty, 4), Millis(3));
    let by = Some(empty.hash);
    assert_eq!(actions[1], Action::Displaced { nonce: Nonce(0), items: vec![1], by });
    let actions = planner.submit(1, LOAD, Millis(4));
    assert!(matches!(actions[..], [Action::Sign { nonce: Nonce(1), attempt: 0, .. }]), "{actions:?}");
}

#[test]
fn p3_a_cancelled_transaction_that_is_mined_after_all_settles_its_items() {
    let mut planner = fresh(0);
    let first = cancelled(&mut planner);
    let actions = planner.mined(mined(&first, 4), Millis(3));
    assert!(matches!(&actions[0], Action::Settle { items, .. } if *items == [1]), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Displaced { .. })), "{actions:?}");
}

#[test]
fn what_carries_nothing_is_not_cancelled() {
    let intents = [Recovered { nonce: Nonce(0), variant: variant(0, 0, &[]) }];
    let mut planner = Planner::recover(POLICY, intents, Nonce(0), Millis(0)).0;
    assert_eq!(planner.cancel(Nonce(0)), Err(Unfit::Empty));
    assert!(planner.bump(Nonce(0), None).is_ok());
}

/// The shell around the planner, as naive as can be.
struct World {
    policy: Policy,
    chain: Chain,
    planner: Planner<Item>,
    now: u64,
    journal: Vec<Recovered<Item>>,
    to_sign: VecDeque<Action<Item>>,
    to_send: VecDeque<(u64, u32)>,
    lookups: VecDeque<(Nonce, Vec<B256>)>,
    submitted: BTreeSet<Item>,
    settled: BTreeSet<Item>,
    seen_blocks: usize,
    next_item: Item,
    paused: bool,
    /// What a person asked for: sent also while paused.
    by_hand: HashSet<(u64, u32)>,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Reaches,
    ReachesUnheard,
    Lost,
}

#[derive(Clone, Debug)]
enum Op {
    Submit(u8),
    Journal(u8),
    Send(u8, Fate),
    Mine(u8),
    Follow,
    AnswerLookups,
    DropPool,
    Foreign,
    TakeBack,
    BaseFee(u16),
    Pass(u16),
    Kill,
    Pause,
    Resume,
    Bump(u8),
    Cancel(u8),
}

impl World {
    fn new(policy: Policy) -> Self {
        let (planner, _) = Planner::recover(policy, [], Nonce(0), Millis(0));
        Self {
            policy,
            chain: Chain::default(),
            planner,
            now: 0,
            journal: Vec::new(),
            to_sign: VecDeque::new(),
            to_send: VecDeque::new(),
            lookups: VecDeque::new(),
            submitted: BTreeSet::new(),
            settled: BTreeSet::new(),
            seen_blocks: 0,
            next_item: 0,
            paused: false,
            by_hand: HashSet::new(),
        }
    }

    fn now(&self) -> Millis {
        Millis(self.now)
    }

    fn obey(&mut self, actions: Vec<Action<Item>>) {
        for action in actions {
            match action {
                Action::Sign { nonce, attempt, .. } => {
                    let asked_for = self.by_hand.contains(&(nonce.0, attempt));
                    assert!(!self.paused || asked_for, "signed while paused: {nonce:?}/{attempt}");
                    self.to_sign.push_back(action);
                }
                Action::Send { nonce, attempt, .. } => {
                    let asked_for = self.by_hand.contains(&(nonce.0, attempt));
                    assert!(!self.paused || asked_for, "sent while paused: {nonce:?}/{attempt}");
                    self.to_send.push_back((nonce.0, attempt));
                }
                Action::LookUp { nonce, hashes } => self.lookups.push_back((nonce, hashes)),
                Action::CheckNonce => {
                    self.follow();
                    let actions = self.planner.account_nonce(Nonce(self.chain.nonce()), self.now());
                    self.obey(actions);
                }
                Action::Settle { items, mined, .. } => {
                    let receipt = self.chain.receipt(&mined.hash);
                    assert!(
                        receipt.is_some() || self.policy.confirmations != Confirmations::Blocks(0),
                        "settled by a transaction that is not there"
                    );
                    self.settled.extend(items);
                }
                Action::Displaced { items, .. } => self.search_and_resubmit(items),
                Action::Unsendable { .. } => unreachable!("this chain takes everything"),
                Action::Closed { .. } => {}
            }
        }
    }

    /// What the shell does before it sends an answer again: ask the chain whether it holds it.
    fn search_and_resubmit(&mut self, items: Vec<Item>) {
        let accepted = self.chain.acceptances();
        for item in items {
            if accepted.contains_key(&item) {
                self.settled.insert(item);
            } else {
                let actions = self.planner.submit(item, LOAD, self.now());
                self.obey(actions);
            }
        }
    }

    fn journal(&mut self, most: usize) {
        for _ in 0..most {
            let Some(Action::Sign { nonce, attempt, items, pricing }) = self.to_sign.pop_front() else { return };
            let fees = match pricing {
                Pricing::Current => Fees { max_fee: self.chain.base_fee.max(50) * 2, priority: 1 },
                Pricing::Above(old) | Pricing::Offer { above: old, .. } => {
                    Fees { max_fee: (old.max_fee * 5 / 4 + 1).max(self.chain.base_fee * 2), priority: old.priority + 1 }
                }
            };
            let salt = self.journal.len();
            let signed = Variant {
                fees,
                hash: keccak256(format!("{nonce:?}/{attempt}/{items:?}/{salt}")),
                ..variant(nonce.0, attempt, &items)
            };
            self.journal.push(Recovered { nonce, variant: signed.clone() });
            let actions = self.planner.journalled(nonce, signed, self.now());
            self.obey(actions);
        }
    }

    fn send(&mut self, most: usize, fate: Fate) {
        for _ in 0..most {
            let Some((nonce, attempt)) = self.to_send.pop_front() else { return };
            let bytes = self.journal.iter().rev().find(|one| one.nonce.0 == nonce && one.variant.attempt == attempt);
            let bytes = bytes.expect("only journalled bytes are sent").variant.clone();
            let answer = match fate {
                Fate::Lost => Answer::Unknown,
                Fate::Reaches => self.chain.send(nonce, bytes),
                Fate::ReachesUnheard => {
                    self.chain.send(nonce, bytes);
                    Answer::Unknown
                }
            };
            let actions = self.planner.answered(Nonce(nonce), attempt, answer, self.now());
            self.obey(actions);
        }
    }

    fn follow(&mut self) {
        self.seen_blocks = self.seen_blocks.min(self.chain.blocks.len());
        while self.seen_blocks < self.chain.blocks.len() {
            let hashes: Vec<B256> = self.chain.blocks[self.seen_blocks].iter().map(|(_, bytes)| bytes.hash).collect();
            self.seen_blocks += 1;
            for receipt in hashes.iter().filter_map(|hash| self.chain.receipt(hash)).collect::<Vec<_>>() {
                let actions = self.planner.mined(receipt, self.now());
                self.obey(actions);
            }
            let actions = self.planner.head(self.seen_blocks as u64 - 1, self.chain.base_fee, self.now());
            self.obey(actions);
        }
    }

    fn answer_lookups(&mut self) {
        for (nonce, hashes) in std::mem::take(&mut self.lookups) {
            let found = hashes.iter().find_map(|hash| self.chain.receipt(hash));
            // A node that has not seen the nonce used cannot say that nothing was found.
            if found.is_some() || nonce.0 < self.chain.nonce() || self.policy.confirmations != Confirmations::Blocks(0)
            {
                let actions = self.planner.looked_up(nonce, found, self.now());
                self.obey(actions);
            }
        }
    }

    fn kill(&mut self) {
        self.to_sign.clear();
        self.to_send.clear();
        self.lookups.clear();
        self.seen_blocks = self.chain.blocks.len();
        let account = Nonce(self.chain.nonce());
        let (planner, actions) = if self.paused {
            (Planner::recover_paused(self.policy, self.journal.clone(), account, self.now()), Vec::new())
        } else {
            Planner::recover(self.policy, self.journal.clone(), account, self.now())
        };
        self.planner = planner;
        self.obey(actions);
        for item in self.submitted.difference(&self.settled.clone()).copied().collect::<Vec<_>>() {
            let actions = self.planner.submit(item, LOAD, self.now());
            self.obey(actions);
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Submit(count) => {
                for _ in 0..count {
                    self.submitted.insert(self.next_item);
                    let actions = self.planner.submit(self.next_item, LOAD, self.now());
                    self.next_item += 1;
                    self.obey(actions);
                }
            }
            Op::Journal(most) => self.journal(most.into()),
            Op::Send(most, fate) => self.send(most.into(), fate),
            Op::Mine(most) => self.chain.mine(most.into()),
            Op::Follow => self.follow(),
            Op::AnswerLookups => self.answer_lookups(),
            Op::DropPool => self.chain.pool.clear(),
            Op::Foreign => self.chain.mine_foreign(),
            Op::TakeBack if self.policy.confirmations != Confirmations::Blocks(0) => self.chain.take_back(),
            Op::TakeBack => {}
            Op::BaseFee(fee) => self.chain.base_fee = fee.into(),
            Op::Pass(ms) => {
                self.now += u64::from(ms);
                let actions = self.planner.tick(self.now());
                self.obey(actions);
            }
            Op::Kill => self.kill(),
            Op::Pause => {
                self.paused = true;
                self.planner.pause();
                self.to_send.clear();
            }
            Op::Resume => {
                self.paused = false;
                let actions = self.planner.resume(self.now());
                self.obey(actions);
            }
            Op::Bump(index) | Op::Cancel(index) => {
                let open: Vec<Nonce> = self.planner.open_nonces().collect();
                let Some(&nonce) = open.get(usize::from(index) % open.len().max(1)) else { return };
                let planned = match op {
                    Op::Bump(_) => self.planner.bump(nonce, None),
                    _ => self.planner.cancel(nonce),
                };
                if let Ok(action) = planned {
                    let Action::Sign { attempt, .. } = &action else { panic!("{action:?}") };
                    self.by_hand.insert((nonce.0, *attempt));
                    self.obey(vec![action]);
                }
            }
        }
        let known = self.planner.slots.len() + self.planner.gaps.len();
        assert!(known as u64 >= self.planner.next.0 - self.planner.floor.0, "a nonce is nobody's");
    }

    /// From now on everything works: it must come to rest by itself.
    fn heal(&mut self) -> bool {
        self.chain.base_fee = 10;
        self.apply(&Op::Resume);
        for _ in 0..400 {
            for op in [
                Op::Journal(50),
                Op::Send(50, Fate::Reaches),
                Op::Mine(50),
                Op::Follow,
                Op::AnswerLookups,
                Op::Pass(1_000),
            ] {
                self.apply(&op);
            }
            let idle = self.planner.in_flight() == 0 && self.planner.unconfirmed() == 0 && self.planner.queued() == 0;
            if idle && self.settled == self.submitted && self.lookups.is_empty() && self.to_sign.is_empty() {
                return true;
            }
        }
        false
    }
}

fn op() -> impl Strategy<Value = Op> {
    let fate = prop_oneof![3 => Just(Fate::Reaches), 1 => Just(Fate::ReachesUnheard), 1 => Just(Fate::Lost)];
    prop_oneof![
        6 => (1u8..4).prop_map(Op::Submit),
        6 => (1u8..4).prop_map(Op::Journal),
        6 => (1u8..5, fate).prop_map(|(most, fate)| Op::Send(most, fate)),
        5 => (0u8..5).prop_map(Op::Mine),
        5 => Just(Op::Follow),
        3 => Just(Op::AnswerLookups),
        1 => Just(Op::DropPool),
        1 => Just(Op::Foreign),
        1 => Just(Op::TakeBack),
        1 => (1u16..400).prop_map(Op::BaseFee),
        3 => (1u16..3_000).prop_map(Op::Pass),
        1 => Just(Op::Kill),
        1 => Just(Op::Pause),
        1 => Just(Op::Resume),
        1 => any::<u8>().prop_map(Op::Bump),
        1 => any::<u8>().prop_map(Op::Cancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn p3_whatever_happens_every_item_is_settled_and_accepted_once(
        ops in prop::collection::vec(op(), 1..120),
        items in 1usize..5,
    ) {
        let mut world = World::new(Policy { batch: gathered(items), ..POLICY });
        for op in &ops {
            world.apply(op);
        }
        prop_assert!(world.heal(), "did not come to rest: {:?}", world.planner);
        let accepted = world.chain.acceptances();
        for item in &world.submitted {
            prop_assert_eq!(accepted.get(item), Some(&1), "item {}", item);
        }
        world.obey(vec![Action::CheckNonce]);
        prop_assert_eq!(world.planner.account(), Nonce(world.chain.nonce()));
        prop_assert_eq!(world.planner.next_nonce(), world.planner.account());
    }

    #[test]
    fn p3_a_block_taken_back_before_it_is_final_loses_nothing(
        ops in prop::collection::vec(op(), 1..120),
        items in 1usize..5,
    ) {
        let mut world = World::new(Policy { confirmations: Confirmations::Blocks(2), batch: gathered(items), ..POLICY });
        let mut depth = 0;
        for op in &ops {
            // Not deeper than what is promised to be final, and by one process: whoever recovers does not look up what was
            // settled before.
            match op {
                Op::Kill => continue,
                Op::TakeBack if depth == 2 => continue,
                Op::TakeBack => depth += 1,
                Op::Mine(_) | Op::Foreign => depth = 0,
                _ => {}
            }
            world.apply(op);
        }
        prop_assert!(world.heal(), "did not come to rest: {:?}", world.planner);
        let accepted = world.chain.acceptances();
        for item in &world.submitted {
            prop_assert!(accepted.get(item).is_some_and(|count| *count >= 1), "item {} is not on chain", item);
        }
    }
}
