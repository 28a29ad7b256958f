//! The configuration: from a file to something total.
//!
//! [`load`] reads, parses, fills in references and validates. Start-up, `--validate` and every
//! reload call it, so what is accepted once is accepted always; after it nothing about
//! configuration can fail. Knows the domain's types, not the network.

pub mod changes;
mod file;
mod reuse;
mod sections;
pub(crate) mod stages;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_yaml::Value;
use thiserror::Error;

use crate::access::external::External;
use crate::access::networks::Network;
use crate::access::policy::Policy;
use crate::access::rule::Rule;
use crate::deadline::Expired;
use crate::fault;
use crate::limits::Limits;
use crate::net::peer::Timeouts;
use crate::net::trust::Trust;
use crate::routing::{Prefix, RouteTable};
use crate::s3;
use crate::s3::identity::Identity;
use crate::secret::Secret;
use crate::settings::problem::{Place, Problems};
use crate::settings::redaction::redacted;
use crate::settings::reference::References;
use crate::settings::source::Content;
use crate::settings::{document, source};
use crate::telemetry::log;
use crate::tokens::claims::Condition;
use crate::tokens::jwks::Jwks;
use crate::tokens::keys::Algorithm;
use crate::tokens::verifier::Verifier;
use reuse::{Filled, Known, Origin};
use stages::Stages;

/// A valid configuration, ready for use.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub operators: Operators,
    pub reload: Reload,
    pub log: log::Settings,
    pub limits: Limits,
    pub routes: RouteTable<Arc<Bucket>>,
    /// In the order of the file.
    pub buckets: Vec<Arc<Bucket>>,
    /// The keys that are published elsewhere; none while `jwt` is switched off.
    pub jwks: Vec<Arc<Jwks>>,
    /// What a token must be made of.
    pub minting: Minting,
    /// What is valid and yet perhaps not meant, one line each.
    pub warnings: Vec<String>,
    /// `sha256:` and the digest of the exact bytes of the file and of every file it refers to.
    pub digest: String,
    /// What tells tokens apart, and the fingerprint of everything that it was made from.
    verifier: Option<(u64, Arc<Verifier>)>,
    /// The fingerprint of the files that keys and their roots came from; `None` without any.
    key_files: Option<u64>,
    /// Everything but the buckets, which carry their own part.
    effective: Value,
}

/// How the configuration itself is kept up to date.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// Whether the file watcher is on.
    pub is_watching: bool,
    pub watch: Watch,
    /// How long one reload may take.
    pub deadline: Duration,
    /// Where the last good content and the history are kept.
    pub history_file: Option<PathBuf>,
    pub notify: Option<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// How long the files must have been left alone.
    pub debounce: Duration,
    /// Between two looks that nothing has caused.
    pub poll: Duration,
}

/// Whom to tell of reloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    pub url: Secret,
    pub on_success: bool,
    pub on_failure: bool,
    pub timeout: Duration,
}

#[derive(Debug)]
pub struct Server {
    pub listen: SocketAddr,
    pub threads: usize,
    pub generation_header: bool,
    /// How long a client's connection may wait for its next request.
    pub keepalive: Duration,
    pub shutdown_grace: Duration,
    /// Where a new process waits for the listeners.
    pub upgrade_socket: PathBuf,
    /// Who is believed about the addresses of clients.
    pub trusted_proxies: Vec<Network>,
}

/// The operators' endpoints.
#[derive(Debug)]
pub struct Operators {
    /// Whether there is anything below `/admin`.
    pub enabled: bool,
    /// Where they are served; on the traffic port when `None`.
    pub listen: Option<SocketAddr>,
    /// The Unix socket where they are served as well.
    pub socket: Option<PathBuf>,
    /// The users whose connection to it stands for a token.
    pub socket_uids: Vec<u32>,
    pub rule: Rule,
}

/// One bucket: who may read it, where it is, and how requests to it are signed and timed.
#[derive(Debug)]
pub struct Bucket {
    /// The operator's name for it; the label of its metrics.
    pub name: Arc<str>,
    pub prefix: Prefix,
    pub policy: Policy,
    /// Who is asked about every request that the policy allows.
    pub external: Option<Arc<External>>,
    pub store: s3::Bucket,
    /// The credentials that requests to the store are signed with.
    pub identity: Arc<Identity>,
    pub region: Box<str>,
    pub trust: Trust,
    pub timeouts: Timeouts,
    /// Whether the file itself holds a secret of it, and not only a reference to one.
    holds_secret: bool,
    /// Its section of the file, complete with defaults; secrets as fingerprints.
    effective: Value,
    /// `None` when it was made from more than can be told.
    origin: Option<Origin>,
}

/// What it takes to make a token that this configuration accepts.
#[derive(Debug)]
pub struct Minting {
    /// The shared secrets that are in service; others can make no token here.
    pub keys: Vec<MintingKey>,
    /// What an operator's token must satisfy.
    pub operator_conditions: Vec<Condition>,
}

#[derive(Debug)]
pub struct MintingKey {
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub secret: Secret,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

impl Config {
    /// The effective configuration as YAML: defaults filled in, references as written, secrets redacted.
    pub fn show(&self) -> String {
        let mut whole = redacted(&self.effective);
        if let Value::Mapping(sections) = &mut whole {
            let buckets = self.buckets.iter().map(|bucket| redacted(&bucket.effective)).collect();
            sections.insert("buckets".into(), Value::Sequence(buckets));
        }
        serde_yaml::to_string(&whole).unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// [`Self::show`] below a comment that names the file it was read from, and the digest.
    pub fn show_with_origin(&self, path: &Path) -> String {
        // A line break in the path would end the comment.
        let path = path.display().to_string().replace(char::is_control, "\u{fffd}");
        format!("# {path}, {}\n{}", self.digest, self.show())
    }

    /// Lets go of what is remembered only while it serves; for one that is kept after its successor came.
    pub fn retire(&self, successor: &Self) {
        let key = |config: &Self| config.verifier.as_ref().map(|(_, verifier)| Arc::as_ptr(verifier));
        if let Some((_, verifier)) = self.verifier.as_ref().filter(|_| key(self) != key(successor)) {
            verifier.forget();
        }
    }
}

/// Where a configuration comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The file as it is now.
    File(PathBuf),
    /// A text in place of the file at a path; what it refers to is read from the disk.
    Text { path: PathBuf, text: Vec<u8> },
    /// Everything as it was at another time; the disk is left alone.
    Recorded { path: PathBuf, content: Content },
}

/// What came of reading a configuration.
#[derive(Debug)]
pub struct Loaded {
    /// What was read, once, and judged; also when it is not valid.
    pub content: Content,
    pub digest: String,
    pub outcome: Result<Config, Unloaded>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum Unloaded {
    #[error(transparent)]
    Invalid(#[from] Problems),
    /// The deadline of the stages passed first, so nothing is known about the file.
    #[error(transparent)]
    Expired(#[from] Expired),
}

/// Reads and validates a configuration file, and nothing else: no network, no effect.
pub(crate) fn load(path: &Path) -> Result<Config, Unloaded> {
    load_from(Source::File(path.to_owned()), None, &mut Stages::default()).outcome
}

/// As `load`, from any source, with the time that each stage took. Buckets that are the same as in the
/// predecessor are taken over from it.
pub fn load_from(source: Source, predecessor: Option<&Config>, stages: &mut Stages) -> Loaded {
    let mut own_mode = None;
    let (path, read, recorded) = match source {
        Source::File(path) => {
            let found = stages.time("read", || {
                fault::point("read");
                source::read(&path, source::MAX_CONFIG_BYTES)
            });
            own_mode = found.as_ref().ok().map(|found| found.mode);
            (path, found.map(|found| found.bytes), None)
        }
        Source::Text { path, text } => (path, Ok(text), None),
        Source::Recorded { path, content } => {
            (path, content.file.ok_or(source::Unreadable::NotAFile), Some(content.referenced))
        }
    };
    let directory = source::directory(&path);
    let mut references = match recorded {
        None => References::new(directory),
        Some(files) => References::recorded(directory, files),
    };
    let (file, outcome) = match read {
        Ok(bytes) => {
            let own = own_mode.map(|mode| (path.as_path(), mode));
            let outcome = parse(&bytes, own, &mut references, predecessor, stages);
            (Some(bytes), outcome)
        }
        Err(why) => (None, Err(Problems::one(Place::root(), None, format!("`{}`: {why}", path.display())))),
    };
    let content = Content { file, referenced: references.files };
    let digest = stages.time("digest", || content.digest());
    // A loop that broke off at the deadline leaves an outcome that means nothing.
    let outcome = match stages.deadline().check() {
        Ok(()) => outcome.map(|config| Config { digest: digest.clone(), ..config }).map_err(Unloaded::from),
        Err(expired) => Err(expired.into()),
    };
    Loaded { content, digest, outcome }
}

/// `own` is the file that the bytes are from, with its mode; `None` where they are from elsewhere.
fn parse(
    bytes: &[u8],
    own: Option<(&Path, u32)>,
    references: &mut References<'_>,
    predecessor: Option<&Config>,
    stages: &mut Stages,
) -> Result<Config, Problems> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
        Problems::one(Place::root(), Some(line), "the file is not UTF-8; save it as UTF-8")
    })?;
    let mut problems = Problems::default();
    let known = Known::new(predecessor);
    let deadline = stages.deadline().clone();
    references.within(text.len(), &deadline);
    let document = stages.time("parse", || {
        fault::point("parse");
        document::read(text, |hash| known.knows(hash), &deadline)
    })?;
    if document.tree.is_null() {
        return Err(Problems::one(
            Place::root(),
            None,
            "the file is empty; write at least `buckets: []` if that is meant",
        ));
    }
    let Filled { tree, jwt, buckets } = stages.time("references", || {
        fault::point("references");
        reuse::fill(document, &known, references, &mut problems)
    });
    let valid = stages.time("validate", || {
        fault::point("validate");
        let (file, buckets) = sections::read(tree, buckets, references, &mut problems);
        validate::validate(&file, own, buckets, jwt, &known, references, &mut problems)
    });
    match valid {
        Some(valid) if problems.is_empty() => Ok(valid),
        // The problems of a run that was given up are thrown away.
        _ if deadline.has_passed() => Err(problems),
        _ => Err(problems.located_in(text)),
    }
}
