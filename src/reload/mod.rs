//! The only writer of the live pointer: one pipeline for every trigger, one run at a time.
//!
//! Runs happen on a thread of their own, never on a thread that serves requests: read, parse, fill in
//! references, validate, hooks, warm, bind, publish, announce. Plain reloads that arrived before a run
//! share its outcome; one that arrives during a run causes one more. Everything up to publication
//! happens on a thread that can be given up, so that a run that panics or is not done at its deadline
//! is a refused reload and nothing else.

pub mod attempt;
pub mod history;
pub mod hooks;
mod preparation;
pub mod signals;
pub mod systemd;
pub mod watcher;
pub mod webhook;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::{broadcast, oneshot, watch};

use crate::config::problem::{Place, Problems};
use crate::config::source::Content;
use crate::config::stages::Stages;
use crate::config::{self, Config, Source, Unloaded};
use crate::generation::Live;
use crate::metrics::Metrics;
use attempt::{Attempt, Conditions, From, Restorable, Trigger};
use history::{History, HistoryFile, replace};
use hooks::{Announcement, Hook};
use worker::{Worker, names};

/// Announcements that a slow subscriber may be behind.
const ANNOUNCEMENTS: usize = 256;

/// What is to be done at the moment of publication and cannot fail any more.
pub type Commit = Box<dyn FnOnce() + Send>;

/// Makes what a configuration needs ready, within a time of its own; what did not work is a warning.
type Warm = dyn Fn(&Config) -> Vec<String> + Send + Sync;

/// Opens what may be refused, such as a port.
type Prepare = dyn Fn(&Config) -> Result<Commit, String> + Send + Sync;

/// What the surroundings add to a run. The defaults do nothing.
pub struct Surroundings {
    pub warm: Box<Warm>,
    pub prepare: Box<Prepare>,
    /// Hears of every beginning and end of a run.
    pub notice: Box<dyn Fn(Notice<'_>) + Send + Sync>,
}

/// A run begins or has ended.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    Reloading,
    Ended(&'a Attempt),
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            warm: Box::new(|_| Vec::new()),
            prepare: Box::new(|_| Ok(Box::new(|| ()))),
            notice: Box::new(|_| ()),
        }
    }
}

struct Request {
    trigger: Trigger,
    from: From,
    conditions: Conditions,
    answer: oneshot::Sender<Arc<Attempt>>,
}

impl Request {
    /// Whether the request asks for nothing but what is in the file now.
    fn is_plain(&self) -> bool {
        self.from == From::File && self.conditions == Conditions::default()
    }
}

/// What was in the files when they were last read.
#[derive(Debug, Clone)]
pub struct Seen {
    pub digest: String,
    pub referenced: Vec<PathBuf>,
}

/// Reloads the configuration.
pub struct Reloader {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    live: Arc<Live>,
    shared: Arc<Shared>,
}

/// What the thread writes and others read.
struct Shared {
    history: Mutex<History>,
    seen: Mutex<Seen>,
    hooks: Mutex<Vec<Hook>>,
    announcements: broadcast::Sender<Announcement>,
    /// Counts the attempts that have ended.
    attempts: watch::Sender<u64>,
    /// The text of the last update, until it is saved.
    unsaved: Mutex<Option<Vec<u8>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reloader {
    /// Reads a configuration and makes it the first generation, for a program that has a use of its own
    /// for it.
    pub fn open(path: &Path) -> Result<Self, Unloaded> {
        let loaded = config::load_from(Source::File(path.to_owned()), None, &mut Stages::default());
        let config = loaded.outcome?;
        let failed = |error: &dyn std::fmt::Display| Problems::one(Place::root(), None, error.to_string());
        let metrics = Arc::new(Metrics::new().map_err(|error| failed(&error))?);
        let live = Arc::new(Live::new(Arc::new(config)));
        Self::start(path.to_owned(), live, &loaded.content, metrics, Surroundings::default())
            .map_err(|error| failed(&error).into())
    }

    /// Starts the thread. The generation in `live` is the one that the process was started with, and
    /// `content` what it was read from.
    pub fn start(
        path: PathBuf,
        live: Arc<Live>,
        content: &Content,
        metrics: Arc<Metrics>,
        surroundings: Surroundings,
    ) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel();
        let first = live.current().config.clone();
        let file = first.reload.history_file.clone().map(HistoryFile::new);
        let earlier = file.as_ref().and_then(|file| file.read().ok()).map(|(earlier, _)| earlier);
        let restorable = Restorable { config: first.clone(), content: Arc::new(content.clone()), origin: 1 };
        let shared = Arc::new(Shared {
            history: Mutex::new(History::new(restorable, earlier.unwrap_or_default())),
            seen: Mutex::new(Seen {
                digest: content.digest(),
                referenced: content.referenced.keys().cloned().collect(),
            }),
            hooks: Mutex::default(),
            announcements: broadcast::Sender::new(ANNOUNCEMENTS),
            attempts: watch::Sender::new(0),
            unsaved: Mutex::default(),
        });
        metrics.published(1, 0, names(&first));
        let worker = Worker {
            path: path.clone(),
            live: live.clone(),
            metrics,
            surroundings: Arc::new(surroundings),
            started_with: first,
            shared: shared.clone(),
            webhook: webhook::Webhook::default(),
        };
        worker.write_history(Some(content));
        thread::Builder::new().name("reload".to_owned()).spawn(move || worker.run(&queue))?;
        Ok(Self { path, requests, live, shared })
    }

    /// Asks for a reload without waiting for it.
    pub fn trigger(&self, trigger: Trigger) {
        drop(self.request(trigger, From::File, Conditions::default()));
    }

    /// Asks for a reload and waits for the outcome of a run that started after this call. `None`
    /// when the process is ending.
    pub async fn reload(&self, trigger: Trigger, from: From, conditions: Conditions) -> Option<Arc<Attempt>> {
        self.request(trigger, from, conditions).await.ok()
    }

    /// As [`Reloader::reload`] from the file, for a thread that may wait.
    pub fn reload_and_wait(&self) -> Option<Arc<Attempt>> {
        self.request(Trigger::Program, From::File, Conditions::default()).blocking_recv().ok()
    }

    /// Changes the configuration from code, through the same pipeline: `change` gets the file as a tree
    /// of YAML, references not filled in. Comments are lost. The file itself changes with
    /// [`Reloader::save`].
    pub fn update(&self, change: impl FnOnce(&mut serde_yaml::Value)) -> io::Result<Option<Arc<Attempt>>> {
        let base = match lock(&self.shared.unsaved).clone() {
            Some(text) => text,
            None => std::fs::read(&self.path)?,
        };
        let mut tree: serde_yaml::Value = serde_yaml::from_slice(&base).map_err(io::Error::other)?;
        change(&mut tree);
        let text = serde_yaml::to_string(&tree).map_err(io::Error::other)?.into_bytes();
        let attempt = self.request(Trigger::Program, From::Text(text.clone()), Conditions::default());
        let attempt = attempt.blocking_recv().ok();
        if attempt.as_ref().is_some_and(|attempt| !attempt.is_refused()) {
            *lock(&self.shared.unsaved) = Some(text);
        }
        Ok(attempt)
    }

    /// Writes what [`Reloader::update`] put into service back to the file, as a whole, and leaves its
    /// permissions as they are. `false` if there is nothing to write.
    pub fn save(&self) -> io::Result<bool> {
        let mut unsaved = lock(&self.shared.unsaved);
        let Some(text) = unsaved.as_ref() else { return Ok(false) };
        let permissions = std::fs::metadata(&self.path)?.permissions();
        replace(&self.path, text, Some(permissions))?;
        let mut seen = lock(&self.shared.seen);
        seen.digest = Content::observe(&self.path, &seen.referenced).digest();
        *unsaved = None;
        Ok(true)
    }

    /// Adds a hook that every reload must pass before it takes effect. Its error, its panic or its
    /// delay beyond the deadline refuses the reload, which then names the hook.
    pub fn before_publish(
        &self,
        name: impl Into<String>,
        check: impl Fn(&Config, &Config) -> Result<(), String> + Send + Sync + 'static,
    ) {
        lock(&self.shared.hooks).push(Hook { name: name.into(), check: Arc::new(check) });
    }

    /// Everything that takes effect from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        self.shared.announcements.subscribe()
    }

    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn history(&self) -> History {
        lock(&self.shared.history).clone()
    }

    /// What was in the files when they were last read.
    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }

    /// Changes with every attempt that has ended.
    pub fn attempts(&self) -> watch::Receiver<u64> {
        self.shared.attempts.subscribe()
    }

    fn request(
        &self,
        trigger: Trigger,
        from: From,
        conditions: Conditions,
    ) -> oneshot::Receiver<Arc<Attempt>> {
        let (answer, outcome) = oneshot::channel();
        // The thread only ends with the process; then the receiver reports that it is closed.
        let _ = self.requests.send(Request { trigger, from, conditions, answer });
        outcome
    }
}
