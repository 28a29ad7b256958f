//! What survives a reload and what goes: G25 to G32 of the promises in `docs/CONFIG_RELOAD.md`; and
//! ports that move.

use kit::raw::{self, Raw};
use kit::*;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::stack::{PROGRAM, Stack};

// Promise G25.
#[tokio::test]
async fn a_thousand_reloads_of_other_parts_make_no_new_connection() {
    let stack = Stack::start().await;
    // One client connection: Pingora returns the store's to the pool before it reads the next request.
    let mut raw = Raw::connect(stack.proxy.address).await;
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    let token = admin_token();
    for round in 0..1000 {
        let more = Bucket::named(&format!("extra{round}")).at("/extra").store(&stack.store);
        stack.proxy.write_config(&stack.config().bucket(more));
        assert_eq!(stack.proxy.reload(&token).await.0, 200);
        if round % 10 == 0 {
            assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
        }
    }
    assert_eq!(stack.store.connections(), 1);
}

// Promise G26.
#[tokio::test]
async fn a_connection_made_under_other_trust_is_not_used() {
    let (acceptor, pem) = certificate::self_signed(&["127.0.0.1"]);
    let (_, other_pem) = certificate::self_signed(&["127.0.0.1"]);
    let store = Store::with(store::Options { tls: Some(acceptor), ..Default::default() }).await;
    store.put("photos", "cat.jpg", "a cat");
    // Each thread has connections of its own.
    let one_thread = Config::new().server("threads: 1");
    let proxy = PROGRAM.start(&one_thread).await;
    let ca = proxy.folder.path().join("ca.pem");
    let endpoint = format!("https://{}", store.address);
    let bucket = Bucket::named("photos").endpoint(&endpoint).s3("ca_file: ca.pem");
    proxy::write(&ca, &pem);
    proxy.write_config(&one_thread.bucket(bucket));
    assert_eq!(proxy.reload(&admin_token()).await.0, 200);
    // A client that goes at once may take the connection to the store with it.
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    // Only the content of the file changes; the connection under the old one is still pooled.
    proxy::write(&ca, &other_pem);
    let (status, answer) = proxy.reload(&admin_token()).await;
    assert_eq!((status, &answer["changes"][0]["path"]), (200, &json!("buckets[photos].s3.ca_file")));
    assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 502);
    proxy::write(&ca, &pem);
    assert_eq!(proxy.reload(&admin_token()).await.0, 200);
    let before = store.connections();
    assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200);
    assert_eq!(store.connections(), before, "the old connection is good again");
}

// Promise G30.
#[tokio::test]
async fn the_series_of_a_removed_bucket_vanish() {
    let stack = Stack::start().await;
    let count =
        async || stack.proxy.metrics().await.keys().filter(|sample| sample.contains("bucket=\"b")).count();
    for round in 0..20 {
        let name = format!("brief{round}");
        let more = Bucket::named(&name).at("/more").store(&stack.store);
        stack.proxy.write_config(&stack.config().bucket(more));
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
        assert_eq!(stack.proxy.get("/more/x").await.status(), 404);
    }
    stack.proxy.write_config(&stack.config());
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    let shown_once_more = count().await;
    assert!(shown_once_more > 0);
    assert_eq!(count().await, 0);
    let metrics = stack.proxy.metrics().await;
    assert!(metrics.keys().any(|sample| sample.contains("bucket=\"-\"")), "others stay");
    assert!(metrics["config_reload_success_total"] >= 21.0);
}

#[tokio::test]
async fn the_series_of_a_removed_bucket_are_forgotten_where_nobody_reads_the_metrics() {
    let stack = Stack::start().await;
    let more = Bucket::named("brief").at("/more").store(&stack.store);
    stack.proxy.write_config(&stack.config().bucket(more));
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    assert_eq!(stack.proxy.get("/more/x").await.status(), 404);
    // Lines of the log are written after the counters have moved.
    stack.proxy.whole_log().await;
    stack.proxy.write_config(&stack.config());
    for _ in 0..2 {
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    }
    let metrics = stack.proxy.metrics().await;
    let left: Vec<&String> = metrics.keys().filter(|sample| sample.contains("brief")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(metrics.keys().any(|sample| sample.contains("bucket=\"-\"")), "others stay");
}

// Promise G32.
#[tokio::test]
async fn generations_live_as_long_as_their_requests() {
    let stack = Stack::start().await;
    stack.store.put("photos", "large", vec![b'x'; 50_000_000]);
    let mut downloads = Vec::new();
    for _ in 0..3 {
        let mut download = Raw::connect(stack.proxy.address).await;
        download.send("GET /photos/large HTTP/1.1\r\nHost: p\r\n\r\n").await;
        let mut first = [0; 1];
        download.0.read_exact(&mut first).await.expect("the beginning");
        downloads.push(download);
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
        // One that nobody holds.
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    }
    let alive = || async { stack.proxy.metric("config_generations_alive").await };
    assert_eq!(alive().await, 4.0);
    let status = stack.proxy.status().await;
    let numbers: Vec<&serde_json::Value> = status["generations_alive"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|alive| &alive["generation"])
        .collect();
    assert_eq!(numbers, [&json!(1), &json!(3), &json!(5), &json!(7)]);
    assert!(stack.proxy.metric("config_oldest_generation_age_seconds").await > 0.0);
    drop(downloads);
    eventually("the generations are gone", async || (alive().await == 1.0).then_some(())).await;
}

#[tokio::test]
async fn ports_move_without_a_restart_and_connections_finish() {
    let stack = Stack::start().await;
    stack.store.put("photos", "large", vec![b'x'; 30_000_000]);
    let old = stack.proxy.address;
    let mut download = Raw::connect(old).await;
    download.send("GET /photos/large HTTP/1.1\r\nHost: p\r\n\r\n").await;
    let mut kept = Raw::connect(old).await;
    assert_eq!(kept.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    let (traffic, admin) = (proxy::free_port(), proxy::free_port());
    let moved = |address: &str, port: u16| {
        stack
            .config()
            .with(&format!("server: {{ address: {address}, port: {port} }}\nadmin: {{ port: {admin} }}"))
    };
    stack.proxy.write_config(&moved("127.0.0.1", traffic));
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!((status, &answer["pending_restart"]), (200, &json!([])), "{answer}");
    let local = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let (traffic, admin) = (local(traffic), local(admin));
    assert_eq!(raw::ask(traffic, "GET", "/photos/cat.jpg").await.status, 200);
    assert_eq!(raw::ask(traffic, "GET", "/metrics").await.status, 404);
    assert_eq!(raw::ask(admin, "GET", "/metrics").await.status, 200);
    // The old port takes nobody new; whoever is there is served and then let go.
    eventually("the old port is closed", async || {
        tokio::net::TcpStream::connect(old).await.is_err().then_some(())
    })
    .await;
    let answer = kept.ask("GET", "/photos/cat.jpg", &[]).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(download.answer(false).await.body.len(), 30_000_000);

    // The same port on every address, while it is ours already.
    let bearer = format!("Bearer {}", admin_token());
    let reload = async || {
        let headers = [("Authorization", bearer.as_str()), ("Content-Length", "0")];
        let answer = Raw::connect(admin).await.ask("POST", "/admin/reload", &headers).await;
        (answer.status, String::from_utf8(answer.body).expect("a text"))
    };
    stack.proxy.write_config(&moved("0.0.0.0", traffic.port()));
    assert_eq!(reload().await.0, 200);
    assert_eq!(raw::ask(([127, 0, 0, 2], traffic.port()).into(), "GET", "/photos/cat.jpg").await.status, 200);

    // A busy port refuses the reload, and nothing changes.
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = busy.local_addr().expect("bound").port();
    stack.proxy.write_config(&moved("127.0.0.1", taken).change("photos", |photos| photos.at("/elsewhere")));
    let (status, answer) = reload().await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains(&format!("cannot listen on 127.0.0.1:{taken}")), "{answer}");
    assert_eq!(raw::ask(traffic, "GET", "/photos/cat.jpg").await.status, 200);
    // No process can take a share of our port unnoticed.
    let mut second = PROGRAM.spawn(&moved("0.0.0.0", traffic.port()), &Surroundings::default());
    assert_eq!(second.exit().await.code(), Some(1));
    assert!(second.log_text().contains("cannot listen on"), "{}", second.log_text());
}
