//! Conditions on the claims of a token.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Map, Number, Value};
use thiserror::Error;

/// The claims set of a token (RFC 7519, section 4).
pub type Claims = Map<String, Value>;

/// A condition on a claim. Cheap to clone, because every rule holds those of the `jwt` block.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition(Arc<Parts>);

#[derive(Debug, PartialEq)]
struct Parts {
    claim: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Equals(Value),
    NotEquals(Value),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Contains(Value),
    Exists,
    Gt(Number),
    Gte(Number),
    Lt(Number),
    Lte(Number),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidCondition {
    #[error("is not a claim; name one, as `role` or `department.name`")]
    Claim,
    #[error("is not an operator; use equals, not_equals, in, not_in, contains, exists, gt, gte, lt or lte")]
    Operator,
    #[error("must be a text, a number, true or false for this operator")]
    NotAScalar,
    #[error("must be a list of at least one text, number, true or false for this operator")]
    NotAList,
    #[error("must be a number for this operator")]
    NotANumber,
    #[error("must be left out: `exists` takes no value")]
    Unwanted,
}

impl Condition {
    pub fn new(claim: &str, operator: &str, value: Option<Value>) -> Result<Self, InvalidCondition> {
        if claim.is_empty() || claim.split('.').any(str::is_empty) {
            return Err(InvalidCondition::Claim);
        }
        let scalar = |value: Option<Value>| {
            value
                .filter(|v| !v.is_array() && !v.is_object() && !v.is_null())
                .ok_or(InvalidCondition::NotAScalar)
        };
        let list = |value: Option<Value>| match value {
            Some(Value::Array(items)) if !items.is_empty() => items
                .into_iter()
                .map(|item| scalar(Some(item)).map_err(|_| InvalidCondition::NotAList))
                .collect::<Result<Vec<_>, _>>(),
            _ => Err(InvalidCondition::NotAList),
        };
        let number = |value: Option<Value>| match value {
            Some(Value::Number(number)) => Ok(number),
            _ => Err(InvalidCondition::NotANumber),
        };
        let test = match operator {
            "equals" => Test::Equals(scalar(value)?),
            "not_equals" => Test::NotEquals(scalar(value)?),
            "in" => Test::In(list(value)?),
            "not_in" => Test::NotIn(list(value)?),
            "contains" => Test::Contains(scalar(value)?),
            "exists" if value.is_none() => Test::Exists,
            "exists" => return Err(InvalidCondition::Unwanted),
            "gt" => Test::Gt(number(value)?),
            "gte" => Test::Gte(number(value)?),
            "lt" => Test::Lt(number(value)?),
            "lte" => Test::Lte(number(value)?),
            _ => return Err(InvalidCondition::Operator),
        };
        Ok(Self(Arc::new(Parts { claim: claim.to_owned(), test })))
    }

    /// The dotted path of the claim.
    pub fn claim(&self) -> &str {
        &self.0.claim
    }

    /// Whether the claims satisfy the condition. A missing claim satisfies none, negations included:
    /// a rule says what a token must show, and this one shows nothing.
    pub fn holds(&self, claims: &Claims) -> bool {
        let Some(found) = find(claims, &self.0.claim).filter(|value| !value.is_null()) else {
            return false;
        };
        let ordering = |limit: &Number| match found {
            Value::Number(number) => compare(number, limit),
            _ => None,
        };
        match &self.0.test {
            Test::Equals(value) => same(found, value),
            Test::NotEquals(value) => !same(found, value),
            Test::In(values) => values.iter().any(|value| same(found, value)),
            Test::NotIn(values) => !values.iter().any(|value| same(found, value)),
            Test::Contains(value) => match (found, value) {
                (Value::Array(items), _) => items.iter().any(|item| same(item, value)),
                (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
                _ => false,
            },
            Test::Exists => true,
            Test::Gt(limit) => ordering(limit).is_some_and(Ordering::is_gt),
            Test::Gte(limit) => ordering(limit).is_some_and(Ordering::is_ge),
            Test::Lt(limit) => ordering(limit).is_some_and(Ordering::is_lt),
            Test::Lte(limit) => ordering(limit).is_some_and(Ordering::is_le),
        }
    }

    /// Adds to `claims` what satisfies this condition, for a token made to pass it.
    pub fn satisfy(&self, claims: &mut Claims) {
        let value = match &self.0.test {
            Test::Equals(value) => value.clone(),
            Test::In(values) => values.first().cloned().unwrap_or_default(),
            Test::Contains(value) => Value::Array(vec![value.clone()]),
            Test::NotEquals(_) | Test::NotIn(_) | Test::Exists => Value::String("yatagarasu".to_owned()),
            Test::Gte(limit) | Test::Lte(limit) => Value::Number(limit.clone()),
            Test::Gt(limit) => limit.as_f64().map(|limit| limit + 1.0).into(),
            Test::Lt(limit) => limit.as_f64().map(|limit| limit - 1.0).into(),
        };
        insert(claims, &self.0.claim, value);
    }
}

/// The claim at a dotted path. A claim whose own name holds dots (`https://example.com/roles`) is
/// found by its name first.
pub(crate) fn find<'c>(claims: &'c Claims, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut segments = path.split('.');
    let mut found = claims.get(segments.next()?)?;
    for segment in segments {
        found = found.as_object()?.get(segment)?;
    }
    Some(found)
}

/// Sets the claim at a dotted path; what stands in the way and is no object gives way.
pub(crate) fn insert(claims: &mut Claims, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            claims.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = claims.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Equal, where `1` and `1.0` are the same number and `1` and `"1"` are not the same value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b).is_some_and(Ordering::is_eq),
        _ => a == b,
    }
}

/// Integers exactly, everything else as floating point.
fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Every operator, as it is written.
    const OPERATORS: [&str; 10] =
        ["equals", "not_equals", "in", "not_in", "contains", "exists", "gt", "gte", "lt", "lte"];

    fn claims() -> Claims {
        let value = json!({
            "sub": "ann", "role": "admin", "level": 5, "ratio": 0.5, "big": 9_007_199_254_740_993_u64,
            "groups": ["ops", "web", 7], "department": { "name": "ops", "floor": { "number": 3 } },
            "active": true, "nothing": null, "empty": "", "https://example.com/roles": ["reader"],
        });
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn conditions_hold_or_not() {
        #[rustfmt::skip]
        let table = [
            ("role", "equals", json!("admin"), true),
            ("role", "equals", json!("Admin"), false),
            ("level", "equals", json!(5), true),
            ("level", "equals", json!(5.0), true),
            ("level", "equals", json!("5"), false),
            ("big", "equals", json!(9_007_199_254_740_992_u64), false),
            ("active", "equals", json!(true), true),
            ("active", "equals", json!("true"), false),
            ("groups", "equals", json!("ops"), false),
            ("department.name", "equals", json!("ops"), true),
            ("department.floor.number", "equals", json!(3), true),
            ("department.name.first", "equals", json!("o"), false),
            ("groups.0", "equals", json!("ops"), false),
            ("role", "not_equals", json!("guest"), true),
            ("role", "not_equals", json!("admin"), false),
            ("missing", "not_equals", json!("guest"), false),
            ("nothing", "not_equals", json!("guest"), false),
            ("role", "in", json!(["guest", "admin"]), true),
            ("role", "in", json!(["guest"]), false),
            ("role", "not_in", json!(["guest"]), true),
            ("role", "not_in", json!(["admin"]), false),
            ("missing", "not_in", json!(["admin"]), false),
            ("groups", "contains", json!("web"), true),
            ("groups", "contains", json!(7), true),
            ("groups", "contains", json!("we"), false),
            ("role", "contains", json!("dmi"), true),
            ("level", "contains", json!(5), false),
            ("https://example.com/roles", "contains", json!("reader"), true),
            ("level", "gt", json!(4), true),
            ("level", "gt", json!(5), false),
            ("level", "gte", json!(5), true),
            ("level", "lt", json!(5.5), true),
            ("level", "lte", json!(4), false),
            ("ratio", "gt", json!(0), true),
            ("big", "gt", json!(9_007_199_254_740_992_u64), true),
            ("role", "gt", json!(1), false),
            ("missing", "lt", json!(1), false),
        ];
        for (claim, operator, value, expected) in table {
            let condition = Condition::new(claim, operator, Some(value.clone())).expect("valid");
            assert_eq!(condition.holds(&claims()), expected, "{claim} {operator} {value}");
        }
        let exists = |claim| Condition::new(claim, "exists", None).expect("valid").holds(&claims());
        assert!(exists("role") && exists("department.floor") && exists("empty"));
        assert!(!exists("missing") && !exists("department.missing") && !exists("nothing"));
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused() {
        #[rustfmt::skip]
        let table = [
            ("", "equals", Some(json!(1)), InvalidCondition::Claim),
            ("a..b", "equals", Some(json!(1)), InvalidCondition::Claim),
            ("a", "like", Some(json!(1)), InvalidCondition::Operator),
            ("a", "equals", None, InvalidCondition::NotAScalar),
            ("a", "equals", Some(json!([1])), InvalidCondition::NotAScalar),
            ("a", "contains", Some(json!({})), InvalidCondition::NotAScalar),
            ("a", "in", Some(json!("x")), InvalidCondition::NotAList),
            ("a", "not_in", Some(json!([])), InvalidCondition::NotAList),
            ("a", "in", Some(json!([[1]])), InvalidCondition::NotAList),
            ("a", "gt", Some(json!("1")), InvalidCondition::NotANumber),
            ("a", "exists", Some(json!(true)), InvalidCondition::Unwanted),
        ];
        for (claim, operator, value, why) in table {
            assert_eq!(Condition::new(claim, operator, value), Err(why), "{claim} {operator}");
        }
    }

    #[test]
    fn a_satisfied_condition_holds() {
        for operator in OPERATORS {
            let value = match operator {
                "in" | "not_in" => Some(json!(["a", "b"])),
                "exists" => None,
                _ => Some(json!(7)),
            };
            let condition = Condition::new("a.b", operator, value).expect("valid");
            let mut claims = Claims::new();
            condition.satisfy(&mut claims);
            assert!(condition.holds(&claims), "{operator}");
        }
    }
}
