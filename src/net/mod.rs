//! The way to other servers: names and addresses.

pub(crate) mod resolver;
pub(crate) mod trust;
