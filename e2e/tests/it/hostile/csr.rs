//! Wrong CSRs (RFC 2986) and revocations of what is no certificate.

use e2e::acme::{self, csr};
use e2e::chancery::{Keys, Settings};
use e2e::judges::Status;
use serde_json::json;

use super::{Scene, expect_problem};

#[test]
fn a_wrong_csr_is_refused_and_leaves_the_order_ready() {
    let scene = Scene::new(Settings::with(Keys::Software));
    let order = scene.ready_order("www.example.test");
    let url = order.body["finalize"].as_str().unwrap();
    let finalize = |csr: &[u8]| {
        let payload = json!({ "csr": acme::base64url(csr) }).to_string();
        scene.client.post(url, &payload).unwrap()
    };
    let (right, key) = csr(&["www.example.test"]).unwrap();
    let mut forged = right.clone();
    // The last octet of the signature.
    *forged.last_mut().unwrap() ^= 1;
    let mut garbage = Vec::new();
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("zeros", &[0; 64]),
        ("a huge length", b"\x30\x84\xff\xff\xff\xff"),
        ("PEM", b"-----BEGIN CERTIFICATE REQUEST-----"),
        ("a forged signature", &forged),
        ("another name", &csr(&["evil.example.test"]).unwrap().0),
        ("one name more", &csr(&["www.example.test", "evil.example.test"]).unwrap().0),
        ("no name", &csr(&[]).unwrap().0),
        ("octets after it", &[right.as_slice(), &[0]].concat()),
    ] {
        expect_problem(what, &finalize(bytes), 400, "badCSR");
        garbage.extend_from_slice(bytes);
    }
    for length in (1..right.len()).step_by(13) {
        expect_problem("cut", &finalize(&right[..length]), 400, "badCSR");
    }
    expect_problem("large garbage", &finalize(&garbage.repeat(60)[..30_000]), 400, "badCSR");
    for payload in [json!({}), json!({ "csr": 1 }), json!({ "csr": "=" })] {
        expect_problem("no CSR", &scene.client.post(url, &payload.to_string()).unwrap(), 400, "malformed");
    }
    assert_eq!(scene.client.read(&order.url).unwrap()["status"], "ready");
    scene.client.finalize(&order, &right).unwrap();
    let (kept, der) = scene.download(&order, &key);
    assert_eq!(kept.status(), Status::Good);

    // Revocation of what is no certificate of ours.
    let url = scene.resource("revokeCert");
    for (bytes, reason) in
        [(&b""[..], 1), (&der[..der.len() / 2], 1), (&garbage, 1), (&der, 7), (&der, 99), (&der, -1)]
    {
        let payload = json!({ "certificate": acme::base64url(bytes), "reason": reason }).to_string();
        let response = scene.client.post(&url, &payload).unwrap();
        assert!((400..500).contains(&response.status), "{}", String::from_utf8_lossy(&response.body));
        assert!(acme::kind(&response).is_some());
    }
    assert_eq!(kept.status(), Status::Good);
    scene.expect_unharmed();
}
