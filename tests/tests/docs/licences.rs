//! Licence expressions, and which of them the project can live with.

/// Licences that ask for notices at most. Anything else needs a decision.
const PERMISSIVE: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BlueOak-1.0.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Old manifests write `/` for a choice.
pub(crate) fn normal(expression: &str) -> String {
    expression.replace(" / ", " OR ").replace('/', " OR ")
}

/// Whether an SPDX expression can be satisfied with permissive licences alone.
pub(crate) fn is_permissive(expression: &str) -> bool {
    let spaced = normal(expression).replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let is_permissive = choice(&mut words);
    is_permissive && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn choice(words: &mut Words<'_>) -> bool {
    let mut any = all(words);
    while words.next_if_eq(&"OR").is_some() {
        any |= all(words);
    }
    any
}

fn all(words: &mut Words<'_>) -> bool {
    let mut every = one(words);
    while words.next_if_eq(&"AND").is_some() {
        every &= one(words);
    }
    every
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let inner = choice(words);
        return words.next() == Some(")") && inner;
    }
    let mut name = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next().unwrap_or_default());
    }
    PERMISSIVE.contains(&name.as_str())
}

#[test]
fn one_permissive_choice_is_enough_and_every_condition_counts() {
    for allowed in [
        "MIT",
        "MIT/Apache-2.0",
        "MIT OR LGPL-2.1-or-later",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_permissive(allowed), "{allowed}");
    }
    for refused in
        ["GPL-3.0", "MPL-2.0", "MIT AND GPL-3.0-only", "(MIT", "MIT Apache-2.0", "", "Apache-2.0 WITH unknown"]
    {
        assert!(!is_permissive(refused), "{refused}");
    }
}
