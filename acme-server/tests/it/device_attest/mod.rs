//! device-attest-01, [draft-ietf-acme-device-attest-10](https://datatracker.ietf.org/doc/html/draft-ietf-acme-device-attest-10):
//! what each format must say, and orders of devices.

pub mod devices;
mod formats;
mod fuzzed;
mod orders;
mod paths;
mod stored;
mod tpm;

use ca_core::acme::attestation::{Attested, Binding, Format, Trust, TrustAnchor, verify};
use ca_core::time::{Clock, SystemClock};
use devices::Manufacturer;

pub const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
pub const KEY_AUTHORIZATION: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";

/// Accepts one format from one manufacturer.
pub fn trust(format: Format, manufacturer: &Manufacturer) -> Trust {
    let mut trust = Trust::default();
    trust.accept(format, TrustAnchor::from_pem(manufacturer.roots().as_bytes()).unwrap());
    trust
}

/// What an attestation object proves now for the challenge of these tests, or why it proves nothing.
pub fn verified(object: &[u8], trust: &Trust) -> Result<Attested, String> {
    let binding = Binding { token: TOKEN, key_authorization: KEY_AUTHORIZATION };
    verify(object, trust, binding, SystemClock.now()).map_err(|error| error.to_string())
}

/// The names of the devices that an attestation proves.
pub fn devices_of(object: &[u8], trust: &Trust) -> Vec<String> {
    verified(object, trust).unwrap().devices.iter().map(ToString::to_string).collect()
}

/// Asserts that an attestation is refused for this reason.
#[track_caller]
pub fn assert_refused(object: &[u8], trust: &Trust, why: &str) {
    let error = verified(object, trust).map(|_| ()).unwrap_err();
    assert!(error.contains(why), "refused, but because: {error}");
}
