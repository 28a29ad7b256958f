//! Tokens that somebody made up: none of them reads anything.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use kit::issuer::SigningKey;
use kit::raw::Raw;
use kit::token::{SECRET, now};
use kit::*;
use serde_json::json;

use crate::stack::Stack;

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Exactly this header and these claims, with a good signature of [`SECRET`].
fn signed(header: &str, claims: &str) -> String {
    let text = format!("{}.{}", encoded(header), encoded(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = sign(text.as_bytes(), &key, Algorithm::HS256).expect("a signature");
    format!("{text}.{signature}")
}

const HEADER: &str = r#"{"alg":"HS256"}"#;

fn good_claims() -> String {
    json!({ "exp": now() + 600 }).to_string()
}

/// What the bearer of a token gets, by header bytes that no client library would touch.
async fn status(stack: &Stack, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    Raw::connect(stack.proxy.address)
        .await
        .ask("GET", "/papers/plan.txt", &[("Authorization", &bearer)])
        .await
        .status
}

async fn all_refused(stack: &Stack, tokens: impl IntoIterator<Item = String>) {
    assert_eq!(status(stack, &signed(HEADER, &good_claims())).await, 200);
    stack.store.received();
    for token in tokens {
        assert_eq!(status(stack, &token).await, 401, "{token}");
    }
    assert!(stack.store.received().is_empty(), "the store was asked");
}

#[tokio::test]
async fn alg_none_is_refused_in_every_spelling() {
    let stack = Stack::start().await;
    let claims = encoded(&good_claims());
    let signature = signed(HEADER, &good_claims()).rsplit_once('.').expect("a token").1.to_owned();
    let spellings = [
        "none",
        "None",
        "NONE",
        "nOnE",
        " none",
        "none ",
        "n\\u006fne",
        "",
        "null",
        "HS256,none",
        "hs256",
        "HS256 ",
    ];
    let mut tokens = Vec::new();
    for spelling in spellings {
        let header = format!(r#"{{"alg":"{spelling}"}}"#);
        tokens.push(signed(&header, &good_claims()));
        tokens.push(format!("{}.{claims}.", encoded(&header)));
        tokens.push(format!("{}.{claims}.{signature}", encoded(&header)));
    }
    for alg in ["null", "[]", r#"["HS256"]"#, "{}", "0", "true"] {
        tokens.push(signed(&format!(r#"{{"alg":{alg}}}"#), &good_claims()));
    }
    tokens.push(signed("{}", &good_claims()));
    all_refused(&stack, tokens).await;
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let key = SigningKey::new("one");
    let pem = key.pem();
    let indented: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    let stack = Stack::with(&format!("jwt:\n  algorithm: ES256\n  public_key: |\n{indented}")).await;
    assert_eq!(status(&stack, &key.token(json!({}))).await, 200);
    let text = format!("{}.{}", encoded(HEADER), encoded(&good_claims()));
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), &*key.jwk().to_string().into_bytes(), b""] {
        let signature = sign(text.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256);
        assert_eq!(status(&stack, &format!("{text}.{}", signature.expect("a signature"))).await, 401);
    }
}

#[tokio::test]
async fn keys_that_a_token_brings_along_are_not_looked_at() {
    let stack = Stack::start().await;
    let own = SigningKey::new("own");
    let issuer = issuer::Issuer::start(&issuer::key_set(&[&own])).await;
    let claims = json!({ "exp": now() + 600 });
    let mut tokens = Vec::new();
    for (name, value) in [
        ("jwk", own.jwk()),
        ("jku", json!(issuer.url())),
        ("x5u", json!(issuer.url())),
        ("x5c", json!(["MIIB"])),
    ] {
        let header = json!({ "alg": "ES256", "kid": "own", name: value });
        let text = format!("{}.{}", encoded(&header.to_string()), encoded(&claims.to_string()));
        tokens.push(format!("{text}.{}", own.sign(&text)));
    }
    all_refused(&stack, tokens).await;
    assert_eq!(issuer.fetches(), 0, "an address out of a token was asked");
    // Beside a good signature they are ignored.
    let header = json!({ "alg": "HS256", "jku": issuer.url(), "jwk": own.jwk() });
    assert_eq!(status(&stack, &signed(&header.to_string(), &good_claims())).await, 200);
    assert_eq!(issuer.fetches(), 0);
}

#[tokio::test]
async fn a_critical_extension_is_refused() {
    let stack = Stack::start().await;
    let header = |more: &str| signed(&format!(r#"{{"alg":"HS256",{more}}}"#), &good_claims());
    let tokens = [
        r#""crit":["exp"],"exp":1"#,
        r#""crit":["b64"],"b64":false"#,
        r#""crit":[]"#,
        r#""crit":null"#,
        r#""\u0063rit":["x"]"#,
        r#""kid":5"#,
        r#""kid":null"#,
    ];
    all_refused(&stack, tokens.map(header)).await;
}

#[tokio::test]
async fn what_is_said_twice_is_refused() {
    let stack = Stack::start().await;
    let exp = now() + 600;
    let tokens = [
        signed(r#"{"alg":"HS256","alg":"HS256"}"#, &good_claims()),
        signed(r#"{"alg":"none","alg":"HS256"}"#, &good_claims()),
        signed(r#"{"alg":"HS256","\u0061lg":"none"}"#, &good_claims()),
        signed(r#"{"alg":"HS256","kid":"a","kid":"b"}"#, &good_claims()),
        signed(HEADER, &format!(r#"{{"exp":1,"exp":{exp}}}"#)),
        signed(HEADER, &format!(r#"{{"exp":{exp},"role":"guest","role":"admin"}}"#)),
        signed(HEADER, &format!(r#"{{"exp":{exp},"role":"guest","\u0072ole":"admin"}}"#)),
        signed(HEADER, &format!(r#"{{"exp":{exp},"a":{{"b":1,"b":2}}}}"#)),
    ];
    all_refused(&stack, tokens).await;
}

#[tokio::test]
async fn dates_are_numbers() {
    let stack = Stack::start().await;
    let exp = now() + 600;
    for (claims, expected) in [
        (format!(r#"{{"exp":{exp}.5}}"#), 200),
        (format!(r#"{{"exp":{exp}e0}}"#), 200),
        (r#"{"exp":1e300}"#.to_owned(), 200),
        (r#"{"exp":1e999}"#.to_owned(), 401),
        (r#"{"exp":-1e300}"#.to_owned(), 401),
        (r#"{"exp":99999999999999999999999999}"#.to_owned(), 200),
        (format!(r#"{{"exp":"{exp}"}}"#), 401),
        (format!(r#"{{"exp":[{exp}]}}"#), 401),
        (format!(r#"{{"exp":{{"a":{exp}}}}}"#), 401),
        (r#"{"exp":true}"#.to_owned(), 401),
        (r#"{"exp":null}"#.to_owned(), 401),
        (r#"{"exp":NaN}"#.to_owned(), 401),
        (r#"{"exp":Infinity}"#.to_owned(), 401),
        (r#"{"Exp":9999999999}"#.to_owned(), 401),
        (format!(r#"{{"exp":{exp},"nbf":"0"}}"#), 401),
        (format!(r#"{{"exp":{exp},"nbf":null}}"#), 401),
        (format!(r#"{{"exp":{exp},"nbf":1e300}}"#), 401),
        (format!(r#"{{"exp":{exp},"nbf":-1e300}}"#), 200),
    ] {
        assert_eq!(status(&stack, &signed(HEADER, &claims)).await, expected, "{claims}");
    }
}

#[tokio::test]
async fn claims_are_compared_letter_by_letter() {
    let rule = "claims: [{ claim: role, operator: equals, value: reader }]";
    let stack = Stack::with(&format!("jwt: {{ secret: {SECRET}, {rule} }}")).await;
    let exp = now() + 600;
    for (member, expected) in [
        (r#""role":"reader""#, 200),
        (r#""role":"re\u0061der""#, 200),
        (r#""role":"Reader""#, 403),
        (r#""role":"reader ""#, 403),
        (r#""role":"reader\u0000""#, 403),
        (r#""role":"re\u200bader""#, 403),
        (r#""role":"rеader""#, 403),
        (r#""role":["reader"]"#, 403),
        (r#""Role":"reader""#, 403),
        (r#""role.":"reader""#, 403),
    ] {
        let token = signed(HEADER, &format!(r#"{{"exp":{exp},{member}}}"#));
        assert_eq!(status(&stack, &token).await, expected, "{member}");
    }
}

#[tokio::test]
async fn what_is_no_compact_jws_is_refused() {
    let stack = Stack::start().await;
    let good = signed(HEADER, &good_claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let nested = signed(r#"{"alg":"HS256","cty":"JWT"}"#, &good);
    let mut tokens = vec![
        // The JSON serialization, flattened and general.
        json!({ "protected": header, "payload": payload, "signature": signature }).to_string(),
        json!({ "payload": payload, "signatures": [{ "protected": header, "signature": signature }] })
            .to_string(),
        // A JWE has five parts.
        format!("{header}.{payload}.{signature}.{payload}.{signature}"),
        signed(r#"{"alg":"dir","enc":"A256GCM"}"#, &good_claims()),
        nested,
        // Another alphabet, padding, line breaks, encodings of the encoding.
        format!("{header}=.{payload}.{signature}"),
        format!("{good}="),
        format!("{good}\t{good}"),
        format!("{good},{good}"),
        format!("{good} {good}"),
        good.replace('.', "%2E"),
        good.replace('.', "%2e"),
        format!("{good}%00"),
        format!("\"{good}\""),
        format!("{good}."),
        format!(".{good}"),
        format!("{payload}.{header}.{signature}"),
        // A payload that is no object, or not UTF-8.
        signed(HEADER, "[]"),
        signed(HEADER, "\"exp\""),
        signed(HEADER, ""),
        signed("", &good_claims()),
        signed("[]", &good_claims()),
    ];
    // Every cut.
    tokens.extend((1..good.len()).step_by(3).map(|length| good[..length].to_owned()));
    // The last character of the signature holds bits that do not count; they must be zero.
    let flipped = |last: char| format!("{}{last}", &good[..good.len() - 1]);
    tokens.extend("ABCDEFGHIJKLMNOPQRSTUVWXYZ".chars().map(flipped).filter(|token| *token != good));
    all_refused(&stack, tokens).await;
}

#[tokio::test]
async fn a_token_of_a_megabyte_is_refused() {
    let sources = "token_sources: [{ type: bearer }, { type: query, name: token }]";
    let stack = Stack::with(&format!("jwt: {{ secret: {SECRET}, {sources} }}")).await;
    let huge = signed(HEADER, &json!({ "exp": now() + 600, "x": "a".repeat(750_000) }).to_string());
    assert!(huge.len() > 1_000_000);
    for request in [
        http().get(stack.proxy.url("/papers/plan.txt")).bearer_auth(&huge),
        http().get(stack.proxy.url(&format!("/papers/plan.txt?token={huge}"))),
    ] {
        // The server may close before it has read all of it.
        if let Ok(response) = request.send().await {
            assert!(response.status().is_client_error(), "{}", response.status());
        }
    }
    assert!(stack.store.received().is_empty());
    assert_eq!(stack.proxy.get("/photos/cat.jpg").await.status(), 200);
}

#[tokio::test]
async fn two_tokens_in_one_place_are_refused_and_the_first_place_decides() {
    let sources = "[{ type: bearer }, { type: header, name: X-Auth-Token }, { type: query, name: token }, { type: cookie, name: session }]";
    let stack = Stack::with(&format!("jwt: {{ secret: {SECRET}, token_sources: {sources} }}")).await;
    let one = signed(HEADER, &good_claims());
    let two = signed(HEADER, &json!({ "exp": now() + 700 }).to_string());
    let (bearer, other) = (format!("Bearer {one}"), format!("bearer {two}"));
    let cookie = format!("session={one}; session={two}");
    let twice = format!("/papers/plan.txt?token={one}&token={two}");
    let same = format!("/papers/plan.txt?token={one}&tok%65n={one}");
    let encoded = format!("/papers/plan.txt?token={}", one.replace('.', "%2E"));
    let plain = "/papers/plan.txt";
    let mut raw = Raw::connect(stack.proxy.address).await;
    for (target, headers, expected) in [
        (plain, vec![("Authorization", bearer.as_str()), ("Authorization", &other)], 401),
        (plain, vec![("Authorization", &bearer), ("Authorization", &bearer)], 200),
        (plain, vec![("X-Auth-Token", &one), ("X-Auth-Token", &two)], 401),
        (plain, vec![("Cookie", &cookie)], 401),
        (&twice, vec![], 401),
        (&same, vec![], 200),
        // A parameter is percent-encoded text; a header is not.
        (&encoded, vec![], 200),
        // The first place that holds a token decides; what stands in the others is not looked at.
        (&twice, vec![("Authorization", &bearer), ("Cookie", &cookie)], 200),
        (&same, vec![("Authorization", "Bearer x")], 401),
    ] {
        let answer = raw.ask("GET", target, &headers).await;
        assert_eq!(answer.status, expected, "{target} {headers:?}");
    }
}
