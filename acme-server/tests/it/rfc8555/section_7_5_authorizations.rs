//! RFC 8555 §7.5 and §8: authorizations and challenges.

use std::time::Duration;

use acme_server::config::Config;
use ca_core::acme::challenge::{FailureKind, ValidationFailure};
use ca_core::acme::{AuthorizationState, ChallengeState};
use ca_core::id::AuthorizationId;
use serde_json::json;

use crate::support::{Answer, Ca, Client, open_config};

/// The authorization of a new order for one name, and its URL.
async fn authorization(client: &Client, name: &str) -> (Answer, String) {
    let url = client.new_order(&[name]).await.list("authorizations").remove(0);
    (client.read(&url).await, url)
}

fn url_of(authorization: &Answer, kind: &str) -> String {
    authorization.challenge(kind)["url"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pending_authorization_shows_the_challenges_that_can_prove_it() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    for (name, identifier, kinds, wildcard) in [
        ("a.example", "a.example", vec!["http-01", "dns-01", "tls-alpn-01"], None),
        ("*.a.example", "a.example", vec!["dns-01"], Some(&json!(true))),
        ("192.0.2.1", "192.0.2.1", vec!["http-01", "tls-alpn-01"], None),
    ] {
        let (answer, _) = authorization(&client, name).await;
        assert_eq!(answer.text("status"), "pending");
        assert_eq!(answer.json["identifier"]["value"], identifier);
        assert_eq!(answer.json.get("wildcard"), wildcard);
        let challenges = answer.json["challenges"].as_array().unwrap();
        let shown: Vec<_> = challenges.iter().map(|c| c["type"].as_str().unwrap()).collect();
        assert_eq!(shown, kinds);
        assert!(
            challenges.iter().all(|c| c["status"] == "pending" && c["token"].as_str().unwrap().len() == 43)
        );
        assert!(!answer.headers.contains_key("retry-after"), "it waits for the client");
    }
}

#[tokio::test]
async fn a_response_is_answered_with_the_outcome_and_costs_one_commit() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let (pending, url) = authorization(&client, "a.example").await;
    ca.prober.provide(&pending, &pending.challenge("http-01"), &client.key);
    let answer = client.post(&url_of(&pending, "http-01"), &json!({})).await;
    assert_eq!((answer.status, answer.text("status")), (200, "valid"), "{answer:?}");
    assert!(ca_core::time::Timestamp::from_rfc3339(answer.text("validated")).is_some());
    assert_eq!(answer.links("up"), std::slice::from_ref(&url));
    assert!(!answer.headers.contains_key("retry-after"));

    let valid = client.read(&url).await;
    assert_eq!(valid.text("status"), "valid");
    assert_eq!(valid.json["challenges"].as_array().unwrap().len(), 1, "the one that succeeded");
    let id: AuthorizationId = url.rsplit('/').next().unwrap().parse().unwrap();
    let row = ca.store.authorization(id).await.unwrap().unwrap();
    assert_eq!(row.version.0, 2, "acceptance and outcome together");
    let again = client.post(&url_of(&pending, "http-01"), &json!({})).await;
    assert_eq!(again.text("status"), "valid");
    assert_eq!(ca.prober.probes(), 1);
    assert_eq!(ca.metric("acme_validation_seconds_count{challenge=\"http-01\",outcome=\"valid\"}"), 1.0);
}

#[tokio::test]
async fn a_failure_shows_what_was_seen() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let (pending, url) = authorization(&client, "a.example").await;
    let token = pending.challenge("http-01")["token"].as_str().unwrap().to_owned();
    ca.prober.put_http(&format!("a.example/.well-known/acme-challenge/{token}"), 404, "nothing here");
    let failed = client.post(&url_of(&pending, "http-01"), &json!({})).await;
    assert_eq!((failed.status, failed.text("status")), (200, "invalid"));
    let error = &failed.json["error"];
    assert_eq!(error["type"], "urn:ietf:params:acme:error:unauthorized");
    assert!(error["detail"].as_str().unwrap().contains("status 404"), "{error}");
    let attempts = error["subproblems"].as_array().unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["identifier"]["value"], "a.example");
    assert!(attempts[0]["detail"].as_str().unwrap().contains("192.0.2.1:80"));

    let invalid = client.read(&url).await;
    assert_eq!(invalid.text("status"), "invalid");
    assert_eq!(invalid.json["challenges"].as_array().unwrap().len(), 1, "the one that was tried");
    let other = client.post(&url_of(&pending, "dns-01"), &json!({})).await;
    other.assert_problem(400, "malformed");
}

#[tokio::test]
async fn each_attempt_is_kept_for_the_requester() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let (pending, url) = authorization(&client, "a.example").await;
    let failure = ValidationFailure::new(FailureKind::Dns, "SERVFAIL");
    ca.prober.put("_acme-challenge.a.example", Err(failure));
    let mut answer = client.post(&url_of(&pending, "dns-01"), &json!({})).await;
    assert_eq!((answer.text("status"), answer.header("retry-after")), ("processing", "1"));
    while answer.text("status") == "processing" {
        answer = client.read(&url_of(&pending, "dns-01")).await;
    }
    assert_eq!(answer.json["error"]["type"], "urn:ietf:params:acme:error:dns");
    assert_eq!(answer.json["error"]["subproblems"].as_array().unwrap().len(), 3);
    assert_eq!(client.read(&url).await.text("status"), "invalid");
}

#[tokio::test]
async fn an_outcome_that_does_not_come_at_once_is_processing_and_wakes_a_poll() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    let url = order.list("authorizations").remove(0);
    let pending = client.read(&url).await;
    ca.prober.provide(&pending, &pending.challenge("dns-01"), &client.key);
    ca.prober.hold();
    let answer = client.post(&url_of(&pending, "dns-01"), &json!({})).await;
    assert_eq!((answer.text("status"), answer.header("retry-after")), ("processing", "1"));
    let id: AuthorizationId = url.rsplit('/').next().unwrap().parse().unwrap();
    let row = ca.store.authorization(id).await.unwrap().unwrap();
    assert!(
        matches!(row.challenges[1].state, ChallengeState::Processing { .. }),
        "the acceptance is committed"
    );
    let polled = client.read(&url).await;
    assert_eq!((polled.text("status"), polled.header("retry-after")), ("pending", "1"));
    let again = client.post(&url_of(&pending, "dns-01"), &json!({})).await;
    assert_eq!(again.text("status"), "processing");
    assert_eq!(ca.prober.probes(), 1, "one validation at a time for a challenge");
    assert_eq!(ca.metric("acme_validations_in_flight"), 1.0);

    let release = async { ca.prober.release() };
    let (order, ()) = tokio::join!(client.read(order.location()), release);
    assert_eq!(order.text("status"), "ready", "the poll of the order waits for the authorization");
    assert_eq!(client.read(&url).await.text("status"), "valid");
    assert_eq!(ca.prober.probes(), 1);
}

#[tokio::test]
async fn a_response_may_have_members_and_must_be_an_object() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let (pending, _) = authorization(&client, "a.example").await;
    ca.prober.provide(&pending, &pending.challenge("dns-01"), &client.key);
    let url = url_of(&pending, "dns-01");
    for wrong in [json!("x"), json!(1), json!(null)] {
        client.post(&url, &wrong).await.assert_problem(400, "malformed");
    }
    assert_eq!(client.read(&url).await.text("status"), "pending", "reading accepts nothing");
    let legacy = json!({"keyAuthorization": "x", "resource": "challenge"});
    assert_eq!(client.post(&url, &legacy).await.text("status"), "valid");
}

#[tokio::test]
async fn challenges_that_are_not_there_are_not_found() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let (pending, url) = authorization(&client, "*.a.example").await;
    assert_eq!(pending.json["challenges"].as_array().unwrap().len(), 1);
    for kind in ["http-01", "dns-02", "x"] {
        client.post(&format!("{url}/{kind}"), &json!({})).await.assert_problem(404, "malformed");
    }
    client.read(&url.replace("/authorization/", "/authorization/x")).await.assert_problem(404, "malformed");
}

#[tokio::test]
async fn section_7_5_2_an_authorization_is_deactivated_and_its_order_with_it() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    let url = order.list("authorizations").remove(0);
    for wrong in [json!({}), json!({"status": "valid"}), json!({"status": "revoked"})] {
        client.post(&url, &wrong).await.assert_problem(400, "malformed");
    }
    for _ in 0..2 {
        let answer = client.post(&url, &json!({"status": "deactivated"})).await;
        assert_eq!((answer.status, answer.text("status")), (200, "deactivated"));
    }
    assert_eq!(client.read(order.location()).await.text("status"), "invalid");
    let authorization = client.read(&url).await;
    let respond = client.post(&url_of(&authorization, "dns-01"), &json!({})).await;
    respond.assert_problem(400, "malformed");
}

#[tokio::test]
async fn an_authorization_given_up_while_it_is_validated_stays_given_up() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let (pending, url) = authorization(&client, "a.example").await;
    ca.prober.provide(&pending, &pending.challenge("dns-01"), &client.key);
    ca.prober.hold();
    client.post(&url_of(&pending, "dns-01"), &json!({})).await;
    client.post(&url, &json!({"status": "deactivated"})).await;
    ca.prober.release();
    while ca.metric("acme_validations_in_flight") > 0.0 {
        tokio::task::yield_now().await;
    }
    let id: AuthorizationId = url.rsplit('/').next().unwrap().parse().unwrap();
    let row = ca.store.authorization(id).await.unwrap().unwrap();
    assert!(matches!(row.state, AuthorizationState::Deactivated { .. }));
}

#[tokio::test]
async fn an_authorization_expires() {
    let config = Config { authorization_lifetime_seconds: 60, ..open_config() };
    let ca = Ca::with(config).await;
    let client = ca.client().await;
    let (pending, url) = authorization(&client, "a.example").await;
    ca.clock.advance(Duration::from_secs(61));
    assert_eq!(client.read(&url).await.text("status"), "expired");
    client.post(&url_of(&pending, "dns-01"), &json!({})).await.assert_problem(400, "malformed");
}
