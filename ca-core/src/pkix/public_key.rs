//! Public keys: SubjectPublicKeyInfo in and out, key identifiers, and verifying what a key signed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, signature};
use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5912, rfc8410};
use der::asn1::{BitString, Null};
use der::{Any, Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use thiserror::Error;

use crate::signing::{KeyAlgorithm, Signature, SignatureAlgorithm};

/// A SubjectPublicKeyInfo in DER whose kind and size are known to us, RFC 5280 §4.1.2.7.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    der: Arc<[u8]>,
    key_octets: Arc<[u8]>,
    algorithm: PublicKeyAlgorithm,
}

/// The kinds of public key that we can read; which of them a subscriber may use is policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublicKeyAlgorithm {
    /// ECDSA on NIST P-256.
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
    /// ECDSA on NIST P-521.
    EcP521,
    /// Ed25519.
    Ed25519,
    /// RSA with this many bits in the modulus.
    Rsa(u32),
}

impl fmt::Display for PublicKeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("EC P-256"),
            Self::EcP384 => f.write_str("EC P-384"),
            Self::EcP521 => f.write_str("EC P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
        }
    }
}

/// Why a SubjectPublicKeyInfo was not taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PublicKeyError {
    /// It is no SubjectPublicKeyInfo in DER.
    #[error("the public key is no SubjectPublicKeyInfo in DER")]
    Malformed,
    /// We do not know this kind of key.
    #[error("public keys of algorithm {0} are not supported; use EC P-256, EC P-384, RSA or Ed25519")]
    UnknownAlgorithm(ObjectIdentifier),
    /// The curve is not one of ours.
    #[error("EC keys must be on a named curve: P-256, P-384 or P-521")]
    UnknownCurve,
    /// The key's own octets are not valid for its algorithm.
    #[error("the public key's value is not valid: {0}")]
    InvalidValue(&'static str),
}

/// ```text
/// RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }
/// ```
#[derive(Sequence)]
struct RsaPublicKey {
    modulus: der::asn1::Uint,
    public_exponent: der::asn1::Uint,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo and checks the key's own form (a point on its curve, an odd modulus and exponent).
    ///
    /// # Errors
    /// See [`PublicKeyError`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        let spki = SubjectPublicKeyInfoOwned::from_der(der).map_err(|_| PublicKeyError::Malformed)?;
        Self::from_spki(&spki)
    }

    /// As [`PublicKey::from_spki_der`], from the decoded structure.
    ///
    /// # Errors
    /// See [`PublicKeyError`].
    pub fn from_spki(spki: &SubjectPublicKeyInfoOwned) -> Result<Self, PublicKeyError> {
        let octets = spki.subject_public_key.as_bytes().ok_or(PublicKeyError::Malformed)?;
        let parameters = spki.algorithm.parameters.as_ref();
        let algorithm = match spki.algorithm.oid {
            rfc5912::ID_EC_PUBLIC_KEY => {
                let curve = parameters
                    .and_then(|p| p.decode_as::<ObjectIdentifier>().ok())
                    .ok_or(PublicKeyError::UnknownCurve)?;
                let (algorithm, verifier): (_, &'static signature::EcdsaVerificationAlgorithm) = match curve {
                    rfc5912::SECP_256_R_1 => (PublicKeyAlgorithm::EcP256, &signature::ECDSA_P256_SHA256_ASN1),
                    rfc5912::SECP_384_R_1 => (PublicKeyAlgorithm::EcP384, &signature::ECDSA_P384_SHA384_ASN1),
                    rfc5912::SECP_521_R_1 => (PublicKeyAlgorithm::EcP521, &signature::ECDSA_P521_SHA512_ASN1),
                    _ => return Err(PublicKeyError::UnknownCurve),
                };
                if octets.first() != Some(&4) {
                    return Err(PublicKeyError::InvalidValue("the point must be uncompressed"));
                }
                signature::ParsedPublicKey::new(verifier, octets)
                    .map_err(|_| PublicKeyError::InvalidValue("the point is not on its curve"))?;
                algorithm
            }
            rfc8410::ID_ED_25519 => {
                if parameters.is_some() {
                    return Err(PublicKeyError::InvalidValue("Ed25519 takes no algorithm parameters"));
                }
                if octets.len() != 32 {
                    return Err(PublicKeyError::InvalidValue("an Ed25519 key has 32 octets"));
                }
                PublicKeyAlgorithm::Ed25519
            }
            rfc5912::RSA_ENCRYPTION => {
                if !parameters.is_some_and(Any::is_null) {
                    return Err(PublicKeyError::InvalidValue("rsaEncryption takes NULL as its parameters"));
                }
                let key = RsaPublicKey::from_der(octets)
                    .map_err(|_| PublicKeyError::InvalidValue("no RSAPublicKey"))?;
                let (modulus, exponent) = (key.modulus.as_bytes(), key.public_exponent.as_bytes());
                let odd = |bytes: &[u8]| bytes.last().is_some_and(|b| b & 1 == 1);
                if !odd(modulus) {
                    return Err(PublicKeyError::InvalidValue("the RSA modulus is even"));
                }
                // FIPS 186-5 §5.4: at least 2^16 + 1; small ones have made padding mistakes exploitable.
                let value = exponent.iter().fold(0u64, |value, octet| (value << 8) | u64::from(*octet));
                if !odd(exponent) || exponent.len() > 4 || value < 65_537 {
                    return Err(PublicKeyError::InvalidValue(
                        "the RSA exponent must be odd, at least 65537 and below 2^32",
                    ));
                }
                let leading = modulus.first().map_or(0, |b| b.leading_zeros());
                let bits = u32::try_from(modulus.len() * 8).unwrap_or(u32::MAX) - leading;
                PublicKeyAlgorithm::Rsa(bits)
            }
            other => return Err(PublicKeyError::UnknownAlgorithm(other)),
        };
        let der = spki.to_der().map_err(|_| PublicKeyError::Malformed)?;
        Ok(Self { der: der.into(), key_octets: octets.into(), algorithm })
    }

    /// The SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.der
    }

    /// The octets inside subjectPublicKey's BIT STRING.
    #[must_use]
    pub fn key_octets(&self) -> &[u8] {
        &self.key_octets
    }

    /// The decoded SubjectPublicKeyInfo.
    ///
    /// # Panics
    /// Never: the DER was decoded when this value was made.
    #[must_use]
    #[allow(clippy::expect_used, reason = "`der` is our own encoding of a decoded structure")]
    pub fn to_spki(&self) -> SubjectPublicKeyInfoOwned {
        SubjectPublicKeyInfoOwned::from_der(&self.der).expect("encoded by from_spki")
    }

    /// Kind and size.
    #[must_use]
    pub fn algorithm(&self) -> PublicKeyAlgorithm {
        self.algorithm
    }

    /// SHA-256 of the SubjectPublicKeyInfo: how inventory and block lists name a key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(sha256(&self.der))
    }

    /// The key identifier of [RFC 7093 §2] method 1: the leftmost 160 bits of SHA-256 over the key's octets.
    ///
    /// [RFC 7093 §2]: https://www.rfc-editor.org/rfc/rfc7093#section-2
    #[must_use]
    pub fn key_identifier(&self) -> [u8; 20] {
        let hash = sha256(&self.key_octets);
        let mut id = [0; 20];
        id.copy_from_slice(&hash[..20]);
        id
    }

    /// Verifies one of our own signatures.
    #[must_use]
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &Signature) -> bool {
        let verifier: &dyn signature::VerificationAlgorithm = match (algorithm, self.algorithm) {
            (SignatureAlgorithm::EcdsaSha256, PublicKeyAlgorithm::EcP256) => {
                &signature::ECDSA_P256_SHA256_ASN1
            }
            (SignatureAlgorithm::EcdsaSha384, PublicKeyAlgorithm::EcP384) => {
                &signature::ECDSA_P384_SHA384_ASN1
            }
            (SignatureAlgorithm::Ed25519, PublicKeyAlgorithm::Ed25519) => &signature::ED25519,
            (SignatureAlgorithm::RsaPkcs1Sha256, PublicKeyAlgorithm::Rsa(_)) => {
                &signature::RSA_PKCS1_2048_8192_SHA256
            }
            (SignatureAlgorithm::RsaPssSha256, PublicKeyAlgorithm::Rsa(_)) => {
                &signature::RSA_PSS_2048_8192_SHA256
            }
            _ => return false,
        };
        signature::UnparsedPublicKey::new(verifier, &self.key_octets).verify(message, &signature.0).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, sha256 {})", self.algorithm, self.hash())
    }
}

impl From<KeyAlgorithm> for PublicKeyAlgorithm {
    fn from(algorithm: KeyAlgorithm) -> Self {
        match algorithm {
            KeyAlgorithm::EcP256 => Self::EcP256,
            KeyAlgorithm::EcP384 => Self::EcP384,
            KeyAlgorithm::Ed25519 => Self::Ed25519,
            KeyAlgorithm::Rsa2048 => Self::Rsa(2048),
            KeyAlgorithm::Rsa3072 => Self::Rsa(3072),
            KeyAlgorithm::Rsa4096 => Self::Rsa(4096),
        }
    }
}

/// SHA-256 of a SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for KeyHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = crate::id::from_hex(&text).ok_or("a key hash is 64 hexadecimal digits")?;
        Ok(Self(bytes.try_into().map_err(|_| "a key hash is 64 hexadecimal digits")?))
    }
}

/// SHA-256 of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

/// ```text
/// RSASSA-PSS-params ::= SEQUENCE {
///     hashAlgorithm      [0] HashAlgorithm      DEFAULT sha1,
///     maskGenAlgorithm   [1] MaskGenAlgorithm   DEFAULT mgf1SHA1,
///     saltLength         [2] INTEGER            DEFAULT 20,
///     trailerField       [3] TrailerField       DEFAULT trailerFieldBC }
/// ```
/// RFC 4055 §3.1; the trailer field is always the default and never encoded.
#[derive(Sequence)]
struct RsaPssParams {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    hash: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT")]
    mask_gen: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT")]
    salt_length: u8,
}

impl SignatureAlgorithm {
    /// The AlgorithmIdentifier that goes into `signature` and `signatureAlgorithm` (RFC 5758, 8410, 4055).
    ///
    /// # Panics
    /// Never: constant structures are encoded.
    #[must_use]
    #[allow(clippy::expect_used, reason = "constant structures always encode")]
    pub fn identifier(self) -> AlgorithmIdentifierOwned {
        let plain = |oid| AlgorithmIdentifierOwned { oid, parameters: None };
        let null = |oid| AlgorithmIdentifierOwned { oid, parameters: Some(Any::from(Null)) };
        match self {
            Self::EcdsaSha256 => plain(rfc5912::ECDSA_WITH_SHA_256),
            Self::EcdsaSha384 => plain(rfc5912::ECDSA_WITH_SHA_384),
            Self::Ed25519 => plain(rfc8410::ID_ED_25519),
            Self::RsaPkcs1Sha256 => null(rfc5912::SHA_256_WITH_RSA_ENCRYPTION),
            Self::RsaPssSha256 => AlgorithmIdentifierOwned {
                oid: rfc5912::ID_RSASSA_PSS,
                parameters: Some(
                    Any::from_der(&PssHash::Sha256.parameters_der()[0]).expect("our own encoding"),
                ),
            },
        }
    }
}

/// The hash of an RSASSA-PSS signature, for the message and for MGF1, with a salt of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PssHash {
    /// SHA-256, salt of 32 octets.
    Sha256,
    /// SHA-384, salt of 48 octets.
    Sha384,
    /// SHA-512, salt of 64 octets.
    Sha512,
}

impl PssHash {
    /// RSASSA-PSS-params in DER: first as RFC 4055 §2.1 wants it, with NULL hash parameters, then without.
    ///
    /// # Panics
    /// Never: constant structures are encoded.
    #[must_use]
    #[allow(clippy::expect_used, reason = "constant structures always encode")]
    pub fn parameters_der(self) -> [Vec<u8>; 2] {
        let (oid, salt_length) = match self {
            Self::Sha256 => (rfc5912::ID_SHA_256, 32),
            Self::Sha384 => (rfc5912::ID_SHA_384, 48),
            Self::Sha512 => (rfc5912::ID_SHA_512, 64),
        };
        [Some(Any::from(Null)), None].map(|parameters| {
            let hash = AlgorithmIdentifierOwned { oid, parameters };
            let mask_gen = AlgorithmIdentifierOwned {
                oid: rfc5912::ID_MGF_1,
                parameters: Some(Any::encode_from(&hash).expect("constant")),
            };
            RsaPssParams { hash, mask_gen, salt_length }.to_der().expect("constant")
        })
    }
}

/// A SubjectPublicKeyInfo for a key whose octets a backend gave us.
///
/// # Errors
/// [`PublicKeyError`] if the octets are no such key.
pub fn spki_from_octets(algorithm: KeyAlgorithm, octets: &[u8]) -> Result<PublicKey, PublicKeyError> {
    let curve = |oid: ObjectIdentifier| AlgorithmIdentifierOwned {
        oid: rfc5912::ID_EC_PUBLIC_KEY,
        parameters: Some(Any::from(oid)),
    };
    let identifier = match algorithm {
        KeyAlgorithm::EcP256 => curve(rfc5912::SECP_256_R_1),
        KeyAlgorithm::EcP384 => curve(rfc5912::SECP_384_R_1),
        KeyAlgorithm::Ed25519 => AlgorithmIdentifierOwned { oid: rfc8410::ID_ED_25519, parameters: None },
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
            AlgorithmIdentifierOwned { oid: rfc5912::RSA_ENCRYPTION, parameters: Some(Any::from(Null)) }
        }
    };
    let subject_public_key = BitString::from_bytes(octets).map_err(|_| PublicKeyError::Malformed)?;
    PublicKey::from_spki(&SubjectPublicKeyInfoOwned { algorithm: identifier, subject_public_key })
}
