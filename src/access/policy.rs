//! What a bucket lets whom read: one rule for all of it, or one for each part.
//!
//! Of the rules of a bucket one decides, and it alone: the one with the most specific pattern that
//! covers the key. What no rule covers is refused. The decision depends on the request and the time
//! and on nothing else. A part in [`Mode::Observe`] decides the same, but what it refuses passes, and
//! the refusal is told beside the permission.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, Method};

use crate::access::denied::Denied;
use crate::access::links::{InvalidLink, Links, Object};
use crate::access::networks::Networks;
use crate::access::pattern::Pattern;
use crate::access::rule::Rule;
use crate::tokens::principal::Principal;

/// What a policy looks at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    pub method: &'r Method,
    pub object: Object<'r>,
    /// The decoded key: the end of the object's path.
    pub key: &'r str,
    pub headers: &'r HeaderMap,
    /// Without the `?`.
    pub query: &'r str,
    /// The client's, where it is known.
    pub address: Option<IpAddr>,
}

/// How a part of a policy takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// Refuses nothing, and tells what it would have refused.
    Observe,
}

/// Permission to read.
#[derive(Debug)]
pub struct Granted {
    /// Without claims where an observed part would have refused the token or the link.
    pub principal: Principal,
    /// The refusal that the client would have got if nothing were in [`Mode::Observe`].
    pub would_refuse: Option<Denied>,
}

#[derive(Debug)]
pub struct Policy {
    /// For everything but the networks; a rule may be observed by itself.
    pub mode: Mode,
    pub networks: Networks,
    pub networks_mode: Mode,
    pub links: Option<Links>,
    pub readers: Readers,
}

#[derive(Debug)]
pub enum Readers {
    /// Of every object the same; [`Rule::Closed`] for signed links alone.
    Whole(Rule),
    ByPath(Rules),
}

impl Policy {
    pub fn authorize(&self, request: &Request<'_>, now: SystemTime) -> Result<Granted, Denied> {
        let from_elsewhere = (!self.networks.permit(request.address)).then_some(Denied::Network);
        if self.networks_mode == Mode::Enforce
            && let Some(denied) = from_elsewhere
        {
            return Err(denied);
        }
        let deciding = self.readers.deciding(request);
        let is_observed = self.mode == Mode::Observe || deciding.mode == Mode::Observe;
        match self.decide(deciding, request, now) {
            Ok(principal) => Ok(Granted { principal, would_refuse: from_elsewhere }),
            Err(denied) if is_observed => {
                Ok(Granted { principal: Principal::default(), would_refuse: from_elsewhere.or(Some(denied)) })
            }
            Err(denied) => Err(denied),
        }
    }

    /// Decides by the rule for the object, or by a link that stands in for it.
    fn decide(
        &self,
        deciding: Deciding<'_>,
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<Principal, Denied> {
        // A link stands in for a token, and for a rule; it does not undo a denial.
        if !matches!(deciding.allowed, Ok(Rule::Public) | Err(Denied::Rule))
            && let Some(links) = &self.links
            && let Some(opened) = links.check(request.object, request.query, request.address, now)
        {
            return opened.map(|()| Principal::default()).map_err(Denied::Link);
        }
        let rule = deciding.allowed?;
        if matches!(rule, Rule::Closed) {
            return Err(Denied::Link(InvalidLink::Missing));
        }
        let principal = rule.authorize(request.headers, request.query, now)?;
        // With enforcement off there are no claims, and everybody may read.
        if let Some(pattern) = deciding.pattern
            && let Some(claim) = pattern.claim()
            && !matches!(rule, Rule::Public)
            && !pattern.admits(request.key, &principal.claims)
        {
            return Err(Denied::Claim { claim: claim.to_owned() });
        }
        Ok(principal)
    }
}

/// The rule for an object, and how it takes effect.
struct Deciding<'p> {
    allowed: Result<&'p Rule, Denied>,
    /// The pattern that the rule stands beside.
    pattern: Option<&'p Pattern>,
    mode: Mode,
}

impl Readers {
    /// Whether it depends on the key who may read.
    pub fn depend_on_key(&self) -> bool {
        matches!(self, Self::ByPath(_))
    }

    /// The place in `auth.rules` of the rule that decides about a key.
    pub fn place_of_rule(&self, method: &Method, key: &str) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::ByPath(rules) => rules.deciding(method, key).map(|rule| rule.place),
        }
    }

    /// The places in `auth.rules` of the rules that refuse nobody, in order.
    pub fn observed(&self) -> Vec<usize> {
        let Self::ByPath(Rules(rules)) = self else { return Vec::new() };
        let observed = rules.iter().filter(|rule| rule.mode == Mode::Observe);
        let mut places: Vec<usize> = observed.map(|rule| rule.place).collect();
        places.sort_unstable();
        places
    }

    fn deciding(&self, request: &Request<'_>) -> Deciding<'_> {
        match self {
            Self::Whole(rule) => Deciding { allowed: Ok(rule), pattern: None, mode: Mode::Enforce },
            Self::ByPath(rules) => match rules.deciding(request.method, request.key) {
                Some(rule) => Deciding {
                    allowed: rule.allowed.as_ref().ok_or(Denied::Rule),
                    pattern: Some(&rule.pattern),
                    mode: rule.mode,
                },
                None => Deciding { allowed: Err(Denied::NoRule), pattern: None, mode: Mode::Enforce },
            },
        }
    }
}

/// A rule for a part of a bucket.
#[derive(Debug)]
pub struct PathRule {
    pub pattern: Pattern,
    /// It decides about HEAD alone; otherwise about GET and HEAD, which is GET without the content.
    pub is_for_head: bool,
    /// Who may read, [`Rule::Closed`] for signed links alone; `None` for nobody.
    pub allowed: Option<Rule>,
    pub mode: Mode,
    /// Its index in the list as written.
    pub place: usize,
}

impl PathRule {
    fn takes(&self, method: &Method) -> bool {
        *method == Method::HEAD || (!self.is_for_head && *method == Method::GET)
    }

    /// By pattern, and for the same pattern a rule for HEAD alone is the more specific one.
    fn by_specificity(&self, other: &Self) -> Ordering {
        self.pattern.by_specificity(&other.pattern).then(other.is_for_head.cmp(&self.is_for_head))
    }

    /// Whether it could not be told which of the two decides about some request. Only rules with
    /// patterns of one [class](Pattern::class) can conflict.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        // Comparing whether they overlap is cheaper, and most do not.
        self.pattern.overlaps(&other.pattern)
            && self.pattern.by_specificity(&other.pattern).is_eq()
            && (self.pattern != other.pattern || self.is_for_head == other.is_for_head)
    }
}

/// The most specific one first.
#[derive(Debug)]
pub struct Rules(Vec<PathRule>);

impl Rules {
    /// Of rules of which no two [conflict](PathRule::conflicts_with).
    pub fn new(mut rules: Vec<PathRule>) -> Self {
        rules.sort_by(PathRule::by_specificity);
        Self(rules)
    }

    /// The pattern is chosen by the key alone, so that a rule for HEAD does not leave GET to a less
    /// specific pattern, which may be an open one.
    fn deciding(&self, method: &Method, key: &str) -> Option<&PathRule> {
        let mut covering = self.0.iter().skip_while(|rule| !rule.pattern.covers(key));
        let first = covering.next()?;
        std::iter::once(first)
            .chain(covering.filter(|rule| rule.pattern == first.pattern))
            .find(|rule| rule.takes(method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderValue;
    use http::header::AUTHORIZATION;
    use serde_json::{Value, json};

    use crate::secret::Secret;
    use crate::tokens::claims::{Claims, Condition};
    use crate::tokens::invalid_token::InvalidToken;
    use crate::tokens::keys::{Algorithm, Key, mint};
    use crate::tokens::token::Source;
    use crate::tokens::verifier::{ConfiguredKey, Expectations, Verifier};

    enum Who {
        Everybody,
        Nobody,
        Bearer,
        Role(&'static str),
    }
    use Who::{Bearer, Everybody, Nobody, Role};

    /// What comes of a request, in a word.
    #[derive(Debug, PartialEq)]
    enum Outcome {
        Read,
        Token,
        Claim,
        Rule,
        NoRule,
    }
    use Outcome::{Claim, NoRule, Read, Rule as Denies, Token};

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn secret() -> Secret {
        Secret::new("a-secret-of-at-least-32-characters")
    }

    fn algorithm() -> Algorithm {
        Algorithm::parse("HS256").expect("known")
    }

    fn rules(written: &[(&str, &str, Who)]) -> Rules {
        let key = Key::from_secret(algorithm(), &secret()).expect("long enough");
        let key = ConfiguredKey { key, not_after: None, expectations: Expectations::default() };
        let verifier = Arc::new(Verifier::new(vec![key], Vec::new(), Duration::ZERO));
        let bearer = |conditions| Rule::Token {
            verifier: verifier.clone(),
            sources: [Source::Bearer].into(),
            conditions,
        };
        let rules = written.iter().enumerate().map(|(place, (methods, pattern, who))| PathRule {
            mode: Mode::Enforce,
            place,
            pattern: Pattern::parse(pattern).expect("valid"),
            is_for_head: *methods == "HEAD",
            allowed: match who {
                Everybody => Some(Rule::Public),
                Nobody => None,
                Bearer => Some(bearer(Vec::new())),
                Role(role) => {
                    let role = Condition::new("role", "equals", Some(json!(role))).expect("valid");
                    Some(bearer(vec![role]))
                }
            },
        });
        Rules::new(rules.collect())
    }

    fn policy(readers: Readers) -> Policy {
        let mode = Mode::Enforce;
        Policy { mode, networks: Networks::default(), networks_mode: mode, links: None, readers }
    }

    fn outcome(policy: &Policy, method: &str, key: &str, claims: &Value) -> Outcome {
        let mut headers = HeaderMap::new();
        if let Some(claims) = claims.as_object() {
            let mut claims: Claims = claims.clone();
            claims.insert("exp".to_owned(), json!(NOW.as_secs() + 60));
            let token = mint(algorithm(), &secret(), None, &claims).expect("a token");
            let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("plain");
            headers.insert(AUTHORIZATION, bearer);
        }
        let method: Method = method.parse().expect("a method");
        let object = Object { bucket: "bucket", path: key };
        let request = Request { method: &method, object, key, headers: &headers, query: "", address: None };
        match policy.authorize(&request, UNIX_EPOCH + NOW) {
            Ok(_) => Read,
            Err(Denied::Token(InvalidToken::Missing)) => Token,
            Err(Denied::Claim { .. }) => Claim,
            Err(Denied::Rule) => Denies,
            Err(Denied::NoRule) => NoRule,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn the_most_specific_rule_decides_and_it_alone() {
        let none = Value::Null;
        let ann = json!({ "sub": "ann" });
        let reader = json!({ "sub": "rea", "role": "reader" });
        let odd = |value: Value| json!({ "team": value });
        let parts = rules(&[
            ("GET", "public/**", Everybody),
            ("GET", "public/drafts/**", Nobody),
            ("GET", "reports/**", Role("reader")),
            ("GET", "reports/*/summary.txt", Bearer),
            ("GET", "reports/2026/summary.txt", Everybody),
            ("GET", "**/*.key", Nobody),
            ("GET", "users/${claim.sub}/**", Bearer),
            ("GET", "users/*/avatar.png", Everybody),
            ("GET", "users/index.html", Everybody),
            ("GET", "teams/${claim.team}/**", Bearer),
        ]);
        let methods = rules(&[
            ("HEAD", "**", Everybody),
            ("GET", "**", Bearer),
            ("HEAD", "probe/**", Everybody),
            ("GET", "open/**", Everybody),
            ("HEAD", "open/**", Nobody),
            ("HEAD", "zone/**", Everybody),
            ("GET", "zone/**", Bearer),
        ]);
        let site = rules(&[
            ("GET", "**", Everybody),
            ("GET", "members/**", Bearer),
            ("GET", "**/secret/**", Nobody),
            ("GET", "members/*.jpg", Everybody),
            ("GET", "members/x*.jpg", Role("reader")),
        ]);
        let folders = rules(&[
            ("GET", "${claim.tenant}/${claim.sub}/*", Bearer),
            ("GET", "**/${claim.sub}/inbox/**", Role("reader")),
        ]);
        let policies = [parts, methods, site, folders]
            .map(|rules| policy(Readers::ByPath(rules)));
        let [parts, methods, site, folders] = &policies;
        let table = [
            // Public, and a part of it that nobody reads.
            (parts, "GET", "public/a", &none, Read),
            (parts, "HEAD", "public/a", &none, Read),
            (parts, "GET", "public/a/b/c", &ann, Read),
            (parts, "GET", "public", &none, Read),
            (parts, "GET", "publications/a", &none, NoRule),
            (parts, "GET", "Public/a", &none, NoRule),
            (parts, "GET", "public/drafts/a", &none, Denies),
            (parts, "GET", "public/drafts/a", &reader, Denies),
            (parts, "HEAD", "public/drafts", &reader, Denies),
            (parts, "GET", "public/draft", &none, Read),
            (parts, "GET", "public//drafts/a", &none, Read),
            // A role, and parts with less.
            (parts, "GET", "reports/a", &none, Token),
            (parts, "GET", "reports/a", &ann, Claim),
            (parts, "GET", "reports/a", &reader, Read),
            (parts, "HEAD", "reports/a/b", &reader, Read),
            (parts, "GET", "reports/2025/summary.txt", &none, Token),
            (parts, "GET", "reports/2025/summary.txt", &ann, Read),
            (parts, "GET", "reports/2026/summary.txt", &none, Read),
            (parts, "GET", "reports/2025/q1/summary.txt", &ann, Claim),
            (parts, "GET", "reports/2026/summary.txt/x", &ann, Claim),
            // A denial is no more specific than its pattern: the first segment comes first.
            (parts, "GET", "reports/a.key", &reader, Read),
            (parts, "GET", "other/a.key", &reader, Denies),
            (parts, "GET", "a.key", &none, Denies),
            // What no rule covers.
            (parts, "GET", "other/a", &none, NoRule),
            (parts, "GET", "other/a", &reader, NoRule),
            (parts, "GET", "", &reader, NoRule),
            // A folder of one's own.
            (parts, "GET", "users/ann/x", &none, Token),
            (parts, "GET", "users/ann/x", &ann, Read),
            (parts, "HEAD", "users/ann/x/y", &ann, Read),
            (parts, "GET", "users/ann", &ann, Read),
            (parts, "GET", "users/ann/", &ann, Read),
            (parts, "GET", "users/bob/x", &ann, Claim),
            (parts, "GET", "users/annabel/x", &ann, Claim),
            (parts, "GET", "users/ANN/x", &ann, Claim),
            (parts, "GET", "users/ann%2Fx/y", &ann, Claim),
            (parts, "GET", "teams//x", &odd(json!("")), Claim),
            (parts, "GET", "teams/./x", &odd(json!(".")), Claim),
            (parts, "GET", "teams/../x", &odd(json!("..")), Claim),
            (parts, "GET", "teams/ann/x", &odd(json!("ann/x")), Claim),
            (parts, "GET", "teams/a\0/x", &odd(json!("a\0")), Claim),
            (parts, "GET", "teams/7/x", &odd(json!(7)), Claim),
            (parts, "GET", "teams/null/x", &odd(Value::Null), Claim),
            (parts, "GET", "teams/ann/x", &odd(json!(["ann"])), Claim),
            (parts, "GET", "teams/ann/x", &odd(json!("*")), Claim),
            (parts, "GET", "users/ann/x", &json!({}), Claim),
            (parts, "GET", "teams/é ü/x", &odd(json!("é ü")), Read),
            // The claim is more specific than `*`: the folder's owner alone sees the picture.
            (parts, "GET", "users/bob/avatar.png", &none, Token),
            (parts, "GET", "users/index.html", &none, Read),
            // Methods: the pattern is chosen first.
            (methods, "HEAD", "a", &none, Read),
            (methods, "GET", "a", &none, Token),
            (methods, "GET", "a", &ann, Read),
            (methods, "HEAD", "probe/a", &none, Read),
            (methods, "GET", "probe/a", &ann, NoRule),
            (methods, "GET", "open/a", &none, Read),
            (methods, "HEAD", "open/a", &ann, Denies),
            (methods, "HEAD", "zone/a", &none, Read),
            (methods, "GET", "zone/a", &none, Token),
            (methods, "GET", "zone/a", &ann, Read),
            // An open bucket with closed parts.
            (site, "GET", "index.html", &none, Read),
            (site, "GET", "a/b", &none, Read),
            (site, "GET", "members/a", &none, Token),
            (site, "GET", "members/a", &ann, Read),
            (site, "GET", "x/secret/a", &ann, Denies),
            (site, "GET", "members/secret/a", &ann, Read),
            (site, "GET", "members/a.jpg", &none, Read),
            (site, "GET", "members/xa.jpg", &ann, Claim),
            (site, "GET", "members/xa.jpg", &reader, Read),
            (site, "GET", "members/a/b.jpg", &none, Token),
            // Two claims, both of which must fit.
            (folders, "GET", "acme/ann/x", &json!({ "sub": "ann", "tenant": "acme" }), Read),
            (folders, "GET", "acme/bob/x", &json!({ "sub": "ann", "tenant": "acme" }), Claim),
            (folders, "GET", "evil/ann/x", &json!({ "sub": "ann", "tenant": "acme" }), Claim),
            (folders, "GET", "ann/acme/x", &json!({ "sub": "ann", "tenant": "acme" }), Claim),
            (folders, "GET", "acme/ann/x", &ann, Claim),
            (folders, "GET", "a/b/rea/inbox/x", &reader, Read),
            (folders, "GET", "a/b/ann/inbox/x", &ann, Claim),
            (folders, "GET", "a/b/ann/outbox/x", &ann, NoRule),
        ];
        assert!(table.len() >= 60);
        for (policy, method, key, claims, expected) in table {
            assert_eq!(outcome(policy, method, key, claims), expected, "{method} {key} {claims}");
        }
    }

    #[test]
    fn rules_conflict_where_neither_is_more_specific() {
        for (one, other, conflict) in [
            (("GET", "a/**"), ("GET", "a/**"), true),
            (("HEAD", "a/**"), ("HEAD", "a/**"), true),
            (("HEAD", "a/**"), ("GET", "a/**"), false),
            (("HEAD", "*.jpg"), ("GET", "cat.*"), true),
            (("GET", "a/*"), ("GET", "b/*"), false),
            (("GET", "a/*"), ("GET", "*/a"), false),
            (("GET", "**/a/**"), ("GET", "**/b/**"), true),
            (("GET", "${claim.sub}/a"), ("GET", "${claim.name}/a"), true),
        ] {
            let [one, other] = [one, other].map(|(methods, pattern)| PathRule {
                pattern: Pattern::parse(pattern).expect("valid"),
                is_for_head: methods == "HEAD",
                allowed: None,
                mode: Mode::Enforce,
                place: 0,
            });
            assert_eq!(one.conflicts_with(&other), conflict, "{:?} {:?}", one.pattern, other.pattern);
            assert_eq!(other.conflicts_with(&one), conflict);
        }
    }
}
