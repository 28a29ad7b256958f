//! The files below `deploy/`, used as an operator uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kit::*;
use serde::Deserialize;
use serde_json::json;

use crate::stack::PROGRAM;

const PLAYBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/ansible/playbook.yaml");

/// Outcome of a run of the playbook.
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
        "yatagarasu_program": PROGRAM.path(),
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
    Config::without_jwt()
        .with(&format!("admin: {{ socket: {}, socket_uids: [{uid}] }}", socket.display()))
        .with(&format!("jwt: {{ secret: {secret} }}"))
        .bucket(Bucket::named("photos").at(prefix).endpoint("http://127.0.0.1:9"))
        .text(port)
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
    let proxy = PROGRAM.start(&start).await;
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

/// Documents of a YAML file below `deploy/`.
fn documents(name: &str) -> Vec<serde_yaml::Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let text = fs::read_to_string(path).expect("a file of ours");
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents.map(|document| serde_yaml::Value::deserialize(document).expect("YAML")).collect()
}

/// Validates a configuration with an environment and expects no problem and no warning.
fn assert_valid(config: &str, environment: &[(&str, &str)]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    proxy::write(&path, config);
    let mut command = PROGRAM.command();
    command.args(["config", "validate"]).arg(&path).env_clear().envs(environment.iter().copied());
    let output = command.output().expect("the program starts");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.is_empty(), "{printed}");
}

const SECRETS: [(&str, &str); 3] =
    [("jwt", token::SECRET), ("access_key", store::ACCESS_KEY), ("secret_key", store::SECRET_KEY)];

#[test]
fn the_configuration_for_kubernetes_is_valid_with_the_secrets_that_it_mounts() {
    let documents = documents("kubernetes/yatagarasu.yaml");
    let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).expect(kind);
    let config = of_kind("ConfigMap")["data"]["config.yaml"].as_str().expect("a text");
    let secrets = tempfile::tempdir().expect("a temporary folder");
    for (name, content) in SECRETS {
        proxy::write(&secrets.path().join(name), content);
    }
    assert_valid(&config.replace("/run/secrets/yatagarasu", secrets.path().to_str().expect("plain")), &[]);

    let pod = &of_kind("Deployment")["spec"]["template"]["spec"];
    let mounted = pod["containers"][0]["volumeMounts"].as_sequence().expect("a list");
    let folders: Vec<_> = mounted.iter().filter_map(|mount| mount["mountPath"].as_str()).collect();
    assert_eq!(folders, ["/etc/yatagarasu", "/run/secrets/yatagarasu"]);
    assert!(mounted.iter().all(|mount| mount["subPath"].is_null()), "a subPath would never change");
}

#[test]
fn compose_mounts_a_valid_configuration_as_a_folder() {
    let compose = &documents("compose.yaml")[0];
    let proxy = &compose["services"]["yatagarasu"];
    let mount = proxy["volumes"][0].as_str().expect("a text");
    let (here, there) = mount.split_once(':').expect("two paths");
    assert_eq!(there, "/etc/yatagarasu:ro");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(here);
    let config = fs::read_to_string(here.join("config.yaml")).expect("the configuration");
    let environment: Vec<(&str, &str)> = (proxy["environment"].as_mapping().expect("a mapping").keys())
        .filter_map(|name| Some((name.as_str()?, token::SECRET)))
        .collect();
    assert_valid(&config, &environment);

    assert_eq!(proxy["healthcheck"]["test"][2], "8080", "the port of the configuration");
    // Each bucket is a folder of the store's volume, and the store is where the configuration looks.
    let store = &compose["services"]["store"];
    let (folder, _) =
        store["volumes"][0].as_str().and_then(|mount| mount.split_once(':')).expect("two paths");
    let config: serde_yaml::Value = serde_yaml::from_str(&config).expect("YAML");
    for bucket in config["buckets"].as_sequence().expect("a list") {
        let name = bucket["s3"]["bucket"].as_str().expect("a text");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder).join(name);
        assert!(folder.is_dir(), "{}", folder.display());
        assert_eq!(bucket["s3"]["endpoint"], "http://store:7070");
    }
}
