//! The decision about a request for an object: which bucket, which object, may it be read.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Version;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use serde_json::json;

use crate::access::denied::Denied;
use crate::access::external::{Decision, External, Failure};
use crate::access::links::Object;
use crate::access::policy::AccessRequest;
use crate::access::rules::Mode;
use crate::config::Bucket;
use crate::gateway::rejection::Rejection;
use crate::generation::Generation;
use crate::routing::{self, InvalidPath};
use crate::s3::key::{ObjectKey, encode_query_value};
use crate::s3::operation::Operation;
use crate::s3::query::Query;
use crate::s3::sign::Signer;
use crate::tokens::invalid_token::InvalidToken;
use crate::tokens::principal::Principal;

/// Permission to read one object, and everything needed to ask the store for it. Only [`admit`]
/// makes one, perhaps inside of a [`Question`], and nothing is signed without one.
#[derive(Debug)]
pub struct Admission {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    /// Sorted and encoded, as signed and as sent.
    query: String,
    /// Who signs every attempt, whatever is renewed meanwhile.
    signer: Arc<Signer>,
    /// The refusal that the client would have got if nothing of the bucket were observed only.
    would_refuse: Option<Rejection>,
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

    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    pub fn would_refuse(&self) -> Option<&Rejection> {
        self.would_refuse.as_ref()
    }
}

/// A request that [`admit`] does not reject.
#[derive(Debug)]
pub enum Admitted {
    Outright(Admission),
    /// The bucket's external authorization service decides.
    Pending(Question),
}

impl Admitted {
    /// The refusal that the client would have got so far if nothing were observed only.
    pub fn would_refuse(&self) -> Option<&Rejection> {
        match self {
            Self::Outright(admission) | Self::Pending(Question { admission, .. }) => admission.would_refuse(),
        }
    }
}

/// A question for a service. Holds the admission, and gives it out for a yes alone, unless the
/// bucket's readers are observed only.
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
        request: &AccessRequest<'_>,
        principal: &Principal,
    ) -> Self {
        // The form of Open Policy Agent's data API. What opened the door, a token or a signature, is not
        // in it.
        let input = json!({
            "method": request.operation.method(),
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

    /// The admission after a yes; after anything else too, with what it would have been refused for,
    /// where the bucket's readers are observed only.
    pub fn answered(self, decision: Result<Decision, Failure>) -> Result<Admission, Unadmitted> {
        let rejection = match decision {
            Ok(decision) if decision.allows => return Ok(self.admission),
            Ok(_) => Rejection::ExternalDenied,
            Err(failure) => Rejection::ExternalFailed(failure),
        };
        match self.admission.bucket.policy.mode {
            Mode::Enforce => Err(Unadmitted { bucket: Some(self.admission.bucket), rejection }),
            Mode::Observe => Ok(Admission { would_refuse: Some(rejection), ..self.admission }),
        }
    }
}

/// The longest key of an object (Amazon S3 User Guide, "Naming Amazon S3 objects").
const MAX_KEY_BYTES: usize = 1024;

/// A request that is not admitted. `bucket` is `None` if it was rejected before its route was found.
#[derive(Debug)]
pub struct Unadmitted {
    pub bucket: Option<Arc<Bucket>>,
    pub rejection: Rejection,
}

impl From<Rejection> for Unadmitted {
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
) -> Result<Admitted, Unadmitted> {
    let operation = Operation::of(&request.method).ok_or(Rejection::Method)?;
    if request.version == Version::HTTP_11 && !request.headers.contains_key(HOST) {
        return Err(Rejection::NoHost.into());
    }
    let path = routing::decode(request.uri.path()).map_err(Rejection::Path)?;
    let (bucket, key) = generation.config.routes.find(&path).ok_or(Rejection::NoRoute)?;
    read(bucket, operation, &path, key, request, address, now)
        .map_err(|rejection| Unadmitted { bucket: Some(bucket.clone()), rejection })
}

/// Whether an unknown key of the token decides, so that fetching keys may change the outcome.
pub(crate) fn lacks_a_key(outcome: &Result<Admitted, Unadmitted>) -> bool {
    let rejection = match outcome {
        Ok(admitted) => admitted.would_refuse(),
        Err(unadmitted) => Some(&unadmitted.rejection),
    };
    rejection == Some(&Rejection::Denied(Denied::Token(InvalidToken::UnknownKey)))
}

/// Whether an object of a bucket may be read.
fn read(
    bucket: &Arc<Bucket>,
    operation: Operation,
    path: &str,
    key: &str,
    request: &Parts,
    address: Option<IpAddr>,
    now: SystemTime,
) -> Result<Admitted, Rejection> {
    let query = Query::new(request.uri.query().unwrap_or_default());
    // No store can have it; it takes long to compare, and it grows threefold when it is encoded.
    if key.len() > MAX_KEY_BYTES {
        return Err(Rejection::LongKey);
    }
    // Some stores merge slashes, and would serve what a rule for another key is about.
    let depends_on_key = bucket.policy.readers.depend_on_key() || bucket.external.is_some();
    if depends_on_key && (key.starts_with('/') || key.contains("//")) {
        return Err(Rejection::Path(InvalidPath::EmptySegment));
    }
    let asked = AccessRequest {
        operation,
        object: Object { bucket: &bucket.name, path },
        key,
        headers: &request.headers,
        query,
        address,
    };
    let granted = bucket.policy.authorize(&asked, now).map_err(Rejection::Denied)?;
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
        signer: bucket.identity.signer(now).ok_or(Rejection::NoCredentials)?,
        would_refuse: granted.would_refuse.map(Rejection::Denied),
    };
    // As under enforcement, an observed service is not asked about a request that is refused anyway.
    let is_settled = bucket.policy.mode == Mode::Observe && admission.would_refuse.is_some();
    Ok(match &bucket.external {
        Some(external) if !is_settled => {
            Admitted::Pending(Question::about(admission, external, &asked, &granted.principal))
        }
        _ => Admitted::Outright(admission),
    })
}

/// A body on a GET has no meaning (RFC 9110, section 9.3.1), and what no one expects is how requests
/// are smuggled.
fn has_body(request: &Parts) -> bool {
    request.headers.contains_key(TRANSFER_ENCODING)
        || request.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Keeps the parameters that choose among versions and parts of an object, in canonical form.
fn canonical_query(query: Query<'_>) -> Result<String, Rejection> {
    let mut canonical = String::new();
    if query.is_empty() {
        return Ok(canonical);
    }
    // In the order in which they are signed.
    for name in ["partNumber", "versionId"] {
        let Some(value) = query.value(name).map_err(|_| Rejection::Query(name))? else { continue };
        if value.is_empty() {
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
    use std::time::{Duration, UNIX_EPOCH};

    use http::header::AUTHORIZATION;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use proptest::sample::select;

    use crate::config::stages::Stages;
    use crate::config::{self, Source};
    use crate::generation::Live;
    use crate::secret::Secret;
    use crate::tokens::keys::{Algorithm, mint};

    const SECRET: &str = "a-secret-of-at-least-32-characters";
    const NOW: u64 = 1_800_000_000;

    /// A generation with one bucket at `/f`. `{mode}` in the texts is the word for the mode.
    fn generation(auth: &str, networks: &str, mode: &str) -> Arc<Generation> {
        let text = format!(
            "jwt: {{ secret: {SECRET}, token_sources: [{{ type: bearer }}, {{ type: query, name: t }}] }}
buckets:
- name: f
  path_prefix: /f
  s3: {{ bucket: fff, region: eu-west-1, endpoint: \"http://127.0.0.1\", access_key: AK, secret_key: SK }}
  auth: {auth}
  {networks}
"
        );
        let text = text.replace("{mode}", mode).into_bytes();
        let source = Source::Text { path: "test.yaml".into(), text };
        let config = config::load_from(source, None, &mut Stages::default()).outcome.expect("valid");
        Live::new(Arc::new(config)).current()
    }

    fn bearer(claims: &str) -> String {
        let claims = serde_json::from_str::<serde_json::Value>(claims).expect("JSON");
        let claims = claims.as_object().expect("an object");
        let algorithm = Algorithm::parse("HS256").expect("known");
        let token = mint(algorithm, &Secret::new(SECRET), None, claims).expect("a token");
        format!("Bearer {token}")
    }

    /// The outcome of a request: whether a service is asked, or the rejection; and what was only observed.
    fn outcome(
        generation: &Generation,
        request: &Parts,
        from: IpAddr,
    ) -> (Result<bool, Rejection>, Option<Rejection>) {
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        match admit(generation, request, Some(from), now) {
            Ok(admitted) => (Ok(matches!(admitted, Admitted::Pending(_))), admitted.would_refuse().cloned()),
            Err(unadmitted) => (Err(unadmitted.rejection), None),
        }
    }

    /// Blocks of readers: whole buckets, conditions, links, services, rules of every kind.
    const BLOCKS: [&str; 5] = [
        "{ mode: {mode} }",
        "{ mode: {mode}, claims: [{ claim: role, operator: equals, value: reader }] }",
        "{ mode: {mode}, signed_links: { secret: a-link-secret-of-at-least-32-characters } }",
        "{ mode: {mode}, external: { url: \"http://127.0.0.1\" } }",
        "{ mode: {mode}, signed_links: { secret: a-link-secret-of-at-least-32-characters }, rules: [
            { path: \"open/**\", allow: public }, { path: \"shut/**\", deny: true },
            { path: \"team/**\", claims: [{ claim: role, operator: equals, value: reader }] },
            { path: \"probe/**\", methods: [HEAD] }, { path: \"${claim.sub}/own/**\" }] }",
    ];

    proptest! {
        #[test]
        fn what_an_observed_bucket_would_refuse_is_what_it_refuses_when_it_is_enforced(
            block in select(&BLOCKS[..]),
            networks in select(&["", "allow_networks: [10.0.0.0/8]\n  networks_mode: {mode}"][..]),
            method in select(&["GET", "HEAD", "PUT"][..]),
            key in select(&["a", "open/a", "shut/a", "team/a", "probe/a", "ann/own/a", "bob/own/a", "a//b", ""][..]),
            query in select(&["", "t=nonsense", "versionId=", "signature=00&expires=1", "partNumber=1"][..]),
            claims in select(&[
                None,
                Some(r#"{ "exp": 1900000000 }"#),
                Some(r#"{ "exp": 1900000000, "role": "reader", "sub": "ann" }"#),
                Some(r#"{ "exp": 1900000000, "role": "guest", "sub": "ann" }"#),
                Some(r#"{ "exp": 1, "role": "reader" }"#),
                Some(r#"{ "exp": 1900000000, "nbf": 1900000000 }"#),
            ][..]),
            has_body in any::<bool>(),
            from in select(&["10.0.0.1", "192.0.2.1"][..]),
        ) {
            let mut request = http::Request::builder().method(method).uri(format!("/f/{key}?{query}"));
            request = request.header(HOST, "proxy");
            if let Some(claims) = claims {
                request = request.header(AUTHORIZATION, bearer(claims));
            }
            if has_body {
                request = request.header(CONTENT_LENGTH, 5);
            }
            let (request, ()) = request.body(()).expect("a request").into_parts();
            let from: IpAddr = from.parse().expect("an address");
            let (enforced, nothing) = outcome(&generation(block, networks, "enforce"), &request, from);
            let (observed, would_refuse) = outcome(&generation(block, networks, "observe"), &request, from);
            prop_assert_eq!(nothing, None);
            match (enforced, observed) {
                // Everything but the authorization is enforced always, and told first once that passes.
                (Err(denied @ Rejection::Denied(_)), Ok(asks)) => {
                    prop_assert_eq!(would_refuse, Some(denied));
                    prop_assert!(!asks, "a service is not asked about what is refused anyway");
                }
                (Err(Rejection::Denied(_)), Err(other)) => {
                    prop_assert!(!matches!(other, Rejection::Denied(_)), "{}", other);
                }
                (enforced, observed) => {
                    prop_assert_eq!(enforced, observed);
                    prop_assert_eq!(would_refuse, None);
                }
            }
        }
    }

    #[test]
    fn whatever_an_observed_service_says_the_request_passes() {
        let block = "{ mode: {mode}, rules: [{ path: \"**\", allow: public }], external: { url: \"http://127.0.0.1\" } }";
        let request = http::Request::builder().uri("/f/a").header(HOST, "proxy").body(()).expect("a request");
        let (request, ()) = request.into_parts();
        let answers = [
            (Ok(Decision { allows: true, is_remembered: false }), None),
            (Ok(Decision { allows: false, is_remembered: true }), Some(Rejection::ExternalDenied)),
            (Err(Failure::Paused), Some(Rejection::ExternalFailed(Failure::Paused))),
        ];
        for (decision, rejection) in answers {
            for mode in ["enforce", "observe"] {
                let admitted =
                    admit(&generation(block, "", mode), &request, None, UNIX_EPOCH).expect("a question");
                let Admitted::Pending(question) = admitted else { panic!("no question") };
                let found = match question.answered(decision) {
                    Ok(admission) => (true, admission.would_refuse().cloned()),
                    Err(unadmitted) => (false, Some(unadmitted.rejection)),
                };
                let passes = mode == "observe" || rejection.is_none();
                assert_eq!(found, (passes, rejection.clone()), "{mode} {decision:?}");
            }
        }
    }

    #[test]
    fn only_versions_and_parts_are_asked_for() {
        for (query, canonical) in [
            ("", ""),
            ("list-type=2&prefix=a&uploads&acl", ""),
            ("versionId=a/b+c&x=1&partNumber=2", "partNumber=2&versionId=a%2Fb%2Bc"),
            ("%76ersionId=a%20b", "versionId=a%20b"),
            ("versionid=a&token=secret", ""),
        ] {
            assert_eq!(canonical_query(Query::new(query)).as_deref().ok(), Some(canonical), "{query}");
        }
        for query in ["versionId=a&versionId=b", "versionId", "partNumber=", "versionId=%FF"] {
            assert!(canonical_query(Query::new(query)).is_err(), "{query}");
        }
    }
}
