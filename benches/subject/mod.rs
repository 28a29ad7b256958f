//! The subject of the benches: a configuration with many buckets, and requests for objects in it. The time
//! is fixed, so that every run does the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey};
use kit::Bucket;
use kit::token::{SECRET, signed};
use pingora::http::RequestHeader;
use serde_json::json;
use yatagarasu::internals::{Readers, Rule, Source, Stages, load_from};
use yatagarasu::{Config, Generation, Live};

pub const PRIVATE: &str =
    "auth: { enabled: true, claims: [{ claim: role, operator: equals, value: reader }] }";

const NOW: u64 = 1_700_000_000;

pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// Many buckets; bucket `n` is at `/tenants/t<n>`.
pub fn config(buckets: usize, auth: &str) -> kit::Config {
    let bucket = |n: usize| {
        Bucket::named(&format!("t{n}"))
            .at(&format!("/tenants/t{n}"))
            .target(&format!("tenant-{n}"))
            .region("eu-west-1")
            .endpoint("http://127.0.0.1:9000")
            .auth(auth)
    };
    kit::Config::new().buckets((0..buckets).map(bucket))
}

pub fn load(text: &str) -> Config {
    let source = Source::Text { path: PathBuf::from("bench.yaml"), text: text.as_bytes().to_vec() };
    load_from(source, None, &mut Stages::default()).outcome.expect("a valid configuration")
}

pub fn generation(buckets: usize, auth: &str) -> Arc<Generation> {
    Live::new(Arc::new(load(&config(buckets, auth).yaml()))).current()
}

/// A request as a browser sends it, for an object of bucket `n`.
pub fn request(n: usize, token: Option<&str>) -> RequestHeader {
    let target = format!("/tenants/t{n}/2024/summer/cat%20{n}.jpg");
    let mut request = RequestHeader::build("GET", target.as_bytes(), None).expect("a valid request");
    let headers = [
        ("host", "files.example:8080"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "image/avif,image/webp,image/png,*/*;q=0.8"),
        ("accept-encoding", "gzip, deflate, br"),
    ];
    for (name, value) in headers {
        request.insert_header(name, value).expect("a valid header");
    }
    if let Some(token) = token {
        request.insert_header("authorization", format!("Bearer {token}")).expect("a valid header");
    }
    request
}

/// A token that [`PRIVATE`] accepts, at [`now`] and at the time of the clock.
pub fn token(algorithm: Algorithm, key: &EncodingKey, subject: &str) -> String {
    let claims = json!({ "sub": subject, "role": "reader", "iat": NOW, "exp": 4_000_000_000_u64 });
    signed(algorithm, key, &claims)
}

pub fn hs256() -> String {
    hs256_of("ann")
}

pub fn hs256_of(subject: &str) -> String {
    token(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), subject)
}

/// The rule of the first bucket.
pub fn rule(config: &Config) -> &Rule {
    match &config.buckets[0].policy.readers {
        Readers::Whole(rule) => rule,
        Readers::ByPath(_) => panic!("one rule for the whole bucket"),
    }
}
