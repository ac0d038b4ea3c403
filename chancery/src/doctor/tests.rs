//! What `doctor` says of a real CA at other times than now.

use ca_core::signing::KeyAlgorithm;

use super::*;
use crate::config::template::{Keys, Purpose};
use crate::setup::{self, Init};

fn failed(look: impl FnOnce(&mut Report)) -> Vec<(&'static str, String)> {
    let mut report = Report::default();
    look(&mut report);
    let bad = report.0.into_iter().filter(|check| check.status == Status::Fail);
    bad.map(|check| (check.id, check.detail)).collect()
}

#[tokio::test]
async fn time_makes_certificates_and_crls_bad() {
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
