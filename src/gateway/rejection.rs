//! Every reason why a client gets an error instead of an object, and the one table of what each of them
//! becomes: status, S3 code, metric label.

use std::time::Duration;

use http::HeaderMap;
use http::header::ACCEPT;
use pingora::{Error, ErrorSource, ErrorType};
use serde_json::json;
use thiserror::Error;

use crate::access::denied::{Denied, Row};
use crate::access::external::Failure;
use crate::answer::Answer;
use crate::gateway::downstream::Malformed;
use crate::routing::InvalidPath;
use crate::s3;

/// The methods of the traffic port, as in an `Allow` header.
pub(super) const METHODS: &str = "GET, HEAD, OPTIONS";

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    #[error("the method is not allowed; use GET, HEAD or OPTIONS")]
    Method,
    #[error("an HTTP/1.1 request needs a Host header")]
    NoHost,
    #[error("a request for an object has no body")]
    Body,
    #[error("{0}")]
    Path(InvalidPath),
    #[error("the query parameter `{0}` must be given once, with a value")]
    Query(&'static str),
    #[error("no bucket is served at this path")]
    NoRoute,
    #[error("the path names no object")]
    NoKey,
    #[error("{0}")]
    Denied(Denied),
    /// The bucket's external authorization service denies the request.
    #[error("the external decision is no")]
    ExternalDenied,
    /// The external authorization service gives no decision.
    #[error("there is no external decision; try again")]
    ExternalFailed(Failure),
    /// Too many log-ins failed from the client's network. Holds the time until the next one is allowed.
    #[error("too many failed log-ins from this network")]
    Throttled(Duration),
    #[error("no credentials for the store have arrived yet, or the last ones have expired")]
    NoCredentials,
    #[error("the store cannot be reached or does not answer as a store")]
    Upstream(UpstreamError),
    /// The store answered with an error. The client gets the store's status and a document of ours.
    #[error("the store refused the request")]
    Store(u16),
    /// A header that Pingora cannot pass on.
    #[error("the request has a header that cannot be passed on")]
    Header,
    /// A header that Pingora would repair, so that other programs would read it in another way.
    #[error("{}", match .0 {
        Malformed::Target => "the target of the request has a space, a control character, a fragment or what is not UTF-8",
        Malformed::LineEnd => "a line of the header does not end in CR LF",
    })]
    Malformed(Malformed),
    #[error("the key is longer than 1,024 bytes")]
    LongKey,
    #[error("the request took longer than it may in all")]
    Overdue,
    #[error("an internal error")]
    Internal,
}

/// A failure between the proxy and the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    /// The host name has no address.
    Resolve,
    /// No connection could be made.
    Connect,
    /// The store's certificate is not trusted, or there is no common version of TLS.
    Tls,
    Timeout,
    /// The connection was reset or closed.
    Reset,
    /// The answer is not valid HTTP.
    Protocol,
    /// A status that has no meaning for a client, or another one than for us.
    Status(u16),
    /// A redirect: the configured region or endpoint is not the bucket's.
    Redirect,
}

impl UpstreamError {
    /// The metric label. None is the end of another one.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Status(_) => "status",
            Self::Redirect => "redirect",
        }
    }
}

impl Rejection {
    /// The table of all rejections.
    #[deny(clippy::wildcard_enum_match_arm, reason = "a new variant must not compile without its row")]
    fn row(&self) -> Row {
        use UpstreamError as U;
        match self {
            Self::Method => Row::new(405, "MethodNotAllowed", "method"),
            Self::NoHost => Row::new(400, "InvalidRequest", "no_host"),
            Self::Body => Row::new(400, "InvalidRequest", "body"),
            Self::Path(_) => Row::new(400, "InvalidURI", "path"),
            Self::Query(_) => Row::new(400, "InvalidArgument", "query"),
            Self::NoRoute => Row::new(404, "NoSuchBucket", "no_route"),
            Self::NoKey => Row::new(404, "NoSuchKey", "no_key"),
            Self::LongKey => Row::new(400, "KeyTooLongError", "long_key"),
            Self::Denied(denied) => denied.row(),
            Self::ExternalDenied => Row::new(403, "AccessDenied", "external_denied"),
            Self::ExternalFailed(_) => Row::new(503, "ServiceUnavailable", "external_failed"),
            Self::Throttled(_) => Row::new(429, "SlowDown", "throttled"),
            Self::NoCredentials => Row::new(503, "ServiceUnavailable", "no_credentials"),
            Self::Upstream(U::Timeout) => Row::new(504, "RequestTimeout", "upstream_timeout"),
            Self::Upstream(
                U::Resolve | U::Connect | U::Tls | U::Reset | U::Protocol | U::Status(_) | U::Redirect,
            ) => Row::new(502, "InternalError", "upstream"),
            Self::Store(status) => Row::new(*status, store_code(*status), "store"),
            Self::Header => Row::new(400, "InvalidRequest", "header"),
            Self::Malformed(Malformed::Target) => Row::new(400, "InvalidURI", "malformed"),
            Self::Malformed(Malformed::LineEnd) => Row::new(400, "InvalidRequest", "malformed"),
            Self::Overdue => Row::new(504, "RequestTimeout", "overdue"),
            Self::Internal => Row::new(500, "InternalError", "internal"),
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.row().status
    }

    /// The metric label, from a closed set.
    pub(crate) fn label(&self) -> &'static str {
        self.row().label
    }

    /// The label and the cause, for the log. A client does not learn the cause of a service's failure.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::ExternalFailed(failure) => format!("{}: {failure}", self.label()),
            other => format!("{}: {other}", self.label()),
        }
    }

    /// The answer for the client, which learns the class and not the cause.
    pub(crate) fn answer(&self, headers: &HeaderMap, request_id: &str) -> Answer {
        let Row { status, code, .. } = self.row();
        let message = match self {
            Self::Store(_) => store_message(code).to_owned(),
            // A client must not learn about our credentials, or that they are missing.
            Self::NoCredentials => "the store cannot be asked now; try again".to_owned(),
            other => other.to_string(),
        };
        let answer = if prefers_json(headers) {
            Answer::json(status, &json!({ "code": code, "message": message, "request_id": request_id }))
        } else {
            Answer::new(status, "application/xml", s3::error::document(code, &message, request_id))
        };
        // Without `Cache-Control` a shared cache may keep a 404 (RFC 9111, section 4.2.2).
        let answer = answer.uncached();
        match self {
            Self::Method => answer.allow(METHODS),
            Self::Denied(denied) => answer.challenge(denied.challenge().as_deref()),
            _ => answer,
        }
    }

    /// The rejection that an error of Pingora's stands for; `None` if the client is gone.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        use ErrorType as T;
        let upstream = match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, T::InvalidHTTPHeader) => return Some(Self::Header),
            (ErrorSource::Downstream, _) => return None,
            (
                ErrorSource::Upstream,
                T::ConnectTimedout | T::TLSHandshakeTimedout | T::ReadTimedout | T::WriteTimedout,
            ) => UpstreamError::Timeout,
            (
                ErrorSource::Upstream,
                T::TLSHandshakeFailure | T::TLSWantX509Lookup | T::InvalidCert | T::HandshakeError,
            ) => UpstreamError::Tls,
            (
                ErrorSource::Upstream,
                T::ConnectRefused | T::ConnectNoRoute | T::ConnectError | T::SocketError | T::BindError,
            ) => UpstreamError::Connect,
            (ErrorSource::Upstream, T::ReadError | T::WriteError | T::ConnectionClosed) => {
                UpstreamError::Reset
            }
            (ErrorSource::Upstream, _) => UpstreamError::Protocol,
            (ErrorSource::Internal | ErrorSource::Unset, _) => return Some(Self::Internal),
        };
        Some(Self::Upstream(upstream))
    }
}

/// The S3 code for a store's status. The store's own code goes to the log only, because it may reveal
/// something about our credentials.
fn store_code(status: u16) -> &'static str {
    match status {
        400 => "InvalidRequest",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        405 => "MethodNotAllowed",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        429 | 503 => "SlowDown",
        _ => "InternalError",
    }
}

fn store_message(code: &str) -> &'static str {
    match code {
        "InvalidRequest" => "the store does not accept the request",
        "AccessDenied" => "the store does not allow it",
        "NoSuchKey" => "no object has this key",
        "MethodNotAllowed" => "the object does not take this method",
        "PreconditionFailed" => "a condition of the request does not hold",
        "InvalidRange" => "the range is outside of the object",
        "SlowDown" => "the store is busy; try again",
        _ => "the store failed",
    }
}

/// Whether `Accept` prefers JSON to XML (RFC 9110, section 12.5.1). Without a preference it is XML, as
/// from S3.
fn prefers_json(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let weight = |types: &[&str]| -> f32 {
        let weights = accept.iter().flat_map(|value| value.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next()?;
            let q = parts.find_map(|parameter| parameter.strip_prefix("q="));
            let named = types.iter().any(|wanted| media_type.eq_ignore_ascii_case(wanted));
            named.then(|| q.map_or(1.0, |q| q.parse().unwrap_or(0.0)))
        });
        weights.fold(0.0, f32::max)
    };
    let json = weight(&["application/json"]);
    json > 0.0 && json >= weight(&["application/xml", "text/xml"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    use crate::access::links::InvalidLink;
    use crate::tokens::invalid_token::InvalidToken;

    #[test]
    fn accept_chooses_the_document() {
        for (accept, json) in [
            ("application/json", true),
            ("application/json, */*", true),
            ("application/xml;q=0.9, application/json", true),
            ("application/xml, application/json;q=0.9", false),
            ("application/json;q=0", false),
            ("*/*", false),
            ("text/html,application/xml;q=0.9,*/*;q=0.8", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(prefers_json(&headers), json, "{accept}");
        }
        assert!(!prefers_json(&HeaderMap::new()));
    }

    #[test]
    fn no_reason_that_may_be_observed_is_the_end_of_another() {
        use Denied as D;
        let denied = [
            D::Token(InvalidToken::Missing),
            D::Token(InvalidToken::Expired),
            D::Token(InvalidToken::Malformed),
            D::Claim { claim: "sub".to_owned() },
            D::Link(InvalidLink::Missing),
            D::Unconfigured,
            D::Network,
            D::Rule,
            D::NoRule,
        ];
        let external = [Rejection::ExternalDenied, Rejection::ExternalFailed(Failure::Paused)];
        let reasons: Vec<_> =
            denied.map(Rejection::Denied).iter().chain(&external).map(Rejection::label).collect();
        for one in &reasons {
            let is_free = |other: &&str| *other == *one || !other.ends_with(one);
            assert!(reasons.iter().all(is_free), "{one}");
        }
    }

    #[test]
    fn no_kind_of_upstream_error_is_the_end_of_another() {
        use UpstreamError as U;
        let kinds =
            [U::Resolve, U::Connect, U::Tls, U::Timeout, U::Reset, U::Protocol, U::Status(401), U::Redirect]
                .map(U::kind);
        for one in kinds {
            assert!(kinds.iter().all(|other| *other == one || !other.ends_with(one)), "{one}");
        }
    }
}
