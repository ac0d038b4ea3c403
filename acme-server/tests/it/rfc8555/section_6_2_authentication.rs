//! RFC 8555 §6.2 to §6.4: who signed, how, and for which URL.

use http::Method;
use serde_json::{Value, json};

use crate::support::key::base64url;
use crate::support::{Ca, Client, Key, PUBLIC_URL};

/// A client with an account, and a resource of its that any signed request can read.
async fn account(ca: &Ca) -> (Client, String) {
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    (client, url)
}

#[tokio::test]
async fn every_algorithm_of_the_list_is_accepted_with_its_key() {
    let ca = Ca::new().await;
    let keys = [Key::p256(), Key::p384(), Key::p521(), Key::rsa("RS256"), Key::rsa("PS256"), Key::ed25519()];
    for key in keys {
        let client = ca.client_with(key).await;
        let url = client.kid.clone().unwrap();
        assert_eq!(client.read(&url).await.status, 200, "{}", client.key.alg);
        assert_eq!(ca.issue(&client, &["a.example"]).await.text("status"), "valid", "{}", client.key.alg);
    }
}

#[tokio::test]
async fn algorithms_outside_the_list_are_refused_and_the_list_is_told() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    for alg in ["none", "HS256", "HS512", "RS1", "RS512", "ES256K", "es256", ""] {
        let mut header = client.header(&url).await;
        header["alg"] = json!(alg);
        let answer = client.post_with(&url, &header, b"").await;
        answer.assert_problem(400, "badSignatureAlgorithm");
        assert_eq!(answer.list("algorithms"), ["ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA"]);
    }
}

#[tokio::test]
async fn an_algorithm_must_fit_its_key() {
    let ca = Ca::new().await;
    for (key, wrong) in [
        (Key::p256(), "ES384"),
        (Key::p256(), "RS256"),
        (Key::p256(), "EdDSA"),
        (Key::rsa("RS256"), "ES256"),
        (Key::ed25519(), "ES256"),
    ] {
        let client = ca.client_with(key).await;
        let url = client.kid.clone().unwrap();
        let mut header = client.header(&url).await;
        header["alg"] = json!(wrong);
        client.post_with(&url, &header, b"").await.assert_problem(400, "badSignatureAlgorithm");
    }
    // Both fit RSA, but the signature is of the other kind.
    let client = ca.client_with(Key::rsa("RS256")).await;
    let url = client.kid.clone().unwrap();
    let mut header = client.header(&url).await;
    header["alg"] = json!("PS256");
    client.post_with(&url, &header, b"").await.assert_problem(400, "malformed");
}

#[tokio::test]
async fn an_hmac_under_the_public_key_is_no_signature() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let mut header = client.header(&url).await;
    header["alg"] = json!("HS256");
    let (protected, payload) = (base64url(header.to_string().as_bytes()), base64url(b""));
    let key =
        aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, client.key.jwk().to_string().as_bytes());
    let mac = aws_lc_rs::hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
    let jws = json!({"protected": protected, "payload": payload, "signature": base64url(mac.as_ref())});
    let answer = client.send_jws(&url, jws.to_string().into_bytes()).await;
    answer.assert_problem(400, "badSignatureAlgorithm");
}

#[tokio::test]
async fn jwk_and_kid_exclude_each_other_and_one_is_needed() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let mut both = client.header(&url).await;
    both["jwk"] = client.key.jwk();
    client.post_with(&url, &both, b"").await.assert_problem(400, "malformed");

    let mut neither = client.header(&url).await;
    neither.as_object_mut().unwrap().remove("kid");
    client.post_with(&url, &neither, b"").await.assert_problem(400, "malformed");

    // Each resource takes its own.
    let mut jwk = client.header(&url).await;
    jwk.as_object_mut().unwrap().remove("kid");
    jwk["jwk"] = client.key.jwk();
    client.post_with(&url, &jwk, b"").await.assert_problem(400, "malformed");
    let url = client.resource("newAccount");
    let kid = client.header(&url).await;
    client.post_with(&url, &kid, b"{}").await.assert_problem(400, "malformed");
}

#[tokio::test]
async fn keys_that_are_no_account_keys_are_refused() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    let url = client.resource("newAccount");
    let mut private = client.key.jwk();
    private["d"] = json!("AA");
    let mut off_curve = client.key.jwk();
    off_curve["y"] = off_curve["x"].clone();
    let mut short = client.key.jwk();
    short["x"] = json!("AA");
    for jwk in [
        private,
        off_curve,
        short,
        json!({"kty": "oct", "k": "AA"}),
        json!({"kty": "RSA", "n": base64url(&[0xff; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": base64url(&[0xff; 1025]), "e": "AQAB"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!({}),
    ] {
        let mut header = client.header(&url).await;
        header["jwk"] = jwk;
        client.post_with(&url, &header, b"{}").await.assert_problem(400, "badPublicKey");
    }
}

#[tokio::test]
async fn unknown_accounts_do_not_exist() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let unknown = format!("{PUBLIC_URL}/acme/default/account/{}", "0".repeat(26));
    let path = url.strip_prefix(PUBLIC_URL).unwrap();
    for kid in [unknown.as_str(), "", "x", path, &format!("{url}/"), &format!("https://other.test{path}")] {
        let mut header = client.header(&url).await;
        header["kid"] = json!(kid);
        client.post_with(&url, &header, b"").await.assert_problem(400, "accountDoesNotExist");
    }
}

#[tokio::test]
async fn a_signature_by_another_key_or_over_other_content_is_refused() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let header = client.header(&url).await;
    let forged = Key::p256().jws(&header, b"");
    client.send_jws(&url, forged.to_string().into_bytes()).await.assert_problem(400, "malformed");

    let mut altered = client.key.jws(&client.header(&url).await, b"");
    altered["payload"] = json!(base64url(br#"{"status":"deactivated"}"#));
    client.send_jws(&url, altered.to_string().into_bytes()).await.assert_problem(400, "malformed");
    assert_eq!(client.read(&url).await.text("status"), "valid");
}

#[tokio::test]
async fn what_rfc_8555_forbids_in_a_jws_is_refused() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    for (member, value) in [("b64", json!(false)), ("crit", json!(["b64"]))] {
        let mut header = client.header(&url).await;
        header[member] = value;
        client.post_with(&url, &header, b"").await.assert_problem(400, "malformed");
    }
    for (member, value) in [("header", json!({})), ("signatures", json!([]))] {
        let mut jws = client.key.jws(&client.header(&url).await, b"");
        jws[member] = value;
        client.send_jws(&url, jws.to_string().into_bytes()).await.assert_problem(400, "malformed");
    }
    for member in ["protected", "payload", "signature"] {
        let good = client.key.jws(&client.header(&url).await, b"");
        let mut missing = good.clone();
        missing.as_object_mut().unwrap().remove(member);
        client.send_jws(&url, missing.to_string().into_bytes()).await.assert_problem(400, "malformed");
        let mut padded = good.clone();
        padded[member] = json!(format!("{}==", good[member].as_str().unwrap()));
        client.send_jws(&url, padded.to_string().into_bytes()).await.assert_problem(400, "malformed");
        let twice = good.to_string().replacen('{', &format!("{{\"{member}\":{},", good[member]), 1);
        client.send_jws(&url, twice.into_bytes()).await.assert_problem(400, "malformed");
    }
    for member in ["alg", "url"] {
        let mut header = client.header(&url).await;
        header.as_object_mut().unwrap().remove(member);
        client.post_with(&url, &header, b"").await.assert_problem(400, "malformed");
    }
    // What nobody knows is ignored, RFC 7515 §4.
    let mut header = client.header(&url).await;
    header["typ"] = json!("x");
    assert_eq!(client.post_with(&url, &header, b"").await.status, 200);
}

#[tokio::test]
async fn garbage_and_every_truncation_of_a_jws_are_malformed() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    for garbage in [&b""[..], b"{", b"null", b"[]", b"\xff\xfe", b"{}", b"a.b.c", &[b'['; 60_000]] {
        client.send_jws(&url, garbage.to_vec()).await.assert_problem(400, "malformed");
    }
    let whole = client.key.jws(&client.header(&url).await, b"").to_string().into_bytes();
    for end in (0..whole.len()).step_by(7) {
        client.send_jws(&url, whole[..end].to_vec()).await.assert_problem(400, "malformed");
    }
    assert_eq!(client.send_jws(&url, whole).await.status, 200, "none of them used the nonce up");
}

#[tokio::test]
async fn the_content_type_must_be_jose_json() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let jws = client.key.jws(&client.header(&url).await, b"").to_string().into_bytes();
    for wrong in ["", "application/json", "text/plain", "application/jose", "application/jose+jsonx"] {
        let answer = client.send(Method::POST, &url, wrong, jws.clone()).await;
        answer.assert_problem(415, "malformed");
    }
    let answer = client.send(Method::POST, &url, "Application/JOSE+JSON; charset=utf-8", jws).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_with_413() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let jws = client.key.jws(&client.header(&url).await, b"").to_string();
    let sized = |size: usize| format!("{jws}{}", " ".repeat(size - jws.len())).into_bytes();
    for size in [64 * 1024 + 1, 1_000_000, 1_000_001, 5_000_000] {
        let answer = client.send_jws(&url, sized(size)).await;
        answer.assert_problem(413, "malformed");
        assert!(answer.headers.contains_key("replay-nonce"));
    }
    assert_eq!(client.send_jws(&url, sized(64 * 1024)).await.status, 200);
}

#[tokio::test]
async fn section_6_3_resources_are_read_by_post_as_get_only() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let order = ca.issue(&client, &["a.example"]).await;
    let authorization = order.list("authorizations").remove(0);
    let challenge = client.read(&authorization).await.challenge("dns-01")["url"].as_str().unwrap().to_owned();
    let certificate = order.text("certificate").to_owned();
    let orders = format!("{url}/orders");
    let new_order = client.resource("newOrder");
    for resource in [&url, &orders, order.location(), &authorization, &challenge, &certificate, &new_order] {
        client.get(resource).await.assert_problem(405, "malformed");
    }
    for resource in [&url, &orders, order.location(), &authorization, &challenge, &certificate] {
        assert_eq!(client.read(resource).await.status, 200, "{resource}");
    }
    for resource in [&orders, order.location(), &certificate] {
        client.post(resource, &json!({})).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn section_6_4_the_url_must_be_the_one_requested() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let orders = format!("{url}/orders");
    let elsewhere = url.replace(PUBLIC_URL, "https://elsewhere.test");
    for wrong in [orders.as_str(), &elsewhere, "", &format!("{url}?"), &url.to_uppercase(), &url[8..]] {
        let header = client.header(wrong).await;
        client.post_with(&url, &header, b"").await.assert_problem(401, "unauthorized");
    }
    let asked = format!("{url}?a=b");
    assert_eq!(client.read(&asked).await.status, 200, "the query belongs to the URL");
}

#[tokio::test]
async fn the_header_may_not_be_nested_without_end() {
    let ca = Ca::new().await;
    let (client, url) = account(&ca).await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let header = format!(r#"{{"alg":"ES256","url":"{url}","x":{deep}}}"#);
    let jws: Value = json!({"protected": base64url(header.as_bytes()), "payload": "", "signature": "AA"});
    client.send_jws(&url, jws.to_string().into_bytes()).await.assert_problem(400, "malformed");
}
