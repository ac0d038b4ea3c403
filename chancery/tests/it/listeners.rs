//! Connections are bounded in time and number.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ca_core::time::Stopwatch;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::harness::{Site, field, get, text};

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
        assert!(!matches!(&ended, Err(e) if e.kind() == ErrorKind::WouldBlock), "{listener}: {ended:?}");
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

/// Sends requests and takes no answer: how the connection ended for the one who sends.
fn ask_without_end(mut connection: impl Write) -> std::io::Error {
    let requests = "GET /roots.pem HTTP/1.1\r\nHost: ca\r\n\r\n".repeat(100);
    loop {
        if let Err(error) = connection.write_all(requests.as_bytes()).and_then(|()| connection.flush()) {
            return error;
        }
    }
}

#[test]
fn a_client_that_takes_no_answer_is_cut_off() {
    let mut site = Site::new();
    site.set("CHANCERY__LISTEN__STALL_TIMEOUT_SECONDS", "1");
    let (_server, _) = site.up();
    let cut_off = |listener: &str, error: &std::io::Error| {
        // A write that has waited until its own time was over would be `WouldBlock`: the connection was kept.
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{listener}: {error}");
    };
    let connect = |listener| {
        let stream = TcpStream::connect(site.address(listener)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    for listener in ["pki", "metrics"] {
        cut_off(listener, &ask_without_end(connect(listener)));
    }
    let mut tls = tls_client(&site);
    let mut stream = connect("acme");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).unwrap();
    }
    cut_off("acme", &ask_without_end(WriteOnly(tls, stream)));
    assert_eq!(site.get("pki", "/roots.pem").0, 200);
}

/// TLS that sends and never receives.
struct WriteOnly(rustls::ClientConnection, TcpStream);

impl Write for WriteOnly {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.0.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(&mut self.1)?;
        }
        Ok(())
    }
}

/// A TLS client that trusts this CA.
fn tls_client(site: &Site) -> rustls::ClientConnection {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(site.data().join("roots.pem")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

#[test]
fn asking_often_whether_it_is_ready_makes_few_signatures() {
    let site = Site::new();
    let (_server, _) = site.up();
    let signatures = || -> u64 {
        let text = text(&site.get("metrics", "/metrics").1);
        let counts = text.lines().filter(|line| line.starts_with("chancery_hsm_signing_seconds_count"));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    let before = signatures();
    assert!(before > 0);
    let clock = Stopwatch::start();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(site.get("metrics", "/readyz").0, 200);
                }
            });
        }
    });
    // One each 2 s, and those of other work of a new CA.
    let most = clock.elapsed().as_secs() / 2 + 20;
    let made = signatures() - before;
    assert!(made <= most, "{made} signatures");
}

#[test]
fn a_listener_whose_certificate_is_revoked_gets_another() {
    let site = Site::new();
    let (_server, _) = site.up();
    let served = || {
        let mut stream = TcpStream::connect(site.address("acme")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut tls = tls_client(&site);
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        tls.peer_certificates().unwrap()[0].to_vec()
    };
    let first = served();
    let certificates = site.json(&["certificate", "list"]);
    let of_listener = |row: &&serde_json::Value| field(row, "profile") == "listener";
    let row = certificates.as_array().unwrap().iter().find(of_listener).unwrap();
    site.json(&["certificate", "revoke", &field(row, "id")]);
    let clock = Stopwatch::start();
    while served() == first {
        assert!(clock.elapsed() < Duration::from_secs(20), "the revoked certificate is still served");
        std::thread::yield_now();
    }
}
