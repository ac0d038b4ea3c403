//! RFC 8555 §7.1.3 and §7.4: notBefore and notAfter, where a directory lets clients choose them.

use std::time::Duration;

use acme_server::config::{Config, DirectoryConfig};
use ca_core::time::{Clock, Timestamp};
use der::Decode;
use serde_json::{Value, json};
use x509_cert::Certificate;

use crate::support::client::{from_pem, identifiers};
use crate::support::{Answer, Ca, Client, key, open_config};

const DAY: Duration = Duration::from_hours(24);

async fn choosing() -> Ca {
    Ca::with(Config { client_validity: true, ..open_config() }).await
}

async fn order(client: &Client, dates: Value) -> Answer {
    let mut payload = json!({"identifiers": identifiers(&["a.example"])});
    payload.as_object_mut().unwrap().extend(dates.as_object().unwrap().clone());
    client.post(&client.resource("newOrder"), &payload).await
}

/// Finishes an order and gives its certificate's dates.
async fn dates(ca: &Ca, client: &Client, order: &Answer) -> (Timestamp, Timestamp) {
    ca.authorize(client, order).await;
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    let done = client.finalize(order, &csr).await;
    assert_eq!(done.text("status"), "valid", "{done:?}");
    let der = from_pem(&client.read(done.text("certificate")).await.body).remove(0);
    let certificate = Certificate::from_der(&der).unwrap();
    let validity = certificate.tbs_certificate().validity();
    (Timestamp::from_x509(validity.not_before), Timestamp::from_x509(validity.not_after))
}

#[tokio::test]
async fn the_certificate_has_the_dates_that_were_asked_for() {
    let ca = choosing().await;
    let client = ca.client().await;
    let now = ca.clock.now().whole_seconds();
    let (begin, end) = (now.plus(DAY), now.plus(DAY * 3));
    let asked = json!({"notBefore": begin.to_string(), "notAfter": end.to_string()});
    let order = order(&client, asked).await;
    assert_eq!(order.status, 201, "{order:?}");
    assert_eq!(order.text("notBefore"), begin.to_string());
    assert_eq!(order.text("notAfter"), end.to_string());
    assert_eq!(client.read(order.location()).await.text("notAfter"), end.to_string());
    assert_eq!(dates(&ca, &client, &order).await, (begin, end));
}

#[tokio::test]
async fn one_date_alone_leaves_the_other_to_the_profile() {
    let ca = choosing().await;
    let client = ca.client().await;
    let now = ca.clock.now().whole_seconds();
    let begin = now.plus(Duration::from_hours(1));
    let placed = order(&client, json!({"notBefore": begin.to_string()})).await;
    assert_eq!(placed.json.get("notAfter"), None);
    let whole = DAY * 90 - Duration::from_secs(1);
    assert_eq!(dates(&ca, &client, &placed).await, (begin, begin.plus(whole)));

    // In another zone, as some clients write it; ninety days from now are the profile's lifetime.
    let end = now.plus(DAY * 90);
    let local = end.plus(Duration::from_hours(2)).to_string().replace('Z', "+02:00");
    let placed = order(&client, json!({"notAfter": local})).await;
    assert_eq!(placed.text("notAfter"), end.to_string(), "{placed:?}");
    let (not_before, not_after) = dates(&ca, &client, &placed).await;
    assert_eq!(not_after, end);
    assert!(now <= not_before && not_before <= ca.clock.now(), "{not_before}");

    let placed = client.new_order(&["a.example"]).await;
    let (not_before, not_after) = dates(&ca, &client, &placed).await;
    assert_eq!(not_after.since(not_before), whole);
}

#[tokio::test]
async fn dates_that_policy_does_not_admit_are_refused() {
    let ca = choosing().await;
    let client = ca.client().await;
    let now = ca.clock.now();
    for asked in [
        json!({"notBefore": now.minus(DAY).to_string()}),
        json!({"notBefore": now.plus(DAY * 40).to_string()}),
        json!({"notAfter": now.plus(DAY * 91).to_string()}),
        json!({"notAfter": now.minus(DAY).to_string()}),
        json!({"notBefore": now.plus(DAY * 2).to_string(), "notAfter": now.plus(DAY).to_string()}),
        json!({"notAfter": "tomorrow"}),
        json!({"notBefore": "2027-01-01"}),
        json!({"notBefore": 7}),
    ] {
        order(&client, asked).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn it_is_the_directory_s_choice() {
    let own = DirectoryConfig { client_validity: Some(true), ..DirectoryConfig::default() };
    let directories = [("default".to_owned(), DirectoryConfig::default()), ("free".to_owned(), own)];
    let ca = Ca::with(Config { directories: directories.into(), ..open_config() }).await;
    let asked = json!({"notAfter": ca.clock.now().plus(DAY).to_string()});
    let client = ca.client().await;
    order(&client, asked.clone()).await.assert_problem(400, "malformed");
    let mut free = Client::new(ca.router(), crate::support::Key::p256(), "free").await;
    free.register().await;
    assert_eq!(order(&free, asked).await.status, 201);
}

#[tokio::test]
async fn the_ca_keeps_dates_that_its_own_policy_admits_and_no_others() {
    // The front end admits what the CA does not.
    let ca = Ca::new().await;
    let generous = ca.restarted_with(&Config { client_validity: true, ..open_config() });
    let client = ca.client().await.on(generous.router());
    let placed = order(&client, json!({"notAfter": ca.clock.now().plus(DAY).to_string()})).await;
    ca.authorize(&client, &placed).await;
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    let refused = client.finalize(&placed, &csr).await;
    assert_eq!(refused.text("status"), "invalid", "{refused:?}");
    assert_eq!(refused.json["error"]["type"], "urn:ietf:params:acme:error:malformed");
}

#[tokio::test]
async fn an_order_that_waited_keeps_its_dates_or_fails() {
    let ca = choosing().await;
    let client = ca.client().await;
    let now = ca.clock.now().whole_seconds();
    let begins = order(&client, json!({"notBefore": now.to_string()})).await;
    let ends = order(&client, json!({"notAfter": now.plus(DAY).to_string()})).await;
    ca.clock.advance(DAY * 2);
    assert_eq!(dates(&ca, &client, &begins).await.0, now, "what was asked for, not what is usual");
    ca.authorize(&client, &ends).await;
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    let late = client.finalize(&ends, &csr).await;
    assert_eq!(late.text("status"), "invalid", "{late:?}");
    assert_eq!(late.json["error"]["type"], "urn:ietf:params:acme:error:malformed");
}
