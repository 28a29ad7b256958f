//! The object key: held decoded, encoded strictly when a request is made.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986 and `/`: `UriEncode` of the AWS Signature
/// Version 4 documentation, applied to a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// As [`PATH`], for a name or a value of the query, where `/` is encoded too.
const QUERY: &AsciiSet = &PATH.add(b'/');

/// The name of an object in its bucket, decoded; any UTF-8 text that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectKey(String);

impl ObjectKey {
    pub fn new(decoded: String) -> Self {
        Self(decoded)
    }

    /// As it stands in the path of a request, percent-encoded in upper case.
    pub fn encoded(&self) -> PercentEncode<'_> {
        utf8_percent_encode(&self.0, PATH)
    }
}

/// A value as it stands in a canonical query string.
pub(crate) fn encode_query_value(value: &str) -> impl std::fmt::Display {
    utf8_percent_encode(value, QUERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_encoded_strictly() {
        for (key, encoded) in [
            ("a b+c%d", "a%20b%2Bc%25d"),
            ("//a/", "//a/"),
            ("-._~", "-._~"),
            ("?#&=@:;,$!'()*[]\"\\", "%3F%23%26%3D%40%3A%3B%2C%24%21%27%28%29%2A%5B%5D%22%5C"),
            ("é/日本", "%C3%A9/%E6%97%A5%E6%9C%AC"),
            ("a\n\u{7f}", "a%0A%7F"),
        ] {
            assert_eq!(ObjectKey::new(key.to_owned()).encoded().to_string(), encoded);
        }
        assert_eq!(encode_query_value("a/b+c").to_string(), "a%2Fb%2Bc");
    }
}
