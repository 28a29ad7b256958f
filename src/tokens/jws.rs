//! The compact serialization of a signed token (RFC 7515, section 7.1), taken apart and not believed.
//!
//! Of the header three members count: `alg`, which is compared with the algorithm of a key, `kid`,
//! which is compared with the ids of the keys, and `crit`, which is refused. Whatever else would tell
//! us where a key is to be had (`jwk`, `jku`, `x5u`, `x5c`) is not looked at. Encrypted tokens and the
//! JSON serialization are not understood.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::tokens::claims::Claims;
use crate::tokens::invalid_token::InvalidToken;
use crate::tokens::json;
use crate::tokens::keys::{Algorithm, Key};

/// A token in its parts. Nothing of it is true before a key has verified it.
pub(super) struct Jws<'t> {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    /// Header and payload as they stand in the token.
    signed: &'t str,
    payload: &'t str,
    signature: &'t str,
}

impl<'t> Jws<'t> {
    pub(super) fn parse(token: &'t str) -> Result<Self, InvalidToken> {
        let (signed, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(InvalidToken::Malformed)?;
        if payload.contains('.') {
            return Err(InvalidToken::Malformed);
        }
        let header = object(header)?;
        // We understand no extension, and one that is critical must be understood (RFC 7515, section 4.1.11).
        if header.contains_key("crit") {
            return Err(InvalidToken::Critical);
        }
        let Some(Value::String(algorithm)) = header.get("alg") else { return Err(InvalidToken::Malformed) };
        let algorithm = Algorithm::parse(algorithm).map_err(|_| InvalidToken::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(InvalidToken::Malformed),
        };
        Ok(Self { algorithm, key_id, signed, payload, signature })
    }

    pub(super) fn is_signed_with(&self, key: &Key) -> bool {
        key.verifies(self.signed, self.signature)
    }

    pub(super) fn claims(&self) -> Result<Claims, InvalidToken> {
        object(self.payload)
    }
}

fn object(part: &str) -> Result<Claims, InvalidToken> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidToken::Malformed)?;
    json::object(&bytes).ok_or(InvalidToken::Malformed)
}
