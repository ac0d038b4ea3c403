//! RFC 8555 §7.4: newOrder and reading orders.

use std::time::Duration;

use acme_server::config::Config;
use serde_json::{Value, json};

use crate::support::client::identifiers;
use crate::support::{Ca, Key, open_config};

#[tokio::test]
async fn an_order_has_an_authorization_for_each_identifier_once() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["B.example", "a.example", "b.EXAMPLE", "2001:db8::1"]).await;
    assert_eq!(order.status, 201, "{order:?}");
    assert_eq!(order.text("status"), "pending");
    assert_eq!(order.json["identifiers"], identifiers(&["b.example", "a.example", "2001:db8::1"]));
    assert_eq!(order.list("authorizations").len(), 3);
    assert_eq!(order.text("finalize"), format!("{}/finalize", order.location()));
    assert_eq!(order.json.get("certificate"), None);
    assert!(ca_core::time::Timestamp::from_rfc3339(order.text("expires")).is_some());
    assert!(!order.headers.contains_key("retry-after"), "it waits for the client");
    let read = client.read(order.location()).await;
    assert_eq!((read.status, &read.json), (200, &order.json));
    assert_eq!(read.location(), order.location());
}

#[tokio::test]
async fn identifiers_that_cannot_be_ordered_are_told_each() {
    let ca = Ca::with(Config { allowed_names: vec![".example".to_owned()], ..open_config() }).await;
    let client = ca.client().await;
    let url = client.resource("newOrder");
    let order = |identifiers: Value| {
        let (client, url) = (&client, url.clone());
        async move { client.post(&url, &json!({ "identifiers": identifiers })).await }
    };
    let answer = order(identifiers(&["a.example", "a.other", "b.other"])).await;
    answer.assert_problem(400, "rejectedIdentifier");
    let subproblems = answer.json["subproblems"].as_array().unwrap();
    assert_eq!(subproblems.len(), 2);
    assert_eq!(subproblems[0]["identifier"], json!({"type": "dns", "value": "a.other"}));
    assert_eq!(subproblems[1]["type"], "urn:ietf:params:acme:error:rejectedIdentifier");

    order(json!([{"type": "email", "value": "a@b"}])).await.assert_problem(400, "unsupportedIdentifier");
    let mixed = order(json!([{"type": "email", "value": "a@b"}, {"type": "dns", "value": "a.other"}])).await;
    mixed.assert_problem(400, "malformed");
    assert_eq!(mixed.json["subproblems"].as_array().unwrap().len(), 2);
    for bad in [
        "",
        "a b",
        "a..example",
        "*.*.example",
        "a.*.example",
        "-a.example",
        "\u{fc}.example",
        &"a".repeat(300),
    ] {
        order(json!([{"type": "dns", "value": bad}])).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn orders_that_are_no_orders_are_malformed() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.resource("newOrder");
    let many: Vec<String> = (0..101).map(|n| format!("host-{n}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let name = identifiers(&["a.example"]);
    for payload in [
        json!({}),
        json!({"identifiers": []}),
        json!({"identifiers": identifiers(&many)}),
        json!({"identifiers": "a.example"}),
        json!({"identifiers": [{"value": "a.example"}]}),
        json!({"identifiers": name, "notBefore": "2026-01-01T00:00:00Z"}),
        json!({"identifiers": name, "notAfter": "2036-01-01T00:00:00Z"}),
        json!([]),
    ] {
        client.post(&url, &payload).await.assert_problem(400, "malformed");
    }
    client.post_with(&url, &client.header(&url).await, b"{").await.assert_problem(400, "malformed");
    client.read(&url).await.assert_problem(400, "malformed");
}

#[tokio::test]
async fn a_profile_can_be_asked_for() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.resource("newOrder");
    let order = |profile: &str| json!({"identifiers": identifiers(&["a.example"]), "profile": profile});
    assert_eq!(client.post(&url, &order("tls-client")).await.text("profile"), "tls-client");
    assert_eq!(client.new_order(&["a.example"]).await.text("profile"), "tls-server");
    for unknown in ["none", "", "Not A Name"] {
        client.post(&url, &order(unknown)).await.assert_problem(400, "invalidProfile");
    }
}

#[tokio::test]
async fn wildcards_are_ordered_where_they_are_offered() {
    let ca = Ca::with(Config { wildcards: false, ..open_config() }).await;
    let client = ca.client().await;
    client.new_order(&["*.a.example"]).await.assert_problem(400, "rejectedIdentifier");

    let ca = Ca::with(Config { challenges: vec!["http-01".to_owned()], ..open_config() }).await;
    let client = ca.client().await;
    client.new_order(&["*.a.example"]).await.assert_problem(400, "rejectedIdentifier");
    assert_eq!(client.new_order(&["a.example"]).await.status, 201);
}

#[tokio::test]
async fn an_order_expires() {
    let ca = Ca::with(Config { order_lifetime_seconds: 60, ..open_config() }).await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    ca.clock.advance(Duration::from_secs(61));
    let expired = client.read(order.location()).await;
    assert_eq!(expired.text("status"), "invalid");
    assert_eq!(expired.json["error"]["type"], "urn:ietf:params:acme:error:malformed");
}

#[tokio::test]
async fn an_order_with_a_failed_authorization_is_invalid_and_tells_which() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example", "b.example"]).await;
    let authorization = client.read(&order.list("authorizations")[1]).await;
    client.post(authorization.challenge("dns-01")["url"].as_str().unwrap(), &json!({})).await;
    let invalid = client.read(order.location()).await;
    assert_eq!(invalid.text("status"), "invalid");
    assert_eq!(invalid.json["error"]["type"], "urn:ietf:params:acme:error:unauthorized");
    assert!(invalid.json["error"]["detail"].as_str().unwrap().contains("b.example"));
}

#[tokio::test]
async fn somebody_elses_objects_are_not_there() {
    let ca = Ca::new().await;
    let (one, other) = (ca.client().await, ca.client().await);
    let order = ca.issue(&other, &["a.example"]).await;
    let authorization = order.list("authorizations").remove(0);
    let challenge = other.read(&authorization).await.challenge("dns-01")["url"].as_str().unwrap().to_owned();
    let certificate = order.text("certificate");
    for url in [order.location(), &authorization, &challenge, certificate] {
        let there = one.read(url).await;
        there.assert_problem(404, "malformed");
        let id = url.split('/').nth(6).unwrap();
        let nowhere =
            if url == certificate { format!("issuing-1-{}", "1".repeat(40)) } else { "0".repeat(26) };
        let missing = one.read(&url.replace(id, &nowhere)).await;
        assert_eq!(missing.json, there.json, "nothing tells that it exists");
    }
    let csr = crate::support::key::csr(&crate::support::key::subscriber_key(), &["a.example"]);
    one.finalize(&order, &csr).await.assert_problem(404, "malformed");
    one.post(&challenge, &json!({})).await.assert_problem(404, "malformed");
    one.post(&authorization, &json!({"status": "deactivated"})).await.assert_problem(404, "malformed");
    let stranger = ca.stranger(Key::p256()).await;
    stranger.read(order.location()).await.assert_problem(400, "malformed");
}
