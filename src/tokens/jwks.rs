//! A key set that an issuer publishes: its address, and how it is kept up to date.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::net::trust::Trust;
use crate::tokens::key_set::KeySet;

/// A set of keys that an issuer publishes, and how it is kept up to date.
#[derive(Debug)]
pub struct Jwks {
    pub url: Url,
    pub trust: Trust,
    /// How old the keys may become.
    pub refresh: Duration,
    /// The least time between two fetches that an unknown key or a failure has caused.
    pub refetch: Duration,
    /// The keys; shared by every generation with this address and this trust.
    pub set: Arc<KeySet>,
}

/// The address of a key set. Prints without its query, as every address in the log does.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split(['?', '#']).next().unwrap_or_default())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
