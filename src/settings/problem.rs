//! What is wrong with a configuration: where, what, and how to mend it; and how a list of such
//! problems prints. The same text goes to the terminal, the log and the answer of a reload.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use crate::settings::location;

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
pub(crate) fn is_plain(key: &str) -> bool {
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

/// Everything that is wrong with one file, in the order of the file where that is known. Of many problems
/// the first are listed, and the others are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    places: BTreeSet<Place>,
    /// The number of problems that are not listed.
    more: usize,
}

/// The most problems that a terminal, a log or an answer is filled with.
const MAX_LISTED: usize = 100;

/// The most places that are remembered, so that one mistake is told once.
const MAX_PLACES: usize = 10_000;

/// The most characters of a value or a message that are shown.
const MAX_SHOWN: usize = 200;
const MAX_MESSAGE: usize = 2_000;

/// The beginning of a text that may be of any length.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    cut(text, MAX_SHOWN)
}

fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

impl Problems {
    pub fn one(place: Place, line: Option<usize>, message: impl Into<String>) -> Self {
        let places = BTreeSet::from([place.clone()]);
        Self { list: vec![Problem { place, line, message: message.into() }], places, more: 0 }
    }

    /// Adds a problem, unless something is wrong at the very place already: what follows from one
    /// mistake is no second one.
    pub fn push(&mut self, place: Place, message: impl Into<String>) {
        if self.places.contains(&place) {
            return;
        }
        if self.places.len() < MAX_PLACES {
            self.places.insert(place.clone());
        }
        if self.list.len() < MAX_LISTED {
            let message = cut(&message.into(), MAX_MESSAGE).into_owned();
            self.list.push(Problem { place, line: None, message });
        } else {
            self.more += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn count(&self) -> usize {
        self.list.len() + self.more
    }

    /// The listed ones.
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
        location::locate(&mut self.list, text);
        self.list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        self
    }

    /// The messages alone, for the one-line `error` of an answer.
    pub fn summary(&self) -> String {
        let messages = self.list.iter().map(|problem| problem.message.clone());
        messages.chain(self.others()).collect::<Vec<_>>().join("; ")
    }

    /// Each problem as it prints.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(Problem::to_string).chain(self.others())
    }

    /// A line for the problems that are not listed.
    fn others(&self) -> Option<String> {
        (self.more > 0).then(|| format!("and {} more; mend these first", self.more))
    }
}

impl fmt::Display for Problems {
    /// One line a problem, then how many there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            writeln!(f, "{line}")?;
        }
        match self.count() {
            1 => f.write_str("1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_problems_the_first_are_listed_and_the_others_counted() {
        let mut problems = Problems::default();
        for index in 0..30_000 {
            problems.push(Place::root().key("list").index(index), "x".repeat(5_000));
        }
        assert_eq!((problems.count(), problems.lines().count()), (30_000, MAX_LISTED + 1));
        let printed = problems.to_string();
        assert!(printed.ends_with("and 29900 more; mend these first\n30000 problems"), "{printed:.200}");
        assert!(printed.len() < 300_000 && problems.summary().len() < 300_000);
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
