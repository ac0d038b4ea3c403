//! RFC 8657: accounts and validation methods in CAA records.

use ca_core::acme::caa::{CaaSubject, judge};
use serde_json::json;

use crate::rfc8659::{checking, set, subject};
use crate::support::{Answer, Ca, Client};

/// Whether `issue "ca.example.org; {parameters}"` lets account 1 have a name that was validated by dns-01.
fn permits(parameters: &str) -> Result<(), String> {
    let value = format!("ca.example.org; {parameters}");
    judge(&set(&[(0, "issue", &value)]), &subject(false)).map_err(|why| why.to_string())
}

const OURS: &str = "https://ca.test:8443/acme/default/account/1";

#[test]
fn section_3_accounturi_names_the_account() {
    for fine in [
        format!("accounturi={OURS}"),
        format!("AccountURI={OURS}"),
        format!("accounturi = {OURS}"),
        format!("x=1; accounturi={OURS};y=2"),
        format!("accounturi={OURS}; validationmethods=dns-01"),
    ] {
        assert_eq!(permits(&fine), Ok(()), "{fine}");
    }
    for other in [
        format!("accounturi={OURS}1"),
        format!("accounturi={OURS}/"),
        format!("accounturi={}", OURS.to_uppercase()),
        // §5.4: compared as strings, so another way to write the same place is another account.
        "accounturi=https://ca.test:8443/acme/default/../default/account/1".to_owned(),
        "accounturi=https://CA.test:8443/acme/default/account/1".to_owned(),
        "accounturi=1".to_owned(),
        "accounturi=".to_owned(),
        // Several contradict each other, also if one is right or both are.
        format!("accounturi={OURS}; accounturi=https://x.example/1"),
        format!("accounturi={OURS}; accounturi={OURS}"),
        format!("accounturi={OURS}; ACCOUNTURI={OURS}"),
    ] {
        let why = permits(&other).unwrap_err();
        assert!(why.contains("for another account") && why.contains(OURS), "{other}: {why}");
    }
}

#[test]
fn section_4_validationmethods_lists_the_methods() {
    for fine in ["dns-01", "http-01,dns-01", "dns-01,ca-own-9,tls-alpn-01", "dns-01,dns-01"] {
        assert_eq!(permits(&format!("validationmethods={fine}")), Ok(()), "{fine}");
    }
    for other in [
        "http-01",
        "",
        ",",
        "dns-01,",
        ",dns-01",
        "dns-01,,http-01",
        "dns_01",
        "dns-01:x,dns-01",
        "DNS-01",
        "dns",
    ] {
        let why = permits(&format!("validationmethods={other}")).unwrap_err();
        assert!(why.contains("do not admit validation by dns-01"), "{other}: {why}");
    }
    assert!(permits("validationmethods=dns-01; validationmethods=dns-01").is_err());
    assert!(permits("ValidationMethods=http-01").is_err(), "a restriction is not overlooked");
}

#[test]
fn section_4_a_name_without_validation_is_admitted_by_no_list_of_methods() {
    let trusted = CaaSubject { method: None, ..subject(false) };
    assert_eq!(judge(&set(&[(0, "issue", "ca.example.org")]), &trusted), Ok(()));
    let listed = judge(&set(&[(0, "issue", "ca.example.org; validationmethods=dns-01")]), &trusted);
    assert!(listed.unwrap_err().to_string().contains("a name without validation"));
}

#[test]
fn section_5_parameters_restrict_only_the_property_they_stand_in() {
    let other = "ca.example.org; accounturi=https://x.example/1";
    let own = format!("ca.example.org; accounturi={OURS}");
    let method = "ca.example.org; validationmethods=http-01";
    for (records, fine) in [
        (vec![other, own.as_str()], true),
        (vec![method, own.as_str()], true),
        (vec![other, "ca.example.org"], true),
        (vec![other, method], false),
        // Of another CA's property the parameters don't matter, however well they fit.
        (vec!["other.example; validationmethods=dns-01"], false),
    ] {
        let records: Vec<_> = records.into_iter().map(|value| (0, "issue", value)).collect();
        assert_eq!(judge(&set(&records), &subject(false)).is_ok(), fine, "{records:?}");
    }
    assert_eq!(judge(&set(&[(0, "issuewild", &own)]), &subject(true)), Ok(()));
    assert!(judge(&set(&[(0, "issuewild", other)]), &subject(true)).is_err());
}

async fn respond(ca: &Ca, client: &Client, kind: &str) -> Answer {
    let url = client.new_order(&["a.example"]).await.list("authorizations").remove(0);
    let authorization = client.read(&url).await;
    let challenge = authorization.challenge(kind);
    ca.prober.provide(&authorization, &challenge, &client.key);
    client.post(challenge["url"].as_str().unwrap(), &json!({})).await
}

#[tokio::test]
async fn section_3_1_an_account_is_named_by_its_url_and_no_other_gets_the_name() {
    let ca = Ca::with(checking()).await;
    let (named, other) = (ca.client().await, ca.client().await);
    let kid = named.kid.clone().unwrap();
    ca.prober.put_caa("a.example", &[(0, "issue", &format!("ca.example.org; accounturi={kid}"))]);
    assert_eq!(respond(&ca, &named, "dns-01").await.text("status"), "valid");
    let refused = respond(&ca, &other, "dns-01").await;
    assert_eq!(refused.json["error"]["type"], "urn:ietf:params:acme:error:caa", "{refused:?}");
    let detail = refused.json["error"]["detail"].as_str().unwrap();
    assert!(detail.contains(other.kid.as_ref().unwrap()), "{detail}");
}

#[tokio::test]
async fn section_4_a_challenge_of_another_type_is_refused() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    ca.prober.put_caa("a.example", &[(0, "issue", "ca.example.org; validationmethods=dns-01")]);
    assert_eq!(respond(&ca, &client, "dns-01").await.text("status"), "valid");
    let refused = respond(&ca, &client, "http-01").await;
    assert_eq!(refused.json["error"]["type"], "urn:ietf:params:acme:error:caa", "{refused:?}");
}

#[tokio::test]
async fn section_5_5_the_method_that_was_used_is_judged_again_at_finalize() {
    let ca = Ca::with(checking()).await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    ca.clock.advance(std::time::Duration::from_hours(9));
    let request = crate::support::key::csr(&crate::support::key::subscriber_key(), &["a.example"]);
    ca.prober.put_caa("a.example", &[(0, "issue", "ca.example.org; validationmethods=http-01")]);
    client.finalize(&order, &request).await.assert_problem(403, "caa");
    ca.prober.put_caa("a.example", &[(0, "issue", "ca.example.org; validationmethods=dns-01")]);
    assert_eq!(client.finalize(&order, &request).await.text("status"), "valid");
}
