//! Fuzz bodies: decode, encode, decode. Run under proptest by the tests and under cargo-fuzz by `cargo xtask fuzz`.

use crate::jose::{AccountKey, FlattenedJws, MacJws};

/// Reads any octets as a JWS: never panics, and what was read survives being written and read again.
///
/// # Panics
/// If it does not, which is what a fuzzer looks for.
#[allow(clippy::panic, clippy::expect_used, reason = "a fuzz body reports by panicking")]
pub fn jws(data: &[u8]) {
    let Ok(first) = FlattenedJws::parse(data) else { return };
    let again = FlattenedJws::parse(&first.to_json()).expect("our own JSON can be read");
    assert_eq!((first.header(), first.to_json()), (again.header(), again.to_json()));
}

/// Reads any octets as a JWK: never panics, and the canonical form is read as the same key.
///
/// # Panics
/// If it is not, which is what a fuzzer looks for.
#[allow(clippy::panic, clippy::expect_used, reason = "a fuzz body reports by panicking")]
pub fn jwk(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(key) = AccountKey::from_json(text) else { return };
    let again = AccountKey::from_json(key.canonical()).expect("the canonical form can be read");
    assert_eq!(key, again);
    assert_eq!(key.thumbprint(), again.thumbprint());
}

/// Reads any octets as an external account binding: never panics, and no MAC of another key is taken for its own.
///
/// # Panics
/// If it does, which is what a fuzzer looks for.
#[allow(clippy::panic, clippy::expect_used, reason = "a fuzz body reports by panicking")]
pub fn binding(data: &[u8]) {
    let Ok(members) = serde_json::from_slice(data) else { return };
    let Ok(jws) = MacJws::parse(&members) else { return };
    assert!(jws.clone().verify(b"one key").is_err() || jws.verify(b"another").is_err());
}
