//! The places of a request where a token may stand. The token itself is not looked into here.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, HeaderName};

use crate::s3::query::{InvalidParameter, Query};
use crate::tokens::invalid_token::InvalidToken;

/// A longer token is refused unread: 16 KiB, twice what common servers take as one header.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Bearer <token>` (RFC 6750, section 2.1).
    Bearer,
    /// The whole value of a header.
    Header(HeaderName),
    /// A parameter of the query string (RFC 6750, section 2.3).
    Query(String),
    /// A cookie (RFC 6265, section 4.2.1).
    Cookie(String),
}

impl Source {
    /// Whether an operator's token may stand here. Query strings end up in logs, and a cookie is
    /// sent by a browser that somebody else's page told to.
    pub fn is_for_operators(&self) -> bool {
        matches!(self, Self::Bearer | Self::Header(_))
    }

    /// Every token that stands here.
    fn tokens_in<'r>(
        &self,
        headers: &'r HeaderMap,
        query: Query<'r>,
    ) -> Result<Vec<Cow<'r, str>>, InvalidToken> {
        let texts =
            |name: &HeaderName| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        let mut tokens: Vec<Cow<'r, str>> = match self {
            Self::Bearer => texts(&AUTHORIZATION)
                .filter_map(|value| {
                    let (scheme, token) = value.trim().split_once(' ')?;
                    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
                })
                .collect(),
            Self::Header(name) => texts(name).map(|value| value.trim().into()).collect(),
            Self::Query(parameter) => match query.value(parameter) {
                Ok(token) => token.into_iter().collect(),
                Err(InvalidParameter::Ambiguous) => return Err(InvalidToken::Conflicting),
                Err(InvalidParameter::NotUtf8) => return Err(InvalidToken::Malformed),
            },
            Self::Cookie(cookie) => texts(&COOKIE)
                .flat_map(|value| value.split(';'))
                .filter_map(|pair| pair.trim().split_once('='))
                .filter(|(name, _)| name == cookie)
                .map(|(_, value)| value.into())
                .collect(),
        };
        tokens.retain(|token| !token.is_empty());
        Ok(tokens)
    }
}

/// The token of the first source that holds one. Two different tokens in one source are refused, because a
/// filter in front of the proxy may have looked at the other one.
pub(crate) fn find<'r>(
    sources: &[Source],
    headers: &'r HeaderMap,
    query: Query<'r>,
) -> Result<Option<Cow<'r, str>>, InvalidToken> {
    for source in sources {
        let mut tokens = source.tokens_in(headers, query)?.into_iter();
        let Some(token) = tokens.next() else { continue };
        if tokens.any(|other| other != token) {
            return Err(InvalidToken::Conflicting);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::TooLarge);
        }
        return Ok(Some(token));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("valid"));
        }
        headers
    }

    fn found(source: Source, pairs: &[(&'static str, &str)], query: &str) -> Option<String> {
        find(&[source], &headers(pairs), Query::new(query)).expect("small").map(Cow::into_owned)
    }

    #[test]
    fn a_token_is_found_where_its_source_says() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(Source::Bearer, &[("authorization", "bearer  abc ")], ""), some("abc"));
        assert_eq!(found(Source::Bearer, &[("authorization", "Basic abc")], ""), None);
        assert_eq!(found(Source::Bearer, &[("authorization", "Bearer")], ""), None);
        assert_eq!(found(Source::Bearer, &[("authorization", "Bearer ")], ""), None);
        let header = || Source::Header(HeaderName::from_static("x-auth-token"));
        assert_eq!(found(header(), &[("x-auth-token", "abc")], ""), some("abc"));
        assert_eq!(found(header(), &[("authorization", "Bearer abc")], ""), None);
        let query = || Source::Query("token".into());
        assert_eq!(found(query(), &[], "a=1&token=a%2Eb"), some("a.b"));
        assert_eq!(found(query(), &[], "token"), None);
        assert_eq!(found(query(), &[], "token=&x"), None);
        assert_eq!(found(query(), &[], "mytoken=a"), None);
        let cookie = || Source::Cookie("session".into());
        assert_eq!(found(cookie(), &[("cookie", "a=b; session=abc; c")], ""), some("abc"));
        assert_eq!(found(cookie(), &[("cookie", "xsession=abc")], ""), None);
    }

    #[test]
    fn the_first_source_that_holds_a_token_decides() {
        let sources = [Source::Bearer, Source::Query("token".into())];
        let token = |pairs, query| {
            find(&sources, &headers(pairs), Query::new(query)).expect("small").map(Cow::into_owned)
        };
        assert_eq!(token(&[("authorization", "Bearer one")], "token=two"), Some("one".into()));
        assert_eq!(token(&[("authorization", "Basic one")], "token=two"), Some("two".into()));
        assert_eq!(token(&[], ""), None);
    }

    #[test]
    fn two_different_tokens_in_one_source_are_refused() {
        let header = || Source::Header(HeaderName::from_static("x-auth-token"));
        for (source, pairs, query) in [
            (Source::Bearer, vec![("authorization", "Bearer a"), ("authorization", "bearer b")], ""),
            (header(), vec![("x-auth-token", "a"), ("x-auth-token", "b")], ""),
            (Source::Query("token".into()), vec![], "token=a&x=y&tok%65n=b"),
            (Source::Cookie("session".into()), vec![("cookie", "session=a; session=b")], ""),
            (Source::Cookie("session".into()), vec![("cookie", "session=a"), ("cookie", "session=b")], ""),
        ] {
            let headers = headers(&pairs);
            assert_eq!(
                find(&[source], &headers, Query::new(query)),
                Err(InvalidToken::Conflicting),
                "{pairs:?} {query}"
            );
        }
        assert_eq!(found(Source::Query("token".into()), &[], "token=a&token=%61"), Some("a".to_owned()));
    }

    #[test]
    fn a_token_of_more_than_16_kib_is_refused_unread() {
        let query = |bytes| format!("token={}", "a".repeat(bytes));
        let sources = [Source::Query("token".into())];
        assert!(find(&sources, &HeaderMap::new(), Query::new(&query(MAX_TOKEN_BYTES))).is_ok());
        assert_eq!(
            find(&sources, &HeaderMap::new(), Query::new(&query(MAX_TOKEN_BYTES + 1))),
            Err(InvalidToken::TooLarge)
        );
    }
}
