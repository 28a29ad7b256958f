//! Rules, networks and services that are observed before they are enforced.

use kit::issuer::{Issuer, SigningKey, key_set};
use kit::raw::Raw;
use kit::*;
use serde_json::{Value, json};

use crate::stack::{PROGRAM, Stack};

const YES: &str = r#"{"result": true}"#;
const NO: &str = r#"{"result": false}"#;

/// A store with some objects, and a proxy that serves them at `/files`; `auth` is the end of the entry.
async fn stack(auth: &str) -> Stack {
    let store = Store::start().await;
    for key in ["a", "open/a", "shut/a", "team/a", "users/ann/a", "users/bob/a"] {
        store.put("files", key, key);
    }
    let proxy = PROGRAM.start(&config(&store, auth)).await;
    Stack { store, proxy }
}

fn config(store: &Store, auth: &str) -> Config {
    Config::new().bucket(Bucket::named("files").store(store).auth(auth))
}

/// The status of a request for a key, and what its line says would have been refused.
async fn read(proxy: &Proxy, key: &str, token: Option<&str>) -> (u16, Option<String>) {
    let id = uuid::Uuid::now_v7().simple().to_string();
    let bearer = format!("Bearer {}", token.unwrap_or_default());
    let mut headers = vec![("X-Request-Id", id.as_str())];
    if token.is_some() {
        headers.push(("Authorization", &bearer));
    }
    let answer = Raw::connect(proxy.address).await.ask("GET", &format!("/files/{key}"), &headers).await;
    let line = proxy.access_line(&id).await;
    (answer.status, line["would_refuse"].as_str().map(str::to_owned))
}

async fn counted(proxy: &Proxy, reason: &str) -> f64 {
    let sample = format!("yatagarasu_would_refuse_total{{bucket=\"files\",reason=\"{reason}\"}}");
    proxy.metric(&sample).await
}

fn would(reason: &str) -> Option<String> {
    (!reason.is_empty()).then(|| reason.to_owned())
}

#[tokio::test]
async fn an_observed_bucket_lets_pass_what_it_would_refuse_and_counts_it() {
    let conditions = "claims: [{ claim: role, operator: equals, value: reader }]";
    let stack = stack(&format!("auth: {{ mode: observe, {conditions} }}")).await;
    let [reader, guest] = ["reader", "guest"].map(|role| token(json!({ "role": role })));
    let expired = token(json!({ "role": "reader", "exp": 1 }));
    let table = [
        (Some(reader.as_str()), ""),
        (None, "no_token"),
        (Some(&guest), "claim"),
        (Some(&expired), "expired"),
        (Some("nonsense"), "bad_token"),
    ];
    for (token, reason) in table {
        assert_eq!(read(&stack.proxy, "a", token).await, (200, would(reason)), "{reason}");
    }
    for (_, reason) in table {
        assert_eq!(counted(&stack.proxy, reason).await, f64::from(u8::from(!reason.is_empty())), "{reason}");
    }
    // Nothing was rejected, and nothing of it reached the store.
    assert!(!stack.proxy.metrics().await.keys().any(|sample| sample.contains("yatagarasu_rejections_total")));
    // Enforced by a reload, it refuses the same.
    stack.proxy.write_config(&config(&stack.store, &format!("auth: {{ {conditions} }}")));
    stack.proxy.hangup().await;
    for (token, reason) in table {
        let (status, observed) = read(&stack.proxy, "a", token).await;
        assert_eq!((status == 200, observed), (reason.is_empty(), None), "{reason}");
    }
}

#[tokio::test]
async fn an_observed_rule_refuses_nobody_and_the_others_stay() {
    let stack = stack(
        r#"auth:
    signed_links: { secret: a-link-secret-of-at-least-32-characters }
    rules:
    - { path: "open/**", allow: public }
    - { path: "shut/**", deny: true, mode: observe }
    - { path: "team/**", mode: observe }
    - { path: "users/${claim.sub}/**", mode: observe }"#,
    )
    .await;
    let ann = token(json!({ "sub": "ann" }));
    for (key, token, expected) in [
        ("open/a", None, (200, "")),
        ("shut/a", Some(ann.as_str()), (200, "deny_rule")),
        ("team/a", None, (200, "no_token")),
        ("team/a", Some(&ann), (200, "")),
        ("team/a?signature=00&expires=1", Some(&ann), (200, "link")),
        ("users/ann/a", Some(&ann), (200, "")),
        ("users/bob/a", Some(&ann), (200, "claim")),
        // No observed rule covers it.
        ("a", Some(&ann), (403, "")),
        ("a?signature=00&expires=1", Some(&ann), (403, "")),
        // Everything but the authorization is enforced always.
        ("shut//a", None, (400, "")),
        ("team/a?versionId=", None, (400, "")),
        ("team/%2e%2e/a", None, (400, "")),
    ] {
        let (status, reason) = expected;
        assert_eq!(read(&stack.proxy, key, token).await, (status, would(reason)), "{key}");
    }
    let put = Raw::connect(stack.proxy.address).await.ask("PUT", "/files/team/a", &[]).await;
    assert_eq!(put.status, 405);
}

#[tokio::test]
async fn observed_networks_refuse_nobody_and_come_first() {
    let networks = |config: Config, mode: &str| {
        config.each(|files| {
            files.with("allow_networks: [192.0.2.0/24]").with(&format!("networks_mode: {mode}"))
        })
    };
    let stack = stack(PRIVATE).await;
    stack.proxy.write_config(&networks(config(&stack.store, PRIVATE), "observe"));
    stack.proxy.hangup().await;
    let good = token(json!({}));
    // Tokens are enforced.
    assert_eq!(read(&stack.proxy, "a", None).await, (401, None));
    assert_eq!(read(&stack.proxy, "a", Some(&good)).await, (200, would("network")));
    assert_eq!(counted(&stack.proxy, "network").await, 1.0);
    stack.proxy.write_config(&networks(config(&stack.store, PRIVATE), "enforce"));
    stack.proxy.hangup().await;
    assert_eq!(read(&stack.proxy, "a", Some(&good)).await, (403, None));
}

/// The claims of the last question, after a request.
async fn claims_asked(decider: &Decider) -> Vec<Value> {
    decider.asked().into_iter().map(|asked| asked.body["input"]["claims"].clone()).collect()
}

#[tokio::test]
async fn a_service_under_an_observed_block_refuses_nobody() {
    let decider = Decider::start(NO).await;
    let external = format!("external: {{ url: \"{}\", timeout_ms: 20000 }}", decider.url());
    let stack = stack(&format!("auth: {{ mode: observe, {external} }}")).await;
    let good = token(json!({ "exp": 4_000_000_000_u64 }));
    for (reply, token, reason, questions) in [
        (Reply::of(200, NO), Some(good.as_str()), "external_denied", 1),
        (Reply::of(500, ""), Some(&good), "external_failed", 1),
        (Reply::of(200, YES), Some(&good), "", 1),
        // Refused before the service would have been asked.
        (Reply::of(200, NO), None, "no_token", 0),
    ] {
        decider.reply(reply);
        assert_eq!(read(&stack.proxy, "a", token).await, (200, would(reason)));
        assert_eq!(decider.asked().len(), questions, "{reason}");
    }
    // Beside an observed rule the service is in force, and nobody in particular asks.
    let rules = format!("auth: {{ {external}, rules: [{{ path: \"**\", mode: observe }}] }}");
    stack.proxy.write_config(&config(&stack.store, &rules));
    stack.proxy.hangup().await;
    for (body, status, reason) in [(YES, 200, "no_token"), (NO, 403, "")] {
        decider.reply(Reply::of(200, body));
        assert_eq!(read(&stack.proxy, "a", None).await, (status, would(reason)));
        assert_eq!(claims_asked(&decider).await, [json!({})]);
    }
    decider.reply(Reply::of(200, YES));
    assert_eq!(read(&stack.proxy, "a", Some(&good)).await, (200, None));
    assert_eq!(claims_asked(&decider).await, [json!({ "exp": 4_000_000_000_u64 })]);
}

#[tokio::test]
async fn the_first_token_of_a_new_key_is_no_observed_refusal() {
    let [old, new] = ["old", "new"].map(SigningKey::new);
    let issuer = Issuer::start(&key_set(&[&old])).await;
    let store = Store::start().await;
    store.put("files", "a", "a");
    let jwt = format!("jwt: {{ jwks: [{{ url: \"{}\", refetch_seconds: 1 }}] }}", issuer.url());
    let entry = Bucket::named("files").store(&store).auth("auth: { mode: observe }");
    let config = Config::without_jwt().with("admin: { enabled: false }").with(&jwt).bucket(entry);
    let proxy = PROGRAM.start(&config).await;
    assert_eq!(read(&proxy, "a", Some(&old.token(json!({})))).await, (200, None));
    issuer.publish(&key_set(&[&old, &new]));
    assert_eq!(read(&proxy, "a", Some(&new.token(json!({})))).await, (200, None));
}

#[tokio::test]
async fn a_warning_names_the_bucket_at_the_start_and_at_every_reload() {
    let stack = stack("auth: { mode: observe }").await;
    let warning = "buckets[0]: bucket `files` lets through what its `auth` would refuse, because that is only observed; set the mode to `enforce` to refuse it";
    for warned in 1..=2 {
        let lines = stack.proxy.whole_log().await;
        let found = lines.iter().filter(|line| line["message"] == warning && line["level"] == "WARN");
        assert_eq!(found.count(), warned);
        assert_eq!(stack.proxy.status().await["warnings"], json!([warning]));
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        assert_eq!((status, &answer["warnings"]), (200, &json!([warning])));
    }
}

#[tokio::test]
async fn the_operators_endpoints_are_never_observed() {
    let stack = stack("auth: { mode: observe }").await;
    for path in ["/admin/status", "/admin/config"] {
        assert_eq!(stack.proxy.get(path).await.status(), 401, "{path}");
        let reader = token(json!({ "role": "reader" }));
        assert_eq!(stack.proxy.get_as(path, &reader).await.status(), 403, "{path}");
    }
    for (section, known) in [
        ("admin: { mode: observe }", "known here are enabled"),
        ("jwt: { secret: a-secret-of-at-least-32-characters, mode: observe }", "known here are enabled"),
    ] {
        stack.proxy.write_config(&format!("{section}\nbuckets: []\n"));
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        assert!(status == 400 && answer["error"].as_str().expect("a text").contains(known), "{answer}");
    }
}

#[tokio::test]
async fn the_counts_of_a_bucket_go_with_it() {
    let stack = stack("auth: { mode: observe }").await;
    assert_eq!(read(&stack.proxy, "a", None).await, (200, would("no_token")));
    assert_eq!(counted(&stack.proxy, "no_token").await, 1.0);
    stack.proxy.write_config(&Config::new());
    stack.proxy.hangup().await;
    // Shown once more, and then forgotten.
    stack.proxy.metrics().await;
    let is_left = stack.proxy.metrics().await.keys().any(|sample| sample.contains("would_refuse"));
    assert!(!is_left);
}
