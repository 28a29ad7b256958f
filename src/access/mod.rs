//! Whether a request may read an object: the policy of a bucket, its rules, networks and signed links.
//!
//! Knows no configuration and no Pingora; the time is an argument.

pub mod denied;
pub mod links;
pub mod networks;
pub mod pattern;
pub mod policy;
pub mod rule;
