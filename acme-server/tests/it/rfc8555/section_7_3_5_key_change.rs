//! RFC 8555 §7.3.5: key rollover.

use serde_json::{Value, json};

use crate::support::{Answer, Ca, Client, Key};

/// Spoils the inner header or payload.
type Spoil = Box<dyn FnOnce(&mut Value, &mut Value)>;

/// A key change with parts that a test may have spoiled.
pub async fn change(client: &Client, key: &Key, spoil: impl FnOnce(&mut Value, &mut Value)) -> Answer {
    let url = client.resource("keyChange");
    let mut header = json!({"alg": key.alg, "jwk": key.jwk(), "url": url});
    let mut payload = json!({"account": client.kid, "oldKey": client.key.jwk()});
    spoil(&mut header, &mut payload);
    let inner = key.jws(&header, payload.to_string().as_bytes());
    client.post(&url, &inner).await
}

#[tokio::test]
async fn the_new_key_takes_the_place_of_the_old_one() {
    let ca = Ca::new().await;
    let mut client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let key = Key::p256();
    let changed = change(&client, &key, |_, _| {}).await;
    assert_eq!((changed.status, changed.location()), (200, url.as_str()), "{changed:?}");
    client.read(&url).await.assert_problem(400, "malformed");
    client.key = key;
    assert_eq!(client.read(&url).await.status, 200);
    assert_eq!(ca.issue(&client, &["a.example"]).await.text("status"), "valid");
}

#[tokio::test]
async fn every_part_of_the_inner_jws_is_checked() {
    let ca = Ca::new().await;
    let (client, other) = (ca.client().await, ca.client().await);
    let other_account = other.kid.clone().unwrap();
    let spoils: Vec<Spoil> = vec![
        Box::new(|header, _| header["url"] = json!("https://elsewhere.test")),
        Box::new(|header, _| header["nonce"] = json!("AAAA")),
        Box::new(move |_, payload| payload["account"] = json!(other_account)),
        Box::new(|_, payload| payload["oldKey"] = Key::p256().jwk()),
        Box::new(|_, payload| payload["oldKey"] = json!({})),
        Box::new(|_, payload| {
            payload.as_object_mut().unwrap().remove("oldKey");
        }),
        Box::new(|_, payload| {
            payload.as_object_mut().unwrap().remove("account");
        }),
    ];
    for spoil in spoils {
        change(&client, &Key::p256(), spoil).await.assert_problem(400, "malformed");
    }
    let kid = client.kid.clone().unwrap();
    let key = Key::p256();
    let with_kid = change(&client, &key, |header, _| {
        header.as_object_mut().unwrap().remove("jwk");
        header["kid"] = json!(kid);
    });
    with_kid.await.assert_problem(400, "malformed");
    // Somebody else's key, without that key's signature.
    let foreign = other.key.jwk();
    change(&client, &Key::p256(), |header, _| header["jwk"] = foreign).await.assert_problem(400, "malformed");
    change(&client, &Key::p256(), |header, _| header["alg"] = json!("HS256"))
        .await
        .assert_problem(400, "badSignatureAlgorithm");
    let url = client.resource("keyChange");
    client.post(&url, &json!({})).await.assert_problem(400, "malformed");
    client.read(&url).await.assert_problem(400, "malformed");
    assert_eq!(client.read(&kid).await.status, 200, "the key is what it was");
}

#[tokio::test]
async fn a_key_in_use_is_a_conflict_with_the_location_of_its_account() {
    let ca = Ca::new().await;
    let (client, other) = (ca.client().await, ca.client().await);
    let answer = change(&client, &other.key, |_, _| {}).await;
    answer.assert_problem(409, "malformed");
    assert_eq!(answer.location(), other.kid.as_ref().unwrap());
    let answer = change(&client, &client.key, |_, _| {}).await;
    answer.assert_problem(409, "malformed");
    assert_eq!(answer.location(), client.kid.as_ref().unwrap());
}
