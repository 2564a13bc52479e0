//! Stable codes of what the processor can meet; `docs/errors.md` is generated from this table.

use kms_schemas::codes::Code;

macro_rules! codes {
    ($($ident:ident = $code:literal, $name:literal, $meaning:literal, $action:literal;)*) => {
        $(#[doc = $meaning] pub const $ident: &str = $code;)*
        /// Every code of this crate.
        pub static CODES: &[Code] = &[$(Code { code: $code, name: $name, meaning: $meaning, action: $action }),*];
    };
}

codes! {
    BUCKETS_UNREACHABLE = "KC-0401", "buckets_unreachable",
        "A ciphertext may lie in a bucket that could not be asked: nothing answers, or something that is no object store (a redirect, a page of an ingress), or it lets nobody in.",
        "Check the network, the buckets and their registered URLs; the request waits and burns no attempt.";
    CIPHERTEXT_MISSING = "KC-0402", "ciphertext_missing",
        "Every bucket answered, and none holds an object with the digest that the chain names.",
        "Usually the coprocessors are behind: the request waits within `access.ciphertext_patience_ms`. Else ask their operators for the object, then redrive the request.";
    REQUEST_TOO_LARGE = "KC-0403", "request_too_large",
        "The ciphertexts of one request are larger together than KMS Core takes in one message.",
        "Nothing can answer it; raise `ciphertexts.max_request_bytes` only if your KMS Core takes more.";
    FHE_TYPE_UNSUPPORTED = "KC-0404", "fhe_type_unsupported",
        "A handle names an FHE type that no contract lets through.",
        "The record did not come from the contracts: find out who wrote it.";
    NO_BUCKET = "KC-0405", "no_bucket",
        "None of the coprocessors that the request names has a bucket in GatewayConfig.",
        "Check the coprocessor registry; the request waits within `access.ciphertext_patience_ms`.";
    REGISTRY_UNREACHABLE = "KC-0406", "registry_unreachable",
        "The coprocessor registry could not be read from the chain.",
        "Check the RPC endpoints; the request waits and burns no attempt.";
    ATTESTATIONS_MISSING = "KC-0407", "attestations_missing",
        "Too few of the registered coprocessors attest the same ciphertext for a handle.",
        "Usually the coprocessors are behind: the request waits within `access.ciphertext_patience_ms`. Else ask their operators for the object, then redrive the request.";
    ATTESTATIONS_SPLIT = "KC-0408", "attestations_split",
        "Two different attestations of one handle have the coprocessors' registered threshold.",
        "Find out with the coprocessors' operators which one is right; the request waits within `access.ciphertext_patience_ms` and decrypts nothing.";
    SEVERAL_KEYS = "KC-0409", "several_keys",
        "The ciphertexts of one request are under different FHE keys.",
        "Nothing can answer it.";
    THRESHOLD_NO_MAJORITY = "KC-0410", "threshold_no_majority",
        "The registered threshold of coprocessors is half of them or less, so that two groups can have it.",
        "Nothing is unsafe, but every ciphertext waits for all buckets: have the threshold raised above half of the coprocessors.";
    CORE_UNREACHABLE = "KC-0501", "core_unreachable",
        "KMS Core did not answer.",
        "Check the KMS Core and the network; requests wait and burn no attempt.";
    CORE_REFUSED = "KC-0502", "core_refused",
        "KMS Core refused the request as invalid; it will refuse the same bytes again.",
        "Compare the request with KMS Core's log; check the configured domain and contract addresses.";
    CORE_FAILED = "KC-0503", "core_failed",
        "KMS Core ended the operation with an error, and this id will never have a result there.",
        "Read the reason in KMS Core's log; redrive the request after it was mended.";
    CORE_LACKS_CALL = "KC-0504", "core_lacks_call",
        "This KMS Core version does not have the call that the request needs.",
        "Run a KMS Core of the generation's version (`docs/protocol.md`, \"Versions of KMS Core\").";
    CORE_NOT_READY = "KC-0505", "core_not_ready",
        "KMS Core does not know the key or the preprocessing, or its store is full.",
        "Check that the node took part in the key generation; the request waits within its budget.";
    CORE_BUSY = "KC-0506", "core_busy",
        "KMS Core takes no more work at the moment, or has no signing key.",
        "Usually nothing: intake slows down. Look at KMS Core if it lasts.";
    CORE_ABORTED = "KC-0508", "core_aborted",
        "The operation was aborted in KMS Core.",
        "Nothing, if the abort was wanted.";
    CANCELLED = "KC-0509", "cancelled",
        "An attempt was cancelled because its partition was taken away, it outlasted its lane, or the service stops.",
        "Nothing; the request is served again.";
    FOREIGN_REQUEST = "KC-0510", "foreign_request",
        "The request names a chain or contract that this processor does not serve.",
        "Check that ingest and processor are configured for the same deployment and topic prefix.";
    BODY_DIFFERS_FROM_LOG = "KC-0511", "body_differs_from_log",
        "The decoded request is not what its own raw log says.",
        "The record was not written by ingest: find out who wrote it.";
    REQUEST_INVALID = "KC-0512", "request_invalid",
        "The request holds a value that the protocol has no meaning for.",
        "Nothing can answer it.";
    CORE_VERSION_UNFIT = "KC-0513", "core_version_unfit",
        "The configured version of KMS Core lacks the call that the request needs, or signs what the contracts do not check.",
        "Run a KMS Core of the release's version (`docs/protocol.md`, \"Versions of KMS Core\"), or correct `kms_core.version`.";
    CORE_STUCK = "KC-0514", "core_stuck",
        "KMS Core v0.13 holds the id of a decryption as pending for ever, after it had refused it once.",
        "Restart the KMS Core: the request is kept, looked at rarely, and served then. The other nodes do not need this answer.";
    PREPROCESSING_GONE = "KC-0515", "preprocessing_gone",
        "KMS Core no longer has the preprocessing, and the chain has its consensus without this node.",
        "Nothing: the preprocessing was lost or consumed, and no answer is needed any more.";
    EPOCH_REFUSED = "KC-0516", "epoch_refused",
        "KMS Core refuses the epoch: it is in its storage already, without a result to fetch any more, or the key material does not fit.",
        "Read KMS Core's log. If the result was lost in a restart, have the epoch destroyed on chain and a new one defined.";
    EPOCH_EMPTY = "KC-0517", "epoch_empty",
        "There is no completed key or no completed CRS to carry into the epoch, and the contract activates no such epoch.",
        "Have a key and a CRS generated, the epoch destroyed and a new one defined.";
    PREVIOUS_CONTEXT_UNKNOWN = "KC-0518", "previous_context_unknown",
        "The log that defined a context is not at its anchor on chain.",
        "Check the RPC endpoints of [ethereum]: they must serve old logs. The request is tried again for days.";
    HOST_CHAIN_UNREACHABLE = "KC-0519", "key_management_chain_unreachable",
        "The chain of KMSGeneration and ProtocolConfig could not be read.",
        "Check the RPC endpoints; the request waits and burns no attempt.";
    MATERIAL_UNREADABLE = "KC-0570", "material_unreadable",
        "The keys and CRSs of an epoch cannot be read at the block that its event names.",
        "Use an RPC endpoint that keeps old state (an archive node); the request waits, and an error of the node burns no attempt.";
    CORE_CENTRALIZED = "KC-0571", "core_centralized",
        "A centralized KMS Core has no epochs that can be created or destroyed.",
        "Run a threshold KMS Core.";
    CHAIN_NOT_CONFIGURED = "KC-0572", "chain_not_configured",
        "The request needs a contract that is not configured.",
        "Configure [ethereum] with `kms_generation` and `protocol_config`.";
    RECORD_FORGED = "KC-0520", "record_forged",
        "The record names a log that the chain does not hold there: other contents, another transaction or another time.",
        "The record was not written by ingest: find out who wrote it. Nothing was decrypted.";
    CALLDATA_FOREIGN = "KC-0525", "calldata_foreign",
        "The transaction of a user decryption was not sent to the Decryption contract, or calls something else there: it does not tell for which contracts the handles are asked.",
        "Nothing: such requests can only be made by calling the contract directly.";
    CALLDATA_DIFFERS = "KC-0526", "calldata_differs",
        "The calldata of a user decryption does not say what its event says.",
        "The contracts are not what they should be: check their addresses.";
    NO_HANDLES = "KC-0527", "no_handles",
        "The request names no handle.",
        "The contracts let no such request through: check their addresses.";
    TOO_MANY_BITS = "KC-0528", "too_many_bits",
        "The values of one request have more than 2048 bits together.",
        "The contracts let no such request through: check their addresses.";
    MIXED_HOST_CHAINS = "KC-0529", "mixed_host_chains",
        "The handles of one user decryption are of several host chains.",
        "The contracts let no such request through: check their addresses.";
    MIXED_KEYS = "KC-0530", "mixed_keys",
        "The ciphertexts of one request are under several keys.",
        "The contracts let no such request through: check their addresses.";
    HOST_CHAIN_UNKNOWN = "KC-0531", "host_chain_unknown",
        "The handles are of a host chain that is not configured, so that nobody can be asked whether they may be decrypted.",
        "Add the chain as a `[[host_chain]]`, then redrive the request.";
    ACL_UNREACHABLE = "KC-0532", "host_chain_unreachable",
        "The host chain of the handles could not be asked.",
        "Check its RPC endpoints; requests wait and burn no attempt and no budget.";
    ACL_UNREADABLE = "KC-0533", "acl_unreadable",
        "The access control list gives no answer that can be read.",
        "Check the `acl` address of the host chain; requests wait, since no answer is neither yes nor no.";
    NOT_PUBLIC = "KC-0534", "not_allowed_for_decryption",
        "The access control list does not allow a handle of a public decryption to be decrypted.",
        "Nothing, if the application has not allowed it. Otherwise check that the host chain's node is not behind, and redrive the request.";
    NOT_OWNED = "KC-0535", "not_owned",
        "The access control list does not allow the user a handle.",
        "Nothing, if the handle is not the user's. Otherwise check that the host chain's node is not behind, and redrive the request.";
    NOT_ALLOWED_FOR_CONTRACT = "KC-0536", "not_allowed_for_contract",
        "The access control list does not allow a handle to the contract that it is asked for.",
        "Nothing, if the handle is not the contract's. Otherwise check that the host chain's node is not behind, and redrive the request.";
    NOT_DELEGATED = "KC-0537", "not_delegated",
        "The owner of a handle has not delegated it to who asks, or the delegation is over.",
        "Nothing, if that is so. Otherwise check that the host chain's node is not behind, and redrive the request.";
    NOT_LISTED = "KC-0538", "not_listed",
        "None of the contracts that the user allowed may use a handle.",
        "Nothing, if that is so. Otherwise check that the host chain's node is not behind, and redrive the request.";
    IDENTITY_REUSED = "KC-0540", "identity_reused",
        "A second, different request came under a known identity. KMS Core does not compare, and would answer it with the first one's result.",
        "A chain that was reorganised reuses ids: see the two records that the text names. To let the second pass: restart KMS Core, which then knows neither; start the processor once with `access.identity_memory = 1`, and redrive the second.";
    TOPICS_UNREADABLE = "KC-0541", "topics_unreadable",
        "What the topics hold about an identity could not be read.",
        "Check the brokers; the request waits and burns no attempt.";
    DEFERRED_FORGED = "KC-0542", "deferred_record_forged",
        "A deferred record names a place from which nobody can have deferred it: another topic or partition, or one where another request lies, or none.",
        "The processor and kmsctl write no such record: find out who did. If it was redriven, see whether the topic still keeps the request.";
    RECORD_COPIED = "KC-0543", "record_copied",
        "A request lies in the topic a second time, or in a partition where ingest does not write it. KMS Core hears nothing of the copy.",
        "Ingest writes each request once: find out who wrote the copy. If the first one is a dead letter, redrive that.";
    USER_SIGNATURE_WRONG = "KC-0545", "user_signature_wrong",
        "The signature of the request is not the user's, and the user is no contract that could vouch for it.",
        "Nothing: the user must ask again.";
    CONTRACT_SIGNATURE_REFUSED = "KC-0546", "contract_signature_refused",
        "The user is a contract, and it does not confirm the signature (ERC-1271) within the gas that it may use.",
        "See `access.erc1271_gas`, if the user's contract needs more. Otherwise the user must ask again.";
    SIGNATURE_INVALIDATED = "KC-0547", "signature_invalidated",
        "The user has invalidated the signature on the host chain.",
        "Nothing: the user must ask again.";
    VALIDITY_NOT_BEGUN = "KC-0548", "validity_not_begun",
        "The request is valid only later.",
        "Check the clock of this machine; the request waits.";
    VALIDITY_EXPIRED = "KC-0549", "validity_expired",
        "The request is not valid any more.",
        "Check the clock of this machine. Otherwise nothing: the user must ask again.";
    USER_AMONG_CONTRACTS = "KC-0550", "user_among_contracts",
        "The user is among the contracts that the request allows.",
        "Nothing: such a request is not served.";
    EXTRA_DATA_MALFORMED = "KC-0551", "extra_data_malformed",
        "The extra data of the request is of no version that is known, or too short for its version.",
        "Nothing can answer it.";
    CONTEXT_UNKNOWN = "KC-0552", "context_unknown",
        "The KMS context that the request names was not made yet, as far as the Ethereum host chain is final.",
        "Check that the node of the Ethereum host chain is not behind; the request waits within its budget.";
    CONTEXT_PENDING = "KC-0553", "context_pending",
        "The KMS context that the request names is not active yet.",
        "Wait for the committee to confirm it; the request waits within its budget.";
    CONTEXT_DESTROYED = "KC-0554", "context_destroyed",
        "The KMS context that the request names is destroyed.",
        "Nothing can answer it: it must be asked for again.";
    EPOCH_NOT_ACTIVE = "KC-0555", "epoch_not_active",
        "The epoch that the request names is not active yet.",
        "Wait for the committee to activate it; the request waits within its budget.";
    EPOCH_DESTROYED = "KC-0556", "epoch_destroyed",
        "The epoch that the request names is destroyed, or was never one of the context that it names.",
        "Nothing can answer it: it must be asked for again.";
    ETHEREUM_UNREADABLE = "KC-0557", "ethereum_unreadable",
        "The contexts could not be read from the Ethereum host chain.",
        "Check its RPC endpoints and `ethereum.protocol_config`; requests wait and burn no attempt and no budget.";
    RELEASE_CHANGED = "KC-0561", "release_changed",
        "The contracts were upgraded to another release while the processor ran.",
        "Nothing: the processor ends, and reads the new release when it is started again. It then says what its configuration lacks.";
    DEPLOYMENT_MISMATCH = "KC-0560", "deployment_mismatch",
        "The configuration does not fit the contracts that are there.",
        "Read the text: it names the section or the address.";
    CORE_LIFECYCLE = "KC-0573", "core_lifecycle_in_flight",
        "KMS Core creates or destroys another context or epoch at the moment, or knows no other one yet.",
        "Usually nothing: the request is tried again within `lanes.key_management.time_limit_ms`. Look at KMS Core if it lasts.";
    ANSWER_MALFORMED = "KC-0611", "answer_malformed",
        "KMS Core's result lacks a part or does not fit the request.",
        "Compare the versions of KMS Core and contracts; nothing was published.";
    SIGNATURE_WRONG = "KC-0612", "core_signature_wrong",
        "KMS Core's signature does not recover to the configured signer over the digest of this request and result.",
        "Check `signer.address`, the domain and the KMS Core version; nothing was published.";
}

/// Whether a request that ended with this code ended before KMS Core heard of it.
#[must_use]
pub fn is_before_core(code: &str) -> bool {
    let number = code.strip_prefix("KC-").and_then(|digits| digits.parse().ok()).unwrap_or(0_u32);
    // What the chain said of the record itself, and the checks.
    matches!(number, 340..=349 | 510..=512 | 520..=569)
}
