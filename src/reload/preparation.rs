//! A run up to publication: everything that may fail, on values that are dropped when it is refused,
//! late or given up. Nothing that is in service changes here, and nothing new takes a connection.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::changes::{self, Change, PendingRestart};
use crate::config::stages::Stages;
use crate::config::{self, Config, Source, Unloaded};
use crate::deadline::Deadline;
use crate::fault;
use crate::reload::attempt::{Conditions, From, Refusal, Restorable};
use crate::reload::hooks::Hook;
use crate::reload::{Commit, Listen, Seen, Surroundings, Warmed};
use crate::settings::source::Content;

/// The part of the deadline that warming leaves for publication, so that a slow issuer costs a warning
/// and not the reload.
const MARGIN: Duration = Duration::from_millis(250);

/// Everything that can fail, done, but for listening.
pub(super) struct Prepared {
    pub config: Arc<Config>,
    pub content: Arc<Content>,
    /// The generation in which the content was first in service; `None` if it was not yet.
    pub origin: Option<u64>,
    pub changes: Vec<Change>,
    pub pending_restart: Vec<PendingRestart>,
    pub warnings: Vec<String>,
    /// Begins to listen on what was bound; the one step that may still refuse.
    pub listen: Listen,
    /// Puts what was warmed into service.
    pub warmed: Commit,
}

/// The outcome of a run, on its way to the thread that publishes.
pub(super) struct Report {
    pub stages: Stages,
    pub seen: Option<Seen>,
    pub digest: Option<String>,
    pub outcome: Result<Prepared, Refusal>,
}

impl Report {
    /// A refusal of which nothing else is known.
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self { stages: Stages::default(), seen: None, digest: None, outcome: Err(refusal) }
    }
}

/// The digest of the content that a run works on, and the files as it saw them, as soon as they are
/// known; for the report of a run that never ends.
pub(super) type Found = Arc<OnceLock<(String, Option<Seen>)>>;

/// A run, as values that may be left behind.
pub(super) struct Preparation {
    pub path: PathBuf,
    pub from: From,
    /// A configuration of the history to put into service again, instead of reading anything.
    pub recorded: Option<Restorable>,
    pub current: Arc<Config>,
    pub started_with: Arc<Config>,
    pub conditions: Conditions,
    pub hooks: Vec<Hook>,
    pub surroundings: Arc<Surroundings>,
    pub found: Found,
}

impl Preparation {
    pub(super) fn run(mut self, stages: &mut Stages) -> Report {
        let report = |seen, digest, outcome| Report { stages: Stages::default(), seen, digest, outcome };
        if let Some(Restorable { config, content, origin }) = self.recorded.take() {
            let digest = config.digest.clone();
            // Set once, here or below.
            let _ = self.found.set((digest.clone(), None));
            return report(None, Some(digest), self.examine(config, content, Some(origin), stages));
        }
        let is_file = self.from == From::File;
        let source = match std::mem::replace(&mut self.from, From::File) {
            From::Text(text) => Source::Text { path: self.path.clone(), text },
            From::File | From::Generation(_) => Source::File(self.path.clone()),
        };
        let loaded = config::load_from(source, Some(&self.current), stages);
        let seen = is_file.then(|| Seen {
            digest: loaded.digest.clone(),
            referenced: loaded.content.referenced.keys().cloned().collect(),
        });
        let digest = loaded.digest;
        let _ = self.found.set((digest.clone(), seen.clone()));
        if let Some(expected) = &self.conditions.expect_digest
            && *expected != digest
        {
            let refusal = Refusal::OtherDigest { expected: expected.clone(), found: digest.clone() };
            return report(seen, Some(digest), Err(refusal));
        }
        let outcome = match loaded.outcome {
            Ok(config) => self.examine(Arc::new(config), Arc::new(loaded.content), None, stages),
            Err(Unloaded::Invalid(problems)) => Err(Refusal::Invalid(problems)),
            Err(Unloaded::Expired(_)) => Err(self.late(stages)),
        };
        report(seen, Some(digest), outcome)
    }

    /// Asks everything that may still refuse a valid configuration, and gets ready what it needs.
    ///
    /// Nothing after `bind` refuses, so a run that is refused has asked neither a name server nor an
    /// issuer nor a source of credentials.
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
            self.in_time(stages)?;
        }
        let changes = stages.time("compare", || {
            fault::point("compare");
            changes::between(&self.current, &config)
        });
        self.in_time(stages)?;
        let mut warnings = config.warnings.clone();
        let (listen, warmed): (Listen, Commit) = if self.conditions.dry_run {
            (Box::new(|| Ok(Box::new(|| ()))), Box::new(|| ()))
        } else {
            let listen = stages.time("bind", || {
                fault::point("bind");
                (self.surroundings.bind)(&config)
            });
            let listen = listen.map_err(Refusal::Listener)?;
            self.in_time(stages)?;
            let deadline = stages.deadline().clone();
            let warmed = stages.time("warm", || {
                fault::point("warm");
                // A run that was given up asks no one outside.
                deadline.check().ok()?;
                Some((self.surroundings.warm)(&self.current, &config, before(&deadline)))
            });
            let warmed = warmed.ok_or_else(|| self.late(stages))?;
            self.in_time(stages)?;
            let Warmed { warnings: more, commit } = warmed;
            warnings.extend(more);
            (listen, commit)
        };
        Ok(Prepared { config, content, origin, changes, pending_restart, warnings, listen, warmed })
    }

    fn in_time(&self, stages: &Stages) -> Result<(), Refusal> {
        stages.deadline().check().map_err(|_| self.late(stages))
    }

    fn late(&self, stages: &Stages) -> Refusal {
        Refusal::Late { stage: stages.current().name(), deadline: self.current.reload.deadline }
    }
}

/// The time that a stage may wait for others: the rest of the deadline, less a margin for publication.
fn before(deadline: &Deadline) -> Duration {
    let left = deadline.remaining();
    left - MARGIN.min(left / 4)
}
