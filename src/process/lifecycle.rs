//! Whether the process serves or drains, and which requests are under way.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Shared by whoever begins the drain, whoever waits for it and whoever reports it.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    drain: watch::Sender<bool>,
    is_handed_over: AtomicBool,
    requests: TaskTracker,
    /// Headers of requests that have begun to come.
    headers: TaskTracker,
}

impl Lifecycle {
    /// Begins the drain: from now on the process is not ready.
    pub(crate) fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Begins the drain of a process that another one has taken over from.
    pub(crate) fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::SeqCst);
        self.drain();
    }

    /// Whether the service goes on in another process.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::SeqCst)
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Completes when the drain has begun.
    pub(crate) async fn draining(&self) {
        // The sender lives as long as this does.
        let _ = self.drain.subscribe().wait_for(|draining| *draining).await;
    }

    /// Counts a request for as long as the token lives.
    pub(crate) fn request(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    /// Counts a header that has begun to come for as long as the token lives.
    pub(crate) fn header(&self) -> TaskTrackerToken {
        self.headers.token()
    }

    /// Completes at a moment when no header has come only in part.
    pub(crate) async fn headers_complete(&self) {
        self.headers.close();
        self.headers.wait().await;
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        self.requests.len()
    }

    /// Completes at a moment when no request is under way.
    pub(crate) async fn idle(&self) {
        self.requests.close();
        self.requests.wait().await;
    }
}
