//! Rules for parts of a bucket: a pattern, the operations, and the callers that may.

use std::cmp::Ordering;

use crate::access::pattern::Pattern;
use crate::access::rule::Rule;
use crate::s3::operation::{Operation, OperationSet};

/// How a part of a policy takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// Refuses nothing, and reports what it would have refused.
    Observe,
}

/// A rule for a part of a bucket.
#[derive(Debug)]
pub struct PathRule {
    pub pattern: Pattern,
    /// The operations that the rule decides about.
    pub(crate) operations: OperationSet,
    /// The callers that may, [`Rule::Closed`] for signed links alone; `None` if no caller may.
    pub allowed: Option<Rule>,
    pub mode: Mode,
    /// Its index in the list as written.
    pub place: usize,
}

impl PathRule {
    /// Orders by pattern, and for the same pattern by the number of operations: fewer are more specific.
    fn by_specificity(&self, other: &Self) -> Ordering {
        self.pattern
            .by_specificity(&other.pattern)
            .then(self.operations.count().cmp(&other.operations.count()))
    }

    /// Whether both would decide about some request, and neither is more specific. Only rules with patterns
    /// of one [class](Pattern::class) can conflict.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        // Most patterns do not overlap, and finding that out is cheaper than comparing specificity.
        self.pattern.overlaps(&other.pattern)
            && self.pattern.by_specificity(&other.pattern).is_eq()
            && (self.pattern != other.pattern || self.operations.are_as_specific_as(other.operations))
    }
}

/// The rules of a bucket, the most specific one first.
#[derive(Debug)]
pub struct Rules(Vec<PathRule>);

impl Rules {
    /// Takes rules of which no two [conflict](PathRule::conflicts_with).
    pub fn new(mut rules: Vec<PathRule>) -> Self {
        rules.sort_by(PathRule::by_specificity);
        Self(rules)
    }

    /// The rule that decides. The pattern is chosen by the key alone, so that a rule for HEAD does not leave
    /// GET to a less specific pattern, which may be an open one.
    pub(crate) fn deciding(&self, operation: Operation, key: &str) -> Option<&PathRule> {
        let mut covering = self.0.iter().skip_while(|rule| !rule.pattern.covers(key));
        let first = covering.next()?;
        std::iter::once(first)
            .chain(covering.filter(|rule| rule.pattern == first.pattern))
            .find(|rule| rule.operations.contains(operation))
    }

    /// The places in `auth.rules` of the rules in [`Mode::Observe`], in order.
    pub(crate) fn observed(&self) -> Vec<usize> {
        let observed = self.0.iter().filter(|rule| rule.mode == Mode::Observe);
        let mut places: Vec<usize> = observed.map(|rule| rule.place).collect();
        places.sort_unstable();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_conflict_where_neither_is_more_specific() {
        for (one, other, conflict) in [
            (("GET", "a/**"), ("GET", "a/**"), true),
            (("HEAD", "a/**"), ("HEAD", "a/**"), true),
            (("HEAD", "a/**"), ("GET", "a/**"), false),
            (("HEAD", "*.jpg"), ("GET", "cat.*"), true),
            (("GET", "a/*"), ("GET", "b/*"), false),
            (("GET", "a/*"), ("GET", "*/a"), false),
            (("GET", "**/a/**"), ("GET", "**/b/**"), true),
            (("GET", "${claim.sub}/a"), ("GET", "${claim.name}/a"), true),
        ] {
            let [one, other] = [one, other].map(|(methods, pattern)| PathRule {
                pattern: Pattern::parse(pattern).expect("valid"),
                operations: if methods == "HEAD" { OperationSet::HEAD } else { OperationSet::READ },
                allowed: None,
                mode: Mode::Enforce,
                place: 0,
            });
            assert_eq!(one.conflicts_with(&other), conflict, "{:?} {:?}", one.pattern, other.pattern);
            assert_eq!(other.conflicts_with(&one), conflict);
        }
    }
}
