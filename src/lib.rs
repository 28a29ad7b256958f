//! yatagarasu: private S3 buckets over HTTP, under a configuration that can change while it serves.
//!
//! The map, from roof to cellar. A module imports only from modules listed below it.

pub mod cli; //        the command line as typed
pub mod commands; //   commands that talk to a running server, and tokens
pub mod server; //     composition root: listeners, services, shutdown
pub mod listen; //     sockets that clients and operators connect to
pub mod gateway; //    clients' HTTP: the data path, as Pingora's phases
pub mod operators; //  operators' HTTP: reload, status, metrics, health; failed log-ins
pub mod answer; //     an HTTP answer of our own
pub mod process; //    the process and the operating system: life cycle, signals, systemd
pub mod reload; //     the only writer of the live pointer, and what triggers it
pub mod credentials; // fetches the stores' credentials, and keeps them fresh
pub mod generation; // one immutable configuration in service, and the pointer to it
pub mod config; //     from a file to a total configuration
pub mod settings; //   from text to trees with places, references and problems; knows no key
pub mod limits; //     the limits of connections and headers
pub mod access; //     may this request read this object?
pub mod tokens; //     who sends a request: tokens, keys, claims
pub mod net; //        the way to other servers
pub mod routing; //    paths and prefixes
pub mod s3; //         addressing and signing requests to a store
pub mod telemetry; //  metrics, the log, units
pub mod deadline; //   until when a run may go on
pub mod secret; //     a secret prints as [redacted]
pub mod fault; //      failures on demand, in test builds only
