//! May this request do this? Tokens (RFC 7519), keys and conditions on claims.
//!
//! Knows no configuration and no Pingora; the time is an argument. A rule is total: whatever it
//! needs was parsed when it was made, and whatever it cannot make sense of is a refusal.

pub mod cache;
pub mod claims;
pub mod denied;
pub mod invalid_token;
mod json;
mod jws;
pub mod key_set;
pub mod keys;
pub mod links;
pub mod networks;
pub mod pattern;
pub mod policy;
pub mod principal;
pub mod rule;
pub mod token;
pub mod verifier;
