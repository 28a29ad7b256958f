//! Behaviour as a user meets it: the real program as a process, a real S3 server that checks
//! signatures, real sockets, signals and files. One binary; the modules in reading order.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails by a panic is a test that works"
)]

mod stack;

mod config; //    what the validator says
mod config_limits; //  … of files of any shape, in bounded time and memory
mod config_secrets; // … and shows no secret
mod objects; //   reading objects
mod tokens; //    who may read
mod rules; //     … which part of a bucket, from where
mod forgeries; // tokens that somebody made up
mod keys; //      several keys; keys that issuers publish
mod external; //  who may read when a service has a say
mod credentials; // whom requests to the store are signed as
mod rotation; //    … both identities change under load
mod reloading; // changing the configuration while it serves
mod operators; // who may change it: the socket, failed log-ins, the audit
mod reload_switch; //   … G1 to G7: the switch and the requests under way
mod reload_safety; //   … G8 to G14: safety
mod reload_unseen; //   … nothing moves before publication
mod reload_bounds; //   … a run has an end
mod reload_triggers; // … G15 to G24: triggers, the file watcher among them
mod reload_state; //    … G25 to G32: what survives; ports that move
mod reload_honesty; //  … G35 to G41, G47: reports, history, rollback
mod reload_process; //  … G23, G45, G46, G48: systemd, process 1, upgrade
mod reload_program; //  … inside another program
mod reload_model; //    … random steps against a model
mod faults; //    stores and clients that fail
mod hostile_stores; //  … stores that do it on purpose
mod hostile_clients; // … and clients
mod ending; //    start, readiness, drain
mod commands; //  the commands beside running
mod deploying; // … the files below deploy/
mod observing; // log and metrics
mod logs; //      … the level and the format, which a reload changes
mod observed; //   rules that are observed before they are enforced
mod load; //      large objects
mod house; //     the floors of the source
mod defects; //   programs that are broken on purpose
