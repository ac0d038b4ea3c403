//! RFC 8738: identifiers of type ip.

use serde_json::json;

use crate::support::Ca;
use crate::support::client::from_pem;
use crate::support::key::{csr, subscriber_key};

#[tokio::test]
async fn addresses_are_ordered_proven_and_certified() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let names = ["192.0.2.1", "2001:db8::1"];
    let order = client.new_order(&names).await;
    ca.authorize(&client, &order).await;
    let valid = client.finalize(&order, &csr(&subscriber_key(), &names)).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
    let certificate = from_pem(&client.read(valid.text("certificate")).await.body).remove(0);
    assert!(certificate.windows(4).any(|octets| octets == [192, 0, 2, 1]), "the address as four octets");
}

#[tokio::test]
async fn section_3_addresses_have_one_spelling() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.resource("newOrder");
    for (kind, value) in [
        ("ip", "2001:DB8::1"),
        ("ip", "2001:db8:0::1"),
        ("ip", "192.0.2.01"),
        ("ip", "192.0.2.0/24"),
        ("ip", "[::1]"),
        ("ip", "a.example"),
        ("dns", "192.0.2.1"),
    ] {
        let answer = client.post(&url, &json!({"identifiers": [{"type": kind, "value": value}]})).await;
        answer.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn section_7_dns_01_is_not_offered_for_addresses() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["192.0.2.1"]).await;
    let authorization = client.read(&order.list("authorizations")[0]).await;
    assert!(authorization.json["challenges"].as_array().unwrap().iter().all(|c| c["type"] != "dns-01"));
}
