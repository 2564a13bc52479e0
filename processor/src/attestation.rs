//! What coprocessors attest about a ciphertext, and when their attestations decide (`docs/protocol.md`, "Ciphertext
//! attestations").
//!
//! From v0.15 on a request names handles only. The key, the digests and the format of a ciphertext are what a majority of the
//! registered coprocessors signed, each in a header of the object in its own bucket. Pure: takes values, returns values.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use kms_chain::eip712::{self, SignatureError};
use kms_proto::kms::v1::CiphertextFormat;
use kms_schemas::identity::RequestId;
use serde::Deserialize;

/// The header that carries an attestation; names are case-insensitive.
pub const HEADER: &str = "x-amz-meta-ct-attestation";

/// The one context of coprocessors that exists.
const COPROCESSOR_CONTEXT: u64 = 1;

/// The one version of attestations that exists.
const VERSION: u8 = 1;

/// Longest header that is looked at; a genuine one has about 500 bytes.
const MAX_HEADER_BYTES: usize = 4096;

/// Path of a handle's object in every coprocessor's bucket.
#[must_use]
pub fn object_key(handle: B256) -> String {
    format!("ct128/{}/{COPROCESSOR_CONTEXT}", hex::encode(handle))
}

/// How a coprocessor says that it stored a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stored {
    /// `uncompressed_on_cpu`
    UncompressedOnCpu,
    /// `compressed_on_cpu`
    CompressedOnCpu,
    /// `uncompressed_on_gpu`
    UncompressedOnGpu,
    /// `compressed_on_gpu`
    CompressedOnGpu,
}

impl Stored {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "uncompressed_on_cpu" => Self::UncompressedOnCpu,
            "compressed_on_cpu" => Self::CompressedOnCpu,
            "uncompressed_on_gpu" => Self::UncompressedOnGpu,
            "compressed_on_gpu" => Self::CompressedOnGpu,
            _ => return None,
        })
    }

    const fn signed_byte(self) -> u8 {
        match self {
            Self::UncompressedOnCpu => 10,
            Self::CompressedOnCpu => 11,
            Self::UncompressedOnGpu => 20,
            Self::CompressedOnGpu => 21,
        }
    }

    /// How KMS Core has to read the bytes.
    #[must_use]
    pub const fn format(self) -> CiphertextFormat {
        match self {
            Self::CompressedOnCpu | Self::CompressedOnGpu => CiphertextFormat::BigCompressed,
            Self::UncompressedOnCpu | Self::UncompressedOnGpu => CiphertextFormat::BigExpanded,
        }
    }
}

/// What is attested of a handle. Attestations with the same claim agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// FHE key of the ciphertext.
    pub key_id: RequestId,
    /// keccak256 of the ordinary ciphertext.
    pub ciphertext_digest: B256,
    /// keccak256 of the object: the ciphertext that is decrypted.
    pub sns_ciphertext_digest: B256,
    /// How the object is stored.
    pub stored: Stored,
}

impl Claim {
    /// What a coprocessor signs, without any prefix.
    #[must_use]
    pub fn digest(&self, handle: B256) -> B256 {
        keccak256(self.canonical_bytes(handle))
    }

    fn canonical_bytes(&self, handle: B256) -> [u8; 170] {
        let mut bytes = [0; 170];
        bytes[..8].copy_from_slice(b"FHEVMCTA");
        bytes[8] = VERSION;
        bytes[9..41].copy_from_slice(handle.as_slice());
        bytes[41..73].copy_from_slice(self.key_id.0.as_slice());
        bytes[73..105].copy_from_slice(&U256::from(COPROCESSOR_CONTEXT).to_be_bytes::<32>());
        bytes[105..137].copy_from_slice(self.ciphertext_digest.as_slice());
        bytes[137..169].copy_from_slice(self.sns_ciphertext_digest.as_slice());
        bytes[169] = self.stored.signed_byte();
        bytes
    }
}

/// A claim that `signer` signed; whether the signer may speak is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// What is claimed.
    pub claim: Claim,
    /// Who signed it.
    pub signer: Address,
}

/// Why a header is no attestation. Such a header counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// Longer than any genuine one.
    #[error("header of {0} bytes, at most {MAX_HEADER_BYTES} are read")]
    TooLong(usize),
    /// No JSON, or not of its fields.
    #[error("header is no attestation: {0}")]
    Malformed(String),
    /// Another version.
    #[error("attestation of version {0}, only {VERSION} is known")]
    Version(u64),
    /// A format that nobody defined.
    #[error("unknown format {0:?}")]
    Format(String),
    /// The signature is not usable.
    #[error("signature: {0}")]
    Signature(#[from] SignatureError),
    /// The signature is by somebody else than the attestation says, or over other data.
    #[error("signature recovers to {recovered}, the attestation names {named}")]
    WrongSigner {
        /// Who is named.
        named: Address,
        /// Who signed.
        recovered: Address,
    },
}

#[derive(Deserialize)]
struct Header {
    version: u64,
    key_id: String,
    ciphertext_digest: B256,
    sns_ciphertext_digest: B256,
    format: String,
    signer: Address,
    signature: Bytes,
}

impl Attestation {
    /// Reads the header of a handle's object, and checks that the named signer signed it for this handle.
    ///
    /// # Errors
    /// See [`AttestationError`].
    pub fn read(header: &[u8], handle: B256) -> Result<Self, AttestationError> {
        if header.len() > MAX_HEADER_BYTES {
            return Err(AttestationError::TooLong(header.len()));
        }
        let header: Header =
            serde_json::from_slice(header).map_err(|error| AttestationError::Malformed(error.to_string()))?;
        if header.version != u64::from(VERSION) {
            return Err(AttestationError::Version(header.version));
        }
        let claim = Claim {
            key_id: quantity(&header.key_id).ok_or_else(|| {
                AttestationError::Malformed(format!("key_id {:?} is no quantity of at most 32 bytes", header.key_id))
            })?,
            ciphertext_digest: header.ciphertext_digest,
            sns_ciphertext_digest: header.sns_ciphertext_digest,
            stored: Stored::parse(&header.format).ok_or(AttestationError::Format(header.format))?,
        };
        let recovered = eip712::recover(claim.digest(handle), &header.signature)?;
        if recovered != header.signer {
            return Err(AttestationError::WrongSigner { named: header.signer, recovered });
        }
        Ok(Self { claim, signer: recovered })
    }
}

/// `0x` and up to 64 hex digits.
fn quantity(text: &str) -> Option<RequestId> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.is_empty() && digits.len() <= 64)?;
    U256::from_str_radix(digits, 16).ok().map(RequestId::from)
}

/// What the attestations of a handle that have been counted so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This claim has the majority.
    Agreed(Claim),
    /// Two claims have the registered threshold: the coprocessors contradict each other.
    Split,
    /// No claim has enough signers; the largest group has so many.
    TooFew(usize),
}

/// Counts the attestations of one handle by distinct registered signers.
#[derive(Clone, Debug)]
pub struct Tally<'a> {
    registered: &'a [Address],
    threshold: usize,
    groups: Vec<(Claim, BTreeSet<Address>)>,
}

impl<'a> Tally<'a> {
    /// Counts attestations of `registered` signers, of which `threshold` must agree.
    #[must_use]
    pub fn new(registered: &'a [Address], threshold: usize) -> Self {
        // A threshold of none would let nobody's word decide.
        Self { registered, threshold: threshold.max(1), groups: Vec::new() }
    }

    /// Counts one; false if its signer is not registered.
    pub fn count(&mut self, attestation: &Attestation) -> bool {
        if !self.registered.contains(&attestation.signer) {
            return false;
        }
        match self.groups.iter_mut().find(|(claim, _)| *claim == attestation.claim) {
            Some((_, signers)) => signers.insert(attestation.signer),
            None => {
                self.groups.push((attestation.claim, BTreeSet::from([attestation.signer])));
                true
            }
        };
        true
    }

    /// The claim that no attestation to come can contradict: so many agree that no other claim can have more than half of the
    /// signers. With the registered threshold alone, the fastest of two minorities would win where it is half or less.
    #[must_use]
    pub fn decided(&self) -> Option<Claim> {
        let enough = self.threshold.max(self.registered.len() / 2 + 1);
        self.groups.iter().find(|(_, signers)| signers.len() >= enough).map(|(claim, _)| *claim)
    }

    /// The verdict once every bucket has answered or had its time.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut with_threshold = self.groups.iter().filter(|(_, signers)| signers.len() >= self.threshold);
        match (with_threshold.next(), with_threshold.next()) {
            (Some((claim, _)), None) => Verdict::Agreed(*claim),
            (Some(_), Some(_)) => Verdict::Split,
            (None, _) => Verdict::TooFew(self.largest()),
        }
    }

    /// Signers of the largest group.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.groups.iter().map(|(_, signers)| signers.len()).max().unwrap_or(0)
    }

    /// Signers that a group needs.
    #[must_use]
    pub const fn threshold(&self) -> usize {
        self.threshold
    }
}

/// An attestation as a coprocessor writes it, for tests.
#[cfg(test)]
pub(crate) fn attest(signer: &alloy::signers::local::PrivateKeySigner, handle: B256, claim: &Claim) -> String {
    let name = match claim.stored {
        Stored::UncompressedOnCpu => "uncompressed_on_cpu",
        Stored::CompressedOnCpu => "compressed_on_cpu",
        Stored::UncompressedOnGpu => "uncompressed_on_gpu",
        Stored::CompressedOnGpu => "compressed_on_gpu",
    };
    let signature = eip712::sign(signer, claim.digest(handle)).unwrap();
    format!(
        r#"{{"version":1,"key_id":"{:#x}","ciphertext_digest":"{}","sns_ciphertext_digest":"{}","format":"{name}","signer":"{}","signature":"{signature}"}}"#,
        claim.key_id.as_u256(),
        claim.ciphertext_digest,
        claim.sns_ciphertext_digest,
        signer.address(),
    )
}

#[cfg(test)]
mod tests {
    use alloy::signers::local::PrivateKeySigner;

    use super::*;

    fn signer(byte: u8) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap()
    }

    fn handle() -> B256 {
        B256::repeat_byte(5)
    }

    fn claim(byte: u8) -> Claim {
        Claim {
            key_id: U256::from(4).into(),
            ciphertext_digest: B256::repeat_byte(byte),
            sns_ciphertext_digest: B256::repeat_byte(byte + 1),
            stored: Stored::CompressedOnCpu,
        }
    }

    fn vectors() -> [(serde_json::Value, &'static str, &'static str); 2] {
        let core: serde_json::Value = serde_json::from_str(include_str!("../../proto/vectors/kms-core.json")).unwrap();
        let chain: serde_json::Value = serde_json::from_str(include_str!("../../chain/vectors/eip712.json")).unwrap();
        [
            (core["s3"]["attestation"].clone(), "header_value", "canonical_digest"),
            (chain["other"]["ciphertext_attestation"].clone(), "json_header", "digest"),
        ]
    }

    #[test]
    fn the_attestations_of_the_vectors_are_read_and_recover_to_their_signers() {
        for (vector, header, digest) in vectors() {
            let fields = vector.get("fields").unwrap_or(&vector);
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let word = |value: &serde_json::Value| text(value).parse::<B256>().unwrap();
            let handle = word(&fields["handle"]);
            let read = Attestation::read(text(&vector[header]).as_bytes(), handle).unwrap();
            let signer = vector.get("signer_address").unwrap_or(&vector["signer"]);
            assert_eq!(read.signer, text(signer).parse::<Address>().unwrap());
            assert_eq!(read.claim.key_id.0, word(&fields["key_id"]));
            assert_eq!(read.claim.ciphertext_digest, word(&fields["ciphertext_digest"]));
            assert_eq!(read.claim.sns_ciphertext_digest, word(&fields["sns_ciphertext_digest"]));
            assert_eq!(Stored::parse(&text(&fields["format"])), Some(read.claim.stored));
            assert_eq!(u64::from(read.claim.stored.signed_byte()), fields["format_byte"].as_u64().unwrap());
            let canonical = Bytes::from(read.claim.canonical_bytes(handle).to_vec());
            assert_eq!(canonical.to_string(), text(&vector["canonical_bytes"]));
            assert_eq!(read.claim.digest(handle), word(&vector[digest]));
        }
    }

    #[test]
    fn the_object_lies_where_the_vector_says() {
        let core: serde_json::Value = serde_json::from_str(include_str!("../../proto/vectors/kms-core.json")).unwrap();
        let layout = &core["s3"]["layout_head"];
        let handle = core["s3"]["attestation"]["handle"].as_str().unwrap().parse().unwrap();
        let url = format!("{}/{}", layout["bucket_url"].as_str().unwrap(), object_key(handle));
        assert_eq!(url, layout["url"].as_str().unwrap());
        let most = crate::config::CiphertextsConfig::default().max_object_bytes;
        assert_eq!(most, layout["max_body_bytes"].as_u64().unwrap());
    }

    #[test]
    fn p4_a_claim_that_was_changed_after_signing_is_refused() {
        let genuine = attest(&signer(1), handle(), &claim(1));
        assert!(Attestation::read(genuine.as_bytes(), handle()).is_ok());
        for (from, to) in [
            ("0x0101", "0x0901"),
            ("compressed_on_cpu", "compressed_on_gpu"),
            (r#""key_id":"0x4""#, r#""key_id":"0x5""#),
        ] {
            let forged = genuine.replacen(from, to, 1);
            assert_ne!(forged, genuine);
            let refused = Attestation::read(forged.as_bytes(), handle()).unwrap_err();
            assert!(matches!(refused, AttestationError::WrongSigner { .. }), "{from}: {refused}");
        }
        let elsewhere = Attestation::read(genuine.as_bytes(), B256::repeat_byte(6)).unwrap_err();
        assert!(matches!(elsewhere, AttestationError::WrongSigner { .. }), "for another handle: {elsewhere}");
    }

    #[test]
    fn p4_a_signature_in_another_name_is_refused() {
        let genuine = attest(&signer(1), handle(), &claim(1));
        let forged = genuine.replace(&signer(1).address().to_string(), &signer(2).address().to_string());
        let refused = Attestation::read(forged.as_bytes(), handle()).unwrap_err();
        assert_eq!(
            refused,
            AttestationError::WrongSigner { named: signer(2).address(), recovered: signer(1).address() }
        );
    }

    #[test]
    fn what_is_no_attestation_is_refused_and_never_panics() {
        let genuine = attest(&signer(1), handle(), &claim(1));
        let read = |text: &str| Attestation::read(text.as_bytes(), handle()).unwrap_err();
        for text in
            ["", "{}", "[]", "null", "{\"version\":1}", "\u{fffd}", &genuine[1..], &genuine[..genuine.len() - 1]]
        {
            assert!(matches!(read(text), AttestationError::Malformed(_)), "{text:?}");
        }
        assert_eq!(read(&genuine.replace("\"version\":1", "\"version\":2")), AttestationError::Version(2));
        assert!(matches!(read(&genuine.replace("compressed_on_cpu", "zipped")), AttestationError::Format(_)));
        for key in ["", "0x", "4", "0xg", &format!("0x{}", "1".repeat(65))] {
            let text = genuine.replace(r#""key_id":"0x4""#, &format!(r#""key_id":"{key}""#));
            assert!(matches!(read(&text), AttestationError::Malformed(_)), "{key:?}");
        }
        assert!(matches!(read(&" ".repeat(MAX_HEADER_BYTES + 1)), AttestationError::TooLong(_)));
        assert!(matches!(Attestation::read(&[0xff, 0xfe], handle()), Err(AttestationError::Malformed(_))));
    }

    /// Counts attestations of (signer, claim) under a threshold among `n` signers.
    fn tally(n: u8, threshold: usize, given: &[(u8, u8)]) -> (Option<u8>, Result<u8, Verdict>) {
        let registered: Vec<Address> = (1..=n).map(Address::repeat_byte).collect();
        let mut tally = Tally::new(&registered, threshold);
        for (signer, claimed) in given {
            tally.count(&Attestation { claim: claim(*claimed), signer: Address::repeat_byte(*signer) });
        }
        let name = |claim: Claim| claim.ciphertext_digest[0];
        let verdict = match tally.verdict() {
            Verdict::Agreed(claim) => Ok(name(claim)),
            other => Err(other),
        };
        (tally.decided().map(name), verdict)
    }

    #[test]
    fn a_majority_decides_before_all_have_answered() {
        assert_eq!(tally(3, 2, &[(1, 7), (2, 7)]), (Some(7), Ok(7)));
        assert_eq!(tally(1, 1, &[(1, 7)]), (Some(7), Ok(7)));
        assert_eq!(tally(5, 4, &[(1, 7), (2, 7), (3, 7)]), (None, Err(Verdict::TooFew(3))), "the threshold counts too");
    }

    #[test]
    fn p4_a_threshold_of_half_or_less_never_decides_early() {
        assert_eq!(tally(4, 1, &[(1, 7)]), (None, Ok(7)), "only once all have answered");
        assert_eq!(tally(4, 2, &[(1, 7), (2, 7)]), (None, Ok(7)));
        assert_eq!(tally(4, 2, &[(1, 7), (2, 7), (3, 7)]).0, Some(7));
    }

    #[test]
    fn p4_two_groups_with_the_threshold_are_no_consensus_in_either_order() {
        assert_eq!(tally(4, 2, &[(1, 7), (2, 7), (3, 9), (4, 9)]), (None, Err(Verdict::Split)));
        assert_eq!(tally(4, 2, &[(3, 9), (1, 7), (4, 9), (2, 7)]), (None, Err(Verdict::Split)));
        assert_eq!(tally(4, 1, &[(1, 7), (2, 9), (3, 9)]), (None, Err(Verdict::Split)));
        assert_eq!(
            tally(5, 2, &[(1, 7), (2, 9), (3, 9)]),
            (None, Ok(9)),
            "a minority below the threshold counts for nothing"
        );
    }

    #[test]
    fn p4_one_signer_counts_once_and_strangers_not_at_all() {
        assert_eq!(tally(3, 2, &[(1, 7), (1, 7), (1, 7)]), (None, Err(Verdict::TooFew(1))));
        assert_eq!(tally(3, 2, &[(1, 7), (8, 7), (9, 7)]), (None, Err(Verdict::TooFew(1))));
        assert_eq!(tally(3, 2, &[(8, 7), (9, 7)]), (None, Err(Verdict::TooFew(0))));
        assert_eq!(tally(0, 0, &[(8, 7)]), (None, Err(Verdict::TooFew(0))));
    }
}
