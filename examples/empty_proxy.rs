//! A Pingora proxy that does nothing but pass requests on: what `benches/compare` measures ours against.
//!
//!     cargo run --release --example empty_proxy 127.0.0.1:8080 127.0.0.1:9000

use std::net::SocketAddr;

use anyhow::{Context, Result};
use async_trait::async_trait;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Empty(SocketAddr);

#[async_trait]
impl ProxyHttp for Empty {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().context("usage: empty_proxy LISTEN STORE [THREADS]")?;
    let store = arguments.next().context("usage: empty_proxy LISTEN STORE [THREADS]")?.parse()?;
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let conf = ServerConf { threads, upstream_keepalive_pool_size: 256, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, Empty(store));
    proxy.add_tcp(&listen);
    server.add_service(proxy);
    server.run_forever()
}
