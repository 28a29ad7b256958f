//! What of a configuration is never shown: secrets, and what references were filled in with.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_yaml::value::{Tag, TaggedValue};
use serde_yaml::{Mapping, Value};

use crate::secret::{REDACTED, Secret, TAG};
use crate::settings::decode;
use crate::settings::problem::Place;
use crate::settings::reference::Position;
use crate::settings::reference::within;

/// The YAML tag of a text that references were filled into: what it was written as, and the
/// fingerprint of what it became. The environment and the files of a process are full of secrets, so
/// what came from there is never shown.
const REFERENCE: &str = "reference";
const WRITTEN: &str = "written";
const BECAME: &str = "became";

/// A URL whose query may be a secret: serialized as a text that references were filled into, which was
/// written without the query.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct SecretQuery(Secret);

impl SecretQuery {
    /// The whole URL. Never log it, never format it into an error.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for SecretQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for SecretQuery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.expose().split_once(['?', '#']) {
            None => serializer.serialize_str(self.expose()),
            Some((shown, _)) => {
                let both = HashMap::from([
                    (WRITTEN, serde_yaml::to_value(format!("{shown}?{REDACTED}"))),
                    (BECAME, serde_yaml::to_value(&self.0)),
                ]);
                let both: HashMap<_, _> =
                    both.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
                serializer.serialize_newtype_variant("Reference", 0, REFERENCE, &both)
            }
        }
    }
}

/// Hides what references were filled in with, in the tree of what stands at `base`.
pub(crate) fn conceal(tree: &mut Value, base: &Place, written: &BTreeMap<Place, String>) {
    for (place, text) in within(written, base) {
        let steps = place.steps().get(base.steps().len()..).unwrap_or_default();
        // A secret hides itself.
        let Some(value) = decode::at(tree, steps) else { continue };
        let is_shown = match value {
            Value::String(_) | Value::Number(_) | Value::Bool(_) => true,
            Value::Tagged(tagged) => tagged.tag == REFERENCE,
            _ => false,
        };
        if is_shown {
            let became = Secret::new(serde_yaml::to_string(value).unwrap_or_default());
            let mut both = Mapping::new();
            both.insert(WRITTEN.into(), text.as_str().into());
            both.insert(BECAME.into(), serde_yaml::to_value(became).unwrap_or_default());
            *value = Value::Tagged(Box::new(TaggedValue { tag: Tag::new(REFERENCE), value: both.into() }));
        }
    }
}

/// Whether a secret is written out at or below a place. The id of a key pair is none without the key.
pub(crate) fn holds_secret(tree: &Value, position: &Position<'_>, written: &BTreeMap<Place, String>) -> bool {
    match tree {
        Value::Tagged(tagged) => tagged.tag == TAG && !written.contains_key(&position.place()),
        Value::Sequence(items) => (items.iter().enumerate())
            .any(|(index, item)| holds_secret(item, &Position::Index(position, index), written)),
        Value::Mapping(entries) => entries.iter().any(|(key, entry)| {
            let key = key.as_str().unwrap_or_default();
            key != "access_key" && holds_secret(entry, &Position::Key(position, key), written)
        }),
        _ => false,
    }
}

/// Replaces every secret by what stands for it.
pub(crate) fn redacted(value: &Value) -> Value {
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
