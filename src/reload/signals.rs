//! Unix signals: SIGHUP reloads, SIGTERM and SIGINT drain, a second one ends the process at once.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Reloader, Trigger};

/// Signals that were caught and wait to be acted upon.
pub struct Caught(Signals);

/// Catches SIGHUP, whose default would be to end the process. For the first line of `main`.
pub fn catch_hangup() -> io::Result<Caught> {
    Signals::new([SIGHUP]).map(Caught)
}

impl Caught {
    /// Acts on what was caught until now and on whatever comes, on a thread of its own.
    pub fn act(
        mut self,
        reloader: Arc<Reloader>,
        drain: impl Fn() + Send + 'static,
        exit: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        self.0.add_signal(SIGTERM)?;
        self.0.add_signal(SIGINT)?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut draining = false;
            for signal in self.0.forever() {
                match signal {
                    SIGHUP => reloader.trigger(Trigger::Signal),
                    _ if draining => exit(),
                    _ => {
                        draining = true;
                        drain();
                    }
                }
            }
        })?;
        Ok(())
    }
}
