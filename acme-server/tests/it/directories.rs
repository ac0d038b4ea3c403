//! Directories that issue from issuing CAs of their own.

use acme_server::config::{Config, DirectoryConfig};
use ca_core::audit::Actor;
use ca_core::authority::NewCa;
use ca_core::signing::{KeyAlgorithm, SignatureAlgorithm};

use crate::support::{Ca, Client, Key, key, open_config};

/// Directories `default` without an issuer, and `own` with this one.
fn with_issuer(id: &str) -> Config {
    let own = DirectoryConfig { issuer: Some(id.to_owned()), ..DirectoryConfig::default() };
    let directories = [("default".to_owned(), DirectoryConfig::default()), ("own".to_owned(), own)];
    Config { directories: directories.into(), ..open_config() }
}

async fn second_issuer(ca: &Ca) {
    let new = NewCa {
        organisation: "Second".to_owned(),
        key_algorithm: KeyAlgorithm::EcP256,
        signature_algorithm: SignatureAlgorithm::EcdsaSha256,
        trial: true,
        shards: 1,
        actor: Actor::Authority,
    };
    ca.effects.create_issuing(&new, &"root-1".parse().unwrap()).await.unwrap();
}

async fn client_in(ca: &Ca, directory: &str) -> Client {
    let mut client = Client::new(ca.router(), Key::p256(), directory).await;
    client.register().await;
    client
}

#[tokio::test]
async fn each_directory_issues_from_its_issuer_and_the_others_from_the_newest() {
    let ca = Ca::with(with_issuer("issuing-1")).await;
    second_issuer(&ca).await;
    for (directory, issuer) in [("default", "issuing-2"), ("own", "issuing-1"), ("default", "issuing-2")] {
        let client = client_in(&ca, directory).await;
        let order = ca.issue(&client, &["a.example"]).await;
        let url = order.text("certificate");
        assert!(url.contains(&format!("/certificate/{issuer}-")), "{directory}: {url}");
    }
    assert_eq!(ca.service.readiness().await, Ok(()));
    ca.effects.health().await.unwrap();
}

#[tokio::test]
async fn a_directory_whose_issuer_is_not_there_fails_its_orders_and_says_so() {
    for wrong in ["issuing-7", "root-1"] {
        let ca = Ca::with(with_issuer(wrong)).await;
        let problem = ca.service.readiness().await.unwrap_err();
        assert!(problem.contains("acme.directories.own.issuer") && problem.contains(wrong), "{problem}");
        let problem = ca.effects.health().await.unwrap_err().to_string();
        assert!(problem.contains("acme.directories.own.issuer") && problem.contains(wrong), "{problem}");

        let client = client_in(&ca, "own").await;
        let order = client.new_order(&["a.example"]).await;
        ca.authorize(&client, &order).await;
        let csr = key::csr(&key::subscriber_key(), &["a.example"]);
        let failed = client.finalize(&order, &csr).await;
        assert_eq!(failed.text("status"), "invalid", "{failed:?}");
        assert_eq!(failed.json["error"]["type"], "urn:ietf:params:acme:error:serverInternal");
        assert!(!failed.json["error"]["detail"].as_str().unwrap().contains(wrong), "that is the operator's");

        let client = client_in(&ca, "default").await;
        assert_eq!(ca.issue(&client, &["a.example"]).await.text("status"), "valid");
    }
}

#[test]
fn what_is_no_issuer_id_is_refused() {
    assert_eq!(with_issuer("Issuing 2").directories().unwrap_err().key, "acme.directories.own.issuer");
    let config = Config { issuer: Some("\u{e9}".to_owned()), ..open_config() };
    assert_eq!(config.directories().unwrap_err().key, "acme.issuer");
}
