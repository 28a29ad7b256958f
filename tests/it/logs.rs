//! The log's level and format, which a reload changes, and what `debug` adds.

use std::time::Duration;

use kit::authority::Authority;
use kit::issuer::{Issuer, SigningKey, key_set};
use kit::raw::{Raw, ask};
use kit::*;
use serde_json::{Value, json};

use crate::stack::{PROGRAM, Stack, two_buckets};

fn log(settings: &str) -> String {
    format!("log: {{ {settings} }}")
}

impl Stack {
    async fn reload_with(&self, more: &str) -> u16 {
        self.proxy.write_config(&self.config().with(more));
        self.proxy.reload(&admin_token()).await.0
    }
}

/// The records with a message that belong to a request, or all of them.
async fn records(proxy: &Proxy, message: &str, request_id: Option<&str>) -> Vec<Value> {
    let log = proxy.whole_log().await;
    let is_wanted = |record: &Value| {
        record["message"] == message && request_id.is_none_or(|id| record["request_id"] == id)
    };
    log.into_iter().filter(is_wanted).collect()
}

/// Asks with a request id, and waits for nothing but the answer.
async fn ask_as(proxy: &Proxy, id: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let headers = [headers, &[("X-Request-Id", id)]].concat();
    Raw::connect(proxy.address).await.ask("GET", path, &headers).await.status
}

#[tokio::test]
async fn a_reload_turns_debug_on_and_off() {
    let stack = Stack::start().await;
    for (id, settings, decisions) in [
        ("at-first", None, 0),
        ("then", Some("level: debug"), 1),
        ("at-last", Some("level: info"), 0),
        ("by-default", Some("format: auto"), 0),
        ("again", Some("level: debug"), 1),
    ] {
        if let Some(settings) = settings {
            assert_eq!(stack.reload_with(&log(settings)).await, 200, "{settings}");
        }
        assert_eq!(ask_as(&stack.proxy, id, "/photos/cat.jpg", &[]).await, 200);
        assert_eq!(records(&stack.proxy, "decision", Some(id)).await.len(), decisions, "{id}");
        assert_eq!(records(&stack.proxy, "attempt at the store", Some(id)).await.len(), decisions, "{id}");
    }
}

#[tokio::test]
async fn at_warn_and_error_requests_leave_no_line() {
    let stack = Stack::with(&log("level: warn")).await;
    for (level, id) in [("warn", "one"), ("error", "two")] {
        assert_eq!(stack.reload_with(&log(&format!("level: {level}"))).await, 200);
        assert_eq!(ask_as(&stack.proxy, id, "/photos/cat.jpg", &[]).await, 200);
    }
    assert_eq!(stack.reload_with(&log("level: info")).await, 200);
    assert_eq!(ask_as(&stack.proxy, "three", "/photos/cat.jpg", &[]).await, 200);
    let lines = records(&stack.proxy, "request", None).await;
    let ids: Vec<&str> = lines
        .iter()
        .filter(|line| line["bucket"] == "photos")
        .filter_map(|line| line["request_id"].as_str())
        .collect();
    assert_eq!(ids, ["three"]);
}

#[tokio::test]
async fn a_reload_changes_the_format() {
    let stack = Stack::with(&log("format: text")).await;
    let proxy = &stack.proxy;
    let line_of = async |id: &str| {
        eventually("the line of the request", async || {
            let text = proxy.log_text();
            text.lines().find(|line| line.contains(id)).map(str::to_owned)
        })
        .await
    };
    ask_as(proxy, "as-text", "/photos/cat.jpg", &[]).await;
    let line = line_of("as-text").await;
    assert!(line.contains("INFO request request_id=\"as-text\""), "{line}");
    assert!(!line.contains('\u{1b}'), "colours are for terminals: {line:?}");
    for (format, is_json) in [("json", true), ("text", false), ("auto", true)] {
        assert_eq!(stack.reload_with(&log(&format!("format: {format}"))).await, 200);
        ask_as(proxy, format, "/photos/cat.jpg", &[]).await;
        let line = line_of(&format!("request_id{}\"{format}\"", if is_json { "\":" } else { "=" })).await;
        assert_eq!(serde_json::from_str::<Value>(&line).is_ok(), is_json, "{line}");
    }
}

#[tokio::test]
async fn a_refused_reload_leaves_the_log_as_it_is() {
    let stack = Stack::start().await;
    for (settings, error) in [
        (
            "level: trace, format: text",
            "log.level (line 2): `trace` is not a level; use error, warn, info or debug",
        ),
        ("level: debug, format: xml", "log.format (line 2): `xml` is not a format; use auto, json or text"),
    ] {
        stack.proxy.write_config(&stack.config().with(&log(settings)));
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        assert_eq!((status, &answer["errors"]), (400, &json!([error])), "{answer}");
    }
    // A dry run changes nothing either.
    stack.proxy.write_config(&stack.config().with(&log("level: debug, format: text")));
    assert_eq!(stack.proxy.post("/admin/reload?dry_run=true").await.0, 200);
    assert_eq!(ask_as(&stack.proxy, "after", "/photos/cat.jpg", &[]).await, 200);
    assert_eq!(stack.proxy.access_line("after").await["status"], 200);
    assert!(records(&stack.proxy, "decision", None).await.is_empty());
}

#[tokio::test]
async fn a_variable_that_other_programs_obey_is_pointed_out_and_not_obeyed() {
    let environment = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let surroundings = Surroundings { environment, ..Default::default() };
    let proxy = PROGRAM.start_in(&two_buckets(&store), surroundings).await;
    assert_eq!(ask_as(&proxy, "one", "/photos/cat.jpg", &[]).await, 200);
    assert!(records(&proxy, "decision", None).await.is_empty());
    let warnings: Vec<Value> =
        proxy.log().into_iter().filter(|line| line.to_string().contains("RUST_LOG")).collect();
    assert!(warnings.len() == 1 && warnings[0]["level"] == "WARN", "{warnings:?}");
}

#[tokio::test]
async fn a_decision_tells_its_rule_and_its_reason() {
    let store = Store::start().await;
    store.put("files", "open/a", "a");
    let auth = r#"auth:
    rules:
    - { path: "team/**", claims: [{ claim: role, operator: equals, value: reader }] }
    - { path: "open/**", allow: public }
    - { path: "shut/**", deny: true }"#;
    let config =
        Config::new().with(&log("level: debug")).bucket(Bucket::named("files").store(&store).auth(auth));
    let proxy = PROGRAM.start(&config).await;
    let bearer = format!("Bearer {}", token(json!({ "role": "guest" })));
    for (id, path, bucket, rule, decision, reason) in [
        ("a", "/files/open/a", "files", "auth.rules[1]", "admitted", ""),
        ("b", "/files/team/a", "files", "auth.rules[0]", "refused", "no_token: Missing token"),
        (
            "c",
            "/files/team/a",
            "files",
            "auth.rules[0]",
            "refused",
            "claim: A claim is not what the rule asks for",
        ),
        ("d", "/files/shut/a", "files", "auth.rules[2]", "refused", "deny_rule: A rule denies it"),
        ("e", "/files/a", "files", "", "refused", "unmatched: No rule allows it"),
        ("f", "/nowhere", "", "", "refused", "no_route: no bucket is served at this path"),
    ] {
        let headers: &[(&str, &str)] = if id == "c" { &[("Authorization", &bearer)] } else { &[] };
        ask_as(&proxy, id, path, headers).await;
        let records = records(&proxy, "decision", Some(id)).await;
        let [record] = records.as_slice() else { panic!("{id}: {records:?}") };
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(record["level"], "DEBUG");
        assert_eq!(
            [text("bucket"), text("rule"), text("decision"), text("reason")],
            [bucket, rule, decision, reason],
            "{record}"
        );
    }
}

#[tokio::test]
async fn an_attempt_tells_address_connection_time_and_outcome() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let entry = Bucket::named("photos").store(&store);
    let gone = Bucket::named("gone").endpoint(&format!("http://127.0.0.1:{}", proxy::free_port()));
    let config =
        Config::without_jwt().server("threads: 1").with(&log("level: debug")).bucket(entry).bucket(gone);
    let proxy = PROGRAM.start(&config).await;
    for (id, path, connection, outcome) in [
        ("a", "/photos/cat.jpg", "new", "200"),
        ("b", "/photos/missing", "reused", "404"),
        ("c", "/gone/a", "", "ConnectRefused"),
    ] {
        ask_as(&proxy, id, path, &[]).await;
        let records = records(&proxy, "attempt at the store", Some(id)).await;
        let [record] = records.as_slice() else { panic!("{id}: {records:?}") };
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            [text("address"), text("connection"), text("outcome")],
            ["127.0.0.1", connection, outcome],
            "{record}"
        );
        assert_eq!(record["header_ms"].is_number(), !connection.is_empty(), "{record}");
    }
}

/// Everything that fetches or looks up in the background.
#[tokio::test]
async fn look_ups_and_fetches_are_told_with_outcome_and_time() {
    let store = Store::start().await;
    let authority = Authority::start(store.keys.clone(), Duration::from_secs(3600)).await;
    let key = SigningKey::new("one");
    let issuer = Issuer::start(&key_set(&[&key])).await;
    let entry = Bucket::named("photos")
        .endpoint("http://no-such-store.invalid")
        .credentials("source: instance")
        .private();
    let config = Config::new()
        .jwt(&format!("jwks: [{{ url: \"{}\" }}]", issuer.url()))
        .with(&log("level: debug"))
        .bucket(entry);
    let surroundings = Surroundings { environment: authority.environment(), ..Default::default() };
    let proxy = PROGRAM.start_in(&config, surroundings).await;
    for (message, field, value, outcome) in [
        ("keys fetched", "outcome", "ok", true),
        ("credentials asked for", "outcome", "success", true),
        ("name looked up", "host", "no-such-store.invalid", false),
    ] {
        let record =
            eventually(message, async || proxy.log().into_iter().find(|record| record["message"] == message))
                .await;
        assert_eq!((&record["level"], &record[field]), (&json!("DEBUG"), &json!(value)), "{record}");
        assert!(record["duration_ms"].is_number() && record["error"].is_string() != outcome, "{record}");
    }
}

/// A secret in every place of a request that may hold one.
#[tokio::test]
async fn at_debug_the_log_holds_nothing_that_opens_a_door() {
    let store = Store::start().await;
    store.put("files", "a", "a");
    let decider = Decider::start(r#"{"result": true}"#).await;
    let sources = "token_sources: [{ type: bearer }, { type: header, name: X-Planted }, { type: query, name: t }, { type: cookie, name: c }]";
    let auth = |mode: &str| {
        format!(
            "auth: {{ mode: {mode}, signed_links: {{ secret: planted-link-secret-of-32-characters }}, external: {{ url: \"{}\" }} }}",
            decider.url()
        )
    };
    let config = |mode: &str| {
        Config::new()
            .jwt(sources)
            .with(&log("level: debug"))
            .bucket(Bucket::named("files").store(&store).auth(&auth(mode)))
    };
    let proxy = PROGRAM.start(&config("enforce")).await;
    let link = PROGRAM.run(&["sign", "/files/a", "--config", proxy.config_path().to_str().expect("plain")]);
    let link = String::from_utf8(link.stdout).expect("a link").trim_end().to_owned();
    let good = token(json!({ "sub": "planted-subject" }));
    let mut planted = vec![
        good.clone(),
        good.rsplit('.').next().expect("a signature").to_owned(),
        link.split_once('?').expect("a query").1.to_owned(),
        link.split_once("signature=").expect("a signature").1.to_owned(),
        token::SECRET.to_owned(),
        store::SECRET_KEY.to_owned(),
        decider::QUERY_SECRET.to_owned(),
        "Signature=".to_owned(),
        "Bearer".to_owned(),
    ];
    planted.extend((0..8).map(|n| format!("planted-{n}")));
    let bearer = format!("Bearer {good}");
    let mut answers = Vec::new();
    for (mode, bad) in [("enforce", 401), ("observe", 200)] {
        proxy.write_config(&config(mode));
        proxy.hangup().await;
        for (target, headers, status) in [
            ("/files/a", vec![("Authorization", bearer.as_str())], 200),
            ("/files/a", vec![("X-Planted", good.as_str())], 200),
            ("/files/a", vec![("Cookie", "c=planted-0")], bad),
            (&format!("/files/a?t={good}"), vec![], 200),
            ("/files/a?t=planted-1&x=planted-2", vec![], bad),
            ("/files/a", vec![("Authorization", "Bearer planted-3")], bad),
            ("/files/a", vec![("X-Planted", "planted-4"), ("X-Other", "planted-5")], bad),
            (&link, vec![("Cookie", "other=planted-6")], 200),
            (&link.replace("signature=", "signature=planted-7"), vec![], if bad == 401 { 403 } else { 200 }),
        ] {
            let answer = Raw::connect(proxy.address).await.ask("GET", target, &headers).await;
            answers.push((answer.status, status, target.to_owned()));
        }
    }
    assert!(answers.iter().all(|(found, expected, _)| found == expected), "{answers:?}");
    ask(proxy.address, "GET", "/nowhere?planted-0").await;
    let log = proxy.whole_log_text().await;
    assert!(log.matches("\"decision\"").count() >= 18, "too little was logged");
    for secret in planted {
        let found = log.lines().find(|line| line.contains(&secret));
        assert!(found.is_none(), "{secret} in {}", found.unwrap_or_default());
    }
}
