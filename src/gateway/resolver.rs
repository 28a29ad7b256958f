//! Addresses of the stores' host names, looked up in the background.
//!
//! A name is looked up when it is first mentioned, and again as long as requests use it; a request
//! reads what is known and waits only while nothing is known yet. Lookups are the system's
//! (`getaddrinfo`), so that `/etc/hosts` and the search domains of a container count. When a lookup
//! fails, the addresses of the last one stay in use.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

/// Between two lookups of a name in use: as long as Amazon's records live. A connection that stands
/// does not care.
const REFRESH: Duration = Duration::from_secs(5);

/// After a failed lookup.
const RETRY: Duration = Duration::from_secs(1);

/// Lookups without a request in between after which a name is forgotten.
const UNUSED_ROUNDS: u32 = 120;

/// Looks names up and remembers the answers. Belongs to the process, not to a generation.
pub struct Resolver {
    runtime: Handle,
    names: Arc<RwLock<HashMap<String, Arc<Name>>>>,
}

struct Name {
    /// `None` until the first lookup has ended; empty when it failed.
    addresses: watch::Sender<Option<Arc<[IpAddr]>>>,
    /// Position of the address that worked last.
    preferred: AtomicUsize,
    used: AtomicBool,
}

impl Resolver {
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, names: Arc::default() }
    }

    /// Has names looked up and waits for the answers, for `patience` at most; for a thread outside of
    /// the runtime. Says what did not resolve.
    pub fn warm<'n>(&self, hosts: impl Iterator<Item = &'n str>, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        let hosts: BTreeSet<&str> = hosts.collect();
        // All at once, then wait for each.
        let names: Vec<(&str, Arc<Name>)> = hosts.iter().map(|host| (*host, self.name(host))).collect();
        let mut warnings = Vec::new();
        for (host, name) in names {
            let mut known = name.addresses.subscribe();
            let known =
                self.runtime.block_on(async { timeout_at(deadline, known.wait_for(Option::is_some)).await });
            let is_known = matches!(known, Ok(Ok(addresses)) if addresses.as_ref().is_some_and(|found| !found.is_empty()));
            if !is_known {
                warnings.push(format!("the name `{host}` of a store does not resolve yet"));
            }
        }
        warnings
    }

    /// The addresses of a name, the one to try first in front; empty when there are none. Waits for
    /// the first lookup at most as long as `patience`.
    pub async fn addresses(&self, host: &str, patience: Duration) -> Vec<IpAddr> {
        let name = self.name(host);
        name.used.store(true, Ordering::Relaxed);
        let mut known = name.addresses.subscribe();
        let addresses = match timeout(patience, known.wait_for(Option::is_some)).await {
            Ok(Ok(addresses)) => addresses.clone().unwrap_or_default(),
            // Too slow; or the lookups have ended, which they do not while the name is held.
            Ok(Err(_)) | Err(_) => Arc::default(),
        };
        let mut addresses = addresses.to_vec();
        if !addresses.is_empty() {
            let first = name.preferred.load(Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(first);
        }
        addresses
    }

    /// Remembers that an address could not be reached, so that others are tried first.
    pub fn avoid(&self, host: &str, address: IpAddr) {
        let name = self.name(host);
        let known = name.addresses.borrow().clone().unwrap_or_default();
        let preferred = name.preferred.load(Ordering::Relaxed);
        if at(&known, preferred) == Some(address) {
            // Another request may have done so already.
            let _ = name.preferred.compare_exchange(
                preferred,
                preferred.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    fn name(&self, host: &str) -> Arc<Name> {
        if let Some(name) = self.names.read().unwrap_or_else(PoisonError::into_inner).get(host) {
            return name.clone();
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let name = names.entry(host.to_owned()).or_insert_with(|| {
            let name = Arc::new(Name {
                addresses: watch::Sender::new(None),
                preferred: AtomicUsize::new(0),
                used: AtomicBool::new(true),
            });
            self.runtime.spawn(keep_resolved(host.to_owned(), name.clone(), self.names.clone()));
            name
        });
        name.clone()
    }
}

/// Looks a name up until nobody uses it.
async fn keep_resolved(host: String, name: Arc<Name>, names: Arc<RwLock<HashMap<String, Arc<Name>>>>) {
    let mut unused = 0;
    let mut failing = false;
    loop {
        let pause = match look_up(&host).await {
            Ok(addresses) => {
                if failing {
                    info!(host, "the name of a store resolves again");
                }
                failing = false;
                name.learn(addresses);
                REFRESH
            }
            Err(error) => {
                if !failing {
                    warn!(host, error, "the name of a store does not resolve");
                }
                failing = true;
                name.addresses.send_if_modified(|known| {
                    let first = known.is_none();
                    known.get_or_insert_default();
                    first
                });
                RETRY
            }
        };
        sleep(pause).await;
        unused = if name.used.swap(false, Ordering::Relaxed) { 0 } else { unused + 1 };
        if unused >= UNUSED_ROUNDS {
            names.write().unwrap_or_else(PoisonError::into_inner).remove(&host);
            return;
        }
    }
}

impl Name {
    /// Takes over new addresses and stays with the preferred one if it is still among them.
    fn learn(&self, mut addresses: Vec<IpAddr>) {
        let known = self.addresses.borrow().clone().unwrap_or_default();
        let preferred = at(&known, self.preferred.load(Ordering::Relaxed));
        if let Some(position) = addresses.iter().position(|address| Some(*address) == preferred) {
            addresses.rotate_left(position);
        }
        self.preferred.store(0, Ordering::Relaxed);
        self.addresses.send_replace(Some(addresses.into()));
    }
}

/// The address at a position that only ever grows.
fn at(addresses: &[IpAddr], position: usize) -> Option<IpAddr> {
    addresses.get(position.checked_rem(addresses.len())?).copied()
}

async fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|socket: SocketAddr| socket.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}
