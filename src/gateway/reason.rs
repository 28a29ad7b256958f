//! The words for the log about a request that did not go well.

use pingora::Error;

use crate::gateway::context::Context;
use crate::gateway::rejection::{Rejection, UpstreamError};
use crate::s3::error::Cause;

/// The cause for which the store refused our credentials, if it did.
pub(super) fn refusal(ctx: &Context) -> Option<Cause> {
    match ctx.rejection {
        Some(Rejection::Store(status)) => Cause::of(status, ctx.store_code.as_deref()),
        _ => None,
    }
}

/// Tells the log why a request went the way it went. Never holds the client's text.
pub(super) fn reason(ctx: &Context, error: Option<&Error>) -> Option<String> {
    match (&ctx.rejection, &ctx.store_code, error) {
        (Some(Rejection::Store(_)), Some(code), _) => {
            let clock_ahead = ctx.upstream.clock_ahead.filter(|_| refusal(ctx) == Some(Cause::ClockSkew));
            Some(match clock_ahead {
                Some(seconds) if seconds < 0 => format!("store: {code}, our clock is {} s behind", -seconds),
                Some(seconds) => format!("store: {code}, our clock is {seconds} s ahead"),
                None => format!("store: {code}"),
            })
        }
        (Some(Rejection::Upstream(UpstreamError::Status(status))), code, _) => {
            let code = code.as_ref().map(|code| format!(", {code}")).unwrap_or_default();
            Some(format!("upstream status: the store answered {status}{code}"))
        }
        (Some(Rejection::Upstream(kind)), _, Some(error)) => {
            Some(format!("upstream {}: {}", kind.kind(), error.etype().as_str()))
        }
        (Some(Rejection::Upstream(kind)), _, None) => Some(format!("upstream {}", kind.kind())),
        (Some(rejection), ..) => Some(rejection.in_words()),
        (None, _, Some(error)) => {
            Some(format!("{}: {}", error.esource().as_str().to_lowercase(), error.etype().as_str()))
        }
        (None, ..) => None,
    }
}
