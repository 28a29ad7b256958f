//! The time limits of a request that Pingora does not have: until the header of the store's answer is
//! complete, and for the whole.
//!
//! Pingora limits each read from the store, so that one byte at a time, or one informational answer after
//! the other, could hold a request for ever. While it waits for the store it also looks whether the client
//! has gone away, and there the connection reports a deadline that has passed.

use std::time::{Duration, Instant};

use pingora::{Error, ErrorType, Result};

use crate::gateway::context::Context;
use crate::gateway::rejection::{Rejection, UpstreamError};
use crate::gateway::{Gateway, OVERDUE, admitted};
use crate::net::peer::Timeouts;

impl Context {
    /// The request goes to the store now. It is given up when the time for the store's header, or for the
    /// whole request, is over.
    pub(crate) fn wait_for_header(&self, now: Instant, timeouts: &Timeouts) {
        self.give_up_in(timeouts.first_byte.min(self.remaining(timeouts.total)), now);
    }

    /// The header has come; from now on the time for the whole request counts.
    pub(crate) fn wait_for_body(&self, timeouts: &Timeouts) {
        let now = Instant::now();
        self.give_up_in(self.remaining(timeouts.total), now);
    }

    fn give_up_in(&self, patience: Duration, now: Instant) {
        if let Some(downstream) = &self.downstream {
            downstream.give_up_at((now + patience).into());
        }
    }

    /// Whether a deadline has passed while Pingora waited.
    fn is_given_up(&self) -> bool {
        self.downstream.as_ref().is_some_and(|downstream| downstream.is_overdue())
    }
}

impl Gateway {
    /// An error once the request has taken longer than it may in all.
    pub(crate) fn check_total(&self, ctx: &mut Context) -> Result<()> {
        let total = admitted(ctx)?.bucket().timeouts.total;
        if ctx.remaining(total).is_zero() {
            ctx.rejection = Some(Rejection::Overdue);
            return Err(Error::new_in(OVERDUE));
        }
        Ok(())
    }

    /// The error for a deadline that has passed, which Pingora takes for a client that went away; `None`
    /// where its error has another cause.
    pub(crate) fn given_up(&self, ctx: &mut Context) -> Option<Box<Error>> {
        if !ctx.is_given_up() {
            return None;
        }
        let mut error = match self.check_total(ctx) {
            Err(error) => error,
            Ok(()) => {
                self.upstream_failed(ctx, UpstreamError::Timeout);
                Error::new_up(ErrorType::ReadTimedout)
            }
        };
        error.set_retry(false);
        Some(error)
    }
}
