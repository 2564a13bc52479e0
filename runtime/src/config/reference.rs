//! The configuration reference, generated from the structs' doc comments.

use std::fmt::Write as _;
use std::path::Path as FilePath;

use serde_json::Value as Json;

use super::layers::SECRET_FILE_SUFFIX;
use super::schema::{InFile, Root, Shape, View};
use super::{Configuration, print};

/// Markdown: one table per section, with type, default and meaning of every key.
#[must_use]
pub fn config_reference<T: Configuration>() -> String {
    let root = Root::of::<T>();
    let mut out = String::new();
    section(&mut out, root.view(), "", false, None);
    out.trim_end().to_owned() + "\n"
}

/// `given` is the section's default where the struct around it says one.
fn section(out: &mut String, view: View<'_>, path: &str, is_list: bool, given: Option<&Json>) {
    let Shape::Table(fields, required) = view.shape() else { return };
    let (inner, plain): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, field)| section_of(**field).is_some());
    if !path.is_empty() {
        let name = if is_list { format!("[[{path}]]") } else { format!("[{path}]") };
        let _ = writeln!(out, "#### `{name}`\n");
    }
    for text in [view.description(), view.type_description()] {
        if !text.is_empty() && !out.trim_end().ends_with(&one_line(text)) {
            let _ = writeln!(out, "{}\n", one_line(text));
        }
    }
    if !plain.is_empty() {
        out.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        for (key, field) in plain {
            row(out, key, *field, field.default_within(key, given), required.contains(key));
        }
        out.push('\n');
    }
    for (key, field) in inner {
        let full = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
        if let Some((view, is_list)) = section_of(*field) {
            let given = field.default_within(key, given).filter(|_| !is_list);
            section(out, view, &full, is_list, given);
        }
    }
}

/// The view whose keys make a section of their own, and whether it is a list of tables.
fn section_of(field: View<'_>) -> Option<(View<'_>, bool)> {
    match field.shape() {
        Shape::Table(..) => Some((field, false)),
        Shape::Array(items) if matches!(items.shape(), Shape::Table(..)) => Some((items, true)),
        _ => None,
    }
}

fn row(out: &mut String, key: &str, field: View<'_>, default: Option<&Json>, is_required: bool) {
    let default = match (default, is_required) {
        (_, true) => "required".to_owned(),
        (Some(value), false) => format!("`{}`", print::inline(value)),
        (None, false) => "none".to_owned(),
    };
    let mut meaning = one_line(field.description());
    if let Some(range) = range(field) {
        let _ = write!(meaning, " ({range})");
    }
    let kind = field.type_name();
    let _ = writeln!(out, "| `{key}` | {kind} | {default} | {} |", meaning.replace('|', "\\|"));
    if let Some(form) = field.in_file() {
        let text = match form {
            InFile::Whole => format!("Path of a file that holds `{key}`; white space around it is removed."),
            InFile::Lines => format!("Path of a file that holds `{key}`, one a line; empty lines are passed over."),
        };
        let _ = writeln!(out, "| `{key}{SECRET_FILE_SUFFIX}` | path | none | {text} |");
    }
}

fn range(field: View<'_>) -> Option<String> {
    let least = field.number("minimum").filter(|least| *least > 0.0);
    match (least, field.number("maximum").filter(|most| *most < 4e9 && *most != 65535.0)) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}")),
        (Some(least), None) => Some(format!("at least {least}")),
        (None, Some(most)) => Some(format!("at most {most}")),
        (None, None) => None,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Holds a document to generated text: the part of `file` between `<!-- generated: NAME -->` and `<!-- end: NAME -->`
/// must be `content`. With `UPDATE_DOCS=1` in the environment it is written instead.
///
/// # Errors
/// What differs, or why the file cannot be read or written.
pub fn check_generated_block(file: &FilePath, name: &str, content: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (open, close) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end: {name} -->"));
    let start = text.find(&open).ok_or_else(|| format!("{} has no line {}", file.display(), open.trim_end()))?;
    let start = start + open.len();
    let length = text[start..].find(&close).ok_or_else(|| format!("{} has no {close}", file.display()))?;
    let wanted = format!("\n{}\n\n", content.trim());
    if text[start..start + length] == wanted {
        return Ok(());
    }
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return Err(format!("{}: block {name} is out of date; run the test with UPDATE_DOCS=1", file.display()));
    }
    let fresh = format!("{}{wanted}{}", &text[..start], &text[start + length..]);
    std::fs::write(file, fresh).map_err(|error| format!("{}: {error}", file.display()))
}
