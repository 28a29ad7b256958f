//! Behaviour as a user meets it: the real program as a process, a real S3 server that checks
//! signatures, real sockets, signals and files. One binary; the modules in reading order.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails by a panic is a test that works"
)]

mod harness;

mod config; //    what the validator says
mod objects; //   reading objects
mod tokens; //    who may read
mod reloading; // changing the configuration while it serves
mod faults; //    stores and clients that fail
mod ending; //    start, readiness, drain
mod commands; //  the commands beside running
mod observing; // log and metrics
mod load; //      large objects
mod house; //     the floors of the source
