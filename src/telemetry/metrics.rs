//! Every metric: its name, help and labels, in one place.
//!
//! Label values come from closed sets: names of configured buckets, methods and kinds of this
//! program, status codes. `prometheus` 0.14 tells children apart by a hash over the concatenated
//! values, so no value of a last label may be the end of another one; a test holds us to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

/// The `bucket` of a request that belongs to none; no bucket can have this name.
pub(crate) const NO_BUCKET: &str = "-";

pub struct Metrics {
    registry: Registry,
    reload_success: IntCounter,
    reload_failure: IntCounter,
    generation: IntGauge,
    hash: IntGauge,
    last_reload_successful: IntGauge,
    last_reload_timestamp: Gauge,
    pending_restart: IntGauge,
    pub requests: IntCounterVec,
    pub request_duration: HistogramVec,
    pub requests_in_flight: IntGauge,
    pub connections_open: IntGauge,
    pub connections_refused: IntCounter,
    pub rejections: IntCounterVec,
    pub would_refuse: IntCounterVec,
    pub upstream_errors: IntCounterVec,
    pub external_decisions: IntCounterVec,
    pub jwks_fetches: IntCounterVec,
    jwks_age: Gauge,
    jwks_without_keys: IntGauge,
    verified_tokens: IntCounterVec,
    pub store_refusals: IntCounterVec,
    pub credentials_refreshes: IntCounterVec,
    credentials_expiry: GaugeVec,
    log_lines_dropped: IntCounter,
    generations_alive: IntGauge,
    oldest_generation_age: Gauge,
    buckets: Mutex<Buckets>,
}

/// The buckets that may have series.
#[derive(Default)]
struct Buckets {
    in_service: HashSet<Arc<str>>,
    /// Whether the series of a bucket that was removed may still be there.
    has_leftovers: bool,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            registry: Registry::new(),
            reload_success: IntCounter::new(
                "config_reload_success_total",
                "Configuration reloads that took effect.",
            )?,
            reload_failure: IntCounter::new(
                "config_reload_failure_total",
                "Configuration reloads that were refused and changed nothing.",
            )?,
            generation: IntGauge::new(
                "config_generation",
                "Number of the configuration generation in service.",
            )?,
            hash: IntGauge::new(
                "config_hash",
                "The first 48 bits of the digest of the configuration in service, as a number.",
            )?,
            last_reload_successful: IntGauge::new(
                "config_last_reload_successful",
                "Whether the last configuration reload took effect.",
            )?,
            last_reload_timestamp: Gauge::new(
                "config_last_reload_timestamp_seconds",
                "Unix time at which the last configuration reload attempt ended.",
            )?,
            pending_restart: IntGauge::new(
                "config_pending_restart",
                "Restart-only configuration keys that differ from the running ones.",
            )?,
            requests: IntCounterVec::new(
                Opts::new("yatagarasu_http_requests_total", "HTTP requests answered."),
                &["bucket", "method", "status"],
            )?,
            request_duration: HistogramVec::new(
                HistogramOpts::new(
                    "yatagarasu_http_request_duration_seconds",
                    "Time from a request's header to the end of its response.",
                )
                .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0]),
                &["bucket"],
            )?,
            requests_in_flight: IntGauge::new(
                "yatagarasu_http_requests_in_flight",
                "HTTP requests under way.",
            )?,
            connections_open: IntGauge::new(
                "yatagarasu_connections_open",
                "Clients' connections on the traffic port.",
            )?,
            connections_refused: IntCounter::new(
                "yatagarasu_connections_refused_total",
                "Connections closed at once because `limits.connections` were open.",
            )?,
            rejections: IntCounterVec::new(
                Opts::new(
                    "yatagarasu_rejections_total",
                    "Requests that were answered with an error of our own.",
                ),
                &["reason"],
            )?,
            would_refuse: IntCounterVec::new(
                Opts::new(
                    "yatagarasu_would_refuse_total",
                    "Requests let through that would be refused if nothing were observed only.",
                ),
                &["bucket", "reason"],
            )?,
            upstream_errors: IntCounterVec::new(
                Opts::new("yatagarasu_upstream_errors_total", "Failures between the proxy and the store."),
                &["bucket", "kind"],
            )?,
            external_decisions: IntCounterVec::new(
                Opts::new("yatagarasu_external_decisions_total", "What services decided about requests."),
                &["bucket", "outcome"],
            )?,
            jwks_fetches: IntCounterVec::new(
                Opts::new("yatagarasu_jwks_fetches_total", "Fetches of the keys that issuers publish."),
                &["outcome"],
            )?,
            jwks_age: Gauge::new(
                "yatagarasu_jwks_age_seconds",
                "Time since the oldest set of published keys in service was last confirmed.",
            )?,
            jwks_without_keys: IntGauge::new(
                "yatagarasu_jwks_without_keys",
                "Sets of published keys in service that were never fetched; their tokens are refused.",
            )?,
            verified_tokens: IntCounterVec::new(
                Opts::new(
                    "yatagarasu_token_cache_lookups_total",
                    "Tokens that were looked for among those verified already.",
                ),
                &["result"],
            )?,
            store_refusals: IntCounterVec::new(
                Opts::new(
                    "yatagarasu_store_refusals_total",
                    "Answers in which a store refused whom a request was signed as.",
                ),
                &["bucket", "cause"],
            )?,
            credentials_refreshes: IntCounterVec::new(
                Opts::new("yatagarasu_credentials_refreshes_total", "Tries to fetch credentials."),
                &["source", "outcome"],
            )?,
            credentials_expiry: GaugeVec::new(
                Opts::new(
                    "yatagarasu_credentials_expiry_timestamp_seconds",
                    "Unix time at which the fetched credentials of a bucket expire; 0 while there are none.",
                ),
                &["bucket"],
            )?,
            log_lines_dropped: IntCounter::new(
                "yatagarasu_log_lines_dropped_total",
                "Log lines given up because the log could not be written as fast as it grew.",
            )?,
            generations_alive: IntGauge::new(
                "config_generations_alive",
                "Configuration generations in service or held by a request under way.",
            )?,
            oldest_generation_age: Gauge::new(
                "config_oldest_generation_age_seconds",
                "Time since the oldest generation alive went into service.",
            )?,
            buckets: Mutex::default(),
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let all: [Box<dyn prometheus::core::Collector>; 26] = [
            Box::new(self.reload_success.clone()),
            Box::new(self.reload_failure.clone()),
            Box::new(self.generation.clone()),
            Box::new(self.hash.clone()),
            Box::new(self.last_reload_successful.clone()),
            Box::new(self.last_reload_timestamp.clone()),
            Box::new(self.pending_restart.clone()),
            Box::new(self.requests.clone()),
            Box::new(self.request_duration.clone()),
            Box::new(self.requests_in_flight.clone()),
            Box::new(self.connections_open.clone()),
            Box::new(self.connections_refused.clone()),
            Box::new(self.rejections.clone()),
            Box::new(self.would_refuse.clone()),
            Box::new(self.upstream_errors.clone()),
            Box::new(self.external_decisions.clone()),
            Box::new(self.jwks_fetches.clone()),
            Box::new(self.jwks_age.clone()),
            Box::new(self.jwks_without_keys.clone()),
            Box::new(self.verified_tokens.clone()),
            Box::new(self.store_refusals.clone()),
            Box::new(self.credentials_refreshes.clone()),
            Box::new(self.credentials_expiry.clone()),
            Box::new(self.log_lines_dropped.clone()),
            Box::new(self.generations_alive.clone()),
            Box::new(self.oldest_generation_age.clone()),
        ];
        all.into_iter().try_for_each(|collector| self.registry.register(collector))
    }

    /// A generation with these buckets went into service, at the start of the process or by a reload.
    pub fn published(
        &self,
        generation: u64,
        pending_restart: usize,
        buckets: impl Iterator<Item = Arc<str>>,
    ) {
        // If nobody reads the metrics, only this forgets the buckets that an earlier reload removed. The ones
        // that this reload removes can be read once more.
        if self.buckets.lock().has_leftovers {
            self.sweep(&self.registry.gather());
        }
        let in_service: HashSet<Arc<str>> = buckets.chain([NO_BUCKET.into()]).collect();
        let mut known = self.buckets.lock();
        known.has_leftovers = known.in_service.iter().any(|bucket| !in_service.contains(bucket));
        known.in_service = in_service;
        drop(known);
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.pending_restart.set(i64::try_from(pending_restart).unwrap_or(i64::MAX));
        self.last_reload_successful.set(1);
    }

    /// A reload ended. Exactly one of the two counters moves. One that was refused for a condition of its
    /// caller's is no failure of the configuration.
    pub fn reloaded(&self, success: bool, failure: bool, at: SystemTime) {
        let counter = if success { &self.reload_success } else { &self.reload_failure };
        counter.inc();
        if success || failure {
            self.last_reload_successful.set(success.into());
        }
        self.last_reload_timestamp.set(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// The generations alive, the age of the oldest among them.
    pub fn alive(&self, generations: usize, oldest: Duration) {
        self.generations_alive.set(i64::try_from(generations).unwrap_or(i64::MAX));
        self.oldest_generation_age.set(oldest.as_secs_f64());
    }

    /// Shows the digest of the configuration in service, `sha256:` and hexadecimal digits.
    ///
    /// One number and no label, so that no series of an earlier digest is left behind, and the minimum and
    /// the maximum over all processes tell whether they differ. 48 bits are exact in the floating-point
    /// numbers of Prometheus.
    pub fn config_digest(&self, digest: &str) {
        let digits = digest.strip_prefix("sha256:").and_then(|digits| digits.get(..12));
        let hash = digits.and_then(|digits| i64::from_str_radix(digits, 16).ok());
        self.hash.set(hash.unwrap_or_default());
    }

    /// Shows the age of the oldest set of published keys and how many sets hold none.
    pub fn published_keys(&self, oldest: Duration, without_keys: usize) {
        self.jwks_age.set(oldest.as_secs_f64());
        self.jwks_without_keys.set(i64::try_from(without_keys).unwrap_or(i64::MAX));
    }

    /// Shows the look-ups of verified tokens since the start.
    pub fn token_lookups(&self, (hits, misses): (u64, u64)) {
        for (result, count) in [("hit", hits), ("miss", misses)] {
            let counter = self.verified_tokens.with_label_values(&[result]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// When the credentials of a bucket expire; nothing is shown of those that do not.
    pub fn credentials_expire(&self, bucket: &str, at: Option<SystemTime>) {
        match at {
            Some(at) => {
                let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                self.credentials_expiry.with_label_values(&[bucket]).set(seconds);
            }
            // That it is gone already is as good.
            None => drop(self.credentials_expiry.remove_label_values(&[bucket])),
        }
    }

    /// The exposition format, version 0.0.4. `log_lines_dropped` is kept by the log's writer.
    pub fn text(&self, log_lines_dropped: u64) -> String {
        self.log_lines_dropped.inc_by(log_lines_dropped.saturating_sub(self.log_lines_dropped.get()));
        let families = self.registry.gather();
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&families, &mut text);
        self.sweep(&families);
        match encoded {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }

    /// Forgets the series of buckets that are gone. A request of an old generation may bring one back;
    /// then it goes the next time.
    fn sweep(&self, families: &[MetricFamily]) {
        let mut buckets = self.buckets.lock();
        buckets.has_leftovers = false;
        for family in families {
            for metric in family.get_metric() {
                let value = |name: &str| {
                    let label = metric.get_label().iter().find(|label| label.name() == name);
                    label.map_or("", |label| label.value())
                };
                let bucket = value("bucket");
                if bucket.is_empty() || buckets.in_service.contains(bucket) {
                    continue;
                }
                // That it is gone already is as good.
                let _ = match family.name() {
                    "yatagarasu_http_requests_total" => {
                        self.requests.remove_label_values(&[bucket, value("method"), value("status")])
                    }
                    "yatagarasu_would_refuse_total" => {
                        self.would_refuse.remove_label_values(&[bucket, value("reason")])
                    }
                    "yatagarasu_upstream_errors_total" => {
                        self.upstream_errors.remove_label_values(&[bucket, value("kind")])
                    }
                    "yatagarasu_external_decisions_total" => {
                        self.external_decisions.remove_label_values(&[bucket, value("outcome")])
                    }
                    "yatagarasu_store_refusals_total" => {
                        self.store_refusals.remove_label_values(&[bucket, value("cause")])
                    }
                    "yatagarasu_credentials_expiry_timestamp_seconds" => {
                        self.credentials_expiry.remove_label_values(&[bucket])
                    }
                    _ => self.request_duration.remove_label_values(&[bucket]),
                };
            }
        }
    }

    /// The content type of [`Metrics::text`].
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_beginning_of_the_digest_and_exact_as_a_float() {
        let metrics = Metrics::new().expect("distinct names");
        metrics.config_digest(&format!("sha256:ffffffffffff{}", "0".repeat(52)));
        assert_eq!(metrics.hash.get(), 0xffff_ffff_ffff);
        assert_eq!(metrics.hash.get() as f64 as i64, metrics.hash.get());
    }
}
