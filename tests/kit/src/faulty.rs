//! A store that misbehaves in ways that a real one cannot be told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server whose every connection is handled by a function of the connection and its number.
pub struct Faulty {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Faulty {
    pub async fn start<F>(handle: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(handle(stream, counter.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, connections }
    }

    /// Answers every request of every connection with these bytes.
    pub async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::start(move |mut stream, _| {
            let bytes = bytes.clone();
            async move { while read_request(&mut stream).await && stream.write_all(&bytes).await.is_ok() {} }
        })
        .await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads to the end of a request's header; `false` when the connection ends before.
pub async fn read_request(stream: &mut TcpStream) -> bool {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => header.push(byte),
            Err(_) => return false,
        }
    }
    true
}

/// Reads and never answers, until the other side gives up.
pub async fn swallow(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}
