//! Reloading: what takes effect, what does not, what is said, and that no request notices.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::harness::raw::Raw;
use crate::harness::token::{SECRET, now, raw_token};
use crate::harness::*;

#[tokio::test]
async fn a_post_and_a_hangup_do_the_same() {
    let stack = Stack::start().await;
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200);
    assert_eq!(answer["status"], "success");
    assert_eq!(answer["message"], "Configuration reloaded successfully");
    assert_eq!(answer["config_generation"], 2);
    assert!(answer["timestamp"].as_u64().expect("a number").abs_diff(now()) < 5);
    assert_eq!(answer["unchanged"], true);
    assert_eq!(answer["changes"], json!([]));
    assert!(answer["digest"].as_str().expect("a text").starts_with("sha256:"));

    stack.proxy.hangup().await;
    let metrics = stack.proxy.metrics().await;
    assert_eq!(metrics["config_reload_success_total"], 2.0);
    assert_eq!(metrics["config_reload_failure_total"], 0.0);
    assert_eq!(metrics["config_generation"], 3.0);
    assert_eq!(metrics["config_last_reload_successful"], 1.0);
    assert!((metrics["config_last_reload_timestamp_seconds"] - now() as f64).abs() < 5.0);
}

#[tokio::test]
async fn an_invalid_file_changes_nothing_and_everybody_reads_the_same_text() {
    let stack = Stack::start().await;
    let photos = bucket("bucket1", "/api", &stack.store, PUBLIC);
    let papers = bucket("bucket2", "/api/", &stack.store, PUBLIC);
    stack.proxy.write_config(&format!("{JWT}buckets:\n{photos}{papers}"));

    let (status, answer) = stack.proxy.reload(&admin_token()).await;

    assert_eq!(status, 400);
    assert_eq!(answer["status"], "error");
    assert_eq!(answer["message"], "Configuration reload failed");
    assert_eq!(answer["error"], "Duplicate path_prefix '/api' found in buckets: bucket1, bucket2");
    let output = proxy::run(&["--validate", "--config", stack.proxy.config_path().to_str().expect("plain")]);
    let printed = String::from_utf8(output.stderr).expect("a text");
    let lines: Vec<&str> =
        answer["errors"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(printed, format!("{}\n1 problem\n", lines.join("\n")));

    stack.proxy.hangup().await;
    let failures: Vec<Value> =
        stack.proxy.log().into_iter().filter(|line| line["level"] == "ERROR").collect();
    assert_eq!(failures.len(), 2);
    for line in &failures {
        let message = line["message"].as_str().expect("a text");
        assert!(
            message.contains(printed.trim_end()) && message.contains("generation 1 stays in service"),
            "{line}"
        );
    }
    let metrics = stack.proxy.metrics().await;
    assert_eq!(metrics["config_reload_failure_total"], 2.0);
    assert_eq!(metrics["config_reload_success_total"], 0.0);
    assert_eq!(metrics["config_generation"], 1.0);
    assert_eq!(metrics["config_last_reload_successful"], 0.0);
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.status(), 200);

    let status = proxy::json(stack.proxy.get_as("/admin/status", &admin_token()).await).await;
    assert_eq!(
        (&status["config_generation"], &status["last_reload"]["status"]),
        (&json!(1), &json!("error"))
    );

    stack.proxy.write_config(&Stack::config(&stack.store, ""));
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    assert_eq!(stack.proxy.metric("config_last_reload_successful").await, 1.0);
}

#[tokio::test]
async fn files_that_cannot_be_read_are_refused_and_the_next_reload_works() {
    let stack = Stack::start().await;
    let path = stack.proxy.config_path();
    let remove = || match fs::metadata(&path) {
        Ok(found) if found.is_dir() => fs::remove_dir(&path).expect("removed"),
        _ => drop(fs::remove_file(&path)),
    };
    let breakages: [(&str, &dyn Fn()); 6] = [
        ("missing", &|| ()),
        ("directory", &|| fs::create_dir(&path).expect("created")),
        ("dangling link", &|| std::os::unix::fs::symlink("/nowhere", &path).expect("linked")),
        ("pipe", &|| {
            assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
        }),
        ("empty", &|| fs::write(&path, "").expect("written")),
        ("not UTF-8", &|| fs::write(&path, b"\xff\xfe").expect("written")),
    ];
    for (index, (what, broken)) in breakages.iter().enumerate() {
        remove();
        broken();
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        assert_eq!(status, 400, "{what}: {answer}");
        assert!(!answer["error"].as_str().expect("a text").is_empty(), "{what}");
        let metrics = stack.proxy.metrics().await;
        assert_eq!(metrics["config_reload_failure_total"], (index + 1) as f64, "{what}");
        assert_eq!(metrics["config_generation"], 1.0, "{what}");
    }
    remove();
    stack.proxy.write_config(&Stack::config(&stack.store, ""));
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
}

#[tokio::test]
async fn the_very_next_request_uses_what_changed() {
    let first = Store::start().await;
    let options =
        store::Options { credentials: vec![("AKOTHER".into(), "SKOTHER".into())], ..Default::default() };
    let second = Store::with(options).await;
    first.put("photos", "cat.jpg", "first");
    second.put("photos", "cat.jpg", "second");
    second.put("pictures", "cat.jpg", "pictures");
    let config = |photos: String| format!("{JWT}buckets:\n{photos}");
    let proxy = Proxy::start(&config(bucket("photos", "/photos", &first, PUBLIC))).await;
    let mut raw = Raw::connect(proxy.address).await;
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.body, b"first");

    let there = bucket("photos", "/photos", &second, PUBLIC);
    let credentials = there.replace(store::ACCESS_KEY, "AKOTHER").replace(store::SECRET_KEY, "SKOTHER");
    let region = credentials.replace("us-east-1", "eu-west-3");
    let target = region.replace("bucket: photos", "bucket: pictures");
    let prefix = target.replace("/photos", "/images");
    let private = prefix.replace(PUBLIC, PRIVATE);
    for (photos, path, status, body, access_key, changed) in [
        (&there, "/photos/cat.jpg", 200, "second", store::ACCESS_KEY, "buckets[photos].s3.endpoint"),
        (&credentials, "/photos/cat.jpg", 200, "second", "AKOTHER", "buckets[photos].s3.access_key"),
        (&region, "/photos/cat.jpg", 200, "second", "AKOTHER", "buckets[photos].s3.region"),
        (&target, "/photos/cat.jpg", 200, "pictures", "AKOTHER", "buckets[photos].s3.bucket"),
        (&prefix, "/images/cat.jpg", 200, "pictures", "AKOTHER", "buckets[photos].path_prefix"),
        (&private, "/images/cat.jpg", 401, "", "", "buckets[photos].auth.enabled"),
    ] {
        proxy.write_config(&config(photos.clone()));
        let (reloaded, answer) = proxy.reload(&admin_token()).await;
        assert_eq!(reloaded, 200, "{answer}");
        let paths: Vec<&str> = answer["changes"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|change| change["path"].as_str())
            .collect();
        assert!(paths.contains(&changed), "{answer}");
        second.received();
        let got = raw.ask("GET", path, &[]).await;
        assert_eq!(got.status, status, "{changed}");
        if status == 200 {
            assert_eq!(got.body, body.as_bytes(), "{changed}");
            let received = second.received();
            assert_eq!(received[0].access_key(), access_key, "{changed}");
            let scope = if changed.ends_with("access_key") || changed.ends_with("endpoint") {
                "us-east-1"
            } else {
                "eu-west-3"
            };
            assert!(received[0].header("authorization").expect("signed").contains(scope), "{changed}");
        }
    }
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 404);
}

#[tokio::test]
async fn keys_and_claims_change_with_the_next_request() {
    let stack = Stack::start().await;
    let old = token(json!({}));
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", &old).await.status(), 200);
    let next_secret = "the-next-secret-of-at-least-32-characters";
    stack.proxy.write_config(&Stack::config(&stack.store, &format!("jwt: {{ secret: {next_secret} }}")));
    // The token that asks for its own end still gets its answer.
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["changes"],
        json!([{
            "path": "jwt.secret", "kind": "changed", "old": "[redacted]", "new": "[redacted]",
        }])
    );
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", &old).await.status(), 401);
    let key = jsonwebtoken::EncodingKey::from_secret(next_secret.as_bytes());
    let new = token::signed(jsonwebtoken::Algorithm::HS256, &key, &json!({ "exp": now() + 60 }));
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", &new).await.status(), 200);
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 401);
}

#[tokio::test]
async fn a_referenced_file_is_read_anew() {
    let stack = Stack::start().await;
    let folder = stack.proxy.folder.path();
    proxy::write(&folder.join("secret"), &format!("{SECRET}\n"));
    let config = Stack::config(&stack.store, "jwt: { secret: \"${file:secret}\" }");
    stack.proxy.write_config(&config);
    let (_, before) = stack.proxy.reload(&admin_token()).await;
    let good = token(json!({}));
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", &good).await.status(), 200);
    proxy::write(&folder.join("secret"), "another-secret-of-at-least-32-characters\n");
    let (status, after) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200);
    assert_ne!(before["digest"], after["digest"], "the digest covers the files that the configuration names");
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", &good).await.status(), 401);
}

#[tokio::test]
async fn a_running_download_outlives_its_bucket() {
    let stack = Stack::start().await;
    let content: Vec<u8> = (0..40_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    stack.store.put("photos", "large", &content);
    let mut download = Raw::connect(stack.proxy.address).await;
    download
        .send("GET /photos/large HTTP/1.1\r\nHost: p\r\nX-Request-Id: the-id\r\nConnection: close\r\n\r\n")
        .await;
    let mut beginning = vec![0; 1000];
    download.0.read_exact(&mut beginning).await.expect("the beginning");

    let papers = bucket("papers", "/papers", &stack.store, PRIVATE);
    stack.proxy.write_config(&format!("{JWT}buckets:\n{papers}"));
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200);
    assert_eq!(answer["changes"], json!([{ "path": "buckets[photos]", "kind": "removed" }]));
    assert_s3_error(stack.proxy.get("/photos/large").await, 404, "NoSuchBucket").await;

    let rest = download.rest().await.expect("the rest");
    let answer = [beginning, rest].concat();
    let header = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a header") + 4;
    assert!(answer[header..] == content, "the download is not what the store has");
    let line = stack.proxy.access_line("the-id").await;
    assert_eq!((&line["generation"], &line["bytes"]), (&json!(1), &json!(content.len())));
}

#[tokio::test]
async fn pooled_connections_survive_reloads_of_other_things() {
    let stack = Stack::start().await;
    // One client connection: Pingora returns the store's to the pool before it reads the next request.
    let mut raw = Raw::connect(stack.proxy.address).await;
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    for round in 0..50 {
        let more = bucket(&format!("extra{round}"), "/extra", &stack.store, PUBLIC);
        stack.proxy.write_config(&format!("{}{more}", Stack::config(&stack.store, "")));
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
        assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.status, 200);
    }
    assert_eq!(stack.store.connections(), 1);
}

#[tokio::test]
async fn restart_only_keys_are_reported_until_they_are_put_back() {
    let stack = Stack::with("server: { address: 127.0.0.1, port: {port}, threads: 2 }").await;
    let old_port = stack.proxy.address.port();
    let changed =
        "server: { address: 0.0.0.0, port: 1, threads: 3, generation_header: true }\nadmin: { port: 2 }";
    stack.proxy.write_config(&Stack::config(&stack.store, changed));
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200, "{answer}");
    let pending = json!([
        { "key": "server.address", "running": "127.0.0.1", "file": "0.0.0.0" },
        { "key": "server.port", "running": old_port, "file": 1 },
        { "key": "server.threads", "running": 2, "file": 3 },
        { "key": "admin.port", "running": null, "file": 2 },
    ]);
    assert_eq!(answer["pending_restart"], pending);
    assert_eq!(stack.proxy.metric("config_pending_restart").await, 4.0);
    let status = proxy::json(stack.proxy.get_as("/admin/status", &admin_token()).await).await;
    assert_eq!(status["pending_restart"], pending);
    // What else the file says is in effect.
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.headers()["x-config-generation"], "2");
    // An invalid file in between does not make one forget.
    stack.proxy.write_config("buckets: 1");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 400);
    let status = proxy::json(stack.proxy.get_as("/admin/status", &admin_token()).await).await;
    assert_eq!(status["pending_restart"], pending);

    stack.proxy.write_config(&Stack::config(
        &stack.store,
        "server: { address: 127.0.0.1, port: {port}, threads: 2 }",
    ));
    let (_, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(answer["pending_restart"], json!([]));
    assert_eq!(stack.proxy.metric("config_pending_restart").await, 0.0);
}

#[tokio::test]
async fn only_an_operators_token_reloads() {
    let more = format!(
        "jwt: {{ secret: {SECRET}, token_sources: [{{ type: query, name: token }}, {{ type: cookie, name: token }}, {{ type: header, name: X-Auth }}] }}"
    );
    let stack = Stack::with(&more).await;
    let url = stack.proxy.url("/admin/reload");
    let (reader, admin) = (token(json!({ "role": "reader" })), admin_token());
    let (no_exp, expired) =
        (raw_token(&json!({ "role": "admin" })), raw_token(&json!({ "role": "admin", "exp": 1 })));
    for (request, status, message) in [
        (http().post(&url), 401, "Authentication required: Missing token"),
        (http().post(&url).bearer_auth("x"), 401, "Authentication required: Malformed token"),
        (http().post(&url).bearer_auth(&expired), 401, "Authentication required: Token expired"),
        (
            http().post(&url).bearer_auth(&no_exp),
            401,
            "Authentication required: Missing or malformed claim: exp",
        ),
        (http().post(&url).bearer_auth(&reader), 403, "Forbidden: A claim is not what the rule asks for"),
        (http().post(format!("{url}?token={admin}")), 401, "Authentication required: Missing token"),
        (
            http().post(&url).header("cookie", format!("token={admin}")),
            401,
            "Authentication required: Missing token",
        ),
        (http().get(&url).bearer_auth(&admin), 405, "Method not allowed"),
        (
            http().get(stack.proxy.url("/admin/other")).bearer_auth(&admin),
            404,
            "No such endpoint; there are /admin/reload and /admin/status",
        ),
        (http().get(stack.proxy.url("/admin/other")), 401, "Authentication required: Missing token"),
    ] {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), status, "{message}");
        assert_eq!(response.headers().get("www-authenticate").is_some(), status == 401 || status == 403);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let answer = proxy::json(response).await;
        assert_eq!(answer, json!({ "status": "error", "message": message }));
    }
    assert_eq!(stack.proxy.metric("config_generation").await, 1.0);
    let with_header = http().post(&url).header("x-auth", &admin).send().await.expect("an answer");
    assert_eq!(with_header.status(), 200);
    assert_eq!(stack.proxy.reload(&admin).await.0, 200);
}

#[tokio::test]
async fn many_callers_at_once_share_few_runs_and_none_is_lost() {
    let stack = Stack::start().await;
    let calls = (0..200).map(|_| async {
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        assert_eq!(status, 200, "{answer}");
        answer["config_generation"].as_u64().expect("a number")
    });
    let generations = futures::future::join_all(calls).await;
    let metrics = stack.proxy.metrics().await;
    let last = *generations.iter().max().expect("many");
    assert_eq!(metrics["config_generation"], last as f64);
    assert_eq!(metrics["config_reload_success_total"], (last - 1) as f64);
}

/// One of two configurations that share nothing but the prefix `/common`: other credentials, another
/// bucket, another name, another prefix.
fn coloured(colour: u64, store: &Store) -> String {
    let entry = |name: String, prefix: String| {
        bucket(&name, &prefix, store, PUBLIC)
            .replace(&format!("bucket: {name}"), &format!("bucket: target-{colour}"))
            .replace(store::ACCESS_KEY, &format!("AK{colour}"))
            .replace(store::SECRET_KEY, &format!("SECRET{colour}"))
    };
    let common = entry(format!("common-{colour}"), "/common".to_owned());
    let own = entry(format!("own-{colour}"), format!("/only-{colour}"));
    format!(
        "server: {{ address: 127.0.0.1, port: {{port}}, generation_header: true }}\n{JWT}buckets:\n{common}{own}"
    )
}

/// The colour of the generation: each valid file has the other colour than the one before.
fn colour_of(generation: u64) -> u64 {
    (generation - 1) % 2
}

const RELOADS: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_traffic_harm_no_request() {
    let credentials = (0..2).map(|colour| (format!("AK{colour}"), format!("SECRET{colour}"))).collect();
    let store = Arc::new(Store::with(store::Options { credentials, ..Default::default() }).await);
    for colour in 0..2 {
        store.put(&format!("target-{colour}"), "object", format!("{colour}"));
    }
    let proxy = Proxy::start(&coloured(0, &store)).await;
    let confirmed = Arc::new(AtomicU64::new(1));
    let done = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = (0..6)
        .map(|client| {
            let (confirmed, done, address) = (confirmed.clone(), done.clone(), proxy.address);
            tokio::spawn(async move {
                let mut raw = Raw::connect(address).await;
                let mut requests = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    let target =
                        ["/common/object", "/only-0/object", "/only-1/object"][requests as usize % 3];
                    let floor = confirmed.load(Ordering::SeqCst);
                    // A reset or an early end fails in here.
                    let answer = raw.ask("GET", target, &[]).await;
                    let generation: u64 =
                        answer.header("x-config-generation").expect("a number").parse().expect("a number");
                    assert!(
                        generation >= floor,
                        "client {client}: generation {generation} after {floor} was confirmed"
                    );
                    let colour = colour_of(generation);
                    let expected = if target == "/common/object" || target == format!("/only-{colour}/object")
                    {
                        200
                    } else {
                        404
                    };
                    assert_eq!(
                        answer.status, expected,
                        "client {client}: {target} in generation {generation}: {answer:?}"
                    );
                    if expected == 200 {
                        let body = String::from_utf8(answer.body).expect("a text");
                        assert_eq!(
                            body,
                            colour.to_string(),
                            "client {client}: mixed in generation {generation}"
                        );
                    }
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    let (mut valid, mut invalid) = (0, 0);
    for round in 0..RELOADS {
        let is_valid = round % 2 == 0;
        let next = coloured(colour_of(valid + 2), &store);
        // Invalid files: alternately broken YAML and a broken rule.
        let broken =
            if round % 4 == 1 { format!("{next}  - [") } else { next.replace("us-east-1", "us_east_1") };
        proxy.write_config(if is_valid { &next } else { &broken });
        if round / 2 % 2 == 0 {
            let (status, answer) = proxy.reload(&admin_token()).await;
            assert_eq!(status, if is_valid { 200 } else { 400 }, "{answer}");
            assert!(!is_valid || answer["config_generation"] == valid + 2, "{answer}");
        } else {
            proxy.hangup().await;
        }
        if is_valid {
            valid += 1;
        } else {
            invalid += 1;
        }
        confirmed.store(valid + 1, Ordering::SeqCst);
    }
    // A little traffic after the last one.
    tokio::time::sleep(Duration::from_millis(50)).await;
    done.store(true, Ordering::SeqCst);
    let mut requests = 0;
    for client in traffic {
        requests += client.await.expect("no client saw a failure");
    }
    let metrics = proxy.metrics().await;
    assert_eq!(metrics["config_reload_success_total"], valid as f64);
    assert_eq!(metrics["config_reload_failure_total"], invalid as f64);
    assert_eq!(metrics["config_generation"], (valid + 1) as f64);
    let received = store.received();
    for request in &received {
        let colour =
            request.target.strip_prefix("/target-").and_then(|rest| rest.get(..1)).expect("a target");
        assert_eq!(
            request.access_key(),
            format!("AK{colour}"),
            "credentials of one generation, target of another"
        );
    }
    assert!(requests > RELOADS * 5, "only {requests} requests");
    println!(
        "{RELOADS} reloads ({valid} valid, {invalid} invalid), {requests} requests on 6 kept-alive connections, \
         {} reached the store over {} connections: 0 failed, 0 mixed, 0 late",
        received.len(),
        store.connections()
    );
}
