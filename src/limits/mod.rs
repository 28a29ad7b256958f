//! The section `limits`: how much clients may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

/// The section as written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Section {
    /// A number, or `auto`.
    pub(crate) connections: Value,
    pub(crate) header_seconds: f64,
}

impl Default for Section {
    fn default() -> Self {
        Self { connections: Value::String("auto".to_owned()), header_seconds: 30.0 }
    }
}

/// The section as used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections on the traffic port at once; `None` for as many as there are file descriptors for.
    pub connections: Option<usize>,
    /// How long the header of a request may take from its first byte.
    pub header: Duration,
}
