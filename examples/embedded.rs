//! The reloader inside another program: a hook that vetoes, a subscription that hears of reloads and of
//! refusals, the file watcher switched on and off, a change from code, and the file written back.
//!
//!     cargo run --example embedded

use std::fmt::Write;
use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_yaml::Value;
use yatagarasu::{Announcement, Attempt, Reloader, Verdict};

const CONFIG: &str = "\
reload: { debounce_ms: 50, poll_seconds: 1 }
jwt: { secret: a-secret-of-at-least-32-characters }
buckets:
  - name: photos
    path_prefix: /photos
    s3: { bucket: photos, region: eu-west-1, access_key: AK, secret_key: SK }
    auth: { enabled: true }
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    println!("{}", story().await?);
    Ok(())
}

/// Plays the story and returns it in words.
pub async fn story() -> Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.yaml");
    fs::write(&path, CONFIG)?;
    let mut told = String::new();

    let reloader = Arc::new(Reloader::open(&path)?);
    reloader.before_publish("no bucket in the United States", |_old, new| {
        let abroad = new.show().contains("region: us-");
        if abroad { Err("a bucket is in the United States".to_owned()) } else { Ok(()) }
    });
    let mut announcements = reloader.subscribe();

    // A change from code takes the same way as any other reload, so the hook may refuse it.
    let moved = reloader.update_async(|file| set_region(file, "us-east-1")).await?;
    writeln!(told, "to us-east-1: {}", said(moved.as_deref()))?;
    writeln!(told, "{}", heard(&announcements.recv().await?))?;
    let moved = reloader.update_async(|file| set_region(file, "eu-central-1")).await?;
    writeln!(told, "to eu-central-1: {}", said(moved.as_deref()))?;
    writeln!(told, "{}", heard(&announcements.recv().await?))?;
    writeln!(told, "written back: {}", reloader.save_async().await?)?;

    // With the watcher on, a change of the file is enough.
    reloader.watch()?;
    let text = fs::read_to_string(reloader.path())?.replace("/photos", "/pictures");
    fs::write(reloader.path(), text)?;
    writeln!(told, "watching: {}; {}", reloader.is_watching(), heard(&announcements.recv().await?))?;
    reloader.unwatch();
    writeln!(told, "watching: {}", reloader.is_watching())?;
    let current = reloader.live().current();
    let bucket = current.config.buckets.first().context("the bucket")?;
    writeln!(told, "{} is served by generation {}", bucket.name, current.number)?;
    Ok(told)
}

fn set_region(file: &mut Value, region: &str) {
    if let Some(s3) =
        file.get_mut("buckets").and_then(|buckets| buckets.get_mut(0)).and_then(|b| b.get_mut("s3"))
    {
        s3["region"] = region.into();
    }
}

fn said(attempt: Option<&Attempt>) -> String {
    match attempt.map(|attempt| &attempt.verdict) {
        Some(Verdict::Refused(refusal)) => format!("refused, {refusal}"),
        Some(_) => "in service".to_owned(),
        None => "the reloader has ended".to_owned(),
    }
}

fn heard(announcement: &Announcement) -> String {
    match announcement {
        Announcement::Published { generation, events, .. } => {
            format!("heard of generation {generation}, events: {}", events.len())
        }
        Announcement::Refused { generation, errors, .. } => {
            format!("heard of a refusal, generation {generation} stays: {}", errors.join("; "))
        }
    }
}
