//! Safety: G8 to G14 of the promises in `docs/CONFIG_RELOAD.md`.

use std::fs;
use std::time::{Duration, Instant};

use kit::raw::Raw;
use kit::*;
use serde_json::json;

use crate::stack::{PROGRAM, Stack};

// Promise G8.
#[tokio::test]
async fn no_invalid_file_disturbs_the_running_configuration() {
    let stack = Stack::with("reload: { deadline_seconds: 5 }").await;
    let path = stack.proxy.config_path();
    let good = fs::read(&path).expect("the file");
    let remove = || match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => fs::remove_dir(&path).expect("removed"),
        _ => drop(fs::remove_file(&path)),
    };
    let write = |content: &[u8]| fs::write(&path, content).expect("written");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let text = String::from_utf8(good.clone()).expect("a text");
    let with = |more: &str| write(format!("{text}{more}").as_bytes());
    type Break<'a> = Box<dyn Fn() + 'a>;
    let breakages: Vec<(&str, Break<'_>)> = vec![
        ("missing", Box::new(|| ())),
        ("directory", Box::new(|| fs::create_dir(&path).expect("created"))),
        ("dangling link", Box::new(|| std::os::unix::fs::symlink("/nowhere", &path).expect("linked"))),
        (
            "pipe",
            Box::new(|| {
                assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
            }),
        ),
        ("empty", Box::new(|| write(b""))),
        ("not UTF-8", Box::new(|| write(b"\xff\xfe"))),
        ("NUL", Box::new(|| with("\0"))),
        ("alias bomb", Box::new(|| write(bomb.as_bytes()))),
        ("nesting", Box::new(|| write("[".repeat(100_000).as_bytes()))),
        (
            "huge",
            Box::new(|| fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("sparse")),
        ),
        ("wrong type", Box::new(|| with("admin: 5\n"))),
        ("unknown key", Box::new(|| with("servers: {}\n"))),
        ("duplicate key", Box::new(|| with("buckets: []\n"))),
        ("bad PEM", Box::new(|| write(b"jwt: { algorithm: RS256, public_key: nonsense }\nbuckets: []\n"))),
        ("unreadable secret", Box::new(|| write(b"jwt: { secret: \"${file:missing}\" }\nbuckets: []\n"))),
    ];
    let mut failures = 0.0;
    let mut raw = Raw::connect(stack.proxy.address).await;
    let mut check = async |what: &str| {
        failures += 1.0;
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        assert_eq!(status, 400, "{what}: {answer}");
        assert!(!answer["error"].as_str().expect("a text").is_empty(), "{what}");
        assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.body, b"a cat", "{what}");
        let metrics = stack.proxy.metrics().await;
        assert_eq!(
            (metrics["config_reload_failure_total"], metrics["config_generation"]),
            (failures, 1.0),
            "{what}"
        );
    };
    for (what, broken) in &breakages {
        remove();
        broken();
        check(what).await;
    }
    remove();
    // Truncated anywhere before the first bucket is complete, the file cannot be valid.
    let first_bucket = text.find("- name").expect("a bucket");
    for length in (1..first_bucket).step_by(5) {
        write(&good[..length]);
        check(&format!("{length} bytes")).await;
    }
    write(&good);
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
}

/// Everything about a proxy that a refused reload must leave alone.
#[cfg(feature = "faults")]
async fn state(stack: &Stack) -> (serde_json::Value, u16, u16, Vec<u8>) {
    let status = stack.proxy.status().await;
    let answers = [
        stack.proxy.get("/photos/cat.jpg").await.status(),
        stack.proxy.get("/papers/plan.txt").await.status(),
    ];
    let config = stack.proxy.get_as("/admin/config", &admin_token()).await.bytes().await.expect("a text");
    (status["digest"].clone(), answers[0].as_u16(), answers[1].as_u16(), config.to_vec())
}

// Promises G9, G10.
#[cfg(feature = "faults")]
#[tokio::test]
async fn a_failure_at_any_stage_changes_nothing_and_the_next_reload_works() {
    let stack = Stack::with("reload: { deadline_seconds: 1 }").await;
    let before = state(&stack).await;
    let next = stack.photos_at("/pictures").with("reload: { deadline_seconds: 1 }");
    stack.proxy.write_config(&next);
    let mut failures = 0.0;
    for stage in ["read", "parse", "references", "validate", "compare", "warm", "bind"] {
        // A run that hangs is given up, and a second one does not pile up on it.
        for (how, statuses) in [("panic", &[500][..]), ("hang", &[504, 503])] {
            stack.proxy.fault(&format!("{how} {stage}"));
            for expected in statuses {
                let (status, answer) = stack.proxy.reload(&admin_token()).await;
                failures += 1.0;
                assert_eq!(status, *expected, "{how} {stage}: {answer}");
                let error = answer["error"].as_str().expect("a text");
                assert!(error.contains(&format!("stage `{stage}`")), "{answer}");
                assert_eq!(state(&stack).await, before, "{how} {stage}");
            }
        }
        // The run that hung ends, and the next one may begin.
        stack.proxy.fault("");
        eventually("the run that was given up has ended", async || {
            (stack.proxy.threads("reload-prepare") == 0).then_some(())
        })
        .await;
    }
    for point in ["attempt", "tell"] {
        stack.proxy.fault(&format!("panic {point}"));
        stack.proxy.write_config("buckets: 1");
        let (status, answer) = stack.proxy.reload(&admin_token()).await;
        assert!(status == 500 || point == "tell", "{answer}");
        assert_eq!(state(&stack).await, before, "a panic at {point}");
        failures += 1.0;
    }
    stack.proxy.write_config(&next);
    stack.proxy.fault("");
    let metrics = stack.proxy.metrics().await;
    assert_eq!((metrics["config_reload_failure_total"], metrics["config_generation"]), (failures, 1.0));
    // After the swap of the pointer a panic cannot refuse any more: the generation is in service.
    stack.proxy.fault("panic publish");
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!((status, &answer["config_generation"]), (200, &json!(2)), "{answer}");
    assert!(answer["warnings"].to_string().contains("a panic followed"), "{answer}");
    stack.proxy.fault("");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    assert_eq!(stack.proxy.get("/pictures/cat.jpg").await.status(), 200);
}

// Promise G11.
#[tokio::test]
async fn what_was_validated_is_what_runs() {
    let stack = Stack::start().await;
    let (_, answer) = stack.proxy.post("/admin/reload?dry_run=true").await;
    let digest = answer["digest"].as_str().expect("a text").to_owned();
    let printed =
        PROGRAM.run(&["config", "validate", stack.proxy.config_path().to_str().expect("plain")]).stdout;
    assert!(
        String::from_utf8_lossy(&printed).contains(&digest),
        "the same bytes have the same digest everywhere"
    );
    let (status, answer) = stack.proxy.post(&format!("/admin/reload?expect_digest={digest}")).await;
    assert_eq!((status, answer["digest"].as_str()), (200, Some(digest.as_str())));
    stack.proxy.write_config(&stack.config().with("# another content"));
    let (status, answer) = stack.proxy.post(&format!("/admin/reload?expect_digest={digest}")).await;
    assert_eq!((status, answer["outcome"].as_str()), (409, Some("refused")), "{answer}");
    assert_eq!(stack.proxy.generation().await, 2);
}

// Promise G12.
#[tokio::test]
async fn an_empty_list_is_meant_and_an_empty_file_is_not() {
    let stack = Stack::start().await;
    stack.proxy.write_config(&Config::new());
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.status(), 404);
    for nothing in ["jwt: {}\n", "server: {}\nbuckets:\n"] {
        stack.proxy.write_config(nothing);
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 400, "{nothing}");
    }
    fs::write(stack.proxy.config_path(), "").expect("written");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 400);
}

// Promise G13.
#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let stack = Stack::start().await;
    let next = stack.photos_at("/pictures");
    stack.proxy.write_config(&next);
    let (status, answer) = stack.proxy.post("/admin/reload?dry_run=true").await;
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("dry_run_ok")));
    assert_eq!(answer["changes"][0]["path"], "buckets[photos].path_prefix");
    let text = next.text(stack.proxy.address.port());
    let validate =
        |body: String| stack.proxy.send(http().post(stack.proxy.url("/admin/validate")).body(body));
    let (status, by_body) = validate(text).await;
    assert_eq!(
        (status, &by_body["changes"], &by_body["digest"]),
        (200, &answer["changes"], &answer["digest"])
    );
    let (status, answer) = validate("buckets: 1".to_owned()).await;
    assert_eq!((status, answer["error"].as_str()), (400, Some("expected a list, found `1`")));
    assert_eq!(validate("#".repeat(17 << 20)).await.0, 413);
    let metrics = stack.proxy.metrics().await;
    assert_eq!((metrics["config_generation"], metrics["config_reload_success_total"]), (1.0, 0.0));
    assert_eq!(
        (metrics["config_reload_failure_total"], metrics["config_last_reload_successful"]),
        (0.0, 1.0)
    );
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.status(), 200);
    // A word that is not understood must not reload for real.
    assert_eq!(stack.proxy.post("/admin/reload?dryrun=true").await.0, 400);
    assert_eq!(stack.proxy.post("/admin/reload?dry_run=yes").await.0, 400);
    assert_eq!(stack.proxy.generation().await, 1);
}

// Promise G14.
#[tokio::test]
async fn a_deletion_is_a_deletion() {
    let stack = Stack::start().await;
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.status(), 200);
    stack.proxy.write_config(&Config::new());
    let (_, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(
        answer["changes"],
        json!([{ "path": "buckets[papers]", "kind": "removed" }, { "path": "buckets[photos]", "kind": "removed" }])
    );
    assert_s3_error(stack.proxy.get("/photos/cat.jpg").await, 404, "NoSuchBucket").await;
    // No request holds it any more.
    eventually("the generation is gone", async || {
        let alive = stack.proxy.metric("config_generations_alive").await;
        // The request that asks holds the current one.
        (alive == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_parameter_that_is_repeated_very_often_costs_little() {
    let stack = Stack::start().await;
    let query = "strict=true&".repeat(5_000);
    let started = Instant::now();

    let (status, _) = stack.proxy.post(&format!("/admin/reload?{query}")).await;

    assert_eq!(status, 200);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
