//! Reloading: what takes effect, what does not, what is said, and that no request notices.

use kit::raw::Raw;
use kit::token::{SECRET, now, raw_token};
use kit::*;
use serde_json::{Value, json};

use crate::stack::{PROGRAM, Stack};

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
    let photos = Bucket::named("bucket1").at("/api").store(&stack.store);
    let papers = Bucket::named("bucket2").at("/api/").store(&stack.store);
    stack.proxy.write_config(&Config::new().bucket(photos).bucket(papers));

    let (status, answer) = stack.proxy.reload(&admin_token()).await;

    assert_eq!(status, 400);
    assert_eq!(answer["status"], "error");
    assert_eq!(answer["message"], "Configuration reload failed");
    assert_eq!(answer["error"], "Duplicate path_prefix '/api' found in buckets: bucket1, bucket2");
    let output = PROGRAM.run(&["--validate", "--config", stack.proxy.config_path().to_str().expect("plain")]);
    let printed = String::from_utf8(output.stderr).expect("a text");
    let lines: Vec<&str> =
        answer["errors"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(printed, format!("{}\n1 problem\n", lines.join("\n")));

    stack.proxy.hangup().await;
    let failures = eventually("both failures are in the log", async || {
        let failures = stack.proxy.log().into_iter().filter(|line| line["level"] == "ERROR");
        Some(failures.collect::<Vec<_>>()).filter(|failures| failures.len() == 2)
    })
    .await;
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

    stack.proxy.write_config(&stack.config());
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    assert_eq!(stack.proxy.metric("config_last_reload_successful").await, 1.0);
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
    let config = |photos: &Bucket| Config::new().bucket(photos.clone());
    let proxy = PROGRAM.start(&config(&Bucket::named("photos").store(&first))).await;
    let mut raw = Raw::connect(proxy.address).await;
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.body, b"first");

    let there = Bucket::named("photos").store(&second);
    let credentials = there.clone().keys("AKOTHER", "SKOTHER");
    let region = credentials.clone().region("eu-west-3");
    let target = region.clone().target("pictures");
    let prefix = target.clone().at("/images");
    let private = prefix.clone().private();
    for (photos, path, status, body, access_key, changed) in [
        (&there, "/photos/cat.jpg", 200, "second", store::ACCESS_KEY, "buckets[photos].s3.endpoint"),
        (&credentials, "/photos/cat.jpg", 200, "second", "AKOTHER", "buckets[photos].s3.access_key"),
        (&region, "/photos/cat.jpg", 200, "second", "AKOTHER", "buckets[photos].s3.region"),
        (&target, "/photos/cat.jpg", 200, "pictures", "AKOTHER", "buckets[photos].s3.bucket"),
        (&prefix, "/images/cat.jpg", 200, "pictures", "AKOTHER", "buckets[photos].path_prefix"),
        (&private, "/images/cat.jpg", 401, "", "", "buckets[photos].auth.enabled"),
    ] {
        proxy.write_config(&config(photos));
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
    stack.proxy.write_config(&stack.config().with(&format!("jwt: {{ secret: {next_secret} }}")));
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
    let config = stack.config().with("jwt: { secret: \"${file:secret}\" }");
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
            "No such endpoint; there are reload, rollback, validate, status and config below /admin",
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
async fn files_that_others_may_read_are_told_at_every_reload_or_refused() {
    let stack = Stack::start().await;
    assert_eq!(stack.proxy.status().await["warnings"], json!([]));
    let path = stack.proxy.config_path();
    proxy::allow(&path, 0o644);
    for _ in 0..2 {
        // The buckets are taken over, and yet their secrets stand in the file.
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        let warnings = answer["warnings"].as_array().expect("a list");
        assert!(status == 200 && warnings.len() == 1, "{answer}");
        assert!(
            warnings[0].as_str().expect("a text").contains("every user may read it (mode 0644)"),
            "{answer}"
        );
    }
    stack.proxy.write_config(&stack.config().server("strict_permissions: true"));
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    proxy::allow(&path, 0o622);
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    let error = answer["error"].as_str().expect("a text");
    assert!(status == 400 && error.contains("may be changed by others than its owner"), "{error}");
    // A text that is only tried lies in no file.
    let text = std::fs::read(&path).expect("the file");
    let (status, answer) = stack.proxy.send(http().post(stack.proxy.url("/admin/validate")).body(text)).await;
    assert_eq!((status, &answer["warnings"]), (200, &json!([])), "{answer}");
}
