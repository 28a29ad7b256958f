//! The composition root: what the process is made of, the order in which it starts and ends.
//!
//! Listeners are our own and not those of Pingora's `Server`, which goes on without a port that it
//! could not bind, and which sleeps through the whole grace period when it shuts down.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pingora::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora::protocols::GetSocketDigest;
use pingora::protocols::SocketDigest;
use pingora::protocols::l4::stream::Stream;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::Operators;
use crate::config::Config;
use crate::gateway::resolver::Resolver;
use crate::gateway::{Gateway, MAX_ADDRESSES, Surface};
use crate::generation::{Generation, Live};
use crate::lifecycle::Lifecycle;
use crate::logging;
use crate::metrics::Metrics;
use crate::reload::Reloader;
use crate::reload::signals::Caught;
use crate::s3::Host;

/// Idle connections to stores that are kept, per thread.
const POOLED_CONNECTIONS_PER_THREAD: usize = 256;

/// After a failed accept; the usual reason is that no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs until the process is told to end. Returns when everything under way is done or the grace
/// period is over.
pub fn run(path: &Path, config: Config, signals: Caught, log: logging::Guard) -> Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let listeners = Listeners::bind(&config)?;
    let threads = config.server.threads;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("worker")
        .enable_all()
        .build()
        .context("the threads cannot be started")?;
    let _entered = runtime.enter();

    let live = Arc::new(Live::new(config));
    let metrics = Arc::new(Metrics::new().context("the metrics cannot be registered")?);
    let lifecycle = Arc::new(Lifecycle::default());
    let resolver = Arc::new(Resolver::new(runtime.handle().clone()));
    mention_stores(&resolver, &live.current());
    let announce = {
        let resolver = resolver.clone();
        Box::new(move |generation: &Generation| mention_stores(&resolver, generation))
    };
    let reloader = Reloader::start(path.to_owned(), live.clone(), metrics.clone(), announce)
        .context("the reloader cannot be started")?;
    let reloader = Arc::new(reloader);
    let operators = Arc::new(Operators {
        live: live.clone(),
        reloader: reloader.clone(),
        metrics,
        lifecycle: lifecycle.clone(),
    });

    let (stop, _) = watch::channel(Stage::Serving);
    let connections = TaskTracker::new();
    let gateway = |surface| Gateway { surface, operators: operators.clone(), resolver: resolver.clone() };
    let mut ports = Vec::new();
    for (surface, listener) in listeners.into_surfaces() {
        let mut proxy = http_proxy(&Arc::new(pingora_conf(threads)), gateway(surface));
        proxy.server_options = Some(server_options());
        let proxy = Arc::new(proxy);
        let port = Port { proxy, stop: stop.subscribe(), connections: connections.clone() };
        let listener = TcpListener::from_std(listener).context("the listener cannot be used")?;
        ports.push(port.proxy.clone());
        runtime.spawn(port.accept(listener));
    }
    announce_start(path, &live.current());

    let second_signal = move || {
        // The log is lost with the process, so that nothing can hold it up.
        std::process::exit(0);
    };
    let drain = {
        let lifecycle = lifecycle.clone();
        move || lifecycle.drain()
    };
    signals.act(reloader, drain, second_signal).context("signals cannot be caught")?;

    runtime.block_on(async {
        lifecycle.drained().await;
        let grace = live.current().config.server.shutdown_grace;
        let deadline = Instant::now() + grace;
        info!(grace_seconds = grace.as_secs(), "draining");
        let _ = stop.send(Stage::Draining);
        // New connections are still taken while old requests run, so that whoever asks for readiness
        // hears 503 and goes elsewhere; but not to the end, or they would be cut.
        let _ = timeout(grace / 2, lifecycle.idle()).await;
        let _ = stop.send(Stage::Closed);
        for proxy in &ports {
            // Ends the connections that wait for a request.
            proxy.http_cleanup().await;
        }
        connections.close();
        match timeout_at(deadline, connections.wait()).await {
            Ok(()) => info!("drained"),
            Err(_) => warn!(
                requests = lifecycle.requests_in_flight(),
                "the grace period is over; requests under way are cut"
            ),
        }
    });
    runtime.shutdown_background();
    drop(log);
    Ok(())
}

/// How far the end of the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Answers are the last ones on their connections.
    Draining,
    /// No new connections.
    Closed,
}

/// Bound before anything is started, so that a busy port ends the process at once.
struct Listeners {
    traffic: std::net::TcpListener,
    operators: Option<std::net::TcpListener>,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self> {
        Ok(Self {
            traffic: bind(config.server.listen, "server")?,
            operators: config.operators.listen.map(|address| bind(address, "admin")).transpose()?,
        })
    }

    fn into_surfaces(self) -> Vec<(Surface, std::net::TcpListener)> {
        match self.operators {
            None => vec![(Surface::Shared, self.traffic)],
            Some(operators) => vec![(Surface::Traffic, self.traffic), (Surface::Operators, operators)],
        }
    }
}

fn bind(address: SocketAddr, section: &str) -> Result<std::net::TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, io::Error>(listener)
    };
    bind().with_context(|| {
        format!("cannot listen on {address}; choose another {section}.port, or end what listens there")
    })
}

/// One listening port and the proxy behind it.
struct Port {
    proxy: Arc<HttpProxy<Gateway>>,
    stop: watch::Receiver<Stage>,
    connections: TaskTracker,
}

impl Port {
    async fn accept(mut self, listener: TcpListener) {
        // Pingora wants to know of the drain only, in its own form.
        let (draining, shutdown) = watch::channel(false);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                changed = self.stop.changed() => {
                    let stage = *self.stop.borrow_and_update();
                    let _ = draining.send(stage != Stage::Serving);
                    if changed.is_err() || stage == Stage::Closed {
                        return;
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, client)) => {
                    let proxy = self.proxy.clone();
                    let shutdown = shutdown.clone();
                    self.connections.spawn(async move {
                        // A client that is gone before its first request is no event.
                        if let Ok(stream) = prepare(stream, client) {
                            proxy.process_new(Box::new(stream), &shutdown).await;
                        }
                    });
                }
                Err(error) if is_clients_fault(&error) => {}
                Err(error) => {
                    error!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether a connection broke between the client's wish and our accept.
fn is_clients_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

fn prepare(stream: TcpStream, client: SocketAddr) -> io::Result<Stream> {
    use std::os::fd::AsRawFd;
    stream.set_nodelay(true)?;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // New, so it holds no address yet.
    let _ = digest.peer_addr.set(Some(client.into()));
    let mut stream: Stream = stream.into();
    stream.set_socket_digest(digest);
    Ok(stream)
}

fn pingora_conf(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        upstream_keepalive_pool_size: POOLED_CONNECTIONS_PER_THREAD,
        // Attempts in all: each address once, and one more for a connection that had gone stale.
        max_retries: MAX_ADDRESSES + 1,
        ..ServerConf::default()
    }
}

fn server_options() -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    // Refused by us like every other method, with `Allow`, a log line and a count.
    options.allow_connect_method_proxying = true;
    options
}

/// Has the host names of all stores looked up before a request needs them.
fn mention_stores(resolver: &Resolver, generation: &Generation) {
    for bucket in generation.config.routes.iter() {
        if let Host::Name(name) = bucket.store.host() {
            resolver.mention(name);
        }
    }
}

fn announce_start(path: &Path, generation: &Generation) {
    let config = &generation.config;
    let pid = std::process::id();
    let operators = config.operators.listen.unwrap_or(config.server.listen);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid,
        address = %config.server.listen,
        admin_address = %operators,
        config = %path.display(),
        digest = config.digest,
        generation = generation.number,
        "serving; reload with kill -HUP {pid}"
    );
}
