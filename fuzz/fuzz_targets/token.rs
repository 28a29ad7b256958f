//! A token is text from anybody. Unsigned it is never good; signed, only with the dates it must have;
//! and what was good stays good when it is asked again, out of the cache.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{EncodingKey, crypto::sign};
use libfuzzer_sys::fuzz_target;
use yatagarasu::internals::{
    Algorithm, ConfiguredKey, Expectations, Key, KeySet, PublishedKeys, Secret, Verifier,
};

const SECRET: &str = "a-secret-of-at-least-32-characters";

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let algorithm = Algorithm::parse("HS256").expect("an algorithm");
    let key = Key::from_secret(algorithm, &Secret::new(SECRET)).expect("a key");
    let key = ConfiguredKey { key, not_after: None, expectations: Expectations::default() };
    // An empty set: with it verified tokens are kept.
    let published = PublishedKeys { set: KeySet::default().into(), expectations: Expectations::default() };
    Verifier::new(vec![key], vec![published], Duration::from_secs(60))
});

fuzz_target!(|token: &str| {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    assert!(VERIFIER.verify(token, now).is_err(), "a token was good without a signature");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = sign(token.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).expect("signed");
    let signed = format!("{token}.{signature}");
    let first = VERIFIER.verify(&signed, now);
    if let Ok(claims) = &first {
        assert!(claims["exp"].as_f64().is_some_and(|exp| exp > 1_799_999_940.0), "{claims:?}");
    }
    assert_eq!(first, VERIFIER.verify(&signed, now));
});
