//! The `jwt` block, and conditions on claims wherever they stand.

use std::sync::Arc;

use http::HeaderName;

use super::Validator;
use crate::auth::Rule;
use crate::auth::claims::{Condition, InvalidCondition};
use crate::auth::keys::{Algorithm, Expectations, InvalidKey, Key, Verifier};
use crate::auth::token::Source;
use crate::config::problem::Place;
use crate::config::{Minting, file};
use crate::secret::Secret;

/// The `jwt` block, understood.
pub struct Jwt {
    pub enabled: bool,
    algorithm: Option<Algorithm>,
    secret: Option<Secret>,
    issuer: Option<String>,
    audience: Vec<String>,
    verifier: Option<Arc<Verifier>>,
    pub sources: Vec<Source>,
    conditions: Vec<Condition>,
}

impl Jwt {
    /// The rule for whoever must satisfy `jwt.claims` and some more.
    pub fn rule(&self, sources: Vec<Source>, more: Vec<Condition>) -> Option<Rule> {
        let conditions = [self.conditions.clone(), more].concat();
        let verifier = self.verifier.clone()?;
        Some(Rule::Token { verifier, sources: sources.into(), conditions })
    }

    pub fn minting(self, more: Vec<Condition>) -> Option<Minting> {
        Some(Minting {
            algorithm: self.algorithm?,
            secret: self.secret?,
            issuer: self.issuer,
            audience: self.audience.into_iter().next(),
            operator_conditions: [self.conditions, more].concat(),
        })
    }
}

impl Validator<'_, '_> {
    pub fn jwt(&mut self, jwt: &file::Jwt, place: &Place) -> Jwt {
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

    pub fn conditions(&mut self, claims: &[file::Claim], place: &Place) -> Vec<Condition> {
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
}

fn is_parameter(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
}
