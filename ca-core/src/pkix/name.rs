//! Distinguished names of subjects and issuers, RFC 5280 §4.1.2.4.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc4519;
use der::asn1::{SetOfVec, Utf8StringRef};
use der::{Any, Decode, Encode};
use thiserror::Error;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

/// The longest commonName and organizationName in characters (ub-common-name, ub-organization-name, RFC 5280 A.1).
pub const MAX_ATTRIBUTE: usize = 64;

/// A text can't stand in a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' can't stand in a subject: 1 to {MAX_ATTRIBUTE} characters, none of them a control character, are expected"
)]
pub struct InvalidAttribute(pub String);

/// Builds a name from organizationName and commonName, in this order, each in an RDN of its own.
///
/// Without either the name is empty, as a certificate has it whose subject stands in subjectAltName.
///
/// # Errors
/// If a text is empty, too long, or holds control characters.
pub fn distinguished_name(
    organisation: Option<&str>,
    common_name: Option<&str>,
) -> Result<Name, InvalidAttribute> {
    let mut rdns = Vec::with_capacity(2);
    for (oid, text) in [(rfc4519::ORGANIZATION_NAME, organisation), (rfc4519::COMMON_NAME, common_name)] {
        if let Some(text) = text {
            rdns.push(rdn(oid, text).ok_or_else(|| InvalidAttribute(text.chars().take(80).collect()))?);
        }
    }
    let encoded = RdnSequence::from(rdns).to_der();
    encoded
        .and_then(|der| Name::from_der(&der))
        .map_err(|_| InvalidAttribute(common_name.or(organisation).unwrap_or_default().to_owned()))
}

/// The organizationName of a distinguished name, if it has one.
#[must_use]
pub fn organisation(name: &Name) -> Option<String> {
    let attribute = name.iter().find(|attribute| attribute.oid == rfc4519::ORGANIZATION_NAME)?;
    let text = attribute.value.decode_as::<Utf8StringRef<'_>>().ok()?;
    Some(text.as_str().to_owned())
}

fn rdn(oid: ObjectIdentifier, text: &str) -> Option<RelativeDistinguishedName> {
    let length = text.chars().count();
    if !(1..=MAX_ATTRIBUTE).contains(&length) || text.chars().any(char::is_control) {
        return None;
    }
    let value = Any::encode_from(&Utf8StringRef::new(text).ok()?).ok()?;
    let mut set = SetOfVec::new();
    set.insert(AttributeTypeAndValue { oid, value }).ok()?;
    Some(RelativeDistinguishedName::from(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stand_in_the_order_given() {
        let name = distinguished_name(Some("Example, Inc."), Some("Root")).unwrap();
        assert_eq!(name.to_string(), "CN=Root,O=Example\\, Inc.");
        assert_eq!(organisation(&name).as_deref(), Some("Example, Inc."));
        assert_eq!(organisation(&distinguished_name(None, Some("Root")).unwrap()), None);
        assert!(distinguished_name(None, None).unwrap().is_empty());
        assert!(distinguished_name(None, Some("")).is_err());
        assert!(distinguished_name(None, Some(&"a".repeat(65))).is_err());
        assert!(distinguished_name(None, Some("a\nb")).is_err());
    }
}
