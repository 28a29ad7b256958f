//! One run up to publication: everything that may fail, on values that can be left behind when it
//! takes too long.

use std::path::PathBuf;
use std::sync::Arc;

use super::attempt::{Conditions, From, Refusal, Restorable};
use super::hooks::Hook;
use super::{Commit, Seen, Surroundings};
use crate::config::changes::{self, PendingRestart};
use crate::config::source::Content;
use crate::config::stages::Stages;
use crate::config::{self, Config, Source, Unloaded};
use crate::fault;

/// Everything that can fail, done.
pub struct Prepared {
    pub config: Arc<Config>,
    pub content: Arc<Content>,
    /// The generation in which the content was first in service; `None` if it was not yet.
    pub origin: Option<u64>,
    pub pending_restart: Vec<PendingRestart>,
    pub warnings: Vec<String>,
    pub commit: Commit,
}

/// What the thread that may be given up reports.
pub struct Report {
    pub stages: Stages,
    pub seen: Option<Seen>,
    pub digest: Option<String>,
    pub outcome: Result<Prepared, Refusal>,
}

/// One run up to publication, as values that may be left behind.
pub struct Preparation {
    pub path: PathBuf,
    pub from: From,
    /// What to put into service again, instead of reading anything.
    pub recorded: Option<Restorable>,
    pub current: Arc<Config>,
    pub started_with: Arc<Config>,
    pub conditions: Conditions,
    pub hooks: Vec<Hook>,
    pub surroundings: Arc<Surroundings>,
}

impl Preparation {
    pub fn run(self, stages: &mut Stages) -> Report {
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
            .map_err(|unloaded| match unloaded {
                Unloaded::Invalid(problems) => Refusal::Invalid(problems),
                Unloaded::Expired(_) => {
                    Refusal::Late { stage: stages.current().name(), deadline: self.current.reload.deadline }
                }
            })
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
