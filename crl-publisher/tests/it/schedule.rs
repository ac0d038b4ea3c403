//! When a CRL is due, by records and `now` alone. RFC 5280 §5.1.2.5.

use std::time::Duration;

use ca_core::store::{AuthorityReads, CrlSummary};
use ca_core::time::Clock;
use crl_publisher::{Config, due};

use crate::pki::{DAY, Pki, SHARDS};

#[tokio::test]
async fn a_shard_is_due_without_a_crl_and_from_half_of_its_time_on() {
    let pki = Pki::new().await;
    let (issuers, summaries) = (pki.store.issuers().await.unwrap(), pki.store.crl_summaries().await.unwrap());
    let (config, now) = (Config::default(), pki.clock.now());
    let all: Vec<_> = std::iter::once((pki.root.id.clone(), 0))
        .chain((0..SHARDS).map(|shard| (pki.issuing.id.clone(), shard)))
        .collect();
    assert_eq!(due(now, &issuers, &[], &config), all);
    assert_eq!(due(now, &issuers, &summaries, &config), []);
    assert_eq!(due(now.plus(DAY * 7 / 2 - Duration::from_secs(2)), &issuers, &summaries, &config), []);
    // Seven days for the issuing CA, thirty for the root.
    assert_eq!(due(now.plus(DAY * 7 / 2), &issuers, &summaries, &config), all[1..]);
    assert_eq!(due(now.plus(DAY * 15), &issuers, &summaries, &config), all);
    let late = Config { refresh_percent: 90, ..Config::default() };
    assert_eq!(due(now.plus(DAY * 6), &issuers, &summaries, &late), []);

    let one_missing: Vec<CrlSummary> =
        summaries.into_iter().filter(|s| (&s.issuer, s.shard) != (&pki.issuing.id, 1)).collect();
    assert_eq!(due(now, &issuers, &one_missing, &config), [(pki.issuing.id.clone(), 1)]);
}

#[tokio::test]
async fn an_issuer_still_being_created_is_not_due_and_more_shards_are() {
    let pki = Pki::new().await;
    let (mut issuers, summaries) =
        (pki.store.issuers().await.unwrap(), pki.store.crl_summaries().await.unwrap());
    let now = pki.clock.now();
    for issuer in &mut issuers {
        issuer.shards += 1;
    }
    let grown = due(now, &issuers, &summaries, &Config::default());
    assert_eq!(grown, [(pki.root.id.clone(), 1), (pki.issuing.id.clone(), SHARDS)]);
    for issuer in &mut issuers {
        issuer.certificates.clear();
    }
    assert_eq!(due(now, &issuers, &[], &Config::default()), []);
}

#[test]
fn configuration_is_checked() {
    Config::default().check().unwrap();
    let config = Config { refresh_percent: 100, ..Config::default() };
    assert_eq!(config.check().unwrap_err().to_string(), "crl.refresh_percent must be from 1 to 95, not 100");
    let config = Config { validity_seconds: 1, ..Config::default() };
    assert!(config.check().is_err());
}
