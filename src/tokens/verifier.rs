//! Tells a valid token from any other: a key that is in service has signed it, and it says what a
//! token of that key must say.
//!
//! The time is an argument, so nothing here depends on when it runs. Keys that are published elsewhere
//! may change under a verifier; then what they vouched for before is verified again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::tokens::cache::Cache;
use crate::tokens::claims::Claims;
use crate::tokens::invalid_token::InvalidToken;
use crate::tokens::jws::Jws;
use crate::tokens::key_set::{KeySet, Keys};
use crate::tokens::keys::Key;

/// What a token must say beside its signature. `exp` is always required.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// Required and compared when given.
    pub issuer: Option<String>,
    /// At least one of them is required when any is given.
    pub audience: Vec<String>,
}

/// A key that the configuration holds.
#[derive(Debug)]
pub struct ConfiguredKey {
    pub key: Key,
    /// From then on the key verifies nothing.
    pub not_after: Option<SystemTime>,
    pub expectations: Expectations,
}

impl ConfiguredKey {
    fn is_live(&self, now: SystemTime) -> bool {
        self.not_after.is_none_or(|not_after| now < not_after)
    }
}

/// Keys that somebody publishes.
#[derive(Debug)]
pub struct PublishedKeys {
    pub set: Arc<KeySet>,
    pub expectations: Expectations,
}

pub struct Verifier {
    keys: Vec<ConfiguredKey>,
    published: Vec<PublishedKeys>,
    /// How far the clocks of issuer and proxy may differ.
    leeway: Duration,
    cache: Cache<Signer>,
}

/// Which key vouched for a token.
#[derive(Clone, Copy)]
enum Signer {
    Configured { index: usize },
    Published { index: usize, version: u64 },
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, published, leeway, .. } = self;
        f.debug_struct("Verifier")
            .field("keys", keys)
            .field("published", published)
            .field("leeway", leeway)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    pub fn new(keys: Vec<ConfiguredKey>, published: Vec<PublishedKeys>, leeway: Duration) -> Self {
        Self { keys, published, leeway, cache: Cache::default() }
    }

    /// Whether there is a key that a token could be signed with, now or once it is published.
    pub fn has_keys(&self, now: SystemTime) -> bool {
        !self.published.is_empty() || self.keys.iter().any(|key| key.is_live(now))
    }

    /// Lets go of what is remembered of tokens.
    pub fn forget(&self) {
        self.cache.clear();
    }

    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, InvalidToken> {
        let stands = |signer: &Signer| self.stands(*signer, now);
        let claims = self.cache.get_or_verify(token, stands, || self.vouch(token, now))?;
        self.is_current(&claims, now)?;
        Ok(claims)
    }

    fn stands(&self, signer: Signer, now: SystemTime) -> bool {
        match signer {
            Signer::Configured { index } => self.keys.get(index).is_some_and(|key| key.is_live(now)),
            Signer::Published { index, version } => {
                self.published.get(index).is_some_and(|published| published.set.current().version == version)
            }
        }
    }

    /// Finds a key that has signed the token, and compares what belongs to that key. Not the dates.
    fn vouch(&self, token: &str, now: SystemTime) -> Result<(Claims, Signer), InvalidToken> {
        let jws = Jws::parse(token)?;
        let published: Vec<Arc<Keys>> = self.published.iter().map(|keys| keys.set.current()).collect();
        let mut search = Search::default();
        for (index, configured) in self.keys.iter().enumerate() {
            if configured.is_live(now) {
                search.look(&jws, &configured.key, &configured.expectations, Signer::Configured { index });
            } else if jws.key_id.is_some() && configured.key.id() == jws.key_id.as_deref() {
                search.denied.get_or_insert(InvalidToken::KeyRetired);
            }
        }
        for (index, (keys, PublishedKeys { expectations, .. })) in
            published.iter().zip(&self.published).enumerate()
        {
            let signer = Signer::Published { index, version: keys.version };
            for key in &keys.keys {
                search.look(&jws, key, expectations, signer);
            }
        }
        search.outcome(!self.published.is_empty())
    }

    fn is_current(&self, claims: &Claims, now: SystemTime) -> Result<(), InvalidToken> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = self.leeway.as_secs_f64();
        let expires = numeric_date(claims, "exp")?.ok_or(InvalidToken::Registered("exp"))?;
        if expires <= now - leeway {
            return Err(InvalidToken::Expired);
        }
        if numeric_date(claims, "nbf")?.is_some_and(|not_before| not_before > now + leeway) {
            return Err(InvalidToken::NotYetValid);
        }
        Ok(())
    }
}

/// The search for the key of a token, and how far it came.
#[derive(Default)]
struct Search {
    found: Option<(Claims, Signer)>,
    /// Why a token with a good signature, or of a key that is gone, is refused.
    denied: Option<InvalidToken>,
    /// Whether some key is the one that the token speaks of.
    is_named: bool,
    /// Whether some key of the right algorithm was tried.
    is_tried: bool,
    /// Whether some key could be meant, its algorithm aside.
    is_meant: bool,
}

impl Search {
    fn look(&mut self, jws: &Jws<'_>, key: &Key, expectations: &Expectations, signer: Signer) {
        // A key without an id may be meant by any token.
        let is_meant = match (&jws.key_id, key.id()) {
            (Some(named), Some(id)) => named == id,
            _ => true,
        };
        if self.found.is_some() || !is_meant {
            return;
        }
        self.is_meant = true;
        let fits = key.algorithm() == jws.algorithm;
        self.is_named |= if jws.key_id.is_some() { key.id().is_some() } else { fits };
        if !fits {
            return;
        }
        self.is_tried = true;
        if jws.is_signed_with(key) {
            match jws.claims().and_then(|claims| expectations.met_by(&claims).map(|()| claims)) {
                Ok(claims) => self.found = Some((claims, signer)),
                Err(why) => self.denied = Some(why),
            }
        }
    }

    fn outcome(self, may_be_published: bool) -> Result<(Claims, Signer), InvalidToken> {
        match (self.found, self.denied) {
            (Some(found), _) => Ok(found),
            (None, Some(why)) => Err(why),
            (None, None) if may_be_published && !self.is_named => Err(InvalidToken::UnknownKey),
            (None, None) if self.is_tried => Err(InvalidToken::Signature),
            (None, None) if self.is_meant => Err(InvalidToken::Algorithm),
            (None, None) => Err(InvalidToken::UnknownKey),
        }
    }
}

impl Expectations {
    fn met_by(&self, claims: &Claims) -> Result<(), InvalidToken> {
        if let Some(issuer) = &self.issuer {
            match claims.get("iss") {
                Some(Value::String(found)) if found == issuer => {}
                Some(Value::String(_)) => return Err(InvalidToken::Issuer),
                _ => return Err(InvalidToken::Registered("iss")),
            }
        }
        if !self.audience.is_empty() {
            let found: Option<Vec<&str>> = match claims.get("aud") {
                Some(Value::String(one)) => Some(vec![one]),
                Some(Value::Array(several)) => several.iter().map(Value::as_str).collect(),
                _ => None,
            };
            let found = found.filter(|found| !found.is_empty()).ok_or(InvalidToken::Registered("aud"))?;
            if !found.iter().any(|found| self.audience.iter().any(|wanted| wanted == found)) {
                return Err(InvalidToken::Audience);
            }
        }
        Ok(())
    }
}

/// A `NumericDate` (RFC 7519, section 2): seconds since 1970 as a JSON number, perhaps fractional.
fn numeric_date(claims: &Claims, name: &'static str) -> Result<Option<f64>, InvalidToken> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(InvalidToken::Registered(name)),
    }
}
