//! Records at the level `debug`: the decision about each request, and each attempt at its store.
//!
//! They hold places of the configuration, addresses and reasons, and never a token, a header or a query
//! string. While the level is off, each costs one comparison.

use http::request::Parts;
use pingora::Error;
use tracing::{Level, debug, enabled};

use crate::gateway::admission::{Admission, Unadmitted};
use crate::gateway::context::Context;
use crate::gateway::rejection::Rejection;
use crate::routing;
use crate::s3::operation::Operation;
use crate::telemetry::units::milliseconds;

/// Tells which bucket and which rule decided about a request for an object, and why it was refused.
pub(super) fn tell_decision(ctx: &Context, request: &Parts, admitted: &Result<Admission, Unadmitted>) {
    if !enabled!(Level::DEBUG) {
        return;
    }
    let (bucket, decision, rejection) = match admitted {
        Ok(admission) => {
            let observed = admission.would_refuse();
            let decision = if observed.is_some() { "observed" } else { "admitted" };
            (Some(admission.shared_bucket()), decision, observed)
        }
        Err(unadmitted) => (unadmitted.bucket.as_ref(), "refused", Some(&unadmitted.rejection)),
    };
    debug!(
        request_id = ctx.request_id,
        generation = ctx.generation.number,
        bucket = bucket.map(|bucket| &*bucket.name),
        rule = place_of_rule(ctx, request).map(|place| format!("auth.rules[{place}]")),
        decision,
        reason = rejection.map(Rejection::in_words),
        "decision"
    );
}

/// The rule that covers a request's key, found once more because only this record needs it.
fn place_of_rule(ctx: &Context, request: &Parts) -> Option<usize> {
    let path = routing::decode(request.uri.path()).ok()?;
    let (bucket, key) = ctx.generation.config.routes.find(&path)?;
    bucket.policy.readers.place_of_rule(Operation::of(&request.method)?, key)
}

/// Tells that no connection to the store's address in turn could be made.
pub(super) fn tell_unconnected(ctx: &Context, error: &Error) {
    debug!(
        request_id = ctx.request_id,
        bucket = ctx.bucket.as_ref().map(|bucket| &*bucket.name),
        address = ctx.upstream.candidates.first().map(ToString::to_string),
        outcome = error.etype().as_str(),
        "attempt at the store"
    );
}

/// Tells what an attempt over a connection came to: the status of an answer, or an error in place of one.
/// Says nothing about what happens after the header of an answer.
pub(super) fn tell_attempt(ctx: &mut Context, outcome: &str) {
    let Some(is_reused) = ctx.upstream.is_reused.take() else { return };
    debug!(
        request_id = ctx.request_id,
        bucket = ctx.bucket.as_ref().map(|bucket| &*bucket.name),
        address = ctx.upstream.candidates.first().map(ToString::to_string),
        connection = if is_reused { "reused" } else { "new" },
        header_ms = ctx.upstream.latency.map(milliseconds),
        outcome,
        "attempt at the store"
    );
}
