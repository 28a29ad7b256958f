//! The decision about a request for an object: which bucket, which object, may it be read.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Version};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::external::{Decision, Failure};
use super::rejection::Rejection;
use crate::auth::links::Object;
use crate::auth::{Principal, policy};
use crate::config::{Bucket, External};
use crate::generation::Generation;
use crate::routing::{self, InvalidPath};
use crate::s3::key::{ObjectKey, encode_query_value};
use crate::s3::sigv4::Signatory;

/// Permission to read one object, and everything needed to ask the store for it. Only [`admit`]
/// makes one, perhaps inside of a [`Question`], and nothing is signed without one.
#[derive(Debug)]
pub struct Admission {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    /// Sorted and encoded, as signed and as sent.
    query: String,
    /// Who signs every attempt, whatever is renewed meanwhile.
    signatory: Arc<Signatory>,
}

impl Admission {
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub fn shared_bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub fn query(&self) -> &str {
        &self.query
    }

    pub fn signatory(&self) -> &Signatory {
        &self.signatory
    }
}

/// What [`admit`] finds about a request that it does not refuse.
#[derive(Debug)]
pub enum Verdict {
    Admitted(Admission),
    /// It may be read if a service says so.
    Asks(Question),
}

/// What a service is to decide. Holds the admission, and gives it out for a yes alone.
#[derive(Debug)]
pub struct Question {
    admission: Admission,
    external: Arc<External>,
    text: String,
}

impl Question {
    fn about(
        admission: Admission,
        external: &Arc<External>,
        request: &policy::Request<'_>,
        principal: &Principal,
    ) -> Self {
        // The form of Open Policy Agent's data API. What opened the door, a token or a signature, is not
        // in it.
        let input = json!({
            "method": request.method.as_str(),
            "bucket": *admission.bucket.name,
            "key": request.key,
            "query": admission.query,
            "claims": *principal.claims,
            "address": request.address,
        });
        Self { admission, external: external.clone(), text: json!({ "input": input }).to_string() }
    }

    /// The operator's name of the bucket that it is about.
    pub fn bucket(&self) -> &str {
        &self.admission.bucket.name
    }

    pub fn external(&self) -> &External {
        &self.external
    }

    /// The JSON for the service.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn answered(self, decision: Result<Decision, Failure>) -> Result<Admission, Refusal> {
        let rejection = match decision {
            Ok(decision) if decision.allows => return Ok(self.admission),
            Ok(_) => Rejection::ExternalDenied,
            Err(failure) => Rejection::ExternalFailed(failure),
        };
        Err(Refusal { bucket: Some(self.admission.bucket), rejection })
    }
}

/// The longest key of an object (Amazon S3 User Guide, "Naming Amazon S3 objects").
const MAX_KEY_BYTES: usize = 1024;

/// A rejection, and the bucket that the request belongs to when that was known by then.
#[derive(Debug)]
pub struct Refusal {
    pub bucket: Option<Arc<Bucket>>,
    pub rejection: Rejection,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self { bucket: None, rejection }
    }
}

/// Decides; touches no socket, clock or counter.
///
/// `address` is the client's, where it is known.
pub fn admit(
    generation: &Generation,
    request: &Parts,
    address: Option<IpAddr>,
    now: SystemTime,
) -> Result<Verdict, Refusal> {
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(Rejection::Method.into());
    }
    if request.version == Version::HTTP_11 && !request.headers.contains_key(HOST) {
        return Err(Rejection::NoHost.into());
    }
    let path = routing::decode(request.uri.path()).map_err(Rejection::Path)?;
    let (bucket, key) = generation.config.routes.find(&path).ok_or(Rejection::NoRoute)?;
    read(bucket, &path, key, request, address, now)
        .map_err(|rejection| Refusal { bucket: Some(bucket.clone()), rejection })
}

/// Whether an object of a bucket may be read.
fn read(
    bucket: &Arc<Bucket>,
    path: &str,
    key: &str,
    request: &Parts,
    address: Option<IpAddr>,
    now: SystemTime,
) -> Result<Verdict, Rejection> {
    let query = request.uri.query().unwrap_or_default();
    // No store can have it; it takes long to compare, and it grows threefold when it is encoded.
    if key.len() > MAX_KEY_BYTES {
        return Err(Rejection::LongKey);
    }
    // Some stores merge slashes, and would serve what a rule for another key is about.
    let depends_on_key = bucket.policy.readers.depend_on_key() || bucket.external.is_some();
    if depends_on_key && (key.starts_with('/') || key.contains("//")) {
        return Err(Rejection::Path(InvalidPath::EmptySegment));
    }
    let asked = policy::Request {
        method: &request.method,
        object: Object { bucket: &bucket.name, path },
        key,
        headers: &request.headers,
        query,
        address,
    };
    let principal = bucket.policy.authorize(&asked, now).map_err(Rejection::Denied)?;
    if has_body(request) {
        return Err(Rejection::Body);
    }
    // The bucket itself would answer with a listing.
    if key.is_empty() {
        return Err(Rejection::NoKey);
    }
    let admission = Admission {
        bucket: bucket.clone(),
        key: ObjectKey::new(key.to_owned()),
        query: canonical_query(query)?,
        signatory: bucket.signer.identity().signatory(now).ok_or(Rejection::NoCredentials)?,
    };
    Ok(match &bucket.external {
        None => Verdict::Admitted(admission),
        Some(external) => Verdict::Asks(Question::about(admission, external, &asked, &principal)),
    })
}

/// A body on a GET has no meaning (RFC 9110, section 9.3.1), and what no one expects is how requests
/// are smuggled.
fn has_body(request: &Parts) -> bool {
    request.headers.contains_key(TRANSFER_ENCODING)
        || request.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Keeps the parameters that choose among versions and parts of an object, in canonical form.
fn canonical_query(query: &str) -> Result<String, Rejection> {
    let mut canonical = String::new();
    if query.is_empty() {
        return Ok(canonical);
    }
    // In the order in which they are signed.
    for name in ["partNumber", "versionId"] {
        let mut values = query.split('&').filter_map(|pair| {
            let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode_str(found).decode_utf8().ok()? == name).then_some(value)
        });
        let Some(value) = values.next() else { continue };
        let value = percent_decode_str(value).decode_utf8().map_err(|_| Rejection::Query(name))?;
        if values.next().is_some() || value.is_empty() {
            return Err(Rejection::Query(name));
        }
        let separator = if canonical.is_empty() { "" } else { "&" };
        write!(canonical, "{separator}{name}={}", encode_query_value(&value))
            .expect("writing to a String cannot fail");
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_and_parts_are_asked_for() {
        for (query, canonical) in [
            ("", ""),
            ("list-type=2&prefix=a&uploads&acl", ""),
            ("versionId=a/b+c&x=1&partNumber=2", "partNumber=2&versionId=a%2Fb%2Bc"),
            ("%76ersionId=a%20b", "versionId=a%20b"),
            ("versionid=a&token=secret", ""),
        ] {
            assert_eq!(canonical_query(query).as_deref().ok(), Some(canonical), "{query}");
        }
        for query in ["versionId=a&versionId=b", "versionId", "partNumber=", "versionId=%FF"] {
            assert!(canonical_query(query).is_err(), "{query}");
        }
    }
}
