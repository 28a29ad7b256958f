//! Stores that answer what no store should: what the client gets, what the log and the metrics say, and
//! that nothing of it reaches the next request.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kit::faulty::{Faulty, read_request, swallow};
use kit::raw::{self, Raw};
use kit::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::stack::PROGRAM;

/// A proxy with limits for tests: 2 s to the header, 1 s for each read, and so long in all.
async fn proxy_for(store: &Faulty, total_seconds: u32) -> Proxy {
    let timeouts = format!(
        "timeouts: {{ connect_seconds: 1, first_byte_seconds: 2, read_seconds: 1, write_seconds: 1, idle_seconds: 60, total_seconds: {total_seconds} }}"
    );
    let bucket = Bucket::named("photos").endpoint(&store.url()).s3(&timeouts);
    // With one thread all connections to the store are in one pool.
    PROGRAM.start(&Config::without_jwt().server("threads: 1").bucket(bucket)).await
}

/// The behaviour of a store after each request.
#[derive(Clone, Copy)]
enum Script {
    Says(&'static [u8]),
    /// Says it and hangs up.
    SaysLast(&'static [u8]),
    /// Says the first once, and the other every 0.4 s for ever.
    Dribbles(&'static [u8], &'static [u8]),
    /// Says the first once, and the other as fast as it is taken, up to 4 MiB.
    Floods(&'static [u8], &'static [u8]),
    Silence,
}

async fn act(script: Script, stream: &mut TcpStream) -> std::io::Result<()> {
    match script {
        Script::Says(bytes) => stream.write_all(bytes).await,
        Script::SaysLast(bytes) => {
            stream.write_all(bytes).await?;
            stream.shutdown().await
        }
        Script::Dribbles(first, then) => {
            stream.write_all(first).await?;
            loop {
                tokio::time::sleep(Duration::from_millis(400)).await;
                stream.write_all(then).await?;
            }
        }
        Script::Floods(first, then) => {
            stream.write_all(first).await?;
            for _ in 0..(4 << 20) / then.len() {
                stream.write_all(then).await?;
            }
            Ok(())
        }
        Script::Silence => {
            tokio::time::sleep(PATIENCE).await;
            Ok(())
        }
    }
}

struct Row {
    what: &'static str,
    script: Script,
    status: u16,
    /// How the answer ends; of an error only its status is looked at.
    body: &'static str,
    /// The kind of failure that is counted, or none.
    kind: &'static str,
    /// How the reason in the log begins.
    reason: &'static str,
    /// Whether the next request may use the same connection to the store.
    is_reused: bool,
}

const fn row(
    what: &'static str,
    script: Script,
    status: u16,
    kind: &'static str,
    reason: &'static str,
) -> Row {
    Row { what, script, status, body: "", kind, reason, is_reused: false }
}

const fn good(what: &'static str, script: Script, is_reused: bool) -> Row {
    Row { what, script, status: 200, body: "\r\n\r\nok", kind: "", reason: "", is_reused }
}

const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nSet-Cookie: EVIL=1\r\nLink: </EVIL>\r\n\r\n";
const STORM: &str = "upstream protocol: ";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    good("informational answers", Script::Says(b"HTTP/1.1 103 x\r\nSet-Cookie: EVIL=1\r\n\r\nHTTP/1.1 100 x\r\nX-EVIL: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), true),
    row("informational answers without end", Script::Dribbles(b"", HINTS), 504, "timeout", "upstream timeout: "),
    row("a flood of informational answers", Script::Floods(b"", HINTS), 502, "protocol", STORM),
    row("another protocol", Script::Says(b"HTTP/1.1 101 x\r\nUpgrade: EVIL\r\nConnection: upgrade\r\nSet-Cookie: EVIL=1\r\n\r\nHTTP/1.1 200 OK\r\n\r\nEVIL"), 502, "protocol", STORM),
    row("no header", Script::SaysLast(b"EVIL\n"), 502, "protocol", STORM),
    row("two lengths", Script::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 6\r\n\r\nokEVIL"), 502, "protocol", STORM),
    good("one length twice", Script::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"), true),
    good("one length twice in one line", Script::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"), true),
    Row { body: "\r\n\r\n2\r\nok\r\n0\r\n\r\n", ..good("a length and chunks", Script::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), true) },
    row("100 and a reset", Script::SaysLast(b"HTTP/1.1 100 Continue\r\n\r\n"), 502, "reset", "upstream reset: "),
    row("a header byte by byte", Script::Dribbles(b"HTTP/1.1 200 OK\r\nX: ", b"x"), 504, "timeout", "upstream timeout: "),
    row("silence", Script::Silence, 504, "timeout", "upstream timeout: "),
    row("a header without end", Script::Floods(b"HTTP/1.1 200 OK\r\nX: ", b"0123456789abcdef0123456789abcdef"), 502, "protocol", STORM),
    row("a great many headers", Script::Floods(b"HTTP/1.1 200 OK\r\n", b"X: EVIL\r\n"), 502, "protocol", STORM),
    Row { is_reused: true, ..row("no status at all", Script::Says(b"HTTP/1.1 999 x\r\nContent-Length: 4\r\n\r\nEVIL"), 502, "status", "upstream status: the store answered 999") },
    Row { is_reused: true, ..row("who are you", Script::Says(b"HTTP/1.1 401 x\r\nWWW-Authenticate: EVIL\r\nContent-Length: 18\r\n\r\n<Code>Evil</Code>\n"), 502, "status", "upstream status: the store answered 401, Evil") },
    Row { is_reused: true, ..row("who are you, proxy", Script::Says(b"HTTP/1.1 407 x\r\nProxy-Authenticate: EVIL\r\nContent-Length: 4\r\n\r\nEVIL"), 502, "status", "upstream status: the store answered 407") },
    row("a status below 100", Script::Says(b"HTTP/1.1 099 x\r\nContent-Length: 4\r\n\r\nEVIL"), 502, "protocol", STORM),
    row("chunks in HTTP/1.0", Script::Says(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), 502, "protocol", STORM),
    good("HTTP/1.0", Script::Says(b"HTTP/1.0 200 OK\r\nKeep-Alive: EVIL\r\nContent-Length: 2\r\n\r\nok"), false),
    row("a control character in a name", Script::Says(b"HTTP/1.1 200 OK\r\nX\x01EVIL: 1\r\nContent-Length: 2\r\n\r\nok"), 502, "protocol", STORM),
    row("a control character in a value", Script::Says(b"HTTP/1.1 200 OK\r\nETag: \x01EVIL\r\nContent-Length: 2\r\n\r\nok"), 502, "protocol", STORM),
    good("a folded line", Script::Says(b"HTTP/1.1 200 OK\r\nETag: a\r\n b\r\nSet-Cookie: a\r\n EVIL\r\nContent-Length: 2\r\n\r\nok"), true),
    good("more body than its length", Script::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"), false),
    Row { body: "\r\n\r\no", ..row("less body than its length", Script::SaysLast(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"), 200, "reset", "upstream reset: ") },
];

/// Asks once, and reads everything until the proxy closes.
async fn asked(proxy: &Proxy, id: &str) -> String {
    let mut raw = Raw::connect(proxy.address).await;
    raw.send(format!("GET /photos/a HTTP/1.1\r\nHost: p\r\nConnection: close\r\nX-Request-Id: {id}\r\n\r\n"))
        .await;
    String::from_utf8_lossy(&raw.rest().await.expect("a clean end")).into_owned()
}

/// Runs a row, and tells every difference.
async fn judged(row: &Row) -> Vec<String> {
    let script = row.script;
    let store = Faulty::start(move |mut stream, _| async move {
        while read_request(&mut stream).await && act(script, &mut stream).await.is_ok() {}
        swallow(stream).await;
    })
    .await;
    let proxy = proxy_for(&store, 5).await;
    let started = Instant::now();
    let answers = [asked(&proxy, "first").await, asked(&proxy, "second").await];
    let mut wrong = Vec::new();
    let mut check = |is_right: bool, what: String| {
        if !is_right {
            wrong.push(format!("{}: {what}", row.what));
        }
    };
    for answer in &answers {
        let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
        check(answer.starts_with(&format!("HTTP/1.1 {} ", row.status)), format!("answered {answer}"));
        check(answer.ends_with(row.body) && !answer.contains("EVIL"), format!("answered {answer}"));
        check(head.matches("content-length:").count() <= 1, format!("lengths in {head}"));
        check(!head.contains("keep-alive"), format!("answered {head}"));
        let is_error = row.status != 200;
        check(!is_error || head.contains("cache-control: no-store"), format!("cacheable: {head}"));
    }
    check(started.elapsed() < Duration::from_secs(8), format!("took {:?}", started.elapsed()));
    let line = proxy.access_line("first").await;
    let reason = line["reason"].as_str().unwrap_or_default();
    check(reason.starts_with(row.reason) && reason.is_empty() == row.reason.is_empty(), line.to_string());
    proxy.access_line("second").await;
    let metrics = proxy.metrics().await;
    let failures: Vec<_> =
        metrics.iter().filter(|(name, _)| name.starts_with("yatagarasu_upstream_errors_total")).collect();
    let name = format!("yatagarasu_upstream_errors_total{{bucket=\"photos\",kind=\"{}\"}}", row.kind);
    let expected = if row.kind.is_empty() { vec![] } else { vec![(&name, &2.0)] };
    check(failures == expected, format!("counted {failures:?}"));
    let connections = if row.is_reused { 1 } else { 2 };
    check(store.connections() == connections, format!("{} connections", store.connections()));
    wrong
}

#[tokio::test]
async fn nothing_that_a_store_says_out_of_turn_reaches_a_client() {
    let wrong: Vec<String> = join_all(ROWS.iter().map(judged)).await.concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_one_answer() {
    let store = Faulty::answering(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let proxy = proxy_for(&store, 5).await;
    for request in [
        "GET /photos/a HTTP/1.0\r\nExpect: 100-continue\r\n\r\n",
        "GET /photos/a HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
    ] {
        let mut raw = Raw::connect(proxy.address).await;
        raw.send(request).await;
        let answer = String::from_utf8(raw.rest().await.expect("a clean end")).expect("a text");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    }
}

#[tokio::test]
async fn the_total_time_bounds_the_header_of_the_store_too() {
    let store = Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        let _ = act(Script::Dribbles(b"HTTP/1.1 200 OK\r\nX: ", b"x"), &mut stream).await;
    })
    .await;
    let proxy = proxy_for(&store, 1).await;
    let started = Instant::now();
    let mut raw = Raw::connect(proxy.address).await;
    // The next request is there already, so that Pingora has no reason to look at the client any more.
    let one = "GET /photos/a HTTP/1.1\r\nHost: p\r\nX-Request-Id: the-id\r\n\r\n";
    raw.send(format!("{one}{one}")).await;
    assert_eq!(raw.answer(false).await.status, 504);
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(2)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
    let line = proxy.access_line("the-id").await;
    assert!(line["reason"].as_str().expect("a reason").starts_with("overdue"), "{line}");
    assert_eq!(proxy.metric("yatagarasu_rejections_total{reason=\"overdue\"}").await, 1.0);
}

#[tokio::test]
async fn the_time_to_the_header_says_nothing_about_the_body() {
    let store = Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let _ = stream.write_all(b"x").await;
        }
    })
    .await;
    let proxy = proxy_for(&store, 5).await;
    assert_eq!(raw::ask(proxy.address, "GET", "/photos/a").await.body, b"xxxxxx");
}
