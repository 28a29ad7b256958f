//! How long the pure core takes: signing, finding a route, checking a token, deciding, loading.
//!
//!     cargo bench --bench core                   all of it, in about three minutes
//!     cargo bench --bench core -- authorize      what has this in its name

#![allow(clippy::panic, clippy::indexing_slicing, reason = "fails by panics, like a test")]

mod subject;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, EncodingKey};
use kit::PUBLIC;
use kit::token::SECRET;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};
use serde_json::json;
use subject::{PRIVATE, config, generation, load, now, request, token};
use yatagarasu::internals::{
    Admitted, Prefix, Query, RouteTable, Rule, Source, Stages, Unsigned, admit, changes, load_from,
    signed_request,
};

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn sign(c: &mut Criterion) {
    let generation = generation(1, PUBLIC);
    let bucket = &generation.config.buckets[0];
    let object = Unsigned { method: "GET", path: "/tenant-0/cat.jpg", query: "", host: "127.0.0.1:9000" };
    let signer = bucket.identity.signer(now()).expect("keys in the file");
    c.bench_function("sign", |b| b.iter(|| signer.sign(black_box(object), &bucket.region, now())));

    let client = request(0, None);
    let Ok(Admitted::Outright(admission)) = admit(&generation, &client, None, now()) else {
        panic!("not admitted");
    };
    c.bench_function("signed-request", |b| {
        b.iter(|| signed_request(black_box(&client), &admission, now()));
    });
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    for prefixes in [10, 10_000, 100_000] {
        let prefix = |n| Prefix::parse(&format!("/tenants/t{n}")).expect("a valid prefix");
        let table: RouteTable<usize> = (0..prefixes).map(|n| (prefix(n), n)).collect();
        // So many different ones that the table must be looked for in memory.
        let paths: Vec<_> = (0..prefixes).map(|n| format!("/tenants/t{n}/2024/summer/cat.jpg")).collect();
        let mut turns = (0..prefixes).map(|n| n * 7919 % prefixes).cycle();
        group.bench_function(BenchmarkId::from_parameter(prefixes), |b| {
            b.iter(|| table.find(black_box(&paths[turns.next().expect("endless")])).is_some());
        });
    }
}

/// A token of every algorithm, from the header of a request to a principal.
fn authorize(c: &mut Criterion) {
    use Algorithm::*;
    let mut group = c.benchmark_group("authorize");
    for algorithm in [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA] {
        let (key, signing) = keys(algorithm);
        let file = config(1, PRIVATE).with(&format!("jwt: {{ algorithm: {algorithm:?}, {key} }}"));
        let config = load(&file.yaml());
        let request = request(0, Some(&token(algorithm, &signing, "ann")));
        group.bench_function(format!("{algorithm:?}"), |b| {
            b.iter(|| {
                subject::rule(&config)
                    .authorize(black_box(&request.headers), Query::default(), now())
                    .expect("good")
            });
        });
    }
}

/// How to check a token, as it stands in the `jwt` block, and how to make one.
fn keys(algorithm: Algorithm) -> (String, EncodingKey) {
    use Algorithm::*;
    let public = |pem: &str| format!("public_key: {}", json!(pem));
    let curve = |algorithm: &'static SignatureAlgorithm| {
        let pair = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        (public(&pair.public_key_pem()), pair.serialize_pem())
    };
    match algorithm {
        HS256 | HS384 | HS512 => (format!("secret: {SECRET}"), EncodingKey::from_secret(SECRET.as_bytes())),
        ES256 | ES384 => {
            let (key, pem) =
                curve(if algorithm == ES256 { &PKCS_ECDSA_P256_SHA256 } else { &PKCS_ECDSA_P384_SHA384 });
            (key, EncodingKey::from_ec_pem(pem.as_bytes()).expect("a key"))
        }
        EdDSA => {
            let (key, pem) = curve(&PKCS_ED25519);
            (key, EncodingKey::from_ed_pem(pem.as_bytes()).expect("a key"))
        }
        _ => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
            let private: Pkcs8V1Der<'_> = pair.as_der().expect("a key");
            let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a key");
            let signing = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes());
            (public(&pem("PUBLIC KEY", der.as_ref())), signing.expect("a key"))
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let lines: Vec<_> = der.chunks(48).map(|line| BASE64_STANDARD.encode(line)).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Conditions alone: ten, all of which hold.
fn claims(c: &mut Criterion) {
    let conditions = [
        "{ claim: role, operator: equals, value: reader }",
        "{ claim: role, operator: not_equals, value: guest }",
        "{ claim: department.name, operator: in, value: [ops, web] }",
        "{ claim: department.name, operator: not_in, value: [hr, law] }",
        "{ claim: groups, operator: contains, value: c }",
        "{ claim: sub, operator: exists }",
        "{ claim: level, operator: gt, value: 1 }",
        "{ claim: level, operator: gte, value: 2 }",
        "{ claim: level, operator: lt, value: 9 }",
        "{ claim: level, operator: lte, value: 8 }",
    ];
    let auth = format!("auth: {{ enabled: true, claims: [{}] }}", conditions.join(", "));
    let config = load(&config(1, &auth).yaml());
    let Rule::Token { conditions, .. } = subject::rule(&config) else { panic!("the rule asks for a token") };
    let claims = json!({
        "sub": "ann", "role": "reader", "department": { "name": "web" }, "groups": ["a", "b", "c"], "level": 5
    });
    let claims = claims.as_object().expect("an object");
    c.bench_function("claims-10", |b| {
        b.iter(|| assert!(conditions.iter().all(|condition| condition.holds(black_box(claims)))));
    });
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("admit");
    let hs256 = subject::hs256();
    for (name, auth, token) in [("public", PUBLIC, None), ("hs256", PRIVATE, Some(hs256.as_str()))] {
        let generation = generation(10, auth);
        let request = request(7, token);
        group.bench_function(name, |b| {
            b.iter(|| admit(&generation, black_box(&request), None, now()).expect("admitted"));
        });
    }
}

/// From the text of a file to a configuration: all new, and with everything in service already.
fn load_and_build(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for buckets in [10, 1_000, 10_000] {
        let text = config(buckets, PRIVATE).yaml();
        group.throughput(Throughput::Elements(buckets as u64));
        group.bench_function(BenchmarkId::new("new", buckets), |b| b.iter(|| load(black_box(&text))));

        let in_service = Arc::new(load(&text));
        let path = std::path::PathBuf::from("bench.yaml");
        group.bench_function(BenchmarkId::new("unchanged", buckets), |b| {
            b.iter(|| {
                let source = Source::Text { path: path.clone(), text: text.clone().into_bytes() };
                load_from(source, Some(&in_service), &mut Stages::default()).outcome.expect("valid")
            });
        });
    }
}

/// The documented limits: rules of a bucket, mistakes in a file, and a file in which every bucket changed.
fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("limits");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let judge = |text: &str| {
        let source = Source::Text { path: "bench.yaml".into(), text: text.as_bytes().to_vec() };
        load_from(source, None, &mut Stages::default()).outcome
    };
    let rules: Vec<String> =
        (0..1_000).map(|n| format!("{{ path: \"{}*{n:04}\", allow: public }}", "a".repeat(1_019))).collect();
    let rules = config(1, &format!("auth: {{ rules: [{}] }}", rules.join(", "))).yaml();
    group.bench_function("rules-1000", |b| b.iter(|| judge(black_box(&rules)).expect("valid")));

    let mistakes = format!("server: {{ trusted_proxies: [{}] }}\nbuckets: []\n", "1,".repeat(30_000));
    group.bench_function("mistakes-30000", |b| b.iter(|| judge(black_box(&mistakes)).expect_err("mistakes")));

    for buckets in [10_000, 100_000] {
        let file = config(buckets, PRIVATE);
        let in_service = load(&file.yaml());
        let changed = file.each(|bucket| bucket.region("eu-west-2")).yaml();
        group.bench_function(BenchmarkId::new("changed", buckets), |b| {
            b.iter(|| {
                let source = Source::Text { path: "bench.yaml".into(), text: changed.clone().into_bytes() };
                let loaded = load_from(source, Some(&in_service), &mut Stages::default());
                let changes = changes::between(&in_service, &loaded.outcome.expect("valid"));
                assert_eq!(changes.len(), buckets);
            });
        });
    }
}

fn settings() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = core; config = settings(); targets = sign, find, authorize, claims, decide, load_and_build, limits }
criterion_main!(core);
