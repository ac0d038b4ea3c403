//! One account at what is another's, RFC 8555 §7: it is answered as if nothing were there, and nothing changes.

use e2e::acme::{self, Client, JOSE, Key, csr};
use e2e::chancery::{Keys, Settings};
use e2e::http::{self, Response};
use e2e::judges::Status;
use serde_json::{Value, json};

use super::{Scene, expect_problem};

/// What an answer says, less its nonce.
fn said(response: &Response) -> (u16, String) {
    (response.status, String::from_utf8_lossy(&response.body).into_owned())
}

/// The same URL with another id of the same form in the place of this one.
fn elsewhere(url: &str, id: &str, other: char) -> String {
    let made_up: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { other } else { c }).collect();
    url.replace(id, &made_up)
}

#[test]
fn what_is_anothers_is_answered_as_if_it_were_not_there() {
    let scene = Scene::new(Settings::with(Keys::Software));
    let (owner, other) = (&scene.client, scene.another());
    let order = scene.ready_order("www.example.test");
    let (request, key) = csr(&["www.example.test"]).unwrap();
    let account = owner.account().unwrap();
    let orders = owner.read(&account).unwrap()["orders"].as_str().unwrap().to_owned();
    let authorization = order.body["authorizations"][0].as_str().unwrap().to_owned();
    let challenge = owner.read(&authorization).unwrap()["challenges"][0]["url"].as_str().unwrap().to_owned();
    let finalize = order.body["finalize"].as_str().unwrap().to_owned();
    let id = |url: &str| url.split('/').nth(6).unwrap().to_owned();
    let post = |client: &Client, url: &str, payload: &str| client.post(url, payload).unwrap();

    let deactivate = json!({ "status": "deactivated" }).to_string();
    let csr_payload = json!({ "csr": acme::base64url(&request) }).to_string();
    let compare = |what: &str, url: &str, payload: &str| {
        let there = post(&other, url, payload);
        let nowhere = post(&other, &elsewhere(url, &id(url), '0'), payload);
        assert!([401, 403, 404].contains(&there.status), "{what}: {:?}", said(&there));
        assert_eq!(said(&there), said(&nowhere), "{what}: that it exists can be told");
    };
    for (what, url, payload) in [
        ("the account", account.as_str(), ""),
        ("its end", &account, deactivate.as_str()),
        ("its contacts", &account, r#"{"contact":["mailto:evil@example.com"]}"#),
        ("its orders", &orders, ""),
        ("the next page of its orders", &format!("{orders}?cursor=1"), ""),
        ("the order", &order.url, ""),
        ("its finalization", &finalize, &csr_payload),
        ("the authorization", &authorization, ""),
        ("its end", &authorization, &deactivate),
        ("the challenge", &challenge, ""),
        ("the response to it", &challenge, "{}"),
    ] {
        compare(what, url, payload);
    }
    let valid = owner.finalize(&order, &request).unwrap();
    let (kept, der) = scene.download(&order, &key);
    let valid = owner.settled(&order, &["valid"]).map(|order| order.body).unwrap_or(valid);
    let certificate = valid["certificate"].as_str().unwrap();
    let there = post(&other, certificate, "");
    let serial = certificate.rsplit('-').next().unwrap();
    let nowhere = post(&other, &certificate.replace(serial, &"1".repeat(serial.len())), "");
    expect_problem("the certificate", &there, 404, "malformed");
    assert_eq!(said(&there), said(&nowhere));

    // The owner's name under the other's signature, and a key that is not the other's to bring along.
    let forge = |url: &str, payload: &str| {
        let mut protected = other.protected(url).unwrap();
        protected["kid"] = account.clone().into();
        let jws = other.key.sign(&protected, payload).unwrap().to_string();
        other.post_raw(url, JOSE, jws.as_bytes()).unwrap()
    };
    for (url, payload) in [(&account, ""), (&account, &deactivate), (&order.url, ""), (&orders, "")] {
        expect_problem("a forged kid", &forge(url, payload), 400, "malformed");
    }
    let url = scene.resource("keyChange");
    let new = Key::generate().unwrap();
    let change = |account: &str, old: &Value, inner: &Key, named: &Value| {
        let header = json!({ "alg": "ES256", "jwk": named, "url": url });
        let payload = json!({ "account": account, "oldKey": old });
        inner.sign(&header, &payload.to_string()).unwrap().to_string()
    };
    for (what, payload, status) in [
        ("another's account", change(&account, &owner.key.jwk(), &new, &new.jwk()), 400),
        ("another's account by one's own key", change(&account, &other.key.jwk(), &new, &new.jwk()), 400),
        ("another's key", change(&other.account().unwrap(), &other.key.jwk(), &new, &owner.key.jwk()), 400),
    ] {
        expect_problem(what, &post(&other, &url, &payload), status, "malformed");
    }

    // Revocation: whoever has the certificate knows that it exists; whose it is, nobody is told.
    let url = scene.resource("revokeCert");
    let payload = json!({ "certificate": acme::base64url(&der) }).to_string();
    for response in [post(&other, &url, &payload), post(&scene.another(), &url, &payload)] {
        expect_problem("another's certificate", &response, 403, "unauthorized");
        assert!(!said(&response).1.contains(&id(&account)), "{:?}", said(&response));
    }
    let mut altered = der;
    *altered.last_mut().unwrap() ^= 1;
    let payload = json!({ "certificate": acme::base64url(&altered) }).to_string();
    expect_problem("a certificate that is not ours", &post(&other, &url, &payload), 404, "malformed");

    assert_eq!(owner.read(&account).unwrap()["contact"], json!(["mailto:operator@example.com"]));
    assert_eq!(owner.read(&authorization).unwrap()["status"], "valid");
    assert_eq!(owner.read(&order.url).unwrap()["status"], "valid");
    assert_eq!(kept.status(), Status::Good);
    scene.expect_unharmed();
}

#[test]
fn hostile_ids_find_nothing_on_the_pages_that_need_no_signature() {
    let scene = Scene::new(Settings::with(Keys::Software));
    let order = scene.ready_order("www.example.test");
    let https = &scene.client.https;
    let get = |url: &str| https.request("GET", url, &[], &[]).unwrap();
    let explanation = format!("{}/explanation", order.url);
    assert_eq!(get(&explanation).status, 200);
    let order_id = order.url.rsplit('/').next().unwrap();
    let renewal = scene.resource("renewalInfo");
    let long = "A".repeat(8000);
    for id in [
        "x",
        "%00",
        "%2e%2e%2f%2e%2e%2fpassphrase",
        "..%2f..%2fchancery.toml",
        "%ff%fe",
        "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "'%20OR%20'1'='1",
        "0",
        "-1",
        "18446744073709551616",
        "AAAA.AAAA",
        ".",
        "%2e",
        "AAAA.",
        ".AAAA",
        "AAAA.AAAA.AAAA",
        "====.====",
        &order_id.to_uppercase(),
        &long,
        &format!("{}.{}", &long[..4000], &long[..3000]),
    ] {
        for url in [explanation.replace(order_id, id), format!("{renewal}/{id}")] {
            let response = get(&url);
            let body = String::from_utf8_lossy(&response.body);
            assert!([400, 404].contains(&response.status), "{url}: {} {body}", response.status);
            assert!(acme::kind(&response).is_some(), "{url}: {body}");
            assert!(!body.contains("<script") && body.len() < 1000, "{url}: {body}");
        }
    }
    // An order is explained in its own directory only, and by its own id only.
    let account = scene.client.account().unwrap();
    let authorization = order.body["authorizations"][0].as_str().unwrap();
    let authorization_id = authorization.rsplit('/').next().unwrap();
    for url in [
        explanation.replace("/default/", "/nobody/"),
        explanation.replace(order_id, authorization_id),
        explanation.replace(order_id, account.rsplit('/').next().unwrap()),
        format!("{}/explanation", authorization.replace(authorization_id, order_id)),
    ] {
        assert_eq!(get(&url).status, 404, "{url}");
    }
    let metrics = scene.chancery.metrics_url().unwrap();
    assert_eq!(http::get(&format!("{metrics}/healthz")).unwrap().status, 200);
    scene.expect_unharmed();
}
