//! The reasons why a request is not authorized, and the one table of what each of them becomes.

use thiserror::Error;

use crate::access::links::InvalidLink;
use crate::tokens::invalid_token::InvalidToken;

/// A reason why a request is not authorized. The texts are safe to show: they hold no token and no
/// claim's value.
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

/// The answer to a request that is denied or rejected, and how it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) status: u16,
    /// S3's error code.
    pub(crate) code: &'static str,
    /// The metric label, from a closed set.
    pub(crate) label: &'static str,
    /// Whether it is a failed log-in at the operators' endpoints. Too many lock the client's network out.
    pub(crate) counts_as_guess: bool,
}

impl Row {
    /// A row that is no failed log-in.
    pub(crate) const fn new(status: u16, code: &'static str, label: &'static str) -> Self {
        Self { status, code, label, counts_as_guess: false }
    }
}

impl Denied {
    #[deny(clippy::wildcard_enum_match_arm, reason = "a new variant must not compile without its row")]
    pub(crate) fn row(&self) -> Row {
        use InvalidToken as T;
        let (status, label, counts_as_guess) = match self {
            Self::Token(T::Missing) => (401, "no_token", false),
            Self::Token(T::Expired) => (401, "expired", true),
            Self::Token(
                T::TooLarge
                | T::Conflicting
                | T::Malformed
                | T::Critical
                | T::UnknownKey
                | T::KeyRetired
                | T::Algorithm
                | T::Signature
                | T::NotYetValid
                | T::Issuer
                | T::Audience
                | T::Registered(_),
            ) => (401, "bad_token", true),
            Self::Claim { .. } => (403, "claim", false),
            Self::Link(_) => (403, "link", false),
            Self::Unconfigured => (403, "unconfigured", false),
            Self::Network => (403, "network", false),
            Self::Rule => (403, "deny_rule", false),
            Self::NoRule => (403, "unmatched", false),
        };
        Row { counts_as_guess, ..Row::new(status, "AccessDenied", label) }
    }

    /// The `WWW-Authenticate` header (RFC 6750, section 3): without an error code if the request had no
    /// token; `None` if a token would not be looked at.
    #[deny(clippy::wildcard_enum_match_arm, reason = "a new variant must say whether a token helps")]
    pub(crate) fn challenge(&self) -> Option<String> {
        match self {
            Self::Token(InvalidToken::Missing) | Self::Unconfigured => Some("Bearer".to_owned()),
            // Every token that is there and does not verify has this code; `row` names them all.
            Self::Token(invalid) => {
                Some(format!("Bearer error=\"invalid_token\", error_description=\"{invalid}\""))
            }
            Self::Claim { .. } => Some("Bearer error=\"insufficient_scope\"".to_owned()),
            Self::Network | Self::Rule | Self::NoRule | Self::Link(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wrong_token_counts_as_a_guess() {
        for (denied, counts_as_guess) in [
            (Denied::Token(InvalidToken::Signature), true),
            (Denied::Token(InvalidToken::Expired), true),
            (Denied::Token(InvalidToken::Missing), false),
            (Denied::Claim { claim: "role".to_owned() }, false),
            (Denied::Unconfigured, false),
        ] {
            assert_eq!(denied.row().counts_as_guess, counts_as_guess, "{denied}");
        }
    }
}
