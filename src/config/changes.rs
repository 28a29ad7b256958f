//! What differs between two configurations, for the log and the answer of a reload. Never a secret.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_yaml::Value;

use super::redaction::redacted;
use super::{Bucket, Config};

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
    compare("", &old.effective, &new.effective, &mut changes);
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

fn compare(path: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Mapping(_), Value::Mapping(_)) => {
            let name = |key: &&str| if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            join(&entries(old), &entries(new), name, changes, |path, old, new, changes| {
                compare(path, old, new, changes);
            });
        }
        _ => changes.push(Change {
            path: path.to_owned(),
            kind: Kind::Changed,
            old: Some(redacted(old)),
            new: Some(redacted(new)),
        }),
    }
}

/// By their names, so that moving one within the list changes nothing.
fn compare_buckets<'b>(old: &'b [Arc<Bucket>], new: &'b [Arc<Bucket>], changes: &mut Vec<Change>) {
    // Most are the same, and shared.
    let shared: HashSet<*const Bucket> = old.iter().map(Arc::as_ptr).collect();
    let shared: HashSet<*const Bucket> =
        new.iter().map(Arc::as_ptr).filter(|bucket| shared.contains(bucket)).collect();
    let named = |buckets: &'b [Arc<Bucket>]| -> BTreeMap<&'b str, &'b Bucket> {
        let differing = buckets.iter().filter(|bucket| !shared.contains(&Arc::as_ptr(bucket)));
        differing.map(|bucket| (&*bucket.name, &**bucket)).collect()
    };
    let path = |name: &&str| format!("buckets[{name}]");
    join(&named(old), &named(new), path, changes, |path, old, new, changes| {
        compare(path, &old.effective, &new.effective, changes);
        // The path of the file may be the same.
        if old.trust != new.trust && old.effective == new.effective {
            let path = format!("{path}.s3.ca_file");
            changes.push(Change { path, kind: Kind::Changed, old: None, new: None });
        }
    });
}

/// Reports what only one side has, and compares what both have.
fn join<K: Ord, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    path: impl Fn(&K) -> String,
    changes: &mut Vec<Change>,
    compare: impl Fn(&str, &V, &V, &mut Vec<Change>),
) {
    for (key, old) in old {
        match new.get(key) {
            Some(new) => compare(&path(key), old, new, changes),
            None => changes.push(Change { path: path(key), kind: Kind::Removed, old: None, new: None }),
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        changes.push(Change { path: path(key), kind: Kind::Added, old: None, new: None });
    }
}

fn entries(mapping: &Value) -> BTreeMap<&str, &Value> {
    mapping
        .as_mapping()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str()?, value)))
        .collect()
}
