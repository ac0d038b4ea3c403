//! RFC 8555 §7.4.1: names proven ahead of an order, and authorizations that serve more than one.

use std::time::Duration;

use acme_server::config::Config;
use ca_core::time::{Clock, Timestamp};
use serde_json::json;

use crate::support::{Answer, Ca, Client, open_config};

fn reusing() -> Config {
    Config { authorization_reuse_seconds: 3600, ..open_config() }
}

async fn pre_authorize(client: &Client, name: &str) -> Answer {
    let payload = json!({"identifier": {"type": "dns", "value": name}});
    client.post(&client.resource("newAuthz"), &payload).await
}

#[tokio::test]
async fn a_name_that_was_proven_ahead_makes_an_order_ready_at_once() {
    let ca = Ca::with(reusing()).await;
    let client = ca.client().await;
    let made = pre_authorize(&client, "a.example").await;
    assert_eq!((made.status, made.text("status")), (201, "pending"), "{made:?}");
    let challenge = made.challenge("http-01");
    ca.prober.provide(&made, &challenge, &client.key);
    client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    assert_eq!(client.read(made.location()).await.text("status"), "valid");

    let order = client.new_order(&["a.example"]).await;
    assert_eq!(
        (order.text("status"), order.list("authorizations")),
        ("ready", vec![made.location().to_owned()])
    );
    assert_eq!(ca.issue(&client, &["a.example"]).await.text("status"), "valid");
    // Another account's order proves the name itself.
    let stranger = ca.client().await;
    assert_eq!(stranger.new_order(&["a.example"]).await.text("status"), "pending");
}

#[tokio::test]
async fn an_authorization_serves_for_as_long_as_configured() {
    let ca = Ca::with(reusing()).await;
    let client = ca.client().await;
    ca.issue(&client, &["a.example"]).await;
    let order = client.new_order(&["a.example", "b.example"]).await;
    assert_eq!(order.text("status"), "pending", "b.example is not proven");
    assert_eq!(client.new_order(&["a.example"]).await.text("status"), "ready");
    assert_eq!(client.new_order(&["*.a.example"]).await.text("status"), "pending");
    ca.clock.advance(Duration::from_mins(61));
    assert_eq!(client.new_order(&["a.example"]).await.text("status"), "pending");
}

#[tokio::test]
async fn an_authorization_that_is_about_to_end_serves_no_further_order() {
    let ca = Ca::with(Config { authorization_reuse_seconds: 30 * 86_400, ..open_config() }).await;
    let client = ca.client().await;
    let placed = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &placed).await;
    let authorization = client.read(&placed.list("authorizations")[0]).await;
    let end = Timestamp::from_rfc3339(authorization.text("expires")).unwrap();
    ca.clock.advance(end.since(ca.clock.now()).saturating_sub(Duration::from_mins(61)));
    assert_eq!(client.new_order(&["a.example"]).await.text("status"), "ready");
    ca.clock.advance(Duration::from_mins(2));
    assert_eq!(client.new_order(&["a.example"]).await.text("status"), "pending");
}

#[tokio::test]
async fn an_authorization_that_was_given_up_serves_no_order() {
    let ca = Ca::with(reusing()).await;
    let client = ca.client().await;
    ca.issue(&client, &["a.example"]).await;
    let order = client.new_order(&["a.example"]).await;
    assert_eq!(order.text("status"), "ready");
    client.post(&order.list("authorizations")[0], &json!({"status": "deactivated"})).await;
    assert_eq!(client.read(order.location()).await.text("status"), "invalid");
    assert_eq!(client.new_order(&["a.example"]).await.text("status"), "pending");
}

#[tokio::test]
async fn what_is_not_offered_is_neither_advertised_nor_taken() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    assert_eq!(client.directory.get("newAuthz"), None);
    let url = client.resource("newOrder").replace("new-order", "new-authz");
    let payload = json!({"identifier": {"type": "dns", "value": "a.example"}});
    client.post(&url, &payload).await.assert_problem(404, "malformed");
    ca.issue(&client, &["a.example"]).await;
    assert_eq!(client.new_order(&["a.example"]).await.text("status"), "pending");
}

#[tokio::test]
async fn wildcards_and_names_that_policy_refuses_are_not_taken() {
    let config = Config { allowed_names: vec![".example".to_owned()], ..reusing() };
    let ca = Ca::with(config).await;
    let client = ca.client().await;
    pre_authorize(&client, "*.a.example").await.assert_problem(400, "malformed");
    pre_authorize(&client, "a.test").await.assert_problem(400, "rejectedIdentifier");
    pre_authorize(&client, "not a name").await.assert_problem(400, "malformed");
}
