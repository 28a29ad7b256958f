//! The policy of a bucket: one rule for all of its objects, or one for each part.
//!
//! Exactly one rule decides about a request: the one with the most specific pattern that covers the key. An
//! object that no rule covers is refused. The decision depends on the request and the time and on nothing
//! else. A part in [`Mode::Observe`] decides the same, but the request passes, and the refusal is reported
//! beside the permission.

use std::net::IpAddr;
use std::time::SystemTime;

use http::HeaderMap;

use crate::access::denied::Denied;
use crate::access::links::{InvalidLink, Links, Object};
use crate::access::networks::Networks;
use crate::access::pattern::Pattern;
use crate::access::rule::Rule;
use crate::access::rules::{Mode, Rules};
use crate::s3::operation::Operation;
use crate::s3::query::Query;
use crate::tokens::principal::Principal;

/// A request as a policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'r> {
    pub(crate) operation: Operation,
    pub object: Object<'r>,
    /// The decoded key: the end of the object's path.
    pub key: &'r str,
    pub headers: &'r HeaderMap,
    pub(crate) query: Query<'r>,
    /// The client's IP address, if it is known.
    pub address: Option<IpAddr>,
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
    /// A single rule for every object; [`Rule::Closed`] for signed links alone.
    Whole(Rule),
    ByPath(Rules),
}

impl Policy {
    pub fn authorize(&self, request: &AccessRequest<'_>, now: SystemTime) -> Result<Granted, Denied> {
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
        request: &AccessRequest<'_>,
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
    pub(crate) fn place_of_rule(&self, operation: Operation, key: &str) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::ByPath(rules) => rules.deciding(operation, key).map(|rule| rule.place),
        }
    }

    /// The places in `auth.rules` of the rules that refuse nobody, in order.
    pub fn observed(&self) -> Vec<usize> {
        match self {
            Self::Whole(_) => Vec::new(),
            Self::ByPath(rules) => rules.observed(),
        }
    }

    fn deciding(&self, request: &AccessRequest<'_>) -> Deciding<'_> {
        match self {
            Self::Whole(rule) => Deciding { allowed: Ok(rule), pattern: None, mode: Mode::Enforce },
            Self::ByPath(rules) => match rules.deciding(request.operation, request.key) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderValue;
    use http::header::AUTHORIZATION;
    use serde_json::{Value, json};

    use crate::access::rules::PathRule;
    use crate::s3::operation::OperationSet;
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

    /// The outcome of a request in one word.
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
            operations: if *methods == "HEAD" { OperationSet::HEAD } else { OperationSet::READ },
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
        let method = method.parse().expect("a method");
        let operation = Operation::of(&method).expect("served");
        let object = Object { bucket: "bucket", path: key };
        let request = AccessRequest {
            operation,
            object,
            key,
            headers: &headers,
            query: Query::default(),
            address: None,
        };
        match policy.authorize(&request, UNIX_EPOCH + NOW) {
            Ok(_) => Read,
            Err(Denied::Token(InvalidToken::Missing)) => Token,
            Err(Denied::Claim { .. }) => Claim,
            Err(Denied::Rule) => Denies,
            Err(Denied::NoRule) => NoRule,
            Err(other) => panic!("{other}"),
        }
    }

    /// A request, and what is expected of it.
    type Row<'c> = (&'static str, &'static str, &'c Value, Outcome);

    fn check(rules: Rules, table: &[Row<'_>]) {
        let policy = policy(Readers::ByPath(rules));
        for (method, key, claims, expected) in table {
            assert_eq!(outcome(&policy, method, key, claims), *expected, "{method} {key} {claims}");
        }
    }

    fn ann() -> Value {
        json!({ "sub": "ann" })
    }

    fn reader() -> Value {
        json!({ "sub": "rea", "role": "reader" })
    }

    fn parts() -> Rules {
        rules(&[
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
        ])
    }

    fn methods() -> Rules {
        rules(&[
            ("HEAD", "**", Everybody),
            ("GET", "**", Bearer),
            ("HEAD", "probe/**", Everybody),
            ("GET", "open/**", Everybody),
            ("HEAD", "open/**", Nobody),
            ("HEAD", "zone/**", Everybody),
            ("GET", "zone/**", Bearer),
        ])
    }

    fn site() -> Rules {
        rules(&[
            ("GET", "**", Everybody),
            ("GET", "members/**", Bearer),
            ("GET", "**/secret/**", Nobody),
            ("GET", "members/*.jpg", Everybody),
            ("GET", "members/x*.jpg", Role("reader")),
        ])
    }

    fn folders() -> Rules {
        rules(&[
            ("GET", "${claim.tenant}/${claim.sub}/*", Bearer),
            ("GET", "**/${claim.sub}/inbox/**", Role("reader")),
        ])
    }

    #[test]
    #[rustfmt::skip]
    fn a_rule_covers_its_part_and_a_more_specific_rule_closes_a_part_of_that() {
        let none = Value::Null;
        let (ann, reader) = (ann(), reader());
        check(parts(), &[
            ("GET", "public/a", &none, Read),
            ("HEAD", "public/a", &none, Read),
            ("GET", "public/a/b/c", &ann, Read),
            ("GET", "public", &none, Read),
            ("GET", "publications/a", &none, NoRule),
            ("GET", "Public/a", &none, NoRule),
            ("GET", "public/drafts/a", &none, Denies),
            ("GET", "public/drafts/a", &reader, Denies),
            ("HEAD", "public/drafts", &reader, Denies),
            ("GET", "public/draft", &none, Read),
            ("GET", "public//drafts/a", &none, Read),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn a_part_may_ask_for_less_than_what_surrounds_it() {
        let none = Value::Null;
        let (ann, reader) = (ann(), reader());
        check(parts(), &[
            ("GET", "reports/a", &none, Token),
            ("GET", "reports/a", &ann, Claim),
            ("GET", "reports/a", &reader, Read),
            ("HEAD", "reports/a/b", &reader, Read),
            ("GET", "reports/2025/summary.txt", &none, Token),
            ("GET", "reports/2025/summary.txt", &ann, Read),
            ("GET", "reports/2026/summary.txt", &none, Read),
            ("GET", "reports/2025/q1/summary.txt", &ann, Claim),
            ("GET", "reports/2026/summary.txt/x", &ann, Claim),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn a_denial_is_as_specific_as_its_pattern_and_no_more() {
        let none = Value::Null;
        let reader = reader();
        check(parts(), &[
            ("GET", "reports/a.key", &reader, Read),
            ("GET", "other/a.key", &reader, Denies),
            ("GET", "a.key", &none, Denies),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn an_object_that_no_rule_covers_is_refused() {
        let none = Value::Null;
        let reader = reader();
        check(parts(), &[
            ("GET", "other/a", &none, NoRule),
            ("GET", "other/a", &reader, NoRule),
            ("GET", "", &reader, NoRule),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn a_claim_in_a_pattern_opens_one_folder() {
        let none = Value::Null;
        let ann = ann();
        let odd = |value: Value| json!({ "team": value });
        check(parts(), &[
            ("GET", "users/ann/x", &none, Token),
            ("GET", "users/ann/x", &ann, Read),
            ("HEAD", "users/ann/x/y", &ann, Read),
            ("GET", "users/ann", &ann, Read),
            ("GET", "users/ann/", &ann, Read),
            ("GET", "users/bob/x", &ann, Claim),
            ("GET", "users/annabel/x", &ann, Claim),
            ("GET", "users/ANN/x", &ann, Claim),
            ("GET", "users/ann%2Fx/y", &ann, Claim),
            ("GET", "teams//x", &odd(json!("")), Claim),
            ("GET", "teams/./x", &odd(json!(".")), Claim),
            ("GET", "teams/../x", &odd(json!("..")), Claim),
            ("GET", "teams/ann/x", &odd(json!("ann/x")), Claim),
            ("GET", "teams/a\0/x", &odd(json!("a\0")), Claim),
            ("GET", "teams/7/x", &odd(json!(7)), Claim),
            ("GET", "teams/null/x", &odd(Value::Null), Claim),
            ("GET", "teams/ann/x", &odd(json!(["ann"])), Claim),
            ("GET", "teams/ann/x", &odd(json!("*")), Claim),
            ("GET", "users/ann/x", &json!({}), Claim),
            ("GET", "teams/é ü/x", &odd(json!("é ü")), Read),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn a_claim_is_more_specific_than_a_wildcard() {
        let none = Value::Null;
        check(parts(), &[
            ("GET", "users/bob/avatar.png", &none, Token),
            ("GET", "users/index.html", &none, Read),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn the_pattern_is_chosen_before_the_method() {
        let none = Value::Null;
        let ann = ann();
        check(methods(), &[
            ("HEAD", "a", &none, Read),
            ("GET", "a", &none, Token),
            ("GET", "a", &ann, Read),
            ("HEAD", "probe/a", &none, Read),
            ("GET", "probe/a", &ann, NoRule),
            ("GET", "open/a", &none, Read),
            ("HEAD", "open/a", &ann, Denies),
            ("HEAD", "zone/a", &none, Read),
            ("GET", "zone/a", &none, Token),
            ("GET", "zone/a", &ann, Read),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn an_open_bucket_may_have_closed_parts() {
        let none = Value::Null;
        let (ann, reader) = (ann(), reader());
        check(site(), &[
            ("GET", "index.html", &none, Read),
            ("GET", "a/b", &none, Read),
            ("GET", "members/a", &none, Token),
            ("GET", "members/a", &ann, Read),
            ("GET", "x/secret/a", &ann, Denies),
            ("GET", "members/secret/a", &ann, Read),
            ("GET", "members/a.jpg", &none, Read),
            ("GET", "members/xa.jpg", &ann, Claim),
            ("GET", "members/xa.jpg", &reader, Read),
            ("GET", "members/a/b.jpg", &none, Token),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn all_claims_of_a_pattern_must_fit() {
        let (ann, reader) = (ann(), reader());
        check(folders(), &[
            ("GET", "acme/ann/x", &json!({ "sub": "ann", "tenant": "acme" }), Read),
            ("GET", "acme/bob/x", &json!({ "sub": "ann", "tenant": "acme" }), Claim),
            ("GET", "evil/ann/x", &json!({ "sub": "ann", "tenant": "acme" }), Claim),
            ("GET", "ann/acme/x", &json!({ "sub": "ann", "tenant": "acme" }), Claim),
            ("GET", "acme/ann/x", &ann, Claim),
            ("GET", "a/b/rea/inbox/x", &reader, Read),
            ("GET", "a/b/ann/inbox/x", &ann, Claim),
            ("GET", "a/b/ann/outbox/x", &ann, NoRule),
        ]);
    }
}
