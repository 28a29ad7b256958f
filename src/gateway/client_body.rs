//! The body of a client's request: read for an operator's endpoint, unwanted everywhere else.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use pingora::proxy::Session;
use tokio::time::timeout;

use crate::gateway::answering::WRITE;
use crate::gateway::downstream::Expected;
use crate::operators::Body;

/// How long a client may take to finish a request body that nobody wants, before its connection is
/// given up instead of reused.
const UNWANTED_BODY: Duration = Duration::from_secs(5);

/// The part of a request after its header, as its framing says (RFC 9112, section 6.3).
pub(super) fn announced(request: &Parts) -> Expected {
    if request.headers.contains_key(TRANSFER_ENCODING) {
        return Expected::Body(None);
    }
    match request.headers.get(CONTENT_LENGTH) {
        None => Expected::Nothing,
        // Pingora has refused what is no length. A length that stands there twice is treated as unknown.
        Some(length) => Expected::Body(length.to_str().ok().and_then(|length| length.parse().ok())),
    }
}

/// The body of an operator's request, up to the limit and within the time for one write.
pub(super) async fn read_body(session: &mut Session) -> Body {
    timeout(WRITE, read_whole(session)).await.unwrap_or(Body::Broken)
}

async fn read_whole(session: &mut Session) -> Body {
    if waits_for_consent(session) && session.as_downstream_mut().write_continue_response().await.is_err() {
        return Body::Broken;
    }
    let mut body = Vec::new();
    loop {
        match session.as_downstream_mut().read_request_body().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > Body::MAX_BYTES => return Body::TooLarge,
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Body::Whole(body),
            Err(_) => return Body::Broken,
        }
    }
}

/// A body that a request announced and nobody has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwanted {
    /// There is none.
    None,
    /// It is read and dropped, so that the connection is good for the next request.
    Drained,
    /// The client may send it or not, so the connection ends.
    NeverAsked,
}

/// Prepares the connection for an answer of ours.
pub(super) fn before_answer(session: &mut Session) -> Unwanted {
    if session.as_downstream_mut().is_body_done() {
        Unwanted::None
    } else if waits_for_consent(session) {
        // A client that was refused may send its next request where the body would stand, or the body all
        // the same (RFC 9110, section 10.1.1).
        session.set_keepalive(None);
        Unwanted::NeverAsked
    } else {
        Unwanted::Drained
    }
}

/// Reads and drops a body after the answer has gone out.
pub(super) async fn after_answer(session: &mut Session, unwanted: Unwanted) {
    if unwanted == Unwanted::Drained {
        let drained = timeout(UNWANTED_BODY, session.as_downstream_mut().drain_request_body()).await;
        if !matches!(drained, Ok(Ok(()))) {
            session.set_keepalive(None);
        }
    }
}

/// Whether the client sends the body of its request only when it hears that it may. HTTP/1.0 knows no such
/// thing.
fn waits_for_consent(session: &Session) -> bool {
    let request = session.req_header();
    request.version == http::Version::HTTP_11
        && request
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
