//! What one request carries through Pingora's phases.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::Bucket;
use crate::gateway::address::LocalUser;
use crate::gateway::admission::Admission;
use crate::gateway::downstream::Downstream;
use crate::gateway::rejection::Rejection;
use crate::generation::Generation;

pub(crate) struct Context {
    /// The generation that serves this request, from its header to its last byte.
    pub(crate) generation: Arc<Generation>,
    /// Counts the request as under way until Pingora drops the context.
    pub(crate) _in_flight: TaskTrackerToken,
    pub(crate) started: Instant,
    /// The same moment on the other clock.
    pub(crate) received: SystemTime,
    pub(crate) request_id: String,
    /// The connection that the request came in on.
    pub(crate) downstream: Option<Arc<Downstream>>,
    /// The client's address, where it is known.
    pub(crate) address: Option<IpAddr>,
    /// Who connected to the operators' socket; `None` on a port.
    pub(crate) user: Option<LocalUser>,
    /// Who is known to have asked, where it was an operator's request.
    pub(crate) actor: Option<String>,
    /// The bucket that the request belongs to, whether it may be read or not.
    pub(crate) bucket: Option<Arc<Bucket>>,
    /// Set once the request may go to a store.
    pub(crate) admission: Option<Admission>,
    /// Why the client got, or would have got, an error.
    pub(crate) rejection: Option<Rejection>,
    /// The store's own error code, for the log.
    pub(crate) store_code: Option<String>,
    pub(crate) upstream: Upstream,
    /// What replaces the body of a store's error; taken when it was sent.
    pub(crate) replacement: Replacement,
}

/// The attempts to reach the store.
#[derive(Default)]
pub(crate) struct Upstream {
    /// Addresses not tried yet; the first is being tried.
    pub(crate) candidates: Vec<IpAddr>,
    /// Whether a request was already repeated because its pooled connection had gone stale.
    pub(crate) repeated: bool,
    /// Whether the attempt under way has a connection that was used before; `None` without a connection,
    /// and once the outcome of the attempt was told.
    pub(crate) is_reused: Option<bool>,
    pub(crate) sent_at: Option<Instant>,
    /// How many informational answers came before the final one.
    pub(crate) informational: u32,
    /// From sending the request to the store's header.
    pub(crate) latency: Option<Duration>,
    /// By how many seconds our clock was ahead of the store's when it answered with an error.
    pub(crate) clock_ahead: Option<i64>,
}

/// Whether the store's body is the client's.
#[derive(Default)]
pub(crate) enum Replacement {
    /// The store's body passes through.
    #[default]
    None,
    /// Ours goes out instead.
    Pending(Bytes),
    /// Ours is out; what the store still sends is dropped.
    Done,
}

impl Context {
    /// The time of day at a moment of the request; a clock that is set meanwhile counts from the next one on.
    pub(crate) fn time_of(&self, moment: Instant) -> SystemTime {
        self.received + moment.duration_since(self.started)
    }

    /// What is left of a time that began with the request.
    pub(crate) fn remaining(&self, total: Duration) -> Duration {
        total.saturating_sub(self.started.elapsed())
    }
}
