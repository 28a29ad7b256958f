//! The certificates that vouch for a server that we connect to.

use std::sync::Arc;

/// Root certificates, DER-encoded; an empty list means the usual roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Shared by everything that names the same file.
    pub roots: Arc<[Vec<u8>]>,
}
