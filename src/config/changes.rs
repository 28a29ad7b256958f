//! What differs between two configurations, for the log and the answer of a reload. Never a secret.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_yaml::{Mapping, Value};

use crate::config::{Bucket, Config};
use crate::settings::redaction::redacted;

/// The keys that a running process cannot change.
const RESTART_ONLY: [&str; 1] = ["server.threads"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Added,
    Removed,
    Changed,
}

/// One difference. Buckets stand under their names: `buckets[photos].s3.region`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    pub path: String,
    pub kind: Kind,
    /// Of a changed value, secrets redacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kind, &self.old, &self.new) {
            (Kind::Changed, Some(old), Some(new)) => {
                write!(f, "{}: {} → {}", self.path, shown(old), shown(new))
            }
            (Kind::Added, ..) => write!(f, "{}: added", self.path),
            (Kind::Removed, ..) => write!(f, "{}: removed", self.path),
            (Kind::Changed, ..) => write!(f, "{}: changed", self.path),
        }
    }
}

/// On one line.
fn shown(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "?".to_owned())
}

/// A restart-only key whose value in the file is not the running one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PendingRestart {
    pub key: &'static str,
    pub running: Value,
    pub file: Value,
}

/// Everything that differs, in the order of the paths.
pub fn between(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&mut Vec::new(), &old.effective, &new.effective, &mut changes);
    // The paths of the files may be the same.
    let jwt = |config: &Config| config.effective.get("jwt").cloned();
    if old.key_files != new.key_files && jwt(old) == jwt(new) {
        changes.push(Change { path: "jwt.jwks".to_owned(), kind: Kind::Changed, old: None, new: None });
    }
    compare_buckets(&old.buckets, &new.buckets, &mut changes);
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}

/// The restart-only keys in which `file` differs from what the process was started with.
pub fn pending_restart(running: &Config, file: &Config) -> Vec<PendingRestart> {
    let at = |config: &Config, key: &str| {
        key.split('.').try_fold(&config.effective, |value, key| value.get(key)).cloned().unwrap_or_default()
    };
    RESTART_ONLY
        .into_iter()
        .map(|key| (key, at(running, key), at(file, key)))
        .filter(|(_, running, file)| running != file)
        .map(|(key, running, file)| PendingRestart {
            key,
            running: redacted(&running),
            file: redacted(&file),
        })
        .collect()
}

/// Compares two values that stand at the same path. The keys of `path` are joined only where something
/// differs.
fn compare<'v>(path: &mut Vec<&'v str>, old: &'v Value, new: &'v Value, changes: &mut Vec<Change>) {
    match (old, new) {
        // The usual case, which looks up no key: a section as before, with other values.
        (Value::Mapping(old), Value::Mapping(new)) if old.keys().eq(new.keys()) => {
            for ((key, old), new) in old.iter().zip(new.values()) {
                path.push(key.as_str().unwrap_or_default());
                compare(path, old, new, changes);
                path.pop();
            }
        }
        (Value::Mapping(old), Value::Mapping(new)) => compare_keys(path, old, new, changes),
        (old, new) if old == new => {}
        _ => changes.push(Change {
            path: path.join("."),
            kind: Kind::Changed,
            old: Some(redacted(old)),
            new: Some(redacted(new)),
        }),
    }
}

/// Compares two sections with different keys.
fn compare_keys<'v>(path: &mut Vec<&'v str>, old: &'v Mapping, new: &'v Mapping, changes: &mut Vec<Change>) {
    for (key, old) in old {
        path.push(key.as_str().unwrap_or_default());
        match new.get(key) {
            Some(new) => compare(path, old, new, changes),
            None => changes.push(Change { path: path.join("."), kind: Kind::Removed, old: None, new: None }),
        }
        path.pop();
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        path.push(key.as_str().unwrap_or_default());
        changes.push(Change { path: path.join("."), kind: Kind::Added, old: None, new: None });
        path.pop();
    }
}

/// Compares buckets by their names, so that moving one within the list changes nothing.
fn compare_buckets(old: &[Arc<Bucket>], new: &[Arc<Bucket>], changes: &mut Vec<Change>) {
    // Most are the same, and shared.
    let before: HashSet<*const Bucket> = old.iter().map(Arc::as_ptr).collect();
    let shared: HashSet<*const Bucket> =
        new.iter().map(Arc::as_ptr).filter(|bucket| before.contains(bucket)).collect();
    let differs = |bucket: &&Arc<Bucket>| !shared.contains(&Arc::as_ptr(bucket));
    let mut added: HashMap<&str, &Bucket> =
        new.iter().filter(differs).map(|bucket| (&*bucket.name, &**bucket)).collect();
    for old in old.iter().filter(differs) {
        let path = format!("buckets[{}]", old.name);
        match added.remove(&*old.name) {
            Some(new) => compare_bucket(&path, old, new, changes),
            None => changes.push(Change { path, kind: Kind::Removed, old: None, new: None }),
        }
    }
    for name in added.into_keys() {
        let path = format!("buckets[{name}]");
        changes.push(Change { path, kind: Kind::Added, old: None, new: None });
    }
}

fn compare_bucket(path: &str, old: &Bucket, new: &Bucket, changes: &mut Vec<Change>) {
    let before = changes.len();
    compare(&mut vec![path], &old.effective, &new.effective, changes);
    // The path of the file may be the same.
    if changes.len() == before && old.trust != new.trust {
        let path = format!("{path}.s3.ca_file");
        changes.push(Change { path, kind: Kind::Changed, old: None, new: None });
    }
}
