//! What has to be understood of Rust: macro calls, string constants, documented fields. Enough for this repository's
//! formatting, not for every program.

use std::collections::BTreeMap;

/// The part of a source file before its tests.
pub(crate) fn without_tests(source: &str) -> &str {
    source.find("\n#[cfg(test)]\nmod ").map_or(source, |tests| &source[..tests])
}

/// The arguments of every call of a macro, each as it is written.
pub(crate) fn calls(source: &str, name: &str) -> Vec<Vec<String>> {
    let opening = format!("{name}!(");
    let is_whole = |at: usize| !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let found = source.match_indices(&opening).filter(|(at, _)| is_whole(*at));
    found.map(|(at, _)| arguments(&source[at + opening.len()..])).collect()
}

/// Splits what follows an opening bracket at the commas of its own level.
fn arguments(text: &str) -> Vec<String> {
    let (mut all, mut current) = (Vec::new(), String::new());
    let (mut depth, mut in_text, mut is_escaped) = (0_u32, false, false);
    for c in text.chars() {
        if in_text {
            in_text = c != '"' || is_escaped;
            is_escaped = c == '\\' && !is_escaped;
        } else {
            match c {
                '"' => in_text = true,
                '(' | '[' | '{' => depth += 1,
                ')' if depth == 0 => break,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    all.push(std::mem::take(&mut current).trim().to_owned());
                    continue;
                }
                _ => {}
            }
        }
        current.push(c);
    }
    all.push(current.trim().to_owned());
    all.retain(|argument| !argument.is_empty());
    all
}

/// The text of a string literal.
pub(crate) fn literal(written: &str) -> Option<String> {
    let inner = written.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut letters = inner.chars().peekable();
    while let Some(c) = letters.next() {
        match (c, letters.peek()) {
            ('\\', Some('\n')) => while letters.next_if(|next| next.is_whitespace()).is_some() {},
            ('\\', _) => text.extend(letters.next()),
            _ => text.push(c),
        }
    }
    Some(text)
}

/// Names and values of string constants.
pub(crate) fn constants(source: &str) -> BTreeMap<String, String> {
    let lines = source.lines().filter_map(|line| line.trim().split_once("const "));
    let parsed = lines.filter_map(|(_, rest)| {
        let (name, value) = rest.split_once(": &str = ")?;
        Some((name.to_owned(), literal(value.strip_suffix(';')?)?))
    });
    parsed.collect()
}

/// Every string literal on one line, with the line's number.
pub(crate) fn literals(source: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (index, line) in source.lines().enumerate() {
        if !line.trim_start().starts_with("//") {
            found.extend(line.split('"').skip(1).step_by(2).map(|text| (index + 1, text)));
        }
    }
    found
}

/// A public field with its documentation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) doc: String,
    pub(crate) is_flattened: bool,
}

/// The fields of a struct, in order.
pub(crate) fn fields(source: &str, name: &str) -> Option<Vec<Field>> {
    let body = source.split_once(&format!("pub struct {name} {{\n"))?.1.split_once("\n}")?.0;
    let (mut all, mut doc, mut is_flattened) = (Vec::new(), Vec::new(), false);
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if line.starts_with("#[serde") {
            is_flattened |= line.contains("flatten");
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|field| field.split_once(": ")) {
            let kind = kind.trim_end_matches(',').to_owned();
            all.push(Field { name: name.to_owned(), kind, doc: std::mem::take(&mut doc).join(" "), is_flattened });
            is_flattened = false;
        }
    }
    Some(all)
}

#[test]
fn arguments_are_split_at_their_own_commas_only() {
    let source = "x!(\"a, b\", f(1, 2), [3, 4],\n);\nnot_x!(5); x!(6)";
    assert_eq!(calls(source, "x"), [vec!["\"a, b\"", "f(1, 2)", "[3, 4]"], vec!["6"]]);
}

#[test]
fn literals_keep_what_they_say() {
    assert_eq!(literal("\"a \\\"b\\\" \\\n      c\"").as_deref(), Some("a \"b\" c"));
    assert_eq!(literal("NAME"), None);
}

#[test]
fn fields_come_with_their_documentation() {
    let source =
        "pub struct S {\n    /// One\n    /// two.\n    #[serde(flatten)]\n    pub a: Vec<u8>,\n    b: u8,\n}\n";
    let only = Field { name: "a".into(), kind: "Vec<u8>".into(), doc: "One two.".into(), is_flattened: true };
    assert_eq!(fields(source, "S"), Some(vec![only]));
    assert_eq!(fields(source, "T"), None);
}
