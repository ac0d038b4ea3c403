//! RFC 8555 §7.6: revocation.

use ca_core::acme::Identifier;
use ca_core::revocation::RevocationReason;
use ca_core::store::{CertificateFilter, CertificateRecord, CertificateState, IssuerKind};
use serde_json::json;

use crate::support::client::from_pem;
use crate::support::key::{base64url, csr, subscriber_key};
use crate::support::{Ca, Client, Key};

async fn issue(ca: &Ca, client: &Client, names: &[&str], key: &rcgen::KeyPair) -> Vec<u8> {
    let order = client.new_order(names).await;
    ca.authorize(client, &order).await;
    let order = client.finalize(&order, &csr(key, names)).await;
    from_pem(&client.read(order.text("certificate")).await.body).remove(0)
}

async fn record(ca: &Ca, name: &str) -> CertificateRecord {
    let name = Some(Identifier::from_text(name).unwrap());
    let filter = CertificateFilter { name, ..CertificateFilter::default() };
    ca.store.certificates(filter, None, 1).await.unwrap().rows.remove(0)
}

#[tokio::test]
async fn the_account_that_it_was_issued_to_revokes_with_its_reason() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    for (reason, expected) in [
        (None, RevocationReason::Unspecified),
        (Some(0), RevocationReason::Unspecified),
        (Some(4), RevocationReason::Superseded),
        (Some(5), RevocationReason::CessationOfOperation),
        (Some(9), RevocationReason::PrivilegeWithdrawn),
    ] {
        let name = reason.map_or("none.example".to_owned(), |code: i64| format!("reason-{code}.example"));
        let certificate = issue(&ca, &client, &[&name], &subscriber_key()).await;
        assert_eq!(client.revoke(&certificate, reason).await.status, 200);
        match record(&ca, &name).await.state {
            CertificateState::Revoked { reason, .. } => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        }
        client.revoke(&certificate, reason).await.assert_problem(400, "alreadyRevoked");
    }
}

#[tokio::test]
async fn the_holder_of_the_certificates_key_revokes_without_an_account() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let key = subscriber_key();
    let certificate = issue(&ca, &client, &["a.example"], &key).await;
    let holder = ca.stranger(Key::p256_from_pkcs8(key.serialized_der())).await;
    assert_eq!(holder.revoke(&certificate, Some(1)).await.status, 200);
    assert!(matches!(record(&ca, "a.example").await.state, CertificateState::Revoked { .. }));
}

#[tokio::test]
async fn a_key_that_turns_out_compromised_after_the_revocation_is_blocked_all_the_same() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let key = subscriber_key();
    let certificate = issue(&ca, &client, &["a.example"], &key).await;
    assert_eq!(client.revoke(&certificate, Some(4)).await.status, 200);
    let holder = ca.stranger(Key::p256_from_pkcs8(key.serialized_der())).await;
    holder.revoke(&certificate, Some(1)).await.assert_problem(400, "alreadyRevoked");
    let hash = record(&ca, "a.example").await.key;
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while !ca.store.is_key_blocked(hash).await.unwrap() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the CA blocks the key");
}

#[tokio::test]
async fn an_account_with_authorizations_for_all_names_revokes() {
    let ca = Ca::new().await;
    let (owner, other) = (ca.client().await, ca.client().await);
    let certificate = issue(&ca, &owner, &["a.example", "*.b.example"], &subscriber_key()).await;
    other.revoke(&certificate, None).await.assert_problem(403, "unauthorized");

    ca.authorize(&other, &other.new_order(&["a.example"]).await).await;
    other.revoke(&certificate, None).await.assert_problem(403, "unauthorized");
    ca.authorize(&other, &other.new_order(&["b.example"]).await).await;
    let refused = other.revoke(&certificate, None).await;
    refused.assert_problem(403, "unauthorized");

    ca.authorize(&other, &other.new_order(&["*.b.example"]).await).await;
    assert_eq!(other.revoke(&certificate, None).await.status, 200);
}

#[tokio::test]
async fn nobody_else_revokes() {
    let ca = Ca::new().await;
    let (owner, other) = (ca.client().await, ca.client().await);
    let certificate = issue(&ca, &owner, &["a.example"], &subscriber_key()).await;
    other.revoke(&certificate, None).await.assert_problem(403, "unauthorized");
    ca.stranger(Key::p256()).await.revoke(&certificate, None).await.assert_problem(403, "unauthorized");
    // The account's key as `jwk` proves no possession of the certificate's key.
    let mut by_key = owner;
    by_key.kid = None;
    by_key.revoke(&certificate, None).await.assert_problem(403, "unauthorized");
    assert!(matches!(record(&ca, "a.example").await.state, CertificateState::Issued { .. }));
}

#[tokio::test]
async fn our_own_certificates_are_none_of_a_clients_business() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    for issuer in ca.store.issuers().await.unwrap() {
        let answer = client.revoke(&issuer.certificates[0].der, None).await;
        assert!(issuer.kind == IssuerKind::Root || answer.status == 403, "{answer:?}");
        assert!([403, 404].contains(&answer.status), "{answer:?}");
    }
}

#[tokio::test]
async fn reasons_that_are_none_are_refused() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let certificate = issue(&ca, &client, &["a.example"], &subscriber_key()).await;
    for reason in [-1, 6, 7, 8, 10, 11, 255, 256, 1_000_000] {
        client.revoke(&certificate, Some(reason)).await.assert_problem(400, "badRevocationReason");
    }
    let url = client.resource("revokeCert");
    let payload = json!({"certificate": base64url(&certificate), "reason": 1.5});
    client.post(&url, &payload).await.assert_problem(400, "badRevocationReason");
    let payload = json!({"certificate": base64url(&certificate), "reason": "1"});
    client.post(&url, &payload).await.assert_problem(400, "malformed");
    assert!(matches!(record(&ca, "a.example").await.state, CertificateState::Issued { .. }));
}

#[tokio::test]
async fn certificates_that_we_did_not_issue_are_not_found() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let mut altered = issue(&ca, &client, &["a.example"], &subscriber_key()).await;
    *altered.last_mut().unwrap() ^= 1;
    client.revoke(&altered, None).await.assert_problem(404, "malformed");
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let foreign = params.self_signed(&subscriber_key()).unwrap();
    client.revoke(foreign.der(), None).await.assert_problem(404, "malformed");
    for garbage in [&b""[..], b"garbage", &[0x30, 0x80]] {
        client.revoke(garbage, None).await.assert_problem(400, "malformed");
    }
    let url = client.resource("revokeCert");
    for wrong in [json!({}), json!({"certificate": "=="}), json!({"certificate": 1})] {
        client.post(&url, &wrong).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn a_revocation_while_the_ca_is_away_is_stored_and_takes_effect_when_it_is_back() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let certificate = issue(&ca, &client, &["a.example"], &subscriber_key()).await;
    ca.stop_authority();
    let answer = client.revoke(&certificate, Some(4)).await;
    answer.assert_problem(503, "serverInternal");
    assert_eq!(answer.header("retry-after"), "10");
    assert!(answer.text("detail").contains("stored"), "{answer:?}");

    let id = record(&ca, "a.example").await.id;
    let revoked = ca.store.watch(&ca_core::store::Topic::Certificate(id));
    ca.start_authority();
    revoked.await;
    client.revoke(&certificate, Some(4)).await.assert_problem(400, "alreadyRevoked");
}
