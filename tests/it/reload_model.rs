//! Random writes, renames, signals and calls, against a model of ten lines.

use std::fs;

use kit::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::stack::Stack;

#[derive(Debug, Clone)]
enum Step {
    Write(Option<u32>),
    Rename(Option<u32>),
    Hangup,
    Post,
    /// Both at once.
    HangupAndPost,
}

/// What is in the file (`None`: nothing valid), what is served, and how the counters stand.
#[derive(Debug, Default, PartialEq)]
struct Model {
    file: Option<u32>,
    served: u32,
    success: u32,
    failure: u32,
}

impl Model {
    fn reload(&mut self) {
        match self.file {
            Some(prefix) => (self.served, self.success) = (prefix, self.success + 1),
            None => self.failure += 1,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let content = || proptest::option::weighted(0.7, 0_u32..1000);
    let step = prop_oneof![
        2 => content().prop_map(Step::Write),
        2 => content().prop_map(Step::Rename),
        2 => Just(Step::Hangup),
        2 => Just(Step::Post),
        1 => Just(Step::HangupAndPost),
    ];
    proptest::collection::vec(step, 60)
}

// Promises G15, G19, G24, G39.
#[tokio::test]
async fn random_steps_agree_with_the_model() {
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..5 {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        let mut stack = Stack::start().await;
        let mut model = Model { file: Some(0), ..Model::default() };
        let text = |content: Option<u32>| match content {
            Some(number) => stack.photos_at(&prefix(number)).yaml(),
            None => "buckets: [".to_owned(),
        };
        stack.proxy.write_config(&text(Some(0)));
        for step in &steps {
            match step {
                Step::Write(content) => {
                    model.file = *content;
                    let with_port = text(*content).text(stack.proxy.address.port());
                    fs::write(stack.proxy.config_path(), with_port).expect("written");
                }
                Step::Rename(content) => {
                    model.file = *content;
                    stack.proxy.write_config(&text(*content));
                }
                Step::Hangup => {
                    stack.proxy.hangup().await;
                    model.reload();
                }
                Step::Post => {
                    let (status, _) = stack.proxy.reload(&admin_token()).await;
                    assert_eq!(status == 200, model.file.is_some(), "{steps:?}");
                    model.reload();
                }
                Step::HangupAndPost => {
                    let signalled = || {
                        let is_signal = |line: &serde_json::Value| {
                            line["trigger"].as_str().is_some_and(|by| by.contains("SIGHUP"))
                        };
                        stack.proxy.log().iter().filter(|line| is_signal(line)).count()
                    };
                    stack.proxy.whole_log().await;
                    let before = signalled();
                    stack.proxy.signal("HUP");
                    stack.proxy.reload(&admin_token()).await;
                    eventually("the hangup was applied", async || (signalled() > before).then_some(())).await;
                    model.reload();
                    // One run or two: the counters say which.
                    let metrics = stack.proxy.metrics().await;
                    let runs =
                        metrics["config_reload_success_total"] + metrics["config_reload_failure_total"];
                    if runs as u32 == model.success + model.failure + 1 {
                        model.reload();
                    }
                }
            }
            let metrics = stack.proxy.metrics().await;
            let found = Model {
                file: model.file,
                served: model.served,
                success: metrics["config_reload_success_total"] as u32,
                failure: metrics["config_reload_failure_total"] as u32,
            };
            assert_eq!(found, model, "{steps:?}");
            assert_eq!(metrics["config_generation"] as u32, model.success + 1, "{steps:?}");
        }
        if model.success > 0 {
            let target = format!("{}/cat.jpg", prefix(model.served));
            assert_eq!(stack.proxy.get(&target).await.status(), 200, "{steps:?}");
        }
        stack.proxy.signal("HUP");
        stack.proxy.signal("TERM");
        assert_eq!(stack.proxy.exit().await.code(), Some(0));
    }
}

fn prefix(number: u32) -> String {
    format!("/p{number}")
}
