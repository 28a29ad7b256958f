//! Constant traffic under reloads by turns of two configurations, and what it must not see.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::raw::Raw;
use crate::{Bucket, Config, Proxy, Store, admin_token, store};

/// The configuration of a colour, 0 or 1. The two share nothing but the prefix `/common`: names, the other
/// prefixes, buckets of the store and credentials all differ.
pub fn coloured(colour: u64, store: &Store) -> Config {
    let bucket = |name: &str| {
        Bucket::named(&format!("{name}-{colour}"))
            .store(store)
            .target(&format!("target-{colour}"))
            .keys(&format!("AK{colour}"), &format!("SECRET{colour}"))
    };
    let own = bucket("own").at(&format!("/only-{colour}"));
    Config::new().server("generation_header: true").bucket(bucket("common").at("/common")).bucket(own)
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

/// The result of some traffic.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: u64,
    /// Every answer that breaks a promise, in words.
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

async fn client(address: SocketAddr, confirmed: Arc<AtomicU64>, done: Arc<AtomicBool>) -> Seen {
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
        if is_valid {
            proxy.write_config(&next);
        } else if round % 4 == 1 {
            // No YAML.
            proxy.write_config(&format!("{}  - [", next.yaml()));
        } else {
            // No name of a region.
            proxy.write_config(&next.each(|bucket| bucket.region("us_east_1")));
        }
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
