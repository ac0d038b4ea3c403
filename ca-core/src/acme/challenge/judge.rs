//! Whether what a challenge's probe saw is what the client had to provide. RFC 8555 §8.3 and §8.4, RFC 8737 §3.

use std::net::IpAddr;

use aws_lc_rs::constant_time;
use der::asn1::OctetStringRef;
use der::oid::ObjectIdentifier;
use der::{Decode, Encode};

use super::{FailureKind, KeyAuthorization, ValidationFailure};
use crate::pkix::identifier::Identifier;

/// id-pe-acmeIdentifier, RFC 8737 §3.
const ACME_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.31");

/// RFC 8555 §8.3: the body is the key authorization; trailing white space is ignored.
pub(super) fn http(
    expected: &KeyAuthorization,
    status: u16,
    body: &[u8],
    truncated: bool,
    redirected: bool,
    address: &str,
) -> Result<(), ValidationFailure> {
    let refuse = |detail: String| Err(ValidationFailure::new(FailureKind::Unauthorized, detail));
    let length = if truncated { format!("more than {}", body.len()) } else { body.len().to_string() };
    let seen = if redirected {
        format!("{length} bytes")
    } else {
        format!("{length} bytes: \"{}\"", body.get(..64).unwrap_or(body).escape_ascii())
    };
    if status != 200 {
        return refuse(format!("{address} answered with status {status} and {seen}"));
    }
    if !truncated && body.trim_ascii_end() == expected.as_str().as_bytes() {
        return Ok(());
    }
    refuse(format!(
        "{address} answered with {seen}; expected the key authorization \"{}\"",
        expected.as_str()
    ))
}

/// RFC 8555 §8.4: one of the TXT records is the digest of the key authorization.
pub(super) fn txt(
    name: &str,
    expected: &KeyAuthorization,
    values: &[Vec<u8>],
) -> Result<(), ValidationFailure> {
    let wanted = expected.dns_value();
    if values.iter().any(|value| value == wanted.as_bytes()) {
        return Ok(());
    }
    let found = match values {
        [] => "there is no TXT record".to_owned(),
        [one] => format!("the TXT record is \"{}\"", one.get(..64).unwrap_or(one).escape_ascii()),
        many => format!("none of the {} TXT records matches", many.len()),
    };
    Err(ValidationFailure::new(
        FailureKind::Unauthorized,
        format!("at {name} {found}; expected \"{wanted}\""),
    ))
}

/// RFC 8737 §3: a self-signed certificate whose only subjectAltName is the identifier, with a critical
/// id-pe-acmeIdentifier that holds SHA-256 of the key authorization.
pub(super) fn tls_alpn(
    identifier: &Identifier,
    expected: &KeyAuthorization,
    certificate: &[u8],
    address: &str,
) -> Result<(), ValidationFailure> {
    use x509_cert::ext::pkix::SubjectAltName;
    use x509_cert::ext::pkix::name::GeneralName;

    let refuse = |detail: &str| {
        let detail = format!("the certificate that {address} presented {detail}");
        Err(ValidationFailure::new(FailureKind::Unauthorized, detail))
    };
    let Ok(certificate) = x509_cert::Certificate::from_der(certificate) else {
        return refuse("is not valid DER");
    };
    let tbs = certificate.tbs_certificate();
    if tbs.subject().to_der().ok() != tbs.issuer().to_der().ok() {
        return refuse("is not self-signed");
    }
    let extensions = tbs.extensions().map(Vec::as_slice).unwrap_or_default();

    let mut names = extensions.iter().filter(|e| e.extn_id == const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME);
    let (Some(names), None) = (names.next(), names.next()) else {
        return refuse("does not have exactly one subjectAltName extension");
    };
    let Ok(SubjectAltName(names)) = SubjectAltName::from_der(names.extn_value.as_bytes()) else {
        return refuse("has a subjectAltName that is not valid DER");
    };
    let matches = match (names.as_slice(), identifier) {
        ([GeneralName::DnsName(name)], Identifier::Dns(wanted)) => {
            name.as_str().eq_ignore_ascii_case(wanted.as_str())
        }
        ([GeneralName::IpAddress(octets)], Identifier::Ip(IpAddr::V4(wanted))) => {
            octets.as_bytes() == wanted.octets()
        }
        ([GeneralName::IpAddress(octets)], Identifier::Ip(IpAddr::V6(wanted))) => {
            octets.as_bytes() == wanted.octets()
        }
        _ => false,
    };
    if !matches {
        return refuse(&format!("does not have {identifier} as its only subjectAltName"));
    }

    let mut proofs = extensions.iter().filter(|e| e.extn_id == ACME_IDENTIFIER);
    let (Some(proof), None) = (proofs.next(), proofs.next()) else {
        return refuse("does not have exactly one acmeIdentifier extension");
    };
    if !proof.critical {
        return refuse("has an acmeIdentifier extension that is not critical");
    }
    let digest = <&OctetStringRef>::from_der(proof.extn_value.as_bytes());
    match digest {
        Ok(digest)
            if constant_time::verify_slices_are_equal(digest.as_bytes(), &expected.sha256()).is_ok() =>
        {
            Ok(())
        }
        Ok(_) => refuse("has an acmeIdentifier that is not the digest of the key authorization"),
        Err(_) => refuse("has an acmeIdentifier that is no OCTET STRING"),
    }
}
