//! What the program does as a client of a running server: mint tokens, ask for a reload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::auth::claims::{self, Claims};
use crate::auth::keys;
use crate::config::{Config, Minting};

/// Longer than the server gives a reload.
const PATIENCE: Duration = Duration::from_secs(40);

/// A token for trying things out, with the issuer and the audience that the configuration wants.
pub fn token(config: &Config, given: &[(String, Value)], ttl: Duration) -> Result<String> {
    mint(minting(config)?, given, ttl)
}

/// A token for one operator's request.
fn operator_token(config: &Config) -> Result<String> {
    let minting = minting(config).context("give the token of an operator with --token-file")?;
    let mut claims = Claims::new();
    for condition in &minting.operator_conditions {
        condition.satisfy(&mut claims);
    }
    let given: Vec<_> = claims.into_iter().collect();
    mint(minting, &given, Duration::from_secs(60))
}

fn minting(config: &Config) -> Result<&Minting> {
    config
        .minting
        .as_ref()
        .context("no token can be made: the configuration holds no secret of an HS algorithm")
}

fn mint(minting: &Minting, given: &[(String, Value)], ttl: Duration) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut token = Claims::new();
    token.insert("iat".to_owned(), now.as_secs().into());
    token.insert("exp".to_owned(), now.saturating_add(ttl).as_secs().into());
    if let Some(issuer) = &minting.issuer {
        token.insert("iss".to_owned(), issuer.as_str().into());
    }
    if let Some(audience) = &minting.audience {
        token.insert("aud".to_owned(), audience.as_str().into());
    }
    for (name, value) in given {
        claims::insert(&mut token, name, value.clone());
    }
    keys::mint(minting.algorithm, &minting.secret, &token).context("the token cannot be signed")
}

/// Asks the server that runs with this configuration to reload. The answer's text, or an error with
/// the server's own words.
pub fn reload(config: &Config, token: Option<String>) -> Result<String> {
    let minted = token.is_none();
    let token = token.map_or_else(|| operator_token(config), Ok)?;
    let url = format!("http://{}/admin/reload", reachable(config));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent
        .post(&url)
        .header("Authorization", format!("Bearer {}", token.trim()))
        .send_empty()
        .with_context(|| format!("{url} does not answer; is the server running, and with these ports?"))?;
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_string().context("the answer cannot be read")?;
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    match status {
        200 => Ok(report(&answer)),
        400 => bail!("{}", failures(&answer)),
        401 if minted => bail!(
            "{}; the token was made with the secret in the file, which may not be the running one: use --token-file, or kill -HUP",
            text(&answer, "message")
        ),
        _ => bail!("the server answered {status}: {}", text(&answer, "message")),
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

fn report(answer: &Value) -> String {
    let changes = answer["changes"].as_array().map_or(0, Vec::len);
    let mut report = format!("generation {} is in service; {changes} changes", answer["config_generation"]);
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
