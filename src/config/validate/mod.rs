//! From the file as written to the types that the program works with. Collects every problem.

mod buckets;
mod credentials;
mod jwt;
mod keys;
mod log;
mod mode;
mod limits;
mod policy;
mod report;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::access::networks::Network;
use crate::access::rule::Rule;
use crate::config::file::{self, File};
use crate::config::reuse::{Known, Section};
use crate::config::{Config, Minting, Notify, Operators, Reload, Server, Watch};
use crate::secret::Secret;
use crate::settings::permissions::Permissions;
use crate::settings::problem::{Place, Problems};
use crate::settings::redaction::{conceal, holds_secret};
use crate::settings::reference::{Position, References};
use crate::tokens::claims::Condition;
use crate::tokens::token::Source;
use jwt::Jwt;

/// A day, the longest that anything may be made to wait.
const MAX_SECONDS: f64 = 86_400.0;

/// A longer pause than this is never what is meant.
const MAX_DEBOUNCE: Duration = Duration::from_secs(60);

/// More threads than this are a typing mistake.
const MAX_THREADS: u64 = 1024;

/// The configuration, without its digest; `None` or a problem where it is not valid.
///
/// `own` is the file itself, with its mode, where it is one.
pub(super) fn validate(
    file: &File,
    own: Option<(&Path, u32)>,
    buckets: Vec<Section<file::Bucket>>,
    jwt_hash: u64,
    known: &Known,
    references: &mut References<'_>,
    problems: &mut Problems,
) -> Option<Config> {
    let mut validator = Validator {
        references,
        problems,
        warnings: Vec::new(),
        warned: 0,
        certificates: HashMap::new(),
        now: SystemTime::now(),
    };
    let root = Place::root();
    let server = validator.server(&file.server, &root.key("server"));
    let jwt = file.jwt.as_ref().map(|jwt| validator.jwt(jwt, jwt_hash, known, &root.key("jwt")));
    let operators = validator.operators(&file.admin, &root.key("admin"), jwt.as_ref(), server.as_ref());
    let reload = validator.reload(&file.reload, &root.key("reload"));
    let log = validator.log(&file.log, &root.key("log"));
    let limits = validator.limits(&file.limits, &root.key("limits"));
    let buckets = validator.buckets(buckets, &root.key("buckets"), jwt.as_ref(), known);
    let mut effective = serde_yaml::to_value(file).unwrap_or_default();
    let holds_secret = buckets.iter().any(|bucket| bucket.holds_secret)
        || holds_secret(&effective, &Position::Root, &validator.references.written);
    let own = own.map(|(path, mode)| (path, Permissions { mode, holds_secret }));
    validator.permissions(own, &buckets, file.server.strict_permissions);
    let warnings = validator.into_warnings();
    conceal(&mut effective, &root, &references.written);
    let operators = operators?;
    let jwt = jwt.unwrap_or_default();
    Some(Config {
        server: server?,
        minting: Minting {
            keys: jwt.minting,
            operator_conditions: [jwt.conditions, operators.conditions].concat(),
        },
        operators: Operators {
            enabled: file.admin.enabled,
            listen: operators.listen,
            socket: operators.socket.filter(|_| file.admin.enabled),
            socket_uids: operators.socket_uids,
            rule: operators.rule,
        },
        jwks: if jwt.enabled { jwt.jwks } else { Vec::new() },
        key_files: jwt.files,
        verifier: jwt.verifier.map(|verifier| (jwt.fingerprint, verifier)),
        reload,
        log,
        limits,
        routes: buckets.iter().map(|bucket| (bucket.prefix.clone(), bucket.clone())).collect(),
        buckets,
        warnings,
        digest: String::new(),
        effective,
    })
}

struct ValidOperators {
    listen: Option<SocketAddr>,
    socket: Option<PathBuf>,
    socket_uids: Vec<u32>,
    rule: Rule,
    conditions: Vec<Condition>,
}

/// Certificates in DER.
type Roots = Arc<[Vec<u8>]>;

struct Validator<'v, 'r> {
    references: &'v mut References<'r>,
    problems: &'v mut Problems,
    /// The first ones, and the number of all of them.
    warnings: Vec<String>,
    warned: usize,
    /// The roots in every file that is named, read once.
    certificates: HashMap<String, Result<Roots, String>>,
    now: SystemTime,
}

impl Validator<'_, '_> {
    fn missing(&mut self, place: Place, remedy: &str) {
        if !self.problems.any_at(&place) && !self.problems.any_above(&place) {
            self.problems.push(place, format!("is missing; {remedy}"));
        }
    }

    /// A text that must be there and must not be empty.
    fn required<'t>(&mut self, text: Option<&'t String>, place: &Place, remedy: &str) -> Option<&'t str> {
        let text = text.map(String::as_str).filter(|text| !text.is_empty());
        if text.is_none() {
            self.missing(place.clone(), remedy);
        }
        text
    }

    fn server(&mut self, server: &file::Server, place: &Place) -> Option<Server> {
        let listen = self.socket(&server.address, Some(server.port), place);
        let threads = server.threads;
        if !(1..=MAX_THREADS).contains(&threads) {
            let why = format!("is not a number of threads; use 1 to {MAX_THREADS}");
            self.refuse(&place.key("threads"), &threads.to_string(), why);
        }
        let trusted_proxies = self.networks(&server.trusted_proxies, &place.key("trusted_proxies"));
        if trusted_proxies.iter().any(Network::is_everybody) {
            self.warn(format!(
                "{}: trusts everybody, so a client can name any address for its own",
                place.key("trusted_proxies")
            ));
        }
        Some(Server {
            trusted_proxies,
            generation_header: server.generation_header,
            keepalive: self.seconds(server.keepalive_seconds as f64, 1.0, &place.key("keepalive_seconds")),
            shutdown_grace: self.seconds(
                server.shutdown_grace_seconds as f64,
                0.0,
                &place.key("shutdown_grace_seconds"),
            ),
            threads: usize::try_from(threads).ok()?,
            upgrade_socket: self.references.directory.join(&server.upgrade_socket),
            listen: listen?,
        })
    }

    fn reload(&mut self, reload: &file::Reload, place: &Place) -> Reload {
        let debounce = Duration::from_millis(reload.debounce_ms);
        if debounce > MAX_DEBOUNCE {
            let why = format!("is out of range; use 0 to {}", MAX_DEBOUNCE.as_millis());
            self.refuse(&place.key("debounce_ms"), &reload.debounce_ms.to_string(), why);
        }
        let poll = self.seconds(reload.poll_seconds as f64, 1.0, &place.key("poll_seconds"));
        // Shorter, and the reload that would mend it could not be done in time.
        let deadline = self.seconds(reload.deadline_seconds, 1.0, &place.key("deadline_seconds"));
        Reload {
            is_watching: reload.watch,
            watch: Watch { debounce, poll },
            deadline,
            history_file: reload.history_file.as_ref().map(|path| self.references.directory.join(path)),
            notify: reload.notify.as_ref().and_then(|notify| self.notify(notify, &place.key("notify"))),
        }
    }

    fn notify(&mut self, notify: &file::Notify, place: &Place) -> Option<Notify> {
        let Some(url) = notify.url.clone() else {
            self.missing(place.key("url"), "say whom to tell");
            return None;
        };
        self.url(&url, &place.key("url"));
        for (index, on) in notify.on.iter().enumerate() {
            if !matches!(on.as_str(), "success" | "failure") {
                self.refuse(&place.key("on").index(index), on, "is no outcome; use success or failure");
            }
        }
        let on = |outcome: &str| notify.on.iter().any(|on| on == outcome);
        Some(Notify {
            url,
            on_success: on("success"),
            on_failure: on("failure"),
            timeout: self.seconds(notify.timeout_seconds, 0.001, &place.key("timeout_seconds")),
        })
    }

    /// It is not quoted: there may be a secret in it.
    fn url(&mut self, url: &Secret, place: &Place) -> Option<http::Uri> {
        let uri = url.expose().parse::<http::Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        if uri.is_none() {
            self.problems.push(place.clone(), "is not an http or https URL");
        }
        uri
    }

    fn socket(&mut self, address: &str, port: Option<u64>, place: &Place) -> Option<SocketAddr> {
        let ip: Option<IpAddr> = address.parse().ok();
        if ip.is_none() {
            let why = "is not an IP address; use `0.0.0.0` or `::` for every interface, `127.0.0.1` for this machine";
            self.refuse(&place.key("address"), address, why);
        }
        let port = port?;
        let valid = u16::try_from(port).ok().filter(|port| *port > 0);
        if valid.is_none() {
            self.refuse(&place.key("port"), &port.to_string(), "is not a port; use 1 to 65535");
        }
        Some(SocketAddr::new(ip?, valid?))
    }

    fn seconds(&mut self, seconds: f64, least: f64, place: &Place) -> Duration {
        let above = if least > 0.0 { seconds >= least } else { seconds >= 0.0 };
        if above && seconds <= MAX_SECONDS {
            return Duration::from_secs_f64(seconds);
        }
        self.refuse(place, &seconds.to_string(), format!("is out of range; use {least} to {MAX_SECONDS}"));
        Duration::ZERO
    }

    fn operators(
        &mut self,
        admin: &file::Admin,
        place: &Place,
        jwt: Option<&Jwt>,
        server: Option<&Server>,
    ) -> Option<ValidOperators> {
        let listen = self.socket(&admin.address, admin.port, place);
        if let (Some(listen), Some(server)) = (listen, server)
            && collide(listen, server.listen)
        {
            let why = "is the traffic port; choose another, or leave `admin.port` out to share it";
            self.refuse(&place.key("port"), &listen.port().to_string(), why);
        }
        let socket = self.operators_socket(admin, &place.key("socket"), server);
        let socket_uids = self.uids(admin, &place.key("socket_uids"));
        if admin.claims.is_empty() && !self.problems.any_at(&place.key("claims")) {
            self.problems.push(
                place.key("claims"),
                "is empty, so every reader's token would be an operator's; leave the key out for `role` equals `admin`",
            );
        }
        let conditions = self.conditions(&admin.claims, &place.key("claims"));
        let rule = match jwt {
            Some(jwt) if jwt.enabled => {
                let block = Place::root().key("jwt");
                let are_gone = jwt.verifier.as_ref().is_some_and(|verifier| !verifier.has_keys(self.now));
                let is_locked = admin.enabled && socket_uids.is_empty();
                if is_locked && are_gone && !self.problems.any_at(&block) {
                    self.problems.push(
                        block.key("keys"),
                        "holds no key that is still accepted, so no operator could ask for anything; add a key, or set `admin.socket_uids` or `admin.enabled: false`",
                    );
                }
                let more = jwt.sources.iter().filter(|s| s.is_for_operators() && **s != Source::Bearer);
                let sources = std::iter::once(Source::Bearer).chain(more.cloned()).collect();
                jwt.rule(sources, conditions.clone())?
            }
            _ => Rule::Closed,
        };
        Some(ValidOperators { listen, socket, socket_uids, rule, conditions })
    }

    fn operators_socket(
        &mut self,
        admin: &file::Admin,
        place: &Place,
        server: Option<&Server>,
    ) -> Option<PathBuf> {
        let written = admin.socket.as_ref()?;
        if written.is_empty() {
            self.problems.push(place.clone(), "is empty; leave the key out for none");
            return None;
        }
        // The same for a process that takes the socket over, wherever it was started.
        let path = std::path::absolute(self.references.directory.join(written)).ok();
        let path = path.filter(|path| UnixAddress::from_pathname(path).is_ok());
        if path.is_none() {
            self.refuse(
                place,
                written,
                "is no path of a Unix socket; use at most 107 bytes, its folder included",
            );
        } else if server.and_then(|server| std::path::absolute(&server.upgrade_socket).ok()) == path {
            self.refuse(place, written, "is also server.upgrade_socket; choose another");
        }
        path
    }

    fn uids(&mut self, admin: &file::Admin, place: &Place) -> Vec<u32> {
        if admin.socket.is_none() && !admin.socket_uids.is_empty() {
            self.problems
                .push(place.clone(), "means nothing without `admin.socket`; add that, or leave it out");
        }
        let mut valid = Vec::new();
        for (index, uid) in admin.socket_uids.iter().enumerate() {
            match u32::try_from(*uid) {
                Ok(uid) => valid.push(uid),
                Err(_) => {
                    self.refuse(&place.index(index), &uid.to_string(), "is no user id; see `id --user`");
                }
            }
        }
        valid
    }
}

/// Whether two sockets cannot both listen: `::` takes IPv4 too.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    one.port() == other.port()
        && (one.ip() == other.ip() || covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
}
