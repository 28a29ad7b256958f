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
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use serde::Serialize;
use tracing::warn;

use super::Reloader;
use super::attempt::{Conditions, From, Trigger};
use crate::config::Watch;
use crate::config::source::{Content, directory};
use crate::fault;

/// How many pauses a writer who never rests can hold a look up.
const PATIENCE: u32 = 20;

/// Links that are followed before a path counts as a circle.
const MAX_LINKS: usize = 40;

/// Something may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Files,
    Settings,
}

/// Lets others wake the watcher.
#[derive(Debug, Clone)]
pub struct Waker(Sender<Hint>);

impl Waker {
    /// The settings or the watched files may be others now.
    pub fn reconsider(&self) {
        let _ = self.0.send(Hint::Settings);
    }
}

/// What the watcher is doing, for the operators.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    pub enabled: bool,
    pub directories: BTreeSet<PathBuf>,
    /// Why it may not notice a change.
    pub problem: Option<String>,
}

/// The watcher, before it has a reloader.
#[derive(Debug)]
pub struct Watcher {
    hints: Receiver<Hint>,
    waker: Waker,
    status: Arc<Mutex<Status>>,
}

impl Watcher {
    #[expect(clippy::new_without_default, reason = "it makes a channel")]
    pub fn new() -> Self {
        let (sender, hints) = channel();
        Self { hints, waker: Waker(sender), status: Arc::default() }
    }

    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub fn status(&self) -> Arc<Mutex<Status>> {
        self.status.clone()
    }

    /// Watches on a thread of its own, as long as the settings in service say so.
    pub fn start(self, reloader: Arc<Reloader>) -> io::Result<()> {
        thread::Builder::new().name("watch".to_owned()).spawn(move || self.run(&reloader)).map(drop)
    }

    fn run(&self, reloader: &Arc<Reloader>) {
        let mut kernel = Kernel::default();
        loop {
            let Some(watch) = reloader.live().current().config.reload.watch else {
                kernel = Kernel::default();
                self.report(Status::default());
                if self.hints.recv().is_err() {
                    return;
                }
                continue;
            };
            // Before the look: what changes after it is reported by the kernel.
            kernel.watch(&relevant_paths(reloader), &self.waker);
            self.report(Status {
                enabled: true,
                directories: kernel.directories.clone(),
                problem: kernel.problem.clone().or_else(|| mounted_alone(reloader.path())),
            });
            self.look(reloader, watch);
            match self.hints.recv_timeout(watch.poll) {
                Ok(Hint::Files | Hint::Settings) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Asks for a reload if the files are not what was last read, and have come to rest.
    fn look(&self, reloader: &Reloader, watch: Watch) {
        let observe = || Content::observe(reloader.path(), &reloader.seen().referenced).digest();
        let mut found = observe();
        if found == reloader.seen().digest {
            return;
        }
        if fault::is_active("leading edge") {
            self.reload(reloader);
            self.wait_for_quiet(watch);
            lie_about_what_was_seen(reloader);
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
        // Somebody else may have had it reloaded meanwhile.
        if found != reloader.seen().digest {
            self.reload(reloader);
        }
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
        // Its outcome is in the log; here it only matters that it has ended.
        let _ = request.blocking_recv();
    }

    fn report(&self, status: Status) {
        let mut current = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = &status.problem
            && current.problem.as_ref() != Some(problem)
        {
            warn!("{problem}");
        }
        *current = status;
    }
}

/// The defect of a watcher that trusts the first hint.
fn lie_about_what_was_seen(reloader: &Reloader) {
    let mut seen = super::lock(&reloader.shared.seen);
    seen.digest = Content::observe(reloader.path(), &seen.referenced).digest();
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
    fn watch(&mut self, paths: &BTreeSet<PathBuf>, waker: &Waker) {
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
                let _ = waker.0.send(Hint::Files);
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
