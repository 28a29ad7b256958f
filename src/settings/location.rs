//! The lines of places in a file.
//!
//! `serde_yaml` tells the position of errors only. So a part of the file is read once more for every
//! place that is looked for, straight to it, and there an error is raised. The part is the item of the
//! list of buckets where the file can be split into them. Together no more than [`MAX_BYTES`] are read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use crate::settings::document::{self, Split};
use crate::settings::problem::{Problem, Step};

/// How much is read for the lines of one file. Problems beyond it are told without their lines.
const MAX_BYTES: usize = 8 << 20;

/// Adds the lines to problems that have none.
pub(super) fn locate(problems: &mut [Problem], text: &str) {
    let split = document::split(text);
    let starts = split.as_ref().map(item_lines).unwrap_or_default();
    let mut left = MAX_BYTES;
    for problem in problems.iter_mut().filter(|problem| problem.line.is_none()) {
        let steps = problem.place.steps();
        let (part, steps, item) = match (&split, steps) {
            (Some(split), [Step::Key(list), Step::Index(index), rest @ ..])
                if list == "buckets" && *index < split.items.len() =>
            {
                let steps = [&[Step::Index(0)], rest].concat();
                (split.items.get(*index).copied().unwrap_or_default(), steps, Some(*index))
            }
            (Some(split), steps) => (split.frame.as_str(), steps.to_vec(), None),
            (None, steps) => (text, steps.to_vec(), None),
        };
        let Some(after) = left.checked_sub(part.len()) else { continue };
        left = after;
        let line = line_of(part, &steps);
        problem.line = line.map(|line| match (item, &split) {
            (Some(index), _) => starts.get(index).copied().unwrap_or_default() + line,
            (None, Some(split)) if line > split.lines_before => {
                let items: usize = split.items.iter().map(|item| lines_in(item)).sum();
                line + items - 1
            }
            (None, _) => line,
        });
    }
}

/// The number of lines before each item.
fn item_lines(split: &Split<'_>) -> Vec<usize> {
    let mut line = split.lines_before;
    let mut starts = Vec::with_capacity(split.items.len());
    for item in &split.items {
        starts.push(line);
        line += lines_in(item);
    }
    starts
}

fn lines_in(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// The line of the value at a place, or of the nearest place above it that the text has.
fn line_of(text: &str, steps: &[Step]) -> Option<usize> {
    let seek = Seek { steps, is_root: true };
    let error = seek.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    Some(error.location()?.line())
}

/// Follows the steps and fails where they end, or where the text does not follow them any further.
/// Succeeds where it has not even the first one.
struct Seek<'a> {
    steps: &'a [Step],
    is_root: bool,
}

impl<'a> Seek<'a> {
    fn below(steps: &'a [Step]) -> Self {
        Self { steps, is_root: false }
    }

    fn end<E: Error>(&self) -> Result<(), E> {
        if self.is_root { Ok(()) } else { Err(E::custom("found")) }
    }
}

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
        let [step, rest @ ..] = self.steps else { return Err(A::Error::custom("found")) };
        while let Some(key) = map.next_key::<Value>()? {
            match step {
                Step::Key(wanted) if key.as_str() == Some(wanted) => {
                    map.next_value_seed(Seek::below(rest))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.end()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let [step, rest @ ..] = self.steps else { return Err(A::Error::custom("found")) };
        let mut index = 0;
        loop {
            let found = match step {
                Step::Index(wanted) if index == *wanted => {
                    seq.next_element_seed(Seek::below(rest))?.is_some()
                }
                _ => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !found {
                return self.end();
            }
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::problem::{Place, Problems};

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
    fn the_lines_of_a_list_in_parts_are_those_of_the_file() {
        let text = "# first\nserver:\n  port: 1\nbuckets:\n  # second\n  - a: 1\n    b: 2\n\n  - c: 3\njwt:\n  d: 4\n";
        let root = Place::root();
        let places = [
            (root.key("server").key("port"), Some(3)),
            (root.key("buckets").index(0).key("b"), Some(7)),
            (root.key("buckets").index(1).key("c"), Some(9)),
            (root.key("buckets").index(1).key("missing"), Some(9)),
            (root.key("jwt").key("d"), Some(11)),
            (root.key("missing"), None),
        ];
        let mut problems = Problems::default();
        for (place, _) in &places {
            problems.push(place.clone(), "is wrong");
        }
        let found = problems.located_in(text);
        for (place, line) in places {
            let problem = found.iter().find(|problem| problem.place == place).expect("listed");
            assert_eq!(problem.line, line, "{place}");
        }
    }
}
