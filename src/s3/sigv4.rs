//! AWS Signature Version 4 in the `Authorization` header, for requests without a body.
//!
//! The canonical request is our own, because `aws-sigv4`'s signer can keep nothing of one request for
//! the next; it derives the key of a day, and its complete signer is the oracle in the tests.
//! Specification: "Create a signed AWS API request", AWS Identity and Access Management User Guide.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_sigv4::sign::v4::generate_signing_key;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use sha2::{Digest, Sha256};

use super::identity::{Credentials, Identity};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "s3";

/// `x-amz-content-sha256` of a request without a body: SHA-256 of nothing.
const EMPTY_PAYLOAD_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const DAY_SECONDS: u64 = 86_400;

/// What is to be signed, exactly as it will be sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Percent-encoded once.
    pub path: &'a str,
    /// Sorted, encoded, without the `?`; empty when there is none.
    pub query: &'a str,
    /// The `Host` header.
    pub host: &'a str,
}

/// The headers that make a request a signed one.
#[derive(Debug)]
pub struct SignedHeaders {
    /// `x-amz-date`, ISO 8601 basic format, UTC.
    pub date: String,
    /// `x-amz-content-sha256`
    pub payload_hash: HeaderValue,
    pub authorization: String,
}

/// Signs requests to one bucket.
#[derive(Debug)]
pub struct Signer {
    identity: Arc<Identity>,
    region: String,
}

/// Who signs: credentials, and the signing keys of today that were derived from them, one for each
/// region. They are gone together.
#[derive(Debug)]
pub struct Signatory {
    pub credentials: Credentials,
    keys: ArcSwap<Vec<Arc<SigningKey>>>,
}

/// A key, and all that is the same in every request that is signed with it.
struct SigningKey {
    /// Since 1970.
    day: u64,
    region: String,
    /// `20130524`
    date: String,
    scope: String,
    /// The header up to the signature.
    authorization: String,
    /// Has taken the key in, and nothing else.
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Signer {
    pub fn new(identity: Arc<Identity>, region: &str) -> Self {
        Self { identity, region: region.to_owned() }
    }

    /// Whom it signs as.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Signs with what its identity holds, which the caller takes once for a request. The session token
    /// is signed with the rest, and is to be sent as `x-amz-security-token`.
    ///
    /// A clock before 1970 signs as 1970, which every store refuses.
    pub fn sign(&self, request: Request<'_>, signatory: &Signatory, now: SystemTime) -> SignedHeaders {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let key = signatory.signing_key(seconds / DAY_SECONDS, &self.region);
        let date = key.date_time(seconds % DAY_SECONDS);
        let canonical_request = hash_of(request, &signatory.credentials, &date);
        let mut mac = key.mac.clone();
        for part in [ALGORITHM, "\n", &date, "\n", &key.scope, "\n", as_text(&canonical_request)] {
            mac.update(part.as_bytes());
        }
        let signature = hex_of(&mac.finalize().into_bytes());
        let mut authorization = String::with_capacity(key.authorization.len() + signature.len());
        authorization.push_str(&key.authorization);
        authorization.push_str(as_text(&signature));
        SignedHeaders { date, payload_hash: HeaderValue::from_static(EMPTY_PAYLOAD_HASH), authorization }
    }
}

impl Signatory {
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, keys: ArcSwap::default() }
    }

    /// The key of a day, derived once. Two requests at midnight may both derive it, with the same result.
    fn signing_key(&self, day: u64, region: &str) -> Arc<SigningKey> {
        let keys = self.keys.load();
        if let Some(known) = keys.iter().find(|known| known.day == day && known.region == region) {
            return known.clone();
        }
        let fresh = Arc::new(SigningKey::new(&self.credentials, day, region));
        let today = keys.iter().filter(|known| known.day == day).cloned();
        self.keys.store(Arc::new(today.chain([fresh.clone()]).collect()));
        fresh
    }
}

impl SigningKey {
    fn new(credentials: &Credentials, day: u64, region: &str) -> Self {
        let midnight = UNIX_EPOCH + Duration::from_secs(day * DAY_SECONDS);
        let key = generate_signing_key(credentials.secret_key.expose(), midnight, region, SERVICE);
        let today = time::OffsetDateTime::from(midnight);
        let date = format!("{:04}{:02}{:02}", today.year(), u8::from(today.month()), today.day());
        let scope = format!("{date}/{region}/{SERVICE}/aws4_request");
        let authorization = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature=",
            credentials.access_key.expose(),
            names_of_signed_headers(credentials),
        );
        let mac = Hmac::new_from_slice(key.as_ref()).expect("HMAC takes keys of any length");
        Self { day, region: region.to_owned(), date, scope, authorization, mac }
    }

    /// `20130524T000000Z`
    fn date_time(&self, second_of_day: u64) -> String {
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        let digit = |number: u64| char::from(b'0' + (number % 10) as u8);
        let mut text = String::with_capacity("20130524T000000Z".len());
        text.push_str(&self.date);
        text.push('T');
        for number in [hour, minute, second] {
            text.extend([digit(number / 10), digit(number)]);
        }
        text.push('Z');
        text
    }
}

fn names_of_signed_headers(credentials: &Credentials) -> &'static str {
    match credentials.session_token {
        Some(_) => "host;x-amz-content-sha256;x-amz-date;x-amz-security-token",
        None => "host;x-amz-content-sha256;x-amz-date",
    }
}

/// The hash of the canonical request, which is nowhere put together.
fn hash_of(request: Request<'_>, credentials: &Credentials, date: &str) -> [u8; 64] {
    let Request { method, path, query, host } = request;
    let mut hash = Sha256::new();
    for part in [method, "\n", path, "\n", query, "\nhost:", host, "\nx-amz-content-sha256:"] {
        hash.update(part);
    }
    for part in [EMPTY_PAYLOAD_HASH, "\nx-amz-date:", date, "\n"] {
        hash.update(part);
    }
    if let Some(token) = &credentials.session_token {
        for part in ["x-amz-security-token:", token.expose(), "\n"] {
            hash.update(part);
        }
    }
    for part in ["\n", names_of_signed_headers(credentials), "\n", EMPTY_PAYLOAD_HASH] {
        hash.update(part);
    }
    hex_of(&hash.finalize())
}

/// Lower-case hexadecimal.
fn hex_of(hash: &[u8]) -> [u8; 64] {
    let mut text = [0; 64];
    hex::encode_to_slice(hash, &mut text).expect("SHA-256 has 32 bytes");
    text
}

fn as_text(hex: &[u8; 64]) -> &str {
    std::str::from_utf8(hex).expect("hexadecimal is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4;
    use proptest::prelude::*;
    use std::time::Duration;

    use crate::s3::identity::Source;
    use crate::s3::key::{ObjectKey, encode_query_value};
    use crate::secret::Secret;

    fn signatory(access_key: &str, secret_key: &str, session_token: Option<&str>) -> Signatory {
        Signatory::new(Credentials {
            access_key: Secret::new(access_key),
            secret_key: Secret::new(secret_key),
            session_token: session_token.map(Secret::new),
            expires: None,
        })
    }

    fn signer(region: &str) -> Signer {
        Signer::new(Arc::new(Identity::from_source(Source::Instance)), region)
    }

    /// The `Authorization` header as `aws-sigv4`'s own signer makes it.
    fn oracle(signer: &Signer, request: Request<'_>, signatory: &Signatory, now: SystemTime) -> String {
        let credentials = &signatory.credentials;
        let identity = aws_credential_types::Credentials::new(
            credentials.access_key.expose(),
            credentials.secret_key.expose(),
            credentials.session_token.as_ref().map(|token| token.expose().to_owned()),
            None,
            "test",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&signer.region)
            .name("s3")
            .time(now)
            .settings(settings)
            .build()
            .expect("complete")
            .into();
        let separator = if request.query.is_empty() { "" } else { "?" };
        let uri = format!("{}{separator}{}", request.path, request.query);
        let signable = SignableRequest::new(
            request.method,
            uri,
            std::iter::once(("host", request.host)),
            SignableBody::Bytes(b""),
        )
        .expect("signable");
        let (instructions, _) = sign(signable, &params).expect("signed").into_parts();
        let header = instructions.headers().find(|(name, _)| *name == "authorization");
        header.expect("signed").1.to_owned()
    }

    #[test]
    fn the_same_day_uses_the_same_key_and_the_next_day_another() {
        let (signer, signatory) = (signer("eu-west-1"), signatory("AK", "SK", None));
        let day = |n: u64| UNIX_EPOCH + Duration::from_secs(n * 86_400);
        let request = Request { method: "GET", path: "/b/k", query: "", host: "h" };
        signer.sign(request, &signatory, day(1));
        let first = signatory.keys.load_full();
        signer.sign(request, &signatory, day(1) + Duration::from_secs(86_399));
        assert!(Arc::ptr_eq(&first, &signatory.keys.load_full()));
        let authorization = signer.sign(request, &signatory, day(2)).authorization;
        assert!(authorization.contains("/19700103/eu-west-1/s3/aws4_request"), "{authorization}");
        assert_eq!(authorization, oracle(&signer, request, &signatory, day(2)));
    }

    #[test]
    fn regions_that_share_credentials_have_keys_of_their_own_for_the_day() {
        let signatory = signatory("AK", "SK", Some("token"));
        let request = Request { method: "GET", path: "/b/k", query: "", host: "h" };
        for (day, keys) in [(0, 2), (0, 2), (1, 2)] {
            let now = UNIX_EPOCH + Duration::from_secs(day * 86_400);
            for signer in [signer("eu-west-1"), signer("eu-west-2")] {
                let authorization = signer.sign(request, &signatory, now).authorization;
                assert_eq!(authorization, oracle(&signer, request, &signatory, now));
            }
            assert_eq!(signatory.keys.load().len(), keys);
        }
    }

    #[test]
    fn dates_are_iso_8601_basic() {
        let (signer, signatory) = (signer("eu-west-1"), signatory("AK", "SK", None));
        let request = Request { method: "GET", path: "/b/k", query: "", host: "h" };
        let date = |now| signer.sign(request, &signatory, now).date;
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(1_369_353_600), "20130524T000000Z");
        assert_eq!(at(1_709_210_096), "20240229T123456Z");
        assert_eq!(date(UNIX_EPOCH - Duration::from_secs(1)), "19700101T000000Z");
    }

    proptest! {
        #[test]
        fn signatures_equal_those_of_the_aws_sdk(
            key in "\\PC{1,40}|[ -~]{1,40}|[/+%~'() ]{1,20}",
            version in proptest::option::of("[ -~]{0,20}"),
            token in proptest::option::of("[A-Za-z0-9+/=]{1,60}"),
            secret in "[ -~]{1,60}",
            region in "[a-z]{2}-[a-z]{4,9}-[1-9]",
            host in "[a-z]{1,10}(:[1-9][0-9]{1,3})?",
            head in any::<bool>(),
            seconds in 0_u64..4_000_000_000,
        ) {
            let signer = signer(&region);
            let signatory = signatory("AKIDEXAMPLE", &secret, token.as_deref());
            let path = format!("/bucket/{}", ObjectKey::new(key).encoded());
            let query = version.map(|v| format!("versionId={}", encode_query_value(&v))).unwrap_or_default();
            let method = if head { "HEAD" } else { "GET" };
            let request = Request { method, path: &path, query: &query, host: &host };
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let authorization = signer.sign(request, &signatory, now).authorization;
            prop_assert_eq!(authorization, oracle(&signer, request, &signatory, now));
        }
    }
}
