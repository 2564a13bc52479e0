//! The last check before a signature can cost gas: is this result ours to send, and did our signer sign exactly this? Pure.
//!
//! Promise P4: whoever can write to the results topics cannot make the emitter submit. The digest is recomputed from the
//! fields that go into the call, so that a genuine signature over other data is refused here and not by the contract.

use alloy::primitives::{Address, Bytes};
use kms_chain::codes::{ANSWER_MISMATCH, SIGNATURE_MALFORMED, SIGNER_MISMATCH};
use kms_chain::eip712::{self, Domains, SignatureError};
use kms_chain::event::ContractSet;
use kms_chain::response::{ResponseCall, response_call};
use kms_schemas::identity::{Identity, Kind};
use kms_schemas::record::{Answer, ResultRecord, Signed};

use crate::codes::WRONG_DESTINATION;

/// What a checked result asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Submit this call.
    Call(Call),
    /// The protocol has no answer on chain for this kind.
    NoAnswerOnChain,
    /// The request left the chain before it was answered.
    Retracted,
}

/// A call whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Kind of the answer.
    pub kind: Kind,
    /// Contract to call.
    pub to: Address,
    /// Selector and arguments.
    pub calldata: Bytes,
    /// KMS Core's signature, by which our own response event is recognised.
    pub signature: Bytes,
}

/// Why a result is not submitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Meant for another chain or contract.
    #[error(
        "the request is of {contract} on chain {chain_id}, this emitter serves {expected} on chain {expected_chain}"
    )]
    Destination {
        /// Chain of the identity.
        chain_id: u64,
        /// Contract of the identity.
        contract: Address,
        /// Chain that is configured.
        expected_chain: u64,
        /// Contract that is configured for the kind.
        expected: Address,
    },
    /// The answer is of another kind than the identity.
    #[error("the answer is none for {0}")]
    Kind(Kind),
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
            Self::Destination { .. } => WRONG_DESTINATION,
            Self::Kind(_) | Self::Claim(_) => ANSWER_MISMATCH,
            Self::Signature(SignatureError::WrongSigner { .. }) => SIGNER_MISMATCH,
            Self::Signature(_) => SIGNATURE_MALFORMED,
        }
    }
}

/// What results are checked against.
#[derive(Clone, Debug)]
pub struct Verifier {
    chain_id: u64,
    contracts: ContractSet,
    domains: Domains,
    signer: Address,
}

impl Verifier {
    /// A verifier of answers by `signer` to the contracts' requests.
    #[must_use]
    pub fn new(chain_id: u64, contracts: ContractSet, domains: Domains, signer: Address) -> Self {
        Self { chain_id, contracts, domains, signer }
    }

    /// Checks a result and makes the call that carries it.
    ///
    /// # Errors
    /// Why it must never be sent.
    pub fn check(&self, result: &ResultRecord) -> Result<Checked, VerifyError> {
        let identity = &result.identity;
        self.check_destination(identity)?;
        if !belongs_to(&result.answer, identity.kind) {
            return Err(VerifyError::Kind(identity.kind));
        }
        match signed(&result.answer) {
            Some(signed) => self.check_signature(result, signed)?,
            None if result.answer == Answer::Retracted => return Ok(Checked::Retracted),
            None => return Ok(Checked::NoAnswerOnChain),
        }
        let Some(ResponseCall { to, calldata, .. }) = response_call(&self.contracts, identity.id, &result.answer)
        else {
            return Err(VerifyError::Kind(identity.kind));
        };
        let signature = signed(&result.answer).map(|signed| signed.signature.clone()).unwrap_or_default();
        Ok(Checked::Call(Call { kind: identity.kind, to, calldata, signature }))
    }

    fn check_destination(&self, identity: &Identity) -> Result<(), VerifyError> {
        let expected = match identity.kind {
            Kind::PublicDecryption | Kind::UserDecryption => self.contracts.decryption,
            _ => self.contracts.kms_generation,
        };
        if identity.chain_id == self.chain_id && identity.contract == expected {
            return Ok(());
        }
        Err(VerifyError::Destination {
            chain_id: identity.chain_id,
            contract: identity.contract,
            expected_chain: self.chain_id,
            expected,
        })
    }

    fn check_signature(&self, result: &ResultRecord, signed: &Signed) -> Result<(), VerifyError> {
        let Some(digest) = self.domains.answer_digest(result.identity.id, &result.answer) else {
            return Err(VerifyError::Kind(result.identity.kind));
        };
        eip712::verify(digest, &signed.signature, self.signer)?;
        if signed.digest != digest {
            return Err(VerifyError::Claim("digest"));
        }
        if signed.signer != self.signer {
            return Err(VerifyError::Claim("signer"));
        }
        Ok(())
    }
}

fn belongs_to(answer: &Answer, kind: Kind) -> bool {
    match answer {
        Answer::PublicDecryption { .. } => kind == Kind::PublicDecryption,
        Answer::UserDecryption { .. } => kind == Kind::UserDecryption,
        Answer::PrepKeygen { .. } => kind == Kind::PrepKeygen,
        Answer::Keygen { .. } => kind == Kind::Keygen,
        Answer::Crsgen { .. } => kind == Kind::Crsgen,
        Answer::Done => matches!(kind, Kind::PrssInit | Kind::KeyReshareSameSet),
        Answer::Retracted => true,
    }
}

fn signed(answer: &Answer) -> Option<&Signed> {
    match answer {
        Answer::PublicDecryption { signature, .. }
        | Answer::UserDecryption { signature, .. }
        | Answer::PrepKeygen { signature }
        | Answer::Keygen { signature, .. }
        | Answer::Crsgen { signature, .. } => Some(signature),
        Answer::Done | Answer::Retracted => None,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, U256};
    use alloy::signers::local::PrivateKeySigner;
    use kms_schemas::identity::{Coordinates, RequestId};
    use kms_schemas::record::KeyDigest;

    use super::*;

    const CHAIN: u64 = 10_901;

    struct Node {
        key: PrivateKeySigner,
        contracts: ContractSet,
        domains: Domains,
    }

    impl Node {
        fn new() -> Self {
            let contracts =
                ContractSet { decryption: Address::repeat_byte(0xd1), kms_generation: Address::repeat_byte(0x9e) };
            let key = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
            Self { key, contracts, domains: Domains::new(CHAIN, &contracts) }
        }

        fn verifier(&self) -> Verifier {
            Verifier::new(CHAIN, self.contracts, self.domains.clone(), self.key.address())
        }

        fn identity(&self, kind: Kind) -> Identity {
            let decryption = matches!(kind, Kind::PublicDecryption | Kind::UserDecryption);
            let contract = if decryption { self.contracts.decryption } else { self.contracts.kms_generation };
            Identity { chain_id: CHAIN, contract, kind, id: RequestId(B256::repeat_byte(3)) }
        }

        /// A result as the processor makes it.
        fn result(&self, kind: Kind, answer: Answer) -> ResultRecord {
            let coordinates = Coordinates { topic: "t".to_owned(), partition: 0, offset: 0 };
            let mut result = ResultRecord {
                source: coordinates,
                deferred: None,
                identity: self.identity(kind),
                block_hash: B256::ZERO,
                log_index: 0,
                attempts: 1,
                answer,
            };
            if let Some(digest) = self.domains.answer_digest(result.identity.id, &result.answer) {
                let signature = eip712::sign(&self.key, digest).unwrap();
                *signed_mut(&mut result.answer) = Signed { signature, digest, signer: self.key.address() };
            }
            result
        }
    }

    fn signed_mut(answer: &mut Answer) -> &mut Signed {
        match answer {
            Answer::PublicDecryption { signature, .. }
            | Answer::UserDecryption { signature, .. }
            | Answer::PrepKeygen { signature }
            | Answer::Keygen { signature, .. }
            | Answer::Crsgen { signature, .. } => signature,
            Answer::Done | Answer::Retracted => panic!("unsigned"),
        }
    }

    fn unsigned() -> Signed {
        Signed { signature: Bytes::new(), digest: B256::ZERO, signer: Address::ZERO }
    }

    fn answers() -> [(Kind, Answer); 5] {
        let word = Bytes::from(vec![9; 32]);
        [
            (
                Kind::PublicDecryption,
                Answer::PublicDecryption {
                    handles: vec![B256::repeat_byte(1)],
                    decrypted_result: word.clone(),
                    extra_data: Bytes::new(),
                    signature: unsigned(),
                },
            ),
            (
                Kind::UserDecryption,
                Answer::UserDecryption {
                    public_key: word.clone(),
                    handles: vec![B256::repeat_byte(1)],
                    share: word.clone(),
                    extra_data: Bytes::from_static(&[0]),
                    signature: unsigned(),
                },
            ),
            (Kind::PrepKeygen, Answer::PrepKeygen { signature: unsigned() }),
            (
                Kind::Keygen,
                Answer::Keygen {
                    prep_keygen_id: RequestId(B256::repeat_byte(4)),
                    key_digests: vec![KeyDigest { key_type: 0, digest: word.clone() }],
                    signature: unsigned(),
                },
            ),
            (
                Kind::Crsgen,
                Answer::Crsgen { max_bit_length: U256::from(2048), crs_digest: word, signature: unsigned() },
            ),
        ]
    }

    #[test]
    fn every_kind_of_signed_answer_becomes_a_call_to_its_contract() {
        let node = Node::new();
        for (kind, answer) in answers() {
            let result = node.result(kind, answer);
            let Checked::Call(call) = node.verifier().check(&result).unwrap() else { panic!("{kind}") };
            assert_eq!((call.kind, call.to), (kind, result.identity.contract));
            assert_eq!(call.signature.len(), 65);
        }
    }

    #[test]
    fn p4_an_answer_changed_after_signing_is_refused() {
        let node = Node::new();
        for (kind, answer) in answers() {
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
    fn p4_another_signer_is_refused() {
        let node = Node::new();
        let mut stranger = Node::new();
        stranger.key = PrivateKeySigner::from_slice(&[8; 32]).unwrap();
        for (kind, answer) in answers() {
            let error = node.verifier().check(&stranger.result(kind, answer)).unwrap_err();
            assert_eq!(error.code(), SIGNER_MISMATCH);
        }
    }

    #[test]
    fn p4_another_chain_or_contract_is_refused() {
        let node = Node::new();
        let [(kind, answer), ..] = answers();
        let result = node.result(kind, answer);
        let elsewhere = [
            Identity { chain_id: 1, ..result.identity },
            Identity { contract: node.contracts.kms_generation, ..result.identity },
            Identity { kind: Kind::PrepKeygen, ..result.identity },
        ];
        for identity in elsewhere {
            let error = node.verifier().check(&ResultRecord { identity, ..result.clone() }).unwrap_err();
            assert_eq!(error.code(), WRONG_DESTINATION);
        }
    }

    #[test]
    fn an_answer_of_another_kind_is_refused() {
        let node = Node::new();
        let wrong = [
            node.result(Kind::UserDecryption, answers()[0].1.clone()),
            node.result(Kind::PrepKeygen, Answer::Done),
            node.result(Kind::PublicDecryption, Answer::Done),
        ];
        for result in wrong {
            assert_eq!(node.verifier().check(&result).unwrap_err().code(), ANSWER_MISMATCH);
        }
    }

    #[test]
    fn a_signature_of_a_form_that_the_contracts_refuse_is_refused_here() {
        let node = Node::new();
        let [(kind, answer), ..] = answers();
        let good = node.result(kind, answer);
        let damage: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes.truncate(64), |bytes| bytes[64] -= 27, |bytes| bytes.push(0)];
        for change in damage {
            let mut result = good.clone();
            let signed = signed_mut(&mut result.answer);
            let mut bytes = signed.signature.to_vec();
            change(&mut bytes);
            signed.signature = bytes.into();
            assert_eq!(node.verifier().check(&result).unwrap_err().code(), SIGNATURE_MALFORMED);
        }
    }

    #[test]
    fn a_record_that_misstates_its_own_signature_is_refused() {
        let node = Node::new();
        let [(kind, answer), ..] = answers();
        let mut result = node.result(kind, answer);
        signed_mut(&mut result.answer).digest = B256::ZERO;
        assert_eq!(node.verifier().check(&result), Err(VerifyError::Claim("digest")));
    }

    #[test]
    fn kinds_without_an_answer_on_chain_and_retractions_send_nothing() {
        let node = Node::new();
        assert_eq!(node.verifier().check(&node.result(Kind::PrssInit, Answer::Done)), Ok(Checked::NoAnswerOnChain));
        let reshare = node.result(Kind::KeyReshareSameSet, Answer::Done);
        assert_eq!(node.verifier().check(&reshare), Ok(Checked::NoAnswerOnChain));
        let retracted = node.result(Kind::PublicDecryption, Answer::Retracted);
        assert_eq!(node.verifier().check(&retracted), Ok(Checked::Retracted));
    }
}
