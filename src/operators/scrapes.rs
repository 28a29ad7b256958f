//! The metrics as an answer: brought up to date and written out, at most once at a time.
//!
//! Anybody may ask where there is no operators' port, and the text of many buckets takes long to make. So
//! the requests that come in while one text is made share the next one, and the answers below `/admin`
//! do not wait for any of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::answer::Answer;
use crate::operators::{Operators, error};
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::tokens::cache;

/// A text in the making; `None` if that failed.
type Text = Shared<BoxFuture<'static, Option<Arc<str>>>>;

/// The requests for metrics that wait.
pub(crate) struct Scrapes {
    /// The permission to make a text.
    turn: Arc<Semaphore>,
    /// The text that nobody has begun to make, for everybody who asks until then.
    next: Mutex<Option<Text>>,
}

impl Default for Scrapes {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), next: Mutex::default() }
    }
}

impl Operators {
    /// The answer of `/metrics`, made after the request came in.
    pub(super) async fn metrics(self: &Arc<Self>) -> Result<Answer, Answer> {
        let text = {
            let mut next = self.scrapes.next.lock();
            next.get_or_insert_with(|| self.clone().next_text().boxed().shared()).clone()
        };
        match text.await {
            Some(text) => Ok(Answer::new(200, Metrics::CONTENT_TYPE, text.to_string())),
            None => Err(error(500, "The metrics could not be made")),
        }
    }

    async fn next_text(self: Arc<Self>) -> Option<Arc<str>> {
        let turn = self.scrapes.turn.clone().acquire_owned().await;
        // From here on a request gets the text after this one.
        self.scrapes.next.lock().take();
        let made = spawn_blocking(move || {
            let text = self.metrics_text();
            // The permission ends here, also when every client has gone.
            drop(turn);
            text.into()
        });
        made.await.ok()
    }

    fn metrics_text(&self) -> String {
        let in_flight = self.lifecycle.requests_in_flight();
        self.metrics.requests_in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        let alive = self.live.alive();
        self.metrics.alive(alive.len(), alive.first().map(|oldest| oldest.age()).unwrap_or_default());
        let current = self.live.current();
        self.metrics.config_digest(&current.config.digest);
        let now = SystemTime::now();
        let ages: Vec<Option<Duration>> = current.config.jwks.iter().map(|jwks| jwks.set.age(now)).collect();
        // A set that was never fetched is as old as the generation that wants it, or it would look healthy.
        let oldest = ages.iter().map(|age| age.unwrap_or(current.age())).max().unwrap_or_default();
        self.metrics.published_keys(oldest, ages.iter().filter(|age| age.is_none()).count());
        self.metrics.token_lookups(cache::lookups());
        for bucket in &current.config.buckets {
            let identity = &bucket.identity;
            let expires = identity.source().and_then(|_| match identity.last() {
                Some(last) => last.credentials().expires,
                None => Some(SystemTime::UNIX_EPOCH),
            });
            self.metrics.credentials_expire(&bucket.name, expires);
        }
        self.metrics.text(log::dropped_lines())
    }
}
