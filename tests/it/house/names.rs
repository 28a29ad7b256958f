//! A word of the code means one thing: no type name is defined twice, except in sections, which are named
//! after the types that they become.

use std::collections::{BTreeMap, BTreeSet};

use super::exceptions;
use super::source::{is_word, sources};

const KINDS: [&str; 5] = ["struct ", "enum ", "trait ", "type ", "union "];

#[test]
fn no_type_name_is_defined_twice() {
    let mut defined: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources("src").iter().filter(|source| !source.name.ends_with("/section.rs")) {
        for line in source.before_tests().lines().filter(|line| !line.starts_with(' ')) {
            if let Some(name) = type_name(line) {
                defined.entry(name.to_owned()).or_default().insert(source.name.clone());
            }
        }
    }

    assert!(defined.len() > 200, "only {} types were found", defined.len());
    let twice = defined.into_iter().filter(|(_, files)| files.len() > 1);
    exceptions::hold("twice", &twice.map(|(name, _)| name).collect());
}

fn type_name(line: &str) -> Option<&str> {
    // `pub`, `pub(crate)`, `pub(super)`
    let rest = line.strip_prefix("pub").unwrap_or(line);
    let rest = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, item)| item);
    let item = rest.trim_start();
    let name = KINDS.iter().find_map(|kind| item.strip_prefix(kind))?;
    Some(&name[..name.find(|c| !is_word(c)).unwrap_or(name.len())])
}
