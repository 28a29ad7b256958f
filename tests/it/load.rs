//! Large objects in constant memory.

use std::time::Instant;

use futures::StreamExt;
use kit::*;

use crate::stack::Stack;

const DOWNLOADS: usize = 32;
const OBJECT_BYTES: usize = 200_000_000;
const MAX_GROWTH_KIB: u64 = 64 * 1024;

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_large_downloads_at_once_take_little_memory() {
    let stack = Stack::start().await;
    let content: Vec<u8> = (0..OBJECT_BYTES).map(|n| (n % 251) as u8).collect();
    stack.store.put("photos", "large", &content);
    drop(content);
    // Once before, so that what is allocated once is there.
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.status(), 200);
    let before = stack.proxy.memory_kib("VmRSS");
    let started = Instant::now();
    let downloads = (0..DOWNLOADS).map(|_| {
        let url = stack.proxy.url("/photos/large");
        tokio::spawn(async move {
            let mut stream = http().get(url).send().await.expect("an answer").bytes_stream();
            let mut bytes = 0;
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.expect("a whole download");
                assert!(
                    chunk.iter().enumerate().step_by(997).all(|(n, byte)| *byte == ((bytes + n) % 251) as u8)
                );
                bytes += chunk.len();
            }
            bytes
        })
    });
    for download in futures::future::join_all(downloads).await {
        assert_eq!(download.expect("no panic"), OBJECT_BYTES);
    }
    let seconds = started.elapsed().as_secs_f64();
    let peak = stack.proxy.memory_kib("VmHWM");
    let growth = peak.saturating_sub(before);
    println!(
        "{DOWNLOADS} × {OBJECT_BYTES} bytes in {seconds:.1} s, {:.0} MB/s; RSS {before} KiB before, {peak} KiB at its peak, {growth} KiB more",
        (DOWNLOADS * OBJECT_BYTES) as f64 / 1e6 / seconds,
    );
    assert!(growth <= MAX_GROWTH_KIB, "{growth} KiB more");
}
