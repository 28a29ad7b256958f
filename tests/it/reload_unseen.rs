//! Nothing moves before publication: names, key sets, credentials and ports while reloads are refused.

use std::time::{Duration, Instant};

use kit::authority::Mode;
use kit::issuer::{Issuer, SigningKey, key_set};
use kit::proxy::free_port;
use kit::*;
use serde_json::json;
use tokio::net::TcpStream;

use crate::stack::{PROGRAM, Stack};

/// The ways in which a run may fail, each with the text of the configuration, the fault on demand and the
/// status of the answer. `next` is the whole configuration but for its first line.
fn ways_to_fail(next: &Config, admin: &str, taken: u16) -> Vec<(&'static str, Config, &'static str, u16)> {
    let next = next.clone().with("reload: { deadline_seconds: 1 }");
    let with = |more: &str| next.clone().with(admin).with(more);
    let mut ways = vec![
        ("not YAML", with("x: ["), "", 400),
        ("an unknown key", with("unknown: 1"), "", 400),
        ("a reference that cannot be filled in", with("log: ${UNSET_HERE}"), "", 400),
        ("a port that is taken", next.clone().with(&format!("admin: {{ port: {taken} }}")), "", 400),
    ];
    if cfg!(feature = "faults") {
        ways.extend([
            ("a panic while it validates", with(""), "panic validate", 500),
            ("a panic while it compares", with(""), "panic compare", 500),
            ("late while it binds", with(""), "hang bind", 504),
            ("late while it warms", with(""), "hang warm", 504),
            ("a panic while it warms", with(""), "panic warm", 500),
        ]);
    }
    ways
}

#[tokio::test]
async fn a_refused_reload_touches_no_name_no_issuer_no_credentials_and_no_port() {
    let store = Store::start().await;
    store.put("photos", "cat.jpg", "a cat");
    let endpoint = format!("http://store.test:{}", store.address.port());
    let photos = Bucket::named("photos").endpoint(&endpoint);
    let hosts = "127.0.0.1 localhost store.test\n";
    let authority = Authority::start(store.keys.clone(), Duration::from_secs(3600)).await;
    authority.set(Mode::Issue);
    let environment = Authority::container(&authority);
    let surroundings = Surroundings { hosts: Some(hosts.to_owned()), environment, ..Default::default() };
    let in_service = Config::new().with("reload: { deadline_seconds: 1 }").bucket(photos);
    let proxy = PROGRAM.start_in(&in_service, surroundings).await;
    assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200);

    // The name goes away, so that only its last addresses are left.
    proxy::write(&proxy.folder.path().join("hosts"), "127.0.0.1 localhost\n");
    eventually("the look-up has failed", async || {
        assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200);
        proxy.log_text().contains("a name does not resolve").then_some(())
    })
    .await;

    let signing = SigningKey::new("a");
    let issuer = Issuer::start(&key_set(&[&signing])).await;
    let other_store = format!("http://elsewhere.test:{}", store.address.port());
    let (port, socket) = (free_port(), proxy.folder.path().join("admin.sock"));
    let photos = Bucket::named("photos").endpoint(&other_store);
    let papers = Bucket::named("papers").endpoint(&other_store).credentials("source: container").private();
    let next = Config::new()
        .with(&format!("server: {{ address: 127.0.0.1, port: {port} }}"))
        .jwt(&format!("jwks: [{{ url: \"{}\" }}]", issuer.url()))
        .bucket(photos)
        .bucket(papers);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = (taken.local_addr().expect("bound").port(), taken).0;
    let occupied = std::net::TcpListener::bind(("127.0.0.1", taken)).expect("the same port again");
    for (what, config, fault, expected) in
        ways_to_fail(&next, &format!("admin: {{ socket: {} }}", socket.display()), taken)
    {
        proxy.write_config(&config);
        proxy.fault(fault);
        let token = admin_token();
        let reload = proxy.reload(&token);
        let connecting = async {
            // The new port takes nobody, at no time.
            let end = Instant::now() + Duration::from_millis(300);
            while Instant::now() < end {
                assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "{what}: the port is open");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ((status, answer), ()) = tokio::join!(reload, connecting);
        assert_eq!(status, expected, "{what}: {answer}");
        proxy.fault("");
        eventually("a run that was given up has ended", async || {
            (proxy.threads("reload-prepare") == 0).then_some(())
        })
        .await;
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "{what}: the port is open");
        assert!(!socket.exists(), "{what}: the socket's file is left behind");
        assert_eq!(issuer.fetches(), 0, "{what}: the issuer was asked");
        assert_eq!(authority.asked().len(), 0, "{what}: credentials were asked for");
        // The last addresses of the name that does not resolve any more are still there.
        assert_eq!(proxy.get("/photos/cat.jpg").await.status(), 200, "{what}");
        assert_eq!(proxy.generation().await, 1, "{what}");
    }
    drop(occupied);

    // The same configuration, once nothing is wrong with it, does all of that.
    let good = next.each(|bucket| bucket.store(&store)).with("reload: { deadline_seconds: 10 }");
    proxy.write_config(&good);
    let (status, answer) = proxy.reload(&admin_token()).await;
    assert_eq!((status, &answer["config_generation"]), (200, &json!(2)), "{answer}");
    assert!(issuer.fetches() > 0 && !authority.asked().is_empty());
    TcpStream::connect(("127.0.0.1", port)).await.expect("the new port is open");
}

#[tokio::test]
async fn a_slow_issuer_is_a_warning_also_at_the_shortest_deadline() {
    let silent = faulty::Faulty::start(|stream, _| faulty::swallow(stream)).await;
    let more = |url: &str| {
        format!(
            "reload: {{ deadline_seconds: 1 }}\njwt: {{ secret: {}, jwks: [{{ url: \"{url}/keys\" }}] }}",
            token::SECRET
        )
    };
    let stack = Stack::with("reload: { deadline_seconds: 1 }").await;
    stack.proxy.write_config(&stack.config().with(&more(&silent.url())));
    let (status, answer) = stack.proxy.reload(&admin_token()).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["warnings"].to_string().contains("are not known yet"), "{answer}");
}

/// A bucket's file whose key set is at this issuer.
fn with_issuer(stack: &Stack, issuer: &Issuer) -> Config {
    let jwks = format!(
        "jwt: {{ secret: {}, jwks: [{{ url: \"{}\", refresh_seconds: 1, refetch_seconds: 1 }}] }}",
        token::SECRET,
        issuer.url()
    );
    stack.config().with(&jwks)
}

#[tokio::test]
async fn a_rollback_never_trusts_a_key_that_was_withdrawn_meanwhile() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let (one, two) = (Issuer::start(&key_set(&[&old])).await, Issuer::start(&key_set(&[&new])).await);
    let stack = Stack::start().await;
    let read = async |key: &SigningKey| {
        stack.proxy.get_as("/papers/plan.txt", &key.token(json!({}))).await.status().as_u16()
    };
    for issuer in [&one, &two] {
        stack.proxy.write_config(&with_issuer(&stack, issuer));
        assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    }
    assert_eq!((read(&old).await, read(&new).await), (401, 200));

    // The issuer that is not in service withdraws its key and answers: the rollback waits for that.
    let third = SigningKey::new("third");
    one.publish(&key_set(&[&third]));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(stack.proxy.post("/admin/rollback").await.0, 200);
    assert_eq!((read(&old).await, read(&third).await), (401, 200));

    // Forward again, by the file; then the issuer cannot be asked: its keys are trusted no more.
    assert_eq!(stack.proxy.reload(&admin_token()).await.0, 200);
    assert_eq!(read(&new).await, 200);
    one.say("500 Broken", "", "");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let (status, answer) = stack.proxy.post("/admin/rollback?to=4").await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["warnings"].to_string().contains("longer ago than refresh_seconds"), "{answer}");
    assert_eq!(read(&third).await, 401);

    // It is back: its keys are, too.
    one.publish(&key_set(&[&third]));
    eventually("the keys are fetched again", async || (read(&third).await == 200).then_some(())).await;
}
