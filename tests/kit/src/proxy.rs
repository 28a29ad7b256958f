//! The real program as a process: its own port, its own folder, its log shown when a test fails.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};

use reqwest::Response;
use serde_json::Value;
use tempfile::TempDir;

use crate::{ConfigFile, eventually, http};

pub struct Proxy {
    pub address: SocketAddr,
    pub folder: TempDir,
    child: Child,
}

impl Proxy {
    pub(crate) fn new(address: SocketAddr, folder: TempDir, child: Child) -> Self {
        Self { address, folder, child }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Response {
        http().get(self.url(path)).send().await.expect("an answer")
    }

    pub async fn get_as(&self, path: &str, token: &str) -> Response {
        http().get(self.url(path)).bearer_auth(token).send().await.expect("an answer")
    }

    pub async fn head(&self, path: &str) -> Response {
        http().head(self.url(path)).send().await.expect("an answer")
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// Replaces the configuration file, atomically.
    pub fn write_config(&self, config: &(impl ConfigFile + ?Sized)) {
        let next = self.folder.path().join("config.yaml.next");
        write(&next, &config.text(self.address.port()));
        fs::rename(next, self.config_path()).expect("renamed");
    }

    /// `POST /admin/reload`: status and body.
    pub async fn reload(&self, token: &str) -> (u16, Value) {
        let request = http().post(self.url("/admin/reload")).bearer_auth(token);
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, json(response).await)
    }

    /// `POST` to an operator's endpoint: status and body.
    pub async fn post(&self, path: &str) -> (u16, Value) {
        self.send(http().post(self.url(path))).await
    }

    /// An operator's request with a token of its own.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.bearer_auth(crate::admin_token()).send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, json(response).await)
    }

    /// `GET /admin/status`
    pub async fn status(&self) -> Value {
        json(self.get_as("/admin/status", &crate::admin_token()).await).await
    }

    pub async fn generation(&self) -> u64 {
        self.metric("config_generation").await as u64
    }

    /// Makes something go wrong on demand; nothing does with an empty text.
    pub fn fault(&self, what: &str) {
        fs::write(self.folder.path().join("fault"), what).expect("written");
    }

    /// Sends SIGHUP and waits until the reload has ended.
    pub async fn hangup(&self) {
        let before = self.reloads().await;
        self.signal("HUP");
        eventually("the reload has ended", async || (self.reloads().await > before).then_some(())).await;
    }

    async fn reloads(&self) -> u64 {
        let metrics = self.metrics().await;
        (metrics["config_reload_success_total"] + metrics["config_reload_failure_total"]) as u64
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill starts");
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Every sample of `/metrics`, under its name and labels as they print.
    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        samples(&self.get("/metrics").await.text().await.expect("a text"))
    }

    pub async fn metric(&self, sample: &str) -> f64 {
        self.metrics().await.get(sample).copied().unwrap_or(0.0)
    }

    /// What the file of the log holds by now; the proxy writes a few milliseconds late.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The lines of the log, parsed.
    pub fn log(&self) -> Vec<Value> {
        let text = self.log_text();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect()
    }

    /// The log, with everything that was logged before this call. Lines are written in their order,
    /// so it is there when the line of one more request is.
    pub async fn whole_log(&self) -> Vec<Value> {
        let id = uuid::Uuid::now_v7().to_string();
        http().get(self.url("/healthz")).header("X-Request-Id", &id).send().await.expect("an answer");
        self.access_line(&id).await;
        self.log()
    }

    /// [`Self::whole_log`], as it is written.
    pub async fn whole_log_text(&self) -> String {
        self.whole_log().await;
        self.log_text()
    }

    /// The log line of a request, once it is written.
    pub async fn access_line(&self, request_id: &str) -> Value {
        eventually("the request is in the log", async || {
            self.log()
                .into_iter()
                .find(|line| line["message"] == "request" && line["request_id"] == request_id)
        })
        .await
    }

    pub async fn exit(&mut self) -> ExitStatus {
        eventually("the process has ended", async || self.child.try_wait().expect("our own child")).await
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// The number of threads with a name, cut by the kernel to 15 characters.
    pub fn threads(&self, name: &str) -> usize {
        let name: String = name.chars().take(15).collect();
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the process lives");
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    }

    /// A number of `/proc/<pid>/status` in KiB, as `VmRSS`.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process lives");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field of the kernel's");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the proxy\n{}---", self.log_text());
        }
    }
}

/// A port that nothing listens on now, and that no other test of this run gets. It lies below those that
/// the kernel gives to clients, or a connection could take it before the program binds it.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const PORTS: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(37) as u16 % PORTS;
    for _ in 0..PORTS {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port below those of clients");
}

pub fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

pub async fn json(response: Response) -> Value {
    let text = response.text().await.expect("a text");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
}

/// Writes a file that nobody else may read.
pub fn write(path: &Path, content: &str) {
    fs::write(path, content).expect("written");
    allow(path, 0o600);
}

/// Who may do what with a file, as `chmod` has it.
pub fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}
