//! A configuration is judged without a panic, in bounded memory; a valid one can be shown, and what is
//! shown holds no secret of the text's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yatagarasu::config::stages::Stages;
use yatagarasu::config::{Source, load_from};

fuzz_target!(|text: &[u8]| {
    let source = Source::Text { path: "/nowhere/config.yaml".into(), text: text.to_vec() };
    match load_from(source, None, &mut Stages::default()).outcome {
        Ok(config) => assert!(!config.show().contains("this-must-never-be-shown")),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
