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
pub mod signals;
pub mod systemd;
pub mod watcher;
pub mod webhook;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{broadcast, oneshot, watch};
use tracing::{error, info, warn};

use crate::config::changes::{self, PendingRestart};
use crate::config::problem::{Place, Problems};
use crate::config::source::Content;
use crate::config::stages::Stages;
use crate::config::{self, Config, Source};
use crate::fault;
use crate::generation::Live;
use crate::metrics::Metrics;
use attempt::{Attempt, Conditions, From, Refusal, Restorable, Trigger, Verdict, join, milliseconds};
use history::{History, HistoryFile, replace};
use hooks::{Announcement, Hook};

/// How much a reload stands back behind requests (`nice(2)`).
const PREPARE_NICE: i32 = 10;

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
    pub fn open(path: &Path) -> Result<Self, Problems> {
        let loaded = config::load_from(Source::File(path.to_owned()), None, &mut Stages::default());
        let config = loaded.outcome?;
        let failed = |error: &dyn std::fmt::Display| Problems::one(Place::root(), None, error.to_string());
        let metrics = Arc::new(Metrics::new().map_err(|error| failed(&error))?);
        let live = Arc::new(Live::new(Arc::new(config)));
        Self::start(path.to_owned(), live, &loaded.content, metrics, Surroundings::default())
            .map_err(|error| failed(&error))
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

struct Worker {
    path: PathBuf,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    surroundings: Arc<Surroundings>,
    /// What restart-only keys are compared with.
    started_with: Arc<Config>,
    shared: Arc<Shared>,
    webhook: webhook::Webhook,
}

/// Everything that can fail, done.
struct Prepared {
    config: Arc<Config>,
    content: Arc<Content>,
    /// The generation in which the content was first in service; `None` if it was not yet.
    origin: Option<u64>,
    pending_restart: Vec<PendingRestart>,
    warnings: Vec<String>,
    commit: Commit,
}

/// What the thread that may be given up reports.
struct Report {
    stages: Stages,
    seen: Option<Seen>,
    digest: Option<String>,
    outcome: Result<Prepared, Refusal>,
}

impl Worker {
    fn run(&self, queue: &mpsc::Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            let mut waiting: VecDeque<Request> = std::iter::once(first).chain(queue.try_iter()).collect();
            while let Some(next) = waiting.pop_front() {
                let mut together = vec![next];
                if together.iter().all(Request::is_plain) {
                    // Whoever is waiting now arrived before this run and shares it.
                    let (plain, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(Request::is_plain);
                    together.extend(plain);
                    waiting = others.into();
                }
                self.serve(together);
            }
        }
    }

    fn serve(&self, together: Vec<Request>) {
        let Some(first) = together.first() else { return };
        let (from, conditions) = (first.from.clone(), first.conditions.clone());
        let triggers = together.iter().map(|request| request.trigger.clone()).collect();
        (self.surroundings.notice)(Notice::Reloading);
        let is_from_code = matches!(from, From::Text(_));
        let attempt = Arc::new(self.attempt(triggers, from, &conditions));
        self.log(&attempt);
        lock(&self.shared.history).add(&attempt);
        self.shared.attempts.send_modify(|count| *count += 1);
        (self.surroundings.notice)(Notice::Ended(&attempt));
        for request in together {
            // Whoever no longer waits is not interested.
            let _ = request.answer.send(attempt.clone());
        }
        if attempt.restorable.is_some() && !is_from_code {
            // Whatever came from code has been superseded.
            *lock(&self.shared.unsaved) = None;
        }
        if !attempt.is_dry_run {
            self.write_history(attempt.restorable.as_ref().map(|restorable| &*restorable.content));
            self.webhook.tell(&attempt, self.live.current().config.reload.notify.as_ref());
        }
    }

    fn attempt(&self, triggers: Vec<Trigger>, from: From, conditions: &Conditions) -> Attempt {
        let started = Instant::now();
        let Report { mut stages, seen, digest, outcome } = self.prepare(from, conditions);
        if let Some(seen) = seen {
            lock(&self.shared.history).file_digest.clone_from(&seen.digest);
            // What was only tried, or refused for a condition, the watcher has yet to judge.
            if *conditions == Conditions::default() {
                *lock(&self.shared.seen) = seen;
            }
        }
        let current = self.live.current();
        let outcome = outcome.map(|prepared| {
            let changes = changes::between(&current.config, &prepared.config);
            (changes, prepared)
        });
        let mut attempt = Attempt {
            id: uuid::Uuid::now_v7().simple().to_string(),
            triggers,
            is_dry_run: conditions.dry_run,
            verdict: Verdict::DryRunOk,
            generation: current.number,
            digest,
            changes: Vec::new(),
            pending_restart: Vec::new(),
            warnings: Vec::new(),
            stages: Stages::default(),
            at: SystemTime::now(),
            duration: Duration::ZERO,
            restorable: None,
        };
        match outcome {
            Err(refusal) => attempt.verdict = Verdict::Refused(refusal),
            Ok((changes, prepared)) => {
                let is_dry = conditions.dry_run;
                attempt.warnings = prepared.warnings;
                attempt.pending_restart = prepared.pending_restart;
                attempt.changes = changes;
                if !is_dry {
                    attempt.verdict = Verdict::Published;
                    attempt.generation = stages.time("publish", || {
                        let generation = self.live.publish(prepared.config.clone());
                        (prepared.commit)();
                        generation.number
                    });
                    let pending = attempt.pending_restart.len();
                    self.metrics.published(attempt.generation, pending, names(&prepared.config));
                    self.announce(&attempt, &prepared.config);
                    attempt.restorable = Some(Restorable {
                        config: prepared.config,
                        content: prepared.content,
                        origin: prepared.origin.unwrap_or(attempt.generation),
                    });
                }
            }
        }
        attempt.at = SystemTime::now();
        attempt.duration = started.elapsed();
        attempt.stages = stages;
        if !conditions.dry_run {
            self.metrics.reloaded(!attempt.is_refused(), attempt.is_failure(), attempt.at);
        }
        attempt
    }

    /// Runs everything that can fail on a thread that may be given up.
    fn prepare(&self, from: From, conditions: &Conditions) -> Report {
        let current = self.live.current();
        let refused =
            |refusal| Report { stages: Stages::default(), seen: None, digest: None, outcome: Err(refusal) };
        if let Some(expected) = &conditions.if_match
            && *expected != current.config.digest
        {
            return refused(Refusal::Superseded(current.config.digest.clone()));
        }
        let recorded = match from {
            From::Generation(number) => {
                let history = lock(&self.shared.history);
                let found = match number {
                    Some(number) => history.generation(number).ok_or(Refusal::NoSuchGeneration(number)),
                    None => history.before(current.number).ok_or(Refusal::NoEarlierGeneration),
                };
                match found {
                    Ok(restorable) => Some(restorable),
                    Err(refusal) => return refused(refusal),
                }
            }
            From::File | From::Text(_) => None,
        };
        let mut stages = Stages::default();
        let stage = stages.current();
        let preparation = Preparation {
            path: self.path.clone(),
            from,
            recorded,
            current: current.config.clone(),
            started_with: self.started_with.clone(),
            conditions: conditions.clone(),
            hooks: lock(&self.shared.hooks).clone(),
            surroundings: self.surroundings.clone(),
        };
        let (done, report) = mpsc::sync_channel(1);
        let spawned = thread::Builder::new().name("reload-prepare".to_owned()).spawn(move || {
            // Requests go first. Of this thread alone, as Linux has it; where it fails, nothing is lost.
            let _ = rustix::process::nice(PREPARE_NICE);
            let report = preparation.run(&mut stages);
            // Nobody waits any more when the deadline has passed.
            let _ = done.send(Report { stages, ..report });
        });
        if let Err(error) = spawned {
            return refused(Refusal::NoThread(error.to_string()));
        }
        let deadline = current.config.reload.deadline;
        match report.recv_timeout(deadline) {
            Ok(report) => report,
            Err(mpsc::RecvTimeoutError::Timeout) => refused(Refusal::Late { stage: stage.name(), deadline }),
            Err(mpsc::RecvTimeoutError::Disconnected) => refused(Refusal::Panicked(stage.name())),
        }
    }

    fn announce(&self, attempt: &Attempt, config: &Arc<Config>) {
        // Without a subscriber there is nobody to tell.
        let _ = self.shared.announcements.send(Announcement {
            generation: attempt.generation,
            config: config.clone(),
            events: hooks::events(&attempt.changes, &attempt.pending_restart),
        });
    }

    fn write_history(&self, content: Option<&Content>) {
        let config = self.live.current().config.clone();
        if let Some(path) = config.reload.history_file.clone() {
            let history = lock(&self.shared.history).clone();
            if let Err(error) = HistoryFile::new(path.clone()).write(&history, content) {
                warn!(path = %path.display(), %error, "the history cannot be written");
            }
        }
    }

    /// One record an attempt.
    fn log(&self, attempt: &Attempt) {
        let trigger = join(&attempt.triggers, ", ");
        let config = self.path.display();
        let (generation, duration_ms) = (attempt.generation, milliseconds(attempt.duration));
        let digest = attempt.digest.as_deref();
        let changes = join(&attempt.changes, "; ");
        let outcome = attempt.outcome();
        let id = attempt.id.as_str();
        match &attempt.verdict {
            Verdict::Published => info!(
                attempt = id, outcome, trigger, %config, generation, digest, duration_ms, changes,
                "configuration reloaded"
            ),
            Verdict::DryRunOk => info!(
                attempt = id, outcome, trigger, %config, generation, digest, duration_ms, changes,
                "configuration checked; nothing was changed"
            ),
            Verdict::Refused(refusal) if attempt.is_dry_run => info!(
                attempt = id,
                outcome,
                trigger,
                %config,
                generation,
                digest,
                duration_ms,
                "configuration checked and refused; nothing was changed: {refusal}"
            ),
            Verdict::Refused(refusal) => error!(
                attempt = id, outcome, trigger, %config, generation, digest, duration_ms,
                "configuration reload failed: {refusal}; generation {generation} stays in service"
            ),
        }
        if matches!(attempt.verdict, Verdict::Published) {
            for warning in &attempt.warnings {
                warn!(attempt = id, "{warning}");
            }
            for pending in &attempt.pending_restart {
                warn!(attempt = id, key = pending.key, "the key takes effect after a restart");
            }
        }
    }
}

/// One run up to publication, as values that may be left behind.
struct Preparation {
    path: PathBuf,
    from: From,
    /// What to put into service again, instead of reading anything.
    recorded: Option<Restorable>,
    current: Arc<Config>,
    started_with: Arc<Config>,
    conditions: Conditions,
    hooks: Vec<Hook>,
    surroundings: Arc<Surroundings>,
}

impl Preparation {
    fn run(self, stages: &mut Stages) -> Report {
        let report = |seen, digest, outcome| Report { stages: Stages::default(), seen, digest, outcome };
        if let Some(Restorable { config, content, origin }) = self.recorded.clone() {
            let digest = Some(config.digest.clone());
            return report(None, digest, self.examine(config, content, Some(origin), stages));
        }
        let is_file = self.from == From::File;
        let source = match &self.from {
            From::Text(text) => Source::Text { path: self.path.clone(), text: text.clone() },
            From::File | From::Generation(_) => Source::File(self.path.clone()),
        };
        let loaded = config::load_from(source, Some(&self.current), stages);
        let seen = is_file.then(|| Seen {
            digest: loaded.digest.clone(),
            referenced: loaded.content.referenced.keys().cloned().collect(),
        });
        let digest = loaded.digest;
        if let Some(expected) = &self.conditions.expect_digest
            && *expected != digest
        {
            let refusal = Refusal::OtherDigest { expected: expected.clone(), found: digest.clone() };
            return report(seen, Some(digest), Err(refusal));
        }
        let outcome = loaded
            .outcome
            .map_err(Refusal::Invalid)
            .and_then(|config| self.examine(Arc::new(config), Arc::new(loaded.content), None, stages));
        report(seen, Some(digest), outcome)
    }

    /// Whatever may still refuse a valid configuration.
    fn examine(
        &self,
        config: Arc<Config>,
        content: Arc<Content>,
        origin: Option<u64>,
        stages: &mut Stages,
    ) -> Result<Prepared, Refusal> {
        let pending_restart = changes::pending_restart(&self.started_with, &config);
        if self.conditions.strict && !pending_restart.is_empty() {
            return Err(Refusal::PendingRestart(pending_restart));
        }
        for hook in &self.hooks {
            let checked = stages.time(format!("hook {}", hook.name), || {
                fault::point("hooks");
                (hook.check)(&self.current, &config)
            });
            checked.map_err(|reason| Refusal::Vetoed { hook: hook.name.clone(), reason })?;
        }
        let mut warnings = config.warnings.clone();
        let commit: Commit = if self.conditions.dry_run {
            Box::new(|| ())
        } else {
            warnings.extend(stages.time("warm", || {
                fault::point("warm");
                (self.surroundings.warm)(&config)
            }));
            let prepared = stages.time("bind", || {
                fault::point("bind");
                (self.surroundings.prepare)(&config)
            });
            prepared.map_err(Refusal::Listener)?
        };
        Ok(Prepared { config, content, origin, pending_restart, warnings, commit })
    }
}

fn names(config: &Config) -> Vec<String> {
    config.buckets.iter().map(|bucket| bucket.name.clone()).collect()
}
