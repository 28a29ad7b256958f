//! Who may change the configuration: the operators' socket, failed log-ins, and the trace of every call.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::raw::{self, Raw};
use kit::*;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::stack::{PROGRAM, Stack};

/// Who runs the tests.
fn uid() -> u32 {
    fs::metadata("/proc/self").expect("our own process").uid()
}

/// A proxy with a socket at `admin.sock` in its folder, where this user needs no token.
async fn with_socket() -> Proxy {
    PROGRAM.start(&at_socket("admin.sock")).await
}

/// A configuration with a socket at this path, where this user needs no token.
fn at_socket(path: &str) -> Config {
    Config::new().with(&admin(path, ""))
}

fn admin(socket: &str, more: &str) -> String {
    format!("admin: {{ socket: {socket}, socket_uids: [{}]{more} }}", uid())
}

fn socket(proxy: &Proxy) -> PathBuf {
    proxy.folder.path().join("admin.sock")
}

fn client_at(socket: &Path) -> Client {
    Client::builder().unix_socket(socket).pool_max_idle_per_host(0).build().expect("a client")
}

async fn get_at(socket: &Path, path: &str) -> Response {
    client_at(socket).get(format!("http://localhost{path}")).send().await.expect("an answer")
}

async fn reload_at(socket: &Path) -> (u16, Value) {
    let request = client_at(socket).post("http://localhost/admin/reload");
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), proxy::json(response).await)
}

fn reload_command(proxy: &Proxy) -> (Option<i32>, String) {
    let mut command = PROGRAM.command();
    let output = command.args(["reload", "--config"]).arg(proxy.config_path()).output().expect("it starts");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("a text");
    (output.status.code(), text)
}

/// What the program says that cannot start with this configuration.
async fn failed_start(config: &Config) -> String {
    let mut proxy = PROGRAM.spawn(config, &Surroundings::default());
    assert_eq!(proxy.exit().await.code(), Some(1));
    proxy.log_text()
}

#[tokio::test]
async fn who_is_listed_needs_no_token_at_the_socket() {
    let proxy = with_socket().await;
    let mode = fs::metadata(socket(&proxy)).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (status, answer) = reload_at(&socket(&proxy)).await;
    assert_eq!((status, &answer["config_generation"]), (200, &json!(2)), "{answer}");
    let actor = format!("uid {}", uid());
    assert_eq!((&answer["actor"], &answer["trigger"]), (&json!(actor), &json!("admin")));
    assert_eq!(get_at(&socket(&proxy), "/metrics").await.status(), 200);
    assert_eq!(get_at(&socket(&proxy), "/readyz").await.status(), 200);
    assert_eq!(get_at(&socket(&proxy), "/photos/cat.jpg").await.status(), 404);
    // Nothing that a client can send makes it the socket's.
    for (name, value) in [("X-Forwarded-For", "unix:"), ("Forwarded", "for=unix"), ("Cookie", &actor)] {
        let request = http().get(proxy.url("/admin/status")).header(name, value);
        assert_eq!(request.send().await.expect("an answer").status(), 401);
    }
}

#[tokio::test]
async fn who_is_not_listed_needs_a_token_at_the_socket() {
    let proxy = PROGRAM.start(&Config::new().with("admin: { socket: admin.sock }")).await;
    let ask = async |token: Option<String>, id: &str| {
        let request = client_at(&socket(&proxy)).get("http://localhost/admin/status");
        let request = request.header("X-Request-Id", id);
        let request = token.map_or(request.try_clone().expect("no body"), |token| request.bearer_auth(token));
        let status = request.send().await.expect("an answer").status().as_u16();
        let line = proxy.access_line(id).await;
        (status, line["client"].clone(), line["actor"].clone())
    };
    let (unix, user) = (json!("unix:"), json!(format!("uid {}", uid())));
    assert_eq!(ask(None, "none").await, (401, unix.clone(), user.clone()));
    assert_eq!(ask(Some("bad".to_owned()), "bad").await, (401, unix.clone(), user));
    assert_eq!(ask(Some(admin_token()), "good").await, (200, unix, json!("ann")));
}

#[tokio::test]
async fn the_socket_works_without_any_key() {
    for without in [Config::without_jwt(), Config::new().jwt("enabled: false")] {
        let proxy = PROGRAM.start(&without.with(&admin("admin.sock", ""))).await;
        assert_eq!(proxy.reload(&admin_token()).await.0, 403);
        assert_eq!(reload_at(&socket(&proxy)).await.0, 200);
        let (code, text) = reload_command(&proxy);
        assert!(code == Some(0) && text.contains("generation 3 is in service"), "{text}");
    }
}

#[tokio::test]
async fn a_reload_opens_moves_and_closes_the_socket() {
    let proxy = PROGRAM.start(&Config::new()).await;
    let at = |name: &str| proxy.folder.path().join(name);
    let reload = async |config: &Config| {
        proxy.write_config(config);
        proxy.reload(&admin_token()).await
    };
    assert_eq!(reload(&at_socket("one.sock")).await.0, 200);
    assert_eq!(reload_at(&at("one.sock")).await.0, 200);

    // Something else is in the way: nothing changes.
    fs::write(at("two.sock"), "a text").expect("written");
    let (status, answer) = reload(&at_socket("two.sock").with("reload: { watch: true }")).await;
    let error = answer["error"].as_str().expect("a text");
    assert!(
        status == 400 && error.contains("is no socket; remove it, or choose another admin.socket"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(at("two.sock")).expect("still there"), "a text");
    assert_eq!(proxy.status().await["watcher"]["enabled"], false);
    assert_eq!(get_at(&at("one.sock"), "/admin/status").await.status(), 200);
    assert_eq!(reload(&at_socket("missing/two.sock")).await.0, 400);

    // The call that moves the socket gets its answer, and so does who is connected.
    fs::remove_file(at("two.sock")).expect("removed");
    let kept = Client::builder().unix_socket(at("one.sock")).build().expect("a client");
    let status = "http://localhost/admin/status";
    assert_eq!(kept.get(status).send().await.expect("an answer").status(), 200);
    proxy.write_config(&at_socket("two.sock"));
    assert_eq!(reload_at(&at("one.sock")).await.0, 200);
    assert_eq!(kept.get(status).send().await.expect("an answer").status(), 200);
    assert_eq!(get_at(&at("two.sock"), "/admin/status").await.status(), 200);
    eventually("the old socket is gone", async || (!at("one.sock").exists()).then_some(())).await;

    // Somebody took the file away: the next reload makes it anew.
    fs::remove_file(at("two.sock")).expect("removed");
    assert_eq!(reload(&at_socket("two.sock")).await.0, 200);
    assert_eq!(reload_at(&at("two.sock")).await.0, 200);

    assert_eq!(reload(&Config::new()).await.0, 200);
    eventually("the socket is gone", async || (!at("two.sock").exists()).then_some(())).await;
}

#[tokio::test]
async fn a_refused_reload_leaves_no_socket_behind() {
    let proxy = PROGRAM.start(&Config::new()).await;
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = busy.local_addr().expect("bound").port();
    let with_port = Config::new().with(&admin("admin.sock", &format!(", port: {port}")));
    proxy.write_config(&with_port);
    // Which of the two is opened first is left open.
    for _ in 0..8 {
        let (status, answer) = proxy.reload(&admin_token()).await;
        assert_eq!(status, 400, "{answer}");
        assert!(!socket(&proxy).exists());
    }
}

#[tokio::test]
async fn only_a_socket_that_was_left_behind_is_replaced() {
    let mut proxy = with_socket().await;
    let path = socket(&proxy);
    let elsewhere = at_socket(path.to_str().expect("plain"));
    let log = failed_start(&elsewhere).await;
    assert!(log.contains("another process serves it; end that one, or choose another admin.socket"), "{log}");
    assert_eq!(get_at(&path, "/admin/status").await.status(), 200, "the first one goes on");

    proxy.signal("KILL");
    proxy.exit().await;
    assert!(path.exists(), "left behind");
    let mut second = PROGRAM.start(&elsewhere).await;
    assert_eq!(reload_at(&path).await.0, 200);
    second.signal("TERM");
    assert_eq!(second.exit().await.code(), Some(0));
    assert!(!path.exists(), "a process that ends takes its socket away");

    fs::write(&path, "a text").expect("written");
    let log = failed_start(&elsewhere).await;
    assert!(log.contains("what is there is no socket; remove it"), "{log}");
    fs::remove_file(&path).expect("removed");
    // Only root can give a file away.
    if uid() == 0 {
        drop(UnixListener::bind(&path).expect("a socket"));
        std::os::unix::fs::chown(&path, Some(4711), None).expect("given away");
        let log = failed_start(&elsewhere).await;
        assert!(log.contains("what is there belongs to uid 4711; remove it"), "{log}");
    }
}

#[tokio::test]
async fn a_folder_that_others_may_write_to_gets_no_socket() {
    let proxy = with_socket().await;
    let folder = proxy.folder.path().join("open");
    fs::create_dir(&folder).expect("created");
    proxy.write_config(&at_socket("open/admin.sock"));
    for mode in [0o777, 0o770, 0o707] {
        proxy::allow(&folder, mode);
        let (status, answer) = reload_at(&socket(&proxy)).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(status == 400 && error.contains("other users may write to its folder"), "{mode:o} {answer}");
        assert!(error.contains("chmod go-w it, or choose another admin.socket"), "{error}");
        assert!(!folder.join("admin.sock").exists());
    }
    // In a folder with the sticky bit nobody can take another one's file away.
    proxy::allow(&folder, 0o1777);
    assert_eq!(reload_at(&socket(&proxy)).await.0, 200);
    assert_eq!(reload_at(&folder.join("admin.sock")).await.0, 200);
    let log = {
        proxy::allow(&folder, 0o777);
        let elsewhere = at_socket(folder.join("other.sock").to_str().expect("plain"));
        failed_start(&elsewhere).await
    };
    assert!(log.contains("other users may write to its folder"), "{log}");
}

#[tokio::test]
async fn without_operators_there_is_no_socket() {
    let disabled = Config::new().with(&admin("admin.sock", ", enabled: false"));
    let proxy = PROGRAM.start(&disabled).await;
    assert!(!socket(&proxy).exists());
    proxy.write_config(&at_socket("admin.sock"));
    proxy.hangup().await;
    let kept = client_at(&socket(&proxy));
    assert_eq!(kept.get("http://localhost/admin/status").send().await.expect("an answer").status(), 200);
    proxy.write_config(&disabled);
    assert_eq!(reload_at(&socket(&proxy)).await.0, 200);
    eventually("the socket is gone", async || (!socket(&proxy).exists()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_the_socket_over() {
    let without_socket = Config::new().server("upgrade_socket: upgrade.sock");
    for (socket_is_wanted, is_there_at_last) in [(true, true), (false, false)] {
        let mut old = PROGRAM.start(&without_socket.clone().with(&admin("admin.sock", ""))).await;
        if !socket_is_wanted {
            old.write_config(&without_socket);
        }
        let mut new = PROGRAM.command();
        let mut new = new.args(["--upgrade", "--config"]).arg(old.config_path()).spawn().expect("it starts");
        let (path, waits) = (socket(&old), old.folder.path().join("upgrade.sock"));
        // One asks again and again at the socket: none is refused.
        while !old.has_ended() {
            if waits.exists() {
                old.signal("QUIT");
            }
            if socket_is_wanted {
                assert_eq!(get_at(&path, "/healthz").await.status(), 200);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(path.exists(), is_there_at_last);
        assert!(!waits.exists(), "nobody waits there any more");
        if is_there_at_last {
            assert_eq!(reload_at(&path).await.0, 200, "the new process answers");
        }
        let pid = new.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().expect("it starts").success());
        eventually("the new process has ended", async || new.try_wait().expect("our own child")).await;
        assert!(!path.exists(), "the last one takes it away");
    }
}

#[tokio::test]
async fn the_command_needs_no_token_at_the_socket() {
    // With a public key in the file, no token can be made.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let jwt = format!("jwt: {{ algorithm: ES256, public_key: {:?} }}", key.public_key_pem());
    let at = |socket: &str| at_socket(socket).with(&jwt);
    let proxy = PROGRAM.start(&at("admin.sock")).await;
    assert_eq!(reload_command(&proxy), (Some(0), "generation 2 is in service; changes: 0\n".to_owned()));
    let lines = proxy.whole_log().await;
    let line = lines.iter().find(|line| line["path"] == "/admin/reload").expect("the request");
    assert_eq!(line["actor"], format!("uid {}", uid()));
    proxy.write_config(&at("admin.sock").with("unknown: 1"));
    assert!(reload_command(&proxy).1.contains("unknown key"));
    // The file is ahead of the running configuration: no socket there yet, and no token.
    proxy.write_config(&at("other.sock"));
    let (code, text) = reload_command(&proxy);
    assert!(code == Some(1) && text.contains("not at the socket") && text.contains("other.sock"), "{text}");
    assert!(text.contains("no token can be made"), "{text}");
}

#[tokio::test]
async fn the_command_goes_to_the_port_while_the_socket_is_new() {
    let proxy = PROGRAM.start(&Config::new()).await;
    proxy.write_config(&at_socket("admin.sock"));
    let (code, text) = reload_command(&proxy);
    assert!(code == Some(0) && text.contains("generation 2 is in service"), "{text}");
    assert_eq!(get_at(&socket(&proxy), "/admin/status").await.status(), 200);
}

#[tokio::test]
async fn failed_logins_of_a_network_are_slowed_down() {
    let config = at_socket("admin.sock").server("trusted_proxies: [127.0.0.1]");
    let proxy = PROGRAM.start(&config).await;
    let ask = async |token: &str, client: &str| {
        let request = http().get(proxy.url("/admin/status")).header("X-Forwarded-For", client);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        request.send().await.expect("an answer")
    };
    // Nobody guesses without a token, and a good one that a rule refuses is no guess.
    let reader = token(json!({ "sub": "bob" }));
    for _ in 0..15 {
        assert_eq!(ask("", "192.0.2.1").await.status(), 401);
        assert_eq!(ask(&reader, "192.0.2.1").await.status(), 403);
    }
    for _ in 0..10 {
        assert_eq!(ask("guess", "192.0.2.1").await.status(), 401);
    }
    let response = ask(&admin_token(), "192.0.2.1").await;
    assert_eq!(response.status(), 429, "also a good token has to wait");
    let wait: u64 = response.headers()["retry-after"].to_str().expect("plain").parse().expect("a number");
    assert!((1..=6).contains(&wait), "{wait}");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let message = format!("Too many failed log-ins from this network; try again in {wait} s");
    assert_eq!(proxy::json(response).await, json!({ "status": "error", "message": message }));

    assert_eq!(ask(&admin_token(), "192.0.2.2").await.status(), 200, "others are not concerned");
    assert_eq!(get_at(&socket(&proxy), "/admin/status").await.status(), 200, "nor is the socket");
    assert_eq!(ask("", "192.0.2.1").await.status(), 429);
    for (reason, count) in [("throttled", 2.0), ("bad_token", 10.0)] {
        let sample = format!("yatagarasu_rejections_total{{reason=\"{reason}\"}}");
        let counted = async || (proxy.metric(&sample).await == count).then_some(());
        eventually(&format!("{count} are counted: {reason}"), counted).await;
    }
    // It passes by itself.
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    assert_eq!(ask(&admin_token(), "192.0.2.1").await.status(), 200);
}

#[tokio::test]
async fn failed_logins_do_not_slow_readers_down() {
    let stack = Stack::start().await;
    for _ in 0..11 {
        stack.proxy.get_as("/admin/status", "guess").await;
    }
    assert_eq!(stack.proxy.get_as("/admin/status", &admin_token()).await.status(), 429);
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", &admin_token()).await.status(), 200);
    assert_eq!(stack.proxy.get("/metrics").await.status(), 200);
    stack.proxy.hangup().await;
}

#[tokio::test]
async fn every_call_leaves_one_line_that_says_who_it_was() {
    let stack = Stack::start().await;
    let reader = token(json!({ "sub": "bob" }));
    for (id, method, path, token, status, actor, reason) in [
        ("a", "POST", "/admin/reload", Some(admin_token()), 200, Some("ann"), None),
        ("b", "GET", "/admin/status", Some(admin_token()), 200, Some("ann"), None),
        ("c", "GET", "/admin/nothing", Some(admin_token()), 404, Some("ann"), None),
        ("d", "PUT", "/admin/reload", Some(admin_token()), 405, Some("ann"), None),
        ("e", "POST", "/admin/reload?to=1", Some(admin_token()), 400, Some("ann"), None),
        ("f", "POST", "/admin/rollback?to=9", Some(admin_token()), 404, Some("ann"), None),
        (
            "g",
            "POST",
            "/admin/reload",
            Some(reader),
            403,
            Some("bob"),
            Some("claim: A claim is not what the rule asks for"),
        ),
        ("h", "POST", "/admin/reload", Some("x".to_owned()), 401, None, Some("bad_token: Malformed token")),
        ("i", "POST", "/admin/rollback", None, 401, None, Some("no_token: Missing token")),
    ] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("X-Request-Id", id), ("Content-Length", "0")];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        let answer = Raw::connect(stack.proxy.address).await.ask(method, path, &headers).await;
        assert_eq!((answer.status, answer.header("cache-control")), (status, Some("no-store")), "{id}");
        stack.proxy.access_line(id).await;
        let lines = stack.proxy.whole_log().await;
        let lines: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == id).collect();
        let [line] = lines.as_slice() else { panic!("{id}: {lines:?}") };
        assert_eq!(line["actor"].as_str(), actor, "{line}");
        assert_eq!(
            (line["client"].as_str(), line["status"].as_u64()),
            (Some("127.0.0.1"), Some(status.into()))
        );
        assert_eq!(line["reason"].as_str(), reason, "{line}");
    }
}

#[tokio::test]
async fn no_answer_below_admin_may_be_kept() {
    let proxy = PROGRAM.start(&Config::new()).await;
    let uncached = async |method: &str, path: &str, status: u16| {
        let answer = raw::ask(proxy.address, method, path).await;
        assert_eq!(
            (answer.status, answer.header("cache-control")),
            (status, Some("no-store")),
            "{method} {path}"
        );
    };
    for path in ["/admin", "/admin/", "/admin/reload", "/admin/config", "/admin/x/y"] {
        uncached("GET", path, 401).await;
        uncached("HEAD", path, 401).await;
        uncached("OPTIONS", path, 204).await;
    }
    proxy.write_config("admin: { enabled: false }\nbuckets: []\n");
    proxy.hangup().await;
    uncached("GET", "/admin/status", 404).await;
}
