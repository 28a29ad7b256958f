//! An issuer: key pairs, and a server that publishes them and can be told what to say next.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto::sign};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::faulty::{Faulty, read_request};
use crate::token::now;

/// A key pair on P-256, under a `kid`.
pub struct SigningKey {
    pub id: String,
    pair: KeyPair,
}

impl SigningKey {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key pair") }
    }

    /// The public half as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let point = self.pair.der_bytes();
        let coordinate = |range| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "alg": "ES256",
            "x": coordinate(1..33), "y": coordinate(33..65) })
    }

    /// The public half in PEM.
    pub fn pem(&self) -> String {
        self.pair.public_key_pem()
    }

    pub fn token(&self, mut claims: Value) -> String {
        if claims.get("exp").is_none() {
            claims["exp"] = json!(now() + 3600);
        }
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.private()).expect("a token")
    }

    /// The signature of a text, in base64url.
    pub fn sign(&self, text: &str) -> String {
        sign(text.as_bytes(), &self.private(), Algorithm::ES256).expect("a signature")
    }

    fn private(&self) -> EncodingKey {
        EncodingKey::from_ec_der(&self.pair.serialize_der())
    }
}

/// A JWK Set of these keys.
pub fn key_set(keys: &[&SigningKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Publishes a document; every fetch is a connection of its own.
pub struct Issuer {
    server: Faulty,
    answer: Arc<Mutex<String>>,
}

impl Issuer {
    pub async fn start(document: &str) -> Self {
        let answer = Arc::new(Mutex::new(String::new()));
        let shared = answer.clone();
        let server = Faulty::start(move |mut stream, _| {
            let answer = shared.clone();
            async move {
                read_request(&mut stream).await;
                let bytes = answer.lock().clone();
                let _ = stream.write_all(bytes.as_bytes()).await;
            }
        })
        .await;
        let issuer = Self { server, answer };
        issuer.publish(document);
        issuer
    }

    pub fn publish(&self, document: &str) {
        self.say("200 OK", "", document);
    }

    /// Answers with this from now on.
    pub fn say(&self, status: &str, header: &str, body: &str) {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{header}\r\n{body}"
        );
        *self.answer.lock() = answer;
    }

    pub fn url(&self) -> String {
        format!("{}/keys?tenant=a-secret-tenant", self.server.url())
    }

    pub fn fetches(&self) -> usize {
        self.server.connections()
    }
}
