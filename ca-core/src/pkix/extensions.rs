//! Certificate and CRL extensions that we write, RFC 5280 §4.2 and §5.2.

use std::net::IpAddr;

use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5280, rfc5912, rfc6960};
use der::Encode;
use der::asn1::{Ia5String, Null, OctetString};
use der::flagset::FlagSet;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::crl::dp::{DistributionPoint, IssuingDistributionPoint};
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{
    AccessDescription, AuthorityInfoAccessSyntax, AuthorityKeyIdentifier, BasicConstraints,
    CrlDistributionPoints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName, SubjectKeyIdentifier,
};

use crate::pkix::identifier::Identifier;

/// An extension that could not be encoded: a URL with characters outside IA5, or over-long.
pub type Result<T> = std::result::Result<T, der::Error>;

fn extension(oid: ObjectIdentifier, critical: bool, value: &impl Encode) -> Result<Extension> {
    Ok(Extension { extn_id: oid, critical, extn_value: OctetString::new(value.to_der()?)? })
}

fn uri(text: &str) -> Result<GeneralName> {
    Ok(GeneralName::UniformResourceIdentifier(Ia5String::new(text)?))
}

/// subjectAltName; critical exactly if the subject is empty, §4.2.1.6.
pub fn subject_alt_name(names: &[Identifier], subject_is_empty: bool) -> Result<Extension> {
    let names = names
        .iter()
        .map(|name| {
            Ok(match name {
                Identifier::Dns(name) => GeneralName::DnsName(Ia5String::new(name.as_str())?),
                Identifier::Ip(IpAddr::V4(address)) => {
                    GeneralName::IpAddress(OctetString::new(address.octets().to_vec())?)
                }
                Identifier::Ip(IpAddr::V6(address)) => {
                    GeneralName::IpAddress(OctetString::new(address.octets().to_vec())?)
                }
                Identifier::PermanentIdentifier(identifier) => {
                    GeneralName::OtherName(identifier.to_other_name()?)
                }
                Identifier::HardwareModule(module) => GeneralName::OtherName(module.to_other_name()?),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    extension(rfc5280::ID_CE_SUBJECT_ALT_NAME, subject_is_empty, &SubjectAltName(names))
}

/// basicConstraints, critical, §4.2.1.9.
pub fn basic_constraints(ca: bool, path_length: Option<u8>) -> Result<Extension> {
    let value = BasicConstraints { ca, path_len_constraint: path_length };
    extension(rfc5280::ID_CE_BASIC_CONSTRAINTS, true, &value)
}

/// keyUsage, critical, §4.2.1.3.
pub fn key_usage(usages: impl Into<FlagSet<KeyUsages>>) -> Result<Extension> {
    extension(rfc5280::ID_CE_KEY_USAGE, true, &KeyUsage(usages.into()))
}

/// extKeyUsage, §4.2.1.12.
pub fn extended_key_usage(purpose: ObjectIdentifier) -> Result<Extension> {
    extension(rfc5280::ID_CE_EXT_KEY_USAGE, false, &ExtendedKeyUsage(vec![purpose]))
}

/// subjectKeyIdentifier, §4.2.1.2.
pub fn subject_key_identifier(id: &[u8]) -> Result<Extension> {
    let value = SubjectKeyIdentifier(OctetString::new(id.to_vec())?);
    extension(rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER, false, &value)
}

/// authorityKeyIdentifier with the issuer's own key identifier, §4.2.1.1 and §5.2.1.
pub fn authority_key_identifier(id: &[u8]) -> Result<Extension> {
    let value = AuthorityKeyIdentifier {
        key_identifier: Some(OctetString::new(id.to_vec())?),
        authority_cert_issuer: None,
        authority_cert_serial_number: None,
    };
    extension(rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER, false, &value)
}

/// cRLDistributionPoints with one URL, §4.2.1.13.
pub fn crl_distribution_point(url: &str) -> Result<Extension> {
    let point = DistributionPoint {
        distribution_point: Some(DistributionPointName::FullName(vec![uri(url)?])),
        reasons: None,
        crl_issuer: None,
    };
    extension(rfc5280::ID_CE_CRL_DISTRIBUTION_POINTS, false, &CrlDistributionPoints(vec![point]))
}

/// authorityInfoAccess with the responder's and the issuer certificate's URL, §4.2.2.1.
pub fn authority_info_access(ocsp: Option<&str>, ca_issuers: &str) -> Result<Extension> {
    let mut access = Vec::with_capacity(2);
    if let Some(ocsp) = ocsp {
        access.push(AccessDescription { access_method: rfc5912::ID_AD_OCSP, access_location: uri(ocsp)? });
    }
    access.push(AccessDescription {
        access_method: rfc5912::ID_AD_CA_ISSUERS,
        access_location: uri(ca_issuers)?,
    });
    extension(rfc5280::ID_PE_AUTHORITY_INFO_ACCESS, false, &AuthorityInfoAccessSyntax(access))
}

/// id-pkix-ocsp-nocheck, RFC 6960 §4.2.2.2.1.
pub fn ocsp_no_check() -> Result<Extension> {
    extension(rfc6960::ID_PKIX_OCSP_NOCHECK, false, &Null)
}

/// cRLNumber, §5.2.3.
pub fn crl_number(number: u64) -> Result<Extension> {
    extension(rfc5280::ID_CE_CRL_NUMBER, false, &number)
}

/// issuingDistributionPoint, critical, §5.2.5: the CRL covers only certificates that name this URL.
pub fn issuing_distribution_point(url: &str) -> Result<Extension> {
    let value = IssuingDistributionPoint {
        distribution_point: Some(DistributionPointName::FullName(vec![uri(url)?])),
        only_contains_user_certs: false,
        only_contains_ca_certs: false,
        only_some_reasons: None,
        indirect_crl: false,
        only_contains_attribute_certs: false,
    };
    // The crate's own OID for this type is that of another extension.
    extension(ObjectIdentifier::new_unwrap("2.5.29.28"), true, &value)
}

/// reasonCode of a CRL entry, §5.3.1.
pub fn reason_code(code: u8) -> Result<Extension> {
    // ENUMERATED has the form of INTEGER under another tag; every code is below 128.
    Ok(Extension {
        extn_id: rfc5280::ID_CE_CRL_REASONS,
        critical: false,
        extn_value: OctetString::new(vec![0x0a, 1, code])?,
    })
}
