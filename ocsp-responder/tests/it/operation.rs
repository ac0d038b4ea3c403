//! The responder at work: its cache, a revocation that overrides it, overload, a key or a store that is away, metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ca_core::pkix::ocsp::{CertStatus, ResponseStatus};
use ca_core::revocation::RevocationReason;
use der::asn1::Null;
use ocsp_responder::{Config, Metrics, Responder, serves};
use prometheus_client::registry::Registry;

use crate::pki::{DAY, Pki, get, post};

fn text(metrics: &Metrics) -> String {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

/// The value of one metric line.
fn value(metrics: &Metrics, line: &str) -> i64 {
    let text = text(metrics);
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    found.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_revocation_overrides_a_kept_good_at_once() {
    let pki = Pki::new().await;
    let metrics = Metrics::default();
    let responder = pki.responder_with(Config::default(), &metrics);
    pki.make_ready(&responder).await;
    let id = pki.issue().await;
    let first = post(&responder, pki.request(&[&id], None)).await;
    let second = post(&responder, pki.request(&[&id], None)).await;
    assert_eq!(first.body, second.body);
    assert_eq!(value(&metrics, "ocsp_cache_hits_total"), 1, "the second came from memory");
    assert_eq!(value(&metrics, "ocsp_signatures_total{result=\"ok\"}"), 1);
    pki.revoke(&id, RevocationReason::Superseded).await;
    assert!(matches!(pki.status(&responder, &id).await, CertStatus::Revoked(_)));
}

#[tokio::test]
async fn a_kept_response_is_signed_anew_at_half_its_time_and_serves_on_while_the_key_is_away() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let ask = async || post(&responder, pki.request(&[&id], None)).await;
    let first = ask().await;
    pki.clock.advance(DAY / 2 - Duration::from_secs(2));
    assert_eq!(ask().await.body, first.body);
    pki.clock.advance(Duration::from_secs(4));
    pki.switch.away.store(true, Ordering::SeqCst);
    assert_eq!(ask().await.body, first.body, "still true, and there is nothing better");
    // A nonce needs a signature now.
    let fresh = post(&responder, pki.request(&[&id], Some(b"x"))).await;
    assert_eq!(fresh.ocsp_status(), ResponseStatus::TryLater);
    pki.switch.away.store(false, Ordering::SeqCst);
    assert_ne!(ask().await.body, first.body);
    // Past nextUpdate nothing old is served.
    pki.switch.away.store(true, Ordering::SeqCst);
    pki.clock.advance(DAY);
    assert_eq!(ask().await.ocsp_status(), ResponseStatus::TryLater);
}

#[tokio::test]
async fn a_full_signing_queue_says_try_later_and_kept_answers_pass_it() {
    let pki = Pki::new().await;
    let metrics = Metrics::default();
    let config = Config { signing_queue: 1, ..Config::default() };
    let responder = Arc::new(pki.responder_with(config, &metrics));
    pki.make_ready(&responder).await;
    let (kept, other) = (pki.issue().await, pki.issue().await);
    assert_eq!(pki.status(&responder, &kept).await, CertStatus::Good(Null));

    pki.switch.waiting.forget_permits(usize::MAX);
    pki.switch.gate.forget_permits(usize::MAX);
    let request = pki.request(&[&other], None);
    let blocked = tokio::spawn({
        let (responder, request) = (Arc::clone(&responder), request.clone());
        async move { post(&responder, request).await.ocsp_status() }
    });
    // It is inside the key now.
    let _waiting = pki.switch.waiting.acquire().await.unwrap();
    assert_eq!(post(&responder, request).await.ocsp_status(), ResponseStatus::TryLater);
    assert_eq!(value(&metrics, "ocsp_signatures_total{result=\"queue-full\"}"), 1);
    assert_eq!(pki.status(&responder, &kept).await, CertStatus::Good(Null), "no signature needed");
    pki.switch.gate.add_permits(10);
    assert_eq!(blocked.await.unwrap(), ResponseStatus::Successful);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_says_try_later() {
    let pki = Pki::new().await;
    let id = pki.issue().await;
    let nowhere = tempfile::tempdir().unwrap();
    let store = store::socket::RemoteStore::connect(nowhere.path(), ca_core::store::Role::Ocsp);
    let responder = Responder::new(
        Config::default(),
        pki.state_directory(),
        store.unwrap(),
        pki.responder_keys(),
        pki.clock.clone(),
        Metrics::default(),
    )
    .unwrap();
    assert!(responder.maintain().await.is_err());
    assert!(responder.readiness().unwrap_err().contains("store"));
    assert_eq!(post(&responder, pki.request(&[&id], None)).await.ocsp_status(), ResponseStatus::TryLater);
}

#[tokio::test]
async fn the_metrics_move() {
    let pki = Pki::new().await;
    let metrics = Metrics::default();
    let responder = pki.responder_with(Config::default(), &metrics);
    pki.make_ready(&responder).await;
    let (good, revoked) = (pki.issue().await, pki.issue().await);
    pki.revoke(&revoked, RevocationReason::Superseded).await;
    post(&responder, pki.request(&[&good], None)).await;
    post(&responder, pki.request(&[&revoked], None)).await;
    post(&responder, pki.request(&[&good, &revoked], None)).await;
    post(&responder, vec![1, 2, 3]).await;
    get(&responder, "/nothing").await;
    for (method, outcome) in [
        ("POST", "good"),
        ("POST", "revoked"),
        ("POST", "several"),
        ("POST", "malformedRequest"),
        ("GET", "http-error"),
    ] {
        let line = format!("ocsp_requests_total{{method=\"{method}\",outcome=\"{outcome}\"}}");
        assert_eq!(value(&metrics, &line), 1, "{line}\n{}", text(&metrics));
    }
    assert_eq!(value(&metrics, "ocsp_request_seconds_count"), 5);
    let not_after = "ocsp_responder_certificate_not_after_seconds{issuer=\"issuing-1\"}";
    let age = "ocsp_responder_certificate_age_seconds{issuer=\"issuing-1\"}";
    assert!(value(&metrics, not_after) > 1_700_000_000);
    let before = value(&metrics, age);
    pki.clock.advance(Duration::from_secs(100));
    responder.maintain().await.unwrap();
    assert_eq!(value(&metrics, age), before + 100);
}

#[tokio::test]
async fn readiness_ends_when_the_store_was_not_read_for_long() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    pki.clock.advance(Duration::from_mins(4));
    assert!(responder.readiness().is_err());
    responder.maintain().await.unwrap();
    responder.readiness().unwrap();
}

#[test]
fn configuration_is_checked_and_paths_are_known() {
    let refused = |config: Config| config.check().unwrap_err().to_string();
    let zero = Config { signing_queue: 0, ..Config::default() };
    assert_eq!(refused(zero), "ocsp.signing_queue must be from 1 to 65536, not 0");
    let short = Config { response_validity_seconds: 1, ..Config::default() };
    assert!(refused(short).contains("response_validity_seconds"));
    Config::default().check().unwrap();
    assert!(serves("/ocsp") && serves("/ocsp/MA") && serves("/issuer/a/ocsp") && !serves("/crl/a/0.crl"));
}

/// As a process of its own: it reads the files, commits through the socket under its role, and needs `ca` for neither.
#[tokio::test(flavor = "multi_thread")]
async fn as_role_ocsp_it_gets_its_certificate_through_the_socket_and_answers_with_ca_stopped() {
    let pki = Pki::new().await;
    let id = pki.issue().await;
    let (stop, served) = pki.serve_commits();
    let remote =
        store::socket::RemoteStore::connect(pki.directory.path(), ca_core::store::Role::Ocsp).unwrap();
    let new = |remote: &Arc<store::socket::RemoteStore>| {
        let (store, keys, clock) = (remote.clone(), pki.responder_keys(), pki.clock.clone());
        Responder::new(Config::default(), pki.state_directory(), store, keys, clock, Metrics::default())
            .unwrap()
    };
    let responder = new(&remote);
    pki.make_ready(&responder).await;
    assert_eq!(pki.status(&responder, &id).await, CertStatus::Good(Null));

    stop.send(()).unwrap();
    served.await.unwrap();
    pki.store.close().await;
    responder.maintain().await.unwrap();
    assert_eq!(pki.status(&responder, &id).await, CertStatus::Good(Null));
    // Also one that starts now.
    let restarted = new(&remote);
    restarted.maintain().await.unwrap();
    restarted.readiness().unwrap();
    assert_eq!(pki.status(&restarted, &id).await, CertStatus::Good(Null));
    // And when its certificate is due for renewal, it says so and goes on.
    pki.clock.advance(DAY * 6);
    while restarted.maintain().await.is_ok() {
        pki.clock.advance(DAY);
    }
    assert_eq!(pki.status(&restarted, &id).await, CertStatus::Good(Null));
}
