//! The section `[keys]` and the secrets it names.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ca_core::signing::{KeyAlgorithm, KeyError};
use hsm::{BackendKind, KeysConfig, Metrics, create_passphrase_file, read_secret_file};
use secrecy::ExposeSecret;

use crate::battery::{block_on, label};

fn secret_file(content: &[u8], mode: u32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pin");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    directory
}

#[test]
fn the_section_is_read_and_unknown_keys_are_refused() {
    let config: KeysConfig = toml::from_str(
        "backend = 'pkcs11'\nmodule = '/m.so'\ntoken = 't'\npin_file = 'pin'\nsessions = 8\n\
         passphrase_file = 'stays'",
    )
    .unwrap();
    assert_eq!((config.backend, config.sessions.unwrap().get()), (BackendKind::Pkcs11, 8));
    let empty: KeysConfig = toml::from_str("").unwrap();
    assert_eq!(empty, KeysConfig::default());
    assert_eq!(empty.passphrase_file(), Path::new("passphrase"));
    assert!(toml::from_str::<KeysConfig>("pin = '1234'").unwrap_err().to_string().contains("pin"));
    assert!(toml::from_str::<KeysConfig>("sessions = 0").is_err());
}

#[test]
fn a_missing_key_of_the_section_is_named() {
    let config = KeysConfig { backend: BackendKind::Pkcs11, ..KeysConfig::default() };
    let error = hsm::open(&config, Path::new("/nowhere"), &Metrics::default()).err().unwrap().to_string();
    assert!(error.contains("keys.module"), "{error}");
}

#[test]
fn the_newline_that_ends_a_secret_is_no_part_of_it() {
    for (content, secret) in [("1234\n", "1234"), ("1234\r\n", "1234"), ("1 2\n\n", "1 2\n"), (" x", " x")] {
        let directory = secret_file(content.as_bytes(), 0o600);
        let read = read_secret_file(Path::new("pin"), directory.path()).unwrap();
        assert_eq!(read.expose_secret(), secret);
        assert!(!format!("{read:?}").contains(secret));
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused_with_the_fix() {
    for mode in [0o604, 0o644, 0o620, 0o602] {
        let directory = secret_file(b"8631\n", mode);
        let error = read_secret_file(Path::new("pin"), directory.path()).unwrap_err();
        assert!(matches!(error, KeyError::Failed(_)));
        let text = error.to_string();
        assert!(text.contains("chmod 600") && !text.contains("8631"), "{text}");
    }
    for mode in [0o400, 0o440, 0o600, 0o640] {
        let directory = secret_file(b"8631\n", mode);
        read_secret_file(Path::new("pin"), directory.path()).unwrap();
    }
}

#[test]
fn a_file_that_is_no_secret_is_refused() {
    for content in [&b""[..], b"\n", &[b'x'; 5000], &[0xff, 0xfe]] {
        let directory = secret_file(content, 0o600);
        read_secret_file(Path::new("pin"), directory.path()).unwrap_err();
    }
    let directory = tempfile::tempdir().unwrap();
    let missing = read_secret_file(Path::new("pin"), directory.path()).unwrap_err().to_string();
    assert!(missing.contains("pin"), "{missing}");
    let not_a_file = read_secret_file(Path::new("."), directory.path()).unwrap_err().to_string();
    assert!(not_a_file.contains("regular file"), "{not_a_file}");
}

#[test]
fn a_new_passphrase_opens_software_keys() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("passphrase");
    create_passphrase_file(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(create_passphrase_file(&path).is_err());
    let backend = hsm::open(&KeysConfig::default(), data.path(), &Metrics::default()).unwrap();
    assert_eq!(backend.place(), format!("software keys in {}/keys", data.path().display()));
    block_on(backend.generate(&label("issuer"), KeyAlgorithm::EcP256)).unwrap();
    assert!(data.path().join("keys/issuer.key").exists());
}
