//! The path from an attestation's certificate to a configured root, RFC 5280 §6.1: signatures, names, validity,
//! basicConstraints, keyUsage, path length.
//!
//! `x5c` is an ordered path (WebAuthn §6.5.4), so that nothing is searched: each certificate is signed by the next, the
//! last by a root. Policies and name constraints are not processed: a certificate that makes the latter critical is
//! refused, as is any other critical extension that we don't know. Revocation is not looked up.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280;
use der::{Decode, Encode};
use thiserror::Error;
use x509_cert::certificate::Version;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use crate::pkix::certificate::find;
use crate::pkix::csr;
use crate::pkix::public_key::{PublicKey, PublicKeyAlgorithm};
use crate::time::Timestamp;

/// A root that the operator configured. As RFC 5280 §6.1.1 (d) has it, its name and key count and its own validity does
/// not: who does not trust it any more takes it out of the file.
#[derive(Clone, Debug)]
pub struct TrustAnchor {
    subject: Vec<u8>,
    key: PublicKey,
    path_length: Option<u8>,
}

/// A file has no roots that can be used; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustAnchorError {
    /// It is no PEM with certificates.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// One of the certificates can't be used.
    #[error("certificate {number} in it: {why}")]
    Certificate {
        /// Which, from 1.
        number: usize,
        /// Why.
        why: ChainError,
    },
}

impl TrustAnchor {
    /// Reads every certificate of a PEM file.
    ///
    /// # Errors
    /// See [`TrustAnchorError`].
    pub fn from_pem(text: &[u8]) -> Result<Vec<Self>, TrustAnchorError> {
        let certificates =
            x509_cert::Certificate::load_pem_chain(text).map_err(|_| TrustAnchorError::NoCertificate)?;
        if certificates.is_empty() {
            return Err(TrustAnchorError::NoCertificate);
        }
        let anchors = certificates.iter().zip(1..).map(|(certificate, number)| {
            certificate
                .to_der()
                .map_err(|_| ChainError::Malformed)
                .and_then(|der| Self::from_der(&der))
                .map_err(|why| TrustAnchorError::Certificate { number, why })
        });
        anchors.collect()
    }

    /// Reads a CA certificate.
    ///
    /// # Errors
    /// If it is none, or its key is of no kind that we know.
    pub fn from_der(der: &[u8]) -> Result<Self, ChainError> {
        let certificate = Certificate::parse(der)?;
        let basic = certificate.require_ca()?;
        Ok(Self {
            subject: certificate.subject,
            key: certificate.key,
            path_length: basic.path_len_constraint,
        })
    }
}

/// Why certificates don't lead to a root; the subscriber acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// There are none.
    #[error("there is no certificate")]
    Empty,
    /// One is no certificate of version 3 in DER.
    #[error("a certificate is no X.509 version 3 certificate in DER")]
    Malformed,
    /// The key of one can't be used.
    #[error("a certificate's key can't be used: {0}")]
    Key(String),
    /// One is not valid now.
    #[error("the certificate at place {place} is valid from {not_before} to {not_after}")]
    Validity {
        /// Counted from 0, the device's own.
        place: usize,
        /// First second.
        not_before: Timestamp,
        /// Last second.
        not_after: Timestamp,
    },
    /// One stands where a CA's must stand and is none.
    #[error("a certificate that signs others is not a CA's: {0}")]
    NotCa(&'static str),
    /// Too many CA certificates follow on one that restricts them.
    #[error("the path is longer than a certificate in it allows")]
    PathLength,
    /// One has a critical extension that we don't know.
    #[error("a certificate has the critical extension {0}, which is not processed here")]
    UnknownCritical(ObjectIdentifier),
    /// One has an extension twice.
    #[error("a certificate has the extension {0} twice")]
    Twice(ObjectIdentifier),
    /// One was not signed by the next, or not named as its issuer.
    #[error("the certificate at place {0} is not signed by the one after it")]
    NotSigned(usize),
    /// No root signed the last one.
    #[error("it does not lead to a root that is configured for this format")]
    NoRoot,
}

/// A certificate of a path, parsed.
#[derive(Debug)]
pub(super) struct Certificate {
    parsed: x509_cert::Certificate,
    der: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    key: PublicKey,
}

/// Extensions that may be critical: those that we process, and certificatePolicies, since any policy will do.
const PROCESSED: [ObjectIdentifier; 5] = [
    rfc5280::ID_CE_BASIC_CONSTRAINTS,
    rfc5280::ID_CE_KEY_USAGE,
    rfc5280::ID_CE_EXT_KEY_USAGE,
    rfc5280::ID_CE_SUBJECT_ALT_NAME,
    rfc5280::ID_CE_CERTIFICATE_POLICIES,
];

impl Certificate {
    pub(super) fn parse(der: &[u8]) -> Result<Self, ChainError> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| ChainError::Malformed)?;
        let tbs = parsed.tbs_certificate();
        if tbs.version() != Version::V3 || tbs.signature() != parsed.signature_algorithm() {
            return Err(ChainError::Malformed);
        }
        let key = PublicKey::from_spki(tbs.subject_public_key_info())
            .map_err(|why| ChainError::Key(why.to_string()))?;
        if matches!(key.algorithm(), PublicKeyAlgorithm::Rsa(bits) if bits < 2048) {
            return Err(ChainError::Key("RSA keys of less than 2048 bits are too weak".to_owned()));
        }
        let name = |name: &x509_cert::name::Name| name.to_der().map_err(|_| ChainError::Malformed);
        let (subject, issuer) = (name(tbs.subject())?, name(tbs.issuer())?);
        let certificate = Self { der: der.to_vec(), subject, issuer, key, parsed };
        certificate.check_extensions()?;
        Ok(certificate)
    }

    /// The subject's key.
    pub(super) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The extensions.
    pub(super) fn extensions(&self) -> &[Extension] {
        self.parsed.tbs_certificate().extensions().map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the subject's name is empty.
    pub(super) fn subject_is_empty(&self) -> bool {
        self.parsed.tbs_certificate().subject().is_empty()
    }

    /// Whether basicConstraints says that this is a CA's.
    pub(super) fn is_ca(&self) -> bool {
        self.basic_constraints().is_some_and(|basic| basic.ca)
    }

    fn check_extensions(&self) -> Result<(), ChainError> {
        let mut seen = std::collections::BTreeSet::new();
        for extension in self.extensions() {
            if !seen.insert(extension.extn_id) {
                return Err(ChainError::Twice(extension.extn_id));
            }
            if extension.critical && !PROCESSED.contains(&extension.extn_id) {
                return Err(ChainError::UnknownCritical(extension.extn_id));
            }
        }
        Ok(())
    }

    fn basic_constraints(&self) -> Option<BasicConstraints> {
        find(self.extensions(), rfc5280::ID_CE_BASIC_CONSTRAINTS)
    }

    fn require_ca(&self) -> Result<BasicConstraints, ChainError> {
        let extensions = self.extensions();
        let basic = self
            .basic_constraints()
            .filter(|basic| basic.ca)
            .ok_or(ChainError::NotCa("it has no basicConstraints with cA TRUE"))?;
        // §4.2.1.3: where there is a keyUsage, it must say so; a malformed one says nothing.
        let restricted = extensions.iter().any(|extension| extension.extn_id == rfc5280::ID_CE_KEY_USAGE);
        let may_sign =
            find(extensions, rfc5280::ID_CE_KEY_USAGE).is_some_and(|usage: KeyUsage| usage.key_cert_sign());
        if restricted && !may_sign {
            return Err(ChainError::NotCa("its keyUsage lacks keyCertSign"));
        }
        Ok(basic)
    }

    fn require_validity(&self, place: usize, now: Timestamp) -> Result<(), ChainError> {
        let validity = self.parsed.tbs_certificate().validity();
        let not_before = Timestamp::from_x509(validity.not_before);
        let not_after = Timestamp::from_x509(validity.not_after);
        if (not_before..=not_after).contains(&now.whole_seconds()) {
            return Ok(());
        }
        Err(ChainError::Validity { place, not_before, not_after })
    }

    /// Whether this is one of the roots: name and key say so.
    fn is(&self, roots: &[TrustAnchor]) -> bool {
        roots.iter().any(|root| root.subject == self.subject && root.key == self.key)
    }

    fn is_signed_by(&self, subject: &[u8], key: &PublicKey) -> bool {
        let signed = || {
            let octets = self.parsed.signature().as_bytes()?;
            csr::verify(self.parsed.signature_algorithm(), key, csr::signed_part(&self.der)?, octets).ok()
        };
        self.issuer == subject && signed().is_some()
    }
}

/// Verifies a path, the device's certificate first. Gives its certificates, from a configured root on without.
///
/// From the root downwards, so that what nobody trusts costs no more than one verification.
///
/// # Errors
/// See [`ChainError`].
pub(super) fn verify(
    x5c: &[&[u8]],
    roots: &[TrustAnchor],
    now: Timestamp,
) -> Result<Vec<Certificate>, ChainError> {
    let mut path = x5c.iter().map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, _>>()?;
    if let Some(end) = path.iter().skip(1).position(|certificate| certificate.is(roots)) {
        path.truncate(end + 1);
    }
    let last = path.last().ok_or(ChainError::Empty)?;
    let root =
        roots.iter().find(|root| last.is_signed_by(&root.subject, &root.key)).ok_or(ChainError::NoRoot)?;
    require_length(root.path_length, path.len() - 1)?;
    for (place, pair) in path.windows(2).enumerate().rev() {
        let [certificate, issuer] = pair else { continue };
        require_length(issuer.require_ca()?.path_len_constraint, place)?;
        if !certificate.is_signed_by(&issuer.subject, &issuer.key) {
            return Err(ChainError::NotSigned(place));
        }
    }
    for (place, certificate) in path.iter().enumerate() {
        certificate.require_validity(place, now)?;
    }
    Ok(path)
}

/// `below`: how many CA certificates stand between this one and the device's own.
fn require_length(limit: Option<u8>, below: usize) -> Result<(), ChainError> {
    if limit.is_some_and(|limit| below > usize::from(limit)) { Err(ChainError::PathLength) } else { Ok(()) }
}
