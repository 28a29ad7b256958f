//! The file of a Unix socket: made so that only its user, and root, can connect; removed by the last
//! process that serves it.
//!
//! Whether anybody serves a socket is found out by connecting to it. So nothing has to be told about
//! the file when the socket is handed to another process, and one that a killed process left behind is
//! replaced.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: i32 = 128;

/// Why nobody can listen at a path.
#[derive(Debug, Error)]
pub(super) enum Unusable {
    #[error("what is there is no socket; remove it")]
    NotASocket,
    #[error("what is there belongs to uid {0}; remove it")]
    OtherOwner(u32),
    #[error("another process serves it; end that one")]
    Served,
    #[error(
        "other users may write to its folder `{0}`, and could put a file of their own there; chmod go-w it"
    )]
    OpenFolder(PathBuf),
    #[error("{0}; see to it that its folder is there and this user may write to it")]
    Io(#[from] io::Error),
}

/// The file of a socket that listens. Dropped after the socket, it goes, unless somebody else serves it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another file may take its place.
    identity: (u64, u64),
}

impl SocketFile {
    /// Binds a path, in the place of what a process of this user left behind. The socket does not listen
    /// yet, so nobody can connect.
    pub(super) fn bind(path: &Path) -> Result<(Socket, Self), Unusable> {
        check_folder(path)?;
        make_room(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = Self::at(path)?;
        // Nobody can connect before it listens, so at no time can anybody else.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok((socket, file))
    }

    /// The file of a socket that listens already.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: identity(&found) })
    }

    pub(super) fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() && matches!(is_served(&self.path), Ok(false)) {
            // That it is gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Refuses a folder in which other users may replace a file of ours: permissions are set by path, and
/// clients connect by path. In a folder with the sticky bit, as `/tmp` has it, they may not.
fn check_folder(path: &Path) -> Result<(), Unusable> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = fs::metadata(folder)?.mode();
    if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Err(Unusable::OpenFolder(folder.to_owned()));
    }
    Ok(())
}

fn make_room(path: &Path) -> Result<(), Unusable> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(Unusable::NotASocket);
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Unusable::OtherOwner(found.uid()));
    }
    if is_served(path)? {
        return Err(Unusable::Served);
    }
    Ok(fs::remove_file(path)?)
}

/// Whether a process listens at a socket, also one that is too busy to accept.
fn is_served(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    let kind = probe.connect(&SockAddr::unix(path)?).map_err(|error| error.kind());
    Ok(!matches!(kind, Err(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)))
}
