//! Where credentials come from, as Amazon runs it: the metadata service of an instance (IMDSv2), the
//! endpoint of a container, and STS. Every answer is a new key, which the store then knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::store::{Key, Keys};

/// What an instance of the metadata service wants to see.
const IMDS_TOKEN: &str = "a-token-of-the-metadata-service";

/// What a container must show.
pub const CONTAINER_TOKEN: &str = "a-token-of-the-container";

#[derive(Clone)]
pub enum Mode {
    Issue,
    /// Answers these bytes, whatever is asked, once the metadata service has given its token.
    Answer(String),
    /// Takes the request and never answers.
    Hang,
}

/// What was asked, and which key was the answer.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `METHOD path`
    pub what: String,
    pub head: String,
    pub form: BTreeMap<String, String>,
    pub issued: Option<String>,
}

struct State {
    mode: Mode,
    lifetime: Duration,
    asked: Vec<Asked>,
    keys: Keys,
}

pub struct Authority {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Authority {
    /// Issues keys for a store that are valid for this long.
    pub async fn start(keys: Keys, lifetime: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let state = State { mode: Mode::Issue, lifetime, asked: Vec::new(), keys };
        let authority = Self { address, state: Arc::new(Mutex::new(state)) };
        let state = authority.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, state.clone()));
            }
        });
        authority
    }

    pub fn set(&self, mode: Mode) {
        self.state.lock().mode = mode;
    }

    pub fn live_for(&self, lifetime: Duration) {
        self.state.lock().lifetime = lifetime;
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().asked.clone()
    }

    /// The keys that were issued so far, the oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.asked().into_iter().filter_map(|asked| asked.issued).collect()
    }

    /// What sends the SDK here instead of to Amazon.
    pub fn environment(&self) -> Vec<(String, String)> {
        let url = format!("http://{}", self.address);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![pair("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url), pair("AWS_ENDPOINT_URL_STS", &url)]
    }

    /// What a container finds in its environment.
    pub fn container(&self) -> Vec<(String, String)> {
        let url = format!("http://{}/container", self.address);
        let mut environment = self.environment();
        environment.push(("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(), url));
        environment.push(("AWS_CONTAINER_AUTHORIZATION_TOKEN".to_owned(), CONTAINER_TOKEN.to_owned()));
        environment
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Some((head, body)) = read(&mut stream).await {
        let mode = state.lock().mode.clone();
        let what = head.split(" HTTP").next().unwrap_or_default().to_owned();
        let form = form(&body);
        let (answer, issued) = match mode {
            Mode::Answer(bytes) if !what.starts_with("PUT") => (bytes, None),
            Mode::Issue | Mode::Answer(_) => state.lock().answer(&what, &head, &form),
            Mode::Hang => return crate::faulty::swallow(stream).await,
        };
        state.lock().asked.push(Asked { what, head, form, issued });
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl State {
    fn answer(
        &mut self,
        what: &str,
        head: &str,
        form: &BTreeMap<String, String>,
    ) -> (String, Option<String>) {
        let has = |name: &str, value: &str| {
            head.lines().any(|line| line.to_lowercase() == format!("{name}: {value}").to_lowercase())
        };
        let path = "/latest/meta-data/iam/security-credentials/";
        match what.split_once(' ').unwrap_or_default() {
            ("PUT", "/latest/api/token") => {
                let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
                (http(200, ttl, IMDS_TOKEN), None)
            }
            ("GET", target) if target.starts_with(path) => {
                if !has("x-aws-ec2-metadata-token", IMDS_TOKEN) {
                    return (http(401, "", ""), None);
                }
                if target == path {
                    return (http(200, "", "a-role"), None);
                }
                let (key, document) = self.json();
                (http(200, "", &document), Some(key))
            }
            ("GET", "/container") if has("authorization", CONTAINER_TOKEN) => {
                let (key, document) = self.json();
                (http(200, "", &document), Some(key))
            }
            ("POST", "/") => {
                let action = form.get("Action").cloned().unwrap_or_default();
                let (key, issued, expires) = self.issue();
                let Key { secret_key, session_token, .. } = issued;
                let document = format!(
                    "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><AssumedRoleUser><AssumedRoleId>AROA:s</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn></AssumedRoleUser><Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret_key}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{expires}</Expiration></Credentials></{action}Result></{action}Response>",
                    session_token.unwrap_or_default()
                );
                (http(200, "content-type: text/xml\r\n", &document), Some(key))
            }
            _ => (http(404, "", ""), None),
        }
    }

    fn json(&mut self) -> (String, String) {
        let (key, issued, expires) = self.issue();
        let document = serde_json::json!({
            "Code": "Success",
            "AccessKeyId": key,
            "SecretAccessKey": issued.secret_key,
            "Token": issued.session_token,
            "Expiration": expires,
        });
        (key, document.to_string())
    }

    /// A new key, known to the store from now on, and when it expires, in text.
    fn issue(&mut self) -> (String, Key, String) {
        let number = self.asked.len();
        let expires = SystemTime::now() + self.lifetime;
        let key = Key {
            secret_key: format!("secret-key-{number}"),
            session_token: Some(format!("session-token-{number}")),
            expires: Some(expires),
        };
        let access_key = format!("ASIA{number:08}");
        self.keys.add(&access_key, key.clone());
        let at = time::OffsetDateTime::from(expires);
        let text = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        );
        (access_key, key, text)
    }
}

/// An answer as bytes; each header with its line break.
pub fn http(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The header of a request and its body.
async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("a header of text");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().expect("a length"))
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body);
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}
