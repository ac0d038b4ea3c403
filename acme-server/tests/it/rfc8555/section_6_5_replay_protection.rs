//! RFC 8555 §6.5 and §7.2: nonces.

use http::Method;
use serde_json::json;

use crate::support::{Ca, Key};

#[tokio::test]
async fn new_nonce_answers_head_with_200_and_get_with_204() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    let url = client.resource("newNonce");
    for (method, status) in [(Method::HEAD, 200), (Method::GET, 204)] {
        let answer = client.send(method, &url, "", Vec::new()).await;
        assert_eq!(answer.status, status);
        assert!(answer.body.is_empty());
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.links("index"), [client.resource("newNonce").replace("new-nonce", "directory")]);
        let nonce = answer.header("replay-nonce");
        assert!(nonce.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{nonce}");
    }
}

#[tokio::test]
async fn a_nonce_is_good_once_and_the_refusal_carries_a_fresh_one() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let header = client.header(&url).await;
    assert_eq!(client.post_with(&url, &header, b"").await.status, 200);
    let replayed = client.post_with(&url, &header, b"").await;
    replayed.assert_problem(400, "badNonce");
    let mut again = header.clone();
    again["nonce"] = json!(replayed.header("replay-nonce"));
    assert_eq!(client.post_with(&url, &again, b"").await.status, 200, "as clients retry");
}

#[tokio::test]
async fn a_missing_or_made_up_nonce_is_a_bad_nonce() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let mut header = client.header(&url).await;
    header.as_object_mut().unwrap().remove("nonce");
    client.post_with(&url, &header, b"").await.assert_problem(400, "badNonce");
    for nonce in ["", "AAAA", "not base64url!", &"A".repeat(38), &"A".repeat(10_000)] {
        header["nonce"] = json!(nonce);
        client.post_with(&url, &header, b"").await.assert_problem(400, "badNonce");
    }
}

#[tokio::test]
async fn a_request_with_a_bad_signature_uses_its_nonce_up() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let header = client.header(&url).await;
    let forged = Key::p256().jws(&header, b"").to_string().into_bytes();
    client.send_jws(&url, forged).await.assert_problem(400, "malformed");
    client.post_with(&url, &header, b"").await.assert_problem(400, "badNonce");
}

#[tokio::test]
async fn every_response_to_a_post_has_a_fresh_nonce() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let nowhere = url.replace("/account/", "/nothing/");
    let mut seen = std::collections::HashSet::new();
    for answer in [
        client.read(&url).await,
        client.read(&nowhere).await,
        client.send(Method::POST, &url, "text/plain", Vec::new()).await,
        client.send_jws(&url, b"garbage".to_vec()).await,
        client.send_jws(&url, vec![b' '; 100_000]).await,
    ] {
        assert!(seen.insert(answer.header("replay-nonce").to_owned()), "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    assert!(
        !client.get(&url).await.headers.contains_key("replay-nonce"),
        "a GET of a resource gives none out"
    );
}
