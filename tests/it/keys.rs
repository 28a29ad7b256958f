//! Several keys, and keys that issuers publish: which one a token is verified with, and until when.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, decode_header};
use kit::issuer::{Issuer, SigningKey, key_set};
use kit::token::{SECRET, now};
use kit::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::stack::{PROGRAM, Stack};

const OTHER: &str = "another-secret-of-32-characters!";

/// A token with claims of an operator, signed with a secret under a `kid`.
fn token_of(id: Option<&str>, secret: &str, more: &Value) -> String {
    let mut claims = json!({ "exp": now() + 3600, "role": "admin" });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes())).expect("a token")
}

async fn status(proxy: &Proxy, token: &str) -> u16 {
    proxy.get_as("/papers/plan.txt", token).await.status().as_u16()
}

/// What a refusal tells the client.
async fn challenge(proxy: &Proxy, token: &str) -> String {
    let response = proxy.get_as("/papers/plan.txt", token).await;
    assert_eq!(response.status(), 401);
    response.headers()["www-authenticate"].to_str().expect("plain").to_owned()
}

fn jwks(issuer: &Issuer, more: &str) -> String {
    jwks_at(&issuer.url(), more)
}

fn jwks_at(url: &str, more: &str) -> String {
    format!("jwt: {{ secret: {SECRET}, jwks: [{{ url: \"{url}\", {more} }}] }}")
}

/// An instant some seconds ahead, as `not_after` takes it.
fn in_seconds(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(seconds)).to_string()
}

fn indented(pem: &str) -> String {
    pem.lines().map(|line| format!("        {line}\n")).collect()
}

#[tokio::test]
async fn the_kid_of_a_token_selects_the_key() {
    let keys = format!("[{{ id: one, secret: {SECRET} }}, {{ id: two, secret: {OTHER} }}]");
    let stack = Stack::with(&format!("jwt: {{ keys: {keys} }}")).await;
    for (id, secret, expected) in [
        (Some("one"), SECRET, 200),
        (Some("two"), OTHER, 200),
        (None, SECRET, 200),
        (None, OTHER, 200),
        (Some("one"), OTHER, 401),
        (Some("two"), SECRET, 401),
        (Some("three"), SECRET, 401),
        (Some(""), SECRET, 401),
        (Some("ONE"), SECRET, 401),
        (Some("../one"), SECRET, 401),
        (Some("/dev/null"), "", 401),
        (Some("' OR '1'='1"), SECRET, 401),
        (Some("one\0"), SECRET, 401),
    ] {
        stack.store.received();
        let found = status(&stack.proxy, &token_of(id, secret, &json!({}))).await;
        assert_eq!(found, expected, "{id:?} {secret}");
        assert_eq!(stack.store.received().len(), usize::from(expected == 200), "{id:?}");
    }
    assert!(
        challenge(&stack.proxy, &token_of(Some("three"), SECRET, &json!({}))).await.contains("Unknown key")
    );
}

#[tokio::test]
async fn a_key_has_its_own_issuer_and_audience() {
    let own = format!("{{ id: own, secret: {SECRET}, issuer: own, audience: [] }}");
    let usual = format!("{{ id: usual, secret: {OTHER} }}");
    let stack =
        Stack::with(&format!("jwt: {{ issuer: usual, audience: [files], keys: [{own}, {usual}] }}")).await;
    for (id, secret, claims, expected) in [
        ("own", SECRET, json!({ "iss": "own" }), 200),
        ("own", SECRET, json!({ "iss": "usual", "aud": "files" }), 401),
        ("usual", OTHER, json!({ "iss": "usual", "aud": "files" }), 200),
        ("usual", OTHER, json!({ "iss": "own", "aud": "files" }), 401),
        ("usual", OTHER, json!({ "iss": "usual" }), 401),
    ] {
        let found = status(&stack.proxy, &token_of(Some(id), secret, &claims)).await;
        assert_eq!(found, expected, "{id} {claims}");
    }
}

#[tokio::test]
async fn a_rotation_with_overlap_refuses_no_valid_token() {
    let one = format!("{{ id: one, secret: {SECRET} }}");
    let two = format!("{{ id: two, secret: {OTHER} }}");
    let config = |keys: &str| format!("jwt: {{ keys: [{keys}] }}");
    let stack = Stack::with(&config(&one)).await;
    let (old, new) = (token_of(Some("one"), SECRET, &json!({})), token_of(Some("two"), OTHER, &json!({})));
    assert_eq!((status(&stack.proxy, &old).await, status(&stack.proxy, &new).await), (200, 401));

    // The call that adds a key, and the one that removes the key it is made with, get their answers.
    stack.proxy.write_config(&stack.config().with(&config(&format!("{two}, {one}"))));
    let url = stack.proxy.url("/papers/plan.txt");
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let reader = {
        let old = old.clone();
        tokio::spawn(async move {
            let mut read = 0;
            while !*stopped.borrow_and_update() {
                let response = http().get(&url).bearer_auth(&old).send().await.expect("an answer");
                assert_eq!(response.status(), 200, "a valid token was refused");
                read += 1;
            }
            read
        })
    };
    for _ in 0..5 {
        assert_eq!(stack.proxy.reload(&old).await.0, 200);
        assert_eq!((status(&stack.proxy, &old).await, status(&stack.proxy, &new).await), (200, 200));
    }
    stop.send(true).expect("the reader reads");
    assert!(reader.await.expect("no token was refused") > 0);
    stack.proxy.write_config(&stack.config().with(&config(&two)));
    assert_eq!(stack.proxy.reload(&old).await.0, 200);
    assert_eq!((status(&stack.proxy, &old).await, status(&stack.proxy, &new).await), (401, 200));
}

#[tokio::test]
async fn a_key_is_dead_from_its_not_after_without_a_reload() {
    let key = SigningKey::new("one");
    let not_after = in_seconds(4);
    let stack = Stack::with(&format!(
        "jwt:\n  keys:\n    - id: one\n      algorithm: ES256\n      not_after: {not_after}\n      public_key: |\n{}    - {{ id: two, secret: {SECRET} }}",
        indented(&key.pem())
    ))
    .await;
    let token = key.token(json!({}));
    // Verified, and then known from the cache.
    assert_eq!((status(&stack.proxy, &token).await, status(&stack.proxy, &token).await), (200, 200));
    assert!(stack.proxy.metric("yatagarasu_token_cache_lookups_total{result=\"hit\"}").await >= 1.0);
    let refused = eventually("the key is dead", async || {
        let response = stack.proxy.get_as("/papers/plan.txt", &token).await;
        (response.status() == 401).then(|| response.headers()["www-authenticate"].clone())
    });
    assert!(refused.await.to_str().expect("plain").contains("Key no longer accepted"));
    assert_eq!(status(&stack.proxy, &token_of(Some("two"), SECRET, &json!({}))).await, 200);
    assert_eq!(stack.proxy.generation().await, 1);
}

#[tokio::test]
async fn without_operators_endpoints_there_is_nothing_below_admin() {
    let keys = format!("[{{ id: dead, secret: {SECRET}, not_after: 2020-01-01T00:00:00Z }}]");
    let dead = format!("jwt: {{ keys: {keys} }}");
    let stack = Stack::with(&format!("admin: {{ enabled: false }}\n{dead}")).await;
    for path in ["/admin", "/admin/status", "/admin/config", "/admin/anything"] {
        assert_eq!(stack.proxy.get_as(path, &admin_token()).await.status(), 404, "{path}");
    }
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 404);
    for path in ["/healthz", "/readyz", "/metrics", "/photos/cat.jpg"] {
        assert_eq!(stack.proxy.get(path).await.status(), 200, "{path}");
    }
    // With the endpoints, the same keys would let nobody in, and the file is refused.
    stack.proxy.write_config(&stack.config().with(&dead));
    stack.proxy.hangup().await;
    assert_eq!(stack.proxy.generation().await, 1);
    eventually("the refusal is in the log", async || {
        stack.proxy.log_text().contains("holds no key that is still accepted").then_some(())
    })
    .await;
}

#[tokio::test]
async fn commands_make_their_tokens_with_the_first_live_secret() {
    let dead = format!("{{ id: dead, secret: {SECRET}, not_after: 2020-01-01T00:00:00Z }}");
    let live = format!("{{ id: live, secret: {SECRET}, audience: [files] }}");
    let stack = Stack::with(&format!("jwt: {{ keys: [{dead}, {live}] }}")).await;
    let path = stack.proxy.config_path();
    let path = path.to_str().expect("plain");
    let made = PROGRAM.run(&["token", "--config", path]);
    let token = String::from_utf8(made.stdout).expect("a token");
    assert_eq!(decode_header(token.trim()).expect("a header").kid.as_deref(), Some("live"));
    assert_eq!(status(&stack.proxy, token.trim()).await, 200);
    // A key that the server is yet to learn stands first.
    let next = format!("{{ id: next, secret: {OTHER} }}");
    stack.proxy.write_config(&stack.config().with(&format!("jwt: {{ keys: [{next}, {live}] }}")));
    let reloaded = PROGRAM.run(&["reload", "--config", path]);
    assert_eq!(reloaded.status.code(), Some(0), "{}", String::from_utf8_lossy(&reloaded.stderr));
    assert_eq!(stack.proxy.generation().await, 2);
}

#[tokio::test]
async fn the_first_token_of_a_new_key_is_accepted() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let issuer = Issuer::start(&key_set(&[&old])).await;
    let stack = Stack::with(&jwks(&issuer, "")).await;
    assert_eq!(status(&stack.proxy, &old.token(json!({}))).await, 200);
    assert_eq!(status(&stack.proxy, &token(json!({}))).await, 200, "the secret counts beside the set");
    assert_eq!(issuer.fetches(), 1);
    issuer.publish(&key_set(&[&new]));
    let token = new.token(json!({ "role": "admin" }));
    let (one, two, three) = tokio::join!(
        status(&stack.proxy, &token),
        status(&stack.proxy, &token),
        status(&stack.proxy, &token)
    );
    assert_eq!((one, two, three), (200, 200, 200));
    assert_eq!(issuer.fetches(), 2, "one fetch for all who wait");
    assert_eq!(status(&stack.proxy, &old.token(json!({}))).await, 401, "its key is not published any more");
    assert_eq!(stack.proxy.generation().await, 1);
    assert_eq!(stack.proxy.metric("yatagarasu_jwks_fetches_total{outcome=\"ok\"}").await, 2.0);
    assert!(
        !stack.proxy.whole_log_text().await.contains("a-secret-tenant"),
        "the query of the address is in the log"
    );
    // An operator's first token too.
    let newest = SigningKey::new("newest");
    let issuer = Issuer::start(&key_set(&[&newest])).await;
    stack.proxy.write_config(&stack.config().with(&jwks(&issuer, "")));
    assert_eq!(stack.proxy.reload(&token).await.0, 200);
    let operator = newest.token(json!({ "role": "admin" }));
    assert_eq!(stack.proxy.get_as("/admin/status", &operator).await.status(), 200);
}

#[tokio::test]
async fn tokens_of_unknown_keys_cause_one_fetch_in_an_interval() {
    let (known, unknown) = (SigningKey::new("known"), SigningKey::new("unknown"));
    let issuer = Issuer::start(&key_set(&[&known])).await;
    let stack = Stack::with(&jwks(&issuer, "refetch_seconds: 3600")).await;
    assert_eq!(status(&stack.proxy, &known.token(json!({}))).await, 200);
    let token = unknown.token(json!({}));
    for _ in 0..20 {
        assert!(challenge(&stack.proxy, &token).await.contains("Unknown key"));
    }
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(status(&stack.proxy, &known.token(json!({}))).await, 200);
}

#[tokio::test]
async fn known_keys_stay_in_use_while_the_issuer_is_down() {
    let key = SigningKey::new("one");
    let issuer = Issuer::start(&key_set(&[&key])).await;
    let stack = Stack::with(&jwks(&issuer, "refresh_seconds: 1, refetch_seconds: 1")).await;
    assert_eq!(status(&stack.proxy, &key.token(json!({}))).await, 200);
    let failures = async |outcome: &str| {
        stack.proxy.metric(&format!("yatagarasu_jwks_fetches_total{{outcome=\"{outcome}\"}}")).await
    };
    let large = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300_000));
    for (answer, header, body, outcome) in [
        ("503 Service Unavailable", "", "", "status"),
        ("302 Found", "Location: http://127.0.0.1:1/\r\n", "", "status"),
        ("200 OK", "", "{\"keys\": []}", "invalid"),
        ("200 OK", "", "<html>", "invalid"),
        ("200 OK", "", large.as_str(), "invalid"),
    ] {
        let before = failures(outcome).await;
        issuer.say(answer, header, body);
        eventually("a fetch has failed", async || (failures(outcome).await > before).then_some(())).await;
        assert_eq!(status(&stack.proxy, &key.token(json!({}))).await, 200, "{answer} {body:.20}");
    }
    assert!(stack.proxy.metric("yatagarasu_jwks_age_seconds").await >= 1.0);
    // What is published again counts, also where it takes a key away.
    let next = SigningKey::new("two");
    issuer.publish(&key_set(&[&next]));
    eventually("the key is gone", async || {
        (status(&stack.proxy, &key.token(json!({}))).await == 401).then_some(())
    })
    .await;
    assert_eq!(status(&stack.proxy, &next.token(json!({}))).await, 200);
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_opens_nothing_and_refuses_no_reload() {
    let key = SigningKey::new("one");
    let stack = Stack::start().await;
    let nobody = format!("http://127.0.0.1:{}/keys", proxy::free_port());
    let config = format!("jwt: {{ secret: {SECRET}, jwks: [{{ url: \"{nobody}\" }}] }}");
    stack.proxy.write_config(&stack.config().with(&config));
    let (code, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(code, 200, "{answer}");
    assert!(answer["warnings"].to_string().contains("are not known yet"), "{answer}");
    stack.store.received();
    assert_eq!(status(&stack.proxy, &key.token(json!({}))).await, 401);
    assert_eq!(stack.proxy.get("/papers/plan.txt").await.status(), 401);
    assert!(stack.store.received().is_empty());
    assert_eq!(status(&stack.proxy, &token(json!({}))).await, 200);
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_does_not_look_healthy() {
    let key = SigningKey::new("one");
    let issuer = Issuer::start(&key_set(&[&key])).await;
    issuer.say("500 Internal Server Error", "", "");
    let stack = Stack::with(&jwks(&issuer, "refetch_seconds: 1")).await;
    let without = "yatagarasu_jwks_without_keys";
    assert_eq!(stack.proxy.metric(without).await, 1.0);
    eventually("the age of what was never fetched grows", async || {
        (stack.proxy.metric("yatagarasu_jwks_age_seconds").await > 1.0).then_some(())
    })
    .await;
    issuer.publish(&key_set(&[&key]));
    eventually("the set has keys", async || (stack.proxy.metric(without).await == 0.0).then_some(())).await;
    assert!(stack.proxy.metric("yatagarasu_jwks_age_seconds").await < 5.0);
}

#[tokio::test]
async fn a_set_survives_a_reload_and_goes_with_its_address() {
    let key = SigningKey::new("one");
    let issuer = Issuer::start(&key_set(&[&key])).await;
    let stack = Stack::with(&jwks(&issuer, "")).await;
    assert_eq!(status(&stack.proxy, &key.token(json!({}))).await, 200);
    issuer.say("500 Internal Server Error", "", "");
    let settings = "refresh_seconds: 600, issuer: me";
    let other = stack.config().with(&jwks(&issuer, settings));
    let at_another_address = stack.config().with(&jwks_at(&format!("{}&another", issuer.url()), settings));
    for (config, claims, expected) in [
        (stack.config().server("keepalive_seconds: 5").with(&jwks(&issuer, "")), json!({}), 200),
        (other.clone(), json!({ "iss": "me" }), 200),
        (other, json!({}), 401),
        (at_another_address, json!({ "iss": "me" }), 401),
    ] {
        stack.proxy.write_config(&config);
        stack.proxy.hangup().await;
        assert_eq!(status(&stack.proxy, &key.token(claims)).await, expected, "{}", config.yaml());
    }
    assert_eq!(stack.proxy.generation().await, 5);
}

#[tokio::test]
async fn unfit_keys_are_left_out_and_the_others_work() {
    let good = SigningKey::new("good");
    let mut entries = vec![
        json!({ "kty": "oct", "kid": "secret", "k": "YS1zZWNyZXQtb2YtYXQtbGVhc3QtMzItY2hhcmFjdGVycw", "alg": "HS256" }),
        json!({ "kty": "RSA", "kid": "small", "n": "u1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0_IzW7yWR7QkrmBL7jTKEn5u-qKhbwKfBstIs-bMY2Zkp18gnTxKLxoS2tFczGkPLPgizskuemMghRniWaoLcyehkd3qqGElvW_VDL5AaWTg0nLVkjRo9z-40RQzuVaE8AkAFmxZzow3x-VJYKdjykkJ0iT9wCS0DRTXu269V264Vf_3jvredZiKRkgwlL9xNAwxXFg0x_XFw005UWVRIkdgcKWTjpBP2dPwVZ4WWC-9aGVd-Gyn1o0CLelf4rEjGoXbAAEgAqeGUxrcIlbjXfbc", "e": "AQ" }),
        json!({ "kty": "EC", "kid": "curve", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        json!({ "kty": "new", "kid": "type" }),
        json!("no key"),
    ];
    for (id, member, value) in [
        ("use", "use", json!("enc")),
        ("ops", "key_ops", json!(["sign"])),
        ("alg", "alg", json!("HS256")),
        ("point", "x", json!("AAAA")),
    ] {
        let mut entry = SigningKey::new(id).jwk();
        entry[member] = value;
        entries.push(entry);
    }
    entries.push(good.jwk());
    let issuer = Issuer::start(&json!({ "keys": entries }).to_string()).await;
    let stack = Stack::with(&format!("jwt: {{ jwks: [{{ url: \"{}\" }}] }}", issuer.url())).await;
    assert_eq!(status(&stack.proxy, &good.token(json!({}))).await, 200);
    for id in ["secret", "small", "curve", "use", "ops", "alg", "point"] {
        assert_eq!(status(&stack.proxy, &token_of(Some(id), SECRET, &json!({}))).await, 401, "{id}");
    }
    let log = stack.proxy.whole_log_text().await;
    for (index, part) in [
        (0, "symmetric"),
        (1, "not an RSA public key of 2048"),
        (2, "its curve"),
        (3, "its type"),
        (4, "not a JSON Web Key"),
        (5, "its `use`"),
        (6, "its `key_ops`"),
        (7, "its `alg`"),
        (8, "P-256"),
    ] {
        let line = log.lines().find(|line| line.contains(&format!("keys[{index}] is left out")));
        assert!(line.is_some_and(|line| line.contains(part)), "{index} {part}: {line:?}");
    }
}

#[tokio::test]
async fn keys_of_a_file_change_with_the_file() {
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keys.json");
    proxy::write(&path, &key_set(&[&one]));
    let config = format!(
        "reload: {{ watch: true, debounce_ms: 50, poll_seconds: 1 }}\njwt: {{ secret: {SECRET}, jwks: [{{ file: \"{}\" }}] }}",
        path.display()
    );
    let stack = Stack::with(&config).await;
    assert_eq!(status(&stack.proxy, &one.token(json!({}))).await, 200);
    assert_eq!(status(&stack.proxy, &two.token(json!({}))).await, 401);
    proxy::write(&path, &key_set(&[&two]));
    eventually("the file was read again", async || (stack.proxy.generation().await == 2).then_some(())).await;
    assert_eq!(status(&stack.proxy, &one.token(json!({}))).await, 401);
    assert_eq!(status(&stack.proxy, &two.token(json!({}))).await, 200);
    assert!(stack.proxy.status().await["last_reload"]["changes"].to_string().contains("jwt.jwks"));
    // What is no key set refuses the reload, and everything stays.
    proxy::write(&path, "{}");
    stack.proxy.hangup().await;
    assert_eq!(status(&stack.proxy, &two.token(json!({}))).await, 200);
    assert_eq!(stack.proxy.generation().await, 2);
}

#[tokio::test]
async fn an_issuer_behind_tls_is_verified() {
    let key = SigningKey::new("one");
    let (acceptor, pem) = certificate::self_signed(&["localhost"]);
    let port = tls_issuer(acceptor, key_set(&[&key])).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ca = folder.path().join("ca.pem");
    proxy::write(&ca, &pem);
    let url = format!("https://localhost:{port}/keys");
    let stack = Stack::with(&format!("jwt: {{ secret: {SECRET}, jwks: [{{ url: \"{url}\" }}] }}")).await;
    assert_eq!(status(&stack.proxy, &key.token(json!({}))).await, 401, "its certificate is from nobody");
    let trusting =
        format!("jwt: {{ secret: {SECRET}, jwks: [{{ url: \"{url}\", ca_file: \"{}\" }}] }}", ca.display());
    stack.proxy.write_config(&stack.config().with(&trusting));
    stack.proxy.hangup().await;
    assert_eq!(status(&stack.proxy, &key.token(json!({}))).await, 200);
}

/// Publishes a document over TLS.
async fn tls_issuer(acceptor: TlsAcceptor, document: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let length = document.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{document}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn a_block_that_is_written_otherwise_and_means_the_same_is_no_change() {
    let stack = Stack::start().await;
    let written = format!("jwt: {{ secret: {SECRET}, algorithm: HS256, leeway_seconds: 60 }}");
    stack.proxy.write_config(&stack.config().with(&written));
    let (code, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!((code, &answer["changes"]), (200, &json!([])));
}
