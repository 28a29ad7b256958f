//! What systemd is told of a service of `Type=notify-reload` (`sd_notify(3)`, `systemd.service(5)`).
//! Without `NOTIFY_SOCKET` in the environment nothing happens.

use std::time::Duration;

use futures::future::try_join_all;
use sd_notify::NotifyState;
use tokio::runtime::Handle;

use crate::reload::attempt::{Attempt, Verdict};

/// The service is up.
pub(crate) fn ready(generation: u64) {
    let status = format!("generation {generation} is in service");
    send(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// A reload begins. The time must be in the same datagram.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        send(&[NotifyState::Reloading, now]);
    }
}

/// A reload has ended, whatever came of it; the status says what.
pub(crate) fn reloaded(attempt: &Attempt) {
    let status = match &attempt.verdict {
        Verdict::Refused(_) if attempt.is_dry_run => {
            format!("generation {} is in service; a file was checked", attempt.generation)
        }
        Verdict::Published => format!("generation {} is in service", attempt.generation),
        Verdict::DryRunOk => format!("generation {} is in service; a file was checked", attempt.generation),
        Verdict::Refused(refusal) => {
            format!(
                "generation {} stays in service; the reload failed: {}",
                attempt.generation,
                refusal.summary()
            )
        }
    };
    // A status is one line.
    let status = status.replace('\n', " ");
    send(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The drain has begun.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Another process is the service now. For the old one to say, whom systemd still believes.
pub(crate) fn main_pid(pid: u32) {
    send(&[NotifyState::MainPid(pid)]);
}

/// Reports as often as systemd asks for, if it does, each time after every one of these runtimes has run
/// a task: when one that serves requests comes to nothing else any more, systemd hears nothing.
pub(crate) fn watchdog(background: &Handle, workers: Vec<Handle>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut interval = tokio::time::interval((limit / 2).max(Duration::from_millis(10)));
    background.spawn(async move {
        loop {
            interval.tick().await;
            let turns = workers.iter().map(|worker| worker.spawn(async {}));
            // An error says that there is no such thread any more.
            if try_join_all(turns).await.is_ok() {
                send(&[NotifyState::Watchdog]);
            }
        }
    });
}

fn send(states: &[NotifyState<'_>]) {
    // systemd may be gone; the service goes on.
    let _ = sd_notify::notify(states);
}
