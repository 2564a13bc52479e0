//! What recomputes, and that nothing else is believed. The blocks are anvil's (`tests/authority/capture.rs`), and block
//! 350 791 066 of Arbitrum One.

use alloy::consensus::{Header, SignableTransaction, TxEip4844, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, B64, B256, Bloom, Bytes, Signature, U256, keccak256};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::block::{ProvenBlock, ProvenHeader};
use super::header::BlockFields;
use super::receipt::ReceiptFields;
use super::transaction::TransactionFields;

fn golden() -> Vec<Value> {
    serde_json::from_str(include_str!("../../tests/authority/blocks.json")).expect("JSON")
}

fn arbitrum() -> Value {
    serde_json::from_str(include_str!("../../tests/authority/arbitrum.json")).expect("JSON")
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("JSON")
}

fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().expect("text").trim_start_matches("0x"), 16).expect("hex")
}

fn prove(stated: &Value) -> Result<ProvenBlock, String> {
    let header = ProvenHeader::read(&raw(&stated["block"]), quantity(&stated["block"]["number"]))?;
    let receipts: Vec<ReceiptFields> =
        serde_json::from_value(stated["receipts"].clone()).map_err(|error| error.to_string())?;
    header.with_receipts(receipts)
}

/// Everything that is believed of a block.
fn believed(block: &ProvenBlock) -> String {
    format!("{block:?}")
}

#[test]
fn p4_a_block_with_transactions_of_every_type_recomputes() {
    for stated in golden() {
        let block = prove(&stated).expect("a block that fits");
        assert_eq!(json!(block.link.hash), stated["block"]["hash"]);
        let transactions: Vec<Value> = block.transactions.iter().map(|tx| json!(tx.hash)).collect();
        let stated_hashes: Vec<Value> =
            stated["block"]["transactions"].as_array().expect("a list").iter().map(|tx| tx["hash"].clone()).collect();
        assert_eq!(transactions, stated_hashes);
        let stated_logs = stated["receipts"].as_array().expect("a list").iter();
        let stated_logs: Vec<&Value> =
            stated_logs.flat_map(|receipt| receipt["logs"].as_array().expect("a list")).collect();
        assert_eq!(block.log_count(), stated_logs.len());
        for stated in stated_logs {
            let log = block.log(quantity(&stated["logIndex"])).expect("a log");
            assert_eq!(json!(log.raw.address), stated["address"]);
            assert_eq!(json!(log.raw.topics), stated["topics"]);
            assert_eq!(json!(log.raw.data), stated["data"]);
            assert_eq!(json!(block.transactions[log.transaction].hash), stated["transactionHash"]);
        }
    }
}

#[test]
fn the_golden_blocks_hold_every_case() {
    let blocks = golden();
    let transactions = || blocks.iter().flat_map(|stated| stated["block"]["transactions"].as_array().expect("a list"));
    for kind in ["0x0", "0x1", "0x2", "0x4"] {
        assert!(transactions().any(|tx| tx["type"] == kind), "{kind}");
    }
    let receipts = || blocks.iter().flat_map(|stated| stated["receipts"].as_array().expect("a list"));
    assert!(receipts().any(|receipt| receipt["status"] == "0x0"), "a failed transaction");
    assert!(blocks[2]["receipts"].as_array().is_some_and(Vec::is_empty), "an empty block");
}

#[test]
fn p4_a_block_of_arbitrum_one_recomputes_with_its_internal_transaction() {
    let block = arbitrum();
    let header = ProvenHeader::read(&raw(&block), 350_791_066).expect("a block that fits");
    let hashes: Vec<Value> = header.transaction_hashes().into_iter().map(|hash| json!(hash)).collect();
    let stated: Vec<Value> =
        block["transactions"].as_array().expect("a list").iter().map(|tx| tx["hash"].clone()).collect();
    assert_eq!(hashes, stated);
}

fn transaction_hash(transaction: Value) -> B256 {
    let transaction: TransactionFields = serde_json::from_value(transaction).expect("a transaction");
    let mut encoded = Vec::new();
    transaction.encode(&mut encoded).expect("a known type");
    keccak256(encoded)
}

/// Concatenates fields, encoded one by one, to a typed list.
fn typed_list(kind: u8, fields: &[&dyn alloy::rlp::Encodable]) -> B256 {
    let mut payload = Vec::new();
    fields.iter().for_each(|field| field.encode(&mut payload));
    let mut encoded = vec![kind];
    alloy::rlp::Header { list: true, payload_length: payload.len() }.encode(&mut encoded);
    encoded.extend(payload);
    keccak256(encoded)
}

#[test]
fn arbitrums_own_transactions_hash_over_the_fields_that_nitro_encodes() {
    // Every field has a value of its own, so that no two can be confused.
    let (chain, nonce, fee, gas, value) = (42_161_u64, 7_u64, 1_000_u64, 90_000_u64, 5_u64);
    let (from, to, refund, beneficiary) =
        (Address::repeat_byte(1), Address::repeat_byte(2), Address::repeat_byte(3), Address::repeat_byte(4));
    let (request, ticket) = (B256::with_last_byte(9), B256::repeat_byte(8));
    let data = Bytes::from(vec![0xaa; 60]);
    let (base_fee, deposit, max_fee, max_refund, fee_refund) = (11_u64, 12_u64, 13_u64, 14_u64, 15_u64);
    let json = |kind: &str| {
        transaction_hash(json!({
            "type": kind, "chainId": "0xa4b1", "nonce": "0x7", "maxFeePerGas": "0x3e8", "gasPrice": "0x3e8", "gas": "0x15f90",
            "from": from, "to": to, "value": "0x5", "input": data, "requestId": request, "ticketId": ticket,
            "refundTo": refund, "maxRefund": "0xe", "submissionFeeRefund": "0xf", "l1BaseFee": "0xb",
            "depositValue": "0xc", "retryTo": to, "retryValue": "0x5", "retryData": data, "beneficiary": beneficiary,
            "maxSubmissionFee": "0xd", "v": "0x0", "r": "0x0", "s": "0x0",
        }))
    };
    assert_eq!(json("0x64"), typed_list(0x64, &[&chain, &request, &from, &to, &value]));
    assert_eq!(json("0x65"), typed_list(0x65, &[&chain, &from, &nonce, &fee, &gas, &to, &value, &data]));
    assert_eq!(json("0x66"), typed_list(0x66, &[&chain, &request, &from, &fee, &gas, &to, &value, &data]));
    let retry: [&dyn alloy::rlp::Encodable; 12] =
        [&chain, &nonce, &from, &fee, &gas, &to, &value, &data, &ticket, &refund, &max_refund, &fee_refund];
    assert_eq!(json("0x68"), typed_list(0x68, &retry));
    let submit: [&dyn alloy::rlp::Encodable; 13] =
        [&chain, &request, &from, &base_fee, &deposit, &fee, &gas, &to, &value, &beneficiary, &max_fee, &refund, &data];
    assert_eq!(json("0x69"), typed_list(0x69, &submit));
    assert_eq!(json("0x6a"), typed_list(0x6a, &[&chain, &data]));
}

#[test]
fn p4_nothing_is_believed_of_a_transaction_that_its_encoding_does_not_hold() {
    let retryable = json!({ "type": "0x69", "to": Address::repeat_byte(1), "input": "0x1234" });
    let deposit = json!({ "type": "0x64", "to": Address::repeat_byte(1), "input": "0x1234" });
    let internal = json!({ "type": "0x6a", "to": Address::repeat_byte(1), "input": "0x1234" });
    let call = |json: Value| serde_json::from_value::<TransactionFields>(json).expect("a transaction").into_call();
    assert_eq!(call(retryable), (None, Bytes::new()));
    assert_eq!(call(deposit), (Some(Address::repeat_byte(1)), Bytes::new()));
    assert_eq!(call(internal), (None, Bytes::from(vec![0x12, 0x34])));
}

#[test]
fn a_transaction_of_an_unknown_type_is_undecidable() {
    let mut block = arbitrum();
    block["transactions"][0]["type"] = json!("0x6b");
    let why = ProvenHeader::read(&raw(&block), 350_791_066).expect_err("not known");
    assert!(why.contains("0x6b"), "{why}");
}

#[test]
fn a_receipt_carries_its_type_except_those_that_are_encoded_as_legacy() {
    let receipt = |kind: u8| {
        let json = json!({ "type": format!("{kind:#x}"), "status": "0x1", "cumulativeGasUsed": "0x5208",
            "logsBloom": Bloom::ZERO, "logs": [], "gasUsedForL1": "0x2a", "l1BlockNumber": "0x1406f40", "timeboosted": true,
            "multiGasUsed": { "computation": "0x1" } });
        let receipt: ReceiptFields = serde_json::from_value(json).expect("a receipt");
        let mut encoded = Vec::new();
        receipt.encode(&mut encoded).expect("a type");
        encoded
    };
    let legacy = receipt(0);
    assert_eq!(receipt(0x78), legacy);
    for kind in [1, 2, 3, 4, 0x64, 0x65, 0x66, 0x68, 0x69, 0x6a] {
        let encoded = receipt(kind);
        assert_eq!((encoded[0], &encoded[1..]), (kind, &legacy[..]));
    }
}

#[test]
fn a_receipt_from_before_byzantium_has_a_root_instead_of_a_status() {
    let json =
        json!({ "root": B256::repeat_byte(7), "cumulativeGasUsed": "0x1", "logsBloom": Bloom::ZERO, "logs": [] });
    let receipt: ReceiptFields = serde_json::from_value(json).expect("a receipt");
    let mut encoded = Vec::new();
    receipt.encode(&mut encoded).expect("a type");
    assert_eq!(encoded[4..36], [7; 32]);
}

#[test]
fn p4_receipts_of_another_block_do_not_fit() {
    let blocks = golden();
    let forged = json!({ "block": blocks[3]["block"], "receipts": blocks[4]["receipts"] });
    assert!(prove(&forged).is_err());
    let none = json!({ "block": blocks[3]["block"], "receipts": [] });
    assert!(prove(&none).is_err());
    let mut swapped = blocks[3].clone();
    swapped["receipts"].as_array_mut().expect("a list").swap(0, 1);
    assert!(prove(&swapped).is_err());
}

#[test]
fn p4_a_block_with_another_number_than_the_one_asked_for_does_not_fit() {
    let blocks = golden();
    assert!(ProvenHeader::read(&raw(&blocks[3]["block"]), 4).is_err());
}

#[test]
fn calldata_is_kept_only_of_transactions_that_have_logs() {
    let block = prove(&golden()[3]).expect("a block that fits");
    let with_logs: Vec<usize> =
        (0..block.log_count() as u64).map(|i| block.log(i).expect("a log").transaction).collect();
    for (index, transaction) in block.transactions.iter().enumerate() {
        assert_eq!(transaction.input.is_empty(), !with_logs.contains(&index), "transaction {index}");
    }
}

/// Paths of everything in hexadecimal.
fn hexadecimals(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.len() > 2 => found.push(path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| hexadecimals(item, &format!("{path}/{index}"), found));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| hexadecimals(field, &format!("{path}/{name}"), found));
        }
        _ => {}
    }
}

/// Another digit at some place of some text.
fn flipped(stated: &Value, which: usize, at: usize, by: u32) -> (String, Value) {
    let mut paths = Vec::new();
    hexadecimals(stated, "", &mut paths);
    let path = paths[which % paths.len()].clone();
    let mut changed = stated.clone();
    let text = changed.pointer_mut(&path).expect("a text");
    let mut digits: Vec<char> = text.as_str().expect("a text").chars().collect();
    let at = 2 + at % (digits.len() - 2);
    let digit = digits[at].to_digit(16).expect("a digit");
    digits[at] = char::from_digit((digit + by) % 16, 16).expect("a digit");
    *text = json!(digits.into_iter().collect::<String>());
    (path, changed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever is changed: either it is refused, or it was nothing that anybody believes.
    #[test]
    fn p4_a_changed_digit_is_never_believed(block in 0..5_usize, which: usize, at: usize, by in 1..16_u32) {
        let original = &golden()[block];
        let (path, changed) = flipped(original, which, at, by);
        if let Ok(proven) = prove(&changed) {
            prop_assert_eq!(believed(&proven), believed(&prove(original).expect("a block that fits")), "{}", path);
        }
    }
}

#[test]
fn p4_every_changed_field_of_header_and_logs_is_refused() {
    let original = &golden()[3];
    let hashed = [
        "parentHash",
        "sha3Uncles",
        "miner",
        "stateRoot",
        "transactionsRoot",
        "receiptsRoot",
        "logsBloom",
        "number",
        "gasLimit",
        "gasUsed",
        "timestamp",
        "mixHash",
        "nonce",
        "baseFeePerGas",
        "hash",
        "blobGasUsed",
        "withdrawalsRoot",
    ];
    let mut paths = Vec::new();
    hexadecimals(original, "", &mut paths);
    let matters = |path: &str| {
        hashed.iter().any(|field| path == format!("/block/{field}"))
            || (path.contains("/logs/") && ["address", "data"].iter().any(|field| path.ends_with(field)))
            || path.contains("/topics/")
            || (path.starts_with("/block/transactions") && path.ends_with("/input"))
    };
    let mut refused = 0;
    for (which, path) in paths.iter().enumerate().filter(|(_, path)| matters(path)) {
        for at in 0..8 {
            let (_, changed) = flipped(original, which, at, 1);
            assert!(prove(&changed).is_err(), "{path}");
        }
        refused += 1;
    }
    assert!(refused > 30, "{refused}");
}

/// A header as some fork makes it: each fork appends to the one before.
fn any_header() -> impl Strategy<Value = (Header, usize)> {
    let fixed = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u64; 6]>(), prop::collection::vec(any::<u8>(), 0..40));
    (fixed, 0..9_usize).prop_map(|((hash, other, numbers, extra), fork)| {
        let mut header = Header {
            parent_hash: hash.into(),
            ommers_hash: other.into(),
            beneficiary: Address::from_slice(&hash[..20]),
            state_root: B256::from(other),
            transactions_root: alloy::consensus::constants::EMPTY_ROOT_HASH,
            receipts_root: B256::from(hash),
            logs_bloom: Bloom::repeat_byte(hash[0]),
            difficulty: U256::from_be_bytes(other),
            number: numbers[0],
            gas_limit: numbers[1],
            gas_used: numbers[2],
            timestamp: numbers[3],
            extra_data: extra.into(),
            mix_hash: other.into(),
            nonce: B64::from(numbers[4]),
            ..Header::default()
        };
        header.base_fee_per_gas = (fork > 0).then_some(numbers[5]);
        header.withdrawals_root = (fork > 1).then_some(hash.into());
        header.blob_gas_used = (fork > 2).then_some(numbers[0] / 2);
        header.excess_blob_gas = (fork > 3).then_some(0);
        header.parent_beacon_block_root = (fork > 4).then_some(other.into());
        header.requests_hash = (fork > 5).then_some(hash.into());
        header.block_access_list_hash = (fork > 6).then_some(other.into());
        header.slot_number = (fork > 7).then_some(numbers[1]);
        (header, fork)
    })
}

proptest! {
    #[test]
    fn a_header_of_any_fork_hashes_as_alloy_says((header, fork) in any_header()) {
        let mut json = serde_json::to_value(&header).expect("JSON");
        json["hash"] = json!(header.hash_slow());
        json["transactions"] = json!([]);
        let block: BlockFields = serde_json::from_value(json.clone()).expect("a block");
        prop_assert_eq!(block.header_hash(), header.hash_slow(), "fork {}", fork);
        prop_assert!(ProvenHeader::read(&raw(&json), header.number).is_ok());
    }
}

#[test]
fn a_base_fee_beyond_64_bits_is_hashed_in_full() {
    let mut block = golden()[2]["block"].clone();
    block["baseFeePerGas"] = json!("0xffffffffffffffff");
    let saturated = serde_json::from_value::<BlockFields>(block.clone()).expect("a block").header_hash();
    block["baseFeePerGas"] = json!("0x1ffffffffffffffff");
    let full = serde_json::from_value::<BlockFields>(block).expect("a block").header_hash();
    assert_ne!(saturated, full);
}

#[test]
fn a_blob_transaction_hashes_as_alloy_says() {
    let tx = TxEip4844 {
        chain_id: 1,
        nonce: 9,
        gas_limit: 21_000,
        max_fee_per_gas: 30,
        max_priority_fee_per_gas: 2,
        to: Address::repeat_byte(5),
        value: U256::from(77),
        access_list: serde_json::from_value(json!([{ "address": Address::ZERO, "storageKeys": [B256::ZERO] }]))
            .expect("a list"),
        blob_versioned_hashes: vec![B256::repeat_byte(1), B256::repeat_byte(2)],
        max_fee_per_blob_gas: 11,
        input: vec![1, 2, 3].into(),
    };
    let envelope = TxEnvelope::from(tx.into_signed(Signature::test_signature()));
    let json = serde_json::to_value(&envelope).expect("JSON");
    assert_eq!(transaction_hash(json), keccak256(envelope.encoded_2718()));
}
