//! Everything that identities are made of changes at once, under load: secrets, published keys, and the
//! credentials of the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kit::issuer::{Issuer, SigningKey, key_set};
use kit::token::now;
use kit::*;
use serde_json::json;
use tokio::sync::{RwLock, watch};

use crate::stack::PROGRAM;

const READERS: usize = 4;

/// Secrets in the file, one after the other, and keys of the issuer.
const SECRETS: usize = 20;
const PUBLISHED: usize = 5;

/// So long the proxy waits between two looks at the issuer's keys, at least.
const REFETCH: Duration = Duration::from_secs(1);

struct Secret {
    id: String,
    secret: String,
}

impl Secret {
    fn new(number: usize) -> Self {
        Self { id: format!("secret-{number}"), secret: format!("a-secret-of-at-least-32-bytes-{number:04}") }
    }

    fn entry(&self) -> String {
        format!("{{ id: {}, secret: {} }}", self.id, self.secret)
    }

    fn token(&self) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::HS256) };
        let claims = json!({ "exp": now() + 3600, "role": "admin" });
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(self.secret.as_bytes()))
            .expect("a token")
    }
}

/// One token of a secret, and one of a published key. Whoever reads with them holds the lock, so that
/// none is used any more once it was replaced.
type Tokens = Arc<RwLock<[String; 2]>>;

async fn read(url: String, tokens: Tokens, which: usize, mut stop: watch::Receiver<bool>) -> usize {
    let mut requests = 0;
    while !*stop.borrow_and_update() {
        let tokens = tokens.read().await;
        let response = http().get(&url).bearer_auth(&tokens[which]).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "a valid token was refused after {requests} requests");
        requests += 1;
    }
    requests
}

#[tokio::test]
async fn no_valid_request_is_refused_while_keys_and_credentials_change() {
    let store = Store::start().await;
    store.put("papers", "plan.txt", "a plan");
    let authority = Authority::start(store.keys.clone(), Duration::from_secs(8)).await;
    let mut published = SigningKey::new("published-0");
    let issuer = Issuer::start(&key_set(&[&published])).await;
    let config = |secrets: &[&Secret]| {
        let entries: Vec<String> = secrets.iter().map(|secret| secret.entry()).collect();
        let jwks = format!("[{{ url: \"{}\", refetch_seconds: {} }}]", issuer.url(), REFETCH.as_secs());
        Config::without_jwt()
            .jwt(&format!("keys: [{}], jwks: {jwks}", entries.join(", ")))
            .bucket(Bucket::named("papers").store(&store).credentials("source: container").private())
    };
    let mut secret = Secret::new(0);
    let surroundings = Surroundings { environment: authority.container(), ..Default::default() };
    let proxy = PROGRAM.start_in(&config(&[&secret]), surroundings).await;

    let tokens = Arc::new(RwLock::new([secret.token(), published.token(json!({}))]));
    let (stop, stopped) = watch::channel(false);
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let url = proxy.url("/papers/plan.txt");
            tokio::spawn(read(url, tokens.clone(), reader % 2, stopped.clone()))
        })
        .collect();

    for round in 1..=SECRETS {
        let next = Secret::new(round);
        proxy.write_config(&config(&[&next, &secret]));
        assert_eq!(proxy.reload(&secret.token()).await.0, 200);
        tokens.write().await[0] = next.token();
        proxy.write_config(&config(&[&next]));
        assert_eq!(proxy.reload(&next.token()).await.0, 200);
        assert_eq!(proxy.get_as("/papers/plan.txt", &secret.token()).await.status(), 401, "a dead key");
        secret = next;
        if round % (SECRETS / PUBLISHED) == 0 {
            let next = SigningKey::new(&format!("published-{round}"));
            issuer.publish(&key_set(&[&next]));
            let started = Instant::now();
            tokio::time::sleep(REFETCH).await;
            // The first one waits for the key.
            tokens.write().await[1] = next.token(json!({}));
            eventually("the old key is forgotten", async || {
                let old = published.token(json!({}));
                let status = proxy.get_as("/papers/plan.txt", &old).await.status();
                assert!(started.elapsed() < PATIENCE);
                (status == 401).then_some(())
            })
            .await;
            published = next;
        }
    }
    stop.send(true).expect("readers read");
    let mut requests = 0;
    for reader in readers {
        requests += reader.await.expect("no valid token was refused");
    }
    let identities: BTreeSet<String> =
        store.received().iter().map(|received| received.access_key().to_owned()).collect();
    println!(
        "{requests} requests, none refused: {SECRETS} secrets, {PUBLISHED} published keys, {} credentials",
        identities.len()
    );
    assert!(requests > 200 && identities.len() >= 2, "{requests} requests as {}", identities.len());
    assert_eq!(proxy.generation().await, 1 + 2 * SECRETS as u64);
}
