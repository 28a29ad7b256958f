//! Signs requests without a body by AWS Signature Version 4 in the `Authorization` header.
//!
//! The canonical request is our own, because `aws-sigv4`'s signer can keep nothing of one request for
//! the next; it derives the key of a day, and its complete signer is the oracle in the tests.
//! Specification: "Create a signed AWS API request", AWS Identity and Access Management User Guide.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::s3::canonical::{ALGORITHM, CanonicalRequest, Hex, StringToSign};
use crate::s3::credentials::Credentials;
use crate::s3::signing_key::{DAY_SECONDS, SigningKey};

/// `x-amz-content-sha256` of a request without a body: SHA-256 of nothing.
pub(crate) const EMPTY_PAYLOAD_HASH: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const SIGNED_HEADERS: &str = "host;x-amz-content-sha256;x-amz-date";
const SIGNED_HEADERS_WITH_TOKEN: &str = "host;x-amz-content-sha256;x-amz-date;x-amz-security-token";

/// A request to be signed, with its parts exactly as they will be sent.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
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
    pub(crate) date: String,
    /// `x-amz-content-sha256`
    pub(crate) payload_hash: HeaderValue,
    pub(crate) authorization: String,
}

/// Credentials, and the signing keys of today that were derived from them, one for each region. Keys are
/// dropped together with their credentials.
#[derive(Debug)]
pub struct Signer {
    credentials: Credentials,
    keys: ArcSwap<Vec<Arc<DayKey>>>,
}

/// A signing key, and the part of the `Authorization` header that is the same for all of its requests.
#[derive(Debug)]
struct DayKey {
    key: SigningKey,
    /// The header up to the signature.
    authorization: String,
}

impl Signer {
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, keys: ArcSwap::default() }
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Signs a request to a store in a region. The session token is signed with the rest, and is to be sent
    /// as `x-amz-security-token`.
    ///
    /// A clock before 1970 signs as 1970, which every store refuses.
    pub fn sign(&self, request: Unsigned<'_>, region: &str, now: SystemTime) -> SignedHeaders {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let day_key = self.day_key(seconds / DAY_SECONDS, region);
        let date = day_key.key.date_time(seconds % DAY_SECONDS);
        let canonical_request = self.hash(request, &date);
        let string_to_sign = StringToSign {
            date_time: &date,
            scope: day_key.key.scope(),
            canonical_request: &canonical_request,
        };
        let signature = day_key.key.sign(&string_to_sign);
        let mut authorization = String::with_capacity(day_key.authorization.len() + signature.as_str().len());
        authorization.push_str(&day_key.authorization);
        authorization.push_str(signature.as_str());
        SignedHeaders { date, payload_hash: HeaderValue::from_static(EMPTY_PAYLOAD_HASH), authorization }
    }

    /// The hash of the canonical request.
    fn hash(&self, request: Unsigned<'_>, date: &str) -> Hex {
        let Unsigned { method, path, query, host } = request;
        let token = self.credentials.session_token.as_ref().map_or("", |token| token.expose());
        let headers = [
            ("host", host),
            ("x-amz-content-sha256", EMPTY_PAYLOAD_HASH),
            ("x-amz-date", date),
            ("x-amz-security-token", token),
        ];
        let (headers, signed_headers) = match (&self.credentials.session_token, headers.as_slice()) {
            (None, [without_token @ .., _]) => (without_token, SIGNED_HEADERS),
            (_, all) => (all, SIGNED_HEADERS_WITH_TOKEN),
        };
        CanonicalRequest { method, path, query, headers, signed_headers, payload_hash: EMPTY_PAYLOAD_HASH }
            .hash()
    }

    /// The key of a day, derived once. Two requests at midnight may both derive it, with the same result.
    fn day_key(&self, day: u64, region: &str) -> Arc<DayKey> {
        let keys = self.keys.load();
        if let Some(known) = keys.iter().find(|known| known.key.is_for(day, region)) {
            return known.clone();
        }
        let fresh = Arc::new(DayKey::new(&self.credentials, day, region));
        let today = keys.iter().filter(|known| known.key.day() == day).cloned();
        self.keys.store(Arc::new(today.chain([fresh.clone()]).collect()));
        fresh
    }
}

impl DayKey {
    fn new(credentials: &Credentials, day: u64, region: &str) -> Self {
        let key = SigningKey::new(&credentials.secret_key, day, region);
        let signed_headers = match credentials.session_token {
            Some(_) => SIGNED_HEADERS_WITH_TOKEN,
            None => SIGNED_HEADERS,
        };
        let authorization = format!(
            "{ALGORITHM} Credential={}/{}, SignedHeaders={signed_headers}, Signature=",
            credentials.access_key.expose(),
            key.scope(),
        );
        Self { key, authorization }
    }
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

    use crate::s3::key::{ObjectKey, encode_query_value};
    use crate::secret::Secret;

    fn signer(access_key: &str, secret_key: &str, session_token: Option<&str>) -> Signer {
        Signer::new(Credentials {
            access_key: Secret::new(access_key),
            secret_key: Secret::new(secret_key),
            session_token: session_token.map(Secret::new),
            expires: None,
        })
    }

    /// The `Authorization` header as `aws-sigv4`'s own signer makes it.
    fn oracle(signer: &Signer, request: Unsigned<'_>, region: &str, now: SystemTime) -> String {
        let credentials = &signer.credentials;
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
            .region(region)
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
        let signer = signer("AK", "SK", None);
        let day = |n: u64| UNIX_EPOCH + Duration::from_secs(n * 86_400);
        let request = Unsigned { method: "GET", path: "/b/k", query: "", host: "h" };
        signer.sign(request, "eu-west-1", day(1));
        let first = signer.keys.load_full();
        signer.sign(request, "eu-west-1", day(1) + Duration::from_secs(86_399));
        assert!(Arc::ptr_eq(&first, &signer.keys.load_full()));
        let authorization = signer.sign(request, "eu-west-1", day(2)).authorization;
        assert!(authorization.contains("/19700103/eu-west-1/s3/aws4_request"), "{authorization}");
        assert_eq!(authorization, oracle(&signer, request, "eu-west-1", day(2)));
    }

    #[test]
    fn regions_that_share_credentials_have_keys_of_their_own_for_the_day() {
        let signer = signer("AK", "SK", Some("token"));
        let request = Unsigned { method: "GET", path: "/b/k", query: "", host: "h" };
        for (day, keys) in [(0, 2), (0, 2), (1, 2)] {
            let now = UNIX_EPOCH + Duration::from_secs(day * 86_400);
            for region in ["eu-west-1", "eu-west-2"] {
                let authorization = signer.sign(request, region, now).authorization;
                assert_eq!(authorization, oracle(&signer, request, region, now));
            }
            assert_eq!(signer.keys.load().len(), keys);
        }
    }

    #[test]
    fn dates_are_iso_8601_basic() {
        let signer = signer("AK", "SK", None);
        let request = Unsigned { method: "GET", path: "/b/k", query: "", host: "h" };
        let date = |now| signer.sign(request, "eu-west-1", now).date;
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
            let signer = signer("AKIDEXAMPLE", &secret, token.as_deref());
            let path = format!("/bucket/{}", ObjectKey::new(key).encoded());
            let query = version.map(|v| format!("versionId={}", encode_query_value(&v))).unwrap_or_default();
            let method = if head { "HEAD" } else { "GET" };
            let request = Unsigned { method, path: &path, query: &query, host: &host };
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let authorization = signer.sign(request, &region, now).authorization;
            prop_assert_eq!(authorization, oracle(&signer, request, &region, now));
        }
    }
}
