//! What passes between the client and us: the id of a request, the body of an operator's, our own
//! answers, and the store's answers made ours.

use std::time::Duration;

use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, TRANSFER_ENCODING};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use tokio::time::timeout;

use super::context::{Context, Replacement};
use super::rejection::Rejection;
use crate::admin::Body;
use crate::answer::Answer;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CONFIG_GENERATION: HeaderName = HeaderName::from_static("x-config-generation");

/// For one write of an answer of our own, and for the whole of it.
pub const WRITE: Duration = Duration::from_secs(60);

/// The client's `X-Request-Id` if it is short and plain, else a new one, ordered by time.
pub fn request_id(session: &Session) -> String {
    let is_sane = |id: &str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let given = session.get_header(REQUEST_ID).and_then(|value| value.to_str().ok());
    given.filter(|id| is_sane(id)).map_or_else(|| uuid::Uuid::now_v7().simple().to_string(), str::to_owned)
}

/// The body of an operator's request, up to the limit and within the time for one write.
pub async fn read_body(session: &mut Session) -> Body {
    timeout(WRITE, read_whole(session)).await.unwrap_or(Body::Broken)
}

async fn read_whole(session: &mut Session) -> Body {
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

pub async fn reject(session: &mut Session, ctx: &mut Context, rejection: Rejection) -> Result<()> {
    let answer = rejection.answer(&session.req_header().headers, &ctx.request_id);
    ctx.rejection = Some(rejection);
    write(session, ctx, answer).await
}

/// Writes an answer of our own and leaves the connection fit for the next request.
pub async fn write(session: &mut Session, ctx: &Context, answer: Answer) -> Result<()> {
    let mut header = ResponseHeader::build(answer.status, Some(answer.headers.len() + 4))?;
    for (name, value) in answer.headers {
        header.append_header(name, value)?;
    }
    if answer.status != 204 {
        header.insert_header(CONTENT_TYPE, answer.content_type)?;
        header.insert_header(CONTENT_LENGTH, answer.body.len())?;
    }
    stamp(ctx, &mut header)?;
    let has_body = session.req_header().method != Method::HEAD && !answer.body.is_empty();
    // Pingora has no time limit for headers.
    let written = timeout(WRITE, async {
        session.write_response_header(Box::new(header), !has_body).await?;
        if has_body {
            session.write_response_body(Some(answer.body.into()), true).await?;
        }
        Ok(())
    });
    written.await.unwrap_or_else(|_| Err(Error::new_down(ErrorType::WriteTimedout)))
}

/// What every answer carries.
pub fn stamp(ctx: &Context, response: &mut ResponseHeader) -> Result<()> {
    response.insert_header(REQUEST_ID, ctx.request_id.as_str())?;
    if ctx.generation.config.server.generation_header {
        response.insert_header(CONFIG_GENERATION, ctx.generation.number)?;
    }
    Ok(())
}

pub fn keep_only(response: &mut ResponseHeader, passes: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<HeaderName> = response.headers.keys().filter(|name| !passes(name)).cloned().collect();
    for name in dropped {
        response.remove_header(&name);
    }
}

/// Turns the store's answer into ours: its document names the bucket, the key and more.
pub fn replace(
    session: &Session,
    ctx: &mut Context,
    response: &mut ResponseHeader,
    rejection: Rejection,
) -> Result<()> {
    // A store that sends no body leaves no moment at which ours could be sent.
    let is_empty = response.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    let answer = rejection.answer(&session.req_header().headers, &ctx.request_id);
    keep_only(response, |name| matches!(name.as_str(), "retry-after" | "allow") || *name == CONTENT_RANGE);
    response.set_status(answer.status)?;
    response.remove_header(&TRANSFER_ENCODING);
    if session.req_header().method != Method::HEAD {
        let length = if is_empty { 0 } else { answer.body.len() };
        response.insert_header(CONTENT_LENGTH, length)?;
    }
    response.insert_header(CONTENT_TYPE, answer.content_type)?;
    ctx.replacement = Replacement::Pending(answer.body.into());
    ctx.rejection = Some(rejection);
    Ok(())
}
