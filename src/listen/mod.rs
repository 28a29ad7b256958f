//! Sockets that clients and operators connect to, from the file descriptor to Pingora's stream.

mod acceptor;
mod alarm;
mod connection;
pub mod connections;
mod header_scan;
mod listener;
pub mod ports;
mod socket_file;
pub mod upgrade;
pub mod workers;
