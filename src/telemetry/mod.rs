//! Everything that the program tells about itself: metrics and the log.

pub mod log;
pub mod metrics;
pub mod units;
