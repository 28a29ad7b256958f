//! No report shows what a reference was filled in with, whatever is wrong with the value.

use std::collections::BTreeMap;
use std::time::Duration;

use kit::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stack::PROGRAM;

/// The marks of everything that is planted; the second one is for numbers.
const MARKS: [&str; 2] = ["planted-", "7707707"];

/// Every key of the schema, in a configuration that is mostly valid.
fn whole() -> Value {
    let claims = |operators: &[&str]| -> Vec<Value> {
        operators.iter().map(|operator| json!({ "claim": "a", "operator": operator, "value": "x" })).collect()
    };
    let all = ["equals", "not_equals", "in", "not_in", "contains", "exists", "gt", "gte", "lt", "lte"];
    let (claims, few) = (claims(&all), claims(&["in", "lt"]));
    json!({
        "server": {
            "address": "127.0.0.1", "port": 1, "threads": 1, "generation_header": true, "keepalive_seconds": 1,
            "shutdown_grace_seconds": 1, "upgrade_socket": "u", "trusted_proxies": ["10.0.0.0/8"],
            "strict_permissions": true,
        },
        "admin": {
            "enabled": true, "address": "127.0.0.1", "port": 2, "socket": "s", "socket_uids": [1], "claims": few,
        },
        "reload": {
            "watch": false, "debounce_ms": 1, "poll_seconds": 1, "deadline_seconds": 9, "history_file": "h",
            "notify": { "url": "http://127.0.0.1:1/", "on": ["failure"], "timeout_seconds": 1 },
        },
        "jwt": {
            "enabled": true, "algorithm": "HS256", "secret": "s", "public_key": "p", "issuer": "i", "audience": ["a"],
            "leeway_seconds": 1, "claims": few, "token_sources": [{ "type": "header", "name": "x" }],
            "keys": [{
                "id": "k", "algorithm": "HS256", "secret": "s", "public_key": "p", "not_after": "2030-01-31T12:00:00Z",
                "issuer": "i", "audience": ["a"],
            }],
            "jwks": [{
                "url": "https://a.example/k", "file": "f", "ca_file": "c", "refresh_seconds": 1, "refetch_seconds": 1,
                "issuer": "i", "audience": ["a"],
            }],
        },
        "buckets": [{
            "name": "b", "path_prefix": "/b", "allow_networks": ["10.0.0.0/8"], "deny_networks": ["10.0.0.0/8"],
            "s3": {
                "bucket": "bbb", "region": "r", "endpoint": "http://127.0.0.1", "addressing": "path", "ca_file": "c",
                "access_key": "A", "secret_key": "B", "session_token": "C",
                "credentials": {
                    "source": "assume_role", "profile": "p", "profile_file": "f", "role_arn": "r", "session_name": "s",
                    "external_id": "e", "token_file": "t",
                },
                "timeouts": {
                    "connect_seconds": 1, "read_seconds": 1, "write_seconds": 1, "idle_seconds": 1, "total_seconds": 1,
                },
            },
            "auth": {
                "enabled": true, "claims": claims,
                "rules": [{ "path": "a", "methods": ["GET"], "allow": "public", "deny": true, "claims": few }],
                "signed_links": { "secret": "s", "previous_secret": "p", "max_ttl_seconds": 1 },
                "external": { "url": "http://127.0.0.1/", "timeout_ms": 1, "cache_seconds": 1 },
            },
        }],
    })
}

/// The pointers of all values at and below a value.
fn places(value: &Value, pointer: &str, found: &mut Vec<String>) {
    found.push(pointer.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{pointer}/{index}"), found);
            }
        }
        Value::Object(entries) => {
            for (key, entry) in entries {
                places(entry, &format!("{pointer}/{key}"), found);
            }
        }
        _ => {}
    }
}

/// The values that a reference may be a part of.
fn shapes(reference: &str) -> Vec<Value> {
    vec![
        json!(reference),
        json!(format!("{reference}{reference}")),
        json!([reference]),
        json!({ "x": reference }),
        json!([[reference], { "claim": reference, "operator": reference, "value": [reference] }]),
    ]
}

/// Secrets in the environment and in files, and references to them.
struct Planted {
    environment: Vec<(String, String)>,
    references: Vec<String>,
}

impl Planted {
    /// As many as there are kinds of values that a key may want.
    fn new(folder: &std::path::Path) -> Self {
        let contents = [
            "planted-text",
            "/planted-path",
            "https://planted-host.example/?planted-query",
            "planted-scheme://a",
            "7707707",
            "77.07707707",
            "planted- text\n  a: planted-line",
            "planted-user:planted-password@host",
            "*planted-",
            "arn:aws:iam::1:role/planted-role",
            "10.0.0.0/planted-",
            "https://planted-user@host.example/",
        ];
        let mut planted = Self { environment: Vec::new(), references: Vec::new() };
        for (number, content) in contents.iter().enumerate() {
            let name = format!("SECRET_{number}");
            proxy::write(&folder.join(&name), content);
            planted.references.push(format!("${{env:{name}}}"));
            planted.references.push(format!("${{file:{}}}", folder.join(&name).display()));
            planted.environment.push((name, (*content).to_owned()));
        }
        planted
    }
}

/// The buckets in one text.
const BUCKETS: usize = 4;

/// Texts of configurations with planted values in every place, a few of them in each text.
fn configurations(references: &[String]) -> Vec<String> {
    let base = whole();
    let mut pointers = Vec::new();
    places(&base, "", &mut pointers);
    let mut turns = references.iter().cycle();
    let mut mutants = Vec::new();
    for pointer in pointers.iter().filter(|pointer| !pointer.is_empty()) {
        let is_leaf = base.pointer(pointer).is_some_and(|value| !value.is_object() && !value.is_array());
        let plain = turns.clone().take(if is_leaf { 4 } else { 0 }).map(|reference| json!(reference));
        let values: Vec<Value> = (0..shapes("").len())
            .map(|number| shapes(turns.next().expect("endless")).swap_remove(number))
            .chain(plain)
            .collect();
        mutants.extend(values.into_iter().map(|value| (pointer.as_str(), value)));
    }
    let mut by_section: BTreeMap<&str, Vec<(&str, Value)>> = BTreeMap::new();
    for (pointer, value) in mutants {
        let section = pointer.split('/').nth(1).expect("below the root");
        by_section.entry(section).or_default().push((pointer, value));
    }
    let of_buckets = by_section.remove("buckets").expect("a section");
    let mut of_buckets = of_buckets.chunks(BUCKETS);
    let texts = by_section.values().map(Vec::len).max().expect("sections").max(of_buckets.len());
    let mutate = |text: &mut Value, (pointer, value): &(&str, Value)| {
        if let Some(place) = text.pointer_mut(pointer) {
            *place = value.clone();
        }
    };
    // Each text has a place of every section, and no more problems than are listed.
    let text = |number: usize| {
        let mut text = base.clone();
        by_section.values().filter_map(|mutants| mutants.get(number)).for_each(|one| mutate(&mut text, one));
        let buckets = of_buckets.next().into_iter().flatten().map(|one| {
            let mut text = base.clone();
            mutate(&mut text, one);
            match text["buckets"].get_mut(0) {
                Some(bucket) => bucket.take(),
                None => text["buckets"].take(),
            }
        });
        text["buckets"] = buckets.collect();
        text.to_string()
    };
    (0..texts).map(text).collect()
}

async fn hook(sender: tokio::sync::mpsc::UnboundedSender<String>) -> faulty::Faulty {
    faulty::Faulty::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&request).trim_end().ends_with('}') {
                match stream.read(&mut buffer).await {
                    Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
                    _ => return,
                }
            }
            let _ =
                stream.write_all(b"HTTP/1.1 204 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            let _ = sender.send(String::from_utf8_lossy(&request).into_owned());
        }
    })
    .await
}

fn assert_clean(place: &str, text: &str, cause: &str) {
    for mark in MARKS {
        let at = text.find(mark);
        assert!(
            at.is_none(),
            "{place}: {:?}\n{cause}",
            at.map(|at| &text[at.saturating_sub(200)..(at + 50).min(text.len())])
        );
    }
}

#[tokio::test]
async fn no_report_shows_what_a_reference_was_filled_in_with() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let planted = Planted::new(files.path());
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let hook = hook(sender).await;
    let reload = format!("reload: {{ history_file: history.json, notify: {{ url: \"{}\" }} }}", hook.url());
    let config = Config::new().with(&reload);
    let environment = planted.environment;
    let proxy = PROGRAM.start_in(&config, Surroundings { environment, ..Default::default() }).await;
    let texts = configurations(&planted.references);
    assert!(texts.len() >= 200, "{}", texts.len());
    let mut quoted = 0;
    for text in &texts {
        let request = http().post(proxy.url("/admin/validate")).body(text.clone());
        let (status, answer) = proxy.send(request).await;
        assert_eq!(status, 400, "{answer}\n{text}");
        let answer = answer.to_string();
        quoted += usize::from(answer.contains("the value of `${"));
        assert_clean("the answer", &answer, text);
    }
    assert!(quoted >= 100, "references are quoted as they are written: {quoted}");
    // As the real file, which the log, the status, the history and the webhook tell of.
    for text in texts.iter().step_by(10) {
        proxy::write(&proxy.config_path(), text);
        let (status, answer) = proxy.reload(&admin_token()).await;
        assert_eq!(status, 400, "{answer}\n{text}");
        assert_clean("the status", &proxy.status().await.to_string(), text);
    }
    let body = tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time").expect("a message");
    assert_clean("the webhook", &body, "");
    tokio::time::sleep(Duration::from_millis(200)).await;
    while let Ok(body) = heard.try_recv() {
        assert_clean("the webhook", &body, "");
    }
    let history = std::fs::read_to_string(proxy.folder.path().join("history.json")).expect("a history");
    assert!(history.contains("refused"));
    assert_clean("the history", &history, "");
    let shown = proxy.get_as("/admin/config", &admin_token()).await.text().await.expect("a text");
    assert_clean("the configuration", &shown, "");
    assert_clean("the log", &proxy.whole_log_text().await, "");
}

#[tokio::test]
async fn the_query_of_a_key_sets_url_is_shown_nowhere() {
    let config = |query: &str| {
        format!(
            "jwt:\n  keys: [{{ id: own, secret: a-secret-of-at-least-32-characters }}]\n  jwks: [{{ url: \"http://127.0.0.1:9/keys?key=planted-{query}\" }}]\nbuckets: []\n"
        )
    };
    let proxy = PROGRAM.start(&config("one")).await;
    proxy.write_config(&config("two"));
    let (status, answer) = proxy.reload(&admin_token()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["changes"][0]["path"], "jwt.jwks", "that it changed is told: {answer}");
    let shown = proxy.get_as("/admin/config", &admin_token()).await.text().await.expect("a text");
    assert!(shown.contains("http://127.0.0.1:9/keys?[redacted]"), "{shown}");
    for text in [answer.to_string(), shown, proxy.status().await.to_string(), proxy.whole_log_text().await] {
        assert_clean("a report", &text, "");
    }
}
