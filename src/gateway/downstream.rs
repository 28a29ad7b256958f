//! A client's connection as the requests on it see it: who connected, what may be read from it now, and
//! until when.
//!
//! `server::connection` asks here before it reads for Pingora, and the gateway says here how far the
//! request is. Both run in the task of the connection, so the lock is never waited for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::proxy::Session;
use tokio::time::Instant;

use crate::gateway::address::LocalUser;

/// A fault of a header that Pingora would have mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The target holds a space, a control character, a fragment or what is not UTF-8.
    Target,
    /// A line ends in a bare LF.
    LineEnd,
}

/// The meaning of the next bytes of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The header of the next request.
    Header,
    /// The body of a request: so many bytes, or chunks.
    Body(Option<u64>),
    /// Nothing while a request without a body, or with a body that was read, is being answered.
    Nothing,
}

#[derive(Debug)]
struct State {
    expected: Expected,
    /// When to give up: for the header under way, or for the request that is being answered.
    deadline: Option<Instant>,
    /// Whether the connection gave up at the deadline.
    is_overdue: bool,
    /// About the header that came last.
    malformed: Option<Malformed>,
    /// How long the next header may take from its first byte.
    header_patience: Duration,
}

impl State {
    /// The next request may come.
    fn new(header_patience: Duration) -> Self {
        Self {
            expected: Expected::Header,
            deadline: None,
            is_overdue: false,
            malformed: None,
            header_patience,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Downstream {
    /// The user at the operators' socket; `None` on a port.
    user: Option<LocalUser>,
    state: Mutex<State>,
}

impl Downstream {
    /// A new connection that waits for its first request.
    pub(crate) fn new(user: Option<LocalUser>, header_patience: Duration) -> Self {
        Self { user, state: Mutex::new(State::new(header_patience)) }
    }

    /// The connection that a request came in on.
    pub(crate) fn of(session: &Session) -> Option<Arc<Self>> {
        let digest: &ProxyDigest = session.digest()?.proxy_digest.as_ref()?;
        digest.user_data.as_ref()?.downcast_ref().cloned()
    }

    pub(crate) fn user(&self) -> Option<LocalUser> {
        self.user
    }

    /// The meaning of the next bytes, and the deadline.
    pub(crate) fn expected(&self) -> (Expected, Option<Instant>) {
        let state = self.state.lock();
        (state.expected, state.deadline)
    }

    /// The first bytes of a header have come, and not all of it.
    pub(crate) fn header_has_begun(&self) {
        let mut state = self.state.lock();
        if state.deadline.is_none() {
            state.deadline = Some(Instant::now() + state.header_patience);
        }
    }

    /// A header is complete.
    pub(crate) fn header_has_come(&self, malformed: Option<Malformed>) {
        let mut state = self.state.lock();
        (state.expected, state.deadline, state.malformed) = (Expected::Nothing, None, malformed);
    }

    /// So many bytes of a body were read.
    pub(crate) fn body_was_read(&self, bytes: usize) {
        let mut state = self.state.lock();
        if let Expected::Body(Some(left)) = &mut state.expected {
            *left = left.saturating_sub(bytes as u64);
        }
    }

    /// The connection gives up.
    pub(crate) fn deadline_has_passed(&self) {
        self.state.lock().is_overdue = true;
    }

    /// Whether the connection ended because a header took too long.
    pub(crate) fn header_was_overdue(&self) -> bool {
        let state = self.state.lock();
        state.is_overdue && state.expected == Expected::Header
    }

    /// Says what belongs to the request beside its header.
    pub(crate) fn expect(&self, expected: Expected) {
        self.state.lock().expected = expected;
    }

    /// The fault of the header that came last.
    pub(crate) fn malformed(&self) -> Option<Malformed> {
        self.state.lock().malformed
    }

    /// Sets the time at which the request that is being answered is given up.
    pub(crate) fn give_up_at(&self, deadline: Instant) {
        self.state.lock().deadline = Some(deadline);
    }

    /// Whether the request was given up at its deadline.
    pub(crate) fn is_overdue(&self) -> bool {
        self.state.lock().is_overdue
    }

    /// The request has ended; the next one may come.
    pub(crate) fn expect_header(&self, patience: Duration) {
        *self.state.lock() = State::new(patience);
    }
}
