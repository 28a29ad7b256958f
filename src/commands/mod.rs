//! What the program does as a client of a running server: mint tokens and links, ask for
//! a reload.

pub(crate) mod dispatch;
mod owner;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use http::header::HOST;
use http::{Request, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::access::links::Object;
use crate::access::networks::Network;
use crate::config::{Config, MintingKey};
use crate::routing;
use crate::tokens::claims::{self, Claims};
use crate::tokens::keys;

/// The life of a token for one call; the server adds its leeway.
const OPERATOR_TTL: Duration = Duration::from_secs(10);

/// Longer than the server gives a reload.
const PATIENCE: Duration = Duration::from_secs(40);

/// A token for trying things out, with the issuer and the audience that the configuration wants.
pub(crate) fn token(config: &Config, given: &[(String, Value)], ttl: Duration) -> Result<String> {
    let key = config.minting.keys.first().context(NO_SECRET)?;
    mint(key, given, ttl)
}

const NO_SECRET: &str = "no token can be made: the configuration holds no secret of an HS algorithm";

/// A token for one operator's request.
fn operator_token(config: &Config, key: &MintingKey) -> Result<String> {
    let mut claims = Claims::new();
    for condition in &config.minting.operator_conditions {
        condition.satisfy(&mut claims);
    }
    let given: Vec<_> = claims.into_iter().collect();
    mint(key, &given, OPERATOR_TTL)
}

fn mint(key: &MintingKey, given: &[(String, Value)], ttl: Duration) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut token = Claims::new();
    token.insert("iat".to_owned(), now.as_secs().into());
    token.insert("exp".to_owned(), now.saturating_add(ttl).as_secs().into());
    if let Some(issuer) = &key.issuer {
        token.insert("iss".to_owned(), issuer.as_str().into());
    }
    if let Some(audience) = &key.audience {
        token.insert("aud".to_owned(), audience.as_str().into());
    }
    for (name, value) in given {
        claims::insert(&mut token, name, value.clone());
    }
    keys::mint(key.algorithm, &key.secret, key.id.as_deref(), &token).context("the token cannot be signed")
}

/// A link to an object, with the secret of its bucket. `url` is absolute, or only a path.
pub(crate) fn sign(config: &Config, url: &str, ttl: Duration, network: Option<&str>) -> Result<String> {
    let uri: Uri = url.parse().with_context(|| format!("`{url}` is not a URL; percent-encode its path"))?;
    ensure!(!url.contains(['?', '#']), "`{url}` has a query or a fragment already; leave it out");
    let path = routing::decode(uri.path()).with_context(|| format!("`{url}`"))?;
    let (bucket, key) =
        config.routes.find(&path).with_context(|| format!("no bucket is served at `{path}`"))?;
    ensure!(!key.is_empty(), "`{url}` names no object");
    let name = &bucket.name;
    let links = bucket
        .policy
        .links
        .as_ref()
        .with_context(|| format!("the bucket `{name}` has no `auth.signed_links`; add them"))?;
    let longest = links.max_ttl.as_secs();
    ensure!(
        (1..=longest).contains(&ttl.as_secs()),
        "a link of the bucket `{name}` is valid for 1 to {longest} seconds"
    );
    if let Some(network) = network {
        Network::parse(network).map_err(|why| anyhow!("`{network}` {why}"))?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let object = Object { bucket: name, path: &path };
    Ok(format!("{url}?{}", links.mint(object, (now + ttl).as_secs(), network)))
}

/// Asks the server that runs with this configuration to reload. Without an address and a token, at its
/// socket, if this user needs no token there.
///
/// `path` is the file of the configuration.
pub(crate) fn reload_configured(
    path: &Path,
    config: &Config,
    url: Option<String>,
    token: Option<String>,
) -> Result<String> {
    let (None, None, Some(socket)) = (&url, &token, own_socket(config)) else {
        return reload_at_port(path, config, url, token);
    };
    let why = match ask_at(socket) {
        Ok(answer) if !matches!(answer.status, 401 | 403) => return answer.verdict(),
        Ok(answer) => format!("the server answered {}: {}", answer.status, text(&answer.body, "message")),
        Err(error) => format!("{error:#}"),
    };
    // The running configuration may not have the socket yet, or not this user.
    reload_at_port(path, config, None, None)
        .with_context(|| format!("not at the socket `{}`: {why}; nor at the port", socket.display()))
}

/// The operators' socket, if this user is one of those who need no token there.
fn own_socket(config: &Config) -> Option<&Path> {
    let user = rustix::process::geteuid().as_raw();
    config.operators.socket.as_deref().filter(|_| config.operators.socket_uids.contains(&user))
}

fn reload_at_port(
    path: &Path,
    config: &Config,
    url: Option<String>,
    token: Option<String>,
) -> Result<String> {
    let is_given = url.is_some();
    let url = url.unwrap_or_else(|| format!("http://{}", reachable(config)));
    if let Some(token) = token {
        return reload(&url, &token);
    }
    if !is_given {
        check_listener(path, config, &url)?;
    }
    // The first key may be one that the server is yet to learn, by this very reload.
    let mut outcome = Err(anyhow!(NO_SECRET).context("give the token of an operator with --token-file"));
    for key in &config.minting.keys {
        outcome = reload(&url, &operator_token(config, key)?);
        if !matches!(&outcome, Err(error) if error.is::<Unauthorized>()) {
            return outcome;
        }
    }
    outcome.map_err(|error| match error.downcast_ref() {
        Some(Unauthorized(_)) => error.context(
            "the token was made with a secret in the file, which may not be a running one; use --token-file, or kill -HUP",
        ),
        None => error,
    })
}

/// Refuses to give a token away to a listener whose user could not have made it.
///
/// While the server is down, any user of the machine can listen at its port and collect operators' tokens,
/// which other servers with the same secret accept as well.
fn check_listener(path: &Path, config: &Config, url: &str) -> Result<()> {
    let Some(users) = owner::of_listeners(reachable(config)) else { return Ok(()) };
    ensure!(!users.is_empty(), "nobody listens at {url}; {IS_IT_RUNNING}");
    let us = rustix::process::geteuid().as_raw();
    let may_have_it = |user: u32| {
        user == 0 || user == us || config.operators.socket_uids.contains(&user) || owner::is_of(path, user)
    };
    match users.into_iter().find(|user| !may_have_it(*user)) {
        None => Ok(()),
        Some(user) => bail!(
            "uid {user} listens at {url}, and no token is sent there: that user is neither root nor this one, \
             does not own `{}` or belong to its group, and is not in admin.socket_uids; \
             end what listens there, or use --token-file, --url, or kill -HUP",
            path.display()
        ),
    }
}

const IS_IT_RUNNING: &str = "is the server running, and with these ports?";

/// The server does not know the token.
#[derive(Debug, Error)]
#[error("the server answered 401: {0}")]
struct Unauthorized(String);

/// Asks a server to reload. The answer's text, or an error with the server's own words.
pub(crate) fn reload(server: &str, token: &str) -> Result<String> {
    let url = format!("{}/admin/reload", server.trim_end_matches('/'));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        // The token is for this server and nobody on the way.
        .proxy(None)
        .max_redirects(0)
        .build()
        .into();
    let mut response = agent
        .post(&url)
        .header("Authorization", format!("Bearer {}", token.trim()))
        .send_empty()
        .with_context(|| format!("{url} does not answer; {IS_IT_RUNNING}"))?;
    let body = response.body_mut().read_to_string().context("the answer cannot be read")?;
    Answer::new(response.status().as_u16(), &body).verdict()
}

/// The same at the operators' socket, as the user that this program runs as.
fn ask_at(socket: &Path) -> Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::post("/admin/reload").header(HOST, "localhost").body(String::new())?;
        let response = requests.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok(Answer::new(status, &String::from_utf8_lossy(&body)))
    };
    let answer = runtime.block_on(async { timeout(PATIENCE, exchange).await });
    answer.map_err(|_| anyhow!("no answer within {} seconds", PATIENCE.as_secs()))?
}

/// What a server answered.
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    fn new(status: u16, body: &str) -> Self {
        Self { status, body: serde_json::from_str(body).unwrap_or_default() }
    }

    fn verdict(&self) -> Result<String> {
        match self.status {
            200 if is_success(&self.body) => Ok(report(&self.body)),
            400 => bail!("{}", failures(&self.body)),
            401 => Err(Unauthorized(text(&self.body, "message").to_owned()).into()),
            status => bail!("the server answered {status}: {}", text(&self.body, "message")),
        }
    }
}

/// Where this machine reaches the operators' endpoints.
fn reachable(config: &Config) -> SocketAddr {
    let listen = config.operators.listen.unwrap_or(config.server.listen);
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), listen.port()),
        _ => listen,
    }
}

/// Whether it is our server that says so.
fn is_success(answer: &Value) -> bool {
    text(answer, "status") == "success" && answer.get("config_generation").is_some_and(Value::is_u64)
}

fn report(answer: &Value) -> String {
    let changes = answer["changes"].as_array().map_or(0, Vec::len);
    let mut report = format!("generation {} is in service; changes: {changes}", answer["config_generation"]);
    for change in answer["changes"].as_array().into_iter().flatten() {
        let values = match (change.get("old"), change.get("new")) {
            (Some(old), Some(new)) => format!(": {old} → {new}"),
            _ => String::new(),
        };
        report.push_str(&format!("\n{} {}{values}", text(change, "kind"), text(change, "path")));
    }
    for pending in answer["pending_restart"].as_array().into_iter().flatten() {
        report.push_str(&format!(
            "\npending restart {}: {} → {}",
            text(pending, "key"),
            pending["running"],
            pending["file"]
        ));
    }
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        report.push_str(&format!("\nwarning {}", warning.as_str().unwrap_or_default()));
    }
    report
}

fn failures(answer: &Value) -> String {
    let lines: Vec<&str> =
        answer["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    format!(
        "{}\nthe reload failed; generation {} stays in service",
        lines.join("\n"),
        answer["config_generation"]
    )
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}
