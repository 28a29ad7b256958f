//! Durations and times as the numbers that logs, answers and metrics show.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds with the precision of a microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Seconds since the epoch; 0 for a time before it.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
