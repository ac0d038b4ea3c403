//! Crowds: clients that never finish, more of them than there are places, and floods of requests.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use e2e::Deadline;
use e2e::chancery::{Keys, Settings};
use e2e::judges::Status;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use super::{Scene, expect_problem};

/// How much more memory the server may keep after a second crowd than after the first: the buffers of a few hundred of
/// its connections, which the allocator has not handed back.
const KEPT_BYTES: u64 = 24 << 20;

/// This process needs a file for each connection; the server raises its own limit by itself.
fn raise_open_file_limit(files: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= files, "this test opens {files} files, and this user may have {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

#[test]
fn ten_thousand_connections_that_ask_nothing_hinder_nobody() {
    const CROWD: usize = 10_000;
    raise_open_file_limit(12_000);
    // Nobody who asks nothing is shown the door for that alone within this test.
    let settings = Settings::with(Keys::Software).set("CHANCERY__LISTEN__HEADER_TIMEOUT_SECONDS", "600");
    let scene = Scene::new(settings);
    let (kept, _) = scene.issue("before.example.test");
    let [acme, pki, _] = scene.chancery.addresses().unwrap();
    let mut memory = Vec::new();
    for round in 0..2 {
        let mut crowd = Vec::new();
        for number in 0..CROWD {
            // Half a TLS record to the one, half a header to the other: more than either has places for.
            let (address, start) = match number % 2 {
                0 => (acme, &b"\x16\x03\x01\x02\x00"[..]),
                _ => (pki, &b"GET /roots.pem HTTP/1.1\r\nHost: a\r\nX-Slow: "[..]),
            };
            let mut stream = TcpStream::connect(address).unwrap();
            // Whoever was shown the door already can't.
            let _ = stream.write_all(start);
            crowd.push(stream);
        }
        // The crowd is still there, and everybody else is served.
        let (issued, _) = scene.issue(&format!("round{round}.example.test"));
        assert_eq!((issued.status(), kept.status()), (Status::Good, Status::Good));
        drop(crowd);
        scene.expect_unharmed();
        memory.push(scene.memory_bytes());
    }
    assert!(memory[1] < memory[0] + KEPT_BYTES, "{memory:?} bytes after the crowds");
}

#[test]
fn who_sends_a_byte_now_and_then_is_cut_off_all_the_same() {
    let settings = Settings::with(Keys::Software)
        .set("CHANCERY__LISTEN__HEADER_TIMEOUT_SECONDS", "1")
        .set("CHANCERY__LISTEN__REQUEST_TIMEOUT_SECONDS", "2");
    let scene = Scene::new(settings);
    let [_, pki, _] = scene.chancery.addresses().unwrap();
    let post = "POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Type: application/ocsp-request\r\nContent-Length: 9999\r\n\r\n";
    let jose = "POST /acme/default/new-order HTTP/1.1\r\nHost: a\r\nContent-Type: application/jose+json\r\nContent-Length: 9999\r\n\r\n";
    std::thread::scope(|scope| {
        for start in ["GET /roots.pem HTTP/1.1\r\nHost: a\r\nX-Slow: ", post] {
            scope.spawn(move || {
                let stream = TcpStream::connect(pki).unwrap();
                let socket = stream.try_clone().unwrap();
                trickle("the PKI listener", stream, &socket, start);
            });
        }
        for start in ["GET /acme/default/directory HTTP/1.1\r\nHost: a\r\nX-Slow: ", jose] {
            let https = &scene.client.https;
            scope.spawn(move || {
                let stream = https.connect().unwrap();
                let socket = stream.sock.try_clone().unwrap();
                trickle("the ACME listener", stream, &socket, start);
            });
        }
        // No TLS record ever ends.
        let acme = scene.chancery.addresses().unwrap()[0];
        scope.spawn(move || {
            let mut stream = TcpStream::connect(acme).unwrap();
            let socket = stream.try_clone().unwrap();
            stream.write_all(b"\x16\x03\x01\x40\x00").unwrap();
            trickle("a handshake", stream, &socket, "\x01");
        });
    });
    scene.expect_unharmed();
}

/// Sends `start` and then a byte each 100 ms until the far side hangs up, which it must within 10 s.
fn trickle(what: &str, mut stream: impl Read + Write, socket: &TcpStream, start: &str) {
    stream.write_all(start.as_bytes()).unwrap();
    stream.flush().unwrap();
    let deadline = Deadline::after(Duration::from_secs(10));
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = [0; 1024];
    loop {
        assert!(!deadline.has_passed(), "{what} waits for as long as a byte comes now and then");
        if stream.write_all(b"x").and_then(|()| stream.flush()).is_err() {
            return;
        }
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn a_flood_of_authorizations_ends_at_the_accounts_limit() {
    const LIMIT: usize = 20;
    let settings = Settings::with(Keys::Software)
        .set("CHANCERY__ACME__AUTHORIZATION_REUSE_SECONDS", "3600")
        .set("CHANCERY__ACME__LIMITS__MAX_PENDING_AUTHORIZATIONS", &LIMIT.to_string());
    let scene = Scene::new(settings);
    let (flooding, url) = (scene.another(), scene.resource("newAuthz"));
    let made: Vec<u16> = std::thread::scope(|scope| {
        let ask = |from: usize| {
            let (flooding, url) = (&flooding, &url);
            move || {
                (from..from + LIMIT)
                    .map(|number| {
                        let name = format!("n{number}.flood.test");
                        let payload = json!({ "identifier": { "type": "dns", "value": name } });
                        let response = flooding.post(url, &payload.to_string()).unwrap();
                        if response.status != 201 {
                            expect_problem("one too many", &response, 429, "rateLimited");
                        }
                        response.status
                    })
                    .collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(ask(thread * 1000))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|status| **status == 201).count(), LIMIT);
    let (kept, _) = scene.issue("www.example.test");
    assert_eq!(kept.status(), Status::Good);
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
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "a connection is kept open");
        }
    }
}
