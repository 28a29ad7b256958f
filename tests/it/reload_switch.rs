//! The switch and the requests under way: G1 to G7 of the promises in `docs/CONFIG_RELOAD.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::harness::raw::Raw;
use crate::harness::*;

/// One of two configurations that share nothing but the prefix `/common`: other credentials, another
/// bucket, another name, another prefix.
pub fn coloured(colour: u64, store: &Store) -> String {
    let entry = |name: String, prefix: String| {
        bucket(&name, &prefix, store, PUBLIC)
            .replace(&format!("bucket: {name}"), &format!("bucket: target-{colour}"))
            .replace(store::ACCESS_KEY, &format!("AK{colour}"))
            .replace(store::SECRET_KEY, &format!("SECRET{colour}"))
    };
    let common = entry(format!("common-{colour}"), "/common".to_owned());
    let own = entry(format!("own-{colour}"), format!("/only-{colour}"));
    format!(
        "server: {{ address: 127.0.0.1, port: {{port}}, generation_header: true }}\n{JWT}buckets:\n{common}{own}"
    )
}

/// The colour of the generation: each valid file has the other colour than the one before.
fn colour_of(generation: u64) -> u64 {
    (generation - 1) % 2
}

/// A store that knows both colours.
pub async fn coloured_store() -> Arc<Store> {
    let credentials = (0..2).map(|colour| (format!("AK{colour}"), format!("SECRET{colour}"))).collect();
    let store = Arc::new(Store::with(store::Options { credentials, ..Default::default() }).await);
    for colour in 0..2 {
        store.put(&format!("target-{colour}"), "object", format!("{colour}"));
    }
    store
}

/// What the traffic saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: u64,
    /// Everything that should not have been, in words.
    pub faults: Vec<String>,
}

/// Constant traffic on kept-alive connections that looks for failed, mixed and late requests.
pub struct Traffic {
    pub confirmed: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Seen>>,
}

impl Traffic {
    pub fn start(proxy: &Proxy, clients: usize) -> Self {
        let (confirmed, done) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let clients = (0..clients)
            .map(|_| tokio::spawn(client(proxy.address, confirmed.clone(), done.clone())))
            .collect();
        Self { confirmed, done, clients }
    }

    pub async fn end(self, store: &Store) -> Seen {
        // A little traffic after the last reload.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.done.store(true, Ordering::SeqCst);
        let mut all = Seen::default();
        for client in self.clients {
            match client.await {
                Ok(seen) => {
                    all.requests += seen.requests;
                    all.faults.extend(seen.faults);
                }
                Err(error) => all.faults.push(format!("failed: {error}")),
            }
        }
        for request in store.received() {
            let colour =
                request.target.strip_prefix("/target-").and_then(|rest| rest.get(..1)).unwrap_or_default();
            if request.access_key() != format!("AK{colour}") {
                all.faults.push(format!("mixed: {} with {}", request.target, request.access_key()));
            }
        }
        all
    }
}

async fn client(address: std::net::SocketAddr, confirmed: Arc<AtomicU64>, done: Arc<AtomicBool>) -> Seen {
    let mut raw = Raw::connect(address).await;
    let mut seen = Seen::default();
    while !done.load(Ordering::SeqCst) {
        let target = ["/common/object", "/only-0/object", "/only-1/object"][seen.requests as usize % 3];
        let floor = confirmed.load(Ordering::SeqCst);
        // A reset or an early end is a panic in here, and the connection is the same from the first to the last.
        let answer = raw.ask("GET", target, &[]).await;
        seen.requests += 1;
        let generation =
            answer.header("x-config-generation").and_then(|number| number.parse().ok()).unwrap_or(0);
        if generation < floor {
            seen.faults.push(format!("late: generation {generation} after {floor} was confirmed"));
            continue;
        }
        let colour = colour_of(generation);
        let exists = target == "/common/object" || target == format!("/only-{colour}/object");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        match (answer.status, exists) {
            (200, true) if body == colour.to_string() => {}
            (404, false) if body.contains("NoSuchBucket") => {}
            (200, _) => seen.faults.push(format!("mixed: {target} in generation {generation} says {body}")),
            (status, _) => seen.faults.push(format!("failed: {target} in generation {generation}: {status}")),
        }
    }
    seen
}

/// Reloads by turns with POST and SIGHUP, valid and invalid files, after `before` valid ones; returns how
/// many of each.
pub async fn flip(
    proxy: &Proxy,
    store: &Store,
    confirmed: &AtomicU64,
    reloads: u64,
    before: u64,
) -> (u64, u64) {
    let (mut valid, mut invalid) = (before, 0);
    for round in 0..reloads {
        let is_valid = round % 2 == 0;
        let next = coloured(colour_of(valid + 2), store);
        // Invalid files: alternately broken YAML and a broken rule.
        let broken =
            if round % 4 == 1 { format!("{next}  - [") } else { next.replace("us-east-1", "us_east_1") };
        proxy.write_config(if is_valid { &next } else { &broken });
        if round / 2 % 2 == 0 {
            let (status, answer) = proxy.reload(&admin_token()).await;
            assert_eq!(status, if is_valid { 200 } else { 400 }, "{answer}");
            assert!(!is_valid || answer["config_generation"] == valid + 2, "{answer}");
        } else {
            proxy.hangup().await;
        }
        if is_valid {
            valid += 1;
        } else {
            invalid += 1;
        }
        confirmed.store(valid + 1, Ordering::SeqCst);
    }
    (valid - before, invalid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g01_g02_g04_g05_two_hundred_reloads_under_traffic_harm_no_request() {
    const RELOADS: u64 = 200;
    let store = coloured_store().await;
    let proxy = Proxy::start(&coloured(0, &store)).await;
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

#[tokio::test]
async fn g03_a_running_download_outlives_its_bucket() {
    let stack = Stack::start().await;
    let content: Vec<u8> = (0..40_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    stack.store.put("photos", "large", &content);
    let mut download = Raw::connect(stack.proxy.address).await;
    download
        .send("GET /photos/large HTTP/1.1\r\nHost: p\r\nX-Request-Id: the-id\r\nConnection: close\r\n\r\n")
        .await;
    let mut beginning = vec![0; 1000];
    download.0.read_exact(&mut beginning).await.expect("the beginning");

    let papers = bucket("papers", "/papers", &stack.store, PRIVATE);
    stack.proxy.write_config(&format!("{JWT}buckets:\n{papers}"));
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

#[tokio::test]
async fn g07_a_hangup_takes_effect_while_nobody_asks() {
    let stack = Stack::start().await;
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(is_prompt_while_idle(&stack.proxy).await.expect("prompt"));
    }
    // The best of five: the machine may be busy with other tests.
    let best = times.iter().min().expect("five");
    assert!(*best < Duration::from_millis(100), "{times:?}");
}
