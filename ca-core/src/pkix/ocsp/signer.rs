//! The delegated responder: the one thing that signs OCSP responses. RFC 6960 §2.6, §4.2.2.2.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use const_oid::db::{rfc5280, rfc6960};
use der::asn1::{AnyRef, BitStringRef, Int, OctetString};
use der::{Decode, Encode, Sequence};
use spki::AlgorithmIdentifierOwned;
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage};

use super::request::{CertId, CertIdHash, Nonce, Version};
use super::response::{
    CertStatus, OcspResponse, ResponderId, ResponseBytes, ResponseData, ResponseStatus, SingleResponse,
};
use crate::pkix::certificate::find;
use crate::pkix::public_key::{PublicKey, PublicKeyError, sha256};
use crate::pkix::serial::SerialNumber;
use crate::pkix::signed::{SignError, sign_verified};
use crate::signing::{Signature, SignatureAlgorithm, SigningKey};
use crate::time::Timestamp;

/// How long an `unknown` may be relied on: the certificate may be released the next moment.
pub const UNKNOWN_VALIDITY: Duration = Duration::from_mins(1);

/// An issuer as CertIDs name it: by hashes of its Name and of its key.
#[derive(Clone, Debug)]
pub struct OcspIssuer {
    name: Vec<u8>,
    public_key: PublicKey,
    sha1: ([u8; 20], [u8; 20]),
    sha256: ([u8; 32], [u8; 32]),
}

impl OcspIssuer {
    /// Takes the issuer's subject Name and its SubjectPublicKeyInfo, both in DER.
    ///
    /// # Errors
    /// If the key is of no kind that we know.
    pub fn new(subject: &[u8], public_key: &[u8]) -> Result<Self, PublicKeyError> {
        let public_key = PublicKey::from_spki_der(public_key)?;
        let octets = public_key.key_octets();
        let sha1 = (sha1(subject), sha1(octets));
        let sha256 = (sha256(subject), sha256(octets));
        Ok(Self { name: subject.to_vec(), public_key, sha1, sha256 })
    }

    /// Whether a CertID asks about a certificate of this issuer: both hashes, in SHA-1 or SHA-256.
    #[must_use]
    pub fn matches(&self, id: &CertId) -> bool {
        let (name, key): (&[u8], &[u8]) = match CertIdHash::of(&id.hash_algorithm) {
            Some(CertIdHash::Sha1) => (&self.sha1.0, &self.sha1.1),
            Some(CertIdHash::Sha256) => (&self.sha256.0, &self.sha256.1),
            None => return false,
        };
        id.issuer_name_hash.as_bytes() == name && id.issuer_key_hash.as_bytes() == key
    }

    /// The CertID of one of this issuer's certificates, as a client asks for it.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn cert_id(&self, hash: CertIdHash, serial: SerialNumber) -> der::Result<CertId> {
        let (name, key): (&[u8], &[u8]) = match hash {
            CertIdHash::Sha1 => (&self.sha1.0, &self.sha1.1),
            CertIdHash::Sha256 => (&self.sha256.0, &self.sha256.1),
        };
        let magnitude = serial.as_bytes();
        // A first bit of one would make the INTEGER negative.
        let sign: &[u8] = if magnitude.first().is_some_and(|first| first & 0x80 != 0) { &[0] } else { &[] };
        Ok(CertId {
            hash_algorithm: hash.identifier(),
            issuer_name_hash: OctetString::new(name)?,
            issuer_key_hash: OctetString::new(key)?,
            serial_number: Int::new(&[sign, magnitude].concat())?,
        })
    }
}

/// SHA-1, which CertIDs and ResponderIDs use as a name and not for security.
fn sha1(data: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data).as_ref());
    out
}

/// Why a certificate and a key are no delegated responder of an issuer; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResponderError {
    /// It is no certificate in DER.
    #[error("the responder certificate is not valid DER")]
    Malformed,
    /// It is not directly signed by the issuer, RFC 6960 §4.2.2.2.
    #[error("the responder certificate is not signed by the issuer that it answers for")]
    NotOfIssuer,
    /// It lacks id-kp-OCSPSigning.
    #[error("the responder certificate's extKeyUsage lacks id-kp-OCSPSigning")]
    NoOcspSigning,
    /// It has a keyUsage without digitalSignature.
    #[error("the responder certificate's keyUsage lacks digitalSignature")]
    NoDigitalSignature,
    /// It is for another key.
    #[error("the responder certificate is for another key than '{0}'")]
    WrongKey(String),
}

/// Why no answer was made.
#[derive(Clone, Debug, Error)]
pub enum AnswerError {
    /// The responder's certificate is not valid now, so nobody would accept the answer.
    #[error("the responder certificate is valid from {not_before} to {not_after}, not now")]
    CertificateExpired {
        /// First second.
        not_before: Timestamp,
        /// Last second.
        not_after: Timestamp,
    },
    /// It can't be encoded; our own mistake.
    #[error("the response can't be encoded: {0}")]
    Encoding(der::Error),
    /// The key did not sign, or wrongly.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// From when until when an answer may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// thisUpdate, in whole seconds.
    pub this_update: Timestamp,
    /// nextUpdate, in whole seconds.
    pub next_update: Timestamp,
}

/// A response as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedResponse {
    /// The OCSPResponse in DER.
    pub der: Vec<u8>,
    /// The shortest window of its answers.
    pub window: Window,
}

/// A key that an issuer delegated the signing of OCSP responses to.
///
/// **Invariant:** the certificate is signed by the issuer, has id-kp-OCSPSigning, and is the key's.
#[derive(Clone)]
pub struct OcspSigner {
    certificate: Arc<[u8]>,
    serial: Option<SerialNumber>,
    not_before: Timestamp,
    not_after: Timestamp,
    responder_id: OctetString,
    key: Arc<dyn SigningKey>,
}

impl fmt::Debug for OcspSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OcspSigner")
            .field("key", self.key.label())
            .field("not_after", &self.not_after)
            .finish()
    }
}

/// ```text
/// Certificate ::= SEQUENCE { tbsCertificate ANY, signatureAlgorithm AlgorithmIdentifier, signature BIT STRING }
/// ```
#[derive(Sequence)]
struct SignedCertificate<'a> {
    tbs: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
}

/// [`super::BasicOcspResponse`] around the very octets that were signed and the certificate as it was issued.
#[derive(Sequence)]
struct Assembled<'a> {
    tbs_response_data: AnyRef<'a>,
    signature_algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    certs: Vec<AnyRef<'a>>,
}

impl OcspSigner {
    /// Takes a responder certificate in DER with its key.
    ///
    /// The times of the certificate are not judged here but at each answer.
    ///
    /// # Errors
    /// See [`ResponderError`].
    pub fn new(
        certificate: &[u8],
        key: Arc<dyn SigningKey>,
        issuer: &OcspIssuer,
    ) -> Result<Self, ResponderError> {
        let parsed = Certificate::from_der(certificate).map_err(|_| ResponderError::Malformed)?;
        let tbs = parsed.tbs_certificate();
        if tbs.issuer().to_der().ok().as_deref() != Some(&issuer.name)
            || !signed_by(certificate, &issuer.public_key)
        {
            return Err(ResponderError::NotOfIssuer);
        }
        let extensions = tbs.extensions().map(Vec::as_slice).unwrap_or_default();
        find::<ExtendedKeyUsage>(extensions, rfc5280::ID_CE_EXT_KEY_USAGE)
            .filter(|usage| usage.0.contains(&rfc5280::ID_KP_OCSP_SIGNING))
            .ok_or(ResponderError::NoOcspSigning)?;
        if find::<KeyUsage>(extensions, rfc5280::ID_CE_KEY_USAGE)
            .is_some_and(|usage| !usage.digital_signature())
        {
            return Err(ResponderError::NoDigitalSignature);
        }
        let spki = tbs.subject_public_key_info().to_der().map_err(|_| ResponderError::Malformed)?;
        if spki != key.public_key().spki_der() {
            return Err(ResponderError::WrongKey(key.label().to_string()));
        }
        let responder_id =
            OctetString::new(sha1(key.public_key().key_octets())).map_err(|_| ResponderError::Malformed)?;
        Ok(Self {
            certificate: certificate.into(),
            serial: SerialNumber::from_x509(tbs.serial_number()).ok(),
            not_before: Timestamp::from_x509(tbs.validity().not_before),
            not_after: Timestamp::from_x509(tbs.validity().not_after),
            responder_id,
            key,
        })
    }

    /// The responder certificate in DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The responder certificate's serial; `None` if it is not one of ours.
    #[must_use]
    pub const fn serial(&self) -> Option<SerialNumber> {
        self.serial
    }

    /// First second of the responder certificate's validity.
    #[must_use]
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Last second of the responder certificate's validity.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether the responder certificate is valid at `now`.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now.whole_seconds() <= self.not_after
    }

    /// The ResponseData in DER that says this at `now`, with the shortest window in it. Pure.
    ///
    /// thisUpdate and producedAt are `now`, since the statuses were read now. nextUpdate is `validity` later, or
    /// [`UNKNOWN_VALIDITY`] for `unknown`, and never passes the responder certificate's notAfter, so that the
    /// certificate outlives every response that it signs.
    ///
    /// # Errors
    /// [`AnswerError::CertificateExpired`], [`AnswerError::Encoding`].
    ///
    /// # Standard
    /// [RFC 6960 §4.2.2.1](https://www.rfc-editor.org/rfc/rfc6960#section-4.2.2.1),
    /// [RFC 5019 §2.2.4](https://www.rfc-editor.org/rfc/rfc5019#section-2.2.4)
    pub fn response_data(
        &self,
        answers: &[(CertId, CertStatus)],
        nonce: Option<&Nonce>,
        now: Timestamp,
        validity: Duration,
    ) -> Result<(Vec<u8>, Window), AnswerError> {
        if !self.is_valid_at(now) {
            let (not_before, not_after) = (self.not_before, self.not_after);
            return Err(AnswerError::CertificateExpired { not_before, not_after });
        }
        let this_update = now.whole_seconds();
        let until = |status: &CertStatus| {
            let validity = if status.is_unknown() { validity.min(UNKNOWN_VALIDITY) } else { validity };
            this_update.plus(validity).whole_seconds().min(self.not_after)
        };
        let next_update = answers.iter().map(|(_, status)| until(status)).min().unwrap_or(this_update);
        let responses = answers
            .iter()
            .map(|(id, status)| SingleResponse {
                cert_id: id.clone(),
                cert_status: *status,
                this_update: this_update.to_generalized(),
                next_update: Some(until(status).to_generalized()),
                single_extensions: None,
            })
            .collect();
        let response_extensions = nonce
            .map(Nonce::to_extension)
            .transpose()
            .map_err(AnswerError::Encoding)?
            .map(|nonce| vec![nonce]);
        let data = ResponseData {
            version: Version::V1,
            responder_id: ResponderId::ByKey(self.responder_id.clone()),
            produced_at: this_update.to_generalized(),
            responses,
            response_extensions,
        };
        Ok((data.to_der().map_err(AnswerError::Encoding)?, Window { this_update, next_update }))
    }

    /// Answers from statuses as they stood at `now`: [`OcspSigner::response_data`], signed, verified, and assembled
    /// with the responder's certificate.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub async fn answer(
        &self,
        answers: &[(CertId, CertStatus)],
        nonce: Option<&Nonce>,
        now: Timestamp,
        validity: Duration,
    ) -> Result<SignedResponse, AnswerError> {
        let (data, window) = self.response_data(answers, nonce, now, validity)?;
        let signature = sign_verified(&self.key, &data).await?;
        let der = self.assemble(&data, &signature).map_err(AnswerError::Encoding)?;
        Ok(SignedResponse { der, window })
    }

    fn assemble(&self, data: &[u8], signature: &Signature) -> der::Result<Vec<u8>> {
        let basic = Assembled {
            tbs_response_data: AnyRef::from_der(data)?,
            signature_algorithm: self.key.algorithm().identifier(),
            signature: BitStringRef::from_bytes(&signature.0)?,
            certs: vec![AnyRef::from_der(&self.certificate)?],
        };
        OcspResponse {
            response_status: ResponseStatus::Successful,
            response_bytes: Some(ResponseBytes {
                response_type: rfc6960::ID_PKIX_OCSP_BASIC,
                response: OctetString::new(basic.to_der()?)?,
            }),
        }
        .to_der()
    }
}

/// Whether a certificate's signature verifies under `issuer`, by any algorithm that our issuers sign with.
fn signed_by(certificate: &[u8], issuer: &PublicKey) -> bool {
    const ALGORITHMS: [SignatureAlgorithm; 5] = [
        SignatureAlgorithm::EcdsaSha256,
        SignatureAlgorithm::EcdsaSha384,
        SignatureAlgorithm::Ed25519,
        SignatureAlgorithm::RsaPkcs1Sha256,
        SignatureAlgorithm::RsaPssSha256,
    ];
    let Ok(signed) = SignedCertificate::from_der(certificate) else { return false };
    let Ok(tbs) = signed.tbs.to_der() else { return false };
    let Some(octets) = signed.signature.as_bytes() else { return false };
    ALGORITHMS
        .into_iter()
        .find(|algorithm| algorithm.identifier() == signed.algorithm)
        .is_some_and(|algorithm| issuer.verify(algorithm, &tbs, &Signature(octets.to_vec())))
}
