//! Everything that must hold of a request before KMS Core hears of it, in one place and one order.
//!
//! ```text
//! proven on its chain (P4) ▶ one payload per identity ▶ bounds ▶ context and epoch ▶ access rights
//! ```
//!
//! The checks of live state run at every attempt, also when only a result is left to be fetched.

use std::time::SystemTime;

use kms_chain::authority::ProvenTransaction;
use kms_chain::eip712::Domain;
use kms_chain::event::NO_CONTEXT;
use kms_chain::release::Release;
use kms_runtime::stage::Answered;
use kms_schemas::record::{Request, RequestBody, UnifiedUserDecryption};

use crate::access::{self, HostChains};
use crate::authorise;
use crate::bounds;
use crate::chains::{GatewayAccess, ServedChain};
use crate::check::{Check, Facts, Form};
use crate::codes;
use crate::context::{self, Contexts};
use crate::error::Trouble;
use crate::user_request::{self, Event, Grounds};

/// What requests are held against.
#[derive(Debug)]
pub struct Gate {
    /// Release of the contracts.
    pub release: Release,
    /// The Gateway.
    pub gateway: ServedChain,
    /// The Ethereum host chain, where the release has requests there.
    pub ethereum: Option<ServedChain>,
    /// Domain of the Gateway's `Decryption`, in which users sign.
    pub decryption: Domain,
    /// Who checks access rights.
    pub access: Access,
    /// Contexts and epochs, where the release has a `ProtocolConfig`.
    pub contexts: Option<Contexts>,
}

/// Who checks access rights.
#[derive(Debug)]
pub enum Access {
    /// The host chains' access control lists are asked.
    HostChains(HostChains),
    /// The Gateway did, before the request was there.
    Gateway(GatewayAccess),
}

impl Gate {
    /// Proves the request on the chain that it claims to come from, and returns the transaction that made it.
    ///
    /// # Errors
    /// See [`authorise::prove`].
    pub async fn prove(&self, request: &Request, answered: &Answered) -> Result<ProvenTransaction, Trouble> {
        let served = std::iter::once(&self.gateway).chain(self.ethereum.as_ref());
        let chain = authorise::chain_of(request, served)?;
        authorise::prove(chain, request, answered).await
    }

    /// Everything else, of a request that was proven to come from this transaction.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] for what is wrong for good, [`Trouble::Waits`] for what may heal, [`Trouble::Outage`].
    pub async fn check(
        &self,
        request: &Request,
        transaction: &ProvenTransaction,
        now: SystemTime,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        let facts = Facts::of(request);
        for check in Form::of(&request.body).checks() {
            match check {
                Check::Handles => bounds::check_handles(&facts.handles)?,
                Check::OneHostChain => bounds::one_host_chain(&facts.handles).map(drop)?,
                Check::OneKey => bounds::check_one_key(facts.materials)?,
                Check::SameHandles => bounds::check_same_handles(&facts.handles, facts.materials)?,
                Check::Validity => user_request::check_validity(unified(request)?, now)?,
                Check::Context => self.check_context(facts.extra_data, answered).await?,
                Check::PublicAccess => match &self.access {
                    Access::HostChains(chains) => chains.check_public(&facts.handles, answered).await?,
                    Access::Gateway(gateway) => gateway.check(request.block_number, answered).await?,
                },
                Check::LegacyAccess => self.check_legacy(request, &facts, transaction, answered).await?,
                Check::UnifiedAccess => match &self.access {
                    Access::HostChains(chains) => {
                        chains.check_unified(unified(request)?, &self.decryption, answered).await?;
                    }
                    // No Gateway checks these.
                    Access::Gateway(_) => return Err(access::no_host_chain()),
                },
                Check::NotDestroyed => self.check_creation(request, answered).await?,
                Check::ForgetContext => {
                    if let Some(contexts) = &self.contexts {
                        contexts.context_destroyed(request.id);
                    }
                }
                Check::ForgetEpoch => {
                    if let Some(contexts) = &self.contexts {
                        contexts.epoch_destroyed(request.id);
                    }
                }
            }
        }
        Ok(())
    }

    async fn check_legacy(
        &self,
        request: &Request,
        facts: &Facts<'_>,
        transaction: &ProvenTransaction,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        let chains = match &self.access {
            Access::HostChains(chains) => chains,
            Access::Gateway(gateway) => return gateway.check(request.block_number, answered).await,
        };
        let (RequestBody::UserDecryption { user_address, public_key, .. }
        | RequestBody::UserDecryptionHandles { user_address, public_key, .. }) = &request.body
        else {
            return Err(no_such_form(request));
        };
        let event = Event { handles: &facts.handles, user: *user_address, public_key, extra_data: facts.extra_data };
        let grounds = Grounds::read(request.log.address, transaction.to, &transaction.input, &event)?;
        chains.check_legacy(&grounds, answered).await
    }

    async fn check_creation(&self, request: &Request, answered: &Answered) -> Result<(), Trouble> {
        let Some(contexts) = &self.contexts else { return Ok(()) };
        match &request.body {
            // Nothing is made for it.
            RequestBody::NewKmsContext(first) if first.previous_context_id == NO_CONTEXT => Ok(()),
            RequestBody::NewKmsContext(_) => contexts.check_creation(request.id, None, answered).await,
            RequestBody::NewKmsEpoch { context_id, .. } => {
                contexts.check_creation(*context_id, Some(request.id), answered).await
            }
            _ => Err(no_such_form(request)),
        }
    }

    async fn check_context(&self, extra_data: &[u8], answered: &Answered) -> Result<(), Trouble> {
        let named = context::named(self.release, extra_data)?;
        match &self.contexts {
            Some(contexts) => contexts.check(named, answered).await,
            None => Ok(()),
        }
    }
}

fn unified(request: &Request) -> Result<&UnifiedUserDecryption, Trouble> {
    match &request.body {
        RequestBody::UnifiedUserDecryption(unified) => Ok(unified),
        _ => Err(no_such_form(request)),
    }
}

/// The table of checks and the forms do not fit together, which a test excludes: nothing is decrypted then.
fn no_such_form(request: &Request) -> Trouble {
    Trouble::permanent(codes::REQUEST_INVALID, format!("a check of another form than that of this {}", request.kind))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, UNIX_EPOCH};

    use alloy::primitives::{Address, B256, Bytes, U256};
    use alloy::sol_types::{SolCall, SolValue};
    use kms_chain::contracts::HostAcl;
    use kms_chain::contracts::Proxy;
    use kms_chain::contracts::b::ProtocolConfig;
    use kms_chain::event::ContractSet;
    use kms_chain::finality::Finality;
    use kms_schemas::identity::{Kind, RequestId};
    use kms_schemas::record::{CiphertextMaterial, HandleEntry, KmsThresholds, NewKmsContext};

    use super::*;
    use crate::access::HostChain;
    use crate::chains::GATEWAY;
    use crate::mock::{MockChain, request, word};

    const DECRYPTION: Address = Address::repeat_byte(0xd1);
    const USER: Address = Address::repeat_byte(0xa1);

    fn gate(mock: &MockChain, release: Release, asks_acl: bool) -> Gate {
        let contracts = ContractSet::gateway(release, DECRYPTION);
        let gateway = ServedChain::new(GATEWAY, 7, mock.rpc(), contracts, Finality::Latest, Finality::Latest, 8);
        let host_chain = HostChain { rpc: mock.rpc(), acl: Address::repeat_byte(0xac) };
        Gate {
            release,
            gateway,
            ethereum: None,
            decryption: Domain::decryption(7, DECRYPTION),
            access: if asks_acl {
                Access::HostChains(HostChains::new(BTreeMap::from([(12_345, host_chain)]), 100_000))
            } else {
                Access::Gateway(GatewayAccess::new(mock.rpc(), DECRYPTION))
            },
            contexts: release.key_management_on_host().then(|| {
                let protocol_config = Address::repeat_byte(0xc1);
                Contexts::new(mock.rpc(), protocol_config, Finality::Finalized, release, Duration::from_secs(60))
            }),
        }
    }

    fn transaction() -> ProvenTransaction {
        ProvenTransaction { hash: B256::ZERO, to: Some(DECRYPTION), input: Bytes::new() }
    }

    fn with(kind: Kind, body: RequestBody) -> Request {
        Request { kind, body, ..request() }
    }

    async fn code(gate: &Gate, request: &Request) -> Option<&'static str> {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let outcome = gate.check(request, &transaction(), now, &Answered::unheard()).await;
        outcome.err().map(|trouble| trouble.code())
    }

    fn handle(fhe_type: u8) -> B256 {
        let mut bytes = [7; 32];
        bytes[22..30].copy_from_slice(&12_345_u64.to_be_bytes());
        (bytes[30], bytes[31]) = (fhe_type, 0);
        bytes.into()
    }

    fn public(handles: Vec<B256>, extra_data: &[u8]) -> Request {
        let body = RequestBody::PublicDecryptionHandles { handles, extra_data: Bytes::copy_from_slice(extra_data) };
        with(Kind::PublicDecryption, body)
    }

    fn legacy(handles: Vec<B256>) -> Request {
        let body = RequestBody::UserDecryptionHandles {
            handles,
            user_address: USER,
            public_key: Bytes::from_static(b"key"),
            extra_data: Bytes::new(),
        };
        with(Kind::UserDecryption, body)
    }

    fn unified(entries: Vec<HandleEntry>) -> UnifiedUserDecryption {
        UnifiedUserDecryption {
            materials: Vec::new(),
            entries,
            user_address: USER,
            public_key: Bytes::from_static(b"key"),
            allowed_contracts: Vec::new(),
            start_timestamp: U256::from(900),
            duration_seconds: U256::from(200),
            extra_data: Bytes::new(),
            signature: Bytes::new(),
        }
    }

    fn entry(fhe_type: u8) -> HandleEntry {
        HandleEntry { handle: handle(fhe_type), contract: Address::repeat_byte(1), owner: USER }
    }

    fn material(handle: B256, key: u64) -> CiphertextMaterial {
        CiphertextMaterial { handle, key_id: U256::from(key).into(), digest: B256::ZERO, coprocessors: Vec::new() }
    }

    #[tokio::test]
    async fn p4_what_no_contract_lets_through_is_refused_in_every_form_before_anybody_is_asked() {
        let mock = MockChain::start().await;
        let gate = gate(&mock, Release::V0_15, true);
        let unified =
            |entries| with(Kind::UserDecryption, RequestBody::UnifiedUserDecryption(Box::new(unified(entries))));
        let too_many = 9;
        for (form, empty, fhe_type, bits) in [
            ("public", public(Vec::new(), &[]), public(vec![handle(1)], &[]), public(vec![handle(8); too_many], &[])),
            ("legacy", legacy(Vec::new()), legacy(vec![handle(9)]), legacy(vec![handle(8); too_many])),
            ("unified", unified(Vec::new()), unified(vec![entry(9)]), unified(vec![entry(8); too_many])),
        ] {
            assert_eq!(code(&gate, &empty).await, Some(codes::NO_HANDLES), "{form}");
            assert_eq!(code(&gate, &fhe_type).await, Some(codes::FHE_TYPE_UNSUPPORTED), "{form}");
            assert_eq!(code(&gate, &bits).await, Some(codes::TOO_MANY_BITS), "{form}");
        }
        assert_eq!(mock.posts(), 0);
    }

    #[tokio::test]
    async fn p4_the_ciphertexts_of_the_older_forms_are_under_one_key_and_are_those_that_are_asked_for() {
        let mock = MockChain::start().await;
        let gate = gate(&mock, Release::V0_14, true);
        let two_keys = vec![material(handle(5), 4), material(handle(4), 5)];
        let public = RequestBody::PublicDecryption { materials: two_keys.clone(), extra_data: Bytes::new() };
        assert_eq!(code(&gate, &with(Kind::PublicDecryption, public)).await, Some(codes::MIXED_KEYS));
        let mut asked = unified(vec![entry(5), entry(4)]);
        asked.materials = two_keys;
        let as_request = |asked: &UnifiedUserDecryption| {
            with(Kind::UserDecryption, RequestBody::UnifiedUserDecryption(Box::new(asked.clone())))
        };
        assert_eq!(code(&gate, &as_request(&asked)).await, Some(codes::MIXED_KEYS));
        asked.materials = vec![material(handle(4), 4), material(handle(5), 4)];
        assert_eq!(code(&gate, &as_request(&asked)).await, Some(codes::REQUEST_INVALID), "another order");
        assert_eq!(mock.posts(), 0);
    }

    #[tokio::test]
    async fn the_gateway_of_v0_11_has_checked_access_and_nobody_needs_to_be_asked_again() {
        let mock = MockChain::start().await;
        let mut asked = legacy(vec![handle(5)]);
        asked.body = RequestBody::UserDecryption {
            materials: vec![material(handle(5), 4)],
            user_address: USER,
            public_key: Bytes::from_static(b"key"),
            extra_data: Bytes::from_static(&[9, 9]),
        };
        mock.on_selector(Proxy::getVersionCall::SELECTOR, "Decryption v0.3.0".abi_encode());
        assert_eq!(code(&gate(&mock, Release::V0_11, false), &asked).await, None);
        mock.on_selector(Proxy::getVersionCall::SELECTOR, "Decryption v0.4.0".abi_encode());
        let upgraded = gate(&mock, Release::V0_11, false);
        assert_eq!(code(&upgraded, &asked).await, Some(codes::RELEASE_CHANGED), "since its upgrade it does not");
        let asks = gate(&mock, Release::V0_11, true);
        assert_eq!(code(&asks, &asked).await, Some(codes::CALLDATA_FOREIGN), "then the calldata counts");
    }

    #[tokio::test]
    async fn p4_a_unified_request_is_not_served_where_nobody_is_asked() {
        let mock = MockChain::start().await;
        let gate = gate(&mock, Release::V0_15, false);
        let body = RequestBody::UnifiedUserDecryption(Box::new(unified(vec![entry(5)])));
        assert_eq!(code(&gate, &with(Kind::UserDecryption, body)).await, Some(codes::HOST_CHAIN_UNKNOWN));
    }

    #[tokio::test]
    async fn validity_ends_before_anybody_is_asked() {
        let mock = MockChain::start().await;
        let gate = gate(&mock, Release::V0_15, true);
        let mut asked = unified(vec![entry(5)]);
        for (start, expected) in [(799, codes::VALIDITY_EXPIRED), (1_001, codes::VALIDITY_NOT_BEGUN)] {
            asked.start_timestamp = U256::from(start);
            let body = RequestBody::UnifiedUserDecryption(Box::new(asked.clone()));
            assert_eq!(code(&gate, &with(Kind::UserDecryption, body)).await, Some(expected));
        }
        assert_eq!(mock.posts(), 0);
    }

    fn context(low: u64) -> RequestId {
        let tag: U256 = U256::from(7) << 248;
        RequestId::from(tag | U256::from(low))
    }

    fn naming(context: RequestId) -> Vec<u8> {
        [&[1][..], context.0.as_slice()].concat()
    }

    fn allow_everything(mock: &MockChain) {
        for selector in [HostAcl::isAllowedForDecryptionCall::SELECTOR, ProtocolConfig::isValidKmsContextCall::SELECTOR]
        {
            mock.on_selector(selector, true.abi_encode());
        }
        mock.on_selector(ProtocolConfig::isLiveKmsContextCall::SELECTOR, true.abi_encode());
        mock.on_selector(ProtocolConfig::getCurrentKmsContextIdCounterCall::SELECTOR, word(context(9).as_u256()));
    }

    #[tokio::test]
    async fn a_context_that_an_event_destroyed_is_refused_at_once_for_every_kind_that_names_it() {
        let mock = MockChain::start().await;
        allow_everything(&mock);
        let gate = gate(&mock, Release::V0_15, true);
        let named = naming(context(3));
        assert_eq!(code(&gate, &public(vec![handle(5)], &named)).await, None);
        let destroyed = Request { id: context(3), ..with(Kind::KmsContextDestroyed, RequestBody::KmsContextDestroyed) };
        assert_eq!(code(&gate, &destroyed).await, None);
        let asked = mock.posts();
        let extra_data = Bytes::from(named.clone());
        for request in [
            public(vec![handle(5)], &named),
            with(
                Kind::PrepKeygen,
                RequestBody::PrepKeygen { epoch_id: U256::ZERO, params_type: 0, extra_data: extra_data.clone() },
            ),
            with(
                Kind::Keygen,
                RequestBody::Keygen { prep_keygen_id: RequestId::default(), extra_data: extra_data.clone() },
            ),
            with(Kind::Crsgen, RequestBody::Crsgen { max_bit_length: U256::ONE, params_type: 0, extra_data }),
        ] {
            assert_eq!(code(&gate, &request).await, Some(codes::CONTEXT_DESTROYED), "{}", request.kind);
        }
        assert_eq!(mock.posts(), asked);
        assert_eq!(code(&gate, &public(vec![handle(5)], &naming(context(4)))).await, None);
    }

    #[tokio::test]
    async fn a_context_or_epoch_that_an_event_destroyed_is_not_made_any_more() {
        let mock = MockChain::start().await;
        allow_everything(&mock);
        mock.on_selector(ProtocolConfig::isValidEpochForContextCall::SELECTOR, word(U256::ZERO));
        let current = [word(context(2).as_u256()), word(U256::ZERO)].concat();
        mock.on_selector(ProtocolConfig::getCurrentKmsContextAndEpochCall::SELECTOR, current);
        let gate = gate(&mock, Release::V0_15, true);
        let of = |id: RequestId, kind, body| Request { id, ..with(kind, body) };
        let epoch = |low| RequestId::from((U256::from(8) << 248) | U256::from(low));
        let new_epoch = |id, context_id| {
            let body = RequestBody::NewKmsEpoch {
                context_id,
                previous_context_id: context(2),
                previous_epoch_id: epoch(1),
                material_block_number: U256::from(9),
            };
            of(id, Kind::NewKmsEpoch, body)
        };
        let new_context = |low, previous_context_id| {
            let one = U256::ONE;
            let body = NewKmsContext {
                previous_context_id,
                nodes: Vec::new(),
                thresholds: KmsThresholds { public_decryption: one, user_decryption: one, kms_gen: one, mpc: one },
                software_version: String::new(),
                pcr_values: Vec::new(),
            };
            of(context(low), Kind::NewKmsContext, RequestBody::NewKmsContext(Box::new(body)))
        };
        assert_eq!(code(&gate, &new_epoch(epoch(2), context(3))).await, None);
        let destroyed = of(epoch(2), Kind::KmsEpochDestroyed, RequestBody::KmsEpochDestroyed);
        assert_eq!(code(&gate, &destroyed).await, None);
        assert_eq!(code(&gate, &new_epoch(epoch(2), context(3))).await, Some(codes::EPOCH_DESTROYED));
        assert_eq!(code(&gate, &new_epoch(epoch(3), context(3))).await, None);

        assert_eq!(code(&gate, &new_context(3, context(2))).await, None);
        let destroyed = of(context(3), Kind::KmsContextDestroyed, RequestBody::KmsContextDestroyed);
        assert_eq!(code(&gate, &destroyed).await, None);
        assert_eq!(code(&gate, &new_context(3, context(2))).await, Some(codes::CONTEXT_DESTROYED));
        assert_eq!(code(&gate, &new_epoch(epoch(3), context(3))).await, Some(codes::CONTEXT_DESTROYED));
        assert_eq!(code(&gate, &new_context(3, NO_CONTEXT)).await, None, "nothing is made for the first one");
    }

    #[tokio::test]
    async fn malformed_extra_data_is_refused_for_good_and_none_needs_no_context() {
        let mock = MockChain::start().await;
        allow_everything(&mock);
        let gate = gate(&mock, Release::V0_15, true);
        for bytes in [&[3][..], &[1], &[2; 64]] {
            assert_eq!(code(&gate, &public(vec![handle(5)], bytes)).await, Some(codes::EXTRA_DATA_MALFORMED));
        }
        for bytes in [&[][..], &[0], &[0, 1, 2]] {
            assert_eq!(code(&gate, &public(vec![handle(5)], bytes)).await, None);
        }
        assert!(mock.blocks_asked().iter().all(|block| block == "latest"), "only the access list was asked");
    }
}
