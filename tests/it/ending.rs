//! Beginning and end: start-up errors, early signals, draining.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use kit::raw::{self, Raw};
use kit::*;
use tokio::io::AsyncReadExt;

use crate::stack::{PROGRAM, Stack};

#[tokio::test]
async fn the_start_says_what_runs_where_and_how_to_reload() {
    let stack = Stack::start().await;
    // The port answers a moment earlier.
    let line = eventually("the start line", async || {
        stack.proxy.log().into_iter().find(|line| line["address"].is_string())
    })
    .await;
    assert_eq!(line["pid"], stack.proxy.pid());
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(line["address"], stack.proxy.address.to_string());
    assert_eq!(line["generation"], 1);
    assert!(line["message"].as_str().expect("a text").ends_with(&format!("kill -HUP {}", stack.proxy.pid())));
}

#[tokio::test]
async fn the_first_line_of_the_log_is_the_start() {
    // A bucket that does not say who may read it is a warning.
    let config =
        Config::without_jwt().bucket(Bucket::named("photos").endpoint("http://127.0.0.1:9").auth(""));
    let proxy = PROGRAM.start(&config).await;
    let log = proxy.whole_log().await;
    assert_eq!(log[0]["message"], "starting");
    assert_eq!(log[0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(log[0]["pid"], proxy.pid());
    assert_eq!(log[0]["config"], proxy.config_path().to_str().expect("plain"));
    let serving = log.iter().find(|line| line["address"].is_string()).expect("it serves");
    assert_eq!(log[0]["digest"], serving["digest"]);
    assert_eq!(log[1]["level"], "WARN", "a warning of the configuration comes after it");
}

#[tokio::test]
async fn a_port_that_the_user_may_not_open_says_how_to_allow_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    proxy::write(&path, "server: { address: 0.0.0.0, port: 80 }\nbuckets: []\n");
    // A user namespace without a map makes a user without rights of whoever runs the test, and in a new
    // network namespace ports below 1024 need one.
    let mut command = Command::new("unshare");
    command.args(["--user", "--net", PROGRAM.path(), "--config"]).arg(&path);
    let output = command.output().expect("unshare starts");
    let printed = String::from_utf8(output.stderr).expect("a text");
    assert_eq!(output.status.code(), Some(1), "{printed}");
    let expected = "cannot listen on 0.0.0.0:80: Permission denied";
    assert!(printed.contains(expected) && printed.contains("higher server.port"), "{printed}");
    assert!(
        printed.contains("setcap cap_net_bind_service=+ep")
            && printed.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"),
        "{printed}"
    );
    assert!(!printed.contains("end what listens there"), "{printed}");
}

#[tokio::test]
async fn a_busy_port_is_an_error_at_once() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = busy.local_addr().expect("bound").port();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let path = path.to_str().expect("plain");
    for (section, config) in [
        ("server", format!("server: {{ address: 127.0.0.1, port: {taken} }}\nbuckets: []\n")),
        (
            "admin",
            format!(
                "server: {{ address: 127.0.0.1, port: {} }}\nadmin: {{ port: {taken} }}\nbuckets: []\n",
                proxy::free_port()
            ),
        ),
    ] {
        std::fs::write(path, config).expect("written");
        let started = Instant::now();
        let output = PROGRAM.run(&["--config", path]);
        let printed = String::from_utf8(output.stderr).expect("a text");
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert!(printed.contains(&format!("cannot listen on 127.0.0.1:{taken}")), "{printed}");
        assert!(printed.contains(&format!("{section}.port")) && printed.contains("in use"), "{printed}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn an_invalid_file_ends_the_start_with_the_validators_text() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let path = path.to_str().expect("plain");
    std::fs::write(path, "server: { prot: 1 }\nbuckets: []\n").expect("written");
    let (run, validate) = (PROGRAM.run(&["--config", path]), PROGRAM.run(&["--validate", "--config", path]));
    assert_eq!((run.status.code(), validate.status.code()), (Some(1), Some(1)));
    assert_eq!(run.stderr, validate.stderr);
    assert!(!run.stderr.is_empty());
}

#[tokio::test]
async fn the_operators_endpoints_move_to_their_own_port() {
    let admin_port = proxy::free_port();
    let stack = Stack::with(&format!("admin: {{ port: {admin_port} }}")).await;
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], admin_port));
    for (target, on_traffic, on_admin) in [
        ("/metrics", 404, 200),
        ("/admin/status", 404, 401),
        ("/healthz", 200, 200),
        ("/health", 200, 200),
        ("/ready", 200, 200),
        ("/readyz", 200, 200),
        ("/photos/cat.jpg", 200, 404),
    ] {
        assert_eq!(raw::ask(stack.proxy.address, "GET", target).await.status, on_traffic, "{target}");
        assert_eq!(raw::ask(admin, "GET", target).await.status, on_admin, "{target}");
    }
    let bearer = format!("Bearer {}", admin_token());
    let headers = [("Authorization", bearer.as_str()), ("Content-Length", "0")];
    assert_eq!(Raw::connect(admin).await.ask("POST", "/admin/reload", &headers).await.status, 200);
    assert_eq!(
        Raw::connect(stack.proxy.address).await.ask("POST", "/admin/reload", &headers).await.status,
        405
    );
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let mut stack = Stack::start().await;
        // A connection that waits for its next request does not hold it up.
        let mut idle = Raw::connect(stack.proxy.address).await;
        idle.ask("GET", "/photos/cat.jpg", &[]).await;
        let started = Instant::now();
        stack.proxy.signal(signal);
        assert_eq!(stack.proxy.exit().await.code(), Some(0), "{signal}");
        assert!(started.elapsed() < Duration::from_secs(2), "{signal}: {:?}", started.elapsed());
        assert!(stack.proxy.log_text().contains("drained"));
    }
}

/// A proxy with a download under way that takes as long as nobody reads.
async fn with_a_download(grace: u32) -> (Stack, Raw, Vec<u8>) {
    let stack = Stack::configured(|config| config.server(&format!("shutdown_grace_seconds: {grace}"))).await;
    let content = vec![b'x'; 50_000_000];
    stack.store.put("photos", "large", &content);
    let mut download = Raw::connect(stack.proxy.address).await;
    download.send("GET /photos/large HTTP/1.1\r\nHost: p\r\n\r\n").await;
    let mut first = [0; 1];
    download.0.read_exact(&mut first).await.expect("the beginning");
    (stack, download, content)
}

#[tokio::test]
async fn requests_under_way_finish_and_readiness_says_no() {
    let (mut stack, mut download, content) = with_a_download(30).await;
    assert_eq!(stack.proxy.get("/readyz").await.status(), 200);
    stack.proxy.signal("TERM");
    eventually("readiness says no", async || {
        (stack.proxy.get("/readyz").await.status() == 503).then_some(())
    })
    .await;
    assert_eq!(stack.proxy.get("/healthz").await.status(), 200);
    let response = http().post(stack.proxy.url("/admin/reload")).bearer_auth(admin_token()).send().await;
    assert_eq!(response.expect("an answer").status(), 503);
    let mut other = Raw::connect(stack.proxy.address).await;
    let answer = other.ask("GET", "/photos/cat.jpg", &[]).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    // A hangup during the drain harms nothing.
    stack.proxy.signal("HUP");
    let started = Instant::now();
    let rest = download.rest().await.expect("the whole download");
    assert!(rest.ends_with(&content[..1000]) && rest.len() > content.len());
    assert_eq!(stack.proxy.exit().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_grace_period_has_an_end() {
    let (mut stack, _download, _) = with_a_download(1).await;
    let started = Instant::now();
    stack.proxy.signal("TERM");
    assert_eq!(stack.proxy.exit().await.code(), Some(0));
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(5)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
    assert!(stack.proxy.log_text().contains("the grace period is over"));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let (mut stack, _download, _) = with_a_download(30).await;
    stack.proxy.signal("TERM");
    eventually("the drain has begun", async || {
        (stack.proxy.get("/readyz").await.status() == 503).then_some(())
    })
    .await;
    let started = Instant::now();
    stack.proxy.signal("INT");
    assert_eq!(stack.proxy.exit().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn a_wrong_command_line_is_2() {
    for arguments in [
        &["--no-such-option"][..],
        &["frobnicate"],
        &["config"],
        &["token", "--claim", "x"],
        &["token", "--ttl", "soon"],
    ] {
        assert_eq!(PROGRAM.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let version = PROGRAM.command().arg("--version").output().expect("the program starts");
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("yatagarasu {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn a_port_that_has_closed_refuses_and_does_not_reset() {
    let (mut stack, mut download, _) = with_a_download(4).await;
    stack.proxy.signal("TERM");
    // Half of the grace period is for those who have not heard yet.
    eventually("the port is closed", async || {
        tokio::net::TcpStream::connect(stack.proxy.address).await.is_err().then_some(())
    })
    .await;
    assert!(!stack.proxy.has_ended(), "the download is still under way");
    let _ = download.rest().await;
    assert_eq!(stack.proxy.exit().await.code(), Some(0));
}

#[tokio::test]
async fn whoever_waits_for_a_digest_does_not_hold_the_drain_up() {
    let mut stack = Stack::start().await;
    let token = admin_token();
    let waiting = stack.proxy.get_as("/admin/status?wait_digest=x&timeout=300s", &token);
    let ending = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stack.proxy.signal("TERM");
    };
    let (response, ()) = tokio::join!(waiting, ending);
    assert_eq!(response.status(), 503);
    let started = Instant::now();
    assert_eq!(stack.proxy.exit().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}
