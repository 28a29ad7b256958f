//! The `buckets` list.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::reuse::{Known, Section};
use crate::config::validate::credentials::Identities;
use crate::config::validate::jwt::Jwt;
use crate::config::validate::{Roots, Validator};
use crate::config::{Bucket, file};
use crate::net::peer::Timeouts;
use crate::net::trust::Trust;
use crate::routing::Prefix;
use crate::s3::identity::Identity;
use crate::s3::{self, Addressing, Endpoint, InvalidBucket, Scheme};
use crate::settings::problem::{Place, shown};
use crate::settings::redaction::{conceal, holds_secret};
use crate::settings::reference::Position;

/// The most buckets that a message names.
const MAX_NAMES: usize = 10;

impl Validator<'_, '_> {
    pub(super) fn buckets(
        &mut self,
        buckets: Vec<Section<file::Bucket>>,
        place: &Place,
        jwt: Option<&Jwt>,
        known: &Known,
    ) -> Vec<Arc<Bucket>> {
        let mut valid = Vec::with_capacity(buckets.len());
        let mut prefixes: Vec<(Prefix, usize, Arc<str>)> = Vec::with_capacity(buckets.len());
        let mut names: HashMap<Arc<str>, usize> = HashMap::with_capacity(buckets.len());
        let mut identities = Identities { by_source: known.identities.clone(), by_keys: HashMap::new() };
        for (index, bucket) in buckets.into_iter().enumerate() {
            if self.references.deadline().has_passed() {
                break;
            }
            let place = place.index(index);
            let (mut bucket, origin) = match bucket {
                Section::InService(bucket) => {
                    self.unique(&bucket.name, &place, &mut names, index);
                    prefixes.push((bucket.prefix.clone(), index, bucket.name.clone()));
                    valid.push(bucket);
                    continue;
                }
                Section::Written(written) => (written.section, written.origin),
            };
            let warned = self.warned;
            let name = self.name(bucket.name.as_ref(), &place, &mut names, index);
            let prefix = self.prefix(bucket.path_prefix.as_ref(), &place.key("path_prefix"));
            if let Some(prefix) = &prefix {
                let shown = name.clone().unwrap_or_else(|| place.to_string().into());
                prefixes.push((prefix.clone(), index, shown));
            }
            let policy = self.policy(&bucket, &place, name.as_deref(), jwt);
            let external = self.external(bucket.auth.as_ref(), &place.key("auth"));
            let has_own_keys = bucket.s3.as_ref().is_some_and(|s3| s3.access_key.is_some());
            let s3_place = place.key("s3");
            let store = match &mut bucket.s3 {
                Some(s3) => self.store(s3, &s3_place, &mut identities),
                None => {
                    self.missing(s3_place, "say which bucket of which store");
                    None
                }
            };
            if let (
                Some(name),
                Some(prefix),
                Some(policy),
                Some((store, identity, region, trust, timeouts)),
            ) = (name, prefix, policy, store)
            {
                let mut effective = serde_yaml::to_value(&bucket).unwrap_or_default();
                let list = Position::Key(&Position::Root, "buckets");
                let position = Position::Index(&list, index);
                let holds_secret = holds_secret(&effective, &position, &self.references.written);
                conceal(&mut effective, &place, &self.references.written);
                // A warning names the place, and a file or the environment may have other contents next time.
                let has_credentials = has_own_keys || identity.source().is_some();
                let has_same_keys = jwt.is_none_or(|jwt| jwt.files.is_none());
                let is_told =
                    self.warned == warned && trust.roots.is_empty() && has_credentials && has_same_keys;
                let origin = origin.filter(|_| is_told);
                valid.push(Arc::new(Bucket {
                    name,
                    prefix,
                    policy,
                    external: external.map(Arc::new),
                    store,
                    identity,
                    region: region.into(),
                    trust,
                    timeouts,
                    holds_secret,
                    effective,
                    origin,
                }));
            }
        }
        self.unique_prefixes(prefixes, place);
        valid
    }

    fn unique_prefixes(&mut self, mut prefixes: Vec<(Prefix, usize, Arc<str>)>, place: &Place) {
        prefixes.sort();
        for holders in prefixes.chunk_by(|one, next| one.0 == next.0) {
            if let [_, .., (prefix, last, _)] = holders {
                let names: Vec<&str> = holders.iter().map(|(.., name)| &**name).take(MAX_NAMES).collect();
                let others = match holders.len() - names.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let place = place.index(*last).key("path_prefix");
                let prefix = match self.references.written.get(&place) {
                    Some(written) => written.clone(),
                    None => prefix.to_string(),
                };
                // The wording of this one is fixed by the documentation.
                let message = format!(
                    "Duplicate path_prefix '{}' found in buckets: {}{others}",
                    shown(&prefix),
                    names.join(", ")
                );
                self.problems.push(place, message);
            }
        }
    }

    fn name(
        &mut self,
        name: Option<&String>,
        bucket: &Place,
        names: &mut HashMap<Arc<str>, usize>,
        index: usize,
    ) -> Option<Arc<str>> {
        let place = &bucket.key("name");
        let name = self.required(name, place, "name the bucket; logs and metrics use the name")?;
        // Every report would show what it was filled in with.
        if self.references.written.contains_key(place) {
            self.problems.push(place.clone(), "holds a reference; write the name out");
            return None;
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name.len() > 63 || !begins || !name.bytes().all(allowed) {
            let why = "is not a name; use up to 63 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit";
            self.refuse(place, name, why);
            return None;
        }
        let name: Arc<str> = name.into();
        self.unique(&name, bucket, names, index);
        Some(name)
    }

    fn unique(
        &mut self,
        name: &Arc<str>,
        bucket: &Place,
        names: &mut HashMap<Arc<str>, usize>,
        index: usize,
    ) {
        if let Some(first) = names.insert(name.clone(), index) {
            self.refuse(
                &bucket.key("name"),
                name,
                format!("is also the name of buckets[{first}]; choose another"),
            );
        }
    }

    fn prefix(&mut self, prefix: Option<&String>, place: &Place) -> Option<Prefix> {
        let text = self.required(prefix, place, "write it as `/name`")?;
        match Prefix::parse(text) {
            Ok(prefix) => Some(prefix),
            // This message quotes a character of the value.
            Err(_) if self.references.written.contains_key(place) => {
                self.refuse(
                    place,
                    text,
                    "is not a path prefix; use `/` and letters, digits, `-`, `.`, `_` and `~`",
                );
                None
            }
            Err(why) => {
                self.refuse(place, text, why);
                None
            }
        }
    }

    fn store(
        &mut self,
        s3: &mut file::S3,
        place: &Place,
        identities: &mut Identities,
    ) -> Option<(s3::Bucket, Arc<Identity>, String, Trust, Timeouts)> {
        let timeouts = self.timeouts(&s3.timeouts, &place.key("timeouts"));
        let region = self.region(s3.region.as_ref(), &place.key("region"));
        let identity = self.identity(s3, place, region.as_deref(), identities);
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
            Err(why @ (InvalidBucket::Name | InvalidBucket::Label)) => {
                self.refuse(&place.key("bucket"), name?, why);
                None
            }
            Err(why @ InvalidBucket::VirtualAddress) => {
                self.refuse(&place.key("addressing"), written, why);
                None
            }
        };
        s3.addressing = Some(written.to_owned());
        Some((store?, identity?, region?, trust?, timeouts))
    }

    fn timeouts(&mut self, timeouts: &file::Timeouts, place: &Place) -> Timeouts {
        let mut positive = |seconds: f64, key: &str| self.seconds(seconds, 0.001, &place.key(key));
        Timeouts {
            connect: positive(timeouts.connect_seconds, "connect_seconds"),
            first_byte: positive(timeouts.first_byte_seconds, "first_byte_seconds"),
            read: positive(timeouts.read_seconds, "read_seconds"),
            write: positive(timeouts.write_seconds, "write_seconds"),
            idle: positive(timeouts.idle_seconds, "idle_seconds"),
            total: positive(timeouts.total_seconds, "total_seconds"),
        }
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
            // A user, a query or a fragment may hold a secret.
            Err(why) if text.contains(['@', '?', '#']) => {
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
            self.warn(format!("{place}: is not used, because the endpoint is http"));
        }
        Some(Trust { roots: self.certificates(path, place)? })
    }

    /// Roots in PEM, from a file that the configuration names; DER-encoded, and read once.
    pub(super) fn certificates(&mut self, path: &str, place: &Place) -> Option<Roots> {
        let known = self.certificates.get(path).cloned();
        let roots = known.unwrap_or_else(|| {
            let roots = self.references.file_at(path, place).map_err(|why| format!("cannot be read: {why}"));
            let roots = roots.and_then(|pem| {
                usable_roots(pem)
                    .ok_or_else(|| "holds no usable certificates; give a bundle in PEM".to_owned())
            });
            self.certificates.insert(path.to_owned(), roots.clone());
            roots
        });
        roots.map_err(|why| self.refuse(place, path, why)).ok()
    }
}

/// The certificates of a bundle, if all of them can be used.
fn usable_roots(pem: &[u8]) -> Option<Roots> {
    let certificates: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let roots = certificates.ok()?;
    let usable = |certificate: &CertificateDer<'_>| {
        // Both parsers will see it when a connection is made; the second one must not fail there.
        RootCertStore::empty().add(certificate.clone()).is_ok()
            && x509_parser::parse_x509_certificate(certificate).is_ok()
    };
    let are_usable = !roots.is_empty() && roots.iter().all(usable);
    are_usable.then(|| roots.into_iter().map(|certificate| certificate.to_vec()).collect())
}
