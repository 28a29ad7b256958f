//! Who sends a request: tokens (RFC 7519), the keys that verify them, and their claims.
//!
//! Knows no configuration and no Pingora; the time is an argument. A verifier is total: everything that it
//! needs was parsed when it was made, and a token that it cannot interpret is an [`invalid_token`].

pub mod cache;
pub mod claims;
pub mod invalid_token;
mod json;
mod jws;
pub mod key_set;
pub mod keys;
pub mod principal;
pub mod token;
pub mod verifier;
