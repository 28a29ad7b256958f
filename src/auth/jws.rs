//! The compact serialization of a signed token (RFC 7515, section 7.1), taken apart and not believed.
//!
//! Of the header three members count: `alg`, which is compared with the algorithm of a key, `kid`,
//! which is compared with the ids of the keys, and `crit`, which is refused. Whatever else would tell
//! us where a key is to be had (`jwk`, `jku`, `x5u`, `x5c`) is not looked at. Encrypted tokens and the
//! JSON serialization are not understood.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::claims::Claims;
use super::keys::{Algorithm, Key};
use super::{Denied, json};

/// A token in its parts. Nothing of it is true before a key has verified it.
pub struct Jws<'t> {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    /// Header and payload as they stand in the token.
    signed: &'t str,
    payload: &'t str,
    signature: &'t str,
}

impl<'t> Jws<'t> {
    pub fn parse(token: &'t str) -> Result<Self, Denied> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Denied::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Denied::Malformed)?;
        if payload.contains('.') {
            return Err(Denied::Malformed);
        }
        let header = object(header)?;
        // We understand no extension, and one that is critical must be understood (RFC 7515, section 4.1.11).
        if header.contains_key("crit") {
            return Err(Denied::Critical);
        }
        let Some(Value::String(algorithm)) = header.get("alg") else { return Err(Denied::Malformed) };
        let algorithm = Algorithm::parse(algorithm).map_err(|_| Denied::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Denied::Malformed),
        };
        Ok(Self { algorithm, key_id, signed, payload, signature })
    }

    pub fn is_signed_with(&self, key: &Key) -> bool {
        key.verifies(self.signed, self.signature)
    }

    pub fn claims(&self) -> Result<Claims, Denied> {
        object(self.payload)
    }
}

fn object(part: &str) -> Result<Claims, Denied> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Denied::Malformed)?;
    json::object(&bytes).ok_or(Denied::Malformed)
}
