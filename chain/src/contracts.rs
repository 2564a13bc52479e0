//! Bindings of the contracts: only what the connector, its tests and its tools call. Those of generation (a) are here; [`b`]
//! has what later releases add or change.
//!
//! They are written by hand instead of generated from `abi/*.json`, which takes a multiple of the compile time; a test
//! holds every function, event and return type here against those files. Enums of the contracts are plain `uint8` here,
//! which has the same encoding and does not fail on a value that a later release adds.
//!
//! No name is overloaded in generation (a). Where a later release overloads one (`UserDecryptionRequest`,
//! `userDecryptionRequest`), a code generator would number the overloads by their order in the ABI file, so that a
//! re-ordered file silently changes their meaning: each overload stands in an interface with a name of its own, and is
//! selected by topic or selector, never by name.

pub use bindings::{
    CiphertextCommits, ContractsInfo, Coprocessor, CtHandleContractPair, Decryption, DelegationAccounts, GatewayConfig,
    HostAcl, HostChain, KMSGeneration, KeyDigest, KmsNode, MultichainACL, Proxy, RequestValidity,
    SnsCiphertextMaterial,
};

/// Contracts from v0.12 on, as far as they are not those of generation (a): `Decryption`'s responses, legacy requests and
/// events, `CiphertextCommits` and `Proxy` are the same in every release.
pub mod b {
    pub use super::bindings::{
        DecryptionHandles, DecryptionUnified, DecryptionUnifiedMaterials, EpochCrsResult, EpochKeyResult, Erc1271,
        GatewayConfigB as GatewayConfig, HandleEntry, HostAclB as HostAcl, KMSGenerationB as KMSGeneration,
        KMSVerifier, KeyInfo, KmsNodeParams, KmsThresholds, PcrValues, ProtocolConfig, ProtocolConfigV13,
        RequestValiditySeconds, UserDecryptionRequestPayload,
    };
}

#[allow(missing_docs, clippy::too_many_arguments, unreachable_pub)]
mod bindings {
    alloy::sol! {
        #![sol(all_derives)]

        struct SnsCiphertextMaterial {
            bytes32 ctHandle;
            uint256 keyId;
            bytes32 snsCiphertextDigest;
            address[] coprocessorTxSenderAddresses;
        }

        struct CtHandleContractPair {
            bytes32 ctHandle;
            address contractAddress;
        }

        struct RequestValidity {
            uint256 startTimestamp;
            uint256 durationDays;
        }

        struct ContractsInfo {
            uint256 chainId;
            address[] addresses;
        }

        struct DelegationAccounts {
            address delegatorAddress;
            address delegateAddress;
        }

        struct KeyDigest {
            uint8 keyType;
            bytes digest;
        }

        struct KmsNode {
            address txSenderAddress;
            address signerAddress;
            string ipAddress;
            string storageUrl;
        }

        struct Coprocessor {
            address txSenderAddress;
            address signerAddress;
            string s3BucketUrl;
        }

        struct HostChain {
            uint256 chainId;
            address fhevmExecutorAddress;
            address aclAddress;
            string name;
            string website;
        }

        interface Decryption {
            event PublicDecryptionRequest(uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials, bytes extraData);
            event UserDecryptionRequest(uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials, address userAddress, bytes publicKey, bytes extraData);
            event PublicDecryptionResponseCall(uint256 indexed decryptionId, bytes decryptedResult, bytes signature, address kmsTxSender, bytes extraData);
            event PublicDecryptionResponse(uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures, bytes extraData);
            event UserDecryptionResponse(uint256 indexed decryptionId, uint256 indexShare, bytes userDecryptedShare, bytes signature, bytes extraData);
            event UserDecryptionResponseThresholdReached(uint256 indexed decryptionId);

            function publicDecryptionRequest(bytes32[] ctHandles, bytes extraData) external;
            function userDecryptionRequest(CtHandleContractPair[] ctHandleContractPairs, RequestValidity requestValidity, ContractsInfo contractsInfo, address userAddress, bytes publicKey, bytes signature, bytes extraData) external;
            function delegatedUserDecryptionRequest(CtHandleContractPair[] ctHandleContractPairs, RequestValidity requestValidity, DelegationAccounts delegationAccounts, ContractsInfo contractsInfo, bytes publicKey, bytes signature, bytes extraData) external;
            function publicDecryptionResponse(uint256 decryptionId, bytes decryptedResult, bytes signature, bytes extraData) external;
            function userDecryptionResponse(uint256 decryptionId, bytes userDecryptedShare, bytes signature, bytes extraData) external;
            function isDecryptionDone(uint256 decryptionId) external view returns (bool);
            function getDecryptionConsensusTxSenders(uint256 decryptionId) external view returns (address[]);
            function isPublicDecryptionReady(bytes32[] ctHandles, bytes extraData) external view returns (bool);
            function isUserDecryptionReady(address userAddress, CtHandleContractPair[] ctHandleContractPairs, bytes extraData) external view returns (bool);
        }

        interface KMSGeneration {
            event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, uint8 paramsType);
            event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
            event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType);
            event PRSSInit();
            event KeyReshareSameSet(uint256 prepKeygenId, uint256 keyId, uint256 keyReshareId, uint8 paramsType);
            event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
            event KeygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender);
            event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
            event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
            event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);

            function keygen(uint8 paramsType) external;
            function crsgenRequest(uint256 maxBitLength, uint8 paramsType) external;
            function prssInit() external;
            function keyReshareSameSet(uint256 keyId) external;
            function prepKeygenResponse(uint256 prepKeygenId, bytes signature) external;
            function keygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature) external;
            function crsgenResponse(uint256 crsId, bytes crsDigest, bytes signature) external;
            function getActiveKeyId() external view returns (uint256);
            function getActiveCrsId() external view returns (uint256);
            function getConsensusTxSenders(uint256 requestId) external view returns (address[]);
            function getKeyMaterials(uint256 keyId) external view returns (string[], KeyDigest[]);
            function getCrsMaterials(uint256 crsId) external view returns (string[], bytes);
            function getKeyParamsType(uint256 keyId) external view returns (uint8);
            function getCrsParamsType(uint256 crsId) external view returns (uint8);
        }

        interface GatewayConfig {
            function getKmsNode(address kmsTxSenderAddress) external view returns (KmsNode);
            function getKmsTxSenders() external view returns (address[]);
            function getKmsSigners() external view returns (address[]);
            function isKmsTxSender(address txSenderAddress) external view returns (bool);
            function isKmsSigner(address signerAddress) external view returns (bool);
            function getCoprocessor(address coprocessorTxSenderAddress) external view returns (Coprocessor);
            function getCoprocessorTxSenders() external view returns (address[]);
            function getCoprocessorSigners() external view returns (address[]);
            function getCoprocessorMajorityThreshold() external view returns (uint256);
            function getMpcThreshold() external view returns (uint256);
            function getPublicDecryptionThreshold() external view returns (uint256);
            function getUserDecryptionThreshold() external view returns (uint256);
            function getKmsGenThreshold() external view returns (uint256);
            function getHostChains() external view returns (HostChain[]);
            function isHostChainRegistered(uint256 chainId) external view returns (bool);
            function owner() external view returns (address);
        }

        interface CiphertextCommits {
            function addCiphertextMaterial(bytes32 ctHandle, uint256 keyId, bytes32 ciphertextDigest, bytes32 snsCiphertextDigest) external;
            function getSnsCiphertextMaterials(bytes32[] ctHandles) external view returns (SnsCiphertextMaterial[] snsCtMaterials);
            function isCiphertextMaterialAdded(bytes32 ctHandle) external view returns (bool);
        }

        interface MultichainACL {
            function allowAccount(bytes32 ctHandle, address accountAddress, bytes extraData) external;
            function allowPublicDecrypt(bytes32 ctHandle, bytes extraData) external;
            function delegateUserDecryption(uint256 chainId, address delegator, address delegate, address contractAddress, uint64 delegationCounter, uint64 expirationDate) external;
            function isAccountAllowed(bytes32 ctHandle, address accountAddress) external view returns (bool);
            function isPublicDecryptAllowed(bytes32 ctHandle) external view returns (bool);
            function isUserDecryptionDelegated(uint256 chainId, address delegator, address delegate, address contractAddress) external view returns (bool);
        }

        /// The access control list on a host chain.
        interface HostAcl {
            function isAllowed(bytes32 handle, address account) external view returns (bool);
            function isAllowedForDecryption(bytes32 handle) external view returns (bool);
            function isHandleDelegatedForUserDecryption(address delegator, address delegate, address contractAddress, bytes32 handle) external view returns (bool);
            function allow(bytes32 handle, address account) external;
            function allowForDecryption(bytes32[] handlesList) external;
            function delegateForUserDecryption(address delegate, address contractAddress, uint64 expirationDate) external;
        }

        /// What every contract of the protocol answers, and what it says when its code changes (ERC-1967).
        interface Proxy {
            event Upgraded(address indexed implementation);
            function getVersion() external pure returns (string);
            function eip712Domain() external view returns (bytes1 fields, string name, string version, uint256 chainId, address verifyingContract, bytes32 salt, uint256[] extensions);
        }

        // --- From v0.12 on ---------------------------------------------------------------------------------------

        struct HandleEntry {
            bytes32 handle;
            address contractAddress;
            address ownerAddress;
        }

        struct RequestValiditySeconds {
            uint256 startTimestamp;
            uint256 durationSeconds;
        }

        struct UserDecryptionRequestPayload {
            address userAddress;
            bytes publicKey;
            address[] allowedContracts;
            RequestValiditySeconds requestValidity;
            bytes extraData;
            bytes signature;
        }

        struct KeyInfo {
            uint256 prepKeygenId;
            uint256 keyId;
            uint8 paramsType;
            KeyDigest[] keyDigests;
        }

        struct KmsNodeParams {
            address txSenderAddress;
            address signerAddress;
            string ipAddress;
            string storageUrl;
            int32 partyId;
            string mpcIdentity;
            bytes caCert;
            string storagePrefix;
        }

        struct KmsThresholds {
            uint256 publicDecryption;
            uint256 userDecryption;
            uint256 kmsGen;
            uint256 mpc;
        }

        struct PcrValues {
            bytes pcr0;
            bytes pcr1;
            bytes pcr2;
        }

        struct EpochKeyResult {
            uint256 prepKeygenId;
            uint256 keyId;
            KeyDigest[] keyDigests;
            bytes signature;
        }

        struct EpochCrsResult {
            uint256 crsId;
            uint256 maxBitLength;
            bytes crsDigest;
            bytes signature;
        }

        /// The handle-only overloads of the decryption events, from v0.15 on.
        interface DecryptionHandles {
            event PublicDecryptionRequest(uint256 indexed decryptionId, bytes32[] ctHandles, bytes extraData);
            event UserDecryptionRequest(uint256 indexed decryptionId, bytes32[] ctHandles, address userAddress, bytes publicKey, bytes extraData);
        }

        /// The unified user decryption as v0.15 tells it, and its request function, which v0.14 has too.
        interface DecryptionUnified {
            event UserDecryptionRequest(uint256 indexed decryptionId, HandleEntry[] handles, UserDecryptionRequestPayload payload);
            function userDecryptionRequest(HandleEntry[] handles, address userAddress, bytes publicKey, address[] allowedContracts, RequestValiditySeconds requestValidity, bytes signature, bytes extraData) external;
        }

        /// The unified user decryption as v0.14 tells it.
        interface DecryptionUnifiedMaterials {
            event UserDecryptionRequest(uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials, HandleEntry[] handles, UserDecryptionRequestPayload payload);
        }

        /// On the Ethereum host chain. The events that report responses are those of generation (a).
        interface KMSGenerationB {
            event PrepKeygenRequest(uint256 prepKeygenId, uint8 paramsType, bytes extraData);
            event KeygenRequest(uint256 prepKeygenId, uint256 keyId, bytes extraData);
            event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType, bytes extraData);
            event AbortKeygen(uint256 prepKeygenId);
            event AbortCrsgen(uint256 crsId);
            event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
            event KeygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender);
            event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
            event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
            event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);

            function keygen(uint8 paramsType) external;
            function crsgenRequest(uint256 maxBitLength, uint8 paramsType) external;
            function abortKeygen(uint256 prepKeygenId) external;
            function abortCrsgen(uint256 crsId) external;
            function prepKeygenResponse(uint256 prepKeygenId, bytes signature) external;
            function keygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature) external;
            function crsgenResponse(uint256 crsId, bytes crsDigest, bytes signature) external;
            function isRequestDone(uint256 requestId) external view returns (bool);
            function getConsensusTxSenders(uint256 requestId) external view returns (address[]);
            function getCompletedKeyIds() external view returns (uint256[]);
            function getCompletedCrsIds() external view returns (uint256[]);
            function getKeyInfo(uint256 keyId) external view returns (KeyInfo);
            function getKeyMaterials(uint256 keyId) external view returns (string[], KeyDigest[]);
            function getCrsMaterials(uint256 crsId) external view returns (string[], bytes);
            function getKeyParamsType(uint256 keyId) external view returns (uint8);
            function getCrsParamsType(uint256 crsId) external view returns (uint8);
            function getActiveKeyId() external view returns (uint256);
            function getActiveCrsId() external view returns (uint256);
            function getKeyCounter() external view returns (uint256);
            function getCrsCounter() external view returns (uint256);
        }

        /// On the Ethereum host chain.
        interface ProtocolConfig {
            event NewKmsContext(uint256 indexed contextId, uint256 indexed previousContextId, KmsNodeParams[] kmsNodeParams, KmsThresholds thresholds, string softwareVersion, PcrValues[] pcrValues);
            event NewKmsEpoch(uint256 indexed kmsContextId, uint256 indexed epochId, uint256 previousContextId, uint256 previousEpochId, uint256 materialBlockNumber);
            event KmsContextDestroyed(uint256 indexed kmsContextId);
            event KmsEpochDestroyed(uint256 indexed epochId);
            event KmsContextCreationConfirmation(uint256 indexed kmsContextId, address indexed txSender, bool isPreviousTxSender, bool isNewTxSender);
            event EpochActivationConfirmation(uint256 indexed epochId, address indexed signer, bytes32 dataHash);
            event ActivateEpoch(uint256 indexed kmsContextId, uint256 indexed epochId, EpochKeyResult[] keys, EpochCrsResult[] crsList, string[] kmsNodeStorageUrls);

            function defineNewKmsContextAndEpoch(KmsNodeParams[] kmsNodeParams, KmsThresholds thresholds, string softwareVersion, PcrValues[] pcrValues) external;
            function defineNewEpochForCurrentKmsContext() external;
            function destroyKmsContext(uint256 kmsContextId) external;
            function destroyKmsEpoch(uint256 epochId) external;
            function confirmKmsContextCreation(uint256 kmsContextId) external;
            function confirmEpochActivation(uint256 epochId, EpochKeyResult[] keys, EpochCrsResult[] crsList) external;
            function getCurrentKmsContextAndEpoch() external view returns (uint256 contextId, uint256 epochId);
            function getCurrentKmsContextId() external view returns (uint256);
            function getCurrentKmsContextIdCounter() external view returns (uint256);
            function isValidKmsContext(uint256 kmsContextId) external view returns (bool);
            function isLiveKmsContext(uint256 kmsContextId) external view returns (bool);
            function isValidEpochForContext(uint256 kmsContextId, uint256 epochId) external view returns (bool);
            function getKmsContextAnchor(uint256 contextId) external view returns (uint256 emissionBlockNumber, bytes32 contextInfoHash);
            function getKmsNodesForContext(uint256 kmsContextId) external view returns (KmsNode[]);
            function getKmsNodeForContext(uint256 kmsContextId, address txSender) external view returns (KmsNode);
            function isKmsTxSenderForContext(uint256 kmsContextId, address txSender) external view returns (bool);
            function isKmsSignerForContext(uint256 kmsContextId, address signer) external view returns (bool);
            function getKmsSignersForContext(uint256 kmsContextId) external view returns (address[]);
            function getPublicDecryptionThresholdForContext(uint256 kmsContextId) external view returns (uint256);
            function getUserDecryptionThresholdForContext(uint256 kmsContextId) external view returns (uint256);
            function getKmsGenThresholdForContext(uint256 kmsContextId) external view returns (uint256);
            function getMpcThresholdForContext(uint256 kmsContextId) external view returns (uint256);
            function getContextCreationPreviousTxSenderThreshold(uint256 kmsContextId) external view returns (uint256);
        }

        /// `ProtocolConfig` of v0.13, as far as it differs: a context is active at once, and needs no answer.
        interface ProtocolConfigV13 {
            event NewKmsContext(uint256 indexed kmsContextId, KmsNode[] kmsNodes, KmsThresholds thresholds);
            function defineNewKmsContext(KmsNode[] kmsNodes, KmsThresholds thresholds) external;
        }

        /// On the Ethereum host chain: where v0.12 and v0.13 keep the current context.
        interface KMSVerifier {
            function getCurrentKmsContextId() external view returns (uint256);
            function getSignersForKmsContext(uint256 kmsContextId) external view returns (address[]);
        }

        /// On the Gateway, v0.15.
        interface GatewayConfigB {
            function getKmsNode(address kmsTxSenderAddress) external view returns (KmsNode);
            function getKmsTxSenders() external view returns (address[]);
            function getKmsSigners() external view returns (address[]);
            function isKmsTxSender(address txSenderAddress) external view returns (bool);
            function isKmsSigner(address signerAddress) external view returns (bool);
            function getCoprocessor(address coprocessorTxSenderAddress) external view returns (Coprocessor);
            function getCoprocessorTxSenders() external view returns (address[]);
            function getCoprocessorSigners() external view returns (address[]);
            function getCoprocessorMajorityThreshold() external view returns (uint256);
            function getKmsGenThreshold() external view returns (uint256);
            function getMpcThreshold() external view returns (uint256);
            function getCurrentKmsContextId() external view returns (uint256);
            function isValidKmsContext(uint256 contextId) external view returns (bool);
            function isKmsTxSenderForContext(uint256 contextId, address txSenderAddress) external view returns (bool);
            function isKmsSignerForContext(uint256 contextId, address signerAddress) external view returns (bool);
            function getKmsNodeForContext(uint256 contextId, address kmsTxSenderAddress) external view returns (KmsNode);
            function getKmsTxSendersForContext(uint256 contextId) external view returns (address[]);
            function getKmsSignersForContext(uint256 contextId) external view returns (address[]);
            function getPublicDecryptionThresholdForContext(uint256 contextId) external view returns (uint256);
            function getUserDecryptionThresholdForContext(uint256 contextId) external view returns (uint256);
            function getHostChains() external view returns (HostChain[]);
            function isHostChainRegistered(uint256 chainId) external view returns (bool);
            function isHostChainDisabled(uint256 chainId) external view returns (bool);
            function updateKmsContext(uint256 newContextId, KmsNode[] newKmsNodes, uint256 newMpcThreshold, uint256 newPublicDecryptionThreshold, uint256 newUserDecryptionThreshold, uint256 newKmsGenThreshold) external;
            function destroyKmsContext(uint256 kmsContextId) external;
            function owner() external view returns (address);
        }

        /// The access control list on a host chain, as far as it is not that of (a).
        interface HostAclB {
            function decryptionSignatureInvalidatedBefore(address account) external view returns (uint256);
            function invalidateDecryptionSignaturesBefore(uint256 timestamp) external;
        }

        /// A contract that signs for itself (ERC-1271).
        interface Erc1271 {
            function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use alloy::json_abi::JsonAbi;
    use alloy::sol_types::{SolCall, SolEvent, SolStruct, SolType};

    use super::*;

    /// Canonical signature → canonical tuple of return types.
    fn functions(file: &str) -> HashMap<String, String> {
        let abi = abi(file);
        abi.functions()
            .map(|f| {
                let outputs: Vec<String> = f.outputs.iter().map(|o| o.selector_type().into_owned()).collect();
                (f.signature(), format!("({})", outputs.join(",")))
            })
            .collect()
    }

    fn abi(file: &str) -> JsonAbi {
        let path = format!("{}/abi/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect("the ABI file is in the repository");
        serde_json::from_str(&text).expect("the ABI file parses")
    }

    /// The canonical tuple of return types. Structs show by their names there; a struct that holds another one comes first.
    fn returns<C: SolCall>() -> String {
        let structs = [
            canonical::<b::KeyInfo>(),
            canonical::<SnsCiphertextMaterial>(),
            canonical::<KeyDigest>(),
            canonical::<KmsNode>(),
            canonical::<Coprocessor>(),
            canonical::<HostChain>(),
        ];
        let mut name = <C::ReturnTuple<'static> as SolType>::SOL_NAME.replace(",)", ")");
        for (structure, canonical) in structs {
            name = name.replace(structure, &canonical);
        }
        name
    }

    /// A struct's name, and its fields as a canonical tuple.
    fn canonical<S: SolStruct>() -> (&'static str, String) {
        let root = S::eip712_root_type();
        let fields = root.split_once('(').expect("a struct has fields").1.trim_end_matches(')');
        let types: Vec<&str> = fields.split(',').map(|field| field.split(' ').next().expect("a type")).collect();
        (S::NAME, format!("({})", types.join(",")))
    }

    macro_rules! same_as_abi {
        ($file:expr, $contract:ident, calls: [$($call:ident),* $(,)?], events: [$($event:ident),* $(,)?]) => {{
            let functions = functions($file);
            let _ = &functions;
            let mut checked = 0;
            $(
                let signature = <$contract::$call as SolCall>::SIGNATURE;
                let found = functions.get(signature).unwrap_or_else(|| panic!("{signature} is not in {}", $file));
                assert_eq!(found, &returns::<$contract::$call>(), "return type of {signature}");
                checked += 1;
            )*
            $(
                let contract = abi($file);
                let event = contract
                    .events()
                    .find(|e| e.selector() == <$contract::$event as SolEvent>::SIGNATURE_HASH)
                    .unwrap_or_else(|| panic!("{} is not in {}", <$contract::$event as SolEvent>::SIGNATURE, $file));
                let indexed = event.inputs.iter().filter(|i| i.indexed).count();
                assert_eq!(indexed + 1, <<$contract::$event as SolEvent>::TopicList as alloy::sol_types::TopicList>::COUNT);
                checked += 1;
            )*
            checked
        }};
    }

    #[test]
    fn every_binding_is_in_the_abi_files_with_its_return_types_and_indexed_arguments() {
        let decryption = same_as_abi!("Decryption.v0_11.json", Decryption,
        calls: [
            publicDecryptionRequestCall, userDecryptionRequestCall, delegatedUserDecryptionRequestCall,
            publicDecryptionResponseCall, userDecryptionResponseCall, isDecryptionDoneCall,
            getDecryptionConsensusTxSendersCall, isPublicDecryptionReadyCall, isUserDecryptionReadyCall,
        ],
        events: [
            PublicDecryptionRequest, UserDecryptionRequest, PublicDecryptionResponseCall, PublicDecryptionResponse,
            UserDecryptionResponse, UserDecryptionResponseThresholdReached,
        ]);
        assert_eq!(
            decryption,
            Decryption::DecryptionCalls::SELECTORS.len() + Decryption::DecryptionEvents::SELECTORS.len()
        );

        let generation = same_as_abi!("KMSGeneration.v0_11.json", KMSGeneration,
        calls: [
            keygenCall, crsgenRequestCall, prssInitCall, keyReshareSameSetCall, prepKeygenResponseCall,
            keygenResponseCall, crsgenResponseCall, getActiveKeyIdCall, getActiveCrsIdCall,
            getConsensusTxSendersCall, getKeyMaterialsCall, getCrsMaterialsCall, getKeyParamsTypeCall,
            getCrsParamsTypeCall,
        ],
        events: [
            PrepKeygenRequest, KeygenRequest, CrsgenRequest, PRSSInit, KeyReshareSameSet, PrepKeygenResponse,
            KeygenResponse, ActivateKey, CrsgenResponse, ActivateCrs,
        ]);
        assert_eq!(
            generation,
            KMSGeneration::KMSGenerationCalls::SELECTORS.len() + KMSGeneration::KMSGenerationEvents::SELECTORS.len()
        );

        let config = same_as_abi!("GatewayConfig.v0_11.json", GatewayConfig,
            calls: [
                getKmsNodeCall, getKmsTxSendersCall, getKmsSignersCall, isKmsTxSenderCall, isKmsSignerCall,
                getCoprocessorCall, getCoprocessorTxSendersCall, getCoprocessorSignersCall,
                getCoprocessorMajorityThresholdCall, getMpcThresholdCall, getPublicDecryptionThresholdCall,
                getUserDecryptionThresholdCall, getKmsGenThresholdCall, getHostChainsCall, isHostChainRegisteredCall,
                ownerCall,
            ],
            events: []);
        assert_eq!(config, GatewayConfig::GatewayConfigCalls::SELECTORS.len());

        let commits = same_as_abi!("CiphertextCommits.v0_11.json", CiphertextCommits,
            calls: [addCiphertextMaterialCall, getSnsCiphertextMaterialsCall, isCiphertextMaterialAddedCall],
            events: []);
        assert_eq!(commits, CiphertextCommits::CiphertextCommitsCalls::SELECTORS.len());

        let acl = same_as_abi!("MultichainACL.v0_11.json", MultichainACL,
            calls: [
                allowAccountCall, allowPublicDecryptCall, delegateUserDecryptionCall, isAccountAllowedCall,
                isPublicDecryptAllowedCall, isUserDecryptionDelegatedCall,
            ],
            events: []);
        assert_eq!(acl, MultichainACL::MultichainACLCalls::SELECTORS.len());

        let host = same_as_abi!("ACL.host.v0_11.json", HostAcl,
            calls: [
                isAllowedCall, isAllowedForDecryptionCall, isHandleDelegatedForUserDecryptionCall, allowCall,
                allowForDecryptionCall, delegateForUserDecryptionCall,
            ],
            events: []);
        assert_eq!(host, HostAcl::HostAclCalls::SELECTORS.len());

        for file in ["Decryption.v0_11.json", "KMSGeneration.v0_11.json"] {
            let functions = functions(file);
            assert_eq!(functions[Proxy::getVersionCall::SIGNATURE], returns::<Proxy::getVersionCall>());
            assert_eq!(functions[Proxy::eip712DomainCall::SIGNATURE], returns::<Proxy::eip712DomainCall>());
        }
    }

    #[test]
    fn every_binding_of_later_releases_is_in_their_abi_files() {
        use b::{DecryptionHandles, DecryptionUnified, DecryptionUnifiedMaterials, KMSVerifier, ProtocolConfigV13};
        use bindings::{GatewayConfigB, HostAclB, KMSGenerationB, ProtocolConfig};

        let handles = same_as_abi!("Decryption.v0_15.json", DecryptionHandles,
            calls: [], events: [PublicDecryptionRequest, UserDecryptionRequest]);
        assert_eq!(handles, DecryptionHandles::DecryptionHandlesEvents::SELECTORS.len());
        for file in ["Decryption.v0_14.json", "Decryption.v0_15.json"] {
            let request = same_as_abi!(file, DecryptionUnified, calls: [userDecryptionRequestCall], events: []);
            assert_eq!(request, DecryptionUnified::DecryptionUnifiedCalls::SELECTORS.len());
            let told = same_as_abi!(file, DecryptionUnifiedMaterials, calls: [], events: [UserDecryptionRequest]);
            assert_eq!(told, DecryptionUnifiedMaterials::DecryptionUnifiedMaterialsEvents::SELECTORS.len());
        }
        let told = same_as_abi!("Decryption.v0_15.json", DecryptionUnified, calls: [], events: [UserDecryptionRequest]);
        assert_eq!(told, DecryptionUnified::DecryptionUnifiedEvents::SELECTORS.len());

        let generation = same_as_abi!("KMSGeneration.host.v0_15.json", KMSGenerationB,
        calls: [
            keygenCall, crsgenRequestCall, abortKeygenCall, abortCrsgenCall, prepKeygenResponseCall,
            keygenResponseCall, crsgenResponseCall, isRequestDoneCall, getConsensusTxSendersCall,
            getCompletedKeyIdsCall, getCompletedCrsIdsCall, getKeyInfoCall, getKeyMaterialsCall, getCrsMaterialsCall,
            getKeyParamsTypeCall, getCrsParamsTypeCall, getActiveKeyIdCall, getActiveCrsIdCall, getKeyCounterCall,
            getCrsCounterCall,
        ],
        events: [
            PrepKeygenRequest, KeygenRequest, CrsgenRequest, AbortKeygen, AbortCrsgen, PrepKeygenResponse,
            KeygenResponse, ActivateKey, CrsgenResponse, ActivateCrs,
        ]);
        assert_eq!(
            generation,
            KMSGenerationB::KMSGenerationBCalls::SELECTORS.len()
                + KMSGenerationB::KMSGenerationBEvents::SELECTORS.len()
        );

        let protocol = same_as_abi!("ProtocolConfig.host.v0_15.json", ProtocolConfig,
        calls: [
            defineNewKmsContextAndEpochCall, defineNewEpochForCurrentKmsContextCall, destroyKmsContextCall,
            destroyKmsEpochCall, confirmKmsContextCreationCall, confirmEpochActivationCall,
            getCurrentKmsContextAndEpochCall, getCurrentKmsContextIdCall, getCurrentKmsContextIdCounterCall,
            isValidKmsContextCall, isLiveKmsContextCall, isValidEpochForContextCall, getKmsContextAnchorCall,
            getKmsNodesForContextCall, getKmsNodeForContextCall, isKmsTxSenderForContextCall,
            isKmsSignerForContextCall, getKmsSignersForContextCall, getPublicDecryptionThresholdForContextCall,
            getUserDecryptionThresholdForContextCall, getKmsGenThresholdForContextCall,
            getMpcThresholdForContextCall, getContextCreationPreviousTxSenderThresholdCall,
        ],
        events: [
            NewKmsContext, NewKmsEpoch, KmsContextDestroyed, KmsEpochDestroyed, KmsContextCreationConfirmation,
            EpochActivationConfirmation, ActivateEpoch,
        ]);
        assert_eq!(
            protocol,
            ProtocolConfig::ProtocolConfigCalls::SELECTORS.len()
                + ProtocolConfig::ProtocolConfigEvents::SELECTORS.len()
        );
        let older = same_as_abi!("ProtocolConfig.host.v0_13.json", ProtocolConfigV13,
            calls: [defineNewKmsContextCall], events: [NewKmsContext]);
        assert_eq!(
            older,
            ProtocolConfigV13::ProtocolConfigV13Calls::SELECTORS.len()
                + ProtocolConfigV13::ProtocolConfigV13Events::SELECTORS.len()
        );

        for file in ["KMSVerifier.host.v0_12.json", "KMSVerifier.host.v0_13.json"] {
            let verifier = same_as_abi!(file, KMSVerifier,
                calls: [getCurrentKmsContextIdCall, getSignersForKmsContextCall], events: []);
            assert_eq!(verifier, KMSVerifier::KMSVerifierCalls::SELECTORS.len());
        }

        let config = same_as_abi!("GatewayConfig.v0_15.json", GatewayConfigB,
            calls: [
                getKmsNodeCall, getKmsTxSendersCall, getKmsSignersCall, isKmsTxSenderCall, isKmsSignerCall,
                getCoprocessorCall, getCoprocessorTxSendersCall, getCoprocessorSignersCall,
                getCoprocessorMajorityThresholdCall, getKmsGenThresholdCall, getMpcThresholdCall,
                getCurrentKmsContextIdCall, isValidKmsContextCall, isKmsTxSenderForContextCall,
                isKmsSignerForContextCall, getKmsNodeForContextCall, getKmsTxSendersForContextCall,
                getKmsSignersForContextCall, getPublicDecryptionThresholdForContextCall,
                getUserDecryptionThresholdForContextCall, getHostChainsCall, isHostChainRegisteredCall,
                isHostChainDisabledCall, updateKmsContextCall, destroyKmsContextCall, ownerCall,
            ],
            events: []);
        assert_eq!(config, GatewayConfigB::GatewayConfigBCalls::SELECTORS.len());

        let acl = same_as_abi!("ACL.host.v0_15.json", HostAclB,
            calls: [decryptionSignatureInvalidatedBeforeCall, invalidateDecryptionSignaturesBeforeCall],
            events: []);
        assert_eq!(acl, HostAclB::HostAclBCalls::SELECTORS.len());
    }

    /// What is read or written with one binding in several releases is the same in all of them.
    #[test]
    fn what_later_releases_share_with_generation_a_is_unchanged_there() {
        for release in ["v0_12", "v0_13", "v0_14", "v0_15"] {
            same_as_abi!(&format!("Decryption.{release}.json"), Decryption,
            calls: [
                publicDecryptionRequestCall, userDecryptionRequestCall, delegatedUserDecryptionRequestCall,
                publicDecryptionResponseCall, userDecryptionResponseCall, isDecryptionDoneCall,
                getDecryptionConsensusTxSendersCall,
            ],
            events: [
                PublicDecryptionRequest, UserDecryptionRequest, PublicDecryptionResponseCall, PublicDecryptionResponse,
                UserDecryptionResponse, UserDecryptionResponseThresholdReached,
            ]);
            same_as_abi!(&format!("GatewayConfig.{release}.json"), GatewayConfig,
                calls: [
                    getKmsNodeCall, getKmsTxSendersCall, getKmsSignersCall, getCoprocessorCall,
                    getCoprocessorTxSendersCall, getCoprocessorSignersCall, getCoprocessorMajorityThresholdCall,
                    getHostChainsCall,
                ],
                events: []);
            use bindings::GatewayConfigB;
            same_as_abi!(&format!("GatewayConfig.{release}.json"), GatewayConfigB,
                calls: [
                    getCurrentKmsContextIdCall, getKmsNodeForContextCall, getKmsTxSendersForContextCall,
                    getKmsSignersForContextCall, getPublicDecryptionThresholdForContextCall,
                    getUserDecryptionThresholdForContextCall,
                ],
                events: []);
            let has_validity = functions(&format!("GatewayConfig.{release}.json"))
                .contains_key(GatewayConfigB::isValidKmsContextCall::SIGNATURE);
            assert_eq!(has_validity, release != "v0_12", "{release}");
        }
        for release in ["v0_13", "v0_15"] {
            same_as_abi!(&format!("KMSGeneration.host.{release}.json"), KMSGeneration,
                calls: [prepKeygenResponseCall, keygenResponseCall, crsgenResponseCall],
                events: [PrepKeygenResponse, KeygenResponse, ActivateKey, CrsgenResponse, ActivateCrs]);
            use bindings::KMSGenerationB;
            same_as_abi!(&format!("KMSGeneration.host.{release}.json"), KMSGenerationB,
                calls: [isRequestDoneCall, getConsensusTxSendersCall],
                events: [PrepKeygenRequest, KeygenRequest, CrsgenRequest, AbortKeygen, AbortCrsgen]);
            use bindings::ProtocolConfig;
            same_as_abi!(&format!("ProtocolConfig.host.{release}.json"), ProtocolConfig,
                calls: [
                    getCurrentKmsContextIdCall, isValidKmsContextCall, getKmsNodesForContextCall,
                    getKmsNodeForContextCall, isKmsTxSenderForContextCall, getKmsSignersForContextCall,
                    getKmsGenThresholdForContextCall, getMpcThresholdForContextCall,
                ],
                events: [KmsContextDestroyed]);
        }
        same_as_abi!("CiphertextCommits.v0_15.json", CiphertextCommits,
            calls: [addCiphertextMaterialCall, getSnsCiphertextMaterialsCall, isCiphertextMaterialAddedCall],
            events: []);
        same_as_abi!("ACL.host.v0_15.json", HostAcl,
            calls: [
                isAllowedCall, isAllowedForDecryptionCall, isHandleDelegatedForUserDecryptionCall, allowCall,
                allowForDecryptionCall, delegateForUserDecryptionCall,
            ],
            events: []);
        for file in ["Decryption.v0_15.json", "KMSGeneration.host.v0_15.json", "KMSGeneration.host.v0_13.json"] {
            let functions = functions(file);
            assert_eq!(functions[Proxy::getVersionCall::SIGNATURE], returns::<Proxy::getVersionCall>());
            assert_eq!(functions[Proxy::eip712DomainCall::SIGNATURE], returns::<Proxy::eip712DomainCall>());
        }
        for file in ["ProtocolConfig.host.v0_13.json", "ProtocolConfig.host.v0_15.json", "GatewayConfig.v0_15.json"] {
            assert!(functions(file).contains_key(Proxy::getVersionCall::SIGNATURE), "{file}");
        }
        for file in ["Decryption.v0_11.json", "KMSGeneration.host.v0_15.json", "ProtocolConfig.host.v0_15.json"] {
            same_as_abi!(file, Proxy, calls: [], events: [Upgraded]);
        }
        assert!(!functions("ProtocolConfig.host.v0_15.json").contains_key(Proxy::eip712DomainCall::SIGNATURE));
    }
}
