//! yatagarasu: private S3 buckets over HTTP, under a configuration that can change while it serves.
//!
//! The map, from roof to cellar. A module imports only from modules listed below it.

pub mod cli; //        the command line as typed
pub mod client; //     commands that talk to a running server, and tokens
pub mod server; //     composition root: listeners, services, shutdown
pub mod gateway; //    clients' HTTP: the data path, as Pingora's phases
pub mod admin; //      operators' HTTP: reload, status, metrics, health; failed log-ins
pub mod answer; //     an HTTP answer of our own
pub mod reload; //     the only writer of the live pointer, and what triggers it
pub mod lifecycle; //  serving or draining; the requests under way
pub mod credentials; // fetches the stores' credentials, and keeps them fresh
pub mod generation; // one immutable configuration in service, and the pointer to it
pub mod config; //     from a file to a total configuration
pub mod routing; //    paths and prefixes
pub mod auth; //       tokens, keys, claims: may this request do this?
pub mod s3; //         addressing and signing requests to a store
pub mod metrics; //    every metric
pub mod logging; //    the log
pub mod deadline; //   until when a run may go on
pub mod secret; //     a secret prints as [redacted]
pub mod fault; //      failures on demand, in test builds only
