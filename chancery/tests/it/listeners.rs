//! Connections are bounded in time and number.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::harness::{Site, get};

#[test]
fn a_header_that_never_ends_is_cut_off() {
    let mut site = Site::new();
    site.set("CHANCERY__LISTEN__HEADER_TIMEOUT_SECONDS", "1");
    let (_server, _) = site.up();
    for (listener, bytes) in
        [("pki", &b"GET /roots.pem HTTP/1.1\r\nX: "[..]), ("acme", &b"\x16\x03\x01"[..]), ("metrics", b"G")]
    {
        let mut stream = TcpStream::connect(site.address(listener)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // Closed or reset: either way it does not go on.
        let ended = stream.read_to_end(&mut rest);
        assert!(
            !matches!(&ended, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock),
            "{listener}: {ended:?}"
        );
    }
    assert_eq!(site.get("pki", "/roots.pem").0, 200);
}

/// A handshake that ends well and then silence, with either protocol offered.
#[test]
fn a_tls_connection_that_asks_nothing_is_cut_off() {
    let mut site = Site::new();
    site.set("CHANCERY__LISTEN__HEADER_TIMEOUT_SECONDS", "1");
    let (_server, _) = site.up();
    let address = site.address("acme").to_string();
    for protocols in ["http/1.1", "h2,http/1.1"] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-alpn", protocols, "-connect", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Held open, or the client would end by itself.
        let stdin = client.stdin.take();
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || ended.send(client.wait().is_ok()));
        assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok(true), "{protocols}: still open");
        drop(stdin);
    }
}

#[test]
fn connections_over_the_bound_wait_for_a_place() {
    let mut site = Site::new();
    site.set("CHANCERY__LISTEN__MAX_CONNECTIONS", "2");
    site.set("CHANCERY__LISTEN__HEADER_TIMEOUT_SECONDS", "2");
    let (_server, _) = site.up();
    let _held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(site.address("pki")).unwrap()).collect();
    // Served when the idle ones have been cut off.
    assert_eq!(get(site.address("pki"), "/roots.pem").0, 200);
}

#[test]
fn the_acme_listener_can_speak_plain_http_behind_a_proxy() {
    let mut site = Site::new();
    site.set("CHANCERY__LISTEN__ACME_TLS", "false");
    let (_server, _) = site.up();
    let (status, body) = site.get("acme", "/acme/default/directory");
    assert_eq!(status, 200);
    let directory: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(
        directory["newNonce"].as_str().unwrap().starts_with(&format!("https://{}/", site.address("acme")))
    );
}

#[test]
fn unknown_paths_of_the_pki_listener_are_not_found() {
    let site = Site::new();
    let (_server, _) = site.up();
    for path in ["/", "/crl/issuing-1/99.crl", "/ca/nobody.cer", "/metrics", "/../etc/passwd"] {
        assert_eq!(site.get("pki", path).0, 404, "{path}");
    }
    assert_eq!(site.get("pki", "/ca/issuing-1.cer").0, 200);
    assert_eq!(site.get("pki", "/crl/root-1/0.crl").0, 200);
}
