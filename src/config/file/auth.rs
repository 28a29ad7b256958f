//! The `auth` block of a bucket as written.

use serde::{Deserialize, Serialize};

use crate::config::file::Claim;
use crate::secret::Secret;

/// The default of every `mode`.
const ENFORCE: &str = "enforce";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Auth {
    pub(crate) enabled: bool,
    pub(crate) mode: String,
    pub(crate) claims: Vec<Claim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<Vec<PathRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signed_links: Option<SignedLinks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) external: Option<External>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: ENFORCE.to_owned(),
            claims: Vec::new(),
            rules: None,
            signed_links: None,
            external: None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SignedLinks {
    pub(crate) secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous_secret: Option<Secret>,
    pub(crate) max_ttl_seconds: u64,
}

impl Default for SignedLinks {
    fn default() -> Self {
        Self { secret: None, previous_secret: None, max_ttl_seconds: 86_400 }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct External {
    pub(crate) url: Option<Secret>,
    pub(crate) timeout_ms: u64,
    pub(crate) cache_seconds: u64,
}

impl Default for External {
    fn default() -> Self {
        Self { url: None, timeout_ms: 1000, cache_seconds: 0 }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PathRule {
    pub(crate) path: Option<String>,
    pub(crate) methods: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow: Option<String>,
    pub(crate) deny: bool,
    pub(crate) mode: String,
    pub(crate) claims: Vec<Claim>,
}

impl Default for PathRule {
    fn default() -> Self {
        Self {
            path: None,
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            allow: None,
            deny: false,
            mode: ENFORCE.to_owned(),
            claims: Vec::new(),
        }
    }
}
