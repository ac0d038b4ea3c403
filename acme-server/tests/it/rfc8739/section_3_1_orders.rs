//! §3.1 and §3.2: orders with auto-renewal, their cancellation, and what the directory says.

use acme_server::config::{Config, StarConfig};
use ca_core::time::Clock;
use serde_json::json;

use super::{NAME, asked, cancel, days, issued, offering, place, star};
use crate::support::{Ca, key, open_config};

#[tokio::test]
async fn section_3_2_the_directory_says_what_it_offers() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let expected =
        json!({ "min-lifetime": 3600, "max-duration": 30 * 86_400, "allow-certificate-get": true });
    assert_eq!(client.directory["meta"]["auto-renewal"], expected);
    let closed = StarConfig { allow_certificate_get: false, ..star() };
    let client = Ca::with(Config { star: closed, ..open_config() }).await.client().await;
    assert_eq!(client.directory["meta"]["auto-renewal"].get("allow-certificate-get"), None);
}

#[tokio::test]
async fn section_3_2_where_it_is_off_nothing_is_said_and_orders_that_ask_are_refused() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    assert_eq!(client.directory["meta"].get("auto-renewal"), None);
    place(&client, asked(&ca)).await.assert_problem(400, "malformed");
    let plain = client.new_order(&[NAME]).await;
    assert_eq!(plain.json.get("auto-renewal"), None);
    client.post(plain.location(), &json!({ "status": "canceled" })).await.assert_problem(400, "malformed");
}

#[tokio::test]
async fn section_3_1_1_the_order_shows_what_was_agreed_on() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let (start, end) = (days(&ca, 1).to_string(), days(&ca, 9).to_string());
    let all = json!({
        "start-date": start, "end-date": end, "lifetime": 86_400, "lifetime-adjust": 50_000,
        "allow-certificate-get": true,
    });
    let order = place(&client, all.clone()).await;
    assert_eq!((order.status, &order.json["auto-renewal"]), (201, &all), "{order:?}");
    // The certificate must be there halfway through the one before (§3.3), so the server dates it back further.
    let least = place(&client, asked(&ca)).await;
    assert_eq!(least.json["auto-renewal"]["lifetime-adjust"], 3600);
    assert_eq!(least.json["auto-renewal"].get("allow-certificate-get"), None);
    assert_eq!(least.json.get("star-certificate"), None);

    let valid = issued(&ca, &client, asked(&ca)).await;
    assert_eq!(valid.json.get("certificate"), None, "a rolling certificate has a name of its own");
    assert!(valid.text("star-certificate").contains("/star-certificate/"));
    assert_eq!(valid.json["expires"], valid.json["auto-renewal"]["end-date"]);
}

#[tokio::test]
async fn section_3_1_1_what_can_not_be_agreed_on_is_malformed() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let end = days(&ca, 1).to_string();
    for bad in [
        json!({ "lifetime": 7200 }),
        json!({ "end-date": end }),
        json!({ "end-date": "soon", "lifetime": 7200 }),
        json!({ "end-date": end, "lifetime": "7200" }),
        json!({ "end-date": end, "lifetime": -7200 }),
        json!({ "end-date": end, "lifetime": 7200.5 }),
        json!({ "end-date": end, "lifetime": 7200, "lifetime-adjust": -1 }),
        json!({ "end-date": end, "lifetime": 7200, "start-date": 5 }),
        json!({ "end-date": end, "lifetime": 7200, "allow-certificate-get": "yes" }),
        json!({ "end-date": end, "lifetime": 3599 }),
        json!({ "end-date": end, "lifetime": 7 * 86_400 + 1 }),
        json!({ "end-date": end, "lifetime": u64::MAX }),
        json!({ "end-date": days(&ca, 31).to_string(), "lifetime": 7200 }),
        json!({ "end-date": "2020-01-01T00:00:00Z", "lifetime": 7200 }),
        json!({ "start-date": days(&ca, 2).to_string(), "end-date": end, "lifetime": 7200 }),
        json!({ "start-date": days(&ca, 40).to_string(), "end-date": days(&ca, 41).to_string(), "lifetime": 7200 }),
        json!([]),
        json!(true),
    ] {
        let answer = place(&client, bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        answer.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn section_3_1_1_not_before_and_not_after_do_not_go_with_it() {
    let ca = Ca::with(Config { client_validity: true, ..offering() }).await;
    let client = ca.client().await;
    for member in ["notBefore", "notAfter"] {
        let payload = json!({
            "identifiers": [{ "type": "dns", "value": NAME }],
            "auto-renewal": asked(&ca),
            member: days(&ca, 1).to_string(),
        });
        client.post(&client.resource("newOrder"), &payload).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn section_3_1_2_the_account_cancels_its_order_and_nobody_else_does() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let order = issued(&ca, &client, asked(&ca)).await;
    let stranger = ca.client().await;
    cancel(&stranger, &order).await.assert_problem(404, "malformed");
    client.post(order.location(), &json!({ "status": "valid" })).await.assert_problem(400, "malformed");

    let canceled = cancel(&client, &order).await;
    assert_eq!((canceled.status, canceled.text("status")), (200, "canceled"), "{canceled:?}");
    assert!(canceled.text("expires") <= ca.clock.now().to_string().as_str());
    assert_eq!(canceled.json.get("star-certificate"), None);
    assert_eq!(client.read(order.location()).await.text("status"), "canceled");
    let star = order.text("star-certificate");
    client.read(star).await.assert_problem(403, "autoRenewalCanceled");
    cancel(&client, &order).await.assert_problem(400, "autoRenewalCancellationInvalid");
}

#[tokio::test]
async fn section_3_1_2_only_a_valid_order_is_canceled() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let pending = place(&client, asked(&ca)).await;
    cancel(&client, &pending).await.assert_problem(400, "autoRenewalCancellationInvalid");
    let plain = ca.issue(&client, &[NAME]).await;
    cancel(&client, &plain).await.assert_problem(400, "malformed");
}

#[tokio::test]
async fn section_3_1_2_its_certificates_are_not_revoked() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let order = issued(&ca, &client, asked(&ca)).await;
    let chain = client.read(order.text("star-certificate")).await;
    let der = crate::support::client::from_pem(&chain.body).remove(0);
    client.revoke(&der, None).await.assert_problem(403, "autoRenewalRevocationNotSupported");
    // A stranger learns nothing of it.
    ca.client().await.revoke(&der, None).await.assert_problem(403, "unauthorized");
}

#[tokio::test]
async fn an_order_placed_before_it_was_switched_off_is_refused_by_ca() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    // The front end of a process with another configuration.
    let open = ca.restarted_with(&offering());
    let client = client.on(open.router());
    let order = place(&client, asked(&ca)).await;
    assert_eq!(order.status, 201);
    ca.authorize(&client, &order).await;
    let refused = client.finalize(&order, &key::csr(&key::subscriber_key(), &[NAME])).await;
    assert_eq!(refused.text("status"), "invalid", "{refused:?}");
    assert_eq!(refused.json["error"]["type"], "urn:ietf:params:acme:error:malformed");
}
