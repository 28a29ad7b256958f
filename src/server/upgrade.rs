//! Handing the listeners to a new process, so that the program can be replaced without refusing a
//! connection.
//!
//! The new process, started with `--upgrade`, waits at a Unix socket. SIGQUIT makes the old one
//! connect there and send its listeners; the new one serves and says so; only then does the old one
//! drain. Whatever fails before that leaves the old process serving as before.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::ports::Role;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// More listeners than there are roles.
const MAX_LISTENERS: usize = 8;

/// What the new process says when it serves.
const SERVING: &[u8] = b"serving\n";

/// The new process's side, waiting.
pub struct Waiting(UnixListener);

/// Listeners that were handed over, and whom to tell that they are served.
pub struct HandedOver {
    pub listeners: Vec<TcpListener>,
    old: UnixStream,
}

impl Waiting {
    /// Takes the place at the socket. Only this user can reach it.
    pub fn at(path: &Path) -> Result<Self> {
        match fs::symlink_metadata(path) {
            // Of a process that is gone.
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => bail!("`{}` is no socket; see server.upgrade_socket", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("`{}`", path.display())),
        }
        let listener = UnixListener::bind(path).with_context(|| {
            format!("`{}`: no socket can be made here; see server.upgrade_socket", path.display())
        })?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// The listeners of the old process.
    pub fn receive(self) -> Result<HandedOver> {
        let end = Instant::now() + PATIENCE;
        let old = loop {
            match self.0.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() > end {
                        bail!("no listeners were handed over within {} seconds", PATIENCE.as_secs());
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error.into()),
            }
        };
        old.set_nonblocking(false)?;
        old.set_read_timeout(Some(PATIENCE))?;
        let peer = socket_peercred(&old)?;
        if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
            bail!("the listeners come from another user");
        }
        let mut text = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&old, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .context("the listeners cannot be received")?;
        let mut listeners = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                listeners.extend(descriptors.map(|descriptor: OwnedFd| TcpListener::from(descriptor)));
            }
        }
        if listeners.is_empty() {
            bail!("the old process handed nothing over");
        }
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        Ok(HandedOver { listeners, old })
    }
}

impl HandedOver {
    /// Lets the old process go.
    pub fn serving(mut self) -> io::Result<()> {
        self.old.write_all(SERVING)
    }
}

/// The old process's side: sends the listeners and waits until they are served. Returns the new
/// process's id.
pub fn hand_over(path: &Path, listeners: &[(Role, SocketAddr, TcpListener)]) -> Result<u32> {
    let mut new = UnixStream::connect(path).with_context(|| {
        format!("nobody waits at `{}`; start the new process with --upgrade first", path.display())
    })?;
    new.set_read_timeout(Some(PATIENCE))?;
    let peer = socket_peercred(&new)?;
    if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
        bail!("another user waits at `{}`", path.display());
    }
    let descriptors: Vec<_> = listeners.iter().map(|(_, _, listener)| listener.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        bail!("too many listeners");
    }
    sendmsg(&new, &[IoSlice::new(b"listeners\n")], &mut ancillary, SendFlags::NOSIGNAL)
        .context("the listeners cannot be sent")?;
    let mut answer = Vec::new();
    new.read_to_end(&mut answer).context("the new process does not answer")?;
    if answer != SERVING {
        bail!("the new process ended before it served");
    }
    Ok(u32::try_from(peer.pid.as_raw_nonzero().get())?)
}
