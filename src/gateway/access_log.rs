//! The one log line and the one observation of a request.

use std::time::Duration;

use http::{Method, StatusCode};
use tracing::{debug, info};

use crate::access::external::{Decision, Failure};
use crate::gateway::address::Client;
use crate::gateway::rejection::{Rejection, UpstreamError};
use crate::s3::error::Cause;
use crate::telemetry::metrics::{Metrics, NO_BUCKET};
use crate::telemetry::units::milliseconds;

/// What there is to say of a request that ended.
pub(super) struct Access<'a> {
    pub request_id: &'a str,
    pub generation: u64,
    /// The operator's name of the bucket, if the request belongs to one.
    pub bucket: Option<&'a str>,
    pub method: &'a Method,
    /// Without the query string, which may hold a token.
    pub path: &'a str,
    pub client: Option<Client>,
    /// Who an operator is.
    pub actor: Option<&'a str>,
    pub status: StatusCode,
    pub bytes: usize,
    pub duration: Duration,
    pub upstream: Option<Duration>,
    pub rejection: Option<&'a Rejection>,
    /// The refusal that a part of the bucket which is observed only let pass.
    pub would_refuse: Option<&'a Rejection>,
    /// What the store had against whom we sign as.
    pub refusal: Option<Cause>,
    pub reason: Option<String>,
}

/// The status of a request whose client went away before it was answered, as nginx has it.
pub(super) const CLIENT_CLOSED: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => unreachable!(),
};

impl Access<'_> {
    pub(super) fn record(&self, metrics: &Metrics) {
        let bucket = self.bucket.unwrap_or(NO_BUCKET);
        metrics.requests.with_label_values(&[bucket, method_label(self.method), self.status.as_str()]).inc();
        metrics.request_duration.with_label_values(&[bucket]).observe(self.duration.as_secs_f64());
        match self.rejection {
            None | Some(Rejection::Store(_)) => {}
            Some(rejection) => metrics.rejections.with_label_values(&[rejection.label()]).inc(),
        }
        let would_refuse = self.would_refuse.map(Rejection::label);
        if let Some(reason) = would_refuse {
            metrics.would_refuse.with_label_values(&[bucket, reason]).inc();
        }
        if let Some(refusal) = self.refusal {
            metrics.store_refusals.with_label_values(&[bucket, refusal.label()]).inc();
        }
        info!(
            request_id = self.request_id,
            generation = self.generation,
            bucket,
            method = self.method.as_str(),
            path = self.path,
            client = self.client.map(|client| client.to_string()),
            actor = self.actor,
            status = self.status.as_u16(),
            bytes = self.bytes,
            duration_ms = milliseconds(self.duration),
            upstream_ms = self.upstream.map(milliseconds),
            reason = self.reason,
            would_refuse,
            "request"
        );
    }
}

/// Counts a failure between the proxy and the store, once per failure and not per request.
pub(super) fn count_upstream_error(metrics: &Metrics, bucket: &str, error: UpstreamError) {
    metrics.upstream_errors.with_label_values(&[bucket, error.kind()]).inc();
}

/// Counts what a service decided about a request, or that it did not, and tells it at `debug`.
pub(super) fn count_external_decision(metrics: &Metrics, bucket: &str, decision: &Result<Decision, Failure>) {
    let outcome = match decision {
        Ok(decision) => decision.outcome(),
        Err(failure) => failure.kind(),
    };
    metrics.external_decisions.with_label_values(&[bucket, outcome]).inc();
    debug!(bucket, outcome, "external decision");
}

/// From a closed set: a client could send any word. None is the end of another one.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::POST => "POST",
        _ => "other",
    }
}
