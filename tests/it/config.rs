//! The validator: every YAML file in `config/` beside the exact text that `--validate` prints for
//! it. `UPDATE_EXPECTED=1 cargo test` writes the texts anew; read the difference before keeping it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::proxy::{PROGRAM, run, write};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config")
}

/// `--validate` in the folder of the files, so that no path of this machine is printed.
fn validate(file: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder()).env_clear().args(["--validate", "--config", file]);
    command.env("SECRET_ENV", "a-secret-of-the-environment-0123456789").env("PORT_ENV", "8081");
    command.env("EMPTY_ENV", "").output().expect("the program starts")
}

#[test]
fn every_file_gets_exactly_the_expected_text() {
    let mut files: Vec<String> = fs::read_dir(folder())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("plain"))
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 30, "only {} files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let output = validate(&file);
        let printed = String::from_utf8(output.stderr).expect("a text");
        let expected_at = folder().join(file.replace(".yaml", ".txt"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            write(&expected_at, &printed);
        }
        let expected = fs::read_to_string(&expected_at).unwrap_or_default();
        let is_valid = file.starts_with("valid_");
        if printed != expected || output.status.code() != Some(if is_valid { 0 } else { 1 }) {
            wrong.push(format!("{file}: {}\nexpected\n{expected}\nprinted\n{printed}", output.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_readable_text_is_refused_and_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    write(Path::new(&at("empty")), "");
    write(Path::new(&at("comment")), "# nothing\n---\n");
    fs::write(at("latin1"), b"buckets: []\n# \xe9\n").expect("written");
    fs::write(at("nul"), b"buckets: [\0]\n").expect("written");
    fs::write(at("bomb"), bomb()).expect("written");
    fs::write(at("deep"), "[".repeat(100_000)).expect("written");
    fs::File::create(at("huge")).expect("created").set_len(1 << 40).expect("a sparse file");
    assert!(Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo starts").success());
    for (name, part) in [
        ("missing", "No such file"),
        (".", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("empty", "the file is empty"),
        ("comment", "the file is empty"),
        ("latin1", "line 2: the file is not UTF-8"),
        ("nul", "line 1: the file is not YAML"),
        ("bomb", "the file is not YAML"),
        ("deep", "the file is not YAML"),
        ("huge", "is larger than 134217728 bytes"),
    ] {
        let output = run(&["--validate", "--config", &at(name)]);
        let printed = String::from_utf8(output.stderr).expect("a text");
        assert_eq!(output.status.code(), Some(1), "{name}: {printed}");
        assert!(printed.contains(part), "{name}: {printed}");
    }
}

/// Ten levels of ten aliases each.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    text + "buckets: []\n"
}

#[test]
fn every_truncation_of_a_valid_file_ends_with_an_error_or_a_verdict() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let whole = fs::read(self::folder().join("valid_full.yaml")).expect("the file");
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).expect("written");
        let output = run(&["--validate", "--config", path.to_str().expect("plain")]);
        let printed = String::from_utf8(output.stderr).expect("a text");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{length} bytes: {:?} {printed}", output.status);
        assert!(!printed.contains("panicked"), "{length} bytes: {printed}");
    }
}

#[test]
fn the_example_is_valid_and_says_every_key() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml");
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs([
        ("JWT_SECRET", "a-secret-of-at-least-32-characters"),
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "SK"),
    ]);
    let output = command.args(["config", "validate"]).arg(&example).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(example).expect("the example");
    for key in KEYS {
        assert!(text.contains(&format!("{key}:")), "config.example.yaml does not say {key}");
    }
}

/// Every key of the schema.
#[rustfmt::skip]
const KEYS: [&str; 80] = [
    "server", "address", "port", "threads", "generation_header", "keepalive_seconds", "shutdown_grace_seconds",
    "upgrade_socket", "admin", "claims", "claim", "operator", "value", "reload", "watch", "debounce_ms", "poll_seconds",
    "deadline_seconds", "history_file", "notify", "url", "on", "timeout_seconds", "jwt", "enabled", "algorithm",
    "secret", "public_key", "issuer", "audience", "leeway_seconds", "token_sources", "type", "name", "buckets",
    "path_prefix", "s3", "bucket", "region", "endpoint", "addressing", "ca_file", "access_key", "secret_key",
    "session_token", "timeouts", "connect_seconds", "read_seconds", "write_seconds", "idle_seconds", "total_seconds",
    "auth", "rules", "path", "methods", "allow", "deny", "trusted_proxies", "allow_networks",
    "deny_networks", "signed_links", "previous_secret", "max_ttl_seconds",
    "keys", "id", "not_after", "jwks", "file", "refresh_seconds", "refetch_seconds",
    "credentials", "source", "role_arn", "session_name", "external_id", "token_file", "profile", "profile_file",
    "socket", "socket_uids",
];
