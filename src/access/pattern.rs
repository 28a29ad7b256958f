//! Patterns of object keys, and which of two is more specific.
//!
//! `*` stands for any text within a segment, `**` for any number of whole segments, `${claim.NAME}` for
//! the segment that the token's claim says. A pattern is compared with the decoded key, in time bounded
//! by the product of both lengths, and with another pattern that is as specific in time bounded by their sum. Knows no methods, no tokens and no prefixes.

use std::cmp::Ordering;

use serde_json::Value;
use thiserror::Error;

use crate::tokens::claims::{self, Claims};

/// What a claim in a pattern begins with.
pub(crate) const CLAIM: &str = "${claim.";

/// The longest pattern, which is the longest key.
const MAX_BYTES: usize = 1024;

/// A pattern of whole keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// A text, in which every `*` stands for any bytes.
    Text(String),
    /// The claim at a dotted path.
    Claim(String),
    /// `**`
    Deep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidPattern {
    #[error("begins with `/`; a pattern is relative to the bucket's prefix, so leave it out")]
    Absolute,
    #[error("holds an empty segment; write each `/` once, and `a/**` for everything below `a`")]
    EmptySegment,
    #[error("holds a `.` or `..` segment, which no request can match; leave it out")]
    DotSegment,
    #[error("is longer than 1,024 bytes, and so than any key")]
    Long,
    #[error("holds `**` beside other text; it stands alone between slashes, as in `a/**/b`")]
    DeepInText,
    #[error("holds `**/**`; write `**` once")]
    DeepTwice,
    #[error("holds `*/**`; write `**/*`, which means the same")]
    DeepAfterAny,
    #[error(
        "holds a claim that is not a whole segment or not a claim; write it as in `users/${{claim.sub}}/**`, with letters, digits, `_`, `-` and `.`"
    )]
    Claim,
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if text.starts_with('/') {
            return Err(InvalidPattern::Absolute);
        }
        if text.len() > MAX_BYTES {
            return Err(InvalidPattern::Long);
        }
        let segments = text.split('/').map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        for pair in segments.windows(2) {
            match pair {
                [Segment::Deep, Segment::Deep] => return Err(InvalidPattern::DeepTwice),
                // The order of two patterns goes by the text, so one meaning must have one text.
                [Segment::Text(any), Segment::Deep] if any == "*" => {
                    return Err(InvalidPattern::DeepAfterAny);
                }
                _ => {}
            }
        }
        Ok(Self(segments))
    }

    /// Whether a key is one of these, whatever the claims are.
    pub fn covers(&self, key: &str) -> bool {
        self.matches(key, |_, _| true)
    }

    /// Whether a key is one of these for the bearer of a token with these claims.
    pub fn admits(&self, key: &str, claims: &Claims) -> bool {
        self.matches(key, |claim, segment| {
            // Decoding lets no such segment in; a claim must not be what finds out that it does.
            let is_one_segment = !matches!(segment, "" | "." | "..") && !segment.contains('\0');
            is_one_segment
                && matches!(claims::find(claims, claim), Some(Value::String(text)) if text == segment)
        })
    }

    /// The first claim that the pattern binds.
    pub fn claim(&self) -> Option<&str> {
        self.0.iter().find_map(|segment| match segment {
            Segment::Claim(claim) => Some(claim.as_str()),
            _ => None,
        })
    }

    /// Compares from the left: the more specific one is the lesser, so that it sorts first.
    pub fn by_specificity(&self, other: &Self) -> Ordering {
        other.ranks().cmp(self.ranks())
    }

    /// The class of the pattern. Two patterns of different classes either cover no common key, or one of
    /// them is the more specific one; so only patterns of one class need to be compared.
    pub fn class(&self) -> Class {
        let deep = |segment: &Segment| *segment == Segment::Deep;
        let first = self.0.iter().position(deep).unwrap_or(self.0.len());
        let last = self.0.iter().rposition(deep).unwrap_or(0);
        // Between two `**` the same text may match elsewhere.
        let fixed = |(at, segment): (usize, &Segment)| match segment {
            Segment::Text(text) if !text.contains('*') && (at < first || at > last) => text.clone(),
            _ => String::new(),
        };
        Class(self.0.iter().map(Segment::rank).zip(self.0.iter().enumerate().map(fixed)).collect())
    }

    fn ranks(&self) -> impl Iterator<Item = Rank> {
        self.0.iter().map(Segment::rank).chain([END])
    }

    /// Whether some key is covered by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        overlap(&self.0, &other.0, |segment| *segment == Segment::Deep, Segment::meets)
    }

    fn matches(&self, key: &str, binds: impl Fn(&str, &str) -> bool) -> bool {
        let key: Vec<&str> = key.split('/').collect();
        covers(
            &self.0,
            &key,
            |segment| *segment == Segment::Deep,
            |segment, found| match segment {
                Segment::Text(text) => covers(text.as_bytes(), found.as_bytes(), is_star, PartialEq::eq),
                Segment::Claim(claim) => binds(claim, found),
                Segment::Deep => false,
            },
        )
    }
}

/// The ranks of the segments of a pattern, from the left, with the text where only that text matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class(Vec<(Rank, String)>);

/// How specific a segment is: what it is, then how much of it is text.
type Rank = (u8, usize);

/// The end of a pattern, in the order of [`Segment::rank`].
const END: Rank = (1, 0);

impl Segment {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        match text {
            "" => Err(InvalidPattern::EmptySegment),
            "." | ".." => Err(InvalidPattern::DotSegment),
            "**" => Ok(Self::Deep),
            _ if text.contains("**") => Err(InvalidPattern::DeepInText),
            _ if text.contains(CLAIM) => {
                let claim = text.strip_prefix(CLAIM).and_then(|rest| rest.strip_suffix('}'));
                let is_name = |name: &str| {
                    !name.is_empty()
                        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
                };
                match claim {
                    Some(claim) if claim.split('.').all(is_name) => Ok(Self::Claim(claim.to_owned())),
                    _ => Err(InvalidPattern::Claim),
                }
            }
            _ => Ok(Self::Text(text.to_owned())),
        }
    }

    fn rank(&self) -> Rank {
        match self {
            Self::Text(text) if !text.contains('*') => (4, 0),
            Self::Claim(_) => (3, 0),
            Self::Text(text) => (2, text.bytes().filter(|byte| !is_star(byte)).count()),
            Self::Deep => (0, 0),
        }
    }

    /// Whether some segment is both.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => texts_overlap(one, other),
            _ => true,
        }
    }
}

fn is_star(byte: &u8) -> bool {
    *byte == b'*'
}

/// Whether a sequence with wildcards covers one without. On a mismatch the last wildcard takes one
/// element more; the earlier ones never need to, so nothing is tried twice.
fn covers<P, T>(
    pattern: &[P],
    text: &[T],
    is_wildcard: impl Fn(&P) -> bool,
    matches: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut taken) = (0, 0);
    let mut last_wildcard = None;
    while let Some(element) = text.get(taken) {
        match pattern.get(at) {
            Some(wildcard) if is_wildcard(wildcard) => {
                last_wildcard = Some((at, taken));
                at += 1;
            }
            Some(one) if matches(one, element) => {
                at += 1;
                taken += 1;
            }
            _ => {
                let Some((wildcard, from)) = last_wildcard else { return false };
                last_wildcard = Some((wildcard, from + 1));
                at = wildcard + 1;
                taken = from + 1;
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(is_wildcard))
}

/// Whether two sequences with wildcards cover a common one.
///
/// Where both hold a wildcard, only what stands before the first and after the last one matters: a common
/// sequence begins with the longer of the two beginnings, ends with the longer of the two ends, and holds
/// the middle of the one and then the middle of the other, each within a wildcard of the other sequence.
fn overlap<P>(a: &[P], b: &[P], is_wildcard: impl Fn(&P) -> bool, meets: impl Fn(&P, &P) -> bool) -> bool {
    let wildcards = |sequence: &[P]| {
        let first = sequence.iter().position(&is_wildcard)?;
        let last = sequence.iter().rposition(&is_wildcard)?;
        Some((first, sequence.len() - last - 1))
    };
    match (wildcards(a), wildcards(b)) {
        (None, None) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| meets(a, b)),
        (Some(_), None) => covers(a, b, &is_wildcard, meets),
        (None, Some(_)) => covers(b, a, &is_wildcard, |b, a| meets(a, b)),
        (Some((head_of_a, tail_of_a)), Some((head_of_b, tail_of_b))) => {
            let (head, tail) = (head_of_a.min(head_of_b), tail_of_a.min(tail_of_b));
            a.iter().zip(b).take(head).all(|(a, b)| meets(a, b))
                && a.iter().rev().zip(b.iter().rev()).take(tail).all(|(a, b)| meets(a, b))
        }
    }
}

/// The text before the first `*` and the text after the last one.
fn ends(text: &str) -> Option<(&str, &str)> {
    Some((text.split_once('*')?.0, text.rsplit_once('*')?.1))
}

/// The same as [`overlap`], for texts in which `*` is the wildcard, by comparing whole slices.
fn texts_overlap(one: &str, other: &str) -> bool {
    match (ends(one), ends(other)) {
        (None, None) => one == other,
        (Some(_), None) => covers(one.as_bytes(), other.as_bytes(), is_star, PartialEq::eq),
        (None, Some(_)) => covers(other.as_bytes(), one.as_bytes(), is_star, PartialEq::eq),
        (Some((head, tail)), Some((other_head, other_tail))) => {
            (head.starts_with(other_head) || other_head.starts_with(head))
                && (tail.ends_with(other_tail) || other_tail.ends_with(tail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap_or_else(|why| panic!("{text} {why}"))
    }

    #[test]
    fn a_pattern_covers_whole_keys() {
        for (text, covered, others) in [
            ("a", &["a"][..], &["", "A", "a/", "/a", "aa", "a/a"][..]),
            ("*", &["a", "", "a b", "é"], &["a/b", "/", "a/"]),
            ("a/*", &["a/b", "a/", "a/*"], &["a", "a/b/c", "b/a", "a//"]),
            ("*.jpg", &["a.jpg", ".jpg", "a.jpg.jpg"], &["a.jpeg", "a/b.jpg", "a.jpgx", "a.JPG"]),
            ("a*b*c", &["abc", "a1b2c", "abbcbc"], &["ab", "acb", "abcd", "a/b/c"]),
            ("**", &["", "a", "a/b", "//", "a//b/"], &[]),
            ("a/**", &["a", "a/", "a/b", "a/b/c", "a//b"], &["", "ab", "b/a", "ab/c"]),
            ("**/a", &["a", "b/a", "b/c/a", "/a"], &["ba", "a/b", "a/"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b", "a/b/b"], &["a", "ab", "a/b/c"]),
            ("**/a/**", &["a", "x/a", "a/x", "x/a/y", "x/y/a/z"], &["", "xa", "x/ay"]),
            ("**/*", &["", "a", "a/b"], &[]),
            ("a/**/*", &["a/b", "a/b/c", "a/"], &["a", "b/a"]),
            ("**/*.jpg", &["a.jpg", "x/y/a.jpg"], &["a.jpg/x"]),
            ("a?[b]{c}\\", &["a?[b]{c}\\"], &["ab", "a"]),
            ("é/*", &["é/日本"], &["e/x"]),
            ("$x/${y}", &["$x/${y}"], &["x/y"]),
        ] {
            for key in covered {
                assert!(pattern(text).covers(key), "{text} covers {key}");
            }
            for key in others {
                assert!(!pattern(text).covers(key), "{text} does not cover {key}");
            }
        }
    }

    #[test]
    fn a_claim_is_exactly_one_segment() {
        let bound = pattern("users/${claim.sub}/**");
        let admits = |sub: Value, key: &str| {
            let claims = json!({ "sub": sub, "a": { "b": "deep" } });
            bound.admits(key, claims.as_object().expect("an object"))
        };
        assert!(admits(json!("ann"), "users/ann/x"));
        assert!(admits(json!("ann"), "users/ann"));
        assert!(admits(json!("a n*n%2F"), "users/a n*n%2F/x"));
        for (sub, key) in [
            (json!("ann"), "users/bob/x"),
            (json!("ann"), "users/anna/x"),
            (json!("ann"), "users/Ann/x"),
            (json!("ann"), "ann/x"),
            (json!("ann/x"), "users/ann/x"),
            (json!("*"), "users/ann/x"),
            (json!("**"), "users/ann/x"),
            (json!(""), "users//x"),
            (json!("."), "users/./x"),
            (json!(".."), "users/../x"),
            (json!("a\0"), "users/a\0/x"),
            (json!(null), "users/null/x"),
            (json!(7), "users/7/x"),
            (json!(true), "users/true/x"),
            (json!(["ann"]), "users/ann/x"),
            (json!({ "x": "ann" }), "users/ann/x"),
        ] {
            assert!(!admits(sub.clone(), key), "{sub} {key}");
        }
        let nested = pattern("**/${claim.a.b}/x");
        let claims = json!({ "a": { "b": "deep" } });
        assert!(nested.admits("1/2/deep/x", claims.as_object().expect("an object")));
        assert!(!nested.admits("1/2/shallow/x", claims.as_object().expect("an object")));
        assert!(!bound.admits("users/ann", &Claims::new()));
        assert!(bound.covers("users//x") && bound.covers("users/bob"));
    }

    #[test]
    fn the_more_specific_pattern_sorts_first() {
        let sorted = [
            "a/b",
            "a/${claim.sub}/c",
            "a/${claim.sub}/**",
            "a/*.jpg",
            "a/*g",
            "a/*/c",
            "a/*",
            "a",
            "a/**/b/c",
            "a/**/b",
            "a/**/*.jpg",
            "a/**/*",
            "a/**",
            "${claim.sub}/**",
            "a*",
            "*",
            "**/a/b",
            "**/a",
            "**/a/**",
            "**/*",
            "**",
        ];
        for (index, one) in sorted.iter().enumerate() {
            for other in sorted.iter().skip(index + 1) {
                assert_eq!(pattern(one).by_specificity(&pattern(other)), Ordering::Less, "{one} {other}");
                assert_eq!(pattern(other).by_specificity(&pattern(one)), Ordering::Greater, "{other} {one}");
            }
        }
    }

    #[test]
    fn patterns_overlap_where_a_key_is_covered_by_both() {
        for (one, other, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a/**", "b/**", false),
            ("*/b", "a/*", true),
            ("*.jpg", "cat.*", true),
            ("*.jpg", "*.png", false),
            ("a*", "*b", true),
            ("a*x", "b*x", false),
            ("**/a/**", "**/b/**", true),
            ("**/a", "**/b", false),
            ("**", "a", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a", false),
            ("${claim.a}", "${claim.b}", true),
            ("${claim.a}/x", "b/y", false),
            ("a/*", "a/*/c", false),
        ] {
            let (one, other) = (pattern(one), pattern(other));
            assert_eq!(one.overlaps(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.overlaps(&one), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn patterns_that_cannot_be_meant_are_refused() {
        for (text, why) in [
            ("", InvalidPattern::EmptySegment),
            ("/a", InvalidPattern::Absolute),
            ("a//b", InvalidPattern::EmptySegment),
            ("a/", InvalidPattern::EmptySegment),
            ("a/../b", InvalidPattern::DotSegment),
            ("./a", InvalidPattern::DotSegment),
            ("a/b**", InvalidPattern::DeepInText),
            ("***", InvalidPattern::DeepInText),
            ("a/**/**", InvalidPattern::DeepTwice),
            ("*/**", InvalidPattern::DeepAfterAny),
            ("${claim.sub}x", InvalidPattern::Claim),
            ("x${claim.sub}", InvalidPattern::Claim),
            ("${claim.}", InvalidPattern::Claim),
            ("${claim.a..b}", InvalidPattern::Claim),
            ("${claim.a}${claim.b}", InvalidPattern::Claim),
            ("${claim.sub:-x}", InvalidPattern::Claim),
            ("${claim.sub", InvalidPattern::Claim),
        ] {
            assert_eq!(Pattern::parse(text), Err(why), "{text}");
        }
        assert_eq!(Pattern::parse(&"a".repeat(1025)), Err(InvalidPattern::Long));
    }

    #[test]
    fn the_worst_key_takes_no_time() {
        let stars = pattern(&"*a".repeat(512));
        let deep = pattern(&["**/a"; 200].join("/"));
        let started = std::time::Instant::now();
        assert!(!stars.covers(&format!("{}b", "a".repeat(1023))));
        assert!(!deep.covers(&format!("{}b", "a/".repeat(511))));
        assert!(started.elapsed() < std::time::Duration::from_secs(1));
    }

    /// The same as [`overlap`], by dynamic programming: `row` says which beginnings of `b` may be the same as
    /// the beginning of `a` that was looked at.
    fn overlap_by_rows<P>(
        a: &[P],
        b: &[P],
        is_wildcard: impl Fn(&P) -> bool,
        meets: impl Fn(&P, &P) -> bool,
    ) -> bool {
        let step = |above: Option<&[bool]>, one: Option<&P>| {
            let mut row = Vec::with_capacity(b.len() + 1);
            let above_at = |at: usize| above.and_then(|above| above.get(at)).copied();
            row.push(above_at(0).is_none_or(|same| same && one.is_some_and(&is_wildcard)));
            for (at, other) in b.iter().enumerate() {
                let left = row.last().copied().unwrap_or_default();
                let (up, before) = (above_at(at + 1).unwrap_or_default(), above_at(at).unwrap_or_default());
                row.push(match one {
                    Some(one) if is_wildcard(one) => up || left,
                    Some(one) => (is_wildcard(other) && (up || left)) || (before && meets(one, other)),
                    None => is_wildcard(other) && left,
                });
            }
            row
        };
        let first = step(None, None);
        let last = a.iter().fold(first, |above, one| step(Some(&above), Some(one)));
        last.last().copied().unwrap_or_default()
    }

    fn patterns() -> impl Strategy<Value = Pattern> {
        let segment =
            prop::sample::select(vec!["a", "b", "ab", "*", "a*", "*b", "a*b", "*a*", "**", "${claim.x}"]);
        let text = prop::collection::vec(segment, 1..6).prop_map(|segments| segments.join("/"));
        text.prop_filter_map("a pattern", |text| Pattern::parse(&text).ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn patterns_overlap_as_the_slow_way_says(one in patterns(), other in patterns()) {
            let meets = |one: &Segment, other: &Segment| match (one, other) {
                (Segment::Text(one), Segment::Text(other)) => {
                    overlap_by_rows(one.as_bytes(), other.as_bytes(), is_star, PartialEq::eq)
                }
                _ => true,
            };
            let expected = overlap_by_rows(&one.0, &other.0, |segment| *segment == Segment::Deep, meets);
            prop_assert_eq!(one.overlaps(&other), expected);
            let is_undecided = expected && one.by_specificity(&other).is_eq();
            prop_assert!(!is_undecided || one.class() == other.class());
        }

        #[test]
        fn texts_overlap_as_the_slow_way_says(one in "[ab*]{0,10}", other in "[ab*]{0,10}") {
            let expected = overlap_by_rows(one.as_bytes(), other.as_bytes(), is_star, PartialEq::eq);
            prop_assert_eq!(texts_overlap(&one, &other), expected);
        }
    }
}
