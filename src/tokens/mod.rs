//! The sender of a request: tokens (RFC 7519), the keys that verify them, and their claims.
//!
//! A verifier is total: everything that it needs was parsed when it was made, and a token that it cannot
//! interpret is an [`invalid_token`]. This slice knows no configuration and no Pingora. Verification is
//! pure, and the time is an argument; only [`issuers`] uses the network and a clock.

pub(crate) mod cache;
pub(crate) mod claims;
pub(crate) mod invalid_token;
pub(crate) mod issuers;
mod json;
pub(crate) mod jwks;
mod jws;
pub(crate) mod key_set;
pub(crate) mod keys;
pub(crate) mod principal;
pub(crate) mod token;
pub(crate) mod verifier;
