//! Certificates: to-be-signed content out, and what we need of a CA certificate in. RFC 5280 §4.

use const_oid::db::rfc5280;
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use thiserror::Error;
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectKeyIdentifier};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::Name;
use x509_cert::time::Validity;

use crate::pkix::public_key::PublicKey;
use crate::pkix::serial::SerialNumber;
use crate::signing::SignatureAlgorithm;
use crate::time::Timestamp;

/// ```text
/// TBSCertificate  ::=  SEQUENCE  {
///     version         [0]  EXPLICIT Version DEFAULT v1,
///     serialNumber         CertificateSerialNumber,
///     signature            AlgorithmIdentifier,
///     issuer               Name,
///     validity             Validity,
///     subject              Name,
///     subjectPublicKeyInfo SubjectPublicKeyInfo,
///     extensions      [3]  EXPLICIT Extensions OPTIONAL }
/// ```
/// The unique identifiers are never used (§4.1.2.8).
#[derive(Sequence)]
struct TbsCertificate {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial_number: x509_cert::serial_number::SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

/// Everything that a certificate says.
#[derive(Clone, Debug)]
pub struct CertificateContent {
    /// The serial number.
    pub serial: SerialNumber,
    /// How the issuer signs.
    pub signature: SignatureAlgorithm,
    /// The issuer's Name.
    pub issuer: Name,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// The subject's Name.
    pub subject: Name,
    /// The subject's key.
    pub public_key: PublicKey,
    /// The extensions, each at most once.
    pub extensions: Vec<Extension>,
}

impl CertificateContent {
    /// The TBSCertificate in DER.
    ///
    /// # Errors
    /// If a part can't be encoded, such as a serial that needs more than 20 octets.
    pub fn to_tbs_der(&self) -> Result<Vec<u8>, der::Error> {
        let serial_number = self.serial.to_x509().ok_or(der::ErrorKind::Overlength)?;
        TbsCertificate {
            version: Version::V3,
            serial_number,
            signature: self.signature.identifier(),
            issuer: self.issuer.clone(),
            validity: Validity::new(self.not_before.to_x509(), self.not_after.to_x509()),
            subject: self.subject.clone(),
            subject_public_key_info: self.public_key.to_spki(),
            extensions: self.extensions.clone(),
        }
        .to_der()
    }
}

/// What issuing and answering need to know of a CA certificate.
#[derive(Clone, Debug)]
pub struct CaCertificate {
    /// The subject's Name: the issuer of what it signs.
    pub subject: Name,
    /// Its serial number.
    pub serial: SerialNumber,
    /// Its key.
    pub public_key: PublicKey,
    /// Its subjectKeyIdentifier.
    pub key_identifier: Vec<u8>,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// pathLenConstraint.
    pub path_length: Option<u8>,
}

/// Why a certificate can't be a CA's; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CaCertificateError {
    /// It is no certificate in DER.
    #[error("the CA certificate is not valid DER")]
    Malformed,
    /// Its key is of no kind that we know.
    #[error("the CA certificate's key can't be used: {0}")]
    PublicKey(String),
    /// It lacks basicConstraints with cA, or keyUsage with keyCertSign and cRLSign.
    #[error("the certificate is not a CA's: {0}")]
    NotCa(&'static str),
}

impl CaCertificate {
    /// Reads a CA certificate and checks that it is one: basicConstraints, keyUsage, subjectKeyIdentifier.
    ///
    /// # Errors
    /// See [`CaCertificateError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CaCertificateError> {
        let certificate = x509_cert::Certificate::from_der(der).map_err(|_| CaCertificateError::Malformed)?;
        let tbs = certificate.tbs_certificate();
        let extensions = tbs.extensions().map(Vec::as_slice).unwrap_or_default();
        let public_key = PublicKey::from_spki(tbs.subject_public_key_info())
            .map_err(|why| CaCertificateError::PublicKey(why.to_string()))?;
        let basic: BasicConstraints = find(extensions, rfc5280::ID_CE_BASIC_CONSTRAINTS)
            .filter(|basic: &BasicConstraints| basic.ca)
            .ok_or(CaCertificateError::NotCa("it has no basicConstraints with cA TRUE"))?;
        find(extensions, rfc5280::ID_CE_KEY_USAGE)
            .filter(|usage: &KeyUsage| usage.key_cert_sign() && usage.crl_sign())
            .ok_or(CaCertificateError::NotCa("its keyUsage lacks keyCertSign or cRLSign"))?;
        let key_identifier: SubjectKeyIdentifier = find(extensions, rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER)
            .ok_or(CaCertificateError::NotCa("it has no subjectKeyIdentifier"))?;
        Ok(Self {
            subject: tbs.subject().clone(),
            serial: SerialNumber::from_x509(tbs.serial_number())
                .map_err(|_| CaCertificateError::Malformed)?,
            public_key,
            key_identifier: key_identifier.0.as_bytes().to_vec(),
            not_before: Timestamp::from_x509(tbs.validity().not_before),
            not_after: Timestamp::from_x509(tbs.validity().not_after),
            path_length: basic.path_len_constraint,
        })
    }
}

/// The value of an extension, decoded; `None` if it is absent or malformed.
#[must_use]
pub fn find<'a, T: Decode<'a>>(extensions: &'a [Extension], oid: der::oid::ObjectIdentifier) -> Option<T> {
    let extension = extensions.iter().find(|extension| extension.extn_id == oid)?;
    T::from_der(extension.extn_value.as_bytes()).ok()
}

/// authorityKeyIdentifier's keyIdentifier.
#[must_use]
pub fn authority_key_identifier(extensions: &[Extension]) -> Option<Vec<u8>> {
    let value: AuthorityKeyIdentifier = find(extensions, rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER)?;
    value.key_identifier.map(|id| id.as_bytes().to_vec())
}
