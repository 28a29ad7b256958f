//! Whether the process serves or drains, and which requests are under way.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Shared by whoever begins the drain, whoever waits for it and whoever reports it.
#[derive(Debug, Default)]
pub struct Lifecycle {
    draining: AtomicBool,
    drain: Notify,
    requests: TaskTracker,
}

impl Lifecycle {
    /// Begins the drain: from now on the process is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.drain.notify_one();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Completes when the drain has begun. One waiter.
    pub async fn drained(&self) {
        self.drain.notified().await;
    }

    /// Counts a request for as long as the token lives.
    pub fn request(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    pub fn requests_in_flight(&self) -> usize {
        self.requests.len()
    }

    /// Completes at a moment when no request is under way.
    pub async fn idle(&self) {
        self.requests.close();
        self.requests.wait().await;
    }
}
