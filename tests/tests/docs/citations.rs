//! What sources cite exists.

use crate::markdown::headings;
use crate::repository::{crates, document, files, none, read, root, shown};

/// A file of `docs/`, and the section of it that is meant.
#[derive(Debug, PartialEq, Eq)]
struct Citation {
    document: String,
    sections: Vec<String>,
}

/// Citations in a source: `` `docs/protocol.md`, "Events" ``, also across the lines of a comment and inside strings.
fn citations(source: &str) -> Vec<Citation> {
    let uncommented = |line: &str| {
        let line = line.trim_start();
        let comment = ["//!", "///", "//", "*"].into_iter().find_map(|mark| line.strip_prefix(mark));
        comment.unwrap_or(line).trim().to_owned()
    };
    let text = source.lines().map(uncommented).collect::<Vec<_>>().join(" ").replace("\\\"", "\"");
    let found = text.split("docs/").skip(1).filter_map(|rest| {
        let (name, after) = rest.split_once(".md")?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        is_name.then(|| Citation { document: format!("{name}.md"), sections: sections(after) })
    });
    found.collect()
}

/// The quoted titles that follow: `` `, "One", "Two" and "Three" ``.
fn sections(after: &str) -> Vec<String> {
    let mut titles = Vec::new();
    let mut rest = after.strip_prefix('`').unwrap_or(after);
    while let Some(quoted) = rest.strip_prefix(", \"").or_else(|| rest.strip_prefix(" and \"")) {
        let Some((title, after)) = quoted.split_once('"') else { break };
        // A comma of the sentence may stand inside the quotation.
        titles.push(title.trim_end_matches([',', '.']).to_owned());
        rest = after;
    }
    titles
}

#[test]
fn every_cited_document_and_section_exists() {
    let mut complaints = Vec::new();
    let mut cited = 0;
    let own = "tests/tests/docs";
    let sources = files(&[".rs", ".proto", ".avsc", ".sol", ".toml"]);
    for source in sources.iter().filter(|path| !path.starts_with(root().join(own))) {
        for citation in citations(&read(source)) {
            let file = document(&citation.document);
            if !file.is_file() {
                complaints.push(format!("{}: there is no docs/{}", shown(source), citation.document));
                continue;
            }
            let text = read(&file);
            let existing = headings(&text);
            cited += citation.sections.len();
            let missing = citation.sections.iter().filter(|title| !existing.contains(&title.as_str()));
            complaints.extend(
                missing.map(|title| format!("{}: docs/{} has no section {title:?}", shown(source), citation.document)),
            );
        }
    }
    none(&complaints);
    assert!(cited > 0, "no citation was found, so the search is broken");
}

#[test]
fn every_crate_tells_what_it_is_for() {
    let silent = crates().into_iter().map(|folder| folder.join("src/lib.rs"));
    let silent = silent.filter(|file| !read(file).starts_with("//! "));
    none(&silent.map(|file| format!("{} does not begin with //!", shown(&file))).collect::<Vec<_>>());
}

#[test]
fn citations_are_found_across_lines_and_in_strings() {
    let found = |source: &str| {
        let all = citations(source).into_iter().flat_map(|citation| citation.sections);
        all.collect::<Vec<_>>()
    };
    assert_eq!(found("/// (`docs/protocol.md`, \"Signed\n    /// messages\")."), ["Signed messages"]);
    assert_eq!(found("x = \"`docs/protocol.md`, \\\"Errors\\\"\";"), ["Errors"]);
    assert_eq!(found("// docs/protocol.md, \"A\" and \"B,\" c"), ["A", "B"]);
    assert_eq!(found("// docs/protocol.md says \"hello\""), [""; 0]);
}
