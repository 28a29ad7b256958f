//! The keys of the `jwt` block: the one, the list, and those that others publish.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Uri;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::reuse::Known;
use crate::config::validate::Validator;
use crate::config::validate::jwt::Jwt;
use crate::config::{MintingKey, file};
use crate::net::trust::Trust;
use crate::secret::Secret;
use crate::settings::document::KEY;
use crate::settings::problem::Place;
use crate::tokens::jwks::{Jwks, Url};
use crate::tokens::key_set;
use crate::tokens::keys::{Algorithm, InvalidKey, Key};
use crate::tokens::verifier::{ConfiguredKey, Expectations, PublishedKeys, Verifier};

/// The most keys, sets of keys and audiences in one list, and the longest issuer and audience.
const MAX_KEYS: usize = 100;
const MAX_AUDIENCES: usize = 64;
const MAX_NAME_BYTES: usize = 1024;

/// A key as it is written, in the block itself or in its list.
struct Written<'f> {
    algorithm: &'f str,
    secret: Option<&'f Secret>,
    public_key: Option<&'f str>,
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    keys: Vec<ConfiguredKey>,
    minting: Vec<MintingKey>,
    published: Vec<PublishedKeys>,
    jwks: Vec<Arc<Jwks>>,
    /// Hashes of the contents of the files that were read.
    files: Vec<u64>,
}

impl Validator<'_, '_> {
    /// The part of the block that has to do with keys.
    pub(super) fn keys(
        &mut self,
        jwt: &file::Jwt,
        leeway: Duration,
        hash: u64,
        known: &Known,
        place: &Place,
    ) -> Jwt {
        let default =
            self.expectations(jwt.issuer.as_ref(), Some(&jwt.audience), &Expectations::default(), place);
        let mut found = Found::default();
        self.listed_keys(&jwt.keys, &default, &mut found, &place.key("keys"));
        self.published_keys(&jwt.jwks, &default, known, &mut found, &place.key("jwks"));
        let is_single = jwt.secret.is_some() || jwt.public_key.is_some();
        if is_single && !jwt.keys.is_empty() {
            let single = if jwt.secret.is_some() { "secret" } else { "public_key" };
            let why = format!("cannot stand beside `{}`; move it into the list", place.key("keys"));
            self.problems.push(place.key(single), why);
        } else if is_single || (jwt.keys.is_empty() && jwt.jwks.is_empty()) {
            let written = Written {
                algorithm: &jwt.algorithm,
                secret: jwt.secret.as_ref(),
                public_key: jwt.public_key.as_deref(),
            };
            if let Some(key) = self.key(&written, jwt.enabled, place) {
                found.add(key, written.secret, None, default);
            }
        }
        let Found { keys, minting, published, jwks, files } = found;
        let files = (!files.is_empty()).then(|| KEY.hash_one(files));
        let fingerprint = KEY.hash_one((hash, files));
        let verifier = match &known.verifier {
            // With the tokens that it has verified already.
            Some((same, verifier)) if *same == fingerprint => verifier.clone(),
            _ => Arc::new(Verifier::new(keys, published, leeway)),
        };
        Jwt { verifier: Some(verifier), fingerprint, files, jwks, minting, ..Jwt::default() }
    }

    fn listed_keys(&mut self, keys: &[file::Key], default: &Expectations, found: &mut Found, place: &Place) {
        if !self.is_short(keys, MAX_KEYS, place) {
            return;
        }
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (index, key) in keys.iter().enumerate() {
            let place = place.index(index);
            if self.problems.any_at(&place) {
                continue;
            }
            let id = self.required(
                key.id.as_ref(),
                &place.key("id"),
                "name the key as the `kid` of its tokens does",
            );
            if let Some(first) = id.and_then(|id| ids.insert(id, index)) {
                let why = format!("is also the id of jwt.keys[{first}]; every key has its own");
                self.refuse(&place.key("id"), id.unwrap_or_default(), why);
            }
            let not_after =
                key.not_after.as_ref().and_then(|text| self.instant(text, &place.key("not_after")));
            let expectations = self.expectations(key.issuer.as_ref(), key.audience.as_ref(), default, &place);
            let written = Written {
                algorithm: &key.algorithm,
                secret: key.secret.as_ref(),
                public_key: key.public_key.as_deref(),
            };
            let has_passed = not_after.is_some_and(|not_after| not_after <= self.now);
            if has_passed {
                self.warn(format!(
                    "{}: has passed, so this key verifies nothing; remove the key",
                    place.key("not_after")
                ));
            }
            let parsed = self.key(&written, true, &place);
            if let (Some(id), Some(key)) = (id, parsed) {
                let secret = written.secret.filter(|_| !has_passed);
                found.add(key.with_id(id.to_owned()), secret, not_after, expectations);
            }
        }
    }

    fn key(&mut self, written: &Written<'_>, is_required: bool, place: &Place) -> Option<Key> {
        let algorithm = match Algorithm::parse(written.algorithm) {
            Ok(algorithm) => algorithm,
            Err(why) => {
                self.refuse(&place.key("algorithm"), written.algorithm, why);
                return None;
            }
        };
        let (used, unused, unused_is_set) = if algorithm.is_symmetric() {
            ("secret", "public_key", written.public_key.is_some())
        } else {
            ("public_key", "secret", written.secret.is_some())
        };
        if unused_is_set {
            let message = format!("is not used with {algorithm}; give `{used}` instead");
            self.problems.push(place.key(unused), message);
        }
        self.refuse_placeholder(written.secret, &place.key("secret"));
        let key = match (written.secret, written.public_key) {
            (Some(secret), _) if algorithm.is_symmetric() => Key::from_secret(algorithm, secret),
            (_, Some(pem)) if !algorithm.is_symmetric() => Key::from_pem(algorithm, pem),
            _ => {
                if is_required {
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

    /// What a key's own `issuer` and `audience` say, and for what they leave out what `default` says.
    fn expectations(
        &mut self,
        issuer: Option<&String>,
        audience: Option<&Vec<String>>,
        default: &Expectations,
        place: &Place,
    ) -> Expectations {
        for (field, texts) in [
            ("issuer", issuer.into_iter().collect::<Vec<_>>()),
            ("audience", audience.into_iter().flatten().collect()),
        ] {
            if texts.into_iter().any(String::is_empty) && !self.problems.any_at(&place.key(field)) {
                self.problems.push(place.key(field), "is empty; leave the key out to accept any");
            }
        }
        let texts = || issuer.into_iter().chain(audience.into_iter().flatten());
        for (field, is_long) in [
            ("issuer", issuer.is_some_and(|text| text.len() > MAX_NAME_BYTES)),
            ("audience", audience.into_iter().flatten().any(|text| text.len() > MAX_NAME_BYTES)),
        ] {
            if is_long {
                let why = format!("holds more than {MAX_NAME_BYTES} bytes; use a shorter name");
                self.problems.push(place.key(field), why);
            }
        }
        let is_short =
            audience.is_none_or(|audience| self.is_short(audience, MAX_AUDIENCES, &place.key("audience")));
        if !is_short || texts().any(|text| text.len() > MAX_NAME_BYTES) {
            return Expectations::default();
        }
        Expectations {
            issuer: issuer.or(default.issuer.as_ref()).cloned(),
            audience: audience.unwrap_or(&default.audience).clone(),
        }
    }

    fn instant(&mut self, text: &str, place: &Place) -> Option<SystemTime> {
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(instant) => Some(instant.into()),
            Err(_) => {
                self.refuse(place, text, "is not a time; write it as `2030-01-31T12:00:00Z` (RFC 3339)");
                None
            }
        }
    }

    fn published_keys(
        &mut self,
        entries: &[file::Jwks],
        default: &Expectations,
        known: &Known,
        found: &mut Found,
        place: &Place,
    ) {
        if !self.is_short(entries, MAX_KEYS, place) {
            return;
        }
        for (index, entry) in entries.iter().enumerate() {
            let place = place.index(index);
            if self.problems.any_at(&place) {
                continue;
            }
            let expectations =
                self.expectations(entry.issuer.as_ref(), entry.audience.as_ref(), default, &place);
            let refresh = self.seconds(entry.refresh_seconds as f64, 1.0, &place.key("refresh_seconds"));
            let refetch = self.seconds(entry.refetch_seconds as f64, 1.0, &place.key("refetch_seconds"));
            match (&entry.url, &entry.file) {
                (None, None) => self.missing(place.key("url"), "say where the keys are, or give a `file`"),
                (Some(_), Some(_)) => {
                    self.problems.push(place.key("file"), "cannot stand beside `url`; give one of the two");
                }
                (None, Some(path)) => {
                    if entry.ca_file.is_some() {
                        self.problems.push(place.key("ca_file"), "is not used with `file`; leave it out");
                    }
                    let keys = self.key_file(path, found, &place.key("file"));
                    found.keys.extend(keys.into_iter().map(|key| ConfiguredKey {
                        key,
                        not_after: None,
                        expectations: expectations.clone(),
                    }));
                }
                (Some(url), None) => {
                    let trust = self.trusted(entry.ca_file.as_ref(), found, &place.key("ca_file"));
                    let (Some(url), Some(trust)) = (self.key_url(url.expose(), &place.key("url")), trust)
                    else {
                        continue;
                    };
                    if found.jwks.iter().any(|other| other.url == url && other.trust == trust) {
                        self.problems
                            .push(place.key("url"), "is the same as that of another entry; leave one out");
                        continue;
                    }
                    let same = known.jwks.iter().find(|jwks| jwks.url == url && jwks.trust == trust);
                    let set = same.map(|jwks| jwks.set.clone()).unwrap_or_default();
                    found.published.push(PublishedKeys { set: set.clone(), expectations });
                    found.jwks.push(Arc::new(Jwks { url, trust, refresh, refetch, set }));
                }
            }
        }
    }

    fn key_file(&mut self, path: &str, found: &mut Found, place: &Place) -> Vec<Key> {
        let parsed = match self.references.file_at(path, place) {
            Ok(document) => {
                found.files.push(KEY.hash_one(document));
                key_set::parse(document).map_err(|why| why.to_string())
            }
            Err(why) => Err(format!("cannot be read: {why}")),
        };
        match parsed {
            Ok((keys, skipped)) => {
                skipped.iter().for_each(|skipped| self.warn(format!("{place}: {skipped}")));
                keys
            }
            Err(why) => {
                self.refuse(place, path, why);
                Vec::new()
            }
        }
    }

    fn trusted(&mut self, ca_file: Option<&String>, found: &mut Found, place: &Place) -> Option<Trust> {
        let Some(path) = ca_file else { return Some(Trust::default()) };
        let roots = self.certificates(path, place)?;
        found.files.push(KEY.hash_one(&roots));
        Some(Trust { roots })
    }

    /// Whoever could change the document on its way could make tokens.
    fn key_url(&mut self, text: &str, place: &Place) -> Option<Url> {
        if text.contains('@') {
            self.problems.push(place.clone(), "holds a user or a password; leave them out");
            return None;
        }
        let uri: Option<Uri> = text.parse().ok();
        let (url, uri) = (Url::new(text), uri.as_ref());
        let host = uri.and_then(Uri::host).filter(|host| !host.is_empty());
        let scheme = uri.and_then(Uri::scheme_str);
        let (Some(host), Some("http" | "https")) = (host, scheme) else {
            self.refuse(place, &url.to_string(), "is not a URL; write it as `https://issuer.example/keys`");
            return None;
        };
        if scheme == Some("http") && !is_loopback(host) {
            let why =
                "is not https, so that whoever is on the way could replace the keys; use https, or a `file`";
            self.refuse(place, &url.to_string(), why);
            return None;
        }
        Some(url)
    }
}

impl Found {
    /// A key, and for tokens of our own its secret, where it may still sign.
    fn add(
        &mut self,
        key: Key,
        secret: Option<&Secret>,
        not_after: Option<SystemTime>,
        expectations: Expectations,
    ) {
        if let Some(secret) = secret.filter(|_| key.is_symmetric()) {
            self.minting.push(MintingKey {
                id: key.id().map(str::to_owned),
                algorithm: key.algorithm(),
                secret: secret.clone(),
                issuer: expectations.issuer.clone(),
                audience: expectations.audience.first().cloned(),
            });
        }
        self.keys.push(ConfiguredKey { key, not_after, expectations });
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}
