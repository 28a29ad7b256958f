//! The reloader inside another program: hooks, subscriptions, changes from code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kit::{Bucket, Config};
use yatagarasu::{Announcement, Attempt, Event, Refusal, Reloader, Verdict};

#[path = "../../examples/embedded.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod embedded;

/// Two private buckets, and little time for hooks.
fn config() -> Config {
    let bucket = |name: &str| Bucket::named(name).region("eu-west-1").keys("AK", "SK").private();
    Config::new().with("reload: { deadline_seconds: 1 }").bucket(bucket("photos")).bucket(bucket("papers"))
}

/// [`config`] with `photos` at another prefix.
fn photos_at(prefix: &str) -> Config {
    config().change("photos", |photos| photos.at(prefix))
}

/// A section in place of the secret of [`config`].
const OTHER_SECRET: &str = "jwt: { secret: another-secret-of-at-least-32-characters }";

struct Program {
    _folder: tempfile::TempDir,
    path: PathBuf,
    reloader: Reloader,
}

fn program() -> Program {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    fs::write(&path, config().yaml()).expect("written");
    Program { reloader: Reloader::open(&path).expect("valid"), path, _folder: folder }
}

impl Program {
    fn reload(&self, config: &Config) -> Arc<Attempt> {
        self.reload_text(&config.yaml())
    }

    fn reload_text(&self, text: &str) -> Arc<Attempt> {
        fs::write(&self.path, text).expect("written");
        self.reloader.reload_and_wait().expect("the reloader lives")
    }
}

fn refusal(attempt: &Attempt) -> &Refusal {
    match &attempt.verdict {
        Verdict::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hook_that_says_no_panics_or_hangs_refuses_the_reload_and_is_named() {
    let program = program();
    program.reloader.before_publish("judge", |old, new| {
        assert!(!new.show().contains("/panic"), "a panic on purpose");
        if new.show().contains("/hang") {
            std::thread::sleep(Duration::from_secs(5));
        }
        if new.show().contains("/veto") { Err(format!("{} is too many", old.buckets.len())) } else { Ok(()) }
    });
    for (prefix, expected) in [
        ("/veto", "the hook `judge` refused: 2 is too many"),
        ("/panic", "a panic in the stage `hook judge`; the log has the details"),
        ("/hang", "not done within 1 seconds, in the stage `hook judge`"),
    ] {
        let started = Instant::now();
        let attempt = program.reload(&photos_at(prefix));
        assert_eq!(refusal(&attempt).to_string(), expected);
        assert!(started.elapsed() < Duration::from_secs(3), "{prefix}: {:?}", started.elapsed());
        assert_eq!(program.reloader.live().current().number, 1);
    }
    // The hook still runs, and no second one piles up on it.
    let attempt = program.reload(&photos_at("/fine"));
    assert!(matches!(refusal(&attempt), Refusal::Occupied { .. }), "{attempt:?}");
    assert!(refusal(&attempt).to_string().contains("the stage `hook judge`"), "{attempt:?}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !matches!(program.reload(&photos_at("/fine")).verdict, Verdict::Published) {
        assert!(Instant::now() < deadline, "the reloader did not recover");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(program.reloader.live().current().number, 2);
}

#[test]
fn a_subscriber_hears_what_changed_and_its_end_harms_nobody() {
    let program = program();
    let mut announcements = program.reloader.subscribe();
    let panicking = program.reloader.subscribe();
    let papers = Bucket::named("scrolls").target("papers").at("/papers").region("eu-west-1").keys("AK", "SK");
    let photos = Bucket::named("photos").at("/images").region("eu-west-2").keys("AK", "SK");
    let next = Config::new()
        .with("server: { threads: 77 }")
        .with("reload: { deadline_seconds: 1 }")
        .with(OTHER_SECRET)
        .bucket(photos.private())
        .bucket(papers.private());
    program.reload(&next);
    let Announcement::Published { generation: 2, events, .. } = announcements.try_recv().expect("one") else {
        panic!("generation 2 was not announced");
    };
    let mut told = Vec::new();
    for event in &events {
        told.push(match event {
            Event::BucketAdded { name } => format!("added {name}"),
            Event::BucketRemoved { name } => format!("removed {name}"),
            Event::BucketChanged { name, changes } => {
                let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
                format!("changed {name}: {}", paths.join(" "))
            }
            Event::JwtChanged { changes } => format!("jwt: {}", changes.len()),
            Event::SettingChanged { change } => change.path.clone(),
            Event::PendingRestart { pending } => format!("pending {}", pending.key),
        });
    }
    assert_eq!(
        told,
        [
            "removed papers",
            "changed photos: buckets[photos].path_prefix buckets[photos].s3.region",
            "added scrolls",
            "jwt: 1",
            "server.threads",
            "pending server.threads",
        ]
    );
    let ended = std::thread::spawn(move || {
        let _held = panicking;
        panic!("a panic on purpose");
    });
    assert!(ended.join().is_err());
    program.reload(&config());
    let announced = announcements.try_recv().expect("an announcement");
    assert!(matches!(announced, Announcement::Published { generation: 3, .. }), "{announced:?}");
}

#[test]
fn a_subscriber_hears_of_refusals_too() {
    let program = program();
    let mut announcements = program.reloader.subscribe();
    let attempt = program.reload_text("buckets: 1");
    let announced = announcements.try_recv().expect("an announcement");
    let Announcement::Refused { generation: 1, attempt: id, errors } = announced else {
        panic!("{announced:?}");
    };
    assert_eq!(id, attempt.id);
    assert_eq!(errors, ["buckets (line 1): expected a list, found `1`"]);
}

#[tokio::test]
async fn the_example_of_an_embedding_program_does_what_it_shows() {
    let told = embedded::story().await.expect("a story");
    assert_eq!(
        told,
        "to us-east-1: refused, the hook `no bucket in the United States` refused: a bucket is in the United States
heard of a refusal, generation 1 stays: the hook `no bucket in the United States` refused: a bucket is in the United States
to eu-central-1: in service
heard of generation 2, events: 1
written back: true
watching: true; heard of generation 3, events: 1
watching: false
photos is served by generation 3
"
    );
}

#[test]
fn the_watcher_obeys_the_program_and_not_the_file() {
    let program = program();
    let reloader = Arc::new(program.reloader);
    assert!(!reloader.is_watching());
    reloader.watch().expect("a thread");
    fs::write(&program.path, photos_at("/seen").yaml()).expect("written");
    let deadline = Instant::now() + Duration::from_secs(20);
    while reloader.live().current().number < 2 {
        assert!(Instant::now() < deadline, "the change was not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    reloader.unwatch();
    assert!(!reloader.is_watching());
    fs::write(&program.path, photos_at("/not-seen").yaml()).expect("written");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(reloader.live().current().number, 2, "nobody watches");
    reloader.watch().expect("the thread that runs");
    while reloader.live().current().number < 3 {
        assert!(Instant::now() < deadline, "the change was not noticed again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn unchanged_buckets_are_shared_between_generations() {
    let program = program();
    let first = program.reloader.live().current();
    program.reload(&photos_at("/images"));
    let second = program.reloader.live().current();
    let bucket = |generation: &yatagarasu::Generation, name: &str| {
        generation.config.buckets.iter().find(|bucket| *bucket.name == *name).expect("a bucket").clone()
    };
    assert!(Arc::ptr_eq(&bucket(&first, "papers"), &bucket(&second, "papers")));
    assert!(!Arc::ptr_eq(&bucket(&first, "photos"), &bucket(&second, "photos")));
    let (found, _) = second.config.routes.find("/papers/x").expect("a route");
    assert!(Arc::ptr_eq(found, &bucket(&second, "papers")));
    // Another key means other rules.
    program.reload(&config().with(OTHER_SECRET));
    assert!(!Arc::ptr_eq(&bucket(&first, "papers"), &bucket(&program.reloader.live().current(), "papers")));
}

#[test]
fn a_change_from_code_takes_the_same_way_and_can_be_written_back() {
    let program = program();
    let referring = config().each(|bucket| bucket.keys("\"${UNSET_HERE:-AK}\"", "SK"));
    fs::write(&program.path, referring.yaml()).expect("written");
    fs::set_permissions(&program.path, fs::Permissions::from_mode(0o640)).expect("set");
    assert!(!program.reloader.save().expect("nothing to do"));
    let set = |prefix: &'static str| {
        program
            .reloader
            .update(move |file| file["buckets"][0]["path_prefix"] = prefix.into())
            .expect("readable")
            .expect("alive")
    };
    assert!(matches!(refusal(&set("no slash")), Refusal::Invalid(_)));
    assert!(!program.reloader.save().expect("nothing to do"), "what was refused is not written");
    let attempt = set("/from-code");
    assert_eq!(attempt.changes[0].path, "buckets[photos].path_prefix");
    let before = fs::read_to_string(&program.path).expect("a text");
    assert!(!before.contains("/from-code"), "the file changes when it is saved");
    assert!(program.reloader.save().expect("written"));
    let text = fs::read_to_string(&program.path).expect("a text");
    assert!(text.contains("/from-code") && text.contains("${UNSET_HERE:-AK}"), "{text}");
    assert_eq!(fs::metadata(&program.path).expect("there").permissions().mode() & 0o777, 0o640);
    assert!(
        program.reloader.reload_and_wait().expect("alive").changes.is_empty(),
        "the file is what is in service"
    );
}
