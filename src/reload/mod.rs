//! The only writer of the live pointer: one pipeline for every trigger, one reload at a time.
//!
//! Runs happen on threads of their own, never on a thread that serves requests: read, parse, fill in
//! references, validate, hooks, compare, bind, warm, publish, announce. Plain reloads that arrived before
//! a run share its outcome; a reload that arrives during a run causes one more. Everything up to
//! publication happens on a thread that can be given up and on values that are dropped then, so that a run
//! that panics or is not done at its deadline is a refused reload and nothing else. Trials have a queue
//! and a thread of their own, so that they never delay a reload.

pub(crate) mod attempt;
pub(crate) mod history;
pub(crate) mod history_file;
mod history_writer;
pub(crate) mod hooks;
mod lane;
mod preparation;
mod record;
pub(crate) mod watcher;
pub(crate) mod webhook;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::spawn_blocking;

use crate::config::stages::Stages;
use crate::config::{self, Config, Source, Unloaded};
use crate::generation::Live;
use crate::settings::problem::{Place, Problems};
use crate::settings::source::{self, Content};
use crate::telemetry::metrics::Metrics;
use attempt::{Attempt, Conditions, From, Restorable, Trigger};
use history::History;
use history_file::{HistoryFile, replace};
use history_writer::HistoryWriter;
use hooks::{Announcement, Hook};
use watcher::Watcher;
use worker::{Lanes, Worker, names};

/// Announcements that a slow subscriber may be behind.
const ANNOUNCEMENTS: usize = 256;

/// Trials that may wait; each holds a text of up to 16 MiB.
const WAITING_TRIALS: usize = 4;

/// The part of a publication that follows the swap of the pointer and cannot fail any more.
pub(crate) type Commit = Box<dyn FnOnce() + Send>;

/// Begins to listen on sockets that are bound: the last step that may refuse. Dropped with a run that is
/// refused, it closes them, and no connection was ever taken.
pub(crate) type Listen = Box<dyn FnOnce() -> Result<Commit, String> + Send>;

/// Binds what a configuration listens on; an error refuses the run.
type Bind = dyn Fn(&Config) -> Result<Listen, String> + Send + Sync;

/// Fetches what the second configuration needs and the first, which is in service, has not got, for this
/// long at most.
type Warm = dyn Fn(&Config, &Config, Duration) -> Warmed + Send + Sync;

/// Everything that a configuration needs from elsewhere, fetched and not in use yet.
pub struct Warmed {
    /// A line for everything that is missing.
    pub warnings: Vec<String>,
    pub commit: Commit,
}

/// The steps that the process around adds to a run. The defaults do nothing.
pub struct Surroundings {
    pub bind: Box<Bind>,
    pub warm: Box<Warm>,
    /// Hears of every beginning and end of a reload.
    pub notice: Box<dyn Fn(Notice<'_>) + Send + Sync>,
}

/// A reload begins or has ended.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    Reloading,
    Ended(&'a Attempt),
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            bind: Box::new(|_| Ok(Box::new(|| Ok(Box::new(|| ()))))),
            warm: Box::new(|_, _, _| Warmed { warnings: Vec::new(), commit: Box::new(|| ()) }),
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

/// Why a request for a reload gets no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unavailable {
    #[error("the process is shutting down")]
    Ending,
    #[error("{WAITING_TRIALS} trials wait already; try again when they have ended")]
    Crowded,
}

/// Reloads the configuration.
pub struct Reloader {
    path: PathBuf,
    reloads: mpsc::Sender<Request>,
    trials: mpsc::SyncSender<Request>,
    live: Arc<Live>,
    shared: Arc<Shared>,
}

/// State that the threads write and others read.
struct Shared {
    history: Mutex<History>,
    seen: Mutex<Seen>,
    hooks: Mutex<Vec<Hook>>,
    announcements: broadcast::Sender<Announcement>,
    /// Counts the attempts that have ended.
    attempts: watch::Sender<u64>,
    /// The text of the last update, until it is saved.
    unsaved: Mutex<Option<Vec<u8>>>,
    /// Whether the program has switched the watcher on or off, whatever the configuration says.
    watching: Mutex<Option<bool>>,
    history_writer: HistoryWriter,
    watcher: Watcher,
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
        Self::start(path.to_owned(), live, loaded.content, loaded.digest, metrics, Surroundings::default())
            .map_err(|error| failed(&error).into())
    }

    /// Starts the threads. The generation in `live` is the one that the process was started with, and
    /// `content` the bytes that it was read from. `file_digest` is the digest of the file, whose content is
    /// another one after a start with `--resume`.
    pub fn start(
        path: PathBuf,
        live: Arc<Live>,
        content: Content,
        file_digest: String,
        metrics: Arc<Metrics>,
        surroundings: Surroundings,
    ) -> io::Result<Self> {
        let first = live.current().config.clone();
        let file = first.reload.history_file.clone().map(HistoryFile::new);
        let (history_writer, earlier) = HistoryWriter::start(file)?;
        let referenced = content.referenced.keys().cloned().collect();
        let restorable = Restorable { config: first.clone(), content: Arc::new(content), origin: 1 };
        let mut history = History::new(restorable, file_digest.clone());
        history.add_earlier(earlier);
        let shared = Arc::new(Shared {
            history: Mutex::new(history),
            seen: Mutex::new(Seen { digest: file_digest, referenced }),
            hooks: Mutex::default(),
            announcements: broadcast::Sender::new(ANNOUNCEMENTS),
            attempts: watch::Sender::new(0),
            unsaved: Mutex::default(),
            watching: Mutex::default(),
            history_writer,
            watcher: Watcher::default(),
        });
        metrics.published(1, 0, names(&first));
        let worker = Arc::new(Worker {
            path: path.clone(),
            live: live.clone(),
            metrics,
            surroundings: Arc::new(surroundings),
            started_with: first,
            shared: shared.clone(),
            webhook: webhook::Webhook::default(),
            lanes: Lanes::default(),
        });
        worker.write_history();
        let (reloads, reload_queue) = mpsc::channel();
        let (trials, trial_queue) = mpsc::sync_channel(WAITING_TRIALS);
        let trying = worker.clone();
        thread::Builder::new().name("reload".to_owned()).spawn(move || worker.run(&reload_queue))?;
        thread::Builder::new().name("trial".to_owned()).spawn(move || trying.run_trials(&trial_queue))?;
        Ok(Self { path, reloads, trials, live, shared })
    }

    /// Asks for a reload without waiting for it.
    pub fn trigger(&self, trigger: Trigger) {
        drop(self.request(trigger, From::File, Conditions::default()));
    }

    /// Asks for a reload, or a trial, and waits for the outcome of a run that started after this call.
    pub async fn reload(
        &self,
        trigger: Trigger,
        from: From,
        conditions: Conditions,
    ) -> Result<Arc<Attempt>, Unavailable> {
        self.request(trigger, from, conditions)?.await.map_err(|_| Unavailable::Ending)
    }

    /// As [`Reloader::reload`] from the file, for a thread that may wait.
    pub fn reload_and_wait(&self) -> Option<Arc<Attempt>> {
        self.request(Trigger::Program, From::File, Conditions::default()).ok()?.blocking_recv().ok()
    }

    /// Changes the configuration from code, through the same pipeline: `change` gets the file as a tree
    /// of YAML, references not filled in. Comments are lost. The file itself changes with
    /// [`Reloader::save`].
    pub fn update(&self, change: impl FnOnce(&mut serde_yaml::Value)) -> io::Result<Option<Arc<Attempt>>> {
        let base = match self.shared.unsaved.lock().clone() {
            Some(text) => text,
            None => source::read(&self.path, source::MAX_CONFIG_BYTES).map_err(io::Error::other)?.bytes,
        };
        let mut tree: serde_yaml::Value = serde_yaml::from_slice(&base).map_err(io::Error::other)?;
        change(&mut tree);
        let text = serde_yaml::to_string(&tree).map_err(io::Error::other)?.into_bytes();
        let attempt = self.request(Trigger::Program, From::Text(text.clone()), Conditions::default());
        let attempt = attempt.ok().and_then(|attempt| attempt.blocking_recv().ok());
        if attempt.as_ref().is_some_and(|attempt| !attempt.is_refused()) {
            *self.shared.unsaved.lock() = Some(text);
        }
        Ok(attempt)
    }

    /// Writes what [`Reloader::update`] put into service back to the file, as a whole, and leaves its
    /// permissions as they are. `false` if there is nothing to write.
    pub fn save(&self) -> io::Result<bool> {
        let mut unsaved = self.shared.unsaved.lock();
        let Some(text) = unsaved.as_ref() else { return Ok(false) };
        let permissions = std::fs::metadata(&self.path)?.permissions();
        replace(&self.path, text, Some(permissions))?;
        let mut seen = self.shared.seen.lock();
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
        self.shared.hooks.lock().push(Hook { name: name.into(), check: Arc::new(check) });
    }

    /// As [`Reloader::update`], for a task: the waiting happens on a thread of the runtime's for that.
    pub async fn update_async(
        self: &Arc<Self>,
        change: impl FnOnce(&mut serde_yaml::Value) + Send + 'static,
    ) -> io::Result<Option<Arc<Attempt>>> {
        let reloader = self.clone();
        spawn_blocking(move || reloader.update(change)).await.map_err(io::Error::other)?
    }

    /// As [`Reloader::save`], for a task.
    pub async fn save_async(self: &Arc<Self>) -> io::Result<bool> {
        let reloader = self.clone();
        spawn_blocking(move || reloader.save()).await.map_err(io::Error::other)?
    }

    /// Switches the file watcher on, whatever `reload.watch` says. Its times are those of the
    /// configuration in service.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        *self.shared.watching.lock() = Some(true);
        self.start_watcher()
    }

    /// Switches the file watcher off, whatever `reload.watch` says. A reload that it has begun goes on.
    pub fn unwatch(&self) {
        *self.shared.watching.lock() = Some(false);
        self.shared.watcher.reconsider();
    }

    /// Whether the files are watched: as the program has said, or else as the configuration in service says.
    pub fn is_watching(&self) -> bool {
        self.shared.watching.lock().unwrap_or_else(|| self.live.current().config.reload.is_watching)
    }

    /// Starts the thread of the watcher, unless it runs already, and has it look at the settings.
    pub fn start_watcher(self: &Arc<Self>) -> io::Result<()> {
        self.shared.watcher.start(self)?;
        self.shared.watcher.reconsider();
        Ok(())
    }

    /// The watcher as operators see it.
    pub fn watcher_status(&self) -> watcher::Status {
        self.shared.watcher.status()
    }

    /// Waits for the history to be written, briefly; for the end of the process.
    pub fn finish(&self) {
        self.shared.history_writer.finish();
    }

    /// The outcome of every reload from now on, also of one that is refused.
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
        self.shared.history.lock().clone()
    }

    /// What was in the files when they were last read.
    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().clone()
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
    ) -> Result<oneshot::Receiver<Arc<Attempt>>, Unavailable> {
        let (answer, outcome) = oneshot::channel();
        let is_trial = conditions.dry_run;
        let request = Request { trigger, from, conditions, answer };
        if is_trial {
            self.trials.try_send(request).map_err(|error| match error {
                mpsc::TrySendError::Full(_) => Unavailable::Crowded,
                mpsc::TrySendError::Disconnected(_) => Unavailable::Ending,
            })?;
        } else {
            self.reloads.send(request).map_err(|_| Unavailable::Ending)?;
        }
        Ok(outcome)
    }
}
