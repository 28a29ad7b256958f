//! A condition comes from the configuration, the claims from a token. Whatever they are, the condition
//! holds or does not, and no claims at all satisfy none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use yatagarasu::internals::{Claims, Condition};

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(4, '\n');
    let (Some(claim), Some(operator), Some(value), Some(claims)) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let value = serde_json::from_str::<Value>(value).ok();
    let Ok(condition) = Condition::new(claim, operator, value) else { return };
    assert!(!condition.holds(&Claims::new()), "nothing satisfies {condition:?}");
    if let Ok(claims) = serde_json::from_str::<Claims>(claims) {
        condition.holds(&claims);
    }
});
