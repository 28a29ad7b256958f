//! From a text of YAML to a tree of values, within a budget.
//!
//! `serde_yaml` repeats what an anchor names wherever an alias stands, without a bound on the result. The
//! tree is therefore built by a visitor of our own that charges every value before it keeps it. The flow
//! nesting is looked at before the parser sees the text; see [`nesting`](crate::settings::nesting).

use std::cell::Cell;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_yaml::value::{Tag, TaggedValue};
use serde_yaml::{Mapping, Value};

use crate::settings::nesting;
use crate::settings::problem::is_plain;

/// Values that any file may hold, however short it is.
const FREE_VALUES: usize = 100_000;

/// Bytes of text that any file may hold after its aliases were followed.
const FREE_TEXT: usize = 4 << 20;

/// The factor by which aliases may lengthen a file.
const TEXT_FACTOR: usize = 8;

/// The number of values and the length of texts that a file may still become.
///
/// A file without aliases is always within it: a value takes at least one byte of the file.
#[derive(Debug)]
pub(crate) struct Budget {
    values: Cell<usize>,
    text: Cell<usize>,
    is_exceeded: Cell<bool>,
}

impl Budget {
    /// The budget of a file of this many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        Self {
            values: Cell::new(value_limit(bytes)),
            text: Cell::new(text_limit(bytes)),
            is_exceeded: Cell::new(false),
        }
    }

    fn is_exceeded(&self) -> bool {
        self.is_exceeded.get()
    }

    fn charge<E: Error>(&self, text: usize) -> Result<(), E> {
        match (self.values.get().checked_sub(1), self.text.get().checked_sub(text)) {
            (Some(values), Some(text)) => {
                self.values.set(values);
                self.text.set(text);
                Ok(())
            }
            _ => {
                self.is_exceeded.set(true);
                Err(E::custom("the budget is spent"))
            }
        }
    }
}

/// The most bytes of text that a file of this many bytes may become.
pub(crate) fn text_limit(bytes: usize) -> usize {
    bytes.saturating_mul(TEXT_FACTOR).saturating_add(FREE_TEXT)
}

/// The most values that a file of this many bytes may become.
pub(crate) fn value_limit(bytes: usize) -> usize {
    bytes.saturating_add(FREE_VALUES)
}

/// The most lines that begin with `%`. The parser compares each with all before it, and a configuration
/// has no use for any.
pub(crate) const MAX_DIRECTIVES: usize = 32;

/// The reason why there is no tree.
#[derive(Debug)]
pub(crate) enum Unparsed {
    /// Brackets are nested too deep, in this line.
    TooDeep {
        line: usize,
    },
    /// There are too many directives.
    Directives,
    /// The aliases repeat more than the budget allows.
    Repeats,
    /// A merge key names no mapping.
    Merge,
    Yaml(serde_yaml::Error),
}

/// Builds the tree of a text with a single document, and follows its merge keys `<<`.
pub(crate) fn parse(text: &str, budget: &Budget) -> Result<Value, Unparsed> {
    let directives = text.split('\n').filter(|line| line.starts_with('%'));
    if text.contains('%') && directives.count() > MAX_DIRECTIVES {
        return Err(Unparsed::Directives);
    }
    if let Some(line) = nesting::too_deep(text) {
        return Err(Unparsed::TooDeep { line });
    }
    let tree = Tree { budget, siblings: None }.deserialize(serde_yaml::Deserializer::from_str(text));
    let mut tree =
        tree.map_err(|error| if budget.is_exceeded() { Unparsed::Repeats } else { Unparsed::Yaml(error) })?;
    // Most files have no merge key, and the walk takes time.
    if text.contains("<<") {
        tree.apply_merge().map_err(|_| Unparsed::Merge)?;
    }
    Ok(tree)
}

/// The message of the error for a key that stands twice; it ends with the key where that may be shown.
pub(crate) const DUPLICATE_KEY: &str = "duplicate key";

/// Builds a value; `siblings` are the entries before it where it is a key.
struct Tree<'b> {
    budget: &'b Budget,
    siblings: Option<&'b Mapping>,
}

impl Tree<'_> {
    fn keep<E: Error>(&self, value: Value) -> Result<Value, E> {
        self.budget.charge::<E>(value.as_str().map_or(0, str::len))?;
        // The error is raised here, where the parser knows the line of the key.
        match (self.siblings, &value) {
            (Some(siblings), Value::String(key)) if siblings.contains_key(&value) => {
                let shown = if is_plain(key) { key.as_str() } else { "" };
                Err(E::custom(format_args!("{DUPLICATE_KEY} {shown}")))
            }
            (Some(siblings), _) if siblings.contains_key(&value) => Err(E::custom(DUPLICATE_KEY)),
            _ => Ok(value),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        self.keep(Value::Bool(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        self.keep(Value::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        self.keep(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        self.keep(Value::Number(number.into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.keep(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.keep(Value::String(text))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.keep(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.keep(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.budget.charge::<A::Error>(0)?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Tree { siblings: None, ..self })? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.budget.charge::<A::Error>(0)?;
        let mut entries = Mapping::new();
        while let Some(key) = map.next_key_seed(Tree { siblings: Some(&entries), ..self })? {
            let value = map.next_value_seed(Tree { siblings: None, ..self })?;
            // A list or a mapping that stands twice as a key; texts were looked at before.
            if entries.insert(key, value).is_some() {
                return Err(A::Error::custom(DUPLICATE_KEY));
            }
        }
        Ok(Value::Mapping(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (tag, contents) = data.variant::<String>()?;
        self.budget.charge::<A::Error>(tag.len())?;
        let value = contents.newtype_variant_seed(Tree { siblings: None, ..self })?;
        if tag.is_empty() {
            return Err(A::Error::custom("empty YAML tag is not allowed"));
        }
        Ok(Value::Tagged(Box::new(TaggedValue { tag: Tag::new(tag), value })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Value, Unparsed> {
        parse(text, &Budget::of(text.len()))
    }

    #[test]
    fn aliases_repeat_no_more_than_the_budget() {
        let list = format!("x: &a [{}]\n", "a, ".repeat(8_000));
        let text = format!("{list}y: [{}]\nbuckets: []\n", "*a, ".repeat(6_000));
        let budget = Budget::of(text.len());
        assert!(parse(&text, &budget).is_err());
        assert!(budget.is_exceeded());
        // A long text, repeated.
        let text = format!("x: &a {}\ny: [{}]\n", "a".repeat(100_000), "*a, ".repeat(1_000));
        let budget = Budget::of(text.len());
        assert!(parse(&text, &budget).is_err() && budget.is_exceeded());
    }

    #[test]
    fn a_file_without_aliases_is_within_its_budget() {
        for text in [
            format!("[{}]", "a,".repeat(500_000)),
            format!("[{}]", "[],".repeat(300_000)),
            format!("x: \"{}\"", "a".repeat(9_000_000)),
        ] {
            let budget = Budget {
                values: Cell::new(text.len()),
                text: Cell::new(text.len()),
                is_exceeded: Cell::new(false),
            };
            assert!(parse(&text, &budget).is_ok());
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error_at_its_second_line() {
        let Err(Unparsed::Yaml(error)) = parsed("a:\n  b: 1\n  c: 2\n  b: 3\n") else { panic!("twice") };
        assert_eq!(error.location().map(|location| location.line()), Some(4));
        assert!(error.to_string().contains("duplicate key b"), "{error}");
    }

    proptest! {
        #[test]
        fn a_tree_is_what_serde_yaml_reads(lines in prop::collection::vec(
            prop::sample::select(vec![
                "a: 1", "b: [x, {y: z}]", "- c", "  - d: ~", "e: !t f", "g: &h {i: 0x1f}", "j: *h", "<<: *h",
                "k: 1.5", "l: .nan", "? m", ": n", "o: |", "  text", "p: -3", "q: 18446744073709551615", "a: 2", "",
                "r: true", "s: ''", "? [1]", ": 2", "t: 99999999999999999999", "!u v: w", "---",
            ]),
            0..8,
        )) {
            let text = lines.join("\n");
            let theirs = serde_yaml::from_str::<Value>(&text).and_then(|mut tree| tree.apply_merge().map(|()| tree));
            match (parsed(&text), theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(format!("{ours:?}"), format!("{theirs:?}")),
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{text}\n{ours:?}\n{theirs:?}"),
            }
        }
    }
}
