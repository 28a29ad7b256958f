//! Honesty: G35 to G41 and G47 of the promises in `docs/CONFIG_RELOAD.md`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use kit::raw::Raw;
use kit::*;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::stack::{PROGRAM, Stack};

// Promise G35.
#[tokio::test]
async fn what_waits_for_a_restart_is_reported_until_it_is_put_back() {
    let stack = Stack::configured(|config| config.server("threads: 2")).await;
    let changed = stack.config().server("threads: 3, generation_header: true");
    stack.proxy.write_config(&changed);
    let (status, answer) = stack.proxy.post("/admin/reload?strict=true").await;
    assert_eq!((status, answer["error"].as_str()), (409, Some("restart required for server.threads")));
    assert_eq!(stack.proxy.generation().await, 1);
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200, "{answer}");
    let pending = json!([{ "key": "server.threads", "running": 2, "file": 3 }]);
    assert_eq!(answer["pending_restart"], pending);
    assert_eq!(stack.proxy.metric("config_pending_restart").await, 1.0);
    assert_eq!(stack.proxy.status().await["pending_restart"], pending);
    // What else the file says is in effect.
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.headers()["x-config-generation"], "2");
    // An invalid file in between does not make one forget.
    stack.proxy.write_config("buckets: 1");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 400);
    assert_eq!(stack.proxy.status().await["pending_restart"], pending);

    stack.proxy.write_config(&stack.config().server("threads: 2"));
    let (_, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(answer["pending_restart"], json!([]));
    assert_eq!(stack.proxy.metric("config_pending_restart").await, 0.0);
}

// Promise G36.
#[tokio::test]
async fn the_change_report_stands_in_the_answer_the_status_and_the_log() {
    let stack = Stack::start().await;
    let next = stack
        .photos_at("/next")
        .each(|bucket| bucket.keys(store::ACCESS_KEY, "another-secret-key"))
        .bucket(Bucket::named("extra").store(&stack.store));
    stack.proxy.write_config(&next);
    let (_, answer) = stack.proxy.reload(&admin_token()).await;
    let expected = json!([
        { "path": "buckets[extra]", "kind": "added" },
        { "path": "buckets[papers].s3.secret_key", "kind": "changed", "old": "[redacted]", "new": "[redacted]" },
        { "path": "buckets[photos].path_prefix", "kind": "changed", "old": "/photos", "new": "/next" },
        { "path": "buckets[photos].s3.secret_key", "kind": "changed", "old": "[redacted]", "new": "[redacted]" },
    ]);
    assert_eq!(answer["changes"], expected);
    let status = stack.proxy.status().await;
    assert_eq!((&status["last_reload"]["changes"], &status["history"][0]["changes"]), (&expected, &expected));
    let line = eventually("the reload is in the log", async || {
        stack.proxy.log().into_iter().find(|line| line["outcome"] == "published")
    })
    .await;
    let changes = line["changes"].as_str().expect("a text");
    assert!(changes.contains("buckets[photos].path_prefix: \"/photos\" → \"/next\""), "{changes}");
    assert!(
        line["trigger"] == "POST /admin/reload by \"ann\"" && line["attempt"] == answer["attempt"],
        "{line}"
    );
    // The time of every stage.
    for stage in ["read", "parse", "references", "validate", "warm", "bind", "publish"] {
        assert!(answer["stages_ms"][stage].is_number(), "{stage} in {answer}");
    }
}

// Promise G37.
#[tokio::test]
async fn an_earlier_generation_comes_back_as_a_new_one() {
    let stack = Stack::start().await;
    for prefix in ["/two", "/three"] {
        stack.proxy.write_config(&stack.photos_at(prefix));
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    }
    // The disk is not looked at.
    fs::remove_file(stack.proxy.config_path()).expect("removed");
    let started = Instant::now();
    let (status, answer) = stack.proxy.post("/admin/rollback").await;
    let took = started.elapsed();
    assert_eq!((status, &answer["config_generation"]), (200, &json!(4)), "{answer}");
    assert!(answer["duration_ms"].as_f64().expect("a number") < 10.0, "{took:?} {answer}");
    assert_eq!(stack.proxy.get("/two/cat.jpg").await.status(), 200);
    let status = stack.proxy.status().await;
    assert_eq!(status["drift"], true, "the file is not what is in service");
    let (status, answer) = stack.proxy.post("/admin/rollback?to=1").await;
    assert_eq!((status, &answer["config_generation"]), (200, &json!(5)));
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.status(), 200);
    assert_eq!(stack.proxy.post("/admin/rollback?to=99").await.0, 404);
    assert_eq!(stack.proxy.post("/admin/rollback?to=x").await.0, 400);

    stack.proxy.write_config(&stack.photos_at("/six"));
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    let status = stack.proxy.status().await;
    assert_eq!(status["drift"], false);
    let history = status["history"].as_array().expect("a list");
    let told: Vec<(&Value, &Value)> =
        history.iter().map(|attempt| (&attempt["outcome"], &attempt["config_generation"])).collect();
    assert_eq!(told[0], (&json!("published"), &json!(6)));
    assert_eq!(told.len(), 6);
    for attempt in history {
        for member in ["attempt", "trigger", "actor", "digest", "timestamp", "duration_ms", "changes"] {
            assert!(attempt.get(member).is_some(), "{member} in {attempt}");
        }
    }
}

// Promise G37.
#[tokio::test]
async fn the_history_holds_thirty_two() {
    let stack = Stack::start().await;
    for round in 0..40 {
        stack.proxy.write_config(&stack.photos_at(&format!("/r{round}")));
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    }
    assert_eq!(stack.proxy.status().await["history"].as_array().expect("a list").len(), 32);
    assert_eq!(stack.proxy.post("/admin/rollback?to=5").await.0, 404);
    assert_eq!(stack.proxy.post("/admin/rollback?to=20").await.0, 200);
    assert_eq!(stack.proxy.get("/r18/cat.jpg").await.status(), 200);
}

// Promise G38.
#[tokio::test]
async fn the_last_failure_stays_visible_until_the_next_success() {
    let stack = Stack::start().await;
    assert_eq!(stack.proxy.status().await["error_state"], Value::Null);
    stack.proxy.write_config("buckets: 1");
    stack.proxy.hangup().await;
    for _ in 0..2 {
        let status = stack.proxy.status().await;
        assert_eq!(status["error_state"]["error"], "expected a list, found `1`");
        assert_eq!(status["config_generation"], 1);
        // A dry run is no success.
        let _ = stack.proxy.post("/admin/reload?dry_run=true").await;
    }
    stack.proxy.write_config(&stack.config());
    stack.proxy.hangup().await;
    assert_eq!(stack.proxy.status().await["error_state"], Value::Null);
}

/// Whether exactly one of the two counters moves with every run.
pub async fn counters_add_up(stack: &Stack) -> Result<(), String> {
    let counters = async || {
        let metrics = stack.proxy.metrics().await;
        (metrics["config_reload_success_total"], metrics["config_reload_failure_total"])
    };
    for is_valid in [true, false, false, true] {
        if is_valid {
            stack.proxy.write_config(&stack.config());
        } else {
            stack.proxy.write_config("buckets: 1");
        }
        let before = counters().await;
        stack.proxy.reload(&admin_token()).await;
        let after = counters().await;
        let moved = (after.0 - before.0, after.1 - before.1);
        if moved != if is_valid { (1.0, 0.0) } else { (0.0, 1.0) } {
            return Err(format!("{moved:?} after a file that is valid: {is_valid}"));
        }
    }
    Ok(())
}

// Promise G39.
#[tokio::test]
async fn exactly_one_counter_moves_with_every_run() {
    let stack = Stack::start().await;
    counters_add_up(&stack).await.expect("one each");
    // Refusals of every kind are failures.
    let before = stack.proxy.metric("config_reload_failure_total").await;
    assert_eq!(stack.proxy.post("/admin/reload?expect_digest=x").await.0, 409);
    assert_eq!(
        stack.proxy.send(http().post(stack.proxy.url("/admin/reload")).header("if-match", "\"x\"")).await.0,
        412
    );
    assert_eq!(stack.proxy.metric("config_reload_failure_total").await, before + 2.0);
}

// Promise G40.
#[tokio::test]
async fn the_last_good_configuration_is_served_when_asked_for() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let history = folder.path().join("history.json");
    let secrets = tempfile::tempdir().expect("a temporary folder");
    let secret = secrets.path().join("secret");
    proxy::write(&secret, token::SECRET);
    let config = |prefix: &str| {
        let (history, secret) = (history.to_str().expect("plain"), secret.to_str().expect("plain"));
        Config::new()
            .with(&format!("reload: {{ history_file: \"{history}\" }}"))
            .with(&format!("jwt: {{ secret: \"${{file:{secret}}}\" }}"))
            .bucket(Bucket::named("photos").at(prefix).store(&store))
    };
    let surroundings = || Surroundings {
        arguments: vec!["--resume".to_owned(), history.to_str().expect("plain").to_owned()],
        ..Default::default()
    };
    let mut first = PROGRAM.start(&Config::new()).await;
    for prefix in ["/one", "/two"] {
        first.write_config(&config(prefix));
        assert_eq!(first.reload(&admin_token()).await.0, 200);
    }
    first.write_config("buckets: 1");
    assert_eq!(first.reload(&admin_token()).await.0, 400);
    // It is written when the answer is out.
    eventually("the refusal is in the history", async || {
        fs::read_to_string(&history).ok()?.contains("\"refused\"").then_some(())
    })
    .await;
    let mode = fs::metadata(&history).expect("written").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "a history holds secrets");
    first.signal("TERM");
    assert_eq!(first.exit().await.code(), Some(0));

    // The file is invalid, and its secret is gone.
    drop(secrets);
    let mut second = PROGRAM.spawn("buckets: [", &surroundings());
    // The port, too, is the last good one.
    second.address = first.address;
    let url = second.url("/readyz");
    eventually("the last good one is served", async || http().get(&url).send().await.ok()).await;
    assert_eq!(second.get("/two/cat.jpg").await.status(), 200);
    assert!(
        second
            .whole_log_text()
            .await
            .contains("serving the last configuration that took effect; the file is invalid")
    );
    assert_eq!(second.log()[0]["message"], "starting", "before the error about the file");
    let status = second.status().await;
    assert_eq!(status["drift"], true, "the file is not what is in service");
    let earlier = status["history"].as_array().expect("a list");
    assert_eq!(earlier.iter().filter(|attempt| attempt["outcome"] == "refused").count(), 1, "{earlier:?}");
    assert_eq!(earlier.len(), 3, "the history survives a restart");
    // Without being asked the program does not start, and with a history that was tampered with neither.
    let mut third = PROGRAM.spawn("buckets: [", &Surroundings::default());
    assert_eq!(third.exit().await.code(), Some(1));
    let text = fs::read_to_string(&history).expect("a text");
    let tampered = text.replacen("\"file\":\"", "\"file\":\"AAAA", 1);
    proxy::write(&history, &tampered);
    let mut fourth = PROGRAM.spawn("buckets: [", &surroundings());
    assert_eq!(fourth.exit().await.code(), Some(1));
}

// Promise G41.
#[tokio::test]
async fn the_endpoints_are_never_open() {
    let store = Store::start().await;
    let photos = Bucket::named("photos").store(&store);
    let paths = [
        ("POST", "/admin/reload"),
        ("POST", "/admin/rollback"),
        ("POST", "/admin/validate"),
        ("GET", "/admin/status"),
        ("GET", "/admin/config"),
        ("GET", "/admin/x"),
    ];
    for (config, without, reader) in [
        (Config::without_jwt(), 403, 403),
        (Config::new().jwt("enabled: false"), 403, 403),
        (Config::new(), 401, 403),
    ] {
        let proxy = PROGRAM.start(&config.bucket(photos.clone())).await;
        for (method, path) in paths {
            let bearer = format!("Bearer {}", token(json!({ "role": "reader" })));
            let length = ("Content-Length", "0");
            assert_eq!(
                Raw::connect(proxy.address).await.ask(method, path, &[length]).await.status,
                without,
                "{path}"
            );
            let answer = Raw::connect(proxy.address)
                .await
                .ask(method, path, &[length, ("Authorization", &bearer)])
                .await;
            assert_eq!(answer.status, reader, "{path}");
        }
        assert_eq!(proxy.generation().await, 1);
    }
}

// Promise G47.
#[tokio::test]
async fn a_content_can_be_waited_for() {
    let stack = Stack::start().await;
    stack.proxy.write_config(&stack.photos_at("/next"));
    let (_, answer) = stack.proxy.post("/admin/reload?dry_run=true").await;
    let digest = answer["digest"].as_str().expect("a text").to_owned();
    let wait = |digest: &str, timeout: &str| {
        let url = stack.proxy.url(&format!("/admin/status?wait_digest={digest}&timeout={timeout}"));
        stack.proxy.send(http().get(url))
    };
    assert_eq!(wait(&digest, "50ms").await.0, 504);
    let waiting = wait(&digest, "20s");
    let reloading = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stack.proxy.signal("HUP");
    };
    let ((status, answer), ()) = tokio::join!(waiting, reloading);
    assert_eq!((status, &answer["config_generation"], &answer["digest"]), (200, &json!(2), &json!(digest)));
    assert_eq!(wait(&digest, "20s").await.0, 200);
    stack.proxy.write_config("buckets: 1");
    let (_, refused) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(wait(refused["digest"].as_str().expect("a text"), "20s").await.0, 409);
    assert_eq!(wait("x", "soon").await.0, 400);
}

#[tokio::test]
async fn the_effective_configuration_can_be_looked_at() {
    let stack = Stack::start().await;
    stack.proxy.write_config(&stack.photos_at("/next"));
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    let response = stack.proxy.get_as("/admin/config", &admin_token()).await;
    let digest = stack.proxy.status().await["digest"].as_str().expect("a text").to_owned();
    assert_eq!(response.headers()["etag"].to_str().expect("plain"), format!("\"{digest}\""));
    assert_eq!(response.headers()["content-type"], "application/yaml");
    let text = response.text().await.expect("a text");
    assert!(text.contains("path_prefix: /next") && text.contains("'[redacted]'"), "{text}");
    assert!(
        !text.contains(token::SECRET)
            && !text.contains(store::SECRET_KEY)
            && !text.contains(store::ACCESS_KEY)
    );
    let printed =
        PROGRAM.run(&["config", "show", "--config", stack.proxy.config_path().to_str().expect("plain")]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout), text, "the same as the command prints");
    let earlier = stack.proxy.get_as("/admin/config?generation=1", &admin_token()).await;
    assert!(earlier.text().await.expect("a text").contains("path_prefix: /photos"));
    assert_eq!(stack.proxy.get_as("/admin/config?generation=9", &admin_token()).await.status(), 404);
}

/// Answers every request with the next of these statuses and headers, the last one for ever, and passes
/// on what it got.
async fn receiver(answers: &'static [&'static str]) -> (faulty::Faulty, UnboundedReceiver<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (sender, heard) = tokio::sync::mpsc::unbounded_channel();
    let server = faulty::Faulty::start(move |mut stream, number| {
        let sender = sender.clone();
        async move {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&request).trim_end().ends_with('}') {
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                if read == 0 {
                    break;
                }
                request.extend_from_slice(&buffer[..read]);
            }
            let answer = answers.get(number).or(answers.last()).expect("an answer");
            let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = sender.send(String::from_utf8_lossy(&request).into_owned());
        }
    })
    .await;
    (server, heard)
}

#[tokio::test]
async fn a_webhook_hears_of_failures_and_delays_nothing() {
    // The first one fails and is sent again.
    let (receiver, mut heard) = receiver(&["500 X", "204 X"]).await;
    let url = format!("{}/hook/planted-hook-secret", receiver.url());
    let stack = Stack::with(&format!("reload: {{ notify: {{ url: \"{url}\", on: [failure] }} }}")).await;
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    stack.proxy.write_config("buckets: 1");
    let started = Instant::now();
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 400);
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    let first = heard.recv().await.expect("a message");
    let second = tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time").expect("a message");
    assert_eq!(first.split("\r\n\r\n").nth(1), second.split("\r\n\r\n").nth(1), "the same message again");
    let body: Value = serde_json::from_str(second.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    assert_eq!((&body["status"], &body["error"]), (&json!("error"), &json!("expected a list, found `1`")));
    assert!(!stack.proxy.whole_log_text().await.contains("planted-hook-secret"));
    assert!(heard.try_recv().is_err(), "only failures");
}

#[tokio::test]
async fn a_webhook_gets_a_sentence_that_chats_show() {
    let (receiver, mut heard) = receiver(&["204 X"]).await;
    let notify = format!("reload: {{ notify: {{ url: \"{}\", on: [failure, success] }} }}", receiver.url());
    let stack = Stack::with(&notify).await;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let begins = format!("yatagarasu on {}: configuration reload", host.trim());
    let long =
        format!("buckets: 1\n{}", (0..200).map(|n| format!("unknown-key-{n}: 1\n")).collect::<String>());
    for (config, ends) in [
        (stack.config().with(&notify).yaml(), "ed; generation 2 is in service"),
        ("buckets: 1".to_owned(), "expected a list, found `1`; generation 2 stays in service"),
        (long, ""),
    ] {
        stack.proxy.write_config(&config);
        stack.proxy.reload(&admin_token()).await;
        let request =
            tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time").expect("a message");
        let body: Value =
            serde_json::from_str(request.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
        let text = body["text"].as_str().expect("a text");
        assert_eq!(body["content"], text);
        assert!(text.starts_with(&begins) && text.ends_with(ends), "{text}");
        assert!(text.chars().count() <= 2000 && !text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn a_webhook_goes_to_its_address_and_nowhere_else() {
    let (elsewhere, mut strayed) = receiver(&["204 X"]).await;
    let location = format!("307 X\r\nLocation: {}/hook", elsewhere.url());
    let (receiver, mut heard) = receiver(Box::leak(Box::new([&*location.leak()]))).await;
    let environment = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .map(|name| (name.to_owned(), elsewhere.url()))
        .to_vec();
    let config = Config::new().with(&format!("reload: {{ notify: {{ url: \"{}\" }} }}", receiver.url()));
    let proxy = PROGRAM.start_in(&config, Surroundings { environment, ..Default::default() }).await;
    proxy.write_config("buckets: 1");
    assert_eq!(proxy.reload(&admin_token()).await.0, 400);
    eventually("the redirect is told", async || {
        proxy.log_text().contains("the webhook redirects, which is not followed").then_some(())
    })
    .await;
    assert!(heard.recv().await.is_some());
    assert!(strayed.try_recv().is_err() && elsewhere.connections() == 0, "somebody else got the report");
}

#[tokio::test]
async fn who_may_try_a_text_reads_neither_files_nor_the_environment() {
    let store = Store::start().await;
    let environment = vec![
        ("PLANTED".to_owned(), "planted-in-the-environment".to_owned()),
        ("PIN".to_owned(), "47114".to_owned()),
    ];
    let config = Config::new().bucket(Bucket::named("photos").store(&store));
    let surroundings = Surroundings { environment, ..Default::default() };
    let proxy = PROGRAM.start_in(&config, surroundings).await;
    let file = proxy.folder.path().join("planted");
    proxy::write(&file, "planted-in-a-file");
    let references = format!("[\"${{PLANTED}}\", \"x${{file:{}}}\"]", file.display());
    let trial = config
        .jwt(&format!("audience: {references}, issuer: \"${{PLANTED}}\""))
        .with("reload: { poll_seconds: \"${PIN}\" }")
        .each(|bucket| bucket.region("\"${PLANTED}\""));
    let mut outputs = String::new();
    for path in ["/admin/validate", "/admin/reload", "/admin/config", "/admin/status"] {
        let text = if path.contains("validate") || path.contains("reload") {
            proxy.write_config(&trial);
            let (status, answer) = proxy.send(http().post(proxy.url(path)).body(trial.yaml())).await;
            assert_eq!(status, 200, "{answer}");
            answer.to_string()
        } else {
            proxy.get_as(path, &admin_token()).await.text().await.unwrap_or_default()
        };
        outputs.push_str(&text);
    }
    outputs.push_str(&proxy.whole_log_text().await);
    assert!(outputs.contains("${PLANTED}"), "what is written is shown");
    assert!(!outputs.contains("47114"), "{outputs}");
    assert!(
        !outputs.contains("planted-in-the-environment") && !outputs.contains("planted-in-a-file"),
        "{outputs}"
    );
}

#[tokio::test]
async fn a_strangers_body_is_not_read() {
    use tokio::io::AsyncWriteExt;
    let stack = Stack::start().await;
    let before = stack.proxy.memory_kib("VmRSS");
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(stack.proxy.address).await;
        raw.send("POST /admin/validate HTTP/1.1\r\nHost: p\r\nContent-Length: 16000000\r\n\r\n").await;
        let _ = raw.0.write_all(&vec![b'#'; 1_000_000]).await;
        strangers.push(raw);
    }
    for stranger in &mut strangers {
        assert_eq!(stranger.answer(false).await.status, 401);
    }
    let growth = stack.proxy.memory_kib("VmRSS").saturating_sub(before);
    assert!(growth < 16 * 1024, "{growth} KiB");
}

#[tokio::test]
async fn a_refused_trial_leaves_no_trace() {
    let stack = Stack::start().await;
    let before = stack.proxy.status().await;
    let (status, _) =
        stack.proxy.send(http().post(stack.proxy.url("/admin/validate")).body("buckets: 1")).await;
    assert_eq!(status, 400);
    stack.proxy.write_config("buckets: 1");
    assert_eq!(stack.proxy.post("/admin/reload?dry_run=true").await.0, 400);
    assert_eq!(stack.proxy.post("/admin/reload?expect_digest=x").await.0, 409);
    let after = stack.proxy.status().await;
    assert_eq!(after["error_state"], before["error_state"]);
    assert_eq!(stack.proxy.metric("config_last_reload_successful").await, 1.0);
    assert_eq!(stack.proxy.post("/admin/reload?dry_run=false&dry_run=true").await.0, 400);
    assert!(
        stack.proxy.whole_log().await.iter().filter(|line| line["level"] == "ERROR").count() == 1,
        "the 409 alone"
    );
}

#[tokio::test]
async fn two_rollbacks_in_a_row_go_back_twice() {
    let stack = Stack::start().await;
    for prefix in ["/two", "/three"] {
        stack.proxy.write_config(&stack.photos_at(prefix));
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    }
    for prefix in ["/two", "/photos"] {
        assert_eq!(stack.proxy.post("/admin/rollback").await.0, 200);
        assert_eq!(stack.proxy.get(&format!("{prefix}/cat.jpg")).await.status(), 200);
    }
    assert_eq!(stack.proxy.post("/admin/rollback").await.0, 404);
}

#[tokio::test]
async fn a_failed_login_leaves_a_trace() {
    let stack = Stack::start().await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    let headers = [("X-Request-Id", "the-id"), ("Content-Length", "0")];
    assert_eq!(raw.ask("POST", "/admin/reload", &headers).await.status, 401);
    assert_eq!(stack.proxy.access_line("the-id").await["reason"], "no_token: Missing token");
    assert_eq!(stack.proxy.metric("yatagarasu_rejections_total{reason=\"no_token\"}").await, 1.0);
}
