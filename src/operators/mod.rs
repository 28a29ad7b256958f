//! The operators' endpoints as decisions about a request: reloading and looking at the configuration,
//! metrics, health. Knows HTTP's words and no sockets; the gateway writes the answers.

pub(crate) mod limiter;
pub(crate) mod scrapes;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::IF_MATCH;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::access::denied::Denied;
use crate::answer::Answer;
use crate::generation::Live;
use crate::process::lifecycle::Lifecycle;
use crate::reload::attempt::{Attempt, Conditions, From, Trigger};
use crate::reload::{Reloader, Unavailable};
use crate::s3::query::Query;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::units::unix_seconds;
use crate::tokens::principal::Principal;
use limiter::Limiter;
use scrapes::Scrapes;

/// What a path that is reserved for operators means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Live,
    Ready,
    Metrics,
    Reload,
    Rollback,
    Validate,
    Status,
    Config,
    /// Something below `/admin` that does not exist.
    Unknown,
}

impl Endpoint {
    /// The endpoint at a path, if the path is one of the reserved ones.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/health" | "/healthz" => Self::Live,
            "/ready" | "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/admin/reload" => Self::Reload,
            "/admin/rollback" => Self::Rollback,
            "/admin/validate" => Self::Validate,
            "/admin/status" => Self::Status,
            "/admin/config" => Self::Config,
            _ if path == "/admin" || path.starts_with("/admin/") => Self::Unknown,
            _ => return None,
        })
    }

    /// Whether the endpoint stays on the traffic port when `admin.port` moves the others away.
    pub(crate) fn is_health(self) -> bool {
        matches!(self, Self::Live | Self::Ready)
    }

    /// Whether `admin.enabled: false` takes the endpoint away.
    pub(crate) fn is_below_admin(self) -> bool {
        !self.is_health() && self != Self::Metrics
    }

    pub(crate) fn takes_a_body(self) -> bool {
        self == Self::Validate
    }

    pub(crate) fn methods(self) -> &'static str {
        match self {
            Self::Reload | Self::Rollback | Self::Validate => "POST",
            _ => "GET, HEAD",
        }
    }
}

/// A request to one of the endpoints.
#[derive(Debug)]
pub(crate) struct Call<'r> {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: &'r Method,
    pub(crate) headers: &'r HeaderMap,
    /// Without the `?`.
    pub(crate) query: Query<'r>,
    /// Of an endpoint that takes one.
    pub(crate) body: Option<Body>,
}

#[derive(Debug)]
pub(crate) enum Body {
    Whole(Vec<u8>),
    TooLarge,
    Broken,
}

impl Body {
    /// A configuration of 10,000 buckets is 4 MiB.
    pub(crate) const MAX_BYTES: usize = 16 << 20;
}

const NO_SUCH_ENDPOINT: &str =
    "No such endpoint; there are reload, rollback, validate, status and config below /admin";

/// The longest that a status is waited for.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Answers requests to the operators' endpoints.
pub(crate) struct Operators {
    pub(crate) live: Arc<Live>,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) limiter: Limiter,
    /// The turn to make an answer that may be long, other than the metrics.
    pub(crate) turn: Arc<Semaphore>,
    pub(crate) scrapes: Scrapes,
}

impl Operators {
    pub(crate) async fn answer(self: &Arc<Self>, call: Call<'_>, principal: Principal) -> Answer {
        let Call { endpoint, method, headers, query, body } = call;
        if endpoint == Endpoint::Unknown {
            return error(404, NO_SUCH_ENDPOINT).uncached();
        }
        if !endpoint.methods().split(", ").any(|allowed| allowed == method.as_str()) {
            return error(405, "Method not allowed").allow(endpoint.methods()).uncached();
        }
        let parameters = Parameters(query);
        let answer = match endpoint {
            Endpoint::Live => Ok(Answer::text(200, "ok\n")),
            Endpoint::Ready if self.lifecycle.is_draining() => Ok(Answer::text(503, "draining\n")),
            Endpoint::Ready => Ok(Answer::text(200, "ready\n")),
            Endpoint::Metrics => self.metrics().await,
            Endpoint::Reload => self.reload(principal, parameters, headers).await,
            Endpoint::Rollback => self.rollback(principal, parameters).await,
            Endpoint::Validate => self.validate(principal, body).await,
            Endpoint::Status => self.status(parameters).await,
            Endpoint::Config => self.config(parameters).await,
            Endpoint::Unknown => Err(error(404, NO_SUCH_ENDPOINT)),
        };
        answer.unwrap_or_else(|refused| refused).uncached()
    }

    async fn reload(
        self: &Arc<Self>,
        principal: Principal,
        parameters: Parameters<'_>,
        headers: &HeaderMap,
    ) -> Result<Answer, Answer> {
        parameters.only(&["dry_run", "strict", "expect_digest"])?;
        let if_match = match headers.get(IF_MATCH).map(|value| value.to_str()) {
            None => None,
            Some(Ok("*")) => None,
            Some(Ok(tag)) => {
                let digest = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
                Some(
                    digest
                        .ok_or_else(|| error(400, "If-Match takes one digest in double quotes"))?
                        .to_owned(),
                )
            }
            Some(Err(_)) => return Err(error(400, "If-Match takes one digest in double quotes")),
        };
        let conditions = Conditions {
            dry_run: parameters.flag("dry_run")?,
            strict: parameters.flag("strict")?,
            expect_digest: parameters.text("expect_digest")?,
            if_match,
        };
        self.attempt("/admin/reload", principal, From::File, conditions).await
    }

    async fn rollback(
        self: &Arc<Self>,
        principal: Principal,
        parameters: Parameters<'_>,
    ) -> Result<Answer, Answer> {
        parameters.only(&["to"])?;
        let to = parameters.number("to")?;
        self.attempt("/admin/rollback", principal, From::Generation(to), Conditions::default()).await
    }

    async fn validate(self: &Arc<Self>, principal: Principal, body: Option<Body>) -> Result<Answer, Answer> {
        let text = match body {
            Some(Body::Whole(text)) => text,
            Some(Body::TooLarge) => return Err(error(413, "The configuration is larger than 16 MiB")),
            Some(Body::Broken) | None => return Err(error(400, "The body cannot be read")),
        };
        let conditions = Conditions { dry_run: true, ..Conditions::default() };
        self.attempt("/admin/validate", principal, From::Text(text), conditions).await
    }

    async fn attempt(
        self: &Arc<Self>,
        path: &'static str,
        principal: Principal,
        from: From,
        conditions: Conditions,
    ) -> Result<Answer, Answer> {
        let ending = || error(503, "The process is shutting down");
        if self.lifecycle.is_draining() {
            return Err(ending());
        }
        let trigger = Trigger::Admin { path, subject: principal.subject };
        let attempt = match self.reloader.reload(trigger, from, conditions).await {
            Ok(attempt) => attempt,
            Err(Unavailable::Ending) => return Err(ending()),
            Err(why @ Unavailable::Crowded) => return Err(error(503, &why.to_string()).retry_after(1)),
        };
        self.elsewhere(move |_| Answer::json(attempt.status(), &attempt.report())).await
    }

    async fn status(self: &Arc<Self>, parameters: Parameters<'_>) -> Result<Answer, Answer> {
        parameters.only(&["wait_digest", "timeout"])?;
        let mut status = 200;
        if let Some(digest) = parameters.text("wait_digest")? {
            let patience = match parameters.text("timeout")? {
                None => Duration::from_secs(30),
                Some(text) => humantime::parse_duration(&text)
                    .map_err(|_| error(400, "timeout takes a time, as `30s`"))?
                    .min(MAX_WAIT),
            };
            let outcome = tokio::select! {
                outcome = timeout(patience, self.judged(&digest)) => outcome,
                () = self.lifecycle.draining() => return Err(error(503, "The process is shutting down")),
            };
            status = match outcome {
                Ok(true) => 200,
                Ok(false) => 409,
                Err(_) => 504,
            };
        }
        self.elsewhere(move |operators| Answer::json(status, &operators.status_report())).await
    }

    /// Waits until a content is in service (`true`) or was refused.
    async fn judged(&self, digest: &str) -> bool {
        let mut attempts = self.reloader.attempts();
        let last = || self.reloader.history().last;
        let before = last().map(|attempt| attempt.id.clone());
        loop {
            attempts.mark_unchanged();
            if self.live.current().config.digest == digest {
                return true;
            }
            let error = self.reloader.history().error;
            if error.is_some_and(|attempt| attempt.digest.as_deref() == Some(digest)) {
                return false;
            }
            // A run that was late, or ended by a panic, may not know what it had read. It may have been this.
            let is_unknown = |attempt: &Attempt| attempt.is_failure() && attempt.digest.is_none();
            if last().is_some_and(|last| Some(&last.id) != before.as_ref() && is_unknown(&last)) {
                return false;
            }
            if attempts.changed().await.is_err() {
                return false;
            }
        }
    }

    fn status_report(&self) -> Value {
        let running = self.live.current();
        let config = &running.config;
        let history = self.reloader.history();
        let report = |attempt: Option<&Arc<Attempt>>| attempt.map(|attempt| attempt.report());
        let pending = history.last_published.as_ref().map(|attempt| json!(attempt.pending_restart));
        let alive: Vec<Value> = self
            .live
            .alive()
            .iter()
            .map(|alive| json!({ "generation": alive.number, "age_seconds": alive.age().as_secs_f64() }))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "config_generation": running.number,
            "digest": config.digest,
            "loaded_at": unix_seconds(running.loaded_at),
            "warnings": config.warnings,
            "file": { "path": self.reloader.path(), "digest": history.file_digest },
            "drift": history.file_digest != config.digest,
            "pending_restart": pending.unwrap_or_else(|| json!([])),
            "last_reload": report(history.last.as_ref()),
            "error_state": report(history.error.as_ref()),
            "generations_alive": alive,
            "watcher": self.reloader.watcher_status(),
            "requests_in_flight": self.lifecycle.requests_in_flight(),
            "draining": self.lifecycle.is_draining(),
            "history": history.reports(),
        })
    }

    async fn config(self: &Arc<Self>, parameters: Parameters<'_>) -> Result<Answer, Answer> {
        parameters.only(&["generation"])?;
        let config = match parameters.number("generation")? {
            None => self.live.current().config.clone(),
            Some(number) => self
                .reloader
                .history()
                .generation(number)
                .map(|restorable| restorable.config)
                .ok_or_else(|| error(404, &format!("Generation {number} is not in the history")))?,
        };
        let answer = move |operators: &Self| {
            let text = config.show_with_origin(operators.reloader.path());
            Answer::new(200, "application/yaml", text).etag(&config.digest)
        };
        self.elsewhere(answer).await
    }

    /// Makes an answer that may be of many buckets while the thread of the connection serves others; one
    /// after the other, or they would take their time from requests and pile up.
    async fn elsewhere(
        self: &Arc<Self>,
        make: impl FnOnce(&Self) -> Answer + Send + 'static,
    ) -> Result<Answer, Answer> {
        let turn = self.turn.clone().acquire_owned().await;
        let operators = self.clone();
        let made = spawn_blocking(move || {
            let answer = make(&operators);
            // Now, also where nobody waits for the answer any more.
            drop(turn);
            answer
        });
        made.await.map_err(|_| error(500, "The answer could not be made"))
    }
}

/// The parameters of a request. An unknown one is refused, because a `dryrun=true` must not reload.
#[derive(Clone, Copy)]
struct Parameters<'q>(Query<'q>);

impl Parameters<'_> {
    /// Refuses a parameter that is unknown or has two values.
    fn only(&self, known: &[&str]) -> Result<(), Answer> {
        for name in self.0.names() {
            let name = name.map_err(|why| error(400, &format!("A parameter {why}")))?;
            if !known.contains(&&*name) {
                return Err(error(400, &format!("Unknown parameter; there are {}", known.join(", "))));
            }
        }
        // Look for each known name, not for each given one, or a long query would cost its square.
        known.iter().try_for_each(|name| self.text(name).map(drop))
    }

    fn text(&self, wanted: &str) -> Result<Option<String>, Answer> {
        let text = self.0.value(wanted).map_err(|why| error(400, &format!("A parameter {why}")))?;
        Ok(text.map(Cow::into_owned))
    }

    fn flag(&self, wanted: &str) -> Result<bool, Answer> {
        match self.text(wanted)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(error(400, &format!("{wanted} takes true or false"))),
        }
    }

    fn number(&self, wanted: &str) -> Result<Option<u64>, Answer> {
        let Some(text) = self.text(wanted)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| error(400, &format!("{wanted} takes the number of a generation")))
    }
}

/// The answer where `admin.enabled: false` leaves nothing.
pub(crate) fn absent() -> Answer {
    error(404, "The operators' endpoints are switched off").uncached()
}

/// The answer to somebody who may not.
pub(crate) fn refusal(denied: &Denied) -> Answer {
    let answer = if denied.row().status == 401 {
        error(401, &format!("Authentication required: {denied}"))
    } else {
        error(403, &format!("Forbidden: {denied}"))
    };
    answer.challenge(denied.challenge().as_deref()).uncached()
}

/// The answer to a network that a valid token has to wait for too: else guessing would go on.
pub(crate) fn throttled(wait: Duration) -> Answer {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let message = format!("Too many failed log-ins from this network; try again in {seconds} s");
    error(429, &message).retry_after(seconds).uncached()
}

fn error(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({ "status": "error", "message": message }))
}
