//! Fetches the stores' credentials that come from elsewhere: before a configuration goes into service, and
//! again in the background before they expire.
//!
//! Each source in service has one task, and only this task asks the source. Every identity with that
//! source receives the fetched credentials, and keeps them while the source fails, until they expire. A
//! source that only older generations use is no longer asked; its credentials are wiped when the last of
//! these generations has ended.
//!
//! The state belongs to the process and is keyed by the source; identities are held weakly. The caller
//! says which identities a configuration uses, and which sources a generation still uses.

mod fetch;
mod schedule;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use crate::s3::credentials::Credentials;
use crate::s3::identity::{Identity, Source};
use crate::s3::sign::Signer;
use crate::telemetry::metrics::Metrics;
use fetch::{Asked, Failure, Fetcher};
use schedule::{RETRY, jitter, until_refresh};

/// The longest pause after a failure.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// The longest pause while there are no credentials, because every request of the source's buckets gets
/// 503.
const MAX_RETRY_WITHOUT: Duration = Duration::from_secs(4);

/// The time between two checks whether a source is still used, and of a wall clock that may be set while
/// a task sleeps.
const NAP: Duration = Duration::from_secs(5);

/// Fetches credentials and keeps them fresh.
pub(crate) struct Refresher {
    runtime: Handle,
    fetcher: Fetcher,
    metrics: Arc<Metrics>,
    /// Whether a generation that is alive uses a source.
    is_alive: Box<dyn Fn(&Source) -> bool + Send + Sync>,
    sources: Mutex<HashMap<Source, Kept>>,
}

/// A bucket's use of an identity.
#[derive(Clone, Copy)]
pub(crate) struct Use<'c> {
    /// The bucket's name, for the log.
    pub(crate) bucket: &'c str,
    pub(crate) identity: &'c Arc<Identity>,
}

/// The state of a source.
struct Kept {
    /// Whether the configuration in service no longer uses the source.
    is_retired: bool,
    identities: Vec<Weak<Identity>>,
    /// The names of the buckets that use the source, for the log.
    buckets: String,
    /// Whether the first fetch has ended.
    tried: watch::Sender<bool>,
    task: AbortHandle,
}

impl Kept {
    /// The credentials that are valid now.
    fn signer(&self) -> Option<Arc<Signer>> {
        let mut identities = self.identities.iter().filter_map(Weak::upgrade);
        identities.find_map(|identity| identity.signer(SystemTime::now()))
    }

    /// Copies valid credentials to an identity that has none: a generation that a rollback brings back has
    /// an identity of its own.
    fn lend(&self, identity: &Identity) {
        if identity.signer(SystemTime::now()).is_none()
            && let Some(known) = self.signer()
        {
            identity.renew(known);
        }
    }
}

/// A failure as it was logged.
#[derive(PartialEq, Eq)]
struct Reported {
    error: String,
    has_credentials: bool,
}

impl Refresher {
    /// `is_alive` tells whether a generation that is alive uses a source.
    pub(crate) fn new(
        runtime: Handle,
        metrics: Arc<Metrics>,
        is_alive: impl Fn(&Source) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let is_alive = Box::new(is_alive);
        Arc::new(Self { runtime, fetcher: Fetcher::new(), metrics, is_alive, sources: Mutex::default() })
    }

    /// Asks each source of a configuration once that has no task yet, and waits for the answers, until the
    /// deadline at most; for a thread outside of the runtime. Only the identities of that configuration
    /// receive the answers. The second value is a warning for each bucket without credentials.
    pub(crate) fn warm<'c>(
        self: &Arc<Self>,
        uses: impl Iterator<Item = Use<'c>> + Clone,
        deadline: Instant,
    ) -> (First, Vec<String>) {
        let used = sources_of(uses.clone());
        let (mut first, mut asked_already) = (HashMap::new(), Vec::new());
        // Ask all at once, then wait for each.
        for (source, (identity, _)) in &used {
            match self.tried(source) {
                Some(tried) => asked_already.push(tried),
                None => {
                    first.insert((*source).clone(), (*identity, self.ask(source)));
                }
            }
        }
        self.runtime.block_on(async {
            for mut tried in asked_already {
                // An error means that the deadline has passed or the task has ended.
                let _ = timeout_at(deadline, tried.wait_for(|tried| *tried)).await;
            }
            for (identity, asked) in first.values_mut() {
                asked.answered_by(deadline).await;
                if let Some(credentials) = asked.credentials() {
                    identity.renew(Arc::new(Signer::new(credentials.clone())));
                }
            }
        });
        for (source, (identity, _)) in used {
            if let Some(kept) = self.sources.lock().get(source) {
                kept.lend(identity);
            }
        }
        let first = First(first.into_iter().map(|(source, (_, asked))| (source, asked)).collect());
        let now = SystemTime::now();
        let warnings = uses.filter(|used| used.identity.signer(now).is_none()).map(|used| {
            format!("bucket `{}` has no credentials yet, its requests get 503; the log says why", used.bucket)
        });
        (first, warnings.collect())
    }

    /// Keeps the credentials of the configuration that went into service fresh, and no others.
    pub(crate) fn adopt<'c>(self: &Arc<Self>, uses: impl Iterator<Item = Use<'c>>, first: First) {
        let used = sources_of(uses);
        self.keep(&used, first);
        for (source, kept) in self.sources.lock().iter_mut() {
            if !used.contains_key(source) && !kept.is_retired {
                kept.is_retired = true;
                kept.task.abort();
                kept.task = self.runtime.spawn(self.clone().retire(source.clone())).abort_handle();
            }
        }
    }

    /// Reports the end of the first fetch, if a task asks the source already.
    fn tried(&self, source: &Source) -> Option<watch::Receiver<bool>> {
        let sources = self.sources.lock();
        sources.get(source).filter(|kept| !kept.is_retired).map(|kept| kept.tried.subscribe())
    }

    /// The credentials of a source that are valid now, if an identity holds any.
    fn known(&self, source: &Source) -> Option<Arc<Signer>> {
        self.sources.lock().get(source)?.signer()
    }

    /// Asks a source once, in the background.
    fn ask(&self, source: &Source) -> Asked {
        Asked::begin(&self.runtime, self.fetcher.clone(), source.clone())
    }

    /// Starts a task for each source that has none.
    fn keep(self: &Arc<Self>, used: &Sources<'_>, First(mut first): First) {
        let mut sources = self.sources.lock();
        for (source, (identity, buckets)) in used {
            let source = *source;
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
            kept.buckets.clone_from(buckets);
            kept.identities.retain(|kept| kept.strong_count() > 0);
            if kept.identities.iter().any(|kept| kept.as_ptr() == Arc::as_ptr(identity)) {
                continue;
            }
            kept.lend(identity);
            kept.identities.push(Arc::downgrade(identity));
        }
    }

    /// The task of one source; ends when no identity uses the source.
    async fn refresh(self: Arc<Self>, source: Source, mut first: Option<Asked>) {
        let mut failed = None;
        let mut retry = RETRY;
        loop {
            let is_first = first.is_some();
            let asked = first.take().unwrap_or_else(|| self.ask(&source));
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
            if self.rest(&source, pause).await.is_break() {
                return;
            }
        }
    }

    /// Waits until the next fetch of a source is due; breaks off when no identity uses the source.
    async fn rest(&self, source: &Source, pause: Duration) -> ControlFlow<()> {
        let (began, due) = (Instant::now(), SystemTime::now() + pause);
        loop {
            // The last credentials may expire during the pause.
            let pause = if self.known(source).is_some() { pause } else { pause.min(MAX_RETRY_WITHOUT) };
            let left = pause.saturating_sub(began.elapsed());
            if left.is_zero() || SystemTime::now() >= due {
                return ControlFlow::Continue(());
            }
            if !self.is_used(source) {
                return ControlFlow::Break(());
            }
            sleep(NAP.min(left)).await;
        }
    }

    /// Gives fetched credentials to the identities of a source. An identity that holds the same ones already
    /// keeps them, with the signing keys derived from them; without any change, `is_news` decides whether
    /// the log tells of the fetch.
    fn renew(&self, source: &Source, credentials: Credentials, is_news: bool) {
        let mut sources = self.sources.lock();
        let Some(kept) = sources.get_mut(source) else { return };
        let expires_in =
            credentials.expires.and_then(|expires| expires.duration_since(SystemTime::now()).ok());
        let fresh = Arc::new(Signer::new(credentials));
        let mut is_new = false;
        for identity in kept.identities.iter().filter_map(Weak::upgrade) {
            if identity.last().is_none_or(|last| last.credentials() != fresh.credentials()) {
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

    /// Logs a failure, once while credentials are left and once more when they have expired.
    fn report(&self, source: &Source, failure: &Failure, last: Option<&Reported>) -> Reported {
        let mut reported = Reported { error: failure.to_string(), has_credentials: false };
        let mut sources = self.sources.lock();
        let Some(kept) = sources.get_mut(source) else { return reported };
        kept.tried.send_replace(true);
        reported.has_credentials = kept.signer().is_some();
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

    /// Whether an identity uses the source; forgets the source if none does.
    fn is_used(&self, source: &Source) -> bool {
        let mut sources = self.sources.lock();
        let is_alive = |kept: &Kept| kept.identities.iter().any(|identity| identity.strong_count() > 0);
        let is_used = sources.get(source).is_some_and(is_alive);
        if !is_used {
            sources.remove(source);
        }
        is_used
    }

    /// Wipes the credentials of a source as soon as no generation that is alive uses it. The history keeps
    /// configurations for longer, and a rollback may bring one back.
    async fn retire(self: Arc<Self>, source: Source) {
        loop {
            sleep(NAP).await;
            if (self.is_alive)(&source) {
                continue;
            }
            let mut sources = self.sources.lock();
            // A reload may have brought the source back while this task waited for the lock.
            if let Some(kept) = sources.get(&source).filter(|kept| kept.is_retired) {
                kept.identities.iter().filter_map(Weak::upgrade).for_each(|identity| identity.wipe());
                info!(source = source.name(), buckets = kept.buckets, "credentials wiped");
                sources.remove(&source);
            }
            return;
        }
    }
}

/// The first answers of sources without a task, for [`Refresher::adopt`]. Dropping it cancels the fetches
/// under way.
#[must_use]
pub(crate) struct First(HashMap<Source, Asked>);

/// Sources, each with its one identity and the names of the buckets that use it.
type Sources<'c> = HashMap<&'c Source, (&'c Arc<Identity>, String)>;

fn sources_of<'c>(uses: impl Iterator<Item = Use<'c>>) -> Sources<'c> {
    let mut used: HashMap<&Source, (&Arc<Identity>, &str, usize)> = HashMap::new();
    for Use { bucket, identity } in uses {
        if let Some(source) = identity.source() {
            used.entry(source).or_insert((identity, bucket, 0)).2 += 1;
        }
    }
    let named = used.into_iter().map(|(source, (identity, first, count))| {
        let buckets = if count == 1 { first.to_owned() } else { format!("{first} and {} more", count - 1) };
        (source, (identity, buckets))
    });
    named.collect()
}
