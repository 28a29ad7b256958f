//! From an admission to the request that is written to the store, and what of the answer comes back.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CONNECTION, DATE, HOST, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, InvalidHeaderValue, RANGE,
};
use http::uri::PathAndQuery;
use pingora::http::RequestHeader;
use pingora::{ErrorType, OrErr, Result};

use crate::config::Bucket;
use crate::gateway::admission::Admission;
use crate::s3::sign::Unsigned;

/// The client's headers that reach the store, beside those that the signature needs.
const PASSED: [HeaderName; 6] =
    [RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

/// What a request to a store has with a conditional header or two.
const USUAL_HEADERS: usize = 8;

const INVALID: ErrorType = ErrorType::InvalidHTTPHeader;

const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// The request as the store gets it, signed over exactly what is sent. Made from nothing, so that
/// what the client sent reaches the store only where it is named here.
pub fn signed_request(
    client: &RequestHeader,
    admission: &Admission,
    now: SystemTime,
) -> Result<RequestHeader> {
    let Bucket { store, region, .. } = admission.bucket();
    let method = &client.method;
    let path = store.path_of(admission.key());
    let query = admission.query();
    let signer = admission.signer();
    let unsigned = Unsigned { method: method.as_str(), path: &path, query, host: store.authority() };
    let signed = signer.sign(unsigned, region, now);
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    // Pingora's own ways to set a header parse its name each time, and keep a second map of how it was
    // written.
    let (mut request, ()) = http::Request::new(()).into_parts();
    request.method = method.clone();
    request.uri = PathAndQuery::try_from(target).or_err(INVALID, "the path to sign")?.into();
    let headers = &mut request.headers;
    headers.reserve(USUAL_HEADERS);
    headers.insert(HOST, header_value(store.authority())?);
    headers.insert(AMZ_DATE, header_value(signed.date)?);
    headers.insert(AMZ_CONTENT_SHA256, signed.payload_hash);
    if let Some(token) = &signer.credentials().session_token {
        headers.insert(AMZ_SECURITY_TOKEN, header_value(token.expose())?);
    }
    headers.insert(AUTHORIZATION, header_value(signed.authorization)?);
    for (name, value) in client.headers.iter().filter(|(name, _)| PASSED.contains(name)) {
        if !is_for_this_hop(&client.headers, name) {
            headers.append(name.clone(), value.clone());
        }
    }
    Ok(request.into())
}

/// Whether the client's `Connection` names a header, which then goes no further (RFC 9110, section 7.6.1).
fn is_for_this_hop(headers: &HeaderMap, name: &HeaderName) -> bool {
    let options = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    options.into_iter().any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
}

fn header_value<T>(text: T) -> Result<HeaderValue>
where
    HeaderValue: TryFrom<T, Error = InvalidHeaderValue>,
{
    HeaderValue::try_from(text).or_err(INVALID, "a header to sign")
}

/// By how many seconds our clock is ahead of the store's, as far as the store says.
pub(crate) fn clock_ahead(answer: &HeaderMap, now: SystemTime) -> Option<i64> {
    let theirs = httpdate::parse_http_date(answer.get(DATE)?.to_str().ok()?).ok()?;
    let seconds = |since: Duration| i64::try_from(since.as_secs()).ok();
    match now.duration_since(theirs) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => seconds(behind.duration()).map(|seconds| -seconds),
    }
}

/// Whether a header of the store's answer reaches the client.
pub(crate) fn is_passed_back(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "etag"
            | "last-modified"
            | "cache-control"
            | "expires"
            | "accept-ranges"
            | "retry-after"
            | "transfer-encoding"
            | "x-amz-version-id"
            | "x-amz-mp-parts-count"
    ) || name.starts_with("content-")
        || name.starts_with("x-amz-meta-")
}
