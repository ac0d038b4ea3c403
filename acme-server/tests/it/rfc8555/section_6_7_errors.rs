//! RFC 8555 §6.7: problem documents, also where HTTP alone says no.

use http::Method;

use crate::support::client::send;
use crate::support::{Ca, Key, PUBLIC_URL};

#[tokio::test]
async fn what_is_not_there_is_a_problem_document() {
    let ca = Ca::new().await;
    for path in
        ["/", "/acme", "/acme/default", "/acme/default/x", "/acme/none/directory", "/acme/none/new-nonce"]
    {
        let answer = send(&ca.router(), Method::GET, &format!("{PUBLIC_URL}{path}"), "", Vec::new()).await;
        answer.assert_problem(404, "malformed");
    }
    let answer =
        send(&ca.router(), Method::POST, "/acme/%ff/new-account", "application/jose+json", vec![]).await;
    assert!([400, 404].contains(&answer.status), "{answer:?}");
}

#[tokio::test]
async fn methods_that_a_resource_does_not_take_are_problem_documents() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    let directory = client.resource("newNonce").replace("new-nonce", "directory");
    for (method, url) in [
        (Method::POST, directory),
        (Method::DELETE, client.resource("newOrder")),
        (Method::PUT, client.resource("newNonce")),
        (Method::GET, client.resource("newAccount")),
    ] {
        let answer = client.send(method, &url, "", Vec::new()).await;
        answer.assert_problem(405, "malformed");
        assert!(answer.headers.contains_key("allow"));
    }
}

#[tokio::test]
async fn every_response_but_the_directory_links_to_the_directory() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let directory = client.resource("newNonce").replace("new-nonce", "directory");
    let account = client.kid.clone().unwrap();
    assert!(client.get(&directory).await.links("index").is_empty());
    for answer in [
        client.read(&account).await,
        client.get(&account).await,
        client.new_order(&["bad name"]).await,
        client.new_order(&["a.example"]).await,
    ] {
        assert_eq!(answer.links("index"), std::slice::from_ref(&directory), "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_has_an_id_and_a_cause_is_not_told() {
    let ca = Ca::without_issuers(crate::support::open_config()).await;
    let answer = send(&ca.router(), Method::GET, "/roots.pem", "", Vec::new()).await;
    answer.assert_problem(503, "serverInternal");
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(answer.header("x-request-id").len(), 26);
    assert_eq!(ca.metric("acme_problems_total{type=\"serverInternal\"}"), 1.0);
    assert_eq!(ca.metric("acme_requests_total{resource=\"roots\",status=\"503\"}"), 1.0);
}
