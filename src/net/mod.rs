//! The way to other servers: names, addresses, connections and the certificates that vouch for them.

pub(crate) mod peer;
pub(crate) mod resolver;
pub(crate) mod trust;
