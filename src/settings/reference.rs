//! References: `${NAME}`, `${env:NAME}`, `${NAME:-default}`, `${file:PATH}`; `$$` is a literal `$`.
//!
//! They are filled in after the YAML was parsed, in values only, so neither a comment nor a key nor
//! the text of a filled value can change the structure of the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_yaml::Value;
use thiserror::Error;

use crate::deadline::Deadline;
use crate::settings::permissions::Permissions;
use crate::settings::problem::{Place, Problems, Step, is_plain};
use crate::settings::source;
use crate::settings::tree;

#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum Unresolved {
    // These two do not quote: the text may be a secret that happens to hold `${`.
    #[error("a `${{` has no closing `}}`; write `$$` for a literal `$`")]
    Unclosed,
    #[error(
        "holds a `${{…}}` that is no reference; use ${{NAME}}, ${{NAME:-default}} or ${{file:/path}}, and `$$` for a literal `$`"
    )]
    Syntax,
    #[error(
        "`${{claim.…}}` means something in the `path` of a bucket's `auth.rules` only; write `$$` for a literal `$`"
    )]
    Claim,
    #[error("the environment variable `{0}` is not set; set it, or give a default as ${{{0}:-default}}")]
    Unset(String),
    #[error("the environment variable `{0}` is not UTF-8")]
    NotUtf8(String),
    #[error("`${{file:{path}}}`: {why}")]
    File { path: String, why: String },
    #[error(
        "with this reference, more than {0} bytes are filled in for this file; refer to smaller files, or to large ones less often"
    )]
    TooMuch(usize),
}

/// Fills in references and remembers what it did.
pub(crate) struct References<'a> {
    /// Relative paths are relative to the configuration file.
    pub(crate) directory: &'a Path,
    /// The bytes of every file that was asked for, `None` where it could not be read.
    pub(crate) files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// Who may do what with those that were read from the disk now.
    pub(crate) permissions: BTreeMap<PathBuf, Permissions>,
    /// Whether `files` is all there is, so that the disk is left alone.
    is_complete: bool,
    /// The text, as written, of every value that held a reference. What such a value became may be a
    /// secret, so messages show this instead.
    pub(crate) written: BTreeMap<Place, String>,
    /// The paths that were filled in, as they are written.
    shown: BTreeMap<PathBuf, String>,
    /// The most bytes that may be filled in, and how many of them are left.
    limit: usize,
    left: usize,
    deadline: Deadline,
}

/// Where the walk through a tree is; a [`Place`] that costs nothing until it is asked for.
pub(crate) enum Position<'p> {
    Root,
    Key(&'p Position<'p>, &'p str),
    Index(&'p Position<'p>, usize),
}

impl Position<'_> {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Root => Place::root(),
            Self::Key(above, key) => above.place().key(*key),
            Self::Index(above, index) => above.place().index(*index),
        }
    }
}

impl<'a> References<'a> {
    pub(crate) fn new(directory: &'a Path) -> Self {
        Self { is_complete: false, ..Self::recorded(directory, BTreeMap::new()) }
    }

    /// References into files that were read at another time.
    pub(crate) fn recorded(directory: &'a Path, files: BTreeMap<PathBuf, Option<Vec<u8>>>) -> Self {
        let limit = tree::text_limit(0);
        Self {
            directory,
            files,
            permissions: BTreeMap::new(),
            is_complete: true,
            written: BTreeMap::new(),
            shown: BTreeMap::new(),
            limit,
            left: limit,
            deadline: Deadline::none(),
        }
    }

    /// References in a file of this many bytes, which are filled in until a deadline. What they bring is
    /// bounded, because a large file can be named again and again.
    pub(crate) fn within(&mut self, bytes: usize, deadline: &Deadline) {
        self.limit = tree::text_limit(bytes);
        self.left = self.limit;
        self.deadline = deadline.clone();
    }

    /// The deadline, for every loop over what the file holds.
    pub(crate) fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Whether everything comes from another time and the disk is left alone.
    pub(crate) fn are_recorded(&self) -> bool {
        self.is_complete
    }

    /// Fills in every text at and below `value`.
    pub(crate) fn fill(&mut self, value: &mut Value, position: &Position<'_>, problems: &mut Problems) {
        match value {
            Value::String(text) if text.contains('$') => {
                let place = position.place();
                let mut left = self.left;
                let filled = self.resolve(text, takes_claims(&place), &mut left);
                self.left = left;
                let is_as_written = filled.as_ref().is_ok_and(|filled| filled == text);
                if text.contains("${") && !is_as_written {
                    self.written.insert(place.clone(), text.clone());
                }
                match filled {
                    Ok(filled) => *text = filled,
                    Err(why) => problems.push(place, why.to_string()),
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if self.deadline.has_passed() {
                        return;
                    }
                    self.fill(item, &Position::Index(position, index), problems);
                }
            }
            Value::Mapping(entries) => {
                for (key, entry) in entries.iter_mut() {
                    let Some(key) = key.as_str() else {
                        problems.push(position.place(), "has a key that is not a text; put it in quotes");
                        continue;
                    };
                    let position = Position::Key(position, key);
                    // What stands below it may have been commented out, and `auth` without anything is not
                    // `auth` left out.
                    if entry.is_null() {
                        let why = if is_plain(key) {
                            "has no value; give it one, or leave the key out"
                        } else {
                            "a key has no value; is a space missing after its `:`?"
                        };
                        problems.push(position.place(), why);
                        continue;
                    }
                    self.fill(entry, &position, problems);
                }
            }
            // Of a text below a tag no reference would be filled in.
            Value::Tagged(_) => {
                problems.push(position.place(), "has a YAML tag, which means nothing here; leave it out");
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// A text with its references filled in; those to claims stay, where they may stand.
    /// What is filled in is taken from `left`.
    pub(crate) fn resolve(
        &mut self,
        text: &str,
        takes_claims: bool,
        left: &mut usize,
    ) -> Result<String, Unresolved> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(position) = rest.find('$') {
            filled.push_str(&rest[..position]);
            rest = &rest[position + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                filled.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let (inner, after) = after.split_once('}').ok_or(Unresolved::Unclosed)?;
                if !inner.starts_with("claim.") {
                    let found = self.look_up(inner)?;
                    *left = left.checked_sub(found.len()).ok_or(Unresolved::TooMuch(self.limit))?;
                    filled.push_str(&found);
                } else if takes_claims {
                    filled.extend(["${", inner, "}"]);
                } else {
                    return Err(Unresolved::Claim);
                }
                rest = after;
            } else {
                filled.push('$');
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn look_up(&mut self, inner: &str) -> Result<String, Unresolved> {
        if let Some(path) = inner.strip_prefix("file:") {
            return self.read(path);
        }
        let variable = inner.strip_prefix("env:").unwrap_or(inner);
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        let is_name = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(Unresolved::Syntax);
        }
        match (std::env::var(name), default) {
            (Ok(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
            (Ok(value), _) => Ok(value),
            (Err(std::env::VarError::NotPresent), Some(default)) => Ok(default.to_owned()),
            (Err(std::env::VarError::NotPresent), None) => Err(Unresolved::Unset(name.to_owned())),
            (Err(std::env::VarError::NotUnicode(_)), _) => Err(Unresolved::NotUtf8(name.to_owned())),
        }
    }

    fn read(&mut self, path: &str) -> Result<String, Unresolved> {
        let text = self
            .file(Path::new(path))
            .and_then(|bytes| {
                std::str::from_utf8(bytes).map_err(|_| "the file is not UTF-8; give a text".to_owned())
            })
            .map_err(|why| Unresolved::File { path: path.to_owned(), why })?;
        let holds_secret = !is_public_key(text);
        let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        let line = line.to_owned();
        if let Some(permissions) = self.permissions.get_mut(Path::new(path)) {
            permissions.holds_secret |= holds_secret;
        }
        Ok(line)
    }

    /// The content of a file that the configuration names at a place.
    pub(crate) fn file_at(&mut self, path: &str, place: &Place) -> Result<&[u8], String> {
        if let Some(written) = self.written.get(place) {
            self.shown.insert(path.into(), written.clone());
        }
        self.file(Path::new(path))
    }

    /// A path as it may be shown: as it is written, where it was filled in.
    pub(crate) fn shown(&self, path: &Path) -> String {
        self.shown.get(path).cloned().unwrap_or_else(|| path.display().to_string())
    }

    /// The content of a file, read once however often it is named.
    fn file(&mut self, path: &Path) -> Result<&[u8], String> {
        if !self.files.contains_key(path) {
            if self.is_complete {
                return Err("was not recorded".to_owned());
            }
            let found = source::read(&self.directory.join(path), source::MAX_REFERENCED_BYTES);
            if let Ok(found) = &found {
                let permissions = Permissions { mode: found.mode, holds_secret: false };
                self.permissions.insert(path.to_owned(), permissions);
            }
            let bytes = found.map(|found| found.bytes).map_err(|why| why.to_string());
            self.files.insert(path.to_owned(), bytes.as_ref().ok().cloned());
            bytes?;
        }
        match self.files.get(path) {
            Some(Some(bytes)) => Ok(bytes),
            _ if self.is_complete => Err("was not recorded".to_owned()),
            _ => Err("could not be read".to_owned()),
        }
    }
}

/// Whatever else a value is filled in with may be a secret.
fn is_public_key(text: &str) -> bool {
    let first = text.trim_start().lines().next().unwrap_or_default();
    first.starts_with("-----BEGIN ") && first.contains("PUBLIC KEY")
}

/// Whether `${claim.…}` means something at a place: `buckets[…].auth.rules[…].path`.
fn takes_claims(place: &Place) -> bool {
    use Step::{Index, Key};
    match place.steps() {
        [Key(buckets), Index(_), Key(auth), Key(rules), Index(_), Key(path)] => {
            [buckets, auth, rules, path] == ["buckets", "auth", "rules", "path"]
        }
        _ => false,
    }
}

/// The references at and below a place.
pub(crate) fn within<'w>(
    written: &'w BTreeMap<Place, String>,
    base: &Place,
) -> impl Iterator<Item = (&'w Place, &'w String)> {
    written.range(base..).take_while(|(place, _)| place.steps().starts_with(base.steps()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let mut problems = Problems::default();
        let mut value = Value::String(text.to_owned());
        References::new(Path::new("/nowhere")).fill(&mut value, &Position::Root, &mut problems);
        if problems.is_empty() {
            Ok(value.as_str().expect("still a text").to_owned())
        } else {
            Err(problems.summary())
        }
    }

    #[test]
    fn references_are_filled_in() {
        let path = std::env::var("PATH").expect("cargo sets it");
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(filled("${PATH}"), ok(&path));
        assert_eq!(filled("a${env:PATH}b${PATH}"), ok(&format!("a{path}b{path}")));
        assert_eq!(filled("${UNSET_HERE:-x:y-z}"), ok("x:y-z"));
        assert_eq!(filled("${env:UNSET_HERE:-}"), ok(""));
        assert_eq!(filled("$$ $${PATH} 100$ $x"), ok("$ ${PATH} 100$ $x"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_an_error_with_a_remedy() {
        for (text, part) in [
            ("${UNSET_HERE}", "`UNSET_HERE` is not set"),
            ("a ${PATH", "no closing `}`"),
            ("${}", "is no reference"),
            ("${a b}", "is no reference"),
            ("${1A}", "is no reference"),
            ("${file:/does/not/exist}", "`${file:/does/not/exist}`: "),
            ("${file:/}", "not a regular file"),
        ] {
            let message = filled(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn a_file_loses_one_trailing_newline() {
        let folder = std::env::temp_dir().join(format!("yatagarasu-reference-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        std::fs::write(folder.join("secret"), "two\nlines\n\n").expect("written");
        let mut problems = Problems::default();
        let mut value = Value::String("<${file:secret}>".to_owned());
        let mut references = References::new(&folder);
        references.fill(&mut value, &Position::Root, &mut problems);
        assert_eq!(value.as_str(), Some("<two\nlines\n>"), "{problems}");
        assert_eq!(references.files.len(), 1);
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
