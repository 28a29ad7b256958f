//! The log and the metrics: complete, of closed sets, and without a secret.

use std::time::Instant;

use kit::raw::{self, Raw};
use kit::*;
use serde_json::json;

use crate::stack::{PROGRAM, Stack};

#[tokio::test]
async fn a_request_has_one_line_with_everything_but_its_query() {
    let stack = Stack::start().await;
    let ask = async |method: &str, target: &str, id: &str, headers: &[(&str, &str)]| {
        let headers = [headers, &[("X-Request-Id", id)]].concat();
        Raw::connect(stack.proxy.address).await.ask(method, target, &headers).await;
        stack.proxy.access_line(id).await
    };
    let line = ask("GET", "/photos/cat.jpg?token=hunter2", "one", &[]).await;
    for (field, value) in [
        ("level", json!("INFO")),
        ("request_id", json!("one")),
        ("generation", json!(1)),
        ("bucket", json!("photos")),
        ("method", json!("GET")),
        ("path", json!("/photos/cat.jpg")),
        ("client", json!("127.0.0.1")),
        ("status", json!(200)),
        ("bytes", json!(5)),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(
        line["duration_ms"].as_f64() >= line["upstream_ms"].as_f64() && line["upstream_ms"].is_number(),
        "{line}"
    );
    assert!(line.get("reason").is_none(), "{line}");
    let line = ask("GET", "/papers/plan.txt", "two", &[("Authorization", "Bearer hunter2")]).await;
    assert_eq!((&line["status"], &line["bucket"]), (&json!(401), &json!("papers")));
    assert_eq!(line["reason"], "bad_token: Malformed token");
    let line = ask("GET", "/nowhere", "three", &[]).await;
    assert_eq!(line["reason"], "no_route: no bucket is served at this path");
    assert!(!stack.proxy.log_text().contains("hunter2"));
    let lines = stack
        .proxy
        .log()
        .into_iter()
        .filter(|line| line["message"] == "request" && line["path"] != "/readyz");
    assert_eq!(lines.count(), 3);
}

#[tokio::test]
async fn requests_and_rejections_are_counted_by_what_they_were() {
    let stack = Stack::start().await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    for (method, target) in [
        ("GET", "/photos/cat.jpg"),
        ("HEAD", "/photos/cat.jpg"),
        ("GET", "/photos/missing"),
        ("GET", "/papers/plan.txt"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/photos/x"),
        ("PURGE", "/photos/x"),
        ("BREW", "/photos/x"),
    ] {
        raw.ask(method, target, &[("X-Request-Id", "last")]).await;
    }
    let metrics = stack.proxy.metrics().await;
    let requests =
        |labels: &str| metrics.get(&format!("yatagarasu_http_requests_total{{{labels}}}")).copied();
    assert_eq!(requests("bucket=\"photos\",method=\"GET\",status=\"200\""), Some(1.0));
    assert_eq!(requests("bucket=\"photos\",method=\"HEAD\",status=\"200\""), Some(1.0));
    assert_eq!(requests("bucket=\"photos\",method=\"GET\",status=\"404\""), Some(1.0));
    assert_eq!(requests("bucket=\"papers\",method=\"GET\",status=\"401\""), Some(1.0));
    assert_eq!(requests("bucket=\"-\",method=\"OPTIONS\",status=\"204\""), Some(1.0));
    assert_eq!(requests("bucket=\"-\",method=\"other\",status=\"405\""), Some(2.0));
    for (reason, count) in [("no_token", 1.0), ("no_route", 1.0), ("method", 2.0)] {
        assert_eq!(
            metrics[&format!("yatagarasu_rejections_total{{reason=\"{reason}\"}}")],
            count,
            "{reason}"
        );
    }
    assert_eq!(metrics["yatagarasu_http_request_duration_seconds_count{bucket=\"photos\"}"], 3.0);
    // The request that asks is the one that is under way.
    assert_eq!(metrics["yatagarasu_http_requests_in_flight"], 1.0);
    assert_eq!(metrics["yatagarasu_log_lines_dropped_total"], 0.0);
}

#[tokio::test]
async fn no_label_comes_from_a_requests_text() {
    let stack = Stack::start().await;
    let before = stack.proxy.metrics().await.len();
    for number in 0..200 {
        let mut raw = Raw::connect(stack.proxy.address).await;
        raw.ask(&format!("M{number}"), &format!("/p{number}"), &[("Host", "proxy")]).await;
        raw::ask(stack.proxy.address, "GET", &format!("/p{number}?q{number}")).await;
    }
    let after = stack.proxy.metrics().await;
    assert!(after.len() < before + 40, "{} samples became {}", before, after.len());
    assert!(!after.keys().any(|sample| sample.contains("p1") || sample.contains("M1")), "{:?}", after.keys());
}

#[tokio::test]
async fn the_same_configuration_has_the_same_hash_in_every_process() {
    let store = Store::start().await;
    // The port is a part of the bytes, so the file must not hold it.
    let environment = |port: u16| vec![("PORT".to_owned(), port.to_string())];
    let config = |prefix: &str| {
        Config::new()
            .with("server: { address: 127.0.0.1, port: \"${PORT}\" }")
            .bucket(Bucket::named("photos").at(prefix).store(&store))
    };
    let mut hashes = Vec::new();
    for prefix in ["/photos", "/photos", "/elsewhere"] {
        let port = proxy::free_port();
        let surroundings = Surroundings { environment: environment(port), ..Default::default() };
        let mut proxy = PROGRAM.spawn(&config(prefix), &surroundings);
        proxy.address.set_port(port);
        let hash = eventually("the metrics", async || {
            let text = http().get(proxy.url("/metrics")).send().await.ok()?.text().await.ok()?;
            proxy::samples(&text).get("config_hash").copied()
        });
        hashes.push(hash.await);
        let digest = proxy.status().await["digest"].as_str().expect("a text").to_owned();
        let digits = digest.strip_prefix("sha256:").expect("a digest").split_at(12).0;
        assert_eq!(i64::from_str_radix(digits, 16), Ok(hashes[hashes.len() - 1] as i64), "{digest}");
    }
    assert!(hashes[0] == hashes[1] && hashes[1] != hashes[2], "{hashes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_of_many_buckets_do_not_delay_operators() {
    const BUCKETS: usize = 1500;
    const SCRAPES: usize = 100;
    let nobody = format!("http://127.0.0.1:{}", proxy::free_port());
    let buckets =
        (0..BUCKETS).map(|n| Bucket::named(&format!("bucket{n}")).at(&format!("/{n}")).endpoint(&nobody));
    let proxy = PROGRAM.start(&Config::new().buckets(buckets)).await;
    for n in 0..BUCKETS {
        assert_eq!(proxy.get(&format!("/{n}/x")).await.status(), 502);
    }
    let last = format!("bucket=\"bucket{}\"", BUCKETS - 1);
    let began = Instant::now();
    assert!(proxy.get("/metrics").await.text().await.expect("a text").contains(&last));
    let one = began.elapsed();
    let began = Instant::now();
    let scrapes: Vec<_> = (0..SCRAPES)
        .map(|_| {
            let (url, last) = (proxy.url("/metrics"), last.clone());
            tokio::spawn(async move {
                let text = http().get(url).send().await.expect("an answer").text().await.expect("a text");
                assert!(text.contains(&last));
            })
        })
        .collect();
    // By then they have come in.
    tokio::time::sleep(one).await;
    let asked = Instant::now();
    proxy.status().await;
    let status = asked.elapsed();
    for scrape in scrapes {
        scrape.await.expect("whole metrics");
    }
    println!("one: {one:?}, {SCRAPES}: {:?}, an operator meanwhile: {status:?}", began.elapsed());
    assert!(status < one * 20, "an operator waited for {status:?}, one scrape takes {one:?}");
}

/// Secrets in every place that has one, and in places where one may end up by mistake.
const PLANTED: [&str; 9] = [
    "planted-jwt-secret-0123456789-abcdefgh",
    "PLANTEDACCESSKEY",
    "planted-secret-key",
    "planted-session-token",
    "planted-region-from-the-environment",
    "planted-endpoint-password",
    "planted-port",
    "planted-client-token",
    "planted-query-token",
];

/// A proxy whose every secret is planted, and everything that it and its commands have said.
struct Planted {
    proxy: Proxy,
    store: Store,
    environment: Vec<(String, String)>,
    admin: String,
    outputs: String,
}

/// The values of the environment that the proxy and its commands run in.
fn environment() -> Vec<(String, String)> {
    let [jwt, access, secret, session, region, _, port, ..] = PLANTED;
    [("JWT", jwt), ("AK", access), ("SK", secret), ("ST", session), ("REGION", region), ("PORT", port)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn planted_bucket(store: &Store, secret_key: &str) -> Bucket {
    let [_, access, _, session, ..] = PLANTED;
    let bucket = Bucket::named("photos").store(store).private();
    bucket.keys(access, secret_key).s3(&format!("session_token: {session}"))
}

/// A configuration with this `jwt` section.
fn planted_config(jwt: &str, bucket: Bucket) -> Config {
    Config::without_jwt().with("log: { level: debug }").with(&format!("jwt: {jwt}")).bucket(bucket)
}

impl Planted {
    async fn start() -> Self {
        let [jwt, _, secret, ..] = PLANTED;
        let store = Store::start().await;
        let config = planted_config(&format!("{{ secret: {jwt} }}"), planted_bucket(&store, secret));
        let surroundings = Surroundings { environment: environment(), ..Default::default() };
        let proxy = PROGRAM.start_in(&config, surroundings).await;
        let key = jsonwebtoken::EncodingKey::from_secret(jwt.as_bytes());
        let claims = json!({ "exp": token::now() + 600, "role": "admin" });
        let admin = token::signed(jsonwebtoken::Algorithm::HS256, &key, &claims);
        Self { proxy, store, environment: environment(), admin, outputs: String::new() }
    }

    /// Answers of the store, bad tokens, malformed requests.
    async fn ask(&mut self) {
        let mut raw = Raw::connect(self.proxy.address).await;
        let bearer = format!("Bearer {}", self.admin);
        for headers in [
            &[("Authorization", bearer.as_str())][..],
            &[("Authorization", "Bearer planted-client-token")],
            &[("Cookie", "planted-client-token")],
        ] {
            let answer = raw.ask("GET", "/photos/cat.jpg?x=planted-query-token", headers).await;
            self.outputs += &format!("{answer:?}{}", String::from_utf8_lossy(&answer.body));
        }
        for bytes in [
            "GET /photos/x?planted-query-token HTTP/1.1\r\nHost: a\r\nbad header planted-client-token\r\n\r\n",
            "GET /planted-query-token \r\n\r\n",
        ] {
            let mut raw = Raw::connect(self.proxy.address).await;
            raw.send(bytes).await;
            drop(raw.rest().await);
        }
    }

    /// Reloads a file in every way, and runs every command that reads it.
    async fn judge(&mut self, file: &(impl ConfigFile + ?Sized), is_valid: bool) {
        self.proxy.write_config(file);
        let (status, answer) = self.proxy.reload(&self.admin).await;
        assert_eq!(status == 200, is_valid, "{answer}");
        self.outputs += &answer.to_string();
        self.proxy.hangup().await;
        for arguments in [&["--validate"][..], &["config", "show"], &["reload"], &["token"], &[]] {
            // With a valid file, the program would serve.
            if arguments.is_empty() && is_valid {
                continue;
            }
            let mut command = PROGRAM.command();
            command.args(arguments).arg("--config").arg(self.proxy.config_path()).env_clear();
            let environment = self.environment.iter().map(|(name, value)| (name, value));
            let output = command.envs(environment).output().expect("the program starts");
            self.outputs += &String::from_utf8([output.stdout, output.stderr].concat()).expect("a text");
        }
    }

    async fn report(&mut self) {
        for target in ["/metrics", "/admin/status"] {
            let answer = self.proxy.get_as(target, &self.admin).await;
            self.outputs += &answer.text().await.expect("a text");
        }
        self.outputs += &self.proxy.whole_log_text().await;
    }
}

/// Configurations that are wrong in every way that could make a message quote what it should not.
fn leaky_configs(store: &Store) -> Vec<Config> {
    let [jwt, access, secret, session, ..] = PLANTED;
    let whole = format!("{{ secret: {jwt} }}");
    let good = || planted_bucket(store, secret);
    let with_bucket = |bucket: Bucket| planted_config(&whole, bucket);
    let with_jwt = |jwt: String| planted_config(&jwt, good());
    let typo = Bucket::named("photos").store(store).keys(access, secret);
    vec![
        with_bucket(good().region("\"${REGION}_\"")),
        with_bucket(planted_bucket(store, "[planted-secret-key]")),
        with_bucket(typo.s3(&format!("session_tokem: {session}"))),
        with_bucket(good().endpoint("http://user:planted-endpoint-password@127.0.0.1:9")),
        with_bucket(planted_bucket(store, "\"planted-secret-key with a space\"")),
        with_jwt(format!("{{ secret: [{jwt}] }}")),
        with_jwt(format!("{{ secret: {jwt}: {jwt} }}")),
        with_jwt(format!("{{ secret: \"${{{jwt} }}")),
        with_jwt(jwt.to_owned()),
        with_bucket(good()).with("\tadmin: {}"),
    ]
}

/// Texts whose every value is a reference to a secret, in the wrong place.
const MISPLACED_REFERENCES: [&str; 2] = [
    r#"server: { address: "${SK}", port: "${PORT}", threads: "${SK}" }
jwt: { secret: "${JWT}", algorithm: "${SK}", issuer: ["${JWT}"] }
buckets: [{ name: "${SK}!", path_prefix: "${SK}", s3: "${SK}", auth: "${SK}" }]
"#,
    r#"admin: { claims: [{ claim: "${SK}..", operator: "${SK}", value: "${SK}" }, { claim: a, operator: gt, value: "${SK}" }] }
jwt: { secret: "${JWT}", token_sources: [{ type: "${SK}", name: "${SK} " }, { type: query, name: "${SK} " }] }
buckets: ["${SK}"]
"#,
];

#[tokio::test]
async fn no_output_ever_holds_a_secret() {
    let mut planted = Planted::start().await;

    planted.ask().await;
    let good = planted_config(
        &format!("{{ secret: {} }}", PLANTED[0]),
        planted_bucket(&planted.store, "planted-secret-key-two"),
    );
    planted.judge(&good, true).await;
    for config in leaky_configs(&planted.store) {
        planted.judge(&config, false).await;
    }
    for text in MISPLACED_REFERENCES {
        planted.judge(text, false).await;
    }
    planted.report().await;

    let outputs = planted.outputs;
    assert!(outputs.contains("[redacted]") && outputs.len() > 10_000, "too little was looked at");
    for secret in PLANTED {
        let found =
            outputs.find(secret).map(|at| &outputs[at.saturating_sub(200)..(at + 60).min(outputs.len())]);
        assert!(found.is_none(), "{secret} in …{}", found.unwrap_or_default());
    }
    assert!(!outputs.contains("Signature=") && !outputs.contains(&planted.admin), "a signature or a token");
}
