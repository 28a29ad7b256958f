//! Reading objects: what the client gets, and what the store received.

use crate::harness::*;

#[tokio::test]
async fn an_object_streams_through_signed_with_the_buckets_credentials() {
    let stack = Stack::start().await;

    let response = stack.proxy.get("/photos/cat.jpg").await;

    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(response.text().await.expect("a text"), "a cat");
    let [received] = stack.store.received().try_into().expect("one request");
    assert_eq!((received.method.as_str(), received.target.as_str()), ("GET", "/photos/cat.jpg"));
    assert_eq!(received.access_key(), store::ACCESS_KEY);
    assert_eq!(received.header("host"), Some(stack.store.address.to_string().as_str()));
}

#[tokio::test]
async fn a_private_bucket_needs_a_token() {
    let stack = Stack::start().await;

    let response = stack.proxy.get("/papers/plan.txt").await;
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_s3_error(response, 401, "AccessDenied").await;
    assert!(stack.store.received().is_empty());

    let response = stack.proxy.get_as("/papers/plan.txt", &token(serde_json::json!({}))).await;
    assert_eq!(response.text().await.expect("a text"), "a plan");
}
