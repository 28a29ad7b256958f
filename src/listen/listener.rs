//! What listens, at a port or at a Unix socket, and the connections that come in.

use std::fmt;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pingora::http::ResponseHeader;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{GetProxyDigest, GetSocketDigest, SocketDigest};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::gateway::{Downstream, LocalUser};
use crate::listen::connection::Connection;
use crate::listen::socket_file::{self, SocketFile, Unusable};
use crate::process::lifecycle::Lifecycle;

/// Connections that may wait to be accepted; the kernel cuts it to its own limit.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Port(SocketAddr),
    /// Of a Unix socket.
    Path(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Path(path) => write!(f, "`{}`", path.display()),
        }
    }
}

/// A socket that is bound and does not listen yet, so that it takes no connection from another one.
/// Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Bound(Listener);

impl Bound {
    /// Binds a port; with `beside_another` also where another socket that says so has it.
    pub(super) fn at_port(address: SocketAddr, beside_another: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(beside_another)?;
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_port(false)?;
        Ok(Self(Listener { socket, address: Address::Port(address), file: None }))
    }

    pub(super) fn at_path(path: PathBuf) -> Result<Self, Unusable> {
        let (socket, file) = SocketFile::bind(&path)?;
        Ok(Self(Listener { socket, address: Address::Path(path), file: Some(Arc::new(file)) }))
    }

    pub(super) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Begins to listen; with `beside_another` also where another socket that says so has the port.
    pub(super) fn listen(self, beside_another: bool) -> io::Result<Listener> {
        let Self(listener) = self;
        let backlog = match listener.address {
            Address::Port(_) => {
                listener.socket.set_reuse_port(beside_another)?;
                BACKLOG
            }
            Address::Path(_) => socket_file::BACKLOG,
        };
        listener.socket.listen(backlog)?;
        if beside_another {
            listener.socket.set_reuse_port(false)?;
        }
        Ok(listener)
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    address: Address,
    /// The file of a Unix socket. It stands below the socket, so that it is dropped after it.
    file: Option<Arc<SocketFile>>,
}

impl Listener {
    /// A socket that another process has opened.
    pub(crate) fn handed_over(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let address = match (local.as_socket(), local.as_pathname()) {
            (Some(address), _) => Address::Port(address),
            (None, Some(path)) => Address::Path(path.to_owned()),
            (None, None) => return Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        let file = match &address {
            // Without its file nobody can reach it any more.
            Address::Path(path) => Some(Arc::new(SocketFile::at(path)?)),
            Address::Port(_) => None,
        };
        Ok(Self { socket, address, file })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Whether whoever goes to an address arrives here; the file of a socket may be gone.
    pub(crate) fn is_reached_at(&self, address: &Address) -> bool {
        self.address == *address && self.file.as_ref().is_none_or(|file| file.is_there())
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let (address, file) = (self.address.clone(), self.file.clone());
        Ok(Self { socket: self.socket.try_clone()?, address, file })
    }

    /// For use on a runtime, which must have been entered.
    pub(crate) fn into_incoming(self) -> io::Result<Incoming> {
        let queue = match self.address {
            Address::Port(_) => Queue::Port(TcpListener::from_std(self.socket.into())?),
            Address::Path(_) => Queue::Path(UnixListener::from_std(self.socket.into())?),
        };
        Ok(Incoming { queue, _file: self.file })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The connections of one listener.
pub(crate) struct Incoming {
    queue: Queue,
    /// Dropped after the queue.
    _file: Option<Arc<SocketFile>>,
}

enum Queue {
    Port(TcpListener),
    Path(UnixListener),
}

impl Incoming {
    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        Ok(match &self.queue {
            Queue::Port(listener) => {
                let (stream, client) = listener.accept().await?;
                Accepted::Port(stream.into_std()?, client)
            }
            Queue::Path(listener) => Accepted::Path(listener.accept().await?.0.into_std()?),
        })
    }

    /// The connections that wait to be accepted, and not many that come meanwhile: another process may have
    /// the socket too.
    pub(crate) fn rest(self) -> Vec<Accepted> {
        // Asked of the kernel: a runtime tells of what it has heard, and only so much at a time.
        let port = |listener: &std::net::TcpListener| {
            let (stream, client) = listener.accept().ok()?;
            stream.set_nonblocking(true).ok()?;
            Some(Accepted::Port(stream, client))
        };
        let path = |listener: &std::os::unix::net::UnixListener| {
            let stream = listener.accept().ok()?.0;
            stream.set_nonblocking(true).ok()?;
            Some(Accepted::Path(stream))
        };
        const WAITING: usize = BACKLOG as usize;
        match self.queue {
            Queue::Port(listener) => {
                listener.into_std().map(|from| iter::from_fn(|| port(&from)).take(WAITING).collect())
            }
            Queue::Path(listener) => {
                listener.into_std().map(|from| iter::from_fn(|| path(&from)).take(WAITING).collect())
            }
        }
        .unwrap_or_default()
    }
}

/// A connection that nothing was read from yet, and that belongs to no runtime.
pub(crate) enum Accepted {
    Port(std::net::TcpStream, SocketAddr),
    Path(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Waits for the first byte, on the runtime that is to serve it. An error when the client is gone.
    /// `header_patience` is what the first header may take.
    pub(crate) async fn until_it_speaks(
        self,
        lifecycle: Arc<Lifecycle>,
        header_patience: Duration,
    ) -> io::Result<(Connection, Arc<Downstream>)> {
        let (mut stream, user): (Stream, _) = match self {
            Self::Port(stream, client) => {
                let stream = TcpStream::from_std(stream)?;
                if stream.peek(&mut [0]).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                stream.set_nodelay(true)?;
                let descriptor = stream.as_raw_fd();
                (with_address(stream.into(), descriptor, Some(client)), None)
            }
            Self::Path(stream) => {
                let stream = UnixStream::from_std(stream)?;
                // Whoever is gone is readable too; Pingora finds out.
                stream.readable().await?;
                let user = LocalUser { uid: stream.peer_cred()?.uid() };
                let descriptor = stream.as_raw_fd();
                (with_address(stream.into(), descriptor, None), Some(user))
            }
        };
        let downstream = Arc::new(Downstream::new(user, header_patience));
        // Pingora's place for what a connection brings along; the header means nothing here.
        let header = ResponseHeader::build(200, Some(0)).map_err(io::Error::other)?;
        stream.set_proxy_digest(ProxyDigest::new(Box::new(header), Some(Box::new(downstream.clone()))));
        Ok((Connection::new(stream, downstream.clone(), lifecycle), downstream))
    }

    /// The address of the client; `None` at a Unix socket.
    pub(crate) fn client(&self) -> Option<SocketAddr> {
        match self {
            Self::Port(_, client) => Some(*client),
            Self::Path(_) => None,
        }
    }
}

/// Tells Pingora the client's address, or that there is none, so that it need not ask.
fn with_address(mut stream: Stream, descriptor: i32, client: Option<SocketAddr>) -> Stream {
    let digest = SocketDigest::from_raw_fd(descriptor);
    // New, so it holds no address yet.
    let _ = digest.peer_addr.set(client.map(Into::into));
    stream.set_socket_digest(digest);
    stream
}
