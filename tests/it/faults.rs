//! A store that fails, is slow or is not there; a client that goes away.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kit::faulty::{Faulty, read_request, swallow};
use kit::raw::{self, Raw};
use kit::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::stack::{PROGRAM, Stack, two_buckets};

/// A proxy in front of one endpoint, with timeouts for tests.
async fn proxy_for(endpoint: &str) -> Proxy {
    let timeouts = "timeouts: { connect_seconds: 1, read_seconds: 1, write_seconds: 1, idle_seconds: 60, total_seconds: 5 }";
    let bucket = Bucket::named("photos").endpoint(endpoint).s3(timeouts);
    PROGRAM.start(&Config::without_jwt().bucket(bucket)).await
}

/// A store whose objects have no end worth waiting for.
async fn endless() -> Faulty {
    Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n").await;
        while stream.write_all(&[0; 65_536]).await.is_ok() {}
    })
    .await
}

async fn upstream_errors(proxy: &Proxy, kind: &str) -> f64 {
    proxy.metric(&format!("yatagarasu_upstream_errors_total{{bucket=\"photos\",kind=\"{kind}\"}}")).await
}

#[tokio::test]
async fn a_store_that_is_not_there_is_a_bad_gateway() {
    let proxy = proxy_for(&format!("http://127.0.0.1:{}", proxy::free_port())).await;
    assert_s3_error(proxy.get("/photos/a").await, 502, "InternalError").await;
    assert_eq!(upstream_errors(&proxy, "connect").await, 1.0);
}

#[tokio::test]
async fn a_store_that_never_answers_is_a_gateway_timeout() {
    let store = Faulty::start(|stream, _| swallow(stream)).await;
    let proxy = proxy_for(&store.url()).await;
    let started = Instant::now();
    assert_s3_error(proxy.get("/photos/a").await, 504, "RequestTimeout").await;
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(upstream_errors(&proxy, "timeout").await, 1.0);
    assert_eq!(store.connections(), 1, "a request that may have been executed is not repeated");
}

#[tokio::test]
async fn a_store_that_speaks_no_http_is_a_bad_gateway() {
    let store = Faulty::answering("220 smtp.example ready\r\n\r\n").await;
    let proxy = proxy_for(&store.url()).await;
    assert_s3_error(proxy.get("/photos/a").await, 502, "InternalError").await;
    assert_eq!(upstream_errors(&proxy, "protocol").await, 1.0);
}

#[tokio::test]
async fn a_store_that_hangs_up_before_its_answer_is_a_bad_gateway() {
    let store = Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
    })
    .await;
    let proxy = proxy_for(&store.url()).await;
    assert_s3_error(proxy.get("/photos/a").await, 502, "InternalError").await;
    assert_eq!(upstream_errors(&proxy, "reset").await, 1.0);
}

#[tokio::test]
async fn a_store_that_dies_in_the_middle_ends_the_clients_connection() {
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let store = Faulty::start(move |mut stream, _| async move {
            read_request(&mut stream).await;
            let _ = stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n3e8\r\n0123456789").as_bytes())
                .await;
        })
        .await;
        let proxy = proxy_for(&store.url()).await;
        let response = http()
            .get(proxy.url("/photos/a"))
            .header("x-request-id", "the-id")
            .send()
            .await
            .expect("a header");
        assert_eq!(response.status(), 200);
        assert!(response.bytes().await.is_err(), "{framing}: a short body looked complete");
        let line = proxy.access_line("the-id").await;
        assert!(line["reason"].as_str().expect("a reason").starts_with("upstream reset"), "{line}");
        assert_eq!(upstream_errors(&proxy, "reset").await, 1.0);
    }
}

#[tokio::test]
async fn a_store_that_stalls_in_the_middle_is_given_up() {
    let store = Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789").await;
        swallow(stream).await;
    })
    .await;
    let proxy = proxy_for(&store.url()).await;
    let started = Instant::now();
    assert!(proxy.get("/photos/a").await.bytes().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(upstream_errors(&proxy, "timeout").await, 1.0);
}

#[tokio::test]
async fn a_store_that_trickles_is_given_up_at_the_total_time() {
    let store = Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let proxy = proxy_for(&store.url()).await;
    let started = Instant::now();
    assert!(proxy.get("/photos/a").await.bytes().await.is_err());
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(8)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_pooled_connection_that_went_stale_is_replaced_once() {
    // Each connection answers once and breaks at the second request, without a word.
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let store = Faulty::start(move |mut stream, _| {
        let requests = counter.clone();
        async move {
            read_request(&mut stream).await;
            requests.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            read_request(&mut stream).await;
        }
    })
    .await;
    let proxy = proxy_for(&store.url()).await;
    let mut raw = Raw::connect(proxy.address).await;
    for _ in 0..5 {
        let answer = raw.ask("GET", "/photos/a", &[]).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    }
    assert_eq!((requests.load(Ordering::SeqCst), store.connections()), (5, 5));
    assert_eq!(upstream_errors(&proxy, "reset").await, 0.0);
}

#[tokio::test]
async fn connections_to_the_store_are_reused() {
    let stack = Stack::start().await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    for _ in 0..50 {
        assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
        assert_eq!(raw.ask("HEAD", "/photos/cat.jpg", &[]).await.status, 200);
        assert_eq!(raw.ask("GET", "/photos/missing", &[]).await.status, 404);
    }
    assert_eq!(stack.store.connections(), 1);
}

#[tokio::test]
async fn clients_are_spread_over_the_threads_which_have_connections_of_their_own() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let proxy = PROGRAM.start(&two_buckets(&store).server("threads: 3")).await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        clients.push(Raw::connect(proxy.address).await);
    }
    for _ in 0..5 {
        for client in &mut clients {
            assert_eq!(client.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
        }
    }
    assert_eq!(store.connections(), 3);
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_read_from_the_store() {
    let sent = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicUsize::new(0));
    let (counter, end) = (sent.clone(), ended.clone());
    let store = Faulty::start(move |mut stream, _| {
        let (sent, ended) = (counter.clone(), end.clone());
        async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n").await;
            while stream.write_all(&[0; 65_536]).await.is_ok() {
                sent.fetch_add(65_536, Ordering::SeqCst);
            }
            ended.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = proxy_for(&store.url()).await;
    let mut raw = Raw::connect(proxy.address).await;
    raw.send("GET /photos/a HTTP/1.1\r\nHost: p\r\nX-Request-Id: the-id\r\n\r\n").await;
    let mut buffer = vec![0; 1 << 20];
    raw.0.read_exact(&mut buffer).await.expect("the beginning");
    drop(raw);
    eventually("the store is told", async || (ended.load(Ordering::SeqCst) == 1).then_some(())).await;
    let bytes = sent.load(Ordering::SeqCst);
    assert!(bytes < 100 << 20, "{bytes} bytes were read for nobody");
    let line = proxy.access_line("the-id").await;
    assert!(line["reason"].as_str().expect("a reason").starts_with("downstream"), "{line}");
    assert_eq!(upstream_errors(&proxy, "reset").await, 0.0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up() {
    let store = endless().await;
    let proxy = proxy_for(&store.url()).await;
    let mut raw = Raw::connect(proxy.address).await;
    raw.send("GET /photos/a HTTP/1.1\r\nHost: p\r\nX-Request-Id: the-id\r\n\r\n").await;
    let line = proxy.access_line("the-id").await;
    assert!(line["duration_ms"].as_f64().expect("a number") < 8_000.0, "{line}");
}

#[tokio::test]
async fn an_idle_client_connection_is_closed() {
    let stack = Stack::configured(|config| config.server("keepalive_seconds: 1")).await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    let started = Instant::now();
    assert_eq!(raw.rest().await.expect("a clean end"), b"");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_bad_gateway_and_the_log_says_so() {
    let proxy = proxy_for("http://no-such-store.invalid:9000").await;
    assert_s3_error(proxy.get("/photos/a").await, 502, "InternalError").await;
    assert_eq!(upstream_errors(&proxy, "resolve").await, 1.0);
    let line = eventually("the name is in the log", async || {
        proxy.log().into_iter().find(|line| line["host"] == "no-such-store.invalid")
    });
    assert_eq!(line.await["level"], "WARN");
    // Nobody waits for a dead name: other requests are answered meanwhile, and this one is prompt.
    let started = Instant::now();
    assert_eq!(proxy.get("/photos/a").await.status(), 502);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn several_addresses_are_tried_and_names_looked_up_again() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let port = store.address.port();
    let buckets = Bucket::named("photos").endpoint(&format!("http://store.test:{port}"));
    // The store listens on the third address only.
    let hosts = "127.0.0.1 localhost\n127.0.0.8 store.test\n127.0.0.9 store.test\n127.0.0.1 store.test\n";
    let surroundings = Surroundings { hosts: Some(hosts.to_owned()), ..Default::default() };
    let proxy = PROGRAM.start_in(&Config::without_jwt().bucket(buckets), surroundings).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200);
    }
    let response = http().get(proxy.url("/photos/cat.jpg")).header("x-request-id", "the-id").send().await;
    // Read to its end, or the client has gone away.
    assert_eq!(response.expect("an answer").bytes().await.expect("a cat").as_ref(), b"a cat");
    let line = proxy.access_line("the-id").await;
    assert!(line.get("reason").is_none(), "{line}");
    assert!(proxy.metrics().await.keys().all(|sample| !sample.starts_with("yatagarasu_rejections_total")));
    let failed = upstream_errors(&proxy, "connect").await;
    assert!(failed <= 2.0, "{failed} attempts went to addresses that are known to be dead");

    // The name moves to where nothing listens, and back.
    let hosts = proxy.folder.path().join("hosts");
    proxy::write(&hosts, "127.0.0.1 localhost\n127.0.0.8 store.test\n");
    eventually("the new address is in use", async || {
        (proxy.get("/photos/cat.jpg").await.status() == 502).then_some(())
    })
    .await;
    proxy::write(&hosts, "127.0.0.1 localhost store.test\n");
    eventually("the old address is back", async || {
        (proxy.get("/photos/cat.jpg").await.status() == 200).then_some(())
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn names_whose_lookups_hang_do_not_hold_up_the_others() {
    const SILENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 83);
    // Only root can take the port of name servers.
    let Ok(_silent) = std::net::UdpSocket::bind((SILENT, 53)) else { return };
    let store = Store::start().await;
    for name in ["photos", "papers"] {
        store.put(name, "cat.jpg", "a cat");
    }
    let port = store.address.port();
    let hanging = (0..40).map(|number| {
        let endpoint = format!("http://hanging{number:02}.test:{port}");
        Bucket::named(&format!("hanging{number}")).at(&format!("/hanging{number}")).endpoint(&endpoint)
    });
    let sound = |name: &str| {
        Bucket::named(name).at(&format!("/{name}")).endpoint(&format!("http://{name}.sound.test:{port}"))
    };
    let config = Config::new().buckets(hanging).bucket(sound("photos"));
    let surroundings = Surroundings {
        hosts: Some("127.0.0.1 localhost photos.sound.test papers.sound.test\n".to_owned()),
        name_server: Some(SILENT.into()),
        ..Default::default()
    };
    let proxy = PROGRAM.start_in(&config, surroundings).await;
    assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200);
    proxy.write_config(&config.bucket(sound("papers")));
    let (status, answer) = proxy.reload(&admin_token()).await;
    assert_eq!(status, 200, "{answer}");
    let warnings = answer["warnings"].to_string();
    assert!(warnings.contains("hanging00.test` does not resolve"), "{warnings}");
    assert!(!warnings.contains("papers.sound.test"), "{warnings}");
    assert_eq!(proxy.get("/papers/cat.jpg").await.status(), 200);
}

#[tokio::test]
async fn a_store_behind_tls_is_verified() {
    let (acceptor, pem) = certificate::self_signed(&["localhost", "127.0.0.1"]);
    let (_, other_pem) = certificate::self_signed(&["localhost", "127.0.0.1"]);
    let store = Store::with(store::Options { tls: Some(acceptor), ..Default::default() }).await;
    store.put("photos", "cat.jpg", "a cat");
    let port = store.address.port();
    let config = |endpoint: &str, roots: Option<&str>| {
        let photos = Bucket::named("photos").endpoint(endpoint);
        Config::new().bucket(match roots {
            Some(roots) => photos.s3(&format!("ca_file: {roots}")),
            None => photos,
        })
    };
    let proxy = PROGRAM.start(&Config::new()).await;
    proxy::write(&proxy.folder.path().join("ca.pem"), &pem);
    proxy::write(&proxy.folder.path().join("other.pem"), &other_pem);
    for (endpoint, roots, status) in [
        (format!("https://localhost:{port}"), Some("ca.pem"), 200),
        (format!("https://127.0.0.1:{port}"), Some("ca.pem"), 200),
        (format!("https://localhost:{port}"), None, 502),
        (format!("https://127.0.0.1:{port}"), None, 502),
        (format!("https://localhost:{port}"), Some("other.pem"), 502),
        (format!("https://127.0.0.1:{port}"), Some("other.pem"), 502),
        // Right certificate, wrong name.
        (format!("https://127.0.0.2:{port}"), Some("ca.pem"), 502),
    ] {
        proxy.write_config(&config(&endpoint, roots));
        let (reloaded, answer) = proxy.reload(&admin_token()).await;
        assert_eq!(reloaded, 200, "{answer}");
        // The trusted connection of an earlier round is still in the pool; it must not serve here.
        assert_eq!(proxy.get("/photos/cat.jpg").await.status(), status, "{endpoint} {roots:?}");
    }
    assert!(upstream_errors(&proxy, "tls").await >= 4.0);
}

#[tokio::test]
async fn a_request_cut_short_harms_nobody() {
    let stack = Stack::start().await;
    let whole = b"GET /photos/cat.jpg HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer abc\r\n\r\n";
    for length in 0..whole.len() {
        let mut raw = Raw::connect(stack.proxy.address).await;
        raw.send(&whole[..length]).await;
    }
    for garbage in
        [&b"\x16\x03\x01\x02\x00"[..], b"\0\0\0", b"GET", b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut raw = Raw::connect(stack.proxy.address).await;
        raw.send(garbage).await;
    }
    assert_eq!(raw::ask(stack.proxy.address, "GET", "/photos/cat.jpg").await.body, b"a cat");
    assert!(!stack.proxy.whole_log_text().await.contains("panicked"));
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_in_time_is_a_gateway_timeout() {
    // A full backlog: the kernel drops what would connect.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let listener = socket.listen(1).expect("listening");
    let address = listener.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    let proxy = proxy_for(&format!("http://{address}")).await;
    let started = Instant::now();
    assert_s3_error(proxy.get("/photos/a").await, 504, "RequestTimeout").await;
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn an_idle_connection_to_the_store_is_closed() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = ended.clone();
    let store = Faulty::start(move |mut stream, _| {
        let ended = counter.clone();
        async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            swallow(stream).await;
            ended.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let bucket = Bucket::named("photos").endpoint(&store.url()).s3("timeouts: { idle_seconds: 0.5 }");
    let proxy = PROGRAM.start(&Config::without_jwt().bucket(bucket)).await;
    let started = Instant::now();
    assert_eq!(proxy.get("/photos/a").await.status(), 200);
    eventually("the connection is closed", async || (ended.load(Ordering::SeqCst) == 1).then_some(())).await;
    assert!(
        (Duration::from_millis(400)..Duration::from_secs(5)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn requests_that_were_sent_together_are_answered_one_after_the_other() {
    let stack = Stack::start().await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    let one = "GET /photos/cat.jpg HTTP/1.1\r\nHost: p\r\n\r\n";
    raw.send(format!("{one}{one}GET /nowhere HTTP/1.1\r\nHost: p\r\n\r\n{one}")).await;
    for status in [200, 200, 404, 200] {
        assert_eq!(raw.answer(false).await.status, status);
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let store =
        Faulty::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
    let proxy = proxy_for(&store.url()).await;
    let mut raw = Raw::connect(proxy.address).await;
    raw.send("GET /photos/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let answer = String::from_utf8(raw.rest().await.expect("a clean end")).expect("a text");
    assert!(answer.ends_with("\r\n\r\nhello") && !answer.to_lowercase().contains("chunked"), "{answer}");
}

#[tokio::test]
async fn a_header_that_cannot_be_passed_on_is_answered() {
    let stack = Stack::start().await;
    for connection in ["host", "a, b, c, d, e, f, g, h, i, j, k", "a b"] {
        let mut raw = Raw::connect(stack.proxy.address).await;
        let answer = raw.ask("GET", "/photos/cat.jpg", &[("Connection", connection)]).await;
        assert_eq!(answer.status, 400, "{connection}");
    }
    // A request is counted when its answer is out.
    let counted = async || stack.proxy.metric("yatagarasu_rejections_total{reason=\"header\"}").await;
    eventually("all three are counted", async || (counted().await == 3.0).then_some(())).await;
}

#[tokio::test]
async fn a_key_that_no_store_can_have_is_refused() {
    let stack = Stack::start().await;
    let target = format!("/photos/{}", "+".repeat(30_000));
    let answer = raw::ask(stack.proxy.address, "GET", &target).await;
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8_lossy(&answer.body).contains("KeyTooLongError"));
    assert_eq!(
        raw::ask(stack.proxy.address, "GET", &format!("/photos/{}", "k".repeat(1024))).await.status,
        404
    );
}

#[tokio::test]
async fn the_stores_phrase_does_not_reach_the_client() {
    let store = Faulty::answering("HTTP/1.1 200 Secret-Phrase\r\nContent-Length: 2\r\n\r\nok").await;
    let proxy = proxy_for(&store.url()).await;
    let answer = raw::ask(proxy.address, "GET", "/photos/a").await;
    assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
}

#[tokio::test]
async fn a_slow_client_is_not_the_stores_failure() {
    let store = endless().await;
    let proxy = proxy_for(&store.url()).await;
    let mut raw = Raw::connect(proxy.address).await;
    raw.send("GET /photos/a HTTP/1.1\r\nHost: p\r\nX-Request-Id: the-id\r\n\r\n").await;
    let mut buffer = vec![0; 1 << 20];
    // Slowly enough to be overdue, fast enough for every single write.
    while raw.0.read_exact(&mut buffer).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let line = proxy.access_line("the-id").await;
    assert!(line["reason"].as_str().expect("a reason").starts_with("overdue"), "{line}");
    assert_eq!(upstream_errors(&proxy, "timeout").await, 0.0);
}

#[tokio::test]
async fn silent_connections_do_not_stay() {
    let stack = Stack::start().await;
    let started = Instant::now();
    let mut silent = Raw::connect(stack.proxy.address).await;
    assert_eq!(silent.rest().await.expect("a clean end"), b"");
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
}
