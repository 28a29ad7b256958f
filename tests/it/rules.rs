//! Who may read which part of a bucket: rules, folders of one's own.

use kit::raw::{Raw, ask};
use kit::*;
use serde_json::json;

use crate::stack::{PROGRAM, Stack};

/// A store with some objects, and a proxy that serves them at `/files` under an `auth` block.
async fn stack(objects: &[&str], config: Config, auth: &str) -> Stack {
    let store = Store::start().await;
    for key in objects {
        store.put("files", key, key);
    }
    let proxy = PROGRAM.start(&config.bucket(files(&store, auth))).await;
    Stack { store, proxy }
}

fn files(store: &Store, auth: &str) -> Bucket {
    Bucket::named("files").store(store).auth(auth)
}

#[tokio::test]
async fn each_part_of_a_bucket_has_readers_of_its_own() {
    let rules = r#"auth:
    rules:
    - { path: "public/**", allow: public }
    - { path: "public/drafts/**", deny: true }
    - { path: "reports/**", methods: [GET], claims: [{ claim: role, operator: equals, value: reader }] }
    - { path: "probes/**", methods: [HEAD] }"#;
    let keys = ["public/a", "public/drafts/a", "reports/a", "probes/a", "other"];
    let stack = stack(&keys, Config::new(), rules).await;
    let (reader, guest) = (token(json!({ "role": "reader" })), token(json!({ "role": "guest" })));
    for (method, key, token, status, label) in [
        ("GET", "public/a", None, 200, ""),
        ("HEAD", "public/a", None, 200, ""),
        ("GET", "public/drafts/a", None, 403, "deny_rule"),
        ("GET", "public/drafts/a", Some(&reader), 403, "deny_rule"),
        ("GET", "reports/a", None, 401, "no_token"),
        ("GET", "reports/a", Some(&guest), 403, "claim"),
        ("GET", "reports/a", Some(&reader), 200, ""),
        ("HEAD", "reports/a", Some(&reader), 200, ""),
        ("HEAD", "probes/a", Some(&guest), 200, ""),
        ("GET", "probes/a", Some(&guest), 403, "unmatched"),
        ("GET", "other", Some(&reader), 403, "unmatched"),
        ("GET", "", Some(&reader), 403, "unmatched"),
    ] {
        stack.store.received();
        let counter = format!("yatagarasu_rejections_total{{reason=\"{label}\"}}");
        let before = stack.proxy.metric(&counter).await;
        let bearer = token.map(|token| format!("Bearer {token}")).unwrap_or_default();
        let mut raw = Raw::connect(stack.proxy.address).await;
        let answer = raw.ask(method, &format!("/files/{key}"), &[("Authorization", &bearer)]).await;
        assert_eq!(answer.status, status, "{method} {key}");
        assert_eq!(stack.store.received().len(), usize::from(status == 200), "{method} {key}");
        if status == 200 {
            assert!(method == "HEAD" || answer.body == key.as_bytes(), "{key}");
        } else {
            let text = String::from_utf8(answer.body).expect("a document");
            assert!(text.contains("<Code>AccessDenied</Code>"), "{text}");
            // Counted when the answer is out already.
            eventually(&format!("{method} {key}: {label} is counted"), async || {
                (stack.proxy.metric(&counter).await == before + 1.0).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn slashes_that_a_store_merges_lead_past_no_rule() {
    let rules = r#"auth: { rules: [{ path: "**", allow: public }, { path: "secret/**", deny: true }] }"#;
    let stack = stack(&["open/a", "secret/a"], Config::without_jwt(), rules).await;
    for (target, status) in [
        ("open/a", 200),
        ("secret/a", 403),
        ("/secret/a", 400),
        ("%2Fsecret/a", 400),
        ("secret//a", 400),
        ("open//a", 400),
    ] {
        let mut raw = Raw::connect(stack.proxy.address).await;
        let answer = raw.ask("GET", &format!("/files/{target}"), &[]).await;
        assert_eq!(answer.status, status, "{target}");
    }
    assert_eq!(stack.store.received().len(), 1);
    // Where every key has the same readers, each is one that a store may have.
    let store = &stack.store;
    stack.proxy.write_config(&Config::without_jwt().bucket(Bucket::named("files").store(store)));
    stack.proxy.hangup().await;
    assert_ne!(stack.proxy.get("/files/open//a").await.status(), 400);
}

#[tokio::test]
async fn everybody_reads_a_folder_of_their_own_however_it_is_written() {
    let rules = r#"auth: { rules: [{ path: "users/${claim.sub}/**" }] }"#;
    let keys = ["users/ann/a", "users/bob/a", "users/a b/a", "users/ann%2Fx/a", "users/a"];
    let stack = stack(&keys, Config::new(), rules).await;
    for (sub, target, status) in [
        ("ann", "users/ann/a", 200),
        ("ann", "users/%61%6en/a", 200),
        ("ann", "users%2Fann%2Fa", 200),
        ("a b", "users/a%20b/a", 200),
        ("ann%2Fx", "users/ann%252Fx/a", 200),
        ("ann", "users/bob/a", 403),
        ("ann", "users/a", 403),
        ("ann", "users/ann/../bob/a", 400),
        ("ann", "users/ann/%2e%2e/bob/a", 400),
        ("ann", "users/ann%2F..%2Fbob/a", 400),
        ("ann", "users/ann/%00", 400),
        ("ann", "users//a", 400),
        ("ann", "users/ann%252Fx/a", 403),
        ("..", "users/../a", 400),
        ("", "users//a", 400),
        ("ann/x", "users/ann/x", 403),
        ("*", "users/bob/a", 403),
    ] {
        stack.store.received();
        let bearer = format!("Bearer {}", token(json!({ "sub": sub })));
        let mut raw = Raw::connect(stack.proxy.address).await;
        let answer = raw.ask("GET", &format!("/files/{target}"), &[("Authorization", &bearer)]).await;
        assert_eq!(answer.status, status, "{sub}: {target}");
        assert_eq!(stack.store.received().len(), usize::from(status == 200), "{sub}: {target}");
    }
    assert_eq!(ask(stack.proxy.address, "GET", "/files/users/ann/a").await.status, 401);
}

#[tokio::test]
async fn public_rules_need_no_keys_and_a_reload_changes_them() {
    let open = |folder: &str| format!("auth: {{ rules: [{{ path: \"{folder}/**\", allow: public }}] }}");
    let stack = stack(&["a/x", "b/x"], Config::without_jwt(), &open("a")).await;
    let statuses = async || {
        let [a, b] = ["a", "b"].map(|folder| format!("/files/{folder}/x"));
        (stack.proxy.get(&a).await.status().as_u16(), stack.proxy.get(&b).await.status().as_u16())
    };
    assert_eq!(statuses().await, (200, 403));
    stack.proxy.write_config(&Config::without_jwt().bucket(files(&stack.store, &open("b"))));
    stack.proxy.hangup().await;
    assert_eq!(statuses().await, (403, 200));
}

#[tokio::test]
async fn with_enforcement_off_only_what_asks_for_a_token_is_open() {
    let rules = r#"auth:
    rules:
    - { path: "users/${claim.sub}/**" }
    - { path: "secret/**", deny: true }"#;
    let unenforced = Config::new().jwt("enabled: false");
    let stack = stack(&["users/ann/a", "secret/a", "other"], unenforced, rules).await;
    for (key, status) in [("users/ann/a", 200), ("secret/a", 403), ("other", 403)] {
        assert_eq!(stack.proxy.get(&format!("/files/{key}")).await.status(), status, "{key}");
    }
}

/// Status, what the log has as the client, and whether the store was asked.
async fn read_as(stack: &Stack, path: &str, forwarded: &[&str]) -> (u16, Option<String>, bool) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = format!("from-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    stack.store.received();
    let mut headers: Vec<(&str, &str)> = forwarded.iter().map(|line| ("X-Forwarded-For", *line)).collect();
    headers.push(("X-Request-Id", &id));
    let answer = Raw::connect(stack.proxy.address).await.ask("GET", path, &headers).await;
    let client = stack.proxy.access_line(&id).await["client"].as_str().map(str::to_owned);
    (answer.status, client, !stack.store.received().is_empty())
}

/// A public bucket for some networks, behind trusted proxies or not.
fn from_networks(store: &Store, trusted: &str) -> Config {
    let files = Bucket::named("files")
        .store(store)
        .with(r#"allow_networks: [192.0.2.0/24, "2001:db8::/32"]"#)
        .with("deny_networks: [192.0.2.66]");
    Config::without_jwt().server(&format!("trusted_proxies: {trusted}")).bucket(files)
}

#[tokio::test]
async fn a_bucket_is_read_from_its_networks_only() {
    let store = Store::start().await;
    store.put("files", "a", "a");
    let proxy = PROGRAM.start(&from_networks(&store, "[127.0.0.0/8, 10.0.0.0/8]")).await;
    let stack = Stack { store, proxy };
    for (forwarded, status, client) in [
        (&["192.0.2.1"][..], 200, Some("192.0.2.1")),
        (&["::ffff:192.0.2.1"], 200, Some("192.0.2.1")),
        (&["2001:db8::1"], 200, Some("2001:db8::1")),
        (&["192.0.2.1", "10.0.0.1, 10.0.0.2"], 200, Some("192.0.2.1")),
        (&["192.0.2.66"], 403, Some("192.0.2.66")),
        (&["203.0.113.1"], 403, Some("203.0.113.1")),
        (&["192.0.2.1, 203.0.113.1"], 403, Some("203.0.113.1")),
        (&["192.0.2.1, 203.0.113.1", "10.0.0.1"], 403, Some("203.0.113.1")),
        (&["192.0.2.1, nonsense"], 403, None),
        (&["\u{fffd}"], 403, None),
        (&[], 403, Some("127.0.0.1")),
    ] {
        let (found, from, asked) = read_as(&stack, "/files/a", forwarded).await;
        assert_eq!((found, from.as_deref(), asked), (status, client, status == 200), "{forwarded:?}");
    }
    assert!(stack.proxy.metric("yatagarasu_rejections_total{reason=\"network\"}").await >= 6.0);
}

#[tokio::test]
async fn a_forged_address_changes_nothing() {
    let store = Store::start().await;
    store.put("files", "a", "a");
    let proxy = PROGRAM.start(&from_networks(&store, "[10.0.0.0/8]")).await;
    let stack = Stack { store, proxy };
    for forwarded in ["192.0.2.1", "10.0.0.1", "192.0.2.1, 10.0.0.1", "127.0.0.1", "nonsense"] {
        let (status, client, asked) = read_as(&stack, "/files/a", &[forwarded]).await;
        assert_eq!((status, client.as_deref(), asked), (403, Some("127.0.0.1"), false), "{forwarded}");
    }
    // Whom to trust is hot, like everything about access.
    stack.proxy.write_config(&from_networks(&stack.store, "[127.0.0.1]"));
    stack.proxy.hangup().await;
    assert_eq!(read_as(&stack, "/files/a", &["192.0.2.1"]).await.0, 200);
}

/// What `yatagarasu sign` prints, or its complaint.
fn sign(proxy: &Proxy, arguments: &[&str]) -> Result<String, String> {
    let config = proxy.config_path();
    let output = PROGRAM.run(&[&["sign", "--config", config.to_str().expect("plain")], arguments].concat());
    let text = |bytes| String::from_utf8(bytes).expect("a text").trim_end().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

const LINKS: &str = r#"auth:
    rules:
    - { path: "public/**", allow: public }
    - { path: "denied/**", deny: true }
    - { path: "reports/**", claims: [{ claim: role, operator: equals, value: reader }] }
    signed_links: { secret: a-link-secret-of-at-least-32-characters, max_ttl_seconds: 7200 }"#;

#[tokio::test]
async fn a_link_opens_one_object_and_what_denies_it_stays() {
    let keys = ["public/a", "denied/a", "reports/a b", "reports/b", "other"];
    let stack = stack(&keys, Config::new(), LINKS).await;
    let reports = sign(&stack.proxy, &["/files/reports/a%20b"]).expect("a link");
    let query = reports.split_once('?').expect("a query").1;
    for (target, status) in [
        (reports.clone(), 200),
        (format!("{reports}&partNumber=1"), 200),
        (format!("/files/reports%2fa%20b?{query}"), 200),
        (format!("{reports}&versionId=1"), 403),
        (format!("/files/reports/b?{query}"), 403),
        (format!("/files/other?{query}"), 403),
        (reports.replace("expires=", "expires=1"), 403),
        (sign(&stack.proxy, &["/files/other"]).expect("a link"), 200),
        (sign(&stack.proxy, &["/files/denied/a"]).expect("a link"), 403),
        (format!("/files/public/a?{query}"), 200),
    ] {
        stack.store.received();
        let answer = ask(stack.proxy.address, "GET", &target).await;
        assert_eq!(answer.status, status, "{target}");
        let received = stack.store.received();
        assert_eq!(received.len(), usize::from(status == 200), "{target}");
        assert!(!format!("{received:?}").contains("expires"), "the link reached the store");
    }
    assert_eq!(ask(stack.proxy.address, "HEAD", &reports).await.status, 200);
    // A good token does not help a bad link: what was asked for is what was signed.
    let reader = token(json!({ "role": "reader" }));
    let bad = format!("/files/reports/b?{query}");
    assert_eq!(stack.proxy.get_as(&bad, &reader).await.status(), 403);
    assert_eq!(stack.proxy.get_as("/files/reports/b", &reader).await.status(), 200);
    let signature = query.split_once("signature=").expect("a signature").1;
    assert!(!stack.proxy.whole_log_text().await.contains(signature), "a signature is in the log");
}

#[tokio::test]
async fn links_alone_need_no_keys_and_their_secret_rotates() {
    let auth = |links: &str| format!("auth: {{ signed_links: {{ {links} }} }}");
    let old = "secret: the-old-secret-of-at-least-32-characters";
    let new = "secret: the-new-secret-of-at-least-32-characters";
    let stack = stack(&["a"], Config::without_jwt(), &auth(old)).await;
    let link = sign(&stack.proxy, &[&stack.proxy.url("/files/a")]).expect("a link");
    let status = async |url: &str| http().get(url).send().await.expect("an answer").status().as_u16();
    assert_eq!(status(&link).await, 200);
    assert_eq!(status(&stack.proxy.url("/files/a")).await, 403);
    for (links, expected) in [(format!("{new}, previous_{old}"), 200), (new.to_owned(), 403)] {
        stack.proxy.write_config(&Config::without_jwt().bucket(files(&stack.store, &auth(&links))));
        stack.proxy.hangup().await;
        assert_eq!(status(&link).await, expected, "{links}");
        let fresh = sign(&stack.proxy, &[&stack.proxy.url("/files/a")]).expect("a link");
        assert_eq!(status(&fresh).await, 200, "{links}");
    }
    let here = sign(&stack.proxy, &[&stack.proxy.url("/files/a"), "--network", "127.0.0.0/8"]);
    assert_eq!(status(&here.expect("a link")).await, 200);
    let elsewhere = sign(&stack.proxy, &[&stack.proxy.url("/files/a"), "--network", "192.0.2.0/24"]);
    assert_eq!(status(&elsewhere.expect("a link")).await, 403);
}

#[tokio::test]
async fn no_link_is_made_that_would_not_open() {
    let stack = stack(&[], Config::new(), LINKS).await;
    for (arguments, part) in [
        (&["/elsewhere/a"][..], "no bucket is served at `/elsewhere/a`"),
        (&["/files/"], "names no object"),
        (&["/files/a?b=c"], "has a query"),
        (&["/files/a/../b"], "`.` or `..`"),
        (&["/files/a", "--ttl", "3h"], "1 to 7200 seconds"),
        (&["/files/a", "--ttl", "0s"], "1 to 7200 seconds"),
        (&["/files/a", "--network", "here"], "`here` is not a network"),
    ] {
        let complaint = sign(&stack.proxy, arguments).expect_err("no link");
        assert!(complaint.contains(part), "{complaint}");
    }
    let stack = Stack::start().await;
    let complaint = sign(&stack.proxy, &["/papers/a"]).expect_err("no link");
    assert!(complaint.contains("has no `auth.signed_links`"), "{complaint}");
}
