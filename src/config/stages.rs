//! The stages of a reload: how long each took, which one is under way, and until when they may go on.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::deadline::Deadline;

type Name = Cow<'static, str>;

#[derive(Debug, Clone, Default)]
pub struct Stages {
    done: Vec<(Name, Duration)>,
    current: Current,
    deadline: Deadline,
}

/// The stage under way, for whoever waits outside and may give up.
#[derive(Debug, Clone, Default)]
pub struct Current(Arc<Mutex<Name>>);

impl Current {
    pub fn name(&self) -> Name {
        self.0.lock().clone()
    }
}

impl Stages {
    /// The stages of a run with a deadline, which the loops within them look at.
    pub fn until(deadline: Deadline) -> Self {
        Self { deadline, ..Self::default() }
    }

    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Does something and remembers how long it took.
    pub fn time<T>(&mut self, name: impl Into<Name>, stage: impl FnOnce() -> T) -> T {
        let name = name.into();
        self.current.0.lock().clone_from(&name);
        let started = Instant::now();
        let result = stage();
        self.done.push((name, started.elapsed()));
        result
    }

    pub fn current(&self) -> Current {
        self.current.clone()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.done.iter().map(|(name, duration)| (name.as_ref(), *duration))
    }
}
