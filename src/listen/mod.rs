//! Sockets that clients and operators connect to, from the file descriptor to Pingora's stream.

mod acceptor;
mod alarm;
mod connection;
pub(crate) mod connections;
mod header_scan;
mod listener;
pub(crate) mod ports;
mod socket_file;
pub(crate) mod upgrade;
pub(crate) mod workers;
