//! Where a request comes from: an address, where proxies that are trusted to say so stand in between, or
//! a user of this machine.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::access::networks::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who connected to a Unix socket, as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalUser {
    pub(crate) uid: u32,
}

impl fmt::Display for LocalUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)
    }
}

/// Where a client is, as the log has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client {
    Network(IpAddr),
    Socket,
}

impl Client {
    pub(super) fn of(address: Option<IpAddr>, user: Option<LocalUser>) -> Option<Self> {
        match user {
            Some(_) => Some(Self::Socket),
            None => address.map(Self::Network),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            // nginx's name for it.
            Self::Socket => f.write_str("unix:"),
        }
    }
}

/// The nearest address that is not a trusted proxy's, or the farthest where all are. Each proxy appends
/// the address that it was asked from, so the header is read from its end, and only for as long as
/// whoever wrote the entry is trusted. `None` where a trusted proxy names what is no address: then
/// nobody knows who asks.
pub(super) fn of_client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> Option<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let mut hops = lines
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // A list may have empty elements, which mean nothing (RFC 9110, section 5.6.1).
        .filter(|hop| !hop.is_empty());
    let mut address = peer.to_canonical();
    while is_trusted(address) {
        match hops.next() {
            Some(hop) => address = parse(hop)?,
            None => break,
        }
    }
    Some(address)
}

/// An address, perhaps with a port, as proxies write it.
fn parse(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().or_else(|_| hop.parse().map(|socket: SocketAddr| socket.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn found(peer: &str, lines: &[&[u8]]) -> Option<String> {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| Network::parse(text).expect("valid"));
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).expect("a value"));
        }
        let peer = peer.parse().expect("an address");
        of_client(peer, &headers, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn only_trusted_proxies_name_the_client() {
        for (peer, lines, client) in [
            ("192.0.2.1", &[][..], "192.0.2.1"),
            ("192.0.2.1", &[&b"198.51.100.1"[..]], "192.0.2.1"),
            ("192.0.2.1", &[b"garbage, 10.0.0.1"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[b""], "10.0.0.1"),
            ("10.0.0.1", &[b"198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &[b"::ffff:198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[b"203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[b"10.9.9.9, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[b"203.0.113.9, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &[b"203.0.113.9", b"198.51.100.1", b"10.0.0.2,10.0.0.3"], "198.51.100.1"),
            ("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[b"garbage, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[b"\xff\xfe, 198.51.100.1,, ,"], "198.51.100.1"),
            ("10.0.0.1", &[b"198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &[b"[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &[b"[2001:db8::1]"], "2001:db8::1"),
        ] {
            assert_eq!(found(peer, lines).as_deref(), Some(client), "{peer} {lines:?}");
        }
        for line in ["garbage", "198.51.100.1, unknown", "256.1.1.1", "_hidden", "10.0.0.0/8", "\"1.1.1.1\""]
        {
            assert_eq!(found("10.0.0.1", &[line.as_bytes()]), None, "{line}");
        }
        assert_eq!(found("10.0.0.1", &[b"\xff"]), None);
        assert_eq!(found("10.0.0.1", &[b"198.51.100.1", b"x, 10.0.0.2"]), None);
    }
}
