//! What `doctor` says of a real CA at other times than now.

use ca_core::signing::KeyAlgorithm;

use super::authority::freshness;
use super::*;
use crate::config::template::{Keys, Purpose};
use crate::setup::{self, Init};

fn failed(look: impl FnOnce(&mut Report)) -> Vec<(&'static str, String)> {
    let mut report = Report::default();
    look(&mut report);
    let bad = report.0.into_iter().filter(|check| check.status == Status::Fail);
    bad.map(|check| (check.id, check.detail)).collect()
}

/// A CA as `up` makes it, in a directory that lives as long as the first value.
async fn ca() -> (tempfile::TempDir, DataDir) {
    let place = tempfile::tempdir().unwrap();
    let data = DataDir::new(&place.path().join("data")).unwrap();
    let init = Init {
        purpose: Purpose::FirstLook,
        public_url: "https://127.0.0.1:8443".to_owned(),
        pki_url: None,
        trial: true,
        organisation: "Test".to_owned(),
        keys: Keys::Software,
    };
    setup::init(&data, &init).await.unwrap();
    (place, data)
}

#[tokio::test]
async fn time_makes_certificates_and_crls_bad() {
    let (_place, data) = ca().await;
    let store = open::remote(&data, Role::Ca).unwrap();
    let issuers = store.issuers().await.unwrap();
    let crls = store.crl_summaries().await.unwrap();
    assert_eq!(issuers[0].signature_algorithm, KeyAlgorithm::EcP256.default_signature());

    let now = SystemClock.now();
    let day = Duration::from_secs(24 * 3600);
    for (at, certificates, lists) in [
        (now, None, None),
        (now.plus(day * 40), None, Some("ended")),
        (now.plus(day * 40 * 365), Some("expired"), Some("ended")),
        (now.minus(day), Some("begins"), Some("future")),
    ] {
        for (said, wanted) in [
            (failed(|report| ca_certificates(&issuers, at, report)), certificates),
            (failed(|report| freshness(&crls, &issuers, at, report)), lists),
        ] {
            assert_eq!(said.len(), usize::from(wanted.is_some()), "{at}: {said:?}");
            if let Some(wanted) = wanted {
                assert!(said[0].1.contains(wanted), "{at}: {said:?}");
            }
        }
    }
}

#[test]
fn a_full_disk_is_not_taken_for_damage() {
    let full = || "database or disk is full".to_owned();
    for error in [StoreError::Corrupt(full()), StoreError::Full(full())] {
        assert_eq!(failed(|report| not_checked(error, report))[0].0, "disk");
    }
    let damaged = StoreError::Corrupt("page 7 is never used".to_owned());
    assert_eq!(failed(|report| not_checked(damaged, report))[0].0, "store");
}

#[tokio::test]
async fn a_directory_whose_issuer_is_not_there_is_told() {
    let (_place, data) = ca().await;
    let issuers = open::remote(&data, Role::Ca).unwrap().issuers().await.unwrap();
    let said = |issuer: &str| {
        let text = format!("[acme.directories.lab]\nissuer = \"{issuer}\"\n");
        let config = Config::parse("chancery.toml", &text, []).unwrap();
        failed(|report| directories(&config, &issuers, report))
    };
    assert_eq!(said("issuing-1"), []);
    for wrong in ["issuing-2", "root-1"] {
        let found = said(wrong);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].1.contains("acme.directories.lab.issuer") && found[0].1.contains(wrong),
            "{found:?}"
        );
    }
}
