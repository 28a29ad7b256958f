//! Why a request is not authorized.

use thiserror::Error;

use crate::access::links::InvalidLink;
use crate::tokens::invalid_token::InvalidToken;

/// Why a request is not authorized. The texts are safe to show: they hold no token and no claim's value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// A valid token whose claim does not satisfy a condition of the rule.
    #[error("A claim is not what the rule asks for")]
    Claim { claim: String },
    /// No keys are configured, so no token can be verified.
    #[error("Authentication is not configured")]
    Unconfigured,
    /// The client's network is not allowed for this bucket.
    #[error("The client's network is not allowed")]
    Network,
    /// The rule for the object is `deny`.
    #[error("A rule denies it")]
    Rule,
    /// The bucket has rules, and no pattern covers the object.
    #[error("No rule allows it")]
    NoRule,
    #[error("{0}")]
    Link(InvalidLink),
}

impl Denied {
    /// Whether another token could help; false means that this one was understood and refused, or that
    /// none is asked for.
    pub fn is_unauthenticated(&self) -> bool {
        match self {
            Self::Token(_) | Self::Link(_) => true,
            Self::Claim { .. } | Self::Unconfigured | Self::Network | Self::Rule | Self::NoRule => false,
        }
    }

    /// The `WWW-Authenticate` header (RFC 6750, section 3): no error code when nothing was shown, no
    /// header when no token would be looked at.
    pub fn challenge(&self) -> Option<String> {
        match self {
            Self::Token(InvalidToken::Missing) | Self::Unconfigured => Some("Bearer".to_owned()),
            Self::Claim { .. } => Some("Bearer error=\"insufficient_scope\"".to_owned()),
            Self::Network | Self::Rule | Self::NoRule | Self::Link(_) => None,
            Self::Token(invalid) => {
                Some(format!("Bearer error=\"invalid_token\", error_description=\"{invalid}\""))
            }
        }
    }
}
