//! Bad input on the contracts of generation (b), where nobody but the connector checks access rights, users' signatures, contexts and epochs:
//! what must not be decrypted is asked for on chain, and ends with its own reason before KMS Core hears of it.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use kms_schemas::identity::RequestId;
use kms_schemas::record::HandleEntry;
use kms_stack::contracts::{Made, NewRequest, Pace, UnifiedRequest, UserRequest};
use kms_stack::{Generation, ServiceKind};

use super::processor::bench::{Bench, Ciphertext, LIMIT, Outcome, public_of, seconds_since_1970, start};

/// A contract that nobody allowed anything.
const OTHER: Address = Address::repeat_byte(0x0c);

fn context(low: u64) -> RequestId {
    let tag: U256 = U256::from(7) << 248;
    RequestId::from(tag | U256::from(low))
}

fn epoch(low: u64) -> RequestId {
    let tag: U256 = U256::from(8) << 248;
    RequestId::from(tag | U256::from(low))
}

fn naming(context: RequestId, epoch: Option<RequestId>) -> Bytes {
    let version = if epoch.is_some() { 2 } else { 1 };
    let epoch = epoch.map(|epoch| epoch.0.to_vec()).unwrap_or_default();
    [&[version][..], context.0.as_slice(), &epoch].concat().into()
}

/// What is asked for, and with which code it must end; none for an answer.
struct Case {
    what: &'static str,
    request: NewRequest,
    reason: Option<&'static str>,
}

struct Scene {
    bench: Bench,
    stranger: PrivateKeySigner,
    /// Validity and public key of every request.
    template: UserRequest,
    cases: Vec<Case>,
}

impl Scene {
    fn case(&mut self, what: &'static str, request: NewRequest, reason: impl Into<Option<&'static str>>) {
        self.cases.push(Case { what, request, reason: reason.into() });
    }

    fn legacy(&self, pairs: Vec<(B256, Address)>) -> UserRequest {
        UserRequest { contracts: vec![self.bench.app, OTHER], pairs, ..self.template.clone() }
    }

    fn unified(&self, ciphertext: &Ciphertext, owner: Address) -> UnifiedRequest {
        let template = &self.template;
        UnifiedRequest {
            entries: vec![HandleEntry { handle: ciphertext.handle, contract: self.bench.app, owner }],
            allowed_contracts: vec![self.bench.app],
            start: template.start,
            duration_seconds: 30 * 24 * 3600,
            public_key: template.public_key.clone(),
            extra_data: Bytes::new(),
        }
    }

    /// By the user, for a handle of the user's.
    fn own(&self) -> (Address, UnifiedRequest) {
        let user = self.bench.user.address();
        (user, self.unified(&self.bench.ciphertext(), user))
    }

    fn by_user(&self, request: UnifiedRequest) -> NewRequest {
        let user = self.bench.user.clone();
        NewRequest::UnifiedUserDecryption { user: user.address(), signer: user, request }
    }

    fn public_naming(&self, extra_data: Bytes) -> NewRequest {
        NewRequest::PublicDecryption { handles: vec![self.bench.ciphertext().handle], extra_data }
    }

    async fn ask(&self) -> Vec<Made> {
        let mut made = Vec::new();
        for case in &self.cases {
            let sent = self.bench.requester.submit(std::slice::from_ref(&case.request), Pace::AtOnce).await;
            let sent = sent.unwrap_or_else(|error| panic!("{}: {error}", case.what));
            let found = self.bench.requester.made(&sent, LIMIT).await;
            made.extend(found.unwrap_or_else(|error| panic!("{}: {error}", case.what)));
        }
        made
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_what_must_not_be_decrypted_ends_with_its_own_reason_and_everything_else_is_answered() {
    let bench = Bench::start("access", |stack| {
        ["acl", "context", "not_yet"]
            .iter()
            .fold(stack.generation(Generation::B), |stack, budget| {
                stack.set(ServiceKind::Processor, format!("access.{budget}_patience_ms=1000"))
            })
            .set(ServiceKind::Processor, "access.pause_ms=100")
    })
    .await;
    let bare = bench.register_on(bench.stack.contracts().host_chain_id, (200..206_u64).map(body).collect()).await;
    for ciphertext in &bare {
        bench.upload(ciphertext).await;
    }
    let stranger = PrivateKeySigner::from_bytes(&B256::repeat_byte(5)).unwrap();
    let template = bench.user_request();
    let mut scene = Scene { bench, stranger, template, cases: Vec::new() };
    legacy_cases(&mut scene, &bare);
    unified_cases(&mut scene, &bare).await;
    named_cases(&mut scene).await;
    let ends = seconds_since_1970() + 3;
    let (user, mut brief) = scene.own();
    brief.duration_seconds = ends - brief.start;
    let signer = scene.bench.user.clone();
    scene.cases.insert(
        0,
        Case {
            what: "a validity that is over",
            request: NewRequest::UnifiedUserDecryption { user, signer, request: brief },
            reason: Some("KC-0549"),
        },
    );

    let made = scene.ask().await;
    while seconds_since_1970() <= ends {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    start(scene.bench.processor()).await;
    let outcomes = scene.bench.outcomes(&made).await;
    let mut wrong = Vec::new();
    for ((case, made), outcome) in scene.cases.iter().zip(&made).zip(&outcomes) {
        let reason = match outcome {
            Outcome::Dead(letter) => Some(letter.reason.as_str()),
            Outcome::Answered(_) => None,
        };
        let starts = scene.bench.starts(made).await;
        if (reason, starts) != (case.reason, u64::from(case.reason.is_none())) {
            wrong.push(format!("{}: {reason:?} instead of {:?}, {starts} starts: {outcome:?}", case.what, case.reason));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn body(number: u64) -> Vec<u8> {
    keccak256(number.to_be_bytes()).repeat(32)
}

fn legacy_cases(scene: &mut Scene, bare: &[Ciphertext]) {
    let (app, user, delegator) = (scene.bench.app, scene.bench.user.clone(), scene.bench.delegator);
    scene.case("a handle that nobody allowed for decryption", public_of(&bare[..1]), "KC-0534");
    let allowed = scene.bench.ciphertext();
    scene.case("one of two such handles", public_of(&[allowed.clone(), bare[0].clone()]), "KC-0534");
    scene.case("a handle that stands twice", public_of(&[allowed.clone(), allowed]), None);

    let direct = |user: &PrivateKeySigner, request| NewRequest::UserDecryption { user: user.clone(), request };
    let handle = scene.bench.ciphertext().handle;
    let request = scene.legacy(vec![(handle, app)]);
    scene.case("a user's own handle", direct(&user, request.clone()), None);
    let stranger = scene.stranger.clone();
    scene.case("a handle of somebody else's", direct(&stranger, request), "KC-0535");
    let request = scene.legacy(vec![(handle, OTHER)]);
    scene.case("a handle that is not the contract's", direct(&user, request), "KC-0536");
    let request = scene.legacy(vec![(handle, OTHER), (handle, app)]);
    scene.case("a handle twice, once with a contract that it is not of", direct(&user, request), "KC-0536");

    let request = scene.legacy(vec![(scene.bench.ciphertext().handle, OTHER)]);
    let delegated = NewRequest::DelegatedUserDecryption { delegator, delegate: user, request };
    scene.case("a handle that was not delegated for this contract", delegated, "KC-0537");
}

async fn unified_cases(scene: &mut Scene, bare: &[Ciphertext]) {
    let (app, delegator) = (scene.bench.app, scene.bench.delegator);
    let user = scene.bench.user.address();
    let delegated = scene.bench.new_delegated().await;
    scene.case("a handle that was delegated", delegated, None);

    let (_, request) = scene.own();
    let genuine = scene.by_user(request.clone());
    scene.case("unified, a user's own handle", genuine, None);
    let signer = scene.stranger.clone();
    let forged = NewRequest::UnifiedUserDecryption { user, signer, request };
    scene.case("unified, signed by somebody else", forged, "KC-0545");

    let wallet = scene.bench.requester.wallet(&scene.bench.user).await.unwrap();
    let of_wallet = scene.bench.ciphertext();
    scene.bench.requester.allow_accounts(&[(of_wallet.handle, wallet)]).await.unwrap();
    let request = scene.unified(&of_wallet, wallet);
    let signer = scene.bench.user.clone();
    let vouched = NewRequest::UnifiedUserDecryption { user: wallet, signer, request: request.clone() };
    scene.case("unified, a wallet that vouches for the signature", vouched, None);
    let signer = scene.stranger.clone();
    let refused = NewRequest::UnifiedUserDecryption { user: wallet, signer, request };
    scene.case("unified, a wallet that does not", refused, "KC-0546");

    let leaver = PrivateKeySigner::from_bytes(&B256::repeat_byte(6)).unwrap();
    let of_leaver = scene.bench.ciphertext();
    scene.bench.requester.allow_accounts(&[(of_leaver.handle, leaver.address())]).await.unwrap();
    let request = scene.unified(&of_leaver, leaver.address());
    scene.bench.requester.void_signatures(&leaver, request.start + 1).await.unwrap();
    let void = NewRequest::UnifiedUserDecryption { user: leaver.address(), signer: leaver, request };
    scene.case("unified, a signature that the user declared void", void, "KC-0547");

    let (_, mut request) = scene.own();
    request.allowed_contracts.push(user);
    let among = scene.by_user(request);
    scene.case("unified, the user among the contracts", among, "KC-0550");

    let request = scene.unified(&bare[1], user);
    let not_owned = scene.by_user(request);
    scene.case("unified, a handle that is not the user's", not_owned, "KC-0535");
    let mut request = scene.unified(&scene.bench.ciphertext(), delegator);
    let delegated = scene.by_user(request.clone());
    scene.case("unified, a handle that was delegated", delegated, None);
    request.entries[0].contract = OTHER;
    let not_delegated = scene.by_user(request);
    scene.case("unified, a handle that was delegated for another contract", not_delegated, "KC-0537");

    let (_, mut request) = scene.own();
    request.allowed_contracts = vec![OTHER];
    let not_listed = scene.by_user(request.clone());
    scene.case("unified, contracts that may not use the handle", not_listed, "KC-0538");
    request.allowed_contracts = vec![OTHER, app];
    let listed = scene.by_user(request.clone());
    scene.case("unified, one contract of two may use it", listed, None);
    request.allowed_contracts.clear();
    request.entries.push(request.entries[0]);
    let twice = scene.by_user(request);
    scene.case("unified, all contracts, a handle that stands twice", twice, None);
}

/// Contexts and epochs. The Gateway believes its owner about contexts, and does not know epochs.
async fn named_cases(scene: &mut Scene) {
    let definition = Box::new(scene.bench.stack.deployment().context());
    for request in [
        NewRequest::NewContextAndEpoch(definition.clone()),
        NewRequest::DestroyContext { context_id: context(2) },
        NewRequest::NewContextAndEpoch(definition.clone()),
        NewRequest::GatewayUpdateContext { context_id: context(2), definition: definition.clone() },
        NewRequest::GatewayUpdateContext { context_id: context(3), definition: definition.clone() },
        NewRequest::GatewayUpdateContext { context_id: context(9), definition },
    ] {
        let sent = scene.bench.requester.submit(std::slice::from_ref(&request), Pace::AtOnce).await.unwrap();
        // Those of the Gateway ask for nothing; that they are mined is seen by the next request.
        if !matches!(request, NewRequest::GatewayUpdateContext { .. }) {
            scene.bench.requester.made(&sent, LIMIT).await.unwrap();
        }
    }
    for (what, extra_data, reason) in [
        ("the first context", naming(context(1), None), None),
        ("the first context and its epoch", naming(context(1), Some(epoch(1))), None),
        ("a context that was destroyed", naming(context(2), None), Some("KC-0554")),
        ("a context that is not active", naming(context(3), None), Some("KC-0553")),
        ("a context that the host chain does not know", naming(context(9), None), Some("KC-0552")),
        ("an epoch that is not there yet", naming(context(1), Some(epoch(7))), Some("KC-0555")),
        ("an epoch that never was", naming(context(1), Some(epoch(0))), Some("KC-0556")),
        ("extra data cut short", naming(context(1), Some(epoch(1))).slice(..64), Some("KC-0551")),
    ] {
        let request = scene.public_naming(extra_data);
        scene.case(what, request, reason);
    }
}
