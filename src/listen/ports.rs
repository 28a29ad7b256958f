//! Listening ports, and the operators' socket, which a reload may move.
//!
//! A new one is bound before the configuration is published, so that a busy one refuses the reload;
//! the old one stops accepting after it, and its connections finish. Accepting is ours and not that of
//! Pingora's `Server`, whose ports are fixed, which goes on without a port that it could not bind, and
//! which sleeps through the whole grace period when it shuts down.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora::apps::HttpServerApp;
use pingora::proxy::HttpProxy;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::config::Config;
use crate::gateway::Gateway;
use crate::listen::acceptor::Acceptor;
use crate::listen::connections::Connections;
use crate::listen::listener::{Address, Bound, Listener};
use crate::listen::workers::Workers;
use crate::process::lifecycle::Lifecycle;
use crate::reload::{Commit, Listen};

/// The reason why a process that ends opens nothing.
const ENDING: &str = "the process is shutting down";

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Traffic,
    Operators,
    /// The operators' Unix socket.
    OperatorsSocket,
}

impl Role {
    /// Where a configuration wants the port; `None` when it wants none.
    fn address(self, config: &Config) -> Option<Address> {
        match self {
            Self::Traffic => Some(Address::Port(config.server.listen)),
            Self::Operators => config.operators.listen.map(Address::Port),
            Self::OperatorsSocket => config.operators.socket.clone().map(Address::Path),
        }
    }

    /// The key that says where.
    fn key(self) -> &'static str {
        match self {
            Self::Traffic => "server.port",
            Self::Operators => "admin.port",
            Self::OperatorsSocket => "admin.socket",
        }
    }
}

/// Every role, the traffic port first.
const ROLES: [Role; 3] = [Role::Traffic, Role::Operators, Role::OperatorsSocket];

/// Listeners by what they are for.
pub(crate) type Listeners = HashMap<Role, Listener>;

/// Sockets that do not listen yet, each with the role of its port, and whether it shares a port number
/// with one of ours on another address.
type BoundPorts = Vec<(Role, Bound, Beside)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nobody,
    Ours,
}

/// How far the end of a port has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Serving,
    /// Answers are the last ones on their connections.
    Draining,
    /// No new connections.
    Closed,
}

struct Port {
    /// A second handle on the socket, for handing it over.
    listener: Listener,
    stage: watch::Sender<Stage>,
}

/// All ports of the process.
pub(crate) struct Ports {
    workers: Arc<Workers>,
    /// Serves operators wherever they come in, and needs no store.
    operators: Arc<HttpProxy<Gateway>>,
    acceptors: TaskTracker,
    lifecycle: Arc<Lifecycle>,
    connections: Arc<Connections>,
    open: Mutex<Open>,
}

/// The ports that are open, and how far their common end has come: a port that a late reload opens begins
/// at the same stage.
struct Open {
    stage: Stage,
    ports: HashMap<Role, Port>,
}

impl Ports {
    pub(crate) fn new(
        workers: Workers,
        operators: Arc<HttpProxy<Gateway>>,
        lifecycle: Arc<Lifecycle>,
        connections: Arc<Connections>,
    ) -> Self {
        let (workers, acceptors) = (Arc::new(workers), TaskTracker::new());
        let open = Mutex::new(Open { stage: Stage::Serving, ports: HashMap::new() });
        Self { workers, operators, acceptors, lifecycle, connections, open }
    }

    /// Begins to serve on listeners.
    pub(crate) fn open(&self, listeners: Listeners) -> io::Result<()> {
        // Until the end, so that a reload that comes in at the first one sees them all.
        self.serve_all(&mut self.open.lock(), listeners)
    }

    fn serve_all(&self, open: &mut Open, listeners: Listeners) -> io::Result<()> {
        for (role, listener) in listeners {
            let port = self.serve(role, listener, open.stage)?;
            open.ports.insert(role, port);
        }
        Ok(())
    }

    /// Binds what a configuration wants and is not there. What comes back begins to listen, and then puts
    /// the ports into service and retires those that are wanted no more.
    pub(crate) fn bind(self: &Arc<Self>, config: &Config) -> Result<Listen, String> {
        let wanted: HashMap<Role, Address> =
            ROLES.into_iter().filter_map(|role| Some((role, role.address(config)?))).collect();
        if self.lifecycle.is_draining() {
            return Err(ENDING.to_owned());
        }
        let mut bound = BoundPorts::new();
        let open = self.open.lock();
        for role in ROLES {
            let Some(address) = wanted.get(&role) else { continue };
            if open.ports.get(&role).is_none_or(|port| !port.listener.is_reached_at(address)) {
                let (socket, beside) = bind_beside(address, role, &open.ports)?;
                bound.push((role, socket, beside));
            }
        }
        drop(open);
        let ports = self.clone();
        Ok(Box::new(move || ports.listen(wanted, bound)))
    }

    /// Begins to listen on every socket that was bound. Where one cannot, the others close again.
    fn listen(self: Arc<Self>, wanted: HashMap<Role, Address>, bound: BoundPorts) -> Result<Commit, String> {
        let open = self.open.lock();
        if open.stage == Stage::Closed {
            return Err(ENDING.to_owned());
        }
        let mut listeners = Listeners::new();
        for (role, socket, beside) in bound {
            let address = socket.address().clone();
            let listening = match beside {
                Beside::Nobody => socket.listen(false),
                Beside::Ours => sharing(&address, &open.ports, || socket.listen(true)),
            };
            let listener = listening.map_err(|error| refused(&address, role, &error))?;
            listeners.insert(role, listener);
        }
        drop(open);
        Ok(Box::new(move || self.commit(&wanted, listeners)))
    }

    fn commit(&self, wanted: &HashMap<Role, Address>, listeners: Listeners) {
        let retired: Vec<Port> = {
            let mut open = self.open.lock();
            // The process has begun to end meanwhile, and nobody would close what is opened now.
            if open.stage == Stage::Closed {
                return;
            }
            let is_gone = |role: &Role| !wanted.contains_key(role) || listeners.contains_key(role);
            let gone: Vec<Role> = open.ports.keys().copied().filter(is_gone).collect();
            let retired = gone.iter().filter_map(|role| open.ports.remove(role)).collect();
            if let Err(error) = self.serve_all(&mut open, listeners) {
                // Listening has worked, so this is a process without resources.
                error!(%error, "a new port cannot be served");
            }
            retired
        };
        for port in retired {
            port.stage.send_replace(Stage::Closed);
        }
    }

    /// Of the threads that serve connections.
    pub(crate) fn runtimes(&self) -> Vec<Handle> {
        self.workers.iter().map(|worker| worker.runtime.clone()).collect()
    }

    /// Listeners for a hand-over.
    pub(crate) fn listeners(&self) -> io::Result<Vec<Listener>> {
        self.open.lock().ports.values().map(|port| port.listener.try_clone()).collect()
    }

    /// From now on every answer is the last one on its connection.
    pub(crate) fn drain(&self) {
        self.send_stage(Stage::Draining);
    }

    /// Takes no new connections and ends those that wait for a request. A request whose header has come in
    /// part may complete it until the deadline.
    pub(crate) async fn close(&self, deadline: Instant) {
        self.send_stage(Stage::Closed);
        // The last handles on the sockets, or they would go on listening for nobody.
        self.open.lock().ports.clear();
        self.acceptors.close();
        self.acceptors.wait().await;
        // Pingora ends these too, without a word.
        let _ = timeout_at(deadline, self.lifecycle.headers_complete()).await;
        for proxy in self.workers.iter().map(|worker| &worker.proxy).chain([&self.operators]) {
            proxy.http_cleanup().await;
        }
        self.workers.close();
    }

    /// Completes when the last connection has ended.
    pub(crate) async fn closed(&self) {
        self.workers.closed().await;
    }

    fn send_stage(&self, stage: Stage) {
        let mut open = self.open.lock();
        open.stage = stage;
        for port in open.ports.values() {
            port.stage.send_replace(stage);
        }
    }

    fn serve(&self, role: Role, listener: Listener, stage: Stage) -> io::Result<Port> {
        let runtime = &self.workers.first().runtime;
        let _entered = runtime.enter();
        let incoming = listener.try_clone()?.into_incoming()?;
        let (stage, stages) = watch::channel(stage);
        let operators = (role != Role::Traffic).then(|| self.operators.clone());
        let acceptor = Acceptor {
            workers: self.workers.clone(),
            operators,
            stages,
            lifecycle: self.lifecycle.clone(),
            connections: self.connections.clone(),
        };
        self.acceptors.spawn_on(acceptor.run(incoming), runtime);
        Ok(Port { listener, stage })
    }
}

/// Listens on every port that a configuration wants, except where a listener is at hand. One after the
/// other: of two processes that start at once, one fails at the traffic port and touches no socket file.
pub(crate) fn bind_all(config: &Config, mut at_hand: Vec<Listener>) -> Result<Listeners, String> {
    let mut listeners = Listeners::new();
    for role in ROLES {
        let Some(address) = role.address(config) else { continue };
        let listener = match at_hand.iter().position(|listener| *listener.address() == address) {
            Some(position) => at_hand.swap_remove(position),
            None => bind(&address, role)?.listen(false).map_err(|error| refused(&address, role, &error))?,
        };
        listeners.insert(role, listener);
    }
    Ok(listeners)
}

fn bind(address: &Address, role: Role) -> Result<Bound, String> {
    match address {
        Address::Port(port) => Bound::at_port(*port, false).map_err(|error| taken(*port, role, &error)),
        Address::Path(path) => Bound::at_path(path.clone())
            .map_err(|why| format!("cannot listen on {address}: {why}, or choose another {}", role.key())),
    }
}

fn refused(address: &Address, role: Role, error: &io::Error) -> String {
    match address {
        Address::Port(port) => taken(*port, role, error),
        Address::Path(_) => format!("cannot listen on {address}: {error}; choose another {}", role.key()),
    }
}

fn taken(address: SocketAddr, role: Role, error: &io::Error) -> String {
    let key = role.key();
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "this user may not open this port: choose a higher {key}, or allow it with \
             `setcap cap_net_bind_service=+ep` on the program or, in a systemd unit, with \
             AmbientCapabilities=CAP_NET_BIND_SERVICE"
        ),
        _ => format!("choose another {key}, or end what listens there"),
    };
    format!("cannot listen on {address}: {error}; {remedy}")
}

/// Binds a port that one of ours may stand in the way of: the same number on another address.
fn bind_beside(address: &Address, role: Role, open: &HashMap<Role, Port>) -> Result<(Bound, Beside), String> {
    match address {
        Address::Port(wanted) if !with_the_number_of(address, open).is_empty() => {
            let bound = sharing(address, open, || Bound::at_port(*wanted, true));
            bound.map(|bound| (bound, Beside::Ours)).map_err(|error| taken(*wanted, role, &error))
        }
        _ => bind(address, role).map(|bound| (bound, Beside::Nobody)),
    }
}

/// Does something with a port while those of ours with its number share it: the kernel lets two sockets
/// share a port when both say so. They say so for this moment only, or another process could take a share
/// unnoticed.
fn sharing<T>(
    address: &Address,
    open: &HashMap<Role, Port>,
    action: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let ours = with_the_number_of(address, open);
    let share = |shared: bool| ours.iter().try_for_each(|port| port.listener.socket().set_reuse_port(shared));
    let done = share(true).and_then(|()| action());
    let _ = share(false);
    done
}

/// The open ports with the port number of an address.
fn with_the_number_of<'o>(address: &Address, open: &'o HashMap<Role, Port>) -> Vec<&'o Port> {
    let Address::Port(wanted) = address else { return Vec::new() };
    let has_its_number =
        |port: &&Port| matches!(port.listener.address(), Address::Port(ours) if ours.port() == wanted.port());
    open.values().filter(has_its_number).collect()
}
