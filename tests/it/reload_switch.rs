//! The switch and the requests under way: G1 to G7 of the promises in `docs/CONFIG_RELOAD.md`.

use std::time::{Duration, Instant};

use kit::raw::Raw;
use kit::traffic::{Traffic, coloured, coloured_store, flip};
use kit::*;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::stack::{PROGRAM, Stack};

// Promises G1, G2, G4, G5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_traffic_harm_no_request() {
    const RELOADS: u64 = 200;
    let store = coloured_store().await;
    let proxy = PROGRAM.start(&coloured(0, &store)).await;
    let traffic = Traffic::start(&proxy, 6);
    let (valid, invalid) = flip(&proxy, &store, &traffic.confirmed, RELOADS, 0).await;
    let seen = traffic.end(&store).await;
    let metrics = proxy.metrics().await;
    assert_eq!(metrics["config_reload_success_total"], valid as f64);
    assert_eq!(metrics["config_reload_failure_total"], invalid as f64);
    assert_eq!(metrics["config_generation"], (valid + 1) as f64);
    assert!(seen.requests > RELOADS * 5, "only {} requests", seen.requests);
    assert_eq!(seen.faults, Vec::<String>::new());
    println!(
        "{RELOADS} reloads ({valid} valid, {invalid} invalid), {} requests on 6 kept-alive connections, {} \
         connections to the store: 0 failed, 0 mixed, 0 late",
        seen.requests,
        store.connections()
    );
}

// Promise G3.
#[tokio::test]
async fn a_running_download_outlives_its_bucket() {
    let stack = Stack::start().await;
    let content: Vec<u8> = (0..40_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    stack.store.put("photos", "large", &content);
    let mut download = Raw::connect(stack.proxy.address).await;
    download
        .send("GET /photos/large HTTP/1.1\r\nHost: p\r\nX-Request-Id: the-id\r\nConnection: close\r\n\r\n")
        .await;
    let mut beginning = vec![0; 1000];
    download.0.read_exact(&mut beginning).await.expect("the beginning");

    let papers = Bucket::named("papers").store(&stack.store).private();
    stack.proxy.write_config(&Config::new().bucket(papers));
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200);
    assert_eq!(answer["changes"], json!([{ "path": "buckets[photos]", "kind": "removed" }]));
    assert_s3_error(stack.proxy.get("/photos/large").await, 404, "NoSuchBucket").await;

    let rest = download.rest().await.expect("the rest");
    let answer = [beginning, rest].concat();
    let header = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a header") + 4;
    assert!(answer[header..] == content, "the download is not what the store has");
    let line = stack.proxy.access_line("the-id").await;
    assert_eq!((&line["generation"], &line["bytes"]), (&json!(1), &json!(content.len())));
}

/// Whether a SIGHUP to a proxy without any traffic takes effect in time. Looks at the log only.
pub async fn is_prompt_while_idle(proxy: &Proxy) -> Result<Duration, String> {
    proxy.whole_log().await;
    let reloads = || proxy.log().iter().filter(|line| line["outcome"] == "published").count();
    let before = reloads();
    let started = Instant::now();
    proxy.signal("HUP");
    while started.elapsed() < Duration::from_secs(2) {
        if reloads() > before {
            return Ok(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("nothing happened in two seconds".to_owned())
}

// Promise G7.
#[tokio::test]
async fn a_hangup_takes_effect_while_nobody_asks() {
    let stack = Stack::start().await;
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(is_prompt_while_idle(&stack.proxy).await.expect("prompt"));
    }
    // The best of five: the machine may be busy with other tests.
    let best = times.iter().min().expect("five");
    assert!(*best < Duration::from_millis(100), "{times:?}");
}
