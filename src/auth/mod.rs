//! May this request do this? Tokens (RFC 7519), keys and conditions on claims.
//!
//! Knows no configuration and no Pingora; the time is an argument. A rule is total: whatever it
//! needs was parsed when it was made, and whatever it cannot make sense of is a refusal.

pub mod cache;
pub mod claims;
mod json;
mod jws;
pub mod key_set;
pub mod keys;
pub mod links;
pub mod networks;
pub mod pattern;
pub mod policy;
pub mod token;
pub mod verifier;

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use thiserror::Error;

use claims::{Claims, Condition};
use links::InvalidLink;
use token::Source;
use verifier::Verifier;

/// Why a request is not authorized. The texts are safe to show: no token, no claim's value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    #[error("Missing token")]
    NoToken,
    #[error("Token too large")]
    TooLarge,
    /// One place holds two different tokens.
    #[error("Conflicting tokens")]
    Conflicting,
    #[error("Malformed token")]
    Malformed,
    #[error("Unsupported critical header")]
    Critical,
    /// No key is the one that the token speaks of; one may have been published meanwhile.
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
    /// A good token that a condition refuses.
    #[error("A claim is not what the rule asks for")]
    Claim { claim: String },
    /// There is no way to prove anything: no keys are configured.
    #[error("Authentication is not configured")]
    Unconfigured,
    /// Not from there.
    #[error("The client's network is not allowed")]
    Network,
    /// The rule for the object is to refuse.
    #[error("A rule denies it")]
    Rule,
    /// Where there are rules, what none allows is refused.
    #[error("No rule allows it")]
    NoRule,
    #[error("{0}")]
    Link(InvalidLink),
}

impl Denied {
    /// Whether another token could help; false means that this one was understood and refused, or that
    /// none is asked for.
    pub fn is_unauthenticated(&self) -> bool {
        !matches!(self, Self::Claim { .. } | Self::Unconfigured | Self::Network | Self::Rule | Self::NoRule)
    }

    /// The `WWW-Authenticate` header (RFC 6750, section 3): no error code when nothing was shown, no
    /// header when no token would be looked at.
    pub fn challenge(&self) -> Option<String> {
        match self {
            Self::NoToken | Self::Unconfigured => Some("Bearer".to_owned()),
            Self::Claim { .. } => Some("Bearer error=\"insufficient_scope\"".to_owned()),
            Self::Network | Self::Rule | Self::NoRule | Self::Link(_) => None,
            _ => Some(format!("Bearer error=\"invalid_token\", error_description=\"{self}\"")),
        }
    }
}

/// Who may do something.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Everybody.
    Public,
    /// Nobody: the operators' endpoints of a configuration without keys.
    Closed,
    /// The bearer of a valid token that satisfies every condition.
    Token { verifier: Arc<Verifier>, sources: Arc<[Source]>, conditions: Vec<Condition> },
}

/// Whom a token speaks for: its `sub`, when it has one, and all that it claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Principal {
    pub subject: Option<String>,
    pub claims: Arc<Claims>,
}

impl Rule {
    /// Decides about a request by its headers and its query string (without the `?`).
    pub fn authorize(&self, headers: &HeaderMap, query: &str, now: SystemTime) -> Result<Principal, Denied> {
        let principal = self.authenticate(headers, query, now)?;
        self.permit(&principal).map(|()| principal)
    }

    /// Who asks, by a valid token; not yet whether that one may.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        query: &str,
        now: SystemTime,
    ) -> Result<Principal, Denied> {
        let (verifier, sources) = match self {
            Self::Public => return Ok(Principal::default()),
            Self::Closed => return Err(Denied::Unconfigured),
            Self::Token { verifier, sources, .. } => (verifier, sources),
        };
        let token = token::find(sources, headers, query)?.ok_or(Denied::NoToken)?;
        let claims = verifier.verify(&token, now)?;
        let subject = claims.get("sub").and_then(|sub| sub.as_str()).map(str::to_owned);
        Ok(Principal { subject, claims })
    }

    /// Whether somebody who was authenticated may.
    pub fn permit(&self, principal: &Principal) -> Result<(), Denied> {
        let Self::Token { conditions, .. } = self else { return Ok(()) };
        match conditions.iter().find(|condition| !condition.holds(&principal.claims)) {
            Some(refusing) => Err(Denied::Claim { claim: refusing.claim().to_owned() }),
            None => Ok(()),
        }
    }
}
