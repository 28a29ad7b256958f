//! Some files decide and never act: they name no runtime, no Pingora and no clock, so their tests need
//! none.

use std::collections::BTreeSet;

use super::exceptions;
use super::source::{Source, is_word, sources};

/// Files, and folders with all their files.
const PURE: [&str; 12] = [
    "src/routing.rs",
    "src/s3/",
    "src/access/policy.rs",
    "src/access/pattern.rs",
    "src/access/rule.rs",
    "src/access/links.rs",
    "src/access/networks.rs",
    "src/tokens/claims.rs",
    "src/tokens/verifier.rs",
    "src/tokens/jws.rs",
    "src/tokens/keys.rs",
    "src/gateway/admission.rs",
];

const FORBIDDEN: [&str; 4] = ["tokio", "pingora", "SystemTime::now", "Instant::now"];

#[test]
fn a_file_that_decides_names_no_runtime_and_no_clock() {
    let sources = sources("src");
    let mut broken = BTreeSet::new();
    for pure in PURE {
        let files: Vec<&Source> = sources.iter().filter(|source| source.name.starts_with(pure)).collect();
        assert!(!files.is_empty(), "{pure} does not exist");
        for source in files {
            let code = source.before_tests();
            let names = |word: &&&str| code.match_indices(*word).any(|(at, _)| is_whole(code, at, word));
            broken.extend(FORBIDDEN.iter().filter(names).map(|word| format!("{} names {word}", source.name)));
        }
    }

    exceptions::hold("impure", &broken);
}

fn is_whole(code: &str, at: usize, word: &str) -> bool {
    !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
}
