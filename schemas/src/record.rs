//! The records of every topic, as Rust types. Their Avro schemas are in `avro/`, and a test holds the two together.

use alloy::primitives::{Address, B256, Bytes, U256};

use crate::identity::{Coordinates, Identity, Kind, RequestId};

/// One request event of a followed contract, raw and decoded. Topics `requests.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Configured name of the source (one chain) that saw the log.
    pub source: String,
    /// Dense number per source and topic, from 0: a gap is a missing record, unlike a gap in offsets.
    pub seq: u64,
    /// keccak256 of the encoded value of the record with `seq - 1` of the same source and topic; zero for the first.
    pub previous_hash: B256,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Decoded kind.
    pub kind: Kind,
    /// Decoded id.
    pub id: RequestId,
    /// Block that holds the log.
    pub block_number: u64,
    /// Hash of that block.
    pub block_hash: B256,
    /// Timestamp of that block, seconds since 1970 (shared by sub-second blocks; no measure of latency).
    pub block_timestamp: u64,
    /// Hash of the transaction that the node named for the log. Not proved by the receipts root.
    pub transaction_hash: B256,
    /// Index of the log in its block.
    pub log_index: u64,
    /// The raw log.
    pub log: RawLog,
    /// The decoded log.
    pub body: RequestBody,
}

impl Request {
    /// The identity of the request.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { chain_id: self.chain_id, contract: self.log.address, kind: self.kind, id: self.id }
    }
}

/// A log as the chain holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawLog {
    /// Emitting contract.
    pub address: Address,
    /// 0 to 4 topics; the first selects the event.
    pub topics: Vec<B256>,
    /// ABI-encoded arguments that are not indexed.
    pub data: Bytes,
}

/// The decoded arguments of a request event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// `PublicDecryptionRequest` of generation (a).
    PublicDecryption {
        /// Ciphertexts in request order; a handle may stand twice.
        materials: Vec<CiphertextMaterial>,
        /// `extraData` of the event, unchanged.
        extra_data: Bytes,
    },
    /// `UserDecryptionRequest` of generation (a), direct or delegated.
    UserDecryption {
        /// Ciphertexts in request order; a handle may stand twice.
        materials: Vec<CiphertextMaterial>,
        /// The user, or the delegate of a delegated request.
        user_address: Address,
        /// The user's ML-KEM public key, unchanged.
        public_key: Bytes,
        /// `extraData` of the event, unchanged.
        extra_data: Bytes,
    },
    /// `PublicDecryptionRequest` of v0.15, which carries handles only.
    PublicDecryptionHandles {
        /// Handles in request order; a handle may stand twice.
        handles: Vec<B256>,
        /// `extraData` of the event, unchanged.
        extra_data: Bytes,
    },
    /// `UserDecryptionRequest` of v0.15 with handles only: direct or delegated, as the transaction says.
    UserDecryptionHandles {
        /// Handles in request order; a handle may stand twice.
        handles: Vec<B256>,
        /// The user, or the delegate of a delegated request.
        user_address: Address,
        /// The user's ML-KEM public key, unchanged.
        public_key: Bytes,
        /// `extraData` of the event, unchanged.
        extra_data: Bytes,
    },
    /// The unified `UserDecryptionRequest` of v0.14 and v0.15, which carries all that its checks need.
    UnifiedUserDecryption(Box<UnifiedUserDecryption>),
    /// `PrepKeygenRequest`; its id is the request's id.
    PrepKeygen {
        /// Always 0 in generation (a), where the event has it; 0 in later ones. Not forwarded.
        epoch_id: U256,
        /// `ParamsType`: 0 default, 1 test.
        params_type: u8,
        /// `extraData` of the event; empty in generation (a), whose event has none.
        extra_data: Bytes,
    },
    /// `KeygenRequest`; `keyId` is the request's id.
    Keygen {
        /// The preprocessing to consume.
        prep_keygen_id: RequestId,
        /// `extraData` of the event; empty in generation (a), whose event has none.
        extra_data: Bytes,
    },
    /// `CrsgenRequest`; `crsId` is the request's id.
    Crsgen {
        /// The full `uint256` of the event.
        max_bit_length: U256,
        /// `ParamsType`: 0 default, 1 test.
        params_type: u8,
        /// `extraData` of the event; empty in generation (a), whose event has none.
        extra_data: Bytes,
    },
    /// `AbortKeygen`; `prepKeygenId` is the request's id.
    AbortKeygen,
    /// `AbortCrsgen`; `crsId` is the request's id.
    AbortCrsgen,
    /// `NewKmsContext`; `contextId` is the request's id.
    NewKmsContext(Box<NewKmsContext>),
    /// `NewKmsEpoch`; `epochId` is the request's id.
    NewKmsEpoch {
        /// Context of the epoch.
        context_id: RequestId,
        /// Context that is current until the activation.
        previous_context_id: RequestId,
        /// Epoch that is current until the activation.
        previous_epoch_id: RequestId,
        /// Block at which the completed keys and CRSs are read; the one before the event's.
        material_block_number: U256,
    },
    /// `KmsContextDestroyed`; `kmsContextId` is the request's id.
    KmsContextDestroyed,
    /// `KmsEpochDestroyed`; `epochId` is the request's id.
    KmsEpochDestroyed,
    /// `PRSSInit`; carries nothing, its id is the constant 1.
    PrssInit,
    /// `KeyReshareSameSet`; `keyReshareId` is the request's id.
    KeyReshareSameSet {
        /// Preprocessing of the key.
        prep_keygen_id: RequestId,
        /// Key to reshare.
        key_id: RequestId,
        /// `ParamsType`: 0 default, 1 test.
        params_type: u8,
    },
}

/// Arguments of the unified `UserDecryptionRequest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnifiedUserDecryption {
    /// Ciphertexts in request order, where the event carries them (v0.14); empty where it does not (v0.15).
    pub materials: Vec<CiphertextMaterial>,
    /// Handles in request order with the contract and the owner that each is asked for; a handle may stand twice.
    pub entries: Vec<HandleEntry>,
    /// The user, who signed.
    pub user_address: Address,
    /// The user's ML-KEM public key, unchanged.
    pub public_key: Bytes,
    /// Contracts that the user signed for; none stands for all.
    pub allowed_contracts: Vec<Address>,
    /// Seconds since 1970 from which the signature is valid.
    pub start_timestamp: U256,
    /// Seconds for which it is valid.
    pub duration_seconds: U256,
    /// `extraData`, unchanged.
    pub extra_data: Bytes,
    /// The user's signature, or what the user's contract takes for one (ERC-1271); not checked by the chain.
    pub signature: Bytes,
}

/// `HandleEntry` of the unified user decryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleEntry {
    /// Handle (`docs/protocol.md`, "Ciphertext handles").
    pub handle: B256,
    /// Contract that the handle is used with.
    pub contract: Address,
    /// Owner: the user, or who delegated to the user.
    pub owner: Address,
}

/// Arguments of `NewKmsContext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKmsContext {
    /// The context that is current while this one is created; the bare base of context ids for the first one.
    pub previous_context_id: RequestId,
    /// The nodes, in the contract's order.
    pub nodes: Vec<KmsNodeParams>,
    /// Thresholds.
    pub thresholds: KmsThresholds,
    /// Software version that the nodes shall run.
    pub software_version: String,
    /// Measurements of the nodes' enclaves.
    pub pcr_values: Vec<PcrValues>,
}

/// `KmsNodeParams` of `NewKmsContext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsNodeParams {
    /// Account of the node's connector.
    pub tx_sender: Address,
    /// Signer of the node's KMS Core.
    pub signer: Address,
    /// Where the other nodes reach it.
    pub ip_address: String,
    /// Where its public material is read.
    pub storage_url: String,
    /// Number of the party in the MPC, from 1.
    pub party_id: i32,
    /// Its name in the MPC.
    pub mpc_identity: String,
    /// Its certificate authority, PEM.
    pub ca_cert: Bytes,
    /// Prefix of its public material.
    pub storage_prefix: String,
}

/// `KmsThresholds` of `NewKmsContext`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsThresholds {
    /// Equal answers to a public decryption.
    pub public_decryption: U256,
    /// Shares of a user decryption.
    pub user_decryption: U256,
    /// Equal answers to key management.
    pub kms_gen: U256,
    /// Dishonest nodes that the MPC tolerates.
    pub mpc: U256,
}

/// `PcrValues` of `NewKmsContext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrValues {
    /// PCR 0.
    pub pcr0: Bytes,
    /// PCR 1.
    pub pcr1: Bytes,
    /// PCR 2.
    pub pcr2: Bytes,
}

/// `SnsCiphertextMaterial` of the decryption events up to v0.14.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiphertextMaterial {
    /// Handle (`docs/protocol.md`, "Ciphertext handles").
    pub handle: B256,
    /// FHE key of the ciphertext.
    pub key_id: RequestId,
    /// keccak256 of the ciphertext object.
    pub digest: B256,
    /// Coprocessors that agreed on the material at request time, in the event's order.
    pub coprocessors: Vec<Address>,
}

/// A request that was moved to the class's deferred topic. Topics `requests.*.deferred`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeferredRequest {
    /// The original record in `requests.*`, which every outcome names.
    pub source: Coordinates,
    /// Attempts made before it was deferred, over all deferrals.
    pub attempts: u32,
    /// Milliseconds since 1970 when the first attempt began.
    pub first_attempt_ms: u64,
    /// Milliseconds since 1970 when it was deferred.
    pub deferred_ms: u64,
    /// Why it was deferred.
    pub why: String,
    /// The request itself.
    pub request: Request,
}

/// The one outcome of a request that is not a dead letter. Topics `results.*`. The Avro name is `Result`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultRecord {
    /// The request's record in `requests.*`.
    pub source: Coordinates,
    /// The deferred record that was served, if the request came that way.
    pub deferred: Option<Coordinates>,
    /// Identity of the request.
    pub identity: Identity,
    /// Block number of the occurrence that was answered; 0 in records of schema version 1, which did not name it.
    pub block_number: u64,
    /// Block hash of the occurrence that was answered.
    pub block_hash: B256,
    /// Log index of the occurrence that was answered.
    pub log_index: u64,
    /// Attempts made.
    pub attempts: u32,
    /// The answer.
    pub answer: Answer,
}

/// What KMS Core answered, with all that is needed to recompute the digest that it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Arguments of `publicDecryptionResponse`.
    PublicDecryption {
        /// Handles in request order: what was signed.
        handles: Vec<B256>,
        /// One 32-byte big-endian word per handle.
        decrypted_result: Bytes,
        /// `extra_data` that KMS Core returned: what was signed.
        extra_data: Bytes,
        /// The EIP-712 signature.
        signature: Signed,
    },
    /// Arguments of `userDecryptionResponse`.
    UserDecryption {
        /// The user's public key: what was signed.
        public_key: Bytes,
        /// Handles in request order: what was signed.
        handles: Vec<B256>,
        /// bincode of KMS Core's payload.
        share: Bytes,
        /// `extra_data` that KMS Core returned: what was signed.
        extra_data: Bytes,
        /// The EIP-712 signature.
        signature: Signed,
    },
    /// Arguments of `prepKeygenResponse`.
    PrepKeygen {
        /// `extraData` of the request: what was signed; empty in generation (a), which signs none.
        extra_data: Bytes,
        /// The EIP-712 signature.
        signature: Signed,
    },
    /// Arguments of `keygenResponse`.
    Keygen {
        /// Preprocessing id: what was signed.
        prep_keygen_id: RequestId,
        /// Digests in signed order.
        key_digests: Vec<KeyDigest>,
        /// `extraData` of the request: what was signed; empty in generation (a), which signs none.
        extra_data: Bytes,
        /// The EIP-712 signature.
        signature: Signed,
    },
    /// Arguments of `crsgenResponse`.
    Crsgen {
        /// Full `uint256` of the request: what was signed.
        max_bit_length: U256,
        /// Digest of the CRS.
        crs_digest: Bytes,
        /// `extraData` of the request: what was signed; empty in generation (a), which signs none.
        extra_data: Bytes,
        /// The EIP-712 signature.
        signature: Signed,
    },
    /// `confirmKmsContextCreation`: KMS Core knows the context. Nothing is signed.
    KmsContextCreated,
    /// Arguments of `confirmEpochActivation`.
    EpochActivation {
        /// Context of the epoch: what was signed, in `extraData`.
        context_id: RequestId,
        /// Every completed key, in the contract's order.
        keys: Vec<EpochKey>,
        /// Every completed CRS, in the contract's order.
        crs_list: Vec<EpochCrs>,
    },
    /// KMS Core did the work and the protocol has no on-chain answer (PRSS initialisation, same-set resharing, aborts,
    /// destructions); or there was nothing to do (the very first context).
    Done,
    /// The generation was aborted on chain before KMS Core finished it; there is nothing to answer.
    Aborted,
    /// The request left the chain in a reorganisation before it was answered. (Written from the issue on reorganisations on.)
    Retracted,
}

/// A key that was reshared into a new epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochKey {
    /// Preprocessing id: what was signed.
    pub prep_keygen_id: RequestId,
    /// Key id: what was signed.
    pub key_id: RequestId,
    /// Digests in signed order.
    pub key_digests: Vec<KeyDigest>,
    /// The EIP-712 signature under the `ProtocolConfig` domain.
    pub signature: Signed,
}

/// A CRS that was carried over into a new epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochCrs {
    /// CRS id: what was signed.
    pub crs_id: RequestId,
    /// Bit length: what was signed.
    pub max_bit_length: U256,
    /// Digest of the CRS.
    pub crs_digest: Bytes,
    /// The EIP-712 signature under the `ProtocolConfig` domain.
    pub signature: Signed,
}

/// A signature that was checked, with what it was checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// 65 bytes r, s, v with v 27 or 28 and low s.
    pub signature: Bytes,
    /// The EIP-712 digest.
    pub digest: B256,
    /// The address that the signature recovers to.
    pub signer: Address,
}

/// `KeyDigest` of the contracts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDigest {
    /// 0 server key, 1 public key, 3 compressed key set.
    pub key_type: u8,
    /// 32 bytes today.
    pub digest: Bytes,
}

/// The settled end of one result. Topic `submissions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The result's record in `results.*`.
    pub result: Coordinates,
    /// The request's record in `requests.*`.
    pub request: Coordinates,
    /// Identity of the request.
    pub identity: Identity,
    /// How it ended.
    pub verdict: Verdict,
    /// Transactions sent for it, over all attempts.
    pub attempts: u32,
    /// Milliseconds since 1970 when it was settled.
    pub settled_ms: u64,
}

/// How a submission ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The chain accepted this node's answer in this transaction.
    Accepted(Inclusion),
    /// The chain already held this node's answer ("already signed"), or our response event was found.
    AlreadyAnswered {
        /// The error or event that showed it.
        evidence: String,
        /// The transaction that carried the earlier answer, where it was found.
        transaction_hash: Option<B256>,
    },
    /// The protocol has no on-chain answer for this kind.
    NoAnswerOnChain,
    /// The phase in which the chain takes this answer ended without it, to the same effect: the context was created, or
    /// the epoch activated.
    Concluded {
        /// The error and the view that showed it.
        evidence: String,
    },
    /// These bytes can never be accepted.
    Refused {
        /// Name of the custom error, or `empty`, `Panic`, `Error`.
        error: String,
        /// Revert data, up to 1 KiB.
        data: Bytes,
        /// Where it was found out: the reverting transaction, where one was mined.
        inclusion: Option<Inclusion>,
    },
    /// The request left the chain.
    Retracted,
}

/// Where a transaction was included and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// Transaction sender.
    pub sender: Address,
    /// Nonce of the transaction.
    pub nonce: u64,
    /// Hash of the transaction.
    pub transaction_hash: B256,
    /// Block number.
    pub block_number: u64,
    /// Block hash.
    pub block_hash: B256,
    /// Gas used by this answer, L1 share included: its share of the transaction. The shares of all answers of a
    /// transaction sum up to what its receipt says.
    pub gas_used: u64,
    /// L1 share of that; 0 where the chain charges none.
    pub gas_used_for_l1: u64,
    /// Wei per gas.
    pub effective_gas_price: u128,
    /// Answers that the transaction carried, this one included; unknown in records before version 3.
    pub answers: Option<u32>,
    /// 1 for the first of the nodes' answers to the request that the chain recorded, 2 for the second; unknown where no
    /// node told in time, and in records before version 3.
    pub order: Option<u32>,
}

impl Inclusion {
    /// Gas without the L1 share.
    #[must_use]
    pub const fn execution_gas(&self) -> u64 {
        self.gas_used.saturating_sub(self.gas_used_for_l1)
    }

    /// What the answer cost, in wei.
    #[must_use]
    pub const fn fee(&self) -> u128 {
        self.effective_gas_price.saturating_mul(self.gas_used as u128)
    }
}

/// A record, of any topic, that no service could use. Topic `dead-letters`; nothing is dropped silently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Service that gave up: `ingest`, `processor` or `emitter`.
    pub service: String,
    /// Where the record lies. A log that no request could be made of lies in a chain: its topic is written as
    /// `chain:{source id}` (which no topic can be called), its index in the block as the partition, the block number as
    /// the offset; the value then is the log with its place, as JSON.
    pub source: Coordinates,
    /// The original record in `requests.*`, where known.
    pub request: Option<Coordinates>,
    /// Identity, where known.
    pub identity: Option<Identity>,
    /// Key of the original record.
    pub key: Option<Bytes>,
    /// Value of the original record; none when it is above the dead-letter topic's limit (then see the digest).
    pub value: Option<Bytes>,
    /// Length of the original value in bytes.
    pub value_bytes: u64,
    /// keccak256 of the original value.
    pub value_digest: B256,
    /// Stable reason code, e.g. `KC-0201` (`docs/errors.md`).
    pub reason: String,
    /// What went wrong, for a person.
    pub text: String,
    /// Attempts made.
    pub attempts: u32,
    /// Milliseconds since 1970 when it was written.
    pub dead_ms: u64,
}

/// How far a source has been ingested. Topic `ingest.cursor`, compacted by source id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Source name.
    pub source: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Every block up to and including this one is in the topics.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: B256,
    /// Hashes of recent blocks below it, newest first, for finding the ancestor after a reorganisation.
    pub recent: Vec<BlockRef>,
    /// What the completeness rests on.
    pub proof: Proof,
    /// Next `seq` and hash of the last record, per requests topic.
    pub sequences: Vec<Sequence>,
    /// Milliseconds since 1970 when it was written.
    pub written_ms: u64,
}

/// Number and hash of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Block number.
    pub number: u64,
    /// Block hash.
    pub hash: B256,
}

/// What a cursor's completeness rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// `eth_getLogs` answers, believed.
    Believed,
    /// Receipts roots under linked headers. (Written from the issue on proofs on.)
    Receipts,
}

/// State of one dense numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Full topic name.
    pub topic: String,
    /// `seq` of the next record.
    pub next: u64,
    /// keccak256 of the encoded value of the last record; zero before the first.
    pub last_hash: B256,
}

/// Bytes that may reach the chain, committed before they are sent. Topic `emitter.intents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Transaction sender.
    pub sender: Address,
    /// Nonce.
    pub nonce: u64,
    /// 0 for the first transaction of this nonce, then counting replacements.
    pub attempt: u32,
    /// EIP-2718 bytes of the signed transaction.
    pub raw: Bytes,
    /// Its hash.
    pub hash: B256,
    /// The results inside; empty for a transaction that only fills a gap.
    pub items: Vec<IntentItem>,
    /// Offset in `emitter.intents` below which everything is settled: where recovery may start reading.
    pub settled_below: i64,
    /// Milliseconds since 1970 when it was written.
    pub written_ms: u64,
}

/// One answer inside an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntentItem {
    /// The result's record.
    pub result: Coordinates,
    /// Identity of the request.
    pub identity: Identity,
}

/// What a person wants of the emitter of an account, or what the emitter did about it. Topic `emitter.commands`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletRecord {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Transaction sender.
    pub sender: Address,
    /// Random id of the command; an outcome has that of its command.
    pub command_id: B256,
    /// Who wrote it, as the writer says: a person, or an emitter.
    pub by: String,
    /// Milliseconds since 1970 when it was written.
    pub written_ms: u64,
    /// For a person: of a command why, of an outcome what came of it.
    pub text: String,
    /// What is to be done, or what was done.
    pub body: WalletBody,
}

/// A command, or the outcome of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalletBody {
    /// Replace transactions by the same ones at higher fees.
    Bump {
        /// The nonce; none for every open one.
        nonce: Option<u64>,
        /// Wei per gas to offer; none for as much as a replacement needs.
        max_fee_per_gas: Option<u128>,
        /// Milliseconds since 1970 after which it is not to be obeyed any more.
        expires_ms: u64,
    },
    /// Use a nonce up by an empty transaction to oneself; its answers go again under other nonces.
    Cancel {
        /// The nonce.
        nonce: u64,
        /// Milliseconds since 1970 after which it is not to be obeyed any more.
        expires_ms: u64,
    },
    /// What an emitter did about a command.
    Outcome {
        /// Offset of the command in the same topic.
        command_offset: i64,
        /// How far it is.
        end: WalletEnd,
        /// Hashes of the transactions that it led to.
        transactions: Vec<B256>,
    },
    /// Sign and send nothing.
    Pause,
    /// Work again.
    Resume,
}

impl WalletBody {
    /// A name for logs and reports, as the schema has it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Bump { .. } => "bump",
            Self::Cancel { .. } => "cancel",
            Self::Outcome { .. } => "outcome",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// How far an emitter is with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalletEnd {
    /// Begun; another outcome follows.
    Accepted,
    /// Obeyed.
    Done,
    /// Not obeyed, and never will be.
    Refused,
}

impl WalletEnd {
    /// A name for logs and reports, as the schema has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}
