//! The process and its surroundings: G23, G45, G46 and G48 of the promises in `docs/CONFIG_RELOAD.md`.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use kit::raw::Raw;
use kit::*;

use crate::stack::{PROGRAM, Stack, two_buckets};

// Promise G23.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hangup_before_readiness_is_applied_after_it() {
    let store = Store::start().await;
    for _ in 0..10 {
        let mut proxy = PROGRAM.spawn(&two_buckets(&store), &Surroundings::default());
        // Before `main`, while the kernel and the loader work, no program can catch anything.
        let status = format!("/proc/{}/status", proxy.pid());
        eventually("SIGHUP is caught", async || {
            let text = std::fs::read_to_string(&status).ok()?;
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            (u64::from_str_radix(caught.trim(), 16).ok()? & 1 == 1).then_some(())
        })
        .await;
        proxy.signal("HUP");
        let url = proxy.url("/metrics");
        eventually("the hangup was applied", async || {
            let text = http().get(&url).send().await.ok()?.text().await.ok()?;
            (proxy::samples(&text)["config_generation"] == 2.0).then_some(())
        })
        .await;
        assert!(!proxy.has_ended());
    }
}

/// What a service manager would hear.
struct Manager {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
    path: String,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        Self { socket, path: path.to_str().expect("plain").to_owned(), _folder: folder }
    }

    /// The next datagram that is no sign of life.
    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        loop {
            let read = self.socket.recv(&mut buffer).expect("a datagram in time");
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if text.trim() != "WATCHDOG=1" {
                return text;
            }
        }
    }
}

// Promise G45.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_of_every_reload_and_its_outcome() {
    let manager = Manager::new();
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let environment = vec![("NOTIFY_SOCKET".to_owned(), manager.path.clone())];
    let mut proxy =
        PROGRAM.start_in(&two_buckets(&store), Surroundings { environment, ..Default::default() }).await;
    let ready = manager.hear();
    assert!(ready.contains("READY=1") && ready.contains("STATUS=generation 1 is in service"), "{ready}");
    for (config, status) in [
        (two_buckets(&store).yaml(), "STATUS=generation 2 is in service"),
        (
            "buckets: 1".to_owned(),
            "STATUS=generation 2 stays in service; the reload failed: expected a list, found `1`",
        ),
    ] {
        proxy.write_config(&config);
        proxy.signal("HUP");
        let reloading = manager.hear();
        assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
        let ready = manager.hear();
        assert!(ready.contains("READY=1") && ready.contains(status), "{ready}");
    }
    // The verdict of a reload is the exit code of the command.
    let command = |proxy: &Proxy| {
        let mut command = PROGRAM.command();
        command.args(["reload", "--config"]).arg(proxy.config_path()).output().expect("the program starts")
    };
    assert_eq!(command(&proxy).status.code(), Some(1));
    proxy.write_config(&two_buckets(&store));
    assert_eq!(command(&proxy).status.code(), Some(0));
    assert!(manager.hear().contains("RELOADING=1"));
    assert!(manager.hear().contains("READY=1"));
    proxy.signal("TERM");
    assert!(manager.hear().contains("STOPPING=1"));
    assert_eq!(proxy.exit().await.code(), Some(0));
}

// Promise G45.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_is_fed_when_it_is_asked_for() {
    let manager = Manager::new();
    let environment = vec![
        ("NOTIFY_SOCKET".to_owned(), manager.path.clone()),
        ("WATCHDOG_USEC".to_owned(), "200000".to_owned()),
    ];
    let _proxy = PROGRAM.start_in("buckets: []", Surroundings { environment, ..Default::default() }).await;
    let mut signs = 0;
    let mut buffer = [0; 4096];
    while signs < 5 {
        let read = manager.socket.recv(&mut buffer).expect("a datagram in time");
        signs += usize::from(String::from_utf8_lossy(&buffer[..read]).contains("WATCHDOG=1"));
    }
}

// Promise G46.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hangup_reaches_process_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let port = proxy::free_port();
    proxy::write(&path, &Config::new().text(port));
    let mut unshare = Command::new("unshare")
        .args(["--map-root-user", "--fork", "--pid", "--mount-proc", "--kill-child"])
        .arg(PROGRAM.path())
        .arg("--config")
        .arg(&path)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("unshare starts");
    let url = format!("http://127.0.0.1:{port}/metrics");
    let generation = async |wanted: f64| {
        eventually(&format!("generation {wanted}"), async || {
            let text = http().get(&url).send().await.ok()?.text().await.ok()?;
            (proxy::samples(&text)["config_generation"] == wanted).then_some(())
        })
        .await;
    };
    generation(1.0).await;
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let child = std::fs::read_to_string(children).expect("one child");
    let signal = |name: &str| {
        let status = Command::new("kill").args(["-s", name, child.trim()]).status().expect("kill starts");
        assert!(status.success());
    };
    signal("HUP");
    generation(2.0).await;
    signal("TERM");
    let status =
        eventually("the process has ended", async || unshare.try_wait().expect("our own child")).await;
    assert_eq!(status.code(), Some(0));
}

// Promise G48.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_the_listeners_over_without_a_refused_connection() {
    let stack = Stack::configured(|config| config.server("upgrade_socket: upgrade.sock")).await;
    let Stack { proxy: mut old, store } = stack;
    store.put("photos", "large", vec![b'x'; 30_000_000]);
    let mut download = Raw::connect(old.address).await;
    download.send("GET /photos/large HTTP/1.1\r\nHost: p\r\n\r\n").await;
    // New connections all the time.
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let traffic = {
        let (done, address) = (done.clone(), old.address);
        tokio::spawn(async move {
            let mut requests = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let answer = raw::ask(address, "GET", "/photos/cat.jpg").await;
                assert_eq!((answer.status, answer.body.as_slice()), (200, &b"a cat"[..]));
                requests += 1;
            }
            requests
        })
    };
    // Nobody waits: the old process goes on.
    old.signal("QUIT");
    eventually("the failure is in the log", async || {
        old.log_text().contains("the listeners stay here").then_some(())
    })
    .await;
    assert_eq!(old.get("/photos/cat.jpg").await.status(), 200);

    let log = std::fs::File::create(old.folder.path().join("new.log")).expect("created");
    let mut new = PROGRAM
        .command()
        .args(["--upgrade", "--config"])
        .arg(old.config_path())
        .stderr(log)
        .spawn()
        .expect("the program starts");
    let socket = old.folder.path().join("upgrade.sock");
    eventually("the new process waits", async || socket.exists().then_some(())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    old.signal("QUIT");
    let log = old.folder.path().join("new.log");
    eventually("the new process serves", async || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("serving; reload").then_some(())
    })
    .await;
    assert_eq!(
        download.answer(false).await.body.len(),
        30_000_000,
        "the download of the old process finishes"
    );
    assert_eq!(old.exit().await.code(), Some(0));
    assert_eq!(old.get("/photos/cat.jpg").await.status(), 200, "the new process answers");
    tokio::time::sleep(Duration::from_millis(50)).await;
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    let requests = traffic.await.expect("no request failed");
    assert!(requests > 10, "{requests}");
    let pid = new.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill starts").success());
    let status =
        eventually("the new process has ended", async || new.try_wait().expect("our own child")).await;
    assert_eq!(status.code(), Some(0));
}
