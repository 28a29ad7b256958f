//! The source files as text: the module of a file, its unit tests, the paths that it names.
//!
//! No Rust parser: the files are formatted by rustfmt, so an item's line and its closing brace have the
//! same indentation.

use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of Rust.
pub struct Source {
    /// From the root of the repository, as `src/s3/key.rs`.
    pub name: String,
    pub text: String,
    /// The text without comments and without the content of literals; its lines are those of the text.
    pub code: String,
    /// The offset in `code` at which the unit tests begin.
    tests_at: usize,
}

impl Source {
    fn read(path: &Path) -> Self {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        let text = fs::read_to_string(path).expect("a source");
        let code = without_comments_and_literals(&text);
        let tests_at = code.find("\n#[cfg(test)]\nmod ").map_or(code.len(), |at| at + 1);
        Self { name, text, code, tests_at }
    }

    /// The code before the unit tests.
    pub fn before_tests(&self) -> &str {
        &self.code[..self.tests_at]
    }

    pub fn tests(&self) -> &str {
        &self.code[self.tests_at..]
    }

    /// The module of a file below `src`: `["s3", "key"]`.
    pub fn module(&self) -> Vec<&str> {
        let plain = self.name.trim_start_matches("src/").trim_end_matches(".rs");
        let plain = plain.strip_suffix("/mod").unwrap_or(plain);
        if plain == "lib" { Vec::new() } else { plain.split('/').collect() }
    }
}

/// Every file of Rust below a folder of the repository, sorted by name.
pub fn sources(folder: &str) -> Vec<Source> {
    let mut found: Vec<Source> = files(&root().join(folder))
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source::read(path))
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Every file of Rust in the repository.
pub fn all() -> Vec<Source> {
    ["src", "benches", "examples", "fuzz", "tests"].into_iter().flat_map(sources).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .filter(|path| !path.ends_with("target"))
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// Blanks comments, strings and characters; line breaks stay.
fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let length = match comment(rest).or_else(|| literal(rest)) {
            Some(length) => {
                code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                length
            }
            // An identifier is taken as a whole, or its last `r` could seem to begin a raw string.
            None if is_word(next) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                code.push_str(&rest[..length]);
                length
            }
            None => {
                code.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    code
}

/// The length of the comment that a text begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |end| end + 2))
}

/// The length of the string or character that a text begins with.
fn literal(text: &str) -> Option<usize> {
    let start = text.strip_prefix('b').unwrap_or(text);
    let prefix = text.len() - start.len();
    if let Some(raw) = start.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let body = raw[hashes..].strip_prefix('"')?;
        return Some(prefix + 1 + hashes + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()));
    }
    let quote = start.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let mut characters = start.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            _ if character == quote => return Some(prefix + at + 1),
            // A second character without a closing quote: the quote began a lifetime.
            _ if quote == '\'' && !start[at + character.len_utf8()..].starts_with(quote) => return None,
            _ => {}
        }
    }
    None
}

pub fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// A path that code names, as written: `["super", "problem", "Place"]`.
#[derive(Debug, PartialEq)]
pub struct Named {
    pub path: Vec<String>,
    /// Part of a `pub use`.
    pub is_reexport: bool,
}

/// Every path in `code` that begins with `crate`, `super`, `self` or one of `children`; groups in
/// braces are taken apart.
pub fn named(code: &str, children: &[String]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find(is_word).map(|offset| at + offset) {
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |length| start + length);
        at = end;
        let first = &code[start..end];
        let begins_a_path =
            matches!(first, "crate" | "super" | "self") || children.iter().any(|c| c == first);
        if !begins_a_path || code[..start].ends_with("::") || !code[end..].starts_with("::") {
            continue;
        }
        let statement = code[..start].rsplit([';', '{', '}']).next().unwrap_or_default().trim();
        let is_reexport = statement.starts_with("pub") && statement.ends_with("use");
        let mut paths = Vec::new();
        at += tree(&code[end..], vec![first.to_owned()], &mut paths);
        found.extend(paths.into_iter().map(|path| Named { path, is_reexport }));
    }
    found
}

/// Reads `::rest` and `::{this, that::{these}}` after `path`; returns how much of `code` it took.
fn tree(code: &str, path: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let Some(rest) = code.strip_prefix("::") else {
        found.push(path);
        return 0;
    };
    if let Some(group) = rest.strip_prefix('{') {
        let mut at = 0;
        while let Some(character) = group[at..].chars().next().filter(|character| *character != '}') {
            let word = word(&group[at..]);
            if word.is_empty() {
                at += character.len_utf8();
                continue;
            }
            at += word.len();
            let mut item = path.clone();
            if word != "self" {
                item.push(word.to_owned());
            }
            at += tree(&group[at..], item, found);
            // Skip `as` and the new name: they are no part of a path.
            at += group[at..].find([',', '}']).unwrap_or_default();
        }
        return 2 + 1 + at + 1;
    }
    let word = word(rest);
    if word.is_empty() {
        found.push(path);
        return 2;
    }
    let mut longer = path;
    longer.push(word.to_owned());
    2 + word.len() + tree(&rest[word.len()..], longer, found)
}

fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

#[test]
fn a_group_of_imports_is_taken_apart() {
    let code = "pub use super::{a::{self, B}, C as D};\nlet x = crate::e::f::<G>(self.h, child::I);";
    let paths = |found: &[Named]| found.iter().map(|named| named.path.join("::")).collect::<Vec<_>>();

    let found = named(code, &["child".to_owned()]);

    let expected = ["super::a", "super::a::B", "super::C", "crate::e::f", "child::I"];
    assert_eq!(paths(&found), expected);
    assert_eq!(
        paths(&found.into_iter().filter(|named| named.is_reexport).collect::<Vec<_>>()),
        &expected[..3]
    );
}

#[test]
fn comments_and_literals_are_blanked() {
    let code = without_comments_and_literals(
        "a /* b */ // c\n\"d \\\" e\" 'f' '\\'' b\"g\" r#\"h \" i\"# for_ 'life r\"j\"",
    );

    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "for_", "'life"]);
    assert_eq!(code.lines().count(), 2);
}
