//! The batch executor (`emitter/contracts/`): its code, the call that runs a batch, the gas of one, and what its receipt says
//! of each item. Pure.
//!
//! A batch is a transaction of the account to itself. It succeeds whatever becomes of its items, so nothing is concluded from
//! its status: an item is accepted where the contract's own response event stands in the logs, it failed where the executor
//! says so, and where neither is there nothing is known (`docs/protocol.md`, "Batches").

use std::sync::LazyLock;

use alloy::eips::eip7702::constants::EIP7702_DELEGATION_DESIGNATOR;
use alloy::hex::FromHex;
use alloy::primitives::{Address, B256, Bytes, U256, b256};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use kms_chain::event::{ContractSet, decode_response};
use kms_schemas::identity::Identity;
use kms_schemas::record::RawLog;
use serde::Deserialize;

use crate::wallet::Payload;

/// The committed artefact: a JSON object with `abi`, `creation` and `runtime`.
pub const ARTIFACT: &str = include_str!("../contracts/artifacts/BatchExecutor.json");

/// ERC-7579 mode of our batches: a batch that no failure stops, with calls in a form of their own.
pub const MODE: B256 = b256!("010100000000c9bdfd6600000000000000000000000000000000000000000000");

#[allow(missing_docs, unreachable_pub)]
mod abi {
    alloy::sol! {
        #![sol(all_derives)]

        struct Call {
            address to;
            uint256 gasCap;
            bytes data;
        }

        event CallFailed(uint256 index, uint8 cause, bytes data);

        error OnlyTheAccount();
        error UnknownMode(bytes32 mode);

        function execute(bytes32 mode, bytes executionData) external;
        function supportsExecutionMode(bytes32 mode) external view returns (bool);
    }
}

pub use abi::{Call, CallFailed, OnlyTheAccount, UnknownMode, executeCall, supportsExecutionModeCall};

#[derive(Deserialize)]
struct File<'a> {
    creation: &'a str,
    runtime: &'a str,
}

struct Code {
    creation: Bytes,
    runtime: Bytes,
}

static CODE: LazyLock<Code> = LazyLock::new(embedded);

#[allow(clippy::expect_used)] // the text is a constant of the build, and a test reads it
fn embedded() -> Code {
    let file: File<'_> = serde_json::from_str(ARTIFACT).expect("the embedded artefact is JSON");
    let bytes = |text: &str| Bytes::from_hex(text).expect("embedded bytecode is hexadecimal");
    Code { creation: bytes(file.creation), runtime: bytes(file.runtime) }
}

/// What a transaction carries that creates the executor. It has no constructor arguments.
#[must_use]
pub fn creation_code() -> Bytes {
    CODE.creation.clone()
}

/// The code that an executor of this release has on chain, to the byte.
#[must_use]
pub fn runtime_code() -> Bytes {
    CODE.runtime.clone()
}

/// The account that this one delegates to, from its code; none where it does not (EIP-7702).
#[must_use]
pub fn delegate(code: &[u8]) -> Option<Address> {
    code.strip_prefix(&EIP7702_DELEGATION_DESIGNATOR).filter(|rest| rest.len() == 20).map(Address::from_slice)
}

/// A batch as a transaction of the account: one call of its own code with these, each capped at its own gas limit.
#[must_use]
pub fn batch(account: Address, calls: &[Payload]) -> Payload {
    let gas = calls.iter().map(|call| ItemGas { cap: call.gas_limit, bytes: call.data.len() });
    let list: Vec<Call> = calls
        .iter()
        .map(|call| Call { to: call.to, gasCap: U256::from(call.gas_limit), data: call.data.clone() })
        .collect();
    let data = executeCall { mode: MODE, executionData: list.abi_encode().into() }.abi_encode();
    let gas_limit = gas_limit(gas).saturating_add(intrinsic(&data));
    Payload { to: account, data: data.into(), gas_limit }
}

/// The calls in a transaction that [`batch`] made, in order; none if it is no such transaction.
#[must_use]
pub fn read_batch(account: Address, transaction: &Payload) -> Option<Vec<Payload>> {
    if transaction.to != account {
        return None;
    }
    let call = executeCall::abi_decode_validate(&transaction.data).ok()?;
    if call.mode != MODE {
        return None;
    }
    let calls = Vec::<Call>::abi_decode_validate(&call.executionData).ok()?;
    let payload =
        |call: Call| Some(Payload { to: call.to, data: call.data, gas_limit: u64::try_from(call.gasCap).ok()? });
    calls.into_iter().map(payload).collect()
}

/// What one call adds to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemGas {
    /// Most gas that the call may use.
    pub cap: u64,
    /// Bytes of its calldata.
    pub bytes: usize,
}

/// Gas that the executor asks for beside a call's cap before it starts it (`BatchExecutor.sol`, `CALL_RESERVE`), and what it
/// spends on decoding and copying.
const ITEM_GAS: u64 = 14_000 + 2_000;
/// Gas of getting into the executor and out of it.
const FRAME_GAS: u64 = 5_000;
/// Calldata bytes of an item beside its call: the words of its place, target, cap and lengths.
pub const ITEM_BYTES: usize = 192;
/// Calldata bytes of a batch beside its items.
pub const FRAME_BYTES: usize = 4 + 5 * 32;

impl ItemGas {
    /// Its cap and everything spent for it.
    #[must_use]
    pub fn total(self) -> u64 {
        // Copying into memory, three gas per word for the copy and three for the memory, with room for its growth.
        let copied = (self.bytes as u64).div_ceil(32).saturating_mul(12);
        self.cap.saturating_add(ITEM_GAS).saturating_add(copied)
    }
}

/// Gas limit of a batch without what its calldata costs: the sum of the caps and of what the executor keeps back, so that
/// every call can have all of its cap even when all before it used theirs.
#[must_use]
pub fn gas_limit(items: impl IntoIterator<Item = ItemGas>) -> u64 {
    let (mut sum, mut largest) = (FRAME_GAS, 0);
    for item in items {
        sum = sum.saturating_add(item.total());
        largest = largest.max(item.cap);
    }
    // A call hands over 63 parts of 64 of what is left at most.
    sum.saturating_add(largest / 63)
}

/// What a transaction costs before its first instruction, with the floor of EIP-7623.
#[must_use]
pub fn intrinsic(data: &[u8]) -> u64 {
    let zeros = data.iter().filter(|byte| **byte == 0).count() as u64;
    let others = data.len() as u64 - zeros;
    21_000 + (4 * zeros + 16 * others).max(10 * (zeros + 4 * others))
}

/// What a batch's receipt says of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The contract recorded the answer: its own event says so.
    Recorded,
    /// The call reverted with this data, or the beginning of it; empty where it ran out of its gas.
    Reverted(Bytes),
    /// It was not started, since too little gas was left.
    NoGas,
    /// It was not started, since it is to the account itself.
    OwnAccount,
    /// Nothing is said: the account's code was not the executor, or the contract is not what it was taken for.
    Silent,
}

/// What a batch's logs say of its items, in their order. `logs` are all those of the transaction.
#[must_use]
pub fn outcomes(account: Address, contracts: &ContractSet, logs: &[RawLog], items: &[Identity]) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Silent; items.len()];
    for log in logs {
        // Only the account's own code can write in its name.
        if log.address == account && log.topics.first() == Some(&CallFailed::SIGNATURE_HASH) {
            if let Some((index, outcome)) = failure(log)
                && let Some(place) = outcomes.get_mut(index)
            {
                *place = outcome;
            }
            continue;
        }
        let Ok(Some(event)) = decode_response(contracts, log) else { continue };
        // In the account's own transaction only its own answers are recorded. Of two to one request the second fails.
        let answered =
            |item: &Identity| item.contract == log.address && item.kind == event.kind() && item.id == event.id();
        let place =
            items.iter().zip(&mut outcomes).find(|(item, outcome)| answered(item) && **outcome == Outcome::Silent);
        if let Some((_, outcome)) = place {
            *outcome = Outcome::Recorded;
        }
    }
    outcomes
}

fn failure(log: &RawLog) -> Option<(usize, Outcome)> {
    let failed = CallFailed::decode_raw_log_validate(log.topics.iter().copied(), &log.data).ok()?;
    let outcome = match failed.cause {
        0 => Outcome::Reverted(failed.data),
        1 => Outcome::NoGas,
        2 => Outcome::OwnAccount,
        _ => return None,
    };
    Some((usize::try_from(failed.index).ok()?, outcome))
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolEvent as _;
    use kms_chain::contracts::Decryption;
    use kms_chain::event::ContractSet;
    use kms_schemas::identity::{Kind, RequestId};
    use proptest::prelude::*;

    use super::*;

    const ACCOUNT: Address = Address::repeat_byte(0xac);
    const DECRYPTION: Address = Address::repeat_byte(0xde);

    fn contracts() -> ContractSet {
        ContractSet::gateway_a(DECRYPTION, Address::repeat_byte(0x99))
    }

    fn identity(id: u8) -> Identity {
        Identity {
            chain_id: 1,
            contract: DECRYPTION,
            kind: Kind::PublicDecryption,
            id: RequestId(B256::with_last_byte(id)),
        }
    }

    fn recorded(id: u8) -> RawLog {
        let event = Decryption::PublicDecryptionResponseCall {
            decryptionId: U256::from(id),
            decryptedResult: Bytes::from_static(&[0; 32]),
            signature: Bytes::from_static(&[1; 65]),
            kmsTxSender: ACCOUNT,
            extraData: Bytes::new(),
        };
        raw(DECRYPTION, &event.encode_log_data())
    }

    fn failed(index: u64, cause: u8, data: &'static [u8]) -> RawLog {
        let event = CallFailed { index: U256::from(index), cause, data: Bytes::from_static(data) };
        raw(ACCOUNT, &event.encode_log_data())
    }

    fn raw(address: Address, data: &alloy::primitives::LogData) -> RawLog {
        RawLog { address, topics: data.topics().to_vec(), data: data.data.clone() }
    }

    #[test]
    fn the_embedded_code_is_an_executor_that_knows_our_mode_and_fits_a_creation() {
        assert!(runtime_code().len() > 500 && creation_code().ends_with(&runtime_code()));
        assert!(creation_code().len() < 49_152, "beyond EIP-3860");
        let knows = |bytes: &[u8]| runtime_code().windows(bytes.len()).any(|window| window == bytes);
        assert!(knows(&executeCall::SELECTOR) && knows(&supportsExecutionModeCall::SELECTOR));
        assert!(knows(&MODE[6..10]) && knows(CallFailed::SIGNATURE_HASH.as_slice()));
    }

    #[test]
    fn each_item_is_judged_by_its_own_log() {
        let items: Vec<Identity> = (1..=6).map(identity).collect();
        let logs = [recorded(1), failed(1, 0, b"why"), failed(2, 1, b""), recorded(4), failed(4, 2, b"")];
        let found = outcomes(ACCOUNT, &contracts(), &logs, &items);
        let expected = [
            Outcome::Recorded,
            Outcome::Reverted(Bytes::from_static(b"why")),
            Outcome::NoGas,
            Outcome::Recorded,
            Outcome::OwnAccount,
            Outcome::Silent,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn p3_the_second_of_two_answers_to_one_request_is_not_taken_for_the_first() {
        let items = [identity(1), identity(1)];
        let logs = [recorded(1), failed(1, 0, b"already")];
        let found = outcomes(ACCOUNT, &contracts(), &logs, &items);
        assert_eq!(found, [Outcome::Recorded, Outcome::Reverted(Bytes::from_static(b"already"))]);
    }

    #[test]
    fn p4_logs_of_others_say_nothing() {
        let mut foreign = failed(0, 0, b"");
        foreign.address = DECRYPTION;
        let mut elsewhere = recorded(1);
        elsewhere.address = Address::repeat_byte(0x11);
        let beyond = failed(7, 0, b"");
        let strange = failed(0, 9, b"");
        let found = outcomes(ACCOUNT, &contracts(), &[foreign, elsewhere, beyond, strange], &[identity(1)]);
        assert_eq!(found, [Outcome::Silent]);
    }

    #[test]
    fn a_delegation_is_read_from_the_accounts_code() {
        let code = [&[0xef, 0x01, 0x00][..], ACCOUNT.as_slice()].concat();
        assert_eq!(delegate(&code), Some(ACCOUNT));
        assert_eq!(delegate(&[]), None);
        assert_eq!(delegate(&code[..22]), None);
        assert_eq!(delegate(&runtime_code()), None);
    }

    #[test]
    fn a_transaction_that_is_no_batch_reads_as_none() {
        let call = Payload { to: DECRYPTION, data: Bytes::from_static(&[1; 36]), gas_limit: 1 };
        let made = batch(ACCOUNT, std::slice::from_ref(&call));
        assert_eq!(read_batch(ACCOUNT, &call), None);
        assert_eq!(read_batch(DECRYPTION, &made), None, "of another account");
        let mut other_mode = made.clone();
        other_mode.data = [&made.data[..4], &[7; 32], &made.data[36..]].concat().into();
        assert_eq!(read_batch(ACCOUNT, &other_mode), None);
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_and_has_room_for_every_cap(
            calls in prop::collection::vec((any::<[u8; 20]>(), 0u64..3_000_000, prop::collection::vec(any::<u8>(), 0..3_000)), 0..40)
        ) {
            let calls: Vec<Payload> = calls
                .into_iter()
                .map(|(to, gas_limit, data)| Payload { to: to.into(), gas_limit, data: data.into() })
                .collect();
            let made = batch(ACCOUNT, &calls);
            let bytes: usize = calls.iter().map(|call| call.data.len().div_ceil(32) * 32 + ITEM_BYTES).sum();
            prop_assert!(made.data.len() <= FRAME_BYTES + bytes);
            // What the executor asks for before each call, when all before it used all that they may.
            let mut left = made.gas_limit - intrinsic(&made.data) - FRAME_GAS;
            for (index, call) in calls.iter().enumerate() {
                let later = (calls.len() - index - 1) as u64;
                prop_assert!(left >= call.gas_limit + call.gas_limit / 63 + 14_000 + 3_000 * later);
                left -= ItemGas { cap: call.gas_limit, bytes: call.data.len() }.total();
            }
            prop_assert_eq!(read_batch(ACCOUNT, &made), Some(calls));
        }
    }
}
