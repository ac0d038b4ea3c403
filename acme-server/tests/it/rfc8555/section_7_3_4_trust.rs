//! RFC 8555 §7.3.4: a trusted external account vouches for its names, so that its accounts answer no challenge.

use std::time::Duration;

use ca_core::acme::external_account::GrantConfig;
use ca_core::acme::{AuthorizationState, ExternalAccount};
use ca_core::store::Change;
use ca_core::time::Clock;

use crate::support::external::{Eab, names};
use crate::support::key::{csr, subscriber_key};
use crate::support::{Answer, Ca, Client};

fn trusted(granted: &[&str]) -> GrantConfig {
    GrantConfig { trusted: true, wildcards: true, ..names(granted) }
}

async fn finalize(client: &Client, order: &Answer, names: &[&str]) -> Answer {
    client.finalize(order, &csr(&subscriber_key(), names)).await
}

/// The audit entries of an action, in JSON.
async fn logged(ca: &Ca, action: &str) -> Vec<serde_json::Value> {
    let entries = ca.store.audit(0, 1000).await.unwrap();
    let entries = entries.iter().map(|(_, entry)| serde_json::from_slice(entry).unwrap());
    entries.filter(|entry: &serde_json::Value| entry["action"] == action).collect()
}

#[tokio::test]
async fn the_authorization_is_born_valid_and_the_order_ready_and_the_log_says_by_whose_word() {
    let ca = Ca::new().await;
    let eab = ca.external(trusted(&[".mesh.example", "10.0.0.0/8"]), |_| {}).await;
    let client = ca.bound_client(&eab).await;
    let asked = ["a.mesh.example", "*.mesh.example", "10.0.0.1"];
    let order = client.new_order(&asked).await;
    assert_eq!((order.status, order.text("status")), (201, "ready"), "{order:?}");
    assert!(order.headers.get("retry-after").is_none());
    for url in order.list("authorizations") {
        let authorization = client.read(&url).await;
        assert_eq!(authorization.text("status"), "valid");
        assert_eq!(authorization.json["challenges"].as_array().map(Vec::len), Some(0), "none was validated");
    }
    let issued = finalize(&client, &order, &asked).await;
    assert_eq!(issued.json["status"], "valid", "{issued:?}");

    let entries = logged(&ca, "order_trusted").await;
    assert_eq!(entries.len(), 2, "when it was placed, and before its certificate was signed: {entries:?}");
    for entry in &entries {
        assert_eq!(entry["external_account"], eab.id.to_string());
        assert!(order.location().ends_with(entry["order"].as_str().unwrap()));
        assert_eq!(entry["identifiers"].as_array().map(Vec::len), Some(3));
    }
    assert!(entries[0]["actor"]["account"].is_string());
    assert_eq!(entries[1]["actor"], "authority");
    assert!(logged(&ca, "challenge_decided").await.is_empty());
}

#[tokio::test]
async fn trust_does_not_reach_beyond_the_names_that_were_listed() {
    let ca = Ca::new().await;
    let client = ca.bound_client(&ca.external(trusted(&[".mesh.example"]), |_| {}).await).await;
    client.new_order(&["other.example"]).await.assert_problem(400, "rejectedIdentifier");
    client.new_order(&["a.mesh.example", "other.example"]).await.assert_problem(400, "rejectedIdentifier");
    // Nor to accounts that are bound to something else, or to nothing.
    let plain = ca.bound_client(&ca.external(names(&[".mesh.example"]), |_| {}).await).await;
    for client in [plain, ca.client().await] {
        let order = client.new_order(&["a.mesh.example"]).await;
        assert_eq!((order.status, order.text("status")), (201, "pending"));
    }
    assert!(logged(&ca, "order_trusted").await.is_empty());
}

#[tokio::test]
async fn the_ca_does_not_take_the_word_of_an_external_account_that_was_revoked() {
    let ca = Ca::new().await;
    let eab = ca.external(trusted(&["a.example"]), |_| {}).await;
    let client = ca.bound_client(&eab).await;
    let order = client.new_order(&["a.example"]).await;
    ca.revoke_external(&eab).await;
    let failed = finalize(&client, &order, &["a.example"]).await;
    assert_eq!(failed.json["status"], "invalid", "{failed:?}");
    assert!(failed.json["error"]["detail"].as_str().unwrap().contains("was revoked"));
}

#[tokio::test]
async fn trust_ends_with_what_it_rests_on() {
    let ca = Ca::new().await;
    let ends = ca.clock.now().plus(Duration::from_secs(600));
    let soon = move |external: &mut ExternalAccount| external.expires_at = Some(ends);
    let client = ca.bound_client(&ca.external(trusted(&["a.example"]), soon).await).await;
    let order = client.new_order(&["a.example"]).await;
    let url = &order.list("authorizations")[0];
    assert_eq!(client.read(url).await.text("expires"), ends.to_string());
    ca.clock.advance(Duration::from_secs(600));
    assert_eq!(client.read(url).await.text("status"), "expired");
    assert_eq!(client.read(order.location()).await.text("status"), "invalid");
}

/// As a front end writes it that has gone bad: trust in a name that nobody listed, or of another external account.
async fn forge(ca: &Ca, client: &Client, eab: &Eab) -> Answer {
    let order = client.new_order(&["a.example"]).await;
    assert_eq!(order.text("status"), "pending");
    let id = order.list("authorizations")[0].rsplit('/').next().unwrap().parse().unwrap();
    let mut row = ca.store.authorization(id).await.unwrap().unwrap();
    row.state = AuthorizationState::Trusted { at: ca.clock.now(), external_account: eab.id };
    ca.put(Change::PutAuthorization(row)).await;
    finalize(client, &order, &["a.example"]).await
}

#[tokio::test]
async fn the_ca_judges_trust_by_itself() {
    let ca = Ca::new().await;
    let trusting = ca.external(trusted(&["a.example"]), |_| {}).await;
    let plain = ca.external(names(&["a.example"]), |_| {}).await;
    for (client, claimed) in [
        (ca.client().await, &trusting),
        (ca.bound_client(&plain).await, &trusting),
        (ca.bound_client(&plain).await, &plain),
    ] {
        let failed = forge(&ca, &client, claimed).await;
        assert_eq!(failed.json["status"], "invalid", "{failed:?}");
        assert_eq!(failed.json["error"]["type"], "urn:ietf:params:acme:error:unauthorized");
    }
    assert!(
        ca.store
            .certificates(Default::default(), None, 9)
            .await
            .unwrap()
            .rows
            .iter()
            .all(|row| { row.names.iter().all(|name| name.to_string() != "a.example") })
    );
}

#[tokio::test]
async fn a_trusted_account_may_revoke_what_others_got_for_its_names() {
    let ca = Ca::new().await;
    let owner = ca.client().await;
    let issued = ca.issue(&owner, &["a.example"]).await;
    let chain = owner.read(issued.text("certificate")).await;
    let certificate = crate::support::client::from_pem(&chain.body).remove(0);
    let eab = ca.external(trusted(&["a.example"]), |_| {}).await;
    let client = ca.bound_client(&eab).await;
    client.revoke(&certificate, None).await.assert_problem(403, "unauthorized");
    client.new_order(&["a.example"]).await;
    let revoked = client.revoke(&certificate, None).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
}

#[tokio::test]
async fn trust_that_was_withdrawn_revokes_nothing() {
    let ca = Ca::new().await;
    let owner = ca.client().await;
    let issued = ca.issue(&owner, &["a.example"]).await;
    let chain = owner.read(issued.text("certificate")).await;
    let certificate = crate::support::client::from_pem(&chain.body).remove(0);
    let eab = ca.external(trusted(&["a.example"]), |_| {}).await;
    let client = ca.bound_client(&eab).await;
    client.new_order(&["a.example"]).await;
    ca.revoke_external(&eab).await;
    client.revoke(&certificate, None).await.assert_problem(403, "unauthorized");
}
