//! An S3 server on loopback with two small buckets, to try the proxy with. `make store` runs it until it is
//! told to end; its objects lie in a temporary folder.

use std::net::TcpListener;

use anyhow::{Context as _, Result};
use kit::store::{ACCESS_KEY, Options, SECRET_KEY, Store};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The port that README and Getting started name.
const PORT: u16 = 9000;

fn main() -> Result<()> {
    // Before there is a folder, so that none is left behind.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be caught")?;
    // The store itself would panic.
    drop(TcpListener::bind(("127.0.0.1", PORT)).with_context(|| format!("port {PORT} cannot be used"))?);
    let runtime = tokio::runtime::Runtime::new().context("the store's threads cannot be started")?;
    let store = runtime.block_on(Store::with(Options { port: PORT, ..Options::default() }));
    store.put("my-docs", "hello.txt", "Hello from the store.\n");
    store.put("my-papers", "plan.txt", "Only with a token.\n");
    println!("The store serves my-docs/hello.txt and my-papers/plan.txt at {}.", store.url());
    println!("Its keys: AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY}");
    signals.forever().next();
    Ok(())
}
