//! What differs between two configurations, for the log and the answer of a reload. Never a secret.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_yaml::Value;

use super::{Config, redacted};

/// The keys that a running process cannot change.
const RESTART_ONLY: [&str; 5] =
    ["server.address", "server.port", "server.threads", "admin.address", "admin.port"];

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
    changes
}

/// The restart-only keys in which `file` differs from what the process was started with.
pub fn pending_restart(running: &Config, file: &Config) -> Vec<PendingRestart> {
    let at = |config: &Config, key: &str| {
        key.split('.').try_fold(&config.effective, |value, key| value.get(key)).cloned().unwrap_or_default()
    };
    RESTART_ONLY
        .into_iter()
        .map(|key| PendingRestart { key, running: at(running, key), file: at(file, key) })
        .filter(|pending| pending.running != pending.file)
        .collect()
}

fn compare(path: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Mapping(_), Value::Mapping(_)) => {
            let name = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            compare_entries(&entries(old), &entries(new), name, changes);
        }
        (Value::Sequence(_), Value::Sequence(_)) if path == "buckets" => {
            compare_entries(&named(old), &named(new), |name| format!("{path}[{name}]"), changes);
        }
        _ => changes.push(Change {
            path: path.to_owned(),
            kind: Kind::Changed,
            old: Some(redacted(old)),
            new: Some(redacted(new)),
        }),
    }
}

fn compare_entries(
    old: &BTreeMap<&str, &Value>,
    new: &BTreeMap<&str, &Value>,
    path: impl Fn(&str) -> String,
    changes: &mut Vec<Change>,
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

/// Buckets by their names, so that moving one within the list changes nothing.
fn named(list: &Value) -> BTreeMap<&str, &Value> {
    list.as_sequence()
        .into_iter()
        .flatten()
        .filter_map(|item| Some((item.get("name")?.as_str()?, item)))
        .collect()
}
