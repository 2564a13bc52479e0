//! The access checks before a node made of tables: who may have what is data here.

use std::sync::{Arc, Mutex};

use alloy::primitives::keccak256;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolValue;

use super::*;
use crate::mock::{MockChain, word};

const ACL: Address = Address::repeat_byte(0xac);
const CONTRACT: Address = Address::repeat_byte(0xc1);
const OTHER: Address = Address::repeat_byte(0xc2);
const OWNER: Address = Address::repeat_byte(0xa2);
const DECRYPTION: Address = Address::repeat_byte(0xd1);
const CHAIN: u64 = 12_345;

fn key() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(5)).unwrap()
}

fn user() -> Address {
    key().address()
}

fn handle_on(chain: u64, number: u8) -> B256 {
    let mut bytes = keccak256([number]).0;
    bytes[22..30].copy_from_slice(&chain.to_be_bytes());
    (bytes[30], bytes[31]) = (5, 0);
    bytes.into()
}

fn handle(number: u8) -> B256 {
    handle_on(CHAIN, number)
}

/// What the list says yes to.
#[derive(Clone, Default)]
struct List(Arc<Mutex<Vec<Question>>>);

impl List {
    fn allow(&self, question: Question) {
        self.0.lock().unwrap().push(question);
    }

    fn forbid(&self, question: Question) {
        self.0.lock().unwrap().retain(|allowed| *allowed != question);
    }

    /// A "yes" to these, else a "no".
    fn answer(&self, chain: &MockChain) {
        fn on<C: SolCall>(list: &List, chain: &MockChain, question: impl Fn(C) -> Question + Send + Sync + 'static) {
            let list = list.clone();
            chain.on(C::SELECTOR, move |arguments| {
                let asked = question(C::abi_decode_raw(arguments).unwrap());
                let allowed = list.0.lock().unwrap().contains(&asked);
                Ok(word(U256::from(u8::from(allowed))))
            });
        }
        on::<HostAcl::isAllowedCall>(self, chain, |call| Question::Allowed(call.handle, call.account));
        on::<HostAcl::isAllowedForDecryptionCall>(self, chain, |call| Question::ForDecryption(call.handle));
        on::<HostAcl::isHandleDelegatedForUserDecryptionCall>(self, chain, |call| Question::Delegated {
            delegator: call.delegator,
            delegate: call.delegate,
            contract: call.contractAddress,
            handle: call.handle,
        });
    }
}

struct Scene {
    chain: MockChain,
    list: List,
    chains: HostChains,
}

impl Scene {
    async fn start() -> Self {
        let (chain, list) = (MockChain::start().await, List::default());
        list.answer(&chain);
        invalidated_before(&chain, 0);
        let host_chain = HostChain { rpc: chain.rpc(), acl: ACL };
        let chains = HostChains::new(BTreeMap::from([(CHAIN, host_chain)]), 100_000);
        Self { chain, list, chains }
    }

    async fn public(&self, handles: &[B256]) -> Result<(), Trouble> {
        self.chains.check_public(handles, &Answered::unheard()).await
    }

    async fn legacy(&self, asker: Asker, pairs: &[(B256, Address)]) -> Result<(), Trouble> {
        let grounds = Grounds { pairs: pairs.to_vec(), asker };
        self.chains.check_legacy(&grounds, &Answered::unheard()).await
    }

    async fn unified(&self, request: &UnifiedUserDecryption) -> Result<(), Trouble> {
        self.chains.check_unified(request, &domain(), &Answered::unheard()).await
    }
}

fn domain() -> Domain {
    Domain::decryption(54_321, DECRYPTION)
}

fn invalidated_before(chain: &MockChain, time: u64) {
    chain.on_selector(HostAclB::decryptionSignatureInvalidatedBeforeCall::SELECTOR, word(U256::from(time)));
}

/// The code of a "no" that is waited for.
fn waits(outcome: Result<(), Trouble>) -> &'static str {
    match outcome {
        Err(Trouble::Waits { budget: Budget::Access, code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

fn permanent(outcome: Result<(), Trouble>) -> &'static str {
    match outcome {
        Err(Trouble::Permanent { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

fn outage(outcome: Result<(), Trouble>) -> &'static str {
    match outcome {
        Err(Trouble::Outage { dependency: HOST_CHAIN, code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

// --- Public ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn p4_a_public_decryption_needs_every_handle_allowed_for_decryption() {
    let scene = Scene::start().await;
    let asked = [handle(1), handle(2), handle(1)];
    scene.list.allow(Question::ForDecryption(handle(1)));
    assert_eq!(waits(scene.public(&asked).await), codes::NOT_PUBLIC);
    scene.list.allow(Question::ForDecryption(handle(2)));
    assert_eq!(scene.public(&asked).await, Ok(()));
    assert_eq!(scene.chain.calls().len(), 4, "a handle that stands twice is asked for once");
    assert_eq!(scene.chain.posts_with("eth_call"), 2, "one HTTP request each");
    // What was a yes is asked again: the next head may say no.
    scene.list.forbid(Question::ForDecryption(handle(1)));
    assert_eq!(waits(scene.public(&asked).await), codes::NOT_PUBLIC);
}

#[tokio::test]
async fn a_public_decryption_may_be_of_several_host_chains_and_each_is_asked() {
    let scene = Scene::start().await;
    let other = Scene::start().await;
    let mut chains = scene.chains.chains.clone();
    chains.insert(9, other.chains.chains[&CHAIN].clone());
    let both = HostChains::new(chains, 100_000);
    let asked = [handle(1), handle_on(9, 1)];
    scene.list.allow(Question::ForDecryption(asked[0]));
    scene.list.allow(Question::ForDecryption(asked[1]));
    let outcome = both.check_public(&asked, &Answered::unheard()).await;
    assert_eq!(waits(outcome), codes::NOT_PUBLIC, "what one chain says of the other's handles does not count");
    other.list.allow(Question::ForDecryption(asked[1]));
    assert_eq!(both.check_public(&asked, &Answered::unheard()).await, Ok(()));
    // One of two chains down concerns only who needs it.
    other.chain.break_down(true);
    let outcome = both.check_public(&asked, &Answered::unheard()).await;
    assert!(matches!(outcome, Err(Trouble::Outage { reach: Reach::Some, .. })), "{outcome:?}");
    assert_eq!(both.check_public(&asked[..1], &Answered::unheard()).await, Ok(()));
}

#[tokio::test]
async fn p4_a_handle_of_a_chain_that_is_not_configured_is_refused_for_good_and_nobody_is_asked() {
    let scene = Scene::start().await;
    let foreign = handle_on(99, 1);
    let outcome = scene.public(&[handle(1), foreign]).await;
    assert!(outcome.as_ref().is_err_and(|trouble| trouble.to_string().contains("host chain 99")), "{outcome:?}");
    assert_eq!(permanent(outcome), codes::HOST_CHAIN_UNKNOWN);
    assert_eq!(permanent(scene.legacy(Asker::User(user()), &[(foreign, CONTRACT)]).await), codes::HOST_CHAIN_UNKNOWN);
    assert_eq!(scene.chain.posts(), 0);
}

// --- Legacy ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn p4_a_direct_user_decryption_needs_user_and_contract_allowed_for_every_pair() {
    let scene = Scene::start().await;
    let pairs = [(handle(1), CONTRACT), (handle(1), OTHER)];
    let check = || scene.legacy(Asker::User(user()), &pairs);
    scene.list.allow(Question::Allowed(handle(1), CONTRACT));
    assert_eq!(waits(check().await), codes::NOT_OWNED);
    scene.list.allow(Question::Allowed(handle(1), user()));
    assert_eq!(waits(check().await), codes::NOT_ALLOWED_FOR_CONTRACT, "the handle's second contract counts too");
    scene.list.allow(Question::Allowed(handle(1), OTHER));
    assert_eq!(check().await, Ok(()));
    let reversed = [pairs[1], pairs[0]];
    scene.list.forbid(Question::Allowed(handle(1), CONTRACT));
    assert_eq!(waits(scene.legacy(Asker::User(user()), &reversed).await), codes::NOT_ALLOWED_FOR_CONTRACT);
}

#[tokio::test]
async fn p4_a_delegated_user_decryption_needs_the_delegation_of_every_pair() {
    let scene = Scene::start().await;
    let asker = Asker::Delegate { delegator: OWNER, delegate: user() };
    let pairs = [(handle(1), CONTRACT), (handle(2), OTHER)];
    let delegated = |handle, contract| Question::Delegated { delegator: OWNER, delegate: user(), contract, handle };
    // Neither ownership nor a delegation for another contract is enough.
    scene.list.allow(Question::Allowed(handle(1), user()));
    scene.list.allow(delegated(handle(1), CONTRACT));
    scene.list.allow(delegated(handle(2), CONTRACT));
    assert_eq!(waits(scene.legacy(asker, &pairs).await), codes::NOT_DELEGATED);
    scene.list.allow(delegated(handle(2), OTHER));
    assert_eq!(scene.legacy(asker, &pairs).await, Ok(()));
    let reversed = Asker::Delegate { delegator: user(), delegate: OWNER };
    assert_eq!(waits(scene.legacy(reversed, &pairs).await), codes::NOT_DELEGATED);
}

// --- Outages --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn p4_only_a_decoded_answer_is_one_everything_else_is_an_outage_and_never_a_verdict() {
    let scene = Scene::start().await;
    let asked = [handle(1)];
    let check = || scene.public(&asked);
    scene.chain.break_down(true);
    assert_eq!(outage(check().await), codes::ACL_UNREACHABLE);
    scene.chain.break_down(false);
    let answers: [Result<Vec<u8>, Vec<u8>>; 6] = [
        Ok(Vec::new()),
        Ok(vec![1]),
        Ok(word(U256::from(2))),
        Ok(word(U256::MAX)),
        Err(Vec::new()),
        Err(word(U256::ONE)),
    ];
    for answer in answers {
        let what = format!("{answer:?}");
        scene.chain.on(HostAcl::isAllowedForDecryptionCall::SELECTOR, move |_| answer.clone());
        let outcome = check().await;
        assert!(matches!(outcome, Err(Trouble::Outage { code: codes::ACL_UNREADABLE, .. })), "{what}: {outcome:?}");
    }
    let outcome = check().await;
    assert!(matches!(outcome, Err(Trouble::Outage { reach: Reach::All, .. })), "the only host chain: {outcome:?}");
}

// --- Unified --------------------------------------------------------------------------------------------------------

fn signed(mut request: UnifiedUserDecryption) -> UnifiedUserDecryption {
    let digest = user_request::signed_digest(&domain(), CHAIN, &request);
    request.signature = key().sign_hash_sync(&digest).unwrap().as_bytes().to_vec().into();
    request
}

/// A request of the user for two handles: an own one and one of the owner's.
fn unified() -> UnifiedUserDecryption {
    signed(UnifiedUserDecryption {
        materials: Vec::new(),
        entries: vec![
            HandleEntry { handle: handle(1), contract: CONTRACT, owner: user() },
            HandleEntry { handle: handle(2), contract: OTHER, owner: OWNER },
        ],
        user_address: user(),
        public_key: Bytes::from_static(b"key"),
        allowed_contracts: vec![CONTRACT, OTHER],
        start_timestamp: U256::from(1_000),
        duration_seconds: U256::from(500),
        extra_data: Bytes::new(),
        signature: Bytes::new(),
    })
}

fn delegation() -> Question {
    Question::Delegated { delegator: OWNER, delegate: user(), contract: OTHER, handle: handle(2) }
}

/// Every right that [`unified`] needs.
fn allow_all(scene: &Scene) {
    scene.list.allow(Question::Allowed(handle(1), user()));
    scene.list.allow(delegation());
    scene.list.allow(Question::Allowed(handle(1), CONTRACT));
    scene.list.allow(Question::Allowed(handle(2), OTHER));
}

#[tokio::test]
async fn p4_a_unified_request_needs_ownership_or_delegation_and_the_list_of_contracts() {
    let scene = Scene::start().await;
    allow_all(&scene);
    assert_eq!(scene.unified(&unified()).await, Ok(()));
    assert_eq!(scene.chain.posts_with("eth_call"), 1, "everything in one HTTP request");
    for (right, code) in [
        (Question::Allowed(handle(1), user()), codes::NOT_OWNED),
        (delegation(), codes::NOT_DELEGATED),
        (Question::Allowed(handle(1), CONTRACT), codes::NOT_LISTED),
        (Question::Allowed(handle(2), OTHER), codes::NOT_LISTED),
    ] {
        scene.list.forbid(right);
        assert_eq!(waits(scene.unified(&unified()).await), code, "{right:?}");
        scene.list.allow(right);
    }
    assert_eq!(scene.unified(&unified()).await, Ok(()));
}

#[tokio::test]
async fn any_contract_of_the_users_list_will_do_and_an_empty_list_stands_for_all() {
    let scene = Scene::start().await;
    allow_all(&scene);
    // The handle's own contract may not use it, another of the list may.
    scene.list.forbid(Question::Allowed(handle(1), CONTRACT));
    scene.list.allow(Question::Allowed(handle(1), OTHER));
    assert_eq!(scene.unified(&unified()).await, Ok(()));
    // A contract that the user did not list does not count.
    let mut other = unified();
    other.allowed_contracts = vec![CONTRACT];
    scene.list.allow(Question::Allowed(handle(2), CONTRACT));
    assert_eq!(waits(scene.unified(&signed(other.clone())).await), codes::NOT_LISTED);
    other.allowed_contracts.clear();
    assert_eq!(scene.unified(&signed(other)).await, Ok(()));
}

#[tokio::test]
async fn p4_a_wrong_signature_of_a_user_without_code_is_refused_for_good() {
    let scene = Scene::start().await;
    allow_all(&scene);
    let mut wrong = unified();
    wrong.duration_seconds += U256::ONE;
    assert_eq!(permanent(scene.unified(&wrong).await), codes::USER_SIGNATURE_WRONG);
    let mut none = unified();
    none.signature = Bytes::new();
    assert_eq!(permanent(scene.unified(&none).await), codes::USER_SIGNATURE_WRONG);
}

#[tokio::test]
async fn a_users_contract_vouches_for_a_signature_within_its_gas() {
    let scene = Scene::start().await;
    allow_all(&scene);
    let mut request = unified();
    request.signature = Bytes::from_static(b"whatever the contract likes");
    let digest = user_request::signed_digest(&domain(), CHAIN, &request);
    let magic = |bytes: &[u8]| [bytes, &[0; 28]].concat();
    let (right, other) = (magic(&Erc1271::isValidSignatureCall::SELECTOR), magic(&[0xff; 4]));
    let expected = (digest, request.signature.clone()).abi_encode_params();
    let answer = right.clone();
    scene.chain.on(Erc1271::isValidSignatureCall::SELECTOR, move |arguments| {
        assert_eq!(arguments, expected);
        Ok(answer.clone())
    });
    assert_eq!(scene.unified(&request).await, Ok(()));
    let calls = scene.chain.calls();
    let asked: Vec<_> = calls.iter().filter(|call| call["to"] == serde_json::json!(user())).collect();
    assert!(asked.len() == 1 && asked[0]["gas"] == "0x186a0", "{asked:?}");

    for answer in [Ok(other), Ok(right[..31].to_vec()), Ok(vec![0]), Err(Vec::new()), Err(vec![1, 2, 3, 4])] {
        scene.chain.on(Erc1271::isValidSignatureCall::SELECTOR, move |_| answer.clone());
        assert_eq!(waits(scene.unified(&request).await), codes::CONTRACT_SIGNATURE_REFUSED);
    }
    scene.chain.on_selector(Erc1271::isValidSignatureCall::SELECTOR, Vec::new());
    assert_eq!(permanent(scene.unified(&request).await), codes::USER_SIGNATURE_WRONG, "there is no contract");
}

#[tokio::test]
async fn p5_what_a_users_contract_or_signature_does_to_the_call_is_no_outage_of_the_chain() {
    let scene = Scene::start().await;
    allow_all(&scene);
    let mut request = unified();
    request.signature = Bytes::from_static(b"whatever the contract likes");
    for (code, text) in [
        (-32000, "invalid jump destination"),
        (-32000, "stack underflow (0 <=> 2)"),
        (-32000, "stack limit reached 1024 (1023)"),
        (-32000, "write protection"),
        (-32000, "return data out of bounds"),
        (-32000, "out of gas"),
        (-32000, "invalid opcode: INVALID"),
        (-32000, "gas uint64 overflow"),
        (-32000, "err: intrinsic gas too low: have 100000, want 101464 (supplied gas 100000)"),
        (-32000, "err: insufficient gas for floor data gas cost: have 100000, want 221000 (supplied gas 100000)"),
        (-32000, "contract creation code storage out of gas"),
        (-32603, "CallGasCostMoreThanGasLimit"),
        (-32000, "execution reverted: rate limit"),
        (3, "execution reverted: too many requests"),
        (-32000, "a text that nobody has seen yet"),
    ] {
        scene.chain.fails(Erc1271::isValidSignatureCall::SELECTOR, code, text);
        assert_eq!(waits(scene.unified(&request).await), codes::CONTRACT_SIGNATURE_REFUSED, "{text}");
    }
    assert_eq!(scene.chains.chains[&CHAIN].rpc.endpoints_up(), [0]);
    for text in
        ["header not found", "missing trie node 1a2b", "execution aborted (timeout = 5s)", "state is not available"]
    {
        scene.chain.fails(Erc1271::isValidSignatureCall::SELECTOR, -32000, text);
        assert_eq!(outage(scene.unified(&request).await), codes::ACL_UNREACHABLE, "{text}");
    }
}

#[tokio::test]
async fn a_node_that_does_not_read_the_list_either_tells_nothing_about_a_users_contract() {
    let scene = Scene::start().await;
    allow_all(&scene);
    let mut request = unified();
    request.signature = Bytes::from_static(b"whatever the contract likes");
    for selector in [HostAcl::isAllowedCall::SELECTOR, Erc1271::isValidSignatureCall::SELECTOR] {
        scene.chain.fails(selector, -32000, "a text that nobody has seen yet");
    }
    assert_eq!(outage(scene.unified(&request).await), codes::ACL_UNREADABLE);
}

#[tokio::test]
async fn p4_a_signature_that_the_user_invalidated_is_refused_for_good() {
    let scene = Scene::start().await;
    allow_all(&scene);
    invalidated_before(&scene.chain, 1_000);
    assert_eq!(scene.unified(&unified()).await, Ok(()), "it begins at that very second");
    invalidated_before(&scene.chain, 1_001);
    assert_eq!(permanent(scene.unified(&unified()).await), codes::SIGNATURE_INVALIDATED);
    scene.chain.on_selector(HostAclB::decryptionSignatureInvalidatedBeforeCall::SELECTOR, Vec::new());
    assert_eq!(outage(scene.unified(&unified()).await), codes::ACL_UNREADABLE);
}

#[tokio::test]
async fn p4_the_handles_of_a_user_decryption_are_of_one_host_chain() {
    let scene = Scene::start().await;
    let mut mixed = unified();
    mixed.entries[1].handle = handle_on(9, 1);
    assert_eq!(permanent(scene.unified(&mixed).await), codes::MIXED_HOST_CHAINS);
    let pairs = [(handle(1), CONTRACT), (handle_on(9, 1), CONTRACT)];
    assert_eq!(permanent(scene.legacy(Asker::User(user()), &pairs).await), codes::MIXED_HOST_CHAINS);
    let mut empty = unified();
    empty.entries.clear();
    assert_eq!(permanent(scene.unified(&empty).await), codes::NO_HANDLES);
    assert_eq!(scene.chain.posts(), 0);
}

#[tokio::test]
async fn an_outage_of_the_host_chain_is_no_verdict_on_a_unified_request() {
    let scene = Scene::start().await;
    allow_all(&scene);
    scene.chain.break_down(true);
    assert_eq!(outage(scene.unified(&unified()).await), codes::ACL_UNREACHABLE);
    let mut wrong = unified();
    wrong.signature = Bytes::new();
    assert_eq!(outage(scene.unified(&wrong).await), codes::ACL_UNREACHABLE, "the contract was not asked");
    scene.chain.break_down(false);
    assert_eq!(scene.unified(&unified()).await, Ok(()));
}
