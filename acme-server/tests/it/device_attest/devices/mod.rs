//! Devices that attest their keys, with manufacturers of their own: Apple's, Android's, YubiKeys and a TPM (swtpm). Each
//! makes what its format wants, and lets a test spoil any part of it.

pub mod android;
pub mod apple;
pub mod encode;
pub mod manufacturer;
pub mod step;
pub mod swtpm;
pub mod tpm;

pub use android::Android;
pub use apple::Apple;
pub use manufacturer::Manufacturer;
pub use step::YubiKey;
pub use tpm::TpmDevice;

use encode::Cbor;

/// An attestation object.
pub fn attestation_object(format: &str, statement: Vec<(&'static str, Cbor)>) -> Vec<u8> {
    let format = Cbor::Text(format.to_owned());
    Cbor::Map(vec![("fmt", format), ("attStmt", Cbor::Map(statement))]).encode()
}
