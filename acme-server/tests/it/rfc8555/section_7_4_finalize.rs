//! RFC 8555 §7.4: finalize.

use ca_core::acme::{Order, OrderState};
use ca_core::id::OrderId;
use ca_core::store::{Change, Commit};
use serde_json::json;

use crate::support::client::from_pem;
use crate::support::key::{base64url, csr, subscriber_key};
use crate::support::{Ca, Client, Key, PUBLIC_URL, open_config};

#[tokio::test]
async fn an_order_goes_from_pending_to_a_certificate_and_its_revocation() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let names = ["www.example.org", "*.example.org", "192.0.2.7"];

    let order = client.new_order(&names).await;
    assert_eq!(order.text("status"), "pending");
    ca.authorize(&client, &order).await;
    let ready = client.read(order.location()).await;
    assert_eq!(ready.text("status"), "ready");

    let key = subscriber_key();
    let valid = client.finalize(&ready, &csr(&key, &names)).await;
    assert_eq!((valid.status, valid.text("status")), (200, "valid"), "{valid:?}");
    assert_eq!(valid.location(), order.location(), "Go's client needs the Location");
    assert!(!valid.headers.contains_key("retry-after"));

    let chain = client.read(valid.text("certificate")).await;
    assert_eq!(chain.header("content-type"), "application/pem-certificate-chain");
    let chain = from_pem(&chain.body);
    assert_eq!(chain.len(), 2, "the certificate and its issuer, without the root");
    let revoked = client.revoke(&chain[0], Some(4)).await;
    assert_eq!((revoked.status, revoked.body.len()), (200, 0), "{revoked:?}");
    client.revoke(&chain[0], Some(4)).await.assert_problem(400, "alreadyRevoked");
}

#[tokio::test]
async fn a_wrong_csr_is_refused_in_the_answer_and_leaves_the_order_ready() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example", "b.example"]).await;
    ca.authorize(&client, &order).await;
    let key = subscriber_key();

    let mut broken = csr(&key, &["a.example", "b.example"]);
    *broken.last_mut().unwrap() ^= 1;
    let p521 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    for wrong in [
        b"garbage".to_vec(),
        Vec::new(),
        csr(&key, &["a.example"]),
        csr(&key, &["a.example", "b.example", "c.example"]),
        csr(&key, &["a.example", "*.b.example"]),
        csr(&p521, &["a.example", "b.example"]),
        broken,
    ] {
        let refused = client.finalize(&order, &wrong).await;
        refused.assert_problem(400, "badCSR");
        assert_eq!(client.read(order.location()).await.text("status"), "ready");
    }
    for wrong in [json!({}), json!({"csr": 1}), json!({"csr": "AA=="}), json!({"csr": "a b"}), json!([])] {
        client.post(order.text("finalize"), &wrong).await.assert_problem(400, "malformed");
    }
    let valid = client.finalize(&order, &csr(&key, &["b.example", "A.example"])).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
}

#[tokio::test]
async fn a_name_in_the_common_name_alone_counts_as_asked_for() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "b.example");
    let other = params.serialize_request(&subscriber_key()).unwrap();
    client.finalize(&order, other.der()).await.assert_problem(400, "badCSR");
    params.distinguished_name.push(rcgen::DnType::CommonName, "a.example");
    let own = params.serialize_request(&subscriber_key()).unwrap();
    assert_eq!(client.finalize(&order, own.der()).await.text("status"), "valid");
}

#[tokio::test]
async fn an_order_that_is_not_ready_is_not_finalized() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    let csr = csr(&subscriber_key(), &["a.example"]);
    client.finalize(&order, &csr).await.assert_problem(403, "orderNotReady");
    ca.authorize(&client, &order).await;
    assert_eq!(client.finalize(&order, &csr).await.text("status"), "valid");
    client.finalize(&order, &csr).await.assert_problem(403, "orderNotReady");
}

#[tokio::test]
async fn section_11_1_an_account_key_is_not_certified() {
    let ca = Ca::new().await;
    let key = subscriber_key();
    let client = ca.client_with(Key::p256_from_pkcs8(key.serialized_der())).await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    let refused = client.finalize(&order, &csr(&key, &["a.example"])).await;
    refused.assert_problem(400, "badCSR");
    assert!(refused.text("detail").contains("account"), "{refused:?}");
}

#[tokio::test]
async fn a_key_that_was_compromised_is_not_certified_again() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let key = subscriber_key();
    let certificate = issue_with(&ca, &client, &key, "a.example").await;
    assert_eq!(client.revoke(&certificate, Some(1)).await.status, 200);
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    let refused = client.finalize(&order, &csr(&key, &["a.example"])).await;
    refused.assert_problem(400, "badCSR");
    assert!(refused.text("detail").contains("blocked"), "{refused:?}");
}

#[tokio::test]
async fn without_an_authority_finalize_answers_processing_with_retry_after() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    ca.stop_authority();
    let order = ca.issue(&client, &["a.example"]).await;
    assert_eq!((order.status, order.text("status")), (200, "processing"));
    assert_eq!(order.header("retry-after"), "1", "whole seconds");

    // A poll that waits is woken by the certificate.
    let (polled, ()) = tokio::join!(client.read(order.location()), async { ca.start_authority() });
    assert_eq!(polled.text("status"), "valid");
    assert!(!polled.headers.contains_key("retry-after"));
    assert!(polled.text("certificate").starts_with(PUBLIC_URL));
}

#[tokio::test]
async fn an_order_whose_issuance_failed_tells_why() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    ca.stop_authority();
    let order = ca.issue(&client, &["a.example"]).await;
    assert_eq!(order.text("status"), "processing");
    // The account gives its authorization up while the CA is away.
    let authorization = &order.list("authorizations")[0];
    client.post(authorization, &json!({"status": "deactivated"})).await;
    ca.start_authority();
    let failed = client.read(order.location()).await;
    assert_eq!(failed.text("status"), "invalid");
    assert_eq!(failed.json["error"]["type"], "urn:ietf:params:acme:error:unauthorized");
}

#[tokio::test]
async fn thirty_two_orders_at_once_on_one_account_all_succeed() {
    let ca = std::sync::Arc::new(Ca::new().await);
    let client = std::sync::Arc::new(ca.client().await);
    let tasks: Vec<_> = (0..32)
        .map(|number| {
            let (ca, client) = (ca.clone(), client.clone());
            tokio::spawn(async move {
                let name = format!("host-{number}.example");
                let mut order = ca.issue(&client, &[&name]).await;
                while order.text("status") == "processing" {
                    order = client.read(order.location()).await;
                }
                order.text("status").to_owned()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), "valid");
    }
    assert!(ca.metric("acme_orders_created_total") == 32.0);
}

#[tokio::test]
async fn a_conflict_is_decided_again_from_a_fresh_read() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    // The order's row changes all the time.
    let id: OrderId = order.location().rsplit('/').next().unwrap().parse().unwrap();
    let touch = async {
        for _ in 0..3 {
            let (order, _): (Order, _) = ca.store.order(id).await.unwrap().unwrap();
            if order.state != OrderState::Open {
                break;
            }
            let commit = Commit { changes: vec![Change::PutOrder(order)], ..Commit::default() };
            let _ = ca.store.commit(commit).await;
        }
    };
    let csr = csr(&subscriber_key(), &["a.example"]);
    let (answer, ()) = tokio::join!(client.finalize(&order, &csr), touch);
    assert_eq!(answer.text("status"), "valid", "{answer:?}");
}

#[tokio::test]
async fn two_finalizations_at_once_make_one_certificate() {
    let ca = Ca::with(open_config()).await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    let (first, second) = (csr(&subscriber_key(), &["a.example"]), csr(&subscriber_key(), &["a.example"]));
    let (first, second) = tokio::join!(client.finalize(&order, &first), client.finalize(&order, &second));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403], "{first:?} {second:?}");
    let filter = ca_core::store::CertificateFilter {
        name: Some(ca_core::acme::Identifier::from_text("a.example").unwrap()),
        ..Default::default()
    };
    assert_eq!(ca.store.certificates(filter, None, 10).await.unwrap().rows.len(), 1);
}

/// A certificate in DER for one name under a key that the test has.
async fn issue_with(ca: &Ca, client: &Client, key: &rcgen::KeyPair, name: &str) -> Vec<u8> {
    let order = client.new_order(&[name]).await;
    ca.authorize(client, &order).await;
    let order = client.post(order.text("finalize"), &json!({"csr": base64url(&csr(key, &[name]))})).await;
    from_pem(&client.read(order.text("certificate")).await.body).remove(0)
}
