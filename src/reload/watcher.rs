//! The file watcher: notices that the files changed and asks for a reload.
//!
//! What the kernel reports, and a poll beside it, are hints; the digest of the files decides. A hint
//! is followed up when the files have been left alone for a while, so that a file that is being
//! written is not read before it is whole. Directories are watched and not the file: editors, `sed -i`
//! and mounted ConfigMaps put another file in its place.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::warn;

use crate::config::Watch;
use crate::reload::Reloader;
use crate::reload::attempt::{Conditions, From, Trigger};
use crate::settings::source::{Content, directory};

/// How many pauses a writer who never rests can hold a look up.
const PATIENCE: u32 = 20;

/// Links that are followed before a path counts as a circle.
const MAX_LINKS: usize = 40;

/// The pause before a content is tried again whose reload ended without a verdict about it, and the
/// longest one; each further try doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A reason to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Files,
    Settings,
}

/// What the watcher is doing, for the operators.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    pub enabled: bool,
    pub directories: BTreeSet<PathBuf>,
    /// Why it may not notice a change.
    pub problem: Option<String>,
}

/// The handle on the watcher, whose thread may not run yet.
#[derive(Debug)]
pub(crate) struct Watcher {
    waker: Sender<Hint>,
    /// Taken by the thread.
    hints: Mutex<Option<Receiver<Hint>>>,
    status: Arc<Mutex<Status>>,
}

impl Default for Watcher {
    fn default() -> Self {
        let (waker, hints) = channel();
        Self { waker, hints: Mutex::new(Some(hints)), status: Arc::default() }
    }
}

impl Watcher {
    /// Wakes the watcher: the settings or the watched files may be others now.
    pub(crate) fn reconsider(&self) {
        // Nothing is lost where the thread does not run.
        let _ = self.waker.send(Hint::Settings);
    }

    pub(crate) fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Starts the thread, unless it runs already. It ends with the reloader.
    pub(crate) fn start(&self, reloader: &Arc<Reloader>) -> io::Result<()> {
        let Some(hints) = self.hints.lock().take() else { return Ok(()) };
        let watching =
            Watching { hints, waker: self.waker.clone(), status: self.status.clone(), undecided: None };
        let reloader = Arc::downgrade(reloader);
        thread::Builder::new().name("watch".to_owned()).spawn(move || watching.run(&reloader)).map(drop)
    }
}

/// The watcher on its thread.
struct Watching {
    hints: Receiver<Hint>,
    waker: Sender<Hint>,
    status: Arc<Mutex<Status>>,
    undecided: Option<Undecided>,
}

/// A content whose reload ended without a verdict about it: late, by a panic, or because an earlier run
/// has not ended.
struct Undecided {
    digest: String,
    pause: Duration,
    /// The next try.
    due: Instant,
}

impl Watching {
    fn run(mut self, reloader: &Weak<Reloader>) {
        let mut kernel = Kernel::default();
        loop {
            let Some(reloader) = reloader.upgrade() else { return };
            if !reloader.is_watching() {
                kernel = Kernel::default();
                self.report(Status::default());
                drop(reloader);
                if self.hints.recv().is_err() {
                    return;
                }
                continue;
            }
            let watch = reloader.live().current().config.reload.watch;
            // Before the look, so that the kernel reports whatever changes after it.
            kernel.watch(&relevant_paths(&reloader), &self.waker);
            self.report(Status {
                enabled: true,
                directories: kernel.directories.clone(),
                problem: kernel.problem.clone().or_else(|| mounted_alone(reloader.path())),
            });
            self.look(&reloader, watch);
            drop(reloader);
            match self.hints.recv_timeout(watch.poll) {
                Ok(Hint::Files | Hint::Settings) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Asks for a reload if the files are not what was last read, and have come to rest.
    fn look(&mut self, reloader: &Reloader, watch: Watch) {
        let observe = || Content::observe(reloader.path(), &reloader.seen().referenced).digest();
        let mut found = observe();
        if found == reloader.seen().digest {
            self.undecided = None;
            return;
        }
        if self.undecided.as_ref().is_some_and(|last| last.digest == found && Instant::now() < last.due) {
            return;
        }
        for _ in 0..PATIENCE {
            self.wait_for_quiet(watch);
            let later = observe();
            if later == found {
                break;
            }
            found = later;
        }
        // Somebody else may have had it reloaded meanwhile, or switched the watcher off.
        if found != reloader.seen().digest && reloader.is_watching() {
            self.reload(reloader);
            self.judge(found, reloader);
        }
    }

    /// Remembers a content that the reload came to no verdict about, so that the same bytes are not tried
    /// without a pause.
    fn judge(&mut self, tried: String, reloader: &Reloader) {
        if reloader.seen().digest == tried {
            self.undecided = None;
            return;
        }
        let last = self.undecided.take().filter(|last| last.digest == tried);
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        self.undecided = Some(Undecided { digest: tried, pause, due: Instant::now() + pause });
    }

    /// Returns when no hint has come for the time of the debounce.
    fn wait_for_quiet(&self, watch: Watch) {
        let end = Instant::now() + watch.debounce * PATIENCE;
        let mut rest = Instant::now() + watch.debounce;
        while let Some(left) =
            rest.min(end).checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            match self.hints.recv_timeout(left) {
                Ok(Hint::Files) => rest = Instant::now() + watch.debounce,
                Ok(Hint::Settings) => {}
                Err(_) => return,
            }
        }
    }

    fn reload(&self, reloader: &Reloader) {
        let request = reloader.request(Trigger::Watcher, From::File, Conditions::default());
        // The log has the outcome; here it only matters that the run has ended.
        let _ = request.map(oneshot::Receiver::blocking_recv);
    }

    fn report(&self, status: Status) {
        let mut current = self.status.lock();
        if let Some(problem) = &status.problem
            && current.problem.as_ref() != Some(problem)
        {
            warn!("{problem}");
        }
        *current = status;
    }
}

/// The kernel's side: one watch for every directory that matters.
#[derive(Default)]
struct Kernel {
    watcher: Option<RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    problem: Option<String>,
}

impl Kernel {
    /// Watches the directories of these paths anew: a directory may have been replaced by another one
    /// of the same name.
    fn watch(&mut self, paths: &BTreeSet<PathBuf>, waker: &Sender<Hint>) {
        let directories: BTreeSet<PathBuf> =
            paths.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
        let relevant = paths.clone();
        let waker = waker.clone();
        let report = move |event: notify::Result<notify::Event>| {
            let matters = match event {
                Ok(event) => is_change(event.kind) && event.paths.iter().any(|path| relevant.contains(path)),
                // Hints may have been lost.
                Err(_) => true,
            };
            if matters {
                let _ = waker.send(Hint::Files);
            }
        };
        let mut problem = None;
        self.watcher = match notify::recommended_watcher(report) {
            Ok(mut watcher) => {
                for directory in &directories {
                    if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive)
                        && directory.is_dir()
                    {
                        problem = Some(format!(
                            "`{}` cannot be watched, only polled: {error}",
                            directory.display()
                        ));
                    }
                }
                Some(watcher)
            }
            Err(error) => {
                problem = Some(format!("files cannot be watched, only polled: {error}"));
                None
            }
        };
        self.problem = problem;
        self.directories = directories;
    }
}

/// Reading is no change; we do it ourselves.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Every path whose change may change the content of a file that the configuration consists of.
fn relevant_paths(reloader: &Reloader) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    let directory = directory(reloader.path());
    let referenced = reloader.seen().referenced.into_iter().map(|named| directory.join(named));
    for file in std::iter::once(reloader.path().to_owned()).chain(referenced) {
        if let Ok(file) = std::path::absolute(file) {
            follow(&file, &mut paths);
        }
    }
    paths
}

/// Adds a path, everything above it, and every link on the way to what it leads to.
fn follow(path: &Path, paths: &mut BTreeSet<PathBuf>) {
    let mut rest: Vec<OsString> = names(path);
    rest.reverse();
    let mut walked = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            walked.pop();
            continue;
        }
        walked.push(name);
        paths.insert(walked.clone());
        if let Ok(target) = fs::read_link(&walked) {
            links += 1;
            if links > MAX_LINKS {
                return;
            }
            walked.pop();
            if target.is_absolute() {
                walked = PathBuf::from("/");
            }
            rest.extend(names(&target).into_iter().rev());
        }
    }
}

fn names(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Whether the file is a mount of its own. Such a file is tied to what it was when it was mounted: a
/// file that is put in its place outside never shows up here.
fn mounted_alone(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let is_mount =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(point) == path);
    is_mount.then(|| {
        format!(
            "`{}` is mounted as a single file, so a file that is put in its place outside is never seen here; mount its directory instead",
            path.display()
        )
    })
}
