//! yatagarasu: private S3 buckets over HTTP, under a configuration that can change while it serves.
//!
//! A program that embeds the reloader uses what is exported here; `examples/embedded.rs` shows how.
//!
//! The list of modules is the map of the house, from roof to cellar. A module imports only from modules
//! listed below it.

#![warn(unreachable_pub)]

mod commands; //   commands: serve, check, show, reload, token, sign
mod cli; //        the command line as typed
mod server; //     composition root: every long-lived part, its start and its end
mod listen; //     sockets that clients and operators connect to
mod gateway; //    clients' HTTP: the data path, as Pingora's phases
mod operators; //  operators' HTTP: reload, status, metrics, health; failed log-ins
mod process; //    the process and the operating system: life cycle, signals, systemd
mod reload; //     the only writer of the live pointer, and what triggers it
mod generation; // one immutable configuration in service, and the pointer to it
mod config; //     the sum of the sections: from a file to a total configuration
mod access; //     may this request read this object?
mod tokens; //     the sender of a request: tokens, keys, claims, issuers
mod identities; // credentials of the stores that come from elsewhere, kept fresh
mod limits; //     the limits of connections and headers
mod settings; //   from text to trees with places, references and problems; knows no key
mod net; //        the way to other servers
mod s3; //         addressing and signing requests to a store
mod telemetry; //  metrics, the log, units
mod routing; //    paths and prefixes
mod answer; //     an HTTP answer of our own
mod deadline; //   the deadline of a run
mod secret; //     a secret prints as [redacted]
mod fault; //      failures on demand, in test builds only

pub use config::Config;
pub use generation::{Generation, Live};
pub use reload::Reloader;
pub use reload::attempt::{Attempt, Refusal, Verdict};
pub use reload::hooks::{Announcement, Event};

#[doc(hidden)]
pub use commands::dispatch::run_program;

/// Parts that the benches and the fuzz targets measure by themselves. They may change at any time.
#[doc(hidden)]
pub mod internals {
    pub use crate::access::policy::Readers;
    pub use crate::access::rule::Rule;
    pub use crate::config::stages::Stages;
    pub use crate::config::{Source, changes, load_from};
    pub use crate::gateway::admission::{Admitted, admit};
    pub use crate::gateway::upstream::signed_request;
    pub use crate::routing::{Prefix, RouteTable, decode};
    pub use crate::s3::key::ObjectKey;
    pub use crate::s3::query::Query;
    pub use crate::s3::sign::Unsigned;
    pub use crate::secret::Secret;
    pub use crate::tokens::claims::{Claims, Condition};
    pub use crate::tokens::key_set::KeySet;
    pub use crate::tokens::keys::{Algorithm, Key, mint};
    pub use crate::tokens::verifier::{ConfiguredKey, Expectations, PublishedKeys, Verifier};
}
