//! What is no JWS, and what is a wrong one: RFC 8555 §6 as a server sees it that is asked by anybody.

use e2e::acme::{self, JOSE, Key};
use e2e::chancery::{Keys, Settings};
use serde_json::{Value, json};

use super::{Scene, expect_problem};

#[test]
fn a_wrong_jws_gets_a_problem_document_that_says_what_is_wrong() {
    let scene = Scene::new(Settings::with(Keys::Software));
    let client = &scene.client;
    let url = scene.resource("newOrder");
    let right = json!({ "identifiers": [{ "type": "dns", "value": "www.example.test" }] }).to_string();
    let protected = || client.protected(&url).unwrap();
    let changed = |member: &str, value: Value| {
        let mut header = protected();
        header[member] = value;
        header
    };
    let without = |member: &str| {
        let mut header = protected();
        header.as_object_mut().unwrap().remove(member);
        header
    };
    let signed = |header: &Value| client.key.sign(header, &right).unwrap();
    let send = |body: &[u8]| client.post_raw(&url, JOSE, body).unwrap();

    // What is no JWS at all.
    let whole = signed(&protected()).to_string();
    let deep = format!("{{\"protected\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    for (what, body) in [
        ("nothing", &b""[..]),
        ("a zero", b"\0"),
        ("no UTF-8", b"\xff\xfe\xfd"),
        ("an array", b"[]"),
        ("an empty object", b"{}"),
        ("half of one", &whole.as_bytes()[..whole.len() / 2]),
        ("all but the end", &whole.as_bytes()[..whole.len() - 1]),
        ("more after the end", format!("{whole}{{}}").as_bytes()),
        ("numbers", br#"{"protected":1,"payload":2,"signature":3}"#),
        ("no base64url", br#"{"protected":"+/==","payload":"","signature":""}"#),
        ("deep nesting", deep.as_bytes()),
        ("two protected headers", whole.replacen('{', "{\"protected\":\"e30\",", 1).as_bytes()),
        ("an unprotected header", whole.replacen('{', "{\"header\":{\"alg\":\"none\"},", 1).as_bytes()),
        ("general serialization", whole.replacen('{', "{\"signatures\":[],", 1).as_bytes()),
    ] {
        expect_problem(what, &send(body), 400, "malformed");
    }
    // Cut anywhere, it is never more than malformed.
    for length in (0..whole.len()).step_by(17) {
        expect_problem("cut", &send(&whole.as_bytes()[..length]), 400, "malformed");
    }

    // A JWS that is wrong.
    let stranger = Key::generate().unwrap();
    let jwk = client.key.jwk();
    let mut flipped = signed(&protected());
    flipped["payload"] = acme::base64url(right.replace("www", "evil").as_bytes()).into();
    let replayed = protected();
    assert_eq!(send(signed(&replayed).to_string().as_bytes()).status, 201);
    for (what, jws, status, kind) in [
        ("another payload", flipped, 400, "malformed"),
        ("another's signature", stranger.sign(&protected(), &right).unwrap(), 400, "malformed"),
        ("no algorithm", signed(&changed("alg", "none".into())), 400, "badSignatureAlgorithm"),
        ("a MAC", signed(&changed("alg", "HS256".into())), 400, "badSignatureAlgorithm"),
        ("the wrong algorithm", signed(&changed("alg", "RS256".into())), 400, "badSignatureAlgorithm"),
        (
            "another resource",
            signed(&changed("url", scene.resource("newAccount").into())),
            401,
            "unauthorized",
        ),
        ("another host", signed(&changed("url", "https://evil.example/".into())), 401, "unauthorized"),
        ("no URL", signed(&without("url")), 400, "malformed"),
        ("no nonce", signed(&without("nonce")), 400, "badNonce"),
        ("a made-up nonce", signed(&changed("nonce", "AAAAAAAAAAAAAAAAAAAAAA".into())), 400, "badNonce"),
        ("a used nonce", signed(&replayed), 400, "badNonce"),
        ("two keys", signed(&changed("jwk", jwk)), 400, "malformed"),
        ("no key", signed(&without("kid")), 400, "malformed"),
        ("a critical extension", signed(&changed("crit", json!(["b64"]))), 400, "malformed"),
        (
            "an account that is not",
            signed(&changed("kid", format!("{}x", client.account().unwrap()).into())),
            400,
            "accountDoesNotExist",
        ),
        ("a payload that is no JSON", client.key.sign(&protected(), "{").unwrap(), 400, "malformed"),
        ("a payload of the wrong kind", client.key.sign(&protected(), "[]").unwrap(), 400, "malformed"),
        ("POST-as-GET of a form", client.key.sign(&protected(), "").unwrap(), 400, "malformed"),
    ] {
        expect_problem(what, &send(jws.to_string().as_bytes()), status, kind);
    }
    let refused = send(signed(&changed("alg", "HS256".into())).to_string().as_bytes());
    let algorithms = serde_json::from_slice::<Value>(&refused.body).unwrap()["algorithms"].clone();
    for algorithm in ["ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA"] {
        assert!(algorithms.as_array().unwrap().contains(&algorithm.into()), "{algorithms}");
    }

    // What is wrong around it.
    for size in [70_000, 900_000, 1_500_000] {
        expect_problem("oversized", &send(&vec![b'a'; size]), 413, "malformed");
    }
    // What is far too large is not read to its end, so the client may lose the answer with the connection.
    if let Ok(response) = client.post_raw(&url, JOSE, &vec![b'a'; 30_000_000]) {
        expect_problem("huge", &response, 413, "malformed");
    }
    let response = client.post_raw(&url, "text/plain", whole.as_bytes()).unwrap();
    expect_problem("another media type", &response, 415, "malformed");
    let response = client.https.request("PUT", &url, &[("Content-Type", JOSE)], b"{}").unwrap();
    expect_problem("another method", &response, 405, "malformed");

    // Identifiers, and a subproblem for each that is wrong.
    let names = ["", ".", "a..b", "-a.example", "a\0b.test", "ex ample.test", "*.*.test", "xn--\u{e4}.test"];
    let long = format!("{}.test", "a".repeat(64));
    for name in names.iter().copied().chain([long.as_str()]) {
        let payload = json!({ "identifiers": [{ "type": "dns", "value": name }] }).to_string();
        let response = client.post(&url, &payload).unwrap();
        assert_eq!(response.status, 400, "{name:?}: {}", String::from_utf8_lossy(&response.body));
        let problem: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(problem["subproblems"].as_array().unwrap().len(), 1, "{problem}");
    }
    let payload = json!({ "identifiers": [{ "type": "email", "value": "a@example.test" }] }).to_string();
    expect_problem("an unknown type", &client.post(&url, &payload).unwrap(), 400, "unsupportedIdentifier");

    scene.expect_unharmed();
}
