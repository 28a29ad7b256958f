//! The `jwt` block without its keys, and conditions on claims wherever they stand.

use std::sync::Arc;

use http::HeaderName;

use crate::access::rule::Rule;
use crate::config::reuse::Known;
use crate::config::validate::Validator;
use crate::config::{MintingKey, file};
use crate::settings::problem::Place;
use crate::tokens::claims::{Condition, InvalidCondition};
use crate::tokens::jwks::Jwks;
use crate::tokens::token::Source;
use crate::tokens::verifier::Verifier;

/// The most places where a token may be, and the most conditions in one list.
const MAX_SOURCES: usize = 16;
const MAX_CONDITIONS: usize = 32;

/// The `jwt` block, understood.
#[derive(Default)]
pub(super) struct Jwt {
    pub enabled: bool,
    pub verifier: Option<Arc<Verifier>>,
    /// Of everything that the verifier was made from, the contents of files included.
    pub fingerprint: u64,
    /// Of those files alone; `None` where the block says all that there is.
    pub files: Option<u64>,
    pub jwks: Vec<Arc<Jwks>>,
    pub minting: Vec<MintingKey>,
    pub sources: Vec<Source>,
    pub conditions: Vec<Condition>,
}

impl Jwt {
    /// The rule for whoever must satisfy `jwt.claims` and some more.
    pub(super) fn rule(&self, sources: Vec<Source>, more: Vec<Condition>) -> Option<Rule> {
        let conditions = [self.conditions.clone(), more].concat();
        let verifier = self.verifier.clone()?;
        Some(Rule::Token { verifier, sources: sources.into(), conditions })
    }
}

impl Validator<'_, '_> {
    pub(super) fn jwt(&mut self, jwt: &file::Jwt, hash: u64, known: &Known, place: &Place) -> Jwt {
        if !jwt.enabled {
            self.warn(format!(
                "{}: false turns enforcement off: every bucket is public and the /admin endpoints answer 403",
                place.key("enabled")
            ));
        }
        let leeway = self.seconds(jwt.leeway_seconds as f64, 0.0, &place.key("leeway_seconds"));
        let keys = self.keys(jwt, leeway, hash, known, place);
        Jwt {
            enabled: jwt.enabled,
            sources: self.sources(&jwt.token_sources, &place.key("token_sources")),
            conditions: self.conditions(&jwt.claims, &place.key("claims")),
            ..keys
        }
    }

    fn sources(&mut self, sources: &[file::TokenSource], place: &Place) -> Vec<Source> {
        if sources.is_empty() && !self.problems.any_at(place) {
            self.problems.push(place.clone(), "is empty; leave the key out for `bearer`");
        }
        let mut valid = Vec::new();
        if !self.is_short(sources, MAX_SOURCES, place) {
            return valid;
        }
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

    pub(super) fn conditions(&mut self, claims: &[file::Claim], place: &Place) -> Vec<Condition> {
        let mut conditions = Vec::new();
        if !self.is_short(claims, MAX_CONDITIONS, place) {
            return conditions;
        }
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
