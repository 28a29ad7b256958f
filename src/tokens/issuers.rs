//! Fetches the keys that issuers publish, and keeps them up to date.
//!
//! A set is fetched before its configuration goes into service, again when it has become as old as it
//! may, and when a token names an unknown key: then at most once in `refetch_seconds`, whichever request
//! causes it, and all requests with such a token wait for the same fetch. While an issuer does not
//! answer, the keys of its last answer stay in use.
//!
//! The state of the fetches belongs to the process and is keyed by the set. The caller says which sets
//! are in service; `key_set` decides what a document means.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use http::header::CACHE_CONTROL;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::telemetry::metrics::Metrics;
use crate::telemetry::units::milliseconds;
use crate::tokens::jwks::Jwks;
use crate::tokens::key_set::{InvalidSet, KeySet, MAX_DOCUMENT_BYTES};

/// The time limit of one fetch, from the look-up of the name to the last byte.
const FETCH: Duration = Duration::from_secs(5);

/// How long a request waits for a key that is not known yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// The time between two looks at which sets are due.
const TICK: Duration = Duration::from_secs(1);

pub(crate) struct Issuers {
    runtime: Handle,
    metrics: Arc<Metrics>,
    /// Keyed by the address of the set in memory, which is unique while the entry's set lives.
    fetches: Mutex<HashMap<usize, Arc<Fetching>>>,
}

/// The state of fetching one set.
struct Fetching {
    set: Weak<KeySet>,
    is_under_way: AtomicBool,
    /// Changes whenever a fetch has ended.
    ended: watch::Sender<Option<Ended>>,
    /// When a token last had the set fetched.
    asked: Mutex<Option<Instant>>,
}

/// The outcome of the last fetch.
#[derive(Clone, Copy)]
struct Ended {
    at: Instant,
    /// How long the issuer lets its answer be kept, if it said so.
    max_age: Option<Duration>,
    failed: bool,
}

impl Ended {
    fn is_due(&self, jwks: &Jwks) -> bool {
        let lifetime = match self.max_age {
            _ if self.failed => jwks.refetch,
            Some(max_age) => max_age.max(jwks.refetch),
            None => jwks.refresh,
        };
        self.at.elapsed() >= lifetime.min(jwks.refresh)
    }
}

#[derive(Debug, Error)]
enum Failure {
    #[error("the issuer cannot be reached: {0}")]
    Unreachable(String),
    #[error("the issuer answers {0}; a redirect is not followed")]
    Status(u16),
    #[error("the document {0}")]
    Invalid(#[from] InvalidSet),
    #[error("the document is larger than {MAX_DOCUMENT_BYTES} bytes or breaks off")]
    Body,
    #[error("a panic while the document was read; the document and this line are worth a report")]
    Panic,
}

impl Failure {
    /// The metric label. No label may be a suffix of another one (see `telemetry`).
    fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "status",
            Self::Invalid(_) | Self::Body | Self::Panic => "invalid",
        }
    }
}

impl Issuers {
    pub(crate) fn new(runtime: Handle, metrics: Arc<Metrics>) -> Self {
        Self { runtime, metrics, fetches: Mutex::default() }
    }

    /// Keeps the sets in service up to date, for as long as the process lives; `in_service` tells them.
    pub(crate) fn start(self: &Arc<Self>, in_service: impl Fn() -> Vec<Arc<Jwks>> + Send + 'static) {
        let issuers = self.clone();
        self.runtime.spawn(async move {
            loop {
                issuers.begin(&in_service());
                sleep(TICK).await;
            }
        });
    }

    /// Begins to fetch those sets that are due, and does not wait.
    pub(crate) fn begin(&self, sets: &[Arc<Jwks>]) {
        for jwks in sets {
            let fetching = self.fetching(jwks);
            if fetching.ended.borrow().is_none_or(|ended| ended.is_due(jwks)) {
                self.fetch(&fetching, jwks);
            }
        }
    }

    /// Fetches those sets of the next configuration that are due, and waits for the answers; for a thread
    /// outside of the runtime. The second value is a warning for each set without usable keys.
    ///
    /// A set of an earlier generation, which a rollback brings back, was not kept up to date meanwhile, and
    /// its issuer may have withdrawn a key since. If it cannot be fetched in time and is older than its
    /// `refresh_seconds`, [`Issuers::adopt`] empties it.
    pub(crate) fn warm(
        &self,
        current: &[Arc<Jwks>],
        next: &[Arc<Jwks>],
        deadline: Instant,
    ) -> (Outdated, Vec<String>) {
        self.begin(next);
        let began = Instant::now();
        let (mut outdated, mut warnings) = (Vec::new(), Vec::new());
        for jwks in next {
            let is_settled =
                |ended: &Option<Ended>| ended.is_some_and(|ended| ended.at >= began || !ended.is_due(jwks));
            let mut ended = self.fetching(jwks).ended.subscribe();
            // An answer after the deadline still reaches the set.
            let fetched = async { drop(timeout_at(deadline, ended.wait_for(is_settled)).await) };
            self.runtime.block_on(fetched);
            let is_in_service = current.iter().any(|other| Arc::ptr_eq(&other.set, &jwks.set));
            if jwks.set.age(SystemTime::now()).is_none() {
                warnings.push(format!(
                    "the keys at {} are not known yet; tokens of theirs are refused",
                    jwks.url
                ));
            } else if !is_in_service && is_outdated(jwks) {
                outdated.push(jwks.clone());
                warnings.push(format!(
                    "the keys at {} were fetched longer ago than refresh_seconds and cannot be fetched now; tokens of theirs are refused until they can",
                    jwks.url
                ));
            }
        }
        (Outdated(outdated), warnings)
    }

    /// Empties the sets that are still outdated when their configuration goes into service.
    pub(crate) fn adopt(&self, Outdated(sets): Outdated) {
        for jwks in sets.iter().filter(|jwks| is_outdated(jwks)) {
            jwks.set.forget();
        }
    }

    /// Fetches the sets because a token names an unknown key, and waits briefly for the fetches under way.
    /// `false` if there is no set, so that looking again is useless.
    pub(crate) async fn ask(&self, sets: &[Arc<Jwks>]) -> bool {
        let mut waits = Vec::new();
        for jwks in sets {
            let fetching = self.fetching(jwks);
            let mut ended = fetching.ended.subscribe();
            // A fetch already under way serves this request too, and does not use up `refetch_seconds`.
            if !fetching.is_under_way.load(Ordering::Acquire) && fetching.may_ask(jwks.refetch) {
                self.fetch(&fetching, jwks);
            }
            if fetching.is_under_way.load(Ordering::Acquire) {
                waits.push(async move { ended.changed().await.is_ok() });
            }
        }
        // After the time limit the caller still looks again, among the keys that have arrived.
        let _ = timeout(PATIENCE, join_all(waits)).await;
        !sets.is_empty()
    }

    fn fetching(&self, jwks: &Jwks) -> Arc<Fetching> {
        let mut fetches = self.fetches.lock();
        let address = Arc::as_ptr(&jwks.set).addr();
        if let Some(fetching) = fetches.get(&address).filter(|fetching| fetching.set.strong_count() > 0) {
            return fetching.clone();
        }
        fetches.retain(|_, fetching| fetching.set.strong_count() > 0);
        let fetching = Arc::new(Fetching {
            set: Arc::downgrade(&jwks.set),
            is_under_way: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            asked: Mutex::default(),
        });
        fetches.insert(address, fetching.clone());
        fetching
    }

    /// Begins a fetch, unless one is under way.
    fn fetch(&self, fetching: &Arc<Fetching>, jwks: &Jwks) {
        let Some(set) = fetching.set.upgrade() else { return };
        if fetching.is_under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        let (fetching, metrics) = (fetching.clone(), self.metrics.clone());
        let (url, roots) = (jwks.url.clone(), jwks.trust.roots.clone());
        self.runtime.spawn_blocking(move || {
            let had_failed = fetching.ended.borrow().is_some_and(|ended| ended.failed);
            let began = Instant::now();
            // Catch a panic: the set must not count as under way for ever.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let (document, max_age) = get(url.as_str(), &roots)?;
                Ok((set.learn(&document, SystemTime::now())?, max_age))
            }));
            let outcome = outcome.unwrap_or(Err(Failure::Panic));
            let label = outcome.as_ref().map_or_else(Failure::outcome, |_| "ok");
            metrics.jwks_fetches.with_label_values(&[label]).inc();
            let error = outcome.as_ref().err().map(ToString::to_string);
            debug!(%url, outcome = label, error, duration_ms = milliseconds(began.elapsed()), "keys fetched");
            let (max_age, failed) = match outcome {
                Ok((skipped, max_age)) => {
                    if had_failed {
                        info!(%url, "the keys of an issuer can be fetched again");
                    }
                    for key in skipped {
                        warn!(%url, "{key}");
                    }
                    (max_age, false)
                }
                Err(error) => {
                    if !had_failed {
                        let has_keys = set.age(SystemTime::now()).is_some();
                        warn!(%url, %error, has_keys, "the keys of an issuer cannot be fetched");
                    }
                    (None, true)
                }
            };
            fetching.is_under_way.store(false, Ordering::Release);
            fetching.ended.send_replace(Some(Ended { at: Instant::now(), max_age, failed }));
        });
    }
}

/// Key sets of an earlier generation that are too old to be trusted, for [`Issuers::adopt`].
#[must_use]
pub(crate) struct Outdated(Vec<Arc<Jwks>>);

fn is_outdated(jwks: &Jwks) -> bool {
    jwks.set.age(SystemTime::now()).is_some_and(|age| age > jwks.refresh)
}

impl Fetching {
    fn may_ask(&self, refetch: Duration) -> bool {
        let mut asked = self.asked.lock();
        let may = asked.is_none_or(|asked| asked.elapsed() >= refetch);
        if may {
            *asked = Some(Instant::now());
        }
        may
    }
}

/// The document at an address, and how long it may be kept.
fn get(url: &str, roots: &[Vec<u8>]) -> Result<(Vec<u8>, Option<Duration>), Failure> {
    let roots = match roots {
        [] => RootCerts::WebPki,
        roots => roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect::<Vec<_>>().into(),
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(FETCH))
        .http_status_as_error(false)
        // A redirect could choose the keys, so none is followed.
        .max_redirects(0)
        .accept("application/jwk-set+json, application/json")
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(|error| unreachable(&error))?;
    if response.status() != 200 {
        return Err(Failure::Status(response.status().as_u16()));
    }
    let max_age = response.headers().get(CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
    let limit = MAX_DOCUMENT_BYTES as u64;
    let document = response.body_mut().with_config().limit(limit).read_to_vec().map_err(|_| Failure::Body)?;
    Ok((document, max_age))
}

/// The failure without the address, whose query may hold a secret.
fn unreachable(error: &ureq::Error) -> Failure {
    Failure::Unreachable(match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Rustls(error) => error.to_string(),
        ureq::Error::Timeout(_) => "it takes too long".to_owned(),
        ureq::Error::HostNotFound => "its name has no address".to_owned(),
        _ => "it does not speak HTTP".to_owned(),
    })
}

/// The lifetime that `Cache-Control` gives (RFC 9111, section 5.2.2).
fn max_age(value: &str) -> Option<Duration> {
    let mut directives = value.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    directives.find_map(|directive| match directive.as_str() {
        "no-store" | "no-cache" => Some(Duration::ZERO),
        other => other.strip_prefix("max-age=")?.trim_matches('"').parse().ok().map(Duration::from_secs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifetime_is_what_cache_control_says() {
        let seconds = |value| max_age(value).map(|age| age.as_secs());
        assert_eq!(seconds("public, Max-Age=600"), Some(600));
        assert_eq!(seconds("max-age=\"5\""), Some(5));
        assert_eq!(seconds("no-cache"), Some(0));
        assert_eq!(seconds("s-maxage=5, private"), None);
        assert_eq!(seconds("max-age=soon"), None);
    }
}
