//! Who sends a request: tokens (RFC 7519), the keys that verify them, and their claims.
//!
//! Knows no configuration and no Pingora; the time is an argument. A verifier is total: everything that it
//! needs was parsed when it was made, and a token that it cannot interpret is an [`invalid_token`].

pub(crate) mod cache;
pub(crate) mod claims;
pub(crate) mod invalid_token;
mod json;
mod jws;
pub(crate) mod jwks;
pub(crate) mod key_set;
pub(crate) mod keys;
pub(crate) mod principal;
pub(crate) mod token;
pub(crate) mod verifier;
