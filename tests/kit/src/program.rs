//! The program under test, and how a process of it is started.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::proxy::{Proxy, free_port, write};
use crate::{ConfigFile, eventually, http};

/// The program's file. Cargo tells its path to the tests and benches of the package only, so they hand
/// it in.
#[derive(Debug, Clone, Copy)]
pub struct Program(&'static str);

/// How the process is started, beside its configuration.
#[derive(Default)]
pub struct Surroundings {
    pub environment: Vec<(String, String)>,
    /// Beside `--config`.
    pub arguments: Vec<String>,
    /// Replaces `/etc/hosts` for this process. Linux only.
    pub hosts: Option<String>,
    /// A command in front of the program, as `valgrind` and its arguments; not together with `hosts`.
    pub wrapper: Vec<String>,
    /// The only name server of this process; needs `hosts`.
    pub name_server: Option<IpAddr>,
}

impl Program {
    pub const fn at(path: &'static str) -> Self {
        Self(path)
    }

    pub const fn path(self) -> &'static str {
        self.0
    }

    pub fn command(self) -> Command {
        Command::new(self.0)
    }

    /// The program with arguments and without an environment, run to its end.
    pub fn run(self, arguments: &[&str]) -> Output {
        self.command().args(arguments).env_clear().output().expect("the program starts")
    }

    /// Starts the program with a configuration and waits until it is ready.
    pub async fn start(self, config: &(impl ConfigFile + ?Sized)) -> Proxy {
        self.start_in(config, Surroundings::default()).await
    }

    pub async fn start_in(self, config: &(impl ConfigFile + ?Sized), surroundings: Surroundings) -> Proxy {
        // A port that was free may be taken by another test before the program binds it.
        for _ in 0..5 {
            let mut proxy = self.spawn(config, &surroundings);
            let url = proxy.url("/readyz");
            let ready = eventually("the proxy is ready or has ended", async || {
                if proxy.has_ended() {
                    return Some(false);
                }
                http().get(&url).send().await.ok().map(|response| response.status() == 200)
            });
            if ready.await {
                return proxy;
            }
            assert!(proxy.log_text().contains("cannot listen"), "the proxy ended: {}", proxy.log_text());
        }
        panic!("no free port after five attempts");
    }

    /// Starts the program and does not wait for it.
    pub fn spawn(self, config: &(impl ConfigFile + ?Sized), surroundings: &Surroundings) -> Proxy {
        let folder = TempDir::new().expect("a temporary folder");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let path = folder.path().join("config.yaml");
        write(&path, &config.text(address.port()));
        let log = fs::File::create(folder.path().join("log")).expect("created");
        let environment = surroundings.environment.iter().map(|(name, value)| (name, value));
        let child = self
            .command_in(folder.path(), surroundings)
            .arg("--config")
            .arg(&path)
            .args(&surroundings.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("YATAGARASU_FAULT_FILE", folder.path().join("fault"))
            .envs(environment)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        Proxy::new(address, folder, child)
    }

    /// The program behind the commands that its surroundings need.
    fn command_in(self, folder: &Path, surroundings: &Surroundings) -> Command {
        match &surroundings.hosts {
            None => match surroundings.wrapper.split_first() {
                None => self.command(),
                Some((first, arguments)) => {
                    let mut command = Command::new(first);
                    command.args(arguments).arg(self.0);
                    command
                }
            },
            Some(hosts) => {
                let path = folder.join("hosts");
                fs::write(&path, hosts).expect("written");
                let mut command = Command::new("unshare");
                command.args(["--map-root-user", "--mount", "sh", "-c"]);
                let mut script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"".to_owned();
                if let Some(server) = surroundings.name_server {
                    let path = folder.join("resolv.conf");
                    let options = "options timeout:30 attempts:1";
                    fs::write(&path, format!("nameserver {server}\n{options}\n")).expect("written");
                    script = format!("mount --bind {} /etc/resolv.conf && {script}", path.display());
                }
                command.arg(script).arg(path).arg(self.0);
                command
            }
        }
    }
}
