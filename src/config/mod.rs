//! The configuration: from a file to something total.
//!
//! [`load`] reads, parses, fills in references and validates. Start-up, `--validate` and every
//! reload call it, so what is accepted once is accepted always; after it nothing about
//! configuration can fail. Knows the domain's types, not the network.

pub mod changes;
mod decode;
mod file;
pub mod problem;
mod reference;
mod source;
mod validate;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_yaml::Value;
use sha2::{Digest, Sha256};

use crate::auth::Rule;
use crate::auth::claims::Condition;
use crate::auth::keys::Algorithm;
use crate::routing::RouteTable;
use crate::s3;
use crate::s3::sigv4::Signer;
use crate::secret::{REDACTED, Secret, TAG};
use problem::{Place, Problems};
use reference::References;

/// A valid configuration, ready for use.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub operators: Operators,
    pub routes: RouteTable<Arc<Bucket>>,
    /// What a token must be made of; `None` when no shared secret is configured.
    pub minting: Option<Minting>,
    /// What is valid and yet perhaps not meant, one line each.
    pub warnings: Vec<String>,
    /// `sha256:` and the digest of the exact bytes of the file and of every file it refers to.
    pub digest: String,
    effective: Value,
}

#[derive(Debug)]
pub struct Server {
    pub listen: SocketAddr,
    pub threads: usize,
    pub generation_header: bool,
    /// How long a client's connection may wait for its next request.
    pub keepalive: Duration,
    pub shutdown_grace: Duration,
}

/// The operators' endpoints.
#[derive(Debug)]
pub struct Operators {
    /// Where they are served; on the traffic port when `None`.
    pub listen: Option<SocketAddr>,
    pub rule: Rule,
}

/// One bucket: who may read it, where it is, and how requests to it are signed and timed.
#[derive(Debug)]
pub struct Bucket {
    /// The operator's name for it; the label of its metrics.
    pub name: String,
    pub rule: Rule,
    pub store: s3::Bucket,
    pub signer: Signer,
    pub trust: Trust,
    pub timeouts: Timeouts,
}

/// Which certificates vouch for a store, DER-encoded; none means the system's roots.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub roots: Vec<Vec<u8>>,
}

/// How long a part of a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To reach the store, TLS included.
    pub connect: Duration,
    /// Between two reads from the store.
    pub read: Duration,
    /// For one write, to the store or to the client.
    pub write: Duration,
    /// That an unused connection to the store is kept.
    pub idle: Duration,
    /// For the whole request.
    pub total: Duration,
}

/// What it takes to make a token that this configuration accepts.
#[derive(Debug)]
pub struct Minting {
    pub algorithm: Algorithm,
    pub secret: Secret,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// What an operator's token must satisfy.
    pub operator_conditions: Vec<Condition>,
}

impl Config {
    /// The effective configuration as YAML: defaults and references filled in, secrets redacted.
    pub fn show(&self) -> String {
        serde_yaml::to_string(&redacted(&self.effective)).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

/// Replaces every secret by what stands for it.
fn redacted(value: &Value) -> Value {
    match value {
        Value::Tagged(tagged) if tagged.tag == TAG => Value::String(REDACTED.to_owned()),
        Value::Sequence(items) => Value::Sequence(items.iter().map(redacted).collect()),
        Value::Mapping(entries) => {
            Value::Mapping(entries.iter().map(|(key, value)| (key.clone(), redacted(value))).collect())
        }
        other => other.clone(),
    }
}

/// Reads and validates a configuration file, and nothing else: no network, no effect.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let bytes = source::read(path, source::MAX_CONFIG_BYTES)
        .map_err(|why| Problems::one(Place::root(), None, format!("`{}`: {why}", path.display())))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    parse(&bytes, directory)
}

fn parse(bytes: &[u8], directory: &Path) -> Result<Config, Problems> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
        Problems::one(Place::root(), Some(line), "the file is not UTF-8; save it as UTF-8")
    })?;
    let mut tree: Value = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        Problems::one(Place::root(), line, format!("the file is not YAML: {}", without_position(&error)))
    })?;
    if tree.is_null() {
        return Err(Problems::one(
            Place::root(),
            None,
            "the file is empty; write at least `buckets: []` if that is meant",
        ));
    }
    let mut problems = Problems::default();
    if let Err(error) = tree.apply_merge() {
        problems.push(Place::root(), format!("a merge key `<<` cannot be followed: {error}"));
    }
    let mut references = References::new(directory);
    references.fill(&mut tree, &Place::root(), &mut problems);
    let file = read_sections(tree, &references, &mut problems);
    let valid = validate::validate(file, &mut references, &mut problems);
    match valid {
        Some(valid) if problems.is_empty() => Ok(Config { digest: digest(bytes, &references), ..valid }),
        _ => Err(problems.located_in(text)),
    }
}

fn read_sections(tree: Value, references: &References<'_>, problems: &mut Problems) -> file::File {
    let written = &references.written;
    let root = Place::root();
    let sections: file::Sections = decode::section(tree, &root, written, problems);
    let buckets = root.key("buckets");
    if sections.buckets.is_none() && !problems.any_at(&buckets) && !problems.is_at(&root) {
        problems.push(buckets.clone(), "is missing; list the buckets, or write `buckets: []` for none");
    }
    file::File {
        server: decode::section(sections.server, &root.key("server"), written, problems),
        admin: decode::section(sections.admin, &root.key("admin"), written, problems),
        jwt: sections.jwt.map(|jwt| decode::section(jwt, &root.key("jwt"), written, problems)),
        buckets: sections
            .buckets
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(index, bucket)| decode::section(bucket, &buckets.index(index), written, problems))
            .collect(),
    }
}

/// The message without its position, which a problem states in its own way.
fn without_position(error: &serde_yaml::Error) -> String {
    let message = error.to_string();
    // The one message that quotes a value, which may be a secret that was written without quotes.
    if message.contains("invalid type") {
        return "a number is too large; put the value in quotes".to_owned();
    }
    match message.find(" at line ") {
        Some(position) => message[..position].to_owned(),
        None => message,
    }
}

fn digest(bytes: &[u8], references: &References<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    // The files follow in the order of their paths, each with its length, so that no two sets of
    // files give the same bytes.
    for (path, content) in &references.files {
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    format!("sha256:{}", s3::sigv4::hex(&hash.finalize()))
}
