//! Runs that may be given up, and a bound on those that go on afterwards.
//!
//! A run has a thread of its own, so that the thread that waits for it can stop waiting. Most of a run
//! looks at its deadline and ends soon after that has passed. Some of it cannot look: the YAML scanner, a
//! read from a file system that does not answer, a hook of another program. A lane therefore refuses
//! further runs while one that was given up has not ended. Threads and memory cannot pile up, whatever
//! the file, the file system or a hook does.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::stages::{Current, Stages};
use crate::deadline::Deadline;
use crate::reload::attempt::Refusal;
use crate::reload::preparation::{Preparation, Report};

/// A place for one run at a time.
#[derive(Debug, Default)]
pub(super) struct Lane {
    abandoned: Mutex<Option<Abandoned>>,
}

/// A run that was given up.
#[derive(Debug)]
struct Abandoned {
    thread: JoinHandle<()>,
    stage: Current,
}

impl Lane {
    /// Prepares a reload, for as long as `patience` at most.
    pub(super) fn run(&self, preparation: Preparation, patience: Duration) -> Report {
        let mut abandoned = self.abandoned.lock();
        if let Some(earlier) = abandoned.as_ref().filter(|earlier| !earlier.thread.is_finished()) {
            return Report::refused(Refusal::Occupied { stage: earlier.stage.name() });
        }
        *abandoned = None;
        let deadline = Deadline::within(patience);
        let mut stages = Stages::until(deadline.clone());
        let stage = stages.current();
        let found = preparation.found.clone();
        let (done, report) = mpsc::sync_channel(1);
        let spawned = thread::Builder::new().name("reload-prepare".to_owned()).spawn(move || {
            let report = preparation.run(&mut stages);
            // Fails after the deadline, when nobody waits; everything that was prepared is dropped then.
            let _ = done.send(Report { stages, ..report });
        });
        let thread = match spawned {
            Ok(thread) => thread,
            Err(error) => return Report::refused(Refusal::NoThread(error.to_string())),
        };
        let refusal = match report.recv_timeout(patience) {
            Ok(report) => return report,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                deadline.cancel();
                let refusal = Refusal::Late { stage: stage.name(), deadline: patience };
                *abandoned = Some(Abandoned { thread, stage });
                refusal
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Refusal::Panicked(stage.name()),
        };
        let (digest, seen) = found.get().cloned().unzip();
        Report { seen: seen.flatten(), digest, ..Report::refused(refusal) }
    }
}
