//! Who may read: tokens, keys, claims; 401 against 403.

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, EncodingKey};
use kit::raw::Raw;
use kit::token::{SECRET, now, raw_token, signed};
use kit::*;
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use crate::stack::{PROGRAM, Stack};

/// Reads the private object and says what came, status and reason in the log.
async fn read(proxy: &Proxy, token: &str) -> (u16, String) {
    let id = uuid();
    let request = http().get(proxy.url("/papers/plan.txt")).bearer_auth(token).header("x-request-id", &id);
    let status = request.send().await.expect("an answer").status().as_u16();
    let reason = proxy.access_line(&id).await["reason"].as_str().unwrap_or_default().to_owned();
    (status, reason)
}

fn uuid() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[tokio::test]
async fn a_token_is_read_where_its_source_says() {
    let sources = "[{ type: bearer }, { type: header, name: X-Auth-Token }, { type: query, name: token }, { type: cookie, name: session }]";
    let stack = Stack::with(&format!("jwt: {{ secret: {SECRET}, token_sources: {sources} }}")).await;
    let token = token(json!({}));
    let url = stack.proxy.url("/papers/plan.txt");
    for request in [
        http().get(&url).header("Authorization", format!("Bearer {token}")),
        http().get(&url).header("authorization", format!("bearer {token}")),
        http().get(&url).header("X-Auth-Token", &token),
        http().get(format!("{url}?a=b&token={token}")),
        http().get(&url).header("Cookie", format!("a=b; session={token}")),
        // The first source that holds one: Basic is no bearer.
        http().get(format!("{url}?token={token}")).header("Authorization", "Basic YTpi"),
    ] {
        assert_eq!(request.send().await.expect("an answer").status(), 200);
        let [received] = stack.store.received().try_into().expect("one request");
        assert!(!format!("{received:?}").contains(&token), "the token reached the store");
    }
    for request in [
        http().get(&url),
        http().get(format!("{url}?Token={token}")),
        http().get(&url).header("Cookie", format!("other={token}")),
        http().get(format!("{url}?token={token}")).header("Authorization", "Bearer bad"),
    ] {
        assert_eq!(request.send().await.expect("an answer").status(), 401);
    }
    assert!(stack.store.received().is_empty());
    assert!(!stack.proxy.whole_log_text().await.contains(&token), "the token is in the log");
}

#[tokio::test]
async fn only_the_configured_sources_count() {
    let stack = Stack::start().await;
    let token = token(json!({}));
    let url = stack.proxy.url("/papers/plan.txt");
    for request in [
        http().get(format!("{url}?token={token}")),
        http().get(&url).header("Cookie", format!("token={token}")),
        http().get(&url).header("X-Auth-Token", &token),
    ] {
        assert_s3_error(request.send().await.expect("an answer"), 401, "AccessDenied").await;
    }
}

#[tokio::test]
async fn a_bad_token_is_401_and_the_log_knows_why() {
    let more =
        format!("jwt: {{ secret: {SECRET}, issuer: me, audience: [files, mails], leeway_seconds: 10 }}");
    let stack = Stack::with(&more).await;
    let good = json!({ "exp": now() + 60, "iss": "me", "aud": "files" });
    let but = |changes: Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        raw_token(&claims)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        raw_token(&claims)
    };
    let other_key =
        signed(Algorithm::HS256, &EncodingKey::from_secret(b"another-secret-of-32-characters!"), &good);
    let other_algorithm = signed(Algorithm::HS384, &EncodingKey::from_secret(SECRET.as_bytes()), &good);
    let whole = raw_token(&good);
    let (head, rest) = whole.split_once('.').expect("a token");
    let (payload, signature) = rest.split_once('.').expect("a token");
    let none = "eyJhbGciOiJub25lIn0";
    #[rustfmt::skip]
    let table: Vec<(String, u16, &str)> = vec![
        (whole.clone(), 200, ""),
        (but(json!({ "aud": ["x", "mails"] })), 200, ""),
        (but(json!({ "exp": now() - 5 })), 200, ""),
        (but(json!({ "exp": now() as f64 + 0.5 })), 200, ""),
        (but(json!({ "nbf": now() + 5 })), 200, ""),
        (but(json!({ "exp": now() - 60 })), 401, "Token expired"),
        (but(json!({ "exp": 0 })), 401, "Token expired"),
        (but(json!({ "exp": -1 })), 401, "exp"),
        (without("exp"), 401, "exp"),
        (but(json!({ "exp": format!("{}", now() + 60) })), 401, "exp"),
        (but(json!({ "exp": null })), 401, "exp"),
        (but(json!({ "exp": [now() + 60] })), 401, "exp"),
        (but(json!({ "nbf": now() + 60 })), 401, "Token not yet valid"),
        (but(json!({ "nbf": "later" })), 401, "nbf"),
        (but(json!({ "iss": "you" })), 401, "Wrong issuer"),
        (but(json!({ "iss": 5 })), 401, "iss"),
        (without("iss"), 401, "iss"),
        (but(json!({ "aud": "other" })), 401, "Wrong audience"),
        (but(json!({ "aud": [] })), 401, "aud"),
        (but(json!({ "aud": 5 })), 401, "aud"),
        (without("aud"), 401, "aud"),
        (other_key, 401, "Invalid signature"),
        (other_algorithm, 401, "Wrong algorithm"),
        (format!("{none}.{payload}."), 401, "Wrong algorithm"),
        (format!("{none}.{payload}.{signature}"), 401, "Wrong algorithm"),
        (format!("{head}.{payload}."), 401, "Invalid signature"),
        (format!("{head}.{payload}"), 401, "Malformed token"),
        (format!("{head}.{payload}.{signature}.x"), 401, ""),
        (format!("{head}.{payload}x.{signature}"), 401, ""),
        ("x".to_owned(), 401, "Malformed token"),
        ("...".to_owned(), 401, "Malformed token"),
        ("é".to_owned(), 401, ""),
    ];
    for (token, status, reason) in table {
        let (found, why) = read(&stack.proxy, &token).await;
        assert_eq!(found, status, "{token}: {why}");
        assert!(why.contains(reason), "{token}: {why}");
    }
}

#[tokio::test]
async fn a_token_of_more_than_16_kib_is_refused() {
    let stack = Stack::start().await;
    let fits = token(json!({ "x": "a".repeat(11_000) }));
    let too_large = token(json!({ "x": "a".repeat(13_000) }));
    assert!(fits.len() < 16_384 && too_large.len() > 16_384);
    assert_eq!(read(&stack.proxy, &fits).await.0, 200);
    let (status, why) = read(&stack.proxy, &too_large).await;
    assert_eq!(status, 401);
    assert!(why.contains("Token too large"), "{why}");
}

#[tokio::test]
async fn challenges_follow_rfc_6750() {
    let stack = Stack::with(&format!(
        "jwt: {{ secret: {SECRET}, claims: [{{ claim: role, operator: equals, value: x }}] }}"
    ))
    .await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    let expired = raw_token(&json!({ "exp": 1 }));
    for (token, status, challenge) in [
        (None, 401, "Bearer"),
        (Some(expired), 401, "Bearer error=\"invalid_token\", error_description=\"Token expired\""),
        (Some(token(json!({}))), 403, "Bearer error=\"insufficient_scope\""),
    ] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        let answer = raw.ask("GET", "/papers/plan.txt", &headers).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (status, Some(challenge)));
    }
}

#[tokio::test]
async fn claims_of_all_tokens_and_of_the_bucket_must_hold() {
    let store = Store::start().await;
    store.put("papers", "plan.txt", "a plan");
    let rule = "auth: { claims: [{ claim: clearance.level, operator: gte, value: 3 }] }";
    let jwt = format!(
        "jwt: {{ secret: {SECRET}, claims: [{{ claim: groups, operator: contains, value: staff }}] }}"
    );
    let proxy = PROGRAM
        .start(&Config::without_jwt().with(&jwt).bucket(Bucket::named("papers").store(&store).auth(rule)))
        .await;
    for (claims, status) in [
        (json!({ "groups": ["staff"], "clearance": { "level": 3 } }), 200),
        (json!({ "groups": ["staff"], "clearance": { "level": 2 } }), 403),
        (json!({ "groups": ["staff"] }), 403),
        (json!({ "groups": ["guests"], "clearance": { "level": 3 } }), 403),
        (json!({ "clearance": { "level": 3 } }), 403),
    ] {
        store.received();
        let (found, why) = read(&proxy, &token(claims.clone())).await;
        assert_eq!(found, status, "{claims}: {why}");
        assert_eq!(store.received().len(), usize::from(status == 200), "{claims}");
        assert!(status == 200 || why.starts_with("claim:"), "{why}");
    }
}

/// A key pair as PEM, and the key that signs.
fn key_pair(algorithm: Algorithm) -> (String, EncodingKey) {
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    let (kind, encode): (_, fn(&[u8]) -> EncodingKey) = match algorithm {
        Algorithm::ES256 => (&PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_der),
        Algorithm::ES384 => (&PKCS_ECDSA_P384_SHA384, EncodingKey::from_ec_der),
        Algorithm::EdDSA => (&PKCS_ED25519, EncodingKey::from_ed_der),
        _ => {
            let pem = rsa_private_key(2048);
            let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("an RSA key");
            return (rsa_public_key(&pem), key);
        }
    };
    let pair = KeyPair::generate_for(kind).expect("a key pair");
    (pem(&pair.subject_public_key_info()), encode(&pair.serialize_der()))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("plain")).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn openssl(arguments: &[&str], input: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new("openssl");
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    String::from_utf8(child.wait_with_output().expect("openssl ends").stdout).expect("PEM")
}

fn rsa_private_key(bits: u32) -> String {
    openssl(&["genrsa", "-traditional", &bits.to_string()], "")
}

fn rsa_public_key(private: &str) -> String {
    openssl(&["rsa", "-pubout"], private)
}

/// A `jwt` block with a public key.
fn jwt_block(algorithm: &str, pem: &str) -> String {
    let indented = pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!("jwt:\n  algorithm: {algorithm}\n  public_key: |\n{indented}")
}

#[tokio::test]
async fn every_algorithm_verifies_its_own_tokens_and_no_others() {
    use Algorithm as A;
    let rsa = key_pair(A::RS256);
    let mut keys: BTreeMap<String, (String, EncodingKey)> = BTreeMap::new();
    for algorithm in [A::RS256, A::RS384, A::RS512, A::PS256, A::PS384, A::PS512] {
        keys.insert(format!("{algorithm:?}"), rsa.clone());
    }
    for algorithm in [A::ES256, A::ES384, A::EdDSA] {
        keys.insert(format!("{algorithm:?}"), key_pair(algorithm));
    }
    let hmac = EncodingKey::from_secret(SECRET.as_bytes());
    for algorithm in ["HS256", "HS384", "HS512"] {
        keys.insert(algorithm.to_owned(), (String::new(), hmac.clone()));
    }
    let claims = json!({ "exp": now() + 600 });
    let stack = Stack::start().await;
    for (name, (pem, _)) in &keys {
        let jwt = if pem.is_empty() {
            format!("jwt: {{ algorithm: {name}, secret: {SECRET} }}\n")
        } else {
            jwt_block(name, pem)
        };
        stack.proxy.write_config(&stack.config().with(&jwt));
        stack.proxy.hangup().await;
        for (other, (_, key)) in &keys {
            let token = signed(other.parse().expect("an algorithm"), key, &claims);
            let status = stack.proxy.get_as("/papers/plan.txt", &token).await.status();
            assert_eq!(status == 200, name == other, "{name} was given {other}: {status}");
            assert!(status == 200 || status == 401, "{name} was given {other}: {status}");
        }
        // The oldest trick: the public key as the secret of an HS256.
        if !pem.is_empty() {
            let forged = signed(A::HS256, &EncodingKey::from_secret(pem.as_bytes()), &claims);
            assert_eq!(stack.proxy.get_as("/papers/plan.txt", &forged).await.status(), 401, "{name}");
        }
    }
}

#[tokio::test]
async fn a_public_key_that_does_not_fit_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let ec = key_pair(Algorithm::ES256).0;
    let private = rsa_private_key(2048);
    let small = rsa_public_key(&rsa_private_key(1024));
    for (algorithm, pem, part) in [
        ("ES384", &ec, "is not a public key on the curve P-384"),
        ("RS256", &ec, "is not an RSA public key"),
        ("EdDSA", &ec, "is not an Ed25519 public key"),
        ("ES256", &rsa_public_key(&private), "is not a public key on the curve P-256"),
        ("RS256", &private, "is not a public key in PEM"),
        ("RS256", &small, "2048"),
        ("PS512", &small, "2048"),
    ] {
        proxy::write(&path, &format!("{}buckets: []\n", jwt_block(algorithm, pem)));
        let output = PROGRAM.run(&["--validate", "--config", path.to_str().expect("plain")]);
        let printed = String::from_utf8(output.stderr).expect("a text");
        assert_eq!(output.status.code(), Some(1), "{algorithm} with {pem}");
        assert!(
            printed.contains("jwt.public_key (line 3)") && printed.contains(part),
            "{algorithm}: {printed}"
        );
    }
}

#[tokio::test]
async fn jwt_switched_off_opens_the_buckets_and_closes_the_endpoints() {
    let stack = Stack::with(&format!("jwt: {{ enabled: false, secret: {SECRET} }}")).await;
    assert_eq!(stack.proxy.get("/papers/plan.txt").await.status(), 200);
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!((status, answer["status"].as_str()), (403, Some("error")));
    assert!(stack.proxy.whole_log_text().await.contains("turns enforcement off"));
}

#[tokio::test]
async fn without_a_jwt_block_the_endpoints_are_closed() {
    let store = Store::start().await;
    let proxy = PROGRAM.start(&Config::without_jwt().bucket(Bucket::named("photos").store(&store))).await;
    assert_eq!(proxy.reload(&admin_token()).await.0, 403);
    assert_eq!(proxy.get_as("/admin/status", &admin_token()).await.status(), 403);
    assert_eq!(proxy.metric("config_generation").await, 1.0);
}

#[tokio::test]
async fn good_tokens_of_odd_claims_take_no_more_memory_than_others() {
    let stack = Stack::start().await;
    for element in ["[]", "[0]", "{\"\":0}"] {
        assert_eq!(read_as(&stack.proxy, &json!({})).await, 200);
        let before = stack.proxy.memory_kib("VmRSS");
        let count = 11_000 / (element.len() + 1);
        let odd: Value =
            serde_json::from_str(&format!("[{}]", vec![element; count].join(","))).expect("JSON");
        for number in 0..400 {
            assert_eq!(read_as(&stack.proxy, &json!({ "jti": number, "odd": odd })).await, 200);
        }
        let grown = stack.proxy.memory_kib("VmRSS").saturating_sub(before) / 1024;
        println!("400 tokens of {element}: {grown} MiB");
        assert!(grown < 40, "400 tokens of {element} made the process grow by {grown} MiB");
    }
}

/// The status of a read with these claims.
async fn read_as(proxy: &Proxy, claims: &Value) -> u16 {
    let token = token(claims.clone());
    assert!(token.len() <= 16 << 10, "{}", token.len());
    proxy.get_as("/papers/plan.txt", &token).await.status().as_u16()
}
