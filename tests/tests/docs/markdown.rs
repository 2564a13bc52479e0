//! What has to be understood of Markdown: headings, links, blocks of code.

/// Lines outside blocks of code.
pub(crate) fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

pub(crate) fn headings(text: &str) -> Vec<&str> {
    let is_heading = |line: &&str| line.starts_with('#');
    prose(text).filter(is_heading).map(|line| line.trim_start_matches('#').trim()).collect()
}

/// The anchor that hosts of Markdown give a heading.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Targets of links and pictures.
pub(crate) fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for line in prose(text) {
        // What stands between backticks is shown, not linked.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for piece in plain.split("](").skip(1) {
            targets.extend(piece.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    targets
}

/// The contents of the blocks of code in one language.
pub(crate) fn code(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(named), None) => open = Some((named.trim() == language, String::new())),
            (Some(_), Some((is_wanted, block))) => {
                if *is_wanted {
                    blocks.push(std::mem::take(block));
                }
                open = None;
            }
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// A table's row. A vertical bar inside a cell would end it.
pub(crate) fn row<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The head of a table.
pub(crate) fn head(columns: &[&str]) -> String {
    format!("{}|{}\n", row(columns.iter().copied()), "---|".repeat(columns.len()))
}

/// A text as a sentence: capital letter in front, full stop behind.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut letters = text.chars();
    let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{stop}", letters.as_str())
}

#[test]
fn anchors_are_those_of_the_hosts() {
    assert_eq!(anchor("What a machine needs"), "what-a-machine-needs");
    assert_eq!(anchor("`[kafka]` – who?"), "kafka--who");
}

#[test]
fn links_in_code_are_not_followed() {
    let text = "[a](b.md) `[c](d.md)` [e](f.md#g)\n```\n[h](i.md)\n```\n";
    assert_eq!(links(text), ["b.md", "f.md#g"]);
}

#[test]
fn blocks_of_code_are_found_by_language() {
    let text = "```toml\na = 1\n```\n```sh\nls\n```\n```toml\nb = 2\n```\n";
    assert_eq!(code(text, "toml"), ["a = 1\n", "b = 2\n"]);
}
