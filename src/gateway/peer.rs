//! Servers to connect to: stores, and services that decide.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{WrappedX509, parse_x509};

use crate::config::Bucket;
use crate::s3::{Endpoint, Scheme};

/// The store of a bucket at one of its addresses. `remaining` is what is left of the total time.
pub fn of_store(
    bucket: &Bucket,
    address: IpAddr,
    remaining: Duration,
    authorities: &Authorities,
) -> HttpPeer {
    let endpoint = bucket.store.endpoint();
    let mut peer = at(endpoint, address);
    let timeouts = bucket.timeouts;
    let within = |timeout: Duration| Some(timeout.min(remaining));
    peer.options.connection_timeout = within(timeouts.connect);
    peer.options.total_connection_timeout = within(timeouts.connect);
    peer.options.read_timeout = within(timeouts.read);
    peer.options.write_timeout = within(timeouts.write);
    peer.options.idle_timeout = Some(timeouts.idle);
    let roots = &bucket.trust.roots;
    if endpoint.scheme == Scheme::Https && !roots.is_empty() {
        // Pingora's pool does not look at the roots, so connections made under others must be told
        // apart by us.
        let (group, certificates) = authorities.of(roots);
        peer.group_key = group;
        peer.options.ca = Some(certificates);
    }
    peer
}

/// A server at one of its addresses, without limits of time.
pub fn at(endpoint: &Endpoint, address: IpAddr) -> HttpPeer {
    let tls = endpoint.scheme == Scheme::Https;
    // Pingora takes an empty server name for leave to verify nothing; a host is never empty.
    let server_name = if tls { endpoint.host.server_name() } else { String::new() };
    let mut peer = HttpPeer::new(SocketAddr::new(address, endpoint.port), tls, server_name);
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    peer
}

/// The certificates of every `ca_file`, parsed once for each thread.
#[derive(Default)]
pub struct Authorities(Mutex<HashMap<Vec<Vec<u8>>, Certificates>>);

type Certificates = (u64, Arc<CaType>);

impl Authorities {
    /// A number that stands for the roots, and the roots as Pingora wants them.
    fn of(&self, roots: &[Vec<u8>]) -> Certificates {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(roots) {
            return found.clone();
        }
        let mut hasher = DefaultHasher::new();
        roots.hash(&mut hasher);
        let parsed = roots.iter().map(|der| WrappedX509::new(der.clone(), parse_x509)).collect();
        let certificates = (hasher.finish(), parsed);
        known.insert(roots.to_vec(), certificates.clone());
        certificates
    }
}
