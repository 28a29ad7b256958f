//! S3's own words: where a bucket lives and how a request to it is addressed and signed.
//!
//! Knows no configuration, no Pingora and no clock; texts are parsed here and total afterwards.
//! Addressing follows the Amazon S3 User Guide, "Virtual hosting of buckets".

pub(crate) mod canonical;
pub(crate) mod credentials;
pub(crate) mod error;
pub(crate) mod identity;
pub(crate) mod key;
pub(crate) mod operation;
pub(crate) mod query;
pub(crate) mod sign;
pub(crate) mod signing_key;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

use key::ObjectKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host as a connection needs it: something to look up, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl Host {
    /// As a certificate has it.
    pub fn server_name(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Address(address) => address.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidEndpoint {
    #[error("is not an absolute URL; write it as `https://host` or `http://host:port`")]
    NotAUrl,
    #[error("has an unknown scheme; use `http` or `https`")]
    Scheme,
    #[error("holds a user name or a password; give the credentials as `access_key` and `secret_key`")]
    UserInfo,
    #[error("holds a path or a query; an endpoint is scheme, host and port only")]
    Path,
    #[error("has no valid host; use a DNS name or an IP address")]
    Host,
    #[error("has no valid port; use 1 to 65535")]
    Port,
}

/// Scheme, host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidEndpoint::NotAUrl)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(InvalidEndpoint::Scheme),
        };
        if rest.contains('@') {
            return Err(InvalidEndpoint::UserInfo);
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(InvalidEndpoint::Path);
        }
        let (host, port) = match authority.rsplit_once(':') {
            // The last colon of a bare IPv6 address is inside its brackets.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None => scheme.default_port(),
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or(InvalidEndpoint::Port)?,
        };
        Ok(Self { scheme, host: parse_host(host).ok_or(InvalidEndpoint::Host)?, port })
    }

    /// The `Host` header: with the port unless it is the scheme's own.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The endpoint of AWS for a region, dual-stack off (AWS General Reference, "Amazon S3
    /// endpoints and quotas"). Other partitions need an endpoint of their own.
    pub fn aws(region: &str) -> Self {
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Self {
            scheme: Scheme::Https,
            host: Host::Name(format!("s3.{region}.{suffix}")),
            port: Scheme::Https.default_port(),
        }
    }
}

fn parse_host(text: &str) -> Option<Host> {
    if let Some(v6) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().ok().map(|address| Host::Address(address.into()));
    }
    if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
        return Some(Host::Address(address.into()));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A name of digits only would be read as an address by the resolver (`http://2130706433`).
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let valid = text.len() <= 253 && !numeric && text.split('.').all(label);
    valid.then(|| Host::Name(text.to_ascii_lowercase()))
}

/// Where the bucket's name stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://endpoint/bucket/key`
    Path,
    /// `https://bucket.endpoint/key`
    Virtual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidBucket {
    #[error(
        "is not a bucket name; use 3 to 63 letters, digits, `.`, `-` and `_`, beginning and ending with a letter or a digit"
    )]
    Name,
    #[error("cannot be part of the host name of an IP address; set `addressing: path`")]
    VirtualAddress,
    #[error(
        "cannot begin a host name, because a part of it begins or ends with `-` or the name is too long; set `addressing: path`"
    )]
    Label,
}

/// Most paths of objects are shorter.
const USUAL_PATH_BYTES: usize = 128;

/// One bucket in one store, addressed; the host, the `Host` header and the start of every path are
/// settled here.
#[derive(Debug, Clone)]
pub struct Bucket {
    endpoint: Endpoint,
    authority: String,
    path: String,
}

impl Bucket {
    pub fn new(name: &str, endpoint: Endpoint, addressing: Addressing) -> Result<Self, InvalidBucket> {
        if !is_bucket_name(name) {
            return Err(InvalidBucket::Name);
        }
        let (host, path) = match (addressing, endpoint.host) {
            (Addressing::Path, host) => (host, format!("/{name}/")),
            (Addressing::Virtual, Host::Name(host)) if !is_host_name(&format!("{name}.{host}")) => {
                return Err(InvalidBucket::Label);
            }
            (Addressing::Virtual, Host::Name(host)) => (Host::Name(format!("{name}.{host}")), "/".to_owned()),
            (Addressing::Virtual, Host::Address(_)) => return Err(InvalidBucket::VirtualAddress),
        };
        let endpoint = Endpoint { host, ..endpoint };
        Ok(Self { authority: endpoint.authority(), endpoint, path })
    }

    /// The server; its host begins with the bucket's name where that is virtual-hosted.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The `Host` header: as signed and as sent, with the port unless it is the scheme's own.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path of an object, as signed and as sent. S3 encodes a path once and never normalises.
    pub fn path_of(&self, key: &ObjectKey) -> String {
        let mut path = String::with_capacity(USUAL_PATH_BYTES);
        path.push_str(&self.path);
        path.extend(key.encoded());
        path
    }
}

/// The rules of Amazon S3 ("Bucket naming rules"), with the capitals and underscores that older
/// buckets and other stores allow.
fn is_bucket_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte))
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..")
}

/// Whether a certificate can be checked for a name (RFC 5890, section 2.3.1, and underscores).
fn is_host_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|label| !label.starts_with('-') && !label.ends_with('-'))
}

/// Whether a text can be a region: it becomes a part of the credential scope and of host names.
pub(crate) fn is_region(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(name: &str, endpoint: &str, addressing: Addressing) -> Result<Bucket, InvalidBucket> {
        Bucket::new(name, Endpoint::parse(endpoint).expect("valid endpoint"), addressing)
    }

    #[test]
    fn endpoints_are_scheme_host_and_port() {
        for (text, host, port) in [
            ("http://127.0.0.1:9000", "127.0.0.1", 9000),
            ("HTTPS://Minio.Example/", "minio.example", 443),
            ("http://store", "store", 80),
            ("http://[::1]:9000", "[::1]", 9000),
            ("https://[2001:db8::1]", "[2001:db8::1]", 443),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!((endpoint.host.to_string().as_str(), endpoint.port), (host, port), "{text}");
        }
        for (text, why) in [
            ("minio:9000", InvalidEndpoint::NotAUrl),
            ("ftp://a", InvalidEndpoint::Scheme),
            ("http://u:p@a", InvalidEndpoint::UserInfo),
            ("http://a/b", InvalidEndpoint::Path),
            ("http://a?b", InvalidEndpoint::Path),
            ("http://", InvalidEndpoint::Host),
            ("http://a b", InvalidEndpoint::Host),
            ("http://300.1.2.3", InvalidEndpoint::Host),
            ("http://::1", InvalidEndpoint::Host),
            ("http://a:0", InvalidEndpoint::Port),
            ("http://a:+80", InvalidEndpoint::Port),
            ("http://a:65536", InvalidEndpoint::Port),
            ("http://a:", InvalidEndpoint::Port),
        ] {
            assert_eq!(Endpoint::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_bucket_stands_in_the_path_or_in_the_host() {
        let key = ObjectKey::new("a b/c".to_owned());
        let path = bucket("photos", "http://10.0.0.1:9000", Addressing::Path).expect("valid");
        assert_eq!((path.authority(), path.path_of(&key).as_str()), ("10.0.0.1:9000", "/photos/a%20b/c"));
        let aws = Bucket::new("photos", Endpoint::aws("eu-west-1"), Addressing::Virtual).expect("valid");
        assert_eq!(
            (aws.authority(), aws.path_of(&key).as_str()),
            ("photos.s3.eu-west-1.amazonaws.com", "/a%20b/c")
        );
        assert_eq!(
            bucket("photos", "http://10.0.0.1", Addressing::Virtual).err(),
            Some(InvalidBucket::VirtualAddress)
        );
    }

    #[test]
    fn bucket_names_are_checked() {
        for name in ["ab", "-ab", "ab.", "a..b", "a/b", "a b", &"a".repeat(64)] {
            assert_eq!(bucket(name, "http://a", Addressing::Path).err(), Some(InvalidBucket::Name), "{name}");
        }
        assert!(bucket("my.Old_bucket-1", "http://a", Addressing::Path).is_ok());
    }
}
