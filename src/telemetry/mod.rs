//! Everything that the program tells about itself: metrics and the log.

pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod units;
