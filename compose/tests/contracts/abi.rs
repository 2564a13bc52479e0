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

/// What each contract has that the real one has not: set-up, and the host chain's rights in its owner's hands.
const OUR_OWN: [(&str, &[&str]); 7] = [
    ("ACL", &["disallow", "disallowForDecryption", "setDelegation"]),
    ("CiphertextCommits", &[]),
    ("Decryption", &[]),
    ("GatewayConfig", &["initialize"]),
    ("KMSGeneration", &[]),
    ("MultichainACL", &[]),
    ("Proxy", &[]),
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
];

#[test]
fn functions_events_and_errors_are_those_of_the_real_abi() {
    for (contract, own) in OUR_OWN {
        if contract == "Proxy" {
            continue;
        }
        let ours = entries(&artifacts().join(format!("{contract}.json")));
        let real = entries(&real_abi(contract));
        for (name, entry) in &ours {
            let plain = name.split('(').next().unwrap().split(' ').nth(1).unwrap();
            if own.contains(&plain) {
                assert!(!real.contains_key(name), "{contract} has {name} in the real ABI too");
                continue;
            }
            let wanted = real.get(name).unwrap_or_else(|| panic!("{contract} has no {name} in the real ABI"));
            assert_eq!(entry, wanted, "{contract}: {name}");
        }
    }
}

#[test]
fn every_function_and_event_that_a_connector_meets_is_there() {
    for contract in ["CiphertextCommits", "Decryption", "GatewayConfig", "KMSGeneration", "MultichainACL"] {
        let ours: BTreeSet<String> = entries(&artifacts().join(format!("{contract}.json"))).into_keys().collect();
        for name in entries(&real_abi(contract)).into_keys() {
            let plain = name.split('(').next().unwrap().split(' ').nth(1).unwrap();
            if !name.starts_with("error") && !LEFT_OUT.contains(&plain) {
                assert!(ours.contains(&name), "{contract} lacks {name}");
            }
        }
    }
    let acl: BTreeSet<String> = entries(&artifacts().join("ACL.json")).into_keys().collect();
    for name in [
        "function isAllowed(bytes32,address)",
        "function isAllowedForDecryption(bytes32)",
        "function isHandleDelegatedForUserDecryption(address,address,address,bytes32)",
    ] {
        assert!(acl.contains(name), "ACL lacks {name}");
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
    for vector in vectors.errors.iter().filter(|vector| vector.generations.contains(&"a".to_owned())) {
        let name = vector.error.split('(').next().unwrap();
        for function in &vector.raised_by {
            let contract = match function.split(' ').next().unwrap() {
                "publicDecryptionResponse" | "userDecryptionResponse" => "Decryption",
                "prepKeygenResponse" | "keygenResponse" | "crsgenResponse" => "KMSGeneration",
                _ => continue,
            };
            let declared = entries(&artifacts().join(format!("{contract}.json")));
            let found = declared.keys().any(|entry| entry.starts_with(&format!("error {name}(")));
            assert!(found, "{contract} does not declare {}", vector.error);
        }
    }
}

#[test]
fn artefacts_are_what_the_sources_compile_to() {
    let source = workspace().join("compose/contracts");
    // The compiler is fetched into a copy, so that a test writes nothing beside the sources.
    let copy = tempfile::tempdir().unwrap();
    for folder in ["src", "artifacts"] {
        std::fs::create_dir(copy.path().join(folder)).unwrap();
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

fn real_abi(contract: &str) -> PathBuf {
    let file = if contract == "ACL" { "ACL.host.v0_11.json".to_owned() } else { format!("{contract}.v0_11.json") };
    workspace().join("chain/abi").join(file)
}

fn artifacts() -> PathBuf {
    workspace().join("compose/contracts/artifacts")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
