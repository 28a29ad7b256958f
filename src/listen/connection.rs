//! A client's connection, as Pingora wants it, that sends a header and the beginning of its body
//! together.
//!
//! Pingora's own buffering belongs to its own listeners, which reserve 64 KiB for each connection, idle
//! or not. Here nothing is reserved: what is written is held until it is flushed, or more than a packet or
//! two, or there is nothing more for now, and then goes out with what follows in one system call.
//!
//! Reads give Pingora what the request is about and no more: one header at a time, then its body. So a
//! header always begins where [`HeaderScan`] begins to look, and while a request is being answered a read
//! notices only that the client went away or that the deadline of the request has passed.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::gateway::{Downstream, Expected};
use crate::listen::alarm::Alarm;
use crate::listen::header_scan::HeaderScan;
use crate::process::lifecycle::Lifecycle;

/// What is copied and held; more is sent from where it is.
const HELD_BYTES: usize = 4096;

/// The answer to a header that took too long. Pingora has none.
const HEADER_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n";

pub(crate) struct Connection {
    stream: Stream,
    /// Takes no memory while it is empty.
    held: BytesMut,
    /// Bytes of the client that were read before their time. Not more than one read brings.
    ahead: BytesMut,
    scan: HeaderScan,
    /// Counts the header under way, when it did not come in one piece.
    unfinished: Option<TaskTrackerToken>,
    alarm: Alarm,
    downstream: Arc<Downstream>,
    lifecycle: Arc<Lifecycle>,
}

impl Connection {
    pub(crate) fn new(stream: Stream, downstream: Arc<Downstream>, lifecycle: Arc<Lifecycle>) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
            ahead: BytesMut::new(),
            scan: HeaderScan::default(),
            unfinished: None,
            alarm: Alarm::default(),
            downstream,
            lifecycle,
        }
    }

    /// Reads the bytes that were read before their time, or new ones.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(length));
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps what stands in the buffer after its first `length` bytes for the next read.
    fn put_back(&mut self, buffer: &mut ReadBuf<'_>, length: usize) {
        let surplus = buffer.filled().get(length..).unwrap_or_default();
        if !surplus.is_empty() {
            let rest = std::mem::take(&mut self.ahead);
            self.ahead.extend_from_slice(surplus);
            self.ahead.extend_from_slice(&rest);
            buffer.set_filled(length);
        }
    }

    /// Reads of the next header, and not beyond its end.
    fn poll_header(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.poll_bytes(cx, buffer))?;
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        match self.scan.scan(fresh) {
            Some(end) => {
                self.put_back(buffer, before + end.length);
                self.unfinished = None;
                self.downstream.header_has_come(end.malformed);
            }
            // The client has gone away.
            None if fresh.is_empty() => {}
            None => {
                self.unfinished.get_or_insert_with(|| self.lifecycle.header());
                self.downstream.header_has_begun();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads of the body of a request, of which so much is left, and not beyond its end.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        left: Option<u64>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.poll_bytes(cx, buffer))?;
        let left = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        self.put_back(buffer, before.saturating_add(left));
        self.downstream.body_was_read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }

    /// Waits for the client to go away. What it sends belongs to its next request.
    fn poll_nothing(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(fresh);
            buffer.set_filled(before);
        }
        Poll::Pending
    }

    fn send_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(sent);
        }
        self.held = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

/// Where a store fails in the middle, the client gets what there was, as far as it goes without waiting.
impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.send_held(&mut Context::from_waker(Waker::noop()));
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.held.len() + data.len() <= HELD_BYTES {
            this.held.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        while !this.held.is_empty() {
            let both = [IoSlice::new(&this.held), IoSlice::new(data)];
            let sent = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &both))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = sent.min(this.held.len());
            this.held.advance(of_held);
            if sent > of_held {
                return Poll::Ready(Ok(sent - of_held));
            }
        }
        Pin::new(&mut this.stream).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send_held(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send_held(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever looks for more from the client has nothing more to send for now.
        if let Poll::Ready(Err(error)) = this.send_held(cx) {
            return Poll::Ready(Err(error));
        }
        let (expected, _) = this.downstream.expected();
        let read = match expected {
            Expected::Header => this.poll_header(cx, buffer),
            Expected::Body(Some(0)) | Expected::Nothing => this.poll_nothing(cx, buffer),
            Expected::Body(left) => this.poll_body(cx, buffer, left),
        };
        if read.is_ready() {
            return read;
        }
        let (_, Some(deadline)) = this.downstream.expected() else { return Poll::Pending };
        ready!(this.alarm.poll(cx, deadline));
        if expected == Expected::Header {
            this.held.extend_from_slice(HEADER_TIMEOUT);
        }
        this.downstream.deadline_has_passed();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut self.stream).await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

/// TLS ends elsewhere.
impl Ssl for Connection {}

#[async_trait]
impl Peek for Connection {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.stream.try_peek(buffer).await
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}
