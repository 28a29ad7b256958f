//! Addresses of the host names of stores and services, looked up in the background.
//!
//! A name is looked up when it is first mentioned. A request reads what is known; when that is no
//! longer fresh, the request has it looked up again for those that follow, and waits itself only while
//! nothing usable is known. Lookups are the system's (`getaddrinfo`), so that `/etc/hosts` and the
//! search domains of a container count. When a lookup fails, or does not end, the addresses of the last
//! one stay in use. A lookup takes a thread and cannot be cancelled, so those that do not end in time are
//! counted apart from the others, and both kinds are bounded.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::s3::Host;
use crate::telemetry::units::milliseconds;

/// How long an answer is fresh: as long as Amazon's records live. A connection that stands does not
/// care.
const FRESH: Duration = Duration::from_secs(5);

/// How long an answer is usable without waiting while it is looked up again. A name that nobody has used
/// for longer may be anywhere by now.
const USABLE: Duration = Duration::from_secs(300);

/// How long a failure is believed.
const RETRY: Duration = Duration::from_secs(1);

/// How many addresses of a host are tried.
pub(crate) const MAX_ADDRESSES: usize = 3;

/// Lookups at once; each takes a thread.
const LOOKUPS: usize = 32;

/// The time after which a lookup counts as slow. The next ones of that name are slow ones from their
/// beginning, until one is answered in time.
const SLOW: Duration = Duration::from_secs(3);

/// Slow lookups at once, beside the others.
const SLOW_LOOKUPS: usize = 64;

/// Looks names up and remembers the answers. Belongs to the process, not to a generation.
pub(crate) struct Resolver {
    runtime: Handle,
    turns: Arc<Turns>,
    names: RwLock<HashMap<String, Arc<Name>>>,
}

/// The names of a configuration, with their addresses as far as they are known, for [`Resolver::adopt`].
#[must_use]
pub(crate) struct Names(Vec<Arc<Name>>);

/// The permissions to look a name up.
struct Turns {
    prompt: Semaphore,
    slow: Semaphore,
}

struct Name {
    host: String,
    /// `None` until the first lookup has ended.
    known: watch::Sender<Option<Known>>,
    /// Position of the address that worked last.
    preferred: AtomicUsize,
    is_looked_up: AtomicBool,
    is_slow: AtomicBool,
}

/// What the last lookup found, and what is used while it failed.
#[derive(Clone)]
struct Known {
    addresses: Arc<[IpAddr]>,
    at: Instant,
    failed: bool,
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < if self.failed { RETRY } else { FRESH }
    }

    fn is_usable(&self) -> bool {
        self.is_fresh() || (!self.addresses.is_empty() && self.at.elapsed() < USABLE)
    }
}

impl Resolver {
    pub(crate) fn new(runtime: Handle) -> Self {
        let turns = Turns { prompt: Semaphore::new(LOOKUPS), slow: Semaphore::new(SLOW_LOOKUPS) };
        Self { runtime, turns: Arc::new(turns), names: RwLock::default() }
    }

    /// Has names looked up that are not known yet, and waits for the answers, for `patience` at most; for
    /// a thread outside of the runtime. The names of the configuration in service stay as they are. Says
    /// what did not resolve.
    pub(crate) fn warm<'n>(
        &self,
        hosts: impl Iterator<Item = &'n str>,
        patience: Duration,
    ) -> (Names, Vec<String>) {
        let deadline = Instant::now() + patience;
        let hosts: BTreeSet<&str> = hosts.collect();
        let names: Vec<Arc<Name>> = {
            let known = self.names.read();
            let name = |host: &&str| known.get(*host).cloned().unwrap_or_else(|| Arc::new(Name::new(host)));
            hosts.iter().map(name).collect()
        };
        // All at once, then wait for each.
        for name in &names {
            if name.known.borrow().as_ref().is_none_or(|known| known.failed) {
                self.look_up(name);
            }
        }
        let mut warnings = Vec::new();
        for name in &names {
            let mut known = name.known.subscribe();
            let known = self
                .runtime
                .block_on(async { timeout_at(deadline, known.wait_for(Option::is_some)).await.map(drop) });
            let found = name.known.borrow().as_ref().is_some_and(|known| !known.addresses.is_empty());
            if known.is_err() || !found {
                warnings.push(format!("the name `{}` does not resolve yet", name.host));
            }
        }
        (Names(names), warnings)
    }

    /// Keeps these names, and forgets all others: their configuration goes into service. A request of an
    /// older generation that still needs a forgotten name brings it back.
    pub(crate) fn adopt(&self, Names(names): Names) {
        let mut known = self.names.write();
        let adopted = names.into_iter().map(|name| match known.remove_entry(&name.host) {
            // A request may have looked it up meanwhile.
            Some(entry) => entry,
            None => (name.host.clone(), name),
        });
        let adopted = adopted.collect();
        *known = adopted;
    }

    /// The addresses to try of a host, the first one in front; empty when there are none. Waits for a
    /// lookup at most as long as `patience`, and only when nothing usable is known. When that time is
    /// over, the last addresses are used, however old.
    pub(crate) async fn addresses(&self, host: &Host, patience: Duration) -> Vec<IpAddr> {
        let name = match host {
            Host::Name(name) => self.name(name),
            Host::Address(address) => return vec![*address],
        };
        let mut answers = name.known.subscribe();
        let known = answers.borrow_and_update().clone();
        if known.as_ref().is_none_or(|known| !known.is_fresh()) {
            self.look_up(&name);
        }
        let known = match known.filter(Known::is_usable) {
            Some(known) => Some(known),
            None => {
                // Without an answer in time, the addresses known before are the best there are.
                let _ = timeout(patience, answers.changed()).await;
                answers.borrow().clone()
            }
        };
        let mut addresses = known.map(|known| known.addresses.to_vec()).unwrap_or_default();
        if !addresses.is_empty() {
            let first = name.preferred.load(Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(first);
        }
        addresses.truncate(MAX_ADDRESSES);
        addresses
    }

    /// Remembers that an address could not be reached, so that others are tried first.
    pub(crate) fn avoid(&self, host: &Host, address: IpAddr) {
        let Host::Name(name) = host else { return };
        let name = self.name(name);
        let known = name.addresses();
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
        if let Some(name) = self.names.read().get(host) {
            return name.clone();
        }
        let mut names = self.names.write();
        names.entry(host.to_owned()).or_insert_with(|| Arc::new(Name::new(host))).clone()
    }

    /// Begins a lookup, unless one is under way.
    fn look_up(&self, name: &Arc<Name>) {
        if name.is_looked_up.swap(true, Ordering::AcqRel) {
            return;
        }
        let (name, turns) = (name.clone(), self.turns.clone());
        self.runtime.spawn(async move {
            let began = Instant::now();
            let found = turns.look_up(&name).await;
            tell(&name.host, &found, began.elapsed());
            name.is_looked_up.store(false, Ordering::Release);
            name.learn(found);
        });
    }
}

impl Turns {
    async fn look_up(&self, name: &Name) -> Result<Vec<IpAddr>, String> {
        let is_slow = name.is_slow.load(Ordering::Relaxed);
        // Neither semaphore is ever closed.
        let turn = if is_slow { &self.slow } else { &self.prompt }.acquire().await;
        let mut lookup = pin!(look_up(&name.host));
        if let Ok(found) = timeout(SLOW, &mut lookup).await {
            name.is_slow.store(false, Ordering::Relaxed);
            return found;
        }
        name.mark_overdue();
        if is_slow {
            return lookup.await;
        }
        let make_room = async {
            let _slow = self.slow.acquire().await;
            drop(turn);
            pending().await
        };
        tokio::select! {
            found = lookup => found,
            never = make_room => never,
        }
    }
}

impl Name {
    fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            known: watch::Sender::new(None),
            preferred: AtomicUsize::new(0),
            is_looked_up: AtomicBool::new(false),
            is_slow: AtomicBool::new(false),
        }
    }

    /// The lookup under way is slow: until it ends, requests go on with the last addresses and do not wait.
    fn mark_overdue(&self) {
        if !self.is_slow.swap(true, Ordering::Relaxed) {
            let seconds = SLOW.as_secs();
            warn!(
                host = self.host,
                "no answer from the name servers for {seconds} s; the last addresses stay in use"
            );
        }
        self.known.send_if_modified(|known| match known {
            Some(known) if !known.addresses.is_empty() => {
                known.at = Instant::now();
                true
            }
            _ => false,
        });
    }

    fn addresses(&self) -> Arc<[IpAddr]> {
        self.known.borrow().as_ref().map(|known| known.addresses.clone()).unwrap_or_default()
    }

    /// Takes over new addresses, and stays with the preferred one if it is still among them; or keeps
    /// the old ones.
    fn learn(&self, found: Result<Vec<IpAddr>, String>) {
        let known = self.addresses();
        let had_failed = self.known.borrow().as_ref().is_some_and(|known| known.failed);
        let (addresses, failed) = match found {
            Ok(mut addresses) => {
                if had_failed {
                    info!(host = self.host, "a name resolves again");
                }
                let preferred = at(&known, self.preferred.load(Ordering::Relaxed));
                if let Some(position) = addresses.iter().position(|address| Some(*address) == preferred) {
                    addresses.rotate_left(position);
                }
                self.preferred.store(0, Ordering::Relaxed);
                (addresses.into(), false)
            }
            Err(error) => {
                if !had_failed {
                    warn!(host = self.host, error, "a name does not resolve");
                }
                (known, true)
            }
        };
        self.known.send_replace(Some(Known { addresses, at: Instant::now(), failed }));
    }
}

/// The address at a position that only ever grows.
fn at(addresses: &[IpAddr], position: usize) -> Option<IpAddr> {
    addresses.get(position.checked_rem(addresses.len())?).copied()
}

/// Tells at the level `debug` what a look-up found.
fn tell(host: &str, found: &Result<Vec<IpAddr>, String>, took: Duration) {
    debug!(
        host,
        addresses = found.as_ref().ok().map(|addresses| format!("{addresses:?}")),
        error = found.as_ref().err(),
        duration_ms = milliseconds(took),
        "name looked up"
    );
}

/// A lookup by the system. Its thread goes on until the system gives up, also when nobody waits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn old_addresses_are_used_when_a_lookup_does_not_end_in_time() {
        let resolver = Resolver::new(Handle::current());
        let name = resolver.name("store.test");
        let address = IpAddr::from([192, 0, 2, 1]);
        let at = Instant::now().checked_sub(2 * USABLE).expect("the machine runs for longer");
        name.known.send_replace(Some(Known { addresses: [address].into(), at, failed: false }));
        // A lookup that does not end.
        name.is_looked_up.store(true, Ordering::Release);
        let host = Host::Name("store.test".to_owned());
        let began = Instant::now();
        let patience = Duration::from_millis(100);
        assert_eq!(resolver.addresses(&host, patience).await, [address]);
        assert!(began.elapsed() >= patience, "a fresh answer is waited for first");

        name.mark_overdue();
        let began = Instant::now();
        assert_eq!(resolver.addresses(&host, PATIENCE).await, [address]);
        assert!(began.elapsed() < PATIENCE, "the others do not wait");
    }

    const PATIENCE: Duration = Duration::from_secs(10);
}
