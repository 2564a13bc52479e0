//! Delegating an account to the executor, and back: a barrier (`docs/protocol.md`, "Batches"). Pure; who sends is elsewhere.
//!
//! A self-sent transaction of type 4 moves the account's nonce by two, its own and the authorization's. With a wrong nonce in
//! the authorization it succeeds all the same, changes nothing, and moves the nonce by one. So nothing may be in flight
//! before it, and afterwards the account's code and nonce are looked at: its receipt says nothing.

use alloy::primitives::Address;

use crate::executor;
use crate::nonce::Nonce;

/// What the chain says of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its nonce in the latest block.
    pub nonce: Nonce,
    /// Its nonce with what the pool holds.
    pub pending: Nonce,
    /// Its code in the latest block.
    pub code: Vec<u8>,
}

/// An account that is delegated, not delegated, or a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no code.
    Plain,
    /// It runs the code of another account.
    Delegated(Address),
    /// It has code of its own: no key signs for it.
    Contract,
}

impl Account {
    /// What its code says.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match executor::delegate(&self.code) {
            Some(to) => Standing::Delegated(to),
            None if self.code.is_empty() => Standing::Plain,
            None => Standing::Contract,
        }
    }
}

/// The nonces of a delegation that the account itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Of the transaction.
    pub transaction: Nonce,
    /// Of the authorization in it.
    pub authorization: Nonce,
    /// Of the account when both took place.
    pub after: Nonce,
    /// Whom to delegate to; the zero address revokes.
    pub to: Address,
}

/// Why an account is not delegated now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    /// Something is on its way. What is sent behind it could carry a nonce that the authorization takes.
    #[error(
        "{} transactions of the account are on their way: stop its emitter and wait until they are mined",
        .pending.0.saturating_sub(.nonce.0)
    )]
    InFlight {
        /// On chain.
        nonce: Nonce,
        /// With the pool.
        pending: Nonce,
    },
    /// It is a contract.
    #[error("the account has code of its own, so it cannot be delegated")]
    Contract,
    /// There is nothing to do.
    #[error("the account is so already")]
    Already,
}

/// Plans a delegation to `to`; to the zero address: its revocation.
///
/// # Errors
/// See [`Barred`].
pub fn plan(account: &Account, to: Address) -> Result<Planned, Barred> {
    let wanted = if to.is_zero() { Standing::Plain } else { Standing::Delegated(to) };
    match account.standing() {
        Standing::Contract => return Err(Barred::Contract),
        standing if standing == wanted => return Err(Barred::Already),
        _ => {}
    }
    if account.pending != account.nonce {
        return Err(Barred::InFlight { nonce: account.nonce, pending: account.pending });
    }
    let after = |more: u64| Nonce(account.nonce.0.saturating_add(more));
    Ok(Planned { transaction: account.nonce, authorization: after(1), after: after(2), to })
}

/// Why a mined delegation did not take place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The account's code is another.
    #[error("the transaction was mined and the account's code did not change: {0:?}")]
    Code(Standing),
    /// Its nonce is another.
    #[error("the account's nonce is {} after the delegation, and {} was expected: something else used the account", .found.0, .expected.0)]
    Nonce {
        /// As it is.
        found: Nonce,
        /// As it must be.
        expected: Nonce,
    },
}

/// Holds the account against the plan once the transaction is mined.
///
/// # Errors
/// It did not take place, or something else happened to the account meanwhile.
pub fn verify(planned: &Planned, account: &Account) -> Result<(), Failed> {
    let wanted = if planned.to.is_zero() { Standing::Plain } else { Standing::Delegated(planned.to) };
    if account.standing() != wanted {
        return Err(Failed::Code(account.standing()));
    }
    if account.nonce != planned.after {
        return Err(Failed::Nonce { found: account.nonce, expected: planned.after });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXECUTOR: Address = Address::repeat_byte(0xee);

    fn account(nonce: u64, pending: u64, code: &[u8]) -> Account {
        Account { nonce: Nonce(nonce), pending: Nonce(pending), code: code.to_vec() }
    }

    fn delegated(to: Address) -> Vec<u8> {
        [&[0xef, 0x01, 0x00][..], to.as_slice()].concat()
    }

    #[test]
    fn the_authorization_has_the_nonce_behind_its_transactions() {
        let planned = plan(&account(7, 7, &[]), EXECUTOR).unwrap();
        assert_eq!((planned.transaction, planned.authorization, planned.after), (Nonce(7), Nonce(8), Nonce(9)));
        assert_eq!(verify(&planned, &account(9, 9, &delegated(EXECUTOR))), Ok(()));
    }

    #[test]
    fn nothing_is_delegated_while_something_is_in_flight() {
        let barred = plan(&account(7, 9, &[]), EXECUTOR).unwrap_err();
        assert_eq!(barred, Barred::InFlight { nonce: Nonce(7), pending: Nonce(9) });
        assert!(barred.to_string().starts_with("2 transactions"));
    }

    #[test]
    fn a_mined_transaction_that_changed_nothing_is_a_failure() {
        let planned = plan(&account(7, 7, &[]), EXECUTOR).unwrap();
        assert_eq!(verify(&planned, &account(8, 8, &[])), Err(Failed::Code(Standing::Plain)));
        let moved = Failed::Nonce { found: Nonce(10), expected: Nonce(9) };
        assert_eq!(verify(&planned, &account(10, 10, &delegated(EXECUTOR))), Err(moved));
    }

    #[test]
    fn a_delegation_is_changed_and_revoked_the_same_way() {
        let before = account(9, 9, &delegated(Address::repeat_byte(1)));
        assert!(plan(&before, EXECUTOR).is_ok());
        let revoked = plan(&before, Address::ZERO).unwrap();
        assert_eq!(verify(&revoked, &account(11, 11, &[])), Ok(()));
        assert_eq!(plan(&account(9, 9, &delegated(EXECUTOR)), EXECUTOR), Err(Barred::Already));
        assert_eq!(plan(&account(9, 9, &[]), Address::ZERO), Err(Barred::Already));
        assert_eq!(plan(&account(1, 1, &[0x60]), EXECUTOR), Err(Barred::Contract));
    }
}
