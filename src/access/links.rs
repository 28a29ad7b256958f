//! Signed links: a URL that opens one object for a while, for anyone who has it.
//!
//! The signature is HMAC-SHA256 (RFC 2104) over a text of six lines. Knows no rules; the
//! time and the client's address are arguments.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;

use crate::access::networks::Network;
use crate::s3::query::Query;
use crate::secret::Secret;

/// The shortest secret, in characters.
pub(crate) const MIN_SECRET_CHARACTERS: usize = 32;

/// Characters that are encoded in the value of a parameter: all but digits, letters and dots.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.');

/// An object that a link opens.
#[derive(Debug, Clone, Copy)]
pub struct Object<'o> {
    /// The operator's name of the bucket, so that a prefix that moves to another takes no links along.
    pub bucket: &'o str,
    /// Decoded, with the bucket's prefix.
    pub path: &'o str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidLink {
    /// Nothing but a link opens the object.
    #[error("A signed link is needed")]
    Missing,
    #[error("Malformed link")]
    Malformed,
    #[error("Invalid signature of the link")]
    Signature,
    #[error("Link expired")]
    Expired,
    #[error("The link expires too late")]
    TooLong,
    #[error("The link is for another network")]
    Network,
    #[error("A link opens the current version only")]
    Version,
}

/// The keys that sign and verify the links of a bucket.
#[derive(Debug)]
pub struct Links {
    /// The first one signs; all are accepted.
    keys: Vec<hmac::Key>,
    pub max_ttl: Duration,
}

impl Links {
    pub fn new(secrets: &[&Secret], max_ttl: Duration) -> Self {
        let key = |secret: &&Secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        Self { keys: secrets.iter().map(key).collect(), max_ttl }
    }

    /// Whether the link in a query opens the object; `None` if the query holds no link.
    pub fn check(
        &self,
        object: Object<'_>,
        query: Query<'_>,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Option<Result<(), InvalidLink>> {
        let signature = parameter(query, "signature").transpose()?;
        Some(signature.and_then(|signature| self.verify(object, query, &signature, address, now)))
    }

    fn verify(
        &self,
        object: Object<'_>,
        query: Query<'_>,
        signature: &str,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<(), InvalidLink> {
        let expires = parameter(query, "expires")?.ok_or(InvalidLink::Malformed)?;
        let network = parameter(query, "network")?;
        let signature = decode_hex(signature).ok_or(InvalidLink::Malformed)?;
        let text = text(object, &expires, network.as_deref());
        // Compares in constant time.
        if !self.keys.iter().any(|key| hmac::verify(key, text.as_bytes(), &signature).is_ok()) {
            return Err(InvalidLink::Signature);
        }
        // An older version may have been replaced for a reason, and the signature says nothing of it.
        if parameter(query, "versionId")?.is_some() {
            return Err(InvalidLink::Version);
        }
        let is_number = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
        let expires: u64 = expires.parse().ok().filter(|_| is_number).ok_or(InvalidLink::Malformed)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(expires).saturating_sub(now);
        if left.is_zero() {
            return Err(InvalidLink::Expired);
        }
        if left > self.max_ttl {
            return Err(InvalidLink::TooLong);
        }
        let network = network.map(|network| Network::parse(&network)).transpose();
        match (network.map_err(|_| InvalidLink::Malformed)?, address) {
            (None, _) => Ok(()),
            (Some(network), Some(address)) if network.contains(address) => Ok(()),
            (Some(_), _) => Err(InvalidLink::Network),
        }
    }

    /// The query string of a link.
    pub fn mint(&self, object: Object<'_>, expires: u64, network: Option<&str>) -> String {
        let expires = expires.to_string();
        let text = text(object, &expires, network);
        let mut query = format!("expires={expires}");
        if let Some(network) = network {
            // Writing to a String cannot fail.
            let _ = write!(query, "&network={}", utf8_percent_encode(network, VALUE));
        }
        query.push_str("&signature=");
        if let Some(key) = self.keys.first() {
            query.push_str(&hex::encode(hmac::sign(key, text.as_bytes())));
        }
        query
    }
}

/// The signed text. The path comes last, because it alone may hold a line feed. The method is GET, which
/// includes HEAD.
fn text(object: Object<'_>, expires: &str, network: Option<&str>) -> String {
    let Object { bucket, path } = object;
    format!("yatagarasu-link-1\n{bucket}\nGET\n{expires}\n{}\n{path}", network.unwrap_or_default())
}

/// The value of a parameter.
fn parameter<'q>(query: Query<'q>, name: &str) -> Result<Option<Cow<'q, str>>, InvalidLink> {
    query.value(name).map_err(|_| InvalidLink::Malformed)
}

/// 32 bytes in lower-case hexadecimal, and in no other way.
fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    hex::decode_to_slice(text, &mut bytes).ok().filter(|()| is_lower).map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Object<'static> = Object { bucket: "products", path: "/products/q1 report.pdf" };
    const EXPIRES: u64 = 1_800_000_000;

    fn links(secrets: &[&str]) -> Links {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        Links::new(&secrets.iter().collect::<Vec<_>>(), Duration::from_secs(3600))
    }

    const SECRET: &str = "an-example-secret-of-32-characters";

    fn check(query: &str, from: Option<&str>, at: u64) -> Option<Result<(), InvalidLink>> {
        let from = from.map(|address| address.parse().expect("an address"));
        links(&[SECRET]).check(OBJECT, Query::new(query), from, UNIX_EPOCH + Duration::from_secs(at))
    }

    #[test]
    fn the_example_of_the_documentation_is_right() {
        let documentation = include_str!("../../docs/configuration.md");
        let plain = links(&[SECRET]).mint(OBJECT, EXPIRES, None);
        let bound = links(&[SECRET]).mint(OBJECT, EXPIRES, Some("192.0.2.0/24"));
        assert!(documentation.contains(&format!("/products/q1%20report.pdf?{plain}")), "{plain}");
        assert!(documentation.contains(&format!("/products/q1%20report.pdf?{bound}")), "{bound}");
        assert!(documentation.contains(SECRET));
    }

    #[test]
    fn a_link_opens_its_object_until_it_expires() {
        let link = links(&[SECRET]).mint(OBJECT, EXPIRES, None);
        assert_eq!(check(&link, None, EXPIRES - 3600), Some(Ok(())));
        assert_eq!(check(&link, None, EXPIRES - 1), Some(Ok(())));
        assert_eq!(
            check(&format!("a=b&{link}&partNumber=1&expires={EXPIRES}"), None, EXPIRES - 1),
            Some(Ok(()))
        );
        assert_eq!(check(&link, None, EXPIRES), Some(Err(InvalidLink::Expired)));
        assert_eq!(check(&link, None, EXPIRES - 3601), Some(Err(InvalidLink::TooLong)));
        assert_eq!(check("", None, EXPIRES), None);
        assert_eq!(check("expires=1800000000&Signature=00", None, EXPIRES), None);
    }

    #[test]
    fn nothing_of_a_link_can_be_changed() {
        let link = links(&[SECRET]).mint(OBJECT, EXPIRES, None);
        let (_, signature) = link.split_once("signature=").expect("a signature");
        let later = EXPIRES + 60;
        for (query, why) in [
            (format!("expires={later}&signature={signature}"), InvalidLink::Signature),
            (format!("expires=0{EXPIRES}&signature={signature}"), InvalidLink::Signature),
            (format!("{link}&network=0.0.0.0%2F0"), InvalidLink::Signature),
            (format!("signature={signature}"), InvalidLink::Malformed),
            (format!("{link}&expires={later}"), InvalidLink::Malformed),
            (format!("{link}&%73ignature=00"), InvalidLink::Malformed),
            (format!("expires={EXPIRES}&signature={}", signature.to_uppercase()), InvalidLink::Malformed),
            (format!("expires={EXPIRES}&signature={signature}00"), InvalidLink::Malformed),
            (format!("expires={EXPIRES}&signature={}", &signature[2..]), InvalidLink::Malformed),
            (format!("expires={EXPIRES}&signature={}", "0".repeat(64)), InvalidLink::Signature),
            (format!("expires={EXPIRES}&signature="), InvalidLink::Malformed),
            (format!("expires={EXPIRES}&signature=%FF"), InvalidLink::Malformed),
            (format!("{link}&versionId=1"), InvalidLink::Version),
        ] {
            assert_eq!(check(&query, None, EXPIRES - 1), Some(Err(why)), "{query}");
        }
        let at = UNIX_EPOCH + Duration::from_secs(EXPIRES - 1);
        for other in [
            Object { path: "/products/q1 report.pd", ..OBJECT },
            Object { path: "/products/Q1 report.pdf", ..OBJECT },
            Object { path: "/products/q1%20report.pdf", ..OBJECT },
            Object { path: "/products//q1 report.pdf", ..OBJECT },
            Object { bucket: "archive", ..OBJECT },
        ] {
            let found = links(&[SECRET]).check(other, Query::new(&link), None, at);
            assert_eq!(found, Some(Err(InvalidLink::Signature)), "{other:?}");
        }
        // Values that a minter signed by mistake.
        for (expires, network, why) in [
            ("soon", None, InvalidLink::Malformed),
            ("+1800000000", None, InvalidLink::Malformed),
            ("99999999999999999999", None, InvalidLink::Malformed),
            ("18446744073709551615", None, InvalidLink::TooLong),
            ("1800000000", Some("everywhere"), InvalidLink::Malformed),
            ("1800000000", Some(""), InvalidLink::Malformed),
        ] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
            let tag = hmac::sign(&key, text(OBJECT, expires, network).as_bytes());
            let signature: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            let network = network.map(|network| format!("&network={network}")).unwrap_or_default();
            let query = format!("expires={}&signature={signature}{network}", expires.replace('+', "%2B"));
            assert_eq!(check(&query, None, EXPIRES - 1), Some(Err(why)), "{query}");
        }
    }

    #[test]
    fn a_link_may_be_for_one_network() {
        let link = links(&[SECRET]).mint(OBJECT, EXPIRES, Some("192.0.2.0/24"));
        let from = |address| check(&link, address, EXPIRES - 1);
        assert_eq!(from(Some("192.0.2.9")), Some(Ok(())));
        assert_eq!(from(Some("::ffff:192.0.2.9")), Some(Ok(())));
        assert_eq!(from(Some("192.0.3.9")), Some(Err(InvalidLink::Network)));
        assert_eq!(from(None), Some(Err(InvalidLink::Network)));
        let (bare, _) = link.split_once("&network").expect("a network");
        let (_, signature) = link.split_once("&signature").expect("a signature");
        let without = format!("{bare}&signature{signature}");
        assert_eq!(check(&without, Some("192.0.2.9"), EXPIRES - 1), Some(Err(InvalidLink::Signature)));
    }

    #[test]
    fn links_of_the_previous_secret_live_on() {
        let old = links(&["the-old-secret-of-at-least-32-characters"]).mint(OBJECT, EXPIRES, None);
        let at = UNIX_EPOCH + Duration::from_secs(EXPIRES - 1);
        let rotated = links(&[SECRET, "the-old-secret-of-at-least-32-characters"]);
        assert_eq!(rotated.check(OBJECT, Query::new(&old), None, at), Some(Ok(())));
        assert_eq!(rotated.mint(OBJECT, EXPIRES, None), links(&[SECRET]).mint(OBJECT, EXPIRES, None));
        assert_eq!(check(&old, None, EXPIRES - 1), Some(Err(InvalidLink::Signature)));
    }
}
