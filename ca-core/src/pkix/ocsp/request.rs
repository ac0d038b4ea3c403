//! OCSP requests in: sizes bounded before parsing, extensions judged. RFC 6960 §4.1, RFC 9654 §2.1.

use const_oid::db::{rfc5912, rfc6960};
use der::asn1::{BitString, Int, Null, OctetString};
use der::{Any, Decode, Encode, Enumerated, Sequence};
use spki::AlgorithmIdentifierOwned;
use thiserror::Error;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::{Extension, Extensions};

use crate::pkix::serial::SerialNumber;

/// The longest nonce that is not an error, RFC 9654 §2.1.
pub const MAX_NONCE_LENGTH: usize = 128;

/// ```text
/// Version ::= INTEGER { v1(0) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enumerated)]
#[asn1(type = "INTEGER")]
#[repr(u8)]
pub(super) enum Version {
    #[default]
    V1 = 0,
}

/// ```text
/// OCSPRequest ::= SEQUENCE {
///     tbsRequest             TBSRequest,
///     optionalSignature  [0] EXPLICIT Signature OPTIONAL }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct OcspRequest {
    tbs_request: TbsRequest,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    optional_signature: Option<RequestSignature>,
}

/// ```text
/// TBSRequest ::= SEQUENCE {
///     version            [0] EXPLICIT Version DEFAULT v1,
///     requestorName      [1] EXPLICIT GeneralName OPTIONAL,
///     requestList            SEQUENCE OF Request,
///     requestExtensions  [2] EXPLICIT Extensions OPTIONAL }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct TbsRequest {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", default = "Default::default")]
    version: Version,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    requestor_name: Option<GeneralName>,
    request_list: Vec<SingleRequest>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    request_extensions: Option<Extensions>,
}

/// ```text
/// Request ::= SEQUENCE {
///     reqCert                      CertID,
///     singleRequestExtensions  [0] EXPLICIT Extensions OPTIONAL }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct SingleRequest {
    req_cert: CertId,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    single_request_extensions: Option<Extensions>,
}

/// ```text
/// Signature ::= SEQUENCE {
///     signatureAlgorithm      AlgorithmIdentifier,
///     signature               BIT STRING,
///     certs               [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct RequestSignature {
    signature_algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    certs: Option<Vec<Any>>,
}

/// ```text
/// CertID ::= SEQUENCE {
///     hashAlgorithm   AlgorithmIdentifier,
///     issuerNameHash  OCTET STRING,
///     issuerKeyHash   OCTET STRING,
///     serialNumber    CertificateSerialNumber }
/// ```
/// Returned in the answer exactly as it was asked, so that clients that compare octets find it.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct CertId {
    /// SHA-1 or SHA-256, if it is one that we answer.
    pub hash_algorithm: AlgorithmIdentifierOwned,
    /// The hash of the issuer's Name in DER.
    pub issuer_name_hash: OctetString,
    /// The hash of the octets in the issuer's subjectPublicKey.
    pub issuer_key_hash: OctetString,
    /// Any INTEGER; one that can't be a serial of ours is simply never found.
    pub serial_number: Int,
}

impl CertId {
    /// The serial asked for; `None` if no certificate can have it (zero, negative, over 20 octets).
    #[must_use]
    pub fn serial(&self) -> Option<SerialNumber> {
        let octets = self.serial_number.as_bytes();
        if octets.first().is_some_and(|first| first & 0x80 != 0) {
            return None;
        }
        SerialNumber::from_be_bytes(octets).ok()
    }
}

/// A nonce of 1 to [`MAX_NONCE_LENGTH`] octets, to be returned as it came. RFC 9654 §2.1:
/// ```text
/// Nonce ::= OCTET STRING (SIZE(1..128))
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(OctetString);

impl Nonce {
    /// Takes the octets of a nonce.
    ///
    /// # Errors
    /// [`RequestError::NonceLength`] if there are none, or more than [`MAX_NONCE_LENGTH`].
    pub fn new(octets: &[u8]) -> Result<Self, RequestError> {
        if octets.is_empty() || octets.len() > MAX_NONCE_LENGTH {
            return Err(RequestError::NonceLength(octets.len()));
        }
        OctetString::new(octets).map(Self).map_err(|_| RequestError::NonceLength(octets.len()))
    }

    /// The octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The extension that returns it.
    pub(super) fn to_extension(&self) -> der::Result<Extension> {
        let extn_value = OctetString::new(self.0.to_der()?)?;
        Ok(Extension { extn_id: rfc6960::ID_PKIX_OCSP_NONCE, critical: false, extn_value })
    }
}

/// How much of a request is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// The longest request, in octets.
    pub max_bytes: usize,
    /// The most CertIDs in one request.
    pub max_cert_ids: usize,
}

impl Default for RequestLimits {
    /// 8 KiB and 20 CertIDs.
    fn default() -> Self {
        Self { max_bytes: 8 * 1024, max_cert_ids: 20 }
    }
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The certificates asked about, in the order of the request; at least one.
    pub cert_ids: Vec<CertId>,
    /// The nonce to return.
    pub nonce: Option<Nonce>,
}

/// Why a request is answered with `malformedRequest`; the requester acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// It is too large to be read.
    #[error("the request has {found} octets; at most {max} are read")]
    TooLarge {
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// It is no OCSPRequest of version 1 in DER.
    #[error("the request is no OCSPRequest in DER: {0}")]
    Malformed(der::Error),
    /// It asks about no certificate.
    #[error("the request has no CertID")]
    Empty,
    /// It asks about too many certificates.
    #[error("the request has {found} CertIDs; at most {max} are answered")]
    TooManyCertIds {
        /// How many it has.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A nonce of no octets, or of more than 128.
    #[error("the nonce has {0} octets; 1 to {max} are allowed", max = MAX_NONCE_LENGTH)]
    NonceLength(usize),
    /// The nonce extension does not hold an OCTET STRING, or is there twice.
    #[error("the nonce extension is no single OCTET STRING")]
    Nonce,
    /// The requester insists on an extension that we do not know.
    #[error("the critical extension {0} is not known")]
    CriticalExtension(der::oid::ObjectIdentifier),
    /// The requester accepts only response types that we do not make.
    #[error("the requester does not accept id-pkix-ocsp-basic")]
    ResponseType,
}

impl Request {
    /// Reads a request.
    ///
    /// - A signature is neither required nor checked: what we say is public, and its signer gains nothing by it
    ///   (RFC 6960 §4.1.2 leaves this to the responder; `sigRequired` is never answered).
    /// - Unknown extensions are ignored unless they are critical, which is an error (RFC 6960 §4.1.2).
    /// - A nonce of 1 to 128 octets is returned, whatever its length; an empty or a longer one is an error (RFC 9654
    ///   §2.1). A request without one is normal.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn parse(der: &[u8], limits: RequestLimits) -> Result<Self, RequestError> {
        if der.len() > limits.max_bytes {
            return Err(RequestError::TooLarge { found: der.len(), max: limits.max_bytes });
        }
        let request = OcspRequest::from_der(der).map_err(RequestError::Malformed)?;
        let tbs = request.tbs_request;
        match tbs.request_list.len() {
            0 => return Err(RequestError::Empty),
            found if found > limits.max_cert_ids => {
                return Err(RequestError::TooManyCertIds { found, max: limits.max_cert_ids });
            }
            _ => {}
        }
        let nonce = judge_request_extensions(tbs.request_extensions.as_deref().unwrap_or_default())?;
        for single in &tbs.request_list {
            let extensions = single.single_request_extensions.as_deref().unwrap_or_default();
            if let Some(unknown) = extensions.iter().find(|extension| extension.critical) {
                return Err(RequestError::CriticalExtension(unknown.extn_id));
            }
        }
        let cert_ids = tbs.request_list.into_iter().map(|single| single.req_cert).collect();
        Ok(Self { cert_ids, nonce })
    }

    /// The unsigned OCSPRequest in DER, as a client would send it.
    ///
    /// # Errors
    /// If a part can't be encoded.
    pub fn to_der(&self) -> der::Result<Vec<u8>> {
        let request_list = self
            .cert_ids
            .iter()
            .map(|id| SingleRequest { req_cert: id.clone(), single_request_extensions: None })
            .collect();
        let request_extensions =
            self.nonce.as_ref().map(Nonce::to_extension).transpose()?.map(|nonce| vec![nonce]);
        let tbs_request =
            TbsRequest { version: Version::V1, requestor_name: None, request_list, request_extensions };
        OcspRequest { tbs_request, optional_signature: None }.to_der()
    }
}

fn judge_request_extensions(extensions: &[Extension]) -> Result<Option<Nonce>, RequestError> {
    let mut nonce = None;
    for extension in extensions {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id {
            rfc6960::ID_PKIX_OCSP_NONCE => {
                let octets =
                    <&der::asn1::OctetStringRef>::from_der(value).map_err(|_| RequestError::Nonce)?;
                if nonce.replace(Nonce::new(octets.as_bytes())?).is_some() {
                    return Err(RequestError::Nonce);
                }
            }
            // AcceptableResponses ::= SEQUENCE OF OBJECT IDENTIFIER, RFC 6960 §4.4.3.
            rfc6960::ID_PKIX_OCSP_RESPONSE => {
                let accepted =
                    Vec::<der::oid::ObjectIdentifier>::from_der(value).map_err(RequestError::Malformed)?;
                if extension.critical && !accepted.contains(&rfc6960::ID_PKIX_OCSP_BASIC) {
                    return Err(RequestError::ResponseType);
                }
            }
            // §4.4.7: a preference; a responder with one key has one answer to it.
            rfc6960::ID_PKIX_OCSP_PREF_SIG_ALGS => {}
            unknown if extension.critical => return Err(RequestError::CriticalExtension(unknown)),
            _ => {}
        }
    }
    Ok(nonce)
}

/// The hashes of CertIDs that we answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertIdHash {
    /// What clients send, RFC 5019 §2.1.1.
    Sha1,
    /// RFC 6960 leaves it to the client.
    Sha256,
}

impl CertIdHash {
    /// The algorithm of a CertID, with NULL parameters or none; `None` if it is one that we do not answer.
    #[must_use]
    pub fn of(algorithm: &AlgorithmIdentifierOwned) -> Option<Self> {
        if algorithm.parameters.as_ref().is_some_and(|parameters| !parameters.is_null()) {
            return None;
        }
        match algorithm.oid {
            rfc5912::ID_SHA_1 => Some(Self::Sha1),
            rfc5912::ID_SHA_256 => Some(Self::Sha256),
            _ => None,
        }
    }

    /// The AlgorithmIdentifier as clients write it, with NULL parameters.
    pub(super) fn identifier(self) -> AlgorithmIdentifierOwned {
        let oid = match self {
            Self::Sha1 => rfc5912::ID_SHA_1,
            Self::Sha256 => rfc5912::ID_SHA_256,
        };
        AlgorithmIdentifierOwned { oid, parameters: Some(Any::from(Null)) }
    }
}

/// The body of the fuzz tests: whatever is read must be written and read again as the same thing.
///
/// # Panics
/// If it is not, which is a defect.
pub fn fuzz_request(data: &[u8]) {
    if let Ok(raw) = OcspRequest::from_der(data) {
        let again = raw.to_der().and_then(|der| OcspRequest::from_der(&der));
        assert_eq!(again, Ok(raw), "an OCSPRequest changed by being written");
    }
    if let Ok(request) = Request::parse(data, RequestLimits::default()) {
        let again = request.to_der().ok().map(|der| Request::parse(&der, RequestLimits::default()));
        assert_eq!(again, Some(Ok(request)), "a request changed by being written");
    }
}
