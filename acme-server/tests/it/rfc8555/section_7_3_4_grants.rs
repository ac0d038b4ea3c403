//! RFC 8555 §7.3.4: what an account may order is what its directory admits, narrowed by what it is bound to.

use std::time::Duration;

use acme_server::config::Config;
use ca_core::acme::ExternalAccount;
use ca_core::acme::external_account::GrantConfig;
use ca_core::time::Clock;
use serde_json::json;

use crate::support::client::identifiers;
use crate::support::external::{anything, names};
use crate::support::key::{csr, subscriber_key};
use crate::support::{Answer, Ca, Client, open_config};

async fn finalize(client: &Client, order: &Answer, names: &[&str]) -> Answer {
    client.finalize(order, &csr(&subscriber_key(), names)).await
}

#[tokio::test]
async fn names_are_those_of_the_directory_and_of_the_grant() {
    let allowed = vec![".example.org".to_owned(), "10.0.0.0/8".to_owned()];
    let ca = Ca::with(Config { allowed_names: allowed, ..open_config() }).await;
    let grant = names(&[".web.example.org", "one.example.org", "10.1.0.0/16"]);
    let client = ca.bound_client(&ca.external(grant, |_| {}).await).await;
    for name in ["web.example.org", "a.b.web.example.org", "one.example.org", "10.1.2.3"] {
        assert_eq!(client.new_order(&[name]).await.status, 201, "{name}");
    }
    for name in ["two.example.org", "x.one.example.org", "10.2.0.1"] {
        let refused = client.new_order(&[name]).await;
        refused.assert_problem(400, "rejectedIdentifier");
        assert!(refused.text("detail").contains("does not grant"), "{refused:?}");
    }
    // What the directory does not admit a grant can't: each name has its own reason.
    let refused = client.new_order(&["web.example.org", "two.example.org", "web.example.com"]).await;
    refused.assert_problem(400, "rejectedIdentifier");
    let refused = client.new_order(&["*.web.example.org"]).await;
    refused.assert_problem(400, "rejectedIdentifier");
    assert!(refused.text("detail").contains("grants no wildcard names"), "{refused:?}");
    // An account that is bound to nothing is not narrowed.
    assert_eq!(ca.client().await.new_order(&["two.example.org", "*.example.org"]).await.status, 201);
}

#[tokio::test]
async fn profiles_challenges_and_lifetimes_are_narrowed() {
    let ca = Ca::new().await;
    let grant = GrantConfig {
        wildcards: true,
        profiles: vec!["tls-client".to_owned()],
        challenges: vec!["http-01".to_owned()],
        max_days: Some(7),
        ..GrantConfig::default()
    };
    let client = ca.bound_client(&ca.external(grant, |_| {}).await).await;

    // The default is the first profile that is granted.
    let order = client.new_order(&["10.0.0.1"]).await;
    assert_eq!((order.status, order.text("profile")), (201, "tls-client"), "{order:?}");
    let payload = json!({"identifiers": identifiers(&["10.0.0.1"]), "profile": "tls-server"});
    client.post(&client.resource("newOrder"), &payload).await.assert_problem(400, "invalidProfile");

    let authorization = client.read(&order.list("authorizations")[0]).await;
    let offered = authorization.json["challenges"].as_array().unwrap();
    assert_eq!(offered.iter().map(|offered| &offered["type"]).collect::<Vec<_>>(), ["http-01"]);
    let refused = client.new_order(&["*.a.example"]).await;
    refused.assert_problem(400, "rejectedIdentifier");
    assert!(refused.text("detail").contains("no challenge offered"), "{refused:?}");

    ca.authorize(&client, &order).await;
    let issued = finalize(&client, &order, &["10.0.0.1"]).await;
    assert_eq!(issued.json["status"], "valid", "{issued:?}");
    let page = ca.store.certificates(Default::default(), None, 1).await.unwrap();
    let record = &page.rows[0];
    let days = |span: Duration| span.as_secs().div_ceil(86_400);
    assert_eq!(days(record.not_after.since(record.not_before)), 7);
    assert_eq!(record.profile.as_str(), "tls-client");
}

#[tokio::test]
async fn a_longer_grant_does_not_lengthen_what_the_profile_says() {
    let ca = Ca::new().await;
    let grant = GrantConfig { max_days: Some(3650), ..anything() };
    let client = ca.bound_client(&ca.external(grant, |_| {}).await).await;
    assert_eq!(ca.issue(&client, &["a.example"]).await.json["status"], "valid");
    let page = ca.store.certificates(Default::default(), None, 1).await.unwrap();
    let record = &page.rows[0];
    assert_eq!(record.not_after.since(record.not_before).as_secs().div_ceil(86_400), 90);
}

#[tokio::test]
async fn after_its_external_account_has_ended_an_account_orders_nothing() {
    let ca = Ca::new().await;
    let now = ca.clock.now();
    let ends = move |external: &mut ExternalAccount| {
        external.expires_at = Some(now.plus(Duration::from_secs(3600)));
    };
    let (revoked, expiring) = (ca.external(anything(), |_| {}).await, ca.external(anything(), ends).await);
    let (one, other) = (ca.bound_client(&revoked).await, ca.bound_client(&expiring).await);
    assert_eq!(one.new_order(&["a.example"]).await.status, 201);
    assert_eq!(other.new_order(&["a.example"]).await.status, 201);
    ca.revoke_external(&revoked).await;
    ca.clock.advance(Duration::from_secs(3600));
    for (client, said) in [(&one, "was revoked"), (&other, "expired at")] {
        let refused = client.new_order(&["a.example"]).await;
        refused.assert_problem(403, "unauthorized");
        assert!(refused.text("detail").contains(said), "{refused:?}");
        // The account itself is as it was.
        assert_eq!(client.read(client.kid.as_deref().unwrap()).await.text("status"), "valid");
    }
}

#[tokio::test]
async fn an_order_under_way_fails_with_the_reason_when_its_external_account_is_revoked() {
    let ca = Ca::new().await;
    let eab = ca.external(anything(), |_| {}).await;
    let client = ca.bound_client(&eab).await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    ca.revoke_external(&eab).await;
    let failed = finalize(&client, &order, &["a.example"]).await;
    assert_eq!(failed.json["status"], "invalid", "{failed:?}");
    assert_eq!(failed.json["error"]["type"], "urn:ietf:params:acme:error:unauthorized");
    assert!(failed.json["error"]["detail"].as_str().unwrap().contains("was revoked"), "{failed:?}");
}

#[tokio::test]
async fn a_new_account_key_keeps_what_the_account_is_bound_to() {
    let ca = Ca::new().await;
    let eab = ca.external(names(&["a.example"]), |_| {}).await;
    let client = ca.bound_client(&eab).await;
    let url = client.kid.clone().unwrap();
    let changed = client.post(&url, &json!({"contact": ["mailto:a@example.org"]})).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert!(changed.json["externalAccountBinding"].is_object());
    client.new_order(&["b.example"]).await.assert_problem(400, "rejectedIdentifier");
}
