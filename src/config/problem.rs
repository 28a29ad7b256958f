//! What is wrong with a configuration: where, what, and how to mend it; and how a list of such
//! problems prints. The same text goes to the terminal, the log and the answer of a reload.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

/// A place in the file: the keys and indices that lead to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Key(String),
    Index(usize),
}

impl Place {
    /// The file as a whole.
    pub fn root() -> Self {
        Self::default()
    }

    pub fn key(&self, key: impl Into<String>) -> Self {
        self.join([Step::Key(key.into())])
    }

    pub fn index(&self, index: usize) -> Self {
        self.join([Step::Index(index)])
    }

    pub fn join(&self, steps: impl IntoIterator<Item = Step>) -> Self {
        Self(self.0.iter().cloned().chain(steps).collect())
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    let key = if is_plain(key) { key } else { "…" };
                    write!(f, "{}{key}", if position == 0 { "" } else { "." })?;
                }
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Whether a text is a key that somebody meant, and so may be shown. A key of flow style without its
/// space, `{ secret:abc }`, is key and value in one.
pub fn is_plain(key: &str) -> bool {
    key.len() <= 32 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// Of the file, from 1; `None` where the parser does not know it.
    pub line: Option<usize>,
    /// What is wrong and what to do; never a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.place == Place::root(), self.line) {
            (true, None) => write!(f, "{}", self.message),
            (true, Some(line)) => write!(f, "line {line}: {}", self.message),
            (false, None) => write!(f, "{}: {}", self.place, self.message),
            (false, Some(line)) => write!(f, "{} (line {line}): {}", self.place, self.message),
        }
    }
}

/// Everything that is wrong with one file, in the order of the file where that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    places: BTreeSet<Place>,
}

/// How many problems get their line looked up: each look-up parses the file once more.
const LINES_LOOKED_UP: usize = 20;

impl Problems {
    pub fn one(place: Place, line: Option<usize>, message: impl Into<String>) -> Self {
        let places = BTreeSet::from([place.clone()]);
        Self { list: vec![Problem { place, line, message: message.into() }], places }
    }

    /// Adds a problem, unless something is wrong at the very place already: what follows from one
    /// mistake is no second one.
    pub fn push(&mut self, place: Place, message: impl Into<String>) {
        if self.places.insert(place.clone()) {
            self.list.push(Problem { place, line: None, message: message.into() });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Whether something is already known to be wrong at the very place.
    pub fn is_at(&self, place: &Place) -> bool {
        self.places.contains(place)
    }

    /// Whether a place is within something that is known to be wrong.
    pub fn any_above(&self, place: &Place) -> bool {
        let above = (1..place.0.len()).filter_map(|depth| place.0.get(..depth));
        above.map(|steps| Place(steps.to_vec())).any(|place| self.places.contains(&place))
    }

    /// Whether something is already known to be wrong at or below a place.
    pub fn any_at(&self, place: &Place) -> bool {
        // A place comes right before the places below it.
        self.places.range(place..).next().is_some_and(|next| next.0.starts_with(&place.0))
    }

    /// Adds the lines and sorts by them.
    pub fn located_in(mut self, text: &str) -> Self {
        for problem in self.list.iter_mut().take(LINES_LOOKED_UP) {
            if problem.line.is_none() {
                problem.line = line_of(text, problem.place.steps());
            }
        }
        self.list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        self
    }

    /// The messages alone, for the one-line `error` of an answer.
    pub fn summary(&self) -> String {
        self.list.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
    }

    /// Each problem as it prints.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(Problem::to_string)
    }
}

impl fmt::Display for Problems {
    /// One line a problem, then how many there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            writeln!(f, "{line}")?;
        }
        match self.list.len() {
            1 => f.write_str("1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl std::error::Error for Problems {}

/// The line of the value at a place, or of the nearest place above it that the file has.
///
/// `serde_yaml` tells the position of errors only. So the file is read once more, straight to the
/// place, where an error is raised.
fn line_of(text: &str, steps: &[Step]) -> Option<usize> {
    (1..=steps.len()).rev().find_map(|depth| {
        let error = Seek(steps.get(..depth)?).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        Some(error.location()?.line())
    })
}

/// Follows the steps and fails where they end; succeeds where the file has no such place.
struct Seek<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place that was looked for")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let [step, rest @ ..] = self.0 else { return Err(A::Error::custom("found")) };
        while let Some(key) = map.next_key::<Value>()? {
            match step {
                Step::Key(wanted) if key.as_str() == Some(wanted) => map.next_value_seed(Seek(rest))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let [step, rest @ ..] = self.0 else { return Err(A::Error::custom("found")) };
        let mut index = 0;
        loop {
            let found = match step {
                Step::Index(wanted) if index == *wanted => seq.next_element_seed(Seek(rest))?.is_some(),
                _ => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !found {
                return Ok(());
            }
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_place_is_found() {
        let text =
            "a: 1\nb:\n  - x: 1\n    y:\n      z: text\n  - {x: 2,\n     y: null}\n\"c d\": [1,\n 2]\n";
        let line = |place: &Place| line_of(text, place.steps());
        let root = Place::root();
        assert_eq!(line(&root.key("a")), Some(1));
        assert_eq!(line(&root.key("b").index(0).key("x")), Some(3));
        assert_eq!(line(&root.key("b").index(0).key("y").key("z")), Some(5));
        assert_eq!(line(&root.key("b").index(1).key("y")), Some(7));
        assert_eq!(line(&root.key("c d").index(1)), Some(9));
        assert_eq!(line(&root.key("b").index(1).key("missing")), Some(6), "the nearest place above");
        assert_eq!(line(&root.key("missing")), None);
    }

    #[test]
    fn problems_print_where_what_and_how_many() {
        let mut problems = Problems::default();
        problems.push(Place::root().key("buckets").index(2).key("s3"), "is missing");
        assert_eq!(problems.to_string(), "buckets[2].s3: is missing\n1 problem");
        problems.push(Place::root(), "the file is empty");
        assert_eq!(problems.to_string(), "buckets[2].s3: is missing\nthe file is empty\n2 problems");
        assert_eq!(problems.summary(), "is missing; the file is empty");
    }
}
