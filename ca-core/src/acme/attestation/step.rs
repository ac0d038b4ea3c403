//! Format `step` of smallstep's clients: a YubiKey's PIV attestation certificate, or one with smallstep's extension for
//! managed devices, and a signature of the attested key over the key authorization.

use const_oid::ObjectIdentifier;
use der::{AnyRef, Decode, Sequence, Tag, Tagged};

use super::cbor::{Statement, wrapped};
use super::chain::Certificate;
use super::{AttestationError, Attested, Binding, Format, device, extension, verify_signature};

/// The serial number of a YubiKey, an INTEGER:
/// <https://developers.yubico.com/PIV/Introduction/PIV_attestation.html>.
const YUBIKEY_SERIAL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.7");
/// smallstep's extension for managed devices.
const MANAGED_DEVICE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.37476.9000.64.4");

/// ```text
/// StepManagedDevice ::= SEQUENCE { deviceID CHOICE { UTF8String, PrintableString } }
/// ```
#[derive(Sequence)]
struct ManagedDevice<'a> {
    device_id: AnyRef<'a>,
}

pub(super) fn verify(
    statement: &Statement<'_>,
    path: &[Certificate],
    binding: Binding<'_>,
) -> Result<Attested, AttestationError> {
    let leaf = path.first().ok_or(AttestationError::Malformed("it has no certificate"))?;
    let signature = wrapped(statement.sig.ok_or(AttestationError::Malformed("it has no 'sig'"))?)?;
    verify_signature(leaf.key(), statement.alg, binding.key_authorization.as_bytes(), signature)?;
    let refuse = |why| AttestationError::Statement { format: Format::Step, why };
    let mut devices = Vec::new();
    if let Some(octets) = extension(leaf, YUBIKEY_SERIAL) {
        let serial = u32::from_der(octets)
            .map_err(|_| refuse("the YubiKey's serial number is no INTEGER from 0 to 4294967295"))?;
        devices.extend(device(&serial.to_string()));
    }
    if let Some(octets) = extension(leaf, MANAGED_DEVICE) {
        let id = managed_device(octets).ok_or(refuse("the extension for managed devices can't be read"))?;
        devices.extend(device(&id));
    }
    Ok(Attested { key: leaf.key().clone(), devices })
}

/// Reads both extensions.
pub(super) fn read(octets: &[u8]) {
    let _ = (u32::from_der(octets), managed_device(octets));
}

fn managed_device(octets: &[u8]) -> Option<String> {
    let id = ManagedDevice::from_der(octets).ok()?.device_id;
    if !matches!(id.tag(), Tag::Utf8String | Tag::PrintableString) {
        return None;
    }
    String::from_utf8(id.value().to_vec()).ok()
}
