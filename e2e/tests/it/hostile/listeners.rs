//! Garbage on every listener: what is no OCSP request, no path and no HTTP.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::chancery::{Keys, Settings};
use e2e::http;
use e2e::program::{command, succeed, system_tool};

use super::Scene;
use crate::verdicts::Kept;

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

/// Sends bytes that may be anything, and says that no more come; gives what came back until the far side hung up.
pub(super) fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
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
