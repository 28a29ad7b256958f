//! The operators' endpoints: reload, status, metrics and health, as decisions about a request.
//! Knows HTTP's words and no sockets; the gateway writes the answers.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::auth::{Denied, Principal};
use crate::generation::{Generation, Live};
use crate::lifecycle::Lifecycle;
use crate::logging;
use crate::metrics::Metrics;
use crate::reload::{Published, Refused, Reloader, Trigger, milliseconds};

/// What a path that is reserved for operators means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Live,
    Ready,
    Metrics,
    Reload,
    Status,
    /// Something below `/admin` that does not exist.
    Unknown,
}

impl Endpoint {
    /// The endpoint at a path, if the path is one of the reserved ones.
    pub fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/health" | "/healthz" => Self::Live,
            "/ready" | "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/admin/reload" => Self::Reload,
            "/admin/status" => Self::Status,
            _ if path == "/admin" || path.starts_with("/admin/") => Self::Unknown,
            _ => return None,
        })
    }

    /// Whether the endpoint stays on the traffic port when `admin.port` moves the others away.
    pub fn is_health(self) -> bool {
        matches!(self, Self::Live | Self::Ready)
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Reload => "POST",
            _ => "GET, HEAD",
        }
    }
}

/// Answers requests to the operators' endpoints.
pub struct Operators {
    pub live: Arc<Live>,
    pub reloader: Arc<Reloader>,
    pub metrics: Arc<Metrics>,
    pub lifecycle: Arc<Lifecycle>,
}

impl Operators {
    pub async fn answer(
        &self,
        endpoint: Endpoint,
        generation: &Generation,
        method: &Method,
        headers: &HeaderMap,
    ) -> Answer {
        let is_open = endpoint.is_health() || endpoint == Endpoint::Metrics;
        // Who may not know an endpoint may not know its methods either.
        let principal = if is_open {
            Principal::default()
        } else {
            match generation.config.operators.rule.authorize(headers, "", SystemTime::now()) {
                Ok(principal) => principal,
                Err(denied) => return refusal(&denied),
            }
        };
        if endpoint == Endpoint::Unknown {
            let message = "No such endpoint; there are /admin/reload and /admin/status";
            return error(404, message).uncached();
        }
        if !endpoint.methods().split(", ").any(|allowed| allowed == method.as_str()) {
            return error(405, "Method not allowed").allow(endpoint.methods()).uncached();
        }
        match endpoint {
            Endpoint::Live => Answer::text(200, "ok\n"),
            Endpoint::Ready if self.lifecycle.is_draining() => Answer::text(503, "draining\n"),
            Endpoint::Ready => Answer::text(200, "ready\n"),
            Endpoint::Metrics => self.metrics(),
            Endpoint::Reload => self.reload(principal).await,
            Endpoint::Status => self.status(),
            Endpoint::Unknown => error(404, "No such endpoint"),
        }
        .uncached()
    }

    fn metrics(&self) -> Answer {
        let in_flight = self.lifecycle.requests_in_flight();
        self.metrics.requests_in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        Answer::new(200, Metrics::CONTENT_TYPE, self.metrics.text(logging::dropped_lines()))
    }

    async fn reload(&self, principal: Principal) -> Answer {
        if self.lifecycle.is_draining() {
            return error(503, "The process is shutting down");
        }
        match self.reloader.reload(Trigger::Admin { subject: principal.subject }).await {
            Some(Ok(published)) => Answer::json(200, &success(&published)),
            Some(Err(refused)) => Answer::json(if refused.timed_out { 504 } else { 400 }, &failure(&refused)),
            None => error(503, "The process is shutting down"),
        }
    }

    fn status(&self) -> Answer {
        let running = self.live.current();
        let history = self.reloader.history();
        let last = history.last.as_ref().map(|outcome| match outcome {
            Ok(published) => success(published),
            Err(refused) => failure(refused),
        });
        let pending = history.last_published.map_or(json!([]), |published| json!(published.pending_restart));
        Answer::json(
            200,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "pid": std::process::id(),
                "config_generation": running.number,
                "digest": running.config.digest,
                "loaded_at": unix_seconds(running.loaded_at),
                "warnings": running.config.warnings,
                "pending_restart": pending,
                "last_reload": last,
                "requests_in_flight": self.lifecycle.requests_in_flight(),
                "draining": self.lifecycle.is_draining(),
            }),
        )
    }
}

/// The body of a reload that took effect.
fn success(published: &Published) -> Value {
    let config = &published.generation.config;
    json!({
        "status": "success",
        "message": "Configuration reloaded successfully",
        "config_generation": published.generation.number,
        "timestamp": unix_seconds(published.at),
        "unchanged": published.changes.is_empty(),
        "changes": published.changes,
        "pending_restart": published.pending_restart,
        "warnings": config.warnings,
        "digest": config.digest,
        "duration_ms": milliseconds(published.duration),
    })
}

fn failure(refused: &Refused) -> Value {
    json!({
        "status": "error",
        "message": "Configuration reload failed",
        "error": refused.problems.summary(),
        "errors": refused.problems.lines().collect::<Vec<_>>(),
        "config_generation": refused.generation,
        "timestamp": unix_seconds(refused.at),
        "duration_ms": milliseconds(refused.duration),
    })
}

fn refusal(denied: &Denied) -> Answer {
    if denied.is_unauthenticated() {
        let answer = error(401, &format!("Authentication required: {denied}"));
        answer.challenge(&denied.challenge()).uncached()
    } else {
        error(403, &format!("Forbidden: {denied}")).challenge(&denied.challenge()).uncached()
    }
}

fn error(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({ "status": "error", "message": message }))
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
