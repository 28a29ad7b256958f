//! The thread that reads and writes the history file. A file system that does not answer holds up this
//! thread and nothing else.
//!
//! Only the latest history matters, so at most one waits to be written, and a newer one takes its place.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tracing::warn;

use crate::reload::history::History;
use crate::reload::history_file::{HistoryFile, Unusable};
use crate::settings::source::Unreadable;

/// How long the start of the process waits for the reports of an earlier one.
const FIRST_READ: Duration = Duration::from_secs(1);

/// How long the end of the process waits for the last write.
const LAST_WRITE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct HistoryWriter {
    waiting: Arc<Waiting>,
}

/// The history that waits to be written, and whether the thread is busy with another one.
#[derive(Debug, Default)]
struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: Option<(HistoryFile, History)>,
    is_writing: bool,
    /// Nothing comes any more, so the thread may end.
    is_closed: bool,
}

impl HistoryWriter {
    /// Starts the thread, and has it read the reports of an earlier process first. They are none where the
    /// file cannot be used or is not read in time; the log says so.
    pub(super) fn start(file: Option<HistoryFile>) -> std::io::Result<(Self, Vec<Value>)> {
        let writer = Self::default();
        let waiting = writer.waiting.clone();
        let (found, earlier) = mpsc::sync_channel(1);
        thread::Builder::new().name("history".to_owned()).spawn(move || {
            let reports = file.as_ref().map(reports_of).unwrap_or_default();
            // Fails if the start no longer waits for the reports.
            let _ = found.send(reports);
            waiting.write_all();
        })?;
        let earlier = earlier.recv_timeout(FIRST_READ).unwrap_or_else(|_| {
            warn!("the history file is not read in time; the reports of the earlier process are not shown");
            Vec::new()
        });
        Ok((writer, earlier))
    }

    /// Has a history written, in place of one that still waits.
    pub(super) fn write(&self, file: HistoryFile, history: History) {
        self.waiting.state.lock().next = Some((file, history));
        self.waiting.changed.notify_all();
    }

    /// Waits for the last write, briefly, so that a process that ends in order leaves a complete history.
    pub(super) fn finish(&self) {
        let mut state = self.waiting.state.lock();
        let is_busy = |state: &mut State| state.next.is_some() || state.is_writing;
        // A history that is not written by then is lost with the process.
        let _ = self.waiting.changed.wait_while_for(&mut state, is_busy, LAST_WRITE);
    }
}

impl Drop for HistoryWriter {
    fn drop(&mut self) {
        self.waiting.state.lock().is_closed = true;
        self.waiting.changed.notify_all();
    }
}

impl Waiting {
    fn write_all(&self) {
        loop {
            let mut state = self.state.lock();
            self.changed.wait_while(&mut state, |state| state.next.is_none() && !state.is_closed);
            let Some((file, history)) = state.next.take() else { return };
            state.is_writing = true;
            drop(state);
            if let Err(error) = file.write(&history) {
                warn!(path = %file.path().display(), %error, "the history cannot be written");
            }
            self.state.lock().is_writing = false;
            self.changed.notify_all();
        }
    }
}

fn reports_of(file: &HistoryFile) -> Vec<Value> {
    match file.read() {
        Ok(recorded) => recorded.reports,
        // The usual case at the first start.
        Err(Unusable::Unreadable(Unreadable::Io(error))) if error.kind() == std::io::ErrorKind::NotFound => {
            Vec::new()
        }
        Err(why) => {
            warn!(path = %file.path().display(), "the earlier history is not used: the file {why}");
            Vec::new()
        }
    }
}
