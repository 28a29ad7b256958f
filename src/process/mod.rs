//! The process and the operating system: its life cycle, signals and systemd.

pub(crate) mod lifecycle;
pub(crate) mod signals;
pub(crate) mod systemd;
