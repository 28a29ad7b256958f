//! Any text of up to 1 MiB is judged without a panic, within five seconds and in bounded memory, and the
//! verdict is short. A valid one can be shown, and what is shown holds no secret of the text's. The memory
//! is bounded by the limits that the fuzzer is run with; see the README.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use yatagarasu::internals::{Source, Stages, load_from};

const SECRET: &str = "this-must-never-be-shown";

/// Whether the secret of the seeds stands only where a secret belongs, and not in a text that is shown.
fn holds_only_secrets(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let secrets = ["secret: ", "secret_key: "].map(|key| text.matches(&format!("{key}{SECRET}")).count());
    // A text of many lines may hold what looks like a key.
    !text.contains(['"', '\'', '|', '>', '#'])
        && text.matches(SECRET).count() == secrets.iter().sum::<usize>()
}

fuzz_target!(|text: &[u8]| {
    let source = Source::Text { path: "/nowhere/config.yaml".into(), text: text.to_vec() };
    let started = Instant::now();
    match load_from(source, None, &mut Stages::default()).outcome {
        Ok(config) => {
            assert!(!holds_only_secrets(text) || !config.show().contains(SECRET));
            assert!(config.warnings.len() <= 101);
        }
        Err(problems) => {
            let length = problems.to_string().len();
            assert!((1..1 << 20).contains(&length), "{length} bytes of problems");
        }
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
});
