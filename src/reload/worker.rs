//! The two threads that reload: one publishes, one only tries.
//!
//! The first takes plain requests together, has the next configuration prepared, publishes it and tells
//! everybody. The second answers trials, one at a time, and never delays a reload, a SIGHUP or a
//! rollback. A panic on either thread is one failed reload, and the next one works.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use tracing::error;

use crate::config::Config;
use crate::fault;
use crate::generation::Live;
use crate::reload::attempt::{Attempt, Conditions, From, Refusal, Restorable, Trigger, Verdict};
use crate::reload::history_file::HistoryFile;
use crate::reload::hooks::{self, Announcement};
use crate::reload::lane::Lane;
use crate::reload::preparation::{Preparation, Prepared, Report};
use crate::reload::webhook::Webhook;
use crate::reload::{Notice, Request, Shared, Surroundings};
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;

/// How much a reload stands back behind requests (`nice(2)`).
const RELOAD_NICE: i32 = 10;

pub(super) struct Worker {
    pub path: PathBuf,
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub surroundings: Arc<Surroundings>,
    /// The configuration that restart-only keys are compared with.
    pub started_with: Arc<Config>,
    pub shared: Arc<Shared>,
    pub webhook: Webhook,
    pub lanes: Lanes,
}

/// The lanes, a separate one for each kind of run, so that a trial that hangs refuses no reload, and a file system that
/// hangs refuses no rollback, which reads nothing.
#[derive(Default)]
pub(super) struct Lanes {
    reloads: Lane,
    rollbacks: Lane,
    trials: Lane,
}

impl Worker {
    /// Serves reloads and rollbacks until nobody is left to ask for one.
    pub(super) fn run(&self, queue: &mpsc::Receiver<Request>) {
        step_back();
        while let Ok(first) = queue.recv() {
            let mut waiting: VecDeque<Request> = std::iter::once(first).chain(queue.try_iter()).collect();
            while let Some(next) = waiting.pop_front() {
                let mut together = vec![next];
                if together.iter().all(Request::is_plain) {
                    // Plain requests that wait now arrived before this run, so they share it.
                    let (plain, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(Request::is_plain);
                    together.extend(plain);
                    waiting = others.into();
                }
                self.serve(together);
            }
        }
    }

    /// Serves trials until nobody is left to ask for one.
    pub(super) fn run_trials(&self, queue: &mpsc::Receiver<Request>) {
        step_back();
        while let Ok(request) = queue.recv() {
            self.serve(vec![request]);
        }
    }

    /// Makes one attempt for requests that share it, and answers them.
    fn serve(&self, together: Vec<Request>) {
        let triggers: Vec<Trigger> = together.iter().map(|request| request.trigger.clone()).collect();
        let mut answers = Vec::with_capacity(together.len());
        let mut first = None;
        for Request { from, conditions, answer, .. } in together {
            answers.push(answer);
            first.get_or_insert((from, conditions));
        }
        let Some((from, conditions)) = first else { return };
        let is_from_code = matches!(from, From::Text(_));
        if !conditions.dry_run {
            survive("before a reload", || (self.surroundings.notice)(Notice::Reloading));
        }
        let begun = Attempt::begun(triggers, conditions.dry_run, self.live.current().number);
        let attempt = survive("during a reload", || self.attempt(begun.clone(), from, &conditions));
        let attempt = attempt.unwrap_or_else(|| {
            let refused = Verdict::Refused(Refusal::Panicked("reload".into()));
            self.ended(Attempt { verdict: refused, ..begun }, Instant::now())
        });
        let attempt = Arc::new(attempt);
        survive("after a reload", || self.tell(&attempt, is_from_code));
        for answer in answers {
            // A caller that no longer waits is not interested.
            let _ = answer.send(attempt.clone());
        }
    }

    /// Tells everybody but the callers.
    fn tell(&self, attempt: &Arc<Attempt>, is_from_code: bool) {
        fault::point("tell");
        attempt.log(&self.path);
        let short = Arc::new(attempt.shortened());
        self.shared.history.lock().add(&short);
        if attempt.restorable.is_some() && !is_from_code {
            // The file has superseded an update from code.
            *self.shared.unsaved.lock() = None;
        }
        self.shared.attempts.send_modify(|count| *count += 1);
        if attempt.is_dry_run {
            return;
        }
        if let Verdict::Refused(refusal) = &attempt.verdict {
            // Without a subscriber there is nobody to tell.
            let _ = self.shared.announcements.send(Announcement::Refused {
                generation: attempt.generation,
                attempt: attempt.id.clone(),
                errors: refusal.lines(),
            });
        }
        self.write_history();
        (self.surroundings.notice)(Notice::Ended(attempt));
        self.shared.watcher.reconsider();
        self.webhook.tell(&short, self.live.current().config.reload.notify.as_ref());
    }

    fn attempt(&self, mut attempt: Attempt, from: From, conditions: &Conditions) -> Attempt {
        let started = Instant::now();
        fault::point("attempt");
        let Report { stages, seen, digest, outcome } = self.prepare(from, conditions);
        if let Some(seen) = seen {
            self.shared.history.lock().file_digest.clone_from(&seen.digest);
            // A trial, or a refusal for a condition, leaves the content for the watcher to judge.
            if *conditions == Conditions::default() {
                *self.shared.seen.lock() = seen;
            }
        }
        attempt.digest = digest;
        attempt.stages = stages;
        match outcome {
            Err(refusal) => attempt.verdict = Verdict::Refused(refusal),
            Ok(mut prepared) => {
                attempt.changes = std::mem::take(&mut prepared.changes);
                attempt.pending_restart = std::mem::take(&mut prepared.pending_restart);
                attempt.warnings = std::mem::take(&mut prepared.warnings);
                if !conditions.dry_run {
                    self.publish(prepared, &mut attempt);
                }
            }
        }
        self.ended(attempt, started)
    }

    /// Listens, and swaps the pointer. From there on nothing can refuse any more, so a panic in what
    /// follows is a warning.
    fn publish(&self, prepared: Prepared, attempt: &mut Attempt) {
        let Prepared { config, content, origin, listen, warmed, .. } = prepared;
        let opened = match listen() {
            Ok(opened) => opened,
            Err(why) => {
                attempt.verdict = Verdict::Refused(Refusal::Listener(why));
                attempt.changes.clear();
                attempt.pending_restart.clear();
                return;
            }
        };
        let previous = self.live.current();
        let mut stages = std::mem::take(&mut attempt.stages);
        attempt.verdict = Verdict::Published;
        attempt.generation = stages.time("publish", || self.live.publish(config.clone()).number);
        attempt.stages = stages;
        let is_whole = survive("after a publication", || {
            fault::point("publish");
            log::apply(config.log);
            opened();
            warmed();
            previous.config.retire(&config);
            let pending = attempt.pending_restart.len();
            self.metrics.published(attempt.generation, pending, names(&config));
            // Without a subscriber there is nobody to tell.
            let _ = self.shared.announcements.send(Announcement::Published {
                generation: attempt.generation,
                config: config.clone(),
                events: hooks::events(&attempt.changes, &attempt.pending_restart),
            });
        });
        if is_whole.is_none() {
            let warning = "the generation is in service, but a panic followed; the log has the details";
            attempt.warnings.push(warning.to_owned());
        }
        let origin = origin.unwrap_or(attempt.generation);
        attempt.restorable = Some(Restorable { config, content, origin });
    }

    /// Counts an attempt that has ended.
    fn ended(&self, attempt: Attempt, started: Instant) -> Attempt {
        let attempt = attempt.ended(started.elapsed());
        if !attempt.is_dry_run {
            self.metrics.reloaded(!attempt.is_refused(), attempt.is_failure(), attempt.at);
        }
        attempt
    }

    /// Runs everything that can fail in the lane of its kind.
    fn prepare(&self, from: From, conditions: &Conditions) -> Report {
        let current = self.live.current();
        if let Some(expected) = &conditions.if_match
            && *expected != current.config.digest
        {
            return Report::refused(Refusal::Superseded(current.config.digest.clone()));
        }
        let (recorded, lane) = match from {
            _ if conditions.dry_run => (None, &self.lanes.trials),
            From::File | From::Text(_) => (None, &self.lanes.reloads),
            From::Generation(number) => match self.shared.history.lock().restorable(number, current.number) {
                Ok(restorable) => (Some(restorable), &self.lanes.rollbacks),
                Err(refusal) => return Report::refused(refusal),
            },
        };
        let preparation = Preparation {
            path: self.path.clone(),
            from,
            recorded,
            current: current.config.clone(),
            started_with: self.started_with.clone(),
            conditions: conditions.clone(),
            hooks: self.shared.hooks.lock().clone(),
            surroundings: self.surroundings.clone(),
            found: Arc::default(),
        };
        lane.run(preparation, current.config.reload.deadline)
    }

    /// Has the history written, where the configuration in service wants that.
    pub(super) fn write_history(&self) {
        if let Some(path) = &self.live.current().config.reload.history_file {
            let history = self.shared.history.lock().clone();
            self.shared.history_writer.write(HistoryFile::new(path.clone()), history);
        }
    }
}

/// Lets requests go first. Linux keeps this for each thread, and for the threads that it starts.
fn step_back() {
    // A failure only means that the work competes with requests.
    let _ = rustix::process::nice(RELOAD_NICE);
}

/// The result of an action; `None` where it panics, which the log then tells of.
fn survive<T>(when: &str, action: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(action)).ok();
    if outcome.is_none() {
        error!("a panic {when}; the program goes on, and the lines above have the details");
    }
    outcome
}

pub(super) fn names(config: &Config) -> impl Iterator<Item = Arc<str>> {
    config.buckets.iter().map(|bucket| bucket.name.clone())
}
