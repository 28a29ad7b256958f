//! What it costs to verify a token, and to find it among those that were verified already:
//! `cargo bench --bench tokens`. Nanoseconds for one token.

use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use serde_json::json;
use yatagarasu::internals::{Algorithm, ConfiguredKey, Expectations, Key, Secret, Verifier};

const SECRET: &str = "a-secret-of-at-least-32-characters";
const TOKENS: u32 = 2000;

fn main() {
    report(
        "HS256",
        Key::from_secret(algorithm("HS256"), &Secret::new(SECRET)),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    );
    let report_pair = |name: &str, kind: &'static SignatureAlgorithm, private: fn(&[u8]) -> EncodingKey| {
        let pair = KeyPair::generate_for(kind).expect("a key pair");
        report(name, Key::from_pem(algorithm(name), &pair.public_key_pem()), &private(&pair.serialize_der()));
    };
    report_pair("ES256", &PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_der);
    report_pair("EdDSA", &PKCS_ED25519, EncodingKey::from_ed_der);
}

fn algorithm(name: &str) -> Algorithm {
    Algorithm::parse(name).expect("an algorithm")
}

fn report<E: std::fmt::Debug>(name: &str, key: Result<Key, E>, private: &EncodingKey) {
    let header = Header::new(name.parse().expect("an algorithm"));
    let tokens: Vec<String> = (0..TOKENS)
        .map(|number| {
            let claims = json!({ "iss": "https://issuer.example", "sub": number, "aud": ["files"], "exp": 4_000_000_000_u64,
                "iat": 1, "role": "reader", "groups": ["a", "b", "c"], "scope": "read:files read:mails" });
            jsonwebtoken::encode(&header, &claims, private).expect("a token")
        })
        .collect();
    let configured = |key| ConfiguredKey { key, not_after: None, expectations: Expectations::default() };
    let key = key.expect("a key");
    let verifier = Verifier::new(vec![configured(key)], Vec::new(), Duration::ZERO);
    let (first, again) = (time(&verifier, &tokens), time(&verifier, &tokens));
    let bytes = tokens.first().map_or(0, String::len);
    println!("{name}: not yet seen {first} ns, seen {again} ns ({bytes} bytes)");
}

fn time(verifier: &Verifier, tokens: &[String]) -> u128 {
    let now = SystemTime::now();
    let started = Instant::now();
    for token in tokens {
        assert!(verifier.verify(token, now).is_ok());
    }
    started.elapsed().as_nanos() / u128::from(TOKENS)
}
