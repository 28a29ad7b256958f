//! A service for external decisions, over real HTTP. It decides what a test tells it to, and remembers
//! what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::store::serve;

/// In the address of every service.
pub const QUERY_SECRET: &str = "a-planted-secret";

/// A question as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Value,
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
    pub delay: Duration,
}

impl Reply {
    pub fn of(status: u16, body: impl Into<String>) -> Self {
        Self { status, location: None, body: body.into(), delay: Duration::ZERO }
    }
}

pub struct Decider {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    reply: Arc<Mutex<Reply>>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Decider {
    pub async fn start(body: &str) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), body, None).await
    }

    pub async fn start_at(address: SocketAddr, body: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let reply = Arc::new(Mutex::new(Reply::of(200, body)));
        let connections = Arc::new(AtomicUsize::new(0));
        let (all_asked, replies, accepted) = (asked.clone(), reply.clone(), connections.clone());
        let serving = tokio::spawn(async move {
            // They end with the service.
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (asked, replies, tls) = (all_asked.clone(), replies.clone(), tls.clone());
                let respond = service_fn(move |request| respond(request, asked.clone(), replies.clone()));
                open.spawn(serve(stream, tls, respond));
            }
        });
        Self { address, asked, reply, connections, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1/data/files?token={QUERY_SECRET}", self.address)
    }

    pub fn reply(&self, reply: Reply) {
        *self.reply.lock() = reply;
    }

    /// Everything asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Closes the port and every connection.
    pub async fn stop(self) -> SocketAddr {
        self.serving.abort();
        let _ = self.serving.await;
        self.address
    }
}

async fn respond(
    request: Request<Incoming>,
    asked: Arc<Mutex<Vec<Asked>>>,
    replies: Arc<Mutex<Reply>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    asked.lock().push(Asked {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: parts.headers,
        body: serde_json::from_slice(&body).expect("JSON"),
    });
    let reply = replies.lock().clone();
    tokio::time::sleep(reply.delay).await;
    let mut response = Response::builder().status(reply.status);
    if let Some(location) = reply.location {
        response = response.header("location", location);
    }
    Ok(response.body(Full::from(reply.body)).expect("a response"))
}
