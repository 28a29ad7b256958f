//! A real S3 server on loopback: `s3s` checks every signature, `s3s-fs` keeps the objects in a
//! folder. It remembers what it received, so that a test can assert both sides.
//!
//! `s3s-fs` does not evaluate conditions of reads; they are evaluated here, in front of it.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::Body;
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: String,
    /// Path and query, byte for byte.
    pub target: String,
    pub headers: HeaderMap,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The access key that the request was signed with.
    pub fn access_key(&self) -> &str {
        let authorization = self.header("authorization").unwrap_or_default();
        authorization
            .split_once("Credential=")
            .and_then(|(_, rest)| rest.split('/').next())
            .unwrap_or_default()
    }
}

/// The keys that a store knows, which may change while it serves.
#[derive(Clone, Default)]
pub struct Keys(Arc<Mutex<HashMap<String, Key>>>);

#[derive(Clone)]
pub struct Key {
    pub secret_key: String,
    /// Which a request signed with it must carry.
    pub session_token: Option<String>,
    pub expires: Option<SystemTime>,
}

impl Keys {
    pub fn add(&self, access_key: &str, key: Key) {
        self.0.lock().insert(access_key.to_owned(), key);
    }

    fn find(&self, access_key: &str) -> Option<Key> {
        self.0.lock().get(access_key).cloned()
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> s3s::S3Result<SecretKey> {
        let Some(key) = self.find(access_key) else { return Err(s3s::s3_error!(InvalidAccessKeyId)) };
        if key.expires.is_some_and(|expires| expires < SystemTime::now()) {
            return Err(s3s::s3_error!(ExpiredToken));
        }
        Ok(key.secret_key.into())
    }
}

pub struct Store {
    pub address: SocketAddr,
    pub root: TempDir,
    pub keys: Keys,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
}

/// The credentials that every store knows, beside those it is told of.
pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// What a store may be started with.
#[derive(Default)]
pub struct Options {
    /// On loopback; any free one for 0.
    pub port: u16,
    /// More pairs of access and secret key.
    pub credentials: Vec<(String, String)>,
    /// The name below which buckets are host names.
    pub domain: Option<String>,
    pub tls: Option<TlsAcceptor>,
}

impl Store {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let root = TempDir::new().expect("a temporary folder");
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let keys = Keys::default();
        let store = Self { address, root, keys, received: Arc::default(), connections: Arc::default() };
        let service = service(&store, &options);
        let keys = store.keys.clone();
        let (received, connections, tls) = (store.received.clone(), store.connections.clone(), options.tls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                connections.fetch_add(1, Ordering::SeqCst);
                let (service, received, tls) = (service.clone(), received.clone(), tls.clone());
                let keys = keys.clone();
                let respond = service_fn(move |request: Request<Incoming>| {
                    let (service, keys, received) = (service.clone(), keys.clone(), received.clone());
                    async move { respond(&service, &keys, &received, request).await }
                });
                tokio::spawn(serve(stream, tls, respond));
            }
        });
        store
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes an object straight into the folder.
    pub fn put(&self, bucket: &str, key: &str, content: impl AsRef<[u8]>) {
        let path = self.root.path().join(bucket).join(key);
        fs::create_dir_all(path.parent().expect("a bucket")).expect("a folder");
        fs::write(path, content).expect("an object");
    }

    /// Everything received since the last call.
    pub fn received(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn service(store: &Store, options: &Options) -> S3Service {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(store.root.path()).expect("a folder"));
    let constant =
        |secret_key: &str| Key { secret_key: secret_key.to_owned(), session_token: None, expires: None };
    store.keys.add(ACCESS_KEY, constant(SECRET_KEY));
    for (access_key, secret_key) in &options.credentials {
        store.keys.add(access_key, constant(secret_key));
    }
    service.set_auth(store.keys.clone());
    if let Some(domain) = &options.domain {
        let domain = format!("{domain}:{}", store.address.port());
        service.set_host(SingleDomain::new(&domain).expect("a domain"));
    }
    service.build()
}

/// Answers on one connection, over TLS where that is wanted. A proxy that hangs up is nothing to report.
pub async fn serve<S, B>(stream: TcpStream, tls: Option<TlsAcceptor>, respond: S)
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: HttpBody + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let http = hyper::server::conn::http1::Builder::new();
    match tls {
        None => drop(http.serve_connection(TokioIo::new(stream), respond).await),
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(http.serve_connection(TokioIo::new(stream), respond).await);
            }
        }
    }
}

async fn respond(
    service: &S3Service,
    keys: &Keys,
    received: &Mutex<Vec<Received>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let record = Received {
        method: request.method().to_string(),
        target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: request.headers().clone(),
    };
    // `s3s` checks that the token was signed, and not whose it is.
    let key = keys.find(record.access_key());
    let is_mixed = key
        .and_then(|key| key.session_token)
        .is_some_and(|token| record.header("x-amz-security-token") != Some(&token));
    received.lock().push(record);
    if is_mixed {
        let mut response = Response::new(Body::from("<Error><Code>InvalidToken</Code></Error>".to_owned()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    }
    let conditions = request.headers().clone();
    let is_read = matches!(request.method().as_str(), "GET" | "HEAD");
    let is_head = request.method() == http::Method::HEAD;
    let response = match service.call(request.map(Body::from)).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = Response::new(Body::from(format!("{error:?}")));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    };
    Ok(if is_read && response.status().is_success() {
        conditional(&conditions, response, is_head)
    } else {
        response
    })
}

/// RFC 9110, section 13.2.2: the order in which conditions are evaluated.
fn conditional(conditions: &HeaderMap, mut response: Response<Body>, is_head: bool) -> Response<Body> {
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let etag = text(response.headers(), "etag").unwrap_or_default();
    let modified = text(response.headers(), "last-modified").and_then(|text| date(&text));
    let named = |list: String| list == "*" || list.split(',').any(|one| one.trim() == etag);
    let since = |name| text(conditions, name).and_then(|text| date(&text));
    let failed = match text(conditions, "if-match") {
        Some(list) => !named(list),
        None => since("if-unmodified-since").zip(modified).is_some_and(|(since, modified)| modified > since),
    };
    let unmodified = match text(conditions, "if-none-match") {
        Some(list) => named(list),
        None => since("if-modified-since").zip(modified).is_some_and(|(since, modified)| modified <= since),
    };
    if failed {
        let document = "<Error><Code>PreconditionFailed</Code><BucketName>hidden</BucketName></Error>";
        let body = if is_head { Body::empty() } else { Body::from(document.to_owned()) };
        response = Response::new(body);
        *response.status_mut() = StatusCode::PRECONDITION_FAILED;
    } else if unmodified {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().remove("content-length");
        *response.body_mut() = Body::empty();
    }
    response
}

fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}
