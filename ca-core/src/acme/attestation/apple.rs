//! Format `apple`: Managed Device Attestation. Apple's attestation server certifies the key that the Secure Enclave
//! made, and puts the device's serial number, its UDID and a freshness code into the certificate's extensions.
//!
//! The freshness code is SHA-256 of what the device was given as nonce. Apple's ACME client gives the token alone, since
//! Apple's server signs before the account key comes into it (draft-ietf-acme-device-attest-10 §5); revisions before
//! -09 had the key authorization there, which contains the token and is accepted too.

use const_oid::ObjectIdentifier;

use super::chain::Certificate;
use super::{AttestationError, Attested, Binding, Format, device, extension};
use crate::pkix::public_key::sha256;

const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.9.1");
const UDID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.9.2");
const FRESHNESS_CODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.11.1");

/// The values of these extensions are the bare octets, without ASN.1 round them.
pub(super) fn verify(path: &[Certificate], binding: Binding<'_>) -> Result<Attested, AttestationError> {
    let leaf = path.first().ok_or(AttestationError::Malformed("it has no certificate"))?;
    let freshness = extension(leaf, FRESHNESS_CODE).ok_or(AttestationError::Statement {
        format: Format::Apple,
        why: "the certificate has no freshness code (1.2.840.113635.100.8.11.1)",
    })?;
    if freshness != sha256(binding.token.as_bytes())
        && freshness != sha256(binding.key_authorization.as_bytes())
    {
        return Err(AttestationError::NotBound("the freshness code is not SHA-256 of the token"));
    }
    let devices = [SERIAL_NUMBER, UDID].into_iter().filter_map(|oid| {
        let text = std::str::from_utf8(extension(leaf, oid)?).ok()?;
        device(text)
    });
    Ok(Attested { key: leaf.key().clone(), devices: devices.collect() })
}
