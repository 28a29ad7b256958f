//! Slows down whoever guesses at operators' tokens: counts failed log-ins by the client's network.
//!
//! A leaky bucket (the GCRA of ITU-T I.371) is one instant: when the bucket is empty again. It has to be
//! looked at without filling it, since only a failure counts, which no crate for it offers: `governor`
//! takes when it looks and forgets nothing by itself, and `pingora-limits` counts networks together
//! when they are many, so that one could lock out the others. The time is an argument.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::unsync::Cache;

/// Failures that a network may have in a row.
const BURST: u32 = 10;

/// How long it takes until one of them is forgiven.
const LEAK: Duration = Duration::from_secs(6);

/// Networks that are remembered; then those are forgotten that have not failed for long.
const NETWORKS: usize = 16_384;

pub(crate) struct Limiter {
    /// When all failures of a network will be forgiven.
    forgiven: Mutex<Cache<Network, Instant>>,
}

/// What one client can have for itself. Clients whose address nobody knows are one.
type Network = Option<IpAddr>;

impl Default for Limiter {
    fn default() -> Self {
        Self { forgiven: Mutex::new(Cache::new(NETWORKS)) }
    }
}

impl Limiter {
    /// Whether a client may try to log in, or how long it has to wait.
    pub(crate) fn check(&self, client: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let forgiven = self.forgiven.lock().get(&network(client)).copied();
        let failures = forgiven.map_or(Duration::ZERO, |forgiven| forgiven.saturating_duration_since(now));
        match failures.saturating_sub(LEAK * (BURST - 1)) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// Counts a failure. Those of requests that were under way together count for no more than the limit.
    pub(crate) fn failed(&self, client: Option<IpAddr>, now: Instant) {
        let network = network(client);
        let mut cache = self.forgiven.lock();
        let forgiven = cache.get(&network).map_or(now, |forgiven| now.max(*forgiven));
        cache.insert(network, (forgiven + LEAK).min(now + LEAK * BURST));
    }
}

/// Of IPv4 the address, of IPv6 the /64 that every client has (RFC 6177).
fn network(client: Option<IpAddr>) -> Network {
    client.map(|address| match address {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        IpAddr::V4(_) => address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn after_ten_failures_one_in_six_seconds_is_allowed() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let client = address("192.0.2.1");
        for _ in 0..BURST {
            assert_eq!(limiter.check(client, start), Ok(()));
            limiter.failed(client, start);
        }
        assert_eq!(limiter.check(client, start), Err(LEAK));
        assert_eq!(limiter.check(client, start + Duration::from_secs(4)), Err(Duration::from_secs(2)));
        let later = start + LEAK;
        assert_eq!(limiter.check(client, later), Ok(()), "looking costs nothing");
        assert_eq!(limiter.check(client, later), Ok(()));
        limiter.failed(client, later);
        assert_eq!(limiter.check(client, later), Err(LEAK));
        // Many at once do not lock anybody out for longer.
        for _ in 0..1000 {
            limiter.failed(client, later);
        }
        assert_eq!(limiter.check(client, later), Err(LEAK));
        assert_eq!(limiter.check(client, later + LEAK * BURST), Ok(()));
    }

    #[test]
    fn networks_are_counted_apart() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..BURST {
            for client in [address("192.0.2.1"), address("2001:db8:0:1::1"), None] {
                limiter.failed(client, now);
            }
        }
        for (client, is_free) in [
            (address("192.0.2.1"), false),
            (address("192.0.2.2"), true),
            (address("2001:db8:0:1:ffff::2"), false),
            (address("2001:db8:0:2::1"), true),
            (None, false),
        ] {
            assert_eq!(limiter.check(client, now).is_ok(), is_free, "{client:?}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for number in 0..10 * NETWORKS as u32 {
            limiter.failed(Some(IpAddr::V4(number.into())), now);
        }
        assert!(limiter.forgiven.lock().len() <= NETWORKS);
    }
}
