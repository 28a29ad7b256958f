//! A file of any shape is judged in little time and little memory, and the verdict is short.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kit::proxy::write;
use kit::*;

use crate::stack::PROGRAM;

/// How long a verdict may take. The deadline of a reload is longer by default.
const SOON: Duration = Duration::from_secs(5);

/// The output of `--validate` for a text, within the time and with no more than 1 GiB of memory.
fn judged(text: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(&folder.path().join("large.pem"), &"a".repeat(1 << 20));
    judged_in(folder.path(), text)
}

fn judged_in(folder: &Path, text: &str) -> String {
    let path = folder.join("config.yaml");
    write(&path, text);
    let started = Instant::now();
    let output = Command::new("prlimit")
        .args(["--as=1073741824", PROGRAM.path(), "--validate", "--config"])
        .arg(&path)
        .current_dir(folder)
        .output()
        .expect("the program starts");
    let printed = String::from_utf8(output.stderr).expect("a text");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{} {printed:.500}", output.status);
    assert!(started.elapsed() < SOON, "{:?} for {:.60}", started.elapsed(), text);
    assert!(printed.len() < 256 << 10, "{} bytes", printed.len());
    printed
}

/// 34 KB that would become 48 million values.
fn aliases() -> String {
    format!("x: &a [{}]\ny: [{}]\nbuckets: []\n", "a,".repeat(8_000), "*a,".repeat(6_000))
}

#[test]
fn aliases_cannot_make_a_small_file_large() {
    let text = format!("x: &a {}\ny: [{}]\nbuckets: []\n", "a".repeat(50_000), "*a,".repeat(2_000));
    let merged = format!(
        "x: &a {{{}}}\ny: [{}]\nbuckets: []\n",
        (0..5_000).fold(String::new(), |mut text, key| {
            write!(text, "k{key}: 1,").expect("a text");
            text
        }),
        "{<<: *a},".repeat(2_000)
    );
    for text in [aliases(), text, merged] {
        assert!(judged(&text).contains("aliases repeat more than a file of this size may hold"));
    }
}

#[test]
fn aliases_that_repeat_little_are_followed() {
    let mut text = "jwt: { secret: a-secret-of-at-least-32-characters }\nbuckets:\n".to_owned();
    for number in 0..500 {
        let auth =
            if number == 0 { "&auth { claims: [{ claim: role, operator: exists }] }" } else { "*auth" };
        writeln!(text, "  - {{ name: b{number}, path_prefix: /{number}, s3: {{ bucket: bbb, region: r, access_key: A, secret_key: B }}, auth: {auth} }}").expect("a text");
    }
    assert_eq!(judged(&text), "");
}

#[test]
fn nesting_is_refused_before_it_costs_anything() {
    for text in [
        "[".repeat(1 << 20),
        "{a: ".repeat(1 << 18),
        "x: [? [? [\n".repeat(1 << 16),
        "[? \"]\", ".repeat(1 << 17),
        "x: \"]]]]\n]]\"\ny: ".to_owned() + &"{? ".repeat(1 << 18),
    ] {
        assert!(judged(&text).contains("brackets are nested deeper than 128 levels"), "{text:.40}");
    }
    for text in ["- ".repeat(1 << 18), "? ".repeat(1 << 18)] {
        assert!(judged(&text).contains("nested too deep"), "{text:.40}");
    }
    let directives: String = (0..80_000).fold(String::new(), |mut text, number| {
        writeln!(text, "%TAG !a{number}! b").expect("a text");
        text
    });
    assert!(judged(&(directives + "--- a\n")).contains("lines begin with `%`"));
}

#[test]
fn a_reference_cannot_be_repeated_without_bound() {
    let file = "\"${file:large.pem}\"";
    let list = format!("jwt: {{ audience: [{}] }}\nbuckets: []\n", format!("{file},").repeat(1_000));
    let one = format!(
        "jwt: {{ issuer: {} }}\nbuckets: []\n",
        file.replace("}\"", &"}${file:large.pem}".repeat(1_000)).as_str().to_owned() + "\""
    );
    for text in [list, one] {
        assert!(judged(&text).contains("bytes are filled in for this file"), "{:.500}", judged(&text));
    }
}

#[test]
fn what_every_bucket_holds_cannot_be_long() {
    let conditions = "{ claim: a, operator: exists },".repeat(10_000);
    let bucket = "  - { name: a, path_prefix: /a, auth: {}, s3: { bucket: bbb, region: r, access_key: A, secret_key: B } }\n";
    let text = format!(
        "jwt: {{ secret: a-secret-of-at-least-32-characters, claims: [{conditions}] }}\nbuckets:\n{}",
        bucket.repeat(3_000)
    );
    assert!(judged(&text).contains("jwt.claims (line 1): has more than 32 entries"));
}

#[test]
fn of_thousands_of_mistakes_the_first_are_told_and_the_others_counted() {
    let list = format!("server: {{ trusted_proxies: [{}] }}\nbuckets: []\n", "1,".repeat(30_000));
    assert!(judged(&list).contains("server (line 1): holds more mistakes than are listed; mend these first"));
    let texts = format!("server: {{ trusted_proxies: [{}] }}\nbuckets: []\n", "a,".repeat(30_000));
    assert!(judged(&texts).ends_with("and 29900 more; mend these first\n30000 problems\n"));
    let mut buckets = "buckets:\n".to_owned();
    for number in 0..30_000 {
        writeln!(buckets, "  - {{ name: b{number}, path_prefix: 5 }}").expect("a text");
    }
    let printed = judged(&buckets);
    assert!(printed.contains("buckets[0].path_prefix (line 2): expected a text"), "{printed:.300}");
    assert!(printed.contains("mend these first"), "{printed:.300}");
}

#[test]
fn a_thousand_long_rules_are_compared_in_time() {
    let rules = |path: &dyn Fn(usize) -> String| {
        let mut text = "buckets:\n  - name: a\n    path_prefix: /a\n    s3: { bucket: bbb, region: r, access_key: A, secret_key: B }\n    auth:\n      rules:\n".to_owned();
        for number in 0..1_000 {
            let path = path(number);
            assert!(path.len() <= 1_024);
            writeln!(text, "        - {{ path: \"{path}\", allow: public }}").expect("a text");
        }
        text
    };
    let jwt = "jwt: { secret: a-secret-of-at-least-32-characters }\n";
    // The last character alone tells them apart, in one segment and in many, with and without `*`.
    let text = rules(&|number| format!("{}{number:04}", "a".repeat(1_000)));
    assert_eq!(judged(&format!("{jwt}{text}")), "");
    let text = rules(&|number| format!("{}*{number:04}", "a".repeat(1_000)));
    assert_eq!(judged(&format!("{jwt}{text}")), "");
    let text = rules(&|number| format!("{}{number:04}", "a/".repeat(500)));
    assert_eq!(judged(&format!("{jwt}{text}")), "");
    let text = rules(&|number| format!("{}*/**/x{number:04}", "a*b".repeat(300)));
    assert_eq!(judged(&format!("{jwt}{text}")), "");
    let text = rules(&|number| format!("*{number:04}{}", "*a".repeat(500)));
    assert!(judged(&format!("{jwt}{text}")).contains("is as specific as the path of rules["));
}

#[tokio::test]
async fn a_file_that_would_eat_the_memory_is_refused_and_the_process_serves_on() {
    let proxy = PROGRAM.start(&Config::new()).await;
    let limit = (proxy.memory_kib("VmSize") + (512 << 10)) * 1024;
    let pid = proxy.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--as={limit}")]).status();
    assert!(status.expect("prlimit starts").success());
    for _ in 0..3 {
        let request = http().post(proxy.url("/admin/validate")).body(aliases());
        let (status, answer) = proxy.send(request).await;
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["error"].as_str().is_some_and(|error| error.contains("aliases repeat more")),
            "{answer}"
        );
    }
    write(&proxy.config_path(), &aliases());
    assert_eq!(proxy.reload(&admin_token()).await.0, 400);
    assert_eq!(proxy.get("/healthz").await.status(), 200);
}
