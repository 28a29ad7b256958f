//! From an admission to the store: the peer to connect to, and the request that is written to it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{
    AUTHORIZATION, DATE, HOST, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{WrappedX509, parse_x509};

use super::admission::Admission;
use crate::config::Bucket;
use crate::s3::sigv4::Request;
use crate::s3::{Endpoint, Scheme};

/// The client's headers that reach the store, beside those that the signature needs.
const PASSED: [HeaderName; 6] =
    [RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// The store of a bucket at one of its addresses. `remaining` is what is left of the total time.
pub fn peer(bucket: &Bucket, address: IpAddr, remaining: Duration, authorities: &Authorities) -> HttpPeer {
    let endpoint = bucket.store.endpoint();
    let mut peer = peer_at(endpoint, address);
    let timeouts = bucket.timeouts;
    let within = |timeout: Duration| Some(timeout.min(remaining));
    peer.options.connection_timeout = within(timeouts.connect);
    peer.options.total_connection_timeout = within(timeouts.connect);
    peer.options.read_timeout = within(timeouts.read);
    peer.options.write_timeout = within(timeouts.write);
    peer.options.idle_timeout = Some(timeouts.idle);
    let roots = &bucket.trust.roots;
    if endpoint.scheme == Scheme::Https && !roots.is_empty() {
        // Pingora's pool does not look at the roots, so connections made under others must be told
        // apart by us.
        let (group, certificates) = authorities.of(roots);
        peer.group_key = group;
        peer.options.ca = Some(certificates);
    }
    peer
}

/// A server at one of its addresses, without limits of time.
pub fn peer_at(endpoint: &Endpoint, address: IpAddr) -> HttpPeer {
    let tls = endpoint.scheme == Scheme::Https;
    // Pingora takes an empty server name for leave to verify nothing; a host is never empty.
    let server_name = if tls { endpoint.host.server_name() } else { String::new() };
    let mut peer = HttpPeer::new(SocketAddr::new(address, endpoint.port), tls, server_name);
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    peer
}

/// The certificates of every `ca_file`, parsed once.
#[derive(Default)]
pub struct Authorities(Mutex<HashMap<Vec<Vec<u8>>, Certificates>>);

type Certificates = (u64, Arc<CaType>);

impl Authorities {
    /// A number that stands for the roots, and the roots as Pingora wants them.
    fn of(&self, roots: &[Vec<u8>]) -> Certificates {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(roots) {
            return found.clone();
        }
        let mut hasher = DefaultHasher::new();
        roots.hash(&mut hasher);
        let parsed = roots.iter().map(|der| WrappedX509::new(der.clone(), parse_x509)).collect();
        let certificates = (hasher.finish(), parsed);
        known.insert(roots.to_vec(), certificates.clone());
        certificates
    }
}

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
