//! The way to other servers: names and addresses.

pub mod resolver;
