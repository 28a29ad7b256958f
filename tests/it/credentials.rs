//! Whom requests to a store are signed as: credentials that come from elsewhere, and what a store says
//! of them.

use std::time::{Duration, Instant};

use kit::authority::{CONTAINER_TOKEN, Mode, http as http_answer};
use kit::faulty::Faulty;
use kit::*;
use serde_json::json;

use crate::stack::PROGRAM;

const HOUR: Duration = Duration::from_secs(3600);

const ROLE: &str = "arn:aws:iam::123456789012:role/reader";

/// A public bucket `photos` whose credentials come from a source.
fn from(source: &str) -> Bucket {
    Bucket::named("photos").credentials(source)
}

/// A public bucket with this name, whose credentials are those of a role.
fn assuming(name: &str, more: &str) -> Bucket {
    Bucket::named(name)
        .target("photos")
        .credentials(&format!("source: assume_role, role_arn: \"{ROLE}\"{more}"))
        .keys("AKBASE", "SKBASE")
}

/// A store, an authority that issues keys for it, and a proxy with one bucket `photos`.
async fn start(
    lifetime: Duration,
    photos: Bucket,
    environment: impl FnOnce(&Authority) -> Vec<(String, String)>,
) -> Stage {
    start_at(Mode::Issue, lifetime, photos, environment).await
}

async fn start_at(
    mode: Mode,
    lifetime: Duration,
    photos: Bucket,
    environment: impl FnOnce(&Authority) -> Vec<(String, String)>,
) -> Stage {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let authority = Authority::start(store.keys.clone(), lifetime).await;
    authority.set(mode);
    let environment = environment(&authority);
    let config = Config::new().bucket(photos.store(&store));
    let proxy = PROGRAM.start_in(&config, Surroundings { environment, ..Default::default() }).await;
    Stage { store, authority, proxy }
}

struct Stage {
    store: Store,
    authority: Authority,
    proxy: Proxy,
}

impl Stage {
    /// Reads the object, and says whom the store saw.
    async fn read_as(&self) -> (String, Option<String>) {
        let response = self.proxy.get("/photos/cat.jpg").await;
        assert_eq!(response.status(), 200);
        let [received] = self.store.received().try_into().expect("one request");
        (received.access_key().to_owned(), received.header("x-amz-security-token").map(str::to_owned))
    }

    /// The log is written by a thread of its own.
    async fn logs(&self, words: &str) {
        eventually(words, async || self.proxy.log_text().contains(words).then_some(())).await;
    }

    async fn reads_as_what_was_issued(&self) {
        let (key, token) = self.read_as().await;
        assert_eq!(self.authority.issued(), [key]);
        assert!(token.is_some_and(|token| token.starts_with("session-token-")));
    }
}

/// The status of a request and its reason in the log.
async fn ask(proxy: &Proxy, method: &str, path: &str, id: &str) -> (u16, String, String) {
    let method = method.parse().expect("a method");
    let request = http().request(method, proxy.url(path)).header("x-request-id", id);
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.text().await.expect("a text");
    (status, body, proxy.access_line(id).await["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_instance_has_the_keys_of_its_role() {
    let stage = start(HOUR, from("source: instance"), Authority::environment).await;
    stage.reads_as_what_was_issued().await;
    let asked: Vec<String> = stage.authority.asked().into_iter().map(|asked| asked.what).collect();
    assert_eq!(asked[0], "PUT /latest/api/token", "{asked:?}");
}

#[tokio::test]
async fn a_container_shows_its_token_and_gets_keys() {
    let stage = start(HOUR, from("source: container"), Authority::container).await;
    stage.reads_as_what_was_issued().await;
    assert!(!stage.proxy.log_text().contains(CONTAINER_TOKEN));
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_keys() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "a-token-of-the-cluster").expect("written");
    let options = format!("source: web_identity, role_arn: \"{ROLE}\", token_file: {}", file.display());
    let stage = start(HOUR, from(&options), Authority::environment).await;
    stage.reads_as_what_was_issued().await;
    let [asked] = stage.authority.asked().try_into().expect("one question");
    assert_eq!(asked.form["Action"], "AssumeRoleWithWebIdentity");
    assert_eq!(
        (asked.form["RoleArn"].as_str(), asked.form["RoleSessionName"].as_str()),
        (ROLE, "yatagarasu")
    );
    assert_eq!(asked.form["WebIdentityToken"], "a-token-of-the-cluster");
    assert!(!stage.proxy.log_text().contains("a-token-of-the-cluster"));
}

#[tokio::test]
async fn a_role_is_assumed_with_the_keys_beside_it() {
    let role = assuming("photos", ", session_name: s-1, external_id: x-1");
    let stage = start(HOUR, role, Authority::environment).await;
    stage.reads_as_what_was_issued().await;
    let [asked] = stage.authority.asked().try_into().expect("one question");
    let form = |name: &str| asked.form[name].as_str();
    assert_eq!([form("Action"), form("RoleArn")], ["AssumeRole", ROLE]);
    assert_eq!([form("RoleSessionName"), form("ExternalId")], ["s-1", "x-1"]);
    assert!(asked.head.contains("Credential=AKBASE/"), "{}", asked.head);
}

#[tokio::test]
async fn a_profile_is_read_from_its_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("credentials");
    let (access_key, secret_key) = (store::ACCESS_KEY, store::SECRET_KEY);
    let profile =
        format!("[reader]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n");
    std::fs::write(&file, profile).expect("written");
    let options = format!("source: profile, profile: reader, profile_file: {}", file.display());
    let stage = start(HOUR, from(&options), Authority::environment).await;
    assert_eq!(stage.read_as().await, (access_key.to_owned(), None));
    // They do not expire, so there is nothing to show.
    let metrics = stage.proxy.metrics().await;
    assert!(!metrics.keys().any(|name| name.contains("credentials_expiry")), "{metrics:?}");
}

#[tokio::test]
async fn without_keys_they_are_looked_for_where_the_sdks_look() {
    let stage = start(HOUR, Bucket::named("photos").without_keys(), Authority::container).await;
    stage.reads_as_what_was_issued().await;
    let expiry = "yatagarasu_credentials_expiry_timestamp_seconds{bucket=\"photos\"}";
    let left = stage.proxy.metric(expiry).await - token::now() as f64;
    assert!((3500.0..=3601.0).contains(&left), "{left}");
    let fetched = "yatagarasu_credentials_refreshes_total{outcome=\"success\",source=\"default\"}";
    assert_eq!(stage.proxy.metric(fetched).await, 1.0);
    stage.logs("there are no keys here or in the environment").await;
}

#[tokio::test]
async fn requests_get_503_until_credentials_come() {
    let planted = "a-planted-secret";
    for answer in [
        http_answer(500, "", &json!({ "Code": "no", "SecretAccessKey": planted }).to_string()),
        http_answer(200, "", &format!("{{\"SecretAccessKey\": \"{planted}\",}}")),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let stage =
            start_at(Mode::Answer(answer), HOUR, from("source: container"), Authority::container).await;
        let (proxy, store) = (&stage.proxy, &stage.store);

        let (status, body, reason) = ask(proxy, "GET", "/photos/cat.jpg", "without").await;
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("<Code>ServiceUnavailable</Code>") && !body.contains("credentials"), "{body}");
        assert!(reason.starts_with("no_credentials: "), "{reason}");
        assert!(store.received().is_empty());
        assert_eq!(proxy.metric("yatagarasu_rejections_total{reason=\"no_credentials\"}").await, 1.0);
        let expiry = "yatagarasu_credentials_expiry_timestamp_seconds{bucket=\"photos\"}";
        assert_eq!(proxy.metrics().await.get(expiry), Some(&0.0));

        // The provider tries several times before it gives up.
        stage.logs("credentials cannot be fetched").await;
        stage.authority.set(Mode::Issue);
        eventually("the object is read", async || {
            (proxy.get("/photos/cat.jpg").await.status() == 200).then_some(())
        })
        .await;
        assert!(!proxy.log_text().contains(planted));
    }
}

#[tokio::test]
async fn what_a_source_says_is_in_the_log_and_nothing_else_of_its_answer() {
    let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message><Other>planted</Other></Error></ErrorResponse>";
    for (photos, status, body, words) in [
        (assuming("photos", ""), 403, refusal, "AccessDenied"),
        (from("source: instance"), 400, "planted", "400"),
    ] {
        let answer = Mode::Answer(http_answer(status, "", body));
        let stage = start_at(answer, HOUR, photos, Authority::environment).await;
        eventually("the words are told", async || {
            let mut lines = stage.proxy.log().into_iter();
            lines.find(|line| line["error"].as_str().is_some_and(|error| error.contains(words)))
        })
        .await;
        let log = stage.proxy.log_text();
        assert!(!log.contains("planted") && !log.contains("SKBASE"), "{log}");
    }
}

#[tokio::test]
async fn the_last_credentials_serve_while_the_source_fails_until_they_expire() {
    let lifetime = Duration::from_secs(11);
    let stage = start(lifetime, from("source: container"), Authority::container).await;
    let began = Instant::now();
    // Not repeated by the provider, which would take its time.
    stage.authority.set(Mode::Answer(http_answer(403, "", "")));
    let failed = "yatagarasu_credentials_refreshes_total{outcome=\"failure\",source=\"container\"}";
    eventually("a refresh has failed", async || (stage.proxy.metric(failed).await >= 1.0).then_some(()))
        .await;
    assert!(began.elapsed() < Duration::from_secs(6), "too late to tell");
    assert_eq!(stage.proxy.get("/photos/cat.jpg").await.status(), 200);
    eventually("they have expired", async || {
        let status = stage.proxy.get("/photos/cat.jpg").await.status().as_u16();
        assert!(matches!(status, 200 | 503), "{status}");
        (status == 503).then_some(())
    })
    .await;
    assert!(began.elapsed() > Duration::from_secs(5), "given up too early");
    // The store might refuse what is signed in their last seconds.
    let left = lifetime.saturating_sub(began.elapsed());
    assert!(left > Duration::from_secs(3), "used until {left:?} before they expire");
    stage.logs("credentials cannot be fetched; the last ones serve until they expire").await;
    stage.logs("credentials cannot be fetched; requests for these buckets get 503").await;
}

#[tokio::test]
async fn a_source_that_comes_back_is_noticed_within_seconds_while_there_are_no_credentials() {
    let refusal = Mode::Answer(http_answer(403, "", ""));
    let stage = start_at(refusal, HOUR, from("source: container"), Authority::container).await;
    let failed = "yatagarasu_credentials_refreshes_total{outcome=\"failure\",source=\"container\"}";
    eventually("five tries have failed", async || (stage.proxy.metric(failed).await >= 5.0).then_some(()))
        .await;
    stage.authority.set(Mode::Issue);
    let began = Instant::now();
    eventually("the object is read", async || {
        (stage.proxy.get("/photos/cat.jpg").await.status() == 200).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    // The bucket and the reason are in the log.
    let lines = stage.proxy.whole_log().await;
    let is_told = |line: &&serde_json::Value| line["message"].to_string().contains("cannot be fetched");
    let line = lines.iter().find(is_told).expect("a line");
    assert_eq!((&line["level"], &line["buckets"]), (&json!("ERROR"), &json!("photos")), "{line}");
    assert!(line["error"].as_str().is_some_and(|error| !error.is_empty()), "{line}");
}

#[tokio::test]
async fn credentials_that_have_expired_when_they_come_are_not_used() {
    let stage = start(Duration::ZERO, from("source: container"), Authority::container).await;
    assert_eq!(stage.proxy.get("/photos/cat.jpg").await.status(), 503);
    stage.logs("is a clock wrong?").await;
    assert!(stage.store.received().is_empty());
}

#[tokio::test]
async fn a_source_that_does_not_answer_holds_nothing_up() {
    let stage = start(HOUR, from("source: container"), Authority::container).await;
    stage.authority.set(Mode::Hang);
    let buckets = [from("source: container"), assuming("role", "")].map(|bucket| bucket.store(&stage.store));
    stage.proxy.write_config(&Config::new().buckets(buckets));
    let began = Instant::now();
    let (status, answer) = stage.proxy.reload(&admin_token()).await;
    assert_eq!((status, answer["config_generation"].as_u64()), (200, Some(2)), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let warnings = answer["warnings"].to_string();
    assert!(
        warnings.contains("bucket `role` has no credentials yet") && !warnings.contains("photos"),
        "{warnings}"
    );
    assert_eq!(stage.proxy.get("/photos/cat.jpg").await.status(), 200);
    assert_eq!(stage.proxy.get("/role/cat.jpg").await.status(), 503);
}

#[tokio::test]
async fn the_same_settings_share_one_source_through_reloads_and_what_is_removed_is_asked_no_more() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let authority = Authority::start(store.keys.clone(), HOUR).await;
    let bucket =
        |name: &str, session: &str| assuming(name, &format!(", session_name: {session}")).store(&store);
    let config = |buckets: Vec<Bucket>| Config::new().buckets(buckets);
    let first = config(vec![bucket("one", "aa"), bucket("two", "aa")]);
    let surroundings = Surroundings { environment: authority.environment(), ..Default::default() };
    let proxy = PROGRAM.start_in(&first, surroundings).await;
    let reload = async |config: &Config| {
        proxy.write_config(config);
        let (status, answer) = proxy.reload(&admin_token()).await;
        assert_eq!((status, &answer["warnings"]), (200, &json!([])), "{answer}");
    };
    for name in ["one", "two"] {
        assert_eq!(proxy.get(&format!("/{name}/cat.jpg")).await.status(), 200);
    }
    assert_eq!(authority.issued().len(), 1);

    // A bucket that changes in another way keeps what was fetched.
    reload(&config(vec![bucket("one", "aa").s3("timeouts: { read_seconds: 7 }"), bucket("two", "aa")])).await;
    assert_eq!(proxy.get("/one/cat.jpg").await.status(), 200);
    assert_eq!(authority.issued().len(), 1);

    // From here on, each asks about once a second.
    authority.live_for(Duration::from_secs(7));
    reload(&config(vec![bucket("one", "bb"), bucket("two", "cc")])).await;
    let asked =
        |name: &str| authority.asked().iter().filter(|asked| asked.form["RoleSessionName"] == name).count();
    eventually("both are refreshed", async || (asked("bb") > 1 && asked("cc") > 1).then_some(())).await;
    reload(&config(vec![bucket("two", "cc")])).await;
    let (removed, kept) = (asked("bb"), asked("cc"));
    eventually("the other is refreshed", async || (asked("cc") > kept + 3).then_some(())).await;
    assert!(asked("bb") <= removed + 1, "still asked: {} then {}", removed, asked("bb"));

    // What comes back is asked again.
    let (status, answer) = proxy.post("/admin/rollback").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(proxy.get("/one/cat.jpg").await.status(), 200);
    let again = asked("bb");
    eventually("it is refreshed", async || (asked("bb") > again).then_some(())).await;
}

#[tokio::test]
async fn credentials_that_no_generation_uses_are_wiped_although_the_history_keeps_the_bucket() {
    let stage = start(HOUR, from("source: container"), Authority::container).await;
    stage.reads_as_what_was_issued().await;
    stage.proxy.write_config(&Config::new());
    assert_eq!(stage.proxy.reload(&admin_token()).await.0, 200);
    stage.logs("credentials wiped").await;
    stage.authority.set(Mode::Hang);
    let (status, answer) = stage.proxy.post("/admin/rollback").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(stage.proxy.get("/photos/cat.jpg").await.status(), 503);
}

#[tokio::test]
async fn a_hundred_rotations_under_load_harm_no_request() {
    const ROLES: usize = 20;
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let authority = Authority::start(store.keys.clone(), Duration::from_secs(8)).await;
    let buckets = (0..ROLES).map(|number| {
        assuming(&format!("b{number}"), &format!(", session_name: role-{number}")).store(&store)
    });
    let surroundings = Surroundings { environment: authority.environment(), ..Default::default() };
    let proxy = PROGRAM.start_in(&Config::new().buckets(buckets), surroundings).await;
    let mut requests = 0;
    eventually("a hundred rotations", async || {
        let responses = futures::future::join_all((0..ROLES).map(|number| {
            let url = proxy.url(&format!("/b{number}/cat.jpg"));
            async move { http().get(url).send().await.expect("an answer").status().as_u16() }
        }));
        for status in responses.await {
            assert_eq!(status, 200, "after {requests} requests: {:?}", proxy.log_text().lines().last());
            requests += 1;
        }
        (authority.issued().len() >= ROLES + 100).then_some(())
    })
    .await;
    let used: std::collections::BTreeSet<String> =
        store.received().iter().map(|received| received.access_key().to_owned()).collect();
    assert!(used.len() >= 100, "{} keys in {requests} requests", used.len());
}

#[tokio::test]
async fn refusals_of_the_store_are_told_apart_and_not_to_the_client() {
    for (status, code, cause) in [
        (403, "SignatureDoesNotMatch", "bad_signature"),
        (403, "InvalidAccessKeyId", "unknown_key"),
        (400, "ExpiredToken", "bad_token"),
        (403, "AccessDenied", "denied"),
    ] {
        let document = format!("<Error><Code>{code}</Code></Error>");
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{document}", document.len());
        let faulty = Faulty::answering(answer).await;
        let proxy = PROGRAM
            .start(&Config::without_jwt().bucket(Bucket::named("photos").endpoint(&faulty.url())))
            .await;
        let (answered, body, reason) = ask(&proxy, "GET", "/photos/cat.jpg", "refused").await;
        assert_eq!((answered, reason), (status, format!("store: {code}")));
        let told = if status == 403 { "AccessDenied" } else { "InvalidRequest" };
        assert!(body.contains(&format!("<Code>{told}</Code>")), "{body}");
        let sample = format!("yatagarasu_store_refusals_total{{bucket=\"photos\",cause=\"{cause}\"}}");
        let refusals = proxy.metrics().await.into_iter().filter(|(name, _)| name.contains("store_refusals"));
        assert_eq!(refusals.collect::<Vec<_>>(), [(sample, 1.0)]);
    }
}

#[tokio::test]
async fn a_refusal_without_a_document_is_a_plain_one() {
    let faulty = Faulty::answering("HTTP/1.1 403 x\r\nContent-Length: 99\r\n\r\n").await;
    let proxy =
        PROGRAM.start(&Config::without_jwt().bucket(Bucket::named("photos").endpoint(&faulty.url()))).await;
    let (status, ..) = ask(&proxy, "HEAD", "/photos/cat.jpg", "head").await;
    assert_eq!(status, 403);
    let sample = "yatagarasu_store_refusals_total{bucket=\"photos\",cause=\"denied\"}";
    assert_eq!(proxy.metric(sample).await, 1.0);
}

#[tokio::test]
async fn a_clock_that_differs_from_the_stores_is_measured() {
    for (ahead, words) in [(1200_i64, "s ahead"), (-1200, "s behind")] {
        let theirs = std::time::UNIX_EPOCH + Duration::from_secs(token::now().saturating_add_signed(-ahead));
        let document = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
        let date = httpdate::fmt_http_date(theirs);
        let answer =
            format!("HTTP/1.1 403 x\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n{document}", document.len());
        let faulty = Faulty::answering(answer).await;
        let proxy = PROGRAM
            .start(&Config::without_jwt().bucket(Bucket::named("photos").endpoint(&faulty.url())))
            .await;
        let (status, body, reason) = ask(&proxy, "GET", "/photos/cat.jpg", "skewed").await;
        assert_eq!(status, 403);
        assert!(body.contains("<Code>AccessDenied</Code>"), "{body}");
        let measured = reason
            .strip_prefix("store: RequestTimeTooSkewed, our clock is ")
            .and_then(|rest| rest.strip_suffix(words)?.trim().parse::<i64>().ok());
        assert!(measured.is_some_and(|measured| (measured - 1200).abs() < 60), "{reason}");
        let sample = "yatagarasu_store_refusals_total{bucket=\"photos\",cause=\"clock_skew\"}";
        assert_eq!(proxy.metric(sample).await, 1.0);
    }
}

#[tokio::test]
async fn a_source_that_hangs_delays_no_other() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let hanging = Authority::start(store.keys.clone(), HOUR).await;
    hanging.set(Mode::Hang);
    let good = Authority::start(store.keys.clone(), HOUR).await;
    let environment = [hanging.container(), good.environment()].concat();
    let config = Config::new().bucket(from("source: container").store(&store));
    let proxy = PROGRAM.start_in(&config, Surroundings { environment, ..Default::default() }).await;
    // More of them than can be asked before the one that hangs by chance.
    let others = (0..6).map(|number| {
        let role = format!("source: assume_role, role_arn: \"{ROLE}-{number}\"");
        Bucket::named(&format!("role-{number}"))
            .target("photos")
            .credentials(&role)
            .keys("AKBASE", "SKBASE")
            .store(&store)
    });
    proxy.write_config(&config.buckets(others));
    let (status, answer) = proxy.reload(&admin_token()).await;
    assert_eq!(status, 200, "{answer}");
    for number in 0..6 {
        assert_eq!(proxy.get(&format!("/role-{number}/cat.jpg")).await.status(), 200, "{answer}");
    }
    assert!(answer["warnings"].to_string().contains("`photos` has no credentials yet"), "{answer}");
}
