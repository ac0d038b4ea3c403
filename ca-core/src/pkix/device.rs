//! What names a device: permanent identifiers ([RFC 4043](https://www.rfc-editor.org/rfc/rfc4043)) and hardware modules
//! ([RFC 4108 §5](https://www.rfc-editor.org/rfc/rfc4108#section-5)), as ACME identifiers
//! (draft-ietf-acme-device-attest-10 §3 and §4) and as otherName in subjectAltName.

use std::fmt;

use const_oid::ObjectIdentifier;
use der::asn1::{OctetString, Utf8StringRef};
use der::{Any, Decode, Encode, Sequence};
use serde::{Deserialize, Serialize};
use x509_cert::ext::pkix::name::OtherName;

use crate::pkix::identifier::{Identifier, InvalidName};

/// id-on-permanentIdentifier.
const PERMANENT_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.3");
/// id-on-hardwareModuleName.
const HARDWARE_MODULE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.4");

/// The identity of a device, given by its manufacturer or by whom the assigner names.
///
/// In text `IDENTITY` or `IDENTITY/OID`. Its octets are kept as they are: serial numbers may tell upper from lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PermanentIdentifier {
    value: String,
    assigner: Option<ObjectIdentifier>,
}

/// The identity of a secure cryptoprocessor: its type and, within that, its serial number. In text `SERIAL/OID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HardwareModule {
    serial: String,
    hardware_type: ObjectIdentifier,
}

/// ```text
/// PermanentIdentifier ::= SEQUENCE {
///     identifierValue    UTF8String           OPTIONAL,
///     assigner           OBJECT IDENTIFIER    OPTIONAL }
/// ```
/// The draft's §3.2 makes the value mandatory.
#[derive(Sequence)]
struct PermanentIdentifierForm<'a> {
    value: Utf8StringRef<'a>,
    #[asn1(optional = "true")]
    assigner: Option<ObjectIdentifier>,
}

/// ```text
/// HardwareModuleName ::= SEQUENCE { hwType OBJECT IDENTIFIER, hwSerialNum OCTET STRING }
/// ```
#[derive(Sequence)]
struct HardwareModuleForm {
    hardware_type: ObjectIdentifier,
    serial: OctetString,
}

/// The most octets that an identity or serial number may have. The RFCs set no limit; real ones have some tens.
const MAX_LENGTH: usize = 255;

impl PermanentIdentifier {
    /// Its name as an ACME identifier type.
    pub const KIND: &'static str = "permanent-identifier";

    /// Reads `IDENTITY` or `IDENTITY/OID`, §3.1.
    ///
    /// # Errors
    /// [`InvalidName::Device`].
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let invalid = || invalid(Self::KIND, text, "IDENTITY or IDENTITY/1.2.3");
        let (value, assigner) = match text.split_once('/') {
            Some((value, oid)) => (value, Some(object_identifier(oid).ok_or_else(invalid)?)),
            None => (text, None),
        };
        if is_identity(value) { Ok(Self { value: value.to_owned(), assigner }) } else { Err(invalid()) }
    }

    /// The identity alone.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    pub(crate) fn to_other_name(&self) -> Result<OtherName, der::Error> {
        let form =
            PermanentIdentifierForm { value: Utf8StringRef::new(&self.value)?, assigner: self.assigner };
        Ok(OtherName { type_id: PERMANENT_IDENTIFIER, value: Any::encode_from(&form)? })
    }
}

impl HardwareModule {
    /// Its name as an ACME identifier type.
    pub const KIND: &'static str = "hardware-module";

    /// Reads `SERIAL/OID`, §4.1.
    ///
    /// # Errors
    /// [`InvalidName::Device`].
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let invalid = || invalid(Self::KIND, text, "SERIAL/1.2.3");
        let (serial, oid) = text.split_once('/').ok_or_else(invalid)?;
        let hardware_type = object_identifier(oid).ok_or_else(invalid)?;
        if is_identity(serial) {
            Ok(Self { serial: serial.to_owned(), hardware_type })
        } else {
            Err(invalid())
        }
    }

    /// The serial number alone.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub(crate) fn to_other_name(&self) -> Result<OtherName, der::Error> {
        let serial = OctetString::new(self.serial.as_bytes().to_vec())?;
        let form = HardwareModuleForm { hardware_type: self.hardware_type, serial };
        Ok(OtherName { type_id: HARDWARE_MODULE_NAME, value: Any::encode_from(&form)? })
    }
}

fn invalid(kind: &'static str, text: &str, form: &'static str) -> InvalidName {
    InvalidName::Device { kind, value: text.chars().take(64).collect(), form }
}

/// The draft's grammar admits every character but the slash. Those that steer terminals and text direction are no part
/// of any serial number, and would let one device's name look like another's in a log.
fn is_identity(text: &str) -> bool {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    (1..=MAX_LENGTH).contains(&text.len()) && !text.contains('/') && !text.chars().any(steers)
}

/// An object identifier in its one dotted form.
fn object_identifier(text: &str) -> Option<ObjectIdentifier> {
    ObjectIdentifier::new(text).ok().filter(|oid| oid.to_string() == text)
}

impl fmt::Display for PermanentIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)?;
        self.assigner.map_or(Ok(()), |assigner| write!(f, "/{assigner}"))
    }
}

impl fmt::Display for HardwareModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.serial, self.hardware_type)
    }
}

impl TryFrom<String> for PermanentIdentifier {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<PermanentIdentifier> for String {
    fn from(identifier: PermanentIdentifier) -> Self {
        identifier.to_string()
    }
}

impl TryFrom<String> for HardwareModule {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<HardwareModule> for String {
    fn from(module: HardwareModule) -> Self {
        module.to_string()
    }
}

/// The device that an otherName names; `None` if it is of another type or not as the draft wants it.
pub(crate) fn from_other_name(name: &OtherName) -> Option<Identifier> {
    let der = name.value.to_der().ok()?;
    match name.type_id {
        PERMANENT_IDENTIFIER => {
            let form = PermanentIdentifierForm::from_der(&der).ok()?;
            let (value, assigner) = (form.value.as_str().to_owned(), form.assigner);
            is_identity(&value)
                .then_some(Identifier::PermanentIdentifier(PermanentIdentifier { value, assigner }))
        }
        HARDWARE_MODULE_NAME => {
            let form = HardwareModuleForm::from_der(&der).ok()?;
            let serial = String::from_utf8(form.serial.as_bytes().to_vec()).ok()?;
            let hardware_type = form.hardware_type;
            is_identity(&serial)
                .then_some(Identifier::HardwareModule(HardwareModule { serial, hardware_type }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draft_3_1_a_permanent_identifier_is_an_identity_and_perhaps_an_assigner() {
        for fine in ["ABCDEF123456", "ABCDEF123456/1.2.3.4", "a b*:.,", "Ä", "x/2.5.4.3"] {
            assert_eq!(PermanentIdentifier::parse(fine).unwrap().to_string(), fine);
        }
        let long = "a".repeat(256);
        for bad in
            ["", "/1.2.3", "a/", "a/1", "a/1.2.3/4", "a/1.02", "a/3.1", "a/1.40", "a\n", "a\u{202e}b", &long]
        {
            assert!(PermanentIdentifier::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn draft_4_1_a_hardware_module_always_has_its_type() {
        assert_eq!(HardwareModule::parse("ABCD/1.2.3.4").unwrap().to_string(), "ABCD/1.2.3.4");
        for bad in ["ABCD", "/1.2.3", "ABCD/", "ABCD/x", "a/b/1.2.3"] {
            assert!(HardwareModule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_other_name_has_the_forms_of_rfc4043_and_rfc4108_and_reads_the_same() {
        let der = |kind, value| {
            let identifier = Identifier::parse(kind, value).unwrap();
            let name = match &identifier {
                Identifier::PermanentIdentifier(identifier) => identifier.to_other_name(),
                Identifier::HardwareModule(module) => module.to_other_name(),
                Identifier::Dns(_) | Identifier::Ip(_) => panic!("{identifier} is no device"),
            }
            .unwrap();
            assert_eq!(from_other_name(&name), Some(identifier));
            name.value.to_der().unwrap()
        };
        assert_eq!(der("permanent-identifier", "AB"), [0x30, 4, 0x0c, 2, b'A', b'B']);
        assert_eq!(der("permanent-identifier", "A/1.2.3"), [0x30, 7, 0x0c, 1, b'A', 6, 2, 0x2a, 3]);
        assert_eq!(der("hardware-module", "A/1.2.3"), [0x30, 7, 6, 2, 0x2a, 3, 4, 1, b'A']);
    }

    #[test]
    fn a_permanent_identifier_without_its_value_is_none() {
        let value = Any::from_der(&[0x30, 4, 6, 2, 0x2a, 3]).unwrap();
        assert_eq!(from_other_name(&OtherName { type_id: PERMANENT_IDENTIFIER, value }), None);
    }
}
