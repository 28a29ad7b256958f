//! From the file as written to the types that the program works with. Collects every problem.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::file::{self, File};
use super::problem::{Place, Problems};
use super::reference::References;
use super::{Bucket, Config, Minting, Operators, Server, Timeouts, Trust};
use crate::auth::Rule;
use crate::auth::claims::{Condition, InvalidCondition};
use crate::auth::keys::{Algorithm, Expectations, InvalidKey, Key, Verifier};
use crate::auth::token::Source;
use crate::routing::Prefix;
use crate::s3::sigv4::{Credentials, Signer};
use crate::s3::{self, Addressing, Endpoint, InvalidBucket, Scheme};
use crate::secret::Secret;

/// A day, the longest that anything may be made to wait.
const MAX_SECONDS: f64 = 86_400.0;

/// More threads than this are a typing mistake.
const MAX_THREADS: u64 = 1024;

/// The configuration, without its digest; `None` or a problem where it is not valid.
pub fn validate(mut file: File, references: &mut References<'_>, problems: &mut Problems) -> Option<Config> {
    let mut validator = Validator { references, problems, warnings: Vec::new() };
    let root = Place::root();
    let server = validator.server(&file.server, &root.key("server"));
    let jwt = file.jwt.as_ref().map(|jwt| validator.jwt(jwt, &root.key("jwt")));
    let operators = validator.operators(&file.admin, &root.key("admin"), jwt.as_ref(), server.as_ref());
    let buckets = validator.buckets(&mut file.buckets, &root.key("buckets"), jwt.as_ref());
    let warnings = validator.warnings;
    let effective = serde_yaml::to_value(&file);
    let operators = operators?;
    Some(Config {
        server: server?,
        minting: jwt.and_then(|jwt| jwt.minting(operators.conditions)),
        operators: Operators { listen: operators.listen, rule: operators.rule },
        routes: buckets.into_iter().collect(),
        warnings,
        digest: String::new(),
        effective: effective.ok()?,
    })
}

/// The `jwt` block, understood.
struct Jwt {
    enabled: bool,
    algorithm: Option<Algorithm>,
    secret: Option<Secret>,
    issuer: Option<String>,
    audience: Vec<String>,
    verifier: Option<Arc<Verifier>>,
    sources: Vec<Source>,
    conditions: Vec<Condition>,
}

impl Jwt {
    /// The rule for whoever must satisfy `jwt.claims` and some more.
    fn rule(&self, sources: Vec<Source>, more: Vec<Condition>) -> Option<Rule> {
        let conditions = [self.conditions.clone(), more].concat();
        let verifier = self.verifier.clone()?;
        Some(Rule::Token { verifier, sources: sources.into(), conditions })
    }

    fn minting(self, more: Vec<Condition>) -> Option<Minting> {
        Some(Minting {
            algorithm: self.algorithm?,
            secret: self.secret?,
            issuer: self.issuer,
            audience: self.audience.into_iter().next(),
            operator_conditions: [self.conditions, more].concat(),
        })
    }
}

struct ValidOperators {
    listen: Option<SocketAddr>,
    rule: Rule,
    conditions: Vec<Condition>,
}

struct Validator<'v, 'r> {
    references: &'v mut References<'r>,
    problems: &'v mut Problems,
    warnings: Vec<String>,
}

impl Validator<'_, '_> {
    /// A problem with a value, which is quoted as it was written: what a reference was filled in
    /// with may be a secret.
    fn refuse(&mut self, place: &Place, value: &str, why: impl std::fmt::Display) {
        let message = match self.references.written.get(place) {
            Some(reference) => format!("the value of `{reference}` {why}"),
            None => format!("`{value}` {why}"),
        };
        self.problems.push(place.clone(), message);
    }

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
        Some(Server {
            generation_header: server.generation_header,
            keepalive: self.seconds(server.keepalive_seconds as f64, 1.0, &place.key("keepalive_seconds")),
            shutdown_grace: self.seconds(
                server.shutdown_grace_seconds as f64,
                0.0,
                &place.key("shutdown_grace_seconds"),
            ),
            threads: usize::try_from(threads).ok()?,
            listen: listen?,
        })
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

    fn jwt(&mut self, jwt: &file::Jwt, place: &Place) -> Jwt {
        if !jwt.enabled {
            self.warnings.push(format!(
                "{}: false turns enforcement off: every bucket is public and the /admin endpoints answer 403",
                place.key("enabled")
            ));
        }
        let algorithm = match Algorithm::parse(&jwt.algorithm) {
            Ok(algorithm) => Some(algorithm),
            Err(why) => {
                self.refuse(&place.key("algorithm"), &jwt.algorithm, why);
                None
            }
        };
        let key = algorithm.and_then(|algorithm| self.key(jwt, algorithm, place));
        let leeway = self.seconds(jwt.leeway_seconds as f64, 0.0, &place.key("leeway_seconds"));
        for (field, texts) in [
            ("issuer", jwt.issuer.iter().collect::<Vec<_>>()),
            ("audience", jwt.audience.iter().collect::<Vec<_>>()),
        ] {
            if texts.into_iter().any(String::is_empty) && !self.problems.any_at(&place.key(field)) {
                self.problems.push(place.key(field), "is empty; leave the key out to accept any");
            }
        }
        let expectations =
            Expectations { issuer: jwt.issuer.clone(), audience: jwt.audience.clone(), leeway };
        Jwt {
            enabled: jwt.enabled,
            algorithm,
            secret: jwt.secret.clone().filter(|_| algorithm.is_some_and(Algorithm::is_symmetric)),
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            verifier: key.map(|key| Arc::new(Verifier::new(key, &expectations))),
            sources: self.sources(&jwt.token_sources, &place.key("token_sources")),
            conditions: self.conditions(&jwt.claims, &place.key("claims")),
        }
    }

    fn key(&mut self, jwt: &file::Jwt, algorithm: Algorithm, place: &Place) -> Option<Key> {
        let (used, unused, unused_is_set) = if algorithm.is_symmetric() {
            ("secret", "public_key", jwt.public_key.is_some())
        } else {
            ("public_key", "secret", jwt.secret.is_some())
        };
        if unused_is_set {
            let message = format!("is not used with {algorithm}; give `{used}` instead");
            self.problems.push(place.key(unused), message);
        }
        let key = match (&jwt.secret, &jwt.public_key) {
            (Some(secret), _) if algorithm.is_symmetric() => Key::from_secret(algorithm, secret),
            (_, Some(pem)) if !algorithm.is_symmetric() => Key::from_pem(algorithm, pem),
            _ => {
                if jwt.enabled {
                    self.missing(place.key(used), &format!("{algorithm} needs it"));
                }
                return None;
            }
        };
        match key {
            Ok(key) => Some(key),
            // The wording of this one is fixed by the documentation.
            Err(why @ InvalidKey::ShortSecret) => {
                self.problems.push(place.key(used), why.to_string());
                None
            }
            Err(why) => {
                self.problems.push(place.key(used), format!("the key {why}; {algorithm} needs one"));
                None
            }
        }
    }

    fn sources(&mut self, sources: &[file::TokenSource], place: &Place) -> Vec<Source> {
        if sources.is_empty() && !self.problems.any_at(place) {
            self.problems.push(place.clone(), "is empty; leave the key out for `bearer`");
        }
        let mut valid = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let place = place.index(index);
            if self.problems.any_at(&place) {
                continue;
            }
            let name = source.name.as_deref();
            let name_place = place.key("name");
            let token = |name: &str| HeaderName::try_from(name).ok();
            let parsed = match (source.kind.as_str(), name) {
                ("bearer", None) => Some(Source::Bearer),
                ("bearer", Some(name)) => {
                    self.refuse(&name_place, name, "has no meaning for `bearer`; leave it out");
                    None
                }
                ("header" | "query" | "cookie", None) => {
                    self.missing(name_place, "say which one");
                    None
                }
                ("header", Some(name)) => match token(name) {
                    Some(header) => Some(Source::Header(header)),
                    None => {
                        self.refuse(&name_place, name, "is not a header name; use letters, digits and `-`");
                        None
                    }
                },
                // The grammar of a cookie's name is that of a header's (RFC 6265, section 4.1.1).
                ("cookie", Some(name)) if token(name).is_some() => Some(Source::Cookie(name.to_owned())),
                ("cookie", Some(name)) => {
                    self.refuse(&name_place, name, "is not a cookie name; use letters, digits, `-` and `_`");
                    None
                }
                ("query", Some(name)) if is_parameter(name) => Some(Source::Query(name.to_owned())),
                ("query", Some(name)) => {
                    let why = "is not a parameter name; use letters, digits, `-`, `_`, `.` and `~`";
                    self.refuse(&name_place, name, why);
                    None
                }
                ("", _) => {
                    self.missing(place.key("type"), "use bearer, header, query or cookie");
                    None
                }
                (kind, _) => {
                    let why = "is not a token source; use bearer, header, query or cookie";
                    self.refuse(&place.key("type"), kind, why);
                    None
                }
            };
            valid.extend(parsed);
        }
        valid
    }

    fn conditions(&mut self, claims: &[file::Claim], place: &Place) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for (index, claim) in claims.iter().enumerate() {
            let place = place.index(index);
            if self.problems.any_at(&place) {
                continue;
            }
            for (key, text) in [("claim", &claim.claim), ("operator", &claim.operator)] {
                if text.is_empty() {
                    self.missing(place.key(key), "a condition has a claim and an operator");
                }
            }
            if self.problems.any_at(&place) {
                continue;
            }
            let value = match claim.value.as_ref().map(serde_json::to_value).transpose() {
                Ok(value) => value,
                Err(_) => {
                    self.problems.push(place.key("value"), "is not a plain value");
                    continue;
                }
            };
            let shown = value.as_ref().map(ToString::to_string);
            match Condition::new(&claim.claim, &claim.operator, value) {
                Ok(condition) => conditions.push(condition),
                Err(why @ InvalidCondition::Claim) => self.refuse(&place.key("claim"), &claim.claim, why),
                Err(why @ InvalidCondition::Operator) => {
                    self.refuse(&place.key("operator"), &claim.operator, why);
                }
                Err(why) => match shown {
                    Some(value) => self.refuse(&place.key("value"), &value, why),
                    None => self.problems.push(place.key("value"), format!("is missing; it {why}")),
                },
            }
        }
        conditions
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
            && listen.port() == server.listen.port()
            && (listen.ip() == server.listen.ip() || server.listen.ip().is_unspecified())
        {
            let why = "is the traffic port; choose another, or leave `admin.port` out to share it";
            self.refuse(&place.key("port"), &listen.port().to_string(), why);
        }
        if admin.claims.is_empty() && !self.problems.any_at(&place.key("claims")) {
            self.problems.push(
                place.key("claims"),
                "is empty, so every reader's token would be an operator's; leave the key out for `role` equals `admin`",
            );
        }
        let conditions = self.conditions(&admin.claims, &place.key("claims"));
        let rule = match jwt {
            Some(jwt) if jwt.enabled => {
                let more = jwt.sources.iter().filter(|s| s.is_for_operators() && **s != Source::Bearer);
                let sources = std::iter::once(Source::Bearer).chain(more.cloned()).collect();
                jwt.rule(sources, conditions.clone())?
            }
            _ => Rule::Closed,
        };
        Some(ValidOperators { listen, rule, conditions })
    }

    fn buckets(
        &mut self,
        buckets: &mut [file::Bucket],
        place: &Place,
        jwt: Option<&Jwt>,
    ) -> Vec<(Prefix, Arc<Bucket>)> {
        let mut valid = Vec::new();
        let mut prefixes: BTreeMap<Prefix, Vec<(usize, String)>> = BTreeMap::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        for (index, bucket) in buckets.iter_mut().enumerate() {
            let place = place.index(index);
            let name = self.name(bucket.name.as_ref(), &place.key("name"), &mut names, index);
            let prefix = self.prefix(bucket.path_prefix.as_ref(), &place.key("path_prefix"));
            if let Some(prefix) = &prefix {
                let shown = name.clone().unwrap_or_else(|| place.to_string());
                prefixes.entry(prefix.clone()).or_default().push((index, shown));
            }
            let rule = self.rule(bucket.auth.as_ref(), &place, name.as_deref(), jwt);
            let s3_place = place.key("s3");
            let store = match &mut bucket.s3 {
                Some(s3) => self.store(s3, &s3_place),
                None => {
                    self.missing(s3_place, "say which bucket of which store");
                    None
                }
            };
            if let (Some(name), Some(prefix), Some(rule), Some((store, signer, trust, timeouts))) =
                (name, prefix, rule, store)
            {
                valid.push((prefix, Arc::new(Bucket { name, rule, store, signer, trust, timeouts })));
            }
        }
        for (prefix, holders) in prefixes {
            if let [_, .., (last, _)] = holders.as_slice() {
                let names: Vec<&str> = holders.iter().map(|(_, name)| name.as_str()).collect();
                // The wording of this one is fixed by the documentation.
                let message =
                    format!("Duplicate path_prefix '{prefix}' found in buckets: {}", names.join(", "));
                self.problems.push(place.index(*last).key("path_prefix"), message);
            }
        }
        valid
    }

    fn name(
        &mut self,
        name: Option<&String>,
        place: &Place,
        names: &mut HashMap<String, usize>,
        index: usize,
    ) -> Option<String> {
        let name = self.required(name, place, "name the bucket; logs and metrics use the name")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name.len() > 63 || !begins || !name.bytes().all(allowed) {
            let why = "is not a name; use up to 63 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit";
            self.refuse(place, name, why);
            return None;
        }
        if let Some(first) = names.insert(name.to_owned(), index) {
            self.refuse(place, name, format!("is also the name of buckets[{first}]; choose another"));
        }
        Some(name.to_owned())
    }

    fn prefix(&mut self, prefix: Option<&String>, place: &Place) -> Option<Prefix> {
        let text = self.required(prefix, place, "write it as `/name`")?;
        match Prefix::parse(text) {
            Ok(prefix) => Some(prefix),
            Err(why) => {
                self.refuse(place, text, why);
                None
            }
        }
    }

    fn rule(
        &mut self,
        auth: Option<&file::Auth>,
        bucket: &Place,
        name: Option<&str>,
        jwt: Option<&Jwt>,
    ) -> Option<Rule> {
        let place = bucket.key("auth");
        let more = auth.map(|auth| self.conditions(&auth.claims, &place.key("claims"))).unwrap_or_default();
        match (auth, jwt) {
            (None, _) => {
                if !self.problems.any_at(&place) {
                    self.warnings.push(format!(
                        "{place}: bucket `{}` is public, because it has no `auth`; write `auth: {{ enabled: false }}` if that is meant",
                        name.unwrap_or_default(),
                    ));
                }
                Some(Rule::Public)
            }
            (Some(auth), _) if !auth.enabled => Some(Rule::Public),
            (Some(_), None) => {
                self.problems.push(
                    place.key("enabled"),
                    "authentication needs keys, and there is no `jwt` block; add one, or set `enabled: false`",
                );
                None
            }
            (Some(_), Some(jwt)) if !jwt.enabled => Some(Rule::Public),
            (Some(_), Some(jwt)) => jwt.rule(jwt.sources.clone(), more),
        }
    }

    fn store(&mut self, s3: &mut file::S3, place: &Place) -> Option<(s3::Bucket, Signer, Trust, Timeouts)> {
        let timeouts = self.timeouts(&s3.timeouts, &place.key("timeouts"));
        let credentials = self.credentials(s3, place);
        let region = self.region(s3.region.as_ref(), &place.key("region"));
        let endpoint = match (&s3.endpoint, &region) {
            (Some(text), _) => self.endpoint(text, &place.key("endpoint")),
            (None, Some(region)) => Some(Endpoint::aws(region)),
            (None, None) => None,
        };
        let trust = self.trust(s3.ca_file.as_ref(), &place.key("ca_file"), endpoint.as_ref());
        let name = self.required(s3.bucket.as_ref(), &place.key("bucket"), "name the bucket in the store");
        let addressing = self.addressing(s3.addressing.as_deref(), name, s3.endpoint.is_some(), place)?;
        let written = match addressing {
            Addressing::Path => "path",
            Addressing::Virtual => "virtual",
        };
        let store = match s3::Bucket::new(name?, endpoint?, addressing) {
            Ok(store) => Some(store),
            Err(why @ InvalidBucket::Name) => {
                self.refuse(&place.key("bucket"), name?, why);
                None
            }
            Err(why @ InvalidBucket::VirtualAddress) => {
                self.refuse(&place.key("addressing"), written, why);
                None
            }
        };
        s3.addressing = Some(written.to_owned());
        Some((store?, Signer::new(credentials?, &region?), trust?, timeouts))
    }

    fn timeouts(&mut self, timeouts: &file::Timeouts, place: &Place) -> Timeouts {
        let mut positive = |seconds: f64, key: &str| self.seconds(seconds, 0.001, &place.key(key));
        Timeouts {
            connect: positive(timeouts.connect_seconds, "connect_seconds"),
            read: positive(timeouts.read_seconds, "read_seconds"),
            write: positive(timeouts.write_seconds, "write_seconds"),
            idle: positive(timeouts.idle_seconds, "idle_seconds"),
            total: positive(timeouts.total_seconds, "total_seconds"),
        }
    }

    /// Both keys, or neither and then those of the environment.
    fn credentials(&mut self, s3: &mut file::S3, place: &Place) -> Option<Credentials> {
        if self.problems.any_at(&place.key("access_key")) || self.problems.any_at(&place.key("secret_key")) {
            return None;
        }
        match (&s3.access_key, &s3.secret_key) {
            (Some(_), Some(_)) => {}
            (Some(_), None) => self.missing(place.key("secret_key"), "it belongs to `access_key`"),
            (None, Some(_)) => self.missing(place.key("access_key"), "it belongs to `secret_key`"),
            (None, None) => {
                let variable =
                    |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Secret::new);
                s3.access_key = variable("AWS_ACCESS_KEY_ID");
                s3.secret_key = variable("AWS_SECRET_ACCESS_KEY");
                s3.session_token = variable("AWS_SESSION_TOKEN");
                if s3.access_key.is_none() || s3.secret_key.is_none() {
                    self.problems.push(
                        place.key("access_key"),
                        "is missing, as is `secret_key`, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set in the environment; give the keys here or there",
                    );
                }
            }
        }
        // An empty token is how a file says that there is none.
        s3.session_token = s3.session_token.take().filter(|token| !token.is_empty());
        for (key, secret) in [
            ("access_key", &s3.access_key),
            ("secret_key", &s3.secret_key),
            ("session_token", &s3.session_token),
        ] {
            // They become a part of headers.
            let printable = |secret: &Secret| secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
            if secret.as_ref().is_some_and(|secret| secret.is_empty() || !printable(secret)) {
                self.problems.push(
                    place.key(key),
                    "is empty or holds a character that a key cannot have, perhaps a space or a line break",
                );
            }
        }
        Some(Credentials {
            access_key: s3.access_key.clone()?,
            secret_key: s3.secret_key.clone()?,
            session_token: s3.session_token.clone(),
        })
    }

    fn region(&mut self, region: Option<&String>, place: &Place) -> Option<String> {
        let region =
            self.required(region, place, "name it, as `eu-west-1`; stores without regions take `us-east-1`")?;
        if !s3::is_region(region) {
            self.refuse(place, region, "is not a region name; use letters, digits and `-`");
            return None;
        }
        Some(region.to_owned())
    }

    fn endpoint(&mut self, text: &str, place: &Place) -> Option<Endpoint> {
        match Endpoint::parse(text) {
            Ok(endpoint) => Some(endpoint),
            Err(why @ s3::InvalidEndpoint::UserInfo) => {
                self.problems.push(place.clone(), format!("the endpoint {why}"));
                None
            }
            Err(why) => {
                self.refuse(place, text, why);
                None
            }
        }
    }

    fn addressing(
        &mut self,
        written: Option<&str>,
        bucket: Option<&str>,
        has_endpoint: bool,
        place: &Place,
    ) -> Option<Addressing> {
        match written {
            Some("path") => Some(Addressing::Path),
            Some("virtual") => Some(Addressing::Virtual),
            Some(other) => {
                self.refuse(
                    &place.key("addressing"),
                    other,
                    "is not an addressing style; use path or virtual",
                );
                None
            }
            // A name with a dot is two labels, and the certificate of AWS covers one.
            None if has_endpoint || bucket.is_some_and(|name| name.contains('.')) => Some(Addressing::Path),
            None => Some(Addressing::Virtual),
        }
    }

    fn trust(
        &mut self,
        ca_file: Option<&String>,
        place: &Place,
        endpoint: Option<&Endpoint>,
    ) -> Option<Trust> {
        let Some(path) = ca_file else { return Some(Trust::default()) };
        if endpoint.is_some_and(|endpoint| endpoint.scheme == Scheme::Http) {
            self.warnings.push(format!("{place}: is not used, because the endpoint is http"));
        }
        let pem = match self.references.file(Path::new(path)) {
            Ok(pem) => pem,
            Err(why) => {
                self.refuse(place, path, format!("cannot be read: {why}"));
                return None;
            }
        };
        let certificates: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let roots = certificates.unwrap_or_default();
        let usable = |certificate: &CertificateDer<'_>| {
            // Both parsers will see it when a connection is made; the second one must not fail there.
            RootCertStore::empty().add(certificate.clone()).is_ok()
                && x509_parser::parse_x509_certificate(certificate).is_ok()
        };
        if roots.is_empty() || !roots.iter().all(usable) {
            self.refuse(place, path, "holds no usable certificates; give a bundle in PEM");
            return None;
        }
        Some(Trust { roots: roots.into_iter().map(|certificate| certificate.to_vec()).collect() })
    }
}

fn is_parameter(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
}
