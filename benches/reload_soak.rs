//! Reloads for a long time under load, and what they cost. Prints tables; fails on any failed, mixed
//! or late request, and on growth.
//!
//!     cargo bench --bench reload_soak                    10,000 reloads, 10,000 and 100,000 buckets
//!     cargo bench --bench reload_soak -- 1000            fewer reloads; 0 for none
//!
//! Loads loopback only, for a few minutes, with six connections.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "fails by panics, like a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kit::raw::Raw;
use kit::traffic::{Traffic, coloured, coloured_store, flip};
use kit::*;

const PROGRAM: Program = Program::at(env!("CARGO_BIN_EXE_yatagarasu"));

fn main() {
    // `cargo bench` adds an argument of its own.
    let reloads = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        if reloads > 0 {
            soak(reloads).await;
        }
        latency().await;
        for buckets in [10_000, 100_000] {
            time_to_live(buckets).await;
        }
    });
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Resources {
    rss_kib: u64,
    descriptors: usize,
    threads: u64,
}

fn resources(proxy: &Proxy) -> Resources {
    let descriptors =
        std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).expect("the process lives").count();
    Resources { rss_kib: proxy.memory_kib("VmRSS"), descriptors, threads: proxy.memory_kib("Threads") }
}

/// Longer than every time limit of a request, so that memory has settled as far as it does without reloads.
const WARM_UP: Duration = Duration::from_secs(90);

async fn soak(reloads: u64) {
    let store = coloured_store().await;
    let proxy = PROGRAM.start(&coloured(0, &store)).await;
    let traffic = Traffic::start(&proxy, 6);
    tokio::time::sleep(WARM_UP).await;
    let (mut valid, mut invalid) = (0, 0);
    let mut samples = Vec::new();
    let started = Instant::now();
    // In steps, so that each sample is taken between two reloads; a step ends on the colour it began with.
    let steps = [100, 1_000, 10_000, 100_000].into_iter().filter(|step| *step <= reloads);
    for step in steps {
        let (good, bad) = flip(&proxy, &store, &traffic.confirmed, step - valid - invalid, valid).await;
        valid += good;
        invalid += bad;
        samples.push((valid + invalid, resources(&proxy)));
    }
    let seconds = started.elapsed().as_secs_f64();
    let seen = traffic.end(&store).await;
    println!("## {} reloads ({valid} valid, {invalid} invalid) under traffic\n", valid + invalid);
    println!("| requests | failed | mixed | late | seconds |\n|---|---|---|---|---|");
    let count = |kind: &str| seen.faults.iter().filter(|fault| fault.starts_with(kind)).count();
    println!(
        "| {} | {} | {} | {} | {seconds:.0} |\n",
        seen.requests,
        count("failed"),
        count("mixed"),
        count("late")
    );
    println!("| reloads | RSS KiB | descriptors | threads |\n|---|---|---|---|");
    for (reloads, resources) in &samples {
        println!("| {reloads} | {} | {} | {} |", resources.rss_kib, resources.descriptors, resources.threads);
    }
    println!();
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    let metrics = proxy.metrics().await;
    assert_eq!(
        (metrics["config_reload_success_total"], metrics["config_reload_failure_total"]),
        (valid as f64, invalid as f64)
    );
    let (first, last) = (samples[0].1, samples[samples.len() - 1].1);
    let growth = last.rss_kib as f64 / first.rss_kib as f64;
    println!("RSS at the end is {growth:.3} × that at {} reloads\n", samples[0].0);
    assert_eq!(first.threads, last.threads);
}

fn many(buckets: usize, store: &Store, colour: u64) -> Config {
    let bucket = |number: usize| {
        // Two of them change with the colour.
        let prefix = if number < 2 { format!("/c{colour}-{number}") } else { format!("/many{number}") };
        Bucket::named(&format!("many{number}")).at(&prefix).store(store)
    };
    Config::new()
        .server("generation_header: true")
        .buckets((0..buckets).map(bucket))
        .bucket(Bucket::named("photos").store(store))
}

/// By turns without reloads and with, each for so long.
const TURNS: usize = 30;
const TURN: Duration = Duration::from_secs(2);

/// The latency of requests beside one reload a second of 10,000 buckets, against that without.
async fn latency() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let proxy = PROGRAM.start(&many(10_000, &store, 0)).await;
    // Made beforehand: what the measurement itself does must not be measured.
    let contents: Vec<_> = (1..=2)
        .map(|colour| {
            let path = proxy.folder.path().join(format!("colour-{colour}"));
            let config = many(10_000, &store, colour).text(proxy.address.port());
            std::fs::write(&path, config).expect("written");
            path
        })
        .collect();
    let mut asked = 0;
    let mut reloads = 0;
    let mut times = [const { Vec::new() }; 2];
    for turn in 0..2 * TURNS {
        let reloading = turn % 2;
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..4).map(|_| tokio::spawn(timed(proxy.address, done.clone()))).collect();
        let end = Instant::now() + TURN;
        while Instant::now() < end {
            let next = Instant::now() + Duration::from_secs(1);
            // Without reloads, too, so that the difference is the reload and not who asks for it.
            let renamed = proxy.folder.path().join("next");
            std::fs::hard_link(&contents[asked % 2], &renamed).expect("linked");
            std::fs::rename(&renamed, proxy.config_path()).expect("renamed");
            asked += 1;
            if reloading == 1 {
                assert_eq!(proxy.reload(&admin_token()).await.0, 200);
                reloads += 1;
            } else {
                assert_eq!(proxy.status().await["config_generation"], reloads + 1);
            }
            tokio::time::sleep_until(next.into()).await;
        }
        done.store(true, Ordering::SeqCst);
        for client in clients {
            times[reloading].extend(client.await.expect("no request failed"));
        }
    }
    println!("## latency beside one reload a second of 10,000 buckets, in µs\n");
    println!("| reloads | requests | p50 | p90 | p99 | p99.9 |\n|---|---|---|---|---|---|");
    let mut tails = Vec::new();
    for (reloads, times) in [0, reloads].into_iter().zip(&mut times) {
        times.sort_unstable();
        let quantile = |q: f64| times[(times.len() as f64 * q) as usize].as_micros();
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(quantile);
        println!("| {reloads} | {} | {p50} | {p90} | {p99} | {p999} |", times.len());
        tails.push(p99 as f64);
    }
    println!("\np99 with reloads is {:.2} × that without\n", tails[1] / tails[0]);
}

async fn timed(address: std::net::SocketAddr, done: Arc<AtomicBool>) -> Vec<Duration> {
    let mut raw = Raw::connect(address).await;
    let mut times = Vec::new();
    while !done.load(Ordering::SeqCst) {
        let started = Instant::now();
        assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
        times.push(started.elapsed());
        // Half idle, or the machine would measure itself.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times
}

/// From SIGHUP to the first request that is served by the new generation.
async fn time_to_live(buckets: usize) {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let proxy = PROGRAM.start(&many(buckets, &store, 0)).await;
    let mut raw = Raw::connect(proxy.address).await;
    let mut generation = async || {
        let answer = raw.ask("GET", "/photos/cat.jpg", &[]).await;
        answer.header("x-config-generation").and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    let mut times = Vec::new();
    for round in 0..5 {
        proxy.write_config(&many(buckets, &store, round % 2 + 1));
        let before = generation().await;
        let started = Instant::now();
        proxy.signal("HUP");
        while generation().await == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!("## SIGHUP to live with {buckets} buckets\n");
    println!(
        "median {:.0} ms of five, worst {:.0} ms; RSS {} KiB; the last one by its stages:\n",
        times[2].as_secs_f64() * 1e3,
        times[4].as_secs_f64() * 1e3,
        proxy.memory_kib("VmRSS")
    );
    let status = proxy.status().await;
    println!("| stage | ms |\n|---|---|");
    for (stage, took) in status["last_reload"]["stages_ms"].as_object().expect("stages") {
        println!("| {stage} | {took} |");
    }
    println!("| all | {} |\n", status["last_reload"]["duration_ms"]);
}
