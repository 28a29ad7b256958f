//! One immutable configuration in service, and the pointer to it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::config::Config;

/// A configuration with its place in the history of this process.
#[derive(Debug)]
pub struct Generation {
    /// From 1, one more with every reload that takes effect.
    pub number: u64,
    pub loaded_at: SystemTime,
    published: Instant,
    pub config: Arc<Config>,
}

impl Generation {
    fn new(number: u64, config: Arc<Config>) -> Arc<Self> {
        Arc::new(Self { number, loaded_at: SystemTime::now(), published: Instant::now(), config })
    }

    /// Since it went into service.
    pub fn age(&self) -> Duration {
        self.published.elapsed()
    }
}

/// The one pointer that a reload changes.
#[derive(Debug)]
pub struct Live {
    current: ArcSwap<Generation>,
    /// Every generation that may still be held, the current one last.
    alive: Mutex<Vec<Weak<Generation>>>,
}

impl Live {
    pub fn new(first: Arc<Config>) -> Self {
        let first = Generation::new(1, first);
        Self { alive: Mutex::new(vec![Arc::downgrade(&first)]), current: ArcSwap::new(first) }
    }

    /// The generation in service. A request takes it once, in `new_ctx`, and never asks again.
    pub fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// The generations that are in service or held by a request under way, the oldest first.
    pub fn alive(&self) -> Vec<Arc<Generation>> {
        let mut alive = self.alive.lock();
        alive.retain(|generation| generation.strong_count() > 0);
        alive.iter().filter_map(Weak::upgrade).collect()
    }

    /// Puts a configuration into service. For the reloader, the only writer.
    pub(crate) fn publish(&self, config: Arc<Config>) -> Arc<Generation> {
        let next = Generation::new(self.current.load().number + 1, config);
        let mut alive = self.alive.lock();
        alive.retain(|generation| generation.strong_count() > 0);
        alive.push(Arc::downgrade(&next));
        drop(alive);
        self.current.store(next.clone());
        next
    }
}
