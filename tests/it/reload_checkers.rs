//! The checkers can fail: each is run against a program that is broken on purpose.

use kit::traffic::{Traffic, coloured, coloured_store, flip};
use kit::*;

use crate::reload_honesty::counters_add_up;
use crate::reload_switch::is_prompt_while_idle;
use crate::reload_triggers::slow_write_is_one_generation;
use crate::stack::{PROGRAM, Stack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pointers_in_a_row_are_caught() {
    let store = coloured_store().await;
    let proxy = PROGRAM.start(&coloured(0, &store)).await;
    proxy.fault("two pointers");
    let traffic = Traffic::start(&proxy, 6);
    flip(&proxy, &store, &traffic.confirmed, 200, 0).await;
    let seen = traffic.end(&store).await;
    assert!(
        seen.faults.iter().any(|fault| fault.starts_with("mixed") || fault.starts_with("failed")),
        "nothing was found"
    );
}

#[tokio::test]
async fn a_hangup_that_waits_for_the_next_request_is_caught() {
    let stack = Stack::start().await;
    stack.proxy.fault("looked at by the next request");
    assert!(is_prompt_while_idle(&stack.proxy).await.is_err());
    // It is applied by the next request, so only the promptness was broken.
    stack.proxy.get("/photos/cat.jpg").await;
    eventually("the hangup was applied", async || (stack.proxy.generation().await == 2).then_some(())).await;
}

#[tokio::test]
async fn a_counter_that_moves_twice_is_caught() {
    let stack = Stack::start().await;
    stack.proxy.fault("counter moves twice");
    assert!(counters_add_up(&stack).await.is_err());
}

#[tokio::test]
async fn a_leading_edge_debounce_is_caught() {
    let watch = "server: { address: 127.0.0.1, port: {port} }\nreload: { watch: true, debounce_ms: 200, poll_seconds: 3600 }";
    let stack = Stack::with(watch).await;
    stack.proxy.fault("leading edge");
    assert!(slow_write_is_one_generation(&stack).await.is_err());
}
