//! An HTTP answer that the program makes itself, instead of passing on the store's.

use http::HeaderValue;
use http::header::{ALLOW, CACHE_CONTROL, ETAG, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub content_type: &'static str,
    pub body: String,
}

impl Answer {
    pub fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, headers: Vec::new(), content_type, body }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", format!("{body}\n"))
    }

    pub fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.to_owned())
    }

    /// The methods that the resource takes (RFC 9110, section 10.2.1).
    pub fn allow(self, methods: &'static str) -> Self {
        self.with(ALLOW, HeaderValue::from_static(methods))
    }

    /// How to authenticate (RFC 6750, section 3).
    pub fn challenge(self, challenge: Option<&str>) -> Self {
        match challenge.map(HeaderValue::from_str) {
            None => self,
            Some(Ok(challenge)) => self.with(WWW_AUTHENTICATE, challenge),
            Some(Err(_)) => self.with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        }
    }

    /// What the answer is a version of (RFC 9110, section 8.8.3). `tag` is of a safe alphabet.
    pub fn etag(self, tag: &str) -> Self {
        match HeaderValue::from_str(&format!("\"{tag}\"")) {
            Ok(tag) => self.with(ETAG, tag),
            Err(_) => self,
        }
    }

    /// When it is worth trying again (RFC 9110, section 10.2.3).
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with(RETRY_AFTER, seconds.into())
    }

    /// Not to be kept by any cache.
    pub fn uncached(self) -> Self {
        self.with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}
