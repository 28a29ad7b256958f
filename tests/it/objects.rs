//! Reading objects: what the client gets, and what the store received.

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use kit::faulty::Faulty;
use kit::raw::{self, Raw};
use kit::*;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::stack::{PROGRAM, Stack};

/// Amazon's own client, talking to the store directly.
fn sdk(store: &Store) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(store::ACCESS_KEY, store::SECRET_KEY, None, None, "test"))
        .endpoint_url(store.url())
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    aws_sdk_s3::Client::from_conf(config.build())
}

/// A key as a careful client puts it into a URL.
fn encoded(key: &str) -> String {
    key.split('/')
        .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string())
        .collect::<Vec<_>>()
        .join("/")
}

#[tokio::test]
async fn an_object_streams_through_signed_with_the_buckets_credentials() {
    let stack = Stack::start().await;

    let response = stack.proxy.get("/photos/cat.jpg").await;

    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(response.text().await.expect("a text"), "a cat");
    let [received] = stack.store.received().try_into().expect("one request");
    assert_eq!((received.method.as_str(), received.target.as_str()), ("GET", "/photos/cat.jpg"));
    assert_eq!(received.access_key(), store::ACCESS_KEY);
    assert_eq!(received.header("host"), Some(stack.store.address.to_string().as_str()));
}

#[tokio::test]
async fn every_key_reads_as_it_does_with_amazons_client() {
    let stack = Stack::start().await;
    let sdk = sdk(&stack.store);
    let long = format!("{}/{}", "d".repeat(200), "é".repeat(60));
    let longest = vec!["k".repeat(204); 5].join("/");
    assert_eq!(longest.len(), 1024);
    let keys = [
        "plain.txt",
        "with space.txt",
        "a+b.txt",
        "a%b.txt",
        "a%2Fb.txt",
        "a%20b",
        "tilde~_-.txt",
        "quotes'\".txt",
        "question?mark",
        "hash#mark",
        "semi;colon",
        "colon:at@equals=",
        "comma,dollar$amp&",
        "star*bang!(paren)",
        "[brackets]{braces}|pipe^",
        "back\\slash",
        "back`tick",
        "less<greater>",
        "ünïcödé",
        "日本語/キー",
        "🦀",
        "e\u{301}",
        "tab\tnewline\n",
        "\u{7f}delete",
        "folder/deep/er/file",
        ".hidden",
        "..two",
        "three...",
        "a/.b/c..d",
        &long,
        &longest,
    ];
    for key in keys {
        let content = format!("the content of {key:?}");
        if key.len() > 150 {
            // `s3s-fs` cannot keep the metadata of such a key, so no client can put it.
            stack.store.put("photos", key, &content);
        } else {
            let put = sdk
                .put_object()
                .bucket("photos")
                .key(key)
                .content_type("text/x-test")
                .metadata("colour", "blue");
            put.body(ByteStream::from(content.clone().into_bytes())).send().await.expect("put");
        }
        let direct = sdk.get_object().bucket("photos").key(key).send().await.expect("got");
        let head = sdk.head_object().bucket("photos").key(key).send().await.expect("headed");
        stack.store.received();

        let through = stack.proxy.get(&format!("/photos/{}", encoded(key))).await;

        assert_eq!(through.status(), 200, "{key}");
        let header =
            |name: &str| through.headers().get(name).map(|value| value.to_str().expect("plain").to_owned());
        assert_eq!(header("etag"), direct.e_tag().map(str::to_owned), "{key}");
        assert_eq!(header("content-type"), direct.content_type().map(str::to_owned), "{key}");
        assert_eq!(
            header("content-length"),
            direct.content_length().map(|length| length.to_string()),
            "{key}"
        );
        let colour = direct.metadata().and_then(|metadata| metadata.get("colour")).cloned();
        assert_eq!(header("x-amz-meta-colour"), colour, "{key}");
        let modified =
            direct.last_modified().map(|time| time.fmt(aws_sdk_s3::primitives::DateTimeFormat::HttpDate));
        assert_eq!(header("last-modified"), modified.map(|text| text.expect("a date")), "{key}");
        let body = direct.body.collect().await.expect("a body").into_bytes();
        assert_eq!(through.bytes().await.expect("a body"), body, "{key}");
        assert_eq!(body, content.as_bytes(), "{key}");
        // The key stands in the path as Amazon's client writes it, byte for byte.
        let headed = stack.proxy.head(&format!("/photos/{}", encoded(key))).await;
        assert_eq!(headed.status(), 200, "{key}");
        assert_eq!(headed.headers().get("etag").and_then(|etag| etag.to_str().ok()), head.e_tag(), "{key}");
        let length = headed.headers()["content-length"].to_str().expect("plain").parse().ok();
        assert_eq!(length, head.content_length(), "{key}");
        let _ = sdk.get_object().bucket("photos").key(key).send().await;
        let targets: Vec<String> =
            stack.store.received().into_iter().map(|received| received.target).collect();
        let [get, head, amazon] = targets.as_slice() else { panic!("{key}: {targets:?}") };
        assert_eq!(get, amazon.split('?').next().expect("a path"), "{key}");
        assert_eq!(get, head, "{key}");
    }
}

#[tokio::test]
async fn a_key_is_decoded_once_and_encoded_once_however_the_client_writes_it() {
    let stack = Stack::start().await;
    for (client, store) in [
        ("/photos/a%20b", "/photos/a%20b"),
        ("/photos/a+b", "/photos/a%2Bb"),
        ("/photos/a%2bb", "/photos/a%2Bb"),
        ("/photos/%61", "/photos/a"),
        ("/photos/a%2Fb", "/photos/a/b"),
        ("/photos/a%252Fb", "/photos/a%252Fb"),
        ("/photos/%252e%252e/x", "/photos/%252e%252e/x"),
        ("/photos//a", "/photos//a"),
        ("/photos/a//b/", "/photos/a//b/"),
        ("/photos/~'()*!", "/photos/~%27%28%29%2A%21"),
        ("/photos/é", "/photos/%C3%A9"),
        ("/%70hotos/a", "/photos/a"),
        ("/photos/a;b=c", "/photos/a%3Bb%3Dc"),
        ("http://proxy/photos/a", "/photos/a"),
        ("/photos/a?list-type=2&prefix=b&acl", "/photos/a"),
        ("/photos/a?versionId=v/1&uploads&partNumber=2", "/photos/a?partNumber=2&versionId=v%2F1"),
    ] {
        raw::ask(stack.proxy.address, "GET", client).await;
        let targets: Vec<String> =
            stack.store.received().into_iter().map(|received| received.target).collect();
        assert_eq!(targets, [store], "{client}");
    }
}

#[tokio::test]
async fn a_path_that_could_leave_its_bucket_is_refused() {
    let stack = Stack::start().await;
    for target in [
        "/photos/../papers/plan.txt",
        "/photos/%2e%2e/papers/plan.txt",
        "/photos/.%2E/papers/plan.txt",
        "/photos/..%2Fpapers/plan.txt",
        "/photos/..%2fpapers%2fplan.txt",
        "/photos/./cat.jpg",
        "/photos/%2e/cat.jpg",
        "/photos/..",
        "/../photos/cat.jpg",
        "/photos/cat.jpg%00",
        "/photos/%",
        "/photos/%zz",
        "/photos/%c3",
        "/photos/cat.jpg?versionId=a&versionId=b",
        "/photos/cat.jpg?versionId=",
    ] {
        let answer = raw::ask(stack.proxy.address, "GET", target).await;
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
    }
    let mut raw = Raw::connect(stack.proxy.address).await;
    raw.send(b"GET /photos/\xff HTTP/1.1\r\nHost: proxy\r\n\r\n").await;
    assert_eq!(raw.answer(false).await.status, 400);
    assert!(stack.store.received().is_empty());
}

#[tokio::test]
async fn a_bucket_is_never_listed() {
    let stack = Stack::start().await;
    for target in ["/photos", "/photos/", "/photos?list-type=2", "/photos/?versions"] {
        let answer = raw::ask(stack.proxy.address, "GET", target).await;
        assert_eq!(answer.status, 404, "{target}: {answer:?}");
        assert!(String::from_utf8_lossy(&answer.body).contains("NoSuchKey"), "{answer:?}");
    }
    assert!(stack.store.received().is_empty());
}

#[tokio::test]
async fn prefixes_match_whole_segments_and_the_longest_wins() {
    let store = Store::start().await;
    for name in ["outer", "inner", "other"] {
        store.put(name, "deep/key", name);
        store.put(name, "key", name);
    }
    let buckets = [("other", "/"), ("outer", "/a"), ("inner", "/a/deep")]
        .map(|(name, prefix)| Bucket::named(name).at(prefix).store(&store));
    let proxy = PROGRAM.start(&Config::without_jwt().buckets(buckets)).await;
    for (path, name) in
        [("/a/key", "outer"), ("/a/deep/key", "inner"), ("/deep/key", "other"), ("/key", "other")]
    {
        assert_eq!(proxy.get(path).await.text().await.expect("a text"), name, "{path}");
    }
    store.received();
    assert_eq!(proxy.get("/ab/key").await.status(), 404);
    assert_eq!(store.received()[0].target, "/other/ab/key");
}

#[tokio::test]
async fn ranges_are_the_stores_business() {
    let stack = Stack::start().await;
    stack.store.put("photos", "digits", "0123456789");
    for (range, status, body, content_range) in [
        ("bytes=0-3", 206, "0123", Some("bytes 0-3/10")),
        ("bytes=4-", 206, "456789", Some("bytes 4-9/10")),
        ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
        ("bytes=2-100", 206, "23456789", Some("bytes 2-9/10")),
    ] {
        let request = http().get(stack.proxy.url("/photos/digits")).header("range", range);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), status, "{range}");
        let found = response.headers().get("content-range").map(|value| value.to_str().expect("plain"));
        assert_eq!(found, content_range, "{range}");
        assert_eq!(response.text().await.expect("a text"), body, "{range}");
        assert_eq!(stack.store.received()[0].header("range"), Some(range));
    }
    let request = http().get(stack.proxy.url("/photos/digits")).header("range", "bytes=20-30");
    assert_s3_error(request.send().await.expect("an answer"), 416, "InvalidRange").await;
    // Several ranges: whatever the store makes of them.
    let several = "bytes=0-1,4-5";
    let through = http()
        .get(stack.proxy.url("/photos/digits"))
        .header("range", several)
        .send()
        .await
        .expect("an answer");
    let received = stack.store.received();
    assert_eq!(received.last().expect("a request").header("range"), Some(several));
    assert!(matches!(through.status().as_u16(), 200 | 206 | 400 | 416), "{}", through.status());
}

#[tokio::test]
async fn conditions_are_the_stores_business() {
    let stack = Stack::start().await;
    let first = stack.proxy.get("/photos/cat.jpg").await;
    let header = |name: &str| first.headers()[name].to_str().expect("plain").to_owned();
    let (etag, modified) = (header("etag"), header("last-modified"));
    let past = "Thu, 01 Jan 1970 00:00:00 GMT";
    for (name, value, status) in [
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "\"other\"", 200),
        ("if-match", etag.as_str(), 200),
        ("if-match", "\"other\"", 412),
        ("if-modified-since", modified.as_str(), 304),
        ("if-modified-since", past, 200),
        ("if-unmodified-since", modified.as_str(), 200),
        ("if-unmodified-since", past, 412),
    ] {
        for method in ["GET", "HEAD"] {
            let mut raw = Raw::connect(stack.proxy.address).await;
            stack.store.received();
            let answer = raw.ask(method, "/photos/cat.jpg", &[(name, value)]).await;
            assert_eq!(answer.status, status, "{method} {name}: {value}");
            assert_eq!(stack.store.received()[0].header(name), Some(value));
            if status == 304 {
                assert_eq!(answer.header("etag"), Some(etag.as_str()));
            }
            // The connection is good for another request.
            assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.body, b"a cat", "{method} {name}");
        }
    }
}

#[tokio::test]
async fn only_listed_headers_pass_in_either_direction() {
    let stack = Stack::start().await;
    let request = http()
        .get(stack.proxy.url("/photos/cat.jpg?token=hunter2&x-amz-acl=public"))
        .bearer_auth("a-clients-token")
        .header("cookie", "session=1")
        .header("x-amz-meta-evil", "1")
        .header("x-amz-security-token", "forged")
        .header("x-amz-date", "20000101T000000Z")
        .header("x-forwarded-for", "1.2.3.4")
        .header("accept-encoding", "gzip")
        .header("user-agent", "test")
        .header("if-range", "\"x\"")
        .header("origin", "https://evil.example");
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    let [received] = stack.store.received().try_into().expect("one request");
    let mut names: Vec<&str> = received.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "host", "if-range", "x-amz-content-sha256", "x-amz-date"]);
    assert_eq!(received.headers.get_all("authorization").iter().count(), 1);
    assert_eq!(received.target, "/photos/cat.jpg");

    let store = Faulty::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/x-test\r\nETag: \"e\"\r\nServer: secret\r\n\
         Content-Disposition: inline\r\nCache-Control: max-age=1\r\nExpires: never\r\nAccept-Ranges: bytes\r\n\
         Last-Modified: then\r\nx-amz-id-2: i\r\nx-amz-request-id: r\r\nSet-Cookie: a=b\r\nx-amz-meta-a: 1\r\n\
         x-amz-version-id: v\r\nx-amz-server-side-encryption: aws:kms\r\nx-amz-bucket-region: eu\r\n\
         Keep-Alive: timeout=1\r\nVia: x\r\nX-Powered-By: y\r\nDate: z\r\n\r\nok",
    )
    .await;
    let proxy =
        PROGRAM.start(&Config::without_jwt().bucket(Bucket::named("photos").endpoint(&store.url()))).await;
    let answer = raw::ask(proxy.address, "GET", "/photos/a").await;
    let mut names: Vec<String> = answer
        .head
        .lines()
        .skip(1)
        .filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase()))
        .collect();
    names.sort_unstable();
    #[rustfmt::skip]
    assert_eq!(names, [
        "accept-ranges", "cache-control", "connection", "content-disposition", "content-length", "content-type",
        "date", "etag", "expires", "last-modified", "x-amz-meta-a", "x-amz-version-id", "x-request-id",
    ]);
}

#[tokio::test]
async fn the_stores_errors_keep_their_status_and_lose_their_text() {
    for (status, code) in [
        (400, "InvalidRequest"),
        (403, "AccessDenied"),
        (404, "NoSuchKey"),
        (405, "MethodNotAllowed"),
        (412, "PreconditionFailed"),
        (416, "InvalidRange"),
        (429, "SlowDown"),
        (500, "InternalError"),
        (503, "SlowDown"),
    ] {
        let document = "<Error><Code>SecretCode</Code><BucketName>secret-bucket</BucketName></Error>";
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nRetry-After: 7\r\nx-amz-id-2: i\r\n"
        );
        for (framing, body) in [
            (format!("Content-Length: {}\r\n", document.len()), document.to_owned()),
            (
                "Transfer-Encoding: chunked\r\n".to_owned(),
                format!("{:x}\r\n{document}\r\n0\r\n\r\n", document.len()),
            ),
        ] {
            let store = Faulty::answering(format!("{head}{framing}\r\n{body}")).await;
            let buckets = Bucket::named("photos").endpoint(&store.url());
            let proxy = PROGRAM.start(&Config::without_jwt().bucket(buckets)).await;
            let mut raw = Raw::connect(proxy.address).await;
            // Twice on one connection: the answer ends where it says.
            for _ in 0..2 {
                let answer = raw.ask("GET", "/photos/key", &[("X-Request-Id", "the-id")]).await;
                assert_eq!(answer.status, status);
                let text = String::from_utf8(answer.body.clone()).expect("a text");
                assert!(text.contains(&format!("<Code>{code}</Code>")), "{text}");
                assert!(!text.contains("ecret") && answer.header("x-amz-id-2").is_none(), "{answer:?}");
                assert_eq!(answer.header("retry-after"), Some("7"));
            }
            let line = proxy.access_line("the-id").await;
            assert_eq!(line["reason"], "store: SecretCode", "{line}");
        }
    }
}

#[tokio::test]
async fn an_error_without_a_body_stays_without_one() {
    let store = Faulty::answering("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n").await;
    let proxy =
        PROGRAM.start(&Config::without_jwt().bucket(Bucket::named("photos").endpoint(&store.url()))).await;
    let mut raw = Raw::connect(proxy.address).await;
    for method in ["GET", "HEAD", "GET"] {
        let answer = raw.ask(method, "/photos/key", &[]).await;
        assert_eq!((answer.status, answer.body.len()), (404, 0), "{method}");
    }
}

#[tokio::test]
async fn the_store_itself_answers_a_missing_object_and_a_forbidden_one() {
    let stack = Stack::start().await;
    assert_s3_error(stack.proxy.get("/photos/missing").await, 404, "NoSuchKey").await;
    let head = stack.proxy.head("/photos/missing").await;
    assert_eq!(head.status(), 404);
    assert_eq!(head.text().await.expect("a text"), "");
    let wrong = stack.config().each(|bucket| bucket.keys(store::ACCESS_KEY, "not-the-secret-key"));
    stack.proxy.write_config(&wrong);
    stack.proxy.hangup().await;
    assert_s3_error(stack.proxy.get("/photos/cat.jpg").await, 403, "AccessDenied").await;
    assert_s3_error(stack.proxy.get("/photos/missing").await, 403, "AccessDenied").await;
}

#[tokio::test]
async fn a_redirect_of_the_store_is_a_bad_gateway() {
    let store = Faulty::answering(
        "HTTP/1.1 301 X\r\nLocation: http://secret.example/\r\nx-amz-bucket-region: eu-west-3\r\nContent-Length: 3\r\n\r\nabc",
    )
    .await;
    let proxy =
        PROGRAM.start(&Config::without_jwt().bucket(Bucket::named("photos").endpoint(&store.url()))).await;
    let response = proxy.get("/photos/a").await;
    assert!(response.headers().get("location").is_none());
    assert_s3_error(response, 502, "InternalError").await;
    assert_eq!(
        proxy.metric("yatagarasu_upstream_errors_total{bucket=\"photos\",kind=\"redirect\"}").await,
        1.0
    );
}

#[tokio::test]
async fn other_methods_are_refused_and_the_connection_lives() {
    let stack = Stack::start().await;
    let mut raw = Raw::connect(stack.proxy.address).await;
    for method in ["PUT", "POST", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
        let answer = raw.ask(method, "/photos/cat.jpg", &[("Content-Length", "0")]).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"), "{method}");
    }
    let mut connect = Raw::connect(stack.proxy.address).await;
    connect.send("CONNECT photos:80 HTTP/1.1\r\nHost: photos:80\r\n\r\n").await;
    let connect = connect.answer(false).await;
    assert_eq!((connect.status, connect.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    let upload = "PUT /photos/cat.jpg HTTP/1.1\r\nHost: proxy\r\nContent-Length: 100000\r\n\r\n";
    raw.send([upload.as_bytes(), &[b'x'; 100_000]].concat()).await;
    assert_eq!(raw.answer(false).await.status, 405);
    for (target, status) in
        [("/nowhere", 404), ("/papers/plan.txt", 401), ("/photos/..", 400), ("/photos/", 404)]
    {
        assert_eq!(raw.ask("GET", target, &[]).await.status, status, "{target}");
        let head = raw.ask("HEAD", target, &[]).await;
        assert_eq!(head.status, status, "{target}");
    }
    let options = raw.ask("OPTIONS", "/photos/cat.jpg", &[]).await;
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
    assert!(stack.store.received().is_empty());
    assert_eq!(raw.ask("GET", "/photos/cat.jpg", &[]).await.body, b"a cat");
}

#[tokio::test]
async fn what_is_no_request_for_an_object_is_refused() {
    let stack = Stack::start().await;
    let ask = async |request: &'static str| {
        let mut raw = Raw::connect(stack.proxy.address).await;
        raw.send(request).await;
        raw.answer(false).await.status
    };
    assert_eq!(ask("GET /photos/cat.jpg HTTP/1.1\r\nHost: p\r\nContent-Length: 3\r\n\r\nabc").await, 400);
    let chunked =
        "GET /photos/cat.jpg HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(ask(chunked).await, 400);
    assert_eq!(ask("GET /photos/cat.jpg HTTP/1.1\r\n\r\n").await, 400);
    assert_eq!(ask("GET /photos/cat.jpg HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await, 400);
    assert_eq!(ask("GET /photos/cat.jpg HTTP/1.1\r\nHost: p\r\nContent-Length: 0\r\n\r\n").await, 200);
    assert_eq!(ask("GET /photos/cat.jpg HTTP/1.0\r\n\r\n").await, 200);
    assert_eq!(stack.store.received().len(), 2);
}

#[tokio::test]
async fn a_connection_ends_when_the_client_says_so_or_cannot_be_trusted() {
    let stack = Stack::start().await;
    for request in [
        "GET /photos/cat.jpg HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n",
        // Two framings at once, the way requests are smuggled.
        "GET /nowhere HTTP/1.1\r\nHost: p\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut raw = Raw::connect(stack.proxy.address).await;
        raw.send(request).await;
        assert_eq!(raw.answer(false).await.header("connection"), Some("close"), "{request}");
        assert_eq!(raw.rest().await.expect("a clean end"), b"", "{request}");
    }
}

#[tokio::test]
async fn errors_are_json_for_those_who_prefer_it() {
    let stack = Stack::start().await;
    let request = http().get(stack.proxy.url("/photos/missing")).header("accept", "application/json");
    let response = request.send().await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (404, &"application/json".parse().expect("a value"))
    );
    let id = response.headers()["x-request-id"].to_str().expect("plain").to_owned();
    let document = proxy::json(response).await;
    assert_eq!(
        (document["code"].as_str(), document["request_id"].as_str()),
        (Some("NoSuchKey"), Some(id.as_str()))
    );
    let request =
        http().get(stack.proxy.url("/nowhere")).header("accept", "application/json;q=0.5, text/xml");
    assert_s3_error(request.send().await.expect("an answer"), 404, "NoSuchBucket").await;
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let stack = Stack::start().await;
    for (given, kept) in [
        ("abc-1.2_3", true),
        (&"x".repeat(128) as &str, true),
        (&"x".repeat(129), false),
        ("a b", false),
        ("<a>", false),
    ] {
        for target in ["/photos/cat.jpg", "/nowhere"] {
            let request = http().get(stack.proxy.url(target)).header("x-request-id", given);
            let response = request.send().await.expect("an answer");
            assert_eq!(response.headers()["x-request-id"] == given, kept, "{given}");
        }
    }
}

#[tokio::test]
async fn temporary_credentials_come_with_their_token() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let photos = Bucket::named("photos").store(&store).s3("session_token: \"to/ken+=\"");
    let proxy = PROGRAM.start(&Config::without_jwt().bucket(photos)).await;
    assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200);
    let [received] = store.received().try_into().expect("one request");
    assert_eq!(received.header("x-amz-security-token"), Some("to/ken+="));
    assert!(received.header("authorization").expect("signed").contains("x-amz-date;x-amz-security-token"));
}

#[tokio::test]
async fn credentials_come_from_the_environment_when_the_file_has_none() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let config = Config::without_jwt().bucket(Bucket::named("photos").store(&store).without_keys());
    let environment =
        [("AWS_ACCESS_KEY_ID", store::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", store::SECRET_KEY)];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let proxy = PROGRAM.start_in(&config, Surroundings { environment, ..Default::default() }).await;
    assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_bucket_may_be_a_host_name() {
    let options = store::Options { domain: Some("store.test".to_owned()), ..Default::default() };
    let store = Store::with(options).await;
    store.put("photos", "a cat.jpg", "a cat");
    let endpoint = format!("http://store.test:{}", store.address.port());
    let photos = Bucket::named("photos").endpoint(&endpoint).s3("addressing: virtual");
    let config = Config::without_jwt().bucket(photos);
    let hosts = Some("127.0.0.1 localhost photos.store.test\n".to_owned());
    let proxy = PROGRAM.start_in(&config, Surroundings { hosts, ..Default::default() }).await;
    assert_eq!(proxy.get("/photos/a%20cat.jpg").await.text().await.expect("a text"), "a cat");
    let [received] = store.received().try_into().expect("one request");
    assert_eq!(received.target, "/a%20cat.jpg");
    assert_eq!(received.header("host"), Some(format!("photos.store.test:{}", store.address.port()).as_str()));
}
