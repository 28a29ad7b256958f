//! Servers to connect to: stores, and services that decide.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{WrappedX509, parse_x509};

use crate::net::trust::Trust;
use crate::s3::{Endpoint, Scheme};

/// How long a part of a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To reach the store, TLS included.
    pub connect: Duration,
    /// From sending the request to the end of the header of the store's final answer.
    pub first_byte: Duration,
    /// Between two reads from the store.
    pub read: Duration,
    /// For one write, to the store or to the client.
    pub write: Duration,
    /// The time that an unused connection to the store is kept.
    pub idle: Duration,
    /// For the whole request.
    pub total: Duration,
}

/// The store of a bucket at one of its addresses. `remaining` is what is left of the total time;
/// `generation` is the request's.
pub(crate) fn of_store(
    endpoint: &Endpoint,
    address: IpAddr,
    timeouts: &Timeouts,
    trust: &Trust,
    remaining: Duration,
    authorities: &Authorities,
    generation: u64,
) -> HttpPeer {
    let mut peer = at(endpoint, address);
    let within = |timeout: Duration| Some(timeout.min(remaining));
    peer.options.connection_timeout = within(timeouts.connect);
    peer.options.total_connection_timeout = within(timeouts.connect);
    peer.options.read_timeout = within(timeouts.read);
    peer.options.write_timeout = within(timeouts.write);
    peer.options.idle_timeout = Some(timeouts.idle);
    let roots = &trust.roots;
    if endpoint.scheme == Scheme::Https && !roots.is_empty() {
        // Pingora's pool does not look at the roots, so connections made under others must be told
        // apart by us.
        let (group, certificates) = authorities.of(roots, generation);
        peer.group_key = group;
        peer.options.ca = Some(certificates);
    }
    peer
}

/// A server at one of its addresses, without limits of time.
pub(crate) fn at(endpoint: &Endpoint, address: IpAddr) -> HttpPeer {
    let tls = endpoint.scheme == Scheme::Https;
    // Pingora takes an empty server name for leave to verify nothing; a host is never empty.
    let server_name = if tls { endpoint.host.server_name() } else { String::new() };
    let mut peer = HttpPeer::new(SocketAddr::new(address, endpoint.port), tls, server_name);
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    peer
}

/// The certificates of every `ca_file` in use, parsed once for each thread.
#[derive(Default)]
pub(crate) struct Authorities(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The newest generation that asked.
    generation: u64,
    /// By the roots; with the newest generation when they were last asked for.
    of: HashMap<Vec<Vec<u8>>, (u64, Certificates)>,
}

type Certificates = (u64, Arc<CaType>);

impl Authorities {
    /// A number that stands for the roots, and the roots as Pingora wants them.
    ///
    /// The first request of a new generation forgets the roots that no request asked for since the first
    /// one of the generation before, so that a `ca_file` that is replaced again and again leaves nothing
    /// behind. Roots that are forgotten too early are parsed again.
    fn of(&self, roots: &[Vec<u8>], generation: u64) -> Certificates {
        let mut known = self.0.lock();
        let newest = known.generation;
        if generation > newest {
            known.of.retain(|_, (used, _)| *used == newest);
            known.generation = generation;
        }
        let newest = known.generation;
        if let Some((used, found)) = known.of.get_mut(roots) {
            *used = newest;
            return found.clone();
        }
        let mut hasher = DefaultHasher::new();
        roots.hash(&mut hasher);
        let parsed = roots.iter().map(|der| WrappedX509::new(der.clone(), parse_x509)).collect();
        let certificates = (hasher.finish(), parsed);
        known.of.insert(roots.to_vec(), (newest, certificates.clone()));
        certificates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_that_went_out_of_use_are_forgotten_and_the_others_are_not_parsed_again() {
        let roots = |name: &str| {
            let pair = rcgen::KeyPair::generate().expect("a key pair");
            let parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
            vec![parameters.self_signed(&pair).expect("a certificate").der().to_vec()]
        };
        let kept = roots("kept.test");
        let authorities = Authorities::default();
        let first = authorities.of(&kept, 1);
        for generation in 1..100 {
            authorities.of(&roots("rotated.test"), generation);
            let again = authorities.of(&kept, generation);
            assert_eq!((again.0, Arc::ptr_eq(&again.1, &first.1)), (first.0, true));
        }
        let known = authorities.0.lock();
        assert_eq!(known.of.len(), 3, "those in use, the last rotated ones and the ones before");
    }
}
