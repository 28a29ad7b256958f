//! What a program adds to a reload: hooks that may veto it, and a subscription to what changed.

use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::config::changes::{Change, Kind, PendingRestart};

/// Sees the old and the new configuration before the new one goes into service; an error refuses it.
pub(crate) type Check = dyn Fn(&Config, &Config) -> Result<(), String> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Hook {
    pub(crate) name: String,
    pub(crate) check: Arc<Check>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One thing that a reload changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    BucketAdded {
        name: String,
    },
    BucketRemoved {
        name: String,
    },
    /// Field by field.
    BucketChanged {
        name: String,
        changes: Vec<Change>,
    },
    JwtChanged {
        changes: Vec<Change>,
    },
    /// Anything else.
    SettingChanged {
        change: Change,
    },
    PendingRestart {
        pending: PendingRestart,
    },
}

/// The outcome of a reload, for subscribers. Dry runs are not announced.
#[derive(Debug, Clone)]
pub enum Announcement {
    /// A reload took effect.
    Published { generation: u64, config: Arc<Config>, events: Vec<Event> },
    /// A reload was refused, and `generation` stays in service.
    Refused {
        generation: u64,
        /// The id of the attempt, as the log and the reports have it.
        attempt: String,
        /// Each problem on a line of its own.
        errors: Vec<String>,
    },
}

/// Sorts changes by what they concern.
pub(crate) fn events(changes: &[Change], pending: &[PendingRestart]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for change in changes {
        let bucket = change.path.strip_prefix("buckets[").and_then(|rest| rest.split_once(']'));
        match (bucket, &change.kind) {
            (Some((name, "")), Kind::Added) => events.push(Event::BucketAdded { name: name.to_owned() }),
            (Some((name, "")), Kind::Removed) => events.push(Event::BucketRemoved { name: name.to_owned() }),
            (Some((name, _)), _) => match events.last_mut() {
                Some(Event::BucketChanged { name: last, changes }) if last == name => {
                    changes.push(change.clone());
                }
                _ => {
                    events
                        .push(Event::BucketChanged { name: name.to_owned(), changes: vec![change.clone()] });
                }
            },
            (None, _) if change.path == "jwt" || change.path.starts_with("jwt.") => match events.last_mut() {
                Some(Event::JwtChanged { changes }) => changes.push(change.clone()),
                _ => events.push(Event::JwtChanged { changes: vec![change.clone()] }),
            },
            (None, _) => events.push(Event::SettingChanged { change: change.clone() }),
        }
    }
    events.extend(pending.iter().map(|pending| Event::PendingRestart { pending: pending.clone() }));
    events
}
