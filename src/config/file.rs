//! The configuration as written: one struct a section, the names and the defaults, no logic.
//!
//! Everything that may be left out has its default here, so that a file that was read *is* the
//! effective configuration: `config show` prints it and a reload compares it. What is required is
//! an `Option` that `validate` insists on.

mod auth;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::secret::Secret;
use crate::settings::redaction::SecretQuery;
pub(super) use auth::{Auth, PathRule, SignedLinks};

/// The sections, each read on its own so that a mistake in one hides none in another.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sections {
    pub server: Value,
    pub admin: Value,
    pub reload: Value,
    pub log: Value,
    pub limits: Value,
    pub jwt: Option<Value>,
    /// Whether there is a list; what it holds has been taken out.
    pub buckets: Option<Vec<IgnoredAny>>,
}

/// All sections but the buckets, each of which is serialized with the one that it becomes.
#[derive(Debug, Default, Serialize)]
pub(super) struct File {
    pub server: Server,
    pub admin: Admin,
    pub reload: Reload,
    pub log: Log,
    pub limits: crate::limits::Section,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    pub address: String,
    pub port: u64,
    pub threads: u64,
    pub generation_header: bool,
    pub keepalive_seconds: u64,
    pub shutdown_grace_seconds: u64,
    pub upgrade_socket: String,
    pub trusted_proxies: Vec<String>,
    pub strict_permissions: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            address: "0.0.0.0".to_owned(),
            port: 8080,
            threads: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
            generation_header: false,
            keepalive_seconds: 75,
            shutdown_grace_seconds: 30,
            upgrade_socket: "/run/yatagarasu/upgrade.sock".to_owned(),
            trusted_proxies: Vec::new(),
            strict_permissions: false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    pub enabled: bool,
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    pub socket_uids: Vec<u64>,
    pub claims: Vec<Claim>,
}

impl Default for Admin {
    fn default() -> Self {
        let admin = Claim {
            claim: "role".to_owned(),
            operator: "equals".to_owned(),
            value: Some(Value::String("admin".to_owned())),
        };
        Self {
            enabled: true,
            address: "127.0.0.1".to_owned(),
            port: None,
            socket: None,
            socket_uids: Vec::new(),
            claims: vec![admin],
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reload {
    pub watch: bool,
    pub debounce_ms: u64,
    pub poll_seconds: u64,
    pub deadline_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            watch: false,
            debounce_ms: 500,
            poll_seconds: 30,
            deadline_seconds: 30.0,
            history_file: None,
            notify: None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Notify {
    /// A secret, because the address of a webhook often is.
    pub url: Option<Secret>,
    pub on: Vec<String>,
    pub timeout_seconds: f64,
}

impl Default for Notify {
    fn default() -> Self {
        Self { url: None, on: vec!["failure".to_owned()], timeout_seconds: 5.0 }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub level: String,
    pub format: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "auto".to_owned() }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Claim {
    pub claim: String,
    pub operator: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Jwt {
    pub enabled: bool,
    pub algorithm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    pub keys: Vec<Key>,
    pub jwks: Vec<Jwks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    pub audience: Vec<String>,
    pub leeway_seconds: u64,
    pub token_sources: Vec<TokenSource>,
    pub claims: Vec<Claim>,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            enabled: true,
            algorithm: "HS256".to_owned(),
            secret: None,
            public_key: None,
            keys: Vec::new(),
            jwks: Vec::new(),
            issuer: None,
            audience: Vec::new(),
            leeway_seconds: 60,
            token_sources: vec![TokenSource { kind: "bearer".to_owned(), name: None }],
            claims: Vec::new(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Key {
    pub id: Option<String>,
    pub algorithm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<Vec<String>>,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            id: None,
            algorithm: "HS256".to_owned(),
            secret: None,
            public_key: None,
            not_after: None,
            issuer: None,
            audience: None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Jwks {
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Shown without its query, in which some issuers want a key.
    pub url: Option<SecretQuery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    pub refresh_seconds: u64,
    pub refetch_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<Vec<String>>,
}

impl Default for Jwks {
    fn default() -> Self {
        Self {
            url: None,
            file: None,
            ca_file: None,
            refresh_seconds: 3600,
            refetch_seconds: 10,
            issuer: None,
            audience: None,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TokenSource {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Bucket {
    pub name: Option<String>,
    pub path_prefix: Option<String>,
    pub s3: Option<S3>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_networks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_networks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks_mode: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct S3 {
    pub bucket: Option<String>,
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    pub addressing: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    pub access_key: Option<Secret>,
    pub secret_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    pub timeouts: Timeouts,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Credentials {
    pub source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    pub connect_seconds: f64,
    pub first_byte_seconds: f64,
    pub read_seconds: f64,
    pub write_seconds: f64,
    pub idle_seconds: f64,
    pub total_seconds: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_seconds: 5.0,
            first_byte_seconds: 15.0,
            read_seconds: 60.0,
            write_seconds: 60.0,
            idle_seconds: 60.0,
            total_seconds: 21_600.0,
        }
    }
}
