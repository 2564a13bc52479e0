//! `docs/operations-matrix.md`: one row per operation, made from the code that carries it out.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use alloy::sol_types::{SolCall, SolEvent};
use kms_chain::contracts::{Decryption, KMSGeneration, b};
use kms_chain::event::ContractSet;
use kms_chain::release::Release;
use kms_processor::check::{Check, Form};
use kms_schemas::codes::Code;
use kms_schemas::identity::Kind;

use crate::markdown::{head, row, sentence};
use crate::repository::{document, hold, none, read, root};
use crate::rust_source::without_tests;

/// What is asked for, and where it is carried out.
struct Operation {
    form: Form,
    kind: Kind,
    name: &'static str,
    /// File in `processor/src/operation/`, and the function in it where it holds several.
    file: &'static str,
    function: Option<&'static str>,
    events: Vec<(&'static str, B256)>,
}

const fn event<E: SolEvent>() -> (&'static str, B256) {
    (E::SIGNATURE, E::SIGNATURE_HASH)
}

fn operation(form: Form) -> Operation {
    let (kind, name, file, function, events) = match form {
        Form::PublicDecryption => {
            let events = vec![event::<Decryption::PublicDecryptionRequest>()];
            (Kind::PublicDecryption, "public decryption, with ciphertexts", "public_decryption", None, events)
        }
        Form::PublicDecryptionHandles => {
            let events = vec![event::<b::DecryptionHandles::PublicDecryptionRequest>()];
            (Kind::PublicDecryption, "public decryption, handles only", "public_decryption", None, events)
        }
        Form::UserDecryption => {
            let events = vec![event::<Decryption::UserDecryptionRequest>()];
            (Kind::UserDecryption, "user decryption, direct or delegated", "user_decryption", None, events)
        }
        Form::UserDecryptionHandles => {
            let events = vec![event::<b::DecryptionHandles::UserDecryptionRequest>()];
            let name = "user decryption, direct or delegated, handles only";
            (Kind::UserDecryption, name, "user_decryption", None, events)
        }
        Form::UnifiedUserDecryption => {
            let events = vec![
                event::<b::DecryptionUnifiedMaterials::UserDecryptionRequest>(),
                event::<b::DecryptionUnified::UserDecryptionRequest>(),
            ];
            (Kind::UserDecryption, "user decryption, unified", "user_decryption", None, events)
        }
        Form::PrepKeygen => {
            let events =
                vec![event::<KMSGeneration::PrepKeygenRequest>(), event::<b::KMSGeneration::PrepKeygenRequest>()];
            (Kind::PrepKeygen, "preprocessing of a key", "prep_keygen", None, events)
        }
        Form::Keygen => {
            let events = vec![event::<KMSGeneration::KeygenRequest>(), event::<b::KMSGeneration::KeygenRequest>()];
            (Kind::Keygen, "key generation", "keygen", None, events)
        }
        Form::Crsgen => {
            let events = vec![event::<KMSGeneration::CrsgenRequest>(), event::<b::KMSGeneration::CrsgenRequest>()];
            (Kind::Crsgen, "CRS generation", "crsgen", None, events)
        }
        Form::AbortKeygen => {
            let events = vec![event::<b::KMSGeneration::AbortKeygen>()];
            (Kind::AbortKeygen, "abort of a key generation", "abort", Some("keygen"), events)
        }
        Form::AbortCrsgen => {
            let events = vec![event::<b::KMSGeneration::AbortCrsgen>()];
            (Kind::AbortCrsgen, "abort of a CRS generation", "abort", Some("crsgen"), events)
        }
        Form::NewKmsContext => {
            let events =
                vec![event::<b::ProtocolConfigV13::NewKmsContext>(), event::<b::ProtocolConfig::NewKmsContext>()];
            (Kind::NewKmsContext, "new context", "context", None, events)
        }
        Form::NewKmsEpoch => {
            (Kind::NewKmsEpoch, "new epoch", "epoch", None, vec![event::<b::ProtocolConfig::NewKmsEpoch>()])
        }
        Form::KmsContextDestroyed => {
            let events = vec![event::<b::ProtocolConfig::KmsContextDestroyed>()];
            (Kind::KmsContextDestroyed, "end of a context", "destroy", Some("context"), events)
        }
        Form::KmsEpochDestroyed => {
            let events = vec![event::<b::ProtocolConfig::KmsEpochDestroyed>()];
            (Kind::KmsEpochDestroyed, "end of an epoch", "destroy", Some("epoch"), events)
        }
        Form::PrssInit => {
            (Kind::PrssInit, "PRSS initialisation", "prss_init", None, vec![event::<KMSGeneration::PRSSInit>()])
        }
        Form::KeyReshareSameSet => {
            let events = vec![event::<KMSGeneration::KeyReshareSameSet>()];
            (Kind::KeyReshareSameSet, "resharing within the same nodes", "key_reshare", None, events)
        }
    };
    Operation { form, kind, name, file, function, events }
}

/// Signature of the function that carries the answer.
const fn response(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::PublicDecryption => Decryption::publicDecryptionResponseCall::SIGNATURE,
        Kind::UserDecryption => Decryption::userDecryptionResponseCall::SIGNATURE,
        Kind::PrepKeygen => KMSGeneration::prepKeygenResponseCall::SIGNATURE,
        Kind::Keygen => KMSGeneration::keygenResponseCall::SIGNATURE,
        Kind::Crsgen => KMSGeneration::crsgenResponseCall::SIGNATURE,
        Kind::NewKmsContext => b::ProtocolConfig::confirmKmsContextCreationCall::SIGNATURE,
        Kind::NewKmsEpoch => b::ProtocolConfig::confirmEpochActivationCall::SIGNATURE,
        Kind::AbortKeygen
        | Kind::AbortCrsgen
        | Kind::KmsContextDestroyed
        | Kind::KmsEpochDestroyed
        | Kind::PrssInit
        | Kind::KeyReshareSameSet => return None,
    })
}

/// First topics of what a release asks for, on all of its chains.
fn asked_in(release: Release) -> BTreeSet<B256> {
    let [decryption, generation, protocol] = [1, 2, 3].map(Address::repeat_byte);
    let mut topics = ContractSet::gateway(release, decryption).request_topics();
    if release.key_management_on_host() {
        topics.extend(ContractSet::host(release, generation, protocol).request_topics());
    } else {
        topics.extend(ContractSet::gateway_a(decryption, generation).with_release(release).request_topics());
    }
    topics.into_iter().collect()
}

fn releases_of(topic: B256) -> Vec<Release> {
    Release::ALL.into_iter().filter(|release| asked_in(*release).contains(&topic)).collect()
}

/// `v0.13 to v0.15`, or one.
fn span(releases: &[Release]) -> String {
    match releases {
        [] => "no release".to_owned(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first} to {last}"),
    }
}

/// The part of an operation's file that is about it.
fn source(operation: &Operation) -> String {
    let file = root().join(format!("processor/src/operation/{}.rs", operation.file));
    let whole = read(&file);
    let source = without_tests(&whole);
    let Some(function) = operation.function else { return source.to_owned() };
    let begin =
        source.find(&format!("pub async fn {function}(")).unwrap_or_else(|| panic!("no {function} in {file:?}"));
    let rest = &source[begin..];
    rest.find("\n}\n").map_or(rest, |end| &rest[..end]).to_owned()
}

/// The calls of KMS Core in a source, in order: methods of its client.
fn core_calls(source: &str) -> Vec<String> {
    let code: String = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code: String = code.split_whitespace().collect();
    let mut calls: Vec<String> = Vec::new();
    for opening in ["client().", "client."] {
        for (at, _) in code.match_indices(opening) {
            let rest = &code[at + opening.len()..];
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let call = camel(&name);
            if rest[name.len()..].starts_with('(') && name != "clone" && !calls.contains(&call) {
                calls.push(call);
            }
        }
    }
    calls
}

/// `public_decrypt` is `PublicDecrypt`.
fn camel(name: &str) -> String {
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('_').filter(|word| !word.is_empty()).map(capital).collect()
}

/// Codes by the name of their constant.
fn constants() -> BTreeMap<String, &'static Code> {
    let source = read(&root().join("processor/src/codes.rs"));
    let mut found = BTreeMap::new();
    for line in source.lines() {
        let Some((name, rest)) = line.trim().split_once(" = \"KC-") else { continue };
        let number = rest.get(..4).unwrap_or_default();
        let code = kms_processor::codes::CODES.iter().find(|code| code.code == format!("KC-{number}"));
        found.insert(name.to_owned(), code.unwrap_or_else(|| panic!("{name} is in no table")));
    }
    assert_eq!(found.len(), kms_processor::codes::CODES.len(), "codes.rs is written otherwise than this test reads");
    found
}

/// Codes that a source names.
fn codes_in(source: &str, constants: &BTreeMap<String, &'static Code>) -> BTreeSet<&'static str> {
    source
        .match_indices("codes::")
        .filter_map(|(at, opening)| {
            let rest = &source[at + opening.len()..];
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_' || c.is_ascii_digit()).collect();
            constants.get(&name).map(|code| code.code)
        })
        .collect()
}

fn joined(items: impl IntoIterator<Item = impl ToString>) -> String {
    let all: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if all.is_empty() { "–".to_owned() } else { all.join("<br>") }
}

#[test]
fn the_operations_matrix_is_what_the_code_does() {
    let constants = constants();
    let mut table =
        head(&["operation", "event (releases)", "checks", "calls of KMS Core", "answer on chain", "own codes"]);
    for operation in Form::ALL.map(operation) {
        let source = source(&operation);
        let events = operation.events.iter().map(|(signature, topic)| {
            let name = signature.split('(').next().unwrap_or_default();
            format!("`{name}` `{}…` ({})", &topic.to_string()[..10], span(&releases_of(*topic)))
        });
        let checks: Vec<&str> = operation.form.checks().iter().map(|check| check.name()).collect();
        let calls = core_calls(&source).into_iter().map(|call| format!("`{call}`"));
        let answer =
            response(operation.kind).map_or("none", |signature| signature.split('(').next().unwrap_or_default());
        table += &row([
            operation.name,
            &joined(events),
            &joined(checks),
            &joined(calls),
            &(if answer == "none" { answer.to_owned() } else { format!("`{answer}`") }),
            &joined(codes_in(&source, &constants)),
        ]);
    }
    hold(&document("operations-matrix.md"), "operations", &table);
}

#[test]
fn the_table_of_checks_is_what_the_code_checks() {
    let meaning: BTreeMap<&str, &Code> = kms_processor::codes::CODES.iter().map(|code| (code.code, code)).collect();
    let mut table = head(&["check", "what must hold", "otherwise"]);
    for check in Check::ALL {
        let codes = check.codes().iter().map(|(code, budget)| {
            let name = meaning.get(code).unwrap_or_else(|| panic!("{code} is in no table")).name;
            let waits = budget.map_or_else(String::new, |budget| format!(", after `{}`", budget.key()));
            format!("{code} `{name}`{waits}")
        });
        table += &row([check.name(), &sentence(check.text()), &joined(codes)]);
    }
    hold(&document("operations-matrix.md"), "checks", &table);
}

#[test]
fn every_event_that_is_asked_for_is_in_the_matrix_and_no_other() {
    let listed: BTreeSet<B256> =
        Form::ALL.iter().flat_map(|form| operation(*form).events).map(|(_, topic)| topic).collect();
    let asked: BTreeSet<B256> = Release::ALL.into_iter().flat_map(asked_in).collect();
    assert_eq!(listed, asked);
}

#[test]
fn every_operation_calls_kms_core_and_is_answered_where_the_chain_takes_an_answer() {
    let mut complaints = Vec::new();
    for operation in Form::ALL.map(operation) {
        if core_calls(&source(&operation)).is_empty() {
            complaints.push(format!("no call of KMS Core was found for {}", operation.name));
        }
        if response(operation.kind).is_some() != operation.kind.has_answer() {
            complaints.push(format!("{}: the answer is not what the kind says", operation.name));
        }
    }
    none(&complaints);
}

#[test]
fn every_check_is_made_by_some_form_and_every_kind_has_one() {
    let made: Vec<Check> = Form::ALL.iter().flat_map(|form| form.checks()).copied().collect();
    assert!(Check::ALL.iter().all(|check| made.contains(check)));
    let kinds: BTreeSet<Kind> = Form::ALL.iter().map(|form| operation(*form).kind).collect();
    assert_eq!(kinds, Kind::ALL.into_iter().collect());
}
