//! Tokens that were found good, so that the signature of one that comes again is not computed again.
//!
//! An entry says who signed a token and what it claims; whether that key still stands, and whether the
//! dates and the rules still hold, is for the reader to ask every time. Bounded; keyed by a digest, so
//! that no token is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::Weighter;
use quick_cache::sync::Cache as Entries;
use serde_json::Value;

use crate::tokens::claims::Claims;

/// The memory that one cache may take, by [`size_of_entry`]: some 10,000 tokens of a usual size.
const MAX_BYTES: u64 = 16 << 20;
const USUAL_ENTRY_BYTES: u64 = 1600;

static HITS: AtomicU64 = AtomicU64::new(0);
static MISSES: AtomicU64 = AtomicU64::new(0);

/// Tokens that were found here, and such that were not, since the process started.
pub(crate) fn lookups() -> (u64, u64) {
    (HITS.load(Ordering::Relaxed), MISSES.load(Ordering::Relaxed))
}

/// What a signature vouched for.
#[derive(Clone)]
struct Verified<S> {
    signer: S,
    claims: Arc<Claims>,
    /// Estimated once, because the cache asks for it more than once.
    bytes: u64,
}

#[derive(Clone)]
struct Weight;

impl<S> Weighter<Digest, Verified<S>> for Weight {
    fn weight(&self, _: &Digest, verified: &Verified<S>) -> u64 {
        verified.bytes
    }
}

type Digest = [u8; 32];

pub(crate) struct Cache<S>(Entries<Digest, Verified<S>, Weight>);

impl<S: Clone> Default for Cache<S> {
    fn default() -> Self {
        let usual = (MAX_BYTES / USUAL_ENTRY_BYTES) as usize;
        Self(Entries::with_weighter(usual, MAX_BYTES, Weight))
    }
}

impl<S: Clone> Cache<S> {
    pub(crate) fn clear(&self) {
        self.0.clear();
    }

    /// The entry of a token, if its signer still stands; otherwise what `verify` finds, kept when it is
    /// good.
    pub(crate) fn get_or_verify<E>(
        &self,
        token: &str,
        stands: impl FnOnce(&S) -> bool,
        verify: impl FnOnce() -> Result<(Claims, S), E>,
    ) -> Result<Arc<Claims>, E> {
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(verified) = self.0.get(&key).filter(|verified| stands(&verified.signer)) {
            HITS.fetch_add(1, Ordering::Relaxed);
            return Ok(verified.claims);
        }
        MISSES.fetch_add(1, Ordering::Relaxed);
        let (claims, signer) = verify()?;
        let claims = Arc::new(claims);
        let bytes = size_of_entry(&claims) as u64;
        self.0.insert(key, Verified { signer, claims: claims.clone(), bytes });
        Ok(claims)
    }
}

/// The memory that an entry takes, estimated.
///
/// The length of the token would not do: three characters, `[],`, become a value of 32 bytes, and eight,
/// `{"":0},`, a node of a tree of more than 600.
fn size_of_entry(claims: &Claims) -> usize {
    /// The key, the counters of the shared pointer, and the cache's own books.
    const ENTRY: usize = 200;
    ENTRY + size_of_object(claims)
}

fn size_of_object(object: &Claims) -> usize {
    /// A node of the standard library's B-tree: room for 11 members, and the links to other nodes.
    const NODE: usize = 11 * size_of::<(String, Value)>() + 112;
    /// The least members of a node, unless it is the only one.
    const FILLED: usize = 5;
    let nodes = if object.is_empty() { 0 } else { 1 + object.len() / FILLED };
    let members = object.iter().map(|(name, value)| name.capacity() + size_behind(value));
    nodes * NODE + members.sum::<usize>()
}

/// The memory that a value takes elsewhere than in its place. The depth is bounded, as the parser's is.
fn size_behind(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.capacity(),
        Value::Array(items) => {
            items.capacity() * size_of::<Value>() + items.iter().map(size_behind).sum::<usize>()
        }
        Value::Object(object) => size_of_object(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_token_is_verified_once_until_it_is_forgotten() {
        let cache = Cache::default();
        let verified = |is_good: bool| {
            let mut verified = false;
            let outcome = cache.get_or_verify(
                "token",
                |()| true,
                || {
                    verified = true;
                    is_good.then(|| (Claims::default(), ())).ok_or("bad")
                },
            );
            assert_eq!(outcome.is_ok(), is_good || !verified);
            verified
        };
        assert!(verified(false) && verified(true));
        assert!(!verified(true));
        cache.clear();
        assert!(verified(true));
    }
}
