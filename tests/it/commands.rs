//! The commands beside running: show, token, reload.

use std::fs;
use std::process::Output;

use jsonwebtoken::{DecodingKey, Validation, decode};
use kit::token::{SECRET, now};
use kit::*;
use serde_json::Value;

use crate::stack::{PROGRAM, Stack};

fn run(proxy: &Proxy, arguments: &[&str]) -> Output {
    let mut command = PROGRAM.command();
    command.args(arguments).arg("--config").arg(proxy.config_path()).output().expect("the program starts")
}

fn printed(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("a text"))
}

#[tokio::test]
async fn reload_waits_for_the_verdict_and_exits_with_it() {
    let stack = Stack::start().await;
    let (code, text) = printed(&run(&stack.proxy, &["reload"]));
    assert_eq!((code, text.as_str()), (Some(0), "generation 2 is in service; changes: 0\n"));

    let config = stack.photos_at("/pictures");
    stack.proxy.write_config(&config);
    let (code, text) = printed(&run(&stack.proxy, &["reload"]));
    assert_eq!(code, Some(0));
    assert!(text.contains("changed buckets[photos].path_prefix: \"/photos\" → \"/pictures\""), "{text}");
    assert_eq!(stack.proxy.get("/pictures/cat.jpg").await.status(), 200);

    // A verdict of the server: it sees what this command, in another environment, does not.
    let reference = config.each(|bucket| bucket.region("\"${ONLY_HERE}\""));
    stack.proxy.write_config(&reference);
    let mut command = PROGRAM.command();
    command.env("ONLY_HERE", "eu-west-1").args(["reload", "--config"]).arg(stack.proxy.config_path());
    let (code, text) = printed(&command.output().expect("the program starts"));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("`ONLY_HERE` is not set") && text.contains("generation 3 stays in service"),
        "{text}"
    );
    assert_eq!(stack.proxy.metric("config_reload_failure_total").await, 1.0);
}

#[tokio::test]
async fn reload_takes_a_token_from_a_file_and_says_why_it_fails() {
    let stack = Stack::start().await;
    let path = stack.proxy.folder.path().join("token");
    let file = path.to_str().expect("plain");
    proxy::write(&path, &format!("{}\n", admin_token()));
    let (code, text) = printed(&run(&stack.proxy, &["reload", "--token-file", file]));
    assert_eq!(code, Some(0), "{text}");
    proxy::write(&path, &token(serde_json::json!({})));
    let (code, text) = printed(&run(&stack.proxy, &["reload", "--token-file", file]));
    assert!(code == Some(1) && text.contains("403"), "{text}");
    // The secret in the file is not the running one.
    stack.proxy.write_config(&stack.config().with("jwt: { secret: a-new-secret-of-at-least-32-characters }"));
    let (code, text) = printed(&run(&stack.proxy, &["reload"]));
    assert!(code == Some(1) && text.contains("Invalid signature") && text.contains("--token-file"), "{text}");
    assert_eq!(stack.proxy.metric("config_generation").await, 2.0);
}

#[tokio::test]
async fn reload_satisfies_the_operators_conditions_by_itself() {
    let claims = "admin: { claims: [{ claim: groups, operator: contains, value: ops }, { claim: a.level, operator: gt, value: 4 }] }";
    let stack =
        Stack::with(&format!("{claims}\njwt: {{ secret: {SECRET}, issuer: me, audience: [x, y] }}")).await;
    let (code, text) = printed(&run(&stack.proxy, &["reload"]));
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn reload_without_a_server_fails() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    proxy::write(&path, &Config::new().text(proxy::free_port()));
    let (code, text) = printed(&PROGRAM.run(&["reload", "--config", path.to_str().expect("plain")]));
    assert!(code == Some(1) && text.contains("is the server running"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn reload_sends_no_token_of_its_own_to_another_users_port() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    // Only root can start a process of another user.
    if fs::metadata("/proc/self").expect("our own process").uid() != 0 {
        return;
    }
    const OTHER: u32 = 4711;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    // Somebody listens there while the server is down.
    let port = proxy::free_port();
    proxy::allow(folder.path(), 0o755);
    proxy::write(&at("theirs.yaml"), &Config::new().text(port));
    proxy::allow(&at("theirs.yaml"), 0o644);
    let log = fs::File::create(at("log")).expect("created");
    let mut command = PROGRAM.command();
    command.arg("--config").arg(at("theirs.yaml")).uid(OTHER).gid(OTHER);
    command.stdout(std::process::Stdio::null()).stderr(log);
    let mut stranger = Stranger(command.spawn().expect("the program starts"));
    while !fs::read_to_string(at("log")).expect("a log").contains("serving; reload") {
        assert!(matches!(stranger.0.try_wait(), Ok(None)), "it serves");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    let ours = at("ours.yaml");
    let path = ours.to_str().expect("plain");
    let reload = |more: &str, arguments: &[&str]| {
        proxy::write(&ours, &Config::new().with(more).text(port));
        printed(&PROGRAM.run(&[&["reload", "--config", path], arguments].concat()))
    };
    let (code, text) = reload("", &[]);
    assert!(code == Some(1) && text.contains("uid 4711 listens at http://127.0.0.1:"), "{text}");
    assert!(!fs::read_to_string(at("log")).expect("a log").contains("/admin/reload"));
    // An address that is given is the caller's own choice, and an operator may have an operator's token.
    assert_eq!(reload("", &["--url", &format!("http://127.0.0.1:{port}")]).0, Some(0));
    assert_eq!(reload("admin: { socket_uids: [4711], socket: none.sock }", &[]).0, Some(0));
    std::os::unix::fs::chown(&ours, Some(OTHER), None).expect("given away");
    assert_eq!(printed(&PROGRAM.run(&["reload", "--config", path])).0, Some(0));
}

/// A process that ends with the test.
struct Stranger(std::process::Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_token_opens_what_its_claims_allow() {
    let more = format!("jwt: {{ secret: {SECRET}, algorithm: HS512, issuer: me, audience: [files] }}");
    let stack = Stack::with(&more).await;
    let arguments =
        ["token", "--claim", "role=admin", "--claim", "level=5", "--claim", "a.b=[true]", "--ttl", "2h"];
    let (code, text) = printed(&run(&stack.proxy, &arguments));
    assert_eq!(code, Some(0), "{text}");
    let token = text.trim();
    let mut validation = Validation::new(jsonwebtoken::Algorithm::HS512);
    validation.set_audience(&["files"]);
    validation.set_issuer(&["me"]);
    let claims = decode::<Value>(token, &DecodingKey::from_secret(SECRET.as_bytes()), &validation)
        .expect("valid")
        .claims;
    assert_eq!(
        (&claims["role"], &claims["level"], &claims["a"]["b"][0]),
        (&"admin".into(), &5.into(), &true.into())
    );
    assert!(claims["exp"].as_u64().expect("a number").abs_diff(now() + 7200) < 5);
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", token).await.status(), 200);
    assert_eq!(stack.proxy.reload(token).await.0, 200);
}

#[test]
fn show_prints_what_is_in_effect() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    proxy::write(
        &path,
        "server: { port: \"${PORT:-81}\", threads: 2 }
jwt: { secret: a-secret-of-at-least-32-characters }
buckets:
- { name: photos, path_prefix: /photos, s3: { bucket: my-photos, region: eu-west-1, access_key: AK, secret_key: SK }, auth: { enabled: true } }
",
    );
    let output = PROGRAM.run(&["config", "show", "--config", path.to_str().expect("plain")]);
    assert_eq!(output.status.code(), Some(0));
    let shown = String::from_utf8(output.stdout).expect("a text");
    let (origin, shown) = shown.split_once('\n').expect("two lines");
    assert_eq!(shown, include_str!("config/show.expected"));
    // The same as `--validate` says of the file.
    let validated = PROGRAM.run(&["config", "validate", path.to_str().expect("plain")]);
    let (_, validated) = printed(&validated);
    let digest = validated.trim().rsplit_once(' ').expect("a digest at the end").1;
    assert_eq!(origin, format!("# {}, {digest}", path.display()));
}

#[test]
fn a_missing_default_file_says_how_to_name_another_one() {
    const DEFAULT: &str = "/etc/yatagarasu/config.yaml";
    if std::path::Path::new(DEFAULT).exists() {
        println!("skipped: {DEFAULT} exists here");
        return;
    }
    for arguments in [&[][..], &["--validate"], &["config", "show"], &["token"]] {
        let (code, text) = printed(&PROGRAM.run(arguments));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(DEFAULT) && text.contains("--config FILE"), "{text}");
        assert_eq!(text.matches("1 problem").count(), 1, "{text}");
    }
    let (code, text) = printed(&PROGRAM.run(&["--config", "/nowhere/config.yaml"]));
    assert!(code == Some(1) && !text.contains("--config"), "{text}");
}
