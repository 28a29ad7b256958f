//! A rule about the callers that may do something.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use crate::access::denied::Denied;
use crate::s3::query::Query;
use crate::tokens::claims::Condition;
use crate::tokens::invalid_token::InvalidToken;
use crate::tokens::principal::Principal;
use crate::tokens::token::{self, Source};
use crate::tokens::verifier::Verifier;

/// The callers that may do something.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Everybody.
    Public,
    /// No caller: the operators' endpoints of a configuration without keys.
    Closed,
    /// The bearer of a valid token that satisfies every condition.
    Token { verifier: Arc<Verifier>, sources: Arc<[Source]>, conditions: Vec<Condition> },
}

impl Rule {
    /// Decides about a request by its headers and its query.
    pub fn authorize(
        &self,
        headers: &HeaderMap,
        query: Query<'_>,
        now: SystemTime,
    ) -> Result<Principal, Denied> {
        let principal = self.authenticate(headers, query, now)?;
        self.permit(&principal).map(|()| principal)
    }

    /// The caller, by a valid token; says nothing about whether the caller may.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        query: Query<'_>,
        now: SystemTime,
    ) -> Result<Principal, Denied> {
        let (verifier, sources) = match self {
            Self::Public => return Ok(Principal::default()),
            Self::Closed => return Err(Denied::Unconfigured),
            Self::Token { verifier, sources, .. } => (verifier, sources),
        };
        let token = token::find(sources, headers, query)?.ok_or(InvalidToken::Missing)?;
        let claims = verifier.verify(&token, now)?;
        let subject = claims.get("sub").and_then(|sub| sub.as_str()).map(str::to_owned);
        Ok(Principal { subject, claims })
    }

    /// Whether an authenticated caller may.
    pub fn permit(&self, principal: &Principal) -> Result<(), Denied> {
        let Self::Token { conditions, .. } = self else { return Ok(()) };
        match conditions.iter().find(|condition| !condition.holds(&principal.claims)) {
            Some(refusing) => Err(Denied::Claim { claim: refusing.claim().to_owned() }),
            None => Ok(()),
        }
    }
}
