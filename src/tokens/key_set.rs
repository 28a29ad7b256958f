//! A set of public keys as an issuer publishes it (JWK Set, RFC 7517), which may change under a
//! generation.
//!
//! Who fetches the document, and when, is not known here. A key that is not fit to verify a token is
//! left out with a reason, and the others work: its type, use, operations, algorithm, curve and size
//! are all looked at. A symmetric key is never fit: what is published is no secret.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::tokens::keys::{Algorithm, InvalidKey, Key};

/// The largest document, and the most keys in one.
pub(crate) const MAX_DOCUMENT_BYTES: usize = 256 << 10;
pub(crate) const MAX_KEYS: usize = 64;

/// The keys as they are known at this moment.
#[derive(Debug, Default)]
pub struct Keys {
    /// Another one with every change, over all sets of the process.
    pub version: u64,
    pub keys: Vec<Key>,
    document: [u8; 32],
}

/// Keys that can be replaced while they are in use.
#[derive(Debug, Default)]
pub struct KeySet {
    current: ArcSwap<Keys>,
    /// Unix seconds at which the keys were last confirmed; 0 before the first time.
    confirmed: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidSet {
    #[error("is not a JSON Web Key Set, which is an object with a list `keys`")]
    NotASet,
    #[error("has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("holds no key that is fit to verify a token")]
    Empty,
}

/// A key that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    index: usize,
    why: Unfit,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys[{}] is left out: {}", self.index, self.why)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Unfit {
    #[error("it is not a JSON Web Key")]
    Malformed,
    #[error("it is a symmetric key, and what is published is no secret")]
    Symmetric,
    #[error("its type is none of RSA, EC and OKP")]
    Type,
    #[error("its `use` is not `sig`")]
    Use,
    #[error("its `key_ops` are not `verify`")]
    Operations,
    #[error("its curve is none of P-256, P-384 and Ed25519")]
    Curve,
    #[error("its `alg` is no signature algorithm of its type")]
    Algorithm,
    #[error("it {0}")]
    Key(#[from] InvalidKey),
    #[error("another key has the same `kid` and algorithm")]
    Duplicate,
}

impl KeySet {
    pub fn current(&self) -> Arc<Keys> {
        self.current.load_full()
    }

    /// Since the keys were last confirmed; `None` before the first time.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        (confirmed > 0).then(|| now.saturating_sub(Duration::from_secs(confirmed)))
    }

    /// Forgets the keys, as before the first fetch.
    pub fn forget(&self) {
        self.current.store(Arc::new(Keys { version: next_version(), ..Keys::default() }));
        self.confirmed.store(0, Ordering::Relaxed);
    }

    /// Takes over what the issuer publishes now, or leaves everything as it is. Says which keys are left
    /// out, if that was not said before.
    pub fn learn(&self, document: &[u8], now: SystemTime) -> Result<Vec<Skipped>, InvalidSet> {
        let digest: [u8; 32] = Sha256::digest(document).into();
        let mut skipped = Vec::new();
        if self.current.load().document != digest {
            let (keys, left_out) = parse(document)?;
            skipped = left_out;
            self.current.store(Arc::new(Keys { version: next_version(), keys, document: digest }));
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.confirmed.store(now.max(1), Ordering::Relaxed);
        Ok(skipped)
    }
}

/// A version that no set of the process had before.
fn next_version() -> u64 {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    VERSION.fetch_add(1, Ordering::Relaxed)
}

/// A JSON Web Key, as far as it concerns us. Only its public parts are read.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The fit keys of a document, of which there is at least one, and what is wrong with the others.
pub(crate) fn parse(document: &[u8]) -> Result<(Vec<Key>, Vec<Skipped>), InvalidSet> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<serde_json::Value>,
    }
    let Document { keys: entries } = serde_json::from_slice(document).map_err(|_| InvalidSet::NotASet)?;
    if entries.len() > MAX_KEYS {
        return Err(InvalidSet::TooMany);
    }
    let mut keys: Vec<Key> = Vec::new();
    let mut skipped = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let same = |one: &Key, other: &Key| {
            one.id().is_some() && one.id() == other.id() && one.algorithm() == other.algorithm()
        };
        match serde_json::from_value(entry).map_err(|_| Unfit::Malformed).and_then(Jwk::into_key) {
            Ok(key) if keys.iter().any(|other| same(other, &key)) => {
                skipped.push(Skipped { index, why: Unfit::Duplicate });
            }
            Ok(key) => keys.push(key),
            Err(why) => skipped.push(Skipped { index, why }),
        }
    }
    if keys.is_empty() { Err(InvalidSet::Empty) } else { Ok((keys, skipped)) }
}

impl Jwk {
    fn into_key(self) -> Result<Key, Unfit> {
        if self.usage.is_some_and(|usage| usage != "sig") {
            return Err(Unfit::Use);
        }
        if self.key_ops.is_some_and(|operations| operations.iter().all(|operation| operation != "verify")) {
            return Err(Unfit::Operations);
        }
        // One algorithm for a key (RFC 8725, section 3.1), also where the issuer leaves it open.
        let (usual, allowed): (&str, &[&str]) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => ("RS256", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
            ("EC", Some("P-256")) => ("ES256", &["ES256"]),
            ("EC", Some("P-384")) => ("ES384", &["ES384"]),
            ("OKP", Some("Ed25519")) => ("EdDSA", &["EdDSA", "Ed25519"]),
            ("EC" | "OKP", _) => return Err(Unfit::Curve),
            ("oct", _) => return Err(Unfit::Symmetric),
            _ => return Err(Unfit::Type),
        };
        let written = self.alg.as_deref().unwrap_or(usual);
        if !allowed.contains(&written) {
            return Err(Unfit::Algorithm);
        }
        // RFC 9864 names the curve where RFC 8037 had said EdDSA.
        let written = if written == "Ed25519" { usual } else { written };
        let algorithm = Algorithm::parse(written).map_err(|_| Unfit::Algorithm)?;
        let key = match (self.kty.as_str(), self.n, self.e, self.x, self.y) {
            ("RSA", Some(n), Some(e), ..) => Key::from_modulus(algorithm, &n, &e)?,
            ("EC", _, _, Some(x), Some(y)) => Key::from_point(algorithm, &x, &y)?,
            ("OKP", _, _, Some(x), _) => Key::from_ed25519(algorithm, &x)?,
            _ => return Err(Unfit::Malformed),
        };
        Ok(match self.kid {
            Some(id) => key.with_id(id),
            None => key,
        })
    }
}
