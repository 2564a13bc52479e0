//! The first check before a signature can cost gas: did our signer sign exactly this, and what is to be done with it? Pure.
//!
//! Promise P4: whoever can write to the results topics cannot make the emitter submit. The digests are recomputed from the
//! fields that go into the call, so that a genuine signature over other data is refused here and not by the contract. That
//! the request exists, and is the one that was answered, is held against the chain afterwards ([`crate::prove`]).

use alloy::primitives::{Address, Bytes};
use kms_chain::codes::{ANSWER_MISMATCH, SIGNATURE_MALFORMED, SIGNER_MISMATCH};
use kms_chain::eip712::{self, Domains, NoDomain, SignatureError};
use kms_chain::event::ContractSet;
use kms_chain::response::{ResponseCall, response_call};
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::{Answer, ResultRecord};

use crate::answer::{self, Mark};
use crate::codes::EPOCH_INCOMPLETE;

/// What a checked result asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Submit this call.
    Call(Call),
    /// The protocol has no answer on chain for this request.
    NoAnswerOnChain,
    /// The generation was aborted before it was answered.
    Aborted,
    /// The request left the chain before it was answered.
    Retracted,
}

/// A call whose signatures were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Kind of the answer.
    pub kind: Kind,
    /// Contract to call.
    pub to: Address,
    /// Selector and arguments.
    pub calldata: Bytes,
    /// By what our own response event is recognised.
    pub mark: Mark,
    /// The context that the answer was signed for, where the call does not name it itself.
    pub context: Option<RequestId>,
}

/// Why a result is not submitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The answer is of another kind than the identity.
    #[error("the answer is none for {0}")]
    Kind(Kind),
    /// The release of the contracts takes no such answer.
    #[error("the contracts take no answer to {0}")]
    NotTaken(Kind),
    /// It is signed in a domain that this destination does not have.
    #[error(transparent)]
    Domain(#[from] NoDomain),
    /// The contract refuses an activation without keys or without CRSs.
    #[error("the activation of an epoch names no key, or no CRS")]
    Empty,
    /// The signature has a form that the contracts refuse, or is somebody else's.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// What the record says about its signature is not what was recomputed.
    #[error("the record claims another {0} than recomputed from its answer")]
    Claim(&'static str),
}

impl VerifyError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Kind(_) | Self::NotTaken(_) | Self::Domain(_) | Self::Claim(_) => ANSWER_MISMATCH,
            Self::Empty => EPOCH_INCOMPLETE,
            Self::Signature(SignatureError::WrongSigner { .. }) => SIGNER_MISMATCH,
            Self::Signature(_) => SIGNATURE_MALFORMED,
        }
    }

    /// Whether the contracts of another release might take the answer: they have other calls, and other signed messages.
    #[must_use]
    pub fn depends_on_release(&self) -> bool {
        matches!(self, Self::NotTaken(_) | Self::Domain(_) | Self::Signature(_))
    }
}

/// What results are checked against.
#[derive(Clone, Debug)]
pub struct Verifier {
    contracts: ContractSet,
    domains: Domains,
    signer: Address,
}

impl Verifier {
    /// A verifier of answers by `signer` to the contracts' requests.
    #[must_use]
    pub fn new(contracts: ContractSet, domains: Domains, signer: Address) -> Self {
        Self { contracts, domains, signer }
    }

    /// Checks a result that is this destination's, and makes the call that carries it.
    ///
    /// # Errors
    /// Why it must never be sent.
    pub fn check(&self, result: &ResultRecord) -> Result<Checked, VerifyError> {
        let (kind, answer) = (result.identity.kind, &result.answer);
        if !answer::belongs_to(answer, kind) {
            return Err(VerifyError::Kind(kind));
        }
        let mark = match answer {
            Answer::Done => return Ok(Checked::NoAnswerOnChain),
            Answer::Aborted => return Ok(Checked::Aborted),
            Answer::Retracted => return Ok(Checked::Retracted),
            signed => answer::mark(signed).ok_or(VerifyError::Kind(kind))?,
        };
        if let Answer::EpochActivation { keys, crs_list, .. } = answer
            && (keys.is_empty() || crs_list.is_empty())
        {
            return Err(VerifyError::Empty);
        }
        self.check_signatures(result)?;
        let call = response_call(&self.contracts, result.identity.id, answer);
        let ResponseCall { to, calldata, .. } = call.ok_or(VerifyError::NotTaken(kind))?;
        Ok(Checked::Call(Call { kind, to, calldata, mark, context: answer::context(answer) }))
    }

    fn check_signatures(&self, result: &ResultRecord) -> Result<(), VerifyError> {
        for (digest, signed) in self.domains.signed(result.identity.id, &result.answer)? {
            eip712::verify(digest, &signed.signature, self.signer)?;
            if signed.digest != digest {
                return Err(VerifyError::Claim("digest"));
            }
            if signed.signer != self.signer {
                return Err(VerifyError::Claim("signer"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy::primitives::{B256, U256};
    use alloy::signers::local::PrivateKeySigner;
    use kms_chain::release::Release;
    use kms_schemas::identity::{Coordinates, Identity};
    use kms_schemas::record::{EpochCrs, EpochKey, KeyDigest, Signed};

    use super::*;

    pub(crate) const CHAIN: u64 = 10_901;

    /// A node whose contracts are all on one chain.
    pub(crate) struct Node {
        key: PrivateKeySigner,
        pub(crate) contracts: ContractSet,
        domains: Domains,
    }

    impl Node {
        pub(crate) fn of(release: Release) -> Self {
            let contracts = ContractSet {
                release,
                decryption: Some(Address::repeat_byte(0xd1)),
                kms_generation: Some(Address::repeat_byte(0x9e)),
                protocol_config: Some(Address::repeat_byte(0x9c)),
            };
            let key = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
            Self { key, contracts, domains: Domains::new(CHAIN, &contracts) }
        }

        pub(crate) fn verifier(&self) -> Verifier {
            Verifier::new(self.contracts, self.domains.clone(), self.key.address())
        }

        fn identity(&self, kind: Kind) -> Identity {
            let contract = match kind {
                Kind::PublicDecryption | Kind::UserDecryption => self.contracts.decryption,
                Kind::NewKmsContext | Kind::NewKmsEpoch => self.contracts.protocol_config,
                _ => self.contracts.kms_generation,
            };
            Identity { chain_id: CHAIN, contract: contract.unwrap(), kind, id: RequestId(B256::repeat_byte(3)) }
        }

        /// A result as the processor makes it.
        pub(crate) fn result(&self, kind: Kind, answer: Answer) -> ResultRecord {
            let mut result = ResultRecord {
                source: Coordinates { topic: "t".to_owned(), partition: 0, offset: 0 },
                deferred: None,
                identity: self.identity(kind),
                block_number: 1,
                block_hash: B256::ZERO,
                log_index: 0,
                attempts: 1,
                answer,
            };
            let id = result.identity.id;
            let digests: Vec<B256> =
                self.domains.signed(id, &result.answer).unwrap().into_iter().map(|(digest, _)| digest).collect();
            for (digest, signed) in digests.into_iter().zip(signatures(&mut result.answer)) {
                let signature = eip712::sign(&self.key, digest).unwrap();
                *signed = Signed { signature, digest, signer: self.key.address() };
            }
            result
        }
    }

    fn signatures(answer: &mut Answer) -> Vec<&mut Signed> {
        match answer {
            Answer::PublicDecryption { signature, .. }
            | Answer::UserDecryption { signature, .. }
            | Answer::PrepKeygen { signature, .. }
            | Answer::Keygen { signature, .. }
            | Answer::Crsgen { signature, .. } => vec![signature],
            Answer::EpochActivation { keys, crs_list, .. } => {
                let keys = keys.iter_mut().map(|key| &mut key.signature);
                keys.chain(crs_list.iter_mut().map(|crs| &mut crs.signature)).collect()
            }
            Answer::KmsContextCreated | Answer::Done | Answer::Aborted | Answer::Retracted => Vec::new(),
        }
    }

    fn unsigned() -> Signed {
        Signed { signature: Bytes::new(), digest: B256::ZERO, signer: Address::ZERO }
    }

    pub(crate) fn answers() -> [(Kind, Answer); 6] {
        let word = Bytes::from(vec![9; 32]);
        let extra_data = Bytes::from(vec![2; 65]);
        let (handles, key_digests) =
            (vec![B256::repeat_byte(1)], vec![KeyDigest { key_type: 0, digest: word.clone() }]);
        let id = |byte| RequestId(B256::repeat_byte(byte));
        [
            (
                Kind::PublicDecryption,
                Answer::PublicDecryption {
                    handles: handles.clone(),
                    decrypted_result: word.clone(),
                    extra_data: Bytes::new(),
                    signature: unsigned(),
                },
            ),
            (
                Kind::UserDecryption,
                Answer::UserDecryption {
                    public_key: word.clone(),
                    handles,
                    share: word.clone(),
                    extra_data: Bytes::from_static(&[0]),
                    signature: unsigned(),
                },
            ),
            (Kind::PrepKeygen, Answer::PrepKeygen { extra_data: extra_data.clone(), signature: unsigned() }),
            (
                Kind::Keygen,
                Answer::Keygen {
                    prep_keygen_id: id(4),
                    key_digests: key_digests.clone(),
                    extra_data: extra_data.clone(),
                    signature: unsigned(),
                },
            ),
            (
                Kind::Crsgen,
                Answer::Crsgen {
                    max_bit_length: U256::from(2048),
                    crs_digest: word.clone(),
                    extra_data,
                    signature: unsigned(),
                },
            ),
            (
                Kind::NewKmsEpoch,
                Answer::EpochActivation {
                    context_id: id(7),
                    keys: vec![EpochKey { prep_keygen_id: id(4), key_id: id(5), key_digests, signature: unsigned() }],
                    crs_list: vec![EpochCrs {
                        crs_id: id(6),
                        max_bit_length: U256::from(2048),
                        crs_digest: word,
                        signature: unsigned(),
                    }],
                },
            ),
        ]
    }

    fn every_release() -> impl Iterator<Item = (Node, Kind, Answer)> {
        let all = Release::ALL
            .into_iter()
            .flat_map(|release| answers().into_iter().map(move |(kind, answer)| (Node::of(release), kind, answer)));
        all.filter(|(node, kind, _)| *kind != Kind::NewKmsEpoch || node.contracts.release.epochs())
    }

    #[test]
    fn every_kind_of_signed_answer_becomes_a_call_to_its_contract_in_every_release() {
        for (node, kind, answer) in every_release() {
            let result = node.result(kind, answer);
            let Checked::Call(call) = node.verifier().check(&result).unwrap() else { panic!("{kind}") };
            assert_eq!((call.kind, call.to), (kind, result.identity.contract));
            match (kind, call.mark) {
                (Kind::NewKmsEpoch, mark) => {
                    assert_eq!((mark, call.context), (Mark::Signer, Some(RequestId(B256::repeat_byte(7)))));
                }
                (_, Mark::Signature(signature)) => assert_eq!(signature.len(), 65),
                (_, mark) => panic!("{kind}: {mark:?}"),
            }
        }
    }

    #[test]
    fn a_context_is_confirmed_without_a_signature_where_the_release_has_confirmations() {
        let node = Node::of(Release::V0_15);
        let result = node.result(Kind::NewKmsContext, Answer::KmsContextCreated);
        let Checked::Call(call) = node.verifier().check(&result).unwrap() else { panic!() };
        assert_eq!((Some(call.to), call.mark), (node.contracts.protocol_config, Mark::TxSender));
        let old = Node::of(Release::V0_13);
        let error = old.verifier().check(&old.result(Kind::NewKmsContext, Answer::KmsContextCreated)).unwrap_err();
        assert_eq!(error, VerifyError::NotTaken(Kind::NewKmsContext));
    }

    #[test]
    fn p4_an_answer_changed_after_signing_is_refused() {
        for (node, kind, answer) in every_release() {
            let mut result = node.result(kind, answer);
            result.identity.id = RequestId(B256::repeat_byte(8));
            match &mut result.answer {
                Answer::PublicDecryption { decrypted_result, .. } => *decrypted_result = Bytes::from(vec![1; 32]),
                Answer::UserDecryption { share, .. } => *share = Bytes::from(vec![1; 32]),
                _ => {}
            }
            let error = node.verifier().check(&result).unwrap_err();
            assert_eq!(error.code(), SIGNER_MISMATCH, "{kind}: {error}");
        }
    }

    #[test]
    fn p4_an_answer_signed_in_the_form_of_another_release_is_refused() {
        let [.., (_, keygen), _, _] = answers();
        let signed = Node::of(Release::V0_11).result(Kind::Keygen, keygen);
        let error = Node::of(Release::V0_15).verifier().check(&signed).unwrap_err();
        assert_eq!(error.code(), SIGNER_MISMATCH);
    }

    #[test]
    fn p4_every_item_of_an_epoch_must_be_signed_for_that_epoch_and_context() {
        let node = Node::of(Release::V0_15);
        let [.., (kind, answer)] = answers();
        let good = node.result(kind, answer);
        type Change = fn(&mut Vec<EpochKey>, &mut Vec<EpochCrs>, &mut RequestId);
        let changes: [Change; 4] = [
            |_, _, context| *context = RequestId(B256::repeat_byte(8)),
            |keys, _, _| keys[0].prep_keygen_id = RequestId(B256::repeat_byte(8)),
            |_, crs_list, _| crs_list[0].max_bit_length = U256::ONE,
            |keys, crs_list, _| keys[0].signature = crs_list[0].signature.clone(),
        ];
        for change in changes {
            let mut result = good.clone();
            let Answer::EpochActivation { keys, crs_list, context_id } = &mut result.answer else { unreachable!() };
            change(keys, crs_list, context_id);
            assert_eq!(node.verifier().check(&result).unwrap_err().code(), SIGNER_MISMATCH);
        }
        for left_out in 0..2 {
            let mut result = good.clone();
            let Answer::EpochActivation { keys, crs_list, .. } = &mut result.answer else { unreachable!() };
            if left_out == 0 {
                keys.clear();
            } else {
                crs_list.clear();
            }
            assert_eq!(node.verifier().check(&result), Err(VerifyError::Empty));
        }
    }

    #[test]
    fn p4_another_signer_is_refused() {
        for (node, kind, answer) in every_release() {
            let mut stranger = Node::of(node.contracts.release);
            stranger.key = PrivateKeySigner::from_slice(&[8; 32]).unwrap();
            let error = node.verifier().check(&stranger.result(kind, answer)).unwrap_err();
            assert_eq!(error.code(), SIGNER_MISMATCH);
        }
    }

    #[test]
    fn an_answer_of_another_kind_is_refused() {
        let node = Node::of(Release::V0_15);
        let wrong = [
            node.result(Kind::UserDecryption, answers()[0].1.clone()),
            node.result(Kind::PrepKeygen, Answer::Done),
            node.result(Kind::PublicDecryption, Answer::Done),
            node.result(Kind::PublicDecryption, Answer::Aborted),
            node.result(Kind::NewKmsEpoch, Answer::KmsContextCreated),
            node.result(Kind::KmsContextDestroyed, Answer::KmsContextCreated),
        ];
        for result in wrong {
            assert_eq!(node.verifier().check(&result).unwrap_err().code(), ANSWER_MISMATCH);
        }
    }

    #[test]
    fn a_signature_of_a_form_that_the_contracts_refuse_is_refused_here() {
        let node = Node::of(Release::V0_11);
        let [(kind, answer), ..] = answers();
        let good = node.result(kind, answer);
        let damage: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes.truncate(64), |bytes| bytes[64] -= 27, |bytes| bytes.push(0)];
        for change in damage {
            let mut result = good.clone();
            let [signed] = &mut signatures(&mut result.answer)[..] else { unreachable!() };
            let mut bytes = signed.signature.to_vec();
            change(&mut bytes);
            signed.signature = bytes.into();
            assert_eq!(node.verifier().check(&result).unwrap_err().code(), SIGNATURE_MALFORMED);
        }
    }

    #[test]
    fn a_record_that_misstates_its_own_signature_is_refused() {
        let node = Node::of(Release::V0_11);
        let [(kind, answer), ..] = answers();
        let mut result = node.result(kind, answer);
        signatures(&mut result.answer)[0].digest = B256::ZERO;
        assert_eq!(node.verifier().check(&result), Err(VerifyError::Claim("digest")));
    }

    #[test]
    fn kinds_without_an_answer_on_chain_aborts_and_retractions_send_nothing() {
        let node = Node::of(Release::V0_15);
        let check = |kind, answer| node.verifier().check(&node.result(kind, answer));
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.has_answer()) {
            assert_eq!(check(kind, Answer::Done), Ok(Checked::NoAnswerOnChain), "{kind}");
        }
        // The very first context.
        assert_eq!(check(Kind::NewKmsContext, Answer::Done), Ok(Checked::NoAnswerOnChain));
        for kind in [Kind::PrepKeygen, Kind::Keygen, Kind::Crsgen] {
            assert_eq!(check(kind, Answer::Aborted), Ok(Checked::Aborted));
        }
        assert_eq!(check(Kind::PublicDecryption, Answer::Retracted), Ok(Checked::Retracted));
    }
}
