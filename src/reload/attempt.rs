//! What a reload is asked to do, and what came of it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use thiserror::Error;

use crate::config::Config;
use crate::config::changes::{Change, PendingRestart};
use crate::config::stages::Stages;
use crate::settings::problem::Problems;
use crate::settings::source::Content;
use crate::telemetry::units::{milliseconds, unix_seconds};

/// Who asked for a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP, and who sent it, where the kernel tells.
    Signal { sender: Option<(i32, u32)> },
    /// An operator's endpoint, with the `sub` of the token.
    Admin { path: &'static str, subject: Option<String> },
    /// The file changed.
    Watcher,
    /// The program that this one is a part of.
    Program,
}

impl Trigger {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Signal { .. } => "signal",
            Self::Admin { .. } => "admin",
            Self::Watcher => "watcher",
            Self::Program => "program",
        }
    }

    /// Who it was, as far as that is known.
    pub fn actor(&self) -> Option<String> {
        match self {
            Self::Signal { sender: Some((pid, uid)) } => Some(format!("pid {pid}, uid {uid}")),
            Self::Admin { subject, .. } => subject.clone(),
            _ => None,
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal { .. } => f.write_str("SIGHUP")?,
            Self::Admin { path, .. } => write!(f, "POST {path}")?,
            Self::Watcher => f.write_str("file watcher")?,
            Self::Program => f.write_str("program")?,
        }
        match self.actor() {
            Some(actor) => write!(f, " by {actor:?}"),
            None => Ok(()),
        }
    }
}

/// Where the new configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The file as it is now.
    File,
    /// A text in the file's place.
    Text(Vec<u8>),
    /// An earlier generation; `None` is the one before the current one.
    Generation(Option<u64>),
}

/// Under which conditions it takes effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Only says what would happen.
    pub dry_run: bool,
    /// Not when a key would wait for a restart.
    pub strict: bool,
    /// Only this content.
    pub expect_digest: Option<String>,
    /// Only while this content is in service (RFC 9110, section 13.1.1).
    pub if_match: Option<String>,
}

/// Why a reload was refused. Everything stays as it was.
#[derive(Debug, Clone, Error)]
pub enum Refusal {
    #[error("{0}")]
    Invalid(Problems),
    #[error("the hook `{hook}` refused: {reason}")]
    Vetoed { hook: String, reason: String },
    #[error("{}", strict(.0))]
    PendingRestart(Vec<PendingRestart>),
    #[error("the content has the digest {found}, and {expected} was expected")]
    OtherDigest { expected: String, found: String },
    #[error("the digest in service is {0}, which is not the one in If-Match")]
    Superseded(String),
    #[error("not done within {} seconds, in the stage `{stage}`", .deadline.as_secs_f64())]
    Late { stage: Cow<'static, str>, deadline: Duration },
    #[error("a panic in the stage `{0}`; the log has the details")]
    Panicked(Cow<'static, str>),
    #[error("{0}")]
    Listener(String),
    #[error("generation {0} is not in the history")]
    NoSuchGeneration(u64),
    #[error("there is no earlier generation")]
    NoEarlierGeneration,
    #[error("no thread could be started: {0}")]
    NoThread(String),
    #[error(
        "an earlier run was given up in the stage `{stage}` and has not ended yet; the next one can begin when it has"
    )]
    Occupied { stage: Cow<'static, str> },
}

fn strict(pending: &[PendingRestart]) -> String {
    let keys: Vec<&str> = pending.iter().map(|pending| pending.key).collect();
    format!("restart required for {}", keys.join(", "))
}

impl Refusal {
    /// The HTTP status that says so.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::Vetoed { .. } | Self::Listener(_) => 400,
            Self::NoSuchGeneration(_) | Self::NoEarlierGeneration => 404,
            Self::PendingRestart(_) | Self::OtherDigest { .. } => 409,
            Self::Superseded(_) => 412,
            Self::Panicked(_) | Self::NoThread(_) => 500,
            Self::Occupied { .. } => 503,
            Self::Late { .. } => 504,
        }
    }

    /// Whether it is the caller's own condition that refused, and not anything wrong with the content.
    pub fn is_conditional(&self) -> bool {
        matches!(
            self,
            Self::PendingRestart(_)
                | Self::OtherDigest { .. }
                | Self::Superseded(_)
                | Self::NoSuchGeneration(_)
                | Self::NoEarlierGeneration
        )
    }

    /// On one line, for the `error` of an answer.
    pub fn summary(&self) -> String {
        match self {
            Self::Invalid(problems) => problems.summary(),
            other => other.to_string(),
        }
    }

    /// One line a problem.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Invalid(problems) => problems.lines().collect(),
            other => vec![other.to_string()],
        }
    }
}

#[derive(Debug, Clone)]
pub enum Verdict {
    Published,
    /// It would have been.
    DryRunOk,
    Refused(Refusal),
}

/// A generation that can be put into service again without the disk.
#[derive(Debug, Clone)]
pub struct Restorable {
    pub config: Arc<Config>,
    pub content: Arc<Content>,
    /// The generation in which this content was first in service.
    pub origin: u64,
}

/// One attempt to reload, ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: String,
    /// All who share it.
    pub triggers: Vec<Trigger>,
    /// Whether nothing was to change in any case.
    pub is_dry_run: bool,
    pub verdict: Verdict,
    /// In service after it.
    pub generation: u64,
    /// Of what was tried, if it got that far.
    pub digest: Option<String>,
    pub changes: Vec<Change>,
    /// The number of further changes, which are no longer kept.
    pub changes_omitted: usize,
    pub pending_restart: Vec<PendingRestart>,
    pub warnings: Vec<String>,
    pub stages: Stages,
    pub at: SystemTime,
    pub duration: Duration,
    /// What was put into service, to roll back to and to look at.
    pub restorable: Option<Restorable>,
}

/// The changes that a log line, the history and a message carry, of a reload that may change 100,000
/// buckets. Only the answer to the caller has them all.
const SHORT: usize = 100;

impl Attempt {
    /// An attempt that begins now; a dry run that would succeed, until something else is found.
    pub fn begun(triggers: Vec<Trigger>, is_dry_run: bool, generation: u64) -> Self {
        Self {
            id: uuid::Uuid::now_v7().simple().to_string(),
            triggers,
            is_dry_run,
            verdict: Verdict::DryRunOk,
            generation,
            digest: None,
            changes: Vec::new(),
            changes_omitted: 0,
            pending_restart: Vec::new(),
            warnings: Vec::new(),
            stages: Stages::default(),
            at: SystemTime::now(),
            duration: Duration::ZERO,
            restorable: None,
        }
    }

    pub fn ended(self, duration: Duration) -> Self {
        Self { at: SystemTime::now(), duration, ..self }
    }

    /// The attempt with its first changes only, to be kept.
    pub fn shortened(&self) -> Self {
        let changes: Vec<Change> = self.changes.iter().take(SHORT).cloned().collect();
        let changes_omitted = self.changes_omitted + self.changes.len() - changes.len();
        let Self { id, triggers, verdict, digest, pending_restart, warnings, stages, restorable, .. } = self;
        Self {
            id: id.clone(),
            triggers: triggers.clone(),
            verdict: verdict.clone(),
            digest: digest.clone(),
            changes,
            changes_omitted,
            pending_restart: pending_restart.clone(),
            warnings: warnings.clone(),
            stages: stages.clone(),
            restorable: restorable.clone(),
            ..*self
        }
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.verdict, Verdict::Refused(_))
    }

    /// Whether there is something wrong with the content.
    pub fn is_failure(&self) -> bool {
        matches!(&self.verdict, Verdict::Refused(refusal) if !refusal.is_conditional())
    }

    pub fn outcome(&self) -> &'static str {
        match self.verdict {
            Verdict::Published => "published",
            Verdict::DryRunOk => "dry_run_ok",
            Verdict::Refused(_) => "refused",
        }
    }

    pub fn status(&self) -> u16 {
        match &self.verdict {
            Verdict::Published | Verdict::DryRunOk => 200,
            Verdict::Refused(refusal) => refusal.status(),
        }
    }

    /// The answer of the operators' endpoints, and what the history keeps.
    pub fn report(&self) -> Value {
        let stages: serde_json::Map<String, Value> =
            self.stages.iter().map(|(name, took)| (name.to_owned(), milliseconds(took).into())).collect();
        let mut report = json!({
            "attempt": self.id,
            "outcome": self.outcome(),
            "trigger": join(self.triggers.iter().map(Trigger::kind), ", "),
            "actor": join(self.triggers.iter().filter_map(Trigger::actor), ", "),
            "requests": self.triggers.len(),
            "config_generation": self.generation,
            "digest": self.digest,
            "timestamp": unix_seconds(self.at),
            "duration_ms": milliseconds(self.duration),
            "stages_ms": stages,
            "changes": self.changes,
            "changes_omitted": self.changes_omitted,
            "pending_restart": self.pending_restart,
            "warnings": self.warnings,
        });
        let said = match &self.verdict {
            Verdict::Published => json!({
                "status": "success",
                "message": "Configuration reloaded successfully",
                "unchanged": self.changes.is_empty(),
            }),
            Verdict::DryRunOk => json!({
                "status": "success",
                "message": "Configuration is valid; nothing was changed",
                "unchanged": self.changes.is_empty(),
            }),
            Verdict::Refused(refusal) => json!({
                "status": "error",
                "message": "Configuration reload failed",
                "error": refusal.summary(),
                "errors": refusal.lines(),
            }),
        };
        if let (Value::Object(report), Value::Object(said)) = (&mut report, said) {
            report.extend(said);
        }
        report
    }
}

/// Each text once, in the order of the first ones.
pub(crate) fn join<T: fmt::Display>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    let mut seen = HashSet::new();
    let mut joined = String::new();
    for text in items.into_iter().map(|item| item.to_string()) {
        if seen.contains(&text) {
            continue;
        }
        if !seen.is_empty() {
            joined.push_str(separator);
        }
        joined.push_str(&text);
        seen.insert(text);
    }
    joined
}
