//! Who asks for what in a user decryption, and whether the user said so. Pure.
//!
//! Up to v0.13, and in the older forms of later releases, the event names neither the contracts nor the delegator: they stand only in the
//! calldata of the transaction, which must have been sent to the `Decryption` contract itself (`docs/protocol.md`, "Request functions").

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256, Bytes, Signature, U256};
use alloy::sol_types::SolCall;
use kms_chain::contracts::{CtHandleContractPair, Decryption};
use kms_chain::eip712::{Domain, message_b};
use kms_schemas::record::UnifiedUserDecryption;

use crate::codes;
use crate::error::Trouble;
use crate::patience::Budget;

/// What a legacy user decryption rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounds {
    /// Handles in request order, each with the contract it is asked for. A handle may stand twice with two contracts, and then both count.
    pub pairs: Vec<(B256, Address)>,
    /// Who asks.
    pub asker: Asker,
}

/// Who asks for a user decryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The owner of the handles.
    User(Address),
    /// Somebody to whom the owner delegated.
    Delegate {
        /// The owner of the handles.
        delegator: Address,
        /// Who gets the shares.
        delegate: Address,
    },
}

impl Asker {
    /// Who gets the shares: the event's user.
    #[must_use]
    pub const fn receiver(self) -> Address {
        match self {
            Self::User(user) => user,
            Self::Delegate { delegate, .. } => delegate,
        }
    }
}

/// The event's own words, which the calldata must repeat.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Handles in request order.
    pub handles: &'a [B256],
    /// The user, or the delegate.
    pub user: Address,
    /// The user's public key.
    pub public_key: &'a [u8],
    /// Extra data.
    pub extra_data: &'a [u8],
}

impl Grounds {
    /// Reads the calldata of the proven transaction of a legacy user decryption.
    ///
    /// # Errors
    /// [`Trouble::Permanent`]: the transaction was not sent to `decryption`, calls something else, or does not say what the event says.
    pub fn read(decryption: Address, to: Option<Address>, input: &[u8], event: &Event<'_>) -> Result<Self, Trouble> {
        let foreign = |text: String| Trouble::permanent(codes::CALLDATA_FOREIGN, text);
        if to != Some(decryption) {
            let to = to.map_or_else(|| "a new contract".to_owned(), |to| to.to_string());
            return Err(foreign(format!(
                "the transaction was sent to {to} instead of the Decryption contract: it does not tell for which contracts the handles are"
            )));
        }
        let Calldata { grounds, public_key, extra_data } = decode(input).map_err(foreign)?;
        let differs = |what: &str| {
            Err(Trouble::permanent(
                codes::CALLDATA_DIFFERS,
                format!("{what} in the transaction are not those of its event"),
            ))
        };
        if !grounds.pairs.iter().map(|(handle, _)| handle).eq(event.handles) {
            return differs("the handles");
        }
        if grounds.asker.receiver() != event.user {
            return differs("user or delegate");
        }
        if *public_key != *event.public_key || *extra_data != *event.extra_data {
            return differs("public key or extra data");
        }
        Ok(grounds)
    }
}

/// What the calldata says.
struct Calldata {
    grounds: Grounds,
    public_key: Bytes,
    extra_data: Bytes,
}

fn decode(input: &[u8]) -> Result<Calldata, String> {
    let Some((selector, arguments)) = input.split_first_chunk::<4>() else {
        return Err("the transaction has no calldata".to_owned());
    };
    let unreadable = |error: alloy::sol_types::Error| format!("the transaction's calldata cannot be decoded: {error}");
    let pairs = |pairs: Vec<CtHandleContractPair>| {
        pairs.into_iter().map(|pair| (pair.ctHandle, pair.contractAddress)).collect::<Vec<_>>()
    };
    match *selector {
        Decryption::delegatedUserDecryptionRequestCall::SELECTOR => {
            let call = Decryption::delegatedUserDecryptionRequestCall::abi_decode_raw(arguments).map_err(unreadable)?;
            let accounts = call.delegationAccounts;
            let asker = Asker::Delegate { delegator: accounts.delegatorAddress, delegate: accounts.delegateAddress };
            let grounds = Grounds { pairs: pairs(call.ctHandleContractPairs), asker };
            Ok(Calldata { grounds, public_key: call.publicKey, extra_data: call.extraData })
        }
        Decryption::userDecryptionRequestCall::SELECTOR => {
            let call = Decryption::userDecryptionRequestCall::abi_decode_raw(arguments).map_err(unreadable)?;
            let grounds = Grounds { pairs: pairs(call.ctHandleContractPairs), asker: Asker::User(call.userAddress) };
            Ok(Calldata { grounds, public_key: call.publicKey, extra_data: call.extraData })
        }
        other => Err(format!("the transaction calls 0x{}, which is no user decryption", hex::encode(other))),
    }
}

/// The user gave this signature, at this time, for these contracts: everything of a unified request that needs no chain.
///
/// # Errors
/// [`Trouble::Waits`] before the validity has begun; [`Trouble::Permanent`] when it is over, or the user is among the contracts.
pub fn check_validity(request: &UnifiedUserDecryption, now: SystemTime) -> Result<(), Trouble> {
    let now = U256::from(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs());
    let (start, duration) = (request.start_timestamp, request.duration_seconds);
    if now < start {
        let text = format!("the request is valid from {start} on, it is {now} (seconds since 1970)");
        return Err(Trouble::waits(Budget::NotYet, codes::VALIDITY_NOT_BEGUN, text));
    }
    // An end beyond all numbers is no end that has passed.
    if start.checked_add(duration).is_some_and(|end| now > end) {
        let text = format!("the request was valid for {duration} s from {start} on, it is {now} (seconds since 1970)");
        return Err(Trouble::permanent(codes::VALIDITY_EXPIRED, text));
    }
    if request.allowed_contracts.contains(&request.user_address) {
        return Err(Trouble::permanent(
            codes::USER_AMONG_CONTRACTS,
            format!("the user {} is among the contracts that the request allows", request.user_address),
        ));
    }
    Ok(())
}

/// What the user of a unified request signs. `domain` is that of the Decryption contract; the chain id in it is the **host chain's**.
#[must_use]
pub fn signed_digest(domain: &Domain, host_chain: u64, request: &UnifiedUserDecryption) -> B256 {
    domain.with_chain_id(host_chain).digest(&message_b::UserDecryptRequestVerification {
        userAddress: request.user_address,
        publicKey: request.public_key.clone(),
        allowedContracts: request.allowed_contracts.clone(),
        startTimestamp: request.start_timestamp,
        durationSeconds: request.duration_seconds,
        extraData: request.extra_data.clone(),
    })
}

/// Whether the user's own key made the signature. If not, the user may be a contract that has its own opinion (ERC-1271).
///
/// Less strict than what contracts demand of nodes: another form of a signature is the same signature.
#[must_use]
pub fn is_signed_by_key(digest: B256, signature: &[u8], user: Address) -> bool {
    if signature.len() != 65 {
        return false;
    }
    Signature::from_raw(signature)
        .and_then(|signature| signature.recover_address_from_prehash(&digest))
        .is_ok_and(|recovered| recovered == user && !recovered.is_zero())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};
    use alloy::signers::SignerSync;
    use alloy::signers::local::PrivateKeySigner;
    use kms_chain::contracts::{ContractsInfo, DelegationAccounts, RequestValidity};
    use kms_schemas::record::HandleEntry;

    use super::*;

    const DECRYPTION: Address = address!("00000000000000000000000000000000000000d1");
    const USER: Address = address!("00000000000000000000000000000000000000a1");
    const OWNER: Address = address!("00000000000000000000000000000000000000a2");
    const FIRST: Address = address!("00000000000000000000000000000000000000c1");
    const SECOND: Address = address!("00000000000000000000000000000000000000c2");
    const HANDLE: B256 = b256!("a853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500");

    fn pair(handle: B256, contract: Address) -> CtHandleContractPair {
        CtHandleContractPair { ctHandle: handle, contractAddress: contract }
    }

    fn direct(pairs: Vec<CtHandleContractPair>) -> Vec<u8> {
        Decryption::userDecryptionRequestCall {
            ctHandleContractPairs: pairs,
            requestValidity: RequestValidity { startTimestamp: U256::ZERO, durationDays: U256::ONE },
            contractsInfo: ContractsInfo { chainId: U256::from(12_345), addresses: vec![FIRST, SECOND] },
            userAddress: USER,
            publicKey: Bytes::from_static(b"key"),
            signature: Bytes::from_static(&[1; 65]),
            extraData: Bytes::new(),
        }
        .abi_encode()
    }

    fn delegated(pairs: Vec<CtHandleContractPair>) -> Vec<u8> {
        Decryption::delegatedUserDecryptionRequestCall {
            ctHandleContractPairs: pairs,
            requestValidity: RequestValidity { startTimestamp: U256::ZERO, durationDays: U256::ONE },
            delegationAccounts: DelegationAccounts { delegatorAddress: OWNER, delegateAddress: USER },
            contractsInfo: ContractsInfo { chainId: U256::from(12_345), addresses: vec![FIRST] },
            publicKey: Bytes::from_static(b"key"),
            signature: Bytes::from_static(&[1; 65]),
            extraData: Bytes::new(),
        }
        .abi_encode()
    }

    fn event(handles: &[B256]) -> Event<'_> {
        Event { handles, user: USER, public_key: b"key", extra_data: &[] }
    }

    fn code(outcome: Result<Grounds, Trouble>) -> &'static str {
        let trouble = outcome.unwrap_err();
        assert!(matches!(trouble, Trouble::Permanent { .. }), "{trouble}");
        trouble.code()
    }

    #[test]
    fn a_direct_request_tells_the_contract_of_each_handle_also_of_one_that_stands_twice() {
        let input = direct(vec![pair(HANDLE, FIRST), pair(HANDLE, SECOND)]);
        let grounds = Grounds::read(DECRYPTION, Some(DECRYPTION), &input, &event(&[HANDLE, HANDLE])).unwrap();
        assert_eq!(grounds.pairs, [(HANDLE, FIRST), (HANDLE, SECOND)]);
        assert_eq!(grounds.asker, Asker::User(USER));
    }

    #[test]
    fn a_delegated_request_tells_the_delegator() {
        let input = delegated(vec![pair(HANDLE, FIRST)]);
        let grounds = Grounds::read(DECRYPTION, Some(DECRYPTION), &input, &event(&[HANDLE])).unwrap();
        assert_eq!(grounds.asker, Asker::Delegate { delegator: OWNER, delegate: USER });
        assert_eq!(grounds.asker.receiver(), USER);
    }

    #[test]
    fn p4_a_transaction_to_another_contract_tells_nothing() {
        let input = direct(vec![pair(HANDLE, FIRST)]);
        for to in [None, Some(FIRST)] {
            let outcome = Grounds::read(DECRYPTION, to, &input, &event(&[HANDLE]));
            assert_eq!(code(outcome), codes::CALLDATA_FOREIGN);
        }
    }

    #[test]
    fn p4_calldata_of_another_function_or_none_tells_nothing() {
        let mut other = direct(vec![pair(HANDLE, FIRST)]);
        other[0] ^= 1;
        let whole = direct(vec![pair(HANDLE, FIRST)]);
        for input in [&[][..], &other, &whole[..3], &whole[..100]] {
            let outcome = Grounds::read(DECRYPTION, Some(DECRYPTION), input, &event(&[HANDLE]));
            assert_eq!(code(outcome), codes::CALLDATA_FOREIGN);
        }
    }

    #[test]
    fn p4_the_pairs_are_the_events_handles_and_the_user_is_the_events() {
        let other = b256!("b853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500");
        let read = |input: &[u8], event: &Event<'_>| Grounds::read(DECRYPTION, Some(DECRYPTION), input, event);
        let input = direct(vec![pair(HANDLE, FIRST), pair(other, FIRST)]);
        for handles in [&[HANDLE][..], &[other, HANDLE], &[HANDLE, other, other], &[]] {
            assert_eq!(code(read(&input, &event(handles))), codes::CALLDATA_DIFFERS);
        }
        let both = [HANDLE, other];
        let elsewhere = Event { user: OWNER, ..event(&both) };
        assert_eq!(code(read(&input, &elsewhere)), codes::CALLDATA_DIFFERS);
        let key = Event { public_key: b"another", ..event(&both) };
        assert_eq!(code(read(&input, &key)), codes::CALLDATA_DIFFERS);
        let extra = Event { extra_data: &[1], ..event(&both) };
        assert_eq!(code(read(&input, &extra)), codes::CALLDATA_DIFFERS);
        // The delegator is not the receiver of the shares.
        let outcome = read(&delegated(vec![pair(HANDLE, FIRST)]), &Event { user: OWNER, ..event(&[HANDLE]) });
        assert_eq!(code(outcome), codes::CALLDATA_DIFFERS);
    }

    fn unified(start: u64, duration: u64) -> UnifiedUserDecryption {
        UnifiedUserDecryption {
            materials: Vec::new(),
            entries: vec![HandleEntry { handle: HANDLE, contract: FIRST, owner: USER }],
            user_address: USER,
            public_key: Bytes::from_static(b"key"),
            allowed_contracts: vec![FIRST],
            start_timestamp: U256::from(start),
            duration_seconds: U256::from(duration),
            extra_data: Bytes::new(),
            signature: Bytes::new(),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn validity_has_a_beginning_that_is_waited_for_and_an_end() {
        let request = unified(100, 50);
        assert!(matches!(
            check_validity(&request, at(99)),
            Err(Trouble::Waits { budget: Budget::NotYet, code: codes::VALIDITY_NOT_BEGUN, .. })
        ));
        assert_eq!(check_validity(&request, at(100)), Ok(()));
        assert_eq!(check_validity(&request, at(150)), Ok(()));
        assert!(matches!(
            check_validity(&request, at(151)),
            Err(Trouble::Permanent { code: codes::VALIDITY_EXPIRED, .. })
        ));
        let endless = UnifiedUserDecryption { duration_seconds: U256::MAX, ..request };
        assert_eq!(check_validity(&endless, at(1 << 40)), Ok(()));
    }

    #[test]
    fn p4_the_user_is_none_of_the_allowed_contracts() {
        let request = UnifiedUserDecryption { allowed_contracts: vec![FIRST, USER], ..unified(0, 1_000) };
        let refused = check_validity(&request, at(1)).unwrap_err();
        assert_eq!(refused.code(), codes::USER_AMONG_CONTRACTS);
    }

    #[test]
    fn p4_the_users_signature_covers_every_field_and_the_host_chain() {
        let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(5)).unwrap();
        let domain = Domain::decryption(54_321, DECRYPTION);
        let mut request = unified(100, 50);
        request.user_address = key.address();
        let digest = signed_digest(&domain, 12_345, &request);
        let signature = key.sign_hash_sync(&digest).unwrap().as_bytes();
        let holds = |digest: B256, signature: &[u8]| is_signed_by_key(digest, signature, key.address());
        assert!(holds(digest, &signature));
        let mut low = signature;
        low[64] -= 27;
        assert!(holds(digest, &low), "the older form of the last byte");
        assert!(!holds(digest, &signature[..64]) && !holds(digest, &[]) && !holds(digest, &[0; 65]));
        assert!(!is_signed_by_key(digest, &signature, USER));
        let changes: [fn(&mut UnifiedUserDecryption); 6] = [
            |request| request.user_address = OWNER,
            |request| request.public_key = Bytes::from_static(b"other"),
            |request| request.allowed_contracts.clear(),
            |request| request.start_timestamp += U256::ONE,
            |request| request.duration_seconds += U256::ONE,
            |request| request.extra_data = Bytes::from_static(&[0]),
        ];
        for change in changes {
            let mut other = request.clone();
            change(&mut other);
            assert!(!holds(signed_digest(&domain, 12_345, &other), &signature));
        }
        assert!(!holds(signed_digest(&domain, 54_321, &request), &signature), "the Gateway's id is not signed");
        let elsewhere = Domain::decryption(54_321, FIRST);
        assert!(!holds(signed_digest(&elsewhere, 12_345, &request), &signature));
    }
}
