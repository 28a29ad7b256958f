//! Which bucket a path belongs to.
//!
//! A path is decoded once, here, and everything that follows (the route, the rule, the object
//! key) is derived from that one decoded text, so no two parts of the program can disagree about
//! what was asked for. Knows nothing of HTTP, configuration or S3.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Why a request path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidPath {
    #[error("the path does not begin with `/`")]
    Relative,
    #[error("the path holds a `%` that is not followed by two hexadecimal digits")]
    PercentEncoding,
    #[error("the decoded path is not UTF-8")]
    NotUtf8,
    #[error("the decoded path holds a NUL")]
    Nul,
    #[error("the decoded path holds a `.` or `..` segment")]
    DotSegment,
    #[error("the key holds an empty segment, and who may read depends on the key")]
    EmptySegment,
}

/// Decodes the path of a request target (RFC 3986, section 2.1), exactly once.
///
/// Dot segments are refused instead of resolved: S3 never normalises a key, a client or a proxy in
/// front may, and what one side resolves and the other does not is how one bucket's rule comes to
/// guard another bucket's object.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, InvalidPath> {
    if !raw.starts_with('/') {
        return Err(InvalidPath::Relative);
    }
    // What stands for bytes that were no UTF-8 where the request was read; see the gateway.
    if raw.contains(char::REPLACEMENT_CHARACTER) {
        return Err(InvalidPath::NotUtf8);
    }
    let path = if raw.contains('%') {
        let mut after_percent = raw.split('%').skip(1);
        let well_formed = |text: &str| matches!(text.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
        if !after_percent.all(well_formed) {
            return Err(InvalidPath::PercentEncoding);
        }
        percent_decode_str(raw).decode_utf8().map_err(|_| InvalidPath::NotUtf8)?
    } else {
        raw.into()
    };
    if path.contains('\0') {
        return Err(InvalidPath::Nul);
    }
    if path.contains("/.") && path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(InvalidPath::DotSegment);
    }
    Ok(path)
}

/// Why a text is not a path prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidPrefix {
    #[error("does not begin with `/`; write it as `/name`")]
    Relative,
    #[error("holds an empty segment; write each `/` once")]
    EmptySegment,
    #[error("holds a `.` or `..` segment, which no request path can match; leave it out")]
    DotSegment,
    #[error("holds `{0}`; a prefix is written decoded and takes letters, digits, `-`, `.`, `_`, `~` and `/`")]
    Character(char),
    #[error("is reserved for the operators' endpoints; choose another")]
    Reserved,
}

/// First segments that the program answers itself on the traffic port.
const RESERVED: [&str; 6] = ["admin", "metrics", "health", "healthz", "ready", "readyz"];

/// An absolute prefix of whole segments, without a trailing slash; `/` alone is the empty prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Arc<str>);

impl Prefix {
    pub fn parse(text: &str) -> Result<Self, InvalidPrefix> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(InvalidPrefix::Relative);
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return if text.len() > 1 { Err(InvalidPrefix::EmptySegment) } else { Ok(Self(Arc::default())) };
        }
        let allowed = |c: char| c.is_alphanumeric() || "-._~/".contains(c);
        if let Some(c) = rest.chars().find(|c| !allowed(*c)) {
            return Err(InvalidPrefix::Character(c));
        }
        for segment in rest.split('/') {
            match segment {
                "" => return Err(InvalidPrefix::EmptySegment),
                "." | ".." => return Err(InvalidPrefix::DotSegment),
                _ => {}
            }
        }
        if rest.split('/').next().is_some_and(|first| RESERVED.contains(&first)) {
            return Err(InvalidPrefix::Reserved);
        }
        Ok(Self(format!("/{rest}").into()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// Prefixes and what they lead to; the longest prefix wins.
#[derive(Debug)]
pub struct RouteTable<T> {
    routes: HashMap<Prefix, T>,
    /// No prefix is longer. Bounds the work for a path of ten thousand slashes.
    longest: usize,
}

impl<T> RouteTable<T> {
    /// The longest prefix that ends where a segment of `path` (decoded) ends, and what follows it.
    pub fn find<'p>(&self, path: &'p str) -> Option<(&T, &'p str)> {
        let mut end = path.len();
        loop {
            if end <= self.longest
                && let Some(route) = self.routes.get(&path[..end])
            {
                let rest = &path[end..];
                return Some((route, rest.strip_prefix('/').unwrap_or(rest)));
            }
            let mut within_reach = path.as_bytes().iter().take(end.min(self.longest + 1));
            end = within_reach.rposition(|byte| *byte == b'/')?;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.values()
    }
}

impl<T> FromIterator<(Prefix, T)> for RouteTable<T> {
    fn from_iter<I: IntoIterator<Item = (Prefix, T)>>(routes: I) -> Self {
        let routes: HashMap<Prefix, T> = routes.into_iter().collect();
        let longest = routes.keys().map(|prefix| prefix.0.len()).max().unwrap_or(0);
        Self { routes, longest }
    }
}

/// Lets the table be asked with a slice of the path. `Prefix` hashes as its text does.
impl std::borrow::Borrow<str> for Prefix {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(prefixes: &[&'static str]) -> RouteTable<&'static str> {
        prefixes.iter().map(|p| (Prefix::parse(p).expect("valid"), *p)).collect()
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let table = table(&["/img"]);
        assert_eq!(table.find("/img/a"), Some((&"/img", "a")));
        assert_eq!(table.find("/img"), Some((&"/img", "")));
        assert_eq!(table.find("/img/"), Some((&"/img", "")));
        assert_eq!(table.find("/imgs"), None);
        assert_eq!(table.find("/imgs/a"), None);
        assert_eq!(table.find("/im"), None);
        assert_eq!(table.find("/"), None);
    }

    #[test]
    fn the_longest_prefix_wins_and_the_root_takes_the_rest() {
        let table = table(&["/", "/a", "/a/b", "/a/b/c/d"]);
        assert_eq!(table.find("/a/b/c/x"), Some((&"/a/b", "c/x")));
        assert_eq!(table.find("/a/b/c/d/x"), Some((&"/a/b/c/d", "x")));
        assert_eq!(table.find("/a/bc"), Some((&"/a", "bc")));
        assert_eq!(table.find("/z/y"), Some((&"/", "z/y")));
        assert_eq!(table.find("/"), Some((&"/", "")));
    }

    #[test]
    fn slashes_of_a_key_survive() {
        assert_eq!(table(&["/img"]).find("/img//a//b/"), Some((&"/img", "/a//b/")));
        assert_eq!(table(&["/"]).find("//a"), Some((&"/", "/a")));
    }

    #[test]
    fn a_multi_byte_path_is_cut_between_characters() {
        assert_eq!(table(&["/é"]).find("/é/ü"), Some((&"/é", "ü")));
        assert_eq!(table(&["/a"]).find("/éééééé"), None);
        assert_eq!(table(&["/ab"]).find("/éé/é/é"), None);
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(table(&[]).find("/a/b"), None);
    }

    #[test]
    fn a_path_is_decoded_once() {
        assert_eq!(decode("/a%20b%2Fc%2520+").as_deref(), Ok("/a b/c%20+"));
        assert_eq!(decode("/%E3%81%82").as_deref(), Ok("/あ"));
    }

    #[test]
    fn paths_that_could_mean_two_things_are_refused() {
        for (raw, why) in [
            ("a", InvalidPath::Relative),
            ("/%", InvalidPath::PercentEncoding),
            ("/%4", InvalidPath::PercentEncoding),
            ("/%zz", InvalidPath::PercentEncoding),
            ("/%é1", InvalidPath::PercentEncoding),
            ("/%FF", InvalidPath::NotUtf8),
            ("/a\u{FFFD}", InvalidPath::NotUtf8),
            ("/a%00", InvalidPath::Nul),
            ("/../a", InvalidPath::DotSegment),
            ("/a/.", InvalidPath::DotSegment),
            ("/a/%2e%2E/b", InvalidPath::DotSegment),
            ("/a%2F..%2fb", InvalidPath::DotSegment),
        ] {
            assert_eq!(decode(raw), Err(why), "{raw}");
        }
        assert!(decode("/a/.../..a/a../%EF%BF%BD").is_ok());
    }

    #[test]
    fn prefixes_are_normalised_and_checked() {
        let parse = |text| Prefix::parse(text).map(|prefix| prefix.to_string());
        assert_eq!(parse("/img/"), parse("/img"));
        assert_eq!(parse("/").as_deref(), Ok("/"));
        for (text, why) in [
            ("", InvalidPrefix::Relative),
            ("img", InvalidPrefix::Relative),
            ("//", InvalidPrefix::EmptySegment),
            ("/a//b", InvalidPrefix::EmptySegment),
            ("/a/../b", InvalidPrefix::DotSegment),
            ("/a b", InvalidPrefix::Character(' ')),
            ("/a%20", InvalidPrefix::Character('%')),
            ("/a?b", InvalidPrefix::Character('?')),
            ("/admin", InvalidPrefix::Reserved),
            ("/metrics/x", InvalidPrefix::Reserved),
            ("/readyz/", InvalidPrefix::Reserved),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        assert!(parse("/administration").is_ok());
    }
}
