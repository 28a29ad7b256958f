//! A run is bounded: trials that take long, files that do not answer, a watcher that could try for ever.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use kit::*;

use crate::stack::{PROGRAM, Stack};

/// A valid text that takes seconds to read: a list of many short entries.
fn long_text() -> String {
    let mut text = "server: { trusted_proxies: [".to_owned();
    text.push_str(&"10.0.0.0/8,".repeat(1_400_000));
    text.push_str("] }\nbuckets: []\n");
    text
}

#[tokio::test]
async fn trials_wait_for_each_other_and_delay_no_reload() {
    let stack = Stack::with("reload: { deadline_seconds: 2 }").await;
    let text = long_text();
    let trial = || stack.proxy.send(http().post(stack.proxy.url("/admin/validate")).body(text.clone()));
    let started = Instant::now();
    let trials = async {
        let answers = tokio::join!(trial(), trial(), trial(), trial(), trial(), trial(), trial());
        [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5, answers.6]
    };
    let reloads = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut longest = Duration::ZERO;
        for _ in 0..5 {
            let asked = Instant::now();
            assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
            longest = longest.max(asked.elapsed());
            assert_eq!(stack.proxy.post("/admin/rollback").await.0, 200);
        }
        longest
    };
    let (trials, longest) = tokio::join!(trials, reloads);
    assert!(longest < Duration::from_secs(2), "a reload waited for {longest:?}");
    let refused = trials.iter().filter(|(status, _)| *status == 503).count();
    assert!(refused >= 1, "seven trials at once are more than may wait: {trials:?}");
    for (status, answer) in &trials {
        assert!([200, 400, 503, 504].contains(status), "{answer}");
    }
    // Each was answered or given up in its turn.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(stack.proxy.threads("reload-prepare") <= 1);
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_content_without_a_verdict_is_not_tried_again_and_again_by_the_watcher() {
    let settings = "reload: { watch: true, debounce_ms: 50, poll_seconds: 1, deadline_seconds: 1 }";
    let stack = Stack::with(settings).await;
    stack.proxy.fault("hang validate");
    stack.proxy.write_config(&stack.photos_at("/pictures").with(settings));
    let failures = async || stack.proxy.metric("config_reload_failure_total").await;
    eventually("the watcher has tried", async || (failures().await >= 1.0).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(failures().await, 1.0, "the same bytes are not tried without a pause");
    assert!(stack.proxy.threads("reload-prepare") <= 1);
    stack.proxy.fault("");
    // Other bytes are tried at once.
    stack.proxy.write_config(&stack.photos_at("/images").with(settings));
    eventually("the new content is in service", async || {
        (stack.proxy.get("/images/cat.jpg").await.status() == 200).then_some(())
    })
    .await;
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_wait_for_a_content_ends_when_its_run_never_knew_what_it_had_read() {
    let stack = Stack::with("reload: { deadline_seconds: 1 }").await;
    stack.proxy.fault("hang read");
    let started = Instant::now();
    let url = stack.proxy.url("/admin/status?wait_digest=sha256:x&timeout=20s");
    let waiting = stack.proxy.send(http().get(url));
    let reloading = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stack.proxy.signal("HUP");
    };
    let ((status, answer), ()) = tokio::join!(waiting, reloading);
    assert_eq!(status, 409, "{answer}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(answer["last_reload"]["error"].as_str().expect("a text").contains("stage `read`"), "{answer}");
    stack.proxy.fault("");
}

/// Puts a pipe that nobody writes to in the place of a file.
fn pipe(path: &std::path::Path) {
    let beside = path.with_extension("pipe");
    assert!(Command::new("mkfifo").arg(&beside).status().expect("mkfifo").success());
    fs::rename(beside, path).expect("renamed");
}

#[tokio::test]
async fn a_history_file_that_does_not_answer_delays_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let history = folder.path().join("history.json");
    let more = format!("reload: {{ history_file: \"{}\" }}", history.display());
    let stack = Stack::with(&more).await;
    eventually("the history is written", async || history.exists().then_some(())).await;
    pipe(&history);
    stack.proxy.write_config("buckets: 1");
    let started = Instant::now();
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 400);
    stack.proxy.write_config(&stack.photos_at("/pictures").with(&more));
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    assert_eq!(stack.proxy.post("/admin/rollback").await.0, 200);
    stack.proxy.hangup().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());

    // Neither does it hold up a start, be it a pipe or a file without an end.
    for what in ["pipe", "endless"] {
        if what == "pipe" {
            pipe(&history);
        } else {
            let _ = fs::remove_file(&history);
            std::os::unix::fs::symlink("/dev/zero", &history).expect("linked");
        }
        let started = Instant::now();
        let proxy = PROGRAM.start(&stack.config().with(&more)).await;
        assert!(started.elapsed() < Duration::from_secs(10), "{what}: {:?}", started.elapsed());
        assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200, "{what}");
        let log = proxy.whole_log_text().await;
        assert!(log.contains("the earlier history is not used"), "{what}: {log}");
    }

    // A start that needs it ends at once and says why.
    drop(stack);
    pipe(&history);
    let arguments = vec!["--resume".to_owned(), history.to_str().expect("plain").to_owned()];
    let mut resumed = PROGRAM.spawn("buckets: [", &Surroundings { arguments, ..Default::default() });
    assert_eq!(resumed.exit().await.code(), Some(1));
    assert!(resumed.log_text().contains("is not a regular file"), "{}", resumed.log_text());
}

#[tokio::test]
async fn a_history_that_others_may_write_is_not_resumed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let history = folder.path().join("history.json");
    let mut first = PROGRAM
        .start(&Config::without_jwt().with(&format!("reload: {{ history_file: \"{}\" }}", history.display())))
        .await;
    eventually("the history is written", async || history.exists().then_some(())).await;
    first.signal("TERM");
    assert_eq!(first.exit().await.code(), Some(0));
    let arguments = || vec!["--resume".to_owned(), history.to_str().expect("plain").to_owned()];
    fs::set_permissions(&history, fs::Permissions::from_mode(0o666)).expect("set");
    let mut refused =
        PROGRAM.spawn("buckets: [", &Surroundings { arguments: arguments(), ..Default::default() });
    assert_eq!(refused.exit().await.code(), Some(1));
    assert!(refused.log_text().contains("may be written by others"), "{}", refused.log_text());

    // As its owner's own file it is served, and the status says that the file is another one.
    fs::set_permissions(&history, fs::Permissions::from_mode(0o600)).expect("set");
    let mut second =
        PROGRAM.spawn("buckets: [", &Surroundings { arguments: arguments(), ..Default::default() });
    second.address = first.address;
    let url = second.url("/readyz");
    eventually("the last good one is served", async || http().get(&url).send().await.ok()).await;
    assert!(second.log_text().contains("the file is invalid"), "{}", second.log_text());
}
