//! Behaviour as a user meets it: the real program as a process, a real S3 server that checks
//! signatures, real sockets, signals and files. One binary; the modules in reading order.

mod harness;

mod config;
mod faults;
mod objects;
mod tokens;
