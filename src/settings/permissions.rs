//! Who, beside its owner, may read or change a file that a configuration is made of.
//!
//! The group may read: that is how a service is given secrets that it cannot change. Nobody but the owner
//! may write, for whoever writes the file decides everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const OTHERS_READ: u32 = 0o004;
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;

/// What the permission bits of a file are, and what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permissions {
    pub(crate) mode: u32,
    pub(crate) holds_secret: bool,
}

impl Permissions {
    /// Of a file that somebody else will read, at the end of all links; `None` where there is none.
    pub(crate) fn of_secret(path: &Path) -> Option<Self> {
        let mode = fs::metadata(path).ok()?.permissions().mode();
        Some(Self { mode, holds_secret: true })
    }

    /// The complaints about them, each with its remedy; `path` is the file's, as it may be shown.
    pub(crate) fn complaints(self, path: &str) -> impl Iterator<Item = String> + use<> {
        let mode = self.mode & 0o7777;
        let is_exposed = self.holds_secret && mode & OTHERS_READ != 0;
        let is_open = mode & GROUP_OR_OTHERS_WRITE != 0;
        let exposed = is_exposed.then(|| {
            format!("`{path}` holds a secret, and every user may read it (mode {mode:04o}); `chmod o-r` it")
        });
        let open = is_open.then(|| {
            format!("`{path}` may be changed by others than its owner (mode {mode:04o}); `chmod go-w` it")
        });
        exposed.into_iter().chain(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_not_read_a_secret_and_nobody_else_may_write() {
        for (mode, holds_secret, complaints) in [
            (0o100_600, true, 0),
            (0o100_400, true, 0),
            (0o100_640, true, 0),
            (0o100_644, false, 0),
            (0o100_644, true, 1),
            (0o100_604, true, 1),
            (0o100_660, true, 1),
            (0o100_664, false, 1),
            (0o100_602, false, 1),
            (0o100_666, true, 2),
        ] {
            let permissions = Permissions { mode, holds_secret };
            assert_eq!(permissions.complaints("x").count(), complaints, "{mode:o} {holds_secret}");
        }
    }
}
