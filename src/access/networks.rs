//! Networks that clients come from. An IPv4 address is one, whether it is written as IPv6 or not.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

/// A range of addresses (RFC 4632, RFC 4291).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidNetwork {
    #[error("is not a network; write it as `10.0.0.0/8`, `2001:db8::/32` or a single address")]
    Syntax,
    #[error("has bits set beyond the length of its prefix; set them to 0, as in `10.0.0.0/8`")]
    HostBits,
    #[error("is IPv4 written as IPv6, which no address is compared as; write it as IPv4")]
    Mapped,
}

impl Network {
    pub fn parse(text: &str) -> Result<Self, InvalidNetwork> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse::<IpNet>().or_else(|_| address()).map_err(|_| InvalidNetwork::Syntax)?;
        if network.addr().to_canonical() != network.addr() {
            return Err(InvalidNetwork::Mapped);
        }
        if network.trunc() != network {
            return Err(InvalidNetwork::HostBits);
        }
        Ok(Self(network))
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether it is every address of its kind.
    pub fn is_everybody(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

/// From where a bucket may be read.
#[derive(Debug, Clone, Default)]
pub struct Networks {
    /// From anywhere when `None`.
    pub allow: Option<Vec<Network>>,
    /// Comes before `allow`.
    pub deny: Vec<Network>,
}

impl Networks {
    /// Whether a client may read. One whose address nobody knows may only where every address may.
    pub fn permit(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else {
            return self.allow.is_none() && self.deny.is_empty();
        };
        let within = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
        !within(&self.deny) && self.allow.as_deref().is_none_or(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| Network::parse(text).expect("valid")).collect()
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn a_network_is_checked() {
        for (text, why) in [
            ("", InvalidNetwork::Syntax),
            ("10.0.0.0/33", InvalidNetwork::Syntax),
            ("10.0.0/8", InvalidNetwork::Syntax),
            ("localhost", InvalidNetwork::Syntax),
            ("::/129", InvalidNetwork::Syntax),
            ("10.0.0.0/-1", InvalidNetwork::Syntax),
            ("::ffff:10.0.0.0/104", InvalidNetwork::Mapped),
            ("::ffff:10.0.0.1", InvalidNetwork::Mapped),
            ("10.1.2.3/8", InvalidNetwork::HostBits),
            ("2001:db8::1/32", InvalidNetwork::HostBits),
        ] {
            assert_eq!(Network::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn denied_networks_come_before_allowed_ones() {
        let office = Networks {
            allow: Some(networks(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])),
            deny: networks(&["10.6.0.0/16", "2001:db8:6::/48"]),
        };
        for (from, permitted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.6.0.1", false),
            ("::ffff:10.6.0.1", false),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::1", true),
            ("2001:db8:6::1", false),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            assert_eq!(office.permit(address(from)), permitted, "{from}");
        }
        assert!(!office.permit(None));
        let but_one = Networks { allow: None, deny: networks(&["192.0.2.7"]) };
        assert!(but_one.permit(address("192.0.2.8")) && !but_one.permit(address("192.0.2.7")));
        assert!(!but_one.permit(None));
        assert!(Networks::default().permit(None));
    }
}
