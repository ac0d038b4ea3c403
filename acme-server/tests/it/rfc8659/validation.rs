//! RFC 8659 as a requester meets it: in the directory, at a challenge, and at finalize.

use std::time::Duration;

use acme_server::config::Config;
use ca_core::acme::AuthorizationState;
use ca_core::acme::caa::CaaFinding;
use ca_core::acme::challenge::{Attempt, ChallengeState};
use ca_core::id::{AuthorizationId, ExternalAccountId};
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit};
use ca_core::time::Clock;
use serde_json::json;

use super::checking;
use crate::support::key::{csr, subscriber_key};
use crate::support::{Answer, Ca, Client, open_config};

const HOURS_8: Duration = Duration::from_hours(8);

/// Answers a challenge of a new order for one name; gives the challenge, and its authorization's URL.
async fn respond(ca: &Ca, client: &Client, name: &str, kind: &str) -> (Answer, String) {
    let url = client.new_order(&[name]).await.list("authorizations").remove(0);
    let authorization = client.read(&url).await;
    let challenge = authorization.challenge(kind);
    ca.prober.provide(&authorization, &challenge, &client.key);
    let mut answer = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    while answer.text("status") == "processing" {
        answer = client.read(challenge["url"].as_str().unwrap()).await;
    }
    (answer, url)
}

/// The attempts of an authorization's only decided challenge.
async fn attempts(ca: &Ca, url: &str) -> Vec<Attempt> {
    let id: AuthorizationId = url.rsplit('/').next().unwrap().parse().unwrap();
    let row = ca.store.authorization(id).await.unwrap().unwrap();
    let decided = row.challenges.into_iter().find_map(|challenge| match challenge.state {
        ChallengeState::Valid { attempts, .. } | ChallengeState::Invalid { attempts, .. } => Some(attempts),
        ChallengeState::Pending | ChallengeState::Processing { .. } => None,
    });
    decided.unwrap()
}

#[tokio::test]
async fn the_directory_names_its_identities_where_records_are_looked_at() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    assert_eq!(client.directory["meta"]["caaIdentities"], json!(["ca.example.org", "ca2.example.org"]));
    let ca = Ca::with(Config { caa: "off".to_owned(), ..checking() }).await;
    let client = ca.client().await;
    assert_eq!(client.directory["meta"].get("caaIdentities"), None);
}

#[tokio::test]
async fn records_are_not_looked_at_unless_that_is_switched_on() {
    let ca = Ca::with(open_config()).await;
    let client = ca.client().await;
    ca.prober.put_caa("example", &[(0, "issue", ";")]);
    let (answer, url) = respond(&ca, &client, "a.example", "dns-01").await;
    assert_eq!(answer.text("status"), "valid", "{answer:?}");
    assert_eq!(attempts(&ca, &url).await[0].caa, None);
    assert_eq!(ca.prober.probes(), 1);
}

#[tokio::test]
async fn a_name_is_validated_if_its_records_permit_it_and_the_finding_is_kept() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    ca.prober.put_caa("b.example", &[(0, "issue", "ca2.example.org")]);
    for (name, found) in [
        ("a.example", CaaFinding::Absent),
        ("x.b.example", CaaFinding::Permitted { domain: "b.example".to_owned() }),
    ] {
        let (answer, url) = respond(&ca, &client, name, "http-01").await;
        assert_eq!(answer.text("status"), "valid", "{answer:?}");
        assert_eq!(attempts(&ca, &url).await[0].caa, Some(found));
    }
    let valid = ca.issue(&client, &["a.example", "x.b.example", "*.b.example"]).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
}

#[tokio::test]
async fn a_name_whose_records_forbid_it_is_refused_with_the_reason() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    ca.prober.put_caa("example.com", &[(0, "issue", "other.example.net")]);
    let (answer, url) = respond(&ca, &client, "www.example.com", "dns-01").await;
    assert_eq!(answer.text("status"), "invalid", "{answer:?}");
    let error = &answer.json["error"];
    assert_eq!((&error["type"], &error["status"]), (&json!("urn:ietf:params:acme:error:caa"), &json!(403)));
    let detail = error["detail"].as_str().unwrap();
    assert!(
        detail.contains("at example.com") && detail.contains("ca.example.org or ca2.example.org"),
        "{detail}"
    );
    let subproblems = error["subproblems"].as_array().unwrap();
    assert_eq!(subproblems.len(), 1, "it stands and is not tried again");
    assert_eq!(subproblems[0]["type"], "urn:ietf:params:acme:error:caa");
    assert_eq!(subproblems[0]["identifier"]["value"], "www.example.com");
    assert_eq!(client.read(&url).await.text("status"), "invalid");
    assert_eq!(ca.metric("acme_validation_seconds_count{challenge=\"dns-01\",outcome=\"caa\"}"), 1.0);
}

#[tokio::test]
async fn a_failed_challenge_is_told_before_the_records_that_forbid_it_too() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    ca.prober.put_caa("example", &[(0, "issue", ";")]);
    let order = client.new_order(&["a.example"]).await;
    let challenge = client.read(&order.list("authorizations")[0]).await.challenge("dns-01");
    let answer = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    let error = &answer.json["error"];
    assert_eq!(error["type"], "urn:ietf:params:acme:error:unauthorized", "{answer:?}");
    let kinds: Vec<_> = error["subproblems"].as_array().unwrap().iter().map(|p| p["type"].clone()).collect();
    assert_eq!(kinds, ["urn:ietf:params:acme:error:unauthorized", "urn:ietf:params:acme:error:caa"]);
}

#[tokio::test]
async fn a_wildcard_name_is_judged_by_issuewild() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    ca.prober.put_caa("a.example", &[(0, "issue", "ca.example.org"), (0, "issuewild", ";")]);
    assert_eq!(respond(&ca, &client, "a.example", "dns-01").await.0.text("status"), "valid");
    let refused = respond(&ca, &client, "*.a.example", "dns-01").await.0;
    assert_eq!(refused.json["error"]["type"], "urn:ietf:params:acme:error:caa");
    assert!(refused.json["error"]["detail"].as_str().unwrap().contains("issuewild"), "{refused:?}");
}

#[tokio::test]
async fn a_look_up_that_fails_refuses_and_is_tried_again() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    ca.prober.break_caa("example");
    let (answer, url) = respond(&ca, &client, "a.example", "dns-01").await;
    assert_eq!(answer.json["error"]["type"], "urn:ietf:params:acme:error:dns");
    assert!(answer.json["error"]["detail"].as_str().unwrap().contains("CAA"), "{answer:?}");
    assert_eq!(attempts(&ca, &url).await.len(), 3);
}

#[tokio::test]
async fn addresses_have_no_records() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    let (answer, url) = respond(&ca, &client, "192.0.2.1", "http-01").await;
    assert_eq!(answer.text("status"), "valid", "{answer:?}");
    assert_eq!(attempts(&ca, &url).await[0].caa, None);
    ca.clock.advance(HOURS_8 * 2);
    let valid = ca.issue(&client, &["192.0.2.1"]).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
    assert_eq!(ca.prober.probes(), 2);
}

#[tokio::test]
async fn section_4_records_are_looked_at_again_at_finalize_after_8_hours() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    let names = ["a.example", "*.b.example", "c.example"];
    let request = csr(&subscriber_key(), &names);
    let order = client.new_order(&names).await;
    ca.authorize(&client, &order).await;
    ca.prober.put_caa("b.example", &[(0, "issuewild", ";")]);
    ca.prober.put_caa("c.example", &[(0, "issue", "other.example.net")]);
    let before = ca.prober.probes();
    ca.clock.advance(HOURS_8 + Duration::from_secs(60));

    let refused = client.finalize(&order, &request).await;
    refused.assert_problem(403, "caa");
    let subproblems = refused.json["subproblems"].as_array().unwrap();
    let about: Vec<_> = subproblems.iter().map(|problem| problem["identifier"]["value"].clone()).collect();
    assert_eq!(about, ["*.b.example", "c.example"]);
    assert!(subproblems.iter().all(|problem| problem["type"] == "urn:ietf:params:acme:error:caa"));
    assert_eq!(ca.prober.probes(), before + 3, "one look at each name");
    assert_eq!(client.read(order.location()).await.text("status"), "ready");

    ca.prober.put_caa("b.example", &[(0, "issuewild", "ca.example.org")]);
    ca.prober.break_caa("c.example");
    let unclear = client.finalize(&order, &request).await;
    unclear.assert_problem(400, "dns");
    assert_eq!(unclear.json["subproblems"].as_array().unwrap().len(), 1);

    ca.prober.put_caa("c.example", &[(0, "issue", "ca.example.org")]);
    let valid = client.finalize(&order, &request).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
}

#[tokio::test]
async fn a_fresh_look_is_enough_at_finalize() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    let before = ca.prober.probes();
    ca.prober.put_caa("a.example", &[(0, "issue", ";")]);
    ca.clock.advance(HOURS_8 - Duration::from_secs(60));
    let valid = client.finalize(&order, &csr(&subscriber_key(), &["a.example"])).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
    assert_eq!(ca.prober.probes(), before);
}

#[tokio::test]
async fn a_request_that_is_refused_anyway_costs_no_look() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    let before = ca.prober.probes();
    ca.clock.advance(HOURS_8 * 2);
    client.finalize(&order, &csr(&subscriber_key(), &["b.example"])).await.assert_problem(400, "badCSR");
    assert_eq!(ca.prober.probes(), before);
}

#[tokio::test]
async fn a_name_that_needed_no_challenge_is_looked_up_at_finalize() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    let id: AuthorizationId = order.list("authorizations")[0].rsplit('/').next().unwrap().parse().unwrap();
    let mut row = ca.store.authorization(id).await.unwrap().unwrap();
    row.state = AuthorizationState::Trusted {
        at: ca.clock.now(),
        external_account: ExternalAccountId::generate(ca.clock.now(), &mut SystemRandom),
    };
    let commit = Commit { changes: vec![Change::PutAuthorization(row)], ..Commit::default() };
    ca.store.commit(commit).await.unwrap();
    ca.prober.put_caa("a.example", &[(0, "issue", ";")]);
    let refused = client.finalize(&order, &csr(&subscriber_key(), &["a.example"])).await;
    refused.assert_problem(403, "caa");
    assert_eq!(ca.prober.probes(), 1);
}
