//! The threads that serve connections. Each has a runtime, with its timers, and connections to the stores
//! of its own, and a client's connection stays with the one that it was given to, so that a request and its
//! answer pass from thread to thread nowhere. Only connections to services that decide are shared by all.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use futures::future::{join_all, pending};
use pingora::proxy::HttpProxy;
use tokio::runtime::{Builder, Handle};
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;

/// A client's connections and what they are served with.
pub(crate) struct Worker {
    pub(crate) runtime: Handle,
    /// Has the connections to the stores.
    pub(crate) proxy: Arc<HttpProxy<Gateway>>,
    connections: TaskTracker,
}

impl Worker {
    /// Starts a thread, and makes its proxy on it: that reads the system's root certificates, and panics
    /// where it cannot.
    fn start(
        proxy: impl FnOnce() -> Arc<HttpProxy<Gateway>> + Send + 'static,
        started: mpsc::Sender<io::Result<Self>>,
    ) -> io::Result<()> {
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            let handle = runtime.handle().clone();
            let worker = Self { runtime: handle, proxy: proxy(), connections: TaskTracker::new() };
            // Nobody waits for it where another one could not start.
            let _ = started.send(Ok(worker));
            drop(started);
            runtime.block_on(pending::<()>());
        };
        thread::Builder::new().name("worker".to_owned()).spawn(run).map(drop)
    }

    /// Serves a connection.
    pub(crate) fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn_on(connection, &self.runtime);
    }
}

pub(crate) struct Workers {
    first: Worker,
    others: Vec<Worker>,
    /// Who is asked first, so that those that have equally many take turns.
    turn: AtomicUsize,
}

impl Workers {
    /// Starts them; each makes a proxy for itself.
    pub(crate) fn start(
        count: usize,
        proxy: impl Fn() -> Arc<HttpProxy<Gateway>> + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let (started, workers) = mpsc::channel();
        for _ in 0..count {
            Worker::start(proxy.clone(), started.clone())?;
        }
        drop(started);
        let mut others: Vec<Worker> = workers.into_iter().collect::<io::Result<_>>()?;
        match others.pop() {
            Some(first) if others.len() + 1 == count => Ok(Self { first, others, turn: AtomicUsize::new(0) }),
            _ => Err(io::Error::other("a thread that serves connections came to an end")),
        }
    }

    /// The one that accepts.
    pub(crate) fn first(&self) -> &Worker {
        &self.first
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Worker> + Clone {
        [&self.first].into_iter().chain(&self.others)
    }

    /// The one with the fewest connections.
    pub(crate) fn least_busy(&self) -> &Worker {
        let count = self.others.len() + 1;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        let by_turns = self.iter().cycle().skip(turn).take(count);
        by_turns.min_by_key(|worker| worker.connections.len()).unwrap_or(&self.first)
    }

    /// No connections come any more.
    pub(crate) fn close(&self) {
        for worker in self.iter() {
            worker.connections.close();
        }
    }

    /// Completes when the last connection has ended.
    pub(crate) async fn closed(&self) {
        join_all(self.iter().map(|worker| worker.connections.wait())).await;
    }
}
