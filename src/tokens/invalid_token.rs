//! Why a token proves nothing.

use thiserror::Error;

/// Why no caller is known by a token. The texts are safe to show: they hold no token and no claim's value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidToken {
    #[error("Missing token")]
    Missing,
    #[error("Token too large")]
    TooLarge,
    /// Two different tokens in places of the same kind.
    #[error("Conflicting tokens")]
    Conflicting,
    #[error("Malformed token")]
    Malformed,
    #[error("Unsupported critical header")]
    Critical,
    /// No known key fits the token's header. The issuer may have published one since the last fetch.
    #[error("Unknown key")]
    UnknownKey,
    #[error("Key no longer accepted")]
    KeyRetired,
    #[error("Wrong algorithm")]
    Algorithm,
    #[error("Invalid signature")]
    Signature,
    #[error("Token expired")]
    Expired,
    #[error("Token not yet valid")]
    NotYetValid,
    #[error("Wrong issuer")]
    Issuer,
    #[error("Wrong audience")]
    Audience,
    #[error("Missing or malformed claim: {0}")]
    Registered(&'static str),
}
