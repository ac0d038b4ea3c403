//! Roles as processes of their own, here all of one user.

use std::time::Duration;

use ca_core::time::Stopwatch;
use serde_json::Value;

use crate::harness::{Server, Site, field};

const LISTENERS: &[&str] =
    &["acme", "ocsp", "crl", "metrics-ca", "metrics-acme", "metrics-ocsp", "metrics-crl"];

fn initialised() -> Site {
    let site = Site::with_listeners(LISTENERS);
    let public = format!("https://{}", site.address("acme"));
    let ocsp = format!("http://{}", site.address("ocsp"));
    let output = site.run(&["init", "--trial", "--public-url", &public, "--pki-url", &ocsp]);
    assert!(output.status.success(), "{}", crate::harness::text(&output.stderr));
    site
}

fn serve(site: &Site, role: &str) -> Server {
    let metrics = format!("metrics-{role}");
    let mut sockets = vec![(metrics.as_str(), "metrics")];
    if role != "ca" {
        sockets.push((role, role));
    }
    site.start(&["serve", "--only", role, "--json"], &sockets)
}

fn state(site: &Site, role: &str) -> (bool, Value) {
    let report = site.ready_report(&format!("metrics-{role}"));
    let role = report["roles"][role].clone();
    (role["ready"] == true, role)
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let waited = Stopwatch::start();
    while !check() {
        assert!(waited.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn roles_start_in_any_order_and_are_red_until_they_have_what_they_need() {
    let site = initialised();
    let (mut acme, mut ocsp, mut crl) = (serve(&site, "acme"), serve(&site, "ocsp"), serve(&site, "crl"));
    let (ready, report) = state(&site, "acme");
    assert!(!ready && field(&report, "missing").contains("certificate"), "{report}");
    let (ready, report) = state(&site, "ocsp");
    assert!(!ready && !field(&report, "missing").is_empty(), "{report}");
    assert_eq!(site.get("metrics-acme", "/readyz").0, 503);
    assert_eq!(site.get("metrics-acme", "/healthz").0, 200);

    let mut ca = serve(&site, "ca");
    for server in [&ca, &acme, &ocsp, &crl] {
        let ready = server.ready();
        assert!(field(&ready, "root_sha256").len() == 64);
    }
    // With ca gone, those that need no signature go on, and acme says what it lacks.
    assert_eq!(ca.stop().code(), Some(0));
    eventually("acme turns red", || !state(&site, "acme").0);
    assert!(field(&state(&site, "acme").1, "missing").contains("store.sock"));
    assert!(state(&site, "ocsp").0 && state(&site, "crl").0);
    assert_eq!(site.get("crl", "/crl/issuing-1/0.crl").0, 200);
    let mut ca = serve(&site, "ca");
    ca.ready();
    eventually("acme turns green", || state(&site, "acme").0);
    for server in [&mut ca, &mut acme, &mut ocsp, &mut crl] {
        assert_eq!(server.stop().code(), Some(0));
    }
}

#[test]
fn ocsp_and_crl_apart_need_different_addresses() {
    let site = Site::new();
    let (mut server, _) = site.up();
    server.stop();
    let error = site.error(&["serve", "--only", "ocsp"]);
    assert_eq!(error["code"], "configuration");
    assert!(field(&error, "fix").contains("listen.crl"), "{error}");
}

#[test]
fn an_unknown_role_is_refused() {
    let site = Site::new();
    let error = site.error(&["serve", "--only", "ca,admin"]);
    assert!(field(&error, "detail").contains("admin"), "{error}");
}

#[test]
fn without_the_trial_mark_a_loopback_url_issues_nothing() {
    let site = Site::new();
    let public = format!("https://{}", site.address("acme"));
    let pki = format!("http://{}", site.address("pki"));
    let output = site.run(&["init", "--public-url", &public, "--pki-url", &pki]);
    assert!(output.status.success());
    let server = site.start(&["serve"], &[("acme", "acme"), ("pki", "pki"), ("metrics", "metrics")]);
    eventually("the refusal is logged", || server.next_log_line().contains("not marked as a trial"));
    assert_eq!(site.get("metrics", "/readyz").0, 503);
    // An OCSP responder's certificate carries no URL, so it is none that would lead nowhere.
    let rows = site.json(&["certificate", "list"]);
    let profiles: Vec<String> = rows.as_array().unwrap().iter().map(|row| field(row, "profile")).collect();
    assert!(
        profiles.iter().all(|profile| ["ocsp-responder", "issuing-ca", "root"].contains(&profile.as_str())),
        "{profiles:?}"
    );
}
