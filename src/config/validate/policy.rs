//! The part of a bucket that says who may read.

use std::collections::HashMap;
use std::time::Duration;

use http::uri::PathAndQuery;

use crate::access::external::External;
use crate::access::links::{Links, MIN_SECRET_CHARACTERS};
use crate::access::networks::{Network, Networks};
use crate::access::pattern::{Class, Pattern};
use crate::access::policy::{Policy, Readers};
use crate::access::rule::Rule;
use crate::access::rules::{Mode, PathRule, Rules};
use crate::config::file;
use crate::config::validate::Validator;
use crate::config::validate::jwt::Jwt;
use crate::s3::Endpoint;
use crate::s3::operation::OperationSet;
use crate::secret::Secret;
use crate::settings::problem::Place;
use crate::tokens::claims::Condition;

/// More rules than this for one bucket belong into the claims of tokens.
const MAX_RULES: usize = 1000;

/// A week, as for the signed URLs of S3.
const MAX_TTL_SECONDS: u64 = 604_800;

/// Longer than anybody waits for an object to begin.
const MAX_TIMEOUT_MS: u64 = 60_000;

/// What was decided longer ago than this is another decision.
const MAX_CACHE_SECONDS: u64 = 3600;

impl Validator<'_, '_> {
    pub(super) fn policy(
        &mut self,
        bucket: &file::Bucket,
        place: &Place,
        name: Option<&str>,
        jwt: Option<&Jwt>,
    ) -> Option<Policy> {
        let mut list = |networks: &Option<Vec<String>>, key: &str| {
            networks.as_ref().map(|networks| {
                let place = place.key(key);
                if networks.is_empty() && !self.problems.any_at(&place) {
                    self.problems.push(place.clone(), "is empty; leave the key out");
                }
                self.networks(networks, &place)
            })
        };
        let networks = Networks {
            allow: list(&bucket.allow_networks, "allow_networks"),
            deny: list(&bucket.deny_networks, "deny_networks").unwrap_or_default(),
        };
        let links = bucket.auth.as_ref().and_then(|auth| auth.signed_links.as_ref());
        let links = links.map(|links| self.links(links, &place.key("auth").key("signed_links")));
        let mode =
            bucket.auth.as_ref().map_or(Mode::Enforce, |auth| self.auth_mode(auth, &place.key("auth")));
        let networks_mode = self.networks_mode(bucket, &place.key("networks_mode"));
        let readers = self.readers(bucket.auth.as_ref(), &place.key("auth"), name, jwt)?;
        let policy = Policy { mode, networks, networks_mode, links, readers };
        self.warn_of_observed(&policy, place, name);
        Some(policy)
    }

    pub(super) fn external(&mut self, auth: Option<&file::Auth>, place: &Place) -> Option<External> {
        let external = auth?.external.as_ref()?;
        let place = place.key("external");
        if external.url.is_none() {
            self.missing(place.key("url"), "say whom to ask");
        }
        let asked = external.url.as_ref().and_then(|url| self.service(url, &place.key("url")));
        for (key, value, least, most) in [
            ("timeout_ms", external.timeout_ms, 1, MAX_TIMEOUT_MS),
            ("cache_seconds", external.cache_seconds, 0, MAX_CACHE_SECONDS),
        ] {
            if !(least..=most).contains(&value) {
                let why = format!("is out of range; use {least} to {most}");
                self.refuse(&place.key(key), &value.to_string(), why);
            }
        }
        let (endpoint, target) = asked?;
        Some(External {
            url: external.url.clone()?,
            endpoint,
            target,
            timeout: Duration::from_millis(external.timeout_ms),
            cache: Duration::from_secs(external.cache_seconds),
        })
    }

    /// Where a service is, and what to ask for there. Not quoted: there may be a secret in it.
    fn service(&mut self, url: &Secret, place: &Place) -> Option<(Endpoint, Secret)> {
        let uri = self.url(url, place)?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        if authority.as_str().contains('@') {
            let why = "holds a user name, which would not be sent; leave it out";
            self.problems.push(place.clone(), why);
            return None;
        }
        match Endpoint::parse(&format!("{scheme}://{authority}")) {
            Ok(endpoint) => {
                let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
                Some((endpoint, Secret::new(target)))
            }
            Err(why) => {
                self.problems.push(place.clone(), why.to_string());
                None
            }
        }
    }

    pub(super) fn networks(&mut self, networks: &[String], place: &Place) -> Vec<Network> {
        let mut valid = Vec::new();
        for (index, text) in networks.iter().enumerate() {
            if self.references.deadline().has_passed() {
                break;
            }
            let place = place.index(index);
            match Network::parse(text) {
                Ok(network) => valid.push(network),
                Err(_) if self.problems.any_at(&place) => {}
                Err(why) => self.refuse(&place, text, why),
            }
        }
        valid
    }

    fn readers(
        &mut self,
        auth: Option<&file::Auth>,
        place: &Place,
        name: Option<&str>,
        jwt: Option<&Jwt>,
    ) -> Option<Readers> {
        let Some(auth) = auth else {
            if !self.problems.any_at(place) {
                self.warn(format!(
                    "{place}: bucket `{}` is public, because it has no `auth`; write `auth: {{ enabled: false }}` if that is meant",
                    name.unwrap_or_default(),
                ));
            }
            return Some(Readers::Whole(Rule::Public));
        };
        let conditions = self.conditions(&auth.claims, &place.key("claims"));
        if !auth.enabled {
            for (key, is_given) in [
                ("rules", auth.rules.is_some()),
                ("signed_links", auth.signed_links.is_some()),
                ("external", auth.external.is_some()),
            ] {
                if is_given {
                    let why = "means nothing beside `enabled: false`, which makes the bucket public; leave one of them out";
                    self.problems.push(place.key(key), why);
                }
            }
            return Some(Readers::Whole(Rule::Public));
        }
        let has_links = auth.signed_links.is_some();
        let token_rule = |more: Vec<Condition>| match jwt {
            Some(jwt) if !jwt.enabled => Some(Rule::Public),
            Some(jwt) => jwt.rule(jwt.sources.clone(), [conditions.clone(), more].concat()),
            // Without keys, conditions are something that nobody could satisfy.
            None => (has_links && conditions.is_empty() && more.is_empty()).then_some(Rule::Closed),
        };
        match &auth.rules {
            Some(rules) => {
                self.rules(rules, &place.key("rules"), jwt.is_some(), token_rule).map(Readers::ByPath)
            }
            None => {
                let rule = token_rule(Vec::new());
                if jwt.is_none() && rule.is_none() {
                    self.problems.push(
                        place.key("enabled"),
                        "authentication needs keys, and there is no `jwt` block; add one, or set `enabled: false`",
                    );
                }
                rule.map(Readers::Whole)
            }
        }
    }

    fn links(&mut self, links: &file::SignedLinks, place: &Place) -> Links {
        if links.secret.is_none() {
            self.missing(place.key("secret"), "links are signed with it");
        }
        let secrets = [("secret", &links.secret), ("previous_secret", &links.previous_secret)];
        for (key, secret) in secrets {
            let is_short = |secret: &Secret| secret.expose().chars().count() < MIN_SECRET_CHARACTERS;
            self.refuse_placeholder(secret.as_ref(), &place.key(key));
            if secret.as_ref().is_some_and(is_short) {
                let why = format!("is shorter than {MIN_SECRET_CHARACTERS} characters");
                self.problems.push(place.key(key), why);
            }
        }
        let seconds = links.max_ttl_seconds;
        if !(1..=MAX_TTL_SECONDS).contains(&seconds) {
            let why = format!("is out of range; use 1 to {MAX_TTL_SECONDS}");
            self.refuse(&place.key("max_ttl_seconds"), &seconds.to_string(), why);
        }
        let secrets: Vec<&Secret> = secrets.into_iter().filter_map(|(_, secret)| secret.as_ref()).collect();
        Links::new(&secrets, Duration::from_secs(seconds))
    }

    /// `token_rule` is for whoever has a token that satisfies some more conditions.
    fn rules(
        &mut self,
        rules: &[file::PathRule],
        place: &Place,
        has_keys: bool,
        token_rule: impl Fn(Vec<Condition>) -> Option<Rule>,
    ) -> Option<Rules> {
        if rules.is_empty() && !self.problems.any_at(place) {
            let why =
                "is empty, so nobody could read anything; leave the key out for one rule for all objects";
            self.problems.push(place.clone(), why);
        }
        if rules.len() > MAX_RULES {
            self.problems.push(place.clone(), format!("has more than {MAX_RULES} rules"));
            return None;
        }
        let mut valid: Vec<(usize, PathRule)> = Vec::new();
        let mut classes: HashMap<Class, Vec<usize>> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            if self.references.deadline().has_passed() {
                return None;
            }
            let at = place.index(index);
            let Some(rule) = self.path_rule(rule, index, &at, has_keys, &token_rule) else { continue };
            let class = classes.entry(rule.pattern.class()).or_default();
            let mut rivals = class.iter().filter_map(|other| valid.get(*other));
            if let Some((earlier, _)) = rivals.find(|(_, other)| other.conflicts_with(&rule)) {
                let written = rules.get(index).and_then(|rule| rule.path.as_deref()).unwrap_or_default();
                let why = format!(
                    "is as specific as the path of rules[{earlier}], and some objects belong to both; make one of them more specific"
                );
                self.refuse(&at.key("path"), written, why);
            }
            class.push(valid.len());
            valid.push((index, rule));
        }
        (valid.len() == rules.len()).then(|| Rules::new(valid.into_iter().map(|(_, rule)| rule).collect()))
    }

    fn path_rule(
        &mut self,
        rule: &file::PathRule,
        index: usize,
        place: &Place,
        has_keys: bool,
        token_rule: impl Fn(Vec<Condition>) -> Option<Rule>,
    ) -> Option<PathRule> {
        let before = self.problems.count();
        let conditions = self.conditions(&rule.claims, &place.key("claims"));
        let path = self.required(
            rule.path.as_ref(),
            &place.key("path"),
            "write which objects, as `reports/**`; `**` takes all of them",
        );
        let pattern = path.and_then(|path| match Pattern::parse(path) {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                self.refuse(&place.key("path"), path, why);
                None
            }
        });
        let operations = self.operations(&rule.methods, &place.key("methods"));
        let mode = self.rule_mode(rule, &place.key("mode"));
        if let Some(allow) = rule.allow.as_deref().filter(|allow| *allow != "public") {
            let why = "is no one to allow; use `public`, or leave the key out for whoever has a token";
            self.refuse(&place.key("allow"), allow, why);
        }
        if rule.deny && rule.allow.is_some() {
            self.problems.push(place.key("deny"), "contradicts `allow`; leave one of them out");
        }
        let needs_token = !rule.deny && rule.allow.is_none();
        if !needs_token && !rule.claims.is_empty() {
            let why = "mean nothing beside `allow: public` or `deny: true`, which look at no token; leave one of them out";
            self.problems.push(place.key("claims"), why);
        }
        if !needs_token && pattern.as_ref().is_some_and(|pattern| pattern.claim().is_some()) {
            let why = "holds a claim, and `allow: public` and `deny: true` look at no token; write `*` for any segment";
            self.problems.push(place.key("path"), why);
        }
        if self.problems.count() > before {
            return None;
        }
        let allowed = match (rule.deny, &rule.allow) {
            (true, _) => None,
            (false, Some(_)) => Some(Rule::Public),
            (false, None) => {
                // A claim that is bound is a condition, too.
                let is_bound = pattern.as_ref().is_some_and(|pattern| pattern.claim().is_some());
                let rule = token_rule(conditions).filter(|rule| !(is_bound && matches!(rule, Rule::Closed)));
                if rule.is_none() && !has_keys {
                    let why = "the rule asks for a token, which needs keys, and there is no `jwt` block; add one, or write `allow: public` or `deny: true`";
                    self.problems.push(place.clone(), why);
                }
                Some(rule?)
            }
        };
        Some(PathRule { pattern: pattern?, operations, allowed, mode, place: index })
    }

    fn operations(&mut self, methods: &[String], place: &Place) -> OperationSet {
        if methods.is_empty() && !self.problems.any_at(place) {
            self.problems.push(place.clone(), "is empty; leave the key out for GET and HEAD");
        }
        for (index, method) in methods.iter().enumerate() {
            let place = place.index(index);
            if !matches!(method.as_str(), "GET" | "HEAD") && !self.problems.any_at(&place) {
                self.refuse(
                    &place,
                    method,
                    "is no method of an object; use GET, which includes HEAD, or HEAD",
                );
            }
        }
        // GET includes HEAD, which is GET without the content.
        if methods.iter().any(|method| method == "GET") { OperationSet::READ } else { OperationSet::HEAD }
    }
}
