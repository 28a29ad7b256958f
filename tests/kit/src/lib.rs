//! What every test stands on: the real program, a real store, clients, and patience with a deadline.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails by a panic is a test that works"
)]

pub mod authority;
pub mod certificate;
pub mod config;
pub mod decider;
pub mod faulty;
pub mod issuer;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod store;
pub mod token;
pub mod traffic;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub use authority::Authority;
pub use config::{Bucket, Config, ConfigFile, PRIVATE, PUBLIC};
pub use decider::{Decider, Reply};
pub use program::{Program, Surroundings};
pub use proxy::Proxy;
pub use store::Store;
pub use token::{admin_token, token};

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A client that keeps connections and follows no redirects.
pub fn http() -> &'static reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        // Each test has a runtime of its own, and a kept connection would outlive it.
        builder.pool_max_idle_per_host(0).no_proxy().build().expect("a client")
    });
    &CLIENT
}

/// Asks until there is an answer, and fails when there is none in time.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in {} seconds: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails unless the answer is an S3 error document with this status and code, and a request id.
pub async fn assert_s3_error(response: reqwest::Response, status: u16, code: &str) {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/xml");
    let id = response.headers()["x-request-id"].to_str().expect("plain").to_owned();
    let document = response.text().await.expect("a text");
    assert!(document.contains(&format!("<Code>{code}</Code>")), "{document}");
    assert!(document.contains(&format!("<RequestId>{id}</RequestId>")), "{document}");
}
