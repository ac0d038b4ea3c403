//! Bodies for fuzzing: each takes any octets and must return. Run by property tests and by cargo-fuzz alike.

use crate::acme::RenewalId;
use crate::acme::caa::IssueValue;
use crate::pkix::csr::Csr;

/// Reads a CSR; one that is accepted reads the same again.
///
/// # Panics
/// If an accepted CSR does not survive being read again: a bug.
#[allow(clippy::panic, reason = "a fuzz body reports by panicking")]
pub fn csr(data: &[u8]) {
    if let Ok(csr) = Csr::from_der(data) {
        match Csr::from_der(csr.der()) {
            Ok(again) => assert_eq!(csr.names(&[]), again.names(&[])),
            Err(error) => panic!("an accepted CSR was refused the second time: {error}"),
        }
    }
}

/// Reads the value of a CAA issue property; one that is accepted reads the same again after it was written.
///
/// # Panics
/// If it does not: a bug.
#[allow(clippy::panic, reason = "a fuzz body reports by panicking")]
pub fn caa(data: &[u8]) {
    if let Ok(value) = IssueValue::parse(data) {
        let written = value.to_string();
        assert_eq!(IssueValue::parse(written.as_bytes()), Ok(value), "{written}");
    }
}

/// Reads a certificate's identifier of RFC 9773; one that is accepted has no other spelling.
///
/// # Panics
/// If it has: a bug.
#[allow(clippy::panic, reason = "a fuzz body reports by panicking")]
pub fn renewal_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<RenewalId>() {
        assert_eq!(id.to_string(), text);
    }
}

/// Reads an attestation object with every structure in it, whoever signed it.
pub fn attestation(data: &[u8]) {
    crate::acme::attestation::read_all(data);
}
