//! Whether a host chain's access control list lets the request have what it asks for (`docs/protocol.md`, "Access checks").
//!
//! From v0.12 on nobody else checks this: a handle that is decrypted against the list is a user's secret given away. So only a decoded "yes"
//! of the list is one. A "no" may be a host chain that is behind, and waits; no answer, a revert or an answer that does not decode is an
//! outage, and neither.
//!
//! Everything that a request needs of one chain is asked in one JSON-RPC request on one head. No answer is remembered: a delegation can be
//! revoked, a host chain can reorganise, and an attempt that is repeated costs one request more.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall;
use kms_chain::contracts::HostAcl;
use kms_chain::contracts::b::{Erc1271, HostAcl as HostAclB};
use kms_chain::eip712::Domain;
use kms_chain::handles;
use kms_chain::rpc::{BlockId, CallError, CallRequest, Rpc};
use kms_chain::views::read_view;
use kms_runtime::stage::{Answered, Reach};
use kms_schemas::record::{HandleEntry, UnifiedUserDecryption};

use crate::bounds;
use crate::chains::HOST_CHAIN;
use crate::codes;
use crate::error::Trouble;
use crate::patience::Budget;
use crate::user_request::{self, Asker, Grounds};

/// One host chain.
#[derive(Clone, Debug)]
pub struct HostChain {
    /// Its nodes.
    pub rpc: Rpc,
    /// Its access control list.
    pub acl: Address,
}

/// The host chains, by chain id.
#[derive(Clone, Debug)]
pub struct HostChains {
    chains: BTreeMap<u64, HostChain>,
    erc1271_gas: u64,
}

/// A question to an access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Question {
    /// May everybody have it decrypted?
    ForDecryption(B256),
    /// May the account use it?
    Allowed(B256, Address),
    /// May the delegate have it decrypted for the delegator, with the contract?
    Delegated { delegator: Address, delegate: Address, contract: Address, handle: B256 },
}

impl Question {
    fn calldata(self) -> Vec<u8> {
        match self {
            Self::ForDecryption(handle) => HostAcl::isAllowedForDecryptionCall { handle }.abi_encode(),
            Self::Allowed(handle, account) => HostAcl::isAllowedCall { handle, account }.abi_encode(),
            Self::Delegated { delegator, delegate, contract, handle } => {
                HostAcl::isHandleDelegatedForUserDecryptionCall {
                    delegator,
                    delegate,
                    contractAddress: contract,
                    handle,
                }
                .abi_encode()
            }
        }
    }
}

/// What a "no" to a question means for the request.
#[derive(Clone, Copy, Debug)]
struct Need {
    question: Question,
    code: &'static str,
}

impl HostChains {
    /// These chains; the call of a user's contract may use `erc1271_gas`.
    #[must_use]
    pub const fn new(chains: BTreeMap<u64, HostChain>, erc1271_gas: u64) -> Self {
        Self { chains, erc1271_gas }
    }

    /// The chain with this id.
    ///
    /// # Errors
    /// [`Trouble::Permanent`]: it is not configured.
    fn chain(&self, id: u64) -> Result<&HostChain, Trouble> {
        self.chains.get(&id).ok_or_else(|| {
            let known: Vec<String> = self.chains.keys().map(ToString::to_string).collect();
            Trouble::permanent(
                codes::HOST_CHAIN_UNKNOWN,
                format!("the handles are of host chain {id}; configured are {}", known.join(", ")),
            )
        })
    }

    /// Everybody may have every handle decrypted. The handles may be of several chains.
    ///
    /// # Errors
    /// [`Trouble::Waits`] for a "no", [`Trouble::Permanent`] for a chain that is not configured, [`Trouble::Outage`].
    pub async fn check_public(&self, asked: &[B256], answered: &Answered) -> Result<(), Trouble> {
        let mut by_chain: BTreeMap<u64, BTreeSet<B256>> = BTreeMap::new();
        for handle in asked {
            by_chain.entry(handles::host_chain_id(*handle)).or_default().insert(*handle);
        }
        for id in by_chain.keys() {
            self.chain(*id)?;
        }
        for (id, handles) in by_chain {
            let needs = handles
                .into_iter()
                .map(|handle| Need { question: Question::ForDecryption(handle), code: codes::NOT_PUBLIC })
                .collect();
            self.need_all(id, needs, answered).await?;
        }
        Ok(())
    }

    /// The user, or the delegate, may have every handle with every contract that it is asked for.
    ///
    /// # Errors
    /// As [`Self::check_public`].
    pub async fn check_legacy(&self, grounds: &Grounds, answered: &Answered) -> Result<(), Trouble> {
        let asked: Vec<B256> = grounds.pairs.iter().map(|(handle, _)| *handle).collect();
        let chain = bounds::one_host_chain(&asked)?;
        let mut needs = Vec::new();
        for (handle, contract) in &grounds.pairs {
            match grounds.asker {
                Asker::User(user) => {
                    needs.push(Need { question: Question::Allowed(*handle, user), code: codes::NOT_OWNED });
                    let question = Question::Allowed(*handle, *contract);
                    needs.push(Need { question, code: codes::NOT_ALLOWED_FOR_CONTRACT });
                }
                // Implies that delegator and contract are allowed.
                Asker::Delegate { delegator, delegate } => {
                    let question = Question::Delegated { delegator, delegate, contract: *contract, handle: *handle };
                    needs.push(Need { question, code: codes::NOT_DELEGATED });
                }
            }
        }
        self.need_all(chain, needs, answered).await
    }

    /// All that a unified request must be asked of its host chain: the user's signature, whether it was invalidated, ownership or
    /// delegation of every handle, and the list of contracts that the user allowed. `domain` is that of the Gateway's `Decryption`.
    ///
    /// # Errors
    /// As [`Self::check_public`]; [`Trouble::Permanent`] also for a signature that is wrong for good.
    pub async fn check_unified(
        &self,
        request: &UnifiedUserDecryption,
        domain: &Domain,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        let asked: Vec<B256> = request.entries.iter().map(|entry| entry.handle).collect();
        let id = bounds::one_host_chain(&asked)?;
        let chain = self.chain(id)?;
        let user = request.user_address;
        let digest = user_request::signed_digest(domain, id, request);
        let by_key = user_request::is_signed_by_key(digest, &request.signature, user);

        let mut needs: Vec<Need> = request.entries.iter().map(|entry| owned(entry, user)).collect();
        // Each handle is asked for with its own contract first, which is the one that is allowed, nearly always.
        let first = |entry: &HandleEntry| {
            let own = request.allowed_contracts.iter().find(|contract| **contract == entry.contract);
            own.or(request.allowed_contracts.first()).map(|contract| Question::Allowed(entry.handle, *contract))
        };
        let listed: Vec<Question> = request.entries.iter().filter_map(first).collect();

        let invalidated = HostAclB::decryptionSignatureInvalidatedBeforeCall { account: user };
        let mut calls = vec![CallRequest::view(chain.acl, invalidated.abi_encode())];
        if !by_key {
            let call = Erc1271::isValidSignatureCall { hash: digest, signature: request.signature.clone() };
            calls.push(CallRequest { gas: Some(self.erc1271_gas), ..CallRequest::view(user, call.abi_encode()) });
        }
        let others = calls.len();
        dedup(&mut needs);
        let mut questions: Vec<Question> = needs.iter().map(|need| need.question).collect();
        questions.extend(listed.iter().copied());
        calls.extend(questions.iter().map(|question| CallRequest::view(chain.acl, question.calldata())));
        let mut answers = self.call(id, chain, &calls, answered).await?;
        let rights = answers.split_off(others);

        // What the list says shows that the node executes calls, so that what comes of the user's contract is the contract's.
        let before = self.invalidated_before(id, chain, answers.first())?;
        let rights = self.read_rights(id, chain, &rights)?;
        if let Some(answer) = answers.get(1) {
            self.judge_contract_signature(id, user, answer)?;
        }
        if before > request.start_timestamp {
            return Err(Trouble::permanent(
                codes::SIGNATURE_INVALIDATED,
                format!(
                    "the user {user} has invalidated signatures from before {before}; this one begins at {}",
                    request.start_timestamp
                ),
            ));
        }
        let (owned, allowed) = rights.split_at(needs.len());
        judge(id, &needs, owned)?;
        let unlisted: BTreeSet<B256> = listed
            .iter()
            .zip(allowed)
            .filter(|(_, allowed)| !**allowed)
            .filter_map(|(question, _)| match question {
                Question::Allowed(handle, _) => Some(*handle),
                _ => None,
            })
            .collect();
        self.check_rest_of_list(id, chain, unlisted, &request.allowed_contracts, answered).await
    }

    /// The handles that the first contract of the list may not use: any other of the list will do.
    async fn check_rest_of_list(
        &self,
        id: u64,
        chain: &HostChain,
        handles: BTreeSet<B256>,
        contracts: &[Address],
        answered: &Answered,
    ) -> Result<(), Trouble> {
        if handles.is_empty() {
            return Ok(());
        }
        let questions: Vec<Question> = handles
            .iter()
            .flat_map(|handle| contracts.iter().map(|contract| Question::Allowed(*handle, *contract)))
            .collect();
        let calls: Vec<CallRequest> =
            questions.iter().map(|question| CallRequest::view(chain.acl, question.calldata())).collect();
        let answers = self.call(id, chain, &calls, answered).await?;
        let rights = self.read_rights(id, chain, &answers)?;
        for (handle, of_handle) in handles.iter().zip(rights.chunks(contracts.len().max(1))) {
            if !of_handle.contains(&true) {
                let text = format!(
                    "none of the {} contracts that the user allowed may use handle {handle}, says the access control list of host chain {id}",
                    contracts.len()
                );
                return Err(Trouble::waits(Budget::Access, codes::NOT_LISTED, text));
            }
        }
        Ok(())
    }

    async fn need_all(&self, id: u64, mut needs: Vec<Need>, answered: &Answered) -> Result<(), Trouble> {
        let chain = self.chain(id)?;
        dedup(&mut needs);
        let calls: Vec<CallRequest> =
            needs.iter().map(|need| CallRequest::view(chain.acl, need.question.calldata())).collect();
        let answers = self.call(id, chain, &calls, answered).await?;
        judge(id, &needs, &self.read_rights(id, chain, &answers)?)
    }

    async fn call(
        &self,
        id: u64,
        chain: &HostChain,
        calls: &[CallRequest],
        answered: &Answered,
    ) -> Result<Vec<Result<Bytes, CallError>>, Trouble> {
        let answers = chain.rpc.calls(calls, BlockId::latest()).await;
        let answers = answers.map_err(|error| self.outage(id, codes::ACL_UNREACHABLE, error.to_string()))?;
        // Fewer answers than questions must not pass for "yes".
        if answers.len() != calls.len() {
            return Err(self.outage(id, codes::ACL_UNREACHABLE, "an answer is missing".to_owned()));
        }
        answered.by(HOST_CHAIN);
        Ok(answers)
    }

    fn read_rights(
        &self,
        id: u64,
        chain: &HostChain,
        answers: &[Result<Bytes, CallError>],
    ) -> Result<Vec<bool>, Trouble> {
        let read = |answer: &Result<Bytes, CallError>| {
            let bytes = answer.as_ref().map_err(|error| self.unreadable(id, chain, &error.to_string()))?;
            read_view::<HostAcl::isAllowedCall>(chain.acl, bytes)
                .map_err(|error| self.unreadable(id, chain, &error.to_string()))
        };
        answers.iter().map(read).collect()
    }

    fn invalidated_before(
        &self,
        id: u64,
        chain: &HostChain,
        answer: Option<&Result<Bytes, CallError>>,
    ) -> Result<U256, Trouble> {
        let bytes = match answer {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Err(self.unreadable(id, chain, &error.to_string())),
            None => return Err(self.unreadable(id, chain, "an answer is missing")),
        };
        read_view::<HostAclB::decryptionSignatureInvalidatedBeforeCall>(chain.acl, bytes)
            .map_err(|error| self.unreadable(id, chain, &error.to_string()))
    }

    /// What the user's contract says of the signature; the user's key did not make it.
    ///
    /// Contract and signature are the user's, and nodes have many texts for a call that runs out of its gas or fails in it, or whose data
    /// alone costs more. Whatever is not certainly the node's own trouble is therefore a "no", which ends with its budget: as an outage it
    /// would keep the request for ever, and the others with it.
    fn judge_contract_signature(
        &self,
        id: u64,
        user: Address,
        answer: &Result<Bytes, CallError>,
    ) -> Result<(), Trouble> {
        let refused = |text: &str| {
            let text = format!("{text} the user's signature ({user} on host chain {id})");
            Err(Trouble::waits(Budget::Access, codes::CONTRACT_SIGNATURE_REFUSED, text))
        };
        match answer {
            Ok(bytes) if bytes.is_empty() => Err(Trouble::permanent(
                codes::USER_SIGNATURE_WRONG,
                format!(
                    "the signature is not the user's ({user}), and there is no contract on host chain {id} that could vouch for it"
                ),
            )),
            Ok(bytes) if bytes.len() >= 32 && bytes[..4] == Erc1271::isValidSignatureCall::SELECTOR => Ok(()),
            Ok(_) => refused("the user's contract does not confirm"),
            Err(CallError::Reverted(_)) => refused("the user's contract reverts over"),
            Err(CallError::Rpc(error)) if error.is_about_the_node() => {
                Err(self.outage(id, codes::ACL_UNREACHABLE, error.to_string()))
            }
            Err(CallError::Rpc(error)) => refused(&format!("{error}; so the user's contract does not confirm")),
        }
    }

    /// The list itself gives no answer that could be read.
    fn unreadable(&self, id: u64, chain: &HostChain, why: &str) -> Trouble {
        self.outage(id, codes::ACL_UNREADABLE, format!("the access control list at {}: {why}", chain.acl))
    }

    fn outage(&self, id: u64, code: &'static str, text: String) -> Trouble {
        // Requests of the other chains go on.
        let reach = if self.chains.len() == 1 { Reach::All } else { Reach::Some };
        Trouble::Outage { code, dependency: HOST_CHAIN, reach, text: format!("host chain {id}: {text}") }
    }
}

/// A request that nobody but the host chain can vouch for, and no host chain is asked. (The start refuses such a configuration.)
pub(crate) fn no_host_chain() -> Trouble {
    Trouble::permanent(codes::HOST_CHAIN_UNKNOWN, "no host chain is configured that could be asked for access rights")
}

/// What the user needs of one handle: to own it, or to have it delegated.
fn owned(entry: &HandleEntry, user: Address) -> Need {
    if entry.owner == user {
        return Need { question: Question::Allowed(entry.handle, user), code: codes::NOT_OWNED };
    }
    let question =
        Question::Delegated { delegator: entry.owner, delegate: user, contract: entry.contract, handle: entry.handle };
    Need { question, code: codes::NOT_DELEGATED }
}

/// Asks nothing twice; the order stays.
fn dedup(needs: &mut Vec<Need>) {
    let mut seen = BTreeSet::new();
    needs.retain(|need| seen.insert(need.question));
}

fn judge(id: u64, needs: &[Need], rights: &[bool]) -> Result<(), Trouble> {
    let Some((refused, _)) = needs.iter().zip(rights).find(|(_, right)| !**right) else { return Ok(()) };
    let what = match refused.question {
        Question::ForDecryption(handle) => format!("handle {handle} is not allowed for decryption"),
        Question::Allowed(handle, account) => format!("{account} is not allowed to use handle {handle}"),
        Question::Delegated { delegator, delegate, contract, handle } => {
            format!("{delegator} has not delegated handle {handle} of contract {contract} to {delegate}")
        }
    };
    let text = format!("{what}, says the access control list of host chain {id}");
    Err(Trouble::waits(Budget::Access, refused.code, text))
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
