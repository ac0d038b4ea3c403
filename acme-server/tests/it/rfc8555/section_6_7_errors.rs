//! RFC 8555 §6.7: problem documents, also where HTTP alone says no.

use http::Method;

use serde_json::json;

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

#[tokio::test]
async fn a_problem_leads_to_a_page_that_explains_it_and_shows_nothing_as_markup() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    let authorization = client.read(&order.list("authorizations")[0]).await;
    let challenge = authorization.challenge("http-01");
    let token = challenge["token"].as_str().unwrap();
    ca.prober.put_http(
        &format!("a.example/.well-known/acme-challenge/{token}"),
        200,
        "<script>alert(1)</script>",
    );
    let failed = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    assert_eq!(failed.text("status"), "invalid");
    let order = client.read(order.location()).await;
    for url in [&failed.json["error"]["instance"], &order.json["error"]["instance"]] {
        let page = client.get(url.as_str().unwrap()).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        let html = String::from_utf8(page.body).unwrap();
        assert!(html.contains("a.example") && html.contains("192.0.2.1:80"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)") && !html.contains("<script"), "{html}");
    }
    let url = order.json["error"]["instance"].as_str().unwrap();
    let elsewhere = url.replace("/order/", "/order/0");
    client.get(&elsewhere).await.assert_problem(404, "malformed");
}
