//! An HTTP answer that the program makes itself, instead of passing on the store's.

use http::HeaderValue;
use http::header::{ALLOW, CACHE_CONTROL, ETAG, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, headers: Vec::new(), content_type, body }
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", format!("{body}\n"))
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.to_owned())
    }

    /// Lists the methods that the resource takes (RFC 9110, section 10.2.1).
    pub(crate) fn allow(self, methods: &'static str) -> Self {
        self.with(ALLOW, HeaderValue::from_static(methods))
    }

    /// Tells the client how to authenticate (RFC 6750, section 3).
    pub(crate) fn challenge(self, challenge: Option<&str>) -> Self {
        match challenge.map(HeaderValue::from_str) {
            None => self,
            Some(Ok(challenge)) => self.with(WWW_AUTHENTICATE, challenge),
            Some(Err(_)) => self.with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        }
    }

    /// Names the version of the body (RFC 9110, section 8.8.3). `tag` needs no escaping.
    pub(crate) fn etag(self, tag: &str) -> Self {
        match HeaderValue::from_str(&format!("\"{tag}\"")) {
            Ok(tag) => self.with(ETAG, tag),
            Err(_) => self,
        }
    }

    /// Tells the client to wait before it tries again (RFC 9110, section 10.2.3).
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.with(RETRY_AFTER, seconds.into())
    }

    /// Forbids every cache to keep the answer.
    pub(crate) fn uncached(self) -> Self {
        self.with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}
