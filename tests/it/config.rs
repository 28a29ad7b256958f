//! The validator: every YAML file in `config/` beside the exact text that `--validate` prints for
//! it. `UPDATE_EXPECTED=1 cargo test` writes the texts anew; read the difference before keeping it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kit::proxy::{allow, write};
use tempfile::TempDir;

use crate::stack::PROGRAM;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config")
}

/// The files once more, as a checkout may not leave them: nobody else may read or change them.
fn guarded() -> TempDir {
    let copies = TempDir::new().expect("a temporary folder");
    for entry in fs::read_dir(folder()).expect("the folder") {
        let from = entry.expect("an entry");
        let to = copies.path().join(from.file_name());
        fs::copy(from.path(), &to).expect("copied");
        allow(&to, 0o600);
    }
    copies
}

/// `--validate` in the folder of the files, so that no path of this machine is printed.
fn validate(folder: &Path, file: &str) -> Output {
    let mut command = PROGRAM.command();
    command.current_dir(folder).env_clear().args(["--validate", "--config", file]);
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
    let guarded = guarded();
    for file in files {
        let output = validate(guarded.path(), &file);
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
        ("bomb", "the file is too large: its aliases repeat more than"),
        ("deep", "line 1: the file is not YAML: brackets are nested deeper than 128 levels"),
        ("huge", "is larger than 134217728 bytes"),
    ] {
        let output = PROGRAM.run(&["--validate", "--config", &at(name)]);
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
        let output = PROGRAM.run(&["--validate", "--config", path.to_str().expect("plain")]);
        let printed = String::from_utf8(output.stderr).expect("a text");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{length} bytes: {:?} {printed}", output.status);
        assert!(!printed.contains("panicked"), "{length} bytes: {printed}");
    }
}

#[test]
fn the_example_is_valid_and_says_every_key() {
    let folder = TempDir::new().expect("a temporary folder");
    let example = folder.path().join("config.example.yaml");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml"), &example).expect("copied");
    // It holds no secret, so that everybody may read it.
    allow(&example, 0o644);
    let mut command = PROGRAM.command();
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
const KEYS: [&str; 93] = [
    "server", "address", "port", "threads", "generation_header", "keepalive_seconds", "shutdown_grace_seconds",
    "upgrade_socket", "admin", "claims", "claim", "operator", "value", "reload", "watch", "debounce_ms", "poll_seconds",
    "deadline_seconds", "history_file", "notify", "url", "on", "timeout_seconds", "jwt", "enabled", "algorithm",
    "secret", "public_key", "issuer", "audience", "leeway_seconds", "token_sources", "type", "name", "buckets",
    "path_prefix", "s3", "bucket", "region", "endpoint", "addressing", "ca_file", "access_key", "secret_key",
    "session_token", "timeouts", "connect_seconds", "first_byte_seconds", "read_seconds", "write_seconds", "idle_seconds", "total_seconds",
    "auth", "rules", "path", "methods", "allow", "deny", "trusted_proxies", "allow_networks",
    "deny_networks", "signed_links", "previous_secret", "max_ttl_seconds", "external", "timeout_ms", "cache_seconds",
    "keys", "id", "not_after", "jwks", "file", "refresh_seconds", "refetch_seconds",
    "credentials", "source", "role_arn", "session_name", "external_id", "token_file", "profile", "profile_file",
    "socket", "socket_uids", "strict_permissions", "log", "level", "format", "mode", "networks_mode",
    "limits", "connections", "header_seconds",
];

/// What is said of files with these modes: the configuration's own, and that of what it refers to.
fn judged(config: &str, own_mode: u32, secret_mode: u32) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    write(&path("config.yaml"), config);
    allow(&path("config.yaml"), own_mode);
    // As a mounted Secret: what counts is the file at the end of the links.
    fs::create_dir(path("data")).expect("created");
    write(&path("data/secret"), "a-secret-of-at-least-32-characters\n");
    allow(&path("data/secret"), secret_mode);
    std::os::unix::fs::symlink("data/secret", path("secret")).expect("linked");
    let mut command = PROGRAM.command();
    command.current_dir(folder.path()).args(["--validate", "--config", "config.yaml"]);
    let output = command.output().expect("the program starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("a text"))
}

#[test]
fn files_that_others_may_read_or_change_are_told() {
    let plain = "jwt: { secret: a-secret-of-at-least-32-characters }\nbuckets: []\n";
    let reference = "jwt: { secret: \"${file:secret}\" }\nbuckets: []\n";
    let bucket = |key: &str| {
        format!(
            "jwt: {{ secret: \"${{file:secret}}\" }}\nbuckets:\n  - name: a\n    path_prefix: /a\n    s3: {{ bucket: aaa, region: eu-west-1, access_key: AK, secret_key: {key} }}\n    auth: {{ enabled: true }}\n"
        )
    };
    let token = "buckets: [{ name: a, path_prefix: /a, auth: { enabled: false }, s3: { bucket: aaa, region: eu-west-1, credentials: { source: web_identity, role_arn: \"arn:aws:iam::123456789012:role/r\", token_file: secret } } }]\n";
    let readable = |file: &str, mode: &str| {
        format!(
            "warning: `{file}` holds a secret, and every user may read it (mode {mode}); `chmod o-r` it\n"
        )
    };
    let open = |file: &str, mode: &str| {
        format!("warning: `{file}` may be changed by others than its owner (mode {mode}); `chmod go-w` it\n")
    };
    for (config, own, secret, expected) in [
        (plain, 0o600, 0o600, String::new()),
        (plain, 0o640, 0o600, String::new()),
        (plain, 0o644, 0o600, readable("config.yaml", "0644")),
        (plain, 0o620, 0o600, open("config.yaml", "0620")),
        (plain, 0o646, 0o600, readable("config.yaml", "0646") + &open("config.yaml", "0646")),
        (reference, 0o644, 0o400, String::new()),
        (reference, 0o644, 0o440, String::new()),
        (reference, 0o664, 0o400, open("config.yaml", "0664")),
        (reference, 0o644, 0o644, readable("secret", "0644")),
        (&bucket("SK"), 0o644, 0o600, readable("config.yaml", "0644")),
        (&bucket("\"${file:secret}\""), 0o644, 0o604, readable("secret", "0604")),
        (token, 0o644, 0o644, readable("secret", "0644")),
    ] {
        assert_eq!(judged(config, own, secret), (Some(0), expected), "{config} {own:o} {secret:o}");
    }
    // The same, refused.
    let strict = |config: &str| format!("server: {{ strict_permissions: true }}\n{config}");
    assert_eq!(judged(&strict(reference), 0o644, 0o400), (Some(0), String::new()));
    let (code, text) = judged(&strict(reference), 0o666, 0o644);
    assert_eq!(code, Some(1));
    let expected = "server.strict_permissions (line 1): `config.yaml` may be changed by others than its owner (mode 0666); `chmod go-w` it; `secret` holds a secret, and every user may read it (mode 0644); `chmod o-r` it\n1 problem\n";
    assert_eq!(text, expected);
}

#[test]
fn everybody_may_read_a_public_key() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let folder = TempDir::new().expect("a temporary folder");
    let (config, pem) = (folder.path().join("config.yaml"), folder.path().join("jwt.pem"));
    write(&pem, &key.public_key_pem());
    write(&config, "jwt: { algorithm: ES256, public_key: \"${file:jwt.pem}\" }\nbuckets: []\n");
    for (mode, part) in
        [(0o644, ""), (0o666, "`jwt.pem` may be changed by others than its owner (mode 0666)")]
    {
        allow(&pem, mode);
        let output = PROGRAM.run(&["--validate", "--config", config.to_str().expect("plain")]);
        let printed = String::from_utf8(output.stderr).expect("a text");
        assert!(printed.contains(part) && printed.is_empty() == part.is_empty(), "{printed}");
    }
}
