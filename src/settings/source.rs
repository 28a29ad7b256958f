//! What a configuration is read from: a file that may be anything (a folder, a pipe that never ends,
//! gigabytes), or bytes that somebody has already. And the digest that tells two contents apart.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The largest configuration file. 100,000 buckets take about 40 MiB.
pub(crate) const MAX_CONFIG_BYTES: u64 = 128 << 20;

/// The largest file that a configuration refers to: a secret, a key, a bundle of certificates.
pub(crate) const MAX_REFERENCED_BYTES: u64 = 1 << 20;

#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
}

/// A file as it was found, at the end of all links.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) bytes: Vec<u8>,
    /// Its permission bits.
    pub(crate) mode: u32,
    /// The user id of its owner.
    pub(crate) owner: u32,
}

/// Opening a pipe does not wait for a writer.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

/// A regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Found, Unreadable> {
    // Opening a pipe would wait for a writer, and some devices act when they are opened, so look first.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Unreadable::NotAFile);
    }
    // Without waiting, for what may have been put there since.
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let (mode, owner) = (metadata.permissions().mode(), metadata.uid());
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Unreadable::TooLarge(limit));
    }
    Ok(Found { bytes, mode, owner })
}

/// The exact bytes of a configuration: the file's, and those of every file that it refers to. What
/// could not be read is there as `None`.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub file: Option<Vec<u8>>,
    /// By the paths as written, so that the digest does not depend on where the file lies.
    pub referenced: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

/// What relative paths in a configuration file are relative to.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Content {
    /// `sha256:` and the digest of everything, in the order of the paths, each with its length, so
    /// that no two contents give the same bytes.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: Option<&Vec<u8>>| match bytes {
            Some(bytes) => {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
            None => hash.update([0xff; 8]),
        };
        add(self.file.as_ref());
        for (path, bytes) in &self.referenced {
            add(Some(&path.as_os_str().as_encoded_bytes().to_vec()));
            add(bytes.as_ref());
        }
        format!("sha256:{}", hex::encode(hash.finalize()))
    }

    /// What is there now, for a configuration that refers to these files.
    pub fn observe<'f>(path: &Path, referenced: impl IntoIterator<Item = &'f PathBuf>) -> Self {
        let bytes = |path: &Path, limit| read(path, limit).ok().map(|found| found.bytes);
        let observe = |named: &PathBuf| bytes(&directory(path).join(named), MAX_REFERENCED_BYTES);
        let referenced = referenced.into_iter();
        Self {
            file: bytes(path, MAX_CONFIG_BYTES),
            referenced: referenced.map(|named| (named.clone(), observe(named))).collect(),
        }
    }
}
