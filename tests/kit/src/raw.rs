//! HTTP as bytes on a socket, for what a well-behaved client would not send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

pub struct Raw(pub TcpStream);

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("sent");
    }

    /// Sends a request line and headers, then reads the answer.
    pub async fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: proxy\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        self.send(format!("{request}\r\n")).await;
        self.answer(method == "HEAD").await
    }

    /// Reads one answer with a `Content-Length`, or without a body.
    pub async fn answer(&mut self, is_head: bool) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.0.read_u8()).await.expect("in time");
            head.push(byte.unwrap_or_else(|_| panic!("the end after {:?}", String::from_utf8_lossy(&head))));
        }
        let head = String::from_utf8(head).expect("a header of text");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if !is_head && length > 0 {
            answer.body = vec![0; length];
            let read = timeout(PATIENCE, self.0.read_exact(&mut answer.body)).await.expect("in time");
            read.expect("the whole body");
        }
        answer
    }

    /// What still comes until the other side closes.
    pub async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("in time")?;
        Ok(rest)
    }
}

/// One request on a connection of its own.
pub async fn ask(address: SocketAddr, method: &str, target: &str) -> Answer {
    Raw::connect(address).await.ask(method, target, &[]).await
}
