//! `up`: a CA in one step, the same one the next time, and a clean stop.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Site, field, path, text};

#[test]
fn up_makes_a_ca_and_the_next_one_goes_on_with_it() {
    let site = Site::new();
    let (mut server, first) = site.up();
    assert_eq!(
        field(&first, "acme_directory"),
        format!("https://{}/acme/default/directory", site.address("acme"))
    );
    assert_eq!(field(&first, "roots_pem"), path(&site.data().join("roots.pem")));
    for name in ["acme", "pki", "metrics"] {
        assert_eq!(field(&first["listen"], name), site.address(name).to_string());
    }
    let roots = fs::read_to_string(site.data().join("roots.pem")).unwrap();
    assert!(
        roots.starts_with("-----BEGIN CERTIFICATE-----\n") && roots.ends_with("-----END CERTIFICATE-----\n")
    );
    assert_eq!(site.get("pki", "/roots.pem"), (200, roots.clone().into_bytes()));
    assert_eq!(server.stop().code(), Some(0));

    let (mut server, second) = site.up();
    assert_eq!(first, second);
    assert_eq!(fs::read_to_string(site.data().join("roots.pem")).unwrap(), roots);
    assert_eq!(server.stop().code(), Some(0));
    // The kept listener certificate is used again: one was issued in both runs.
    let rows = site.json(&["certificate", "list"]);
    let listeners = rows.as_array().unwrap().iter().filter(|row| row["profile"] == "listener").count();
    assert_eq!(listeners, 1);
}

#[test]
fn up_prints_what_a_newcomer_needs() {
    let site = Site::new();
    let server = site.start(&["up"], &[("acme", "acme"), ("pki", "pki"), ("metrics", "metrics")]);
    let mut printed = String::new();
    while !printed.contains("Ctrl-C") {
        printed.push_str(&server.line());
        printed.push('\n');
    }
    let roots = path(&site.data().join("roots.pem"));
    let directory = format!("https://{}/acme/default/directory", site.address("acme"));
    for said in [
        "protects\ncopies of the keys, not this disk".to_owned(),
        format!("ACME directory  {directory}"),
        format!("roots           {roots}"),
        format!("REQUESTS_CA_BUNDLE={roots} certbot certonly --standalone"),
        format!("LEGO_CA_CERTIFICATES={roots} lego --server {directory}"),
    ] {
        assert!(printed.contains(&said), "{said}\nin:\n{printed}");
    }
}

#[test]
fn keys_and_passphrases_are_closed_to_others() {
    let site = Site::new();
    let (_server, _) = site.up();
    let mode = |name: &str| fs::metadata(site.data().join(name)).unwrap().permissions().mode() & 0o777;
    for closed in ["passphrase", "ocsp/passphrase", "acme/tls.json", "run/admin.sock"] {
        assert_eq!(mode(closed), 0o600, "{closed}");
    }
    for closed in ["keys", "acme", "ocsp", "crl"] {
        assert_eq!(mode(closed), 0o700, "{closed}");
    }
    for shared in ["", "run", "chancery.toml", "roots.pem", "store.db"] {
        assert_eq!(mode(shared) & 0o027, 0, "{shared}");
    }
}

#[test]
fn a_stop_lets_the_request_in_flight_finish_and_ends_within_ten_seconds() {
    let site = Site::new();
    let (mut server, _) = site.up();
    // A request whose header is not complete yet, one that is idle, and one that never sends a byte.
    let mut half = TcpStream::connect(site.address("pki")).unwrap();
    half.write_all(b"GET /roots.pem HTTP/1.1\r\nHost: x\r\n").unwrap();
    let mut idle = TcpStream::connect(site.address("pki")).unwrap();
    idle.write_all(b"GET /roots.pem HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    idle.read_exact(&mut [0; 12]).unwrap();
    let _silent = TcpStream::connect(site.address("acme")).unwrap();
    let began = ca_core::time::Stopwatch::start();
    assert_eq!(server.stop().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(server.log().contains("stopped"));
}

#[test]
fn the_metrics_of_store_keys_issuance_ocsp_and_crls_move() {
    let site = Site::new();
    let (_server, _) = site.up();
    let (status, body) = site.get("metrics", "/metrics");
    assert_eq!(status, 200);
    let text = text(&body);
    assert!(text.ends_with("# EOF\n"));
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    for moved in [
        "chancery_hsm_signing_seconds_count",
        "chancery_store_commit_duration_seconds_count",
        "chancery_store_wal_bytes",
        "chancery_issuance_stage_seconds_count{stage=\"reserve\"}",
        "chancery_issuance_stage_seconds_count{stage=\"sign\"}",
        "chancery_issuance_stage_seconds_count{stage=\"store\"}",
        "chancery_ocsp_responder_certificate_not_after_seconds",
        "chancery_crl_next_update_seconds",
    ] {
        assert!(value(moved) > 0.0, "{moved} has not moved");
    }
    for present in ["chancery_orders{state=", "chancery_crl_age_seconds", "chancery_effects_in_flight"] {
        value(present);
    }
    // Counted by resource, from the first request on.
    let roots = "chancery_crl_requests_total{resource=\"roots";
    assert!(!text.lines().any(|line| line.starts_with(roots)));
    site.get("pki", "/roots.pem");
    let after = crate::harness::text(&site.get("metrics", "/metrics").1);
    assert!(after.lines().any(|line| line.starts_with(roots) && line.ends_with(" 1")), "{after}");
}

#[test]
fn health_and_readiness_are_told_by_role() {
    let site = Site::new();
    let (_server, _) = site.up();
    assert_eq!(site.get("metrics", "/healthz"), (200, b"ok\n".to_vec()));
    let (status, body) = site.get("metrics", "/readyz");
    let report: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &report["ready"]), (200, &Value::Bool(true)));
    for role in ["ca", "acme", "ocsp", "crl"] {
        assert_eq!(report["roles"][role]["ready"], true, "{report}");
    }
    assert_eq!(site.get("metrics", "/elsewhere").0, 404);
}

#[test]
fn up_does_not_pretend_that_an_existing_ca_has_its_keys_in_a_token() {
    let site = Site::new();
    let (mut server, _) = site.up();
    server.stop();
    let pin = path(&site.data().join("roots.pem"));
    let token = ["--pkcs11-module", "/nowhere.so", "--pkcs11-token", "chancery", "--pkcs11-pin-file", &pin];
    let error = site.error(&[&["up", "--key-backend", "pkcs11"][..], &token].concat());
    assert_eq!(error["code"], "already_initialised");
}
