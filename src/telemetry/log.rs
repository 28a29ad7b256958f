//! The log: one line a request and one a reload, to stderr, as JSON or as text. A reload may change its
//! level and its format.
//!
//! Lines gather in memory and a thread of their own writes them, so neither a request nor a stuck reader
//! of the log waits for the other. What does not fit is dropped and counted.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{self, Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// What may wait to be written: about 60,000 lines of requests.
const QUEUE_BYTES: usize = 16 << 20;

/// Most lines are shorter.
const USUAL_LINE_BYTES: usize = 512;

/// Between two writes. The first line after a silence is written at once; under load a thousand go
/// together, instead of a system call and a change of threads for each.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the end of the process waits for a reader of the log.
const LAST_WRITE: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Writes what is still queued when it is dropped. Keep it until the very end.
#[must_use]
pub(crate) struct Guard {
    queue: Arc<Queue>,
    writer: Option<Thread>,
    written: mpsc::Receiver<()>,
}

/// The part of the log that the configuration chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub level: Level,
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: Level::INFO, format: Format::Auto }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

/// The filter of every record. Empty in a program that embeds the reloader and has a log of its own.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Whether records are written as text; otherwise as JSON.
static IS_TEXT: AtomicBool = AtomicBool::new(false);

/// Sets the log up, once, for the whole process, with the settings that hold where no configuration
/// says otherwise.
pub(crate) fn init() -> Guard {
    let queue = QUEUE.get_or_init(Arc::default).clone();
    let guard = Guard::start(queue.clone());
    let (filter, handle) = reload::Layer::new(filter(Settings::default().level));
    let text = tracing_subscriber::fmt::layer()
        .with_writer(Lines(queue.clone()))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let output = Output { json: Json(queue), text };
    // A second call in one process finds a subscriber in place and leaves it.
    if tracing_subscriber::registry().with(filter).with(output).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
    apply(Settings::default());
    guard
}

/// Puts settings into effect, for every record from now on.
pub(crate) fn apply(settings: Settings) {
    let Some(handle) = FILTER.get() else { return };
    let is_text = match settings.format {
        Format::Auto => io::stderr().is_terminal(),
        Format::Json => false,
        Format::Text => true,
    };
    IS_TEXT.store(is_text, Ordering::Relaxed);
    // Also has every place that logs ask the filter again. Fails only where the subscriber is gone, and
    // it lives as long as the process.
    let _ = handle.reload(filter(settings.level));
}

/// Says that a variable which other programs obey has no effect here, where it is set.
pub(crate) fn warn_of_environment() {
    if std::env::var_os("RUST_LOG").is_some() {
        warn!(
            "RUST_LOG is set and not read; set `log.level`, or write `level: \"${{RUST_LOG:-info}}\"` there"
        );
    }
}

/// Our own records only. Those of Pingora hold whole requests, with their query string and the
/// `Authorization` it sends; what it reports we learn from its errors and say.
fn filter(level: Level) -> Targets {
    Targets::new().with_target("yatagarasu", level)
}

/// Lines that were dropped since the start.
pub(crate) fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped.load(Ordering::Relaxed))
}

/// Lines that wait to be written.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    is_last: bool,
}

impl Queue {
    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.len() + line.len() > QUEUE_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if is_first {
            self.filled.notify_one();
        }
    }

    /// Swaps what waits for an empty buffer, once there is something; `false` when nothing will come.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let mut waiting = self.waiting.lock();
        self.filled.wait_while(&mut waiting, |waiting| waiting.lines.is_empty() && !waiting.is_last);
        std::mem::swap(&mut waiting.lines, lines);
        !lines.is_empty()
    }

    fn write(&self) {
        let mut lines = Vec::new();
        while self.take(&mut lines) {
            // There is no other place to report to.
            let _ = io::stderr().write_all(&lines);
            lines.clear();
            if !self.waiting.lock().is_last {
                thread::park_timeout(PAUSE);
            }
        }
    }
}

impl Guard {
    fn start(queue: Arc<Queue>) -> Self {
        let (done, written) = mpsc::channel();
        let writer = thread::Builder::new().name("log".to_owned()).spawn({
            let queue = queue.clone();
            move || {
                queue.write();
                drop(done);
            }
        });
        Self { queue, writer: writer.ok().map(|writer| writer.thread().clone()), written }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.queue.waiting.lock().is_last = true;
        self.queue.filled.notify_one();
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
        // Ends with the thread.
        let _ = self.written.recv_timeout(LAST_WRITE);
    }
}

/// Hands each event to the writer of the format in effect.
struct Output<T> {
    json: Json,
    text: T,
}

impl<S: Subscriber, T: Layer<S>> Layer<S> for Output<T> {
    fn on_event(&self, event: &Event<'_>, context: layer::Context<'_, S>) {
        if IS_TEXT.load(Ordering::Relaxed) {
            self.text.on_event(event, context);
        } else {
            self.json.on_event(event, context);
        }
    }
}

/// Writes an event as an object: when it was, how grave it is, and its fields in their order.
struct Json(Arc<Queue>);

impl<S: Subscriber> Layer<S> for Json {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let mut object = Object(Vec::with_capacity(USUAL_LINE_BYTES));
        // Writing to a Vec cannot fail.
        let _ =
            write!(object.0, "{{\"timestamp\":\"{}\"", humantime::format_rfc3339_micros(SystemTime::now()));
        object.member("level", event.metadata().level().as_str());
        event.record(&mut object);
        object.0.extend_from_slice(b"}\n");
        self.0.push(&object.0);
    }
}

/// A JSON object that is being written.
struct Object(Vec<u8>);

impl Object {
    /// The names are in our source and need no escapes.
    fn member(&mut self, name: &str, value: impl Serialize) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        // A number or a text, which can always be written.
        let _ = serde_json::to_writer(&mut self.0, &value);
    }
}

impl Visit for Object {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field.name(), format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field.name(), value);
    }
}

/// Takes one line at a time from `tracing`, which writes each as a whole.
struct Lines(Arc<Queue>);

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Line<'w>;

    fn make_writer(&'w self) -> Line<'w> {
        Line(&self.0)
    }
}

struct Line<'w>(&'w Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
