//! draft-ietf-acme-profiles: what the directory tells of profiles, and orders whose profile was withdrawn.

use acme_server::Service;
use acme_server::config::Config;
use ca_core::profile::{Profile, ProfileConfig, Usage};
use serde_json::json;

use crate::support::client::identifiers;
use crate::support::{Ca, Key, key, open_config};

#[tokio::test]
async fn section_3_the_directory_describes_each_profile() {
    let mut ca = Ca::new().await;
    let config = ProfileConfig {
        usage: Usage::TlsServer,
        validity_days: 90,
        backdate_minutes: 5,
        description: Some("For web servers; see https://ca.test/profiles#tls-server".to_owned()),
    };
    ca.profiles[0] = Profile::new("tls-server".to_owned().try_into().unwrap(), &config).unwrap();
    ca.service = ca.restarted();
    let meta = &ca.stranger(Key::p256()).await.directory["meta"];
    assert_eq!(
        meta["profiles"],
        json!({
            "tls-server": "For web servers; see https://ca.test/profiles#tls-server",
            "tls-client": "certificates for TLS clients, valid for 90 days",
        })
    );
}

#[tokio::test]
async fn section_4_an_order_keeps_its_profile_and_finalize_refuses_one_that_was_withdrawn() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let payload = json!({"identifiers": identifiers(&["a.example"]), "profile": "tls-client"});
    let order = client.post(&client.resource("newOrder"), &payload).await;
    assert_eq!((order.status, order.text("profile")), (201, "tls-client"));
    ca.authorize(&client, &order).await;

    let servers_only: Service =
        ca.restarted_with(&Config { profiles: vec!["tls-server".to_owned()], ..open_config() });
    let client = client.on(servers_only.router());
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    client.finalize(&order, &csr).await.assert_problem(400, "invalidProfile");
    let shown = client.read(order.location()).await;
    assert_eq!((shown.text("status"), shown.text("profile")), ("ready", "tls-client"));
    let payload = json!({"identifiers": identifiers(&["a.example"]), "profile": "tls-client"});
    client.post(&client.resource("newOrder"), &payload).await.assert_problem(400, "invalidProfile");

    // It comes back, and so does the order.
    let client = client.on(ca.router());
    assert_eq!(client.finalize(&order, &csr).await.text("status"), "valid");
}

#[tokio::test]
async fn section_4_the_ca_refuses_a_profile_that_only_the_front_end_offers() {
    let ca = Ca::with(Config { profiles: vec!["tls-server".to_owned()], ..open_config() }).await;
    let generous = ca.restarted_with(&open_config());
    let client = ca.client().await.on(generous.router());
    let payload = json!({"identifiers": identifiers(&["a.example"]), "profile": "tls-client"});
    let order = client.post(&client.resource("newOrder"), &payload).await;
    ca.authorize(&client, &order).await;
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    let refused = client.finalize(&order, &csr).await;
    assert_eq!(refused.text("status"), "invalid", "{refused:?}");
    assert_eq!(refused.json["error"]["type"], "urn:ietf:params:acme:error:invalidProfile");
}
