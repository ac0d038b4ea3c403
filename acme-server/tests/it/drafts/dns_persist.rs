//! draft-ietf-acme-dns-persist-02: a TXT record that stands for long and names CA and account.

use std::time::Duration;

use acme_server::config::Config;
use ca_core::acme::persist::hashed_account_uri;
use ca_core::time::{Clock, Timestamp};
use serde_json::json;

use crate::rfc8555::change;
use crate::support::{Answer, Ca, Client, Key, open_config};

fn offering() -> Config {
    Config {
        challenges: vec!["dns-persist-01".to_owned()],
        caa_identities: vec!["ca.example.org".to_owned()],
        ..open_config()
    }
}

fn record(client: &Client, domain: &str, more: &str) -> String {
    let prefix = client.directory["meta"]["accountHashPrefix"].as_str().unwrap();
    let key = client.key.thumbprint().try_into().unwrap();
    let uri = hashed_account_uri(prefix, domain, &key, client.kid.as_ref().unwrap());
    format!("ca.example.org; accounturi={uri}{more}")
}

/// Orders a name and says that its record is there; gives the challenge and the order's URL.
async fn attempt(client: &Client, name: &str) -> (Answer, String) {
    let order = client.new_order(&[name]).await;
    let authorization = client.read(&order.list("authorizations")[0]).await;
    let challenge = authorization.challenge("dns-persist-01");
    assert!(challenge.get("token").is_none(), "§3.1: it has no token");
    assert_eq!(challenge["issuerDomainNames"], json!(["ca.example.org"]));
    let answer = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    (answer, order.list("authorizations").remove(0))
}

#[tokio::test]
async fn section_4_5_a_record_published_before_any_order_serves_every_order() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    ca.prober.put_txt("_validation-persist.a.example", &record(&client, "a.example", ""));
    for _ in 0..2 {
        assert_eq!(attempt(&client, "a.example").await.0.text("status"), "valid");
    }
    let (wildcard, _) = attempt(&client, "*.a.example").await;
    assert_eq!(wildcard.text("status"), "invalid", "§5.1");
    let (stranger, _) = attempt(&ca.client().await, "a.example").await;
    assert_eq!(stranger.json["error"]["type"], "urn:ietf:params:acme:error:unauthorized");
}

#[tokio::test]
async fn section_5_1_the_wildcard_policy_admits_wildcards() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let any = record(&client, "*", "; policy=wildcard");
    ca.prober.put_txt("_validation-persist.a.example", &any);
    for name in ["a.example", "*.a.example"] {
        assert_eq!(attempt(&client, name).await.0.text("status"), "valid", "{name}");
    }
}

#[tokio::test]
async fn section_4_2_a_record_made_with_the_account_s_former_key_goes_on_to_serve() {
    let ca = Ca::with(offering()).await;
    let mut client = ca.client().await;
    ca.prober.put_txt("_validation-persist.a.example", &record(&client, "a.example", ""));
    let key = Key::p256();
    assert_eq!(change(&client, &key, |_, _| {}).await.status, 200);
    client.key = key;
    assert_eq!(attempt(&client, "a.example").await.0.text("status"), "valid");
}

#[tokio::test]
async fn section_4_2_the_eight_newest_former_keys_are_kept() {
    let ca = Ca::with(offering()).await;
    let mut client = ca.client().await;
    let mut former = Vec::new();
    for _ in 0..10 {
        former.push(client.key.thumbprint());
        let key = Key::p256();
        assert_eq!(change(&client, &key, |_, _| {}).await.status, 200);
        client.key = key;
    }
    let id = client.kid.as_ref().unwrap().rsplit('/').next().unwrap().parse().unwrap();
    let kept = ca.store.account(id).await.unwrap().unwrap().former_keys;
    assert_eq!(kept.iter().map(ToString::to_string).collect::<Vec<_>>(), former[2..]);
}

#[tokio::test]
async fn section_4_1_an_authorization_ends_when_its_record_does() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let now = ca.clock.now();
    let until = Timestamp::from_millis(now.plus(Duration::from_hours(1)).as_millis() / 1000 * 1000);
    let more = format!("; persistUntil={}", until.as_millis() / 1000);
    ca.prober.put_txt("_validation-persist.a.example", &record(&client, "a.example", &more));
    let (answer, url) = attempt(&client, "a.example").await;
    assert_eq!(answer.text("status"), "valid");
    assert_eq!(client.read(&url).await.text("expires"), until.to_string());
    ca.clock.advance(Duration::from_hours(2));
    assert_eq!(client.read(&url).await.text("status"), "expired");
    assert_eq!(attempt(&client, "a.example").await.0.text("status"), "invalid");
}

#[tokio::test]
async fn section_3_2_the_directory_says_what_a_record_needs_only_where_it_is_offered() {
    let offered = Ca::with(offering()).await;
    let meta = offered.client().await.directory["meta"].clone();
    assert_eq!(meta["issuerDomainNames"], json!(["ca.example.org"]));
    let other = Ca::new().await;
    let meta = other.client().await.directory["meta"].clone();
    assert_eq!((meta.get("issuerDomainNames"), meta.get("accountHashPrefix")), (None, None));
    let nameless = Config { caa_identities: Vec::new(), ..offering() };
    assert_eq!(nameless.directories().unwrap_err().key, "acme.caa_identities");
}

#[tokio::test]
async fn section_9_3_1_a_record_with_an_error_is_malformed() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    ca.prober.put_txt("_validation-persist.a.example", "ca.example.org; persistUntil=soon");
    let (answer, _) = attempt(&client, "a.example").await;
    assert_eq!(answer.json["error"]["type"], "urn:ietf:params:acme:error:malformed");
}
