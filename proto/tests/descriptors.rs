//! The merged `.proto` files against KMS Core's own descriptors of the oldest and the newest version.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind};
use serde_json::Value;

/// Messages whose fields changed so that one definition cannot serve both versions; the newer shape was taken. The
/// connector sends none of the changed fields to the older version.
const NEWER_SHAPE_TAKEN: &[&str] = &[
    "kms.v1.StandardKeySetConfig",
    "kms.v1.KeySetAddedInfo",
    "kms.v1.CustodianContext",
    "kms.v1.NewCustodianContextRequest",
    "kms.v1.CustodianRecoveryOutput",
    "kms.v1.OperatorBackupOutput",
    "kms.v1.RecoveryRequest",
];

/// Messages of KMS Core's test builds, whose RPCs are left out.
const TEST_BUILDS_ONLY: &[&str] = &["kms.v1.PartialKeyGenPreprocParams", "kms.v1.PartialKeyGenPreprocRequest"];

/// Fields that neither compared version has: 0.13.0 to 0.13.3 do.
const IN_BETWEEN: &[(&str, u32)] = &[("kms.v1.InitRequest", 2), ("kms.v1.InitiateResharingRequest", 8)];

const VERSIONS: [&str; 2] = ["v0.12.4", "HEAD"];

fn messages() -> Value {
    serde_json::from_str(include_str!("../vectors/kms-core-messages.json")).unwrap()
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(kms_proto::FILE_DESCRIPTOR_SET).unwrap()
}

fn objects<'a>(version: &'a Value, section: &str) -> impl Iterator<Item = (&'a String, &'a Vec<Value>)> {
    version[section].as_object().unwrap().iter().map(|(name, entries)| (name, entries.as_array().unwrap()))
}

fn label(field: &FieldDescriptor) -> &'static str {
    match field.cardinality() {
        _ if field.is_map() => "map",
        Cardinality::Repeated => "repeated",
        _ if field.containing_oneof().is_some() => "optional",
        _ => "singular",
    }
}

fn type_name(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) if field.is_map() => {
            let value = message.map_entry_value_field();
            format!("map<{}, {}>", type_name(&message.map_entry_key_field()), type_name(&value))
        }
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(enumeration) => enumeration.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

#[test]
fn every_field_of_every_version_has_its_number_type_and_label() {
    let (all, pool) = (messages(), pool());
    for version in VERSIONS {
        for (name, fields) in objects(&all["versions"][version], "messages") {
            let older_shape = version != "HEAD" && NEWER_SHAPE_TAKEN.contains(&name.as_str());
            if older_shape || TEST_BUILDS_ONLY.contains(&name.as_str()) {
                continue;
            }
            let message = pool.get_message_by_name(name).unwrap_or_else(|| panic!("{version}: {name} is missing"));
            for expected in fields {
                let number = u32::try_from(expected["number"].as_u64().unwrap()).unwrap();
                let field =
                    message.get_field(number).unwrap_or_else(|| panic!("{version}: {name} lacks field {number}"));
                assert_eq!(field.name(), expected["name"], "{version}: {name}.{number}");
                assert_eq!(type_name(&field), expected["type"], "{version}: {name}.{number}");
                assert_eq!(label(&field), expected["label"], "{version}: {name}.{number}");
            }
        }
    }
}

#[test]
fn no_field_is_invented() {
    let (all, pool) = (messages(), pool());
    let known: BTreeSet<(String, u32)> = VERSIONS
        .iter()
        .flat_map(|version| objects(&all["versions"][version], "messages"))
        .flat_map(|(name, fields)| fields.iter().map(move |field| (name.clone(), field["number"].as_u64().unwrap())))
        .map(|(name, number)| (name, u32::try_from(number).unwrap()))
        .chain(IN_BETWEEN.iter().map(|(name, number)| ((*name).to_owned(), *number)))
        .collect();
    for message in pool.all_messages().filter(|message| !message.is_map_entry()) {
        for field in message.fields() {
            assert!(known.contains(&(message.full_name().to_owned(), field.number())), "{}", field.full_name());
        }
    }
}

/// A value's name without its enum's prefix, in the form that upstream's and our spelling share.
fn bare(name: &str, enum_name: &str) -> String {
    let squeeze = |text: &str| text.replace('_', "").to_lowercase();
    let name = squeeze(name);
    name.strip_prefix(&squeeze(enum_name)).unwrap_or(&name).to_owned()
}

#[test]
fn every_enum_value_of_every_version_has_its_number() {
    let (all, pool) = (messages(), pool());
    for version in VERSIONS {
        for (name, values) in objects(&all["versions"][version], "enums") {
            let enumeration = pool.get_enum_by_name(name).unwrap_or_else(|| panic!("{version}: {name} is missing"));
            for expected in values {
                let number = i32::try_from(expected["number"].as_i64().unwrap()).unwrap();
                let value = enumeration.get_value(number).unwrap_or_else(|| panic!("{version}: {name} lacks {number}"));
                let expected = bare(expected["name"].as_str().unwrap(), enumeration.name());
                assert_eq!(bare(value.name(), enumeration.name()), expected, "{version}: {name} = {number}");
            }
        }
    }
}

#[test]
fn every_rpc_of_every_version_has_its_path_and_messages() {
    let (all, pool) = (messages(), pool());
    for version in VERSIONS {
        for (name, rpcs) in objects(&all["versions"][version], "services") {
            let service = pool.get_service_by_name(name).unwrap_or_else(|| panic!("{version}: {name} is missing"));
            for expected in rpcs {
                let rpc = expected["rpc"].as_str().unwrap();
                let method = service.methods().find(|method| method.name() == rpc);
                let method = method.unwrap_or_else(|| panic!("{version}: {name} lacks {rpc}"));
                assert_eq!(format!("/{}/{}", service.full_name(), method.name()), expected["path"].as_str().unwrap());
                assert_eq!(method.input().full_name(), expected["request"], "{version}: {rpc}");
                assert_eq!(method.output().full_name(), expected["response"], "{version}: {rpc}");
                assert!(!method.is_client_streaming() && !method.is_server_streaming());
            }
        }
    }
}

#[test]
fn the_service_names_are_those_of_the_wire() {
    let names: Vec<_> = pool().services().map(|service| service.full_name().to_owned()).collect();
    assert_eq!(names, [kms_proto::CORE_SERVICE_NAME, "metastore_status.v1.MetaStoreStatusService"]);
}
