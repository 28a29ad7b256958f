//! The places that do not keep a rule yet, in `exceptions.txt`: a rule and a place on each line. The list
//! can only shrink, because an entry that no longer breaks its rule fails the test.

use std::collections::BTreeSet;

const LIST: &str = include_str!("exceptions.txt");

fn listed(rule: &str) -> BTreeSet<String> {
    let entry = |line: &str| Some(line.strip_prefix(rule)?.strip_prefix(' ')?.trim().to_owned());
    LIST.lines().filter_map(entry).collect()
}

pub fn allows(rule: &str, place: &str) -> bool {
    listed(rule).contains(place)
}

/// Fails for a place that breaks the rule and is not listed, and for one that is listed and keeps it.
pub fn hold(rule: &str, broken: &BTreeSet<String>) {
    let listed = listed(rule);
    let new: Vec<String> = broken.difference(&listed).map(|place| format!("{rule} {place}")).collect();
    let stale: Vec<String> = listed.difference(broken).map(|place| format!("{rule} {place}")).collect();
    assert!(new.is_empty(), "the rule is broken here:\n{}", new.join("\n"));
    assert!(stale.is_empty(), "remove from tests/it/house/exceptions.txt:\n{}", stale.join("\n"));
}
