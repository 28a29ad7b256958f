//! The composition root: what the process is made of, the order in which it starts and ends.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use pingora::apps::HttpServerOptions;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use pingora::time::fast_timeout::set_fast_timeout_to_tokio_threshold;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};

use crate::access::external::Services;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::generation::Live;
use crate::identities::{Refresher, Use};
use crate::listen::connections::Connections;
use crate::listen::ports::{Ports, bind_all};
use crate::listen::upgrade::{self, Waiting};
use crate::listen::workers::Workers;
use crate::net::peer::Authorities;
use crate::net::resolver::{MAX_ADDRESSES, Resolver};
use crate::operators::Operators;
use crate::operators::limiter::Limiter;
use crate::operators::scrapes::Scrapes;
use crate::process::lifecycle::Lifecycle;
use crate::process::signals::{Actions, Caught};
use crate::process::systemd;
use crate::reload::{Notice, Reloader, Surroundings, Warmed};
use crate::s3::Host;
use crate::s3::identity::Source;
use crate::settings::source::Content;
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::tokens::issuers::Issuers;

/// Idle connections to stores that are kept, per thread.
const POOLED_CONNECTIONS_PER_THREAD: usize = 256;

/// How long the names of new stores, their credentials and the keys of issuers may take before a
/// configuration goes into service without them.
const WARM: Duration = Duration::from_secs(2);

/// What a process starts with.
pub(crate) struct Start {
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
    /// The bytes that the configuration was read from.
    pub(crate) content: Content,
    /// The digest of the file, whose content is another one after `--resume`.
    pub(crate) file_digest: String,
    /// Whether the listeners come from a process that runs already.
    pub(crate) upgrade: bool,
}

/// Runs until the process is told to end. Returns when everything under way is done or the grace
/// period is over.
pub(crate) fn run(start: Start, signals: Caught, log: log::Guard) -> Result<()> {
    let Start { path, config, content, file_digest, upgrade } = start;
    log::apply(config.log);
    log::warn_of_environment();
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let handed_over = if upgrade {
        let socket = &config.server.upgrade_socket;
        info!(socket = %socket.display(), "waiting for the listeners; send SIGQUIT to the process that has them");
        Some(Waiting::at(socket)?.receive()?)
    } else {
        None
    };
    let (at_hand, handed_over) = match handed_over {
        Some(mut handed_over) => (std::mem::take(&mut handed_over.listeners), Some(handed_over)),
        None => (Vec::new(), None),
    };
    raise_descriptor_limit();
    let listeners = bind_all(&config, at_hand).map_err(|error| anyhow!(error))?;
    let threads = config.server.threads;
    // All of a second and more are timers of the runtime, which forgets those that are not needed any more;
    // Pingora's own keep each until its time has come.
    set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
    // For what is done beside requests: names, credentials, published keys.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        .enable_all()
        .build()
        .context("no thread can be started")?;
    let _entered = runtime.enter();

    let live = Arc::new(Live::new(Arc::new(config)));
    let metrics = Arc::new(Metrics::new().context("the metrics cannot be registered")?);
    let lifecycle = Arc::new(Lifecycle::default());
    let resolver = Arc::new(Resolver::new(runtime.handle().clone()));
    let issuers = Arc::new(Issuers::new(runtime.handle().clone(), metrics.clone()));
    let refresher = {
        let live = live.clone();
        let is_alive = move |source: &Source| {
            let mut alive = live.alive().into_iter();
            alive
                .any(|generation| uses(&generation.config).any(|used| used.identity.source() == Some(source)))
        };
        Refresher::new(runtime.handle().clone(), metrics.clone(), is_alive)
    };

    // The ports need proxies, the proxies the reloader, and the reloader the ports.
    let ports_slot = Arc::new(std::sync::OnceLock::<Arc<Ports>>::new());
    let surroundings = {
        let companions = Companions {
            live: live.clone(),
            resolver: resolver.clone(),
            issuers: issuers.clone(),
            refresher: refresher.clone(),
        };
        let ports = ports_slot.clone();
        Surroundings {
            bind: Box::new(move |config| match ports.get() {
                Some(ports) => ports.bind(config),
                None => Err("the process is starting".to_owned()),
            }),
            warm: Box::new(move |current, next, patience| companions.warm(current, next, patience)),
            notice: Box::new(|notice| match notice {
                Notice::Reloading => systemd::reloading(),
                Notice::Ended(attempt) => systemd::reloaded(attempt),
            }),
        }
    };
    let reloader =
        Reloader::start(path.clone(), live.clone(), content, file_digest, metrics.clone(), surroundings)
            .context("the reloader cannot be started")?;
    let reloader = Arc::new(reloader);
    let operators = Arc::new(Operators {
        live: live.clone(),
        reloader: reloader.clone(),
        metrics: metrics.clone(),
        lifecycle: lifecycle.clone(),
        limiter: Limiter::default(),
        turn: Arc::new(Semaphore::new(1)),
        scrapes: Scrapes::default(),
    });
    // Pingora reads the system's root certificates here, and panics where it cannot.
    let services = std::panic::catch_unwind(AssertUnwindSafe(|| Services::new(resolver.clone())));
    let services = Arc::new(services.map_err(|_| {
        anyhow!("the system's root certificates cannot be read; see SSL_CERT_FILE and SSL_CERT_DIR")
    })?);
    let proxy = {
        let (operators, resolver) = (operators.clone(), resolver.clone());
        let (services, issuers) = (services, issuers.clone());
        move |is_for_operators| {
            let gateway = Gateway {
                is_for_operators,
                operators: operators.clone(),
                resolver: resolver.clone(),
                services: services.clone(),
                issuers: issuers.clone(),
                authorities: Authorities::default(),
            };
            proxy(gateway)
        }
    };
    let for_operators = proxy(true);
    let workers = Workers::start(threads, move || proxy(false)).context("the threads cannot be started")?;
    let ports = Arc::new(Ports::new(
        workers,
        for_operators,
        lifecycle.clone(),
        Arc::new(Connections::new(live.clone(), metrics)),
    ));
    let _ = ports_slot.set(ports.clone());
    // Without waiting: the first requests wait for themselves.
    let (first_names, _) = resolver.warm(names(&live.current().config), Duration::ZERO);
    resolver.adopt(first_names);
    let in_service = live.clone();
    issuers.start(move || in_service.current().config.jwks.clone());
    // A request cannot wait for credentials.
    let (first_credentials, warnings) = refresher.warm(uses(&live.current().config), Instant::now() + WARM);
    refresher.adopt(uses(&live.current().config), first_credentials);
    for warning in warnings {
        warn!("{warning}");
    }
    // Whoever finds the process ready may tell it to end.
    signals.catch_all().context("signals cannot be caught")?;
    ports.open(listeners).context("the ports cannot be served")?;
    reloader.start_watcher().context("the watcher cannot be started")?;
    if let Some(handed_over) = handed_over {
        handed_over.serving().context("the old process cannot be told that it may end")?;
    }
    announce_start(&path, &live);
    let actions = actions(&live, &ports, &lifecycle);
    signals.act(reloader.clone(), actions).context("no thread can be started for signals")?;
    systemd::watchdog(runtime.handle(), ports.runtimes());

    runtime.block_on(async {
        lifecycle.draining().await;
        if !lifecycle.is_handed_over() {
            systemd::stopping();
        }
        let grace = live.current().config.server.shutdown_grace;
        let deadline = Instant::now() + grace;
        info!(grace_seconds = grace.as_secs(), "draining");
        ports.drain();
        // New connections are still taken while old requests run, so that whoever asks for readiness
        // hears 503 and goes elsewhere; but not to the end, or they would be cut.
        let _ = timeout(grace / 2, lifecycle.idle()).await;
        ports.close(deadline).await;
        match timeout_at(deadline, ports.closed()).await {
            Ok(()) => info!("drained"),
            Err(_) => warn!(
                requests = lifecycle.requests_in_flight(),
                "the grace period is over; requests under way are cut"
            ),
        }
    });
    reloader.finish();
    runtime.shutdown_background();
    drop(log);
    Ok(())
}

/// Everything that a configuration needs from elsewhere.
struct Companions {
    live: Arc<Live>,
    resolver: Arc<Resolver>,
    issuers: Arc<Issuers>,
    refresher: Arc<Refresher>,
}

impl Companions {
    /// Looks up and fetches what the next configuration needs, and leaves what is in service as it is.
    fn warm(&self, current: &Config, next: &Config, patience: Duration) -> Warmed {
        let patience = patience.min(WARM);
        let deadline = Instant::now() + patience;
        // All at once: the issuers answer while names and credentials are waited for.
        self.issuers.begin(&next.jwks);
        let (found, mut warnings) = self.resolver.warm(names(next), patience);
        let (first, more) = self.refresher.warm(uses(next), deadline);
        warnings.extend(more);
        let (outdated, more) = self.issuers.warm(&current.jwks, &next.jwks, deadline);
        warnings.extend(more);
        let (live, resolver, issuers, refresher) =
            (self.live.clone(), self.resolver.clone(), self.issuers.clone(), self.refresher.clone());
        let commit = move || {
            resolver.adopt(found);
            issuers.adopt(outdated);
            refresher.adopt(uses(&live.current().config), first);
        };
        Warmed { warnings, commit: Box::new(commit) }
    }
}

/// As many files and connections as this user may have; the soft limit is a relic of `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

fn actions(live: &Arc<Live>, ports: &Arc<Ports>, lifecycle: &Arc<Lifecycle>) -> Actions {
    let drain = {
        let lifecycle = lifecycle.clone();
        move || lifecycle.drain()
    };
    let hand_over = {
        let (live, ports, lifecycle) = (live.clone(), ports.clone(), lifecycle.clone());
        let hand_over = move || {
            let socket = live.current().config.server.upgrade_socket.clone();
            let handed_over = ports
                .listeners()
                .map_err(anyhow::Error::from)
                .and_then(|listeners| upgrade::hand_over(&socket, &listeners));
            match handed_over {
                Ok(pid) => {
                    info!(pid, "another process serves now");
                    systemd::main_pid(pid);
                    lifecycle.hand_over();
                }
                Err(error) => error!("the listeners stay here: {error:#}"),
            }
        };
        // On a thread of its own: it waits for another process, and signals must not wait with it.
        move || {
            let hand_over = hand_over.clone();
            if let Err(error) = thread::Builder::new().name("hand-over".to_owned()).spawn(hand_over) {
                error!(%error, "the listeners stay here: no thread could be started");
            }
        }
    };
    Actions {
        drain: Box::new(drain),
        hand_over: Box::new(hand_over),
        // The log is lost with the process, so that nothing can hold it up.
        exit: Box::new(|| std::process::exit(0)),
    }
}

fn proxy(gateway: Gateway) -> Arc<HttpProxy<Gateway>> {
    let mut proxy = http_proxy(&Arc::new(pingora_conf()), gateway);
    let mut options = HttpServerOptions::default();
    // Refused by us like every other method, with `Allow`, a log line and a count.
    options.allow_connect_method_proxying = true;
    proxy.server_options = Some(options);
    Arc::new(proxy)
}

fn pingora_conf() -> ServerConf {
    ServerConf {
        upstream_keepalive_pool_size: POOLED_CONNECTIONS_PER_THREAD,
        // Attempts in all: each address once, and one more for a connection that had gone stale.
        max_retries: MAX_ADDRESSES + 1,
        ..ServerConf::default()
    }
}

/// The host names of all stores and services, to be looked up before a request needs them.
fn names(config: &Config) -> impl Iterator<Item = &str> {
    let stores = config.buckets.iter().map(|bucket| bucket.store.endpoint());
    let services = config.buckets.iter().filter_map(|bucket| Some(&bucket.external.as_ref()?.endpoint));
    stores.chain(services).filter_map(|endpoint| match &endpoint.host {
        Host::Name(name) => Some(name.as_str()),
        Host::Address(_) => None,
    })
}

/// The identities of all buckets.
fn uses(config: &Config) -> impl Iterator<Item = Use<'_>> + Clone {
    config.buckets.iter().map(|bucket| Use { bucket: &bucket.name, identity: &bucket.identity })
}

fn announce_start(path: &Path, live: &Live) {
    let generation = live.current();
    let config = &generation.config;
    let pid = std::process::id();
    let operators = config.operators.listen.unwrap_or(config.server.listen);
    systemd::ready(generation.number);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid,
        address = %config.server.listen,
        admin_address = %operators,
        admin_socket = config.operators.socket.as_ref().map(|path| path.display().to_string()),
        config = %path.display(),
        digest = config.digest,
        generation = generation.number,
        "serving; reload with kill -HUP {pid}"
    );
}
