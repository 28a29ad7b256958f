//! The source files as text: a file's unit tests, and its code without comments and literals.
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

#[test]
fn comments_and_literals_are_blanked() {
    let code = without_comments_and_literals(
        "a /* b */ // c\n\"d \\\" e\" 'f' '\\'' b\"g\" r#\"h \" i\"# for_ 'life r\"j\"",
    );

    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "for_", "'life"]);
    assert_eq!(code.lines().count(), 2);
}
