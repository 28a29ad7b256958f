//! The process and the operating system: its life cycle, signals and systemd.

pub mod lifecycle;
pub mod signals;
pub mod systemd;
