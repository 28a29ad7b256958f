//! Clients that take what they can: time, connections, the bytes of the next request.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kit::raw::{self, Raw};
use kit::*;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::stack::{PROGRAM, Stack, two_buckets};

async fn rejections(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("yatagarasu_rejections_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn a_header_that_takes_too_long_is_answered_and_told_once() {
    let stack = Stack::with("limits: { header_seconds: 1 }").await;
    let dribble = async |mut raw: Raw| {
        let started = Instant::now();
        // More often than any limit between two reads.
        while started.elapsed() < Duration::from_secs(4) {
            if tokio::io::AsyncWriteExt::write_all(&mut raw.0, b"x").await.is_err() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
            let mut byte = [0];
            if matches!(raw.0.try_read(&mut byte), Ok(1)) {
                assert_eq!(&byte, b"H");
                break;
            }
        }
        started.elapsed()
    };
    let first = Raw::connect(stack.proxy.address).await;
    let mut second = Raw::connect(stack.proxy.address).await;
    // A connection may wait for its next request for longer than a header may take.
    assert_eq!(second.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(second.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    for took in [dribble(first).await, dribble(second).await] {
        assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&took), "{took:?}");
    }
    let mut silent = Raw::connect(stack.proxy.address).await;
    silent.send("GET /healthz HTT").await;
    assert_eq!(silent.answer(false).await.status, 408);
    assert_eq!(silent.rest().await.expect("a clean end"), b"");
    eventually("all are counted", async || {
        (rejections(&stack.proxy, "header_timeout").await == 3.0).then_some(())
    })
    .await;
    let lines = stack.proxy.whole_log().await;
    assert_eq!(lines.iter().filter(|line| line["reason"] == "header_timeout").count(), 3);
}

#[tokio::test]
async fn what_pingora_would_mend_is_refused() {
    let stack = Stack::start().await;
    let whole = |target: &str, line_end: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: p{line_end}X-Request-Id: the-id\r\n\r\n").into_bytes()
    };
    let bad = [
        whole("/photos/cat.jpg b", "\r\n"),
        whole("/photos/cat\u{1}.jpg", "\r\n"),
        whole("/photos/cat.jpg#x", "\r\n"),
        whole("/photos/cat.jpg", "\n"),
        whole("/healthz", "\n"),
        whole("/photos/\u{e9} b", "\r\n"),
    ];
    for request in &bad {
        let mut raw = Raw::connect(stack.proxy.address).await;
        raw.send(request).await;
        let answer = raw.answer(false).await;
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{}", answer.head);
        assert!(answer.header("x-request-id").is_some() && !answer.body.is_empty(), "{}", answer.head);
    }
    let line = stack.proxy.access_line("the-id").await;
    assert!(line["reason"].as_str().expect("a reason").starts_with("malformed"), "{line}");
    eventually("all are counted", async || {
        (rejections(&stack.proxy, "malformed").await == bad.len() as f64).then_some(())
    })
    .await;
    // The same holds behind another request, with a body or without one.
    let good = "GET /photos/cat.jpg HTTP/1.1\r\nHost: p\r\n\r\n";
    let post = "POST /photos/cat.jpg HTTP/1.1\r\nHost: p\r\nContent-Length: 3\r\n\r\nabc";
    let mut raw = Raw::connect(stack.proxy.address).await;
    raw.send([good.as_bytes(), post.as_bytes(), good.as_bytes(), &bad[2], good.as_bytes()].concat()).await;
    for status in [200, 405, 200, 400] {
        assert_eq!(raw.answer(false).await.status, status);
    }
    assert_eq!(raw.rest().await.expect("a clean end"), b"");
    // A target of plain UTF-8 is not mended.
    assert_eq!(raw::ask(stack.proxy.address, "GET", "/photos/é").await.status, 404);
}

#[tokio::test]
async fn a_request_after_one_that_was_refused_is_never_swallowed() {
    let stack = Stack::start().await;
    for (headers, connection) in [
        (&[("Expect", "100-continue"), ("Content-Length", "44")][..], "close"),
        (&[("Expect", "100-continue"), ("Transfer-Encoding", "chunked")], "close"),
        (&[("Expect", "100-continue"), ("Content-Length", "0")], "keep-alive"),
        (&[], "keep-alive"),
    ] {
        let mut raw = Raw::connect(stack.proxy.address).await;
        let answer = raw.ask("POST", "/photos/cat.jpg", headers).await;
        assert_eq!((answer.status, answer.header("connection")), (405, Some(connection)), "{headers:?}");
        if connection == "close" {
            let started = Instant::now();
            assert_eq!(raw.rest().await.expect("a clean end"), b"", "{headers:?}");
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        } else {
            assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.body, b"a cat");
        }
    }
    // A body that comes is read, and what follows it is answered.
    let mut raw = Raw::connect(stack.proxy.address).await;
    raw.send("POST /photos/cat.jpg HTTP/1.1\r\nHost: p\r\nContent-Length: 10\r\n\r\n01234").await;
    assert_eq!(raw.answer(false).await.status, 405);
    raw.send("56789GET /photos/cat.jpg HTTP/1.1\r\nHost: p\r\n\r\n").await;
    assert_eq!(raw.answer(false).await.body, b"a cat");
}

#[tokio::test]
async fn a_text_to_judge_is_asked_for_before_it_is_sent() {
    let stack = Stack::start().await;
    let bearer = format!("Bearer {}", admin_token());
    let body = "buckets: []";
    let length = body.len().to_string();
    let expecting = [("Expect", "100-continue"), ("Content-Length", length.as_str())];
    let mut raw = Raw::connect(stack.proxy.address).await;
    let headers = [&expecting[..], &[("Authorization", bearer.as_str())]].concat();
    assert_eq!(raw.ask("POST", "/admin/validate", &headers).await.status, 100);
    raw.send(body).await;
    assert_eq!(raw.answer(false).await.status, 200);
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.body, b"a cat");
    // A client that may not ask is not asked to send.
    let answer = Raw::connect(stack.proxy.address).await.ask("POST", "/admin/validate", &expecting).await;
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
}

#[tokio::test]
async fn a_header_for_this_hop_alone_does_not_reach_the_store() {
    let stack = Stack::start().await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    for (connection, status) in [("keep-alive", 206), ("range", 200), ("keep-alive, Range", 200)] {
        let headers = [("Connection", connection), ("Range", "bytes=0-1")];
        assert_eq!(raw.ask("GET", "/photos/cat.jpg", &headers).await.status, status, "{connection}");
    }
}

#[tokio::test]
async fn endpoints_that_are_switched_off_have_no_methods() {
    let stack = Stack::with("admin: { enabled: false }").await;
    for (method, target, status) in [
        ("OPTIONS", "/admin/reload", 404),
        ("POST", "/admin/reload", 404),
        ("OPTIONS", "/metrics", 204),
        ("OPTIONS", "/photos/cat.jpg", 204),
    ] {
        let answer = raw::ask(stack.proxy.address, method, target).await;
        assert_eq!((answer.status, answer.header("allow").is_some()), (status, status == 204), "{target}");
    }
}

#[tokio::test]
async fn no_error_is_for_a_cache() {
    let stack = Stack::start().await;
    for (method, target, status) in [
        ("GET", "/photos/missing", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/photos/cat.jpg", 405),
        ("GET", "/photos/../x", 400),
        ("GET", "/papers/plan.txt", 401),
    ] {
        let answer = raw::ask(stack.proxy.address, method, target).await;
        assert_eq!((answer.status, answer.header("cache-control")), (status, Some("no-store")), "{target}");
    }
    assert_eq!(raw::ask(stack.proxy.address, "GET", "/photos/cat.jpg").await.header("cache-control"), None);
}

#[tokio::test]
async fn a_silent_connection_holds_no_end_up() {
    let mut stack = Stack::start().await;
    let mut silent = Raw::connect(stack.proxy.address).await;
    let other = proxy::free_port();
    let moved = stack.config().with(&format!("server: {{ address: 127.0.0.1, port: {other} }}"));
    stack.proxy.write_config(&moved);
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    let started = Instant::now();
    assert_eq!(silent.rest().await.expect("a clean end"), b"", "the old port keeps nobody");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], other));
    let _silent = Raw::connect(address).await;
    assert_eq!(raw::ask(address, "GET", "/photos/cat.jpg").await.status, 200);
    let started = Instant::now();
    stack.proxy.signal("TERM");
    assert_eq!(stack.proxy.exit().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_request_whose_header_has_begun_is_answered_before_the_end() {
    let mut stack = Stack::start().await;
    let mut fresh = Raw::connect(stack.proxy.address).await;
    let mut kept = Raw::connect(stack.proxy.address).await;
    assert_eq!(kept.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    let (half, rest) = ("GET /photos/cat.jpg HTT", "P/1.1\r\nHost: p\r\n\r\n");
    fresh.send(half).await;
    kept.send(half).await;
    sleep(Duration::from_millis(200)).await;
    stack.proxy.signal("TERM");
    eventually("the port is closed", async || {
        TcpStream::connect(stack.proxy.address).await.is_err().then_some(())
    })
    .await;
    sleep(Duration::from_millis(500)).await;
    for mut client in [fresh, kept] {
        client.send(rest).await;
        let answer = client.answer(false).await;
        assert_eq!((answer.body.as_slice(), answer.header("connection")), (&b"a cat"[..], Some("close")));
    }
    assert_eq!(stack.proxy.exit().await.code(), Some(0));
}

/// Silent connections, of which those that were refused have closed by now.
async fn silent(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    let connected = join_all((0..count).map(|_| TcpStream::connect(proxy.address))).await;
    connected.into_iter().flatten().collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn clients_cannot_take_every_descriptor() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let config = |limits: &str| {
        let admin = "admin: { socket: admin.sock, socket_uids: [0, 1000] }";
        two_buckets(&store).server("threads: 1").with(admin).with(limits)
    };
    let limited = ["sh", "-c", "ulimit -n 96 && exec \"$0\" \"$@\""].map(str::to_owned).to_vec();
    let surroundings = Surroundings { wrapper: limited, ..Default::default() };
    let proxy = PROGRAM.start_in(&config(""), surroundings).await;
    let refused = "yatagarasu_connections_refused_total";
    let over_the_socket = || {
        let socket = proxy.folder.path().join("admin.sock");
        let curl = std::process::Command::new("curl")
            .args(["--silent", "--max-time", "5", "--unix-socket"])
            .arg(socket)
            .arg("http://admin/metrics")
            .output()
            .expect("curl starts");
        proxy::samples(&String::from_utf8(curl.stdout).expect("a text"))
    };
    let crowd = silent(&proxy, 200).await;
    let metrics = eventually("the crowd has been taken or refused", async || {
        let metrics = over_the_socket();
        (metrics.get(refused).is_some_and(|count| *count >= 100.0)).then_some(metrics)
    })
    .await;
    // 96, of which half are kept back; half of the others are for the stores.
    assert!(metrics["yatagarasu_connections_open"] <= 24.0, "{metrics:?}");
    // The file is read and the log is written all the same.
    proxy.write_config(&config("limits: { connections: 5 }"));
    proxy.signal("HUP");
    eventually("the reload took effect", async || {
        (over_the_socket().get("config_generation") == Some(&2.0)).then_some(())
    })
    .await;
    let text = proxy.log_text();
    assert!(
        text.contains("connections of clients are refused") && !text.contains("can be accepted"),
        "{text}"
    );
    drop(crowd);
    eventually("clients are served again", async || {
        let client = http().get(proxy.url("/photos/cat.jpg")).send().await;
        client.is_ok_and(|response| response.status() == 200).then_some(())
    })
    .await;
    // The new limit counts.
    eventually("the crowd has gone", async || {
        (over_the_socket()["yatagarasu_connections_open"] == 0.0).then_some(())
    })
    .await;
    let before = over_the_socket()[refused];
    let _crowd = silent(&proxy, 8).await;
    eventually("three are refused", async || (over_the_socket()[refused] - before == 3.0).then_some(()))
        .await;
}
