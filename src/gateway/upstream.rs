//! From an admission to the request that is written to the store, and what of the answer comes back.

use std::time::{Duration, SystemTime};

use http::header::{
    AUTHORIZATION, DATE, HOST, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::admission::Admission;
use crate::config::Bucket;
use crate::s3::sigv4::Request;

/// The client's headers that reach the store, beside those that the signature needs.
const PASSED: [HeaderName; 6] =
    [RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// The request as the store gets it, signed over exactly what is sent. Made from nothing, so that
/// what the client sent reaches the store only where it is named here.
pub fn signed_request(
    client: &RequestHeader,
    bucket: &Bucket,
    admission: &Admission,
    now: SystemTime,
) -> Result<RequestHeader> {
    let Bucket { store, signer, .. } = bucket;
    let method = &client.method;
    let path = store.path_of(admission.key());
    let query = admission.query();
    let signatory = admission.signatory();
    let to_sign = Request { method: method.as_str(), path: &path, query, host: store.authority() };
    let signed = signer.sign(to_sign, signatory, now);
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    // Pingora writes each name in one way then, instead of keeping a second map of how to write it.
    let mut request = RequestHeader::build_no_case(method.clone(), target.as_bytes(), Some(12))?;
    request.insert_header(HOST, store.authority())?;
    request.insert_header(AMZ_DATE, signed.date)?;
    request.insert_header(AMZ_CONTENT_SHA256, signed.payload_hash)?;
    if let Some(token) = &signatory.credentials.session_token {
        request.insert_header(AMZ_SECURITY_TOKEN, token.expose())?;
    }
    request.insert_header(AUTHORIZATION, signed.authorization)?;
    for (name, value) in client.headers.iter().filter(|(name, _)| PASSED.contains(name)) {
        request.append_header(name.clone(), value.clone())?;
    }
    Ok(request)
}

/// By how many seconds our clock is ahead of the store's, as far as the store says.
pub fn clock_ahead(response: &ResponseHeader, now: SystemTime) -> Option<i64> {
    let theirs = httpdate::parse_http_date(response.headers.get(DATE)?.to_str().ok()?).ok()?;
    let seconds = |since: Duration| i64::try_from(since.as_secs()).ok();
    match now.duration_since(theirs) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => seconds(behind.duration()).map(|seconds| -seconds),
    }
}

/// Whether a header of the store's answer reaches the client.
pub fn is_passed_back(name: &HeaderName) -> bool {
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
