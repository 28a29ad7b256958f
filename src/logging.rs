//! The log: one line a request and one a reload, to stderr, JSON on a pipe and text on a terminal.
//!
//! Lines are written by a thread of their own from a bounded queue; when the queue is full they are
//! dropped and counted, so a stuck reader of the log cannot stop the proxy.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 65_536;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes what is still queued when it is dropped. Keep it until the very end.
#[must_use]
pub struct Guard(#[expect(dead_code, reason = "held for its Drop")] WorkerGuard);

/// Sets the log up, once, for the whole process. `RUST_LOG` chooses the level of our own lines.
pub fn init() -> Guard {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).lossy(true).finish(std::io::stderr());
    DROPPED.get_or_init(|| writer.error_counter());
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false).with_ansi(terminal);
    let registry = tracing_subscriber::registry().with(filter());
    // A second call in one process finds a subscriber in place and leaves it.
    let _ = if terminal {
        registry.with(lines).try_init()
    } else {
        registry
            .with(lines.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init()
    };
    Guard(guard)
}

/// Our own lines only. Pingora logs whole requests, with their query string and the `Authorization`
/// it sends, so it stays silent at every level; what it reports we learn from its errors and say.
fn filter() -> EnvFilter {
    let level = std::env::var("RUST_LOG").unwrap_or_default();
    let level = level.parse::<tracing::Level>().unwrap_or(tracing::Level::INFO);
    EnvFilter::new(format!("off,yatagarasu={level}"))
}

/// Lines that were dropped since the start.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}
