//! The timer of a connection.
//!
//! Its deadline changes with every request, and hardly any request comes near it. So the timer is made
//! when a deadline is first waited for, moved only to an earlier time, and looks for the present deadline
//! when it fires: quick requests on one connection cost one timer in the longest of their time limits.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once the deadline has passed. Otherwise the task is woken at the deadline, or earlier.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_deadline_of_the_moment_and_never_before() {
        let started = Instant::now();
        let at = |seconds| started + Duration::from_secs(seconds);
        let mut alarm = Alarm::default();
        // The first deadline is given up for a later one, as by a quick request; then an earlier one comes.
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, at(10)))).await.is_pending());
        poll_fn(|cx| alarm.poll(cx, at(30))).await;
        assert_eq!(started.elapsed(), Duration::from_secs(30));
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, at(90)))).await.is_pending());
        poll_fn(|cx| alarm.poll(cx, at(40))).await;
        assert_eq!(started.elapsed(), Duration::from_secs(40));
        // A deadline in the past has passed, whatever the timer is set to.
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, at(5)))).await.is_ready());
    }
}
