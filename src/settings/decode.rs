//! From a tree of YAML to a typed section, where every mistake becomes a problem and not only the
//! first: what `serde` stumbles over is recorded, taken out of the tree, and the rest is read again.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::{Mapping, Value};

use crate::settings::problem::{Place, Problems, Step, is_plain, shown};
use crate::settings::reference::References;

/// The most mistakes in one section: after each the section is read once more.
const MAX_MISTAKES: usize = 50;

/// The longest text that can be a number or a boolean.
const MAX_SCALAR: usize = 64;

/// Reads a section. What was wrong is left at its default, with a problem at its place.
pub(crate) fn section<T: DeserializeOwned + Default>(
    mut tree: Value,
    place: &Place,
    references: &References<'_>,
    problems: &mut Problems,
) -> T {
    let written = &references.written;
    let before = problems.count();
    let mut last_failed = None;
    loop {
        let is_full = problems.count() - before >= MAX_MISTAKES;
        if is_full {
            problems.push(place.clone(), "holds more mistakes than are listed; mend these first");
        }
        // A key without a value is as good as absent.
        if is_full || tree.is_null() || references.deadline().has_passed() {
            return T::default();
        }
        let error = match serde_path_to_error::deserialize(&tree) {
            Ok(section) => return section,
            Err(error) => error,
        };
        let steps: Vec<Step> = error.path().iter().filter_map(step).collect();
        let here = place.join(steps.clone());
        let message = error.inner().to_string();
        if let Some(key) = unknown_key(&message) {
            let steps = with_key(steps, key);
            problems.push(place.join(steps.clone()), unknown(key, &message));
            if !remove(&mut tree, &steps) {
                return T::default();
            }
            continue;
        }
        let wanted = wanted(&message);
        if let Some(found) = at(&mut tree, &steps) {
            if let Some(scalar) = written.get(&here).and_then(|_| retyped(found, wanted)) {
                *found = scalar;
                continue;
            }
            if !found.is_null() {
                problems.push(here.clone(), mistyped(found, wanted, written.get(&here)));
            }
            if matches!(steps.last(), Some(Step::Index(_))) && last_failed.as_ref() != Some(&steps) {
                // The others keep their indices.
                *found = if wanted == Wanted::Text {
                    Value::String(String::new())
                } else {
                    Value::Mapping(Mapping::new())
                };
                last_failed = Some(steps);
                continue;
            }
        }
        let mut removable = steps;
        while matches!(removable.last(), Some(Step::Index(_))) {
            removable.pop();
        }
        if !remove(&mut tree, &removable) {
            if !problems.any_at(&here) {
                problems.push(here, format!("expected {}", wanted.name()));
            }
            return T::default();
        }
    }
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// The steps to a key; `serde_path_to_error` names the key itself when it knows it.
fn with_key(mut steps: Vec<Step>, key: &str) -> Vec<Step> {
    if !matches!(steps.last(), Some(Step::Key(last)) if last == key) {
        steps.push(Step::Key(key.to_owned()));
    }
    steps
}

fn unknown(key: &str, message: &str) -> String {
    let why = if is_plain(key) { "" } else { "; is a space missing after its `:`?" };
    format!("unknown key{why}; known here are {}", known_keys(message))
}

/// What `serde` says of a key that no field has. There is no typed form of this error.
fn unknown_key(message: &str) -> Option<&str> {
    let rest = message.split_once("unknown field `")?.1;
    Some(rest.rsplit_once("`, expected ")?.0.split("`, expected ").next().unwrap_or(rest))
}

/// The keys after "expected one of `a`, `b`" or "expected `a`".
fn known_keys(message: &str) -> String {
    let expected = message.rsplit_once("`, expected ").map_or("", |(_, expected)| expected);
    let keys: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    keys.join(", ")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Text,
    WholeNumber,
    Number,
    Boolean,
    List,
    Mapping,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::WholeNumber => "a whole number, 0 or more",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::List => "a list",
            Self::Mapping => "a mapping of keys",
        }
    }
}

/// What `serde` wanted, by the end of its message. The message itself may quote a secret.
fn wanted(message: &str) -> Wanted {
    let wanted = message.rsplit_once("expected ").map_or("", |(_, wanted)| wanted);
    match wanted {
        "u64" => Wanted::WholeNumber,
        "f64" => Wanted::Number,
        "a boolean" => Wanted::Boolean,
        "a sequence" => Wanted::List,
        _ if wanted.starts_with("a string") => Wanted::Text,
        _ => Wanted::Mapping,
    }
}

/// A filled-in text where a number or a boolean belongs: `port: ${PORT}`.
fn retyped(found: &Value, wanted: Wanted) -> Option<Value> {
    let text = found.as_str().filter(|text| text.len() <= MAX_SCALAR)?;
    let scalar: Value = serde_yaml::from_str(text).ok()?;
    match wanted {
        Wanted::WholeNumber => scalar.as_u64().map(Value::from),
        Wanted::Number => scalar.as_f64().map(Value::from),
        Wanted::Boolean => scalar.as_bool().map(Value::from),
        _ => None,
    }
}

/// Says what was found and what belongs there. Quotes only what cannot be a secret.
fn mistyped(found: &Value, wanted: Wanted, reference: Option<&String>) -> String {
    let described = match (reference, found) {
        (Some(reference), _) => format!("the value of `{}`", shown(reference)),
        (None, Value::Number(_) | Value::Bool(_)) if wanted == Wanted::Text => {
            return "expected a text; put the value in quotes".to_owned();
        }
        (None, Value::Number(number)) => format!("`{number}`"),
        (None, Value::Bool(flag)) => format!("`{flag}`"),
        (None, Value::String(text))
            if matches!(wanted, Wanted::WholeNumber | Wanted::Number | Wanted::Boolean) =>
        {
            format!("`{}`", shown(text))
        }
        (None, Value::String(_)) => "a text".to_owned(),
        (None, Value::Sequence(_)) => "a list".to_owned(),
        (None, Value::Mapping(_)) => "a mapping".to_owned(),
        (None, Value::Tagged(_) | Value::Null) => "this".to_owned(),
    };
    format!("expected {}, found {described}", wanted.name())
}

/// The value at a place.
pub(crate) fn at<'t>(tree: &'t mut Value, steps: &[Step]) -> Option<&'t mut Value> {
    steps.iter().try_fold(tree, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()),
        Step::Index(index) => value.get_mut(*index),
    })
}

/// Takes a key out of its mapping; `false` if there is nothing to take.
fn remove(tree: &mut Value, steps: &[Step]) -> bool {
    let Some((Step::Key(key), above)) = steps.split_last() else { return false };
    let Some(Value::Mapping(mapping)) = at(tree, above) else { return false };
    let before = mapping.len();
    mapping.retain(|present, _| match present {
        Value::String(text) => text != key,
        other => serde_yaml::to_string(other).is_ok_and(|text| text.trim_end() != key),
    });
    mapping.len() < before
}
