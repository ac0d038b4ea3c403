//! Bodies for fuzzing: each takes any octets and must return. Run by property tests and by cargo-fuzz alike.

use crate::pkix::csr::Csr;

/// Reads a CSR; one that is accepted reads the same again.
///
/// # Panics
/// If an accepted CSR does not survive being read again: a bug.
#[allow(clippy::panic, reason = "a fuzz body reports by panicking")]
pub fn csr(data: &[u8]) {
    if let Ok(csr) = Csr::from_der(data) {
        match Csr::from_der(csr.der()) {
            Ok(again) => assert_eq!(csr.names(), again.names()),
            Err(error) => panic!("an accepted CSR was refused the second time: {error}"),
        }
    }
}
