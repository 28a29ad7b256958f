//! Credentials of the stores that come from elsewhere: fetched before a configuration goes into service,
//! and replaced in the background before they expire.
//!
//! Each source of the configuration in service has one task, which alone asks it. What came is given to
//! every identity of that source, and stays in use while the source fails, until it expires. What only
//! older generations use is asked no more, and wiped when none of them is alive; identities themselves
//! are held weakly. Belongs to the process, not to a generation.

mod fetch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use crate::config::{Bucket, Config};
use crate::generation::Live;
use crate::s3::identity::{Credentials, Identity, Source};
use crate::s3::sigv4::Signatory;
use crate::telemetry::metrics::Metrics;
use fetch::{Failure, Fetcher};

/// How long before they expire credentials are replaced, at most: an instance has new ones five minutes
/// before, and a source that fails has time to come back.
const EARLY: Duration = Duration::from_secs(15 * 60);

/// Between two looks at credentials that do not say when they expire.
const LOOK: Duration = Duration::from_secs(5 * 60);

/// After a failure, twice as long with every further one.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// The longest pause while there are no credentials: every request of the source's buckets gets 503.
const MAX_RETRY_WITHOUT: Duration = Duration::from_secs(4);

/// Between two looks at whether a source is still used, and at a clock that may be set while a task
/// sleeps.
const NAP: Duration = Duration::from_secs(5);

/// Fetches credentials and keeps them fresh.
pub(crate) struct Refresher {
    runtime: Handle,
    fetcher: Fetcher,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    sources: Mutex<HashMap<Source, Kept>>,
}

/// A source that is asked, or was.
struct Kept {
    /// Whether no generation to come uses it.
    is_retired: bool,
    identities: Vec<Weak<Identity>>,
    /// Of buckets that use it, for the log.
    buckets: String,
    /// Whether the first try has ended.
    tried: watch::Sender<bool>,
    task: AbortHandle,
}

impl Kept {
    /// The credentials that are valid now.
    fn signatory(&self) -> Option<Arc<Signatory>> {
        let mut identities = self.identities.iter().filter_map(Weak::upgrade);
        identities.find_map(|identity| identity.signatory(SystemTime::now()))
    }

    /// Gives an identity that has no valid credentials those of the others: a generation that comes back
    /// has an identity of its own.
    fn lend(&self, identity: &Identity) {
        if identity.signatory(SystemTime::now()).is_none()
            && let Some(known) = self.signatory()
        {
            identity.renew(known);
        }
    }
}

/// A failure as it was told.
#[derive(PartialEq, Eq)]
struct Reported {
    error: String,
    has_credentials: bool,
}

impl Refresher {
    pub(crate) fn new(runtime: Handle, live: Arc<Live>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { runtime, fetcher: Fetcher::new(), live, metrics, sources: Mutex::default() })
    }

    /// Asks every source of a configuration that nobody asks yet, once, and waits for the answers, until the
    /// deadline at most; for a thread outside of the runtime. Only the identities of that configuration
    /// learn what came. The second value tells which buckets have no credentials.
    pub(crate) fn warm(self: &Arc<Self>, config: &Config, deadline: Instant) -> (First, Vec<String>) {
        let used = used_by(config);
        let (mut first, mut asked_already) = (HashMap::new(), Vec::new());
        // All at once, then wait for each.
        for (source, (identity, _)) in &used {
            match self.tried(source) {
                Some(tried) => asked_already.push(tried),
                None => {
                    first.insert((*source).clone(), (*identity, Asked::UnderWay(self.ask(source))));
                }
            }
        }
        self.runtime.block_on(async {
            for mut tried in asked_already {
                // Too late, or the task has ended.
                let _ = timeout_at(deadline, tried.wait_for(|tried| *tried)).await;
            }
            for (identity, asked) in first.values_mut() {
                asked.answered_by(deadline).await;
                if let Asked::Answered(Ok(credentials)) = asked {
                    identity.renew(Arc::new(Signatory::new(credentials.clone())));
                }
            }
        });
        for (source, (identity, _)) in used {
            if let Some(kept) = self.sources().get(source) {
                kept.lend(identity);
            }
        }
        let first = First(first.into_iter().map(|(source, (_, asked))| (source, asked)).collect());
        let now = SystemTime::now();
        let is_without = |bucket: &&Arc<Bucket>| bucket.signer.identity().signatory(now).is_none();
        let warning = |bucket: &Arc<Bucket>| {
            format!("bucket `{}` has no credentials yet, its requests get 503; the log says why", bucket.name)
        };
        (first, config.buckets.iter().filter(is_without).map(warning).collect())
    }

    /// Keeps the credentials of the configuration in service fresh, and those of no other one.
    pub(crate) fn adopt(self: &Arc<Self>, first: First) {
        let current = self.live.current();
        self.keep(&current.config, first);
        let used = used_by(&current.config);
        for (source, kept) in self.sources().iter_mut() {
            if !used.contains_key(source) && !kept.is_retired {
                kept.is_retired = true;
                kept.task.abort();
                kept.task = self.runtime.spawn(self.clone().retire(source.clone())).abort_handle();
            }
        }
    }

    /// Whether a source has been tried, where a task asks it already.
    fn tried(&self, source: &Source) -> Option<watch::Receiver<bool>> {
        let sources = self.sources();
        sources.get(source).filter(|kept| !kept.is_retired).map(|kept| kept.tried.subscribe())
    }

    /// The credentials of a source that are valid now, if somebody has them.
    fn known(&self, source: &Source) -> Option<Arc<Signatory>> {
        self.sources().get(source)?.signatory()
    }

    /// Asks a source once, on a task of its own, so that a panic in there is one more failure.
    fn ask(&self, source: &Source) -> AbortOnDropHandle<Fetched> {
        let (fetcher, asked) = (self.fetcher.clone(), source.clone());
        AbortOnDropHandle::new(self.runtime.spawn(async move {
            let began = Instant::now();
            let fetched = fetcher.fetch(&asked).await;
            tell(&asked, &fetched, began.elapsed());
            fetched
        }))
    }

    /// Begins with the sources that nobody asks yet.
    fn keep(self: &Arc<Self>, config: &Config, First(mut first): First) {
        let mut sources = self.sources();
        for (source, (identity, buckets)) in used_by(config) {
            let mut begin = || {
                let first = first.remove(source);
                self.runtime.spawn(self.clone().refresh(source.clone(), first)).abort_handle()
            };
            let kept = sources.entry(source.clone()).or_insert_with(|| Kept {
                is_retired: false,
                identities: Vec::new(),
                buckets: String::new(),
                tried: watch::Sender::new(false),
                task: begin(),
            });
            if kept.is_retired {
                kept.task.abort();
                kept.task = begin();
                kept.is_retired = false;
                kept.tried.send_replace(false);
            }
            kept.buckets = buckets;
            kept.identities.retain(|kept| kept.strong_count() > 0);
            if kept.identities.iter().any(|kept| kept.as_ptr() == Arc::as_ptr(identity)) {
                continue;
            }
            kept.lend(identity);
            kept.identities.push(Arc::downgrade(identity));
        }
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<Source, Kept>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of one source, until nobody uses it.
    async fn refresh(self: Arc<Self>, source: Source, mut first: Option<Asked>) {
        let mut failed = None;
        let mut retry = RETRY;
        loop {
            let is_first = first.is_some();
            let asked = first.take().unwrap_or_else(|| Asked::UnderWay(self.ask(&source)));
            let fetched = asked.answer().await;
            let outcome = if fetched.is_ok() { "success" } else { "failure" };
            self.metrics.credentials_refreshes.with_label_values(&[source.name(), outcome]).inc();
            let pause = match fetched {
                Ok(credentials) => {
                    let pause = until_refresh(credentials.usable_until(), SystemTime::now());
                    self.renew(&source, credentials, is_first || failed.take().is_some());
                    retry = RETRY;
                    pause
                }
                Err(failure) => {
                    failed = Some(self.report(&source, &failure, failed.as_ref()));
                    let pause = retry.mul_f64(jitter());
                    retry = (2 * retry).min(MAX_RETRY);
                    pause
                }
            };
            let (began, due) = (Instant::now(), SystemTime::now() + pause);
            loop {
                // The last credentials may expire during the pause.
                let pause = if self.known(&source).is_some() { pause } else { pause.min(MAX_RETRY_WITHOUT) };
                let left = pause.saturating_sub(began.elapsed());
                if left.is_zero() || SystemTime::now() >= due {
                    break;
                }
                if !self.is_used(&source) {
                    return;
                }
                sleep(NAP.min(left)).await;
            }
        }
    }

    /// Gives the identities of a source what came; what is the same as before is left alone, with the
    /// keys derived from it, and logged only if `is_news`.
    fn renew(&self, source: &Source, credentials: Credentials, is_news: bool) {
        let mut sources = self.sources();
        let Some(kept) = sources.get_mut(source) else { return };
        let expires_in =
            credentials.expires.and_then(|expires| expires.duration_since(SystemTime::now()).ok());
        let fresh = Arc::new(Signatory::new(credentials));
        let mut is_new = false;
        for identity in kept.identities.iter().filter_map(Weak::upgrade) {
            if identity.last().is_none_or(|last| last.credentials != fresh.credentials) {
                identity.renew(fresh.clone());
                is_new = true;
            }
        }
        kept.tried.send_replace(true);
        if is_new || is_news {
            info!(
                source = source.name(),
                buckets = kept.buckets,
                expires_in_seconds = expires_in.map(|left| left.as_secs()),
                "credentials fetched"
            );
        }
    }

    /// Logs a failure. The same one is told once while its credentials serve, and once more when none are
    /// left.
    fn report(&self, source: &Source, failure: &Failure, last: Option<&Reported>) -> Reported {
        let mut reported = Reported { error: failure.to_string(), has_credentials: false };
        let mut sources = self.sources();
        let Some(kept) = sources.get_mut(source) else { return reported };
        kept.tried.send_replace(true);
        reported.has_credentials = kept.signatory().is_some();
        if last == Some(&reported) {
            return reported;
        }
        let (source, buckets, error) = (source.name(), &kept.buckets, &reported.error);
        if reported.has_credentials {
            warn!(
                source,
                buckets, error, "credentials cannot be fetched; the last ones serve until they expire"
            );
        } else {
            error!(
                source,
                buckets, error, "credentials cannot be fetched; requests for these buckets get 503"
            );
        }
        reported
    }

    /// Forgets a source of a configuration that never went into service.
    fn is_used(&self, source: &Source) -> bool {
        let mut sources = self.sources();
        let is_alive = |kept: &Kept| kept.identities.iter().any(|identity| identity.strong_count() > 0);
        let is_used = sources.get(source).is_some_and(is_alive);
        if !is_used {
            sources.remove(source);
        }
        is_used
    }

    /// Wipes the credentials of a source once no generation is alive that uses it. The history keeps
    /// configurations for longer, and may bring them back.
    async fn retire(self: Arc<Self>, source: Source) {
        loop {
            sleep(NAP).await;
            let uses = |bucket: &Arc<Bucket>| bucket.signer.identity().source() == Some(&source);
            if self.live.alive().iter().any(|generation| generation.config.buckets.iter().any(uses)) {
                continue;
            }
            let mut sources = self.sources();
            // It may have come back while this task waited for the lock.
            if let Some(kept) = sources.get(&source).filter(|kept| kept.is_retired) {
                kept.identities.iter().filter_map(Weak::upgrade).for_each(|identity| identity.wipe());
                info!(source = source.name(), buckets = kept.buckets, "credentials wiped");
                sources.remove(&source);
            }
            return;
        }
    }
}

type Fetched = Result<Credentials, Failure>;

/// The first answers of sources that nobody asked before, for [`Refresher::adopt`]. Dropped, it asks no
/// more.
#[must_use]
pub(crate) struct First(HashMap<Source, Asked>);

/// A source that was asked.
enum Asked {
    UnderWay(AbortOnDropHandle<Fetched>),
    Answered(Fetched),
}

impl Asked {
    /// Waits for the answer, until the deadline at most.
    async fn answered_by(&mut self, deadline: Instant) {
        if let Self::UnderWay(fetch) = self
            && let Ok(answer) = timeout_at(deadline, fetch).await
        {
            *self = Self::Answered(answer.unwrap_or(Err(Failure::Panic)));
        }
    }

    async fn answer(self) -> Fetched {
        match self {
            Self::UnderWay(fetch) => fetch.await.unwrap_or(Err(Failure::Panic)),
            Self::Answered(answer) => answer,
        }
    }
}

/// Tells at the level `debug` what came of asking a source.
fn tell(source: &Source, fetched: &Fetched, took: Duration) {
    debug!(
        source = source.name(),
        outcome = if fetched.is_ok() { "success" } else { "failure" },
        error = fetched.as_ref().err().map(ToString::to_string),
        duration_ms = took.as_millis() as u64,
        "credentials asked for"
    );
}

/// The sources of a configuration, each with its one identity and the buckets that use it.
fn used_by(config: &Config) -> HashMap<&Source, (&Arc<Identity>, String)> {
    let mut used: HashMap<&Source, (&Arc<Identity>, &str, usize)> = HashMap::new();
    for bucket in &config.buckets {
        let identity = bucket.signer.identity();
        if let Some(source) = identity.source() {
            used.entry(source).or_insert((identity, &bucket.name, 0)).2 += 1;
        }
    }
    let named = used.into_iter().map(|(source, (identity, first, count))| {
        let buckets = if count == 1 { first.to_owned() } else { format!("{first} and {} more", count - 1) };
        (source, (identity, buckets))
    });
    named.collect()
}

/// How long credentials are good for before they are replaced: until a while before they cannot be used
/// any more, or for half of what is left to them.
fn until_refresh(usable_until: Option<SystemTime>, now: SystemTime) -> Duration {
    let Some(usable_until) = usable_until else { return LOOK.mul_f64(jitter()) };
    let left = usable_until.duration_since(now).unwrap_or_default();
    let early = EARLY.min(left / 2).mul_f64(jitter());
    left.saturating_sub(early).max(RETRY)
}

/// Many processes that began together do not ask together.
fn jitter() -> f64 {
    0.75 + fastrand::f64() / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced_before_they_expire_and_not_all_the_time() {
        let now = SystemTime::now();
        for (left, least, most) in
            [(3600, 2700, 2925), (6 * 3600, 20_700, 20_925), (60, 30, 38), (2, 1, 2), (1, 1, 1), (0, 1, 1)]
        {
            let pause = until_refresh(Some(now + Duration::from_secs(left)), now);
            let range = Duration::from_secs(least)..=Duration::from_secs(most);
            assert!(range.contains(&pause), "{left} s are left, {pause:?}");
        }
        assert!(until_refresh(None, now) <= LOOK);
    }
}
