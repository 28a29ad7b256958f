//! The files below `deploy/`, used as an operator uses them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::*;

const PLAYBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/ansible/playbook.yaml");

/// What came of a run of the playbook.
struct Play {
    succeeded: bool,
    /// Tasks that changed something.
    changed: u32,
    text: String,
}

/// `make test` installs it where it can, and says so where it cannot.
fn ansible_is_installed() -> bool {
    let mut command = Command::new("ansible-playbook");
    command.arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs the playbook for this machine and the file of a proxy, without systemd and as this user.
fn play(proxy: &Proxy, config: &str) -> Play {
    let folder = proxy.folder.path();
    let template = folder.join("config.yaml.j2");
    proxy::write(&template, config);
    let inventory = "[yatagarasu]\nlocalhost ansible_connection=local ansible_python_interpreter=\"{{ ansible_playbook_python }}\"\n";
    fs::write(folder.join("inventory"), inventory).expect("written");
    let variables = json!({
        "ansible_become": false,
        "yatagarasu_program": proxy::PROGRAM,
        "yatagarasu_template": template,
        "yatagarasu_config": proxy.config_path(),
        "yatagarasu_owner": rustix::process::geteuid().as_raw().to_string(),
        "yatagarasu_group": rustix::process::getegid().as_raw().to_string(),
        "yatagarasu_socket": folder.join("admin.sock"),
        "yatagarasu_systemd": false,
    });
    let mut command = Command::new("ansible-playbook");
    command.arg("--inventory").arg(folder.join("inventory"));
    command.args(["--extra-vars", &variables.to_string(), PLAYBOOK]).current_dir(folder);
    let output = command.env("HOME", folder).env("ANSIBLE_NOCOLOR", "1").output().expect("it starts");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let changed = text.split_once("changed=").and_then(|(_, rest)| rest.split_whitespace().next());
    let changed = changed.and_then(|number| number.parse().ok()).unwrap_or(0);
    Play { succeeded: output.status.success(), changed, text }
}

/// A configuration with a socket, a secret and a port of its own.
fn config(proxy: &Proxy, port: u16, secret: &str, prefix: &str) -> String {
    let uid = rustix::process::geteuid().as_raw();
    let socket = proxy.folder.path().join("admin.sock");
    format!(
        "server: {{ address: 127.0.0.1, port: {port} }}
admin: {{ socket: {}, socket_uids: [{uid}] }}
jwt: {{ secret: {secret} }}
buckets:
{}",
        socket.display(),
        bucket_at("photos", prefix, "http://127.0.0.1:9", PUBLIC)
    )
}

const FIRST: &str = "/first";

/// A proxy that serves [`config`] with the prefix [`FIRST`], if there is an Ansible to try it with.
async fn deployed() -> Option<Proxy> {
    if !ansible_is_installed() {
        println!("skipped: ansible-playbook is not installed");
        return None;
    }
    let uid = rustix::process::geteuid().as_raw();
    let start = format!("admin: {{ socket: admin.sock, socket_uids: [{uid}] }}\nbuckets: []\n");
    let proxy = Proxy::start(&start).await;
    proxy.write_config(&config(&proxy, proxy.address.port(), token::SECRET, FIRST));
    proxy.hangup().await;
    assert_eq!(proxy.generation().await, 2, "{}", proxy.log_text());
    Some(proxy)
}

fn written(proxy: &Proxy) -> String {
    fs::read_to_string(proxy.config_path()).expect("a text")
}

/// Copies of the configuration that a play has left behind.
fn copies(proxy: &Proxy) -> Vec<PathBuf> {
    let entries = fs::read_dir(proxy.folder.path()).expect("the folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.to_string_lossy().ends_with('~')).collect()
}

#[tokio::test]
async fn a_play_brings_the_file_into_service_and_the_next_one_changes_nothing() {
    let Some(proxy) = deployed().await else { return };
    let next = config(&proxy, proxy.address.port(), token::SECRET, "/next");
    let first = play(&proxy, &next);
    assert!(first.succeeded && first.changed == 2, "{}", first.text);
    assert_eq!(proxy.generation().await, 3);
    assert_eq!(written(&proxy), next);
    assert_eq!(copies(&proxy), Vec::<PathBuf>::new());

    let second = play(&proxy, &next);
    assert!(second.succeeded && second.changed == 0, "{}", second.text);
    assert_eq!(proxy.generation().await, 3);
}

#[tokio::test]
async fn a_play_with_an_invalid_file_fails_and_leaves_the_file_as_it_was() {
    let Some(proxy) = deployed().await else { return };
    let before = written(&proxy);
    let play = play(&proxy, &config(&proxy, proxy.address.port(), token::SECRET, "no-slash"));
    assert!(!play.succeeded && play.text.contains("does not begin with `/`"), "{}", play.text);
    assert_eq!(written(&proxy), before);
    assert_eq!(proxy.generation().await, 2);
}

#[tokio::test]
async fn a_play_whose_reload_is_refused_fails_and_puts_the_file_back() {
    let Some(proxy) = deployed().await else { return };
    let before = written(&proxy);
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = busy.local_addr().expect("bound").port();
    let refused = config(&proxy, taken, token::SECRET, "/next");
    // Twice, because a failure must not be forgotten.
    for _ in 0..2 {
        let play = play(&proxy, &refused);
        assert!(!play.succeeded && play.text.contains("cannot listen on"), "{}", play.text);
        assert_eq!(written(&proxy), before);
        assert_eq!(copies(&proxy), Vec::<PathBuf>::new());
        assert_eq!(proxy.generation().await, 2);
    }
    drop(busy);
    let play = play(&proxy, &refused);
    assert!(play.succeeded && play.changed == 2, "{}", play.text);
}

#[tokio::test]
async fn a_play_rotates_the_secret_and_moves_the_port() {
    let Some(mut proxy) = deployed().await else { return };
    let next = config(&proxy, proxy::free_port(), "another-secret-of-at-least-32-characters", "/next");
    let first = play(&proxy, &next);
    assert!(first.succeeded && first.changed == 2, "{}", first.text);
    proxy.address.set_port(port_of(&next));
    assert_eq!(proxy.generation().await, 3, "served on the new port");
    assert_eq!(proxy.get_as("/admin/status", &admin_token()).await.status(), 401, "the old secret is gone");
    let second = play(&proxy, &next);
    assert!(second.succeeded && second.changed == 0, "{}", second.text);
}

fn port_of(config: &str) -> u16 {
    let (_, rest) = config.split_once("port: ").expect("a port");
    rest.split_once(' ').and_then(|(port, _)| port.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_play_reloads_a_file_that_was_in_place_before_it() {
    let Some(proxy) = deployed().await else { return };
    let next = config(&proxy, proxy.address.port(), token::SECRET, "/next");
    proxy.write_config(&next);
    // As the play leaves it.
    proxy::allow(&proxy.config_path(), 0o640);
    let play = play(&proxy, &next);
    assert!(play.succeeded && play.changed == 1, "{}", play.text);
    assert_eq!(proxy.generation().await, 3);
}
