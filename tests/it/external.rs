//! Services that have a say in who may read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Method;
use kit::decider::QUERY_SECRET;
use kit::faulty::{Faulty, read_request};
use kit::proxy::free_port;
use kit::*;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::stack::{PROGRAM, Stack};

const RULES: &str = r#"rules:
    - { path: "**" }
    - { path: "public/**", allow: public }
    - { path: "closed/**", deny: true }"#;

const LINKS: &str = "signed_links: { secret: a-link-secret-of-at-least-32-characters }";

const YES: &str = r#"{"result": true}"#;
const NO: &str = r#"{"result": false}"#;

fn config(store: &Store, url: &str, more: &str) -> Config {
    let patient = if more.contains("timeout_ms") { "" } else { "timeout_ms: 20000," };
    let auth =
        format!("auth:\n    {RULES}\n    {LINKS}\n    external: {{ url: \"{url}\", {patient} {more} }}");
    Config::new().bucket(Bucket::named("files").store(store).auth(&auth))
}

/// A proxy that asks a service about every object of `/files`.
struct Asking {
    stack: Stack,
    decider: Decider,
}

impl Asking {
    async fn start(more: &str) -> Self {
        let store = Store::start().await;
        for key in ["a", "b", "public/a", "closed/a"] {
            store.put("files", key, key);
        }
        let decider = Decider::start(YES).await;
        let proxy = PROGRAM.start(&config(&store, &decider.url(), more)).await;
        Self { stack: Stack { store, proxy }, decider }
    }

    /// The status of a request, whether the service was asked, and whether the store was.
    async fn read(&self, key: &str, token: Option<&str>) -> (u16, usize, usize) {
        let path = format!("/files/{key}");
        let response = match token {
            Some(token) => self.stack.proxy.get_as(&path, token).await,
            None => self.stack.proxy.get(&path).await,
        };
        (response.status().as_u16(), self.decider.asked().len(), self.stack.store.received().len())
    }

    /// All outcomes so far.
    async fn outcomes(&self) -> BTreeMap<String, f64> {
        let prefix = "yatagarasu_external_decisions_total{bucket=\"files\",outcome=\"";
        let samples = self.stack.proxy.metrics().await;
        let named = samples.iter().filter_map(|(name, count)| {
            Some((name.strip_prefix(prefix)?.strip_suffix("\"}")?.to_owned(), *count))
        });
        named.collect()
    }
}

fn counts<const N: usize>(pairs: [(&str, f64); N]) -> BTreeMap<String, f64> {
    pairs.into_iter().map(|(outcome, count)| (outcome.to_owned(), count)).collect()
}

/// Fails unless a connection that is left alone serves the next questions. It is free again a moment after
/// its answer, later on a busy machine, and a question in that moment opens another one.
async fn serves_the_next_question(decider: &Decider, ask: impl AsyncFn()) {
    eventually("three questions need no new connection", async || {
        let before = decider.connections();
        for _ in 0..3 {
            sleep(Duration::from_millis(20)).await;
            ask().await;
        }
        (decider.connections() == before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_is_asked_about_whatever_the_bucket_allows_and_about_nothing_else() {
    let asking = Asking::start("").await;
    let token = token(json!({ "sub": "ann", "groups": ["x", "y"] }));
    let path = asking.stack.proxy.config_path();
    let signed = PROGRAM.run(&["sign", "/files/b", "--config", path.to_str().expect("plain"), "--ttl", "1m"]);
    let link = String::from_utf8(signed.stdout).expect("a text");
    let link = link.trim().strip_prefix("/files/").unwrap_or_else(|| panic!("{link}"));
    for (key, token, may, asked) in [
        ("a", Some(token.as_str()), 200, 1),
        ("public/a", None, 200, 1),
        (link, None, 200, 1),
        ("a", None, 401, 0),
        ("closed/a", Some(&token), 403, 0),
        ("b?expires=1&signature=0", None, 403, 0),
        ("", Some(&token), 404, 0),
    ] {
        asking.decider.reply(Reply::of(200, YES));
        assert_eq!(asking.read(key, token).await, (may, asked, asked), "{key}");
        asking.decider.reply(Reply::of(200, NO));
        let refused = if asked > 0 { 403 } else { may };
        assert_eq!(asking.read(key, token).await, (refused, asked, 0), "{key}");
    }
    assert_eq!(asking.outcomes().await, counts([("allow", 3.0), ("deny", 3.0)]));
    let denied = "yatagarasu_rejections_total{reason=\"external_denied\"}";
    eventually("the refusals are counted", async || {
        (asking.stack.proxy.metric(denied).await == 3.0).then_some(())
    })
    .await;
    serves_the_next_question(&asking.decider, async || {
        assert_eq!(asking.read("public/a", None).await.0, 403);
    })
    .await;
    // Whoever switches tokens off does not switch the service off.
    let open = config(&asking.stack.store, &asking.decider.url(), "").jwt("enabled: false");
    asking.stack.proxy.write_config(&open);
    asking.stack.proxy.hangup().await;
    for (body, status, objects) in [(NO, 403, 0), (YES, 200, 1)] {
        asking.decider.reply(Reply::of(200, body));
        assert_eq!(asking.read("a", None).await, (status, 1, objects));
    }
}

#[tokio::test]
async fn the_question_is_about_the_request_and_holds_no_secret() {
    let asking = Asking::start("").await;
    let exp = token::now() + 60;
    let token = token(json!({ "sub": "ann", "groups": ["x", "y"], "exp": exp }));
    let response = asking.stack.proxy.get_as("/files/%61?versionId=1&x=2", &token).await;
    // The store knows no versions.
    drop(response);
    let asked = asking.decider.asked();
    let [question] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(
        (question.method.as_str(), question.target.as_str()),
        ("POST", "/v1/data/files?token=a-planted-secret")
    );
    assert_eq!(question.headers["content-type"], "application/json");
    let claims = json!({ "sub": "ann", "groups": ["x", "y"], "exp": exp });
    let input = json!({
        "method": "GET", "bucket": "files", "key": "a", "query": "versionId=1", "claims": claims,
        "address": "127.0.0.1",
    });
    assert_eq!(question.body, json!({ "input": input }));
    let signature = token.rsplit('.').next().expect("a signature");
    assert!(!format!("{question:?}").contains(signature), "{question:?}");
    asking.stack.proxy.head("/files/public/a").await;
    let question = asking.decider.asked().remove(0);
    assert_eq!(question.body["input"]["method"], "HEAD");
    assert_eq!(question.body["input"]["claims"], json!({}));
}

#[tokio::test]
async fn without_an_answer_nobody_reads_and_the_log_knows_why() {
    let asking = Asking::start("timeout_ms: 2000").await;
    let elsewhere = Decider::start(YES).await;
    let redirect = Reply { location: Some(elsewhere.url()), ..Reply::of(307, YES) };
    let large = format!("{{\"result\": true, \"padding\": \"{}\"}}", "x".repeat(64 * 1024));
    let padded = format!("{{\"result\": true, \"padding\": \"{}\"}}", "x".repeat(60 * 1024));
    for (reply, status, reason) in [
        (Reply::of(500, YES), 503, "external_failed: the service answered with status 500"),
        (Reply::of(204, ""), 503, "external_failed: the service answered with status 204"),
        (redirect, 503, "external_failed: the service answered with status 307"),
        (Reply::of(200, padded), 200, ""),
        (Reply::of(200, large), 503, "external_failed: the service's answer cannot be read"),
        (Reply::of(200, "yes"), 503, "external_failed: the service's answer cannot be read"),
        (Reply::of(200, ""), 503, "external_failed: the service's answer cannot be read"),
        (
            Reply { delay: Duration::from_secs(60), ..Reply::of(200, YES) },
            503,
            "external_failed: the service did not answer in time",
        ),
        (Reply::of(200, "{}"), 403, "external_denied: the external decision is no"),
        (
            Reply::of(200, r#"{"result": {"allow": false}}"#),
            403,
            "external_denied: the external decision is no",
        ),
        (Reply::of(200, r#"{"result": {"allow": true}}"#), 200, ""),
    ] {
        asking.decider.reply(reply.clone());
        asking.stack.store.received();
        let response = asking.stack.proxy.get("/files/public/a").await;
        let id = response.headers()["x-request-id"].to_str().expect("plain").to_owned();
        assert_eq!(response.status(), status, "{reply:?}");
        match status {
            200 => assert_eq!(response.text().await.expect("a text"), "public/a"),
            403 => assert_s3_error(response, 403, "AccessDenied").await,
            _ => assert_s3_error(response, 503, "ServiceUnavailable").await,
        }
        assert_eq!(asking.stack.store.received().len(), usize::from(status == 200), "{reply:?}");
        let line = asking.stack.proxy.access_line(&id).await;
        assert_eq!(line["reason"].as_str().unwrap_or_default(), reason, "{reply:?}");
        assert_eq!(line["bucket"], "files");
    }
    assert_eq!(elsewhere.connections(), 0);
    let outcomes =
        counts([("allow", 2.0), ("deny", 2.0), ("status", 3.0), ("malformed", 3.0), ("timeout", 1.0)]);
    assert_eq!(asking.outcomes().await, outcomes);
}

#[tokio::test]
async fn the_time_limit_is_for_the_whole_answer() {
    let header = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let incomplete = Faulty::answering(format!("{header}Content-Length: 99\r\n\r\n{YES}"));
    let closing = Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
    });
    let trickling = Faulty::start(move |mut stream, _| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(format!("{header}Content-Length: 16\r\n\r\n").as_bytes()).await;
        for byte in YES.bytes() {
            sleep(Duration::from_millis(400)).await;
            let _ = stream.write_all(&[byte]).await;
        }
    });
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let store = Store::start().await;
    store.put("files", "public/a", "public/a");
    let at = |url: &str| config(&store, url, "timeout_ms: 1000");
    let proxy = PROGRAM.start(&at(&nobody)).await;
    for (url, kind) in [
        (nobody.clone(), "unreachable"),
        (closing.await.url(), "unreachable"),
        (incomplete.await.url(), "timeout"),
        (trickling.await.url(), "timeout"),
    ] {
        proxy.write_config(&at(&url));
        proxy.hangup().await;
        let sample = format!("yatagarasu_external_decisions_total{{bucket=\"files\",outcome=\"{kind}\"}}");
        let before = proxy.metric(&sample).await;
        let asked = Instant::now();
        assert_s3_error(proxy.get("/files/public/a").await, 503, "ServiceUnavailable").await;
        // The trickle lasts for six seconds.
        assert!(asked.elapsed() < Duration::from_secs(5), "{url} {kind}: {:?}", asked.elapsed());
        assert_eq!(proxy.metric(&sample).await, before + 1.0, "{url} {kind}");
    }
    assert!(store.received().is_empty());
}

#[tokio::test]
async fn a_connection_that_the_service_closes_is_made_anew() {
    // Each connection is good for one answer, and does not say so.
    let service = Faulty::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        let answer =
            format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{YES}");
        let _ = stream.write_all(answer.as_bytes()).await;
        read_request(&mut stream).await;
    })
    .await;
    let store = Store::start().await;
    store.put("files", "public/a", "public/a");
    let proxy = PROGRAM.start(&config(&store, &service.url(), "")).await;
    for connections in 1..=3 {
        assert_eq!(proxy.get("/files/public/a").await.status(), 200);
        assert_eq!(service.connections(), connections);
    }
}

#[tokio::test]
async fn networks_come_first_and_the_address_is_part_of_the_question() {
    let store = Store::start().await;
    store.put("files", "a", "a");
    let decider = Decider::start(YES).await;
    let auth = format!(
        "auth: {{ rules: [{{ path: \"**\", allow: public }}], external: {{ url: \"{}\", cache_seconds: 60 }} }}",
        decider.url()
    );
    let files = Bucket::named("files").store(&store).auth(&auth).with("deny_networks: [198.51.100.0/24]");
    let config = Config::without_jwt().server("trusted_proxies: [127.0.0.1]").bucket(files);
    // Neither a token nor a key is needed.
    let proxy = PROGRAM.start(&config).await;
    for (method, path, address, status, asked) in [
        (Method::GET, "/files/a", "198.51.100.7", 403, 0),
        (Method::GET, "/files/a", "192.0.2.7", 200, 1),
        (Method::GET, "/files/a", "192.0.2.7", 200, 0),
        (Method::GET, "/files/%61?x=1", "192.0.2.7", 200, 0),
        (Method::GET, "/files/a", "192.0.2.8", 200, 1),
        (Method::HEAD, "/files/a", "192.0.2.7", 200, 1),
        (Method::GET, "/files/a?partNumber=1", "192.0.2.7", 200, 1),
    ] {
        let request = http().request(method.clone(), proxy.url(path)).header("X-Forwarded-For", address);
        let response = request.send().await.expect("an answer");
        let questions = decider.asked();
        // The store does not have to know parts.
        if !path.contains("partNumber") {
            assert_eq!(response.status(), status, "{method} {path} {address}");
        }
        assert_eq!(questions.len(), asked, "{method} {path} {address}");
        for question in questions {
            assert_eq!(question.body["input"]["address"], address);
        }
    }
}

#[tokio::test]
async fn another_service_decides_from_the_next_request_on() {
    let asking = Asking::start("cache_seconds: 60").await;
    let other = Decider::start(NO).await;
    let proxy = &asking.stack.proxy;
    assert_eq!(asking.read("public/a", None).await, (200, 1, 1));
    // A question that is under way stays with whom it was put to.
    asking.decider.reply(Reply { delay: Duration::from_secs(2), ..Reply::of(200, YES) });
    let under_way = tokio::spawn(http().head(proxy.url("/files/public/a")).send());
    eventually("the question arrives", async || (asking.decider.asked().len() == 1).then_some(())).await;
    proxy.write_config(&config(&asking.stack.store, &other.url(), "cache_seconds: 60"));
    proxy.hangup().await;
    // What the first one said counts no more.
    assert_eq!(proxy.get("/files/public/a").await.status(), 403);
    assert_eq!(other.asked().len(), 1);
    assert_eq!(under_way.await.expect("no panic").expect("an answer").status(), 200);
    assert_eq!(asking.decider.asked().len(), 0);
}

#[tokio::test]
async fn answers_are_remembered_for_the_same_question_and_failures_are_not() {
    let asking = Asking::start("cache_seconds: 60").await;
    let [ann, bob] = ["ann", "bob"].map(|sub| token(json!({ "sub": sub })));
    for (key, token, asked) in
        [("a", &ann, 1), ("a", &ann, 0), ("b", &ann, 1), ("a", &bob, 1), ("a", &bob, 0)]
    {
        assert_eq!(asking.read(key, Some(token)).await, (200, asked, 1), "{key}");
    }
    // A remembered yes is for whoever still has a good token.
    assert_eq!(asking.read("a", None).await, (401, 0, 0));
    asking.decider.reply(Reply::of(500, ""));
    assert_eq!(asking.read("b", Some(&bob)).await, (503, 1, 0));
    asking.decider.reply(Reply::of(200, NO));
    assert_eq!(asking.read("b", Some(&bob)).await, (403, 1, 0));
    asking.decider.reply(Reply::of(200, YES));
    assert_eq!(asking.read("b", Some(&bob)).await, (403, 0, 0));
    let outcomes =
        counts([("allow", 3.0), ("allow_cached", 2.0), ("deny", 1.0), ("deny_cached", 1.0), ("status", 1.0)]);
    assert_eq!(asking.outcomes().await, outcomes);
    // Who asks for fresher answers gets them, and they are those that are remembered from then on.
    let store = &asking.stack.store;
    asking.stack.proxy.write_config(&config(store, &asking.decider.url(), "cache_seconds: 0"));
    asking.stack.proxy.hangup().await;
    for _ in 0..2 {
        assert_eq!(asking.read("b", Some(&bob)).await, (200, 1, 1));
    }
}

#[tokio::test]
async fn an_answer_is_forgotten_in_time() {
    let asking = Asking::start("cache_seconds: 1").await;
    assert_eq!(asking.read("public/a", None).await.0, 200);
    asking.decider.reply(Reply::of(200, NO));
    eventually("the answer is asked for again", async || {
        (asking.read("public/a", None).await == (403, 1, 0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_that_fails_is_left_alone_and_asked_again_when_it_is_back() {
    let asking = Asking::start("").await;
    asking.decider.reply(Reply::of(500, ""));
    for _ in 0..5 {
        assert_eq!(asking.read("public/a", None).await, (503, 1, 0));
    }
    // The first pause is short, and may be over already.
    eventually("the service is left alone", async || {
        (asking.read("public/a", None).await == (503, 0, 0)).then_some(())
    })
    .await;
    assert!(asking.outcomes().await["paused"] >= 1.0);
    // One question finds out whether the service is back, and nobody else waits for it.
    asking.decider.reply(Reply { delay: Duration::from_secs(3), ..Reply::of(200, YES) });
    let (asked, statuses) = eventually("the service is asked again", async || {
        let requests = (0..8).map(|_| asking.stack.proxy.get("/files/public/a"));
        let responses = futures::future::join_all(requests).await;
        let mut statuses: Vec<u16> = responses.iter().map(|response| response.status().as_u16()).collect();
        statuses.sort_unstable();
        Some((asking.decider.asked().len(), statuses)).filter(|(asked, _)| *asked > 0)
    })
    .await;
    assert_eq!((asked, statuses), (1, vec![200, 503, 503, 503, 503, 503, 503, 503]));
    let warnings = asking.stack.proxy.log().into_iter().filter(|line| line["level"] == "WARN");
    let warned = "the service for external decisions is left alone for a moment";
    assert_eq!(warnings.filter(|line| line["message"] == warned).count(), 1);

    // While there are answers, single failures do not count.
    for reply in [500, 500, 500, 500, 200, 500, 500, 500, 500].map(|status| Reply::of(status, YES)) {
        asking.decider.reply(reply);
        assert_eq!(asking.read("public/a", None).await.1, 1);
    }

    let Asking { stack, decider } = asking;
    let address = decider.stop().await;
    eventually("the service is found gone", async || {
        stack.proxy.get("/files/public/a").await;
        let gone = "yatagarasu_external_decisions_total{bucket=\"files\",outcome=\"unreachable\"}";
        (stack.proxy.metric(gone).await > 0.0).then_some(())
    })
    .await;
    let decider = Decider::start_at(address, YES, None).await;
    let asking = Asking { stack, decider };
    eventually("the service is found back", async || {
        (asking.read("public/a", None).await == (200, 1, 1)).then_some(())
    })
    .await;
    assert_eq!(asking.read("public/a", None).await, (200, 1, 1));
    eventually("the log says so", async || {
        asking.stack.proxy.log_text().contains("answers again").then_some(())
    })
    .await;
    let config = asking.stack.proxy.config_path();
    let shown = PROGRAM.run(&["config", "show", "--config", config.to_str().expect("plain")]);
    let shown = String::from_utf8(shown.stdout).expect("a text");
    assert!(shown.contains("url: '[redacted]'"), "{shown}");
    for text in [shown, asking.stack.proxy.log_text()] {
        assert!(!text.contains(QUERY_SECRET), "{text}");
    }
}

#[tokio::test]
async fn a_service_behind_tls_is_verified() {
    let (acceptor, pem) = certificate::self_signed(&["localhost"]);
    let store = Store::start().await;
    store.put("files", "public/a", "public/a");
    let address = "127.0.0.1:0".parse().expect("an address");
    let decider = Decider::start_at(address, YES, Some(acceptor)).await;
    let roots = tempfile::tempdir().expect("a temporary folder");
    let path = roots.path().join("roots.pem");
    proxy::write(&path, &pem);
    let surroundings = Surroundings {
        environment: vec![("SSL_CERT_FILE".to_owned(), path.to_str().expect("plain").to_owned())],
        ..Default::default()
    };
    let at = |host: &str| config(&store, &format!("https://{host}:{}/", decider.address.port()), "");
    let proxy = PROGRAM.start_in(&at("localhost"), surroundings).await;
    assert_eq!(proxy.get("/files/public/a").await.status(), 200);
    // The right certificate, and the wrong name.
    proxy.write_config(&at("127.0.0.1"));
    proxy.hangup().await;
    assert_eq!(proxy.get("/files/public/a").await.status(), 503);
    assert_eq!(decider.asked().len(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_service_with_several_addresses_is_found_at_the_one_that_answers() {
    let store = Store::start().await;
    store.put("files", "public/a", "public/a");
    let decider = Decider::start(YES).await;
    let port = decider.address.port();
    // The service listens on the last address only.
    let hosts = "127.0.0.1 localhost\n127.0.0.8 policy.test\n127.0.0.1 policy.test\n".to_owned();
    let surroundings = Surroundings { hosts: Some(hosts), ..Default::default() };
    let at = |name: &str| config(&store, &format!("http://{name}:{port}"), "");
    let proxy = PROGRAM.start_in(&at("policy.test"), surroundings).await;
    for _ in 0..6 {
        assert_eq!(proxy.get("/files/public/a").await.status(), 200);
    }
    let host = format!("policy.test:{port}");
    for question in decider.asked() {
        assert_eq!(question.headers["host"], *host);
        assert_eq!(question.target, "/");
    }
    serves_the_next_question(&decider, async || {
        assert_eq!(proxy.get("/files/public/a").await.status(), 200);
    })
    .await;
    // A name that nobody knows is no reason to refuse the configuration, and lets nobody in.
    proxy.write_config(&at("nowhere.test"));
    let (status, report) = proxy.post("/admin/reload").await;
    assert_eq!(
        (status, &report["warnings"][0]),
        (200, &json!("the name `nowhere.test` does not resolve yet"))
    );
    assert_s3_error(proxy.get("/files/public/a").await, 503, "ServiceUnavailable").await;
}
