//! Answers to validation that never end, lead in circles or are far too large: the attempt ends, and others go on.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::channel;

use e2e::chancery::{Keys, Settings};
use e2e::dns::Data;
use e2e::far_side::FarSide;
use e2e::judges::Status;

use super::Scene;

/// How much more memory the server may have after all this.
const KEPT_BYTES: u64 = 64 << 20;

/// The longest text that fits into one DNS message of 64 KiB as one record.
const LONGEST: usize = 64_000;

#[test]
fn answers_without_end_or_measure_end_and_hinder_nobody() {
    const EACH: usize = 3;
    let settings = Settings::with(Keys::Software)
        .set("CHANCERY__ACME__CHALLENGES", r#"["http-01","dns-01","dns-persist-01"]"#)
        .set("CHANCERY__ACME__CAA_IDENTITIES", r#"["ca.example.test"]"#);
    let scene = Scene::new(settings);
    let (before, _) = scene.issue("before.example.test");
    let memory = scene.memory_bytes();
    // Held back until the test is over: a far side that goes on and on.
    let (release, held) = channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let _far = FarSide::start(scene.chancery.http01(), move |host, target, mut stream| {
        let mut send = |text: &str| stream.write_all(text.as_bytes());
        // Whoever asked hangs up at some point.
        let _ = match host.split('.').nth(1).unwrap_or_default() {
            "endless" => {
                let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
                send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .and_then(|()| (0..100_000).try_for_each(|_| send(&chunk)))
            }
            "header" => send("HTTP/1.1 200 OK\r\n")
                .and_then(|()| (0..100_000).try_for_each(|number| send(&format!("X-{number}: x\r\n")))),
            "interim" => (0..100_000).try_for_each(|_| send("HTTP/1.1 103 Early Hints\r\n\r\n")),
            "circle" => {
                send(&format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"))
            }
            "far" => send(&format!(
                "HTTP/1.1 302 Found\r\nLocation: {target}x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )),
            _ => {
                // Half an answer, and the rest when nobody waits for it any more.
                let begun = send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx");
                let _ = held.lock().map(|held| held.recv());
                begun
            }
        };
    })
    .unwrap();

    let slow = scene.another();
    for number in 0..EACH {
        let name = format!("h{number}.slow.test");
        scene.dns.add(&name, Data::A(Ipv4Addr::LOCALHOST));
        scene.attempt(&slow, ("dns", &name), "http-01");
    }
    let hostile = scene.another();
    let mut attempts = Vec::new();
    for (label, expected, said) in [
        ("endless", "unauthorized", "more than 512"),
        ("header", "incorrectResponse", "header"),
        ("circle", "incorrectResponse", "circle"),
        ("far", "incorrectResponse", "more than 10 redirects"),
    ] {
        for number in 0..EACH {
            let name = format!("h{number}.{label}.test");
            scene.dns.add(&name, Data::A(Ipv4Addr::LOCALHOST));
            let (order, challenge) = scene.attempt(&hostile, ("dns", &name), "http-01");
            attempts.push((order, challenge.url, expected, said));
        }
    }

    // Sets of TXT records as large as a message can be; one record that is; and a record that says more than is read.
    for number in 0..230 {
        scene.dns.add("_acme-challenge.set.test", Data::Txt(format!("{number:0255}")));
    }
    scene.dns.add("_acme-challenge.long.test", Data::Txt("x".repeat(LONGEST)));
    for name in ["set.test", "long.test"] {
        let (order, challenge) = scene.attempt(&hostile, ("dns", name), "dns-01");
        attempts.push((order, challenge.url, "unauthorized", "TXT record"));
    }
    for (name, text, expected) in [
        ("garbage.test", "x ".repeat(LONGEST / 2), "malformed"),
        ("parameters.test", format!("ca.example.test{}", "; a=b".repeat(LONGEST / 5 - 10)), "malformed"),
        ("other.test", format!("other.example.test; note={}", "x".repeat(LONGEST - 40)), "unauthorized"),
    ] {
        scene.dns.add(&format!("_validation-persist.{name}"), Data::Txt(text));
        let (order, challenge) = scene.attempt_without_token(&hostile, name, "dns-persist-01");
        attempts.push((order, challenge, expected, "TXT record"));
    }
    for (order, challenge, expected, said) in attempts {
        let (kind, detail) = scene.failure_at(&hostile, &order, &challenge);
        assert_eq!(kind, expected, "{detail}");
        assert!(detail.contains(said) && detail.len() < 1000, "{detail}");
    }

    // The slow ones are still at it.
    let (issued, _) = scene.issue("www.example.test");
    assert_eq!((issued.status(), before.status()), (Status::Good, Status::Good));
    scene.expect_unharmed();
    let after = scene.memory_bytes();
    assert!(after < memory + KEPT_BYTES, "{memory} bytes before, {after} after");
    drop(release);
}
