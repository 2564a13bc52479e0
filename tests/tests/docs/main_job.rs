//! `docs/main-job.md`.

use clap::{Args, Command};
use kms_stack::job::JobArgs;
use kms_stack::setup::{PlanArgs, SetupArgs};
use kms_stack::{SiteArgs, StackArgs};

use crate::markdown::{head, row};
use crate::repository::{document, hold, read, root};
use crate::rust_source::fields;

#[test]
fn the_flags_are_those_of_the_command_line() {
    for (block, command) in [
        ("job-flags", JobArgs::augment_args(Command::new("kms-stack"))),
        ("stack-flags", StackArgs::augment_args(Command::new("kms-stack"))),
        ("plan-flags", PlanArgs::augment_args(Command::new("kms-stack"))),
        ("setup-flags", SetupArgs::augment_args(Command::new("kms-stack"))),
        ("site-flags", SiteArgs::augment_args(Command::new("kms-stack"))),
    ] {
        let mut table = head(&["flag", "default", "meaning"]);
        for argument in command.get_arguments() {
            let values: Vec<String> =
                argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
            let takes_value = argument.get_action().takes_values();
            let possible: Vec<String> =
                argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
            let name = format!(
                "--{} {}",
                argument.get_long().unwrap_or_default(),
                if takes_value { values.join(" ") } else { String::new() }
            );
            let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
            let default = defaults.collect::<Vec<_>>().join(",");
            let default = if takes_value && !default.is_empty() { format!("`{default}`") } else { String::new() };
            let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            if !help.ends_with('.') {
                help.push('.');
            }
            if takes_value && !possible.is_empty() {
                help = format!("{help} One of {}.", possible.join(", "));
            }
            table += &row([&*format!("`{}`", name.trim_end()), &default, &help]);
        }
        hold(&document("main-job.md"), block, &table);
    }
}

#[test]
fn the_fields_of_the_json_object_are_those_of_the_report() {
    let source = read(&root().join("compose/src/job/report.rs"));
    let mut text = String::new();
    for (name, title) in [("Report", "The object"), ("KindReport", "`kinds[]`"), ("Latency", "`latency_ms`")] {
        text += &format!("### {title}\n\n{}", head(&["field", "type", "meaning"]));
        text += &rows(&source, name);
        text.push('\n');
    }
    hold(&document("main-job.md"), "json", &text);
}

/// A struct's fields, those of flattened structs in their place.
fn rows(source: &str, name: &str) -> String {
    let fields = fields(source, name).unwrap_or_else(|| panic!("the report has no struct {name}"));
    let mut text = String::new();
    for field in fields {
        if field.is_flattened {
            text += &rows(source, &field.kind);
        } else {
            text += &row([&*format!("`{}`", field.name), &json_type(&field.kind), &field.doc]);
        }
    }
    text
}

fn json_type(kind: &str) -> String {
    if let Some(inner) = kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>')) {
        return format!("{} or null", json_type(inner));
    }
    if let Some(inner) = kind.strip_prefix("Vec<").and_then(|kind| kind.strip_suffix('>')) {
        return format!("array of {}", json_type(inner));
    }
    match kind {
        "usize" | "u32" | "u64" | "f64" => "number".to_owned(),
        "String" | "&'static str" => "string".to_owned(),
        "bool" => "boolean".to_owned(),
        _ => "object".to_owned(),
    }
}
