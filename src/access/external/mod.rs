//! Services that decide about requests: asks them over HTTP, remembers what they said, and leaves one
//! alone for a while that does not answer.
//!
//! Only an answer can be a yes: whatever goes wrong is a failure, and failures are not remembered.
//! Belongs to the process, not to a generation: what it knows is keyed by the address of the service.
//! Knows no request, only the JSON about it. The form is that of Open Policy Agent's data API.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use pingora::connectors::http::v1::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use quick_cache::sync::Cache;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::net::peer;
use crate::net::resolver::Resolver;
use crate::s3::Endpoint;
use crate::secret::Secret;

/// A longer answer is none.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Answers that are remembered, of all services together.
const REMEMBERED: usize = 16_384;

/// Services whose failures are remembered.
const KNOWN: usize = 1024;

/// The time that an unused connection is kept; services close theirs later.
const IDLE: Duration = Duration::from_secs(15);

/// A service that decides about requests.
#[derive(Debug)]
pub struct External {
    /// As it is written; by it the service is known.
    pub url: Secret,
    pub endpoint: Endpoint,
    /// Path and query.
    pub target: Secret,
    pub timeout: Duration,
    /// How long its answers are believed; zero for the one request that they are about.
    pub cache: Duration,
}

/// The answer of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub allows: bool,
    /// It was given for an earlier request that was the same.
    pub is_remembered: bool,
}

impl Decision {
    /// The metric label. None is the end of another one, nor of a failure's.
    pub fn outcome(self) -> &'static str {
        match (self.allows, self.is_remembered) {
            (true, false) => "allow",
            (false, false) => "deny",
            (true, true) => "allow_cached",
            (false, true) => "deny_cached",
        }
    }
}

/// Why there is no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    #[error("the service did not answer in time")]
    Timeout,
    #[error("the service cannot be reached")]
    Unreachable,
    #[error("the service answered with status {0}")]
    Status(u16),
    /// No JSON, more of it than is read, or cut off.
    #[error("the service's answer cannot be read")]
    Malformed,
    #[error("the service has failed too often and is left alone for a moment")]
    Paused,
}

impl Failure {
    /// The metric label.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Status(_) => "status",
            Self::Malformed => "malformed",
            Self::Paused => "paused",
        }
    }
}

pub(crate) struct Services {
    connector: Connector,
    resolver: Arc<Resolver>,
    /// By digest of the URL.
    breakers: Cache<[u8; 32], Arc<Mutex<Breaker>>>,
    /// Decisions with the time of the question, by digest of URL and question.
    answers: Cache<[u8; 32], (bool, Instant)>,
}

impl Services {
    /// Panics, as Pingora does, where the system's root certificates cannot be read.
    pub(crate) fn new(resolver: Arc<Resolver>) -> Self {
        Self {
            connector: Connector::new(None),
            resolver,
            breakers: Cache::new(KNOWN),
            answers: Cache::new(REMEMBERED),
        }
    }

    /// Has a question about a bucket decided, which is the JSON for the service.
    pub(crate) async fn ask(
        &self,
        bucket: &str,
        external: &External,
        question: &str,
    ) -> Result<Decision, Failure> {
        let service = Sha256::digest(external.url.expose()).into();
        let digest = (!external.cache.is_zero())
            .then(|| Sha256::new().chain_update(service).chain_update(question).finalize().into());
        if let Some((allows, asked)) = digest.and_then(|digest| self.answers.get(&digest))
            && asked.elapsed() < external.cache
        {
            return Ok(Decision { allows, is_remembered: true });
        }
        let breaker = self.breaker(service);
        let asked = Instant::now();
        let turn = breaker.lock().turn(asked, external.timeout).ok_or(Failure::Paused)?;
        let answer = timeout(external.timeout, self.post(external, question)).await;
        match answer.unwrap_or(Err(Failure::Timeout)) {
            Ok(allows) => {
                if breaker.lock().answered() {
                    info!(bucket, "the service for external decisions answers again");
                }
                if let Some(digest) = digest {
                    self.answers.insert(digest, (allows, asked));
                }
                Ok(Decision { allows, is_remembered: false })
            }
            Err(failure) => {
                if breaker.lock().failed(turn, Instant::now()) {
                    let reason = failure.to_string();
                    // Without the address, in which there may be a secret.
                    warn!(bucket, reason, "the service for external decisions is left alone for a moment");
                }
                Err(failure)
            }
        }
    }

    fn breaker(&self, service: [u8; 32]) -> Arc<Mutex<Breaker>> {
        match self.breakers.get_or_insert_with(&service, || Ok::<_, Infallible>(Arc::default())) {
            Ok(breaker) => breaker,
        }
    }

    async fn post(&self, external: &External, question: &str) -> Result<bool, Failure> {
        let host = &external.endpoint.host;
        let addresses = self.resolver.addresses(host, external.timeout).await;
        // No attempt may use up the time of the following ones.
        let share = external.timeout / addresses.len().max(1) as u32;
        for address in addresses {
            let mut peer = peer::at(&external.endpoint, address);
            peer.options.total_connection_timeout = Some(share);
            while let Ok((session, is_reused)) = self.connector.get_http_session(&peer).await {
                match self.exchange(session, &peer, external, question).await {
                    // A pooled connection may close in the moment in which it is used, and to ask twice
                    // does no harm.
                    Err(Failure::Unreachable) if is_reused => {}
                    outcome => return outcome,
                }
            }
            self.resolver.avoid(host, address);
        }
        Err(Failure::Unreachable)
    }

    /// Unreachable, as long as there is no answer.
    async fn exchange(
        &self,
        mut session: HttpSession,
        peer: &HttpPeer,
        external: &External,
        question: &str,
    ) -> Result<bool, Failure> {
        let status = send(&mut session, external, question).await.map_err(|_| Failure::Unreachable)?;
        if status != StatusCode::OK {
            return Err(Failure::Status(status.as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = session.read_body_bytes().await.map_err(|_| Failure::Malformed)? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Malformed);
            }
            body.extend_from_slice(&piece);
        }
        self.connector.release_http_session(session, peer, Some(IDLE)).await;
        serde_json::from_slice(&body).map(|answer| allows(&answer)).map_err(|_| Failure::Malformed)
    }
}

/// Sends a question, and reads the answer up to its body.
async fn send(session: &mut HttpSession, external: &External, question: &str) -> pingora::Result<StatusCode> {
    let mut request = RequestHeader::build(Method::POST, external.target.expose().as_bytes(), Some(3))?;
    request.insert_header(HOST, external.endpoint.authority())?;
    request.insert_header(CONTENT_TYPE, "application/json")?;
    request.insert_header(CONTENT_LENGTH, question.len())?;
    session.write_request_header(Box::new(request)).await?;
    session.write_body(question.as_bytes()).await?;
    session.finish_body().await?;
    loop {
        session.read_response().await?;
        match session.get_status() {
            // Something may come before the answer (RFC 9110, section 15.2); another protocol is none.
            Some(status) if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS => {}
            Some(status) => return Ok(status),
            None => return Err(Error::new_up(ErrorType::InvalidHTTPHeader)),
        }
    }
}

/// `true` alone is a yes, as `result` or as `allow` in it. A rule that is undefined has no `result`.
fn allows(answer: &Value) -> bool {
    let result = answer.get("result");
    let decision = result.and_then(|result| result.get("allow")).or(result);
    decision == Some(&Value::Bool(true))
}

/// Failures in a row until a service is left alone.
const MAX_FAILURES: u32 = 5;

/// The first pause; each that follows without an answer in between is twice as long, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// Whether a service is asked (a circuit breaker). After a pause one question goes out as a probe.
#[derive(Default)]
struct Breaker {
    /// In a row.
    failures: u32,
    pause: Option<Pause>,
}

struct Pause {
    length: Duration,
    ends: Instant,
}

/// Leave to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Plain,
    Probe,
}

impl Breaker {
    /// `None` during a pause. `timeout` is for the question.
    fn turn(&mut self, now: Instant, timeout: Duration) -> Option<Turn> {
        match &mut self.pause {
            None => Some(Turn::Plain),
            Some(pause) if now < pause.ends => None,
            Some(pause) => {
                // The probe sets another end; unless nobody waits for it any more, and then the next one may.
                pause.ends = now + timeout + pause.length;
                Some(Turn::Probe)
            }
        }
    }

    /// Whether this ends a pause.
    fn answered(&mut self) -> bool {
        self.failures = 0;
        self.pause.take().is_some()
    }

    /// Whether this begins a pause.
    fn failed(&mut self, turn: Turn, now: Instant) -> bool {
        match &mut self.pause {
            None => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES {
                    self.pause = Some(Pause { length: FIRST_PAUSE, ends: now + FIRST_PAUSE });
                }
                self.pause.is_some()
            }
            Some(pause) => {
                // Questions that were under way when the pause began say nothing new.
                if turn == Turn::Probe {
                    pause.length = (pause.length * 2).min(LAST_PAUSE);
                    pause.ends = now + pause.length;
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_true_is_a_yes() {
        for (answer, yes) in [
            (r#"{"result": true}"#, true),
            (r#"{"result": {"allow": true}}"#, true),
            (r#"{"result": {"allow": true, "why": "x"}, "decision_id": "1"}"#, true),
            (r#"{"result": false}"#, false),
            (r#"{"result": {"allow": false}}"#, false),
            (r#"{"result": {"allow": "true"}}"#, false),
            (r#"{"result": {"allow": {"allow": true}}}"#, false),
            (r#"{"result": {}}"#, false),
            (r#"{"result": "true"}"#, false),
            (r#"{"result": 1}"#, false),
            (r#"{"result": [true]}"#, false),
            (r#"{"result": null}"#, false),
            (r#"{"allow": true}"#, false),
            ("{}", false),
            ("[]", false),
            ("true", false),
            ("null", false),
        ] {
            assert_eq!(allows(&serde_json::from_str(answer).expect("JSON")), yes, "{answer}");
        }
    }

    #[test]
    fn pauses_grow_and_one_question_probes() {
        const TIMEOUT: Duration = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for failure in 1..=MAX_FAILURES {
            assert_eq!(breaker.turn(now, TIMEOUT), Some(Turn::Plain));
            assert_eq!(breaker.failed(Turn::Plain, now), failure == MAX_FAILURES);
        }
        // Failures of questions that were in flight do not count again.
        assert!(!breaker.failed(Turn::Plain, now));
        for pause_ms in [500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            let pause = Duration::from_millis(pause_ms);
            assert_eq!(breaker.turn(now + pause - Duration::from_millis(1), TIMEOUT), None);
            now += pause;
            assert_eq!(breaker.turn(now, TIMEOUT), Some(Turn::Probe));
            assert_eq!(breaker.turn(now + TIMEOUT, TIMEOUT), None, "one at a time");
            now += TIMEOUT;
            assert!(!breaker.failed(Turn::Probe, now));
        }
        now += LAST_PAUSE;
        assert_eq!(breaker.turn(now, TIMEOUT), Some(Turn::Probe));
        // A probe that nobody waits for any more.
        now += TIMEOUT + LAST_PAUSE;
        assert_eq!(breaker.turn(now, TIMEOUT), Some(Turn::Probe));
        assert!(breaker.answered());
        assert_eq!(breaker.turn(now, TIMEOUT), Some(Turn::Plain));
        // The count begins anew.
        assert!((1..MAX_FAILURES).all(|_| !breaker.failed(Turn::Plain, now)));
        assert!(!breaker.answered());
        assert!(!breaker.failed(Turn::Plain, now));
    }

    #[test]
    fn no_outcome_is_the_end_of_another() {
        use Failure as F;
        let decisions = [(true, false), (false, false), (true, true), (false, true)]
            .map(|(allows, is_remembered)| Decision { allows, is_remembered }.outcome());
        let failures = [F::Timeout, F::Unreachable, F::Status(500), F::Malformed, F::Paused].map(F::kind);
        let all = [decisions.as_slice(), &failures].concat();
        for one in &all {
            assert!(all.iter().all(|other| other == one || !other.ends_with(one)), "{one}");
        }
    }
}
