//! The history on disk: the reports of the last attempts, and the last content that took effect, for a
//! start with `--resume` and for the eyes of an operator.
//!
//! The file holds secrets and decides what a process serves that is started with `--resume`. So it is
//! readable by its owner only, replaced as a whole, and refused where anybody else may write it. A digest
//! beside the content finds damage; it does not protect from somebody who may write the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::reload::history::History;
use crate::settings::source::{self, Content, Unreadable};

/// The largest history file: the largest configuration in Base64, a referenced file or a hundred, and the
/// reports.
const MAX_BYTES: u64 = 512 << 20;

/// Permission bits with which somebody else than the owner may write.
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;

/// The superuser, whose files everybody trusts.
const ROOT: u32 = 0;

#[derive(Debug, Error)]
pub(crate) enum Unusable {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("belongs to uid {0}, and decides what is served; make it this user's, or remove it")]
    OtherOwner(u32),
    #[error(
        "may be written by others than its owner (mode {0:04o}), and decides what is served; `chmod go-w` it, or remove it"
    )]
    WritableByOthers(u32),
    #[error("is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

/// The content of a history file.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// The oldest first.
    pub(crate) reports: Vec<Value>,
    /// The last content that took effect; `None` where there is none, or it is damaged.
    pub(crate) last_good: Option<Content>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The oldest first.
    history: Vec<Value>,
    last_good: Option<StoredContent>,
}

/// A content with its bytes in Base64, because a file of secrets need not be text.
#[derive(Debug, Serialize, Deserialize)]
struct StoredContent {
    digest: String,
    file: String,
    referenced: Vec<(PathBuf, String)>,
}

/// The file that `reload.history_file` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistoryFile(PathBuf);

impl HistoryFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the history as carefully as a configuration: a regular file of this user or of root, which
    /// nobody else may write, of a bounded size.
    pub(crate) fn read(&self) -> Result<Recorded, Unusable> {
        let found = source::read(&self.0, MAX_BYTES)?;
        let own = rustix::process::geteuid().as_raw();
        if found.owner != own && found.owner != ROOT {
            return Err(Unusable::OtherOwner(found.owner));
        }
        if found.mode & GROUP_OR_OTHERS_WRITE != 0 {
            return Err(Unusable::WritableByOthers(found.mode & 0o7777));
        }
        let stored: Stored = serde_json::from_slice(&found.bytes)?;
        Ok(Recorded { reports: stored.history, last_good: stored.last_good.and_then(StoredContent::decoded) })
    }

    pub(crate) fn write(&self, history: &History) -> io::Result<()> {
        let mut reports = history.reports();
        reports.reverse();
        let last_good = history.last_good().map(|content| StoredContent::of(&content));
        let text = serde_json::to_vec(&Stored { version: 1, history: reports, last_good })?;
        replace(&self.0, &text, None)
    }
}

impl StoredContent {
    fn of(content: &Content) -> Self {
        let encode = |bytes: &Option<Vec<u8>>| BASE64.encode(bytes.as_deref().unwrap_or_default());
        let referenced = content.referenced.iter().map(|(path, bytes)| (path.clone(), encode(bytes)));
        Self { digest: content.digest(), file: encode(&content.file), referenced: referenced.collect() }
    }

    /// The content, unless it is damaged.
    fn decoded(self) -> Option<Content> {
        let decode = |text: &str| BASE64.decode(text).ok();
        let content = Content {
            file: Some(decode(&self.file)?),
            referenced: self
                .referenced
                .iter()
                .map(|(path, text)| Some((path.clone(), Some(decode(text)?))))
                .collect::<Option<_>>()?,
        };
        (content.digest() == self.digest).then_some(content)
    }
}

/// Replaces a file as a whole, so that nobody ever reads half of it, and makes sure that it survives a
/// loss of power. Without `permissions` only the owner may read it.
///
/// The next content is written beside the file, under one name, so that a process that is killed in
/// between leaves at most one such file, which the next call replaces.
pub(crate) fn replace(path: &Path, content: &[u8], permissions: Option<fs::Permissions>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".next");
    let next = folder.join(name);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&next, content, permissions).and_then(|()| fs::rename(&next, path));
    if written.is_err() {
        // The error that is reported is the first one.
        let _ = fs::remove_file(&next);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Writes a file that must not be there yet, so that no link is followed.
fn write_new(path: &Path, content: &[u8], permissions: Option<fs::Permissions>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if let Some(permissions) = permissions {
        file.set_permissions(permissions)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_file_is_replaced_as_a_whole_and_what_a_killed_process_left_is_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("history.json");
        let next = folder.path().join("history.json.next");
        std::os::unix::fs::symlink("/nowhere/else", &next).expect("a link that must not be followed");
        replace(&path, b"one", None).expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"one");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!next.is_symlink() && !next.exists());
        replace(&path, b"two", Some(fs::Permissions::from_mode(0o640))).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        fs::create_dir(folder.path().join("taken.json")).expect("a folder in the way");
        assert!(replace(&folder.path().join("taken.json"), b"x", None).is_err());
        assert!(!folder.path().join("taken.json.next").exists(), "a failure leaves nothing behind");
    }

    #[test]
    fn a_history_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("history.json");
        replace(&path, br#"{"version":1,"history":[],"last_good":null}"#, None).expect("written");
        let file = HistoryFile::new(path.clone());
        assert!(file.read().is_ok());
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            assert!(matches!(file.read(), Err(Unusable::WritableByOthers(found)) if found == mode));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(fs::metadata(&path).expect("there").uid(), rustix::process::geteuid().as_raw());
        replace(&path, b"{", None).expect("written");
        assert!(matches!(file.read(), Err(Unusable::Damaged(_))));
    }
}
