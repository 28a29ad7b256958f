//! Tokens: good ones, and such as a forger would make.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// As in [`crate::JWT`].
pub const SECRET: &str = "a-secret-of-at-least-32-characters";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Valid for an hour, with these claims beside `exp`.
pub fn token(mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now() + 3600);
    }
    raw_token(&claims)
}

/// Exactly these claims, signed with [`SECRET`].
pub fn raw_token(claims: &Value) -> String {
    signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

pub fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("a token")
}

pub fn admin_token() -> String {
    token(json!({ "sub": "ann", "role": "admin" }))
}
