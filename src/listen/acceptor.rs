//! The loop that takes the connections of one port, until the port closes.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::ServerApp;
use pingora::proxy::HttpProxy;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::error;

use crate::gateway::Gateway;
use crate::listen::connections::Connections;
use crate::listen::listener::{Accepted, Incoming};
use crate::listen::ports::Stage;
use crate::listen::workers::Workers;
use crate::process::lifecycle::Lifecycle;

/// The pause after a failed accept; the usual reason is that no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a new connection may stay silent.
const FIRST_BYTE: Duration = Duration::from_secs(15);

/// How long a silent connection stays once its port is closed: a request may be on its way.
const LAST_CALL: Duration = Duration::from_millis(300);

/// Takes the connections of one port.
pub(super) struct Acceptor {
    pub workers: Arc<Workers>,
    /// Instead of a worker's own proxy.
    pub operators: Option<Arc<HttpProxy<Gateway>>>,
    pub stages: watch::Receiver<Stage>,
    pub lifecycle: Arc<Lifecycle>,
    /// Counts the connections of clients.
    pub connections: Arc<Connections>,
}

impl Acceptor {
    pub(super) async fn run(mut self, incoming: Incoming) {
        // Pingora wants to know of the drain only, in its own form.
        let (draining, shutdown) = watch::channel(*self.stages.borrow() != Stage::Serving);
        loop {
            let accepted = tokio::select! {
                accepted = incoming.accept() => accepted,
                changed = self.stages.changed() => {
                    let stage = *self.stages.borrow_and_update();
                    let _ = draining.send(stage != Stage::Serving);
                    if changed.is_err() || stage == Stage::Closed {
                        break;
                    }
                    continue;
                }
            };
            match accepted {
                Ok(accepted) => self.take(accepted, &shutdown),
                Err(error) if is_clients_fault(&error) => {}
                Err(error) => {
                    error!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // A client that the kernel has already let in would be thrown out with the socket.
        for accepted in incoming.rest() {
            self.take(accepted, &shutdown);
        }
    }

    fn take(&self, accepted: Accepted, shutdown: &watch::Receiver<bool>) {
        let counted = match &self.operators {
            // Operators are never refused: they may be needed most when clients are too many.
            Some(_) => None,
            None => match self.connections.admit() {
                Some(counted) => Some(counted),
                None => return,
            },
        };
        let worker = self.workers.least_busy();
        let proxy = self.operators.as_ref().unwrap_or(&worker.proxy).clone();
        let (shutdown, stages) = (shutdown.clone(), self.stages.clone());
        let (lifecycle, connections) = (self.lifecycle.clone(), self.connections.clone());
        worker.serve(async move {
            let _counted = counted;
            let client = accepted.client();
            let spoken = accepted.until_it_speaks(lifecycle, connections.header_patience());
            // A client that says nothing, or is gone before its first request, is no event.
            let Some(Ok((connection, downstream))) = unless_closed(spoken, stages).await else { return };
            proxy.process_new(Box::new(connection), &shutdown).await;
            if downstream.header_was_overdue() {
                connections.header_was_overdue(client);
            }
        });
    }
}

/// Waits for a client's first byte; `None` when it does not come in time, or before its port has closed.
async fn unless_closed<T>(spoken: impl Future<Output = T>, mut stages: watch::Receiver<Stage>) -> Option<T> {
    let closed = async {
        // An error means that the port is gone, which is the same.
        let _ = stages.wait_for(|stage| *stage == Stage::Closed).await;
        sleep(LAST_CALL).await;
    };
    tokio::select! {
        biased;
        spoken = timeout(FIRST_BYTE, spoken) => spoken.ok(),
        () = closed => None,
    }
}

/// Whether a connection broke between the client's wish and our accept.
fn is_clients_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
