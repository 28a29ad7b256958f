//! The last attempts, and what they left behind; on disk too, if that is wanted.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attempt::{Attempt, Restorable};
use crate::config::source::Content;

/// Attempts that are remembered.
pub const KEPT: usize = 32;

#[derive(Debug, Clone)]
pub struct History {
    /// Reports of an earlier process, the oldest first.
    earlier: Vec<Value>,
    attempts: VecDeque<Arc<Attempt>>,
    /// The last failure, until a reload takes effect.
    pub error: Option<Arc<Attempt>>,
    pub last: Option<Arc<Attempt>>,
    pub last_published: Option<Arc<Attempt>>,
    /// Every generation of this process that can be put into service again.
    generations: VecDeque<(u64, Restorable)>,
    /// The digest of the file when it was last looked at.
    pub file_digest: String,
}

impl History {
    pub fn new(first: Restorable, earlier: Vec<Value>) -> Self {
        Self {
            earlier,
            attempts: VecDeque::new(),
            error: None,
            last: None,
            last_published: None,
            file_digest: first.config.digest.clone(),
            generations: VecDeque::from([(1, first)]),
        }
    }

    /// Remembers an attempt. One that was to change nothing leaves no trace.
    pub fn add(&mut self, attempt: &Arc<Attempt>) {
        if attempt.is_dry_run {
            return;
        }
        if attempt.is_failure() {
            self.error = Some(attempt.clone());
        }
        if let Some(restorable) = &attempt.restorable {
            self.error = None;
            self.last_published = Some(attempt.clone());
            self.generations.push_back((attempt.generation, restorable.clone()));
            if self.generations.len() > KEPT {
                self.generations.pop_front();
            }
        }
        self.last = Some(attempt.clone());
        self.attempts.push_back(attempt.clone());
        if self.attempts.len() > KEPT {
            self.attempts.pop_front();
        }
    }

    pub fn generation(&self, number: u64) -> Option<Restorable> {
        self.generations.iter().find(|(known, _)| *known == number).map(|(_, found)| found.clone())
    }

    /// The youngest content from before the one in service, so that two rollbacks in a row go back twice.
    pub fn before(&self, current: u64) -> Option<Restorable> {
        let origin = self.generation(current)?.origin;
        self.generations.iter().rev().find(|(known, _)| *known < origin).map(|(_, found)| found.clone())
    }

    /// The youngest first.
    pub fn reports(&self) -> Vec<Value> {
        let own = self.attempts.iter().rev().map(|attempt| attempt.report());
        own.chain(self.earlier.iter().rev().cloned()).take(KEPT).collect()
    }
}

/// What is on the disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The oldest first.
    history: Vec<Value>,
    last_good: Option<StoredContent>,
}

/// The bytes in Base64: a file of secrets need not be text.
#[derive(Debug, Serialize, Deserialize)]
struct StoredContent {
    digest: String,
    file: String,
    referenced: Vec<(PathBuf, String)>,
}

/// The file that `reload.history_file` names: readable by its owner only, replaced as a whole.
#[derive(Debug)]
pub struct HistoryFile(PathBuf);

impl HistoryFile {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The reports of earlier processes, and the last content that took effect.
    pub fn read(&self) -> io::Result<(Vec<Value>, Option<Content>)> {
        let stored: Stored = serde_json::from_slice(&fs::read(&self.0)?)?;
        let content = stored.last_good.and_then(|stored| {
            let decode = |text: &str| BASE64.decode(text).ok();
            let content = Content {
                file: Some(decode(&stored.file)?),
                referenced: stored
                    .referenced
                    .iter()
                    .map(|(path, text)| Some((path.clone(), Some(decode(text)?))))
                    .collect::<Option<_>>()?,
            };
            // What was tampered with or cut short is not the last good one.
            (content.digest() == stored.digest).then_some(content)
        });
        Ok((stored.history, content))
    }

    /// Writes the history, and the content if it took effect; else the content stays.
    pub fn write(&self, history: &History, content: Option<&Content>) -> io::Result<()> {
        let last_good = match content {
            Some(content) => Some(stored(content)),
            None => self.stored().and_then(|stored| stored.last_good),
        };
        let mut reports = history.reports();
        reports.reverse();
        let text = serde_json::to_vec(&Stored { version: 1, history: reports, last_good })?;
        replace(&self.0, &text, None)
    }

    fn stored(&self) -> Option<Stored> {
        serde_json::from_slice(&fs::read(&self.0).ok()?).ok()
    }
}

fn stored(content: &Content) -> StoredContent {
    let encode = |bytes: &Option<Vec<u8>>| BASE64.encode(bytes.as_deref().unwrap_or_default());
    StoredContent {
        digest: content.digest(),
        file: encode(&content.file),
        referenced: content.referenced.iter().map(|(path, bytes)| (path.clone(), encode(bytes))).collect(),
    }
}

/// Replaces a file as a whole, so that nobody ever reads half of it. Without `permissions` only the
/// owner may read it.
pub fn replace(path: &Path, content: &[u8], permissions: Option<fs::Permissions>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut next = tempfile::NamedTempFile::new_in(folder)?;
    next.write_all(content)?;
    if let Some(permissions) = permissions {
        next.as_file().set_permissions(permissions)?;
    }
    next.as_file().sync_all()?;
    next.persist(path)?;
    Ok(())
}
