//! The reloader inside another program: a hook that vetoes, a subscription that hears what changed, a
//! change from code, and the file written back.
//!
//!     cargo run --example embedded

use anyhow::{Context, Result};
use serde_yaml::Value;
use yatagarasu::reload::Reloader;
use yatagarasu::reload::attempt::{Attempt, Verdict};

const CONFIG: &str = "\
jwt: { secret: a-secret-of-at-least-32-characters }
buckets:
  - name: photos
    path_prefix: /photos
    s3: { bucket: photos, region: eu-west-1, access_key: AK, secret_key: SK }
    auth: { enabled: true }
";

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, CONFIG)?;

    let reloader = Reloader::open(&path)?;
    reloader.before_publish("no bucket in the United States", |_old, new| {
        let abroad = new.show().contains("region: us-");
        if abroad { Err("a bucket is in the United States".to_owned()) } else { Ok(()) }
    });
    let mut announcements = reloader.subscribe();

    // A change from code, through the same pipeline as any other reload.
    let moved = reloader.update(|file| set_region(file, "us-east-1"))?;
    println!("to us-east-1: {}", said(moved.as_deref()));
    let moved = reloader.update(|file| set_region(file, "eu-central-1"))?;
    println!("to eu-central-1: {}", said(moved.as_deref()));
    let announcement = announcements.try_recv().context("an announcement")?;
    println!("generation {}: {:#?}", announcement.generation, announcement.events);

    println!("written back: {}", reloader.save()?);
    println!("{}", std::fs::read_to_string(&path)?);
    Ok(())
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
