//! The text of a file as a tree of YAML, with the items of `buckets` apart.
//!
//! A large file is a long list of buckets, few of which change. Where the list is written in block
//! style, each item is a text of its own, and one that is in service with this very text is not read
//! again. That is sound because in block style an entry is told from its neighbours by indentation
//! alone: what is a whole item by itself is the same item in the list, and what surrounds the list is
//! the same with an empty list in its place. Only anchors reach farther. A file that is written in any
//! other way is read as a whole, and so is one with a mistake, which the whole file explains best.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use serde_yaml::Value;

use crate::deadline::Deadline;
use crate::settings::problem::{Place, Problems};
use crate::settings::syntax::{self, Explained};
use crate::settings::tree::{self, Budget};

/// Hashes of this process alone.
pub(crate) static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A file as it was read.
#[derive(Debug, PartialEq)]
pub(crate) struct Document<'t> {
    /// Everything but the items of `buckets`, whose list is there and empty.
    pub(crate) tree: Value,
    pub(crate) items: Vec<Item<'t>>,
}

/// An item of `buckets`.
#[derive(Debug, PartialEq)]
pub(crate) enum Item<'t> {
    /// Known by the hash of its text, and not read.
    Known { text: &'t str, hash: u64 },
    /// With the hash of its text, or of its tree where it has no text of its own.
    Read { value: Value, hash: u64 },
}

impl Document<'_> {
    fn whole(mut tree: Value) -> Self {
        let items = match tree.get_mut("buckets") {
            Some(Value::Sequence(items)) => std::mem::take(items),
            _ => Vec::new(),
        };
        let items = items.into_iter().map(|value| Item::Read { hash: hash_of(&value), value });
        Self { tree, items: items.collect() }
    }
}

/// Reads a file, within its budget; what `is_known` by its hash is not looked into.
pub(crate) fn read<'t>(
    text: &'t str,
    is_known: impl Fn(u64) -> bool,
    deadline: &Deadline,
) -> Result<Document<'t>, Problems> {
    let budget = Budget::of(text.len());
    if let Some(document) = read_apart(text, is_known, &budget, deadline) {
        return Ok(document);
    }
    if let Err(expired) = deadline.check() {
        return Err(Problems::one(Place::root(), None, expired.to_string()));
    }
    // The first attempt may have spent a part of the budget.
    let tree = tree::parse(text, &Budget::of(text.len())).map_err(|error| {
        let Explained { line, message } = syntax::explain(&error, text);
        Problems::one(Place::root(), line, message)
    })?;
    Ok(Document::whole(tree))
}

/// The value of one item, from a text that is nothing else.
pub(crate) fn item(text: &str) -> Option<Value> {
    item_within(text, &Budget::of(text.len()))
}

fn item_within(text: &str, budget: &Budget) -> Option<Value> {
    match tree::parse(text, budget).ok()? {
        Value::Sequence(mut items) if items.len() == 1 => items.pop(),
        _ => None,
    }
}

/// In the order in which it was written; `Value`'s own hash is independent of that, and costs twice as
/// much.
fn hash_of(value: &Value) -> u64 {
    fn add(value: &Value, hasher: &mut impl Hasher) {
        std::mem::discriminant(value).hash(hasher);
        match value {
            Value::Sequence(items) => {
                items.len().hash(hasher);
                items.iter().for_each(|item| add(item, hasher));
            }
            Value::Mapping(entries) => {
                entries.len().hash(hasher);
                for (key, entry) in entries {
                    add(key, hasher);
                    add(entry, hasher);
                }
            }
            leaf => leaf.hash(hasher),
        }
    }
    let mut hasher = KEY.build_hasher();
    add(value, &mut hasher);
    hasher.finish()
}

fn read_apart<'t>(
    text: &'t str,
    is_known: impl Fn(u64) -> bool,
    budget: &Budget,
    deadline: &Deadline,
) -> Option<Document<'t>> {
    let Split { tree, items: texts, .. } = split_within(text, budget)?;
    let mut items = Vec::with_capacity(texts.len());
    for text in texts {
        if deadline.has_passed() {
            return None;
        }
        let hash = KEY.hash_one(text);
        items.push(if is_known(hash) {
            Item::Known { text, hash }
        } else {
            Item::Read { value: item_within(text, budget)?, hash }
        });
    }
    Some(Document { tree, items })
}

/// A text in parts: the items of its list of buckets, and what surrounds them.
pub(crate) struct Split<'t> {
    /// The text with one line in place of the items.
    pub(crate) frame: String,
    /// The lines before the first item.
    pub(crate) lines_before: usize,
    pub(crate) items: Vec<&'t str>,
    /// The tree of the frame, with an empty list of buckets.
    tree: Value,
}

/// Splits a text into the items of its list of buckets and the rest, where that can be done.
pub(crate) fn split(text: &str) -> Option<Split<'_>> {
    split_within(text, &Budget::of(text.len()))
}

fn split_within<'t>(text: &'t str, budget: &Budget) -> Option<Split<'t>> {
    let mark = format!("{:x}", KEY.hash_one("an item"));
    let (frame, lines_before, items) = cut(text, &mark)?;
    let mut tree = tree::parse(&frame, budget).ok()?;
    // The key may stand in a text or in a comment, or below another key.
    let list = tree.get_mut("buckets")?.as_sequence_mut()?;
    if !matches!(list.as_slice(), [Value::String(only)] if *only == mark) {
        return None;
    }
    list.clear();
    Some(Split { frame, lines_before, items, tree })
}

/// The text around the items of the list of buckets, with `mark` as the only item; the number of lines
/// before it; and the texts of the items. `None` where the list is not
/// in block style, where an alias or a directive may lead from one part into another, or where lines end as
/// only YAML ends them.
fn cut<'t>(text: &'t str, mark: &str) -> Option<(String, usize, Vec<&'t str>)> {
    const KEY: &str = "buckets:";
    let is_tied = text.contains('&') && text.contains('*') || text.starts_with('%') || text.contains("\n%");
    if is_tied || has_other_line_ends(text) {
        return None;
    }
    let start = if text.starts_with(KEY) { 0 } else { text.find(&format!("\n{KEY}"))? + 1 };
    let (head, rest) = text.split_at(start);
    if rest.contains(&format!("\n{KEY}")) {
        return None;
    }
    let (first, list) = rest.split_once('\n')?;
    if !is_blank(first.strip_prefix(KEY)?) {
        return None;
    }
    let mut starts = Vec::new();
    let mut indentation = None;
    let mut end = list.len();
    let mut position = 0;
    for line in list.split_inclusive('\n') {
        let content = line.trim_start_matches(' ');
        let depth = line.len() - content.len();
        if !is_blank(content) {
            let begins_item =
                content.strip_prefix('-').is_some_and(|rest| rest.starts_with([' ', '\n', '\r']));
            match indentation {
                None if begins_item => indentation = Some(depth),
                Some(indentation) if depth > indentation => {}
                Some(indentation) if depth == indentation && begins_item => {}
                // A key after the list.
                Some(_) if depth == 0 => {
                    end = position;
                    break;
                }
                _ => return None,
            }
            if indentation == Some(depth) {
                starts.push(position);
            }
        }
        position += line.len();
    }
    let before = list.get(..*starts.first()?)?;
    let ends = starts.iter().skip(1).copied().chain([end]);
    let items = starts.iter().zip(ends).map(|(start, end)| list.get(*start..end)).collect::<Option<_>>()?;
    let depth = indentation.unwrap_or_default();
    let above = format!("{head}{first}\n{before}");
    let lines_before = above.bytes().filter(|byte| *byte == b'\n').count();
    Some((format!("{above}{:depth$}- \"{mark}\"\n{}", "", list.get(end..)?), lines_before, items))
}

/// Whether lines end otherwise than with a line feed, which may follow a carriage return.
fn has_other_line_ends(text: &str) -> bool {
    text.contains(['\u{85}', '\u{2028}', '\u{2029}'])
        || (text.contains('\r') && text.split('\r').skip(1).any(|after| !after.starts_with('\n')))
}

/// Whether a line holds nothing but perhaps a comment.
fn is_blank(line: &str) -> bool {
    let content = line.trim_matches([' ', '\t', '\r', '\n']);
    content.is_empty() || content.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a text in parts and as a whole; where the first can be done, both must agree.
    fn agreed(text: &str) -> Option<usize> {
        let budget = || Budget::of(text.len());
        let apart = read_apart(text, |_| false, &budget(), &Deadline::none())?;
        let whole = tree::parse(text, &budget()).unwrap_or_else(|_| panic!("valid in parts only:\n{text}"));
        let values = |document: Document<'_>| -> (Value, Vec<Value>) {
            let values = document.items.into_iter().map(|item| match item {
                Item::Read { value, .. } => value,
                Item::Known { .. } => Value::Null,
            });
            (document.tree, values.collect())
        };
        let count = apart.items.len();
        assert_eq!(values(apart), values(Document::whole(whole)), "{text}");
        Some(count)
    }

    #[test]
    fn a_list_in_block_style_is_read_in_parts() {
        for (text, items) in [
            ("buckets:\n  - a: 1\n  - b: 2\n", 2),
            ("---\nx: 1\nbuckets:   # list\n\n# first\n- a: |\n    text\n\n    - b\n- \"b\n  c\"\ny: 3\n", 2),
            ("buckets:\r\n  - a: 1\r\n    b: [1,\r\n      2]\r\n  - c\r\n", 2),
            ("buckets:\n  -\n    a: 1\n  # between\n  - - 1\n    - 2\n", 2),
            ("jwt: { public_key: \"a\n  b\" }\nbuckets:\n - { a: 1,\n     b: 2 }", 1),
        ] {
            assert_eq!(agreed(text), Some(items), "{text}");
        }
    }

    #[test]
    fn anything_else_is_read_as_a_whole() {
        for text in [
            "buckets: []\n",
            "buckets:\n",
            "buckets: [\n  - a\n]\n",
            "server: {}\n",
            "x: \"\nbuckets:\n - a\n\"\n",
            "x: \"\nbuckets:\n  - a: 1\n\"\nbuckets:\n  - a: 2\n",
            "buckets:\n  - a: \"\n  - b: \"\n",
            "buckets:\n  - a: [\n  - b\n  ]\n",
            "buckets:\n  - a: 1\n b: 2\n",
            "buckets:\n  - a: 1\n    a: 2\n",
            "buckets:\n  - a: &x 1\n  - b: *x\n",
            "a: &x 1\nbuckets:\n  - a: &x 2\nb: *x\n",
            "buckets:\n  - a: 1\r  - b: 2\n",
            "buckets:\n  - a: 1\n---\nb: 2\n",
            "buckets:\n  - a: 1\nbuckets:\n  - a: 1\n",
            "buckets: # ours\r  - { name: private }\n  - { name: other }\n",
            "buckets: # ours\u{2028}  - a: 1\n  - b: 2\n",
            "buckets:#x\n  - a: 1\n",
            "buckets:\u{a0}\n  - a: 1\n",
            "x: \"\nbuckets:\n - name: a\n\"\n\"buckets\": []\n",
            "{ x: 1,\nbuckets:\n - a: 1\n}",
            "%TAG ! tag:example.org,2026:\n---\nbuckets:\n  - a: !x 1\n",
        ] {
            assert_eq!(agreed(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_known_is_not_read() {
        let (known, new) = ("  - a: 1\n", "  - b: 2\n");
        let text = format!("buckets:\n{known}{new}");
        let document = read(&text, |hash| hash == KEY.hash_one(known), &Deadline::none());
        let value = serde_yaml::from_str("b: 2").expect("valid");
        assert_eq!(
            document.expect("valid").items,
            [
                Item::Known { text: known, hash: KEY.hash_one(known) },
                Item::Read { value, hash: KEY.hash_one(new) }
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Lines out of which YAML can be built, well-formed now and then.
        #[test]
        fn parts_never_disagree_with_the_whole(
            lines in prop::collection::vec(
                prop::sample::select(vec![
                    "buckets:", "  - a: 1", "  - b: |", "    c: 2", "- a: 1", "- d", "    - e", "      f",
                    "x: 3", "y: \"", "\"", "  - \"a", "    b\"", "  - [a,", "  b]", "", "# c", "  # - c", "    ? k",
                    "---", "...", "  - !t a", "  - &n a", "z: &n b", "w: *n", "  - >-", "   text", "  -", "  - 'a",
                    "    it''s'", "\t- t", "  - k: v # c", "    <<: { m: 1 }", "  - {", "  }", "- - a", "%YAML 1.1",
                    "\"buckets\": []", "{ q: 1,", "}", "buckets:#x", "buckets:\u{a0}", "buckets: # c\r  - z: 1",
                    "? buckets", ": []", "\t# c", "buckets: !t", "buckets: &a",
                ]),
                0..12,
            ),
            ending in prop::sample::select(vec!["\n", "\r\n", "\n", "\u{2028}", "\r"]),
            starts_well: bool,
        ) {
            let text = lines.join(ending);
            let text = if starts_well { format!("buckets:\n  - a: 1\n{text}") } else { text };
            agreed(&text);
        }
    }
}
