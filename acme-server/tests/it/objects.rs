//! RFC 8555 §6 and §7: what has to be a JSON object is no array, wherever it stands.

use serde_json::{Value, json};

use crate::support::client::identifiers;
use crate::support::key::{csr, subscriber_key};
use crate::support::{Ca, Key};

/// The members' values in some order, as an array.
fn as_array(object: &Value) -> Value {
    object.as_object().unwrap().values().cloned().collect()
}

#[tokio::test]
async fn an_array_in_place_of_an_identifier_is_malformed() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.resource("newOrder");
    let good = identifiers(&["a.example"]);
    for identifiers in [json!([["dns", "a.example"]]), json!([good[0], ["dns", "b.example"]]), json!(["dns"])]
    {
        let answer = client.post(&url, &json!({"identifiers": identifiers})).await;
        answer.assert_problem(400, "malformed");
    }
    assert_eq!(client.post(&url, &json!({"identifiers": good})).await.status, 201);
}

#[tokio::test]
async fn an_array_in_place_of_a_payload_is_malformed() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let order = client.new_order(&["a.example"]).await;
    let authorization = client.read(&order.list("authorizations")[0]).await;
    let challenge = authorization.challenge("dns-01");
    for (url, payload) in [
        (client.resource("newOrder"), json!([identifiers(&["a.example"])])),
        (client.resource("newAccount"), json!([[], true])),
        (client.kid.clone().unwrap(), json!([["mailto:a@example.org"]])),
        (order.text("finalize").to_owned(), json!(["AAAA"])),
        (order.list("authorizations").remove(0), json!(["deactivated"])),
        (challenge["url"].as_str().unwrap().to_owned(), json!([])),
        (client.resource("revokeCert"), json!(["AAAA", 1])),
    ] {
        let answer = if url == client.resource("newAccount") {
            ca.stranger(Key::p256()).await.post(&url, &payload).await
        } else {
            client.post(&url, &payload).await
        };
        answer.assert_problem(400, "malformed");
        assert!(answer.text("detail").contains("object"), "{url}: {answer:?}");
    }
    // Nothing came of any of it.
    ca.authorize(&client, &order).await;
    let done = client.finalize(&order, &csr(&subscriber_key(), &["a.example"])).await;
    assert_eq!(done.text("status"), "valid", "{done:?}");
}

#[tokio::test]
async fn a_key_or_a_header_that_is_no_object_is_malformed() {
    let ca = Ca::new().await;
    for key in [Key::p256(), Key::ed25519(), Key::rsa("RS256")] {
        let client = ca.stranger(key).await;
        let url = client.resource("newAccount");
        let jwk = client.key.jwk();
        let mut tagged = vec![jwk["kty"].clone()];
        let rest = jwk.as_object().unwrap().iter().filter(|(name, _)| *name != "kty");
        tagged.extend(rest.map(|(_, value)| value.clone()));
        for other in [json!(tagged), as_array(&jwk), json!([jwk]), json!("key"), json!(7)] {
            let mut header = client.header(&url).await;
            header["jwk"] = other;
            client.post_with(&url, &header, b"{}").await.assert_problem(400, "malformed");
        }
        let header = client.header(&url).await;
        client.post_with(&url, &as_array(&header), b"{}").await.assert_problem(400, "malformed");
        let jws = client.key.jws(&client.header(&url).await, b"{}");
        client.send_jws(&url, as_array(&jws).to_string().into_bytes()).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn an_array_in_place_of_old_key_is_malformed() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.resource("keyChange");
    let new = Key::p256();
    let jwk = client.key.jwk();
    let tagged = json!([jwk["kty"], jwk["crv"], jwk["x"], jwk["y"]]);
    for old in [tagged, as_array(&jwk)] {
        let payload = json!({"account": client.kid, "oldKey": old});
        let inner =
            new.jws(&json!({"alg": new.alg, "jwk": new.jwk(), "url": url}), payload.to_string().as_bytes());
        client.post(&url, &inner).await.assert_problem(400, "malformed");
    }
    let payload = json!({"account": client.kid, "oldKey": jwk});
    let inner =
        new.jws(&json!({"alg": new.alg, "jwk": new.jwk(), "url": url}), payload.to_string().as_bytes());
    assert_eq!(client.post(&url, &inner).await.status, 200);
}
