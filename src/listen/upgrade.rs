//! Handing the listeners to a new process, so that the program can be replaced without refusing a
//! connection.
//!
//! The new process, started with `--upgrade`, waits at a Unix socket. SIGQUIT makes the old one
//! connect there and send its listeners; the new one serves and says so; only then does the old one
//! drain. Whatever fails before that leaves the old process serving as before.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;

use crate::listen::listener::Listener;
use crate::listen::socket_file::{self, SocketFile};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// More listeners than there are roles.
const MAX_LISTENERS: usize = 8;

/// What the new process says when it serves.
const SERVING: &[u8] = b"serving\n";

/// The new process's side, waiting.
pub(crate) struct Waiting {
    socket: Socket,
    /// Dropped after the socket.
    _file: SocketFile,
}

/// Listeners that were handed over, and whom to tell that they are served.
pub(crate) struct HandedOver {
    pub(crate) listeners: Vec<Listener>,
    old: UnixStream,
}

impl Waiting {
    /// Takes the place at the socket. Only this user can reach it.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let (socket, file) = SocketFile::bind(path).map_err(|why| {
            anyhow!("cannot wait at `{}`: {why}, or choose another server.upgrade_socket", path.display())
        })?;
        socket.listen(socket_file::BACKLOG)?;
        Ok(Self { socket, _file: file })
    }

    /// The listeners of the old process.
    pub(crate) fn receive(self) -> Result<HandedOver> {
        let end = Instant::now() + PATIENCE;
        let old = loop {
            match self.socket.accept() {
                Ok((stream, _)) => break UnixStream::from(stream),
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
                // One that cannot be used is opened anew.
                listeners.extend(descriptors.filter_map(|descriptor| Listener::handed_over(descriptor).ok()));
            }
        }
        if listeners.is_empty() {
            bail!("the old process handed nothing over");
        }
        Ok(HandedOver { listeners, old })
    }
}

impl HandedOver {
    /// Lets the old process go.
    pub(crate) fn serving(mut self) -> io::Result<()> {
        self.old.write_all(SERVING)
    }
}

/// The old process's side: sends the listeners and waits until they are served. Returns the new
/// process's id.
pub(crate) fn hand_over(path: &Path, listeners: &[Listener]) -> Result<u32> {
    let mut new = UnixStream::connect(path).with_context(|| {
        format!("nobody waits at `{}`; start the new process with --upgrade first", path.display())
    })?;
    new.set_read_timeout(Some(PATIENCE))?;
    let peer = socket_peercred(&new)?;
    if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
        bail!("another user waits at `{}`", path.display());
    }
    let descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
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
