//! Hostile and unlucky surroundings of a running server: garbage on every listener, clients that never finish, a full
//! disk, a clock that went back, a token that went away. Each is answered clearly; nothing panics, hangs or is a 500.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::acme::{self, Client, JOSE, Key, Order, csr};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::dns::{Data, Dns};
use e2e::http::{self, Response};
use e2e::judges::{CertIdHash, Status};
use e2e::program::{command, succeed, system_tool};
use e2e::{Deadline, eventually};
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use serde_json::{Value, json};

use crate::misconfigured::Mount;
use crate::verdicts::{Kept, expect_revoked};

/// A running Chancery with one account.
struct Scene {
    dns: Dns,
    client: Client,
    chancery: Chancery,
}

impl Scene {
    fn new(settings: Settings) -> Self {
        let dns = Dns::start().unwrap();
        let chancery = Chancery::start(&settings.dns(dns.address())).unwrap();
        Self::with(chancery, dns)
    }

    fn with(chancery: Chancery, dns: Dns) -> Self {
        let ready = chancery.ready().unwrap();
        let client = Client::registered(&ready.acme_directory, &ready.roots_pem).unwrap();
        Self { dns, client, chancery }
    }

    fn ready_order(&self, name: &str) -> Order {
        let order = self.client.order(&[("dns", name)]).unwrap();
        for challenge in self.client.challenges(&order, "dns-01").unwrap() {
            self.dns.add(&format!("_acme-challenge.{}", challenge.name), Data::Txt(challenge.dns_value()));
            self.client.respond(&challenge).unwrap();
        }
        self.client.settled(&order, &["ready"]).unwrap()
    }

    fn issue(&self, name: &str) -> (Kept, Vec<u8>) {
        let order = self.ready_order(name);
        let (csr, key) = csr(&[name]).unwrap();
        self.client.finalize(&order, &csr).unwrap();
        self.download(&order, &key)
    }

    fn download(&self, order: &Order, key: &str) -> (Kept, Vec<u8>) {
        let order = self.client.settled(order, &["valid"]).unwrap();
        let chain = self.client.download(&order).unwrap();
        (Kept::new(&self.chancery.ready().unwrap().roots_pem, &chain, key), chain[0].clone())
    }

    fn resource(&self, name: &str) -> String {
        self.client.resource(name).unwrap()
    }

    fn readiness(&self) -> (u16, String) {
        let response = http::get(&format!("{}/readyz", self.chancery.metrics_url().unwrap())).unwrap();
        (response.status, String::from_utf8(response.body).unwrap())
    }

    /// After whatever was done to it, the server is alive and has not even stumbled.
    fn expect_unharmed(&self) {
        let health = http::get(&format!("{}/healthz", self.chancery.metrics_url().unwrap())).unwrap();
        assert_eq!(health.status, 200);
        let log = self.chancery.log();
        assert!(!log.contains("panicked") && !log.contains("\"ERROR\""), "the log shows trouble");
        let (kept, _) = self.issue("afterwards.example.test");
        assert_eq!(kept.status(), Status::Good);
    }
}

fn expect_problem(what: &str, response: &Response, status: u16, kind: &str) {
    let shown = String::from_utf8_lossy(&response.body);
    assert_eq!((response.status, acme::kind(response).as_deref()), (status, Some(kind)), "{what}: {shown}");
    let problem: Value = serde_json::from_slice(&response.body).unwrap();
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {shown}");
}

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

#[test]
fn garbage_on_the_pki_and_metrics_listeners_gets_a_clear_answer() {
    let scene = Scene::new(Settings::with(Keys::Software));
    let (kept, _) = scene.issue("www.example.test");
    let base = scene.chancery.pki_url().unwrap();
    let ocsp = format!("{base}/ocsp");
    let request = ocsp_request(&kept);
    let post = |body: &[u8]| http::post(&ocsp, "application/ocsp-request", body).unwrap();
    let answer = post(&request);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/ocsp-response")));
    assert_eq!(answer.body[4..7], [0x0a, 0x01, 0x00], "successful");

    // OCSPResponse { responseStatus malformedRequest }.
    let malformed = [0x30, 0x03, 0x0a, 0x01, 0x01];
    for length in 0..request.len() {
        assert_eq!(post(&request[..length]).body, malformed, "cut at {length}");
    }
    assert_eq!(post(&[request.as_slice(), &[0]].concat()).body, malformed);
    for position in 0..request.len() {
        let mut damaged = request.clone();
        damaged[position] ^= 0x40;
        let answer = post(&damaged);
        // Whatever it says now, it is an OCSP response: most damage makes another serial or another issuer.
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/ocsp-response")));
    }
    for garbage in [&b"GET / HTTP/1.1\r\n"[..], &[0xff; 300], b"\x30\x84\x7f\xff\xff\xff\x30"] {
        assert_eq!(post(garbage).body, malformed);
    }
    let answer = post(&[0x30; 200_000]);
    assert!(answer.body == malformed || (400..500).contains(&answer.status), "{answer:?}");
    let answer = http::post(&ocsp, "text/plain", &request).unwrap();
    assert!(answer.status < 500);
    for path in ["%", "%zz", "!!!!", "AAAA", "%00", "MEIwQDA%2BMDwwOjAJ"] {
        let answer = http::get(&format!("{ocsp}/{path}")).unwrap();
        assert!(answer.body == malformed || (400..500).contains(&answer.status), "{path}: {answer:?}");
    }
    assert!(http::get(&ocsp).unwrap().status < 500);

    // Paths that are not there, or lead out of it.
    for path in [
        "/crl/issuing-1/99.crl",
        "/crl/issuing-1/-1.crl",
        "/crl/issuing-1/18446744073709551616.crl",
        "/crl/nobody/0.crl",
        "/crl/../passphrase",
        "/crl/..%2f..%2fchancery.toml",
        "/ca/../../../../etc/passwd",
        "/ca/%00.cer",
        "/issuer/nobody/ocsp/AAAA",
        "//",
        "/acme/default/directory",
    ] {
        let answer = http::get(&format!("{base}{path}")).unwrap();
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
    let metrics = scene.chancery.metrics_url().unwrap();
    assert_eq!(http::get(&format!("{metrics}/nothing")).unwrap().status, 404);
    assert_eq!(http::post(&format!("{metrics}/metrics"), "text/plain", b"x").unwrap().status, 405);

    // What is no HTTP, on every listener; and plain HTTP on the one that speaks TLS.
    for address in scene.chancery.addresses().unwrap() {
        for garbage in [
            &b"\0\0\0\0\0\0\0\0"[..],
            b"\x16\x03\x01\xff\xff\x01\x00\x00",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST /ocsp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n",
            b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\xff\x07\0\0\0\0\0",
            &[b"GET / HTTP/1.1\r\nHost: a\r\nX: ", vec![b'x'; 200_000].as_slice(), b"\r\n\r\n"].concat(),
        ] {
            let answer = exchange(address, garbage);
            let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
            assert!(!line.starts_with(b"HTTP/1.1 5"), "{:?}", String::from_utf8_lossy(line));
        }
    }
    scene.expect_unharmed();
}

#[test]
fn hundreds_of_clients_that_never_finish_hinder_nobody() {
    const EACH: usize = 120;
    let bound = Duration::from_secs(3);
    let seconds = bound.as_secs().to_string();
    let settings = Settings::with(Keys::Software).set("CHANCERY__LISTEN__HEADER_TIMEOUT_SECONDS", &seconds);
    let scene = Scene::new(settings);
    let [acme, pki, metrics] = scene.chancery.addresses().unwrap();
    let mut idle = Vec::new();
    for (address, start) in [
        // Never a TLS handshake, half of one, half a header, and a body that does not come.
        (acme, &b""[..]),
        (acme, b"\x16\x03\x01\x02\x00"),
        (pki, b"GET /roots.pem HTTP/1.1\r\nHost: a\r\nX-Slow: "),
        (metrics, b"G"),
    ] {
        for _ in 0..EACH {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(start).unwrap();
            idle.push(stream);
        }
    }
    // The same inside TLS.
    let mut inside = Vec::new();
    for _ in 0..20 {
        let mut tls = scene.client.https.connect().unwrap();
        tls.write_all(b"POST /acme/default/new-order HTTP/1.1\r\nHost: a\r\nX-Slow: ").unwrap();
        tls.flush().unwrap();
        inside.push(tls);
    }
    let (kept, _) = scene.issue("www.example.test");
    assert_eq!(kept.status(), Status::Good);
    scene.expect_unharmed();

    // And each is shown the door.
    let deadline = Deadline::after(bound + Duration::from_secs(10));
    for stream in idle.iter_mut().chain(inside.iter_mut().map(|tls| &mut tls.sock)) {
        stream.set_read_timeout(Some(deadline.remaining().max(Duration::from_millis(1)))).unwrap();
        let mut rest = Vec::new();
        // Closed, reset, or told 408 and closed: anything but silence.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "a connection is kept open");
        }
    }
}

#[test]
fn on_a_full_disk_nothing_is_issued_and_what_was_issued_can_be_revoked() {
    let dns = Dns::start().unwrap();
    let mut chancery = Chancery::prepare(&Settings::with(Keys::Software).dns(dns.address())).unwrap();
    let data = chancery.data();
    fs::create_dir(&data).unwrap();
    let root = geteuid().is_root();
    let watermark: u64 = 8 << 20;
    chancery.set("CHANCERY__STORE__MIN_FREE_BYTES", &watermark.to_string());
    let mount = root.then(|| Mount::tmpfs(&data, "size=40m"));
    chancery.restart().unwrap();
    let mut scene = Scene::with(chancery, dns);
    // To go before the scene, whose directory can't be removed while something is mounted in it.
    let _mount = mount;
    let (first, first_der) = scene.issue("first.example.test");
    let (second, second_der) = scene.issue("second.example.test");
    let order = scene.ready_order("third.example.test");
    let (request, key) = csr(&["third.example.test"]).unwrap();

    // Above zero, below the watermark.
    let filler = data.join("filler");
    if root {
        fill(&filler, free(&data) - watermark / 2);
    } else {
        eprintln!("not root: no disk can be filled, so only the watermark is tried");
        scene.chancery.stop().unwrap();
        scene.chancery.set("CHANCERY__STORE__MIN_FREE_BYTES", &(1_u64 << 60).to_string());
        // It can't become ready, and is not waited for.
        scene.chancery.launch().unwrap();
    }
    // The store asks now and then how much room there is.
    let new_order = json!({ "identifiers": [{ "type": "dns", "value": "a.test" }] }).to_string();
    let response = eventually("no order to be taken", Duration::from_secs(20), || {
        let response = scene.client.post(&scene.resource("newOrder"), &new_order)?;
        Ok((response.status != 201).then_some(response))
    })
    .unwrap();
    expect_problem("newOrder on a full disk", &response, 503, "serverInternal");
    let url = order.body["finalize"].as_str().unwrap().to_owned();
    let payload = json!({ "csr": acme::base64url(&request) }).to_string();
    let response = scene.client.post(&url, &payload).unwrap();
    expect_problem("finalize on a full disk", &response, 503, "serverInternal");
    assert!(response.header("retry-after").is_some());
    let (status, report) = scene.readiness();
    assert!(status == 503 && report.contains("full"), "{report}");
    scene.client.revoke(&first_der, 4).unwrap();
    expect_revoked(&first.case, "superseded");

    if root {
        // To the last byte: even revoking may fail now, but clearly; and OCSP goes on.
        fill(&data.join("rest"), u64::MAX);
        let payload = json!({ "certificate": acme::base64url(&second_der), "reason": 4 }).to_string();
        let response = scene.client.post(&scene.resource("revokeCert"), &payload).unwrap();
        assert!([200, 503].contains(&response.status), "{}", String::from_utf8_lossy(&response.body));
        assert_ne!(second.status(), Status::Unknown);
        fs::remove_file(data.join("rest")).unwrap();
        fs::remove_file(&filler).unwrap();
    } else {
        scene.chancery.stop().unwrap();
        scene.chancery.set("CHANCERY__STORE__MIN_FREE_BYTES", &watermark.to_string());
        scene.chancery.restart().unwrap();
    }
    // It goes on by itself.
    let response = eventually("finalize to be taken again", Duration::from_secs(20), || {
        let response = scene.client.post(&url, &payload)?;
        Ok((response.status == 200).then_some(response))
    });
    response.unwrap();
    assert_eq!(scene.download(&order, &key).0.status(), Status::Good);
    assert!(!scene.chancery.log().contains("panicked"));
}

#[test]
fn a_clock_behind_the_newest_row_stops_signing_and_not_revoking() {
    let mut scene = Scene::new(Settings::with(Keys::Software));
    let (first, der) = scene.issue("first.example.test");
    let order = scene.ready_order("second.example.test");
    let (request, key) = csr(&["second.example.test"]).unwrap();
    scene.chancery.stop().unwrap();

    let library = fake_clock();
    // Certificates are backdated by five minutes: those that the server has are valid at this time too.
    for (variable, value) in [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", "-3m"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ] {
        scene.chancery.set(variable, value);
    }
    scene.chancery.launch().unwrap();
    let report = eventually("the server to say that its clock is behind", Duration::from_secs(30), || {
        let (status, report) = scene.readiness();
        Ok((status == 503 && report.contains("clock")).then_some(report))
    })
    .unwrap();
    assert!(report.contains("time synchronisation") || report.contains("clock says"), "{report}");

    // Accepted at most, and not carried out.
    let payload = json!({ "csr": acme::base64url(&request) }).to_string();
    let response = scene.client.post(order.body["finalize"].as_str().unwrap(), &payload).unwrap();
    match response.status {
        200 => assert_eq!(acme::body(&response, 200).unwrap()["status"], "processing"),
        _ => expect_problem("finalize with a clock behind", &response, 503, "serverInternal"),
    }
    scene.client.revoke(&der, 4).unwrap();
    let url = first.case.ocsp_url().unwrap();
    let answer = first.case.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap();
    assert_eq!(answer.status, Status::Revoked, "{}", answer.output);
    scene.chancery.stop().unwrap();

    for variable in ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"] {
        scene.chancery.unset(variable);
    }
    scene.chancery.restart().unwrap();
    let order = scene.client.settled(&order, &["ready", "processing", "valid"]).unwrap();
    if order.body["status"] == "ready" {
        scene.client.finalize(&order, &request).unwrap();
    }
    assert_eq!(scene.download(&order, &key).0.status(), Status::Good);
    expect_revoked(&first.case, "superseded");
}

#[test]
fn an_order_waits_for_a_token_that_went_away() {
    let scene = Scene::new(Settings::with(Keys::SoftHsm));
    let (first, der) = scene.issue("first.example.test");
    let order = scene.ready_order("second.example.test");
    let (request, key) = csr(&["second.example.test"]).unwrap();
    let tokens = scene.chancery.token().unwrap().tokens();
    let away = tokens.with_file_name("away");
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    eventually("the server to say that it can't sign", Duration::from_secs(30), || {
        Ok((scene.readiness().0 == 503).then_some(()))
    })
    .unwrap();
    let finalized = scene.client.finalize(&order, &request).unwrap();
    assert_eq!(finalized["status"], "processing");
    // What needs no signature of the CA's goes on.
    assert_eq!(first.status(), Status::Good);
    first.case.openssl_verify(&first.case.fetch_crls().unwrap()).unwrap();
    fs::remove_dir(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    assert_eq!(scene.download(&order, &key).0.status(), Status::Good);
    scene.client.revoke(&der, 4).unwrap();
    expect_revoked(&first.case, "superseded");
    assert!(!scene.chancery.log().contains("panicked"));
}

/// Sends bytes that may be anything, and says that no more come; gives what came back until the far side hung up.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    // The far side may hang up before it has read everything.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "no answer to {:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    answer
}

/// A request for a certificate's status, made by OpenSSL.
fn ocsp_request(kept: &Kept) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("request.der");
    let mut openssl = command(system_tool("openssl").unwrap());
    openssl
        .args(["ocsp", "-no_nonce", "-issuer"])
        .arg(&kept.issued.chain)
        .arg("-cert")
        .arg(&kept.issued.certificate);
    succeed(openssl.arg("-reqout").arg(&file)).unwrap();
    fs::read(file).unwrap()
}

/// What the user of a directory's disk can still write.
fn free(directory: &Path) -> u64 {
    let stat = statvfs(directory).unwrap();
    stat.blocks_available() * stat.fragment_size()
}

/// Writes a file of this size, or as much of it as there is room for.
fn fill(path: &Path, size: u64) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        match file.write(&block[..length]) {
            Ok(written) => left -= u64::try_from(written).unwrap(),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The library of libfaketime that changes what time a program with threads sees.
fn fake_clock() -> PathBuf {
    let base = Path::new("/usr/lib");
    let places = fs::read_dir(base).unwrap().filter_map(Result::ok).map(|entry| entry.path());
    places
        .chain([base.to_owned()])
        .map(|place| place.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .expect("libfaketime is not installed: run `cargo xtask tools`")
}
