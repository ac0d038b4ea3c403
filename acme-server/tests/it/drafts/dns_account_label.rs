//! draft-ietf-acme-dns-account-label-03: a TXT record whose name is the account's own.

use acme_server::config::Config;
use ca_core::acme::challenge::{Challenge, ChallengeType, Claimant, Probe};
use ca_core::acme::{DnsName, Identifier};
use ca_core::random::SystemRandom;
use serde_json::json;

use crate::support::{Ca, open_config};

fn offering() -> Config {
    Config { challenges: vec!["dns-account-01".to_owned()], ..open_config() }
}

#[test]
fn the_label_is_that_of_the_draft_s_example() {
    let claimant = Claimant {
        thumbprint: ca_core::acme::account::Thumbprint([0; 32]),
        former: Vec::new(),
        account_url: "https://example.com/acme/acct/ExampleAccount".to_owned(),
        account_hash_prefix: String::new(),
        issuer_domain_names: Vec::new(),
    };
    let challenge = Challenge::generate(ChallengeType::DnsAccount01, &mut SystemRandom);
    let name = Identifier::Dns(DnsName::parse("example.org").unwrap());
    let expected = "_ujmmovf2vn55tgye._acme-challenge.example.org".to_owned();
    assert_eq!(challenge.probe(&name, &claimant), Some(Probe::Txt { name: expected }));
}

#[tokio::test]
async fn two_accounts_prove_one_name_at_once_each_at_its_own_place() {
    let ca = Ca::with(offering()).await;
    for client in [ca.client().await, ca.client().await] {
        for name in ["a.example", "*.a.example"] {
            let order = client.new_order(&[name]).await;
            let authorization = client.read(&order.list("authorizations")[0]).await;
            let challenge = authorization.challenge("dns-account-01");
            ca.prober.provide_dns_account(&authorization, &challenge, &client);
            let answer = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
            assert_eq!(answer.text("status"), "valid", "{answer:?}");
            assert_eq!(client.read(order.location()).await.text("status"), "ready");
        }
    }
    // What the one published is of no use to another.
    let stranger = ca.client().await;
    let order = stranger.new_order(&["a.example"]).await;
    let authorization = stranger.read(&order.list("authorizations")[0]).await;
    let url = authorization.challenge("dns-account-01")["url"].as_str().unwrap().to_owned();
    let answer = stranger.post(&url, &json!({})).await;
    assert_eq!(answer.text("status"), "invalid");
    assert!(answer.json["error"]["detail"].as_str().unwrap().contains("._acme-challenge.a.example"));
}
