//! The caller of a request.

use std::sync::Arc;

use crate::tokens::claims::Claims;

/// The authenticated caller: the token's `sub`, if it has one, and all of its claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Principal {
    pub subject: Option<String>,
    pub claims: Arc<Claims>,
}
