//! Unix signals: SIGHUP reloads, SIGQUIT hands the listeners over, SIGTERM and SIGINT drain, and a
//! second one of those ends the process at once.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;

use crate::reload::Reloader;
use crate::reload::attempt::Trigger;

/// Signals that were caught and wait to be acted upon.
pub(crate) struct Caught(SignalsInfo<WithOrigin>);

/// Catches SIGHUP, whose default would be to end the process. For the first line of `main`.
pub(crate) fn catch_hangup() -> io::Result<Caught> {
    SignalsInfo::new([SIGHUP]).map(Caught)
}

/// What signals other than SIGHUP do.
pub(crate) struct Actions {
    pub(crate) hand_over: Box<dyn Fn() + Send>,
    pub(crate) drain: Box<dyn Fn() + Send>,
    pub(crate) exit: Box<dyn Fn() + Send>,
}

impl Caught {
    /// Catches the others too. Until then they end a process that serves nothing yet.
    pub(crate) fn catch_all(&self) -> io::Result<()> {
        [SIGTERM, SIGINT, SIGQUIT].into_iter().try_for_each(|signal| self.0.add_signal(signal))
    }

    /// Acts on what was caught until now and on whatever comes, on a thread of its own.
    pub(crate) fn act(mut self, reloader: Arc<Reloader>, actions: Actions) -> io::Result<()> {
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut draining = false;
            for origin in &mut self.0 {
                match origin.signal {
                    SIGHUP => {
                        let sender = origin.process.map(|process| (process.pid, process.uid));
                        reloader.trigger(Trigger::Signal { sender });
                    }
                    SIGQUIT => (actions.hand_over)(),
                    _ if draining => (actions.exit)(),
                    _ => {
                        draining = true;
                        (actions.drain)();
                    }
                }
            }
        })?;
        Ok(())
    }
}
