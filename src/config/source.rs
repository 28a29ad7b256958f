//! Reading a file that may be anything: a folder, a pipe that never ends, gigabytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

/// The largest configuration file. 100,000 buckets take about 40 MiB.
pub const MAX_CONFIG_BYTES: u64 = 128 << 20;

/// The largest file that a configuration refers to: a secret, a key, a bundle of certificates.
pub const MAX_REFERENCED_BYTES: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum Unreadable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
}

/// The bytes of a regular file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Unreadable> {
    // Opening a pipe would wait for a writer, so look before opening.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Unreadable::TooLarge(limit));
    }
    Ok(bytes)
}
