//! The only writer of the live pointer: one pipeline for every trigger, one run at a time.
//!
//! Runs happen on a thread of their own, never on a thread that serves requests. All triggers that
//! arrived before a run share its outcome; one that arrives during a run causes one more. A run
//! that panics, or that is not done at its deadline, is a refused reload and nothing else.

pub mod signals;

use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::config::changes::{self, Change, PendingRestart};
use crate::config::problem::{Place, Problems};
use crate::config::{self, Config};
use crate::generation::{Generation, Live};
use crate::metrics::Metrics;

/// How long reading and validating may take. Files on a dead network mount take for ever.
const DEADLINE: Duration = Duration::from_secs(30);

/// Who asked for a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    Signal,
    /// `POST /admin/reload`, with the `sub` of the token.
    Admin {
        subject: Option<String>,
    },
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal => f.write_str("SIGHUP"),
            Self::Admin { subject: Some(subject) } => write!(f, "POST /admin/reload by {subject:?}"),
            Self::Admin { subject: None } => f.write_str("POST /admin/reload"),
        }
    }
}

/// A reload that took effect.
#[derive(Debug)]
pub struct Published {
    pub generation: Arc<Generation>,
    pub changes: Vec<Change>,
    pub pending_restart: Vec<PendingRestart>,
    pub at: SystemTime,
    pub duration: Duration,
}

/// A reload that changed nothing, and why.
#[derive(Debug)]
pub struct Refused {
    pub problems: Problems,
    /// Whether the deadline passed, so that the file itself may be fine.
    pub timed_out: bool,
    /// The generation that stays in service.
    pub generation: u64,
    pub at: SystemTime,
    pub duration: Duration,
}

pub type Outcome = Result<Arc<Published>, Arc<Refused>>;

struct Request {
    trigger: Trigger,
    answer: oneshot::Sender<Outcome>,
}

/// Reloads the configuration. Cheap to share.
pub struct Reloader {
    requests: mpsc::Sender<Request>,
    history: Arc<Mutex<History>>,
}

/// What the last runs came to.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub last: Option<Outcome>,
    pub last_published: Option<Arc<Published>>,
}

/// Called with each new generation, after it is in service.
type Announce = Box<dyn Fn(&Generation) + Send>;

impl Reloader {
    /// Starts the thread. The generation in `live` is the one that the process was started with.
    pub fn start(
        path: PathBuf,
        live: Arc<Live>,
        metrics: Arc<Metrics>,
        announce: Announce,
    ) -> std::io::Result<Self> {
        let (requests, queue) = mpsc::channel();
        let history = Arc::new(Mutex::new(History::default()));
        let started_with = live.current();
        metrics.published(started_with.number, 0);
        let worker = Worker { path, live, metrics, announce, started_with, history: history.clone() };
        thread::Builder::new().name("reload".to_owned()).spawn(move || worker.run(&queue))?;
        Ok(Self { requests, history })
    }

    /// Asks for a reload without waiting for it.
    pub fn trigger(&self, trigger: Trigger) {
        drop(self.request(trigger));
    }

    /// Asks for a reload and waits for the outcome of a run that started after this call. `None`
    /// when the process is ending.
    pub async fn reload(&self, trigger: Trigger) -> Option<Outcome> {
        self.request(trigger).await.ok()
    }

    pub fn history(&self) -> History {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn request(&self, trigger: Trigger) -> oneshot::Receiver<Outcome> {
        let (answer, outcome) = oneshot::channel();
        // The thread only ends with the process; then the receiver reports that it is closed.
        let _ = self.requests.send(Request { trigger, answer });
        outcome
    }
}

struct Worker {
    path: PathBuf,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    announce: Announce,
    /// What restart-only keys are compared with.
    started_with: Arc<Generation>,
    history: Arc<Mutex<History>>,
}

impl Worker {
    fn run(&self, queue: &mpsc::Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            // Whoever is waiting now arrived before this run and shares it.
            let waiting: Vec<Request> = std::iter::once(first).chain(queue.try_iter()).collect();
            let outcome = self.reload();
            self.log(&waiting, &outcome);
            self.record(&outcome);
            for request in waiting {
                // Whoever no longer waits is not interested.
                let _ = request.answer.send(outcome.clone());
            }
        }
    }

    fn reload(&self) -> Outcome {
        let started = Instant::now();
        let loaded = self.load();
        let outcome = match loaded {
            Ok(config) => Ok(self.publish(config, started)),
            Err((problems, timed_out)) => Err(Arc::new(Refused {
                problems,
                timed_out,
                generation: self.live.current().number,
                at: SystemTime::now(),
                duration: started.elapsed(),
            })),
        };
        self.metrics.reloaded(outcome.is_ok(), SystemTime::now());
        outcome
    }

    /// Runs the loader on a thread that may be given up.
    fn load(&self) -> Result<Config, (Problems, bool)> {
        let failed = |message: String, timed_out| (Problems::one(Place::root(), None, message), timed_out);
        let (done, loaded) = mpsc::sync_channel(1);
        let path = self.path.clone();
        thread::Builder::new()
            .name("reload-load".to_owned())
            .spawn(move || {
                // Nobody waits any more when the deadline has passed.
                let _ = done.send(config::load(&path));
            })
            .map_err(|error| failed(format!("no thread could be started: {error}"), false))?;
        match loaded.recv_timeout(DEADLINE) {
            Ok(loaded) => loaded.map_err(|problems| (problems, false)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(failed(format!("loading took longer than {} seconds", DEADLINE.as_secs()), true))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(failed("loading panicked; this is a bug, and the log has the details".to_owned(), false))
            }
        }
    }

    fn publish(&self, config: Config, started: Instant) -> Arc<Published> {
        let changes = changes::between(&self.live.current().config, &config);
        let pending_restart = changes::pending_restart(&self.started_with.config, &config);
        let (_, generation) = self.live.publish(config);
        self.metrics.published(generation.number, pending_restart.len());
        (self.announce)(&generation);
        Arc::new(Published {
            generation,
            changes,
            pending_restart,
            at: SystemTime::now(),
            duration: started.elapsed(),
        })
    }

    fn record(&self, outcome: &Outcome) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(published) = outcome {
            history.last_published = Some(published.clone());
        }
        history.last = Some(outcome.clone());
    }

    fn log(&self, waiting: &[Request], outcome: &Outcome) {
        let trigger = join(waiting.iter().map(|request| &request.trigger), ", ");
        match outcome {
            Ok(published) => {
                let config = &published.generation.config;
                info!(
                    trigger,
                    generation = published.generation.number,
                    digest = config.digest,
                    duration_ms = milliseconds(published.duration),
                    changes = join(&published.changes, "; "),
                    "configuration reloaded"
                );
                for warning in &config.warnings {
                    warn!("{warning}");
                }
                for pending in &published.pending_restart {
                    warn!(key = pending.key, "the key takes effect after a restart");
                }
            }
            Err(refused) => error!(
                trigger,
                generation = refused.generation,
                duration_ms = milliseconds(refused.duration),
                "configuration reload failed: {}; generation {} stays in service",
                refused.problems,
                refused.generation
            ),
        }
    }
}

fn join<T: fmt::Display>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(separator)
}

/// With the precision of a microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
