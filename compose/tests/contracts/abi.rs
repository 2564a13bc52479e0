//! The artefacts are what they claim to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct File {
    abi: Vec<Value>,
}

/// A contract: the folder of its artefact, its name, the real ABI's file, and what it has that the real one has not (set-up, and the
/// host chain's rights in its owner's hands).
type Contract = (&'static str, &'static str, &'static str, &'static [&'static str]);

const HOST_RIGHTS: &[&str] = &["disallow", "disallowForDecryption", "setDelegation"];

const CONTRACTS: [Contract; 13] = [
    ("a", "ACL", "ACL.host.v0_11", HOST_RIGHTS),
    ("a", "CiphertextCommits", "CiphertextCommits.v0_11", &[]),
    ("a", "Decryption", "Decryption.v0_11", &[]),
    ("a", "GatewayConfig", "GatewayConfig.v0_11", &["initialize"]),
    ("a", "KMSGeneration", "KMSGeneration.v0_11", &[]),
    ("a", "MultichainACL", "MultichainACL.v0_11", &[]),
    ("b", "ACL", "ACL.host.v0_15", HOST_RIGHTS),
    ("b", "CiphertextCommits", "CiphertextCommits.v0_15", &[]),
    ("b", "Decryption", "Decryption.v0_15", &[]),
    // Behind the same source, but with the events of both releases in its ABI: it does not emit those of v0.15.
    ("b", "DecryptionV14", "Decryption.v0_15", &[]),
    ("b", "GatewayConfig", "GatewayConfig.v0_15", &["initialize"]),
    ("b", "KMSGeneration", "KMSGeneration.host.v0_15", &[]),
    ("b", "ProtocolConfig", "ProtocolConfig.host.v0_15", &[]),
];

/// What a connector and its tests do not meet: upgrades, initialisers, changes of owner, custodians, the pausing of all contracts at
/// once, revoking, the host chain's own granting.
const LEFT_OUT: &[&str] = &[
    "UPGRADE_INTERFACE_VERSION",
    "proxiableUUID",
    "upgradeToAndCall",
    "initializeFromEmptyProxy",
    "reinitializeV2",
    "reinitializeV3",
    "reinitializeV4",
    "acceptOwnership",
    "renounceOwnership",
    "transferOwnership",
    "pendingOwner",
    "getCustodian",
    "getCustodianSigners",
    "getCustodianTxSenders",
    "isCustodianSigner",
    "isCustodianTxSender",
    "updateCustodians",
    "getProtocolMetadata",
    "pauseAllGatewayContracts",
    "unpauseAllGatewayContracts",
    "revokeUserDecryptionDelegation",
    "getDelegateUserDecryptionConsensusTxSenders",
    "getRevokeUserDecryptionDelegationConsensusTxSenders",
    "Upgraded",
    "EIP712DomainChanged",
    "InitializeGatewayConfig",
    "OwnershipTransferStarted",
    "UpdateCustodians",
    "PauseAllGatewayContracts",
    "UnpauseAllGatewayContracts",
    "RevokeUserDecryptionDelegation",
    "RevokeUserDecryptionDelegationConsensusReached",
    // Generation (b): migrations, replicas on other chains, upgrades of coprocessors.
    "reinitializeV6",
    "reinitializeV7",
    "reinitializeV9",
    "initializeFromCanonical",
    "mirrorKmsContextAndEpoch",
    "mirrorKmsEpoch",
    "MirrorKmsContextAndEpoch",
    "MirrorKmsEpoch",
    "proposeCoprocessorUpgrade",
    "CoprocessorUpgradeProposed",
];

#[test]
fn functions_events_and_errors_are_those_of_the_real_abi() {
    for (folder, contract, real, own) in CONTRACTS {
        let ours = entries(&artifact(folder, contract));
        let real = entries(&real_abi(real));
        for (name, entry) in &ours {
            if own.contains(&plain(name)) {
                assert!(!real.contains_key(name), "{folder}/{contract} has {name} in the real ABI too");
                continue;
            }
            let wanted = real.get(name).unwrap_or_else(|| panic!("{folder}/{contract} has no {name} in the real ABI"));
            assert_eq!(entry, wanted, "{folder}/{contract}: {name}");
        }
    }
}

#[test]
fn every_function_and_event_that_a_connector_meets_is_there() {
    for (folder, contract, real, _) in CONTRACTS.into_iter().filter(|(_, contract, ..)| *contract != "ACL") {
        let ours: BTreeSet<String> = entries(&artifact(folder, contract)).into_keys().collect();
        for name in entries(&real_abi(real)).into_keys() {
            if !name.starts_with("error") && !LEFT_OUT.contains(&plain(&name)) {
                assert!(ours.contains(&name), "{folder}/{contract} lacks {name}");
            }
        }
    }
    const BOTH: [&str; 3] = [
        "function isAllowed(bytes32,address)",
        "function isAllowedForDecryption(bytes32)",
        "function isHandleDelegatedForUserDecryption(address,address,address,bytes32)",
    ];
    const ONLY_B: [&str; 2] = [
        "function decryptionSignatureInvalidatedBefore(address)",
        "function invalidateDecryptionSignaturesBefore(uint256)",
    ];
    for (folder, wanted) in [("a", BOTH.to_vec()), ("b", [&BOTH[..], &ONLY_B].concat())] {
        let acl: BTreeSet<String> = entries(&artifact(folder, "ACL")).into_keys().collect();
        for name in wanted {
            assert!(acl.contains(name), "{folder}/ACL lacks {name}");
        }
    }
}

#[test]
fn every_error_of_a_response_is_declared_by_the_contract_that_raises_it() {
    #[derive(Deserialize)]
    struct Vectors {
        errors: Vec<Vector>,
    }
    #[derive(Deserialize)]
    struct Vector {
        error: String,
        generations: Vec<String>,
        raised_by: Vec<String>,
    }
    let path = workspace().join("chain/vectors/errors.json");
    let vectors: Vectors = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for vector in vectors.errors {
        let name = vector.error.split('(').next().unwrap();
        for (function, folder) in
            vector.raised_by.iter().flat_map(|by| vector.generations.iter().map(move |folder| (by, folder)))
        {
            if folder == "b" && function.ends_with("(a only)") {
                continue;
            }
            let function = function.split(' ').next().unwrap();
            if folder == "a" && function.starts_with("confirm") {
                continue;
            }
            let contract = match function {
                "publicDecryptionResponse" | "userDecryptionResponse" => "Decryption",
                // A context's errors come from `ProtocolConfig`, through a caller that does not declare them.
                "prepKeygenResponse" | "keygenResponse" | "crsgenResponse" if name == "InvalidKmsContext" => {
                    "ProtocolConfig"
                }
                "prepKeygenResponse" | "keygenResponse" | "crsgenResponse" => "KMSGeneration",
                "confirmKmsContextCreation" | "confirmEpochActivation" => "ProtocolConfig",
                _ => continue,
            };
            let declared = entries(&artifact(folder, contract));
            let found = declared.keys().any(|entry| entry.starts_with(&format!("error {name}(")));
            assert!(found, "{folder}/{contract} does not declare {}", vector.error);
        }
    }
}

#[test]
fn artefacts_are_what_the_sources_compile_to() {
    let source = workspace().join("compose/contracts");
    // The compiler is fetched into a copy, so that a test writes nothing beside the sources.
    let copy = tempfile::tempdir().unwrap();
    for folder in ["src", "artifacts"].iter().flat_map(|top| ["shared", "a", "b"].map(|one| format!("{top}/{one}"))) {
        let folder = folder.as_str();
        std::fs::create_dir_all(copy.path().join(folder)).unwrap();
        for file in std::fs::read_dir(source.join(folder)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(folder).join(file.file_name())).unwrap();
        }
    }
    for file in ["package.json", "package-lock.json", ".npmrc", "build.mjs"] {
        std::fs::copy(source.join(file), copy.path().join(file)).unwrap();
    }
    let npm = |arguments: &[&str]| Command::new("npm").args(arguments).current_dir(copy.path()).output();
    let installed = match npm(&["ci", "--no-fund", "--no-audit"]) {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("not checked, npm cannot fetch the compiler: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(error) => {
            eprintln!("not checked, there is no npm: {error}");
            false
        }
    };
    if !installed {
        return;
    }

    let checked = npm(&["run", "--silent", "check"]).unwrap();

    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_lock_file_pins_by_content_and_names_no_host() {
    let lock = std::fs::read_to_string(workspace().join("compose/contracts/package-lock.json")).unwrap();
    let lock: Value = serde_json::from_str(&lock).unwrap();
    for (path, package) in lock["packages"].as_object().unwrap() {
        assert!(package.get("resolved").is_none(), "{path} names where it was fetched");
        assert!(path.is_empty() || package["integrity"].is_string(), "{path} is not pinned");
    }
}

/// `kind name(types)` of every entry → inputs (name, type, indexed) and outputs, which makes names and return types count.
fn entries(path: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let abi = match serde_json::from_str::<File>(&text) {
        Ok(file) => file.abi,
        Err(_) => serde_json::from_str(&text).unwrap(),
    };
    let named = abi.into_iter().filter(|entry| entry["name"].is_string());
    named.map(|entry| (signature(&entry), shape(&entry))).collect()
}

fn signature(entry: &Value) -> String {
    let types: Vec<String> = entry["inputs"].as_array().unwrap().iter().map(canonical).collect();
    format!("{} {}({})", entry["type"].as_str().unwrap(), entry["name"].as_str().unwrap(), types.join(","))
}

fn canonical(parameter: &Value) -> String {
    let kind = parameter["type"].as_str().unwrap();
    match kind.strip_prefix("tuple") {
        None => kind.to_owned(),
        Some(suffix) => {
            let fields: Vec<String> = parameter["components"].as_array().unwrap().iter().map(canonical).collect();
            format!("({}){suffix}", fields.join(","))
        }
    }
}

fn shape(entry: &Value) -> Value {
    let parameters = |key: &str, named: bool| -> Vec<Value> {
        let parameters = entry[key].as_array().cloned().unwrap_or_default();
        parameters.iter().map(|parameter| parameter_shape(parameter, named)).collect()
    };
    // Names of arguments and results of functions reach no wire; a public mapping has none.
    let is_function = entry["type"] == "function";
    let mutability = entry["stateMutability"].as_str().unwrap_or_default();
    serde_json::json!({
        "inputs": parameters("inputs", !is_function),
        "outputs": parameters("outputs", false),
        "stateMutability": mutability,
        "anonymous": entry["anonymous"].as_bool().unwrap_or(false),
    })
}

fn parameter_shape(parameter: &Value, named: bool) -> Value {
    let fields = parameter["components"].as_array().cloned().unwrap_or_default();
    let fields: Vec<Value> = fields.iter().map(|field| parameter_shape(field, true)).collect();
    serde_json::json!({
        "name": if named { parameter["name"].clone() } else { Value::Null },
        "type": canonical(parameter),
        "indexed": parameter["indexed"].as_bool().unwrap_or(false),
        "fields": fields,
    })
}

/// The name in `kind name(types)`.
fn plain(entry: &str) -> &str {
    let name = entry.split('(').next().unwrap();
    name.split(' ').nth(1).unwrap()
}

fn real_abi(file: &str) -> PathBuf {
    workspace().join("chain/abi").join(format!("{file}.json"))
}

fn artifact(folder: &str, contract: &str) -> PathBuf {
    workspace().join("compose/contracts/artifacts").join(folder).join(format!("{contract}.json"))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
