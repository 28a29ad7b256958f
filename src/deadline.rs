//! The deadline of a run, which may also be cancelled earlier.
//!
//! A run of many steps, such as a reload, is given up by whoever waits for it. Every loop in it that can
//! be long asks [`Deadline::has_passed`] and breaks off, and the last step asks [`Deadline::check`] and
//! throws away what such a loop left unfinished. A deadline that has passed never comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

/// A point in time by which a run must end; clones share their cancellation.
#[derive(Debug, Clone, Default)]
pub struct Deadline {
    /// `None` for a run that may take as long as it needs.
    at: Option<Instant>,
    is_cancelled: Arc<AtomicBool>,
}

/// The run was given up before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the run was given up: its deadline has passed or it was cancelled")]
pub struct Expired;

impl Deadline {
    /// A deadline that only [`Deadline::cancel`] lets pass.
    pub fn none() -> Self {
        Self::default()
    }

    /// A deadline this long from now.
    pub fn within(patience: Duration) -> Self {
        Self { at: Instant::now().checked_add(patience), is_cancelled: Arc::default() }
    }

    /// Lets the deadline pass now, for every clone.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
    }

    pub fn has_passed(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire) || self.at.is_some_and(|at| at <= Instant::now())
    }

    /// An error once the deadline has passed, for use with `?`.
    pub fn check(&self) -> Result<(), Expired> {
        if self.has_passed() { Err(Expired) } else { Ok(()) }
    }

    /// The time left; zero once it has passed, [`Duration::MAX`] where there is no end.
    pub fn remaining(&self) -> Duration {
        if self.is_cancelled.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.at.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_when_its_time_has_come_or_a_clone_is_cancelled() {
        assert!(Deadline::within(Duration::ZERO).has_passed());
        let deadline = Deadline::within(Duration::from_secs(60));
        let clone = deadline.clone();
        assert!(deadline.check().is_ok() && deadline.remaining() > Duration::from_secs(59));
        clone.cancel();
        assert_eq!((deadline.check(), deadline.remaining()), (Err(Expired), Duration::ZERO));
        assert_eq!(Deadline::none().remaining(), Duration::MAX);
    }
}
