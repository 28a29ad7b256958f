//! One immutable configuration in service, and the pointer to it.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::config::Config;

/// A configuration with its place in the history of this process.
#[derive(Debug)]
pub struct Generation {
    /// From 1, one more with every reload that takes effect.
    pub number: u64,
    pub loaded_at: SystemTime,
    pub config: Config,
}

/// The one pointer that a reload changes.
#[derive(Debug)]
pub struct Live(ArcSwap<Generation>);

impl Live {
    pub fn new(first: Config) -> Self {
        Self(ArcSwap::from_pointee(Generation { number: 1, loaded_at: SystemTime::now(), config: first }))
    }

    /// The generation in service. A request takes it once, in `new_ctx`, and never asks again.
    pub fn current(&self) -> Arc<Generation> {
        self.0.load_full()
    }

    /// Puts a configuration into service and returns it with the one it follows. For the reloader,
    /// the only writer.
    pub(crate) fn publish(&self, config: Config) -> (Arc<Generation>, Arc<Generation>) {
        let number = self.0.load().number + 1;
        let next = Arc::new(Generation { number, loaded_at: SystemTime::now(), config });
        let previous = self.0.swap(next.clone());
        (previous, next)
    }
}
