//! Triggers: G15 to G24 of the promises in `docs/CONFIG_RELOAD.md`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kit::raw::Raw;
use kit::token::SECRET;
use kit::*;
use serde_json::json;

use crate::stack::{PROGRAM, Stack};

/// A proxy that watches its file, with a prefix to tell contents apart.
async fn watching() -> Stack {
    Stack::with(WATCH).await
}

/// Settings of the watcher under which the kernel's hints alone, and not the poll, find a change in time.
pub const WATCH: &str = "reload: { watch: true, debounce_ms: 200, poll_seconds: 3600 }";

/// The content of a file that serves the public bucket at a prefix.
fn content(stack: &Stack, prefix: &str) -> String {
    content_with(stack, WATCH, prefix)
}

fn content_with(stack: &Stack, reload: &str, prefix: &str) -> String {
    stack.photos_at(prefix).with(reload).text(stack.proxy.address.port())
}

/// Does something to the files and waits until exactly one new generation serves at the prefix.
async fn converges(stack: &Stack, what: &str, prefix: &str, change: impl AsyncFnOnce()) {
    let before = stack.proxy.generation().await;
    change().await;
    let started = Instant::now();
    let target = format!("{prefix}/cat.jpg");
    eventually(&format!("{what} is noticed"), async || {
        (stack.proxy.get(&target).await.status() == 200).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(2), "{what}: {:?}", started.elapsed());
    // Whatever else the change caused would have shown by now.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(stack.proxy.generation().await, before + 1, "{what}: exactly one new generation");
}

/// Does something that is no change and sees that nothing happens.
async fn is_ignored(stack: &Stack, what: &str, change: impl FnOnce()) {
    let before = stack.proxy.metrics().await;
    change();
    tokio::time::sleep(Duration::from_millis(900)).await;
    let after = stack.proxy.metrics().await;
    for metric in ["config_generation", "config_reload_failure_total"] {
        assert_eq!(after[metric], before[metric], "{what}: {metric}");
    }
}

// Promise G15.
#[tokio::test]
async fn a_trigger_during_a_run_causes_one_more() {
    let stack = Stack::start().await;
    // Slow enough that the second one arrives in the middle.
    let buckets =
        (0..2000).map(|n| Bucket::named(&format!("many{n}")).at(&format!("/many{n}")).store(&stack.store));
    stack.proxy.write_config(&Config::new().buckets(buckets));
    let token = admin_token();
    let first = stack.proxy.reload(&token);
    let second = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stack.proxy.write_config(&stack.photos_at("/last"));
        stack.proxy.reload(&token).await
    };
    let ((status, _), (second_status, _)) = tokio::join!(first, second);
    assert_eq!((status, second_status), (200, 200));
    assert_eq!(
        stack.proxy.get("/last/cat.jpg").await.status(),
        200,
        "the last word of the file is in service"
    );
}

// Promise G16.
#[tokio::test]
async fn a_thousand_callers_at_once_share_few_runs() {
    let stack = Stack::start().await;
    // One run under way, so that all the others arrive during it.
    let buckets =
        (0..3000).map(|n| Bucket::named(&format!("many{n}")).at(&format!("/many{n}")).store(&stack.store));
    stack.proxy.write_config(&Config::new().buckets(buckets));
    let mut callers = Vec::new();
    for _ in 0..1000 {
        callers.push(Raw::connect(stack.proxy.address).await);
    }
    let bearer = format!("Bearer {}", admin_token());
    let calls = callers.iter_mut().map(async |caller| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Length", "0")];
        let answer = caller.ask("POST", "/admin/reload", &headers).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(answer.status, 200, "{body}");
        body["config_generation"].as_u64().expect("a number")
    });
    let generations = futures::future::join_all(calls).await;
    let last = *generations.iter().max().expect("many");
    assert_eq!(stack.proxy.generation().await, last);
    let runs = last - 1;
    assert!(runs <= 3, "{runs} runs");
    assert_eq!(stack.proxy.metric("config_reload_success_total").await, runs as f64);
}

// Promise G17.
#[tokio::test]
async fn one_of_many_writers_wins() {
    let stack = Stack::start().await;
    let digest = stack.proxy.status().await["digest"].as_str().expect("a text").to_owned();
    stack.proxy.write_config(&stack.photos_at("/next"));
    let tag = format!("\"{digest}\"");
    let calls = (0..20)
        .map(|_| stack.proxy.send(http().post(stack.proxy.url("/admin/reload")).header("if-match", &tag)));
    let answers = futures::future::join_all(calls).await;
    let winners = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(winners, 1, "{answers:?}");
    let current = stack.proxy.status().await["digest"].as_str().expect("a text").to_owned();
    for (status, answer) in answers.iter().filter(|(status, _)| *status != 200) {
        assert_eq!(*status, 412);
        assert!(answer["error"].as_str().expect("a text").contains(&current), "{answer}");
    }
    let (status, _) =
        stack.proxy.send(http().post(stack.proxy.url("/admin/reload")).header("if-match", "no quotes")).await;
    assert_eq!(status, 400);
}

// Promise G18.
#[tokio::test]
async fn an_unchanged_content_succeeds_and_clears_a_failure() {
    let stack = Stack::start().await;
    stack.proxy.write_config("buckets: 1");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 400);
    stack.proxy.write_config(&stack.config());
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!((status, &answer["unchanged"], &answer["config_generation"]), (200, &json!(true), &json!(2)));
    assert_eq!(stack.proxy.metric("config_last_reload_successful").await, 1.0);
    assert_eq!(stack.proxy.status().await["error_state"], json!(null));
}

// Promise G19.
#[tokio::test]
async fn every_trigger_gives_the_same_result() {
    let mut results = Vec::new();
    for how in ["signal", "admin", "watcher"] {
        let watch = if how == "watcher" { WATCH } else { "" };
        let stack = Stack::with(watch).await;
        let mut reports = Vec::new();
        for broken in [false, true] {
            let config = stack.photos_at(if broken { "no-slash" } else { "/next" }).with(watch);
            stack.proxy.write_config(&config);
            match how {
                "signal" => stack.proxy.hangup().await,
                "admin" => drop(stack.proxy.reload(&admin_token()).await),
                _ => {
                    eventually("the change is noticed", async || {
                        let status = stack.proxy.status().await;
                        (status["last_reload"]["status"] == if broken { "error" } else { "success" })
                            .then_some(())
                    })
                    .await;
                }
            }
            let last = stack.proxy.status().await["last_reload"].clone();
            assert_eq!(last["trigger"], how);
            reports.push((last["outcome"].clone(), last["error"].clone(), last["config_generation"].clone()));
        }
        results.push(reports);
    }
    assert!(results.iter().all(|reports| *reports == results[0]), "{results:?}");
}

// Promise G20.
#[tokio::test]
async fn a_write_in_place_is_noticed() {
    let stack = watching().await;
    let path = stack.proxy.config_path();
    converges(&stack, "a write in place", "/one", async || {
        fs::write(&path, content(&stack, "/one")).expect("written");
    })
    .await;
}

/// A slow write in chunks: exactly one new generation, and no failure on the way.
pub async fn slow_write_is_one_generation(stack: &Stack) -> Result<(), String> {
    let before = stack.proxy.metrics().await;
    let text = content(stack, "/slow");
    let mut file = fs::File::create(stack.proxy.config_path()).expect("created");
    for chunk in text.as_bytes().chunks(text.len().div_ceil(8)) {
        file.write_all(chunk).expect("written");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    drop(file);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let after = stack.proxy.metrics().await;
    let moved = |metric: &str| after[metric] - before[metric];
    let found = (
        moved("config_generation"),
        moved("config_reload_failure_total"),
        stack.proxy.get("/slow/cat.jpg").await.status(),
    );
    if found == (1.0, 0.0, reqwest::StatusCode::OK) { Ok(()) } else { Err(format!("{found:?}")) }
}

// Promise G20.
#[tokio::test]
async fn a_slow_write_is_read_when_it_is_whole() {
    let stack = watching().await;
    slow_write_is_one_generation(&stack).await.expect("one generation");
}

// Promise G20.
#[tokio::test]
async fn truncate_and_write_is_noticed() {
    let stack = watching().await;
    converges(&stack, "truncate and write", "/one", async || {
        let path = stack.proxy.config_path();
        fs::File::create(&path).expect("truncated");
        tokio::time::sleep(Duration::from_millis(50)).await;
        fs::write(&path, content(&stack, "/one")).expect("written");
    })
    .await;
}

// Promise G20.
#[tokio::test]
async fn a_rename_over_the_file_is_noticed_again_and_again() {
    let stack = watching().await;
    let path = stack.proxy.config_path();
    for prefix in ["/one", "/two", "/three"] {
        converges(&stack, "a rename", prefix, async || {
            let next = path.with_extension("swp");
            fs::write(&next, content(&stack, prefix)).expect("written");
            fs::rename(&next, &path).expect("renamed");
        })
        .await;
    }
    converges(&stack, "sed -i", "/four", async || {
        let mut command = std::process::Command::new("sed");
        assert!(command.args(["-i", "s,/three,/four,"]).arg(&path).status().expect("sed starts").success());
    })
    .await;
}

// Promise G20.
#[tokio::test]
async fn unlink_and_create_is_noticed() {
    let stack = watching().await;
    let path = stack.proxy.config_path();
    converges(&stack, "unlink and create", "/one", async || {
        fs::remove_file(&path).expect("removed");
        tokio::time::sleep(Duration::from_millis(50)).await;
        fs::write(&path, content(&stack, "/one")).expect("written");
    })
    .await;
}

/// Moves the proxy's file behind a path of the test's choice, through a link, and has it reread.
async fn behind(stack: &Stack, real: &std::path::Path) {
    let path = stack.proxy.config_path();
    fs::create_dir_all(real.parent().expect("a folder")).expect("created");
    fs::rename(&path, real).expect("renamed");
    symlink(real, &path).expect("linked");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
}

// Promise G20.
#[tokio::test]
async fn a_replaced_directory_is_noticed() {
    let stack = watching().await;
    let folder = stack.proxy.folder.path().to_owned();
    behind(&stack, &folder.join("dir/config.yaml")).await;
    for prefix in ["/one", "/two"] {
        converges(&stack, "a replaced directory", prefix, async || {
            fs::create_dir(folder.join("next")).expect("created");
            fs::write(folder.join("next/config.yaml"), content(&stack, prefix)).expect("written");
            let old = tempfile::tempdir_in(&folder).expect("created");
            fs::rename(folder.join("dir"), old.path().join("old")).expect("renamed");
            fs::rename(folder.join("next"), folder.join("dir")).expect("renamed");
        })
        .await;
    }
}

// Promise G20.
#[tokio::test]
async fn a_retargeted_link_is_noticed() {
    let stack = watching().await;
    let path = stack.proxy.config_path();
    for prefix in ["/one", "/two"] {
        converges(&stack, "a retargeted link", prefix, async || {
            let target = path.with_extension(&prefix[1..]);
            fs::write(&target, content(&stack, prefix)).expect("written");
            let link = path.with_extension("link");
            symlink(&target, &link).expect("linked");
            fs::rename(&link, &path).expect("renamed");
        })
        .await;
    }
}

// Promise G20.
#[tokio::test]
async fn the_data_swap_of_a_mounted_configmap_is_noticed() {
    let stack = watching().await;
    let folder = stack.proxy.folder.path().join("volume");
    let version = |name: &str, prefix: &str| {
        fs::create_dir_all(folder.join(name)).expect("created");
        fs::write(folder.join(name).join("config.yaml"), content(&stack, prefix)).expect("written");
    };
    version("..2026_1", "/photos");
    symlink("..2026_1", folder.join("..data")).expect("linked");
    symlink("..data/config.yaml", folder.join("config.yaml")).expect("linked");
    let path = stack.proxy.config_path();
    fs::remove_file(&path).expect("removed");
    symlink(folder.join("config.yaml"), &path).expect("linked");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (number, prefix) in [(2, "/one"), (3, "/two")] {
        converges(&stack, "the ..data swap", prefix, async || {
            // As the kubelet does it.
            let name = format!("..2026_{number}");
            version(&name, prefix);
            symlink(&name, folder.join("..data_tmp")).expect("linked");
            fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renamed");
            fs::remove_dir_all(folder.join(format!("..2026_{}", number - 1))).expect("removed");
        })
        .await;
    }
}

// Promise G20.
#[tokio::test]
async fn a_referenced_secret_alone_is_noticed() {
    let stack = watching().await;
    let secret = stack.proxy.folder.path().join("secret");
    fs::write(&secret, SECRET).expect("written");
    let config = stack.config().with(WATCH).with("jwt: { secret: \"${file:secret}\" }");
    let before = stack.proxy.generation().await;
    stack.proxy.write_config(&config);
    eventually("the file is noticed", async || (stack.proxy.generation().await == before + 1).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::write(&secret, "another-secret-of-at-least-32-characters").expect("written");
    eventually("the secret is noticed", async || {
        (stack.proxy.generation().await == before + 2).then_some(())
    })
    .await;
    assert_eq!(stack.proxy.get_as("/papers/plan.txt", &token(json!({}))).await.status(), 401);
}

// Promise G20.
#[tokio::test]
async fn what_is_no_change_is_ignored() {
    let stack = watching().await;
    let path = stack.proxy.config_path();
    is_ignored(&stack, "a read", || drop(fs::read(&path).expect("read"))).await;
    is_ignored(&stack, "chmod", || {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
    })
    .await;
    is_ignored(&stack, "touch", || {
        assert!(std::process::Command::new("touch").arg(&path).status().expect("touch starts").success());
    })
    .await;
    is_ignored(&stack, "an unrelated file", || {
        fs::write(path.with_extension("other"), "x").expect("written");
    })
    .await;
    is_ignored(&stack, "the same content again", || {
        fs::write(&path, fs::read(&path).expect("read")).expect("written");
    })
    .await;
}

// Promise G20.
#[tokio::test]
async fn a_poll_backs_the_kernel_up() {
    let stack = watching().await;
    // Where nothing is reported, as on some network mounts: a debounce that never lets a hint through
    // would look the same; so the poll alone must do.
    let polling = "reload: { watch: true, debounce_ms: 200, poll_seconds: 1 }";
    stack.proxy.write_config(&stack.photos_at("/polled").with(polling));
    eventually("the file is noticed", async || {
        (stack.proxy.get("/polled/cat.jpg").await.status() == 200).then_some(())
    })
    .await;
    let status = stack.proxy.status().await;
    assert_eq!((&status["watcher"]["enabled"], &status["watcher"]["problem"]), (&json!(true), &json!(null)));
    let folder = stack.proxy.folder.path().to_str().expect("plain");
    assert!(
        status["watcher"]["directories"].as_array().expect("a list").contains(&json!(folder)),
        "{status}"
    );
}

// Promise G21.
#[tokio::test]
async fn the_watcher_survives_everything() {
    let stack = watching().await;
    let path = stack.proxy.config_path();
    let fast = "reload: { watch: true, debounce_ms: 10, poll_seconds: 3600 }";
    let faster = |prefix: &str| content_with(&stack, fast, prefix);
    fs::write(&path, faster("/start")).expect("written");
    eventually("the start", async || (stack.proxy.get("/start/cat.jpg").await.status() == 200).then_some(()))
        .await;
    for round in 0..100 {
        match round % 4 {
            0 => fs::write(&path, "buckets: [").expect("written"),
            1 => fs::remove_file(&path).expect("removed"),
            2 => {
                fs::remove_file(&path).expect("removed");
                fs::create_dir(&path).expect("created");
            }
            _ => fs::write(&path, b"\xff").expect("written"),
        }
        if round % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let _ = fs::remove_dir(&path);
        let prefix = format!("/round{round}");
        fs::write(&path, faster(&prefix)).expect("written");
        let target = format!("{prefix}/cat.jpg");
        eventually(&prefix, async || (stack.proxy.get(&target).await.status() == 200).then_some(())).await;
    }
    assert_eq!(stack.proxy.metric("config_last_reload_successful").await, 1.0);
}

#[tokio::test]
async fn the_watcher_is_switched_by_a_reload() {
    let stack = Stack::start().await;
    stack.proxy.write_config(&stack.config().with(WATCH));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stack.proxy.generation().await, 1, "off by default");
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    stack.proxy.write_config(&stack.config());
    eventually("the change is noticed", async || (stack.proxy.generation().await == 3).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stack.proxy.write_config(&stack.config().with(WATCH));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(stack.proxy.generation().await, 3, "off again");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_that_is_mounted_alone_is_reported() {
    let store = Store::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::new().with("reload: { watch: true }").bucket(Bucket::named("photos").store(&store));
    let (outside, inside): (PathBuf, PathBuf) =
        (folder.path().join("outside.yaml"), folder.path().join("config.yaml"));
    proxy::write(&outside, &config.text(proxy::free_port()));
    proxy::write(&inside, "");
    let log = fs::File::create(folder.path().join("log")).expect("created");
    let mut child = std::process::Command::new("unshare")
        .args([
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$0\" \"$1\" && exec \"$2\" --config \"$1\"",
        ])
        .args([&outside, &inside])
        .arg(PROGRAM.path())
        .stderr(log)
        .spawn()
        .expect("unshare starts");
    let found = eventually("the warning", async || {
        let text = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        text.contains("is mounted as a single file").then_some(text)
    });
    let text = found.await;
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    assert!(text.contains("mount its directory instead"), "{text}");
}

// Promise G24.
#[tokio::test]
async fn reload_and_shutdown_do_not_get_into_each_others_way() {
    for _ in 0..5 {
        let mut stack = Stack::with("reload: { deadline_seconds: 30 }").await;
        let buckets = (0..1000)
            .map(|n| Bucket::named(&format!("many{n}")).at(&format!("/many{n}")).store(&stack.store));
        stack.proxy.write_config(&Config::new().buckets(buckets));
        stack.proxy.signal("HUP");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let started = Instant::now();
        stack.proxy.signal("TERM");
        stack.proxy.signal("HUP");
        assert_eq!(stack.proxy.exit().await.code(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_trial_does_not_swallow_the_watchers_trigger() {
    let stack = watching().await;
    stack.proxy.write_config(&content(&stack, "/next"));
    assert_eq!(stack.proxy.post("/admin/reload?dry_run=true").await.0, 200);
    assert_eq!(stack.proxy.post("/admin/reload?expect_digest=x").await.0, 409);
    eventually("the change is noticed", async || {
        (stack.proxy.get("/next/cat.jpg").await.status() == 200).then_some(())
    })
    .await;
}
