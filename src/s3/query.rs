//! The query string of a request: parameters, decoded, each with one value.
//!
//! A parameter that is given twice with different values is ambiguous: a cache or a filter in front of the
//! proxy may have looked at the other one. So it has no value here, for every reader. The same value twice is
//! one value. Decoding follows RFC 3986: `+` is a plus sign and not a space.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// A query string without its `?`. It is taken apart when a parameter is asked for, so that a request whose
/// query nobody reads costs nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<'r>(&'r str);

/// Why a parameter has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum InvalidParameter {
    #[error("is given twice, with different values")]
    Ambiguous,
    #[error("is not UTF-8")]
    NotUtf8,
}

impl<'r> Query<'r> {
    pub fn new(raw: &'r str) -> Self {
        Self(raw)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The value of a parameter, decoded; `None` if the parameter is absent, and an empty text if it stands
    /// without a `=`.
    pub(crate) fn value(self, name: &str) -> Result<Option<Cow<'r, str>>, InvalidParameter> {
        let mut values = self
            .raw_pairs()
            .filter(|(found, _)| percent_decode_str(found).decode_utf8().is_ok_and(|found| found == name))
            .map(|(_, value)| decode(value));
        let Some(value) = values.next().transpose()? else { return Ok(None) };
        for other in values {
            if other? != value {
                return Err(InvalidParameter::Ambiguous);
            }
        }
        Ok(Some(value))
    }

    /// The decoded names of all parameters, in order.
    pub(crate) fn names(self) -> impl Iterator<Item = Result<Cow<'r, str>, InvalidParameter>> {
        self.raw_pairs().map(|(name, _)| decode(name))
    }

    /// Names and values as they were sent. Two `&` in a row have no parameter between them.
    fn raw_pairs(self) -> impl Iterator<Item = (&'r str, &'r str)> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, InvalidParameter> {
    percent_decode_str(text).decode_utf8().map_err(|_| InvalidParameter::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_has_one_decoded_value() {
        let query = Query::new("a=1&b%20c=%41+&empty=&bare&&d==");
        for (name, value) in
            [("a", Some("1")), ("b c", Some("A+")), ("empty", Some("")), ("bare", Some("")), ("d", Some("="))]
        {
            assert_eq!(query.value(name).expect("given once").as_deref(), value, "{name}");
        }
        for absent in ["A", "b", "", "1"] {
            assert_eq!(query.value(absent), Ok(None), "{absent}");
        }
        assert_eq!(Query::default().value("a"), Ok(None));
    }

    #[test]
    fn a_parameter_that_is_given_with_two_values_has_none() {
        for query in ["a=1&a=2", "a=1&a", "a=1&b=2&%61=3", "a=1&a=1&a=2"] {
            assert_eq!(Query::new(query).value("a"), Err(InvalidParameter::Ambiguous), "{query}");
        }
        for query in ["a=1&b=2&b=3", "a=1&a=1", "a=1&%61=%31"] {
            assert_eq!(Query::new(query).value("a"), Ok(Some("1".into())), "{query}");
        }
    }

    #[test]
    fn a_text_that_is_not_utf_8_is_an_error_where_it_is_read() {
        let query = Query::new("a=%FF&%FF=1&b=2");
        assert_eq!(query.value("a"), Err(InvalidParameter::NotUtf8));
        assert_eq!(query.value("b"), Ok(Some("2".into())));
        let names: Vec<_> = query.names().collect();
        assert_eq!(names, [Ok("a".into()), Err(InvalidParameter::NotUtf8), Ok("b".into())]);
    }
}
