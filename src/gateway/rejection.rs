//! Every reason to say no, and the one table of what each becomes: status, S3 code, metric label.

use std::time::Duration;

use http::HeaderMap;
use http::header::ACCEPT;
use pingora::{Error, ErrorSource, ErrorType};
use serde_json::json;
use thiserror::Error;

use crate::access::denied::Denied;
use crate::access::external::Failure;
use crate::answer::Answer;
use crate::gateway::downstream::Malformed;
use crate::routing::InvalidPath;
use crate::s3;
use crate::tokens::invalid_token::InvalidToken;

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
    /// The service that decides about the bucket's requests says no.
    #[error("the external decision is no")]
    ExternalDenied,
    /// It says nothing that could be understood.
    #[error("there is no external decision; try again")]
    ExternalFailed(Failure),
    /// Too many failed log-ins came from the client's network; how long it has to wait.
    #[error("too many failed log-ins from this network")]
    Throttled(Duration),
    #[error("no credentials for the store have arrived yet, or the last ones have expired")]
    NoCredentials,
    #[error("the store cannot be reached or does not answer as a store")]
    Upstream(UpstreamError),
    /// The store answered with an error of its own; its status goes to the client.
    #[error("the store refused the request")]
    Store(u16),
    /// A header that Pingora cannot pass on.
    #[error("the request has a header that cannot be passed on")]
    Header,
    /// A header that Pingora would have mended, so that others read it in another way.
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

/// What went wrong between the proxy and the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    /// The host name has no address.
    Resolve,
    /// No connection.
    Connect,
    /// No trust in the store's certificate, or no common version.
    Tls,
    Timeout,
    /// The connection broke.
    Reset,
    /// Not HTTP.
    Protocol,
    /// A status that means nothing to a client, or something else than to us.
    Status(u16),
    /// The store says that the bucket is elsewhere; the region or the endpoint is wrong.
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
    /// Status, S3 error code and metric label of every rejection.
    fn answer_row(&self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Method => (405, "MethodNotAllowed", "method"),
            Self::NoHost => (400, "InvalidRequest", "no_host"),
            Self::Body => (400, "InvalidRequest", "body"),
            Self::Path(_) => (400, "InvalidURI", "path"),
            Self::Query(_) => (400, "InvalidArgument", "query"),
            Self::NoRoute => (404, "NoSuchBucket", "no_route"),
            Self::NoKey => (404, "NoSuchKey", "no_key"),
            Self::Denied(denied) => match denied {
                Denied::Token(InvalidToken::Missing) => (401, "AccessDenied", "no_token"),
                Denied::Token(InvalidToken::Expired) => (401, "AccessDenied", "expired"),
                Denied::Claim { .. } => (403, "AccessDenied", "claim"),
                Denied::Link(_) => (403, "AccessDenied", "link"),
                Denied::Unconfigured => (403, "AccessDenied", "unconfigured"),
                Denied::Network => (403, "AccessDenied", "network"),
                Denied::Rule => (403, "AccessDenied", "deny_rule"),
                Denied::NoRule => (403, "AccessDenied", "unmatched"),
                Denied::Token(_) => (401, "AccessDenied", "bad_token"),
            },
            Self::ExternalDenied => (403, "AccessDenied", "external_denied"),
            Self::ExternalFailed(_) => (503, "ServiceUnavailable", "external_failed"),
            Self::Throttled(_) => (429, "SlowDown", "throttled"),
            Self::NoCredentials => (503, "ServiceUnavailable", "no_credentials"),
            Self::Upstream(UpstreamError::Timeout) => (504, "RequestTimeout", "upstream_timeout"),
            Self::Upstream(_) => (502, "InternalError", "upstream"),
            Self::Store(status) => (*status, store_code(*status), "store"),
            Self::Header => (400, "InvalidRequest", "header"),
            Self::Malformed(Malformed::Target) => (400, "InvalidURI", "malformed"),
            Self::Malformed(Malformed::LineEnd) => (400, "InvalidRequest", "malformed"),
            Self::LongKey => (400, "KeyTooLongError", "long_key"),
            Self::Overdue => (504, "RequestTimeout", "overdue"),
            Self::Internal => (500, "InternalError", "internal"),
        }
    }

    pub fn status(&self) -> u16 {
        self.answer_row().0
    }

    /// The metric label, from a closed set.
    pub fn label(&self) -> &'static str {
        self.answer_row().2
    }

    /// The label and the cause, for the log. The client learns less of a service's failure.
    pub fn in_words(&self) -> String {
        match self {
            Self::ExternalFailed(failure) => format!("{}: {failure}", self.label()),
            other => format!("{}: {other}", self.label()),
        }
    }

    /// The document for the client, which learns the class and not the cause.
    pub fn answer(&self, headers: &HeaderMap, request_id: &str) -> Answer {
        let (status, code, _) = self.answer_row();
        let message = match self {
            Self::Store(_) => store_message(code).to_owned(),
            // The credentials are not the client's, nor is that they are missing.
            Self::NoCredentials => "the store cannot be asked now; try again".to_owned(),
            other => other.to_string(),
        };
        let answer = if prefers_json(headers) {
            Answer::json(status, &json!({ "code": code, "message": message, "request_id": request_id }))
        } else {
            Answer::new(status, "application/xml", s3::error::document(code, &message, request_id))
        };
        // Without a word about it a shared cache may keep "no such key" (RFC 9111, section 4.2.2).
        let answer = answer.uncached();
        match self {
            Self::Method => answer.allow(METHODS),
            Self::Denied(denied) => answer.challenge(denied.challenge().as_deref()),
            _ => answer,
        }
    }

    /// What an error of Pingora's means for the client; `None` when the client is gone.
    pub fn of(error: &Error) -> Option<Self> {
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

/// The S3 code of a status that a store answered with. The store's own code stays in the log: it may
/// tell of the credentials, which are not the client's.
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

/// Whether `Accept` puts JSON above XML (RFC 9110, section 12.5.1). XML is S3's own.
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
