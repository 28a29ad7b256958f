//! The client's side of a request: the id of a request, our own answers, and the store's answers
//! made ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::response::Parts;
use http::{Method, Response, StatusCode};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::time::timeout;
use uuid::{NoContext, Timestamp, Uuid};

use crate::answer::Answer;
use crate::gateway::client_body;
use crate::gateway::context::{Context, Replacement};
use crate::gateway::rejection::Rejection;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CONFIG_GENERATION: HeaderName = HeaderName::from_static("x-config-generation");

/// What we and Pingora add to an answer of a store.
const ADDED_HEADERS: usize = 4;

/// For one write of an answer of our own, and for the whole of it.
pub(super) const WRITE: Duration = Duration::from_secs(60);

/// The client's `X-Request-Id` if it is short and plain, else a new one, ordered by the time it was received.
pub(super) fn request_id(session: &Session, received: SystemTime) -> String {
    let is_sane = |id: &str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let given = session.get_header(REQUEST_ID).and_then(|value| value.to_str().ok());
    let fresh = || {
        let since_1970 = received.duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = Timestamp::from_unix(NoContext, since_1970.as_secs(), since_1970.subsec_nanos());
        Uuid::new_v7(timestamp).simple().to_string()
    };
    given.filter(|id| is_sane(id)).map_or_else(fresh, str::to_owned)
}

pub(super) async fn reject(session: &mut Session, ctx: &mut Context, rejection: Rejection) -> Result<()> {
    let answer = rejection.answer(&session.req_header().headers, &ctx.request_id);
    ctx.rejection = Some(rejection);
    write(session, ctx, answer).await
}

/// Writes an answer of our own and leaves the connection fit for the next request.
pub(super) async fn write(session: &mut Session, ctx: &Context, answer: Answer) -> Result<()> {
    let mut header = blank();
    header.status = StatusCode::from_u16(answer.status).or_err(ErrorType::InternalError, "the status")?;
    header.headers.extend(answer.headers);
    if answer.status != StatusCode::NO_CONTENT {
        header.headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        header.headers.insert(CONTENT_LENGTH, answer.body.len().into());
    }
    stamp(ctx, &mut header.headers)?;
    let unwanted = client_body::before_answer(session);
    let has_body = session.req_header().method != Method::HEAD && !answer.body.is_empty();
    // Pingora has no time limit for headers.
    let written = timeout(WRITE, async {
        session.write_response_header(Box::new(header.into()), !has_body).await?;
        if has_body {
            session.write_response_body(Some(answer.body.into()), true).await?;
        }
        Ok(())
    });
    written.await.unwrap_or_else(|_| Err(Error::new_down(ErrorType::WriteTimedout)))?;
    client_body::after_answer(session, unwanted).await;
    Ok(())
}

/// Takes a header to change it. Pingora's own ways to do so parse each name, and keep a second map of how
/// it was written.
pub(super) fn take(response: &mut ResponseHeader) -> Parts {
    std::mem::replace(response, blank().into()).into()
}

fn blank() -> Parts {
    Response::new(()).into_parts().0
}

/// What every answer carries.
pub(super) fn stamp(ctx: &Context, headers: &mut HeaderMap) -> Result<()> {
    let id = HeaderValue::from_str(&ctx.request_id).or_err(ErrorType::InternalError, "the request's id")?;
    headers.insert(REQUEST_ID, id);
    if ctx.generation.config.server.generation_header {
        headers.insert(CONFIG_GENERATION, ctx.generation.number.into());
    }
    Ok(())
}

pub(super) fn keep_only(headers: &mut HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    let all = std::mem::take(headers);
    headers.reserve(all.len() + ADDED_HEADERS);
    let mut kept = None;
    for (name, value) in all {
        // Further values of one name come without it.
        kept = name.map_or(kept, |name| passes(&name).then_some(name));
        if let Some(name) = &kept {
            headers.append(name.clone(), value);
        }
    }
}

/// Turns the store's answer into ours: its document names the bucket, the key and more.
pub(super) fn replace(
    session: &Session,
    ctx: &mut Context,
    response: &mut Parts,
    rejection: Rejection,
) -> Result<()> {
    let headers = &mut response.headers;
    // A store that sends no body leaves no moment at which ours could be sent.
    let is_empty = headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    let answer = rejection.answer(&session.req_header().headers, &ctx.request_id);
    keep_only(headers, |name| [RETRY_AFTER, ALLOW, CONTENT_RANGE].contains(name));
    if session.req_header().method != Method::HEAD {
        let length = if is_empty { 0 } else { answer.body.len() };
        headers.insert(CONTENT_LENGTH, length.into());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.extend(answer.headers);
    response.status = StatusCode::from_u16(answer.status).or_err(ErrorType::InternalError, "the status")?;
    ctx.replacement = Replacement::Pending(answer.body.into());
    ctx.rejection = Some(rejection);
    Ok(())
}
