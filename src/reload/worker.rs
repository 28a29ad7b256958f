//! The thread that reloads: takes requests together, has the next configuration prepared, publishes it,
//! and tells everybody.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};

use super::attempt::{Attempt, Conditions, From, Refusal, Restorable, Trigger, Verdict, join, milliseconds};
use super::history::HistoryFile;
use super::hooks::{self, Announcement};
use super::preparation::{Preparation, Report};
use super::webhook::Webhook;
use super::{Notice, Request, Shared, Surroundings, lock};
use crate::config::source::Content;
use crate::config::stages::Stages;
use crate::config::{Config, changes};
use crate::deadline::Deadline;
use crate::generation::Live;
use crate::metrics::Metrics;

/// How much a reload stands back behind requests (`nice(2)`).
const RELOAD_NICE: i32 = 10;

pub struct Worker {
    pub path: PathBuf,
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub surroundings: Arc<Surroundings>,
    /// What restart-only keys are compared with.
    pub started_with: Arc<Config>,
    pub shared: Arc<Shared>,
    pub webhook: Webhook,
}

impl Worker {
    pub fn run(&self, queue: &mpsc::Receiver<Request>) {
        // Requests go first. Of this thread and those that it starts, as Linux has it; where it fails,
        // nothing is lost.
        let _ = rustix::process::nice(RELOAD_NICE);
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
        if attempt.restorable.is_some() && !is_from_code {
            // Whatever came from code has been superseded.
            *lock(&self.shared.unsaved) = None;
        }
        self.shared.attempts.send_modify(|count| *count += 1);
        (self.surroundings.notice)(Notice::Ended(&attempt));
        for request in together {
            // Whoever no longer waits is not interested.
            let _ = request.answer.send(attempt.clone());
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
                    current.config.retire(&prepared.config);
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
        let deadline = current.config.reload.deadline;
        let give_up = Deadline::within(deadline);
        let mut stages = Stages::until(give_up.clone());
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
            let report = preparation.run(&mut stages);
            // Nobody waits any more when the deadline has passed.
            let _ = done.send(Report { stages, ..report });
        });
        if let Err(error) = spawned {
            return refused(Refusal::NoThread(error.to_string()));
        }
        match report.recv_timeout(deadline) {
            Ok(report) => report,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                give_up.cancel();
                refused(Refusal::Late { stage: stage.name(), deadline })
            }
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

    pub fn write_history(&self, content: Option<&Content>) {
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

pub fn names(config: &Config) -> impl Iterator<Item = Arc<str>> {
    config.buckets.iter().map(|bucket| bucket.name.clone())
}
