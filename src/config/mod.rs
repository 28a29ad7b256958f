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
pub mod source;
pub mod stages;
mod validate;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_yaml::value::{Tag, TaggedValue};
use serde_yaml::{Mapping, Value};

use crate::auth::Rule;
use crate::auth::claims::Condition;
use crate::auth::keys::Algorithm;
use crate::fault;
use crate::routing::{Prefix, RouteTable};
use crate::s3;
use crate::s3::identity::{self, Identity};
use crate::s3::sigv4::Signer;
use crate::secret::{REDACTED, Secret, TAG};
use problem::{Place, Problems};
use reference::References;
use source::Content;
use stages::Stages;

/// A valid configuration, ready for use.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub operators: Operators,
    pub reload: Reload,
    pub routes: RouteTable<Arc<Bucket>>,
    /// In the order of the file.
    pub buckets: Vec<Arc<Bucket>>,
    /// What a token must be made of; `None` when no shared secret is configured.
    pub minting: Option<Minting>,
    /// What is valid and yet perhaps not meant, one line each.
    pub warnings: Vec<String>,
    /// `sha256:` and the digest of the exact bytes of the file and of every file it refers to.
    pub digest: String,
    /// Everything but the buckets, which carry their own part.
    effective: Value,
}

/// How the configuration itself is kept up to date.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// The file watcher, when it is on.
    pub watch: Option<Watch>,
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
    pub prefix: Prefix,
    pub rule: Rule,
    pub store: s3::Bucket,
    pub signer: Signer,
    pub trust: Trust,
    pub timeouts: Timeouts,
    /// Its section of the file, complete with defaults; secrets as fingerprints.
    effective: Value,
    /// Of everything that it was made from; `None` when that cannot be told.
    fingerprint: Option<u64>,
}

/// Which certificates vouch for a store, DER-encoded; none means the system's roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// The effective configuration as YAML: defaults filled in, references as written, secrets redacted.
    pub fn show(&self) -> String {
        let mut whole = redacted(&self.effective);
        if let Value::Mapping(sections) = &mut whole {
            let buckets = self.buckets.iter().map(|bucket| redacted(&bucket.effective)).collect();
            sections.insert("buckets".into(), Value::Sequence(buckets));
        }
        serde_yaml::to_string(&whole).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

/// Hashes of this process alone.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// One hash for each bucket, of its section and of the `jwt` block, whose keys are a part of its rule.
fn fingerprints(tree: &Value) -> Vec<u64> {
    let jwt = tree.get("jwt").map(|jwt| KEY.hash_one(jwt));
    let buckets = tree.get("buckets").and_then(Value::as_sequence);
    buckets.into_iter().flatten().map(|bucket| KEY.hash_one((bucket, jwt))).collect()
}

/// What is known of the buckets before they are read: those that are in service already. They are
/// taken over as they are, so that what hangs on a bucket, like its signing key, lives on, and a reload
/// costs what it changes.
struct Known {
    fingerprints: Vec<u64>,
    in_service: HashMap<u64, Arc<Bucket>>,
    /// Also those of buckets that changed otherwise: what was fetched stays.
    identities: HashMap<identity::Source, Arc<Identity>>,
}

impl Known {
    fn new(fingerprints: Vec<u64>, predecessor: Option<&Config>) -> Self {
        let buckets = predecessor.into_iter().flat_map(|config| &config.buckets);
        let identities = buckets.clone().filter_map(|bucket| {
            let identity = bucket.signer.identity();
            Some((identity.source()?.clone(), identity.clone()))
        });
        Self {
            fingerprints,
            identities: identities.collect(),
            in_service: buckets.filter_map(|bucket| Some((bucket.fingerprint?, bucket.clone()))).collect(),
        }
    }

    fn fingerprint(&self, index: usize) -> Option<u64> {
        self.fingerprints.get(index).copied()
    }

    /// The bucket at a position of the file, if it is in service already.
    fn bucket(&self, index: usize) -> Option<&Arc<Bucket>> {
        self.in_service.get(&self.fingerprint(index)?)
    }
}

/// The YAML tag of a text that references were filled into: what it was written as, and the
/// fingerprint of what it became. The environment and the files of a process are full of secrets, so
/// what came from there is never shown.
const REFERENCE: &str = "reference";
const WRITTEN: &str = "written";
const BECAME: &str = "became";

/// Hides what references were filled in with, in the tree of what stands at `base`.
fn conceal(tree: &mut Value, base: &Place, written: &BTreeMap<Place, String>) {
    let within = written.range(base..).take_while(|(place, _)| place.steps().starts_with(base.steps()));
    for (place, text) in within {
        let steps = place.steps().get(base.steps().len()..).unwrap_or_default();
        // A secret hides itself.
        if let Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) = decode::at(tree, steps)
        {
            let became = Secret::new(serde_yaml::to_string(value).unwrap_or_default());
            let mut both = Mapping::new();
            both.insert(WRITTEN.into(), text.as_str().into());
            both.insert(BECAME.into(), serde_yaml::to_value(became).unwrap_or_default());
            *value = Value::Tagged(Box::new(TaggedValue { tag: Tag::new(REFERENCE), value: both.into() }));
        }
    }
}

/// Replaces every secret by what stands for it.
fn redacted(value: &Value) -> Value {
    match value {
        Value::Tagged(tagged) if tagged.tag == TAG => Value::String(REDACTED.to_owned()),
        Value::Tagged(tagged) if tagged.tag == REFERENCE => {
            tagged.value.get(WRITTEN).cloned().unwrap_or_default()
        }
        Value::Sequence(items) => Value::Sequence(items.iter().map(redacted).collect()),
        Value::Mapping(entries) => {
            Value::Mapping(entries.iter().map(|(key, value)| (key.clone(), redacted(value))).collect())
        }
        other => other.clone(),
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
    pub outcome: Result<Config, Problems>,
}

/// Reads and validates a configuration file, and nothing else: no network, no effect.
pub fn load(path: &Path) -> Result<Config, Problems> {
    load_from(Source::File(path.to_owned()), None, &mut Stages::default()).outcome
}

/// As [`load`], from any source, with the time that each stage took. Buckets that are the same as in the
/// predecessor are taken over from it.
pub fn load_from(source: Source, predecessor: Option<&Config>, stages: &mut Stages) -> Loaded {
    let (path, read, recorded) = match source {
        Source::File(path) => {
            let read = stages.time("read", || {
                fault::point("read");
                source::read(&path, source::MAX_CONFIG_BYTES)
            });
            (path, read, None)
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
    let (file, mut outcome) = match read {
        Ok(bytes) => {
            let outcome = parse(&bytes, &mut references, predecessor, stages);
            (Some(bytes), outcome)
        }
        Err(why) => (None, Err(Problems::one(Place::root(), None, format!("`{}`: {why}", path.display())))),
    };
    let content = Content { file, referenced: references.files };
    let digest = stages.time("digest", || content.digest());
    if let Ok(config) = &mut outcome {
        config.digest.clone_from(&digest);
    }
    Loaded { content, digest, outcome }
}

fn parse(
    bytes: &[u8],
    references: &mut References<'_>,
    predecessor: Option<&Config>,
    stages: &mut Stages,
) -> Result<Config, Problems> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
        Problems::one(Place::root(), Some(line), "the file is not UTF-8; save it as UTF-8")
    })?;
    let mut problems = Problems::default();
    let mut tree: Value = stages.time("parse", || {
        fault::point("parse");
        let mut tree: Value = serde_yaml::from_str(text).map_err(|error| {
            let line = error.location().map(|location| location.line());
            let why = format!("the file is not YAML: {}", without_position(&error));
            Problems::one(Place::root(), line, why)
        })?;
        if let Err(error) = tree.apply_merge() {
            problems.push(Place::root(), format!("a merge key `<<` cannot be followed: {error}"));
        }
        Ok::<_, Problems>(tree)
    })?;
    if tree.is_null() {
        return Err(Problems::one(
            Place::root(),
            None,
            "the file is empty; write at least `buckets: []` if that is meant",
        ));
    }
    // Before and after references are filled in: both what is written and what it became.
    let as_written = fingerprints(&tree);
    stages.time("references", || {
        fault::point("references");
        references.fill(&mut tree, &Place::root(), &mut problems);
    });
    let valid = stages.time("validate", || {
        fault::point("validate");
        let fingerprints =
            as_written.iter().zip(fingerprints(&tree)).map(|pair| KEY.hash_one(pair)).collect();
        let known = Known::new(fingerprints, predecessor);
        let file = read_sections(tree, &known, references, &mut problems);
        validate::validate(file, &known, references, &mut problems)
    });
    match valid {
        Some(valid) if problems.is_empty() => Ok(valid),
        _ => Err(problems.located_in(text)),
    }
}

fn read_sections(
    tree: Value,
    known: &Known,
    references: &References<'_>,
    problems: &mut Problems,
) -> file::File {
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
        reload: decode::section(sections.reload, &root.key("reload"), written, problems),
        jwt: sections.jwt.map(|jwt| decode::section(jwt, &root.key("jwt"), written, problems)),
        buckets: sections
            .buckets
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(index, bucket)| match known.bucket(index) {
                Some(_) => file::Bucket::default(),
                None => decode::section(bucket, &buckets.index(index), written, problems),
            })
            .collect(),
    }
}

/// The message without its position, which a problem states in its own way.
fn without_position(error: &serde_yaml::Error) -> String {
    let message = error.to_string();
    // These quote a value, which may be a secret that was written without quotes.
    if message.contains("invalid type") {
        return "a number is too large; put the value in quotes".to_owned();
    }
    if message.contains("invalid value") {
        return "a value does not fit its tag; leave the tag out".to_owned();
    }
    match message.find(" at line ") {
        Some(position) => message[..position].to_owned(),
        None => message,
    }
}
