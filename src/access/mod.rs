//! Whether a request may read an object: the policy of a bucket, its rules, networks and signed links.
//!
//! Knows no configuration and no Pingora; the time is an argument.

pub(crate) mod denied;
pub(crate) mod external;
pub(crate) mod links;
pub(crate) mod networks;
pub(crate) mod pattern;
pub(crate) mod policy;
pub(crate) mod rule;
pub(crate) mod rules;
