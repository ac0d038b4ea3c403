//! From due to served: asked for once, taken up at once, kept as files, and served from them.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use ca_core::audit::Actor;
use ca_core::pkix::crl::listed_serials;
use ca_core::revocation::RevocationReason;
use ca_core::store::{AuthorityReads, EffectKind};
use crl_publisher::{Config, Metrics};
use prometheus_client::registry::Registry;

use crate::pki::{DAY, Pki, SHARDS, get, unreadable_store};

#[tokio::test]
async fn what_is_due_is_asked_for_once_and_done_by_ca() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    assert_eq!(publisher.tick().await.unwrap(), 0, "the first CRLs came with the hierarchy");
    pki.clock.advance(DAY * 4);
    assert_eq!(publisher.tick().await.unwrap(), SHARDS as usize);
    assert_eq!(publisher.tick().await.unwrap(), 0, "they wait already");
    assert_eq!(pki.publisher().tick().await.unwrap(), 0, "also for a publisher that was started anew");
    let before = get(&publisher, &pki.crl_path(0)).await.body;
    pki.carry_out().await;
    assert_eq!(publisher.tick().await.unwrap(), 0);
    publisher.refresh().await.unwrap();
    assert_ne!(get(&publisher, &pki.crl_path(0)).await.body, before);
}

#[tokio::test]
async fn a_shard_that_waits_does_not_hold_back_another() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    let (id, shard, _) = pki.issue().await;
    pki.clock.advance(DAY * 4);
    // The revocation has asked for this shard's CRL.
    pki.authority.revoke(id, RevocationReason::Superseded, Actor::Authority).await.unwrap();
    assert_eq!(publisher.tick().await.unwrap(), SHARDS as usize - 1);
    let effects = pki.store.effects(100).await.unwrap();
    let asked = effects.iter().filter(|effect| match &effect.kind {
        EffectKind::PublishCrl { shard: of, .. } => *of == shard,
        _ => false,
    });
    assert_eq!(asked.count(), 1);
}

#[tokio::test]
async fn a_revocation_is_served_after_one_refresh() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    let (id, shard, _) = pki.issue().await;
    let listed = async || listed_serials(&get(&publisher, &pki.crl_path(shard)).await.body).unwrap();
    assert!(listed().await.is_empty());
    pki.revoke(&id).await;
    publisher.refresh().await.unwrap();
    assert!(listed().await.contains(&id.serial));
}

#[tokio::test]
async fn run_serves_a_revocation_within_a_second() {
    let pki = Pki::new().await;
    let publisher = Arc::new(pki.publisher());
    let running = tokio::spawn({
        let publisher = Arc::clone(&publisher);
        async move { publisher.run().await }
    });
    let until = async |what: &str, condition: &dyn Fn() -> bool| {
        let wait = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect(what);
    };
    until("ready", &|| publisher.readiness().is_ok()).await;
    let (id, shard, _) = pki.issue().await;
    pki.revoke(&id).await;
    let stopwatch = ca_core::time::Stopwatch::start();
    let path = pki.crl_path(shard);
    while !listed_serials(&get(&publisher, &path).await.body).unwrap().contains(&id.serial) {
        assert!(stopwatch.elapsed() < Duration::from_secs(1), "the CRL is not served yet");
        tokio::task::yield_now().await;
    }
    running.abort();
}

#[tokio::test]
async fn the_files_hold_what_is_served_and_serve_while_the_store_cannot_be_read() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    let (id, shard, _) = pki.issue().await;
    pki.revoke(&id).await;
    publisher.refresh().await.unwrap();
    let mut paths: Vec<_> = (0..SHARDS).map(|shard| pki.crl_path(shard)).collect();
    paths.extend(
        ["/crl/root-1/0.crl", "/ca/root-1.cer", "/ca/issuing-1.cer", "/roots.pem"].map(str::to_owned),
    );

    let file = pki.crl_directory().join(format!("issuing-1/{shard}.crl"));
    assert_eq!(std::fs::read(&file).unwrap(), get(&publisher, &pki.crl_path(shard)).await.body);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let left_over = std::fs::read_dir(pki.crl_directory().join("issuing-1")).unwrap();
    assert!(left_over.filter_map(Result::ok).all(|e| !e.file_name().to_string_lossy().ends_with(".new")));

    let (_nowhere, store) = unreadable_store();
    let blind = pki.publisher_on(store, &Metrics::default());
    assert_eq!(get(&blind, "/roots.pem").await.status, 503);
    assert!(blind.refresh().await.is_err());
    assert!(blind.readiness().unwrap_err().contains("store"));
    for path in &paths {
        let (from_store, from_files) = (get(&publisher, path).await, get(&blind, path).await);
        assert_eq!(from_files.status, 200, "{path}");
        assert_eq!(from_files.body, from_store.body, "{path}");
        assert_eq!(from_files.headers, from_store.headers, "{path}");
    }
    // A damaged file is left out, not served.
    std::fs::write(&file, b"no CRL").unwrap();
    let (_nowhere, store) = unreadable_store();
    let blind = pki.publisher_on(store, &Metrics::default());
    assert!(blind.refresh().await.is_err());
    assert_eq!(get(&blind, &pki.crl_path(shard)).await.status, 503);
}

#[tokio::test]
async fn files_that_could_not_be_written_are_written_later() {
    let pki = Pki::new().await;
    // A file stands where the directory should be.
    std::fs::write(pki.crl_directory(), b"").unwrap();
    let publisher = pki.publisher();
    assert!(publisher.refresh().await.unwrap_err().to_string().contains("files"));
    assert_eq!(get(&publisher, &pki.crl_path(0)).await.status, 200, "memory does not wait for files");
    std::fs::remove_file(pki.crl_directory()).unwrap();
    publisher.refresh().await.unwrap();
    assert!(pki.crl_directory().join("issuing-1/0.crl").exists());
}

#[tokio::test]
async fn readiness_names_what_is_missing_or_old() {
    let pki = Pki::new().await;
    let publisher = pki.publisher();
    assert!(publisher.readiness().is_err());
    publisher.refresh().await.unwrap();
    publisher.readiness().unwrap();
    pki.clock.advance(Duration::from_mins(4));
    assert!(publisher.readiness().unwrap_err().contains("read the store"));
    pki.clock.advance(DAY * 8);
    publisher.refresh().await.unwrap();
    assert!(publisher.readiness().unwrap_err().contains("out of date"));
    publisher.tick().await.unwrap();
    pki.carry_out().await;
    publisher.refresh().await.unwrap();
    publisher.readiness().unwrap();
}

#[tokio::test]
async fn the_metrics_move() {
    let pki = Pki::new().await;
    let metrics = Metrics::default();
    let publisher = pki.publisher_on(pki.store.clone(), &metrics);
    let value = |line: &str| {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).map(str::to_owned);
        found.map_or(0, |value| value.parse::<i64>().unwrap())
    };
    publisher.refresh().await.unwrap();
    get(&publisher, &pki.crl_path(0)).await;
    get(&publisher, "/crl/nobody/0.crl").await;
    assert_eq!(value("crl_requests_total{resource=\"crl\",status=\"200\"}"), 1);
    assert_eq!(value("crl_requests_total{resource=\"crl\",status=\"404\"}"), 1);
    let (age, number) = ("crl_age_seconds{issuer=\"issuing-1\"}", "crl_number{issuer=\"issuing-1\"}");
    let next_update = "crl_next_update_seconds{issuer=\"issuing-1\"}";
    let (first_number, first_update) = (value(number), value(next_update));
    assert!(first_number > 1_700_000_000_000 && first_update > 1_700_000_000);
    pki.clock.advance(DAY * 4);
    publisher.refresh().await.unwrap();
    assert!((4 * 86_400..4 * 86_400 + 5).contains(&value(age)));
    publisher.tick().await.unwrap();
    assert_eq!(value("crl_publications_asked_total"), i64::from(SHARDS));
    pki.carry_out().await;
    publisher.refresh().await.unwrap();
    assert!(value(age) < 5 && value(number) > first_number && value(next_update) > first_update);
    assert_eq!(Config::default().validity_seconds, 604_800);
}

/// As a process of its own: it reads the files, commits through the socket under its role, and serves with `ca` stopped.
#[tokio::test(flavor = "multi_thread")]
async fn as_role_crl_it_asks_through_the_socket_and_serves_with_ca_stopped() {
    let pki = Pki::new().await;
    let (stop, served) = pki.serve_commits();
    let remote =
        store::socket::RemoteStore::connect(pki.directory.path(), ca_core::store::Role::Crl).unwrap();
    let publisher = pki.publisher_on(remote.clone(), &Metrics::default());
    pki.clock.advance(DAY * 4);
    assert_eq!(publisher.tick().await.unwrap(), SHARDS as usize);
    pki.carry_out().await;
    publisher.refresh().await.unwrap();
    let served_crl = get(&publisher, &pki.crl_path(0)).await.body;

    stop.send(()).unwrap();
    served.await.unwrap();
    pki.store.close().await;
    let restarted = pki.publisher_on(remote, &Metrics::default());
    restarted.refresh().await.unwrap();
    restarted.readiness().unwrap();
    assert_eq!(get(&restarted, &pki.crl_path(0)).await.body, served_crl);
}
