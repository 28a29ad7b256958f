//! Listening ports, which a reload may move.
//!
//! A new port is bound before the configuration is published, so that a busy one refuses the reload;
//! the old one stops accepting after it, and its connections finish. Accepting is ours and not that of
//! Pingora's `Server`, whose ports are fixed, which goes on without a port that it could not bind, and
//! which sleeps through the whole grace period when it shuts down.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest};
use pingora::proxy::HttpProxy;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::error;

use super::connection::Connection;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::lifecycle::Lifecycle;
use crate::reload::Commit;

/// After a failed accept; the usual reason is that no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Traffic,
    Operators,
}

impl Role {
    /// Where a configuration wants the port; `None` when it wants none.
    fn address(self, config: &Config) -> Option<SocketAddr> {
        match self {
            Self::Traffic => Some(config.server.listen),
            Self::Operators => config.operators.listen,
        }
    }

    fn section(self) -> &'static str {
        match self {
            Self::Traffic => "server",
            Self::Operators => "admin",
        }
    }
}

const ROLES: [Role; 2] = [Role::Traffic, Role::Operators];

/// Listeners by what they are for.
pub type Listeners = HashMap<Role, TcpListener>;

/// How far the end of a port has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Answers are the last ones on their connections.
    Draining,
    /// No new connections.
    Closed,
}

struct Port {
    address: SocketAddr,
    /// A second handle on the socket, for handing it over.
    listener: TcpListener,
    stage: watch::Sender<Stage>,
}

/// All ports of the process.
pub struct Ports {
    runtime: Handle,
    proxies: HashMap<Role, Arc<HttpProxy<Gateway>>>,
    connections: TaskTracker,
    acceptors: TaskTracker,
    lifecycle: Arc<Lifecycle>,
    open: Mutex<HashMap<Role, Port>>,
}

impl Ports {
    pub fn new(
        runtime: Handle,
        proxies: HashMap<Role, Arc<HttpProxy<Gateway>>>,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        let (connections, acceptors) = (TaskTracker::new(), TaskTracker::new());
        Self { runtime, proxies, connections, acceptors, lifecycle, open: Mutex::default() }
    }

    /// Begins to serve on listeners.
    pub fn open(&self, listeners: Listeners) -> io::Result<()> {
        for (role, listener) in listeners {
            let port = self.serve(role, listener)?;
            self.lock().insert(role, port);
        }
        Ok(())
    }

    /// Binds what a configuration wants and is not there; the result puts it into service and retires
    /// what is wanted no more.
    pub fn prepare(self: &Arc<Self>, config: &Config) -> Result<Commit, String> {
        let wanted: HashMap<Role, SocketAddr> =
            ROLES.into_iter().filter_map(|role| Some((role, role.address(config)?))).collect();
        if self.lifecycle.is_draining() {
            return Err("the process is shutting down".to_owned());
        }
        let mut bound = Listeners::new();
        let open = self.lock();
        for (role, address) in &wanted {
            if open.get(role).is_none_or(|port| port.address != *address) {
                bound.insert(*role, bind_beside(*address, *role, &open)?);
            }
        }
        drop(open);
        let ports = self.clone();
        Ok(Box::new(move || ports.commit(&wanted, bound)))
    }

    fn commit(&self, wanted: &HashMap<Role, SocketAddr>, bound: Listeners) {
        let retired: Vec<Port> = {
            let mut open = self.lock();
            let gone: Vec<Role> = open
                .keys()
                .filter(|role| !wanted.contains_key(role) || bound.contains_key(role))
                .copied()
                .collect();
            gone.iter().filter_map(|role| open.remove(role)).collect()
        };
        if let Err(error) = self.open(bound) {
            // Binding has worked, so this is a process without resources.
            error!(%error, "a new port cannot be served");
        }
        for port in retired {
            port.stage.send_replace(Stage::Closed);
        }
    }

    /// Listeners for a hand-over, with what they are for and where they listen.
    pub fn listeners(&self) -> io::Result<Vec<(Role, SocketAddr, TcpListener)>> {
        let open = self.lock();
        open.iter().map(|(role, port)| Ok((*role, port.address, port.listener.try_clone()?))).collect()
    }

    /// From now on every answer is the last one on its connection.
    pub fn drain(&self) {
        self.send_stage(Stage::Draining);
    }

    /// Takes no new connections and ends those that wait for a request.
    pub async fn close(&self) {
        self.send_stage(Stage::Closed);
        // The last handles on the sockets, or they would go on listening for nobody.
        self.lock().clear();
        self.acceptors.close();
        self.acceptors.wait().await;
        for proxy in self.proxies.values() {
            proxy.http_cleanup().await;
        }
        self.connections.close();
    }

    /// Completes when the last connection has ended.
    pub async fn closed(&self) {
        self.connections.wait().await;
    }

    fn send_stage(&self, stage: Stage) {
        for port in self.lock().values() {
            port.stage.send_replace(stage);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Role, Port>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, role: Role, listener: TcpListener) -> io::Result<Port> {
        let _entered = self.runtime.enter();
        let address = listener.local_addr()?;
        let handle = listener.try_clone()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (stage, stages) = watch::channel(Stage::Serving);
        let proxy = self.proxies.get(&role).cloned().ok_or(io::ErrorKind::NotFound)?;
        let acceptor = Acceptor { proxy, stages, connections: self.connections.clone() };
        self.acceptors.spawn_on(acceptor.run(listener), &self.runtime);
        Ok(Port { address, listener: handle, stage })
    }
}

/// Binds every port that a configuration wants, except where a listener is at hand.
pub fn bind_all(config: &Config, mut at_hand: Vec<TcpListener>) -> Result<Listeners, String> {
    let mut listeners = Listeners::new();
    for role in ROLES {
        let Some(address) = role.address(config) else { continue };
        let found =
            at_hand.iter().position(|listener| listener.local_addr().is_ok_and(|local| local == address));
        let listener = match found {
            Some(position) => at_hand.swap_remove(position),
            None => bind(address, role)?,
        };
        listeners.insert(role, listener);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, role: Role) -> Result<TcpListener, String> {
    listen(address, false).map_err(|error| refusal(address, role, &error))
}

fn refusal(address: SocketAddr, role: Role, error: &io::Error) -> String {
    let section = role.section();
    format!("cannot listen on {address}: {error}; choose another {section}.port, or end what listens there")
}

/// Binds a port that one of ours may stand in the way of: the same number on another address.
fn bind_beside(address: SocketAddr, role: Role, open: &HashMap<Role, Port>) -> Result<TcpListener, String> {
    let ours: Vec<&Port> = open.values().filter(|port| port.address.port() == address.port()).collect();
    if ours.is_empty() {
        return bind(address, role);
    }
    // The kernel lets two sockets share a port when both say so. They say so for this moment only, or
    // another process could take a share unnoticed.
    let share =
        |shared: bool| ours.iter().try_for_each(|port| SockRef::from(&port.listener).set_reuse_port(shared));
    let beside = || {
        share(true)?;
        listen(address, true)
    };
    let bound = beside();
    let _ = share(false);
    bound.map_err(|error| refusal(address, role, &error))
}

/// Connections that may wait to be accepted; the kernel cuts it to its own limit.
const BACKLOG: i32 = 4096;

fn listen(address: SocketAddr, beside_another: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(beside_another)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(false)?;
    Ok(socket.into())
}

/// How long a new connection may stay silent.
const FIRST_BYTE: Duration = Duration::from_secs(15);

/// Takes the connections of one port.
struct Acceptor {
    proxy: Arc<HttpProxy<Gateway>>,
    stages: watch::Receiver<Stage>,
    connections: TaskTracker,
}

impl Acceptor {
    async fn run(mut self, listener: tokio::net::TcpListener) {
        // Pingora wants to know of the drain only, in its own form.
        let (draining, shutdown) = watch::channel(false);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                changed = self.stages.changed() => {
                    let stage = *self.stages.borrow_and_update();
                    let _ = draining.send(stage != Stage::Serving);
                    if changed.is_err() || stage == Stage::Closed {
                        break;
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, client)) => self.take(stream, client, &shutdown),
                Err(error) if is_clients_fault(&error) => {}
                Err(error) => {
                    error!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Whoever the kernel has already let in would be thrown out with the socket.
        while let Some(Ok((stream, client))) = listener.accept().now_or_never() {
            self.take(stream, client, &shutdown);
        }
    }

    fn take(&self, stream: TcpStream, client: SocketAddr, shutdown: &watch::Receiver<bool>) {
        let proxy = self.proxy.clone();
        let shutdown = shutdown.clone();
        self.connections.spawn(async move {
            // A client that says nothing, or is gone before its first request, is no event.
            if !matches!(timeout(FIRST_BYTE, stream.peek(&mut [0])).await, Ok(Ok(1))) {
                return;
            }
            if let Ok(stream) = prepare(stream, client) {
                proxy.process_new(Box::new(stream), &shutdown).await;
            }
        });
    }
}

/// Whether a connection broke between the client's wish and our accept.
fn is_clients_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

fn prepare(stream: TcpStream, client: SocketAddr) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // New, so it holds no address yet.
    let _ = digest.peer_addr.set(Some(client.into()));
    let mut stream: Stream = stream.into();
    stream.set_socket_digest(digest);
    Ok(Connection::new(stream))
}
