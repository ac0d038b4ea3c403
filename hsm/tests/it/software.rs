//! Software keys: the battery, and the files.

use std::num::NonZeroU32;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use ca_core::signing::{KeyAlgorithm, KeyBackend, KeyError, SignatureAlgorithm};
use hsm::Metrics;
use hsm::software::{SoftwareConfig, SoftwareKeys};
use prometheus_client::registry::Registry;

use crate::battery::{Open, block_on, label};

fn on_software(_name: &str, check: fn(Open<'_>)) {
    let directory = tempfile::tempdir().unwrap();
    check(&|| open(&directory.path().join("keys"), "secret").unwrap());
}

crate::battery!(on_software);

fn open(directory: &Path, passphrase: &str) -> Result<Arc<dyn KeyBackend>, KeyError> {
    let mut config = SoftwareConfig::new(directory.to_owned(), passphrase.into());
    config.iterations = NonZeroU32::new(1000).unwrap();
    Ok(SoftwareKeys::open(config, &Metrics::default())?)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn files_are_for_one_user_and_hold_no_key_in_plain() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let backend = open(&keys, "secret").unwrap();
    block_on(backend.generate(&label("issuer"), KeyAlgorithm::EcP256)).unwrap();
    assert_eq!(mode(&keys), 0o700);
    let mut names: Vec<_> = std::fs::read_dir(&keys).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    // Nothing temporary stays.
    assert_eq!(names, ["issuer.key", "master.json"]);
    for name in names {
        assert_eq!(mode(&keys.join(&name)), 0o600, "{name:?}");
    }
    std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o750)).unwrap();
    let error = open(&keys, "secret").err().unwrap().to_string();
    assert!(error.contains("chmod 700"), "{error}");
}

#[test]
fn a_wrong_passphrase_is_told_from_a_damaged_file() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    open(&keys, "secret").unwrap();
    let error = open(&keys, "Secret").err().unwrap();
    assert!(matches!(error, KeyError::WrongPin(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("Secret"));
    let master = keys.join("master.json");
    flip_each_byte(&master, || {
        let error = open(&keys, "secret").err().unwrap();
        assert!(matches!(&error, KeyError::Failed(text) if text.contains("master.json")), "{error}");
    });
    open(&keys, "secret").unwrap();
}

#[test]
fn a_flipped_byte_in_a_key_file_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let backend = open(&keys, "secret").unwrap();
    block_on(backend.generate(&label("issuer"), KeyAlgorithm::Ed25519)).unwrap();
    let opened = || block_on(backend.open(&label("issuer"), SignatureAlgorithm::Ed25519));
    flip_each_byte(&keys.join("issuer.key"), || {
        let error = opened().err().unwrap();
        assert!(matches!(&error, KeyError::Failed(text) if text.contains("issuer.key")), "{error}");
    });
    opened().unwrap();
}

/// Damages one byte after the other.
fn flip_each_byte(path: &Path, check: impl Fn()) {
    let good = std::fs::read(path).unwrap();
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 1;
        std::fs::write(path, &bad).unwrap();
        check();
    }
    std::fs::write(path, good).unwrap();
}

#[test]
fn a_file_does_not_pass_for_another_key() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let backend = open(&keys, "secret").unwrap();
    block_on(backend.generate(&label("issuer"), KeyAlgorithm::EcP256)).unwrap();
    symlink(keys.join("issuer.key"), keys.join("root.key")).unwrap();
    let error = block_on(backend.open(&label("root"), SignatureAlgorithm::EcdsaSha256)).err().unwrap();
    assert!(matches!(error, KeyError::Failed(_)), "{error}");
}

#[test]
fn keys_without_their_master_file_are_not_given_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let backend = open(&keys, "secret").unwrap();
    block_on(backend.generate(&label("issuer"), KeyAlgorithm::EcP256)).unwrap();
    std::fs::remove_file(keys.join("master.json")).unwrap();
    let error = open(&keys, "secret").err().unwrap().to_string();
    assert!(error.contains("master.json") && error.contains("backup"), "{error}");
    assert!(!keys.join("master.json").exists());
}

#[test]
fn a_full_queue_answers_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = SoftwareConfig::new(directory.path().join("keys"), "secret".into());
    config.iterations = NonZeroU32::new(1).unwrap();
    (config.threads, config.queue) = (1, 1);
    let metrics = Metrics::default();
    let backend = SoftwareKeys::open(config, &metrics).unwrap();
    block_on(async {
        backend.generate(&label("slow"), KeyAlgorithm::Rsa4096).await.unwrap();
        let key = backend.open(&label("slow"), SignatureAlgorithm::RsaPssSha256).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let key = Arc::clone(&key);
            tasks.spawn(async move { key.sign(b"message").await.map_err(|e| e.to_string()) });
        }
        let outcomes = tasks.join_all().await;
        assert!(outcomes.iter().any(Result::is_ok));
        let refused: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
        assert!(refused.len() >= 10 && refused.iter().all(|e| e.contains("wait already")), "{refused:?}");
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let signed = outcomes.len() - refused.len();
        for line in [
            format!(
                "hsm_signing_seconds_count{{backend=\"software\",algorithm=\"rsa-pss-sha256\"}} {signed}"
            ),
            format!("hsm_signing_errors_total{{backend=\"software\",kind=\"queue-full\"}} {}", refused.len()),
        ] {
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        }
    });
}
