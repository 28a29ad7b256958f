//! Clients' connections: how many may be open at once, and how their headers end that take too long.
//!
//! Every connection takes a file descriptor, and a second one while its request is at a store. Without a
//! limit clients could take them all, and then no reload could read a file and no operator would be heard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use tracing::{info, warn};

use crate::generation::Live;
use crate::telemetry::metrics::Metrics;

/// File descriptors that clients cannot take: for reloads, operators, the log and what is kept open.
const RESERVE: usize = 256;

/// Between two lines of the log about refused connections.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct Connections {
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    open: AtomicUsize,
    /// The limit of open files of the process.
    descriptors: usize,
    warned: Mutex<Option<Instant>>,
}

/// A connection that counts until this is dropped.
pub(crate) struct Counted(Arc<Connections>);

impl Connections {
    pub(crate) fn new(live: Arc<Live>, metrics: Arc<Metrics>) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        let descriptors = descriptors.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Self { live, metrics, open: AtomicUsize::new(0), descriptors, warned: Mutex::default() }
    }

    /// Counts one more connection; `None` where there are too many.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Counted> {
        let limit = limit(self.live.current().config.limits.connections, self.descriptors);
        // Counted first, so that two ports of a moment's overlap cannot both take the last place.
        let counted = Counted(self.clone());
        self.metrics.connections_open.inc();
        if self.open.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(counted);
        }
        self.metrics.connections_refused.inc();
        self.warn(limit);
        None
    }

    fn warn(&self, limit: usize) {
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= WARNING_PAUSE) {
            *warned = Some(Instant::now());
            warn!(limit, "connections of clients are refused: `limits.connections` are open");
        }
    }

    /// How long the first header of a new connection may take.
    pub(crate) fn header_patience(&self) -> Duration {
        self.live.current().config.limits.header
    }

    /// A connection was closed with 408 because a header on it took too long.
    pub(crate) fn header_was_overdue(&self, client: Option<SocketAddr>) {
        self.metrics.rejections.with_label_values(&["header_timeout"]).inc();
        info!(
            client = client.map(|client| client.ip().to_string()),
            status = 408,
            reason = "header_timeout",
            "the header of a request took longer than `limits.header_seconds`"
        );
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections_open.dec();
    }
}

/// How many connections there may be. Of the descriptors 256 are kept back, or half where that is less;
/// `auto` leaves a second one for the store of every client.
fn limit(wanted: Option<usize>, descriptors: usize) -> usize {
    let for_clients = descriptors - RESERVE.min(descriptors / 2);
    wanted.map_or(for_clients / 2, |wanted| wanted.min(for_clients)).max(1)
}

#[cfg(test)]
mod tests {
    use super::limit;

    #[test]
    fn some_descriptors_are_kept_from_clients_whatever_the_limit() {
        for (wanted, descriptors, expected) in [
            (None, 1_048_576, 524_160),
            (None, 1024, 384),
            (None, 256, 64),
            (None, 48, 12),
            (None, 1, 1),
            (Some(100), 1024, 100),
            (Some(5000), 1024, 768),
            (Some(100), 48, 24),
        ] {
            assert_eq!(limit(wanted, descriptors), expected, "{wanted:?} of {descriptors}");
        }
    }
}
