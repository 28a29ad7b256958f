//! A file and a function can be read in one go: 400 lines before the unit tests, 60 lines; in tests 500
//! and 80.

use std::collections::BTreeSet;

use super::exceptions;
use super::source::{Source, all, is_word};

#[test]
fn no_file_is_too_long() {
    let limit = |source: &Source| if source.name.starts_with("tests/") { 500 } else { 400 };

    let long = all().into_iter().filter(|source| source.before_tests().lines().count() > limit(source));

    exceptions::hold("long-file", &long.map(|source| source.name).collect());
}

#[test]
fn no_function_is_too_long() {
    let mut long = BTreeSet::new();
    let mut count = 0;
    for source in all() {
        let limit = if source.name.starts_with("tests/") { 80 } else { 60 };
        for (code, limit) in [(source.before_tests(), limit), (source.tests(), 80)] {
            for Function { name, lines } in functions(code) {
                count += 1;
                if lines > limit {
                    long.insert(format!("{} fn {name}", source.name));
                }
            }
        }
    }

    assert!(count > 1_000, "only {count} functions were found");
    exceptions::hold("long-function", &long);
}

struct Function<'a> {
    name: &'a str,
    lines: usize,
}

/// Every function with a body of more than one line.
fn functions(code: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let is_item = before.split_whitespace().all(|word| {
            word.starts_with("pub") || matches!(word, "async" | "const" | "unsafe" | "crate)" | "super)")
        });
        if !is_item || line.ends_with([';', '}']) {
            continue;
        }
        let closing = format!("{indent}}}");
        let body = lines[start + 1..].iter().position(|line| line.starts_with(&closing));
        let name = &after[..after.find(|c| !is_word(c)).unwrap_or(after.len())];
        found.push(Function { name, lines: body.map_or(1, |body| body + 2) });
    }
    found
}
