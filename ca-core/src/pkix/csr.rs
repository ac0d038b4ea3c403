//! PKCS#10 certification requests, RFC 2986: nothing of them is ever copied into a certificate but the public key.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::signature;
use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5280, rfc5912, rfc8410};
use der::asn1::Any;
use der::{Decode, Encode, Header, Reader, SliceReader};
use thiserror::Error;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::request::CertReq;

use crate::pkix::device;
use crate::pkix::identifier::{DnsName, Identifier};
use crate::pkix::public_key::{PublicKey, PublicKeyAlgorithm, PublicKeyError, sha256};

/// A CSR whose signature was verified: the requester holds the private key.
#[derive(Clone, Debug)]
pub struct Csr {
    der: Vec<u8>,
    public_key: PublicKey,
    alternatives: BTreeSet<Identifier>,
    common_names: Vec<String>,
}

/// Why a CSR was not accepted; the subscriber acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CsrError {
    /// It is too large to be read.
    #[error("the CSR has {0} octets; at most {max} are read", max = Csr::MAX_LENGTH)]
    TooLarge(usize),
    /// It is no PKCS#10 in DER.
    #[error("the CSR is no PKCS#10 CertificationRequest in DER")]
    Malformed,
    /// Its key can't be used.
    #[error("the CSR's key: {0}")]
    PublicKey(String),
    /// Its signature algorithm is not one we verify.
    #[error(
        "the CSR is signed with {0}, which is not supported; use ECDSA, RSA or Ed25519 with SHA-256 or better"
    )]
    UnknownSignature(ObjectIdentifier),
    /// Its signature is wrong.
    #[error("the CSR's signature does not verify under its own key")]
    BadSignature,
    /// It asks for something that is no name that we certify.
    #[error("the CSR asks for {0}, which can't be issued here")]
    UnsupportedName(String),
    /// The key is of a kind or size that policy does not accept.
    #[error("the CSR has a key of kind {found}; accepted are: {accepted}")]
    Key {
        /// What the CSR has.
        found: String,
        /// What policy accepts.
        accepted: String,
    },
    /// The key was blocked.
    #[error("the CSR's key is blocked; make a new key")]
    BlockedKey,
    /// The names are not those of the order.
    #[error("the CSR must ask for exactly the order's names; missing: [{missing}], not ordered: [{surplus}]")]
    Names {
        /// Ordered, and not in the CSR.
        missing: String,
        /// In the CSR, and not ordered.
        surplus: String,
    },
    /// It leaves out every name of the order.
    #[error(
        "the CSR asks for none of the order's names, so that the certificate would name nobody; put the device's \
         identifier into subjectAltName, or its serial number into commonName"
    )]
    NoNames,
    /// A device attested another key.
    #[error("the CSR's key is not the key that the device attested for '{0}'")]
    NotAttested(Identifier),
}

impl From<PublicKeyError> for CsrError {
    fn from(error: PublicKeyError) -> Self {
        Self::PublicKey(error.to_string())
    }
}

impl Csr {
    /// The most octets a CSR may have: 100 names of 253 octets and an RSA-8192 key fit.
    pub const MAX_LENGTH: usize = 40 * 1024;

    /// Reads a CSR and verifies its signature, once for the same octets: where front end and `ca` are one process, the
    /// second to judge an order reads everything again, and spares itself the arithmetic.
    ///
    /// A name in the subject's commonName counts as asked for if it is a dns or ip name or what the order's device is
    /// called; other parts of the subject and other extensions are ignored.
    ///
    /// # Errors
    /// See [`CsrError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > Self::MAX_LENGTH {
            return Err(CsrError::TooLarge(der.len()));
        }
        let request = CertReq::from_der(der).map_err(|_| CsrError::Malformed)?;
        let public_key = PublicKey::from_spki(&request.info.public_key)?;
        let signed = signed_part(der).ok_or(CsrError::Malformed)?;
        let octets = request.signature.as_bytes().ok_or(CsrError::BadSignature)?;
        let fingerprint = sha256(der);
        if !known_to_verify(&fingerprint) {
            verify(&request.algorithm, &public_key, signed, octets)?;
            remember(fingerprint);
        }
        let alternatives = alternatives(&request)?;
        let common_names = common_names(&request);
        Ok(Self { der: der.to_vec(), public_key, alternatives, common_names })
    }

    /// The CSR in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The key to be certified.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The names asked for, of those ordered: a commonName is the serial number of a device that was ordered, or else
    /// a dns or ip name, or else nothing.
    #[must_use]
    pub fn names(&self, ordered: &[Identifier]) -> BTreeSet<Identifier> {
        let subject = self.common_names.iter().filter_map(|text| {
            let device = ordered.iter().find(|name| name.is_device() && name.common_name() == *text);
            device.cloned().or_else(|| Identifier::from_text(text).ok())
        });
        subject.chain(self.alternatives.iter().cloned()).collect()
    }

    /// Whether the CSR asks for exactly these names, RFC 8555 §7.4; it may leave devices' names out
    /// (draft-ietf-acme-device-attest-10 §3.2, §4.2). Gives those that the certificate is to carry, in the order's order.
    ///
    /// # Errors
    /// [`CsrError::Names`] with both differences, [`CsrError::NoNames`] if no name is left.
    pub fn require_names(&self, ordered: &[Identifier]) -> Result<Vec<Identifier>, CsrError> {
        let asked = self.names(ordered);
        let list = |names: Vec<&Identifier>| {
            names.into_iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let missing: Vec<_> =
            ordered.iter().filter(|name| !name.is_device() && !asked.contains(*name)).collect();
        let known: BTreeSet<_> = ordered.iter().collect();
        let surplus: Vec<_> = asked.iter().filter(|name| !known.contains(*name)).collect();
        if !missing.is_empty() || !surplus.is_empty() {
            return Err(CsrError::Names { missing: list(missing), surplus: list(surplus) });
        }
        let carried: Vec<_> = ordered.iter().filter(|name| asked.contains(*name)).cloned().collect();
        if carried.is_empty() { Err(CsrError::NoNames) } else { Ok(carried) }
    }
}

/// The octets of CertificationRequestInfo (or TBSCertificate) as they stand in what was signed, so that the signature is verified over what was
/// sent and not over an encoding of ours.
pub(crate) fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let mut reader = SliceReader::new(der).ok()?;
    Header::decode(&mut reader).ok()?;
    let start = usize::try_from(reader.position()).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    let content = usize::try_from(reader.position()).ok()?;
    let length = usize::try_from(header.length()).ok()?;
    der.get(start..content.checked_add(length)?)
}

/// The CSRs, by SHA-256 over all their octets, whose signature verified last. That it does depends on nothing else, so
/// none is ever wrong here.
static VERIFIED: Mutex<VecDeque<[u8; 32]>> = Mutex::new(VecDeque::new());

/// How many are remembered: those between two looks at one order, at any rate.
const REMEMBERED: usize = 256;

fn known_to_verify(fingerprint: &[u8; 32]) -> bool {
    VERIFIED.lock().unwrap_or_else(PoisonError::into_inner).contains(fingerprint)
}

fn remember(fingerprint: [u8; 32]) {
    let mut verified = VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
    if verified.len() >= REMEMBERED {
        verified.pop_front();
    }
    verified.push_back(fingerprint);
}

/// Verifies the signature of a CSR or certificate with the algorithm that stands in it.
///
/// # Errors
/// [`CsrError::UnknownSignature`] and [`CsrError::BadSignature`].
pub(crate) fn verify(
    algorithm: &spki::AlgorithmIdentifierOwned,
    key: &PublicKey,
    message: &[u8],
    octets: &[u8],
) -> Result<(), CsrError> {
    use PublicKeyAlgorithm::{EcP256, EcP384, EcP521, Ed25519, Rsa};
    let verifier: &'static dyn signature::VerificationAlgorithm = match (algorithm.oid, key.algorithm()) {
        (rfc5912::ECDSA_WITH_SHA_256, EcP256) => &signature::ECDSA_P256_SHA256_ASN1,
        (rfc5912::ECDSA_WITH_SHA_384, EcP256) => &signature::ECDSA_P256_SHA384_ASN1,
        (rfc5912::ECDSA_WITH_SHA_512, EcP256) => &signature::ECDSA_P256_SHA512_ASN1,
        (rfc5912::ECDSA_WITH_SHA_256, EcP384) => &signature::ECDSA_P384_SHA256_ASN1,
        (rfc5912::ECDSA_WITH_SHA_384, EcP384) => &signature::ECDSA_P384_SHA384_ASN1,
        (rfc5912::ECDSA_WITH_SHA_512, EcP384) => &signature::ECDSA_P384_SHA512_ASN1,
        (rfc5912::ECDSA_WITH_SHA_256, EcP521) => &signature::ECDSA_P521_SHA256_ASN1,
        (rfc5912::ECDSA_WITH_SHA_384, EcP521) => &signature::ECDSA_P521_SHA384_ASN1,
        (rfc5912::ECDSA_WITH_SHA_512, EcP521) => &signature::ECDSA_P521_SHA512_ASN1,
        (rfc8410::ID_ED_25519, Ed25519) => &signature::ED25519,
        (rfc5912::SHA_256_WITH_RSA_ENCRYPTION, Rsa(_)) => {
            &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
        }
        (rfc5912::SHA_384_WITH_RSA_ENCRYPTION, Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (rfc5912::SHA_512_WITH_RSA_ENCRYPTION, Rsa(_)) => {
            &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
        }
        (rfc5912::ID_RSASSA_PSS, Rsa(_)) => pss_verifier(algorithm)?,
        (
            rfc5912::ECDSA_WITH_SHA_256
            | rfc5912::ECDSA_WITH_SHA_384
            | rfc5912::ECDSA_WITH_SHA_512
            | rfc8410::ID_ED_25519
            | rfc5912::SHA_256_WITH_RSA_ENCRYPTION
            | rfc5912::SHA_384_WITH_RSA_ENCRYPTION
            | rfc5912::SHA_512_WITH_RSA_ENCRYPTION,
            _,
        ) => return Err(CsrError::BadSignature),
        (other, _) => return Err(CsrError::UnknownSignature(other)),
    };
    signature::UnparsedPublicKey::new(verifier, key.key_octets())
        .verify(message, octets)
        .map_err(|_| CsrError::BadSignature)
}

/// RSASSA-PSS with the same hash for message and mask, and a salt of the hash's length: all that is in use.
fn pss_verifier(
    algorithm: &spki::AlgorithmIdentifierOwned,
) -> Result<&'static dyn signature::VerificationAlgorithm, CsrError> {
    let unsupported = || CsrError::UnknownSignature(algorithm.oid);
    let given = algorithm.parameters.as_ref().and_then(|p| p.to_der().ok()).ok_or_else(unsupported)?;
    let known: [(crate::pkix::public_key::PssHash, &'static dyn signature::VerificationAlgorithm); 3] = [
        (crate::pkix::public_key::PssHash::Sha256, &signature::RSA_PSS_2048_8192_SHA256),
        (crate::pkix::public_key::PssHash::Sha384, &signature::RSA_PSS_2048_8192_SHA384),
        (crate::pkix::public_key::PssHash::Sha512, &signature::RSA_PSS_2048_8192_SHA512),
    ];
    known
        .into_iter()
        .find(|(hash, _)| hash.parameters_der().contains(&given))
        .map(|(_, verifier)| verifier)
        .ok_or_else(unsupported)
}

/// The subjectAltName entries asked for.
fn alternatives(request: &CertReq) -> Result<BTreeSet<Identifier>, CsrError> {
    let mut names = BTreeSet::new();
    for attribute in request.info.attributes.iter().filter(|a| a.oid == rfc5912::ID_EXTENSION_REQ) {
        for value in attribute.values.iter() {
            let extensions: x509_cert::ext::Extensions =
                value.decode_as().map_err(|_| CsrError::Malformed)?;
            for extension in extensions.iter().filter(|e| e.extn_id == rfc5280::ID_CE_SUBJECT_ALT_NAME) {
                let alternatives = SubjectAltName::from_der(extension.extn_value.as_bytes())
                    .map_err(|_| CsrError::Malformed)?;
                for name in &alternatives.0 {
                    names.insert(identifier(name)?);
                }
            }
        }
    }
    Ok(names)
}

fn common_names(request: &CertReq) -> Vec<String> {
    let attributes = request.info.subject.iter_rdn().flat_map(|rdn| rdn.iter());
    attributes
        .filter(|attribute| attribute.oid == const_oid::db::rfc4519::COMMON_NAME)
        .filter_map(|attribute| directory_string(&attribute.value))
        .collect()
}

fn identifier(name: &GeneralName) -> Result<Identifier, CsrError> {
    let unsupported = |what: &str| CsrError::UnsupportedName(what.to_owned());
    match name {
        GeneralName::DnsName(name) => DnsName::parse(name.as_str()).map(Identifier::Dns).map_err(|why| {
            CsrError::UnsupportedName(format!("the DNS name '{}': {why}", name.as_str().escape_default()))
        }),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            if let Ok(v4) = <[u8; 4]>::try_from(octets) {
                Ok(Identifier::Ip(IpAddr::from(v4)))
            } else if let Ok(v6) = <[u8; 16]>::try_from(octets) {
                Ok(Identifier::Ip(IpAddr::from(v6)))
            } else {
                Err(unsupported("an iPAddress that has neither 4 nor 16 octets"))
            }
        }
        GeneralName::OtherName(name) => device::from_other_name(name)
            .ok_or_else(|| unsupported(&format!("an otherName of type {} as it stands there", name.type_id))),
        GeneralName::Rfc822Name(_) => Err(unsupported("an e-mail address")),
        GeneralName::DirectoryName(_) => Err(unsupported("a directoryName")),
        GeneralName::EdiPartyName(_) => Err(unsupported("an ediPartyName")),
        GeneralName::UniformResourceIdentifier(_) => Err(unsupported("a URI")),
        GeneralName::RegisteredId(_) => Err(unsupported("a registeredID")),
    }
}

/// A DirectoryString in one of the three forms that are in use.
fn directory_string(value: &Any) -> Option<String> {
    use der::Tagged;
    match value.tag() {
        der::Tag::Utf8String | der::Tag::PrintableString | der::Tag::Ia5String => {
            std::str::from_utf8(value.value()).ok().map(str::to_owned)
        }
        _ => None,
    }
}
